//! Whose members are down because their host is gone?
//!
//! A member is asked by the host of its port ([ADR 20](../../../docs/adr/0020-monitors-by-the-members-host.md)), so nobody would say that one whose host
//! is gone serves no more. That it is gone is known as of gateways: what has monitored members is asked as often as what has gateways, and
//! takes as long to be given up. What a host that comes back finds itself holds again: the verdict changed the chain, so it says anew all that it knows.
//!
//! # Invariants
//! - Only members at ports that a host has are spoken of, and none of a host without an agent (foreign).
//!
//! # Cost
//! A beat looks at the hosts that have such members. Who they are is found again by a tick behind commits: while there are monitors, a
//! walk over the ports of the networks that their virtual addresses reach.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::IpAddr,
    time::Duration,
};

use net::{Id, Now, ids::kind};
use uuid::Uuid;

use crate::{
    compile::{
        chain::target,
        intent::{HostName, Intent, Work},
    },
    resources::lbaas::health_monitor::Verdict,
};

/// What the store refused is said again so often.
const AGAIN: Duration = Duration::from_secs(10);

/// A monitor and a member.
type Key = (Uuid, Uuid);
type Places = HashMap<IpAddr, HostName>;

/// The monitored members of hosts.
#[derive(Debug, Default)]
pub(super) struct Members {
    at: BTreeMap<HostName, BTreeSet<Key>>,
    /// Was anything committed since they were found?
    stale: bool,
    /// What was said of hosts that are gone, and when.
    said: BTreeMap<HostName, (BTreeSet<Key>, Now)>,
}

impl Members {
    /// Something was committed.
    pub(super) fn touched(&mut self) {
        self.stale = true;
    }

    /// Finds them again, if need be.
    pub(super) fn find(&mut self, intent: &Intent) {
        if std::mem::take(&mut self.stale) {
            self.at = found(intent);
            self.said.retain(|host, _| self.at.contains_key(host));
        }
    }

    /// The hosts that have any.
    pub(super) fn hosts(&self) -> impl Iterator<Item = &HostName> {
        self.at.keys()
    }

    /// What is to be said, of hosts that are gone.
    pub(super) fn verdicts(
        &mut self,
        is_gone: impl Fn(&HostName) -> bool,
        now: Now,
    ) -> Vec<Verdict> {
        let mut verdicts = Vec::new();
        for (host, keys) in &self.at {
            if !is_gone(host) {
                self.said.remove(host);
                continue;
            }
            let said = self.said.get(host);
            if said.is_some_and(|(said, at)| said == keys && now.since(*at) < AGAIN) {
                continue;
            }
            self.said.insert(host.clone(), (keys.clone(), now));
            verdicts.extend(keys.iter().map(|(monitor, member)| Verdict {
                monitor: *monitor,
                member: *member,
                serves: false,
            }));
        }
        verdicts
    }
}

fn found(intent: &Intent) -> BTreeMap<HostName, BTreeSet<Key>> {
    let mut at: BTreeMap<HostName, BTreeSet<Key>> = BTreeMap::new();
    let mut places: BTreeMap<Id<kind::Network>, Places> = BTreeMap::new();
    for function in intent.functions.values() {
        let Some(Work::LoadBalancer(balancer)) = &function.work else {
            continue;
        };
        let holder = intent.ports.get(&balancer.vip_port);
        let (Some(monitor), Some(holder)) = (&balancer.monitor, holder) else {
            continue;
        };
        let networks = reached(intent, holder.section.network);
        for network in &networks {
            let of = || of_network(intent, *network);
            places.entry(*network).or_insert_with(of);
        }
        for member in &balancer.members {
            // What is complained of is said where the chain is compiled.
            let (like, holder) = (balancer.vip, balancer.vip_port);
            let found = target(intent, member.target, like, holder, &mut Vec::new());
            let Some((id, address)) = found else {
                continue;
            };
            let mut networks = networks.iter().filter_map(|network| places.get(network));
            if let Some(host) = networks.find_map(|places| places.get(&address)) {
                let key = (monitor.id.uuid(), id.uuid());
                at.entry(host.clone()).or_default().insert(key);
            }
        }
    }
    at
}

/// The virtual address's network, and then those that a router joins with it.
fn reached(intent: &Intent, network: Id<kind::Network>) -> Vec<Id<kind::Network>> {
    let mut routers = intent.routers_on(network);
    routers.retain(|id| intent.routers.get(id).is_some_and(|r| r.admin_up));
    let interfaces = routers
        .iter()
        .flat_map(|router| intent.interfaces_of(*router));
    let joined = interfaces.map(|port| port.section.network);
    let mut all = vec![network];
    for network in joined {
        if !all.contains(&network) {
            all.push(network);
        }
    }
    all
}

/// Which host has which address of a network.
fn of_network(intent: &Intent, network: Id<kind::Network>) -> Places {
    let mut places = Places::new();
    for port in intent.ports_on(network) {
        let Some(host) = &port.host else {
            continue;
        };
        if intent.host(host).is_some_and(|record| record.foreign) {
            continue;
        }
        for ip in &port.section.fixed_ips {
            places.entry(ip.addr).or_insert_with(|| host.clone());
        }
    }
    places
}
