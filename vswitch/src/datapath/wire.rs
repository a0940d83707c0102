//! What goes out of a wire, and what is heard on it?
//!
//! On a network with a wire, "outside" is the wire: what this switch does not have leaves by it, and nothing crosses the underlay. A frame off
//! the wire has the origin of one out of a tunnel, [`Origin::Tunnel`], so it passes the same tables and records; it never goes back.
//! Neighbours that routers look for ([`super::neighbours`]) are asked here, and heard.

use std::net::IpAddr;

use net::{
    Consumed, DropReason, Mac, NetworkId, Now, Origin, Originated, Packet,
    flow_key::{ethertype, proto},
};
use nfv::conntrack::Entry;
use overlay::Place;

use super::{
    Datapath, Stage, Tables,
    announce::answers_for,
    execute::{Cx, Hands},
    flow::{Action, Verdict},
    neighbours::{Frame, Heard, Resolution, Said, Speaker},
    tables::Network,
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

    /// Does somebody on the wire ask for an address that a gateway here, or a floating IP, has? It is answered.
    pub(super) fn asked_for_what_is_here(&mut self, network: &Network) -> bool {
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
        let Some((answers, sections)) = answers_for(self.tables, network, target) else {
            return false;
        };
        for section in sections {
            self.depend(section);
        }
        let (mac, router) = (answers.of.mac, answers.router);
        if target.is_ipv4() {
            self.answers(Action::AnswerArp(mac), Consumed::Arp);
        } else {
            let action = Action::AnswerNd { mac, router };
            self.answers(action, Consumed::NeighborDiscovery);
        }
        self.says(Stage::Service, || {
            let whose = if router { "gateway" } else { "floating ip" };
            format!("{target} is a {whose}'s, answered with {mac}")
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

    /// The switch says something on a network's wire. Where no buffer is free, the next time has one.
    pub(super) fn say_outside(
        &mut self,
        network: &Network,
        frame: &Frame,
        what: Originated,
        cx: &mut Cx<'_>,
    ) {
        if let Some(wire) = &network.wire
            && let Some(packet) = self.make(frame, what, cx)
        {
            self.hand_out(wire.port, packet, cx);
        }
    }

    /// A packet of the switch's own; `None`: no buffer is free.
    pub(super) fn make(
        &mut self,
        frame: &Frame,
        what: Originated,
        cx: &mut Cx<'_>,
    ) -> Option<Packet> {
        let mut packet = cx.pool.take_small()?;
        packet.set_origin(Origin::Switch);
        if packet.fill(frame.bytes()).is_err() || packet.parse().is_err() {
            cx.pool.give(packet);
            return None;
        }
        self.ledger.originate(what, 1);
        Some(packet)
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

fn hear(tables: &Tables, network: &Network, packet: &Packet, now: Now) {
    let Some(heard) = Heard::of(packet) else {
        return;
    };
    let asked = heard.about.filter(|_| heard.said == Said::Asks);
    let speaker = asked.and_then(|addr| answers_for(tables, network, addr));
    let speaker = speaker.map(|(answers, _)| answers.of);
    // Who lives here says nothing on the wire: somebody says it in its name.
    let is_here = heard.mac.and_then(|mac| network.fdb.get(mac));
    if !is_here.is_some_and(|entry| matches!(entry.place, Place::Local(_) | Place::Router(_))) {
        tables.outside().hear(network.id, &heard, speaker, now);
    }
}

impl<M: AsRef<[Entry]> + AsMut<[Entry]>> Datapath<M> {
    /// Asks for the neighbours that routers wait for. When next; `None` where none has to be.
    pub(super) fn ask_outside(&mut self, cx: &mut Cx<'_>) -> Option<Now> {
        let next = cx.tables.outside().due(cx.now, &mut self.questions);
        let mut questions = std::mem::take(&mut self.questions);
        for question in questions.drain(..) {
            let network = cx.tables.network_by_id(question.network);
            if let Some((network, frame)) = network.zip(question.frame()) {
                let what = Originated::Solicitation;
                self.hands.say_outside(network, &frame, what, cx);
            }
        }
        self.questions = questions;
        next
    }
}
