//! What do the references of a request's listeners lead to?
//!
//! Read before the transaction, since it may take long; the rules find it in their moment. One request reads at a time: whoever names what is slow to read
//! holds up others that name references, and nobody else.

use super::Api;
use crate::{
    keys::Bundles,
    resource::Objects as _,
    resources::{Listener, LoadBalancer, lbaas::tls},
    rules::{Caller, Occasion},
};
use serde_json::{Map, Value};
use std::{collections::BTreeSet, sync::Arc};
use uuid::Uuid;

/// References of a request; those beyond lead nowhere.
const MOST: usize = 256;

impl Api {
    /// The occasion of a request that makes or changes listeners: these, as it says them, and the one that is there.
    pub(super) async fn occasion_of<'a>(
        &self,
        caller: &Caller,
        said: impl Iterator<Item = &'a Map<String, Value>>,
        there: Option<Uuid>,
    ) -> Occasion {
        let occasion = self.core.occasion();
        let Some(keyring) = self.core.facts.keyring.clone() else {
            return occasion;
        };
        let snapshot = self.core.store.snapshot();
        let mut named = BTreeSet::new();
        for said in said {
            let balancer = said.get("loadbalancer_id").and_then(Value::as_str);
            let balancer = balancer.and_then(|id| id.parse().ok());
            let balancer = balancer.and_then(|id| snapshot.object::<LoadBalancer>(id));
            let listener = there.and_then(|id| snapshot.object::<Listener>(id));
            let projects = [
                Some(caller.project_id.clone()),
                said.get("project_id")
                    .and_then(Value::as_str)
                    .map(str::to_owned),
                balancer.map(|balancer| balancer.meta.project_id.clone()),
                listener.map(|listener| listener.meta.project_id.clone()),
            ];
            for project in projects.into_iter().flatten() {
                if caller.owns(&project) {
                    let references = tls::references(said).map(str::to_owned);
                    named.extend(references.map(|reference| (project.clone(), reference)));
                }
            }
        }
        if named.is_empty() {
            return occasion;
        }
        let Ok(turn) = Arc::clone(&self.bundles).acquire_owned().await else {
            return occasion;
        };
        let now = occasion.now;
        let work = move || {
            let _turn = turn;
            let named = named.into_iter().take(MOST);
            Bundles::read(&snapshot, &keyring, named, now)
        };
        match tokio::task::spawn_blocking(work).await {
            Ok(bundles) => Occasion {
                bundles: Arc::new(bundles),
                ..occasion
            },
            Err(_) => occasion,
        }
    }
}
