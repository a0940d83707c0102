//! Under which label does a packet of a chain go into an appliance, and come out of it?
//!
//! One entry of an MPLS label stack, between the Ethernet header and the packet. It says which chain it is and which hop of it, as
//! networking-sfc numbers them: the chain's path in the upper bits, 255 less the hop's index in the lower eight.
//!
//! # References
//! RFC 3032 §2.1 (the entry), RFC 3031 §3.16 (labels mean what both ends agreed on).

use std::fmt;

use serde::{Deserialize, Serialize};

/// The service index of the first hop.
const FIRST: u8 = 255;
/// The largest path: what is left of a label's 20 bits.
const MAX_PATH: u16 = 0xfff;
/// The bit that says that it is the last entry of the stack.
const BOTTOM: u32 = 0x100;

/// The label of a hop, from 256 (those below 16 are reserved) to 2²⁰ − 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "u32", into = "u32")]
pub struct Label {
    path: u16,
    index: u8,
}

/// Why a number is no label of a hop.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("label of a hop out of range (256..=1048575): {0}")]
pub struct InvalidLabel(pub u32);

impl TryFrom<u32> for Label {
    type Error = InvalidLabel;
    fn try_from(v: u32) -> Result<Self, InvalidLabel> {
        let path = u16::try_from(v >> 8).or(Err(InvalidLabel(v)))?;
        let [.., index] = v.to_be_bytes();
        if (1..=MAX_PATH).contains(&path) {
            Ok(Self { path, index })
        } else {
            Err(InvalidLabel(v))
        }
    }
}

impl From<Label> for u32 {
    fn from(l: Label) -> u32 {
        u32::from(l.path) << 8 | u32::from(l.index)
    }
}

impl Label {
    /// That of the hop at this index of the chain with this path; `None`: there is no such path, or too many hops.
    pub fn of_hop(path: u16, at: u8) -> Option<Self> {
        let index = FIRST.checked_sub(at).filter(|index| *index > 0)?;
        Self::try_from(u32::from(path) << 8 | u32::from(index)).ok()
    }

    /// Which chain: 1 to 4095.
    pub const fn path(self) -> u16 {
        self.path
    }

    /// The entry as it goes in: the only one of its stack, with the service index as its TTL.
    pub(crate) fn entry(self) -> [u8; 4] {
        (u32::from(self) << 12 | BOTTOM | u32::from(self.index)).to_be_bytes()
    }

    /// From an entry that came out, whatever its TTL and traffic class; `None`: another follows, or it is no label of a hop.
    pub(crate) fn from_entry(entry: [u8; 4]) -> Option<Self> {
        let entry = u32::from_be_bytes(entry);
        let last = entry & BOTTOM != 0;
        Self::try_from(entry >> 12).ok().filter(|_| last)
    }
}

impl fmt::Display for Label {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        u32::from(*self).fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_label_says_which_hop_of_which_chain() {
        let label = Label::of_hop(1, 0).unwrap();
        assert_eq!((u32::from(label), label.path()), (0x1ff, 1));
        assert_eq!(u32::from(Label::of_hop(4095, 31).unwrap()), 0xf_ffe0);
        for (path, at) in [(0, 0), (4096, 0), (1, 255)] {
            assert_eq!(Label::of_hop(path, at), None, "{path} {at}");
        }
        for v in [0, 15, 255, 0x10_0000, u32::MAX] {
            assert!(Label::try_from(v).is_err(), "{v}");
        }
    }

    #[test]
    fn an_entry_is_the_last_one_of_its_stack() {
        let label = Label::of_hop(0x123, 2).unwrap();
        assert_eq!(label.entry(), [0x12, 0x3f, 0xd1, 0xfd]);
        // Who forwards it may take off its TTL, and mark it.
        assert_eq!(Label::from_entry([0x12, 0x3f, 0xdf, 0x01]), Some(label));
        assert_eq!(Label::from_entry([0x12, 0x3f, 0xd0, 0xfd]), None);
        assert_eq!(Label::from_entry([0x00, 0x01, 0x01, 0xff]), None);
    }
}
