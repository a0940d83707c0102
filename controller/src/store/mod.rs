//! Where is intent kept, and who may change it?
//!
//! A store of keyed records with the shape of etcd's API: every commit has a [`Revision`], a change
//! is a compare-and-swap transaction, and changes can be watched. A transaction is a re-runnable
//! pure closure over a [`View`]; the view records each key and range that it read, so that a backend
//! can compare those revisions at commit. The embedded backend runs all closures in one writer task,
//! one after the other; readers hold a [`Snapshot`] and never wait.
//!
//! # Invariants
//! - The answer of a transaction, every reader's snapshot and every watcher see a commit only after
//!   it is on disk; a failed sync fails its whole batch and all that stood on it.
//! - A record keeps the revision of the commit that last wrote it; revisions only grow.
//! - What must be exclusive is a key (`ip/…`, `mac/…`, `vni/…`), never a scan.
//!
//! # Cost
//! A snapshot is two reference counts. A read is one search in a B+ tree.
//!
//! # Threads
//! A [`Snapshot`] is `Send + Sync`; any number of readers, one writer.

mod backup;
mod disk;
mod embedded;
mod map;
#[cfg(test)]
mod tests;

pub use backup::{BackupFile, Beside, Scribe, restore};
pub use disk::{Decode, Disk, DiskError, Hear, Loaded, MemoryDisk, RedbDisk, SCHEMA, Step};
pub use embedded::Embedded;

use map::OrderedMap;
use std::{any::Any, cell::RefCell, fmt, future::Future, pin::Pin, sync::Arc};
use tokio::sync::broadcast;
use uuid::Uuid;

/// The records of a store that tell which incarnations it was restored from: each backup has its own on.
const REPLACED: &str = "replaced/";

/// The number of a commit. Never shown by the API; hosts know it as the generation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Revision(u64);

impl Revision {
    /// The revision with this number.
    pub const fn new(number: u64) -> Self {
        Self(number)
    }

    /// The number itself.
    pub const fn get(self) -> u64 {
        self.0
    }
}

impl fmt::Display for Revision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A value that can be stored: typed in memory, JSON on disk.
pub trait Record: Any + Send + Sync + fmt::Debug {
    /// The bytes for the disk.
    ///
    /// # Errors
    /// When the value has no JSON form (a map with keys that are not text).
    fn encode(&self) -> Result<Vec<u8>, serde_json::Error> {
        let mut bytes = Vec::with_capacity(512);
        self.encode_into(&mut bytes)?;
        Ok(bytes)
    }

    /// The same bytes, behind what is there.
    ///
    /// # Errors
    /// As [`Record::encode`]; what was written until then stays.
    fn encode_into(&self, bytes: &mut Vec<u8>) -> Result<(), serde_json::Error>;
}

impl<T: serde::Serialize + Any + Send + Sync + fmt::Debug> Record for T {
    fn encode_into(&self, bytes: &mut Vec<u8>) -> Result<(), serde_json::Error> {
        serde_json::to_writer(bytes, self)
    }
}

/// One stored record.
#[derive(Debug, Clone)]
pub struct Entry {
    revision: Revision,
    /// Where the disk has it: this key's since it was first written; see `disk`.
    place: u64,
    record: Arc<dyn Record>,
}

impl Entry {
    /// The commit that last wrote it.
    pub const fn revision(&self) -> Revision {
        self.revision
    }

    /// The value, if it is a `T`.
    pub fn get<T: Any + Send + Sync>(&self) -> Option<Arc<T>> {
        let record: Arc<dyn Any + Send + Sync> = Arc::<dyn Record>::clone(&self.record);
        record.downcast().ok()
    }

    /// The value, if it is a `T`, without touching its reference count.
    pub fn peek<T: Any>(&self) -> Option<&T> {
        let record: &dyn Any = self.record.as_ref();
        record.downcast_ref()
    }

    /// The value whatever its type.
    pub fn record(&self) -> &Arc<dyn Record> {
        &self.record
    }
}

/// The store as it was right after one commit.
#[derive(Debug, Clone)]
pub struct Snapshot {
    revision: Revision,
    incarnation: Uuid,
    map: OrderedMap<Entry>,
}

impl Snapshot {
    /// The commit that this is the state after.
    pub const fn revision(&self) -> Revision {
        self.revision
    }

    /// How many records there are.
    pub fn len(&self) -> usize {
        self.map.len()
    }

    /// Is there none?
    pub fn is_empty(&self) -> bool {
        self.map.len() == 0
    }

    /// What follows `prefix` in the keys that begin with it, in order, from `from` on; read as it is asked for.
    pub fn rest_of_keys(&self, prefix: String, from: &str) -> impl Iterator<Item = &str> + use<'_> {
        range(&self.map, &prefix, from).map_while(move |(key, _)| key.strip_prefix(prefix.as_str()))
    }

    /// Changes when the store was made anew or restored from a backup; fences hosts.
    pub const fn incarnation(&self) -> Uuid {
        self.incarnation
    }

    /// The incarnations whose backups this one was restored from, one after the other: their controllers must not be
    /// followed again.
    pub fn replaced(&self) -> Vec<Uuid> {
        let keys = self.scan(REPLACED).map(|(key, _)| key);
        keys.filter_map(|key| key.strip_prefix(REPLACED)?.parse().ok())
            .collect()
    }
}

/// What both a [`Snapshot`] and a [`View`] can answer.
pub trait Read {
    /// The entry at exactly this key.
    fn entry(&self, key: &str) -> Option<&Entry>;

    /// The entries whose keys begin with `prefix`, in order, from the first that is not less than
    /// `prefix` + `from`.
    fn scan_from<'a>(&'a self, prefix: &'a str, from: &str) -> Scan<'a>;

    /// The entries whose keys begin with `prefix`, in order.
    fn scan<'a>(&'a self, prefix: &'a str) -> Scan<'a> {
        self.scan_from(prefix, "")
    }

    /// The record at this key, if it is a `T`.
    fn get<T: Any + Send + Sync>(&self, key: &str) -> Option<Arc<T>>
    where
        Self: Sized,
    {
        self.entry(key)?.get()
    }
}

/// Entries in the order of their keys; see [`Read::scan`].
#[derive(Debug)]
pub struct Scan<'a> {
    inner: map::Iter<'a, Entry>,
    prefix: &'a str,
}

impl<'a> Iterator for Scan<'a> {
    type Item = (&'a str, &'a Entry);

    fn next(&mut self) -> Option<Self::Item> {
        let (key, entry) = self.inner.next()?;
        key.starts_with(self.prefix)
            .then_some((key.as_ref(), entry))
    }
}

impl Read for Snapshot {
    fn entry(&self, key: &str) -> Option<&Entry> {
        self.map.get(key)
    }

    fn scan_from<'a>(&'a self, prefix: &'a str, from: &str) -> Scan<'a> {
        Scan {
            inner: range(&self.map, prefix, from),
            prefix,
        }
    }
}

fn range<'a>(map: &'a OrderedMap<Entry>, prefix: &str, from: &str) -> map::Iter<'a, Entry> {
    if from.is_empty() {
        map.range(prefix)
    } else {
        map.range(&format!("{prefix}{from}"))
    }
}

/// What a transaction read: a backend with other writers compares it at commit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ReadRange {
    /// One key.
    Key(String),
    /// All keys with this prefix, from the second text on.
    Prefix(String, String),
}

/// One write of a transaction, with what stood there before.
#[derive(Debug, Clone)]
pub struct KeyChange {
    /// The key.
    pub key: Arc<str>,
    /// The entry that was there, if any.
    pub before: Option<Entry>,
    /// The entry that is there now; `None` when it was deleted.
    pub after: Option<Entry>,
}

/// The state that a transaction sees, its own writes included.
///
/// Writes go into the map in place, with a log to undo them: a refused transaction leaves nothing.
#[derive(Debug)]
pub struct View {
    map: OrderedMap<Entry>,
    revision: Revision,
    /// Where the next new key's record goes.
    next: u64,
    log: Vec<KeyChange>,
    /// `None` where there is one writer, who compares nothing.
    reads: Option<RefCell<Vec<ReadRange>>>,
}

impl View {
    /// A view whose writes will carry `revision`, and new keys the places from `next` on; what is read is not noted.
    fn new(map: OrderedMap<Entry>, revision: Revision, next: u64) -> Self {
        Self {
            map,
            revision,
            next,
            log: Vec::new(),
            reads: None,
        }
    }

    /// A view of a snapshot whose writes go nowhere: for trying a rule out. What is read is noted.
    pub fn of(snapshot: &Snapshot) -> Self {
        Self {
            reads: Some(RefCell::default()),
            ..Self::new(snapshot.map.clone(), Revision(snapshot.revision.0 + 1), 0)
        }
    }

    fn note(&self, read: impl FnOnce() -> ReadRange) {
        if let Some(reads) = &self.reads {
            reads.borrow_mut().push(read());
        }
    }

    /// Writes a record.
    pub fn put(&mut self, key: impl Into<Arc<str>>, record: Arc<dyn Record>) {
        let key = key.into();
        let place = self.map.get(&key).map(|entry| entry.place);
        let entry = Entry {
            revision: self.revision,
            place: place.unwrap_or(self.next),
            record,
        };
        if place.is_none() {
            self.next += 1;
        }
        let before = self.map.insert(Arc::clone(&key), entry.clone());
        self.log.push(KeyChange {
            key,
            before,
            after: Some(entry),
        });
    }

    /// Deletes a record; `true` if there was one.
    pub fn delete(&mut self, key: &str) -> bool {
        let Some(before) = self.map.remove(key) else {
            return false;
        };
        self.log.push(KeyChange {
            key: Arc::from(key),
            before: Some(before),
            after: None,
        });
        true
    }

    /// The same state again, to try something out.
    #[cfg(test)]
    pub(crate) fn clone_for_test(&self) -> Self {
        Self {
            reads: Some(RefCell::default()),
            ..Self::new(self.map.clone(), Revision(self.revision.0 + 1), self.next)
        }
    }

    /// What was read up to now, where that is noted.
    pub fn reads(&self) -> Vec<ReadRange> {
        let noted = self.reads.as_ref();
        noted
            .map(|reads| reads.borrow().clone())
            .unwrap_or_default()
    }

    /// What was written up to now, each write by itself.
    pub fn writes(&self) -> &[KeyChange] {
        &self.log
    }

    fn undo(mut self) -> OrderedMap<Entry> {
        for change in self.log.drain(..).rev() {
            match change.before {
                Some(entry) => {
                    self.map.insert(change.key, entry);
                }
                None => {
                    self.map.remove(&change.key);
                }
            }
        }
        self.map
    }
}

impl Read for View {
    fn entry(&self, key: &str) -> Option<&Entry> {
        self.note(|| ReadRange::Key(key.to_owned()));
        self.map.get(key)
    }

    fn scan_from<'a>(&'a self, prefix: &'a str, from: &str) -> Scan<'a> {
        self.note(|| ReadRange::Prefix(prefix.to_owned(), from.to_owned()));
        Scan {
            inner: range(&self.map, prefix, from),
            prefix,
        }
    }
}

/// One batch of changes that became durable together.
#[derive(Debug)]
pub struct Commit {
    /// The revision after the batch.
    pub revision: Revision,
    /// The state after the batch.
    pub snapshot: Snapshot,
    /// The changes in the order in which they were made; a key may occur more than once.
    pub changes: Vec<KeyChange>,
}

/// What a watcher hears.
#[derive(Debug)]
pub enum Event {
    /// The next batch, none left out since the last.
    Commit(Arc<Commit>),
    /// The watcher was too slow and missed some: this is the state to start again from.
    Resync(Snapshot),
}

/// A subscription to all commits after a snapshot.
#[derive(Debug)]
pub struct Watcher {
    stream: broadcast::Receiver<Arc<Commit>>,
    after: Revision,
    latest: Arc<arc_swap::ArcSwap<Snapshot>>,
}

impl Watcher {
    /// The next event; `None` once the store is closed.
    pub async fn next(&mut self) -> Option<Event> {
        loop {
            let heard = match self.stream.recv().await {
                Ok(commit) => Some(commit),
                Err(broadcast::error::RecvError::Lagged(_)) => None,
                Err(broadcast::error::RecvError::Closed) => return None,
            };
            if let Some(event) = self.take(heard) {
                return Some(event);
            }
        }
    }

    /// All that has come, at least one event, and at most so many: a watcher that fell behind catches up with what it can
    /// take in one piece. `None` once the store is closed.
    pub async fn some(&mut self, most: usize) -> Option<Vec<Event>> {
        let mut events = vec![self.next().await?];
        while events.len() < most {
            let heard = match self.stream.try_recv() {
                Ok(commit) => Some(commit),
                Err(broadcast::error::TryRecvError::Lagged(_)) => None,
                Err(
                    broadcast::error::TryRecvError::Empty | broadcast::error::TryRecvError::Closed,
                ) => break,
            };
            events.extend(self.take(heard));
        }
        Some(events)
    }

    /// What a commit is to this watcher; none: some were missed.
    fn take(&mut self, heard: Option<Arc<Commit>>) -> Option<Event> {
        if let Some(commit) = heard {
            if commit.revision <= self.after {
                return None;
            }
            self.after = commit.revision;
            return Some(Event::Commit(commit));
        }
        // From the newest on, or the next commit would lag again.
        self.stream = self.stream.resubscribe();
        let snapshot = self.latest.load_full();
        self.after = snapshot.revision;
        Some(Event::Resync(Snapshot::clone(&snapshot)))
    }
}

/// The answer of an erased transaction: what it returned or what it was refused with.
pub type Outcome = Result<Box<dyn Any + Send>, Box<dyn Any + Send>>;

/// A re-runnable transaction, its types erased.
pub type Transaction = Box<dyn Fn(&mut View) -> Outcome + Send>;

/// Why a transaction has no answer: nobody can say whether it happened.
#[derive(Debug, Clone, thiserror::Error)]
#[error("the store cannot write: {reason}")]
pub struct Unavailable {
    /// What the backend said.
    pub reason: Arc<str>,
}

/// Why a transaction did not commit.
#[derive(Debug, thiserror::Error)]
pub enum TransactError<E> {
    /// The closure refused.
    #[error("refused")]
    Refused(E),
    /// The backend failed.
    #[error(transparent)]
    Unavailable(#[from] Unavailable),
}

/// A committed transaction.
#[derive(Debug)]
pub struct Committed<T> {
    /// What the closure returned.
    pub value: T,
    /// The commit that holds it; the last one before it if it wrote nothing.
    pub revision: Revision,
}

/// A boxed future, so that the store can be a trait object.
pub type Pending<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// A backend.
pub trait Store: Send + Sync + fmt::Debug {
    /// The state after the last durable commit.
    fn snapshot(&self) -> Snapshot;

    /// Runs a transaction; [`transact`] is the typed form.
    fn submit(&self, transaction: Transaction)
    -> Pending<Result<(Outcome, Revision), Unavailable>>;

    /// Did the last commit succeed?
    fn is_healthy(&self) -> bool;

    /// A snapshot, and all commits after it.
    fn watch(&self) -> (Snapshot, Watcher);
}

/// Runs `rule` in the store: all of its writes commit, or none.
///
/// The rule must be pure but for the view: a backend may run it again.
///
/// # Errors
/// What the rule refused with, or that the store cannot write.
pub async fn transact<T, E>(
    store: &dyn Store,
    rule: impl Fn(&mut View) -> Result<T, E> + Send + 'static,
) -> Result<Committed<T>, TransactError<E>>
where
    T: Send + 'static,
    E: Send + 'static,
{
    let erased: Transaction = Box::new(move |view| match rule(view) {
        Ok(value) => Ok(Box::new(value) as Box<dyn Any + Send>),
        Err(refusal) => Err(Box::new(refusal) as Box<dyn Any + Send>),
    });
    let (outcome, revision) = store.submit(erased).await?;
    match outcome {
        Ok(value) => match value.downcast::<T>() {
            Ok(value) => Ok(Committed {
                value: *value,
                revision,
            }),
            Err(_) => unreachable!("the closure above boxes a T"),
        },
        Err(refusal) => match refusal.downcast::<E>() {
            Ok(refusal) => Err(TransactError::Refused(*refusal)),
            Err(_) => unreachable!("the closure above boxes an E"),
        },
    }
}
