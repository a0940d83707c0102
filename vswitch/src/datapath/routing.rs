//! Where does a router send a packet?
//!
//! Part of the walk: what came to a router's MAC address is for the router itself, goes on in another network (or the same one), or is
//! refused. Each switch routes what its own workloads send; what comes out of a tunnel was routed by its own, but for what leaves the fabric or
//! comes into it here ([`external`](super::external)).
//!
//! # References
//! RFC 1812 §5.2, §5.3; RFC 4291 §2.5.6; RFC 8200 §3.

use std::net::IpAddr;

use hostconfig::group::Direction;
use net::{Consumed, DropReason, Id, Mac, Origin, Probe, RouterId, flow_key::ethertype, ids::kind};
use overlay::{FdbEntry, Place};
use smallvec::SmallVec;

use super::{
    flow::{Action, Refusal, RouterHop, Stage},
    neighbours::Speaker,
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
        if let Some((floating, router)) = self.tables.floating().of_port(port).zip(router) {
            return self.come_to_floating(router, floating);
        }
        let found = router.and_then(|r| Some((r, r.interface(port)?)));
        let Some((router, (at, interface))) = found else {
            return Err(refusal(self, DropReason::PortGone));
        };
        if let Some(back) = self.way_back(router, interface) {
            return Ok(Some(back));
        }
        if self.is_unrouted() && router.gateway.is_none() {
            return Err(refusal(self, DropReason::SplitHorizon));
        }
        if !router.admin_up || !interface.admin_up {
            return Err(refusal(self, DropReason::AdminDown));
        }
        if !matches!(self.probe.ethertype(), ethertype::IPV4 | ethertype::IPV6) {
            return Err(refusal(self, DropReason::NoListener));
        }
        let route = router.route(self.probe);
        if self.is_unrouted() && !self.may_route(router, interface, route.as_ref()) {
            return Err(refusal(self, DropReason::SplitHorizon));
        }
        if let Some(gateway) = router.gateway_here().filter(|_| interface.outside) {
            self.come_in(router, gateway, route.as_ref())?;
        }
        match route.map(|r| r.target) {
            Some(Target::Own) => return self.for_router(router),
            Some(Target::Martian) => return Err(refusal(self, DropReason::Martian)),
            Some(Target::Link(_) | Target::Via(..) | Target::Outside(_)) | None => {}
        }
        if router.is_martian(self.probe) {
            return Err(refusal(self, DropReason::Martian));
        }
        let hop = RouterHop {
            router: id,
            interface: at,
            to: None,
        };
        self.fence(router, interface, Direction::Egress)
            .inspect_err(|_| self.flow.actions.push(Action::Route(hop)))?;
        if let Some(route) = route.filter(|r| matches!(r.target, Target::Outside(_))) {
            return self.go_out(router, hop, &route, interface.network);
        }
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
    pub(super) fn send_by(
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
        self.fence(router, out, Direction::Ingress)?;
        let (nexthop, by) = match route.target {
            Target::Via(_, addr) | Target::Outside(Some(addr)) => (addr, "route"),
            Target::Link(_) | Target::Outside(None) | Target::Own | Target::Martian => {
                (self.probe.ip_dst(), "subnet")
            }
        };
        let neighbour = self.resolve(network, out, nexthop);
        if W::LISTENS {
            let mac = match neighbour {
                Ok(mac) => mac.to_string(),
                Err(DropReason::NeighbourUnresolved) => "is asked for".to_owned(),
                Err(_) => "unknown".to_owned(),
            };
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
        let neighbour = neighbour.map_err(|reason| self.about_sender(reason, Stage::L3))?;
        let key = self.probe.rewritten_key();
        let sent = (key.src_mac(), key.dst_mac());
        self.routed.get_or_insert(sent);
        self.set_eth(Some(out.mac), Some(neighbour));
        Ok(network)
    }

    /// Who has the address of a next hop: whoever the controller told of; outside, on a wire, whoever answers for it.
    fn resolve(
        &mut self,
        network: &Network,
        out: &Interface,
        nexthop: IpAddr,
    ) -> Result<Mac, DropReason> {
        if let Some(known) = network.neighbours.get(nexthop) {
            return Ok(known.mac);
        }
        self.depend(network.members);
        let outside = network.wire.is_some() && out.outside;
        let mac = out.mac;
        match out.speaker(nexthop).filter(|_| outside) {
            Some(addr) => self.ask_outside(network, nexthop, Speaker { mac, addr }),
            None => Err(DropReason::UnknownNeighbor),
        }
    }

    /// Who is to get a packet, through whatever routers. Whoever may change without its forwarding is read.
    pub(super) fn far_end(&mut self, network: &'a Network) -> Option<(&'a Network, FdbEntry)> {
        let mac = self.probe.eth_dst();
        let route = |probe: &mut Probe, router: &Router| router.route(probe);
        self.follow((network, mac), route, Probe::ip_dst)
    }

    /// Who is behind an Ethernet address, through whatever routers, as `route` says of each of them for the address `to`.
    fn follow(
        &mut self,
        (mut network, mut mac): (&'a Network, Mac),
        route: impl Fn(&mut Probe, &Router) -> Option<Route>,
        to: impl Fn(&mut Probe) -> IpAddr,
    ) -> Option<(&'a Network, FdbEntry)> {
        for _ in 0..MAX_FORWARDS {
            let entry = network.fdb.get(mac);
            let section = entry.map_or(network.members, |e| l2::section(self.tables, network, &e));
            self.depend(section);
            let entry = entry?;
            let Place::Router(router) = entry.place else {
                return Some((network, entry));
            };
            let router = self.tables.router(router)?;
            let route = route(self.probe, router)?;
            let nexthop = match route.target {
                Target::Link(_) => to(self.probe),
                Target::Via(_, addr) => addr,
                Target::Own | Target::Martian => return Some((network, entry)),
                // Who is outside is nobody's port.
                Target::Outside(_) => return None,
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

    /// The routers of a network that lead to an address, by their Ethernet addresses on it: a subnet's gateway first, then in the order of
    /// their ids. What each router of the network is like is read.
    pub(super) fn routers_to(&mut self, network: &Network, addr: IpAddr) -> SmallVec<[Mac; 4]> {
        self.depend(network.members);
        let tables = self.tables;
        let is_gateway = |a: IpAddr| network.subnets.iter().any(|s| s.gateway == Some(a));
        let mut found: SmallVec<[_; 4]> = SmallVec::new();
        for router in tables.routers() {
            let mut own = router
                .interfaces
                .iter()
                .filter(|i| i.network == network.dense);
            if own.clone().next().is_none() {
                continue;
            }
            self.depend(router.section);
            let target = router.route_to(addr).map(|r| r.target);
            let leads = matches!(target, Some(Target::Link(_) | Target::Via(..)));
            let of_family = |i: &&Interface| {
                let mut addrs = i.addrs.iter();
                i.admin_up && addrs.any(|(a, _)| a.is_ipv4() == addr.is_ipv4())
            };
            if let Some(interface) = own.find(of_family)
                && router.admin_up
                && leads
            {
                let gateway = interface.addrs.iter().any(|(a, _)| is_gateway(*a));
                found.push((!gateway, router.id, interface.mac));
            }
        }
        found.sort_unstable();
        found.into_iter().map(|(_, _, mac)| mac).collect()
    }

    /// Is what came out of a tunnel from a hidden source behind a router? That shows its client's Ethernet address, marked.
    pub(super) fn is_routed_source(&mut self, network: &Network) -> bool {
        matches!(self.flow.origin, Origin::Tunnel(_))
            && self.probe.eth_src().is_multicast()
            && !network.subnets.iter().any(|s| self.probe.ip_src_in(s.cidr))
    }

    /// The Ethernet address on this network of the router behind which the packet's source is a virtual address.
    pub(super) fn routed_source(&mut self, network: &'a Network) -> Option<Mac> {
        let src = self.probe.ip_src();
        let route = |_: &mut Probe, router: &Router| router.route_to(src);
        for mac in self.routers_to(network, src) {
            let end = self.follow((network, mac), route, |_| src);
            if end.is_some_and(|(_, entry)| entry.place == Place::Virtual) {
                return Some(mac);
            }
        }
        None
    }
}

/// The interface by which a route leads on, inside.
pub(super) fn interface_of<'r>(router: &'r Router, route: &Route) -> Option<&'r Interface> {
    match route.target {
        Target::Link(at) | Target::Via(at, _) => router.interfaces.get(usize::from(at)),
        Target::Outside(_) | Target::Own | Target::Martian => None,
    }
}
