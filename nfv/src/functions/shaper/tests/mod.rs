//! Rates, bursts and bounds of a queue, first in first out.

mod fair;
mod tree;

use net::{Gso, Offload, PacketPool};

use hostconfig::Discipline;
use net::{Now, Packet};
use std::collections::VecDeque;

use super::*;

const SECOND: u64 = 1_000_000_000;

fn policy(rate_bps: u64, burst_bytes: u64, queue_bytes: u64) -> hostconfig::Shaper {
    hostconfig::Shaper {
        rate_bps,
        burst_bytes,
        queue_bytes,
        queue: Discipline::Fifo,
        share: None,
        classes: Vec::new(),
    }
}

fn pace(rate_bps: u64, burst_bytes: u64, queue_bytes: u64) -> Pace {
    Pace::from(&policy(rate_bps, burst_bytes, queue_bytes))
}

fn packet(pool: &mut PacketPool, len: usize) -> Packet {
    let mut p = pool.take(len).unwrap();
    p.set_len(len).unwrap();
    p
}

/// Keeps the queue full for ten seconds and polls as it asks, up to `late` after that; returns the bytes let go.
fn run(rate: u64, burst: u64, sizes: &[usize], late: u64) -> u64 {
    let mut pool = PacketPool::new(512, 512);
    let mut queue = ShaperQueue::new(pace(rate, burst, 1 << 40), 64, 0, Now::ZERO);
    let mut sizes = sizes.iter().cycle();
    let mut jitter = 1u64;
    let (mut now, mut bytes) = (Now::ZERO, 0);
    while now.nanos() < 10 * SECOND {
        while queue.len() < 64 {
            let p = packet(&mut pool, *sizes.next().unwrap());
            queue.enqueue(p, now).unwrap();
        }
        while let Some(p) = queue.dequeue(now) {
            bytes += p.wire_bytes();
            pool.give(p);
            if queue.is_empty() {
                break;
            }
        }
        let Some(wake) = queue.next_wake(now) else {
            continue;
        };
        jitter = crate::keyed_hash::scramble(jitter);
        now =
            wake.max(Now::from_nanos(now.nanos() + 1)) + Duration::from_nanos(jitter % (late + 1));
    }
    bytes
}

#[test]
fn the_rate_is_exact_at_any_rate_and_size() {
    let mixes: [&[usize]; 3] = [&[64, 1514, 590, 60], &[1514], &[65_000, 64, 1514]];
    for (rate, burst) in [
        (1_000_000, 3_000),
        (100_000_000, 20_000),
        (5_000_000_000, 200_000),
    ] {
        for (mix, lates) in mixes.iter().zip([&[50_000][..], &[0], &[0, 50_000]]) {
            for &late in lates {
                let bits = run(rate, burst, mix, late) * 8;
                let expected = rate * 10 + burst * 8;
                // One packet more or less: at 1 Mbit/s one of 65,000 bytes is already 5 % of a second.
                let slack = expected / 1000 + 65_000 * 8;
                assert!(
                    bits.abs_diff(expected) <= slack,
                    "{rate} {mix:?} {late}: {bits} of {expected}"
                );
                if !mix.contains(&65_000) {
                    assert!(
                        bits.abs_diff(expected) * 1000 <= expected + 1000 * 1514 * 8,
                        "{rate} {mix:?}: {bits}"
                    );
                }
            }
        }
    }
}

#[test]
fn a_packet_larger_than_the_burst_goes_and_is_paid_for() {
    let mut pool = PacketPool::new(0, 2);
    let mut queue = ShaperQueue::new(pace(8_000_000, 1_000, 1_000), 8, 0, Now::ZERO);
    let p = packet(&mut pool, 50_000);
    queue.enqueue(p, Now::ZERO).unwrap();
    let p = packet(&mut pool, 50_000);
    let p = queue.enqueue(p, Now::ZERO).unwrap_err();
    assert!(queue.dequeue(Now::ZERO).is_some(), "the bucket was full");
    queue.enqueue(p, Now::ZERO).unwrap();
    // 50,000 bytes at a byte a microsecond.
    assert_eq!(
        queue.next_wake(Now::ZERO),
        Some(Now::from_nanos(50_000_000))
    );
    assert!(queue.dequeue(Now::from_nanos(49_999_999)).is_none());
    assert!(queue.dequeue(Now::from_nanos(50_000_000)).is_some());
}

#[test]
fn delay_grows_to_the_queues_limit_before_the_first_drop() {
    let mut pool = PacketPool::new(512, 0);
    // 100 Mbit/s, 125,000 bytes of queue: 10 ms. Offered: 1,500 bytes each 80 us, 150 Mbit/s.
    let mut queue = ShaperQueue::new(pace(100_000_000, 1_500, 125_000), 512, 0, Now::ZERO);
    let mut entered = VecDeque::new();
    let (mut longest, mut dropped_at) = (Duration::ZERO, None);
    for n in 0..2_000u64 {
        let now = Now::from_nanos(n * 80_000);
        while let Some(at) = queue.next_wake(now).filter(|at| *at <= now) {
            let p = queue.dequeue(at).unwrap();
            longest = longest.max(at - entered.pop_front().unwrap());
            pool.give(p);
        }
        let p = packet(&mut pool, 1_500);
        match queue.enqueue(p, now) {
            Ok(()) => entered.push_back(now),
            Err(p) => {
                pool.give(p);
                dropped_at.get_or_insert((now, longest));
            }
        }
        assert!(queue.queued_bytes() <= 125_000);
    }
    let (_, delay) = dropped_at.unwrap();
    // The packet that fills the queue still has to wait when the first drop happens: a third of the time less.
    assert!(
        delay > Duration::from_millis(6),
        "{delay:?} before the first drop"
    );
    assert!(
        longest > Duration::from_micros(9_800) && longest < Duration::from_micros(10_200),
        "{longest:?}"
    );
}

#[test]
fn idle_time_gives_no_more_than_the_burst() {
    let mut pool = PacketPool::new(64, 0);
    let mut queue = ShaperQueue::new(pace(8_000_000, 3_000, 1 << 20), 64, 0, Now::ZERO);
    let later = Now::from_nanos(3600 * SECOND);
    for _ in 0..20 {
        let p = packet(&mut pool, 1_000);
        queue.enqueue(p, later).unwrap();
    }
    let gone = std::iter::from_fn(|| queue.dequeue(later)).count();
    assert_eq!(gone, 3);
    assert_eq!((queue.len(), queue.held_segments()), (17, 17));
    assert_eq!(queue.drain().count(), 17);
    assert_eq!((queue.queued_bytes(), queue.next_wake(later)), (0, None));
}

#[test]
fn a_super_frame_costs_what_its_segments_cost() {
    let mut pool = PacketPool::new(0, 1);
    let frame = net::testkit::FrameBuilder::tcp(false, 1, 2)
        .payload(&vec![0; 30_000])
        .build();
    let mut p = pool.take(frame.len()).unwrap();
    p.fill(&frame).unwrap();
    p.parse().unwrap();
    p.set_offload(Offload {
        gso: Gso::Tcp {
            size: 1_000,
            ecn: false,
        },
        ..Offload::default()
    });
    let mut queue = ShaperQueue::new(pace(8_000_000, 1_000_000, 1 << 20), 64, 0, Now::ZERO);
    queue.enqueue(p, Now::ZERO).unwrap();
    assert_eq!(
        (queue.queued_bytes(), queue.held_segments()),
        (30_000 + 30 * 54, 30)
    );
}

#[test]
fn packets_are_bounded_as_well_as_bytes() {
    let mut pool = PacketPool::new(8, 0);
    let mut queue = ShaperQueue::new(pace(8_000, 60, 1 << 20), 4, 0, Now::ZERO);
    for _ in 0..4 {
        let p = packet(&mut pool, 60);
        queue.enqueue(p, Now::ZERO).unwrap();
    }
    let p = packet(&mut pool, 60);
    assert!(queue.enqueue(p, Now::ZERO).is_err());
}

#[test]
fn a_new_policy_keeps_what_waits() {
    let mut pool = PacketPool::new(8, 0);
    let mut queue = ShaperQueue::new(pace(8_000, 100, 1 << 20), 8, 0, Now::ZERO);
    for _ in 0..3 {
        let p = packet(&mut pool, 100);
        queue.enqueue(p, Now::ZERO).unwrap();
    }
    assert!(queue.dequeue(Now::ZERO).is_some());
    assert_eq!(
        queue.next_wake(Now::ZERO),
        Some(Now::from_nanos(100_000_000))
    );
    queue.reshape(pace(80_000, 100, 1), Now::from_nanos(50_000_000));
    assert_eq!(
        queue.next_wake(Now::ZERO),
        Some(Now::from_nanos(55_000_000))
    );
    assert_eq!(queue.len(), 2);
}

#[test]
fn rates_out_of_range_are_refused() {
    for rate in [0, MIN_RATE_BPS - 1, MAX_RATE_BPS + 1, 1 << 63] {
        assert_eq!(
            Shaper::new(&policy(rate, 1, 1)).unwrap_err(),
            ShaperFault::Rate(rate)
        );
    }
    assert_eq!(
        Shaper::new(&policy(8_000, 1, 0)).unwrap_err(),
        ShaperFault::Queue(0)
    );
    assert!(Shaper::new(&policy(MAX_RATE_BPS, u64::MAX, 1)).is_ok());
}

/// A frame of so many segments of 100 bytes each, headers counted.
fn train(pool: &mut PacketPool, segments: usize) -> Packet {
    let frame = net::testkit::FrameBuilder::udp(false, 1, 2)
        .payload(&vec![0; 58 * segments])
        .build();
    let mut p = pool.take(frame.len()).unwrap();
    p.fill(&frame).unwrap();
    p.parse().unwrap();
    if segments > 1 {
        let gso = Gso::Udp { size: 58 };
        p.set_offload(Offload {
            gso,
            ..Offload::default()
        });
    }
    p
}

/// Counts by the microsecond, in whole bits and thousandths of segments.
struct Naive {
    rates: [i64; 2],
    bursts: [i64; 2],
    credits: [i64; 2],
    waiting: VecDeque<(usize, [i64; 2])>,
}

impl Naive {
    fn step(&mut self) {
        for at in 0..2 {
            let most = if self.waiting.is_empty() {
                self.bursts[at]
            } else {
                self.bursts[at].max(self.rates[at] * 10_000)
            };
            self.credits[at] = (self.credits[at] + self.rates[at]).min(most);
        }
    }

    fn leave(&mut self) -> Option<usize> {
        let (packet, costs) = *self.waiting.front()?;
        let held_up = (0..2).any(|at| self.credits[at] < costs[at].min(self.bursts[at]));
        if held_up {
            return None;
        }
        for (credit, cost) in self.credits.iter_mut().zip(costs) {
            *credit -= cost;
        }
        self.waiting.pop_front();
        Some(packet)
    }
}

proptest::proptest! {
    #[test]
    fn each_packet_leaves_when_naive_buckets_let_it(
        bits in 1i64..200,
        segments in 1i64..100,
        bursts in (1i64..3000, 1i64..40),
        arrivals in proptest::collection::vec((0u64..400, 1usize..12), 1..60),
    ) {
        let mut pool = PacketPool::new(64, 8);
        let rate = |n: i64, unit: u64| u64::try_from(n).unwrap() * unit;
        // So many bits a microsecond, so many segments a millisecond.
        let pace = Pace {
            bits: Some((rate(bits, 1_000_000), rate(bursts.0, 1))),
            segments: Some((rate(segments, 1_000), rate(bursts.1, 1))),
            queue_bytes: 1 << 20,
            queue: Discipline::Fifo,
        };
        let mut queue = ShaperQueue::new(pace, 64, 0, Now::ZERO);
        let bursts = [bursts.0 * 8, bursts.1 * 1000];
        let mut naive = Naive {
            rates: [bits, segments],
            bursts,
            credits: bursts,
            waiting: VecDeque::new(),
        };
        let mut arrivals = arrivals.into_iter().enumerate();
        let mut next = arrivals.next().map(|(n, (after, size))| (n, after, size));
        let mut order = VecDeque::new();
        let mut micro = 0u64;
        while next.is_some() || !naive.waiting.is_empty() {
            micro += 1;
            naive.step();
            let now = Now::from_nanos(micro * 1000);
            while let Some((n, at, size)) = next.filter(|(_, at, _)| *at <= micro) {
                let segments = i64::try_from(size).unwrap();
                naive.waiting.push_back((n, [segments * 800, segments * 1000]));
                order.push_back(n);
                queue.enqueue(train(&mut pool, size), now).unwrap();
                next = arrivals.next().map(|(n, (after, size))| (n, at + after, size));
            }
            while let Some(expected) = naive.leave() {
                let wake = queue.next_wake(now);
                proptest::prop_assert_eq!(wake, Some(now));
                let packet = queue.dequeue(now);
                proptest::prop_assert!(packet.is_some(), "packet {} at {} us", expected, micro);
                proptest::prop_assert_eq!(order.pop_front(), Some(expected));
                pool.give(packet.unwrap());
            }
            proptest::prop_assert!(queue.dequeue(now).is_none(), "early at {} us", micro);
            proptest::prop_assert!(queue.next_wake(now).is_none_or(|wake| wake > now));
        }
        proptest::prop_assert!(queue.is_empty() && queue.queued_bytes() == 0);
    }
}

#[test]
fn what_runs_out_first_is_told() {
    let mut pool = PacketPool::new(8, 0);
    let pace = |segments| Pace {
        bits: Some((8_000_000, 1_000)),
        segments: Some((segments, 1)),
        queue_bytes: 1 << 20,
        queue: Discipline::Fifo,
    };
    for (segments, scarce, nanos) in [
        (100, Scarce::Segments, 10_000_000),
        (100_000, Scarce::Bits, 1_000_000),
    ] {
        let mut queue = ShaperQueue::new(pace(segments), 8, 0, Now::ZERO);
        assert_eq!(queue.scarce(), None);
        for _ in 0..2 {
            let p = packet(&mut pool, 1_000);
            queue.enqueue(p, Now::ZERO).unwrap();
        }
        assert!(queue.dequeue(Now::ZERO).is_some());
        assert_eq!(queue.scarce(), Some(scarce));
        assert_eq!(queue.next_wake(Now::ZERO), Some(Now::from_nanos(nanos)));
        assert!(queue.pop().is_some(), "without regard to the pace");
        assert_eq!((queue.len(), queue.queued_bytes()), (0, 0));
    }
}

#[test]
fn classes_are_promised_no_more_than_the_shaper_has() {
    let class = |rate_bps, ceil_bps| hostconfig::share::Class {
        dscp: vec![],
        rate_bps,
        ceil_bps,
    };
    let shaper = |classes| {
        let config = hostconfig::Shaper {
            classes,
            ..policy(1_000_000, 1_500, 1_500)
        };
        Shaper::new(&config).map(|_| ())
    };
    shaper(vec![class(600_000, 1_000_000), class(400_000, 8_000)]).unwrap();
    let over = vec![class(600_000, 1_000_000), class(400_001, 1_000_000)];
    assert_eq!(shaper(over), Err(ShaperFault::Promised(1_000_001)));
    assert_eq!(shaper(vec![class(0, 0)]), Err(ShaperFault::Rate(0)));
    assert_eq!(
        shaper(vec![class(0, 8_000); 17]),
        Err(ShaperFault::Classes(17))
    );
}
