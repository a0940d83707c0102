//! How does a router leave the fabric?
//!
//! A [`Gateway`] is what a router knows of its gateway port, on this host: who has it, and if that is this very host, by which interface it
//! speaks outside and how it hides sources. Every other host only knows whom to send to.
//!
//! # Invariants
//! - A gateway is [`Where::Here`] only with its network and a zone: then, and only then, it has an interface.

use std::net::IpAddr;

use hostconfig::nat::NatAddress;
use net::{Id, PortRange, VtepId, Zone, ids::kind};
use nfv::functions::Nat;

/// Who has a gateway, or a floating IP?
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Where {
    /// This host.
    Here,
    /// The one behind this VTEP.
    Vtep(VtepId),
    /// Nobody now.
    Nobody,
}

/// A router's way out of the fabric.
#[derive(Debug)]
pub struct Gateway {
    /// The port's id in the API.
    pub port: Id<kind::Port>,
    /// Who has it.
    pub at: Where,
    /// The scope of its connections, where it is here.
    pub zone: Zone,
    /// Its place among the router's interfaces, where it is here.
    pub interface: Option<u16>,
    /// Its addresses.
    pub addrs: Vec<IpAddr>,
    /// Who hides IPv4 sources, where it is here and they are hidden.
    pub nat: Option<Nat>,
}

/// The ports, and identifiers of queries, that hidden sources are given: one host has them all.
const PORTS: (u16, u16) = (1024, 65_535);

/// What hides sources behind the gateway's first IPv4 address; `None`: they go out as they are.
pub(super) fn nat(config: &hostconfig::router::Gateway) -> Option<Nat> {
    let mut addrs = config.addrs.iter().map(|a| a.addr);
    let addr = addrs.find(IpAddr::is_ipv4).filter(|_| config.snat)?;
    let address = NatAddress {
        addr,
        port: config.port,
        network: config.network,
        hides: true,
    };
    let nat = hostconfig::Nat {
        addresses: vec![address],
        sources: Vec::new(),
        ports: PortRange::new(PORTS.0, PORTS.1).ok()?,
        hosts: 1,
        client_limit: u32::MAX,
        forwards: Vec::new(),
        statics: Vec::new(),
    };
    Nat::new(&nat).ok()
}

impl Gateway {
    /// Is this one of its own addresses?
    pub fn owns(&self, addr: IpAddr) -> bool {
        self.addrs.contains(&addr)
    }
}
