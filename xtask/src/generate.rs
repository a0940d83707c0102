//! Which files are written by the program, and are they fresh?
//!
//! A generated file is committed, so that it can be read and reviewed; its source is a program that
//! prints it. A line of [`GENERATORS`] names both. A line whose program is not in the tree is not
//! listed: there is no generator that does nothing.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};
use clap::Args;

use crate::step;

#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Writes nothing; fails if a file is not what its generator prints.
    #[arg(long)]
    check: bool,
    /// Builds the generators with the release profile.
    #[arg(long)]
    release: bool,
}

/// A committed file, and the arguments of the `cargo run` that prints it.
struct Generator {
    file: &'static str,
    run: &'static [&'static str],
}

impl Generator {
    const fn new(file: &'static str, run: &'static [&'static str]) -> Self {
        Self { file, run }
    }
}

/// Every generated file of the tree. What prints them is a hidden verb of the command: it has all tables in it.
const GENERATORS: &[Generator] = &[
    Generator::new(
        "controller/openapi.json",
        &["-p", "cli", "--", "generate", "openapi"],
    ),
    Generator::new("docs/cli.md", &["-p", "cli", "--", "generate", "cli"]),
    Generator::new(
        "docs/metrics.md",
        &["-p", "cli", "--", "generate", "metrics"],
    ),
];

/// Writes or checks every generated file; true if all are now, or were, fresh.
pub(crate) fn run(root: &Path, options: &Options) -> Result<bool> {
    if options.check {
        return check(root, options.release);
    }
    for generator in GENERATORS {
        let text = print(root, generator, options.release)?;
        let path = root.join(generator.file);
        std::fs::write(&path, text).with_context(|| format!("write {}", generator.file))?;
        println!("wrote {}", generator.file);
    }
    told_count();
    Ok(true)
}

/// True if every generated file is what its generator prints.
pub(crate) fn check(root: &Path, release: bool) -> Result<bool> {
    let mut fresh = true;
    for generator in GENERATORS {
        let expected = print(root, generator, release)?;
        let found = std::fs::read_to_string(root.join(generator.file)).unwrap_or_default();
        if let Some(line) = first_difference(&found, &expected) {
            println!(
                "{}:{line}: is not fresh; run `cargo xtask gen`",
                generator.file
            );
            fresh = false;
        }
    }
    told_count();
    Ok(fresh)
}

fn told_count() {
    println!("gen: {} generated files", GENERATORS.len());
}

fn print(root: &Path, generator: &Generator, release: bool) -> Result<String> {
    let output = Command::new(step::cargo_path())
        .args(["run", "--quiet"])
        .args(release.then_some("--release"))
        .args(generator.run)
        .current_dir(root)
        .output()
        .with_context(|| format!("run the generator of {}", generator.file))?;
    if !output.status.success() {
        bail!(
            "{}: {}",
            generator.file,
            String::from_utf8_lossy(&output.stderr).trim()
        );
    }
    String::from_utf8(output.stdout).with_context(|| format!("read {} as text", generator.file))
}

/// The first line (from 1) in which two texts differ.
fn first_difference(found: &str, expected: &str) -> Option<usize> {
    if found == expected {
        return None;
    }
    let same = found
        .lines()
        .zip(expected.lines())
        .take_while(|(left, right)| left == right);
    Some(same.count() + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stale_file_is_named_at_its_first_difference() {
        assert_eq!(first_difference("a\nb\n", "a\nb\n"), None);
        assert_eq!(first_difference("a\nb\n", "a\nc\n"), Some(2));
        assert_eq!(first_difference("", "a\n"), Some(1));
        assert_eq!(first_difference("a", "a\n"), Some(2));
    }
}
