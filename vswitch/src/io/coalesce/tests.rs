use net::testkit::{FrameBuilder, checksums_hold, tcp};
use net::{Gso, PacketPool};
use proptest::prelude::*;

use super::*;
use crate::io::offload::{self, Segments};

const WHOLE: (usize, Option<u16>) = (65_535, None);

fn coalesce(frames: &[Vec<u8>]) -> Vec<Packet> {
    coalesce_with(frames, WHOLE)
}

fn coalesce_with(frames: &[Vec<u8>], path: (usize, Option<u16>)) -> Vec<Packet> {
    let mut pool = PacketPool::new(1000, 100);
    let mut coalescer = Coalescer::default();
    let mut out = vec![];
    let mut emit = |p, ()| out.push(p);
    for frame in frames {
        coalescer
            .push(&mut pool, frame, (), path, &mut emit)
            .unwrap();
    }
    coalescer.flush(&mut emit);
    out
}

/// What a receiver behind the tap sees.
fn cut(packet: &Packet) -> Vec<Vec<u8>> {
    let mut packet_bytes = packet.bytes().to_vec();
    let mut offload = packet.offload();
    if offload.gso == Gso::None {
        offload::finish(&mut packet_bytes, packet.headers(), &mut offload);
        return vec![packet_bytes];
    }
    let mut segments =
        Segments::new(packet.bytes(), packet.headers(), &offload, usize::MAX).unwrap();
    let mut header = vec![0; segments.header_len()];
    let mut out = vec![];
    while let Some(payload) = segments.next_into(&mut header) {
        out.push([&header[..], payload].concat());
    }
    out
}

fn set_id(frame: &mut [u8], id: u16, flags: u16) {
    let headers = Headers::parse(frame).unwrap().0;
    if headers.l3 == L3::Ipv4 {
        put(frame, 18, &id.to_be_bytes());
        put(frame, 20, &flags.to_be_bytes());
        finish_ipv4(frame, 14, headers.l4_at.into());
    }
}

fn train(v6: bool, count: u32, last: usize) -> Vec<Vec<u8>> {
    (0..count)
        .map(|n| {
            let ends = n + 1 == count;
            let len = if ends { last } else { 1000 };
            let flags = if ends { tcp::ACK | tcp::PSH } else { tcp::ACK };
            let mut frame = FrameBuilder::tcp(v6, 9, 80)
                .seq((u32::MAX - 2500).wrapping_add(n * 1000), 5)
                .flags(flags)
                .payload(&vec![n.to_le_bytes()[0]; len])
                .build();
            set_id(&mut frame, u16::try_from(n).unwrap().wrapping_sub(3), 0);
            frame
        })
        .collect()
}

#[test]
fn a_train_becomes_one_frame_and_is_cut_back_into_itself() {
    for v6 in [false, true] {
        let frames = train(v6, 40, 700);
        let out = coalesce(&frames);
        assert_eq!(out.len(), 1);
        let ecn = false;
        assert_eq!(out[0].offload().gso, Gso::Tcp { size: 1000, ecn });
        assert_eq!(out[0].segments(), 40);
        assert_eq!(cut(&out[0]), frames);
    }
}

#[test]
fn equal_datagrams_become_one_frame_and_a_shorter_one_ends_it() {
    for v6 in [false, true] {
        let frames: Vec<_> = [100, 100, 100, 40, 100]
            .into_iter()
            .enumerate()
            .map(|(n, len)| {
                let mut frame = FrameBuilder::udp(v6, 1, 2).payload(&vec![7; len]).build();
                set_id(&mut frame, u16::try_from(n).unwrap(), 0);
                frame
            })
            .collect();
        let out = coalesce(&frames);
        let segments: Vec<_> = out.iter().map(Packet::segments).collect();
        assert_eq!(segments, [4, 1]);
        assert_eq!(out[0].offload().gso, Gso::Udp { size: 100 });
        assert_eq!(out.iter().flat_map(cut).collect::<Vec<_>>(), frames);
    }
}

#[test]
fn what_a_cut_would_not_restore_is_not_put_together() {
    let base = || FrameBuilder::tcp(true, 9, 80).payload(&[1; 100]);
    let first = base().seq(1000, 5).build();
    let next = base().seq(1100, 5);
    let together = |frame: Vec<u8>| coalesce(&[first.clone(), frame]).len() == 1;
    assert!(together(next.clone().build()), "the control");
    assert!(!together(base().seq(1101, 5).build()), "a gap");
    assert!(!together(base().seq(1000, 5).build()), "a repetition");
    assert!(
        !together(next.clone().seq(1100, 6).build()),
        "another acknowledgement"
    );
    assert!(
        !together(next.clone().tos(3).build()),
        "congestion experienced"
    );
    assert!(!together(next.clone().ttl(63).build()), "another hop limit");
    assert!(!together(next.clone().vlan(7).build()), "another VLAN");
    assert!(
        !together(next.clone().flags(tcp::ACK | CWR).build()),
        "CWR later on"
    );
    assert!(!together(next.clone().flags(tcp::ACK | ECE).build()), "ECE");
    assert!(
        !together(next.clone().flags(tcp::ACK | tcp::RST).build()),
        "a reset"
    );
    assert!(
        !together(next.clone().payload(&[1; 101]).build()),
        "a longer one"
    );
    assert!(
        !together(next.clone().payload(b"").build()),
        "a pure acknowledgement"
    );
    let mut wrong = next.clone().build();
    let last = wrong.len() - 1;
    wrong[last] ^= 1;
    assert!(!together(wrong), "a wrong checksum");
    let mut window = next.build();
    window[54 + 15] ^= 1;
    window[54 + 16] ^= 0;
    assert!(!together(window), "another window");
}

#[test]
fn options_must_be_the_same_and_ids_follow_unless_they_mean_nothing() {
    let frames = |ids: [u16; 2], flags: u16| {
        let mut frames = vec![];
        for (n, id) in (0u32..).zip(ids) {
            let frame = FrameBuilder::tcp(false, 9, 80).seq(n * 100, 1);
            let mut frame = frame.payload(&[2; 100]).build();
            set_id(&mut frame, id, flags);
            frames.push(frame);
        }
        coalesce(&frames).len()
    };
    assert_eq!(frames([7, 8], 0), 1);
    assert_eq!(frames([7, 9], 0), 2);
    assert_eq!(frames([7, 7], 0x4000), 1);
}

#[test]
fn flows_are_kept_apart_and_each_in_order() {
    let mut frames = vec![];
    for n in 0..6u32 {
        for port in 0..3 {
            frames.push(
                FrameBuilder::tcp(true, 100 + port, 80)
                    .seq(n * 50, 1)
                    .payload(&[n.to_le_bytes()[0]; 50])
                    .build(),
            );
        }
    }
    let out = coalesce(&frames);
    assert_eq!(out.len(), 3);
    assert!(out.iter().all(|p| p.segments() == 6));
}

#[test]
fn an_acknowledgement_never_overtakes_the_data_before_it() {
    let mut frames = train(true, 3, 1000);
    frames[2] = frames[1].clone();
    frames[2] = FrameBuilder::tcp(true, 9, 80).seq(9, 9).build();
    let out = coalesce(&frames);
    let lens: Vec<_> = out.iter().map(Packet::segments).collect();
    assert_eq!(lens, [2, 1]);
    assert_eq!(out[1].bytes(), frames[2]);
}

#[test]
fn a_kernel_vteps_uncut_frame_gets_the_segment_size_of_its_path() {
    let mut whole = FrameBuilder::tcp(true, 9, 80).payload(&[5; 9000]).build();
    let headers = Headers::parse(&whole).unwrap().0;
    make_partial(&mut whole, &headers);
    let out = coalesce_with(&[whole.clone()], (1450, None));
    let ecn = false;
    assert_eq!(out[0].offload().gso, Gso::Tcp { size: 1390, ecn });
    assert_eq!(out[0].bytes(), whole);
    let pieces = cut(&out[0]);
    assert_eq!(pieces.len(), 7);
    assert!(pieces.iter().all(|p| checksums_hold(p)));
    let mut udp = FrameBuilder::udp(false, 9, 80).payload(&[5; 4000]).build();
    let headers = Headers::parse(&udp).unwrap().0;
    make_partial(&mut udp, &headers);
    let out = coalesce_with(&[udp], (1450, Some(1400)));
    assert_eq!(out[0].offload().gso, Gso::Udp { size: 1400 });
    assert!(cut(&out[0]).iter().all(|p| checksums_hold(p)));
}

#[test]
fn an_unfinished_checksum_goes_on_unfinished() {
    let mut frame = FrameBuilder::tcp(false, 9, 80).flags(tcp::SYN).build();
    let done = frame.clone();
    let headers = Headers::parse(&frame).unwrap().0;
    let checksum = make_partial(&mut frame, &headers);
    let out = coalesce(&[frame]);
    assert_eq!(out[0].offload().checksum, checksum);
    assert_eq!(cut(&out[0]), [done]);
}

#[test]
fn an_exhausted_pool_ends_trains_but_not_the_switch() {
    let mut pool = PacketPool::new(1, 0);
    let mut coalescer = Coalescer::default();
    let mut out = vec![];
    let mut emit = |p, ()| out.push(p);
    let frames = train(true, 2, 1000);
    coalescer
        .push(&mut pool, &frames[0], (), WHOLE, &mut emit)
        .unwrap();
    let second = coalescer.push(&mut pool, &frames[1], (), WHOLE, &mut emit);
    assert_eq!(second, Err(Exhausted));
    coalescer.flush(&mut emit);
    assert_eq!(out.len(), 1);
}

proptest! {
    #[test]
    fn cutting_what_was_put_together_yields_what_was_there(
        v6: bool,
        steps in proptest::collection::vec((0u16..3, 0u8..12, 1usize..400, any::<bool>()), 1..60),
    ) {
        // A few flows with mostly regular segments, and now and then something else.
        let mut seq = [1u32; 3];
        let mut id = 0u16;
        let mut frames = vec![];
        for (flow, kind, len, odd) in steps {
            let len = if odd { len } else { 400 };
            let s = &mut seq[usize::from(flow)];
            let data = vec![flow.to_le_bytes()[0]; len];
            let tcp_frame = FrameBuilder::tcp(v6, 100 + flow, 80).seq(*s, 1).payload(&data);
            let mut frame = match kind {
                0 => FrameBuilder::udp(v6, 100 + flow, 80).payload(&data).build(),
                1 => tcp_frame.flags(tcp::ACK | tcp::FIN).build(),
                2 => tcp_frame.flags(tcp::ACK | CWR).build(),
                3 => tcp_frame.tos(3).build(),
                4 => FrameBuilder::echo(v6, flow).payload(&data).build(),
                5 => tcp_frame.payload(b"").build(),
                _ => tcp_frame.build(),
            };
            if kind != 0 && kind != 4 && kind != 5 {
                *s = s.wrapping_add(u32::try_from(len).unwrap());
            }
            id = id.wrapping_add(1);
            set_id(&mut frame, id, 0);
            frames.push(frame);
        }
        let out = coalesce(&frames);
        let mut back: Vec<Vec<u8>> = out.iter().flat_map(cut).collect();
        // Order holds within a flow: compare flow by flow.
        let flow_of = |f: &Vec<u8>| {
            let (h, k) = Headers::parse(f).unwrap();
            (h.l4 as u8, k.l4_src, k.icmp_id)
        };
        frames.sort_by_key(flow_of);
        back.sort_by_key(flow_of);
        prop_assert_eq!(back, frames);
    }

    #[test]
    fn mutated_frames_go_through_or_are_named(
        mut frames in proptest::collection::vec(net::testkit::any_frame(), 1..8),
        flips in proptest::collection::vec((any::<prop::sample::Index>(), any::<prop::sample::Index>(), any::<u8>()), 0..12),
        limit in 0usize..3000, size in proptest::option::of(any::<u16>()),
    ) {
        for (frame, at, value) in flips {
            let index = frame.index(frames.len());
            let at = at.index(frames[index].len());
            frames[index][at] = value;
        }
        let sent: usize = frames.len();
        let out = coalesce_with(&frames, (limit, size));
        prop_assert!(!out.is_empty() && out.len() <= sent);
        for packet in &out {
            let offload = packet.offload();
            if offload != Offload::default() {
                prop_assert!(offload::validate(packet.headers(), packet.len(), &offload).is_ok());
            }
        }
    }
}
