//! What do these bytes say?
//!
//! The one place on the packet's way where bytes become headers: offsets, not copies, and the [`FlowKey`] beside them.
//! It reads Ethernet, at most one VLAN tag, ARP, IPv4, IPv6 with its extension headers, TCP, UDP, SCTP, ICMP, ICMPv6 and
//! Neighbor Discovery, and judges only what it must know to find the next header; policy is the tables' business.
//!
//! # Invariants
//! - Never panics, whatever the bytes: every read is bounds-checked by shape (`split_first_chunk`).
//! - Offsets lie within the frame.
//!
//! # Attack
//! Chains of IPv6 extension headers are followed for at most [`MAX_EXTENSIONS`]; a first fragment that does not hold the
//! whole transport header is refused (RFC 1858, RFC 7112).
//!
//! # References
//! IEEE 802.3 §3, RFC 826, RFC 791 §3.1, RFC 8200 §4, RFC 9293 §3.1, RFC 768, RFC 792, RFC 4443, RFC 4861 §4.

use crate::{
    Mac,
    flow_key::{FiveTuple, FlowKey, Fragment, IcmpRole, ethertype, proto},
    verdict::DropReason,
};

/// How many IPv6 extension headers are followed.
pub const MAX_EXTENSIONS: usize = 8;

/// The network layer that was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum L3 {
    /// None that the switch reads.
    #[default]
    Other,
    /// ARP for IPv4 over Ethernet.
    Arp,
    /// IPv4.
    Ipv4,
    /// IPv6.
    Ipv6,
}

/// The transport that was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum L4 {
    /// None: not IP, a later fragment, or a protocol that the switch does not read.
    #[default]
    Other,
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// ICMP.
    Icmp,
    /// ICMPv6.
    Icmp6,
    /// SCTP.
    Sctp,
}

/// Where the headers of a frame are. Offsets count from the frame's first byte.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Headers {
    /// The network layer.
    pub l3: L3,
    /// The transport.
    pub l4: L4,
    /// Where the network header starts.
    pub l3_at: u16,
    /// Where the transport header starts; the end of the IP headers where there is none.
    pub l4_at: u16,
    /// Where the transport's payload starts.
    pub payload_at: u16,
    /// Where the IP packet ends; the frame may go on with padding.
    pub end: u32,
    /// IPv4 identification, or that of the IPv6 fragment header.
    pub fragment_id: u32,
    /// Where this fragment's payload belongs, in bytes.
    pub fragment_offset: u16,
    /// Are more fragments to come?
    pub more_fragments: bool,
}

/// Why a frame could not be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// The Ethernet header, or its tag, ends early.
    #[error("ethernet header ends early")]
    Ethernet,
    /// ARP that is not for IPv4 over Ethernet, or ends early.
    #[error("arp message of a wrong shape")]
    Arp,
    /// An IPv4 header that contradicts itself or the frame.
    #[error("ipv4 header contradicts itself or the frame")]
    Ipv4,
    /// An IPv4 header checksum that does not hold.
    #[error("ipv4 header checksum does not hold")]
    Ipv4Checksum,
    /// An IPv6 header or extension chain that contradicts itself or the frame.
    #[error("ipv6 header or extension chain contradicts itself or the frame")]
    Ipv6,
    /// A transport header that ends early or contradicts itself.
    #[error("transport header ends early or contradicts itself")]
    L4,
    /// A Neighbor Discovery message of a wrong shape.
    #[error("neighbor discovery message of a wrong shape")]
    Nd,
}

impl From<Malformed> for DropReason {
    fn from(m: Malformed) -> Self {
        match m {
            Malformed::Ethernet => Self::MalformedEthernet,
            Malformed::Arp => Self::MalformedArp,
            Malformed::Ipv4 => Self::MalformedIpv4,
            Malformed::Ipv4Checksum => Self::BadChecksum,
            Malformed::Ipv6 => Self::MalformedIpv6,
            Malformed::L4 => Self::MalformedL4,
            Malformed::Nd => Self::MalformedNd,
        }
    }
}

impl Headers {
    /// Reads a frame.
    ///
    /// # Errors
    /// When it contradicts itself.
    pub fn parse(frame: &[u8]) -> Result<(Self, FlowKey), Malformed> {
        let (mut headers, mut key) = (Self::default(), FlowKey::default());
        headers.read(frame, &mut key)?;
        Ok((headers, key))
    }

    /// The same in place: all that was there before is gone. A frame that contradicts itself leaves what was read of it.
    ///
    /// # Errors
    /// As [`Headers::parse`].
    #[inline]
    pub(crate) fn read(&mut self, frame: &[u8], key: &mut FlowKey) -> Result<(), Malformed> {
        *key = FlowKey::default();
        *self = Self {
            end: u32::try_from(frame.len()).unwrap_or(u32::MAX),
            l3_at: 14,
            ..Self::default()
        };
        let (eth, mut rest) = frame.split_first_chunk::<14>().ok_or(Malformed::Ethernet)?;
        let [d0, d1, d2, d3, d4, d5, s0, s1, s2, s3, s4, s5, t0, t1] = *eth;
        key.eth_dst = [d0, d1, d2, d3, d4, d5];
        key.eth_src = [s0, s1, s2, s3, s4, s5];
        key.ethertype = u16::from_be_bytes([t0, t1]);
        if key.ethertype == ethertype::VLAN {
            let (tag, after) = rest.split_first_chunk::<4>().ok_or(Malformed::Ethernet)?;
            key.vlan = 0x1000 | (u16::from_be_bytes([tag[0], tag[1]]) & 0x0fff);
            key.ethertype = u16::from_be_bytes([tag[2], tag[3]]);
            self.l3_at = 18;
            rest = after;
        }
        self.l4_at = self.l3_at;
        self.payload_at = self.l3_at;
        match key.ethertype {
            ethertype::IPV4 => self.ipv4(rest, key),
            ethertype::IPV6 => self.ipv6(rest, key),
            ethertype::ARP => self.arp(rest, key),
            _ => Ok(()),
        }
    }

    /// All of them are elsewhere in the frame now.
    pub(crate) fn shift(&mut self, to: impl Fn(u16) -> u16) {
        let before = self.l3_at;
        for at in [&mut self.l3_at, &mut self.l4_at, &mut self.payload_at] {
            *at = to(*at);
        }
        let (end, before) = (i64::from(self.end), i64::from(before));
        self.end = u32::try_from(end + i64::from(self.l3_at) - before).unwrap_or(self.end);
    }

    fn arp(&mut self, bytes: &[u8], key: &mut FlowKey) -> Result<(), Malformed> {
        let (arp, _) = bytes.split_first_chunk::<28>().ok_or(Malformed::Arp)?;
        let [h0, h1, p0, p1, hlen, plen, o0, o1, rest @ ..] = *arp;
        if [h0, h1, p0, p1, hlen, plen] != [0, 1, 8, 0, 6, 4] || o0 != 0 {
            return Err(Malformed::Arp);
        }
        let [a0, a1, a2, a3, a4, a5, s0, s1, s2, s3, .., d0, d1, d2, d3] = rest;
        self.l3 = L3::Arp;
        key.ip_proto = o1;
        key.link_addr = [a0, a1, a2, a3, a4, a5];
        key.ip_src = mapped([s0, s1, s2, s3]);
        key.ip_dst = mapped([d0, d1, d2, d3]);
        self.payload_at += 28;
        self.l4_at = self.payload_at;
        Ok(())
    }

    #[inline]
    fn ipv4(&mut self, bytes: &[u8], key: &mut FlowKey) -> Result<(), Malformed> {
        let (ip, _) = bytes.split_first_chunk::<20>().ok_or(Malformed::Ipv4)?;
        let [
            vihl,
            tos,
            l0,
            l1,
            i0,
            i1,
            f0,
            f1,
            ttl,
            protocol,
            _,
            _,
            s0,
            s1,
            s2,
            s3,
            d0,
            d1,
            d2,
            d3,
        ] = *ip;
        let header = usize::from(vihl & 0x0f) * 4;
        let total = usize::from(u16::from_be_bytes([l0, l1]));
        if vihl >> 4 != 4 || header < 20 || total < header || total > bytes.len() {
            return Err(Malformed::Ipv4);
        }
        let (head, packet) = bytes.split_at_checked(header).ok_or(Malformed::Ipv4)?;
        let options = head.get(20..).unwrap_or_default();
        if crate::checksum::fold(crate::checksum::few(ip) + crate::checksum::few(options)) != 0xffff
        {
            return Err(Malformed::Ipv4Checksum);
        }
        self.l3 = L3::Ipv4;
        key.ip_tos = tos;
        key.ip_ttl = ttl;
        key.ip_proto = protocol;
        key.ip_src = mapped([s0, s1, s2, s3]);
        key.ip_dst = mapped([d0, d1, d2, d3]);
        self.fragment_id = u32::from(u16::from_be_bytes([i0, i1]));
        let flags = u16::from_be_bytes([f0, f1]);
        self.fragment(flags & 0x1fff, flags & 0x2000 != 0, key);
        self.end = offset(usize::from(self.l3_at) + total)?;
        self.l4_at += offset16(header)?;
        self.payload_at = self.l4_at;
        let payload = packet.get(..total - header).ok_or(Malformed::Ipv4)?;
        self.transport(payload, protocol, key)
    }

    fn ipv6(&mut self, bytes: &[u8], key: &mut FlowKey) -> Result<(), Malformed> {
        let (ip, rest) = bytes.split_first_chunk::<40>().ok_or(Malformed::Ipv6)?;
        let (fixed, addresses) = ip.split_first_chunk::<8>().ok_or(Malformed::Ipv6)?;
        let [v0, v1, _, _, l0, l1, next, hop] = *fixed;
        let length = usize::from(u16::from_be_bytes([l0, l1]));
        if v0 >> 4 != 6 {
            return Err(Malformed::Ipv6);
        }
        let mut payload = rest.get(..length).ok_or(Malformed::Ipv6)?;
        let (src, dst) = addresses.split_first_chunk::<16>().ok_or(Malformed::Ipv6)?;
        self.l3 = L3::Ipv6;
        key.ip_tos = (v0 << 4) | (v1 >> 4);
        key.ip_ttl = hop;
        key.ip_src = *src;
        key.ip_dst = *dst.first_chunk().ok_or(Malformed::Ipv6)?;
        self.end = offset(usize::from(self.l3_at) + 40 + length)?;
        let mut next = next;
        for _ in 0..=MAX_EXTENSIONS {
            let used = match next {
                // Hop-by-hop, routing, destination options, mobility, HIP, Shim6: length in 8 octets past the first.
                0 | 43 | 60 | 135 | 139 | 140 => {
                    let ([n, len], _) = payload.split_first_chunk::<2>().ok_or(Malformed::Ipv6)?;
                    next = *n;
                    8 + usize::from(*len) * 8
                }
                // Authentication header: length in 4 octets, less 2 (RFC 4302 §2.2).
                51 => {
                    let ([n, len], _) = payload.split_first_chunk::<2>().ok_or(Malformed::Ipv6)?;
                    next = *n;
                    8 + usize::from(*len) * 4
                }
                44 => {
                    let ([n, _, o0, o1, id @ ..], _) =
                        payload.split_first_chunk::<8>().ok_or(Malformed::Ipv6)?;
                    next = *n;
                    let word = u16::from_be_bytes([*o0, *o1]);
                    self.fragment_id = u32::from_be_bytes(*id);
                    self.fragment(word >> 3, word & 1 != 0, key);
                    8
                }
                _ => {
                    self.l4_at = offset16(usize::try_from(self.end).unwrap_or(0) - payload.len())?;
                    self.payload_at = self.l4_at;
                    key.ip_proto = next;
                    return self.transport(payload, next, key);
                }
            };
            payload = payload.get(used..).ok_or(Malformed::Ipv6)?;
            if key.ip_frag == Fragment::Later as u8 {
                // What follows belongs to the middle of the packet, not to its headers.
                self.l4_at = offset16(usize::try_from(self.end).unwrap_or(0) - payload.len())?;
                self.payload_at = self.l4_at;
                key.ip_proto = next;
                return Ok(());
            }
        }
        Err(Malformed::Ipv6)
    }

    #[inline]
    fn fragment(&mut self, offset8: u16, more: bool, key: &mut FlowKey) {
        self.fragment_offset = offset8.saturating_mul(8);
        self.more_fragments = more;
        let fragment = match (offset8, more) {
            (0, false) => Fragment::Whole,
            (0, true) => Fragment::First,
            _ => Fragment::Later,
        };
        key.ip_frag = fragment as u8;
    }

    #[inline]
    fn transport(
        &mut self,
        bytes: &[u8],
        protocol: u8,
        key: &mut FlowKey,
    ) -> Result<(), Malformed> {
        if key.ip_frag == Fragment::Later as u8 {
            return Ok(());
        }
        match protocol {
            proto::TCP => {
                let (tcp, _) = bytes.split_first_chunk::<20>().ok_or(Malformed::L4)?;
                let [s0, s1, d0, d1, _, _, _, _, _, _, _, _, off, flags, ..] = *tcp;
                let header = usize::from(off >> 4) * 4;
                if header < 20 || header > bytes.len() {
                    return Err(Malformed::L4);
                }
                key.l4_src = u16::from_be_bytes([s0, s1]);
                key.l4_dst = u16::from_be_bytes([d0, d1]);
                key.tcp_flags = (u16::from(off & 1) << 8) | u16::from(flags);
                self.l4 = L4::Tcp;
                self.payload_at += offset16(header)?;
            }
            proto::UDP => {
                let (udp, _) = bytes.split_first_chunk::<8>().ok_or(Malformed::L4)?;
                let [s0, s1, d0, d1, l0, l1, _, _] = *udp;
                let length = usize::from(u16::from_be_bytes([l0, l1]));
                // A first fragment's length speaks of the whole datagram.
                if length < 8 || (key.ip_frag == Fragment::Whole as u8 && length > bytes.len()) {
                    return Err(Malformed::L4);
                }
                key.l4_src = u16::from_be_bytes([s0, s1]);
                key.l4_dst = u16::from_be_bytes([d0, d1]);
                self.l4 = L4::Udp;
                self.payload_at += 8;
            }
            proto::SCTP => {
                let (sctp, _) = bytes.split_first_chunk::<12>().ok_or(Malformed::L4)?;
                let [s0, s1, d0, d1, ..] = *sctp;
                key.l4_src = u16::from_be_bytes([s0, s1]);
                key.l4_dst = u16::from_be_bytes([d0, d1]);
                self.l4 = L4::Sctp;
                self.payload_at += 12;
            }
            proto::ICMP if self.l3 == L3::Ipv4 => {
                let (icmp, _) = bytes.split_first_chunk::<8>().ok_or(Malformed::L4)?;
                let [kind, code, _, _, i0, i1, _, _] = *icmp;
                (key.l4_src, key.l4_dst) = (u16::from(kind), u16::from(code));
                // Echo, timestamp and information queries carry an identifier (RFC 792).
                if matches!(kind, 0 | 8 | 13..=18) {
                    key.icmp_id = u16::from_be_bytes([i0, i1]);
                }
                self.l4 = L4::Icmp;
                self.payload_at += 8;
            }
            proto::ICMP6 if self.l3 == L3::Ipv6 => {
                let (icmp, body) = bytes.split_first_chunk::<4>().ok_or(Malformed::L4)?;
                let [kind, code, _, _] = *icmp;
                (key.l4_src, key.l4_dst) = (u16::from(kind), u16::from(code));
                self.l4 = L4::Icmp6;
                match kind {
                    128 | 129 => {
                        let ([i0, i1], _) = body.split_first_chunk::<2>().ok_or(Malformed::L4)?;
                        key.icmp_id = u16::from_be_bytes([*i0, *i1]);
                    }
                    133..=137 => neighbor_discovery(kind, body, key)?,
                    _ => {}
                }
                self.payload_at += offset16(bytes.len().min(8))?;
            }
            _ => {}
        }
        Ok(())
    }

    /// The connection that an ICMP or ICMPv6 error quotes, in the direction in which the quoted packet went, with the TCP
    /// sequence number where it is there. `None` when this is no error, or the quote is too short to tell.
    pub fn quoted(&self, frame: &[u8]) -> Option<Quoted> {
        let icmp = frame.get(usize::from(self.l4_at)..usize::try_from(self.end).ok()?)?;
        let kind = *icmp.first()?;
        let v6 = match self.l4 {
            // Destination unreachable, source quench, redirect, time exceeded, parameter problem (RFC 792).
            L4::Icmp if matches!(kind, 3 | 4 | 5 | 11 | 12) => false,
            // Error messages have a zero high bit (RFC 4443 §2.1).
            L4::Icmp6 if (1..=127).contains(&kind) => true,
            L4::Other | L4::Tcp | L4::Udp | L4::Icmp | L4::Icmp6 | L4::Sctp => return None,
        };
        let quote = icmp.get(8..)?;
        let at = usize::from(self.l4_at) + 8;
        let (tuple, l4_in_quote) = if v6 {
            quoted_v6(quote)?
        } else {
            quoted_v4(quote)?
        };
        let tcp_sequence = (tuple.proto == proto::TCP)
            .then(|| {
                quote
                    .get(l4_in_quote + 4..)?
                    .first_chunk::<4>()
                    .map(|s| u32::from_be_bytes(*s))
            })
            .flatten();
        Some(Quoted {
            tuple,
            tcp_sequence,
            l3_at: at,
            l4_at: at + l4_in_quote,
        })
    }
}

/// The packet that an ICMP error quotes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Quoted {
    /// Its connection, in its own direction.
    pub tuple: FiveTuple,
    /// Its TCP sequence number.
    pub tcp_sequence: Option<u32>,
    /// Where its IP header starts, from the frame's first byte.
    pub l3_at: usize,
    /// Where its transport header starts, from the frame's first byte.
    pub l4_at: usize,
}

fn quoted_v4(quote: &[u8]) -> Option<(FiveTuple, usize)> {
    let (ip, _) = quote.split_first_chunk::<20>()?;
    let [
        vihl,
        _,
        _,
        _,
        _,
        _,
        f0,
        f1,
        _,
        protocol,
        _,
        _,
        s0,
        s1,
        s2,
        s3,
        d0,
        d1,
        d2,
        d3,
    ] = *ip;
    let header = usize::from(vihl & 0x0f) * 4;
    if vihl >> 4 != 4 || header < 20 || u16::from_be_bytes([f0, f1]) & 0x1fff != 0 {
        return None;
    }
    let ports = quoted_ports(protocol, quote.get(header..)?)?;
    let (src, dst) = (mapped([s0, s1, s2, s3]), mapped([d0, d1, d2, d3]));
    let tuple = FiveTuple {
        src,
        dst,
        src_port: ports.0,
        dst_port: ports.1,
        proto: protocol,
        role: quoted_role(protocol, quote.get(header..)?),
        reserved: [0; 2],
    };
    Some((tuple, header))
}

fn quoted_v6(quote: &[u8]) -> Option<(FiveTuple, usize)> {
    let (ip, rest) = quote.split_first_chunk::<40>()?;
    if ip[0] >> 4 != 6 {
        return None;
    }
    let (src, dst) = (
        ip.get(8..24)?.first_chunk::<16>()?,
        ip.get(24..40)?.first_chunk::<16>()?,
    );
    let (mut next, mut at, mut payload) = (ip[6], 40, rest);
    for _ in 0..MAX_EXTENSIONS {
        let used = match next {
            0 | 43 | 60 => 8 + usize::from(*payload.get(1)?) * 8,
            44 if payload
                .get(2..4)?
                .first_chunk::<2>()
                .is_some_and(|w| u16::from_be_bytes(*w) >> 3 == 0) =>
            {
                8
            }
            44 => return None,
            _ => break,
        };
        next = *payload.first()?;
        at += used;
        payload = payload.get(used..)?;
    }
    let ports = quoted_ports(next, payload)?;
    let tuple = FiveTuple {
        src: *src,
        dst: *dst,
        src_port: ports.0,
        dst_port: ports.1,
        proto: next,
        role: quoted_role(next, payload),
        reserved: [0; 2],
    };
    Some((tuple, at))
}

/// A quoted ICMP message's half of its conversation.
fn quoted_role(protocol: u8, l4: &[u8]) -> u8 {
    let kind = l4.first().copied().unwrap_or(u8::MAX);
    IcmpRole::of(protocol, kind.into()) as u8
}

fn quoted_ports(protocol: u8, l4: &[u8]) -> Option<(u16, u16)> {
    // Eight bytes are all that RFC 792 promises.
    let word = |at: usize| {
        l4.get(at..at + 2)?
            .first_chunk::<2>()
            .map(|w| u16::from_be_bytes(*w))
    };
    match protocol {
        proto::TCP | proto::UDP | proto::SCTP => {
            l4.first_chunk::<8>()?;
            Some((word(0)?, word(2)?))
        }
        proto::ICMP | proto::ICMP6 => {
            let id = word(4)?;
            Some((id, id))
        }
        // Nothing is asked of it, and the packet may have been shorter.
        _ => Some((0, 0)),
    }
}

fn neighbor_discovery(kind: u8, body: &[u8], key: &mut FlowKey) -> Result<(), Malformed> {
    // Behind type, code and checksum: reserved or flags (4), a target where there is one, then options.
    let fixed = match kind {
        133 => 4,
        134 => 12,
        135 | 136 => 20,
        _ => 36,
    };
    let mut options = body.get(fixed..).ok_or(Malformed::Nd)?;
    if matches!(kind, 135..=137) {
        key.nd_target = *body
            .get(4..)
            .and_then(|b| b.first_chunk())
            .ok_or(Malformed::Nd)?;
    }
    // Source link-layer address in solicitations and advertisements of routers, target in the others (RFC 4861 §4.6.1).
    let wanted = if matches!(kind, 136 | 137) { 2 } else { 1 };
    while let Some((&[option, length], _)) = options.split_first_chunk::<2>() {
        let used = usize::from(length) * 8;
        if used == 0 {
            return Err(Malformed::Nd);
        }
        let whole = options.get(..used).ok_or(Malformed::Nd)?;
        if option == wanted
            && let Some(mac) = whole.get(2..).and_then(|b| b.first_chunk::<6>())
            && Mac::new(key.link_addr) == Mac::ZERO
        {
            key.link_addr = *mac;
        }
        options = options.get(used..).ok_or(Malformed::Nd)?;
    }
    Ok(())
}

#[inline]
fn mapped([a, b, c, d]: [u8; 4]) -> [u8; 16] {
    [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, a, b, c, d]
}

#[inline]
fn offset(at: usize) -> Result<u32, Malformed> {
    u32::try_from(at).or(Err(Malformed::Ethernet))
}

#[inline]
fn offset16(at: usize) -> Result<u16, Malformed> {
    u16::try_from(at).or(Err(Malformed::Ethernet))
}

#[cfg(test)]
mod tests;
