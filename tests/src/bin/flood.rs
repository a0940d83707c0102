//! `cargo xtask bench flood`: what a neighbour's flood does to others. Needs root.

#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "this is a command: its answers go to the terminal"
)]

use anyhow::bail;
use clap::Parser;
use std::process::ExitCode;
use tests::wire::{
    figures,
    flood::{self, Wish},
    place,
};

/// Request and response of a workload while its neighbour on the same host floods with SYNs, beside a control in which the same sender
/// floods a tap that nobody reads. Let nothing else run meanwhile. The last line says whether it held.
#[derive(Debug, Parser)]
#[command(
    name = "cargo xtask bench flood",
    after_help = "Example: cargo xtask bench flood --pairs 9 --rate 300000"
)]
struct Arguments {
    /// Rounds: one measurement beside each flood and one beside the control.
    #[arg(long, default_value_t = 9, value_parser = clap::value_parser!(u16).range(1..=1000))]
    pairs: u16,
    /// Seconds of a measurement, 1 to 60.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..=60))]
    seconds: u16,
    /// SYNs a second, 1,000 to 2,000,000.
    #[arg(long, default_value_t = 300_000, value_parser = clap::value_parser!(u32).range(1_000..=2_000_000))]
    rate: u32,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    place::guarded(move || measure(&arguments))
}

fn measure(arguments: &Arguments) -> anyhow::Result<()> {
    let wish = Wish {
        pairs: arguments.pairs.into(),
        seconds: arguments.seconds.into(),
        rate: arguments.rate.into(),
    };
    let report = flood::run(wish, &mut |line| eprintln!("{line}"))?;
    print!("{}", figures::table(&report.series));
    println!("\ndropped, by host, reason and port:");
    for line in &report.drops {
        println!("  {line}");
    }
    if report.broken.is_empty() {
        println!("held: nobody else was slowed or lost anything");
        return Ok(());
    }
    for line in &report.broken {
        println!("broken: {line}");
    }
    bail!("it did not hold");
}
