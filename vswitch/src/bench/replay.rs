//! Which frames go in?
//!
//! Bytes in one buffer, as a capture file is replayed: 60-byte UDP frames of as many 5-tuples, shuffled; for decapsulation each
//! within Ethernet, IPv4, UDP and VXLAN.

use std::net::Ipv4Addr;

use net::{Vni, checksum};
use overlay::vxlan;

use super::{Work, world};

/// A frame without its checksum.
const FRAME: usize = 60;
/// Ethernet, IPv4, UDP and VXLAN around it.
pub(super) const OUTER: usize = 14 + 20 + 8 + vxlan::VXLAN_HEADER;

/// Frames of one length, one behind the other.
#[derive(Debug)]
pub(super) struct Replay {
    bytes: Vec<u8>,
    frame: usize,
    next: usize,
}

impl Replay {
    pub(super) fn new(work: Work, flows: u32) -> Self {
        let outer = work == Work::Decapsulate;
        let frame = if outer { FRAME + OUTER } else { FRAME };
        let mut bytes = Vec::with_capacity(frame * flows as usize);
        for flow in shuffled(flows) {
            let inner = inner(work, flow);
            if outer {
                let mut head = empty((world::FAR, world::HERE));
                let port = 49_152 + u16::try_from(flow % 16_384).unwrap_or(0);
                let len = u16::try_from(inner.len()).unwrap_or(0);
                let sum = unfitted(&head);
                dress(&mut head, sum, len, world::HERE, port);
                bytes.extend_from_slice(&head);
            }
            bytes.extend_from_slice(&inner);
        }
        Self {
            bytes,
            frame,
            next: 0,
        }
    }

    /// How many frames there are.
    pub(super) fn len(&self) -> usize {
        self.bytes.len() / self.frame
    }

    /// The next frame; after the last one the first.
    pub(super) fn next(&mut self) -> &[u8] {
        let at = self.next;
        self.next += self.frame;
        if self.next >= self.bytes.len() {
            self.next = 0;
        }
        self.bytes.get(at..at + self.frame).unwrap_or_default()
    }

    pub(super) fn rewind(&mut self) {
        self.next = 0;
    }
}

/// 0 to `flows`, in an order that no prefetcher guesses, the same each time.
fn shuffled(flows: u32) -> Vec<u32> {
    let mut order: Vec<u32> = (0..flows).collect();
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    for at in (1..order.len()).rev() {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        let other = usize::try_from(state % (at as u64 + 1)).unwrap_or(0);
        order.swap(at, other);
    }
    order
}

fn inner(work: Work, flow: u32) -> Vec<u8> {
    let (to, dst) = match work {
        Work::L2 | Work::Decapsulate | Work::SecurityGroup => (world::RECEIVER, world::RECEIVER_IP),
        Work::Encapsulate | Work::SetUp(_) => (world::REMOTE, world::REMOTE_IP),
        Work::Chain(_) => (world::BALANCER, world::VIP),
    };
    let src = Ipv4Addr::from(u32::from(world::SENDER_IP) + (flow >> 6));
    let port = 1024 + u16::try_from(flow % 64).unwrap_or(0) * 17;
    let mut frame = vec![0; FRAME];
    let Some((eth, ip)) = frame.split_at_mut_checked(14) else {
        return frame;
    };
    let from = if work == Work::Decapsulate {
        world::REMOTE
    } else {
        world::SENDER
    };
    ethernet(eth, to, from);
    ipv4(ip, (src, dst), FRAME - 14);
    if let Some(udp) = ip.get_mut(20..28) {
        let length = u16::try_from(FRAME - 34).unwrap_or(0);
        put(udp, [port, 53, length, 0]);
    }
    frame
}

/// What stands outside an empty frame in the tunnel between two VTEPs.
pub(super) fn empty((src, dst): (Ipv4Addr, Ipv4Addr)) -> [u8; OUTER] {
    let mut head = [0; OUTER];
    let (eth, rest) = head.split_at_mut(14);
    ethernet(eth, [2, 0xaa, 0, 0, 0, 2], [2, 0xaa, 0, 0, 0, 1]);
    ipv4(rest, (src, dst), OUTER - 14);
    if let Some((udp, tunnel)) = rest.get_mut(20..).and_then(|r| r.split_at_mut_checked(8)) {
        // RFC 7348 §4.3: the checksum SHOULD be zero.
        let length = u16::try_from(OUTER - 34).unwrap_or(0);
        put(udp, [0, vxlan::VXLAN_PORT, length, 0]);
        let vni = Vni::try_from(world::VNI).ok();
        if let (Some(vni), Some(room)) = (vni, tunnel.first_chunk_mut()) {
            *room = vxlan::header(vni);
        }
    }
    head
}

/// Fits the headers of an empty frame to one of `inner` bytes, to this VTEP, from this source port; `sum` is that of [`unfitted`].
#[inline]
pub(super) fn dress(head: &mut [u8; OUTER], sum: u32, inner: u16, vtep: Ipv4Addr, port: u16) {
    let total = u16::try_from(OUTER - 14).unwrap_or(0).saturating_add(inner);
    let [a, b, c, d] = vtep.octets();
    let (high, low) = (u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d]));
    let sum = sum + u32::from(total) + u32::from(high) + u32::from(low);
    let mut set = |at: usize, word: u16| {
        if let Some(room) = head.get_mut(at..at + 2) {
            room.copy_from_slice(&word.to_be_bytes());
        }
    };
    set(16, total);
    set(24, !checksum::fold(sum.into()));
    set(30, high);
    set(32, low);
    set(34, port);
    set(38, total - 20);
}

/// The sum of an IPv4 header without what differs from frame to frame: its length, checksum and destination.
pub(super) fn unfitted(head: &[u8; OUTER]) -> u32 {
    let mut ip = *head;
    for at in [16, 24, 30, 32] {
        if let Some(room) = ip.get_mut(at..at + 2) {
            room.fill(0);
        }
    }
    checksum::sum(ip.get(14..34).unwrap_or_default()).into()
}

fn ethernet(bytes: &mut [u8], dst: [u8; 6], src: [u8; 6]) {
    for (byte, value) in bytes
        .iter_mut()
        .zip(dst.into_iter().chain(src).chain([8, 0]))
    {
        *byte = value;
    }
}

/// An IPv4 header for UDP; `total` counts it.
fn ipv4(bytes: &mut [u8], (src, dst): (Ipv4Addr, Ipv4Addr), total: usize) {
    let total = u16::try_from(total).unwrap_or(u16::MAX);
    if let Some(head) = bytes.get_mut(..20) {
        put(head, [0x4500, total, 0, 0x4000, 0x4011, 0]);
        for (byte, value) in head
            .iter_mut()
            .skip(12)
            .zip(src.octets().into_iter().chain(dst.octets()))
        {
            *byte = value;
        }
        let sum = !checksum::sum(head);
        for (byte, value) in head.iter_mut().skip(10).zip(sum.to_be_bytes()) {
            *byte = value;
        }
    }
}

fn put<const N: usize>(bytes: &mut [u8], words: [u16; N]) {
    for (pair, word) in bytes.chunks_exact_mut(2).zip(words) {
        pair.copy_from_slice(&word.to_be_bytes());
    }
}
