//! What proves the fabric?
//!
//! # Map
//! - [`traffic`]: what workloads say to each other
//! - [`random`]: fabrics and traffic that nobody thought of
//! - [`plan`]: a fabric as a test says it, compiled to one [`hostconfig::HostConfig`] a host
//! - [`fabric`]: its switches in one process, with wires in memory and a virtual clock
//! - [`oracle`]: the naive switch that says where a frame must go

// A test library fails loudly: whatever goes wrong here is a failed test.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::missing_panics_doc,
    clippy::wildcard_enum_match_arm,
    reason = "test kit"
)]

pub mod fabric;
pub mod oracle;
pub mod plan;
pub mod random;
pub mod traffic;
