//! What did this host count at its routers' gateways, over all its processes?
//!
//! Workers count from zero, and a counter goes with its router or label. Here is the sum: what was counted since it was last looked, on top of what
//! earlier processes kept on disk.
//!
//! # Limits
//! At most [`MOST`] pairs of label and router; beyond that those go first that the config no longer names. What was counted since the last look is lost
//! with a process that is killed, at most [`LOOK_EVERY`] of it.

use std::{collections::BTreeMap, time::Duration};

use hostconfig::{HostConfig, Section, wire};
use net::{Id, ids::kind};
use serde::{Deserialize, Serialize};

/// How often it is looked at what the workers counted.
pub(crate) const LOOK_EVERY: Duration = Duration::from_secs(5);
/// The most pairs of label and router that sums are kept of.
const MOST: usize = 4096;

/// Whose a sum is.
pub(crate) type Key = (Id<kind::MeteringLabel>, Id<kind::Router>);

/// What was counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Count {
    pub(crate) packets: u64,
    pub(crate) bytes: u64,
}

/// A sum, as it is on disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Kept {
    label: Id<kind::MeteringLabel>,
    router: Id<kind::Router>,
    packets: u64,
    bytes: u64,
}

/// The sums of this host.
#[derive(Debug, Default)]
pub(crate) struct Meters {
    sums: BTreeMap<Key, Count>,
    /// What the workers' counters showed last.
    seen: BTreeMap<Key, Count>,
    /// Did a sum change since that was last asked?
    changed: bool,
}

impl Meters {
    /// Goes on from what was kept.
    pub(crate) fn new(kept: Vec<Kept>) -> Self {
        let sums = kept.into_iter().take(MOST).map(|kept| {
            let count = Count {
                packets: kept.packets,
                bytes: kept.bytes,
            };
            ((kept.label, kept.router), count)
        });
        Self {
            sums: sums.collect(),
            seen: BTreeMap::new(),
            changed: false,
        }
    }

    /// Did a sum change since that was last asked?
    pub(crate) fn news(&mut self) -> bool {
        std::mem::take(&mut self.changed)
    }

    /// Adds what the counters show more than last time.
    pub(crate) fn take(&mut self, shown: BTreeMap<Key, Count>) {
        for (key, now) in &shown {
            let before = self.seen.get(key).copied().unwrap_or_default();
            // A counter that is lower began anew.
            let more = |now: u64, before: u64| now.checked_sub(before).unwrap_or(now);
            let more = Count {
                packets: more(now.packets, before.packets),
                bytes: more(now.bytes, before.bytes),
            };
            if more != Count::default() || !self.sums.contains_key(key) {
                let sum = self.sums.entry(*key).or_default();
                sum.packets = sum.packets.saturating_add(more.packets);
                sum.bytes = sum.bytes.saturating_add(more.bytes);
                self.changed = true;
            }
        }
        self.seen = shown;
        let mut beyond = self.sums.len().saturating_sub(MOST);
        if beyond > 0 {
            let seen = &self.seen;
            self.sums.retain(|key, _| {
                let goes = beyond > 0 && !seen.contains_key(key);
                beyond -= usize::from(goes);
                !goes
            });
            while self.sums.len() > MOST {
                self.sums.pop_last();
            }
        }
    }

    /// All sums, for the disk.
    pub(crate) fn kept(&self) -> Vec<Kept> {
        let sums = self.sums.iter();
        sums.map(|(&(label, router), count)| Kept {
            label,
            router,
            packets: count.packets,
            bytes: count.bytes,
        })
        .collect()
    }

    /// All sums, for the controller.
    pub(crate) fn told(&self) -> Vec<wire::Metered> {
        let sums = self.sums.iter();
        sums.map(|((label, router), count)| wire::Metered {
            label: label.to_string(),
            router: router.to_string(),
            packets: count.packets,
            bytes: count.bytes,
        })
        .collect()
    }
}

/// Is anything to be counted?
pub(crate) fn wanted(config: &HostConfig) -> bool {
    config
        .sections
        .values()
        .any(|section| match section.body() {
            Section::Router(router) => !router.meters.is_empty(),
            Section::Vteps(_)
            | Section::Network(_)
            | Section::AddressSet(_)
            | Section::Group(_)
            | Section::Firewall(_)
            | Section::Qos(_)
            | Section::Chain(_)
            | Section::Port(_)
            | Section::Endpoint(_)
            | Section::FloatingIp(_)
            | Section::Metadata(_)
            | Section::Proxy(_) => false,
        })
}

#[cfg(test)]
mod tests {
    use super::*;
    use uuid::Uuid;

    fn key(n: u128) -> Key {
        (Uuid::from_u128(n).into(), Uuid::from_u128(99).into())
    }

    fn shown(rows: &[(u128, u64, u64)]) -> BTreeMap<Key, Count> {
        let rows = rows.iter();
        rows.map(|&(n, packets, bytes)| (key(n), Count { packets, bytes }))
            .collect()
    }

    #[test]
    fn sums_go_on_over_restarts_and_counters_that_began_anew() {
        let mut meters = Meters::default();
        let take = |meters: &mut Meters, rows: &[(u128, u64, u64)]| {
            meters.take(shown(rows));
            meters.news()
        };
        assert!(take(&mut meters, &[(1, 10, 1000)]));
        assert!(!take(&mut meters, &[(1, 10, 1000)]));
        assert!(take(&mut meters, &[(1, 12, 1200)]));
        // The router was gone for a while: what was counted stays, and its counter begins anew.
        assert!(!take(&mut meters, &[]));
        assert!(take(&mut meters, &[(1, 3, 300)]));
        let mut meters = Meters::new(meters.kept());
        assert!(take(&mut meters, &[(1, 5, 500), (2, 0, 0)]));
        let told: Vec<_> = meters.told().iter().map(|m| (m.packets, m.bytes)).collect();
        assert_eq!(told, [(20, 2000), (0, 0)]);
    }

    #[test]
    fn beyond_the_limit_goes_first_what_is_no_longer_there() {
        let many: Vec<_> = (0..5000).map(|n| (n, 1, 1)).collect();
        let mut meters = Meters::default();
        meters.take(shown(&many));
        assert_eq!(meters.kept().len(), MOST);
        meters.take(shown(&[(9000, 1, 1)]));
        assert_eq!(meters.kept().len(), MOST);
        assert!(meters.kept().iter().any(|kept| kept.label == key(9000).0));
    }
}
