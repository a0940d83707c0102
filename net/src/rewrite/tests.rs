use proptest::prelude::*;

use super::*;
use crate::{
    Headers, Offload, PacketPool,
    testkit::{FrameBuilder, any_frame},
};

fn packet(bytes: &[u8]) -> Packet {
    let mut pool = PacketPool::new(1, 1);
    let mut p = pool.take(bytes.len()).unwrap();
    p.fill(bytes).unwrap();
    p.parse().unwrap();
    p
}

fn checksums_hold(p: &Packet) -> bool {
    crate::testkit::checksums_hold(p.bytes())
}

fn ends(v6: bool) -> (End, End) {
    if v6 {
        (
            ("fd00::77".parse().unwrap(), 1234),
            ("fd00::88".parse().unwrap(), 4321),
        )
    } else {
        (
            ("10.9.8.7".parse().unwrap(), 1234),
            ("10.1.1.1".parse().unwrap(), 4321),
        )
    }
}

proptest! {
    #[test]
    fn translation_keeps_checksums_and_key(frame in any_frame()) {
        let mut p = packet(&frame);
        prop_assume!(p.key().is_ip());
        let (src, dst) = ends(p.headers().l3 == L3::Ipv6);
        translate(&mut p, Some(src), Some(dst)).unwrap();
        prop_assert!(checksums_hold(&p));
        let (headers, mut key) = Headers::parse(p.bytes()).unwrap();
        key.set_origin(p.origin());
        prop_assert_eq!(headers, *p.headers());
        prop_assert_eq!(key, *p.key());
    }

    #[test]
    fn both_ends_in_one_step_are_the_same_as_one_by_one(
        frame in any_frame(),
        ports in any::<(u16, u16)>(),
        addrs in any::<[[u8; 4]; 2]>(),
        partial: bool,
        zeroed: bool,
    ) {
        let mut p = packet(&frame);
        prop_assume!(p.key().is_ip());
        let (mut src, mut dst) = ends(p.headers().l3 == L3::Ipv6);
        if src.0.is_ipv4() {
            (src.0, dst.0) = (addrs[0].into(), addrs[1].into());
        }
        (src.1, dst.1) = ports;
        let offset = if p.headers().l4 == L4::Tcp { 16 } else { 6 };
        let l4_at = p.headers().l4_at;
        if partial {
            let checksum = Checksum::Partial { start: l4_at, offset };
            p.set_offload(Offload { checksum, ..Offload::default() });
        }
        if zeroed && let Some(field) = p.bytes_mut().get_mut(usize::from(l4_at + offset)..) {
            field.iter_mut().take(2).for_each(|b| *b = 0);
        }
        let mut q = packet(&frame);
        q.copy_from(&p).unwrap();
        let to = FiveTuple::new(p.key().ip_proto, src, dst);
        prop_assert_eq!(translate_to(&mut p, &to), translate(&mut q, Some(src), Some(dst)));
        prop_assert_eq!(p.bytes(), q.bytes());
        prop_assert_eq!(p.key(), q.key());
    }

    #[test]
    fn translating_there_and_back_gives_the_same_bytes(frame in any_frame()) {
        let mut p = packet(&frame);
        prop_assume!(p.key().is_ip());
        let tuple = p.key().five_tuple().unwrap();
        let (src, dst) = ends(p.headers().l3 == L3::Ipv6);
        translate(&mut p, Some(src), Some(dst)).unwrap();
        translate(&mut p, Some((tuple.src_addr(), tuple.src_port)), Some((tuple.dst_addr(), tuple.dst_port))).unwrap();
        prop_assert_eq!(p.bytes(), &frame[..]);
    }

    #[test]
    fn quoted_packets_are_translated_with_the_errors_checksum(v6: bool, udp: bool) {
        let quoted = if udp { FrameBuilder::udp(v6, 53, 5353) } else { FrameBuilder::tcp(v6, 80, 40000) };
        let mut p = packet(&FrameBuilder::icmp_error(&quoted.payload(b"payload").build()));
        let q = p.headers().quoted(p.bytes()).unwrap();
        let (src, dst) = ends(v6);
        translate_quoted(&mut p, &q, Some(src), Some(dst)).unwrap();
        prop_assert!(checksums_hold(&p));
        let again = p.headers().quoted(p.bytes()).unwrap().tuple;
        prop_assert_eq!((again.src_addr(), again.src_port), src);
        prop_assert_eq!((again.dst_addr(), again.dst_port), dst);
    }
}

#[test]
fn a_partial_checksum_changes_with_addresses_only() {
    for v6 in [false, true] {
        let frame = FrameBuilder::tcp(v6, 1000, 80).payload(b"hello").build();
        let mut whole = packet(&frame);
        let mut partial = packet(&frame);
        let l4_at = usize::from(partial.headers().l4_at);
        let t = partial.key().five_tuple().unwrap();
        let len = partial.len() - l4_at;
        let pseudo =
            crate::checksum::fold(crate::checksum::pseudo(t.src_addr(), t.dst_addr(), 6, len));
        partial.bytes_mut()[l4_at + 16..l4_at + 18].copy_from_slice(&pseudo.to_be_bytes());
        let start = u16::try_from(l4_at).unwrap();
        partial.set_offload(Offload {
            checksum: Checksum::Partial { start, offset: 16 },
            ..Offload::default()
        });
        let (src, dst) = ends(v6);
        translate(&mut whole, Some(src), Some(dst)).unwrap();
        translate(&mut partial, Some(src), Some(dst)).unwrap();
        // Finishing the partial sum gives what mending the finished one gave.
        let sum = !crate::checksum::sum(&partial.bytes()[l4_at..]);
        partial.bytes_mut()[l4_at + 16..l4_at + 18].copy_from_slice(&sum.to_be_bytes());
        assert_eq!(partial.bytes(), whole.bytes());
    }
}

#[test]
fn ttl_runs_out() {
    for v6 in [false, true] {
        for (before, by) in [(2, 1), (255, 254), (255, 1), (64, 3)] {
            let mut p = packet(&FrameBuilder::udp(v6, 1, 2).ttl(before).build());
            decrement_ttl(&mut p, by).unwrap();
            assert!(checksums_hold(&p));
            let left = before - by;
            assert_eq!(p.key().ip_ttl, left);
            let bytes = p.bytes().to_vec();
            for more in [left, 255] {
                assert_eq!(decrement_ttl(&mut p, more), Err(Unwritable::TtlExceeded));
            }
            assert_eq!(p.bytes(), bytes, "what is refused changes nothing");
        }
    }
}

#[test]
fn the_other_family_is_refused_and_changes_nothing() {
    let mut p = packet(&FrameBuilder::udp(false, 1, 2).build());
    let before = p.bytes().to_vec();
    let (src, _) = ends(true);
    assert_eq!(
        translate(&mut p, Some(src), None),
        Err(Unwritable::Family(src.0))
    );
    assert_eq!(p.bytes(), before);
}

#[test]
fn udp_without_checksum_stays_without() {
    let mut p = packet(&FrameBuilder::udp(false, 1, 2).build());
    let at = usize::from(p.headers().l4_at) + 6;
    p.bytes_mut()[at..at + 2].fill(0);
    let (src, dst) = ends(false);
    translate(&mut p, Some(src), Some(dst)).unwrap();
    assert_eq!(p.bytes()[at..at + 2], [0, 0]);
}

#[test]
fn sctp_padding_is_not_summed_and_a_wrong_sum_stays_wrong() {
    for v6 in [false, true] {
        let mut frame = FrameBuilder::sctp(v6, 1, 2).payload(b"chunk").build();
        frame.extend([0xaa; 6]);
        let (src, dst) = ends(v6);
        let mut p = packet(&frame);
        translate(&mut p, Some(src), Some(dst)).unwrap();
        assert!(checksums_hold(&p));
        let at = usize::from(p.headers().l4_at) + 8;
        frame[at] ^= 1;
        let mut p = packet(&frame);
        translate(&mut p, Some(src), Some(dst)).unwrap();
        assert!(!checksums_hold(&p));
    }
}

proptest! {
    #[test]
    fn congestion_is_told_to_those_who_hear_it_and_to_nobody_else(frame in any_frame(), tos in any::<u8>()) {
        let mut p = packet(&frame);
        if p.key().is_ip() {
            set_tos(&mut p, tos).unwrap();
        }
        let (before, frame) = (*p.key(), p.bytes().to_vec());
        let hears = before.is_ip() && before.ip_tos & 3 != 0;
        prop_assert_eq!(mark_congestion(&mut p), hears);
        if !hears {
            prop_assert_eq!(p.bytes(), &frame[..]);
            return Ok(());
        }
        let (headers, mut key) = Headers::parse(p.bytes()).unwrap();
        key.set_origin(p.origin());
        prop_assert_eq!(key.ip_tos, before.ip_tos | 3, "the DSCP stays");
        prop_assert_eq!(key, *p.key());
        prop_assert!(checksums_hold(&p));
        let l3 = usize::from(headers.l3_at);
        if headers.l3 == L3::Ipv4 {
            let length = usize::from(p.bytes()[l3] & 0xf) * 4;
            prop_assert_eq!(crate::checksum::sum(&p.bytes()[l3..l3 + length]), 0xffff);
        }
    }

    #[test]
    fn a_mark_is_written_and_nothing_else(frame in any_frame(), dscp in 0u8..64) {
        let mut p = packet(&frame);
        let before = *p.key();
        prop_assume!(before.is_ip());
        set_dscp(&mut p, dscp).unwrap();
        let (headers, mut key) = Headers::parse(p.bytes()).unwrap();
        key.set_origin(p.origin());
        prop_assert_eq!(key.ip_tos, dscp << 2 | before.ip_tos & 3, "the ECN bits stay");
        prop_assert_eq!(key, *p.key());
        prop_assert_eq!(headers, *p.headers());
        prop_assert!(checksums_hold(&p));
        let l3 = usize::from(headers.l3_at);
        if headers.l3 == L3::Ipv4 {
            let length = usize::from(p.bytes()[l3] & 0xf) * 4;
            let sum = crate::checksum::sum(&p.bytes()[l3..l3 + length]);
            prop_assert_eq!(sum, 0xffff);
        }
        // Back to what it was, and every byte is.
        set_dscp(&mut p, before.ip_tos >> 2).unwrap();
        let same = p.bytes() == frame || headers.l3 == L3::Ipv4;
        prop_assert!(same);
    }
}

#[test]
fn what_is_not_ip_has_no_mark() {
    let arp = FrameBuilder::arp(
        1,
        (crate::testkit::mac(1), std::net::Ipv4Addr::new(10, 0, 0, 1)),
        (crate::testkit::mac(2), std::net::Ipv4Addr::new(10, 0, 0, 2)),
    );
    let mut p = packet(&arp);
    assert_eq!(set_dscp(&mut p, 46), Err(Unwritable::NotIp));
    assert_eq!(p.bytes(), arp);
}
