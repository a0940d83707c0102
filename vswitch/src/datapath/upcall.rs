//! 3: What is to be done with a packet whose flow is not known, or known no longer?
//!
//! A miss walks the tables once. What asks to be tracked gets a record, made only now that every table has passed the packet; what
//! does not gets a megaflow. A record whose program's sections changed is judged again, in its original direction: refused now
//! means dropped with that rule's reason, and the record closed.

use net::{
    DropReason, FiveTuple, FlowKey, Id, L4, Now, Origin, Packet, Probe, Zone,
    flow_key::{ethertype, proto},
    ids::kind,
    tcp::flag,
};
use nfv::{
    buckets::{self, Empty},
    conntrack::{
        Begin, ConnId, Entrance, Entry, Hit, NewConn, Owner, Refused, Side, SideEntry, Track,
        TrackInput,
    },
};
use overlay::Place;

use super::{
    Action, Budget, CompiledFlow, Datapath, Job, Payer, ProgramId, Refusal, Stage, Verdict, Way,
    WorkerId,
    errors::Told,
    flow::Found,
    homes::{home, release, release_tuples},
    invalid,
    known::zone_and_tuple,
    neighbours::Outside,
    port_of, queues,
    sources::Lender,
    tables::{Leg, Tables, l3::Target},
    walk::{Holder, Known, Lent, Outcome, Token, Tracking, walk},
};

/// How often a packet is handed over for a shaper's sake: workers that see different tables must not pass it round for ever.
const MAX_HANDS: u8 = 3;
/// How often a connection is to begin before its NAT is said to be exhausted.
const MAX_ATTEMPTS: u8 = 4;
/// How many appliances' records are followed back.
const MAX_PARTS: u8 = 32;

/// What a miss costs beyond what a known packet does, in such packets.
const MISS: u32 = 9;
/// How many rules are compared one by one in the time of a known packet.
const STEPS: u32 = 16;

/// Why a connection that is judged again has no program.
#[derive(Debug)]
enum Unjudged {
    /// It is refused now.
    Refused(Refusal),
    /// It is no longer tracked, or begins elsewhere, or with other addresses, than its record says.
    Elsewhere,
    /// It goes to another workload, and can begin there with this packet.
    Moved(Box<(CompiledFlow, Tracking)>),
    /// It goes to another workload, which tracks it, and this packet begins nothing.
    Midway,
    /// It goes to another instance of an appliance than before, or to none any more.
    Rerouted,
    /// A neighbour on a wire does not answer, or not yet: what is said of that.
    Unreachable(ProgramId, Refusal),
}

/// A connection that is to begin.
#[derive(Debug, Clone, Copy)]
struct Attempt {
    /// Whose budget it is taken from.
    payer: Payer,
    /// Which attempt it is, from 0.
    number: u8,
    /// The replies' tuple of the one in whose place it begins, if a NAT gave that a source.
    forerunner: Option<FiveTuple>,
    /// Does it go on where a record of it ended? Then it may begin in the middle.
    resumes: bool,
}

impl<M: AsRef<[Entry]> + AsMut<[Entry]>> Datapath<M> {
    /// What the runs since this was last asked cost beyond their packets, in packets' worth.
    pub fn surcharge(&mut self) -> u32 {
        std::mem::take(&mut self.surcharge)
    }

    /// How many packets were dropped since this was last asked.
    pub fn dropped(&mut self) -> u32 {
        std::mem::take(&mut self.hands.dropped)
    }

    /// A packet whose connection is not known: it is another worker's, or speaks of a connection, or its flow was decided without
    /// one, or it is the first of its flow.
    #[inline]
    pub(super) fn upcall(&mut self, tables: &Tables, job: &Job, now: Now) -> Way {
        let packet = &job.packet;
        let icmp = matches!(packet.headers().l4, L4::Icmp | L4::Icmp6);
        if (icmp || self.settings.workers > 1)
            && tracks(tables, packet)
            && let Some(way) = self.belongs(tables, job, now)
        {
            return way;
        }
        if let Some(program) = self.megaflows.find(packet.key()) {
            if self.hands.running(program).is_some()
                || self.programs.gate(program, tables).is_some()
            {
                self.hands.counters.lookups.megaflow += 1;
                return Way::Run(program, None);
            }
            self.megaflows.remove(packet.key());
        }
        self.first(tables, job, now)
    }

    /// Is it at home elsewhere, or an error about a known connection?
    fn belongs(&mut self, tables: &Tables, job: &Job, now: Now) -> Option<Way> {
        let packet = &job.packet;
        let (zone, tuple) = zone_and_tuple(tables, packet)?;
        if let Some(leg) = egress_leg(tables, packet.origin())
            && let Some(worker) = self.elsewhere(leg.zone, &tuple.reversed(), job.handed)
        {
            return Some(Way::Hand(worker));
        }
        // An ICMP error is at home where the connection is that it speaks of.
        let quoted = packet.headers().quoted(packet.bytes());
        let of = quoted.map_or(tuple, |q| q.tuple.reversed());
        match self.elsewhere(zone, &of, job.handed) {
            Some(worker) => Some(Way::Hand(worker)),
            None => self.related(tables, packet, zone, now),
        }
    }

    /// Is another worker home to this connection?
    pub(super) fn elsewhere(
        &self,
        zone: Zone,
        tuple: &FiveTuple,
        handed: bool,
    ) -> Option<WorkerId> {
        if self.settings.workers <= 1 {
            return None;
        }
        let me = self.settings.worker;
        let home = self.home(tuple);
        if !handed && home != me {
            return Some(home);
        }
        // Its home knows whether another claimed it; whoever was handed it by its home keeps it.
        (home == me)
            .then(|| self.claims.owner(zone, tuple))
            .flatten()
            .filter(|w| *w != me)
    }

    /// The first packet of a flow.
    pub(super) fn first(&mut self, tables: &Tables, job: &Job, now: Now) -> Way {
        self.unknown(tables, job, None, false, now)
    }

    /// The first packet of a connection in place of one that is over, whose source it may have.
    pub(super) fn renew(&mut self, tables: &Tables, job: &Job, over: Hit, now: Now) -> Way {
        let over = self.conntrack.entry(over.conn);
        let hidden = over.filter(|entry| self.claims.sources().has(entry));
        let forerunner = hidden.map(|entry| *entry.side(Side::Reply).tuple());
        self.unknown(tables, job, forerunner, false, now)
    }

    /// Where a NAT chose a source that another worker's connection got meanwhile, it chooses anew.
    fn unknown(
        &mut self,
        tables: &Tables,
        job: &Job,
        forerunner: Option<FiveTuple>,
        resumes: bool,
        now: Now,
    ) -> Way {
        let payer = payer(tables, &job.packet);
        if let Err(refusal) = self.pay(payer, Budget::Misses, now) {
            return Way::Drop(refusal);
        }
        self.hands.counters.lookups.upcall += 1;
        let way = (0..MAX_ATTEMPTS).find_map(|number| {
            let attempt = Attempt {
                payer,
                number,
                forerunner,
                resumes,
            };
            self.attempt(tables, job, attempt, now)
        });
        way.unwrap_or_else(|| {
            let refusal = Refusal::new(DropReason::NatExhausted, Stage::Conntrack);
            Way::Drop(Refusal {
                port: port_of(&job.packet),
                ..refusal
            })
        })
    }

    fn attempt(&mut self, tables: &Tables, job: &Job, attempt: Attempt, now: Now) -> Option<Way> {
        let packet = &job.packet;
        let before = match self.placed(tables, packet, now) {
            Ok(before) => before,
            Err(refusal) => return Some(Way::Drop(refusal)),
        };
        let mut probe = Probe::new(packet.key());
        let lent = Lent {
            sources: Some(self.lender(attempt.forerunner)),
            attempt: attempt.number,
            before: before.as_ref(),
            ..self.lent(now, Known::New)
        };
        let Outcome {
            mut flow,
            tracking,
            tokens,
        } = walk(tables, &mut probe, &mut (), lent);
        self.surcharge = self
            .surcharge
            .saturating_add(MISS)
            .saturating_add(probe.steps() / STEPS);
        let Some(tracking) = tracking else {
            let (mask, lasts) = (flow.mask, lasts(&flow) && before.is_none());
            let program = self.intern(flow, tables, now);
            if lasts {
                self.megaflows.insert(packet.key(), mask, program);
            }
            return Some(Way::Run(program, None));
        };
        // It ends at a router on its way, and so begins nothing.
        if flow.expires_at(packet.key().ip_ttl).is_some() {
            return Some(Way::Run(self.intern(flow, tables, now), None));
        }
        // Only here is the record of where it was handed over.
        if before.is_none()
            && packet.hops() < MAX_HANDS
            && let Some(worker) = self.begins_elsewhere(tables, attempt, &flow, &tracking)
        {
            return Some(Way::Hand(worker));
        }
        let first = TrackInput::of(packet);
        let resumes = before.is_some() || attempt.resumes;
        let begins = match first.begins() {
            Begin::Invalid if resumes && matches!(first, TrackInput::Tcp(_)) => Begin::Tracked,
            begins @ (Begin::Tracked | Begin::Untracked | Begin::Invalid) => begins,
        };
        match begins {
            Begin::Tracked => {
                if let Err(refusal) = self.pay_once(attempt, now) {
                    return Some(Way::Drop(refusal));
                }
                if let Err(refusal) = self.take_once(attempt, &tracking, &tokens, now) {
                    flow.refuse(refusal);
                    flow.tracked = false;
                    return Some(Way::Run(self.intern(flow, tables, now), None));
                }
                self.begin_with_source(tables, packet, flow, &tracking, now)
            }
            // It stands alone: nothing to remember, and so nothing that could be translated back.
            Begin::Untracked if !flow.translates() && flow.handed.is_none() => {
                Some(Way::Run(self.intern(flow, tables, now), None))
            }
            Begin::Untracked | Begin::Invalid => Some(Way::Drop(invalid(packet))),
        }
    }

    /// A connection is one, however often it has to choose its source.
    fn pay_once(&mut self, attempt: Attempt, now: Now) -> Result<(), Refusal> {
        if attempt.number > 0 {
            return Ok(());
        }
        self.pay(attempt.payer, Budget::Connections, now)
    }

    /// So it is for what its functions count. And what goes on where its record ended has been counted.
    fn take_once(
        &self,
        attempt: Attempt,
        tracking: &Tracking,
        tokens: &[Token],
        now: Now,
    ) -> Result<(), Refusal> {
        if attempt.number > 0 || attempt.resumes {
            return Ok(());
        }
        let [client, _] = tracking.zones;
        for token in tokens {
            let name = buckets::Name {
                function: token.function,
                of: token.spend.source.map(|source| (client, source)),
            };
            let taken = self.claims.take(name, token.spend.pace, now);
            let reason = match taken {
                Ok(()) => continue,
                Err(Empty::Spent) => DropReason::RateLimited,
                Err(Empty::NoRoom) => DropReason::RateTableFull,
            };
            return Err(Refusal {
                hop: token.hop,
                ..about(tracking.owner, reason, Stage::Chain)
            });
        }
        Ok(())
    }

    /// Takes one from a budget, or says why not.
    fn pay(&mut self, payer: Payer, what: Budget, now: Now) -> Result<(), Refusal> {
        if self.budgets.take(payer, what, 1, now) {
            return Ok(());
        }
        Err(Refusal {
            port: payer.port(),
            ..Refusal::new(what.reason(), Stage::Ingress)
        })
    }

    /// Begins a connection that has the source which a NAT gave it to itself; `None`: another has it.
    fn begin_with_source(
        &mut self,
        tables: &Tables,
        packet: &Packet,
        flow: CompiledFlow,
        tracking: &Tracking,
        now: Now,
    ) -> Option<Way> {
        let Some(holder) = tracking.source else {
            return Some(self.begin(tables, packet, flow, tracking, now));
        };
        let ([client, server], reply) = (tracking.zones, tracking.reply);
        let there = |this: &Self| {
            let hit = this.conntrack.lookup(server, &reply)?;
            this.conntrack.entry(hit.conn).copied()
        };
        let began = packet.key().five_tuple().unwrap_or_default();
        // In place of its own forerunner, which hands the source on when it goes.
        let inherits = there(self)
            .is_some_and(|e| Some(*e.side(Side::Original).tuple()) == packet.key().five_tuple());
        // Or what its server itself began, and shows by another address since.
        let stale = self.conntrack.lookup(server, &reply).map(|hit| hit.conn);
        if let Some(conn) = stale.filter(|_| !inherits)
            && self
                .conntrack
                .lookup(client, &began)
                .is_none_or(|hit| hit.conn != conn)
            && !self.holds(tables, packet, conn, now)
        {
            self.close(Hit {
                conn,
                side: Side::Original,
            });
        }
        // Or its client shows the NAT's address by itself, where nobody keeps it from doing so.
        let query = matches!(packet.headers().l4, L4::Icmp | L4::Icmp6);
        let shown = there(self).is_some_and(|e| !query && !e.stage().is_over());
        let client = (client, &began);
        if !inherits && (shown || !self.claims.sources().take(holder, client, &reply)) {
            return None;
        }
        let way = self.begin(tables, packet, flow, tracking, now);
        let stays = inherits && there(self).is_some();
        if matches!(way, Way::Drop(_)) && !stays {
            self.claims.sources().give_back_key(client, &reply);
        }
        Some(way)
    }

    pub(super) fn begin(
        &mut self,
        tables: &Tables,
        packet: &Packet,
        flow: CompiledFlow,
        tracking: &Tracking,
        now: Now,
    ) -> Way {
        let (key, to) = (packet.key(), tracking.reply.reversed());
        let owner = self.owner(tables, tracking.owner);
        let (Some(tuple), Some(owner)) = (key.five_tuple(), owner) else {
            return Way::Drop(invalid(packet));
        };
        let refused = |reason| Way::Drop(about(tracking.owner, reason, Stage::Conntrack));
        let hops = flow.hops.clone();
        let handed = flow.handed;
        let guest = matches!(*flow.actions, [Action::Carry { back: true, .. }]);
        let program = self.intern(flow, tables, now);
        let [zone, reply_zone] = tracking.zones;
        let ends = (key.src_mac(), key.dst_mac());
        let first = TrackInput::of(packet);
        let new = NewConn {
            sides: [
                SideEntry::new((zone, tuple), ends, program.number(), entrance(packet)),
                SideEntry::new(
                    (reply_zone, tracking.reply),
                    tracking.reply_eth,
                    0,
                    Entrance::Unknown,
                ),
            ],
            owner,
            first,
            // Of what goes on in the middle, or is answered by another way, not every segment is seen.
            whole: first.begins() == Begin::Tracked && handed.is_none_or(|h| h.symmetric) && !guest,
            segments: packet.segments(),
            bytes: packet.wire_bytes(),
        };
        let translated = to != tuple;
        let keys = [(zone, tuple), (reply_zone, tracking.reply)];
        if !self.claim(&keys) {
            self.let_go(&keys);
            return refused(DropReason::ConntrackFull);
        }
        let mut made = self.insert(&new, now);
        if let Err(Refused::Taken(Some(conn))) = made {
            // What is over only waits for stray packets: the newcomer is no stray. And one identifier is one conversation: the last one
            // that was let pass, whichever end asks.
            let query = matches!(new.first, TrackInput::Icmp(_) | TrackInput::Icmp6(_));
            let orphan = handed.is_some() && self.is_orphan(tables, conn);
            let translated = self.conntrack.entry(conn).map(|e| e.binding().is_some());
            let holds = translated == Some(true) && self.holds(tables, packet, conn, now);
            let over = self.conntrack.entry(conn).is_none_or(|e| {
                let sent = e.side(Side::Original);
                let same = (sent.zone(), *sent.tuple()) == (zone, tuple);
                // Two in one appliance can't be told apart when they come back.
                let distinct = !guest && (handed.is_none() || same);
                // A translated one shows other ends than the newcomer: it goes if what translates it does.
                let stale = if e.binding().is_some() {
                    !holds
                } else {
                    has_moved(e, &new.sides)
                };
                orphan || e.stage().is_over() || distinct && (query || stale)
            });
            if !over && (guest || handed.is_some()) {
                self.let_go(&keys);
                return refused(DropReason::ChainPlaceAmbiguous);
            }
            if over {
                if !self.make_way(conn, &keys, tracking.source) {
                    self.let_go(&keys);
                    return refused(DropReason::NatExhausted);
                }
                made = self.insert(&new, now);
            }
        }
        match made {
            Ok(conn) => {
                for hop in hops {
                    self.hands.counters.hop(hop).connections += 1;
                }
                let hit = Hit {
                    conn,
                    side: Side::Original,
                };
                self.inspect_first(tables, packet, hit, (program, translated.then_some(to)))
            }
            Err(refusal) => {
                self.let_go(&keys);
                refused(refusal.into())
            }
        }
    }

    /// Would a connection still begin as its record says?
    fn holds(&mut self, tables: &Tables, packet: &Packet, conn: ConnId, now: Now) -> bool {
        let Some(entry) = self.conntrack.entry(conn).copied() else {
            return false;
        };
        let hit = Hit {
            conn,
            side: Side::Reply,
        };
        let judged = self.forward_program(tables, packet, hit, &entry, now);
        matches!(judged, Ok(_) | Err(Unjudged::Unreachable(..)))
    }

    /// Does a record begin at an appliance to which nothing was handed over for it, or that is gone?
    fn is_orphan(&self, tables: &Tables, conn: ConnId) -> bool {
        let Some(entry) = self.conntrack.entry(conn) else {
            return true;
        };
        if self.is_guest(entry) {
            return false;
        }
        let side = entry.side(Side::Original);
        match origin_of(tables, side) {
            Some(origin) => egress_leg(tables, origin).is_some_and(|leg| {
                let before = self.conntrack.lookup(leg.zone, &side.tuple().reversed());
                before.is_none_or(|hit| hit.conn == conn)
            }),
            None => true,
        }
    }

    /// Whom a connection counts for, and how many that one may have: a gateway as many as its project.
    fn owner(&self, tables: &Tables, holder: Holder) -> Option<Owner> {
        let project_limit = self.settings.project_connections;
        let (zone, port_limit, project) = match holder {
            Holder::Port(port) => {
                let port = tables.port(port)?;
                (port.zone, port.max_connections, port.project)
            }
            Holder::Gateway(router) => {
                let router = tables.router(router)?;
                (router.gateway_here()?.zone, project_limit, router.project)
            }
        };
        Some(Owner {
            // The zone is kept by the agent and never reused while a record names it; dense ids are not.
            port: net::PortId(zone.0),
            port_limit,
            project: project_number(project),
            project_limit,
        })
    }

    /// Ends a connection for the one that begins in its place, which keeps what both have: claims, and the source that a NAT gave.
    /// `false`: the source went to another.
    fn make_way(
        &mut self,
        conn: ConnId,
        keys: &[(Zone, FiveTuple); 2],
        holder: Option<Id<kind::Port>>,
    ) -> bool {
        let Some(entry) = self.conntrack.close(conn) else {
            return true;
        };
        release_tuples(&self.claims, &self.settings, &entry, keys);
        let [(client, began), (_, reply)] = keys;
        let sources = self.claims.sources();
        if let Some(holder) = holder {
            return sources.hand_on(&entry, holder, (*client, began), reply);
        }
        sources.give_back(&entry);
        true
    }

    /// Lets go of what was claimed for a connection that did not come about; a tuple that another one has stays its.
    fn let_go(&self, keys: &[(Zone, FiveTuple)]) {
        for (zone, tuple) in keys {
            if self.conntrack.lookup(*zone, tuple).is_none() {
                self.claims.release(*zone, tuple, self.settings.worker);
            }
        }
    }

    /// Claims those tuples of a connection that hash to another worker; `false` when there is no room.
    fn claim(&self, keys: &[(Zone, FiveTuple)]) -> bool {
        let me = self.settings.worker;
        self.settings.workers <= 1
            || keys
                .iter()
                .filter(|(_, tuple)| self.home(tuple) != me)
                .all(|(zone, tuple)| self.claims.claim(*zone, *tuple, me).is_ok())
    }

    /// At which other worker a connection begins that does not begin at its home.
    fn begins_elsewhere(
        &self,
        tables: &Tables,
        attempt: Attempt,
        flow: &CompiledFlow,
        tracking: &Tracking,
    ) -> Option<WorkerId> {
        if self.settings.workers <= 1 {
            return None;
        }
        let owner = Self::shaped_at(tables, flow, self.settings.workers);
        // What begins in place of another stays where that one's source is, and what chooses another source where it does.
        let fresh = attempt.forerunner.is_none() && !attempt.resumes && attempt.number == 0;
        let worker = owner.or_else(|| {
            let forwarded = tracking.forwarded && fresh;
            forwarded.then(|| self.answered_at(tracking))
        });
        worker.filter(|worker| *worker != self.settings.worker)
    }

    /// Where answers to what was forwarded are looked up first: who is answered may have a connection there by the same tuple, which it began itself,
    /// and only that worker knows of it.
    fn answered_at(&self, tracking: &Tracking) -> WorkerId {
        let ([_, server], reply) = (tracking.zones, &tracking.reply);
        let owner = self.claims.owner(server, reply);
        owner.unwrap_or_else(|| self.home(reply))
    }

    /// A connection that begins with a queue in its way begins at the first one's owner: its packets need not go there to wait.
    fn shaped_at(tables: &Tables, flow: &CompiledFlow, workers: u16) -> Option<WorkerId> {
        let lane = flow.actions.iter().find_map(|action| match action {
            Action::Queue(lane) => Some(*lane),
            Action::Translate
            | Action::Resolve(_)
            | Action::SetEth { .. }
            | Action::SetDscp(_)
            | Action::Copy { .. }
            | Action::Inspect { .. }
            | Action::Route(_)
            | Action::Label(_)
            | Action::Output(_)
            | Action::Tunnel { .. }
            | Action::Carry { .. }
            | Action::Wire(_)
            | Action::Refuse(_)
            | Action::AnswerArp(_)
            | Action::AnswerNd { .. }
            | Action::AnswerRs(_)
            | Action::Hear
            | Action::AnswerPing
            | Action::AnswerDhcp { .. }
            | Action::AnswerDhcp6(_)
            | Action::AnswerNames(_)
            | Action::Metadata
            | Action::HandBack(_) => None,
        })?;
        queues::owner(tables, lane, workers)
    }

    fn home(&self, tuple: &FiveTuple) -> WorkerId {
        home(&self.settings, tuple)
    }

    /// Takes a program in. Another may go for it: what was not yet counted of that is.
    pub(super) fn intern(&mut self, flow: CompiledFlow, tables: &Tables, now: Now) -> ProgramId {
        self.hands.settle(&self.programs);
        self.programs.intern(flow, tables, now)
    }

    fn insert(&mut self, new: &NewConn, now: Now) -> Result<ConnId, Refused> {
        let (claims, settings) = (&self.claims, &self.settings);
        self.conntrack
            .insert(new, now, |evicted| release(claims, settings, evicted))
    }

    /// A packet of a connection whose program is not known, not current, or was made for other Ethernet addresses.
    pub(super) fn judge_again(&mut self, tables: &Tables, job: &Job, hit: Hit, now: Now) -> Way {
        let packet = &job.packet;
        let Some(entry) = self.conntrack.entry(hit.conn).copied() else {
            return self.first(tables, job, now);
        };
        if let Some(refusal) = self.mislabelled(tables, packet, hit) {
            return Way::Drop(refusal);
        }
        self.hands.counters.lookups.upcall += 1;
        if let Some(way) = self.bring_back(tables, packet, (hit, &entry), now) {
            return way;
        }
        // A stranger's packet that shows the tuple is judged, but can't end the connection that it imitates.
        let stranger = hit.side == Side::Original && !self.is_own(hit, packet);
        if stranger && let Err(refusal) = self.pay(payer(tables, packet), Budget::Misses, now) {
            return Way::Drop(refusal);
        }
        let (forward, judged) = match self.forward_program(tables, packet, hit, &entry, now) {
            Ok(judged) => judged,
            Err(why) => return self.unjudged(tables, job, (hit, &entry), stranger, why, now),
        };
        let mut tracking = judged;
        let program = match hit.side {
            Side::Original => forward,
            Side::Reply => {
                let Some(flow) = self.programs.get(forward).cloned() else {
                    return Way::Drop(invalid(packet));
                };
                let before = match self.part_before(tables, packet, &entry, 0, now) {
                    Ok(before) => before,
                    Err(refusal) => return Way::Drop(refusal),
                };
                let known = Known::Reply {
                    entry: &entry,
                    forward: &flow,
                };
                let lent = Lent {
                    before: before.as_ref(),
                    after: flow.handed,
                    ..self.lent(now, known)
                };
                let outcome = walk(tables, &mut Probe::new(packet.key()), &mut (), lent);
                if let Verdict::Drop(refusal) = outcome.flow.verdict
                    && refusal.reason == DropReason::ChainLabelWrong
                {
                    return Way::Drop(refusal);
                }
                if let Verdict::Drop(refusal) = outcome.flow.verdict
                    && (refusal.reason == DropReason::NatAddressGone
                        || refusal.stage == Stage::Firewall)
                {
                    // Whoever asks again begins anew, where it is translated now; what a router's firewall refuses by now has ended.
                    if refusal.stage == Stage::Firewall || begins_anew(packet) {
                        self.close(hit);
                    }
                    return Way::Drop(refusal);
                }
                tracking = outcome.tracking;
                let program = self.intern(outcome.flow, tables, now);
                self.remember(hit, packet, program);
                program
            }
        };
        if self
            .programs
            .get(program)
            .is_none_or(|f| f.verdict != Verdict::Deliver)
        {
            return Way::Run(program, None);
        }
        match self.track(packet, hit, now) {
            Track::Ok => {
                if let Some(tracking) = tracking.filter(|_| self.is_own(hit, packet)) {
                    self.turn(tables, hit, &entry, tracking);
                }
                if tracking.is_some_and(|t| t.zones == zones_from(&entry, hit.side)) {
                    self.adopt(tables, packet, hit, &entry, program);
                }
                let to = entry.binding().map(|_| entry.translated(hit.side));
                self.inspect_again(tables, packet, hit, (program, to))
            }
            Track::Invalid => self
                .condemned(packet, hit, program)
                .unwrap_or_else(|| self.invalid(packet, hit)),
            Track::Renew => self.renew(tables, job, hit, now),
        }
    }

    /// Did the packet come out of an appliance otherwise labelled than its connection's packets do, as far as that is known?
    fn mislabelled(&self, tables: &Tables, packet: &Packet, hit: Hit) -> Option<Refusal> {
        let (port, key) = (port_of(packet)?, packet.key());
        let side = self.conntrack.side(hit.conn, hit.side)?;
        let id = ProgramId::from_number(side.program());
        let flow = self.programs.get(id).filter(|flow| {
            flow.origin == key.origin() && flow.path != key.path && flow.is_current(tables)
        });
        flow.map(|_| Refusal::new(DropReason::ChainLabelWrong, Stage::Chain).at(port))
    }

    /// A packet of a connection that has no program: what becomes of both.
    fn unjudged(
        &mut self,
        tables: &Tables,
        job: &Job,
        (hit, entry): (Hit, &Entry),
        stranger: bool,
        why: Unjudged,
        now: Now,
    ) -> Way {
        let packet = &job.packet;
        let refusal = match why {
            // Its sender hears of it as of a first packet; it is not the server's business.
            Unjudged::Unreachable(program, refusal) => {
                let waits = refusal.reason == DropReason::NeighbourUnresolved;
                return if waits || hit.side == Side::Original {
                    Way::Run(program, None)
                } else {
                    Way::Drop(refusal)
                };
            }
            Unjudged::Moved(moved) => {
                let (flow, tracking) = *moved;
                return self.begin_anew(tables, packet, hit, (flow, &tracking), now);
            }
            Unjudged::Rerouted if hit.side == Side::Original && !stranger => {
                self.close(hit);
                return self.unknown(tables, job, None, true, now);
            }
            // As if that workload were on another host: its record, which is its client's too, goes on if the route comes back. And
            // what goes to another appliance: whoever began it goes on by the other way first.
            Unjudged::Midway | Unjudged::Rerouted => return Way::Drop(invalid(packet)),
            // What an appliance labels wrongly ends no connection.
            Unjudged::Refused(refusal) if refusal.reason == DropReason::ChainLabelWrong => {
                return Way::Drop(refusal);
            }
            // What it was hidden behind left this host: whoever has that address now is asked.
            Unjudged::Refused(refusal)
                if refusal.reason == DropReason::NatAddressGone
                    && hit.side == Side::Reply
                    && matches!(packet.origin(), Origin::Port(_))
                    && leads_outside(tables, entry) =>
            {
                None
            }
            Unjudged::Refused(refusal)
                if refusal.reason == DropReason::NatAddressGone
                    && hit.side == Side::Reply
                    && !begins_anew(packet) =>
            {
                return Way::Drop(refusal);
            }
            Unjudged::Refused(refusal) => Some(refusal),
            // Out of a tunnel it came to who had what translated it: by another address nobody was asked.
            Unjudged::Elsewhere
                if hit.side == Side::Reply
                    && matches!(packet.origin(), Origin::Tunnel(_))
                    && entry.binding().is_some()
                    && leads_outside(tables, entry) =>
            {
                let refusal = Refusal::new(DropReason::NatAddressGone, Stage::L3);
                if !begins_anew(packet) {
                    return Way::Drop(refusal);
                }
                Some(refusal)
            }
            Unjudged::Elsewhere => None,
        };
        if !stranger {
            self.close(hit);
        }
        // A router that has no way for it any more says so, as it does of a first packet.
        let sent = entry.side(Side::Original).tuple();
        let sent_to = (sent.dst_addr(), sent.dst_port);
        let redirected = entry.binding().is_some_and(|to| to.dst != sent_to);
        let own_way = hit.side == Side::Original && !redirected;
        let told = refusal.is_some_and(|r| own_way && Told::of(r.reason).is_some());
        match refusal {
            None if !stranger => self.first(tables, job, now),
            Some(_) if told => self.first(tables, job, now),
            _ => Way::Drop(refusal.unwrap_or_else(|| invalid(packet))),
        }
    }

    /// Begins a connection anew where its route leads now, in place of what it was, with the source that it showed.
    fn begin_anew(
        &mut self,
        tables: &Tables,
        packet: &Packet,
        hit: Hit,
        (flow, tracking): (CompiledFlow, &Tracking),
        now: Now,
    ) -> Way {
        let Some(tuple) = packet.key().five_tuple() else {
            return Way::Drop(invalid(packet));
        };
        let ([client, server], reply) = (tracking.zones, tracking.reply);
        let keys = [(client, tuple), (server, reply)];
        if !self.make_way(hit.conn, &keys, tracking.source) {
            let reason = DropReason::NatExhausted;
            return Way::Drop(about(tracking.owner, reason, Stage::Conntrack));
        }
        let way = self.begin(tables, packet, flow, tracking, now);
        if matches!(way, Way::Drop(_)) && tracking.source.is_some() {
            self.claims
                .sources()
                .give_back_key((client, &tuple), &reply);
        }
        way
    }

    /// An end whose Ethernet address changed in the middle of the connection (a pair that failed over, another gateway): every table
    /// let its packet pass between the same zones, and it belongs to the connection. So the record shows the new address.
    fn adopt(
        &mut self,
        tables: &Tables,
        packet: &Packet,
        hit: Hit,
        entry: &Entry,
        program: ProgramId,
    ) {
        let key = packet.key();
        let before = ProgramId::from_number(entry.side(hit.side).program());
        let origin = self.programs.get(before).map(|f| f.origin);
        let origin = origin.or_else(|| origin_of(tables, entry.side(hit.side)));
        // The same zone has packets of its port and packets for it: one that only imitates comes from elsewhere.
        if self.is_own(hit, packet) || origin != Some(key.origin()) {
            return;
        }
        self.conntrack
            .set_ethernet(hit.conn, hit.side, (key.src_mac(), key.dst_mac()));
        self.remember(hit, packet, program);
        // Replies are given the addresses of the original side where they are translated.
        if hit.side == Side::Original && entry.binding().is_some() {
            let none = ProgramId::NONE.number();
            self.conntrack.set_program(hit.conn, Side::Reply, none);
        }
    }

    /// A gateway that hides nothing came to this host, or left it: what comes from the far end comes by another way than before, and the
    /// record knows it in that way's zone. Where another connection is known there, it stays as it is, and such packets are that one's.
    fn turn(
        &mut self,
        tables: &Tables,
        hit: Hit,
        entry: &Entry,
        Tracking {
            zones: [home, zone],
            reply_eth,
            received,
            ..
        }: Tracking,
    ) {
        let [near, far] = [hit.side, hit.side.other()].map(|side| entry.side(side));
        if home != near.zone() || zone == far.zone() {
            return;
        }
        // Where the other end is a workload of this host that asks for it, that one judges what it gets.
        if entry.binding().is_some() || received {
            return;
        }
        // The part of a way between appliances is no gateway's, wherever they are.
        let appliance = |z: Zone| {
            let port = tables.port_of_zone(z);
            port.is_some_and(|port| tables.leg(port).is_some())
        };
        if [near.zone(), far.zone(), zone].into_iter().any(appliance) {
            return;
        }
        let met = |z: Zone| z != home && tables.ports().any(|port| port.zone == z);
        // And what one of this host began stays its own, whatever its server says.
        if hit.side == Side::Reply && met(far.zone()) {
            return;
        }
        let tuple = *far.tuple();
        let (before, now) = ((far.zone(), tuple), (zone, tuple));
        if self.conntrack.lookup(zone, &tuple).is_some() || !self.claim(&[now]) {
            return;
        }
        let entrance = if met(zone) {
            Entrance::Port
        } else {
            Entrance::Tunnel
        };
        let none = ProgramId::NONE.number();
        let turned = self.conntrack.set_zone(
            hit.conn,
            hit.side.other(),
            (zone, entrance),
            reply_eth,
            none,
        );
        if turned && hit.side == Side::Reply {
            // It was made beside what the other side had.
            self.conntrack.set_program(hit.conn, Side::Reply, none);
        }
        self.let_go(&[if turned { before } else { now }]);
    }

    /// What a walk is lent for a connection that is known.
    fn lent<'a>(&'a self, now: Now, known: Known<'a>) -> Lent<'a> {
        Lent {
            now,
            known,
            sources: Some(self.lender(None)),
            attempt: 0,
            before: None,
            after: None,
            had: None,
        }
    }

    fn lender(&self, forerunner: Option<FiveTuple>) -> Lender<'_> {
        Lender {
            claims: &self.claims,
            settings: &self.settings,
            forerunner,
        }
    }

    /// The part of its way that a packet has behind it which comes out of an appliance; `None`: it was not handed over.
    fn placed(
        &mut self,
        tables: &Tables,
        packet: &Packet,
        now: Now,
    ) -> Result<Option<CompiledFlow>, Refusal> {
        let leg = egress_leg(tables, packet.origin());
        let Some((leg, tuple)) = leg.zip(packet.key().five_tuple()) else {
            return Ok(None);
        };
        let ends = (packet.key().src_mac(), packet.key().dst_mac());
        self.handed_over(tables, packet, leg, &tuple, ends, 0, now)
    }

    /// The part of a connection's way before this one, which begins at an appliance; `None`: it does not.
    fn part_before(
        &mut self,
        tables: &Tables,
        packet: &Packet,
        entry: &Entry,
        depth: u8,
        now: Now,
    ) -> Result<Option<CompiledFlow>, Refusal> {
        let side = entry.side(Side::Original);
        if !tables.has_legs() {
            return Ok(None);
        }
        let port = tables.port_of_zone(side.zone());
        let leg = port.and_then(|port| egress_leg(tables, Origin::Port(port)));
        let Some(leg) = leg else {
            return Ok(None);
        };
        let ends = (side.eth_src(), side.eth_dst());
        self.handed_over(tables, packet, leg, side.tuple(), ends, depth, now)
    }

    /// What was decided for the packets that were handed over to this pair, with the tuple and the Ethernet addresses with which they
    /// come back.
    #[expect(clippy::too_many_arguments, reason = "what a place is known by")]
    fn handed_over(
        &mut self,
        tables: &Tables,
        packet: &Packet,
        leg: Leg,
        tuple: &FiveTuple,
        (src, dst): (net::Mac, net::Mac),
        depth: u8,
        now: Now,
    ) -> Result<Option<CompiledFlow>, Refusal> {
        let hit = self.conntrack.lookup(leg.zone, &tuple.reversed());
        let hit = hit.filter(|hit| hit.side == Side::Reply && depth < MAX_PARTS);
        let found = hit.and_then(|hit| Some((hit, *self.conntrack.entry(hit.conn)?)));
        let Some((hit, entry)) = found else {
            return Ok(None);
        };
        let reply = entry.side(Side::Reply);
        if (reply.eth_dst(), reply.eth_src()) != (src, dst) {
            return Ok(None);
        }
        // Left by another process for a connection whose home is elsewhere: it is its own part before.
        let sent = entry.side(Side::Original);
        if Some(sent.zone()) == tables.zone_at(leg.egress) && sent.tuple() == tuple {
            return Ok(None);
        }
        let program = match self.forward_part(tables, packet, hit, &entry, depth + 1, now) {
            Ok((program, _)) => program,
            Err(Unjudged::Refused(refusal) | Unjudged::Unreachable(_, refusal)) => {
                return Err(refusal);
            }
            Err(
                Unjudged::Elsewhere | Unjudged::Rerouted | Unjudged::Moved(_) | Unjudged::Midway,
            ) => return Ok(None),
        };
        let flow = self.programs.get(program);
        Ok(flow.filter(|flow| flow.handed.is_some()).cloned())
    }

    /// A current program for the connection's original side, and the record that it would begin with, where its packet was judged.
    fn forward_program(
        &mut self,
        tables: &Tables,
        packet: &Packet,
        hit: Hit,
        entry: &Entry,
        now: Now,
    ) -> Result<(ProgramId, Option<Tracking>), Unjudged> {
        self.forward_part(tables, packet, hit, entry, 0, now)
    }

    /// The same for a part of its way that this many parts are behind.
    fn forward_part(
        &mut self,
        tables: &Tables,
        packet: &Packet,
        hit: Hit,
        entry: &Entry,
        depth: u8,
        now: Now,
    ) -> Result<(ProgramId, Option<Tracking>), Unjudged> {
        let id = ProgramId::from_number(entry.side(Side::Original).program());
        if hit.side == Side::Reply
            && let Found::Current(_) = self.programs.find(id, tables)
        {
            return Ok((id, None));
        }
        let (program, tracking) = self.forward_anew(tables, packet, hit, entry, depth, now)?;
        // Where the way has become another, its own side's next packet turns it: that one must be judged.
        let zones = Side::BOTH.map(|side| entry.side(side).zone());
        let turns = entry.binding().is_none() && tracking.zones != zones;
        if hit.side == Side::Original {
            self.remember(hit, packet, program);
        } else if !turns {
            let number = program.number();
            self.conntrack.set_program(hit.conn, Side::Original, number);
        }
        Ok((program, Some(tracking)))
    }

    /// The same, whatever is known of it; nothing is kept with the record.
    fn forward_anew(
        &mut self,
        tables: &Tables,
        packet: &Packet,
        hit: Hit,
        entry: &Entry,
        depth: u8,
        now: Now,
    ) -> Result<(ProgramId, Tracking), Unjudged> {
        let id = ProgramId::from_number(entry.side(Side::Original).program());
        let mut key = match hit.side {
            Side::Original => *packet.key(),
            Side::Reply => {
                let origin = self.programs.get(id).map(|f| f.origin);
                let origin = origin.or_else(|| origin_of(tables, entry.side(Side::Original)));
                original_key(entry, origin.ok_or(Unjudged::Elsewhere)?)
            }
        };
        let before = self.part_before(tables, packet, entry, depth, now);
        let before = before.map_err(Unjudged::Refused)?;
        if hit.side == Side::Reply {
            // As its first packet came, whose label nobody remembers: that under which it went in.
            let handed = before.as_ref().and_then(|flow| flow.handed);
            key.path = handed.map_or(0, |handed| handed.path());
        }
        let was_handed = self.programs.get(id).is_some_and(|f| f.handed.is_some());
        let lent = Lent {
            before: before.as_ref(),
            had: Some(entry.side(Side::Reply).zone()),
            ..self.lent(now, Known::Again(entry.binding()))
        };
        let outcome = walk(tables, &mut Probe::new(&key), &mut (), lent);
        if let Verdict::Drop(refusal) = outcome.flow.verdict {
            // Whether a neighbour outside answers is nobody's rule: the connection lives through its silence.
            let waits = refusal.reason == DropReason::NeighbourUnresolved;
            let silent = refusal.reason == DropReason::UnknownNeighbor
                && outcome
                    .flow
                    .depends
                    .iter()
                    .any(|on| Outside::has(on.section));
            if waits || silent {
                let program = self.intern(outcome.flow, tables, now);
                return Err(Unjudged::Unreachable(program, refusal));
            }
            // What comes from a local port finds its way by itself, what comes out of a tunnel has none.
            let translated = hit.side == Side::Reply && entry.binding().is_some();
            // Who has no workload on a network any more is not even told of its routers.
            let unknown = refusal.reason == DropReason::PortGone && refusal.stage == Stage::Ingress;
            let gone = unknown || leads_outside(tables, entry);
            if translated && gone && is_not_here(&outcome.flow, refusal) {
                return Err(Unjudged::Elsewhere);
            }
            return Err(Unjudged::Refused(refusal));
        }
        let tracking = outcome.tracking.ok_or(Unjudged::Elsewhere)?;
        let [home, end] = Side::BOTH.map(|side| entry.side(side).zone());
        let own = hit.side == Side::Reply || self.is_own(hit, packet);
        let hidden = || self.claims.sources().hides(entry);
        if own && tracking.reply != *entry.side(Side::Reply).tuple() && hidden() {
            let refusal = about(tracking.owner, DropReason::NatAddressGone, Stage::Chain);
            return Err(Unjudged::Refused(refusal));
        }
        let moved = own && tracking.zones != [home, end];
        if moved && (was_handed || outcome.flow.handed.is_some()) {
            return Err(Unjudged::Rerouted);
        }
        // A client that moved here, or away, is known by another zone from now on.
        let begins_elsewhere = own && tracking.zones[0] != home;
        if begins_elsewhere || tracking.reply != *entry.side(Side::Reply).tuple() {
            return Err(Unjudged::Elsewhere);
        }
        // Routes lead it to another workload, or its server moved. What is at the client's end stays, its source too. The other end judges
        // what it gets: it has seen nothing of it before, wherever it is.
        let expires = outcome.flow.expires_at(packet.key().ip_ttl).is_some();
        if hit.side == Side::Original && tracking.zones[1] != end && !expires {
            match TrackInput::of(packet).begins() {
                Begin::Tracked if own => {
                    return Err(Unjudged::Moved(Box::new((outcome.flow, tracking))));
                }
                Begin::Invalid if tracking.received => return Err(Unjudged::Midway),
                Begin::Tracked | Begin::Invalid | Begin::Untracked => {}
            }
        }
        Ok((self.intern(outcome.flow, tables, now), tracking))
    }

    /// Keeps a program with the record, if it was made for the Ethernet addresses that the record names: whoever shows others is
    /// judged each time.
    fn remember(&mut self, hit: Hit, packet: &Packet, program: ProgramId) {
        if self.is_own(hit, packet) {
            self.conntrack
                .set_program(hit.conn, hit.side, program.number());
        }
    }

    /// Does the packet show the Ethernet addresses that its side of the record names?
    fn is_own(&self, hit: Hit, packet: &Packet) -> bool {
        let key = packet.key();
        self.conntrack
            .side(hit.conn, hit.side)
            .is_some_and(|s| s.eth_src() == key.src_mac() && s.eth_dst() == key.dst_mac())
    }

    /// An ICMP error about a packet of a connection takes that connection's way; `None`: it is no such error.
    fn related(&mut self, tables: &Tables, packet: &Packet, zone: Zone, now: Now) -> Option<Way> {
        let quoted = packet.headers().quoted(packet.bytes())?;
        let hit = self.conntrack.lookup(zone, &quoted.tuple.reversed())?;
        let sender = Hit {
            conn: hit.conn,
            side: hit.side.other(),
        };
        if !self.conntrack.has_sent(sender, quoted.tcp_sequence) {
            return Some(Way::Drop(invalid(packet)));
        }
        let entry = *self.conntrack.entry(hit.conn)?;
        if let Some(way) = self.error_back(tables, packet, (hit.side, &entry)) {
            return Some(way);
        }
        // It goes with the connection, so it ends with it: by the record, not by this packet, is judged what began.
        let reply = Hit {
            side: Side::Reply,
            ..hit
        };
        // Judged anew, though its program may be current: a packet of its client's may have made it what leads to another by now, who may have the
        // same address. That one is told nothing about this connection; what it says itself of a packet that it got, the client hears.
        let leads_to = |zones: [Zone; 2]| match sender.side {
            Side::Original => zones[0],
            Side::Reply => zones[1],
        };
        let met = leads_to(Side::BOTH.map(|side| entry.side(side).zone()));
        let forward = match self.forward_anew(tables, packet, reply, &entry, 0, now) {
            Ok((_, now)) if leads_to(now.zones) != met => return Some(Way::Drop(invalid(packet))),
            Ok((forward, _)) => self.programs.get(forward).cloned()?,
            Err(Unjudged::Unreachable(_, refusal)) => return Some(Way::Drop(refusal)),
            // What it was hidden behind left this host: whoever has that address now is told.
            Err(Unjudged::Refused(refusal))
                if refusal.reason == DropReason::NatAddressGone
                    && hit.side == Side::Reply
                    && matches!(packet.origin(), Origin::Port(_))
                    && leads_outside(tables, &entry) =>
            {
                self.close(hit);
                return None;
            }
            Err(Unjudged::Refused(refusal)) => {
                self.close(hit);
                return Some(Way::Drop(refusal));
            }
            Err(Unjudged::Elsewhere | Unjudged::Moved(_) | Unjudged::Midway) => {
                self.close(hit);
                return None;
            }
            Err(Unjudged::Rerouted) => return Some(Way::Drop(invalid(packet))),
        };
        let before = match self.part_before(tables, packet, &entry, 0, now) {
            Ok(before) => before,
            Err(refusal) => return Some(Way::Drop(refusal)),
        };
        let after = forward.handed;
        let known = Known::Related {
            entry: &entry,
            side: hit.side,
            forward: &forward,
        };
        let lent = Lent {
            before: before.as_ref(),
            after,
            ..self.lent(now, known)
        };
        let outcome = walk(tables, &mut Probe::new(packet.key()), &mut (), lent);
        if let Verdict::Drop(refusal) = outcome.flow.verdict {
            return Some(Way::Drop(refusal));
        }
        self.once = Some(outcome.flow);
        let tuples = entry.binding().map(|_| {
            let side = *entry.side(hit.side).tuple();
            [side, *entry.side(hit.side.other()).tuple()]
        });
        Some(Way::Once(tuples))
    }
}

/// May what has no address to show any more begin anew with this packet? Out of a tunnel it came by what its own host remembers, which can't know that: without
/// its record the next one would leave as something new, by the gateway's address. Only a SYN says that it is no late answer.
fn begins_anew(packet: &Packet) -> bool {
    matches!(packet.origin(), Origin::Port(_))
        || matches!(TrackInput::of(packet), TrackInput::Tcp(s) if s.has(flag::SYN) && !s.has(flag::ACK))
}

/// The pair of an appliance out of whose egress port packets of this origin come.
fn egress_leg(tables: &Tables, origin: Origin) -> Option<Leg> {
    let Origin::Port(port) = origin else {
        return None;
    };
    tables.leg(port).filter(|leg| leg.egress == port)
}

/// Whose budget a packet is taken from: its sender's; from the tunnel, what its receiver has for that.
fn payer(tables: &Tables, packet: &Packet) -> Payer {
    match packet.origin() {
        Origin::Port(port) => Payer::From(port),
        Origin::Tunnel(network) => {
            let found = tables
                .network(network)
                .and_then(|n| n.fdb.get(packet.key().dst_mac()));
            match found.map(|entry| entry.place) {
                Some(Place::Local(port)) => Payer::To(port),
                Some(Place::Router(router)) => Payer::Gateway(router),
                Some(Place::Vtep(_) | Place::Virtual) | None => Payer::Nobody,
            }
        }
        Origin::Switch => Payer::Nobody,
    }
}

/// May the packet belong to a connection, here or at another worker?
fn tracks(tables: &Tables, packet: &Packet) -> bool {
    match packet.origin() {
        Origin::Port(port) => tables.port(port).is_none_or(|p| tables.tracks(p.network)),
        Origin::Tunnel(network) => tables.tracks(network),
        Origin::Switch => true,
    }
}

/// Does the answer hold until its sections change? What a NAT has no port for may get one when another connection ends; what was not
/// handed over to an appliance may be later.
fn lasts(flow: &CompiledFlow) -> bool {
    !matches!(
        flow.verdict,
        Verdict::Drop(Refusal {
            reason: DropReason::NatExhausted
                | DropReason::NatClientLimit
                | DropReason::ChainPlaceUnknown
                | DropReason::ChainLabelWrong,
            ..
        })
    )
}

/// Did a packet end before anything translated it, since who did so is at another host by now, or gone?
fn is_not_here(flow: &CompiledFlow, refusal: Refusal) -> bool {
    let lost = matches!(
        refusal.reason,
        DropReason::PortGone | DropReason::SplitHorizon | DropReason::UnknownUnicast
    );
    lost && !flow.actions.contains(&Action::Translate)
}

/// Do packets of either side of a connection leave the fabric, by a router that they are sent to?
fn leads_outside(tables: &Tables, entry: &Entry) -> bool {
    Side::BOTH.map(|side| entry.side(side)).iter().any(|side| {
        tables.routers().any(|router| {
            let to = || router.route_to(side.tuple().dst_addr());
            let mut interfaces = router.interfaces.iter();
            router.gateway.is_some()
                && interfaces.any(|i| i.mac == side.eth_dst())
                && matches!(to().map(|r| r.target), Some(Target::Outside(_)))
        })
    })
}

/// Does a record say of an end that it is here, or elsewhere, when it is no longer? Its Ethernet address says that it is the same end.
fn has_moved(entry: &Entry, new: &[SideEntry; 2]) -> bool {
    let zones = |a: Zone, b: Zone| (a.min(b), a.max(b));
    let [first, reply] = new;
    let there = Side::BOTH.map(|side| entry.side(side));
    let same_end = there
        .iter()
        .any(|s| *s.tuple() == *reply.tuple() && s.eth_dst() == first.eth_src());
    let [a, b] = there.map(SideEntry::zone);
    same_end && zones(a, b) != zones(first.zone(), reply.zone())
}

/// The zones of a record as a packet of this side passes them.
fn zones_from(entry: &Entry, side: Side) -> [Zone; 2] {
    [side, side.other()].map(|side| entry.side(side).zone())
}

/// Where the packet's connection enters.
fn entrance(packet: &Packet) -> Entrance {
    match packet.origin() {
        Origin::Port(_) => Entrance::Port,
        Origin::Tunnel(_) => Entrance::Tunnel,
        Origin::Switch => Entrance::Unknown,
    }
}

/// Where the packets of one side of a connection enter, when no program says: as its record does, or else at the port that has their
/// Ethernet source, or from the tunnel.
pub(super) fn origin_of(tables: &Tables, side: &SideEntry) -> Option<Origin> {
    // What came to a floating IP is known by its workload's zone, but came from outside.
    let mut floating = tables.floating().iter();
    let came = floating.find(|f| f.zone == side.zone() && f.interface.mac == side.eth_dst());
    if let Some(floating) = came {
        return Some(Origin::Tunnel(floating.interface.network));
    }
    if let Some(far) = tables.port_of_zone(side.zone()).and_then(|p| tables.far(p)) {
        return Some(Origin::Port(far.dense));
    }
    let Some(port) = tables.ports().find(|p| p.zone == side.zone()) else {
        // At a gateway the router's interface is told by what its packets are sent to.
        let router = tables.router_of_zone(side.zone())?;
        let mut interfaces = router.interfaces.iter();
        let came = interfaces.find(|i| i.mac == side.eth_dst())?;
        return Some(Origin::Tunnel(came.network));
    };
    let from_port = match side.entrance() {
        Entrance::Port => true,
        Entrance::Tunnel => false,
        Entrance::Unknown => port.mac == side.eth_src() || port.macs.contains(&side.eth_src()),
    };
    Some(if from_port {
        Origin::Port(port.dense)
    } else {
        Origin::Tunnel(port.network)
    })
}

/// The key of the connection's first packet, as far as tables ask for it.
pub(super) fn original_key(entry: &Entry, origin: Origin) -> FlowKey {
    let side = entry.side(Side::Original);
    let tuple = side.tuple();
    let v4 = tuple.src_addr().is_ipv4();
    let mut key = FlowKey {
        ethertype: if v4 { ethertype::IPV4 } else { ethertype::IPV6 },
        ip_src: tuple.src,
        ip_dst: tuple.dst,
        l4_src: tuple.src_port,
        l4_dst: tuple.dst_port,
        eth_src: side.eth_src().octets(),
        eth_dst: side.eth_dst().octets(),
        ip_proto: tuple.proto,
        ..FlowKey::default()
    };
    // Of ICMP only queries are tracked, and all but a few of them are echoes.
    match tuple.proto {
        proto::ICMP => (key.l4_src, key.l4_dst, key.icmp_id) = (8, 0, tuple.src_port),
        proto::ICMP6 => (key.l4_src, key.l4_dst, key.icmp_id) = (128, 0, tuple.src_port),
        _ => {}
    }
    key.set_origin(origin);
    key
}

/// A refusal about whom a connection would count for.
fn about(holder: Holder, reason: DropReason, stage: Stage) -> Refusal {
    let refusal = Refusal::new(reason, stage);
    match holder {
        Holder::Port(port) => refusal.at(port),
        Holder::Gateway(_) => refusal,
    }
}

/// The project's number in records: the same in every process, whatever else is configured.
fn project_number(project: Id<kind::Project>) -> u32 {
    let [a, b, c, d, ..] = *project.uuid().as_bytes();
    u32::from_be_bytes([a, b, c, d])
}
