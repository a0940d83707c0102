//! When do routers speak to their hosts without being asked?
//!
//! At once when a router comes to a network or says something new, twice more soon after, then every few minutes; and a last time when it
//! goes, so that its hosts use it no more. A prefix that goes while its router stays is deprecated in what that one says, for as long as
//! hosts may still have addresses of it. Each worker tells its own share of the ports, and keeps of each network what it told them.
//!
//! # Invariants
//! - Two advertisements of one network are [`LEAST`] apart, however often its routers come and go; a last word is not held up.
//! - What is kept are networks of this host with a port of this worker's, on which a router spoke.
//!
//! # Cost
//! Nothing where no router speaks. Else one comparison a tick, and for each new config one of what each network's routers say.
//!
//! # References
//! RFC 4861 §6.2.4 (when), §6.2.5 (the last), §10 (constants); RFC 4862 §5.5.3 e (how long an address lives whose prefix has no time left).

use std::{
    borrow::Cow,
    collections::{BTreeMap, BTreeSet},
    hash::BuildHasher,
    time::Duration,
};

use net::{Id, Mac, NetworkId, Now, Prefix, ids::kind};

use super::tables::{Network, Tables, ra::Advertisement};

/// `MIN_DELAY_BETWEEN_RAS`.
const LEAST: Duration = Duration::from_secs(3);
/// `MAX_INITIAL_RTR_ADVERTISEMENTS`, and how far apart they are at most (`MAX_INITIAL_RTR_ADVERT_INTERVAL`).
const INITIAL: u8 = 3;
const INITIAL_PAUSE: (Duration, Duration) = (Duration::from_secs(8), Duration::from_secs(16));
/// `MinRtrAdvInterval` and `MaxRtrAdvInterval`, by default.
const PAUSE: (Duration, Duration) = (Duration::from_secs(198), Duration::from_mins(10));

/// For how long a prefix that went is said to have gone: whoever heard it once has its addresses for so long.
const FADES: Duration = Duration::from_hours(2);
/// The most that are remembered of a network.
const FADED: usize = 32;

/// A prefix for which a router speaks no more.
#[derive(Debug, Clone, Copy)]
struct Faded {
    mac: Mac,
    prefix: (Prefix, bool),
    until: Now,
}

/// What the hosts of a network were told, and when they are told next.
#[derive(Debug, Default)]
struct Told {
    /// Empty once its routers went: when somebody spoke last is still known.
    said: Vec<Advertisement>,
    faded: Vec<Faded>,
    initial: u8,
    round: u64,
    last: Option<Now>,
    next: Option<Now>,
}

/// What each network's hosts were told.
#[derive(Debug)]
pub(super) struct Heralds {
    seed: u64,
    told: BTreeMap<Id<kind::Network>, Told>,
    next: Option<Now>,
}

impl Heralds {
    /// Nobody was told anything. The seed draws the pauses.
    pub(super) fn new(seed: u64) -> Self {
        Self {
            seed,
            told: BTreeMap::new(),
            next: None,
        }
    }

    /// There is another config. Returns what those routers said that speak no more, by network: their hosts are told so. `mine`: has the
    /// network a port that this worker speaks to?
    pub(super) fn follow(
        &mut self,
        tables: &Tables,
        mine: impl Fn(&Network) -> bool,
        now: Now,
    ) -> Vec<(NetworkId, Advertisement)> {
        let mut gone = Vec::new();
        let mut alive = BTreeSet::new();
        for network in tables.networks().filter(|n| n.admin_up) {
            let speaks = &network.advertisements;
            let known = self.told.contains_key(&network.id);
            if (speaks.is_empty() && !known) || !mine(network) {
                continue;
            }
            alive.insert(network.id);
            let told = self.told.entry(network.id).or_default();
            if told.said == *speaks {
                continue;
            }
            let said = std::mem::replace(&mut told.said, speaks.clone());
            told.fade(&said, now);
            let goes = |a: &Advertisement| speaks.iter().all(|s| s.mac != a.mac);
            let goes = said.into_iter().filter(goes);
            gone.extend(goes.map(|said| (network.dense, said)));
            told.begin(now);
        }
        self.told.retain(|id, _| alive.contains(id));
        self.settle();
        gone
    }

    /// What a router says now: that of the tables, and which prefixes are its no more.
    pub(super) fn says<'a>(
        &self,
        network: &Network,
        advertisement: &'a Advertisement,
        now: Now,
    ) -> Cow<'a, Advertisement> {
        let faded = self.told.get(&network.id).into_iter();
        let faded = faded.flat_map(|told| &told.faded);
        let mut own = faded
            .filter(|f| f.mac == advertisement.mac && now < f.until)
            .map(|f| f.prefix)
            .peekable();
        if own.peek().is_none() {
            return Cow::Borrowed(advertisement);
        }
        Cow::Owned(advertisement.without(own))
    }

    /// When the next network is to be told; `None` where none has to.
    pub(super) fn next(&self) -> Option<Now> {
        self.next
    }

    /// The networks that are to be told now; each is counted as told.
    pub(super) fn due(&mut self, now: Now) -> Vec<Id<kind::Network>> {
        if self.next.is_none_or(|next| now < next) {
            return Vec::new();
        }
        let mut due = Vec::new();
        for (id, told) in &mut self.told {
            if told.next.is_some_and(|next| now >= next) {
                told.speak(draw(self.seed, *id, told.round), now);
                due.push(*id);
            }
        }
        self.settle();
        due
    }

    fn settle(&mut self) {
        self.next = self.told.values().filter_map(|told| told.next).min();
    }
}

impl Told {
    /// Another config: what its routers said before, and say no more though they stay.
    fn fade(&mut self, before: &[Advertisement], now: Now) {
        let prefixes = |all: &[Advertisement]| -> BTreeSet<Prefix> {
            let all = all.iter().flat_map(Advertisement::prefixes);
            all.map(|(prefix, _)| *prefix).collect()
        };
        let here = prefixes(&self.said);
        self.faded
            .retain(|f| now < f.until && !here.contains(&f.prefix.0));
        for router in before {
            let stays = self.said.iter().any(|s| s.mac == router.mac);
            let gone = router.prefixes().iter().filter(|p| !here.contains(&p.0));
            self.faded
                .extend(gone.filter(|_| stays).map(|prefix| Faded {
                    mac: router.mac,
                    prefix: *prefix,
                    until: now + FADES,
                }));
        }
        // The latest matter most.
        let over = self.faded.len().saturating_sub(FADED);
        self.faded.drain(..over);
    }

    /// Something else is to be said from now on, or nothing more.
    fn begin(&mut self, now: Now) {
        self.initial = INITIAL;
        let soonest = self.last.map_or(now, |last| now.max(last + LEAST));
        self.next = (!self.said.is_empty()).then_some(soonest);
    }

    fn speak(&mut self, drawn: u64, now: Now) {
        self.initial = self.initial.saturating_sub(1);
        self.round += 1;
        self.last = Some(now);
        let (least, most) = if self.initial > 0 {
            INITIAL_PAUSE
        } else {
            PAUSE
        };
        let room = most.saturating_sub(least).as_millis().max(1);
        let more = u128::from(drawn) % room;
        let pause = least + Duration::from_millis(u64::try_from(more).unwrap_or(0));
        self.next = Some(now + pause);
    }
}

/// Routers of many networks are not to speak in step (RFC 4861 §6.2.4): each pause is another, and all workers draw the same.
fn draw(seed: u64, network: Id<kind::Network>, round: u64) -> u64 {
    foldhash::quality::FixedState::with_seed(seed).hash_one((network, round))
}
