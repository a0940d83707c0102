//! Where are the connections?
//!
//! The table itself: entries, index, owners, and what keeps the three the same.
//!
//! # Invariants
//! An entry is occupied if and only if both its keys are in the index, it counts for its owner, and its bit is set.

use net::{FiveTuple, Mac, Now, PortId, Zone, arch::prefetch, batch::BATCH};

use super::{
    ConnId, Entrance, Entry, Hit, Inspected, KeyHash, NewConn, Owner, Recovered, Refused, Settings,
    Side, SideEntry, Stage, Stats, Swept, Timeouts, Track, TrackInput,
    index::{Index, Place},
    machine,
    owners::Owners,
    tcp,
};

/// The most entries that a table uses, whatever it is lent.
pub const MAX_CAPACITY: usize = 1 << 30;

/// How many classes of zones are counted apart: more than a host has ports.
const CLASSES: u32 = 4096;

fn class(zone: Zone) -> usize {
    (zone.0 % CLASSES) as usize
}

/// The table. `M` lends the entries.
#[derive(Debug)]
pub struct Conntrack<M> {
    storage: M,
    index: Index,
    owners: Owners,
    timeouts: Timeouts,
    occupied: Vec<u64>,
    free: Vec<u32>,
    // Entries from here on were never used: they are zero, and their memory need not exist yet.
    fresh: u32,
    capacity: u32,
    len: u32,
    cursor: u32,
    stats: Stats,
    // Sides by the class of their zone: where there is none, nobody needs to be looked for.
    zones: Vec<u32>,
    changes: u64,
}

impl<M: AsRef<[Entry]> + AsMut<[Entry]>> Conntrack<M> {
    /// A table in zeroed storage.
    pub fn new(storage: M, settings: Settings) -> Self {
        let capacity = storage.as_ref().len().min(MAX_CAPACITY);
        Self {
            index: Index::new(capacity, settings.seed),
            owners: Owners::new(capacity, settings.seed),
            timeouts: settings.timeouts,
            occupied: vec![0; capacity.div_ceil(64)],
            free: Vec::new(),
            fresh: 0,
            capacity: u32::try_from(capacity).unwrap_or(0),
            len: 0,
            cursor: 0,
            stats: Stats::default(),
            zones: vec![0; CLASSES as usize],
            changes: 0,
            storage,
        }
    }

    /// A table in storage that another process left. Only the first `used` entries may hold anything (where a sparse file
    /// ends, say); the others are not read. Connections count for the ports and projects that their entries name.
    pub fn recover(storage: M, used: usize, settings: Settings, now: Now) -> (Self, Recovered) {
        let mut table = Self::new(storage, settings);
        let mut found = Recovered::default();
        table.fresh = table.capacity.min(u32::try_from(used).unwrap_or(u32::MAX));
        for at in 0..table.fresh {
            let conn = ConnId(at);
            let Some(entry) = table.entry_mut(conn) else {
                continue;
            };
            if entry.is_free() && *entry == Entry::default() {
                table.free.push(at);
                continue;
            }
            // A clock that started over must not make an entry immortal.
            entry.state.seen = entry.state.seen.min(now.seconds());
            let entry = *entry;
            if entry.is_sound() && table.insert_keys(conn, &entry).is_ok() {
                table.settle(conn, &entry);
                found.kept += 1;
            } else {
                table.clear(conn);
                found.cleared += 1;
            }
        }
        // The lowest place is taken first, so that the used part stays short.
        table.free.reverse();
        (table, found)
    }

    /// How many connections there can be.
    pub fn capacity(&self) -> usize {
        self.capacity as usize
    }

    /// How many connections there are.
    pub fn len(&self) -> usize {
        self.len as usize
    }

    /// Is there none?
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// How many bytes of memory it takes in all, entries that were never used included.
    pub fn memory_bytes(&self) -> usize {
        size_of_val(self.storage.as_ref())
            + self.index.memory_bytes()
            + self.owners.memory_bytes()
            + self.occupied.capacity() * size_of::<u64>()
            + self.free.capacity() * size_of::<u32>()
    }

    /// What has happened so far.
    pub fn stats(&self) -> &Stats {
        &self.stats
    }

    /// May there be a connection with a side in this zone? Asked before anything is hashed: a network that tracks nothing has none.
    #[inline]
    pub fn knows(&self, zone: Zone) -> bool {
        self.zones.get(class(zone)).is_some_and(|sides| *sides > 0)
    }

    /// How often a connection was made or ended: while it stays the same, what was looked up is still so.
    #[inline]
    pub fn changes(&self) -> u64 {
        self.changes
    }

    /// How many connections count for the port.
    pub fn of_port(&self, port: PortId) -> u32 {
        self.owners.of_port(port)
    }

    /// How many connections count for the project.
    pub fn of_project(&self, project: u32) -> u32 {
        self.owners.of_project(project)
    }

    fn entry_mut(&mut self, conn: ConnId) -> Option<&mut Entry> {
        self.storage.as_mut().get_mut(conn.index())
    }

    /// The connection; `None` if there is none at this place.
    pub fn entry(&self, conn: ConnId) -> Option<&Entry> {
        self.storage
            .as_ref()
            .get(conn.index())
            .filter(|e| !e.is_free())
    }

    /// One side of a connection.
    pub fn side(&self, conn: ConnId, side: Side) -> Option<&SideEntry> {
        self.storage
            .as_ref()
            .get(conn.index())
            .map(|e| e.side(side))
    }

    /// The hash of a key, for [`Conntrack::lookup_hashed`].
    #[inline]
    pub fn hash(&self, zone: Zone, tuple: &FiveTuple) -> KeyHash {
        self.index.hash(zone, tuple)
    }

    /// The connection that a packet belongs to by zone and tuple.
    pub fn lookup(&self, zone: Zone, tuple: &FiveTuple) -> Option<Hit> {
        self.lookup_hashed(self.hash(zone, tuple), zone, tuple)
    }

    /// The same with the hash made before.
    #[inline]
    pub fn lookup_hashed(&self, hash: KeyHash, zone: Zone, tuple: &FiveTuple) -> Option<Hit> {
        // What is in the index is not free: only the side's own line is read.
        let is = |p: Place| {
            self.side(p.conn(), p.side())
                .is_some_and(|s| s.is(zone, tuple))
        };
        let place = self.index.find(hash, is)?;
        Some(Hit {
            conn: place.conn(),
            side: place.side(),
        })
    }

    /// Looks up a batch: every line of the index is asked for first, then every entry's, and only then is anything read that depends
    /// on what they hold; so the cache misses overlap. `hits` gets an answer for each of its places. `key` is asked twice for each:
    /// made anew, a key stays in registers.
    pub fn lookup_batch(
        &self,
        key: impl Fn(usize) -> Option<(Zone, FiveTuple)>,
        hits: &mut [Option<Hit>],
    ) {
        for (first, hits) in (0..).step_by(BATCH).zip(hits.chunks_mut(BATCH)) {
            let mut hashes = [None; BATCH];
            for ((at, hash), _) in (first..).zip(&mut hashes).zip(&*hits) {
                *hash = key(at).map(|(zone, tuple)| self.hash(zone, &tuple));
                if let Some(hash) = *hash {
                    self.index.prefetch(hash);
                }
            }
            for hash in hashes.iter().flatten() {
                if let Some(place) = self.index.guess(*hash) {
                    self.prefetch(place);
                }
            }
            for ((at, hit), hash) in (first..).zip(hits).zip(hashes) {
                *hit = hash.and_then(|hash| {
                    let (zone, tuple) = key(at)?;
                    self.lookup_hashed(hash, zone, &tuple)
                });
            }
        }
    }

    /// Asks for the lines of an entry that a packet of this side needs.
    fn prefetch(&self, place: Place) {
        if let Some(entry) = self.storage.as_ref().get(place.conn().index()) {
            prefetch(entry.side(place.side()));
            prefetch(&entry.state);
        }
    }

    /// Is the hit still the connection of this key?
    pub fn holds(&self, hit: Hit, zone: Zone, tuple: &FiveTuple) -> bool {
        self.entry(hit.conn)
            .is_some_and(|e| e.side(hit.side).is(zone, tuple))
    }

    /// Says what is done with packets of one side.
    pub fn set_program(&mut self, conn: ConnId, side: Side, program: u32) {
        if let Some(entry) = self.entry_mut(conn) {
            side.of_mut(&mut entry.sides).program = program;
        }
    }

    /// Says what inspectors said of a connection.
    pub fn set_inspected(&mut self, conn: ConnId, said: Inspected) {
        if let Some(entry) = self.entry_mut(conn).filter(|e| !e.is_free()) {
            entry.set_inspected(said);
        }
    }

    /// An inspector ends a connection: nothing of it is let pass any more, and of TCP it is as if it was reset, so that its ends may begin anew.
    pub fn condemn(&mut self, conn: ConnId) {
        let Some(entry) = self.entry_mut(conn).filter(|e| !e.is_free()) else {
            return;
        };
        let said = Inspected {
            condemned: true,
            ..entry.inspected()
        };
        entry.set_inspected(said);
        let (before, port) = (entry.stage(), entry.port());
        if before.is_tcp() && before != Stage::Closed {
            entry.state.set_stage(Stage::Closed);
            self.relist(conn, port, before, Stage::Closed);
        }
    }

    /// Says which Ethernet source and destination packets of one side show from now on. What was decided for the old ones is the
    /// caller's to replace.
    pub fn set_ethernet(&mut self, conn: ConnId, side: Side, (src, dst): (Mac, Mac)) {
        if let Some(entry) = self.entry_mut(conn).filter(|e| !e.is_free()) {
            side.of_mut(&mut entry.sides).set_ethernet(src, dst);
        }
    }

    /// One side's packets come by another way from now on: they are known in this zone, where they enter so, and show these Ethernet
    /// addresses. What was decided for them before is forgotten. `false`: another connection has that key, or there is no room; nothing has changed.
    pub fn set_zone(
        &mut self,
        conn: ConnId,
        side: Side,
        (zone, entrance): (Zone, Entrance),
        (src, dst): (Mac, Mac),
        program: u32,
    ) -> bool {
        let Some(before) = self.entry(conn).map(|e| *e.side(side)) else {
            return false;
        };
        if self.lookup(zone, &before.tuple).is_some() {
            return false;
        }
        let place = Place::new(conn, side);
        let [old, new] = [before.zone(), zone].map(|z| self.index.hash(z, &before.tuple));
        if self.index.insert(new, place).is_err() {
            return false;
        }
        self.index.remove(old, place);
        for (zone, more) in [(before.zone(), false), (zone, true)] {
            if let Some(sides) = self.zones.get_mut(class(zone)) {
                *sides = if more {
                    sides.saturating_add(1)
                } else {
                    sides.saturating_sub(1)
                };
            }
        }
        self.changes += 1;
        if let Some(entry) = self.entry_mut(conn) {
            let side = side.of_mut(&mut entry.sides);
            side.zone = zone.0;
            side.set_entrance(entrance);
            side.program = program;
            side.set_ethernet(src, dst);
            entry.state.seal = entry.seal();
        }
        true
    }

    /// Judges a packet of a connection that was looked up, and counts it if it belongs.
    pub fn track(
        &mut self,
        hit: Hit,
        input: &TrackInput,
        (segments, bytes): (u32, u64),
        now: Now,
    ) -> Track {
        let Some(entry) = self.entry_mut(hit.conn).filter(|e| !e.is_free()) else {
            return Track::Invalid;
        };
        let before = entry.stage();
        let track = machine::advance(entry, hit.side, input);
        if track == Track::Ok {
            entry.state.seen = now.seconds();
            entry.state.count(hit.side, segments, bytes);
            let (after, port) = (entry.stage(), entry.port());
            if before != after {
                self.relist(hit.conn, port, before, after);
            }
        } else if track == Track::Invalid {
            self.stats.invalid += 1;
        }
        track
    }

    fn relist(&mut self, conn: ConnId, port: PortId, before: Stage, after: Stage) {
        // What is over goes before what is half open.
        let moves_up = after.is_over() && !before.is_over();
        if before.is_expendable() && (!after.is_expendable() || moves_up) {
            self.owners.unlist(conn, port);
        }
        if after.is_expendable() && (!before.is_expendable() || moves_up) {
            self.owners.list(conn, port, after.is_over());
        }
    }

    /// Can the side of `sender` have sent the packet that an ICMP error quotes, by its TCP sequence number where the quote has
    /// one? The error itself travels with the other side's packets: looked up by the quoted tuple reversed, it finds that
    /// side.
    pub fn has_sent(&self, sender: Hit, sequence: Option<u32>) -> bool {
        self.entry(sender.conn).is_some_and(|e| match sequence {
            Some(seq) if e.stage().is_tcp() => tcp::has_sent(&e.state, sender.side, seq),
            _ => true,
        })
    }

    /// Makes a connection. Whoever has to go for it is told to `evicted` before it is gone.
    ///
    /// # Errors
    /// When the packet can't begin one, a key is taken, or there is no room.
    pub fn insert(
        &mut self,
        new: &NewConn,
        now: Now,
        mut evicted: impl FnMut(&Entry),
    ) -> Result<ConnId, Refused> {
        let mut entry = Entry::new(new.sides, new.owner.port, new.owner.project);
        if !machine::begin(&mut entry, &new.first, new.whole) {
            return Err(Refused::Invalid);
        }
        self.check_keys(&entry)?;
        self.make_room(new.owner, &mut evicted)
            .inspect_err(|_| self.stats.refused += 1)?;
        let conn = self.take_place().ok_or(Refused::TableFull)?;
        if self.insert_keys(conn, &entry).is_err() {
            self.free.push(conn.0);
            self.stats.refused += 1;
            return Err(Refused::TableFull);
        }
        entry.state.seen = now.seconds();
        entry.state.count(Side::Original, new.segments, new.bytes);
        if let Some(place) = self.entry_mut(conn) {
            *place = entry;
        }
        self.settle(conn, &entry);
        self.stats.inserted += 1;
        Ok(conn)
    }

    fn check_keys(&self, entry: &Entry) -> Result<(), Refused> {
        let [a, b] = &entry.sides;
        if a.zone == b.zone && a.tuple == b.tuple {
            return Err(Refused::Taken(None));
        }
        for side in [a, b] {
            if let Some(hit) = self.lookup(side.zone(), &side.tuple) {
                return Err(Refused::Taken(Some(hit.conn)));
            }
        }
        Ok(())
    }

    fn make_room(&mut self, owner: Owner, evicted: &mut impl FnMut(&Entry)) -> Result<(), Refused> {
        // A limit that was lowered below what is there refuses newcomers until enough are gone; one goes for each that comes.
        if self.of_port(owner.port) >= owner.port_limit {
            let conn = self.owners.expendable_in_port(owner.port);
            self.evict(
                conn.filter(|_| owner.port_limit > 0)
                    .ok_or(Refused::PortFull)?,
                evicted,
            );
        }
        if self.of_project(owner.project) >= owner.project_limit {
            let conn = self.owners.expendable_in_project(owner.project);
            self.evict(
                conn.filter(|_| owner.project_limit > 0)
                    .ok_or(Refused::ProjectFull)?,
                evicted,
            );
        }
        if self.len == self.capacity {
            let conn = self
                .owners
                .expendable_anywhere()
                .ok_or(Refused::TableFull)?;
            self.evict(conn, evicted);
        }
        Ok(())
    }

    fn evict(&mut self, conn: ConnId, evicted: &mut impl FnMut(&Entry)) {
        if let Some(entry) = self.close(conn) {
            evicted(&entry);
            self.stats.evicted += 1;
        }
    }

    fn take_place(&mut self) -> Option<ConnId> {
        if let Some(at) = self.free.pop() {
            return Some(ConnId(at));
        }
        (self.fresh < self.capacity).then(|| {
            self.fresh += 1;
            ConnId(self.fresh - 1)
        })
    }

    /// Both keys or none.
    fn insert_keys(&mut self, conn: ConnId, entry: &Entry) -> Result<(), Refused> {
        self.check_keys(entry)?;
        let [a, b] = entry.sides.map(|s| self.index.hash(s.zone(), &s.tuple));
        let first = Place::new(conn, Side::Original);
        self.index.insert(a, first).or(Err(Refused::TableFull))?;
        if self.index.insert(b, Place::new(conn, Side::Reply)).is_err() {
            self.index.remove(a, first);
            return Err(Refused::TableFull);
        }
        Ok(())
    }

    /// Counts and lists an entry whose keys are in the index.
    fn settle(&mut self, conn: ConnId, entry: &Entry) {
        if let Some(word) = self.occupied.get_mut(conn.index() / 64) {
            *word |= 1 << (conn.0 % 64);
        }
        self.len += 1;
        self.changes += 1;
        for side in &entry.sides {
            if let Some(sides) = self.zones.get_mut(class(side.zone())) {
                *sides += 1;
            }
        }
        self.owners.add(entry.port(), entry.project());
        let stage = entry.stage();
        if stage.is_expendable() {
            self.owners.list(conn, entry.port(), stage.is_over());
        }
    }

    fn clear(&mut self, conn: ConnId) {
        if let Some(entry) = self.entry_mut(conn) {
            *entry = Entry::default();
            self.free.push(conn.0);
        }
    }

    /// Ends a connection, and returns what was known of it, so that what it holds elsewhere can be released.
    pub fn close(&mut self, conn: ConnId) -> Option<Entry> {
        let entry = *self.entry(conn)?;
        for side in Side::BOTH {
            let key = entry.side(side);
            let hash = self.index.hash(key.zone(), &key.tuple);
            self.index.remove(hash, Place::new(conn, side));
        }
        if entry.stage().is_expendable() {
            self.owners.unlist(conn, entry.port());
        }
        self.owners.take(entry.port(), entry.project());
        if let Some(word) = self.occupied.get_mut(conn.index() / 64) {
            *word &= !(1 << (conn.0 % 64));
        }
        self.len -= 1;
        self.changes += 1;
        for side in &entry.sides {
            if let Some(sides) = self.zones.get_mut(class(side.zone())) {
                *sides = sides.saturating_sub(1);
            }
        }
        self.clear(conn);
        Some(entry)
    }

    /// Ends what was silent for too long, as far as `budget` reaches: looking at a connection costs 1, ending it 8 more. Goes on
    /// where the last sweep stopped, to the end of the table at most.
    pub fn sweep(&mut self, now: Now, budget: u32, expired: impl FnMut(&Entry)) -> Swept {
        self.sweep_and_look(now, budget, expired, |_| ())
    }

    /// The same; `stays` is shown what goes on.
    pub fn sweep_and_look(
        &mut self,
        now: Now,
        budget: u32,
        mut expired: impl FnMut(&Entry),
        mut stays: impl FnMut(&Entry),
    ) -> Swept {
        let mut swept = Swept::default();
        let mut left = i64::from(budget);
        while left > 0 {
            let Some(conn) = self.occupied_from(self.cursor) else {
                self.cursor = 0;
                swept.finished = true;
                break;
            };
            self.cursor = conn.0 + 1;
            swept.seen += 1;
            left -= 1;
            if self.is_expired(conn, now)
                && let Some(entry) = self.close(conn)
            {
                expired(&entry);
                swept.expired += 1;
                self.stats.expired += 1;
                left -= 8;
            } else if let Some(entry) = self.entry(conn) {
                stays(entry);
            }
        }
        swept
    }

    fn occupied_from(&self, cursor: u32) -> Option<ConnId> {
        let (word, bit) = (cursor as usize / 64, cursor % 64);
        let mut words = self.occupied.iter().enumerate().skip(word);
        let (at, first) = words.next()?;
        let first = (at, first & (u64::MAX << bit));
        let rest = words.map(|(at, w)| (at, *w));
        let (at, bits) = std::iter::once(first).chain(rest).find(|(_, w)| *w != 0)?;
        u32::try_from(at * 64)
            .ok()
            .map(|base| ConnId(base + bits.trailing_zeros()))
    }

    fn is_expired(&self, conn: ConnId, now: Now) -> bool {
        self.entry(conn)
            .is_some_and(|e| self.seconds_left(e, now) == 0)
    }

    /// After how many more silent seconds the connection ends.
    pub fn seconds_left(&self, entry: &Entry, now: Now) -> u32 {
        let idle = now.seconds().saturating_sub(entry.state.seen);
        self.timeouts.of(entry).saturating_sub(idle)
    }

    /// Every connection, for dumps and export.
    pub fn iter(&self) -> impl Iterator<Item = (ConnId, &Entry)> {
        std::iter::successors(self.occupied_from(0), |c| self.occupied_from(c.0 + 1))
            .filter_map(|c| Some((c, self.entry(c)?)))
    }

    /// Gives the storage back.
    pub fn into_storage(self) -> M {
        self.storage
    }
}
