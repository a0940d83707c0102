//! Which connections are there?
//!
//! Tracked once for all who need them: security groups, firewalls, load balancers. A [`Conntrack`] is a flat table of 192-byte
//! [`Entry`]s that its user lends (a `Vec` in tests, a shared mapping in the switch) with an index beside it. An entry is
//! found by either of its two keys (zone, tuple); which one says the [`Side`].
//!
//! A packet's way: [`Conntrack::lookup`] (or [`Conntrack::lookup_batch`]) gives a [`Hit`]; [`Conntrack::track`] judges the
//! packet by its protocol's machine and counts it. On a miss, [`TrackInput::begins`] says whether it may begin a connection;
//! once every table passed it, [`Conntrack::insert`] makes the record.
//!
//! # Invariants
//! - A connection is found by exactly its two keys, and no two connections share one.
//! - [`Conntrack::knows`] a zone while a connection has a side in it.
//! - `len() <= capacity()`; a port and a project never have more than the limit given with an insertion.
//! - A [`ConnId`] means the same connection until the next insertion, [`Conntrack::close`] or [`Conntrack::sweep`];
//!   [`Conntrack::holds`] asks.
//!
//! # Attack
//! At a limit the half-open and the finished go first: the port's own, then those of its project's greediest port, then those
//! of the greediest port. What is established is never evicted; the newcomer is refused.
//!
//! # Cost
//! Memory: 192 bytes an entry, 29 beside it. A look-up reads one line of the index and one of the entry; `track` one more.
//! Untouched entries are never read, so their pages need not exist. A sweep reads one line an entry, within its budget.
//!
//! # References
//! docs/datapath.md; RFC 5382, RFC 4787 (timeouts), and the machines' own.

mod entry;
mod icmp;
mod index;
mod machine;
mod owners;
mod partial;
mod table;
mod tcp;
mod udp;

pub use entry::{Entrance, Entry, Inspected, Side, SideEntry, Stage};
pub use index::KeyHash;
pub use machine::{Begin, Timeouts, Track, TrackInput};
pub use table::{Conntrack, MAX_CAPACITY};

use net::{DropReason, PortId};

/// A connection's place in the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConnId(u32);

impl ConnId {
    /// As an index.
    pub const fn index(self) -> usize {
        self.0 as usize
    }
}

/// A connection that was found, and by which of its keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hit {
    /// The connection.
    pub conn: ConnId,
    /// The direction of the packet.
    pub side: Side,
}

/// What a table is told when it is made.
#[derive(Debug, Clone, Copy, Default)]
pub struct Settings {
    /// Secret: keys the hash.
    pub seed: u64,
    /// How long connections may be silent.
    pub timeouts: Timeouts,
}

/// Whom a connection counts for, and how many that one may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Owner {
    /// The port: the agent's number, never reused while a record names it.
    pub port: PortId,
    /// The most connections of the port.
    pub port_limit: u32,
    /// The project: the agent's number, never reused while a record names it.
    pub project: u32,
    /// The most connections of the project.
    pub project_limit: u32,
}

/// A connection to be.
#[derive(Debug, Clone, Copy)]
pub struct NewConn {
    /// Original and reply side.
    pub sides: [SideEntry; 2],
    /// Whom it counts for.
    pub owner: Owner,
    /// Its first packet.
    pub first: TrackInput,
    /// Of TCP: do packets of both directions pass here, from the first on? Else none is held against the others' numbers.
    pub whole: bool,
    /// The first packet's segments.
    pub segments: u32,
    /// The first packet's bytes.
    pub bytes: u64,
}

/// Why a connection was not made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// The packet can't begin one.
    #[error("packet can't begin a connection")]
    Invalid,
    /// One of the keys is another connection's, or both are the same.
    #[error("key belongs to another connection")]
    Taken(Option<ConnId>),
    /// The port is at its limit, and all that it has are established.
    #[error("port is at its limit of connections")]
    PortFull,
    /// The project is at its limit, and all that it has are established.
    #[error("project is at its limit of connections")]
    ProjectFull,
    /// The table is full, and all in it are established; or too many keys want the same place.
    #[error("connection table is full")]
    TableFull,
}

impl From<Refused> for DropReason {
    fn from(r: Refused) -> Self {
        match r {
            Refused::Invalid | Refused::Taken(_) => Self::ConntrackInvalid,
            Refused::PortFull => Self::ConntrackPortFull,
            Refused::ProjectFull => Self::ConntrackProjectFull,
            Refused::TableFull => Self::ConntrackFull,
        }
    }
}

/// What was found in a table that another process left.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Recovered {
    /// Connections that go on.
    pub kept: u32,
    /// Entries that contradicted themselves or one another, and were cleared.
    pub cleared: u32,
}

/// What one sweep did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Swept {
    /// Connections that were looked at.
    pub seen: u32,
    /// Connections that were silent for too long, and are gone.
    pub expired: u32,
    /// Did it reach the end of the table? The next one starts over.
    pub finished: bool,
}

/// What has happened since the table was opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Stats {
    /// Connections made.
    pub inserted: u64,
    /// Connections that had to go for others.
    pub evicted: u64,
    /// Connections that were silent for too long.
    pub expired: u64,
    /// Packets that did not belong to the connection whose tuple they show.
    pub invalid: u64,
    /// Insertions refused at a limit.
    pub refused: u64,
}

#[cfg(test)]
mod tests;
