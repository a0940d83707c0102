//! 5: What is done with a packet?
//!
//! The actions of its program, in order: rewrite, wait, answer, copy, hand out. And the books: whatever happens to a packet is
//! counted here, in segments, under a name.

use std::{collections::BTreeMap, net::Ipv6Addr};

use hostconfig::{
    group::Direction,
    share::{OneWay, Use},
};
use net::{
    Consumed, Copied, DropReason, Errand, FiveTuple, Mac, NetworkId, Now, Origin, Originated,
    Packet, PacketPool, PortId, VtepId, headers::Quoted, rewrite,
};
use overlay::Place;

use super::{
    Out, Settings, WorkerId,
    awaiting::Awaiting,
    dns::answer,
    drops::Drops,
    errors::AsSent,
    flow::{Action, CompiledFlow, Lane, ProgramId, Programs, Refusal, Stage, Verdict},
    gate::{Exit, Gate},
    ledger::Ledger,
    queues::{self, Entered, Queues, Turn},
    tables::{
        Far, HopId, Tables, dhcp6,
        ra::{self, Advertisement, Says},
        service,
    },
    too_big::{exceeds, size, too_small},
};
use crate::{io::Tunnelled, stats::Counters};

/// Bytes of an Ethernet header.
const ETHERNET: u64 = 14;

/// What a packet's execution is lent.
#[derive(Debug)]
pub(super) struct Cx<'a> {
    pub(super) tables: &'a Tables,
    pub(super) now: Now,
    pub(super) pool: &'a mut PacketPool,
    pub(super) out: &'a mut Out,
}

/// The part of a datapath that touches packets: books, queues, limits.
#[derive(Debug)]
pub(super) struct Hands {
    pub(super) ledger: Ledger,
    pub(super) drops: Drops,
    pub(super) counters: Counters,
    worker: WorkerId,
    workers: u16,
    queues: Queues,
    /// Programs of packets that waited and were lost: the next release gives them back.
    orphans: Vec<ProgramId>,
    answers: Vec<Answers>,
    /// The second, and how many segments mirrors copied in it.
    pub(super) shown: (u32, u32),
    answers_per_second: u32,
    pub(super) errors_per_second: u32,
    pub(super) metadata_per_second: u32,
    streak: Streak,
    /// Packets, since it was last asked.
    pub(super) dropped: u32,
    /// When queues were last asked for what may go.
    released: Now,
    pub(super) awaiting: Awaiting,
    /// Answers to probes in this batch.
    pub(super) heard: Vec<Packet>,
}

/// Packets of one program, one behind the other: they are counted together.
#[derive(Debug)]
struct Streak {
    program: ProgramId,
    gate: Gate,
    segments: u32,
    bytes: u64,
}

impl Streak {
    const NONE: Self = Self {
        program: ProgramId::NONE,
        gate: Gate::SHUT,
        segments: 0,
        bytes: 0,
    };
}

/// What became of a packet that came to a queue.
enum Queued {
    /// It waits.
    Waits,
    /// It was dropped, or waits at another worker.
    Gone,
    /// The limit is no more: nothing holds it up.
    Free(Packet),
}

/// How many segments a worker's mirrors copy in a second.
const MAX_SHOWN: u32 = 200_000;

/// How many answers and errors a port got in this second, or a network's tunnel.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Answers {
    second: u32,
    count: u32,
    pub(super) errors: u32,
    pub(super) metadata: u32,
}

impl Hands {
    pub(super) fn new(settings: &Settings) -> Self {
        Self {
            ledger: Ledger::default(),
            drops: Drops::new(settings.drop_records, settings.seed),
            counters: Counters::default(),
            worker: settings.worker,
            workers: settings.workers,
            queues: Queues::new(settings.seed),
            orphans: Vec::new(),
            answers: Vec::new(),
            shown: (0, 0),
            answers_per_second: settings.answers_per_second,
            metadata_per_second: settings.metadata_per_second,
            // A port's flows are spread over the workers: each has its share, and none is left without a voice.
            errors_per_second: (settings.errors_per_second / u32::from(settings.workers.max(1)))
                .max(settings.errors_per_second.min(1)),
            streak: Streak::NONE,
            dropped: 0,
            released: Now::ZERO,
            awaiting: Awaiting::default(),
            heard: Vec::new(),
        }
    }

    /// Drops a packet: counted, recorded, given back.
    pub(super) fn drop(
        &mut self,
        packet: Packet,
        refusal: &Refusal,
        now: Now,
        pool: &mut PacketPool,
    ) {
        self.note_drop(&packet, refusal, now);
        pool.give(packet);
    }

    fn note_drop(&mut self, packet: &Packet, refusal: &Refusal, now: Now) {
        self.dropped = self.dropped.saturating_add(1);
        let (segments, bytes) = (u64::from(packet.segments()), packet.wire_bytes());
        self.ledger.drop(refusal.reason, segments);
        self.counters.drop(refusal, segments);
        self.drops
            .record(refusal, packet.key(), segments, bytes, now);
    }

    /// Drops a packet on its way out.
    pub(super) fn lose(&mut self, packet: Packet, reason: DropReason, cx: &mut Cx<'_>) {
        let refusal = Refusal::new(reason, Stage::Egress);
        self.drop(packet, &refusal, cx.now, cx.pool);
    }

    /// The short form of a program, if the packet before was of it.
    #[inline]
    pub(super) fn running(&self, id: ProgramId) -> Option<&Gate> {
        (self.streak.program == id).then_some(&self.streak.gate)
    }

    /// Counts the packets since the last time. Before any program may go, and at the end of a batch.
    pub(super) fn settle(&mut self, programs: &Programs) {
        let Streak {
            program,
            gate,
            segments,
            bytes,
        } = std::mem::replace(&mut self.streak, Streak::NONE);
        if segments == 0 {
            return;
        }
        if let Some(flow) = programs.get(program) {
            self.count_passed(flow, segments, bytes);
            self.count_meters(flow, segments, bytes);
        }
        let segments = u64::from(segments);
        self.ledger.tx += segments;
        match gate.exit {
            Exit::Port(id) | Exit::Labelled { port: id, .. } => {
                self.counters.transmit(id, segments, bytes);
            }
            Exit::Tunnel { vtep, .. } | Exit::Chain { vtep, .. } => {
                self.counters.tunnel_tx(vtep, segments, bytes);
            }
            Exit::Program => {}
        }
    }

    /// Runs a program on a packet; `to` is what its addresses become, where the program translates.
    #[inline]
    pub(super) fn run(
        &mut self,
        programs: &mut Programs,
        id: ProgramId,
        packet: Packet,
        to: Option<FiveTuple>,
        cx: &mut Cx<'_>,
    ) {
        if self.streak.program != id {
            self.settle(programs);
            let gate = programs.gate(id, cx.tables).copied();
            self.streak = Streak {
                program: id,
                gate: gate.unwrap_or(Gate::SHUT),
                ..Streak::NONE
            };
        }
        // Before any function sees it: nobody is to spend a shaper's rate on it, and its sender knows it as it is now.
        let gate = &self.streak.gate;
        if gate.exit == Exit::Program
            || size(&packet) > gate.limit as usize
            || (gate.rewrites && packet.key().ip_ttl <= gate.forwards)
        {
            return self.interpret(programs, id, packet, to, cx);
        }
        self.pass(programs, packet, to, cx);
    }

    /// A packet of the streak's program goes where its gate says.
    #[inline]
    fn pass(
        &mut self,
        programs: &Programs,
        mut packet: Packet,
        to: Option<FiveTuple>,
        cx: &mut Cx<'_>,
    ) {
        let Streak { program, gate, .. } = &self.streak;
        if gate.rewrites && !rewrite_all(&mut packet, gate, to.as_ref()) {
            if let Some(flow) = programs.get(*program) {
                self.count_hops(flow, &packet);
            }
            return self.lose(packet, DropReason::FunctionFault, cx);
        }
        let (exit, program) = (gate.exit, *program);
        // At most a batch of frames of 64 KiB.
        self.streak.segments += packet.segments();
        self.streak.bytes += packet.wire_bytes();
        match exit {
            Exit::Port(id) => cx.out.port(id, packet),
            Exit::Labelled { port, label } => {
                packet.set_label(Some(label));
                self.send_labelled(port, packet, cx);
            }
            Exit::Tunnel { vni, addr, .. } => cx.out.tunnelled.push(Tunnelled {
                packet,
                vni,
                vtep: addr,
                nsh: None,
            }),
            Exit::Chain { addr, .. } => {
                let last = programs.get(program).and_then(|flow| flow.actions.last());
                if let Some(Action::Carry { nsh, .. }) = last {
                    cx.out.tunnelled.push(Tunnelled {
                        packet,
                        vni: nsh.vni,
                        vtep: addr,
                        nsh: Some(*nsh),
                    });
                } else {
                    self.lose(packet, DropReason::FunctionFault, cx);
                }
            }
            Exit::Program => self.lose(packet, DropReason::FunctionFault, cx),
        }
    }

    /// Runs a program action by action.
    fn interpret(
        &mut self,
        programs: &mut Programs,
        id: ProgramId,
        mut packet: Packet,
        to: Option<FiveTuple>,
        cx: &mut Cx<'_>,
    ) {
        let Some(flow) = programs.get(id) else {
            return self.lose(packet, DropReason::FunctionFault, cx);
        };
        if let Some(router) = flow.expires_at(packet.key().ip_ttl) {
            return self.expire(packet, router, cx);
        }
        if let Verdict::Drop(refusal) = &flow.verdict {
            if refusal.reason == DropReason::NeighbourUnresolved {
                return self.await_neighbour(packet, flow, refusal, cx);
            }
            self.count_hops(flow, &packet);
            return self.refuse(packet, refusal, flow.routers().last(), cx);
        }
        if let Some((mtu, by)) = too_small(cx.tables, flow, size(&packet)) {
            let sent = AsSent {
                by,
                ..AsSent::default()
            };
            return self.too_big(packet, mtu, &sent, cx);
        }
        self.count_hops(flow, &packet);
        for (at, action) in flow.actions.iter().enumerate() {
            match action {
                Action::Resolve(network) => {
                    packet = match self.resolve(*network, packet, flow.origin, cx) {
                        Some(packet) => packet,
                        None => return,
                    };
                }
                Action::Translate => {
                    if !translate(&mut packet, to.as_ref()) {
                        return self.lose(packet, DropReason::FunctionFault, cx);
                    }
                }
                Action::SetEth { src, dst } => set_eth(&mut packet, *src, *dst),
                Action::SetDscp(dscp) => {
                    if rewrite::set_dscp(&mut packet, *dscp).is_err() {
                        return self.lose(packet, DropReason::FunctionFault, cx);
                    }
                }
                Action::Route(_) => {
                    if rewrite::decrement_ttl(&mut packet, 1).is_err() {
                        return self.lose(packet, DropReason::FunctionFault, cx);
                    }
                }
                Action::Label(label) => packet.set_label(Some(*label)),
                Action::Copy { to, now: true, .. } => self.show(*to, &packet, cx),
                Action::Copy { now: false, .. } | Action::Inspect { .. } => {}
                Action::Queue(_) => return self.queue_up(programs, id, at, packet, cx),
                Action::Output(_)
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
                | Action::HandBack(_) => return self.send(flow, at, packet, cx),
            }
        }
        self.lose(packet, DropReason::NoReceiver, cx);
    }

    /// A port is shown a copy. It is judged by nobody, and not shown again.
    fn show(&mut self, to: PortId, packet: &Packet, cx: &mut Cx<'_>) {
        let segments = packet.segments();
        self.ledger.copy(Copied::Mirror, u64::from(segments));
        let second = cx.now.seconds();
        if self.shown.0 != second {
            self.shown = (second, 0);
        }
        self.shown.1 = self.shown.1.saturating_add(segments);
        let reason = if self.shown.1 > MAX_SHOWN {
            DropReason::MirrorBudget
        } else if let Some(copy) = cx.pool.copy(packet) {
            // One of this host, as most are, is no key to look for.
            let here = cx.tables.port(to).is_some();
            let far = if here {
                None
            } else {
                cx.tables.shown_there(to)
            };
            return match far {
                Some(far) => self.show_there(far, copy, cx),
                None => self.output(to, copy, cx),
            };
        } else {
            DropReason::PoolExhausted
        };
        let refusal = Refusal::new(reason, Stage::Chain).at(to);
        self.note_drop(packet, &refusal, cx.now);
    }

    /// A copy for a port of another host, by the chain transport.
    fn show_there(&mut self, far: &Far, copy: Packet, cx: &mut Cx<'_>) {
        if exceeds(&copy, far.mtu) {
            let refusal = Refusal::new(DropReason::MtuExceeded, Stage::Egress).at(far.dense);
            return self.drop(copy, &refusal, cx.now, cx.pool);
        }
        self.carry(far.vtep, far.nsh(far.way, false), copy, cx);
    }

    /// The part of a program behind its rewrites: queues, one after the other, then what sends.
    fn queue_up(
        &mut self,
        programs: &mut Programs,
        id: ProgramId,
        mut at: usize,
        mut packet: Packet,
        cx: &mut Cx<'_>,
    ) {
        let Some(flow) = programs.get(id) else {
            return self.lose(packet, DropReason::FunctionFault, cx);
        };
        while let Some(Action::Queue(lane)) = flow.actions.get(at) {
            packet.set_tag(id.number());
            packet = match self.wait(*lane, packet, cx) {
                Queued::Waits => return programs.hold(id),
                Queued::Gone => return,
                Queued::Free(packet) => packet,
            };
            at += 1;
        }
        self.send(flow, at, packet, cx);
    }

    /// Runs an answer about an ICMP error: what it quotes is translated too. `tuples` are those of the error's own side and of the
    /// other one, where the connection is translated.
    pub(super) fn run_once(
        &mut self,
        programs: &mut Programs,
        flow: &CompiledFlow,
        mut packet: Packet,
        tuples: Option<[FiveTuple; 2]>,
        cx: &mut Cx<'_>,
    ) {
        if let Some([own, other]) = tuples {
            let quoted = packet.headers().quoted(packet.bytes());
            let done = quoted.map(|q| untranslate_error(&mut packet, &q, &own, &other));
            if !matches!(done, Some(Ok(()))) {
                return self.lose(packet, DropReason::FunctionFault, cx);
            }
        }
        if flow.expires_at(packet.key().ip_ttl).is_some() {
            // About an error nobody is told.
            let refusal = Refusal::new(DropReason::TtlExceeded, Stage::L3);
            return self.drop(packet, &refusal, cx.now, cx.pool);
        }
        self.count_meters(flow, packet.segments(), packet.wire_bytes());
        for (at, action) in flow.actions.iter().enumerate() {
            match action {
                Action::Translate
                | Action::Resolve(_)
                | Action::Copy { .. }
                | Action::Inspect { .. }
                | Action::Queue(Lane::Function { .. }) => {}
                Action::SetEth { src, dst } => set_eth(&mut packet, *src, *dst),
                Action::Label(label) => packet.set_label(Some(*label)),
                Action::SetDscp(dscp) => {
                    if rewrite::set_dscp(&mut packet, *dscp).is_err() {
                        return self.lose(packet, DropReason::FunctionFault, cx);
                    }
                }
                Action::Queue(Lane::Port { .. } | Lane::Outside { .. }) => {
                    // Only what waits needs a program that stays: the rest of this one.
                    let rest = flow.actions.get(at..).unwrap_or_default();
                    let rest = CompiledFlow {
                        mask: net::FlowMask::default(),
                        actions: rest.iter().copied().collect(),
                        hops: smallvec::SmallVec::new(),
                        meters: smallvec::SmallVec::new(),
                        ..flow.clone()
                    };
                    self.settle(programs);
                    let id = programs.intern(rest, cx.tables, cx.now);
                    return self.queue_up(programs, id, 0, packet, cx);
                }
                Action::Route(_) => {
                    if rewrite::decrement_ttl(&mut packet, 1).is_err() {
                        return self.lose(packet, DropReason::FunctionFault, cx);
                    }
                }
                Action::Output(_)
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
                | Action::HandBack(_) => return self.send(flow, at, packet, cx),
            }
        }
        self.lose(packet, DropReason::NoReceiver, cx);
    }

    /// At a router's gateway IP packets are counted, without what Ethernet adds.
    fn count_meters(&mut self, flow: &CompiledFlow, segments: u32, bytes: u64) {
        for meter in &flow.meters {
            let ethernet = u64::from(segments) * ETHERNET;
            let ip = bytes.saturating_sub(ethernet);
            self.counters.meter(*meter).count(segments, ip);
        }
    }

    fn count_passed(&mut self, flow: &CompiledFlow, segments: u32, bytes: u64) {
        for hop in &flow.hops {
            let counters = self.counters.hop(*hop);
            if flow.replies {
                counters.count_replies(segments, bytes);
            } else {
                counters.count(segments, bytes);
            }
        }
    }

    fn count_hops(&mut self, flow: &CompiledFlow, packet: &Packet) {
        if flow.hops.is_empty() && flow.meters.is_empty() {
            return;
        }
        let (segments, bytes) = (packet.segments(), packet.wire_bytes());
        self.count_meters(flow, segments, bytes);
        self.count_passed(flow, segments, bytes);
        if let Verdict::Drop(Refusal { hop: Some(hop), .. }) = flow.verdict {
            self.counters.hop(hop).count_drop(segments);
        }
    }

    /// Counts what an inspector refused, up to its hop.
    pub(super) fn count_refused(&mut self, flow: &CompiledFlow, at: HopId, packet: &Packet) {
        let (segments, bytes) = (packet.segments(), packet.wire_bytes());
        let reached = flow.hops.iter().position(|hop| *hop == at);
        for hop in flow.hops.iter().take(reached.map_or(0, |at| at + 1)) {
            let counters = self.counters.hop(*hop);
            if flow.replies {
                counters.count_replies(segments, bytes);
            } else {
                counters.count(segments, bytes);
            }
        }
        self.counters.hop(at).count_drop(segments);
    }

    /// The last part of a program: everything from the first action that sends or answers.
    fn send(&mut self, flow: &CompiledFlow, from: usize, packet: Packet, cx: &mut Cx<'_>) {
        let rest = flow.actions.get(from..).unwrap_or_default();
        let Some((last, others)) = rest.split_last() else {
            return self.lose(packet, DropReason::NoReceiver, cx);
        };
        for action in others {
            let segments = u64::from(packet.segments());
            self.ledger.copy(Copied::Flood, segments);
            if let Action::Refuse(refusal) = action {
                // Nobody would see this copy: it is counted, not made.
                self.note_drop(&packet, refusal, cx.now);
                continue;
            }
            if let Some(copy) = cx.pool.copy(&packet) {
                self.send_one(action, copy, flow, cx);
            } else {
                let refusal = Refusal::new(DropReason::PoolExhausted, Stage::Egress);
                self.note_drop(&packet, &refusal, cx.now);
            }
        }
        self.send_one(last, packet, flow, cx);
    }

    fn send_one(&mut self, action: &Action, packet: Packet, flow: &CompiledFlow, cx: &mut Cx<'_>) {
        match action {
            Action::Output(port) => self.output(*port, packet, cx),
            Action::Tunnel { network, vtep } => self.tunnel(*network, *vtep, packet, cx),
            Action::Carry { vtep, nsh, .. } => {
                if exceeds(&packet, cx.tables.mtu_there(nsh)) {
                    return self.lose(packet, DropReason::MtuExceeded, cx);
                }
                self.carry(*vtep, *nsh, packet, cx);
            }
            Action::Wire(network) => self.output_wire(*network, packet, cx),
            Action::Hear => {
                if let Verdict::Consume(what) = flow.verdict {
                    self.consume(what, u64::from(packet.segments()));
                    return match what {
                        Consumed::Probe => self.keep_answer(packet, cx),
                        Consumed::Arp
                        | Consumed::NeighborDiscovery
                        | Consumed::Dhcp
                        | Consumed::Dns
                        | Consumed::Icmp
                        | Consumed::Metadata => cx.pool.give(packet),
                    };
                }
                self.lose(packet, DropReason::FunctionFault, cx);
            }
            Action::Refuse(refusal) => self.drop(packet, refusal, cx.now, cx.pool),
            Action::AnswerArp(_)
            | Action::AnswerNd { .. }
            | Action::AnswerRs(_)
            | Action::AnswerPing
            | Action::AnswerDhcp { .. }
            | Action::AnswerDhcp6(_)
            | Action::AnswerNames(_) => self.answer(action, packet, flow, cx),
            Action::Metadata => self.hand_in(packet, flow.origin, cx),
            Action::HandBack(port) => self.hand_in(packet, Origin::Port(*port), cx),
            // These come before what sends; a program that has them behind it is none of the walk's.
            Action::Translate
            | Action::Resolve(_)
            | Action::SetEth { .. }
            | Action::SetDscp(_)
            | Action::Copy { .. }
            | Action::Inspect { .. }
            | Action::Route(_)
            | Action::Label(_)
            | Action::Queue(..) => {
                self.lose(packet, DropReason::FunctionFault, cx);
            }
        }
    }

    fn output(&mut self, id: PortId, packet: Packet, cx: &mut Cx<'_>) {
        let Some(port) = cx.tables.port(id) else {
            return self.lose(packet, DropReason::PortGone, cx);
        };
        if exceeds(&packet, port.mtu) {
            let refusal = Refusal::new(DropReason::MtuExceeded, Stage::Egress).at(id);
            return self.drop(packet, &refusal, cx.now, cx.pool);
        }
        self.deliver(id, packet, cx);
    }

    /// Whatever a port gets passes here: what the switch itself has to say to it, too.
    pub(super) fn deliver(&mut self, id: PortId, packet: Packet, cx: &mut Cx<'_>) {
        let direction = Direction::Ingress;
        let port = cx.tables.port(id);
        // It was the sender by its chain: a reply goes in where it came out.
        if port.is_none()
            && let Some((far, leg)) = cx.tables.far(id).zip(cx.tables.leg(id))
        {
            let nsh = far.nsh(far.way, leg.egress == id);
            return self.carry(far.vtep, nsh, packet, cx);
        }
        if port.is_none_or(|p| p.limit(direction).is_none()) {
            return self.hand_out(id, packet, cx);
        }
        let lane = Lane::Port {
            port: id,
            direction,
        };
        if let Queued::Free(packet) = self.wait(lane, packet, cx) {
            self.hand_out(id, packet, cx);
        }
    }

    pub(super) fn hand_out(&mut self, id: PortId, packet: Packet, cx: &mut Cx<'_>) {
        let (segments, bytes) = (u64::from(packet.segments()), packet.wire_bytes());
        self.ledger.tx += segments;
        self.counters.transmit(id, segments, bytes);
        self.send_labelled(id, packet, cx);
    }

    /// What was counted goes to a port, under its label if it has one: the label counts for nobody, like a trunk's tag.
    fn send_labelled(&mut self, id: PortId, mut packet: Packet, cx: &mut Cx<'_>) {
        if let Some(label) = packet.label()
            && !packet.push_label(label)
        {
            let (segments, bytes) = (u64::from(packet.segments()), packet.wire_bytes());
            self.ledger.tx = self.ledger.tx.saturating_sub(segments);
            self.counters.untransmit(id, segments, bytes);
            return self.lose(packet, DropReason::FunctionFault, cx);
        }
        cx.out.port(id, packet);
    }

    /// The switch answers, in the request's own buffer.
    fn answer(
        &mut self,
        action: &Action,
        mut packet: Packet,
        flow: &CompiledFlow,
        cx: &mut Cx<'_>,
    ) {
        let Verdict::Consume(what) = flow.verdict else {
            return self.lose(packet, DropReason::FunctionFault, cx);
        };
        let asker = match flow.origin {
            Origin::Port(port) => Some(port),
            Origin::Tunnel(_) | Origin::Switch => None,
        };
        let refused = |reason| Refusal {
            port: asker,
            ..Refusal::new(reason, Stage::Service)
        };
        if !self.may_answer(flow.origin, cx.now) {
            let refusal = refused(DropReason::OriginateLimit);
            return self.drop(packet, &refusal, cx.now, cx.pool);
        }
        let segments = u64::from(packet.segments());
        // What came under a label is answered under it.
        packet.set_label(cx.tables.label(flow.origin, packet.key().path));
        let answered = match action {
            Action::AnswerArp(mac) => {
                service::answer_arp(&mut packet, *mac).map(|()| Some(Originated::ArpReply))
            }
            Action::AnswerNd { mac, router } => {
                service::answer_neighbor(&mut packet, *mac, *router)
                    .map(|()| Some(Originated::NeighborAdvertisement))
            }
            Action::AnswerRs(network) => {
                let network = cx.tables.network(*network);
                match network.and_then(|n| n.advertisements.split_first()) {
                    Some((first, others)) => {
                        let to = ra::asker(&packet);
                        for (other, port) in others.iter().zip(asker.iter().cycle()) {
                            self.advertise(*port, other, Says::Here, to, cx);
                        }
                        let written = first.write(&mut packet, Says::Here, to);
                        written.map(|()| Some(Originated::RouterAdvertisement))
                    }
                    None => Err(DropReason::PortGone),
                }
            }
            Action::AnswerPing => {
                service::answer_ping(&mut packet).map(|()| Some(Originated::Icmp))
            }
            Action::AnswerDhcp {
                network,
                subnet,
                addr,
            } => {
                let client = asker.and_then(|port| cx.tables.port(port));
                match cx.tables.network(*network).zip(client) {
                    Some(ends) => service::answer_dhcp(&mut packet, ends, *subnet, *addr)
                        .map(|answers| answers.then_some(Originated::Dhcp)),
                    None => Err(DropReason::PortGone),
                }
            }
            Action::AnswerDhcp6(network) => {
                let client = asker.and_then(|port| cx.tables.port(port));
                match cx.tables.network(*network).zip(client) {
                    Some((network, client)) => dhcp6::answer(&mut packet, network, client)
                        .map(|answers| answers.then_some(Originated::Dhcp6)),
                    None => Err(DropReason::PortGone),
                }
            }
            Action::AnswerNames(network) => names(cx.tables, *network, &mut packet)
                .map(|answers| answers.then_some(Originated::Dns)),
            Action::Translate
            | Action::Resolve(_)
            | Action::SetEth { .. }
            | Action::SetDscp(_)
            | Action::Copy { .. }
            | Action::Inspect { .. }
            | Action::Route(_)
            | Action::Label(_)
            | Action::Queue(..)
            | Action::Output(_)
            | Action::Tunnel { .. }
            | Action::Carry { .. }
            | Action::Wire(_)
            | Action::Hear
            | Action::Metadata
            | Action::HandBack(_)
            | Action::Refuse(_) => Err(DropReason::FunctionFault),
        };
        match answered {
            Ok(Some(originated)) => {
                self.consume(what, segments);
                packet.set_origin(Origin::Switch);
                // What was written must be readable, or it would be counted wrong.
                if packet.parse().is_err() {
                    self.ledger.originate(originated, 1);
                    return self.lose(packet, DropReason::FunctionFault, cx);
                }
                self.ledger
                    .originate(originated, u64::from(packet.segments()));
                self.give_answer(flow.origin, packet, cx);
            }
            Ok(None) => {
                self.consume(what, segments);
                cx.pool.give(packet);
            }
            Err(reason) => self.drop(packet, &refused(reason), cx.now, cx.pool),
        }
    }

    /// A question on its way to a name server is answered here, if its network knows the name; else it is given back.
    fn resolve(
        &mut self,
        network: NetworkId,
        mut packet: Packet,
        origin: Origin,
        cx: &mut Cx<'_>,
    ) -> Option<Packet> {
        let network = cx
            .tables
            .network(network)
            .filter(|_| packet.segments() == 1);
        let Some(network) = network else {
            return Some(packet);
        };
        match answer::answer(&mut packet, network, answer::Server::Another) {
            Ok(true) => {}
            Ok(false) | Err(_) => return Some(packet),
        }
        if !self.may_answer(origin, cx.now) {
            self.lose(packet, DropReason::OriginateLimit, cx);
            return None;
        }
        self.consume(Consumed::Dns, 1);
        packet.set_origin(Origin::Switch);
        self.ledger.originate(Originated::Dns, 1);
        if packet.parse().is_err() {
            self.lose(packet, DropReason::FunctionFault, cx);
            return None;
        }
        self.give_answer(origin, packet, cx);
        None
    }

    /// What the switch made goes to whom it is for: a port, or by the tunnel to who has its Ethernet destination.
    pub(super) fn give_answer(&mut self, to: Origin, packet: Packet, cx: &mut Cx<'_>) {
        match to {
            Origin::Port(port) => self.deliver(port, packet, cx),
            Origin::Tunnel(id) => {
                let network = cx.tables.network(id);
                let there = network.and_then(|n| n.fdb.get(packet.key().dst_mac()));
                let wired = network.is_some_and(|n| n.wire.is_some());
                match there.map(|entry| entry.place) {
                    Some(Place::Vtep(_)) | None if wired => self.output_wire(id, packet, cx),
                    Some(Place::Vtep(vtep)) => self.tunnel(id, vtep, packet, cx),
                    Some(Place::Local(port)) => self.deliver(port, packet, cx),
                    Some(Place::Virtual | Place::Router(_)) | None => {
                        self.lose(packet, DropReason::UnknownUnicast, cx);
                    }
                }
            }
            Origin::Switch => self.lose(packet, DropReason::FunctionFault, cx),
        }
    }

    pub(super) fn tunnel(
        &mut self,
        network: NetworkId,
        vtep: VtepId,
        packet: Packet,
        cx: &mut Cx<'_>,
    ) {
        let (Some(network), Some(to)) = (cx.tables.network(network), cx.tables.vtep(vtep)) else {
            return self.lose(packet, DropReason::PortGone, cx);
        };
        if exceeds(&packet, network.mtu) {
            return self.lose(packet, DropReason::MtuExceeded, cx);
        }
        let (segments, bytes) = (u64::from(packet.segments()), packet.wire_bytes());
        self.ledger.tx += segments;
        self.counters.tunnel_tx(vtep, segments, bytes);
        cx.out.tunnelled.push(Tunnelled {
            packet,
            vni: network.vni,
            vtep: to.addr,
            nsh: None,
        });
    }

    /// A router speaks to a port's host. Where no buffer is free it hears the next time.
    pub(super) fn advertise(
        &mut self,
        port: PortId,
        advertisement: &Advertisement,
        says: Says,
        to: Option<(Mac, Ipv6Addr)>,
        cx: &mut Cx<'_>,
    ) {
        if !cx.tables.port(port).is_some_and(|p| p.admin_up) {
            return;
        }
        let Some(mut packet) = cx.pool.take_small() else {
            return;
        };
        packet.set_origin(net::Origin::Switch);
        let written = advertisement.write(&mut packet, says, to);
        if written.is_err() || packet.parse().is_err() {
            return cx.pool.give(packet);
        }
        self.ledger.originate(Originated::RouterAdvertisement, 1);
        self.deliver(port, packet, cx);
    }

    fn consume(&mut self, what: Consumed, segments: u64) {
        self.ledger.consume(what, segments);
    }

    fn may_answer(&mut self, to: Origin, now: Now) -> bool {
        let limit = self.answers_per_second;
        self.answers_of(to, now).is_some_and(|answers| {
            answers.count = answers.count.saturating_add(1);
            answers.count <= limit
        })
    }

    /// What a port got in this second, or all who are behind the tunnel of a network.
    pub(super) fn answers_of(&mut self, to: Origin, now: Now) -> Option<&mut Answers> {
        let at = match to {
            Origin::Port(port) => port.index() * 2,
            Origin::Tunnel(network) => network.index() * 2 + 1,
            Origin::Switch => return None,
        };
        if at >= self.answers.len() {
            self.answers.resize(at + 1, Answers::default());
        }
        let answers = self.answers.get_mut(at)?;
        if answers.second != now.seconds() {
            *answers = Answers {
                second: now.seconds(),
                ..Answers::default()
            };
        }
        Some(answers)
    }

    /// A packet of this worker's comes to a queue: its own, or that of the queue's owner, from where it comes back, unless it only waits
    /// to be sent.
    fn wait(&mut self, lane: Lane, mut packet: Packet, cx: &mut Cx<'_>) -> Queued {
        let owner = queues::owner(cx.tables, lane, self.workers).unwrap_or(self.worker);
        if owner == self.worker {
            return self.enqueue(lane, packet, cx);
        }
        packet.set_errand(Errand::Wait {
            queue: lane.number(),
            from: self.worker.0,
        });
        self.hand(owner, packet, cx);
        Queued::Gone
    }

    /// Another worker's packet comes to wait here.
    pub(super) fn lodge(&mut self, lane: Lane, from: WorkerId, packet: Packet, cx: &mut Cx<'_>) {
        // Whether the queue is still this worker's is not asked: tables that differ must not pass a packet round for ever.
        if let Queued::Free(mut packet) = self.enqueue(lane, packet, cx) {
            match lane.receiver() {
                Some(port) => {
                    packet.set_errand(Errand::Run);
                    self.hand_out(port, packet, cx);
                }
                None => self.send_back(lane, from, packet, cx),
            }
        }
    }

    fn send_back(&mut self, lane: Lane, to: WorkerId, mut packet: Packet, cx: &mut Cx<'_>) {
        packet.set_errand(Errand::Waited {
            queue: lane.number(),
        });
        self.hand(to, packet, cx);
    }

    fn hand(&mut self, to: WorkerId, packet: Packet, cx: &mut Cx<'_>) {
        self.ledger.handed_over += u64::from(packet.segments());
        cx.out.handed.push((to, packet));
    }

    /// Puts a packet into a queue of this worker's.
    fn enqueue(&mut self, lane: Lane, packet: Packet, cx: &mut Cx<'_>) -> Queued {
        let (segments, bytes) = (packet.segments(), packet.wire_bytes());
        // Who is handed another worker's packet sends an empty one back: it is this worker's pool that pays for what waits.
        let room = cx.pool.limits().map(|limit| (limit * 3 / 4).max(1));
        let queued = match self.queues.enter(cx.tables, lane, packet, room, cx.now) {
            Entered::Free(packet) => return Queued::Free(packet),
            Entered::Passes(packet) => Queued::Free(packet),
            Entered::Waits => {
                self.ledger.held += u64::from(segments);
                Queued::Waits
            }
            Entered::Full(packet, refusal) => {
                self.drop(packet, &refusal, cx.now, cx.pool);
                Queued::Gone
            }
        };
        let counters = match lane {
            // What reached a function is counted with its program.
            Lane::Function { hop, .. } => self.counters.hop(hop),
            Lane::Port { port, direction } | Lane::Outside { port, direction } => {
                let counters = self.counters.limit(port, direction);
                counters.count(segments, bytes);
                counters
            }
        };
        if matches!(queued, Queued::Gone) {
            counters.count_drop(segments);
        }
        let turn = self.queues.turn(lane);
        self.bury(turn, cx);
        queued
    }

    /// What was lost after a queue had taken it.
    fn bury(&mut self, turn: Turn, cx: &mut Cx<'_>) {
        while let Some((lane, packet, refusal)) = self.queues.lost(cx.tables, turn) {
            if packet.errand() == Errand::Run && lane.receiver().is_none() {
                self.orphans.push(ProgramId::from_number(packet.tag()));
            }
            let segments = packet.segments();
            self.ledger.held = self.ledger.held.saturating_sub(u64::from(segments));
            match lane {
                Lane::Function { hop, .. } => self.counters.hop(hop),
                Lane::Port { port, direction } | Lane::Outside { port, direction } => {
                    self.counters.limit(port, direction)
                }
            }
            .count_drop(segments);
            self.drop(packet, &refusal, cx.now, cx.pool);
        }
    }

    /// Forgets the counters and empty queues of what is no longer there, before their dense ids are used again.
    pub(super) fn forget(&mut self, tables: &Tables, now: Now) {
        self.counters.forget(tables);
        self.queues.forget(tables, now);
    }

    /// Takes what this host has of what it shares with others, and says what was let through ([`Queues::divide`]).
    pub(super) fn divide(
        &mut self,
        tables: &Tables,
        parts: &BTreeMap<OneWay, u64>,
        now: Now,
    ) -> BTreeMap<OneWay, Use> {
        self.queues.divide(tables, parts, now)
    }

    /// Does anything wait that was not yet asked for at this time?
    pub(super) fn has_waited(&self, now: Now) -> bool {
        self.queues.waiting(0).is_some() && self.released != now
    }

    /// Lets go what may go; says when more may.
    pub(super) fn release(&mut self, programs: &mut Programs, cx: &mut Cx<'_>) -> Option<Now> {
        self.released = cx.now;
        for id in self.orphans.drain(..) {
            programs.release(id);
        }
        let mut wake: Option<Now> = None;
        let mut at = 0;
        while let Some(turn) = self.queues.waiting(at) {
            while let Some((lane, packet, stranger)) = self.queues.release(cx.tables, turn, cx.now)
            {
                let segments = u64::from(packet.segments());
                self.ledger.held = self.ledger.held.saturating_sub(segments);
                self.released(programs, lane, packet, stranger, cx);
            }
            while let Some((lane, marked)) = self.queues.marked(turn) {
                let stage = match lane {
                    Lane::Function { .. } => Stage::Chain,
                    Lane::Port { .. } | Lane::Outside { .. } => Stage::Qos,
                };
                self.counters.mark(stage, marked);
            }
            self.bury(turn, cx);
            if let Some(next) = self.queues.wake(at, cx.now) {
                wake = Some(wake.map_or(next, |w| w.min(next)));
                at += 1;
            }
        }
        wake
    }

    /// A packet has waited for long enough; `stranger`: its port's place is another's now.
    fn released(
        &mut self,
        programs: &mut Programs,
        lane: Lane,
        mut packet: Packet,
        stranger: bool,
        cx: &mut Cx<'_>,
    ) {
        if let Some(port) = lane.receiver() {
            packet.set_errand(Errand::Run);
            if stranger || cx.tables.port(port).is_none() {
                return self.lose(packet, DropReason::PortGone, cx);
            }
            self.hand_out(port, packet, cx);
        } else if let Errand::Wait { from, .. } = packet.errand() {
            self.send_back(lane, WorkerId(from), packet, cx);
        } else {
            programs.release(ProgramId::from_number(packet.tag()));
            self.go_on(programs, lane, packet, cx);
        }
    }

    /// A packet that has waited, here or elsewhere, goes on behind its queue. While it waited elsewhere nothing kept its program; one
    /// that went meanwhile, of tens of thousands, is a fault with a name.
    pub(super) fn go_on(
        &mut self,
        programs: &mut Programs,
        lane: Lane,
        mut packet: Packet,
        cx: &mut Cx<'_>,
    ) {
        packet.set_errand(Errand::Run);
        let id = ProgramId::from_number(packet.tag());
        let Some(flow) = programs.get(id) else {
            return self.lose(packet, DropReason::FunctionFault, cx);
        };
        let behind = flow
            .actions
            .iter()
            .position(|a| *a == Action::Queue(lane))
            .map_or(flow.actions.len(), |at| at + 1);
        self.queue_up(programs, id, behind, packet, cx);
    }

    /// Drops all that waits.
    pub(super) fn drain(&mut self, programs: &mut Programs, now: Now, pool: &mut PacketPool) {
        self.await_no_more(now, pool);
        for id in self.orphans.drain(..) {
            programs.release(id);
        }
        for (lane, packet) in self.queues.drain() {
            if packet.errand() == Errand::Run && lane.receiver().is_none() {
                programs.release(ProgramId::from_number(packet.tag()));
            }
            let segments = u64::from(packet.segments());
            self.ledger.held = self.ledger.held.saturating_sub(segments);
            let refusal = Refusal::new(DropReason::Shutdown, Stage::Egress);
            self.drop(packet, &refusal, now, pool);
        }
    }
}

/// Writes the answer over a question for a name.
fn names(tables: &Tables, network: NetworkId, packet: &mut Packet) -> Result<bool, DropReason> {
    match tables.network(network) {
        Some(network) if packet.segments() == 1 => {
            answer::answer(packet, network, answer::Server::Switch)
        }
        Some(_) => Err(DropReason::MalformedDns),
        None => Err(DropReason::PortGone),
    }
}

/// The rewrites of a gate; `false` when the packet can't have them.
#[inline]
fn rewrite_all(packet: &mut Packet, gate: &Gate, to: Option<&FiveTuple>) -> bool {
    if gate.translates && !translate(packet, to) {
        return false;
    }
    set_eth(packet, gate.src, gate.dst);
    if let Some(dscp) = gate.dscp
        && rewrite::set_dscp(packet, dscp).is_err()
    {
        return false;
    }
    gate.forwards == 0 || rewrite::decrement_ttl(packet, gate.forwards).is_ok()
}

/// Gives a packet the addresses of the record's other side; `false` when it can't have them.
fn translate(packet: &mut Packet, to: Option<&FiveTuple>) -> bool {
    to.is_some_and(|to| rewrite::translate_to(packet, to).is_ok())
}

fn set_eth(packet: &mut Packet, src: Option<Mac>, dst: Option<Mac>) {
    if let Some(mac) = src {
        rewrite::set_eth_src(packet, mac);
    }
    if let Some(mac) = dst {
        rewrite::set_eth_dst(packet, mac);
    }
}

/// An error that travels with the side `own`: its receiver, and what it quotes, become what the receiver knows. Its sender does
/// where it is the connection's other end; a router in between keeps its address.
fn untranslate_error(
    packet: &mut Packet,
    quoted: &Quoted,
    own: &FiveTuple,
    other: &FiveTuple,
) -> Result<(), rewrite::Unwritable> {
    rewrite::translate_quoted(
        packet,
        quoted,
        Some((other.src_addr(), other.src_port)),
        Some((other.dst_addr(), other.dst_port)),
    )?;
    let from_end = packet.key().ip_src == own.src;
    let src = from_end.then(|| (other.dst_addr(), 0));
    rewrite::translate(packet, src, Some((other.src_addr(), 0)))
}
