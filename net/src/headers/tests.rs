use etherparse::{NetSlice, SlicedPacket, TransportSlice};
use proptest::prelude::*;

use super::*;
use crate::testkit::{FrameBuilder, any_frame, checksums_hold};

/// The oracle: what etherparse makes of the same bytes, where both read them.
fn agrees_with_etherparse(frame: &[u8]) {
    let (Ok((headers, key)), Ok(theirs)) =
        (Headers::parse(frame), SlicedPacket::from_ethernet(frame))
    else {
        return;
    };
    match &theirs.net {
        Some(NetSlice::Ipv4(ip)) if headers.l3 == L3::Ipv4 => {
            assert_eq!(key.src_addr(), ip.header().source_addr());
            assert_eq!(key.dst_addr(), ip.header().destination_addr());
            assert_eq!(key.ip_ttl, ip.header().ttl());
            assert_eq!(headers.fragment_id, u32::from(ip.header().identification()));
        }
        Some(NetSlice::Ipv6(ip)) if headers.l3 == L3::Ipv6 => {
            assert_eq!(key.src_addr(), ip.header().source_addr());
            assert_eq!(key.dst_addr(), ip.header().destination_addr());
            assert_eq!(key.ip_ttl, ip.header().hop_limit());
        }
        _ => return,
    }
    match &theirs.transport {
        Some(TransportSlice::Tcp(tcp)) => {
            assert_eq!(
                (headers.l4, key.l4_src, key.l4_dst),
                (L4::Tcp, tcp.source_port(), tcp.destination_port())
            );
            assert_eq!(
                usize::from(headers.payload_at - headers.l4_at),
                tcp.slice().len() - tcp.payload().len()
            );
        }
        Some(TransportSlice::Udp(udp)) => {
            assert_eq!(
                (headers.l4, key.l4_src, key.l4_dst),
                (L4::Udp, udp.source_port(), udp.destination_port())
            );
        }
        Some(TransportSlice::Icmpv4(icmp)) if headers.l3 == L3::Ipv4 => {
            assert_eq!(key.l4_src, u16::from(icmp.type_u8()));
        }
        Some(TransportSlice::Icmpv6(icmp)) if headers.l3 == L3::Ipv6 => {
            assert_eq!(key.l4_src, u16::from(icmp.type_u8()));
        }
        _ => {}
    }
}

proptest! {
    #[test]
    fn legal_frames_are_read_as_etherparse_reads_them(frame in any_frame()) {
        prop_assert!(Headers::parse(&frame).is_ok());
        prop_assert!(checksums_hold(&frame));
        agrees_with_etherparse(&frame);
    }

    #[test]
    fn mutated_frames_are_read_the_same_or_refused(
        mut frame in any_frame(),
        changes in prop::collection::vec((0usize..120, any::<u8>()), 0..6),
        cut in 0usize..300,
    ) {
        for (at, value) in changes {
            if let Some(byte) = frame.get_mut(at) {
                *byte = value;
            }
        }
        frame.truncate(cut);
        if let Ok((headers, _)) = Headers::parse(&frame) {
            prop_assert!(usize::from(headers.l3_at) <= usize::from(headers.l4_at));
            prop_assert!(headers.l4_at <= headers.payload_at);
            prop_assert!(u32::from(headers.payload_at) <= headers.end);
            prop_assert!(headers.end as usize <= frame.len());
            let _ = headers.quoted(&frame);
        }
        agrees_with_etherparse(&frame);
    }

    #[test]
    fn an_error_quotes_the_connection_it_is_about(v6: bool, udp: bool, src: u16, dst: u16) {
        let frame = if udp { FrameBuilder::udp(v6, src, dst) } else { FrameBuilder::tcp(v6, src, dst).seq(77, 0) };
        let frame = frame.payload(b"12345678").build();
        let error = FrameBuilder::icmp_error(&frame);
        prop_assert!(checksums_hold(&error));
        let (headers, _) = Headers::parse(&error).unwrap();
        let quoted = headers.quoted(&error).unwrap();
        prop_assert_eq!(Some(quoted.tuple), Headers::parse(&frame).unwrap().1.five_tuple());
        prop_assert_eq!(quoted.tcp_sequence, (!udp).then_some(77));
    }
}

#[test]
fn neighbor_discovery_yields_target_and_link_address() {
    let (a, b) = (Mac::new([2, 0, 0, 0, 0, 1]), Mac::new([2, 0, 0, 0, 0, 2]));
    for kind in [135, 136] {
        let frame = FrameBuilder::neighbor(
            kind,
            (a, a.link_local()),
            (b, b.link_local()),
            b.link_local(),
        );
        let (_, key) = Headers::parse(&frame).unwrap();
        assert_eq!(std::net::Ipv6Addr::from(key.nd_target), b.link_local());
        assert_eq!(Mac::new(key.link_addr), a);
        assert!(checksums_hold(&frame));
    }
}

/// RFC 4861 §4.6: "Nodes MUST silently discard an ND packet that contains an option with length zero."
#[test]
fn an_nd_option_of_length_zero_is_refused() {
    let a = Mac::new([2, 0, 0, 0, 0, 1]);
    let mut frame = FrameBuilder::neighbor(
        135,
        (a, a.link_local()),
        (a, a.link_local()),
        a.link_local(),
    );
    let at = frame.len() - 7;
    frame[at] = 0;
    assert_eq!(Headers::parse(&frame), Err(Malformed::Nd));
}

#[test]
fn arp_is_read_and_other_hardware_refused() {
    let a = (Mac::new([2, 0, 0, 0, 0, 1]), "10.0.0.1".parse().unwrap());
    let mut frame = FrameBuilder::arp(1, a, (Mac::ZERO, "10.0.0.2".parse().unwrap()));
    let (headers, key) = Headers::parse(&frame).unwrap();
    assert_eq!(
        (headers.l3, key.ip_proto, key.dst_addr().to_string()),
        (L3::Arp, 1, "10.0.0.2".to_owned())
    );
    frame[15] = 6;
    assert_eq!(Headers::parse(&frame), Err(Malformed::Arp));
}

#[test]
fn later_fragments_have_no_ports_and_tiny_first_ones_are_refused() {
    for v6 in [false, true] {
        let later = FrameBuilder::tcp(v6, 1, 2)
            .payload(&[9; 40])
            .fragment(7, 3, false)
            .build();
        let (headers, key) = Headers::parse(&later).unwrap();
        assert_eq!(
            (key.ip_frag, key.l4_src, headers.fragment_offset),
            (Fragment::Later as u8, 0, 24)
        );
        // RFC 1858 §3: a first fragment that does not hold the whole TCP header hides what it is.
        let first = FrameBuilder::other(v6, 6)
            .payload(&[0; 8])
            .fragment(7, 0, true)
            .build();
        assert_eq!(Headers::parse(&first), Err(Malformed::L4));
    }
}

#[test]
fn a_wrong_ipv4_header_checksum_is_refused() {
    let mut frame = FrameBuilder::udp(false, 1, 2).build();
    frame[22] ^= 1;
    assert_eq!(Headers::parse(&frame), Err(Malformed::Ipv4Checksum));
}

#[test]
fn endless_extension_chains_are_refused() {
    let mut frame = FrameBuilder::other(true, 60)
        .payload(&[60, 0, 0, 0, 0, 0, 0, 0].repeat(20))
        .build();
    assert_eq!(Headers::parse(&frame), Err(Malformed::Ipv6));
    frame[20] = 59;
    assert!(Headers::parse(&frame).is_ok());
}

/// What is quoted of a packet may be shorter than eight bytes, if all of its payload was.
#[test]
fn the_quote_of_an_empty_packet_names_its_connection() {
    for v6 in [false, true] {
        let frame = FrameBuilder::other(v6, 47).build();
        let error = FrameBuilder::icmp_error(&frame);
        let (headers, _) = Headers::parse(&error).unwrap();
        let quoted = headers.quoted(&error).unwrap().tuple;
        assert_eq!(Some(quoted), Headers::parse(&frame).unwrap().1.five_tuple());
    }
}
