//! What passed this host's listeners?
//!
//! Told to the controller as the workers counted it since they started, whole, where any of it changed.

use std::{collections::BTreeMap, time::Duration};

use hostconfig::{HostConfig, Section, wire};
use nfv::chain::HopCounters;
use uuid::Uuid;

/// How often it is looked at.
pub(crate) const LOOK_EVERY: Duration = Duration::from_secs(5);
/// Listeners that are told of.
const MOST: usize = 4096;

/// By listener.
pub(crate) type Balanced = BTreeMap<Uuid, HopCounters>;

/// Has this config a listener? Its chain has its function's id.
pub(crate) fn wanted(config: &HostConfig) -> bool {
    config.sections.values().any(|keyed| {
        let Section::Chain(chain) = keyed.body() else {
            return false;
        };
        let mut functions = chain.functions.iter();
        functions.any(|function| function.id.uuid() == chain.id.uuid())
    })
}

/// As the controller hears it.
pub(crate) fn told(balanced: &Balanced) -> Vec<wire::Balanced> {
    let rows = balanced.iter().take(MOST);
    rows.map(|(listener, counted)| wire::Balanced {
        listener: listener.to_string(),
        active: counted.active,
        connections: counted.connections,
        bytes_in: counted.bytes.saturating_sub(counted.reply_bytes),
        bytes_out: counted.reply_bytes,
        refused: counted.drops,
    })
    .collect()
}
