//! What part has one of what others have too?
//!
//! Queues stand in a tree: each has a rate for certain, and borrows what others above and beside it leave, up to ceilings (as `tc-htb`).
//! A section that has a queue says the whole way up, nearest first, so that it can be understood alone.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use uuid::Uuid;

use crate::{HostConfig, Section, group::Direction};

/// The most nodes above a queue.
pub const MAX_ABOVE: usize = 6;

/// The most classes of a shaper.
pub const MAX_CLASSES: usize = 16;

/// What a queue has for certain, and what it is part of.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Share {
    /// Bits a second that it has whoever else sends; zero: none. Its own limit is its ceiling.
    pub rate_bps: u64,
    /// The nodes above it, nearest first; at most [`MAX_ABOVE`].
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub within: Vec<Node>,
}

/// A node that several queues share.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Node {
    /// The object that it is.
    pub id: Uuid,
    /// Bits a second that all below have together for certain. Of the uppermost the ceiling counts.
    pub rate_bps: u64,
    /// Bits a second that they never exceed together.
    pub ceil_bps: u64,
    /// Bytes that may go at once after a pause.
    pub burst_bytes: u64,
    /// Do all below on every host share it? Then this host has a part of it (ADR 32).
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub fabric: bool,
}

impl Node {
    /// What a host has that was never told its part.
    pub const fn untold_bps(&self) -> u64 {
        untold_bps(self.ceil_bps)
    }
}

/// What a host has of a limit of which it was never told its part.
pub const fn untold_bps(limit: u64) -> u64 {
    let part = limit / UNTOLD;
    if part == 0 { 1 } else { part }
}

/// The limits that this host shares with others, in bits a second.
pub fn divided(config: &HostConfig) -> BTreeMap<OneWay, u64> {
    let mut limits = BTreeMap::new();
    for keyed in config.sections.values() {
        let Section::Qos(policy) = keyed.body() else {
            continue;
        };
        let both = [
            (Direction::Ingress, &policy.ingress),
            (Direction::Egress, &policy.egress),
        ];
        for (direction, limit) in both {
            let nodes = limit.share.iter().flat_map(|share| &share.within);
            for node in nodes.filter(|node| node.fabric) {
                let way = OneWay {
                    node: node.id,
                    direction,
                };
                limits.insert(way, node.ceil_bps);
            }
        }
    }
    limits
}

/// A host that was never told its part has so much of it less.
const UNTOLD: u64 = 64;

/// The most nodes that a host has parts of, each way.
pub const MAX_PARTS: usize = 1024;

/// A node in one direction.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct OneWay {
    /// The node.
    pub node: Uuid,
    /// Which way, as the workload sees it.
    pub direction: Direction,
}

/// What a host has let through of a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Use {
    /// Bits, since this was last asked.
    pub bits: u64,
    /// Would it be more? All the time something waited, because the node let no more through.
    pub waits: bool,
}

/// A part of what waits at a shaper, by its mark, with a queue of its own.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Class {
    /// Which marks are in it (RFC 2474); none: what no other class has.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub dscp: Vec<u8>,
    /// Bits a second that it has for certain.
    pub rate_bps: u64,
    /// Bits a second that it never exceeds.
    pub ceil_bps: u64,
}
