//! What stands before an inner frame on the tap?
//!
//! The virtio-net header with its tunnel fields, then Ethernet, IP, UDP and VXLAN. A super-frame crosses whole: the header says
//! where the inner headers are and how the kernel, or a network card, is to cut it. Bytes in, bytes out.
//!
//! ```text
//! flags(1) gso(1) header_len(2) gso_size(2) csum_start(2) csum_offset(2) buffers(2)
//! hash(4) report(2) padding(2) outer_transport(2) inner_network(2)          all little-endian
//! ```
//!
//! # Invariants
//! - The outer IP header forbids fragments; its checksum is right.
//! - What does not hold together on receipt is refused, whatever the bytes.
//!
//! # References
//! virtio 1.3 §5.1.6 `struct virtio_net_hdr_v1_hash_tunnel`. RFC 7348 §5, RFC 6935 §5, RFC 768.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use net::{
    Checksum, DropReason, Gso, Headers, L3, Offload, Vni,
    checksum::{add, fold},
};
use overlay::vxlan::{self, VXLAN_HEADER, VXLAN_PORT};

use crate::io::offload::{field, get16, put};

/// Bytes of the virtio-net header with tunnel fields.
pub const VNET: usize = 24;
const ETHERNET: usize = 14;
const UDP: usize = 8;
/// Bytes before the inner frame at most: over IPv6.
pub const LONGEST: usize = VNET + outer_len(true);

const NEEDS_CHECKSUM: u8 = 1;
const TUNNEL_CHECKSUM: u8 = 8;
const GSO_TCP4: u8 = 1;
const GSO_TCP6: u8 = 4;
const GSO_UDP: u8 = 5;
const GSO_TUNNEL4: u8 = 0x20;
const GSO_TUNNEL6: u8 = 0x40;
const GSO_ECN: u8 = 0x80;
const TTL: u8 = 64;

/// Bytes of the outer headers.
pub const fn outer_len(v6: bool) -> usize {
    ETHERNET + ip_len(v6) + UDP + VXLAN_HEADER
}

const fn ip_len(v6: bool) -> usize {
    if v6 { 40 } else { 20 }
}

/// The headers that all frames to one VTEP share.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Template {
    bytes: [u8; LONGEST],
    v6: bool,
    /// The sum of the pseudo-header of IPv6, without the length.
    pseudo: u64,
}

/// Both ends of a hop on the underlay's link.
#[derive(Debug, Clone, Copy)]
pub struct Hop {
    /// The link's MAC address.
    pub from: [u8; 6],
    /// The next hop's.
    pub to: [u8; 6],
}

/// What is different from frame to frame.
#[derive(Debug, Clone, Copy)]
pub struct Inner<'a> {
    /// Its network.
    pub vni: Vni,
    /// From which UDP port.
    pub source_port: u16,
    /// Its bytes.
    pub len: usize,
    /// Where its headers are.
    pub headers: &'a Headers,
    /// How it is to be cut; then its checksum is still to be made.
    pub offload: Offload,
}

/// The headers of one frame.
#[derive(Debug, Clone)]
pub struct Head {
    bytes: [u8; LONGEST],
    len: usize,
}

impl Head {
    /// As they are written.
    pub fn bytes(&self) -> &[u8] {
        self.bytes.get(..self.len).unwrap_or_default()
    }
}

impl Template {
    /// For one VTEP; `None` when both addresses are not of one family.
    pub fn new(hop: Hop, local: IpAddr, vtep: IpAddr) -> Option<Self> {
        let mut bytes = [0; LONGEST];
        let ip = VNET + ETHERNET;
        put(&mut bytes, VNET, &hop.to);
        put(&mut bytes, VNET + 6, &hop.from);
        let mut pseudo = 0;
        let v6 = match (local, vtep) {
            (IpAddr::V4(from), IpAddr::V4(to)) => {
                put(&mut bytes, VNET + 12, &[0x08, 0x00]);
                put(&mut bytes, ip, &[0x45, 0, 0, 0, 0, 0, 0x40, 0, TTL, 17]);
                put(&mut bytes, ip + 12, &from.octets());
                put(&mut bytes, ip + 16, &to.octets());
                false
            }
            (IpAddr::V6(from), IpAddr::V6(to)) => {
                put(&mut bytes, VNET + 12, &[0x86, 0xdd]);
                put(&mut bytes, ip, &[0x60, 0, 0, 0, 0, 0, 17, TTL]);
                put(&mut bytes, ip + 8, &from.octets());
                put(&mut bytes, ip + 24, &to.octets());
                pseudo = add(add(17, &from.octets()), &to.octets());
                true
            }
            _ => return None,
        };
        let udp = ip + ip_len(v6);
        put(&mut bytes, udp + 2, &VXLAN_PORT.to_be_bytes());
        Some(Self { bytes, v6, pseudo })
    }

    /// The headers of a frame.
    pub fn head(&self, inner: &Inner<'_>) -> Head {
        let mut bytes = self.bytes;
        let outer = outer_len(self.v6);
        let (ip, udp) = (VNET + ETHERNET, VNET + ETHERNET + ip_len(self.v6));
        let datagram = UDP + VXLAN_HEADER + inner.len;
        put(&mut bytes, udp, &inner.source_port.to_be_bytes());
        put(&mut bytes, udp + 4, &field(datagram).to_be_bytes());
        put(&mut bytes, udp + UDP, &vxlan::header(inner.vni));
        let cut = inner.offload.gso != Gso::None;
        let (mut flags, mut start, mut offset) = (0, 0, 0);
        if self.v6 {
            put(&mut bytes, ip + 4, &field(datagram).to_be_bytes());
            // Zero is for those who asked for it (RFC 6935 §5); the kernel's VTEP takes it only when told to.
            let pseudo = fold(self.pseudo + datagram as u64);
            put(&mut bytes, udp + 6, &pseudo.to_be_bytes());
            if cut {
                flags = TUNNEL_CHECKSUM;
            } else {
                (flags, start, offset) = (NEEDS_CHECKSUM, udp - VNET, 6);
            }
        } else {
            put(&mut bytes, ip + 2, &field(20 + datagram).to_be_bytes());
            let sum = !fold(add(0, bytes.get(ip..ip + 20).unwrap_or_default()));
            put(&mut bytes, ip + 10, &sum.to_be_bytes());
        }
        let mut kind = 0;
        let mut sizes = [0; 2];
        if let (
            true,
            Checksum::Partial {
                start: s,
                offset: o,
            },
        ) = (cut, inner.offload.checksum)
        {
            flags |= NEEDS_CHECKSUM;
            (start, offset) = (outer + usize::from(s), o.into());
            let (inner_kind, size) = gso(inner);
            kind = inner_kind | if self.v6 { GSO_TUNNEL6 } else { GSO_TUNNEL4 };
            sizes = [outer + usize::from(inner.headers.payload_at), size];
            let transport = field(udp - VNET).to_le_bytes();
            put(&mut bytes, 20, &transport);
            let network = outer + usize::from(inner.headers.l3_at);
            put(&mut bytes, 22, &field(network).to_le_bytes());
        }
        put(&mut bytes, 0, &[flags, kind]);
        let [header_len, size] = sizes;
        for (place, value) in [(2, header_len), (4, size), (6, start), (8, offset)] {
            put(&mut bytes, place, &field(value).to_le_bytes());
        }
        Head {
            bytes,
            len: VNET + outer,
        }
    }
}

fn gso(inner: &Inner<'_>) -> (u8, usize) {
    match inner.offload.gso {
        Gso::None => (0, 0),
        Gso::Tcp { size, ecn } => {
            let kind = if inner.headers.l3 == L3::Ipv6 {
                GSO_TCP6
            } else {
                GSO_TCP4
            };
            (if ecn { kind | GSO_ECN } else { kind }, size.into())
        }
        Gso::Udp { size } => (GSO_UDP, size.into()),
    }
}

/// An outer datagram that came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Outer {
    /// Who sent it.
    pub from: IpAddr,
    /// Bytes behind the VXLAN header that are its own.
    pub len: usize,
}

/// What stands before and behind a datagram's payload: `head` is all up to the inner frame, `body` the bytes behind it.
///
/// # Errors
/// `MalformedVxlan` when it is not a whole VXLAN datagram for `local`.
pub fn outer(head: &[u8], local: IpAddr, body: usize) -> Result<Outer, DropReason> {
    let malformed = DropReason::MalformedVxlan;
    let frame = head.get(VNET..).ok_or(malformed)?;
    let ip = frame.get(ETHERNET..).ok_or(malformed)?;
    let (from, to, fits) = match (local, get16(frame, 12)) {
        (IpAddr::V4(_), 0x0800) => {
            let header = ip.get(..20).ok_or(malformed)?;
            let fragment = get16(header, 6) & 0x3fff != 0;
            let fits = header.first() == Some(&0x45)
                && header.get(9) == Some(&17)
                && !fragment
                && fold(add(0, header)) == 0xffff;
            let of = |at: usize| header.get(at..).and_then(|a| a.first_chunk::<4>());
            let (from, to) = (of(12).ok_or(malformed)?, of(16).ok_or(malformed)?);
            let (from, to) = (Ipv4Addr::from(*from), Ipv4Addr::from(*to));
            (IpAddr::from(from), IpAddr::from(to), fits)
        }
        (IpAddr::V6(_), 0x86dd) => {
            let of = |at: usize| ip.get(at..).and_then(|a| a.first_chunk::<16>());
            let (from, to) = (of(8).ok_or(malformed)?, of(24).ok_or(malformed)?);
            let fits = ip.get(6) == Some(&17);
            let (from, to) = (Ipv6Addr::from(*from), Ipv6Addr::from(*to));
            (from.into(), to.into(), fits)
        }
        _ => return Err(malformed),
    };
    let udp = ip.get(ip_len(local.is_ipv6())..).ok_or(malformed)?;
    if udp.len() != UDP + VXLAN_HEADER {
        return Err(malformed);
    }
    let len = usize::from(get16(udp, 4)).checked_sub(UDP + VXLAN_HEADER);
    match len {
        Some(len) if fits && to == local && get16(udp, 2) == VXLAN_PORT && len <= body => {
            Ok(Outer { from, len })
        }
        _ => Err(malformed),
    }
}

/// What a datagram holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Holds {
    /// One frame, whole and finished as far as its own bytes say.
    Frame,
    /// One super-frame, still to be cut.
    Whole(Offload),
    /// Datagrams of this size, one behind the other; the last may be shorter.
    Train(u16),
}

/// What the virtio-net header says of the rest.
///
/// # Errors
/// `MalformedOffload` when nothing of VXLAN can be meant.
pub fn holds(head: &[u8], v6: bool) -> Result<Holds, DropReason> {
    let malformed = DropReason::MalformedOffload;
    let [flags, kind, _, _, s0, s1, c0, c1, o0, o1] = *head.first_chunk().ok_or(malformed)?;
    let size = u16::from_le_bytes([s0, s1]);
    let tunnel = kind & (GSO_TUNNEL4 | GSO_TUNNEL6);
    let gso = match (kind & !(GSO_TUNNEL4 | GSO_TUNNEL6 | GSO_ECN), tunnel) {
        (0, _) => return Ok(Holds::Frame),
        (GSO_UDP, 0) if size > 0 => return Ok(Holds::Train(size)),
        (_, 0) => return Err(malformed),
        (GSO_TCP4 | GSO_TCP6, _) => Gso::Tcp {
            size,
            ecn: kind & GSO_ECN != 0,
        },
        (GSO_UDP, _) => Gso::Udp { size },
        _ => return Err(malformed),
    };
    let expected = if v6 { GSO_TUNNEL6 } else { GSO_TUNNEL4 };
    let start = u16::from_le_bytes([c0, c1]).checked_sub(field(outer_len(v6)));
    match start {
        Some(start) if flags & NEEDS_CHECKSUM != 0 && tunnel == expected => {
            let offset = u16::from_le_bytes([o0, o1]);
            let checksum = Checksum::Partial { start, offset };
            Ok(Holds::Whole(Offload { checksum, gso }))
        }
        _ => Err(malformed),
    }
}
