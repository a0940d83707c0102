//! What is one overlay network?

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use net::{Id, Mac, Mtu, Prefix, Vni, ids::kind};
use serde::{Deserialize, Serialize};

/// Where a switch serves where no other address is its own (RFC 3927): no workload may hold it, and every router leaves it alone.
pub const SERVICE_V4: Ipv4Addr = Ipv4Addr::new(169, 254, 169, 254);

/// The same in IPv6: link-local, so that it is reached without a router.
pub const SERVICE_V6: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0xa9fe, 0xa9fe);

/// A network that has a port, or is needed by one, on this host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Network {
    /// Its id in the API.
    pub id: Id<kind::Network>,
    /// Its name, for people.
    pub name: String,
    /// Whose it is.
    pub project: Id<kind::Project>,
    /// Its VNI on the underlay.
    pub vni: Vni,
    /// The largest IP packet.
    pub mtu: Mtu,
    /// Forwarding on or off.
    pub admin_up: bool,
    /// Its subnets, by id.
    pub subnets: Vec<Subnet>,
    /// The wire that it is on; `None`: it is an overlay.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wire: Option<Wire>,
    /// The domain of its ports' names, without a dot at the end; empty: they have none.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub domain: String,
    /// Who is asked for names where its subnets name nobody: the operator's name servers.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub resolvers: Vec<IpAddr>,
    /// Names of what is no port of it: its project's floating IPs in its domain.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub names: Vec<Named>,
}

/// A name of an address that is elsewhere.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Named {
    /// The whole name, without a dot at the end.
    pub name: String,
    /// The address.
    pub addr: IpAddr,
}

/// A part of a physical network, which hosts have an interface on.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Wire {
    /// The physical network, by the name that hosts' configurations give it.
    pub physical: String,
    /// The VLAN, 1 to 4094 (IEEE 802.1Q); `None`: untagged (flat).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vlan: Option<u16>,
}

/// A subnet of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Subnet {
    /// Its id in the API.
    pub id: Id<kind::Subnet>,
    /// Its addresses.
    pub cidr: Prefix,
    /// Its default router's address.
    pub gateway: Option<IpAddr>,
    /// What the switch's DHCP server says; `None`: DHCP is off.
    pub dhcp: Option<Dhcp>,
    /// What the switch's DHCPv6 server says; `None`: DHCPv6 is off.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dhcp6: Option<Dhcp6>,
    /// How its hosts get their IPv6 addresses, as its router tells them; `None`: no router advertises it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ra: Option<RaMode>,
    /// IPv6 name servers, as advertisements and DHCPv6 tell them (RFC 8106, RFC 3646).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub dns6: Vec<Ipv6Addr>,
}

/// How hosts get their IPv6 addresses (RFC 4861 §4.2, §4.6.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RaMode {
    /// They make them from the prefix (RFC 4862).
    Slaac,
    /// So they do, and ask a DHCPv6 server for all else.
    Stateless,
    /// They ask a DHCPv6 server for them.
    Stateful,
}

/// What the switch's DHCPv4 server says on a subnet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Dhcp {
    /// The server identifier and source address (RFC 2131 §4.1).
    pub server: Ipv4Addr,
    /// The MAC address that the server answers from.
    pub server_mac: Mac,
    /// The lease time in seconds.
    pub lease_seconds: u32,
    /// Name servers (option 6).
    pub dns: Vec<Ipv4Addr>,
    /// The domain (option 15); empty: none.
    pub domain: String,
    /// Classless static routes (option 121, RFC 3442), without the default one.
    pub routes: Vec<Route>,
}

/// What the switch's DHCPv6 server says on a subnet, besides its name servers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Dhcp6 {
    /// The MAC address that the server answers from, by which it is known (RFC 8415 §11.4): the same on all subnets of a network.
    pub server_mac: Mac,
    /// For how many seconds addresses are leased; `None`: hosts make their own, and are told the rest.
    pub lease_seconds: Option<u32>,
    /// The domain; empty: none.
    pub domain: String,
}

/// A route told to workloads.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Route {
    /// Where to.
    pub destination: Prefix,
    /// By whom.
    pub nexthop: IpAddr,
}
