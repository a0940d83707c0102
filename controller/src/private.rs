//! How is a secret written so that nobody else reads it, and nobody half of it?
//!
//! Under a temporary name beside the final one, readable by its owner alone; it gets its name when all of it is on the
//! disk. What is dropped before that leaves nothing.

use std::{
    ffi::OsString,
    fs::{self, File},
    io::{self, BufWriter, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

/// A file on its way to its name.
#[derive(Debug)]
pub(crate) struct PrivateFile {
    path: PathBuf,
    partial: PathBuf,
    out: BufWriter<File>,
    named: bool,
}

impl PrivateFile {
    /// Begins a file. What an earlier writer left half-written goes.
    pub(crate) fn create(path: &Path) -> io::Result<Self> {
        let mut partial = OsString::from(path);
        partial.push(".partial");
        let partial = PathBuf::from(partial);
        match fs::remove_file(&partial) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            Ok(()) | Err(_) => {}
        }
        // New, or its mode and place would be somebody else's choice.
        let out = fs::OpenOptions::new()
            .create_new(true)
            .write(true)
            .mode(0o600)
            .open(&partial)?;
        Ok(Self {
            path: path.to_owned(),
            partial,
            out: BufWriter::new(out),
            named: false,
        })
    }

    /// The final name.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// What was written up to now, to be read again.
    pub(crate) fn written(&mut self) -> io::Result<File> {
        self.out.flush()?;
        File::open(&self.partial)
    }

    /// Gives it its name, over any older file of that name.
    pub(crate) fn keep(mut self) -> io::Result<()> {
        self.out.flush()?;
        self.out.get_ref().sync_all()?;
        fs::rename(&self.partial, &self.path)?;
        self.named = true;
        // The name, too, must outlive a power cut.
        let folder = match self.path.parent() {
            Some(folder) if !folder.as_os_str().is_empty() => folder,
            _ => Path::new("."),
        };
        File::open(folder)?.sync_all()
    }
}

impl Write for PrivateFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.out.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

impl Drop for PrivateFile {
    fn drop(&mut self) {
        if !self.named {
            // Gone already, or its folder is: nothing is left either way.
            drop(fs::remove_file(&self.partial));
        }
    }
}

/// Writes a whole text.
pub(crate) fn write(path: &Path, text: &str) -> io::Result<()> {
    let mut file = PrivateFile::create(path)?;
    file.write_all(text.as_bytes())?;
    file.keep()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn a_file_has_its_name_when_it_is_whole_and_its_owner_alone_reads_it() {
        let dir = std::env::temp_dir().join(format!("ow-private-{}", uuid::Uuid::new_v4()));
        fs::create_dir_all(&dir).unwrap();
        let (path, partial) = (dir.join("a.key"), dir.join("a.key.partial"));
        // A stranger's file, open to all, does not become ours.
        fs::write(&partial, "stranger").unwrap();
        fs::set_permissions(&partial, fs::Permissions::from_mode(0o666)).unwrap();
        fs::write(&path, "old").unwrap();
        let mut file = PrivateFile::create(&path).unwrap();
        file.write_all(b"half").unwrap();
        drop(file);
        assert!(!partial.exists());
        assert_eq!(fs::read_to_string(&path).unwrap(), "old");
        write(&path, "new").unwrap();
        assert!(!partial.exists());
        assert_eq!(fs::read_to_string(&path).unwrap(), "new");
        let mode = fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        fs::remove_dir_all(dir).unwrap();
    }
}
