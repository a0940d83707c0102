//! Does a NAT translate what it should, and never two connections alike?

use std::{
    cell::RefCell,
    collections::{HashMap, HashSet},
};

use hostconfig::nat::{Forward, NatAddress, Static};
use net::{FlowKey, flow_key::ethertype};
use proptest::prelude::*;

use super::*;
use crate::function::Sources;

fn id(n: u128) -> Id<kind::Port> {
    format!("{n:032x}").parse().unwrap()
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// The network of all addresses.
const ON: &str = "00000000-0000-0000-0000-000000000051";

fn address(addr: &str, port: u128, hides: bool) -> NatAddress {
    NatAddress {
        addr: ip(addr),
        port: id(port),
        network: ON.parse().unwrap(),
        hides,
    }
}

/// Two addresses of IPv4 and one of IPv6 that hide sources, and one with all its ports for a workload.
fn config() -> hostconfig::Nat {
    hostconfig::Nat {
        addresses: vec![
            address("10.0.0.200", 1, true),
            address("10.0.0.201", 2, true),
            address("fd00::200", 3, true),
            address("10.0.0.202", 4, false),
        ],
        sources: vec![],
        ports: PortRange::new(1024, 65_535).unwrap(),
        hosts: 4,
        client_limit: 1000,
        forwards: vec![Forward {
            addr: ip("10.0.0.200"),
            protocol: 6,
            ports: PortRange::new(8080, 8082).unwrap(),
            to: ip("10.0.0.7"),
            to_port: 80,
            to_one: false,
            member: id(7),
        }],
        statics: vec![Static {
            outside: ip("10.0.0.202"),
            inside: ip("10.0.0.8"),
            member: id(8),
        }],
    }
}

fn key(protocol: u8, src: (&str, u16), dst: (&str, u16)) -> FlowKey {
    let mut key = FlowKey {
        ethertype: if ip(src.0).is_ipv4() {
            ethertype::IPV4
        } else {
            ethertype::IPV6
        },
        ip_proto: protocol,
        ip_src: addr_bytes(ip(src.0)),
        ip_dst: addr_bytes(ip(dst.0)),
        l4_src: src.1,
        l4_dst: dst.1,
        ..FlowKey::default()
    };
    match protocol {
        proto::ICMP => (key.l4_src, key.l4_dst, key.icmp_id) = (8, 0, src.1),
        proto::ICMP6 => (key.l4_src, key.l4_dst, key.icmp_id) = (128, 0, src.1),
        proto::TCP | proto::UDP | proto::SCTP => {}
        _ => (key.l4_src, key.l4_dst) = (0, 0),
    }
    key
}

fn tcp(src: (&str, u16), dst: (&str, u16)) -> FlowKey {
    key(proto::TCP, src, dst)
}

fn decide_in(config: &hostconfig::Nat, key: &FlowKey, cx: &Context<'_>) -> (Decision, String) {
    let nat = Nat::new(config).unwrap();
    let mut words = String::new();
    let decision = nat.decide(&mut Probe::new(key), cx, &mut |w| words = w.to_string());
    (decision, words)
}

fn decide(key: &FlowKey) -> (Decision, String) {
    decide_in(&config(), key, &Context::default())
}

fn hidden_as(decision: Decision) -> (IpAddr, u16) {
    let Decision::Snat { to, .. } = decision else {
        panic!("{decision:?}");
    };
    to
}

/// The naive table: what is taken.
#[derive(Debug, Default)]
struct Table {
    taken: RefCell<HashSet<(Id<kind::Port>, FiveTuple)>>,
    held: u32,
    /// Replies that come here: those whose port is a multiple of it.
    here: u16,
}

impl Sources for Table {
    fn is_free(&self, address: Id<kind::Port>, reply: &FiveTuple) -> bool {
        !self.taken.borrow().contains(&(address, *reply))
    }

    fn is_here(&self, reply: &FiveTuple) -> bool {
        self.here == 0 || reply.dst_port.is_multiple_of(self.here)
    }

    fn held(&self) -> u32 {
        self.held
    }
}

#[test]
fn a_source_is_hidden_and_its_port_kept_where_it_is_this_hosts() {
    for (protocol, client, server) in [
        (proto::TCP, "10.0.0.5", "10.0.0.9"),
        (proto::UDP, "fd00::5", "fd00::9"),
        (proto::SCTP, "10.0.0.5", "10.0.0.9"),
        (proto::ICMP, "10.0.0.5", "10.0.0.9"),
        (proto::ICMP6, "fd00::5", "fd00::9"),
    ] {
        let (decision, words) = decide(&key(protocol, (client, 2000), (server, 80)));
        let (addr, port) = hidden_as(decision);
        assert_eq!((addr.is_ipv4(), port), (ip(client).is_ipv4(), 2000));
        assert!(words.ends_with("port kept"), "{words}");
        // 40000 is in the third part: the host of the first gives another.
        let (decision, words) = decide(&key(protocol, (client, 40_000), (server, 80)));
        let (_, port) = hidden_as(decision);
        assert!((1024..1024 + 16_128).contains(&port), "{port}");
        assert!(words.ends_with("port chosen"), "{words}");
    }
}

#[test]
fn a_taken_port_is_given_to_nobody_else_at_the_same_end() {
    let table = Table::default();
    let first = tcp(("10.0.0.5", 2000), ("10.0.0.9", 80));
    let cx = Context {
        sources: &table,
        ..Context::default()
    };
    let (addr, port) = hidden_as(decide_in(&config(), &first, &cx).0);
    let reply = hidden(&first.five_tuple().unwrap(), addr, port).reversed();
    let holder = if addr == ip("10.0.0.200") {
        id(1)
    } else {
        id(2)
    };
    table.taken.borrow_mut().insert((holder, reply));
    // The same address, by the same client: its own port is taken now.
    let (again, other) = hidden_as(decide_in(&config(), &first, &cx).0);
    assert_eq!(again, addr);
    assert_ne!(other, 2000);
    let elsewhere = tcp(("10.0.0.5", 2000), ("10.0.0.9", 443));
    assert_eq!(
        hidden_as(decide_in(&config(), &elsewhere, &cx).0),
        (addr, 2000),
        "to another end it is free"
    );
}

#[test]
fn ports_whose_replies_come_here_are_chosen_first() {
    let table = Table {
        here: 16,
        ..Table::default()
    };
    let cx = Context {
        sources: &table,
        ..Context::default()
    };
    for client in 0..50u16 {
        let (_, port) = hidden_as(
            decide_in(
                &config(),
                &tcp(("10.0.0.5", 50_000 + client), ("10.0.0.9", 80)),
                &cx,
            )
            .0,
        );
        assert_eq!(port % 16, 0);
    }
}

#[test]
fn without_a_free_port_or_a_part_it_ends_and_so_it_does_at_the_clients_limit() {
    let mut few = config();
    few.ports = PortRange::new(1024, 1027).unwrap();
    let table = Table::default();
    let first = tcp(("10.0.0.5", 2000), ("10.0.0.9", 80));
    for addr in [("10.0.0.200", 1), ("10.0.0.201", 2)] {
        let reply = hidden(&first.five_tuple().unwrap(), ip(addr.0), 1024).reversed();
        table.taken.borrow_mut().insert((id(addr.1), reply));
    }
    let dropped = |reason| Decision::Drop { reason, rule: None };
    let cx = Context {
        sources: &table,
        ..Context::default()
    };
    let exhausted = dropped(DropReason::NatExhausted);
    assert_eq!(decide_in(&few, &first, &cx).0, exhausted);
    let second = Context {
        host: Some(1),
        ..cx
    };
    assert_eq!(hidden_as(decide_in(&few, &first, &second).0).1, 1025);
    for host in [Some(4), None] {
        let none = Context { host, ..cx };
        assert_eq!(decide_in(&few, &first, &none).0, exhausted);
    }
    let full = Table {
        held: 1000,
        ..Table::default()
    };
    let cx = Context {
        sources: &full,
        ..Context::default()
    };
    let limited = dropped(DropReason::NatClientLimit);
    assert_eq!(decide_in(&config(), &first, &cx).0, limited);
}

#[test]
fn who_is_not_on_its_network_keeps_its_source_and_is_forwarded() {
    let on = |network: &str| Context {
        network: Some(network.parse().unwrap()),
        ..Context::default()
    };
    let (here, there) = (on(ON), on("00000000-0000-0000-0000-000000000052"));
    let out = tcp(("10.0.0.5", 4000), ("10.0.0.9", 80));
    let own = tcp(("10.0.0.8", 4000), ("10.0.0.9", 80));
    for key in [out, own] {
        let decided = |cx| decide_in(&config(), &key, cx).0;
        assert!(matches!(decided(&here), Decision::Snat { .. }));
        assert_eq!(decided(&there), Decision::Pass);
    }
    let come = tcp(("10.0.1.5", 4000), ("10.0.0.200", 8080));
    for cx in [here, there] {
        let decided = decide_in(&config(), &come, &cx).0;
        assert!(matches!(decided, Decision::Dnat { snat: None, .. }));
    }
}

#[test]
fn a_protocol_without_ports_has_an_address_once_for_each_end_and_only_on_the_first_host() {
    let gre = key(47, ("10.0.0.5", 0), ("10.0.0.9", 0));
    let (addr, port) = hidden_as(decide(&gre).0);
    assert_eq!(port, 0);
    let table = Table::default();
    for (text, n) in [("10.0.0.200", 1), ("10.0.0.201", 2)] {
        let reply = hidden(&gre.five_tuple().unwrap(), ip(text), 0).reversed();
        table.taken.borrow_mut().insert((id(n), reply));
    }
    let cx = Context {
        sources: &table,
        ..Context::default()
    };
    let exhausted = Decision::Drop {
        reason: DropReason::NatExhausted,
        rule: None,
    };
    assert_eq!(decide_in(&config(), &gre, &cx).0, exhausted);
    let second = Context {
        host: Some(1),
        ..Context::default()
    };
    assert_eq!(decide_in(&config(), &gre, &second).0, exhausted, "{addr}");
}

#[test]
fn what_comes_to_its_addresses_is_forwarded() {
    let forwarded = |dst: (&str, u16)| decide(&tcp(("10.0.0.5", 2000), dst)).0;
    let to = |addr: &str, port: u16, member| Decision::Dnat {
        to: (ip(addr), port),
        member: id(member),
        snat: None,
        port: Some(2000),
    };
    assert_eq!(forwarded(("10.0.0.200", 8080)), to("10.0.0.7", 80, 7));
    assert_eq!(forwarded(("10.0.0.200", 8082)), to("10.0.0.7", 82, 7));
    for dst in [
        ("10.0.0.200", 8083),
        ("10.0.0.200", 8079),
        ("10.0.0.201", 8080),
    ] {
        assert_eq!(forwarded(dst), Decision::Pass, "{dst:?}");
    }
    let udp = key(proto::UDP, ("10.0.0.5", 2000), ("10.0.0.200", 8080));
    assert_eq!(decide(&udp).0, Decision::Pass);
    assert_eq!(forwarded(("10.0.0.202", 22)), to("10.0.0.8", 22, 8));
    let ping = key(proto::ICMP, ("10.0.0.5", 9), ("10.0.0.202", 9));
    let answered = Decision::Dnat {
        to: (ip("10.0.0.8"), 9),
        member: id(8),
        snat: None,
        port: None,
    };
    assert_eq!(decide(&ping).0, answered, "a query's identifier stays");
    let itself = decide(&tcp(("10.0.0.7", 2000), ("10.0.0.200", 8080))).0;
    assert!(
        matches!(itself, Decision::Dnat { snat: Some(a), .. } if a == ip("10.0.0.200")),
        "{itself:?}"
    );
}

#[test]
fn a_client_that_comes_to_one_server_by_two_ports_is_told_apart_by_its_own() {
    let come = |port| tcp(("10.0.0.5", 2000), ("10.0.0.200", port));
    let mut one = config();
    (one.forwards[0].to_one, one.forwards[0].to_port) = (true, 80);
    let reply = |port| FiveTuple::new(6, (ip("10.0.0.7"), 80), (ip("10.0.0.5"), port));
    let table = Table::default();
    let decided = |cx: &Context<'_>| decide_in(&one, &come(8081), cx);
    let cx = Context {
        sources: &table,
        ..Context::default()
    };
    let port = |decision: Decision| {
        let Decision::Dnat { port, .. } = decision else {
            panic!("{decision:?}");
        };
        port
    };
    let (kept, words) = decided(&cx);
    assert_eq!(port(kept), Some(2000));
    assert!(words.contains("source port 2000 is kept"), "{words}");
    table.taken.borrow_mut().insert((id(7), reply(2000)));
    let (other, words) = decided(&cx);
    let other = port(other).unwrap();
    assert!(other != 2000 && other >= 1024);
    assert!(
        words.contains(&format!("source port 2000 becomes {other}")),
        "{words}"
    );
    // Another server's are none of its.
    let elsewhere = Table::default();
    elsewhere.taken.borrow_mut().insert((id(8), reply(2000)));
    let cx_elsewhere = Context {
        sources: &elsewhere,
        ..Context::default()
    };
    assert_eq!(port(decided(&cx_elsewhere).0), Some(2000));
    // It was not the only one after all: anew, and not as before.
    let again = Context { attempt: 1, ..cx };
    assert_ne!(port(decided(&again).0), Some(other));
    // As long as it lives it keeps what it has.
    let binding = Binding {
        dst: (ip("10.0.0.7"), 80),
        src: (ip("10.0.0.5"), other),
    };
    let judged = Context {
        again: true,
        binding: Some(binding),
        ..cx
    };
    assert_eq!(port(decided(&judged).0), Some(other));
    for n in 1024..=u16::MAX {
        table.taken.borrow_mut().insert((id(7), reply(n)));
    }
    let exhausted = Decision::Drop {
        reason: DropReason::NatExhausted,
        rule: None,
    };
    assert_eq!(decided(&cx).0, exhausted);
}

#[test]
fn a_workload_with_an_address_of_its_own_keeps_every_port() {
    for port in [1, 2000, 65_535] {
        let (decision, _) = decide(&tcp(("10.0.0.8", port), ("10.0.0.9", 80)));
        assert_eq!(hidden_as(decision), (ip("10.0.0.202"), port));
    }
    let gre = key(47, ("10.0.0.8", 0), ("10.0.0.9", 0));
    assert_eq!(hidden_as(decide(&gre).0), (ip("10.0.0.202"), 0));
}

#[test]
fn what_is_none_of_its_business_passes() {
    let mut some = config();
    some.sources = vec!["10.0.0.0/29".parse().unwrap()];
    let out = tcp(("10.0.0.50", 2000), ("10.0.0.9", 80));
    let passes = |config: &hostconfig::Nat, key: &FlowKey| {
        decide_in(config, key, &Context::default()).0 == Decision::Pass
    };
    assert!(passes(&some, &out) && !passes(&config(), &out));
    let local = key(proto::UDP, ("fe80::5", 2000), ("fd00::9", 80));
    assert!(passes(&config(), &local));
    let mut error = key(proto::ICMP, ("10.0.0.5", 0), ("10.0.0.9", 0));
    (error.l4_src, error.icmp_id) = (3, 0);
    assert!(passes(&config(), &error));
    let mut four = config();
    four.addresses.retain(|a| a.addr.is_ipv4());
    assert!(passes(
        &four,
        &key(proto::UDP, ("fd00::5", 1), ("fd00::9", 2))
    ));
    let arp = FlowKey {
        ethertype: ethertype::ARP,
        ..FlowKey::default()
    };
    assert!(passes(&config(), &arp));
}

#[test]
fn a_connection_that_is_judged_again_keeps_what_it_has() {
    let first = tcp(("10.0.0.5", 2000), ("10.0.0.9", 80));
    let bound = |src: (&str, u16)| Context {
        again: true,
        binding: Some(Binding {
            dst: (ip("10.0.0.9"), 80),
            src: (ip(src.0), src.1),
        }),
        host: Some(1),
        ..Context::default()
    };
    // A port of another host's part, too: the connection was begun when the parts were others.
    for src in [("10.0.0.200", 60_000), ("10.0.0.201", 1024)] {
        let (decision, words) = decide_in(&config(), &first, &bound(src));
        assert_eq!(hidden_as(decision), (ip(src.0), src.1));
        assert!(words.ends_with("kept"), "{words}");
    }
    let gone = decide_in(&config(), &first, &bound(("10.0.0.250", 2000))).0;
    assert_ne!(hidden_as(gone).0, ip("10.0.0.250"));
    for without in [
        bound(("10.0.0.5", 2000)),
        Context {
            again: true,
            ..Context::default()
        },
    ] {
        assert_eq!(
            decide_in(&config(), &first, &without).0,
            Decision::Pass,
            "it began without"
        );
    }
}

#[test]
fn a_client_stays_at_its_address_and_another_address_moves_few() {
    let clients: Vec<String> = (0..200).map(|n| format!("10.0.1.{n}")).collect();
    let of = |config: &hostconfig::Nat, client: &str, port| {
        hidden_as(
            decide_in(
                config,
                &tcp((client, port), ("10.0.0.9", 80)),
                &Context::default(),
            )
            .0,
        )
        .0
    };
    let mut more = config();
    more.addresses.push(address("10.0.0.203", 5, true));
    let mut moved = 0;
    for client in &clients {
        let there = of(&config(), client, 2000);
        assert!((0..20).all(|n| of(&config(), client, 2000 + n) == there));
        let then = of(&more, client, 2000);
        assert!(then == there || then == ip("10.0.0.203"));
        moved += u32::from(then != there);
    }
    assert!((30..110).contains(&moved), "{moved} of 200");
}

#[test]
fn what_contradicts_itself_is_refused() {
    use NatFault as Fault;
    let fault = |change: &dyn Fn(&mut hostconfig::Nat)| {
        let mut config = config();
        change(&mut config);
        Nat::new(&config).unwrap_err()
    };
    let range = |a, b| PortRange::new(a, b).unwrap();
    let a = ip("10.0.0.200");
    let cases = [
        (fault(&|c| c.ports = range(0, 9)), Fault::Ports(range(0, 9))),
        (fault(&|c| c.hosts = 0), Fault::Hosts(0)),
        (fault(&|c| c.hosts = 1025), Fault::Hosts(1025)),
        (fault(&|c| c.ports = range(1, 3)), Fault::Hosts(4)),
        (fault(&|c| c.client_limit = 0), Fault::ClientLimit(0)),
        (fault(&|c| c.addresses[1].addr = a), Fault::Twice(a)),
        (
            fault(&|c| c.forwards[0].addr = ip("10.0.0.7")),
            Fault::NotOwn(ip("10.0.0.7")),
        ),
        (
            fault(&|c| c.forwards[0].to = ip("fd00::7")),
            Fault::Family(ip("fd00::7")),
        ),
        (
            fault(&|c| c.forwards[0].to = ip("10.0.0.201")),
            Fault::ToItself(ip("10.0.0.201")),
        ),
        (fault(&|c| c.forwards[0].protocol = 1), Fault::Protocol(1)),
        (
            fault(&|c| c.forwards[0].to_port = 65_534),
            Fault::Ports(range(8080, 8082)),
        ),
        (
            fault(&|c| {
                let mut other = c.forwards[0].clone();
                other.ports = range(8000, 8080);
                c.forwards.push(other);
            }),
            Fault::Overlap(a, range(8000, 8080)),
        ),
        (fault(&|c| c.statics[0].outside = a), Fault::Shared(a)),
        (
            fault(&|c| c.forwards[0].addr = ip("10.0.0.202")),
            Fault::Shared(ip("10.0.0.202")),
        ),
    ];
    for (got, wanted) in cases {
        assert_eq!(got, wanted);
    }
}

proptest! {
    /// The naive oracle: a list of what connections show outside. Hosts choose for themselves, and know nothing of each other.
    #[test]
    fn no_two_connections_show_the_same(
        steps in prop::collection::vec(
            (0u16..3, 0u16..6, 0u16..40, 0u16..3, prop_oneof![Just(6u8), Just(17), Just(1)], any::<bool>()), 1..400),
        ports in 30u16..200,
    ) {
        let mut config = config();
        config.ports = PortRange::new(2000, 2000 + ports).unwrap();
        config.hosts = 3;
        config.forwards.clear();
        let nat = Nat::new(&config).unwrap();
        let tables = [(); 3].map(|()| Table::default());
        let mut live: Vec<(usize, FiveTuple, FiveTuple, Id<kind::Port>)> = vec![];
        for (host, client, port, server, protocol, ends) in steps {
            if ends && !live.is_empty() {
                let (at, _, outside, holder) = live.swap_remove(usize::from(port) % live.len());
                tables[at].taken.borrow_mut().remove(&(holder, outside.reversed()));
                continue;
            }
            // Hosts have different clients, but these may have the same ports.
            let client = format!("10.0.{host}.{}", client + 1);
            let server = format!("10.0.9.{server}");
            let first = key(protocol, (&client, 2000 + port), (&server, 80));
            let inside = first.five_tuple().unwrap();
            if live.iter().any(|(_, there, ..)| *there == inside) {
                continue;
            }
            let at = usize::from(host);
            let cx = Context { host: Some(host), sources: &tables[at], ..Context::default() };
            let mut probe = Probe::new(&first);
            match nat.decide(&mut probe, &cx, &mut |_| {}) {
                Decision::Snat { to, address } => {
                    probe.set_src(to.0, to.1);
                    let outside = probe.rewritten_key().five_tuple().unwrap();
                    tables[at].taken.borrow_mut().insert((address, outside.reversed()));
                    live.push((at, inside, outside, address));
                }
                Decision::Drop { reason, .. } => {
                    prop_assert_eq!(reason, DropReason::NatExhausted);
                    // Each address of this host's part is taken for this end.
                    let part = usize::from((ports + 1) / 3);
                    let same = live.iter().filter(|(h, i, ..)| {
                        *h == at && (i.dst, i.proto) == (inside.dst, inside.proto)
                    });
                    prop_assert!(same.count() >= part, "there was room");
                }
                other @ (Decision::Pass
                | Decision::Dnat { .. }
                | Decision::Spend(_)
                | Decision::Copy(_)
                | Decision::Inspect
                | Decision::Queue
                | Decision::HandOver) => {
                    prop_assert!(false, "{:?}", other);
                }
            }
            let mut shown = HashMap::new();
            for (_, inside, outside, _) in &live {
                prop_assert_eq!(shown.insert(*outside, *inside), None, "two show {}", outside);
            }
        }
    }
}
