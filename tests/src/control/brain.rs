//! What is a controller without its listeners?
//!
//! The store on a disk in memory, the rules' transactions, the publisher and the status board: all that a controller's process
//! has but HTTP and gRPC. Drop it and it was killed; start another on the same disk and it was restarted.

use std::{net::IpAddr, sync::Arc};

use controller::{
    Core,
    api::Scene,
    audit::Audit,
    compile::{
        compile,
        intent::{Change, Intent},
        view,
    },
    hosts::{
        note_vtep,
        publish::{Effect, Event, Publisher, Reading},
    },
    refusal::Refusal,
    resource::{Objects, Resource},
    rules::{Caller, Dice, Facts, Moment},
    store::{Disk, Embedded, Snapshot, TransactError, View, Watcher, transact},
    time::{Clock, Seconds},
};
use hostconfig::{Generation, HostConfig};
use serde_json::Value;
use tokio::runtime::Runtime;
use uuid::Uuid;

/// A controller's process.
#[derive(Debug)]
pub struct Brain {
    /// Store and status board.
    pub core: Arc<Core>,
    /// Sessions and compiler.
    pub publisher: Publisher,
    watcher: Watcher,
}

impl Brain {
    /// Starts on what the disk holds.
    pub fn start(runtime: &Runtime, disk: Arc<dyn Disk>, at: Reading) -> Self {
        let (store, writer) = Embedded::open(disk).unwrap();
        runtime.spawn(writer);
        let core = Arc::new(Core::new(
            Arc::new(store),
            Facts::default(),
            Clock::default(),
            Audit::none(),
        ));
        let (snapshot, watcher) = core.store.watch();
        let publisher = Publisher::of(&snapshot, Arc::clone(&core.status), &core.facts, at);
        Self {
            core,
            publisher,
            watcher,
        }
    }

    /// The store as it is.
    pub fn snapshot(&self) -> Snapshot {
        self.core.store.snapshot()
    }

    /// A transaction with the randomness of this seed.
    ///
    /// # Errors
    /// What the rules refuse.
    pub fn transact<T: Send + 'static>(
        &self,
        runtime: &Runtime,
        (seed, now): (u64, Seconds),
        rule: impl Fn(&mut View, &Moment) -> Result<T, Refusal> + Send + 'static,
    ) -> Result<T, Refusal> {
        let mut bytes = [0; 32];
        bytes[..8].copy_from_slice(&seed.to_be_bytes());
        let facts = Arc::clone(&self.core.facts);
        let rule = move |view: &mut View| {
            let dice = Dice::new(bytes);
            let facts = Arc::clone(&facts);
            rule(
                view,
                &Moment {
                    now,
                    dice,
                    facts,
                    bundles: Arc::default(),
                },
            )
        };
        match runtime.block_on(transact(self.core.store.as_ref(), rule)) {
            Ok(committed) => Ok(committed.value),
            Err(TransactError::Refused(refusal)) => Err(refusal),
            Err(TransactError::Unavailable(error)) => panic!("{error}"),
        }
    }

    /// Follows the next commit, if there is one.
    pub fn follow(&mut self, runtime: &Runtime, at: Reading) -> Option<Vec<Effect>> {
        let watcher = &mut self.watcher;
        let next = runtime.block_on(async {
            tokio::select! {
                biased;
                event = watcher.next() => event,
                () = std::future::ready(()) => None,
            }
        });
        let event = Event::heard(&[next?], &self.core.facts);
        Some(self.publisher.on(event, at))
    }

    /// Notes where a host's VTEP is, as the publisher asked for.
    pub fn note_vtep(
        &mut self,
        runtime: &Runtime,
        (host, vtep): (Uuid, Option<IpAddr>),
        at: Reading,
    ) -> Vec<Effect> {
        let noted = note_vtep(self.core.store.as_ref(), host, vtep, at.wall);
        match runtime.block_on(noted) {
            Ok(()) => Vec::new(),
            Err(TransactError::Refused((host, reason))) => {
                self.publisher.on(Event::VtepRefused(host, reason), at)
            }
            Err(TransactError::Unavailable(error)) => panic!("{error}"),
        }
    }

    /// What the store says of a host, compiled from scratch.
    pub fn wanted(&self, host: &str) -> Option<HostConfig> {
        let snapshot = self.snapshot();
        let mut intent = Intent::default();
        for object in view::objects(&snapshot, &self.core.facts) {
            intent.apply(&Change::Put(object));
        }
        let generation = Generation(snapshot.revision().get());
        compile(&intent, snapshot.incarnation(), generation).remove(&host.into())
    }

    /// A field of an object, as the API shows it to an admin.
    pub fn shown<T: Resource>(&self, id: Uuid, field: &str) -> Value {
        let snapshot = self.snapshot();
        let scene = Scene {
            snapshot: &snapshot,
            status: &self.core.status,
            facts: &self.core.facts,
            caller: &Caller::system(),
            now: Seconds::default(),
        };
        let object = snapshot.object::<T>(id).unwrap();
        scene.render_whole(object.as_ref())[field].clone()
    }
}
