//! The user-space switch of one host, and its agent.

pub mod datapath;
pub mod io;
