//! What may arrive on UDP 4789?

use net::PacketPool;
use overlay::vxlan;

/// Decapsulates a datagram's payload; the inner frame goes through the header parser, and back
/// into the tunnel. A refusal changes nothing.
pub(crate) fn decap(payload: &[u8]) {
    let mut pool = PacketPool::new(1, 1);
    let Some(mut packet) = pool.take(payload.len()) else {
        return;
    };
    if packet.fill(payload).is_err() {
        return;
    }
    let Ok(vni) = vxlan::decap(&mut packet) else {
        assert_eq!(packet.bytes(), payload, "a refused datagram was changed");
        return;
    };
    assert!(
        (1..1 << 24).contains(&vni.get()),
        "vni out of range: {}",
        vni.get()
    );
    crate::headers::parse(packet.bytes());
    if packet.parse().is_ok() {
        let port = overlay::source_port(packet.key());
        assert!(
            port >= 0xc000,
            "an outer source port that is not ephemeral: {port}"
        );
    }
    let inner = packet.bytes().to_vec();
    assert!(
        vxlan::encap(&mut packet, vni),
        "no headroom where a header was"
    );
    assert_eq!(vxlan::decap(&mut packet), Ok(vni));
    assert_eq!(packet.bytes(), inner, "the inner frame changed on its way");
}

pub(crate) fn seeds() -> Vec<Vec<u8>> {
    let header = [0x08, 0, 0, 0, 0, 0x13, 0x89, 0];
    crate::frames::all()
        .iter()
        .map(|frame| [&header[..], frame].concat())
        .collect()
}
