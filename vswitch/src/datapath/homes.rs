//! Whose connection is it?
//!
//! The worker that its tuple hashes to is home to a connection; tuples of it that hash elsewhere are claimed.

use net::{FiveTuple, Zone};
use nfv::conntrack::{self, Entry};

use super::{
    Settings,
    claims::{Claims, WorkerId},
};

/// Claims the tuples of a connection that hash to other workers. `false`: there is no room.
pub(super) fn claim(claims: &Claims, settings: &Settings, entry: &Entry) -> bool {
    settings.workers <= 1
        || conntrack::Side::BOTH.iter().all(|side| {
            let (zone, tuple) = (entry.side(*side).zone(), *entry.side(*side).tuple());
            home(settings, &tuple) == settings.worker
                || claims.claim(zone, tuple, settings.worker).is_ok()
        })
}

/// Lets go of the tuples that an ended connection claimed, and of the source that a NAT gave it.
pub(super) fn release(claims: &Claims, settings: &Settings, entry: &Entry) {
    if entry.binding().is_some() {
        claims.sources().give_back(entry);
    }
    release_tuples(claims, settings, entry, &[]);
}

/// Lets go of the tuples that an ended connection claimed, but for those that the one in its place has too.
pub(super) fn release_tuples(
    claims: &Claims,
    settings: &Settings,
    entry: &Entry,
    kept: &[(Zone, FiveTuple)],
) {
    if settings.workers <= 1 {
        return;
    }
    for side in conntrack::Side::BOTH.map(|side| entry.side(side)) {
        let key = (side.zone(), *side.tuple());
        if home(settings, &key.1) != settings.worker && !kept.contains(&key) {
            claims.release(key.0, &key.1, settings.worker);
        }
    }
}

/// The worker that a tuple hashes to, in either direction.
pub(super) fn home(settings: &Settings, tuple: &FiveTuple) -> WorkerId {
    let workers = u64::from(settings.workers.max(1));
    let at = tuple.symmetric_hash(settings.seed) % workers;
    WorkerId(u16::try_from(at).unwrap_or(0))
}
