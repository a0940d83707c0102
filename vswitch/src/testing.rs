//! What do this crate's tests share?

use std::path::{Path, PathBuf};

/// A directory of one test's own, gone with it.
#[derive(Debug)]
pub(crate) struct Scratch(PathBuf);

impl Scratch {
    /// A new, empty one. Short, since sockets have short names.
    pub(crate) fn new(name: &str) -> Self {
        let dir = std::env::temp_dir().join(format!("ow-{}-{name}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        Self(dir)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        drop(std::fs::remove_dir_all(&self.0));
    }
}
