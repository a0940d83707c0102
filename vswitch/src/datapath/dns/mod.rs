//! What does the switch know of names?
//!
//! Each network's tables have what its ports are called (`names`). A workload asks its own switch, which answers in the question's
//! buffer ([`answer`]): at the service addresses on every network that tells its hosts anything (`asked`), and on the way to a name
//! server that the network's subnets name. What the network does not know goes on to that name server, as the workload's own packet:
//! judged by its groups, routed by its routers, tracked as its connection. See ADR 14.
//!
//! By TCP, which clients turn to for what did not fit, the workload's connection ends in the switch ([`metadata`](crate::metadata) has the
//! stacks). What the network does not know is asked by a second connection with the same ends but for the port (`UPSTREAM`): the workload's own,
//! as far as all tables are concerned, but for its answers, which are handed back.
//!
//! # Invariants
//! - The switch asks nobody in its own name: it has no cache, and of questions by UDP no table, so there is nothing to poison and nothing to exhaust.
//! - A question is answered whole in its own buffer, or goes on as it came.

pub mod answer;
mod asked;
mod names;

pub(in crate::datapath) use asked::{Asks, MAC, is_service};
pub(crate) use asked::{UPSTREAM, has_server};
pub use names::{Names, host_name};
