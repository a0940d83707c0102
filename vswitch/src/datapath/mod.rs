//! How does a batch of packets get from where it entered to where it goes?
//!
//! The packet's corridor, in walking order: [`ingress`] (parse), [`mod@fragments`] (which are one packet), [`cache`] and the connection table (is it decided already?),
//! [`upcall`] (a miss walks the [`tables`] once, see [`mod@walk`]), [`flow`] (the answer), [`execute`] (actions), [`egress`] (who gets
//! what). [`mod@explain`] is the same walk, told. A [`Datapath`] is one worker's: it shares nothing on the way but [`claims`], which
//! only misses read, and does no I/O: packets in, packets out, time is an argument.
//!
//! # Invariants
//! - [`Ledger::balanced`] after every call.
//! - No allocation and no lock for a packet whose flow is known.

pub mod budgets;
pub mod cache;
mod chains;
pub mod claims;
pub mod drops;
pub mod egress;
pub mod execute;
pub mod explain;
pub mod flow;
pub mod fragments;
pub mod ingress;
pub mod ledger;
pub mod tables;
mod too_big;
pub mod upcall;
pub mod walk;

#[cfg(test)]
mod tests;

use std::{sync::Arc, time::Duration};

use net::{
    Batch, DropReason, Errand, FiveTuple, Fragment, Now, Origin, Packet, PacketPool, PortId, Zone,
};
use nfv::conntrack::{self, Conntrack, Entry, Hit, Track, TrackInput};
use overlay::Place;

pub use budgets::Rates;
pub use claims::{Claims, WorkerId};
pub use drops::{DropRecord, DropText, Drops};
pub use egress::Out;
pub use explain::{Described, Explanation, explain};
pub use flow::{Action, CompiledFlow, Lane, ProgramId, Programs, Refusal, Stage, Verdict};
pub use ledger::{Ledger, Unbalanced};
pub use tables::{HopId, Tables, ZoneMap};

use budgets::{Budget, Budgets, Payer};
use cache::Megaflows;
use execute::Hands;
use flow::Found;
use fragments::{Fragments, Met, Room};

use crate::{
    io::{Tunnelled, Unsent},
    stats::Counters,
};

/// What a worker's datapath is told when it is made: who it is, and every limit.
#[derive(Debug, Clone, Copy)]
pub struct Settings {
    /// Which worker.
    pub worker: WorkerId,
    /// How many there are; the same for all of them.
    pub workers: u16,
    /// Secret, and the same for all workers: keys hashes and choices.
    pub seed: u64,
    /// The most connections of a project on this worker.
    pub project_connections: u32,
    /// How much of the workers a port may take.
    pub rates: Rates,
    /// The most programs.
    pub programs: usize,
    /// The most megaflows.
    pub megaflows: usize,
    /// The most packets whose later fragments are waited for.
    pub fragments: usize,
    /// The most fragments that wait for the first of their packet.
    pub early_fragments: usize,
    /// The most drop records.
    pub drop_records: usize,
    /// The most answers a second for one port.
    pub answers_per_second: u32,
    /// The most ICMP errors a second for one port, of all workers; each has its share, and at least one.
    pub errors_per_second: u32,
    /// How long connections may be silent.
    pub timeouts: conntrack::Timeouts,
}

impl Default for Settings {
    /// The limits of docs/datapath.md.
    fn default() -> Self {
        Self {
            worker: WorkerId(0),
            workers: 1,
            seed: 0,
            project_connections: 131_072,
            rates: Rates::default(),
            programs: 65_536,
            megaflows: 65_536,
            fragments: 4096,
            early_fragments: 256,
            drop_records: 1024,
            answers_per_second: 1000,
            errors_per_second: 10,
            timeouts: conntrack::Timeouts::default(),
        }
    }
}

/// How often the connection table is swept to its end.
const SWEEP_EVERY: Duration = Duration::from_secs(1);
/// The pause between two pieces of one sweep.
const SWEEP_PIECE: Duration = Duration::from_millis(5);
/// What one piece may cost: well under a millisecond.
const SWEEP_BUDGET: u32 = 8192;

/// One worker's datapath. `M` lends the connection table's entries.
#[derive(Debug)]
pub struct Datapath<M = Vec<Entry>> {
    settings: Settings,
    claims: Arc<Claims>,
    conntrack: Conntrack<M>,
    programs: Programs,
    megaflows: Megaflows,
    fragments: Fragments,
    met: Vec<Met>,
    jobs: Vec<Job>,
    /// Answers that are used once: those about ICMP errors.
    once: Vec<CompiledFlow>,
    hands: Hands,
    budgets: Budgets,
    next_sweep: Now,
    /// The tables' version that the counters are of.
    seen: u64,
    /// Connections ever made when this batch was looked up: while there are no more, who was not found is not there.
    looked_up: u64,
}

/// A packet on its way through the rooms.
#[derive(Debug)]
struct Job {
    packet: Packet,
    way: Way,
    handed: bool,
}

/// What is known of a packet's way so far.
#[derive(Debug, Clone, Copy)]
enum Way {
    /// Nothing. What its connection would be known by, where it may have one.
    Open(Option<(Zone, FiveTuple)>),
    /// It is of this connection, which must be judged again first.
    Judge(Hit),
    /// It begins another connection in place of the one that it was found by, if the tables let it.
    Renew,
    /// This program, and what its addresses become.
    Run(ProgramId, Option<FiveTuple>),
    /// The answer at this place of `once`, and the connection's tuple on either side of it.
    Once(usize, Option<[FiveTuple; 2]>),
    /// It ends here.
    Drop(Refusal),
    /// It is another worker's.
    Hand(WorkerId),
}

impl<M: AsRef<[Entry]> + AsMut<[Entry]>> Datapath<M> {
    /// A datapath whose connections live in `storage`, zeroed or left by another process up to `used` entries.
    pub fn new(settings: Settings, storage: M, used: usize, claims: Arc<Claims>, now: Now) -> Self {
        let table = conntrack::Settings {
            seed: settings.seed,
            timeouts: settings.timeouts,
        };
        let (mut conntrack, _) = Conntrack::recover(storage, used, table, now);
        // Programs are this process's: what another one numbered means nothing here.
        let kept: Vec<_> = conntrack
            .iter()
            .map(|(conn, entry)| (conn, *entry))
            .collect();
        for (conn, entry) in kept {
            for side in conntrack::Side::BOTH {
                conntrack.set_program(conn, side, ProgramId::NONE.number(), 0);
            }
            // Claims are this process's too: whoever does not hash here is told where the connection is.
            if !claim(&claims, &settings, &entry) {
                conntrack.close(conn);
            }
        }
        let room = Room {
            firsts: settings.fragments,
            early: settings.early_fragments,
        };
        Self {
            claims,
            conntrack,
            programs: Programs::new(settings.programs.max(256), settings.seed),
            megaflows: Megaflows::new(settings.megaflows, settings.seed),
            fragments: Fragments::new(room, settings.seed),
            met: Vec::new(),
            jobs: Vec::with_capacity(net::batch::BATCH),
            once: Vec::new(),
            hands: Hands::new(&settings),
            budgets: Budgets::new(settings.rates, settings.workers),
            next_sweep: now,
            seen: 0,
            looked_up: 0,
            settings,
        }
    }

    /// One batch, from where it entered to where it goes. Each packet's origin is set; packets of [`Origin::Switch`] are dropped.
    pub fn run(
        &mut self,
        tables: &Tables,
        batch: &mut Batch,
        now: Now,
        pool: &mut PacketPool,
        out: &mut Out,
    ) {
        self.admit(batch, now);
        self.lookup(tables, now);
        self.resolve(tables, now);
        self.apply(tables, now, pool, out);
    }

    /// The same for packets that another worker handed over: they are read and counted already.
    pub fn take_over(
        &mut self,
        tables: &Tables,
        batch: &mut Batch,
        now: Now,
        pool: &mut PacketPool,
        out: &mut Out,
    ) {
        for packet in batch.drain() {
            self.hands.ledger.handed_in += u64::from(packet.segments());
            let mut cx = execute::Cx {
                tables,
                now,
                pool,
                out,
            };
            match packet.errand() {
                Errand::Run => self.jobs.push(Job {
                    packet,
                    way: Way::Open(None),
                    handed: true,
                }),
                Errand::Meet => self.meet(packet, now),
                Errand::Wait { queue, from } => {
                    let lane = Lane::from_number(queue);
                    self.hands.lodge(lane, WorkerId(from), packet, &mut cx);
                }
                Errand::Waited { queue } => {
                    let lane = Lane::from_number(queue);
                    self.hands.go_on(&mut self.programs, lane, packet, &mut cx);
                }
            }
        }
        self.lookup(tables, now);
        self.resolve(tables, now);
        self.apply(tables, now, pool, out);
    }

    /// Says on which network a frame from the tunnel is, and adds it to a batch; what is on none is dropped and counted.
    ///
    /// # Errors
    /// Gives the frame back when the batch is full.
    pub fn enter_tunnel(
        &mut self,
        tables: &Tables,
        frame: Tunnelled,
        batch: &mut Batch,
        now: Now,
        pool: &mut PacketPool,
    ) -> Result<(), Tunnelled> {
        if batch.is_full() {
            return Err(frame);
        }
        let Tunnelled {
            mut packet,
            vni,
            vtep,
        } = frame;
        let Some(network) = tables.network_of(vni) else {
            self.refuse_rx(packet, DropReason::UnknownVni, now, pool);
            return Ok(());
        };
        packet.set_origin(Origin::Tunnel(network.dense));
        clamp(&mut packet, network.mtu);
        self.hands.counters.tunnel_rx(tables, vtep);
        batch
            .push(packet)
            .map_err(|packet| Tunnelled { packet, vni, vtep })
    }

    /// Counts a frame that a device or the underlay gave up while reading.
    pub fn refuse_rx(
        &mut self,
        packet: Packet,
        reason: DropReason,
        now: Now,
        pool: &mut PacketPool,
    ) {
        self.hands.ledger.rx += u64::from(packet.segments());
        let refusal = Refusal::new(reason, Stage::Io);
        self.hands.drop(packet, &refusal, now, pool);
    }

    /// Counts a frame that was handed out for a port but could not be sent.
    pub fn refuse_tx(
        &mut self,
        packet: Packet,
        port: PortId,
        reason: DropReason,
        now: Now,
        pool: &mut PacketPool,
    ) {
        let (segments, bytes) = (u64::from(packet.segments()), packet.wire_bytes());
        self.hands.ledger.tx = self.hands.ledger.tx.saturating_sub(segments);
        self.hands.counters.untransmit(port, segments, bytes);
        let refusal = Refusal::new(reason, Stage::Egress).at(port);
        self.hands.drop(packet, &refusal, now, pool);
    }

    /// Counts a frame that was handed out for the tunnel but could not be sent. `room`: the largest IP packet that goes to its VTEP
    /// whole, where that is known: the sender of a larger one is told.
    pub fn refuse_tunnel(
        &mut self,
        tables: &Tables,
        Unsent {
            frame,
            reason,
            room,
        }: Unsent,
        now: Now,
        pool: &mut PacketPool,
        out: &mut Out,
    ) {
        let segments = u64::from(frame.packet.segments());
        self.hands.ledger.tx = self.hands.ledger.tx.saturating_sub(segments);
        if let (DropReason::MtuExceeded, Some(room)) = (reason, room) {
            let sent_as = self.sent_as(tables, &frame.packet);
            let mut cx = execute::Cx {
                tables,
                now,
                pool,
                out,
            };
            return self.hands.too_big(frame.packet, room, sent_as, &mut cx);
        }
        let refusal = Refusal::new(reason, Stage::Egress);
        self.hands.drop(frame.packet, &refusal, now, pool);
    }

    /// The tuple of a packet on its way out as its workload sent it; `None` where it was not translated.
    fn sent_as(&self, tables: &Tables, packet: &Packet) -> Option<FiveTuple> {
        let Origin::Port(port) = packet.origin() else {
            return None;
        };
        let zone = tables.port(port)?.zone;
        let answer = packet.key().five_tuple()?.reversed();
        let hit = self.conntrack.lookup(zone, &answer)?;
        let entry = self.conntrack.entry(hit.conn)?;
        entry.binding()?;
        Some(*entry.side(hit.side.other()).tuple())
    }

    /// Counts a packet whose way to another worker is full.
    pub fn refuse_handed(&mut self, packet: Packet, now: Now, pool: &mut PacketPool) {
        let segments = u64::from(packet.segments());
        self.hands.ledger.handed_over = self.hands.ledger.handed_over.saturating_sub(segments);
        let refusal = Refusal::new(DropReason::HandOverFull, Stage::Egress);
        self.hands.drop(packet, &refusal, now, pool);
    }

    /// 1: parse; refuse the malformed.
    fn admit(&mut self, batch: &mut Batch, now: Now) {
        self.hands.counters.batch(batch.len());
        for mut packet in batch.drain() {
            let admitted = ingress::admit(&mut packet);
            let (segments, bytes) = (u64::from(packet.segments()), packet.wire_bytes());
            self.hands.ledger.rx += segments;
            let mut port = None;
            if let Origin::Port(id) = packet.origin() {
                self.hands.counters.receive(id, segments, bytes);
                port = Some(id);
            }
            let paid = port.is_none_or(|id| {
                self.budgets
                    .take(Payer::From(id), Budget::Packets, packet.segments(), now)
            });
            let admitted = if paid {
                admitted
            } else {
                Err(Budget::Packets.reason())
            };
            let way = match admitted {
                Ok(()) if packet.key().ip_frag != Fragment::Whole as u8 => {
                    self.bring_together(packet, now);
                    continue;
                }
                Ok(()) => Way::Open(None),
                Err(reason) => Way::Drop(Refusal {
                    port,
                    ..Refusal::new(reason, Stage::Ingress)
                }),
            };
            self.jobs.push(Job {
                packet,
                way,
                handed: false,
            });
        }
    }

    /// A fragment goes to where those of its packet meet, which may be here.
    fn bring_together(&mut self, mut packet: Packet, now: Now) {
        let home = self.fragments.home(&packet, self.settings.workers);
        if home == self.settings.worker {
            return self.meet(packet, now);
        }
        packet.set_errand(Errand::Meet);
        self.jobs.push(Job {
            packet,
            way: Way::Hand(home),
            handed: false,
        });
    }

    /// A fragment is here, where those of its packet meet. What goes on goes as if it had just been read: its connection may be at
    /// home elsewhere.
    fn meet(&mut self, mut packet: Packet, now: Now) {
        packet.set_errand(Errand::Run);
        let before = self.fragments.waiting();
        self.fragments.meet(packet, now, &mut self.met);
        // A fragment is one segment.
        let held = self.hands.ledger.held + self.fragments.waiting() as u64;
        self.hands.ledger.held = held.saturating_sub(before as u64);
        for (packet, goes) in self.met.drain(..) {
            let way = match goes {
                Ok(()) => Way::Open(None),
                Err(reason) => Way::Drop(unmet(&packet, reason)),
            };
            self.jobs.push(Job {
                packet,
                way,
                handed: false,
            });
        }
    }

    /// Drops the fragments that waited for their first in vain.
    fn give_up_fragments(&mut self, now: Now, pool: &mut PacketPool) {
        self.fragments.expire(now, &mut self.met);
        for (packet, goes) in self.met.drain(..) {
            let reason = goes.err().unwrap_or(DropReason::FragmentUnmatched);
            let refusal = unmet(&packet, reason);
            self.hands.ledger.held = self.hands.ledger.held.saturating_sub(1);
            self.hands.drop(packet, &refusal, now, pool);
        }
    }

    /// 2: the connection table; one probe yields record and program. All of a batch are looked up before any is followed, so that
    /// the cache misses overlap.
    fn lookup(&mut self, tables: &Tables, now: Now) {
        let mut jobs = std::mem::take(&mut self.jobs);
        for jobs in jobs.chunks_mut(net::batch::BATCH) {
            let mut keys = [None; net::batch::BATCH];
            let mut hits = [None; net::batch::BATCH];
            for (key, job) in keys.iter_mut().zip(&*jobs) {
                if matches!(job.way, Way::Open(_)) {
                    *key = zone_and_tuple(tables, &job.packet);
                }
            }
            let keys = keys.get(..jobs.len()).unwrap_or_default();
            self.conntrack.lookup_batch(keys, &mut hits);
            for ((job, key), hit) in jobs.iter_mut().zip(keys).zip(hits) {
                if matches!(job.way, Way::Open(_)) {
                    job.way = match hit {
                        Some(hit) => self.follow(tables, &job.packet, hit, now),
                        None => Way::Open(*key),
                    };
                }
            }
        }
        self.looked_up = self.conntrack.stats().inserted;
        self.jobs = jobs;
    }

    /// The way of a packet whose connection was found.
    fn follow(&mut self, tables: &Tables, packet: &Packet, hit: Hit, now: Now) -> Way {
        let Some(side) = self.conntrack.side(hit.conn, hit.side) else {
            return Way::Open(None);
        };
        let key = packet.key();
        let program = ProgramId::from_number(side.program());
        let same_ends = side.eth_src() == key.src_mac() && side.eth_dst() == key.dst_mac();
        let translates = match self.programs.find(program, tables) {
            Found::Current(flow) if same_ends && flow.origin == key.origin() => {
                if matches!(flow.verdict, Verdict::Drop(_)) {
                    return Way::Run(program, None);
                }
                flow.translates()
            }
            Found::Current(_) | Found::Stale | Found::Gone => return Way::Judge(hit),
        };
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
                Way::Run(program, to)
            }
            Track::Invalid => Way::Drop(invalid(packet)),
            Track::Renew => Way::Renew,
        }
    }

    fn track(&mut self, packet: &Packet, hit: Hit, now: Now) -> Track {
        let size = (packet.segments(), packet.wire_bytes());
        self.conntrack
            .track(hit, &TrackInput::of(packet), size, now)
    }

    fn close(&mut self, hit: Hit) {
        if let Some(entry) = self.conntrack.close(hit.conn) {
            release(&self.claims, &self.settings, &entry);
        }
    }

    /// 5 and 6: the actions, and who gets what.
    fn apply(&mut self, tables: &Tables, now: Now, pool: &mut PacketPool, out: &mut Out) {
        let Self {
            jobs,
            programs,
            once,
            hands,
            ..
        } = self;
        let mut cx = execute::Cx {
            tables,
            now,
            pool,
            out,
        };
        for mut job in jobs.drain(..) {
            match job.way {
                Way::Run(id, to) => hands.run(programs, id, job.packet, to, &mut cx),
                Way::Once(at, tuples) => match once.get(at) {
                    Some(flow) => hands.run_once(flow, job.packet, tuples, &mut cx),
                    None => hands.lose(job.packet, DropReason::FunctionFault, &mut cx),
                },
                Way::Drop(refusal) => hands.drop(job.packet, &refusal, now, cx.pool),
                Way::Hand(worker) => {
                    hands.ledger.handed_over += u64::from(job.packet.segments());
                    job.packet.add_hop();
                    cx.out.handed.push((worker, job.packet));
                }
                // Resolving left nothing open; if it ever did, the packet has a name all the same.
                Way::Open(_) | Way::Judge(_) | Way::Renew => {
                    hands.lose(job.packet, DropReason::FunctionFault, &mut cx);
                }
            }
        }
        once.clear();
    }

    /// What time brings: silent connections end, held packets go on. Says when to be called again at the latest.
    pub fn tick(
        &mut self,
        tables: &Tables,
        now: Now,
        pool: &mut PacketPool,
        out: &mut Out,
    ) -> Option<Now> {
        if self.seen != tables.version() {
            self.seen = tables.version();
            self.hands.forget(tables);
        }
        if now >= self.next_sweep {
            let (claims, settings) = (&self.claims, &self.settings);
            let swept = self.conntrack.sweep(now, SWEEP_BUDGET, |entry| {
                release(claims, settings, entry);
            });
            self.give_up_fragments(now, pool);
            let pause = if swept.finished {
                SWEEP_EVERY
            } else {
                SWEEP_PIECE
            };
            self.next_sweep = now + pause;
        }
        let mut cx = execute::Cx {
            tables,
            now,
            pool,
            out,
        };
        let released = self.hands.release(&mut self.programs, &mut cx);
        let idle = self.conntrack.is_empty() && self.fragments.is_empty();
        let sweep = (!idle).then_some(self.next_sweep);
        match (released, sweep) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        }
    }

    /// Drops every packet that waits: the switch is shutting down.
    pub fn drain(&mut self, now: Now, pool: &mut PacketPool) {
        self.hands.drain(&mut self.programs, now, pool);
        for packet in self.fragments.drain() {
            self.hands.ledger.held = self.hands.ledger.held.saturating_sub(1);
            let refusal = Refusal::new(DropReason::Shutdown, Stage::Ingress);
            self.hands.drop(packet, &refusal, now, pool);
        }
    }

    /// Is every packet accounted for?
    pub fn ledger(&self) -> &Ledger {
        &self.hands.ledger
    }

    /// What was dropped lately.
    pub fn drops(&self) -> &Drops {
        &self.hands.drops
    }

    /// The counters.
    pub fn counters(&self) -> &Counters {
        &self.hands.counters
    }

    /// The connections.
    pub fn conntrack(&self) -> &Conntrack<M> {
        &self.conntrack
    }

    /// The programs.
    pub fn programs(&self) -> &Programs {
        &self.programs
    }

    /// The megaflows.
    pub fn megaflows(&self) -> &Megaflows {
        &self.megaflows
    }

    /// Its settings.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Gives the connection table's storage back.
    pub fn into_storage(self) -> M {
        self.conntrack.into_storage()
    }
}

/// What the connection of a packet would be known by; `None` for what has none.
fn zone_and_tuple(tables: &Tables, packet: &Packet) -> Option<(Zone, FiveTuple)> {
    let key = packet.key();
    if key.dst_mac().is_multicast() {
        return None;
    }
    let tuple = key.five_tuple()?;
    Some((zone_of(tables, packet)?, tuple))
}

/// The zone in which a packet's connection is looked up: its sender's, or that of the port that it is for.
fn zone_of(tables: &Tables, packet: &Packet) -> Option<Zone> {
    match packet.origin() {
        Origin::Port(port) => tables.port(port).map(|p| p.zone),
        Origin::Tunnel(network) => {
            let fdb = &tables.network(network)?.fdb;
            match fdb.get(packet.key().dst_mac())?.place {
                Place::Local(port) => tables.port(port).map(|p| p.zone),
                Place::Vtep(_) | Place::Virtual => None,
            }
        }
        Origin::Switch => None,
    }
}

/// Claims the tuples of a connection that hash to other workers. `false`: there is no room.
fn claim(claims: &Claims, settings: &Settings, entry: &Entry) -> bool {
    settings.workers <= 1
        || conntrack::Side::BOTH.iter().all(|side| {
            let (zone, tuple) = (entry.side(*side).zone(), *entry.side(*side).tuple());
            home(settings, &tuple) == settings.worker
                || claims.claim(zone, tuple, settings.worker).is_ok()
        })
}

/// Lets go of the tuples that an ended connection claimed.
fn release(claims: &Claims, settings: &Settings, entry: &Entry) {
    if settings.workers > 1 {
        for side in conntrack::Side::BOTH {
            let side = entry.side(side);
            if home(settings, side.tuple()) != settings.worker {
                claims.release(side.zone(), side.tuple(), settings.worker);
            }
        }
    }
}

/// The worker that a tuple hashes to, in either direction.
fn home(settings: &Settings, tuple: &FiveTuple) -> WorkerId {
    let workers = u64::from(settings.workers.max(1));
    let at = tuple.symmetric_hash(settings.seed) % workers;
    WorkerId(u16::try_from(at).unwrap_or(0))
}

/// The worker that has a shaper's queues, so that its rate is one, whichever worker has the connections.
fn shaper_owner(hop: &tables::Hop, workers: u16) -> WorkerId {
    let [.., a, b, c, d] = *hop.function.uuid().as_bytes();
    let at = u32::from_be_bytes([a, b, c, d]) % u32::from(workers.max(1));
    WorkerId(u16::try_from(at).unwrap_or(0))
}

/// A fragment that is dropped without the others of its packet.
fn unmet(packet: &Packet, reason: DropReason) -> Refusal {
    Refusal {
        port: port_of(packet),
        ..Refusal::new(reason, Stage::Ingress)
    }
}

/// The port that a packet came from.
fn port_of(packet: &Packet) -> Option<net::PortId> {
    match packet.origin() {
        Origin::Port(id) => Some(id),
        Origin::Tunnel(_) | Origin::Switch => None,
    }
}

/// A packet that does not belong to the connection whose tuple it shows, or belongs to none and can begin none.
fn invalid(packet: &Packet) -> Refusal {
    Refusal {
        port: port_of(packet),
        ..Refusal::new(DropReason::ConntrackInvalid, Stage::Conntrack)
    }
}

/// Cuts an uncut TCP super-frame of a kernel VTEP at what the network carries. Its sender's segment size did not come with it: the
/// underlay knows only what the path would carry, which may be more than a workload takes.
fn clamp(packet: &mut Packet, mtu: net::Mtu) {
    let mut offload = packet.offload();
    let headers = packet.headers();
    let behind = headers.payload_at.saturating_sub(headers.l3_at);
    if let net::Gso::Tcp { size, .. } = &mut offload.gso
        && behind < mtu.get()
    {
        *size = (*size).min(mtu.get() - behind);
        packet.set_offload(offload);
    }
}
