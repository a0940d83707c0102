//! Which member is a number's?
//!
//! Maglev's table: every member has a permutation of all places, made from its own id alone, and the members take places in
//! turns, each the first of its permutation that is free. Weights are turns: in a round, a member has its weight's share of
//! the heaviest member's turns.
//!
//! # Invariants
//! - Shares of places are within one turn of the weights.
//! - The table follows from ids and weights, not from the order of members or the machine.
//!
//! # Cost
//! 2 bytes a place. Building takes about `size × ln(size)` steps: 40 us for 4,099 places, 1 ms for 65,537.
//!
//! # References
//! D. Eisenbud and others, Maglev: A Fast and Reliable Software Network Load Balancer, NSDI 2016, §3.4.

use crate::keyed_hash::scramble;

/// A prime: enough for members that have at least a 40th of the weight each. 8 KiB, so that a thousand load balancers cost 8 MiB.
pub(super) const SMALL: u32 = 4_099;
/// A prime, the size that the paper finds good: 128 KiB.
pub(super) const LARGE: u32 = 65_537;

/// The fewest places of the lightest member, for a spread within 1 % of the weights (the paper's "M > 100 N").
const PLACES_A_MEMBER: u64 = 100;

/// No member has taken the place yet.
const FREE: u16 = u16::MAX;

/// The table: indices of members by place.
#[derive(Debug, Clone)]
pub(super) struct Maglev(Vec<u16>);

struct Candidate {
    index: u16,
    weight: u64,
    credit: u64,
    at: u32,
    step: u32,
}

impl Maglev {
    /// From (id, weight) of each member, at most 65,535; members of no weight get no place.
    pub(super) fn new(members: &[(u128, u16)]) -> Self {
        let weights = || members.iter().map(|m| u64::from(m.1)).filter(|w| *w > 0);
        let (Some(lightest), Some(heaviest)) = (weights().min(), weights().max()) else {
            return Self(Vec::new());
        };
        let total: u64 = weights().sum();
        let size = if u64::from(SMALL) * lightest >= PLACES_A_MEMBER * total {
            SMALL
        } else {
            LARGE
        };
        let mut candidates: Vec<Candidate> = (0u16..)
            .zip(members)
            .filter(|(_, m)| m.1 > 0)
            .map(|(index, m)| Candidate {
                index,
                weight: u64::from(m.1),
                credit: 0,
                at: digest(m.0, 1, size),
                step: 1 + digest(m.0, 2, size - 1),
            })
            .collect();
        // Turns go by id, so that the order in which members are listed does not matter.
        candidates.sort_by_key(|c| members.get(usize::from(c.index)).map(|m| m.0));
        let mut places = vec![FREE; size as usize];
        let mut left = places.len();
        while left > 0 {
            for c in &mut candidates {
                c.credit += c.weight;
                if c.credit < heaviest || left == 0 {
                    continue;
                }
                c.credit -= heaviest;
                // The size is prime, so the steps visit every place: one of them is free.
                while let Some(place) = places.get_mut(c.at as usize) {
                    c.at = (c.at + c.step) % size;
                    if *place == FREE {
                        *place = c.index;
                        left -= 1;
                        break;
                    }
                }
            }
        }
        Self(places)
    }

    /// The member for this number; `None` when no member has weight.
    pub(super) fn member(&self, hash: u64) -> Option<usize> {
        // Multiply instead of modulo: the high half of the product is below the size.
        let scaled = (u128::from(hash) * self.0.len() as u128) >> 64;
        self.0
            .get(usize::try_from(scaled).ok()?)
            .map(|m| usize::from(*m))
    }

    #[cfg(test)]
    pub(super) fn places(&self) -> &[u16] {
        &self.0
    }
}

/// Of an id, the same on every host.
fn digest(id: u128, salt: u64, below: u32) -> u32 {
    #[expect(clippy::cast_possible_truncation, reason = "both halves are wanted")]
    let (low, high) = (id as u64, (id >> 64) as u64);
    let word = scramble(scramble(low ^ salt.wrapping_mul(0x9e37_79b9_7f4a_7c15)) ^ high);
    u32::try_from((u128::from(word) * u128::from(below)) >> 64).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ids(n: u128) -> Vec<(u128, u16)> {
        // Ids as an API gives them: random, here from a fixed sequence.
        (1..=n)
            .map(|i| {
                let half = |salt| u128::from(scramble(salt + u64::try_from(i).unwrap()));
                (half(7) << 64 | half(1 << 40), 1)
            })
            .collect()
    }

    /// Of the places that were not the removed member's: how many changed, in 10,000.
    fn moved(members: &[(u128, u16)], removed: usize) -> usize {
        let before = Maglev::new(members);
        let mut rest = members.to_vec();
        let gone = rest.remove(removed).0;
        let after = Maglev::new(&rest);
        assert_eq!(before.places().len(), after.places().len());
        let pairs = before.places().iter().zip(after.places());
        let ids = pairs.map(|(b, a)| (members[usize::from(*b)].0, rest[usize::from(*a)].0));
        let (kept, moved) = ids
            .filter(|(b, _)| *b != gone)
            .fold(
                (0, 0),
                |(k, m), (b, a)| if a == b { (k + 1, m) } else { (k, m + 1) },
            );
        moved * 10_000 / (kept + moved)
    }

    #[test]
    fn every_member_has_its_share() {
        for n in [1, 2, 3, 10, 40, 100, 500] {
            let table = Maglev::new(&ids(n));
            let mut counts = vec![0usize; usize::try_from(n).unwrap()];
            table
                .places()
                .iter()
                .for_each(|p| counts[usize::from(*p)] += 1);
            let (min, max) = (counts.iter().min().unwrap(), counts.iter().max().unwrap());
            assert!(max - min <= 1, "{n} members: {min}..{max}");
        }
    }

    #[test]
    fn shares_follow_weights() {
        let mut members = ids(4);
        for (m, w) in members.iter_mut().zip([0, 1, 10, 256]) {
            m.1 = w;
        }
        let table = Maglev::new(&members);
        for (i, w) in [(0u16, 0usize), (1, 1), (2, 10), (3, 256)] {
            let places = table.places().iter().filter(|p| **p == i).count();
            let exact = table.places().len() * w / 267;
            assert!(
                places.abs_diff(exact) <= 1 + exact / 100,
                "{i}: {places}, {exact}"
            );
        }
        assert!(Maglev::new(&[(1, 0)]).member(77).is_none());
        assert!(Maglev::new(&[]).member(77).is_none());
    }

    #[test]
    fn removing_one_of_ten_moves_at_most_two_in_a_hundred_of_the_others() {
        let members = ids(10);
        let worst = (0..10).map(|i| moved(&members, i)).max().unwrap();
        assert!(worst <= 200, "{worst} of 10,000");
    }

    #[test]
    fn the_order_of_members_does_not_matter() {
        let members = ids(7);
        let mut turned = members.clone();
        turned.rotate_left(3);
        let (a, b) = (Maglev::new(&members), Maglev::new(&turned));
        for h in (0..1000u64).map(scramble) {
            assert_eq!(members[a.member(h).unwrap()], turned[b.member(h).unwrap()]);
        }
    }
}
