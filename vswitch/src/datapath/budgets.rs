//! How much of a worker may one port take?
//!
//! Three rates a port: packets that it sends, connections that begin, and misses (packets that no cache knows, which cost a walk
//! of the tables: ten times an established one). What comes from the tunnel is counted apart, for the port that it is for, so that
//! a flood from elsewhere leaves the port's own sending alone, and twice as much: one sender reaches its own limit first. What is above a rate is dropped under a reason of its own, and
//! counted at the port.
//!
//! # Invariants
//! - A port that keeps its rates loses nothing here, whatever others do.
//! - Packets of connections that are known are never counted as misses, also when their rules changed.
//!
//! # Cost
//! Sixteen bytes and a comparison a rate; a rate that is not limited costs a branch.

use std::time::Duration;

use net::{DropReason, Now, PortId, RouterId};

/// For how long a port may have saved what it did not use.
const SAVED: Duration = Duration::from_millis(100);

/// The rates of a port; 0 is no limit. Of all workers together: each has its share.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rates {
    /// Packets (segments of super-frames) that it sends, a second.
    pub packets: u32,
    /// Connections that begin, a second.
    pub connections: u32,
    /// Packets that no cache knows, a second.
    pub misses: u32,
    /// Packets that are dropped, a second: whose are more is read less often ([`crate::worker`]).
    pub drops: u32,
}

impl Rates {
    /// No limits.
    pub const NONE: Self = Self {
        packets: 0,
        connections: 0,
        misses: 0,
        drops: 0,
    };
}

impl Default for Rates {
    /// A connection that begins takes some ten microseconds, with reading and writing: half a worker for who floods, and more than a server
    /// accepts. To read what is dropped takes two.
    fn default() -> Self {
        Self {
            packets: 0,
            connections: 50_000,
            misses: 50_000,
            drops: 20_000,
        }
    }
}

/// What is taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Budget {
    Packets,
    Connections,
    Misses,
}

impl Budget {
    pub(super) fn reason(self) -> DropReason {
        match self {
            Self::Packets => DropReason::PacketBudget,
            Self::Connections => DropReason::ConnectionBudget,
            Self::Misses => DropReason::MissBudget,
        }
    }
}

/// Whose budget.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Payer {
    /// What the port sends.
    From(PortId),
    /// What comes from the tunnel for the port.
    To(PortId),
    /// What comes from the tunnel for this router, whose gateway is here.
    Gateway(RouterId),
    /// What comes from the tunnel for nobody here.
    Nobody,
}

impl Payer {
    fn index(self) -> usize {
        match self {
            Self::Nobody => 0,
            Self::From(port) => 1 + port.index() * 3,
            Self::To(port) => 2 + port.index() * 3,
            Self::Gateway(router) => 3 + router.index() * 3,
        }
    }

    pub(super) fn port(self) -> Option<PortId> {
        match self {
            Self::From(port) | Self::To(port) => Some(port),
            Self::Gateway(_) | Self::Nobody => None,
        }
    }
}

/// When what was taken so far would have been saved up, by budget (GCRA, ITU-T I.371).
type Paid = [u64; 3];

/// The budgets of one worker's ports.
#[derive(Debug)]
pub(super) struct Budgets {
    /// Nanoseconds that one of each costs; 0: nothing.
    prices: [u64; 3],
    paid: Vec<Paid>,
}

impl Budgets {
    pub(super) fn new(rates: Rates, workers: u16) -> Self {
        let price = |rate: u32| {
            let share = u64::from(rate).div_ceil(u64::from(workers.max(1)));
            1_000_000_000u64.checked_div(share).unwrap_or(0)
        };
        Self {
            prices: [rates.packets, rates.connections, rates.misses].map(price),
            paid: Vec::new(),
        }
    }

    /// Takes so many, if they are there.
    pub(super) fn take(&mut self, payer: Payer, what: Budget, count: u32, now: Now) -> bool {
        let [packets, connections, misses] = self.prices;
        let price = match what {
            Budget::Packets => packets,
            Budget::Connections => connections,
            Budget::Misses => misses,
        };
        let price = match payer {
            // The sender's limit is the one that a flood of one port reaches; a gateway is many ports'.
            Payer::To(_) | Payer::Gateway(_) => price.div_ceil(2),
            Payer::From(_) | Payer::Nobody => price,
        };
        if price == 0 {
            return true;
        }
        let at = payer.index();
        if at >= self.paid.len() {
            self.paid.resize(at + 1, Paid::default());
        }
        let Some(paid) = self.paid.get_mut(at).and_then(|p| p.get_mut(what as usize)) else {
            return true;
        };
        let now = now.nanos();
        let saved = u64::try_from(SAVED.as_nanos()).unwrap_or(0);
        if *paid > now.saturating_add(saved) {
            return false;
        }
        *paid = (*paid)
            .max(now)
            .saturating_add(price.saturating_mul(count.into()));
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_holds_over_time_with_what_was_saved_before() {
        let rates = Rates {
            misses: 1000,
            ..Rates::NONE
        };
        let mut budgets = Budgets::new(rates, 2);
        let mut now = Now::from_nanos(5_000_000_000);
        let payer = Payer::From(PortId(3));
        let mut passed = 0;
        for _ in 0..10_000 {
            passed += u32::from(budgets.take(payer, Budget::Misses, 1, now));
            now = now + Duration::from_micros(100);
        }
        // Half of it is this worker's, for a second, and a tenth of a second's from before.
        assert!((550..=552).contains(&passed), "{passed}");
        // Twice as much may come for it.
        let mut got = 0;
        for _ in 0..10_000 {
            now = now + Duration::from_micros(100);
            got += u32::from(budgets.take(Payer::To(PortId(4)), Budget::Misses, 1, now));
        }
        assert!((1100..=1104).contains(&got), "{got}");
        // Others have their own, and what is not limited passes.
        for payer in [Payer::To(PortId(3)), Payer::Nobody, Payer::From(PortId(4))] {
            assert!(budgets.take(payer, Budget::Misses, 1, now), "{payer:?}");
        }
        assert!((0..10_000).all(|_| budgets.take(payer, Budget::Connections, 1, now)));
    }

    #[test]
    fn a_super_frame_takes_as_many_as_it_has_segments() {
        let rates = Rates {
            packets: 1000,
            ..Rates::NONE
        };
        let mut budgets = Budgets::new(rates, 1);
        let now = Now::from_nanos(5_000_000_000);
        let payer = Payer::From(PortId(0));
        let passed = (0..100).filter(|_| budgets.take(payer, Budget::Packets, 40, now));
        assert_eq!(
            passed.count(),
            3,
            "100 were saved: two and a half, and one that begins in time"
        );
    }
}
