//! Into which of several shares does a connection fall?
//!
//! A keyed hash of a connection's two ends, the same for both directions. It is simple enough for the kernel to reckon it in a few
//! instructions: who deals packets out (the queues of a tap, the sockets of one port) and who owns connections must agree.
//!
//! # Attack
//! Whoever does not know the seed can't choose addresses and ports that fall into one share.
//!
//! # Cost
//! A multiplication for each word of an address, and for each port.

use crate::{FiveTuple, flow_key::proto};

/// The hash, keyed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Spread {
    /// Where each end begins.
    pub key: u64,
    /// What each step multiplies by: odd, so that nothing is lost.
    pub factor: u64,
}

impl Spread {
    /// Of a secret seed.
    pub const fn new(seed: u64) -> Self {
        let key = stir(seed);
        Self {
            key,
            factor: stir(key) | 1,
        }
    }

    /// One step: a word is added to what was reckoned so far.
    #[must_use]
    pub const fn step(&self, sum: u64, word: u64) -> u64 {
        let product = (sum ^ word).wrapping_mul(self.factor);
        product ^ (product >> 32)
    }

    /// The hash of a connection. Ports count where the protocol has some; an ICMP identifier does not.
    pub fn hash(&self, tuple: &FiveTuple) -> u64 {
        let ports = matches!(tuple.proto, proto::TCP | proto::UDP | proto::SCTP);
        let end = |address: &[u8; 16], port: u16| {
            let words = address.as_chunks::<4>().0;
            // A mapped IPv4 address is its own last word alone.
            let words = match words {
                [[0, 0, 0, 0], [0, 0, 0, 0], [0, 0, 255, 255], v4] => std::slice::from_ref(v4),
                words => words,
            };
            let sum = words.iter().fold(self.key, |sum, word| {
                self.step(sum, u32::from_be_bytes(*word).into())
            });
            if ports {
                self.step(sum, port.into())
            } else {
                sum
            }
        };
        let (a, b) = (
            end(&tuple.src, tuple.src_port),
            end(&tuple.dst, tuple.dst_port),
        );
        self.step(a.wrapping_add(b), 0)
    }
}

/// The finishing steps of `SplitMix64`.
const fn stir(seed: u64) -> u64 {
    let z = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::*;

    fn tuple(protocol: u8, v6: bool, host: u16, port: u16) -> FiveTuple {
        let address = |n: u16| -> IpAddr {
            let [a, b] = n.to_be_bytes();
            if v6 {
                [0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, a, b].into()
            } else {
                [10, 0, a, b].into()
            }
        };
        FiveTuple::new(protocol, (address(host), port), (address(9), 80))
    }

    #[test]
    fn both_directions_fall_into_one_share() {
        let spread = Spread::new(7);
        for v6 in [false, true] {
            let t = tuple(6, v6, 1, 40_000);
            assert_eq!(spread.hash(&t), spread.hash(&t.reversed()));
        }
    }

    #[test]
    fn connections_spread_evenly_by_ports_and_by_addresses() {
        for shares in [2u64, 3, 4] {
            for v6 in [false, true] {
                for by_port in [false, true] {
                    let spread = Spread::new(7);
                    let mut counts = vec![0u32; usize::try_from(shares).unwrap()];
                    for n in 1..=3000 {
                        let (host, port) = if by_port { (1, n) } else { (n + 9, 40_000) };
                        let at = spread.hash(&tuple(17, v6, host, port)) % shares;
                        counts[usize::try_from(at).unwrap()] += 1;
                    }
                    let fair = 3000 / u32::try_from(shares).unwrap();
                    let off = counts.iter().map(|c| c.abs_diff(fair)).max().unwrap();
                    assert!(off < fair / 8, "{counts:?}");
                }
            }
        }
    }

    #[test]
    fn the_seed_moves_connections() {
        let moved = (0..64u64)
            .filter(|seed| {
                let t = tuple(6, false, 1, 40_000);
                Spread::new(*seed).hash(&t) % 2 == 0
            })
            .count();
        assert!((16..48).contains(&moved), "{moved}");
    }

    #[test]
    fn an_identifier_is_no_port() {
        let spread = Spread::new(7);
        let ping = |id| spread.hash(&tuple(proto::ICMP, false, 1, id));
        assert_eq!(ping(1), ping(2));
    }
}
