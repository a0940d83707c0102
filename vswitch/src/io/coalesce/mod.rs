//! How does a train of one flow become one large frame?
//!
//! The inverse of [`super::offload::Segments`]: TCP segments that follow each other, and UDP datagrams of one size, are
//! put together into one super-frame that a tap takes with one write. Trains of several flows may be open at once; none
//! outlives the call that received it, so nothing waits for a timer.
//!
//! # Invariants
//! - Frames of one flow leave in the order in which they came.
//! - Only what [`super::offload::Segments`] would cut back into the very same frames is put together: same Ethernet and
//!   IP headers (TTL, ECN and flow label with them), same acknowledgement, window and options; FIN and PSH end a train,
//!   CWR stands on its first segment only, a shorter segment is its last.
//! - A frame whose checksum does not hold is never put together with another: it goes on alone, and its receiver says so.
//!
//! # Attack
//! A sender that interleaves more flows than there are trains open only loses the gain.
//!
//! # References
//! RFC 9293 §3.1, RFC 3168 §6.1.2, RFC 6864 §4.1.

use net::{
    Checksum, Fragment, Gso, Headers, L3, L4, Offload, Packet, PacketPool, checksum::fold,
    packet::LARGE,
};

use super::offload::{
    CWR, FIN, PSH, TCP_FLAGS, checksum_offset, end, field, finish_ipv4, get16, get32, judge,
    pseudo, put,
};

/// The trains that may be open at once.
const TRAINS: usize = 8;
/// UDP segments in one frame: the kernel's own limit was 64 for long (`UDP_MAX_SEGMENTS`).
const UDP_SEGMENTS: u32 = 64;
const ACK: u8 = 0x10;
const ECE: u8 = 0x40;
const DONT_FRAGMENT: u16 = 0x4000;

/// Puts trains together; `T` tells what must never be mixed (the network and the VTEP).
#[derive(Debug)]
pub struct Coalescer<T> {
    trains: Vec<Train<T>>,
}

#[derive(Debug)]
struct Train<T> {
    tag: T,
    packet: Packet,
    headers: Headers,
    /// Payload bytes of its first segment.
    size: usize,
    segments: u32,
    next_seq: u32,
    last_id: u16,
    /// FIN and PSH of its last segment.
    ending: u8,
}

/// What the pool could not hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Exhausted;

impl<T: Copy + PartialEq> Default for Coalescer<T> {
    fn default() -> Self {
        Self {
            trains: Vec::with_capacity(TRAINS),
        }
    }
}

impl<T: Copy + PartialEq> Coalescer<T> {
    /// Takes a frame; `emit` gets what is finished by it, in order per flow.
    ///
    /// `limit` is the largest IP packet that can have come over the path: a larger TCP frame was never cut by its sender (a kernel
    /// VTEP on the same machine), and gets the segment size that fits. `udp_size` says the same of UDP, where somebody knows.
    ///
    /// # Errors
    /// When the pool has no packet for it; the frame is lost, and is the caller's to count.
    pub fn push(
        &mut self,
        pool: &mut PacketPool,
        frame: &[u8],
        tag: T,
        (limit, udp_size): (usize, Option<u16>),
        emit: &mut impl FnMut(Packet, T),
    ) -> Result<(), Exhausted> {
        let Ok((headers, key)) = Headers::parse(frame) else {
            return alone(pool, frame, Offload::default(), tag, emit);
        };
        let whole = key.ip_frag == Fragment::Whole as u8;
        let transport = matches!(headers.l4, L4::Tcp | L4::Udp) && whole;
        if !transport {
            return alone(pool, frame, Offload::default(), tag, emit);
        }
        let same = self
            .trains
            .iter()
            .position(|t| t.tag == tag && t.same_flow(frame, &headers));
        let mut offload = Offload {
            checksum: judge(frame, &headers),
            gso: Gso::None,
        };
        let fits = eligible(frame, &headers) && offload.checksum == Checksum::Verified;
        if let Some(index) = same {
            if fits && let Some(train) = self.trains.get_mut(index) {
                match train.append(pool, frame, &headers) {
                    Appended::Open => return Ok(()),
                    Appended::Ended => {
                        self.trains.remove(index).emit(emit);
                        return Ok(());
                    }
                    Appended::Refused => {}
                }
            }
            self.trains.remove(index).emit(emit);
        }
        let payload = end(&headers).saturating_sub(headers.payload_at.into());
        let header = usize::from(headers.payload_at) - usize::from(headers.l3_at);
        let oversize = end(&headers) - usize::from(headers.l3_at) > limit;
        offload.gso = match (headers.l4, udp_size) {
            (L4::Tcp, _) if oversize && limit > header => Gso::Tcp {
                size: field(limit - header),
                ecn: flags(frame, &headers) & CWR != 0,
            },
            (L4::Udp, Some(size)) if size > 0 && payload > size.into() => Gso::Udp { size },
            _ => Gso::None,
        };
        if offload.gso != Gso::None || !fits || flags(frame, &headers) & (FIN | PSH) != 0 {
            return alone(pool, frame, offload, tag, emit);
        }
        let mut packet = pool.take(frame.len()).ok_or(Exhausted)?;
        if packet.fill(frame).is_err() {
            pool.give(packet);
            return Err(Exhausted);
        }
        if self.trains.len() == TRAINS {
            self.trains.remove(0).emit(emit);
        }
        let l4 = usize::from(headers.l4_at);
        self.trains.push(Train {
            tag,
            packet,
            headers,
            size: payload,
            segments: 1,
            next_seq: get32(frame, l4 + 4).wrapping_add(u32::try_from(payload).unwrap_or(0)),
            last_id: get16(frame, usize::from(headers.l3_at) + 4),
            ending: 0,
        });
        Ok(())
    }

    /// Ends all trains.
    pub fn flush(&mut self, emit: &mut impl FnMut(Packet, T)) {
        for train in self.trains.drain(..) {
            train.emit(emit);
        }
    }
}

/// Hands a frame on by itself.
fn alone<T>(
    pool: &mut PacketPool,
    frame: &[u8],
    mut offload: Offload,
    tag: T,
    emit: &mut impl FnMut(Packet, T),
) -> Result<(), Exhausted> {
    let mut packet = pool.take(frame.len()).ok_or(Exhausted)?;
    if packet.fill(frame).is_err() {
        pool.give(packet);
        return Err(Exhausted);
    }
    if packet.parse().is_ok() && offload.gso != Gso::None {
        match offload.checksum {
            Checksum::Partial { .. } => {}
            // A super-frame's checksum is always still to be made (virtio 1.2 §5.1.6.2).
            Checksum::Verified => {
                let headers = *packet.headers();
                offload.checksum = make_partial(packet.bytes_mut(), &headers);
            }
            // Wrong bytes must not become right ones by being cut.
            Checksum::Unverified => offload.gso = Gso::None,
        }
    }
    packet.set_offload(offload);
    emit(packet, tag);
    Ok(())
}

fn make_partial(frame: &mut [u8], headers: &Headers) -> Checksum {
    let Some(offset) = checksum_offset(headers.l4) else {
        return Checksum::Unverified;
    };
    let len = end(headers) - usize::from(headers.l4_at);
    let sum = fold(pseudo(frame, headers) + len as u64);
    put(
        frame,
        usize::from(headers.l4_at) + usize::from(offset),
        &sum.to_be_bytes(),
    );
    Checksum::Partial {
        start: headers.l4_at,
        offset,
    }
}

fn flags(frame: &[u8], headers: &Headers) -> u8 {
    if headers.l4 != L4::Tcp {
        return 0;
    }
    let at = usize::from(headers.l4_at) + TCP_FLAGS;
    frame.get(at).copied().unwrap_or(0)
}

/// May it be part of a train at all?
fn eligible(frame: &[u8], headers: &Headers) -> bool {
    let options = match headers.l3 {
        L3::Ipv4 => headers.l4_at - headers.l3_at != 20,
        L3::Ipv6 => headers.l4_at - headers.l3_at != 40,
        L3::Arp | L3::Other => true,
    };
    let l4 = usize::from(headers.l4_at);
    let says = match headers.l4 {
        L4::Tcp => {
            let reserved = frame.get(l4 + 12).copied().unwrap_or(0) & 0x0f;
            reserved == 0 && flags(frame, headers) & !(PSH | FIN | CWR | ECE) == ACK
        }
        L4::Udp => usize::from(get16(frame, l4 + 4)) == end(headers) - l4,
        L4::Other | L4::Icmp | L4::Icmp6 | L4::Sctp => false,
    };
    !options
        && says
        && end(headers) == frame.len()
        && end(headers) > usize::from(headers.payload_at)
}

enum Appended {
    Open,
    Ended,
    Refused,
}

impl<T> Train<T> {
    fn same_flow(&self, frame: &[u8], h: &Headers) -> bool {
        let mine = self.packet.bytes();
        let (l3, l4) = (usize::from(h.l3_at), usize::from(h.l4_at));
        let addresses = match h.l3 {
            L3::Ipv4 => l3 + 12..l3 + 20,
            L3::Ipv6 => l3 + 8..l3 + 40,
            L3::Arp | L3::Other => return false,
        };
        let m = &self.headers;
        m.l3 == h.l3
            && m.l4 == h.l4
            && m.l3_at == h.l3_at
            && m.l4_at == h.l4_at
            && mine.get(l4..l4 + 4) == frame.get(l4..l4 + 4)
            && mine.get(addresses.clone()) == frame.get(addresses)
            && mine.get(..l3) == frame.get(..l3)
    }

    /// Is everything that a cut would repeat the same?
    fn same_headers(&self, frame: &[u8], h: &Headers) -> bool {
        let mine = self.packet.bytes();
        let (l3, l4) = (usize::from(h.l3_at), usize::from(h.l4_at));
        let same = |from: usize, to: usize| mine.get(from..to) == frame.get(from..to);
        let ip = match h.l3 {
            // Version, length and TOS; flags, TTL and protocol. The total length and the checksum differ.
            L3::Ipv4 => {
                let id = get16(frame, l3 + 4);
                let follows = id == self.last_id.wrapping_add(1);
                let means_nothing = get16(frame, l3 + 6) & DONT_FRAGMENT != 0;
                same(l3, l3 + 2) && same(l3 + 6, l3 + 10) && (follows || means_nothing)
            }
            // Version, class and flow label; next header and hop limit.
            L3::Ipv6 => same(l3, l3 + 4) && same(l3 + 6, l3 + 8),
            L3::Arp | L3::Other => false,
        };
        let transport = match h.l4 {
            L4::Tcp => {
                let differ = flags(mine, &self.headers) ^ flags(frame, h);
                get32(frame, l4 + 4) == self.next_seq
                    && differ & !(PSH | FIN | CWR) == 0
                    && flags(frame, h) & CWR == 0
                    && same(l4 + 8, l4 + 13)
                    && same(l4 + 14, l4 + 16)
                    && same(l4 + 18, h.payload_at.into())
            }
            L4::Udp => self.segments < UDP_SEGMENTS,
            L4::Other | L4::Icmp | L4::Icmp6 | L4::Sctp => false,
        };
        ip && transport && self.headers.payload_at == h.payload_at
    }

    fn append(&mut self, pool: &mut PacketPool, frame: &[u8], h: &Headers) -> Appended {
        let payload = frame.get(h.payload_at.into()..).unwrap_or_default();
        let (old, new) = (self.packet.len(), self.packet.len() + payload.len());
        let too_long = new - usize::from(h.l3_at) > usize::from(u16::MAX) || new > LARGE;
        if payload.len() > self.size || too_long || !self.same_headers(frame, h) {
            return Appended::Refused;
        }
        if self.packet.set_len(new).is_err() {
            let Some(mut large) = pool.take_large() else {
                return Appended::Refused;
            };
            if large.fill(self.packet.bytes()).is_err() || large.set_len(new).is_err() {
                pool.give(large);
                return Appended::Refused;
            }
            pool.give(std::mem::replace(&mut self.packet, large));
        }
        put(self.packet.bytes_mut(), old, payload);
        self.segments += 1;
        self.next_seq = self
            .next_seq
            .wrapping_add(u32::try_from(payload.len()).unwrap_or(0));
        self.last_id = get16(frame, usize::from(h.l3_at) + 4);
        self.ending = flags(frame, h) & (FIN | PSH);
        if self.ending != 0 || payload.len() < self.size {
            Appended::Ended
        } else {
            Appended::Open
        }
    }

    fn emit(mut self, emit: &mut impl FnMut(Packet, T)) {
        let mut offload = Offload {
            checksum: Checksum::Verified,
            gso: Gso::None,
        };
        if self.segments > 1 {
            let mut h = self.headers;
            h.end = u32::try_from(self.packet.len()).unwrap_or(u32::MAX);
            let frame = self.packet.bytes_mut();
            let (l3, l4) = (usize::from(h.l3_at), usize::from(h.l4_at));
            let size = field(self.size);
            match h.l3 {
                L3::Ipv4 => {
                    put(frame, l3 + 2, &field(frame.len() - l3).to_be_bytes());
                    finish_ipv4(frame, l3, l4);
                }
                L3::Ipv6 => put(frame, l3 + 4, &field(frame.len() - l3 - 40).to_be_bytes()),
                L3::Arp | L3::Other => {}
            }
            if h.l4 == L4::Tcp {
                let flags = flags(frame, &h) | self.ending;
                put(frame, l4 + TCP_FLAGS, &[flags]);
                offload.gso = Gso::Tcp {
                    size,
                    ecn: flags & CWR != 0,
                };
            } else {
                put(frame, l4 + 4, &field(frame.len() - l4).to_be_bytes());
                offload.gso = Gso::Udp { size };
            }
            offload.checksum = make_partial(frame, &h);
        }
        // It parsed when it was taken in; the headers' offsets are the same for the whole.
        let parsed = self.packet.parse();
        debug_assert!(parsed.is_ok(), "a train of parsed frames parses");
        self.packet.set_offload(offload);
        emit(self.packet, self.tag);
    }
}

#[cfg(test)]
mod tests;
