//! Whose addresses are translated to which?

use std::net::IpAddr;

use net::{Id, PortRange, Prefix, ids::kind};
use serde::{Deserialize, Serialize};

/// A NAT: sources are hidden behind its addresses, and what comes to its addresses is forwarded.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Nat {
    /// All its addresses, in the order of their ports' ids.
    pub addresses: Vec<NatAddress>,
    /// Which sources are hidden; empty: all.
    pub sources: Vec<Prefix>,
    /// The ports, and identifiers of ICMP queries, that sources are given.
    pub ports: PortRange,
    /// How many hosts share an address: each has an equal part of the ports, so that none gives out another's.
    pub hosts: u16,
    /// The most connections that one port has through it.
    pub client_limit: u32,
    /// What is forwarded to whom, by port.
    pub forwards: Vec<Forward>,
    /// Which workloads have an address of their own.
    pub statics: Vec<Static>,
}

/// An address of a NAT.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NatAddress {
    /// The address.
    pub addr: IpAddr,
    /// The port of the API that holds it.
    pub port: Id<kind::Port>,
    /// The network that it is on: answers to it find their way to who is there.
    pub network: Id<kind::Network>,
    /// Are sources hidden behind it?
    pub hides: bool,
}

/// Connections to ports of an address go to another.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Forward {
    /// The NAT's address.
    pub addr: IpAddr,
    /// TCP (6), UDP (17) or SCTP (132).
    pub protocol: u8,
    /// Its ports.
    pub ports: PortRange,
    /// Who serves.
    pub to: IpAddr,
    /// The server's port for the first of the ports; the others follow, or go there too.
    pub to_port: u16,
    /// Do all ports go to that one?
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub to_one: bool,
    /// The server's port in the API, or a name of its own.
    pub member: Id<kind::Port>,
}

/// An address outside for one inside, both ways and for every protocol.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Static {
    /// The NAT's address.
    pub outside: IpAddr,
    /// The workload's.
    pub inside: IpAddr,
    /// The workload's port in the API, or a name of its own.
    pub member: Id<kind::Port>,
}
