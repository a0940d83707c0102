//! Do connections through a NAT find their way out and back, at their home and at the other end's?

use hostconfig::{
    Chain, Classifier, Firewall, Function, FunctionKind, Location, Nat,
    chain::{Action, FirewallRule, Side},
    nat::{Forward, NatAddress, Static},
};
use net::{
    DropReason, FlowKey, Headers, Mac, PortRange,
    testkit::{FrameBuilder, mac},
};

use super::harness::*;

/// The addresses: one that hides, one that is a workload's own.
pub(super) const A: u16 = 200;
const OWN: u16 = 201;

pub(super) fn nat(hosts: u16) -> Nat {
    let address = |n: u16, v6, hides| NatAddress {
        addr: ip(n, v6),
        port: id(u128::from(n)),
        network: id(NET),
        hides,
    };
    Nat {
        addresses: [(A, true), (OWN, false)]
            .into_iter()
            .flat_map(|(n, hides)| [false, true].map(|v6| address(n, v6, hides)))
            .collect(),
        sources: vec![],
        ports: PortRange::new(1, 65_535).unwrap(),
        hosts,
        client_limit: 100,
        forwards: [false, true]
            .into_iter()
            .map(|v6| Forward {
                addr: ip(A, v6),
                protocol: 6,
                ports: PortRange::one(8080),
                to: ip(2, v6),
                to_port: 80,
                to_one: false,
                member: id(2),
            })
            .collect(),
        statics: [false, true]
            .into_iter()
            .map(|v6| Static {
                outside: ip(OWN, v6),
                inside: ip(3, v6),
                member: id(3),
            })
            .collect(),
    }
}

/// Everything that this network's ports send passes these functions.
pub(super) fn chain(c: &mut Conf, functions: Vec<FunctionKind>) {
    let functions = functions.into_iter().zip(0u128..);
    c.put(hostconfig::Section::Chain(Chain {
        id: id(8000),
        name: "edge".into(),
        project: id(7),
        path: 1,
        symmetric: true,
        graph: hostconfig::Graph::default(),
        classifiers: vec![Classifier {
            id: id(8090),
            name: "all".into(),
            source: Some(Side::Network(id(NET))),
            destination: None,
            family: None,
            protocol: None,
            source_ports: None,
            destination_ports: None,
            source_prefix: None,
            destination_prefix: None,
        }],
        functions: functions
            .map(|(kind, k)| Function {
                id: id(8001 + k),
                name: format!("f{k}"),
                kind,
            })
            .collect(),
    }));
}

/// Ports 1 to 3 here without groups, 9 elsewhere.
pub(super) fn conf(nat: Nat) -> Conf {
    let mut c = Conf::new();
    c.group(GROUP, false, open());
    c.port(1, &[GROUP]).port(2, &[GROUP]).port(3, &[GROUP]);
    c.far(9);
    c.endpoint(A, Location::Virtual);
    c.endpoint(OWN, Location::Virtual);
    chain(&mut c, vec![FunctionKind::Nat(nat)]);
    c
}

fn open() -> Vec<hostconfig::SecurityGroupRule> {
    use hostconfig::group::{Direction, Family, L4Match};
    [Direction::Egress, Direction::Ingress]
        .into_iter()
        .flat_map(|d| [Family::V4, Family::V6].map(|f| rule(d, f, None, L4Match::Any)))
        .collect()
}

fn key(frame: &[u8]) -> FlowKey {
    Headers::parse(frame).unwrap().1
}

/// Source and destination as `(address, port)`, and the Ethernet addresses.
pub(super) fn ends(frame: &[u8]) -> ((std::net::IpAddr, u16), (std::net::IpAddr, u16), Mac, Mac) {
    let key = key(frame);
    let t = key.five_tuple().unwrap();
    (
        (t.src_addr(), t.src_port),
        (t.dst_addr(), t.dst_port),
        key.src_mac(),
        key.dst_mac(),
    )
}

fn only(got: Vec<(At, Vec<u8>)>) -> (At, Vec<u8>) {
    let [one] = <[_; 1]>::try_from(got).expect("one frame");
    one
}

#[test]
fn a_hidden_source_goes_over_the_tunnel_and_its_answer_comes_back() {
    for v6 in [false, true] {
        let mut h = Host::new(&conf(nat(1)));
        let (at, frame) = only(h.from(1, &syn(v6, (1, 4000), (9, 80))));
        assert_eq!(at, At::Vtep(REMOTE.into()));
        // The Ethernet source stays the client's: behind it is the home.
        let out = ((ip(A, v6), 4000), (ip(9, v6), 80), mac(1), mac(9));
        assert_eq!(ends(&frame), out);
        let back = syn_ack(v6, (9, 80), (A, 4000)).macs(mac(9), mac(1));
        let (at, frame) = only(h.enter(h.tunnel(), &[back.build()]));
        assert_eq!(at, At::Port(1));
        let answer = ((ip(9, v6), 80), (ip(1, v6), 4000), mac(9), mac(1));
        assert_eq!(ends(&frame), answer);
        let before = h.dp.counters().lookups;
        for _ in 0..3 {
            let (_, frame) = only(h.from(1, &ack(v6, (1, 4000), (9, 80))));
            assert_eq!(ends(&frame), out);
        }
        let after = h.dp.counters().lookups;
        assert_eq!(
            (after.upcall, after.exact),
            (before.upcall, before.exact + 3)
        );
        assert_eq!(h.dp.counters().hops[0].packets, 5);
    }
}

#[test]
fn at_the_other_end_the_address_has_its_own_mac_and_answers_find_the_home() {
    for v6 in [false, true] {
        // No chain here: this host only has the server, whose port tracks nothing.
        let mut c = conf(nat(1));
        c.0.sections
            .remove(&hostconfig::SectionKey::Chain(id(8000)));
        let mut h = Host::new(&c);
        let come = syn(v6, (A, 4000), (2, 80)).macs(mac(9), mac(2));
        let (at, frame) = only(h.enter(h.tunnel(), &[come.build()]));
        assert_eq!(at, At::Port(2));
        assert_eq!(ends(&frame).2, mac(A));
        for _ in 0..3 {
            let (at, frame) = only(h.from(2, &syn_ack(v6, (2, 80), (A, 4000))));
            assert_eq!(at, At::Vtep(REMOTE.into()));
            let home = ((ip(2, v6), 80), (ip(A, v6), 4000), mac(2), mac(9));
            assert_eq!(ends(&frame), home);
        }
        assert_eq!(h.dp.counters().lookups.upcall, 2, "later ones are known");
        // What the server refuses goes home too, and so does what it says of what was sent.
        let error = FrameBuilder::icmp_error(&come.macs(mac(A), mac(2)).build());
        let (at, frame) = only(h.enter(h.origin(2), &[error]));
        assert_eq!(at, At::Vtep(REMOTE.into()));
        assert_eq!(key(&frame).dst_mac(), mac(9));
        // Nobody asked for what is not an answer.
        assert_eq!(h.places(2, &syn(v6, (2, 80), (A, 4001))), []);
        assert_eq!(h.dropped(DropReason::NoListener), 1);
    }
}

#[test]
fn clients_of_one_host_with_one_port_have_two_outside() {
    for v6 in [false, true] {
        for (proto, open) in [
            (
                6,
                FrameBuilder::tcp(v6, 4000, 80).flags(net::testkit::tcp::SYN),
            ),
            (17, FrameBuilder::udp(v6, 4000, 80)),
            (132, FrameBuilder::sctp(v6, 4000, 80)),
        ] {
            let mut h = Host::new(&conf(nat(1)));
            let first = ends(&only(h.from(1, &between(open.clone(), v6, 1, 9))).1).0;
            assert_eq!(first, (ip(A, v6), 4000), "protocol {proto}");
            let second = ends(&only(h.from(2, &between(open.clone(), v6, 2, 9))).1).0;
            assert_eq!(second.0, ip(A, v6));
            assert_ne!(second.1, 4000);
            // A later packet goes as the first did.
            let again = ends(&only(h.from(2, &between(open, v6, 2, 9))).1).0;
            assert_eq!(again, second);
        }
    }
}

#[test]
fn pings_are_told_apart_by_identifiers_of_their_own() {
    for v6 in [false, true] {
        let mut h = Host::new(&conf(nat(1)));
        let ping = |from| between(FrameBuilder::echo(v6, 7), v6, from, 9);
        let ids: Vec<u16> = [1, 2]
            .map(|n| {
                let key = key(&only(h.from(n, &ping(n))).1);
                assert_eq!(key.src_addr(), ip(A, v6));
                key.icmp_id
            })
            .to_vec();
        assert_eq!(ids[0], 7);
        assert_ne!(ids[1], 7);
        for (n, id) in [1u16, 2].into_iter().zip(ids) {
            let pong = between(FrameBuilder::echo_reply(v6, id), v6, 9, A).macs(mac(9), mac(n));
            let (at, frame) = only(h.enter(h.tunnel(), &[pong.build()]));
            assert_eq!(at, At::Port(n));
            assert_eq!(key(&frame).icmp_id, 7);
            assert_eq!(key(&frame).dst_addr(), ip(n, v6));
        }
    }
}

#[test]
fn a_server_on_the_same_host_sees_the_address_and_answers_it() {
    for v6 in [false, true] {
        let mut h = Host::new(&conf(nat(1)));
        let (at, frame) = only(h.from(1, &syn(v6, (1, 4000), (2, 80))));
        assert_eq!(at, At::Port(2));
        let seen = ((ip(A, v6), 4000), (ip(2, v6), 80), mac(A), mac(2));
        assert_eq!(ends(&frame), seen);
        let (at, frame) = only(h.from(2, &syn_ack(v6, (2, 80), (A, 4000))));
        assert_eq!(at, At::Port(1));
        let answer = ((ip(2, v6), 80), (ip(1, v6), 4000), mac(2), mac(1));
        assert_eq!(ends(&frame), answer);
    }
}

#[test]
fn errors_are_translated_with_what_they_quote() {
    for v6 in [false, true] {
        let mut h = Host::new(&conf(nat(1)));
        let (_, out) = only(h.from(2, &between(FrameBuilder::udp(v6, 4000, 53), v6, 2, 9)));
        // The far end refuses the port: the client learns of the packet that it sent itself.
        let mut error = FrameBuilder::icmp_error(&out);
        error[..6].copy_from_slice(&mac(2).octets());
        let (at, frame) = only(h.enter(h.tunnel(), &[error]));
        assert_eq!(at, At::Port(2));
        let (headers, key) = Headers::parse(&frame).unwrap();
        assert_eq!(key.dst_addr(), ip(2, v6));
        let quoted = headers.quoted(&frame).unwrap().tuple;
        assert_eq!((quoted.src_addr(), quoted.src_port), (ip(2, v6), 4000));
        // The client refuses an answer: the far end learns of the packet that it sent itself.
        let answer = between(FrameBuilder::udp(v6, 53, 4000), v6, 9, A).macs(mac(9), mac(2));
        let (_, got) = only(h.enter(h.tunnel(), &[answer.build()]));
        let error = FrameBuilder::icmp_error(&got);
        let (at, frame) = only(h.enter(h.origin(2), &[error]));
        assert_eq!(at, At::Vtep(REMOTE.into()));
        let (headers, key) = Headers::parse(&frame).unwrap();
        assert_eq!(key.src_addr(), ip(A, v6));
        let quoted = headers.quoted(&frame).unwrap().tuple;
        assert_eq!((quoted.dst_addr(), quoted.dst_port), (ip(A, v6), 4000));
    }
}

#[test]
fn what_is_forwarded_reaches_its_server_and_a_workloads_own_address_is_both_ways() {
    for v6 in [false, true] {
        let mut h = Host::new(&conf(nat(1)));
        let (at, frame) = only(h.from(1, &syn(v6, (1, 4000), (A, 8080))));
        assert_eq!(at, At::Port(2));
        let seen = ((ip(1, v6), 4000), (ip(2, v6), 80), mac(1), mac(2));
        assert_eq!(ends(&frame), seen);
        let (_, frame) = only(h.from(2, &syn_ack(v6, (2, 80), (1, 4000))));
        let answer = ((ip(A, v6), 8080), (ip(1, v6), 4000), mac(A), mac(1));
        assert_eq!(ends(&frame), answer);
        // The server calls itself by the address.
        let (at, frame) = only(h.from(2, &syn(v6, (2, 4001), (A, 8080))));
        assert_eq!(at, At::Port(2));
        let own = ((ip(A, v6), 4001), (ip(2, v6), 80), mac(A), mac(2));
        assert_eq!(ends(&frame), own);
        // Workload 3 has an address for itself, for pings and protocols without ports too.
        let (at, frame) = only(h.from(1, &between(FrameBuilder::echo(v6, 5), v6, 1, OWN)));
        assert_eq!((at, key(&frame).dst_addr()), (At::Port(3), ip(3, v6)));
        let gre = between(FrameBuilder::other(v6, 47), v6, 3, 9);
        let (_, frame) = only(h.from(3, &gre));
        assert_eq!(key(&frame).src_addr(), ip(OWN, v6));
        let (at, frame) = only(h.from(3, &syn(v6, (3, 22), (9, 80))));
        assert_eq!(at, At::Vtep(REMOTE.into()));
        assert_eq!(ends(&frame).0, (ip(OWN, v6), 22));
        // It begins again where its forerunner is over: with the same port, since it has no other.
        let reset = between(FrameBuilder::tcp(v6, 80, 22), v6, 9, OWN)
            .macs(mac(9), mac(3))
            .flags(net::testkit::tcp::RST | net::testkit::tcp::ACK)
            .seq(0, 101);
        h.enter(h.tunnel(), &[reset.build()]);
        let (_, frame) = only(h.from(3, &syn(v6, (3, 22), (9, 80)).seq(90_000, 0)));
        assert_eq!(ends(&frame).0, (ip(OWN, v6), 22));
    }
}

#[test]
fn a_virtual_address_answers_pings_of_hidden_sources_too() {
    for v6 in [false, true] {
        let mut h = Host::new(&conf(nat(1)));
        let (at, frame) = only(h.from(1, &between(FrameBuilder::echo(v6, 5), v6, 1, A)));
        assert_eq!(at, At::Port(1));
        let key = key(&frame);
        assert_eq!((key.src_addr(), key.dst_addr()), (ip(A, v6), ip(1, v6)));
        // Another virtual address is hidden from no less.
        let mut c = conf(nat(1));
        c.endpoint(77, Location::Virtual);
        let mut h = Host::new(&c);
        let (at, frame) = only(h.from(1, &between(FrameBuilder::echo(v6, 5), v6, 1, 77)));
        assert_eq!((at, ends(&frame).1.0), (At::Port(1), ip(1, v6)));
    }
}

#[test]
fn fragments_go_with_their_packet() {
    for v6 in [false, true] {
        let mut h = Host::new(&conf(nat(1)));
        let whole = between(FrameBuilder::udp(v6, 4000, 53), v6, 1, 9).payload(&[7; 64]);
        let first = whole.clone().fragment(77, 0, true).build();
        let later = whole.fragment(77, 9, false).build();
        let got = h.enter(h.origin(1), &[later, first]);
        assert_eq!(got.len(), 2);
        for (at, frame) in got {
            assert_eq!(at, At::Vtep(REMOTE.into()));
            assert_eq!(key(&frame).src_addr(), ip(A, v6));
        }
    }
}

#[test]
fn without_ports_left_it_ends_by_name_and_what_ends_gives_its_port_back() {
    let mut one = nat(1);
    one.ports = PortRange::one(5000);
    let mut h = Host::new(&conf(one));
    assert_eq!(h.places(1, &syn(false, (1, 4000), (9, 80))).len(), 1);
    assert_eq!(h.places(2, &syn(false, (2, 4000), (9, 80))), []);
    assert_eq!(h.dropped(DropReason::NatExhausted), 1);
    assert_eq!(h.dp.counters().hops[0].drops, 1);
    // To another end it is free.
    assert_eq!(h.places(2, &syn(false, (2, 4000), (9, 81))).len(), 1);
    h.pass(std::time::Duration::from_hours(1));
    h.tick();
    assert!(h.dp.conntrack().is_empty());
    assert_eq!(h.places(2, &syn(false, (2, 4000), (9, 80))).len(), 1);
}

#[test]
fn a_client_has_no_more_than_its_limit() {
    let mut few = nat(1);
    few.client_limit = 3;
    let mut h = Host::new(&conf(few));
    for port in 4000..4005 {
        h.from(1, &syn(false, (1, port), (9, 80)));
    }
    assert_eq!(h.dropped(DropReason::NatClientLimit), 2);
    assert_eq!(h.places(2, &syn(false, (2, 4000), (9, 80))).len(), 1);
}

#[test]
fn a_host_without_a_number_has_no_part_of_the_ports() {
    let mut c = conf(nat(4));
    c.port_with(1, &[GROUP], |p| p.host_number = None);
    c.port_with(2, &[GROUP], |p| p.host_number = Some(3));
    let mut h = Host::new(&c);
    assert_eq!(h.places(1, &syn(false, (1, 4000), (9, 80))), []);
    assert_eq!(h.dropped(DropReason::NatExhausted), 1);
    let (_, frame) = only(h.from(2, &syn(false, (2, 4000), (9, 80))));
    assert!(ends(&frame).0.1 >= 49_150, "the last quarter");
}

#[test]
fn a_connection_keeps_its_source_through_changes_and_ends_with_its_address() {
    let mut c = conf(nat(4));
    let mut h = Host::new(&c);
    let (_, frame) = only(h.from(1, &syn(false, (1, 60_000), (9, 80))));
    let source = ends(&frame).0;
    let back = syn_ack(false, (9, 80), (A, source.1)).macs(mac(9), mac(1));
    only(h.enter(h.tunnel(), &[back.build()]));
    let deny = FunctionKind::Firewall(Firewall {
        rules: vec![FirewallRule {
            id: id(7777),
            action: Action::Deny,
            family: None,
            protocol: None,
            source: Some(net::Prefix::host(ip(7, false))),
            destination: None,
            source_ports: None,
            destination_ports: None,
        }],
        default: Action::Allow,
    });
    let mut other = nat(16);
    other.ports = PortRange::new(source.1, 65_535).unwrap();
    other.addresses.push(NatAddress {
        addr: ip(202, false),
        port: id(202),
        network: id(NET),
        hides: true,
    });
    c.endpoint(202, Location::Virtual);
    chain(&mut c, vec![deny, FunctionKind::Nat(other)]);
    h.apply(&c);
    let (_, frame) = only(h.from(1, &ack(false, (1, 60_000), (9, 80))));
    assert_eq!(ends(&frame).0, source);
    let mut gone = nat(4);
    gone.addresses.retain(|a| !a.hides);
    gone.addresses.push(NatAddress {
        addr: ip(202, false),
        port: id(202),
        network: id(NET),
        hides: true,
    });
    gone.forwards.clear();
    chain(&mut c, vec![FunctionKind::Nat(gone)]);
    h.apply(&c);
    assert_eq!(h.places(1, &ack(false, (1, 60_000), (9, 80))), []);
    assert_eq!(h.dropped(DropReason::NatAddressGone), 1);
    assert!(h.dp.conntrack().is_empty());
    let (_, frame) = only(h.from(1, &syn(false, (1, 60_000), (9, 80))));
    assert_eq!(ends(&frame).0.0, ip(202, false));
}

#[test]
fn a_connection_that_began_before_the_nat_goes_on_without() {
    let mut c = conf(nat(1));
    chain(&mut c, vec![]);
    let mut h = Host::new(&c);
    only(h.from(1, &syn(false, (1, 4000), (9, 80))));
    chain(&mut c, vec![FunctionKind::Nat(nat(1))]);
    h.apply(&c);
    let back = syn_ack(false, (9, 80), (1, 4000)).build();
    only(h.enter(h.tunnel(), &[back]));
    let (_, frame) = only(h.from(1, &ack(false, (1, 4000), (9, 80))));
    assert_eq!(ends(&frame).0, (ip(1, false), 4000));
    let (_, frame) = only(h.from(1, &syn(false, (1, 4001), (9, 80))));
    assert_eq!(ends(&frame).0, (ip(A, false), 4001));
}

#[test]
fn a_restarted_switch_knows_where_a_hidden_source_entered_under_a_foreign_ethernet_address() {
    for v6 in [false, true] {
        let mut c = conf(nat(1));
        c.port_with(1, &[], |p| p.port_security = false);
        let mut h = Host::new(&c);
        let frame = between(FrameBuilder::udp(v6, 4000, 53), v6, 1, 2);
        let (at, _) = only(h.from(1, &frame.clone().macs(mac(66), mac(2))));
        assert_eq!(at, At::Port(2));
        // Nobody has the address that the client showed: so there its answers would go.
        let answer = between(FrameBuilder::udp(v6, 53, 4000), v6, 2, A);
        assert_eq!(h.places(2, &answer), []);
        assert_eq!(h.dropped(DropReason::UnknownUnicast), 1);
        h.restart();
        assert_eq!(h.places(2, &answer), []);
        assert_eq!(h.dropped(DropReason::UnknownUnicast), 1);
        assert_eq!(h.dp.conntrack().len(), 1);
        // It shows its own: answers go there.
        only(h.from(1, &frame));
        h.restart();
        let (at, frame) = only(h.from(2, &answer));
        assert_eq!((at, ends(&frame).1), (At::Port(1), (ip(1, v6), 4000)));
    }
}
