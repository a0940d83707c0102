//! What do the stacks do with any packets at all?
//!
//! The stacks without a thread, a runtime and workers: packets in, frames out, and whatever is said is said back. For tests that send what
//! no client would.

use std::{
    sync::Arc,
    task::{Context, Poll, Waker},
};

use net::Now;
use rtrb::RingBuffer;

use super::{
    Counters, Counts, Inward, Outward,
    stack::{Limits, Opened, Stacks},
};

/// Frames of a turn.
const FRAMES: usize = 256;

/// Stacks that say back what they are told.
#[derive(Debug)]
pub struct Exchange {
    stacks: Stacks,
    counters: Arc<Counters>,
    open: Vec<Opened>,
}

impl Exchange {
    /// With these limits.
    pub fn new(limits: Limits, seed: u64) -> Self {
        let counters = Arc::new(Counters::default());
        Self {
            stacks: Stacks::new(limits, seed, Arc::clone(&counters)),
            counters,
            open: Vec::new(),
        }
    }

    /// One turn: these packets come in; the frames that go out.
    pub fn turn(&mut self, inward: impl IntoIterator<Item = Inward>, now: Now) -> Vec<Outward> {
        for inward in inward {
            self.stacks.take(inward);
        }
        let (ring, mut out) = RingBuffer::new(FRAMES);
        let turn = self.stacks.turn(now, &mut [ring]);
        self.open.extend(turn.opened);
        self.say_back();
        let frames = std::iter::from_fn(|| out.pop().ok());
        frames.collect()
    }

    fn say_back(&mut self) {
        let mut cx = Context::from_waker(Waker::noop());
        let stacks = &mut self.stacks;
        self.open.retain(|of| {
            let mut said = [0; 512];
            match stacks.read(of.port, of.id, &mut said, &mut cx) {
                Poll::Pending => true,
                Poll::Ready(Ok(0) | Err(_)) => {
                    stacks.close(of.port, of.id);
                    false
                }
                Poll::Ready(Ok(n)) => {
                    let said = said.get(..n).unwrap_or_default();
                    let written = stacks.write(of.port, of.id, said, &mut cx);
                    !matches!(written, Poll::Ready(Err(_)))
                }
            }
        });
    }

    /// What was counted.
    pub fn counts(&self) -> Counts {
        self.counters.read()
    }
}
