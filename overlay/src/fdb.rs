//! Where does a MAC address live?
//!
//! The forwarding database of one network maps a MAC address to a local port, to a VTEP, or to every switch (a virtual address, or a
//! router's).
//! It comes whole from the controller: nothing is learned from packets, so nothing can be taught by an attacker.
//!
//! # Invariants
//! - One entry a MAC address; a second port with the same one is refused, the first stays.
//! - `len() <= capacity`.
//!
//! # Cost
//! Lookup: one hash, no allocation.
//!
//! # References
//! RFC 7348 §4; IEEE 802.1Q §8.8.

use hashbrown::HashMap;
use net::{Id, Mac, PortId, RouterId, VtepId, ids::kind};

/// Where an address is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Place {
    /// On this host.
    Local(PortId),
    /// Behind a VTEP.
    Vtep(VtepId),
    /// In every switch: the switch itself answers for it.
    Virtual,
    /// In every switch: this router is there, at the interface that the entry's port names.
    Router(RouterId),
}

/// What is known of a MAC address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FdbEntry {
    /// Where it is.
    pub place: Place,
    /// Whose it is, in the API.
    pub port: Id<kind::Port>,
}

/// Why an entry was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FdbRefusal {
    /// Another port has the address.
    #[error("mac address {mac} is already that of port {port}")]
    Taken {
        /// The address.
        mac: Mac,
        /// Who has it.
        port: Id<kind::Port>,
    },
    /// The table is full.
    #[error("forwarding database is full (capacity {0})")]
    Full(usize),
}

/// The forwarding database of one network.
#[derive(Debug, Clone)]
pub struct Fdb {
    entries: HashMap<Mac, FdbEntry, foldhash::fast::FixedState>,
    capacity: usize,
}

impl Fdb {
    /// An empty one that holds at most `capacity` addresses. The seed keeps outsiders from choosing addresses that collide.
    pub fn new(capacity: usize, seed: u64) -> Self {
        Self {
            entries: HashMap::with_hasher(foldhash::fast::FixedState::with_seed(seed)),
            capacity,
        }
    }

    /// Pins an address to a place.
    ///
    /// # Errors
    /// When another port has it, or the table is full.
    pub fn pin(&mut self, mac: Mac, entry: FdbEntry) -> Result<(), FdbRefusal> {
        let full = self.entries.len() >= self.capacity;
        match self.entries.get_mut(&mac) {
            Some(there) if there.port == entry.port => *there = entry,
            Some(there) => {
                return Err(FdbRefusal::Taken {
                    mac,
                    port: there.port,
                });
            }
            None if full => {
                return Err(FdbRefusal::Full(self.capacity));
            }
            None => {
                self.entries.insert(mac, entry);
            }
        }
        Ok(())
    }

    /// Forgets an address of this port.
    pub fn unpin(&mut self, mac: Mac, port: Id<kind::Port>) {
        if self.entries.get(&mac).is_some_and(|e| e.port == port) {
            self.entries.remove(&mac);
        }
    }

    /// Where it lives.
    pub fn get(&self, mac: Mac) -> Option<FdbEntry> {
        self.entries.get(&mac).copied()
    }

    /// How many addresses there are.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Is there none?
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// All of them, in no order.
    pub fn iter(&self) -> impl Iterator<Item = (Mac, FdbEntry)> + '_ {
        self.entries.iter().map(|(m, e)| (*m, *e))
    }
}

#[cfg(test)]
mod tests {
    use net::testkit::mac;

    use super::*;

    fn entry(port: u128, place: Place) -> FdbEntry {
        FdbEntry {
            place,
            port: Id::new(uuid(port)),
        }
    }

    fn uuid(n: u128) -> uuid::Uuid {
        uuid::Uuid::from_u128(n)
    }

    #[test]
    fn the_first_owner_keeps_an_address() {
        let mut fdb = Fdb::new(8, 1);
        fdb.pin(mac(1), entry(1, Place::Virtual)).unwrap();
        assert!(matches!(
            fdb.pin(mac(1), entry(2, Place::Virtual)),
            Err(FdbRefusal::Taken { .. })
        ));
        fdb.pin(mac(1), entry(1, Place::Local(PortId(3)))).unwrap();
        assert_eq!(fdb.get(mac(1)).unwrap().place, Place::Local(PortId(3)));
        fdb.unpin(mac(1), Id::new(uuid(2)));
        assert_eq!(fdb.len(), 1);
        fdb.unpin(mac(1), Id::new(uuid(1)));
        assert!(fdb.is_empty());
    }

    #[test]
    fn a_full_table_refuses_and_says_so() {
        let mut fdb = Fdb::new(1, 1);
        fdb.pin(mac(1), entry(1, Place::Virtual)).unwrap();
        assert_eq!(
            fdb.pin(mac(2), entry(2, Place::Virtual)),
            Err(FdbRefusal::Full(1))
        );
    }
}
