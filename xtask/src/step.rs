//! How did each step of a check end, and how long did it take?

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

/// How one step ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Outcome {
    Passed,
    /// Passed by a second choice, with what the first would have needed.
    Instead(String),
    Failed,
    /// Not run, with what it would have needed.
    Skipped(String),
}

/// One line of the summary.
#[derive(Debug)]
pub(crate) struct Step {
    pub(crate) name: &'static str,
    pub(crate) outcome: Outcome,
    pub(crate) took: Duration,
}

impl Step {
    /// Announces `name`, does `work`, and keeps the time.
    pub(crate) fn timed(name: &'static str, work: impl FnOnce() -> Outcome) -> Self {
        println!("\n== {name}");
        let start = Instant::now();
        let outcome = work();
        Self {
            name,
            outcome,
            took: start.elapsed(),
        }
    }
}

/// Runs cargo in `root` with its output on the terminal.
pub(crate) fn cargo(root: &Path, arguments: &[&str], environment: &[(&str, &str)]) -> Outcome {
    println!("$ cargo {}", arguments.join(" "));
    let status = Command::new(cargo_path())
        .args(arguments)
        .envs(environment.iter().copied())
        .current_dir(root)
        .status();
    match status {
        Ok(status) if status.success() => Outcome::Passed,
        Ok(_) => Outcome::Failed,
        Err(error) => {
            eprintln!("cargo did not start: {error}");
            Outcome::Failed
        }
    }
}

/// The cargo that started us, so that a toolchain chosen by hand stays chosen.
pub(crate) fn cargo_path() -> std::ffi::OsString {
    std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into())
}

/// Whether a cargo subcommand is installed.
pub(crate) fn has_subcommand(name: &str) -> bool {
    Command::new(cargo_path())
        .args([name, "--version"])
        .output()
        .is_ok_and(|output| output.status.success())
}

/// The summary as a table; each step on a line, the whole time on the last.
pub(crate) fn summary(steps: &[Step]) -> String {
    use std::fmt::Write as _;
    let mut text = String::from("\nstep        outcome   time\n");
    for step in steps {
        let (word, note) = match &step.outcome {
            Outcome::Passed => ("passed", String::new()),
            Outcome::Instead(why) => ("passed", format!("  ({why})")),
            Outcome::Failed => ("FAILED", String::new()),
            Outcome::Skipped(why) => ("skipped", format!("  ({why})")),
        };
        let seconds = step.took.as_secs_f64();
        let _written = writeln!(text, "{:<12}{word:<8}{seconds:>6.1} s{note}", step.name);
    }
    let whole: Duration = steps.iter().map(|step| step.took).sum();
    let _written = writeln!(text, "{:<20}{:>6.1} s", "all", whole.as_secs_f64());
    text
}

/// True if no step failed.
pub(crate) fn all_held(steps: &[Step]) -> bool {
    steps.iter().all(|step| step.outcome != Outcome::Failed)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn step(name: &'static str, outcome: Outcome) -> Step {
        Step {
            name,
            outcome,
            took: Duration::from_millis(1500),
        }
    }

    #[test]
    fn a_skipped_step_is_named_with_its_reason_and_does_not_fail() {
        let steps = [
            step("tests", Outcome::Passed),
            step(
                "deny",
                Outcome::Skipped("cargo-deny is not installed".into()),
            ),
        ];
        let text = summary(&steps);
        assert!(
            text.contains("deny        skipped    1.5 s  (cargo-deny is not installed)"),
            "{text}"
        );
        assert!(text.contains("all                    3.0 s"), "{text}");
        assert!(all_held(&steps));
    }

    #[test]
    fn one_failed_step_fails_the_whole() {
        let steps = [step("fmt", Outcome::Failed), step("tidy", Outcome::Passed)];
        assert!(summary(&steps).contains("fmt         FAILED"));
        assert!(!all_held(&steps));
    }
}
