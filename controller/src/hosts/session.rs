//! What does one connected host hold, and what must it hear next?
//!
//! A host says in its `Hello` which sections it holds; what differs from what it should be goes out,
//! and from then on what each commit touched. Commits that come while the host is busy are not queued
//! one by one: only the *names* of what they touched are kept, so that the next update carries each
//! section once, as it is then. Coming back after an absence is the same path with more names.
//!
//! # Invariants
//! - At most `WINDOW` updates are under way; a section counts as proved only when no update with it is
//!   waiting or under way and the host has acknowledged by digest all that it was sent.
//! - A host of the same incarnation that has seen a newer generation is told nothing until this
//!   controller has caught up.
//!
//! # Attack
//! A host can only speak of itself. What it sends is bounded by the transport's message limit, what is
//! kept of it by the ports and sections that exist; a message out of order ends the stream.
//!
//! # Cost
//! An update costs what it names: the digest over all that the host holds follows each section that comes or goes.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    net::IpAddr,
    time::Duration,
};

use hostconfig::{
    Digest, Generation, HostConfig, SectionHash, SectionKey,
    wire::{self, from_controller, from_host},
    zone::{USUAL_ZONE, check_zone},
};
use net::{Id, Now, ids::kind};
use uuid::Uuid;

use super::schedule::{GONE, READER_GONE};
use crate::resources::{host::Site, lbaas::health_monitor::Verdict, network::check_physical_name};
use crate::status::Served;

/// Updates under way: one that the host applies and one on its way; what comes meanwhile is coalesced.
const WINDOW: usize = 2;
/// Names that wait; beyond it all sections are compared instead.
const PENDING: usize = 65_536;
/// Bytes of section bodies in one update: well below gRPC's usual limit of 4 MiB a message.
const UPDATE_BYTES: usize = 2 * 1024 * 1024;
/// A stream must begin with a `Hello`, this soon.
const HELLO_WITHIN: Duration = Duration::from_secs(10);
/// An idle host is asked this often whether it is there.
const PING_EVERY: Duration = Duration::from_secs(5);
/// One that has a gateway is asked as soon as it has answered, and so much later: with the beats of [`super::task`] every 200 ms.
const BEAT_EVERY: Duration = Duration::from_millis(150);
/// One whose version counts from when it reads, in a pause of so much.
const READER_BEAT: Duration = Duration::from_millis(500);
/// A host that is silent for so long (three pings) is dead.
const DEAD_AFTER: Duration = Duration::from_secs(15);
/// An update must be acknowledged within this time.
const ACK_WITHIN: Duration = Duration::from_secs(30);
/// Physical networks that a host may have an interface on.
const WIRES: usize = 256;
/// Pairs of label and router that a host may have counted for; a host keeps 4,096.
const METERS: usize = 8192;
/// Listeners that a host may tell of; a host tells of 4,096.
const LISTENERS: usize = 8192;
/// Members that a host may have asked; a host asks 4,096.
const VERDICTS: usize = 8192;
/// Complaints that are kept of one acknowledgement.
const COMPLAINTS: usize = 1024;
/// Characters of a host's reasons and complaints that are kept.
const TEXT: usize = 200;

/// What the host should be, at this moment.
#[derive(Debug, Clone, Copy)]
pub struct Target<'a> {
    /// Of which store.
    pub incarnation: Uuid,
    /// The revision up to which it was compiled.
    pub generation: Generation,
    /// The incarnations that the store was restored from.
    pub replaced: &'a [Uuid],
    /// What it should be.
    pub config: &'a HostConfig,
}

/// What happened.
#[derive(Debug)]
pub enum Event<'a> {
    /// The host said something.
    Heard(wire::FromHost),
    /// A commit touched these sections of it.
    Touched(&'a BTreeSet<SectionKey>),
    /// Time passed.
    Tick,
    /// A little time passed, for a host that must hear often: it has a gateway.
    Beat,
}

/// What is to be done.
#[derive(Debug, PartialEq)]
pub enum Effect {
    /// Send this.
    Send(wire::FromController),
    /// End the stream.
    HangUp(HangUp),
    /// The host says that its VTEP is here; `None`: it has none.
    Vtep(Option<IpAddr>),
    /// The host says where it stands.
    Site(Site),
    /// The host says what it has counted at routers' gateways, all of it.
    Metered(Vec<Metered>),
    /// The host says what passed its listeners, all of it.
    Balanced(Vec<(Uuid, Served)>),
    /// The host says what it uses of limits that several hosts share.
    Used(wire::Uses),
    /// The host says what it found of members that it asks.
    Judged(Vec<Verdict>),
    /// What is proved may have changed.
    Review(Review),
}

/// What a host has counted of a router under a label.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Metered {
    /// The label.
    pub label: Uuid,
    /// The router.
    pub router: Uuid,
    /// Segments.
    pub packets: u64,
    /// Bytes of IP.
    pub bytes: u64,
}

/// Of what the proof may have changed.
#[derive(Debug, PartialEq, Eq)]
pub enum Review {
    /// Of everything.
    All,
    /// Of these sections.
    Sections(BTreeSet<SectionKey>),
}

/// Why a stream is ended.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HangUp {
    /// No `Hello` came.
    #[error("no hello within {}s", HELLO_WITHIN.as_secs())]
    NoHello,
    /// Nothing was heard for too long.
    #[error("silent for {}s", DEAD_AFTER.as_secs())]
    Silent,
    /// An update was not acknowledged.
    #[error("no acknowledgement within {}s", ACK_WITHIN.as_secs())]
    NoAck,
    /// A message that can't be read, or out of order.
    #[error("unexpected message: {0}")]
    Protocol(&'static str),
    /// The host is not, or no longer, one of ours with this certificate.
    #[error("not a host with this certificate")]
    Unknown,
    /// The host has another, newer stream.
    #[error("replaced by a newer stream")]
    Replaced,
}

#[derive(Debug)]
struct InFlight {
    generation: Generation,
    digest: Digest,
    keys: BTreeSet<SectionKey>,
    sent: Now,
}

/// What a host said of one of its ports.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PortReport {
    /// Attached, configured and forwarding.
    pub active: bool,
    /// Why not.
    pub reason: String,
}

#[derive(Debug)]
struct Hello {
    /// Of the same incarnation: what the host has seen already.
    seen: Generation,
    incarnation: Uuid,
    version: String,
    underlay_mtu: u32,
    /// Its messages carry its clock, and its lease counts from the last reading that it is told ([`schedule`](super::schedule)).
    keeps_time: bool,
}

/// What the next update is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Extent {
    /// The sections whose names wait.
    Named,
    /// What a comparison of all sections shows.
    Compared,
    /// Everything; what it does not name is gone.
    Whole,
}

/// Does the host answer?
#[derive(Debug)]
struct Pulse {
    /// When it was last sent something.
    sent: Now,
    /// It was sent something since it was last heard, and is silent since then.
    unheard: Option<Now>,
    /// It has said nothing for [`GONE`] although it was sent something: it is sent nothing more until it is heard.
    silent: bool,
    /// It has a gateway.
    beaten: bool,
    /// The last ping is not answered.
    asked: bool,
}

/// What a host is told of its own clock.
#[derive(Debug, Clone, Copy)]
struct Word {
    /// The reading.
    clock: u64,
    /// When it came.
    at: Now,
}

/// Sections by hash, and the digest over them.
#[derive(Debug, Default)]
struct Held {
    hashes: BTreeMap<SectionKey, SectionHash>,
    digest: Digest,
}

impl Held {
    /// Has the section another hash now than it had?
    fn insert(&mut self, key: SectionKey, hash: SectionHash) -> bool {
        let before = self.hashes.insert(key, hash);
        if before == Some(hash) {
            return false;
        }
        if let Some(before) = before {
            self.digest.take(before);
        }
        self.digest.add(hash);
        true
    }

    /// Was it there?
    fn remove(&mut self, key: SectionKey) -> bool {
        let before = self.hashes.remove(&key);
        if let Some(before) = before {
            self.digest.take(before);
        }
        before.is_some()
    }

    fn clear(&mut self) {
        *self = Self::default();
    }
}

/// One stream of one host.
#[derive(Debug)]
pub struct Session {
    hello: Option<Hello>,
    started: Now,
    heard: Now,
    pinged: Now,
    nonce: u64,
    pulse: Pulse,
    /// The last reading of the host's clock, and the one that it was told last.
    clock: Word,
    told: Word,
    /// What the host holds once all under way is applied.
    held: Held,
    pending: BTreeSet<SectionKey>,
    extent: Extent,
    /// An update is due even if it changes nothing: the first after `Hello`.
    due: bool,
    in_flight: VecDeque<InFlight>,
    /// The last acknowledgement that was believed: said twice, it is no news.
    believed: Option<(Generation, Digest)>,
    /// A whole update is under way after a wrong digest: older acknowledgements mean nothing.
    mending: bool,
    /// The host has acknowledged something by digest.
    proved: bool,
    /// What the host says of its ports; `None` until it has said it once.
    reports: Option<BTreeMap<Id<kind::Port>, PortReport>>,
    complaints: BTreeMap<SectionKey, String>,
    /// The first complaint that is of no section that this controller knows.
    complaint: Option<String>,
}

impl Session {
    /// A stream that was just opened.
    pub fn new(now: Now) -> Self {
        let none = Word { clock: 0, at: now };
        Self {
            clock: none,
            told: none,
            hello: None,
            started: now,
            heard: now,
            pinged: now,
            nonce: 0,
            pulse: Pulse {
                sent: now,
                unheard: None,
                silent: false,
                beaten: false,
                asked: false,
            },
            held: Held::default(),
            pending: BTreeSet::new(),
            extent: Extent::Named,
            due: false,
            in_flight: VecDeque::new(),
            believed: None,
            mending: false,
            proved: false,
            reports: None,
            complaints: BTreeMap::new(),
            complaint: None,
        }
    }

    /// Has the host proved once what it holds? It told of its ports before that, if it has any.
    pub fn is_settled(&self) -> bool {
        self.proved
    }

    /// Has the host said hello?
    pub fn is_met(&self) -> bool {
        self.hello.is_some()
    }

    /// Is the host silent although it was asked, for as long as its lease lasts? Then nothing is sent to it.
    pub fn is_silent(&self) -> bool {
        self.pulse.silent
    }

    /// This process stood still: what the host said meanwhile may not be heard yet.
    pub fn excuse(&mut self, now: Now) {
        self.pulse.sent = self.pulse.sent.max(now);
        self.pulse.unheard = self.pulse.unheard.map(|since| since.max(now));
    }

    /// The stream ends now: when has the host lost what another could have?
    pub fn lapses(&self, now: Now) -> Now {
        if self.keeps_time() {
            self.heard + GONE
        } else {
            now + READER_GONE
        }
    }

    fn keeps_time(&self) -> bool {
        self.hello.as_ref().is_some_and(|hello| hello.keeps_time)
    }

    /// When the host was last heard.
    pub fn heard(&self) -> Now {
        self.heard
    }

    /// The version of its program.
    pub fn version(&self) -> &str {
        self.hello.as_ref().map_or("", |hello| &hello.version)
    }

    /// The MTU of its underlay, if it knows.
    pub fn underlay_mtu(&self) -> Option<u32> {
        let mtu = self.hello.as_ref()?.underlay_mtu;
        (mtu != 0).then_some(mtu)
    }

    /// Does the host hold the current form of this section, or rightly none?
    pub fn is_proved(&self, key: SectionKey) -> bool {
        self.proved
            && self.extent == Extent::Named
            && !self.pending.contains(&key)
            && !self
                .in_flight
                .iter()
                .any(|update| update.keys.contains(&key))
    }

    /// How far the last generation that the host proved is behind; 0 if it has proved all.
    pub fn lag(&self, generation: Generation) -> u64 {
        let idle = self.extent == Extent::Named && self.pending.is_empty();
        match self.believed {
            Some(_) if idle && self.in_flight.is_empty() => 0,
            Some((proved, _)) => generation.get().saturating_sub(proved.get()),
            None => generation.get(),
        }
    }

    /// What the host said of a port.
    pub fn report(&self, port: Id<kind::Port>) -> Option<&PortReport> {
        self.reports.as_ref()?.get(&port)
    }

    /// What the host can't realise of a section.
    pub fn complaint(&self, key: SectionKey) -> Option<&str> {
        self.complaints.get(&key).map(String::as_str)
    }

    /// The first of what the host can't realise or do: of the whole of it (its disk is full), then of a section.
    pub fn first_complaint(&self) -> Option<String> {
        let first = self.complaints.first_key_value();
        let first = first.map(|(key, text)| format!("{key}: {text}"));
        self.complaint.clone().or(first)
    }

    /// Takes an event in; what is to be done comes out.
    pub fn on(&mut self, event: Event<'_>, target: Target<'_>, now: Now) -> Vec<Effect> {
        let mut effects = Vec::new();
        let outcome = match event {
            Event::Heard(message) => {
                self.heard = now;
                self.pulse.unheard = None;
                self.pulse.silent = false;
                self.hear(message, target, now, &mut effects)
            }
            Event::Touched(keys) => {
                self.touch(keys);
                Ok(false)
            }
            Event::Tick => self.tick(now),
            Event::Beat => Ok(self.beat(now)),
        };
        match outcome {
            Ok(ask) => {
                self.push(target, now, &mut effects);
                // Behind what there is to tell: an answer to the ping says that it was heard, and the ping that the host may keep the rest.
                if ask && self.hello.is_some() && !self.pulse.silent {
                    self.ping(now, &mut effects);
                }
            }
            Err(reason) => effects.push(Effect::HangUp(reason)),
        }
        if effects
            .iter()
            .any(|effect| matches!(effect, Effect::Send(_)))
        {
            self.pulse.sent = now;
            // Who was heard just now is silent since then: it may count its lease from then.
            let just = now.since(self.heard) <= BEAT_EVERY * 2;
            let since = if just { self.heard } else { now };
            self.pulse.unheard.get_or_insert(since);
        }
        effects
    }

    /// Is the host silent, and is it to be asked?
    fn beat(&mut self, now: Now) -> bool {
        self.pulse.beaten = true;
        self.listen(now);
        if self.keeps_time() {
            !self.pulse.asked && now.since(self.pinged) >= BEAT_EVERY
        } else {
            self.pulse.unheard.is_none() && now.since(self.pulse.sent) >= READER_BEAT
        }
    }

    fn listen(&mut self, now: Now) {
        let Some(since) = self.pulse.unheard else {
            return;
        };
        self.pulse.silent |= if self.keeps_time() {
            now.since(since) >= GONE
        } else {
            now.since(self.pulse.sent) >= READER_GONE
        };
    }

    /// Asks the host whether it is there, and says which reading of its clock came last: its lease counts from that. So nothing newer than
    /// before is said while there is anything of routers that it was not told yet.
    fn ping(&mut self, now: Now, effects: &mut Vec<Effect>) {
        self.pinged = now;
        self.pulse.asked = true;
        self.nonce += 1;
        let waits = self
            .pending
            .iter()
            .any(|key| matches!(key, SectionKey::Router(_) | SectionKey::FloatingIp(_)));
        if self.extent == Extent::Named && !waits {
            self.told = self.clock;
        }
        let ping = wire::Ping {
            nonce: self.nonce,
            heard: Some(self.told.clock),
        };
        effects.push(Effect::Send(wire::FromController {
            message: Some(from_controller::Message::Ping(ping)),
        }));
    }

    fn touch(&mut self, keys: &BTreeSet<SectionKey>) {
        if self.extent != Extent::Named {
            return;
        }
        self.pending.extend(keys);
        if self.pending.len() > PENDING {
            self.pending.clear();
            self.extent = Extent::Compared;
        }
    }

    fn hear(
        &mut self,
        message: wire::FromHost,
        target: Target<'_>,
        now: Now,
        effects: &mut Vec<Effect>,
    ) -> Result<bool, HangUp> {
        match (message.message, &self.hello) {
            (Some(from_host::Message::Hello(hello)), None) => {
                self.meet(hello, target, now, effects)?;
                Ok(self.keeps_time())
            }
            (Some(from_host::Message::Hello(_)), Some(_)) => Err(HangUp::Protocol("second hello")),
            (_, None) => Err(HangUp::Protocol("no hello first")),
            (Some(from_host::Message::Ack(ack)), Some(_)) => {
                self.acknowledge(&ack, effects)?;
                Ok(false)
            }
            (Some(from_host::Message::Report(report)), Some(_)) => {
                self.note(report, target, effects)?;
                Ok(false)
            }
            (Some(from_host::Message::Uses(uses)), Some(_)) => {
                effects.push(Effect::Used(uses));
                Ok(false)
            }
            (Some(from_host::Message::Pong(pong)), Some(_)) => Ok(self.answered(&pong, now)),
            // Of a newer program: what it adds must not break an older controller.
            (None, Some(_)) => Ok(false),
        }
    }

    /// The host answers a ping. Is it to be told so at once? Else the next beat tells it.
    fn answered(&mut self, pong: &wire::Pong, now: Now) -> bool {
        if pong.nonce != self.nonce {
            return false;
        }
        self.pulse.asked = false;
        let Some(clock) = pong.clock else {
            return false;
        };
        self.clock = Word { clock, at: now };
        self.pulse.beaten && now.since(self.told.at) >= BEAT_EVERY * 3
    }

    fn meet(
        &mut self,
        hello: wire::Hello,
        target: Target<'_>,
        now: Now,
        effects: &mut Vec<Effect>,
    ) -> Result<(), HangUp> {
        let vtep = match hello.vtep.as_str() {
            "" => None,
            text => Some(text.parse().or(Err(HangUp::Protocol("vtep")))?),
        };
        effects.push(Effect::Vtep(vtep));
        if hello.physical_networks.len() > WIRES {
            return Err(HangUp::Protocol("too many physical networks"));
        }
        let wires: BTreeSet<String> = hello.physical_networks.into_iter().collect();
        if wires.iter().any(|name| check_physical_name(name).is_err()) {
            return Err(HangUp::Protocol("name of a physical network"));
        }
        // An agent of before there were zones says none.
        let zone = match hello.availability_zone {
            none if none.is_empty() => USUAL_ZONE.to_owned(),
            zone => zone,
        };
        check_zone(&zone).or(Err(HangUp::Protocol("name of an availability zone")))?;
        effects.push(Effect::Site(Site {
            physical_networks: wires,
            availability_zone: zone,
            proxies: hello.proxies,
        }));
        // A host that names nothing has nothing, or no trust in what it has.
        self.extent = if hello.sections.is_empty() {
            Extent::Whole
        } else {
            Extent::Compared
        };
        for section in hello.sections {
            let hash = <[u8; 16]>::try_from(section.hash.as_slice());
            let hash = hash.or(Err(HangUp::Protocol("section hash")))?;
            match section.key.parse() {
                Ok(key) => {
                    self.held.insert(key, SectionHash(hash));
                }
                // A kind of section that this controller does not know: all must be said anew.
                Err(_) => self.extent = Extent::Whole,
            }
        }
        let incarnation = hello.incarnation.parse().unwrap_or_default();
        let ours = incarnation == target.incarnation;
        if let Some(clock) = hello.clock {
            // That readings are kept is said before anything else, and nothing more: what it holds may be another's by now.
            self.ping(now, effects);
            self.clock = Word { clock, at: now };
        }
        self.hello = Some(Hello {
            keeps_time: hello.clock.is_some(),
            seen: Generation(if ours { hello.generation } else { 0 }),
            incarnation,
            version: clipped(hello.version),
            underlay_mtu: hello.underlay_mtu,
        });
        self.due = true;
        Ok(())
    }

    fn acknowledge(&mut self, ack: &wire::Ack, effects: &mut Vec<Effect>) -> Result<(), HangUp> {
        let digest = <[u8; 32]>::try_from(ack.digest.as_slice());
        let digest = Digest(digest.or(Err(HangUp::Protocol("digest")))?);
        let generation = Generation(ack.generation);
        // A host may answer several updates by the last one's acknowledgement.
        let known = self
            .in_flight
            .iter()
            .position(|update| update.generation == generation && update.digest == digest);
        let Some(place) = known else {
            if !self.mending && self.believed != Some((generation, digest)) {
                self.in_flight.clear();
                self.extent = Extent::Whole;
                self.mending = true;
                effects.push(Effect::Review(Review::All));
            }
            return Ok(());
        };
        self.believed = Some((generation, digest));
        let mut keys = BTreeSet::new();
        for update in self.in_flight.drain(..=place) {
            keys.extend(update.keys);
        }
        if self.in_flight.is_empty() {
            self.mending = false;
        }
        let mut complaints = BTreeMap::new();
        self.complaint = None;
        for complaint in ack.complaints.iter().take(COMPLAINTS) {
            let text = clipped(complaint.text.clone());
            match complaint.key.parse() {
                Ok(key) => drop(complaints.insert(key, text)),
                Err(_) => drop(self.complaint.get_or_insert(text)),
            }
        }
        keys.extend(complaints.keys().chain(self.complaints.keys()));
        self.complaints = complaints;
        let review = if self.proved {
            Review::Sections(keys)
        } else {
            Review::All
        };
        self.proved = true;
        effects.push(Effect::Review(review));
        Ok(())
    }

    fn note(
        &mut self,
        report: wire::Report,
        target: Target<'_>,
        effects: &mut Vec<Effect>,
    ) -> Result<(), HangUp> {
        if report.meters.len() > METERS {
            return Err(HangUp::Protocol("too many meters"));
        }
        if !report.meters.is_empty() {
            let bad = HangUp::Protocol("id of a meter");
            let metered = report.meters.iter().map(|m| {
                Ok::<_, uuid::Error>(Metered {
                    label: m.label.parse()?,
                    router: m.router.parse()?,
                    packets: m.packets,
                    bytes: m.bytes,
                })
            });
            let metered = metered.collect::<Result<Vec<_>, _>>();
            effects.push(Effect::Metered(metered.or(Err(bad))?));
        }
        if report.balanced.len() > LISTENERS {
            return Err(HangUp::Protocol("too many listeners"));
        }
        if !report.balanced.is_empty() {
            let bad = HangUp::Protocol("id of a listener");
            let balanced = report.balanced.iter().map(|b| {
                let served = Served {
                    active: b.active,
                    connections: b.connections,
                    bytes_in: b.bytes_in,
                    bytes_out: b.bytes_out,
                    refused: b.refused,
                };
                Ok::<_, uuid::Error>((b.listener.parse()?, served))
            });
            let balanced = balanced.collect::<Result<Vec<_>, _>>();
            effects.push(Effect::Balanced(balanced.or(Err(bad))?));
        }
        if report.verdicts.len() > VERDICTS {
            return Err(HangUp::Protocol("too many verdicts"));
        }
        if !report.verdicts.is_empty() {
            let bad = HangUp::Protocol("id of a verdict");
            let judged = report.verdicts.iter().map(|v| {
                Ok::<_, uuid::Error>(Verdict {
                    monitor: v.monitor.parse()?,
                    member: v.member.parse()?,
                    serves: v.serves,
                })
            });
            let judged = judged.collect::<Result<Vec<_>, _>>();
            effects.push(Effect::Judged(judged.or(Err(bad))?));
        }
        let first = self.reports.is_none();
        let reports = self.reports.get_or_insert_default();
        let mut keys = BTreeSet::new();
        for state in report.ports {
            let id = state.port.parse().or(Err(HangUp::Protocol("port id")))?;
            let key = SectionKey::Port(id);
            // Only of a port that is this host's, or that it was not yet told to let go: else anything could be piled
            // up here. What was said of one that went stays until the host says that it went: if it comes
            // back before the host notices, the host has nothing new to say.
            let known =
                target.config.sections.contains_key(&key) || self.held.hashes.contains_key(&key);
            if !known {
                reports.remove(&id);
                continue;
            }
            let report = PortReport {
                active: state.active && state.attached,
                reason: clipped(state.reason),
            };
            reports.insert(id, report);
            keys.insert(key);
        }
        let review = if first {
            Review::All
        } else {
            Review::Sections(keys)
        };
        effects.push(Effect::Review(review));
        Ok(())
    }

    /// Is the host to be asked?
    fn tick(&mut self, now: Now) -> Result<bool, HangUp> {
        if self.hello.is_none() && now.since(self.started) > HELLO_WITHIN {
            return Err(HangUp::NoHello);
        }
        if now.since(self.heard) > DEAD_AFTER {
            return Err(HangUp::Silent);
        }
        if self
            .in_flight
            .front()
            .is_some_and(|update| now.since(update.sent) > ACK_WITHIN)
        {
            return Err(HangUp::NoAck);
        }
        self.listen(now);
        Ok(now.since(self.pinged) >= PING_EVERY)
    }

    /// Sends what is due, as far as the window allows.
    fn push(&mut self, target: Target<'_>, now: Now, effects: &mut Vec<Effect>) {
        let Some(hello) = &self.hello else { return };
        // What a host hears that counts from then keeps it answering for what another may have by then.
        let unheard = self.pulse.unheard;
        let waited = unheard.is_some_and(|since| now.since(since) >= READER_BEAT);
        if self.pulse.silent || (waited && self.pulse.beaten && !hello.keeps_time) {
            return;
        }
        if hello.incarnation == target.incarnation && hello.seen > target.generation {
            return;
        }
        if self.extent == Extent::Compared {
            self.pending = self.differences(target.config);
            self.extent = Extent::Named;
        }
        while self.in_flight.len() < WINDOW {
            let (update, keys) = match self.extent {
                Extent::Whole => {
                    let (update, keys) = self.all(target);
                    (Some(update), keys)
                }
                Extent::Named | Extent::Compared => self.next(target),
            };
            let Some(mut update) = update else {
                // They are what the host holds again: nothing is sent, so nothing will be acknowledged.
                if !keys.is_empty() {
                    effects.push(Effect::Review(Review::Sections(keys)));
                }
                return;
            };
            let digest = self.held.digest;
            update.incarnation = target.incarnation.to_string();
            update.generation = target.generation.get();
            update.digest = digest.0.to_vec();
            update.replaced = target.replaced.iter().map(Uuid::to_string).collect();
            self.in_flight.push_back(InFlight {
                generation: target.generation,
                digest,
                keys,
                sent: now,
            });
            effects.push(Effect::Send(wire::FromController {
                message: Some(from_controller::Message::Update(update)),
            }));
        }
    }

    /// The sections in which the host differs from what it should be.
    fn differences(&self, config: &HostConfig) -> BTreeSet<SectionKey> {
        let lacks = config.sections.iter().filter(|(key, section)| {
            self.held
                .hashes
                .get(key)
                .is_none_or(|hash| *hash != section.hash())
        });
        let gone = self
            .held
            .hashes
            .keys()
            .filter(|key| !config.sections.contains_key(key));
        lacks.map(|(key, _)| *key).chain(gone.copied()).collect()
    }

    /// Everything in one update; what it does not name is gone.
    fn all(&mut self, target: Target<'_>) -> (wire::Update, BTreeSet<SectionKey>) {
        let sections = &target.config.sections;
        self.held.clear();
        for (key, section) in sections {
            self.held.insert(*key, section.hash());
        }
        self.pending.clear();
        self.extent = Extent::Named;
        self.due = false;
        let update = wire::Update {
            whole: true,
            upserts: sections.values().map(|section| body(section)).collect(),
            ..wire::Update::default()
        };
        (update, sections.keys().copied().collect())
    }

    /// The next part of what waits: what others refer to first, then what is gone, in reverse; and the sections that it settles. No update
    /// where the host holds all of them as they are to be.
    fn next(&mut self, target: Target<'_>) -> (Option<wire::Update>, BTreeSet<SectionKey>) {
        let mut update = wire::Update::default();
        let mut keys = BTreeSet::new();
        let mut bytes = 0;
        let mut twins = BTreeSet::new();
        for key in &self.pending {
            let Some(section) = target.config.sections.get(key) else {
                continue;
            };
            if self.held.insert(*key, section.hash()) {
                bytes += section.bytes().len();
                update.upserts.push(body(section));
                twins.extend(twin(*key));
            }
            keys.insert(*key);
            if bytes >= UPDATE_BYTES {
                break;
            }
        }
        let cut = bytes >= UPDATE_BYTES;
        for key in self.pending.iter().rev() {
            if target.config.sections.contains_key(key) || (cut && !twins.contains(key)) {
                continue;
            }
            if self.held.remove(*key) {
                update.removals.push(key.to_string());
            }
            keys.insert(*key);
        }
        self.pending.retain(|key| !keys.contains(key));
        let idle = update.upserts.is_empty() && update.removals.is_empty();
        if idle && !self.due {
            return (None, keys);
        }
        self.due = false;
        (Some(update), keys)
    }
}

/// A port that comes here goes from elsewhere, and the other way round: in one update.
fn twin(key: SectionKey) -> Option<SectionKey> {
    match key {
        SectionKey::Port(id) => Some(SectionKey::Endpoint(id)),
        SectionKey::Endpoint(id) => Some(SectionKey::Port(id)),
        SectionKey::Vteps
        | SectionKey::Network(_)
        | SectionKey::AddressSet(_)
        | SectionKey::AddressPart(..)
        | SectionKey::Group(_)
        | SectionKey::Firewall(_)
        | SectionKey::Qos(_)
        | SectionKey::Chain(_)
        | SectionKey::Router(_)
        | SectionKey::FloatingIp(_)
        | SectionKey::Metadata(_)
        | SectionKey::Proxy(_) => None,
    }
}

fn body(section: &hostconfig::Keyed) -> wire::SectionBody {
    wire::SectionBody {
        key: section.key().to_string(),
        hash: section.hash().0.to_vec(),
        body: section.bytes().to_vec(),
    }
}

fn clipped(mut text: String) -> String {
    if let Some((end, _)) = text.char_indices().nth(TEXT) {
        text.truncate(end);
    }
    text
}
