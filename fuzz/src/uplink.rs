//! What may stand before a datagram's payload on the uplink tap?
//!
//! The kernel writes the virtio-net header, whoever is on the underlay the rest.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use net::{Checksum, Gso, Headers, Offload, Vni};
use vswitch::io::uplink::header::{Holds, Hop, Inner, Template, VNET, holds, outer, outer_len};

/// Bytes behind the headers, where an input has none of its own.
const BODY: usize = 3000;

const V4: [IpAddr; 2] = [
    IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)),
    IpAddr::V4(Ipv4Addr::new(192, 0, 2, 2)),
];
const V6: [IpAddr; 2] = [
    IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1)),
    IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 2)),
];

/// Reads the input as all that stands before the inner frame, by either family.
pub(crate) fn receive(bytes: &[u8]) {
    for [local, _] in [V4, V6] {
        let v6 = local.is_ipv6();
        let head = bytes.get(..VNET + outer_len(v6)).unwrap_or(bytes);
        if let Ok(datagram) = outer(head, local, BODY) {
            assert_eq!(head.len(), VNET + outer_len(v6), "a head is whole");
            assert!(datagram.len <= BODY, "no more than there is");
            assert_eq!(datagram.from.is_ipv6(), v6);
        }
        match holds(head, v6) {
            Ok(Holds::Train(size)) => assert_ne!(size, 0, "a train of nothing"),
            Ok(Holds::Whole(offload)) => {
                assert!(matches!(offload.checksum, Checksum::Partial { .. }));
                assert_ne!(offload.gso, Gso::None, "a super-frame is cut");
            }
            Ok(Holds::Frame) | Err(_) => {}
        }
    }
}

/// What our own end writes: a frame as it is, and super-frames.
pub(crate) fn seeds() -> Vec<Vec<u8>> {
    let hop = Hop {
        from: [2, 0, 0, 0, 0, 1],
        to: [2, 0, 0, 0, 0, 2],
    };
    let Ok(vni) = Vni::try_from(5001) else {
        unreachable!("a VNI of 24 bits");
    };
    let frame = crate::frames::ipv4_udp();
    let Ok((headers, _)) = Headers::parse(&frame) else {
        unreachable!("a well-formed frame");
    };
    let checksum = |offset| Checksum::Partial {
        start: headers.l4_at,
        offset,
    };
    let cuts = [
        Offload::default(),
        Offload {
            checksum: checksum(16),
            gso: Gso::Tcp {
                size: 1400,
                ecn: true,
            },
        },
        Offload {
            checksum: checksum(6),
            gso: Gso::Udp { size: 1000 },
        },
    ];
    let mut seeds = Vec::new();
    for [local, far] in [V4, V6] {
        let Some(template) = Template::new(hop, far, local) else {
            unreachable!("both addresses are of one family");
        };
        for offload in cuts {
            let inner = Inner {
                vni,
                source_port: 50_000,
                len: 2500,
                headers: &headers,
                offload,
            };
            seeds.push(template.head(&inner).bytes().to_vec());
        }
        // The kernel's GRO without tunnels: a train of datagrams of one size.
        let mut train = seeds.last().cloned().unwrap_or_default();
        for (to, byte) in train.iter_mut().zip([0, 5, 0, 0, 0xe8, 3]) {
            *to = byte;
        }
        seeds.push(train);
    }
    seeds
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_our_own_end_writes_is_read() {
        for seed in seeds() {
            let local = if seed.len() == VNET + outer_len(true) {
                V6
            } else {
                V4
            };
            let [to, from] = local;
            let read = outer(&seed, to, 2500).unwrap();
            assert_eq!((read.from, read.len), (from, 2500));
            assert!(holds(&seed, to.is_ipv6()).is_ok());
        }
    }
}
