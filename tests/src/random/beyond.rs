//! What if nobody thought of it, where packets leave the fabric?
//!
//! Two tenants with the same addresses, each with a router whose gateway is on one external network; floating IPs; somebody outside who answers, and
//! behind whom is the rest of the world. Uplinks of hosts go and come: gateways and floating IPs are where the controller would have them.

use std::{net::IpAddr, time::Duration};

use hostconfig::nat::Forward;
use net::{
    Mac, PortRange,
    flow_key::{ethertype, proto},
    testkit::{FrameBuilder, tcp},
};
use nfv::conntrack::Side;
use proptest::prelude::*;

use crate::{
    fabric::{Build, Fabric, check_frames},
    oracle::beyond::{Beyond, View},
    plan::{FloatingUuid, NetId, Plan, PortUuid, RouterUuid, Serves, vtep},
    traffic::answer,
};

/// How many floating IPs there may be.
const FLOATING: usize = 4;

/// A fabric with an outside, and what happens in it.
#[derive(Debug, Clone)]
pub struct Outing {
    hosts: usize,
    /// Tenant, network, host, tracked.
    workloads: Vec<(usize, usize, usize, bool)>,
    /// On which hosts those are who are outside.
    outside: [usize; 2],
    /// Which host has whose gateway, if it may.
    gateways: [usize; 2],
    ops: Vec<Event>,
}

/// What somebody says.
#[derive(Debug, Clone, Copy)]
enum Says {
    Udp,
    Tcp,
    Echo,
    Other,
}

/// Whom a workload speaks to.
#[derive(Debug, Clone, Copy)]
enum Whom {
    /// One of those behind the next hop.
    World(u8),
    /// One who is on the external network.
    Near(usize),
    /// Whoever has, or had, this floating IP.
    Floating(usize),
    /// The other tenant's gateway.
    Gateway,
    /// An address of the external network that nobody has.
    Nobody,
}

/// Whom somebody outside speaks to.
#[derive(Debug, Clone, Copy)]
enum Inward {
    Floating(usize),
    Gateway(usize),
    /// By a tenant's gateway to a workload's own address.
    Inside(usize, usize),
}

/// Something that happens.
#[derive(Debug, Clone)]
enum Event {
    Out(usize, Whom, Says, u16, bool),
    In(usize, Inward, Says, u16, bool),
    Answer(usize),
    Error(usize),
    /// Which host is to have a tenant's gateway.
    Move(usize, usize),
    /// Does the first tenant's gateway hide its sources?
    Hides(bool),
    /// A floating IP is another workload's, has other ports forwarded, or goes.
    Floating(usize, usize, Kind),
    /// A host's uplink goes or comes.
    Uplink(usize, bool),
    /// A tenant's router is up or down.
    Router(usize, bool),
    Restart(usize),
    Wait(u8),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Gone,
    /// At its workload's host, if that has an uplink.
    Near,
    /// At the gateway's.
    Far,
    Forwards,
}

fn says() -> impl Strategy<Value = Says> {
    prop_oneof![
        4 => Just(Says::Udp),
        4 => Just(Says::Tcp),
        2 => Just(Says::Echo),
        1 => Just(Says::Other),
    ]
}

fn event() -> impl Strategy<Value = Event> {
    let whom = prop_oneof![
        4 => (0u8..2).prop_map(Whom::World),
        3 => (0usize..2).prop_map(Whom::Near),
        4 => (0..FLOATING).prop_map(Whom::Floating),
        1 => Just(Whom::Gateway),
        1 => Just(Whom::Nobody),
    ];
    let inward = prop_oneof![
        6 => (0..FLOATING).prop_map(Inward::Floating),
        2 => (0usize..2).prop_map(Inward::Gateway),
        2 => (0usize..2, any::<usize>()).prop_map(|(t, n)| Inward::Inside(t, n)),
    ];
    let kind = prop_oneof![
        1 => Just(Kind::Gone),
        3 => Just(Kind::Near),
        2 => Just(Kind::Far),
        2 => Just(Kind::Forwards),
    ];
    prop_oneof![
        10 => (any::<usize>(), whom, says(), 0u16..4, any::<bool>())
            .prop_map(|(a, to, s, n, v6)| Event::Out(a, to, s, n, v6)),
        6 => (0usize..2, inward, says(), 0u16..4, any::<bool>())
            .prop_map(|(a, to, s, n, v6)| Event::In(a, to, s, n, v6)),
        14 => (0usize..8).prop_map(Event::Answer),
        2 => (0usize..8).prop_map(Event::Error),
        1 => (0usize..2, 0usize..4).prop_map(|(t, h)| Event::Move(t, h)),
        1 => any::<bool>().prop_map(Event::Hides),
        3 => (0..FLOATING, any::<usize>(), kind).prop_map(|(n, to, k)| Event::Floating(n, to, k)),
        1 => (0usize..3, any::<bool>()).prop_map(|(h, up)| Event::Uplink(h, up)),
        1 => (0usize..2, prop::bool::weighted(0.8)).prop_map(|(t, up)| Event::Router(t, up)),
        1 => (0usize..3).prop_map(Event::Restart),
        1 => (1u8..10).prop_map(Event::Wait),
    ]
}

/// Any fabric of up to three hosts with an outside, and up to `steps` things that happen in it.
pub fn outing(steps: usize) -> impl Strategy<Value = Outing> {
    let workload = (0usize..2, 0usize..2, 0usize..3, any::<bool>());
    (
        1usize..=3,
        prop::collection::vec(workload, 2..6),
        any::<[usize; 2]>(),
        prop::array::uniform2(0usize..3),
        prop::collection::vec(event(), 1..steps),
    )
        .prop_map(|(hosts, workloads, outside, gateways, ops)| Outing {
            hosts,
            workloads,
            outside,
            gateways,
            ops,
        })
}

/// A floating IP as it is wanted.
#[derive(Debug, Clone, Copy)]
struct Wanted {
    id: FloatingUuid,
    /// Where it would rather be.
    near: Option<PortUuid>,
    router: RouterUuid,
}

struct Traveller {
    fabric: Fabric,
    oracle: Beyond,
    outside: NetId,
    workloads: Vec<PortUuid>,
    world: [PortUuid; 2],
    routers: [RouterUuid; 2],
    /// Which hosts have an uplink, and which one is to have each gateway.
    uplinks: Vec<bool>,
    wanted: [usize; 2],
    floating: [Option<Wanted>; FLOATING],
    received: Vec<(PortUuid, Vec<u8>)>,
    tcp_port: u16,
    /// What was sent, and what became of it.
    story: Vec<String>,
}

/// Plays what happens, and holds the fabric to the oracle at every step.
pub fn travel(outing: &Outing, build: Build) {
    let mut plan = Plan::new(outing.hosts);
    let outside = plan.network_at("outside", 9);
    let group = plan.open_group();
    let open = |plan: &mut Plan, host: usize| {
        let port = plan.port(host % outing.hosts, outside, &[]);
        plan.get_mut(port).port_security = false;
        port
    };
    let world = outing.outside.map(|host| open(&mut plan, host));
    let mut networks = vec![];
    for (tenant, name) in ["red", "blue"].into_iter().enumerate() {
        let mut of_tenant = vec![];
        for k in 0..2u8 {
            // Nothing hides sources of IPv6, so those differ.
            let number = k * 2 + u8::try_from(tenant).unwrap();
            let network = plan.network_at(&format!("{name}-{k}"), number);
            let subnets = &mut plan.network_mut(network).subnets;
            subnets[0].cidr = format!("10.0.{k}.0/24").parse().unwrap();
            subnets[0].dhcp = None;
            of_tenant.push(network);
        }
        networks.push(of_tenant);
    }
    let routers = [0, 1].map(|tenant: u16| {
        let router = plan.router(&networks[usize::from(tenant)], 240, vec![]);
        plan.gateway(router, outside, 20 + tenant, world[0]);
        router
    });
    let place = |plan: &mut Plan,
                 &(tenant, network, host, tracked): &(usize, usize, usize, bool)| {
        let groups = [group];
        let groups = if tracked { &groups[..] } else { &[] };
        let port = plan.port(host % outing.hosts, networks[tenant][network], groups);
        plan.get_mut(port).port_security = tracked;
        port
    };
    let workloads = outing
        .workloads
        .iter()
        .map(|w| place(&mut plan, w))
        .collect();
    // The oracle knows no time, and so no limit.
    let build = Build {
        errors_per_second: u32::MAX,
        ..build
    };
    let mut traveller = Traveller {
        fabric: Fabric::build(plan, build),
        oracle: Beyond::new(outside, world[0]),
        outside,
        workloads,
        world,
        routers,
        uplinks: vec![true; outing.hosts],
        wanted: outing.gateways,
        floating: [None; FLOATING],
        received: vec![],
        tcp_port: 20_000,
        story: vec![],
    };
    traveller.seat("at first");
    for (n, op) in outing.ops.iter().enumerate() {
        traveller.step(&format!("step {n}, {op:?}"), op);
    }
}

impl Traveller {
    /// Gateways and floating IPs are where the controller would have them now.
    fn seat(&mut self, what: &str) {
        self.story.push(what.to_owned());
        let hosts = self.fabric.plan.hosts();
        let has = |h: &usize| self.uplinks[*h];
        let plan = &mut self.fabric.plan;
        let mut at = [None, None];
        for (tenant, router) in self.routers.into_iter().enumerate() {
            let rather = (0..hosts).map(|h| (h + self.wanted[tenant]) % hosts);
            at[tenant] = rather.clone().find(has);
            plan.gateway_mut(router).at = at[tenant].map(vtep);
        }
        for wanted in self.floating.iter().flatten() {
            let tenant = usize::from(wanted.router == self.routers[1]);
            let near = wanted.near.map(|port| plan.host_of(port)).filter(has);
            plan.floating_mut(wanted.id).at = near.or(at[tenant]).map(vtep);
        }
        self.oracle.shake();
        self.fabric.apply();
        self.fabric.settle();
        self.heard(what);
    }

    /// Who begins to answer for an address says so outside, and nobody else says anything.
    fn heard(&mut self, what: &str) {
        let received = self.fabric.receive();
        for r in &received {
            let (_, key) = net::Headers::parse(&r.frame.bytes).unwrap();
            let plan = &self.fabric.plan;
            let at = |at: Option<IpAddr>| at.is_some();
            let gateways = plan.routers().filter_map(|r| r.gateway.as_ref());
            let gateways = gateways.filter(|g| at(g.at)).map(|g| g.mac.get());
            let floating = plan.floating_ips().filter(|f| at(f.at));
            let mut all = gateways.chain(floating.map(|f| f.mac.get()));
            let neighbour = key.ethertype == ethertype::ARP
                || (key.ip_proto == proto::ICMP6 && key.l4_src == 136);
            let says = neighbour && all.any(|mac| mac == key.src_mac());
            assert!(
                says && self.world.contains(&r.port),
                "{what}: {} hears {key:?}",
                r.port
            );
        }
        check_frames(what, &received);
    }

    fn frame(&mut self, says: Says, n: u16, v6: bool) -> FrameBuilder {
        let (sport, dport) = (4000 + n, 80 + n / 2);
        match says {
            Says::Udp => FrameBuilder::udp(v6, sport, dport).payload(b"ask"),
            Says::Tcp => {
                self.tcp_port += 1;
                let syn = FrameBuilder::tcp(v6, self.tcp_port, dport);
                syn.flags(tcp::SYN).seq(100, 0)
            }
            Says::Echo => FrameBuilder::echo(v6, 2000 + n),
            Says::Other => FrameBuilder::other(v6, 47),
        }
    }

    fn step(&mut self, what: &str, op: &Event) {
        match *op {
            Event::Out(from, whom, says, n, v6) => self.out(what, from, whom, (says, n, v6)),
            Event::In(from, to, says, n, v6) => self.inward(what, from, to, (says, n, v6)),
            Event::Answer(n) => {
                if let Some((port, frame)) = self.any_received(n)
                    && let Some(frame) = answer(&frame, b"and back")
                {
                    self.send(what, port, &frame);
                }
            }
            Event::Error(n) => {
                if let Some((port, frame)) = self.any_received(n) {
                    self.error(what, port, &frame);
                }
            }
            Event::Move(tenant, host) => {
                self.wanted[tenant] = host;
                self.seat(what);
            }
            Event::Hides(hides) => {
                self.fabric.plan.gateway_mut(self.routers[0]).snat = hides;
                self.seat(what);
            }
            Event::Floating(n, to, kind) => self.float(what, n, to, kind),
            Event::Uplink(host, up) => {
                let hosts = self.uplinks.len();
                self.uplinks[host % hosts] = up;
                self.seat(what);
            }
            Event::Router(tenant, up) => {
                self.fabric.plan.router_mut(self.routers[tenant]).admin_up = up;
                self.seat(what);
            }
            Event::Restart(host) => {
                self.story.push(what.to_owned());
                self.oracle.restart();
                self.fabric.restart(host % self.uplinks.len());
                self.fabric.settle();
                self.heard(what);
            }
            Event::Wait(tenths) => {
                self.fabric
                    .advance(Duration::from_millis(u64::from(tenths) * 100));
                self.heard(what);
            }
        }
    }

    fn router_of(&self, port: PortUuid) -> RouterUuid {
        let network = self.fabric.plan.get(port).network;
        let of = |r: &&hostconfig::Router| r.interfaces.iter().any(|i| i.network == network);
        let found = self.fabric.plan.routers().find(of);
        found.expect("each workload has a router").id
    }

    fn float(&mut self, what: &str, n: usize, to: usize, kind: Kind) {
        let to = self.workloads[to % self.workloads.len()];
        if let Some(gone) = self.floating[n].take() {
            self.fabric.plan.remove_floating(gone.id);
        }
        let router = self.router_of(to);
        let whole = matches!(kind, Kind::Near | Kind::Far);
        // A workload has one at most.
        let has = |f: &hostconfig::FloatingIp| f.to.is_some_and(|w| w.port == to);
        let taken = whole && self.fabric.plan.floating_ips().any(has);
        if kind != Kind::Gone && !taken {
            let plan = &mut self.fabric.plan;
            let address = 100 + u16::try_from(n).unwrap();
            let serves = if whole {
                Serves::Workload(to)
            } else {
                let forward = |protocol, port, to_port| Forward {
                    addr: plan.host(self.outside, address, false),
                    protocol,
                    ports: PortRange::one(port),
                    to: plan.addr(to, false),
                    to_port,
                    to_one: false,
                    member: to,
                };
                Serves::Forwards(vec![
                    forward(proto::TCP, 80, 8080),
                    forward(proto::UDP, 81, 8081),
                ])
            };
            let id = plan.floating_ip((router, address), serves, None);
            self.floating[n] = Some(Wanted {
                id,
                near: (kind == Kind::Near).then_some(to),
                router,
            });
        }
        self.seat(what);
    }

    fn out(&mut self, what: &str, from: usize, whom: Whom, (says, n, v6): (Says, u16, bool)) {
        let from = self.workloads[from % self.workloads.len()];
        let router = self.router_of(from);
        let frame = self.frame(says, n, v6);
        let plan = &self.fabric.plan;
        let network = plan.get(from).network;
        let interfaces: Vec<_> = plan.routers().flat_map(|r| &r.interfaces).collect();
        let gate = interfaces.iter().find(|i| i.network == network);
        let gate = gate.expect("each workload has a router").mac.get();
        let dst: IpAddr = match whom {
            Whom::World(n) if v6 => format!("2001:db8::{n}").parse().unwrap(),
            Whom::World(n) => format!("203.0.113.{n}").parse().unwrap(),
            Whom::Near(n) => plan.addr(self.world[n], v6),
            Whom::Floating(n) => {
                let address = 100 + u16::try_from(n).unwrap();
                plan.host(self.outside, address, v6)
            }
            Whom::Gateway => {
                let other = self.routers[usize::from(router == self.routers[0])];
                let mut routers = plan.routers();
                let other = routers.find(|r| r.id == other).unwrap();
                other.gateway.as_ref().unwrap().addrs[usize::from(v6)].addr
            }
            Whom::Nobody => plan.host(self.outside, 77, v6),
        };
        // What shows an address of its own to another tenant's workload may be answered to somebody there.
        let own = |r: &hostconfig::Router| {
            let hides = r.gateway.as_ref().is_some_and(|g| g.snat);
            r.id == router && !hides
        };
        let bare = !v6 && plan.routers().any(own);
        if bare && matches!(whom, Whom::Floating(_) | Whom::Gateway) {
            return;
        }
        let frame = frame
            .macs(plan.mac(from), gate)
            .addrs(plan.addr(from, v6), dst);
        self.send(what, from, &frame.build());
    }

    fn inward(&mut self, what: &str, from: usize, to: Inward, (says, n, v6): (Says, u16, bool)) {
        let from = self.world[from];
        let frame = self.frame(says, n, v6);
        let plan = &self.fabric.plan;
        let gateway = |tenant: usize| {
            let mut routers = plan.routers();
            let router = routers.find(|r| r.id == self.routers[tenant]).unwrap();
            router.gateway.as_ref().unwrap()
        };
        let (mac, dst): (Mac, IpAddr) = match to {
            Inward::Floating(n) => {
                let address = 100 + u16::try_from(n).unwrap();
                (
                    net::testkit::mac(0xb000 + address),
                    plan.host(self.outside, address, v6),
                )
            }
            Inward::Gateway(tenant) => {
                let gateway = gateway(tenant);
                (gateway.mac.get(), gateway.addrs[usize::from(v6)].addr)
            }
            Inward::Inside(tenant, n) => {
                let to = self.workloads[n % self.workloads.len()];
                (gateway(tenant).mac.get(), plan.addr(to, v6))
            }
        };
        let frame = frame
            .macs(plan.mac(from), mac)
            .addrs(plan.addr(from, v6), dst);
        self.send(what, from, &frame.build());
    }

    /// What went before, and what each worker knows by now.
    fn tell(&self) -> String {
        let mut told = self.story.clone();
        for host in 0..self.uplinks.len() {
            for (worker, datapath) in self.fabric.datapaths(host).enumerate() {
                let at = format!("host {host}, worker {worker}");
                let known = datapath.conntrack().iter().map(|(_, e)| {
                    let sides = Side::BOTH.map(|side| e.side(side));
                    format!("{at} knows {sides:?}")
                });
                told.extend(known);
                let drops = datapath.drops().iter();
                told.extend(drops.map(|d| format!("{at} dropped {d:?}")));
            }
        }
        told.join("\n")
    }

    fn any_received(&self, n: usize) -> Option<(PortUuid, Vec<u8>)> {
        let last = &self.received[self.received.len().saturating_sub(8)..];
        last.get(n % last.len().max(1)).cloned()
    }

    fn send(&mut self, what: &str, from: PortUuid, frame: &[u8]) {
        let sent = View::of(frame).expect("a packet of a conversation");
        let may = self.oracle.judge(&self.fabric.plan, from, sent);
        let (received, drops) = self.fabric.send_judged(from, frame);
        check_frames(what, &received);
        let received: Vec<_> = received
            .into_iter()
            .map(|r| (r.port, r.frame.bytes))
            .collect();
        let shown: Vec<_> = received
            .iter()
            .map(|(port, f)| (port, View::of(f)))
            .collect();
        self.story.push(format!(
            "{what}: {from} sends {sent:?}: {shown:?}, dropped {drops:?}"
        ));
        let learnt = may
            .iter()
            .any(|may| self.oracle.learn((from, sent), may, &received, &drops));
        assert!(
            learnt,
            "{what}: {from} sends {sent:?}\n  may become {may:#?}\n  but was {shown:#?}, dropped {drops:?}\n{}",
            self.tell()
        );
        self.received.extend(received);
    }

    /// A receiver says that a packet was too much for it: who sent that hears of what it sent.
    fn error(&mut self, what: &str, by: PortUuid, frame: &[u8]) {
        let Some(seen) = View::of(frame) else {
            return;
        };
        if matches!(seen.tuple.proto, proto::ICMP | proto::ICMP6) {
            return;
        }
        let Some(told) = self.oracle.told(&self.fabric.plan, by, seen) else {
            return;
        };
        let (received, drops) = self
            .fabric
            .send_judged(by, &FrameBuilder::icmp_error(frame));
        check_frames(what, &received);
        let heard = received.iter().map(|r| {
            let (headers, _) = net::Headers::parse(&r.frame.bytes).unwrap();
            let quote = headers.quoted(&r.frame.bytes).map(|q| q.tuple);
            (r.port, quote)
        });
        let heard: Vec<_> = heard.collect();
        self.story.push(format!(
            "{what}: {by} tells of {seen:?}: {heard:?}, dropped {drops:?}"
        ));
        let right = match (heard.as_slice(), told.must) {
            ([(port, Some(quote))], Some(must)) => (*port, *quote) == must,
            ([(port, Some(quote))], None) => told.may.contains(&(*port, *quote)),
            ([], must) => must.is_none() && !drops.is_empty(),
            _ => false,
        };
        assert!(
            right,
            "{what}: {by} tells of {seen:?}\n  who may hear is {told:#?}\n  but was {heard:?}, dropped {drops:?}\n{}",
            self.tell()
        );
    }
}
