//! How does a sender hear that a firewall rejects its packet?
//!
//! TCP by a reset in its receiver's name, as if nobody listened there; all else by an ICMP error: communication is administratively
//! prohibited. It goes back the way that the packet came: to the local port that sent it, or through the tunnel to where its source is,
//! past routers as the tables say.
//!
//! # Invariants
//! No answer to a reset, nor to what no error is told about ([`may_be_told`]).
//!
//! # Attack
//! Answers are counted with the errors of the switch, so many a second a port ([`super::Settings::errors_per_second`]); what is above is
//! dropped under the same name.
//!
//! # References
//! RFC 9293 §3.10.7.1 (what a reset says); RFC 1812 §5.2.7.1 (code 13); RFC 4443 §3.1 (code 1).

use std::net::IpAddr;

use net::{
    FlowKey, Mac, NetworkId, Offload, Origin, Originated, Packet, TcpSegment, VtepId, checksum,
    flow_key::{ethertype, proto},
    tcp::flag,
};
use overlay::Place;

use super::{
    errors::{Address, Told, may_be_told, teller, write},
    execute::{Cx, Hands},
    flow::{Refusal, RouterHop},
    tables::{
        Network, Tables,
        external::Where,
        l3::Target,
        service::{self, Writer},
    },
    walk::MAX_FORWARDS,
};

/// The largest frame of a reset: Ethernet, IPv6 and TCP without options.
const RESET: usize = 14 + 40 + 20;

/// Where an answer goes.
#[derive(Debug, Clone, Copy)]
struct Way {
    to: To,
    /// Its Ethernet source and destination.
    eth: (Mac, Mac),
}

#[derive(Debug, Clone, Copy)]
enum To {
    /// To whoever has its Ethernet destination there.
    Origin(Origin),
    /// To the host that has the gateway, on this network.
    Gateway(NetworkId, VtepId),
}

/// In whose name is the sender told? The router's that rejects it, else its receiver's; a reset is the receiver's own word.
pub(super) fn speaker(
    tables: &Tables,
    key: &FlowKey,
    refusal: &Refusal,
    by: Option<RouterHop>,
) -> Option<IpAddr> {
    if !may_be_told(key) || way(tables, key).is_none() {
        return None;
    }
    let dst = key.dst_addr();
    // What its receiver's port rejects may have passed a router here: it did nothing.
    let at_router = match key.origin() {
        Origin::Port(port) => refusal.port == Some(port),
        Origin::Tunnel(_) | Origin::Switch => refusal.port.is_none(),
    };
    let network = match (key.origin(), by.filter(|_| at_router)) {
        (_, None) => return Some(dst),
        _ if key.ip_proto == proto::TCP => return Some(dst),
        (Origin::Port(port), Some(_)) => tables.port(port)?.network,
        (Origin::Tunnel(network), Some(_)) => network,
        (Origin::Switch, Some(_)) => return None,
    };
    teller(tables, tables.network(network)?, by, (key.src_addr(), dst))
}

/// By which way does a packet's sender hear?
fn way(tables: &Tables, key: &FlowKey) -> Option<Way> {
    let (mut own, mut mac) = (key.dst_mac(), key.src_mac());
    let origin = key.origin();
    let mut network = match origin {
        Origin::Port(_) => {
            return Some(Way {
                to: To::Origin(origin),
                eth: (own, mac),
            });
        }
        Origin::Tunnel(network) => tables.network(network)?,
        Origin::Switch => return None,
    };
    let src = key.src_addr();
    for _ in 0..MAX_FORWARDS {
        let router = match network.fdb.get(mac).map(|entry| entry.place) {
            Some(Place::Router(router)) => tables.router(router)?,
            Some(Place::Local(_) | Place::Vtep(_)) => return Some(back(network, (own, mac))),
            // Who is on a wire is known by nobody.
            None if network.wire.is_some() => return Some(back(network, (own, mac))),
            Some(Place::Virtual) | None => return None,
        };
        let (interface, nexthop) = match router.route_to(src)?.target {
            Target::Link(at) => (at, src),
            Target::Via(at, nexthop) => (at, nexthop),
            Target::Outside(_) => {
                let Where::Vtep(vtep) = router.gateway.as_deref()?.at else {
                    return None;
                };
                return Some(Way {
                    to: To::Gateway(network.dense, vtep),
                    eth: (own, mac),
                });
            }
            Target::Own | Target::Martian => return None,
        };
        let out = router.interfaces.get(usize::from(interface))?;
        network = tables.network(out.network)?;
        (own, mac) = (out.mac, network.neighbours.get(nexthop)?.mac);
    }
    None
}

fn back(network: &Network, eth: (Mac, Mac)) -> Way {
    Way {
        to: To::Origin(Origin::Tunnel(network.dense)),
        eth,
    }
}

impl Hands {
    /// Drops what a firewall rejects, and tells its sender.
    pub(super) fn reject(
        &mut self,
        mut packet: Packet,
        refusal: &Refusal,
        by: Option<RouterHop>,
        cx: &mut Cx<'_>,
    ) {
        self.tell_rejected(&mut packet, refusal, by, cx);
        self.drop(packet, refusal, cx.now, cx.pool);
    }

    pub(super) fn tell_rejected(
        &mut self,
        packet: &mut Packet,
        refusal: &Refusal,
        by: Option<RouterHop>,
        cx: &mut Cx<'_>,
    ) -> Option<()> {
        let key = *packet.key();
        let from = speaker(cx.tables, &key, refusal, by)?;
        let way = way(cx.tables, &key)?;
        let segment = TcpSegment::read(packet.bytes(), packet.headers());
        if segment.is_some_and(|s| s.has(flag::RST)) || !self.may_tell(packet.origin(), cx.now) {
            return None;
        }
        let mut answer = cx.pool.take_small()?;
        let at = Address {
            from,
            to: key.src_addr(),
            eth: way.eth,
        };
        let (written, what) = match segment {
            Some(segment) => (
                reset(&answer_to(&key, &segment, &at), &mut answer),
                Originated::TcpReset,
            ),
            None => (
                write(packet, Told::Prohibited, &at, &mut answer),
                Originated::Icmp,
            ),
        };
        if written.is_none() {
            cx.pool.give(answer);
            return None;
        }
        self.ledger.originate(what, 1);
        match way.to {
            To::Origin(origin) => self.give_answer(origin, answer, cx),
            // On a network with a wire that host hears it there.
            To::Gateway(network, _) if cx.tables.wire_of(network).is_some() => {
                self.output_wire(network, answer, cx);
            }
            To::Gateway(network, vtep) => self.tunnel(network, vtep, answer, cx),
        }
        Some(())
    }
}

/// The reset that answers a segment: where that acknowledges something, its sender's own word is the number; else the reset
/// acknowledges the segment.
fn answer_to(key: &FlowKey, segment: &TcpSegment, at: &Address) -> Reset {
    let (seq, ack, flags) = if segment.has(flag::ACK) {
        (segment.ack, 0, flag::RST)
    } else {
        (0, segment.end(), flag::RST | flag::ACK)
    };
    Reset {
        origin: Origin::Switch,
        eth: at.eth,
        from: (at.from, key.l4_dst),
        to: (at.to, key.l4_src),
        seq,
        ack,
        flags,
    }
}

/// What a reset says.
#[derive(Debug, Clone, Copy)]
pub(super) struct Reset {
    /// Where it enters.
    pub(super) origin: Origin,
    /// Its Ethernet source and destination.
    pub(super) eth: (Mac, Mac),
    /// Its source.
    pub(super) from: (IpAddr, u16),
    /// Its destination.
    pub(super) to: (IpAddr, u16),
    /// Its numbers and flags.
    pub(super) seq: u32,
    pub(super) ack: u32,
    pub(super) flags: u16,
}

/// Writes a reset.
pub(super) fn reset(says: &Reset, answer: &mut Packet) -> Option<()> {
    let (from, to) = (says.from.0, says.to.0);
    let v6 = to.is_ipv6();
    let header = if v6 { 40 } else { 20 };
    let mut frame = [0u8; RESET];
    let frame = frame.get_mut(..14 + header + 20)?;
    let (ethernet, rest) = frame.split_at_mut_checked(14)?;
    let (ip, tcp) = rest.split_at_mut_checked(header)?;
    let [_, flags] = says.flags.to_be_bytes();
    let mut w = Writer::new(tcp);
    w.put(&says.from.1.to_be_bytes());
    w.put(&says.to.1.to_be_bytes());
    w.put(&says.seq.to_be_bytes());
    w.put(&says.ack.to_be_bytes());
    w.put(&[5 << 4, flags, 0, 0, 0, 0, 0, 0]);
    let sum = checksum::transport(from, to, proto::TCP, tcp);
    tcp.get_mut(16..18)?.copy_from_slice(&sum.to_be_bytes());
    let mut w = Writer::new(ip);
    match (from, to) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            // Don't-fragment, so it needs no identification (RFC 6864 §4.1).
            w.put(&[0x45, 0, 0, 40, 0, 0, 0x40, 0, 64, proto::TCP, 0, 0]);
            w.put(&from.octets());
            w.put(&to.octets());
            service::checksum_ipv4(ip, 0);
        }
        (IpAddr::V6(from), IpAddr::V6(to)) => {
            w.put(&[0x60, 0, 0, 0, 0, 20, proto::TCP, 64]);
            w.put(&from.octets());
            w.put(&to.octets());
        }
        (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => return None,
    }
    let (src, dst) = says.eth;
    let mut w = Writer::new(ethernet);
    w.put(&dst.octets());
    w.put(&src.octets());
    let kind = if v6 { ethertype::IPV6 } else { ethertype::IPV4 };
    w.put(&kind.to_be_bytes());
    answer.fill(frame).ok()?;
    answer.set_offload(Offload::default());
    answer.set_origin(says.origin);
    answer.parse().ok()
}
