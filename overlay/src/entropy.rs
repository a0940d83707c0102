//! From which UDP port is a flow sent?
//!
//! From one that its inner headers choose, so that the underlay's equal-cost paths and receive queues spread flows and keep the
//! packets of each in order.
//!
//! # References
//! RFC 7348 §5 (dynamic port range 49152-65535), RFC 6335 §6.

use net::FlowKey;

/// The first port of the dynamic range.
pub const FIRST_PORT: u16 = 49_152;

/// One of `count` ports for this inner flow: its place, to index a pool of send sockets. Both directions may differ.
#[inline]
pub fn slot(key: &FlowKey, count: u16) -> u16 {
    slot_of(flow(key), count)
}

/// The same for what [`flow`] said.
#[inline]
pub fn slot_of(flow: u32, count: u16) -> u16 {
    // Scaled: a division would cost more than the hash.
    let place = (u64::from(flow) * u64::from(count.max(1))) >> 32;
    u16::try_from(place).unwrap_or_default()
}

/// A number for this inner flow, the same for all its packets; few others have it.
#[inline]
pub fn flow(key: &FlowKey) -> u32 {
    let hash = if let Some(t) = key.five_tuple() {
        let [s0, s1, d0, d1, mut last] = t.words();
        if key.ip_frag != 0 {
            // Later fragments have no ports: all fragments of a packet must take one way, so none counts them.
            last = t.proto.into();
        }
        hash([s0, s1, d0, d1, last])
    } else {
        let mac = |[a, b, c, d, e, f]: [u8; 6]| u64::from_le_bytes([a, b, c, d, e, f, 0, 0]);
        hash([mac(key.eth_src), 0, mac(key.eth_dst), 0, 0])
    };
    (hash >> 32) as u32
}

/// The UDP source port for this inner flow, when every flow may have its own.
#[inline]
pub fn source_port(key: &FlowKey) -> u16 {
    FIRST_PORT + slot(key, u16::MAX - FIRST_PORT + 1)
}

/// Not keyed: whoever crowds one port with flows of its own choice crowds its own.
#[inline]
fn hash([s0, s1, d0, d1, last]: [u64; 5]) -> u64 {
    const A: u64 = 0x9e37_79b9_7f4a_7c15;
    const B: u64 = 0xbf58_476d_1ce4_e5b9;
    const C: u64 = 0x94d0_49bb_1331_11eb;
    let sum = fold(s0 ^ A, s1 ^ B).wrapping_add(fold(d0 ^ B, d1 ^ C));
    fold(sum ^ last.wrapping_mul(C), A)
}

#[inline]
fn fold(a: u64, b: u64) -> u64 {
    let wide = u128::from(a) * u128::from(b);
    #[expect(clippy::cast_possible_truncation, reason = "both halves are wanted")]
    let (low, high) = (wide as u64, (wide >> 64) as u64);
    low ^ high
}

#[cfg(test)]
mod tests {
    use net::{Headers, testkit::FrameBuilder};

    use super::*;

    fn key(frame: &[u8]) -> FlowKey {
        Headers::parse(frame).unwrap().1
    }

    #[test]
    fn flows_spread_over_the_dynamic_range_and_packets_of_one_do_not() {
        let ports: std::collections::HashSet<u16> = (1..=200)
            .map(|p| source_port(&key(&FrameBuilder::tcp(false, p, 80).build())))
            .collect();
        assert!(ports.len() > 190, "{}", ports.len());
        assert!(ports.iter().all(|&p| p >= FIRST_PORT));
        let one = FrameBuilder::tcp(true, 1, 80);
        assert_eq!(
            source_port(&key(&one.build())),
            source_port(&key(&one.clone().payload(b"more").build()))
        );
    }

    #[test]
    fn few_slots_are_filled_alike_whichever_field_tells_flows_apart() {
        type Make = fn(u16) -> FrameBuilder;
        let by_port: Make = |n| FrameBuilder::udp(false, 1024 + n, 53);
        let by_addr: Make = |n| {
            let [a, b] = n.to_be_bytes();
            FrameBuilder::udp(false, 1, 2).addrs([10, 0, a, b].into(), [10, 9, 9, 9].into())
        };
        let by_dst: Make = |n| {
            let dst = std::net::Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, n);
            FrameBuilder::udp(true, 1, 2).addrs("fd00::1:1".parse().unwrap(), dst.into())
        };
        for make in [by_port, by_addr, by_dst] {
            let mut slots = [0u32; 8];
            for n in 1..=8000 {
                slots[usize::from(slot(&key(&make(n).build()), 8))] += 1;
            }
            assert!(slots.iter().all(|n| (800..1200).contains(n)), "{slots:?}");
        }
    }

    #[test]
    fn all_fragments_of_a_packet_take_one_way() {
        for v6 in [false, true] {
            let first = FrameBuilder::udp(v6, 1, 2)
                .payload(&[0; 64])
                .fragment(9, 0, true)
                .build();
            let later = FrameBuilder::udp(v6, 1, 2)
                .payload(&[0; 64])
                .fragment(9, 9, false)
                .build();
            assert_eq!(source_port(&key(&first)), source_port(&key(&later)));
        }
    }
}
