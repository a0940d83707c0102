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
}

/// Runs every step and prints the summary; true if none failed.
pub(crate) fn run(root: &Path, options: &Options) -> bool {
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
            step::cargo(
                root,
                &[
                    "clippy",
                    "--workspace",
                    "--all-targets",
                    "--",
                    "-D",
                    "warnings",
                ],
                &[],
            )
        }),
        Step::timed("pure", || {
            let mut arguments = vec!["check"];
            arguments.extend(PURE.iter().flat_map(|name| ["-p", name]));
            step::cargo(root, &arguments, &[])
        }),
        Step::timed("gen", || match crate::generate::check(root) {
            Ok(true) => Outcome::Passed,
            Ok(false) => Outcome::Failed,
            Err(error) => {
                eprintln!("a generator failed: {error:#}");
                Outcome::Failed
            }
        }),
        Step::timed("tests", || tests(root)),
        Step::timed("doctests", || {
            step::cargo(root, &["test", "--workspace", "--doc"], &[])
        }),
    ];
    if !options.fast {
        steps.push(Step::timed("docs", || {
            let arguments = [
                "doc",
                "--workspace",
                "--no-deps",
                "--document-private-items",
            ];
            step::cargo(root, &arguments, &[("RUSTDOCFLAGS", "-D warnings")])
        }));
        steps.push(Step::timed("deny", || deny(root)));
    }
    print!("{}", step::summary(&steps));
    step::all_held(&steps)
}

fn tests(root: &Path) -> Outcome {
    if step::has_subcommand("nextest") {
        return step::cargo(
            root,
            &["nextest", "run", "--workspace", "--no-tests=warn"],
            &[],
        );
    }
    println!("cargo-nextest is not installed: cargo test runs the tests instead");
    let arguments = ["test", "--workspace", "--lib", "--bins", "--tests"];
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
