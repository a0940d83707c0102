//! 2: What is decided for an untracked flow already?
//!
//! Tracked flows are found in the connection table. For the others, and for what is refused, there are megaflows: the answers
//! of walks, by the masked keys of the packets. One hash table a mask.
//!
//! # Invariants
//! `len() <= capacity`, `masks() <= MASKS`; past the limit of masks, entries are exact.
//!
//! # Attack
//! Whoever makes the tables read ever other bits makes masks, and each costs every miss a look-up: so their number is small.

use std::mem;

use hashbrown::HashTable;
use net::{FlowKey, FlowMask};
use smallvec::SmallVec;
use zerocopy::IntoBytes;

use super::flow::ProgramId;

/// The most masks.
pub const MASKS: usize = 64;

/// A key as machine words, so that a mask costs what it reads and no more.
type Words = [u64; size_of::<FlowKey>() / 8];

const _: () = assert!(size_of::<FlowKey>().is_multiple_of(8));

fn words(key: &FlowKey) -> Words {
    let mut words = Words::default();
    for (word, bytes) in words.iter_mut().zip(key.as_bytes().as_chunks::<8>().0) {
        *word = u64::from_ne_bytes(*bytes);
    }
    words
}

/// One mask, and what is known under it.
#[derive(Debug)]
struct Shape {
    mask: FlowMask,
    reads: Reads,
    flows: HashTable<Megaflow>,
}

/// The words that a mask reads anything of.
#[derive(Debug)]
struct Reads(SmallVec<[(usize, u64); 11]>);

/// The flow that the last packet was of, as words. It may be one of any mask: all that match a packet say the same.
#[derive(Debug)]
struct Last {
    shape: usize,
    key: Words,
    program: ProgramId,
}

#[derive(Debug, Clone, Copy)]
struct Megaflow {
    /// The masked key.
    key: FlowKey,
    hash: u64,
    program: ProgramId,
    used: bool,
}

impl Shape {
    fn new(mask: FlowMask) -> Self {
        let all = words(mask.fields()).into_iter().enumerate();
        Self {
            mask,
            reads: Reads(all.filter(|(_, m)| *m != 0).collect()),
            flows: HashTable::new(),
        }
    }
}

impl Reads {
    /// What the mask reads of the key, word for word.
    fn of<'a>(&'a self, key: &'a Words) -> impl Iterator<Item = (usize, u64)> + 'a {
        self.0
            .iter()
            .map(|(at, mask)| (*at, key.get(*at).map_or(0, |w| w & mask)))
    }

    fn hash(&self, key: &Words, seed: u64) -> u64 {
        self.of(key).fold(seed, |sum, (_, word)| {
            let wide = u128::from(sum ^ word) * 0x9e37_79b9_7f4a_7c15;
            #[expect(clippy::cast_possible_truncation, reason = "both halves are wanted")]
            let (low, high) = (wide as u64, (wide >> 64) as u64);
            (low ^ high).wrapping_add(seed)
        })
    }

    fn is(&self, flow: &Megaflow, key: &Words) -> bool {
        self.agree(&words(&flow.key), key)
    }

    /// Is the key this masked one, as far as the mask reads?
    fn agree(&self, known: &Words, key: &Words) -> bool {
        self.of(key)
            .all(|(at, word)| known.get(at).is_some_and(|w| *w == word))
    }
}

/// Answers by masked key.
#[derive(Debug)]
pub struct Megaflows {
    shapes: Vec<Shape>,
    last: Option<Last>,
    len: usize,
    capacity: usize,
    seed: u64,
}

impl Megaflows {
    /// None yet, at most `capacity`.
    pub fn new(capacity: usize, seed: u64) -> Self {
        Self {
            shapes: Vec::with_capacity(MASKS + 1),
            last: None,
            len: 0,
            capacity,
            seed,
        }
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Is there none?
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// How many masks there are.
    pub fn masks(&self) -> usize {
        self.shapes.len()
    }

    /// The program of a packet. The flow of the packet before is compared first, without a hash: packets come in runs.
    #[inline]
    pub fn find(&mut self, key: &FlowKey) -> Option<ProgramId> {
        let key = words(key);
        if let Some(last) = &self.last
            && let Some(shape) = self.shapes.get(last.shape)
            && shape.reads.agree(&last.key, &key)
        {
            return Some(last.program);
        }
        self.search(&key)
    }

    fn search(&mut self, key: &Words) -> Option<ProgramId> {
        let seed = self.seed;
        let (at, flow) = self.shapes.iter_mut().enumerate().find_map(|(at, shape)| {
            let hash = shape.reads.hash(key, seed);
            let flow = shape.flows.find_mut(hash, |f| shape.reads.is(f, key))?;
            Some((at, flow))
        })?;
        // The clock's hand makes the next packet search anew, so a flow in a run is not taken for unused.
        flow.used = true;
        self.last = Some(Last {
            shape: at,
            key: words(&flow.key),
            program: flow.program,
        });
        Some(flow.program)
    }

    /// Keeps an answer.
    pub fn insert(&mut self, key: &FlowKey, mask: FlowMask, program: ProgramId) {
        self.last = None;
        if self.len >= self.capacity {
            self.evict();
        }
        let at = self.shapes.iter().position(|s| s.mask == mask);
        let at = at.unwrap_or_else(|| self.shape(mask));
        let seed = self.seed;
        let Some(shape) = self.shapes.get_mut(at) else {
            return;
        };
        let words = words(key);
        let hash = shape.reads.hash(&words, seed);
        if let Some(there) = shape.flows.find_mut(hash, |f| shape.reads.is(f, &words)) {
            (there.program, there.used) = (program, true);
        } else {
            let flow = Megaflow {
                key: shape.mask.apply(key),
                hash,
                program,
                used: true,
            };
            shape.flows.insert_unique(hash, flow, |f| f.hash);
            self.len += 1;
        }
    }

    /// The place of a new mask, or of the exact one when there are too many.
    fn shape(&mut self, mask: FlowMask) -> usize {
        let exact = FlowMask::exact();
        let mask = if self.shapes.len() + 1 < MASKS {
            mask
        } else {
            exact
        };
        if let Some(at) = self.shapes.iter().position(|s| s.mask == mask) {
            return at;
        }
        self.shapes.push(Shape::new(mask));
        self.shapes.len() - 1
    }

    /// Forgets an answer that is known to be stale.
    pub fn remove(&mut self, key: &FlowKey) {
        self.last = None;
        let (key, seed) = (words(key), self.seed);
        for shape in &mut self.shapes {
            let hash = shape.reads.hash(&key, seed);
            let found = |f: &Megaflow| shape.reads.is(f, &key);
            if let Ok(entry) = shape.flows.find_entry(hash, found) {
                entry.remove();
                self.len -= 1;
            }
        }
    }

    /// Forgets all of them.
    pub fn clear(&mut self) {
        self.last = None;
        self.shapes.clear();
        self.len = 0;
    }

    /// Forgets what was not used since the last time, or all of it if everything was.
    fn evict(&mut self) {
        self.last = None;
        let before = self.len;
        let mut len = 0;
        for shape in &mut self.shapes {
            shape.flows.retain(|f| mem::take(&mut f.used));
            len += shape.flows.len();
        }
        if len == before {
            for shape in &mut self.shapes {
                shape.flows.clear();
            }
            len = 0;
        }
        self.shapes.retain(|s| !s.flows.is_empty());
        self.len = len;
    }

    /// All of them, for dumps: masked key, mask, program.
    pub fn iter(&self) -> impl Iterator<Item = (&FlowKey, &FlowMask, ProgramId)> + '_ {
        self.shapes
            .iter()
            .flat_map(|s| s.flows.iter().map(|f| (&f.key, &s.mask, f.program)))
    }
}

#[cfg(test)]
mod tests {
    use net::Probe;

    use super::*;

    #[test]
    fn masks_and_entries_are_bounded_and_answers_stay_right() {
        let mut m = Megaflows::new(1000, 1);
        for n in 0..3000u16 {
            let key = FlowKey {
                l4_dst: n,
                l4_src: n % 7,
                ethertype: 0x0800,
                ..FlowKey::default()
            };
            let mut probe = Probe::new(&key);
            probe.l4_dst();
            // A hostile variety of masks: the first n mod 129 bits.
            let prefix =
                net::Prefix::containing("::".parse().unwrap(), u8::try_from(n % 129).unwrap())
                    .unwrap();
            probe.ip_src_in(prefix);
            m.insert(&key, probe.mask(), ProgramId::from_number(u32::from(n) + 1));
            assert_eq!(m.find(&key), Some(ProgramId::from_number(u32::from(n) + 1)));
            assert!(m.len() <= 1000 && m.masks() <= MASKS);
        }
    }
}
