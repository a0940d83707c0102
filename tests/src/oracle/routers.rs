//! Where do routers send a packet?
//!
//! The oracle's own reading of routes: every one is compared, each time.

use std::net::{IpAddr, Ipv4Addr};

use hostconfig::{
    Location, Router, Section,
    router::{Interface, InterfaceAddr},
};
use net::{
    DropReason, FlowKey, Fragment, Mac, Prefix,
    flow_key::{ethertype, proto},
};

use super::{End, Host, NetId, Place, PortUuid};

/// How often a packet is sent on at most.
pub(super) const FORWARDS: usize = 8;

/// A router that a packet came to.
#[derive(Debug, Clone)]
pub(super) struct Passed {
    /// The interface at which.
    by: Interface,
    /// The MTU of the network in which it sent the packet on, if it did.
    pub(super) onwards: Option<u16>,
}

/// The routers that a packet came to, in order.
pub(super) type Trail = Vec<Passed>;

impl Passed {
    /// Its address for this sender.
    pub(super) fn name(&self, sender: IpAddr) -> Option<IpAddr> {
        let mut own: Vec<&InterfaceAddr> = self.by.addrs.iter().collect();
        own.retain(|a| a.addr.is_ipv4() == sender.is_ipv4());
        let near = own.iter().find(|a| a.subnet.contains(sender));
        let any = near.or_else(|| own.first()).map(|a| a.addr);
        any.or_else(|| sender.is_ipv6().then(|| link_local(&self.by)))
    }
}

/// The router at which a packet of this TTL ends.
pub(super) fn expires(trail: &Trail, ttl: u8) -> Option<&Passed> {
    let mut left = ttl;
    for router in trail.iter().filter(|r| r.onwards.is_some()) {
        if left <= 1 {
            return Some(router);
        }
        left -= 1;
    }
    None
}

fn link_local(interface: &Interface) -> IpAddr {
    IpAddr::V6(interface.mac.get().link_local())
}

fn own_addresses(interface: &Interface) -> Vec<IpAddr> {
    let mut all: Vec<_> = interface.addrs.iter().map(|a| a.addr).collect();
    if all.iter().any(IpAddr::is_ipv6) {
        all.push(link_local(interface));
    }
    all
}

fn martian(addr: IpAddr) -> bool {
    match addr {
        IpAddr::V4(a) => {
            let [first, ..] = a.octets();
            first == 0
                || a.is_loopback()
                || a.is_link_local()
                || a.is_multicast()
                || a == Ipv4Addr::BROADCAST
        }
        IpAddr::V6(a) => {
            a.is_unspecified() || a.is_loopback() || a.is_multicast() || a.is_unicast_link_local()
        }
    }
}

/// Where a route leads: by this interface, to this address.
struct Hop {
    out: Interface,
    to: IpAddr,
}

impl Host {
    pub(super) fn routers(&self) -> impl Iterator<Item = &Router> {
        self.bodies().filter_map(|s| match s {
            Section::Router(r) => Some(r),
            _ => None,
        })
    }

    /// The interfaces of a router on networks that are here.
    fn interfaces<'a>(&'a self, router: &'a Router) -> impl Iterator<Item = &'a Interface> {
        router
            .interfaces
            .iter()
            .filter(|i| self.network(i.network).is_some())
    }

    /// The router that has a MAC address on a network.
    pub(super) fn router_of(&self, network: NetId, mac: Mac) -> Option<(&Router, &Interface)> {
        self.routers().find_map(|router| {
            let is = |i: &&Interface| i.network == network && i.mac.get() == mac;
            Some((router, self.interfaces(router).find(is)?))
        })
    }

    /// The router's interface that has an address on a network: its port and MAC address.
    pub(super) fn router_at(&self, network: NetId, addr: IpAddr) -> Option<(PortUuid, Mac)> {
        let mut all = self.routers().flat_map(|r| &r.interfaces);
        let is = |i: &&Interface| i.network == network && own_addresses(i).contains(&addr);
        all.find(is).map(|i| (i.port, i.mac.get()))
    }

    /// The longest route to an address.
    fn longest(&self, router: &Router, dst: IpAddr) -> Option<Hop> {
        let mut best: Option<(u8, Hop)> = None;
        let mut offer = |prefix: Prefix, out: &Interface, to: IpAddr| {
            let longer = best.as_ref().is_none_or(|(bits, _)| prefix.bits() > *bits);
            if prefix.contains(dst) && longer {
                let out = out.clone();
                best = Some((prefix.bits(), Hop { out, to }));
            }
        };
        for interface in self.interfaces(router) {
            for addr in &interface.addrs {
                offer(addr.subnet, interface, dst);
            }
        }
        for route in &router.routes {
            let family = route.destination.is_ipv4() == route.nexthop.is_ipv4();
            let local = martian(route.destination.addr()) && route.destination.bits() >= 10;
            let mut near: Option<(u8, &Interface)> = None;
            for interface in self.interfaces(router) {
                for addr in &interface.addrs {
                    let longer = near.is_none_or(|(bits, _)| addr.subnet.bits() > bits);
                    if addr.subnet.contains(route.nexthop) && longer {
                        near = Some((addr.subnet.bits(), interface));
                    }
                }
            }
            if let (true, false, Some((_, out))) = (family, local, near) {
                offer(route.destination, out, route.nexthop);
            }
        }
        best.map(|(_, hop)| hop)
    }

    fn is_own(&self, router: &Router, dst: IpAddr) -> bool {
        let mut all = self.interfaces(router);
        all.any(|i| own_addresses(i).contains(&dst))
    }

    /// Who has an address on a network.
    fn neighbour(&self, network: NetId, addr: IpAddr) -> Option<Mac> {
        let router = self.router_at(network, addr).map(|(_, mac)| mac);
        router.or_else(|| {
            let mac = self.mac_of(network, addr);
            (mac != Mac::ZERO).then_some(mac)
        })
    }

    /// Sends a packet on until it is where it stays: the network, and the place there. It gets the Ethernet addresses that it has there.
    pub(super) fn route(
        &self,
        origin: Option<PortUuid>,
        mut network: NetId,
        key: &mut FlowKey,
        trail: &mut Trail,
    ) -> Result<(NetId, Place), DropReason> {
        for _ in 0..FORWARDS {
            let mac = key.dst_mac();
            let Some((router, interface)) = self.router_of(network, mac) else {
                let place = self.place(network, mac);
                return Ok((network, place.ok_or(DropReason::UnknownUnicast)?));
            };
            if origin.is_none() {
                return Err(DropReason::SplitHorizon);
            }
            if !router.admin_up || !interface.admin_up {
                return Err(DropReason::AdminDown);
            }
            if !key.is_ip() {
                return Err(DropReason::NoListener);
            }
            let (src, dst) = (key.src_addr(), key.dst_addr());
            if self.is_own(router, dst) {
                let echo = match key.ip_proto {
                    proto::ICMP if key.ethertype == ethertype::IPV4 => key.l4_src == 8,
                    proto::ICMP6 if key.ethertype == ethertype::IPV6 => key.l4_src == 128,
                    _ => false,
                };
                return if echo && key.ip_frag == Fragment::Whole as u8 {
                    Ok((network, Place::Router))
                } else {
                    Err(DropReason::NoListener)
                };
            }
            if martian(dst) || martian(src) {
                return Err(DropReason::Martian);
            }
            let mut passed = Passed {
                by: interface.clone(),
                onwards: None,
            };
            let Some(hop) = self.longest(router, dst) else {
                trail.push(passed);
                return Err(DropReason::NoRoute);
            };
            let out = self.network(hop.out.network).unwrap();
            if !hop.out.admin_up || !out.admin_up {
                return Err(DropReason::AdminDown);
            }
            passed.onwards = Some(out.mtu.get());
            trail.push(passed);
            let next = self.neighbour(out.id, hop.to);
            let next = next.ok_or(DropReason::UnknownNeighbor)?;
            key.eth_src = hop.out.mac.get().octets();
            key.eth_dst = next.octets();
            network = out.id;
        }
        Err(DropReason::HopLimit)
    }

    /// Whom a packet is for at last, through whatever routers.
    pub(super) fn far_end(&self, network: NetId, key: &FlowKey) -> Option<End> {
        let dst = key.is_ip().then(|| key.dst_addr());
        self.far_end_of((network, key.dst_mac()), dst)
    }

    /// Who is behind an Ethernet address for what goes to an address, if it is IP.
    fn far_end_of(&self, (mut network, mut mac): (NetId, Mac), dst: Option<IpAddr>) -> Option<End> {
        for _ in 0..FORWARDS {
            let Some((router, interface)) = self.router_of(network, mac) else {
                return self.end(network, mac);
            };
            let own = Some((interface.port, network, Some(router.project)));
            let dst = dst?;
            if self.is_own(router, dst) || martian(dst) {
                return own;
            }
            let hop = self.longest(router, dst)?;
            mac = self.neighbour(hop.out.network, hop.to)?;
            network = hop.out.network;
        }
        None
    }

    /// The routers of a network that lead to an address, by their Ethernet addresses on it: a subnet's gateway first, then by id.
    fn routers_to(&self, network: NetId, addr: IpAddr) -> Vec<Mac> {
        let mut found = vec![];
        for router in self.routers() {
            let on = |i: &&Interface| {
                let mut addrs = i.addrs.iter().map(|a| a.addr);
                i.network == network && i.admin_up && addrs.any(|a| a.is_ipv4() == addr.is_ipv4())
            };
            let leads = !self.is_own(router, addr) && !martian(addr);
            let leads = leads && self.longest(router, addr).is_some();
            if let Some(interface) = self.interfaces(router).find(on)
                && router.admin_up
                && leads
            {
                let subnets = &self.network(network).unwrap().subnets;
                let gateway = |a: &InterfaceAddr| subnets.iter().any(|s| s.gateway == Some(a.addr));
                let is_gateway = interface.addrs.iter().any(gateway);
                found.push((!is_gateway, router.id, interface.mac.get()));
            }
        }
        found.sort_unstable();
        found.into_iter().map(|(_, _, mac)| mac).collect()
    }

    /// The Ethernet address of the router behind which a source is virtual.
    pub(super) fn routed_source(&self, network: NetId, src: IpAddr) -> Option<Mac> {
        let is_virtual = |mac: &Mac| {
            let end = self.far_end_of((network, *mac), Some(src));
            end.is_some_and(|(port, on, _)| {
                let mut there = self.endpoints(on);
                there.any(|e| e.id == port && e.at == Location::Virtual)
            })
        };
        self.routers_to(network, src).into_iter().find(is_virtual)
    }

    fn is_on_link(&self, network: NetId, addr: IpAddr) -> bool {
        let network = self.network(network);
        network.is_some_and(|n| n.subnets.iter().any(|s| s.cidr.contains(addr)))
    }

    /// The Ethernet address that a virtual source shows here: its own, or that of the router behind which it is.
    pub(super) fn source_mac(
        &self,
        origin: Option<PortUuid>,
        network: NetId,
        key: &FlowKey,
    ) -> Option<Mac> {
        if !key.is_ip() {
            return None;
        }
        let far = origin.is_none() && key.src_mac().is_multicast();
        if far && !self.is_on_link(network, key.src_addr()) {
            return self.routed_source(network, key.src_addr());
        }
        self.virtual_mac(network, key)
    }

    /// What is translated back gets the Ethernet addresses of the other end, which it has on the network `of`, unless a router is to give
    /// it its own.
    pub(super) fn turn_back(
        &self,
        (network, of): (NetId, NetId),
        to: &mut FlowKey,
        (dst, src): (Mac, Mac),
    ) {
        if self.router_of(network, to.dst_mac()).is_some() {
            return;
        }
        let near = network == of && !dst.is_multicast();
        let router = || self.routers_to(network, to.dst_addr()).first().copied();
        let dst = if near { dst } else { router().unwrap_or(dst) };
        (to.eth_src, to.eth_dst) = (src.octets(), dst.octets());
    }

    /// What answers goes on; at a virtual address, to the home of that one's connection.
    pub(super) fn go_home(
        &self,
        (origin, mut network): (Option<PortUuid>, NetId),
        to: &mut FlowKey,
        home: Mac,
        trail: &mut Trail,
    ) -> Result<(NetId, Place), DropReason> {
        for _ in 0..FORWARDS {
            let place;
            (network, place) = self.route(origin, network, to, trail)?;
            match place {
                Place::Virtual if to.dst_mac() == home => return Err(DropReason::NoListener),
                Place::Virtual => to.eth_dst = home.octets(),
                Place::Host(_) | Place::Foreign if origin.is_none() => {
                    return Err(DropReason::SplitHorizon);
                }
                Place::Here(_) | Place::Host(_) | Place::Foreign | Place::Router => {
                    return Ok((network, place));
                }
            }
        }
        Err(DropReason::HopLimit)
    }
}
