//! How do a controller, its API, its hosts and their switches run under one hand?
//!
//! A [`Region`] has all of them in one process: requests go through the API's own routes to the store, what the publisher says goes to the
//! agents at once, and what the agents run is what their switches forward by. Nothing moves but when it is told to: after each request all
//! hosts have what follows from it, after each frame every packet has ended.
//!
//! # Invariants
//! - The conservation law holds on every host after each step.
//! - What a scene made is gone when it ends ([`Region::clear`]).

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use controller::{
    api::Api,
    hosts::{
        judge, note_lost, note_site, place,
        publish::{Conn, Effect, Event, Reading},
        seat,
    },
    resource::{Objects, Resource},
    resources::{
        Host as HostRecord,
        host::{join_token_key, joining},
    },
    stats::Stats,
    store::{MemoryDisk, transact},
    time::Seconds,
};
use hostconfig::{Digest, HostConfig, Section, SectionKey, network::Wire};
use net::{DropReason, Id, Now, ids::kind};
use tokio::runtime::{Builder, Runtime};
use uuid::Uuid;
use vswitch::{
    io::memory::{Fabric as Underlay, Frame, MemoryUnderlay, Weather},
    simulated::{Machine, Name, Said, SimulatedHost},
};

use crate::{
    control::brain::Brain,
    evidence::{Nic, people},
    fabric::{Build, Switch},
    plan::vtep,
};

/// Hosts of a region, `h1` and on.
pub const HOSTS: usize = 3;
/// The physical networks that all hosts but the last have an interface on.
pub const PHYSICAL: [&str; 2] = ["physnet1", "physnet2"];
/// The zones that the hosts are in.
pub const ZONES: [&str; HOSTS] = ["north", "east", "west"];
/// How far the clock goes at once: hosts and their controller speak to each other as often.
const BEAT: Duration = Duration::from_millis(250);
/// Rounds of messages that no request needs.
const ROUNDS: usize = 200;

/// A host.
struct Host {
    id: Uuid,
    name: String,
    machine: Machine,
    agent: SimulatedHost,
    stream: Option<(u64, Conn)>,
    switch: Switch,
    runs: Option<Digest>,
}

/// A directory that goes with its region.
struct Scratch(PathBuf);

impl Drop for Scratch {
    fn drop(&mut self) {
        drop(std::fs::remove_dir_all(&self.0));
    }
}

/// A controller with its API, and its hosts with their switches.
pub struct Region {
    pub(super) runtime: Runtime,
    pub(super) brain: Brain,
    pub(super) api: axum::Router,
    /// What was made since the last [`Region::clear`]: paths, the latest last.
    pub(super) made: Vec<String>,
    /// What was named in writes: resource, attribute, verb.
    pub(super) named: BTreeSet<(String, String, &'static str)>,
    /// What its ports are called in what is seen.
    pub(super) labels: BTreeMap<Id<kind::Port>, String>,
    /// Who answers for its addresses where the network does not.
    pub(super) nics: BTreeMap<Id<kind::Port>, Nic>,
    /// The next source port, or identifier of a ping.
    pub(super) fresh: u16,
    /// What crossed physical networks since it was last asked.
    pub(super) wire: Vec<(Wire, Frame)>,
    pub(super) differed: usize,
    hosts: Vec<Host>,
    underlay: Underlay,
    now: Now,
    second: Now,
    conns: u64,
    stirred: bool,
    scratch: Scratch,
}

impl std::fmt::Debug for Region {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Region at {:?}", self.now)
    }
}

fn certificate(host: &str) -> String {
    format!("certificate of {host}")
}

fn scratch() -> Scratch {
    // State dirs are flushed often: on a disk that would be most of the time that a test takes.
    let memory = PathBuf::from("/dev/shm");
    let base = if memory.is_dir() {
        memory
    } else {
        std::env::temp_dir()
    };
    let unique = format!("ow-evidence-{}-{}", std::process::id(), Uuid::new_v4());
    Scratch(base.join(unique))
}

impl Region {
    /// Hosts that are joined and connected, nothing on them.
    pub fn new() -> Self {
        let runtime = Builder::new_current_thread().enable_time().build().unwrap();
        let now = Now::from_nanos(1_000_000_000_000);
        let disk = Arc::new(MemoryDisk::new(Uuid::from_u128(1)));
        let brain = Brain::start(&runtime, disk, reading(now));
        people::arrive(&brain, &runtime);
        let stats = Arc::new(Stats::new().unwrap());
        let api = Api::new(Arc::clone(&brain.core), stats, "http").router();
        let underlay = Underlay::new(Weather::default(), 1);
        underlay.advance(now);
        let mut region = Self {
            runtime,
            brain,
            api,
            made: vec![],
            named: BTreeSet::new(),
            labels: BTreeMap::new(),
            nics: BTreeMap::new(),
            fresh: 20_000,
            wire: vec![],
            differed: 0,
            hosts: vec![],
            underlay,
            now,
            second: now,
            conns: 0,
            stirred: false,
            scratch: scratch(),
        };
        for at in 0..HOSTS {
            region.add_host(at);
        }
        region.converge();
        // A controller that starts waits for hosts that it knew, before it gives gateways to those that it sees.
        region.advance(Duration::from_secs(6));
        region.prepare();
        region
    }

    fn add_host(&mut self, at: usize) {
        let name = format!("h{}", at + 1);
        let made = self.call(
            people::ADMIN.0,
            "POST",
            "/v2.0/overweave/hosts",
            &serde_json::json!({"host": {"name": name}}),
        );
        let id: Uuid = made.1["host"]["id"].as_str().unwrap().parse().unwrap();
        let joined = transact::<_, ()>(self.brain.core.store.as_ref(), {
            let name = name.clone();
            move |view| {
                let mut host = HostRecord::clone(view.object::<HostRecord>(id).as_ref().unwrap());
                host.certificate = Some(certificate(&name));
                view.put(HostRecord::SPEC.key(id), Arc::new(host));
                Ok(())
            }
        });
        self.runtime.block_on(joined).unwrap();
        let machine = Machine::default();
        if at + 1 < HOSTS {
            for physical in PHYSICAL {
                machine.interface(physical, true);
            }
        }
        let dir = self.scratch.0.join(&name);
        std::fs::create_dir_all(&dir).unwrap();
        let who = Name {
            host: name.clone(),
            vtep: vtep(at),
            underlay_mtu: 1600,
            seed: 1,
            availability_zone: ZONES[at].to_owned(),
            proxies: false,
        };
        let agent = SimulatedHost::start(&who, &dir.join("state"), &machine, self.now);
        let build = Build {
            errors_per_second: 10_000,
            ..Build::default()
        };
        let switch = Switch::new(&build, at, self.underlay.attach(vtep(at)))
            .at(vtep(at))
            .with_metadata();
        self.hosts.push(Host {
            id,
            name,
            machine,
            agent: agent.unwrap(),
            stream: None,
            switch,
            runs: None,
        });
    }

    /// The id of a host, by its place.
    pub fn host_id(&self, at: usize) -> String {
        self.hosts[at].id.to_string()
    }

    /// Lets hosts and controller speak until nobody has anything to say.
    pub(super) fn converge(&mut self) {
        for round in 0..ROUNDS {
            self.stirred = false;
            self.follow();
            for at in 0..self.hosts.len() {
                self.speak(at, round);
            }
            if !self.stirred {
                self.run();
                return;
            }
        }
        panic!("hosts and controller never stop speaking");
    }

    /// The publisher follows all commits.
    fn follow(&mut self) {
        loop {
            let seen = self.brain.publisher.compiler().generation().get();
            if seen >= self.brain.snapshot().revision().get() {
                return;
            }
            let effects = self.brain.follow(&self.runtime, reading(self.now));
            // The writer may not have told its watchers yet.
            self.runtime.block_on(tokio::task::yield_now());
            self.stirred = true;
            self.effect(effects.unwrap_or_default());
        }
    }

    fn publish(&mut self, event: Event) {
        let effects = self.brain.publisher.on(event, reading(self.now));
        self.effect(effects);
    }

    fn effect(&mut self, effects: Vec<Effect>) {
        let wall = reading(self.now).wall;
        let store = Arc::clone(&self.brain.core.store);
        for effect in effects {
            self.stirred = true;
            match effect {
                Effect::Send(conn, message) => {
                    let to = self.hosts.iter_mut().find_map(|host| {
                        let (stream, on) = host.stream?;
                        (on == conn).then_some((host, stream))
                    });
                    let (host, stream) = to.expect("a stream that is told of stands");
                    host.agent.received(stream, message, self.now);
                }
                Effect::HangUp(conn, reason) => panic!("{conn:?} was ended: {reason}"),
                Effect::Vtep(host, vtep) => {
                    let at = reading(self.now);
                    let more = self.brain.note_vtep(&self.runtime, (host.uuid(), vtep), at);
                    self.effect(more);
                }
                Effect::Site(host, site) => {
                    let noted = note_site(store.as_ref(), host.uuid(), site, wall);
                    self.runtime.block_on(noted).unwrap();
                }
                Effect::Place(placement) => {
                    let placed = place(store.as_ref(), placement, wall);
                    self.runtime.block_on(placed).unwrap();
                }
                Effect::Seat(seating) => {
                    let seated = seat(store.as_ref(), seating, wall);
                    self.runtime.block_on(seated).unwrap();
                }
                Effect::Judge(verdicts) => {
                    let judged = judge(store.as_ref(), verdicts, wall);
                    self.runtime.block_on(judged).unwrap();
                }
                Effect::Lost(news) => {
                    let noted = note_lost(store.as_ref(), news, wall);
                    self.runtime.block_on(noted).unwrap();
                }
            }
        }
    }

    /// A host says what it has to say; its workloads attach what they find.
    fn speak(&mut self, at: usize, round: usize) {
        let now = self.now;
        let host = &mut self.hosts[at];
        for said in host.agent.settle(now) {
            self.stirred = true;
            let host = &mut self.hosts[at];
            match said {
                Said::Connect(stream) => {
                    self.conns += 1;
                    let conn = Conn(self.conns);
                    host.stream = Some((stream, conn));
                    host.agent.connected(stream, now);
                    let name = host.name.clone();
                    let fingerprint = certificate(&name);
                    self.publish(Event::Connected(conn, name.as_str().into(), fingerprint));
                }
                Said::Send(stream, message) => {
                    if let Some((_, conn)) = host.stream.filter(|(on, _)| *on == stream) {
                        self.publish(Event::Heard(conn, message));
                    }
                }
                Said::Disconnect(_) => panic!("{} ends its stream", host.name),
            }
        }
        // One that can't be attached is not tried for ever.
        if round < 5 {
            self.attach(at);
        }
    }

    fn attach(&mut self, at: usize) {
        let host = &mut self.hosts[at];
        let Some(running) = host.machine.running() else {
            return;
        };
        let open = host.machine.open();
        for (key, section) in &running.sections {
            if let (SectionKey::Port(id), Section::Port(port)) = (key, section.body())
                // A sub-port has no device of its own.
                && port.trunk.is_none()
                && !open.contains(id)
            {
                host.agent.attach(*id, self.now);
                self.stirred = true;
            }
        }
    }

    /// The switches take over what the agents run.
    fn run(&mut self) {
        for host in &mut self.hosts {
            let Some(config) = host.machine.running() else {
                continue;
            };
            let digest = config.digest();
            if host.runs != Some(digest) {
                host.switch.configure(&config);
                // Counters go with what they were of.
                host.machine.counted(host.switch.metered().into_iter());
                host.runs = Some(digest);
            }
        }
        self.settle();
    }

    /// What a host runs.
    pub fn config(&self, at: usize) -> HostConfig {
        self.hosts[at].machine.running().unwrap()
    }

    /// Moves all packets until nothing moves, at this moment.
    pub(super) fn settle(&mut self) {
        self.underlay.advance(self.now);
        for _ in 0..ROUNDS {
            let mut moved = false;
            for host in &mut self.hosts {
                moved |= host.switch.turn(self.now);
            }
            moved |= self.carry();
            if !moved {
                for host in &self.hosts {
                    host.switch.check();
                }
                return;
            }
        }
        panic!("frames circle: nothing settled");
    }

    /// A physical network is one segment: all of its ends hear what one says.
    fn carry(&mut self) -> bool {
        let mut said = vec![];
        for (at, host) in self.hosts.iter().enumerate() {
            for (network, end) in host.switch.tables.wires() {
                let (_, far) = &host.switch.wires[&network.id];
                while let Some(frame) = far.receive() {
                    said.push((at, end.wire.clone(), frame));
                }
            }
        }
        let moved = !said.is_empty();
        for (from, wire, frame) in said {
            self.shout(Some(from), &wire, &frame);
            self.wire.push((wire, frame));
        }
        moved
    }

    fn shout(&mut self, from: Option<usize>, wire: &Wire, frame: &Frame) {
        for (at, host) in self.hosts.iter().enumerate() {
            let ends = host.switch.tables.wires();
            let mut ends = ends.filter(|(_, end)| end.wire == *wire && Some(at) != from);
            if let Some((network, _)) = ends.next() {
                let sent = host.switch.wires[&network.id].1.send(frame.clone());
                sent.expect("the wire's queue has room");
            }
        }
    }

    /// Somebody on a physical network who is no host of ours sends a frame.
    pub(super) fn call_out(&mut self, wire: &Wire, frame: &Frame) {
        self.shout(None, wire, frame);
        self.settle();
    }

    /// A workload sends a frame, tagged as it is.
    pub(super) fn inject(&mut self, host: usize, port: Id<kind::Port>, bytes: Vec<u8>) -> bool {
        let Some((_, workload)) = self.hosts[host].switch.ports.get(&port) else {
            return false;
        };
        let frame = Frame {
            bytes,
            offload: net::Offload::default(),
        };
        workload.send(frame).expect("the port's queue has room");
        true
    }

    /// What workloads received since the last time, by port.
    pub(super) fn received(&mut self) -> Vec<(Id<kind::Port>, Frame)> {
        let mut all = vec![];
        for host in &self.hosts {
            for (port, (_, workload)) in &host.switch.ports {
                while let Some(frame) = workload.receive() {
                    all.push((*port, frame));
                }
            }
        }
        all
    }

    /// How many packets each host heard so far, by its name.
    pub(super) fn heard(&self) -> Vec<(String, u64)> {
        let hosts = self.hosts.iter();
        hosts
            .map(|host| (host.name.clone(), host.switch.ledger().rx))
            .collect()
    }

    /// How often packets were dropped so far, by reason.
    pub(super) fn drops(&self) -> Vec<(&'static str, u64)> {
        let ledgers: Vec<_> = self.hosts.iter().map(|host| host.switch.ledger()).collect();
        let count = |reason| ledgers.iter().map(|ledger| ledger.dropped(reason)).sum();
        let all = DropReason::ALL.iter();
        all.map(|reason| (reason.name(), count(*reason))).collect()
    }

    /// The clock.
    pub fn now(&self) -> Now {
        self.now
    }

    /// Time passes for switches, agents and the controller alike.
    pub fn advance(&mut self, time: Duration) {
        let end = self.now + time;
        while self.now < end {
            let next = self.now + BEAT;
            self.switch_until(if next < end { next } else { end });
            let now = self.now;
            for host in &mut self.hosts {
                host.machine
                    .used(host.switch.divide(&host.machine.parts(), now));
                host.machine.counted(host.switch.metered().into_iter());
                host.machine.balanced(host.switch.listened().into_iter());
                host.machine.found(host.switch.verdicts().into_iter());
            }
            self.publish(Event::Beat);
            if self.now.since(self.second) >= Duration::from_secs(1) {
                self.second = self.now;
                self.publish(Event::Tick);
            }
            self.converge();
        }
    }

    /// Time passes for the switches: what is due happens at its time.
    fn switch_until(&mut self, end: Now) {
        loop {
            self.settle();
            let now = self.now;
            let ticks = self.hosts.iter_mut();
            let ticks = ticks.filter_map(|host| host.switch.next_tick(now));
            let due = ticks
                .chain(self.underlay.next())
                .filter(|at| *at > now)
                .min();
            match due {
                Some(at) if at < end => self.now = at,
                _ => break,
            }
        }
        self.now = end;
        self.settle();
    }

    /// The underlay of a tunnel endpoint that is no host of ours.
    pub(super) fn far_end(&self, vtep: IpAddr) -> MemoryUnderlay {
        self.underlay.attach(vtep)
    }

    /// May a host of this name join with a join token?
    pub fn may_join(&self, name: &str, token: &str) -> bool {
        let secret = token.rsplit('.').next().unwrap_or_default();
        let Ok(secret) = URL_SAFE_NO_PAD.decode(secret) else {
            return false;
        };
        let wall = reading(self.now).wall;
        joining(&self.brain.snapshot(), &join_token_key(&secret), name, wall).is_some()
    }

    /// Where a VTEP is.
    pub fn vtep(at: usize) -> IpAddr {
        vtep(at)
    }
}

impl Default for Region {
    fn default() -> Self {
        Self::new()
    }
}

fn reading(now: Now) -> Reading {
    Reading {
        now,
        wall: Seconds::new(now.nanos() / 1_000_000_000),
    }
}
