//! How is a field changed without breaking its checksums?
//!
//! Setters over a parsed [`Packet`]: each mends the IPv4 header checksum and the transport's incrementally (RFC 1624 eqn. 3),
//! so that a change costs the same for 64 bytes and for a super-frame. A checksum that is still to be made
//! ([`Checksum::Partial`]) holds the pseudo-header's sum, which only addresses change.
//!
//! # Invariants
//! - A packet whose checksums held before holds them after; one whose did not, does not (nothing is repaired silently).
//! - The packet's key says what its bytes say.
//!
//! # References
//! RFC 1624; RFC 768 (a UDP checksum of zero means none in IPv4; a sum of zero is sent as 0xffff); RFC 5508 §4 (quoted
//! packets of ICMP errors are translated too).

use std::net::IpAddr;

use crate::{
    Checksum, L3, L4, Mac, Packet,
    flow_key::{FiveTuple, Fragment, addr_bytes},
    headers::Quoted,
};

/// Why a packet could not be changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Unwritable {
    /// The packet is not IP.
    #[error("packet is not ip")]
    NotIp,
    /// The address is of the other family.
    #[error("address is of another family than the packet: {0}")]
    Family(IpAddr),
    /// The headers do not lie within the frame: it changed after it was parsed.
    #[error("headers do not lie within the frame")]
    Stale,
    /// The TTL or hop limit is used up.
    #[error("ttl is used up")]
    TtlExceeded,
}

/// One end of a connection, to be written into a packet.
pub type End = (IpAddr, u16);

/// Sets the Ethernet source.
pub fn set_eth_src(packet: &mut Packet, mac: Mac) {
    let (bytes, _, key, _) = packet.parts_mut();
    if let Some(field) = bytes.get_mut(6..12) {
        field.copy_from_slice(&mac.octets());
        key.eth_src = mac.octets();
    }
}

/// Sets the Ethernet destination.
pub fn set_eth_dst(packet: &mut Packet, mac: Mac) {
    let (bytes, _, key, _) = packet.parts_mut();
    if let Some(field) = bytes.get_mut(..6) {
        field.copy_from_slice(&mac.octets());
        key.eth_dst = mac.octets();
    }
}

/// Sets source and destination, each address and port, where given. Of protocols without ports, and of later fragments, the
/// addresses alone; of ICMP queries the port is their identifier.
///
/// # Errors
/// When the packet is not IP or not of that family; nothing is changed then.
pub fn translate(
    packet: &mut Packet,
    src: Option<End>,
    dst: Option<End>,
) -> Result<(), Unwritable> {
    let (bytes, headers, key, offload) = packet.parts_mut();
    let later = key.ip_frag == Fragment::Later as u8;
    let layout = Layout {
        l3: headers.l3,
        l4: if later { L4::Other } else { headers.l4 },
        l3_at: usize::from(headers.l3_at),
        l4_at: usize::from(headers.l4_at),
        end: usize::try_from(headers.end).or(Err(Unwritable::Stale))?,
        partial: matches!(offload.checksum, Checksum::Partial { .. }),
    };
    layout.translate(bytes, src, dst)?;
    let ports = matches!(layout.l4, L4::Tcp | L4::Udp | L4::Sctp) || later;
    if let Some((addr, port)) = src {
        key.ip_src = addr_bytes(addr);
        if ports {
            key.l4_src = port;
        } else if is_query(bytes, layout.l4, layout.l4_at) {
            key.icmp_id = port;
        }
    }
    if let Some((addr, port)) = dst {
        key.ip_dst = addr_bytes(addr);
        if ports {
            key.l4_dst = port;
        }
    }
    Ok(())
}

/// Sets both ends of a packet, as [`translate`] does. TCP and UDP over IPv4, which is most of what is ever translated, in one step:
/// what changes is summed once for both checksums.
///
/// # Errors
/// As [`translate`].
#[inline]
pub fn translate_to(packet: &mut Packet, to: &FiveTuple) -> Result<(), Unwritable> {
    if ipv4_ports(packet, to).is_some() {
        return Ok(());
    }
    let (src, dst) = ((to.src_addr(), to.src_port), (to.dst_addr(), to.dst_port));
    translate(packet, Some(src), Some(dst))
}

/// `None`, and nothing changed: it is of another kind.
#[inline]
fn ipv4_ports(packet: &mut Packet, to: &FiveTuple) -> Option<()> {
    const MAPPED: [u8; 12] = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff];
    let (bytes, headers, key, offload) = packet.parts_mut();
    let sum_at = match headers.l4 {
        L4::Tcp => 16,
        L4::Udp => 6,
        L4::Icmp | L4::Icmp6 | L4::Sctp | L4::Other => return None,
    };
    let (s, d) = (
        to.src.split_last_chunk::<4>()?,
        to.dst.split_last_chunk::<4>()?,
    );
    if headers.l3 != L3::Ipv4 || *s.0 != MAPPED || *d.0 != MAPPED {
        return None;
    }
    let ([s0, s1, s2, s3], [d0, d1, d2, d3]) = (*s.1, *d.1);
    let new_ends = [s0, s1, s2, s3, d0, d1, d2, d3];
    let ([p0, p1], [q0, q1]) = (to.src_port.to_be_bytes(), to.dst_port.to_be_bytes());
    let new_ports = [p0, p1, q0, q1];
    let (l3_at, l4_at) = (usize::from(headers.l3_at), usize::from(headers.l4_at));
    let (network, transport) = bytes.split_at_mut_checked(l4_at)?;
    let network = network.get_mut(l3_at..)?.first_chunk_mut::<20>()?;
    let ends = network.last_chunk::<8>()?;
    let ports = transport.first_chunk::<4>()?;
    let old = u64::from_ne_bytes(*ends);
    let moved = words(!old) + words(u64::from_ne_bytes(new_ends));
    let old = u32::from_ne_bytes(*ports);
    let renumbered = words(u64::from(!old)) + words(u32::from_ne_bytes(new_ports).into());
    // In the machine's own byte order: the sum's bytes are swapped with the fields' (RFC 1071 §2(B)).
    let mended = |field: [u8; 2], by: u64| {
        let sum = crate::checksum::fold(u64::from(!u16::from_ne_bytes(field)) + by);
        (!sum).to_ne_bytes()
    };
    let sum = transport.get_mut(sum_at..)?.first_chunk_mut::<2>()?;
    *sum = if matches!(offload.checksum, Checksum::Partial { .. }) {
        crate::checksum::fold(u64::from(u16::from_ne_bytes(*sum)) + moved).to_ne_bytes()
    } else if headers.l4 == L4::Udp {
        match (*sum, mended(*sum, moved + renumbered)) {
            ([0, 0], _) => [0, 0],
            (_, [0, 0]) => [0xff, 0xff],
            (_, sum) => sum,
        }
    } else {
        mended(*sum, moved + renumbered)
    };
    *transport.first_chunk_mut::<4>()? = new_ports;
    let [_, _, _, _, _, _, _, _, _, _, c0, c1, rest @ ..] = network;
    [*c0, *c1] = mended([*c0, *c1], moved);
    *rest = new_ends;
    (key.ip_src, key.ip_dst) = (to.src, to.dst);
    (key.l4_src, key.l4_dst) = (to.src_port, to.dst_port);
    Some(())
}

/// The sum of four 16-bit words.
fn words(of: u64) -> u64 {
    (of & 0xffff) + (of >> 16 & 0xffff) + (of >> 32 & 0xffff) + (of >> 48)
}

/// Sets source and destination of the packet that an ICMP error quotes, and mends the error's own checksum.
///
/// # Errors
/// When the quote does not lie within the frame, or is of another family.
pub fn translate_quoted(
    packet: &mut Packet,
    quoted: &Quoted,
    src: Option<End>,
    dst: Option<End>,
) -> Result<(), Unwritable> {
    let (bytes, headers, _, offload) = packet.parts_mut();
    let icmp_at = usize::from(headers.l4_at);
    let end = usize::try_from(headers.end).or(Err(Unwritable::Stale))?;
    let l4 = match quoted.tuple.proto {
        crate::flow_key::proto::TCP => L4::Tcp,
        crate::flow_key::proto::UDP => L4::Udp,
        crate::flow_key::proto::SCTP => L4::Sctp,
        crate::flow_key::proto::ICMP => L4::Icmp,
        crate::flow_key::proto::ICMP6 => L4::Icmp6,
        _ => L4::Other,
    };
    let before = crate::checksum::sum(bytes.get(quoted.l3_at..end).ok_or(Unwritable::Stale)?);
    let layout = Layout {
        l3: headers.l3,
        l4,
        l3_at: quoted.l3_at,
        l4_at: quoted.l4_at,
        end,
        partial: false,
    };
    // A quote is often cut before its transport checksum; only what is there is mended.
    let quote = bytes.get_mut(..end).ok_or(Unwritable::Stale)?;
    layout.translate(quote, src, dst)?;
    let after = crate::checksum::sum(bytes.get(quoted.l3_at..end).ok_or(Unwritable::Stale)?);
    if !matches!(offload.checksum, Checksum::Partial { .. }) {
        mend(bytes, icmp_at + 2, before, after);
    }
    Ok(())
}

/// Takes `by` off the TTL or hop limit: one for each router that the packet passes.
///
/// # Errors
/// When nothing would be left (the caller answers with an ICMP error), or the packet is not IP; nothing is changed then.
#[inline]
pub fn decrement_ttl(packet: &mut Packet, by: u8) -> Result<(), Unwritable> {
    let (bytes, headers, key, _) = packet.parts_mut();
    let l3_at = usize::from(headers.l3_at);
    let at = match headers.l3 {
        L3::Ipv4 => l3_at + 8,
        L3::Ipv6 => l3_at + 7,
        L3::Other | L3::Arp => return Err(Unwritable::NotIp),
    };
    let ttl = bytes.get_mut(at).ok_or(Unwritable::Stale)?;
    let Some(left) = ttl.checked_sub(by).filter(|left| *left > 0) else {
        return Err(Unwritable::TtlExceeded);
    };
    *ttl = left;
    key.ip_ttl = left;
    if headers.l3 == L3::Ipv4 {
        // TTL is the high byte of its word.
        mend(bytes, l3_at + 10, u16::from_be_bytes([by, 0]), 0);
    }
    Ok(())
}

/// Sets the DSCP; ECN stays (RFC 2474 §3, RFC 3168 §5). Once for all segments of a super-frame: they get its headers.
///
/// # Errors
/// When the packet is not IP; nothing is changed then.
#[inline]
pub fn set_dscp(packet: &mut Packet, dscp: u8) -> Result<(), Unwritable> {
    let ecn = packet.key().ip_tos & 0b11;
    set_tos(packet, dscp << 2 | ecn)
}

/// Says that congestion was experienced (CE), if the sender's transport hears that (ECT: RFC 3168 §5). Once for all segments of a super-frame, as above.
/// `false`, and nothing is changed: it does not, or the packet is not IP.
pub fn mark_congestion(packet: &mut Packet) -> bool {
    let tos = packet.key().ip_tos;
    tos & 0b11 != 0 && set_tos(packet, tos | 0b11).is_ok()
}

/// Sets DSCP and ECN.
fn set_tos(packet: &mut Packet, tos: u8) -> Result<(), Unwritable> {
    let (bytes, headers, key, _) = packet.parts_mut();
    let l3_at = usize::from(headers.l3_at);
    // Version, header length or more of the traffic class stand in the same 16 bits.
    let word = bytes
        .get_mut(l3_at..)
        .and_then(|header| header.first_chunk_mut::<2>())
        .ok_or(Unwritable::Stale)?;
    let before = u16::from_be_bytes(*word);
    let after = match headers.l3 {
        L3::Ipv4 => before & 0xff00 | u16::from(tos),
        L3::Ipv6 => before & 0xf00f | u16::from(tos) << 4,
        L3::Other | L3::Arp => return Err(Unwritable::NotIp),
    };
    *word = after.to_be_bytes();
    key.ip_tos = tos;
    if headers.l3 == L3::Ipv4 {
        mend(bytes, l3_at + 10, before, after);
    }
    Ok(())
}

/// Where the headers to change are.
#[derive(Clone, Copy)]
struct Layout {
    l3: L3,
    l4: L4,
    l3_at: usize,
    l4_at: usize,
    /// Where the IP packet ends; padding may follow.
    end: usize,
    partial: bool,
}

impl Layout {
    fn translate(
        self,
        bytes: &mut [u8],
        src: Option<End>,
        dst: Option<End>,
    ) -> Result<(), Unwritable> {
        for (addr, _) in [src, dst].into_iter().flatten() {
            let fits = match self.l3 {
                L3::Ipv4 => addr.is_ipv4(),
                L3::Ipv6 => addr.is_ipv6(),
                L3::Other | L3::Arp => return Err(Unwritable::NotIp),
            };
            if !fits {
                return Err(Unwritable::Family(addr));
            }
        }
        let addresses = if self.l3 == L3::Ipv4 { 20 } else { 40 };
        if bytes.len() < self.l3_at + addresses || bytes.len() < self.l4_at {
            return Err(Unwritable::Stale);
        }
        // Only a checksum that held is made anew: a wrong one stays wrong, for its receiver to refuse.
        let sctp = self.l4 == L4::Sctp && sctp_holds(bytes, self.l4_at, self.end);
        if let Some((addr, port)) = src {
            self.address(bytes, addr, if self.l3 == L3::Ipv4 { 12 } else { 8 });
            self.port(bytes, port, 0);
        }
        if let Some((addr, port)) = dst {
            self.address(bytes, addr, if self.l3 == L3::Ipv4 { 16 } else { 24 });
            self.port(bytes, port, 2);
        }
        if sctp {
            sctp_finish(bytes, self.l4_at, self.end);
        }
        Ok(())
    }

    fn address(self, bytes: &mut [u8], addr: IpAddr, offset: usize) {
        let mut octets = [0u8; 16];
        let len = match addr {
            IpAddr::V4(a) => {
                octets[..4].copy_from_slice(&a.octets());
                4
            }
            IpAddr::V6(a) => {
                octets = a.octets();
                16
            }
        };
        let at = self.l3_at + offset;
        let (Some(field), Some(new)) = (bytes.get_mut(at..at + len), octets.get(..len)) else {
            return;
        };
        let before = crate::checksum::sum(field);
        field.copy_from_slice(new);
        let after = crate::checksum::sum(new);
        if self.l3 == L3::Ipv4 {
            mend(bytes, self.l3_at + 10, before, after);
        }
        // ICMP sums no pseudo-header, SCTP has a CRC over its own bytes; ICMPv6 sums one (RFC 4443 §2.3).
        let at = match self.l4 {
            L4::Tcp => self.l4_at + 16,
            L4::Udp => self.l4_at + 6,
            L4::Icmp6 => self.l4_at + 2,
            L4::Icmp | L4::Sctp | L4::Other => return,
        };
        if self.partial {
            mend_partial(bytes, at, before, after);
        } else {
            self.mend_l4(bytes, at, before, after);
        }
    }

    fn port(self, bytes: &mut [u8], port: u16, offset: usize) {
        let (field_at, sum_at) = match self.l4 {
            L4::Tcp => (self.l4_at + offset, Some(self.l4_at + 16)),
            L4::Udp => (self.l4_at + offset, Some(self.l4_at + 6)),
            L4::Sctp => (self.l4_at + offset, None),
            // An ICMP query has one identifier: it goes with the source.
            L4::Icmp | L4::Icmp6 if offset == 0 && is_query(bytes, self.l4, self.l4_at) => {
                (self.l4_at + 4, Some(self.l4_at + 2))
            }
            L4::Icmp | L4::Icmp6 | L4::Other => return,
        };
        let Some(field) = bytes
            .get_mut(field_at..field_at + 2)
            .and_then(|f| f.first_chunk_mut::<2>())
        else {
            return;
        };
        let before = u16::from_be_bytes(*field);
        *field = port.to_be_bytes();
        if let (Some(at), false) = (sum_at, self.partial) {
            self.mend_l4(bytes, at, before, port);
        }
    }

    fn mend_l4(self, bytes: &mut [u8], at: usize, before: u16, after: u16) {
        if self.l4 != L4::Udp {
            return mend(bytes, at, before, after);
        }
        let read = |b: &[u8]| {
            b.get(at..at + 2)
                .and_then(|f| f.first_chunk::<2>())
                .map(|f| u16::from_be_bytes(*f))
        };
        match read(bytes) {
            None | Some(0) => return,
            Some(_) => mend(bytes, at, before, after),
        }
        if read(bytes) == Some(0)
            && let Some(field) = bytes.get_mut(at..at + 2)
        {
            field.fill(0xff);
        }
    }
}

fn is_query(bytes: &[u8], l4: L4, l4_at: usize) -> bool {
    match (l4, bytes.get(l4_at)) {
        (L4::Icmp, Some(kind)) => matches!(kind, 0 | 8 | 13..=18),
        (L4::Icmp6, Some(kind)) => matches!(kind, 128 | 129),
        _ => false,
    }
}

/// Does the checksum of SCTP hold (RFC 9260 §6.8)?
fn sctp_holds(bytes: &[u8], l4_at: usize, end: usize) -> bool {
    sctp_sum(bytes, l4_at, end).is_some_and(|(is, should)| is == should)
}

/// The checksum of SCTP covers its ports, and has no incremental form worth its code: a pass over the packet.
fn sctp_finish(bytes: &mut [u8], l4_at: usize, end: usize) {
    if let Some((_, should)) = sctp_sum(bytes, l4_at, end)
        && let Some(field) = bytes.get_mut(l4_at + 8..l4_at + 12)
    {
        field.copy_from_slice(&should);
    }
}

fn sctp_sum(bytes: &[u8], l4_at: usize, end: usize) -> Option<([u8; 4], [u8; 4])> {
    let packet = bytes.get(l4_at..end)?;
    let (ports, rest) = packet.split_at_checked(8)?;
    let (is, rest) = rest.split_first_chunk::<4>()?;
    Some((
        *is,
        crate::checksum::crc32c(&[ports, &[0; 4], rest]).to_le_bytes(),
    ))
}

/// RFC 1624 equation 3: HC' = ~(~HC + ~m + m').
fn mend(bytes: &mut [u8], at: usize, before: u16, after: u16) {
    if let Some(field) = bytes.get_mut(at..).and_then(|f| f.first_chunk_mut::<2>()) {
        let sum = crate::checksum::fold(
            u64::from(!u16::from_be_bytes(*field)) + u64::from(!before) + u64::from(after),
        );
        *field = (!sum).to_be_bytes();
    }
}

/// The same for a field that holds a sum, not its complement.
fn mend_partial(bytes: &mut [u8], at: usize, before: u16, after: u16) {
    if let Some(field) = bytes.get_mut(at..).and_then(|f| f.first_chunk_mut::<2>()) {
        let sum = crate::checksum::fold(
            u64::from(u16::from_be_bytes(*field)) + u64::from(!before) + u64::from(after),
        );
        *field = sum.to_be_bytes();
    }
}

#[cfg(test)]
mod tests;
