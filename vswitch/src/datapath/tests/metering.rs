//! Is what crosses a router's gateway counted, once, where it crosses, and nothing else?

use hostconfig::{Meter, MeterRule, group::Direction};
use net::{
    Prefix,
    testkit::{FrameBuilder, mac, tcp},
};

use super::{
    floating::{floating, shown},
    harness::*,
    routing::{at, gate},
    several::*,
};

/// Packets and bytes of IP that a host counted under a label.
fn counted(s: &Several, host: usize, label: u128) -> (u64, u64) {
    let tables = &s.hosts[host].tables;
    let meter = tables.meters().find(|(_, l, _)| *l == id(label));
    let of = meter.and_then(|(m, ..)| s.hosts[host].dp.counters().meters.get(m.0 as usize));
    of.map_or((0, 0), |c| (c.packets, c.bytes))
}

fn rule(
    direction: Direction,
    excluded: bool,
    source: Option<Prefix>,
    destination: Option<Prefix>,
) -> MeterRule {
    MeterRule {
        direction,
        excluded,
        source,
        destination,
    }
}

fn inside(v6: bool) -> Prefix {
    let text = if v6 { "fd00::/64" } else { "10.0.0.0/24" };
    text.parse().unwrap()
}

/// 1: all of the network, both ways. 2: to the world's host. 3: all of the network but this client's. 4: another's. 5: from the world's host.
fn labels(v6: bool, client: u16) -> Vec<Meter> {
    use Direction::{Egress, Ingress};
    let (all, own) = (Some(inside(v6)), Some(Prefix::host(at(0, client, v6))));
    let outside = Some(Prefix::host(world(v6)));
    let both = |excluded, end| {
        [
            rule(Egress, excluded, end, None),
            rule(Ingress, excluded, None, end),
        ]
    };
    let label = |n, rules: &[MeterRule]| Meter {
        label: id(n),
        rules: rules.to_vec(),
    };
    let foreign = Some(Prefix::host(at(1, 9, v6)));
    vec![
        label(1, &both(false, all)),
        label(2, &[rule(Egress, false, all, outside)]),
        label(3, &[both(false, all), both(true, own)].concat()),
        label(4, &both(false, foreign)),
        label(5, &[rule(Ingress, false, outside, None)]),
    ]
}

/// A connection's packets: out or in, and what is sent.
fn packets(v6: bool) -> Vec<(bool, FrameBuilder)> {
    let forth = |flags| FrameBuilder::tcp(v6, 4000, 443).flags(flags);
    let back = |flags| FrameBuilder::tcp(v6, 443, 4000).flags(flags);
    let (syn, ack) = (tcp::SYN, tcp::ACK);
    let mut all = vec![
        (true, forth(syn).seq(100, 0)),
        (false, back(syn | ack).seq(500, 101)),
    ];
    for _ in 0..4 {
        all.push((true, forth(ack).seq(101, 501)));
        all.push((false, back(ack).seq(501, 101)));
    }
    all
}

#[test]
fn a_gateway_counts_under_the_labels_that_mean_a_connection() {
    for v6 in [false, true] {
        for (client, groups) in [(1, &[][..]), (2, &[]), (1, &[GROUP]), (2, &[GROUP])] {
            let case = format!("v6 {v6}, client {client}, groups {groups:?}");
            let mut plan = Plan::new(groups);
            plan.meters = labels(v6, client);
            let mut s = Several::new(plan);
            let (mut out, mut back) = ((0, 0), (0, 0));
            for (leaves, frame) in packets(v6) {
                let (sum, frame) = if leaves {
                    let frame = outward(frame, v6, client);
                    s.one(client, &frame, NEXT);
                    (&mut out, frame)
                } else {
                    let seen = if v6 {
                        at(0, client, true)
                    } else {
                        at(OUT, GATE, false)
                    };
                    let frame = inward(frame, v6, 1, seen);
                    s.one(NEXT, &frame, client);
                    (&mut back, frame)
                };
                // Without Ethernet's header.
                *sum = (sum.0 + 1, sum.1 + frame.build().len() as u64 - 14);
            }
            let both = (out.0 + back.0, out.1 + back.1);
            for h in 0..4 {
                let here = |sum| if h == 1 { sum } else { (0, 0) };
                assert_eq!(counted(&s, h, 1), here(both), "{case}, host {h}");
                assert_eq!(counted(&s, h, 2), here(out), "{case}, host {h}");
                assert_eq!(counted(&s, h, 3), (0, 0), "{case}, host {h}");
                assert_eq!(counted(&s, h, 4), (0, 0), "{case}, host {h}");
                assert_eq!(counted(&s, h, 5), here(back), "{case}, host {h}");
            }
            // Another client of the network is not excluded.
            let other = outward(packets(v6)[0].1.clone(), v6, 3 - client);
            s.one(3 - client, &other, NEXT);
            assert_eq!(counted(&s, 1, 3).0, 1, "{case}");
        }
    }
}

#[test]
fn what_crosses_no_gateway_is_not_counted() {
    for v6 in [false, true] {
        let mut plan = Plan::new(&[]);
        plan.workloads.push((1, 9, 1, vec![]));
        plan.meters = labels(v6, 7);
        let mut s = Several::new(plan);
        // Between two networks of the router, to its own address, and what comes in and is dropped.
        let frame = FrameBuilder::udp(v6, 5000, 53);
        let frame = frame.macs(mac(2), gate(1, 0));
        s.one(2, &frame.clone().addrs(at(0, 2, v6), at(1, 9, v6)), 9);
        let ping = FrameBuilder::echo(v6, 7).macs(mac(2), gate(1, 0));
        s.one(2, &ping.addrs(at(0, 2, v6), at(0, 254, v6)), 2);
        let probe = inward(FrameBuilder::echo(v6, 7), v6, 1, at(OUT, GATE, v6));
        s.one(NEXT, &probe, NEXT);
        if !v6 {
            let stray = inward(FrameBuilder::udp(v6, 53, 5000), v6, 1, at(0, 2, v6));
            assert_eq!(s.from(NEXT, &stray), []);
        }
        for label in 1..=5 {
            assert_eq!(counted(&s, 1, label), (0, 0), "label {label}, v6 {v6}");
        }
    }
}

#[test]
fn a_floating_ip_is_counted_by_its_workloads_own_address_at_its_host() {
    for (n, at_host) in [(1, 0), (2, 1), (1, 1)] {
        let mut plan = Plan::new(&[]);
        plan.floating = vec![floating(100, Some(n), &[], Some(at_host))];
        plan.meters = labels(false, 7);
        let mut s = Several::new(plan);
        let (syn, ack) = (tcp::SYN, tcp::ACK);
        let forth = |flags| FrameBuilder::tcp(false, 4000, 80).flags(flags);
        let back = |flags| FrameBuilder::tcp(false, 80, 4000).flags(flags);
        let there = |frame: FrameBuilder| {
            let frame = frame.macs(mac(NEXT), shown(100));
            frame.addrs(world(false), at(OUT, 100, false))
        };
        s.one(NEXT, &there(forth(syn).seq(100, 0)), n);
        s.one(n, &outward(back(syn | ack).seq(500, 101), false, n), NEXT);
        for _ in 0..3 {
            s.one(NEXT, &there(forth(ack).seq(101, 501)), n);
            s.one(n, &outward(back(ack).seq(501, 101), false, n), NEXT);
        }
        // One that it begins itself.
        let own = outward(FrameBuilder::udp(false, 5000, 53), false, n);
        s.one(n, &own, NEXT);
        for (label, packets) in [(1, 9), (2, 5), (3, 9), (4, 0), (5, 4)] {
            let all: u64 = (0..4).map(|h| counted(&s, h, label).0).sum();
            let case = format!("label {label}, {n} at {at_host}");
            assert_eq!(counted(&s, at_host, label).0, packets, "{case}");
            assert_eq!(all, packets, "{case}");
        }
    }
}

#[test]
fn labels_that_come_and_go_count_for_connections_that_stay() {
    let mut s = Several::new(Plan::new(&[]));
    let ask = outward(FrameBuilder::udp(false, 5000, 53), false, 1);
    let ports: Vec<_> = (0..2).map(|_| shows(&s.one(1, &ask, NEXT)).2).collect();
    s.change(|plan| plan.meters = labels(false, 7));
    let again = shows(&s.one(1, &ask, NEXT)).2;
    assert_eq!(counted(&s, 1, 1).0, 1);
    s.change(|plan| plan.meters.clear());
    assert_eq!(shows(&s.one(1, &ask, NEXT)).2, again);
    assert_eq!(again, ports[0]);
    assert_eq!(s.hosts[1].tables.meters().count(), 0);
    s.change(|plan| plan.meters = labels(false, 7));
    s.one(1, &ask, NEXT);
    // It begins anew: the agent adds it up.
    assert_eq!(counted(&s, 1, 1).0, 1);
}
