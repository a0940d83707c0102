//! Which functions does a connection pass, and what do they decide?

#![forbid(unsafe_code)]

pub mod conntrack;
pub mod function;
