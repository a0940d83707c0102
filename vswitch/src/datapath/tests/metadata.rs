//! What comes to the metadata service, and what does not?

use net::{
    Consumed, DropReason, Headers, Mac, Originated,
    testkit::{FrameBuilder, mac, tcp},
};

use super::harness::*;
use crate::datapath::{Settings, tables::metadata};

fn service(v6: bool) -> std::net::IpAddr {
    if v6 {
        metadata::V6.into()
    } else {
        metadata::V4.into()
    }
}

fn conf() -> Conf {
    let mut conf = Conf::new();
    conf.web(6, 80).port(1, &[GROUP]).port(2, &[GROUP]).far(9);
    conf
}

/// A packet that opens a connection to it, by this Ethernet address.
fn opens(n: u16, v6: bool, by: Mac) -> FrameBuilder {
    FrameBuilder::tcp(v6, 4000, 80)
        .macs(mac(n), by)
        .addrs(ip(n, v6), service(v6))
        .flags(tcp::SYN)
}

#[test]
fn its_addresses_are_answered_on_every_network_and_pings_of_them() {
    let mut h = Host::new(&conf());
    let own = "10.0.0.1".parse().unwrap();
    let ask = FrameBuilder::arp(1, (mac(1), own), (Mac::ZERO, metadata::V4));
    let answer = FrameBuilder::arp(2, (metadata::MAC, metadata::V4), (mac(1), own));
    assert_eq!(h.enter(h.origin(1), &[ask]), [(At::Port(1), answer)]);
    let own = "fd00::1".parse().unwrap();
    let all = (
        Mac::new([0x33, 0x33, 0xff, 0xfe, 0xa9, 0xfe]),
        "ff02::1:fffe:a9fe".parse().unwrap(),
    );
    let ask = FrameBuilder::neighbor(135, (mac(1), own), all, metadata::V6);
    let to = (mac(1), own);
    let answer = FrameBuilder::neighbor(136, (metadata::MAC, metadata::V6), to, metadata::V6);
    assert_eq!(h.enter(h.origin(1), &[ask]), [(At::Port(1), answer)]);
    for v6 in [false, true] {
        let (to, by) = (service(v6), metadata::MAC);
        let ping = FrameBuilder::echo(v6, 3).payload(b"hello");
        let ping = ping.macs(mac(1), by).addrs(ip(1, v6), to);
        let pong = FrameBuilder::echo_reply(v6, 3).payload(b"hello");
        let pong = pong.macs(by, mac(1)).addrs(to, ip(1, v6));
        assert_eq!(h.from(1, &ping), [(At::Port(1), pong.build())]);
    }
    assert!(h.dp.conntrack().is_empty());
}

#[test]
fn tcp_to_it_is_taken_out_by_whatever_router_and_answers_come_back() {
    for v6 in [false, true] {
        let mut h = Host::new(&conf());
        for (n, by) in [(1, metadata::MAC), (1, mac(77)), (2, mac(9))] {
            assert_eq!(h.from(n, &opens(n, v6, by)), []);
        }
        let taken = h.take_metadata();
        let from: Vec<_> = taken.iter().map(|(port, _)| *port).collect();
        assert_eq!(from, [1, 1, 2]);
        assert_eq!(h.dp.ledger().consumed[Consumed::Metadata.index()], 3);
        assert!(h.dp.conntrack().is_empty(), "nothing is tracked");
        // The second packet of a flow is not walked again.
        let before = h.dp.counters().lookups.upcall;
        h.from(1, &opens(1, v6, metadata::MAC));
        assert_eq!(h.dp.counters().lookups.upcall, before);
        h.take_metadata();
        let answer = FrameBuilder::tcp(v6, 80, 4000)
            .macs(metadata::MAC, mac(1))
            .addrs(service(v6), ip(1, v6))
            .flags(tcp::SYN | tcp::ACK)
            .build();
        assert_eq!(
            h.answer_metadata(1, &answer),
            [(At::Port(1), answer.clone())]
        );
        assert_eq!(h.dp.ledger().originated[Originated::Metadata.index()], 1);
        assert_eq!(h.answer_metadata(5, &answer), [], "there is no such port");
        assert_eq!(h.answer_metadata(1, b"short"), [], "that is no frame");
        h.dp.ledger().balanced().unwrap();
    }
}

#[test]
fn nobody_asks_in_anothers_name_and_egress_rules_hold() {
    for v6 in [false, true] {
        let mut h = Host::new(&conf());
        let forged = opens(1, v6, metadata::MAC).addrs(ip(2, v6), service(v6));
        assert_eq!(h.from(1, &forged), []);
        assert_eq!(h.dropped(DropReason::PortSecurityIp), 1);
        let mut silent = Conf::new();
        silent.group(GROUP, true, vec![]).port(1, &[GROUP]);
        h.apply(&silent);
        assert_eq!(h.from(1, &opens(1, v6, metadata::MAC)), []);
        assert_eq!(h.dropped(DropReason::SecurityGroupEgress), 1);
        assert!(h.take_metadata().is_empty());
    }
}

#[test]
fn what_is_not_for_its_port_and_fragments_are_forwarded_as_any() {
    let mut h = Host::new(&conf());
    let other = FrameBuilder::tcp(false, 4000, 443)
        .macs(mac(1), metadata::MAC)
        .addrs(ip(1, false), service(false))
        .flags(tcp::SYN);
    assert_eq!(h.from(1, &other), []);
    assert_eq!(h.dropped(DropReason::UnknownUnicast), 1);
    assert!(h.take_metadata().is_empty());
}

#[test]
fn a_port_that_asks_too_much_is_refused_and_its_neighbour_is_not() {
    let settings = Settings {
        metadata_per_second: 3,
        ..Settings::default()
    };
    let mut h = Host::with(&conf(), settings);
    for _ in 0..5 {
        h.from(1, &opens(1, false, metadata::MAC));
    }
    h.from(2, &opens(2, false, metadata::MAC));
    assert_eq!(h.dropped(DropReason::MetadataRefused), 2);
    assert_eq!(h.take_metadata().len(), 4);
    // And what the service does not take is dropped after all.
    h.from(2, &opens(2, false, metadata::MAC));
    h.refuse_metadata();
    assert_eq!(h.dropped(DropReason::MetadataRefused), 3);
    assert_eq!(h.dp.ledger().consumed[Consumed::Metadata.index()], 4);
    h.dp.ledger().balanced().unwrap();
}

#[test]
fn a_frame_of_it_is_read_as_what_it_is() {
    let mut h = Host::new(&conf());
    h.from(1, &opens(1, true, metadata::MAC));
    let taken = h.take_metadata();
    let (_, inward) = &taken[0];
    assert!(inward.opens && inward.l4 == 40);
    assert_eq!(inward.eth, (mac(1), metadata::MAC));
    assert_eq!(inward.from, (ip(1, true), 4000).into());
    let (headers, _) = Headers::parse(&opens(1, true, metadata::MAC).build()).unwrap();
    assert_eq!(inward.ip.len(), headers.end as usize - 14);
}

/// A sub-port is not its parent: what bears its tag asks in its name, and what it is answered goes to it, out of its parent's device.
#[test]
fn a_sub_port_asks_for_itself_by_its_tag() {
    let vlan = |n| net::Vlan::try_from(n).unwrap();
    let mut conf = conf();
    for (n, tag) in [(3, 101), (4, 102)] {
        conf.port_with(n, &[GROUP], |p| {
            p.trunk = Some(hostconfig::SubPort {
                parent: id(1),
                vlan: vlan(tag),
            });
        });
    }
    for v6 in [false, true] {
        let mut h = Host::new(&conf);
        for (n, tag) in [(1, None), (3, Some(101)), (4, Some(102))] {
            let frame = opens(n, v6, metadata::MAC);
            let frame = tag.map_or(frame.clone(), |tag| frame.clone().vlan(tag));
            assert_eq!(h.from(1, &frame), []);
            let taken = h.take_metadata();
            assert_eq!(taken.len(), 1, "{n}");
            let (port, inward) = &taken[0];
            assert_eq!((*port, inward.from), (n, (ip(n, v6), 4000).into()));
            assert_eq!(inward.eth, (mac(n), metadata::MAC));
            // The IP packet alone, whatever stood before it.
            assert_eq!(inward.ip[0] >> 4, if v6 { 6 } else { 4 });
            let answer = FrameBuilder::tcp(v6, 80, 4000)
                .macs(metadata::MAC, mac(n))
                .addrs(service(v6), ip(n, v6))
                .flags(tcp::SYN | tcp::ACK)
                .build();
            assert_eq!(
                h.answer_metadata(n, &answer),
                [(At::Port(n), answer.clone())]
            );
            let carrier = h.tables.carrier(h.dense(n));
            assert_eq!(carrier, tag.map(|tag| (h.dense(1), vlan(tag))));
        }
        // Nobody asks in a sub-port's name with another's tag, or with none.
        let forged = opens(3, v6, metadata::MAC);
        assert_eq!(h.from(1, &forged.clone().vlan(102)), []);
        assert_eq!(h.from(1, &forged), []);
        assert!(h.take_metadata().is_empty());
        assert_eq!(h.dropped(DropReason::PortSecurityMac), 2);
        h.dp.ledger().balanced().unwrap();
    }
}
