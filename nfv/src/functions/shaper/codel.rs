//! For how long has a queue stood?
//!
//! `CoDel` (RFC 8289): a queue whose packets have waited for longer than the target all through an interval stands, and does nobody
//! good. Its sender is signalled, by a drop or a mark, at first once an interval, then the more often the longer it does not listen.
//! The machine of the RFC's section 5, asked for one packet at a time: between two of them the bucket may make the queue wait.
//!
//! # Invariants
//! - No signal as long as packets wait for less than the target, or no more waits behind one than it has itself (or a full frame).
//!
//! # Cost
//! A few comparisons a packet; a root a signal.

use std::time::Duration;

use net::Now;

/// The bytes of a full frame on an Ethernet link.
pub(super) const FULL_FRAME: u64 = 1514;

const TARGET: u64 = 5_000_000;
const INTERVAL: u64 = 100_000_000;

/// What is long (RFC 8289 §4.2, §4.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Patience {
    /// How long a packet may wait.
    pub(super) target: Duration,
    /// For how long packets may wait longer: a usual round trip at its worst.
    pub(super) interval: Duration,
}

impl Patience {
    /// 5 ms in 100 ms, and where a full frame alone takes longer, one and a half frames (RFC 8289 §4.4: no target below one packet's time).
    pub(super) fn at(full_frame: Duration) -> Self {
        let frame = u64::try_from(full_frame.as_nanos()).unwrap_or(u64::MAX / 8);
        let target = TARGET.max(frame.saturating_add(frame / 2));
        let interval = (INTERVAL - TARGET)
            .saturating_add(target)
            .max(target.saturating_mul(2));
        Self {
            target: Duration::from_nanos(target),
            interval: Duration::from_nanos(interval),
        }
    }
}

/// What was said of the packet before.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Phase {
    /// The queue does not stand.
    #[default]
    Calm,
    /// It stands, and the first packet was dropped for it: the next one goes in any case.
    Entered,
    /// It stands; the next signal has its time.
    Signalling,
    /// It stands, and a packet was just dropped for it: when is the next signal?
    Dropped,
}

/// The state of one queue.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct CoDel {
    /// When the interval ends that began when the target was first missed.
    above_until: Option<u64>,
    next: u64,
    count: u32,
    last_count: u32,
    phase: Phase,
}

impl CoDel {
    /// Is its sender to be signalled by this packet, the first of its queue? `stands`: enough waits behind it. Who then marks the packet
    /// and lets it go says so: [`CoDel::marked`]; who drops it asks about the next one.
    pub(super) fn signals(
        &mut self,
        patience: &Patience,
        since: Now,
        stands: bool,
        now: Now,
    ) -> bool {
        let late = self.late(patience, since, stands, now);
        let now = now.nanos();
        match self.phase {
            Phase::Calm => {
                if late {
                    self.begin(patience, now);
                }
                late
            }
            Phase::Entered => {
                self.phase = Phase::Signalling;
                false
            }
            Phase::Signalling | Phase::Dropped if !late => {
                self.phase = Phase::Calm;
                false
            }
            Phase::Signalling | Phase::Dropped => {
                if self.phase == Phase::Dropped {
                    self.next = self.after(patience, self.next);
                }
                let signals = now >= self.next;
                self.phase = if signals {
                    self.count = self.count.saturating_add(1);
                    Phase::Dropped
                } else {
                    Phase::Signalling
                };
                signals
            }
        }
    }

    /// Has the target been missed for a whole interval?
    fn late(&mut self, patience: &Patience, since: Now, stands: bool, now: Now) -> bool {
        if now - since < patience.target || !stands {
            self.above_until = None;
            return false;
        }
        let until = *self
            .above_until
            .get_or_insert((now + patience.interval).nanos());
        now.nanos() >= until
    }

    fn begin(&mut self, patience: &Patience, now: u64) {
        let interval = u64::try_from(patience.interval.as_nanos()).unwrap_or(u64::MAX);
        let delta = self.count.saturating_sub(self.last_count);
        // It stood a moment ago: the rate of signals that it needed then is a good beginning.
        let recent = now < self.next.saturating_add(interval.saturating_mul(16));
        self.count = if delta > 1 && recent { delta } else { 1 };
        self.last_count = self.count;
        self.next = self.after(patience, now);
        self.phase = Phase::Entered;
    }

    /// The control law: an interval over the root of the count.
    fn after(&self, patience: &Patience, time: u64) -> u64 {
        let squared = patience.interval.as_nanos().saturating_pow(2);
        let pause = (squared / u128::from(self.count.max(1))).isqrt();
        time.saturating_add(u64::try_from(pause).unwrap_or(u64::MAX))
    }

    /// The packet that signals was marked, and goes.
    pub(super) fn marked(&mut self, patience: &Patience) {
        if self.phase == Phase::Dropped {
            self.next = self.after(patience, self.next);
        }
        self.phase = Phase::Signalling;
    }

    /// The queue is empty.
    pub(super) fn empty(&mut self) {
        self.above_until = None;
        self.phase = Phase::Calm;
    }
}
