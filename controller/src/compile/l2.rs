//! What do hosts hear about networks, ports and VTEPs?
//!
//! # The DHCP server's address
//! The gateway's, where the subnet has one of IPv4 inside it: clients can ask it for a renewal by
//! unicast, and it is no workload's. Otherwise 169.254.169.254, which no workload may hold either; a
//! client that has no route there renews by broadcast (RFC 2131 §4.4.5).
//!
//! # Name servers
//! Those that the subnet names. Where it names none the switch is told as one, at its service addresses; where no subnet of a network names
//! any, the switch sends on to the operator's what it does not know.

use std::net::IpAddr;

use hostconfig::{
    Endpoint, Location, Metadata, Network, Port, Subnet, Vteps,
    network::{Dhcp, Dhcp6, Named, RaMode, SERVICE_V4, SERVICE_V6},
    vtep::Vtep,
};
use net::{Id, Mac, ids::kind};
use sha2::{Digest as _, Sha256};

use super::{
    Complaint,
    intent::{self, Intent},
};

/// How long a workload may keep its address without asking: Neutron's default, a day.
const LEASE_SECONDS: u32 = 86_400;

/// The VTEPs of all hosts. Where two hosts claim one address, the first by id has it.
pub(super) fn vteps(intent: &Intent) -> Vteps {
    let mut all = Vteps::default();
    for host in intent.hosts.values() {
        if let Some(addr) = host.vtep {
            all.vteps.entry(addr).or_insert_with(|| Vtep {
                host: host.name.to_string(),
                foreign: host.foreign,
            });
        }
    }
    all
}

/// A network with its subnets.
pub(super) fn network(intent: &Intent, id: Id<kind::Network>) -> Option<Network> {
    let known = intent.networks.get(&id)?;
    let mut network = known.section.clone();
    let subnets = intent.subnets_of.of(&id);
    let subnets: Vec<_> = subnets.filter_map(|s| intent.subnets.get(s)).collect();
    // Who names servers has chosen whom to ask.
    if subnets.iter().any(|subnet| !subnet.dns.is_empty()) {
        network.resolvers.clear();
    }
    let floating = intent.floating_in.of(&known.scope());
    let floating = floating.filter_map(|id| intent.floating_ips.get(id));
    network.names = floating
        .filter_map(|floating| {
            Some(Named {
                name: floating.name.as_ref()?.whole.clone(),
                addr: floating.addr,
            })
        })
        .collect();
    let domain = network.domain.clone();
    let subnets = subnets.into_iter();
    network.subnets = subnets
        .map(|subnet| self::subnet(subnet, &domain))
        .collect();
    Some(network)
}

fn subnet(subnet: &intent::Subnet, domain: &str) -> Subnet {
    let v4 = |addr: &IpAddr| match addr {
        IpAddr::V4(addr) => Some(*addr),
        IpAddr::V6(_) => None,
    };
    let v6 = |addr: &IpAddr| match addr {
        IpAddr::V4(_) => None,
        IpAddr::V6(addr) => Some(*addr),
    };
    // Whether a router is there to say it is the switch's to see.
    let ra = subnet.ra.filter(|_| subnet.cidr.addr().is_ipv6());
    let mode = subnet.address_mode;
    let mode = mode.filter(|_| subnet.dhcp && subnet.cidr.addr().is_ipv6());
    let dhcp6 = mode.and_then(|mode| {
        let lease_seconds = match mode {
            RaMode::Stateful => Some(LEASE_SECONDS),
            RaMode::Stateless => None,
            RaMode::Slaac => return None,
        };
        Some(Dhcp6 {
            server_mac: server_mac(subnet.network),
            lease_seconds,
            domain: domain.to_owned(),
        })
    });
    let dhcp = (subnet.dhcp && subnet.cidr.addr().is_ipv4()).then(|| Dhcp {
        server: match subnet.gateway {
            Some(IpAddr::V4(gateway)) if subnet.cidr.contains(gateway.into()) => gateway,
            _ => SERVICE_V4,
        },
        server_mac: server_mac(subnet.network),
        lease_seconds: LEASE_SECONDS,
        dns: or_the_switch(subnet.dns.iter().filter_map(v4), SERVICE_V4),
        domain: domain.to_owned(),
        routes: subnet.routes.clone(),
    });
    Subnet {
        id: subnet.id,
        cidr: subnet.cidr,
        gateway: subnet.gateway,
        dhcp,
        dns6: if ra.is_some() || dhcp6.is_some() {
            or_the_switch(subnet.dns.iter().filter_map(v6), SERVICE_V6)
        } else {
            Vec::new()
        },
        dhcp6,
        ra,
    }
}

/// The name servers that a subnet names; where it names none the switch is the one.
fn or_the_switch<A>(named: impl Iterator<Item = A>, switch: A) -> Vec<A> {
    let mut all: Vec<_> = named.collect();
    if all.is_empty() {
        all.push(switch);
    }
    all
}

/// The same in every switch, so that a workload that moves finds its server again. The first octet is
/// local and unicast, and not the one that ports are given.
fn server_mac(network: Id<kind::Network>) -> Mac {
    let mut sha = Sha256::new();
    sha.update("dhcp/");
    sha.update(network.uuid().as_bytes());
    let hash: [u8; 32] = sha.finalize().into();
    let mut octets = hash.first_chunk::<6>().copied().unwrap_or_default();
    octets[0] = 0x06;
    Mac::new(octets)
}

/// A port, for its own host.
pub(super) fn port(intent: &Intent, id: Id<kind::Port>) -> Option<Port> {
    let port = intent.ports.get(&id)?;
    if !intent.networks.contains_key(&port.section.network) || !intent.has_device(port) {
        return None;
    }
    let mut section = port.section.clone();
    section
        .security_groups
        .retain(|group| intent.groups.contains_key(group));
    section.qos = intent.qos_of(port);
    section.firewall = intent.firewall_of(id);
    let host = port.host.as_ref().and_then(|name| intent.host(name));
    section.host_number = host.and_then(|host| host.number);
    Some(section)
}

/// What the workload behind a port hears of itself.
pub(super) fn metadata(intent: &Intent, id: Id<kind::Port>) -> Option<Metadata> {
    intent.ports.get(&id)?.metadata.as_deref().cloned()
}

/// A port, for the other hosts of its network. A router's interface is told with the router.
pub(super) fn endpoint(intent: &Intent, id: Id<kind::Port>) -> Option<Endpoint> {
    let port = intent.ports.get(&id).filter(|port| port.router.is_none())?;
    let at = if intent.is_vip(id) {
        Location::Virtual
    } else {
        Location::Vtep(intent.host(intent.place(port)?)?.vtep?)
    };
    let section = &port.section;
    Some(Endpoint {
        id,
        network: section.network,
        project: Some(section.project),
        mac: section.mac,
        addrs: section.fixed_ips.iter().map(|fixed| fixed.addr).collect(),
        dns_name: section.dns_name.clone(),
        at,
    })
}

/// Why a port can't be had.
pub(super) fn complaint(intent: &Intent, id: Id<kind::Port>) -> Option<Complaint> {
    let port = intent.ports.get(&id)?;
    if !intent.networks.contains_key(&port.section.network) {
        return Some(Complaint::NetworkMissing {
            network: port.section.network,
        });
    }
    let name = port.host.as_ref()?;
    let network = intent.networks.get(&port.section.network);
    let wire = network.and_then(|network| network.section.wire.as_ref());
    match intent.host(name) {
        None => Some(Complaint::HostUnknown { host: name.clone() }),
        Some(host) if host.vtep.is_none() => Some(Complaint::NoVtep { host: name.clone() }),
        Some(host) if !host.carries(wire) => Some(Complaint::NoWire {
            host: name.clone(),
            physical: wire.map(|wire| wire.physical.clone()).unwrap_or_default(),
        }),
        Some(_) if !intent.has_device(port) => Some(Complaint::NoDevice { host: name.clone() }),
        Some(_) => None,
    }
}
