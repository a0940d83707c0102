//! Who may talk to whom: every kind of rule, in both families, on one host and over the tunnel.

#![expect(clippy::unwrap_used, clippy::panic, reason = "tests fail loudly")]

use std::net::Ipv6Addr;

use hostconfig::{
    SecurityGroupRule,
    group::{Direction, Family, L4Match, Remote},
};
use net::{
    DropReason, Mac, PortRange,
    flow_key::proto,
    testkit::{FrameBuilder, tcp},
};
use tests::{
    fabric::{Fabric, Received},
    plan::{GroupUuid, Plan, PortUuid, allow, allow_all},
    traffic::{Between, answer},
};

const FAMILIES: [(bool, Family); 2] = [(false, Family::V4), (true, Family::V6)];

/// A client that may ask anything, and a server with one group, on hosts 0 and `host`.
struct Pair {
    fabric: Fabric,
    client: PortUuid,
    server: PortUuid,
    rules: GroupUuid,
}

fn pair(host: usize, rules: Vec<SecurityGroupRule>) -> Pair {
    let mut plan = Plan::new(2);
    let net = plan.network("net");
    let asks = plan.group(allow_all(Direction::Egress));
    let rules = plan.group(rules);
    let client = plan.port(0, net, &[asks]);
    let server = plan.port(host, net, &[rules]);
    Pair {
        fabric: Fabric::new(plan),
        client,
        server,
        rules,
    }
}

impl Pair {
    fn between<'a>(&self, plan: &'a Plan, v6: bool) -> Between<'a> {
        Between {
            plan,
            from: self.client,
            to: self.server,
            v6,
        }
    }

    fn passes(&mut self, frame: &[u8]) -> bool {
        let (received, drops) = self.fabric.send_judged(self.client, frame);
        match (received.as_slice(), drops.as_slice()) {
            ([one], []) => {
                assert_eq!(one.port, self.server);
                assert_eq!(one.frame.bytes, frame, "plain forwarding changes nothing");
                true
            }
            ([], [DropReason::SecurityGroupIngress]) => false,
            other => panic!("neither delivered nor refused: {other:?}"),
        }
    }
}

#[test]
fn each_kind_of_rule_allows_what_it_says_and_nothing_else() {
    for host in [0, 1] {
        for (v6, family) in FAMILIES {
            let icmp = if v6 { proto::ICMP6 } else { proto::ICMP };
            let echo = if v6 { 128 } else { 8 };
            let of = |protocol, l4, remote| SecurityGroupRule {
                protocol,
                l4,
                remote,
                ..allow(Direction::Ingress, family)
            };
            let any = Remote::Any;
            let near = Remote::Prefix(
                if v6 { "fd00::/124" } else { "10.0.0.8/29" }
                    .parse()
                    .unwrap(),
            );
            let far = Remote::Prefix(
                if v6 { "fd01::/64" } else { "10.0.1.0/24" }
                    .parse()
                    .unwrap(),
            );
            let range = L4Match::Ports(PortRange::new(80, 90).unwrap());
            let ping = |code| L4Match::Icmp { kind: echo, code };
            // Each rule, and which of UDP 80, UDP 91, TCP 80, ping, protocol 47 it lets pass.
            let table: Vec<(SecurityGroupRule, [bool; 5])> = vec![
                (of(None, L4Match::Any, any), [true; 5]),
                (of(None, L4Match::Any, near), [true; 5]),
                (of(None, L4Match::Any, far), [false; 5]),
                (
                    of(Some(proto::UDP), L4Match::Any, any),
                    [true, true, false, false, false],
                ),
                (
                    of(Some(proto::UDP), range, any),
                    [true, false, false, false, false],
                ),
                (
                    of(Some(proto::TCP), range, near),
                    [false, false, true, false, false],
                ),
                (of(Some(proto::TCP), range, far), [false; 5]),
                (
                    of(Some(icmp), L4Match::Any, any),
                    [false, false, false, true, false],
                ),
                (
                    of(Some(icmp), ping(None), any),
                    [false, false, false, true, false],
                ),
                (
                    of(Some(icmp), ping(Some(0)), any),
                    [false, false, false, true, false],
                ),
                (of(Some(icmp), ping(Some(1)), any), [false; 5]),
                (
                    of(Some(47), L4Match::Any, any),
                    [false, false, false, false, true],
                ),
            ];
            for (rule, expected) in table {
                let shown = format!("host {host}, {rule:?}");
                let mut pair = pair(host, vec![rule]);
                let plan = pair.fabric.plan.clone();
                let b = pair.between(&plan, v6);
                let frames = [
                    b.udp(1, 80),
                    b.udp(1, 91),
                    b.syn(1, 80),
                    b.echo(1),
                    b.other(47),
                ];
                let passed = frames.map(|f| pair.passes(&f.build()));
                assert_eq!(passed, expected, "{shown}");
                // A rule of one family says nothing of the other.
                let other = pair.between(&plan, !v6);
                assert!(!pair.passes(&other.udp(1, 80).build()), "{shown}");
            }
        }
    }
}

#[test]
fn a_remote_group_means_its_members_as_they_come_and_go() {
    for host in [0, 1] {
        for (v6, family) in FAMILIES {
            let mut pair = pair(host, vec![]);
            let plan = &mut pair.fabric.plan;
            let friends = plan.group(vec![]);
            let rule = SecurityGroupRule {
                remote: Plan::members_of(friends),
                ..allow(Direction::Ingress, family)
            };
            plan.set_rules(pair.rules, vec![rule]);
            pair.fabric.apply();
            let plan = pair.fabric.plan.clone();
            let frame = pair.between(&plan, v6).udp(1, 2).build();
            assert!(!pair.passes(&frame));
            pair.fabric
                .plan
                .get_mut(pair.client)
                .security_groups
                .push(friends);
            pair.fabric.apply();
            assert!(pair.passes(&frame));
            pair.fabric.plan.get_mut(pair.client).security_groups.pop();
            pair.fabric.apply();
            assert!(
                !pair.passes(&frame),
                "an established flow ends with the membership"
            );
        }
    }
}

/// Opens a TCP connection with three segments of handshake and some data; returns the last frame each way.
fn converse(fabric: &mut Fabric, client: PortUuid, syn: &[u8]) -> (Received, Received) {
    let mut last = fabric.send(client, syn);
    let mut frames = vec![];
    for _ in 0..6 {
        let [there] = last.as_slice() else {
            panic!("each segment has one receiver: {last:?}")
        };
        frames.push(there.clone());
        let back = answer(&there.frame.bytes, b"data").unwrap();
        last = fabric.send(there.port, &back);
    }
    frames.extend(last);
    let mut recent = frames.into_iter().rev();
    (recent.next().unwrap(), recent.next().unwrap())
}

#[test]
fn a_revoked_rule_ends_an_established_flow_at_its_next_packet() {
    for host in [0, 1] {
        for (v6, family) in FAMILIES {
            for reply_first in [false, true] {
                let mut pair = pair(host, vec![allow(Direction::Ingress, family)]);
                let plan = pair.fabric.plan.clone();
                let syn = pair.between(&plan, v6).syn(4000, 80).build();
                let other = pair.between(&plan, !v6).syn(4000, 80).build();
                assert!(!pair.passes(&other));
                let (a, b) = converse(&mut pair.fabric, pair.client, &syn);
                pair.fabric.plan.set_rules(pair.rules, vec![]);
                pair.fabric.apply();
                let from_server = if a.port == pair.server { &a } else { &b };
                let from_client = if a.port == pair.client { &a } else { &b };
                let next = if reply_first {
                    from_server
                } else {
                    from_client
                };
                let frame = answer(&next.frame.bytes, b"late").unwrap();
                let (received, drops) = pair.fabric.send_judged(next.port, &frame);
                assert_eq!(
                    received,
                    [],
                    "host {host}, v6 {v6}, reply first {reply_first}"
                );
                assert_eq!(drops, [DropReason::SecurityGroupIngress]);
                let live: usize = pair
                    .fabric
                    .datapaths(host)
                    .map(|d| d.conntrack().len())
                    .sum();
                assert_eq!(live, 0, "its record is closed");
            }
        }
    }
}

#[test]
fn a_change_that_still_allows_a_flow_costs_it_nothing() {
    for host in [0, 1] {
        for (v6, family) in FAMILIES {
            let mut pair = pair(host, vec![allow(Direction::Ingress, family)]);
            let plan = pair.fabric.plan.clone();
            let syn = pair.between(&plan, v6).syn(4000, 80).build();
            let (mut last, _) = converse(&mut pair.fabric, pair.client, &syn);
            for port in 80..90 {
                let rule = SecurityGroupRule {
                    protocol: Some(proto::TCP),
                    l4: L4Match::Ports(PortRange::new(80, port).unwrap()),
                    ..allow(Direction::Ingress, family)
                };
                pair.fabric.plan.set_rules(pair.rules, vec![rule]);
                pair.fabric.apply();
                let frame = answer(&last.frame.bytes, b"on").unwrap();
                let received = pair.fabric.send(last.port, &frame);
                last = received.first().unwrap().clone();
            }
        }
    }
}

#[test]
fn replies_need_no_rule_and_strangers_do() {
    for host in [0, 1] {
        for (v6, family) in FAMILIES {
            let mut pair = pair(host, vec![allow(Direction::Ingress, family)]);
            let plan = pair.fabric.plan.clone();
            let back = Between {
                plan: &plan,
                from: pair.server,
                to: pair.client,
                v6,
            };
            let (_, drops) = pair
                .fabric
                .send_judged(pair.server, &back.udp(53, 4000).build());
            assert_eq!(drops, [DropReason::SecurityGroupEgress]);
            // What belongs to no connection is refused, whatever the rules.
            let stray = pair.between(&plan, v6).ack(1, 80).build();
            let (_, drops) = pair.fabric.send_judged(pair.client, &stray);
            assert_eq!(drops, [DropReason::ConntrackInvalid]);
            for frame in [
                pair.between(&plan, v6).udp(4000, 53).build(),
                pair.between(&plan, v6).echo(9).build(),
                pair.between(&plan, v6).other(47).build(),
            ] {
                assert!(pair.passes(&frame));
                let reply = answer(&frame, b"").unwrap();
                let received = pair.fabric.send(pair.server, &reply);
                assert_eq!(received.len(), 1, "a reply needs no rule");
                assert_eq!(received[0].port, pair.client);
            }
        }
    }
}

/// Windows numbers every ping 1: both ends may ask each other at once under one identifier.
#[test]
fn two_ends_that_ping_each_other_under_one_identifier_are_both_answered() {
    for host in [0, 1] {
        for (v6, family) in FAMILIES {
            let rules = vec![
                allow(Direction::Ingress, family),
                allow(Direction::Egress, family),
            ];
            let mut pair = pair(host, rules.clone());
            let mut plan = pair.fabric.plan.clone();
            let group = plan.group(rules);
            plan.get_mut(pair.client).security_groups = vec![group];
            pair.fabric.plan = plan.clone();
            pair.fabric.apply();
            let there = pair.between(&plan, v6).echo(1).build();
            let back = Between {
                plan: &plan,
                from: pair.server,
                to: pair.client,
                v6,
            }
            .echo(1)
            .build();
            for _ in 0..3 {
                assert_eq!(pair.fabric.send(pair.client, &there).len(), 1);
                assert_eq!(pair.fabric.send(pair.server, &back).len(), 1);
                let (a, b) = (answer(&there, b"").unwrap(), answer(&back, b"").unwrap());
                assert_eq!(pair.fabric.send(pair.server, &a).len(), 1);
                assert_eq!(pair.fabric.send(pair.client, &b).len(), 1);
            }
        }
    }
}

#[test]
fn an_icmp_error_about_a_connection_passes_and_any_other_does_not() {
    for host in [0, 1] {
        for (v6, family) in FAMILIES {
            let rule = SecurityGroupRule {
                protocol: Some(proto::UDP),
                ..allow(Direction::Ingress, family)
            };
            let mut pair = pair(host, vec![rule]);
            let plan = pair.fabric.plan.clone();
            let asked = pair.between(&plan, v6).udp(4000, 53).payload(b"?").build();
            let never = pair.between(&plan, v6).udp(4001, 53).payload(b"?").build();
            assert!(pair.passes(&asked));
            let error = FrameBuilder::icmp_error(&asked);
            let received = pair.fabric.send(pair.server, &error);
            assert_eq!(received.len(), 1);
            assert_eq!(received[0].port, pair.client);
            assert_eq!(received[0].frame.bytes, error);
            let lie = FrameBuilder::icmp_error(&never);
            let (received, drops) = pair.fabric.send_judged(pair.server, &lie);
            assert_eq!(received, []);
            assert_eq!(drops, [DropReason::SecurityGroupEgress]);
            // Not even a server that may begin what it likes begins with an error.
            let both = vec![
                allow(Direction::Ingress, family),
                allow(Direction::Egress, family),
            ];
            pair.fabric.plan.set_rules(pair.rules, both);
            pair.fabric.apply();
            let (received, drops) = pair.fabric.send_judged(pair.server, &lie);
            assert_eq!(received, []);
            // On one host the client's groups speak before anybody asks for a connection.
            let reason = if host == 0 {
                DropReason::SecurityGroupIngress
            } else {
                DropReason::ConntrackInvalid
            };
            assert_eq!(drops, [reason]);
        }
    }
}

/// RFC 5927 §4: an error that quotes a sequence number outside of what was sent is a forgery.
#[test]
fn an_icmp_error_with_a_sequence_number_never_sent_is_refused() {
    for (v6, family) in FAMILIES {
        let mut pair = pair(1, vec![allow(Direction::Ingress, family)]);
        let plan = pair.fabric.plan.clone();
        let syn = pair.between(&plan, v6).syn(4000, 80).build();
        converse(&mut pair.fabric, pair.client, &syn);
        let guess = pair
            .between(&plan, v6)
            .ack(4000, 80)
            .seq(1 << 30, 0)
            .build();
        let lie = FrameBuilder::icmp_error(&guess);
        let (received, drops) = pair.fabric.send_judged(pair.server, &lie);
        assert_eq!(received, []);
        assert_eq!(drops, [DropReason::ConntrackInvalid]);
    }
}

#[test]
fn spoofing_is_refused_in_each_form() {
    let mut pair = pair(1, allow_all(Direction::Ingress));
    let plan = pair.fabric.plan.clone();
    let (client, server) = (pair.client, pair.server);
    let (own, its) = (plan.mac(client), plan.mac(server));
    let stranger = Mac::new([2, 6, 6, 6, 6, 6]);
    let v4 = |p| match plan.addr(p, false) {
        std::net::IpAddr::V4(a) => a,
        std::net::IpAddr::V6(_) => unreachable!("ipv4 was asked for"),
    };
    let v6 = |p| match plan.addr(p, true) {
        std::net::IpAddr::V6(a) => a,
        std::net::IpAddr::V4(_) => unreachable!("ipv6 was asked for"),
    };
    let b4 = pair.between(&plan, false);
    let b6 = pair.between(&plan, true);
    let all = (
        Mac::new([0x33, 0x33, 0, 0, 0, 1]),
        "ff02::1".parse::<Ipv6Addr>().unwrap(),
    );
    // A Router Advertisement without options, and a Redirect (RFC 4861 §4.2, §4.5).
    let router = |kind: u8, length: usize| {
        let mut message = vec![0; length];
        message[0] = kind;
        FrameBuilder::other(true, proto::ICMP6)
            .macs(own, all.0)
            .addrs(own.link_local().into(), all.1.into())
            .ttl(255)
            .payload(&message)
            .build()
    };
    let mut lldp = b4.udp(1, 2).build();
    lldp[12..14].copy_from_slice(&[0x88, 0xb5]);
    let table = [
        (
            b4.udp(1, 2).macs(stranger, its).build(),
            DropReason::PortSecurityMac,
        ),
        (
            b4.udp(1, 2)
                .addrs("10.0.0.77".parse().unwrap(), plan.addr(server, false))
                .build(),
            DropReason::PortSecurityIp,
        ),
        (
            b6.udp(1, 2)
                .addrs("fd00::77".parse().unwrap(), plan.addr(server, true))
                .build(),
            DropReason::PortSecurityIp,
        ),
        (
            b6.udp(1, 2)
                .addrs("fe80::77".parse().unwrap(), plan.addr(server, true))
                .build(),
            DropReason::PortSecurityIp,
        ),
        (
            FrameBuilder::arp(2, (own, v4(server)), (its, v4(client))),
            DropReason::PortSecurityArp,
        ),
        (
            FrameBuilder::arp(1, (own, v4(server)), (Mac::ZERO, v4(client))),
            DropReason::PortSecurityArp,
        ),
        (
            FrameBuilder::neighbor(136, (own, own.link_local()), all, v6(server)),
            DropReason::PortSecurityNd,
        ),
        (b4.udp(67, 68).build(), DropReason::PortSecurityDhcpServer),
        (b6.udp(547, 546).build(), DropReason::PortSecurityDhcpServer),
        (router(134, 16), DropReason::PortSecurityRa),
        (router(137, 40), DropReason::PortSecurityRa),
        (lldp, DropReason::PortSecurityEthertype),
        (b4.udp(1, 2).vlan(5).build(), DropReason::VlanNotAllowed),
        (
            b4.udp(1, 2)
                .macs(own, Mac::new([1, 0x80, 0xc2, 0, 0, 0xe]))
                .build(),
            DropReason::LinkLocalControl,
        ),
    ];
    for (n, (frame, reason)) in table.into_iter().enumerate() {
        let (received, drops) = pair.fabric.send_judged(client, &frame);
        assert_eq!(
            (received.as_slice(), drops.as_slice()),
            (&[][..], &[reason][..]),
            "row {n}"
        );
    }
    // With port security off, the same port may say what it likes.
    pair.fabric.plan.get_mut(client).port_security = false;
    pair.fabric.apply();
    let frame = b4.udp(1, 2).macs(stranger, its).build();
    assert!(pair.passes(&frame));
}

#[test]
fn a_port_at_its_limit_of_connections_keeps_those_it_has() {
    for v6 in [false, true] {
        let mut pair = pair(1, allow_all(Direction::Ingress));
        pair.fabric.plan.get_mut(pair.client).max_connections = 3;
        pair.fabric.apply();
        let plan = pair.fabric.plan.clone();
        let mut ends = vec![];
        for n in 0..3 {
            let syn = pair.between(&plan, v6).syn(5000 + n, 80).build();
            ends.push(converse(&mut pair.fabric, pair.client, &syn).0);
        }
        let syn = pair.between(&plan, v6).syn(6000, 80).build();
        let (received, drops) = pair.fabric.send_judged(pair.client, &syn);
        assert_eq!(received, []);
        assert_eq!(drops, [DropReason::ConntrackPortFull]);
        for end in ends {
            let frame = answer(&end.frame.bytes, b"still").unwrap();
            assert_eq!(pair.fabric.send(end.port, &frame).len(), 1);
        }
    }
}

#[test]
fn a_stateless_group_judges_each_packet_by_itself() {
    for host in [0, 1] {
        for (v6, family) in FAMILIES {
            let mut pair = pair(host, vec![allow(Direction::Ingress, family)]);
            pair.fabric.plan.group_mut(pair.rules).stateful = false;
            pair.fabric.apply();
            let plan = pair.fabric.plan.clone();
            let frame = pair.between(&plan, v6).udp(4000, 53).build();
            assert!(pair.passes(&frame));
            let reply = answer(&frame, b"").unwrap();
            let (_, drops) = pair.fabric.send_judged(pair.server, &reply);
            assert_eq!(
                drops,
                [DropReason::SecurityGroupEgress],
                "a reply needs a rule"
            );
            let both = vec![
                allow(Direction::Ingress, family),
                allow(Direction::Egress, family),
            ];
            pair.fabric.plan.set_rules(pair.rules, both);
            pair.fabric.apply();
            assert_eq!(pair.fabric.send(pair.server, &reply).len(), 1);
        }
    }
}

#[test]
fn later_fragments_go_the_way_of_the_first() {
    for host in [0, 1] {
        for (v6, family) in FAMILIES {
            let rule = SecurityGroupRule {
                protocol: Some(proto::UDP),
                l4: L4Match::Ports(PortRange::one(53)),
                ..allow(Direction::Ingress, family)
            };
            let mut pair = pair(host, vec![rule]);
            let plan = pair.fabric.plan.clone();
            for (port, passes) in [(53, true), (54, false)] {
                let udp = pair.between(&plan, v6).udp(4000, port).payload(&[1; 64]);
                let id = u32::from(port);
                let first = udp.clone().fragment(id, 0, true).build();
                let later = udp.clone().fragment(id, 9, false).build();
                // One that comes too early waits, and shares its first one's fate.
                let waits = pair.fabric.send_judged(pair.client, &later);
                assert_eq!(waits, (vec![], vec![]));
                let (received, drops) = pair.fabric.send_judged(pair.client, &first);
                let frames: Vec<_> = received.iter().map(|r| &r.frame.bytes).collect();
                if passes {
                    assert_eq!((frames, drops), (vec![&first, &later], vec![]));
                } else {
                    let refused = vec![DropReason::SecurityGroupIngress; 2];
                    assert_eq!((frames, drops), (vec![], refused));
                }
                assert_eq!(pair.passes(&later), passes);
            }
        }
    }
}

#[test]
fn a_reset_ends_a_connection_for_both() {
    for (v6, family) in FAMILIES {
        let mut pair = pair(1, vec![allow(Direction::Ingress, family)]);
        let plan = pair.fabric.plan.clone();
        let syn = pair.between(&plan, v6).syn(4000, 80).build();
        let (last, _) = converse(&mut pair.fabric, pair.client, &syn);
        let next = answer(&last.frame.bytes, b"").unwrap();
        let (headers, _) = net::Headers::parse(&next).unwrap();
        let at = usize::from(headers.l4_at);
        let word = |at: usize| u32::from_be_bytes(next[at..at + 4].try_into().unwrap());
        let reset = Between {
            plan: &plan,
            from: last.port,
            to: if last.port == pair.client {
                pair.server
            } else {
                pair.client
            },
            v6,
        };
        let ports = if last.port == pair.client {
            (4000, 80)
        } else {
            (80, 4000)
        };
        let frame = reset
            .ack(ports.0, ports.1)
            .flags(tcp::RST | tcp::ACK)
            .seq(word(at + 4), word(at + 8))
            .build();
        assert_eq!(pair.fabric.send(last.port, &frame).len(), 1);
        // After the closed record's time, a segment is a stray.
        pair.fabric.advance(std::time::Duration::from_secs(30));
        let (received, drops) = pair.fabric.send_judged(last.port, &next);
        assert_eq!(received, []);
        let reason = if last.port == pair.client {
            DropReason::ConntrackInvalid
        } else {
            DropReason::SecurityGroupEgress
        };
        assert_eq!(drops, [reason]);
    }
}
