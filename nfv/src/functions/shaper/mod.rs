//! When may a packet go on?
//!
//! The function decides that every packet of a connection waits in its queue; the queue, which outlives a change of the
//! chain, is a [`ShaperQueue`] that its user owns: by flow (FQ-CoDel) or first in, first out, bounded, let go by a token bucket. A port's limit
//! (QoS) has such a queue too, with a second bucket where segments are limited besides bits: a packet goes when both let it.
//!
//! # Map
//! - `queue`: what waits, and the buckets; `fq_codel`: whose turn it is; `codel`: who is told to send less
//! - `tree`: queues that share rates, and lend what they leave
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

use std::time::Duration;

use hostconfig::{Discipline, share::MAX_CLASSES};
use net::Probe;

use crate::function::{Context, Decision, NetworkFunction};

mod codel;
mod fq_codel;
mod queue;
mod tree;

pub use queue::{Loss, Pace, Scarce, ShaperQueue};
pub use tree::{Leaf, MAX_NODES, Tree, TreeFault};

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
    /// More classes than there may be.
    #[error("too many classes (at most {MAX_CLASSES}): {0}")]
    Classes(usize),
    /// More is promised than the shaper has.
    #[error("rates of classes are together above the shaper's: {0}")]
    Promised(u64),
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
        if config.classes.len() > MAX_CLASSES {
            return Err(ShaperFault::Classes(config.classes.len()));
        }
        let ceilings = config.classes.iter().map(|class| class.ceil_bps);
        if let Some(ceil) = ceilings
            .into_iter()
            .find(|ceil| !(MIN_RATE_BPS..=MAX_RATE_BPS).contains(ceil))
        {
            return Err(ShaperFault::Rate(ceil));
        }
        let rates = config.classes.iter().map(|class| class.rate_bps);
        let promised = rates.fold(0, u64::saturating_add);
        if promised > config.rate_bps {
            return Err(ShaperFault::Promised(promised));
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
        let by_flow = match self.0.queue {
            Discipline::Fifo => "",
            Discipline::FqCodel => " by flow (fq_codel)",
        };
        let (rate, queue) = (self.0.rate_bps, self.0.queue_bytes);
        match self.0.classes.len() {
            0 => note(format_args!(
                "{rate} bit/s, queue of {queue} bytes{by_flow}"
            )),
            n => note(format_args!(
                "{rate} bit/s among {n} classes by DSCP, queues of {queue} bytes{by_flow}"
            )),
        }
        Decision::Queue
    }
}

#[cfg(test)]
mod tests;
