//! Whose address is it?
//!
//! What the controller knows of a network's addresses, so that ARP requests and Neighbor Solicitations are answered in the
//! sender's own switch and need not be flooded.
//!
//! # Invariants
//! An address of two ports belongs to the first that claimed it.
//!
//! # References
//! RFC 826; RFC 4861 §7.2; RFC 9161 §3 (proxy ARP and ND in overlays).

use std::net::IpAddr;

use hashbrown::HashMap;
use net::{Id, Mac, ids::kind};

/// Who has an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Neighbour {
    /// Its MAC address.
    pub mac: Mac,
    /// Its port, in the API.
    pub port: Id<kind::Port>,
}

/// The addresses of one network.
#[derive(Debug, Clone)]
pub struct Neighbours {
    by_addr: HashMap<IpAddr, Neighbour, foldhash::fast::FixedState>,
}

impl Neighbours {
    /// None yet.
    pub fn new(seed: u64) -> Self {
        Self {
            by_addr: HashMap::with_hasher(foldhash::fast::FixedState::with_seed(seed)),
        }
    }

    /// Says who has an address; `false` when another port has it.
    pub fn claim(&mut self, addr: IpAddr, neighbour: Neighbour) -> bool {
        let there = *self.by_addr.entry(addr).or_insert(neighbour);
        if there.port == neighbour.port {
            self.by_addr.insert(addr, neighbour);
        }
        there.port == neighbour.port
    }

    /// Forgets an address of this port.
    pub fn release(&mut self, addr: IpAddr, port: Id<kind::Port>) {
        if self.by_addr.get(&addr).is_some_and(|n| n.port == port) {
            self.by_addr.remove(&addr);
        }
    }

    /// Who has it.
    pub fn get(&self, addr: IpAddr) -> Option<Neighbour> {
        self.by_addr.get(&addr).copied()
    }

    /// All of them, in no order.
    pub fn iter(&self) -> impl Iterator<Item = (IpAddr, Neighbour)> + '_ {
        self.by_addr.iter().map(|(a, n)| (*a, *n))
    }
}

#[cfg(test)]
mod tests {
    use net::testkit::mac;

    use super::*;

    #[test]
    fn the_first_claim_holds_until_it_is_released() {
        let mut n = Neighbours::new(1);
        let of = |p: u128, m| Neighbour {
            mac: mac(m),
            port: Id::new(uuid::Uuid::from_u128(p)),
        };
        for addr in ["10.0.0.1", "fd00::1"] {
            let addr: IpAddr = addr.parse().unwrap();
            assert!(n.claim(addr, of(1, 1)));
            assert!(!n.claim(addr, of(2, 2)));
            assert!(n.claim(addr, of(1, 3)));
            assert_eq!(n.get(addr).unwrap().mac, mac(3));
            n.release(addr, of(2, 2).port);
            assert!(n.get(addr).is_some());
            n.release(addr, of(1, 3).port);
            assert!(n.get(addr).is_none());
        }
    }
}
