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

/// Rules as an operator of thousands has them, of chosen lengths: blocks that overlap, ranges, both families, both actions' worth of ports.
fn rulebook(rules: u32, shapes: u32, protocols: &[Option<u8>]) -> Vec<Pattern> {
    let v4_lengths = [
        8, 10, 12, 14, 16, 18, 19, 20, 21, 22, 23, 24, 26, 28, 30, 32,
    ];
    let v6_lengths = [16, 32, 40, 48, 52, 56, 64, 128];
    let of = |lengths: &[u8], n: u32| *lengths.iter().cycle().nth(n as usize).unwrap();
    (0..rules)
        .map(|n| {
            let r = draw(n, 0);
            let shape = r % shapes;
            let port = u16::try_from(draw(n, 1) % 2_000).unwrap();
            let (src_ports, dst_ports) = match draw(n, 2) % 4 {
                0 => (PortRange::ANY, PortRange::one(port)),
                1 => (
                    PortRange::ANY,
                    PortRange::new(port, port + port / 8).unwrap(),
                ),
                2 => (PortRange::new(port, 65_535).unwrap(), PortRange::ANY),
                _ => (
                    PortRange::new(0, port).unwrap(),
                    PortRange::new(port / 2, port).unwrap(),
                ),
            };
            // One in five is of IPv6.
            let (src, dst) = if shape.is_multiple_of(5) {
                (
                    Prefix::containing(v6(draw(n, 3)), of(&v6_lengths, shape / 5 % 8)).unwrap(),
                    Prefix::containing(v6(draw(n, 4)), of(&v6_lengths, shape / 40 % 8)).unwrap(),
                )
            } else {
                (
                    Prefix::containing(v4(draw(n, 3)), of(&v4_lengths, shape % 16)).unwrap(),
                    Prefix::containing(v4(draw(n, 4)), of(&v4_lengths, shape / 16 % 16)).unwrap(),
                )
            };
            let protocol = protocols.iter().cycle().nth(draw(n, 5) as usize % 60);
            Pattern {
                protocol: *protocol.unwrap(),
                src: Some(src),
                dst: Some(dst),
                src_ports,
                dst_ports,
                ..Pattern::ANY
            }
        })
        .collect()
}

/// The `what`-th number of the `n`-th thing: the same each time.
fn draw(n: u32, what: u32) -> u32 {
    let word = crate::keyed_hash::scramble(u64::from(n) << 8 | u64::from(what));
    u32::try_from(word >> 32).unwrap()
}

/// Addresses near one another, so that blocks of every length have some and leave some out.
fn v4(r: u32) -> IpAddr {
    let wide = if r.is_multiple_of(3) {
        0x0fff_ffff
    } else {
        0x0003_ffff
    };
    (0x0a00_0000 | r & wide).to_be_bytes().into()
}

fn v6(r: u32) -> IpAddr {
    let (hi, lo) = (u128::from(r >> 16 & 0x3ff), u128::from(r & 0xff));
    IpAddr::from((0xfd00_u128 << 112 | hi << 70 | lo).to_be_bytes())
}

/// A packet near the rules: half of them from within a rule's blocks, the others anywhere among them.
fn near(patterns: &[Pattern], n: u32) -> FlowKey {
    let at = draw(n, 10) as usize % patterns.len();
    let p = &patterns[at];
    let ends = |p: Option<Prefix>, r: u32| {
        let addr = p.unwrap().addr();
        if r.is_multiple_of(2) {
            addr
        } else if addr.is_ipv4() {
            v4(r)
        } else {
            v6(r)
        }
    };
    let port = |r: u32| u16::try_from(r % 2_200).unwrap();
    let protocol = [proto::TCP, proto::UDP, proto::ICMP][draw(n, 11) as usize % 3];
    key(
        protocol,
        ends(p.src, draw(n, 12)),
        ends(p.dst, draw(n, 13)),
        (port(draw(n, 14)), port(draw(n, 15))),
    )
}

/// How many packets are compared with a plain reading: a few thousand, or as many as `RULE_PACKETS` says, in an optimised build.
fn packets() -> u32 {
    let asked = std::env::var("RULE_PACKETS");
    asked.map_or(2_000, |n| n.parse().unwrap())
}

/// How many combinations of lengths, of a source and a destination, the patterns have.
fn masks(patterns: &[Pattern]) -> usize {
    let of = |p: &Pattern| {
        let bits = |p: Option<Prefix>| p.unwrap().bits();
        (p.src.unwrap().is_ipv4(), bits(p.src), bits(p.dst))
    };
    patterns
        .iter()
        .map(of)
        .collect::<std::collections::HashSet<_>>()
        .len()
}

#[test]
fn ten_thousand_rules_of_hundreds_of_masks_say_what_a_list_says() {
    let any = [None, Some(proto::TCP), Some(proto::UDP)];
    // Every shape has a tuple of its own; and more shapes than there are tuples.
    for (shapes, protocols) in [(256, &any[1..]), (1_280, &any[..])] {
        let patterns = rulebook(10_000, shapes, protocols);
        assert!(masks(&patterns) >= 200, "{}", masks(&patterns));
        let table = table(&patterns);
        let mut decided = 0;
        for n in 0..packets() {
            let k = near(&patterns, n);
            let plain = patterns.iter().position(|p| means(p, &k, &[]));
            let found = asked(&table, &k, &[]).0;
            assert_eq!(found.map(|f| f as usize), plain, "packet {n}: {k:?}");
            decided += u32::from(found.is_some());
        }
        // Neither all nor none, or nothing was compared.
        let share = decided * 100 / packets();
        assert!((20..95).contains(&share), "{share} in a hundred");
    }
}

#[test]
fn no_more_tuples_are_walked_than_can_match() {
    let patterns = rulebook(10_000, 256, &[Some(proto::TCP), Some(proto::UDP)]);
    let table = table(&patterns);
    let mut most = 0;
    for n in 0..packets() / 4 {
        let k = near(&patterns, n);
        let (_, probe) = asked(&table, &k, &[]);
        // Tuples that have the protocol, a block that the source is in, and one that the destination is in.
        let v4 = k.ethertype == ethertype::IPV4;
        let of_family = patterns.iter().filter(|p| p.src.unwrap().is_ipv4() == v4);
        let mut can = std::collections::HashMap::<(u8, u8), [bool; 3]>::new();
        for p in of_family {
            let (src, dst) = (p.src.unwrap(), p.dst.unwrap());
            let tuple = can.entry((src.bits(), dst.bits())).or_default();
            tuple[0] |= p.protocol == Some(k.ip_proto);
            tuple[1] |= src.contains(k.src_addr());
            tuple[2] |= dst.contains(k.dst_addr());
        }
        let of_length = |which: usize, bits: u8| {
            let side = |t: &(u8, u8)| if which == 1 { t.0 } else { t.1 };
            can.iter().any(|(t, has)| side(t) == bits && has[which])
        };
        let may = can
            .iter()
            .filter(|(t, has)| has[0] && of_length(1, t.0) && of_length(2, t.1))
            .count();
        let steps = probe.steps() as usize;
        assert!(steps <= may, "packet {n}: {steps} of {may}");
        most = most.max(steps);
    }
    assert!(most > 10, "{most}: hardly any was walked");
}
