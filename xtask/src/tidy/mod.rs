//! What is out of its room?
//!
//! `tidy` reads the tree for what the compiler cannot see. What it *refuses* breaks a promise of
//! the architecture; what it *tells* is a smell to look at, and fails nothing. Each rule is a
//! function from one file (or from all manifests) to findings, with a failing example in its tests.

mod arrows;
mod headers;
mod links;
mod machine;
mod parsers;
mod purity;
mod size;
mod source;
mod stubs;
mod unsafety;
mod words;

use std::fmt;
use std::path::Path;

use anyhow::{Context, Result};

use crate::house;
use source::Source;

/// One thing that a rule saw.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Finding {
    path: String,
    /// From 1; 0 speaks of the whole file.
    line: usize,
    text: String,
}

impl Finding {
    fn new(path: &str, line: usize, text: impl Into<String>) -> Self {
        Self {
            path: path.to_owned(),
            line,
            text: text.into(),
        }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            0 => write!(out, "{}: {}", self.path, self.text),
            line => write!(out, "{}:{line}: {}", self.path, self.text),
        }
    }
}

/// One file of the tree.
#[derive(Debug)]
struct File {
    path: String,
    text: String,
}

/// Rules over one Rust source file that refuse.
const REFUSING: &[fn(&Source) -> Vec<Finding>] = &[
    headers::module_header,
    headers::reasons,
    parsers::doors,
    unsafety::rooms,
    stubs::left_for_later,
];

/// Rules over one Rust source file that only tell.
const TELLING: &[fn(&Source) -> Vec<Finding>] = &[size::full_rooms, words::unspoken];

/// Reads the tree, prints the findings; true if nothing is refused.
pub(crate) fn run(root: &Path) -> Result<bool> {
    let mut files = Vec::new();
    for path in house::files(root)? {
        let bytes = std::fs::read(root.join(&path)).with_context(|| format!("read {path}"))?;
        // A file that is not text has no words and no paths to look for.
        if let Ok(text) = String::from_utf8(bytes) {
            files.push(File { path, text });
        }
    }
    let (refused, told) = judge(&files)?;
    for finding in &told {
        println!("tells    {finding}");
    }
    for finding in &refused {
        println!("REFUSES  {finding}");
    }
    println!(
        "tidy: {} files, {} refused, {} told",
        files.len(),
        refused.len(),
        told.len()
    );
    Ok(refused.is_empty())
}

fn judge(files: &[File]) -> Result<(Vec<Finding>, Vec<Finding>)> {
    let mut refused = arrows::undrawn(files)?;
    refused.extend(arrows::beyond_the_catalogue(files));
    refused.extend(purity::bans(files)?);
    refused.extend(files.iter().flat_map(machine::places));
    let mut told = Vec::new();
    for file in files.iter().filter(|file| has_extension(&file.path, "rs")) {
        let source = Source::read(&file.path, &file.text);
        refused.extend(REFUSING.iter().flat_map(|rule| rule(&source)));
        told.extend(TELLING.iter().flat_map(|rule| rule(&source)));
    }
    refused.extend(unsafety::forbidden(files));
    refused.extend(links::dead(files));
    Ok((refused, told))
}

fn has_extension(path: &str, extension: &str) -> bool {
    Path::new(path)
        .extension()
        .is_some_and(|found| found == extension)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_finding_prints_as_a_place_that_an_editor_opens() {
        assert_eq!(
            Finding::new("net/src/mac.rs", 7, "why").to_string(),
            "net/src/mac.rs:7: why"
        );
        assert_eq!(
            Finding::new("deny.toml", 0, "why").to_string(),
            "deny.toml: why"
        );
    }
}
