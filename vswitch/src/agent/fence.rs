//! For how long does this host have what another could have too?
//!
//! What one host at a time may have outside (gateways, floating IPs) the controller gives to another some time after it last heard from the one that had
//! it. So this host has of it only what it has a lease of: [`PATIENCE`] from the last moment, *by this host's own clock*, of which it knows that the controller heard it.
//! Answers to pings carry the clock, pings carry back the last reading that came. However long a message was under way, in either direction, the lease is the
//! shorter for it.
//!
//! # Invariants
//! - A process that has heard nothing yet has no lease: what it took up from disk may be another's by now.
//! - A word is good for what was told before it: it counts when that is run ([`Fence::renew`]).
//!
//! # Other versions
//! A controller that keeps no readings says none in its pings. Then the lease counts from when a message is read, as it did before; such a controller waits
//! for two seconds, and what is under way for longer than half a second is not covered.

use std::time::Duration;

use hostconfig::wire::{self, from_controller};
use net::Now;

use super::session::StreamId;

/// How long a lease is. The controller's patience is a quarter longer (`hosts::schedule::GONE`): so much may clocks differ.
pub(crate) const PATIENCE: Duration = Duration::from_millis(1200);

/// The lease of what could be another's.
#[derive(Debug, Default)]
pub(crate) struct Fence {
    /// The last moment of which it is known that the controller heard this host.
    heard: Option<Now>,
    /// A later one, once what was told before it is run.
    word: Option<Now>,
    /// The stream whose controller says what it heard.
    says: Option<StreamId>,
}

impl Fence {
    /// The controller said something.
    pub(crate) fn hear(&mut self, stream: StreamId, message: &wire::FromController, now: Now) {
        let read = match &message.message {
            Some(from_controller::Message::Ping(ping)) => ping.heard.map(Now::from_nanos),
            Some(from_controller::Message::Update(_) | from_controller::Message::Parts(_))
            | None => None,
        };
        let moment = match read {
            Some(moment) => {
                self.says = Some(stream);
                // Zero is none yet; and what this clock never showed is not believed.
                Some(moment).filter(|moment| *moment > Now::ZERO && *moment <= now)
            }
            None => (self.says != Some(stream)).then_some(now),
        };
        self.word = self.word.max(moment);
    }

    /// What was told before is run: the lease lasts until then. `None`: there is no news.
    pub(crate) fn renew(&mut self) -> Option<Now> {
        let word = self.word.take();
        if word <= self.heard {
            return None;
        }
        self.heard = word;
        self.deadline()
    }

    /// May another host have by now what could move?
    pub(crate) fn is_alone(&self, now: Now) -> bool {
        self.deadline().is_none_or(|end| now >= end)
    }

    /// When that will be so, if nothing more is heard.
    pub(crate) fn deadline(&self) -> Option<Now> {
        self.heard.map(|heard| heard + PATIENCE)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: u64) -> Now {
        Now::from_nanos(millis * 1_000_000)
    }

    fn message(message: from_controller::Message) -> wire::FromController {
        wire::FromController {
            message: Some(message),
        }
    }

    fn ping(heard: Option<Now>) -> wire::FromController {
        let heard = heard.map(Now::nanos);
        message(from_controller::Message::Ping(wire::Ping {
            nonce: 1,
            heard,
        }))
    }

    fn update() -> wire::FromController {
        message(from_controller::Message::Update(wire::Update::default()))
    }

    #[test]
    fn a_lease_counts_from_what_the_controller_heard() {
        let (mut fence, stream) = (Fence::default(), StreamId::default());
        assert!(fence.is_alone(at(0)), "nothing was heard yet");
        fence.hear(stream, &ping(Some(at(0))), at(500));
        assert_eq!(
            fence.renew(),
            None,
            "the controller heard nothing of it yet"
        );
        // Read late: it is over before it was read.
        fence.hear(stream, &ping(Some(at(5000))), at(6500));
        assert!(
            fence.is_alone(at(5100)),
            "what was told before is not run yet"
        );
        assert_eq!(fence.renew(), Some(at(6200)));
        assert!(!fence.is_alone(at(6199)));
        assert!(fence.is_alone(at(6200)));
        // What else such a controller says is no word, an older word none either, nor what this clock never showed.
        fence.hear(stream, &update(), at(6500));
        fence.hear(stream, &ping(Some(at(4000))), at(6500));
        fence.hear(stream, &ping(Some(at(6501))), at(6500));
        assert_eq!(fence.renew(), None);
        assert_eq!(fence.deadline(), Some(at(6200)));
    }

    #[test]
    fn a_controller_that_keeps_no_readings_is_heard_when_it_is_read() {
        let (mut fence, stream) = (Fence::default(), StreamId::default());
        for said in [update(), ping(None)] {
            fence.hear(stream, &said, at(5000));
            fence.renew();
            assert_eq!(fence.deadline(), Some(at(6200)));
        }
    }
}
