//! What is one router?
//!
//! It is in every switch that has a port on one of its networks: each routes what its own workloads send.

use std::net::IpAddr;

use net::{Id, Prefix, UnicastMac, ids::kind};
use serde::{Deserialize, Serialize};

use crate::{meter::Meter, network::Route};

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
    /// Its way out of the fabric.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gateway: Option<Gateway>,
    /// The labels under which what crosses its gateway is counted, by id.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub meters: Vec<Meter>,
}

/// Where a router leaves the fabric: a port of the API on an external network, for which one host at a time answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Gateway {
    /// The port's id in the API.
    pub port: Id<kind::Port>,
    /// The external network; only hosts that have the gateway or a floating IP on it are told more of it.
    pub network: Id<kind::Network>,
    /// Its MAC address.
    pub mac: UnicastMac,
    /// Its addresses, with the subnet of each.
    pub addrs: Vec<InterfaceAddr>,
    /// The default routers outside, at most one of a family.
    pub nexthops: Vec<IpAddr>,
    /// Are IPv4 sources hidden behind its first IPv4 address? Else they go out as they are.
    pub snat: bool,
    /// The VTEP of the host that has it; `None`: none has it now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub at: Option<IpAddr>,
    /// Could another host have it? Then its host stops answering for it while it does not hear from the controller.
    pub movable: bool,
    /// The QoS policy that limits what passes by it: the gateway's, or else the external network's. Only the host that has the gateway is
    /// told more of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub qos: Option<Id<kind::QosPolicy>>,
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
    /// The firewall group that holds for what is routed by it: egress for what comes from its network, ingress for what goes there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub firewall: Option<Id<kind::FirewallGroup>>,
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
