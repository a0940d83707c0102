//! Where is the workspace, and which files does it hold?

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

/// The workspace's root: the parent of this package, or the nearest folder above the working
/// directory that holds a workspace manifest.
pub(crate) fn root() -> Result<PathBuf> {
    // Read when run, not when built: one target directory may serve several clones.
    if let Some(package) = std::env::var_os("CARGO_MANIFEST_DIR")
        && let Some(parent) = Path::new(&package).parent()
        && is_root(parent)
    {
        return Ok(parent.to_path_buf());
    }
    let here = std::env::current_dir().context("find the working directory")?;
    match here.ancestors().find(|folder| is_root(folder)) {
        Some(folder) => Ok(folder.to_path_buf()),
        None => bail!("no workspace here or above; run it inside the repository"),
    }
}

fn is_root(folder: &Path) -> bool {
    std::fs::read_to_string(folder.join("Cargo.toml"))
        .is_ok_and(|text| text.contains("[workspace]"))
}

/// The paths, relative to the root, of all files that are tracked or would be: what git ignores is
/// not the project's.
pub(crate) fn files(root: &Path) -> Result<Vec<String>> {
    let listed = Command::new("git")
        .args([
            "ls-files",
            "-z",
            "--cached",
            "--others",
            "--exclude-standard",
        ])
        .current_dir(root)
        .output()
        .context("run git ls-files")?;
    if !listed.status.success() {
        bail!(
            "git ls-files failed: {}",
            String::from_utf8_lossy(&listed.stderr).trim()
        );
    }
    let mut paths: Vec<String> = String::from_utf8_lossy(&listed.stdout)
        .split('\0')
        .filter(|path| !path.is_empty() && root.join(path).is_file())
        .map(str::to_owned)
        .collect();
    paths.sort();
    paths.dedup();
    Ok(paths)
}
