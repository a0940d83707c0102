//! What are the words of this house?
//!
//! Addresses, headers, packets and batches: the vocabulary that every other crate speaks. This crate is pure: it
//! holds no clock, socket, thread, lock or file; time is an argument ([`Now`]).
//!
//! # Map
//! - addresses and numbers: [`mac`], [`vlan`], [`vni`], [`label`], [`prefix`], [`port_range`], [`mtu`], [`ids`], [`time`]
//! - the machine: [`arch`]
//! - bytes: [`packet`] (one frame with headroom), [`pool`] (the only allocator of packets), [`batch`]
//! - meaning: [`headers`] (the one parser), [`tcp`], [`flow_key`], [`probe`] (to read a field is to un-wildcard it),
//!   [`spread`] (whose a connection is)
//! - change: [`rewrite`], [`checksum`]
//! - ends: [`verdict`] (the closed lists of how a packet begins and ends)

pub mod arch;
pub mod batch;
pub mod checksum;
pub mod flow_key;
pub mod headers;
pub mod ids;
pub mod label;
pub mod mac;
pub mod mtu;
pub mod packet;
pub mod pool;
pub mod port_range;
pub mod prefix;
pub mod probe;
pub mod rewrite;
pub mod spread;
pub mod tcp;
#[cfg(feature = "testkit")]
pub mod testkit;
pub mod time;
pub mod verdict;
pub mod vlan;
pub mod vni;

pub use batch::Batch;
pub use flow_key::{FiveTuple, FlowKey, Fragment, Origin};
pub use headers::{Headers, L3, L4, Malformed};
pub use ids::{ChainId, GroupId, Id, NetworkId, PortId, RouterId, VtepId, Zone};
pub use label::Label;
pub use mac::{Mac, UnicastMac};
pub use mtu::Mtu;
pub use packet::{Brought, Checksum, Errand, Gso, Offload, Packet};
pub use pool::PacketPool;
pub use port_range::PortRange;
pub use prefix::Prefix;
pub use probe::{FlowMask, Probe};
pub use spread::Spread;
pub use tcp::TcpSegment;
pub use time::Now;
pub use verdict::{Consumed, Copied, DropReason, Originated};
pub use vlan::Vlan;
pub use vni::Vni;
