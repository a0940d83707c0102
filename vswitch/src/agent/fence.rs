//! Does this host still hear from its controller?
//!
//! What one host at a time may have outside (gateways, floating IPs) the controller gives to another two seconds after it last heard from
//! the one that had it. So a host that has not heard from its controller for one and a half has nothing of it that another could have, until it does.
//!
//! # Invariants
//! - A process that has heard nothing yet is alone: what it took up from disk may be another's by now.

use std::time::Duration;

use net::Now;

/// For how long a silent controller is waited for.
pub(crate) const PATIENCE: Duration = Duration::from_millis(1500);

/// When the controller was last heard.
#[derive(Debug, Default)]
pub(crate) struct Fence {
    heard: Option<Now>,
}

impl Fence {
    /// The controller said something.
    pub(crate) fn hear(&mut self, now: Now) {
        self.heard = Some(now);
    }

    /// May another host have by now what could move?
    pub(crate) fn is_alone(&self, now: Now) -> bool {
        self.heard.is_none_or(|heard| now.since(heard) >= PATIENCE)
    }

    /// When that will be so, if nothing more is heard.
    pub(crate) fn deadline(&self) -> Option<Now> {
        self.heard.map(|heard| heard + PATIENCE)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_hears_nothing_is_alone_after_a_second_and_a_half() {
        let mut fence = Fence::default();
        let now = Now::from_nanos(5_000_000_000);
        assert!(fence.is_alone(now), "nothing was heard yet");
        fence.hear(now);
        assert!(!fence.is_alone(now + Duration::from_millis(1499)));
        assert_eq!(fence.deadline(), Some(now + PATIENCE));
        assert!(fence.is_alone(now + PATIENCE));
        fence.hear(now + PATIENCE);
        assert!(!fence.is_alone(now + PATIENCE));
    }
}
