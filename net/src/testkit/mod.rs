//! What do tests build packets with?
//!
//! [`FrameBuilder`] makes one legal frame of any kind; [`any_frame`] is the proptest strategy over all of them, which never
//! yields an illegal one; [`checksums_hold`] is the naive judge.

// A test kit may fail loudly: it runs in tests alone.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::missing_panics_doc,
    clippy::cast_possible_truncation,
    reason = "test kit"
)]

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use proptest::prelude::*;

use crate::{
    Headers, L3, L4, Mac, Packet, PacketPool, checksum,
    flow_key::{Origin, ethertype, proto},
};

/// The transport of a frame under construction.
#[derive(Debug, Clone, Copy)]
enum Transport {
    Tcp {
        flags: u8,
        seq: u32,
        ack: u32,
        window: u16,
    },
    Udp,
    Sctp,
    Icmp {
        kind: u8,
        code: u8,
    },
    Other(u8),
}

/// Builds one legal Ethernet frame with IP inside, checksums right.
#[derive(Debug, Clone)]
pub struct FrameBuilder {
    src_mac: Mac,
    dst_mac: Mac,
    vlan: Option<u16>,
    src: IpAddr,
    dst: IpAddr,
    src_port: u16,
    dst_port: u16,
    ttl: u8,
    tos: u8,
    transport: Transport,
    payload: Vec<u8>,
    fragment: Option<(u32, u16, bool)>,
}

/// TCP flag bits.
pub mod tcp {
    /// FIN.
    pub const FIN: u8 = 1;
    /// SYN.
    pub const SYN: u8 = 2;
    /// RST.
    pub const RST: u8 = 4;
    /// PSH.
    pub const PSH: u8 = 8;
    /// ACK.
    pub const ACK: u8 = 16;
}

impl FrameBuilder {
    fn new(v6: bool, transport: Transport, src_port: u16, dst_port: u16) -> Self {
        let (src, dst): (IpAddr, IpAddr) = if v6 {
            ("fd00::1".parse().unwrap(), "fd00::2".parse().unwrap())
        } else {
            (
                Ipv4Addr::new(10, 0, 0, 1).into(),
                Ipv4Addr::new(10, 0, 0, 2).into(),
            )
        };
        Self {
            src_mac: Mac::new([2, 0, 0, 0, 0, 1]),
            dst_mac: Mac::new([2, 0, 0, 0, 0, 2]),
            vlan: None,
            src,
            dst,
            src_port,
            dst_port,
            ttl: 64,
            tos: 0,
            transport,
            payload: vec![],
            fragment: None,
        }
    }

    /// A TCP segment with ACK set.
    pub fn tcp(v6: bool, src_port: u16, dst_port: u16) -> Self {
        let transport = Transport::Tcp {
            flags: tcp::ACK,
            seq: 1,
            ack: 1,
            window: 65_535,
        };
        Self::new(v6, transport, src_port, dst_port)
    }

    /// A UDP datagram.
    pub fn udp(v6: bool, src_port: u16, dst_port: u16) -> Self {
        Self::new(v6, Transport::Udp, src_port, dst_port)
    }

    /// An SCTP packet.
    pub fn sctp(v6: bool, src_port: u16, dst_port: u16) -> Self {
        Self::new(v6, Transport::Sctp, src_port, dst_port)
    }

    /// An echo request with this identifier.
    pub fn echo(v6: bool, id: u16) -> Self {
        Self::new(
            v6,
            Transport::Icmp {
                kind: if v6 { 128 } else { 8 },
                code: 0,
            },
            id,
            id,
        )
    }

    /// An echo reply with this identifier.
    pub fn echo_reply(v6: bool, id: u16) -> Self {
        Self::new(
            v6,
            Transport::Icmp {
                kind: if v6 { 129 } else { 0 },
                code: 0,
            },
            id,
            id,
        )
    }

    /// A packet of a protocol that has no ports.
    pub fn other(v6: bool, protocol: u8) -> Self {
        Self::new(v6, Transport::Other(protocol), 0, 0)
    }

    /// Sets the Ethernet addresses.
    #[must_use]
    pub fn macs(mut self, src: Mac, dst: Mac) -> Self {
        (self.src_mac, self.dst_mac) = (src, dst);
        self
    }

    /// Sets the IP addresses; both of one family.
    #[must_use]
    pub fn addrs(mut self, src: IpAddr, dst: IpAddr) -> Self {
        assert_eq!(src.is_ipv4(), dst.is_ipv4(), "addresses of one family");
        (self.src, self.dst) = (src, dst);
        self
    }

    /// Tags the frame.
    #[must_use]
    pub fn vlan(mut self, id: u16) -> Self {
        self.vlan = Some(id);
        self
    }

    /// Sets the TTL or hop limit.
    #[must_use]
    pub fn ttl(mut self, ttl: u8) -> Self {
        self.ttl = ttl;
        self
    }

    /// Sets DSCP and ECN.
    #[must_use]
    pub fn tos(mut self, tos: u8) -> Self {
        self.tos = tos;
        self
    }

    /// Sets the TCP flags.
    #[must_use]
    pub fn flags(mut self, bits: u8) -> Self {
        if let Transport::Tcp { flags, .. } = &mut self.transport {
            *flags = bits;
        }
        self
    }

    /// Sets the TCP sequence and acknowledgement numbers.
    #[must_use]
    pub fn seq(mut self, sequence: u32, acknowledgement: u32) -> Self {
        if let Transport::Tcp { seq, ack, .. } = &mut self.transport {
            (*seq, *ack) = (sequence, acknowledgement);
        }
        self
    }

    /// Sets the payload.
    #[must_use]
    pub fn payload(mut self, bytes: &[u8]) -> Self {
        self.payload = bytes.to_vec();
        self
    }

    /// Makes it a fragment: identification, offset in 8 octets, more to come. Of a later one the payload is all there is.
    #[must_use]
    pub fn fragment(mut self, id: u32, offset8: u16, more: bool) -> Self {
        self.fragment = Some((id, offset8, more));
        self
    }

    fn l4(&self) -> (u8, Vec<u8>) {
        let v6 = self.src.is_ipv6();
        let (s, d) = (self.src_port.to_be_bytes(), self.dst_port.to_be_bytes());
        let (protocol, mut bytes, sum_at) = match self.transport {
            Transport::Tcp {
                flags,
                seq,
                ack,
                window,
            } => {
                let mut b = [s, d].concat();
                b.extend(seq.to_be_bytes());
                b.extend(ack.to_be_bytes());
                b.extend([0x50, flags]);
                b.extend(window.to_be_bytes());
                b.extend([0; 4]);
                (proto::TCP, b, Some(16))
            }
            Transport::Udp => {
                let len = u16::try_from(8 + self.payload.len()).expect("a datagram fits 16 bits");
                ([s, d, len.to_be_bytes(), [0; 2]].concat(), 6).into_parts(proto::UDP)
            }
            Transport::Icmp { kind, code } => {
                let b = vec![kind, code, 0, 0, s[0], s[1], 0, 1];
                (if v6 { proto::ICMP6 } else { proto::ICMP }, b, Some(2))
            }
            Transport::Sctp => (
                proto::SCTP,
                [s, d, [0; 2], [1; 2], [0; 2], [0; 2]].concat(),
                None,
            ),
            Transport::Other(p) => (p, vec![], None),
        };
        if self.fragment.is_some_and(|(_, offset, _)| offset != 0) {
            return (protocol, self.payload.clone());
        }
        bytes.extend(&self.payload);
        if protocol == proto::SCTP && matches!(self.transport, Transport::Sctp) {
            let crc = checksum::crc32c(&[&bytes]).to_le_bytes();
            bytes[8..12].copy_from_slice(&crc);
        }
        if let Some(at) = sum_at {
            let sum = if protocol == proto::ICMP {
                !checksum::sum(&bytes)
            } else {
                checksum::transport(self.src, self.dst, protocol, &bytes)
            };
            let sum = if sum == 0 && protocol == proto::UDP {
                0xffff
            } else {
                sum
            };
            bytes[at..at + 2].copy_from_slice(&sum.to_be_bytes());
        }
        (protocol, bytes)
    }

    /// The frame.
    pub fn build(&self) -> Vec<u8> {
        let (protocol, l4) = self.l4();
        let kind = if self.src.is_ipv4() {
            ethertype::IPV4
        } else {
            ethertype::IPV6
        };
        let mut frame = ethernet(self.src_mac, self.dst_mac, self.vlan, kind);
        match (self.src, self.dst) {
            (IpAddr::V4(src), IpAddr::V4(dst)) => frame.extend(self.ipv4(src, dst, protocol, &l4)),
            (IpAddr::V6(src), IpAddr::V6(dst)) => frame.extend(self.ipv6(src, dst, protocol, &l4)),
            _ => unreachable!("addrs() keeps one family"),
        }
        frame
    }

    fn ipv4(&self, src: Ipv4Addr, dst: Ipv4Addr, protocol: u8, l4: &[u8]) -> Vec<u8> {
        let total = u16::try_from(20 + l4.len())
            .expect("a packet fits 16 bits")
            .to_be_bytes();
        let (id, flags) = match self.fragment {
            Some((id, offset, more)) => (id as u16, offset | if more { 0x2000 } else { 0 }),
            None => (0, 0x4000),
        };
        let (id, flags) = (id.to_be_bytes(), flags.to_be_bytes());
        let mut ip = vec![
            0x45, self.tos, total[0], total[1], id[0], id[1], flags[0], flags[1],
        ];
        ip.extend([self.ttl, protocol, 0, 0]);
        ip.extend(src.octets());
        ip.extend(dst.octets());
        let sum = !checksum::sum(&ip);
        ip[10..12].copy_from_slice(&sum.to_be_bytes());
        ip.extend(l4);
        ip
    }

    fn ipv6(&self, src: Ipv6Addr, dst: Ipv6Addr, protocol: u8, l4: &[u8]) -> Vec<u8> {
        let extension = self.fragment.map_or(vec![], |(id, offset, more)| {
            let word = (offset << 3 | u16::from(more)).to_be_bytes();
            let mut e = vec![protocol, 0, word[0], word[1]];
            e.extend(id.to_be_bytes());
            e
        });
        let next = if self.fragment.is_some() {
            44
        } else {
            protocol
        };
        let len = u16::try_from(extension.len() + l4.len())
            .expect("a packet fits 16 bits")
            .to_be_bytes();
        let mut ip = vec![
            0x60 | self.tos >> 4,
            self.tos << 4,
            0,
            0,
            len[0],
            len[1],
            next,
            self.ttl,
        ];
        ip.extend(src.octets());
        ip.extend(dst.octets());
        ip.extend(extension);
        ip.extend(l4);
        ip
    }

    /// The ICMP or ICMPv6 error (destination unreachable) that a frame's receiver sends back about it.
    pub fn icmp_error(frame: &[u8]) -> Vec<u8> {
        let (headers, key) = Headers::parse(frame).unwrap();
        let v6 = headers.l3 == L3::Ipv6;
        let quote = &frame[usize::from(headers.l3_at)..headers.end as usize];
        let transport = Transport::Icmp {
            kind: if v6 { 1 } else { 3 },
            code: if v6 { 4 } else { 3 },
        };
        let mut error = Self::new(v6, transport, 0, 0)
            .macs(key.dst_mac(), key.src_mac())
            .addrs(key.dst_addr(), key.src_addr())
            .payload(quote);
        error.src_port = 0;
        let mut bytes = error.build();
        // The builder numbers echo messages; an error's second word is unused.
        let at = usize::from(headers.l3_at) + if v6 { 40 } else { 20 };
        bytes[at + 6..at + 8].fill(0);
        bytes[at + 2..at + 4].fill(0);
        let l4 = &bytes[at..];
        let sum = if v6 {
            checksum::transport(key.dst_addr(), key.src_addr(), proto::ICMP6, l4)
        } else {
            !checksum::sum(l4)
        };
        bytes[at + 2..at + 4].copy_from_slice(&sum.to_be_bytes());
        bytes
    }

    /// An ARP message. `op` 1 asks, 2 answers.
    pub fn arp(op: u8, sender: (Mac, Ipv4Addr), target: (Mac, Ipv4Addr)) -> Vec<u8> {
        let dst = if op == 1 { Mac::BROADCAST } else { target.0 };
        let mut frame = ethernet(sender.0, dst, None, ethertype::ARP);
        frame.extend([0, 1, 8, 0, 6, 4, 0, op]);
        frame.extend(sender.0.octets());
        frame.extend(sender.1.octets());
        frame.extend(target.0.octets());
        frame.extend(target.1.octets());
        frame
    }

    /// A Neighbor Solicitation (135) or Advertisement (136) with its link-layer address option (RFC 4861 §4.3, §4.4).
    pub fn neighbor(
        kind: u8,
        src: (Mac, Ipv6Addr),
        dst: (Mac, Ipv6Addr),
        target: Ipv6Addr,
    ) -> Vec<u8> {
        let mut l4 = vec![kind, 0, 0, 0, if kind == 136 { 0x60 } else { 0 }, 0, 0, 0];
        l4.extend(target.octets());
        if !src.1.is_unspecified() {
            l4.extend([if kind == 136 { 2 } else { 1 }, 1]);
            l4.extend(src.0.octets());
        }
        let sum = checksum::transport(src.1.into(), dst.1.into(), proto::ICMP6, &l4);
        l4[2..4].copy_from_slice(&sum.to_be_bytes());
        let mut frame = Self::other(true, proto::ICMP6)
            .macs(src.0, dst.0)
            .addrs(src.1.into(), dst.1.into())
            .ttl(255);
        frame.payload = l4;
        frame.build()
    }
}

trait IntoParts {
    fn into_parts(self, protocol: u8) -> (u8, Vec<u8>, Option<usize>);
}

impl IntoParts for (Vec<u8>, usize) {
    fn into_parts(self, protocol: u8) -> (u8, Vec<u8>, Option<usize>) {
        (protocol, self.0, Some(self.1))
    }
}

fn ethernet(src: Mac, dst: Mac, vlan: Option<u16>, kind: u16) -> Vec<u8> {
    let mut frame = [dst.octets(), src.octets()].concat();
    if let Some(id) = vlan {
        frame.extend(ethertype::VLAN.to_be_bytes());
        frame.extend(id.to_be_bytes());
    }
    frame.extend(kind.to_be_bytes());
    frame
}

/// Do all checksums of a whole (unfragmented) frame hold? Naive: every sum is made anew.
pub fn checksums_hold(frame: &[u8]) -> bool {
    let Ok((headers, key)) = Headers::parse(frame) else {
        return false;
    };
    let l4 = &frame[usize::from(headers.l4_at)..headers.end as usize];
    let sum = |p| checksum::transport(key.src_addr(), key.dst_addr(), p, l4);
    match headers.l4 {
        L4::Tcp => sum(proto::TCP) == 0,
        L4::Udp => l4[6..8] == [0, 0] || sum(proto::UDP) == 0,
        L4::Icmp6 => sum(proto::ICMP6) == 0,
        L4::Icmp => checksum::sum(l4) == 0xffff,
        L4::Sctp => {
            let mut copy = l4.to_vec();
            copy[8..12].fill(0);
            checksum::crc32c(&[&copy]).to_le_bytes() == l4[8..12]
        }
        L4::Other => true,
    }
}

/// A parsed packet of these bytes, from `origin`.
pub fn packet(pool: &mut PacketPool, bytes: &[u8], origin: Origin) -> Packet {
    let mut p = pool
        .take(bytes.len())
        .expect("the test's pool is large enough");
    p.fill(bytes).unwrap();
    p.set_origin(origin);
    p.parse().unwrap();
    p
}

/// Every kind of legal frame: both families; TCP, UDP, SCTP, echo, other protocols; tagged or not; any ports, TTL and payload.
pub fn any_frame() -> impl Strategy<Value = Vec<u8>> {
    let kind = prop_oneof![Just(0u8), Just(1), Just(2), Just(3), Just(4)];
    let payload = prop::collection::vec(any::<u8>(), 0..200);
    (
        any::<bool>(),
        kind,
        any::<(u16, u16)>(),
        1u8..,
        any::<u8>(),
        payload,
        prop::option::of(1u16..4095),
    )
        .prop_map(|(v6, kind, (src, dst), ttl, flags, payload, vlan)| {
            let frame = match kind {
                0 => FrameBuilder::tcp(v6, src, dst).flags(flags),
                1 => FrameBuilder::udp(v6, src, dst),
                2 => FrameBuilder::echo(v6, src),
                3 => FrameBuilder::sctp(v6, src, dst),
                _ => FrameBuilder::other(v6, 47),
            };
            let frame = frame.ttl(ttl).payload(&payload);
            vlan.map_or_else(|| frame.build(), |id| frame.clone().vlan(id).build())
        })
}

/// A port's worth of addresses, for strategies over configs: the n-th MAC.
pub fn mac(n: u16) -> Mac {
    let [a, b] = n.to_be_bytes();
    Mac::new([2, 0, 0, 0, a, b])
}
