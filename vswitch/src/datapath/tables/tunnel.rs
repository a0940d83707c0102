//! May this frame come out of a tunnel?
//!
//! The outer source was checked against the known VTEPs when the datagram was read. Here the inner frame is judged: its
//! network must be served, and its source must not be one of this very host's. The same holds for a frame off a wire.

use net::{DropReason, Probe};
use overlay::Place;

use super::Network;

/// Judges an inner frame.
///
/// # Errors
/// The reason why it can't come from there.
pub fn judge(network: &Network, probe: &mut Probe) -> Result<(), DropReason> {
    let source = network.fdb.get(probe.eth_src());
    match source.map(|e| e.place) {
        Some(Place::Local(_)) if network.wire.is_some() => Err(DropReason::WireSpoof),
        Some(Place::Local(_)) => Err(DropReason::TunnelSpoof),
        // Between switches the group bit of a source is a mark; from a stranger it is nonsense.
        None if network.wire.is_some() && probe.eth_src().is_multicast() => {
            Err(DropReason::WireSpoof)
        }
        // A router is in every switch: what another one routed shows its address. Unknown sources pass: a foreign VTEP's bridge may know more than the controller, and its receivers' groups judge it.
        Some(Place::Vtep(_) | Place::Virtual | Place::Router(_)) | None => Ok(()),
    }
}
