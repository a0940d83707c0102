//! Who carries a host's frames while the wire is bad?
//!
//! A thread a host, between two taps: `uplink` in the host's namespace, and its port at the controller's. Frames out of the
//! host go through a [`Wire`]; frames to it pass as they are.

use std::convert::Infallible;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use rustix::event::{PollFd, PollFlags};
use rustix::io::Errno;
use rustix::time::Timespec;
use serde::{Deserialize, Serialize};

use super::wire::{Fate, Wire};

/// More than any frame: the largest MTU of an underlay, and an Ethernet header.
const LARGEST: usize = 65_536;
/// Frames that one direction may move before the other gets its turn.
const TURN: usize = 64;

/// What became of a host's frames, so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Counts {
    /// Out of the host, all that came.
    pub(crate) entered: u64,
    /// Lost, as ordered.
    pub(crate) lost: u64,
    /// Ahead of their turn, as ordered.
    pub(crate) overtook: u64,
    /// Dropped: too much waited already.
    pub(crate) overflowed: u64,
    /// Refused by a tap, either direction: the link was down, or its receiver slow.
    pub(crate) refused: u64,
}

/// The same, counted by one thread and read by another.
#[derive(Debug, Default)]
pub(super) struct Tally {
    entered: AtomicU64,
    lost: AtomicU64,
    overtook: AtomicU64,
    overflowed: AtomicU64,
    refused: AtomicU64,
}

impl Tally {
    fn count(&self, fate: Fate) {
        self.entered.fetch_add(1, Ordering::Relaxed);
        let which = match fate {
            Fate::Kept => return,
            Fate::Overtakes => &self.overtook,
            Fate::Lost => &self.lost,
            Fate::Overflowed => &self.overflowed,
        };
        which.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn read(&self) -> Counts {
        let of = |count: &AtomicU64| count.load(Ordering::Relaxed);
        Counts {
            entered: of(&self.entered),
            lost: of(&self.lost),
            overtook: of(&self.overtook),
            overflowed: of(&self.overflowed),
            refused: of(&self.refused),
        }
    }
}

/// A host's link: both taps, and the wire between.
#[derive(Debug)]
pub(super) struct Link {
    pub(super) uplink: OwnedFd,
    pub(super) port: OwnedFd,
    pub(super) wire: Wire,
    pub(super) tally: Arc<Tally>,
}

impl Link {
    /// Moves frames until a tap is gone.
    ///
    /// # Errors
    /// Which one, and how the kernel said so.
    pub(super) fn run(mut self) -> anyhow::Result<Infallible> {
        let clock = Instant::now();
        let mut buffer = vec![0_u8; LARGEST];
        loop {
            while let Some(frame) = self.wire.leave(clock.elapsed()) {
                self.hand_over(&self.port, &frame);
            }
            let wait = self
                .wire
                .due()
                .map(|due| due.saturating_sub(clock.elapsed()));
            let [from_host, to_host] = self.wait(wait)?;
            if from_host {
                for _ in 0..TURN {
                    let Some(frame) = next(&self.uplink, &mut buffer).context("read the uplink")?
                    else {
                        break;
                    };
                    self.tally.count(self.wire.enter(frame, clock.elapsed()));
                }
            }
            if to_host {
                for _ in 0..TURN {
                    let Some(frame) = next(&self.port, &mut buffer).context("read the port")?
                    else {
                        break;
                    };
                    self.hand_over(&self.uplink, frame);
                }
            }
        }
    }

    /// Sleeps until a tap has frames or the time is over; tells which has.
    fn wait(&self, at_most: Option<Duration>) -> anyhow::Result<[bool; 2]> {
        let timeout = at_most.map(|time| Timespec {
            tv_sec: i64::try_from(time.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: i64::from(time.subsec_nanos()),
        });
        let mut taps = [&self.uplink, &self.port].map(|fd| PollFd::new(fd, PollFlags::IN));
        match rustix::event::poll(&mut taps, timeout.as_ref()) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(e) => return Err(e).context("wait for frames"),
        }
        let ready = taps.map(|tap| tap.revents());
        let gone = PollFlags::ERR | PollFlags::HUP | PollFlags::NVAL;
        if ready.iter().any(|events| events.intersects(gone)) {
            bail!("its tap was deleted");
        }
        Ok(ready.map(|events| events.contains(PollFlags::IN)))
    }

    fn hand_over(&self, to: &OwnedFd, frame: &[u8]) {
        // A wire does not try again either; the count tells.
        if rustix::io::write(to, frame).is_err() {
            self.tally.refused.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// The next frame of a tap, if one waits.
fn next<'a>(tap: &OwnedFd, buffer: &'a mut [u8]) -> Result<Option<&'a [u8]>, Errno> {
    match rustix::io::read(tap, &mut *buffer) {
        Ok(length) => Ok(buffer.get(..length)),
        Err(Errno::AGAIN | Errno::INTR) => Ok(None),
        Err(e) => Err(e),
    }
}
