use std::net::IpAddr;

use hostconfig::{
    FunctionKind,
    group::{Direction, Family},
};
use net::{
    Mac,
    flow_key::ethertype,
    testkit::{FrameBuilder, tcp},
};

use super::*;
use crate::plan::{Plan, allow, allow_all, from_network};

fn udp(plan: &Plan, from: PortUuid, to: PortUuid, ports: (u16, u16), v6: bool) -> Vec<u8> {
    FrameBuilder::udp(v6, ports.0, ports.1)
        .macs(plan.mac(from), plan.mac(to))
        .addrs(plan.addr(from, v6), plan.addr(to, v6))
        .build()
}

fn delivered(fate: &Fate) -> Vec<PortUuid> {
    fate.deliveries.iter().map(|d| d.0).collect()
}

#[test]
fn replies_pass_where_only_the_question_is_allowed() {
    for (v6, family) in [(false, Family::V4), (true, Family::V6)] {
        for host in [0, 1] {
            let mut plan = Plan::new(2);
            let net = plan.network("net");
            let asks = plan.group(vec![allow(Direction::Egress, family)]);
            let answers = plan.group(vec![allow(Direction::Ingress, family)]);
            let (a, b) = (plan.port(0, net, &[asks]), plan.port(host, net, &[answers]));
            let mut oracle = Oracle::new(plan.configs());
            let early = oracle.send(b, &udp(&plan, b, a, (53, 9), v6), &[]);
            assert_eq!(early.drops, [DropReason::SecurityGroupEgress]);
            let question = oracle.send(a, &udp(&plan, a, b, (9, 53), v6), &[]);
            assert_eq!(delivered(&question), [b]);
            let answer = oracle.send(b, &udp(&plan, b, a, (53, 9), v6), &[]);
            assert_eq!(delivered(&answer), [a]);
            plan.set_rules(answers, vec![]);
            oracle.configure(plan.configs());
            let late = oracle.send(b, &udp(&plan, b, a, (53, 9), v6), &[]);
            assert_eq!(late.drops, [DropReason::SecurityGroupIngress]);
        }
    }
}

#[test]
fn a_virtual_address_leads_to_a_member_and_back() {
    let mut plan = Plan::new(3);
    let net = plan.network("net");
    let open = plan.open_group();
    let client = plan.port(0, net, &[open]);
    let members = [
        plan.port(1, net, &[open]),
        plan.port(2, net, &[open]),
        client,
    ];
    let (vip, balancer) = plan.load_balancer(net, false, (proto::TCP, 80), &members);
    plan.chain(
        vec![from_network(net)],
        vec![FunctionKind::LoadBalancer(balancer)],
    );
    let mut oracle = Oracle::new(plan.configs());
    let frame = |from, to, ports: (u16, u16), flags| {
        FrameBuilder::tcp(false, ports.0, ports.1)
            .macs(plan.mac(from), plan.mac(to))
            .addrs(plan.addr(from, false), plan.addr(to, false))
            .flags(flags)
            .build()
    };
    for (member, sport) in members.into_iter().zip(4000..) {
        let open = frame(client, vip, (sport, 80), tcp::SYN);
        let fate = oracle.send(client, &open, &[member]);
        assert_eq!(delivered(&fate), [member]);
        // The client that is its own member sees the virtual address as its peer, on both ends.
        let back = if member == client { vip } else { client };
        let answer = frame(member, back, (8080, sport), tcp::SYN | tcp::ACK);
        let fate = oracle.send(member, &answer, &[]);
        let expected = frame(vip, client, (80, sport), tcp::SYN | tcp::ACK);
        assert_eq!(fate.deliveries, [(client, What::of(&expected))]);
        // The member's own host knows the connection as the member sees it, also where an error speaks of it.
        if member != client {
            let error = FrameBuilder::icmp_error(&expected);
            assert_eq!(delivered(&oracle.send(client, &error, &[])), [member]);
        }
    }
    let stray = frame(client, vip, (4000, 81), tcp::SYN);
    assert_eq!(
        oracle.send(client, &stray, &[]).drops,
        [DropReason::NoListener]
    );
}

#[test]
fn a_hidden_source_is_told_by_its_whole_connection() {
    let mut plan = Plan::new(1);
    let net = plan.network("net");
    let open = plan.open_group();
    let (a, b) = (plan.port(0, net, &[open]), plan.port(0, net, &[open]));
    let (hidden, nat) = plan.nat(net);
    plan.chain(vec![from_network(net)], vec![FunctionKind::Nat(nat)]);
    // One calls the other, which calls itself: both from one port, to one end.
    let sent = [a, b].map(|from| udp(&plan, from, b, (4000, 80), false));
    let (from, to) = (plan.addr(hidden, false), plan.addr(b, false));
    let shows = |port| FiveTuple::new(proto::UDP, (from, port), (to, 80));
    let shown = [(a, 4000), (b, 5000)].map(|(from, port)| {
        let ends = [(from, 4000), (b, 80)].map(|(of, port)| (plan.addr(of, false), port));
        let inside = FiveTuple::new(proto::UDP, ends[0], ends[1]);
        (from, inside, shows(port))
    });
    let mut oracle = Oracle::new(plan.configs());
    oracle.show(&[shown.to_vec()]);
    for ((from, frame), port) in [a, b].into_iter().zip(sent).zip([4000, 5000]) {
        let fate = oracle.send(from, &frame, &[]);
        let frame = What::Frame {
            macs: (plan.mac(hidden), plan.mac(b)),
            ethertype: ethertype::IPV4,
            tuple: Some(shows(port).to_string()),
            ttl: 64,
            tos: 0,
        };
        assert_eq!(fate.deliveries, [(b, frame)]);
    }
}

#[test]
fn an_end_that_shows_another_ethernet_address_is_answered_there() {
    let mut plan = Plan::new(1);
    let net = plan.network("net");
    let open = plan.open_group();
    let (a, b) = (plan.port(0, net, &[]), plan.port(0, net, &[open]));
    plan.get_mut(a).port_security = false;
    let (hidden, nat) = plan.nat(net);
    plan.chain(vec![from_network(net)], vec![FunctionKind::Nat(nat)]);
    let mut oracle = Oracle::new(plan.configs());
    let question = udp(&plan, a, b, (4000, 80), false);
    assert_eq!(delivered(&oracle.send(a, &question, &[])), [b]);
    let answer = udp(&plan, b, hidden, (80, 4000), false);
    assert_eq!(delivered(&oracle.send(b, &answer, &[])), [a]);
    let mut moved = question.clone();
    moved[6..12].copy_from_slice(&Mac::new([2, 0, 0, 0, 0x66, 0x66]).octets());
    assert_eq!(delivered(&oracle.send(a, &moved, &[])), [b]);
    // Nobody is known to have that address.
    let lost = oracle.send(b, &answer, &[]);
    assert_eq!(lost.drops, [DropReason::UnknownUnicast]);
}

#[test]
fn a_broadcast_reaches_every_port_of_its_network_once_and_no_other() {
    let mut plan = Plan::new(3);
    let (red, blue) = (plan.network("red"), plan.network("blue"));
    let group = plan.group(allow_all(Direction::Egress));
    let reds: Vec<_> = [0, 0, 1, 1, 2].map(|h| plan.port(h, red, &[group])).into();
    for host in 0..3 {
        plan.port(host, blue, &[group]);
    }
    let mut oracle = Oracle::new(plan.configs());
    let addr = |s: &str| s.parse().unwrap();
    let sender = (plan.mac(reds[0]), addr("10.0.0.10"));
    let ask = FrameBuilder::arp(1, sender, (Mac::ZERO, addr("10.0.0.200")));
    assert_eq!(delivered(&oracle.send(reds[0], &ask, &[])), reds[1..]);
    let known = FrameBuilder::arp(1, sender, (Mac::ZERO, addr("10.0.0.11")));
    let IpAddr::V4(_) = plan.addr(reds[1], false) else {
        panic!("an ipv4 address")
    };
    let answer = What::Neighbor(plan.addr(reds[1], false), plan.mac(reds[1]));
    assert_eq!(
        oracle.send(reds[0], &known, &[]).deliveries,
        [(reds[0], answer)]
    );
}
