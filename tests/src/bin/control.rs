//! `cargo xtask bench control`: how the control plane bears a region.

#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "this is a command: its answers go to the terminal"
)]

use anyhow::{Context as _, bail};
use clap::Parser;
use serde_json::json;
use std::path::PathBuf;
use tests::{
    scale::{self, Wish},
    wire::figures,
};

/// A controller on a disk that syncs, asked over HTTP on loopback: ports made one by one, by 32 clients and in bulk, lists, also under policies of a
/// file, and what hosts hear of single changes. Clients and simulated hosts share the machine with it: let nothing else run meanwhile.
#[derive(Debug, Parser)]
#[command(
    name = "cargo xtask bench control",
    after_help = "Example: cargo xtask bench control --ports 20000 --networks 400 --hosts 200"
)]
struct Arguments {
    /// Ports of the full region, at least 10,100.
    #[arg(long, default_value_t = 100_000, value_parser = clap::value_parser!(u32).range(10_100..=1_000_000))]
    ports: u32,
    /// Networks that they are on.
    #[arg(long, default_value_t = 2_000, value_parser = clap::value_parser!(u32).range(1..=60_000))]
    networks: u32,
    /// Hosts that they are on.
    #[arg(long, default_value_t = 1_000, value_parser = clap::value_parser!(u32).range(1..=60_000))]
    hosts: u32,
    /// Requests of each work.
    #[arg(long, default_value_t = 1_000, value_parser = clap::value_parser!(u32).range(100..=10_000))]
    requests: u32,
    /// Where the store is made; the system's place for temporary files if not given.
    #[arg(long)]
    dir: Option<PathBuf>,
    /// Write the result there too, as JSON.
    #[arg(long)]
    json: Option<PathBuf>,
}

fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    let count = |number: u32| usize::try_from(number).context("too large for this machine");
    let wish = Wish {
        ports: count(arguments.ports)?,
        listed: 10_000,
        networks: count(arguments.networks)?,
        hosts: count(arguments.hosts)?,
        requests: count(arguments.requests)?,
        dir: arguments.dir.unwrap_or_else(std::env::temp_dir),
    };
    let machine = figures::machine();
    let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    println!("{machine}, load before {}", load.trim());
    let figures = scale::run(&wish, &mut |line| eprintln!("{line}"))?;
    print!("{}", scale::table(&figures));
    if let Some(path) = &arguments.json {
        let document =
            json!({"machine": machine, "load": load.trim(), "figures": scale::document(&figures)});
        let text = serde_json::to_string_pretty(&document)?;
        std::fs::write(path, text + "\n").with_context(|| format!("write {}", path.display()))?;
    }
    let misses = figures.iter().filter(|one| one.holds() == Some(false));
    match misses.count() {
        0 => Ok(()),
        misses => bail!("{misses} figures are not as wanted"),
    }
}
