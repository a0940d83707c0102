//! Do routers send everything where it belongs, and say so where they can't?

use std::{net::IpAddr, time::Duration};

use hostconfig::{
    Endpoint, Location, Network, Router, Section, SectionKey, Subnet,
    group::{Direction, Family, L4Match, Remote},
    network::Route,
    port::FixedIp,
    router::{Interface, InterfaceAddr},
};
use net::{
    Batch, Checksum, DropReason, Gso, Headers, Mac, Offload, Origin, Originated,
    testkit::{FrameBuilder, mac, tcp},
};

use super::{super::Stage, harness::*};

/// The n-th host's address on the k-th network.
pub(super) fn at(k: u16, n: u16, v6: bool) -> IpAddr {
    if v6 {
        format!("fd{k:02x}::{n:x}").parse().unwrap()
    } else {
        format!("10.0.{k}.{n}").parse().unwrap()
    }
}

/// The MAC address of a router's interface on the k-th network.
pub(super) fn gate(r: u16, k: u16) -> Mac {
    mac(0x9000 + r * 16 + k)
}

pub(super) fn network(conf: &mut Conf, k: u16, mtu: u32, change: impl FnOnce(&mut Network)) {
    let n = NET + u128::from(k);
    let subnet = |v6: bool| Subnet {
        id: id(n * 10 + u128::from(v6)),
        cidr: if v6 {
            format!("fd{k:02x}::/64")
        } else {
            format!("10.0.{k}.0/24")
        }
        .parse()
        .unwrap(),
        gateway: Some(at(k, 254, v6)),
        dhcp: None,
        dhcp6: None,
        ra: None,
        dns6: vec![],
    };
    let mut network = Network {
        id: id(n),
        name: format!("net{k}"),
        project: id(7),
        vni: (u32::from(k) + 1).try_into().unwrap(),
        mtu: mtu.try_into().unwrap(),
        admin_up: true,
        subnets: vec![subnet(false), subnet(true)],
        wire: None,
        domain: String::new(),
        resolvers: Vec::new(),
        names: Vec::new(),
    };
    change(&mut network);
    conf.put(Section::Network(network));
}

/// The n-th workload, on the k-th network.
pub(super) fn workload(conf: &mut Conf, k: u16, n: u16, groups: &[u128]) {
    conf.port_with(n, groups, |p| {
        p.network = id(NET + u128::from(k));
        p.port_security = !groups.is_empty();
        for (ip, v6) in p.fixed_ips.iter_mut().zip([false, true]) {
            *ip = FixedIp {
                addr: at(k, n, v6),
                subnet: id((NET + u128::from(k)) * 10 + u128::from(v6)),
            };
        }
    });
}

/// The same, on another host, or in every switch.
pub(super) fn elsewhere(conf: &mut Conf, k: u16, n: u16, at_vtep: Location) {
    conf.put(Section::Endpoint(Endpoint {
        id: id(u128::from(n)),
        network: id(NET + u128::from(k)),
        project: Some(id(7)),
        mac: mac(n).try_into().unwrap(),
        addrs: vec![at(k, n, false), at(k, n, true)],
        dns_name: None,
        at: at_vtep,
    }));
}

pub(super) fn far(conf: &mut Conf, k: u16, n: u16) {
    elsewhere(conf, k, n, Location::Vtep(REMOTE.parse().unwrap()));
}

/// Router `r` with an interface on each of these networks, by the addresses that end in `host`.
pub(super) fn router(conf: &mut Conf, r: u16, on: &[(u16, u16)], routes: &[(&str, IpAddr)]) {
    router_with(conf, r, on, routes, |_| {});
}

pub(super) fn router_with(
    conf: &mut Conf,
    r: u16,
    on: &[(u16, u16)],
    routes: &[(&str, IpAddr)],
    change: impl FnOnce(&mut Router),
) {
    let interface = |&(k, host): &(u16, u16)| Interface {
        port: id(7000 + u128::from(r * 16 + k)),
        network: id(NET + u128::from(k)),
        mac: gate(r, k).try_into().unwrap(),
        admin_up: true,
        addrs: [false, true]
            .map(|v6| InterfaceAddr {
                addr: at(k, host, v6),
                subnet: if v6 {
                    format!("fd{k:02x}::/64")
                } else {
                    format!("10.0.{k}.0/24")
                }
                .parse()
                .unwrap(),
            })
            .to_vec(),
        firewall: None,
    };
    let mut router = Router {
        id: id(9000 + u128::from(r)),
        name: format!("r{r}"),
        project: id(7),
        admin_up: true,
        interfaces: on.iter().map(interface).collect(),
        routes: routes
            .iter()
            .map(|(to, by)| Route {
                destination: to.parse().unwrap(),
                nexthop: *by,
            })
            .collect(),
        gateway: None,
        meters: Vec::new(),
    };
    change(&mut router);
    conf.put(Section::Router(router));
}

/// Two networks joined by router 1: workloads 1 and 2 here, 8 and 9 far, the odd ones on the first network.
pub(super) fn two(groups: &[u128]) -> Conf {
    let mut conf = Conf::new();
    conf.web(6, 80);
    for k in [0, 1] {
        network(&mut conf, k, 1450, |_| {});
    }
    workload(&mut conf, 0, 1, groups);
    workload(&mut conf, 1, 2, groups);
    far(&mut conf, 1, 8);
    far(&mut conf, 0, 9);
    router(&mut conf, 1, &[(0, 254), (1, 254)], &[]);
    conf
}

/// A frame from a workload on one network to one on another, by router 1.
pub(super) fn by_router(
    frame: FrameBuilder,
    v6: bool,
    from: (u16, u16),
    to: (u16, u16),
) -> FrameBuilder {
    frame
        .macs(mac(from.1), gate(1, from.0))
        .addrs(at(from.0, from.1, v6), at(to.0, to.1, v6))
}

/// The same frame as its receiver gets it.
fn routed(frame: FrameBuilder, v6: bool, from: (u16, u16), to: (u16, u16)) -> FrameBuilder {
    by_router(frame, v6, from, to)
        .macs(gate(1, to.0), mac(to.1))
        .ttl(63)
}

pub(super) fn tunnel(h: &Host, k: u16) -> Origin {
    let network = h.tables.network_by_id(id(NET + u128::from(k)));
    Origin::Tunnel(network.unwrap().dense)
}

/// Type and code of an error, who sends it, and the packet that it quotes.
pub(super) fn told(frame: &[u8]) -> (u8, u8, String, String) {
    let (headers, key) = Headers::parse(frame).unwrap();
    let icmp = &frame[usize::from(headers.l4_at)..];
    let quoted = headers.quoted(frame).unwrap();
    let from = key.src_addr().to_string();
    (icmp[0], icmp[1], from, quoted.tuple.to_string())
}

fn made(h: &Host) -> u64 {
    h.dp.ledger().originated[Originated::Icmp.index()]
}

#[test]
fn every_switch_answers_for_a_router_with_the_mac_of_its_interface() {
    let mut h = Host::new(&two(&[GROUP]));
    let (IpAddr::V4(own), IpAddr::V4(gateway)) = (at(0, 1, false), at(0, 254, false)) else {
        unreachable!("ipv4 was asked for")
    };
    let ask = FrameBuilder::arp(1, (mac(1), own), (Mac::ZERO, gateway));
    let got = h.enter(h.origin(1), &[ask]);
    let answer = FrameBuilder::arp(2, (gate(1, 0), gateway), (mac(1), own));
    assert_eq!(got, [(At::Port(1), answer)]);
    let (IpAddr::V6(own), IpAddr::V6(gateway)) = (at(0, 1, true), at(0, 254, true)) else {
        unreachable!("ipv6 was asked for")
    };
    for target in [gateway, gate(1, 0).link_local()] {
        let group = (
            Mac::new([0x33, 0x33, 0xff, 0, 0, 9]),
            "ff02::1".parse().unwrap(),
        );
        let ask = FrameBuilder::neighbor(135, (mac(1), own), group, target);
        let got = h.enter(h.origin(1), &[ask]);
        let [(At::Port(1), answer)] = got.as_slice() else {
            panic!("one answer: {got:?}");
        };
        let (headers, key) = Headers::parse(answer).unwrap();
        assert_eq!((key.l4_src, key.nd_target), (136, target.octets()));
        assert_eq!(key.link_addr, gate(1, 0).octets());
        let flags = answer[usize::from(headers.l4_at) + 4];
        assert_eq!(flags, 0xe0, "a router, asked, and it overrides");
    }
}

#[test]
fn a_router_answers_pings_to_any_of_its_addresses_and_nothing_else() {
    for v6 in [false, true] {
        let mut h = Host::new(&two(&[GROUP]));
        for (k, ttl) in [(0, 64), (1, 64), (1, 1)] {
            let ask = by_router(
                FrameBuilder::echo(v6, 7).payload(b"hello"),
                v6,
                (0, 1),
                (k, 254),
            );
            let answer = FrameBuilder::echo_reply(v6, 7)
                .payload(b"hello")
                .macs(gate(1, 0), mac(1))
                .addrs(at(k, 254, v6), at(0, 1, v6));
            let got = h.from(1, &ask.ttl(ttl));
            assert_eq!(got, [(At::Port(1), answer.build())], "k {k}, v6 {v6}");
        }
        let syn = by_router(
            FrameBuilder::tcp(v6, 1, 22).flags(tcp::SYN),
            v6,
            (0, 1),
            (0, 254),
        );
        let piece = by_router(FrameBuilder::echo(v6, 7), v6, (0, 1), (0, 254)).fragment(1, 0, true);
        assert_eq!((h.places(1, &syn), h.places(1, &piece)), (vec![], vec![]));
        assert_eq!(h.dropped(DropReason::NoListener), 2);
        assert!(h.dp.conntrack().is_empty());
    }
}

#[test]
fn an_established_connection_across_a_router_is_found_by_one_look_up_both_ways() {
    for v6 in [false, true] {
        let mut h = Host::new(&two(&[GROUP]));
        let vtep = At::Vtep(REMOTE.into());
        // Local to local, local to far, far to local: from, to, where the first packet enters and comes out, and so the answer.
        for (from, to) in [((0, 1), (1, 2)), ((0, 1), (1, 8)), ((0, 9), (1, 2))] {
            let here = |(k, n): (u16, u16)| if n < 8 { h.origin(n) } else { tunnel(&h, k) };
            // What comes from the tunnel was routed where it came from, and is on its receiver's network.
            let (in_forth, in_back) = match (from.1 < 8, to.1 < 8) {
                (true, true) => (here(from), here(to)),
                (true, false) => (here(from), tunnel(&h, from.0)),
                (false, _) => (tunnel(&h, to.0), here(to)),
            };
            let (syn, ack) = (tcp::SYN, tcp::ACK);
            let segment = |flags, seq, back: bool| {
                let (s, d) = if back { (80, 4000) } else { (4000, 80) };
                FrameBuilder::tcp(v6, s, d)
                    .flags(flags)
                    .seq(seq, 1 + 600 - seq)
            };
            let forth = |f: FrameBuilder| {
                let (sent, got) = (by_router(f.clone(), v6, from, to), routed(f, v6, from, to));
                let enters = if from.1 < 8 { sent } else { got.clone() };
                (enters.build(), got.build())
            };
            let back = |f: FrameBuilder| {
                let (sent, got) = (by_router(f.clone(), v6, to, from), routed(f, v6, to, from));
                let enters = if to.1 < 8 { sent } else { got.clone() };
                (enters.build(), got.build())
            };
            let place = |(_, n): (u16, u16)| if n < 8 { At::Port(n) } else { vtep.clone() };
            let go = |h: &mut Host, way: bool, (enters, comes): (Vec<u8>, Vec<u8>)| {
                let (origin, out) = if way {
                    (in_back, place(from))
                } else {
                    (in_forth, place(to))
                };
                let got = h.enter(origin, &[enters]);
                assert_eq!(
                    got,
                    [(out, comes)],
                    "{from:?} to {to:?}, back {way}, v6 {v6}"
                );
            };
            go(&mut h, false, forth(segment(syn, 100, false)));
            go(&mut h, true, back(segment(syn | ack, 500, true)));
            go(&mut h, false, forth(segment(ack, 101, false)));
            go(&mut h, true, back(segment(ack, 501, true)));
            let before = h.dp.counters().lookups;
            for _ in 0..3 {
                go(&mut h, false, forth(segment(ack, 101, false)));
                go(&mut h, true, back(segment(ack, 501, true)));
            }
            let after = h.dp.counters().lookups;
            assert_eq!(
                (after.upcall, after.megaflow, after.exact),
                (before.upcall, before.megaflow, before.exact + 6),
                "{from:?} to {to:?}, v6 {v6}"
            );
        }
        assert_eq!(h.dp.conntrack().len(), 3);
        // On the far receiver's network there, and on the first network back.
        assert!(h.vnis.iter().all(|vni| [1, 2].contains(vni)) && h.vnis.len() > 6);
    }
}

#[test]
fn a_route_is_known_to_traceroute_though_its_flow_is_cached() {
    for v6 in [false, true] {
        for groups in [&[][..], &[GROUP]] {
            let mut h = Host::new(&two(groups));
            let ask = |ttl| by_router(FrameBuilder::udp(v6, 4000, 53), v6, (0, 1), (1, 8)).ttl(ttl);
            assert_eq!(h.places(1, &ask(64)).len(), 1);
            let before = h.dp.counters().lookups;
            let got = h.from(1, &ask(2));
            let (_, key) = Headers::parse(&got[0].1).unwrap();
            assert_eq!(key.ip_ttl, 1);
            let got = h.from(1, &ask(1));
            let after = h.dp.counters().lookups;
            assert_eq!(after.upcall, before.upcall, "no TTL is in a mask");
            let [(At::Port(1), error)] = got.as_slice() else {
                panic!("one error comes back: {got:?}");
            };
            let (kind, quoted) = if v6 {
                (3, "udp [fd00::1]:4000 > [fd01::8]:53")
            } else {
                (11, "udp 10.0.0.1:4000 > 10.0.1.8:53")
            };
            let from = at(0, 254, v6).to_string();
            assert_eq!(told(error), (kind, 0, from, quoted.to_owned()));
            let (headers, key) = Headers::parse(error).unwrap();
            assert_eq!((key.src_mac(), key.dst_mac()), (gate(1, 0), mac(1)));
            let quote = &error[usize::from(headers.l4_at) + 8..];
            assert_eq!(
                quote,
                &ask(1).build()[14..14 + quote.len()],
                "as it was sent"
            );
            assert_eq!((h.dropped(DropReason::TtlExceeded), made(&h)), (1, 1));
            let record = h.dp.drops().iter().next().unwrap();
            assert_eq!(
                (record.refusal.stage, record.refusal.port),
                (Stage::L3, Some(h.dense(1)))
            );
        }
    }
}

#[test]
fn what_ends_at_a_router_begins_no_connection() {
    let mut h = Host::new(&two(&[GROUP]));
    let syn = |ttl| {
        let syn = FrameBuilder::tcp(false, 4000, 80).flags(tcp::SYN);
        by_router(syn, false, (0, 1), (1, 2)).ttl(ttl)
    };
    assert_eq!(h.places(1, &syn(1)), [At::Port(1)], "the error");
    assert!(h.dp.conntrack().is_empty());
    assert_eq!(h.places(1, &syn(2)), [At::Port(2)]);
    assert_eq!(h.dp.conntrack().len(), 1);
    // Refused by its receiver, but what can't get there ends before.
    let other = |ttl| by_router(FrameBuilder::udp(false, 1, 9), false, (0, 1), (1, 2)).ttl(ttl);
    assert_eq!(h.places(1, &other(1)), [At::Port(1)]);
    assert_eq!(h.places(1, &other(2)), []);
    assert_eq!(h.dropped(DropReason::SecurityGroupIngress), 1);
    assert_eq!(h.dropped(DropReason::TtlExceeded), 2);
}

#[test]
fn who_sends_where_no_way_leads_is_told_and_nobody_else_is() {
    for v6 in [false, true] {
        let mut h = Host::new(&two(&[]));
        let ask = |k, n| by_router(FrameBuilder::udp(v6, 4000, 53), v6, (0, 1), (k, n));
        let got = h.from(1, &ask(7, 7));
        let from = at(0, 254, v6).to_string();
        let (kind, no_route, unknown) = if v6 { (1, 0, 3) } else { (3, 0, 1) };
        let (k, c, by, _) = told(&got[0].1);
        assert_eq!((k, c, by), (kind, no_route, from.clone()));
        let got = h.from(1, &ask(1, 77));
        let (k, c, by, _) = told(&got[0].1);
        assert_eq!((k, c, by), (kind, unknown, from));
        assert_eq!(h.dropped(DropReason::NoRoute), 1);
        assert_eq!(h.dropped(DropReason::UnknownNeighbor), 1);
        // About errors, later fragments, senders that are no one: nothing.
        let error = FrameBuilder::icmp_error(&routed(ask(0, 1), v6, (7, 7), (0, 1)).build());
        let later = ask(7, 7).fragment(7, 200, false);
        let nobody: IpAddr = if v6 { "ff02::9" } else { "224.0.0.9" }.parse().unwrap();
        assert_eq!(h.enter(h.origin(1), &[error]), []);
        assert_eq!(h.from(1, &ask(7, 7).fragment(7, 0, true)).len(), 1);
        assert_eq!(h.from(1, &later), []);
        assert_eq!(h.from(1, &ask(7, 7).addrs(nobody, at(7, 7, v6))), []);
        assert_eq!(h.dropped(DropReason::NoRoute), 4);
        // Eight more in this second.
        let many: usize = (0..20).map(|_| h.from(1, &ask(1, 77)).len()).sum();
        assert_eq!((many, made(&h)), (7, 10));
        h.pass(Duration::from_secs(1));
        assert_eq!(h.from(1, &ask(1, 77)).len(), 1);
    }
}

#[test]
fn no_router_forwards_what_is_of_one_link() {
    let mut h = Host::new(&two(&[]));
    let udp = |src: &str, dst: &str| {
        FrameBuilder::udp(src.contains(':'), 1, 2)
            .macs(mac(1), gate(1, 0))
            .addrs(src.parse().unwrap(), dst.parse().unwrap())
    };
    let martians = [
        ("10.0.0.1", "224.0.0.5"),
        ("10.0.0.1", "255.255.255.255"),
        ("10.0.0.1", "169.254.1.1"),
        ("10.0.0.1", "127.0.0.1"),
        ("169.254.1.1", "10.0.1.2"),
        ("0.0.0.0", "10.0.1.2"),
        ("fd00::1", "ff0e::5"),
        ("fd00::1", "fe80::9"),
        ("fe80::9", "fd01::2"),
        ("fd00::1", "::1"),
    ];
    for (n, (src, dst)) in (1..).zip(martians) {
        assert_eq!(h.from(1, &udp(src, dst)), [], "{src} > {dst}");
        let drops = h.dp.drops();
        assert_eq!(
            h.dropped(DropReason::Martian),
            n,
            "{src} > {dst}: {drops:?}"
        );
    }
    // Neither IPv4 nor IPv6: a router's address answers ARP, and takes nothing.
    let (IpAddr::V4(own), IpAddr::V4(gateway)) = (at(0, 1, false), at(0, 254, false)) else {
        unreachable!("ipv4 was asked for")
    };
    let mut reply = FrameBuilder::arp(2, (mac(1), own), (gate(1, 0), gateway));
    reply[..6].copy_from_slice(&gate(1, 0).octets());
    assert_eq!(h.enter(h.origin(1), &[reply]), []);
    assert_eq!(h.dropped(DropReason::NoListener), 1);
    // What its own switch had to route.
    let lost = udp("10.0.0.9", "10.0.1.2").macs(mac(9), gate(1, 0)).build();
    assert_eq!(h.enter(h.tunnel(), &[lost]), []);
    assert_eq!(h.dropped(DropReason::SplitHorizon), 1);
    assert_eq!(made(&h), 0);
}

#[test]
fn routes_lead_through_routers_and_workloads_and_never_in_a_circle() {
    for v6 in [false, true] {
        let mut conf = two(&[]);
        network(&mut conf, 2, 1450, |_| {});
        workload(&mut conf, 2, 3, &[]);
        let (far_net, all) = if v6 {
            ("fd02::/64", "::/0")
        } else {
            ("10.0.2.0/24", "0.0.0.0/0")
        };
        let narrow = if v6 { "fd07::/64" } else { "10.0.7.0/24" };
        let circle = if v6 { "fd06::/64" } else { "10.0.6.0/24" };
        let next = |host| at(1, host, v6);
        let routes = [(far_net, next(253)), (narrow, next(2)), (circle, next(253))];
        router(&mut conf, 1, &[(0, 254), (1, 254)], &routes);
        router(&mut conf, 2, &[(1, 253), (2, 254)], &[(all, next(254))]);
        let mut h = Host::new(&conf);
        let ask = |k, n, ttl| by_router(FrameBuilder::udp(v6, 4, 5), v6, (0, 1), (k, n)).ttl(ttl);
        // Two routers in a row.
        let got = h.from(1, &ask(2, 3, 9));
        let comes = ask(2, 3, 7).macs(gate(2, 2), mac(3)).build();
        assert_eq!(got, [(At::Port(3), comes)]);
        // Each tells by itself when the TTL is used up.
        for (ttl, by) in [(1, at(0, 254, v6)), (2, at(1, 253, v6))] {
            let got = h.from(1, &ask(2, 3, ttl));
            let (_, _, from, _) = told(&got[0].1);
            assert_eq!(from, by.to_string());
            let (_, key) = Headers::parse(&got[0].1).unwrap();
            assert_eq!((key.src_mac(), key.dst_mac()), (gate(1, 0), mac(1)));
        }
        // The second one's own address, on the far side of it.
        let got = h.from(
            1,
            &by_router(FrameBuilder::echo(v6, 1), v6, (0, 1), (2, 254)),
        );
        let answer = FrameBuilder::echo_reply(v6, 1)
            .macs(gate(1, 0), mac(1))
            .addrs(at(2, 254, v6), at(0, 1, v6));
        assert_eq!(got, [(At::Port(1), answer.build())]);
        // A workload that is itself a router.
        let got = h.from(1, &ask(7, 7, 9));
        assert_eq!(
            got,
            [(At::Port(2), ask(7, 7, 8).macs(gate(1, 1), mac(2)).build())]
        );
        assert_eq!(h.from(1, &ask(6, 6, 64)), []);
        assert_eq!(h.dropped(DropReason::HopLimit), 1);
        let got = h.from(1, &ask(6, 6, 3));
        assert_eq!(
            told(&got[0].1).2,
            at(1, 254, v6).to_string(),
            "it went round until then"
        );
        // Routes that go are gone at once, and those that come count.
        router(&mut conf, 1, &[(0, 254), (1, 254)], &routes[1..]);
        h.apply(&conf);
        let got = h.from(1, &ask(2, 3, 9));
        assert_eq!(told(&got[0].1).2, at(0, 254, v6).to_string());
        assert_eq!(h.dropped(DropReason::NoRoute), 1);
        router(&mut conf, 1, &[(0, 254), (1, 254)], &routes);
        h.apply(&conf);
        assert_eq!(h.places(1, &ask(2, 3, 9)), [At::Port(3)]);
    }
}

#[test]
fn what_is_down_forwards_nothing() {
    let down = |what: usize| {
        let mut conf = two(&[]);
        let on = [(0, 254), (1, 254)];
        router_with(&mut conf, 1, &on, &[], |r| match what {
            0 => r.admin_up = false,
            1 | 2 => r.interfaces[what - 1].admin_up = false,
            _ => {}
        });
        if what == 3 {
            network(&mut conf, 1, 1450, |n| n.admin_up = false);
        }
        conf
    };
    for what in 0..4 {
        let mut h = Host::new(&two(&[]));
        let ask = by_router(FrameBuilder::udp(false, 4, 5), false, (0, 1), (1, 2));
        assert_eq!(h.places(1, &ask), [At::Port(2)]);
        h.apply(&down(what));
        assert_eq!(h.places(1, &ask), [], "{what}");
        assert_eq!(h.dropped(DropReason::AdminDown), 1, "{what}");
        h.apply(&two(&[]));
        assert_eq!(h.places(1, &ask), [At::Port(2)]);
    }
}

#[test]
fn who_comes_and_goes_behind_a_router_is_known_at_once() {
    for v6 in [false, true] {
        let mut conf = two(&[]);
        let mut h = Host::new(&conf);
        let ask = by_router(FrameBuilder::udp(v6, 4, 5), v6, (0, 1), (1, 5));
        h.from(1, &ask);
        assert_eq!(h.dropped(DropReason::UnknownNeighbor), 1);
        workload(&mut conf, 1, 5, &[]);
        h.apply(&conf);
        assert_eq!(h.places(1, &ask), [At::Port(5)]);
        conf.0.sections.remove(&SectionKey::Port(id(5)));
        far(&mut conf, 1, 5);
        h.apply(&conf);
        assert_eq!(h.places(1, &ask), [At::Vtep(REMOTE.into())]);
        assert_eq!(h.vnis.last(), Some(&2));
        // The router goes, with its addresses; and comes again.
        conf.0.sections.remove(&SectionKey::Router(id(9001)));
        h.apply(&conf);
        assert_eq!(h.places(1, &ask), []);
        assert_eq!(h.dropped(DropReason::UnknownUnicast), 1);
        router(&mut conf, 1, &[(0, 254), (1, 254)], &[]);
        h.apply(&conf);
        assert_eq!(h.places(1, &ask), [At::Vtep(REMOTE.into())]);
        // A network of it that this host learns of only then.
        conf.0.sections.remove(&SectionKey::Network(id(NET + 1)));
        h.apply(&conf);
        h.from(1, &ask);
        assert_eq!(h.dropped(DropReason::NoRoute), 1);
        network(&mut conf, 1, 1450, |_| {});
        h.apply(&conf);
        assert_eq!(h.places(1, &ask), [At::Vtep(REMOTE.into())]);
    }
}

#[test]
fn a_connection_ends_with_its_router() {
    for reply in [false, true] {
        let mut conf = two(&[GROUP]);
        let mut h = Host::new(&conf);
        let syn = FrameBuilder::tcp(false, 4000, 80)
            .flags(tcp::SYN)
            .seq(100, 0);
        let answer = FrameBuilder::tcp(false, 80, 4000)
            .flags(tcp::SYN | tcp::ACK)
            .seq(500, 101);
        let (there, back) = (
            by_router(syn, false, (0, 1), (1, 2)),
            by_router(answer, false, (1, 2), (0, 1)),
        );
        assert_eq!(h.places(1, &there), [At::Port(2)]);
        assert_eq!(h.places(2, &back), [At::Port(1)]);
        conf.0.sections.remove(&SectionKey::Router(id(9001)));
        h.apply(&conf);
        let got = if reply {
            h.places(2, &back)
        } else {
            h.places(1, &there)
        };
        assert_eq!(got, []);
        assert!(h.dp.conntrack().is_empty());
    }
}

#[test]
fn who_is_on_a_connection_is_told_when_its_router_loses_the_way() {
    for (v6, gone_workload) in [(false, false), (false, true), (true, false), (true, true)] {
        let mut conf = two(&[GROUP]);
        let mut h = Host::new(&conf);
        let segment = FrameBuilder::tcp(v6, 4000, 80);
        let syn = segment.clone().flags(tcp::SYN).seq(100, 0);
        assert_eq!(
            h.places(1, &by_router(syn, v6, (0, 1), (1, 2))),
            [At::Port(2)]
        );
        if gone_workload {
            conf.0.sections.remove(&SectionKey::Port(id(2)));
        } else {
            router(&mut conf, 1, &[(0, 254)], &[]);
        }
        h.apply(&conf);
        let more = by_router(segment.flags(tcp::ACK).seq(101, 501), v6, (0, 1), (1, 2));
        let got = h.from(1, &more);
        let (k, c, by, _) = told(&got[0].1);
        let no_way = match (v6, gone_workload) {
            (false, false) => (3, 0),
            (false, true) => (3, 1),
            (true, false) => (1, 0),
            (true, true) => (1, 3),
        };
        assert_eq!((k, c), no_way);
        assert_eq!(by, at(0, 254, v6).to_string());
        assert!(h.dp.conntrack().is_empty());
        assert_eq!(h.dp.ledger().dropped_total(), 1);
    }
}

#[test]
fn what_goes_to_its_own_address_elsewhere_begins_nothing() {
    for v6 in [false, true] {
        let mut conf = two(&[GROUP]);
        // The router knows a way to the sender's own address, by a workload on another host.
        let own = at(0, 1, v6);
        let host = format!("{own}/{}", if v6 { 128 } else { 32 });
        router(
            &mut conf,
            1,
            &[(0, 254), (1, 254)],
            &[(&host, at(1, 8, v6))],
        );
        let mut h = Host::new(&conf);
        let to_itself = |from, to| {
            FrameBuilder::udp(v6, from, to)
                .macs(mac(1), gate(1, 0))
                .addrs(own, own)
        };
        // Nothing would tell an answer from a question.
        assert_eq!(h.places(1, &to_itself(7, 7)), []);
        assert_eq!(h.dropped(DropReason::ConntrackInvalid), 1);
        assert_eq!(
            h.places(1, &to_itself(7, 8)),
            [At::Vtep(REMOTE.to_owned())],
            "ports tell"
        );
    }
}

#[test]
fn what_is_too_large_for_the_next_network_is_told_about_by_the_router() {
    for v6 in [false, true] {
        let mut conf = two(&[]);
        network(&mut conf, 1, 1300, |_| {});
        let mut h = Host::new(&conf);
        let headers = if v6 { 48 } else { 28 };
        let ask = |bytes: usize, to| {
            let udp = FrameBuilder::udp(v6, 4000, 53).payload(&vec![7; bytes - headers]);
            by_router(udp, v6, (0, 1), to)
        };
        let (kind, code) = if v6 { (2, 0) } else { (3, 4) };
        for to in [(1, 2), (1, 8)] {
            assert_eq!(h.from(1, &ask(1300, to)).len(), 1);
            for (bytes, mtu) in [(1301, 1300u16), (1451, 1450)] {
                let got = h.from(1, &ask(bytes, to));
                let [(At::Port(1), error)] = got.as_slice() else {
                    panic!("one error comes back: {got:?}");
                };
                let (k, c, from, _) = told(error);
                assert_eq!((k, c, from), (kind, code, at(0, 254, v6).to_string()));
                let (headers, _) = Headers::parse(error).unwrap();
                let field = usize::from(headers.l4_at) + 6;
                assert_eq!(error[field..field + 2], mtu.to_be_bytes());
            }
        }
        assert_eq!(h.dropped(DropReason::MtuExceeded), 4);
        // Also when only the path to the VTEP turns out to be too narrow, behind all rewrites.
        let mut sent = h.pool.take(2000).unwrap();
        sent.fill(&ask(1300, (1, 8)).build()).unwrap();
        sent.set_origin(h.origin(1));
        let (mut batch, mut out) = (Batch::new(), super::super::Out::new());
        batch.push(sent).unwrap();
        let tables = std::sync::Arc::clone(&h.tables);
        h.dp.run(&tables, &mut batch, h.now, &mut h.pool, &mut out);
        let frame = out.tunnelled.pop().unwrap();
        let unsent = crate::io::Unsent {
            frame,
            reason: DropReason::MtuExceeded,
            room: Some(1280u32.try_into().unwrap()),
        };
        h.dp.refuse_tunnel(&tables, unsent, h.now, &mut h.pool, &mut out);
        assert_eq!(out.next_port(&mut batch), Some(h.dense(1)));
        let error = batch.drain().next().unwrap();
        let (k, c, from, _) = told(error.bytes());
        assert_eq!((k, c, from), (kind, code, at(0, 254, v6).to_string()));
        let key = error.key();
        assert_eq!((key.src_mac(), key.dst_mac()), (gate(1, 0), mac(1)));
        h.dp.ledger().balanced().unwrap();
    }
}

#[test]
fn a_super_frame_is_routed_once() {
    for v6 in [false, true] {
        let mut h = Host::new(&two(&[]));
        let frame = by_router(
            FrameBuilder::tcp(v6, 4000, 80).payload(&[0; 4000]),
            v6,
            (0, 1),
            (1, 8),
        );
        let mut p = h.pool.take_large().unwrap();
        p.fill(&frame.ttl(9).build()).unwrap();
        p.set_origin(h.origin(1));
        let start = if v6 { 54 } else { 34 };
        p.set_offload(Offload {
            gso: Gso::Tcp {
                size: 1000,
                ecn: false,
            },
            checksum: Checksum::Partial { start, offset: 16 },
        });
        let (mut batch, mut out) = (Batch::new(), super::super::Out::new());
        batch.push(p).unwrap();
        let tables = std::sync::Arc::clone(&h.tables);
        h.dp.run(&tables, &mut batch, h.now, &mut h.pool, &mut out);
        let sent = out.tunnelled.pop().unwrap();
        assert_eq!(sent.packet.key().ip_ttl, 8);
        assert_eq!((sent.packet.segments(), u32::from(sent.vni)), (4, 2));
        let (_, key) = Headers::parse(sent.packet.bytes()).unwrap();
        assert_eq!(key.ip_ttl, 8, "and its header's checksum holds");
        h.dp.ledger().balanced().unwrap();
    }
}

#[test]
fn tenants_with_the_same_addresses_never_meet() {
    for v6 in [false, true] {
        let mut conf = two(&[]);
        // The second tenant's networks 2 and 3 have the addresses of 0 and 1, and so have its workloads.
        for (k, like) in [(2, 0), (3, 1)] {
            network(&mut conf, k, 1450, |n| {
                for (subnet, v6) in n.subnets.iter_mut().zip([false, true]) {
                    subnet.cidr = if v6 {
                        format!("fd{like:02x}::/64")
                    } else {
                        format!("10.0.{like}.0/24")
                    }
                    .parse()
                    .unwrap();
                    subnet.gateway = Some(at(like, 254, v6));
                }
            });
        }
        for (k, like, n, as_n) in [(2, 0, 11, 1), (3, 1, 12, 2)] {
            workload(&mut conf, k, n, &[]);
            let key = SectionKey::Port(id(u128::from(n)));
            let Section::Port(mut port) = conf.0.sections[&key].body().clone() else {
                unreachable!("it is a port's key")
            };
            for (ip, v6) in port.fixed_ips.iter_mut().zip([false, true]) {
                ip.addr = at(like, as_n, v6);
            }
            conf.put(Section::Port(port));
        }
        router_with(&mut conf, 2, &[(2, 254), (3, 254)], &[], |r| {
            for (interface, like) in r.interfaces.iter_mut().zip([0, 1]) {
                for (addr, v6) in interface.addrs.iter_mut().zip([false, true]) {
                    *addr = InterfaceAddr {
                        addr: at(like, 254, v6),
                        subnet: if v6 {
                            format!("fd{like:02x}::/64")
                        } else {
                            format!("10.0.{like}.0/24")
                        }
                        .parse()
                        .unwrap(),
                    };
                }
            }
        });
        let mut h = Host::new(&conf);
        let ask = by_router(FrameBuilder::udp(v6, 4, 5), v6, (0, 1), (1, 2));
        assert_eq!(h.places(1, &ask), [At::Port(2)]);
        let theirs = ask.clone().macs(mac(11), gate(2, 2));
        let got = h.from(11, &theirs);
        assert_eq!(
            got,
            [(
                At::Port(12),
                theirs.macs(gate(2, 3), mac(12)).ttl(63).build()
            )]
        );
        // Another tenant's router is nobody's.
        assert_eq!(h.places(11, &ask.macs(mac(11), gate(1, 0))), []);
        assert_eq!(h.dropped(DropReason::UnknownUnicast), 1);
    }
}

#[test]
fn groups_see_the_packet_as_their_port_does() {
    for v6 in [false, true] {
        let mut conf = two(&[GROUP]);
        let family = if v6 { Family::V6 } else { Family::V4 };
        let mut from_one = rule(Direction::Ingress, family, Some(17), L4Match::Any);
        from_one.remote = Remote::Set(id(3000));
        let one = at(0, 1, v6).to_string() + if v6 { "/128" } else { "/32" };
        conf.set(3000, &[&one])
            .group(GROUP + 1, true, vec![from_one]);
        workload(&mut conf, 1, 3, &[GROUP + 1]);
        workload(&mut conf, 0, 4, &[GROUP]);
        let mut h = Host::new(&conf);
        let udp = |n| by_router(FrameBuilder::udp(v6, 9, 53), v6, (0, n), (1, 3));
        assert_eq!(h.places(1, &udp(1)), [At::Port(3)]);
        assert_eq!(h.places(4, &udp(4)), []);
        assert_eq!(h.dropped(DropReason::SecurityGroupIngress), 1);
        // An error about it comes back across the router, though no rule speaks of it.
        let got = routed(FrameBuilder::udp(v6, 9, 53), v6, (0, 1), (1, 3)).build();
        let mut error = FrameBuilder::icmp_error(&got);
        error[..6].copy_from_slice(&gate(1, 1).octets());
        let back = h.enter(h.origin(3), &[error]);
        let [(At::Port(1), frame)] = back.as_slice() else {
            panic!("the error arrives: {back:?}");
        };
        let (_, key) = Headers::parse(frame).unwrap();
        assert_eq!((key.src_mac(), key.ip_ttl), (gate(1, 0), 63));
    }
}

#[test]
fn what_tracks_behind_a_router_tracks_before_it() {
    let mut conf = two(&[]);
    for k in 2..4 {
        network(&mut conf, k, 1450, |_| {});
    }
    router(&mut conf, 2, &[(1, 253), (2, 254)], &[]);
    let tracks = |conf: &Conf| {
        let h = Host::new(conf);
        let on = |k: u16| {
            h.tables
                .network_by_id(id(NET + u128::from(k)))
                .unwrap()
                .dense
        };
        (0..4).map(|k| h.tables.tracks(on(k))).collect::<Vec<_>>()
    };
    assert_eq!(tracks(&conf), [false; 4]);
    workload(&mut conf, 2, 5, &[GROUP]);
    assert_eq!(tracks(&conf), [true, true, true, false]);
    // A router that goes may come again: its connections are not forgotten until then.
    let mut h = Host::new(&conf);
    conf.0.sections.remove(&SectionKey::Router(id(9001)));
    h.apply(&conf);
    let first = h.tables.network_by_id(id(NET)).unwrap().dense;
    assert!(h.tables.tracks(first) && !tracks(&conf)[0]);
}

const VIP: u16 = 50;

/// A virtual address on the network `on` with this member, for what the first network sends, or for whoever comes to it.
fn balanced(v6: bool, on: u16, member: (u16, u16), from_network: bool) -> Conf {
    use hostconfig::{
        FunctionKind, LoadBalancer,
        chain::{Algorithm, Member, Side},
    };
    let mut conf = two(&[GROUP]);
    workload(&mut conf, 0, 3, &[GROUP]);
    conf.web(6, 8080);
    elsewhere(&mut conf, on, VIP, Location::Virtual);
    let balancer = FunctionKind::LoadBalancer(LoadBalancer {
        vip: at(on, VIP, v6),
        vip_port: id(u128::from(VIP)),
        network: id(NET + u128::from(on)),
        mac: mac(VIP).try_into().unwrap(),
        protocol: 6,
        port: 80,
        algorithm: Algorithm::Maglev,
        members: vec![Member {
            id: id(u128::from(member.1)),
            addr: at(member.0, member.1, v6),
            port: 8080,
            weight: 1,
        }],
        monitor: None,
    });
    let (source, destination) = if from_network {
        (Some(Side::Network(id(NET))), None)
    } else {
        (None, Some(Side::Port(id(u128::from(VIP)))))
    };
    conf.chain_of(8000, source, destination, 80, vec![balancer]);
    conf
}

/// The first workload speaks to the virtual address, and hears from it alone.
fn speaks_to_a_member(mut h: Host, what: &str, v6: bool, on: u16, member: (u16, u16)) {
    let local = member.1 < 8;
    let vip = at(on, VIP, v6);
    let to_vip = |f: FrameBuilder| {
        let dst = if on == 0 { mac(VIP) } else { gate(1, 0) };
        f.macs(mac(1), dst).addrs(at(0, 1, v6), vip)
    };
    let syn = FrameBuilder::tcp(v6, 4000, 80).flags(tcp::SYN);
    let got = h.from(1, &to_vip(syn.seq(100, 0)));
    let (place, origin) = if local {
        (At::Port(member.1), h.origin(member.1))
    } else {
        (At::Vtep(REMOTE.into()), tunnel(&h, 0))
    };
    assert_eq!(got.len(), 1, "{what}: {:?}", h.dp.drops());
    assert_eq!(got[0].0, place, "{what}");
    let (_, key) = Headers::parse(&got[0].1).unwrap();
    let there = at(member.0, member.1, v6);
    let reached = (key.dst_addr(), key.l4_dst, key.dst_mac());
    assert_eq!(reached, (there, 8080, mac(member.1)), "{what}");
    // The member answers whom it saw.
    let answer = |flags, seq| {
        let tcp = FrameBuilder::tcp(v6, 8080, 4000).flags(flags).seq(seq, 101);
        let macs = if local {
            (mac(member.1), key.src_mac())
        } else {
            (gate(1, 0), mac(1))
        };
        tcp.macs(macs.0, macs.1).addrs(there, key.src_addr())
    };
    let back = |h: &mut Host, flags, seq| {
        let got = h.enter(origin, &[answer(flags, seq).build()]);
        assert_eq!(got.len(), 1, "{what}: {:?}", h.dp.drops());
        assert_eq!(got[0].0, At::Port(1), "{what}");
        let (_, key) = Headers::parse(&got[0].1).unwrap();
        assert_eq!((key.src_addr(), key.l4_src), (vip, 80), "{what}");
        let to = (key.dst_addr(), key.l4_dst, key.dst_mac());
        assert_eq!(to, (at(0, 1, v6), 4000, mac(1)), "{what}");
    };
    back(&mut h, tcp::SYN | tcp::ACK, 500);
    let ack = to_vip(FrameBuilder::tcp(v6, 4000, 80).seq(101, 501));
    let forth = |h: &mut Host| {
        let got = h.places(1, &ack);
        assert!(got.len() == 1 && got[0] == place, "{what}: {got:?}");
    };
    forth(&mut h);
    back(&mut h, tcp::ACK, 501);
    let before = h.dp.counters().lookups;
    for _ in 0..3 {
        forth(&mut h);
        back(&mut h, tcp::ACK, 501);
    }
    let after = h.dp.counters().lookups;
    let found = (after.upcall, after.exact);
    assert_eq!(found, (before.upcall, before.exact + 6), "{what}");
}

#[test]
fn a_balanced_connection_crosses_routers_at_either_end() {
    for v6 in [false, true] {
        // The virtual address's network, and the member's: here, far, on the client's own, the client itself.
        let ways = [
            (0, (1, 2)),
            (0, (1, 8)),
            (1, (1, 2)),
            (1, (1, 8)),
            (1, (0, 3)),
            (1, (0, 1)),
        ];
        for (on, member) in ways {
            for from_network in [true, false] {
                let what = format!("vip on {on}, member {member:?}, {from_network}, v6 {v6}");
                let h = Host::new(&balanced(v6, on, member, from_network));
                speaks_to_a_member(h, &what, v6, on, member);
            }
        }
    }
}

#[test]
fn an_explanation_names_router_route_interface_and_next_hop() {
    let mut conf = two(&[]);
    let via = at(1, 2, false);
    router(
        &mut conf,
        1,
        &[(0, 254), (1, 254)],
        &[("192.0.2.0/24", via)],
    );
    let h = Host::new(&conf);
    let say = |what: &str| {
        let entrance = super::super::explain::Entrance::Port("p1".into());
        let told = super::super::explain(&h.tables, &entrance, &what.parse().unwrap(), h.now);
        told.unwrap().to_string()
    };
    let said = say("udp 10.0.0.1:1 > 10.0.1.8:2");
    let expected = "\
port p1 (network net0, vni 1)
  port_security   port security is off
  l3              router r1 (00000000-0000-0000-0000-000000002329): subnet 10.0.1.0/24 by interface 00000000-0000-0000-0000-000000001b69 on network net1, next hop 10.0.1.8 (02:00:00:00:00:08), ttl 64 -> 63
  tunnel          vtep 192.0.2.9, vni 2
megaflow  in_port=p1 eth_dst=02:00:00:00:90:10 ipv4 udp src=10.0.0.0/8 dst=10.0.1.8/32 dport=2
actions   dec_ttl(r1) set_eth(src=02:00:00:00:90:11 dst=02:00:00:00:00:08) encap(vtep 192.0.2.9, vni 2)
verdict   delivered to 192.0.2.9";
    assert_eq!(said, expected);
    let route = say("udp 10.0.0.1:1 > 192.0.2.7:2");
    assert!(route.contains("route 192.0.2.0/24 by interface"), "{route}");
    assert!(
        route.contains("next hop 10.0.1.2 (02:00:00:00:00:02)"),
        "{route}"
    );
    for (what, ends) in [
        (
            "udp 10.0.0.1:1 > 10.0.1.8:2 ttl 1",
            "ttl is used up: its sender is told, in the name of 10.0.0.254",
        ),
        (
            "udp 10.0.0.1:1 > 10.0.7.8:2",
            "no_route: its sender is told, in the name of 10.0.0.254",
        ),
        (
            "udp [fd00::1]:1 > [fd01::77]:2",
            "unknown_neighbor: its sender is told, in the name of fd00::fe",
        ),
        (
            "icmp 10.0.0.1 > 10.0.1.254",
            "ping of its address 10.0.1.254 answered",
        ),
        (
            "udp 10.0.0.1:1 > 10.0.1.8:2 len 1451",
            "larger than the mtu of 1450: its sender is told, in the name of 10.0.0.254",
        ),
    ] {
        assert!(say(what).contains(ends), "{what}: {}", say(what));
    }
}
