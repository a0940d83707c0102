//! What do hosts hear about routers, and which networks do they join?
//!
//! A host routes for its own workloads, so it needs all that a packet of theirs may come to: every router
//! of its networks, the networks of those routers, and so on.

use std::collections::BTreeSet;

use hostconfig::{
    Router,
    router::{Interface, InterfaceAddr},
};
use net::{Id, ids::kind};

use super::intent::{Intent, Port};

/// A router with its interfaces, by port. One on a network that is gone is left out.
pub(super) fn router(intent: &Intent, id: Id<kind::Router>) -> Option<Router> {
    let router = intent.routers.get(&id)?;
    let interfaces = intent
        .interfaces_of(id)
        .filter(|port| intent.networks.contains_key(&port.section.network));
    Some(Router {
        id,
        name: router.name.clone(),
        project: router.project,
        admin_up: router.admin_up,
        interfaces: interfaces.map(|port| interface(intent, port)).collect(),
        routes: router.routes.clone(),
        gateway: None,
    })
}

fn interface(intent: &Intent, port: &Port) -> Interface {
    let port = &port.section;
    let addrs = port.fixed_ips.iter().filter_map(|fixed| {
        let subnet = intent.subnets.get(&fixed.subnet);
        let subnet = subnet.filter(|subnet| subnet.network == port.network)?;
        Some(InterfaceAddr {
            addr: fixed.addr,
            subnet: subnet.cidr,
        })
    });
    Interface {
        port: port.id,
        network: port.network,
        mac: port.mac,
        admin_up: port.admin_up,
        addrs: addrs.collect(),
    }
}

/// The routers that are reached from these networks, and all networks that they join, these among them.
pub(super) fn reach(
    intent: &Intent,
    from: BTreeSet<Id<kind::Network>>,
) -> (BTreeSet<Id<kind::Router>>, BTreeSet<Id<kind::Network>>) {
    let mut routers = BTreeSet::new();
    let mut networks = from.clone();
    let mut open: Vec<Id<kind::Network>> = from.into_iter().collect();
    while let Some(network) = open.pop() {
        for router in intent.routers_on(network) {
            if !intent.routers.contains_key(&router) || !routers.insert(router) {
                continue;
            }
            let joined = intent
                .interfaces_of(router)
                .map(|port| port.section.network);
            for other in joined.filter(|id| intent.networks.contains_key(id)) {
                if networks.insert(other) {
                    open.push(other);
                }
            }
        }
    }
    (routers, networks)
}
