//! What does a probe look like on the wire?

use std::net::IpAddr;

use net::{
    checksum,
    flow_key::{ethertype, proto},
    tcp::flag,
};

use crate::datapath::tables::{
    crossings::{End, PORT},
    probes::Target,
};

/// How much a member may send before it hears from the prober: more than the head of any answer.
const WINDOW: u16 = 8192;
const TTL: u8 = 64;

/// A segment to the member.
#[derive(Debug, Clone, Copy)]
pub(super) struct Segment<'a> {
    /// From which port.
    pub(super) port: u16,
    pub(super) flags: u16,
    pub(super) seq: u32,
    pub(super) ack: u32,
    pub(super) payload: &'a [u8],
}

pub(super) fn segment(to: &Target, segment: &Segment<'_>) -> Vec<u8> {
    let mut tcp = Vec::with_capacity(20 + segment.payload.len());
    tcp.extend(segment.port.to_be_bytes());
    tcp.extend(to.to.2.to_be_bytes());
    tcp.extend(segment.seq.to_be_bytes());
    let ack = if segment.flags & flag::ACK == 0 {
        0
    } else {
        segment.ack
    };
    tcp.extend(ack.to_be_bytes());
    let [_, flags] = segment.flags.to_be_bytes();
    tcp.extend([5 << 4, flags]);
    tcp.extend(WINDOW.to_be_bytes());
    tcp.extend([0; 4]);
    tcp.extend(segment.payload);
    framed(&ends(to), proto::TCP, tcp, 16)
}

/// An empty datagram.
pub(super) fn datagram(to: &Target, port: u16) -> Vec<u8> {
    let mut udp = Vec::with_capacity(8);
    udp.extend(port.to_be_bytes());
    udp.extend(to.to.2.to_be_bytes());
    udp.extend(8_u16.to_be_bytes());
    udp.extend([0; 2]);
    framed(&ends(to), proto::UDP, udp, 6)
}

/// An echo request.
pub(super) fn echo(to: &Target, id: u16, sequence: u16) -> Vec<u8> {
    let (protocol, kind) = if to.from.1.is_ipv4() {
        (proto::ICMP, 8)
    } else {
        (proto::ICMP6, 128)
    };
    let mut icmp = vec![kind, 0, 0, 0];
    icmp.extend(id.to_be_bytes());
    icmp.extend(sequence.to_be_bytes());
    framed(&ends(to), protocol, icmp, 2)
}

/// What goes through an appliance.
#[derive(Debug, Clone, Copy)]
pub(super) struct PathProbe {
    pub(super) from: End,
    pub(super) to: End,
    /// What it bears.
    pub(super) number: [u8; 8],
}

pub(super) fn crossing(probe: &PathProbe) -> Vec<u8> {
    let mut udp = Vec::with_capacity(16);
    udp.extend(PORT.to_be_bytes());
    udp.extend(PORT.to_be_bytes());
    udp.extend(16_u16.to_be_bytes());
    udp.extend([0; 2]);
    udp.extend(probe.number);
    framed(&[probe.from, probe.to], proto::UDP, udp, 6)
}

fn ends(to: &Target) -> [End; 2] {
    let (mac, addr, _) = to.to;
    [to.from, (mac, addr)]
}

/// With the headers before it, and its checksum, whose place is `sum_at`.
fn framed(ends: &[End; 2], protocol: u8, mut message: Vec<u8>, sum_at: usize) -> Vec<u8> {
    let [(src_mac, src), (dst_mac, dst)] = *ends;
    let sum = if protocol == proto::ICMP {
        !checksum::sum(&message)
    } else {
        checksum::transport(src, dst, protocol, &message)
    };
    // A datagram whose sum is zero would say that it has none (RFC 768).
    let sum = if sum == 0 && protocol == proto::UDP {
        u16::MAX
    } else {
        sum
    };
    if let Some(field) = message.get_mut(sum_at..sum_at + 2) {
        field.copy_from_slice(&sum.to_be_bytes());
    }
    // A request is bounded by the API well below 64 KB.
    let len = u16::try_from(message.len()).unwrap_or(u16::MAX);
    let mut frame = Vec::with_capacity(54 + message.len());
    frame.extend(dst_mac.octets());
    frame.extend(src_mac.octets());
    match (src, dst) {
        (IpAddr::V4(src), IpAddr::V4(dst)) => {
            frame.extend(ethertype::IPV4.to_be_bytes());
            let mut ip = vec![0x45, 0];
            ip.extend(len.saturating_add(20).to_be_bytes());
            // Not to be cut: it is short.
            ip.extend([0, 0, 0x40, 0, TTL, protocol, 0, 0]);
            ip.extend(src.octets());
            ip.extend(dst.octets());
            let sum = !checksum::sum(&ip);
            if let Some(field) = ip.get_mut(10..12) {
                field.copy_from_slice(&sum.to_be_bytes());
            }
            frame.extend(ip);
        }
        (IpAddr::V6(src), IpAddr::V6(dst)) => {
            frame.extend(ethertype::IPV6.to_be_bytes());
            frame.extend([0x60, 0, 0, 0]);
            frame.extend(len.to_be_bytes());
            frame.extend([protocol, TTL]);
            frame.extend(src.octets());
            frame.extend(dst.octets());
        }
        // Load balancers whose members are of another family are refused.
        (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => return Vec::new(),
    }
    frame.extend(message);
    frame
}
