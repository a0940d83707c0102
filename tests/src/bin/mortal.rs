//! A controller that dies where it is told to: what `tests::ledger` kills.

use std::{
    fs::OpenOptions,
    net::SocketAddr,
    os::unix::fs::FileExt as _,
    path::PathBuf,
    str::FromStr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use anyhow::Context as _;
use clap::Parser;
use controller::{
    Config,
    hosts::pki::Authority,
    resources, run_on,
    store::{RedbDisk, Step},
};
use rustix::process::{Signal, getpid, kill_process};

/// Where in a commit it ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    /// Before a write to the file.
    Write,
    /// In it: the first half is there.
    Torn,
    /// Before a sync.
    Sync,
    /// After it, before anybody has an answer.
    Synced,
}

/// A place, and how often it is passed before.
#[derive(Debug, Clone, Copy)]
struct Fault {
    place: Place,
    after: u64,
}

impl FromStr for Fault {
    type Err = anyhow::Error;
    fn from_str(text: &str) -> anyhow::Result<Self> {
        let (place, after) = text.split_once(':').context("PLACE:NUMBER")?;
        let place = match place {
            "write" => Place::Write,
            "torn" => Place::Torn,
            "sync" => Place::Sync,
            "synced" => Place::Synced,
            _ => anyhow::bail!("write, torn, sync or synced: {place}"),
        };
        let after = after.parse().context("a number")?;
        Ok(Self { place, after })
    }
}

/// A controller for tests of what a crash leaves.
#[derive(Debug, Parser)]
#[command(
    after_help = "Example: mortal --data-dir /tmp/d --listen 127.0.0.1:9696 --hosts-listen 127.0.0.1:9697 --die sync:10"
)]
struct Arguments {
    /// Its data dir.
    #[arg(long)]
    data_dir: PathBuf,
    /// Where the API listens.
    #[arg(long)]
    listen: SocketAddr,
    /// Where hosts connect.
    #[arg(long)]
    hosts_listen: SocketAddr,
    /// Die at this place of a commit, `PLACE:NUMBER`, once the file `armed` is in the data dir.
    #[arg(long)]
    die: Option<Fault>,
}

/// The end of this process, as by `kill -9`.
fn die() {
    if let Err(error) = kill_process(getpid(), Signal::KILL) {
        tracing_free_note(&error.to_string());
    }
}

/// There is no log here: what cannot be is told where a person may see it.
fn tracing_free_note(text: &str) {
    use std::io::Write as _;
    drop(writeln!(std::io::stderr(), "still alive: {text}"));
}

fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    let config = Config {
        listen: arguments.listen,
        hosts_listen: Some(arguments.hosts_listen),
        data_dir: arguments.data_dir.clone(),
        ..Config::default()
    };
    std::fs::create_dir_all(&arguments.data_dir)?;
    let (armed, file) = (
        arguments.data_dir.join("armed"),
        arguments.data_dir.join("store.redb"),
    );
    let passed = AtomicU64::new(0);
    let hear = move |step: Step<'_>| {
        let Some(fault) = arguments.die else { return };
        let here = matches!(
            (step, fault.place),
            (Step::Write(..), Place::Write | Place::Torn)
                | (Step::Sync, Place::Sync)
                | (Step::Synced, Place::Synced)
        );
        if !here || !armed.exists() || passed.fetch_add(1, Ordering::Relaxed) < fault.after {
            return;
        }
        if let (Place::Torn, Step::Write(offset, bytes)) = (fault.place, step) {
            let half = bytes.split_at(bytes.len() / 2).0;
            let torn = OpenOptions::new().write(true).open(&file);
            if let Err(error) = torn.and_then(|file| file.write_all_at(half, offset)) {
                tracing_free_note(&error.to_string());
            }
        }
        die();
    };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    let authority = Arc::new(Authority::open(&config.data_dir)?);
    let disk = RedbDisk::open_heard(&config.data_dir, resources::decode, Box::new(hear))?;
    runtime.block_on(run_on(disk, authority, config, std::future::pending()))?;
    Ok(())
}
