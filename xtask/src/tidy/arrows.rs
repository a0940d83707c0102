//! Does every arrow between crates stand in the picture?
//!
//! The picture is drawn in docs/architecture.md; this is the same picture as a table. Arrows only
//! go down, and the controller meets the datapath in `hostconfig`; of `nfv` it may name the catalogue alone.

use anyhow::{Context, Result};
use toml::Table;

use super::{File, Finding, has_extension};

/// Each package and the packages of the house that it may name.
const PICTURE: &[(&str, &[&str])] = &[
    ("net", &[]),
    ("hostconfig", &["net"]),
    ("overlay", &["net", "hostconfig"]),
    ("nfv", &["net", "hostconfig"]),
    ("vswitch", &["net", "hostconfig", "overlay", "nfv"]),
    // Of `nfv` the catalogue alone: which settings a plain function takes is said once, in its own file.
    ("controller", &["net", "hostconfig", "nfv"]),
    (
        "cli",
        &[
            "net",
            "hostconfig",
            "overlay",
            "nfv",
            "vswitch",
            "controller",
            "fuzz",
        ],
    ),
    (
        "tests",
        &[
            "net",
            "hostconfig",
            "overlay",
            "nfv",
            "vswitch",
            "controller",
            "cli",
            "fuzz",
        ],
    ),
    (
        "fuzz",
        &[
            "net",
            "hostconfig",
            "overlay",
            "nfv",
            "vswitch",
            "controller",
        ],
    ),
    // The door sees nothing, so that it builds early and fast.
    ("xtask", &[]),
];

/// Libraries that a pure crate never names: they bring clocks, sockets and threads.
const IMPURE: &[&str] = &[
    "tokio",
    "axum",
    "pnet",
    "hyper",
    "tonic",
    "tower",
    "rtnetlink",
    "mio",
];

/// The crates without clock, socket, thread, lock or file.
pub(super) const PURE: &[&str] = &["net", "hostconfig", "overlay", "nfv"];

const KINDS: &[&str] = &["dependencies", "build-dependencies", "dev-dependencies"];

/// Refuses arrows that are not drawn, impure libraries in pure crates, and crates outside the
/// picture.
pub(super) fn undrawn(files: &[File]) -> Result<Vec<Finding>> {
    let mut found = Vec::new();
    for file in files.iter().filter(|file| is_manifest(&file.path)) {
        let manifest: Table = file
            .text
            .parse()
            .with_context(|| format!("parse {}", file.path))?;
        let Some(package) = package_name(&manifest) else {
            continue;
        };
        let Some((_, drawn)) = PICTURE.iter().find(|(name, _)| *name == package) else {
            let text =
                format!("`{package}` is not in the picture; draw it in xtask and docs first");
            found.push(Finding::new(&file.path, 0, text));
            continue;
        };
        for (kind, dependency) in dependencies(&manifest) {
            let in_house = PICTURE.iter().any(|(name, _)| *name == dependency);
            // A crate's tests may ask for the crate itself with its test helpers.
            let own_helpers = dependency == package && kind == "dev-dependencies";
            if in_house && !own_helpers && !drawn.contains(&dependency.as_str()) {
                let text = format!("[{kind}] {package} -> {dependency} is not drawn");
                found.push(Finding::new(
                    &file.path,
                    line_of(&file.text, &dependency),
                    text,
                ));
            }
            if PURE.contains(&package) && kind != "build-dependencies" && is_impure(&dependency) {
                let text = format!("[{kind}] the pure crate {package} names {dependency}");
                found.push(Finding::new(
                    &file.path,
                    line_of(&file.text, &dependency),
                    text,
                ));
            }
        }
    }
    Ok(found)
}

/// Refuses what the controller names of `nfv` beside the catalogue.
pub(super) fn beyond_the_catalogue(files: &[File]) -> Vec<Finding> {
    let own =
        |file: &&File| file.path.starts_with("controller/") && has_extension(&file.path, "rs");
    let mut found = Vec::new();
    for file in files.iter().filter(own) {
        for (line, text) in (1..).zip(file.text.lines()) {
            let named = text.split("nfv::").skip(1);
            if named.into_iter().any(|rest| !rest.starts_with("catalog::")) {
                let text = "the controller asks nfv's catalogue alone";
                found.push(Finding::new(&file.path, line, text));
            }
        }
    }
    found
}

fn is_manifest(path: &str) -> bool {
    path == "Cargo.toml" || path.ends_with("/Cargo.toml")
}

fn is_impure(dependency: &str) -> bool {
    let stem = dependency.split('-').next().unwrap_or_default();
    IMPURE.contains(&stem)
}

fn package_name(manifest: &Table) -> Option<&str> {
    manifest.get("package")?.get("name")?.as_str()
}

/// Every dependency, under its real package name, with the kind that names it.
fn dependencies(manifest: &Table) -> Vec<(&'static str, String)> {
    let targets = manifest.get("target").and_then(|value| value.as_table());
    let tables = targets
        .into_iter()
        .flat_map(|table| table.values().filter_map(|at| at.as_table()));
    let mut all = Vec::new();
    for table in std::iter::once(manifest).chain(tables) {
        for kind in KINDS {
            let named = table.get(*kind).and_then(|value| value.as_table());
            for (key, value) in named.into_iter().flatten() {
                let renamed = value.get("package").and_then(|name| name.as_str());
                all.push((*kind, renamed.unwrap_or(key).to_owned()));
            }
        }
    }
    all
}

fn line_of(text: &str, dependency: &str) -> usize {
    text.lines()
        .position(|line| line.starts_with(dependency))
        .map_or(0, |index| index + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(package: &str, rest: &str) -> Vec<String> {
        let text = format!("[package]\nname = \"{package}\"\n{rest}");
        let file = File {
            path: format!("{package}/Cargo.toml"),
            text,
        };
        undrawn(&[file])
            .unwrap()
            .into_iter()
            .map(|finding| finding.text)
            .collect()
    }

    #[test]
    fn the_controller_never_sees_the_datapath() {
        assert_eq!(
            found(
                "controller",
                "[dependencies]\nnet.workspace = true\nvswitch.workspace = true\n"
            ),
            ["[dependencies] controller -> vswitch is not drawn"]
        );
        assert_eq!(
            found(
                "controller",
                "[dev-dependencies]\noverlay = { path = \"../overlay\" }\n"
            )
            .len(),
            1,
            "tests draw arrows too"
        );
    }

    #[test]
    fn of_nfv_the_controller_names_the_catalogue_alone() {
        let file = |path: &str, text: &str| File {
            path: path.to_owned(),
            text: text.to_owned(),
        };
        let good = file("controller/src/a.rs", "use nfv::catalog::{native};\n");
        let bad = file(
            "controller/src/b.rs",
            "\nuse nfv::{Chain, catalog::native};\n",
        );
        let other = file("vswitch/src/c.rs", "use nfv::Chain;\n");
        let found = beyond_the_catalogue(&[good, bad, other]);
        let found: Vec<_> = found.iter().map(ToString::to_string).collect();
        assert_eq!(
            found,
            ["controller/src/b.rs:2: the controller asks nfv's catalogue alone"]
        );
    }

    #[test]
    fn a_renamed_or_targeted_dependency_is_still_an_arrow() {
        assert_eq!(
            found(
                "net",
                "[dependencies]\nhc = { package = \"hostconfig\", path = \"x\" }\n"
            )
            .len(),
            1
        );
        assert_eq!(
            found(
                "nfv",
                "[target.'cfg(unix)'.dependencies]\noverlay = \"1\"\n"
            )
            .len(),
            1
        );
    }

    #[test]
    fn a_pure_crate_names_no_runtime() {
        assert_eq!(found("overlay", "[dependencies]\ntokio = \"1\"\n").len(), 1);
        assert_eq!(
            found("hostconfig", "[dependencies]\ntonic-prost = \"1\"\n").len(),
            1
        );
        assert_eq!(
            found("hostconfig", "[build-dependencies]\ntonic-build = \"1\"\n").len(),
            0
        );
    }

    #[test]
    fn a_crate_outside_the_picture_is_refused() {
        assert_eq!(found("stray", "").len(), 1);
    }

    #[test]
    fn drawn_arrows_and_own_helpers_pass() {
        assert_eq!(
            found(
                "vswitch",
                "[dependencies]\nnfv.workspace = true\ntokio = \"1\"\n"
            )
            .len(),
            0
        );
        assert_eq!(
            found("net", "[dev-dependencies]\nnet = { path = \".\" }\n").len(),
            0
        );
        assert_eq!(
            found("net", "[dependencies]\nnet = { path = \".\" }\n").len(),
            1
        );
    }
}
