//! Are hidden sources answered through routers?

use hostconfig::{
    FunctionKind, Location, SectionKey,
    chain::{Algorithm, Member, Side},
};
use net::{
    Batch, DropReason, Headers,
    testkit::{FrameBuilder, mac, tcp},
};

use super::{
    harness::*,
    nat::{A, ends, nat},
    routing::{at, by_router, elsewhere, gate, router, told, tunnel, two, workload},
};

const VIP: u16 = 50;

/// The NAT's address, and port 4000 there.
fn shown(v6: bool) -> (std::net::IpAddr, u16) {
    (at(0, A, v6), 4000)
}

/// Two joined networks; what the first one's workloads send, or all of the project, is hidden behind an address of the first one. Nobody's
/// group tracks anything.
fn conf(source: Side) -> Conf {
    let mut c = two(&[]);
    elsewhere(&mut c, 0, A, Location::Virtual);
    for port in [80, 8080] {
        let functions = vec![FunctionKind::Nat(nat(1))];
        c.chain_of(8000 + u128::from(port), Some(source), None, port, functions);
    }
    c
}

fn only(h: &mut Host, origin: net::Origin, frame: &FrameBuilder) -> (At, Vec<u8>) {
    let got = h.enter(origin, &[frame.build()]);
    let [one] = <[_; 1]>::try_from(got).unwrap_or_else(|got| {
        panic!("one frame, not {got:?}: {:?}", h.dp.drops());
    });
    one
}

fn syn(v6: bool) -> FrameBuilder {
    FrameBuilder::tcp(v6, 4000, 80).flags(tcp::SYN).seq(100, 0)
}

fn syn_ack(v6: bool) -> FrameBuilder {
    FrameBuilder::tcp(v6, 80, 4000)
        .flags(tcp::SYN | tcp::ACK)
        .seq(500, 101)
}

#[test]
fn a_hidden_source_is_marked_behind_its_router_and_its_answer_comes_back() {
    for v6 in [false, true] {
        let mut h = Host::new(&conf(Side::Network(id(NET))));
        let ask = by_router(syn(v6), v6, (0, 1), (1, 8));
        let origin = h.origin(1);
        let (place, frame) = only(&mut h, origin, &ask);
        assert_eq!(place, At::Vtep(REMOTE.into()));
        let (from, to, src, dst) = ends(&frame);
        assert_eq!((from, to), (shown(v6), (at(1, 8, v6), 80)));
        assert_eq!((src, dst), (mac(1).marked(), mac(8)));
        assert_eq!(Headers::parse(&frame).unwrap().1.ip_ttl, 63);
        // The server's switch routed what it answers.
        let answer = syn_ack(v6)
            .macs(gate(1, 0), mac(1))
            .addrs(at(1, 8, v6), at(0, A, v6));
        let from_tunnel = tunnel(&h, 0);
        let (place, frame) = only(&mut h, from_tunnel, &answer);
        assert_eq!(place, At::Port(1));
        let back = ((at(1, 8, v6), 80), (at(0, 1, v6), 4000), gate(1, 0), mac(1));
        assert_eq!(ends(&frame), back);
        let ack = FrameBuilder::tcp(v6, 4000, 80).seq(101, 501);
        let ack = by_router(ack, v6, (0, 1), (1, 8));
        only(&mut h, origin, &ack);
        let before = h.dp.counters().lookups;
        for _ in 0..3 {
            let (_, frame) = only(&mut h, origin, &ack);
            assert_eq!(ends(&frame).2, mac(1).marked());
            only(
                &mut h,
                from_tunnel,
                &answer.clone().flags(tcp::ACK).seq(501, 101),
            );
        }
        let after = h.dp.counters().lookups;
        let found = (after.upcall, after.exact);
        assert_eq!(found, (before.upcall, before.exact + 6));
    }
}

#[test]
fn the_servers_switch_shows_the_router_and_finds_the_home_by_the_mark() {
    for v6 in [false, true] {
        // No chain is here. The server has the same Ethernet address on its network as the client, which is 9, has on the other.
        let mut c = conf(Side::Network(id(NET)));
        for port in [80, 8080] {
            c.0.sections.remove(&SectionKey::Chain(id(8000 + port)));
        }
        c.port_with(2, &[], |p| {
            p.network = id(NET + 1);
            p.port_security = false;
            p.mac = mac(9).try_into().unwrap();
            p.fixed_ips[0].addr = at(1, 2, false);
            p.fixed_ips[1].addr = at(1, 2, true);
        });
        let mut h = Host::new(&c);
        let come = syn(v6)
            .macs(mac(9).marked(), mac(9))
            .addrs(at(0, A, v6), at(1, 2, v6));
        let from_tunnel = tunnel(&h, 1);
        let (place, frame) = only(&mut h, from_tunnel, &come);
        assert_eq!(place, At::Port(2));
        let (.., src, dst) = ends(&frame);
        assert_eq!((src, dst), (gate(1, 1), mac(9)));
        let answer = syn_ack(v6)
            .macs(mac(9), gate(1, 1))
            .addrs(at(1, 2, v6), at(0, A, v6));
        let origin = h.origin(2);
        for _ in 0..3 {
            let (place, frame) = only(&mut h, origin, &answer);
            assert_eq!(place, At::Vtep(REMOTE.into()));
            let home = ((at(1, 2, v6), 80), shown(v6), gate(1, 0), mac(9));
            assert_eq!(ends(&frame), home);
        }
        assert_eq!(h.dp.counters().lookups.upcall, 2, "later ones are known");
        let error = FrameBuilder::icmp_error(&come.macs(gate(1, 1), mac(9)).build());
        let got = h.enter(origin, &[error]);
        let [(At::Vtep(_), frame)] = got.as_slice() else {
            panic!("an error goes home too: {got:?}");
        };
        assert_eq!(Headers::parse(frame).unwrap().1.dst_mac(), mac(9));
        // What nobody hid finds nobody.
        let stray = syn(v6).macs(mac(9), gate(1, 1));
        let stray = stray.addrs(at(1, 2, v6), at(0, A, v6));
        assert_eq!(h.enter(origin, &[stray.build()]), []);
        assert_eq!(h.dropped(DropReason::NoListener), 1);
    }
}

#[test]
fn who_is_on_another_network_than_the_address_keeps_its_source() {
    for v6 in [false, true] {
        let mut h = Host::new(&conf(Side::Project(id(7))));
        let ask = by_router(syn(v6), v6, (1, 2), (0, 9));
        let origin = h.origin(2);
        let (place, frame) = only(&mut h, origin, &ask);
        assert_eq!(place, At::Vtep(REMOTE.into()));
        let (from, _, src, _) = ends(&frame);
        assert_eq!((from, src), ((at(1, 2, v6), 4000), gate(1, 0)));
        // What it sends to the address is forwarded all the same.
        let open = FrameBuilder::tcp(v6, 4001, 8080).flags(tcp::SYN);
        let mut c = conf(Side::Project(id(7)));
        workload(&mut c, 0, 3, &[]);
        let mut forwarding = nat(1);
        for forward in &mut forwarding.forwards {
            forward.to = at(0, 3, forward.to.is_ipv6());
        }
        let functions = vec![FunctionKind::Nat(forwarding)];
        c.chain_of(16080, Some(Side::Project(id(7))), None, 8080, functions);
        h.apply(&c);
        let (place, frame) = only(&mut h, origin, &by_router(open, v6, (1, 2), (0, A)));
        assert_eq!(place, At::Port(3));
        let (from, to, ..) = ends(&frame);
        assert_eq!(from, (at(1, 2, v6), 4001));
        assert_eq!(to, (at(0, 3, v6), 80));
    }
}

#[test]
fn the_client_is_told_that_the_path_is_narrow_as_if_it_were_not_hidden() {
    for v6 in [false, true] {
        let mut h = Host::new(&conf(Side::Network(id(NET))));
        let ask = by_router(syn(v6).payload(&[7; 1300]), v6, (0, 1), (1, 8));
        let mut sent = h.pool.take(2000).unwrap();
        sent.fill(&ask.build()).unwrap();
        sent.set_origin(h.origin(1));
        let (mut batch, mut out) = (Batch::new(), super::super::Out::new());
        batch.push(sent).unwrap();
        let tables = std::sync::Arc::clone(&h.tables);
        h.dp.run(&tables, &mut batch, h.now, &mut h.pool, &mut out);
        let frame = out.tunnelled.pop().unwrap();
        assert_eq!(frame.packet.key().src_mac(), mac(1).marked());
        let unsent = crate::io::Unsent {
            frame,
            reason: DropReason::MtuExceeded,
            room: Some(1280u32.try_into().unwrap()),
        };
        h.dp.refuse_tunnel(&tables, unsent, h.now, &mut h.pool, &mut out);
        assert_eq!(out.next_port(&mut batch), Some(h.dense(1)));
        let error = batch.drain().next().unwrap();
        let (_, _, from, quoted) = told(error.bytes());
        assert_eq!(from, at(0, 254, v6).to_string());
        let tuple = Headers::parse(&ask.build()).unwrap().1.five_tuple();
        assert_eq!(quoted, tuple.unwrap().to_string());
        let key = error.key();
        assert_eq!((key.src_mac(), key.dst_mac()), (gate(1, 0), mac(1)));
        h.dp.ledger().balanced().unwrap();
    }
}

#[test]
fn a_router_answers_a_hidden_clients_ping_as_it_was_asked() {
    for v6 in [false, true] {
        let mut c = two(&[]);
        elsewhere(&mut c, 0, A, Location::Virtual);
        super::nat::chain(&mut c, vec![FunctionKind::Nat(nat(1))]);
        let mut h = Host::new(&c);
        let ping = |to: (u16, u16)| by_router(FrameBuilder::echo(v6, 7), v6, (0, 1), to);
        // The router's own address, and through it that of the NAT.
        for to in [(1, 254), (0, A)] {
            let origin = h.origin(1);
            let (place, frame) = only(&mut h, origin, &ping(to));
            assert_eq!(place, At::Port(1));
            let (from, back, src, dst) = ends(&frame);
            assert_eq!((from.0, back.0), (at(to.0, to.1, v6), at(0, 1, v6)));
            assert_eq!((src, dst), (gate(1, 0), mac(1)));
        }
        assert!(h.dp.conntrack().is_empty());
    }
}

#[test]
fn a_packet_waits_once_in_a_chain_that_leads_to_a_member_of_its_own_network() {
    // The chain is at the virtual address, and at the member behind it.
    let mut c = two(&[]);
    workload(&mut c, 0, 3, &[]);
    elsewhere(&mut c, 0, VIP, Location::Virtual);
    let balancer = FunctionKind::LoadBalancer(hostconfig::LoadBalancer {
        vip: at(0, VIP, false),
        vip_port: id(u128::from(VIP)),
        network: id(NET),
        mac: mac(VIP).try_into().unwrap(),
        protocol: 6,
        port: 80,
        algorithm: Algorithm::Maglev,
        members: vec![Member {
            id: id(3),
            addr: at(0, 3, false),
            port: 80,
            weight: 1,
        }],
        monitor: None,
    });
    let shaper = FunctionKind::Shaper(hostconfig::Shaper {
        rate_bps: 1_000_000_000,
        burst_bytes: 100_000,
        queue_bytes: 100_000,
        queue: hostconfig::Discipline::Fifo,
        share: None,
        classes: Vec::new(),
    });
    let network = Some(Side::Network(id(NET)));
    c.chain_of(8000, None, network, 80, vec![balancer, shaper]);
    let mut h = Host::new(&c);
    let ask = syn(false)
        .macs(mac(1), mac(VIP))
        .addrs(at(0, 1, false), at(0, VIP, false));
    let mut got = h.from(1, &ask);
    got.extend(h.tick().0);
    let [(At::Port(3), frame)] = got.as_slice() else {
        panic!("the member gets it: {got:?}");
    };
    assert_eq!(ends(frame).3, mac(3));
    assert_eq!(h.dp.counters().hops[1].packets, 1);
}

/// A third workload, on the second network, is the next hop for the second one's address.
fn led_to(c: &Conf, hop: u16) -> Conf {
    let mut led = Conf(c.0.clone());
    let (v4, v6) = (at(1, 2, false), at(1, 2, true));
    let (v4, v6) = (format!("{v4}/32"), format!("{v6}/128"));
    let routes = [(v4.as_str(), at(1, hop, false)), (&v6, at(1, hop, true))];
    router(&mut led, 1, &[(0, 254), (1, 254)], &routes);
    led
}

#[test]
fn a_hidden_connection_keeps_its_source_where_routes_lead_it_to_another_workload() {
    for (v6, groups) in [
        (false, &[][..]),
        (true, &[]),
        (false, &[GROUP]),
        (true, &[GROUP]),
    ] {
        let mut c = conf(Side::Network(id(NET)));
        workload(&mut c, 1, 3, groups);
        let mut h = Host::new(&c);
        let (client, server) = (h.origin(1), h.origin(2));
        let forth = |frame| by_router(frame, v6, (0, 1), (1, 2));
        let back = |frame: FrameBuilder| {
            let frame = frame.macs(mac(2), gate(1, 1));
            frame.addrs(at(1, 2, v6), at(0, A, v6))
        };
        only(&mut h, client, &forth(syn(v6)));
        only(&mut h, server, &back(syn_ack(v6)));
        let ack = forth(FrameBuilder::tcp(v6, 4000, 80).seq(101, 501));
        let (place, frame) = only(&mut h, client, &ack);
        assert_eq!((place, ends(&frame).0), (At::Port(2), shown(v6)));
        // Who keeps an eye on connections and saw none begin refuses it, here as on another host; what was asked before is answered.
        h.apply(&led_to(&c, 3));
        let refused = u64::from(!groups.is_empty());
        if refused == 1 {
            assert_eq!(h.enter(client, &[ack.build()]), []);
        } else {
            let (place, frame) = only(&mut h, client, &ack);
            assert_eq!((place, ends(&frame).0), (At::Port(3), shown(v6)));
        }
        assert_eq!(h.dropped(DropReason::ConntrackInvalid), refused);
        let answer = back(syn_ack(v6).flags(tcp::ACK).seq(501, 101));
        let (place, frame) = only(&mut h, server, &answer);
        assert_eq!((place, ends(&frame).1), (At::Port(1), (at(0, 1, v6), 4000)));
        h.apply(&led_to(&c, 8));
        let (place, frame) = only(&mut h, client, &ack);
        assert_eq!(place, At::Vtep(REMOTE.into()));
        assert_eq!((ends(&frame).0, ends(&frame).3), (shown(v6), mac(8)));
        // And so it goes on when they lead back.
        h.apply(&c);
        let (place, frame) = only(&mut h, client, &ack);
        assert_eq!((place, ends(&frame).0), (At::Port(2), shown(v6)));
        only(&mut h, server, &answer);
        assert_eq!(h.dp.conntrack().len(), 1);
        assert_eq!(h.dropped(DropReason::ConntrackInvalid), refused);
    }
}

#[test]
fn what_needs_no_beginning_goes_on_to_another_workload_with_its_source() {
    for v6 in [false, true] {
        let mut c = two(&[]);
        elsewhere(&mut c, 0, A, Location::Virtual);
        workload(&mut c, 1, 3, &[]);
        workload(&mut c, 0, 4, &[]);
        super::nat::chain(&mut c, vec![FunctionKind::Nat(nat(1))]);
        let mut h = Host::new(&c);
        let ask = |n| by_router(FrameBuilder::udp(v6, 4000, 80), v6, (0, n), (1, 2));
        // Two clients with one port: the second shows another.
        let first = h.origin(1);
        only(&mut h, first, &ask(1));
        let second = h.origin(4);
        let (place, frame) = only(&mut h, second, &ask(4));
        let source = ends(&frame).0;
        assert_eq!((place, source.0), (At::Port(2), at(0, A, v6)));
        assert_ne!(source.1, 4000);
        for (hop, place) in [(3, At::Port(3)), (8, At::Vtep(REMOTE.into()))] {
            h.apply(&led_to(&c, hop));
            let (to, frame) = only(&mut h, second, &ask(4));
            assert_eq!((to, ends(&frame).0), (place, source));
        }
        // Who gets it answers it.
        let answer = FrameBuilder::udp(v6, 80, source.1).macs(gate(1, 0), mac(4));
        let answer = answer.addrs(at(1, 2, v6), at(0, A, v6));
        let from_tunnel = tunnel(&h, 0);
        let (place, frame) = only(&mut h, from_tunnel, &answer);
        assert_eq!((place, ends(&frame).1), (At::Port(4), (at(0, 4, v6), 4000)));
        h.apply(&c);
        let (to, frame) = only(&mut h, second, &ask(4));
        assert_eq!((to, ends(&frame).0), (At::Port(2), source));
        assert_eq!(h.dp.conntrack().len(), 2);
    }
}
