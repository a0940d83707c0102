//! What of a router's traffic is counted?

use net::{Id, Prefix, ids::kind};
use serde::{Deserialize, Serialize};

use crate::group::Direction;

/// A label under which a router counts what crosses its gateway.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Meter {
    /// Its id in the API.
    pub label: Id<kind::MeteringLabel>,
    /// What counts, by id; of those that a packet is meant by, one that excludes goes before all others.
    pub rules: Vec<MeterRule>,
}

/// Traffic that counts for a label, or does not.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MeterRule {
    /// Does it come in by the gateway, or leave by it?
    pub direction: Direction,
    /// Does it not count, whatever other rules say?
    pub excluded: bool,
    /// Where it comes from: inside, what the workload has itself; `None`: anywhere.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<Prefix>,
    /// Where it goes: inside, what the workload has itself; `None`: anywhere.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub destination: Option<Prefix>,
}
