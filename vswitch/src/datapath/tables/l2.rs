//! Where does a frame go, by its destination MAC address?
//!
//! Known unicast to the one place, group addresses to everyone else on the network, unknown unicast to nobody: the
//! controller knows every MAC address that exists, so an unknown one is a mistake or an attack.

use net::{DropReason, Id, Origin, Probe, ids::kind};
use overlay::{FdbEntry, Place};

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
    Ok(Forward::To {
        place: entry.place,
        port: entry.port,
        section: section(tables, network, &entry),
    })
}

/// The section that says what an entry says. Without one of its own it stands and falls with the network's members.
pub fn section(tables: &Tables, network: &Network, entry: &FdbEntry) -> SectionIndex {
    let own = match entry.place {
        Place::Local(port) => tables.port(port).map(|p| p.section),
        Place::Vtep(_) | Place::Virtual => network.endpoints.get(&entry.port).map(|e| e.section),
        Place::Router(router) => tables.router(router).map(|r| r.section),
    };
    own.unwrap_or(network.members)
}

/// Whose an entry is.
pub fn project(tables: &Tables, network: &Network, entry: &FdbEntry) -> Option<Id<kind::Project>> {
    match entry.place {
        Place::Local(port) => tables.port(port).map(|p| p.project),
        Place::Vtep(_) | Place::Virtual => network.endpoints.get(&entry.port)?.project,
        Place::Router(router) => tables.router(router).map(|r| r.project),
    }
}

/// Would the frame go back to where it came from?
pub fn returns(origin: Origin, place: Place) -> bool {
    match (origin, place) {
        (Origin::Port(from), Place::Local(to)) => from == to,
        (Origin::Tunnel(_), Place::Vtep(_)) => true,
        // A router says itself what it has out of a tunnel.
        (Origin::Port(_), Place::Vtep(_) | Place::Virtual | Place::Router(_))
        | (Origin::Tunnel(_), Place::Local(_) | Place::Virtual | Place::Router(_))
        | (Origin::Switch, _) => false,
    }
}
