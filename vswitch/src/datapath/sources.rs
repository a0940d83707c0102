//! Which sources did NATs give to this host's connections?
//!
//! A NAT's port is free when no connection to the same end has it: of any worker, and of any client. The table of connections does not
//! say so, since each port has a zone of its own and each worker a table. This one does: a translated source is *taken* when its
//! connection begins and given back when that ends. So is the source of a connection that was forwarded, translated or not, at the port of the API
//! that it was forwarded to: of those who come there by several ways no two are alike.
//!
//! Tenants repeat addresses: so a source is told by the port of the API that holds it. A record does not name that; sources of records
//! that another process left are taken for every holder until they end.
//!
//! # Cost
//! One lock; taken when a NAT chooses, and when a translated connection begins or ends. Never for an established packet. A source
//! is 24 bytes: keyed hashes of what tells it, not the thing itself. Where two are alike by chance, the second is said to be taken.

use std::{
    hash::{BuildHasher, Hash},
    sync::{Mutex, MutexGuard, PoisonError},
};

use hashbrown::{HashMap, HashTable};
use net::{FiveTuple, Id, Zone, ids::kind};
use nfv::{
    conntrack::{Entry, Side},
    function,
};

use super::{Claims, Settings, homes::home};

/// The translated sources of all connections of one switch.
#[derive(Debug)]
pub struct Sources {
    taken: Mutex<Taken>,
    capacity: usize,
}

#[derive(Debug)]
struct Taken {
    keyed: foldhash::quality::FixedState,
    /// By holder and what replies show.
    by_reply: HashTable<u64>,
    /// The same, by what a record shows: its client's zone, and both tuples.
    by_client: HashTable<(u64, u64)>,
    /// How many a client has.
    held: HashMap<Zone, u32, foldhash::fast::FixedState>,
}

impl Sources {
    /// None yet, at most `capacity`.
    pub fn new(capacity: usize, seed: u64) -> Self {
        let taken = Taken {
            keyed: foldhash::quality::FixedState::with_seed(seed),
            by_reply: HashTable::new(),
            by_client: HashTable::new(),
            held: HashMap::with_hasher(foldhash::fast::FixedState::with_seed(seed)),
        };
        Self {
            taken: Mutex::new(taken),
            capacity,
        }
    }

    fn taken(&self) -> MutexGuard<'_, Taken> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a source for a client's connection, which began so; `false`: another connection has it, or there is no room.
    pub fn take(
        &self,
        holder: Id<kind::Port>,
        client: (Zone, &FiveTuple),
        reply: &FiveTuple,
    ) -> bool {
        let mut taken = self.taken();
        if taken.by_reply.len() >= self.capacity || !taken.is_free(holder, reply) {
            return false;
        }
        taken.put(Some(holder), client, reply)
    }

    /// Takes the source of a connection that another process left, if it has one.
    pub fn keep(&self, entry: &Entry) {
        if let Some((client, reply)) = translated_source(entry) {
            self.taken().put(None, client, reply);
        }
    }

    /// Gives back what a connection had.
    pub fn give_back(&self, entry: &Entry) {
        if let Some((client, reply)) = translated_source(entry) {
            self.taken().remove(client, reply);
        }
    }

    /// Gives back what a connection had, for the one that begins in its place and has, or takes now, the source that is its own. That
    /// may be the same: nobody else gets it in between. `false`: another connection has it.
    pub fn hand_on(
        &self,
        entry: &Entry,
        holder: Id<kind::Port>,
        client: (Zone, &FiveTuple),
        reply: &FiveTuple,
    ) -> bool {
        let mut taken = self.taken();
        if let Some((before, had)) = translated_source(entry) {
            taken.remove(before, had);
        }
        taken.has(client, reply)
            || (taken.is_free(holder, reply) && taken.put(Some(holder), client, reply))
    }

    /// The same for one that did not come about.
    pub fn give_back_key(&self, client: (Zone, &FiveTuple), reply: &FiveTuple) {
        self.taken().remove(client, reply);
    }

    /// Is this connection's source its own?
    pub fn has(&self, entry: &Entry) -> bool {
        translated_source(entry).is_some_and(|(client, reply)| self.taken().has(client, reply))
    }

    /// Did a NAT give this connection its source?
    pub fn hides(&self, entry: &Entry) -> bool {
        let [original, reply] = Side::BOTH.map(|side| entry.side(side));
        !shows(original.tuple(), reply.tuple()) && self.has(entry)
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.taken().by_reply.len()
    }

    /// Is there none?
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl Taken {
    fn hash(&self, of: impl Hash) -> u64 {
        self.keyed.hash_one(of)
    }

    /// `None`: whoever holds the address.
    fn of_holder(&self, holder: Option<Id<kind::Port>>, reply: &FiveTuple) -> u64 {
        self.hash((holder.map(|id| id.uuid().as_u128()), reply))
    }

    fn is_free(&self, holder: Id<kind::Port>, reply: &FiveTuple) -> bool {
        [Some(holder), None].into_iter().all(|of| {
            let hash = self.of_holder(of, reply);
            self.by_reply.find(hash, |there| *there == hash).is_none()
        })
    }

    fn has(&self, client: (Zone, &FiveTuple), reply: &FiveTuple) -> bool {
        let hash = self.hash((client, reply));
        let found = self.by_client.find(hash, |(there, _)| *there == hash);
        found.is_some()
    }

    fn put(
        &mut self,
        holder: Option<Id<kind::Port>>,
        client: (Zone, &FiveTuple),
        reply: &FiveTuple,
    ) -> bool {
        if self.has(client, reply) {
            return false;
        }
        let (own, shown) = (self.hash((client, reply)), self.of_holder(holder, reply));
        self.by_client
            .insert_unique(own, (own, shown), |(hash, _)| *hash);
        self.by_reply.insert_unique(shown, shown, |hash| *hash);
        *self.held.entry(counted(client, reply)).or_default() += 1;
        true
    }

    fn remove(&mut self, client: (Zone, &FiveTuple), reply: &FiveTuple) {
        let own = self.hash((client, reply));
        let Ok(there) = self.by_client.find_entry(own, |(hash, _)| *hash == own) else {
            return;
        };
        let ((_, shown), _) = there.remove();
        if let Ok(there) = self.by_reply.find_entry(shown, |hash| *hash == shown) {
            there.remove();
        }
        let counted = counted(client, reply);
        if let Some(held) = self.held.get_mut(&counted) {
            *held -= 1;
            if *held == 0 {
                self.held.remove(&counted);
            }
        }
    }
}

/// Does a connection show its own source?
fn shows(began: &FiveTuple, reply: &FiveTuple) -> bool {
    (reply.dst, reply.dst_port) == (began.src, began.src_port)
}

/// For whom a source counts: a client's limit is on those that it was given.
fn counted((client, began): (Zone, &FiveTuple), reply: &FiveTuple) -> Zone {
    if shows(began, reply) {
        Zone(u32::MAX)
    } else {
        client
    }
}

/// Whose the source of a connection is, by how that began, and what replies show, where it is translated.
fn translated_source(entry: &Entry) -> Option<((Zone, &FiveTuple), &FiveTuple)> {
    entry.binding()?;
    let [original, reply] = Side::BOTH.map(|side| entry.side(side));
    Some(((original.zone(), original.tuple()), reply.tuple()))
}

/// What a walk is lent of them: as one worker sees them.
#[derive(Debug, Clone, Copy)]
pub struct Lender<'a> {
    pub(super) claims: &'a Claims,
    pub(super) settings: &'a Settings,
    /// The replies' tuple of the connection in whose place this one begins, if that has a source: it may have that one.
    pub(super) forerunner: Option<FiveTuple>,
}

/// What a function is lent of them: as one worker sees them for one client.
#[derive(Debug, Clone, Copy)]
pub struct Seen<'a> {
    pub(super) lender: Lender<'a>,
    pub(super) client: Zone,
}

impl function::Sources for Seen<'_> {
    fn is_free(&self, address: Id<kind::Port>, reply: &FiveTuple) -> bool {
        let Lender {
            claims, forerunner, ..
        } = self.lender;
        forerunner.as_ref() == Some(reply) || claims.sources().taken().is_free(address, reply)
    }

    fn is_here(&self, reply: &FiveTuple) -> bool {
        let settings = self.lender.settings;
        settings.workers <= 1 || home(settings, reply) == settings.worker
    }

    fn held(&self) -> u32 {
        let Lender {
            claims, forerunner, ..
        } = self.lender;
        let taken = claims.sources().taken();
        let held = taken.held.get(&self.client).copied().unwrap_or(0);
        held.saturating_sub(u32::from(forerunner.is_some()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn holder(n: u128) -> Id<kind::Port> {
        uuid::Uuid::from_u128(n).into()
    }

    fn reply(port: u16) -> FiveTuple {
        let (a, b) = ([10, 0, 0, 9].into(), [10, 0, 0, 200].into());
        FiveTuple::new(6, (a, 80), (b, port))
    }

    fn began() -> FiveTuple {
        let (a, b) = ([10, 0, 0, 1].into(), [10, 0, 0, 9].into());
        FiveTuple::new(6, (a, 5000), (b, 80))
    }

    #[test]
    fn a_source_is_one_connections_for_each_holder_of_the_address() {
        let sources = Sources::new(10, 1);
        assert!(sources.take(holder(1), (Zone(1), &began()), &reply(1024)));
        assert!(!sources.take(holder(1), (Zone(2), &began()), &reply(1024)));
        assert!(
            sources.take(holder(2), (Zone(3), &began()), &reply(1024)),
            "another tenant's address is another one"
        );
        sources.give_back_key((Zone(2), &began()), &reply(1024));
        assert_eq!(sources.len(), 2, "who has nothing gives nothing back");
        sources.give_back_key((Zone(1), &began()), &reply(1024));
        assert!(sources.take(holder(1), (Zone(2), &began()), &reply(1024)));
    }

    #[test]
    fn a_client_that_shows_itself_at_two_holders_of_one_address_has_both() {
        let sources = Sources::new(10, 1);
        let at = |n| {
            let (client, floating) = ([203, 0, 113, 5].into(), [10, 0, 5, n].into());
            FiveTuple::new(17, (client, 4000), (floating, 80))
        };
        let (first, second) = (at(100), at(101));
        let inside = [10, 0, 0, 2].into();
        let reply = FiveTuple::new(17, (inside, 80), ([203, 0, 113, 5].into(), 4000));
        assert!(sources.take(holder(1), (Zone(1), &first), &reply));
        assert!(sources.take(holder(2), (Zone(1), &second), &reply));
        sources.give_back_key((Zone(1), &first), &reply);
        assert!(sources.take(holder(1), (Zone(1), &first), &reply));
        assert!(!sources.take(holder(2), (Zone(2), &first), &reply));
    }

    #[test]
    fn there_are_no_more_than_fit() {
        let sources = Sources::new(1, 1);
        assert!(sources.take(holder(1), (Zone(1), &began()), &reply(1024)));
        assert!(!sources.take(holder(1), (Zone(1), &began()), &reply(1025)));
        sources.give_back_key((Zone(1), &began()), &reply(1024));
        assert!(sources.is_empty());
    }
}
