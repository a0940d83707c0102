//! What does a host say to its controller, and when does it believe it?
//!
//! The session is a state machine, `on(event, now) -> effects`, without I/O: [`super::link`] carries the messages, the
//! agent's loop applies configs and sets the timer. So that thousands of sessions run in one test.
//!
//! # Invariants
//! - What is held is what the controller's digest proved: an update that does not lead there is thrown away, and the
//!   next stream asks for everything.
//! - Within an incarnation generations only grow; another incarnation (a restored store) starts anew. One that a followed
//!   controller's store was restored from is never followed again: it was replaced, whatever it says.
//! - An acknowledgement names a config that was applied and is on disk.
//! - One stream at a time; what an older stream still says is not heard.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    sync::Arc,
    time::Duration,
};

use hostconfig::{
    Digest, Generation, HostConfig, Keyed, SectionHash, SectionKey,
    section::InvalidSection,
    wire::{self, from_controller, from_host},
};
use net::{Id, Now, ids::kind};
use tracing::{info, warn};
use uuid::Uuid;

/// The first pause after a lost stream. A controller that restarts is back within a second.
const BACKOFF_FIRST: Duration = Duration::from_millis(250);
/// The longest pause: a region of 50,000 hosts then asks some 5,000 times a second at most.
const BACKOFF_MAX: Duration = Duration::from_secs(15);
/// Complaints sent with one acknowledgement; the rest is summed up.
const COMPLAINTS_MAX: usize = 256;
/// Incarnations that are remembered as replaced, the last ones: one a restored backup.
const REPLACED_MAX: usize = 64;

/// Numbers the streams of a session, so that what an old one still says is told apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub(crate) struct StreamId(pub(crate) u64);

impl fmt::Display for StreamId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Why a section can't be realised, or not entirely.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Complaint {
    /// The section, as it is named on the wire.
    pub(crate) key: String,
    /// What is wrong with it.
    pub(crate) text: String,
}

/// What the controller is told of a port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PortState {
    /// Its device exists and is open.
    pub(crate) attached: bool,
    /// Attached, configured and forwarding.
    pub(crate) active: bool,
    /// Why not, if not.
    pub(crate) reason: String,
}

/// What a host says of itself when a stream begins.
#[derive(Debug, Clone)]
pub(crate) struct Introduction {
    /// The VTEP address.
    pub(crate) vtep: String,
    /// This program's version.
    pub(crate) version: String,
    /// The MTU of the link that the VTEP address is on; 0 unknown.
    pub(crate) underlay_mtu: u32,
    /// The physical networks that it has an interface on.
    pub(crate) physical_networks: Vec<String>,
    /// The zone that it is in.
    pub(crate) availability_zone: String,
    pub(crate) proxies: bool,
}

/// What happened.
#[derive(Debug)]
pub(crate) enum Event {
    /// The host has an identity: connect.
    Start,
    /// The stream stands.
    Connected(StreamId),
    /// The controller said something.
    Received(StreamId, wire::FromController),
    /// The stream ended, or never stood.
    Lost(StreamId, String),
    /// The workers run this config, and it is on disk.
    Applied(Applied),
    /// The state of every port.
    Ports(BTreeMap<Id<kind::Port>, PortState>),
    /// All that was counted at routers' gateways.
    Metered(Vec<wire::Metered>),
    /// All that passed listeners.
    Balanced(Vec<wire::Balanced>),
    /// All that is known of members that are asked.
    Judged(Vec<wire::Verdict>),
    /// What was used of limits that several hosts share.
    Used(wire::Uses),
    /// The time of [`Effect::Wake`] has come.
    Tick,
}

/// A config that the workers run.
#[derive(Debug, Clone)]
pub(crate) struct Applied {
    /// As [`Effect::Apply`] gave it.
    pub(crate) config: Arc<HostConfig>,
    /// What of it could not be realised.
    pub(crate) complaints: Vec<Complaint>,
}

/// What is to be done.
#[derive(Debug, PartialEq)]
pub(crate) enum Effect {
    /// Open a stream.
    Connect(StreamId),
    /// Close it.
    Disconnect(StreamId),
    /// Send a message on it.
    Send(StreamId, wire::FromHost),
    /// Put these incarnations on disk as replaced, before the config that comes next.
    Fence(Vec<Uuid>),
    /// Make the workers run it and put it on disk; then say [`Event::Applied`].
    Apply(Arc<HostConfig>),
    /// Say [`Event::Tick`] at this time.
    Wake(Now),
}

#[derive(Debug, PartialEq, Eq)]
enum Link {
    /// No identity yet.
    Off,
    Dialling(StreamId),
    Up(StreamId),
    Waiting(Now),
}

/// Why an update is not followed.
#[derive(Debug, thiserror::Error)]
enum Unfit {
    #[error("the incarnation is no UUID: {0:?}")]
    Incarnation(String),
    #[error("the hash of {0} is not 16 bytes long")]
    HashLength(String),
    #[error(transparent)]
    Section(#[from] InvalidSection),
    #[error("the sections do not add up to the announced digest")]
    Digest,
}

/// What the controller was told on this stream as it is.
#[derive(Debug, Clone, Copy, Default)]
struct Said {
    metered: bool,
    judged: bool,
    tallied: bool,
}

/// A host's side of the conversation with its controller.
#[derive(Debug)]
pub(crate) struct Session {
    introduction: Introduction,
    link: Link,
    last_stream: StreamId,
    held: Arc<HostConfig>,
    /// Incarnations that were replaced, as a controller said that was followed.
    replaced: Vec<Uuid>,
    /// Sections that are held by hash only: this version of the program can't read their bodies.
    unreadable: BTreeMap<SectionKey, (SectionHash, String)>,
    /// Sections of kinds that this version does not know.
    unknown: BTreeMap<String, String>,
    ports: BTreeMap<Id<kind::Port>, PortState>,
    /// What the controller was told of ports on this stream.
    told: BTreeMap<Id<kind::Port>, PortState>,
    /// What was counted at routers' gateways, and whether the controller heard it on this stream.
    meters: Vec<wire::Metered>,
    verdicts: Vec<wire::Verdict>,
    balanced: Vec<wire::Balanced>,
    said: Said,
    /// Ask for everything on the next stream.
    resync: bool,
    failures: u32,
    random: u64,
}

impl Session {
    /// A session that holds `held` and knows of `replaced` incarnations (both from disk), not yet connected. `seed`
    /// spreads the reconnections of many hosts.
    pub(crate) fn new(
        introduction: Introduction,
        held: Arc<HostConfig>,
        replaced: Vec<Uuid>,
        seed: u64,
    ) -> Self {
        Self {
            introduction,
            link: Link::Off,
            last_stream: StreamId::default(),
            held,
            replaced,
            unreadable: BTreeMap::new(),
            unknown: BTreeMap::new(),
            ports: BTreeMap::new(),
            told: BTreeMap::new(),
            meters: Vec::new(),
            verdicts: Vec::new(),
            balanced: Vec::new(),
            said: Said::default(),
            resync: false,
            failures: 0,
            random: seed | 1,
        }
    }

    /// What the controller last proved.
    #[cfg(test)]
    pub(crate) fn held(&self) -> &Arc<HostConfig> {
        &self.held
    }

    /// Does a stream stand?
    pub(crate) fn is_connected(&self) -> bool {
        matches!(self.link, Link::Up(_))
    }

    /// Does this stream stand?
    pub(crate) fn is_up(&self, stream: StreamId) -> bool {
        self.link == Link::Up(stream)
    }

    /// The stream that stands.
    pub(crate) fn stream(&self) -> Option<StreamId> {
        match self.link {
            Link::Up(stream) => Some(stream),
            Link::Off | Link::Dialling(_) | Link::Waiting(_) => None,
        }
    }

    /// One step.
    pub(crate) fn on(&mut self, event: Event, now: Now) -> Vec<Effect> {
        match event {
            Event::Start => match self.link {
                Link::Off => vec![self.dial()],
                Link::Dialling(_) | Link::Up(_) | Link::Waiting(_) => Vec::new(),
            },
            Event::Connected(stream) if self.link == Link::Dialling(stream) => {
                self.greet(stream, now)
            }
            Event::Received(stream, message) if self.link == Link::Up(stream) => {
                match message.message {
                    Some(from_controller::Message::Update(update)) => {
                        self.update(stream, update, now)
                    }
                    Some(from_controller::Message::Ping(ping)) => {
                        let pong = wire::Pong {
                            nonce: ping.nonce,
                            clock: Some(now.nanos()),
                        };
                        vec![send(stream, from_host::Message::Pong(pong))]
                    }
                    // Parts stand beside the config: the agent has heard them. None: of a newer controller, nothing that this one could do.
                    Some(from_controller::Message::Parts(_)) | None => Vec::new(),
                }
            }
            Event::Lost(stream, why)
                if self.link == Link::Up(stream) || self.link == Link::Dialling(stream) =>
            {
                // Told once: the same failure, repeated, is no news.
                if self.failures == 0 {
                    warn!(why, "controller lost; forwarding on");
                }
                vec![self.wait(now)]
            }
            Event::Connected(stream) | Event::Received(stream, _) | Event::Lost(stream, _) => {
                tracing::debug!(%stream, "an old stream is not heard");
                Vec::new()
            }
            Event::Applied(applied) => {
                let mut effects = self.acknowledge(&applied);
                effects.extend(self.report_changes());
                effects
            }
            Event::Ports(ports) => {
                self.ports = ports;
                self.report_changes()
            }
            Event::Metered(meters) => {
                self.said.metered = self.said.metered && self.meters == meters;
                self.meters = meters;
                match self.link {
                    Link::Up(stream) if !self.said.metered => vec![self.report(stream)],
                    Link::Up(_) | Link::Off | Link::Dialling(_) | Link::Waiting(_) => Vec::new(),
                }
            }
            Event::Judged(verdicts) => {
                self.said.judged = false;
                self.verdicts = verdicts;
                match self.link {
                    Link::Up(stream) => vec![self.report(stream)],
                    Link::Off | Link::Dialling(_) | Link::Waiting(_) => Vec::new(),
                }
            }
            Event::Balanced(balanced) => {
                self.said.tallied = self.said.tallied && self.balanced == balanced;
                self.balanced = balanced;
                match self.link {
                    Link::Up(stream) if !self.said.tallied => vec![self.report(stream)],
                    Link::Up(_) | Link::Off | Link::Dialling(_) | Link::Waiting(_) => Vec::new(),
                }
            }
            Event::Used(uses) => match self.link {
                Link::Up(stream) => vec![send(stream, from_host::Message::Uses(uses))],
                Link::Off | Link::Dialling(_) | Link::Waiting(_) => Vec::new(),
            },
            Event::Tick => match self.link {
                Link::Waiting(until) if now >= until => vec![self.dial()],
                Link::Waiting(until) => vec![Effect::Wake(until)],
                Link::Off | Link::Dialling(_) | Link::Up(_) => Vec::new(),
            },
        }
    }

    fn dial(&mut self) -> Effect {
        self.last_stream.0 += 1;
        self.link = Link::Dialling(self.last_stream);
        Effect::Connect(self.last_stream)
    }

    /// Says hello; then, that the first report names every port.
    fn greet(&mut self, stream: StreamId, now: Now) -> Vec<Effect> {
        self.link = Link::Up(stream);
        self.told.clear();
        self.said = Said::default();
        let sections = if self.resync {
            Vec::new()
        } else {
            self.hashes()
                .into_iter()
                .map(|(key, hash)| wire::SectionHash {
                    key: key.to_string(),
                    hash: hash.0.to_vec(),
                })
                .collect()
        };
        let first = self.held.incarnation.is_nil();
        let hello = wire::Hello {
            incarnation: if first {
                String::new()
            } else {
                self.held.incarnation.to_string()
            },
            generation: self.held.generation.get(),
            sections,
            vtep: self.introduction.vtep.clone(),
            version: self.introduction.version.clone(),
            underlay_mtu: self.introduction.underlay_mtu,
            physical_networks: self.introduction.physical_networks.clone(),
            clock: Some(now.nanos()),
            availability_zone: self.introduction.availability_zone.clone(),
            proxies: self.introduction.proxies,
        };
        info!(generation = hello.generation, "connected to the controller");
        vec![
            send(stream, from_host::Message::Hello(hello)),
            self.report(stream), // also of no port: only then is it known that there is none
        ]
    }

    /// Tells of the ports whose state is not what the controller was last told, if there are any.
    fn report_changes(&mut self) -> Vec<Effect> {
        match self.link {
            Link::Up(stream) if self.told != self.ports => vec![self.report(stream)],
            Link::Up(_) | Link::Off | Link::Dialling(_) | Link::Waiting(_) => Vec::new(),
        }
    }

    fn report(&mut self, stream: StreamId) -> Effect {
        let gone = PortState {
            attached: false,
            active: false,
            reason: "no longer on this host".to_owned(),
        };
        let changed = self
            .ports
            .iter()
            .filter(|(id, state)| self.told.get(id) != Some(state))
            .map(|(id, state)| (*id, state));
        let vanished = self
            .told
            .keys()
            .filter(|id| !self.ports.contains_key(id))
            .map(|id| (*id, &gone));
        let ports: Vec<_> = changed
            .chain(vanished)
            .map(|(id, state)| wire::PortState {
                port: id.to_string(),
                attached: state.attached,
                active: state.active,
                reason: state.reason.clone(),
            })
            .collect();
        self.told.clone_from(&self.ports);
        let meters = if self.said.metered {
            Vec::new()
        } else {
            self.meters.clone()
        };
        self.said.metered = true;
        let verdicts = if self.said.judged {
            Vec::new()
        } else {
            self.verdicts.clone()
        };
        self.said.judged = true;
        let balanced = if self.said.tallied {
            Vec::new()
        } else {
            self.balanced.clone()
        };
        self.said.tallied = true;
        let report = wire::Report {
            ports,
            meters,
            verdicts,
            balanced,
        };
        send(stream, from_host::Message::Report(report))
    }

    fn update(&mut self, stream: StreamId, mut update: wire::Update, now: Now) -> Vec<Effect> {
        let generation = Generation(update.generation);
        let incarnation = Uuid::parse_str(&update.incarnation);
        if incarnation
            .as_ref()
            .is_ok_and(|i| self.replaced.contains(i))
        {
            warn!(
                incarnation = update.incarnation,
                held = %self.held.incarnation,
                "the controller's store was replaced by one that was restored from its backup; it is not followed"
            );
            return vec![Effect::Disconnect(stream), self.wait(now)];
        }
        if incarnation == Ok(self.held.incarnation) && generation < self.held.generation {
            warn!(%generation, held = %self.held.generation, "an older generation is refused");
            return Vec::new();
        }
        let whole = update.whole;
        let replaced = std::mem::take(&mut update.replaced);
        match self.follow(update) {
            Ok(()) => {
                self.failures = 0;
                self.resync = false;
                let mut effects = self.fence(&replaced);
                effects.push(Effect::Apply(Arc::clone(&self.held)));
                effects
            }
            Err(unfit) => {
                warn!(%unfit, whole, "update refused; asking for everything");
                // A delta that does not fit is asked again at once; a whole that does not is no better next time.
                let patient = whole || self.resync;
                self.resync = true;
                let next = if patient { self.wait(now) } else { self.dial() };
                vec![Effect::Disconnect(stream), next]
            }
        }
    }

    /// Remembers what the controller that is followed has replaced.
    fn fence(&mut self, replaced: &[String]) -> Vec<Effect> {
        let before = self.replaced.len();
        for incarnation in replaced.iter().filter_map(|text| text.parse().ok()) {
            if incarnation != self.held.incarnation && !self.replaced.contains(&incarnation) {
                self.replaced.push(incarnation);
            }
        }
        if self.replaced.len() == before {
            return Vec::new();
        }
        let forgotten = self.replaced.len().saturating_sub(REPLACED_MAX);
        self.replaced.drain(..forgotten);
        vec![Effect::Fence(self.replaced.clone())]
    }

    /// Holds what the update leads to, if the digest proves it.
    fn follow(&mut self, update: wire::Update) -> Result<(), Unfit> {
        let incarnation =
            Uuid::parse_str(&update.incarnation).or(Err(Unfit::Incarnation(update.incarnation)))?;
        let mut next = HostConfig {
            incarnation,
            generation: Generation(update.generation),
            ..HostConfig::default()
        };
        let (mut unreadable, mut unknown) = (BTreeMap::new(), BTreeMap::new());
        if !update.whole {
            next.sections.clone_from(&self.held.sections);
            unreadable.clone_from(&self.unreadable);
            unknown.clone_from(&self.unknown);
        }
        for upsert in update.upserts {
            let Ok(hash) = <[u8; 16]>::try_from(upsert.hash.as_slice()).map(SectionHash) else {
                return Err(Unfit::HashLength(upsert.key));
            };
            let key = match upsert.key.parse::<SectionKey>() {
                Ok(key) => key,
                Err(invalid) => {
                    unknown.insert(upsert.key, invalid.to_string());
                    continue;
                }
            };
            // A port that the controller tells of anew may be one whose state it has forgotten.
            if let SectionKey::Port(port) = key {
                self.told.remove(&port);
            }
            next.sections.remove(&key);
            unreadable.remove(&key);
            let kept = self.held.sections.get(&key).filter(|s| s.hash() == hash);
            if let Some(kept) = kept {
                next.insert(Arc::clone(kept));
                continue;
            }
            match Keyed::decode(key, upsert.body, hash) {
                Ok(section) => next.insert(Arc::new(section)),
                Err(invalid @ InvalidSection::Body { .. }) => {
                    unreadable.insert(key, (hash, super::chain(&invalid)));
                }
                Err(invalid) => return Err(invalid.into()),
            }
        }
        for removal in update.removals {
            unknown.remove(&removal);
            if let Ok(key) = removal.parse::<SectionKey>() {
                next.sections.remove(&key);
                unreadable.remove(&key);
            }
        }
        // With sections of unknown kinds nobody here can tell the digest; what is known is still worth following.
        let digest = digest(&hashes(&next, &unreadable));
        if unknown.is_empty() && digest.0.as_slice() != update.digest.as_slice() {
            return Err(Unfit::Digest);
        }
        self.held = Arc::new(next);
        self.unreadable = unreadable;
        self.unknown = unknown;
        Ok(())
    }

    fn acknowledge(&self, applied: &Applied) -> Vec<Effect> {
        let Link::Up(stream) = self.link else {
            return Vec::new();
        };
        if !Arc::ptr_eq(&applied.config, &self.held) {
            return Vec::new(); // a newer one is on its way
        }
        let complaint = |key: &dyn fmt::Display, text: &str| wire::Complaint {
            key: key.to_string(),
            text: text.to_owned(),
        };
        let all: BTreeSet<(String, String)> = applied
            .complaints
            .iter()
            .map(|c| (c.key.clone(), c.text.clone()))
            .collect();
        let mut complaints: Vec<_> = self
            .unreadable
            .iter()
            .map(|(key, (_, text))| complaint(key, text))
            .chain(self.unknown.iter().map(|(k, text)| complaint(k, text)))
            .chain(all.iter().map(|(key, text)| complaint(key, text)))
            .collect();
        if complaints.len() > COMPLAINTS_MAX {
            let more = complaints.len() - COMPLAINTS_MAX;
            complaints.truncate(COMPLAINTS_MAX);
            complaints.push(complaint(&"", &format!("and {more} complaints more")));
        }
        let ack = wire::Ack {
            generation: self.held.generation.get(),
            digest: digest(&self.hashes()).0.to_vec(),
            complaints,
        };
        vec![send(stream, from_host::Message::Ack(ack))]
    }

    fn hashes(&self) -> BTreeMap<SectionKey, SectionHash> {
        hashes(&self.held, &self.unreadable)
    }

    fn wait(&mut self, now: Now) -> Effect {
        let full = BACKOFF_FIRST
            .saturating_mul(1 << self.failures.min(16))
            .min(BACKOFF_MAX);
        self.failures = self.failures.saturating_add(1);
        // Half fixed, half chance: hosts that lost a controller together do not come back together.
        let nanos = u64::try_from(full.as_nanos()).unwrap_or(u64::MAX);
        let half = nanos / 2;
        let until = now + Duration::from_nanos(half + self.chance() % half.max(1));
        self.link = Link::Waiting(until);
        Effect::Wake(until)
    }

    /// Xorshift: spreads, and repeats for a seed.
    fn chance(&mut self) -> u64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        self.random
    }
}

fn send(stream: StreamId, message: from_host::Message) -> Effect {
    let message = Some(message);
    Effect::Send(stream, wire::FromHost { message })
}

fn hashes(
    config: &HostConfig,
    unreadable: &BTreeMap<SectionKey, (SectionHash, String)>,
) -> BTreeMap<SectionKey, SectionHash> {
    let read = config.sections.iter().map(|(key, s)| (*key, s.hash()));
    let not = unreadable.iter().map(|(key, (hash, _))| (*key, *hash));
    read.chain(not).collect()
}

/// As [`HostConfig::digest`], over sections that are held by hash only too.
fn digest(hashes: &BTreeMap<SectionKey, SectionHash>) -> Digest {
    Digest::over(hashes.values().copied())
}

#[cfg(test)]
mod tests;
