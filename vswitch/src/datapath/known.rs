//! 2: Is it decided already?
//!
//! By the connection table first: one probe yields record and program. All of a batch are looked up before any is followed, so that
//! the cache misses overlap; where nothing is tracked nothing is looked up.

use net::{FiveTuple, Now, Origin, Packet, Zone, batch::BATCH};
use nfv::conntrack::{Entry, Hit, Track, TrackInput};
use overlay::Place;

use super::{
    Datapath, Job, ProgramId, Start, Way, WorkerId, homes::release, invalid, tables::Tables,
};

/// What the look-up of a batch found.
pub(super) type Hits = [Option<Hit>; BATCH];

impl<M: AsRef<[Entry]> + AsMut<[Entry]>> Datapath<M> {
    /// The connections of a batch. They stand while [`Conntrack::changes`](nfv::Conntrack::changes) does.
    pub(super) fn look_up(&self, tables: &Tables, jobs: &[Job], hits: &mut Hits) {
        hits.fill(None);
        if self.conntrack.is_empty() {
            return;
        }
        let mut zones = [None; BATCH];
        let mut any = false;
        for (zone, job) in zones.iter_mut().zip(jobs) {
            if matches!(job.start, Start::Open) {
                *zone = zone_of(tables, &job.packet).filter(|z| self.conntrack.knows(*z));
                any |= zone.is_some();
            }
        }
        if any {
            let key = |at: usize| {
                let zone = (*zones.get(at)?)?;
                Some((zone, jobs.get(at)?.packet.key().five_tuple()?))
            };
            let hits = hits.get_mut(..jobs.len()).unwrap_or_default();
            self.conntrack.lookup_batch(key, hits);
        }
    }

    /// The connection of one packet, when the table has changed since its batch was looked up.
    pub(super) fn look_again(&self, tables: &Tables, packet: &Packet) -> Option<Hit> {
        let (zone, tuple) = zone_and_tuple(tables, packet)?;
        self.conntrack.lookup(zone, &tuple)
    }

    /// The way of a packet whose connection was found.
    #[inline]
    pub(super) fn follow(&mut self, tables: &Tables, packet: &Packet, hit: Hit, now: Now) -> Way {
        let Some(side) = self.conntrack.side(hit.conn, hit.side) else {
            return Way::Open;
        };
        if let Some(worker) = self.superseded(hit) {
            return Way::Hand(worker);
        }
        let key = packet.key();
        let program = ProgramId::from_number(side.program());
        let same_ends = side.eth_src() == key.src_mac() && side.eth_dst() == key.dst_mac();
        let gate = match self.hands.running(program) {
            Some(gate) => gate,
            None => match self.programs.gate(program, tables) {
                Some(gate) => gate,
                None => return Way::Judge(hit),
            },
        };
        if !same_ends || gate.origin != key.origin() || gate.path != key.path {
            return Way::Judge(hit);
        }
        if gate.drops {
            return Way::Run(program, None);
        }
        let (translates, reads) = (gate.translates, gate.reads);
        match self.track(packet, hit, now) {
            Track::Ok => {
                self.hands.counters.lookups.exact += 1;
                let to = if translates {
                    self.conntrack
                        .entry(hit.conn)
                        .map(|e| e.translated(hit.side))
                } else {
                    None
                };
                if reads && !self.is_cleared(hit, program) {
                    return self.inspect(tables, packet, hit, (program, to));
                }
                Way::Run(program, to)
            }
            Track::Invalid if reads => self
                .condemned(packet, hit, program)
                .unwrap_or_else(|| self.invalid(packet, hit)),
            Track::Invalid => self.invalid(packet, hit),
            Track::Renew => Way::Renew(hit),
        }
    }

    /// A packet that its record refuses: it may be of another connection, which now has the tuple at another worker.
    pub(super) fn invalid(&self, packet: &Packet, hit: Hit) -> Way {
        self.claimed(hit)
            .map_or_else(|| Way::Drop(invalid(packet)), Way::Hand)
    }

    /// Whose the tuple is now, if this record is of a connection that is over: it only waits for stray packets, while another with the
    /// same tuple on one side (a client's port that came round, to the same member by another way) may be elsewhere.
    #[inline]
    fn superseded(&self, hit: Hit) -> Option<WorkerId> {
        if self.settings.workers <= 1 || !self.conntrack.entry(hit.conn)?.stage().is_over() {
            return None;
        }
        self.claimed(hit)
    }

    /// The other worker that has claimed this side of a record.
    fn claimed(&self, hit: Hit) -> Option<WorkerId> {
        if self.settings.workers <= 1 {
            return None;
        }
        let side = self.conntrack.side(hit.conn, hit.side)?;
        let owner = self.claims.owner(side.zone(), side.tuple());
        owner.filter(|worker| *worker != self.settings.worker)
    }

    pub(super) fn track(&mut self, packet: &Packet, hit: Hit, now: Now) -> Track {
        let size = (packet.segments(), packet.wire_bytes());
        self.conntrack
            .track(hit, &TrackInput::of(packet), size, now)
    }

    pub(super) fn close(&mut self, hit: Hit) {
        if let Some(entry) = self.conntrack.close(hit.conn) {
            release(&self.claims, &self.settings, &entry);
        }
    }
}

/// What the connection of a packet would be known by; `None` for what has none.
pub(super) fn zone_and_tuple(tables: &Tables, packet: &Packet) -> Option<(Zone, FiveTuple)> {
    let tuple = packet.key().five_tuple()?;
    Some((zone_of(tables, packet)?, tuple))
}

/// The zone in which a packet's connection is looked up: its sender's, or that of the port that it is for, or of the gateway. What goes to many has
/// none, nor has what is tagged: it shows the tuple of a connection, but no connection carries VLANs.
#[inline]
fn zone_of(tables: &Tables, packet: &Packet) -> Option<Zone> {
    let to = packet.key().dst_mac();
    if to.is_multicast() || packet.key().vlan != 0 {
        return None;
    }
    match packet.origin() {
        Origin::Port(port) => tables.zone_at(port),
        Origin::Tunnel(network) => {
            let entry = tables.network(network)?.fdb.get(to)?;
            match entry.place {
                Place::Local(port) => tables.port(port).map(|p| p.zone),
                Place::Router(router) => tables.zone_outside(router, entry.port),
                Place::Vtep(_) | Place::Virtual => None,
            }
        }
        Origin::Switch => None,
    }
}
