//! From which UDP port is a flow sent?
//!
//! From one that its inner headers choose, so that the underlay's equal-cost paths and receive queues spread flows and keep the
//! packets of each in order.
//!
//! # References
//! RFC 7348 §5 (dynamic port range 49152-65535), RFC 6335 §6.

use std::hash::BuildHasher;

use net::FlowKey;
use zerocopy::IntoBytes;

/// The first port of the dynamic range.
pub const FIRST_PORT: u16 = 49_152;

/// One of `count` ports for this inner flow: its place, to index a pool of send sockets. Both directions may differ.
pub fn slot(key: &FlowKey, count: u16) -> u16 {
    let hash = match key.five_tuple() {
        // Later fragments have no ports: all fragments of a packet must take one way, so none counts them.
        Some(t) if key.ip_frag != 0 => hash(&[&t.src, &t.dst, &[t.proto]]),
        Some(t) => hash(&[t.as_bytes()]),
        None => hash(&[&key.eth_src, &key.eth_dst]),
    };
    let count = u64::from(count.max(1));
    u16::try_from(hash % count).unwrap_or_default()
}

/// The UDP source port for this inner flow, when every flow may have its own.
pub fn source_port(key: &FlowKey) -> u16 {
    FIRST_PORT + slot(key, u16::MAX - FIRST_PORT + 1)
}

fn hash(parts: &[&[u8]]) -> u64 {
    foldhash::fast::FixedState::with_seed(0x7348).hash_one(parts)
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
