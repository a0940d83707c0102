//! How many connections pass each function now?
//!
//! They are counted as the table of connections is looked through, piece by piece; what is shown is what the last whole look found, at most a few
//! seconds ago. A connection is its original side's, and one that is over is none.
//!
//! # Cost
//! For each connection that is looked at, one look at its program; nothing where this host has no function.

use nfv::conntrack::{Entry, Side};

use super::{ProgramId, Programs, tables::HopId};
use crate::stats::Counters;

/// What the look that is under way has found.
#[derive(Debug, Default)]
pub(super) struct Active {
    by_hop: Vec<u64>,
}

impl Active {
    /// Of a connection that goes on.
    pub(super) fn count(&mut self, programs: &Programs, entry: &Entry) {
        if entry.stage().is_over() {
            return;
        }
        let program = entry.side(Side::Original).program();
        let flow = programs.get(ProgramId::from_number(program));
        for HopId(hop) in flow.iter().flat_map(|flow| &flow.hops) {
            let at = *hop as usize;
            if at >= self.by_hop.len() {
                self.by_hop.resize(at + 1, 0);
            }
            if let Some(count) = self.by_hop.get_mut(at) {
                *count += 1;
            }
        }
    }

    /// The look is whole: its counts are what is shown, and the next begins.
    pub(super) fn show(&mut self, counters: &mut Counters) {
        for hop in &mut counters.hops {
            hop.active = 0;
        }
        for (at, count) in (0u32..).zip(&mut self.by_hop) {
            let found = std::mem::take(count);
            if found > 0 {
                counters.hop(HopId(at)).active = found;
            }
        }
    }
}
