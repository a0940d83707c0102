//! How long does a worker look again before it sleeps?
//!
//! To be woken costs more than to look a few times, if what is waited for comes soon. So a worker whose packets come soon after
//! each other looks on for a bounded while, and lets others have the core between two looks; one whose packets come seldom, or
//! not at all, sleeps at once.
//!
//! Who has let another go first is not woken by a packet, but waits until that one has had its turn: milliseconds, where it computes.
//! So a worker that did not get its core back soon sleeps from then on, for longer each time that it happens again: who sleeps is
//! woken before those who compute.
//!
//! # Invariants
//! - It looks on only if what it waited for last came within that while.
//! - After the last packet it looks on once at most, and then sleeps: an idle worker uses no CPU.
//! - After super-frames it sleeps: there each wake-up brings much.
//! - Where the cores are wanted by others it looks on once in [`LONGEST`] at most.

use std::time::Duration;

use net::Now;

/// For so long after a super-frame it does not look on.
const BULK: Duration = Duration::from_millis(1);
/// Longer than workloads take to answer, shorter than the kernel lets one compute.
const TOO_LONG: Duration = Duration::from_millis(1);
/// For how long it sleeps the first time that others wanted the core.
const FIRST: Duration = Duration::from_millis(1);
/// And at most.
const LONGEST: Duration = Duration::from_secs(1);
/// So many packets that were looked for and came make what was before forgotten.
const FORGET: u32 = 100;

/// Decides whether to look again.
#[derive(Debug)]
pub(super) struct Patience {
    spin: Duration,
    /// When the last turn ended that had something to do.
    rested: Now,
    /// What that turn did had come soon.
    soon: bool,
    /// It looked on after that turn.
    looked: bool,
    /// No looking on until then: others wanted the core, or much comes at once.
    shut: Now,
    /// For how long the next time that others want the core.
    back_off: Duration,
    came: u32,
}

impl Patience {
    /// Looks on for this long at most; never, if that is zero.
    pub(super) fn new(spin: Duration, now: Now) -> Self {
        Self {
            spin,
            rested: now,
            soon: false,
            looked: false,
            shut: now,
            back_off: FIRST,
            came: 0,
        }
    }

    /// A turn that began and ended then had something to do; super-frames, perhaps.
    pub(super) fn busy(&mut self, (began, ended): (Now, Now), bulk: bool) {
        let looked = std::mem::take(&mut self.looked);
        self.soon = began.since(self.rested) < self.spin;
        self.rested = ended;
        self.came += u32::from(looked && self.soon);
        if self.came >= FORGET {
            (self.back_off, self.came) = (FIRST, 0);
        }
        if bulk {
            self.shut = self.shut.max(ended + BULK);
        }
    }

    /// Is it worth another look?
    pub(super) fn lasts(&mut self, now: Now) -> bool {
        let lasts = self.soon && now.since(self.rested) < self.spin && now >= self.shut;
        self.looked |= lasts;
        lasts
    }

    /// Others could have the core between these two times.
    pub(super) fn gave_way(&mut self, from: Now, to: Now) {
        if to.since(from) > TOO_LONG {
            self.shut = to + self.back_off;
            self.back_off = (self.back_off * 2).min(LONGEST);
            self.came = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SPIN: Duration = Duration::from_micros(50);

    fn at(micros: u64) -> Now {
        Now::from_nanos(micros * 1000)
    }

    /// A worker that looks on as it is told.
    struct Worker(Patience, u64);

    impl Worker {
        fn new(spin: Duration) -> Self {
            Self(Patience::new(spin, at(0)), 0)
        }

        /// A packet so long after the last was done; did it look on before?
        fn packet(&mut self, gap: u64, bulk: bool) -> bool {
            let Self(patience, now) = self;
            let looked = patience.lasts(at(*now));
            patience.busy((at(*now + gap), at(*now + gap)), bulk);
            *now += gap;
            looked
        }

        /// So many packets; how many it looked for.
        fn packets(&mut self, count: u32, gap: u64) -> u32 {
            (0..count).map(|_| u32::from(self.packet(gap, false))).sum()
        }
    }

    #[test]
    fn what_comes_soon_is_looked_for_and_what_comes_seldom_is_slept_for() {
        let mut w = Worker::new(SPIN);
        assert_eq!(w.packets(10, 1000), 0, "too seldom");
        assert_eq!(w.packets(10, 50), 0, "too seldom");
        assert!(!w.packet(30, false), "that could not be known");
        assert_eq!(w.packets(1000, 30), 1000);
        assert!(w.0.lasts(at(w.1 + 49)));
        assert!(!w.0.lasts(at(w.1 + 50)), "bounded");
        assert!(w.packet(5000, false), "once more, in vain");
        assert_eq!(w.packets(10, 5000), 0, "idle is idle");
    }

    #[test]
    fn without_a_while_it_never_looks_on() {
        let mut w = Worker::new(Duration::ZERO);
        assert_eq!(w.packets(100, 0) + w.packets(100, 1), 0);
    }

    #[test]
    fn what_comes_in_super_frames_is_slept_for() {
        let mut w = Worker::new(SPIN);
        w.packets(10, 10);
        assert!(w.packet(10, true));
        assert_eq!(w.packets(99, 10), 0, "for a millisecond");
        assert!(w.packets(10, 10) > 8);
    }

    #[test]
    fn where_others_want_the_core_it_sleeps_longer_each_time() {
        let mut w = Worker::new(SPIN);
        w.packets(3, 10);
        let mut slept = vec![];
        for _ in 0..12 {
            assert!(w.0.lasts(at(w.1)));
            // A neighbour computed for 3 ms.
            w.0.gave_way(at(w.1), at(w.1 + 3000));
            w.1 += 3000;
            let shut = w.1;
            while !w.packet(10, false) {}
            slept.push((w.1 - shut) / 1000);
        }
        assert_eq!(slept, [1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1000, 1000]);
    }

    #[test]
    fn one_disturbance_is_forgotten_after_a_hundred_packets_that_came() {
        let mut w = Worker::new(SPIN);
        w.packets(3, 10);
        w.0.gave_way(at(w.1), at(w.1 + 90));
        assert!(w.packet(10, false), "that was short");
        w.0.gave_way(at(w.1), at(w.1 + 3000));
        assert_eq!(w.0.back_off, 2 * FIRST);
        w.1 += 4000;
        w.packets(FORGET + 5, 10);
        assert_eq!(w.0.back_off, FIRST);
    }
}
