//! The user-space switch of one host, and its agent.

pub mod io;
