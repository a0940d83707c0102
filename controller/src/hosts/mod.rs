//! How do hosts hear what they should be?
//!
//! A host joins once with a token and has a certificate from then on ([`pki`]); it opens one stream
//! (`server`), over which its [`session`] brings it to what the compiler says and keeps it there.
//! The [`publish`]er holds all sessions and derives what is proved ([`StatusBoard`]); the task around
//! it is the only place with a clock.
//!
//! [`StatusBoard`]: crate::status::StatusBoard

mod appliances;
mod members;
pub mod parts;
pub mod pki;
mod proxies;
pub mod publish;
mod schedule;
pub mod session;

mod server;
#[cfg(test)]
mod server_tests;
mod stats;
mod status;
mod task;
#[cfg(test)]
mod tests;

pub use appliances::Lost;
pub use proxies::Seating;
pub use schedule::{Placement, Seat};
pub use server::Limits;
pub use stats::{METRICS, Stats};
pub use task::{Parts, TOGETHER, judge, note_lost, note_site, note_vtep, place, seat, serve};
