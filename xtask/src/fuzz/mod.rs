//! Does any input make a parser panic?
//!
//! Every parser of bytes from a network is a `fn(&[u8])` of the `fuzz` package. This drives them on
//! the stable toolchain: seeds in, mutated inputs through the target, a panic caught, reduced,
//! printed and saved under `tests/regressions/`, where it is replayed first ever after. A run is
//! named by its seed: the same seed and targets give the same inputs.

mod mutate;
mod random;
mod reduce;
mod regression;

use std::cell::RefCell;
use std::panic::{self, AssertUnwindSafe};
use std::path::Path;
use std::sync::Once;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, bail};
use clap::Args;

use mutate::Mutator;
use random::Random;

#[derive(Debug, Args)]
#[command(after_help = "Example: cargo xtask fuzz --runs 1000000 --target headers --seed 7")]
pub(crate) struct Options {
    /// Mutated inputs for each target.
    #[arg(long, default_value_t = 100_000)]
    runs: u64,
    /// Only this target.
    #[arg(long)]
    target: Option<String>,
    /// The seed of a run to repeat; chosen and printed if absent.
    #[arg(long)]
    seed: Option<u64>,
}

/// A target: its name and its function.
type Target = (&'static str, fn(&[u8]));

/// Drives the chosen targets; true if none panicked.
pub(crate) fn run(root: &Path, options: &Options) -> Result<bool> {
    let targets = chosen(fuzz::TARGETS, options.target.as_deref())?;
    if targets.is_empty() {
        println!("fuzz: no targets yet");
        return Ok(true);
    }
    let seed = options.seed.unwrap_or_else(arbitrary_seed);
    println!("fuzz: seed {seed}, {} runs a target", options.runs);
    let mut held = true;
    quiet_panics(|| -> Result<()> {
        for target in targets {
            let saved = regression::of_target(root, target.0)?;
            let start = Instant::now();
            match drive(target, &saved, seed, options.runs) {
                Ok(()) => {
                    let seconds = start.elapsed().as_secs_f64().max(1e-9);
                    println!("{:<16} {}", target.0, rate(options.runs, seconds));
                }
                Err(failure) => {
                    held = false;
                    report(root, target.0, seed, &failure)?;
                }
            }
        }
        Ok(())
    })?;
    Ok(held)
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

fn chosen(all: &[Target], name: Option<&str>) -> Result<Vec<Target>> {
    let Some(name) = name else {
        return Ok(all.to_vec());
    };
    if let Some(target) = all.iter().find(|(target, _)| *target == name) {
        return Ok(vec![*target]);
    }
    let names: Vec<&str> = all.iter().map(|(target, _)| *target).collect();
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

/// An input that made a target panic.
#[derive(Debug, PartialEq, Eq)]
struct Failure {
    /// The mutated run, from 0; none for a seed or a saved regression.
    run: Option<u64>,
    input: Vec<u8>,
    /// The panic's message and place.
    panic: String,
}

/// Saved inputs first, then the target's seeds as they are, then `runs` mutated ones.
fn drive(target: Target, saved: &[Vec<u8>], seed: u64, runs: u64) -> Result<(), Failure> {
    let (name, function) = target;
    let mut corpus = fuzz::seeds(name);
    corpus.extend_from_slice(saved);
    for input in &corpus {
        attempt(function, input).map_err(|panic| Failure {
            run: None,
            input: input.clone(),
            panic,
        })?;
    }
    let mut mutator = Mutator::new(corpus);
    let mut input = Vec::new();
    for run in 0..runs {
        mutator.next_into(&mut Random::for_run(seed, run), &mut input);
        if let Err(panic) = attempt(function, &input) {
            let input = reduce::reduced(&input, |smaller| attempt(function, smaller).is_err());
            return Err(Failure {
                run: Some(run),
                input,
                panic,
            });
        }
    }
    Ok(())
}

thread_local! {
    /// Whether panics of this thread are noted here instead of printed, and what the last one said.
    static NOTED: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// Runs `function` on `input`; the panic's text if it panicked.
fn attempt(function: fn(&[u8]), input: &[u8]) -> Result<(), String> {
    panic::catch_unwind(AssertUnwindSafe(|| function(input)))
        .map_err(|_payload| NOTED.with_borrow(|noted| noted.clone().unwrap_or_default()))
}

/// Does `work` with this thread's panics noted, not printed: a reduction panics a thousand times.
/// The hook is of the process, so it is set once, and looks at the thread that panics.
fn quiet_panics<T>(work: impl FnOnce() -> T) -> T {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let before = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            let text = info.to_string().replace('\n', " ");
            let noted = NOTED.with_borrow_mut(|noted| noted.as_mut().map(|last| *last = text));
            if noted.is_none() {
                before(info);
            }
        }));
    });
    NOTED.set(Some(String::new()));
    let done = work();
    NOTED.set(None);
    done
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

    fn panics_on_magic(bytes: &[u8]) {
        let magic = bytes.first() == Some(&0xff);
        assert!(!magic, "magic");
    }

    #[test]
    fn a_panicking_target_is_caught_reduced_and_told() {
        let failure =
            quiet_panics(|| drive(("none", panics_on_magic), &[], 1, 100_000)).unwrap_err();
        assert_eq!(failure.input, [0xff]);
        assert!(failure.panic.contains("magic"), "{}", failure.panic);
        assert!(failure.run.is_some());
    }

    #[test]
    fn the_same_seed_finds_the_same_input() {
        let once = || quiet_panics(|| drive(("none", panics_on_magic), &[], 42, 100_000));
        assert_eq!(once(), once());
    }

    #[test]
    fn a_saved_regression_is_replayed_before_any_mutation() {
        let saved = [vec![0xff, 2, 3]];
        let failure = quiet_panics(|| drive(("none", panics_on_magic), &saved, 1, 0)).unwrap_err();
        assert_eq!(failure.run, None);
        assert_eq!(failure.input, saved[0]);
    }

    #[test]
    fn an_unknown_target_is_refused_with_the_known_ones() {
        let all: &[Target] = &[("headers", panics_on_magic)];
        let text = chosen(all, Some("header")).unwrap_err().to_string();
        assert_eq!(text, "no such fuzz target (targets: headers): header");
    }

    #[test]
    fn every_saved_regression_holds() {
        let root = crate::house::root().unwrap();
        for (name, function) in fuzz::TARGETS {
            for input in regression::of_target(&root, name).unwrap() {
                function(&input);
            }
        }
    }

    #[test]
    fn every_target_has_seeds_and_survives_a_short_run() {
        for target in fuzz::TARGETS {
            assert!(
                !fuzz::seeds(target.0).is_empty(),
                "{} has no seeds",
                target.0
            );
            assert_eq!(drive(*target, &[], 1, 2_000), Ok(()), "{}", target.0);
        }
    }
}
