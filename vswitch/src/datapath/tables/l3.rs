//! Where does a router send a packet, by its destination address?
//!
//! A [`Router`] is one section's: its interfaces, and what it does with each destination. It is asked in the switch of whoever sends;
//! every switch has the same one, with the same MAC addresses.
//!
//! # Invariants
//! - The longest prefix wins; an interface's subnet goes before an extra route of the same length.
//! - An extra route counts only while its next hop is on an interface's subnet or one of the gateway's, and never for what no router
//!   forwards. It goes before a default route of the gateway's.
//!
//! # References
//! RFC 1812 §5.2.4 (routes), §5.3.7 (what is not forwarded); RFC 4291 §2.5, §2.7; RFC 4632 (longest prefix).

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    sync::Arc,
};

use hostconfig::MeterRule;
use net::{
    FlowKey, Id, Mac, NetworkId, Prefix, Probe, RouterId, Zone,
    flow_key::{addr_bytes, ethertype},
    ids::kind,
};

use super::{
    MeterId, SectionIndex,
    external::{self, Gateway, Where},
    lpm::Lpm,
};

/// The most routes of a router, own addresses and interfaces' subnets with them.
const MAX_ROUTES: usize = 1 << 16;

/// A router.
#[derive(Debug, Clone)]
pub struct Router {
    /// Its id in the API.
    pub id: Id<kind::Router>,
    /// Its name, for people.
    pub name: String,
    /// Whose it is.
    pub project: Id<kind::Project>,
    /// Its dense id.
    pub dense: RouterId,
    /// Routing on or off.
    pub admin_up: bool,
    /// Where it is attached, among the networks of this host; the last is its gateway's, where that is here.
    pub interfaces: Vec<Interface>,
    /// Its way out of the fabric.
    pub gateway: Option<Arc<Gateway>>,
    /// What of what crosses its gateway is counted.
    pub meters: Vec<Meter>,
    /// What it was read from, and which of its networks are here.
    pub section: SectionIndex,
    routes: Vec<Route>,
    longest: Lpm,
    martians: Arc<Martians>,
    faults: Vec<String>,
}

/// A label under which a router counts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Meter {
    /// Its counter.
    pub id: MeterId,
    /// The label.
    pub label: Id<kind::MeteringLabel>,
    /// What counts; those that exclude are before all others.
    pub rules: Vec<MeterRule>,
}

impl Meter {
    fn new(config: &hostconfig::Meter, id: MeterId) -> Self {
        let mut rules = config.rules.clone();
        rules.sort_by_key(|rule| !rule.excluded);
        Self {
            id,
            label: config.label,
            rules,
        }
    }
}

/// Where a router is attached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Interface {
    /// Its port's id in the API.
    pub port: Id<kind::Port>,
    /// The network that it is on.
    pub network: NetworkId,
    /// Its MAC address, the same in every switch.
    pub mac: Mac,
    /// Forwarding on or off.
    pub admin_up: bool,
    /// Its addresses, with the subnet of each; an IPv6 router's link-local one is not among them.
    pub addrs: Vec<(IpAddr, Prefix)>,
    /// Is it the gateway's? Nobody outside is offered a router.
    pub outside: bool,
    /// The firewall group that holds for what is routed by it.
    pub firewall: Option<Id<kind::FirewallGroup>>,
}

/// What a router does with a destination.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Route {
    /// Which ones.
    pub destination: Prefix,
    /// What it does.
    pub target: Target,
}

/// Where a route leads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target {
    /// To the router itself.
    Own,
    /// Nowhere: no router forwards it.
    Martian,
    /// To the destination itself, on the subnet of the interface at this place.
    Link(u16),
    /// To this next hop, on a subnet of the interface at this place.
    Via(u16, IpAddr),
    /// Out by the gateway: to this next hop; `None`: to the destination itself, on a subnet of the gateway's.
    Outside(Option<IpAddr>),
}

/// Sources and destinations that no router forwards.
#[derive(Debug, Clone)]
pub struct Martians {
    prefixes: Vec<Prefix>,
    longest: Lpm,
}

impl Default for Martians {
    fn default() -> Self {
        let v4 = |a, b, bits| (IpAddr::V4(Ipv4Addr::new(a, b, 0, 0)), bits);
        let v6 = |first: u16, bits| {
            let addr = Ipv6Addr::new(first, 0, 0, 0, 0, 0, 0, 0);
            (IpAddr::V6(addr), bits)
        };
        let blocks = [
            // "This" network, loopback, link-local, multicast, broadcast.
            v4(0, 0, 8),
            v4(127, 0, 8),
            v4(169, 254, 16),
            v4(224, 0, 4),
            (IpAddr::V4(Ipv4Addr::BROADCAST), 32),
            // Unspecified, loopback, link-local, multicast. IPv4-mapped ones are malformed to begin with.
            (IpAddr::V6(Ipv6Addr::UNSPECIFIED), 128),
            (IpAddr::V6(Ipv6Addr::LOCALHOST), 128),
            v6(0xfe80, 10),
            v6(0xff00, 8),
        ];
        let prefixes: Vec<_> = blocks
            .into_iter()
            .filter_map(|(addr, bits)| Prefix::new(addr, bits).ok())
            .collect();
        let longest = Lpm::new(prefixes.iter().copied().zip(0..));
        Self { prefixes, longest }
    }
}

impl Martians {
    /// Is all of this prefix among them?
    fn hold(&self, prefix: Prefix) -> bool {
        let holds = |p: &Prefix| p.bits() <= prefix.bits() && p.contains(prefix.addr());
        self.prefixes.iter().any(holds)
    }
}

impl Interface {
    /// The address by which it speaks to this one: that on the same subnet, else any of its family; at last the link-local one.
    pub fn speaker(&self, to: IpAddr) -> Option<IpAddr> {
        let of_family = || {
            self.addrs
                .iter()
                .filter(|(a, _)| a.is_ipv4() == to.is_ipv4())
        };
        let own = of_family().find(|(_, subnet)| subnet.contains(to));
        let any = own.or_else(|| of_family().next()).map(|(addr, _)| *addr);
        any.or_else(|| to.is_ipv6().then(|| self.link_local()))
    }

    /// Its link-local address.
    pub fn link_local(&self) -> IpAddr {
        IpAddr::V6(self.mac.link_local())
    }

    /// All addresses that it answers for: the link-local one where it is an IPv6 router's.
    pub fn answers_for(&self) -> impl Iterator<Item = IpAddr> + '_ {
        let v6 = self.addrs.iter().any(|(addr, _)| addr.is_ipv6());
        let addrs = self.addrs.iter().map(|(addr, _)| *addr);
        addrs.chain(v6.then(|| self.link_local()))
    }
}

impl Router {
    /// The router of this config, attached to those of its networks that are here: `network` says which. `outside`: who has its gateway,
    /// and the scope of that one's connections; `meter`: the counters of its labels.
    pub(super) fn new(
        config: &hostconfig::Router,
        (dense, section): (RouterId, SectionIndex),
        outside: (Where, Zone),
        network: impl Fn(Id<kind::Network>) -> Option<NetworkId>,
        meter: impl Fn(Id<kind::MeteringLabel>) -> Option<MeterId>,
        martians: &Arc<Martians>,
    ) -> Self {
        let attached = config.interfaces.iter().filter_map(|interface| {
            Some(Interface {
                port: interface.port,
                network: network(interface.network)?,
                mac: interface.mac.get(),
                admin_up: interface.admin_up,
                addrs: interface.addrs.iter().map(|a| (a.addr, a.subnet)).collect(),
                outside: false,
                firewall: interface.firewall,
            })
        });
        let mut interfaces: Vec<_> = attached.take(usize::from(u16::MAX)).collect();
        let gateway = config.gateway.as_ref().map(|gateway| {
            let (at, zone) = outside;
            let there = network(gateway.network).filter(|_| at == Where::Here);
            let interface = there.and_then(|network| {
                let place = u16::try_from(interfaces.len()).ok()?;
                interfaces.push(Interface {
                    port: gateway.port,
                    network,
                    mac: gateway.mac.get(),
                    admin_up: true,
                    addrs: gateway.addrs.iter().map(|a| (a.addr, a.subnet)).collect(),
                    outside: true,
                    firewall: None,
                });
                Some(place)
            });
            Arc::new(Gateway {
                port: gateway.port,
                at: if at == Where::Here && interface.is_none() {
                    Where::Nobody
                } else {
                    at
                },
                zone,
                interface,
                addrs: gateway.addrs.iter().map(|a| a.addr).collect(),
                nat: interface.and_then(|_| external::nat(gateway)),
            })
        });
        let mut this = Self {
            id: config.id,
            name: config.name.clone(),
            project: config.project,
            dense,
            admin_up: config.admin_up,
            interfaces,
            gateway,
            meters: config
                .meters
                .iter()
                .filter_map(|of| Some(Meter::new(of, meter(of.label)?)))
                .collect(),
            section,
            routes: Vec::new(),
            longest: Lpm::default(),
            martians: Arc::clone(martians),
            faults: Vec::new(),
        };
        this.fill(config);
        this
    }

    /// Of equal prefixes the first counts: own addresses, interfaces, subnets outside, then routes, and the gateway's default routes.
    fn fill(&mut self, config: &hostconfig::Router) {
        let outside = config.gateway.as_ref();
        let subnets = outside.into_iter().flat_map(|g| &g.addrs).map(|a| a.subnet);
        let (mut all, mut faults) = (Vec::new(), Vec::new());
        let mut put = |destination, target| {
            all.push(Route {
                destination,
                target,
            });
        };
        for interface in &self.interfaces {
            for addr in interface.answers_for() {
                put(Prefix::host(addr), Target::Own);
            }
        }
        for prefix in &self.martians.prefixes {
            put(*prefix, Target::Martian);
        }
        let inside = self.interfaces.iter().zip(0..).filter(|(i, _)| !i.outside);
        for (interface, at) in inside {
            for (_, subnet) in &interface.addrs {
                if !self.martians.hold(*subnet) {
                    put(*subnet, Target::Link(at));
                }
            }
        }
        for subnet in subnets.clone().filter(|s| !self.martians.hold(*s)) {
            put(subnet, Target::Outside(None));
        }
        for route in &config.routes {
            let fault = |why| format!("router {}: route to {}: {why}", self.id, route.destination);
            if self.martians.hold(route.destination) {
                faults.push(fault("no router forwards that"));
            } else if route.destination.is_ipv4() != route.nexthop.is_ipv4() {
                faults.push(fault("its next hop is of the other family"));
            } else if let Some(at) = self.reaches(route.nexthop) {
                put(route.destination, Target::Via(at, route.nexthop));
            } else if subnets.clone().any(|s| s.contains(route.nexthop)) {
                put(route.destination, Target::Outside(Some(route.nexthop)));
            } else {
                faults.push(fault("its next hop is on none of its interfaces"));
            }
        }
        for nexthop in outside.into_iter().flat_map(|g| &g.nexthops) {
            let any = match nexthop {
                IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
                IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
            };
            if let Ok(all) = Prefix::new(any, 0) {
                put(all, Target::Outside(Some(*nexthop)));
            }
        }
        if all.len() > MAX_ROUTES {
            faults.push(format!("router {}: more than {MAX_ROUTES} routes", self.id));
            all.truncate(MAX_ROUTES);
        }
        self.longest = Lpm::new(all.iter().map(|r| r.destination).zip(0..));
        (self.routes, self.faults) = (all, faults);
    }

    /// The interface on whose subnet an address is: of several the longest.
    fn reaches(&self, addr: IpAddr) -> Option<u16> {
        let interfaces = self.interfaces.iter().zip(0u16..);
        let inside = interfaces.filter(|(i, _)| !i.outside);
        let subnets = inside.flat_map(|(i, at)| i.addrs.iter().map(move |(_, s)| (*s, at)));
        let near = subnets.filter(|(subnet, _)| subnet.contains(addr));
        near.max_by_key(|(subnet, at)| (subnet.bits(), std::cmp::Reverse(*at)))
            .map(|(_, at)| at)
    }

    /// What it does with the packet's destination; `None`: it has no route.
    pub fn route(&self, probe: &mut Probe) -> Option<Route> {
        let at = self.longest.destination(probe)?;
        self.routes.get(at as usize).copied()
    }

    /// What it does with an address.
    pub fn route_to(&self, addr: IpAddr) -> Option<Route> {
        let v4 = addr.is_ipv4();
        self.route(&mut Probe::new(&FlowKey {
            ethertype: if v4 { ethertype::IPV4 } else { ethertype::IPV6 },
            ip_dst: addr_bytes(addr),
            ..FlowKey::default()
        }))
    }

    /// Does nobody forward what this source sends?
    pub fn is_martian(&self, probe: &mut Probe) -> bool {
        self.martians.longest.source(probe).is_some()
    }

    /// The interface of this port, with its place.
    pub fn interface(&self, port: Id<kind::Port>) -> Option<(u16, &Interface)> {
        let mut all = (0..).zip(&self.interfaces);
        all.find(|(_, interface)| interface.port == port)
    }

    /// The gateway, if it is here.
    pub fn gateway_here(&self) -> Option<&Gateway> {
        self.gateway.as_deref().filter(|g| g.interface.is_some())
    }

    /// The interface on a network.
    pub fn interface_on(&self, network: NetworkId) -> Option<&Interface> {
        self.interfaces.iter().find(|i| i.network == network)
    }

    /// What of its config counts for nothing, and why.
    pub(super) fn faults(&self) -> &[String] {
        &self.faults
    }
}

#[cfg(test)]
mod tests {
    use net::testkit::mac;

    use super::*;

    fn interface(n: u16, addrs: &[(&str, &str)]) -> hostconfig::router::Interface {
        let addr = |(addr, subnet): &(&str, &str)| hostconfig::router::InterfaceAddr {
            addr: addr.parse().unwrap(),
            subnet: subnet.parse().unwrap(),
        };
        hostconfig::router::Interface {
            port: uuid::Uuid::from_u128(n.into()).into(),
            network: uuid::Uuid::from_u128(n.into()).into(),
            mac: mac(n).try_into().unwrap(),
            admin_up: true,
            addrs: addrs.iter().map(addr).collect(),
            firewall: None,
        }
    }

    fn routed(router: &Router, dst: &str) -> Option<Target> {
        let dst: IpAddr = dst.parse().unwrap();
        router.route_to(dst).map(|r| r.target)
    }

    #[test]
    fn an_interface_goes_before_a_route_and_a_route_without_a_next_hop_is_none() {
        let to = |destination: &str, nexthop: &str| hostconfig::network::Route {
            destination: destination.parse().unwrap(),
            nexthop: nexthop.parse().unwrap(),
        };
        let config = hostconfig::Router {
            id: uuid::Uuid::from_u128(1).into(),
            name: "r".into(),
            project: uuid::Uuid::from_u128(7).into(),
            admin_up: true,
            interfaces: vec![
                interface(1, &[("10.0.1.1", "10.0.1.0/24"), ("fd01::1", "fd01::/64")]),
                interface(2, &[("10.0.2.1", "10.0.2.0/24")]),
                interface(99, &[("10.0.9.1", "10.0.9.0/24")]),
            ],
            routes: vec![
                to("0.0.0.0/0", "10.0.2.9"),
                to("10.0.2.0/24", "10.0.1.9"),
                to("10.0.1.128/25", "10.0.2.9"),
                to("169.254.169.254/32", "10.0.2.9"),
                to("192.0.2.0/24", "172.16.0.1"),
                to("2001:db8::/32", "10.0.2.9"),
                to("2001:db8::/32", "fd01::9"),
                to("10.0.1.1/32", "10.0.2.9"),
            ],
            gateway: None,
            meters: Vec::new(),
        };
        let here = |id: Id<kind::Network>| {
            let n = u32::try_from(id.uuid().as_u128()).unwrap();
            (n != 99).then_some(NetworkId(n))
        };
        let ids = (RouterId(0), SectionIndex(0));
        let outside = (Where::Nobody, Zone(0));
        let router = Router::new(&config, ids, outside, here, |_| None, &Arc::default());
        let faults = router.faults();
        let via: IpAddr = "10.0.2.9".parse().unwrap();
        for (dst, target) in [
            ("10.0.1.5", Some(Target::Link(0))),
            ("10.0.1.200", Some(Target::Via(1, via))),
            ("10.0.2.5", Some(Target::Link(1))),
            ("10.0.1.1", Some(Target::Own)),
            ("10.0.2.1", Some(Target::Own)),
            ("192.0.2.1", Some(Target::Via(1, via))),
            ("10.0.9.5", Some(Target::Via(1, via))),
            ("169.254.169.254", Some(Target::Martian)),
            ("224.0.0.5", Some(Target::Martian)),
            ("255.255.255.255", Some(Target::Martian)),
            ("127.0.0.1", Some(Target::Martian)),
            ("fd01::5", Some(Target::Link(0))),
            (
                "2001:db8::1",
                Some(Target::Via(0, "fd01::9".parse().unwrap())),
            ),
            ("fe80::1", Some(Target::Martian)),
            (&mac(1).link_local().to_string(), Some(Target::Own)),
            // This one has no IPv6 address, and so none of its own making.
            (&mac(2).link_local().to_string(), Some(Target::Martian)),
            ("ff02::1", Some(Target::Martian)),
            ("fd02::1", None),
        ] {
            assert_eq!(routed(&router, dst), target, "{dst}");
        }
        assert_eq!(faults.len(), 3, "{faults:?}");
        let [first, second] = &router.interfaces[..] else {
            panic!("the third one's network is not here");
        };
        let speaks = |i: &Interface, to: &str| i.speaker(to.parse().unwrap()).unwrap().to_string();
        assert_eq!(speaks(first, "10.0.1.9"), "10.0.1.1");
        assert_eq!(speaks(first, "172.16.0.1"), "10.0.1.1");
        assert_eq!(speaks(second, "fd01::1"), mac(2).link_local().to_string());
    }
}
