//! Which host has which load balancer's proxy?
//!
//! The choice is the proxy port's host in the store ([ADR 24](../../../docs/adr/0024-l7-by-a-proxy.md)). It is made among the hosts that have the program, are here and in
//! service, evenly, and kept while its host is one of them; a host that is gone, as of gateways, loses its proxies to others. Nothing is leased: frames go to where the store says.
//!
//! # Cost
//! A beat and a tick look at all proxies.

use std::collections::BTreeMap;

use net::{Id, Now, ids::kind};
use uuid::Uuid;

use super::{
    publish::Live,
    schedule::{ASKED, Schedule, is_here},
};
use crate::compile::intent::{Host, HostName, Intent, Port, Proxy};

type Sessions = BTreeMap<HostName, Live>;

/// Where a proxy is to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seating {
    /// Whose proxy.
    pub load_balancer: Uuid,
    /// Its port.
    pub port: Id<kind::Port>,
    /// Where it must be still.
    pub from: Option<HostName>,
    /// Where it is to be.
    pub to: Option<HostName>,
}

/// What was asked for.
#[derive(Debug, Default)]
pub(super) struct Proxies {
    asked: BTreeMap<Id<kind::Port>, (Option<HostName>, Now)>,
}

impl Proxies {
    /// The hosts that have any.
    pub(super) fn hosts(intent: &Intent) -> impl Iterator<Item = &HostName> {
        ports(intent).filter_map(|(_, port)| port.host.as_ref())
    }

    /// What has been asked for has happened, or something else.
    pub(super) fn seen<'p>(&mut self, ports: impl IntoIterator<Item = &'p Id<kind::Port>>) {
        if !self.asked.is_empty() {
            for port in ports {
                self.asked.remove(port);
            }
        }
    }

    /// All that are to be elsewhere.
    pub(super) fn seatings(
        &mut self,
        intent: &Intent,
        (live, schedule): (&Sessions, &Schedule),
        now: Now,
    ) -> Vec<Seating> {
        self.asked
            .retain(|port, (_, at)| intent.proxy(*port).is_some() && now.since(*at) < ASKED);
        let mut seatings = Vec::new();
        for (proxy, port) in ports(intent) {
            let id = port.section.id;
            if self.asked.contains_key(&id) {
                continue;
            }
            let from = port.host.clone();
            let record = from.as_ref().and_then(|host| intent.host(host));
            let able = record.is_some_and(|host| host.proxies && !host.foreign);
            let stays = record.is_some_and(|host| {
                able && host.in_service && !schedule.is_gone(&host.name, live, now)
            });
            if stays {
                continue;
            }
            let to = match self.choice(intent, live) {
                // Nobody else can: who could when it comes back, or is in service again, keeps it.
                None if able => continue,
                to => to,
            };
            if to != from {
                self.asked.insert(id, (to.clone(), now));
                let (load_balancer, port) = (proxy.id, id);
                seatings.push(Seating {
                    load_balancer,
                    port,
                    from,
                    to,
                });
            }
        }
        seatings
    }

    /// The host with the fewest proxies of those that can have one.
    fn choice(&self, intent: &Intent, live: &Sessions) -> Option<HostName> {
        let mut load: BTreeMap<&HostName, usize> = BTreeMap::new();
        let asked = self.asked.values().filter_map(|(to, _)| to.as_ref());
        for host in Self::hosts(intent).chain(asked) {
            *load.entry(host).or_default() += 1;
        }
        let can = |host: &&Host| {
            host.proxies && host.in_service && !host.foreign && is_here(&host.name, live)
        };
        let hosts = intent.all_hosts().filter(can);
        let load = |host: &Host| load.get(&host.name).copied().unwrap_or_default();
        let best = hosts.min_by_key(|host| (load(host), host.name.clone()))?;
        Some(best.name.clone())
    }
}

/// Proxies whose ports are there.
fn ports(intent: &Intent) -> impl Iterator<Item = (&Proxy, &Port)> {
    let proxies = intent.proxies.values();
    proxies.filter_map(|proxy| {
        let port = intent.port(proxy.section.port)?;
        Some((proxy.as_ref(), port.as_ref()))
    })
}
