//! Who is told what became of its packet, and how?
//!
//! The sender of what was too large for a link, of what a router has no way for, or whose TTL or hop limit was used up: by an ICMP error
//! that quotes the packet as the sender's workload sent it. Of a super-frame one segment is quoted.
//!
//! The error comes from the router that the packet had come to: from its address on the network on which it got it. What met no router
//! is spoken of by the gateway of the sender's subnet, and where there is none by the packet's own destination, which the
//! sender believes in any case. It goes to the port that sent the packet, past all tables: what the switch makes is not judged.
//! What came out of a tunnel was told about by its own switch, but for what a gateway's host routes: that one tells it, through the tunnel.
//!
//! # Invariants
//! No error about an ICMP error, a later fragment, what went to many, or a source that names no one host.
//!
//! # Attack
//! Whoever sends such packets without end gets [`Settings::errors_per_second`](super::Settings) errors; what is above is
//! dropped under the same name. What port security or a group refuses is never told about; what a firewall rejects, in [`super::rejects`].
//!
//! # References
//! RFC 792; RFC 1191 §4; RFC 1122 §3.2.2; RFC 1812 §4.3.2, §5.2.7; RFC 4443 §2.4, §3.

use std::net::IpAddr;

use net::{
    DropReason, FiveTuple, Fragment, Gso, L3, Mac, Mtu, Now, Offload, Origin, Originated, Packet,
    checksum,
    flow_key::{FlowKey, proto},
    rewrite,
};
use overlay::Place;

use super::{
    execute::{Cx, Hands},
    flow::{Refusal, RouterHop, Stage},
    tables::{Network, Tables, l3::Router, service},
    too_big::exceeds,
};
use crate::io::{
    Tunnelled,
    offload::{self, Segments},
};

/// The most that an IPv4 error may measure (RFC 1812 §4.3.2.3), and an IPv6 one (RFC 4443 §2.4 (c)).
const LARGEST: [usize; 2] = [576, 1280];
/// Ethernet header.
const ETHERNET: usize = 14;
/// ICMP header: type, code, checksum, and the MTU.
const ICMP: usize = 8;

/// What a sender is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Told {
    /// Its packet is larger than this link carries.
    TooBig(Mtu),
    /// Its TTL or hop limit was used up.
    TimeExceeded,
    /// No router knows the way.
    NoRoute,
    /// Nobody has the address.
    HostUnreachable,
    /// A firewall rejects it.
    Prohibited,
}

impl Told {
    /// What is told of packets that are dropped for this reason: by the router that does it, or by a firewall.
    pub(super) fn of(reason: DropReason) -> Option<Self> {
        if reason == DropReason::NoRoute || reason == DropReason::NoGateway {
            Some(Self::NoRoute)
        } else if reason == DropReason::UnknownNeighbor {
            Some(Self::HostUnreachable)
        } else if reason == DropReason::FirewallRejected {
            Some(Self::Prohibited)
        } else {
            None
        }
    }

    /// Type, code and MTU of the message.
    const fn message(self, v6: bool) -> (u8, u8, u16) {
        match (self, v6) {
            (Self::TooBig(mtu), false) => (3, 4, mtu.get()),
            (Self::TooBig(mtu), true) => (2, 0, mtu.get()),
            (Self::TimeExceeded, false) => (11, 0, 0),
            (Self::TimeExceeded, true) | (Self::NoRoute, false) => (3, 0, 0),
            (Self::NoRoute, true) => (1, 0, 0),
            (Self::HostUnreachable, false) => (3, 1, 0),
            (Self::HostUnreachable, true) => (1, 3, 0),
            (Self::Prohibited, false) => (3, 13, 0),
            (Self::Prohibited, true) => (1, 1, 0),
        }
    }
}

/// How a packet was when it left its port, as far as it has changed since, and who tells its sender.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct AsSent {
    /// Its tuple, where it was translated.
    pub(super) tuple: Option<FiveTuple>,
    /// Ethernet source and destination, where a router has changed them.
    pub(super) eth: Option<(Mac, Mac)>,
    /// The router to whose interface it came.
    pub(super) by: Option<RouterHop>,
}

/// May the sender of such a packet be told what became of it?
pub(super) fn may_be_told(key: &FlowKey) -> bool {
    let error = match key.ip_proto {
        proto::ICMP => matches!(key.l4_src, 3 | 4 | 5 | 11 | 12),
        // Redirects tell of a packet too.
        proto::ICMP6 => key.l4_src < 128 || key.l4_src == 137,
        _ => false,
    };
    let names_one = |addr: IpAddr| match addr {
        IpAddr::V4(a) => !a.is_multicast() && !a.is_broadcast() && !a.is_unspecified(),
        IpAddr::V6(a) => !a.is_multicast() && !a.is_unspecified(),
    };
    key.is_ip()
        && !error
        && key.ip_frag != Fragment::Later as u8
        && !key.dst_mac().is_multicast()
        && !key.src_mac().is_multicast()
        && names_one(key.src_addr())
        && names_one(key.dst_addr())
        && !key.src_addr().is_loopback()
}

/// In whose name is the sender told? The router's that the packet came to; else that of the gateway of its subnet, else the
/// packet's own destination's.
pub(super) fn teller(
    tables: &Tables,
    network: &Network,
    by: Option<RouterHop>,
    (src, dst): (IpAddr, IpAddr),
) -> Option<IpAddr> {
    if let Some(hop) = by {
        let interfaces = &tables.router(hop.router)?.interfaces;
        return match hop.interface {
            RouterHop::ITSELF => Some(dst),
            at => interfaces.get(usize::from(at))?.speaker(src),
        };
    }
    let own = network.subnets.iter().find(|s| s.cidr.contains(src));
    let gateway = own.and_then(|s| s.gateway);
    let other = gateway.filter(|g| *g != src && g.is_ipv4() == src.is_ipv4());
    Some(other.unwrap_or(dst))
}

/// How a packet was on its sender's network that a router has since sent into another: its Ethernet addresses, and the router. `None`
/// for what met none. A hidden source shows its own Ethernet address everywhere.
pub(super) fn before_routing(tables: &Tables, frame: &Tunnelled) -> Option<AsSent> {
    let key = frame.packet.key();
    let Origin::Port(port) = frame.packet.origin() else {
        return None;
    };
    let port = tables.port(port)?;
    // To an appliance it goes as it was sent, or translated.
    if frame.nsh.is_some() {
        return None;
    }
    let network = tables.network_of(frame.vni)?;
    let shown = network.fdb.get(key.src_mac()).map(|e| e.place);
    let joins = |r: &&Router| {
        let on = |network| r.interface_on(network).is_some();
        on(port.network) && on(network.dense)
    };
    let marked = key.src_mac().is_multicast();
    let (last, hidden) = match shown {
        Some(Place::Router(last)) => (Some(last), None),
        None if marked => {
            let last = tables.routers().find(joins).map(|r| r.dense);
            (last, Some(key.src_mac().unmarked()))
        }
        _ => return None,
    };
    // Behind several routers the last one need not be on the sender's network: its gateway is.
    let own = tables.network(port.network)?;
    let gateway = || {
        let subnet = own
            .subnets
            .iter()
            .find(|s| s.cidr.contains(key.src_addr()))?;
        let gateway = own.neighbours.get(subnet.gateway?)?;
        match own.fdb.get(gateway.mac)?.place {
            Place::Router(router) => Some((router, gateway.port)),
            Place::Local(_) | Place::Vtep(_) | Place::Virtual => None,
        }
    };
    let on_own = last.and_then(|last| {
        let own = tables.router(last)?.interface_on(port.network)?;
        Some((last, own.port))
    });
    let (router, interface) = on_own.or_else(gateway)?;
    let (at, interface) = tables.router(router)?.interface(interface)?;
    let pair = port
        .allowed
        .iter()
        .find(|(_, p)| p.contains(key.src_addr()));
    let sent_from = hidden.unwrap_or(pair.map_or(port.mac, |(mac, _)| *mac));
    Some(AsSent {
        tuple: None,
        eth: Some((sent_from, interface.mac)),
        by: Some(RouterHop {
            router,
            interface: at,
            to: None,
        }),
    })
}

/// How an error is addressed.
#[derive(Debug, Clone, Copy)]
pub(super) struct Address {
    pub(super) from: IpAddr,
    pub(super) to: IpAddr,
    /// Ethernet source and destination.
    pub(super) eth: (Mac, Mac),
}

/// Writes the error about `packet`; `None` when it can't be quoted.
pub(super) fn write(
    packet: &mut Packet,
    told: Told,
    at: &Address,
    error: &mut Packet,
) -> Option<()> {
    let v6 = at.to.is_ipv6();
    let (header, largest) = if v6 {
        (40, LARGEST[1])
    } else {
        (20, LARGEST[0])
    };
    let mut frame = [0u8; ETHERNET + LARGEST[1]];
    let quote_at = ETHERNET + header + ICMP;
    let quoted = quote(packet, frame.get_mut(quote_at..ETHERNET + largest)?)?;
    let frame = frame.get_mut(..quote_at + quoted)?;
    let (ethernet, rest) = frame.split_at_mut_checked(ETHERNET)?;
    let (ip, icmp) = rest.split_at_mut_checked(header)?;
    let [k, c, _, _, _, _, m0, m1] = icmp.first_chunk_mut::<ICMP>()?;
    let mtu;
    (*k, *c, mtu) = told.message(v6);
    [*m0, *m1] = mtu.to_be_bytes();
    let sum = if v6 {
        checksum::transport(at.from, at.to, proto::ICMP6, icmp)
    } else {
        !checksum::sum(icmp)
    };
    icmp.get_mut(2..4)?.copy_from_slice(&sum.to_be_bytes());
    let length = u16::try_from(icmp.len()).ok()?;
    match (at.from, at.to) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            let total = (length + 20).to_be_bytes();
            let mut w = service::Writer::new(ip);
            // Internetwork control (RFC 1812 §4.3.2.5); don't-fragment, so it needs no identification (RFC 6864 §4.1).
            w.put(&[0x45, 0xc0, total[0], total[1], 0, 0, 0x40, 0]);
            w.put(&[64, proto::ICMP, 0, 0]);
            w.put(&from.octets());
            w.put(&to.octets());
            service::checksum_ipv4(ip, 0);
        }
        (IpAddr::V6(from), IpAddr::V6(to)) => {
            let [l0, l1] = length.to_be_bytes();
            let mut w = service::Writer::new(ip);
            w.put(&[0x60, 0, 0, 0, l0, l1, proto::ICMP6, 64]);
            w.put(&from.octets());
            w.put(&to.octets());
        }
        (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => return None,
    }
    let (src, dst) = at.eth;
    let mut w = service::Writer::new(ethernet);
    w.put(&dst.octets());
    w.put(&src.octets());
    w.put(&packet.key().ethertype.to_be_bytes());
    error.fill(frame).ok()?;
    error.set_offload(Offload::default());
    error.set_origin(Origin::Switch);
    error.parse().ok()
}

/// Copies as much of the packet as fits, from its IP header on, as the link would have seen it: of a super-frame the first
/// segment, its checksum made.
fn quote(packet: &mut Packet, into: &mut [u8]) -> Option<usize> {
    let headers = *packet.headers();
    if headers.l3 != L3::Ipv4 && headers.l3 != L3::Ipv6 {
        return None;
    }
    let (l3_at, end) = (
        usize::from(headers.l3_at),
        usize::try_from(headers.end).ok()?,
    );
    let mut offload = packet.offload();
    if offload.gso == Gso::None {
        offload::finish(packet.bytes_mut(), &headers, &mut offload);
        packet.set_offload(offload);
        return Some(copy(packet.bytes().get(l3_at..end)?, into));
    }
    let mut segments = Segments::new(packet.bytes(), &headers, &offload, usize::MAX).ok()?;
    let mut head = [0u8; 256];
    let head = head.get_mut(..segments.header_len())?;
    let payload = segments.next_into(head)?;
    let begun = copy(head.get(l3_at..)?, into);
    Some(begun + copy(payload, into.get_mut(begun..)?))
}

fn copy(from: &[u8], into: &mut [u8]) -> usize {
    let length = from.len().min(into.len());
    if let (Some(from), Some(into)) = (from.get(..length), into.get_mut(..length)) {
        into.copy_from_slice(from);
    }
    length
}

impl Hands {
    /// Tells the sender of a packet that it was too large, and drops it.
    pub(super) fn too_big(&mut self, packet: Packet, mtu: Mtu, sent: &AsSent, cx: &mut Cx<'_>) {
        let refusal = Refusal::new(DropReason::MtuExceeded, Stage::Egress);
        self.turn_away(packet, refusal, Told::TooBig(mtu), sent, cx);
    }

    /// Drops a packet whose TTL or hop limit is used up at a router, and tells its sender.
    pub(super) fn expire(&mut self, packet: Packet, by: RouterHop, cx: &mut Cx<'_>) {
        let refusal = Refusal::new(DropReason::TtlExceeded, Stage::L3);
        let sent = AsSent {
            by: Some(by),
            ..AsSent::default()
        };
        self.turn_away(packet, refusal, Told::TimeExceeded, &sent, cx);
    }

    /// Drops what the tables refuse. If a router does so that has no way for it, or a firewall rejects it, the sender is told.
    pub(super) fn refuse(
        &mut self,
        packet: Packet,
        refusal: &Refusal,
        by: Option<RouterHop>,
        cx: &mut Cx<'_>,
    ) {
        let rejects = |told: &Told| *told == Told::Prohibited;
        let told = Told::of(refusal.reason).filter(|told| by.is_some() || rejects(told));
        match told {
            Some(Told::Prohibited) => self.reject(packet, refusal, by, cx),
            Some(told) => {
                let sent = AsSent {
                    by,
                    ..AsSent::default()
                };
                self.turn_away(packet, *refusal, told, &sent, cx);
            }
            None => self.drop(packet, refusal, cx.now, cx.pool),
        }
    }

    /// Drops a packet, and tells its sender: a local port, or whoever sent it by a tunnel to a router that is here for it.
    fn turn_away(
        &mut self,
        mut packet: Packet,
        mut refusal: Refusal,
        told: Told,
        sent: &AsSent,
        cx: &mut Cx<'_>,
    ) {
        if let Origin::Port(port) = packet.origin() {
            refusal = refusal.at(port);
        }
        self.tell(&mut packet, told, sent, cx);
        self.drop(packet, &refusal, cx.now, cx.pool);
    }

    fn tell(
        &mut self,
        packet: &mut Packet,
        told: Told,
        sent: &AsSent,
        cx: &mut Cx<'_>,
    ) -> Option<()> {
        let key = *packet.key();
        let network = match packet.origin() {
            Origin::Port(id) => match cx.tables.port(id) {
                Some(port) => port.network,
                None => cx.tables.network_of(cx.tables.far(id)?.vni)?.dense,
            },
            Origin::Tunnel(network) => sent.by.map(|_| network)?,
            Origin::Switch => return None,
        };
        let network = cx.tables.network(network)?;
        let fits = matches!(told, Told::TooBig(mtu) if !exceeds(packet, mtu));
        if !may_be_told(&key) || fits {
            return None;
        }
        let ends = sent.tuple.map_or((key.src_addr(), key.dst_addr()), |t| {
            (t.src_addr(), t.dst_addr())
        });
        let (src, dst) = sent.eth.unwrap_or((key.src_mac(), key.dst_mac()));
        let at = Address {
            from: teller(cx.tables, network, sent.by, ends)?,
            to: ends.0,
            eth: (dst, src),
        };
        // The limit is asked last: what is not told about costs nothing of it.
        if !self.may_tell(packet.origin(), cx.now) {
            return None;
        }
        let mut error = cx.pool.take_small()?;
        let written = write(packet, told, &at, &mut error).and_then(|()| {
            sent.tuple
                .map_or(Some(()), |tuple| untranslate(&mut error, &tuple))
        });
        if written.is_none() {
            cx.pool.give(error);
            return None;
        }
        self.ledger.originate(Originated::Icmp, 1);
        error.set_label(cx.tables.label(packet.origin(), key.path));
        self.give_answer(packet.origin(), error, cx);
        Some(())
    }

    pub(super) fn may_tell(&mut self, to: Origin, now: Now) -> bool {
        let limit = self.errors_per_second;
        self.answers_of(to, now).is_some_and(|answers| {
            answers.errors = answers.errors.saturating_add(1);
            answers.errors <= limit
        })
    }
}

/// What an error quotes becomes what the workload sent.
fn untranslate(error: &mut Packet, sent_as: &FiveTuple) -> Option<()> {
    let quoted = error.headers().quoted(error.bytes())?;
    let src = (sent_as.src_addr(), sent_as.src_port);
    let dst = (sent_as.dst_addr(), sent_as.dst_port);
    rewrite::translate_quoted(error, &quoted, Some(src), Some(dst)).ok()
}
