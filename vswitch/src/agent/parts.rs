//! What has this host now of limits that it shares with others?
//!
//! The controller answers each [`wire::Uses`] with this host's parts (ADR 32), and names the reading of this host's own clock that it answers: parts are good for
//! [`DOWN`] from then, however long a message was under way.
//!
//! # Invariants
//! - Who hears nothing has no more than its even part after [`DOWN`], and no less after [`UP`]: whoever had more has come down by then.
//! - Who was never told has little.

use std::{collections::BTreeMap, time::Duration};

use hostconfig::{
    group::Direction,
    share::{MAX_PARTS, OneWay, Use, untold_bps},
    wire,
};
use net::Now;

use super::session::StreamId;

/// How often it is said what was let through.
pub(crate) const LOOK_EVERY: Duration = Duration::from_millis(200);
/// What is above the even part is given up when nothing was heard for so long.
pub(crate) const DOWN: Duration = Duration::from_secs(3);
/// What is below it is made up for after so long.
pub(crate) const UP: Duration = Duration::from_secs(6);

/// A part.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Part {
    now: u64,
    alone: u64,
}

/// The parts of this host.
#[derive(Debug, Default)]
pub(crate) struct Parts {
    told: BTreeMap<OneWay, Part>,
    /// The reading of this host's clock that the last parts answer.
    heard: Option<Now>,
    /// The stream on which they came.
    stream: Option<StreamId>,
    /// What each way has now, and the limit that it is part of.
    pub(crate) shown: BTreeMap<OneWay, (u64, u64)>,
    looked: Option<Now>,
}

impl Parts {
    /// The controller said something; was it about parts, and is it to be followed?
    pub(crate) fn hear(&mut self, stream: StreamId, parts: &wire::Parts, now: Now) -> bool {
        let clock = Now::from_nanos(parts.clock);
        let old = self.stream == Some(stream) && self.heard.is_some_and(|heard| clock <= heard);
        // What this clock never showed is not believed, nor is what took longer than a lease.
        if old || clock > now || now.since(clock) >= DOWN {
            return false;
        }
        self.stream = Some(stream);
        self.heard = Some(clock);
        self.told = parts
            .parts
            .iter()
            .take(2 * MAX_PARTS)
            .filter_map(|part| {
                let node = part.node.parse().ok()?;
                let direction = if part.ingress {
                    Direction::Ingress
                } else {
                    Direction::Egress
                };
                let told = Part {
                    now: part.part_bps,
                    alone: part.alone_bps,
                };
                Some((OneWay { node, direction }, told))
            })
            .collect();
        true
    }

    /// What this host has now of each of these limits.
    pub(crate) fn in_force(
        &mut self,
        limits: &BTreeMap<OneWay, u64>,
        now: Now,
    ) -> BTreeMap<OneWay, u64> {
        let silent = self.heard.map_or(UP, |heard| now.since(heard));
        self.shown = limits
            .iter()
            .map(|(way, limit)| {
                let part = self.told.get(way).map(|told| match silent {
                    heard if heard < DOWN => told.now,
                    silent if silent < UP => told.now.min(told.alone),
                    _ => told.alone,
                });
                let part = part.unwrap_or(untold_bps(*limit)).min(*limit);
                (*way, (part, *limit))
            })
            .collect();
        let shown = self.shown.iter();
        shown.map(|(way, (part, _))| (*way, *part)).collect()
    }

    /// What the controller is told, on this stream: what was let through since this was last asked.
    pub(crate) fn told(
        &mut self,
        uses: &BTreeMap<OneWay, Use>,
        stream: Option<StreamId>,
        now: Now,
    ) -> wire::Uses {
        let since = self
            .looked
            .replace(now)
            .map_or(LOOK_EVERY, |at| now.since(at));
        let nanos = since.as_nanos().max(1);
        let follows = self
            .heard
            .filter(|_| self.stream == stream && stream.is_some());
        let uses = self.shown.iter().map(|(way, (part, limit))| {
            let used = uses.get(way).copied().unwrap_or_default();
            let bps = u128::from(used.bits) * 1_000_000_000 / nanos;
            let alone = self.told.get(way).map(|told| told.alone);
            wire::Use {
                node: way.node.to_string(),
                ingress: way.direction == Direction::Ingress,
                used_bps: u64::try_from(bps).unwrap_or(u64::MAX),
                waits: used.waits,
                part_bps: *part,
                alone_bps: alone.unwrap_or(untold_bps(*limit)),
            }
        });
        wire::Uses {
            clock: now.nanos(),
            follows: follows.map_or(0, Now::nanos),
            uses: uses.collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use uuid::Uuid;

    const WAY: OneWay = OneWay {
        node: Uuid::from_u128(7),
        direction: Direction::Egress,
    };

    fn at(millis: u64) -> Now {
        Now::from_nanos(millis * 1_000_000)
    }

    fn told(clock: u64, part_bps: u64) -> wire::Parts {
        let part = wire::Part {
            node: WAY.node.to_string(),
            ingress: false,
            part_bps,
            alone_bps: 320_000,
        };
        wire::Parts {
            clock: at(clock).nanos(),
            parts: vec![part],
        }
    }

    fn has(parts: &mut Parts, millis: u64) -> u64 {
        let limits = [(WAY, 640_000)].into();
        parts.in_force(&limits, at(millis))[&WAY]
    }

    #[test]
    fn who_hears_nothing_gives_up_what_is_above_its_even_part_before_others_make_up_for_theirs() {
        let (mut much, mut little) = (Parts::default(), Parts::default());
        assert_eq!(has(&mut much, 1000), 10_000, "never told: a 64th");
        assert!(much.hear(StreamId(1), &told(1000, 600_000), at(1100)));
        assert!(little.hear(StreamId(1), &told(1000, 40_000), at(1100)));
        for (when, expected) in [
            (1100, (600_000, 40_000)),
            (3999, (600_000, 40_000)),
            (4000, (320_000, 40_000)),
            (6999, (320_000, 40_000)),
            (7000, (320_000, 320_000)),
        ] {
            let now = (has(&mut much, when), has(&mut little, when));
            assert_eq!(now, expected, "{when}");
        }
    }

    #[test]
    fn what_is_late_old_or_of_the_future_is_not_followed() {
        let mut parts = Parts::default();
        assert!(parts.hear(StreamId(1), &told(1000, 1), at(1100)));
        assert!(!parts.hear(StreamId(1), &told(900, 2), at(1100)));
        assert!(!parts.hear(StreamId(1), &told(2000, 2), at(1900)));
        assert!(!parts.hear(StreamId(1), &told(2000, 2), at(7000)));
        assert_eq!(has(&mut parts, 1200), 1);
        // A stream that is new has heard nothing yet.
        let uses = parts.told(&BTreeMap::new(), Some(StreamId(2)), at(1300));
        assert_eq!((uses.follows, uses.uses[0].part_bps), (0, 1));
        let uses = parts.told(&BTreeMap::new(), Some(StreamId(1)), at(1500));
        assert_eq!(uses.follows, at(1000).nanos());
    }

    #[test]
    fn what_was_let_through_is_told_by_the_time_that_it_took() {
        let mut parts = Parts::default();
        has(&mut parts, 0);
        parts.told(&BTreeMap::new(), None, at(1000));
        let used = Use {
            bits: 50_000,
            waits: true,
        };
        let told = parts.told(&[(WAY, used)].into(), None, at(1500));
        assert_eq!((told.uses[0].used_bps, told.uses[0].waits), (100_000, true));
    }
}
