//! What a QoS policy does to what a port sends and gets.

use std::time::Duration;

use hostconfig::{
    QosPolicy, Section, SectionKey,
    group::{Direction, Family, L4Match},
    qos::{Dscp, Limit, Rate},
};
use net::{
    DropReason, Gso, Headers, Offload,
    testkit::{FrameBuilder, mac},
};

use super::{
    super::{Described, Settings, explain, explain::Entrance},
    harness::*,
};

const POLICY: u128 = 6000;
const BITS: u128 = 6001;
const PACKETS: u128 = 6002;
const MARK: u128 = 6003;

/// So many bits a second, after so many bytes at once; so many bytes wait.
fn bits(per_second: u64, burst: u64, queue_bytes: u64) -> Limit {
    Limit {
        bits: Some(Rate {
            rule: id(BITS),
            per_second,
            burst,
        }),
        packets: None,
        queue_bytes,
        queue: hostconfig::Discipline::Fifo,
        share: None,
    }
}

fn packets(per_second: u64, burst: u64) -> Limit {
    Limit {
        bits: None,
        packets: Some(Rate {
            rule: id(PACKETS),
            per_second,
            burst,
        }),
        queue_bytes: 1 << 20,
        queue: hostconfig::Discipline::Fifo,
        share: None,
    }
}

fn policy(conf: &mut Conf, egress: Limit, ingress: Limit, mark: Option<u8>) {
    conf.put(Section::Qos(QosPolicy {
        id: id(POLICY),
        name: "gold".into(),
        egress,
        ingress,
        dscp: mark.map(|mark| Dscp {
            rule: id(MARK),
            mark,
        }),
    }));
}

/// Open ports 1, 2 and 3, the first with the policy; 9 is elsewhere.
fn conf(egress: Limit, ingress: Limit, mark: Option<u8>) -> Conf {
    let mut conf = Conf::new();
    policy(&mut conf, egress, ingress, mark);
    let mut rules = vec![];
    for family in [Family::V4, Family::V6] {
        for direction in [Direction::Egress, Direction::Ingress] {
            rules.push(rule(direction, family, None, L4Match::Any));
        }
    }
    conf.group(GROUP, true, rules).far(9);
    for n in 1..=3 {
        conf.port_with(n, &[GROUP], |p| p.qos = (n == 1).then(|| id(POLICY)));
    }
    conf
}

fn none() -> Limit {
    Limit::default()
}

/// A thousand bytes.
fn udp(v6: bool, from: u16, to: u16) -> FrameBuilder {
    let headers = if v6 { 62 } else { 42 };
    between(FrameBuilder::udp(v6, 1000, 53), v6, from, to).payload(&vec![0; 1000 - headers])
}

fn udp_short(from: u16, to: u16) -> FrameBuilder {
    between(FrameBuilder::udp(false, 1000, 53), false, from, to)
}

/// Ticks by the millisecond; how many frames came out in each.
fn released(h: &mut Host, milliseconds: usize) -> Vec<usize> {
    let steps = (0..milliseconds).map(|_| {
        h.pass(Duration::from_millis(1));
        h.tick().0.len()
    });
    steps.collect()
}

fn limits(h: &Host) -> [(u64, u64); 2] {
    let port = h.dense(1);
    let counters = h.dp.counters().limits.get(port.index());
    let counters = counters.copied().unwrap_or_default();
    counters.map(|c| (c.packets, c.drops))
}

#[test]
fn what_a_port_sends_is_one_stream_whoever_gets_it() {
    for v6 in [false, true] {
        // A frame a millisecond, after two at once; ten wait.
        let mut h = Host::new(&conf(bits(8_000_000, 2_000, 10_000), none(), None));
        for n in 0..20 {
            let (to, place) = if n % 2 == 0 {
                (2, At::Port(2))
            } else {
                (9, At::Vtep(REMOTE.into()))
            };
            // The burst goes at once, what is above has to wait.
            let wanted = if n < 2 { vec![place] } else { vec![] };
            assert_eq!(h.places(1, &udp(v6, 1, to)), wanted);
        }
        assert_eq!(h.dropped(DropReason::QosQueueFull), 8);
        assert_eq!(h.tick().0.len(), 0);
        assert_eq!(h.dp.ledger().held, 10);
        assert_eq!(released(&mut h, 11), [1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 0]);
        assert_eq!(h.dp.ledger().held, 0);
        assert_eq!(limits(&h), [(0, 0), (20, 8)]);
        // The drop says whose rule it was, and where.
        let record = h.dp.drops().iter().next().unwrap();
        let (rule, port) = (record.refusal.rule, record.refusal.port);
        assert_eq!((rule, port), (Some(id(BITS)), Some(h.dense(1))));
        // What it gets is another matter, and so are other ports.
        for _ in 0..20 {
            assert_eq!(h.places(2, &udp(v6, 2, 1)), [At::Port(1)]);
            assert_eq!(h.places(2, &udp(v6, 2, 3)), [At::Port(3)]);
        }
    }
}

#[test]
fn what_a_port_gets_is_one_stream_whoever_sends_it() {
    for v6 in [false, true] {
        let mut h = Host::new(&conf(none(), bits(8_000_000, 2_000, 10_000), None));
        for n in 0..20 {
            let got = if n % 2 == 0 {
                h.places(2, &udp(v6, 2, 1))
            } else {
                h.tunnelled(&udp(v6, 9, 1))
            };
            let wanted = if n < 2 { vec![At::Port(1)] } else { vec![] };
            assert_eq!(got, wanted);
        }
        assert_eq!(h.dropped(DropReason::QosQueueFull), 8);
        assert_eq!(h.tick().0.len(), 0);
        assert_eq!(released(&mut h, 11), [1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 0]);
        assert_eq!(limits(&h), [(20, 8), (0, 0)]);
        assert_eq!(h.places(1, &udp(v6, 1, 2)), [At::Port(2)]);
    }
}

#[test]
fn copies_and_answers_wait_at_the_port_that_gets_them_and_hold_up_nobody_else() {
    let mut h = Host::new(&conf(none(), bits(8_000, 100, 10_000), None));
    let broadcast = FrameBuilder::udp(false, 1, 2)
        .macs(mac(2), net::Mac::BROADCAST)
        .addrs(ip(2, false), "10.0.0.255".parse().unwrap())
        .payload(&[0; 58]);
    let first = h.places(2, &broadcast);
    assert!(first.contains(&At::Port(1)), "the burst: {first:?}");
    for _ in 0..2 {
        let places = h.places(2, &broadcast);
        assert_eq!(places, [At::Port(3), At::Vtep(REMOTE.into())]);
    }
    assert_eq!(h.dp.ledger().held, 2);
    let v4 = |n| match ip(n, false) {
        std::net::IpAddr::V4(addr) => addr,
        std::net::IpAddr::V6(_) => unreachable!("it is of IPv4"),
    };
    let ask = FrameBuilder::arp(1, (mac(1), v4(1)), (mac(0), v4(2)));
    assert_eq!(h.enter(h.origin(1), &[ask]), []);
    assert_eq!(h.dp.ledger().held, 3, "the answer is behind them");
    // A hundred bytes take 100 ms; the answer has 60 or less.
    h.pass(Duration::from_millis(100));
    assert_eq!(h.tick().0.len(), 1);
    h.pass(Duration::from_millis(100));
    assert_eq!(h.tick().0.len(), 1);
    h.pass(Duration::from_millis(100));
    let got = h.tick().0;
    assert_eq!(Headers::parse(&got[0].1).unwrap().1.ethertype, 0x0806);
}

#[test]
fn a_flow_that_waits_twice_waits_in_both_queues_and_is_looked_up_once() {
    let mut c = conf(bits(8_000_000, 1_000, 100_000), none(), None);
    c.put(Section::Qos(QosPolicy {
        id: id(POLICY + 100),
        name: "bronze".into(),
        egress: none(),
        ingress: bits(4_000_000, 1_000, 100_000),
        dscp: None,
    }));
    c.port_with(2, &[GROUP], |p| p.qos = Some(id(POLICY + 100)));
    let mut h = Host::new(&c);
    for n in 0..10 {
        let at_once = h.from(1, &udp(false, 1, 2)).len();
        assert_eq!(at_once, usize::from(n == 0), "the burst");
    }
    let looked_up = h.dp.counters().lookups;
    assert_eq!(looked_up.exact + looked_up.megaflow + looked_up.upcall, 10);
    // A frame a millisecond leaves the first queue, one every other the second.
    let got = released(&mut h, 18);
    assert_eq!(got.iter().sum::<usize>(), 9, "{got:?}");
    assert!(
        got.chunks(2).all(|two| two.iter().sum::<usize>() == 1),
        "{got:?}"
    );
}

#[test]
fn packets_are_counted_as_segments() {
    let mut h = Host::new(&conf(packets(1_000, 4), none(), None));
    let train = udp_short(1, 2).payload(&[0; 80]).build();
    for n in 0..3 {
        let mut p = h.pool.take(train.len()).unwrap();
        p.fill(&train).unwrap();
        p.set_origin(h.origin(1));
        p.set_offload(Offload {
            gso: Gso::Udp { size: 20 },
            ..Offload::default()
        });
        let at_once = h.enter_packet(p).len();
        assert_eq!(at_once, usize::from(n == 0), "the burst");
    }
    assert_eq!(h.dp.ledger().held, 8, "twice four segments");
    // Four segments take four milliseconds.
    assert_eq!(released(&mut h, 8), [0, 0, 0, 1, 0, 0, 0, 1]);
    for _ in 0..2_000 {
        h.from(1, &udp_short(1, 2));
    }
    let record = h.dp.drops().iter().next().unwrap();
    assert_eq!(record.refusal.rule, Some(id(PACKETS)));
}

#[test]
fn a_change_of_the_policy_keeps_what_waits_and_its_end_lets_all_of_it_go() {
    for end in ["limit", "policy", "port's"] {
        let mut c = conf(bits(8_000, 1_000, 10_000), bits(8_000, 1_000, 10_000), None);
        let mut h = Host::new(&c);
        for _ in 0..6 {
            h.from(1, &udp(false, 1, 2));
            h.tunnelled(&udp(false, 9, 1));
        }
        assert_eq!(h.tick().0.len(), 0);
        assert_eq!(h.dp.ledger().held, 10);
        // A thousand times as fast, from where it was.
        let fast = || bits(8_000_000, 1_000, 10_000);
        policy(&mut c, fast(), fast(), None);
        h.apply(&c);
        assert_eq!(h.tick().0.len(), 0);
        assert_eq!(released(&mut h, 2), [2, 2]);
        match end {
            "limit" => policy(&mut c, none(), none(), None),
            "policy" => {
                c.0.sections.remove(&SectionKey::Qos(id(POLICY)));
                c.port(1, &[GROUP]);
            }
            _ => {
                c.port(1, &[GROUP]);
            }
        }
        h.apply(&c);
        assert_eq!(h.tick().0.len(), 6, "{end}");
        assert_eq!(h.dp.ledger().held, 0);
        for _ in 0..3 {
            assert_eq!(h.places(1, &udp(false, 1, 2)), [At::Port(2)]);
            assert_eq!(h.tunnelled(&udp(false, 9, 1)), [At::Port(1)]);
        }
        // A limit that comes back later finds its buckets full.
        h.pass(Duration::from_secs(1));
        let c = conf(bits(8_000, 1_000, 10_000), none(), None);
        h.apply(&c);
        h.tick();
        assert_eq!(h.places(1, &udp(false, 1, 2)), [At::Port(2)]);
        assert_eq!(h.places(1, &udp(false, 1, 2)), []);
        assert_eq!(h.dropped(DropReason::QosQueueFull), 0);
    }
}

#[test]
fn what_waits_for_a_port_that_goes_ends_by_that_name() {
    let mut c = conf(bits(8_000, 1_000, 10_000), bits(8_000, 1_000, 10_000), None);
    let mut h = Host::new(&c);
    for _ in 0..3 {
        h.from(1, &udp(false, 1, 2));
        h.tunnelled(&udp(false, 9, 1));
    }
    h.tick();
    c.0.sections.remove(&SectionKey::Port(id(1)));
    h.apply(&c);
    let got = h.tick().0;
    assert_eq!(got.len(), 2, "what it has sent arrives");
    assert_eq!(h.dropped(DropReason::PortGone), 2);
    assert_eq!(h.dp.ledger().held, 0);
    h.from(2, &udp(false, 2, 3));
    h.dp.drain(h.now, &mut h.pool);
    h.dp.ledger().balanced().unwrap();
}

#[test]
fn the_end_of_the_switch_drops_what_waits_by_name() {
    let mut h = Host::new(&conf(
        bits(8_000, 1_000, 10_000),
        bits(8_000, 1_000, 10_000),
        None,
    ));
    for _ in 0..3 {
        h.from(1, &udp(false, 1, 2));
        h.tunnelled(&udp(false, 9, 1));
    }
    h.dp.drain(h.now, &mut h.pool);
    assert_eq!(h.dropped(DropReason::Shutdown), 4, "two went at once");
    assert_eq!(h.dp.ledger().held, 0);
    h.dp.ledger().balanced().unwrap();
}

/// The same by flow.
fn by_flow(limit: &Limit) -> Limit {
    Limit {
        queue: hostconfig::Discipline::FqCodel,
        ..limit.clone()
    }
}

/// A frame of another connection of the same two ports.
fn of_flow(flow: u16, tos: u8, v6: bool) -> FrameBuilder {
    let headers = if v6 { 62 } else { 42 };
    between(FrameBuilder::udp(v6, flow, 53), v6, 1, 2)
        .tos(tos)
        .payload(&vec![0; 1000 - headers])
}

#[test]
fn by_flow_who_sends_much_makes_nobody_else_wait() {
    for v6 in [false, true] {
        for at_receiver in [false, true] {
            let fair = by_flow(&bits(8_000_000, 1_000, 30_000));
            // What 1 sends 2 gets: the policy is 2's where it is for what one gets.
            let (mut c, limited) = if at_receiver {
                (conf(none(), fair, None), 2)
            } else {
                (conf(fair, none(), None), 1)
            };
            for n in [1, 2] {
                c.port_with(n, &[GROUP], |p| p.qos = (n == limited).then(|| id(POLICY)));
            }
            let mut h = Host::new(&c);
            for _ in 0..50 {
                h.from(1, &of_flow(1, 0, v6));
            }
            assert_eq!(h.dp.ledger().held, 30);
            assert_eq!(h.dropped(DropReason::QosQueueFull), 19);
            let port = |frame: &[u8]| Headers::parse(frame).unwrap().1.l4_src;
            assert_eq!(h.from(1, &of_flow(7, 0, v6)).len(), 0);
            let full = h.dropped(DropReason::QosQueueFull);
            assert_eq!(full, 20, "the other one's first");
            let mut order = vec![];
            for _ in 0..4 {
                h.pass(Duration::from_millis(1));
                order.extend(h.tick().0.iter().map(|(_, f)| port(f)));
            }
            // The first one's turn is a full frame: two of a thousand bytes begin in it.
            assert_eq!(order, [1, 1, 7, 1]);
            // The drops say whose rule it was.
            let record = h.dp.drops().iter().next().unwrap();
            assert_eq!(record.refusal.rule, Some(id(BITS)));
            let counted = h.dp.counters().limits[h.dense(limited).index()];
            let drops: u64 = counted.iter().map(|c| c.drops).sum();
            assert_eq!(drops, 20);
            h.dp.drain(h.now, &mut h.pool);
            h.dp.ledger().balanced().unwrap();
        }
    }
}

#[test]
fn a_flow_that_stands_is_marked_if_it_hears_that_and_else_dropped_by_name() {
    for v6 in [false, true] {
        for (tos, marks) in [(46 << 2, false), (46 << 2 | 2, true)] {
            let fair = by_flow(&bits(8_000_000, 1_000, 1 << 20));
            let mut h = Host::new(&conf(fair, none(), None));
            let mut seen = vec![];
            for n in 0..1_200 {
                if n < 400 {
                    for _ in 0..2 {
                        seen.extend(h.from(1, &of_flow(1, tos, v6)));
                    }
                }
                h.pass(Duration::from_millis(1));
                seen.extend(h.tick().0);
            }
            let dropped = h.dropped(DropReason::CoDelDrop);
            let marked = h.dp.counters().marked;
            let of_qos = marked[super::super::flow::Stage::Qos as usize];
            assert_eq!(marked.iter().sum::<u64>(), of_qos);
            let told = |frame: &[u8]| Headers::parse(frame).unwrap().1.ip_tos;
            let ce = seen.iter().filter(|(_, f)| told(f) == 46 << 2 | 3).count();
            assert_eq!(ce as u64, of_qos);
            assert_eq!(seen.len() as u64 + dropped, 800);
            if marks {
                assert!(of_qos > 5 && dropped == 0, "{of_qos} {dropped}");
            } else {
                assert!(dropped > 5 && of_qos == 0, "{dropped} {of_qos}");
            }
            h.dp.ledger().balanced().unwrap();
            assert_eq!(limits(&h)[1].1, dropped, "counted at the port too");
        }
    }
}

#[test]
fn the_order_of_a_queue_changes_with_its_policy_and_keeps_what_waits() {
    let limit = || bits(8_000_000, 1_000, 100_000);
    let mut c = conf(limit(), none(), None);
    let mut h = Host::new(&c);
    for flow in [1, 1, 1, 1, 1, 7] {
        h.from(1, &of_flow(flow, 0, false));
    }
    assert_eq!(h.dp.ledger().held, 5);
    policy(&mut c, by_flow(&limit()), none(), None);
    h.apply(&c);
    let mut order = vec![];
    for _ in 0..5 {
        h.pass(Duration::from_millis(1));
        let got = h.tick().0;
        order.extend(got.iter().map(|(_, f)| Headers::parse(f).unwrap().1.l4_src));
    }
    // A turn is a full frame: two of a thousand bytes begin in it.
    assert_eq!(order, [1, 1, 7, 1, 1]);
    assert_eq!(h.dp.ledger().held, 0);
}

#[test]
fn an_icmp_error_of_a_limited_port_waits_with_the_rest() {
    let mut h = Host::new(&conf(bits(8_000, 1_000, 10_000), none(), Some(10)));
    let asked = udp(false, 9, 1);
    assert_eq!(h.tunnelled(&asked), [At::Port(1)]);
    let error = FrameBuilder::icmp_error(&asked.build());
    assert_eq!(h.from(1, &udp(false, 1, 2)).len(), 1, "the burst");
    assert_eq!(h.enter(h.origin(1), &[error]), []);
    assert_eq!(h.dp.ledger().held, 1);
    h.pass(Duration::from_secs(1));
    let got = h.tick().0;
    assert_eq!(got[0].0, At::Vtep(REMOTE.into()));
    let key = Headers::parse(&got[0].1).unwrap().1;
    assert_eq!((key.ip_proto, key.ip_tos), (1, 40));
}

#[test]
fn full_queues_of_many_ports_leave_buffers_for_the_others() {
    let mut c = conf(bits(8_000, 60, 1 << 30), none(), None);
    for n in 11..=60 {
        c.port_with(n, &[GROUP], |p| p.qos = Some(id(POLICY)));
    }
    let mut h = Host::with(&c, Settings::default());
    let (all, _) = h.pool.available();
    for _ in 0..200 {
        for n in 11..=60 {
            h.from(n, &udp_short(n, 2));
        }
    }
    let held = usize::try_from(h.dp.ledger().held).unwrap();
    assert!(held * 4 <= all * 3 && held * 4 > all * 2, "{held} of {all}");
    // Who comes last finds room too, and no other port hears of it.
    let before = h.dropped(DropReason::QosQueueFull);
    h.from(1, &udp_short(1, 2));
    assert_eq!(h.dropped(DropReason::QosQueueFull), before);
    assert_eq!(h.places(2, &udp_short(2, 3)), [At::Port(3)]);
}

/// Between two ticks comes less than a limit lets go, and more than half of what may wait.
#[test]
fn what_has_waited_makes_room_for_what_comes() {
    let mut h = Host::new(&conf(bits(80_000_000_000, 60, 1 << 30), none(), None));
    let train = udp_short(1, 2).payload(&vec![0; 20_000]).build();
    let [_, large] = h.pool.limits();
    let mut left = 0;
    for _ in 0..20 {
        for _ in 0..large / 4 {
            let mut p = h.pool.take(train.len()).unwrap();
            p.fill(&train).unwrap();
            p.set_origin(h.origin(1));
            p.set_offload(Offload {
                gso: Gso::Udp { size: 1000 },
                ..Offload::default()
            });
            left += h.enter_packet(p).len();
        }
        left += h.tick().0.len();
        h.pass(Duration::from_millis(1));
    }
    left += h.tick().0.len();
    assert_eq!(h.dropped(DropReason::QosQueueFull), 0);
    assert_eq!(left, 20 * (large / 4));
}

#[test]
fn what_a_port_sends_is_marked_and_nothing_else() {
    for v6 in [false, true] {
        let mut h = Host::new(&conf(none(), none(), Some(46)));
        let tos = |got: &[(At, Vec<u8>)]| {
            let keys = got.iter().map(|(_, f)| Headers::parse(f).unwrap().1);
            keys.map(|key| key.ip_tos).collect::<Vec<_>>()
        };
        // The second takes the short way; ECN stays.
        for ecn in [0, 1, 2, 3] {
            for to in [2, 9] {
                let got = h.from(1, &udp(v6, 1, to).tos(8 << 2 | ecn));
                assert_eq!(tos(&got), [46 << 2 | ecn]);
            }
        }
        assert!(h.dp.counters().lookups.exact > 0);
        let got = h.from(2, &udp(v6, 2, 1).tos(3));
        assert_eq!(tos(&got), [3], "an answer is another port's");
        let got = h.enter(h.tunnel(), &[udp(v6, 9, 1).tos(7).build()]);
        assert_eq!(tos(&got), [7]);
        // Another mark, and none.
        h.apply(&conf(none(), none(), Some(0)));
        assert_eq!(tos(&h.from(1, &udp(v6, 1, 2).tos(255))), [3]);
        h.apply(&conf(none(), none(), None));
        assert_eq!(tos(&h.from(1, &udp(v6, 1, 2).tos(255))), [255]);
    }
}

#[test]
fn explain_tells_limits_and_marks_with_their_rules() {
    let c = conf(bits(8_000_000, 2_000, 10_000), packets(1_000, 4), Some(26));
    let h = Host::new(&c);
    let told = |from: &str, packet: &str| {
        let packet: Described = packet.parse().unwrap();
        let at = Entrance::Port(from.into());
        explain(&h.tables, &at, &packet, h.now).unwrap().to_string()
    };
    let of = |n: u128| id::<net::ids::kind::Rule>(n);
    let sent = told("p1", "udp 10.0.0.1:1 > 10.0.0.2:2");
    let policy = id::<net::ids::kind::QosPolicy>(POLICY);
    for words in [
        format!(
            "dscp becomes 26 (rule {} of policy gold, {policy})",
            of(MARK)
        ),
        format!(
            "egress: 8000000 bit/s (rule {}) of policy gold ({policy})",
            of(BITS)
        ),
        "set_dscp(26) queue(p1 egress) output(p2)".to_owned(),
    ] {
        assert!(sent.contains(&words), "{words}: {sent}");
    }
    let got = told("p2", "udp 10.0.0.2:1 > 10.0.0.1:2");
    let words = format!("ingress: 1000 packets/s (rule {})", of(PACKETS));
    assert!(got.contains(&words), "{got}");
    assert!(!got.contains("set_dscp"));
}
