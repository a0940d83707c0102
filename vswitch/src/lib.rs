//! The user-space switch of one host, and its agent.
//!
//! # The packet's walk
//! A frame is read from a workload's tap ([`io`]) by the worker thread that owns that queue, up to 64 at a time, super-frames
//! whole. The [`datapath`] parses each once, finds the connection or the megaflow that it belongs to, and does what was
//! decided for it: rewrite, queue, encapsulate. A packet that nothing was decided for walks the tables (port security,
//! security group, chains, layer 2), and what they say is compiled and kept. It leaves through another tap, or as VXLAN
//! to the host where its receiver is, whose switch does the second half. Every packet ends delivered or with a named
//! reason.
//!
//! # Who decides
//! Not the workers: they read one immutable snapshot of tables a batch. The agent, one thread beside them, hears what
//! the controller wants of this host, keeps it on disk, builds the next tables and swaps them in, and tells the controller
//! what became of it. Without a controller the switch goes on with what it was last told, also after a restart.
//!
//! # Parts
//! [`run`] builds them from a [`Config`] and runs them; the local socket and HTTP carry questions to the agent. Workers are threads of their own; tokio carries only the control plane.

pub mod bench;
pub mod config;
pub mod datapath;
pub mod effort;
pub mod io;
pub mod metadata;
pub mod physical;
mod proxy;
pub mod simulated;
pub mod stats;
pub mod worker;

mod agent;
mod daemon;
mod dump;
mod http;
mod local;
mod switch;
#[cfg(test)]
mod testing;
mod wires;

pub use self::{
    agent::{
        IdentityError, InvalidToken, JoinError, JoinToken, LinkError, METRICS as AGENT_METRICS,
        StateError,
    },
    config::{Config, ConfigError, ControllerUrl, Options, UplinkChoice},
    daemon::{Error, run},
    http::HttpError,
    local::LocalError,
    switch::StartError,
};
