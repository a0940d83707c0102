//! How does one writer serve many callers durably?
//!
//! Transactions queue for one task. It runs each on the newest state, commits or not, and collects
//! their writes into a batch; while the disk syncs one batch the next grows on top of it. Only when
//! the sync is done do callers get answers, readers the snapshot, watchers the commit. An idle store
//! syncs a lone transaction at once; a busy one shares each sync among all that came meanwhile.
//!
//! # Invariants
//! - The tip (what the next transaction sees) is the durable state plus the batches in flight. When a
//!   sync fails, all in flight fail and the tip falls back to the durable state.
//! - A refusal, too, waits for the sync of what it was judged on.
//!
//! # Threads
//! One task; the disk works on the blocking pool. The queue holds [`QUEUE`] transactions, then pushes
//! back.

use super::{
    Commit, Disk, DiskError, Entry, KeyChange, Loaded, OrderedMap, Outcome, Pending, Revision,
    Snapshot, Store, Transaction, Unavailable, View, Watcher,
};
use arc_swap::ArcSwap;
use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};
use tokio::sync::{broadcast, mpsc, oneshot};
use uuid::Uuid;

/// Transactions that may wait; more callers than the connection cap allows never fill it.
const QUEUE: usize = 4096;
/// Transactions in one batch: bounds the work lost to one failed sync.
const BATCH: usize = 2048;
/// Commits that a watcher may lag behind before it must resync.
const WATCH_LAG: usize = 1024;

type Reply = oneshot::Sender<Result<(Outcome, Revision), Unavailable>>;

struct Job {
    transaction: Transaction,
    reply: Reply,
}

/// The embedded store.
#[derive(Debug)]
pub struct Embedded {
    jobs: mpsc::Sender<Job>,
    latest: Arc<ArcSwap<Snapshot>>,
    commits: broadcast::Sender<Arc<Commit>>,
    healthy: Arc<AtomicBool>,
}

impl Embedded {
    /// What a disk holds, without a writer.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn read(disk: &dyn Disk) -> Result<Snapshot, DiskError> {
        Ok(disk.load()?.snapshot())
    }

    /// Loads a disk; the returned task is the writer and ends when the last handle is dropped.
    ///
    /// # Errors
    /// When the disk cannot be read.
    pub fn open(
        disk: Arc<dyn Disk>,
    ) -> Result<(Self, impl Future<Output = ()> + Send + 'static), DiskError> {
        let loaded = disk.load()?;
        let next = loaded.next;
        let snapshot = loaded.snapshot();
        let healthy = Arc::new(AtomicBool::new(true));
        let (jobs, queue) = mpsc::channel(QUEUE);
        let (commits, _) = broadcast::channel(WATCH_LAG);
        let writer = Writer {
            tip: snapshot.map.clone(),
            revision: snapshot.revision,
            next,
            incarnation: snapshot.incarnation,
            latest: Arc::new(ArcSwap::from_pointee(snapshot)),
            commits: commits.clone(),
            disk,
            open: Batch::default(),
            healthy: Arc::clone(&healthy),
        };
        let latest = Arc::clone(&writer.latest);
        Ok((
            Self {
                jobs,
                latest,
                commits,
                healthy,
            },
            writer.run(queue),
        ))
    }
}

impl Loaded {
    fn snapshot(self) -> Snapshot {
        Snapshot {
            revision: self.revision,
            incarnation: self.incarnation,
            map: self.map,
        }
    }
}

impl Store for Embedded {
    fn snapshot(&self) -> Snapshot {
        Snapshot::clone(&self.latest.load())
    }

    fn submit(
        &self,
        transaction: Transaction,
    ) -> Pending<Result<(Outcome, Revision), Unavailable>> {
        let jobs = self.jobs.clone();
        Box::pin(async move {
            let closed = || Unavailable {
                reason: Arc::from("the store is closed"),
            };
            let (reply, answer) = oneshot::channel();
            if jobs.send(Job { transaction, reply }).await.is_err() {
                return Err(closed());
            }
            answer.await.unwrap_or_else(|_| Err(closed()))
        })
    }

    fn is_healthy(&self) -> bool {
        self.healthy.load(Ordering::Relaxed)
    }

    fn watch(&self) -> (Snapshot, Watcher) {
        let stream = self.commits.subscribe();
        // Subscribed first: a commit between the two lines is in both and skipped by revision.
        let snapshot = self.snapshot();
        let after = snapshot.revision;
        (
            snapshot,
            Watcher {
                stream,
                after,
                latest: Arc::clone(&self.latest),
            },
        )
    }
}

/// Transactions whose writes reach the disk together.
#[derive(Default)]
struct Batch {
    changes: Vec<KeyChange>,
    replies: Vec<(Reply, Outcome, Revision)>,
}

struct Flight {
    batch: Batch,
    map: OrderedMap<Entry>,
    revision: Revision,
    done: oneshot::Receiver<Result<Vec<KeyChange>, Arc<str>>>,
}

struct Writer {
    tip: OrderedMap<Entry>,
    revision: Revision,
    /// The first place that no key has had; not given twice, whatever becomes of a batch.
    next: u64,
    incarnation: Uuid,
    latest: Arc<ArcSwap<Snapshot>>,
    commits: broadcast::Sender<Arc<Commit>>,
    disk: Arc<dyn Disk>,
    open: Batch,
    healthy: Arc<AtomicBool>,
}

impl Writer {
    async fn run(mut self, mut queue: mpsc::Receiver<Job>) {
        let mut flight: Option<Flight> = None;
        let mut closed = false;
        loop {
            if flight.is_none() {
                flight = self.take_off();
            }
            if closed && flight.is_none() {
                return;
            }
            let landed = async {
                match flight.as_mut() {
                    Some(flight) => (&mut flight.done).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                // A sync that is done frees callers: it goes first.
                biased;
                result = landed => {
                    if let Some(flight) = flight.take() {
                        let result = result
                            .unwrap_or_else(|_| Err(Arc::from("the disk's task ended")));
                        self.land(flight, result);
                    }
                }
                job = queue.recv(), if !closed && self.open.replies.len() < BATCH => match job {
                    Some(job) => self.execute(job),
                    None => closed = true,
                },
            }
        }
    }

    fn execute(&mut self, job: Job) {
        let next = Revision(self.revision.0 + 1);
        let mut view = View::new(std::mem::take(&mut self.tip), next, self.next);
        let outcome = (job.transaction)(&mut view);
        self.next = view.next;
        if outcome.is_err() {
            self.tip = view.undo();
        } else {
            if !view.log.is_empty() {
                self.revision = next;
            }
            self.open.changes.append(&mut view.log);
            self.tip = view.map;
        }
        self.open.replies.push((job.reply, outcome, self.revision));
    }

    /// Sends the open batch to the disk; one that wrote nothing is answered here.
    fn take_off(&mut self) -> Option<Flight> {
        if self.open.replies.is_empty() {
            return None;
        }
        let batch = std::mem::take(&mut self.open);
        if batch.changes.is_empty() {
            answer(batch.replies);
            return None;
        }
        let (finished, done) = oneshot::channel();
        let disk = Arc::clone(&self.disk);
        let revision = self.revision;
        let mut batch = batch;
        let changes = std::mem::take(&mut batch.changes);
        tokio::task::spawn_blocking(move || {
            let result = match disk.commit(&changes, revision) {
                Ok(()) => Ok(changes),
                Err(error) => {
                    let source: &dyn std::error::Error = &error;
                    let cause = source
                        .source()
                        .map(|c| format!(": {c}"))
                        .unwrap_or_default();
                    Err(Arc::from(format!("{error}{cause}")))
                }
            };
            // Let go first: who has heard the answer may end the writer and open the file again.
            drop(disk);
            // The writer is gone only when the process ends; nobody is left to hear it.
            drop(finished.send(result));
        });
        Some(Flight {
            batch,
            map: self.tip.clone(),
            revision,
            done,
        })
    }

    fn land(&mut self, flight: Flight, result: Result<Vec<KeyChange>, Arc<str>>) {
        self.healthy.store(result.is_ok(), Ordering::Relaxed);
        match result {
            Ok(changes) => {
                let snapshot = Snapshot {
                    revision: flight.revision,
                    incarnation: self.incarnation,
                    map: flight.map,
                };
                self.latest.store(Arc::new(snapshot.clone()));
                answer(flight.batch.replies);
                let commit = Commit {
                    revision: flight.revision,
                    snapshot,
                    changes,
                };
                // No watcher is no failure.
                drop(self.commits.send(Arc::new(commit)));
            }
            Err(reason) => {
                tracing::error!(%reason, "a commit failed");
                let durable = self.latest.load();
                self.tip = durable.map.clone();
                // Revisions are not reused: the failed batch may be on the disk after all.
                let stacked = std::mem::take(&mut self.open);
                for (reply, _, _) in flight.batch.replies.into_iter().chain(stacked.replies) {
                    drop(reply.send(Err(Unavailable {
                        reason: Arc::clone(&reason),
                    })));
                }
            }
        }
    }
}

fn answer(replies: Vec<(Reply, Outcome, Revision)>) {
    for (reply, outcome, revision) in replies {
        // A caller that hung up no longer wants the answer.
        drop(reply.send(Ok((outcome, revision))));
    }
}
