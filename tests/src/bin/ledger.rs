//! `cargo run --release -p tests --bin ledger`: a controller that is killed often, and clients that remember.

#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "this is a command: its answers go to the terminal"
)]

use std::path::PathBuf;

use anyhow::Context as _;
use clap::Parser;
use tests::ledger::{self, Wish};

/// Kills a controller in the midst of writes, and holds what is left against what its clients were told.
#[derive(Debug, Parser)]
#[command(
    name = "ledger",
    after_help = "Example: cargo build --release -p tests --bins && target/release/ledger --kills 100"
)]
struct Arguments {
    /// How often it dies.
    #[arg(long, default_value_t = 100)]
    kills: usize,
    /// Clients that write at once.
    #[arg(long, default_value_t = 32)]
    writers: usize,
    /// Ports of the network that is renumbered.
    #[arg(long, default_value_t = 500)]
    ports: usize,
    /// Says what happens; it is told when a promise is broken.
    #[arg(long)]
    seed: Option<u64>,
    /// Where the store is; the system's place for temporary files if not given.
    #[arg(long)]
    dir: Option<PathBuf>,
}

fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    let own = std::env::current_exe()?;
    let wish = Wish {
        kills: arguments.kills,
        writers: arguments.writers,
        ports: arguments.ports,
        mortal: own.parent().context("no directory")?.join("mortal"),
        dir: arguments.dir.unwrap_or_else(std::env::temp_dir),
        seed: arguments.seed.unwrap_or_else(rand::random),
    };
    println!("seed {}", wish.seed);
    let seen = ledger::run(&wish, &mut |line| eprintln!("{line}"))?;
    println!("{seen}");
    Ok(())
}
