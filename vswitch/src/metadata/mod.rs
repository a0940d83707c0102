//! Who is behind 169.254.169.254?
//!
//! Pages at port 80, and at port 53 names by TCP.
//!
//! A small TCP stack and an HTTP server on one thread of their own. Workers take what is for the service out of the fast path and hand
//! it in by a [`Hatch`], a bounded queue that refuses when it is full; what the service answers comes back by a bounded ring for each worker, which
//! sends it to the port. So no worker ever waits for a page, and none is made by a worker.
//!
//! - `stack`: the connections of each port (smoltcp), with their limits
//! - `stream`: a connection, as tasks read and write it
//! - `server`: requests (hyper); what is refused
//! - `tree`: the pages, of EC2's form and of OpenStack's
//! - `directory`: who is behind which port, by the config that runs
//! - `names`: questions for names
//! - `nova`: or Nova answers, to whom the request is passed on with its signature
//!
//! # Invariants
//! - Who asks is known by the port that its frame came from, which the switch says, never by an address.
//! - Every queue is bounded. A port has a stack of its own, few connections, and a queue of its own: what it asks too much it loses itself.
//! - A fault of one port's stack ends that port's connections alone.
//!
//! See [ADR 17](../../docs/adr/0017-metadata.md).

mod directory;
pub mod exchange;
mod hatch;
mod names;
mod nova;
mod server;
mod stack;
mod stream;
mod tree;

#[cfg(test)]
mod tests;

use std::{
    cell::RefCell,
    io,
    rc::Rc,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::Duration,
};

use arc_swap::ArcSwap;
use hostconfig::HostConfig;
use net::Now;
use tokio::{sync::Notify, task::LocalSet};
use tracing::error;

pub use hatch::{Hatch, Inward, Outward};
pub use nova::{NovaConfig, NovaError};
pub use stack::Limits;

use crate::datapath::tables::metadata as service;
use crate::{
    stats::Row,
    worker::{Ringer, SharedTables},
};
use directory::Directory;
use hatch::Doors;
use nova::Nova;
use server::Context;
use stack::Stacks;
use stream::{Shared, Stream};

/// Packets that wait to be handed in, of all workers.
const INWARD: usize = 1024;
/// Frames that wait to be sent, a worker.
const OUTWARD: usize = 256;
/// Packets that are taken at a time.
const BATCH: usize = 256;
/// No timer is shorter: a ring that is full is looked at again.
const PAUSE: Duration = Duration::from_millis(1);

/// The answers that are counted apart, by their HTTP status; the last stands for all others.
pub const CODES: [u16; 8] = [200, 403, 404, 405, 500, 502, 503, 0];

/// How a question for a name ended that came by TCP.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Named {
    /// The switch answered it: with what the network knows, or that nobody does.
    Network,
    /// What a name server said was passed on, to its end.
    Server,
    /// Its name server could not be asked, or did not answer, or not to the end.
    Failed,
    /// It was none.
    Malformed,
}

impl Named {
    /// All of them, in the order in which they are counted, with their names.
    pub const ALL: [(Self, &str); 4] = [
        (Self::Network, "network"),
        (Self::Server, "server"),
        (Self::Failed, "failed"),
        (Self::Malformed, "malformed"),
    ];
}

/// What the service has counted.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    answered: [AtomicU64; CODES.len()],
    named: [AtomicU64; Named::ALL.len()],
    /// Connections that are open.
    open: AtomicU64,
    /// Connections that were refused: the port has as many as it may, or the host has.
    full_port: AtomicU64,
    full_host: AtomicU64,
    /// Packets that found no room in their port's queue, or could not be read.
    lost: AtomicU64,
    /// Ports whose stack had a fault.
    faults: AtomicU64,
}

/// The same, to be told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counts {
    /// Answers, by the places of [`CODES`].
    pub answered: [u64; CODES.len()],
    /// Questions for names, by the places of [`Named::ALL`].
    pub named: [u64; Named::ALL.len()],
    /// Connections that are open.
    pub open: u64,
    /// Connections that were refused since their port has as many as it may.
    pub full_port: u64,
    /// Connections that were refused since the host has.
    pub full_host: u64,
    /// Packets that found no room in their port's queue, or could not be read.
    pub lost: u64,
    /// Ports whose stack had a fault.
    pub faults: u64,
}

impl Counters {
    fn answered(&self, code: u16) {
        let at = CODES.iter().position(|c| *c == code);
        let at = at.unwrap_or(CODES.len() - 1);
        if let Some(counter) = self.answered.get(at) {
            counter.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn named(&self, how: Named) {
        if let Some(counter) = self.named.get(how as usize) {
            counter.fetch_add(1, Ordering::Relaxed);
        }
    }

    pub(crate) fn read(&self) -> Counts {
        let of = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Counts {
            answered: self.answered.each_ref().map(of),
            named: self.named.each_ref().map(of),
            open: of(&self.open),
            full_port: of(&self.full_port),
            full_host: of(&self.full_host),
            lost: of(&self.lost),
            faults: of(&self.faults),
        }
    }
}

/// The rows of a metric.
pub(crate) fn rows(name: &str, counts: &Counts) -> Vec<Row> {
    let row = |label: &str, n| (vec![label.to_owned()], n);
    match name {
        "vswitch_metadata_requests_total" => {
            let codes = CODES.iter().zip(counts.answered);
            codes
                .map(|(code, n)| match code {
                    0 => row("other", n),
                    code => row(&code.to_string(), n),
                })
                .collect()
        }
        "vswitch_metadata_names_total" => {
            let all = Named::ALL.iter().zip(counts.named);
            all.map(|((_, name), n)| row(name, n)).collect()
        }
        "vswitch_metadata_connections" => vec![(Vec::new(), counts.open)],
        "vswitch_metadata_refused_total" => vec![
            row("port", counts.full_port),
            row("host", counts.full_host),
            row("packets", counts.lost),
            row("fault", counts.faults),
        ],
        _ => Vec::new(),
    }
}

/// The service, as the agent sees it.
#[derive(Debug)]
pub(crate) struct Service {
    directory: Arc<ArcSwap<Directory>>,
    counters: Arc<Counters>,
    thread: Option<thread::JoinHandle<()>>,
}

/// What is made before the workers, whom it gives a hatch each.
#[derive(Debug)]
pub(crate) struct Foundation {
    doors: Doors,
}

impl Foundation {
    /// Hatches for so many workers.
    pub(crate) fn new(workers: u16) -> (Self, Vec<Hatch>) {
        let (doors, hatches) = hatch::hatches(workers, INWARD, OUTWARD);
        (Self { doors }, hatches)
    }

    /// Starts the service; `ringers` wake the workers.
    ///
    /// # Errors
    /// When Nova's secret or certificates can't be read, or the system gives no thread.
    pub(crate) fn start(
        self,
        nova: Option<&NovaConfig>,
        (seed, tables): (u64, SharedTables),
        ringers: Vec<Ringer>,
        clock: fn() -> Now,
    ) -> Result<Service, ServiceError> {
        let directory = Arc::new(ArcSwap::from_pointee(Directory::default()));
        let counters = Arc::new(Counters::default());
        let context = Context {
            directory: Arc::clone(&directory),
            counters: Arc::clone(&counters),
            nova: nova.map(Nova::open).transpose()?,
            tables,
            clock,
        };
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(ServiceError::Thread)?;
        let thread = thread::Builder::new()
            .name("metadata".to_owned())
            .spawn(move || {
                let counters = Arc::clone(&context.counters);
                let stacks = Stacks::new(Limits::default(), seed, counters);
                let serves = run(self.doors, stacks, context, ringers, clock);
                LocalSet::new().block_on(&runtime, serves);
            })
            .map_err(ServiceError::Thread)?;
        Ok(Service {
            directory,
            counters,
            thread: Some(thread),
        })
    }
}

/// Why there is no metadata service.
#[derive(Debug, thiserror::Error)]
pub enum ServiceError {
    /// What speaks to Nova.
    #[error(transparent)]
    Nova(#[from] NovaError),
    /// No thread.
    #[error("can't start the thread of the metadata service")]
    Thread(#[source] io::Error),
}

impl Service {
    /// Answers by this config from now on.
    pub(crate) fn told(&self, config: &HostConfig) {
        self.directory.store(Arc::new(Directory::new(config)));
    }

    /// What it has counted.
    pub(crate) fn counts(&self) -> Counts {
        self.counters.read()
    }

    /// Waits for its end, which comes when no worker is left.
    pub(crate) fn join(&mut self) {
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            error!("the metadata service had ended before; see the log");
        }
    }
}

/// Serves until every hatch is gone.
async fn run(
    mut doors: Doors,
    stacks: Stacks,
    context: Context,
    ringers: Vec<Ringer>,
    clock: fn() -> Now,
) {
    let shared = Rc::new(Shared {
        stacks: RefCell::new(stacks),
        wake: Notify::new(),
    });
    let context = Rc::new(context);
    let mut batch = Vec::with_capacity(BATCH);
    let mut next: Option<Now> = None;
    loop {
        let now = clock();
        let pause = next.map(|at| Duration::from_nanos(at.nanos().saturating_sub(now.nanos())));
        let timer = async {
            match pause {
                Some(pause) => tokio::time::sleep(pause.max(PAUSE)).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            taken = doors.inward.recv_many(&mut batch, BATCH) => if taken == 0 {
                return;
            },
            () = shared.wake.notified() => {}
            () = timer => {}
        }
        let turn = {
            let mut stacks = shared.stacks.borrow_mut();
            for inward in batch.drain(..) {
                stacks.take(inward);
            }
            let directory = context.directory.load();
            stacks.retain(|port| directory.has(port));
            stacks.turn(clock(), &mut doors.outward)
        };
        for (worker, ringer) in ringers.iter().enumerate() {
            if turn.sent.contains(&worker) {
                ringer.ring();
            }
        }
        for opened in turn.opened {
            let stream = Stream::new(Rc::clone(&shared), opened.port, opened.id);
            let context = Rc::clone(&context);
            tokio::task::spawn_local(async move {
                let who = (opened.port, opened.from);
                if opened.to.port() == service::PORT {
                    server::serve(stream, who, &context).await;
                } else {
                    names::serve(stream, who, &context).await;
                }
            });
        }
        next = turn.next;
    }
}
