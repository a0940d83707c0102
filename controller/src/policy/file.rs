//! What did the operator change?
//!
//! The policy file and the files of a policy folder, in the order of their names; a later one's rule stands for an earlier one's. YAML, of which JSON
//! is a part.

use super::{
    check::{BadCheck, Check},
    names,
};
use serde_norway::Value as Yaml;
use std::{
    collections::BTreeMap,
    io,
    path::{Path, PathBuf},
    time::SystemTime,
};

/// Bytes of a file that are read: hundreds of times what a file of all rules has.
const LARGEST: u64 = 4 << 20;

/// Where the changes are.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Files {
    /// The file.
    pub file: Option<PathBuf>,
    /// The folder.
    pub dir: Option<PathBuf>,
}

/// Why files of policies are not used.
#[derive(Debug, thiserror::Error)]
pub enum PolicyError {
    /// A file cannot be read.
    #[error("cannot read {path}: {source}")]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A file is too large to be one.
    #[error("{path}: more than {LARGEST} bytes")]
    Large {
        /// The file.
        path: PathBuf,
    },
    /// It is no YAML, or not of names and rules.
    #[error("{path}:{line}: {reason}")]
    Syntax {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
        /// What is wrong.
        reason: String,
    },
    /// A rule is none.
    #[error("{path}:{line}: rule '{rule}': {reason}")]
    Rule {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
        /// Its name.
        rule: String,
        /// What is wrong.
        reason: String,
    },
}

/// A rule of a file.
#[derive(Debug, Clone)]
pub(super) struct Given {
    pub(super) check: Check,
    pub(super) path: PathBuf,
    pub(super) line: usize,
}

impl Given {
    pub(super) fn wrong(&self, rule: &str, reason: impl Into<String>) -> PolicyError {
        PolicyError::Rule {
            path: self.path.clone(),
            line: self.line,
            rule: rule.to_owned(),
            reason: reason.into(),
        }
    }
}

/// How a file was when it was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Mark(PathBuf, Option<(SystemTime, u64)>);

impl Files {
    /// Is there anything to read?
    pub const fn is_empty(&self) -> bool {
        self.file.is_none() && self.dir.is_none()
    }

    /// The files, as they are now.
    pub(super) fn paths(&self) -> Result<Vec<PathBuf>, PolicyError> {
        let mut paths: Vec<PathBuf> = self.file.iter().cloned().collect();
        if let Some(dir) = &self.dir {
            let unread = |source| PolicyError::File {
                path: dir.clone(),
                source,
            };
            let mut found = Vec::new();
            for entry in std::fs::read_dir(dir).map_err(unread)? {
                let path = entry.map_err(unread)?.path();
                let kind = path.extension().and_then(|kind| kind.to_str());
                if matches!(kind, Some("yaml" | "yml" | "json")) {
                    found.push(path);
                }
            }
            found.sort();
            paths.extend(found);
        }
        Ok(paths)
    }

    /// By what a change of them is seen.
    pub(super) fn marks(&self) -> Vec<Mark> {
        let mark = |path: PathBuf| {
            let of = std::fs::metadata(&path).ok();
            let of = of.and_then(|of| Some((of.modified().ok()?, of.len())));
            Mark(path, of)
        };
        let mut paths = self.paths().unwrap_or_default();
        paths.extend(self.dir.clone());
        paths.into_iter().map(mark).collect()
    }

    /// All rules of them.
    pub(super) fn read(&self) -> Result<BTreeMap<String, Given>, PolicyError> {
        let mut rules = BTreeMap::new();
        for path in self.paths()? {
            let unread = |source| PolicyError::File {
                path: path.clone(),
                source,
            };
            let size = std::fs::metadata(&path).map_err(unread)?.len();
            if size > LARGEST {
                return Err(PolicyError::Large { path });
            }
            let text = std::fs::read_to_string(&path).map_err(unread)?;
            rules.extend(parse(&text, &path)?);
        }
        Ok(rules)
    }
}

/// The rules of a text.
pub(super) fn parse(text: &str, path: &Path) -> Result<BTreeMap<String, Given>, PolicyError> {
    let syntax = |line: usize, reason: String| PolicyError::Syntax {
        path: path.to_owned(),
        line,
        reason: reason.replace('\n', " "),
    };
    let whole: Yaml = serde_norway::from_str(text).map_err(|error| {
        let line = error.location().map_or(1, |at| at.line());
        syntax(line, error.to_string())
    })?;
    if whole.is_null() {
        return Ok(BTreeMap::new());
    }
    let Yaml::Mapping(rules) = whole else {
        return Err(syntax(1, "not a mapping of names to rules".to_owned()));
    };
    let mut given = BTreeMap::new();
    for (name, rule) in rules {
        let Yaml::String(name) = name else {
            return Err(syntax(1, format!("a rule's name is no text: {name:?}")));
        };
        let line = line_of(text, &name);
        let wrong = |reason: String| PolicyError::Rule {
            path: path.to_owned(),
            line,
            rule: name.clone(),
            reason,
        };
        let check = match (rule.as_str(), rule.as_sequence()) {
            (Some(text), _) => Check::parse(text, &names::has_field),
            (None, Some(any)) => listed(any),
            (None, None) => return Err(wrong("not a text".to_owned())),
        };
        let check = check.map_err(|error| wrong(error.to_string()))?;
        let path = path.to_owned();
        given.insert(name, Given { check, path, line });
    }
    Ok(given)
}

/// The old form: a list of alternatives, each a list of what must hold together, or one text.
fn listed(any: &[Yaml]) -> Result<Check, BadCheck> {
    let one = |item: &Yaml| match item.as_str() {
        Some(text) => Check::parse(text, &names::has_field),
        None => Err(BadCheck::Shape(format!("{item:?}"))),
    };
    if any.is_empty() {
        return Ok(Check::Always);
    }
    let all = |item: &Yaml| match item.as_sequence() {
        Some(all) => all
            .iter()
            .map(one)
            .collect::<Result<_, _>>()
            .map(Check::All),
        None => one(item),
    };
    any.iter()
        .map(all)
        .collect::<Result<_, _>>()
        .map(Check::Any)
}

/// The line on which a name is a key, from 1.
fn line_of(text: &str, name: &str) -> usize {
    let quotes = ['"', '\''];
    let is_key = |line: &str| {
        let line = line.trim_start().trim_start_matches(['{', ',', ' ']);
        let rest = line.trim_start_matches(quotes).strip_prefix(name);
        let rest = rest.map(|rest| rest.trim_start_matches(quotes).trim_start());
        rest.and_then(|rest| rest.strip_prefix(':'))
            .is_some_and(|rest| rest.is_empty() || rest.starts_with([' ', '\t', '"']))
    };
    text.lines().position(is_key).map_or(1, |at| at + 1)
}
