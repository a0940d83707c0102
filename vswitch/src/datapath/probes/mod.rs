//! Do the members of load balancers serve, and do frames pass appliances?
//!
//! For appliances see `crossing`: what comes out is taken out before anything else is asked of it.
//!
//! This host asks those behind its own ports (`Target`), in the virtual address's name and by no one's rules but the member's
//! own: a probe goes straight to the port, as what the metadata service says does, and what the port answers is taken out of the way behind
//! port security, before its groups. Those name clients, whose address a balanced connection keeps; the virtual address is none.
//! No record is made. One worker asks for all, whichever reads the answer; what is known is common to them.
//!
//! # Invariants
//! - A verdict is of answers alone: a member that was never asked has none.
//!
//! # Attack
//! What a member can say is that it serves, or not. At most `AT_ONCE` are asked in `PAUSE`, and each of them by its monitor's own delay.
//!
//! # Cost
//! One atomic reading a turn of one worker. A lock for each probe and answer; a host without monitors never takes it.

mod crossing;
mod frames;
mod watch;

use std::{
    collections::BTreeMap,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use net::{Consumed, Id, Label, Now, Origin, Originated, Packet, ids::kind};
use nfv::conntrack::Entry;

use super::{
    Action, Datapath, Stage, Tables,
    execute::{Cx, Hands},
    tables::{Port, crossings::Crossed, probes::Key},
    walk::{Walk, Witness},
};
use crossing::Crossing;
use watch::Watch;

/// How many are asked at once, and how soon after that the next are.
const AT_ONCE: usize = 16;
const PAUSE: Duration = Duration::from_millis(10);
/// The first questions of members that are met together are spread over this time.
const SPREAD_MS: u64 = 250;

/// What a host found of a member that it asks, or of an instance of an appliance (then the group stands for the monitor, and the port pair for
/// the member: ids are never two things').
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Verdict {
    /// By which monitor.
    pub monitor: Id<kind::HealthMonitor>,
    /// Of which member.
    pub member: Id<kind::Port>,
    /// Does it serve?
    pub serves: bool,
}

#[derive(Debug, Default)]
struct Known {
    watches: BTreeMap<(Id<kind::Port>, Key), Watch>,
    crossings: BTreeMap<Id<kind::PortPair>, Crossing>,
    version: u64,
}

impl Known {
    fn next(&self) -> Option<Now> {
        let crossings = self.crossings.values().map(|crossing| crossing.due);
        self.watches
            .values()
            .map(Watch::next)
            .chain(crossings)
            .min()
    }
}

/// A frame for a port.
#[derive(Debug)]
struct Sent {
    port: Id<kind::Port>,
    frame: Vec<u8>,
    /// Under this label.
    label: Option<Label>,
}

impl Sent {
    const fn bare(port: Id<kind::Port>, frame: Vec<u8>) -> Self {
        let label = None;
        Self { port, frame, label }
    }
}

/// What the workers know together of the members that this host asks.
#[derive(Debug)]
pub struct Probes {
    known: Mutex<Known>,
    /// When something is to be done next, in nanoseconds: `u64::MAX`, never.
    next: AtomicU64,
    secret: u64,
}

impl Probes {
    pub(super) fn new(secret: u64) -> Self {
        Self {
            known: Mutex::default(),
            next: AtomicU64::new(u64::MAX),
            secret,
        }
    }

    fn known(&self) -> std::sync::MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is known of each member, where anything is.
    pub fn verdicts(&self) -> Vec<Verdict> {
        let known = self.known();
        let of = |watch: &Watch| {
            let (monitor, member) = watch.target.key;
            Some(Verdict {
                monitor,
                member,
                serves: watch.verdict?,
            })
        };
        let crossings = known.crossings.values().filter_map(|crossing| {
            Some(Verdict {
                monitor: crossing.crossed.group.uuid().into(),
                member: crossing.crossed.pair.uuid().into(),
                serves: crossing.verdict?,
            })
        });
        let members = known.watches.values().filter_map(of);
        members.chain(crossings).collect()
    }

    fn plan(&self, known: &Known, not_before: Now) {
        let next = known
            .next()
            .map_or(u64::MAX, |at| at.max(not_before).nanos());
        self.next.store(next, Ordering::Relaxed);
    }

    /// There are other tables.
    fn follow(&self, tables: &Tables, now: Now) {
        let mut known = self.known();
        if known.version == tables.version() {
            return;
        }
        known.version = tables.version();
        let mut old = std::mem::take(&mut known.watches);
        // What moved to another port of this host is the same member.
        let mut moved: BTreeMap<Key, Option<bool>> = BTreeMap::new();
        for ((_, key), watch) in &old {
            moved.insert(*key, watch.verdict);
        }
        for target in tables.targets().iter() {
            let key = (target.port, target.key);
            let watch = if let Some(mut watch) = old.remove(&key) {
                watch.follow(target.clone(), now);
                watch
            } else {
                let mut watch = Watch::new(
                    target.clone(),
                    now + spread(target.key.1.uuid().as_u64_pair().1),
                );
                watch.verdict = moved.get(&target.key).copied().flatten();
                watch
            };
            known.watches.insert(key, watch);
        }
        let mut old = std::mem::take(&mut known.crossings);
        for crossed in tables.crossings().iter() {
            let mut crossing = old.remove(&crossed.pair).unwrap_or_else(|| {
                let low = crossed.pair.uuid().as_u64_pair().1;
                Crossing::new(crossed.clone(), now + spread(low), self.secret)
            });
            crossing.follow(crossed, now);
            known.crossings.insert(crossed.pair, crossing);
        }
        self.plan(&known, now);
    }

    /// The frames that are to be sent now, and when next.
    fn turn(&self, now: Now, sent: &mut Vec<Sent>) -> Option<Now> {
        let next = self.next.load(Ordering::Relaxed);
        if next == u64::MAX {
            return None;
        }
        if now.nanos() < next {
            return Some(Now::from_nanos(next));
        }
        let mut known = self.known();
        let due = known.watches.values_mut().filter(|w| w.next() <= now);
        for watch in due.take(AT_ONCE) {
            let (frame, _) = watch.turn(now, self.secret);
            sent.extend(frame.map(|frame| Sent::bare(watch.target.port, frame)));
        }
        let due = known.crossings.values_mut().filter(|c| c.due <= now);
        for crossing in due.take(AT_ONCE) {
            crossing.turn(now, sent);
        }
        self.plan(&known, now + PAUSE);
        let next = self.next.load(Ordering::Relaxed);
        (next != u64::MAX).then(|| Now::from_nanos(next))
    }

    /// A port answers.
    fn hear(
        &self,
        (port, crossed): (Id<kind::Port>, Option<&Crossed>),
        packet: &Packet,
        now: Now,
        sent: &mut Vec<Sent>,
    ) {
        let mut known = self.known();
        if let Some(crossing) = crossed.and_then(|of| known.crossings.get_mut(&of.pair)) {
            crossing.hear(port, packet);
        }
        let nil = uuid::Uuid::nil();
        let all = (port, (nil.into(), nil.into()));
        let of_port = known.watches.range_mut(all..);
        for (_, watch) in of_port.take_while(|((of, _), _)| *of == port) {
            let (frame, _) = watch.hear(packet, now);
            sent.extend(frame.map(|frame| Sent::bare(port, frame)));
        }
        self.plan(&known, now);
    }
}

/// When it is asked first, so that not all are at once.
const fn spread(low: u64) -> Duration {
    Duration::from_millis(low % SPREAD_MS)
}

impl<W: Witness> Walk<'_, W> {
    /// Is it an answer to a probe?
    pub(super) fn answers_a_probe(&mut self, port: &Port) -> bool {
        if !self.tables.targets().are_answered(port.id, self.probe) {
            return false;
        }
        // What the switch asks it knows itself.
        self.flow.tracked = false;
        self.answers(Action::Hear, Consumed::Probe);
        self.says(Stage::Service, || "heard: an answer to a probe".to_owned());
        true
    }
}

impl<W: Witness> Walk<'_, W> {
    /// Is it a probe of this host's that came through an appliance?
    pub(super) fn came_through(&mut self, port: &Port) -> bool {
        if !self.tables.crossings().came_out(port.id, self.probe) {
            return false;
        }
        self.flow.tracked = false;
        self.flow.path = self.probe.path();
        self.answers(Action::Hear, Consumed::Probe);
        self.says(Stage::Chain, || {
            "heard: a probe that came through an appliance".to_owned()
        });
        true
    }
}

impl Hands {
    /// Keeps an answer to a probe until the batch is done.
    pub(super) fn keep_answer(&mut self, packet: Packet, cx: &mut Cx<'_>) {
        if self.heard.len() < net::batch::BATCH {
            self.heard.push(packet);
        } else {
            cx.pool.give(packet);
        }
    }

    fn send_probe(&mut self, sent: &Sent, cx: &mut Cx<'_>) {
        let frame = &sent.frame;
        let Some(port) = cx.tables.port_by_id(sent.port).filter(|port| port.admin_up) else {
            return;
        };
        // Without a buffer it is as one that is lost: it is sent again.
        let Some(mut packet) = cx.pool.take(frame.len()) else {
            return;
        };
        packet.set_origin(Origin::Switch);
        if packet.fill(frame).is_err() || packet.parse().is_err() {
            return cx.pool.give(packet);
        }
        packet.set_label(sent.label);
        let segments = u64::from(packet.segments());
        self.ledger.originate(Originated::Probe, segments);
        self.deliver(port.dense, packet, cx);
    }
}

impl<M: AsRef<[Entry]> + AsMut<[Entry]>> Datapath<M> {
    /// There are other tables: who is asked from now on. One worker asks for all.
    pub(super) fn follow_members(&self, tables: &Tables, now: Now) {
        if self.settings.worker.0 == 0 {
            self.claims.probes().follow(tables, now);
        }
    }

    /// Asks the members that are due. When next.
    pub(super) fn ask_members(&mut self, cx: &mut Cx<'_>) -> Option<Now> {
        if self.settings.worker.0 != 0 {
            return None;
        }
        let mut sent = Vec::new();
        let next = self.claims.probes().turn(cx.now, &mut sent);
        for frame in &sent {
            self.hands.send_probe(frame, cx);
        }
        next
    }

    /// Hears what members answered in this batch.
    pub(super) fn hear_members(&mut self, cx: &mut Cx<'_>) {
        if self.hands.heard.is_empty() {
            return;
        }
        let mut sent = Vec::new();
        for packet in std::mem::take(&mut self.hands.heard) {
            let from = super::port_of(&packet).and_then(|port| cx.tables.port(port));
            if let Some(port) = from {
                let probes = self.claims.probes();
                let crossed = cx.tables.crossings().at(port.id);
                probes.hear((port.id, crossed), &packet, cx.now, &mut sent);
            }
            cx.pool.give(packet);
        }
        for frame in &sent {
            self.hands.send_probe(frame, cx);
        }
    }
}
