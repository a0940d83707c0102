//! How does a frame reach another host?
//!
//! The underlay is the network between hosts, the overlay what workloads see. The line between them is drawn here: VXLAN
//! puts an inner frame into an outer datagram ([`vxlan`]), from a source port that spreads flows ([`entropy`]), and one that is handed to an
//! appliance of another host into one that says where in its chain it is ([`nsh`]); the forwarding
//! database says behind which VTEP a MAC address is ([`fdb`]), flooding makes a copy for each ([`flood`]), and what the controller
//! knows of addresses spares most of it ([`neighbours`]).
//!
//! Pure: bytes and tables in, bytes and answers out.

#![forbid(unsafe_code)]

pub mod entropy;
pub mod fdb;
pub mod flood;
pub mod neighbours;
pub mod nsh;
pub mod vxlan;

pub use entropy::source_port;
pub use fdb::{Fdb, FdbEntry, Place};
pub use flood::{FloodList, Receiver};
pub use neighbours::{Neighbour, Neighbours};
pub use nsh::{GPE_PORT, InvalidNsh, NSH_HEADER, Nsh, PortKey};
pub use vxlan::{InvalidVxlan, VXLAN_HEADER, VXLAN_PORT};
