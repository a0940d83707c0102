//! `cargo xtask bench soak`: one overweave fabric under mixed traffic and churn for minutes. Needs root.

#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "this is a command: its answers go to the terminal"
)]

use anyhow::bail;
use clap::Parser;
use std::{process::ExitCode, time::Duration};
use tests::wire::{place, soak};

/// Mixed traffic with and without a chain, while rules and chains come and go: memory must stay flat, each segment be accounted for, and no
/// connection fail. The last line says whether it held.
#[derive(Debug, Parser)]
#[command(
    name = "cargo xtask bench soak",
    after_help = "Example: cargo xtask bench soak --minutes 10"
)]
struct Arguments {
    /// For how long, 1 to 1440.
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=1440))]
    minutes: u64,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    place::guarded(move || measure(&arguments))
}

fn measure(arguments: &Arguments) -> anyhow::Result<()> {
    let time = Duration::from_secs(60 * arguments.minutes);
    let report = soak::run(time, &mut |line| eprintln!("{line}"))?;
    println!(
        "{} rounds, {} rules and {} chains came and went",
        report.rounds, report.rules, report.chains
    );
    for (name, kib) in &report.memory {
        println!("{name}: KiB of its own after each round: {kib:?}");
    }
    for line in &report.drops {
        println!("{line}");
    }
    if report.broken.is_empty() {
        println!("held: memory flat, each segment accounted for, no connection failed");
        return Ok(());
    }
    for line in &report.broken {
        println!("broken: {line}");
    }
    bail!("it did not hold");
}
