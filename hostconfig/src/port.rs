//! What is on a network: here, elsewhere, or nowhere at all?

use std::net::IpAddr;

use net::{Id, Prefix, UnicastMac, Vlan, ids::kind};
use serde::{Deserialize, Serialize};

use crate::DhcpOptions;

/// A port that is bound to this host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Port {
    /// Its id in the API.
    pub id: Id<kind::Port>,
    /// Its name, for people.
    pub name: String,
    /// Its network.
    pub network: Id<kind::Network>,
    /// Whose it is: limits are counted by project too.
    pub project: Id<kind::Project>,
    /// Its MAC address.
    pub mac: UnicastMac,
    /// Its addresses.
    pub fixed_ips: Vec<FixedIp>,
    /// Forwarding on or off.
    pub admin_up: bool,
    /// Anti-spoofing and security groups on or off.
    pub port_security: bool,
    /// What it may send from, besides its own.
    pub allowed_address_pairs: Vec<AddressPair>,
    /// Its groups; their rules are united.
    pub security_groups: Vec<Id<kind::SecurityGroup>>,
    /// The most connections that it may have tracked.
    pub max_connections: u32,
    /// The QoS policy that holds for it. A section from before there was this field keeps its bytes and its hash.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub qos: Option<Id<kind::QosPolicy>>,
    /// The number of its host among all hosts: by it the ports of a NAT's addresses are shared out. `None`: the host has none yet,
    /// and gets no part.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host_number: Option<u16>,
    /// Its name in the network's domain; one that ends with a dot is whole. `None`: it has but those of its addresses.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dns_name: Option<String>,
    /// What DHCP tells it besides.
    #[serde(default, skip_serializing_if = "DhcpOptions::is_empty")]
    pub dhcp: DhcpOptions,
    /// It has no device of its own: its frames are those of another port of this host that bear a tag. `None`: it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trunk: Option<SubPort>,
    /// The firewall group that holds for it, besides its groups.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub firewall: Option<Id<kind::FirewallGroup>>,
}

/// Whose device a sub-port of a trunk shares.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SubPort {
    /// The trunk's parent port.
    pub parent: Id<kind::Port>,
    /// The 802.1Q tag that its frames bear there.
    pub vlan: Vlan,
}

/// An address of a port.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FixedIp {
    /// The address.
    pub addr: IpAddr,
    /// The subnet that it is from.
    pub subnet: Id<kind::Subnet>,
}

/// An allowed address pair.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AddressPair {
    /// The MAC address.
    pub mac: UnicastMac,
    /// The addresses with it.
    pub prefix: Prefix,
}

/// A port of a network of this host that is not bound to this host: what the FDB and the ARP and ND responders know.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Endpoint {
    /// The port's id in the API.
    pub id: Id<kind::Port>,
    /// Its network.
    pub network: Id<kind::Network>,
    /// Whose it is, for classifiers that mean a project. A section that was kept from before there was this field names none, and
    /// keeps its bytes and its hash.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub project: Option<Id<kind::Project>>,
    /// Its MAC address.
    pub mac: UnicastMac,
    /// Its addresses.
    pub addrs: Vec<IpAddr>,
    /// Its name in the network's domain, as of a port that is here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dns_name: Option<String>,
    /// Allowed address pairs with a single address: reachable, but answered by the workload itself.
    pub at: Location,
}

/// Where an endpoint is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Location {
    /// Behind this VTEP.
    Vtep(IpAddr),
    /// In every switch: a virtual address, which the client's own switch answers (a load balancer's VIP).
    Virtual,
}
