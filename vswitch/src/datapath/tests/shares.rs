//! Queues that share a rate: several ports', and the classes of a shaper.

use std::time::Duration;

use hostconfig::{
    Discipline, FunctionKind, QosPolicy, Section, Shaper,
    group::{Direction, Family, L4Match},
    qos::{Limit, Rate},
    share::{Class, Node, OneWay, Share},
};
use net::{DropReason, Headers, testkit::FrameBuilder};

use super::{
    super::{Described, explain, explain::Entrance},
    harness::*,
};

const ROOT: u128 = 7000;
const CHAIN: u128 = 8000;

/// A frame of a thousand bytes takes a millisecond.
const RATE: u64 = 8_000_000;

fn root() -> Node {
    Node {
        id: id::<net::ids::kind::QosPolicy>(ROOT).uuid(),
        rate_bps: 0,
        ceil_bps: RATE,
        burst_bytes: 1_000,
        fabric: false,
    }
}

/// So much for certain, of what a node has.
fn part(rate_bps: u64, ceil: Option<u64>) -> Limit {
    let rate = |per_second| Rate {
        rule: id(1),
        per_second,
        burst: 1_000,
    };
    Limit {
        bits: ceil.map(rate),
        packets: None,
        queue_bytes: 1 << 20,
        queue: Discipline::FqCodel,
        share: Some(Share {
            rate_bps,
            within: vec![root()],
        }),
    }
}

/// Open ports 1 to 3; the first two have policies, the same each way.
fn conf(limits: [Limit; 2]) -> Conf {
    let mut conf = Conf::new();
    let mut rules = vec![];
    for family in [Family::V4, Family::V6] {
        for direction in [Direction::Egress, Direction::Ingress] {
            rules.push(rule(direction, family, None, L4Match::Any));
        }
    }
    conf.group(GROUP, true, rules).far(9).port(3, &[GROUP]);
    for (n, limit) in (1..).zip(limits) {
        let policy = id(6000 + u128::from(n));
        conf.put(Section::Qos(QosPolicy {
            id: policy,
            name: format!("part-{n}"),
            egress: limit.clone(),
            ingress: limit,
            dscp: None,
        }));
        conf.port_with(n, &[GROUP], |p| p.qos = Some(policy));
    }
    conf
}

fn udp(v6: bool, from: u16, to: u16, port: u16) -> FrameBuilder {
    let headers = if v6 { 62 } else { 42 };
    between(FrameBuilder::udp(v6, port, 53), v6, from, to).payload(&vec![0; 1000 - headers])
}

/// Ticks by the millisecond; how many frames went to each of two places.
fn count(h: &mut Host, milliseconds: u64, places: [&At; 2]) -> [usize; 2] {
    let mut counts = [0; 2];
    for _ in 0..milliseconds {
        h.pass(Duration::from_millis(1));
        for (at, _) in h.tick().0 {
            for (count, place) in counts.iter_mut().zip(places) {
                *count += usize::from(at == *place);
            }
        }
    }
    counts
}

#[test]
fn two_ports_share_a_ceiling_and_each_has_what_it_was_promised() {
    for v6 in [false, true] {
        let mut h = Host::new(&conf([part(6_000_000, None), part(1_000_000, None)]));
        for n in 0..480 {
            h.from(1, &udp(v6, 1, 3, 1000 + n));
            h.from(2, &udp(v6, 2, 9, 1000 + n));
        }
        // Of the eighth that is left the first has six parts of seven.
        let far = At::Vtep(REMOTE.into());
        let [first, second] = count(&mut h, 400, [&At::Port(3), &far]);
        assert!(
            first.abs_diff(343) <= 6 && second.abs_diff(57) <= 3,
            "{first} {second}"
        );
        // One alone has all of it.
        let mut rest = count(&mut h, 100, [&At::Port(3), &far]);
        assert_eq!(rest.iter().sum::<usize>(), 100);
        rest = count(&mut h, 1_000, [&At::Port(3), &far]);
        assert!(rest[1] > 300, "{rest:?}");
        assert_eq!(
            (h.dp.ledger().held, h.dropped(DropReason::QosQueueFull)),
            (0, 0)
        );
        // What they get is another tree's.
        for n in 0..300 {
            h.tunnelled(&udp(v6, 9, 1, 1000 + n));
            h.from(3, &udp(v6, 3, 2, 1000 + n));
        }
        let [first, second] = count(&mut h, 200, [&At::Port(1), &At::Port(2)]);
        assert!(
            first.abs_diff(171) <= 4 && second.abs_diff(29) <= 3,
            "{first} {second}"
        );
        h.dp.drain(h.now, &mut h.pool);
        h.dp.ledger().balanced().unwrap();
    }
}

#[test]
fn a_port_has_a_ceiling_of_its_own_below_the_shared_one() {
    let mut h = Host::new(&conf([
        part(1_000_000, Some(2_000_000)),
        part(1_000_000, None),
    ]));
    for n in 0..400 {
        h.from(1, &udp(false, 1, 3, 1000 + n));
        h.from(2, &udp(false, 2, 9, 1000 + n));
    }
    let far = At::Vtep(REMOTE.into());
    let [first, second] = count(&mut h, 400, [&At::Port(3), &far]);
    assert!(
        first.abs_diff(100) <= 3 && second.abs_diff(300) <= 6,
        "{first} {second}"
    );
}

#[test]
fn what_waits_goes_along_when_a_share_comes_or_goes() {
    for end in ["share", "limit", "root"] {
        let alone = |rate| Limit {
            share: None,
            ..part(0, Some(rate))
        };
        let mut h = Host::new(&conf([alone(80_000), part(1_000_000, None)]));
        for n in 0..20 {
            h.from(1, &udp(false, 1, 3, 1000 + n));
            h.from(2, &udp(false, 2, 3, 1000 + n));
        }
        assert_eq!(h.dp.ledger().held, 38);
        let to = At::Port(3);
        // Both share; the first is held up by its own limit no more.
        h.apply(&conf([part(1_000_000, None), part(1_000_000, None)]));
        assert_eq!(count(&mut h, 12, [&to, &to])[0], 12, "{end}");
        assert_eq!(h.dp.ledger().held, 26);
        match end {
            "share" => {
                h.apply(&conf([alone(RATE), alone(RATE)]));
                assert_eq!(count(&mut h, 5, [&to, &to])[0] / 5, 2, "each has the rate");
                assert!(count(&mut h, 20, [&to, &to])[0] >= 14);
            }
            "limit" => {
                h.apply(&conf([Limit::default(), Limit::default()]));
                assert_eq!(h.tick().0.len(), 26);
            }
            _ => {
                let mut other = part(0, None);
                let within = &mut other.share.as_mut().unwrap().within;
                within[0].id = id::<net::ids::kind::QosPolicy>(ROOT + 1).uuid();
                h.apply(&conf([other, part(1_000_000, None)]));
                let went = count(&mut h, 10, [&to, &to])[0];
                assert!((19..=22).contains(&went), "a root each: {went}");
                assert!(count(&mut h, 10, [&to, &to])[0] >= 4);
            }
        }
        assert_eq!(h.dp.ledger().held, 0, "{end}");
        assert_eq!(h.dropped(DropReason::QosQueueFull), 0);
        h.dp.drain(h.now, &mut h.pool);
        h.dp.ledger().balanced().unwrap();
    }
}

#[test]
fn what_waits_for_a_port_of_a_tree_that_goes_ends_by_that_name() {
    let mut c = conf([part(0, None), part(0, None)]);
    let mut h = Host::new(&c);
    for n in 0..10 {
        h.from(3, &udp(false, 3, 1, 1000 + n));
        h.from(3, &udp(false, 3, 2, 1000 + n));
    }
    assert_eq!(h.dp.ledger().held, 19);
    c.0.sections.remove(&hostconfig::SectionKey::Port(id(1)));
    h.apply(&c);
    h.tick();
    assert_eq!(h.dropped(DropReason::PortGone), 9);
    assert_eq!(count(&mut h, 12, [&At::Port(2), &At::Port(1)]), [10, 0]);
    assert_eq!(h.dp.ledger().held, 0);
    h.dp.ledger().balanced().unwrap();
}

#[test]
fn the_classes_of_a_shaper_are_chosen_by_their_marks() {
    const EF: u8 = 46;
    const AF11: u8 = 10;
    let class = |dscp: &[u8], rate_bps, ceil_bps| Class {
        dscp: dscp.to_vec(),
        rate_bps,
        ceil_bps,
    };
    for v6 in [false, true] {
        let mut c = Conf::new();
        c.web(6, 8080).port(1, &[GROUP]).far(9);
        c.chain(
            CHAIN,
            8080,
            vec![FunctionKind::Shaper(Shaper {
                rate_bps: RATE,
                burst_bytes: 2_000,
                queue_bytes: 1 << 20,
                queue: Discipline::FqCodel,
                share: None,
                classes: vec![
                    class(&[EF], 4_000_000, RATE),
                    class(&[AF11, 12], 1_000_000, 2_000_000),
                ],
            })],
        );
        let mut h = Host::new(&c);
        let headers = if v6 { 74 } else { 54 };
        for n in 0..250 {
            for dscp in [EF, AF11, 0] {
                let port = 4000 + n * 4 + u16::from(dscp % 4);
                let frame = syn(v6, (1, port), (9, 8080)).tos(dscp << 2);
                h.from(1, &frame.payload(&vec![0; 1000 - headers]));
            }
        }
        let mut counts = [0usize; 3];
        for _ in 0..200 {
            h.pass(Duration::from_millis(1));
            for (_, frame) in h.tick().0 {
                let (_, key) = Headers::parse(&frame).unwrap();
                match key.ip_tos >> 2 {
                    EF => counts[0] += 1,
                    AF11 => counts[1] += 1,
                    _ => counts[2] += 1,
                }
            }
        }
        // 5 of 8 are promised; of 3 Mbit/s that are left, the second has 1 up to its ceiling at most, by 4 to 1 to 0.08: 2.36, 0.59, 0.05.
        let all: usize = counts.iter().sum();
        assert!(all.abs_diff(200) <= 4, "{counts:?}");
        assert!(counts[0].abs_diff(159) <= 5, "{counts:?}");
        assert!(counts[1].abs_diff(40) <= 3, "{counts:?}");
        assert!(counts[2] <= 4, "{counts:?}");
        h.dp.drain(h.now, &mut h.pool);
        h.dp.ledger().balanced().unwrap();
    }
}

#[test]
fn explain_tells_what_is_shared() {
    let h = Host::new(&conf([part(1_000_000, Some(2_000_000)), part(0, None)]));
    let told = |from: &str, packet: &str| {
        let packet: Described = packet.parse().unwrap();
        let at = Entrance::Port(from.into());
        explain(&h.tables, &at, &packet, h.now).unwrap().to_string()
    };
    let shared = format!("8000000 bit/s shared ({}) of policy", root().id);
    for (from, packet, words) in [
        (
            "p1",
            "udp 10.0.0.1:1 > 10.0.0.3:2",
            format!("1000000 bit/s for certain, {shared} part-1"),
        ),
        (
            "p2",
            "udp 10.0.0.2:1 > 10.0.0.3:2",
            format!("egress: {shared} part-2"),
        ),
    ] {
        let text = told(from, packet);
        assert!(text.contains(&words), "{words}: {text}");
    }
}

#[test]
fn what_several_hosts_share_this_one_has_a_part_of() {
    let shared = |ceil| {
        let mut limit = part(0, ceil);
        for node in &mut limit.share.as_mut().unwrap().within {
            node.fabric = true;
        }
        limit
    };
    let mut h = Host::new(&conf([shared(None), shared(Some(1_000_000))]));
    for n in 0..500 {
        h.from(1, &udp(false, 1, 3, 1000 + n));
        h.from(3, &udp(false, 3, 2, 1000 + n));
    }
    let way = |direction| OneWay {
        node: root().id,
        direction,
    };
    let (sent, got) = (way(Direction::Egress), way(Direction::Ingress));
    let places = [&At::Port(3), &At::Port(2)];
    // Never told: a 64th of a frame a millisecond.
    assert_eq!(count(&mut h, 640, places), [10, 10]);
    let parts = [(sent, RATE / 2), (got, RATE / 4)].into();
    let now = h.now;
    h.dp.divide(&h.tables, &parts, now);
    let went = count(&mut h, 200, places);
    assert!(
        went[0].abs_diff(100) <= 2,
        "at once, each way apart: {went:?}"
    );
    assert!(
        went[1].abs_diff(25) <= 2,
        "its own limit is lower: {went:?}"
    );
    let now = h.now;
    let uses = h.dp.divide(&h.tables, &parts, now);
    assert_eq!(uses[&sent].bits, 8_000 * went[0] as u64);
    assert_eq!(
        (uses[&sent].waits, uses[&got].waits),
        (true, false),
        "what waits for its own limit alone waits for nobody else"
    );
    // A burst that it is done with by the time that it is asked wants no more.
    count(&mut h, 1_000, places);
    h.dp.divide(&h.tables, &parts, now);
    for n in 0..10 {
        h.from(1, &udp(false, 1, 3, 3000 + n));
    }
    count(&mut h, 30, places);
    let uses = h.dp.divide(&h.tables, &parts, now);
    assert_eq!((uses[&sent].bits, uses[&sent].waits), (80_000, false));
    for n in 0..300 {
        h.from(1, &udp(false, 1, 3, 4000 + n));
    }
    // A part above the limit is none.
    h.dp.divide(&h.tables, &[(sent, RATE * 2)].into(), now);
    let went = count(&mut h, 100, places);
    assert!(went[0].abs_diff(100) <= 2, "{went:?}");
    h.dp.drain(h.now, &mut h.pool);
    h.dp.ledger().balanced().unwrap();
}
