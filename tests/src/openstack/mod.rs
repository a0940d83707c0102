//! Does the real `openstack` client move real traffic?
//!
//! A [`Client`] is the client itself, kept running (`tests/openstack/client.py`). A [`Script`] is a table of its commands
//! and of what must be seen within a second of each answer; a [`Watch`] is the traffic that is looked at.

mod client;
mod probe;
mod script;
mod watch;

pub use client::{Answer, Client, allowed};
pub use probe::{
    How, Namespace, Offer, Probe, Request, answers, refusal, serve, serve_http, serve_late,
};
pub use script::Script;
pub use watch::Watch;
