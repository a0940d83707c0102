//! Whose are the tagged frames of a device?
//!
//! A trunk's sub-ports have no device: what they send comes in by their parent's with an 802.1Q tag, and goes out of it with one. Here, for
//! each parent's device, is which tag is whose, and the other way round. Between the tag's coming off ([`ingress`](super::super::ingress))
//! and its going on (when a worker sends) a sub-port's frame is like any port's.
//!
//! # Cost
//! A search for each tagged frame, and for each batch to a port without a device. Untagged frames ask nothing here.
//!
//! # References
//! IEEE 802.1Q §9.6.

use std::collections::{HashMap, HashSet};

use net::{PortId, Vlan};

use super::Port;

/// Whose a tagged frame is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tagged {
    /// This sub-port's.
    Is(PortId),
    /// Nobody's, though others of the device's tags are somebody's.
    Unknown,
    /// The device is no trunk's.
    NoTrunk,
}

type Map<K, V> = HashMap<K, V, foldhash::fast::FixedState>;

/// The trunks of this host.
#[derive(Debug, Clone, Default)]
pub(super) struct Trunks {
    /// By the parent and the tag.
    tagged: Map<(PortId, u16), PortId>,
    parents: HashSet<PortId>,
    carriers: Map<PortId, (PortId, Vlan)>,
}

impl Trunks {
    /// Those of these ports whose parents are there.
    pub(super) fn new<'p>(
        ports: impl Iterator<Item = &'p Port>,
        parent: impl Fn(&Port) -> Option<PortId>,
        seed: u64,
    ) -> Self {
        let mut trunks = Self {
            tagged: Map::with_hasher(foldhash::fast::FixedState::with_seed(seed)),
            ..Self::default()
        };
        for port in ports {
            let (Some(trunk), Some(parent)) = (port.trunk, parent(port)) else {
                continue;
            };
            trunks.parents.insert(parent);
            let tag = (parent, trunk.vlan.into());
            // Of two with one tag the first has it.
            let holder = trunks.tagged.entry(tag).or_insert(port.dense);
            if *holder == port.dense {
                trunks.carriers.insert(port.dense, (parent, trunk.vlan));
            }
        }
        trunks
    }

    pub(super) fn tagged(&self, device: PortId, vlan: u16) -> Tagged {
        match self.tagged.get(&(device, vlan)) {
            Some(port) => Tagged::Is(*port),
            None if self.parents.contains(&device) => Tagged::Unknown,
            None => Tagged::NoTrunk,
        }
    }

    pub(super) fn carrier(&self, port: PortId) -> Option<(PortId, Vlan)> {
        self.carriers.get(&port).copied()
    }
}
