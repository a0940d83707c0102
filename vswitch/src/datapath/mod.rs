//! How does a batch of packets get from where it entered to where it goes?
//!
//! The packet's corridor, in walking order: [`ingress`] (parse), [`mod@fragments`] (which are one packet), `known` (is its connection known?), [`cache`] (is it decided already?),
//! [`upcall`] (a miss walks the [`tables`] once, see [`mod@walk`]), [`flow`] (the answer), [`execute`] (actions), [`egress`] (who gets
//! what). [`mod@explain`] is the same walk, told. A [`Datapath`] is one worker's: it shares nothing on the way but [`claims`], which
//! only misses read, and does no I/O: packets in, packets out, time is an argument.
//!
//! # Invariants
//! - [`Ledger::balanced`] after every call.
//! - No allocation and no lock for a packet whose flow is known.

mod active;
mod advertise;
mod announce;
mod appliances;
mod awaiting;
pub mod budgets;
pub mod cache;
mod chains;
pub mod claims;
pub mod dns;
pub mod drops;
pub mod egress;
mod errors;
pub mod execute;
pub mod explain;
mod external;
mod fences;
mod floating;
pub mod flow;
pub mod fragments;
mod gate;
mod homes;
pub mod ingress;
mod inspect;
mod known;
pub mod ledger;
mod metadata;
pub mod neighbours;
pub mod probes;
mod queues;
mod rejects;
mod routing;
pub mod sources;
pub mod tables;
mod too_big;
mod transport;
pub mod upcall;
pub mod walk;
mod wire;

#[cfg(test)]
mod tests;

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use hostconfig::share::{OneWay, Use};
use net::{
    Batch, DropReason, Errand, FiveTuple, Now, Origin, Packet, PacketPool, PortId, batch::BATCH,
    rewrite,
};
use nfv::conntrack::{self, Conntrack, Entry, Hit};

pub use budgets::Rates;
pub use claims::{Claims, WorkerId};
pub use drops::{DropRecord, DropText, Drops};
pub use egress::Out;
pub use explain::{Described, Explanation, explain};
pub use flow::{
    Action, CompiledFlow, Half, Handed, Lane, ProgramId, Programs, Refusal, RouterHop, Stage,
    Verdict,
};
pub use ledger::{Ledger, Unbalanced};
pub use tables::{HopId, Lease, MeterId, Tables, ZoneMap};

use advertise::Heralds;
use budgets::{Budget, Budgets, Payer};
use cache::Megaflows;
use execute::Hands;
use fragments::{Fragments, Met, Room};
use homes::{claim, release};
use neighbours::Question;
use tables::{Network, l3::Router, ra::Says};

use crate::{effort::Part, io::Unsent, stats::Counters};

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
    /// The most packets a second that a port sends the metadata service.
    pub metadata_per_second: u32,
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
            metadata_per_second: 1000,
            errors_per_second: 10,
            timeouts: conntrack::Timeouts::default(),
        }
    }
}

/// How often the connection table is swept to its end.
const SWEEP_EVERY: Duration = Duration::from_secs(1);
/// The pause between two pieces of one sweep.
const SWEEP_PIECE: Duration = Duration::from_millis(1);
/// What one piece may cost: well under a millisecond, also when every line of every connection that ends has to come from memory.
const SWEEP_BUDGET: u32 = 2048;

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
    /// An answer that is used once: that about an ICMP error.
    once: Option<CompiledFlow>,
    /// What an inspector said of the packet at hand.
    stopped: Option<inspect::Stopped>,
    inspections: inspect::Inspections,
    tunnel: Option<ingress::Tunnel>,
    chained: Option<transport::Chained>,
    hands: Hands,
    budgets: Budgets,
    surcharge: u32,
    next_sweep: Now,
    heralds: Heralds,
    /// What is to be asked outside in this turn.
    questions: Vec<Question>,
    announcer: announce::Announcer,
    active: active::Active,
    /// The tables' version that the counters are of.
    seen: u64,
}

/// A packet on its way through the rooms. Small, since it is moved: what was found of it stays where it was found.
#[derive(Debug)]
struct Job {
    packet: Packet,
    start: Start,
    handed: bool,
}

impl Job {
    /// One that this worker read itself.
    fn read(packet: Packet, start: Start) -> Self {
        Self {
            packet,
            start,
            handed: false,
        }
    }
}

/// What is known of a packet behind the first room.
#[derive(Debug, Clone, Copy)]
enum Start {
    /// Nothing: its flow is looked up.
    Open,
    /// It ends here.
    Drop(DropReason),
    /// It is another worker's.
    Hand(WorkerId),
}

/// What is known of a packet's way.
#[derive(Debug, Clone, Copy)]
enum Way {
    /// Nothing.
    Open,
    /// It is of this connection, which must be judged again first.
    Judge(Hit),
    /// It begins another connection in place of the one that it was found by, if the tables let it.
    Renew(Hit),
    /// This program, and what its addresses become.
    Run(ProgramId, Option<FiveTuple>),
    /// The answer in `once`, and the connection's tuple on either side of it.
    Once(Option<[FiveTuple; 2]>),
    /// An inspector of this program refused it, as `stopped` says.
    Stop(ProgramId),
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
                conntrack.set_program(conn, side, ProgramId::NONE.number());
            }
            // Claims are this process's too: whoever does not hash here is told where the connection is.
            if claim(&claims, &settings, &entry) {
                claims.sources().keep(&entry);
            } else {
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
            jobs: Vec::with_capacity(BATCH),
            once: None,
            stopped: None,
            inspections: inspect::Inspections::new(),
            tunnel: None,
            chained: None,
            hands: Hands::new(&settings),
            budgets: Budgets::new(settings.rates, settings.workers),
            surcharge: 0,
            next_sweep: now,
            heralds: Heralds::new(settings.seed),
            questions: Vec::new(),
            announcer: announce::Announcer::default(),
            active: active::Active::default(),
            seen: 0,
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
        self.make_room(tables, now, pool, out);
        self.admit(tables, batch, now);
        self.forward(tables, now, pool, out);
    }

    /// What has waited for long enough goes before more comes, which may find no room otherwise: between two ticks a worker may have read
    /// more than a queue holds.
    fn make_room(&mut self, tables: &Tables, now: Now, pool: &mut PacketPool, out: &mut Out) {
        if self.hands.has_waited(now) {
            let mut cx = execute::Cx {
                tables,
                now,
                pool,
                out,
            };
            self.hands.release(&mut self.programs, &mut cx);
        }
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
        self.make_room(tables, now, pool, out);
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
                    start: Start::Open,
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
        self.forward(tables, now, pool, out);
    }

    /// Counts a frame that was handed out for a port but could not be sent.
    pub fn refuse_tx(
        &mut self,
        mut packet: Packet,
        port: PortId,
        reason: DropReason,
        now: Now,
        pool: &mut PacketPool,
    ) {
        if packet.is_labelled() {
            // It is counted as what it was.
            let bore_it = packet.pop_label();
            debug_assert!(bore_it.is_some(), "it was put on here");
        }
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
            mut frame,
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
            let sent = errors::AsSent {
                tuple: self.sent_as(tables, &frame.packet),
                ..errors::before_routing(tables, &frame).unwrap_or_default()
            };
            // Its sender knows no mark of its Ethernet address.
            if let Some((src, _)) = sent.eth {
                rewrite::set_eth_src(&mut frame.packet, src);
            }
            let mut cx = execute::Cx {
                tables,
                now,
                pool,
                out,
            };
            return self.hands.too_big(frame.packet, room, &sent, &mut cx);
        }
        let refusal = Refusal::new(reason, Stage::Egress);
        self.hands.drop(frame.packet, &refusal, now, pool);
    }

    /// The tuple of a packet on its way out as its workload sent it; `None` where it was not translated.
    fn sent_as(&self, tables: &Tables, packet: &Packet) -> Option<FiveTuple> {
        let Origin::Port(port) = packet.origin() else {
            return None;
        };
        let answer = packet.key().five_tuple()?.reversed();
        let found = |zone| self.conntrack.lookup(zone, &answer);
        // What left by a gateway is answered in that one's zone.
        let gateway = || {
            let shows = |r: &&Router| {
                let mut own = r.interfaces.iter();
                own.any(|i| i.outside && i.mac == packet.key().src_mac())
            };
            let router = tables.routers().find(shows)?;
            router.gateway_here().map(|g| g.zone)
        };
        let hit = found(tables.port(port)?.zone).or_else(|| found(gateway()?))?;
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

    /// 2 to 6: the way of each packet, in the order in which they came.
    fn forward(&mut self, tables: &Tables, now: Now, pool: &mut PacketPool, out: &mut Out) {
        let mut cx = execute::Cx {
            tables,
            now,
            pool,
            out,
        };
        let mut jobs = std::mem::take(&mut self.jobs);
        let mut hits = [None; BATCH];
        let mut left = jobs.drain(..);
        while !left.as_slice().is_empty() {
            let ahead = left.as_slice();
            let ahead = ahead.get(..BATCH).unwrap_or(ahead);
            self.look_up(tables, ahead, &mut hits);
            cx.out.meter.lap(Part::Lookup);
            let looked_up = self.conntrack.changes();
            for (job, hit) in left.by_ref().take(BATCH).zip(hits) {
                let way = match job.start {
                    Start::Open => {
                        // A packet before it in this batch may have begun a connection, or ended one.
                        let stands = self.conntrack.changes() == looked_up;
                        let hit = if stands {
                            hit
                        } else {
                            self.look_again(tables, &job.packet)
                        };
                        let known = hit.is_some();
                        if !known {
                            cx.out.meter.lap(Part::Functions);
                        }
                        let way = self.decide(tables, &job, hit, now);
                        if !known {
                            cx.out.meter.lap(Part::Decide);
                        }
                        way
                    }
                    Start::Drop(reason) => Way::Drop(Refusal {
                        port: port_of(&job.packet),
                        ..Refusal::new(reason, Stage::Ingress)
                    }),
                    Start::Hand(worker) => Way::Hand(worker),
                };
                self.apply(way, job.packet, &mut cx);
            }
        }
        drop(left);
        self.hear_members(&mut cx);
        self.hands.settle(&self.programs);
        cx.out.meter.lap(Part::Functions);
        self.jobs = jobs;
    }

    /// 2 to 4: the way of one packet, by its connection if it was found.
    #[inline]
    fn decide(&mut self, tables: &Tables, job: &Job, hit: Option<Hit>, now: Now) -> Way {
        if let Some(brought) = job.packet.brought() {
            return self.bring_in(tables, job, *brought, now);
        }
        let way = match hit {
            Some(hit) => self.follow(tables, &job.packet, hit, now),
            None => Way::Open,
        };
        match way {
            Way::Open => self.upcall(tables, job, now),
            Way::Judge(hit) => self.judge_again(tables, job, hit, now),
            Way::Renew(hit) => self.renew(tables, job, hit, now),
            Way::Run(..) | Way::Once(_) | Way::Stop(_) | Way::Drop(_) | Way::Hand(_) => way,
        }
    }

    /// 5 and 6: the actions, and who gets what.
    #[inline]
    fn apply(&mut self, way: Way, mut packet: Packet, cx: &mut execute::Cx<'_>) {
        let Self {
            programs,
            once,
            stopped,
            hands,
            ..
        } = self;
        match way {
            Way::Run(id, to) => hands.run(programs, id, packet, to, cx),
            Way::Once(tuples) => match once.take() {
                Some(flow) => hands.run_once(programs, &flow, packet, tuples, cx),
                None => hands.lose(packet, DropReason::FunctionFault, cx),
            },
            Way::Stop(id) => match stopped.take() {
                Some(stopped) => hands.stop(programs, id, packet, &stopped, cx),
                None => hands.lose(packet, DropReason::FunctionFault, cx),
            },
            Way::Drop(refusal) => hands.drop(packet, &refusal, cx.now, cx.pool),
            Way::Hand(worker) => {
                hands.ledger.handed_over += u64::from(packet.segments());
                packet.add_hop();
                cx.out.handed.push((worker, packet));
            }
            // Deciding left nothing open; if it ever did, the packet has a name all the same.
            Way::Open | Way::Judge(_) | Way::Renew(_) => {
                hands.lose(packet, DropReason::FunctionFault, cx);
            }
        }
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
            self.hands.forget(tables, now);
            let mut cx = execute::Cx {
                tables,
                now,
                pool,
                out,
            };
            self.take_leave(&mut cx);
            self.follow_outside(tables, now);
            self.follow_members(tables, now);
        }
        if self.programs.is_spent() {
            self.renew_programs();
        }
        if now >= self.next_sweep {
            let (claims, settings) = (&self.claims, &self.settings);
            let (programs, active) = (&self.programs, &mut self.active);
            let ends = |entry: &Entry| release(claims, settings, entry);
            let swept = if tables.hop_bound() == 0 {
                self.conntrack.sweep(now, SWEEP_BUDGET, ends)
            } else {
                let stays = |entry: &Entry| active.count(programs, entry);
                self.conntrack
                    .sweep_and_look(now, SWEEP_BUDGET, ends, stays)
            };
            if swept.finished {
                self.active.show(&mut self.hands.counters);
                let lives = |entry: &Entry| !entry.stage().is_over();
                let conntrack = &self.conntrack;
                self.inspections
                    .sweep(|conn| conntrack.entry(conn).is_some_and(lives));
            }
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
        let advertises = self.advertise(&mut cx);
        let awaits = self.go_on_outside(&mut cx);
        let asks = self.ask_outside(&mut cx);
        let tells = self.announce(&mut cx);
        let probes = self.ask_members(&mut cx);
        let released = self.hands.release(&mut self.programs, &mut cx);
        let idle = self.conntrack.is_empty() && self.fragments.is_empty();
        let sweep = (!idle).then_some(self.next_sweep);
        [released, sweep, advertises, awaits, asks, tells, probes]
            .into_iter()
            .flatten()
            .min()
    }

    /// Places of programs begin to count anew: every id that is kept is forgotten, and each flow judged again.
    fn renew_programs(&mut self) {
        self.hands.settle(&self.programs);
        self.megaflows.clear();
        let kept: Vec<_> = self.conntrack.iter().map(|(conn, _)| conn).collect();
        for conn in kept {
            for side in conntrack::Side::BOTH {
                self.conntrack
                    .set_program(conn, side, ProgramId::NONE.number());
            }
        }
        self.programs.renew();
    }

    /// There is another config: hosts hear of routers that speak to them no more.
    fn take_leave(&mut self, cx: &mut execute::Cx<'_>) {
        let (tables, settings) = (cx.tables, self.settings);
        let mine = |network: &Network| told_by(&settings, network).next().is_some();
        for (network, said) in self.heralds.follow(tables, mine, cx.now) {
            for port in tables
                .network(network)
                .iter()
                .flat_map(|n| told_by(&settings, n))
            {
                self.hands.advertise(port, &said, Says::Leaves, None, cx);
            }
        }
    }

    /// Routers speak to their hosts from time to time, without being asked. When next; `None` where none has to.
    fn advertise(&mut self, cx: &mut execute::Cx<'_>) -> Option<Now> {
        let (tables, settings) = (cx.tables, self.settings);
        for id in self.heralds.due(cx.now) {
            let Some(network) = tables.network_by_id(id) else {
                continue;
            };
            for advertisement in &network.advertisements {
                let says = self.heralds.says(network, advertisement, cx.now);
                for port in told_by(&settings, network) {
                    self.hands.advertise(port, &says, Says::Here, None, cx);
                }
            }
        }
        self.heralds.next()
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

    /// Takes what this host has, in bits a second, of limits that it shares with others, and says what was let through of each since this was last asked.
    pub fn divide(
        &mut self,
        tables: &Tables,
        parts: &BTreeMap<OneWay, u64>,
        now: Now,
    ) -> BTreeMap<OneWay, Use> {
        self.hands.divide(tables, parts, now)
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

    /// What this host knows of the members that it asks.
    pub fn probes(&self) -> &probes::Probes {
        self.claims.probes()
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

/// The ports of a network that hear of its routers from this worker: each from one.
fn told_by<'n>(
    settings: &Settings,
    network: &'n Network,
) -> impl Iterator<Item = PortId> + use<'n> {
    let (me, workers) = (u32::from(settings.worker.0), u32::from(settings.workers));
    let ports = network.flood.ports().iter().copied();
    ports.filter(move |port| port.0 % workers.max(1) == me)
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
