//! Who must be told what, now?
//!
//! The publisher follows the commits by the compiler, keeps a session for each connected host and the
//! status that their answers prove. It is a state machine without I/O: a region of simulated hosts
//! runs in one process under a virtual clock.
//!
//! # Invariants
//! - A host has at most one session; a newer stream replaces the older.
//! - A host whose record is gone, or names another certificate, has none.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
};

use hostconfig::{Generation, SectionKey, share, wire};
use net::{Id, Now, ids::kind};
use uuid::Uuid;

use super::{
    appliances::{self, Appliances, Lost},
    members::Members,
    parts::Parts,
    proxies::{Proxies, Seating},
    schedule::{Placement, Schedule},
    session::{self, HangUp, Session, Target},
    status::Status,
};
use crate::{
    compile::{
        Compiler, Touched,
        intent::{Change, HostName, Object},
        view,
    },
    resources::{host::Site, lbaas::health_monitor::Verdict},
    rules::Facts,
    status::StatusBoard,
    store::{self, Snapshot},
    time::Seconds,
};

/// A stream of a host; never used again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Conn(pub u64);

/// What the edge's two clocks show.
#[derive(Debug, Clone, Copy)]
pub struct Reading {
    /// For how long things take.
    pub now: Now,
    /// For people.
    pub wall: Seconds,
}

/// What happened.
#[derive(Debug)]
pub enum Event {
    /// The store has these changes, up to this revision.
    Commit(Vec<Change>, Generation),
    /// The store holds exactly these objects, at this revision.
    Resync(Vec<Object>, Generation),
    /// A host opened a stream and showed the certificate with this fingerprint.
    Connected(Conn, HostName, String),
    /// A host said something.
    Heard(Conn, wire::FromHost),
    /// A stream ended.
    Closed(Conn),
    /// What a host says of its VTEP could not be taken over.
    VtepRefused(HostName, String),
    /// Time passed: a second.
    Tick,
    /// A tenth of one.
    Beat,
}

impl Event {
    /// What the store's watcher heard, as the compiler reads it: commits that came together are followed as one. What they touch is
    /// compiled once, and hosts hear of it once.
    pub fn heard(events: &[store::Event], facts: &Facts) -> Self {
        let (mut changes, mut generation, mut anew) = (Vec::new(), Generation::default(), None);
        for event in events {
            let snapshot = match event {
                store::Event::Resync(snapshot) => snapshot,
                store::Event::Commit(commit) if anew.is_some() => &commit.snapshot,
                store::Event::Commit(commit) => {
                    let new = commit.changes.iter();
                    changes.extend(new.flat_map(|change| view::changes(change, facts)));
                    generation = Generation(commit.revision.get());
                    continue;
                }
            };
            anew = Some(snapshot);
        }
        match anew {
            Some(snapshot) => Self::Resync(
                view::objects(snapshot, facts),
                Generation(snapshot.revision().get()),
            ),
            None => Self::Commit(changes, generation),
        }
    }
}

/// What is to be done.
#[derive(Debug, PartialEq)]
pub enum Effect {
    /// Send this.
    Send(Conn, wire::FromController),
    /// End the stream.
    HangUp(Conn, HangUp),
    /// Write the VTEP's address into the host's record.
    Vtep(Id<kind::Host>, Option<IpAddr>),
    /// Write where it stands into the host's record.
    Site(Id<kind::Host>, Site),
    /// Write into the store where a gateway is to be, if it is where it was.
    Place(Placement),
    /// Write into the store where a load balancer's proxy is to be, if it is where it was.
    Seat(Seating),
    /// Write into the store what a host found of members that it asks, or that it is gone.
    Judge(Vec<Verdict>),
    /// Write into a host's record whether it is gone.
    Lost(Lost),
}

/// A stream and its session.
#[derive(Debug)]
pub(super) struct Live {
    pub(super) conn: Conn,
    pub(super) certificate: String,
    pub(super) session: Session,
}

/// The sessions of a region.
#[derive(Debug)]
pub struct Publisher {
    compiler: Compiler,
    /// Incarnations that this store's was restored from.
    replaced: Vec<Uuid>,
    live: BTreeMap<HostName, Live>,
    conns: BTreeMap<Conn, HostName>,
    status: Status,
    schedule: Schedule,
    proxies: Proxies,
    members: Members,
    appliances: Appliances,
    parts: Parts,
}

impl Publisher {
    /// From all objects of a store.
    pub fn new(
        incarnation: Uuid,
        objects: Vec<Object>,
        generation: Generation,
        board: Arc<StatusBoard>,
        at: Reading,
    ) -> Self {
        let mut publisher = Self {
            compiler: Compiler::new(incarnation),
            replaced: Vec::new(),
            live: BTreeMap::new(),
            conns: BTreeMap::new(),
            status: Status::new(board),
            schedule: Schedule::new(at.now),
            proxies: Proxies::default(),
            members: Members::default(),
            appliances: Appliances::default(),
            parts: Parts::new(at.now),
        };
        // Nobody is connected yet: there is nothing to do but to know it.
        drop(publisher.on(Event::Resync(objects, generation), at));
        publisher
    }

    /// From a store as it is now; what it commits from then on comes as [`Event`]s.
    pub fn of(snapshot: &Snapshot, board: Arc<StatusBoard>, facts: &Facts, at: Reading) -> Self {
        let generation = Generation(snapshot.revision().get());
        let objects = view::objects(snapshot, facts);
        let publisher = Self::new(snapshot.incarnation(), objects, generation, board, at);
        Self {
            replaced: snapshot.replaced(),
            ..publisher
        }
    }

    /// What it compiles with.
    pub fn compiler(&self) -> &Compiler {
        &self.compiler
    }

    /// How far each connected host is behind.
    pub fn lags(&self) -> impl Iterator<Item = (&HostName, u64)> {
        let generation = self.compiler.generation();
        let lag = move |live: &Live| live.session.lag(generation);
        self.live.iter().map(move |(host, live)| (host, lag(live)))
    }

    /// Takes an event in; what is to be done comes out.
    pub fn on(&mut self, event: Event, at: Reading) -> Vec<Effect> {
        let mut effects = Vec::new();
        match event {
            Event::Commit(changes, generation) => {
                let touched = self.compiler.apply(&changes, generation);
                self.follow(&touched, at, &mut effects);
            }
            Event::Resync(objects, generation) => {
                let mut gone: std::collections::BTreeSet<_> =
                    self.compiler.intent().ids().into_iter().collect();
                for object in &objects {
                    gone.remove(&object.id());
                }
                let changes: Vec<Change> = objects
                    .into_iter()
                    .map(Change::Put)
                    .chain(gone.into_iter().map(Change::Gone))
                    .collect();
                let touched = self.compiler.apply(&changes, generation);
                self.follow(&touched, at, &mut effects);
            }
            Event::Connected(conn, host, certificate) => {
                self.connect(conn, host, certificate, at, &mut effects);
            }
            Event::Heard(conn, message) => {
                if let Some(host) = self.conns.get(&conn).cloned() {
                    self.step(&host, session::Event::Heard(message), at, &mut effects);
                }
            }
            Event::Closed(conn) => {
                if let Some(host) = self.conns.get(&conn).cloned() {
                    self.part(&host, at);
                }
            }
            Event::VtepRefused(host, reason) => {
                self.status.refuse_vtep(&host, &reason, &self.compiler);
            }
            Event::Tick => {
                let hosts: Vec<HostName> = self.live.keys().cloned().collect();
                for host in hosts {
                    self.step(&host, session::Event::Tick, at, &mut effects);
                }
                self.status.tick(&self.compiler, &self.live, at);
                self.members.find(self.compiler.intent());
                self.appliances.find(self.compiler.intent());
                let placements = self.schedule.all(&self.compiler, &self.live, at.now);
                effects.extend(placements.into_iter().map(Effect::Place));
                self.seat_proxies(at, &mut effects);
            }
            Event::Beat => self.beat(at, &mut effects),
        }
        effects
    }

    /// Hosts with gateways, proxies, monitored members or appliances hear often; those that are gone lose the first two, and the others are down.
    fn beat(&mut self, at: Reading, effects: &mut Vec<Effect>) {
        if self.schedule.stalled(at.now) {
            for live in self.live.values_mut() {
                live.session.excuse(at.now);
            }
        }
        let with_gateways = self.compiler.intent().gateways_at.keys();
        let with_proxies = Proxies::hosts(self.compiler.intent());
        let hosts = with_gateways
            .chain(self.members.hosts())
            .chain(self.appliances.hosts())
            .chain(with_proxies);
        let hosts = hosts.cloned();
        for host in hosts.collect::<BTreeSet<HostName>>() {
            self.step(&host, session::Event::Beat, at, effects);
        }
        let placements = self.schedule.of_gone(&self.compiler, &self.live, at.now);
        effects.extend(placements.into_iter().map(Effect::Place));
        self.seat_proxies(at, effects);
        let is_gone = |host: &HostName| self.schedule.is_gone(host, &self.live, at.now);
        let verdicts = self.members.verdicts(is_gone, at.now);
        if !verdicts.is_empty() {
            effects.push(Effect::Judge(verdicts));
        }
        let intent = self.compiler.intent();
        let news = self.appliances.news(intent, is_gone, at.now);
        effects.extend(news.into_iter().map(Effect::Lost));
    }

    fn follow(&mut self, touched: &Touched, at: Reading, effects: &mut Vec<Effect>) {
        self.members.touched();
        self.appliances.touched();
        for host in &touched.records {
            let record = self.compiler.intent().host(host);
            let stale = self.live.get(host).is_some_and(|live| {
                record
                    .is_none_or(|r| r.foreign || r.certificate.as_ref() != Some(&live.certificate))
            });
            if stale {
                self.hang_up(host, HangUp::Unknown, at, effects);
            }
            self.status.host_changed(host, &self.compiler, at);
        }
        for (host, keys) in &touched.hosts {
            if keys.iter().any(|key| matches!(key, SectionKey::Qos(_))) {
                let config = self.compiler.config(host);
                let limits = config.map(share::divided).unwrap_or_default();
                self.parts.follow(host, &limits);
            }
            self.step(host, session::Event::Touched(keys), at, effects);
            self.status
                .review_sections(host, keys, &self.compiler, &self.live);
        }
        // Who is given a gateway is asked at once: it has it when it hears that it was heard.
        let given = touched.ports.iter().filter_map(|id| {
            let port = self.compiler.intent().port(*id)?;
            port.host.clone().filter(|_| port.gateway_of.is_some())
        });
        for host in given.collect::<BTreeSet<_>>() {
            self.step(&host, session::Event::Beat, at, effects);
        }
        self.status
            .review_touched(touched, &self.compiler, &self.live);
        self.schedule.seen(&touched.ports);
        self.proxies.seen(&touched.ports);
        let intent = self.compiler.intent();
        if touched
            .ports
            .iter()
            .any(|port| intent.proxy(*port).is_some())
        {
            self.seat_proxies(at, effects);
        }
        let placements = self
            .schedule
            .of(&touched.ports, &self.compiler, &self.live, at.now);
        effects.extend(placements.into_iter().map(Effect::Place));
    }

    /// Has proxies seated that are nowhere, or where they cannot be.
    fn seat_proxies(&mut self, at: Reading, effects: &mut Vec<Effect>) {
        let known = (&self.live, &self.schedule);
        let seatings = self.proxies.seatings(self.compiler.intent(), known, at.now);
        effects.extend(seatings.into_iter().map(Effect::Seat));
    }

    fn connect(
        &mut self,
        conn: Conn,
        host: HostName,
        certificate: String,
        at: Reading,
        effects: &mut Vec<Effect>,
    ) {
        let record = self.compiler.intent().host(&host);
        if record.is_none_or(|r| r.foreign || r.certificate.as_ref() != Some(&certificate)) {
            effects.push(Effect::HangUp(conn, HangUp::Unknown));
            return;
        }
        if self.live.contains_key(&host) {
            self.hang_up(&host, HangUp::Replaced, at, effects);
        }
        self.conns.insert(conn, host.clone());
        let session = Session::new(at.now);
        self.status.connected(&host, &self.compiler, at);
        self.live.insert(
            host,
            Live {
                conn,
                certificate,
                session,
            },
        );
    }

    /// Gives one session one event.
    fn step(
        &mut self,
        host: &HostName,
        event: session::Event<'_>,
        at: Reading,
        effects: &mut Vec<Effect>,
    ) {
        let Some(live) = self.live.get_mut(host) else {
            return;
        };
        let Some(config) = self.compiler.config(host) else {
            return;
        };
        let conn = live.conn;
        let target = Target {
            incarnation: self.compiler.incarnation(),
            generation: self.compiler.generation(),
            replaced: &self.replaced,
            config,
        };
        let said = live.session.on(event, target, at.now);
        for effect in said {
            match effect {
                session::Effect::Send(message) => effects.push(Effect::Send(conn, message)),
                session::Effect::HangUp(reason) => {
                    self.hang_up(host, reason, at, effects);
                    return;
                }
                session::Effect::Vtep(vtep) => {
                    self.schedule.met(host);
                    let record = self.compiler.intent().host(host);
                    if let Some(record) = record
                        && record.vtep != vtep
                    {
                        effects.push(Effect::Vtep(record.id, vtep));
                    }
                }
                session::Effect::Site(site) => {
                    let record = self.compiler.intent().host(host);
                    if let Some(record) = record
                        && (&record.wires, &record.zone, record.proxies)
                            != (
                                &site.physical_networks,
                                &site.availability_zone,
                                site.proxies,
                            )
                    {
                        effects.push(Effect::Site(record.id, site));
                    }
                }
                session::Effect::Metered(metered) => {
                    if let Some(record) = self.compiler.intent().host(host) {
                        self.status.metered(record.id.uuid(), &metered);
                    }
                }
                session::Effect::Balanced(balanced) => {
                    if let Some(record) = self.compiler.intent().host(host) {
                        self.status.balanced(record.id.uuid(), balanced);
                    }
                }
                session::Effect::Judged(mut verdicts) => {
                    let intent = self.compiler.intent();
                    verdicts.retain(|verdict| appliances::may_say(intent, host, verdict));
                    if !verdicts.is_empty() {
                        effects.push(Effect::Judge(verdicts));
                    }
                }
                session::Effect::Used(uses) => {
                    let parts = self.parts.answer((host, conn), &uses, at.now);
                    effects.extend(parts.map(|parts| {
                        let message = Some(wire::from_controller::Message::Parts(parts));
                        Effect::Send(conn, wire::FromController { message })
                    }));
                }
                session::Effect::Review(review) => {
                    self.status
                        .review(host, &review, &self.compiler, &self.live, at);
                }
            }
        }
    }

    fn hang_up(&mut self, host: &HostName, reason: HangUp, at: Reading, effects: &mut Vec<Effect>) {
        if let Some(live) = self.live.get(host) {
            effects.push(Effect::HangUp(live.conn, reason));
        }
        self.part(host, at);
    }

    fn part(&mut self, host: &HostName, at: Reading) {
        if let Some(live) = self.live.remove(host) {
            self.conns.remove(&live.conn);
            self.schedule.parted(host, live.session.lapses(at.now));
            self.status.parted(host, at);
        }
    }
}
