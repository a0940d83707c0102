//! When may a packet go on?
//!
//! The function decides that every packet of a connection waits in its queue; the queue, which outlives a change of the
//! chain, is a [`ShaperQueue`] that its user owns: first in, first out, bounded, let go by a token bucket. A port's limit
//! (QoS) has such a queue too, with a second bucket where segments are limited besides bits: a packet goes when both let it.
//!
//! A bucket is exact: it counts in bits (or segments) times nanoseconds, so that no remainder is ever lost, and a packet that costs more
//! than the whole bucket (a super-frame) goes when the bucket is full and leaves it in debt. While packets wait, credit is
//! not cut at the burst but at [`LATENESS`] of the rate: who polls late makes up for it.
//!
//! # Invariants
//! - Over any time in which packets wait, bits (or segments) let go = rate × time, within the burst and one packet.
//! - `queued_bytes() <= queue_bytes`, unless one packet alone is larger.
//!
//! # Attack
//! Tiny packets would hold the pool's buffers long before they fill a queue in bytes: packets are bounded too.
//!
//! # Cost
//! No allocation once the queue has reached its length; about 10 ns a packet.

use std::{collections::VecDeque, time::Duration};

use net::{Now, Packet, Probe};

use crate::function::{Context, Decision, NetworkFunction};

/// The slowest rate: at 8 kbit/s a full frame takes 1.5 s.
pub const MIN_RATE_BPS: u64 = 8_000;
/// The fastest rate: 1 Tbit/s.
pub const MAX_RATE_BPS: u64 = 1_000_000_000_000;
/// How late a worker may poll without losing rate.
pub const LATENESS: Duration = Duration::from_millis(10);

/// Why a shaper can't be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ShaperFault {
    /// A rate beyond the bounds.
    #[error("rate out of range ({MIN_RATE_BPS}..={MAX_RATE_BPS}): {0}")]
    Rate(u64),
    /// No byte may ever wait.
    #[error("queue out of range (1..): {0}")]
    Queue(u64),
}

/// A shaper's policy.
#[derive(Debug)]
pub struct Shaper(hostconfig::Shaper);

impl Shaper {
    /// From its configuration.
    ///
    /// # Errors
    /// When a number is out of range.
    pub fn new(config: &hostconfig::Shaper) -> Result<Self, ShaperFault> {
        if !(MIN_RATE_BPS..=MAX_RATE_BPS).contains(&config.rate_bps) {
            return Err(ShaperFault::Rate(config.rate_bps));
        }
        if config.queue_bytes == 0 {
            return Err(ShaperFault::Queue(0));
        }
        Ok(Self(config.clone()))
    }
}

impl NetworkFunction for Shaper {
    fn decide(
        &self,
        _first: &mut Probe,
        _cx: &Context<'_>,
        note: &mut dyn FnMut(std::fmt::Arguments<'_>),
    ) -> Decision {
        note(format_args!(
            "{} bit/s, queue of {} bytes",
            self.0.rate_bps, self.0.queue_bytes
        ));
        Decision::Queue
    }
}

const NANOS: i128 = 1_000_000_000;

/// What takes part in sums with times; no limit is meant.
const FASTEST: u64 = 1 << 60;

/// What a packet takes from the buckets of bits and of segments.
fn costs(packet: &Packet) -> (i128, i128) {
    let bits = i128::from(packet.wire_bytes()) * 8 * NANOS;
    (bits, i128::from(packet.segments()) * NANOS)
}

/// What a queue lets go, and how much may wait in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pace {
    /// Bits a second, Ethernet headers counted; and how many bytes may go at once.
    pub bits: Option<(u64, u64)>,
    /// Segments a second; and how many may go at once.
    pub segments: Option<(u64, u64)>,
    /// How many bytes may wait.
    pub queue_bytes: u64,
}

impl From<&hostconfig::Shaper> for Pace {
    fn from(policy: &hostconfig::Shaper) -> Self {
        Self {
            bits: Some((policy.rate_bps, policy.burst_bytes)),
            segments: None,
            queue_bytes: policy.queue_bytes,
        }
    }
}

impl From<&hostconfig::qos::Limit> for Pace {
    fn from(limit: &hostconfig::qos::Limit) -> Self {
        let rate = |rate: hostconfig::qos::Rate| (rate.per_second, rate.burst);
        Self {
            bits: limit.bits.map(rate),
            segments: limit.packets.map(rate),
            queue_bytes: limit.queue_bytes,
        }
    }
}

/// What runs out first: that a packet waits, or finds no room, is its doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scarce {
    /// Bits a second.
    Bits,
    /// Segments a second.
    Segments,
}

/// Credit in units (bits or segments) times nanoseconds.
#[derive(Debug, Clone, Copy)]
struct Bucket {
    rate: i128,
    burst: i128,
    credit: i128,
}

impl Bucket {
    /// Of so many units a second, full.
    fn new(per_second: u64, burst: i128) -> Self {
        let burst = burst * NANOS;
        Self {
            rate: i128::from(per_second.clamp(1, FASTEST)),
            burst,
            credit: burst,
        }
    }

    fn fill(&mut self, elapsed: i128, waiting: bool) {
        let most = if waiting {
            let late = i128::try_from(LATENESS.as_nanos()).unwrap_or(0);
            self.burst.max(self.rate * late)
        } else {
            self.burst
        };
        self.credit = (self.credit + self.rate * elapsed).min(most);
    }

    fn lets(&self, cost: i128) -> bool {
        self.credit >= cost.min(self.burst)
    }

    /// How many nanoseconds until this much may go; at most zero: it may.
    fn until(&self, cost: i128) -> i128 {
        let missing = cost.min(self.burst) - self.credit;
        // Rounded up: a poll at that very time finds the credit.
        (missing + self.rate - 1).div_euclid(self.rate)
    }

    /// The same with another rate and burst; a debt stays one.
    fn reshaped(old: Option<Self>, new: Option<Self>) -> Option<Self> {
        let new = new?;
        let credit = old.map_or(new.credit, |old| old.credit.min(new.burst));
        Some(Self { credit, ..new })
    }
}

/// A queue with buckets: of a shaper, or of a port's limit.
#[derive(Debug)]
pub struct ShaperQueue {
    waiting: VecDeque<Packet>,
    waiting_bytes: u64,
    max_packets: usize,
    bits: Option<Bucket>,
    segments: Option<Bucket>,
    queue_bytes: u64,
    filled: Now,
}

impl ShaperQueue {
    /// An empty queue of at most `max_packets`, its buckets full.
    pub fn new(pace: Pace, max_packets: usize, now: Now) -> Self {
        let mut queue = Self {
            waiting: VecDeque::new(),
            waiting_bytes: 0,
            max_packets,
            bits: None,
            segments: None,
            queue_bytes: 0,
            filled: now,
        };
        queue.reshape(pace, now);
        queue
    }

    /// Goes on with another pace; what waits stays, even where it would not have been let in.
    pub fn reshape(&mut self, pace: Pace, now: Now) {
        self.fill(now);
        let bits = pace
            .bits
            .map(|(rate, bytes)| Bucket::new(rate, i128::from(bytes) * 8));
        let segments = pace
            .segments
            .map(|(rate, burst)| Bucket::new(rate, burst.into()));
        self.bits = Bucket::reshaped(self.bits, bits);
        self.segments = Bucket::reshaped(self.segments, segments);
        self.queue_bytes = pace.queue_bytes;
    }

    fn fill(&mut self, now: Now) {
        let elapsed = i128::from(now.nanos().saturating_sub(self.filled.nanos()));
        self.filled = self.filled.max(now);
        let waiting = !self.waiting.is_empty();
        for bucket in [&mut self.bits, &mut self.segments].into_iter().flatten() {
            bucket.fill(elapsed, waiting);
        }
    }

    /// Nanoseconds until such a packet may go, and what it waits for; at most zero: it may go.
    fn until(&self, packet: &Packet) -> Option<(i128, Scarce)> {
        let (bits, segments) = costs(packet);
        let waits = [
            self.bits.map(|b| (b.until(bits), Scarce::Bits)),
            self.segments.map(|b| (b.until(segments), Scarce::Segments)),
        ];
        waits.into_iter().flatten().max_by_key(|(nanos, _)| *nanos)
    }

    /// Puts a packet at the end of the queue. It may go at once: ask [`ShaperQueue::dequeue`]. A packet that alone is larger
    /// than the queue is taken when nothing else waits.
    ///
    /// # Errors
    /// When the queue is full; the packet comes back.
    pub fn enqueue(&mut self, packet: Packet, now: Now) -> Result<(), Packet> {
        let bytes = packet.wire_bytes();
        let fits =
            self.waiting_bytes.saturating_add(bytes) <= self.queue_bytes || self.waiting.is_empty();
        if !fits || self.waiting.len() >= self.max_packets {
            return Err(packet);
        }
        if self.waiting.is_empty() {
            // Credit of the time without packets ends at the burst.
            self.fill(now);
        }
        self.waiting_bytes += bytes;
        self.waiting.push_back(packet);
        Ok(())
    }

    /// May this packet go now, past an empty queue? Then it is paid for.
    pub fn pass(&mut self, packet: &Packet, now: Now) -> bool {
        if !self.waiting.is_empty() {
            return false;
        }
        self.fill(now);
        self.pay(costs(packet))
    }

    /// The next packet that may go now.
    pub fn dequeue(&mut self, now: Now) -> Option<Packet> {
        self.fill(now);
        let costs = costs(self.waiting.front()?);
        if self.pay(costs) { self.pop() } else { None }
    }

    /// Takes it from both buckets, if both let it.
    fn pay(&mut self, (bits, segments): (i128, i128)) -> bool {
        let lets = self.bits.is_none_or(|b| b.lets(bits))
            && self.segments.is_none_or(|b| b.lets(segments));
        if lets {
            if let Some(bucket) = &mut self.bits {
                bucket.credit -= bits;
            }
            if let Some(bucket) = &mut self.segments {
                bucket.credit -= segments;
            }
        }
        lets
    }

    /// The next packet, without regard to the pace: the limit is gone.
    pub fn pop(&mut self) -> Option<Packet> {
        let packet = self.waiting.pop_front()?;
        self.waiting_bytes = self.waiting_bytes.saturating_sub(packet.wire_bytes());
        Some(packet)
    }

    /// When the next packet may go: `now` if it already may, `None` if none waits.
    pub fn next_wake(&self, now: Now) -> Option<Now> {
        let first = self.waiting.front()?;
        let nanos = self.until(first).map_or(0, |(nanos, _)| nanos.max(0));
        let nanos = u64::try_from(nanos).unwrap_or(u64::MAX);
        Some((self.filled + Duration::from_nanos(nanos)).max(now))
    }

    /// What the next packet waits for; `None` if none waits.
    pub fn scarce(&self) -> Option<Scarce> {
        let (_, scarce) = self.until(self.waiting.front()?)?;
        Some(scarce)
    }

    /// Takes out what waits, without regard to the rate: the shaper is gone, or the switch ends.
    pub fn drain(&mut self) -> impl Iterator<Item = Packet> + '_ {
        self.waiting_bytes = 0;
        self.waiting.drain(..)
    }

    /// How many packets wait.
    pub fn len(&self) -> usize {
        self.waiting.len()
    }

    /// Does none wait?
    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// How many bytes wait, as counted on an Ethernet link.
    pub fn queued_bytes(&self) -> u64 {
        self.waiting_bytes
    }

    /// How many segments wait: what conservation counts as held.
    pub fn held_segments(&self) -> u64 {
        self.waiting.iter().map(|p| u64::from(p.segments())).sum()
    }
}

#[cfg(test)]
mod tests {
    use net::{Gso, Offload, PacketPool};

    use super::*;

    const SECOND: u64 = 1_000_000_000;

    fn policy(rate_bps: u64, burst_bytes: u64, queue_bytes: u64) -> hostconfig::Shaper {
        hostconfig::Shaper {
            rate_bps,
            burst_bytes,
            queue_bytes,
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
        let mut queue = ShaperQueue::new(pace(rate, burst, 1 << 40), 64, Now::ZERO);
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
            now = wake.max(Now::from_nanos(now.nanos() + 1))
                + Duration::from_nanos(jitter % (late + 1));
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
        let mut queue = ShaperQueue::new(pace(8_000_000, 1_000, 1_000), 8, Now::ZERO);
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
        let mut queue = ShaperQueue::new(pace(100_000_000, 1_500, 125_000), 512, Now::ZERO);
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
        let mut queue = ShaperQueue::new(pace(8_000_000, 3_000, 1 << 20), 64, Now::ZERO);
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
        let mut queue = ShaperQueue::new(pace(8_000_000, 1_000_000, 1 << 20), 64, Now::ZERO);
        queue.enqueue(p, Now::ZERO).unwrap();
        assert_eq!(
            (queue.queued_bytes(), queue.held_segments()),
            (30_000 + 30 * 54, 30)
        );
    }

    #[test]
    fn packets_are_bounded_as_well_as_bytes() {
        let mut pool = PacketPool::new(8, 0);
        let mut queue = ShaperQueue::new(pace(8_000, 60, 1 << 20), 4, Now::ZERO);
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
        let mut queue = ShaperQueue::new(pace(8_000, 100, 1 << 20), 8, Now::ZERO);
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
            };
            let mut queue = ShaperQueue::new(pace, 64, Now::ZERO);
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
        };
        for (segments, scarce, nanos) in [
            (100, Scarce::Segments, 10_000_000),
            (100_000, Scarce::Bits, 1_000_000),
        ] {
            let mut queue = ShaperQueue::new(pace(segments), 8, Now::ZERO);
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
}
