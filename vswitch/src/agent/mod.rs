//! How does a host become what its controller says?
//!
//! The agent owns what the host was told ([`session`]), what it keeps on disk ([`state`]) and which port is where
//! ([`attach`]); it makes the switch run the config ([`apply`]) and tells what became of it ([`report`]). It is one thread
//! that takes [`Input`]s in order: gRPC ([`link`]), the local socket and HTTP are tasks that only carry messages to it.
//! What it acts on is behind two traits, [`Switch`] and [`Wire`], so that a test runs it without a device or a network.
//!
//! # Order of a config
//! told → checked → workers run it → devices follow → kept → acknowledged, and flushed to disk a second later, once for
//! all that came meanwhile. So what is acknowledged survives the process; what survives a crash of the machine may be an
//! older config, which the controller then mends.

pub(crate) mod apply;
mod attach;
pub(crate) mod balanced;
pub(crate) mod device;
mod fence;
pub(crate) mod identity;
pub(crate) mod join;
pub(crate) mod link;
pub(crate) mod meters;
pub(crate) mod parts;
pub(crate) mod report;
pub(crate) mod session;
pub(crate) mod state;
mod status;
#[cfg(test)]
pub(crate) mod testkit;
#[cfg(test)]
pub(crate) mod tests;
pub(crate) mod underlay;
pub(crate) mod verdicts;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use hostconfig::{
    HostConfig, Section, SectionKey,
    share::{self, OneWay, Use},
    wire::{self, from_controller},
};
use net::{Id, Now, ids::kind};
use rustls::ClientConfig;
use tokio::sync::{mpsc, watch};
use tracing::{error, info, warn};

use self::{
    attach::Waiting,
    balanced::Balanced,
    device::NetnsId,
    fence::Fence,
    identity::Identity,
    meters::{Count, Meters},
    parts::Parts,
    report::{Device, Obstacles, Underlay},
    session::{Applied, Complaint, Effect, Event, PortState, Session, StreamId},
    state::{Attachment, Ports, State},
    verdicts::Members,
};
pub use self::{
    identity::IdentityError,
    join::{InvalidToken, JoinError, JoinToken},
    link::LinkError,
    state::StateError,
    status::METRICS,
};
use crate::{
    datapath::probes::Verdict,
    local::{Answer, Ask, Refusal, Reply, code},
    proxy::{self, Proxied},
    worker::monotonic,
};

/// What the agent hears.
#[derive(Debug)]
pub(crate) enum Input {
    /// Of the controller.
    Session(Event),
    /// The host has an identity; one that is `fresh` is not on disk yet.
    Joined {
        /// Whom it is, and whom it believes.
        identity: Identity,
        /// Was it given just now?
        fresh: bool,
    },
    /// Joining failed so far; said where someone asks.
    NotJoined(String),
    /// Of someone on this host.
    Ask(Ask, Reply),
    /// What became of a proxy behind a port.
    Proxied(Id<kind::Port>, Proxied),
    /// The workers lost a device; [`Switch::gone`] says which.
    DeviceGone,
    /// Stop.
    Stop,
}

/// Why a device could not be made, opened or deleted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub(crate) struct DeviceError {
    /// As the local socket says it; see [`code`].
    pub(crate) code: &'static str,
    /// For people.
    pub(crate) message: String,
}

/// A port and all that its device is made from.
#[derive(Debug, Clone)]
pub(crate) struct Wanted<'a> {
    pub(crate) port: &'a hostconfig::Port,
    pub(crate) network: &'a hostconfig::Network,
    pub(crate) at: &'a Attachment,
    /// Is it an appliance's, whose frames bear labels?
    pub(crate) labelled: bool,
}

impl Wanted<'_> {
    /// The MTU of its device: what bears a label may be as much longer.
    pub(crate) fn mtu(&self) -> net::Mtu {
        let mtu = self.network.mtu;
        let room = if self.labelled { LABEL } else { 0 };
        net::Mtu::try_from(u32::from(mtu) + room).unwrap_or(mtu)
    }
}

/// Bytes of a label.
const LABEL: u32 = 4;

/// What the agent acts on: the workers of this host and the devices that they hold.
pub(crate) trait Switch {
    /// Configs are run from now on for a host that hears from its controller, or does not: then it has nothing that another could have.
    fn fence(&mut self, alone: bool);
    /// Until then this host has what another could have. The workers see themselves when it is over, also while nobody tells them anything.
    fn lease(&mut self, until: Now);
    /// Did a worker see that since this was last asked?
    fn lapsed(&mut self) -> bool;
    /// Makes every worker run this config; returns when all do, with what of it can't be realised.
    fn run(&mut self, config: &HostConfig, zones: &Ports) -> Vec<Complaint>;
    /// Makes a port's device and gives it to the workers; one that is there already and the port's own is taken over.
    fn create(&mut self, wanted: &Wanted<'_>) -> Result<(), DeviceError>;
    /// Opens the device that an earlier process made and gives it to the workers.
    fn open(&mut self, wanted: &Wanted<'_>) -> Result<(), DeviceError>;
    /// Follows a changed MAC address or MTU.
    fn change(&mut self, wanted: &Wanted<'_>) -> Result<(), DeviceError>;
    /// Takes the device from the workers; it stays where it is.
    fn close(&mut self, port: Id<kind::Port>);
    /// Deletes the device.
    fn delete(&mut self, port: Id<kind::Port>, at: &Attachment) -> Result<(), DeviceError>;
    /// Opens the wires of the config's networks that are not open, closes what is open for none, and says of each network whose wire
    /// does not work why not. To be called after each [`Switch::run`], and from time to time: interfaces come and go.
    fn wires(&mut self, config: &HostConfig) -> Obstacles;
    /// The ports whose devices went away since this was last asked.
    fn gone(&mut self) -> Vec<Id<kind::Port>>;
    /// What the workers counted at routers' gateways.
    fn meters(&mut self) -> BTreeMap<meters::Key, Count>;
    /// Has no more than this of limits that several hosts share, and says what it let through of each since this was last asked.
    fn divide(&mut self, parts: &BTreeMap<OneWay, u64>) -> BTreeMap<OneWay, Use>;
    /// What passed its listeners.
    fn balanced(&mut self) -> Balanced;
    /// What is known of the members that this host asks whether they serve.
    fn verdicts(&mut self) -> Vec<Verdict>;
    /// Answers a question about packets: explain, flows, conntrack, drops, fdb, metrics, and the switch's part of the status.
    fn ask(&mut self, ask: &Ask) -> Result<Answer, Refusal>;
    /// Do all workers still run?
    fn is_alive(&mut self) -> bool;
    /// Stops the workers: what they hold goes out first.
    fn stop(&mut self);
}

/// The stream to the controller, as the session wants it.
pub(crate) trait Wire {
    /// Opens a stream; it tells [`Event::Connected`] or [`Event::Lost`].
    fn connect(&mut self, stream: StreamId, tls: &Arc<ClientConfig>);
    /// Sends; `false` when the stream is full or gone.
    fn send(&mut self, stream: StreamId, message: wire::FromHost) -> bool;
    /// Closes the stream.
    fn disconnect(&mut self, stream: StreamId);
}

/// What does not change while the agent runs.
#[derive(Debug, Clone)]
pub(crate) struct Me {
    pub(crate) host: String,
    pub(crate) controller: String,
    pub(crate) underlay: Underlay,
    pub(crate) workers: usize,
    /// The physical networks that the host has an interface on.
    pub(crate) physical_networks: Vec<String>,
    /// The zone that the host is in.
    pub(crate) availability_zone: String,
    /// Has it the program that balances HTTP?
    pub(crate) proxies: bool,
}

/// What the workers run.
#[derive(Debug, Default)]
struct Running {
    told: Arc<HostConfig>,
    config: Arc<HostConfig>,
    complaints: Vec<Complaint>,
}

/// The agent.
#[derive(Debug)]
pub(crate) struct Agent<S, W> {
    me: Me,
    state: State,
    ports: Ports,
    session: Session,
    fence: Fence,
    /// What the switch was told of it.
    alone: bool,
    /// Is there anything here that another host could have too?
    movable: bool,
    tls: Option<Arc<ClientConfig>>,
    /// Why it has not joined.
    unjoined: String,
    wire: W,
    wake: Option<Now>,
    switch: S,
    running: Running,
    /// Accepted, not yet run.
    next: Option<Arc<HostConfig>>,
    devices: BTreeMap<Id<kind::Port>, Device>,
    /// The networks whose wires do not work.
    obstacles: Obstacles,
    /// In which namespace each open device is.
    inside: BTreeMap<Id<kind::Port>, NetnsId>,
    /// When to look after those namespaces, and the workers, next.
    look: Now,
    /// No worker ended by itself.
    is_sound: bool,
    told: BTreeMap<Id<kind::Port>, PortState>,
    waiting: Vec<Waiting>,
    /// When the kept config is flushed to disk.
    flush: Option<Now>,
    /// Configs applied, for metrics.
    applied: u64,
    /// What was counted at routers' gateways, and when to look next; `None`: nothing is.
    meters: Meters,
    count: Option<Now>,
    /// What is known of members that are asked, and when to look next; `None`: none is.
    members: Members,
    heard: Option<Now>,
    /// What passed listeners, and when to look next; `None`: there is none.
    balanced: Balanced,
    tally: Option<Now>,
    /// The limits that it shares with other hosts, what it has of them, and when to look next; `None`: there is none.
    limits: BTreeMap<OneWay, u64>,
    parts: Parts,
    share: Option<Now>,
    /// Who keeps proxies running hears here which, and says what became of them.
    keeper: Option<watch::Sender<proxy::Wanted>>,
    proxied: BTreeMap<Id<kind::Port>, Proxied>,
}

/// How long a config may be kept and not flushed: a burst of changes costs one flush.
const FLUSH_AFTER: Duration = Duration::from_secs(1);

impl<S: Switch, W: Wire> Agent<S, W> {
    /// An agent that takes up what the state dir holds: the last config runs and its devices are open when this returns.
    ///
    /// # Errors
    /// When the state dir can't be used.
    pub(crate) fn new(
        me: Me,
        state: State,
        switch: S,
        wire: W,
        now: Now,
    ) -> Result<Self, StateError> {
        let ports = state.ports()?;
        let meters = Meters::new(state.meters()?);
        let config = Arc::new(state.config()?);
        let introduction = session::Introduction {
            vtep: me.underlay.vtep.to_string(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            underlay_mtu: me.underlay.mtu,
            physical_networks: me.physical_networks.clone(),
            availability_zone: me.availability_zone.clone(),
            proxies: me.proxies,
        };
        let (held, replaced) = (Arc::clone(&config), state.replaced()?);
        let session = Session::new(introduction, held, replaced, state.seed()?);
        let mut agent = Self {
            me,
            state,
            ports,
            session,
            fence: Fence::default(),
            alone: true,
            movable: false,
            tls: None,
            unjoined: "not joined yet".to_owned(),
            wire,
            wake: None,
            switch,
            running: Running::default(),
            next: None,
            devices: BTreeMap::new(),
            obstacles: Obstacles::new(),
            inside: BTreeMap::new(),
            look: now,
            is_sound: true,
            told: BTreeMap::new(),
            waiting: Vec::new(),
            flush: Some(now + FLUSH_AFTER), // what the last process kept
            applied: 0,
            meters,
            count: None,
            members: Members::default(),
            heard: None,
            balanced: Balanced::new(),
            tally: None,
            limits: BTreeMap::new(),
            parts: Parts::default(),
            share: None,
            keeper: None,
            proxied: BTreeMap::new(),
        };
        let counted = agent.meters.told();
        agent.step(Event::Metered(counted), now);
        agent.switch.fence(true);
        if !config.incarnation.is_nil() {
            info!(
                generation = config.generation.get(),
                ports = agent.ports.attachments.len(),
                "forwarding from disk"
            );
            agent.run(config);
            agent.settle(now);
        }
        Ok(agent)
    }

    /// Takes one input.
    pub(crate) fn hear(&mut self, input: Input, now: Now) {
        match input {
            Input::Session(event) => {
                if let Event::Received(stream, message) = &event
                    && self.session.is_up(*stream)
                {
                    self.fence.hear(*stream, message, now);
                    if let Some(from_controller::Message::Parts(parts)) = &message.message {
                        self.parts.hear(*stream, parts, now);
                    }
                }
                self.step(event, now);
            }
            Input::Joined { identity, fresh } => self.join(&identity, fresh, now),
            Input::NotJoined(why) => self.unjoined = why,
            Input::Ask(ask, reply) => self.answer(ask, reply, now),
            Input::Proxied(port, proxied) => self.hear_of_proxy(port, proxied, now),
            Input::DeviceGone | Input::Stop => {} // seen to when all is heard
        }
    }

    /// From now on somebody keeps proxies running.
    pub(crate) fn keep_proxies(&mut self, keeper: watch::Sender<proxy::Wanted>) {
        keeper.send_replace(proxy::wanted(&self.running.config));
        self.keeper = Some(keeper);
    }

    fn hear_of_proxy(&mut self, port: Id<kind::Port>, proxied: Proxied, now: Now) {
        if !self
            .running
            .config
            .sections
            .contains_key(&SectionKey::Proxy(port))
        {
            return; // it was taken away meanwhile
        }
        let before = proxy::verdicts(&self.proxied);
        self.proxied.insert(port, proxied);
        if proxy::verdicts(&self.proxied) != before {
            self.tell_verdicts(now);
        }
    }

    /// What is known of all members that are asked from here.
    fn tell_verdicts(&mut self, now: Now) {
        let proxied = proxy::verdicts(&self.proxied);
        let all = self.members.found.iter().chain(&proxied);
        let told = all.map(verdicts::told).collect();
        self.step(Event::Judged(told), now);
    }

    /// Has those proxies kept running that the config has.
    fn follow_proxies(&mut self) {
        let config = &self.running.config;
        self.proxied
            .retain(|port, _| config.sections.contains_key(&SectionKey::Proxy(*port)));
        if let Some(keeper) = &self.keeper {
            let wanted = proxy::wanted(config);
            keeper.send_if_modified(|before| {
                let differs = *before != wanted;
                *before = wanted;
                differs
            });
        }
    }

    fn join(&mut self, identity: &Identity, fresh: bool, now: Now) {
        if fresh && let Err(error) = self.state.keep_identity(identity) {
            error!(
                error = chain(&error),
                "the identity is not on disk: a restart will need a new join token"
            );
        }
        match identity.tls() {
            Ok(tls) => {
                self.tls = Some(tls);
                self.step(Event::Start, now);
            }
            Err(unusable) => {
                self.unjoined = format!("the identity can't be used: {unusable}");
                error!(%unusable, "not joined");
            }
        }
    }

    /// Does what the inputs taken so far ask for: one config for many updates, one report for many changes.
    pub(crate) fn settle(&mut self, now: Now) {
        self.look_for_controller(now);
        if let Some(config) = self.next.take() {
            self.apply(&config, now);
        }
        // Only now: what was told before the word may have taken from this host what it has a lease of.
        if let Some(until) = self.fence.renew() {
            self.switch.lease(until);
            self.look_for_controller(now);
        }
        if self.wake.is_some_and(|at| now >= at) {
            self.wake = None;
            self.step(Event::Tick, now);
        }
        if self.flush.is_some_and(|at| now >= at) {
            self.flush_config();
        }
        if now >= self.look {
            self.let_go_of_lost(None);
            self.is_sound &= self.switch.is_alive();
            self.look_after_wires();
            self.look = now + attach::LOOK_EVERY;
        }
        self.look_at_meters(now);
        self.look_at_verdicts(now);
        self.look_at_listeners(now);
        self.look_at_parts(now);
        for port in self.switch.gone() {
            warn!(%port, "the port's device is gone");
            self.switch.close(port);
            let gone = Device::Broken("its device is gone; attach the port again".to_owned());
            self.devices.insert(port, gone);
        }
        self.attach_waiting(now);
        self.tell_ports(now);
    }

    /// Adds up what was counted, where anything is to be.
    fn look_at_meters(&mut self, now: Now) {
        if !meters::wanted(&self.running.config) {
            self.count = None;
            return;
        }
        if self.count.is_some_and(|at| now < at) {
            return;
        }
        self.count = Some(now + meters::LOOK_EVERY);
        self.count_meters(now);
    }

    /// Hears what became of the members that are asked, where any is.
    fn look_at_verdicts(&mut self, now: Now) {
        if self.members.asks.is_empty() {
            self.heard = None;
            self.members.found.clear();
            return;
        }
        if self.heard.is_some_and(|at| now < at) {
            return;
        }
        self.heard = Some(now + verdicts::LOOK_EVERY);
        let found = self.switch.verdicts();
        if found != self.members.found {
            (self.members.found, self.members.told) = (found, false);
            // Here at once; the others hear of it from the controller.
            let config = verdicts::applied(&self.running.config, &self.members.found);
            self.switch.run(&config, &self.ports);
        }
        if !self.members.told {
            self.members.told = true;
            self.tell_verdicts(now);
        }
    }

    /// Tells what passed listeners, where there are any.
    fn look_at_listeners(&mut self, now: Now) {
        if !balanced::wanted(&self.running.config) {
            self.tally = None;
            return;
        }
        if self.tally.is_some_and(|at| now < at) {
            return;
        }
        self.tally = Some(now + balanced::LOOK_EVERY);
        let counted = self.switch.balanced();
        if counted != self.balanced {
            self.balanced = counted;
            let told = balanced::told(&self.balanced);
            self.step(Event::Balanced(told), now);
        }
    }

    /// Follows what this host has of limits that it shares with others, and says what it used.
    fn look_at_parts(&mut self, now: Now) {
        if self.limits.is_empty() {
            self.share = None;
            return;
        }
        if self.share.is_some_and(|at| now < at) {
            return;
        }
        self.share = Some(now + parts::LOOK_EVERY);
        let parts = self.parts.in_force(&self.limits, now);
        // In force before it is said so.
        let uses = self.switch.divide(&parts);
        let uses = self.parts.told(&uses, self.session.stream(), now);
        self.step(Event::Used(uses), now);
    }

    fn count_meters(&mut self, now: Now) {
        self.meters.take(self.switch.meters());
        if !self.meters.news() {
            return;
        }
        if let Err(error) = self.state.keep_meters(&self.meters.kept()) {
            error!(
                error = chain(&error),
                "what was counted is not on disk: a restart counts from what was kept before"
            );
        }
        self.step(Event::Metered(self.meters.told()), now);
    }

    /// What could be another's is given up while the controller is silent, and taken up again.
    fn look_for_controller(&mut self, now: Now) {
        let alone = self.fence.is_alone(now);
        // A worker saw the end of a lease, and has given up what could move: it takes it up again with the next tables.
        let lapsed = self.switch.lapsed() && !self.alone;
        if lapsed && !alone {
            self.fence_off(true);
        }
        if alone != self.alone {
            self.fence_off(alone);
        }
    }

    fn fence_off(&mut self, alone: bool) {
        self.alone = alone;
        self.switch.fence(alone);
        if self.movable {
            if alone {
                warn!(
                    "the controller is silent; gateways and floating IPs that could move are given up"
                );
            } else {
                info!("the controller is heard; gateways and floating IPs are as it said");
            }
            let config = verdicts::applied(&self.running.config, &self.members.found);
            self.switch.run(&config, &self.ports);
        }
    }

    fn tell_ports(&mut self, now: Now) {
        let states = self.states();
        if states != self.told {
            self.told.clone_from(&states);
            self.step(Event::Ports(states), now);
        }
    }

    /// When [`Agent::settle`] wants to be called again at the latest.
    pub(crate) fn deadline(&self) -> Option<Now> {
        let open = self.devices.values().any(|d| *d == Device::Open);
        let wired = apply::wired(&self.running.config).next().is_some();
        let look = (open || wired).then_some(self.look);
        let look = look
            .into_iter()
            .chain(self.count)
            .chain(self.heard)
            .chain(self.tally)
            .chain(self.share)
            .min();
        let waiting = self.waiting.iter().map(|w| w.deadline);
        let silent = self
            .fence
            .deadline()
            .filter(|_| self.movable && !self.alone);
        let waiting = waiting.chain(silent);
        waiting.chain(self.wake).chain(self.flush).chain(look).min()
    }

    /// Does all of the switch still run? When not, only a new process helps: it takes up where this one stood.
    pub(crate) fn is_sound(&self) -> bool {
        self.is_sound
    }

    /// Stops the switch; devices, addresses and state stay.
    pub(crate) fn stop(&mut self) {
        for waiting in self.waiting.drain(..) {
            waiting.refuse(Refusal::new(code::UNAVAILABLE, "the vswitch is stopping"));
        }
        self.flush_config();
        if self.count.is_some() {
            self.meters.take(self.switch.meters());
            if let Err(error) = self.state.keep_meters(&self.meters.kept()) {
                error!(error = chain(&error), "what was counted is not on disk");
            }
        }
        self.switch.stop();
    }

    fn flush_config(&mut self) {
        if self.flush.take().is_some()
            && let Err(error) = self.state.flush_config()
        {
            error!(
                error = chain(&error),
                "the config is not on disk: a crash of this machine loses it"
            );
        }
    }

    fn step(&mut self, event: Event, now: Now) {
        for effect in self.session.on(event, now) {
            match effect {
                Effect::Connect(stream) => {
                    if let Some(tls) = &self.tls {
                        self.wire.connect(stream, tls);
                    }
                }
                Effect::Disconnect(stream) => self.wire.disconnect(stream),
                Effect::Send(stream, message) => {
                    if !self.wire.send(stream, message) {
                        self.wire.disconnect(stream);
                        let why = "the controller does not take what it is told".to_owned();
                        self.step(Event::Lost(stream, why), now);
                    }
                }
                Effect::Fence(replaced) => {
                    if let Err(error) = self.state.keep_replaced(&replaced) {
                        error!(
                            error = chain(&error),
                            "not on disk: after a restart a controller that was replaced could be followed"
                        );
                    }
                }
                Effect::Apply(config) => self.next = Some(config),
                Effect::Wake(at) => self.wake = Some(at),
            }
        }
    }

    fn apply(&mut self, config: &Arc<HostConfig>, now: Now) {
        let new = self.running.told != *config;
        if new {
            self.run(Arc::clone(config));
            self.applied += 1;
            info!(
                generation = config.generation.get(),
                sections = config.sections.len(),
                "config applied"
            );
        }
        let mut complaints = self.running.complaints.clone();
        if new {
            match self.state.keep_config(config) {
                Ok(()) => drop(self.flush.get_or_insert(now + FLUSH_AFTER)),
                Err(error) => {
                    let why = chain(&error);
                    error!(why, "the config is not kept: a restart will not find it");
                    complaints.push(Complaint {
                        key: String::new(),
                        text: format!("not on this host's disk: {why}"),
                    });
                }
            }
        }
        self.tell_ports(now); // first: what is acknowledged must not meet the ports' old state
        let applied = Applied {
            config: Arc::clone(config),
            complaints,
        };
        self.step(Event::Applied(applied), now);
    }

    /// Makes the workers run a config, and the devices follow it.
    fn run(&mut self, told: Arc<HostConfig>) {
        let (config, mut complaints) = apply::usable(&told);
        for complaint in &complaints {
            warn!(section = complaint.key, "{}", complaint.text);
        }
        let before = self.ports.clone();
        let kept: BTreeSet<_> = tracked(&told).collect();
        self.ports.zones.retain(|id, _| kept.contains(id));
        for id in tracked(&config) {
            self.ports.zone(id);
        }
        self.forget_lost_attachments(&told);
        if self.ports != before {
            self.keep_ports(); // before a record can name a zone
        }
        self.movable = movable(&config, self.me.underlay.vtep);
        if self.count.is_some() {
            // The counters of what goes go with it.
            self.meters.take(self.switch.meters());
        }
        let known = verdicts::applied(&config, &self.members.found);
        complaints.extend(self.switch.run(&known, &self.ports));
        self.obstacles = self.switch.wires(&config);
        complaints.extend(self.obstacles.iter().map(|(network, why)| Complaint {
            key: SectionKey::Network(*network).to_string(),
            text: why.clone(),
        }));
        let old = std::mem::replace(
            &mut self.running,
            Running {
                told,
                config,
                complaints,
            },
        );
        let asks = verdicts::asks(&self.running.config);
        self.members.told &= asks == self.members.asks;
        self.members.asks = asks;
        self.follow(&old.config);
        self.follow_proxies();
        let limits = share::divided(&self.running.config);
        if limits != self.limits {
            self.limits = limits;
            self.share = None; // looked at as soon as all is heard
            if self.limits.is_empty() {
                self.switch
                    .divide(&self.parts.in_force(&self.limits, Now::ZERO));
            }
        }
    }

    /// Interfaces come and go, and nobody tells.
    fn look_after_wires(&mut self) {
        let now = self.switch.wires(&self.running.config);
        for (network, why) in &now {
            if self.obstacles.get(network) != Some(why) {
                warn!(%network, why, "the network's wire does not work");
            }
        }
        for network in self.obstacles.keys().filter(|n| !now.contains_key(*n)) {
            info!(%network, "the network's wire works");
        }
        self.obstacles = now;
    }

    fn keep_ports(&self) {
        if let Err(error) = self.state.keep_ports(&self.ports) {
            error!(
                error = chain(&error),
                "attachments are not on disk: a restart will not find them"
            );
        }
    }

    fn states(&self) -> BTreeMap<Id<kind::Port>, PortState> {
        let mut states = report::states(
            &self.running.told,
            &self.running.config,
            &self.devices,
            (self.me.underlay, &self.obstacles),
        );
        for (port, proxied) in &self.proxied {
            if let (Some(state), Some(why)) = (states.get_mut(port), &proxied.trouble) {
                state.active = false;
                state.reason.clone_from(why);
            }
        }
        states
    }

    fn answer(&mut self, ask: Ask, reply: Reply, now: Now) {
        let answer = match ask {
            Ask::Attach(attach) => return self.attach(attach, reply, now),
            Ask::Detach(detach) => self.detach(detach.port),
            Ask::Status => self.switch.ask(&Ask::Status).map(|s| self.status(&s.ok)),
            Ask::Health => self.health(),
            Ask::Metrics => self.switch.ask(&Ask::Metrics).map(|mut answer| {
                self.metrics(&mut answer.text);
                answer
            }),
            Ask::Top => self.switch.ask(&Ask::Top).map(|mut answer| {
                let limits = self.limits(&mut answer.text);
                if let Some(top) = answer.ok.as_object_mut() {
                    top.insert("limits".to_owned(), limits);
                }
                answer
            }),
            ask @ (Ask::Explain(_)
            | Ask::Flows(_)
            | Ask::Conntrack(_)
            | Ask::Drops(_)
            | Ask::Fdb(_)) => self.switch.ask(&ask),
        };
        drop(reply.send(answer)); // a caller that did not wait
    }
}

/// An error and its sources, on one line.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.ends_with(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        source = cause.source();
    }
    text
}

/// The agent's clock: it shows what the workers' does.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Clock {
    began: Instant,
    at: Now,
}

impl Clock {
    /// Begins now.
    pub(crate) fn start() -> Self {
        Self {
            began: Instant::now(),
            at: monotonic(),
        }
    }

    pub(crate) fn now(self) -> Now {
        self.at + self.began.elapsed()
    }

    /// When the runtime's clock shows this time.
    fn instant(self, at: Now) -> tokio::time::Instant {
        (self.began + at.since(self.at)).into()
    }
}

/// A worker ended before it was told to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a worker ended unexpectedly; see the log")]
pub(crate) struct WorkerEnded;

/// Runs an agent on the calling thread until it is told to stop. Between inputs it sleeps.
///
/// # Errors
/// When a worker ended by itself.
pub(crate) fn run<S: Switch, W: Wire>(
    mut agent: Agent<S, W>,
    mut inputs: mpsc::Receiver<Input>,
    runtime: &tokio::runtime::Handle,
    clock: Clock,
) -> Result<(), WorkerEnded> {
    let ended = loop {
        let deadline = agent.deadline();
        let input = runtime.block_on(async {
            match deadline {
                Some(at) => tokio::time::timeout_at(clock.instant(at), inputs.recv()).await,
                None => Ok(inputs.recv().await),
            }
        });
        let mut next = match input {
            Ok(None) => break Ok(()),
            Ok(input) => input,
            Err(_) => None, // the deadline
        };
        let mut stop = false;
        while let Some(input) = next {
            stop |= matches!(input, Input::Stop);
            agent.hear(input, clock.now());
            next = inputs.try_recv().ok();
        }
        if stop {
            break Ok(());
        }
        agent.settle(clock.now());
        if !agent.is_sound() {
            break Err(WorkerEnded);
        }
    };
    agent.stop();
    ended
}

/// The stream to the controller over gRPC.
#[derive(Debug)]
pub(crate) struct Grpc {
    runtime: tokio::runtime::Handle,
    controller: crate::config::ControllerUrl,
    inputs: mpsc::Sender<Input>,
    stream: Option<link::Stream>,
}

impl Grpc {
    /// To this controller; what it says goes to `inputs`.
    pub(crate) fn new(
        runtime: tokio::runtime::Handle,
        controller: crate::config::ControllerUrl,
        inputs: mpsc::Sender<Input>,
    ) -> Self {
        Self {
            runtime,
            controller,
            inputs,
            stream: None,
        }
    }
}

impl Wire for Grpc {
    fn connect(&mut self, stream: StreamId, tls: &Arc<ClientConfig>) {
        let (controller, inputs) = (self.controller.clone(), self.inputs.clone());
        let tls = Arc::clone(tls);
        self.stream = Some(link::Stream::open(
            &self.runtime,
            stream,
            controller,
            tls,
            inputs,
        ));
    }

    fn send(&mut self, stream: StreamId, message: wire::FromHost) -> bool {
        let current = self.stream.as_ref().filter(|s| s.id() == stream);
        current.is_some_and(|s| s.send(message))
    }

    fn disconnect(&mut self, stream: StreamId) {
        if self.stream.as_ref().is_some_and(|s| s.id() == stream) {
            self.stream = None;
        }
    }
}

/// The ports whose connections are told apart: those of this host, and routers' gateways, which may come to be here.
fn tracked(config: &HostConfig) -> impl Iterator<Item = Id<kind::Port>> + '_ {
    let sections = config.sections.iter();
    let own = sections.filter_map(|(key, section)| match (key, section.body()) {
        (SectionKey::Port(id), _) => Some(*id),
        (_, Section::Router(router)) => router.gateway.as_ref().map(|g| g.port),
        _ => None,
    });
    // Ports of appliances elsewhere: what comes back out of them is told apart as what comes out of those here.
    let mut chains = Vec::new();
    for section in config.sections.values() {
        if let Section::Chain(chain) = section.body() {
            chains.push(chain);
        }
    }
    let placed = chains
        .into_iter()
        .flat_map(hostconfig::Chain::instances)
        .filter(|i| i.at.is_some());
    own.chain(placed.flat_map(|i| [i.ingress, i.egress]))
}

/// Is there anything at this VTEP that another host could have too?
fn movable(config: &HostConfig, vtep: IpAddr) -> bool {
    let here = |at: Option<IpAddr>| at.is_some_and(|at| at.to_canonical() == vtep.to_canonical());
    config
        .sections
        .values()
        .any(|section| match section.body() {
            Section::Router(router) => {
                let gateway = router.gateway.as_ref();
                gateway.is_some_and(|g| g.movable && here(g.at))
            }
            Section::FloatingIp(floating) => floating.movable && here(floating.at),
            Section::Vteps(_)
            | Section::Network(_)
            | Section::AddressSet(_)
            | Section::Group(_)
            | Section::Firewall(_)
            | Section::Qos(_)
            | Section::Chain(_)
            | Section::Port(_)
            | Section::Endpoint(_)
            | Section::Metadata(_)
            | Section::Proxy(_) => false,
        })
}
