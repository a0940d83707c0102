//! Which block of addresses is meant?

use std::{fmt, net::IpAddr, str::FromStr};

use serde::{Deserialize, Serialize};

/// An IPv4 or IPv6 prefix; its host bits are zero. Spelled `10.0.0.0/24`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Prefix {
    addr: IpAddr,
    len: u8,
}

/// Why something is no prefix.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidPrefix {
    /// The length exceeds the family's 32 or 128 bits.
    #[error("prefix length out of range for {0}: {1}")]
    Length(IpAddr, u8),
    /// Bits beyond the length are set.
    #[error("prefix has host bits set: {0}/{1}")]
    HostBits(IpAddr, u8),
    /// The text is not `address/length`.
    #[error("not a prefix (address/length): {0}")]
    Text(String),
}

impl Prefix {
    /// All IPv4 addresses.
    pub const ANY_V4: Self = Self {
        addr: IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED),
        len: 0,
    };
    /// All IPv6 addresses.
    pub const ANY_V6: Self = Self {
        addr: IpAddr::V6(std::net::Ipv6Addr::UNSPECIFIED),
        len: 0,
    };

    /// From its first address and length.
    ///
    /// # Errors
    /// When the length is too large, or host bits are set.
    pub fn new(addr: IpAddr, len: u8) -> Result<Self, InvalidPrefix> {
        let masked = Self::containing(addr, len)?;
        if masked.addr == addr {
            Ok(masked)
        } else {
            Err(InvalidPrefix::HostBits(addr, len))
        }
    }

    /// The prefix of this length that holds `addr`.
    ///
    /// # Errors
    /// When the length is too large for the family.
    pub fn containing(addr: IpAddr, len: u8) -> Result<Self, InvalidPrefix> {
        if len > width(addr) {
            return Err(InvalidPrefix::Length(addr, len));
        }
        let addr = match addr {
            IpAddr::V4(a) => {
                let mask = u32::MAX.checked_shl(32 - u32::from(len)).unwrap_or(0);
                IpAddr::V4((u32::from(a) & mask).into())
            }
            IpAddr::V6(a) => {
                let mask = u128::MAX.checked_shl(128 - u32::from(len)).unwrap_or(0);
                IpAddr::V6((u128::from(a) & mask).into())
            }
        };
        Ok(Self { addr, len })
    }

    /// The prefix that holds this address alone.
    pub const fn host(addr: IpAddr) -> Self {
        Self {
            addr,
            len: width(addr),
        }
    }

    /// The first address.
    pub const fn addr(self) -> IpAddr {
        self.addr
    }

    /// The number of fixed bits.
    pub const fn bits(self) -> u8 {
        self.len
    }

    /// Is it of IPv4?
    pub const fn is_ipv4(self) -> bool {
        self.addr.is_ipv4()
    }

    /// Does it hold `addr`? Never across families.
    pub fn contains(self, addr: IpAddr) -> bool {
        addr.is_ipv4() == self.addr.is_ipv4()
            && Self::containing(addr, self.len).is_ok_and(|p| p.addr == self.addr)
    }

    /// Do the two share an address?
    pub fn overlaps(self, other: Self) -> bool {
        if self.len <= other.len {
            self.contains(other.addr)
        } else {
            other.contains(self.addr)
        }
    }

    /// The last address.
    pub fn last(self) -> IpAddr {
        match self.addr {
            IpAddr::V4(a) => {
                let host = u32::MAX.checked_shr(u32::from(self.len)).unwrap_or(0);
                IpAddr::V4((u32::from(a) | host).into())
            }
            IpAddr::V6(a) => {
                let host = u128::MAX.checked_shr(u32::from(self.len)).unwrap_or(0);
                IpAddr::V6((u128::from(a) | host).into())
            }
        }
    }
}

const fn width(addr: IpAddr) -> u8 {
    if addr.is_ipv4() { 32 } else { 128 }
}

impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.addr, self.len)
    }
}

impl fmt::Debug for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Prefix {
    type Err = InvalidPrefix;
    fn from_str(s: &str) -> Result<Self, InvalidPrefix> {
        let bad = || InvalidPrefix::Text(s.to_owned());
        let (addr, len) = s.split_once('/').ok_or_else(bad)?;
        let len = len
            .parse()
            .ok()
            .filter(|_| len.bytes().all(|b| b.is_ascii_digit()))
            .ok_or_else(bad)?;
        Self::new(addr.parse().ok().ok_or_else(bad)?, len)
    }
}

impl TryFrom<String> for Prefix {
    type Error = InvalidPrefix;
    fn try_from(s: String) -> Result<Self, InvalidPrefix> {
        s.parse()
    }
}

impl From<Prefix> for String {
    fn from(p: Prefix) -> Self {
        p.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_round_trips_and_bad_text_is_refused() {
        for good in [
            "10.0.0.0/24",
            "0.0.0.0/0",
            "::/0",
            "fd00::/64",
            "10.0.0.1/32",
        ] {
            assert_eq!(good.parse::<Prefix>().unwrap().to_string(), good);
        }
        for bad in [
            "10.0.0.1/24",
            "10.0.0.0/33",
            "::/129",
            "10.0.0.0",
            "/",
            "10.0.0.0/+8",
            "fd00::1/64",
        ] {
            assert!(bad.parse::<Prefix>().is_err(), "{bad}");
        }
    }

    #[test]
    fn containment_keeps_families_apart() {
        let p: Prefix = "10.0.0.0/8".parse().unwrap();
        assert!(p.contains("10.255.0.1".parse().unwrap()));
        assert!(!p.contains("11.0.0.1".parse().unwrap()));
        assert!(!Prefix::ANY_V4.contains("::1".parse().unwrap()));
        assert_eq!(p.last(), "10.255.255.255".parse::<IpAddr>().unwrap());
    }

    #[test]
    fn overlap_is_symmetric() {
        let a: Prefix = "10.0.0.0/8".parse().unwrap();
        let b: Prefix = "10.1.0.0/16".parse().unwrap();
        let c: Prefix = "11.0.0.0/8".parse().unwrap();
        assert!(a.overlaps(b) && b.overlaps(a) && !a.overlaps(c) && !c.overlaps(a));
    }
}
