//! Which overlay network does a tunnelled frame belong to?
//!
//! # References
//! RFC 7348 §5: the VXLAN Network Identifier has 24 bits. Zero is legal on the wire, and refused here: it is what an
//! unset field looks like.

use std::{fmt, num::NonZeroU32};

use serde::{Deserialize, Serialize};

/// A VXLAN network identifier, 1..2²⁴.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "u32", into = "u32")]
pub struct Vni(NonZeroU32);

/// Why a number is no VNI.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("vni out of range (1..=16777215): {0}")]
pub struct InvalidVni(pub u32);

impl TryFrom<u32> for Vni {
    type Error = InvalidVni;
    fn try_from(v: u32) -> Result<Self, InvalidVni> {
        NonZeroU32::new(v)
            .filter(|n| n.get() < 1 << 24)
            .map(Self)
            .ok_or(InvalidVni(v))
    }
}

impl From<Vni> for u32 {
    fn from(v: Vni) -> u32 {
        v.0.get()
    }
}

impl Vni {
    /// The number.
    pub const fn get(self) -> u32 {
        self.0.get()
    }
}

impl fmt::Display for Vni {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounds() {
        assert!(Vni::try_from(0).is_err());
        assert!(Vni::try_from(1).is_ok());
        assert!(Vni::try_from((1 << 24) - 1).is_ok());
        assert!(Vni::try_from(1 << 24).is_err());
    }
}
