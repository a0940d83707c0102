//! What is one router?
//!
//! It is in every switch that has a port on one of its networks: each routes what its own workloads send.

use std::net::IpAddr;

use net::{Id, Prefix, UnicastMac, ids::kind};
use serde::{Deserialize, Serialize};

use crate::network::Route;

/// A router that joins a network of this host with others.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Router {
    /// Its id in the API.
    pub id: Id<kind::Router>,
    /// Its name, for people.
    pub name: String,
    /// Whose it is.
    pub project: Id<kind::Project>,
    /// Routing on or off.
    pub admin_up: bool,
    /// Where it is attached, by port.
    pub interfaces: Vec<Interface>,
    /// Routes besides those to its interfaces' subnets; the longest prefix wins, an interface's before a route of the same length.
    pub routes: Vec<Route>,
}

/// Where a router is attached: a port of the API that no host has, and every switch answers for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Interface {
    /// The port's id in the API.
    pub port: Id<kind::Port>,
    /// The network that it is on.
    pub network: Id<kind::Network>,
    /// Its MAC address, the same in every switch.
    pub mac: UnicastMac,
    /// Forwarding on or off.
    pub admin_up: bool,
    /// Its addresses, with the subnet of each.
    pub addrs: Vec<InterfaceAddr>,
}

/// An address of an interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct InterfaceAddr {
    /// The address.
    pub addr: IpAddr,
    /// The subnet that it is from, which is on the link.
    pub subnet: Prefix,
}
