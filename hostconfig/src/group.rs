//! Who may talk to whom?

use std::collections::BTreeSet;

use net::{Id, PortRange, Prefix, ids::kind};
use serde::{Deserialize, Serialize};

/// A security group. Whatever no rule of a port's groups allows is refused.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SecurityGroup {
    /// Its id in the API.
    pub id: Id<kind::SecurityGroup>,
    /// Its name, for people.
    pub name: String,
    /// Does it track connections? A port with any stateful group is stateful.
    pub stateful: bool,
    /// Its rules, by id; all allow.
    pub rules: Vec<SecurityGroupRule>,
}

/// The instance's direction: ingress is towards it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Direction {
    /// Towards the instance.
    Ingress,
    /// From the instance.
    Egress,
}

/// An IP family.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Family {
    /// IPv4.
    #[serde(rename = "ipv4")]
    V4,
    /// IPv6.
    #[serde(rename = "ipv6")]
    V6,
}

/// A rule that allows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SecurityGroupRule {
    /// Its id in the API.
    pub id: Id<kind::Rule>,
    /// Which way.
    pub direction: Direction,
    /// Which family.
    pub family: Family,
    /// The IP protocol number; `None`: any.
    pub protocol: Option<u8>,
    /// What else of the transport.
    pub l4: L4Match,
    /// The other end: the source of ingress, the destination of egress.
    pub remote: Remote,
}

/// What a rule asks of the transport header.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum L4Match {
    /// Nothing.
    Any,
    /// A destination port in this range (TCP, UDP, SCTP …).
    Ports(PortRange),
    /// An ICMP type, and a code if given.
    Icmp {
        /// The type.
        kind: u8,
        /// The code.
        code: Option<u8>,
    },
}

/// The other end of a rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Remote {
    /// Anyone.
    Any,
    /// A block of addresses.
    Prefix(Prefix),
    /// The members of a set.
    Set(Id<kind::AddressSet>),
}

/// A set of addresses that follows its members: those of a remote group, or an address group.
///
/// A large set changes often, by one member. So a remote group's members are told in parts: the set is what all sections with its id hold.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AddressSet {
    /// Its id: that of the group.
    pub id: Id<kind::AddressSet>,
    /// Which part this is; `None`: what is in no part.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub part: Option<u8>,
    /// Its addresses.
    pub members: BTreeSet<Prefix>,
}
