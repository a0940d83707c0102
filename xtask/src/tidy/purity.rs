//! Do the pure crates still ban clocks, sockets, threads, locks and files?
//!
//! A `clippy.toml` inside a crate replaces the root's, it is not merged with it. So each pure crate
//! holds the root's settings and the bans on top; this compares them, so that neither half is
//! forgotten when the other changes.

use anyhow::{Context, Result};
use toml::{Table, Value};

use super::arrows::PURE;
use super::{File, Finding};

/// What a pure crate must at least ban.
const BANNED: &[&str] = &[
    "std::time::Instant::now",
    "std::time::SystemTime::now",
    "std::thread::spawn",
    "std::fs::read",
    "std::fs::write",
    "std::fs::File::open",
    "std::sync::Mutex",
    "std::sync::RwLock",
    "std::net::UdpSocket",
    "std::net::TcpStream",
    "std::net::TcpListener",
];

/// Refuses a pure crate's `clippy.toml` that lacks something of the root's, a ban, or that differs
/// from its siblings.
pub(super) fn bans(files: &[File]) -> Result<Vec<Finding>> {
    let text = |path: &str| {
        files
            .iter()
            .find(|file| file.path == path)
            .map(|file| file.text.as_str())
    };
    let Some(root) = text("clippy.toml") else {
        return Ok(vec![Finding::new("clippy.toml", 0, "is missing")]);
    };
    let root: Table = root.parse().context("parse clippy.toml")?;
    let first = PURE
        .first()
        .map(|name| format!("{name}/clippy.toml"))
        .unwrap_or_default();
    let mut found = Vec::new();
    for name in PURE {
        let path = format!("{name}/clippy.toml");
        let Some(own) = text(&path) else {
            found.push(Finding::new(
                &path,
                0,
                "is missing: a pure crate has its own bans",
            ));
            continue;
        };
        let table: Table = own.parse().with_context(|| format!("parse {path}"))?;
        for (key, value) in &root {
            if !table.get(key).is_some_and(|mine| covers(mine, value)) {
                found.push(Finding::new(&path, 0, format!("lacks the root's `{key}`")));
            }
        }
        for banned in BANNED.iter().filter(|banned| !bans_path(&table, banned)) {
            found.push(Finding::new(&path, 0, format!("does not ban {banned}")));
        }
        if text(&first).is_some_and(|other| other != own) {
            found.push(Finding::new(
                &path,
                0,
                format!("differs from {first}; they are copies"),
            ));
        }
    }
    Ok(found)
}

/// True if `mine` says all that `root` says: a list may hold more.
fn covers(mine: &Value, root: &Value) -> bool {
    match (mine.as_array(), root.as_array()) {
        (Some(mine), Some(root)) => root.iter().all(|entry| mine.contains(entry)),
        _ => mine == root,
    }
}

fn bans_path(table: &Table, path: &str) -> bool {
    ["disallowed-methods", "disallowed-types"]
        .iter()
        .filter_map(|key| table.get(*key)?.as_array())
        .flatten()
        .any(|entry| {
            let has_reason = entry.get("reason").is_some();
            has_reason && entry.get("path").and_then(Value::as_str) == Some(path)
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROOT: &str = "allow-unwrap-in-tests = true\n";

    fn complete() -> String {
        let entry = |path: &&str| format!("{{ path = \"{path}\", reason = \"pure\" }},\n");
        let entries = BANNED.iter().map(entry).collect::<Vec<_>>().concat();
        format!("{ROOT}disallowed-methods = [\n{entries}]\n")
    }

    fn found(change: impl Fn(&str, String) -> Option<String>) -> Vec<String> {
        let mut files = vec![File {
            path: "clippy.toml".into(),
            text: ROOT.into(),
        }];
        for name in PURE {
            if let Some(text) = change(name, complete()) {
                files.push(File {
                    path: format!("{name}/clippy.toml"),
                    text,
                });
            }
        }
        bans(&files)
            .unwrap()
            .iter()
            .map(ToString::to_string)
            .collect()
    }

    #[test]
    fn four_equal_and_complete_copies_pass() {
        assert_eq!(found(|_, text| Some(text)), [""; 0]);
    }

    #[test]
    fn a_missing_copy_is_refused() {
        assert_eq!(
            found(|name, text| (name != "nfv").then_some(text)),
            ["nfv/clippy.toml: is missing: a pure crate has its own bans"]
        );
    }

    #[test]
    fn a_setting_that_the_root_gained_is_missed() {
        let shorter = found(|_, text| Some(text.replace(ROOT, "")));
        assert_eq!(shorter.len(), PURE.len());
        assert!(
            shorter
                .iter()
                .all(|text| text.contains("lacks the root's `allow-unwrap-in-tests`"))
        );
    }

    #[test]
    fn a_lifted_ban_is_refused() {
        let lifted = found(|_, text| Some(text.replace("std::sync::Mutex", "std::sync::Once")));
        assert!(lifted.contains(&"net/clippy.toml: does not ban std::sync::Mutex".to_owned()));
    }

    #[test]
    fn a_copy_that_drifted_is_refused() {
        let drifted = found(|name, text| {
            Some(if name == "overlay" {
                text + "# more\n"
            } else {
                text
            })
        });
        assert_eq!(
            drifted,
            ["overlay/clippy.toml: differs from net/clippy.toml; they are copies"]
        );
    }
}
