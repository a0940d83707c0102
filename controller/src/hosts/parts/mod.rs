//! How much of a limit has each of the hosts that share it?
//!
//! [ADR 32](../../../../docs/adr/0032-one-limit-over-several-hosts.md). Each host says some times a second what it let through of each such limit, and is
//! answered with its part. What it says of itself decides about its own traffic, and what is left to others: it is never believed to need more than an even part.
//!
//! # Invariants
//! - What hosts may use of a limit at a moment is together never more than it is, but where it was made smaller and nobody has heard yet. What one may use is the most of what it was told since
//!   the answer that it says it follows (`Member::holds`); another gets only what is left of that.
//! - The same holds for what they have when they hear nothing.
//!
//! # Attack
//! A host is heard only about limits of its own config. At most `UNFOLLOWED` answers to it may be under way.
//!
//! # Cost
//! An answer: the hosts of each of its limits, sorted once. Nothing where nobody shares over hosts.

use std::{
    collections::{BTreeMap, VecDeque},
    time::Duration,
};

use hostconfig::{
    group::Direction,
    share::{MAX_PARTS, OneWay, untold_bps},
    wire,
};
use net::Now;

use super::publish::Conn;
use crate::compile::intent::HostName;

/// Who was not heard for so long is taken for one that hears nothing.
const SILENT: Duration = Duration::from_secs(1);
/// By then a host that hears nothing has come down to its even part: the three seconds that it waits by itself, and a quarter for clocks and looks.
const DOWN: Duration = Duration::from_millis(3750);
/// Answers that a host does not follow yet.
const UNFOLLOWED: usize = 16;
/// All that is left to those who do not wait, so that they can grow, is so much of the limit less.
const ROOM: u64 = 32;

/// What one host wants of a limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Want {
    /// Bits a second that it uses.
    pub used_bps: u64,
    /// Would it use more?
    pub waits: bool,
}

/// Divides a limit: who does not wait has what it uses and a little room; the others share the rest evenly, or all, if nobody waits.
pub fn divide(limit: u64, wants: &[Want]) -> Vec<u64> {
    let Ok(count) = u64::try_from(wants.len()) else {
        return Vec::new();
    };
    let room = limit / (ROOM * count.max(1));
    let wanted = |want: &Want| {
        if want.waits {
            limit
        } else {
            want.used_bps.saturating_add(room).min(limit)
        }
    };
    let mut order: Vec<(u64, usize)> = wants.iter().map(wanted).zip(0..).collect();
    order.sort_unstable();
    let mut parts = vec![0; wants.len()];
    let (mut left, mut others) = (limit, count);
    for (wanted, at) in order {
        let part = wanted.min(left / others.max(1));
        if let Some(slot) = parts.get_mut(at) {
            *slot = part;
        }
        left -= part;
        others -= 1;
    }
    // Nobody wants what is left: whoever begins to has it at once.
    let more = left / count.max(1);
    for part in &mut parts {
        *part += more;
    }
    parts
}

/// What a host was told.
#[derive(Debug, Clone, Copy, Default)]
struct Told {
    /// The reading of its clock that this answers.
    clock: u64,
    part: u64,
    alone: u64,
}

/// One host's part of a limit.
#[derive(Debug)]
struct Member {
    conn: Conn,
    heard: Now,
    want: Want,
    /// What it said that it has.
    has: Told,
    /// What it was told since.
    told: VecDeque<Told>,
}

impl Member {
    fn most(&self, of: impl Fn(&Told) -> u64) -> u64 {
        self.told.iter().map(&of).fold(of(&self.has), u64::max)
    }

    fn is_silent(&self, now: Now) -> bool {
        now.since(self.heard) >= SILENT
    }

    /// What it has by itself at the most.
    fn alone(&self) -> u64 {
        self.most(|told| told.alone)
    }

    /// What it may use now, at the most.
    fn holds(&self, now: Now) -> u64 {
        let part = self.most(|told| told.part);
        if !self.is_silent(now) {
            part
        } else if now.since(self.heard) < DOWN {
            part.max(self.alone())
        } else {
            self.alone()
        }
    }
}

/// A limit that several hosts share.
#[derive(Debug, Default)]
struct Shared {
    limit: u64,
    /// The hosts whose config has it; `None`: it was not heard of it yet.
    members: BTreeMap<HostName, Option<Member>>,
}

impl Shared {
    fn even(&self) -> u64 {
        let count = u64::try_from(self.members.len()).unwrap_or(u64::MAX);
        self.limit / count.max(1)
    }

    /// What a host has while it hears nothing, and what all others have.
    fn others(&self, host: &HostName, of: impl Fn(Option<&Member>) -> u64) -> u64 {
        let others = self.members.iter().filter(|(name, _)| *name != host);
        others.fold(0, |sum, (_, member)| {
            sum.saturating_add(of(member.as_ref()))
        })
    }

    /// What this host is told now.
    fn part_of(&self, host: &HostName, now: Now) -> (u64, u64) {
        // Who hears nothing has what it has, who was never heard an even part at the most; the others divide what is left.
        let stranger = self.even();
        let mut available = self.limit;
        let (mut wants, mut own) = (Vec::new(), 0);
        for (name, member) in &self.members {
            match member {
                Some(member) if name == host || !member.is_silent(now) => {
                    if name == host {
                        own = wants.len();
                    }
                    wants.push(member.want);
                }
                Some(member) => available = available.saturating_sub(member.holds(now)),
                None => available = available.saturating_sub(stranger),
            }
        }
        let parts = divide(available, &wants);
        let target = parts.get(own).copied().unwrap_or(0);
        let held = self.others(host, |member| member.map_or(stranger, |m| m.holds(now)));
        let alone = self.others(host, |member| member.map_or(stranger, Member::alone));
        (
            target.min(self.limit.saturating_sub(held)),
            self.even().min(self.limit.saturating_sub(alone)),
        )
    }
}

/// All limits that hosts share.
#[derive(Debug)]
pub struct Parts {
    shared: BTreeMap<OneWay, Shared>,
    /// Those that a host's config has.
    of: BTreeMap<HostName, Vec<OneWay>>,
    began: Now,
}

impl Parts {
    /// Of a controller that has heard nobody yet.
    pub fn new(now: Now) -> Self {
        Self {
            shared: BTreeMap::new(),
            of: BTreeMap::new(),
            began: now,
        }
    }

    /// A host's config has these limits now, and no others.
    pub fn follow(&mut self, host: &HostName, limits: &BTreeMap<OneWay, u64>) {
        for way in self.of.remove(host).unwrap_or_default() {
            if limits.contains_key(&way) {
                continue;
            }
            if let Some(shared) = self.shared.get_mut(&way) {
                shared.members.remove(host);
                if shared.members.is_empty() {
                    self.shared.remove(&way);
                }
            }
        }
        for (way, limit) in limits.iter().take(2 * MAX_PARTS) {
            let shared = self.shared.entry(*way).or_default();
            shared.limit = *limit;
            shared.members.entry(host.clone()).or_insert(None);
            self.of.entry(host.clone()).or_default().push(*way);
        }
    }

    /// A host said what it uses; what it is told. `None`: it does not follow what it is told, and is told no more.
    pub fn answer(
        &mut self,
        (host, conn): (&HostName, Conn),
        uses: &wire::Uses,
        now: Now,
    ) -> Option<wire::Parts> {
        for used in uses.uses.iter().take(2 * MAX_PARTS) {
            self.hear((host, conn), uses, used, now);
        }
        let mut parts = Vec::new();
        for way in self.of.get(host)? {
            let Some(shared) = self.shared.get_mut(way) else {
                continue;
            };
            // Who was not heard yet may have what it was told by the last controller, until that has run out: all stays as it is.
            let starts = now.since(self.began) < DOWN;
            let unknown = starts && shared.members.values().any(Option::is_none);
            let divided = shared.part_of(host, now);
            let Some(Some(member)) = shared.members.get_mut(host) else {
                continue;
            };
            if member.heard != now {
                continue;
            }
            if member.told.len() >= UNFOLLOWED {
                return None;
            }
            let (part, alone) = if unknown {
                (member.has.part, member.has.alone)
            } else {
                divided
            };
            let clock = uses.clock;
            member.told.push_back(Told { clock, part, alone });
            parts.push(wire::Part {
                node: way.node.to_string(),
                ingress: way.direction == Direction::Ingress,
                part_bps: part,
                alone_bps: alone,
            });
        }
        let clock = uses.clock;
        (!parts.is_empty()).then_some(wire::Parts { clock, parts })
    }

    fn hear(
        &mut self,
        (host, conn): (&HostName, Conn),
        uses: &wire::Uses,
        used: &wire::Use,
        now: Now,
    ) {
        let Ok(node) = used.node.parse() else {
            return;
        };
        let direction = if used.ingress {
            Direction::Ingress
        } else {
            Direction::Egress
        };
        let Some(shared) = self.shared.get_mut(&OneWay { node, direction }) else {
            return;
        };
        let limit = shared.limit;
        let Some(slot) = shared.members.get_mut(host) else {
            return;
        };
        let member = slot.get_or_insert_with(|| Member {
            conn,
            heard: now,
            want: Want::default(),
            has: Told {
                alone: untold_bps(limit),
                ..Told::default()
            },
            told: VecDeque::new(),
        });
        if member.conn != conn {
            // What was under way on another stream does not come any more.
            member.conn = conn;
            member.told.clear();
        }
        member.heard = now;
        member.has = Told {
            clock: uses.follows,
            part: used.part_bps,
            alone: used.alone_bps,
        };
        member.told.retain(|told| told.clock > uses.follows);
        // Who pauses keeps half of what it had, for one time.
        let kept = member.want.used_bps / 2;
        member.want = Want {
            used_bps: used.used_bps.max(kept),
            waits: used.waits,
        };
    }
}

#[cfg(test)]
mod tests;
