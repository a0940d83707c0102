//! Who has begun how much of late?
//!
//! Token buckets by name: those that functions ask for with [`Decision::Spend`](crate::Decision). They outlive a change of the chain,
//! so the table is its user's; a function says only whose token it wants, and at which pace they come.
//!
//! A bucket is exact: it counts in hours times nanoseconds of a token, so that no remainder is lost at any pace a second, a
//! minute or an hour.
//!
//! # Invariants
//! - Over any time, tokens taken of a bucket <= its burst + pace × time.
//! - `len() <= capacity`, and no function has more than a quarter of them.
//! - What is forgotten was full again: a bucket that is not there is a full one.
//!
//! # Attack
//! A crowd of sources fills its own function's share, not the table. Past that whoever is not known is refused until a bucket is full
//! again: for the one who must hold to a limit a full table is closed. It is swept ten times a second at most.
//!
//! # Cost
//! One hash for a connection that begins, about 80 bytes a bucket. A sweep of 65,536 takes some 300 us.

use std::{net::IpAddr, time::Duration};

use hashbrown::{HashMap, hash_map::Entry};
use net::{Id, Now, Zone, ids::kind};

/// The most buckets of one table.
pub const MAX_BUCKETS: usize = 65_536;
/// What part of the table one function may have.
const SHARES: usize = 4;
/// From one sweep to the next, at least.
const SWEEP: Duration = Duration::from_millis(100);
/// A token: an hour, in nanoseconds.
const TOKEN: u64 = 3_600_000_000_000;
/// The largest burst: it fits a level.
pub const MAX_BURST: u32 = 1_000_000;

/// How fast tokens come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pace {
    /// How many in an hour.
    pub per_hour: u64,
    /// How many there may be; at most [`MAX_BURST`].
    pub burst: u32,
}

/// Whose bucket.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Name {
    /// The function's.
    pub function: Id<kind::Function>,
    /// One for each of these; `None`: one for all.
    pub of: Option<(Zone, IpAddr)>,
}

/// There is no token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Empty {
    /// All are taken.
    Spent,
    /// There is no room for another bucket.
    NoRoom,
}

#[derive(Debug)]
struct Bucket {
    /// In parts of a token, at `at`.
    level: u64,
    at: Now,
    full_at: Now,
}

/// Buckets by name.
#[derive(Debug)]
pub struct Buckets {
    table: HashMap<Name, Bucket, foldhash::quality::FixedState>,
    /// How many each function has.
    held: HashMap<Id<kind::Function>, usize, foldhash::fast::FixedState>,
    capacity: usize,
    swept: Option<Now>,
}

impl Buckets {
    /// None yet, at most `capacity` and [`MAX_BUCKETS`].
    pub fn new(capacity: usize, seed: u64) -> Self {
        Self {
            table: HashMap::with_hasher(foldhash::quality::FixedState::with_seed(seed)),
            held: HashMap::with_hasher(foldhash::fast::FixedState::with_seed(seed)),
            capacity: capacity.min(MAX_BUCKETS),
            swept: None,
        }
    }

    /// Takes a token.
    ///
    /// # Errors
    /// When there is none, or no room to count.
    pub fn take(&mut self, name: Name, pace: Pace, now: Now) -> Result<(), Empty> {
        let full = u64::from(pace.burst.min(MAX_BURST)) * TOKEN;
        if !self.table.contains_key(&name) && !self.has_room(name.function, now) {
            return Err(Empty::NoRoom);
        }
        let bucket = match self.table.entry(name) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(room) => {
                *self.held.entry(name.function).or_default() += 1;
                room.insert(Bucket {
                    level: full,
                    at: now,
                    full_at: now,
                })
            }
        };
        let came = u128::from(pace.per_hour) * now.since(bucket.at).as_nanos();
        let level = u128::from(bucket.level) + came;
        let level = u64::try_from(level).unwrap_or(u64::MAX).min(full);
        // Workers read the clock apart: a bucket's time never goes back.
        bucket.at = bucket.at.max(now);
        let left = level.checked_sub(TOKEN);
        bucket.level = left.unwrap_or(level);
        let missing = (full - bucket.level).div_ceil(pace.per_hour.max(1));
        bucket.full_at = bucket.at + Duration::from_nanos(missing);
        left.map(|_| ()).ok_or(Empty::Spent)
    }

    fn has_room(&mut self, function: Id<kind::Function>, now: Now) -> bool {
        if self.fits(function) {
            return true;
        }
        if self.swept.is_some_and(|at| now.since(at) < SWEEP) {
            return false;
        }
        self.swept = Some(now);
        let held = &mut self.held;
        self.table.retain(|name, bucket| {
            let stays = bucket.full_at > now;
            if !stays && let Some(count) = held.get_mut(&name.function) {
                *count -= 1;
            }
            stays
        });
        held.retain(|_, count| *count > 0);
        self.fits(function)
    }

    fn fits(&self, function: Id<kind::Function>) -> bool {
        let held = self.held.get(&function).copied().unwrap_or(0);
        self.table.len() < self.capacity && held < self.capacity.div_ceil(SHARES)
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.table.len()
    }

    /// Is there none?
    pub fn is_empty(&self) -> bool {
        self.table.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    fn name(function: u128, source: Option<u8>) -> Name {
        Name {
            function: uuid(function),
            of: source.map(|n| (Zone(1), IpAddr::from([10, 0, 0, n]))),
        }
    }

    fn uuid(n: u128) -> Id<kind::Function> {
        format!("{n:032x}").parse().unwrap()
    }

    const MS: u64 = 1_000_000;

    /// What was taken of a bucket, and when: one more may be if no time up to now has too many, whenever that began.
    fn may_take(taken: &[u64], pace: Pace, now: u64) -> bool {
        let mut starts = (0u128..).zip(taken);
        starts.all(|(before, start)| {
            let within = taken.len() as u128 - before + 1;
            let spent = within * u128::from(TOKEN);
            let burst = u128::from(pace.burst) * u128::from(TOKEN);
            spent <= burst + u128::from(pace.per_hour) * u128::from(now - start)
        }) && pace.burst > 0
    }

    proptest! {
        /// Also with little room: what is forgotten was full again.
        #[test]
        fn takes_are_those_that_no_time_forbids(
            per_hour in prop_oneof![Just(1u64), Just(3_600), Just(36_000), 1u64..100_000_000],
            burst in 1u32..6,
            capacity in prop_oneof![Just(4usize), Just(100)],
            events in proptest::collection::vec((0u8..6, 0u64..700), 1..120),
        ) {
            let pace = Pace { per_hour, burst };
            let mut buckets = Buckets::new(capacity, 7);
            let mut taken: BTreeMap<u8, Vec<u64>> = BTreeMap::new();
            let mut now = 0;
            for (source, pause) in events {
                now += pause * MS;
                let answer = buckets.take(name(1, Some(source)), pace, Now::from_nanos(now));
                prop_assert!(buckets.len() <= capacity);
                let before = taken.entry(source).or_default();
                match answer {
                    Ok(()) => {
                        prop_assert!(may_take(before, pace, now));
                        before.push(now);
                    }
                    Err(Empty::Spent) => prop_assert!(!may_take(before, pace, now)),
                    Err(Empty::NoRoom) => prop_assert!(capacity < 100),
                }
            }
        }
    }

    #[test]
    fn a_crowd_fills_its_own_functions_share() {
        let pace = Pace {
            per_hour: 3_600,
            burst: 1,
        };
        let mut buckets = Buckets::new(8, 7);
        let mut take = |f, n, now| buckets.take(name(f, Some(n)), pace, Now::from_nanos(now));
        assert_eq!([0, 1].map(|n| take(1, n, 0)), [Ok(()); 2]);
        assert_eq!(take(1, 2, MS), Err(Empty::NoRoom), "a quarter of eight");
        assert_eq!(take(2, 0, MS), Ok(()), "another function has its own");
        assert_eq!(take(1, 1, MS), Err(Empty::Spent), "who is known is judged");
        assert_eq!(take(1, 2, 1_000 * MS), Ok(()), "they are full again");
        assert_eq!(buckets.len(), 2, "and forgotten");
    }

    #[test]
    fn a_new_pace_holds_for_what_was_taken_before() {
        let slow = Pace {
            per_hour: 1,
            burst: 2,
        };
        let mut buckets = Buckets::new(8, 7);
        let all = name(1, None);
        let at = |s: u64| Now::from_nanos(s * 1_000 * MS);
        assert_eq!(buckets.take(all, slow, at(0)), Ok(()));
        assert_eq!(buckets.take(all, slow, at(1)), Ok(()));
        assert_eq!(buckets.take(all, slow, at(2)), Err(Empty::Spent));
        let fast = Pace {
            per_hour: 3_600,
            burst: 1,
        };
        assert_eq!(buckets.take(all, fast, at(3)), Ok(()));
        assert_eq!(buckets.take(all, fast, at(3)), Err(Empty::Spent));
    }
}
