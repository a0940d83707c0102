//! How large may a packet be?
//!
//! An MTU here is what IP may fill: the L3 size, without the Ethernet header.

use std::fmt;

use serde::{Deserialize, Serialize};

/// The largest IP packet in bytes, 68..=65535 (RFC 791 §3.2; IPv6 asks for 1280, RFC 8200 §5).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "u32", into = "u32")]
pub struct Mtu(u16);

/// Why a number is no MTU.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("mtu out of range (68..=65535): {0}")]
pub struct InvalidMtu(pub u32);

impl TryFrom<u32> for Mtu {
    type Error = InvalidMtu;
    fn try_from(v: u32) -> Result<Self, InvalidMtu> {
        u16::try_from(v)
            .ok()
            .filter(|&m| m >= 68)
            .map(Self)
            .ok_or(InvalidMtu(v))
    }
}

impl From<Mtu> for u32 {
    fn from(m: Mtu) -> u32 {
        u32::from(m.0)
    }
}

impl Mtu {
    /// The largest.
    pub const MAX: Self = Self(u16::MAX);

    /// Bytes.
    pub const fn get(self) -> u16 {
        self.0
    }
}

impl fmt::Display for Mtu {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounds() {
        assert!(Mtu::try_from(67).is_err());
        assert!(Mtu::try_from(68).is_ok());
        assert!(Mtu::try_from(65_535).is_ok());
        assert!(Mtu::try_from(65_536).is_err());
    }
}
