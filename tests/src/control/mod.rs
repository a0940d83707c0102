//! Do a controller and its hosts agree, whatever becomes of the streams between them?
//!
//! A [`Region`] is both ends in one process: a controller's store, rules, compiler and publisher ([`Brain`]), and the agents of
//! several hosts with their state dirs ([`SimulatedHost`]). Between them are streams as gRPC makes them: in order, and what was
//! on the way is lost when one is cut. How long anything takes, what is said twice and when an end notices a cut follows from a
//! seed; the clock moves from one event to the next.
//!
//! # Invariants
//! Held at each step, whatever happens:
//! - A host acknowledges what its workers run at that moment.
//! - A port is shown as ACTIVE only if its host ran the port's present section with its device open, once the host has proved
//!   anything on its present stream.
//! - An update names only what differs from what the host is known to hold; it is whole only for a host that named nothing.

pub mod brain;
mod check;
pub mod intent;
pub mod storm;
mod wires;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use controller::{
    hosts::{
        publish::{Conn, Effect, Event, Reading},
        session::HangUp,
    },
    refusal::Refusal,
    resource::{Objects, Resource},
    resources::{Host as HostRecord, Port},
    rules::Moment,
    store::{Disk, MemoryDisk, View},
    time::Seconds,
};
use hostconfig::{Section, SectionHash, SectionKey};
use net::{Id, Now, ids::kind};
use serde_json::json;
use tokio::runtime::{Builder, Runtime};
use uuid::Uuid;
use vswitch::simulated::{Machine, Name, Said, SimulatedHost};

use brain::Brain;
use wires::{Link, ToController, ToHost};

/// Seeded chance.
#[derive(Debug, Clone)]
pub struct Dice(u64);

impl Dice {
    /// Of a seed.
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// `SplitMix64` (Steele, Lea, Flood 2014).
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Less than this.
    pub fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.next() % u64::try_from(bound).unwrap()).unwrap()
    }

    /// In so many cases of a hundred.
    pub fn percent(&mut self, percent: usize) -> bool {
        self.below(100) < percent
    }

    /// At most this long.
    fn within(&mut self, longest: Duration) -> Duration {
        let nanos = u64::try_from(longest.as_nanos()).unwrap();
        Duration::from_nanos(self.next() % (nanos + 1))
    }
}

/// What the streams are like.
#[derive(Debug, Clone, Copy)]
pub struct Weather {
    /// A message takes at most this long; so does a process to look at what it heard.
    pub delay: Duration,
    /// An end notices a cut within this.
    pub notice: Duration,
    /// Messages of a hundred that are said twice.
    pub twice: usize,
}

/// Quick and faithful.
pub const CALM: Weather = Weather {
    delay: Duration::from_millis(5),
    notice: Duration::from_millis(100),
    twice: 0,
};

/// Slow, with repetitions; a keepalive of 20 s and its time limit of 10 s notice a cut.
pub const ROUGH: Weather = Weather {
    delay: Duration::from_millis(400),
    notice: Duration::from_secs(30),
    twice: 10,
};

/// A certificate's fingerprint in the host's record.
fn certificate(host: &str) -> String {
    format!("certificate of {host}")
}

/// What arrives, or is due.
#[derive(Debug, Clone)]
enum Item {
    ToHost(Conn, ToHost),
    ToController(Conn, ToController),
    /// A host's process of this number looks at what it heard, and at the clock.
    Settle(String, u64),
    /// A controller's process of this number looks at its store.
    Follow(u64),
    Tick(u64),
    Vtep(u64, Uuid, Option<IpAddr>),
}

/// What a host heard, for tests that count.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Heard {
    /// Updates.
    pub updates: usize,
    /// Those that were whole.
    pub wholes: usize,
    /// Sections put in, in order.
    pub upserts: Vec<String>,
    /// Sections taken out, in order.
    pub removals: Vec<String>,
    /// Acknowledgements that it sent.
    pub acks: usize,
}

/// A host.
#[derive(Debug)]
pub struct Host {
    /// Its id at the controller.
    pub id: Uuid,
    /// What outlives its processes.
    pub machine: Machine,
    /// Since the last [`Region::forget`].
    pub heard: Heard,
    /// No stream reaches the controller.
    pub away: bool,
    name: Name,
    dir: PathBuf,
    agent: Option<SimulatedHost>,
    boot: u64,
    settles: Option<Now>,
    proofs: BTreeSet<(Id<kind::Port>, SectionHash)>,
}

/// A directory that goes with its region.
#[derive(Debug)]
struct Scratch(PathBuf);

impl Drop for Scratch {
    fn drop(&mut self) {
        drop(std::fs::remove_dir_all(&self.0));
    }
}

/// A controller and its hosts.
#[derive(Debug)]
pub struct Region {
    /// By name.
    pub hosts: BTreeMap<String, Host>,
    /// `None`: it does not run.
    pub brain: Option<Brain>,
    /// What the streams are like from now on.
    pub weather: Weather,
    /// Workloads that find their port on a host attach it.
    pub workloads: bool,
    /// Streams that the controller ended, and why.
    pub hang_ups: Vec<(String, HangUp)>,
    /// All that happened, to compare two runs.
    pub trace: Vec<String>,
    /// Chance.
    pub dice: Dice,
    disk: Arc<dyn Disk>,
    runtime: Runtime,
    now: Now,
    queue: BTreeMap<(Now, u64), Item>,
    sequence: u64,
    links: BTreeMap<Conn, Link>,
    reign: u64,
    orders: u64,
    scratch: Scratch,
}

impl Region {
    /// Hosts `h1` to `hN`, joined, and a controller that knows their names alone. Nothing runs yet: [`Region::start`].
    pub fn new(seed: u64, hosts: u8) -> Self {
        // State dirs are flushed often: on a disk that would be most of the time that a test takes.
        let memory = PathBuf::from("/dev/shm");
        let base = if memory.is_dir() {
            memory
        } else {
            std::env::temp_dir()
        };
        let unique = format!("ow-region-{}-{}", std::process::id(), Uuid::new_v4());
        let mut region = Self {
            hosts: BTreeMap::new(),
            brain: None,
            weather: CALM,
            workloads: true,
            hang_ups: Vec::new(),
            trace: Vec::new(),
            dice: Dice::new(seed),
            disk: Arc::new(MemoryDisk::new(Uuid::from_u128(1))),
            runtime: Builder::new_current_thread().build().unwrap(),
            now: Now::from_nanos(1_000_000_000_000),
            queue: BTreeMap::new(),
            sequence: 0,
            links: BTreeMap::new(),
            reign: 0,
            orders: 0,
            scratch: Scratch(base.join(unique)),
        };
        region.start_controller();
        for n in 1..=hosts {
            region.add_host(n);
        }
        region
    }

    fn add_host(&mut self, n: u8) {
        let host = format!("h{n}");
        let id = self
            .order({
                let host = host.clone();
                move |view, at| {
                    let id = intent::create::<HostRecord>(view, at, &json!({"name": host}))?;
                    let mut joined =
                        HostRecord::clone(view.object::<HostRecord>(id).as_ref().unwrap());
                    joined.certificate = Some(certificate(&host));
                    view.put(HostRecord::SPEC.key(id), Arc::new(joined));
                    Ok(id)
                }
            })
            .unwrap();
        let seed = self.dice.next();
        let name = Name {
            host: host.clone(),
            vtep: IpAddr::from([192, 0, 2, n]),
            underlay_mtu: 9000,
            seed,
            availability_zone: "nova".to_owned(),
            proxies: false,
        };
        let dir = self.scratch.0.join(&host);
        std::fs::create_dir_all(&dir).unwrap();
        let added = Host {
            id,
            machine: Machine::default(),
            heard: Heard::default(),
            away: false,
            name,
            dir,
            agent: None,
            boot: 0,
            settles: None,
            proofs: BTreeSet::new(),
        };
        self.hosts.insert(host, added);
    }

    /// The names of all hosts.
    pub fn names(&self) -> Vec<String> {
        self.hosts.keys().cloned().collect()
    }

    /// Now.
    pub fn now(&self) -> Now {
        self.now
    }

    fn reading(&self) -> Reading {
        Reading {
            now: self.now,
            wall: Seconds::new(self.now.nanos() / 1_000_000_000),
        }
    }

    /// The controller that runs.
    pub fn brain(&self) -> &Brain {
        self.brain.as_ref().expect("the controller runs")
    }

    /// Starts whatever does not run.
    pub fn start(&mut self) {
        self.start_controller();
        for host in self.names() {
            self.start_host(&host);
        }
    }

    /// Starts the controller, if it does not run.
    pub fn start_controller(&mut self) {
        if self.brain.is_none() {
            self.reign += 1;
            let brain = Brain::start(&self.runtime, Arc::clone(&self.disk), self.reading());
            self.note(&format!("controller {} starts", self.reign));
            self.brain = Some(brain);
            self.push(Duration::ZERO, Item::Tick(self.reign));
        }
    }

    /// The controller's process dies; its streams with it.
    pub fn kill_controller(&mut self) {
        if self.brain.take().is_some() {
            self.note("controller dies");
            let conns: Vec<Conn> = self.links.keys().copied().collect();
            for conn in conns {
                self.cut(conn, true);
            }
        }
    }

    /// What holds the controller's store.
    pub fn disk(&self) -> Arc<dyn Disk> {
        Arc::clone(&self.disk)
    }

    /// The controller is another one from now on: the one of this disk.
    pub fn change_controller(&mut self, disk: Arc<dyn Disk>) {
        self.kill_controller();
        self.disk = disk;
        self.start_controller();
    }

    /// Starts a host's vswitch, if it does not run.
    pub fn start_host(&mut self, name: &str) {
        let host = self.hosts.get_mut(name).unwrap();
        if host.agent.is_none() {
            host.boot += 1;
            let dir = host.dir.join("state");
            let agent = SimulatedHost::start(&host.name, &dir, &host.machine, self.now);
            host.agent = Some(agent.unwrap());
            self.note(&format!("{name} starts"));
            self.settle_within(name, Duration::ZERO);
        }
    }

    /// A host's vswitch dies; its streams with it.
    pub fn kill_host(&mut self, name: &str) {
        let host = self.hosts.get_mut(name).unwrap();
        if host.agent.take().is_some() {
            host.settles = None;
            self.note(&format!("{name} dies"));
            for conn in self.conns_of(name) {
                self.cut(conn, true);
            }
        }
    }

    /// The machine of a host stops: its vswitch dies, and what was not flushed is lost.
    pub fn crash(&mut self, name: &str) {
        self.kill_host(name);
        let next = self.hosts[name].dir.join("state/config.next");
        drop(std::fs::remove_file(next)); // often flushed already
    }

    /// Where a host keeps its state.
    pub fn state_dir(&self, name: &str) -> PathBuf {
        self.hosts[name].dir.join("state")
    }

    /// A transaction of an operator's; the publisher hears of it a little later.
    ///
    /// # Errors
    /// What the rules refuse.
    pub fn order<T: Send + 'static>(
        &mut self,
        rule: impl Fn(&mut View, &Moment) -> Result<T, Refusal> + Send + 'static,
    ) -> Result<T, Refusal> {
        self.orders += 1;
        let with = (self.orders, self.reading().wall);
        let brain = self.brain.as_ref().expect("the controller runs");
        let done = brain.transact(&self.runtime, with, rule);
        self.push_soon(Item::Follow(self.reign));
        done
    }

    fn push(&mut self, after: Duration, item: Item) {
        self.sequence += 1;
        self.queue.insert((self.now + after, self.sequence), item);
    }

    fn push_soon(&mut self, item: Item) {
        let delay = self.dice.within(self.weather.delay);
        self.push(delay, item);
    }

    fn settle_within(&mut self, name: &str, longest: Duration) {
        let at = self.now + self.dice.within(longest);
        self.settle_at(name, at);
    }

    fn settle_at(&mut self, name: &str, at: Now) {
        let host = self.hosts.get_mut(name).unwrap();
        let at = at.max(self.now + Duration::from_nanos(1));
        if host.settles.is_none_or(|before| at < before) {
            host.settles = Some(at);
            let item = Item::Settle(name.to_owned(), host.boot);
            self.sequence += 1;
            self.queue.insert((at, self.sequence), item);
        }
    }

    fn note(&mut self, what: &str) {
        let at = self.now.since(Now::ZERO);
        self.trace.push(format!("{at:?} {what}"));
    }

    /// Forgets what hosts heard so far.
    pub fn forget(&mut self) {
        for host in self.hosts.values_mut() {
            host.heard = Heard::default();
        }
        self.hang_ups.clear();
    }

    /// Lets this much time pass.
    pub fn advance(&mut self, time: Duration) {
        let end = self.now + time;
        while let Some(entry) = self.queue.first_entry() {
            if entry.key().0 > end {
                break;
            }
            let ((at, _), item) = entry.remove_entry();
            self.now = self.now.max(at);
            self.take(item);
        }
        self.now = end;
    }

    fn take(&mut self, item: Item) {
        match item {
            Item::ToHost(conn, what) => self.tell_host(conn, what),
            Item::ToController(conn, what) => self.tell_controller(conn, what),
            Item::Settle(name, boot) => {
                if self.hosts[&name].boot == boot {
                    self.settle(&name);
                }
            }
            Item::Follow(reign) if reign == self.reign => {
                self.follow();
            }
            Item::Tick(reign) if reign == self.reign && self.brain.is_some() => {
                self.publish(Event::Tick);
                self.push(Duration::from_secs(1), Item::Tick(reign));
            }
            Item::Vtep(reign, host, vtep) if reign == self.reign => {
                let (runtime, at) = (&self.runtime, self.reading());
                if let Some(brain) = &mut self.brain {
                    let effects = brain.note_vtep(runtime, (host, vtep), at);
                    self.push_soon(Item::Follow(reign));
                    self.effect(effects);
                }
            }
            Item::Follow(_) | Item::Tick(_) | Item::Vtep(..) => {} // of a process that is no more
        }
    }

    fn settle(&mut self, name: &str) {
        let now = self.now;
        let host = self.hosts.get_mut(name).unwrap();
        host.settles = None;
        let Some(agent) = &mut host.agent else { return };
        let said = agent.settle(now);
        let deadline = agent.deadline();
        self.prove(name);
        for said in said {
            match said {
                Said::Connect(stream) => self.connect(name, stream),
                Said::Send(stream, message) => self.send_up(name, stream, &message),
                Said::Disconnect(stream) => {
                    if let Some(conn) = self.conn(name, stream) {
                        let delay = self.dice.within(self.weather.delay);
                        self.up(conn, delay, ToController::Closed);
                    }
                }
            }
        }
        if let Some(at) = deadline {
            self.settle_at(name, at);
        }
        self.attach(name);
    }

    /// Workloads attach what they find.
    fn attach(&mut self, name: &str) {
        if !self.workloads {
            return;
        }
        let host = self.hosts.get_mut(name).unwrap();
        let (Some(agent), Some(running)) = (&mut host.agent, host.machine.running()) else {
            return;
        };
        let open = host.machine.open();
        let mut attached = false;
        for (key, section) in &running.sections {
            if let (SectionKey::Port(id), Section::Port(port)) = (key, section.body())
                // A sub-port has no device of its own.
                && port.trunk.is_none()
                && !open.contains(id)
            {
                agent.attach(*id, self.now);
                attached = true;
            }
        }
        if attached {
            // As somebody who looks now and then: an attachment that can't be is asked for again.
            self.settle_within(name, Duration::from_secs(2));
        }
    }

    /// The publisher follows a commit; `false` if there is none.
    fn follow(&mut self) -> bool {
        let (runtime, at) = (&self.runtime, self.reading());
        let Some(brain) = &mut self.brain else {
            return false;
        };
        let Some(effects) = brain.follow(runtime, at) else {
            return false;
        };
        self.effect(effects);
        true
    }

    fn publish(&mut self, event: Event) {
        let at = self.reading();
        if let Some(brain) = &mut self.brain {
            let effects = brain.publisher.on(event, at);
            self.effect(effects);
        }
    }

    fn effect(&mut self, effects: Vec<Effect>) {
        for effect in effects {
            match effect {
                Effect::Send(conn, message) => {
                    self.check_update(conn, &message);
                    if self.links[&conn].cut {
                        continue;
                    }
                    for _ in 0..=usize::from(self.dice.percent(self.weather.twice)) {
                        let delay = self.dice.within(self.weather.delay);
                        self.down(conn, delay, ToHost::Message(message.clone()));
                    }
                }
                Effect::HangUp(conn, reason) => {
                    let link = self.links.get_mut(&conn).unwrap();
                    (link.settled, link.ended) = (false, true);
                    let host = link.host.clone();
                    self.note(&format!("controller ends {conn:?} of {host}: {reason}"));
                    self.hang_ups.push((host, reason));
                    if !self.links[&conn].cut {
                        let delay = self.dice.within(self.weather.delay);
                        self.down(conn, delay, ToHost::Lost("ended"));
                    }
                }
                Effect::Site(..)
                | Effect::Place(_)
                | Effect::Seat(_)
                | Effect::Judge(_)
                | Effect::Lost(_) => {
                    unreachable!(
                        "no host of this fabric has a wire, a gateway, a member or an appliance"
                    )
                }
                Effect::Vtep(host, vtep) => {
                    self.push_soon(Item::Vtep(self.reign, host.uuid(), vtep));
                }
            }
        }
        self.check_status();
    }

    /// A port's status, as the API shows it.
    pub fn status(&self, port: Uuid) -> String {
        let shown = self.brain().shown::<Port>(port, "status");
        shown.as_str().unwrap().to_owned()
    }

    /// The last events, for a test that fails.
    pub fn tail(&self) -> String {
        let from = self.trace.len().saturating_sub(60);
        self.trace[from..].join("\n")
    }
}
