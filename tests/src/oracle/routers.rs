//! Where do routers send a packet?
//!
//! The oracle's own reading of routes: every one is compared, each time.

use std::net::{IpAddr, Ipv4Addr};

use hostconfig::{
    Router, Section,
    router::{Interface, InterfaceAddr},
};
use net::{
    DropReason, FlowKey, Fragment, Mac, Prefix,
    flow_key::{ethertype, proto},
};

use super::{End, Host, NetId, Place, PortUuid};

/// How often a packet is sent on at most.
const FORWARDS: usize = 8;

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
    pub(super) fn far_end(&self, mut network: NetId, key: &FlowKey) -> Option<End> {
        let mut mac = key.dst_mac();
        for _ in 0..FORWARDS {
            let Some((router, interface)) = self.router_of(network, mac) else {
                return self.end(network, mac);
            };
            let own = Some((interface.port, network, Some(router.project)));
            let dst = key.dst_addr();
            if !key.is_ip() {
                return None;
            }
            if self.is_own(router, dst) || martian(dst) {
                return own;
            }
            let hop = self.longest(router, dst)?;
            mac = self.neighbour(hop.out.network, hop.to)?;
            network = hop.out.network;
        }
        None
    }
}
