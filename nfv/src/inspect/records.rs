//! The inspections that a worker has room for.
//!
//! # Invariants
//! - Never more records, nor more bytes kept by them, than the limits say; of each function at most a quarter.
//! - What finds no room does not pass unread: a connection is not begun, a segment is refused, and its sender sends it again.
//! - A record goes when its connection is cleared, condemned or over. Without one a segment is undecided.
//!
//! # Cost
//! A look-up a segment. Bytes count as what is allocated for them, so the limit is one of memory.

use std::{collections::HashMap, hash::Hash, sync::Arc};

use net::tcp::TcpSegment;

use super::{
    Alerts, Inspector,
    stream::{Inspection, Refused},
};
use crate::conntrack::Side;

/// How much there may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Connections.
    pub records: usize,
    /// Bytes that they keep.
    pub bytes: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            records: 16_384,
            bytes: 32 << 20,
        }
    }
}

impl Limits {
    fn quarter(self) -> Self {
        Self {
            records: self.records / 4,
            bytes: self.bytes / 4,
        }
    }

    fn hold(self, used: Used) -> bool {
        used.records <= self.records && used.bytes <= self.bytes
    }
}

/// How much there is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Used {
    /// Connections.
    pub records: usize,
    /// Bytes that they keep.
    pub bytes: usize,
}

impl Used {
    fn with(self, records: usize, bytes: usize) -> Self {
        Self {
            records: self.records + records,
            bytes: self.bytes + bytes,
        }
    }

    fn without(self, records: usize, bytes: usize) -> Self {
        Self {
            records: self.records.saturating_sub(records),
            bytes: self.bytes.saturating_sub(bytes),
        }
    }
}

/// A segment that may pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Passed {
    /// What is only counted.
    pub alerts: Alerts,
    /// Nothing is left to inspect: the record is gone, and no segment needs to come here again.
    pub cleared: bool,
}

/// Inspections by connection `K`, each of a function `F`.
#[derive(Debug)]
pub struct Records<K, F> {
    limits: Limits,
    held: HashMap<K, (F, Inspection)>,
    total: Used,
    /// Of each function that has any.
    shares: HashMap<F, Used>,
}

impl<K: Eq + Hash, F: Copy + Eq + Hash> Records<K, F> {
    /// None yet.
    pub fn new(limits: Limits) -> Self {
        Self {
            limits,
            held: HashMap::new(),
            total: Used::default(),
            shares: HashMap::new(),
        }
    }

    /// Of all functions.
    pub fn used(&self) -> Used {
        self.total
    }

    /// Begins a connection, in place of an older one of this key. Is there room for it?
    #[must_use]
    pub fn begin(&mut self, key: K, function: F, inspector: Arc<Inspector>) -> bool {
        self.end(&key);
        if !self.has_room(function, 1, 0) {
            return false;
        }
        self.account(function, |used| used.with(1, 0));
        self.held
            .insert(key, (function, Inspection::new(inspector)));
        true
    }

    /// Judges a segment of a connection, as [`Inspection::judge`] does.
    ///
    /// # Errors
    /// Why it may not pass.
    pub fn judge(
        &mut self,
        key: &K,
        side: Side,
        segment: &TcpSegment,
        payload: &[u8],
    ) -> Result<Passed, Refused> {
        let Some((function, inspection)) = self.held.get(key) else {
            return Err(Refused::Undecided);
        };
        let (function, before) = (*function, inspection.allocated());
        let growth = inspection.growth(side, segment, payload.len());
        if growth > 0 && !self.has_room(function, 0, growth) {
            return Err(Refused::Full);
        }
        let Some((_, inspection)) = self.held.get_mut(key) else {
            return Err(Refused::Undecided);
        };
        let judged = inspection.judge(side, segment, payload);
        let (after, cleared) = (inspection.allocated(), inspection.is_cleared());
        self.account(function, |used| used.with(0, after).without(0, before));
        match judged {
            Ok(alerts) => {
                if cleared {
                    self.end(key);
                }
                Ok(Passed { alerts, cleared })
            }
            Err(refused) => {
                if matches!(refused, Refused::Condemned(_)) {
                    self.end(key);
                }
                Err(refused)
            }
        }
    }

    /// Is nothing inspected?
    pub fn is_empty(&self) -> bool {
        self.held.is_empty()
    }

    /// The inspector with which a connection began.
    pub fn inspector(&self, key: &K) -> Option<&Arc<Inspector>> {
        self.held
            .get(key)
            .map(|(_, inspection)| inspection.inspector())
    }

    /// Forgets the connections of which this does not hold.
    pub fn retain(&mut self, holds: impl Fn(&K) -> bool)
    where
        K: Clone,
    {
        let over: Vec<K> = self
            .held
            .keys()
            .filter(|key| !holds(key))
            .cloned()
            .collect();
        for key in &over {
            self.end(key);
        }
    }

    /// Forgets a connection that is over.
    pub fn end(&mut self, key: &K) {
        if let Some((function, inspection)) = self.held.remove(key) {
            let bytes = inspection.allocated();
            self.account(function, |used| used.without(1, bytes));
        }
    }

    fn has_room(&self, function: F, records: usize, bytes: usize) -> bool {
        let share = self.shares.get(&function).copied().unwrap_or_default();
        self.limits.hold(self.total.with(records, bytes))
            && self.limits.quarter().hold(share.with(records, bytes))
    }

    fn account(&mut self, function: F, change: impl Fn(Used) -> Used) {
        self.total = change(self.total);
        let share = self.shares.entry(function).or_default();
        *share = change(*share);
        if share.records == 0 {
            self.shares.remove(&function);
        }
    }
}
