use net::{
    Checksum, Gso, Offload, Origin, PacketPool, PortId, Vni,
    checksum::{add, fold},
    testkit::{FrameBuilder, packet},
};

use super::{
    header::{Head, Holds, Hop, Inner, LONGEST, Template, VNET, holds, outer, outer_len},
    queue::fit,
};
use crate::io::offload::{finish_ipv4, get16, pseudo, put};
use net::DropReason;
use std::net::IpAddr;

const HOP: Hop = Hop {
    from: [2, 0, 0, 0, 0, 1],
    to: [2, 0, 0, 0, 0, 2],
};

fn ends(v6: bool) -> (IpAddr, IpAddr) {
    let [local, vtep] = if v6 {
        ["2001:db8::1", "2001:db8::2"]
    } else {
        ["192.0.2.1", "192.0.2.2"]
    };
    (local.parse().unwrap(), vtep.parse().unwrap())
}

fn vni() -> Vni {
    Vni::try_from(5001).unwrap()
}

/// A super-frame or a single one, as a tap hands it over.
fn made(pool: &mut PacketPool, v6: bool, udp: bool, payload: usize, gso: Gso) -> net::Packet {
    let data = vec![7; payload];
    let frame = if udp {
        FrameBuilder::udp(v6, 7, 80)
    } else {
        FrameBuilder::tcp(v6, 7, 80)
    };
    let mut p = packet(pool, &frame.payload(&data).build(), Origin::Port(PortId(0)));
    let start = p.headers().l4_at;
    let offset = if udp { 6 } else { 16 };
    let headers = *p.headers();
    let frame = p.bytes_mut();
    let transport = frame.len() - usize::from(start);
    let sum = fold(pseudo(frame, &headers) + transport as u64);
    put(frame, usize::from(start + offset), &sum.to_be_bytes());
    p.set_offload(Offload {
        checksum: Checksum::Partial { start, offset },
        gso,
    });
    p
}

fn tcp(size: u16) -> Gso {
    Gso::Tcp { size, ecn: false }
}

fn head(v6: bool, p: &net::Packet, offload: Offload) -> Head {
    let (local, vtep) = ends(v6);
    Template::new(HOP, local, vtep).unwrap().head(&Inner {
        vni: vni(),
        source_port: 50_123,
        len: p.len(),
        headers: p.headers(),
        offload,
    })
}

#[test]
fn a_super_frame_is_read_as_it_was_written() {
    let mut pool = PacketPool::new(8, 8);
    for outer6 in [false, true] {
        for inner6 in [false, true] {
            let ecn = Gso::Tcp {
                size: 1398,
                ecn: true,
            };
            for (udp, gso) in [
                (false, tcp(1398)),
                (false, ecn),
                (true, Gso::Udp { size: 900 }),
            ] {
                let mut p = made(&mut pool, inner6, udp, 30_000, gso);
                let offload = fit(&mut p, 60_000).unwrap();
                let written = head(outer6, &p, offload);
                let (from, to) = ends(outer6);
                let got = outer(written.bytes(), to, p.len()).unwrap();
                assert_eq!((got.from, got.len), (from, p.len()));
                assert_eq!(
                    holds(written.bytes(), outer6),
                    Ok(Holds::Whole(p.offload()))
                );
                pool.give(p);
            }
        }
    }
}

/// The kernel checks these places (virtio 1.3 §5.1.6): wrong ones are EINVAL, or segments that nobody can read.
#[test]
fn the_header_says_where_the_inner_headers_are() {
    let mut pool = PacketPool::new(8, 8);
    for (outer6, inner6) in [(false, false), (false, true), (true, false), (true, true)] {
        let mut p = made(&mut pool, inner6, false, 30_000, tcp(1000));
        let offload = fit(&mut p, 60_000).unwrap();
        let written = head(outer6, &p, offload);
        let bytes = written.bytes();
        let le = |at: usize| usize::from(u16::from_le_bytes([bytes[at], bytes[at + 1]]));
        let before = outer_len(outer6);
        assert_eq!(bytes.len(), VNET + before);
        let kind = if inner6 { 4 } else { 1 } | if outer6 { 0x40 } else { 0x20 };
        let flags = if outer6 { 9 } else { 1 };
        assert_eq!(bytes[..2], [flags, kind]);
        assert_eq!(le(2), before + usize::from(p.headers().payload_at));
        assert_eq!(le(4), 1000);
        assert_eq!(le(6), before + usize::from(p.headers().l4_at));
        assert_eq!(le(8), 16);
        assert_eq!(le(20), before - 16, "the outer UDP header");
        assert_eq!(le(22), before + 14, "the inner IP header");
        pool.give(p);
    }
}

/// RFC 7348 §4.3: over IPv4 the outer checksum is zero. RFC 8200 §8.1: over IPv6 it may not be; the link makes it from the sum of
/// the pseudo-header.
#[test]
fn outer_headers_are_right() {
    let mut pool = PacketPool::new(8, 8);
    let mut p = made(&mut pool, false, true, 100, Gso::None);
    let offload = fit(&mut p, 1450).unwrap();
    assert_eq!(
        offload,
        Offload {
            checksum: Checksum::Verified,
            gso: Gso::None
        }
    );
    assert!(net::testkit::checksums_hold(p.bytes()), "finished");
    let written = head(false, &p, offload);
    let four = &written.bytes()[VNET..];
    assert_eq!(four[..14], [2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1, 8, 0]);
    assert_eq!(fold(add(0, &four[14..34])), 0xffff);
    assert_eq!(get16(four, 16), 20 + 16 + 142);
    assert_eq!(get16(four, 20), 0x4000, "don't fragment");
    assert_eq!((get16(four, 34), get16(four, 36)), (50_123, 4789));
    assert_eq!((get16(four, 38), get16(four, 40)), (16 + 142, 0));
    assert_eq!(written.bytes()[..VNET], [0; VNET]);

    let written = head(true, &p, offload);
    let six = &written.bytes()[VNET..];
    assert_eq!(six[12..14], [0x86, 0xdd]);
    assert_eq!(get16(six, 18), 16 + 142);
    let pseudo = add(17 + 16 + 142, &six[22..54]);
    assert_eq!(get16(six, 60), fold(pseudo));
    assert_eq!(written.bytes()[..10], [1, 0, 0, 0, 0, 0, 54, 0, 6, 0]);
}

#[test]
fn segments_are_cut_to_the_path_and_datagrams_never() {
    let mut pool = PacketPool::new(8, 8);
    let room = 1500 - 28;
    let mut p = made(&mut pool, false, false, 30_000, tcp(8000));
    // 14 bytes of Ethernet, 40 of IP and TCP, 8 of VXLAN.
    assert_eq!(fit(&mut p, room).unwrap().gso, tcp(1410));
    let mut p = made(&mut pool, false, false, 30_000, tcp(1000));
    assert_eq!(fit(&mut p, room).unwrap().gso, tcp(1000));
    let mut p = made(&mut pool, false, true, 3000, Gso::Udp { size: 1422 });
    assert!(fit(&mut p, room).is_some());
    let mut p = made(&mut pool, false, true, 3000, Gso::Udp { size: 1423 });
    assert_eq!(fit(&mut p, room), None);
    let mut p = made(&mut pool, false, true, 65 * 100, Gso::Udp { size: 100 });
    assert_eq!(
        fit(&mut p, room),
        None,
        "more segments than all kernels take"
    );
    let mut p = made(&mut pool, false, true, 1422, Gso::None);
    assert!(fit(&mut p, room).is_some());
    let mut p = made(&mut pool, false, true, 1423, Gso::None);
    assert_eq!(fit(&mut p, room), None);
    for size in [60, 61] {
        let mut p = made(&mut pool, false, false, 60, tcp(size));
        assert_eq!(fit(&mut p, room).unwrap().gso, Gso::None, "one segment");
    }
}

#[test]
fn a_super_frame_that_contradicts_itself_is_left_to_the_sockets() {
    let mut pool = PacketPool::new(8, 8);
    let mut p = made(&mut pool, false, false, 3000, Gso::Udp { size: 100 });
    assert_eq!(fit(&mut p, 1400), None);
    let mut p = made(&mut pool, false, false, 3000, tcp(1000));
    p.set_offload(Offload {
        checksum: Checksum::Verified,
        gso: tcp(1000),
    });
    assert_eq!(fit(&mut p, 1400), None);
}

#[test]
fn a_train_of_datagrams_is_told_from_a_super_frame() {
    let mut head = [0; LONGEST];
    head[..6].copy_from_slice(&[1, 5, 0, 0, 0x50, 0]);
    assert_eq!(holds(&head, false), Ok(Holds::Train(0x50)));
    head[4] = 0;
    assert_eq!(holds(&head, false), Err(DropReason::MalformedOffload));
    assert_eq!(holds(&[0; VNET], false), Ok(Holds::Frame));
    // TCP outside of a tunnel, a tunnel over the other family, a checksum field before the inner frame.
    for (flags, kind, start) in [(1, 1, 100), (1, 0x41, 100), (0, 0x21, 100), (1, 0x21, 40)] {
        let mut head = [0; VNET];
        head[..8].copy_from_slice(&[flags, kind, 0, 0, 100, 0, start, 0]);
        assert_eq!(holds(&head, false), Err(DropReason::MalformedOffload));
    }
}

#[test]
fn what_is_no_whole_datagram_for_us_is_malformed() {
    let mut pool = PacketPool::new(8, 8);
    for v6 in [false, true] {
        let mut p = made(&mut pool, false, true, 100, Gso::None);
        let offload = fit(&mut p, 1450).unwrap();
        let bytes = head(v6, &p, offload).bytes().to_vec();
        let (_, to) = ends(v6);
        let of = |bytes: &[u8], body| outer(bytes, to, body);
        let malformed = Err(DropReason::MalformedVxlan);
        assert_eq!(of(&bytes, p.len()).unwrap().len, p.len());
        // Padding behind it is not its own.
        assert_eq!(of(&bytes, p.len() + 9).unwrap().len, p.len());
        assert_eq!(of(&bytes, p.len() - 1), malformed, "truncated");
        for len in 0..bytes.len() {
            assert_eq!(of(&bytes[..len], p.len()), malformed, "{len}");
        }
        assert_eq!(outer(&bytes, ends(!v6).1, p.len()), malformed);
        assert_eq!(outer(&bytes, ends(v6).0, p.len()), malformed, "another's");
        let mut corrupt = bytes.clone();
        let ttl = VNET + 14 + 8;
        corrupt[ttl] ^= 1;
        if !v6 {
            assert_eq!(of(&corrupt, p.len()), malformed, "IP checksum");
            corrupt[VNET + 14 + 6] = 0x20;
            finish_ipv4(&mut corrupt, VNET + 14, VNET + 34);
            assert_eq!(of(&corrupt, p.len()), malformed, "fragment");
        }
        let udp = bytes.len() - 16;
        for (at, what) in [(udp + 3, "port"), (udp + 4, "length")] {
            let mut wrong = bytes.clone();
            wrong[at] ^= 0x80;
            assert_eq!(of(&wrong, p.len()), malformed, "{what}");
        }
        pool.give(p);
    }
}

proptest::proptest! {
    #[test]
    fn any_bytes_are_read_or_refused(
        bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..LONGEST), v6: bool, body in 0usize..70_000
    ) {
        let (local, _) = ends(v6);
        if let Ok(outer) = outer(&bytes, local, body) {
            proptest::prop_assert!(outer.len <= body);
        }
        if let Ok(Holds::Whole(offload)) = holds(&bytes, v6) {
            proptest::prop_assert!(offload.gso != Gso::None);
        }
    }
}
