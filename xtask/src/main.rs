//! What does a developer type?
//!
//! `cargo xtask` is the one door: everything that CI runs, a developer runs with the same words and
//! with nothing to install first. Each verb is one module; `check` is the one to run before a
//! commit.
#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "this is a command: its answers go to the terminal"
)]

mod bench;
mod check;
mod fuzz;
mod generate;
mod house;
mod step;
mod tidy;

use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};

/// The developer's door of overweave.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", after_help = "Example: cargo xtask check --fast")]
struct Arguments {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Runs what CI runs: formatting, tidy, lints, tests, documentation, licences.
    Check(check::Options),
    /// Reads the tree for what the compiler cannot see: arrows, doors, headers, paths.
    Tidy,
    /// Drives the fuzz targets with a seeded mutator.
    Fuzz(fuzz::Options),
    /// Runs the criterion benches and prints their medians.
    Bench(bench::Options),
    /// Writes the generated files, or checks that they are fresh.
    Gen(generate::Options),
}

fn main() -> ExitCode {
    match run(&Arguments::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Runs one verb; true if all that it looked at was well.
fn run(arguments: &Arguments) -> Result<bool> {
    let root = house::root()?;
    match &arguments.verb {
        Verb::Check(options) => Ok(check::run(&root, options)),
        Verb::Tidy => tidy::run(&root),
        Verb::Fuzz(options) => Ok(fuzz::run(&root, options)),
        Verb::Bench(options) => bench::run(&root, options),
        Verb::Gen(options) => generate::run(&root, options),
    }
}
