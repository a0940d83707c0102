//! What is known of the hosts that is not intent?
//!
//! The board between `hosts/`, which writes what hosts prove, and the API, which shows it. Nothing of
//! it is stored: after a restart it is empty until the hosts say it again, so that the API never
//! claims what nobody proved.
//!
//! # Threads
//! Sharded maps; no guard leaves a function.

use crate::time::Seconds;
use dashmap::DashMap;
use std::{collections::BTreeMap, sync::Arc};
use uuid::Uuid;

#[derive(Debug, Clone, Copy)]
struct HostState {
    alive: bool,
    seen: Seconds,
}

/// The board.
#[derive(Debug, Default)]
pub struct StatusBoard {
    hosts: DashMap<Uuid, HostState>,
    /// Port to the host that proved it.
    ports: DashMap<Uuid, Uuid>,
    /// Networks that some host concerned has not realised.
    unrealised: DashMap<Uuid, ()>,
    complaints: DashMap<Uuid, Arc<str>>,
    /// What each host has counted at routers' gateways, by label and router.
    meters: DashMap<Uuid, Sums>,
    /// What passed each host's listeners.
    served: DashMap<Uuid, BTreeMap<Uuid, Served>>,
}

/// What passed a listener.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Served {
    /// Connections that there were when they were last counted.
    pub active: u64,
    /// Connections that began.
    pub connections: u64,
    /// Bytes from clients.
    pub bytes_in: u64,
    /// Bytes to clients.
    pub bytes_out: u64,
    /// Packets that found nobody to serve them.
    pub refused: u64,
}

impl Served {
    /// With another's.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        Self {
            active: self.active.saturating_add(other.active),
            connections: self.connections.saturating_add(other.connections),
            bytes_in: self.bytes_in.saturating_add(other.bytes_in),
            bytes_out: self.bytes_out.saturating_add(other.bytes_out),
            refused: self.refused.saturating_add(other.refused),
        }
    }
}

/// Segments and bytes of IP.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Sum {
    /// Segments.
    pub packets: u64,
    /// Bytes.
    pub bytes: u64,
}

/// Sums by label and router.
pub type Sums = BTreeMap<(Uuid, Uuid), Sum>;

impl StatusBoard {
    /// Notes that a host is connected or not, and when that was seen.
    pub fn set_host(&self, host: Uuid, alive: bool, seen: Seconds) {
        self.hosts.insert(host, HostState { alive, seen });
    }

    /// Forgets a host and what it proved.
    pub fn forget_host(&self, host: Uuid) {
        self.hosts.remove(&host);
        self.complaints.remove(&host);
        self.meters.remove(&host);
        self.served.remove(&host);
        self.ports.retain(|_, prover| *prover != host);
    }

    /// Is the host connected?
    pub fn is_host_alive(&self, host: Uuid) -> bool {
        self.hosts.get(&host).is_some_and(|state| state.alive)
    }

    /// When the host was last heard of.
    pub fn last_seen(&self, host: Uuid) -> Option<Seconds> {
        self.hosts.get(&host).map(|state| state.seen)
    }

    /// Notes that a host proved a port, or that it no longer does.
    pub fn set_port(&self, port: Uuid, host: Uuid, realised: bool) {
        if realised {
            self.ports.insert(port, host);
        } else {
            self.ports.remove_if(&port, |_, prover| *prover == host);
        }
    }

    /// Did this host prove this port?
    pub fn is_port_realised(&self, port: Uuid, host: Uuid) -> bool {
        self.ports.get(&port).is_some_and(|prover| *prover == host)
    }

    /// Did a host prove this, a port or what else is one host's?
    pub fn is_realised(&self, object: Uuid) -> bool {
        self.ports.contains_key(&object)
    }

    /// Notes that every host with a port on the network has realised it, or not.
    pub fn set_network(&self, network: Uuid, realised: bool) {
        if realised {
            self.unrealised.remove(&network);
        } else {
            self.unrealised.insert(network, ());
        }
    }

    /// Has every host with a port on the network realised it? So it is if there are none.
    pub fn is_network_realised(&self, network: Uuid) -> bool {
        !self.unrealised.contains_key(&network)
    }

    /// Notes all that a host has counted.
    pub fn set_meters(&self, host: Uuid, sums: Sums) {
        self.meters.insert(host, sums);
    }

    /// What all hosts have counted, as they said last.
    pub fn meters(&self) -> Sums {
        let mut all = Sums::new();
        for host in &self.meters {
            for (key, of) in host.value() {
                let sum = all.entry(*key).or_default();
                sum.packets = sum.packets.saturating_add(of.packets);
                sum.bytes = sum.bytes.saturating_add(of.bytes);
            }
        }
        all
    }

    /// Notes all that passed a host's listeners.
    pub fn set_served(&self, host: Uuid, served: BTreeMap<Uuid, Served>) {
        self.served.insert(host, served);
    }

    /// What passed a listener on all hosts, as they said last.
    pub fn served(&self, listener: Uuid) -> Served {
        let all = self.served.iter();
        let of = all.filter_map(|host| host.value().get(&listener).copied());
        of.fold(Served::default(), Served::and)
    }

    /// Notes what could not be realised of an object (host, port, chain …), or that all could.
    pub fn set_complaint(&self, object: Uuid, complaint: Option<&str>) {
        match complaint {
            Some(complaint) => {
                self.complaints.insert(object, Arc::from(complaint));
            }
            None => {
                self.complaints.remove(&object);
            }
        }
    }

    /// What could not be realised of an object.
    pub fn complaint(&self, object: Uuid) -> Option<Arc<str>> {
        self.complaints
            .get(&object)
            .map(|complaint| Arc::clone(&complaint))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_is_realised_only_by_the_host_that_proved_it() {
        let board = StatusBoard::default();
        let (port, old, new) = (Uuid::new_v4(), Uuid::new_v4(), Uuid::new_v4());
        board.set_port(port, old, true);
        assert!(board.is_port_realised(port, old) && !board.is_port_realised(port, new));
        board.set_port(port, new, true);
        board.set_port(port, old, false);
        assert!(board.is_port_realised(port, new));
        board.forget_host(new);
        assert!(!board.is_port_realised(port, new));
    }
}
