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

use hashbrown::{HashMap, hash_map::Entry};
use net::{FlowKey, FlowMask};

use super::flow::ProgramId;

/// The most masks.
pub const MASKS: usize = 64;

#[derive(Debug)]
struct Shape {
    mask: FlowMask,
    flows: HashMap<FlowKey, Megaflow, foldhash::fast::FixedState>,
}

#[derive(Debug, Clone, Copy)]
struct Megaflow {
    program: ProgramId,
    used: bool,
}

/// Answers by masked key.
#[derive(Debug)]
pub struct Megaflows {
    shapes: Vec<Shape>,
    len: usize,
    capacity: usize,
    seed: u64,
}

impl Megaflows {
    /// None yet, at most `capacity`.
    pub fn new(capacity: usize, seed: u64) -> Self {
        Self {
            shapes: Vec::with_capacity(MASKS + 1),
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

    /// The program of a packet.
    #[inline]
    pub fn find(&mut self, key: &FlowKey) -> Option<ProgramId> {
        self.shapes.iter_mut().find_map(|shape| {
            let flow = shape.flows.get_mut(&shape.mask.apply(key))?;
            flow.used = true;
            Some(flow.program)
        })
    }

    /// Keeps an answer.
    pub fn insert(&mut self, key: &FlowKey, mask: FlowMask, program: ProgramId) {
        if self.len >= self.capacity {
            self.evict();
        }
        let at = self.shapes.iter().position(|s| s.mask == mask);
        let at = at.unwrap_or_else(|| self.shape(mask));
        if let Some(shape) = self.shapes.get_mut(at) {
            let flow = Megaflow {
                program,
                used: true,
            };
            match shape.flows.entry(shape.mask.apply(key)) {
                Entry::Occupied(mut there) => {
                    there.insert(flow);
                }
                Entry::Vacant(free) => {
                    free.insert(flow);
                    self.len += 1;
                }
            }
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
        let flows = HashMap::with_hasher(foldhash::fast::FixedState::with_seed(self.seed));
        self.shapes.push(Shape { mask, flows });
        self.shapes.len() - 1
    }

    /// Forgets an answer that is known to be stale.
    pub fn remove(&mut self, key: &FlowKey) {
        for shape in &mut self.shapes {
            if shape.flows.remove(&shape.mask.apply(key)).is_some() {
                self.len -= 1;
            }
        }
    }

    /// Forgets what was not used since the last time, or all of it if everything was.
    fn evict(&mut self) {
        let before = self.len;
        let mut len = 0;
        for shape in &mut self.shapes {
            shape.flows.retain(|_, f| std::mem::take(&mut f.used));
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
            .flat_map(|s| s.flows.iter().map(|(k, f)| (k, &s.mask, f.program)))
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
