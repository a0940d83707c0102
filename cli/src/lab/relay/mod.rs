//! Who makes a wire bad where the kernel can't?
//!
//! `delay`, `loss` and `reorder` are netem's work; a kernel without it gets this instead: one process a lab, which makes
//! each host's `uplink` and its port at the controller as two taps and carries the frames between them. The taps have no
//! offloads, so that a super-frame is cut before it gets here, and loss is by packet. They end with the process, and the
//! process is remembered in the lab's state as every other part of it.

mod link;
mod wire;

use std::collections::BTreeMap;
use std::io::Write;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::Duration;

use anyhow::{Context, bail};
use serde::{Deserialize, Serialize};
use vswitch::io::plain_tap;

use link::{Link, Tally};
use wire::Wire;

pub(crate) use link::Counts;
pub(crate) use wire::{FRAMES, Flaws};

use super::netns;
use super::state::{Process, State};

/// What the relay is told, as a file in the lab's state directory.
pub(crate) const ORDERS: &str = "relay.json";
/// What it tells, there as well: [`Counts`] by host.
pub(crate) const COUNTS: &str = "relayed.json";
/// What it prints once all taps are there.
pub(crate) const READY: &str = "ready";
/// How old its counts may be.
const TELL: Duration = Duration::from_secs(1);

/// The wires of a lab.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Orders {
    pub(crate) flaws: Flaws,
    pub(crate) wires: Vec<Ends>,
}

/// One host's wire: (namespace, device) of either end.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Ends {
    pub(crate) host: String,
    pub(crate) uplink: (String, String),
    pub(crate) port: (String, String),
}

/// Carries frames until it is signalled. Prints [`READY`] once all taps are there.
///
/// # Errors
/// When a tap can't be had, or is taken away.
pub(crate) fn run(dir: &Path) -> anyhow::Result<()> {
    let state = State::of_dir(dir)?;
    state.record(&Process::of("relay", std::process::id())?)?;
    let orders: Orders = state.read_json(ORDERS)?;
    let mut tallies = BTreeMap::new();
    let (end, ends) = mpsc::channel();
    for (seed, ends) in (1..).zip(&orders.wires) {
        let tally = Arc::new(Tally::default());
        let link = Link {
            uplink: tap(&ends.uplink)?,
            port: tap(&ends.port)?,
            wire: Wire::new(orders.flaws, seed),
            tally: Arc::clone(&tally),
        };
        tallies.insert(ends.host.clone(), tally);
        let (host, end) = (ends.host.clone(), end.clone());
        let carry = move || {
            let Err(error) = link.run();
            // Nobody listens only when the process ends.
            end.send((host, error)).unwrap_or_default();
        };
        std::thread::Builder::new()
            .name(format!("wire-{}", ends.host))
            .spawn(carry)
            .context("start a wire's thread")?;
    }
    let mut stdout = std::io::stdout();
    writeln!(stdout, "{READY}")
        .and_then(|()| stdout.flush())
        .context("tell that the wires are there")?;
    watch(&state, &tallies, &ends)
}

/// Tells the counts when they changed, until a wire ends.
fn watch(
    state: &State,
    tallies: &BTreeMap<String, Arc<Tally>>,
    ends: &mpsc::Receiver<(String, anyhow::Error)>,
) -> anyhow::Result<()> {
    let mut told = BTreeMap::new();
    loop {
        match ends.recv_timeout(TELL) {
            Ok((host, error)) => return Err(error).with_context(|| format!("wire host {host}")),
            Err(RecvTimeoutError::Disconnected) => bail!("the wires' threads are gone"),
            Err(RecvTimeoutError::Timeout) => {}
        }
        let counts: BTreeMap<&str, Counts> = tallies
            .iter()
            .map(|(host, tally)| (host.as_str(), tally.read()))
            .collect();
        if counts != told {
            state.write_json(COUNTS, &counts)?;
            told = counts;
        }
    }
}

fn tap((namespace, name): &(String, String)) -> anyhow::Result<OwnedFd> {
    netns::inside(namespace, || {
        let name = name.parse().context("name a tap")?;
        plain_tap::open(&name).with_context(|| format!("make tap {name}"))
    })
    .with_context(|| format!("wire namespace {namespace}"))
}
