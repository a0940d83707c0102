//! Do packets leave the fabric by their router's gateway, and find their way back?

use std::time::Duration;

use net::{
    Consumed, DropReason, Headers, Originated,
    testkit::{FrameBuilder, mac, tcp},
};

use super::{
    super::{Settings, explain::Entrance},
    harness::*,
    routing::{at, gate, told},
    several::*,
};

/// A way of a connection's packets: out and back, by what each end shows.
fn segments(v6: bool) -> [(bool, FrameBuilder); 4] {
    let forth = |flags| FrameBuilder::tcp(v6, 4000, 443).flags(flags);
    let back = |flags| FrameBuilder::tcp(v6, 443, 4000).flags(flags);
    let (syn, ack) = (tcp::SYN, tcp::ACK);
    [
        (true, forth(syn).seq(100, 0)),
        (false, back(syn | ack).seq(500, 101)),
        (true, forth(ack).seq(101, 501)),
        (false, back(ack).seq(501, 101)),
    ]
}

/// What the world sees of a workload.
fn seen(v6: bool, n: u16) -> std::net::IpAddr {
    if v6 {
        at(0, n, true)
    } else {
        at(OUT, GATE, false)
    }
}

#[test]
fn a_connection_leaves_by_the_gateways_host_and_its_answers_come_back() {
    for v6 in [false, true] {
        for groups in [&[][..], &[GROUP]] {
            for (client, outside) in [(1, 2), (2, 2), (1, 1), (2, 1)] {
                let case = format!("v6 {v6}, groups {groups:?}, {client}, next hop at {outside}");
                let mut plan = Plan::new(groups);
                plan.place(NEXT, outside);
                let mut s = Several::new(plan);
                let go = |s: &mut Several, out: bool, frame: FrameBuilder| {
                    let got = if out {
                        s.one(client, &outward(frame, v6, client), NEXT)
                    } else {
                        s.one(NEXT, &inward(frame, v6, 1, seen(v6, client)), client)
                    };
                    let (_, key) = Headers::parse(&got).unwrap();
                    let ends = (key.src_addr(), key.dst_addr());
                    let macs = (key.src_mac(), key.dst_mac());
                    if out {
                        assert_eq!(ends, (seen(v6, client), world(v6)), "{case}");
                        assert_eq!(macs, (door(1), mac(NEXT)), "{case}");
                        assert_eq!((key.l4_src, key.l4_dst), (4000, 443), "{case}");
                    } else {
                        assert_eq!(ends, (world(v6), at(0, client, v6)), "{case}");
                        assert_eq!(macs, (gate(1, 0), mac(client)), "{case}");
                        assert_eq!((key.l4_src, key.l4_dst), (443, 4000), "{case}");
                    }
                    assert_eq!(key.ip_ttl, 63, "counted once: {case}");
                };
                for (out, frame) in segments(v6) {
                    go(&mut s, out, frame);
                }
                let before = s.upcalls();
                for _ in 0..3 {
                    for (out, frame) in &segments(v6)[2..] {
                        go(&mut s, *out, frame.clone());
                    }
                }
                assert_eq!(s.upcalls(), before, "{case}");
                let known = s.hosts[1].dp.counters().lookups.exact;
                assert!(v6 || known >= 6, "{case}: {known}");
            }
        }
    }
}

#[test]
fn queries_datagrams_and_other_protocols_are_hidden_and_told_apart() {
    let mut s = Several::new(Plan::new(&[]));
    let protocol = |n| outward(FrameBuilder::other(false, 47), false, n);
    // Two clients with the same port, or identifier.
    for n in [1, 2] {
        for frame in [
            FrameBuilder::udp(false, 5000, 53),
            FrameBuilder::echo(false, 7),
        ] {
            let got = s.one(n, &outward(frame, false, n), NEXT);
            assert_eq!(shows(&got).0, at(OUT, GATE, false));
        }
    }
    // The last ones of each kind: who has which is told by the port outside.
    let mut ports = vec![];
    for n in [1, 2] {
        for v in 0..2 {
            let frame = FrameBuilder::udp(false, 5000, 53 + v);
            let got = s.one(n, &outward(frame, false, n), NEXT);
            let port = shows(&got).2;
            ports.push((n, v, port));
            let back = FrameBuilder::udp(false, 53 + v, port);
            let back = s.one(NEXT, &inward(back, false, 1, at(OUT, GATE, false)), n);
            let (_, key) = Headers::parse(&back).unwrap();
            assert_eq!((key.dst_addr(), key.l4_dst), (at(0, n, false), 5000));
        }
        let ping = outward(FrameBuilder::echo(false, 9), false, n);
        let identifier = shows(&s.one(n, &ping, NEXT)).2;
        let pong = FrameBuilder::echo_reply(false, identifier);
        let back = s.one(NEXT, &inward(pong, false, 1, at(OUT, GATE, false)), n);
        assert_eq!(Headers::parse(&back).unwrap().1.icmp_id, 9);
    }
    let outside: std::collections::BTreeSet<_> = ports.iter().map(|p| (p.1, p.2)).collect();
    assert_eq!(outside.len(), 4, "{ports:?}");
    // Without ports there is one of a kind.
    let got = s.one(1, &protocol(1), NEXT);
    assert_eq!(shows(&got).0, at(OUT, GATE, false));
    let back = inward(
        FrameBuilder::other(false, 47),
        false,
        1,
        at(OUT, GATE, false),
    );
    s.one(NEXT, &back, 1);
    assert_eq!(s.from(2, &protocol(2)), []);
    assert_eq!(s.dropped(DropReason::NatExhausted), 1);
}

#[test]
fn fragments_go_with_their_first_one() {
    for (client, v6) in [(1, false), (2, false), (1, true)] {
        let mut s = Several::new(Plan::new(&[]));
        let first = FrameBuilder::udp(v6, 5000, 53).payload(&[1; 64]);
        let first = outward(first.fragment(77, 0, true), v6, client);
        let got = s.one(client, &first, NEXT);
        assert_eq!(shows(&got).0, seen(v6, client));
        let port = shows(&got).2;
        let later = FrameBuilder::udp(v6, 5000, 53).payload(&[2; 24]);
        let later = outward(later.fragment(77, 9, false), v6, client);
        let got = s.one(client, &later, NEXT);
        assert_eq!(Headers::parse(&got).unwrap().1.src_addr(), seen(v6, client));
        let back = FrameBuilder::udp(v6, 53, port).payload(&[1; 64]);
        let back = inward(back.fragment(78, 0, true), v6, 1, seen(v6, client));
        s.one(NEXT, &back, client);
        let back = FrameBuilder::udp(v6, 53, port).payload(&[2; 24]);
        let back = inward(back.fragment(78, 9, false), v6, 1, seen(v6, client));
        let got = s.one(NEXT, &back, client);
        assert_eq!(
            Headers::parse(&got).unwrap().1.dst_addr(),
            at(0, client, v6)
        );
    }
}

#[test]
fn errors_about_hidden_packets_are_translated_both_ways() {
    for client in [1, 2] {
        let mut s = Several::new(Plan::new(&[GROUP]));
        let ask = outward(FrameBuilder::udp(false, 5000, 53), false, client);
        let sent = s.one(client, &ask, NEXT);
        // Of a router in the world, about what it got.
        let error = FrameBuilder::icmp_error(&sent);
        let got = s.one_raw(NEXT, error, client);
        let (.., quoted) = told(&got);
        let own = Headers::parse(&ask.build())
            .unwrap()
            .1
            .five_tuple()
            .unwrap();
        assert_eq!(quoted, own.to_string());
        assert_eq!(shows(&got).1, at(0, client, false));
        // Of the workload, about an answer.
        let answer = FrameBuilder::udp(false, 53, shows(&sent).2);
        let answer = inward(answer, false, 1, at(OUT, GATE, false));
        let got = s.one(NEXT, &answer, client);
        let error = s.one_raw(client, FrameBuilder::icmp_error(&got), NEXT);
        let (.., quoted) = told(&error);
        let shown = Headers::parse(&answer.build()).unwrap().1.five_tuple();
        assert_eq!(quoted, shown.unwrap().to_string());
        assert_eq!(shows(&error).0, at(OUT, GATE, false));
        // One that belongs to nothing stays.
        let stray = outward(FrameBuilder::udp(false, 6000, 53), false, client).build();
        let stray = FrameBuilder::icmp_error(&{
            let (_, key) = Headers::parse(&stray).unwrap();
            FrameBuilder::udp(false, 53, 6000)
                .macs(key.dst_mac(), key.src_mac())
                .addrs(key.dst_addr(), key.src_addr())
                .build()
        });
        assert_eq!(s.raw(client, stray), []);
        assert_eq!(s.dropped(DropReason::ConntrackInvalid), 1);
    }
}

#[test]
fn who_can_not_go_on_is_told_by_the_router_though_its_gateway_is_far() {
    for v6 in [false, true] {
        for client in [1, 2] {
            let mut plan = Plan::new(&[GROUP]);
            plan.mtu = 1280;
            let mut s = Several::new(plan);
            let ask = |ttl, len: usize| {
                let frame = FrameBuilder::udp(v6, 5000, 53).payload(&vec![7; len]);
                outward(frame, v6, client).ttl(ttl)
            };
            let own = Headers::parse(&ask(64, 0).build()).unwrap().1.five_tuple();
            let own = own.unwrap().to_string();
            let router = at(0, 254, v6).to_string();
            // Its TTL is used up, before and after its connection is known.
            for _ in 0..2 {
                let error = s.one(client, &ask(1, 0), client);
                let kind = if v6 { 3 } else { 11 };
                assert_eq!(told(&error), (kind, 0, router.clone(), own.clone()));
                s.one(client, &ask(64, 0), NEXT);
            }
            // It is too large for the network outside.
            let error = s.one(client, &ask(64, 1300), client);
            let (kind, code, by, quoted) = told(&error);
            assert_eq!((kind, code), if v6 { (2, 0) } else { (3, 4) });
            assert_eq!((by, quoted), (router.clone(), own.clone()));
            let (headers, key) = Headers::parse(&error).unwrap();
            assert_eq!((key.src_mac(), key.dst_mac()), (gate(1, 0), mac(client)));
            let mtu = &error[usize::from(headers.l4_at) + 6..][..2];
            assert_eq!(mtu, 1280u16.to_be_bytes());
            // No host has the gateway.
            s.change(|plan| plan.gateway(1, |g| g.at = None));
            let error = s.one(client, &ask(64, 0), client);
            let (kind, code, by, quoted) = told(&error);
            assert_eq!((kind, code), if v6 { (1, 0) } else { (3, 0) });
            assert_eq!((by, quoted), (router.clone(), own.clone()));
            assert_eq!(s.dropped(DropReason::NoGateway), 1);
            // Nobody is the next hop.
            let lost = |plan: &mut Plan| plan.workloads.retain(|w| w.1 != NEXT);
            s.change(|plan| {
                plan.gateway(1, |g| g.at = Some(vtep(1)));
                lost(plan);
            });
            let error = s.one(client, &ask(64, 0), client);
            let (kind, code, ..) = told(&error);
            assert_eq!((kind, code), if v6 { (1, 3) } else { (3, 1) });
        }
    }
}

#[test]
fn the_gateways_own_addresses_answer_pings_and_nothing_else() {
    for v6 in [false, true] {
        let mut s = Several::new(Plan::new(&[GROUP]));
        let own = at(OUT, GATE, v6);
        let ping = |f: FrameBuilder| f.payload(b"hello");
        let got = s.one(
            NEXT,
            &inward(ping(FrameBuilder::echo(v6, 7)), v6, 1, own),
            NEXT,
        );
        let answer = ping(FrameBuilder::echo_reply(v6, 7));
        let answer = answer.macs(door(1), mac(NEXT)).addrs(own, world(v6));
        assert_eq!(got, answer.build());
        for client in [1, 2] {
            let ask = ping(FrameBuilder::echo(v6, 7)).macs(mac(client), gate(1, 0));
            let got = s.one(client, &ask.addrs(at(0, client, v6), own), client);
            let answer = ping(FrameBuilder::echo_reply(v6, 7));
            let answer = answer.macs(gate(1, 0), mac(client));
            let answer = answer.addrs(own, at(0, client, v6));
            assert_eq!(got, answer.build(), "{client}");
        }
        let before = s.hosts[1].dp.ledger().originated[Originated::Icmp.index()];
        assert_eq!(before, 3, "all by the gateway's host");
        let syn = FrameBuilder::tcp(v6, 1, 22).flags(tcp::SYN);
        assert_eq!(s.from(NEXT, &inward(syn, v6, 1, own)), []);
        assert_eq!(s.dropped(DropReason::NoListener), 1);
        assert_eq!(s.hosts[1].dp.ledger().consumed[Consumed::Icmp.index()], 3);
        assert!(s.hosts[1].dp.conntrack().is_empty());
    }
}

#[test]
fn from_outside_shown_addresses_are_reached_and_hidden_ones_are_not() {
    for (v6, snat) in [(false, true), (false, false), (true, true)] {
        for server in [1, 2] {
            let mut plan = Plan::new(&[GROUP]);
            plan.gateway(1, |g| g.snat = snat);
            let mut s = Several::new(plan);
            let inside = at(0, server, v6);
            let ask = |port| {
                let syn = FrameBuilder::tcp(v6, 4000, port)
                    .flags(tcp::SYN)
                    .seq(100, 0);
                inward(syn, v6, 1, inside)
            };
            if snat && !v6 {
                assert_eq!(s.from(NEXT, &ask(80)), []);
                assert_eq!(s.dropped(DropReason::HiddenAddress), 1);
                continue;
            }
            let got = s.one(NEXT, &ask(80), server);
            let (_, key) = Headers::parse(&got).unwrap();
            assert_eq!((key.src_addr(), key.dst_addr()), (world(v6), inside));
            assert_eq!(
                (key.src_mac(), key.dst_mac(), key.ip_ttl),
                (gate(1, 0), mac(server), 63)
            );
            let answer = FrameBuilder::tcp(v6, 80, 4000).flags(tcp::SYN | tcp::ACK);
            let answer = outward(answer.seq(500, 101), v6, server);
            let got = s.one(server, &answer, NEXT);
            let (_, key) = Headers::parse(&got).unwrap();
            assert_eq!(
                (key.src_addr(), key.src_mac(), key.ip_ttl),
                (inside, door(1), 63)
            );
            // Its security group says who may.
            assert_eq!(s.from(NEXT, &ask(22)), []);
            assert_eq!(s.dropped(DropReason::SecurityGroupIngress), 1);
        }
    }
}

#[test]
fn an_extra_route_goes_before_the_gateway_and_may_lead_outside_itself() {
    let mut s = Several::new(Plan::new(&[]));
    let mut conf = s.plan.conf(1);
    let route = |to: &str, nexthop| hostconfig::network::Route {
        destination: to.parse().unwrap(),
        nexthop,
    };
    let key = hostconfig::SectionKey::Router(id(9001));
    let hostconfig::Section::Router(router) = conf.0.sections[&key].body() else {
        unreachable!("it is a router's key")
    };
    let mut router = router.clone();
    router.routes = vec![
        route("198.51.100.0/24", at(OUT, 77, false)),
        route("0.0.0.0/0", at(0, 1, false)),
    ];
    conf.put(hostconfig::Section::Router(router));
    s.hosts[1].apply(&conf);
    // Workload 1 is the default router now, and nobody has the address of the other next hop.
    let ask = outward(FrameBuilder::udp(false, 5000, 53), false, 2);
    let got = s.one(2, &ask, 1);
    assert_eq!(shows(&got).0, at(0, 2, false), "it stays inside");
    let to: std::net::IpAddr = "198.51.100.7".parse().unwrap();
    let error = s.one(2, &ask.addrs(at(0, 2, false), to), 2);
    assert_eq!((told(&error).0, told(&error).1), (3, 1));
    assert_eq!(s.dropped(DropReason::UnknownNeighbor), 1);
}

#[test]
fn a_gateway_that_moves_takes_new_connections_and_its_old_host_answers_no_more() {
    let mut s = Several::new(Plan::new(&[GROUP]));
    let ask = |port| outward(FrameBuilder::udp(false, port, 53), false, 1);
    let got = s.one(1, &ask(5000), NEXT);
    let port = shows(&got).2;
    s.change(|plan| plan.gateway(1, |g| g.at = Some(vtep(3))));
    assert_eq!(s.hosts[1].dp.conntrack().len(), 1, "it times out");
    let back = FrameBuilder::udp(false, 53, port);
    let back = inward(back, false, 1, at(OUT, GATE, false));
    assert_eq!(s.from(NEXT, &back), [], "the new host has no record of it");
    assert_eq!(s.dropped(DropReason::NoListener), 1);
    // Where it was nobody routes any more, whoever still sends there.
    let tunnel = super::routing::tunnel(&s.hosts[1], 0);
    assert_eq!(s.enter(1, tunnel, ask(5000).build()), []);
    assert_eq!(s.hosts[1].dropped(DropReason::SplitHorizon), 1);
    let got = s.one(1, &ask(5000), NEXT);
    let (_, key) = Headers::parse(&got).unwrap();
    assert_eq!(
        (key.src_addr(), key.src_mac()),
        (at(OUT, GATE, false), door(1))
    );
    assert_eq!(s.hosts[3].dp.conntrack().len(), 1);
    s.one(NEXT, &back.clone(), 1);
    // And the workload that was at its host goes there too: its connection begins anew.
    let local = outward(FrameBuilder::udp(false, 6000, 53), false, 2);
    assert_eq!(shows(&s.one(2, &local, NEXT)).0, at(OUT, GATE, false));
    s.pass(Duration::from_mins(10));
    s.hosts[1].tick();
    assert!(s.hosts[1].dp.conntrack().is_empty());
}

#[test]
fn a_shown_connection_goes_on_where_its_gateway_moves() {
    for groups in [&[][..], &[GROUP]] {
        // The next hop is at another host, at the client's, or at that which has the gateway.
        for (from, to, next) in [
            (3, 0, 2),
            (0, 3, 2),
            (1, 3, 2),
            (3, 0, 0),
            (0, 3, 0),
            (1, 3, 0),
            (0, 3, 3),
            (3, 0, 3),
        ] {
            let case = format!("groups {groups:?}, from {from} to {to}, next hop at {next}");
            let mut plan = Plan::new(groups);
            plan.gateway(1, |g| g.at = Some(vtep(from)));
            plan.place(NEXT, next);
            let mut s = Several::new(plan);
            let go = |s: &mut Several, (out, frame): &(bool, FrameBuilder)| {
                if *out {
                    s.one(1, &outward(frame.clone(), true, 1), NEXT);
                } else {
                    s.one(NEXT, &inward(frame.clone(), true, 1, seen(true, 1)), 1);
                }
            };
            let all = segments(true);
            let talk = |s: &mut Several, all: &[(bool, FrameBuilder)]| {
                for segment in all {
                    go(s, segment);
                }
            };
            talk(&mut s, &all);
            s.change(|plan| plan.gateway(1, |g| g.at = Some(vtep(to))));
            // The far end may have said more, by its old way; once whoever is inside has spoken, it is answered by the other one.
            let (_, late) = &all[3];
            s.from(NEXT, &inward(late.clone(), true, 1, seen(true, 1)));
            talk(&mut s, &all[2..]);
            talk(&mut s, &all[2..]);
            let before = s.upcalls();
            talk(&mut s, &all[2..]);
            assert_eq!(s.upcalls(), before, "{case}");
        }
    }
}

#[test]
fn who_was_asked_from_outside_goes_on_where_its_gateway_moves() {
    for groups in [&[][..], &[GROUP]] {
        for (from, to, next) in [(3, 0, 2), (3, 0, 0), (3, 0, 3)] {
            let mut plan = Plan::new(groups);
            plan.gateway(1, |g| g.at = Some(vtep(from)));
            plan.place(NEXT, next);
            let mut s = Several::new(plan);
            let segment = |back: bool, flags| {
                let (src, dst) = if back { (80, 4000) } else { (4000, 80) };
                let frame = FrameBuilder::tcp(true, src, dst).flags(flags);
                match (back, flags & tcp::SYN != 0) {
                    (false, true) => frame.seq(100, 0),
                    (true, true) => frame.seq(500, 101),
                    (false, false) => frame.seq(101, 501),
                    (true, false) => frame.seq(501, 101),
                }
            };
            let ask = |s: &mut Several, flags| {
                s.one(
                    NEXT,
                    &inward(segment(false, flags), true, 1, at(0, 1, true)),
                    1,
                );
            };
            let answer = |s: &mut Several, flags| {
                s.one(1, &outward(segment(true, flags), true, 1), NEXT);
            };
            ask(&mut s, tcp::SYN);
            answer(&mut s, tcp::SYN | tcp::ACK);
            ask(&mut s, tcp::ACK);
            answer(&mut s, tcp::ACK);
            s.change(|plan| plan.gateway(1, |g| g.at = Some(vtep(to))));
            // Whoever is inside speaks first: what it says belongs, and so does what answers that.
            for _ in 0..2 {
                answer(&mut s, tcp::ACK);
                ask(&mut s, tcp::ACK);
            }
            let before = s.upcalls();
            answer(&mut s, tcp::ACK);
            ask(&mut s, tcp::ACK);
            let case = format!("groups {groups:?}, from {from} to {to}, next hop at {next}");
            assert_eq!(s.upcalls(), before, "{case}");
        }
    }
}

#[test]
fn where_a_gateway_was_its_record_ends_nothing_that_began_anew() {
    // The next hop is where the gateway was, which has a record of the same ends.
    let mut plan = Plan::new(&[]);
    plan.place(NEXT, 1);
    let mut s = Several::new(plan);
    let ask = outward(FrameBuilder::udp(false, 5000, 53), false, 1);
    let (_, _, port) = shows(&s.one(1, &ask, NEXT));
    let answer = |port| {
        let frame = FrameBuilder::udp(false, 53, port);
        inward(frame, false, 1, at(OUT, GATE, false))
    };
    s.one(NEXT, &answer(port), 1);
    s.change(|plan| plan.gateway(1, |g| g.at = Some(vtep(0))));
    let sent = s.one(1, &ask, NEXT);
    assert_eq!(shows(&sent).2, port, "it is free at the new host");
    s.one(NEXT, &answer(port), 1);
    // Of a router in the world, too.
    s.change(|plan| plan.gateway(1, |g| g.at = Some(vtep(1))));
    s.one(1, &ask, NEXT);
    s.change(|plan| plan.gateway(1, |g| g.at = Some(vtep(0))));
    let sent = s.one(1, &ask, NEXT);
    s.one_raw(NEXT, FrameBuilder::icmp_error(&sent), 1);
}

#[test]
fn hidden_connections_go_on_after_a_restart_and_keep_their_ports() {
    for client in [1, 2] {
        for reply_first in [false, true] {
            let mut s = Several::new(Plan::new(&[GROUP]));
            let ask = outward(FrameBuilder::udp(false, 5000, 53), false, client);
            let port = shows(&s.one(client, &ask, NEXT)).2;
            s.hosts[1].restart();
            let back = FrameBuilder::udp(false, 53, port);
            let back = inward(back, false, 1, at(OUT, GATE, false));
            if reply_first {
                s.one(NEXT, &back, client);
            }
            assert_eq!(shows(&s.one(client, &ask, NEXT)).2, port);
            s.one(NEXT, &back, client);
            // Nobody else gets what was kept.
            let other = 3 - client;
            let ask = outward(FrameBuilder::udp(false, 5000, 53), false, other);
            assert_ne!(shows(&s.one(other, &ask, NEXT)).2, port);
        }
    }
}

#[test]
fn tenants_with_the_same_addresses_leave_by_one_network() {
    // Router 2 is another tenant's, on network 1, which has the addresses of network 0.
    let mut s = Several::new(Plan::new(&[]));
    for h in 0..4 {
        let mut conf = s.plan.conf(h);
        super::routing::network(&mut conf, 1, 1450, |n| {
            for (subnet, cidr) in n.subnets.iter_mut().zip(["10.0.0.0/24", "fd00::/64"]) {
                subnet.cidr = cidr.parse().unwrap();
            }
        });
        super::routing::router_with(&mut conf, 1, &[(0, 254)], &[], |r| {
            r.gateway = Some(gateway(1, GATE, Some(1)));
        });
        super::routing::router_with(&mut conf, 2, &[(1, 254)], &[], |r| {
            r.project = id(8);
            for (addr, v6) in r.interfaces[0].addrs.iter_mut().zip([false, true]) {
                addr.addr = at(0, 254, v6);
                let cidr = if v6 { "fd00::/64" } else { "10.0.0.0/24" };
                addr.subnet = cidr.parse().unwrap();
            }
            r.gateway = Some(gateway(2, 2, Some(1)));
        });
        // Its workload has the first one's number on its network, and is there.
        if h == 0 {
            conf.port_with(11, &[], |p| {
                p.network = id(NET + 1);
                p.port_security = false;
                for (ip, v6) in p.fixed_ips.iter_mut().zip([false, true]) {
                    ip.addr = at(0, 1, v6);
                }
            });
        } else {
            conf.put(hostconfig::Section::Endpoint(hostconfig::Endpoint {
                id: id(11),
                network: id(NET + 1),
                project: Some(id(8)),
                mac: mac(11).try_into().unwrap(),
                addrs: vec![at(0, 1, false), at(0, 1, true)],
                dns_name: None,
                at: hostconfig::Location::Vtep(vtep(0)),
            }));
        }
        if h == 2 {
            let other = gateway(2, 2, Some(1));
            conf.put(hostconfig::Section::Endpoint(hostconfig::Endpoint {
                id: other.port,
                network: other.network,
                project: None,
                mac: other.mac,
                addrs: other.addrs.iter().map(|a| a.addr).collect(),
                dns_name: None,
                at: hostconfig::Location::Vtep(vtep(1)),
            }));
        }
        s.hosts[h].apply(&conf);
    }
    s.plan.workloads.push((1, 11, 0, vec![]));
    let mut all = vec![];
    for (n, r, own) in [(1, 1, GATE), (11, 2, 2)] {
        let frame = FrameBuilder::udp(false, 5000, 53);
        let interface = gate(r, r - 1);
        let ask = frame
            .macs(mac(n), interface)
            .addrs(at(0, 1, false), world(false));
        let got = s.one(n, &ask, NEXT);
        assert_eq!(shows(&got).0, at(OUT, own, false));
        all.push((n, r, own, shows(&got).2));
    }
    for (n, r, own, port) in all {
        let back = FrameBuilder::udp(false, 53, port);
        let got = s.one(NEXT, &inward(back, false, r, at(OUT, own, false)), n);
        let (_, key) = Headers::parse(&got).unwrap();
        assert_eq!((key.dst_mac(), key.dst_addr()), (mac(n), at(0, 1, false)));
    }
    // One tenant reaches the other's gateway only as the world does.
    let ping = FrameBuilder::echo(false, 7).macs(mac(1), gate(1, 0));
    s.one(1, &ping.addrs(at(0, 1, false), at(OUT, 2, false)), 1);
    let syn = FrameBuilder::tcp(false, 1, 22)
        .flags(tcp::SYN)
        .macs(mac(1), gate(1, 0));
    assert_eq!(
        s.from(1, &syn.addrs(at(0, 1, false), at(OUT, 2, false))),
        []
    );
    assert_eq!(s.dropped(DropReason::NoListener), 1);
}

#[test]
fn what_a_router_has_out_of_a_tunnel_and_not_to_send_outside_stays() {
    for v6 in [false, true] {
        let mut s = Several::new(Plan::new(&[]));
        let tunnel = super::routing::tunnel(&s.hosts[1], 0);
        for to in [at(1, 9, v6), at(0, 2, v6), at(1, 254, v6), at(0, 254, v6)] {
            let ask = FrameBuilder::echo(v6, 1).macs(mac(1), gate(1, 0));
            let ask = ask.addrs(at(0, 1, v6), to).build();
            assert_eq!(s.enter(1, tunnel, ask), [], "{to}");
        }
        assert_eq!(s.dropped(DropReason::SplitHorizon), 4);
        // Nobody outside goes through it to where it came from.
        let back = inward(FrameBuilder::udp(v6, 1, 2), v6, 1, at(OUT, 99, v6));
        assert_eq!(s.from(NEXT, &back), []);
        assert_eq!(s.dropped(DropReason::SplitHorizon), 5);
    }
}

#[test]
fn a_gateway_gives_out_no_more_sources_than_it_has_room_for() {
    let mut plan = Plan::new(&[]);
    plan.gateway(1, |g| g.nexthops.clear());
    plan.gateway(1, |g| g.nexthops.push(at(OUT, NEXT, false)));
    let settings = Settings {
        project_connections: 3,
        ..Settings::default()
    };
    let mut s = Several::with(plan, settings);
    let ask = |port| outward(FrameBuilder::udp(false, port, 53), false, 1);
    // They count for the gateway, and for its project; each is answered, so none goes for another.
    for port in 0..3 {
        let outside = shows(&s.one(1, &ask(5000 + port), NEXT)).2;
        let back = FrameBuilder::udp(false, 53, outside);
        s.one(NEXT, &inward(back, false, 1, at(OUT, GATE, false)), 1);
    }
    assert_eq!(s.from(1, &ask(6000)), []);
    assert_eq!(s.dropped(DropReason::ConntrackPortFull), 1);
    // IPv6 has no default route now.
    let six = outward(FrameBuilder::udp(true, 1, 53), true, 1);
    let error = s.one(1, &six, 1);
    assert_eq!((told(&error).0, told(&error).1), (1, 0));
    assert_eq!(s.dropped(DropReason::NoRoute), 1);
}

#[test]
fn explain_tells_the_gateway_and_what_hides_a_source() {
    let s = Several::new(Plan::new(&[]));
    let say = |host: usize, entrance: Entrance, what: &str| {
        let h: &Host = &s.hosts[host];
        let told = super::super::explain(&h.tables, &entrance, &what.parse().unwrap(), h.now);
        told.unwrap().to_string()
    };
    let router = "router r1 (00000000-0000-0000-0000-000000002329)";
    let what = "udp 10.0.0.1:5000 > 203.0.113.5:53";
    let said = say(0, Entrance::Port("p1".into()), what);
    let away = format!(
        "{router}: to its gateway 00000000-0000-0000-0000-000000001edd, which is at vtep 192.0.2.2"
    );
    assert!(said.contains(&away), "{said}");
    assert!(said.ends_with("verdict   delivered to 192.0.2.2"), "{said}");
    let said = say(1, Entrance::Tunnel(1.try_into().unwrap()), what);
    let hidden = format!(
        "{router}: gateway 00000000-0000-0000-0000-000000001edd: source 10.0.0.1:5000 becomes 10.0.5.1:5000, port kept"
    );
    assert!(said.contains(&hidden), "{said}");
    assert!(
        said.contains("translate(udp 10.0.5.1:5000 > 203.0.113.5:53)"),
        "{said}"
    );
    assert!(said.ends_with("verdict   delivered to 192.0.2.3"), "{said}");
    let said = say(
        1,
        Entrance::Tunnel(1.try_into().unwrap()),
        &format!("{what} ttl 1"),
    );
    assert!(
        said.contains("ttl is used up: its sender is told, in the name of 10.0.0.254"),
        "{said}"
    );
    let said = say(
        1,
        Entrance::Tunnel(6.try_into().unwrap()),
        "udp 203.0.113.5:53 > 10.0.0.1:5000 eth 02:00:00:00:00:fe > 02:00:00:00:a0:01",
    );
    assert!(
        said.ends_with("verdict   dropped: hidden_address (l3)"),
        "{said}"
    );
}
