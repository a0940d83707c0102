//! Who gets a copy of a broadcast, unknown or multicast frame?
//!
//! Head-end replication: the sender's switch makes one copy for each local port of the network and one for each VTEP behind
//! which the network has a port. Split horizon: what came from a tunnel is never sent to a tunnel, and nothing goes back to
//! where it came from, so a frame can't circle.
//!
//! # Attack
//! A port that floods pays itself: the copies count against its own budget, and their number is bounded by the lists.
//!
//! # References
//! RFC 7348 §4.2 (here without underlay multicast); RFC 8365 §8.3.1 for split horizon.

use net::{Origin, PortId, VtepId};

/// The local ports and remote VTEPs of one network.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FloodList {
    ports: Vec<PortId>,
    vteps: Vec<VtepId>,
}

/// One receiver of a copy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Receiver {
    /// A local port.
    Port(PortId),
    /// A VTEP.
    Vtep(VtepId),
}

impl FloodList {
    /// From local ports and VTEPs, in any order, repeated or not.
    pub fn new(
        ports: impl IntoIterator<Item = PortId>,
        vteps: impl IntoIterator<Item = VtepId>,
    ) -> Self {
        let mut list = Self {
            ports: ports.into_iter().collect(),
            vteps: vteps.into_iter().collect(),
        };
        list.ports.sort_unstable();
        list.ports.dedup();
        list.vteps.sort_unstable();
        list.vteps.dedup();
        list
    }

    /// Who gets a copy of what entered at `origin`.
    pub fn replicate(&self, origin: Origin) -> impl Iterator<Item = Receiver> + '_ {
        let (skip, tunnels) = match origin {
            Origin::Port(port) => (Some(port), true),
            Origin::Tunnel(_) => (None, false),
            Origin::Switch => (None, true),
        };
        let ports = self
            .ports
            .iter()
            .filter(move |p| Some(**p) != skip)
            .map(|p| Receiver::Port(*p));
        let vteps = self
            .vteps
            .iter()
            .filter(move |_| tunnels)
            .map(|v| Receiver::Vtep(*v));
        ports.chain(vteps)
    }

    /// The local ports.
    pub fn ports(&self) -> &[PortId] {
        &self.ports
    }

    /// The VTEPs.
    pub fn vteps(&self) -> &[VtepId] {
        &self.vteps
    }
}

#[cfg(test)]
mod tests {
    use net::NetworkId;

    use super::{
        Receiver::{Port, Vtep},
        *,
    };

    #[test]
    fn nothing_goes_back_and_tunnels_do_not_feed_tunnels() {
        let list = FloodList::new(
            [PortId(2), PortId(1), PortId(2)],
            [VtepId(1), VtepId(0), VtepId(1)],
        );
        let to = |o| list.replicate(o).collect::<Vec<_>>();
        assert_eq!(
            to(Origin::Port(PortId(1))),
            [Port(PortId(2)), Vtep(VtepId(0)), Vtep(VtepId(1))]
        );
        assert_eq!(
            to(Origin::Tunnel(NetworkId(0))),
            [Port(PortId(1)), Port(PortId(2))]
        );
        assert_eq!(to(Origin::Switch).len(), 4);
    }
}
