//! Does a NAT's configuration make sense?

use std::{collections::BTreeMap, net::IpAddr};

use net::{PortRange, flow_key::proto};

use super::{Address, Forward, Nat, Target};

/// The most addresses of one NAT.
pub const MAX_ADDRESSES: usize = 256;
/// The most forwards of one NAT.
pub const MAX_FORWARDS: usize = 4_096;
/// The most hosts that share an address.
pub const MAX_HOSTS: u16 = 1_024;

/// Why a NAT can't be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NatFault {
    /// There are too many addresses.
    #[error("too many addresses (0..={MAX_ADDRESSES}): {0}")]
    TooManyAddresses(usize),
    /// There are too many forwards.
    #[error("too many forwards (0..={MAX_FORWARDS}): {0}")]
    TooManyForwards(usize),
    /// An address stands twice.
    #[error("address stands twice: {0}")]
    Twice(IpAddr),
    /// A forward or a static address from an address that is not the NAT's.
    #[error("not an address of the nat: {0}")]
    NotOwn(IpAddr),
    /// An address is forwarded to one of the other family.
    #[error("target is of another family than the address: {0}")]
    Family(IpAddr),
    /// A workload's address is itself the NAT's.
    #[error("target is an address of the nat itself: {0}")]
    ToItself(IpAddr),
    /// A workload has two addresses, or an address that serves others too.
    #[error("static address serves others too: {0}")]
    Shared(IpAddr),
    /// A protocol without ports.
    #[error("protocol of a forward (6, 17 or 132): {0}")]
    Protocol(u8),
    /// Two forwards of the same ports.
    #[error("ports are forwarded twice: {0} {1}")]
    Overlap(IpAddr, PortRange),
    /// A port that nobody can have.
    #[error("ports out of range (1..=65535): {0}")]
    Ports(PortRange),
    /// No host, or more than there are ports for.
    #[error("hosts out of range (1..={MAX_HOSTS}, and one port each at least): {0}")]
    Hosts(u16),
    /// No connection at all.
    #[error("limit of a client out of range (1 or more): {0}")]
    ClientLimit(u32),
}

use NatFault as Fault;

impl Nat {
    /// From its configuration.
    ///
    /// # Errors
    /// When that contradicts itself or exceeds a bound.
    pub fn new(config: &hostconfig::Nat) -> Result<Self, Fault> {
        let ports = config.ports;
        if ports.min() == 0 {
            return Err(Fault::Ports(ports));
        }
        let hosts = u32::from(config.hosts);
        let count = u32::from(ports.max() - ports.min()) + 1;
        if hosts == 0 || config.hosts > MAX_HOSTS || hosts > count {
            return Err(Fault::Hosts(config.hosts));
        }
        if config.client_limit == 0 {
            return Err(Fault::ClientLimit(0));
        }
        let mut nat = Self {
            own: addresses(&config.addresses)?,
            sources: config.sources.clone(),
            ports,
            hosts: config.hosts,
            client_limit: config.client_limit,
            forwards: BTreeMap::new(),
            outside: BTreeMap::new(),
        };
        if config.forwards.len() > MAX_FORWARDS {
            return Err(Fault::TooManyForwards(config.forwards.len()));
        }
        nat.put_statics(&config.statics)?;
        for forward in &config.forwards {
            nat.put_forward(forward)?;
        }
        Ok(nat)
    }

    fn put_statics(&mut self, statics: &[hostconfig::nat::Static]) -> Result<(), Fault> {
        for one in statics {
            let (outside, inside) = (one.outside, one.inside);
            self.check_target(outside, inside)?;
            let member = one.member;
            let address = self.own.get_mut(&outside).ok_or(Fault::NotOwn(outside))?;
            if address.hides || address.inside.is_some() {
                return Err(Fault::Shared(outside));
            }
            address.inside = Some(Target {
                addr: inside,
                member,
            });
            if self.outside.insert(inside, outside).is_some() {
                return Err(Fault::Shared(inside));
            }
        }
        Ok(())
    }

    fn check_target(&self, outside: IpAddr, inside: IpAddr) -> Result<(), Fault> {
        if !self.own.contains_key(&outside) {
            return Err(Fault::NotOwn(outside));
        }
        if outside.is_ipv4() != inside.is_ipv4() {
            return Err(Fault::Family(inside));
        }
        if self.own.contains_key(&inside) {
            return Err(Fault::ToItself(inside));
        }
        Ok(())
    }

    fn put_forward(&mut self, forward: &hostconfig::nat::Forward) -> Result<(), Fault> {
        let (addr, ports) = (forward.addr, forward.ports);
        self.check_target(addr, forward.to)?;
        if ![proto::TCP, proto::UDP, proto::SCTP].contains(&forward.protocol) {
            return Err(Fault::Protocol(forward.protocol));
        }
        let more = if forward.to_one {
            0
        } else {
            ports.max() - ports.min()
        };
        let last = forward.to_port.checked_add(more);
        if ports.min() == 0 || forward.to_port == 0 || last.is_none() {
            return Err(Fault::Ports(ports));
        }
        if self.own.get(&addr).is_some_and(|a| a.inside.is_some()) {
            return Err(Fault::Shared(addr));
        }
        let from = (addr, forward.protocol, ports.min());
        let behind = self.forwards.range(from..).next();
        if behind.is_some_and(|((a, p, _), f)| {
            (*a, *p) == (addr, forward.protocol) && f.first <= ports.max()
        }) {
            return Err(Fault::Overlap(addr, ports));
        }
        let entry = Forward {
            first: ports.min(),
            to: Target {
                addr: forward.to,
                member: forward.member,
            },
            to_port: forward.to_port,
            to_one: forward.to_one,
        };
        let key = (addr, forward.protocol, ports.max());
        self.forwards.insert(key, entry);
        Ok(())
    }
}

fn addresses(listed: &[hostconfig::nat::NatAddress]) -> Result<BTreeMap<IpAddr, Address>, Fault> {
    if listed.len() > MAX_ADDRESSES {
        return Err(Fault::TooManyAddresses(listed.len()));
    }
    let mut own = BTreeMap::new();
    for address in listed {
        let entry = Address {
            port: address.port,
            network: address.network,
            hides: address.hides,
            inside: None,
        };
        if own.insert(address.addr, entry).is_some() {
            return Err(Fault::Twice(address.addr));
        }
    }
    Ok(own)
}
