//! What does the switch know of names?
//!
//! Each network's tables have what its ports are called (`names`). A workload asks its own switch, which answers in the question's
//! buffer ([`answer`]): at the service addresses on every network that tells its hosts anything (`asked`), and on the way to a name
//! server that the network's subnets name. What the network does not know goes on to that name server, as the workload's own packet:
//! judged by its groups, routed by its routers, tracked as its connection. See ADR 14.
//!
//! # Invariants
//! - The switch asks nobody: it has no socket, no cache and no table of questions, so there is nothing to poison and nothing to exhaust.
//! - A question is answered whole in its own buffer, or goes on as it came.

pub mod answer;
mod asked;
mod names;

pub(in crate::datapath) use asked::{Asks, MAC, is_service};
pub use names::{Names, host_name};
