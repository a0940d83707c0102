//! What does tracking cost: a hit, a new connection, and the longest pause of a sweep in which a million expire?

#![expect(clippy::unwrap_used, reason = "a bench may fail loudly")]
#![expect(clippy::disallowed_methods, reason = "a bench reads the clock")]

use std::{
    hint::black_box,
    net::IpAddr,
    time::{Duration, Instant},
};

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use net::{FiveTuple, Mac, Now, PortId, TcpSegment, Zone, tcp::flag};
use nfv::{
    Conntrack,
    conntrack::{Entry, Hit, NewConn, Owner, Settings, Side, SideEntry, Track, TrackInput},
};

const BATCH: usize = 64;
/// Of one sweep.
const BUDGET: u32 = 4_096;

fn tuple(n: u32) -> FiveTuple {
    let port = u16::try_from(1024 + n % 60_000).unwrap();
    FiveTuple::new(
        6,
        (IpAddr::from((0x0a00_0000 + n / 60_000).to_be_bytes()), port),
        ([10, 99, 0, 1].into(), 80),
    )
}

fn segment(flags: u16, seq: u32, ack: u32) -> TrackInput {
    TrackInput::Tcp(TcpSegment {
        flags,
        seq,
        ack,
        window: 60_000,
        ..TcpSegment::default()
    })
}

fn new_conn(n: u32) -> NewConn {
    let (t, mac) = (tuple(n), Mac::ZERO);
    NewConn {
        sides: [
            SideEntry::new((Zone(1), t), (mac, mac), 0, 0),
            SideEntry::new((Zone(1), t.reversed()), (mac, mac), 0, 0),
        ],
        owner: Owner {
            port: PortId(n % 100),
            port_limit: u32::MAX,
            project: 0,
            project_limit: u32::MAX,
        },
        first: segment(flag::SYN, 99, 0),
        segments: 1,
        bytes: 64,
    }
}

/// Established connections.
fn table(connections: u32) -> Conntrack<Vec<Entry>> {
    let storage = vec![Entry::default(); connections as usize];
    let mut table = Conntrack::new(
        storage,
        Settings {
            seed: 7,
            ..Settings::default()
        },
    );
    for n in 0..connections {
        let conn = table.insert(&new_conn(n), Now::ZERO, |_| ()).unwrap();
        let sides = [
            (Side::Reply, segment(flag::SYN | flag::ACK, 499, 100)),
            (Side::Original, segment(flag::ACK, 100, 500)),
        ];
        for (side, input) in sides {
            assert_eq!(
                table.track(Hit { conn, side }, &input, (1, 64), Now::ZERO),
                Track::Ok
            );
        }
    }
    table
}

fn hits(c: &mut Criterion) {
    let mut group = c.benchmark_group("conntrack_hit");
    group.throughput(Throughput::Elements(BATCH as u64));
    for (name, connections) in [("10k", 10_000u32), ("1M", 1_000_000)] {
        let mut table = table(connections);
        let input = segment(flag::ACK, 100, 500);
        let mut next = 0u32;
        group.bench_function(name, |b| {
            b.iter_batched_ref(
                || {
                    let keys = [(); BATCH].map(|()| {
                        next = next.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                        Some((Zone(1), tuple(next % connections)))
                    });
                    (keys, [None; BATCH])
                },
                |(keys, hits)| {
                    table.lookup_batch(keys, hits);
                    for hit in hits.iter().flatten() {
                        let track = table.track(*hit, &input, (1, 64), Now::from_nanos(1));
                        assert_eq!(black_box(track), Track::Ok);
                    }
                },
                BatchSize::SmallInput,
            );
        });
    }
    group.finish();
}

fn set_up(c: &mut Criterion) {
    let mut group = c.benchmark_group("conntrack_new");
    group.throughput(Throughput::Elements(1));
    let mut table = Conntrack::new(
        vec![Entry::default(); 100_000],
        Settings {
            seed: 7,
            ..Settings::default()
        },
    );
    let mut n = 0;
    group.bench_function("insert_full_table", |b| {
        b.iter(|| {
            // From the first 100,000 on, each makes another go.
            n = (n + 1) % 1_000_000;
            table.insert(&new_conn(n), Now::ZERO, |_| ()).is_ok()
        });
    });
    group.finish();
}

/// The figure is the pause that 99 of 100 calls stay under, not the mean. (The longest call of all is the machine's: on a busy
/// one it holds a switch to another process.)
fn sweep(c: &mut Criterion) {
    let mut group = c.benchmark_group("conntrack_sweep");
    group.sample_size(10);
    let later = Now::from_nanos(1 << 62);
    group.bench_function("p99_of_1M_expiring", |b| {
        b.iter_custom(|rounds| {
            let mut sum = Duration::ZERO;
            for _ in 0..rounds {
                let mut table = table(1_000_000);
                let mut pauses = Vec::new();
                while !table.is_empty() {
                    let begun = Instant::now();
                    black_box(table.sweep(later, BUDGET, |_| ()));
                    pauses.push(begun.elapsed());
                }
                pauses.sort_unstable();
                sum += *pauses.get(pauses.len() * 99 / 100).unwrap();
            }
            sum
        });
    });
    group.finish();
}

criterion_group!(benches, hits, set_up, sweep);
criterion_main!(benches);
