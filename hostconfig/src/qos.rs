//! How fast may a port's traffic go, and how is it marked?

use net::{Id, ids::kind};
use serde::{Deserialize, Serialize};

use crate::share::Share;

/// A QoS policy: what holds for each port that names it, apart from every other port.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct QosPolicy {
    /// Its id in the API.
    pub id: Id<kind::QosPolicy>,
    /// Its name, for people.
    pub name: String,
    /// For what the port's workload sends.
    pub egress: Limit,
    /// For what it gets.
    pub ingress: Limit,
    /// What the IP packets that the workload sends are marked with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dscp: Option<Dscp>,
}

/// A mark with the rule that says so.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Dscp {
    /// The rule.
    pub rule: Id<kind::Rule>,
    /// Six bits (RFC 2474).
    pub mark: u8,
}

/// A limit in one direction; without a rate there is none.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Limit {
    /// Bits a second, Ethernet headers counted; the burst is in bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bits: Option<Rate>,
    /// Packets a second: segments, where a sender leaves cutting to others.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub packets: Option<Rate>,
    /// How many bytes may wait.
    pub queue_bytes: u64,
    /// In which order what waits goes.
    #[serde(default, skip_serializing_if = "Discipline::is_fifo")]
    pub queue: Discipline,
    /// What it is part of; its bits are its ceiling there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub share: Option<Share>,
}

/// In which order does what waits go, and who is told to send less?
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Discipline {
    /// First in, first out; what finds no room is dropped.
    #[default]
    Fifo,
    /// Flows take turns, and each that stands for too long is told by marks or drops (RFC 8290).
    FqCodel,
}

impl Discipline {
    /// The plain one: older switches know no other, and are told of no other.
    pub fn is_fifo(&self) -> bool {
        *self == Self::Fifo
    }
}

/// A rate with the rule that says so.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rate {
    /// The rule.
    pub rule: Id<kind::Rule>,
    /// How many a second; never zero.
    pub per_second: u64,
    /// How many may go at once after a pause.
    pub burst: u64,
}

impl Limit {
    /// Does it limit nothing?
    pub fn is_none(&self) -> bool {
        self.bits.is_none() && self.packets.is_none() && self.share.is_none()
    }
}
