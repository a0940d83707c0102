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

/// Ten tags, the count of keys passed on, and 16 bits of nothing, as lanes of three words, so that a tag is compared with four
/// at a time; then the places.
#[derive(Debug, Clone, Copy)]
#[repr(C, align(64))]
struct Bucket {
    lanes: [u64; 3],
    places: [u32; SLOTS],
}

const _: () = assert!(size_of::<Bucket>() == 64);

const EMPTY: Bucket = Bucket {
    lanes: [0; 3],
    places: [0; SLOTS],
};

/// The lowest bit of each lane, and the highest.
const LOW: u64 = 0x0001_0001_0001_0001;
const HIGH: u64 = LOW << 15;

/// The highest bit of each lane that is `tag`.
fn equal_lanes(word: u64, tag: u16) -> u64 {
    let differing = word ^ (LOW * u64::from(tag));
    // Adding all but the highest bit carries into it unless the lane was zero; nothing carries out of a lane.
    !(((differing & !HIGH) + !HIGH) | differing) & HIGH
}

/// Slots of a bucket, lowest bits first: word `w`, lane `l` is bit `16 l + w`.
struct Slots(u64);

impl Iterator for Slots {
    type Item = usize;
    fn next(&mut self) -> Option<usize> {
        if self.0 == 0 {
            return None;
        }
        let bit = self.0.trailing_zeros() as usize;
        self.0 &= self.0 - 1;
        Some((bit % 16) * 4 + bit / 16)
    }
}

impl Bucket {
    fn slots(&self, tag: u16) -> Slots {
        let [a, b, c] = self.lanes;
        let (a, b) = (equal_lanes(a, tag), equal_lanes(b, tag));
        // The last two lanes are no tags.
        let c = equal_lanes(c, tag) & 0xffff_ffff;
        Slots((a >> 15) | (b >> 14) | (c >> 13))
    }

    fn set_tag(&mut self, slot: usize, tag: u16) {
        if let Some(word) = self.lanes.get_mut(slot / 4) {
            let shift = slot % 4 * 16;
            *word = *word & !(0xffff << shift) | u64::from(tag) << shift;
        }
    }

    fn passed_on(&self) -> u16 {
        let [.., last] = self.lanes;
        let [_, _, _, _, low, high, _, _] = last.to_le_bytes();
        u16::from_le_bytes([low, high])
    }

    fn set_passed_on(&mut self, count: u16) {
        let [.., last] = &mut self.lanes;
        *last = *last & 0xffff_ffff | u64::from(count) << 32;
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

    /// How many bytes of memory it takes.
    pub(super) fn memory_bytes(&self) -> usize {
        self.buckets.capacity() * size_of::<Bucket>()
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

    /// Asks for the key's bucket, which is read soon.
    #[inline]
    pub(super) fn prefetch(&self, hash: KeyHash) {
        if let Some(bucket) = self.buckets.get(self.home(hash)) {
            net::arch::prefetch(bucket);
        }
    }

    /// Where the key most likely is.
    pub(super) fn guess(&self, hash: KeyHash) -> Option<Place> {
        let bucket = self.buckets.get(self.home(hash))?;
        let slot = bucket.slots(hash.tag()).next()?;
        bucket.places.get(slot).map(|p| Place(*p))
    }

    /// The first place with the key's tag that `is` says is the key's.
    pub(super) fn find(&self, hash: KeyHash, mut is: impl FnMut(Place) -> bool) -> Option<Place> {
        let tag = hash.tag();
        let mut at = self.home(hash);
        for _ in 0..MAX_BUCKETS {
            let bucket = self.buckets.get(at)?;
            for slot in bucket.slots(tag) {
                let place = Place(*bucket.places.get(slot)?);
                if is(place) {
                    return Some(place);
                }
            }
            if bucket.passed_on() == 0 {
                return None;
            }
            at = self.after(at);
        }
        None
    }

    /// Adds a key that is not there.
    pub(super) fn insert(&mut self, hash: KeyHash, place: Place) -> Result<(), Crowded> {
        let home = self.home(hash);
        let mut at = home;
        for distance in 0..MAX_BUCKETS {
            let bucket = self.buckets.get_mut(at).ok_or(Crowded)?;
            if let Some(slot) = bucket.slots(0).next() {
                bucket.set_tag(slot, hash.tag());
                if let Some(p) = bucket.places.get_mut(slot) {
                    *p = place.0;
                }
                self.count_passed(home, distance, |count| count.saturating_add(1));
                return Ok(());
            }
            at = self.after(at);
        }
        Err(Crowded)
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
            let mut slots = bucket.slots(tag);
            if let Some(slot) = slots.find(|s| bucket.places.get(*s) == Some(&place.0)) {
                bucket.set_tag(slot, 0);
                self.count_passed(home, distance, |count| match count {
                    // A count that was ever full is no longer exact: it stays, and costs a look at the next bucket.
                    u16::MAX => count,
                    _ => count.saturating_sub(1),
                });
                return;
            }
            at = self.after(at);
        }
    }

    fn count_passed(&mut self, home: usize, distance: usize, change: impl Fn(u16) -> u16) {
        let mut at = home;
        for _ in 0..distance {
            if let Some(bucket) = self.buckets.get_mut(at) {
                bucket.set_passed_on(change(bucket.passed_on()));
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
        assert!(index.buckets.iter().all(|b| b.lanes == [0; 3]));
    }

    #[test]
    fn others_find_room_beside_a_crowd() {
        let mut index = Index::new(1000, 7);
        let crowd = KeyHash(0x1234_5678_9abc_def0);
        let mut n = 0;
        while index.insert(crowd, Place(n)) == Ok(()) {
            n += 1;
        }
        // The crowd fills what it can reach; whoever is at home there goes on behind it, or is refused; all others have their room.
        let other = |n: u32| KeyHash(u64::from(n).wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let refused = (0..1000u32)
            .filter(|n| index.insert(other(*n), Place(1 << 20 | n)).is_err())
            .count();
        assert!(refused <= 100, "{refused} of 1000");
        let found = (0..1000u32)
            .filter(|n| index.find(other(*n), |p| p == Place(1 << 20 | n)).is_some())
            .count();
        assert_eq!(found, 1000 - refused);
    }

    #[test]
    fn lanes_compare_exactly() {
        let word = 0x8001_0001_0000_ffff;
        for (tag, bits) in [
            (0xffff, 1),
            (0, 1 << 16),
            (1, 1 << 32),
            (0x8001, 1 << 48),
            (0x8000, 0),
            (0x7fff, 0),
        ] {
            assert_eq!(equal_lanes(word, tag) >> 15, bits, "{tag:#x}");
        }
        let mut bucket = EMPTY;
        for slot in 0..SLOTS {
            bucket.set_tag(slot, 7);
            bucket.set_passed_on(7);
            assert_eq!(bucket.slots(7).count(), slot + 1);
            assert_eq!(bucket.slots(0).count(), SLOTS - slot - 1);
        }
        assert_eq!(bucket.passed_on(), 7);
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
        let passing = index.buckets.iter().filter(|b| b.passed_on() > 0).count();
        assert!(
            passing * 100 < index.buckets.len() * 12,
            "{passing} of {}",
            index.buckets.len()
        );
    }
}
