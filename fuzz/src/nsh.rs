//! What may arrive on UDP 4790?

use net::PacketPool;
use overlay::nsh;

/// Decapsulates a datagram's payload; the inner frame goes through the header parser, and back into its headers. A refusal changes
/// nothing.
pub(crate) fn decap(payload: &[u8]) {
    let mut pool = PacketPool::new(1, 1);
    let Some(mut packet) = pool.take(payload.len()) else {
        return;
    };
    if packet.fill(payload).is_err() {
        return;
    }
    let Ok(said) = nsh::decap(&mut packet) else {
        assert_eq!(packet.bytes(), payload, "a refused datagram was changed");
        return;
    };
    assert!(said.index > 0 && said.ttl > 1, "used up: {said:?}");
    crate::headers::parse(packet.bytes());
    let inner = packet.bytes().to_vec();
    // A TTL of 64 is written as 0.
    assert!(
        nsh::encap(&mut packet, &said),
        "no headroom where headers were"
    );
    assert_eq!(nsh::decap(&mut packet), Ok(said));
    assert_eq!(packet.bytes(), inner, "the inner frame changed on its way");
}

pub(crate) fn seeds() -> Vec<Vec<u8>> {
    let mut header = [0; overlay::NSH_HEADER];
    let said = [
        0x0c, 0, 0, 4, 0, 0, 7, 0, 0x0f, 0xc6, 1, 3, 0, 0, 1, 255, 1, 0,
    ];
    for (byte, value) in header.iter_mut().zip(said) {
        *byte = value;
    }
    crate::frames::all()
        .iter()
        .map(|frame| [&header[..], frame].concat())
        .collect()
}
