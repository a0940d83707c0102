//! Whose connection is it?
//!
//! The worker that its tuple hashes to is home to a connection; tuples of it that hash elsewhere are claimed.

use net::FiveTuple;
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

/// Lets go of the tuples that an ended connection claimed.
pub(super) fn release(claims: &Claims, settings: &Settings, entry: &Entry) {
    if settings.workers > 1 {
        for side in conntrack::Side::BOTH {
            let side = entry.side(side);
            if home(settings, side.tuple()) != settings.worker {
                claims.release(side.zone(), side.tuple(), settings.worker);
            }
        }
    }
}

/// The worker that a tuple hashes to, in either direction.
pub(super) fn home(settings: &Settings, tuple: &FiveTuple) -> WorkerId {
    let workers = u64::from(settings.workers.max(1));
    let at = tuple.symmetric_hash(settings.seed) % workers;
    WorkerId(u16::try_from(at).unwrap_or(0))
}
