//! When may a packet go on?
//!
//! The function decides that every packet of a connection waits in its queue; the queue, which outlives a change of the
//! chain, is a [`ShaperQueue`] that its user owns: first in, first out, bounded, let go by a token bucket.
//!
//! The bucket is exact: it counts in bits times nanoseconds, so that no remainder is ever lost, and a packet that costs more
//! than the whole bucket (a super-frame) goes when the bucket is full and leaves it in debt. While packets wait, credit is
//! not cut at the burst but at [`LATENESS`] of the rate: who polls late makes up for it.
//!
//! # Invariants
//! - Over any time in which packets wait, bits let go = rate × time, within the burst and one packet.
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
        _cx: &Context,
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

/// Bits times nanoseconds.
fn cost(bytes: u64) -> i128 {
    i128::from(bytes) * 8 * NANOS
}

/// A shaper's queue and bucket.
#[derive(Debug)]
pub struct ShaperQueue {
    waiting: VecDeque<Packet>,
    waiting_bytes: u64,
    max_packets: usize,
    rate: i128,
    burst: i128,
    queue_bytes: u64,
    credit: i128,
    filled: Now,
}

impl ShaperQueue {
    /// An empty queue of at most `max_packets`, its bucket full.
    pub fn new(policy: &hostconfig::Shaper, max_packets: usize, now: Now) -> Self {
        Self {
            waiting: VecDeque::new(),
            waiting_bytes: 0,
            max_packets,
            rate: i128::from(policy.rate_bps.max(1)),
            burst: cost(policy.burst_bytes),
            queue_bytes: policy.queue_bytes,
            credit: cost(policy.burst_bytes),
            filled: now,
        }
    }

    /// Goes on with another policy; what waits stays, even where it would not have been let in.
    pub fn reshape(&mut self, policy: &hostconfig::Shaper, now: Now) {
        self.fill(now);
        self.rate = i128::from(policy.rate_bps.max(1));
        self.burst = cost(policy.burst_bytes);
        self.queue_bytes = policy.queue_bytes;
        self.credit = self.credit.min(self.burst);
    }

    fn fill(&mut self, now: Now) {
        let elapsed = i128::from(now.nanos().saturating_sub(self.filled.nanos()));
        self.filled = self.filled.max(now);
        let most = if self.waiting.is_empty() {
            self.burst
        } else {
            self.burst
                .max(self.rate * i128::try_from(LATENESS.as_nanos()).unwrap_or(0))
        };
        self.credit = (self.credit + self.rate * elapsed).min(most);
    }

    /// What the bucket must hold before these bytes may go.
    fn needed(&self, bytes: u64) -> i128 {
        cost(bytes).min(self.burst)
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

    /// The next packet that may go now.
    pub fn dequeue(&mut self, now: Now) -> Option<Packet> {
        let bytes = self.waiting.front()?.wire_bytes();
        self.fill(now);
        if self.credit < self.needed(bytes) {
            return None;
        }
        self.credit -= cost(bytes);
        self.waiting_bytes = self.waiting_bytes.saturating_sub(bytes);
        self.waiting.pop_front()
    }

    /// When the next packet may go: `now` if it already may, `None` if none waits.
    pub fn next_wake(&self, now: Now) -> Option<Now> {
        let needed = self.needed(self.waiting.front()?.wire_bytes());
        let missing = needed - self.credit;
        // Rounded up: a poll at that very time finds the credit.
        let nanos = u64::try_from((missing + self.rate - 1).div_euclid(self.rate)).unwrap_or(0);
        Some((self.filled + Duration::from_nanos(nanos)).max(now))
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

    fn packet(pool: &mut PacketPool, len: usize) -> Packet {
        let mut p = pool.take(len).unwrap();
        p.set_len(len).unwrap();
        p
    }

    /// Keeps the queue full for ten seconds and polls as it asks, up to `late` after that; returns the bytes let go.
    fn run(rate: u64, burst: u64, sizes: &[usize], late: u64) -> u64 {
        let mut pool = PacketPool::new(512, 512);
        let mut queue = ShaperQueue::new(&policy(rate, burst, 1 << 40), 64, Now::ZERO);
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
        let mut queue = ShaperQueue::new(&policy(8_000_000, 1_000, 1_000), 8, Now::ZERO);
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
        let mut queue = ShaperQueue::new(&policy(100_000_000, 1_500, 125_000), 512, Now::ZERO);
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
        let mut queue = ShaperQueue::new(&policy(8_000_000, 3_000, 1 << 20), 64, Now::ZERO);
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
        let mut queue = ShaperQueue::new(&policy(8_000_000, 1_000_000, 1 << 20), 64, Now::ZERO);
        queue.enqueue(p, Now::ZERO).unwrap();
        assert_eq!(
            (queue.queued_bytes(), queue.held_segments()),
            (30_000 + 30 * 54, 30)
        );
    }

    #[test]
    fn packets_are_bounded_as_well_as_bytes() {
        let mut pool = PacketPool::new(8, 0);
        let mut queue = ShaperQueue::new(&policy(8_000, 60, 1 << 20), 4, Now::ZERO);
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
        let mut queue = ShaperQueue::new(&policy(8_000, 100, 1 << 20), 8, Now::ZERO);
        for _ in 0..3 {
            let p = packet(&mut pool, 100);
            queue.enqueue(p, Now::ZERO).unwrap();
        }
        assert!(queue.dequeue(Now::ZERO).is_some());
        assert_eq!(
            queue.next_wake(Now::ZERO),
            Some(Now::from_nanos(100_000_000))
        );
        queue.reshape(&policy(80_000, 100, 1), Now::from_nanos(50_000_000));
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
}
