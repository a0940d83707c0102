//! What was dropped lately, by which rule, and what did it look like?
//!
//! # Attack
//! Records are kept by (reason, stage, rule, port), so that no sender can make more of them than there are rules and ports; past
//! the limit a drop still counts, under its reason alone.

use hashbrown::HashMap;
use net::{DropReason, FlowKey, Id, Mac, Now, PortId, ids::kind};
use serde::Serialize;

use super::flow::{Refusal, Stage};

/// What is the same for all drops of one record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Cause {
    reason: DropReason,
    stage: Stage,
    rule: Option<Id<kind::Rule>>,
    port: Option<PortId>,
}

/// Drops of one cause.
#[derive(Debug, Clone, Copy)]
pub struct DropRecord {
    /// Why, where, by which rule, for which port.
    pub refusal: Refusal,
    /// How many segments.
    pub packets: u64,
    /// How many bytes.
    pub bytes: u64,
    /// When the last one was.
    pub last: Now,
    /// What the last one looked like; all zero when it could not be read.
    pub key: FlowKey,
}

/// A record as `overweave drops` prints it.
#[derive(Debug, Clone, Serialize)]
pub struct DropText {
    /// The [`DropReason`]'s name.
    pub reason: &'static str,
    /// The [`Stage`]'s name.
    pub stage: &'static str,
    /// The API's rule.
    pub rule: Option<Id<kind::Rule>>,
    /// The API's port.
    pub port: Option<Id<kind::Port>>,
    /// How many segments.
    pub packets: u64,
    /// How many bytes.
    pub bytes: u64,
    /// Seconds since the last one.
    pub seconds_ago: u64,
    /// What the last one looked like.
    pub last: String,
}

/// The drop records of one worker.
#[derive(Debug)]
pub struct Drops {
    records: HashMap<Cause, DropRecord, foldhash::fast::FixedState>,
    capacity: usize,
    /// Drops whose cause found no room.
    pub unrecorded: u64,
}

impl Drops {
    /// None yet, at most `capacity`.
    pub fn new(capacity: usize, seed: u64) -> Self {
        Self {
            records: HashMap::with_capacity_and_hasher(
                capacity,
                foldhash::fast::FixedState::with_seed(seed),
            ),
            capacity,
            unrecorded: 0,
        }
    }

    /// Records a drop.
    pub fn record(&mut self, refusal: &Refusal, key: &FlowKey, packets: u64, bytes: u64, now: Now) {
        let cause = Cause {
            reason: refusal.reason,
            stage: refusal.stage,
            rule: refusal.rule,
            port: refusal.port,
        };
        let full = self.records.len() >= self.capacity;
        let record = match self.records.get_mut(&cause) {
            Some(there) => there,
            None if full => {
                self.unrecorded += packets;
                return;
            }
            None => self.records.entry(cause).or_insert(DropRecord {
                refusal: *refusal,
                packets: 0,
                bytes: 0,
                last: now,
                key: *key,
            }),
        };
        record.packets += packets;
        record.bytes += bytes;
        record.last = now;
        record.key = *key;
    }

    /// All of them, in no order.
    pub fn iter(&self) -> impl Iterator<Item = &DropRecord> + '_ {
        self.records.values()
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.records.len()
    }

    /// Is there none?
    pub fn is_empty(&self) -> bool {
        self.records.is_empty()
    }
}

impl DropRecord {
    /// As a person reads it; `port` turns the dense id into the API's.
    pub fn text(&self, now: Now, port: impl Fn(PortId) -> Option<Id<kind::Port>>) -> DropText {
        DropText {
            reason: self.refusal.reason.name(),
            stage: self.refusal.stage.name(),
            rule: self.refusal.rule,
            port: self.refusal.port.and_then(port),
            packets: self.packets,
            bytes: self.bytes,
            seconds_ago: now.since(self.last).as_secs(),
            last: describe(&self.key),
        }
    }
}

/// A packet in a few words: its 5-tuple, or what it is if it has none.
pub fn describe(key: &FlowKey) -> String {
    use net::flow_key::{ethertype, proto};
    if key.ethertype == ethertype::ARP {
        return format!("arp {} > {}", key.src_addr(), key.dst_addr());
    }
    let (src, dst) = (Mac::new(key.eth_src), Mac::new(key.eth_dst));
    match key.five_tuple() {
        Some(t) if matches!(t.proto, proto::ICMP | proto::ICMP6) => {
            let name = if t.proto == proto::ICMP {
                "icmp"
            } else {
                "icmp6"
            };
            let (from, to) = (t.src_addr(), t.dst_addr());
            format!(
                "{name} {from} > {to} type {} code {}",
                key.l4_src, key.l4_dst
            )
        }
        Some(t) => t.to_string(),
        None => format!("ethertype {:#06x} {src} > {dst}", key.ethertype),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_are_bounded_and_nothing_is_lost() {
        let mut drops = Drops::new(2, 1);
        for n in 0..5 {
            let refusal =
                Refusal::new(DropReason::PortSecurityIp, Stage::PortSecurity).at(PortId(n));
            drops.record(&refusal, &FlowKey::default(), 1, 60, Now::ZERO);
            drops.record(&refusal, &FlowKey::default(), 2, 60, Now::ZERO);
        }
        assert_eq!(drops.len(), 2);
        assert_eq!(drops.unrecorded, 9);
        assert!(drops.iter().all(|r| r.packets == 3 && r.bytes == 120));
    }
}
