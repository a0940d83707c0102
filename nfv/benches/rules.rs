//! What does a look-up among thousands of rules cost, and what does it cost to build them? By shape, the worst ones too.

#![expect(clippy::unwrap_used, reason = "a bench may fail loudly")]

use std::{hint::black_box, net::IpAddr};

use criterion::{Criterion, criterion_group, criterion_main};
use net::{
    FlowKey, PortRange, Prefix, Probe,
    flow_key::{addr_bytes, ethertype, proto},
};
use nfv::rules::{Pattern, RuleTable};

const RULES: u32 = 10_000;

fn v4(n: u32, bits: u8) -> Prefix {
    Prefix::containing(n.to_be_bytes().into(), bits).unwrap()
}

fn port(n: u32) -> u16 {
    u16::try_from(n % 60_000).unwrap()
}

fn pick<T: Copy>(of: &[T], n: u32) -> T {
    *of.iter().cycle().nth(n as usize % of.len()).unwrap()
}

/// Spread over all addresses: no neighbours.
fn spread(n: u32) -> u32 {
    n.wrapping_mul(0x9e37_79b1)
}

/// Hosts with a port: one tuple.
fn hosts(n: u32) -> Pattern {
    Pattern {
        protocol: Some(proto::TCP),
        dst: Some(v4(spread(n), 32)),
        dst_ports: PortRange::one(443),
        ..Pattern::ANY
    }
}

/// As people write them: blocks of many lengths on either side, protocols, ranges.
fn mixed(n: u32) -> Pattern {
    let length = |n: u32| pick(&[8, 16, 20, 22, 24, 26, 28, 32], n);
    Pattern {
        protocol: pick(&[None, Some(proto::TCP), Some(proto::UDP)], n),
        src: (n % 5 > 2).then(|| v4(spread(n), length(n / 7))),
        dst: Some(v4(spread(n + 1), length(n / 5))),
        dst_ports: PortRange::new(port(n), port(n) + port(n) % 100).unwrap(),
        ..Pattern::ANY
    }
}

/// Port ranges within one another, both ends: a bucket of all.
fn nested_ports(n: u32) -> Pattern {
    let (n, range) = (port(n), |n| PortRange::new(20_000 - n, 30_000 + n).unwrap());
    Pattern {
        src_ports: range(n),
        dst_ports: range(10_000 - n),
        ..Pattern::ANY
    }
}

/// Every pair of lengths around one address, with a port that nobody asks for: more shapes than tuples.
fn nested_blocks(n: u32) -> Pattern {
    let addr: IpAddr = "fd00:1234:5678:9abc:def0:1234:5678:9abc".parse().unwrap();
    let block = |bits: u32| Prefix::containing(addr, u8::try_from(bits % 129).unwrap()).unwrap();
    Pattern {
        src: Some(block(n)),
        dst: Some(block(n / 129)),
        dst_ports: PortRange::one(1),
        ..Pattern::ANY
    }
}

fn key(v6: bool) -> FlowKey {
    let (src, dst): (IpAddr, IpAddr) = if v6 {
        let addr = "fd00:1234:5678:9abc:def0:1234:5678:9abc".parse().unwrap();
        (addr, addr)
    } else {
        ([10, 0, 0, 7].into(), [10, 0, 0, 100].into())
    };
    FlowKey {
        ethertype: if v6 { ethertype::IPV6 } else { ethertype::IPV4 },
        ip_proto: proto::TCP,
        ip_src: addr_bytes(src),
        ip_dst: addr_bytes(dst),
        l4_src: 40_000,
        l4_dst: 443,
        ..FlowKey::default()
    }
}

type Shape = (&'static str, fn(u32) -> Pattern, bool);

const SHAPES: [Shape; 4] = [
    ("hosts", hosts, false),
    ("mixed", mixed, false),
    ("nested_ports", nested_ports, false),
    ("nested_blocks", nested_blocks, true),
];

fn patterns(pattern: fn(u32) -> Pattern) -> Vec<(u32, Pattern)> {
    (0..RULES).map(|n| (n, pattern(n))).collect()
}

/// One that matches nothing: every rule had to be ruled out. Others end sooner.
fn look_up(c: &mut Criterion) {
    let mut group = c.benchmark_group("rules_look_up_10000");
    for (name, pattern, v6) in SHAPES {
        let table = RuleTable::new(patterns(pattern));
        let key = key(v6);
        group.bench_function(name, |b| {
            b.iter(|| table.first_match(&mut Probe::new(black_box(&key)), &mut |_, _| false));
        });
    }
    group.finish();
}

fn build(c: &mut Criterion) {
    let mut group = c.benchmark_group("rules_build_10000");
    group.sample_size(10);
    for (name, pattern, _) in SHAPES {
        let patterns = patterns(pattern);
        group.bench_function(name, |b| {
            b.iter(|| RuleTable::new(black_box(&patterns).iter().copied()));
        });
    }
    group.finish();
}

criterion_group!(benches, look_up, build);
criterion_main!(benches);
