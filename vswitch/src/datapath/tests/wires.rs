//! Is what is outside on the wire, and nowhere else?

use std::{net::IpAddr, sync::Arc};

use net::{
    Batch, DropReason, Mac, Originated, Vni,
    testkit::{FrameBuilder, mac, tcp},
};

use super::{super::neighbours::Resolution, super::neighbours::Speaker, harness::*};
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
