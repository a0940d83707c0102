//! Does a frame reach exactly those whom it is for?

use hostconfig::{Location, Section};
use net::{
    DropReason, Mac,
    testkit::{FrameBuilder, mac},
};

use super::harness::*;

fn open() -> Conf {
    let mut conf = Conf::new();
    conf.port_with(1, &[], |p| p.port_security = false)
        .port_with(2, &[], |p| p.port_security = false)
        .port_with(3, &[], |p| p.port_security = false)
        .far(9);
    conf
}

#[test]
fn known_unicast_goes_to_its_one_place_in_both_families() {
    let mut h = Host::new(&open());
    for v6 in [false, true] {
        let udp = FrameBuilder::udp(v6, 1000, 53);
        assert_eq!(h.places(1, &between(udp.clone(), v6, 1, 2)), [At::Port(2)]);
        assert_eq!(
            h.places(1, &between(udp.clone(), v6, 1, 9)),
            [At::Vtep(REMOTE.into())]
        );
        assert_eq!(h.tunnelled(&between(udp.clone(), v6, 9, 3)), [At::Port(3)]);
        // Untracked flows are found again without a walk.
        let walks = h.dp.counters().lookups.upcall;
        assert_eq!(h.places(1, &between(udp, v6, 1, 2)), [At::Port(2)]);
        assert_eq!(h.dp.counters().lookups.upcall, walks);
    }
    assert!(h.dp.conntrack().is_empty());
}

#[test]
fn unknown_unicast_goes_nowhere_until_it_is_known() {
    let mut conf = open();
    let mut h = Host::new(&conf);
    let frame = between(FrameBuilder::udp(false, 1, 2), false, 1, 8);
    assert_eq!(h.places(1, &frame), []);
    assert_eq!(h.dropped(DropReason::UnknownUnicast), 1);
    conf.far(8);
    h.apply(&conf);
    assert_eq!(h.places(1, &frame), [At::Vtep(REMOTE.into())]);
    conf.0
        .sections
        .remove(&hostconfig::SectionKey::Endpoint(id(8)));
    h.apply(&conf);
    assert_eq!(h.places(1, &frame), []);
}

#[test]
fn floods_reach_everyone_else_once_and_tunnels_do_not_feed_tunnels() {
    let mut conf = open();
    conf.far(8);
    let mut h = Host::new(&conf);
    let frame = FrameBuilder::udp(false, 1, 2)
        .macs(mac(1), Mac::BROADCAST)
        .addrs(ip(1, false), "10.0.0.255".parse().unwrap());
    let mut got = h.places(1, &frame);
    got.sort();
    assert_eq!(got, [At::Port(2), At::Port(3), At::Vtep(REMOTE.into())]);
    let from_far = frame.macs(mac(9), Mac::BROADCAST);
    let mut got = h.tunnelled(&from_far);
    got.sort();
    assert_eq!(got, [At::Port(1), At::Port(2), At::Port(3)]);
}

#[test]
fn networks_do_not_meet() {
    let mut conf = open();
    conf.network(1001, 2, 1450);
    conf.port_with(21, &[], |p| {
        p.network = id(1001);
        p.port_security = false;
        p.mac = mac(1).try_into().unwrap();
    });
    conf.port_with(22, &[], |p| {
        p.network = id(1001);
        p.port_security = false;
        p.mac = mac(2).try_into().unwrap();
    });
    let mut h = Host::new(&conf);
    let frame = between(FrameBuilder::udp(false, 1, 2), false, 1, 2);
    assert_eq!(h.places(1, &frame), [At::Port(2)]);
    assert_eq!(h.places(21, &frame), [At::Port(22)]);
}

#[test]
fn the_tunnel_is_not_believed() {
    let mut h = Host::new(&open());
    let spoof = between(FrameBuilder::udp(false, 1, 2), false, 1, 2);
    assert_eq!(h.tunnelled(&spoof), []);
    assert_eq!(h.dropped(DropReason::TunnelSpoof), 1);
    // Behind another VTEP: split horizon.
    assert_eq!(
        h.tunnelled(&between(FrameBuilder::udp(false, 1, 2), false, 9, 9)),
        []
    );
    assert_eq!(h.dropped(DropReason::SplitHorizon), 1);
    assert!(h.tables.admits(REMOTE.parse().unwrap()));
    assert!(!h.tables.admits("192.0.2.77".parse().unwrap()));
    let mapped = std::net::IpAddr::V6("::ffff:192.0.2.9".parse().unwrap());
    assert!(h.tables.admits(mapped));
}

#[test]
fn what_is_down_tagged_or_too_large_is_dropped_by_name() {
    let mut conf = open();
    conf.port_with(4, &[], |p| {
        p.port_security = false;
        p.admin_up = false;
    });
    let mut h = Host::new(&conf);
    let udp = FrameBuilder::udp(false, 1, 2);
    assert_eq!(h.places(4, &between(udp.clone(), false, 4, 1)), []);
    assert_eq!(h.places(1, &between(udp.clone(), false, 1, 4)), []);
    assert_eq!(h.dropped(DropReason::AdminDown), 2);
    assert_eq!(h.places(1, &between(udp.clone().vlan(5), false, 1, 2)), []);
    assert_eq!(h.dropped(DropReason::VlanNotAllowed), 1);
    let large = |n| between(udp.clone().payload(&vec![0; n]), false, 1, 2);
    assert_eq!(h.places(1, &large(1450 - 28)), [At::Port(2)]);
    assert_eq!(
        h.places(1, &large(1450 - 27)),
        [At::Port(1)],
        "its sender is told"
    );
    assert_eq!(h.dropped(DropReason::MtuExceeded), 1);
    let stp = between(udp, false, 1, 2).macs(mac(1), "01:80:c2:00:00:00".parse().unwrap());
    assert_eq!(h.places(1, &stp), []);
    assert_eq!(h.dropped(DropReason::LinkLocalControl), 1);
    assert_eq!(h.enter(h.origin(1), &[vec![0; 5]]), []);
    assert_eq!(h.dropped(DropReason::MalformedEthernet), 1);
}

#[test]
fn port_security_drops_name_the_port() {
    let mut conf = open();
    conf.web(6, 80).port(5, &[GROUP]);
    let mut h = Host::new(&conf);
    let spoofed = between(FrameBuilder::udp(false, 1, 2), false, 6, 1).macs(mac(5), mac(1));
    assert_eq!(h.places(5, &spoofed), []);
    let record =
        h.dp.drops()
            .iter()
            .find(|r| r.refusal.reason == DropReason::PortSecurityIp)
            .unwrap();
    assert_eq!(record.refusal.port, Some(h.dense(5)));
    let text = record.text(h.now, |p| h.tables.port(p).map(|p| p.id));
    assert_eq!(text.last, "udp 10.0.0.6:1 > 10.0.0.1:2");
    assert_eq!(text.port, Some(id(5)));
}

#[test]
fn a_port_that_went_leaves_names_behind() {
    let mut conf = open();
    let mut h = Host::new(&conf);
    let gone = h.dense(2);
    let frame = between(FrameBuilder::udp(false, 1, 2), false, 1, 2);
    assert_eq!(h.places(1, &frame), [At::Port(2)]);
    h.tick();
    assert_eq!(h.dp.counters().ports[gone.index()].tx_packets, 1);
    conf.0.sections.remove(&hostconfig::SectionKey::Port(id(2)));
    h.apply(&conf);
    assert_eq!(h.places(1, &frame), []);
    assert_eq!(h.dropped(DropReason::UnknownUnicast), 1);
    h.tick();
    // Its dense id may be another's one day: nothing counted for it stays.
    assert_eq!(h.dp.counters().ports[gone.index()].tx_packets, 0);
    assert_eq!(h.enter(net::Origin::Port(gone), &[frame.build()]), []);
    assert_eq!(h.dropped(DropReason::PortGone), 1);
}

#[test]
fn tables_keep_ids_and_share_what_did_not_change() {
    let mut conf = open();
    let h = Host::new(&conf);
    let before = std::sync::Arc::clone(&h.tables);
    conf.port(7, &[]);
    let after = super::super::Tables::build(Some(&before), &conf.0, &zones(&conf), 1);
    for n in 1..=3u16 {
        let (a, b) = (
            before.port_by_id(id(u128::from(n))).unwrap(),
            after.port_by_id(id(u128::from(n))).unwrap(),
        );
        assert!(std::ptr::eq(a, b), "port {n} was rebuilt");
    }
    let network = |t: &super::super::Tables| t.network_by_id(id(NET)).unwrap().members;
    assert_eq!(network(&before), network(&after));
    assert!(!after.is_current(before.depend(network(&before))));
    let section = before.port_by_id(id(1)).unwrap().section;
    assert!(after.is_current(before.depend(section)));
    // Nothing changed: nothing is stale, and the network is the same.
    let again = super::super::Tables::build(Some(&after), &conf.0, &zones(&conf), 1);
    assert!(again.is_current(after.depend(network(&after))));
    assert!(std::ptr::eq(
        after.network_by_id(id(NET)).unwrap(),
        again.network_by_id(id(NET)).unwrap()
    ));
    conf.endpoint(11, Location::Virtual);
    assert!(
        conf.0
            .sections
            .values()
            .any(|s| matches!(s.body(), Section::Endpoint(_)))
    );
}

#[test]
fn an_uncut_super_frame_from_a_kernel_vtep_is_cut_at_the_networks_mtu() {
    let h = &mut Host::new(&open());
    for v6 in [false, true] {
        let frame = between(
            FrameBuilder::tcp(v6, 1000, 80).payload(&[7; 4000]),
            v6,
            9,
            3,
        )
        .build();
        let mut packet = net::testkit::packet(&mut h.pool, &frame, net::Origin::Switch);
        let (start, size) = (packet.headers().l4_at, 1498);
        packet.set_offload(net::Offload {
            checksum: net::Checksum::Partial { start, offset: 16 },
            gso: net::Gso::Tcp { size, ecn: false },
        });
        let (vni, vtep) = (net::Vni::try_from(1).unwrap(), REMOTE.parse().unwrap());
        let mut batch = net::Batch::new();
        let tunnelled = crate::io::Tunnelled {
            packet,
            vni,
            vtep,
            nsh: None,
        };
        h.dp.enter_tunnel(&h.tables, tunnelled, &mut batch, h.now, &mut h.pool)
            .unwrap();
        let headers = if v6 { 60 } else { 40 };
        let expected = net::Gso::Tcp {
            size: 1450 - headers,
            ecn: false,
        };
        assert_eq!(batch.iter().next().unwrap().offload().gso, expected);
    }
}
