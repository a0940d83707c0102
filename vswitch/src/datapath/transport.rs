//! How does a frame come to an appliance of another host, and back?
//!
//! At the home: what is handed over to a port elsewhere is carried to its host, and what comes back enters as out of that port. At the
//! appliance's host: what is brought goes out of the port that it names, and leaves an ordinary record behind, known by the zones of the pair's
//! ports, whose program says to whom its packets are carried back. Nothing is judged there.
//!
//! # References
//! docs/adr/0023-chain-transport.md.

use std::net::IpAddr;

use net::{
    Brought, DropReason, FiveTuple, Label, Now, Origin, Packet, PortId, VtepId, flow_key::FlowKey,
};
use nfv::conntrack::{Begin, Entry, Hit, Side, Track, TrackInput};
use overlay::Nsh;
use smallvec::SmallVec;

use super::{
    Action, CompiledFlow, Datapath, Job, ProgramId, Refusal, Stage, Verdict, Way,
    execute::{Cx, Hands},
    flow::Handed,
    invalid, port_of,
    tables::{Arrival, Port, Tables},
    walk::{Holder, Tracking},
};
use crate::io::Tunnelled;

/// To whom the packets of a record are carried back, and with which side of it this was noted.
#[derive(Debug, Clone, Copy)]
struct Guest {
    vtep: VtepId,
    nsh: Nsh,
    side: Side,
    /// The path of the label under which its packets come out, else 0.
    path: u16,
}

/// What the tables say of the chain transport's last frame: frames of one flow come in runs.
#[derive(Debug, Clone, Copy)]
pub(super) struct Chained {
    from: (u64, Nsh, IpAddr),
    vtep: VtepId,
    arrival: Arrival,
}

/// The action by which a packet goes to this end of a hop's pair.
pub(super) fn toward(tables: &Tables, handed: &Handed, port: PortId, reply: bool) -> Action {
    let Some(far) = tables.far(port) else {
        return Action::Output(port);
    };
    let chain = tables.chains().find(|c| c.section == handed.chain);
    let path = chain.map_or(far.way.0, |chain| chain.path);
    Action::Carry {
        vtep: far.vtep,
        nsh: far.nsh((path, handed.at), reply),
        back: false,
    }
}

impl<M: AsRef<[Entry]> + AsMut<[Entry]>> Datapath<M> {
    /// Says what a frame of the chain transport is.
    pub(super) fn enter_chained(
        &mut self,
        tables: &Tables,
        packet: &mut Packet,
        (nsh, from): (Nsh, IpAddr),
    ) -> Result<(), DropReason> {
        let now_from = (tables.version(), nsh, from);
        let chained = match self.chained {
            Some(known) if known.from == now_from => known,
            _ => {
                let vtep = tables.vtep_id(from).ok_or(DropReason::UnknownVtep)?;
                Chained {
                    from: now_from,
                    vtep,
                    arrival: tables.arrival(&nsh, vtep)?,
                }
            }
        };
        self.chained = Some(chained);
        self.hands.counters.tunnel_rx(chained.vtep);
        let (to, label, shown) = match chained.arrival {
            Arrival::Out(port) => {
                packet.set_origin(Origin::Port(port));
                return Ok(());
            }
            Arrival::In(to, label) => (to, label, false),
            Arrival::Show(to) => (to, None, true),
        };
        packet.set_origin(Origin::Switch);
        packet.set_brought(Brought {
            by: chained.vtep,
            to,
            path: nsh.path,
            index: nsh.index,
            ttl: nsh.ttl,
            reply: nsh.reply,
            label,
            shown,
        });
        Ok(())
    }

    /// What another host handed to an appliance here goes in by its port.
    pub(super) fn bring_in(
        &mut self,
        tables: &Tables,
        job: &Job,
        brought: Brought,
        now: Now,
    ) -> Way {
        let packet = &job.packet;
        let refuse = |reason| Way::Drop(Refusal::new(reason, Stage::Chain).at(brought.to));
        if brought.shown {
            return self.bring_copy(tables, brought.to, now);
        }
        let leg = tables.leg(brought.to);
        let out_by = leg.map(|leg| {
            if brought.reply {
                leg.ingress
            } else {
                leg.egress
            }
        });
        let to = tables.port(brought.to);
        let Some((to, from)) = to.zip(out_by.and_then(|port| tables.port(port))) else {
            return refuse(DropReason::ChainPlaceUnknown);
        };
        if !to.admin_up || !from.admin_up {
            return refuse(DropReason::AdminDown);
        }
        // Errors come out as what they are about does.
        let headers = packet.headers();
        if headers.quoted(packet.bytes()).is_none() {
            let Some(tuple) = packet.key().five_tuple() else {
                return refuse(DropReason::ChainPlaceAmbiguous);
            };
            if let Some(worker) = self.elsewhere(from.zone, &tuple, job.handed) {
                return Way::Hand(worker);
            }
            if let Err(refusal) = self.keep_way_back(tables, packet, (from, to), tuple, now) {
                return Way::Drop(refusal);
            }
        }
        let mut flow = plain(Origin::Switch, Action::Output(to.dense));
        if let Some(label) = brought.label {
            flow.actions.insert(0, Action::Label(label));
        }
        flow.depend(tables.depend(to.section));
        let program = self.intern(flow, tables, now);
        Way::Run(program, None)
    }

    /// A copy is shown to its port, and leaves nothing behind.
    fn bring_copy(&mut self, tables: &Tables, to: PortId, now: Now) -> Way {
        let refuse = |reason| Way::Drop(Refusal::new(reason, Stage::Chain).at(to));
        let Some(port) = tables.port(to) else {
            return refuse(DropReason::ChainPlaceUnknown);
        };
        if !port.admin_up {
            return refuse(DropReason::AdminDown);
        }
        let mut flow = plain(Origin::Switch, Action::Output(to));
        flow.depend(tables.depend(port.section));
        let program = self.intern(flow, tables, now);
        Way::Run(program, None)
    }

    /// A record for what comes out of `from` of a connection that goes in by `to`, unless there is one.
    fn keep_way_back(
        &mut self,
        tables: &Tables,
        packet: &Packet,
        (from, to): (&Port, &Port),
        tuple: FiveTuple,
        now: Now,
    ) -> Result<(), Refusal> {
        let Some(brought) = packet.brought() else {
            return Err(invalid(packet));
        };
        let refuse = |reason| Refusal::new(reason, Stage::Chain).at(to.dense);
        let key = packet.key();
        let first = TrackInput::of(packet);
        let begins = first.begins() == Begin::Tracked;
        let is_tcp = matches!(first, TrackInput::Tcp(_));
        let said = Nsh {
            vni: tables
                .network(to.network)
                .ok_or(refuse(DropReason::PortGone))?
                .vni,
            path: brought.path,
            index: brought.index,
            ttl: brought.ttl,
            port: to.id.into(),
            reply: brought.reply,
        };
        if let Some(hit) = self.conntrack.lookup(from.zone, &tuple)
            && let Some(entry) = self.conntrack.entry(hit.conn).copied()
        {
            let side = entry.side(hit.side);
            let same_ends = (side.eth_src(), side.eth_dst()) == (key.src_mac(), key.dst_mac());
            let over = entry.stage().is_over();
            let guest = self.guest(&entry);
            let back = said.back(from.id, brought.reply);
            let same = guest.is_some_and(|guest| {
                (guest.vtep, guest.nsh.path, guest.nsh.index) == (brought.by, back.path, back.index)
                    && guest.path == brought.label.map_or(0, Label::path)
            });
            // A SYN begins anew, whatever was there.
            if same && same_ends && !(is_tcp && begins) {
                return Ok(());
            }
            let original = ProgramId::from_number(entry.side(Side::Original).program());
            let stranger = guest.map_or_else(
                // A connection of this host's own, if its program is not of a process before.
                || self.programs.get(original).is_some(),
                |guest| guest.vtep != brought.by && tables.vtep(guest.vtep).is_some(),
            );
            if stranger && !over {
                return Err(refuse(DropReason::ChainPlaceAmbiguous));
            }
            self.close(hit);
        }
        // Of TCP any segment may be the first that is seen here.
        if !begins && !is_tcp {
            return Err(invalid(packet));
        }
        let mut flow = way_back(
            tables,
            from,
            (brought.by, said.back(from.id, brought.reply)),
        );
        flow.path = brought.label.map_or(0, Label::path);
        let tracking = Tracking {
            zones: [from.zone, to.zone],
            reply: tuple.reversed(),
            reply_eth: (key.dst_mac(), key.src_mac()),
            owner: Holder::Port(from.dense),
            source: None,
            forwarded: false,
            received: false,
        };
        match self.begin(tables, packet, flow, &tracking, now) {
            Way::Drop(refusal) => Err(refusal),
            Way::Open
            | Way::Judge(_)
            | Way::Renew(_)
            | Way::Run(..)
            | Way::Once(_)
            | Way::Stop(_)
            | Way::Hand(_) => Ok(()),
        }
    }

    /// To whom the packets of a record are carried back; `None`: it is a connection of this host's own, or another process made it.
    fn guest(&self, entry: &Entry) -> Option<Guest> {
        Side::BOTH.into_iter().find_map(|side| {
            let id = ProgramId::from_number(entry.side(side).program());
            let flow = self.programs.get(id)?;
            let path = flow.path;
            match *flow.actions.as_slice() {
                [
                    Action::Carry {
                        vtep,
                        nsh,
                        back: true,
                    },
                ] => Some(Guest {
                    vtep,
                    nsh,
                    side,
                    path,
                }),
                _ => None,
            }
        })
    }

    /// Is a record of a connection whose home is elsewhere?
    pub(super) fn is_guest(&self, entry: &Entry) -> bool {
        self.guest(entry).is_some()
    }

    /// A packet out of an appliance, of a record whose program does not stand, or that does not show its addresses. `None`: it is no guest's.
    pub(super) fn bring_back(
        &mut self,
        tables: &Tables,
        packet: &Packet,
        (hit, entry): (Hit, &Entry),
        now: Now,
    ) -> Option<Way> {
        let unplaced = Refusal {
            port: port_of(packet),
            ..Refusal::new(DropReason::ChainPlaceUnknown, Stage::Chain)
        };
        let Some(guest) = self.guest(entry) else {
            if !is_inside(tables, packet, entry) {
                return None;
            }
            // Its home was known to another process.
            self.close(hit);
            return Some(Way::Drop(unplaced));
        };
        let Some(flow) = carry_back(tables, packet, (hit.side, entry), guest) else {
            self.close(hit);
            return Some(Way::Drop(unplaced));
        };
        let side = entry.side(hit.side);
        let key: &FlowKey = packet.key();
        if flow.path != key.path {
            let reason = DropReason::ChainLabelWrong;
            return Some(Way::Drop(Refusal { reason, ..unplaced }));
        }
        if (side.eth_src(), side.eth_dst()) != (key.src_mac(), key.dst_mac()) {
            return Some(Way::Drop(unplaced));
        }
        let program = self.intern(flow, tables, now);
        self.conntrack
            .set_program(hit.conn, hit.side, program.number());
        Some(match self.track(packet, hit, now) {
            Track::Ok => Way::Run(program, None),
            // Its home begins it anew when it sees it.
            Track::Invalid | Track::Renew => self.invalid(packet, hit),
        })
    }

    /// An error out of an appliance about a packet of a guest's record goes with it.
    pub(super) fn error_back(
        &mut self,
        tables: &Tables,
        packet: &Packet,
        (side, entry): (Side, &Entry),
    ) -> Option<Way> {
        let guest = self.guest(entry)?;
        let flow = carry_back(tables, packet, (side, entry), guest);
        let Some(flow) = flow.filter(|flow| flow.path == packet.key().path) else {
            return Some(Way::Drop(invalid(packet)));
        };
        self.once = Some(flow);
        Some(Way::Once(None))
    }
}

/// Is a record known by both ports of the pair that a packet comes out of? No connection of this host's own is.
fn is_inside(tables: &Tables, packet: &Packet, entry: &Entry) -> bool {
    let Origin::Port(port) = packet.origin() else {
        return false;
    };
    let leg = tables.leg(port).filter(|leg| leg.ingress != leg.egress);
    leg.is_some_and(|leg| {
        let ends = [leg.ingress, leg.egress].map(|port| tables.port(port).map(|p| p.zone));
        let [a, b] = Side::BOTH.map(|side| Some(entry.side(side).zone()));
        ends == [a, b] || ends == [b, a]
    })
}

/// The program of what comes out of the port that a packet came out of, with this side of a guest's record.
fn carry_back(
    tables: &Tables,
    packet: &Packet,
    (side, entry): (Side, &Entry),
    guest: Guest,
) -> Option<CompiledFlow> {
    let Origin::Port(port) = packet.origin() else {
        return None;
    };
    let port = tables.port(port)?;
    let leg = tables.leg(port.dense)?;
    let own = entry.side(side).zone() == port.zone;
    let known = tables.vtep(guest.vtep).is_some_and(|v| v.known);
    let in_pair = port.dense == leg.ingress || port.dense == leg.egress;
    let reply = if side == guest.side {
        guest.nsh.reply
    } else {
        !guest.nsh.reply
    };
    let nsh = Nsh {
        port: port.id.into(),
        vni: tables.network(port.network)?.vni,
        reply,
        ..guest.nsh
    };
    let mut flow = way_back(tables, port, (guest.vtep, nsh));
    flow.replies = side == Side::Reply;
    flow.path = guest.path;
    (own && known && in_pair).then_some(flow)
}

/// A program that does nothing but this.
fn plain(origin: Origin, action: Action) -> CompiledFlow {
    CompiledFlow {
        origin,
        mask: net::FlowMask::default(),
        actions: SmallVec::from_iter([action]),
        hops: SmallVec::new(),
        meters: SmallVec::new(),
        depends: SmallVec::new(),
        verdict: Verdict::Deliver,
        tracked: false,
        replies: false,
        handed: None,
        path: 0,
    }
}

/// The program of what comes out of a port of an appliance that was handed over by another host.
fn way_back(tables: &Tables, from: &Port, (vtep, nsh): (VtepId, Nsh)) -> CompiledFlow {
    let back = Action::Carry {
        vtep,
        nsh,
        back: true,
    };
    let mut flow = plain(Origin::Port(from.dense), back);
    flow.tracked = true;
    flow.depend(tables.depend(from.section));
    flow.depend(tables.depend(tables.appliances()));
    if let Some(network) = tables.network(from.network) {
        flow.depend(tables.depend(network.section));
    }
    flow
}

impl Hands {
    /// To another host of its chain.
    pub(super) fn carry(&mut self, vtep: VtepId, nsh: Nsh, packet: Packet, cx: &mut Cx<'_>) {
        let Some(to) = cx.tables.vtep(vtep) else {
            return self.lose(packet, DropReason::PortGone, cx);
        };
        let (segments, bytes) = (u64::from(packet.segments()), packet.wire_bytes());
        self.ledger.tx += segments;
        self.counters.tunnel_tx(vtep, segments, bytes);
        cx.out.tunnelled.push(Tunnelled {
            packet,
            vni: nsh.vni,
            vtep: to.addr,
            nsh: Some(nsh),
        });
    }
}
