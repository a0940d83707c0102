//! `cargo xtask bench wire`: the systems of [`tests::wire`] side by side on this machine. Needs root.

#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "this is a command: its answers go to the terminal"
)]

use anyhow::{Context as _, bail};
use clap::Parser;
use serde_json::json;
use std::{path::PathBuf, process::ExitCode};
use tests::wire::{self, Sitting, figures, place, system::Wanted, work::Work};

/// Measures systems side by side between two namespaces over VXLAN; let nothing else run meanwhile.
///
/// A system is `overweave`, `kernel`, `ovs`, `ovs-ct` or `repeater`, with any of `+v6` (IPv6 inside), `+outer6` (IPv6 underlay), `+jumbo` (underlay of
/// 9,000 bytes), `+chain` (firewall, load balancer and shaper; overweave), `+local` (one host), and for overweave `+uplink=tap` or any other
/// setting of its switch. The first system is compared with each other.
#[derive(Debug, Parser)]
#[command(
    name = "cargo xtask bench wire",
    after_help = "Example: cargo xtask bench wire overweave ovs kernel --works tcp,rr"
)]
struct Arguments {
    /// The systems.
    #[arg(default_values = ["overweave", "kernel", "ovs", "repeater"])]
    systems: Vec<Wanted>,
    /// tcp, tcpN, udp, rr (request, response), crr (connect, request, response, close).
    #[arg(long, value_delimiter = ',', default_value = "tcp,tcp8,udp,rr,crr")]
    works: Vec<Work>,
    /// Runs of each system, alternating.
    #[arg(long, default_value_t = 9)]
    pairs: usize,
    /// Seconds of a run.
    #[arg(long, default_value_t = 2.0)]
    seconds: f64,
    /// Write the result there too, as JSON.
    #[arg(long)]
    json: Option<PathBuf>,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    place::guarded(move || measure(&arguments))
}

fn measure(arguments: &Arguments) -> anyhow::Result<()> {
    if arguments.pairs == 0 || !(0.1..=3600.0).contains(&arguments.seconds) {
        bail!("--pairs must be at least 1, --seconds 0.1 to 3600");
    }
    let sitting = Sitting {
        systems: arguments.systems.clone(),
        works: arguments.works.clone(),
        rounds: arguments.pairs,
        seconds: arguments.seconds,
    };
    let series = wire::run(&sitting, &mut |line| eprintln!("{line}"))?;
    print!("{}", figures::table(&series));
    if let Some(path) = &arguments.json {
        let document = json!({"machine": figures::machine(), "series": figures::document(&series)});
        let text = serde_json::to_string_pretty(&document)?;
        std::fs::write(path, text + "\n").with_context(|| format!("write {}", path.display()))?;
    }
    Ok(())
}
