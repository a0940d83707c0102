//! Which VLAN is meant?
//!
//! # References
//! IEEE 802.1Q §9.6: identifiers 0 and 4095 are reserved.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A VLAN identifier, 1..=4094.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "u16", into = "u16")]
pub struct Vlan(u16);

/// Why a number is no VLAN identifier.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("vlan out of range (1..=4094): {0}")]
pub struct InvalidVlan(pub u16);

impl TryFrom<u16> for Vlan {
    type Error = InvalidVlan;
    fn try_from(v: u16) -> Result<Self, InvalidVlan> {
        if (1..=4094).contains(&v) {
            Ok(Self(v))
        } else {
            Err(InvalidVlan(v))
        }
    }
}

impl From<Vlan> for u16 {
    fn from(v: Vlan) -> u16 {
        v.0
    }
}

impl fmt::Display for Vlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounds() {
        assert!(Vlan::try_from(0).is_err());
        assert!(Vlan::try_from(1).is_ok());
        assert!(Vlan::try_from(4094).is_ok());
        assert!(Vlan::try_from(4095).is_err());
    }
}
