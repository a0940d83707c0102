//! `cargo run --release -p tests --bin churn`: many clients, few addresses.

#![expect(
    clippy::print_stdout,
    reason = "this is a command: its answers go to the terminal"
)]

use std::{path::PathBuf, time::Duration};

use clap::Parser;
use tests::churn;

/// Clients race for the addresses of two /28s, a router among them; then for the last of them, and for the last of a quota.
#[derive(Debug, Parser)]
#[command(
    name = "churn",
    after_help = "Example: cargo run --release -p tests --bin churn -- --seconds 60"
)]
struct Arguments {
    /// For how long.
    #[arg(long, default_value_t = 60)]
    seconds: u64,
    /// Clients at once.
    #[arg(long, default_value_t = 32)]
    clients: usize,
    /// Where the store is; the system's place for temporary files if not given.
    #[arg(long)]
    dir: Option<PathBuf>,
}

fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    let dir = arguments.dir.unwrap_or_else(std::env::temp_dir);
    let time = Duration::from_secs(arguments.seconds);
    println!("{}", churn::run(&dir, arguments.clients, time)?);
    Ok(())
}
