//! In which entry is this tuple?
//!
//! A hash index beside the flat table: buckets of one cache line, each ten tags (16 bits of the hash) and ten places. A key
//! whose bucket is full goes to the next one, and the full one counts it as passed on; so a miss ends at the first bucket
//! that passed nothing on, and a removal leaves no tombstone.
//!
//! # Invariants
//! - Every key stands at most [`MAX_BUCKETS`] from its home, and each bucket between has a count above zero.
//!
//! # Attack
//! The hash is keyed ([`crate::keyed_hash`]). Keys that crowd one spot all the same are refused instead of searched for.
//!
//! # Cost
//! A look-up reads one line here at 60 % load (6 % of buckets pass on), then the entry's side. 21 bytes a connection.

use net::{FiveTuple, Zone};

use super::{ConnId, Side};
use crate::keyed_hash::KeyedHash;

const SLOTS: usize = 10;
/// How many buckets a key may be away from its home.
pub(super) const MAX_BUCKETS: usize = 16;

/// A place in the table: entry and side in one word.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Place(u32);

impl Place {
    pub(super) fn new(conn: ConnId, side: Side) -> Self {
        Self(conn.0 << 1 | side as u32)
    }

    pub(super) fn conn(self) -> ConnId {
        ConnId(self.0 >> 1)
    }

    pub(super) fn side(self) -> Side {
        if self.0 & 1 == 0 {
            Side::Original
        } else {
            Side::Reply
        }
    }
}

/// The hash of a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KeyHash(u64);

impl KeyHash {
    fn tag(self) -> u16 {
        let [.., low, high] = self.0.to_le_bytes();
        // Zero means empty.
        u16::from_le_bytes([low, high]).max(1)
    }
}

/// Too many keys want the same spot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Crowded;

#[derive(Debug, Clone, Copy)]
#[repr(C, align(64))]
struct Bucket {
    tags: [u16; SLOTS],
    passed_on: u16,
    _fill: u16,
    places: [u32; SLOTS],
}

const _: () = assert!(size_of::<Bucket>() == 64);

const EMPTY: Bucket = Bucket {
    tags: [0; SLOTS],
    passed_on: 0,
    _fill: 0,
    places: [0; SLOTS],
};

impl Bucket {
    /// Bit i: slot i has this tag.
    fn matches(&self, tag: u16) -> u32 {
        let bits = self.tags.iter().enumerate();
        bits.fold(0, |bits, (i, t)| bits | u32::from(*t == tag) << i)
    }
}

#[derive(Debug)]
pub(super) struct Index {
    buckets: Vec<Bucket>,
    keyed: KeyedHash,
}

impl Index {
    /// For so many connections, two keys each.
    pub(super) fn new(connections: usize, seed: u64) -> Self {
        // 60 % full when the table is.
        let buckets = (connections * 2).div_ceil(SLOTS * 6 / 10).max(1);
        Self {
            buckets: vec![EMPTY; buckets],
            keyed: KeyedHash::new(seed),
        }
    }

    pub(super) fn hash(&self, zone: Zone, tuple: &FiveTuple) -> KeyHash {
        KeyHash(self.keyed.tuple(tuple, zone.0))
    }

    fn home(&self, hash: KeyHash) -> usize {
        // Multiply instead of modulo; the bucket comes from the low half, the tag from the top.
        let scaled = (hash.0 & 0xffff_ffff) * (self.buckets.len() as u64);
        usize::try_from(scaled >> 32).unwrap_or(0)
    }

    fn after(&self, at: usize) -> usize {
        if at + 1 == self.buckets.len() {
            0
        } else {
            at + 1
        }
    }

    /// Brings the key's bucket into the cache: a read that nothing waits for.
    pub(super) fn touch(&self, hash: KeyHash) -> u16 {
        self.buckets.get(self.home(hash)).map_or(0, |b| b.passed_on)
    }

    /// The first place with the key's tag that `is` says is the key's.
    pub(super) fn find(&self, hash: KeyHash, mut is: impl FnMut(Place) -> bool) -> Option<Place> {
        let tag = hash.tag();
        let mut at = self.home(hash);
        for _ in 0..MAX_BUCKETS {
            let bucket = self.buckets.get(at)?;
            let mut bits = bucket.matches(tag);
            while bits != 0 {
                let place = Place(*bucket.places.get(bits.trailing_zeros() as usize)?);
                if is(place) {
                    return Some(place);
                }
                bits &= bits - 1;
            }
            if bucket.passed_on == 0 {
                return None;
            }
            at = self.after(at);
        }
        None
    }

    /// Adds a key that is not there.
    pub(super) fn insert(&mut self, hash: KeyHash, place: Place) -> Result<(), Crowded> {
        let mut at = self.home(hash);
        let mut distance = 0;
        while self.buckets.get(at).is_none_or(|b| b.matches(0) == 0) {
            distance += 1;
            if distance == MAX_BUCKETS {
                return Err(Crowded);
            }
            at = self.after(at);
        }
        let mut on_the_way = self.home(hash);
        for _ in 0..distance {
            if let Some(bucket) = self.buckets.get_mut(on_the_way) {
                bucket.passed_on = bucket.passed_on.saturating_add(1);
            }
            on_the_way = self.after(on_the_way);
        }
        let bucket = self.buckets.get_mut(at).ok_or(Crowded)?;
        let slot = bucket.matches(0).trailing_zeros() as usize;
        if let (Some(t), Some(p)) = (bucket.tags.get_mut(slot), bucket.places.get_mut(slot)) {
            (*t, *p) = (hash.tag(), place.0);
        }
        Ok(())
    }

    /// Takes a key out.
    pub(super) fn remove(&mut self, hash: KeyHash, place: Place) {
        let tag = hash.tag();
        let home = self.home(hash);
        let mut at = home;
        for distance in 0..MAX_BUCKETS {
            let Some(bucket) = self.buckets.get_mut(at) else {
                return;
            };
            let slots = bucket.tags.iter_mut().zip(&bucket.places);
            if let Some((t, _)) = slots
                .into_iter()
                .find(|(t, p)| **t == tag && **p == place.0)
            {
                *t = 0;
                self.forget_passed(home, distance);
                return;
            }
            at = self.after(at);
        }
    }

    fn forget_passed(&mut self, home: usize, distance: usize) {
        let mut at = home;
        for _ in 0..distance {
            if let Some(bucket) = self.buckets.get_mut(at)
                // A count that was ever full is no longer exact: it stays, and costs a look at the next bucket.
                && bucket.passed_on != u16::MAX
            {
                bucket.passed_on = bucket.passed_on.saturating_sub(1);
            }
            at = self.after(at);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_crowd_at_one_spot_is_refused_and_leaves_whole() {
        let mut index = Index::new(1000, 7);
        // One hash for all: the worst that an attacker could do.
        let hash = KeyHash(0x1234_5678_9abc_def0);
        let place = |n: u32| Place::new(ConnId(n), Side::Original);
        let mut n = 0;
        while index.insert(hash, place(n)) == Ok(()) {
            n += 1;
        }
        assert_eq!(n as usize, SLOTS * MAX_BUCKETS);
        for i in (0..n).rev() {
            assert_eq!(index.find(hash, |p| p == place(i)), Some(place(i)));
            index.remove(hash, place(i));
            assert_eq!(index.find(hash, |p| p == place(i)), None);
        }
        assert!(
            index
                .buckets
                .iter()
                .all(|b| b.passed_on == 0 && b.tags == [0; SLOTS])
        );
    }

    #[test]
    fn hashes_differ_by_seed_zone_and_every_field() {
        let index = Index::new(10, 1);
        let t = FiveTuple::new(
            6,
            ("10.0.0.1".parse().unwrap(), 1),
            ("10.0.0.2".parse().unwrap(), 2),
        );
        let h = index.hash(Zone(1), &t);
        assert_ne!(h, Index::new(10, 2).hash(Zone(1), &t));
        assert_ne!(h, index.hash(Zone(2), &t));
        assert_ne!(h, index.hash(Zone(1), &t.reversed()));
        assert_ne!(h, index.hash(Zone(1), &FiveTuple { proto: 17, ..t }));
        assert_ne!(h, index.hash(Zone(1), &FiveTuple { dst_port: 3, ..t }));
    }

    #[test]
    fn sequential_tuples_spread() {
        let mut index = Index::new(100_000, 3);
        for n in 0..200_000u32 {
            let src = std::net::IpAddr::from((0x0a00_0000 + n / 60_000).to_be_bytes());
            let port = u16::try_from(n % 60_000).unwrap();
            let t = FiveTuple::new(17, (src, port), ("10.9.0.1".parse().unwrap(), 53));
            let hash = index.hash(Zone(5), &t);
            index.insert(hash, Place(n)).unwrap();
        }
        let passing = index.buckets.iter().filter(|b| b.passed_on > 0).count();
        assert!(
            passing * 100 < index.buckets.len() * 12,
            "{passing} of {}",
            index.buckets.len()
        );
    }
}
