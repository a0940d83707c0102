//! What proves the fabric?
//!
//! # Map
//! - [`plan`]: a fabric as a test says it, compiled to one [`hostconfig::HostConfig`] a host
//! - [`traffic`]: what workloads say to each other
//! - [`oracle`]: the naive switch that says where a frame must go
//! - [`fabric`]: real switches in one process, with wires in memory and a virtual clock
//! - [`stack`]: workloads with TCP, UDP, DHCP of their own, on a fabric
//! - [`churn`]: many who want the last address
//! - [`control`]: a controller and its hosts in one process, with streams that break
//! - [`evidence`]: a region that is asked by its API, and the packets that differ then
//! - [`random`]: fabrics and traffic that nobody thought of, held to the oracle
//! - [`transcript`]: commands and their exact answers
//! - [`ledger`]: a controller that is killed, and clients that remember
//! - [`netns`]: labs of real namespaces, driven by the binary
//! - [`openstack`]: the real client, and the traffic that obeys it
//! - [`outside`]: what is on the wire of an external network, and who said it
//! - [`crowd`]: many clients of HTTP in namespaces, and their servers
//! - [`scale`]: what the control plane bears
//! - [`wire`]: overweave beside its peers, in namespaces, measured in pairs

// A test library fails loudly: whatever goes wrong here is a failed test.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::missing_panics_doc,
    clippy::wildcard_enum_match_arm,
    reason = "test kit"
)]

pub mod churn;
pub mod control;
pub mod crowd;
pub mod evidence;
pub mod fabric;
pub mod ledger;
pub mod netns;
pub mod openstack;
pub mod oracle;
pub mod outside;
pub mod plan;
pub mod random;
pub mod scale;
pub mod stack;
pub mod traffic;
pub mod transcript;
pub mod wire;
