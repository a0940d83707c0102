//! Is what bears a tag on a trunk's device a sub-port's, and nothing else?

use hostconfig::{Section, SectionKey, SubPort};
use net::{
    Checksum, DropReason, Gso, Mac, Offload, Vlan,
    testkit::{FrameBuilder, mac},
};

use super::{super::explain, harness::*};

fn sub_port(of: u16, vlan: u16) -> SubPort {
    SubPort {
        parent: id(of.into()),
        vlan: Vlan::try_from(vlan).unwrap(),
    }
}

fn tagged(frame: &[u8], vlan: u8) -> Vec<u8> {
    let mut tagged = frame[..12].to_vec();
    tagged.extend([0x81, 0, 0, vlan]);
    tagged.extend(&frame[12..]);
    tagged
}

/// 1 is the parent of 2 (VLAN 101) and 3 (VLAN 102); 4 has a device of its own. All are on one network.
fn world() -> Conf {
    let mut conf = Conf::new();
    conf.web(6, 80);
    conf.port(1, &[GROUP]).port(4, &[GROUP]);
    conf.port_with(2, &[GROUP], |p| p.trunk = Some(sub_port(1, 101)));
    conf.port_with(3, &[GROUP], |p| p.trunk = Some(sub_port(1, 102)));
    conf
}

fn port(conf: &Conf, n: u16) -> hostconfig::Port {
    let key = SectionKey::Port(id(n.into()));
    let Section::Port(port) = conf.0.sections[&key].body().clone() else {
        unreachable!("it is a port's key")
    };
    port
}

#[test]
fn a_tag_says_whose_a_frame_is_in_both_families() {
    let conf = world();
    let mut h = Host::new(&conf);
    for v6 in [false, true] {
        // Each sender's own addresses with its own tag, and none with the parent's own.
        for (from, vlan) in [(2, Some(101)), (3, Some(102)), (1, None)] {
            let plain = syn(v6, (from, 4000), (4, 80));
            let frame = vlan.map_or(plain.clone(), |vlan| plain.clone().vlan(vlan));
            let got = h.from(1, &frame);
            assert_eq!(
                got,
                [(At::Port(4), plain.build())],
                "{from}: without its tag"
            );
            let answer = syn_ack(v6, (4, 80), (from, 4000));
            assert_eq!(h.places(4, &answer), [At::Port(from)]);
            // The rest of the connection is known, with its tag as without.
            let walks = h.dp.counters().lookups.upcall;
            let later = ack(v6, (from, 4000), (4, 80));
            let later = vlan.map_or(later.clone(), |vlan| later.clone().vlan(vlan));
            assert_eq!(h.places(1, &later), [At::Port(4)]);
            assert_eq!(h.dp.counters().lookups.upcall, walks);
        }
    }
    let of = |n| h.dp.counters().ports[h.dense(n).index()];
    for n in [1, 2, 3] {
        assert_eq!((of(n).rx_packets, of(n).tx_packets), (4, 2), "port {n}");
    }
}

#[test]
fn a_sub_ports_own_security_and_groups_hold() {
    let conf = world();
    let mut h = Host::new(&conf);
    // The tag of one with another's addresses.
    assert_eq!(h.places(1, &syn(false, (3, 1), (4, 80)).vlan(101)), []);
    assert_eq!(h.places(1, &syn(false, (1, 1), (4, 80)).vlan(101)), []);
    assert_eq!(h.places(1, &syn(false, (2, 1), (4, 80))), []);
    assert_eq!(h.dropped(DropReason::PortSecurityMac), 3);
    // Towards the sub-port its group lets in port 80 alone.
    assert_eq!(h.places(4, &syn(true, (4, 1), (2, 22))), []);
    assert_eq!(h.dropped(DropReason::SecurityGroupIngress), 1);
    // What one trunk's sub-ports send each other passes the groups of both.
    let between = syn(true, (2, 9), (3, 80)).vlan(101);
    assert_eq!(h.places(1, &between), [At::Port(3)]);
    assert_eq!(h.places(1, &syn(true, (2, 9), (3, 22)).vlan(101)), []);
}

#[test]
fn a_tag_that_no_sub_port_has_ends_under_its_own_name() {
    let mut conf = world();
    let mut h = Host::new(&conf);
    let frame = |vlan| syn(false, (2, 1), (4, 80)).vlan(vlan);
    for vlan in [103, 0, 4095] {
        assert_eq!(h.places(1, &frame(vlan)), []);
    }
    assert_eq!(h.dropped(DropReason::TrunkVlanUnknown), 3);
    // A device without a trunk carries no VLANs at all, nor does a tag in a tag.
    assert_eq!(h.places(4, &frame(101)), []);
    let twice = tagged(&frame(101).build(), 101);
    assert_eq!(h.enter(h.origin(1), &[twice]), []);
    assert_eq!(h.dropped(DropReason::VlanNotAllowed), 2);
    // A sub-port that is gone leaves its tag to nobody, and another may have it.
    assert_eq!(h.places(1, &frame(101)), [At::Port(4)]);
    conf.0.sections.remove(&SectionKey::Port(id(2)));
    h.apply(&conf);
    assert_eq!(h.places(1, &frame(101)), []);
    assert_eq!(h.dropped(DropReason::TrunkVlanUnknown), 4);
    conf.port_with(2, &[GROUP], |p| p.trunk = Some(sub_port(1, 103)));
    h.apply(&conf);
    assert_eq!(h.places(1, &frame(103)), [At::Port(4)]);
    // Without any sub-port the device is no trunk's.
    for n in [2, 3] {
        conf.0.sections.remove(&SectionKey::Port(id(n)));
    }
    h.apply(&conf);
    assert_eq!(h.places(1, &frame(103)), []);
    assert_eq!(h.dropped(DropReason::VlanNotAllowed), 3);
}

#[test]
fn a_sub_port_that_is_down_carries_nothing_while_its_parent_does() {
    let mut conf = world();
    let mut down = port(&conf, 2);
    down.admin_up = false;
    conf.put(Section::Port(down));
    let mut h = Host::new(&conf);
    assert_eq!(h.places(1, &syn(false, (2, 1), (4, 80)).vlan(101)), []);
    assert_eq!(h.places(4, &syn(false, (4, 1), (2, 80))), []);
    assert_eq!(h.dropped(DropReason::AdminDown), 2);
    assert_eq!(h.places(1, &syn(false, (1, 1), (4, 80))), [At::Port(4)]);
    assert_eq!(
        h.places(1, &syn(false, (3, 1), (4, 80)).vlan(102)),
        [At::Port(4)]
    );
}

#[test]
fn neighbours_are_answered_and_floods_reach_each_sub_port() {
    let mut h = Host::new(&world());
    let v4 = |n: u8| std::net::Ipv4Addr::new(10, 0, 0, n);
    let v6 = |n: u16| std::net::Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, n);
    let many = Mac::new([0x33, 0x33, 0xff, 0, 0, 4]);
    let asks = [
        FrameBuilder::arp(1, (mac(2), v4(2)), (Mac::ZERO, v4(4))),
        FrameBuilder::neighbor(
            135,
            (mac(2), v6(2)),
            (many, "ff02::1:ff00:4".parse().unwrap()),
            v6(4),
        ),
    ];
    for (asks, ethertype) in asks.into_iter().zip([[8, 6], [0x86, 0xdd]]) {
        let answer = h.enter(h.origin(1), &[tagged(&asks, 101)]);
        assert_eq!(answer.len(), 1);
        let (at, bytes) = &answer[0];
        assert_eq!(
            *at,
            At::Port(2),
            "the answer is the sub-port's, which the worker tags"
        );
        assert_eq!(bytes[12..14], ethertype);
    }
    // What goes to all goes to each of them, untagged here.
    let all = syn(false, (4, 1), (4, 80)).macs(mac(4), Mac::BROADCAST);
    let mut got = h.places(4, &all);
    got.sort();
    assert_eq!(got, [At::Port(1), At::Port(2), At::Port(3)]);
    let mut open = world();
    for n in 1..=4 {
        let mut p = port(&open, n);
        p.port_security = false;
        p.security_groups.clear();
        open.put(Section::Port(p));
    }
    h.apply(&open);
    let mut got = h.places(1, &all.macs(mac(2), Mac::BROADCAST).vlan(101));
    got.sort();
    assert_eq!(got, [At::Port(1), At::Port(3), At::Port(4)]);
}

#[test]
fn a_super_frame_stays_whole_and_its_offsets_follow() {
    for v6 in [false, true] {
        let mut h = Host::new(&world());
        h.from(1, &syn(v6, (2, 4000), (4, 80)).vlan(101));
        h.from(4, &syn_ack(v6, (4, 80), (2, 4000)));
        let frame = ack(v6, (2, 4000), (4, 80)).payload(&[9; 5000]);
        let (plain, tagged) = (frame.clone().build(), frame.vlan(101).build());
        let mut packet = h.pool.take(tagged.len()).unwrap();
        packet.fill(&tagged).unwrap();
        packet.set_origin(h.origin(1));
        let l4 = if v6 { 58 } else { 38 };
        let offload = |start| Offload {
            checksum: Checksum::Partial { start, offset: 16 },
            gso: Gso::Tcp {
                size: 1000,
                ecn: false,
            },
        };
        packet.set_offload(offload(l4));
        let before = h.dp.ledger().rx;
        assert_eq!(h.enter_packet(packet), [(At::Port(4), plain)]);
        assert_eq!(h.dp.ledger().rx - before, 5, "its segments are counted");
    }
}

#[test]
fn a_trunk_is_explained() {
    let h = Host::new(&world());
    let told = |port: &str, words: &str| {
        let entrance = explain::Entrance::Port(port.to_owned());
        let packet = words.parse().unwrap();
        let told = explain::explain(&h.tables, &entrance, &packet, h.now).unwrap();
        told.to_string()
    };
    let words = "tcp 10.0.0.2:9 > 10.0.0.4:80";
    let own = told("p2", words);
    assert!(
        own.starts_with("port p2 (network blue, vni 1), vlan 101 of trunk parent p1\n"),
        "{own}"
    );
    assert!(own.contains("verdict   delivered to"), "{own}");
    assert_eq!(told("p1", &format!("{words} vlan 101")), own);
    let nobody = told("p1", &format!("{words} vlan 9"));
    assert!(
        nobody.contains("no sub-port of its trunk has vlan 9"),
        "{nobody}"
    );
    assert!(
        nobody.contains("dropped: trunk_vlan_unknown (ingress)"),
        "{nobody}"
    );
    let no_trunk = told("p4", "tcp 10.0.0.4:9 > 10.0.0.1:80 vlan 9");
    assert!(no_trunk.contains("dropped: vlan_not_allowed"), "{no_trunk}");
}
