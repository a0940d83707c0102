//! What do hosts hear about routers, and which networks do they join?
//!
//! A host routes for its own workloads, so it needs all that a packet of theirs may come to: every router
//! of its networks, the networks of those routers, and so on.

use std::{collections::BTreeSet, net::IpAddr, sync::Arc};

use hostconfig::{
    FloatingIp, Meter, Router,
    router::{Gateway, Interface, InterfaceAddr},
};
use net::{Id, ids::kind};

use super::intent::{HostName, Intent, Port, Subnet};

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
        gateway: gateway(intent, id),
        meters: meters(intent, router.project),
    })
}

/// What of a project's routers' traffic is counted; a label without rules counts nothing.
fn meters(intent: &Intent, project: Id<kind::Project>) -> Vec<Meter> {
    let labels = intent.labels_for(project).into_iter();
    let meters = labels.map(|label| Meter {
        label,
        rules: intent
            .label_rules(label)
            .map(|rule| rule.section.clone())
            .collect(),
    });
    meters.filter(|meter| !meter.rules.is_empty()).collect()
}

/// The subnets of a port's addresses, each with the address.
fn addresses<'a>(
    intent: &'a Intent,
    port: &'a hostconfig::Port,
) -> impl Iterator<Item = (IpAddr, &'a Arc<Subnet>)> {
    port.fixed_ips.iter().filter_map(|fixed| {
        let subnet = intent.subnets.get(&fixed.subnet);
        let subnet = subnet.filter(|subnet| subnet.network == port.network)?;
        Some((fixed.addr, subnet))
    })
}

fn interface_addrs(intent: &Intent, port: &hostconfig::Port) -> Vec<InterfaceAddr> {
    let addrs = addresses(intent, port).map(|(addr, subnet)| InterfaceAddr {
        addr,
        subnet: subnet.cidr,
    });
    addrs.collect()
}

fn interface(intent: &Intent, port: &Port) -> Interface {
    let port = &port.section;
    Interface {
        port: port.id,
        network: port.network,
        mac: port.mac,
        admin_up: port.admin_up,
        addrs: interface_addrs(intent, port),
        firewall: intent.firewall_of(port.id),
    }
}

/// A router's way out; where it is, if that host can have it.
fn gateway(intent: &Intent, router: Id<kind::Router>) -> Option<Gateway> {
    let (gateway, port) = intent.gateway(router)?;
    let section = &port.section;
    let nexthop = |v4: bool| {
        let hops = addresses(intent, section).filter_map(|(_, subnet)| subnet.gateway);
        hops.into_iter().find(|hop| hop.is_ipv4() == v4)
    };
    Some(Gateway {
        port: section.id,
        network: gateway.network,
        mac: section.mac,
        addrs: interface_addrs(intent, section),
        nexthops: [nexthop(true), nexthop(false)]
            .into_iter()
            .flatten()
            .collect(),
        snat: gateway.snat,
        at: intent.gateway_host(router).and_then(|host| host.vtep),
        movable: intent.is_movable(gateway, port),
        qos: intent.qos_outside(gateway.qos, gateway.network),
    })
}

/// A floating IP that somebody has, by a router that is there.
pub(super) fn floating_ip(intent: &Intent, id: Id<kind::FloatingIp>) -> Option<FloatingIp> {
    let floating = intent.floating_ips.get(&id)?;
    let router = floating.router?;
    intent.gateway(router)?;
    let holder = intent.ports.get(&floating.holder)?;
    let to = floating.to.filter(|to| intent.ports.contains_key(&to.port));
    if to.is_none() && floating.forwards.is_empty() {
        return None;
    }
    let seat = intent.seat(floating);
    Some(FloatingIp {
        id,
        project: floating.project,
        port: floating.holder,
        network: floating.network,
        addr: floating.addr,
        mac: holder.section.mac,
        router,
        to,
        forwards: floating.forwards.clone(),
        at: seat.and_then(|(host, _)| host.vtep),
        movable: seat.is_some_and(|(_, movable)| movable),
        qos: intent.qos_outside(floating.qos, floating.network),
    })
}

/// What a host needs besides for the outside: as if it had ports on these networks, with these routers, and with these floating IPs.
#[derive(Debug, Default)]
pub(super) struct Outside {
    pub(super) networks: BTreeSet<Id<kind::Network>>,
    pub(super) routers: BTreeSet<Id<kind::Router>>,
    pub(super) floating: BTreeSet<Id<kind::FloatingIp>>,
    pub(super) qos: BTreeSet<Id<kind::QosPolicy>>,
}

impl Outside {
    /// A port of the host: a gateway, whose host routes for all of the router's networks, or a workload with floating IPs.
    pub(super) fn add(&mut self, intent: &Intent, host: &HostName, port: &Port) {
        let id = port.section.id;
        if let Some(router) = port.gateway_of {
            let Some((gateway, own)) = intent.gateway(router) else {
                return;
            };
            if own.section.id == id {
                self.router(intent, router);
                self.networks.insert(gateway.network);
                self.qos
                    .extend(intent.qos_outside(gateway.qos, gateway.network));
                for floating in intent.floating_by.of(&router) {
                    self.floating.insert(*floating);
                    let floating = intent.floating_ips.get(floating);
                    self.qos
                        .extend(floating.and_then(|f| intent.qos_outside(f.qos, f.network)));
                }
            }
            return;
        }
        for floating in intent.floating_to.of(&id) {
            let Some(floating) = intent.floating_ips.get(floating) else {
                continue;
            };
            let (Some(router), Some(to)) = (floating.router, floating.to) else {
                continue;
            };
            if to.port != id || intent.gateway(router).is_none() {
                continue;
            }
            self.floating.insert(floating.id);
            self.qos
                .extend(intent.qos_outside(floating.qos, floating.network));
            self.router(intent, router);
            let here = intent
                .seat(floating)
                .is_some_and(|(seat, _)| seat.name == *host);
            if here && intent.networks.contains_key(&floating.network) {
                self.networks.insert(floating.network);
            }
        }
    }

    fn router(&mut self, intent: &Intent, router: Id<kind::Router>) {
        self.routers.insert(router);
        let joined = intent
            .interfaces_of(router)
            .map(|port| port.section.network);
        let joined = joined.filter(|network| intent.networks.contains_key(network));
        self.networks.extend(joined);
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
