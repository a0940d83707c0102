//! What did routers count under their labels?
//!
//! What hosts said last, summed up; made for each answer, no objects of their own.

use crate::{
    api::{Api, error::respond, query},
    refusal::Refusal,
    resource::Objects,
    resources::{MeteringLabel, Router},
    rules::{Caller, usable},
    status::Sum,
    store::Snapshot,
};
use axum::{
    body::Body,
    extract::State,
    http::{Request, Response, StatusCode},
};
use serde_json::{Map, Value, json};
use uuid::Uuid;

/// The fields of a row.
pub(super) const FIELDS: &[&str] = &[
    "metering_label_id",
    "router_id",
    "project_id",
    "tenant_id",
    "packets",
    "bytes",
];

/// A sum of a label that the caller sees, of a router of its own.
fn row(
    snapshot: &Snapshot,
    caller: &Caller,
    (label, router): (Uuid, Uuid),
    sum: Sum,
) -> Option<Map<String, Value>> {
    let label = snapshot.object::<MeteringLabel>(label)?;
    let router = snapshot.object::<Router>(router)?;
    let project = &router.meta.project_id;
    if !usable(snapshot, &*label, caller) || !caller.owns(project) {
        return None;
    }
    let values = [
        json!(label.meta.id),
        json!(router.meta.id),
        json!(project),
        json!(project),
        json!(sum.packets),
        json!(sum.bytes),
    ];
    let names = FIELDS.iter().map(|name| (*name).to_owned());
    Some(names.zip(values).collect())
}

/// GET /v2.0/overweave/metering-sums
pub(super) async fn list(State(api): State<Api>, request: Request<Body>) -> Response<Body> {
    let get = api.get(request, |asked| {
        if asked.caller.roles.is_empty() {
            return Err(Refusal::denied("rule:get_metering_sum").into());
        }
        let snapshot = api.core.store.snapshot();
        let sums = api.core.status.meters().into_iter();
        let rows = sums.filter_map(|(key, sum)| row(&snapshot, &asked.caller, key, sum));
        let rows = query::rows(&asked.pairs, |name| FIELDS.contains(&name), rows.collect())?;
        Ok(respond(StatusCode::OK, &json!({"metering_sums": rows})))
    });
    get.await
}
