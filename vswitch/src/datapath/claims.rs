//! Which worker is home to a connection whose replies hash elsewhere?
//!
//! A worker that rewrites a connection, or that owns a shaper in its way, *claims* the tuples by which its packets are known.
//! Whoever finds no record looks here before it walks, and hands the packet over.
//!
//! # Cost
//! One lock, taken on misses and when a claimed connection begins or ends; never for an established packet.

use std::sync::{Mutex, PoisonError};

use hashbrown::HashMap;
use net::{FiveTuple, Zone};

/// A worker of this switch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct WorkerId(pub u16);

type Map = HashMap<(Zone, FiveTuple), WorkerId, foldhash::fast::FixedState>;

/// The claims of all workers of one switch.
#[derive(Debug)]
pub struct Claims {
    claims: Mutex<Map>,
    capacity: usize,
}

/// There is no room for another claim.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("table of claims is full (capacity {0})")]
pub struct ClaimsFull(pub usize);

impl Claims {
    /// None yet, at most `capacity`.
    pub fn new(capacity: usize, seed: u64) -> Self {
        let map = HashMap::with_hasher(foldhash::fast::FixedState::with_seed(seed));
        Self {
            claims: Mutex::new(map),
            capacity,
        }
    }

    /// Claims a tuple.
    ///
    /// # Errors
    /// When there is no room.
    pub fn claim(&self, zone: Zone, tuple: FiveTuple, worker: WorkerId) -> Result<(), ClaimsFull> {
        let mut claims = self.claims.lock().unwrap_or_else(PoisonError::into_inner);
        if claims.len() >= self.capacity && !claims.contains_key(&(zone, tuple)) {
            return Err(ClaimsFull(self.capacity));
        }
        claims.insert((zone, tuple), worker);
        Ok(())
    }

    /// Lets go of a tuple, if it is this worker's.
    pub fn release(&self, zone: Zone, tuple: &FiveTuple, worker: WorkerId) {
        let mut claims = self.claims.lock().unwrap_or_else(PoisonError::into_inner);
        if claims.get(&(zone, *tuple)) == Some(&worker) {
            claims.remove(&(zone, *tuple));
        }
    }

    /// Whose it is.
    pub fn owner(&self, zone: Zone, tuple: &FiveTuple) -> Option<WorkerId> {
        let claims = self.claims.lock().unwrap_or_else(PoisonError::into_inner);
        claims.get(&(zone, *tuple)).copied()
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.claims
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
