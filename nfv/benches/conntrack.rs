//! What does tracking cost: a hit, a new connection, and the longest pause of a sweep in which a million expire?

#![expect(clippy::unwrap_used, reason = "a bench may fail loudly")]
#![expect(clippy::disallowed_methods, reason = "a bench reads the clock")]

use std::{
    hint::black_box,
    net::IpAddr,
    time::{Duration, Instant},
};

use criterion::{BatchSize, Criterion, SamplingMode, Throughput, criterion_group, criterion_main};
use net::{FiveTuple, Mac, Now, PortId, TcpSegment, Zone, tcp::flag};
use nfv::{
    Conntrack,
    conntrack::{
        Entrance, Entry, Hit, NewConn, Owner, Settings, Side, SideEntry, Track, TrackInput,
    },
};

const BATCH: usize = 64;
/// Of one call: the switch's own.
const BUDGET: u32 = 2_048;

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
            SideEntry::new((Zone(1), t), (mac, mac), 0, Entrance::Unknown),
            SideEntry::new((Zone(1), t.reversed()), (mac, mac), 0, Entrance::Unknown),
        ],
        owner: Owner {
            port: PortId(n % 100),
            port_limit: u32::MAX,
            project: 0,
            project_limit: u32::MAX,
        },
        first: segment(flag::SYN, 99, 0),
        whole: true,
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
                    table.lookup_batch(|at| keys.get(at).copied().flatten(), hits);
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

/// The pauses of a sweep over a million, the shortest first. `later`: they have all been silent for too long.
fn pauses(later: bool) -> Vec<Duration> {
    let mut table = table(1_000_000);
    let now = Now::from_nanos(if later { 1 << 62 } else { 1 });
    let mut pauses = Vec::new();
    loop {
        let begun = Instant::now();
        let swept = black_box(table.sweep(now, BUDGET, |_| ()));
        pauses.push(begun.elapsed());
        if swept.finished {
            break;
        }
    }
    assert_eq!(table.is_empty(), later);
    pauses.sort_unstable();
    pauses
}

/// The figures are pauses, not means: what 99 of 100 calls stay under, and the longest of all. (On a busy machine the longest holds
/// a switch to another process.)
fn sweep(c: &mut Criterion) {
    let mut group = c.benchmark_group("conntrack_sweep");
    // A round fills a table, which is not part of the figure: criterion would plan thousands.
    group.sample_size(10).sampling_mode(SamplingMode::Flat);
    let once = Duration::from_millis(1);
    group.warm_up_time(once).measurement_time(once);
    for (name, later, percent) in [
        ("p99_of_1M_expiring", true, 99),
        ("longest_of_1M_expiring", true, 100),
        ("longest_of_1M_kept", false, 100),
    ] {
        group.bench_function(name, |b| {
            b.iter_custom(|rounds| {
                let pause = || {
                    let pauses = pauses(later);
                    let at = (pauses.len() * percent / 100).min(pauses.len() - 1);
                    *pauses.get(at).unwrap()
                };
                (0..rounds).map(|_| pause()).sum()
            });
        });
    }
    group.finish();
}

criterion_group!(benches, hits, set_up, sweep);
criterion_main!(benches);
