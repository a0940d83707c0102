//! Which targets are driven, how often, and how did each end?
//!
//! `cargo xtask fuzz` runs it.
#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "this is a command: its answers go to the terminal"
)]

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, bail};
use clap::Parser;
use fuzz::drive::{self, Failure, regression};
use fuzz::{TARGETS, Target};

#[derive(Debug, Parser)]
#[command(
    name = "cargo xtask fuzz",
    about = "Drives the fuzz targets with a seeded mutator.",
    after_help = "Example: cargo xtask fuzz --runs 1000000 --target headers --seed 7"
)]
struct Options {
    /// Mutated inputs for each target; a slow target gets its share of them, as docs/testing.md says.
    #[arg(long, default_value_t = 100_000)]
    runs: u64,
    /// Only this target.
    #[arg(long)]
    target: Option<String>,
    /// The seed of a run to repeat; chosen and printed if absent.
    #[arg(long)]
    seed: Option<u64>,
}

fn main() -> ExitCode {
    match run(&Options::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("fuzz: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Drives the chosen targets; true if none panicked.
fn run(options: &Options) -> Result<bool> {
    let root = root()?;
    let targets = chosen(TARGETS, options.target.as_deref())?;
    let seed = options.seed.unwrap_or_else(arbitrary_seed);
    println!("fuzz: seed {seed}, {} runs a target", options.runs);
    let mut held = true;
    for target in targets {
        let saved = regression::of_target(&root, target.name)?;
        let runs = options.runs.div_ceil(target.one_in.into());
        let start = Instant::now();
        match drive::drive(target, &saved, seed, runs) {
            Ok(()) => {
                let seconds = start.elapsed().as_secs_f64().max(1e-9);
                println!("{:<16} {}", target.name, rate(runs, seconds));
            }
            Err(failure) => {
                held = false;
                report(&root, target.name, seed, &failure)?;
            }
        }
    }
    Ok(held)
}

/// The workspace's root: the parent of this package.
fn root() -> Result<PathBuf> {
    // Read when run, not when built: one target directory may serve several clones.
    let package = std::env::var_os("CARGO_MANIFEST_DIR").context("run it by cargo xtask fuzz")?;
    let root = Path::new(&package).parent().context("find the workspace")?;
    Ok(root.to_path_buf())
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::cast_precision_loss,
    reason = "a rate that a person reads; counts are far below 2^52"
)]
fn rate(runs: u64, seconds: f64) -> String {
    let each_second = (runs as f64 / seconds) as u64;
    format!("{runs} runs in {seconds:.1} s, {each_second} runs/s, no panic")
}

fn chosen<'a>(all: &'a [Target], name: Option<&str>) -> Result<Vec<&'a Target>> {
    let Some(name) = name else {
        return Ok(all.iter().collect());
    };
    if let Some(target) = all.iter().find(|target| target.name == name) {
        return Ok(vec![target]);
    }
    let names: Vec<&str> = all.iter().map(|target| target.name).collect();
    bail!(
        "no such fuzz target (targets: {}): {name}",
        names.join(", ")
    )
}

fn arbitrary_seed() -> u64 {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    since.as_secs() ^ u64::from(since.subsec_nanos())
}

fn report(root: &Path, target: &str, seed: u64, failure: &Failure) -> Result<()> {
    let place = match failure.run {
        Some(run) => format!("run {run} of seed {seed}"),
        None => "a seed or a saved regression".to_owned(),
    };
    println!("{target:<16} PANIC at {place}: {}", failure.panic);
    println!(
        "  input ({} bytes): {}",
        failure.input.len(),
        regression::to_hex(&failure.input)
    );
    let path = regression::save(root, target, &failure.input).context("save the input")?;
    println!("  saved: {path}");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_target_is_refused_with_the_known_ones() {
        let text = chosen(&TARGETS[..1], Some("header")).unwrap_err();
        assert_eq!(
            text.to_string(),
            "no such fuzz target (targets: headers): header"
        );
    }
}
