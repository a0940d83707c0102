//! Does a file name a place that only one machine has?
//!
//! A path or a registry of somebody's machine makes a clone that builds nowhere else.

use super::{File, Finding};

/// Folders at the root of somebody's machine. Split, so that this file may be tracked.
const PLACES: &[&str] = &[
    concat!("/wo", "rk/"),
    concat!("/ho", "me/"),
    concat!("/ro", "ot/"),
];

/// The only sources that a lock file may name.
const CARGO_SOURCE: &str = "registry+https://github.com/rust-lang/crates.io-index";
const NPM_SOURCE: &str = "https://registry.npmjs.org/";

/// Refuses absolute paths of one machine, and package sources other than the public ones.
pub(super) fn places(file: &File) -> Vec<Finding> {
    let mut found = Vec::new();
    for (index, line) in file.text.lines().enumerate() {
        for place in PLACES.iter().filter(|place| names_place(line, place)) {
            let text = format!("names a machine's own path: {place}");
            found.push(Finding::new(&file.path, index + 1, text));
        }
        if let Some(source) = strange_source(&file.path, line) {
            let text = format!("names a package source that others may not have: {source}");
            found.push(Finding::new(&file.path, index + 1, text));
        }
    }
    found
}

/// True if `place` stands in `line` as the start of an absolute path.
fn names_place(line: &str, place: &str) -> bool {
    line.match_indices(place).any(|(at, _)| {
        let before = line.get(..at).and_then(|head| head.chars().next_back());
        before.is_none_or(|letter| !letter.is_alphanumeric() && !"._-~*})>/".contains(letter))
    })
}

fn strange_source<'l>(path: &str, line: &'l str) -> Option<&'l str> {
    let line = line.trim();
    let name = path.rsplit('/').next().unwrap_or_default();
    let source = match name {
        "Cargo.lock" => line.strip_prefix("source = \"")?.trim_end_matches('"'),
        "package-lock.json" => line.strip_prefix("\"resolved\": \"")?,
        "config.toml" if path.contains(".cargo/") => {
            return ["replace-with", "[registries", "registry ="]
                .iter()
                .any(|key| line.starts_with(key))
                .then_some(line);
        }
        _ => return None,
    };
    (source != CARGO_SOURCE && !source.starts_with(NPM_SOURCE)).then_some(source)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(path: &str, text: &str) -> bool {
        !places(&File {
            path: path.into(),
            text: text.into(),
        })
        .is_empty()
    }

    #[test]
    fn a_machines_own_path_is_refused_in_any_file() {
        for place in PLACES {
            assert!(
                refused("docs/x.md", &format!("see {place}main/README.md")),
                "{place}"
            );
            assert!(refused("x.sh", &format!("cd {place}x")), "{place}");
            assert!(
                refused("x.toml", &format!("path = \"{place}x\"")),
                "{place}"
            );
        }
    }

    #[test]
    fn a_folder_of_that_name_elsewhere_is_not() {
        for place in PLACES {
            assert!(!refused(
                "docs/x.md",
                &format!("see docs{place}x and https://a.example{place}x")
            ));
            assert!(!refused("x.sh", &format!("cd \"${{HOME}}{place}x\"")));
        }
    }

    #[test]
    fn a_package_source_of_ones_own_is_refused() {
        assert!(refused(
            "Cargo.lock",
            "source = \"registry+https://mirror.example/index\""
        ));
        assert!(refused(
            "Cargo.lock",
            "source = \"git+https://example.com/x#abc\""
        ));
        assert!(refused(".cargo/config.toml", "replace-with = \"mirror\""));
        assert!(refused(
            "web/package-lock.json",
            "  \"resolved\": \"https://mirror.example/x.tgz\""
        ));
        assert!(!refused(
            "Cargo.lock",
            &format!("source = \"{CARGO_SOURCE}\"")
        ));
        assert!(!refused("Cargo.lock", "name = \"x\""));
    }
}
