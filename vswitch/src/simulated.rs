//! What is a host without devices?
//!
//! [`SimulatedHost`] is the agent of one host with its session, its state dir and its tables; what it would act on is in
//! memory: the stream to the controller is a list of what it said, a device is a name, the workers are the tables that they
//! would run. A region of such hosts runs in one process under a virtual clock, with any controller and any wire between
//! them. A [`Machine`] is what outlives the process: start another host on it, and the vswitch was restarted.
//!
//! # Order
//! As in the daemon: hear whatever came ([`SimulatedHost::received`] and its like), then [`SimulatedHost::settle`] once, and
//! again when [`SimulatedHost::deadline`] has come.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use hostconfig::{
    HostConfig, SectionKey,
    share::{OneWay, Use},
    wire,
};
use net::{Id, Now, ids::kind};
use nfv::chain::HopCounters;
use rcgen::{CertificateParams, KeyPair};
use rustls::ClientConfig;
use tokio::sync::oneshot;

use crate::{
    agent::{
        Agent, DeviceError, IdentityError, Input, JoinError, Me, StateError, Switch, Wanted, Wire,
        apply::wired,
        balanced::Balanced,
        identity::Identity,
        meters::{self, Count},
        report::{Obstacles, Underlay},
        session::{Complaint, Event, StreamId},
        state::{Attachment, Ports, State},
    },
    config::Config,
    daemon::{self, Error},
    datapath::{Tables, probes::Verdict},
    local::{self, Answer, Ask, Attach, Refusal, code},
    switch::complaint,
};

/// What a host does to its stream.
#[derive(Debug, Clone, PartialEq)]
pub enum Said {
    /// It opens one of this number; then tell [`SimulatedHost::connected`] or [`SimulatedHost::lost`].
    Connect(u64),
    /// It sends a message on it.
    Send(u64, wire::FromHost),
    /// It closes it.
    Disconnect(u64),
}

/// Why a simulated host does not start.
#[derive(Debug, thiserror::Error)]
pub enum NotStarted {
    /// The state dir can't be used.
    #[error(transparent)]
    State(#[from] StateError),
    /// No identity can be had.
    #[error("no identity")]
    Identity(#[from] JoinError),
}

impl From<rcgen::Error> for NotStarted {
    fn from(error: rcgen::Error) -> Self {
        Self::Identity(JoinError::Key(error))
    }
}

impl From<IdentityError> for NotStarted {
    fn from(error: IdentityError) -> Self {
        Self::Identity(JoinError::Identity(error))
    }
}

#[derive(Debug, Default)]
struct Inner {
    devices: BTreeMap<(PathBuf, String), Id<kind::Port>>,
    open: BTreeSet<Id<kind::Port>>,
    running: Option<(HostConfig, Tables)>,
    refused: BTreeMap<SectionKey, String>,
    /// Its interfaces on physical networks; `false`: it is down.
    physical: BTreeMap<String, bool>,
    alone: bool,
    meters: BTreeMap<meters::Key, Count>,
    verdicts: Vec<Verdict>,
    balanced: Balanced,
    parts: BTreeMap<OneWay, u64>,
    uses: BTreeMap<OneWay, Use>,
}

/// A machine without devices.
#[derive(Debug, Clone, Default)]
pub struct Machine(Arc<Mutex<Inner>>);

impl Machine {
    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What the workers run; `None` before the first config of this process.
    pub fn running(&self) -> Option<HostConfig> {
        self.inner().running.as_ref().map(|(c, _)| c.clone())
    }

    /// The tables that they run it with.
    pub fn tables(&self) -> Option<Tables> {
        self.inner().running.as_ref().map(|(_, t)| t.clone())
    }

    /// The ports whose devices are open.
    pub fn open(&self) -> BTreeSet<Id<kind::Port>> {
        self.inner().open.clone()
    }

    /// It has an interface on this physical network, that is up or not. A host that runs says so to its controller when it starts.
    pub fn interface(&self, physical: &str, up: bool) {
        self.inner().physical.insert(physical.to_owned(), up);
    }

    /// What its workers have counted since they run: label, router, packets, bytes.
    pub fn counted(
        &self,
        rows: impl Iterator<Item = (Id<kind::MeteringLabel>, Id<kind::Router>, u64, u64)>,
    ) {
        let row = |(label, router, packets, bytes)| ((label, router), Count { packets, bytes });
        self.inner().meters = rows.map(row).collect();
    }

    /// What became of the members that it asks: monitor, member, and whether it serves.
    pub fn found(
        &self,
        rows: impl Iterator<Item = (Id<kind::HealthMonitor>, Id<kind::Port>, bool)>,
    ) {
        let row = |(monitor, member, serves)| Verdict {
            monitor,
            member,
            serves,
        };
        self.inner().verdicts = rows.map(row).collect();
    }

    /// What its workers let through, more than was said before, of limits that several hosts share.
    pub fn used(&self, uses: BTreeMap<OneWay, Use>) {
        let mut inner = self.inner();
        for (way, used) in uses {
            let sum = inner.uses.entry(way).or_default();
            sum.bits = sum.bits.saturating_add(used.bits);
            sum.waits |= used.waits;
        }
    }

    /// What it has of such limits, in bits a second.
    pub fn parts(&self) -> BTreeMap<OneWay, u64> {
        self.inner().parts.clone()
    }

    /// What passed its listeners.
    pub fn balanced(&self, rows: impl Iterator<Item = (Id<kind::PortChain>, HopCounters)>) {
        let mut all = Balanced::new();
        for (listener, counted) in rows {
            *all.entry(listener.uuid()).or_default() += counted;
        }
        self.inner().balanced = all;
    }

    /// From now on the workers can't realise this section, for this reason; `None`: they can.
    pub fn refuse(&self, key: SectionKey, reason: Option<&str>) {
        let refused = &mut self.inner().refused;
        match reason {
            Some(reason) => drop(refused.insert(key, reason.to_owned())),
            None => drop(refused.remove(&key)),
        }
    }
}

fn place(at: &Attachment) -> (PathBuf, String) {
    (at.netns.clone(), at.ifname.clone())
}

fn unable(code: &'static str, message: &str) -> DeviceError {
    DeviceError {
        code,
        message: message.to_owned(),
    }
}

impl Switch for Machine {
    fn fence(&mut self, alone: bool) {
        self.inner().alone = alone;
    }

    fn lease(&mut self, _: Now) {}

    fn lapsed(&mut self) -> bool {
        false // there are no workers who would see it before the agent
    }

    fn run(&mut self, config: &HostConfig, ports: &Ports) -> Vec<Complaint> {
        let mut inner = self.inner();
        let zones = ports.zones.iter().map(|(id, zone)| (*id, *zone)).collect();
        let before = inner.running.take().map(|(_, tables)| tables);
        let before = before
            .unwrap_or_else(|| Tables::empty(0))
            .alone(inner.alone);
        let tables = Tables::build(Some(&before), config, &zones, 0);
        let mut complaints: Vec<_> = tables.faults().iter().map(|f| complaint(f)).collect();
        let refused = inner.refused.iter();
        let refused = refused.filter(|(key, _)| config.sections.contains_key(key));
        complaints.extend(refused.map(|(key, reason)| Complaint {
            key: key.to_string(),
            text: reason.clone(),
        }));
        inner.running = Some((config.clone(), tables));
        complaints
    }

    fn create(&mut self, wanted: &Wanted<'_>) -> Result<(), DeviceError> {
        let mut inner = self.inner();
        let port = wanted.port.id;
        if *inner.devices.entry(place(wanted.at)).or_insert(port) != port {
            return Err(unable(code::NAME_TAKEN, "another port's device is there"));
        }
        inner.open.insert(port);
        Ok(())
    }

    fn open(&mut self, wanted: &Wanted<'_>) -> Result<(), DeviceError> {
        let mut inner = self.inner();
        if inner.devices.get(&place(wanted.at)) != Some(&wanted.port.id) {
            return Err(unable(code::DEVICE, "the device is not there"));
        }
        inner.open.insert(wanted.port.id);
        Ok(())
    }

    fn change(&mut self, _: &Wanted<'_>) -> Result<(), DeviceError> {
        Ok(())
    }

    fn close(&mut self, port: Id<kind::Port>) {
        self.inner().open.remove(&port);
    }

    fn delete(&mut self, _: Id<kind::Port>, at: &Attachment) -> Result<(), DeviceError> {
        self.inner().devices.remove(&place(at));
        Ok(())
    }

    fn wires(&mut self, config: &HostConfig) -> Obstacles {
        let inner = self.inner();
        let wired = wired(config);
        wired
            .filter_map(|(network, wire)| {
                let why = match inner.physical.get(&wire.physical) {
                    Some(true) => return None,
                    Some(false) => "is down",
                    None => "is not there",
                };
                let why = format!("the interface on physical network {} {why}", wire.physical);
                Some((network.id, why))
            })
            .collect()
    }

    fn gone(&mut self) -> Vec<Id<kind::Port>> {
        Vec::new()
    }

    fn meters(&mut self) -> BTreeMap<meters::Key, Count> {
        self.inner().meters.clone()
    }

    fn divide(&mut self, parts: &BTreeMap<OneWay, u64>) -> BTreeMap<OneWay, Use> {
        let mut inner = self.inner();
        inner.parts.clone_from(parts);
        std::mem::take(&mut inner.uses)
    }

    fn balanced(&mut self) -> Balanced {
        self.inner().balanced.clone()
    }

    fn verdicts(&mut self) -> Vec<Verdict> {
        self.inner().verdicts.clone()
    }

    fn ask(&mut self, _: &Ask) -> Result<Answer, Refusal> {
        Ok(Answer::default())
    }

    fn is_alive(&mut self) -> bool {
        true
    }

    fn stop(&mut self) {
        let mut inner = self.inner();
        inner.open.clear();
        inner.running = None;
    }
}

/// What a host said and nobody carried yet.
#[derive(Debug, Clone, Default)]
struct Outbox(Arc<Mutex<Vec<Said>>>);

impl Outbox {
    fn put(&self, said: Said) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.push(said);
    }

    fn take(&self) -> Vec<Said> {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::take(&mut *all)
    }
}

impl Wire for Outbox {
    fn connect(&mut self, StreamId(stream): StreamId, _: &Arc<ClientConfig>) {
        self.put(Said::Connect(stream));
    }

    fn send(&mut self, StreamId(stream): StreamId, message: wire::FromHost) -> bool {
        self.put(Said::Send(stream, message));
        true
    }

    fn disconnect(&mut self, StreamId(stream): StreamId) {
        self.put(Said::Disconnect(stream));
    }
}

/// Who a simulated host is.
#[derive(Debug, Clone)]
pub struct Name {
    /// The host's name.
    pub host: String,
    /// Its VTEP's address.
    pub vtep: IpAddr,
    /// The MTU of that address's link; 0 unknown.
    pub underlay_mtu: u32,
    /// Spreads its reconnections; kept from the first start on.
    pub seed: u64,
    /// The zone that it is in.
    pub availability_zone: String,
    /// Does it say that it has the program that balances HTTP? None runs.
    pub proxies: bool,
}

/// The agent of a host without devices.
#[derive(Debug)]
pub struct SimulatedHost {
    agent: Agent<Machine, Outbox>,
    outbox: Outbox,
    machine: Machine,
    /// Stands for every namespace.
    netns: PathBuf,
}

impl SimulatedHost {
    /// Starts: what the state dir holds runs when this returns. The host has an identity, of nobody's CA.
    ///
    /// # Errors
    /// When the state dir can't be used, or is another's.
    pub fn start(
        name: &Name,
        state_dir: &Path,
        machine: &Machine,
        now: Now,
    ) -> Result<Self, NotStarted> {
        let state = State::open(state_dir)?;
        state.seed_or(|| name.seed)?;
        let kept = state.identity()?;
        let fresh = kept.is_none();
        let identity = match kept {
            Some(identity) => identity,
            None => own_identity(&name.host)?,
        };
        let me = Me {
            host: name.host.clone(),
            controller: String::new(),
            underlay: Underlay {
                vtep: name.vtep,
                mtu: name.underlay_mtu,
            },
            workers: 1,
            physical_networks: machine.inner().physical.keys().cloned().collect(),
            availability_zone: name.availability_zone.clone(),
            proxies: name.proxies,
        };
        let outbox = Outbox::default();
        machine.clone().stop(); // the last process's workers are no more
        let mut agent = Agent::new(me, state, machine.clone(), outbox.clone(), now)?;
        agent.hear(Input::Joined { identity, fresh }, now);
        Ok(Self {
            agent,
            outbox,
            machine: machine.clone(),
            netns: state_dir.to_owned(),
        })
    }

    /// The machine that it runs on.
    pub fn machine(&self) -> &Machine {
        &self.machine
    }

    /// The stream stands.
    pub fn connected(&mut self, stream: u64, now: Now) {
        self.hear(Event::Connected(StreamId(stream)), now);
    }

    /// The controller said something.
    pub fn received(&mut self, stream: u64, message: wire::FromController, now: Now) {
        self.hear(Event::Received(StreamId(stream), message), now);
    }

    /// The stream ended, or never stood.
    pub fn lost(&mut self, stream: u64, why: &str, now: Now) {
        self.hear(Event::Lost(StreamId(stream), why.to_owned()), now);
    }

    fn hear(&mut self, event: Event, now: Now) {
        self.agent.hear(Input::Session(event), now);
    }

    /// Somebody attaches a port under its own name, and does not wait for it.
    pub fn attach(&mut self, port: Id<kind::Port>, now: Now) {
        let attach = Attach {
            port,
            netns: self.netns.display().to_string(),
            ifname: device_name(port),
            fixed: false,
        };
        let (reply, _) = oneshot::channel();
        self.agent.hear(Input::Ask(Ask::Attach(attach), reply), now);
    }

    /// Does what all that was heard asks for; what was said since comes out.
    pub fn settle(&mut self, now: Now) -> Vec<Said> {
        self.agent.settle(now);
        self.outbox.take()
    }

    /// When to settle again at the latest.
    pub fn deadline(&self) -> Option<Now> {
        self.agent.deadline()
    }

    /// Stops in order, as on SIGTERM. To drop it is to kill it.
    pub fn stop(mut self) {
        self.agent.stop();
    }
}

/// Interfaces have 15 characters.
fn device_name(port: Id<kind::Port>) -> String {
    let mut name = format!("t{}", port.uuid().simple());
    name.truncate(15);
    name
}

/// A certificate of its own and for itself: simulated wires ask for none.
fn own_identity(host: &str) -> Result<Identity, NotStarted> {
    let params = CertificateParams::new(vec![host.to_owned()])?;
    let key = KeyPair::generate()?;
    let certificate = params.self_signed(&key)?.der().to_vec();
    let identity = Identity::new(key.serialize_der(), certificate.clone(), certificate);
    Ok(identity?)
}

/// Runs the whole vswitch of a machine until `shutdown`, as [`run`](crate::run) does, but for devices and worker threads: it joins, keeps its
/// state, and speaks gRPC to a controller.
///
/// # Errors
/// As [`run`](crate::run).
pub async fn run(
    config: Config,
    machine: Machine,
    shutdown: impl Future<Output = ()>,
) -> Result<(), Error> {
    daemon::serve(config, shutdown, |_, _, _, _| Ok(machine)).await
}

/// Reads a line as the run dir's socket does, and does nothing.
///
/// # Errors
/// The line that answers a request that can't be understood.
pub fn understood(line: &[u8]) -> Result<(), Vec<u8>> {
    match local::parse(line) {
        Ok(_) => Ok(()),
        Err(refusal) => Err(local::render(Err(refusal))),
    }
}
