//! Where does a worker's time go?
//!
//! Each worker counts its own: what it read and sent, how often it turned and slept, and how long each part took. The clock is
//! read twice a turn; how a turn divides into parts is looked at once in [`EVERY`] turns that had something to do, and the time of
//! those that were passed over is divided alike. To measure costs less than 1 % of a turn.
//!
//! # Invariants
//! - The times only grow, and sum up to the time since the worker began, but for the last turns that were passed over.
//! - Without a clock nothing is measured: simulations and tests have none.
//!
//! # Cost
//! Two readings of the clock a turn; in one of [`EVERY`] some six more, and two for each packet that has no connection yet.

use std::time::Duration;

use net::Now;

use crate::stats::Row;

/// Turns of which one is looked at.
pub const EVERY: u32 = 16;

/// What a worker does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// Reads frames from ports, the underlay and other workers.
    Rx,
    /// Parses, and looks for connections.
    Lookup,
    /// Looks among the megaflows, and walks the tables, for what has no connection yet.
    Decide,
    /// Carries out what was decided, and runs the functions that see each packet.
    Functions,
    /// Writes frames to ports and the underlay.
    Tx,
    /// Commands, timers, sweeps.
    Other,
    /// Looks for packets that are not there yet, awake.
    Poll,
    /// Sleeps.
    Idle,
}

impl Part {
    /// All of them, in the order of their numbers.
    pub const ALL: [Self; 8] = [
        Self::Rx,
        Self::Lookup,
        Self::Decide,
        Self::Functions,
        Self::Tx,
        Self::Other,
        Self::Poll,
        Self::Idle,
    ];

    /// Its name in metrics and tables.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Rx => "rx",
            Self::Lookup => "lookup",
            Self::Decide => "decide",
            Self::Functions => "functions",
            Self::Tx => "tx",
            Self::Other => "other",
            Self::Poll => "poll",
            Self::Idle => "idle",
        }
    }
}

/// Through what a frame comes and goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Medium {
    /// A workload's port.
    Port,
    /// The tunnel.
    Tunnel,
}

/// Frames, and the segments in them: a super-frame has many.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Carried {
    /// Frames: one system call each, or less.
    pub frames: u64,
    /// Segments.
    pub segments: u64,
}

impl Carried {
    fn add(&mut self, frames: usize, segments: u64) {
        self.frames += frames as u64;
        self.segments += segments;
    }
}

const PARTS: usize = Part::ALL.len();

/// What a worker did so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Effort {
    nanos: [u64; PARTS],
    rx: [Carried; 2],
    tx: [Carried; 2],
    /// Times around the loop.
    pub turns: u64,
    /// Times that it went to sleep.
    pub sleeps: u64,
    /// Packets handed over to other workers.
    pub handed: u64,
}

impl Effort {
    /// How long one part took.
    pub fn time(&self, part: Part) -> Duration {
        let nanos = self.nanos.get(part as usize).copied();
        Duration::from_nanos(nanos.unwrap_or_default())
    }

    /// What was read from a side.
    pub fn rx(&self, side: Medium) -> Carried {
        self.rx.get(side as usize).copied().unwrap_or_default()
    }

    /// What was sent to a side.
    pub fn tx(&self, side: Medium) -> Carried {
        self.tx.get(side as usize).copied().unwrap_or_default()
    }

    /// Segments that were read as parts of super-frames, beyond the first of each.
    pub fn saved(&self) -> u64 {
        let beyond = |c: &Carried| c.segments.saturating_sub(c.frames);
        self.rx.iter().map(beyond).sum()
    }

    fn spend(&mut self, part: Part, nanos: u64) {
        if let Some(sum) = self.nanos.get_mut(part as usize) {
            *sum += nanos;
        }
    }

    /// Counts what was read from a side.
    pub fn count_rx(&mut self, side: Medium, frames: usize, segments: u64) {
        if let Some(carried) = self.rx.get_mut(side as usize) {
            carried.add(frames, segments);
        }
    }

    /// Counts what was sent to a side.
    pub fn count_tx(&mut self, side: Medium, frames: usize, segments: u64) {
        if let Some(carried) = self.tx.get_mut(side as usize) {
            carried.add(frames, segments);
        }
    }
}

/// Measures a worker's turns.
#[derive(Debug, Clone, Default)]
pub struct Meter {
    /// What was measured.
    pub effort: Effort,
    clock: Option<fn() -> Now>,
    /// This turn is looked at: the last lap began then.
    lap: Option<Now>,
    laps: [u64; PARTS],
    /// Time of turns that were not looked at yet.
    pending: u64,
    /// How many more are passed over.
    skip: u32,
}

impl Meter {
    /// One that reads this clock.
    pub fn with_clock(clock: fn() -> Now) -> Self {
        Self {
            clock: Some(clock),
            ..Self::default()
        }
    }

    /// A turn begins.
    pub fn begin(&mut self, now: Now) {
        self.lap = (self.clock.is_some() && self.skip == 0).then_some(now);
    }

    /// What was done since the last lap was of this part.
    #[inline]
    pub fn lap(&mut self, part: Part) {
        if let (Some(since), Some(clock)) = (self.lap, self.clock) {
            let now = clock();
            if let Some(sum) = self.laps.get_mut(part as usize) {
                *sum += nanos(since, now);
            }
            self.lap = Some(now);
        }
    }

    /// A turn ended, which began at `began`. A turn that found nothing to do was spent waiting.
    pub fn end(&mut self, began: Now, now: Now, busy: bool) {
        self.effort.turns += 1;
        let spent = nanos(began, now);
        if !busy {
            self.lap = None;
            self.laps = [0; PARTS];
            return self.effort.spend(Part::Poll, spent);
        }
        self.pending += spent;
        if self.lap.take().is_none() {
            self.skip = self.skip.saturating_sub(1);
            return;
        }
        self.skip = EVERY - 1;
        let laps = std::mem::take(&mut self.laps);
        let whole: u64 = laps.iter().sum();
        let mut left = self.pending;
        for (part, lap) in Part::ALL.into_iter().zip(laps) {
            // Nanoseconds of one turn times those of sixteen: it fits 128 bits.
            let share = u128::from(self.pending) * u128::from(lap) / u128::from(whole.max(1));
            let share = u64::try_from(share).unwrap_or(left).min(left);
            self.effort.spend(part, share);
            left -= share;
        }
        self.effort.spend(Part::Other, left);
        self.pending = 0;
    }

    /// It waited, asleep or looking again.
    pub fn waited(&mut self, from: Now, to: Now, asleep: bool) {
        let part = if asleep { Part::Idle } else { Part::Poll };
        self.effort.sleeps += u64::from(asleep);
        self.effort.spend(part, nanos(from, to));
    }
}

/// The rows of a metric of the workers, each with its number.
pub(crate) fn rows(name: &str, efforts: &[(u16, Effort)]) -> Vec<Row> {
    match name {
        "vswitch_worker_seconds_total" => efforts
            .iter()
            .flat_map(|(worker, effort)| {
                Part::ALL.map(|part| {
                    let time = effort.time(part).as_nanos();
                    let labels = vec![worker.to_string(), part.name().to_owned()];
                    (labels, u64::try_from(time).unwrap_or(u64::MAX))
                })
            })
            .collect(),
        "vswitch_worker_turns_total" => each(efforts, |e| e.turns),
        "vswitch_worker_sleeps_total" => each(efforts, |e| e.sleeps),
        "vswitch_worker_handed_packets_total" => each(efforts, |e| e.handed),
        "vswitch_worker_frames_total" => ways(efforts, |c| c.frames),
        "vswitch_worker_segments_total" => ways(efforts, |c| c.segments),
        _ => Vec::new(),
    }
}

fn each(efforts: &[(u16, Effort)], value: fn(&Effort) -> u64) -> Vec<Row> {
    let rows = efforts.iter();
    rows.map(|(worker, effort)| (vec![worker.to_string()], value(effort)))
        .collect()
}

fn ways(efforts: &[(u16, Effort)], value: fn(Carried) -> u64) -> Vec<Row> {
    let rows = |(worker, effort): &(u16, Effort)| {
        let worker = worker.to_string();
        [
            ("rx", "port", effort.rx(Medium::Port)),
            ("tx", "port", effort.tx(Medium::Port)),
            ("rx", "tunnel", effort.rx(Medium::Tunnel)),
            ("tx", "tunnel", effort.tx(Medium::Tunnel)),
        ]
        .map(|(direction, side, carried)| {
            let labels = [&worker, direction, side].map(ToOwned::to_owned);
            (labels.to_vec(), value(carried))
        })
    };
    efforts.iter().flat_map(rows).collect()
}

fn nanos(from: Now, to: Now) -> u64 {
    u64::try_from(to.since(from).as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;
    use crate::stats::METRICS;

    thread_local! {
        static NOW: Cell<u64> = const { Cell::new(0) };
    }

    fn now() -> Now {
        Now::from_nanos(NOW.get())
    }

    fn pass(nanos: u64) {
        NOW.set(NOW.get() + nanos);
    }

    fn sum(effort: &Effort) -> u64 {
        effort.nanos.iter().sum()
    }

    #[test]
    fn the_parts_sum_up_to_the_time_that_passed() {
        let mut meter = Meter::with_clock(now);
        // The first turn is looked at, and then each sixteenth.
        for turn in 0..=u64::from(EVERY) * 100 {
            let began = now();
            meter.begin(began);
            pass(100 + turn % 7);
            meter.lap(Part::Rx);
            pass(30);
            meter.lap(Part::Lookup);
            pass(70);
            meter.lap(Part::Tx);
            let ended = now();
            meter.end(began, ended, true);
            pass(1000);
            meter.waited(ended, now(), true);
        }
        let effort = &meter.effort;
        assert_eq!(sum(effort), NOW.get());
        assert_eq!((effort.turns, effort.sleeps), (1601, 1601));
        let part = |part| u64::try_from(effort.time(part).as_nanos()).unwrap();
        assert_eq!(part(Part::Idle), 1_601_000);
        // 103 of 203 were reading.
        let busy = NOW.get() - 1_601_000;
        assert!(part(Part::Rx).abs_diff(busy * 103 / 203) < busy / 100);
        assert!(part(Part::Lookup).abs_diff(busy * 30 / 203) < busy / 100);
        assert_eq!(part(Part::Decide), 0);
    }

    #[test]
    fn a_turn_that_found_nothing_was_spent_waiting() {
        let mut meter = Meter::with_clock(now);
        for _ in 0..EVERY {
            let began = now();
            meter.begin(began);
            pass(50);
            meter.lap(Part::Rx);
            meter.end(began, now(), false);
        }
        assert_eq!(
            meter.effort.time(Part::Poll).as_nanos(),
            50 * u128::from(EVERY)
        );
        assert_eq!(sum(&meter.effort), NOW.get());
    }

    #[test]
    fn every_metric_of_the_workers_has_rows_with_its_labels() {
        let mut effort = Effort::default();
        effort.count_tx(Medium::Tunnel, 2, 80);
        effort.spend(Part::Tx, 7);
        let efforts = [(3, effort)];
        let ours = METRICS.iter().filter(|m| m.name.contains("_worker_"));
        for metric in ours.clone() {
            let rows = rows(metric.name, &efforts);
            assert!(!rows.is_empty(), "{}", metric.name);
            assert!(rows.iter().all(|(l, _)| l.len() == metric.labels.len()));
        }
        assert_eq!(ours.count(), 6);
        let has = |name: &str, labels: &[&str], number: u64| {
            let labels: Vec<_> = labels.iter().map(|l| (*l).to_owned()).collect();
            assert!(rows(name, &efforts).contains(&(labels, number)), "{name}");
        };
        has("vswitch_worker_segments_total", &["3", "tx", "tunnel"], 80);
        has("vswitch_worker_seconds_total", &["3", "tx"], 7);
    }

    #[test]
    fn without_a_clock_nothing_is_measured() {
        let mut meter = Meter::default();
        for _ in 0..EVERY {
            meter.begin(now());
            meter.lap(Part::Rx);
        }
        assert_eq!(meter.laps, [0; PARTS]);
    }
}
