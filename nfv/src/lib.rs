//! Which functions does a connection pass, and what do they decide?
//!
//! A chain is a short pipeline. Classifiers say which connections enter it; its functions decide once, on the first packet;
//! what they decided is applied to all the others without asking again. This crate is pure: it holds no clock, socket, thread,
//! lock or file; what must outlive a configuration is lent to it.
//!
//! # Map
//! - [`conntrack`]: the table of connections, and the machines of their protocols
//! - [`function`]: what a network function is
//! - [`functions`]: those that are built in; [`catalog`] lists them
//! - [`classifier`]: which connections enter a chain; [`chain`]: what it says of them
//! - [`buckets`]: the tokens that functions ask for
//! - [`inspect`]: whether a connection's first bytes may pass
//! - [`rules`]: which of thousands of ordered rules matches first
//!
//! # To add a function
//! One file in `functions/` and one line in [`catalog::CATALOG`]: docs/adding-a-function.md walks through one.

#![forbid(unsafe_code)]

pub mod buckets;
pub mod catalog;
pub mod chain;
pub mod classifier;
pub mod conntrack;
mod fields;
pub mod function;
pub mod functions;
#[cfg(test)]
mod guide;
pub mod inspect;
mod keyed_hash;
pub mod rules;

pub use chain::{Chain, ChainOutcome};
pub use classifier::Classifier;
pub use conntrack::Conntrack;
pub use function::{Binding, Context, Decision, NetworkFunction, Sources};
