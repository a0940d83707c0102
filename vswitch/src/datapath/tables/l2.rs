//! Where does a frame go, by its destination MAC address?
//!
//! Known unicast to the one place, group addresses to everyone else on the network, unknown unicast to nobody: the
//! controller knows every MAC address that exists, so an unknown one is a mistake or an attack.

use net::{DropReason, Id, Origin, Probe, ids::kind};
use overlay::Place;

use super::{Network, SectionIndex, Tables};

/// What forwarding says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Forward {
    /// To one place.
    To {
        /// Where.
        place: Place,
        /// Whose it is, in the API.
        port: Id<kind::Port>,
        /// The section that says so.
        section: SectionIndex,
    },
    /// To everyone else.
    Flood,
}

/// Looks the destination up.
///
/// # Errors
/// The reason, when nobody is to have the frame.
pub fn forward(
    tables: &Tables,
    network: &Network,
    probe: &mut Probe,
) -> Result<Forward, DropReason> {
    let mac = probe.eth_dst();
    if mac.is_link_local_control() {
        return Err(DropReason::LinkLocalControl);
    }
    if mac.is_multicast() {
        return Ok(Forward::Flood);
    }
    let entry = network.fdb.get(mac).ok_or(DropReason::UnknownUnicast)?;
    let section = match entry.place {
        Place::Local(port) => tables.port(port).map(|p| p.section),
        Place::Vtep(_) | Place::Virtual => network.endpoints.get(&entry.port).copied(),
    };
    Ok(Forward::To {
        place: entry.place,
        port: entry.port,
        // Without a section of its own it stands and falls with the network's members.
        section: section.unwrap_or(network.members),
    })
}

/// Would the frame go back to where it came from?
pub fn returns(origin: Origin, place: Place) -> bool {
    match (origin, place) {
        (Origin::Port(from), Place::Local(to)) => from == to,
        (Origin::Tunnel(_), Place::Vtep(_)) => true,
        (Origin::Port(_), Place::Vtep(_) | Place::Virtual)
        | (Origin::Tunnel(_), Place::Local(_) | Place::Virtual)
        | (Origin::Switch, _) => false,
    }
}
