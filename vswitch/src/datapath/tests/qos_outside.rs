//! What a QoS policy does to what passes by a floating IP, or by a router's gateway.

use std::{net::IpAddr, time::Duration};

use hostconfig::{
    QosPolicy,
    qos::{Limit, Rate},
};
use net::{
    DropReason, Gso, Headers, Id, Offload,
    ids::kind,
    testkit::{FrameBuilder, mac, tcp},
};

use crate::stats::WorkerStats;

use super::{
    super::{Action, Described, explain, explain::Entrance},
    floating::{floating, shown},
    harness::*,
    routing::{at, gate},
    several::*,
};

const POLICY: u128 = 6000;
const BITS: u128 = 6001;
const PACKETS: u128 = 6002;

/// A frame of a thousand bytes a millisecond, after two at once; ten wait.
fn bits() -> Limit {
    Limit {
        bits: Some(Rate {
            rule: id(BITS),
            per_second: 8_000_000,
            burst: 2_000,
        }),
        packets: None,
        queue_bytes: 10_000,
        queue: hostconfig::Discipline::Fifo,
        share: None,
    }
}

fn packets() -> Limit {
    Limit {
        bits: None,
        packets: Some(Rate {
            rule: id(PACKETS),
            per_second: 1_000,
            burst: 4,
        }),
        queue_bytes: 1 << 20,
        queue: hostconfig::Discipline::Fifo,
        share: None,
    }
}

fn policy(n: u128, egress: Limit, ingress: Limit) -> QosPolicy {
    QosPolicy {
        id: id(POLICY + n),
        name: "gold".into(),
        egress,
        ingress,
        dscp: None,
    }
}

fn none() -> Limit {
    Limit::default()
}

fn addr(n: u16) -> IpAddr {
    at(OUT, n, false)
}

/// A thousand bytes.
fn udp(v6: bool, src: u16, dst: u16) -> FrameBuilder {
    let headers = if v6 { 62 } else { 42 };
    FrameBuilder::udp(v6, src, dst).payload(&vec![0; 1000 - headers])
}

fn from_world(frame: FrameBuilder, n: u16) -> FrameBuilder {
    frame.macs(mac(NEXT), shown(n)).addrs(world(false), addr(n))
}

/// From a workload of network 0 to a floating IP, by router 1.
fn between(frame: FrameBuilder, n: u16, to: u16) -> FrameBuilder {
    frame
        .macs(mac(n), gate(1, 0))
        .addrs(at(0, n, false), addr(to))
}

/// Ticks of a host by the millisecond; how many frames came out in each.
fn released(s: &mut Several, host: usize, milliseconds: usize) -> Vec<usize> {
    let steps = (0..milliseconds).map(|_| {
        s.pass(Duration::from_millis(1));
        s.hosts[host].tick().0.len()
    });
    steps.collect()
}

/// What came to the limits of an address, in and out: packets and drops.
fn counted(h: &Host, port: Id<kind::Port>) -> [(u64, u64); 2] {
    let port = h.tables.number_outside(port).unwrap();
    let counters = h.dp.counters().limits.get(port.index());
    let counters = counters.copied().unwrap_or_default();
    counters.map(|c| (c.packets, c.drops))
}

fn of_floating(n: u16) -> Id<kind::Port> {
    id(6500 + u128::from(n))
}

fn of_gateway() -> Id<kind::Port> {
    id(7901)
}

/// Workload 1 has floating IP 100, 3 has 101, both at host 0; each has a policy of its own.
fn plan(groups: &[u128]) -> Plan {
    let mut plan = Plan::new(groups);
    plan.workloads.push((0, 3, 0, groups.to_vec()));
    plan.floating = [(100, 1), (101, 3)]
        .map(|(n, to)| {
            let mut floating = floating(n, Some(to), &[], Some(0));
            floating.qos = Some(id(POLICY + u128::from(n)));
            floating
        })
        .to_vec();
    plan.qos = vec![policy(100, none(), none()), policy(101, none(), none())];
    plan
}

/// Once all who are new here have told of themselves.
fn quiet(plan: Plan) -> Several {
    let mut s = Several::new(plan);
    for _ in 0..5 {
        s.pass(Duration::from_secs(1));
        for host in &mut s.hosts {
            host.tick();
        }
    }
    s
}

#[test]
fn what_passes_by_a_floating_ip_is_one_stream_each_way() {
    for groups in [&[][..], &[GROUP]] {
        let mut p = plan(groups);
        p.qos[0] = policy(100, bits(), bits());
        let mut s = quiet(p);
        // Whoever outside it is for, also in answers: the burst goes at once, what is above has to wait.
        for n in 0..20 {
            let frame = outward(udp(false, 53, 1000 + n), false, 1);
            assert_eq!(s.from(1, &frame).len(), usize::from(n < 2));
        }
        assert_eq!(s.dropped(DropReason::QosQueueFull), 8);
        assert_eq!(s.hosts[0].dp.ledger().held, 10);
        // What waits has its floating IP's address already.
        s.pass(Duration::from_millis(1));
        let got = s.hosts[0].tick().0;
        assert_eq!(shows(&got[0].1).0, addr(100));
        assert_eq!(
            released(&mut s, 0, 10),
            [1, 1, 1, 1, 1, 1, 1, 1, 1, 0],
            "exact"
        );
        // The other way is another matter, and so is the other workload, and what stays inside.
        for n in 0..3 {
            let frame = outward(udp(false, 53, 1000 + n), false, 3);
            assert_eq!(s.from(3, &frame).len(), 1);
        }
        assert_eq!(counted(&s.hosts[0], of_floating(100)), [(0, 0), (20, 8)]);
        if groups.is_empty() {
            let inside = udp(false, 1, 2).macs(mac(1), mac(3));
            let inside = inside.addrs(at(0, 1, false), at(0, 3, false));
            for _ in 0..5 {
                assert_eq!(s.from(1, &inside).len(), 1);
            }
        }
        for n in 0..20 {
            let frame = from_world(udp(false, 1000 + n, 53), 100);
            let came = s.from(NEXT, &frame).len();
            assert_eq!(
                came,
                usize::from(n < 2),
                "an answer, or to its group's rule"
            );
        }
        assert_eq!(counted(&s.hosts[0], of_floating(100)), [(20, 8), (20, 8)]);
        assert_eq!(released(&mut s, 0, 11)[..10], [1; 10]);
        assert_eq!(counted(&s.hosts[0], of_floating(101)), [(0, 0); 2]);
        let record = s.hosts[0].dp.drops().iter().next().unwrap();
        assert_eq!(record.refusal.rule, Some(id(BITS)));
    }
}

#[test]
fn a_forwarded_port_counts_where_its_floating_ip_is() {
    let mut p = Plan::new(&[]);
    let mut one = floating(100, None, &[(17, 53, 1)], Some(1));
    one.qos = Some(id(POLICY));
    (p.floating, p.qos) = (vec![one], vec![policy(0, bits(), bits())]);
    let mut s = quiet(p);
    for n in 0..5 {
        let came = s.from(NEXT, &from_world(udp(false, 1000, 53), 100));
        assert_eq!(came.len(), usize::from(n < 2));
    }
    assert_eq!(counted(&s.hosts[1], of_floating(100)), [(5, 0), (0, 0)]);
    for n in 0..5 {
        let answer = outward(udp(false, 80, 1000), false, 1);
        let came = s.from(1, &answer);
        let seen: Vec<_> = came.iter().map(|c| shows(&c.2)).collect();
        assert_eq!(came.len(), usize::from(n < 2), "{n}: {seen:?}");
    }
    assert_eq!(counted(&s.hosts[1], of_floating(100)), [(5, 0), (5, 0)]);
}

#[test]
fn what_passes_by_a_gateway_is_one_stream_each_way_but_for_floating_ips() {
    for v6 in [false, true] {
        let mut p = Plan::new(&[]);
        p.workloads.push((0, 3, 0, vec![]));
        // One floating IP is where the gateway is too.
        p.floating = vec![floating(100, Some(3), &[], Some(1))];
        p.qos = vec![policy(0, bits(), bits())];
        p.gateway(1, |g| g.qos = Some(id(POLICY)));
        let mut s = quiet(p);
        // Two workloads share it, wherever they are.
        for n in 0..20 {
            let from = 1 + n % 2;
            let frame = outward(udp(v6, 500, 1000), v6, from);
            assert_eq!(s.from(from, &frame).len(), usize::from(n < 2));
        }
        assert_eq!(s.hosts[1].dp.ledger().held, 10);
        assert_eq!(s.dropped(DropReason::QosQueueFull), 8);
        s.pass(Duration::from_millis(1));
        let got = s.hosts[1].tick().0;
        let (src, _, port) = shows(&got[0].1);
        if v6 {
            assert!(
                [at(0, 1, true), at(0, 2, true)].contains(&src),
                "not hidden"
            );
        } else {
            assert_eq!(src, addr(GATE));
        }
        assert_eq!(released(&mut s, 1, 10)[..9], [1; 9]);
        let to = if v6 { src } else { addr(GATE) };
        for n in 0..20 {
            let frame = inward(udp(v6, 1000, port), v6, 1, to);
            assert_eq!(s.from(NEXT, &frame).len(), usize::from(n < 2));
        }
        assert_eq!(counted(&s.hosts[1], of_gateway()), [(20, 8), (20, 8)]);
        assert_eq!(released(&mut s, 1, 11)[..10], [1; 10]);
        if !v6 {
            for _ in 0..5 {
                let frame = outward(udp(false, 1, 1000), false, 3);
                assert_eq!(shows(&s.one(3, &frame, NEXT)).0, addr(100));
                s.one(NEXT, &from_world(udp(false, 1000, 1), 100), 3);
            }
            assert_eq!(counted(&s.hosts[1], of_gateway()), [(20, 8), (20, 8)]);
        }
        // A ping of the gateway itself is the switch's to answer, and limited as such.
        let ping = inward(FrameBuilder::echo(v6, 7), v6, 1, at(OUT, GATE, v6));
        assert_eq!(s.from(NEXT, &ping).len(), 1);
        // Nobody else has its limit.
        assert_eq!(s.hosts[0].tables.number_outside(of_gateway()), None);
    }
}

#[test]
fn between_two_floating_ips_of_one_switch_both_limit_both_ways() {
    let mut p = plan(&[GROUP]);
    let all = || packets();
    p.qos = vec![policy(100, all(), all()), policy(101, all(), all())];
    let mut s = quiet(p);
    let ask = |flags, src, dst| FrameBuilder::tcp(false, src, dst).flags(flags).payload(&[]);
    let syn = between(ask(tcp::SYN, 4000, 80).seq(100, 0), 1, 101);
    let got = s.one(1, &syn, 3);
    let key = Headers::parse(&got).unwrap().1;
    assert_eq!(
        (key.src_addr(), key.dst_addr()),
        (addr(100), at(0, 3, false))
    );
    let back = ask(tcp::SYN | tcp::ACK, 80, 4000).seq(500, 101);
    s.one(3, &between(back, 3, 100), 1);
    let sums = |s: &Several| [100, 101].map(|n| counted(&s.hosts[0], of_floating(n)));
    assert_eq!(sums(&s), [[(1, 0), (1, 0)], [(1, 0), (1, 0)]]);
    let more = between(ask(tcp::ACK, 4000, 80).seq(101, 501), 1, 101);
    for n in 0..5 {
        assert_eq!(s.from(1, &more).len(), usize::from(n < 3), "four at once");
    }
    let back = between(ask(tcp::ACK, 80, 4000).seq(501, 101), 3, 100);
    for n in 0..5 {
        assert_eq!(s.from(3, &back).len(), usize::from(n < 3), "four at once");
    }
    // What waits in the first queue has not come to the second.
    assert_eq!(sums(&s), [[(4, 0), (6, 0)], [(4, 0), (6, 0)]]);
    released(&mut s, 0, 4);
    assert_eq!(sums(&s), [[(6, 0), (6, 0)], [(6, 0), (6, 0)]]);
    assert_eq!(s.hosts[0].dp.ledger().held, 0);
}

#[test]
fn an_answer_from_a_floating_ip_to_a_gateway_of_the_same_switch_counts_at_both() {
    let mut p = plan(&[]);
    p.gateway(1, |g| (g.at, g.qos) = (Some(vtep(0)), Some(id(POLICY))));
    p.floating.pop();
    p.qos = vec![
        policy(0, packets(), packets()),
        policy(100, packets(), packets()),
    ];
    let mut s = quiet(p);
    // Workload 3 has none: it shows the gateway.
    let got = s.one(3, &between(udp(false, 500, 53), 3, 100), 1);
    assert_eq!(shows(&got).0, addr(GATE));
    let (_, _, port) = shows(&got);
    let answer = udp(false, 53, port)
        .macs(mac(1), gate(1, 0))
        .addrs(at(0, 1, false), addr(GATE));
    s.one(1, &answer, 3);
    assert_eq!(counted(&s.hosts[0], of_gateway()), [(1, 0), (1, 0)]);
    assert_eq!(counted(&s.hosts[0], of_floating(100)), [(1, 0), (1, 0)]);
}

#[test]
fn super_frames_cost_what_their_segments_do() {
    let mut p = plan(&[]);
    p.qos[0] = policy(100, packets(), none());
    let mut s = quiet(p);
    let train = outward(FrameBuilder::udp(false, 53, 1000), false, 1);
    let train = train.payload(&[0; 80]).build();
    let host = &mut s.hosts[0];
    for n in 0..3 {
        let mut packet = host.pool.take(train.len()).unwrap();
        packet.fill(&train).unwrap();
        packet.set_origin(host.origin(1));
        packet.set_offload(Offload {
            gso: Gso::Udp { size: 20 },
            ..Offload::default()
        });
        assert_eq!(host.enter_packet(packet).len(), usize::from(n == 0));
    }
    assert_eq!(host.dp.ledger().held, 8, "twice four segments");
    assert_eq!(released(&mut s, 0, 8), [0, 0, 0, 1, 0, 0, 0, 1]);
    assert_eq!(counted(&s.hosts[0], of_floating(100)), [(0, 0), (12, 0)]);
}

#[test]
fn an_icmp_error_waits_as_the_rest_does() {
    let mut p = plan(&[GROUP]);
    p.qos[0] = policy(100, packets(), none());
    let mut s = quiet(p);
    let asked = from_world(FrameBuilder::tcp(false, 4000, 80).flags(tcp::SYN), 100);
    let got = s.one(NEXT, &asked, 1);
    for _ in 0..4 {
        let other = outward(udp(false, 1, 2), false, 1);
        assert_eq!(s.from(1, &other).len(), 1);
    }
    // It goes back by the way that it came, to the router.
    assert_eq!(s.raw(1, FrameBuilder::icmp_error(&got)), []);
    assert_eq!(s.hosts[0].dp.ledger().held, 1);
    s.pass(Duration::from_millis(1));
    let got = s.hosts[0].tick().0;
    let key = Headers::parse(&got[0].1).unwrap().1;
    assert_eq!((key.ip_proto, key.src_addr()), (1, addr(100)));
}

#[test]
fn a_policy_changes_comes_and_goes_while_packets_wait() {
    for end in ["limit", "policy", "address", "moved"] {
        let mut p = plan(&[]);
        p.qos[0] = policy(100, bits(), none());
        let mut s = quiet(p);
        let send = |s: &mut Several| s.from(1, &outward(udp(false, 53, 9), false, 1)).len();
        for _ in 0..6 {
            send(&mut s);
        }
        assert_eq!(s.hosts[0].dp.ledger().held, 4);
        let mut fast = bits();
        fast.bits.as_mut().unwrap().per_second *= 2;
        s.change(|p| p.qos[0].egress = fast);
        s.hosts[0].tick();
        assert_eq!(released(&mut s, 0, 1), [2], "twice as fast");
        s.change(|p| match end {
            "limit" => p.qos[0].egress = none(),
            "policy" => p.floating[0].qos = None,
            "address" => drop(p.floating.remove(0)),
            _ => p.floating[0].at = Some(vtep(1)),
        });
        assert_eq!(s.hosts[0].tick().0.len(), 2, "{end}");
        assert_eq!(s.hosts[0].dp.ledger().held, 0);
        for n in 0..4 {
            // Where it is now the limit holds.
            let limited = end == "moved" && n >= 2;
            assert_eq!(send(&mut s), usize::from(!limited), "{end} {n}");
        }
        assert_eq!(s.dropped(DropReason::QosQueueFull), 0);
        // What went comes again with a full burst.
        s.pass(Duration::from_secs(1));
        s.change(|p| {
            *p = {
                let mut p = plan(&[]);
                p.qos[0] = policy(100, bits(), none());
                p
            }
        });
        s.hosts[0].tick();
        s.hosts[1].tick();
        let sent: Vec<_> = (0..3).map(|_| send(&mut s)).collect();
        assert_eq!(sent, [1, 1, 0], "{end}");
    }
}

#[test]
fn the_end_of_the_switch_drops_what_waits_by_name() {
    let mut p = plan(&[]);
    p.qos[0] = policy(100, bits(), none());
    let mut s = quiet(p);
    for _ in 0..6 {
        s.from(1, &outward(udp(false, 53, 9), false, 1));
    }
    let h = &mut s.hosts[0];
    h.dp.drain(h.now, &mut h.pool);
    assert_eq!(h.dropped(DropReason::Shutdown), 4);
    assert_eq!(h.dp.ledger().held, 0);
    h.dp.ledger().balanced().unwrap();
}

#[test]
fn without_a_policy_a_floating_ip_has_the_short_way() {
    let mut p = plan(&[GROUP]);
    p.floating[0].qos = None;
    p.qos[1] = policy(101, bits(), none());
    let mut s = quiet(p);
    for (n, queues) in [(1, 0), (3, 1)] {
        let frame = outward(FrameBuilder::tcp(false, 53, 9).flags(tcp::SYN), false, n);
        s.one(n, &frame, NEXT);
        let programs = s.hosts[0].dp.programs().iter();
        let with = programs.filter(|(_, flow)| {
            let waits = |a: &Action| matches!(a, Action::Queue(_));
            flow.actions.iter().any(waits)
        });
        assert_eq!(with.count(), queues);
    }
}

#[test]
fn explain_tells_the_limit_and_metrics_count_it() {
    let mut p = plan(&[]);
    p.qos[0] = policy(100, bits(), packets());
    p.gateway(1, |g| g.qos = Some(id(POLICY + 101)));
    p.qos[1] = policy(101, bits(), none());
    let mut s = quiet(p);
    let frame = outward(FrameBuilder::udp(false, 53, 9), false, 1);
    s.one(1, &frame, NEXT);
    let h = &s.hosts[0];
    let packet: Described = "udp 10.0.0.1:53 > 203.0.113.5:9".parse().unwrap();
    let entrance = Entrance::Port("p1".into());
    let text = explain(&h.tables, &entrance, &packet, h.now).unwrap();
    let text = text.to_string();
    let name = of_floating(100);
    for words in [
        "floating ip egress: 8000000 bit/s".to_owned(),
        format!("queue({name} egress)"),
    ] {
        assert!(text.contains(&words), "{words}: {text}");
    }
    let families = WorkerStats::of(&h.dp).families(&h.tables);
    let all = families
        .iter()
        .find(|f| f.metric.name == "vswitch_qos_packets_total");
    let labels = |way: &str, verdict: &str| {
        let labels = [name.to_string(), way.to_owned(), verdict.to_owned()];
        labels.to_vec()
    };
    let rows = [
        (labels("ingress", "pass"), 0),
        (labels("ingress", "drop"), 0),
        (labels("egress", "pass"), 1),
        (labels("egress", "drop"), 0),
    ];
    let all = &all.unwrap().rows;
    assert!(rows.iter().all(|row| all.contains(row)), "{all:?}");
    let gateway = of_gateway().to_string();
    assert!(
        all.iter().all(|(labels, _)| labels[0] != gateway),
        "it is elsewhere: {all:?}"
    );
}
