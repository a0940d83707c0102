//! What holds for every config and every packet?

use hostconfig::{
    Location, Section,
    group::{Direction, Family, L4Match, Remote},
    network::Route,
    router::{Interface, InterfaceAddr},
};
use net::{
    FlowKey, Headers, Mac, PortRange, Probe,
    testkit::{FrameBuilder, any_frame, mac, tcp},
};
use proptest::prelude::*;
use zerocopy::IntoBytes;

use super::{
    super::{
        Verdict,
        explain::{Ending, explain_key},
        tables::Tables,
        walk::{Known, Lent, walk},
    },
    harness::*,
};

/// Egress, IPv6, protocol, ports, remote.
type SmallRule = (bool, bool, Option<u8>, Option<(u16, u16)>, u8);

#[derive(Debug, Clone)]
struct World {
    rules: Vec<SmallRule>,
    stateful: bool,
    security: [bool; 4],
    chain: bool,
    router: bool,
}

fn world() -> impl Strategy<Value = World> {
    let rule = (
        any::<bool>(),
        any::<bool>(),
        prop_oneof![
            Just(None),
            Just(Some(6)),
            Just(Some(17)),
            Just(Some(1)),
            Just(Some(58))
        ],
        prop_oneof![
            Just(None),
            (0u16..4, 0u16..4).prop_map(|(a, b)| Some((a.min(b), a.max(b))))
        ],
        0u8..4,
    );
    (
        prop::collection::vec(rule, 0..8),
        any::<bool>(),
        any::<[bool; 4]>(),
        any::<bool>(),
        any::<bool>(),
    )
        .prop_map(|(rules, stateful, security, chain, router)| World {
            rules,
            stateful,
            security,
            chain,
            router,
        })
}

fn build(w: &World) -> Conf {
    let mut conf = Conf::new();
    let rules = w
        .rules
        .iter()
        .zip(0u128..)
        .map(|((egress, v6, protocol, ports, remote), n)| {
            let direction = if *egress {
                Direction::Egress
            } else {
                Direction::Ingress
            };
            let family = if *v6 { Family::V6 } else { Family::V4 };
            let l4 = match (protocol, ports) {
                (Some(6 | 17), Some((a, b))) => L4Match::Ports(PortRange::new(*a, *b).unwrap()),
                (Some(1 | 58), Some((a, _))) => L4Match::Icmp {
                    kind: if *v6 { 128 } else { 8 },
                    code: (*a > 1).then_some(0),
                },
                _ => L4Match::Any,
            };
            let mut r = rule(direction, family, *protocol, l4);
            r.id = id(4000 + n);
            r.remote = match remote {
                0 => Remote::Any,
                1 => Remote::Prefix(
                    if *v6 { "fd00::/126" } else { "10.0.0.0/30" }
                        .parse()
                        .unwrap(),
                ),
                _ => Remote::Set(id(3000)),
            };
            r
        });
    conf.set(3000, &["10.0.0.1/32", "10.0.0.2/31", "fd00::2/127"]);
    conf.group(GROUP, w.stateful, rules.collect());
    for (n, security) in (1u16..).zip(w.security) {
        conf.port_with(n, &[GROUP], |p| p.port_security = security);
    }
    conf.far(9).endpoint(50, Location::Virtual);
    if w.chain {
        conf.chain(8000, 2, vec![]);
    }
    if w.router {
        conf.put(Section::Router(router()));
    }
    conf
}

/// A router on the network, whose MAC address packets know; some of what is near goes to far ones, and some nowhere.
fn router() -> hostconfig::Router {
    let addr = |v6| InterfaceAddr {
        addr: ip(70, v6),
        subnet: if v6 { "fd00::/125" } else { "10.0.0.0/29" }
            .parse()
            .unwrap(),
    };
    let route = |destination: &str, nexthop| Route {
        destination: destination.parse().unwrap(),
        nexthop,
    };
    hostconfig::Router {
        id: id(9000),
        name: "r".into(),
        project: id(7),
        admin_up: true,
        interfaces: vec![Interface {
            port: id(9001),
            network: id(NET),
            mac: mac(77).try_into().unwrap(),
            admin_up: true,
            addrs: [false, true].map(addr).to_vec(),
            firewall: None,
        }],
        routes: vec![
            route("10.0.0.8/29", ip(4, false)),
            route("10.0.0.3/32", ip(2, false)),
            route("10.0.0.48/28", ip(5, false)),
            route("fd00::8/125", ip(4, true)),
            route("fd00::/16", ip(7, true)),
        ],
        gateway: None,
        meters: Vec::new(),
    }
}

/// Small packets of a small world, so that they meet its rules.
fn packet() -> impl Strategy<Value = (u16, Vec<u8>)> {
    let who = || prop_oneof![4 => 1u16..5, 1 => Just(9), 1 => Just(50), 1 => Just(77)];
    (
        0u16..5,
        who(),
        who(),
        who(),
        any::<bool>(),
        0u8..5,
        0u16..4,
        0u16..4,
        prop::bool::weighted(0.1),
        any_frame(),
        prop::bool::weighted(0.1),
    )
        .prop_map(
            |(from, src_mac, src, dst, v6, kind, sport, dport, flood, wild, use_wild)| {
                if use_wild {
                    return (from, wild);
                }
                // Mostly honest: the sender's own addresses.
                let honest = if from == 0 { 9 } else { from };
                let (src_mac, src) = if src_mac == src {
                    (src_mac, src)
                } else {
                    (honest, honest)
                };
                let frame = match kind {
                    0 => FrameBuilder::tcp(v6, sport, dport).flags(tcp::SYN),
                    1 => FrameBuilder::tcp(v6, sport, dport),
                    2 => FrameBuilder::udp(v6, sport, dport),
                    3 => FrameBuilder::echo(v6, sport + 1),
                    _ => FrameBuilder::other(v6, 47),
                };
                let to = if flood { Mac::BROADCAST } else { mac(dst) };
                (
                    from,
                    frame
                        .macs(mac(src_mac), to)
                        .addrs(ip(src, v6), ip(dst, v6))
                        .build(),
                )
            },
        )
}

fn key_of(h: &Host, from: u16, frame: &[u8]) -> Option<FlowKey> {
    let (_, mut key) = Headers::parse(frame).ok()?;
    key.set_origin(if from == 0 {
        h.tunnel()
    } else {
        h.origin(from)
    });
    Some(key)
}

fn walked(tables: &Tables, key: &FlowKey, h: &Host) -> super::super::walk::Outcome {
    let lent = Lent {
        now: h.now,
        known: Known::New,
        sources: None,
        attempt: 0,
        before: None,
        after: None,
        had: None,
    };
    walk(tables, &mut Probe::new(key), &mut (), lent)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    /// Whoever is equal under the mask gets the same answer.
    #[test]
    fn masks_are_sound(w in world(), (from, frame) in packet(), (_, other) in packet()) {
        let h = Host::new(&build(&w));
        let Some(key) = key_of(&h, from, &frame) else { return Ok(()) };
        let Some(mut twin) = key_of(&h, from, &other) else { return Ok(()) };
        let answer = walked(&h.tables, &key, &h).flow;
        for ((t, k), m) in twin.as_mut_bytes().iter_mut().zip(key.as_bytes()).zip(answer.mask.fields().as_bytes()) {
            *t = (*t & !m) | (k & m);
        }
        prop_assert_eq!(walked(&h.tables, &twin, &h).flow, answer);
    }

    /// What caches answer is what a walk answers: a datapath that has seen all of it before does what a new one does.
    #[test]
    fn caches_answer_what_a_walk_answers(w in world(), packets in prop::collection::vec(packet(), 1..30)) {
        let conf = build(&w);
        let mut old = Host::new(&conf);
        for (from, frame) in &packets {
            let origin = if *from == 0 { old.tunnel() } else { old.origin(*from) };
            let mut new = Host::new(&conf);
            let stateless = old.dp.conntrack().is_empty();
            let first: Vec<_> = new.enter(origin, std::slice::from_ref(frame));
            let then = old.enter(origin, std::slice::from_ref(frame));
            if stateless && old.dp.conntrack().is_empty() {
                prop_assert_eq!(&first, &then);
            }
            // Whatever passes a switch that knows nothing passes one that knows connections, too.
            prop_assert!(first.is_empty() || !then.is_empty(), "{:?} then {:?}", first, old.dp.drops());
        }
    }

    /// `explain` says what the datapath does.
    #[test]
    fn explain_tells_the_truth(w in world(), (from, frame) in packet()) {
        let mut h = Host::new(&build(&w));
        let Some(key) = key_of(&h, from, &frame) else { return Ok(()) };
        // Judged before any table is asked, or as part of a connection.
        prop_assume!(key.ip_frag == 0);
        let told = explain_key(&h.tables, &key, None, "test".into(), h.now);
        let hears = told.steps.iter().any(|step| step.says.contains("its sender is told"));
        let before = h.dp.ledger().clone();
        let got = h.enter(key.origin(), &[frame]);
        let ledger = h.dp.ledger();
        match told.verdict {
            Ending::Delivered { to } => {
                let refused = ledger.dropped_total() - before.dropped_total();
                prop_assert!(got.len() + usize::try_from(refused).unwrap() >= to.len());
                prop_assert_eq!(got.len(), to.len());
            }
            Ending::Answered { .. } => prop_assert!(ledger.consumed.iter().sum::<u64>() == 1),
            Ending::Dropped { reason, rule, .. } => {
                prop_assert_eq!(got.len(), usize::from(hears));
                let record = h.dp.drops().iter().next().unwrap();
                prop_assert_eq!(record.refusal.reason.name(), reason);
                prop_assert_eq!(record.refusal.rule, rule);
            }
        }
    }

    /// Whatever comes, every segment is accounted for, through changes of the config.
    #[test]
    fn nothing_is_ever_lost(worlds in prop::collection::vec(world(), 1..4), packets in prop::collection::vec(packet(), 1..60)) {
        let mut h = Host::new(&build(&worlds[0]));
        let chunk = packets.len().div_ceil(worlds.len());
        for (w, packets) in worlds.iter().zip(packets.chunks(chunk)) {
            h.apply(&build(w));
            for (from, frame) in packets {
                let origin = if *from == 0 { h.tunnel() } else { h.origin(*from) };
                h.enter(origin, std::slice::from_ref(frame));
                h.tick();
            }
        }
        let ledger = h.dp.ledger();
        prop_assert_eq!(ledger.rx, packets.len() as u64);
        prop_assert!(ledger.balanced().is_ok());
    }
}

#[test]
fn an_explanation_reads_like_the_house_says() {
    let mut conf = Conf::new();
    conf.web(6, 80).port(1, &[GROUP]).port(2, &[GROUP]).far(9);
    let h = Host::new(&conf);
    let say = |what: &str| {
        let packet = what.parse().unwrap();
        let entrance = super::super::explain::Entrance::Port("p1".into());
        super::super::explain(&h.tables, &entrance, &packet, h.now).unwrap()
    };
    let told = say("tcp 10.0.0.1:40000 > 10.0.0.2:80").to_string();
    let expected = "\
port p1 (network blue, vni 1)
  port_security   source pair allowed
  security_group  egress rule 00000000-0000-0000-0000-000000001388 of group g2000: new -> commit
  l2              02:00:00:00:00:02 is local port 00000000-0000-0000-0000-000000000002
  security_group  ingress rule 00000000-0000-0000-0000-000000001389 of group g2000: new -> commit
  egress          port p2 (00000000-0000-0000-0000-000000000002)
megaflow  in_port=p1 eth_src=02:00:00:00:00:01 eth_dst=02:00:00:00:00:02 ipv4 tcp src=10.0.0.1/32 dst=10.0.0.0/8 dport=80
actions   ct(commit) output(p2)
verdict   delivered to 00000000-0000-0000-0000-000000000002";
    assert_eq!(told, expected);
    let denied = say("tcp 10.0.0.1:40000 > 10.0.0.2:81");
    assert!(
        matches!(&denied.verdict, Ending::Dropped { reason, .. } if reason == "security_group_ingress")
    );
    let far = say("tcp [fd00::1]:40000 > [fd00::9]:81").to_string();
    assert!(far.contains("vtep 192.0.2.9, vni 1"), "{far}");
    let spoofed = say("icmp 10.0.0.7 > 10.0.0.2");
    assert!(
        matches!(&spoofed.verdict, Ending::Dropped { reason, .. } if reason == "port_security_ip")
    );
    let json = serde_json::to_value(&denied).unwrap();
    assert_eq!(json["verdict"]["result"], "dropped");
    for bad in [
        "",
        "tcp",
        "tcp 10.0.0.1 > 10.0.0.2:80",
        "udp 10.0.0.1:1 > [::1]:1",
        "icmp 10.0.0.1 10.0.0.2",
        "tcp 10.0.0.1:1 > 10.0.0.2:1 flags x",
    ] {
        assert!(bad.parse::<super::super::Described>().is_err(), "{bad}");
    }
    assert!(Verdict::Deliver != Verdict::Consume(net::Consumed::Arp));
}
