//! Whose turn is it?
//!
//! Members in rounds, in each of which one has its weight's share of the heaviest's turns. So over any run of connections each member
//! is within two turns of its share, which a hash (`maglev.rs`) is by chance alone. Each switch counts for itself, and begins with whom
//! its first connection's hash says: else a change would have all begin with the same members.
//!
//! # Cost
//! Two bytes a turn, 2 MiB at most (4,096 members of weights without a common divisor); a choice is one atomic step, whoever else chooses.

use std::sync::atomic::{AtomicUsize, Ordering};

/// Nobody had a turn.
const NEW: usize = usize::MAX;

/// Indices of members by turn, and the last one that was taken.
#[derive(Debug)]
pub(super) struct Turns {
    order: Vec<u16>,
    last: AtomicUsize,
}

impl Turns {
    /// From the weight of each member; members of no weight have no turn.
    pub(super) fn new(weights: &[u16]) -> Self {
        let divisor = weights.iter().fold(0, |a, b| common(a, u32::from(*b)));
        let weights = weights.iter().map(|w| u32::from(*w) / divisor.max(1));
        let weights: Vec<u32> = weights.collect();
        let heaviest = weights.iter().copied().max().unwrap_or(0);
        let mut order = Vec::new();
        for round in 0..heaviest {
            for (index, weight) in (0u16..).zip(&weights) {
                if (round + 1) * weight / heaviest > round * weight / heaviest {
                    order.push(index);
                }
            }
        }
        let last = AtomicUsize::new(NEW);
        Self { order, last }
    }

    /// The member whose turn it is; `None` when none has weight. It is had, unless it is only asked for.
    pub(super) fn member(&self, hash: u64, had: bool) -> Option<usize> {
        let turns = self.order.len();
        if turns == 0 {
            return None;
        }
        let scaled = (u128::from(hash) * turns as u128) >> 64;
        let first = usize::try_from(scaled).ok()?;
        let next = |last: usize| {
            if last == NEW {
                first
            } else {
                (last + 1) % turns
            }
        };
        let last = if had {
            let step = |last| Some(next(last));
            let order = Ordering::Relaxed;
            self.last.fetch_update(order, order, step).ok()?
        } else {
            self.last.load(Ordering::Relaxed)
        };
        self.order.get(next(last)).map(|index| usize::from(*index))
    }
}

/// The largest common divisor.
const fn common(mut a: u32, mut b: u32) -> u32 {
    while b != 0 {
        (a, b) = (b, a % b);
    }
    a
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn over_any_run_each_is_within_two_turns_of_its_share() {
        for weights in [
            &[1][..],
            &[1, 1, 1],
            &[1, 2, 3],
            &[1, 2, 1, 2, 1, 2, 1, 2, 1, 2],
            &[256, 1],
            &[0, 7, 5, 0, 11],
            &[255, 254, 253, 2],
        ] {
            let total: u32 = weights.iter().map(|w| u32::from(*w)).sum();
            for hash in [0, u64::MAX / 3, u64::MAX] {
                let turns = Turns::new(weights);
                let mut counts = vec![0; weights.len()];
                for turn in 1..=2_000_u32 {
                    counts[turns.member(hash, true).unwrap()] += 1;
                    for (count, weight) in counts.iter().zip(weights) {
                        let share = f64::from(turn) * f64::from(*weight) / f64::from(total);
                        let off = f64::from(*count) - share;
                        assert!(off.abs() < 2.0, "{weights:?}: {counts:?} after {turn}");
                    }
                }
            }
        }
    }

    #[test]
    fn equal_members_take_turns_and_a_question_takes_none() {
        let turns = Turns::new(&[4, 4, 4]);
        let first = turns.member(9, false);
        assert_eq!(turns.member(9, false), first);
        let taken: Vec<_> = (0..6).map(|_| turns.member(9, true).unwrap()).collect();
        assert_eq!(Some(taken[0]), first);
        assert_eq!(taken[..3], taken[3..]);
        assert_ne!(taken[0], taken[1]);
        assert_ne!(taken[1], taken[2]);
        assert_ne!(taken[2], taken[0]);
    }

    #[test]
    fn without_weight_nobody_has_a_turn() {
        for weights in [&[][..], &[0, 0]] {
            assert_eq!(Turns::new(weights).member(1, true), None);
        }
    }

    #[test]
    fn workers_that_choose_at_once_take_different_turns() {
        let turns = Turns::new(&[1, 2, 1]);
        let counts = std::thread::scope(|scope| {
            let workers = [1, 2, 3, 4].map(|hash| {
                let turns = &turns;
                scope.spawn(move || {
                    let mut counts = [0; 3];
                    (0..1_000).for_each(|_| counts[turns.member(hash, true).unwrap()] += 1);
                    counts
                })
            });
            workers.map(|worker| worker.join().unwrap())
        });
        let sum = |member: usize| counts.iter().map(|c| c[member]).sum::<u32>();
        assert_eq!([0, 1, 2].map(sum), [1_000, 2_000, 1_000]);
    }
}
