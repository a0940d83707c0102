//! Is the tree fit to land?
//!
//! The steps of CI in CI's order, the fast ones first. A failing step does not stop the others, so
//! that one run tells everything; a tool that is not installed makes its step *skipped*, and the
//! summary says so.

use std::path::Path;

use clap::Args;

use crate::step::{self, Outcome, Step};
use crate::tidy;

/// The pure crates, built without their test helpers: what a dependant sees.
const PURE: &[&str] = &["net", "hostconfig", "overlay", "nfv"];

#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Leaves out documentation and licences.
    #[arg(long)]
    fast: bool,
    /// Builds all of it with the release profile: one build then serves the checks and a `cargo run --release`.
    #[arg(long)]
    release: bool,
}

/// Runs every step and prints the summary; true if none failed.
pub(crate) fn run(root: &Path, options: &Options) -> bool {
    let profile = options.release.then_some("--release");
    let mut steps = vec![
        Step::timed("fmt", || {
            step::cargo(root, &["fmt", "--all", "--check"], &[])
        }),
        Step::timed("tidy", || match tidy::run(root) {
            Ok(true) => Outcome::Passed,
            Ok(false) => Outcome::Failed,
            Err(error) => {
                eprintln!("tidy could not read the tree: {error:#}");
                Outcome::Failed
            }
        }),
        Step::timed("clippy", || {
            let mut arguments = vec!["clippy", "--workspace", "--all-targets"];
            arguments.extend(profile);
            arguments.extend(["--", "-D", "warnings"]);
            step::cargo(root, &arguments, &[])
        }),
        Step::timed("pure", || {
            let mut arguments = vec!["check"];
            arguments.extend(profile);
            arguments.extend(PURE.iter().flat_map(|name| ["-p", name]));
            step::cargo(root, &arguments, &[])
        }),
        Step::timed("gen", || {
            match crate::generate::check(root, options.release) {
                Ok(true) => Outcome::Passed,
                Ok(false) => Outcome::Failed,
                Err(error) => {
                    eprintln!("a generator failed: {error:#}");
                    Outcome::Failed
                }
            }
        }),
        Step::timed("tests", || tests(root, profile)),
        Step::timed("doctests", || {
            let mut arguments = vec!["test", "--workspace", "--doc"];
            arguments.extend(profile);
            step::cargo(root, &arguments, &[])
        }),
    ];
    if !options.fast {
        steps.push(Step::timed("docs", || {
            let mut arguments = vec!["doc", "--workspace", "--no-deps"];
            arguments.push("--document-private-items");
            arguments.extend(profile);
            step::cargo(root, &arguments, &[("RUSTDOCFLAGS", "-D warnings")])
        }));
        steps.push(Step::timed("deny", || deny(root)));
    }
    print!("{}", step::summary(&steps));
    step::all_held(&steps)
}

fn tests(root: &Path, profile: Option<&str>) -> Outcome {
    if step::has_subcommand("nextest") {
        // Two tests with namespaces run at a time and wait more than they work: another has the processor meanwhile.
        let threads = std::thread::available_parallelism().map_or(3, |cores| cores.get().max(3));
        let threads = format!("--test-threads={threads}");
        let mut arguments = vec!["nextest", "run", "--workspace", "--no-tests=warn", &threads];
        arguments.extend(profile);
        return step::cargo(root, &arguments, &[]);
    }
    println!("cargo-nextest is not installed: cargo test runs the tests instead");
    let mut arguments = vec!["test", "--workspace", "--lib", "--bins", "--tests"];
    arguments.extend(profile);
    let outcome = step::cargo(root, &arguments, &[]);
    if outcome == Outcome::Passed {
        return Outcome::Instead("by cargo test: cargo-nextest is not installed".into());
    }
    outcome
}

fn deny(root: &Path) -> Outcome {
    if step::has_subcommand("deny") {
        step::cargo(root, &["deny", "check"], &[])
    } else {
        println!("skipped: cargo-deny is not installed (cargo install --locked cargo-deny)");
        Outcome::Skipped("cargo-deny is not installed".into())
    }
}
