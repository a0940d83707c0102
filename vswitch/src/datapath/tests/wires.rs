//! Is what is outside on the wire, and nowhere else?

use std::{net::IpAddr, sync::Arc, time::Duration};

use hostconfig::Section;
use net::{
    Batch, DropReason, Headers, Mac, Originated, Vni,
    testkit::{FrameBuilder, mac, tcp},
};

use super::{
    super::{
        Settings,
        neighbours::{Resolution, Speaker},
    },
    floating::{floating, shown},
    harness::*,
    routing::{at, gate, network, router_with, workload},
    several::{GATE, NEXT, OUT, door, gateway, outward, vtep, world},
};
use crate::io::Tunnelled;

/// Three open ports here, one on another host, and a wire.
fn open() -> Conf {
    let mut conf = Conf::new();
    for n in 1..=3 {
        conf.port_with(n, &[], |p| p.port_security = false);
    }
    conf.far(9).wire(100);
    conf
}

fn wire() -> At {
    At::Wire("blue".to_owned())
}

#[test]
fn what_is_not_here_is_on_the_wire_in_both_families() {
    let mut conf = open();
    let mut h = Host::new(&conf);
    for v6 in [false, true] {
        let udp = FrameBuilder::udp(v6, 1000, 53);
        // 8 is nobody that the controller knows, 9 a workload of another host.
        for n in [8, 9] {
            assert_eq!(h.places(1, &between(udp.clone(), v6, 1, n)), [wire()]);
            assert_eq!(h.tunnelled(&between(udp.clone(), v6, n, 3)), [At::Port(3)]);
        }
        assert_eq!(h.places(1, &between(udp.clone(), v6, 1, 2)), [At::Port(2)]);
        // Both ways are found again without a walk.
        let walks = h.dp.counters().lookups.upcall;
        assert_eq!(h.places(1, &between(udp.clone(), v6, 1, 8)), [wire()]);
        assert_eq!(h.tunnelled(&between(udp, v6, 8, 3)), [At::Port(3)]);
        assert_eq!(h.dp.counters().lookups.upcall, walks);
    }
    assert!(h.vnis.is_empty(), "nothing of it crosses the underlay");
    let network = h.tables.network_by_id(id(NET)).unwrap();
    let port = h.tables.wire_of(network.dense).unwrap();
    let counted = h.dp.counters().ports[port.index()];
    assert_eq!((counted.rx_packets, counted.tx_packets), (6, 6));
    // No longer on the wire, it is an overlay again.
    conf.on(None);
    h.apply(&conf);
    let udp = FrameBuilder::udp(false, 1000, 53);
    assert_eq!(h.places(1, &between(udp.clone(), false, 1, 8)), []);
    let far = [At::Vtep(REMOTE.into())];
    assert_eq!(h.places(1, &between(udp, false, 1, 9)), far);
}

#[test]
fn nothing_goes_back_out_of_the_wire() {
    let mut h = Host::new(&open());
    let udp = FrameBuilder::udp(false, 1, 2);
    assert_eq!(h.tunnelled(&between(udp.clone(), false, 8, 7)), []);
    assert_eq!(h.dropped(DropReason::UnknownUnicast), 1);
    assert_eq!(h.tunnelled(&between(udp.clone(), false, 8, 9)), []);
    assert_eq!(h.dropped(DropReason::SplitHorizon), 1);
    let all = udp.clone().macs(mac(8), Mac::BROADCAST);
    let mut got = h.tunnelled(&all);
    got.sort();
    assert_eq!(got, [At::Port(1), At::Port(2), At::Port(3)]);
    let mut got = h.places(1, &udp.macs(mac(1), Mac::BROADCAST));
    got.sort();
    assert_eq!(got, [At::Port(2), At::Port(3), wire()]);
}

#[test]
fn the_wire_is_not_believed() {
    let mut h = Host::new(&open());
    let spoof = between(FrameBuilder::udp(false, 1, 2), false, 1, 2);
    assert_eq!(h.tunnelled(&spoof), []);
    // Between switches it would be a mark.
    let nobody = spoof.macs(mac(8).marked(), mac(2));
    assert_eq!(h.tunnelled(&nobody), []);
    assert_eq!(h.dropped(DropReason::WireSpoof), 2);
}

#[test]
fn nothing_of_it_comes_out_of_a_tunnel() {
    let mut h = Host::new(&open());
    let frame = between(FrameBuilder::udp(false, 1, 2), false, 9, 1).build();
    let mut packet = h.pool.take(frame.len()).unwrap();
    packet.fill(&frame).unwrap();
    let tunnelled = Tunnelled {
        packet,
        vni: Vni::try_from(1).unwrap(),
        vtep: REMOTE.parse().unwrap(),
        nsh: None,
    };
    let (tables, mut batch) = (Arc::clone(&h.tables), Batch::new());
    h.dp.enter_tunnel(&tables, tunnelled, &mut batch, h.now, &mut h.pool)
        .unwrap();
    assert!(batch.is_empty());
    assert_eq!(h.dropped(DropReason::NotByTunnel), 1);
    h.dp.ledger().balanced().unwrap();
}

#[test]
fn groups_and_connections_hold_for_the_wire_as_for_the_tunnel() {
    for v6 in [false, true] {
        let mut conf = Conf::new();
        conf.web(6, 80).port(1, &[GROUP]).wire(0);
        let mut h = Host::new(&conf);
        // In by rule, out by state.
        assert_eq!(h.tunnelled(&syn(v6, (8, 4000), (1, 80))), [At::Port(1)]);
        let answer = syn_ack(v6, (1, 80), (8, 4000));
        assert_eq!(h.places(1, &answer), [wire()]);
        assert_eq!(h.tunnelled(&ack(v6, (8, 4000), (1, 80))), [At::Port(1)]);
        assert_eq!(h.dp.conntrack().len(), 1);
        assert_eq!(h.tunnelled(&syn(v6, (8, 4000), (1, 81))), []);
        assert_eq!(h.dropped(DropReason::SecurityGroupIngress), 1);
        // Out by rule, in by state; another process goes on with it.
        assert_eq!(h.places(1, &syn(v6, (1, 5000), (8, 22))), [wire()]);
        h.restart();
        let answer = syn_ack(v6, (8, 22), (1, 5000));
        assert_eq!(h.tunnelled(&answer), [At::Port(1)]);
        let data = ack(v6, (8, 4000), (1, 80));
        assert_eq!(h.tunnelled(&data), [At::Port(1)]);
        // Who imitates an end from the wrong side is no part of it.
        let forged = syn_ack(v6, (1, 80), (8, 4000)).flags(tcp::RST);
        assert_eq!(h.tunnelled(&forged), []);
        assert_eq!(h.dropped(DropReason::WireSpoof), 1);
        // Another source than its own goes nowhere.
        let other = syn(v6, (2, 1), (8, 22)).macs(mac(1), mac(8));
        assert_eq!(h.places(1, &other), []);
        assert_eq!(h.dropped(DropReason::PortSecurityIp), 1);
    }
}

fn v4(n: u16) -> std::net::Ipv4Addr {
    match ip(n, false) {
        IpAddr::V4(a) => a,
        IpAddr::V6(_) => unreachable!(),
    }
}

#[test]
fn who_is_here_is_answered_for_and_who_is_outside_answers_itself() {
    let mut h = Host::new(&open());
    let ask = |from: u16, to: u16| FrameBuilder::arp(1, (mac(from), v4(from)), (Mac::ZERO, v4(to)));
    let answer = FrameBuilder::arp(2, (mac(2), v4(2)), (mac(1), v4(1)));
    let origin = h.origin(1);
    assert_eq!(h.enter(origin, &[ask(1, 2)]), [(At::Port(1), answer)]);
    for n in [8, 9] {
        let got: Vec<_> = h.enter(origin, &[ask(1, n)]);
        let mut got: Vec<_> = got.into_iter().map(|(at, _)| at).collect();
        got.sort();
        assert_eq!(got, [At::Port(2), At::Port(3), wire()], "{n}");
    }
    // A stranger's question is for the ports to answer; the switch says nothing on the wire.
    let tunnel = h.tunnel();
    let got = h.enter(tunnel, &[ask(8, 1)]);
    assert_eq!(got.len(), 3);
    assert!(got.iter().all(|(at, _)| *at != wire()));
    let discover = FrameBuilder::udp(false, 68, 67)
        .macs(mac(8), Mac::BROADCAST)
        .addrs(
            "0.0.0.0".parse().unwrap(),
            "255.255.255.255".parse().unwrap(),
        );
    assert!(h.tunnelled(&discover).iter().all(|at| *at != wire()));
    let said = h.dp.ledger().originated;
    assert_eq!(said[Originated::ArpReply.index()], 1);
    assert_eq!(said[Originated::Dhcp.index()], 0);
}

#[test]
fn neighbours_are_asked_on_the_wire_and_heard() {
    let mut h = Host::new(&open());
    for v6 in [false, true] {
        let speaker = Speaker {
            mac: mac(0x77),
            addr: ip(77, v6),
        };
        let resolve = |h: &Host| {
            let outside = h.tables.outside();
            outside.resolve(id(NET), ip(8, v6), speaker, h.now)
        };
        assert_eq!(resolve(&h).found, Resolution::Pending);
        let moment = h.tables.moment();
        let (asked, wake) = h.tick();
        let [(at, question)] = &asked[..] else {
            panic!("one question: {asked:?}");
        };
        assert_eq!((at, &question[6..12]), (&wire(), &mac(0x77).octets()[..]));
        assert_eq!(wake, Some(h.now + std::time::Duration::from_secs(1)));
        let answer = if v6 {
            FrameBuilder::neighbor(
                136,
                (mac(8), "fd00::8".parse().unwrap()),
                (mac(0x77), "fd00::4d".parse().unwrap()),
                "fd00::8".parse().unwrap(),
            )
        } else {
            FrameBuilder::arp(2, (mac(8), v4(8)), (mac(0x77), v4(77)))
        };
        let tunnel = h.tunnel();
        // A port here is not believed: it speaks for itself alone.
        let origin = h.origin(1);
        h.enter(origin, std::slice::from_ref(&answer));
        assert_eq!(resolve(&h).found, Resolution::Pending);
        h.enter(tunnel, &[answer]);
        assert_eq!(resolve(&h).found, Resolution::Resolved(mac(8)));
        assert!(h.tables.moment() > moment);
        // Who shows an address that lives here is no neighbour.
        let stolen = FrameBuilder::arp(2, (mac(2), v4(8)), (mac(0x77), v4(77)));
        h.enter(tunnel, &[stolen]);
        assert_eq!(resolve(&h).found, Resolution::Resolved(mac(8)));
    }
    let said = h.dp.ledger().originated;
    assert_eq!(said[Originated::Solicitation.index()], 2);
}

#[test]
fn what_is_too_large_for_the_network_does_not_leave_by_its_wire() {
    let mut h = Host::new(&open());
    let large = between(FrameBuilder::udp(false, 1, 2), false, 1, 8).payload(&[0; 1450]);
    assert_eq!(h.places(1, &large), [At::Port(1)], "its sender is told");
    assert_eq!(h.dropped(DropReason::MtuExceeded), 1);
}

/// One host with a workload, and its router's gateway on a wire.
fn behind_a_gateway() -> Host {
    Host::at(vtep(1), &on_a_wire(1), Settings::default())
}

/// A workload of host 1, and a wire on which its router's gateway is, at this host.
fn on_a_wire(at_host: usize) -> Conf {
    let mut conf = Conf::new();
    conf.web(6, 80);
    network(&mut conf, 0, 1450, |_| {});
    network(&mut conf, OUT, 1450, |n| {
        n.wire = Some(hostconfig::network::Wire {
            physical: "physnet1".to_owned(),
            vlan: None,
        });
    });
    workload(&mut conf, 0, 1, &[]);
    router_with(&mut conf, 1, &[(0, 254)], &[], |config| {
        config.gateway = Some(gateway(1, GATE, Some(at_host)));
    });
    conf
}

fn out() -> At {
    At::Wire(format!("net{OUT}"))
}

fn off_wire(h: &Host) -> net::Origin {
    let network = h.tables.network_by_id(id(NET + u128::from(OUT))).unwrap();
    net::Origin::Tunnel(network.dense)
}

/// The next hop's answer to who asked for it in the name of the gateway.
fn found(v6: bool) -> Vec<u8> {
    let ours = (door(1), at(OUT, GATE, v6));
    speaks(v6, 2, (mac(NEXT), at(OUT, NEXT, v6)), ours)
}

#[test]
fn one_packet_waits_for_a_next_hop_and_it_is_the_newest() {
    let mut h = behind_a_gateway();
    for _ in 0..4 {
        h.tick();
        h.pass(Duration::from_millis(500));
    }
    for v6 in [false, true] {
        let dropped = h.dropped(DropReason::NeighbourUnresolved);
        for sport in [4000, 4001, 4002] {
            let udp = outward(FrameBuilder::udp(v6, sport, 53), v6, 1);
            assert_eq!(h.places(1, &udp), []);
        }
        let now = h.dropped(DropReason::NeighbourUnresolved);
        assert_eq!(now, dropped + 2, "those before it");
        assert_eq!(h.dp.ledger().held, 1);
        h.dp.ledger().balanced().unwrap();
        let (asked, wake) = h.tick();
        assert_eq!(asked.len(), 1);
        let soon = h.now + Duration::from_millis(10);
        assert_eq!(wake, Some(soon), "another worker may hear the answer");
        assert_eq!(h.enter(off_wire(&h), &[found(v6)]), []);
        let (left, _) = h.tick();
        let [(place, frame)] = &left[..] else {
            panic!("one frame: {left:?}")
        };
        let (_, key) = Headers::parse(frame).unwrap();
        assert_eq!((place, key.dst_mac()), (&out(), mac(NEXT)));
        assert_eq!((key.l4_src, key.l4_dst), (4002, 53));
        assert_eq!(h.dp.ledger().held, 0);
        h.dp.ledger().balanced().unwrap();
        // It has begun a connection, as any other.
        assert_eq!(
            h.places(1, &outward(FrameBuilder::udp(v6, 4002, 53), v6, 1)),
            [out()]
        );
    }
}

#[test]
fn whom_nobody_answers_hears_so_and_what_waits_at_the_end_is_counted() {
    let mut h = behind_a_gateway();
    for v6 in [false, true] {
        let udp = outward(FrameBuilder::udp(v6, 4000, 53), v6, 1);
        assert_eq!(h.places(1, &udp), []);
        let mut told = vec![];
        for _ in 0..50 {
            let (said, _) = h.tick();
            told.extend(said.into_iter().filter(|(at, _)| *at == At::Port(1)));
            h.pass(Duration::from_millis(100));
        }
        let [(_, error)] = &told[..] else {
            panic!("one error: {told:?}")
        };
        let (headers, key) = Headers::parse(error).unwrap();
        assert!(headers.quoted(error).is_some());
        assert_eq!((key.l4_src, key.l4_dst), if v6 { (1, 3) } else { (3, 1) });
        assert_eq!(h.dropped(DropReason::NeighbourUnresolved), 0);
    }
    h.pass(Duration::from_secs(10));
    let udp = outward(FrameBuilder::udp(false, 4000, 53), false, 1);
    assert_eq!(h.places(1, &udp), []);
    assert_eq!(h.dp.ledger().held, 1);
    let now = h.now;
    h.dp.drain(now, &mut h.pool);
    assert_eq!(
        (h.dp.ledger().held, h.dropped(DropReason::Shutdown)),
        (0, 1)
    );
    h.dp.ledger().balanced().unwrap();
}

/// A record outlives what is known of its next hop, and also a next hop that is silent for a while.
#[test]
fn a_connection_outlives_its_next_hop() {
    for (v6, by_reply, silence) in [
        (false, false, 0),
        (true, false, 0),
        (false, true, 0),
        (true, true, 0),
        (false, false, 60),
        (true, false, 60),
    ] {
        let mut h = behind_a_gateway();
        let origin = off_wire(&h);
        let begin = FrameBuilder::tcp(v6, 4000, 443).flags(tcp::SYN).seq(100, 0);
        assert_eq!(h.places(1, &outward(begin, v6, 1)), []);
        h.tick();
        h.enter(origin, &[found(v6)]);
        let (left, _) = h.tick();
        let sent = left.iter().find(|(place, _)| *place == out()).unwrap();
        let (_, shown) = Headers::parse(&sent.1).unwrap();
        let back = |flags, seq, ack| {
            let reply = FrameBuilder::tcp(v6, 443, shown.l4_src).flags(flags);
            let reply = reply.seq(seq, ack).macs(mac(NEXT), door(1));
            reply.addrs(world(v6), shown.src_addr()).build()
        };
        let on = |seq, ack| {
            let next = FrameBuilder::tcp(v6, 4000, 443).flags(tcp::ACK);
            outward(next.seq(seq, ack), v6, 1)
        };
        assert_eq!(
            h.enter(origin, &[back(tcp::SYN | tcp::ACK, 500, 101)])
                .len(),
            1
        );
        assert_eq!(h.places(1, &on(101, 501)), [out()]);
        // An hour in which nobody speaks, and nothing is remembered of the next hop.
        for _ in 0..360 {
            h.pass(Duration::from_secs(10));
            h.tick();
        }
        let (first, expected) = if by_reply {
            (h.enter(origin, &[back(tcp::ACK, 501, 101)]), At::Port(1))
        } else {
            (h.from(1, &on(101, 501)), out())
        };
        if by_reply && v6 {
            // Nothing of it is translated: the way there is not asked for.
            assert_eq!(first.len(), 1);
            assert_eq!(first[0].0, expected);
            continue;
        }
        assert_eq!(first, [], "v6 {v6}, reply {by_reply}: it waits");
        for _ in 0..silence {
            h.tick();
            h.pass(Duration::from_secs(1));
            // What is sent again is not let through, and ends nothing.
            assert!(!h.places(1, &on(101, 501)).contains(&out()));
        }
        if silence > 0 {
            // It is asked for again.
            h.pass(Duration::from_secs(5));
            h.tick();
            assert_eq!(h.places(1, &on(101, 501)), []);
        }
        h.tick();
        h.enter(origin, &[found(v6)]);
        let (then, _) = h.tick();
        let places: Vec<&At> = then.iter().map(|(place, _)| place).collect();
        let case = format!("v6 {v6}, reply {by_reply}, silent for {silence}");
        assert!(places.contains(&&expected), "{case}: {places:?}");
        assert_eq!(h.places(1, &on(101, 501)), [out()]);
        let again = h.enter(origin, &[back(tcp::ACK, 501, 101)]);
        assert_eq!(again.len(), 1, "{case}");
        h.dp.ledger().balanced().unwrap();
    }
}

/// ARP, or ND: `kind` 1 asks for an address, 2 answers.
fn speaks(v6: bool, kind: u8, from: (Mac, IpAddr), to: (Mac, IpAddr)) -> Vec<u8> {
    match (from.1, to.1) {
        (IpAddr::V6(src), IpAddr::V6(dst)) => {
            assert!(v6);
            let target = if kind == 1 { dst } else { src };
            FrameBuilder::neighbor(134 + kind, (from.0, src), (to.0, dst), target)
        }
        (IpAddr::V4(src), IpAddr::V4(dst)) => FrameBuilder::arp(kind, (from.0, src), (to.0, dst)),
        _ => unreachable!("one family"),
    }
}

#[test]
fn a_gateway_on_a_wire_asks_for_its_next_hop_and_is_asked_for() {
    let mut h = behind_a_gateway();
    // It begins here: all are told, thrice, of each address and of the link-local one.
    let mut told = 0;
    for _ in 0..10 {
        told += h.tick().0.iter().filter(|(at, _)| *at == out()).count();
        h.pass(Duration::from_millis(100));
    }
    assert_eq!(told, 9);
    assert_eq!(h.tick().1, None, "then nobody wakes");
    let next = mac(NEXT);
    for v6 in [false, true] {
        let syn = FrameBuilder::tcp(v6, 4000, 443).flags(tcp::SYN).seq(100, 0);
        let syn = outward(syn, v6, 1);
        assert_eq!(h.places(1, &syn), []);
        let (asked, _) = h.tick();
        let [(at_wire, question)] = &asked[..] else {
            panic!("one question: {asked:?}")
        };
        assert_eq!((at_wire, &question[6..12]), (&out(), &door(1).octets()[..]));
        let origin = off_wire(&h);
        let ours = (door(1), at(OUT, GATE, v6));
        let answer = speaks(v6, 2, (next, at(OUT, NEXT, v6)), ours);
        assert_eq!(h.enter(origin, &[answer]), []);
        // It has waited, and leaves now, hidden or not, to whom answered; and comes back.
        let (left, _) = h.tick();
        let [(place, frame)] = &left[..] else {
            panic!("one frame: {left:?}")
        };
        let (_, key) = Headers::parse(frame).unwrap();
        assert_eq!(
            (place, key.dst_mac(), key.src_mac()),
            (&out(), next, door(1))
        );
        let seen = if v6 {
            at(0, 1, true)
        } else {
            at(OUT, GATE, false)
        };
        assert_eq!((key.src_addr(), key.dst_addr()), (seen, world(v6)));
        let back = FrameBuilder::tcp(v6, 443, key.l4_src)
            .flags(tcp::SYN | tcp::ACK)
            .seq(500, 101)
            .macs(next, door(1))
            .addrs(world(v6), seen);
        let got = h.enter(origin, &[back.build()]);
        assert_eq!(got.len(), 1, "v6 {v6}");
        assert_eq!(got[0].0, At::Port(1));
        // Who is asked for by strangers is told, and remembers who asked.
        let stranger = (mac(0x88), at(OUT, 88, v6));
        let asks = speaks(v6, 1, stranger, (Mac::ZERO, at(OUT, GATE, v6)));
        let got = h.enter(origin, &[asks]);
        let expected = speaks(v6, 2, ours, stranger);
        assert_eq!(got.len(), 1);
        assert_eq!((&got[0].0, &got[0].1[..14]), (&out(), &expected[..14]));
        let ping = FrameBuilder::echo(v6, 7)
            .macs(stranger.0, door(1))
            .addrs(stranger.1, at(OUT, GATE, v6));
        let got = h.enter(origin, &[ping.build()]);
        let (_, key) = Headers::parse(&got[0].1).unwrap();
        assert_eq!((&got[0].0, key.dst_mac()), (&out(), stranger.0));
        // One who is on the link, but nobody: its sender hears so after three seconds.
        let nobody = at(OUT, 99, v6);
        let lost = FrameBuilder::tcp(v6, 4001, 443)
            .flags(tcp::SYN)
            .macs(mac(1), gate(1, 0))
            .addrs(at(0, 1, v6), nobody);
        assert_eq!(h.places(1, &lost), []);
        for _ in 0..4 {
            h.tick();
            h.pass(Duration::from_secs(1));
        }
        h.tick();
        assert_eq!(h.places(1, &lost), [At::Port(1)], "an ICMP error");
        // The next hop moves to another device: so does what is established.
        let moved = mac(0x99);
        let says = speaks(v6, 2, (moved, at(OUT, NEXT, v6)), ours);
        h.enter(origin, &[says]);
        let ack = outward(FrameBuilder::tcp(v6, 4000, 443).seq(101, 501), v6, 1);
        let left = h.from(1, &ack);
        let (_, key) = Headers::parse(&left[0].1).unwrap();
        assert_eq!(key.dst_mac(), moved);
    }
}

#[test]
fn a_floating_ip_on_a_wire_is_told_of_asked_for_and_reached() {
    // At its workload's host, with the gateway there or at another one.
    for at_host in [1, 2] {
        let mut conf = on_a_wire(at_host);
        conf.put(Section::FloatingIp(floating(100, Some(1), &[], Some(1))));
        let mut h = Host::at(vtep(1), &conf, Settings::default());
        let outside = at(OUT, 100, false);
        let (own, next) = ((shown(100), outside), (mac(NEXT), at(OUT, NEXT, false)));
        let tells = FrameBuilder::arp(1, (shown(100), v4_of(outside)), (Mac::ZERO, v4_of(outside)));
        let mut told = 0;
        for _ in 0..10 {
            let (frames, _) = h.tick();
            let of_it =
                |(place, frame): &&(At, Vec<u8>)| *place == out() && frame[14..] == tells[14..];
            told += frames.iter().filter(of_it).count();
            h.pass(Duration::from_millis(100));
        }
        assert_eq!(told, 3, "{at_host}");
        // Who asks for it is answered.
        let origin = off_wire(&h);
        let asks = speaks(false, 1, next, (Mac::ZERO, outside));
        let got = h.enter(origin, std::slice::from_ref(&asks));
        assert_eq!(got, [(out(), speaks(false, 2, own, next))], "{at_host}");
        // Who comes to it comes to the workload, and is answered in its name: who asked is known.
        let come = FrameBuilder::tcp(false, 4000, 80)
            .flags(tcp::SYN)
            .seq(100, 0);
        let come = come
            .macs(mac(NEXT), shown(100))
            .addrs(world(false), outside);
        let got = h.enter(origin, &[come.build()]);
        let [(At::Port(1), frame)] = &got[..] else {
            panic!("to the workload: {got:?}")
        };
        let (_, key) = Headers::parse(frame).unwrap();
        assert_eq!(
            (key.src_addr(), key.dst_addr()),
            (world(false), at(0, 1, false))
        );
        let answer = FrameBuilder::tcp(false, 80, 4000)
            .flags(tcp::SYN | tcp::ACK)
            .seq(500, 101);
        let left = h.from(1, &outward(answer, false, 1));
        let [(place, frame)] = &left[..] else {
            panic!("one frame: {left:?}")
        };
        let (_, key) = Headers::parse(frame).unwrap();
        let macs = (key.src_mac(), key.dst_mac());
        assert_eq!(
            (place, macs, key.src_addr()),
            (&out(), (shown(100), mac(NEXT)), outside)
        );
        // What the workload begins itself shows it too.
        let begun = outward(FrameBuilder::udp(false, 5000, 53), false, 1);
        let left = h.from(1, &begun);
        let (_, key) = Headers::parse(&left[0].1).unwrap();
        assert_eq!((key.src_mac(), key.src_addr()), (shown(100), outside));
        // It goes elsewhere: nobody here answers for it, or tells.
        conf.put(Section::FloatingIp(floating(100, Some(1), &[], None)));
        h.apply(&conf);
        assert_eq!(h.tick().0, []);
        let got = h.enter(origin, &[asks]);
        assert!(got.iter().all(|(place, _)| *place != out()), "{got:?}");
        assert_eq!(h.enter(origin, &[come.build()]), []);
    }
}

/// Which of a workload's addresses were told of on the wire, in the order of their frames, in a second and a half.
fn told_of(h: &mut Host, n: u16) -> Vec<IpAddr> {
    let mut told = Vec::new();
    for _ in 0..15 {
        for (place, frame) in h.tick().0 {
            assert_eq!(place, wire(), "who is on the fabric knows");
            let (_, key) = Headers::parse(&frame).unwrap();
            assert_eq!(key.src_mac(), mac(n));
            let addrs = [false, true].map(|v6| ip(n, v6));
            told.extend(addrs.into_iter().find(|own| *own == key.src_addr()));
        }
        h.pass(Duration::from_millis(100));
    }
    told
}

#[test]
fn a_workload_that_comes_is_told_of_on_the_wire() {
    let mut conf = open();
    let mut h = Host::new(&conf);
    assert!(told_of(&mut h, 2).is_empty(), "its device is not here");
    let port = |h: &Host, n: u16| h.tables.port_by_id(id(n.into())).unwrap().dense;
    h.device(port(&h, 2), true);
    let told = told_of(&mut h, 2);
    let [v4, v6] = [false, true].map(|v6| ip(2, v6));
    assert_eq!(told, [v4, v6, v4, v6, v4, v6]);
    // Neither another config nor the same device again is a reason to say it again.
    conf.port_with(4, &[], |p| p.port_security = false);
    h.apply(&conf);
    h.device(port(&h, 2), true);
    assert!(told_of(&mut h, 2).is_empty());
    // One that went and comes again may have been elsewhere.
    h.device(port(&h, 2), false);
    assert!(told_of(&mut h, 2).is_empty());
    h.device(port(&h, 2), true);
    assert_eq!(told_of(&mut h, 2).len(), 6);
    // One that was here before it was to be: as soon as it is.
    conf.port_with(4, &[], |p| p.admin_up = false);
    h.apply(&conf);
    h.device(port(&h, 4), true);
    assert!(told_of(&mut h, 4).is_empty());
    conf.port_with(4, &[], |p| p.admin_up = true);
    h.apply(&conf);
    assert_eq!(told_of(&mut h, 4).len(), 6);
    // On a network without a wire nobody need be told.
    let mut conf = Conf::new();
    conf.port_with(1, &[], |p| p.port_security = false);
    let mut h = Host::new(&conf);
    h.device(port(&h, 1), true);
    assert_eq!(h.tick().0, []);
}

#[test]
fn a_floating_ip_asks_on_the_wire_in_its_own_name() {
    let mut conf = on_a_wire(2);
    conf.put(Section::FloatingIp(floating(100, Some(1), &[], Some(1))));
    let mut h = Host::at(vtep(1), &conf, Settings::default());
    for _ in 0..4 {
        h.tick();
        h.pass(Duration::from_millis(500));
    }
    let begun = outward(FrameBuilder::udp(false, 5000, 53), false, 1);
    assert_eq!(h.places(1, &begun), []);
    assert_eq!(h.dropped(DropReason::NeighbourUnresolved), 0, "it waits");
    let (asked, _) = h.tick();
    let ours = (shown(100), at(OUT, 100, false));
    let expected = speaks(false, 1, ours, (Mac::ZERO, at(OUT, NEXT, false)));
    assert_eq!(asked, [(out(), expected)]);
    let origin = off_wire(&h);
    let answer = speaks(false, 2, (mac(NEXT), at(OUT, NEXT, false)), ours);
    assert_eq!(h.enter(origin, &[answer]), []);
    let (left, _) = h.tick();
    assert!(left.iter().all(|(place, _)| *place == out()));
    assert_eq!((left.len(), h.places(1, &begun)), (1, vec![out()]));
}

fn v4_of(addr: IpAddr) -> std::net::Ipv4Addr {
    match addr {
        IpAddr::V4(a) => a,
        IpAddr::V6(_) => unreachable!(),
    }
}
