//! Who is there on a network?

use hostconfig::{Location, group::Direction};
use net::{DropReason, Mac};

use super::{Arrival, End, Host, Place, Receiver, place_of, words::macs_of};
use crate::plan::{NetId, PortUuid};

impl Host {
    /// Who has a MAC address, and whose that one is.
    pub(super) fn end(&self, network: NetId, mac: Mac) -> Option<End> {
        let mut here = self.ports().filter(|p| p.network == network);
        let port = here.find(|p| macs_of(p).contains(&mac));
        let port = port.map(|p| (p.id, network, Some(p.project)));
        let mut there = self.endpoints(network);
        port.or_else(|| {
            let endpoint = there.find(|e| e.mac.get() == mac)?;
            Some((endpoint.id, network, endpoint.project))
        })
    }

    pub(super) fn place(&self, network: NetId, mac: Mac) -> Option<Place> {
        let mut here = self.ports().filter(|p| p.network == network);
        if let Some(port) = here.find(|p| macs_of(p).contains(&mac)) {
            return Some(Place::Here(port.id));
        }
        let endpoint = self.endpoints(network).find(|e| e.mac.get() == mac)?;
        Some(place_of(endpoint.at))
    }

    /// Copies for everyone else on the network; each local receiver's groups judge its own.
    pub(super) fn flood(
        &self,
        origin: Option<PortUuid>,
        a: &Arrival,
    ) -> Result<Vec<Receiver>, DropReason> {
        if let Some(port) = origin.and_then(|p| self.port(p)) {
            self.group(port, &a.key, Direction::Egress)?;
        }
        if a.key.dst_mac().is_link_local_control() {
            return Err(DropReason::LinkLocalControl);
        }
        let ports = self
            .ports()
            .filter(|p| p.network == a.network && Some(p.id) != origin);
        let mut copies: Vec<_> = ports
            .map(|p| {
                if !p.admin_up {
                    return Err(DropReason::AdminDown);
                }
                let passed = self.group(p, &a.key, Direction::Ingress);
                passed.map(|()| (a.key, a.network, Place::Here(p.id)))
            })
            .collect();
        if origin.is_some() {
            let mut hosts: Vec<_> = self.endpoints(a.network).map(|e| e.at).collect();
            hosts.retain(|at| *at != Location::Virtual);
            hosts.sort_by_key(|at| format!("{at:?}"));
            hosts.dedup();
            copies.extend(
                hosts
                    .into_iter()
                    .map(|at| Ok((a.key, a.network, place_of(at)))),
            );
        }
        if copies.is_empty() {
            return Err(DropReason::NoReceiver);
        }
        Ok(copies)
    }
}
