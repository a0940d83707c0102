use std::net::IpAddr;

use net::{FlowKey, flow_key::proto};
use proptest::prelude::*;

use super::*;

/// What a pattern means, word for word.
fn means(p: &Pattern, k: &FlowKey, sets: &[Vec<Prefix>]) -> bool {
    let v4 = k.ethertype == ethertype::IPV4;
    let of_family = p.family.is_none_or(|f| (f == Family::V4) == v4);
    let in_set = |s: u32| {
        let set = sets.get(s as usize);
        set.is_some_and(|s| s.iter().any(|p| p.contains(k.src_addr())))
    };
    matches!(k.ethertype, ethertype::IPV4 | ethertype::IPV6)
        && of_family
        && p.protocol.is_none_or(|n| n == k.ip_proto)
        && p.src.is_none_or(|b| b.contains(k.src_addr()))
        && p.dst.is_none_or(|b| b.contains(k.dst_addr()))
        && p.src_ports.contains(k.l4_src)
        && p.dst_ports.contains(k.l4_dst)
        && p.set.is_none_or(in_set)
}

fn asked(table: &RuleTable, k: &FlowKey, sets: &[AddressSet]) -> (Option<u32>, Probe) {
    let mut probe = Probe::new(k);
    let found = table.first_match(&mut probe, &mut |set, probe| {
        sets.get(set as usize)
            .is_some_and(|s| s.has(probe, End::Source))
    });
    (found, probe)
}

fn table(patterns: &[Pattern]) -> RuleTable {
    RuleTable::new((0u32..).zip(patterns.iter().copied()))
}

fn key(protocol: u8, src: IpAddr, dst: IpAddr, ports: (u16, u16)) -> FlowKey {
    FlowKey {
        ethertype: if src.is_ipv4() {
            ethertype::IPV4
        } else {
            ethertype::IPV6
        },
        ip_proto: protocol,
        ip_src: addr_bytes(src),
        ip_dst: addr_bytes(dst),
        l4_src: ports.0,
        l4_dst: ports.1,
        ..FlowKey::default()
    }
}

/// Few enough to meet, at the bounds of bytes and of everything.
fn any_number() -> impl Strategy<Value = u8> {
    prop_oneof![Just(0), Just(1), Just(127), Just(128), Just(254), Just(255)]
}

fn any_addr() -> impl Strategy<Value = IpAddr> {
    let n = any_number;
    prop_oneof![
        3 => (n(), n(), n()).prop_map(|(a, b, c)| [10, a, b, c].into()),
        1 => [n(), n(), n(), n()].prop_map(IpAddr::from),
        // Not those that an IPv4 address is written as: they stand for it.
        2 => (n(), n(), n()).prop_map(|(a, b, c)| {
            [0xfd, a, 0, 0, 0, 0, 0, b, 0, 0, 0, 0, 0, 0, 0, c].into()
        }),
    ]
}

fn any_prefix() -> impl Strategy<Value = Prefix> {
    (any_addr(), 0u8..=128).prop_map(|(a, len)| {
        Prefix::containing(a, len % if a.is_ipv4() { 33 } else { 129 }).unwrap()
    })
}

fn any_port() -> impl Strategy<Value = u16> {
    prop_oneof![0u16..6, 250u16..260, 65_530u16..=65_535]
}

fn any_ports() -> impl Strategy<Value = PortRange> {
    prop_oneof![
        2 => Just(PortRange::ANY),
        1 => any_port().prop_map(PortRange::one),
        2 => (any_port(), any_port()).prop_map(|(a, b)| PortRange::new(a.min(b), a.max(b)).unwrap()),
    ]
}

fn any_protocol() -> impl Strategy<Value = u8> {
    prop_oneof![
        Just(0u8),
        Just(proto::ICMP),
        Just(proto::TCP),
        Just(proto::UDP),
        Just(255)
    ]
}

fn any_pattern() -> impl Strategy<Value = Pattern> {
    use prop::option::of;
    (
        of(prop_oneof![Just(Family::V4), Just(Family::V6)]),
        of(any_protocol()),
        of(any_prefix()),
        of(any_prefix()),
        any_ports(),
        any_ports(),
        prop::option::weighted(0.2, 0u32..4),
    )
        .prop_map(
            |(family, protocol, src, dst, src_ports, dst_ports, set)| Pattern {
                family,
                protocol,
                src,
                dst,
                src_ports,
                dst_ports,
                set,
            },
        )
}

fn any_key() -> impl Strategy<Value = FlowKey> {
    (
        any_protocol(),
        any_addr(),
        any_addr(),
        any_port(),
        any_port(),
        0u8..20,
    )
        .prop_map(|(protocol, src, dst, sport, dport, odd)| {
            let dst = if src.is_ipv4() == dst.is_ipv4() {
                dst
            } else {
                src
            };
            let mut key = key(protocol, src, dst, (sport, dport));
            if odd == 0 {
                key.ethertype = ethertype::ARP;
            }
            key
        })
}

/// The key with what the mask does not read taken from another.
fn mixed(probe: &Probe, key: &FlowKey, other: &FlowKey) -> FlowKey {
    use zerocopy::IntoBytes as _;
    let mask = probe.mask();
    let mut mixed = mask.apply(key);
    let outside = mask.apply(other);
    let bytes = mixed.as_mut_bytes().iter_mut();
    for ((m, o), x) in bytes.zip(other.as_bytes()).zip(outside.as_bytes()) {
        *m |= o ^ x;
    }
    mixed
}

/// Says the same as reading the patterns one by one, for the key and for what is equal under the mask.
fn check(
    patterns: &[Pattern],
    sets: &[Vec<Prefix>],
    keys: &[FlowKey],
) -> Result<(), TestCaseError> {
    let table = table(patterns);
    let compiled: Vec<_> = sets
        .iter()
        .map(|s| AddressSet::new(s.iter().copied()))
        .collect();
    for (at, k) in keys.iter().enumerate() {
        let plain = patterns.iter().position(|p| means(p, k, sets));
        let (found, probe) = asked(&table, k, &compiled);
        prop_assert_eq!(found.map(|f| f as usize), plain, "{:?}", k);
        for other in keys.iter().skip(at + 1) {
            let twin = mixed(&probe, k, other);
            prop_assert_eq!(
                asked(&table, &twin, &compiled).0,
                found,
                "{:?} and {:?}",
                k,
                twin
            );
        }
    }
    Ok(())
}

fn any_sets() -> impl Strategy<Value = Vec<Vec<Prefix>>> {
    prop::collection::vec(prop::collection::vec(any_prefix(), 0..4), 0..4)
}

proptest! {
    #[test]
    fn few_rules_say_what_a_plain_reading_says(
        patterns in prop::collection::vec(any_pattern(), 0..20),
        sets in any_sets(),
        keys in prop::collection::vec(any_key(), 12),
    ) {
        check(&patterns, &sets, &keys)?;
    }

    #[test]
    fn so_do_many_port_ranges_of_the_same_addresses(
        ports in prop::collection::vec((any_ports(), any_ports()), 9..200),
        keys in prop::collection::vec(any_key(), 12),
    ) {
        let patterns: Vec<_> = ports
            .into_iter()
            .map(|(src_ports, dst_ports)| Pattern { src_ports, dst_ports, ..Pattern::ANY })
            .collect();
        check(&patterns, &[], &keys)?;
    }
}

fn host(n: u32) -> Prefix {
    Prefix::host(n.to_be_bytes().into())
}

fn bits_read(field: &[u8]) -> u32 {
    field.iter().map(|b| b.count_ones()).sum()
}

#[test]
fn a_packet_far_from_every_rule_is_known_by_few_bits() {
    // Ten thousand hosts of one network, each with a port.
    let patterns: Vec<_> = (0..10_000u32)
        .map(|n| Pattern {
            protocol: Some(proto::TCP),
            dst: Some(host(0x0b00_0000 + n * 3)),
            dst_ports: PortRange::one(80),
            ..Pattern::ANY
        })
        .collect();
    let table = table(&patterns);
    let src = [10, 0, 0, 1].into();
    for (protocol, dst, bits) in [
        (proto::TCP, [10, 0, 0, 2], 96 + 8),
        (proto::TCP, [11, 200, 0, 2], 96 + 16),
        (proto::TCP, [11, 0, 0, 4], 128),
        (proto::UDP, [11, 0, 0, 3], 0),
    ] {
        let (found, probe) = asked(&table, &key(protocol, src, dst.into(), (5, 80)), &[]);
        assert_eq!(found, None);
        let mask = probe.mask();
        assert_eq!(bits_read(&mask.fields().ip_dst), bits, "{dst:?}");
        assert_eq!((mask.fields().ip_src, mask.fields().l4_dst), ([0; 16], 0));
    }
    let (found, probe) = asked(
        &table,
        &key(proto::TCP, src, [11, 0, 0, 3].into(), (5, 80)),
        &[],
    );
    assert_eq!(found, Some(1));
    assert_eq!(
        (probe.mask().fields().l4_src, probe.mask().fields().l4_dst),
        (0, 0xffff)
    );
}

#[test]
fn what_an_early_rule_decides_is_not_read_for_later_ones() {
    let mut patterns = vec![Pattern {
        dst: Some("10.0.0.0/8".parse().unwrap()),
        ..Pattern::ANY
    }];
    patterns.extend((0..1000).map(|n| Pattern {
        dst: Some(host(0x0a00_0000 + n)),
        ..Pattern::ANY
    }));
    let k = key(6, [10, 1, 1, 1].into(), [10, 0, 0, 7].into(), (5, 80));
    let (found, probe) = asked(&table(&patterns), &k, &[]);
    assert_eq!(found, Some(0));
    assert_eq!(bits_read(&probe.mask().fields().ip_dst), 96 + 8);
}

#[test]
fn ports_that_no_range_begins_near_share_their_first_bits() {
    let ranges: Vec<_> = (0..1000)
        .map(|n| Pattern {
            dst_ports: PortRange::new(n * 2, n * 2 + 1).unwrap(),
            ..Pattern::ANY
        })
        .collect();
    let k = |port| key(6, [10, 1, 1, 1].into(), [10, 0, 0, 7].into(), (5, port));
    let table = table(&ranges);
    let (found, probe) = asked(&table, &k(40_000), &[]);
    assert_eq!((found, probe.mask().fields().l4_dst), (None, 0xff00));
    let (found, probe) = asked(&table, &k(1001), &[]);
    assert_eq!((found, probe.mask().fields().l4_dst), (Some(500), 0xffff));
}

#[test]
fn the_number_of_tuples_is_bounded_whatever_is_asked() {
    // Every pair of lengths, of every protocol or none, in IPv6: sixteen thousand shapes.
    let addr: IpAddr = "fd00:1234:5678:9abc:def0:1234:5678:9abc".parse().unwrap();
    let lengths = (0..=128u8).flat_map(|a| (0..=128u8).map(move |b| (a, b)));
    let patterns: Vec<_> = lengths
        .map(|(a, b)| Pattern {
            src: Some(Prefix::containing(addr, a).unwrap()),
            dst: Some(Prefix::containing(addr, b).unwrap()),
            dst_ports: PortRange::one(u16::from(a) * 129 + u16::from(b)),
            ..Pattern::ANY
        })
        .collect();
    let table = table(&patterns);
    assert!(table.v6.tuples.len() <= MAX_TUPLES);
    assert!(table.v4.tuples.is_empty());
    for n in [0, 1, 500, 16_640] {
        let k = key(6, addr, addr, (5, n));
        assert_eq!(asked(&table, &k, &[]).0, Some(u32::from(n)));
    }
}

#[test]
fn rules_of_one_address_are_never_a_list() {
    let addr: IpAddr = "fd00:1234:5678:9abc:def0:1234:5678:9abc".parse().unwrap();
    let lengths = (0..=128u8).flat_map(|len| [(len, None), (len, Some(proto::TCP))]);
    let patterns: Vec<_> = lengths
        .map(|(len, protocol)| Pattern {
            protocol,
            dst: Some(Prefix::containing(addr, len).unwrap()),
            dst_ports: PortRange::one(u16::from(len)),
            ..Pattern::ANY
        })
        .collect();
    let table = table(&patterns);
    assert_eq!(table.v6.tuples.len(), 258);
    let buckets = table.v6.tuples.iter().flat_map(|t| t.buckets.values());
    assert!(buckets.into_iter().all(|b| b.rest.is_empty()));
}

#[test]
fn overlapping_port_ranges_take_no_more_memory_than_their_bounds() {
    // Each within the last: every stretch is held by all before it.
    let nested: Vec<_> = (0..10_000u16)
        .map(|n| PortRange::new(10_000 - n, 20_000 + n).unwrap())
        .collect();
    let rects = (0u32..).zip(&nested).map(|(order, r)| Rect {
        order,
        src: *r,
        dst: *r,
    });
    let Ports::Many(many) = Ports::new(rects.collect()) else {
        panic!("ten thousand are many");
    };
    // Two nodes a level, fifteen levels, two bounds at each.
    assert!(
        many.stretches() < 10_000 * 2 * 15 * 2,
        "{}",
        many.stretches()
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))]

    #[test]
    fn so_do_more_shapes_than_there_are_tuples(
        patterns in prop::collection::vec(any_pattern(), 900..1_500),
        sets in any_sets(),
        keys in prop::collection::vec(any_key(), 8),
    ) {
        check(&patterns, &sets, &keys)?;
    }
}
