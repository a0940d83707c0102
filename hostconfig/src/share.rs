//! What part has one of what others have too?
//!
//! Queues stand in a tree: each has a rate for certain, and borrows what others above and beside it leave, up to ceilings (as `tc-htb`).
//! A section that has a queue says the whole way up, nearest first, so that it can be understood alone.

use serde::{Deserialize, Serialize};
use uuid::Uuid;

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
