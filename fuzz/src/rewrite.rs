//! What must still hold of a packet whose addresses and ports were changed?

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use net::flow_key::Fragment;
use net::rewrite::{self, End};
use net::{L3, L4, Packet, PacketPool};

use crate::headers::with_header_checksum;

/// Parses a frame and translates both of its ends. A refusal changes nothing; after a change the
/// packet's key is what its bytes parse to, and the checksums are as right, or as wrong, as before.
pub(crate) fn translate(frame: &[u8]) {
    let mended = with_header_checksum(frame);
    let frame = mended.as_deref().unwrap_or(frame);
    let mut pool = PacketPool::new(1, 1);
    let Some(mut packet) = pool.take(frame.len()) else {
        return;
    };
    if packet.fill(frame).is_err() || packet.parse().is_err() {
        return;
    }
    let transport_before = transport_sum(&packet);
    let (src, dst) = new_ends(packet.headers().l3);
    if rewrite::translate(&mut packet, Some(src), Some(dst)).is_err() {
        assert_eq!(packet.bytes(), frame, "a refused change changed something");
        return;
    }
    let told = *packet.key();
    let parsed = packet.parse();
    assert!(
        parsed.is_ok(),
        "a translated packet no longer parses: {parsed:?}"
    );
    // A later fragment's key holds the ports of its first one, which its bytes do not say.
    if told.ip_frag != Fragment::Later as u8 {
        assert_eq!(
            *packet.key(),
            told,
            "the key does not say what the bytes say"
        );
    }
    assert_eq!(
        transport_sum(&packet),
        transport_before,
        "the transport checksum was not mended"
    );
    let ttl = packet.key().ip_ttl;
    let by = ttl % 5 + 1;
    if rewrite::decrement_ttl(&mut packet, by).is_ok() {
        assert!(
            packet.parse().is_ok() && packet.key().ip_ttl + by == ttl,
            "the TTL was not mended"
        );
    }
}

fn new_ends(l3: L3) -> (End, End) {
    if l3 == L3::Ipv6 {
        let end = |last| IpAddr::V6(Ipv6Addr::new(0xfd00, 1, 2, 3, 4, 5, 6, last));
        ((end(0xffff), 0xfffe), (end(1), 1))
    } else {
        (
            (IpAddr::V4(Ipv4Addr::new(198, 51, 100, 255)), 0xfffe),
            (IpAddr::V4(Ipv4Addr::new(203, 0, 113, 1)), 1),
        )
    }
}

/// The sum that the transport's checksum makes 0, modulo 65535: pseudo-header and what is there of
/// the segment. None where there is no such checksum, or where it says that it is not used.
fn transport_sum(packet: &Packet) -> Option<u64> {
    let headers = packet.headers();
    let whole = packet.key().ip_frag != Fragment::Later as u8;
    let field = match headers.l4 {
        L4::Tcp => 16,
        L4::Udp => 6,
        L4::Icmp | L4::Icmp6 => 2,
        L4::Sctp | L4::Other => return None,
    };
    let segment = packet
        .bytes()
        .get(usize::from(headers.l4_at)..headers.end as usize)?;
    let unused = headers.l4 == L4::Udp && segment.get(field..field + 2)? == [0, 0];
    if !whole || unused {
        return None;
    }
    let l3 = usize::from(headers.l3_at);
    let pseudo = match (headers.l3, headers.l4) {
        (_, L4::Icmp) => &[],
        (L3::Ipv4, _) => packet.bytes().get(l3 + 12..l3 + 20)?,
        (L3::Ipv6, _) => packet.bytes().get(l3 + 8..l3 + 40)?,
        _ => return None,
    };
    let words = |bytes: &[u8]| -> u64 {
        let word = |pair: &[u8]| match *pair {
            [high, low] => u64::from(high) << 8 | u64::from(low),
            [high] => u64::from(high) << 8,
            _ => 0,
        };
        bytes.chunks(2).map(word).sum()
    };
    Some((words(pseudo) + words(segment)) % 0xffff)
}
