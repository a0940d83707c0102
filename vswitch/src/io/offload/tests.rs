use net::testkit::{FrameBuilder, checksums_hold, tcp};
use net::{Checksum, DropReason, Gso, Headers, Offload, checksum};
use proptest::prelude::*;

use super::*;

/// Makes a whole frame what a workload's kernel hands over: the field holds the pseudo-header sum.
fn open(frame: &mut [u8], gso: Gso) -> (Headers, Offload) {
    let headers = Headers::parse(frame).unwrap().0;
    let offset = checksum_offset(headers.l4).unwrap();
    let at = usize::from(headers.l4_at);
    let sum = fold(pseudo(frame, &headers) + (frame.len() - at) as u64);
    put(frame, at + usize::from(offset), &sum.to_be_bytes());
    let checksum = Checksum::Partial {
        start: headers.l4_at,
        offset,
    };
    (headers, Offload { checksum, gso })
}

fn cut(frame: &[u8], headers: &Headers, offload: &Offload, limit: usize) -> Vec<Vec<u8>> {
    let mut segments = Segments::new(frame, headers, offload, limit).unwrap();
    let mut header = vec![0; segments.header_len()];
    let mut out = vec![];
    while let Some(payload) = segments.next_into(&mut header) {
        out.push([&header[..], payload].concat());
    }
    out
}

/// etherparse says what the transport checksum should be.
fn oracle_agrees(frame: &[u8]) -> bool {
    use etherparse::{NetSlice, SlicedPacket, TransportSlice};
    let packet = SlicedPacket::from_ethernet(frame).unwrap();
    let ip = match packet.net.as_ref().unwrap() {
        NetSlice::Ipv4(v4) => {
            let header = v4.header().to_header();
            assert_eq!(header.header_checksum, header.calc_header_checksum());
            None.ok_or(header)
        }
        NetSlice::Ipv6(v6) => Ok(v6.header().to_header()),
        NetSlice::Arp(_) => return false,
    };
    match packet.transport.unwrap() {
        TransportSlice::Tcp(t) => {
            let (header, payload) = (t.to_header(), t.payload());
            let sum = match ip {
                Ok(v6) => header.calc_checksum_ipv6(&v6, payload),
                Err(v4) => header.calc_checksum_ipv4(&v4, payload),
            };
            header.checksum == sum.unwrap()
        }
        TransportSlice::Udp(u) => {
            let (header, payload) = (u.to_header(), u.payload());
            let sum = match ip {
                Ok(v6) => header.calc_checksum_ipv6(&v6, payload),
                Err(v4) => header.calc_checksum_ipv4(&v4, payload),
            };
            header.checksum == sum.unwrap() && usize::from(header.length) == 8 + payload.len()
        }
        TransportSlice::Icmpv4(_) | TransportSlice::Icmpv6(_) => false,
    }
}

#[test]
fn a_tcp_super_frame_is_cut_as_a_nic_would() {
    for v6 in [false, true] {
        let payload: Vec<u8> = (0..4000u32).map(|n| n.to_le_bytes()[0]).collect();
        let mut frame = FrameBuilder::tcp(v6, 40_000, 80)
            .flags(tcp::ACK | tcp::PSH | tcp::FIN | CWR)
            .seq(u32::MAX - 1000, 7)
            .payload(&payload)
            .build();
        let gso = Gso::Tcp {
            size: 1400,
            ecn: true,
        };
        let (headers, offload) = open(&mut frame, gso);
        let segments = cut(&frame, &headers, &offload, usize::MAX);
        assert_eq!(segments.len(), 3);
        let l4 = usize::from(headers.l4_at);
        let flags: Vec<u8> = segments.iter().map(|s| s[l4 + 13]).collect();
        let last = tcp::ACK | tcp::PSH | tcp::FIN;
        assert_eq!(flags, [tcp::ACK | CWR, tcp::ACK, last]);
        let seqs: Vec<u32> = segments.iter().map(|s| get32(s, l4 + 4)).collect();
        assert_eq!(seqs, [u32::MAX - 1000, 399, 1799]);
        let mut whole: Vec<u8> = vec![];
        for (n, segment) in segments.iter().enumerate() {
            let (h, _) = Headers::parse(segment).unwrap();
            assert_eq!(end(&h), segment.len(), "its length says what it is");
            assert!(checksums_hold(segment) && oracle_agrees(segment));
            whole.extend(&segment[usize::from(h.payload_at)..]);
            if !v6 {
                let first = get16(&frame, 18);
                assert_eq!(usize::from(get16(segment, 18)), usize::from(first) + n);
            }
        }
        assert_eq!(whole, payload);
    }
}

#[test]
fn a_udp_super_frame_is_cut_into_datagrams_but_never_finer() {
    for v6 in [false, true] {
        let mut frame = FrameBuilder::udp(v6, 5, 6).payload(&[9; 2500]).build();
        let (headers, offload) = open(&mut frame, Gso::Udp { size: 1000 });
        let segments = cut(&frame, &headers, &offload, 1000);
        let sizes: Vec<usize> = segments
            .iter()
            .map(|s| s.len() - usize::from(headers.payload_at))
            .collect();
        assert_eq!(sizes, [1000, 1000, 500]);
        assert!(
            segments
                .iter()
                .all(|s| checksums_hold(s) && oracle_agrees(s))
        );
        let finer = Segments::new(&frame, &headers, &offload, 999).unwrap_err();
        assert_eq!(finer, DropReason::MtuExceeded);
    }
}

#[test]
fn tcp_that_nobody_cut_is_cut_at_the_limit_only_when_its_checksum_holds() {
    let mut frame = FrameBuilder::tcp(true, 1, 2).payload(&[3; 1460]).build();
    let headers = Headers::parse(&frame).unwrap().0;
    let segments = cut(&frame, &headers, &Offload::default(), 1000);
    assert_eq!(segments.len(), 2);
    assert!(segments.iter().all(|s| checksums_hold(s)));
    let last = frame.len() - 1;
    frame[last] ^= 1;
    let wrong = Segments::new(&frame, &headers, &Offload::default(), 1000).unwrap_err();
    assert_eq!(wrong, DropReason::BadChecksum);
    let udp = FrameBuilder::udp(true, 1, 2).payload(&[3; 1460]).build();
    let headers = Headers::parse(&udp).unwrap().0;
    let refused = Segments::new(&udp, &headers, &Offload::default(), 1000).unwrap_err();
    assert_eq!(refused, DropReason::MtuExceeded);
}

#[test]
fn an_unfinished_checksum_is_seen_and_finished() {
    for v6 in [false, true] {
        for frame in [
            FrameBuilder::tcp(v6, 1, 2).payload(b"odd").build(),
            FrameBuilder::udp(v6, 1, 2).payload(b"even").build(),
        ] {
            let headers = Headers::parse(&frame).unwrap().0;
            assert_eq!(judge(&frame, &headers), Checksum::Verified);
            let mut other = frame.clone();
            let last = other.len() - 1;
            other[last] ^= 0x10;
            assert_eq!(judge(&other, &headers), Checksum::Unverified);
            let mut partial = frame.clone();
            let (_, mut offload) = open(&mut partial, Gso::None);
            assert_eq!(judge(&partial, &headers), offload.checksum);
            finish(&mut partial, &headers, &mut offload);
            assert_eq!(partial, frame);
            assert_eq!(offload.checksum, Checksum::Verified);
        }
    }
}

#[test]
fn a_device_that_contradicts_its_frame_is_not_believed() {
    let frame = FrameBuilder::tcp(false, 1, 2).payload(&[0; 100]).build();
    let headers = Headers::parse(&frame).unwrap().0;
    let partial = |start, offset| Checksum::Partial { start, offset };
    let check = |checksum, gso| validate(&headers, frame.len(), &Offload { checksum, gso });
    let tso = Gso::Tcp {
        size: 10,
        ecn: false,
    };
    assert!(check(partial(34, 16), tso).is_ok());
    assert!(check(partial(34, 16), Gso::None).is_ok());
    assert!(check(partial(34, 6), Gso::None).is_err(), "another field");
    assert!(check(partial(30, 16), Gso::None).is_err(), "another place");
    assert!(
        check(Checksum::Unverified, tso).is_err(),
        "no checksum to make"
    );
    assert!(check(partial(34, 16), Gso::Udp { size: 10 }).is_err());
    let none = Gso::Tcp {
        size: 0,
        ecn: false,
    };
    assert!(check(partial(34, 16), none).is_err());
    let other = FrameBuilder::other(false, 132).payload(&[0; 20]).build();
    let (mut headers, len) = (Headers::parse(&other).unwrap().0, other.len());
    headers.l4 = net::L4::Other;
    let check = |start, offset| {
        let checksum = partial(start, offset);
        let gso = Gso::None;
        validate(&headers, len, &Offload { checksum, gso })
    };
    assert!(check(34, 8).is_ok());
    assert!(check(34, 19).is_err(), "behind the frame's end");
    assert!(check(u16::MAX, u16::MAX).is_err());
    assert!(check(0, 2).is_err(), "in the Ethernet header");
}

proptest! {
    #[test]
    fn cutting_loses_nothing_and_every_segment_is_legal(
        v6: bool, udp: bool, len in 1usize..9000, size in 1u16..3000, limit in 1usize..4000, seq: u32,
    ) {
        let payload: Vec<u8> = (0..len).map(|n| (n * 7 % 251).to_le_bytes()[0]).collect();
        let builder = if udp { FrameBuilder::udp(v6, 1, 2) } else { FrameBuilder::tcp(v6, 1, 2).seq(seq, 9) };
        let mut frame = builder.payload(&payload).build();
        let gso = if udp { Gso::Udp { size } } else { Gso::Tcp { size, ecn: false } };
        let (headers, offload) = open(&mut frame, gso);
        let limit = if udp { usize::from(size).max(limit) } else { limit };
        let segments = cut(&frame, &headers, &offload, limit);
        let mut whole: Vec<u8> = vec![];
        for segment in &segments {
            prop_assert!(checksums_hold(segment));
            let (h, _) = Headers::parse(segment).unwrap();
            prop_assert_eq!(end(&h), segment.len());
            let piece = &segment[usize::from(h.payload_at)..];
            prop_assert!(piece.len() <= limit.min(size.into()));
            whole.extend(piece);
        }
        prop_assert_eq!(whole, payload);
    }

    #[test]
    fn nonsense_never_panics(
        bytes in proptest::collection::vec(any::<u8>(), 0..200),
        mut frame in net::testkit::any_frame(),
        flips in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6),
        size: u16, start: u16, offset: u16, udp: bool, limit: u16,
    ) {
        for (at, value) in flips {
            let at = at.index(frame.len());
            frame[at] = value;
        }
        for mut frame in [bytes, frame] {
            let Ok((headers, _)) = Headers::parse(&frame) else { continue };
            let gso = if udp { Gso::Udp { size } } else { Gso::Tcp { size, ecn: true } };
            for checksum in [judge(&frame, &headers), Checksum::Partial { start, offset }] {
                for gso in [gso, Gso::None] {
                    let mut offload = Offload { checksum, gso };
                    if let Ok(mut s) = Segments::new(&frame, &headers, &offload, limit.into()) {
                        let mut header = vec![0; s.header_len()];
                        while s.next_into(&mut header).is_some() {}
                    }
                    finish(&mut frame, &headers, &mut offload);
                }
            }
        }
    }

    #[test]
    fn the_fast_sum_is_the_sum(bytes in proptest::collection::vec(any::<u8>(), 0..300), acc in 0u64..1 << 40) {
        let mut naive = acc;
        for pair in bytes.chunks(2) {
            naive += u64::from(u16::from_be_bytes([pair[0], *pair.get(1).unwrap_or(&0)]));
        }
        let (a, b) = (fold(naive), fold(checksum::add(acc, &bytes)));
        // Zero has two spellings in ones' complement.
        prop_assert!(a == b || (a % 0xffff == 0 && b % 0xffff == 0));
    }
}
