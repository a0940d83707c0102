//! Which functions does a connection pass, and what do they decide?

pub mod function;
