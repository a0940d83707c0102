//! Several workers of one switch, and the packets that they hand one another.

use std::{sync::Arc, time::Duration};

use hostconfig::{
    FunctionKind, LoadBalancer, Location, QosPolicy, Section, Shaper,
    chain::{Algorithm, Member},
    group::Direction,
    qos::{Limit, Rate},
};
use net::{
    Batch, DropReason, FiveTuple, Now, Origin, PacketPool, PortId, PortRange,
    testkit::{FrameBuilder, mac, tcp},
};
use nfv::conntrack::Entry;

use super::{
    super::{Claims, Datapath, Ledger, Out, Settings, Tables, WorkerId},
    harness::*,
    nat, routing,
    several::{self, Plan},
};

const WORKERS: u16 = 3;

struct Switch {
    tables: Tables,
    workers: Vec<Datapath>,
    claims: Arc<Claims>,
    pool: PacketPool,
    now: Now,
}

impl Switch {
    fn new(conf: &Conf) -> Self {
        let claims = Arc::new(Claims::new(1000, 1));
        let now = Now::from_nanos(1_000_000_000_000);
        let worker = |n| {
            let settings = Settings {
                worker: WorkerId(n),
                workers: WORKERS,
                ..Settings::default()
            };
            Datapath::new(
                settings,
                vec![Entry::default(); 100],
                0,
                Arc::clone(&claims),
                now,
            )
        };
        Self {
            tables: {
                let none = Tables::empty(1).at(HERE.parse().unwrap());
                Tables::build(Some(&none), &conf.0, &zones(conf), 1)
            },
            workers: (0..WORKERS).map(worker).collect(),
            claims: Arc::clone(&claims),
            pool: PacketPool::new(1000, 1),
            now,
        }
    }

    fn origin(&self, n: u16) -> Origin {
        Origin::Port(self.port(n))
    }

    fn port(&self, n: u16) -> PortId {
        self.tables.port_by_id(id(u128::from(n))).unwrap().dense
    }

    fn tunnel(&self) -> Origin {
        Origin::Tunnel(self.tables.network_by_id(id(NET)).unwrap().dense)
    }

    /// A frame enters at a worker; what is handed over is taken over until it comes out.
    fn enter(&mut self, at: usize, origin: Origin, frame: &FrameBuilder) -> Vec<Vec<u8>> {
        let bytes = frame.build();
        let mut p = self.pool.take(bytes.len()).unwrap();
        p.fill(&bytes).unwrap();
        p.set_origin(origin);
        let mut batch = Batch::new();
        batch.push(p).unwrap();
        let mut out = Out::new();
        let at = at % self.workers.len();
        self.workers[at].run(&self.tables, &mut batch, self.now, &mut self.pool, &mut out);
        let mut got = vec![];
        let mut hands = 0;
        while let Some((to, p)) = out.handed.pop() {
            hands += 1;
            assert!(hands < 4, "handed in a circle");
            batch.push(p).unwrap();
            let worker = &mut self.workers[usize::from(to.0)];
            worker.take_over(&self.tables, &mut batch, self.now, &mut self.pool, &mut out);
        }
        for worker in &mut self.workers {
            worker.tick(&self.tables, self.now, &mut self.pool, &mut out);
            worker.ledger().balanced().unwrap();
        }
        // What has waited at another worker comes back.
        while let Some((to, p)) = out.handed.pop() {
            batch.push(p).unwrap();
            let worker = &mut self.workers[usize::from(to.0)];
            worker.take_over(&self.tables, &mut batch, self.now, &mut self.pool, &mut out);
        }
        while out.next_port(&mut batch).is_some() {
            got.extend(batch.drain().map(|p| p.bytes().to_vec()));
        }
        got.extend(out.tunnelled.drain(..).map(|t| t.packet.bytes().to_vec()));
        got
    }

    /// Time passes; what has waited comes out.
    fn let_go(&mut self) -> Vec<Vec<u8>> {
        let (mut out, mut batch) = (Out::new(), Batch::new());
        for worker in &mut self.workers {
            worker.tick(&self.tables, self.now, &mut self.pool, &mut out);
        }
        while let Some((to, p)) = out.handed.pop() {
            batch.push(p).unwrap();
            let worker = &mut self.workers[usize::from(to.0)];
            worker.take_over(&self.tables, &mut batch, self.now, &mut self.pool, &mut out);
        }
        let mut got = vec![];
        while out.next_port(&mut batch).is_some() {
            got.extend(batch.drain().map(|p| p.bytes().to_vec()));
        }
        got.extend(out.tunnelled.drain(..).map(|t| t.packet.bytes().to_vec()));
        got
    }

    /// What it tells of its own accord at first is told.
    fn introduce(&mut self) {
        for _ in 0..3 {
            self.let_go();
            self.now = self.now + Duration::from_secs(1);
        }
    }

    fn records(&self) -> usize {
        self.workers.iter().map(|w| w.conntrack().len()).sum()
    }
}

fn balanced() -> Conf {
    let mut conf = Conf::new();
    conf.web(6, 8080).port(1, &[GROUP]).far(9);
    conf.endpoint(50, Location::Virtual);
    conf.chain(
        8000,
        80,
        vec![FunctionKind::LoadBalancer(LoadBalancer {
            vip: ip(50, false),
            vip_port: id(50),
            network: id(NET),
            mac: mac(50).try_into().unwrap(),
            protocol: 6,
            port: 80,
            algorithm: Algorithm::Maglev,
            members: vec![Member {
                id: id(9),
                addr: ip(9, false),
                port: 8080,
                weight: 1,
            }],
            monitor: None,
        })],
    );
    conf
}

#[test]
fn a_connection_has_one_home_wherever_its_packets_enter() {
    let mut s = Switch::new(&balanced());
    let mut strays = 0;
    for port in 1000..1030u16 {
        let (there, back) = (s.origin(1), s.tunnel());
        let at = usize::from(port);
        assert_eq!(
            s.enter(at % 3, there, &syn(false, (1, port), (50, 80)))
                .len(),
            1
        );
        let reply = syn_ack(false, (9, 8080), (1, port));
        let got = s.enter((at + 1) % 3, back, &reply);
        assert_eq!(got.len(), 1);
        let (_, key) = net::Headers::parse(&got[0]).unwrap();
        assert_eq!((key.src_addr(), key.l4_src), (ip(50, false), 80));
        assert_eq!(
            s.enter((at + 2) % 3, there, &ack(false, (1, port), (50, 80)))
                .len(),
            1
        );
        let hash = |a: (u16, u16), b: (u16, u16)| {
            FiveTuple::new(6, (ip(a.0, false), a.1), (ip(b.0, false), b.1)).symmetric_hash(0) % 3
        };
        strays += usize::from(hash((1, port), (50, 80)) != hash((9, 8080), (1, port)));
    }
    assert_eq!(s.records(), 30);
    assert!(strays > 5);
    assert_eq!(
        s.claims.len(),
        strays,
        "a claim for each reply that hashes elsewhere"
    );
    let mut sum = Ledger::default();
    for w in &s.workers {
        sum.add(w.ledger());
    }
    assert_eq!(sum.handed_in, sum.handed_over);
    assert_eq!((sum.rx, sum.tx), (90, 90));
    // With the connections the claims end.
    s.now = s.now + Duration::from_hours(48);
    let frame = between(FrameBuilder::udp(false, 1, 2), false, 9, 1);
    s.enter(0, s.tunnel(), &frame);
    assert_eq!((s.records(), s.claims.len()), (0, 0));
}

#[test]
fn a_connection_in_place_of_one_that_is_over_keeps_the_claims_of_its_replies() {
    let mut s = Switch::new(&balanced());
    let (there, back) = (s.origin(1), s.tunnel());
    let mut claims = vec![];
    for _ in 0..2 {
        // The same clients' ports come round again.
        for port in 1000..1030u16 {
            let at = usize::from(port);
            let (client, vip) = ((1, port), (50, 80));
            assert_eq!(s.enter(at, there, &syn(false, client, vip)).len(), 1);
            let reply = syn_ack(false, (9, 8080), client);
            assert_eq!(s.enter(at + 1, back, &reply).len(), 1, "port {port}");
            let last = ack(false, client, vip).flags(tcp::RST | tcp::ACK);
            assert_eq!(s.enter(at + 2, there, &last).len(), 1);
        }
        claims.push(s.claims.len());
    }
    assert_eq!(s.records(), 30);
    assert!(claims[0] > 5);
    assert_eq!(claims[0], claims[1]);
}

#[test]
fn a_connection_over_another_way_is_not_judged_by_the_record_of_one_before_it() {
    for over in [true, false] {
        let mut s = Switch::new(&balanced());
        let (there, back) = (s.origin(1), s.tunnel());
        for port in 1000..1030u16 {
            let at = usize::from(port);
            let (client, vip, member) = ((1, port), (50, 80), (9, 8080));
            // To the member itself, then by the virtual address: what the member sends back looks the same.
            s.enter(at, there, &syn(false, client, member));
            s.enter(at, back, &syn_ack(false, member, client));
            if over {
                let reset = ack(false, client, member).flags(tcp::RST | tcp::ACK);
                assert_eq!(s.enter(at, there, &reset).len(), 1);
            }
            let again = syn(false, client, vip).seq(0x9000_0000, 0);
            if s.enter(at + 1, there, &again).is_empty() {
                assert!(!over, "a live one in the same table stays");
                continue;
            }
            let reply = syn_ack(false, member, client).seq(0x7000_0000, 0x9000_0001);
            let got = s.enter(at + 2, back, &reply);
            assert_eq!(got.len(), 1, "port {port}, over: {over}");
            let (_, key) = net::Headers::parse(&got[0]).unwrap();
            assert_eq!((key.src_addr(), key.l4_src), (ip(50, false), 80));
        }
    }
}

#[test]
fn a_hidden_connection_in_place_of_one_that_is_over_keeps_its_source_and_the_claims_of_its_replies()
{
    for v6 in [false, true] {
        // There is no source but those of the forerunners, for the client as for the NAT.
        let mut few = nat::nat(1);
        few.ports = PortRange::new(5000, 5029).unwrap();
        few.client_limit = 30;
        let mut s = Switch::new(&nat::conf(few));
        let (there, back) = (s.origin(1), s.tunnel());
        let mut rounds = vec![];
        for round in 0..3 {
            let mut shown = vec![];
            for port in 1000..1030u16 {
                let at = usize::from(port) + round;
                let (client, server) = ((1, port), (9, 80));
                let out = s.enter(at, there, &syn(v6, client, server));
                let [out] = <[_; 1]>::try_from(out).expect("a source is free");
                let (source, ..) = nat::ends(&out);
                assert_eq!(source.0, ip(nat::A, v6));
                let reply = syn_ack(v6, server, (nat::A, source.1)).macs(mac(9), mac(1));
                let got = s.enter(at + 1, back, &reply);
                let [got] = <[_; 1]>::try_from(got).expect("the reply finds its connection");
                assert_eq!(nat::ends(&got).1, (ip(1, v6), port));
                let last = ack(v6, client, server).flags(tcp::RST | tcp::ACK);
                assert_eq!(s.enter(at + 2, there, &last).len(), 1);
                shown.push(source.1);
            }
            assert_eq!((s.records(), s.claims.sources().len()), (30, 30));
            rounds.push((shown, s.claims.len()));
        }
        assert!(rounds[0].1 > 5);
        assert_eq!(rounds[0], rounds[1]);
        assert_eq!(rounds[0], rounds[2]);
        // Another client finds none of them, until they end.
        let other = |s: &mut Switch| s.enter(0, s.origin(2), &syn(v6, (2, 1000), (9, 80))).len();
        assert_eq!(other(&mut s), 0);
        s.now = s.now + Duration::from_hours(48);
        let frame = between(FrameBuilder::udp(v6, 1, 2), v6, 3, 77);
        s.enter(0, s.origin(3), &frame);
        assert_eq!((s.records(), s.claims.len()), (0, 0));
        assert!(s.claims.sources().is_empty());
        assert_eq!(other(&mut s), 1);
    }
}

#[test]
fn who_comes_to_one_server_by_two_ports_is_told_apart_whichever_workers_have_it() {
    for v6 in [false, true] {
        let mut two = nat::nat(1);
        let mut more = two.forwards.clone();
        for forward in &mut more {
            forward.ports = PortRange::one(8081);
        }
        two.forwards.extend(more);
        let mut s = Switch::new(&nat::conf(two));
        let (client, server) = (s.origin(1), s.origin(2));
        for port in 1000..1030u16 {
            let mut known = vec![];
            for to in [8080, 8081] {
                let at = usize::from(port);
                let out = s.enter(at, client, &syn(v6, (1, port), (nat::A, to)));
                let [out] = <[_; 1]>::try_from(out).expect("it is forwarded");
                let (from, there, ..) = nat::ends(&out);
                assert_eq!((from.0, there), (ip(1, v6), (ip(2, v6), 80)));
                assert!(!known.contains(&from.1), "{port}");
                known.push(from.1);
            }
            assert_eq!(known[0], port);
            for (seen, to) in known.into_iter().zip([8080, 8081]) {
                let reply = syn_ack(v6, (2, 80), (1, seen));
                let got = s.enter(usize::from(port) + 1, server, &reply);
                let [got] = <[_; 1]>::try_from(got).expect("the reply finds its connection");
                let (from, there, ..) = nat::ends(&got);
                assert_eq!((from, there), ((ip(nat::A, v6), to), (ip(1, v6), port)));
            }
        }
        assert_eq!((s.records(), s.claims.sources().len()), (60, 60));
        s.now = s.now + Duration::from_hours(200);
        let frame = between(FrameBuilder::udp(v6, 1, 2), v6, 3, 77);
        s.enter(0, s.origin(3), &frame);
        assert_eq!((s.records(), s.claims.len()), (0, 0));
        assert!(s.claims.sources().is_empty());
    }
}

#[test]
fn a_hidden_connection_that_does_not_come_about_leaves_nothing() {
    // Its client may have no more connections, and none of them is half open.
    let mut c = nat::conf(nat::nat(1));
    c.port_with(1, &[GROUP], |p| p.max_connections = 0);
    let mut s = Switch::new(&c);
    for port in 1000..1010u16 {
        assert_eq!(
            s.enter(0, s.origin(1), &syn(false, (1, port), (9, 80))),
            Vec::<Vec<u8>>::new()
        );
    }
    assert_eq!((s.records(), s.claims.len()), (0, 0));
    assert!(s.claims.sources().is_empty());
}

#[test]
fn errors_find_the_worker_of_the_connection_that_they_speak_of() {
    let mut s = Switch::new(&balanced());
    for port in 1000..1010u16 {
        let sent = between(FrameBuilder::udp(false, port, 53), false, 1, 9);
        assert_eq!(s.enter(0, s.origin(1), &sent).len(), 1);
        let error = FrameBuilder::icmp_error(&sent.build());
        let mut p = s.pool.take(error.len()).unwrap();
        p.fill(&error).unwrap();
        p.set_origin(s.tunnel());
        let (mut batch, mut out) = (Batch::new(), Out::new());
        batch.push(p).unwrap();
        s.workers[1].run(&s.tables, &mut batch, s.now, &mut s.pool, &mut out);
        if let Some((to, p)) = out.handed.pop() {
            batch.push(p).unwrap();
            let worker = &mut s.workers[usize::from(to.0)];
            worker.take_over(&s.tables, &mut batch, s.now, &mut s.pool, &mut out);
        }
        assert_eq!(out.next_port(&mut batch), Some(s.port(1)));
    }
}

#[test]
fn a_shaper_has_one_owner() {
    let mut conf = Conf::new();
    conf.web(6, 8080).port(1, &[GROUP]).far(9);
    conf.chain(
        8000,
        80,
        vec![FunctionKind::Shaper(Shaper {
            rate_bps: 1_000_000,
            burst_bytes: 100_000,
            queue_bytes: 100_000,
            queue: hostconfig::Discipline::Fifo,
            share: None,
            classes: Vec::new(),
        })],
    );
    let mut s = Switch::new(&conf);
    for port in 1000..1020u16 {
        let at = usize::from(port) % 3;
        assert_eq!(
            s.enter(at, s.origin(1), &syn(false, (1, port), (9, 80)))
                .len(),
            1
        );
        let back = syn_ack(false, (9, 80), (1, port));
        assert_eq!(s.enter((at + 1) % 3, s.tunnel(), &back).len(), 1);
    }
    let owners = s
        .workers
        .iter()
        .filter(|w| !w.conntrack().is_empty())
        .count();
    assert_eq!((owners, s.records()), (1, 20));
}

#[test]
fn a_limit_has_one_rate_whichever_worker_has_the_connections() {
    for direction in [Direction::Egress, Direction::Ingress] {
        let mut conf = Conf::new();
        let limit = |of| {
            let rate = (of == direction).then(|| Rate {
                rule: id(1),
                per_second: 8_000_000,
                burst: 1_000,
            });
            Limit {
                bits: rate,
                packets: None,
                queue_bytes: 1 << 20,
                queue: hostconfig::Discipline::Fifo,
                share: None,
            }
        };
        conf.put(Section::Qos(QosPolicy {
            id: id(6000),
            name: "gold".into(),
            egress: limit(Direction::Egress),
            ingress: limit(Direction::Ingress),
            dscp: None,
        }));
        conf.web(17, 53).port(1, &[GROUP]).far(9);
        // Those that are there already stay where they are.
        let mut s = Switch::new(&conf);
        let frame = |port: u16| {
            let (there, back) = ((1, 9), (9, 1));
            let (from, to) = if direction == Direction::Egress {
                there
            } else {
                back
            };
            between(FrameBuilder::udp(false, port, 53), false, from, to).payload(&[0; 958])
        };
        let origin = if direction == Direction::Egress {
            s.origin(1)
        } else {
            s.tunnel()
        };
        for port in 1000..1020u16 {
            let at = usize::from(port) % 3;
            assert_eq!(s.enter(at, origin, &frame(port)).len(), 1);
        }
        conf.port_with(1, &[GROUP], |p| p.qos = Some(id(6000)));
        s.tables = Tables::build(Some(&s.tables), &conf.0, &zones(&conf), 1);
        let mut sent = 0;
        for port in 1000..1040u16 {
            let at = usize::from(port + 1) % 3;
            sent += s.enter(at, origin, &frame(port)).len();
        }
        assert_eq!(sent, 1, "the burst");
        for _ in 0..39 {
            s.now = s.now + Duration::from_millis(1);
            assert_eq!(s.let_go().len(), 1, "{direction:?}");
        }
        s.now = s.now + Duration::from_millis(9);
        assert_eq!(s.let_go().len(), 0);
        let held: u64 = s.workers.iter().map(|w| w.ledger().held).sum();
        assert_eq!(held, 0);
        let owners = s.workers.iter().filter(|w| !w.counters().limits.is_empty());
        assert_eq!(owners.count(), 1);
    }
}

#[test]
fn a_tree_has_one_owner_whichever_workers_have_its_ports_connections() {
    let mut conf = Conf::new();
    conf.web(17, 53).far(9);
    for n in 1..=6u16 {
        let policy = id(6000 + u128::from(n));
        let share = hostconfig::share::Share {
            rate_bps: 1_000_000,
            within: vec![hostconfig::share::Node {
                id: id::<net::ids::kind::QosPolicy>(77).uuid(),
                rate_bps: 0,
                ceil_bps: 8_000_000,
                burst_bytes: 1_000,
                fabric: false,
            }],
        };
        conf.put(Section::Qos(QosPolicy {
            id: policy,
            name: format!("part-{n}"),
            egress: Limit {
                queue_bytes: 1 << 20,
                share: Some(share),
                ..Limit::default()
            },
            ingress: Limit::default(),
            dscp: None,
        }));
        conf.port_with(n, &[GROUP], |p| p.qos = Some(policy));
    }
    let mut s = Switch::new(&conf);
    let mut sent = 0;
    for n in 0..60u16 {
        let from = n % 6 + 1;
        let frame = between(FrameBuilder::udp(false, 1000 + n, 53), false, from, 9);
        let origin = s.origin(from);
        sent += s
            .enter(usize::from(n) % 3, origin, &frame.payload(&[0; 958]))
            .len();
    }
    // The rates' bursts are none's: a limit without bits of its own has none.
    assert!(sent <= 7, "{sent}");
    let owners = s.workers.iter().filter(|w| !w.counters().limits.is_empty());
    assert_eq!(owners.count(), 1);
    let mut went = 0;
    for _ in 0..40 {
        s.now = s.now + Duration::from_millis(1);
        went += s.let_go().len();
    }
    assert!((39..=41).contains(&went), "{went}");
}

#[test]
fn a_full_ring_has_a_name() {
    let mut s = Switch::new(&balanced());
    let mut p = s.pool.take(100).unwrap();
    p.fill(&syn(false, (1, 5), (9, 80)).build()).unwrap();
    let (mut batch, mut out) = (Batch::new(), Out::new());
    p.set_origin(s.origin(1));
    batch.push(p).unwrap();
    let at = (0..3)
        .find(|at| {
            let t = FiveTuple::new(6, (ip(1, false), 5), (ip(9, false), 80));
            t.symmetric_hash(0) % 3 != *at
        })
        .unwrap();
    let worker = &mut s.workers[usize::try_from(at).unwrap()];
    worker.run(&s.tables, &mut batch, s.now, &mut s.pool, &mut out);
    let (_, p) = out.handed.pop().unwrap();
    worker.refuse_handed(p, s.now, &mut s.pool);
    assert_eq!(worker.ledger().dropped(DropReason::HandOverFull), 1);
    worker.ledger().balanced().unwrap();
}

#[test]
fn what_no_table_tracks_stays_at_the_worker_that_read_it() {
    let mut conf = Conf::new();
    conf.web(6, 80).far(3);
    for n in 1..=2 {
        conf.port_with(n, &[], |p| p.port_security = false);
    }
    let handed = |conf: &Conf| {
        let mut s = Switch::new(conf);
        let (there, back) = (s.origin(1), s.tunnel());
        for v6 in [false, true] {
            for (at, port) in (0..3).cycle().zip(1000..1012) {
                let to = if port % 2 == 0 { 2 } else { 3 };
                let frame = between(FrameBuilder::udp(v6, port, 53), v6, 1, to);
                assert_eq!(s.enter(at, there, &frame).len(), 1);
                let frame = between(FrameBuilder::udp(v6, 53, port), v6, 3, 1);
                assert_eq!(s.enter(at, back, &frame).len(), 1);
            }
        }
        s.workers
            .iter()
            .map(|w| w.ledger().handed_over)
            .sum::<u64>()
    };
    assert_eq!(handed(&conf), 0);
    // One port of the network with a stateful group, and any packet may belong to a connection.
    conf.group(GROUP + 1, false, vec![]);
    conf.port(5, &[GROUP + 1]);
    assert_eq!(handed(&conf), 0, "a stateless group tracks nothing");
    conf.port(6, &[GROUP]);
    assert!(handed(&conf) > 10);
    let mut conf = balanced();
    conf.far(3);
    conf.port_with(1, &[], |p| p.port_security = false)
        .port_with(2, &[], |p| p.port_security = false);
    assert!(handed(&conf) > 0, "a chain tracks");
}

#[test]
fn answers_through_a_gateway_find_the_worker_that_hid_their_source() {
    // The gateway's host is this one: its first VTEP, as the harness has it.
    let mut plan = Plan::new(&[]);
    plan.gateway(1, |g| g.at = Some(HERE.parse().unwrap()));
    plan.place(2, 0).place(1, 1);
    let mut s = Switch::new(&plan.conf(0));
    s.introduce();
    let tunnel = |s: &Switch, k: u16| {
        let network = s.tables.network_by_id(id(NET + u128::from(k)));
        Origin::Tunnel(network.unwrap().dense)
    };
    let (inside, outside) = (tunnel(&s, 0), tunnel(&s, several::OUT));
    let mut ports = std::collections::BTreeSet::new();
    for n in 0..30u16 {
        for (client, origin) in [(1, inside), (2, s.origin(2))] {
            let ask = FrameBuilder::udp(false, 5000 + n, 53);
            let ask = several::outward(ask, false, client);
            let worker = usize::from(n);
            let [sent] = <[_; 1]>::try_from(s.enter(worker, origin, &ask)).unwrap();
            let (from, _, port) = several::shows(&sent);
            assert_eq!(from, routing::at(several::OUT, several::GATE, false));
            assert!(ports.insert(port), "{port} twice");
            let back = FrameBuilder::udp(false, 53, port);
            let back = several::inward(back, false, 1, from);
            for worker in 0..3 {
                let [got] = <[_; 1]>::try_from(s.enter(worker, outside, &back)).unwrap();
                let key = net::Headers::parse(&got).unwrap().1;
                let to = (key.dst_addr(), key.l4_dst);
                assert_eq!(to, (routing::at(0, client, false), 5000 + n));
            }
        }
    }
    assert_eq!(s.records(), 60);
    assert_eq!(s.claims.sources().len(), 60);
}

#[test]
fn a_floating_ip_is_one_whichever_worker_reads_it() {
    let mut plan = Plan::new(&[GROUP]);
    let mut floating = super::floating::floating(100, Some(2), &[], None);
    floating.at = Some(HERE.parse().unwrap());
    plan.floating.push(floating);
    plan.place(2, 0);
    let mut s = Switch::new(&plan.conf(0));
    s.introduce();
    let network = s.tables.network_by_id(id(NET + u128::from(several::OUT)));
    let outside = Origin::Tunnel(network.unwrap().dense);
    for n in 0..30u16 {
        let ask = several::outward(FrameBuilder::udp(false, 5000 + n, 53), false, 2);
        let origin = s.origin(2);
        for worker in 0..3 {
            let [sent] = <[_; 1]>::try_from(s.enter(worker, origin, &ask)).unwrap();
            let shown = (routing::at(several::OUT, 100, false), 5000 + n);
            let (from, _, port) = several::shows(&sent);
            assert_eq!((from, port), shown);
            let back = FrameBuilder::udp(false, 53, port);
            let back = back
                .macs(mac(several::NEXT), super::floating::shown(100))
                .addrs(several::world(false), from);
            let [got] = <[_; 1]>::try_from(s.enter(worker + 1, outside, &back)).unwrap();
            let key = net::Headers::parse(&got).unwrap().1;
            assert_eq!(key.l4_dst, 5000 + n);
        }
    }
    assert_eq!(s.records(), 30);
    let come = FrameBuilder::tcp(false, 4000, 80).flags(tcp::SYN);
    let come = come
        .macs(mac(several::NEXT), super::floating::shown(100))
        .addrs(several::world(false), routing::at(several::OUT, 100, false));
    let [got] = <[_; 1]>::try_from(s.enter(0, outside, &come)).unwrap();
    let key = net::Headers::parse(&got).unwrap().1;
    assert_eq!((key.dst_addr(), key.l4_dst), (routing::at(0, 2, false), 80));
}

#[test]
fn who_comes_by_a_forwarded_port_is_told_apart_from_what_the_server_itself_began_at_any_worker() {
    let mut plan = Plan::new(&[]);
    plan.gateway(1, |g| g.at = Some(HERE.parse().unwrap()));
    let mut floating = super::floating::floating(100, None, &[(17, 8080, 2)], None);
    floating.at = Some(HERE.parse().unwrap());
    plan.floating.push(floating);
    plan.place(2, 0);
    let mut s = Switch::new(&plan.conf(0));
    s.introduce();
    let network = s.tables.network_by_id(id(NET + u128::from(several::OUT)));
    let outside = Origin::Tunnel(network.unwrap().dense);
    let (inside, shown) = (s.origin(2), routing::at(several::OUT, 100, false));
    let hidden = routing::at(several::OUT, several::GATE, false);
    for n in 0..30u16 {
        let (at, port) = (usize::from(n), 4000 + n);
        // As an answer that comes after its question's record has ended.
        let late = several::outward(FrameBuilder::udp(false, 80, port), false, 2);
        let [sent] = <[_; 1]>::try_from(s.enter(at, inside, &late)).unwrap();
        let (from, _, chosen) = several::shows(&sent);
        assert_eq!(from, hidden);
        let mut seen = None;
        for worker in at..at + 3 {
            let ask = FrameBuilder::udp(false, port, 8080)
                .macs(mac(several::NEXT), super::floating::shown(100))
                .addrs(several::world(false), shown);
            let [got] = <[_; 1]>::try_from(s.enter(worker, outside, &ask)).unwrap();
            let (client, server, ..) = nat::ends(&got);
            assert_eq!(server, (routing::at(0, 2, false), 80));
            assert_ne!(client.1, port, "its server speaks to that one already");
            assert_eq!(*seen.get_or_insert(client.1), client.1);
            let answer = FrameBuilder::udp(false, 80, client.1);
            let answer = several::outward(answer, false, 2);
            let [got] = <[_; 1]>::try_from(s.enter(worker + 1, inside, &answer)).unwrap();
            let to = (several::world(false), port);
            let (from, there, ..) = nat::ends(&got);
            assert_eq!((from, there), ((shown, 8080), to));
            // What the server began goes on as it was.
            let [sent] = <[_; 1]>::try_from(s.enter(worker, inside, &late)).unwrap();
            let (from, there, ..) = nat::ends(&sent);
            assert_eq!((from, there), ((hidden, chosen), to));
        }
    }
    assert_eq!((s.records(), s.claims.sources().len()), (60, 60));
    s.now = s.now + Duration::from_hours(200);
    let frame = several::outward(FrameBuilder::udp(false, 9, 9), false, 2);
    s.enter(0, inside, &frame);
    assert_eq!((s.records(), s.claims.sources().len()), (1, 1));
}
