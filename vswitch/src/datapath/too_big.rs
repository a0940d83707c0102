//! Is a packet too large for where it goes?
//!
//! What is larger than its network's MTU, than that of a network into which a router sends it, or than what the path to its VTEP leaves,
//! is dropped and its sender told ([`super::errors`]). Super-frames are measured by one segment. Whether don't-fragment is set does not
//! matter: a switch does not fragment.

use net::{Gso, Mtu, Origin, Packet};

use super::{
    flow::{CompiledFlow, RouterHop},
    tables::Tables,
};

/// Is a segment of this packet larger than the link carries?
pub(super) fn exceeds(packet: &Packet, mtu: Mtu) -> bool {
    size(packet) > usize::from(mtu.get())
}

/// Bytes behind the Ethernet header, of a super-frame those of one segment.
#[inline]
pub(super) fn size(packet: &Packet) -> usize {
    let headers = packet.headers();
    match packet.offload().gso {
        Gso::None => packet.len().saturating_sub(usize::from(headers.l3_at)),
        Gso::Tcp { size, .. } | Gso::Udp { size } => {
            let behind = headers.payload_at.saturating_sub(headers.l3_at);
            usize::from(behind) + usize::from(size)
        }
    }
}

/// The MTU of the network that a local port's packets are on; `None` for what comes from elsewhere: its own switch has measured it.
pub(super) fn limit(tables: &Tables, origin: Origin) -> Option<Mtu> {
    match origin {
        Origin::Port(id) => tables.port(id).map(|p| p.mtu),
        Origin::Tunnel(_) | Origin::Switch => None,
    }
}

/// The first link on the way of a packet of this size that does not carry it: its MTU, and the router that can't send it there. The
/// sender's own network is its first router's to speak of, where it comes to one.
pub(super) fn too_small(
    tables: &Tables,
    flow: &CompiledFlow,
    size: usize,
) -> Option<(Mtu, Option<RouterHop>)> {
    let own = limit(tables, flow.origin).map(|mtu| (mtu, flow.routers().next()));
    let routed = flow.routers().filter_map(|hop| {
        let network = tables.network(hop.to?)?;
        Some((network.mtu, Some(hop)))
    });
    let mut links = own.into_iter().chain(routed);
    links.find(|(mtu, _)| size > usize::from(mtu.get()))
}
