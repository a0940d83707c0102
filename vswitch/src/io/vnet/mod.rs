//! How do frames cross with a virtio-net header?
//!
//! Taps and packet sockets alike: each frame is read and written with a header that says what is open on it, so that TCP and UDP
//! super-frames and unfinished checksums stay what they are. What a kernel does not take so is cut and finished in software.
//!
//! # References
//! virtio 1.2 §5.1.6.

use std::io::IoSliceMut;

use net::{
    Batch, Checksum, DropReason, Gso, Offload, Packet, PacketPool,
    packet::{LARGE, SMALL},
};
use rustix::io::Errno;

use super::{
    Refused, Rx,
    offload::{self, Segments},
};

/// Bytes of the virtio-net header: the form without merged buffers.
pub const VNET: usize = 10;
/// Bytes after which one turn of reading ends: what is read should still be in the cache when it is sent on.
const TURN: usize = 256 * 1024;

/// What a device read.
#[derive(Debug, Clone, Copy)]
pub(super) struct Got {
    /// Bytes, the header with them.
    pub(super) len: usize,
    /// It is not to be looked at, for this reason.
    pub(super) refused: Option<DropReason>,
}

/// A descriptor that reads and writes one frame at a time, its header before it.
pub(super) trait Device {
    /// Does it take UDP super-frames?
    fn uso(&self) -> bool;
    /// Reads one.
    fn read(&self, parts: &mut [IoSliceMut<'_>]) -> Result<Got, Errno>;
    /// Writes one.
    fn write(&self, header: [u8; VNET], parts: [&[u8]; 2]) -> Result<(), Errno>;
}

const NEEDS_CHECKSUM: u8 = 1;
const CHECKSUM_VALID: u8 = 2;
const GSO_TCP4: u8 = 1;
const GSO_TCP6: u8 = 4;
const GSO_UDP: u8 = 5;
const GSO_ECN: u8 = 0x80;

/// What a virtio-net header says of its frame.
pub(super) fn decode(header: [u8; VNET]) -> Result<Offload, DropReason> {
    let [flags, kind, _, _, s0, s1, c0, c1, o0, o1] = header;
    let size = u16::from_le_bytes([s0, s1]);
    let checksum = if flags & NEEDS_CHECKSUM != 0 {
        Checksum::Partial {
            start: u16::from_le_bytes([c0, c1]),
            offset: u16::from_le_bytes([o0, o1]),
        }
    } else if flags & CHECKSUM_VALID != 0 {
        Checksum::Verified
    } else {
        Checksum::Unverified
    };
    let gso = match kind & !GSO_ECN {
        0 if kind == 0 => Gso::None,
        GSO_TCP4 | GSO_TCP6 => Gso::Tcp {
            size,
            ecn: kind & GSO_ECN != 0,
        },
        GSO_UDP if kind == GSO_UDP => Gso::Udp { size },
        _ => return Err(DropReason::MalformedOffload),
    };
    Ok(Offload { checksum, gso })
}

/// The virtio-net header of a frame.
pub(super) fn encode(offload: &Offload, v6: bool, header_len: u16) -> [u8; VNET] {
    let (flags, start, offset) = match offload.checksum {
        Checksum::Unverified => (0, 0, 0),
        Checksum::Verified => (CHECKSUM_VALID, 0, 0),
        Checksum::Partial { start, offset } => (NEEDS_CHECKSUM, start, offset),
    };
    let (kind, size) = match offload.gso {
        Gso::None => (0, 0),
        Gso::Tcp { size, ecn } => {
            let kind = if v6 { GSO_TCP6 } else { GSO_TCP4 };
            (if ecn { kind | GSO_ECN } else { kind }, size)
        }
        Gso::Udp { size } => (GSO_UDP, size),
    };
    let len = if kind == 0 { 0 } else { header_len };
    let [l0, l1] = len.to_le_bytes();
    let [s0, s1] = size.to_le_bytes();
    let [c0, c1] = start.to_le_bytes();
    let [o0, o1] = offset.to_le_bytes();
    [flags, kind, l0, l1, s0, s1, c0, c1, o0, o1]
}

/// Sets what the device said of a frame, if it can be true. A frame that does not parse keeps it: ingress drops it for that.
///
/// # Errors
/// `MalformedOffload` when it contradicts the frame.
pub fn admit(packet: &mut Packet, header: [u8; VNET]) -> Result<(), DropReason> {
    let offload = decode(header)?;
    packet.set_offload(offload);
    let plain = matches!(offload.checksum, Checksum::Unverified | Checksum::Verified);
    if plain && offload.gso == Gso::None {
        return Ok(());
    }
    match packet.parse() {
        Ok(()) => offload::validate(packet.headers(), packet.len(), &offload),
        Err(_) => Err(DropReason::MalformedOffload),
    }
}

/// Reads one frame of any size: small ones end up in the small buffer (says `true`), others in the large one.
fn read(
    device: &impl Device,
    small: &mut Packet,
    large: &mut Packet,
) -> Result<([u8; VNET], bool, Option<DropReason>), Errno> {
    let mut header = [0; VNET];
    let tail = large.room_mut().get_mut(SMALL..).unwrap_or_default();
    let mut parts = [
        IoSliceMut::new(&mut header),
        IoSliceMut::new(small.room_mut()),
        IoSliceMut::new(tail),
    ];
    let Got { len, refused } = device.read(&mut parts)?;
    let len = len.saturating_sub(VNET);
    if small.set_len(len.min(SMALL)).is_err() || large.set_len(len.min(LARGE)).is_err() {
        return Err(Errno::MSGSIZE);
    }
    if len > SMALL {
        // Moving the first bytes of a frame of 60 KB costs less than reading every small frame into a large buffer.
        offload::put(large.bytes_mut(), 0, small.bytes());
    }
    Ok((header, len <= SMALL, refused))
}

fn write(device: &impl Device, header: [u8; VNET], parts: [&[u8]; 2]) -> Result<(), Errno> {
    loop {
        match device.write(header, parts) {
            Err(Errno::INTR) => {}
            done => return done,
        }
    }
}

/// Writes one frame and says how many segments of it went out; where it fails, the packet holds what did not.
fn send(
    device: &impl Device,
    scratch: &mut Vec<u8>,
    packet: &mut Packet,
) -> (u64, Result<(), DropReason>) {
    let offload = packet.offload();
    let v6 = packet.headers().l3 == net::L3::Ipv6;
    let lacks = matches!(offload.gso, Gso::Udp { .. }) && !device.uso();
    // No kernel cuts under a label, nor finishes a checksum there.
    let open = offload.gso != Gso::None || matches!(offload.checksum, Checksum::Partial { .. });
    let lacks = lacks || open && packet.is_labelled();
    if !lacks {
        let header = encode(&offload, v6, packet.headers().payload_at);
        match write(device, header, [packet.bytes(), &[]]) {
            Ok(()) => return (packet.segments().into(), Ok(())),
            Err(Errno::INVAL) if offload != Offload::default() => {}
            Err(e) => return (0, Err(reason(e))),
        }
    }
    send_cut(device, scratch, packet, offload)
}

/// Sends a frame without asking anything of the device.
fn send_cut(
    device: &impl Device,
    scratch: &mut Vec<u8>,
    packet: &mut Packet,
    mut offload: Offload,
) -> (u64, Result<(), DropReason>) {
    let plain = encode(&Offload::default(), false, 0);
    scratch.clear();
    let (mut sent, mut left, mut result) = (0, 0, Ok(()));
    if offload.gso == Gso::None {
        scratch.extend_from_slice(packet.bytes());
        offload::finish(scratch, packet.headers(), &mut offload);
        result = write(device, plain, [scratch, &[]]).map_err(reason);
        sent = u64::from(result.is_ok());
    } else {
        match Segments::new(packet.bytes(), packet.headers(), &offload, usize::MAX) {
            Ok(mut segments) => {
                scratch.resize(segments.header_len(), 0);
                while let Some(payload) = segments.next_into(scratch) {
                    if let Err(e) = write(device, plain, [scratch, payload]) {
                        result = Err(reason(e));
                        left = scratch.len() + payload.len() + segments.rest();
                        break;
                    }
                    sent += 1;
                }
            }
            Err(reason) => result = Err(reason),
        }
    }
    if sent > 0 && left > 0 && packet.set_len(left).is_err() {
        debug_assert!(false, "what is left is shorter than the whole");
    }
    (sent, result)
}

fn reason(errno: Errno) -> DropReason {
    match errno {
        Errno::AGAIN | Errno::NOBUFS => DropReason::PortQueueFull,
        Errno::MSGSIZE => DropReason::MtuExceeded,
        _ => DropReason::PortSend,
    }
}

/// [`super::PortIo::rx`] of such a device.
pub(super) fn rx(
    device: &impl Device,
    pool: &mut PacketPool,
    batch: &mut Batch,
    refused: &mut Refused,
) -> Rx {
    let (mut small, mut large) = (None, None);
    let mut bytes = 0;
    let end = loop {
        if batch.is_full() || bytes >= TURN {
            break Rx::More;
        }
        small = small.or_else(|| pool.take_small());
        large = large.or_else(|| pool.take_large());
        let (Some(s), Some(l)) = (&mut small, &mut large) else {
            break Rx::Starved;
        };
        let (header, is_small, unwanted) = match read(device, s, l) {
            Ok(got) => got,
            Err(Errno::AGAIN) => break Rx::Drained,
            Err(Errno::INTR) => continue,
            Err(_) => break Rx::Gone,
        };
        let used = if is_small { &mut small } else { &mut large };
        let Some(mut packet) = used.take() else {
            break Rx::Starved;
        };
        bytes += packet.len();
        match unwanted.map_or_else(|| admit(&mut packet, header), Err) {
            Ok(()) => {
                if let Err(packet) = batch.push(packet) {
                    refused.push((packet, DropReason::PoolExhausted));
                }
            }
            Err(reason) => refused.push((packet, reason)),
        }
    };
    for unused in small.into_iter().chain(large) {
        pool.give(unused);
    }
    end
}

/// [`super::PortIo::tx`] of such a device.
pub(super) fn tx(
    device: &impl Device,
    scratch: &mut Vec<u8>,
    pool: &mut PacketPool,
    batch: &mut Batch,
    refused: &mut Refused,
) -> u64 {
    let mut sent = 0;
    for mut packet in batch.drain() {
        let (segments, result) = send(device, scratch, &mut packet);
        sent += segments;
        match result {
            Ok(()) => pool.give(packet),
            Err(reason) => refused.push((packet, reason)),
        }
    }
    sent
}

#[cfg(test)]
mod tests;
