//! Where does a router send a packet?
//!
//! Part of the walk: what came to a router's MAC address is for the router itself, goes on in another network (or the same one), or is
//! refused. Each switch routes what its own workloads send; what comes out of a tunnel was routed by its own.
//!
//! # References
//! RFC 1812 §5.2, §5.3; RFC 4291 §2.5.6; RFC 8200 §3.

use net::{Consumed, DropReason, Id, Origin, RouterId, flow_key::ethertype, ids::kind};
use overlay::{FdbEntry, Place};

use super::{
    flow::{Action, Refusal, RouterHop, Stage},
    tables::{
        Network, l2,
        l3::{Interface, Route, Router, Target},
    },
    walk::{MAX_FORWARDS, Walk, Witness},
};

impl<'a, W: Witness> Walk<'a, W> {
    /// A packet came to this router, at the interface of this port: the network in which it goes on, with the Ethernet addresses that
    /// it has there. `None`: it is answered.
    pub(super) fn route(
        &mut self,
        id: RouterId,
        port: Id<kind::Port>,
    ) -> Result<Option<&'a Network>, Refusal> {
        let refusal = |this: &Self, reason| this.about_sender(reason, Stage::L3);
        let router = self.tables.router(id);
        let found = router.and_then(|r| Some((r, r.interface(port)?)));
        let Some((router, (at, interface))) = found else {
            return Err(refusal(self, DropReason::PortGone));
        };
        if !matches!(self.flow.origin, Origin::Port(_)) {
            return Err(refusal(self, DropReason::SplitHorizon));
        }
        if !router.admin_up || !interface.admin_up {
            return Err(refusal(self, DropReason::AdminDown));
        }
        if !matches!(self.probe.ethertype(), ethertype::IPV4 | ethertype::IPV6) {
            return Err(refusal(self, DropReason::NoListener));
        }
        let route = router.route(self.probe);
        match route.map(|r| r.target) {
            Some(Target::Own) => return self.for_router(router),
            Some(Target::Martian) => return Err(refusal(self, DropReason::Martian)),
            Some(Target::Link(_) | Target::Via(..)) | None => {}
        }
        if router.is_martian(self.probe) {
            return Err(refusal(self, DropReason::Martian));
        }
        let hop = RouterHop {
            router: id,
            interface: at,
            to: None,
        };
        let out = route.and_then(|route| Some((route, interface_of(router, &route)?)));
        let Some((route, out)) = out else {
            self.flow.actions.push(Action::Route(hop));
            self.says(Stage::L3, || {
                format!("router {} ({}): no route", router.name, router.id)
            });
            return Err(refusal(self, DropReason::NoRoute));
        };
        let next = self.send_by(router, hop, &route, out)?;
        Ok(Some(next))
    }

    /// One of the router's own addresses: it answers pings, and nothing else.
    fn for_router(&mut self, router: &Router) -> Result<Option<&'a Network>, Refusal> {
        if !self.is_ping() {
            return Err(self.about_sender(DropReason::NoListener, Stage::L3));
        }
        self.flow.tracked = false;
        self.answers(Action::AnswerPing, Consumed::Icmp);
        let dst = self.probe.ip_dst();
        self.says(Stage::L3, || {
            format!(
                "router {} ({}): ping of its address {dst} answered",
                router.name, router.id
            )
        });
        Ok(None)
    }

    /// By an interface, to the next hop.
    fn send_by(
        &mut self,
        router: &Router,
        hop: RouterHop,
        route: &Route,
        out: &Interface,
    ) -> Result<&'a Network, Refusal> {
        let network = self.tables.network(out.network);
        if let Some(network) = network {
            self.depend(network.section);
        }
        let up = network.filter(|network| out.admin_up && network.admin_up);
        let Some(network) = up else {
            return Err(self.about_sender(DropReason::AdminDown, Stage::L3));
        };
        self.flow.actions.push(Action::Route(RouterHop {
            to: Some(network.dense),
            ..hop
        }));
        let (nexthop, by) = match route.target {
            Target::Via(_, addr) => (addr, "route"),
            Target::Link(_) | Target::Own | Target::Martian => (self.probe.ip_dst(), "subnet"),
        };
        let neighbour = network.neighbours.get(nexthop);
        if W::LISTENS {
            let mac = neighbour.map_or_else(|| "unknown".to_owned(), |n| n.mac.to_string());
            let before = self.probe.rewritten_key().ip_ttl;
            let passed = self.flow.forwards();
            let ttl = before.saturating_sub(passed.saturating_sub(1));
            self.witness.says(
                Stage::L3,
                format_args!(
                    "router {} ({}): {by} {} by interface {} on network {}, next hop {nexthop} ({mac}), ttl {ttl} -> {}",
                    router.name,
                    router.id,
                    route.destination,
                    out.port,
                    network.name,
                    ttl.saturating_sub(1),
                ),
            );
        }
        let Some(neighbour) = neighbour else {
            self.depend(network.members);
            return Err(self.about_sender(DropReason::UnknownNeighbor, Stage::L3));
        };
        let key = self.probe.rewritten_key();
        let sent = (key.src_mac(), key.dst_mac());
        self.routed.get_or_insert(sent);
        self.set_eth(Some(out.mac), Some(neighbour.mac));
        Ok(network)
    }

    /// Who is to get a packet, through whatever routers. Whoever may change without its forwarding is read.
    pub(super) fn far_end(&mut self, network: &'a Network) -> Option<(&'a Network, FdbEntry)> {
        let (mut network, mut mac) = (network, self.probe.eth_dst());
        for _ in 0..MAX_FORWARDS {
            let entry = network.fdb.get(mac);
            let section = entry.map_or(network.members, |e| l2::section(self.tables, network, &e));
            self.depend(section);
            let entry = entry?;
            let Place::Router(router) = entry.place else {
                return Some((network, entry));
            };
            let router = self.tables.router(router)?;
            let route = router.route(self.probe)?;
            let nexthop = match route.target {
                Target::Link(_) => self.probe.ip_dst(),
                Target::Via(_, addr) => addr,
                Target::Own | Target::Martian => return Some((network, entry)),
            };
            let next = self.tables.network(interface_of(router, &route)?.network)?;
            self.depend(next.section);
            let Some(neighbour) = next.neighbours.get(nexthop) else {
                self.depend(next.members);
                return None;
            };
            (network, mac) = (next, neighbour.mac);
        }
        None
    }
}

/// The interface by which a route leads on.
fn interface_of<'r>(router: &'r Router, route: &Route) -> Option<&'r Interface> {
    match route.target {
        Target::Link(at) | Target::Via(at, _) => router.interfaces.get(usize::from(at)),
        Target::Own | Target::Martian => None,
    }
}
