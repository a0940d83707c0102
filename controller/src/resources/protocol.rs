//! By which words are families and protocols known?

use crate::refusal::Refusal;
use net::Prefix;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use std::fmt;

/// The family.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Ethertype {
    /// IPv4.
    #[serde(rename = "IPv4")]
    V4,
    /// IPv6.
    #[serde(rename = "IPv6")]
    V6,
}

impl Ethertype {
    /// The family of a word in any case.
    pub fn of(word: &str) -> Option<Self> {
        match word.to_ascii_lowercase().as_str() {
            "ipv4" => Some(Self::V4),
            "ipv6" => Some(Self::V6),
            _ => None,
        }
    }

    /// Puts the family that a body means in place of the word that it has; IPv4 if it has none.
    ///
    /// # Errors
    /// What `refuse` makes of a word that is no family.
    pub fn intake(
        fields: &mut Map<String, Value>,
        refuse: impl Fn(&str) -> Refusal,
    ) -> Result<(), Refusal> {
        let ethertype = match fields.get("ethertype").and_then(Value::as_str) {
            None => Self::V4,
            Some(given) => Self::of(given).ok_or_else(|| refuse(given))?,
        };
        fields.insert("ethertype".to_owned(), json!(ethertype));
        Ok(())
    }

    /// The number of a protocol in this family: `icmp` of IPv6 is ICMPv6.
    pub fn protocol_number(self, protocol: &str) -> Option<u8> {
        match protocol_number(protocol) {
            Some(ICMP) if self == Self::V6 => Some(ICMPV6),
            other => other,
        }
    }

    /// Is the prefix of this family?
    pub const fn holds(self, prefix: Prefix) -> bool {
        matches!(self, Self::V4) == prefix.is_ipv4()
    }
}

impl fmt::Display for Ethertype {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::V4 => "IPv4",
            Self::V6 => "IPv6",
        })
    }
}

/// Names that stand for protocol numbers, as Neutron knows them.
pub const PROTOCOLS: &[(&str, u8)] = &[
    ("ah", 51),
    ("dccp", 33),
    ("egp", 8),
    ("esp", 50),
    ("gre", 47),
    ("hopopt", 0),
    ("icmp", 1),
    ("igmp", 2),
    ("ip", 0),
    ("ipip", 4),
    ("ipv6-encap", 41),
    ("ipv6-frag", 44),
    ("ipv6-icmp", 58),
    ("ipv6-nonxt", 59),
    ("ipv6-opts", 60),
    ("ipv6-route", 43),
    ("ospf", 89),
    ("pgm", 113),
    ("rsvp", 46),
    ("sctp", 132),
    ("tcp", 6),
    ("udp", 17),
    ("udplite", 136),
    ("vrrp", 112),
];

/// The number of ICMP.
pub const ICMP: u8 = 1;
/// The number of ICMPv6.
pub const ICMPV6: u8 = 58;

/// The number of a protocol by name or number.
pub fn protocol_number(protocol: &str) -> Option<u8> {
    let named = PROTOCOLS
        .iter()
        .find(|(name, _)| *name == protocol)
        .map(|(_, number)| *number);
    named.or_else(|| protocol.parse().ok())
}
