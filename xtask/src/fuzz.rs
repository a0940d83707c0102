//! Does any input make a parser panic?
//!
//! The package `fuzz` has the targets and what drives them. It is a process of its own, so that this door
//! builds early and fast while the targets see every crate.

use std::path::Path;

use clap::Args;

use crate::step::{self, Outcome};

#[derive(Debug, Args)]
#[command(disable_help_flag = true)]
pub(crate) struct Options {
    /// Build it optimised: for many runs.
    #[arg(long)]
    release: bool,
    /// What the package `fuzz` is told; `--help` lists it.
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    told: Vec<String>,
}

/// Drives the targets; true if none panicked.
pub(crate) fn run(root: &Path, options: &Options) -> bool {
    let mut arguments = vec!["run", "--quiet", "--package", "fuzz"];
    if options.release {
        arguments.push("--release");
    }
    arguments.push("--");
    arguments.extend(options.told.iter().map(String::as_str));
    step::cargo(root, &arguments, &[]) == Outcome::Passed
}
