//! What should one host be, and what does it answer?
//!
//! All that controller and switch share. A [`HostConfig`] is a map of keyed, hashed [`Section`]s at a [`Generation`]: the
//! controller compiles each section once for every host that needs it, the host diffs, applies and acknowledges. Both ends
//! prove by [`HostConfig::digest`] that they hold the same.
//!
//! This crate is pure: no clock, socket, thread, lock or file. The gRPC messages are in [`wire`]; the stubs are generated
//! in `controller` (server) and `vswitch` (client), so that no async runtime comes in here.
//!
//! # Map
//! - [`section`]: keys, bodies, hashes
//! - what sections say: [`network`], [`port`], [`dhcp`], [`router`], [`group`], [`firewall`], [`floating_ip`], [`meter`], [`metadata`], [`qos`], [`share`],
//!   [`chain`], [`nat`], [`vtep`]
//! - [`zone`]: what a host says of where it stands
//! - [`config`]: the whole, its digest, [`check`]s and [`diff`]

#![forbid(unsafe_code)]

pub mod chain;
pub mod check;
pub mod config;
pub mod dhcp;
pub mod diff;
pub mod firewall;
pub mod floating_ip;
pub mod generation;
pub mod group;
pub mod metadata;
pub mod meter;
pub mod nat;
pub mod network;
pub mod port;
pub mod proxy;
pub mod qos;
pub mod router;
pub mod section;
pub mod share;
pub mod vtep;
pub mod zone;

/// The gRPC messages of `proto/overweave.proto`.
#[expect(
    missing_docs,
    reason = "generated; the .proto file documents each field"
)]
pub mod wire {
    include!(concat!(env!("OUT_DIR"), "/overweave.v1.rs"));
}

pub use chain::{
    Appliance, Chain, Classifier, Firewall, Function, FunctionKind, Graph, LoadBalancer, Plain,
    Shaper,
};
pub use config::{Digest, HostConfig};
pub use dhcp::{DhcpOption, DhcpOptions};
pub use firewall::FirewallGroup;
pub use floating_ip::FloatingIp;
pub use generation::Generation;
pub use group::{AddressSet, SecurityGroup, SecurityGroupRule};
pub use metadata::Metadata;
pub use meter::{Meter, MeterRule};
pub use nat::Nat;
pub use network::{Network, Subnet};
pub use port::{Endpoint, Location, Port, SubPort};
pub use proxy::{Pem, Proxy};
pub use qos::{Discipline, QosPolicy};
pub use router::Router;
pub use section::{Keyed, Section, SectionHash, SectionKey};
pub use vtep::Vteps;
