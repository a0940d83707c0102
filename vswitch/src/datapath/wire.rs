//! What goes out of a wire, and what is heard on it?
//!
//! On a network with a wire, "outside" is the wire: what this switch does not have leaves by it, and nothing crosses the underlay. A frame off
//! the wire has the origin of one out of a tunnel, [`Origin::Tunnel`], so it passes the same tables and records; it never goes back.
//! Neighbours that routers look for ([`super::neighbours`]) are asked here, and heard.

use std::{collections::HashSet, net::IpAddr, time::Duration};

use net::{
    Consumed, DropReason, Id, Mac, NetworkId, Now, Origin, Originated, Packet,
    flow_key::{ethertype, proto},
    ids::kind,
};
use nfv::conntrack::Entry;
use overlay::Place;

use super::{
    Datapath, Stage, Tables,
    execute::{Cx, Hands},
    flow::{Action, Verdict},
    neighbours::{self, Frame, Heard, Resolution, Said, Speaker},
    tables::{Network, SectionIndex},
    too_big::exceeds,
    walk::{Walk, Witness},
};

impl<'a, W: Witness> Walk<'a, W> {
    /// Does what is not here go out of this network's wire? Not what came in by it, unless a router sends it on.
    pub(super) fn leads_out(&self, network: &Network) -> bool {
        let came_in = self.flow.origin == Origin::Tunnel(network.dense) && self.routed.is_none();
        network.wire.is_some() && !came_in
    }

    /// Out of the wire.
    pub(super) fn send_out(&mut self, network: &'a Network) {
        self.leave();
        self.says(Stage::L2, || network.outside());
        self.flow.actions.push(Action::Wire(network.dense));
    }

    /// Who has an address outside, as far as that is known; who is not known is asked for. An explanation asks nobody.
    pub(super) fn ask_outside(
        &mut self,
        network: &Network,
        addr: IpAddr,
        speaker: Speaker,
    ) -> Result<Mac, DropReason> {
        let outside = self.tables.outside();
        let found = if W::LISTENS {
            let found = outside.look(network.id, addr);
            found.unwrap_or(Resolution::Pending)
        } else {
            let answer = outside.resolve(network.id, addr, speaker, self.lent.now);
            self.flow.depend(answer.depends);
            answer.found
        };
        match found {
            Resolution::Resolved(mac) => Ok(mac),
            Resolution::Pending => Err(DropReason::NeighbourUnresolved),
            Resolution::Unresolvable => Err(DropReason::UnknownNeighbor),
        }
    }

    /// Does somebody on the wire ask for an address that a gateway here has? It is answered.
    pub(super) fn asked_for_a_gateway(&mut self, network: &Network) -> bool {
        if network.wire.is_none() {
            return false;
        }
        let target = match self.probe.ethertype() {
            ethertype::ARP if self.probe.ip_proto() == 1 => self.probe.ip_dst(),
            ethertype::IPV6 if self.probe.ip_proto() == proto::ICMP6 => {
                if self.probe.l4_src() != 135 {
                    return false;
                }
                self.probe.nd_target()
            }
            _ => return false,
        };
        self.depend(network.members);
        let Some((router, speaker)) = gateway_of(self.tables, network, target) else {
            return false;
        };
        self.depend(router);
        let mac = speaker.mac;
        if target.is_ipv4() {
            self.answers(Action::AnswerArp(mac), Consumed::Arp);
        } else {
            let action = Action::AnswerNd { mac, router: true };
            self.answers(action, Consumed::NeighborDiscovery);
        }
        self.says(Stage::Service, || {
            format!("{target} is a gateway's, answered with {mac}")
        });
        true
    }

    /// Is it a neighbour's answer to one of the routers here? It was heard when it came in.
    pub(super) fn answers_a_router(&mut self, network: &Network) -> bool {
        if network.wire.is_none() {
            return false;
        }
        let what = match self.probe.ethertype() {
            ethertype::ARP if self.probe.ip_proto() == 2 => Consumed::Arp,
            ethertype::IPV6 if self.probe.ip_proto() == proto::ICMP6 => Consumed::NeighborDiscovery,
            _ => return false,
        };
        if what == Consumed::NeighborDiscovery && self.probe.l4_src() != 136 {
            return false;
        }
        let to = network.fdb.get(self.probe.eth_dst());
        self.depend(network.members);
        if !to.is_some_and(|entry| matches!(entry.place, Place::Router(_))) {
            return false;
        }
        self.flow.actions.push(Action::Hear);
        self.flow.verdict = Verdict::Consume(what);
        self.says(Stage::Service, || "a neighbour answers".to_owned());
        true
    }
}

impl Hands {
    pub(super) fn output_wire(&mut self, id: NetworkId, packet: Packet, cx: &mut Cx<'_>) {
        let network = cx.tables.network(id);
        let Some((mtu, port)) = network.and_then(|n| Some((n.mtu, n.wire.as_ref()?.port))) else {
            return self.lose(packet, DropReason::PortGone, cx);
        };
        if exceeds(&packet, mtu) {
            return self.lose(packet, DropReason::MtuExceeded, cx);
        }
        self.hand_out(port, packet, cx);
    }
}

/// Does it say something of a neighbour?
#[inline]
fn speaks_of_neighbours(packet: &Packet) -> bool {
    let key = packet.key();
    match key.ethertype {
        ethertype::ARP => true,
        ethertype::IPV6 => key.ip_proto == proto::ICMP6 && matches!(key.l4_src, 135 | 136),
        _ => false,
    }
}

/// What a frame off a wire says of its sender is noted, if somebody asked for it.
#[inline]
pub(super) fn listen(tables: &Tables, packet: &Packet, now: Now) {
    if let Origin::Tunnel(network) = packet.origin()
        && speaks_of_neighbours(packet)
        && let Some(network) = tables.network(network)
        && network.wire.is_some()
    {
        hear(tables, network, packet, now);
    }
}

/// The gateway here that has this address on a network: what it depends on, and as who it speaks.
fn gateway_of(tables: &Tables, network: &Network, addr: IpAddr) -> Option<(SectionIndex, Speaker)> {
    let known = network.neighbours.get(addr)?;
    let Place::Router(router) = network.fdb.get(known.mac)?.place else {
        return None;
    };
    let router = tables.router(router)?;
    let (_, interface) = router.interface(known.port)?;
    let up = router.admin_up && interface.admin_up && interface.outside;
    let mac = interface.mac;
    up.then_some((router.section, Speaker { mac, addr }))
}

fn hear(tables: &Tables, network: &Network, packet: &Packet, now: Now) {
    let Some(heard) = Heard::of(packet) else {
        return;
    };
    let asked = heard.about.filter(|_| heard.said == Said::Asks);
    let speaker = asked.and_then(|addr| gateway_of(tables, network, addr));
    let speaker = speaker.map(|(_, speaker)| speaker);
    // Who lives here says nothing on the wire: somebody says it in its name.
    let is_here = heard.mac.and_then(|mac| network.fdb.get(mac));
    if !is_here.is_some_and(|entry| matches!(entry.place, Place::Local(_) | Place::Router(_))) {
        tables.outside().hear(network.id, &heard, speaker, now);
    }
}

/// Tells what is here now, on wires: as often as RFC 4861 §7.2.6 and RFC 5227 §2.3 have it, in the first second.
#[derive(Debug, Default)]
pub(super) struct Announcer {
    here: HashSet<(Id<kind::Network>, Speaker)>,
    due: Vec<Announced>,
}

/// An address that is told of.
#[derive(Debug, Clone, Copy)]
struct Announced {
    network: Id<kind::Network>,
    of: Speaker,
    left: u8,
    at: Now,
}

/// How often, and how far apart.
const ANNOUNCEMENTS: u8 = 3;
const APART: Duration = Duration::from_millis(400);

impl Announcer {
    /// There are other tables: what begins here is to be told, what went is not told of any more.
    fn follow(&mut self, tables: &Tables, now: Now) {
        let mut here = HashSet::new();
        for router in tables.routers().filter(|r| r.admin_up) {
            for interface in router.interfaces.iter().filter(|i| i.outside && i.admin_up) {
                let network = tables.network(interface.network);
                let Some(network) = network.filter(|n| n.admin_up && n.wire.is_some()) else {
                    continue;
                };
                let mac = interface.mac;
                here.extend(
                    interface
                        .answers_for()
                        .map(|addr| (network.id, Speaker { mac, addr })),
                );
            }
        }
        self.due.retain(|d| here.contains(&(d.network, d.of)));
        let new = here.difference(&self.here);
        self.due.extend(new.map(|(network, of)| Announced {
            network: *network,
            of: *of,
            left: ANNOUNCEMENTS,
            at: now,
        }));
        self.here = here;
    }
}

impl<M: AsRef<[Entry]> + AsMut<[Entry]>> Datapath<M> {
    /// There are other tables. One worker speaks for all.
    pub(super) fn follow_outside(&mut self, tables: &Tables, now: Now) {
        if self.settings.worker.0 == 0 {
            self.announcer.follow(tables, now);
        }
    }

    /// Tells on wires what is here now. When next; `None` where all is told.
    pub(super) fn announce(&mut self, cx: &mut Cx<'_>) -> Option<Now> {
        let mut due = std::mem::take(&mut self.announcer.due);
        let now = cx.now;
        for told in due.iter_mut().filter(|told| told.at <= now) {
            let frame = neighbours::announcement(told.of, true);
            self.send_by_wire(told.network, &frame, Originated::Announcement, cx);
            told.left -= 1;
            told.at = now + APART;
        }
        due.retain(|told| told.left > 0);
        let next = due.iter().map(|told| told.at).min();
        self.announcer.due = due;
        next
    }

    /// The switch says something on a network's wire.
    fn send_by_wire(
        &mut self,
        network: Id<kind::Network>,
        frame: &Frame,
        what: Originated,
        cx: &mut Cx<'_>,
    ) {
        let network = cx.tables.network_by_id(network);
        let Some(wire) = network.and_then(|n| n.wire.as_ref()) else {
            return;
        };
        // Where no buffer is free, the next time has one.
        let Some(mut packet) = cx.pool.take_small() else {
            return;
        };
        packet.set_origin(Origin::Switch);
        if packet.fill(frame.bytes()).is_err() || packet.parse().is_err() {
            return cx.pool.give(packet);
        }
        self.hands.ledger.originate(what, 1);
        self.hands.hand_out(wire.port, packet, cx);
    }

    /// Asks for the neighbours that routers wait for. When next; `None` where none has to be.
    pub(super) fn ask_outside(&mut self, cx: &mut Cx<'_>) -> Option<Now> {
        let next = cx.tables.outside().due(cx.now, &mut self.questions);
        let mut questions = std::mem::take(&mut self.questions);
        for question in questions.drain(..) {
            if let Some(frame) = question.frame() {
                self.send_by_wire(question.network, &frame, Originated::Solicitation, cx);
            }
        }
        self.questions = questions;
        next
    }
}
