//! Which interface is meant?
//!
//! An IEEE 802 MAC address, 48 bits. [`UnicastMac`] is one that may stand as a source.
//!
//! # References
//! IEEE 802-2014 §8.2: bit 0 of the first octet is the group bit, bit 1 the local bit.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

/// A MAC address: 6 bytes, spelled `02:00:00:00:00:01`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Mac([u8; 6]);

impl Mac {
    /// ff:ff:ff:ff:ff:ff.
    pub const BROADCAST: Self = Self([0xff; 6]);
    /// 00:00:00:00:00:00, the unknown hardware address of ARP requests.
    pub const ZERO: Self = Self([0; 6]);

    /// From its six octets.
    pub const fn new(octets: [u8; 6]) -> Self {
        Self(octets)
    }

    /// The six octets in wire order.
    pub const fn octets(self) -> [u8; 6] {
        self.0
    }

    /// The group bit: multicast or broadcast.
    pub const fn is_multicast(self) -> bool {
        self.0[0] & 1 == 1
    }

    /// With the group bit: no source on any link has it, so one that is carried far from its link is taken for nobody else's there.
    #[must_use]
    pub const fn marked(self) -> Self {
        let mut octets = self.0;
        octets[0] |= 1;
        Self(octets)
    }

    /// Without the group bit.
    #[must_use]
    pub const fn unmarked(self) -> Self {
        let mut octets = self.0;
        octets[0] &= !1;
        Self(octets)
    }

    /// All ones.
    pub fn is_broadcast(self) -> bool {
        self == Self::BROADCAST
    }

    /// 01:80:c2:00:00:0x: link-local control (STP, LLDP, pause), never forwarded (IEEE 802.1Q §8.6.3).
    pub fn is_link_local_control(self) -> bool {
        self.0[..5] == [0x01, 0x80, 0xc2, 0x00, 0x00] && self.0[5] < 0x10
    }

    /// The modified EUI-64 interface identifier (RFC 4291 appendix A).
    pub const fn eui64(self) -> [u8; 8] {
        let m = self.0;
        [m[0] ^ 2, m[1], m[2], 0xff, 0xfe, m[3], m[4], m[5]]
    }

    /// The link-local IPv6 address that a host forms from this MAC (RFC 4862 §5.3).
    pub fn link_local(self) -> std::net::Ipv6Addr {
        let mut octets = [0u8; 16];
        octets[0] = 0xfe;
        octets[1] = 0x80;
        octets[8..].copy_from_slice(&self.eui64());
        octets.into()
    }
}

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let m = self.0;
        write!(
            f,
            "{:02x}:{:02x}:{:02x}:{:02x}:{:02x}:{:02x}",
            m[0], m[1], m[2], m[3], m[4], m[5]
        )
    }
}

impl fmt::Debug for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Why a text is no MAC address.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not a MAC address (six hexadecimal octets joined by colons): {0}")]
pub struct InvalidMac(pub String);

impl FromStr for Mac {
    type Err = InvalidMac;

    fn from_str(s: &str) -> Result<Self, InvalidMac> {
        let mut octets = [0u8; 6];
        let mut parts = s.split([':', '-']);
        for octet in &mut octets {
            let part = parts
                .next()
                .filter(|p| p.len() == 2 && p.bytes().all(|b| b.is_ascii_hexdigit()));
            *octet = part
                .and_then(|p| u8::from_str_radix(p, 16).ok())
                .ok_or_else(|| InvalidMac(s.to_owned()))?;
        }
        match parts.next() {
            None => Ok(Self(octets)),
            Some(_) => Err(InvalidMac(s.to_owned())),
        }
    }
}

impl TryFrom<String> for Mac {
    type Error = InvalidMac;
    fn try_from(s: String) -> Result<Self, InvalidMac> {
        s.parse()
    }
}

impl From<Mac> for String {
    fn from(m: Mac) -> Self {
        m.to_string()
    }
}

/// A MAC address that may be a source: neither group bit nor all zero.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "Mac", into = "Mac")]
pub struct UnicastMac(Mac);

/// Why a MAC address can't be a source.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not a unicast MAC address: {0}")]
pub struct NotUnicast(pub Mac);

impl TryFrom<Mac> for UnicastMac {
    type Error = NotUnicast;
    fn try_from(mac: Mac) -> Result<Self, NotUnicast> {
        if mac.is_multicast() || mac == Mac::ZERO {
            Err(NotUnicast(mac))
        } else {
            Ok(Self(mac))
        }
    }
}

impl From<UnicastMac> for Mac {
    fn from(m: UnicastMac) -> Self {
        m.0
    }
}

impl UnicastMac {
    /// The address.
    pub const fn get(self) -> Mac {
        self.0
    }
}

impl fmt::Display for UnicastMac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Debug for UnicastMac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_round_trips_and_bad_text_is_refused() {
        let mac: Mac = "02:00:0a:FF:00:01".parse().unwrap();
        assert_eq!(mac.to_string(), "02:00:0a:ff:00:01");
        for bad in [
            "",
            "02:00:00:00:00",
            "02:00:00:00:00:00:00",
            "2:0:0:0:0:0",
            "gg:00:00:00:00:00",
            "+2:00:00:00:00:00",
        ] {
            assert!(bad.parse::<Mac>().is_err(), "{bad}");
        }
    }

    #[test]
    fn only_unicast_may_be_a_source() {
        assert!(UnicastMac::try_from(Mac::BROADCAST).is_err());
        assert!(UnicastMac::try_from(Mac::ZERO).is_err());
        assert!(UnicastMac::try_from(Mac::new([2, 0, 0, 0, 0, 1])).is_ok());
    }

    #[test]
    fn link_local_address_is_modified_eui64() {
        let mac = Mac::new([0x02, 0, 0, 0, 0, 0x01]);
        assert_eq!(mac.link_local().to_string(), "fe80::ff:fe00:1");
    }
}
