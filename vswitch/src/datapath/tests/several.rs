//! Several hosts, a tunnel between any two, and a router with a gateway.

use std::{collections::VecDeque, net::IpAddr, time::Duration};

use hostconfig::{
    FloatingIp, Location, SectionKey,
    router::{Gateway, InterfaceAddr},
};
use net::{
    DropReason, Headers, Mac, Origin,
    testkit::{FrameBuilder, mac},
};

use super::{
    super::Settings,
    harness::*,
    routing::{at, elsewhere, gate, network, router_with, workload},
};

/// The network outside, and who is the next hop there.
pub(super) const OUT: u16 = 5;
pub(super) const NEXT: u16 = 254;
/// The address of router 1's gateway ends in this.
pub(super) const GATE: u16 = 1;

pub(super) fn vtep(host: usize) -> IpAddr {
    format!("192.0.2.{}", host + 1).parse().unwrap()
}

/// Somebody on the other side of the world.
pub(super) fn world(v6: bool) -> IpAddr {
    if v6 { "2001:db8::5" } else { "203.0.113.5" }
        .parse()
        .unwrap()
}

/// The MAC address of router `r`'s gateway.
pub(super) fn door(r: u16) -> Mac {
    mac(0xa000 + r)
}

/// Router `r`'s gateway, by the addresses that end in `n`.
pub(super) fn gateway(r: u16, n: u16, at_host: Option<usize>) -> Gateway {
    let addr = |v6| InterfaceAddr {
        addr: at(OUT, n, v6),
        subnet: if v6 { "fd05::/64" } else { "10.0.5.0/24" }
            .parse()
            .unwrap(),
    };
    Gateway {
        port: id(7900 + u128::from(r)),
        network: id(NET + u128::from(OUT)),
        mac: door(r).try_into().unwrap(),
        addrs: [false, true].map(addr).to_vec(),
        nexthops: [false, true].map(|v6| at(OUT, NEXT, v6)).to_vec(),
        snat: true,
        at: at_host.map(vtep),
        movable: true,
        qos: None,
    }
}

/// What is where.
#[derive(Debug, Clone)]
pub(super) struct Plan {
    /// Workloads: network, number, host, groups.
    pub(super) workloads: Vec<(u16, u16, usize, Vec<u128>)>,
    /// Routers: number, the networks that they are on, and their gateways.
    pub(super) routers: Vec<(u16, Vec<u16>, Option<Gateway>)>,
    /// Floating IPs, with where they are.
    pub(super) floating: Vec<FloatingIp>,
    /// The policies that floating IPs and gateways name.
    pub(super) qos: Vec<hostconfig::QosPolicy>,
    /// What router 1 counts of what crosses its gateway.
    pub(super) meters: Vec<hostconfig::Meter>,
    /// The MTU of the network outside.
    pub(super) mtu: u32,
    /// Firewall groups, the workloads that have them, and the networks at whose interfaces of router 1 they are.
    pub(super) firewalls: Vec<hostconfig::FirewallGroup>,
    pub(super) walled: Vec<(u16, u128)>,
    pub(super) fenced: Vec<(u16, u128)>,
}

impl Plan {
    /// Router 1 joins networks 0 and 1 and has its gateway at host 1; workload 1 is at host 0, 2 at host 1; the next hop is at host 2.
    pub(super) fn new(groups: &[u128]) -> Self {
        let inside = |n, host| (0, n, host, groups.to_vec());
        Self {
            workloads: vec![inside(1, 0), inside(2, 1), (OUT, NEXT, 2, vec![])],
            routers: vec![(1, vec![0, 1], Some(gateway(1, GATE, Some(1))))],
            floating: vec![],
            qos: vec![],
            meters: vec![],
            mtu: 1450,
            firewalls: vec![],
            walled: vec![],
            fenced: vec![],
        }
    }

    pub(super) fn place(&mut self, n: u16, host: usize) -> &mut Self {
        let mut all = self.workloads.iter_mut();
        all.find(|w| w.1 == n).unwrap().2 = host;
        self
    }

    pub(super) fn gateway(&mut self, r: u16, change: impl FnOnce(&mut Gateway)) {
        let mut all = self.routers.iter_mut();
        change(all.find(|x| x.0 == r).unwrap().2.as_mut().unwrap());
    }

    /// What a host is told.
    pub(super) fn conf(&self, host: usize) -> Conf {
        let mut conf = Conf::new();
        conf.web(6, 80);
        let vteps = (0..4).filter(|h| *h != host).map(|h| {
            let vtep_of = hostconfig::vtep::Vtep {
                host: format!("h{h}"),
                foreign: false,
            };
            (vtep(h), vtep_of)
        });
        conf.put(hostconfig::Section::Vteps(hostconfig::Vteps {
            vteps: vteps.collect(),
        }));
        // Nobody is told of a network outside who needs not know.
        let gates = self.routers.iter().filter_map(|r| r.2.as_ref());
        let here = |g: &Gateway| g.at == Some(vtep(host));
        let port = |w: &(u16, u16, usize, Vec<u128>)| w.0 == OUT && w.2 == host;
        let shown = self.floating.iter().any(|f| f.at == Some(vtep(host)));
        let outside = shown || gates.clone().any(here) || self.workloads.iter().any(port);
        for k in [0, 1] {
            network(&mut conf, k, 1450, |_| {});
        }
        if outside {
            network(&mut conf, OUT, self.mtu, |_| {});
        }
        for (k, n, there, groups) in &self.workloads {
            if *there == host {
                workload(&mut conf, *k, *n, groups);
                for (_, group) in self.walled.iter().filter(|(of, _)| of == n) {
                    conf.walled(*n, *group);
                }
            } else if *k != OUT || outside {
                elsewhere(&mut conf, *k, *n, Location::Vtep(vtep(*there)));
            }
        }
        for (r, on, gateway) in &self.routers {
            let on: Vec<_> = on.iter().map(|k| (*k, 254)).collect();
            router_with(&mut conf, *r, &on, &[], |config| {
                config.gateway.clone_from(gateway);
                if *r == 1 {
                    for (k, group) in &self.fenced {
                        let on = id(NET + u128::from(*k));
                        let mut all = config.interfaces.iter_mut();
                        all.find(|i| i.network == on).unwrap().firewall = Some(id(*group));
                    }
                    config.meters.clone_from(&self.meters);
                }
            });
            // Where it is elsewhere, a gateway is a port like any other on its network.
            if let Some(gateway) = gateway
                && outside
                && !here(gateway)
                && let Some(there) = gateway.at
            {
                conf.put(hostconfig::Section::Endpoint(hostconfig::Endpoint {
                    id: gateway.port,
                    network: gateway.network,
                    project: None,
                    mac: gateway.mac,
                    addrs: gateway.addrs.iter().map(|a| a.addr).collect(),
                    dns_name: None,
                    at: Location::Vtep(there),
                }));
            }
        }
        for group in &self.firewalls {
            conf.put(hostconfig::Section::Firewall(group.clone()));
        }
        for policy in &self.qos {
            conf.put(hostconfig::Section::Qos(policy.clone()));
        }
        for floating in &self.floating {
            conf.put(hostconfig::Section::FloatingIp(floating.clone()));
            if let Some(there) = floating.at
                && there != vtep(host)
                && outside
            {
                conf.put(hostconfig::Section::Endpoint(hostconfig::Endpoint {
                    id: floating.port,
                    network: floating.network,
                    project: None,
                    mac: floating.mac,
                    addrs: vec![floating.addr],
                    dns_name: None,
                    at: Location::Vtep(there),
                }));
            }
        }
        let known = conf.0.sections.contains_key(&SectionKey::Router(id(9001)));
        assert!(known || self.routers.iter().all(|r| r.0 != 1));
        conf
    }
}

/// A frame that came out: at which host, where, and what it is.
pub(super) type Came = (usize, u16, Vec<u8>);

#[derive(Debug)]
pub(super) struct Several {
    pub(super) plan: Plan,
    pub(super) hosts: Vec<Host>,
}

impl Several {
    pub(super) fn new(plan: Plan) -> Self {
        Self::with(plan, Settings::default())
    }

    pub(super) fn with(plan: Plan, settings: Settings) -> Self {
        let hosts = (0..4).map(|h| Host::at(vtep(h), &plan.conf(h), settings));
        Self {
            hosts: hosts.collect(),
            plan,
        }
    }

    /// Every host is told what changed.
    pub(super) fn change(&mut self, change: impl FnOnce(&mut Plan)) {
        change(&mut self.plan);
        for (n, host) in self.hosts.iter_mut().enumerate() {
            host.apply(&self.plan.conf(n));
        }
    }

    /// A frame enters a host; what comes out at ports anywhere.
    pub(super) fn enter(&mut self, host: usize, origin: Origin, frame: Vec<u8>) -> Vec<Came> {
        let mut came = vec![];
        let mut todo = VecDeque::from([(host, origin, frame)]);
        while let Some((host, origin, frame)) = todo.pop_front() {
            let this = &mut self.hosts[host];
            this.vnis.clear();
            let got = this.enter(origin, &[frame]);
            let mut vnis = this.vnis.clone().into_iter();
            for (place, frame) in got {
                match place {
                    At::Port(n) => came.push((host, n, frame)),
                    At::Wire(network) => panic!("{network} is on no wire"),
                    At::Vtep(addr) => {
                        let vni = vnis.next().unwrap().try_into().unwrap();
                        let to = (0..4).find(|h| vtep(*h).to_string() == addr).unwrap();
                        let network = self.hosts[to].tables.network_of(vni);
                        let network = network.expect("a host that knows the network").dense;
                        todo.push_back((to, Origin::Tunnel(network), frame));
                    }
                }
            }
        }
        came
    }

    /// From the n-th workload, wherever it is.
    pub(super) fn from(&mut self, n: u16, frame: &FrameBuilder) -> Vec<Came> {
        self.raw(n, frame.build())
    }

    pub(super) fn raw(&mut self, n: u16, frame: Vec<u8>) -> Vec<Came> {
        let host = self.plan.workloads.iter().find(|w| w.1 == n).unwrap().2;
        let origin = self.hosts[host].origin(n);
        self.enter(host, origin, frame)
    }

    /// The same, where just the m-th workload is to get one frame.
    pub(super) fn one(&mut self, n: u16, frame: &FrameBuilder, m: u16) -> Vec<u8> {
        self.one_raw(n, frame.build(), m)
    }

    pub(super) fn one_raw(&mut self, n: u16, frame: Vec<u8>, m: u16) -> Vec<u8> {
        let got = self.raw(n, frame);
        let [(_, to, frame)] = <[_; 1]>::try_from(got).unwrap_or_else(|got| {
            let drops = self.hosts.iter().map(|h| format!("{:?}", h.dp.drops()));
            let drops: Vec<_> = drops.collect();
            panic!("one frame from {n} to {m}, not {got:?}: {drops:#?}");
        });
        assert_eq!(to, m);
        frame
    }

    pub(super) fn pass(&mut self, d: Duration) {
        for host in &mut self.hosts {
            host.pass(d);
        }
    }

    pub(super) fn dropped(&self, reason: DropReason) -> u64 {
        self.hosts.iter().map(|h| h.dropped(reason)).sum()
    }

    /// Packets of unknown flows on all hosts.
    pub(super) fn upcalls(&self) -> u64 {
        let all = self.hosts.iter().map(|h| h.dp.counters().lookups.upcall);
        all.sum()
    }
}

/// From a workload of network 0 to the world, by router 1.
pub(super) fn outward(frame: FrameBuilder, v6: bool, n: u16) -> FrameBuilder {
    frame
        .macs(mac(n), gate(1, 0))
        .addrs(at(0, n, v6), world(v6))
}

/// From the world to this address, by the next hop.
pub(super) fn inward(frame: FrameBuilder, v6: bool, r: u16, to: IpAddr) -> FrameBuilder {
    frame.macs(mac(NEXT), door(r)).addrs(world(v6), to)
}

/// Source, destination, and the port or identifier of the source.
pub(super) fn shows(frame: &[u8]) -> (IpAddr, IpAddr, u16) {
    let (_, key) = Headers::parse(frame).unwrap();
    let query = key.five_tuple().unwrap();
    (key.src_addr(), key.dst_addr(), query.src_port)
}
