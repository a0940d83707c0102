//! How does a file become a fabric, and the fabric a verdict?
//!
//! `overweave lab` reads a file ([`mod@file`]), judges it ([`check`] makes a [`plan`]), brings it up ([`fabric`]: namespaces,
//! wires, a real controller and real vswitches), makes its intent through the public API ([`provision`]), tries what it
//! expects with real clients ([`expect`], [`probe`]), and removes all of it ([`state`]).

pub(crate) mod check;
pub(crate) mod drops;
pub(crate) mod expect;
pub(crate) mod fabric;
pub(crate) mod file;
pub(crate) mod keeper;
pub(crate) mod ledger;
pub(crate) mod nat;
pub(crate) mod neighbours;
pub(crate) mod netlink;
pub(crate) mod netns;
pub(crate) mod plan;
pub(crate) mod probe;
pub(crate) mod provision;
pub(crate) mod relay;
pub(crate) mod state;
pub(crate) mod tagger;
pub(crate) mod underlay;
pub(crate) mod vtep;
