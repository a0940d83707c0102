//! Which addresses outside do workloads of this host, or behind a gateway of it, have?
//!
//! A [`Floating`] is a floating IP that this host answers for: at its workload's own host, or at the gateway's. Its address and MAC address stand on
//! the network outside as its router's do, under the id of its own port.
//!
//! # Invariants
//! - What is here has its router, its network outside, and a zone: its workload's if that is a port of this host, else the gateway's.

use std::{
    collections::{BTreeMap, HashMap},
    net::IpAddr,
    sync::Arc,
};

use hostconfig::{floating_ip::Workload, nat::NatAddress};
use net::{Id, PortRange, RouterId, Zone, ids::kind};
use nfv::functions::{Nat, nat::NatFault};

use super::{SectionIndex, l3::Interface};

/// A floating IP that this host answers for.
#[derive(Debug)]
pub struct Floating {
    /// Its id in the API.
    pub id: Id<kind::FloatingIp>,
    /// Its address outside.
    pub addr: IpAddr,
    /// How it stands on the network outside.
    pub interface: Interface,
    /// The router between it and the workload.
    pub router: RouterId,
    /// The scope in which its connections are known by what comes from outside.
    pub zone: Zone,
    /// Whose all of it is; `None`: ports are forwarded.
    pub inside: Option<Workload>,
    /// Which ports are forwarded to whom.
    pub forwards: Option<Nat>,
    /// Its section.
    pub section: SectionIndex,
}

/// What forwards the ports of a floating IP; `None`: none are.
pub(super) fn forwards(config: &hostconfig::FloatingIp) -> Result<Option<Nat>, NatFault> {
    if config.to.is_some() {
        return Ok(None);
    }
    let address = NatAddress {
        addr: config.addr,
        port: config.port,
        network: config.network,
        hides: false,
    };
    let nat = hostconfig::Nat {
        addresses: vec![address],
        sources: Vec::new(),
        ports: PortRange::one(u16::MAX),
        hosts: 1,
        client_limit: u32::MAX,
        forwards: config.forwards.clone(),
        statics: Vec::new(),
    };
    Nat::new(&nat).map(Some)
}

/// The floating IPs of one router that this host answers for.
#[derive(Debug, Clone, Default)]
pub struct OfRouter {
    /// Those of one workload each, by its address inside.
    by_inside: BTreeMap<IpAddr, Arc<Floating>>,
    /// The same, by the address outside.
    by_outside: BTreeMap<IpAddr, Arc<Floating>>,
    /// Who has one at all: read by whoever has none.
    pub section: Option<SectionIndex>,
}

impl OfRouter {
    /// Is there none?
    pub fn is_empty(&self) -> bool {
        self.by_outside.is_empty()
    }

    /// That of the workload with this address.
    pub fn of(&self, inside: IpAddr) -> Option<&Floating> {
        self.by_inside.get(&inside).map(|f| &**f)
    }

    /// The one with this address.
    pub fn shown(&self, outside: IpAddr) -> Option<&Floating> {
        self.by_outside.get(&outside).map(|f| &**f)
    }
}

/// All of this host.
#[derive(Debug, Clone, Default)]
pub struct FloatingIps {
    by_port: HashMap<Id<kind::Port>, Arc<Floating>, foldhash::fast::FixedState>,
    by_router: BTreeMap<RouterId, OfRouter>,
}

impl FloatingIps {
    /// That of this port of the API.
    #[inline]
    pub fn of_port(&self, port: Id<kind::Port>) -> Option<&Floating> {
        if self.by_port.is_empty() {
            return None;
        }
        self.by_port.get(&port).map(|f| &**f)
    }

    /// Those of a router.
    pub fn of_router(&self, router: RouterId) -> Option<&OfRouter> {
        self.by_router.get(&router)
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = &Floating> + '_ {
        self.by_port.values().map(|f| &**f)
    }

    /// Adds one; `false`: its router has that address, or its workload one already.
    pub(super) fn put(&mut self, floating: Floating) -> bool {
        let floating = Arc::new(floating);
        let of = self.by_router.entry(floating.router).or_default();
        let shown = of.by_outside.contains_key(&floating.addr);
        let has = floating
            .inside
            .is_some_and(|w| of.by_inside.contains_key(&w.addr));
        if shown || has {
            return false;
        }
        of.by_outside.insert(floating.addr, Arc::clone(&floating));
        if let Some(inside) = floating.inside {
            of.by_inside.insert(inside.addr, Arc::clone(&floating));
        }
        self.by_port.insert(floating.interface.port, floating);
        true
    }

    /// Who of a router has one: what its set of them is made of.
    pub(super) fn inside(&self, router: RouterId) -> Vec<(IpAddr, SectionIndex)> {
        let of = self.by_router.get(&router);
        let all = of.into_iter().flat_map(|of| &of.by_inside);
        all.map(|(addr, f)| (*addr, f.section)).collect()
    }

    pub(super) fn note(&mut self, router: RouterId, section: SectionIndex) {
        self.by_router.entry(router).or_default().section = Some(section);
    }
}
