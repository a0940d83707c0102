//! When does a frame come out of a bad wire, if at all?
//!
//! In this order, as packets meet it: the coin of the loss; the line, which takes one frame after another at its rate;
//! then the way, which takes its delay, unless the frame is one of those that overtake. Time is an argument: it counts
//! from any one moment.
//!
//! # Invariants
//! - Frames that do not overtake come out in the order in which they went in.
//! - What waits is bounded: a frame finds the line at most [`BACKLOG`] behind, and at most [`FRAMES`] and [`BYTES`] are
//!   on the wire. What exceeds that is dropped, and told.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use vswitch::io::random::Random;

/// Frames on the wire at a time; the limit that is given to netem.
pub(crate) const FRAMES: usize = 10_000;
/// Their bytes: a gigabit a second for half a second.
const BYTES: usize = 64 * 1024 * 1024;
/// How far the line may be behind when a frame comes; the latency that is given to tbf.
const BACKLOG: Duration = Duration::from_millis(50);

/// What is wrong with a wire.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Flaws {
    /// Frames of a million that are lost.
    pub(crate) loss: u32,
    /// How long a frame is under way.
    pub(crate) delay: Duration,
    /// Frames of a million that skip the delay.
    pub(crate) reorder: u32,
    /// Bits a second, if there is a limit.
    pub(crate) rate: Option<u64>,
}

/// What happened to a frame at the near end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fate {
    /// It comes out in its turn.
    Kept,
    /// It comes out before its turn.
    Overtakes,
    /// The coin fell against it.
    Lost,
    /// There was no room for it.
    Overflowed,
}

/// A frame under way. The earliest comes out first, and of those due together the one that went in first.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Held {
    due: Duration,
    number: u64,
    frame: Vec<u8>,
}

/// One direction of a wire.
#[derive(Debug)]
pub(super) struct Wire {
    flaws: Flaws,
    random: Random,
    /// When the line has sent all that it was given.
    idle_at: Duration,
    held: BinaryHeap<Reverse<Held>>,
    bytes: usize,
    entered: u64,
}

impl Wire {
    /// A wire with nothing on it. The same seed and frames: the same fates.
    pub(super) fn new(flaws: Flaws, seed: u64) -> Self {
        Self {
            flaws,
            random: Random::new(seed),
            idle_at: Duration::ZERO,
            held: BinaryHeap::new(),
            bytes: 0,
            entered: 0,
        }
    }

    /// A frame goes in.
    pub(super) fn enter(&mut self, frame: &[u8], now: Duration) -> Fate {
        if self.random.happens(self.flaws.loss) {
            return Fate::Lost;
        }
        let full = self.held.len() >= FRAMES || self.bytes + frame.len() > BYTES;
        if full || self.idle_at.saturating_sub(now) > BACKLOG {
            return Fate::Overflowed;
        }
        self.idle_at = self.idle_at.max(now) + self.on_the_line(frame.len());
        let overtakes = self.random.happens(self.flaws.reorder);
        let way = if overtakes {
            Duration::ZERO
        } else {
            self.flaws.delay
        };
        self.entered += 1;
        self.bytes += frame.len();
        self.held.push(Reverse(Held {
            due: self.idle_at + way,
            number: self.entered,
            frame: frame.to_vec(),
        }));
        if overtakes {
            Fate::Overtakes
        } else {
            Fate::Kept
        }
    }

    /// How long the line takes for so many bytes.
    fn on_the_line(&self, bytes: usize) -> Duration {
        let Some(rate) = self.flaws.rate else {
            return Duration::ZERO;
        };
        let bits = u64::try_from(bytes).unwrap_or(u64::MAX).saturating_mul(8);
        Duration::from_nanos(bits.saturating_mul(1_000_000_000) / rate.max(1))
    }

    /// When the next frame comes out.
    pub(super) fn due(&self) -> Option<Duration> {
        self.held.peek().map(|Reverse(held)| held.due)
    }

    /// A frame that comes out by now.
    pub(super) fn leave(&mut self, now: Duration) -> Option<Vec<u8>> {
        if self.due()? > now {
            return None;
        }
        let Reverse(Held { frame, .. }) = self.held.pop()?;
        self.bytes -= frame.len();
        Some(frame)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn wire(flaws: Flaws) -> Wire {
        Wire::new(flaws, 7)
    }

    #[test]
    fn a_clean_wire_gives_each_frame_at_once_and_in_order() {
        let mut wire = wire(Flaws::default());
        for byte in 0..3 {
            assert_eq!(wire.enter(&[byte; 60], MS), Fate::Kept);
        }
        for byte in 0..3 {
            assert_eq!(wire.leave(MS), Some(vec![byte; 60]));
        }
        assert_eq!(wire.leave(MS), None);
        assert_eq!(wire.due(), None);
    }

    #[test]
    fn a_delay_holds_each_frame_for_its_time() {
        let mut wire = wire(Flaws {
            delay: 20 * MS,
            ..Flaws::default()
        });
        wire.enter(&[1; 60], Duration::ZERO);
        wire.enter(&[2; 60], 5 * MS);
        assert_eq!(wire.due(), Some(20 * MS));
        assert_eq!(wire.leave(Duration::from_nanos(19_999_999)), None);
        assert_eq!(wire.leave(20 * MS), Some(vec![1; 60]));
        assert_eq!(wire.leave(20 * MS), None);
        assert_eq!(wire.due(), Some(25 * MS));
    }

    #[test]
    fn a_tenth_is_lost_and_the_same_tenth_with_the_same_seed() {
        let flaws = Flaws {
            loss: 100_000,
            ..Flaws::default()
        };
        let fates = |seed| -> Vec<Fate> {
            let mut wire = Wire::new(flaws, seed);
            let once = |_| {
                let fate = wire.enter(&[0; 60], MS);
                wire.leave(MS);
                fate
            };
            (0..10_000).map(once).collect()
        };
        let lost = fates(1).iter().filter(|f| **f == Fate::Lost).count();
        assert!((850..1150).contains(&lost), "{lost}");
        assert_eq!(fates(1), fates(1));
        assert_ne!(fates(1), fates(2));
    }

    #[test]
    fn a_share_of_frames_overtakes_and_the_others_keep_their_order() {
        let mut wire = wire(Flaws {
            delay: 10 * MS,
            reorder: 250_000,
            ..Flaws::default()
        });
        let (mut early, mut late) = (0, vec![]);
        for n in 0..200_u8 {
            let fate = wire.enter(&[n], MS);
            let out = wire.leave(MS);
            assert_eq!(out.is_some(), fate == Fate::Overtakes);
            early += u32::from(out.is_some());
        }
        while let Some(frame) = wire.leave(11 * MS) {
            late.extend(frame);
        }
        assert!((20..90).contains(&early), "{early}");
        assert_eq!(late.len() + usize::try_from(early).unwrap(), 200);
        assert!(late.is_sorted());
    }

    #[test]
    fn a_rate_spaces_frames_and_drops_what_the_line_is_too_far_behind_for() {
        // 1000 bytes at 8 Mbit/s take a millisecond each.
        let mut wire = wire(Flaws {
            rate: Some(8_000_000),
            delay: 100 * MS,
            ..Flaws::default()
        });
        let fates: Vec<Fate> = (0..60)
            .map(|_| wire.enter(&[0; 1000], Duration::ZERO))
            .collect();
        let kept = fates.iter().filter(|f| **f == Fate::Kept).count();
        assert_eq!(kept, 51, "fifty milliseconds, and the one that fills them");
        assert!(fates.iter().skip(kept).all(|f| *f == Fate::Overflowed));
        let mut at = 100 * MS;
        while let Some(due) = wire.due() {
            at += MS;
            assert_eq!(due, at);
            wire.leave(due).unwrap();
        }
        assert_eq!(at, 151 * MS);
        // Idle since long: the line has saved nothing up.
        wire.enter(&[0; 1000], 400 * MS);
        assert_eq!(wire.due(), Some(501 * MS));
    }

    #[test]
    fn the_slowest_line_still_takes_a_frame_when_it_is_idle() {
        let mut wire = wire(Flaws {
            rate: Some(8_000),
            ..Flaws::default()
        });
        assert_eq!(wire.enter(&[0; 1600], MS), Fate::Kept);
        assert_eq!(wire.enter(&[0; 1600], MS), Fate::Overflowed);
        assert_eq!(wire.due(), Some(1601 * MS));
    }

    #[test]
    fn frames_and_bytes_on_the_wire_are_bounded() {
        let long = Flaws {
            delay: 3_600_000 * MS,
            ..Flaws::default()
        };
        let mut frames = wire(long);
        let kept = |wire: &mut Wire, size: usize| {
            let frame = vec![0; size];
            (0..FRAMES + 9)
                .filter(|_| wire.enter(&frame, MS) == Fate::Kept)
                .count()
        };
        assert_eq!(kept(&mut frames, 60), FRAMES);
        assert_eq!(kept(&mut wire(long), 65_000), BYTES / 65_000);
        // One that leaves makes room for one.
        frames.leave(3_600_001 * MS).unwrap();
        assert_eq!(kept(&mut frames, 60), 1);
    }
}
