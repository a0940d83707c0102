//! Do connections live as long as they are allowed, and no longer?

use std::time::Duration;

use hostconfig::group::{Direction, Family, L4Match};
use net::{
    DropReason, PortRange,
    testkit::{FrameBuilder, mac, tcp},
};

use super::harness::*;

fn web() -> Conf {
    let mut conf = Conf::new();
    conf.web(6, 80).port(1, &[GROUP]).port(2, &[GROUP]).far(9);
    conf
}

#[test]
fn a_connection_is_begun_by_rule_and_answered_by_state() {
    for v6 in [false, true] {
        let mut h = Host::new(&web());
        let (a, b) = ((1, 40000), (2, 80));
        // The answer before the question belongs to nothing.
        assert_eq!(h.places(2, &syn_ack(v6, b, a)), []);
        assert_eq!(h.places(1, &syn(v6, a, b)), [At::Port(2)]);
        assert_eq!(h.places(2, &syn_ack(v6, b, a)), [At::Port(1)]);
        assert_eq!(h.places(1, &ack(v6, a, b)), [At::Port(2)]);
        assert_eq!(h.dp.conntrack().len(), 1, "one record for two local ports");
        // Established: neither walks nor megaflows.
        let before = h.dp.counters().lookups;
        assert_eq!(h.places(1, &ack(v6, a, b)), [At::Port(2)]);
        let after = h.dp.counters().lookups;
        assert_eq!(
            (after.upcall, after.exact),
            (before.upcall, before.exact + 1)
        );
        // No rule: refused, by name.
        assert_eq!(h.places(1, &syn(v6, a, (2, 81))), []);
        assert_eq!(h.dropped(DropReason::SecurityGroupIngress), 2);
    }
}

#[test]
fn both_ends_of_a_tunnel_track_their_own_port() {
    for v6 in [false, true] {
        let mut h = Host::new(&web());
        // Out, and the answer back in.
        assert_eq!(
            h.places(1, &syn(v6, (1, 1000), (9, 443))),
            [At::Vtep(REMOTE.into())]
        );
        assert_eq!(
            h.tunnelled(&syn_ack(v6, (9, 443), (1, 1000))),
            [At::Port(1)]
        );
        // In by rule, and the answer back out.
        assert_eq!(h.tunnelled(&syn(v6, (9, 5000), (1, 80))), [At::Port(1)]);
        assert_eq!(
            h.places(1, &syn_ack(v6, (1, 80), (9, 5000))),
            [At::Vtep(REMOTE.into())]
        );
        assert_eq!(h.tunnelled(&ack(v6, (9, 5000), (1, 80))), [At::Port(1)]);
        // In without a rule.
        assert_eq!(h.tunnelled(&syn(v6, (9, 5000), (1, 22))), []);
        assert_eq!(h.dropped(DropReason::SecurityGroupIngress), 1);
        assert_eq!(h.dp.conntrack().len(), 2);
    }
}

#[test]
fn one_batch_may_hold_a_whole_handshake() {
    let mut h = Host::new(&web());
    let frames: Vec<_> = [
        syn(false, (1, 7), (9, 80)),
        ack(false, (1, 7), (9, 80)),
        syn(false, (1, 8), (9, 80)),
    ]
    .iter()
    .map(FrameBuilder::build)
    .collect();
    // The second belongs to the record that the first makes: the machine says what it is.
    let got = h.enter(h.origin(1), &frames);
    assert!(got.len() >= 2);
    assert_eq!(h.dp.conntrack().len(), 2);
}

#[test]
fn pings_are_tracked_by_their_identifier() {
    for v6 in [false, true] {
        let mut conf = web();
        let family = if v6 { Family::V6 } else { Family::V4 };
        let icmp = rule(
            Direction::Ingress,
            family,
            Some(if v6 { 58 } else { 1 }),
            L4Match::Any,
        );
        conf.group(GROUP + 1, true, vec![icmp]);
        conf.port(3, &[GROUP, GROUP + 1]);
        let mut h = Host::new(&conf);
        let echo = |id| between(FrameBuilder::echo(v6, id), v6, 1, 3);
        let reply = |id| between(FrameBuilder::echo_reply(v6, id), v6, 3, 1);
        assert_eq!(h.places(3, &reply(7)), []);
        assert_eq!(h.places(1, &echo(7)), [At::Port(3)]);
        assert_eq!(h.places(3, &reply(7)), [At::Port(1)]);
        assert_eq!(h.places(3, &reply(8)), []);
        // No rule for pings at 2.
        assert_eq!(
            h.places(1, &between(FrameBuilder::echo(v6, 7), v6, 1, 2)),
            []
        );
    }
}

#[test]
fn a_revoked_rule_ends_the_connection_with_its_next_packet_of_either_side() {
    for reply in [false, true] {
        let mut conf = web();
        let mut h = Host::new(&conf);
        let (a, b) = ((1, 40000), (2, 80));
        h.places(1, &syn(false, a, b));
        h.places(2, &syn_ack(false, b, a));
        assert_eq!(h.places(1, &ack(false, a, b)), [At::Port(2)]);
        // Another change first: judged again, and still allowed.
        conf.web(6, 80)
            .group(GROUP + 5, true, vec![])
            .port(2, &[GROUP, GROUP + 5]);
        h.apply(&conf);
        assert_eq!(h.places(1, &ack(false, a, b)), [At::Port(2)]);
        conf.web(6, 443);
        h.apply(&conf);
        let got = if reply {
            let back = between(FrameBuilder::tcp(false, 80, 40000), false, 2, 1).seq(501, 101);
            h.places(2, &back)
        } else {
            h.places(1, &ack(false, a, b))
        };
        assert_eq!(got, []);
        assert_eq!(h.dropped(DropReason::SecurityGroupIngress), 1);
        assert!(h.dp.conntrack().is_empty());
    }
}

#[test]
fn members_of_a_remote_group_follow_it() {
    let mut conf = web();
    let mut r = rule(Direction::Ingress, Family::V4, Some(17), L4Match::Any);
    r.remote = hostconfig::group::Remote::Set(id(3000));
    conf.set(3000, &["10.0.0.1/32"])
        .group(GROUP + 1, true, vec![r])
        .port(3, &[GROUP + 1]);
    let mut h = Host::new(&conf);
    let udp = |from| between(FrameBuilder::udp(false, 99, 53), false, from, 3);
    assert_eq!(h.places(1, &udp(1)), [At::Port(3)]);
    assert_eq!(h.places(2, &udp(2)), []);
    conf.set(3000, &["10.0.0.2/32"]);
    h.apply(&conf);
    assert_eq!(h.places(1, &udp(1)), []);
    assert_eq!(h.places(2, &udp(2)), [At::Port(3)]);
}

#[test]
fn stateless_groups_keep_nothing_and_ask_rules_both_ways() {
    let mut conf = Conf::new();
    let any = |d| rule(d, Family::V4, Some(17), L4Match::Any);
    let to_53 = rule(
        Direction::Ingress,
        Family::V4,
        Some(17),
        L4Match::Ports(PortRange::one(53)),
    );
    conf.group(GROUP, false, vec![any(Direction::Egress), to_53])
        .port(1, &[GROUP])
        .port(2, &[GROUP]);
    let mut h = Host::new(&conf);
    let ask = between(FrameBuilder::udp(false, 1000, 53), false, 1, 2);
    let answer = between(FrameBuilder::udp(false, 53, 1000), false, 2, 1);
    assert_eq!(h.places(1, &ask), [At::Port(2)]);
    assert_eq!(h.places(2, &answer), [], "no rule lets the answer in");
    assert!(h.dp.conntrack().is_empty());
    // A stateful sender and a stateless receiver: the answer is let in by the sender's state.
    conf.web(6, 80).group(
        GROUP + 1,
        false,
        vec![any(Direction::Egress), any(Direction::Ingress)],
    );
    conf.port(1, &[GROUP]).port(2, &[GROUP + 1]);
    h.apply(&conf);
    assert_eq!(h.places(1, &ask), [At::Port(2)]);
    assert_eq!(h.places(2, &answer), [At::Port(1)]);
}

#[test]
fn icmp_errors_come_back_to_who_caused_them() {
    for v6 in [false, true] {
        let mut h = Host::new(&web());
        let ask = between(FrameBuilder::udp(v6, 1000, 53), v6, 1, 9);
        assert_eq!(h.places(1, &ask), [At::Vtep(REMOTE.into())]);
        let error = FrameBuilder::icmp_error(&ask.build());
        let got = h.enter(h.tunnel(), &[error]);
        assert_eq!(got.len(), 1);
        assert_eq!(got[0].0, At::Port(1));
        // About a packet that was never sent.
        let other = between(FrameBuilder::udp(v6, 1001, 53), v6, 1, 9);
        assert_eq!(
            h.enter(h.tunnel(), &[FrameBuilder::icmp_error(&other.build())]),
            []
        );
    }
}

#[test]
fn fragments_follow_their_first() {
    for v6 in [false, true] {
        let mut conf = web();
        conf.web(17, 53);
        let mut h = Host::new(&conf);
        let udp = between(FrameBuilder::udp(v6, 1000, 53), v6, 1, 2).payload(&[1; 64]);
        // An early one waits, and goes behind its first.
        assert_eq!(h.places(1, &udp.clone().fragment(5, 9, true)), []);
        let both = [At::Port(2), At::Port(2)];
        assert_eq!(h.places(1, &udp.clone().fragment(5, 0, true)), both);
        assert_eq!(
            h.places(1, &udp.clone().fragment(5, 17, false)),
            [At::Port(2)]
        );
        assert_eq!(h.dp.conntrack().len(), 1);
        // One that waits in vain is dropped by name; one that waits when the switch ends, too.
        assert_eq!(h.places(1, &udp.clone().fragment(6, 9, false)), []);
        h.tick();
        h.pass(Duration::from_secs(2));
        h.tick();
        assert_eq!(h.dropped(DropReason::FragmentUnmatched), 1);
        assert_eq!(h.places(1, &udp.clone().fragment(7, 9, false)), []);
        h.dp.drain(h.now, &mut h.pool);
        assert_eq!(h.dropped(DropReason::Shutdown), 1);
        h.dp.ledger().balanced().unwrap();
    }
}

#[test]
fn a_port_at_its_limit_loses_its_own_half_open_first() {
    let mut conf = web();
    conf.port_with(1, &[GROUP], |p| p.max_connections = 4);
    let mut h = Host::new(&conf);
    h.places(2, &syn(false, (2, 1), (9, 80)));
    for n in 0..50 {
        h.places(1, &syn(false, (1, 1000 + n), (9, 80)));
    }
    assert_eq!(h.dp.conntrack().len(), 5);
    // UDP that was answered is no longer expendable.
    let mut h = Host::new(&conf);
    for n in 0..4 {
        let udp = between(FrameBuilder::udp(false, 2000 + n, 53), false, 1, 9);
        let back = between(FrameBuilder::udp(false, 53, 2000 + n), false, 9, 1);
        h.places(1, &udp);
        assert_eq!(h.tunnelled(&back), [At::Port(1)]);
    }
    assert_eq!(
        h.places(1, &between(FrameBuilder::udp(false, 3000, 53), false, 1, 9)),
        []
    );
    assert_eq!(h.dropped(DropReason::ConntrackPortFull), 1);
}

#[test]
fn silent_connections_end_and_the_switch_may_sleep() {
    let mut h = Host::new(&web());
    h.places(1, &between(FrameBuilder::udp(false, 1, 53), false, 1, 9));
    assert!(h.tick().1.is_some());
    h.pass(Duration::from_mins(10));
    h.tick();
    assert!(h.dp.conntrack().is_empty());
    assert_eq!(h.tick().1, None);
}

#[test]
fn other_ethernet_addresses_do_not_ride_on_a_record() {
    let mut conf = web();
    conf.port_with(3, &[], |p| p.port_security = false);
    let mut h = Host::new(&conf);
    let (a, b) = ((1, 40000), (2, 80));
    h.places(1, &syn(false, a, b));
    h.places(2, &syn_ack(false, b, a));
    assert_eq!(h.places(1, &ack(false, a, b)), [At::Port(2)]);
    // The same tuple to another MAC address goes to that one, not where the record's program goes.
    let astray = ack(false, a, b).macs(mac(1), mac(3));
    assert_eq!(h.places(1, &astray), [At::Port(3)]);
    assert_eq!(h.places(1, &ack(false, a, b)), [At::Port(2)]);
    // The same tuple with a forged source MAC address is refused.
    assert_eq!(h.places(1, &ack(false, a, b).macs(mac(7), mac(2))), []);
    assert_eq!(h.places(1, &ack(false, a, b)), [At::Port(2)]);
}

#[test]
fn a_reset_ends_and_a_new_syn_begins_again() {
    let mut h = Host::new(&web());
    let (a, b) = ((1, 40000), (2, 80));
    h.places(1, &syn(false, a, b));
    h.places(2, &syn_ack(false, b, a));
    h.places(1, &ack(false, a, b));
    let rst = ack(false, a, b).flags(tcp::RST | tcp::ACK);
    assert_eq!(h.places(1, &rst), [At::Port(2)]);
    h.pass(Duration::from_secs(1));
    assert_eq!(
        h.places(1, &syn(false, a, b).seq(9_000_000, 0)),
        [At::Port(2)]
    );
    assert_eq!(h.dp.conntrack().len(), 1);
}

#[test]
fn a_restarted_switch_finds_its_connections_again() {
    let mut h = Host::new(&web());
    let (a, b) = ((1, 40000), (2, 80));
    h.places(1, &syn(false, a, b));
    h.places(2, &syn_ack(false, b, a));
    h.places(1, &ack(false, a, b));
    let (far, near) = ((9, 5000), (1, 80));
    h.tunnelled(&syn(false, far, near));
    h.restart();
    // The answerer speaks first: the connection is judged again in its original direction, from what the record says.
    let data = between(FrameBuilder::tcp(false, 80, 40000), false, 2, 1).seq(501, 101);
    assert_eq!(h.places(2, &data), [At::Port(1)]);
    assert_eq!(h.places(1, &ack(false, a, b)), [At::Port(2)]);
    assert_eq!(
        h.places(1, &syn_ack(false, near, far)),
        [At::Vtep(REMOTE.into())]
    );
    assert_eq!(h.dp.conntrack().len(), 2);
}

#[test]
fn super_frames_count_their_segments_and_are_measured_by_one() {
    use net::{Batch, Gso, Offload};
    let mut h = Host::new(&web());
    h.places(1, &syn(false, (1, 7), (9, 80)));
    h.tunnelled(&syn_ack(false, (9, 80), (1, 7)));
    let bytes = ack(false, (1, 7), (9, 80)).payload(&[0; 4000]).build();
    for (size, passes) in [(1400, true), (1420, false)] {
        let mut p = h.pool.take_large().unwrap();
        p.fill(&bytes).unwrap();
        p.set_origin(h.origin(1));
        p.set_offload(Offload {
            gso: Gso::Tcp { size, ecn: false },
            ..Offload::default()
        });
        let (mut batch, mut out) = (Batch::new(), super::super::Out::new());
        batch.push(p).unwrap();
        let before = h.dp.ledger().clone();
        let tables = std::sync::Arc::clone(&h.tables);
        h.dp.run(&tables, &mut batch, h.now, &mut h.pool, &mut out);
        let after = h.dp.ledger();
        assert_eq!(after.rx - before.rx, 3);
        assert_eq!(after.tx - before.tx, if passes { 3 } else { 0 });
        assert_eq!(out.tunnelled.len(), usize::from(passes));
        after.balanced().unwrap();
    }
    assert_eq!(h.dropped(DropReason::MtuExceeded), 3);
}

#[test]
fn a_tag_is_not_overlooked_on_a_packet_that_shows_a_connection() {
    for v6 in [false, true] {
        let mut h = Host::new(&web());
        let (a, b) = ((1, 40000), (2, 80));
        h.places(1, &syn(v6, a, b));
        h.places(2, &syn_ack(v6, b, a));
        assert_eq!(h.places(1, &ack(v6, a, b)), [At::Port(2)]);
        assert_eq!(h.places(1, &ack(v6, a, b).vlan(7)), []);
        assert_eq!(h.places(1, &ack(v6, a, b).vlan(0)), []);
        assert_eq!(h.dropped(DropReason::VlanNotAllowed), 2);
        assert_eq!(h.places(1, &ack(v6, a, b)), [At::Port(2)]);
    }
}

#[test]
fn a_restarted_switch_knows_where_a_foreign_ethernet_address_entered() {
    for v6 in [false, true] {
        let mut c = web();
        c.port_with(1, &[], |p| p.port_security = false);
        let mut h = Host::new(&c);
        let open = syn(v6, (1, 40000), (2, 80)).macs(mac(66), mac(2));
        assert_eq!(h.places(1, &open), [At::Port(2)]);
        // Nobody has the address that the client showed; the answer is one all the same, and no group is asked.
        let answer = syn_ack(v6, (2, 80), (1, 40000)).macs(mac(2), mac(66));
        for _ in 0..2 {
            assert_eq!(h.places(2, &answer), []);
            assert_eq!(h.dropped(DropReason::UnknownUnicast), 1);
            assert_eq!(h.dp.conntrack().len(), 1);
            h.restart();
        }
    }
}

#[test]
fn programs_do_not_pile_up_while_rules_come_and_go() {
    let conf = web();
    let mut h = Host::new(&conf);
    let (a, b) = ((1, 40000), (2, 80));
    h.places(1, &syn(false, a, b));
    h.places(2, &syn_ack(false, b, a));
    for n in 0..1000 {
        let mut other = conf.clone();
        if n % 2 == 0 {
            let any = rule(
                Direction::Ingress,
                Family::V4,
                Some(6),
                L4Match::Ports(PortRange::one(n)),
            );
            other.group(GROUP + 1, true, vec![any]);
            other.port(1, &[GROUP, GROUP + 1]);
        }
        h.apply(&other);
        assert_eq!(h.places(1, &ack(false, a, b)), [At::Port(2)]);
        assert_eq!(h.places(2, &ack(false, b, a).seq(501, 101)), [At::Port(1)]);
        h.pass(Duration::from_secs(1));
    }
    let most = h.dp.programs().len();
    assert!(most < 200, "{most} for one connection");
}

#[test]
fn flows_go_on_when_programs_are_numbered_anew() {
    for v6 in [false, true] {
        let mut h = Host::new(&web());
        let (a, b) = ((1, 40000), (2, 80));
        h.places(1, &syn(v6, a, b));
        h.places(2, &syn_ack(v6, b, a));
        assert_eq!(h.places(1, &syn(v6, a, (2, 81))), []);
        for _ in 0..3 {
            h.dp.renew_programs();
            assert_eq!(h.places(1, &ack(v6, a, b)), [At::Port(2)]);
            assert_eq!(h.places(2, &ack(v6, b, a).seq(501, 101)), [At::Port(1)]);
            assert_eq!(h.places(1, &syn(v6, a, (2, 81))), []);
        }
        assert_eq!(h.dp.conntrack().len(), 1);
        assert_eq!(h.dropped(DropReason::SecurityGroupIngress), 4);
    }
}
