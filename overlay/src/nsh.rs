//! What stands around a frame on its way to an appliance of another host, and back?
//!
//! VXLAN-GPE with NSH inside: 32 bytes. The path and the index say at which hop of which chain the frame is, the context which port of the
//! appliance is meant, and with which side of its connection the frame travels.
//!
//! ```text
//! |R|R|Ver|I|P|B|O|        reserved (16)          | next: NSH (8) |
//! |                 VNI (24)                      | reserved (8)  |
//! |Ver|O|U|  TTL (6)  | length (6)|U|U|U|U| MD (4)| next: Ethernet|
//! |                 path (24)                     |   index (8)   |
//! |  form (8)     | direction (8) |         reserved (16)         |
//! |                        port (96)                              |
//! ```
//!
//! # Invariants
//! - Each host takes one off index and TTL, and what has none left is refused: nothing goes round for ever.
//!
//! # References
//! RFC 8300 §2 (NSH, MD type 1), §2.2 (TTL), §2.3 (index). draft-ietf-nvo3-vxlan-gpe §3 (the P bit and the next protocol).

use net::{DropReason, Id, Packet, Vni, ids::kind};

use crate::vxlan::VXLAN_HEADER;

/// Bytes of both headers.
pub const NSH_HEADER: usize = VXLAN_HEADER + 24;

/// The UDP port of VXLAN-GPE (IANA).
pub const GPE_PORT: u16 = 4790;

/// The largest path: 24 bits.
pub const MAX_PATH: u32 = (1 << 24) - 1;

/// The index at the first hop.
pub const FIRST_INDEX: u8 = 255;

/// The TTL of what a home sends (RFC 8300 §2.2: "a default value of 63").
const TTL: u8 = 63;
/// Words of an NSH header of MD type 1.
const WORDS: u8 = 6;
const MD_TYPE: u8 = 1;
/// Next protocols of VXLAN-GPE and of NSH.
const IS_NSH: u8 = 4;
const IS_ETHERNET: u8 = 3;
/// The form of the context, so that another one is told from it.
const FORM: u8 = 1;

/// A port as it is named on the way: the low 96 bits of its id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct PortKey([u8; 12]);

impl From<Id<kind::Port>> for PortKey {
    fn from(id: Id<kind::Port>) -> Self {
        let [_, _, _, _, low @ ..] = *id.uuid().as_bytes();
        Self(low)
    }
}

/// What the headers say.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Nsh {
    /// The connection's network.
    pub vni: Vni,
    /// The chain; 24 bits.
    pub path: u32,
    /// Where in it: 255 less the hop on the way to the appliance, one less on the way back.
    pub index: u8,
    /// The hosts that it may still come to.
    pub ttl: u8,
    /// On its way there the port by which it goes in, on its way back that by which it came out.
    pub port: PortKey,
    /// Does it travel with the replies of its connection?
    pub reply: bool,
}

/// Why bytes are none of this.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum InvalidNsh {
    /// Fewer than 32 bytes.
    #[error("vxlan-gpe with nsh ends early: {0} bytes of 32")]
    Truncated(usize),
    /// No VNI, no next protocol, another version, or not for data.
    #[error("vxlan-gpe flags: {0:#04x}")]
    Flags(u8),
    /// What follows is no NSH.
    #[error("vxlan-gpe with next protocol {0}, not nsh")]
    NotNsh(u8),
    /// The VNI is zero.
    #[error("vxlan-gpe with vni 0")]
    ZeroVni,
    /// Another version, or an OAM packet.
    #[error("nsh version and o bit: {0:#04x}")]
    Version(u8),
    /// Not the length of MD type 1.
    #[error("nsh of {0} words, not 6")]
    Length(u8),
    /// Other metadata.
    #[error("nsh with metadata of type {0}, not 1")]
    MdType(u8),
    /// What follows is no Ethernet.
    #[error("nsh with next protocol {0}, not ethernet")]
    NotEthernet(u8),
    /// The context is not ours.
    #[error("nsh context of form {form}, direction {direction}")]
    Context {
        /// Its first byte.
        form: u8,
        /// Its second.
        direction: u8,
    },
    /// Index or TTL is used up.
    #[error("nsh index {index}, ttl {ttl}: used up")]
    Spent {
        /// The index.
        index: u8,
        /// The TTL.
        ttl: u8,
    },
}

impl From<InvalidNsh> for DropReason {
    fn from(e: InvalidNsh) -> Self {
        match e {
            InvalidNsh::Spent { .. } => Self::ChainIndexSpent,
            InvalidNsh::Truncated(_)
            | InvalidNsh::Flags(_)
            | InvalidNsh::NotNsh(_)
            | InvalidNsh::ZeroVni
            | InvalidNsh::Version(_)
            | InvalidNsh::Length(_)
            | InvalidNsh::MdType(_)
            | InvalidNsh::NotEthernet(_)
            | InvalidNsh::Context { .. } => Self::MalformedNsh,
        }
    }
}

impl Nsh {
    /// What a home says: to this port of the appliance at a hop.
    pub fn to(vni: Vni, path: u32, hop: u8, port: Id<kind::Port>, reply: bool) -> Self {
        Self {
            vni,
            path: path & MAX_PATH,
            index: FIRST_INDEX - hop,
            ttl: TTL,
            port: port.into(),
            reply,
        }
    }

    /// What the appliance's host says when it brings back what was sent so: out of this port.
    #[must_use]
    pub fn back(self, port: Id<kind::Port>, reply: bool) -> Self {
        Self {
            index: self.index.saturating_sub(1),
            ttl: self.ttl.saturating_sub(1),
            port: port.into(),
            reply,
            ..self
        }
    }

    /// The hop that is meant on the way there; on the way back it is one less.
    pub const fn hop(&self) -> u8 {
        FIRST_INDEX - self.index
    }

    /// The bytes.
    pub fn header(&self) -> [u8; NSH_HEADER] {
        let mut bytes = [0; NSH_HEADER];
        let [_, v0, v1, v2] = self.vni.get().to_be_bytes();
        let [_, p0, p1, p2] = self.path.to_be_bytes();
        let ttl = u16::from(self.ttl & 0x3f) << 6;
        let [t0, t1] = (ttl | u16::from(WORDS)).to_be_bytes();
        let (context, port) = bytes.split_at_mut(NSH_HEADER - 12);
        context.copy_from_slice(&[
            0x0c,
            0,
            0,
            IS_NSH,
            v0,
            v1,
            v2,
            0,
            t0,
            t1,
            MD_TYPE,
            IS_ETHERNET,
            p0,
            p1,
            p2,
            self.index,
            FORM,
            u8::from(self.reply),
            0,
            0,
        ]);
        port.copy_from_slice(&self.port.0);
        bytes
    }
}

/// What a datagram's payload says, and the inner frame behind it.
///
/// # Errors
/// When it is none of this, or used up.
pub fn split(payload: &[u8]) -> Result<(Nsh, &[u8]), InvalidNsh> {
    let (header, inner) = payload
        .split_first_chunk::<NSH_HEADER>()
        .ok_or(InvalidNsh::Truncated(payload.len()))?;
    let [flags, _, _, gpe_next, v0, v1, v2, _, rest @ ..] = *header;
    // Version 0, a VNI, a next protocol, not OAM; what is reserved is ignored.
    if flags & 0x3d != 0x0c {
        return Err(InvalidNsh::Flags(flags));
    }
    if gpe_next != IS_NSH {
        return Err(InvalidNsh::NotNsh(gpe_next));
    }
    let vni = Vni::try_from(u32::from_be_bytes([0, v0, v1, v2])).or(Err(InvalidNsh::ZeroVni))?;
    let [
        t0,
        t1,
        md,
        next,
        p0,
        p1,
        p2,
        index,
        form,
        direction,
        _,
        _,
        port @ ..,
    ] = rest;
    if t0 & 0xe0 != 0 {
        return Err(InvalidNsh::Version(t0));
    }
    let (ttl, words) = ((t0 & 0x0f) << 2 | t1 >> 6, t1 & 0x3f);
    if words != WORDS {
        return Err(InvalidNsh::Length(words));
    }
    if md & 0x0f != MD_TYPE {
        return Err(InvalidNsh::MdType(md & 0x0f));
    }
    if next != IS_ETHERNET {
        return Err(InvalidNsh::NotEthernet(next));
    }
    if form != FORM || direction > 1 {
        return Err(InvalidNsh::Context { form, direction });
    }
    // Zero is 64, one is the last that is not sent on (RFC 8300 §2.2).
    if index == 0 || ttl == 1 {
        return Err(InvalidNsh::Spent { index, ttl });
    }
    let nsh = Nsh {
        vni,
        path: u32::from_be_bytes([0, p0, p1, p2]),
        index,
        ttl: if ttl == 0 { TTL + 1 } else { ttl },
        port: PortKey(port),
        reply: direction == 1,
    };
    Ok((nsh, inner))
}

/// Puts the headers in front of a frame, in its headroom; `false` when that is used up.
#[must_use]
pub fn encap(packet: &mut Packet, nsh: &Nsh) -> bool {
    packet.push_front(NSH_HEADER).is_some_and(|room| {
        room.copy_from_slice(&nsh.header());
        true
    })
}

/// Takes the headers off a datagram's payload; the packet then holds the inner frame.
///
/// # Errors
/// When it is none of this, or used up; the packet is unchanged then.
pub fn decap(packet: &mut Packet) -> Result<Nsh, InvalidNsh> {
    let (nsh, _) = split(packet.bytes())?;
    if packet.pull_front(NSH_HEADER) {
        Ok(nsh)
    } else {
        Err(InvalidNsh::Truncated(packet.len()))
    }
}

#[cfg(test)]
mod tests {
    use net::PacketPool;
    use proptest::prelude::*;

    use super::*;

    fn port(n: u128) -> Id<kind::Port> {
        format!("{n:032x}").parse().unwrap()
    }

    fn sample() -> Nsh {
        Nsh::to(Vni::try_from(7).unwrap(), 3, 2, port(0x1234), false)
    }

    proptest! {
        #[test]
        fn encap_then_decap_gives_the_frame_and_what_was_said(
            (vni, path) in (1u32..1 << 24, 0..=MAX_PATH),
            (hop, reply) in (0u8..254, any::<bool>()),
            (id, frame) in (any::<u128>(), prop::collection::vec(any::<u8>(), 0..1500)),
        ) {
            let mut pool = PacketPool::new(1, 0);
            let mut p = pool.take_small().unwrap();
            p.fill(&frame).unwrap();
            let nsh = Nsh::to(Vni::try_from(vni).unwrap(), path, hop, port(id), reply);
            prop_assert!(encap(&mut p, &nsh));
            prop_assert_eq!(decap(&mut p), Ok(nsh));
            prop_assert_eq!(nsh.hop(), hop);
            prop_assert_eq!(p.bytes(), &frame[..]);
        }

        #[test]
        fn any_bytes_are_split_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..80)) {
            if let Ok((nsh, inner)) = split(&bytes) {
                prop_assert!(nsh.index > 0 && nsh.ttl > 1 && nsh.path <= MAX_PATH);
                prop_assert_eq!(inner.len() + NSH_HEADER, bytes.len());
            }
        }

        /// One bit that is different is another header, or none: but for those that are ignored (RFC 8300 §2.2: "Unassigned bits").
        #[test]
        fn no_bit_that_means_something_is_ignored(bit in 0usize..NSH_HEADER * 8) {
            let mut bytes = sample().header();
            bytes[bit / 8] ^= 0x80 >> (bit % 8);
            let ignored = match bit / 8 {
                0 => bit % 8 < 2 || bit % 8 == 6,
                1 | 2 | 7 | 18 | 19 => true,
                8 => bit % 8 == 3,
                10 => bit % 8 < 4,
                _ => false,
            };
            let same = split(&bytes).is_ok_and(|(nsh, _)| nsh == sample());
            prop_assert_eq!(same, ignored, "bit {} of byte {}", bit % 8, bit / 8);
        }
    }

    #[test]
    fn each_host_takes_one_off_until_none_is_left() {
        let mut nsh = Nsh {
            index: 2,
            ..sample()
        };
        nsh = nsh.back(port(1), false);
        assert_eq!((nsh.index, nsh.ttl), (1, 62));
        assert!(split(&nsh.header()).is_ok());
        nsh = nsh.back(port(1), false);
        let spent = InvalidNsh::Spent { index: 0, ttl: 61 };
        assert_eq!(split(&nsh.header()).map(|_| ()), Err(spent));
        assert_eq!(DropReason::from(spent), DropReason::ChainIndexSpent);
        let last = Nsh { ttl: 1, ..sample() };
        assert!(matches!(
            split(&last.header()),
            Err(InvalidNsh::Spent { ttl: 1, .. })
        ));
        let none = Nsh { ttl: 0, ..sample() };
        assert_eq!(
            split(&none.header()).unwrap().0.back(port(1), false).ttl,
            63
        );
    }

    #[test]
    fn each_wrong_header_has_its_error() {
        let with = |at: usize, value: u8| {
            let mut bytes = sample().header();
            bytes[at] = value;
            split(&bytes).map(|_| ()).unwrap_err()
        };
        assert_eq!(split(&[0x0c; 31]), Err(InvalidNsh::Truncated(31)));
        for flags in [0x08, 0x04, 0x0d, 0x1c, 0x2c] {
            assert_eq!(with(0, flags), InvalidNsh::Flags(flags));
        }
        assert_eq!(with(3, 3), InvalidNsh::NotNsh(3));
        assert_eq!(with(6, 0), InvalidNsh::ZeroVni);
        for version in [0x40, 0x80, 0x20] {
            assert_eq!(with(8, version), InvalidNsh::Version(version));
        }
        for words in [0, 2, 5, 7, 63] {
            assert_eq!(with(9, 0xc0 | words), InvalidNsh::Length(words));
        }
        assert_eq!(with(10, 2), InvalidNsh::MdType(2));
        assert_eq!(with(11, 1), InvalidNsh::NotEthernet(1));
        let context = |form, direction| InvalidNsh::Context { form, direction };
        assert_eq!(with(16, 2), context(2, 0));
        assert_eq!(with(17, 2), context(1, 2));
        assert_eq!(DropReason::from(context(1, 2)), DropReason::MalformedNsh);
    }
}
