//! Do firewall groups decide what passes ports and routers, both ways, and do senders hear of it?

use std::{net::IpAddr, time::Duration};

use hostconfig::{
    FirewallGroup, Section,
    firewall::{Action, Policy, Rule},
    group::Family,
};
use net::{
    DropReason, Headers, Mac, Originated, PortRange, TcpSegment,
    testkit::{FrameBuilder, mac, tcp},
};

use super::{
    super::{Stage, explain::Entrance},
    floating::{floating, shown},
    harness::*,
    routing::{at, by_router, gate, told},
    several::*,
};

/// The firewall group of these tests.
const WALL: u128 = 6000;

fn any(n: u128, action: Action, v6: bool) -> Rule {
    Rule {
        id: id(n),
        action,
        family: if v6 { Family::V6 } else { Family::V4 },
        protocol: None,
        source: None,
        destination: None,
        source_ports: None,
        destination_ports: None,
    }
}

fn to_port(n: u128, action: Action, v6: bool, protocol: u8, port: u16) -> Rule {
    Rule {
        protocol: Some(protocol),
        destination_ports: Some(PortRange::one(port)),
        ..any(n, action, v6)
    }
}

/// The same rule for both families, by ids one behind the other.
fn both(rule: impl Fn(u128, bool) -> Rule, n: u128) -> Vec<Rule> {
    vec![rule(n, false), rule(n + 1, true)]
}

fn wall(ingress: Vec<Rule>, egress: Vec<Rule>) -> FirewallGroup {
    let policy = |name: &str, rules| Policy {
        name: name.to_owned(),
        rules,
    };
    FirewallGroup {
        id: id(WALL),
        name: "fg".to_owned(),
        admin_up: true,
        ingress: policy("in", ingress),
        egress: policy("out", egress),
    }
}

/// Lets TCP to port 80 in, and begins nothing.
fn web_only() -> FirewallGroup {
    wall(
        both(|n, v6| to_port(n, Action::Allow, v6, 6, 80), 6100),
        vec![],
    )
}

/// Workloads 1 and 2 here and 9 elsewhere, without groups; 2 has a firewall.
fn walled(group: &FirewallGroup) -> Conf {
    let mut conf = Conf::new();
    for n in [1, 2] {
        conf.port_with(n, &[], |p| p.port_security = false);
    }
    conf.far(9).walled(2, WALL);
    conf.put(Section::Firewall(group.clone()));
    conf
}

#[test]
fn a_firewall_decides_who_begins_and_state_lets_answers_pass() {
    for v6 in [false, true] {
        let mut h = Host::new(&walled(&web_only()));
        let (a, b) = ((1, 40000), (2, 80));
        assert_eq!(h.places(2, &syn_ack(v6, b, a)), [], "answers nothing");
        assert_eq!(h.places(1, &syn(v6, a, b)), [At::Port(2)]);
        assert_eq!(h.places(2, &syn_ack(v6, b, a)), [At::Port(1)]);
        assert_eq!(h.places(1, &ack(v6, a, b)), [At::Port(2)]);
        assert_eq!(h.dp.conntrack().len(), 1);
        let before = h.dp.counters().lookups;
        assert_eq!(h.places(1, &ack(v6, a, b)), [At::Port(2)]);
        assert_eq!(h.dp.counters().lookups.exact, before.exact + 1);
        // From elsewhere, and back there.
        let far = (9, 5000);
        assert_eq!(h.tunnelled(&syn(v6, far, b)), [At::Port(2)]);
        assert_eq!(h.places(2, &syn_ack(v6, b, far)), [At::Vtep(REMOTE.into())]);
        // No rule: neither in nor out, by name.
        assert_eq!(h.dropped(DropReason::FirewallDenied), 1);
        assert_eq!(h.places(1, &syn(v6, a, (2, 81))), []);
        assert_eq!(h.tunnelled(&syn(v6, far, (2, 81))), []);
        assert_eq!(h.places(2, &syn(v6, (2, 7), (1, 80))), []);
        let ping = between(FrameBuilder::echo(v6, 7), v6, 1, 2);
        assert_eq!(h.places(1, &ping), []);
        assert_eq!(h.dropped(DropReason::FirewallDenied), 5);
        let record = h.dp.drops().iter().next().unwrap();
        assert_eq!(record.refusal.stage, Stage::Firewall);
        assert_eq!(record.refusal.port, Some(h.dense(2)));
        assert_eq!(h.dp.conntrack().len(), 2);
    }
}

#[test]
fn the_rule_that_denies_is_named_and_the_groups_are_asked_as_well() {
    for v6 in [false, true] {
        let deny = both(|n, v6| to_port(n, Action::Deny, v6, 6, 80), 6100);
        let rest = both(|n, v6| any(n, Action::Allow, v6), 6200);
        let mut conf = walled(&wall([deny, rest.clone()].concat(), rest));
        conf.web(6, 80).port(3, &[GROUP]).walled(3, WALL);
        let mut h = Host::new(&conf);
        assert_eq!(h.places(1, &syn(v6, (1, 7), (2, 81))), [At::Port(2)]);
        assert_eq!(h.places(1, &syn(v6, (1, 7), (2, 80))), []);
        let records: Vec<_> = h.dp.drops().iter().map(|r| r.refusal.rule).collect();
        assert_eq!(records, [Some(id(6100 + u128::from(v6)))]);
        // The group lets 80 in, the firewall all else: nothing is let in by both.
        assert_eq!(h.places(1, &syn(v6, (1, 7), (3, 81))), []);
        assert_eq!(h.dropped(DropReason::SecurityGroupIngress), 1);
        assert_eq!(h.places(1, &syn(v6, (1, 7), (3, 80))), []);
        assert_eq!(h.dropped(DropReason::FirewallDenied), 2);
    }
}

#[test]
fn addresses_are_got_and_found_whatever_a_firewall_says() {
    let mut h = Host::new(&walled(&wall(vec![], vec![])));
    let (IpAddr::V4(one), IpAddr::V4(two)) = (ip(1, false), ip(2, false)) else {
        unreachable!("ipv4 was asked for")
    };
    let ask = FrameBuilder::arp(1, (mac(2), two), (Mac::ZERO, one));
    let got = h.enter(h.origin(2), &[ask]);
    assert_eq!(got.len(), 1, "it is answered");
    let (IpAddr::V6(one), IpAddr::V6(two)) = (ip(1, true), ip(2, true)) else {
        unreachable!("ipv6 was asked for")
    };
    let asked = FrameBuilder::neighbor(135, (mac(2), two), (mac(1), one), one);
    let got = h.enter(h.origin(2), &[asked]);
    assert_eq!(got.len(), 1, "so is this");
    let dhcp = FrameBuilder::udp(false, 68, 67)
        .macs(mac(2), Mac::BROADCAST)
        .addrs(
            "0.0.0.0".parse().unwrap(),
            "255.255.255.255".parse().unwrap(),
        );
    h.from(2, &dhcp);
    assert_eq!(h.dropped(DropReason::FirewallDenied), 0);
}

/// What may happen to a firewall that let a connection begin.
fn changes() -> Vec<(&'static str, FirewallGroup)> {
    let allow = both(|n, v6| to_port(n, Action::Allow, v6, 6, 80), 6100);
    let deny = both(|n, v6| any(n, Action::Deny, v6), 6300);
    let down = FirewallGroup {
        admin_up: false,
        ..web_only()
    };
    vec![
        ("its rule is gone", wall(vec![], vec![])),
        ("another is before it", wall([deny, allow].concat(), vec![])),
        ("the group is down", down),
    ]
}

#[test]
fn a_change_ends_connections_with_their_next_packet_of_either_side() {
    for (what, changed) in changes() {
        for (v6, reply) in [(false, false), (false, true), (true, false), (true, true)] {
            let mut h = Host::new(&walled(&web_only()));
            let (a, b) = ((1, 40000), (2, 80));
            h.places(1, &syn(v6, a, b));
            h.places(2, &syn_ack(v6, b, a));
            assert_eq!(h.places(1, &ack(v6, a, b)), [At::Port(2)]);
            // Another change first: judged again, and still allowed.
            let mut other = web_only();
            other.egress.rules = both(|n, v6| any(n, Action::Allow, v6), 6400);
            h.apply(&walled(&other));
            assert_eq!(h.places(1, &ack(v6, a, b)), [At::Port(2)]);
            h.apply(&walled(&changed));
            let got = if reply {
                let back = between(FrameBuilder::tcp(v6, 80, 40000), v6, 2, 1).seq(501, 101);
                h.places(2, &back)
            } else {
                h.places(1, &ack(v6, a, b))
            };
            assert_eq!(got, [], "{what}");
            assert_eq!(h.dropped(DropReason::FirewallDenied), 1, "{what}");
            assert!(h.dp.conntrack().is_empty(), "{what}");
        }
    }
}

#[test]
fn a_port_that_leaves_its_group_is_free_and_one_whose_group_is_missing_is_shut() {
    let mut conf = walled(&wall(vec![], vec![]));
    let mut h = Host::new(&conf);
    let ping = between(FrameBuilder::echo(false, 7), false, 1, 2);
    assert_eq!(h.places(1, &ping), []);
    let without = {
        let mut conf = conf.clone();
        conf.port_with(2, &[], |p| p.port_security = false);
        conf
    };
    h.apply(&without);
    assert_eq!(h.places(1, &ping), [At::Port(2)]);
    let key = hostconfig::SectionKey::Firewall(id(WALL));
    conf.0.sections.remove(&key);
    h.apply(&conf);
    assert_eq!(h.places(1, &ping), [], "it is shut until it is told of");
    let all = both(|n, v6| any(n, Action::Allow, v6), 6100);
    conf.put(Section::Firewall(wall(all, vec![])));
    h.apply(&conf);
    assert_eq!(h.places(1, &ping), [At::Port(2)]);
    assert_eq!(h.dropped(DropReason::FirewallDenied), 2);
}

/// A reset: who sends it to whom, its numbers and flags.
fn reset(frame: &[u8]) -> (String, u32, u32, u16) {
    let (headers, key) = Headers::parse(frame).unwrap();
    let segment = TcpSegment::read(frame, &headers).unwrap();
    let tuple = key.five_tuple().unwrap().to_string();
    (tuple, segment.seq, segment.ack, segment.flags)
}

fn rejecting() -> FirewallGroup {
    let all = both(|n, v6| any(n, Action::Reject, v6), 6100);
    wall(all.clone(), all)
}

#[test]
fn whoever_is_rejected_hears_of_it_by_a_reset_or_an_error() {
    for v6 in [false, true] {
        let mut h = Host::new(&walled(&rejecting()));
        let (kind, code) = if v6 { (1, 1) } else { (3, 13) };
        let name = |n: u16, port: u16| std::net::SocketAddr::new(ip(n, v6), port);
        // The sender is here, what is rejected is here or leaves.
        for (from, to) in [(1, 2), (2, 1), (2, 9)] {
            let got = h.from(from, &syn(v6, (from, 7), (to, 80)));
            let [(At::Port(back), frame)] = got.as_slice() else {
                panic!("one reset: {got:?}");
            };
            assert_eq!(*back, from);
            let tuple = format!("tcp {} > {}", name(to, 80), name(from, 7));
            let seq = Headers::parse(&syn(v6, (from, 7), (to, 80)).build());
            let sent = syn(v6, (from, 7), (to, 80)).build();
            let sent = TcpSegment::read(&sent, &seq.unwrap().0).unwrap();
            let flags = u16::from(tcp::RST | tcp::ACK);
            assert_eq!(reset(frame), (tuple, 0, sent.seq.wrapping_add(1), flags));
            let (_, key) = Headers::parse(frame).unwrap();
            assert_eq!((key.src_mac(), key.dst_mac()), (mac(to), mac(from)));
            let ask = between(FrameBuilder::udp(v6, 4000, 53), v6, from, to);
            let got = h.from(from, &ask);
            let [(At::Port(back), error)] = got.as_slice() else {
                panic!("one error: {got:?}");
            };
            assert_eq!(*back, from);
            let quoted = format!("udp {} > {}", name(from, 4000), name(to, 53));
            assert_eq!(told(error), (kind, code, ip(to, v6).to_string(), quoted));
        }
        // In the middle of what this switch never knew: its own numbers.
        let middle = between(FrameBuilder::tcp(v6, 7, 80).flags(tcp::ACK), v6, 1, 2).seq(5, 77);
        let (_, seq, _, flags) = reset(&h.from(1, &middle)[0].1);
        assert_eq!((seq, flags), (77, u16::from(tcp::RST)));
        // Through the tunnel, to a sender elsewhere.
        let got = h.enter(h.tunnel(), &[syn(v6, (9, 7), (2, 80)).build()]);
        assert_eq!(got[0].0, At::Vtep(REMOTE.into()));
        assert_eq!(
            reset(&got[0].1).0,
            format!("tcp {} > {}", name(2, 80), name(9, 7))
        );
        let ask = between(FrameBuilder::udp(v6, 4000, 53), v6, 9, 2);
        let got = h.enter(h.tunnel(), &[ask.build()]);
        assert_eq!(got[0].0, At::Vtep(REMOTE.into()));
        let quoted = format!("udp {} > {}", name(9, 4000), name(2, 53));
        let error = (kind, code, ip(2, v6).to_string(), quoted);
        assert_eq!(told(&got[0].1), error);
        let originated = h.dp.ledger().originated;
        assert_eq!(originated[Originated::TcpReset.index()], 5);
        assert_eq!(originated[Originated::Icmp.index()], 4);
        assert_eq!(h.dropped(DropReason::FirewallRejected), 9);
        assert!(h.dp.conntrack().is_empty());
    }
}

#[test]
fn nobody_hears_of_a_reset_an_error_or_too_often() {
    let mut h = Host::new(&walled(&rejecting()));
    let rst = between(FrameBuilder::tcp(false, 7, 80).flags(tcp::RST), false, 1, 2);
    assert_eq!(h.places(1, &rst), []);
    let error = FrameBuilder::icmp_error(&syn(false, (2, 7), (1, 80)).build());
    assert_eq!(h.enter(h.origin(1), &[error]), []);
    assert_eq!(h.dropped(DropReason::FirewallRejected), 2);
    let mut heard = 0;
    for _ in 0..25 {
        heard += h.from(1, &syn(false, (1, 7), (2, 80))).len();
    }
    assert_eq!(heard, 10);
    h.pass(Duration::from_secs(1));
    assert_eq!(h.from(1, &syn(false, (1, 7), (2, 80))).len(), 1);
    assert_eq!(h.dropped(DropReason::FirewallRejected), 28);
}

/// Workload 1 on network 0 at host 0, workload 2 on network 1 at this host; router 1 between them.
fn joined(groups: &[u128], host: usize) -> Plan {
    let mut plan = Plan::new(groups);
    plan.workloads[1] = (1, 2, host, groups.to_vec());
    plan
}

fn forth(frame: FrameBuilder, v6: bool) -> FrameBuilder {
    by_router(frame, v6, (0, 1), (1, 2))
}

fn answer(frame: FrameBuilder, v6: bool) -> FrameBuilder {
    by_router(frame, v6, (1, 2), (0, 1))
}

fn shake(s: &mut Several, v6: bool, port: u16) {
    let there = |flags| FrameBuilder::tcp(v6, 4000, port).flags(flags);
    let here = |flags| FrameBuilder::tcp(v6, port, 4000).flags(flags);
    s.one(1, &forth(there(tcp::SYN).seq(100, 0), v6), 2);
    s.one(2, &answer(here(tcp::SYN | tcp::ACK).seq(500, 101), v6), 1);
    s.one(1, &forth(there(tcp::ACK).seq(101, 501), v6), 2);
}

#[test]
fn a_routers_firewall_decides_what_is_routed_and_answers_pass_wherever_they_are_routed() {
    // Ingress where it leaves the router, egress where it comes to it.
    for (network, towards) in [(1, true), (0, false)] {
        for (groups, host) in [(&[][..], 0), (&[], 1), (&[GROUP], 0), (&[GROUP], 1)] {
            for v6 in [false, true] {
                let case = format!("{network}, {groups:?}, server at {host}, v6 {v6}");
                let allow = both(|n, v6| to_port(n, Action::Allow, v6, 6, 80), 6100);
                let (ingress, egress) = if towards {
                    (allow, vec![])
                } else {
                    (vec![], allow)
                };
                let mut plan = joined(groups, host);
                plan.firewalls = vec![wall(ingress, egress)];
                plan.fenced = vec![(network, WALL)];
                let mut s = Several::new(plan);
                shake(&mut s, v6, 80);
                assert_eq!(s.dropped(DropReason::FirewallDenied), 0, "{case}");
                // Not by this rule, and not the other way.
                let syn = |a, b| FrameBuilder::tcp(v6, a, b).flags(tcp::SYN);
                assert_eq!(s.from(1, &forth(syn(4001, 81), v6)), [], "{case}");
                assert_eq!(s.hosts[0].dropped(DropReason::FirewallDenied), 1);
                assert_eq!(s.from(2, &answer(syn(4001, 80), v6)), [], "{case}");
                assert_eq!(s.dropped(DropReason::FirewallDenied), 2, "{case}");
                // What is not routed is not asked about.
                let ping = by_router(FrameBuilder::echo(v6, 7), v6, (0, 1), (0, 254));
                assert_eq!(s.from(1, &ping).len(), 1, "{case}");
            }
        }
    }
}

#[test]
fn a_change_of_a_routers_firewall_ends_what_it_let_begin_on_both_hosts() {
    for (groups, host) in [(&[][..], 0), (&[], 1), (&[GROUP], 0), (&[GROUP], 1)] {
        for (v6, reply) in [(false, false), (false, true), (true, false), (true, true)] {
            let case = format!("{groups:?}, server at {host}, v6 {v6}, reply {reply}");
            let mut plan = joined(groups, host);
            plan.firewalls = vec![web_only()];
            plan.fenced = vec![(1, WALL)];
            let mut s = Several::new(plan);
            shake(&mut s, v6, 80);
            s.change(|plan| plan.firewalls = vec![wall(vec![], vec![])]);
            let (from, frame) = if reply {
                let back = FrameBuilder::tcp(v6, 80, 4000)
                    .flags(tcp::ACK)
                    .seq(501, 101);
                (2, answer(back, v6))
            } else {
                let on = FrameBuilder::tcp(v6, 4000, 80)
                    .flags(tcp::ACK)
                    .seq(101, 501);
                (1, forth(on, v6))
            };
            assert_eq!(s.from(from, &frame), [], "{case}");
            assert_eq!(s.dropped(DropReason::FirewallDenied), 1, "{case}");
            let at_host = if reply { host } else { 0 };
            assert!(s.hosts[at_host].dp.conntrack().is_empty(), "{case}");
            // Without it they begin anew.
            s.change(|plan| plan.fenced.clear());
            let syn = FrameBuilder::tcp(v6, 4000, 80).flags(tcp::SYN);
            s.one(1, &forth(syn, v6), 2);
        }
    }
}

#[test]
fn what_leaves_by_a_gateway_and_what_comes_by_a_floating_ip_passes_the_firewall_once_each_way() {
    let public = at(OUT, 100, false);
    for host in [0, 1] {
        let mut plan = Plan::new(&[GROUP]);
        plan.place(1, host);
        let out = both(|n, v6| to_port(n, Action::Allow, v6, 17, 53), 6100);
        let web = both(|n, v6| to_port(n, Action::Allow, v6, 6, 80), 6200);
        plan.firewalls = vec![wall(web, out)];
        plan.fenced = vec![(0, WALL)];
        let mut s = Several::new(plan);
        let ask = outward(FrameBuilder::udp(false, 5000, 53), false, 1);
        let port = shows(&s.one(1, &ask, NEXT)).2;
        let back = FrameBuilder::udp(false, 53, port);
        s.one(NEXT, &inward(back, false, 1, at(OUT, GATE, false)), 1);
        let other = outward(FrameBuilder::udp(false, 5000, 54), false, 1);
        assert_eq!(s.from(1, &other), []);
        assert_eq!(s.dropped(DropReason::FirewallDenied), 1);
        s.change(|plan| {
            let floating = floating(100, Some(1), &[], Some(host));
            plan.floating = vec![floating];
        });
        let come = |frame: FrameBuilder| {
            let frame = frame.macs(mac(NEXT), shown(100));
            frame.addrs(world(false), public)
        };
        let syn = |port| {
            FrameBuilder::tcp(false, 6000, port)
                .flags(tcp::SYN)
                .seq(9, 0)
        };
        s.one(NEXT, &come(syn(80)), 1);
        let back = FrameBuilder::tcp(false, 80, 6000);
        let back = back.flags(tcp::SYN | tcp::ACK).seq(500, 10);
        let got = s.one(1, &outward(back, false, 1), NEXT);
        assert_eq!(shows(&got).0, public);
        assert_eq!(s.from(NEXT, &come(syn(81))), []);
        assert_eq!(s.dropped(DropReason::FirewallDenied), 2);
    }
}

#[test]
fn a_router_says_what_its_firewall_rejects_and_a_workloads_answer_finds_back_past_routers() {
    for v6 in [false, true] {
        let (kind, code) = if v6 { (1, 1) } else { (3, 13) };
        let syn = || FrameBuilder::tcp(v6, 4000, 80).flags(tcp::SYN);
        let ask = || FrameBuilder::udp(v6, 4000, 53);
        let name = |k, n, port| std::net::SocketAddr::new(at(k, n, v6), port);
        for host in [0, 1] {
            // At the router, and at the server's own port.
            for routed in [true, false] {
                let mut plan = joined(&[], host);
                plan.firewalls = vec![rejecting()];
                if routed {
                    plan.fenced = vec![(1, WALL)];
                } else {
                    plan.walled = vec![(2, WALL)];
                }
                let mut s = Several::new(plan);
                let got = s.one(1, &forth(syn(), v6), 1);
                let tuple = format!("tcp {} > {}", name(1, 2, 80), name(0, 1, 4000));
                assert_eq!(reset(&got).0, tuple);
                let (_, key) = Headers::parse(&got).unwrap();
                assert_eq!((key.src_mac(), key.dst_mac()), (gate(1, 0), mac(1)));
                let got = s.one(1, &forth(ask(), v6), 1);
                let from = if routed { at(0, 254, v6) } else { at(1, 2, v6) };
                let quoted = format!("udp {} > {}", name(0, 1, 4000), name(1, 2, 53));
                let (k, c, by, what) = told(&got);
                assert_eq!((k, c, by), (kind, code, from.to_string()));
                // Past a router it quotes what came there.
                assert_eq!(what, quoted);
                assert_eq!(s.dropped(DropReason::FirewallRejected), 2);
            }
        }
    }
}

#[test]
fn explain_names_group_policy_and_rule() {
    let allow = both(|n, v6| to_port(n, Action::Allow, v6, 6, 80), 6100);
    let reject = both(|n, v6| any(n, Action::Reject, v6), 6200);
    let group = wall([allow, reject].concat(), vec![]);
    let tell = |walled: bool, n: u16, packet: &str| {
        let mut plan = joined(&[], 0);
        plan.firewalls = vec![group.clone()];
        plan.fenced = vec![(1, WALL)];
        plan.walled = vec![(1, WALL)].into_iter().filter(|_| walled).collect();
        let s = Several::new(plan);
        let h = &s.hosts[0];
        let entrance = Entrance::Port(format!("p{n}"));
        let packet = packet.parse().unwrap();
        let told = super::super::explain::explain(&h.tables, &entrance, &packet, h.now);
        told.unwrap().to_string()
    };
    let uuid = uuid::Uuid::from_u128;
    let (group, router) = (format!("group fg ({})", uuid(WALL)), uuid(9001));
    for (walled, from, packet, lines) in [
        (
            true,
            1,
            "tcp 10.0.0.1:7 > 10.0.1.2:80",
            vec![
                format!("egress: no rule of policy out, {group}"),
                "dropped: firewall_denied (firewall), port p1".to_owned(),
            ],
        ),
        (
            false,
            2,
            "tcp 10.0.1.2:7 > 10.0.0.1:80",
            vec![format!(
                "router r1 ({router}), egress: no rule of policy out, {group}"
            )],
        ),
        (
            false,
            1,
            "tcp 10.0.0.1:7 > 10.0.1.2:80",
            vec![format!(
                "router r1 ({router}), ingress rule {} of policy in, {group}: allow: new -> commit",
                uuid(6100)
            )],
        ),
        (
            false,
            1,
            "tcp 10.0.0.1:7 > 10.0.1.2:81",
            vec![
                format!("rule {} of policy in, {group}: reject", uuid(6200)),
                "its sender is told, in the name of 10.0.1.2: a tcp reset".to_owned(),
                format!("dropped: firewall_rejected (firewall), rule {}", uuid(6200)),
            ],
        ),
        (
            false,
            1,
            "udp 10.0.0.1:7 > 10.0.1.2:81",
            vec!["its sender is told, in the name of 10.0.0.254: communication is".to_owned()],
        ),
    ] {
        let told = tell(walled, from, packet);
        for line in lines {
            assert!(told.contains(&line), "{line}\nis not in\n{told}");
        }
    }
}
