//! How fast is the datapath on this machine, devices apart?
//!
//! The production [`Datapath`](crate::datapath::Datapath) on tables that are compiled from a host's config, one thread, frames of 64 bytes (60 and the
//! checksum that no buffer holds) from a replay buffer. What a switch in user space pays for each is paid here: the copy into
//! a packet of the pool, the whole path with its counters, the outer headers, the way back into the pool. Beside each figure
//! stands the floor of the rig: copy and free, with nothing between.
//!
//! Used by `overweave bench` and by `cargo xtask bench`.

mod replay;
mod rig;
mod world;

use std::{fmt, str::FromStr, time::Duration};

use rig::Rig;

/// What is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Work {
    /// From one port to another of the host, by MAC address; no port security, nothing tracked.
    L2,
    /// The same to a port of another host, with the outer headers written.
    Encapsulate,
    /// The same from another host, with the outer headers read.
    Decapsulate,
    /// Port security and a stateful security group, connections known.
    SecurityGroup,
    /// Port security, a stateful security group, and a chain of firewall, load balancer and NAT with that many deciding functions after the
    /// first two, to another host; connections known.
    Chain(u8),
    /// Each packet begins a connection, judged by a group of that many rules.
    SetUp(u32),
}

impl Work {
    /// What is run when nothing else is asked for, each with its numbers of flows.
    pub const ALL: [(Self, &'static [u32]); 8] = [
        (Self::L2, &[10_000, 1_000_000]),
        (Self::Encapsulate, &[10_000]),
        (Self::Decapsulate, &[10_000]),
        (Self::SecurityGroup, &[10_000, 1_000_000]),
        (Self::Chain(1), &[10_000]),
        (Self::Chain(5), &[10_000]),
        (Self::SetUp(10), &[1_000_000]),
        (Self::SetUp(10_000), &[1_000_000]),
    ];
}

impl fmt::Display for Work {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::L2 => f.write_str("l2"),
            Self::Encapsulate => f.write_str("encapsulate"),
            Self::Decapsulate => f.write_str("decapsulate"),
            Self::SecurityGroup => f.write_str("security-group"),
            Self::Chain(functions) => write!(f, "chain:{functions}"),
            Self::SetUp(rules) => write!(f, "set-up:{rules}"),
        }
    }
}

/// Why a text names no work.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "no such work (l2, encapsulate, decapsulate, security-group, chain:1..=16, set-up:1..=100000): {0:?}"
)]
pub struct UnknownWork(pub String);

impl FromStr for Work {
    type Err = UnknownWork;
    fn from_str(s: &str) -> Result<Self, UnknownWork> {
        let unknown = || UnknownWork(s.to_owned());
        let (name, number) = match s.split_once(':') {
            Some((name, number)) => (name, Some(number.parse::<u32>().or(Err(unknown()))?)),
            None => (s, None),
        };
        match (name, number) {
            ("l2", None) => Ok(Self::L2),
            ("encapsulate", None) => Ok(Self::Encapsulate),
            ("decapsulate", None) => Ok(Self::Decapsulate),
            ("security-group", None) => Ok(Self::SecurityGroup),
            ("chain", Some(n @ 1..=16)) => Ok(Self::Chain(u8::try_from(n).or(Err(unknown()))?)),
            ("set-up", Some(n @ 1..=100_000)) => Ok(Self::SetUp(n)),
            _ => Err(unknown()),
        }
    }
}

/// How to measure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Options {
    /// Distinct 5-tuples, in a shuffled order: 1 to 4,000,000.
    pub flows: u32,
    /// For how long each run goes on; a set-up run ends when every flow was set up.
    pub run: Duration,
    /// How many runs; the median is told, with the least and the most.
    pub runs: u32,
}

impl Options {
    /// The most flows.
    pub const MOST_FLOWS: u32 = 4_000_000;
}

/// Millions of packets a second over several runs.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Rate {
    /// The median run.
    pub median: f64,
    /// The slowest.
    pub least: f64,
    /// The fastest.
    pub most: f64,
}

impl Rate {
    fn of(mut runs: Vec<f64>) -> Self {
        runs.sort_by(f64::total_cmp);
        Self {
            median: runs.get(runs.len() / 2).copied().unwrap_or_default(),
            least: runs.first().copied().unwrap_or_default(),
            most: runs.last().copied().unwrap_or_default(),
        }
    }

    /// Nanoseconds a packet of the median run.
    pub fn nanos(&self) -> f64 {
        1000.0 / self.median
    }
}

/// What came out.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Figure {
    /// Of what.
    pub work: Work,
    /// With how many flows.
    pub flows: u32,
    /// The whole.
    pub rate: Rate,
    /// The rig alone: copied and freed.
    pub floor: Rate,
}

/// Why nothing was measured.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BenchError {
    /// Out of range.
    #[error("flows out of range (1..=4000000): {0}")]
    Flows(u32),
    /// Packets did not arrive: the figure would be of something else.
    #[error("of {sent} packets {delivered} were delivered by {work}; first drop reason: {reason}")]
    Lost {
        /// Of what.
        work: Work,
        /// Packets that went in.
        sent: u64,
        /// Packets that came out.
        delivered: u64,
        /// Why the first one did not.
        reason: String,
    },
    /// The config of the bench itself is not one.
    #[error("the bench's own config is refused: {0}")]
    Config(String),
}

/// Measures one work: floor and whole alternate.
///
/// # Errors
/// When the options are out of range, or packets got lost.
pub fn run(work: Work, options: &Options) -> Result<Figure, BenchError> {
    if !(1..=Options::MOST_FLOWS).contains(&options.flows) {
        return Err(BenchError::Flows(options.flows));
    }
    let mut rig = Rig::new(work, options.flows)?;
    let (mut whole, mut floor) = (Vec::new(), Vec::new());
    for _ in 0..options.runs.max(1) {
        floor.push(rig.floor(options.run));
        whole.push(rig.whole(options.run)?);
    }
    Ok(Figure {
        work,
        flows: options.flows,
        rate: Rate::of(whole),
        floor: Rate::of(floor),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_work_delivers_every_packet_and_is_named_back() {
        for (work, _) in Work::ALL {
            assert_eq!(work.to_string().parse(), Ok(work));
            let options = Options {
                flows: 300,
                run: Duration::from_millis(1),
                runs: 1,
            };
            let figure = run(work, &options).unwrap();
            assert!(figure.rate.median > 0.0, "{work}");
        }
        assert!("chain:17".parse::<Work>().is_err());
        assert!("l2:3".parse::<Work>().is_err());
    }

    #[test]
    fn the_middle_one_of_several_runs_is_told() {
        let rate = Rate::of(vec![3.0, 1.0, 2.0]);
        assert_eq!((rate.least, rate.median, rate.most), (1.0, 2.0, 3.0));
    }
}
