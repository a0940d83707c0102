//! Who has which address on a physical network?
//!
//! The overlay knows all its neighbours from the API; on the other side of a wire nobody tells who is there, so routers ask. One table
//! a host, [`Outside`], shared by its workers: (network, address) → MAC address, in the states of RFC 4861 §7.3, for ARP alike. A
//! [`super::Tables`] carries it along, so that whoever has the tables has it.
//!
//! # For a router
//! ```text
//! let answer = tables.outside().resolve(network.id, next_hop, speaker, now);
//! flow.depend(answer.depends);
//! match answer.found { Resolved(mac) => …, Pending | Unresolvable => drop as neighbour_unresolved }
//! ```
//! - `speaker` is who asks: the MAC address and an address of the router's port on that network, of the next hop's family.
//! - `Pending`: the question goes out of the wire with this worker's next [`Outside::due`] (each turn ends with one), again after one
//!   and two seconds; a second later it is `Unresolvable`, for three seconds, so that a sender hears of it and a flood of packets does not ask again.
//! - The dependency is of this entry alone. It moves when the answer becomes another (found, moved to another MAC address, lost), so
//!   the flows by this next hop are judged again, and no others.
//! - Programs see that through [`super::Tables::moment`], which grows with each swap of the tables and with each such change.
//!
//! # What differs from RFC 4861
//! An established flow does not come here for each packet, so nobody counts on which entries packets are sent. An entry that a walk asked
//! for in the last five minutes is taken for used: it is probed as soon as it is 30 seconds old, by unicast. After five minutes its dependency moves
//! once, so that whoever still sends by it asks again; who does not, lets it go. A lost neighbour is noticed within 33 seconds, under traffic.
//!
//! # Limits
//! [`Limits`]: entries in all, and of a network; addresses of which nothing is known yet for each speaker, so that who scans by one router takes nothing
//! from another's. Above: `Unresolvable`. Nothing is thrown out for another: what is not used goes by itself, what nobody answered within seconds.
//! What strangers say of themselves makes an entry only where they ask for a speaker's address, and while half of the network's room is free.
//!
//! # Cost
//! One lock, on misses by a router on such a network, on each ARP and ND message for one, and when something is due. Established packets read one number.

mod says;

use std::{
    collections::{BTreeSet, HashMap},
    net::IpAddr,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use net::{Id, Mac, Now, ids::kind};

pub use says::{Frame, Heard, Said, announcement};

use super::tables::{Dependency, SectionIndex};

/// The first section that is a neighbour's entry; those below are the tables'.
const FIRST: u32 = 1 << 31;

/// RFC 4861 §10: `REACHABLE_TIME`.
const REACHABLE: Duration = Duration::from_secs(30);
/// `RETRANS_TIMER`.
const RETRANSMIT: Duration = Duration::from_secs(1);
/// `MAX_MULTICAST_SOLICIT`, `MAX_UNICAST_SOLICIT`.
const TRIES: u8 = 3;
/// `DELAY_FIRST_PROBE_TIME`.
const DELAY: Duration = Duration::from_secs(5);
/// How long an address that nobody answered for is not asked for again.
const FAILED: Duration = Duration::from_secs(3);
/// How long an entry that was asked for counts as used.
const USED: Duration = Duration::from_mins(5);
/// How long one that is not used stays.
const STALE: Duration = Duration::from_mins(1);

/// How much may be known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Entries in all.
    pub entries: usize,
    /// Entries of a network.
    pub of_network: u32,
    /// Addresses that a speaker asks for, or that nobody answered for, at a time.
    pub unknown: u32,
}

impl Default for Limits {
    /// 8,192 neighbours are a large Ethernet; a router that asks for 64 addresses which nobody has sends 32 questions a second.
    fn default() -> Self {
        Self {
            entries: 8192,
            of_network: 2048,
            unknown: 64,
        }
    }
}

/// Who asks: a router's port on the network.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Speaker {
    /// Its MAC address.
    pub mac: Mac,
    /// Its address, of the family that it asks for.
    pub addr: IpAddr,
}

/// Where a next hop is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Resolution {
    /// At this MAC address.
    Resolved(Mac),
    /// Not known yet; it is asked for.
    Pending,
    /// Nobody answered, or there is no room to ask.
    Unresolvable,
}

/// What is known of a next hop, and what a flow that read it depends on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Answer {
    /// Where it is.
    pub found: Resolution,
    /// Moves when that becomes another.
    pub depends: Dependency,
}

/// A question that is to go out of a network's wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Question {
    /// The network.
    pub network: Id<kind::Network>,
    /// Who asks.
    pub from: Speaker,
    /// For which address.
    pub target: IpAddr,
    /// At which MAC address; `None`: all are asked.
    pub to: Option<Mac>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// All were asked this often.
    Incomplete(u8),
    /// Confirmed lately.
    Reachable,
    /// Not confirmed lately, and not used.
    Stale,
    /// Used again; to be probed soon.
    Delay,
    /// It was asked this often.
    Probe(u8),
    /// Nobody answered.
    Failed,
}

impl State {
    /// Is the MAC address unknown?
    const fn is_unknown(self) -> bool {
        matches!(self, Self::Incomplete(_) | Self::Failed)
    }

    /// The name in dumps.
    const fn name(self) -> &'static str {
        match self {
            Self::Incomplete(_) => "incomplete",
            Self::Reachable => "reachable",
            Self::Stale => "stale",
            Self::Delay => "delay",
            Self::Probe(_) => "probe",
            Self::Failed => "failed",
        }
    }
}

#[derive(Debug, Clone, Copy)]
struct Entry {
    network: Id<kind::Network>,
    addr: IpAddr,
    mac: Mac,
    state: State,
    /// When its state ends.
    until: Now,
    speaker: Speaker,
    /// When a walk last asked for it.
    used: Option<Now>,
}

/// An entry, for dumps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shown {
    /// The network.
    pub network: Id<kind::Network>,
    /// The address.
    pub addr: IpAddr,
    /// The MAC address, where it is known.
    pub mac: Option<Mac>,
    /// The state of RFC 4861 §7.3, or `failed`.
    pub state: &'static str,
}

type Fixed = foldhash::quality::FixedState;

#[derive(Debug)]
struct Known {
    slots: Vec<Option<Entry>>,
    free: Vec<u32>,
    index: HashMap<(Id<kind::Network>, IpAddr), u32, Fixed>,
    of_network: HashMap<Id<kind::Network>, u32, Fixed>,
    unknown: HashMap<(Id<kind::Network>, Mac), u32, Fixed>,
    due: BTreeSet<(Now, u32)>,
    /// Somebody was refused for want of room.
    refused: bool,
}

/// The neighbours of this host on physical networks.
#[derive(Debug)]
pub struct Outside {
    known: Mutex<Known>,
    limits: Limits,
    /// By entry, and one more for whoever found no room.
    epochs: Box<[AtomicU64]>,
    /// How often any of them moved.
    version: AtomicU64,
    /// When something is due, in nanoseconds.
    next: AtomicU64,
}

impl Outside {
    /// None yet.
    pub fn new(limits: Limits, seed: u64) -> Self {
        let hasher = || Fixed::with_seed(seed);
        Self {
            known: Mutex::new(Known {
                slots: Vec::new(),
                free: Vec::new(),
                index: HashMap::with_hasher(hasher()),
                of_network: HashMap::with_hasher(hasher()),
                unknown: HashMap::with_hasher(hasher()),
                due: BTreeSet::new(),
                refused: false,
            }),
            limits,
            epochs: (0..=limits.entries).map(|_| AtomicU64::new(0)).collect(),
            version: AtomicU64::new(0),
            next: AtomicU64::new(u64::MAX),
        }
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Grows whenever the answer for any address becomes another.
    #[inline]
    pub fn version(&self) -> u64 {
        self.version.load(Ordering::Acquire)
    }

    /// Is this section an entry of this table?
    pub(crate) const fn has(section: SectionIndex) -> bool {
        section.0 >= FIRST
    }

    /// At which epoch an entry is.
    pub(crate) fn epoch(&self, section: SectionIndex) -> u64 {
        let at = section.0.wrapping_sub(FIRST) as usize;
        let epoch = self.epochs.get(at);
        epoch.map_or(0, |epoch| epoch.load(Ordering::Acquire))
    }

    fn depend(&self, slot: u32) -> Dependency {
        let section = SectionIndex(FIRST | slot);
        Dependency {
            section,
            epoch: self.epoch(section),
        }
    }

    /// The answer of this entry has become another.
    fn moved(&self, slot: u32) {
        if let Some(epoch) = self.epochs.get(slot as usize) {
            epoch.fetch_add(1, Ordering::AcqRel);
            self.version.fetch_add(1, Ordering::AcqRel);
        }
    }

    fn full(&self) -> u32 {
        u32::try_from(self.limits.entries).unwrap_or(u32::MAX)
    }

    /// Where a next hop is; who is not known is asked for.
    pub fn resolve(
        &self,
        network: Id<kind::Network>,
        addr: IpAddr,
        speaker: Speaker,
        now: Now,
    ) -> Answer {
        let mut known = self.known();
        let there = known.index.get(&(network, addr)).copied();
        let slot = there.or_else(|| self.begin(&mut known, network, addr, speaker, now));
        let Some(slot) = slot else {
            known.refused = true;
            return Answer {
                found: Resolution::Unresolvable,
                depends: self.depend(self.full()),
            };
        };
        let depends = self.depend(slot);
        let mut found = Resolution::Unresolvable;
        self.change(&mut known, slot, |entry| {
            entry.used = Some(now);
            if !entry.state.is_unknown() {
                entry.speaker = speaker;
            }
            if entry.state == State::Stale {
                (entry.state, entry.until) = (State::Delay, now + DELAY);
            }
            found = entry.found();
        });
        Answer { found, depends }
    }

    /// What is known of an address, without asking for it.
    pub fn look(&self, network: Id<kind::Network>, addr: IpAddr) -> Option<Resolution> {
        let known = self.known();
        let slot = known.index.get(&(network, addr))?;
        Some(known.slots.get(*slot as usize)?.as_ref()?.found())
    }

    /// An address of which nothing is known is to be asked for at once; `None`: there is no room.
    fn begin(
        &self,
        known: &mut Known,
        network: Id<kind::Network>,
        addr: IpAddr,
        speaker: Speaker,
        now: Now,
    ) -> Option<u32> {
        let asked = known.unknown.get(&(network, speaker.mac));
        if asked.is_some_and(|n| *n >= self.limits.unknown) {
            return None;
        }
        let entry = Entry {
            network,
            addr,
            mac: Mac::new([0; 6]),
            state: State::Incomplete(0),
            until: now,
            speaker,
            used: Some(now),
        };
        self.insert(known, entry, self.limits.of_network)
    }

    fn insert(&self, known: &mut Known, entry: Entry, of_network: u32) -> Option<u32> {
        let there = known.of_network.entry(entry.network).or_default();
        if *there >= of_network {
            return None;
        }
        let slot = match known.free.pop() {
            Some(slot) => slot,
            None if known.slots.len() < self.limits.entries => {
                known.slots.push(None);
                u32::try_from(known.slots.len() - 1).unwrap_or(u32::MAX)
            }
            None => return None,
        };
        *there += 1;
        known.index.insert((entry.network, entry.addr), slot);
        if entry.state.is_unknown() {
            let speaker = (entry.network, entry.speaker.mac);
            *known.unknown.entry(speaker).or_default() += 1;
        }
        known.due.insert((entry.until, slot));
        if let Some(free) = known.slots.get_mut(slot as usize) {
            *free = Some(entry);
        }
        self.set_next(known);
        Some(slot)
    }

    fn set_next(&self, known: &Known) {
        let next = known.due.first().map_or(u64::MAX, |(at, _)| at.nanos());
        self.next.store(next, Ordering::Release);
    }

    /// Changes an entry, and all that is kept of it beside: counts, times, epochs.
    fn change(&self, known: &mut Known, slot: u32, change: impl FnOnce(&mut Entry)) {
        let Some(entry) = known.slots.get_mut(slot as usize).and_then(Option::as_mut) else {
            return;
        };
        let before = *entry;
        change(entry);
        let after = *entry;
        if before.until != after.until {
            known.due.remove(&(before.until, slot));
            known.due.insert((after.until, slot));
            self.set_next(known);
        }
        if before.state.is_unknown() && !after.state.is_unknown() {
            known.answered(&before);
        }
        if before.found() != after.found() {
            self.moved(slot);
            self.make_room(known);
        }
    }

    fn remove(&self, known: &mut Known, slot: u32) {
        let place = known.slots.get_mut(slot as usize);
        let Some(entry) = place.and_then(Option::take) else {
            return;
        };
        known.index.remove(&(entry.network, entry.addr));
        known.due.remove(&(entry.until, slot));
        if entry.state.is_unknown() {
            known.answered(&entry);
        }
        if let Some(count) = known.of_network.get_mut(&entry.network) {
            *count = count.saturating_sub(1);
            if *count == 0 {
                known.of_network.remove(&entry.network);
            }
        }
        known.free.push(slot);
        self.moved(slot);
        self.make_room(known);
        self.set_next(known);
    }

    /// Whoever found no room may ask again.
    fn make_room(&self, known: &mut Known) {
        if std::mem::take(&mut known.refused) {
            self.moved(self.full());
        }
    }

    /// A neighbour said something.
    /// `speaker`: whom it asks for, if that is one.
    pub fn hear(
        &self,
        network: Id<kind::Network>,
        heard: &Heard,
        speaker: Option<Speaker>,
        now: Now,
    ) {
        let mut known = self.known();
        let Some(slot) = known.index.get(&(network, heard.addr)).copied() else {
            // Who asks for a speaker's address will be answered, and will send: it is known before it is needed.
            if let (Said::Asks, Some(mac), Some(speaker)) = (heard.said, heard.mac, speaker) {
                let entry = Entry {
                    network,
                    addr: heard.addr,
                    mac,
                    state: State::Stale,
                    until: now + STALE,
                    speaker,
                    used: None,
                };
                self.insert(&mut known, entry, self.limits.of_network / 2);
            }
            return;
        };
        self.change(&mut known, slot, |entry| entry.hear(heard, now));
    }

    /// What is to be asked now; when to come again. A look at one number where nothing is due.
    pub fn due(&self, now: Now, ask: &mut Vec<Question>) -> Option<Now> {
        if self.next.load(Ordering::Acquire) <= now.nanos() {
            let mut known = self.known();
            while let Some(&(at, slot)) = known.due.first()
                && at <= now
            {
                self.pass(&mut known, slot, now, ask);
            }
        }
        let next = self.next.load(Ordering::Acquire);
        (next != u64::MAX).then(|| Now::from_nanos(next))
    }

    /// The state of an entry ends.
    fn pass(&self, known: &mut Known, slot: u32, now: Now, ask: &mut Vec<Question>) {
        let entry = known.slots.get(slot as usize).copied().flatten();
        let Some(entry) = entry else {
            known.due.retain(|(_, at)| *at != slot);
            return self.set_next(known);
        };
        let question = |to| Question {
            network: entry.network,
            from: entry.speaker,
            target: entry.addr,
            to,
        };
        let used = entry.used.is_some_and(|at| now.since(at) < USED);
        let (state, until) = match entry.state {
            State::Incomplete(tries) if tries < TRIES => {
                ask.push(question(None));
                (State::Incomplete(tries + 1), now + RETRANSMIT)
            }
            State::Incomplete(_) => (State::Failed, now + FAILED),
            State::Reachable if !used => (State::Stale, now + STALE),
            State::Reachable | State::Delay => {
                ask.push(question(Some(entry.mac)));
                (State::Probe(1), now + RETRANSMIT)
            }
            State::Probe(tries) if tries < TRIES => {
                ask.push(question(Some(entry.mac)));
                (State::Probe(tries + 1), now + RETRANSMIT)
            }
            State::Probe(_) | State::Stale | State::Failed => return self.remove(known, slot),
        };
        self.change(known, slot, |entry| {
            (entry.state, entry.until) = (state, until);
        });
        if state == State::Stale {
            // Who still sends by it asks again.
            self.moved(slot);
        }
    }

    /// Forgets the networks that are gone.
    pub fn keep(&self, is_here: impl Fn(Id<kind::Network>) -> bool) {
        let mut known = self.known();
        let gone: Vec<u32> = known
            .index
            .iter()
            .filter(|((network, _), _)| !is_here(*network))
            .map(|(_, slot)| *slot)
            .collect();
        for slot in gone {
            self.remove(&mut known, slot);
        }
    }

    /// All entries, for dumps.
    pub fn show(&self) -> Vec<Shown> {
        let known = self.known();
        let entries = known.slots.iter().flatten();
        let mut shown: Vec<_> = entries
            .map(|e| Shown {
                network: e.network,
                addr: e.addr,
                mac: (!e.state.is_unknown()).then_some(e.mac),
                state: e.state.name(),
            })
            .collect();
        shown.sort_unstable_by_key(|s| (s.network, s.addr));
        shown
    }
}

impl Known {
    /// One address less of which nothing is known.
    fn answered(&mut self, entry: &Entry) {
        let speaker = (entry.network, entry.speaker.mac);
        if let Some(count) = self.unknown.get_mut(&speaker) {
            *count = count.saturating_sub(1);
            if *count == 0 {
                self.unknown.remove(&speaker);
            }
        }
    }
}

impl Entry {
    fn found(&self) -> Resolution {
        match self.state {
            State::Incomplete(_) => Resolution::Pending,
            State::Failed => Resolution::Unresolvable,
            State::Reachable | State::Stale | State::Delay | State::Probe(_) => {
                Resolution::Resolved(self.mac)
            }
        }
    }

    /// RFC 4861 §7.2.3 and §7.2.5.
    fn hear(&mut self, heard: &Heard, now: Now) {
        let mac = heard.mac.unwrap_or(self.mac);
        let unknown = self.state.is_unknown();
        if unknown && heard.mac.is_none() {
            return;
        }
        let moved = unknown || mac != self.mac;
        let confirmed = heard.said == Said::Answers { overrides: true }
            || heard.said == Said::Answers { overrides: false } && (!moved || unknown);
        let overrides = match heard.said {
            Said::Answers { overrides } | Said::Announces { overrides } => overrides,
            Said::Asks => true,
        };
        if confirmed {
            self.mac = mac;
            (self.state, self.until) = (State::Reachable, now + REACHABLE);
        } else if moved && (overrides || unknown) {
            // Believed, and asked as soon as somebody sends there: who uses it does.
            self.mac = mac;
            (self.state, self.until) = (State::Delay, now + DELAY);
        } else if moved && self.state == State::Reachable {
            // Two say that they have it: the one that is believed has to say so again.
            (self.state, self.until) = (State::Delay, now + DELAY);
        }
    }
}

#[cfg(test)]
mod tests;
