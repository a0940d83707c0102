//! Is every packet accounted for?
//!
//! # Invariants
//! Per worker, in segments: rx + originated + copies + handed in = tx + dropped + consumed + held + handed over. Summed over the
//! workers of a host, what is in no ring between them cancels out.

use net::{Consumed, Copied, DropReason, Originated};
use serde::Serialize;

/// Segments by how they began and ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ledger {
    /// Read from devices and tunnels.
    pub rx: u64,
    /// Made here.
    pub originated: [u64; Originated::COUNT],
    /// Multiplied here.
    pub copies: [u64; Copied::COUNT],
    /// Got from another worker.
    pub handed_in: u64,
    /// Given to devices and the underlay.
    pub tx: u64,
    /// Dropped.
    pub dropped: [u64; DropReason::COUNT],
    /// Meant for the switch.
    pub consumed: [u64; Consumed::COUNT],
    /// Waiting in queues.
    pub held: u64,
    /// Given to another worker.
    pub handed_over: u64,
}

/// The two sides of a ledger that does not balance.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, thiserror::Error)]
#[error("segments do not add up: {begun} began, {ended} ended")]
pub struct Unbalanced {
    /// How many began.
    pub begun: u64,
    /// How many ended, or wait.
    pub ended: u64,
}

impl Default for Ledger {
    fn default() -> Self {
        Self {
            rx: 0,
            originated: [0; Originated::COUNT],
            copies: [0; Copied::COUNT],
            handed_in: 0,
            tx: 0,
            dropped: [0; DropReason::COUNT],
            consumed: [0; Consumed::COUNT],
            held: 0,
            handed_over: 0,
        }
    }
}

impl Ledger {
    /// Does the law hold?
    ///
    /// # Errors
    /// Both sums, when they differ.
    pub fn balanced(&self) -> Result<(), Unbalanced> {
        let (begun, ended) = self.sides();
        if begun == ended {
            Ok(())
        } else {
            Err(Unbalanced { begun, ended })
        }
    }

    /// How many segments the law misses: 0, or the switch has a mistake.
    pub fn unaccounted(&self) -> u64 {
        let (begun, ended) = self.sides();
        begun.abs_diff(ended)
    }

    fn sides(&self) -> (u64, u64) {
        let begun = self.rx
            + self.originated.iter().sum::<u64>()
            + self.copies.iter().sum::<u64>()
            + self.handed_in;
        let ended = self.tx
            + self.dropped.iter().sum::<u64>()
            + self.consumed.iter().sum::<u64>()
            + self.held
            + self.handed_over;
        (begun, ended)
    }

    /// How many were dropped for this reason.
    pub fn dropped(&self, reason: DropReason) -> u64 {
        self.dropped.get(reason.index()).copied().unwrap_or(0)
    }

    /// How many were dropped at all.
    pub fn dropped_total(&self) -> u64 {
        self.dropped.iter().sum()
    }

    /// Counts drops.
    pub fn drop(&mut self, reason: DropReason, segments: u64) {
        bump(&mut self.dropped, reason.index(), segments);
    }

    /// Counts what was meant for the switch.
    pub fn consume(&mut self, what: Consumed, segments: u64) {
        bump(&mut self.consumed, what.index(), segments);
    }

    /// What was meant for the switch ends otherwise after all.
    pub(super) fn take_back(&mut self, what: Consumed, segments: u64) {
        if let Some(counter) = self.consumed.get_mut(what.index()) {
            *counter = counter.saturating_sub(segments);
        }
    }

    /// Counts what the switch makes.
    pub fn originate(&mut self, what: Originated, segments: u64) {
        bump(&mut self.originated, what.index(), segments);
    }

    /// Counts what the switch multiplies.
    pub fn copy(&mut self, what: Copied, segments: u64) {
        bump(&mut self.copies, what.index(), segments);
    }

    /// The sum with another worker's.
    pub fn add(&mut self, other: &Self) {
        self.rx += other.rx;
        self.handed_in += other.handed_in;
        self.tx += other.tx;
        self.held += other.held;
        self.handed_over += other.handed_over;
        for (to, from) in self.originated.iter_mut().zip(other.originated) {
            *to += from;
        }
        for (to, from) in self.copies.iter_mut().zip(other.copies) {
            *to += from;
        }
        for (to, from) in self.dropped.iter_mut().zip(other.dropped) {
            *to += from;
        }
        for (to, from) in self.consumed.iter_mut().zip(other.consumed) {
            *to += from;
        }
    }
}

fn bump(counters: &mut [u64], at: usize, by: u64) {
    if let Some(counter) = counters.get_mut(at) {
        *counter += by;
    }
}
