//! What is on the disk, and in which form?
//!
//! One redb file with two tables: `records` (place to an envelope: schema version, revision, key, JSON)
//! and `meta` (incarnation, last revision). A place is a number that a record gets when its key is first
//! written and keeps until it is deleted; places only grow. So what is made together lies together, whatever
//! its keys are: a port's dozen of records is one or two pages at the end of the tree, not a page for each
//! in the midst of it. In memory, records are found by their keys (the store's map), which is where their
//! places are known. [`MemoryDisk`] is the same without a file, for simulated regions and tests.
//!
//! The layout before this one had the records by key in a table `objects`: such a file is moved over
//! once, in one commit. What is left in that table afterwards is a record that its binaries refuse as newer.
//!
//! # Invariants
//! - A record of a newer schema is never read: the binary refuses to start and says so.
//! - One process has the file open: a second is refused, and told which it is.
//! - A key is at one place.
//!
//! # Cost
//! A commit writes the pages of what it changes and those above them: for records made together, as many in
//! a store of a million records as in an empty one.

use super::{Entry, KeyChange, OrderedMap, Record, Revision};
use redb::{
    Database, DatabaseError, ReadableDatabase, ReadableTable, StorageBackend, TableDefinition,
    backends::FileBackend,
};
use std::{
    fs, io,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};
use uuid::Uuid;

/// The schema of records that this binary writes.
pub const SCHEMA: u16 = 1;

const RECORDS: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("records");
const META: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("meta");
/// Where records were before they had places.
const BY_KEY: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("objects");
/// What is there now: to binaries that know that table alone, a record of a schema that they refuse.
const MOVED: (&str, &[u8]) = ("records-by-place", &[0, 2, 0, 0, 0, 0, 0, 0, 0, 0]);

/// Turns stored bytes back into a typed record, by key.
pub type Decode = fn(key: &str, json: &[u8]) -> Result<Arc<dyn Record>, serde_json::Error>;

/// All that a disk held when it was opened.
#[derive(Debug)]
pub struct Loaded {
    pub(super) map: OrderedMap<Entry>,
    pub(super) revision: Revision,
    pub(super) incarnation: Uuid,
    /// The first place that nobody has had.
    pub(super) next: u64,
}

/// Where commits become durable.
pub trait Disk: Send + Sync + std::fmt::Debug + 'static {
    /// Everything that is there.
    ///
    /// # Errors
    /// When it cannot be read, or a newer binary wrote it.
    fn load(&self) -> Result<Loaded, DiskError>;

    /// Writes a batch and waits until it is on stable storage.
    ///
    /// # Errors
    /// When it is not certain that all of it is there.
    fn commit(&self, changes: &[KeyChange], revision: Revision) -> Result<(), DiskError>;
}

/// Why the disk did not do it.
#[derive(Debug, thiserror::Error)]
pub enum DiskError {
    /// redb failed to open, read or write.
    #[error("store file {path} failed")]
    Database {
        /// The file.
        path: PathBuf,
        /// What redb said.
        #[source]
        source: Box<redb::Error>,
    },
    /// The operating system refused.
    #[error("cannot access {path}")]
    File {
        /// The file.
        path: PathBuf,
        /// What it said.
        #[source]
        source: io::Error,
    },
    /// A newer binary wrote this record.
    #[error(
        "record {key} has schema {found}, this binary knows up to {SCHEMA}: start a newer overweave"
    )]
    Newer {
        /// The record.
        key: String,
        /// Its schema.
        found: u16,
    },
    /// A record cannot be read.
    #[error("record {key} cannot be read: restore a backup")]
    Record {
        /// The record.
        key: String,
        /// Why.
        #[source]
        source: serde_json::Error,
    },
    /// A record or header cannot be what was written.
    #[error("{what} is damaged: {path}")]
    Damaged {
        /// Which part.
        what: &'static str,
        /// The file.
        path: PathBuf,
    },
    /// A backup lacks its end, or is not what was written.
    #[error("not a whole backup, cut off or changed (its checksum does not hold): {0}")]
    NotWhole(PathBuf),
    /// Another process has the store open.
    #[error("a running controller has the store open: {0}")]
    InUse(PathBuf),
    /// A restore would overwrite a store or a file that belongs to one.
    #[error("a store is there already, move it away first: {0}")]
    Occupied(PathBuf),
    /// A fault that a test asked for.
    #[error("the disk failed as it was told to")]
    Injected,
}

/// The file inside a data dir.
pub(super) fn store_file(data_dir: &Path) -> PathBuf {
    data_dir.join("store.redb")
}

/// The embedded store's file.
#[derive(Debug)]
pub struct RedbDisk {
    database: Database,
    path: PathBuf,
    decode: Decode,
}

/// A step of a commit, as the file sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step<'a> {
    /// These bytes are about to be written there.
    Write(u64, &'a [u8]),
    /// What was written is about to be synced.
    Sync,
    /// It is on stable storage.
    Synced,
}

/// Who hears of each step before it is taken, to die there; see [`RedbDisk::open_heard`].
pub type Hear = Box<dyn Fn(Step<'_>) + Send + Sync>;

/// A file whose steps somebody hears.
struct HeardFile {
    file: FileBackend,
    hear: Hear,
}

impl std::fmt::Debug for HeardFile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.file.fmt(f)
    }
}

impl StorageBackend for HeardFile {
    fn len(&self) -> io::Result<u64> {
        self.file.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.file.read(offset, out)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.file.set_len(len)
    }

    fn sync_data(&self) -> io::Result<()> {
        (self.hear)(Step::Sync);
        self.file.sync_data()?;
        (self.hear)(Step::Synced);
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        (self.hear)(Step::Write(offset, data));
        self.file.write(offset, data)
    }

    fn close(&self) -> io::Result<()> {
        self.file.close()
    }
}

impl RedbDisk {
    /// Opens or makes the store of a data dir.
    ///
    /// # Errors
    /// When the directory cannot be made or another process has the file open.
    pub fn open(data_dir: &Path, decode: Decode) -> Result<Self, DiskError> {
        Self::open_by(data_dir, decode, |path| Database::create(path))
    }

    /// The same, and `hear` is told of each step that changes the file: for tests that die in the midst of a commit.
    ///
    /// # Errors
    /// As [`RedbDisk::open`].
    pub fn open_heard(data_dir: &Path, decode: Decode, hear: Hear) -> Result<Self, DiskError> {
        Self::open_by(data_dir, decode, |path| {
            let file = fs::OpenOptions::new().read(true).write(true).open(path)?;
            let file = FileBackend::new(file)?;
            Database::builder().create_with_backend(HeardFile { file, hear })
        })
    }

    fn open_by(
        data_dir: &Path,
        decode: Decode,
        create: impl FnOnce(&Path) -> Result<Database, DatabaseError>,
    ) -> Result<Self, DiskError> {
        fs::create_dir_all(data_dir).map_err(|source| DiskError::File {
            path: data_dir.to_owned(),
            source,
        })?;
        let path = store_file(data_dir);
        if !path.exists() {
            // The store holds password hashes: nobody else reads it.
            fs::OpenOptions::new()
                .create(true)
                .append(true)
                .mode(0o600)
                .open(&path)
                .map_err(|source| DiskError::File {
                    path: path.clone(),
                    source,
                })?;
        }
        let database = create(&path).map_err(|source| {
            if matches!(source, DatabaseError::DatabaseAlreadyOpen) {
                DiskError::InUse(path.clone())
            } else {
                failed(&path, source)
            }
        })?;
        Ok(Self {
            database,
            path,
            decode,
        })
    }

    /// Opens a store that must be there.
    ///
    /// # Errors
    /// When it is not, or another process has it open.
    pub fn open_existing(data_dir: &Path, decode: Decode) -> Result<Self, DiskError> {
        let path = store_file(data_dir);
        fs::metadata(&path).map_err(|source| DiskError::File { path, source })?;
        Self::open(data_dir, decode)
    }

    fn fail(&self, source: impl Into<redb::Error>) -> DiskError {
        failed(&self.path, source)
    }

    #[cfg(test)]
    pub(super) fn commit_raw(&self, place: u64, envelope: &[u8]) {
        let write = self.database.begin_write().unwrap();
        let mut records = write.open_table(RECORDS).unwrap();
        records.insert(place, envelope).unwrap();
        drop(records);
        write.commit().unwrap();
    }

    /// What a file of the layout before had, as its binaries wrote it.
    #[cfg(test)]
    pub(super) fn commit_by_key(&self, key: &str, envelope: &[u8]) {
        let write = self.database.begin_write().unwrap();
        write.delete_table(RECORDS).unwrap();
        let mut by_key = write.open_table(BY_KEY).unwrap();
        by_key.remove(MOVED.0).unwrap();
        by_key.insert(key, envelope).unwrap();
        drop(by_key);
        write.commit().unwrap();
    }

    /// What is in the old table, as its binaries read it.
    #[cfg(test)]
    pub(super) fn by_key(&self) -> Vec<(String, Vec<u8>)> {
        let read = self.database.begin_read().unwrap();
        let by_key = read.open_table(BY_KEY).unwrap();
        let rows = by_key.iter().unwrap().map(|row| {
            let (key, envelope) = row.unwrap();
            (key.value().to_owned(), envelope.value().to_vec())
        });
        rows.collect()
    }

    /// Makes the tables of a new file; the store's incarnation.
    fn make(&self) -> Result<Uuid, DiskError> {
        let incarnation = Uuid::new_v4();
        let write = self.database.begin_write().map_err(|e| self.fail(e))?;
        {
            let mut meta = write.open_table(META).map_err(|e| self.fail(e))?;
            meta.insert("incarnation", incarnation.as_bytes().as_slice())
                .map_err(|e| self.fail(e))?;
            write.open_table(RECORDS).map_err(|e| self.fail(e))?;
            let mut by_key = write.open_table(BY_KEY).map_err(|e| self.fail(e))?;
            by_key.insert(MOVED.0, MOVED.1).map_err(|e| self.fail(e))?;
        }
        write.commit().map_err(|e| self.fail(e))?;
        Ok(incarnation)
    }

    /// Gives the records of a file of the layout before their places, if there are any; nothing is done in halves.
    fn move_over(&self) -> Result<(), DiskError> {
        let write = self.database.begin_write().map_err(|e| self.fail(e))?;
        let mut place = 0_u64;
        {
            let by_key = write.open_table(BY_KEY).map_err(|e| self.fail(e))?;
            if by_key.get(MOVED.0).map_err(|e| self.fail(e))?.is_some() {
                return Ok(());
            }
            let mut records = write.open_table(RECORDS).map_err(|e| self.fail(e))?;
            for item in by_key.iter().map_err(|e| self.fail(e))? {
                let (key, old) = item.map_err(|e| self.fail(e))?;
                let damaged = || self.damaged("a record");
                // Schema, revision, JSON.
                let (head, json) = old.value().split_at_checked(10).ok_or_else(damaged)?;
                let schema = head.first_chunk::<2>().ok_or_else(damaged)?;
                let found = u16::from_be_bytes(*schema);
                if found > SCHEMA {
                    let key = key.value().to_owned();
                    return Err(DiskError::Newer { key, found });
                }
                let name = key.value();
                let length = u16::try_from(name.len()).ok().ok_or_else(damaged)?;
                let sealed = [head, &length.to_be_bytes(), name.as_bytes(), json].concat();
                let made = records.insert(place, sealed.as_slice());
                made.map_err(|e| self.fail(e))?;
                place += 1;
            }
        }
        write.delete_table(BY_KEY).map_err(|e| self.fail(e))?;
        {
            let mut by_key = write.open_table(BY_KEY).map_err(|e| self.fail(e))?;
            by_key.insert(MOVED.0, MOVED.1).map_err(|e| self.fail(e))?;
        }
        write.commit().map_err(|e| self.fail(e))?;
        tracing::info!(records = place, "the store has a new layout");
        Ok(())
    }

    fn damaged(&self, what: &'static str) -> DiskError {
        let path = self.path.clone();
        DiskError::Damaged { what, path }
    }
}

fn failed(path: &Path, source: impl Into<redb::Error>) -> DiskError {
    DiskError::Database {
        path: path.to_owned(),
        source: Box::new(source.into()),
    }
}

fn number(bytes: &[u8]) -> Option<u64> {
    bytes.try_into().ok().map(u64::from_be_bytes)
}

impl Disk for RedbDisk {
    fn load(&self) -> Result<Loaded, DiskError> {
        let read = self.database.begin_read().map_err(|e| self.fail(e))?;
        let meta = match read.open_table(META) {
            Ok(meta) => meta,
            Err(redb::TableError::TableDoesNotExist(_)) => {
                return Ok(Loaded {
                    map: OrderedMap::default(),
                    revision: Revision::default(),
                    incarnation: self.make()?,
                    next: 0,
                });
            }
            Err(error) => return Err(self.fail(error)),
        };
        let field = |name: &str| -> Result<Option<Vec<u8>>, DiskError> {
            Ok(meta
                .get(name)
                .map_err(|e| self.fail(e))?
                .map(|value| value.value().to_vec()))
        };
        let incarnation = field("incarnation")?
            .and_then(|bytes| Uuid::from_slice(&bytes).ok())
            .ok_or_else(|| self.damaged("the incarnation"))?;
        let revision = match field("revision")? {
            Some(bytes) => Revision(number(&bytes).ok_or_else(|| self.damaged("the revision"))?),
            None => Revision::default(),
        };
        drop((meta, read));
        self.move_over()?;
        let read = self.database.begin_read().map_err(|e| self.fail(e))?;
        let records = read.open_table(RECORDS).map_err(|e| self.fail(e))?;
        let mut found: Vec<(Arc<str>, Entry)> = Vec::new();
        let mut next = 0;
        for item in records.iter().map_err(|e| self.fail(e))? {
            let (place, value) = item.map_err(|e| self.fail(e))?;
            found.push(self.opened(place.value(), value.value())?);
            next = place.value() + 1;
        }
        // In the order of their keys the map fills its nodes.
        found.sort_unstable_by(|a, b| a.0.cmp(&b.0));
        let mut map = OrderedMap::default();
        for (key, entry) in found {
            if map.insert(key, entry).is_some() {
                return Err(self.damaged("the place of a record"));
            }
        }
        Ok(Loaded {
            map,
            revision,
            incarnation,
            next,
        })
    }

    fn commit(&self, changes: &[KeyChange], revision: Revision) -> Result<(), DiskError> {
        let write = self.database.begin_write().map_err(|e| self.fail(e))?;
        {
            let mut records = write.open_table(RECORDS).map_err(|e| self.fail(e))?;
            for change in changes {
                match (&change.before, &change.after) {
                    (_, Some(entry)) => {
                        let sealed = seal_envelope(&change.key, entry)?;
                        records
                            .insert(entry.place, sealed.as_slice())
                            .map_err(|e| self.fail(e))?;
                    }
                    (Some(entry), None) => {
                        records.remove(entry.place).map_err(|e| self.fail(e))?;
                    }
                    (None, None) => {}
                }
            }
            let mut meta = write.open_table(META).map_err(|e| self.fail(e))?;
            meta.insert("revision", revision.0.to_be_bytes().as_slice())
                .map_err(|e| self.fail(e))?;
        }
        write.commit().map_err(|e| self.fail(e))
    }
}

impl RedbDisk {
    fn opened(&self, place: u64, sealed: &[u8]) -> Result<(Arc<str>, Entry), DiskError> {
        let parts = || {
            let (schema, rest) = sealed.split_first_chunk::<2>()?;
            let (revision, rest) = rest.split_first_chunk::<8>()?;
            let (length, rest) = rest.split_first_chunk::<2>()?;
            let (key, json) = rest.split_at_checked(u16::from_be_bytes(*length).into())?;
            let key = std::str::from_utf8(key).ok()?;
            Some((u16::from_be_bytes(*schema), revision, key, json))
        };
        let (found, revision, key, json) = parts().ok_or_else(|| self.damaged("a record"))?;
        if found > SCHEMA {
            let key = key.to_owned();
            return Err(DiskError::Newer { key, found });
        }
        let record = (self.decode)(key, json).map_err(|source| DiskError::Record {
            key: key.to_owned(),
            source,
        })?;
        let entry = Entry {
            revision: Revision(u64::from_be_bytes(*revision)),
            place,
            record,
        };
        Ok((Arc::from(key), entry))
    }
}

fn seal_envelope(key: &str, entry: &Entry) -> Result<Vec<u8>, DiskError> {
    let unfit = |source| DiskError::Record {
        key: key.to_owned(),
        source,
    };
    let length = u16::try_from(key.len())
        .map_err(|_too_long| unfit(serde::ser::Error::custom("its key is over 65,535 bytes")))?;
    let mut sealed = Vec::with_capacity(1024);
    sealed.extend_from_slice(&SCHEMA.to_be_bytes());
    sealed.extend_from_slice(&entry.revision.0.to_be_bytes());
    sealed.extend_from_slice(&length.to_be_bytes());
    sealed.extend_from_slice(key.as_bytes());
    entry.record.encode_into(&mut sealed).map_err(unfit)?;
    Ok(sealed)
}

/// A disk without a file: it outlives the stores that are opened on it, not the process.
#[derive(Debug)]
pub struct MemoryDisk {
    incarnation: Uuid,
    fault: Option<fn(Revision) -> bool>,
    /// Locked for one load or commit at a time; the writer's alone but when a store is opened.
    kept: Mutex<(OrderedMap<Entry>, Revision)>,
}

impl MemoryDisk {
    /// An empty one.
    pub fn new(incarnation: Uuid) -> Self {
        Self {
            incarnation,
            fault: None,
            kept: Mutex::default(),
        }
    }

    /// One that holds what a store held, as another incarnation of it: what a restored backup is.
    pub fn restored(snapshot: &super::Snapshot, incarnation: Uuid) -> Self {
        let mut map = snapshot.map.clone();
        if snapshot.incarnation != incarnation {
            let (key, entry) = replaced(snapshot.incarnation, snapshot.revision, 0);
            map.insert(key, entry);
        }
        Self {
            kept: Mutex::new((map, snapshot.revision)),
            ..Self::new(incarnation)
        }
    }

    /// One whose commits fail when `fault` says so.
    #[must_use]
    pub const fn failing(mut self, fault: fn(Revision) -> bool) -> Self {
        self.fault = Some(fault);
        self
    }
}

impl Disk for MemoryDisk {
    fn load(&self) -> Result<Loaded, DiskError> {
        let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(Loaded {
            map: kept.0.clone(),
            revision: kept.1,
            incarnation: self.incarnation,
            // Nothing of it lies anywhere.
            next: 0,
        })
    }

    fn commit(&self, changes: &[KeyChange], revision: Revision) -> Result<(), DiskError> {
        if self.fault.is_some_and(|fault| fault(revision)) {
            return Err(DiskError::Injected);
        }
        for change in changes {
            if let Some(entry) = &change.after {
                seal_envelope(&change.key, entry)?;
            }
        }
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        for change in changes {
            match &change.after {
                Some(entry) => drop(kept.0.insert(Arc::clone(&change.key), entry.clone())),
                None => drop(kept.0.remove(&change.key)),
            }
        }
        kept.1 = revision;
        Ok(())
    }
}

/// The record that a restored store keeps of the one that it comes from.
pub(super) fn replaced(incarnation: Uuid, revision: Revision, place: u64) -> (Arc<str>, Entry) {
    let key = format!("{}{incarnation}", super::REPLACED);
    let record: Arc<dyn Record> = Arc::new(incarnation.to_string());
    let entry = Entry {
        revision,
        place,
        record,
    };
    (Arc::from(key), entry)
}
