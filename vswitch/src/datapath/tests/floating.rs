//! Are workloads reached at their floating IPs, and do they show them outside?

use std::net::IpAddr;

use hostconfig::{FloatingIp, Section, SectionKey, floating_ip::Workload, nat::Forward};
use net::{
    DropReason, Headers, Mac, PortRange,
    testkit::{FrameBuilder, mac, tcp},
};

use super::{
    harness::*,
    routing::{at, gate, told},
    several::*,
};

/// The floating IP whose address ends in this, 100 and more, has this MAC address.
pub(super) fn shown(n: u16) -> Mac {
    mac(0xb000 + n)
}

fn addr(n: u16) -> IpAddr {
    at(OUT, n, false)
}

/// Of workload `to` of network 0, or with ports forwarded: outside, and at which, to whom.
pub(super) fn floating(
    n: u16,
    to: Option<u16>,
    forwards: &[(u8, u16, u16)],
    host: Option<usize>,
) -> FloatingIp {
    let forward = |&(protocol, port, to): &(u8, u16, u16)| Forward {
        addr: addr(n),
        protocol,
        ports: PortRange::one(port),
        to: at(0, to, false),
        to_port: 80,
        to_one: false,
        member: id(u128::from(to)),
    };
    FloatingIp {
        id: id(6000 + u128::from(n)),
        project: id(7),
        port: id(6500 + u128::from(n)),
        network: id(NET + u128::from(OUT)),
        addr: addr(n),
        mac: shown(n).try_into().unwrap(),
        router: id(9001),
        to: to.map(|to| Workload {
            port: id(u128::from(to)),
            addr: at(0, to, false),
        }),
        forwards: forwards.iter().map(forward).collect(),
        at: host.map(vtep),
        movable: true,
        qos: None,
    }
}

/// Workload 1 is at host 0, 2 at host 1, which has the gateway; 3 is at host 0 as 1 is; the next hop is at host 2.
fn plan(groups: &[u128], floating: Vec<FloatingIp>) -> Plan {
    let mut plan = Plan::new(groups);
    plan.workloads.push((0, 3, 0, groups.to_vec()));
    plan.floating = floating;
    plan
}

fn ends(frame: &[u8]) -> ((IpAddr, u16), (IpAddr, u16)) {
    let key = Headers::parse(frame).unwrap().1;
    ((key.src_addr(), key.l4_src), (key.dst_addr(), key.l4_dst))
}

fn tcp_to(flags: u8, src: u16, dst: u16, back: bool) -> FrameBuilder {
    let frame = FrameBuilder::tcp(false, src, dst).flags(flags);
    match (flags & tcp::SYN != 0, back) {
        (true, false) => frame.seq(100, 0),
        (true, true) => frame.seq(500, 101),
        (false, false) => frame.seq(101, 501),
        (false, true) => frame.seq(501, 101),
    }
}

fn from_world(frame: FrameBuilder, n: u16) -> FrameBuilder {
    frame.macs(mac(NEXT), shown(n)).addrs(world(false), addr(n))
}

/// From a workload of network 0 to an address outside, by router 1.
fn outside(frame: FrameBuilder, n: u16, to: IpAddr) -> FrameBuilder {
    frame.macs(mac(n), gate(1, 0)).addrs(at(0, n, false), to)
}

#[test]
fn what_was_translated_at_another_host_never_shows_its_address_inside() {
    let mut s = Several::new(plan(&[GROUP], vec![floating(100, Some(1), &[], Some(1))]));
    let ask = from_world(tcp_to(tcp::SYN, 4000, 80, false), 100);
    let answer = outside(tcp_to(tcp::SYN | tcp::ACK, 80, 4000, true), 1, world(false));
    s.one(NEXT, &ask, 1);
    assert_eq!(ends(&s.one(1, &answer, NEXT)).0, (addr(100), 80));
    // The gateway comes to the workload's own host, whose record of the connection translates nothing.
    s.change(|plan| {
        plan.gateway(1, |g| g.at = Some(vtep(0)));
        plan.floating[0].at = Some(vtep(0));
    });
    assert_eq!(s.from(1, &answer), []);
    assert_eq!(s.dropped(DropReason::NatAddressGone), 1);
    // Whoever asks again is answered from there.
    assert_eq!(ends(&s.one(NEXT, &ask, 1)).1, (at(0, 1, false), 80));
    assert_eq!(ends(&s.one(1, &answer, NEXT)).0, (addr(100), 80));
}

#[test]
fn the_world_reaches_a_workload_at_its_own_host_or_at_the_gateways() {
    for groups in [&[][..], &[GROUP]] {
        for (n, host) in [(1, 0), (2, 1), (1, 1)] {
            for next in [0, 1, 2] {
                let case = format!("{n} at {host}, next hop at {next}, {groups:?}");
                let mut p = plan(groups, vec![floating(100, Some(n), &[], Some(host))]);
                p.place(NEXT, next);
                let mut s = Several::new(p);
                let forth = |flags| from_world(tcp_to(flags, 4000, 80, false), 100);
                let back = |flags| outside(tcp_to(flags, 80, 4000, true), n, world(false));
                let go = |s: &mut Several, flags, backwards: bool| {
                    let inside = ((world(false), 4000), (at(0, n, false), 80));
                    let out = ((addr(100), 80), (world(false), 4000));
                    let (got, expected, macs) = if backwards {
                        let got = s.one(n, &back(flags), NEXT);
                        (got, out, (shown(100), mac(NEXT)))
                    } else {
                        let got = s.one(NEXT, &forth(flags), n);
                        (got, inside, (gate(1, 0), mac(n)))
                    };
                    assert_eq!(ends(&got), expected, "{case}");
                    let key = Headers::parse(&got).unwrap().1;
                    assert_eq!((key.src_mac(), key.dst_mac()), macs, "{case}");
                    assert_eq!(key.ip_ttl, 63, "{case}");
                };
                let (syn, ack) = (tcp::SYN, tcp::ACK);
                go(&mut s, syn, false);
                go(&mut s, syn | ack, true);
                for _ in 0..2 {
                    go(&mut s, ack, false);
                    go(&mut s, ack, true);
                }
                let before = s.upcalls();
                for _ in 0..3 {
                    go(&mut s, ack, false);
                    go(&mut s, ack, true);
                }
                assert_eq!(s.upcalls(), before, "{case}");
                // Its pings are the workload's; its group judges what it is sent itself.
                let ping = from_world(FrameBuilder::echo(false, 7), 100);
                let other = from_world(tcp_to(syn, 4000, 22, false), 100);
                if groups.is_empty() {
                    let got = s.one(NEXT, &ping, n);
                    assert_eq!(Headers::parse(&got).unwrap().1.dst_addr(), at(0, n, false));
                    let pong = outside(FrameBuilder::echo_reply(false, 7), n, world(false));
                    let got = s.one(n, &pong, NEXT);
                    assert_eq!(Headers::parse(&got).unwrap().1.src_addr(), addr(100));
                } else {
                    assert_eq!(s.from(NEXT, &other), [], "{case}");
                    assert_eq!(s.dropped(DropReason::SecurityGroupIngress), 1, "{case}");
                }
            }
        }
    }
}

#[test]
fn what_a_workload_sends_outside_shows_its_floating_ip_and_keeps_its_ports() {
    for (n, host, gateway_at) in [
        (1, 0, Some(1)),
        (2, 1, Some(1)),
        (1, 1, Some(1)),
        (1, 0, None),
    ] {
        let case = format!("{n} at {host}, gateway at {gateway_at:?}");
        let mut p = plan(&[GROUP], vec![floating(100, Some(n), &[], Some(host))]);
        p.gateway(1, |g| g.at = gateway_at.map(vtep));
        let mut s = Several::new(p);
        for frame in [
            FrameBuilder::udp(false, 700, 53),
            FrameBuilder::echo(false, 9),
            FrameBuilder::other(false, 47),
        ] {
            let got = s.one(n, &outside(frame, n, world(false)), NEXT);
            let key = Headers::parse(&got).unwrap().1;
            assert_eq!(
                (key.src_addr(), key.src_mac()),
                (addr(100), shown(100)),
                "{case}"
            );
            assert!([0, 700, 8].contains(&key.l4_src), "{case}");
        }
        let sent = s.one(
            n,
            &outside(FrameBuilder::udp(false, 700, 53), n, world(false)),
            NEXT,
        );
        let back = from_world(FrameBuilder::udp(false, 53, 700), 100);
        let got = s.one(NEXT, &back, n);
        assert_eq!(ends(&got).1, (at(0, n, false), 700), "{case}");
        // Errors of the world about it, and its own about the world.
        let got = s.one_raw(NEXT, FrameBuilder::icmp_error(&sent), n);
        let own = outside(FrameBuilder::udp(false, 700, 53), n, world(false)).build();
        let own = Headers::parse(&own).unwrap().1.five_tuple().unwrap();
        assert_eq!(told(&got).3, own.to_string(), "{case}");
        let got = s.one(NEXT, &back, n);
        let error = s.one_raw(n, FrameBuilder::icmp_error(&got), NEXT);
        assert_eq!(shows(&error).0, addr(100), "{case}");
        // Fragments.
        let first = FrameBuilder::udp(false, 701, 53)
            .payload(&[1; 64])
            .fragment(5, 0, true);
        let later = FrameBuilder::udp(false, 701, 53)
            .payload(&[1; 24])
            .fragment(5, 9, false);
        for piece in [first, later] {
            let got = s.one(n, &outside(piece, n, world(false)), NEXT);
            assert_eq!(
                Headers::parse(&got).unwrap().1.src_addr(),
                addr(100),
                "{case}"
            );
        }
        assert!(s.hosts.iter().all(|h| h.tables.faults().is_empty()));
        // A workload without one is hidden as ever.
        if gateway_at.is_some() {
            let got = s.one(
                3,
                &outside(FrameBuilder::udp(false, 700, 53), 3, world(false)),
                NEXT,
            );
            assert_eq!(shows(&got).0, at(OUT, GATE, false), "{case}");
        }
    }
}

#[test]
fn an_error_about_what_came_is_told_in_the_floating_ips_name() {
    for (n, host) in [(1, 0), (1, 1)] {
        let mut s = Several::new(plan(&[], vec![floating(100, Some(n), &[], Some(host))]));
        let ask = from_world(FrameBuilder::udp(false, 4000, 80), 100).ttl(1);
        let error = s.one(NEXT, &ask, NEXT);
        let (kind, code, by, quoted) = told(&error);
        assert_eq!((kind, code, by), (11, 0, addr(100).to_string()));
        let sent = Headers::parse(&ask.build())
            .unwrap()
            .1
            .five_tuple()
            .unwrap();
        assert_eq!(quoted, sent.to_string());
    }
}

/// Asks from workload `n` at a floating IP, whose workload `m` gets it, as from `source`; and answers.
fn converse(s: &mut Several, (n, m): (u16, u16), to: (IpAddr, u16), source: IpAddr, case: &str) {
    let (syn, ack) = (tcp::SYN, tcp::ACK);
    let mut port = 0;
    for (flags, flags_back) in [(syn, syn | ack), (ack, ack), (ack, ack), (ack, ack)] {
        let before = s.upcalls();
        let ask = outside(tcp_to(flags, 4000, to.1, false), n, to.0);
        let got = s.one(n, &ask, m);
        let (from, there) = ends(&got);
        assert_eq!((from.0, there), (source, (at(0, m, false), 80)), "{case}");
        let key = Headers::parse(&got).unwrap().1;
        assert_eq!(
            (key.src_mac(), key.dst_mac()),
            (gate(1, 0), mac(m)),
            "{case}"
        );
        assert!(port == 0 || port == from.1, "{case}");
        port = from.1;
        let answer = outside(tcp_to(flags_back, 80, port, true), m, source);
        let got = s.one(m, &answer, n);
        assert_eq!(ends(&got), (to, (at(0, n, false), 4000)), "{case}");
        let key = Headers::parse(&got).unwrap().1;
        assert_eq!(
            (key.src_mac(), key.dst_mac()),
            (gate(1, 0), mac(n)),
            "{case}"
        );
        assert!(flags == syn || s.upcalls() == before, "{case}: it is known");
        // The asker's own error about what it was answered finds the answerer.
        if flags == ack {
            let error = s.one_raw(n, FrameBuilder::icmp_error(&got), m);
            let quoted = format!("tcp {}:80 > {source}:{port}", at(0, m, false));
            assert_eq!(told(&error).3, quoted, "{case}");
        }
        // The answerer's own error finds the asker, too.
        if flags == ack {
            let error = FrameBuilder::icmp_error(
                &outside(tcp_to(ack, 4000, 80, false), n, to.0)
                    .macs(gate(1, 0), mac(m))
                    .addrs(source, at(0, m, false))
                    .build(),
            );
            let quoted = Headers::parse(&error).unwrap().0;
            if quoted
                .quoted(&error)
                .is_some_and(|q| q.tuple.src_port == port)
            {
                let got = s.one_raw(m, error, n);
                assert_eq!(
                    told(&got).3,
                    format!("tcp {}:4000 > {}:{}", at(0, n, false), to.0, to.1)
                );
            }
        }
    }
}

#[test]
fn workloads_reach_one_another_at_their_floating_ips_and_each_itself() {
    let gate_addr = at(OUT, GATE, false);
    for groups in [&[][..], &[GROUP]] {
        // Who asks, who is asked, and where their floating IPs are; 102 is that of who asks.
        for (n, m, own, there) in [
            (1, 3, Some(0), 0),
            (1, 3, None, 0),
            (1, 2, Some(0), 1),
            (2, 1, Some(1), 0),
            (2, 1, None, 0),
            (1, 2, None, 1),
            (1, 3, None, 1),
            (1, 3, Some(1), 1),
            (1, 1, Some(0), 0),
            (2, 2, Some(1), 1),
            (1, 1, Some(1), 1),
        ] {
            let case = format!("{n} to {m}, at {own:?} and {there}, {groups:?}");
            let mut all = vec![floating(100, Some(m), &[], Some(there))];
            if n != m {
                all.extend(own.map(|h| floating(102, Some(n), &[], Some(h))));
            }
            let mut s = Several::new(plan(groups, all));
            let source = match own {
                Some(_) if n == m => addr(100),
                Some(_) => addr(102),
                None => gate_addr,
            };
            converse(&mut s, (n, m), (addr(100), 80), source, &case);
        }
    }
}

/// Router 2 is another tenant's: its network 1 has the addresses of network 0, and its workload 11 those of workload 2. Also the config of
/// host 1, which has both, and a floating IP as it is theirs.
fn two_tenants(next: usize) -> (Several, Conf, FloatingIp) {
    let mut p = plan(&[], vec![]);
    p.place(NEXT, next);
    let mut s = Several::new(p);
    let mut conf = s.plan.conf(1);
    super::routing::network(&mut conf, 1, 1450, |_| {});
    super::routing::router_with(&mut conf, 1, &[(0, 254)], &[], |r| {
        r.gateway = Some(gateway(1, GATE, Some(1)));
    });
    super::routing::router_with(&mut conf, 2, &[(1, 254)], &[], |r| {
        for (addr, v6) in r.interfaces[0].addrs.iter_mut().zip([false, true]) {
            addr.addr = at(0, 254, v6);
            addr.subnet = if v6 { "fd00::/64" } else { "10.0.0.0/24" }
                .parse()
                .unwrap();
        }
        r.gateway = Some(gateway(2, 2, Some(1)));
    });
    conf.port_with(11, &[], |p| {
        p.network = id(NET + 1);
        p.port_security = false;
        for (ip, v6) in p.fixed_ips.iter_mut().zip([false, true]) {
            ip.addr = at(0, 2, v6);
        }
    });
    s.plan.workloads.push((1, 11, 1, vec![]));
    let mut theirs = floating(111, Some(2), &[], Some(1));
    theirs.router = id(9002);
    theirs.to = Some(Workload {
        port: id(11),
        addr: at(0, 2, false),
    });
    (s, conf, theirs)
}

#[test]
fn tenants_with_the_same_addresses_reach_one_another_at_their_floating_ips() {
    let (mut s, mut conf, theirs) = two_tenants(2);
    conf.put(Section::FloatingIp(theirs));
    s.hosts[1].apply(&conf);
    assert_eq!(s.hosts[1].tables.faults(), &[] as &[String]);
    // With a source that is hidden, and with one that is shown.
    let own = floating(100, Some(2), &[], Some(1));
    for (own, port) in [(None, 5000), (Some(own), 5001)] {
        let source = own.as_ref().map_or(at(OUT, GATE, false), |f| f.addr);
        if let Some(own) = own {
            conf.put(Section::FloatingIp(own));
            s.hosts[1].apply(&conf);
        }
        let ask = outside(FrameBuilder::udp(false, port, 53), 2, addr(111));
        let got = s.one(2, &ask, 11);
        let (from, to) = ends(&got);
        assert_eq!((from.0, to.0), (source, at(0, 2, false)));
        let answer = FrameBuilder::udp(false, 53, from.1).macs(mac(11), gate(2, 1));
        let got = s.one(11, &answer.addrs(at(0, 2, false), source), 2);
        assert_eq!(ends(&got), ((addr(111), 53), (at(0, 2, false), port)));
        assert_eq!(Headers::parse(&got).unwrap().1.dst_mac(), mac(2));
        // And who asked tells the other tenant of what it got, not itself.
        let error = s.one_raw(2, FrameBuilder::icmp_error(&got), 11);
        let quoted = format!("udp {}:53 > {source}:{}", at(0, 2, false), from.1);
        assert_eq!(told(&error).3, quoted);
    }
    // Who comes from outside to both, by one port, is nobody else's at either.
    for (floating, to) in [(111, 11), (100, 2)] {
        let ask = from_world(FrameBuilder::udp(false, 6000, 53), floating);
        let tunnel = super::routing::tunnel(&s.hosts[1], OUT);
        let got = s.enter(1, tunnel, ask.build());
        let [(_, there, frame)] = got.as_slice() else {
            panic!("one frame, not {got:?}");
        };
        assert_eq!((*there, ends(frame).0), (to, (world(false), 6000)));
    }
}

#[test]
fn an_error_about_what_one_answered_is_not_told_to_who_has_its_floating_ip_since() {
    for (proto, goes_on) in [(17, false), (17, true), (6, false), (6, true)] {
        let case = format!("protocol {proto}, goes on {goes_on}");
        let (mut s, mut conf, theirs) = two_tenants(1);
        conf.put(Section::FloatingIp(floating(111, Some(2), &[], Some(1))));
        s.hosts[1].apply(&conf);
        let part = |flags: u8, back: bool| {
            let (src, dst) = if back { (80, 4000) } else { (4000, 80) };
            match proto {
                6 => tcp_to(flags, src, dst, back),
                _ => FrameBuilder::udp(false, src, dst),
            }
        };
        s.one(NEXT, &from_world(part(tcp::SYN, false), 111), 2);
        let answer = outside(part(tcp::SYN | tcp::ACK, true), 2, world(false));
        let seen = s.one(2, &answer, NEXT);
        assert_eq!(ends(&seen).0, (addr(111), 80), "{case}");
        let error = FrameBuilder::icmp_error(&seen);
        s.one_raw(NEXT, error.clone(), 2);
        conf.put(Section::FloatingIp(theirs));
        s.hosts[1].apply(&conf);
        if goes_on {
            let got = s.raw(NEXT, from_world(part(tcp::ACK, false), 111).build());
            // Whoever gets what begins anew there may say that it was too much.
            if let [(_, by, frame)] = &*got
                && proto == 17
            {
                assert_eq!(*by, 11);
                s.one_raw(11, FrameBuilder::icmp_error(frame), NEXT);
                // What began there is its own.
                s.one_raw(NEXT, error, 11);
                continue;
            }
        }
        assert_eq!(s.raw(NEXT, error), [], "{case}");
    }
}

#[test]
fn where_one_was_its_record_ends_nothing_that_goes_on_elsewhere() {
    let mut s = Several::new(plan(&[], vec![floating(100, Some(1), &[], Some(0))]));
    let ask = from_world(FrameBuilder::udp(false, 4000, 53), 100);
    let answer = outside(FrameBuilder::udp(false, 53, 4000), 1, world(false));
    s.one(NEXT, &ask, 1);
    assert_eq!(ends(&s.one(1, &answer, NEXT)).0, (addr(100), 53));
    // It goes to the gateway's host: at its workload's, which tracks nothing, only the old record knows who speaks.
    s.change(|plan| plan.floating[0].at = Some(vtep(1)));
    s.one(NEXT, &ask, 1);
    assert_eq!(ends(&s.one(1, &answer, NEXT)).0, (addr(100), 53));
}

#[test]
fn what_was_translated_at_the_gateway_is_hidden_by_it_never() {
    let mut p = plan(&[], vec![floating(100, Some(1), &[], Some(1))]);
    p.place(NEXT, 1);
    let mut s = Several::new(p);
    let ask = from_world(FrameBuilder::udp(false, 4000, 80), 100);
    let answer = outside(FrameBuilder::udp(false, 80, 4000), 1, world(false));
    s.one(NEXT, &ask, 1);
    s.one(1, &answer, NEXT);
    // It is at its workload's own host; what still comes to the gateway by a tunnel, as from a record there that translates nothing, is
    // not to be shown by an address that nobody asked.
    s.change(|plan| plan.floating[0].at = Some(vtep(0)));
    let tunnel = super::routing::tunnel(&s.hosts[1], 0);
    for n in 1..4 {
        assert_eq!(s.enter(1, tunnel, answer.build()), []);
        assert_eq!(s.dropped(DropReason::NatAddressGone), n);
    }
    // And if it comes back it goes on.
    s.change(|plan| plan.floating[0].at = Some(vtep(1)));
    assert_eq!(ends(&s.one(1, &answer, NEXT)).0, (addr(100), 80));
}

#[test]
fn what_came_past_a_workloads_own_one_is_answered_as_it_came() {
    // Nothing tracks the workload: its own floating IP is at its host, a port of another at the gateway's is forwarded to it.
    for (gate_host, own_host) in [(1, 0), (0, 0), (1, 1)] {
        let own = floating(100, Some(1), &[], Some(own_host));
        let forwards = floating(101, None, &[(6, 8080, 1)], Some(gate_host));
        let mut p = plan(&[], vec![own, forwards]);
        p.gateway(1, |g| {
            g.at = Some(vtep(gate_host));
            g.snat = false;
        });
        let mut s = Several::new(p);
        s.one(
            NEXT,
            &from_world(tcp_to(tcp::SYN, 4000, 8080, false), 101),
            1,
        );
        let answer = tcp_to(tcp::SYN | tcp::ACK, 80, 4000, true);
        let got = s.one(1, &outside(answer, 1, world(false)), NEXT);
        assert_eq!(ends(&got).0, (addr(101), 8080), "{gate_host} {own_host}");
        // And who comes to its own address, which the gateway shows.
        let ask = FrameBuilder::udp(false, 5000, 53);
        s.one(NEXT, &inward(ask, false, 1, at(0, 1, false)), 1);
        let answer = outside(FrameBuilder::udp(false, 53, 5000), 1, world(false));
        assert_eq!(ends(&s.one(1, &answer, NEXT)).0, (at(0, 1, false), 53));
        // What it begins itself shows its own.
        let ask = outside(FrameBuilder::udp(false, 6000, 53), 1, world(false));
        assert_eq!(ends(&s.one(1, &ask, NEXT)).0, (addr(100), 6000));
    }
}

#[test]
fn an_answer_that_comes_first_where_one_came_since_keeps_its_port() {
    let mut p = plan(&[GROUP], vec![floating(100, Some(1), &[], Some(1))]);
    p.place(NEXT, 0);
    let mut s = Several::new(p);
    let ask = outside(FrameBuilder::udp(false, 4000, 53), 1, world(false));
    assert_eq!(ends(&s.one(1, &ask, NEXT)).0, (addr(100), 4000));
    // At its workload's host it meets the record of the way by the gateway, which translates nothing, and holds no longer.
    s.change(|plan| plan.floating[0].at = Some(vtep(0)));
    let answer = from_world(FrameBuilder::udp(false, 53, 4000), 100);
    for got in s.from(NEXT, &answer) {
        assert_eq!(ends(&got.2), ((world(false), 53), (at(0, 1, false), 4000)));
    }
    assert_eq!(ends(&s.one(1, &ask, NEXT)).0, (addr(100), 4000));
    let got = s.one(NEXT, &answer, 1);
    assert_eq!(ends(&got), ((world(false), 53), (at(0, 1, false), 4000)));
}

#[test]
fn one_that_is_another_tenants_now_is_shown_by_its_gateway_alone() {
    let mut s = Several::new(plan(&[], vec![floating(100, Some(1), &[], Some(1))]));
    let ask = from_world(FrameBuilder::udp(false, 4000, 53), 100);
    s.one(NEXT, &ask, 1);
    let answer = outside(FrameBuilder::udp(false, 53, 4000), 1, world(false));
    s.one(1, &answer, NEXT);
    // Router 2 has it now, for a workload with the same address.
    s.change(|plan| {
        plan.routers
            .push((2, vec![1], Some(gateway(2, 2, Some(1)))));
        plan.floating[0].router = id(9002);
    });
    for (_, _, frame) in s.from(1, &answer) {
        assert_ne!(ends(&frame).0.0, addr(100));
    }
}

#[test]
fn a_late_answer_to_a_gateway_ends_nothing_that_shows_a_floating_ip_since() {
    let mut p = plan(&[GROUP], vec![]);
    p.place(NEXT, 0);
    let mut s = Several::new(p);
    let ask = outside(FrameBuilder::udp(false, 4000, 53), 1, world(false));
    let (_, port) = ends(&s.one(1, &ask, NEXT)).0;
    s.change(|plan| plan.floating = vec![floating(100, Some(1), &[], Some(0))]);
    assert_eq!(ends(&s.one(1, &ask, NEXT)).0, (addr(100), 4000));
    let late = inward(
        FrameBuilder::udp(false, 53, port),
        false,
        1,
        at(OUT, GATE, false),
    );
    assert_eq!(s.from(NEXT, &late), []);
    let answer = from_world(FrameBuilder::udp(false, 53, 4000), 100);
    let got = s.one(NEXT, &answer, 1);
    assert_eq!(ends(&got), ((world(false), 53), (at(0, 1, false), 4000)));
}

#[test]
fn ports_are_forwarded_at_the_gateways_host_and_nothing_else_is() {
    for groups in [&[][..], &[GROUP]] {
        let forwards = [(6, 8080, 1), (6, 8081, 2), (17, 8080, 3)];
        let all = vec![floating(100, None, &forwards, Some(1))];
        let mut s = Several::new(plan(groups, all));
        for (port, n) in [(8080, 1), (8081, 2)] {
            for (flags, flags_back) in [(tcp::SYN, tcp::SYN | tcp::ACK), (tcp::ACK, tcp::ACK)] {
                let ask = from_world(tcp_to(flags, 4000, port, false), 100);
                let got = s.one(NEXT, &ask, n);
                assert_eq!(ends(&got), ((world(false), 4000), (at(0, n, false), 80)));
                let answer = outside(tcp_to(flags_back, 80, 4000, true), n, world(false));
                let got = s.one(n, &answer, NEXT);
                assert_eq!(ends(&got), ((addr(100), port), (world(false), 4000)));
            }
            // By a workload, hidden behind the gateway, whether it is the server itself or not.
            for client in [1, 2, 3] {
                let case = format!("{client} to {n} at {port}");
                converse(
                    &mut s,
                    (client, n),
                    (addr(100), port),
                    at(OUT, GATE, false),
                    &case,
                );
            }
        }
        // What the servers send by themselves is hidden as others' is.
        let ask = outside(FrameBuilder::udp(false, 700, 53), 1, world(false));
        assert_eq!(shows(&s.one(1, &ask, NEXT)).0, at(OUT, GATE, false));
        let ping = FrameBuilder::echo(false, 3);
        let got = s.one(NEXT, &from_world(ping, 100), NEXT);
        assert_eq!(shows(&got).0, addr(100));
        let other = from_world(tcp_to(tcp::SYN, 4000, 9, false), 100);
        assert_eq!(s.from(NEXT, &other), []);
        assert_eq!(s.dropped(DropReason::NoListener), 1);
    }
}

#[test]
fn many_ports_lead_to_one_and_each_answers_as_itself() {
    for groups in [&[][..], &[GROUP]] {
        let mut one = floating(100, None, &[], Some(1));
        one.forwards = [6, 17, 132]
            .map(|protocol| Forward {
                addr: addr(100),
                protocol,
                ports: PortRange::new(8080, 8089).unwrap(),
                to: at(0, 1, false),
                to_port: 80,
                to_one: true,
                member: id(1),
            })
            .to_vec();
        let mut s = Several::new(plan(groups, vec![one]));
        for (port, from) in [(8080, 4000), (8085, 4001), (8089, 4002)] {
            let inside = ((world(false), from), (at(0, 1, false), 80));
            let out = ((addr(100), port), (world(false), from));
            for (flags, flags_back) in [(tcp::SYN, tcp::SYN | tcp::ACK), (tcp::ACK, tcp::ACK)] {
                let ask = from_world(tcp_to(flags, from, port, false), 100);
                assert_eq!(ends(&s.one(NEXT, &ask, 1)), inside);
                let answer = outside(tcp_to(flags_back, 80, from, true), 1, world(false));
                let got = s.one(1, &answer, NEXT);
                assert_eq!(ends(&got), out);
                assert_eq!(Headers::parse(&got).unwrap().1.src_mac(), shown(100));
            }
            // An error about what it answered is about its own.
            let error = outside(tcp_to(tcp::ACK, 80, from, true), 1, world(false));
            let error = FrameBuilder::icmp_error(&s.one(1, &error, NEXT));
            let got = s.one_raw(NEXT, error, 1);
            let (_, _, _, quoted) = told(&got);
            let of = [
                format!("{}:80", at(0, 1, false)),
                format!("{}:{from}", world(false)),
            ];
            assert!(of.iter().all(|end| quoted.contains(end)), "{quoted}");
            // By workloads hidden behind the gateway, the server itself too.
            for client in [1, 2] {
                let case = format!("{client} at {port}");
                let hidden = at(OUT, GATE, false);
                converse(&mut s, (client, 1), (addr(100), port), hidden, &case);
            }
        }
        let udp = |port| from_world(FrameBuilder::udp(false, 500 + port, port), 100);
        if groups.is_empty() {
            for port in [8080, 8089] {
                let got = s.one(NEXT, &udp(port), 1);
                assert_eq!(ends(&got).1, (at(0, 1, false), 80));
                let answer = outside(FrameBuilder::udp(false, 80, 500 + port), 1, world(false));
                assert_eq!(ends(&s.one(1, &answer, NEXT)).0, (addr(100), port));
            }
        }
        for port in [8079, 8090] {
            assert_eq!(s.from(NEXT, &udp(port)), []);
        }
    }
}

/// From the world, with a payload; and what answers it.
fn asks(proto: u8, from: u16, to: u16, payload: &[u8]) -> FrameBuilder {
    let frame = match proto {
        6 => FrameBuilder::tcp(false, from, to)
            .flags(tcp::SYN)
            .seq(100, 0),
        17 => FrameBuilder::udp(false, from, to),
        132 => FrameBuilder::sctp(false, from, to),
        other => panic!("{other} has no ports"),
    };
    frame.payload(payload)
}

fn answers(proto: u8, from: u16, to: u16, payload: &[u8]) -> FrameBuilder {
    let frame = asks(proto, from, to, payload);
    if proto == 6 {
        frame.flags(tcp::SYN | tcp::ACK).seq(500, 101)
    } else {
        frame
    }
}

#[test]
fn one_client_that_comes_to_one_server_by_two_ways_is_told_apart() {
    for proto in [6, 17, 132] {
        // Two ports of one address, and one of another.
        let ways = [(100, 8080), (100, 8081), (101, 8080)];
        let all = vec![
            floating(100, None, &[(proto, 8080, 1), (proto, 8081, 1)], Some(1)),
            floating(101, None, &[(proto, 8080, 1)], Some(1)),
        ];
        let mut s = Several::new(plan(&[], all));
        let mut known = vec![];
        for (n, port) in ways {
            let ask = asks(proto, 4000, port, b"what the client said")
                .macs(mac(NEXT), shown(n))
                .addrs(world(false), addr(n));
            let got = s.one(NEXT, &ask, 1);
            let (from, to) = ends(&got);
            assert_eq!((from.0, to), (world(false), (at(0, 1, false), 80)));
            assert!(!known.contains(&from.1), "{proto}: {known:?}");
            known.push(from.1);
            // Whole, with its checksum: SCTP's is over the ports too.
            let whole = asks(proto, from.1, 80, b"what the client said")
                .macs(gate(1, 0), mac(1))
                .addrs(world(false), at(0, 1, false))
                .ttl(63);
            assert_eq!(got, whole.build(), "{proto}");
        }
        assert_eq!(known[0], 4000, "the first keeps its port");
        assert!(known.iter().all(|port| *port >= 1024));
        for round in 0..3 {
            for ((n, port), seen) in ways.into_iter().zip(&known) {
                let case = format!("{proto}, {n}:{port}, round {round}");
                let answer = answers(proto, 80, *seen, b"what the server said");
                let answer = outside(answer, 1, world(false));
                let got = s.one(1, &answer, NEXT);
                let whole = answers(proto, port, 4000, b"what the server said")
                    .macs(shown(n), mac(NEXT))
                    .addrs(addr(n), world(false))
                    .ttl(63);
                assert_eq!(got, whole.build(), "{case}");
                // What the world says of the answer is of the server's own, and the other way round.
                let error = s.one_raw(NEXT, FrameBuilder::icmp_error(&got), 1);
                let (src, dst) = (at(0, 1, false), world(false));
                let of = [format!("{src}:80"), format!("{dst}:{seen}")];
                let quoted = told(&error).3;
                assert!(
                    of.iter().all(|end| quoted.contains(end)),
                    "{case}: {quoted}"
                );
                let came = asks(proto, *seen, 80, b"")
                    .macs(gate(1, 0), mac(1))
                    .addrs(world(false), at(0, 1, false));
                let error = s.one_raw(1, FrameBuilder::icmp_error(&came.build()), NEXT);
                let of = [
                    format!("{}:4000", world(false)),
                    format!("{}:{port}", addr(n)),
                ];
                let quoted = told(&error).3;
                assert!(
                    of.iter().all(|end| quoted.contains(end)),
                    "{case}: {quoted}"
                );
            }
            // Each keeps what it has when it is judged again, and after a restart.
            match round {
                0 => s.change(|plan| plan.mtu = 1400),
                _ => s.hosts[1].restart(),
            }
            if proto != 6 {
                for ((n, port), seen) in ways.into_iter().zip(&known) {
                    let ask = asks(proto, 4000, port, b"more")
                        .macs(mac(NEXT), shown(n))
                        .addrs(world(false), addr(n));
                    assert_eq!(ends(&s.one(NEXT, &ask, 1)).0.1, *seen);
                }
            }
        }
        assert_eq!(s.hosts[1].dp.conntrack().len(), 3);
    }
}

#[test]
fn one_client_that_comes_by_two_floating_ips_of_one_workload_is_told_apart() {
    for proto in [6, 17, 132] {
        let mut second = floating(101, Some(2), &[], Some(1));
        second.router = id(9002);
        let first = floating(100, Some(2), &[], Some(1));
        let mut plan = plan(&[], vec![first, second]);
        let other = gateway(2, 2, Some(1));
        plan.routers.push((2, vec![0], Some(other)));
        let mut s = Several::new(plan);
        assert_eq!(s.hosts[1].tables.faults(), &[] as &[String]);
        let ask = |n: u16, what: &[u8]| {
            let ask = asks(proto, 4000, 80, what).macs(mac(NEXT), shown(n));
            ask.addrs(world(false), addr(n))
        };
        let mut known = vec![];
        for (n, r) in [(100, 1), (101, 2)] {
            let got = s.one(NEXT, &ask(n, b"ask"), 2);
            let (from, to) = ends(&got);
            assert_eq!((from.0, to), (world(false), (at(0, 2, false), 80)));
            // Whole, with its checksum.
            let whole = asks(proto, from.1, 80, b"ask")
                .macs(gate(r, 0), mac(2))
                .addrs(world(false), at(0, 2, false));
            assert_eq!(got, whole.ttl(63).build(), "{proto}");
            known.push((n, r, from.1));
        }
        assert_eq!(known[0].2, 4000, "the first keeps its port");
        assert!(known[1].2 != 4000 && known[1].2 >= 1024, "{proto}");
        for round in 0..3 {
            for &(n, r, seen) in &known {
                let answer = answers(proto, 80, seen, b"answer")
                    .macs(mac(2), gate(r, 0))
                    .addrs(at(0, 2, false), world(false));
                let got = s.one(2, &answer, NEXT);
                let whole = answers(proto, 80, 4000, b"answer")
                    .macs(shown(n), mac(NEXT))
                    .addrs(addr(n), world(false));
                assert_eq!(got, whole.ttl(63).build(), "{proto}, round {round}");
            }
            // Each keeps what it has when it is judged again, and after a restart.
            match round {
                0 => s.change(|plan| plan.mtu = 1400),
                _ => s.hosts[1].restart(),
            }
            if proto != 6 {
                for &(n, _, seen) in &known {
                    assert_eq!(ends(&s.one(NEXT, &ask(n, b"more"), 2)).0.1, seen);
                }
            }
        }
        assert_eq!(s.hosts[1].dp.conntrack().len(), 2);
        // When the first is gone, the second is what it was.
        s.change(|plan| _ = plan.floating.remove(0));
        let (n, r, seen) = known[1];
        let answer = answers(proto, 80, seen, b"answer")
            .macs(mac(2), gate(r, 0))
            .addrs(at(0, 2, false), world(false));
        assert_eq!(
            ends(&s.one(2, &answer, NEXT)),
            ((addr(n), 80), (world(false), 4000))
        );
        // What has no ports is its last one's.
        let ping = from_world(FrameBuilder::echo(false, 7), 101).macs(mac(NEXT), shown(101));
        assert_eq!(ends(&s.one(NEXT, &ping, 2)).1.0, at(0, 2, false));
    }
}

#[test]
fn explain_tells_by_which_port_a_client_is_known_at_its_server() {
    let all = vec![floating(100, None, &[(6, 8080, 1)], Some(1))];
    let s = Several::new(plan(&[], all));
    let frame = from_world(tcp_to(tcp::SYN, 4000, 8080, false), 100).build();
    let (_, mut key) = Headers::parse(&frame).unwrap();
    let h = &s.hosts[1];
    let outside = h.tables.network_by_id(id(NET + u128::from(OUT))).unwrap();
    key.set_origin(net::Origin::Tunnel(outside.dense));
    let told = super::super::explain::explain_key(&h.tables, &key, None, String::new(), h.now);
    let told = told.to_string();
    for says in [
        "source port 4000 is kept, as long as",
        "its destination becomes 10.0.0.1",
    ] {
        assert!(told.contains(says), "{told}");
    }
}

#[test]
fn one_that_goes_is_shown_no_more() {
    for (n, host) in [(1, 0), (2, 1), (1, 1)] {
        let all = vec![floating(100, Some(n), &[], Some(host))];
        let mut s = Several::new(plan(&[GROUP], all.clone()));
        let ask = |port| outside(FrameBuilder::udp(false, port, 53), n, world(false));
        assert_eq!(shows(&s.one(n, &ask(700), NEXT)).0, addr(100));
        let come = from_world(tcp_to(tcp::SYN, 4000, 80, false), 100);
        s.one(NEXT, &come, n);
        s.change(|plan| plan.floating.clear());
        // What began by it ends: from now on it is hidden, from its first packet or its second.
        let all_sent: Vec<_> = (0..3).flat_map(|_| s.from(n, &ask(700))).collect();
        assert!(all_sent.len() >= 2);
        assert!(
            all_sent
                .iter()
                .all(|(_, _, f)| shows(f).0 == at(OUT, GATE, false))
        );
        let answer = outside(tcp_to(tcp::SYN | tcp::ACK, 80, 4000, true), n, world(false));
        for (_, _, frame) in s.from(n, &answer) {
            assert_ne!(shows(&frame).0, addr(100));
        }
        assert_eq!(s.from(NEXT, &come), []);
        // It comes again, at another workload: what was hidden before is not any more.
        s.change(|plan| plan.floating.clone_from(&all));
        let frames: Vec<_> = (0..3).flat_map(|_| s.from(n, &ask(700))).collect();
        assert!(frames.len() >= 2);
        assert!(frames.iter().all(|(_, _, f)| shows(f).0 == addr(100)));
        s.change(|plan| plan.floating[0].at = None);
        assert_eq!(s.from(NEXT, &come), [], "nobody answers for it");
        assert!(
            s.hosts
                .iter()
                .all(|h| h.tables.floating().iter().next().is_none())
        );
    }
}

#[test]
fn connections_by_floating_ips_go_on_after_a_restart() {
    for (n, host) in [(1, 0), (2, 1), (1, 1)] {
        for answer_first in [false, true] {
            let case = format!("{n} at {host}, answer first {answer_first}");
            let all = vec![floating(100, Some(n), &[], Some(host))];
            let mut s = Several::new(plan(&[GROUP], all));
            let (syn, ack) = (tcp::SYN, tcp::ACK);
            let come = |flags| from_world(tcp_to(flags, 4000, 80, false), 100);
            let back = |flags| outside(tcp_to(flags, 80, 4000, true), n, world(false));
            s.one(NEXT, &come(syn), n);
            s.one(n, &back(syn | ack), NEXT);
            s.one(NEXT, &come(ack), n);
            s.hosts[host].restart();
            if answer_first {
                let got = s.one(n, &back(ack), NEXT);
                assert_eq!(shows(&got).0, addr(100), "{case}");
            }
            s.one(NEXT, &come(ack), n);
            let got = s.one(n, &back(ack), NEXT);
            assert_eq!(shows(&got).0, addr(100), "{case}");
            // None began anew: a workload that answers would be refused then.
            let records = s.hosts[host].dp.conntrack().len();
            assert_eq!(records, 1, "{case}");
        }
    }
}

#[test]
fn the_switch_that_has_one_answers_for_it_and_what_it_can_not_have_it_tells() {
    let mut s = Several::new(plan(&[], vec![floating(100, Some(1), &[], Some(0))]));
    s.change(|plan| {
        plan.place(NEXT, 0);
    });
    let (IpAddr::V4(next), IpAddr::V4(target)) = (addr(NEXT), addr(100)) else {
        unreachable!("both are IPv4")
    };
    let ask = FrameBuilder::arp(1, (mac(NEXT), next), (Mac::ZERO, target));
    let got = s.raw(NEXT, ask);
    let answer = FrameBuilder::arp(2, (shown(100), target), (mac(NEXT), next));
    assert_eq!(got, [(0, NEXT, answer)]);
    // Whoever sends something else to its MAC address meets nobody.
    let stray = from_world(FrameBuilder::udp(false, 1, 2), 100).addrs(world(false), addr(7));
    assert_eq!(s.from(NEXT, &stray), []);
    assert_eq!(s.dropped(DropReason::NoListener), 1);
    // Here, without its workload and without the gateway.
    let mut conf = s.plan.conf(0);
    conf.0.sections.remove(&SectionKey::FloatingIp(id(6100)));
    conf.put(Section::FloatingIp(floating(101, Some(2), &[], Some(0))));
    s.hosts[0].apply(&conf);
    let faults = s.hosts[0].tables.faults();
    assert!(
        faults.len() == 1 && faults[0].contains("neither its workload"),
        "{faults:?}"
    );
}

#[test]
fn explain_tells_which_floating_ip_it_is() {
    let s = Several::new(plan(&[], vec![floating(100, Some(1), &[], Some(0))]));
    let entrance = super::super::explain::Entrance::Port("p1".into());
    let what = "udp 10.0.0.1:5000 > 203.0.113.5:53".parse().unwrap();
    let h = &s.hosts[0];
    let told = super::super::explain(&h.tables, &entrance, &what, h.now).unwrap();
    let said = told.to_string();
    let expected = format!(
        "its source becomes floating ip 10.0.5.100 ({})",
        floating(100, None, &[], None).id
    );
    assert!(said.contains(&expected), "{said}");
    assert!(said.ends_with("verdict   delivered to 192.0.2.3"), "{said}");
}
