//! What is one frame, on its way through the switch?
//!
//! A [`Packet`] owns a buffer with headroom, so that an encapsulation moves a pointer and never the payload. It carries
//! where it came from, what its parser found, and which offloads are still open.
//!
//! # Cost
//! A packet is one pointer wide; moving it through batches and rings moves 8 bytes.

use std::fmt;

use crate::{
    FlowKey, Headers, Label, Malformed, PortId, Vlan, VtepId,
    flow_key::{Origin, ethertype},
};

/// Bytes before the frame: room for the deepest encapsulation (Ethernet, IPv6, UDP, VXLAN-GPE and NSH with context).
pub const HEADROOM: usize = START as usize;
const START: u32 = 256;

/// Bytes of frame that a small buffer holds.
pub const SMALL: usize = 2048 - HEADROOM;

/// Bytes of frame that a large buffer holds: the largest IP packet, its Ethernet header and a VLAN tag.
pub const LARGE: usize = 65_535 + 18;

/// Where an 802.1Q tag stands, how long it is, and where the EtherType behind it ends.
const TAG_AT: usize = 12;
const TAG_LEN: u16 = 4;
const TAGGED: usize = TAG_AT + 6;

/// Where the entry of a label stack ends, behind the Ethernet header.
const LABELLED: usize = TAGGED;
const LABEL_LEN: u16 = 4;

/// What is known of the transport checksum.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Checksum {
    /// Nothing: it stands in the frame, and whoever must know verifies it.
    #[default]
    Unverified,
    /// Verified by who handed the frame over.
    Verified,
    /// Still to be made: the field at `start + offset` holds the pseudo-header sum (virtio 1.2 §5.1.6.2).
    Partial {
        /// Where summing starts, from the frame's first byte.
        start: u16,
        /// Where the field is, from `start`.
        offset: u16,
    },
}

/// How a super-frame is to be cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Gso {
    /// It is one segment.
    #[default]
    None,
    /// TCP, cut at `size` bytes of payload.
    Tcp {
        /// Payload bytes a segment.
        size: u16,
        /// The sender asked for ECN: CWR stays on the first segment only (RFC 3168 §6.1.2).
        ecn: bool,
    },
    /// UDP (USO), cut at `size` bytes of payload.
    Udp {
        /// Payload bytes a datagram.
        size: u16,
    },
}

/// The offloads that are still open on a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Offload {
    /// The transport checksum.
    pub checksum: Checksum,
    /// The segmentation.
    pub gso: Gso,
}

impl Offload {
    /// The headers are elsewhere in the frame now.
    fn shift(&mut self, to: impl Fn(u16) -> u16) {
        if let Checksum::Partial { start, .. } = &mut self.checksum {
            *start = to(*start);
        }
    }
}

/// Why one worker hands a packet to another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Errand {
    /// The other is home to its connection: it runs the packet.
    #[default]
    Run,
    /// It is a fragment, and meets the others of its packet there.
    Meet,
    /// The other has the queue of this number: the packet waits there and comes back to `from`. Its tag stays what `from` made it.
    Wait {
        /// The queue.
        queue: u32,
        /// Whose packet it is.
        from: u16,
    },
    /// It has waited in the queue of this number, and comes back.
    Waited {
        /// The queue.
        queue: u32,
    },
}

/// Another host handed the frame to an appliance of this one. Its origin is the switch: it is not judged here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Brought {
    /// Who did, and gets it back.
    pub by: VtepId,
    /// The port by which it goes in.
    pub to: PortId,
    /// Its chain.
    pub path: u32,
    /// Its place in it.
    pub index: u8,
    /// To how many hosts it may still come.
    pub ttl: u8,
    /// Does it travel with the replies of its connection?
    pub reply: bool,
    /// The label under which it goes in, if it does.
    pub label: Option<Label>,
    /// Is it a copy, of which nothing comes back?
    pub shown: bool,
}

/// One frame: buffer, origin, parse result, offloads. Made by [`crate::PacketPool`] alone.
pub struct Packet(Box<Inner>);

struct Inner {
    start: u32,
    len: u32,
    origin: Origin,
    hops: u8,
    tag: u32,
    errand: Errand,
    label: Option<Label>,
    brought: Option<Brought>,
    offload: Offload,
    headers: Headers,
    key: FlowKey,
    storage: Box<[u8]>,
}

/// A frame does not fit its buffer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("frame does not fit its buffer of {room} bytes: {len}")]
pub struct TooLarge {
    /// The bytes asked for.
    pub len: usize,
    /// The bytes that there are.
    pub room: usize,
}

impl Packet {
    pub(crate) fn allocate(room: usize) -> Self {
        Self(Box::new(Inner {
            start: START,
            len: 0,
            origin: Origin::Switch,
            hops: 0,
            tag: 0,
            errand: Errand::Run,
            label: None,
            brought: None,
            offload: Offload::default(),
            headers: Headers::default(),
            key: FlowKey::default(),
            storage: vec![0; HEADROOM + room].into_boxed_slice(),
        }))
    }

    /// Empties it, restores the headroom and forgets what was known.
    #[inline]
    pub(crate) fn reset(&mut self) {
        let p = &mut *self.0;
        p.start = START;
        p.len = 0;
        p.origin = Origin::Switch;
        p.hops = 0;
        p.tag = 0;
        p.errand = Errand::Run;
        p.label = None;
        p.brought = None;
        p.offload = Offload::default();
    }

    /// Does it have one of the pool's large buffers?
    #[inline]
    pub fn is_large(&self) -> bool {
        self.0.storage.len() > HEADROOM + SMALL
    }

    /// The frame.
    #[inline]
    pub fn bytes(&self) -> &[u8] {
        let start = self.0.start as usize;
        self.0
            .storage
            .get(start..start + self.0.len as usize)
            .unwrap_or_default()
    }

    /// The frame, to change.
    #[inline]
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        let (start, len) = (self.0.start as usize, self.0.len as usize);
        self.0
            .storage
            .get_mut(start..start + len)
            .unwrap_or_default()
    }

    /// Length of the frame in bytes.
    pub fn len(&self) -> usize {
        self.0.len as usize
    }

    /// Is there no frame in it?
    pub fn is_empty(&self) -> bool {
        self.0.len == 0
    }

    /// All the room behind the headroom, to read a frame into; then say [`Packet::set_len`].
    pub fn room_mut(&mut self) -> &mut [u8] {
        let start = self.0.start as usize;
        self.0.storage.get_mut(start..).unwrap_or_default()
    }

    /// Says how many bytes of the room are the frame.
    ///
    /// # Errors
    /// When the room is smaller.
    #[inline]
    pub fn set_len(&mut self, len: usize) -> Result<(), TooLarge> {
        let room = self.0.storage.len() - self.0.start as usize;
        if len > room {
            return Err(TooLarge { len, room });
        }
        self.0.len = u32::try_from(len).unwrap_or(u32::MAX);
        Ok(())
    }

    /// Replaces the frame by `bytes`.
    ///
    /// # Errors
    /// When they do not fit.
    #[inline]
    pub fn fill(&mut self, bytes: &[u8]) -> Result<(), TooLarge> {
        self.set_len(bytes.len())?;
        self.bytes_mut().copy_from_slice(bytes);
        Ok(())
    }

    /// Grows the frame by `n` bytes at its front and returns them; `None` when the headroom is used up.
    #[inline]
    pub fn push_front(&mut self, n: usize) -> Option<&mut [u8]> {
        let start = (self.0.start as usize).checked_sub(n)?;
        self.0.start = u32::try_from(start).ok()?;
        self.0.len += u32::try_from(n).ok()?;
        self.0.storage.get_mut(start..start + n)
    }

    /// Takes `n` bytes off the front; `false` when the frame is shorter.
    #[must_use]
    #[inline]
    pub fn pull_front(&mut self, n: usize) -> bool {
        let Ok(n) = u32::try_from(n) else {
            return false;
        };
        if n > self.0.len {
            return false;
        }
        self.0.start += n;
        self.0.len -= n;
        true
    }

    /// Takes the 802.1Q tag off a parsed frame: it is then what it would have been without, headers, key and offloads too. The headers behind
    /// another tag are not known until it is parsed again. `false` where there is none.
    #[must_use]
    pub fn pop_vlan(&mut self) -> bool {
        let p = &mut *self.0;
        let at = p.start as usize;
        let frame = p.storage.get_mut(at..at + p.len as usize);
        let Some(head) = frame.and_then(|f| f.first_chunk_mut::<TAGGED>()) else {
            return false;
        };
        if p.key.vlan == 0 || p.headers.l3_at < TAG_LEN {
            return false;
        }
        head.copy_within(..TAG_AT, TAG_LEN.into());
        p.start += u32::from(TAG_LEN);
        p.len -= u32::from(TAG_LEN);
        p.key.vlan = 0;
        p.headers.shift(|at| at.saturating_sub(TAG_LEN));
        p.offload.shift(|at| at.saturating_sub(TAG_LEN));
        true
    }

    /// Puts an 802.1Q tag on a parsed, untagged frame; the inverse of [`Packet::pop_vlan`]. `false` where the headroom is used up, or the frame
    /// has no whole Ethernet header: then nothing is changed.
    #[must_use]
    pub fn push_vlan(&mut self, vlan: Vlan) -> bool {
        let p = &mut *self.0;
        let (Some(start), true) = (
            p.start.checked_sub(TAG_LEN.into()),
            p.len as usize >= TAG_AT,
        ) else {
            return false;
        };
        let (to, len) = (start as usize, p.len as usize + usize::from(TAG_LEN));
        let frame = p.storage.get_mut(to..to + len);
        let Some(head) = frame.and_then(|f| f.first_chunk_mut::<{ TAG_AT + 4 }>()) else {
            return false;
        };
        let (shift, number) = (usize::from(TAG_LEN), u16::from(vlan));
        head.copy_within(shift..shift + TAG_AT, 0);
        let [.., t0, t1, n0, n1] = head;
        [*t0, *t1] = ethertype::VLAN.to_be_bytes();
        [*n0, *n1] = number.to_be_bytes();
        p.start = start;
        p.len += u32::from(TAG_LEN);
        p.key.vlan = 0x1000 | number;
        p.headers.shift(|at| at.saturating_add(TAG_LEN));
        p.offload.shift(|at| at.saturating_add(TAG_LEN));
        true
    }

    /// Takes the only label off a parsed, untagged frame, and says which it was: what is under it is IP. Headers and key are of no more use
    /// until it is parsed again, unless the label was put on here. `None` where there is no such label: then nothing is changed.
    #[must_use]
    pub fn pop_label(&mut self) -> Option<Label> {
        let p = &mut *self.0;
        let at = p.start as usize;
        let frame = p.storage.get_mut(at..at + p.len as usize)?;
        let [.., t0, t1, e0, e1, e2, e3] = *frame.first_chunk::<LABELLED>()?;
        let label = Label::from_entry([e0, e1, e2, e3])?;
        let under = match frame.get(LABELLED)? >> 4 {
            4 => ethertype::IPV4,
            6 => ethertype::IPV6,
            _ => return None,
        };
        if u16::from_be_bytes([t0, t1]) != ethertype::MPLS {
            return None;
        }
        let head = frame.first_chunk_mut::<LABELLED>()?;
        head.copy_within(..TAG_AT, LABEL_LEN.into());
        let [.., u0, u1] = head;
        [*u0, *u1] = under.to_be_bytes();
        p.start += u32::from(LABEL_LEN);
        p.len -= u32::from(LABEL_LEN);
        p.headers.shift(|at| at.saturating_sub(LABEL_LEN));
        p.offload.shift(|at| at.saturating_sub(LABEL_LEN));
        Some(label)
    }

    /// Puts a label on a parsed, untagged IP frame; the inverse of [`Packet::pop_label`]. The key stays that of what is under it. `false` where
    /// the headroom is used up, or it is no IP: then nothing is changed.
    #[must_use]
    pub fn push_label(&mut self, label: Label) -> bool {
        let p = &mut *self.0;
        let (Some(start), true) = (
            p.start.checked_sub(LABEL_LEN.into()),
            p.key.is_ip() && p.key.vlan == 0,
        ) else {
            return false;
        };
        let (to, len) = (start as usize, p.len as usize + usize::from(LABEL_LEN));
        let frame = p.storage.get_mut(to..to + len);
        let Some(head) = frame.and_then(|f| f.first_chunk_mut::<LABELLED>()) else {
            return false;
        };
        let shift = usize::from(LABEL_LEN);
        head.copy_within(shift..shift + TAG_AT, 0);
        let [.., t0, t1, e0, e1, e2, e3] = head;
        [*t0, *t1] = ethertype::MPLS.to_be_bytes();
        [*e0, *e1, *e2, *e3] = label.entry();
        p.start = start;
        p.len += u32::from(LABEL_LEN);
        p.headers.shift(|at| at.saturating_add(LABEL_LEN));
        p.offload.shift(|at| at.saturating_add(LABEL_LEN));
        true
    }

    /// Does it bear a label that was put on here? No device cuts under a label, nor finishes a checksum.
    pub fn is_labelled(&self) -> bool {
        let l3_at = usize::from(self.0.headers.l3_at);
        let before = l3_at.checked_sub(usize::from(LABEL_LEN) + 2);
        let before = before.filter(|at| *at >= TAG_AT);
        let kind = before.and_then(|at| self.bytes().get(at..)?.first_chunk());
        self.0.key.is_ip() && kind == Some(&ethertype::MPLS.to_be_bytes())
    }

    /// The label under which it is to go out.
    pub fn label(&self) -> Option<Label> {
        self.0.label
    }

    /// Says under which label it is to go out.
    pub fn set_label(&mut self, label: Option<Label>) {
        self.0.label = label;
    }

    /// Where it entered.
    pub fn origin(&self) -> Origin {
        self.0.origin
    }

    /// Says where it entered.
    pub fn set_origin(&mut self, origin: Origin) {
        self.0.origin = origin;
    }

    /// How often it went through the switch.
    pub fn hops(&self) -> u8 {
        self.0.hops
    }

    /// Counts one more pass, and says how many there were.
    pub fn add_hop(&mut self) -> u8 {
        self.0.hops = self.0.hops.saturating_add(1);
        self.0.hops
    }

    /// Which host handed it to an appliance here; `None`: it came otherwise.
    #[inline]
    pub fn brought(&self) -> Option<&Brought> {
        self.0.brought.as_ref()
    }

    /// Says which host handed it to an appliance here.
    pub fn set_brought(&mut self, brought: Brought) {
        self.0.brought = Some(brought);
    }

    /// A number for whoever holds the packet now (a queue's index, a program's handle); no stage reads another's.
    pub fn tag(&self) -> u32 {
        self.0.tag
    }

    /// Sets the holder's number.
    pub fn set_tag(&mut self, tag: u32) {
        self.0.tag = tag;
    }

    /// Why it was handed over.
    pub fn errand(&self) -> Errand {
        self.0.errand
    }

    /// Says why it is handed over.
    pub fn set_errand(&mut self, errand: Errand) {
        self.0.errand = errand;
    }

    /// The offloads that are still open.
    pub fn offload(&self) -> Offload {
        self.0.offload
    }

    /// Says which offloads are open.
    pub fn set_offload(&mut self, offload: Offload) {
        self.0.offload = offload;
    }

    /// What the last [`Packet::parse`] found.
    pub fn headers(&self) -> &Headers {
        &self.0.headers
    }

    /// The flow key of the last [`Packet::parse`].
    pub fn key(&self) -> &FlowKey {
        &self.0.key
    }

    /// The flow key, for the fragment table, which lends a later fragment its first one's ports.
    pub fn key_mut(&mut self) -> &mut FlowKey {
        &mut self.0.key
    }

    /// Parses the frame; headers and key hold what was found.
    ///
    /// # Errors
    /// When the frame contradicts itself. The key then holds what was read until there, and the headers nothing.
    pub fn parse(&mut self) -> Result<(), Malformed> {
        let p = &mut *self.0;
        let (start, len) = (p.start as usize, p.len as usize);
        let frame = p.storage.get(start..start + len).unwrap_or_default();
        let read = p.headers.read(frame, &mut p.key);
        p.key.set_origin(p.origin);
        if read.is_err() {
            p.headers = Headers::default();
        }
        read
    }

    /// Both at once: the frame to change, and the headers of the last parse.
    pub fn parts_mut(&mut self) -> (&mut [u8], &Headers, &mut FlowKey, &mut Offload) {
        let p = &mut *self.0;
        let (start, len) = (p.start as usize, p.len as usize);
        (
            p.storage.get_mut(start..start + len).unwrap_or_default(),
            &p.headers,
            &mut p.key,
            &mut p.offload,
        )
    }

    /// How many segments the frame counts: what its receiver will see after cutting. At least 1.
    #[inline]
    pub fn segments(&self) -> u32 {
        let size = match self.0.offload.gso {
            Gso::None => return 1,
            Gso::Tcp { size, .. } | Gso::Udp { size } => usize::from(size).max(1),
        };
        let payload = self
            .len()
            .saturating_sub(usize::from(self.0.headers.payload_at));
        u32::try_from(payload.div_ceil(size).max(1)).unwrap_or(u32::MAX)
    }

    /// Bytes on an Ethernet link after cutting: each segment with its own headers, without preamble and FCS.
    #[inline]
    pub fn wire_bytes(&self) -> u64 {
        let headers = u64::from(self.0.headers.payload_at);
        self.len() as u64 + u64::from(self.segments() - 1) * headers
    }

    /// Makes this packet a copy of `other`, offloads, origin and parse result with it.
    ///
    /// # Errors
    /// When this buffer is too small.
    pub fn copy_from(&mut self, other: &Self) -> Result<(), TooLarge> {
        self.fill(other.bytes())?;
        let (to, from) = (&mut *self.0, &*other.0);
        to.origin = from.origin;
        to.hops = from.hops;
        to.label = from.label;
        to.offload = from.offload;
        to.headers = from.headers;
        to.key = from.key;
        Ok(())
    }
}

impl fmt::Debug for Packet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Packet")
            .field("origin", &self.0.origin)
            .field("len", &self.0.len)
            .field("offload", &self.0.offload)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        PacketPool,
        testkit::{FrameBuilder, tcp},
    };

    fn parsed(pool: &mut PacketPool, frame: &[u8]) -> Packet {
        let mut packet = pool.take(frame.len()).unwrap();
        packet.fill(frame).unwrap();
        packet.parse().unwrap();
        packet
    }

    fn partial(start: u16) -> Offload {
        Offload {
            checksum: Checksum::Partial { start, offset: 16 },
            gso: Gso::Tcp {
                size: 1000,
                ecn: false,
            },
        }
    }

    #[test]
    fn a_tag_comes_off_and_goes_on_again_with_all_that_points_behind_it() {
        let mut pool = PacketPool::new(4, 0);
        for v6 in [false, true] {
            let frame = FrameBuilder::tcp(v6, 1, 2)
                .flags(tcp::ACK)
                .payload(&[7; 1200]);
            let (bare, tagged) = (frame.clone().build(), frame.vlan(101).build());
            let mut packet = parsed(&mut pool, &tagged);
            let (headers, key) = (*packet.headers(), *packet.key());
            packet.set_offload(partial(headers.l4_at));
            assert_eq!(packet.segments(), 2);
            assert!(packet.pop_vlan());
            assert_eq!(packet.bytes(), bare);
            let own = parsed(&mut pool, &bare);
            assert_eq!((packet.headers(), packet.key()), (own.headers(), own.key()));
            pool.give(own);
            assert_eq!(packet.offload(), partial(packet.headers().l4_at));
            assert_eq!(packet.segments(), 2);
            assert!(!packet.pop_vlan(), "there is none any more");
            assert!(packet.push_vlan(Vlan::try_from(101).unwrap()));
            assert_eq!(packet.bytes(), tagged);
            assert_eq!((*packet.headers(), *packet.key()), (headers, key));
            assert_eq!(packet.offload(), partial(headers.l4_at));
        }
    }

    #[test]
    fn a_label_comes_off_and_goes_on_again_with_all_that_points_behind_it() {
        let mut pool = PacketPool::new(4, 0);
        let label = Label::of_hop(7, 1).unwrap();
        for v6 in [false, true] {
            let frame = FrameBuilder::tcp(v6, 1, 2)
                .flags(tcp::ACK)
                .payload(&[7; 1200]);
            let bare = frame.build();
            let mut packet = parsed(&mut pool, &bare);
            let (headers, key) = (*packet.headers(), *packet.key());
            packet.set_offload(partial(headers.l4_at));
            assert!(!packet.is_labelled() && packet.pop_label().is_none());
            assert!(packet.push_label(label) && packet.is_labelled());
            let on_wire = [&bare[..12], &[0x88, 0x47, 0, 0x7f, 0xe1, 0xfe], &bare[14..]].concat();
            assert_eq!(packet.bytes(), on_wire);
            assert_eq!((packet.segments(), packet.headers().l3_at), (2, 18));
            assert_eq!(packet.offload(), partial(headers.l4_at + 4));
            assert_eq!(packet.pop_label(), Some(label));
            assert_eq!(packet.bytes(), bare);
            assert_eq!((*packet.headers(), *packet.key()), (headers, key));
            assert_eq!(packet.offload(), partial(headers.l4_at));
            // What came under it is what it was once it is read again.
            let mut came = parsed(&mut pool, &on_wire);
            assert!(!came.is_labelled(), "it was not put on here");
            assert_eq!(came.pop_label(), Some(label));
            came.parse().unwrap();
            assert_eq!((*came.headers(), *came.key()), (headers, key));
            assert_eq!(came.bytes(), bare);
            for (at, byte) in [(12, 0x86), (16, 0xe0), (18, 0x15)] {
                let mut other = on_wire.clone();
                other[at] = byte;
                let mut other = parsed(&mut pool, &other);
                assert_eq!(other.pop_label(), None, "byte {at}");
                pool.give(other);
            }
            let mut short = parsed(&mut pool, &on_wire[..18]);
            assert_eq!(short.pop_label(), None);
            for packet in [packet, came, short] {
                pool.give(packet);
            }
        }
    }

    #[test]
    fn a_frame_too_short_for_a_tag_stays_what_it_is() {
        let mut pool = PacketPool::new(2, 0);
        let mut packet = pool.take(11).unwrap();
        packet.fill(&[1; 11]).unwrap();
        assert!(!packet.push_vlan(Vlan::try_from(1).unwrap()) && !packet.pop_vlan());
        assert_eq!(packet.bytes(), [1; 11]);
        let arp = FrameBuilder::udp(false, 1, 2).build();
        let mut packet = parsed(&mut pool, &arp);
        while packet.push_front(4).is_some() {}
        assert!(!packet.push_vlan(Vlan::try_from(1).unwrap()), "no headroom");
    }
}
