//! Does any input make a target panic?
//!
//! Seeds in, mutated inputs through the target, a panic caught, reduced, and told. A run is named by
//! its seed: the same seed and target give the same inputs. It needs nothing but the stable
//! toolchain.

mod mutate;
mod random;
mod reduce;
pub mod regression;

use std::cell::RefCell;
use std::panic::{self, AssertUnwindSafe};
use std::sync::Once;

use crate::Target;
use mutate::Mutator;
use random::Random;

/// An input that made a target panic.
#[derive(Debug, PartialEq, Eq)]
pub struct Failure {
    /// The mutated run, from 0; none for a seed or a saved regression.
    pub run: Option<u64>,
    /// The input, reduced.
    pub input: Vec<u8>,
    /// The panic's message and place.
    pub panic: String,
}

/// Saved inputs and the target's seeds as they are, then `runs` mutated ones.
///
/// # Errors
/// The first input that made it panic.
pub fn drive(target: &Target, saved: &[Vec<u8>], seed: u64, runs: u64) -> Result<(), Failure> {
    quiet_panics(|| all(target, saved, seed, runs))
}

fn all(target: &Target, saved: &[Vec<u8>], seed: u64, runs: u64) -> Result<(), Failure> {
    let function = target.function;
    let mut corpus = (target.seeds)();
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

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::TARGETS;

    const PANICS: Target = Target {
        name: "none",
        function: panics_on_magic,
        seeds: Vec::new,
        one_in: 1,
    };

    fn panics_on_magic(bytes: &[u8]) {
        let magic = bytes.first() == Some(&0xff);
        assert!(!magic, "magic");
    }

    #[test]
    fn a_panicking_target_is_caught_reduced_and_told() {
        let failure = drive(&PANICS, &[], 1, 100_000).unwrap_err();
        assert_eq!(failure.input, [0xff]);
        assert!(failure.panic.contains("magic"), "{}", failure.panic);
        assert!(failure.run.is_some());
    }

    #[test]
    fn the_same_seed_finds_the_same_input() {
        let once = || drive(&PANICS, &[], 42, 100_000);
        assert_eq!(once(), once());
    }

    #[test]
    fn a_saved_regression_is_replayed_before_any_mutation() {
        let saved = [vec![0xff, 2, 3]];
        let failure = drive(&PANICS, &saved, 1, 0).unwrap_err();
        assert_eq!(failure.run, None);
        assert_eq!(failure.input, saved[0]);
    }

    #[test]
    fn every_saved_regression_holds() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
        for target in TARGETS {
            for input in regression::of_target(root, target.name).unwrap() {
                (target.function)(&input);
            }
        }
    }

    #[test]
    fn every_target_survives_a_short_run() {
        for target in TARGETS {
            let runs = u64::from(2_000 / target.one_in);
            assert_eq!(drive(target, &[], 1, runs), Ok(()), "{}", target.name);
        }
    }
}
