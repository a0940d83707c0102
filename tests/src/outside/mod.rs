//! What does somebody outside see of the fabric?
//!
//! A [`Cable`] is the wire of a physical network, with who said what on it. A [`Rig`] is a lab of three hosts, two of which are plugged in, beside a
//! namespace that plays the internet; tenants are made by the API.

mod cable;
mod rig;

pub use cable::{Cable, Seen, Spell, longest_gap, spells};
pub use rig::{Api, Rig, SERVER4, SERVER6, Tenant, Workload};
