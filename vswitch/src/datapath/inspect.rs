//! Which bytes may a connection begin with?
//!
//! Where a program names inspectors, each packet of its connections is read behind the protocol's machine and before anything of it is
//! rewritten, until all of them have cleared the connection: then its record says so, and its packets are not read again. What is refused
//! is counted at the hop that refused it.
//!
//! # Invariants
//! - What inspectors said is kept in the connection's record, so a new process and a new form of the chain know it: cleared by whom, or condemned.
//! - A connection that one of them neither cleared nor saw begin is undecided: it passes if that one's settings say so, else it does not.
//! - A record of the connection table that begins anew has no inspection of one that had its place before.
//!
//! # Cost
//! For a connection that is cleared a look at its program and at two words of its record. Else a look-up a packet and a step a byte.
//!
//! # Attack
//! Inspections are bounded (`nfv::inspect::records`): what finds no room is undecided, and of one function never more than a quarter. A reset
//! counts with the errors of the switch.
//!
//! # References
//! docs/adr/0025-mirrors-and-inspectors.md; RFC 9293 §3.10.7.4 (what a reset must show).

use std::sync::Arc;

use net::{
    DropReason, FiveTuple, Fragment, Id, L4, Originated, Packet, TcpSegment, ids::kind, tcp::flag,
};
use nfv::{
    conntrack::{ConnId, Entry, Hit, Inspected},
    inspect::{
        Alerts, Condemned, Inspector, Undecided,
        records::{Limits, Records},
        stream::Refused,
    },
};
use smallvec::SmallVec;

use super::{
    Datapath, ProgramId, Refusal, Stage, Way,
    execute::{Cx, Hands},
    flow::{Action, CompiledFlow, Programs},
    port_of,
    rejects::{Reset, reset},
    tables::{HopId, Tables},
};

/// How many inspectors a connection has room for.
pub(super) const MOST: usize = nfv::chain::MAX_INSPECTORS;

/// The digests of a program's inspectors; 0: nobody's.
pub(super) type Asked = [u32; MOST];

/// Those of a program without inspectors.
pub(super) const NOBODY: Asked = [0; MOST];

/// A connection's inspection by the inspector that began so manieth with it.
type Key = (ConnId, u8);

/// The inspections of a worker.
#[derive(Debug)]
pub(super) struct Inspections(Records<Key, Id<kind::Function>>);

/// A packet that an inspector refused.
#[derive(Debug, Clone, Copy)]
pub(super) struct Stopped {
    refusal: Refusal,
    /// Are both ends told?
    told: bool,
    /// The receiver is by the connection's own way, where its addresses become these.
    to: Option<FiveTuple>,
}

/// Who reads a connection, and where.
struct Asking {
    hop: HopId,
    function: Id<kind::Function>,
    inspector: Arc<Inspector>,
}

impl CompiledFlow {
    /// The digests of its inspectors.
    pub(super) fn asked(&self) -> Asked {
        let mut asked = NOBODY;
        let digests = self.actions.iter().filter_map(inspector_of);
        for (place, (_, digest)) in asked.iter_mut().zip(digests) {
            *place = digest;
        }
        asked
    }
}

impl Inspections {
    /// None yet.
    pub(super) fn new() -> Self {
        Self(Records::new(Limits::default()))
    }

    #[cfg(test)]
    pub(super) fn hold_at_most(&mut self, records: usize) {
        self.0 = Records::new(Limits {
            records,
            ..Limits::default()
        });
    }

    /// Forgets the connection that had this place before.
    pub(super) fn forget(&mut self, conn: ConnId) {
        if !self.0.is_empty() {
            for n in 0..MOST {
                self.0.end(&key(conn, n));
            }
        }
    }

    /// Forgets connections that are over.
    pub(super) fn sweep(&mut self, lives: impl Fn(ConnId) -> bool) {
        if !self.0.is_empty() {
            self.0.retain(|(conn, _)| lives(*conn));
        }
    }

    /// The inspection that this inspector has of a connection.
    fn of(&self, conn: ConnId, inspector: &Inspector) -> Option<Key> {
        let keys = (0..MOST).map(|n| key(conn, n));
        let mut of = keys.filter(|key| {
            let by = self.0.inspector(key);
            by.is_some_and(|by| **by == *inspector)
        });
        of.next()
    }
}

fn key(conn: ConnId, n: usize) -> Key {
    (conn, u8::try_from(n).unwrap_or(u8::MAX))
}

impl<M: AsRef<[Entry]> + AsMut<[Entry]>> Datapath<M> {
    /// What has begun, if its inspectors let it.
    pub(super) fn inspect_first(
        &mut self,
        tables: &Tables,
        packet: &Packet,
        hit: Hit,
        (program, to): (ProgramId, Option<FiveTuple>),
    ) -> Way {
        self.inspections.forget(hit.conn);
        let asked = self.programs.get(program).map(CompiledFlow::asked);
        if asked.is_none_or(|asked| asked == NOBODY) {
            return Way::Run(program, to);
        }
        let segment = TcpSegment::read(packet.bytes(), packet.headers());
        if segment.is_some_and(|s| s.has(flag::SYN))
            && let Err(stopped) = self.begin_inspections(tables, packet, hit, program)
        {
            self.close(hit);
            return self.stop(program, stopped);
        }
        self.inspect(tables, packet, hit, (program, to))
    }

    /// A packet of a known connection, if its inspectors let it.
    pub(super) fn inspect_again(
        &mut self,
        tables: &Tables,
        packet: &Packet,
        hit: Hit,
        (program, to): (ProgramId, Option<FiveTuple>),
    ) -> Way {
        if self.is_cleared(hit, program) {
            return Way::Run(program, to);
        }
        self.inspect(tables, packet, hit, (program, to))
    }

    /// Needs none of the program's inspectors to see more of a connection?
    pub(super) fn is_cleared(&self, hit: Hit, program: ProgramId) -> bool {
        let asked = self
            .programs
            .get(program)
            .map_or(NOBODY, CompiledFlow::asked);
        let entry = self.conntrack.entry(hit.conn);
        asked == NOBODY || entry.is_some_and(|entry| entry.inspected().passes(asked))
    }

    fn begin_inspections(
        &mut self,
        tables: &Tables,
        packet: &Packet,
        hit: Hit,
        program: ProgramId,
    ) -> Result<(), Stopped> {
        let mut said = Inspected::default();
        let asking = self.asking(tables, packet, program)?;
        let asked = digests(&asking);
        for (n, by) in asking.iter().enumerate() {
            let inspector = Arc::clone(&by.inspector);
            if self
                .inspections
                .0
                .begin(key(hit.conn, n), by.function, inspector)
            {
                continue;
            }
            if by.inspector.undecided() == Undecided::Closed {
                return Err(stopped(packet, by.hop, DropReason::InspectorFull));
            }
            said.clear(by.inspector.digest().number(), asked);
        }
        self.conntrack.set_inspected(hit.conn, said);
        Ok(())
    }

    /// A packet of a connection that its inspectors have not cleared yet.
    #[cold]
    pub(super) fn inspect(
        &mut self,
        tables: &Tables,
        packet: &Packet,
        hit: Hit,
        (program, to): (ProgramId, Option<FiveTuple>),
    ) -> Way {
        match self.read(tables, packet, hit, (program, to)) {
            Ok(()) => Way::Run(program, to),
            Err(stopped) => self.stop(program, stopped),
        }
    }

    /// A packet that its record refuses: an inspector may have said so.
    pub(super) fn condemned(
        &mut self,
        packet: &Packet,
        hit: Hit,
        program: ProgramId,
    ) -> Option<Way> {
        let said = self.conntrack.entry(hit.conn)?.inspected();
        let (hop, _) = self
            .programs
            .get(program)?
            .actions
            .iter()
            .find_map(inspector_of)?;
        said.condemned.then(|| {
            self.stop(
                program,
                stopped(packet, hop, DropReason::InspectorCondemned),
            )
        })
    }

    fn stop(&mut self, program: ProgramId, stopped: Stopped) -> Way {
        self.stopped = Some(stopped);
        Way::Stop(program)
    }

    fn asking(
        &self,
        tables: &Tables,
        packet: &Packet,
        program: ProgramId,
    ) -> Result<SmallVec<[Asking; MOST]>, Stopped> {
        let flow = self.programs.get(program);
        let hops = flow
            .into_iter()
            .flat_map(|flow| flow.actions.iter().filter_map(inspector_of));
        hops.map(|(hop, _)| {
            let found = tables.hop(hop);
            let asking = found.and_then(|found| {
                Some(Asking {
                    hop,
                    function: found.function,
                    inspector: Arc::clone(found.inspector.as_ref()?),
                })
            });
            asking.ok_or_else(|| stopped(packet, hop, DropReason::FunctionFault))
        })
        .collect()
    }

    fn read(
        &mut self,
        tables: &Tables,
        packet: &Packet,
        hit: Hit,
        (program, to): (ProgramId, Option<FiveTuple>),
    ) -> Result<(), Stopped> {
        let asking = self.asking(tables, packet, program)?;
        let Some(entry) = self.conntrack.entry(hit.conn) else {
            return Ok(());
        };
        let mut said = entry.inspected();
        let asked = digests(&asking);
        let fragment = packet.key().ip_frag != Fragment::Whole as u8;
        for by in &asking {
            let digest = by.inspector.digest().number();
            if said.condemned {
                return Err(stopped(packet, by.hop, DropReason::InspectorCondemned));
            }
            if said.is_cleared(digest) {
                continue;
            }
            if fragment {
                return Err(stopped(packet, by.hop, DropReason::InspectorFragment));
            }
            let alerts = match packet.headers().l4 {
                L4::Tcp => self.read_segment(packet, hit, by, &mut said, asked),
                L4::Udp => {
                    let read = by.inspector.datagram(hit.side, payload(packet));
                    read.map_err(Refused::Condemned)
                }
                // An error about it, which says nothing of its bytes.
                L4::Other | L4::Icmp | L4::Icmp6 | L4::Sctp => Ok(Alerts::default()),
            };
            match alerts {
                Ok(Alerts(met)) => {
                    self.hands.counters.hop(by.hop).alerts += u64::from(met.count_ones());
                }
                Err(refused) => {
                    // What those before it cleared they have forgotten.
                    self.conntrack.set_inspected(hit.conn, said);
                    let refused = self.refuse(packet, hit, by.hop, refused);
                    return Err(Stopped { to, ..refused });
                }
            }
        }
        self.conntrack.set_inspected(hit.conn, said);
        Ok(())
    }

    fn read_segment(
        &mut self,
        packet: &Packet,
        hit: Hit,
        by: &Asking,
        said: &mut Inspected,
        asked: Asked,
    ) -> Result<Alerts, Refused> {
        let Some(segment) = TcpSegment::read(packet.bytes(), packet.headers()) else {
            return Err(Refused::Undecided);
        };
        let payload = payload(packet);
        let digest = by.inspector.digest().number();
        let Some(key) = self.inspections.of(hit.conn, &by.inspector) else {
            if by.inspector.undecided() == Undecided::Open {
                said.clear(digest, asked);
                return Ok(Alerts::default());
            }
            // What carries nothing shows nothing, and lets both ends hear that the other is there.
            let empty = payload.is_empty() && segment.flags & (flag::SYN | flag::FIN) == 0;
            return if empty {
                Ok(Alerts::default())
            } else {
                Err(Refused::Undecided)
            };
        };
        let passed = self
            .inspections
            .0
            .judge(&key, hit.side, &segment, payload)?;
        if passed.cleared {
            said.clear(digest, asked);
        }
        Ok(passed.alerts)
    }

    /// What becomes of a connection whose packet was refused.
    fn refuse(&mut self, packet: &Packet, hit: Hit, hop: HopId, refused: Refused) -> Stopped {
        let (reason, condemned) = match refused {
            Refused::Condemned(why @ Condemned::Pattern { .. }) => {
                (DropReason::InspectorPattern, Some(why))
            }
            Refused::Condemned(why @ Condemned::Protocol) => {
                (DropReason::InspectorProtocol, Some(why))
            }
            Refused::Gap => (DropReason::InspectorGap, None),
            Refused::Rewritten => (DropReason::InspectorRewritten, None),
            Refused::Urgent => (DropReason::InspectorUrgent, None),
            Refused::Undecided => (DropReason::InspectorUndecided, None),
            Refused::Full => (DropReason::InspectorFull, None),
        };
        // A datagram is judged by itself.
        if condemned.is_some() && packet.headers().l4 == L4::Tcp {
            self.conntrack.condemn(hit.conn);
            self.inspections.forget(hit.conn);
        }
        Stopped {
            told: matches!(condemned, Some(Condemned::Pattern { reset: true, .. })),
            ..stopped(packet, hop, reason)
        }
    }
}

impl Hands {
    /// Drops a packet that an inspector refused, and tells both ends if that says so.
    pub(super) fn stop(
        &mut self,
        programs: &mut Programs,
        id: ProgramId,
        mut packet: Packet,
        stopped: &Stopped,
        cx: &mut Cx<'_>,
    ) {
        let Stopped { refusal, told, to } = stopped;
        if let (Some(flow), Some(hop)) = (programs.get(id), refusal.hop) {
            self.count_refused(flow, hop, &packet);
        }
        if *told {
            self.tell_rejected(&mut packet, refusal, None, cx);
            if let Some(ahead) = reset_ahead(&packet, cx) {
                self.ledger.originate(Originated::TcpReset, 1);
                self.run(programs, id, ahead, *to, cx);
            }
        }
        self.drop(packet, refusal, cx.now, cx.pool);
    }
}

/// The reset that goes on in place of a segment: what its receiver would have got next, without bytes.
fn reset_ahead(packet: &Packet, cx: &mut Cx<'_>) -> Option<Packet> {
    let segment = TcpSegment::read(packet.bytes(), packet.headers())?;
    if segment.has(flag::RST) {
        return None;
    }
    let key = packet.key();
    let mut ahead = cx.pool.take_small()?;
    let says = Reset {
        // It takes the way of the packet whose place it has.
        origin: packet.origin(),
        eth: (key.src_mac(), key.dst_mac()),
        from: (key.src_addr(), key.l4_src),
        to: (key.dst_addr(), key.l4_dst),
        seq: segment.seq,
        ack: segment.ack,
        flags: flag::RST | segment.flags & flag::ACK,
    };
    if reset(&says, &mut ahead).is_none() {
        cx.pool.give(ahead);
        return None;
    }
    Some(ahead)
}

/// What a packet carries, each segment of a super-frame behind the other.
fn payload(packet: &Packet) -> &[u8] {
    let headers = packet.headers();
    let end = usize::try_from(headers.end).unwrap_or(usize::MAX);
    let bytes = packet.bytes();
    bytes
        .get(usize::from(headers.payload_at)..end)
        .unwrap_or_default()
}

fn inspector_of(action: &Action) -> Option<(HopId, u32)> {
    if let Action::Inspect { hop, digest } = action {
        Some((*hop, *digest))
    } else {
        None
    }
}

fn digests(asking: &[Asking]) -> Asked {
    let mut asked = NOBODY;
    for (place, by) in asked.iter_mut().zip(asking) {
        *place = by.inspector.digest().number();
    }
    asked
}

fn stopped(packet: &Packet, hop: HopId, reason: DropReason) -> Stopped {
    Stopped {
        refusal: Refusal {
            port: port_of(packet),
            hop: Some(hop),
            ..Refusal::new(reason, Stage::Chain)
        },
        told: false,
        to: None,
    }
}
