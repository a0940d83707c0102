//! How does a store leave the house, and come back whole?
//!
//! A backup is text: a header line, one line a record, and the SHA-256 of all of these. A [`Scribe`] makes it of a
//! snapshot, a part at a time, for a file or for a client far away; a [`BackupFile`] gives a file its name once all of it
//! is there; [`restore`] makes a store of one.
//!
//! # Invariants
//! - A backup is one snapshot: whatever is written meanwhile is not in it.
//! - Nothing of a backup is used, and no file is named one, unless the checksum holds.
//!
//! # Cost
//! Writing and checking hold one part or one line; restoring holds all records, as the store will.

use super::{
    Decode, Disk, DiskError, Entry, KeyChange, RedbDisk, Revision, SCHEMA, Snapshot,
    disk::{replaced, store_file},
};
use crate::private::PrivateFile;
use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use serde_json::value::RawValue;
use sha2::{Digest, Sha256};
use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::{self, BufRead, BufReader, Read, Seek, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    sync::Arc,
};
use uuid::Uuid;

const FORMAT: &str = "overweave-backup-1";
/// Bytes of a part; a part ends with the line that reaches it.
const PART: usize = 64 * 1024;
/// No record comes near it: a body has 8 MiB at most.
const LONGEST_LINE: u64 = 64 * 1024 * 1024;

#[derive(Debug, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Header {
    format: String,
    schema: u16,
    revision: u64,
    incarnation: Uuid,
    records: u64,
    /// Files beside the store without which it is of little use, in base64.
    files: BTreeMap<String, String>,
}

/// The files that belong to a store, by name, in base64.
#[derive(Debug, Clone, Default)]
pub struct Beside(BTreeMap<String, String>);

impl Beside {
    /// Reads those of `names` that are in the data dir.
    ///
    /// # Errors
    /// When one is there and cannot be read.
    pub fn read(data_dir: &Path, names: &[&str]) -> Result<Self, DiskError> {
        let mut files = BTreeMap::new();
        for name in names {
            let path = data_dir.join(name);
            match fs::read(&path) {
                Ok(bytes) => {
                    files.insert((*name).to_owned(), BASE64.encode(bytes));
                }
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(source) => return Err(DiskError::File { path, source }),
            }
        }
        Ok(Self(files))
    }
}

#[derive(Debug)]
enum Next {
    Header(Beside),
    /// The records from this key on.
    Records(Arc<str>),
    Sum,
    Nothing,
}

/// Writes a backup of a snapshot, a part at a time.
#[derive(Debug)]
pub struct Scribe {
    snapshot: Snapshot,
    digest: Sha256,
    next: Next,
}

impl Scribe {
    /// One that has written nothing.
    pub fn new(snapshot: Snapshot, beside: Beside) -> Self {
        Self {
            snapshot,
            digest: Sha256::new(),
            next: Next::Header(beside),
        }
    }

    /// The commit that the backup is the state after.
    pub const fn revision(&self) -> Revision {
        self.snapshot.revision
    }

    /// The next part of the text; `None` after the checksum.
    ///
    /// # Errors
    /// When a record has no JSON form.
    pub fn part(&mut self) -> Result<Option<Vec<u8>>, DiskError> {
        let mut part = Vec::new();
        self.next = match &mut self.next {
            Next::Header(beside) => {
                let header = Header {
                    format: FORMAT.to_owned(),
                    schema: SCHEMA,
                    revision: self.snapshot.revision.0,
                    incarnation: self.snapshot.incarnation,
                    records: u64::try_from(self.snapshot.map.len()).unwrap_or(u64::MAX),
                    files: std::mem::take(&mut beside.0),
                };
                push(&mut part, "header", &header)?;
                Next::Records(Arc::from(""))
            }
            Next::Records(from) => {
                let mut rest = self.snapshot.map.range(from);
                loop {
                    match rest.next() {
                        None => break Next::Sum,
                        Some((key, _)) if part.len() >= PART => {
                            break Next::Records(Arc::clone(key));
                        }
                        Some((key, entry)) => record(&mut part, key, entry)?,
                    }
                }
            }
            Next::Sum => {
                let sum = std::mem::take(&mut self.digest).finalize();
                self.next = Next::Nothing;
                return Ok(Some(format!("{sum:x}\n").into_bytes()));
            }
            Next::Nothing => return Ok(None),
        };
        self.digest.update(&part);
        Ok(Some(part))
    }
}

fn push(part: &mut Vec<u8>, key: &str, line: &impl serde::Serialize) -> Result<(), DiskError> {
    let unfit = |source| DiskError::Record {
        key: key.to_owned(),
        source,
    };
    serde_json::to_writer(&mut *part, line).map_err(unfit)?;
    part.push(b'\n');
    Ok(())
}

fn record(part: &mut Vec<u8>, key: &str, entry: &Entry) -> Result<(), DiskError> {
    let unfit = |source| DiskError::Record {
        key: key.to_owned(),
        source,
    };
    let json = entry.record.encode().map_err(unfit)?;
    let value: &RawValue = serde_json::from_slice(&json).map_err(unfit)?;
    push(part, key, &(key, entry.revision.0, value))
}

/// A backup on its way to a file.
#[derive(Debug)]
pub struct BackupFile(PrivateFile);

impl BackupFile {
    /// Begins one; nothing has the file's name yet.
    ///
    /// # Errors
    /// When a file cannot be made beside it.
    pub fn create(file: &Path) -> Result<Self, DiskError> {
        let made = PrivateFile::create(file).map_err(|source| failed(file, source))?;
        Ok(Self(made))
    }

    /// Writes what comes next.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn write(&mut self, part: &[u8]) -> Result<(), DiskError> {
        let written = self.0.write_all(part);
        written.map_err(|source| failed(self.0.path(), source))
    }

    /// Reads it through, gives it its name (mode 0600), and says how many records it holds. What is not whole is gone.
    ///
    /// # Errors
    /// When it is not a whole backup, or the disk failed.
    pub fn keep(mut self) -> Result<u64, DiskError> {
        let path = self.0.path().to_owned();
        let written = self.0.written().map_err(|source| failed(&path, source))?;
        let header = check(&written, &path)?;
        self.0.keep().map_err(|source| failed(&path, source))?;
        Ok(header.records)
    }
}

fn failed(path: &Path, source: io::Error) -> DiskError {
    DiskError::File {
        path: path.to_owned(),
        source,
    }
}

/// Reads a backup through, a line at a time; its header, if the checksum holds.
fn check(file: &File, path: &Path) -> Result<Header, DiskError> {
    let not_whole = || DiskError::NotWhole(path.to_owned());
    let mut reader = BufReader::new(file);
    let mut digest = Sha256::new();
    let mut header = None;
    let mut lines = 0_u64;
    let mut last = Vec::new();
    loop {
        let mut line = Vec::new();
        let read = (&mut reader)
            .take(LONGEST_LINE)
            .read_until(b'\n', &mut line);
        if read.map_err(|source| failed(path, source))? == 0 {
            break;
        }
        if line.last() != Some(&b'\n') {
            return Err(not_whole());
        }
        // The last line is the sum; all before it are summed.
        if lines > 0 {
            digest.update(&last);
        }
        if lines == 1 {
            header = Some(std::mem::take(&mut last));
        }
        last = line;
        lines += 1;
    }
    let Some(header) = header else {
        return Err(not_whole());
    };
    if format!("{:x}\n", digest.finalize()).as_bytes() != last {
        return Err(not_whole());
    }
    let damaged = || DiskError::Damaged {
        what: "the backup's header",
        path: path.to_owned(),
    };
    let header: Header = serde_json::from_slice(&header).ok().ok_or_else(damaged)?;
    if header.format != FORMAT || header.records.checked_add(2) != Some(lines) {
        return Err(damaged());
    }
    if header.schema > SCHEMA {
        return Err(DiskError::Newer {
            key: path.display().to_string(),
            found: header.schema,
        });
    }
    Ok(header)
}

/// Makes a store in a data dir that has none from a backup, as a new incarnation, and the files that belong to it: of those
/// in `names` alone, so that a backup can't write anywhere else. The number of records.
///
/// # Errors
/// When the backup is damaged or newer, a controller runs on the data dir, or a store or one of the files is there.
pub fn restore(
    file: &Path,
    data_dir: &Path,
    names: &[&str],
    decode: Decode,
) -> Result<u64, DiskError> {
    let target = store_file(data_dir);
    if is_locked(&target) {
        return Err(DiskError::InUse(target));
    }
    let there = names.iter().map(|name| data_dir.join(name));
    if let Some(path) = there.chain([target]).find(|path| path.exists()) {
        return Err(DiskError::Occupied(path));
    }
    let mut open = File::open(file).map_err(|source| failed(file, source))?;
    let header = check(&open, file)?;
    let files = unpacked(&header, names, data_dir, file)?;
    open.rewind().map_err(|source| failed(file, source))?;
    let mut changes = records(&open, file, header.records, decode)?;
    let (key, entry) = replaced(
        header.incarnation,
        Revision(header.revision),
        header.records,
    );
    changes.push(KeyChange {
        key,
        before: None,
        after: Some(entry),
    });
    let disk = RedbDisk::open(data_dir, decode)?;
    disk.load()?; // makes the tables and the new incarnation
    disk.commit(&changes, Revision(header.revision))?;
    for (path, bytes) in files {
        let written = fs::OpenOptions::new()
            .create_new(true)
            .write(true)
            .mode(0o600)
            .open(&path)
            .and_then(|mut to| to.write_all(&bytes).and_then(|()| to.sync_all()));
        written.map_err(|source| DiskError::File { path, source })?;
    }
    Ok(header.records)
}

/// Does a process have this store open? What cannot be opened is for others to name.
fn is_locked(path: &Path) -> bool {
    let tried = File::open(path).map(|file| file.try_lock_shared());
    matches!(tried, Ok(Err(fs::TryLockError::WouldBlock)))
}

fn unpacked(
    header: &Header,
    names: &[&str],
    data_dir: &Path,
    file: &Path,
) -> Result<Vec<(PathBuf, Vec<u8>)>, DiskError> {
    let unpack = |(name, text): (&String, &String)| {
        let known = names.contains(&name.as_str());
        let bytes = BASE64.decode(text).ok().filter(|_| known);
        let bytes = bytes.ok_or_else(|| DiskError::Damaged {
            what: "one of the backup's files",
            path: file.to_owned(),
        })?;
        Ok((data_dir.join(name), bytes))
    };
    header.files.iter().map(unpack).collect()
}

/// The records of a backup that was checked.
fn records(
    open: &File,
    file: &Path,
    records: u64,
    decode: Decode,
) -> Result<Vec<KeyChange>, DiskError> {
    let damaged = || DiskError::Damaged {
        what: "a record of the backup",
        path: file.to_owned(),
    };
    let count = usize::try_from(records).unwrap_or(usize::MAX);
    let lines = BufReader::new(open).lines().skip(1).take(count);
    let mut changes = Vec::new();
    for (place, line) in (0..).zip(lines) {
        let line = line.map_err(|source| failed(file, source))?;
        let parsed: Option<(String, u64, &RawValue)> = serde_json::from_str(&line).ok();
        let (key, revision, json) = parsed.ok_or_else(damaged)?;
        let decoded = decode(&key, json.get().as_bytes());
        let record = decoded.map_err(|source| DiskError::Record {
            key: key.clone(),
            source,
        })?;
        changes.push(KeyChange {
            key: Arc::from(key),
            before: None,
            after: Some(Entry {
                revision: Revision(revision),
                place,
                record,
            }),
        });
    }
    Ok(changes)
}
