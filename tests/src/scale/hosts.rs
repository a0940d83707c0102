//! What hears a region's hosts, without their machines?
//!
//! The controller's publisher in a thread, as in its process, and for each host what it was told: sections' hashes, which it acknowledges at
//! once. Between the two there is no gRPC and no TLS, and no switch applies anything: what is timed is the controller's part.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc,
    },
    time::{Duration, Instant, SystemTime},
};

use controller::{
    Core,
    hosts::{
        TOGETHER, note_vtep,
        publish::{Conn, Effect, Event, Publisher, Reading},
    },
    resource::{Objects as _, Resource as _},
    resources::Host as HostRecord,
    store::{TransactError, transact},
    time::Seconds,
};
use hostconfig::{
    Digest, SectionHash, SectionKey,
    wire::{self, from_controller, from_host},
};
use net::Now;
use tokio::runtime::Handle;

/// What became of one commit.
#[derive(Debug)]
pub struct Heard {
    /// The revision up to which hosts were told.
    pub revision: u64,
    /// The hosts that were told something.
    pub told: BTreeSet<Arc<str>>,
    /// When the last of them had acknowledged it.
    pub at: Instant,
    /// What the publisher took for the commit alone.
    pub compiling: Duration,
    /// Sections that were sent.
    pub sections: usize,
    /// Their bytes.
    pub bytes: usize,
}

/// What one host was told.
#[derive(Debug, Default)]
struct Host {
    name: Arc<str>,
    hashes: BTreeMap<SectionKey, SectionHash>,
    /// Over them.
    digest: Digest,
}

/// The publisher with its hosts.
struct Hub {
    publisher: Publisher,
    hosts: BTreeMap<Conn, Host>,
    started: Instant,
    handle: Handle,
    core: Arc<Core>,
    told: BTreeSet<Arc<str>>,
    sections: usize,
    bytes: usize,
}

fn said(message: from_host::Message) -> wire::FromHost {
    wire::FromHost {
        message: Some(message),
    }
}

impl Host {
    /// What it answers.
    fn hear(
        &mut self,
        message: wire::FromController,
        heard: &mut (usize, usize),
    ) -> wire::FromHost {
        let update = match message.message.unwrap() {
            from_controller::Message::Ping(ping) => {
                let pong = wire::Pong {
                    nonce: ping.nonce,
                    clock: None,
                };
                return said(from_host::Message::Pong(pong));
            }
            from_controller::Message::Update(update) => update,
            from_controller::Message::Parts(_) => panic!("it shares no limit"),
        };
        if update.whole {
            self.hashes.clear();
            self.digest = Digest::default();
        }
        for section in update.upserts {
            heard.0 += 1;
            heard.1 += section.body.len();
            let hash = SectionHash(section.hash.try_into().unwrap());
            let before = self.hashes.insert(section.key.parse().unwrap(), hash);
            if let Some(before) = before {
                self.digest.take(before);
            }
            self.digest.add(hash);
        }
        for key in update.removals {
            let before = self.hashes.remove(&key.parse().unwrap());
            if let Some(before) = before {
                self.digest.take(before);
            }
        }
        let digest = self.digest;
        assert_eq!(digest.0.to_vec(), update.digest, "{} differs", self.name);
        said(from_host::Message::Ack(wire::Ack {
            generation: update.generation,
            digest: digest.0.to_vec(),
            complaints: Vec::new(),
        }))
    }
}

impl Hub {
    fn reading(&self) -> Reading {
        let nanos = u64::try_from(self.started.elapsed().as_nanos()).unwrap();
        Reading {
            now: Now::from_nanos(nanos),
            wall: Seconds::of(SystemTime::now()),
        }
    }

    /// One event, and all that follows at once: what hosts are told they acknowledge. How long the event alone took.
    fn on(&mut self, event: Event) -> Duration {
        let began = Instant::now();
        let effects = self.publisher.on(event, self.reading());
        let took = began.elapsed();
        let mut effects = VecDeque::from(effects);
        while let Some(effect) = effects.pop_front() {
            match effect {
                Effect::Send(conn, message) => {
                    let host = self.hosts.get_mut(&conn).unwrap();
                    let is_update =
                        matches!(message.message, Some(from_controller::Message::Update(_)));
                    if is_update {
                        self.told.insert(Arc::clone(&host.name));
                    }
                    let mut heard = (0, 0);
                    let answer = host.hear(message, &mut heard);
                    self.sections += heard.0;
                    self.bytes += heard.1;
                    let event = Event::Heard(conn, answer);
                    effects.extend(self.publisher.on(event, self.reading()));
                }
                Effect::HangUp(conn, why) => panic!("{conn:?} was hung up: {why}"),
                Effect::Site(..)
                | Effect::Place(_)
                | Effect::Seat(_)
                | Effect::Judge(_)
                | Effect::Lost(_) => {
                    unreachable!(
                        "no host of this region has a wire, a gateway, a member or an appliance"
                    )
                }
                Effect::Vtep(host, vtep) => {
                    let store = Arc::clone(&self.core.store);
                    let wall = self.reading().wall;
                    self.handle.spawn(async move {
                        match note_vtep(store.as_ref(), host.uuid(), vtep, wall).await {
                            Ok(()) => {}
                            Err(TransactError::Refused((host, why))) => panic!("{host}: {why}"),
                            Err(TransactError::Unavailable(why)) => panic!("{why}"),
                        }
                    });
                }
            }
        }
        took
    }
}

/// The certificate of a host's record, as this region's hosts show it.
fn certificate(name: &str) -> String {
    format!("certificate of {name}")
}

/// Lets all hosts of the store in.
///
/// # Panics
/// When the store cannot write.
pub fn certify(handle: &Handle, core: &Core) {
    let done = transact::<_, ()>(core.store.as_ref(), |view| {
        for host in view.objects::<HostRecord>() {
            let mut host = HostRecord::clone(&host);
            host.certificate = Some(certificate(&host.meta.name));
            view.put(HostRecord::SPEC.key(host.meta.id), Arc::new(host));
        }
        Ok(())
    });
    handle.block_on(done).unwrap();
}

/// How a region came up.
#[derive(Debug)]
pub struct Up {
    /// Compiling all of the store.
    pub compiling: Duration,
    /// Until every host had acknowledged all that it is told.
    pub synced: Duration,
    /// Sections that were sent.
    pub sections: usize,
    /// Their bytes.
    pub bytes: usize,
}

/// The publisher's thread, until it is told to stop: first how the region came up, then what becomes of each commit.
///
/// # Panics
/// When a host's digest differs from what the controller says of it.
pub fn run(
    handle: &Handle,
    core: Arc<Core>,
    (up, heard): (&mpsc::Sender<Up>, &mpsc::Sender<Heard>),
    stop: &AtomicBool,
) {
    let started = Instant::now();
    let (snapshot, mut watcher) = core.store.watch();
    let at = Reading {
        now: Now::ZERO,
        wall: Seconds::of(SystemTime::now()),
    };
    let publisher = Publisher::of(&snapshot, Arc::clone(&core.status), &core.facts, at);
    let compiling = started.elapsed();
    let mut hub = Hub {
        publisher,
        hosts: BTreeMap::new(),
        started,
        handle: handle.clone(),
        core,
        told: BTreeSet::new(),
        sections: 0,
        bytes: 0,
    };
    let began = Instant::now();
    let records = snapshot.objects::<HostRecord>();
    for (n, record) in (1_u64..).zip(&records) {
        let (conn, name) = (Conn(n), record.meta.name.as_str());
        let host = Host {
            name: Arc::from(name),
            ..Host::default()
        };
        hub.hosts.insert(conn, host);
        hub.on(Event::Connected(conn, name.into(), certificate(name)));
        let hello = wire::Hello {
            incarnation: String::new(),
            generation: 0,
            sections: Vec::new(),
            vtep: format!("10.255.{}.{}", n / 250, n % 250 + 1),
            version: "scale".to_owned(),
            underlay_mtu: 9000,
            physical_networks: Vec::new(),
            clock: None,
            availability_zone: String::new(),
            proxies: false,
        };
        hub.on(Event::Heard(conn, said(from_host::Message::Hello(hello))));
    }
    // Each host's VTEP is a commit of its own, which its neighbours hear of.
    let vtep_less = |hub: &Hub| {
        let snapshot = hub.core.store.snapshot();
        let hosts = snapshot.objects::<HostRecord>();
        hosts.iter().any(|host| host.vtep.is_none())
    };
    let mut waiting = !records.is_empty();
    let mut synced = None;
    while !stop.load(Ordering::Relaxed) {
        if waiting
            && !vtep_less(&hub)
            && hub.publisher.compiler().generation().get()
                >= hub.core.store.snapshot().revision().get()
        {
            waiting = false;
        }
        if !waiting && synced.is_none() {
            synced = Some(began.elapsed());
            let came = Up {
                compiling,
                synced: began.elapsed(),
                sections: hub.sections,
                bytes: hub.bytes,
            };
            if up.send(came).is_err() {
                return;
            }
        }
        let next =
            async { tokio::time::timeout(Duration::from_secs(1), watcher.some(TOGETHER)).await };
        match handle.block_on(next) {
            Ok(None) => return,
            Ok(Some(events)) => {
                (hub.sections, hub.bytes) = (0, 0);
                hub.told.clear();
                let event = Event::heard(&events, &hub.core.facts);
                let compiling = hub.on(event);
                let one = Heard {
                    revision: hub.publisher.compiler().generation().get(),
                    told: std::mem::take(&mut hub.told),
                    at: Instant::now(),
                    compiling,
                    sections: hub.sections,
                    bytes: hub.bytes,
                };
                if synced.is_some() && heard.send(one).is_err() {
                    return;
                }
            }
            Err(_) => drop(hub.on(Event::Tick)),
        }
    }
}
