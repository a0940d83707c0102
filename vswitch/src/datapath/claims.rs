//! Which worker is home to a connection whose replies hash elsewhere?
//!
//! A worker that rewrites a connection, or that owns a shaper in its way, *claims* the tuples by which its packets are known.
//! Whoever finds no record looks here before it walks, and hands the packet over.
//!
//! # Cost
//! One lock, taken on misses and when a claimed connection begins or ends; never for an established packet. A claim is eight bytes:
//! 48 bits of a keyed hash of the tuple, and the worker. Who shares them by chance (one of 2⁴⁸) is handed over in vain.

use std::{
    hash::BuildHasher,
    sync::{Mutex, PoisonError},
};

use hashbrown::{HashTable, hash_table::Entry};
use net::{FiveTuple, Now, Zone};
use nfv::buckets::{self, Buckets, Empty, Pace};

use super::{probes::Probes, sources::Sources};

/// A worker of this switch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct WorkerId(pub u16);

/// A claim: the hash of its tuple, the worker in its lowest bits.
#[derive(Debug, Clone, Copy)]
struct Claim(u64);

impl Claim {
    fn worker(self) -> WorkerId {
        let [low, high, ..] = self.0.to_le_bytes();
        WorkerId(u16::from_le_bytes([low, high]))
    }

    fn of(hash: u64, WorkerId(worker): WorkerId) -> Self {
        Self(hash << 16 | u64::from(worker))
    }

    /// Where it is: tables look at both ends of a hash.
    fn place(self) -> u64 {
        place(self.0 >> 16)
    }
}

fn place(hash: u64) -> u64 {
    hash | hash << 48
}

/// The claims of all workers of one switch.
#[derive(Debug)]
pub struct Claims {
    table: Mutex<HashTable<Claim>>,
    keyed: foldhash::quality::FixedState,
    sources: Sources,
    probes: Probes,
    buckets: Mutex<Buckets>,
    capacity: usize,
}

/// There is no room for another claim.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("table of claims is full (capacity {0})")]
pub struct ClaimsFull(pub usize);

impl Claims {
    /// None yet, at most `capacity`.
    pub fn new(capacity: usize, seed: u64) -> Self {
        Self {
            table: Mutex::new(HashTable::new()),
            keyed: foldhash::quality::FixedState::with_seed(seed),
            sources: Sources::new(capacity, seed),
            probes: Probes::new(seed),
            buckets: Mutex::new(Buckets::new(capacity, seed)),
            capacity,
        }
    }

    fn hash(&self, zone: Zone, tuple: &FiveTuple) -> u64 {
        self.keyed.hash_one((zone, tuple)) >> 16
    }

    /// The sources that NATs gave to connections: the workers' other common table.
    pub fn sources(&self) -> &Sources {
        &self.sources
    }

    /// What is known of the members that this host asks: also the workers' common.
    pub fn probes(&self) -> &Probes {
        &self.probes
    }

    /// Takes a token of a function's bucket, which the workers have in common.
    ///
    /// # Errors
    /// When there is none, or no room to count.
    pub fn take(&self, name: buckets::Name, pace: Pace, now: Now) -> Result<(), Empty> {
        let mut buckets = self.buckets.lock().unwrap_or_else(PoisonError::into_inner);
        buckets.take(name, pace, now)
    }

    /// Claims a tuple.
    ///
    /// # Errors
    /// When there is no room.
    pub fn claim(&self, zone: Zone, tuple: FiveTuple, worker: WorkerId) -> Result<(), ClaimsFull> {
        let hash = self.hash(zone, &tuple);
        let mut claims = self.table.lock().unwrap_or_else(PoisonError::into_inner);
        let full = claims.len() >= self.capacity;
        match claims.entry(place(hash), |c| c.0 >> 16 == hash, |c| c.place()) {
            Entry::Occupied(mut known) => *known.get_mut() = Claim::of(hash, worker),
            Entry::Vacant(_) if full => return Err(ClaimsFull(self.capacity)),
            Entry::Vacant(room) => {
                room.insert(Claim::of(hash, worker));
            }
        }
        Ok(())
    }

    /// Lets go of a tuple, if it is this worker's.
    pub fn release(&self, zone: Zone, tuple: &FiveTuple, worker: WorkerId) {
        let hash = self.hash(zone, tuple);
        let mut claims = self.table.lock().unwrap_or_else(PoisonError::into_inner);
        let mine = Claim::of(hash, worker).0;
        if let Ok(known) = claims.find_entry(place(hash), |c| c.0 == mine) {
            known.remove();
        }
    }

    /// Whose it is.
    pub fn owner(&self, zone: Zone, tuple: &FiveTuple) -> Option<WorkerId> {
        let hash = self.hash(zone, tuple);
        let claims = self.table.lock().unwrap_or_else(PoisonError::into_inner);
        let known = claims.find(place(hash), |c| c.0 >> 16 == hash)?;
        Some(known.worker())
    }

    /// How many bytes of memory they take.
    pub fn memory_bytes(&self) -> usize {
        let claims = self.table.lock().unwrap_or_else(PoisonError::into_inner);
        claims.allocation_size()
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.table
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .len()
    }

    /// Is there none?
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_claim_holds_until_its_worker_lets_go() {
        let claims = Claims::new(1, 1);
        let t = FiveTuple::default();
        claims.claim(Zone(1), t, WorkerId(1)).unwrap();
        assert_eq!(claims.claim(Zone(2), t, WorkerId(1)), Err(ClaimsFull(1)));
        claims.release(Zone(1), &t, WorkerId(0));
        assert_eq!(claims.owner(Zone(1), &t), Some(WorkerId(1)));
        claims.release(Zone(1), &t, WorkerId(1));
        assert!(claims.is_empty());
    }
}
