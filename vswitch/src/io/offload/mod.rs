//! How is a super-frame cut, and how is a train put together?
//!
//! What a NIC would do: finish checksums, cut TCP and UDP super-frames into segments ([`Segments`]), and see whether what a
//! device says of a frame can be true ([`validate`]). Its inverse, the coalescing of trains, is [`super::coalesce`]. No
//! system calls here: bytes in, bytes out.
//!
//! # Invariants
//! - Never panics, whatever the bytes.
//! - Cutting what was coalesced yields the frames that were there, byte for byte; only the IPv4 identification of frames
//!   that forbid fragmentation may differ, and means nothing there (RFC 6864 §4.1).
//!
//! # Cost
//! One pass over the payload for its sum; it is not copied.
//!
//! # References
//! RFC 9293 §3.1, RFC 3168 §6.1.2 (CWR), RFC 768, RFC 8200 §8.1, virtio 1.2 §5.1.6.

use net::{
    Checksum, DropReason, Gso, Headers, L3, L4, Offload,
    checksum::{add, fold},
};

pub(super) const FIN: u8 = 0x01;
pub(super) const PSH: u8 = 0x08;
pub(super) const CWR: u8 = 0x80;

/// Where a TCP header keeps its flags and its checksum, a UDP header its checksum.
pub(super) const TCP_FLAGS: usize = 13;
const TCP_CHECKSUM: u16 = 16;
const UDP_CHECKSUM: u16 = 6;

/// Where the checksum field is in its transport header; `None` where the switch finishes none.
pub(super) fn checksum_offset(l4: L4) -> Option<u16> {
    match l4 {
        L4::Tcp => Some(TCP_CHECKSUM),
        L4::Udp => Some(UDP_CHECKSUM),
        L4::Other | L4::Icmp | L4::Icmp6 | L4::Sctp => None,
    }
}

pub(super) fn put(frame: &mut [u8], at: usize, bytes: &[u8]) {
    if let Some(to) = frame.get_mut(at..at + bytes.len()) {
        to.copy_from_slice(bytes);
    }
}

pub(super) fn get16(frame: &[u8], at: usize) -> u16 {
    frame
        .get(at..)
        .and_then(|f| f.first_chunk())
        .map_or(0, |b| u16::from_be_bytes(*b))
}

pub(super) fn get32(frame: &[u8], at: usize) -> u32 {
    frame
        .get(at..)
        .and_then(|f| f.first_chunk())
        .map_or(0, |b| u32::from_be_bytes(*b))
}

pub(super) fn end(headers: &Headers) -> usize {
    headers.end as usize
}

/// A length as the 16-bit field that it goes into; the callers' bounds keep it there.
pub(super) fn field(len: usize) -> u16 {
    u16::try_from(len).unwrap_or(u16::MAX)
}

/// The sum of the pseudo-header's addresses and protocol, without the length.
pub(super) fn pseudo(frame: &[u8], headers: &Headers) -> u64 {
    let at = usize::from(headers.l3_at);
    let addresses = match headers.l3 {
        L3::Ipv4 => frame.get(at + 12..at + 20),
        L3::Ipv6 => frame.get(at + 8..at + 40),
        L3::Arp | L3::Other => None,
    };
    let protocol = match headers.l4 {
        L4::Tcp => 6,
        L4::Udp => 17,
        L4::Other | L4::Icmp | L4::Icmp6 | L4::Sctp => 0,
    };
    add(protocol, addresses.unwrap_or_default())
}

/// What stands in the checksum field of a whole TCP or UDP packet that nobody vouches for.
///
/// A kernel VTEP on the same machine hands over frames whose checksum is still to be made: then the field holds the sum of
/// the pseudo-header. Finishing such a field is right even where it is a finished checksum by coincidence, since the
/// result is the same.
pub(super) fn judge(frame: &[u8], headers: &Headers) -> Checksum {
    let Some(offset) = checksum_offset(headers.l4) else {
        return Checksum::Unverified;
    };
    let start = usize::from(headers.l4_at);
    let Some(packet) = frame.get(start..end(headers)) else {
        return Checksum::Unverified;
    };
    let stands = get16(packet, offset.into());
    if headers.l4 == L4::Udp && stands == 0 {
        // RFC 768: the sender made none.
        return Checksum::Unverified;
    }
    let pseudo = pseudo(frame, headers) + packet.len() as u64;
    if stands == fold(pseudo) {
        return Checksum::Partial {
            start: headers.l4_at,
            offset,
        };
    }
    if fold(add(pseudo, packet)) == 0xffff {
        Checksum::Verified
    } else {
        Checksum::Unverified
    }
}

/// Can what a device says of a frame be true?
///
/// # Errors
/// `MalformedOffload` when it contradicts the frame.
pub fn validate(headers: &Headers, len: usize, offload: &Offload) -> Result<(), DropReason> {
    let holds = match offload.checksum {
        Checksum::Unverified | Checksum::Verified => offload.gso == Gso::None,
        Checksum::Partial { start, offset } => match checksum_offset(headers.l4) {
            Some(known) => start == headers.l4_at && offset == known,
            // A protocol that the switch does not read: the field must lie inside of the frame, behind its Ethernet header.
            None => {
                start >= headers.l3_at
                    && usize::from(start) + usize::from(offset) + 2 <= len
                    && offload.gso == Gso::None
            }
        },
    };
    let payload = end(headers).saturating_sub(headers.payload_at.into());
    let cuts = match offload.gso {
        Gso::None => true,
        Gso::Tcp { size, .. } => headers.l4 == L4::Tcp && size > 0 && payload > 0,
        Gso::Udp { size } => headers.l4 == L4::Udp && size > 0 && payload > 0,
    };
    let whole = !headers.more_fragments && headers.fragment_offset == 0;
    if holds && cuts && (whole || *offload == Offload::default()) {
        Ok(())
    } else {
        Err(DropReason::MalformedOffload)
    }
}

/// Finishes the transport checksum of a frame that is one segment; afterwards it is [`Checksum::Verified`].
pub fn finish(frame: &mut [u8], headers: &Headers, offload: &mut Offload) {
    let Checksum::Partial { start, offset } = offload.checksum else {
        return;
    };
    let until = if headers.l4 == L4::Other {
        frame.len()
    } else {
        end(headers)
    };
    let sum = frame.get(start.into()..until).map_or(0, |f| add(0, f));
    let sum = match !fold(sum) {
        // RFC 768: a UDP checksum that comes out as zero is sent as ones.
        0 if headers.l4 == L4::Udp => 0xffff,
        sum => sum,
    };
    put(
        frame,
        usize::from(start) + usize::from(offset),
        &sum.to_be_bytes(),
    );
    offload.checksum = Checksum::Verified;
}

/// The cutting of one TCP or UDP super-frame: an iterator over (header, payload) that writes each header where it is told.
#[derive(Debug)]
pub struct Segments<'a> {
    head: &'a [u8],
    payload: &'a [u8],
    headers: Headers,
    /// Pseudo-header without the length.
    base: u64,
    size: usize,
    at: usize,
    index: u16,
}

impl<'a> Segments<'a> {
    /// The segments of `frame`, whose parse found `headers`, each of at most `limit` bytes of payload: a TCP frame may be cut finer
    /// than its sender asked (the path's MTU may demand it), a UDP one never.
    ///
    /// # Errors
    /// `MtuExceeded` when it may not be cut at the limit, `BadChecksum` when its checksum is wrong already, `MalformedOffload`
    /// when the offloads contradict the frame.
    pub fn new(
        frame: &'a [u8],
        headers: &Headers,
        offload: &Offload,
        limit: usize,
    ) -> Result<Self, DropReason> {
        validate(headers, frame.len(), offload)?;
        let payload_at = usize::from(headers.payload_at);
        let head = frame
            .get(..payload_at)
            .ok_or(DropReason::MalformedOffload)?;
        let payload = frame
            .get(payload_at..end(headers))
            .ok_or(DropReason::MalformedOffload)?;
        let size = match (offload.gso, headers.l4) {
            (Gso::Tcp { size, .. }, _) => limit.min(size.into()),
            (Gso::Udp { size }, _) if usize::from(size) <= limit => size.into(),
            (Gso::None, L4::Tcp) if !headers.more_fragments && headers.fragment_offset == 0 => {
                limit
            }
            (Gso::Udp { .. } | Gso::None, _) => return Err(DropReason::MtuExceeded),
        };
        if size == 0 {
            return Err(DropReason::MtuExceeded);
        }
        let transport = frame.get(headers.l4_at.into()..end(headers));
        let transport = transport.ok_or(DropReason::MalformedOffload)?;
        let base = match offload.checksum {
            // The field speaks for the pseudo-header with the whole length; take that back.
            Checksum::Partial { offset, .. } => {
                let stands = get16(transport, offset.into());
                u64::from(stands) + u64::from(!fold(transport.len() as u64))
            }
            Checksum::Verified => pseudo(frame, headers),
            Checksum::Unverified => {
                let base = pseudo(frame, headers);
                // New checksums over wrong bytes would make them look right.
                if fold(add(base + transport.len() as u64, transport)) != 0xffff {
                    return Err(DropReason::BadChecksum);
                }
                base
            }
        };
        Ok(Self {
            head,
            payload,
            headers: *headers,
            base,
            size,
            at: 0,
            index: 0,
        })
    }

    /// Bytes of each segment's headers.
    pub fn header_len(&self) -> usize {
        self.head.len()
    }

    /// Payload bytes of each segment but the last.
    pub fn size(&self) -> usize {
        self.size
    }

    /// How many segments are left.
    pub fn left(&self) -> usize {
        (self.payload.len() - self.at).div_ceil(self.size)
    }

    /// Payload bytes that are left.
    pub fn rest(&self) -> usize {
        self.payload.len() - self.at
    }

    /// Writes the next segment's headers into `header` ([`Segments::header_len`] bytes) and returns its payload.
    pub fn next_into(&mut self, header: &mut [u8]) -> Option<&'a [u8]> {
        let rest = self.payload.get(self.at..).filter(|r| !r.is_empty())?;
        let chunk = rest.get(..self.size).unwrap_or(rest);
        let last = chunk.len() == rest.len();
        let h = &self.headers;
        let (l3, l4) = (usize::from(h.l3_at), usize::from(h.l4_at));
        if header.len() != self.head.len() {
            return None;
        }
        header.copy_from_slice(self.head);
        let transport = header.len() - l4 + chunk.len();
        match h.l3 {
            L3::Ipv4 => {
                put(header, l3 + 2, &field(l4 - l3 + transport).to_be_bytes());
                let id = get16(header, l3 + 4).wrapping_add(self.index);
                put(header, l3 + 4, &id.to_be_bytes());
                finish_ipv4(header, l3, l4);
            }
            L3::Ipv6 => {
                let len = field((l4 - l3).saturating_sub(40) + transport);
                put(header, l3 + 4, &len.to_be_bytes());
            }
            L3::Arp | L3::Other => {}
        }
        let sum_at = if h.l4 == L4::Tcp {
            let seq = get32(header, l4 + 4).wrapping_add(u32::try_from(self.at).unwrap_or(0));
            put(header, l4 + 4, &seq.to_be_bytes());
            if let Some(flags) = header.get_mut(l4 + TCP_FLAGS) {
                if !last {
                    *flags &= !(FIN | PSH);
                }
                if self.index > 0 {
                    *flags &= !CWR;
                }
            }
            l4 + usize::from(TCP_CHECKSUM)
        } else {
            put(header, l4 + 4, &field(transport).to_be_bytes());
            l4 + usize::from(UDP_CHECKSUM)
        };
        put(header, sum_at, &[0, 0]);
        let sum = add(
            self.base + transport as u64,
            header.get(l4..).unwrap_or_default(),
        );
        let sum = match !fold(add(sum, chunk)) {
            0 if h.l4 == L4::Udp => 0xffff,
            sum => sum,
        };
        put(header, sum_at, &sum.to_be_bytes());
        self.at += chunk.len();
        self.index = self.index.wrapping_add(1);
        Some(chunk)
    }
}

/// Makes the header checksum of an IPv4 header anew.
pub(super) fn finish_ipv4(frame: &mut [u8], l3: usize, l4: usize) {
    put(frame, l3 + 10, &[0, 0]);
    let sum = !fold(add(0, frame.get(l3..l4).unwrap_or_default()));
    put(frame, l3 + 10, &sum.to_be_bytes());
}

#[cfg(test)]
mod tests;
