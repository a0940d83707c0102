//! Which hosts of appliances are gone?
//!
//! The homes of connections send to the host of an appliance ([ADR 23](../../../docs/adr/0023-chain-transport.md)), and would not learn that it is no
//! more. That it is gone is known as of gateways ([`super::schedule`]), and written into its record, from which the compiler says that its pairs are
//! down; once it is back that is taken out.
//!
//! # Invariants
//! - Only hosts of pairs are spoken of, none without an agent (foreign), and those of which it was said.
//!
//! # Cost
//! A beat looks at these hosts. Who they are is found again by a tick behind commits: a walk over functions and hosts.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use net::{Id, Now, ids::kind};

use crate::{
    compile::intent::{HostName, Intent, Work, appliance_ports},
    resources::lbaas::health_monitor::Verdict,
};

/// What the store did not do is asked for again so often.
const AGAIN: Duration = Duration::from_secs(10);

/// A host's record is to say that it is gone, or is back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lost {
    /// Whose.
    pub host: Id<kind::Host>,
    /// Is it gone?
    pub lost: bool,
}

/// The hosts of appliances.
#[derive(Debug, Default)]
pub(super) struct Appliances {
    at: BTreeSet<HostName>,
    /// Was anything committed since they were found?
    stale: bool,
    /// What was asked for, and when.
    asked: BTreeMap<HostName, (bool, Now)>,
}

impl Appliances {
    /// Something was committed.
    pub(super) fn touched(&mut self) {
        self.stale = true;
    }

    /// Finds them again, if need be.
    pub(super) fn find(&mut self, intent: &Intent) {
        if std::mem::take(&mut self.stale) {
            self.at = found(intent);
            self.asked.retain(|host, _| self.at.contains(host));
        }
    }

    /// The hosts that have any.
    pub(super) fn hosts(&self) -> impl Iterator<Item = &HostName> {
        self.at.iter()
    }

    /// What records are to say otherwise.
    pub(super) fn news(
        &mut self,
        intent: &Intent,
        is_gone: impl Fn(&HostName) -> bool,
        now: Now,
    ) -> Vec<Lost> {
        let mut news = Vec::new();
        for name in &self.at {
            let Some(record) = intent.host(name).filter(|record| !record.foreign) else {
                continue;
            };
            let lost = is_gone(name);
            if lost == record.lost {
                self.asked.remove(name);
                continue;
            }
            let asked = self.asked.get(name);
            if asked.is_some_and(|(said, at)| *said == lost && now.since(*at) < AGAIN) {
                continue;
            }
            self.asked.insert(name.clone(), (lost, now));
            let host = record.id;
            news.push(Lost { host, lost });
        }
        news
    }
}

/// May the host say this? Of a pair only one that has a port of it: nobody else asks it. Of members nothing is known here.
pub(super) fn may_say(intent: &Intent, host: &HostName, verdict: &Verdict) -> bool {
    let function = intent.functions.get(&verdict.monitor.into());
    let Some(Work::Appliance(appliance)) = function.and_then(|function| function.work.as_ref())
    else {
        return true;
    };
    let mut instances = appliance.instances.iter();
    let pair = instances.find(|instance| instance.id.uuid() == verdict.member);
    pair.is_some_and(|pair| {
        [pair.ingress, pair.egress].iter().any(|port| {
            let port = intent.ports.get(port);
            port.is_some_and(|port| port.host.as_ref() == Some(host))
        })
    })
}

fn found(intent: &Intent) -> BTreeSet<HostName> {
    let functions = intent.functions.values();
    let ports = functions.flat_map(|function| appliance_ports(function));
    let hosts = ports.filter_map(|id| intent.ports.get(&id)?.host.clone());
    let said = intent.hosts.values().filter(|host| host.lost);
    hosts.chain(said.map(|host| host.name.clone())).collect()
}
