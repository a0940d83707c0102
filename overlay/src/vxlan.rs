//! What stands between the outer datagram and the inner frame?
//!
//! The VXLAN header: 8 bytes, of which 32 mean something.
//!
//! ```text
//! |R|R|R|R|I|R|R|R|            reserved (24)             |
//! |                VNI (24)              | reserved (8)  |
//! ```
//!
//! # References
//! RFC 7348 §5: the I flag MUST be set; reserved fields MUST be zero on transmission and ignored on receipt.

use net::{DropReason, Packet, Vni};

/// Bytes of the header.
pub const VXLAN_HEADER: usize = 8;

/// The UDP port (RFC 7348 §5).
pub const VXLAN_PORT: u16 = 4789;

/// Why bytes are no VXLAN packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum InvalidVxlan {
    /// Fewer than 8 bytes.
    #[error("vxlan header ends early: {0} bytes of 8")]
    Truncated(usize),
    /// The I flag is not set: there is no VNI.
    #[error("vxlan header without the i flag: {0:#04x}")]
    NoVni(u8),
    /// The VNI is zero.
    #[error("vxlan header with vni 0")]
    ZeroVni,
}

impl From<InvalidVxlan> for DropReason {
    fn from(e: InvalidVxlan) -> Self {
        match e {
            InvalidVxlan::Truncated(_) | InvalidVxlan::NoVni(_) => Self::MalformedVxlan,
            InvalidVxlan::ZeroVni => Self::UnknownVni,
        }
    }
}

/// The header for a VNI.
pub const fn header(vni: Vni) -> [u8; VXLAN_HEADER] {
    let [_, a, b, c] = vni.get().to_be_bytes();
    [0x08, 0, 0, 0, a, b, c, 0]
}

/// The VNI of a datagram's payload, and the inner frame behind it.
///
/// # Errors
/// When it is no VXLAN.
pub fn split(payload: &[u8]) -> Result<(Vni, &[u8]), InvalidVxlan> {
    let (header, inner) = payload
        .split_first_chunk::<VXLAN_HEADER>()
        .ok_or(InvalidVxlan::Truncated(payload.len()))?;
    let [flags, _, _, _, a, b, c, _] = *header;
    if flags & 0x08 == 0 {
        return Err(InvalidVxlan::NoVni(flags));
    }
    let vni = Vni::try_from(u32::from_be_bytes([0, a, b, c])).or(Err(InvalidVxlan::ZeroVni))?;
    Ok((vni, inner))
}

/// Puts the header in front of a frame, in its headroom; `false` when that is used up.
#[must_use]
pub fn encap(packet: &mut Packet, vni: Vni) -> bool {
    packet.push_front(VXLAN_HEADER).is_some_and(|room| {
        room.copy_from_slice(&header(vni));
        true
    })
}

/// Takes the header off a datagram's payload; the packet then holds the inner frame.
///
/// # Errors
/// When it is no VXLAN; the packet is unchanged then.
pub fn decap(packet: &mut Packet) -> Result<Vni, InvalidVxlan> {
    let (vni, _) = split(packet.bytes())?;
    if packet.pull_front(VXLAN_HEADER) {
        Ok(vni)
    } else {
        Err(InvalidVxlan::Truncated(packet.len()))
    }
}

#[cfg(test)]
mod tests {
    use net::PacketPool;
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn encap_then_decap_gives_the_frame(vni in 1u32..1 << 24, frame in prop::collection::vec(any::<u8>(), 0..1500)) {
            let mut pool = PacketPool::new(1, 0);
            let mut p = pool.take_small().unwrap();
            p.fill(&frame).unwrap();
            let vni = Vni::try_from(vni).unwrap();
            prop_assert!(encap(&mut p, vni));
            prop_assert_eq!(decap(&mut p), Ok(vni));
            prop_assert_eq!(p.bytes(), &frame[..]);
        }

        #[test]
        fn any_bytes_are_split_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
            if let Ok((vni, inner)) = split(&bytes) {
                prop_assert!(vni.get() > 0);
                prop_assert_eq!(inner.len() + VXLAN_HEADER, bytes.len());
            }
        }
    }

    /// RFC 7348 §5: "Reserved fields … MUST be set to zero on transmission and ignored on receipt."
    #[test]
    fn reserved_bits_are_ignored_on_receipt() {
        let dirty = [0xff, 0xff, 0xff, 0xff, 0, 0, 7, 0xff];
        assert_eq!(split(&dirty).unwrap().0.get(), 7);
        assert_eq!(header(Vni::try_from(7).unwrap()), [8, 0, 0, 0, 0, 0, 7, 0]);
    }

    #[test]
    fn each_wrong_header_has_its_error() {
        assert_eq!(split(&[8; 7]), Err(InvalidVxlan::Truncated(7)));
        assert_eq!(
            split(&[0xf7, 0, 0, 0, 0, 0, 7, 0]),
            Err(InvalidVxlan::NoVni(0xf7))
        );
        assert_eq!(split(&[8, 0, 0, 0, 0, 0, 0, 0]), Err(InvalidVxlan::ZeroVni));
    }
}
