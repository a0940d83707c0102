//! Does every link in the documentation lead somewhere?

use std::path::{Component, Path, PathBuf};

use super::{File, Finding, has_extension};

/// Refuses links of Markdown files to files that are not in the tree.
pub(super) fn dead(files: &[File]) -> Vec<Finding> {
    let mut found = Vec::new();
    for file in files.iter().filter(|file| has_extension(&file.path, "md")) {
        let mut fenced = false;
        for (index, line) in file.text.lines().enumerate() {
            if line.trim_start().starts_with("```") {
                fenced = !fenced;
            }
            if fenced {
                continue;
            }
            for target in targets(line).filter(|target| !leads_somewhere(&file.path, target, files))
            {
                found.push(Finding::new(
                    &file.path,
                    index + 1,
                    format!("a dead link: {target}"),
                ));
            }
        }
    }
    found
}

/// What stands between `](` and `)`.
fn targets(line: &str) -> impl Iterator<Item = &str> {
    line.split("](")
        .skip(1)
        .filter_map(|rest| rest.split_once(')').map(|(target, _)| target))
}

fn leads_somewhere(from: &str, target: &str, files: &[File]) -> bool {
    if target.contains("://") || target.starts_with(['#', '<']) {
        return true;
    }
    let file = target.split('#').next().unwrap_or_default();
    let folder = Path::new(from).parent().unwrap_or(Path::new(""));
    let Some(path) = normal(&folder.join(file)) else {
        return false;
    };
    files
        .iter()
        .any(|file| Path::new(&file.path).starts_with(&path))
}

/// The path without `.` and `..`; none if it leaves the tree.
fn normal(path: &Path) -> Option<PathBuf> {
    let mut normal = PathBuf::new();
    for part in path.components() {
        match part {
            Component::Normal(name) => normal.push(name),
            Component::CurDir => {}
            Component::ParentDir => {
                if !normal.pop() {
                    return None;
                }
            }
            Component::RootDir | Component::Prefix(_) => return None,
        }
    }
    Some(normal)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(text: &str) -> usize {
        let file = |path: &str, text: &str| File {
            path: path.into(),
            text: text.into(),
        };
        dead(&[
            file("docs/adr/0001-x.md", text),
            file("docs/style.md", ""),
            file("README.md", ""),
        ])
        .len()
    }

    #[test]
    fn a_link_to_nowhere_is_refused() {
        assert_eq!(found("see [a](gone.md) and [b](../gone.md#part)"), 2);
        assert_eq!(found("see [a](../../../outside.md)"), 1);
        assert_eq!(found("see [a](/etc/hosts)"), 1);
    }

    #[test]
    fn a_link_to_a_file_a_folder_or_the_world_is_not() {
        assert_eq!(
            found("[a](../style.md#habits) [b](../../README.md) [c](..) [d](https://a.example)"),
            0
        );
        assert_eq!(found("[a](#here)"), 0);
        assert_eq!(found("```text\n[a](gone.md)\n```\n"), 0);
    }
}
