//! Who is told that a packet was too large, and how?
//!
//! What is larger than its network's MTU, or than what the path to its VTEP leaves, is dropped and its sender told: ICMPv4
//! "fragmentation needed" with the next hop's MTU, ICMPv6 "packet too big". Whether don't-fragment is set does not matter: a
//! switch does not fragment. Super-frames are measured, and quoted, by one segment.
//!
//! The error comes from the gateway of the sender's subnet, and where there is none from the packet's own destination, which the
//! sender believes in any case. It goes to the port that sent the packet, past all tables: what the switch makes is not judged.
//!
//! # Invariants
//! No error about an ICMP error, a later fragment, what went to many, or a source that names no one host.
//!
//! # Attack
//! Whoever sends too large packets without end gets [`Settings::errors_per_second`](super::Settings) errors; what is above is
//! dropped under the same name. What port security or a group refuses is never told about: it is refused before it is measured.
//!
//! # References
//! RFC 792; RFC 1191 §4; RFC 1122 §3.2.2; RFC 1812 §4.3.2; RFC 4443 §2.4, §3.2.

use std::net::IpAddr;

use net::{
    FiveTuple, Fragment, Gso, L3, Mac, Mtu, Now, Offload, Origin, Originated, Packet, PortId,
    checksum,
    flow_key::{FlowKey, proto},
    rewrite,
};

use super::{
    execute::{Cx, Hands},
    flow::{Refusal, Stage},
    tables::{Network, Tables, service},
};
use crate::io::offload::{self, Segments};

/// The most that an IPv4 error may measure (RFC 1812 §4.3.2.3), and an IPv6 one (RFC 4443 §2.4 (c)).
const LARGEST: [usize; 2] = [576, 1280];
/// Ethernet header.
const ETHERNET: usize = 14;
/// ICMP header: type, code, checksum, and the MTU.
const ICMP: usize = 8;

/// Is a segment of this packet larger than the link carries?
pub(super) fn exceeds(packet: &Packet, mtu: Mtu) -> bool {
    size(packet) > usize::from(mtu.get())
}

/// Bytes behind the Ethernet header, of a super-frame those of one segment.
#[inline]
pub(super) fn size(packet: &Packet) -> usize {
    let headers = packet.headers();
    match packet.offload().gso {
        Gso::None => packet.len().saturating_sub(usize::from(headers.l3_at)),
        Gso::Tcp { size, .. } | Gso::Udp { size } => {
            let behind = headers.payload_at.saturating_sub(headers.l3_at);
            usize::from(behind) + usize::from(size)
        }
    }
}

/// May the sender of such a packet be told that it was too large?
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

/// In whose name is the sender told? The gateway of its subnet, else the packet's own destination.
pub(super) fn teller(network: &Network, src: IpAddr, dst: IpAddr) -> IpAddr {
    let own = network.subnets.iter().find(|s| s.cidr.contains(src));
    own.and_then(|s| s.gateway)
        .filter(|gateway| *gateway != src && gateway.is_ipv4() == src.is_ipv4())
        .unwrap_or(dst)
}

/// How an error is addressed.
#[derive(Debug, Clone, Copy)]
struct Address {
    from: IpAddr,
    to: IpAddr,
    eth: (Mac, Mac),
}

/// Writes the error about `packet`; `None` when it can't be quoted.
fn write(packet: &mut Packet, mtu: Mtu, at: &Address, error: &mut Packet) -> Option<()> {
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
    let mtu = mtu.get().to_be_bytes();
    let (kind, code) = if v6 { (2, 0) } else { (3, 4) };
    let [k, c, _, _, _, _, m0, m1] = icmp.first_chunk_mut::<ICMP>()?;
    (*k, *c) = (kind, code);
    [*m0, *m1] = mtu;
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

/// The MTU of the network that a local port's packets are on; `None` for what comes from elsewhere: its own switch has measured it.
pub(super) fn limit(tables: &Tables, origin: Origin) -> Option<(PortId, Mtu)> {
    match origin {
        Origin::Port(id) => tables.port(id).map(|p| (id, p.mtu)),
        Origin::Tunnel(_) | Origin::Switch => None,
    }
}

impl Hands {
    /// Tells the sender of a packet that it was too large, and drops it. `sent_as`: its tuple as the workload sent it, where it
    /// was translated since.
    pub(super) fn too_big(
        &mut self,
        mut packet: Packet,
        mtu: Mtu,
        sent_as: Option<FiveTuple>,
        cx: &mut Cx<'_>,
    ) {
        let mut refusal = Refusal::new(net::DropReason::MtuExceeded, Stage::Egress);
        if let Origin::Port(port) = packet.origin() {
            refusal = refusal.at(port);
            self.tell(port, &mut packet, mtu, sent_as, cx);
        }
        self.drop(packet, &refusal, cx.now, cx.pool);
    }

    fn tell(
        &mut self,
        id: PortId,
        packet: &mut Packet,
        mtu: Mtu,
        sent_as: Option<FiveTuple>,
        cx: &mut Cx<'_>,
    ) -> Option<()> {
        let key = *packet.key();
        let network = cx.tables.network(cx.tables.port(id)?.network)?;
        // The limit is asked last: what is not told about costs nothing of it.
        if !may_be_told(&key) || !exceeds(packet, mtu) || !self.may_tell(id, cx.now) {
            return None;
        }
        let to = sent_as.map_or(key.src_addr(), |t| t.src_addr());
        let dst = sent_as.map_or(key.dst_addr(), |t| t.dst_addr());
        let at = Address {
            from: teller(network, to, dst),
            to,
            eth: (key.dst_mac(), key.src_mac()),
        };
        let mut error = cx.pool.take_small()?;
        let written = write(packet, mtu, &at, &mut error)
            .and_then(|()| sent_as.map_or(Some(()), |as_sent| untranslate(&mut error, &as_sent)));
        if written.is_none() {
            cx.pool.give(error);
            return None;
        }
        self.ledger.originate(Originated::Icmp, 1);
        self.deliver(id, error, cx);
        Some(())
    }

    fn may_tell(&mut self, port: PortId, now: Now) -> bool {
        let limit = self.errors_per_second;
        self.answers_of(port, now).is_some_and(|answers| {
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
