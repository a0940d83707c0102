//! Until when does this host have what another could have too?
//!
//! The agent extends the lease while its controller hears it; workers look at it at the beginning of each turn, by their own reading of the clock. So
//! a host whose agent hangs gives up in time what could move: tables that have such things here have twins beside them that have none, and a
//! worker that finds the lease over goes on with the twin until there are other tables.
//!
//! # Invariants
//! - Once with the twin a worker does not go back: versions only grow ([`super::Tables::version`]).
//!
//! # Cost
//! One atomic load a turn, where there is a twin. Building twins costs a host with gateways a second build of each config.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use net::Now;

/// A lease that the agent extends and the workers look at.
#[derive(Debug, Default)]
pub struct Lease {
    until: AtomicU64,
    lapsed: AtomicBool,
}

impl Lease {
    /// It lasts until then.
    pub fn extend(&self, until: Now) {
        self.until.store(until.nanos(), Ordering::Release);
    }

    /// Is it over? Whoever finds so has others hear of it.
    pub fn is_over(&self, now: Now) -> bool {
        let over = now.nanos() >= self.until.load(Ordering::Acquire);
        if over {
            self.lapsed.store(true, Ordering::Release);
        }
        over
    }

    /// Did anyone find it over since this was last asked?
    pub fn has_lapsed(&self) -> bool {
        self.lapsed.swap(false, Ordering::AcqRel)
    }
}
