use std::net::UdpSocket;

use net::testkit::{FrameBuilder, checksums_hold, packet};
use net::{Checksum, Offload, PortId, Vni, flow_key::Origin};

use super::*;

fn vni() -> Vni {
    Vni::try_from(5001).unwrap()
}

fn pool() -> PacketPool {
    PacketPool::new(1000, 100)
}

fn open(host: [u8; 4]) -> UdpUnderlay {
    UdpUnderlay::open(&UnderlaySpec::new(host.into())).unwrap()
}

/// Receives until `segments` have come, and what was refused on the way.
fn receive(
    underlay: &mut UdpUnderlay,
    pool: &mut PacketPool,
    segments: u32,
) -> (Vec<Tunnelled>, Refused) {
    let (mut out, mut refused) = (vec![], vec![]);
    let deadline = Instant::now() + Duration::from_secs(10);
    let got = |out: &[Tunnelled], refused: &Refused| {
        out.iter().map(|t| t.packet.segments()).sum::<u32>() + u32::try_from(refused.len()).unwrap()
    };
    while got(&out, &refused) < segments {
        assert!(
            Instant::now() < deadline,
            "nothing more came: {out:?} {refused:?}"
        );
        let from_here: IpAddr = [127, 0, 0, 1].into();
        let end = underlay.rx(pool, &|ip| ip != from_here, &mut out, &mut refused);
        assert!(matches!(end, Rx::More | Rx::Drained));
        std::thread::yield_now();
    }
    (out, refused)
}

fn tunnelled(pool: &mut PacketPool, frame: &[u8], vtep: [u8; 4]) -> Tunnelled {
    Tunnelled {
        packet: packet(pool, frame, Origin::Port(PortId(0))),
        vni: vni(),
        vtep: vtep.into(),
        nsh: None,
    }
}

fn super_frame(pool: &mut PacketPool, v6: bool, len: usize, vtep: [u8; 4]) -> Tunnelled {
    let data: Vec<u8> = (0..len).map(|n| (n % 251).to_le_bytes()[0]).collect();
    let frame = FrameBuilder::tcp(v6, 7, 80).payload(&data).build();
    let mut t = tunnelled(pool, &frame, vtep);
    let headers = *t.packet.headers();
    let bytes = t.packet.bytes_mut();
    let l4 = usize::from(headers.l4_at);
    let sum = offload::pseudo(bytes, &headers) + (bytes.len() - l4) as u64;
    offload::put(bytes, l4 + 16, &net::checksum::fold(sum).to_be_bytes());
    t.packet.set_offload(Offload {
        checksum: Checksum::Partial {
            start: headers.l4_at,
            offset: 16,
        },
        gso: Gso::Tcp {
            size: 1398,
            ecn: false,
        },
    });
    t
}

#[test]
fn a_super_frame_crosses_in_one_send_and_arrives_as_one() {
    let (a, b) = ([127, 47, 1, 1], [127, 47, 1, 2]);
    let (mut tx, mut rx, mut pool) = (open(a), open(b), pool());
    for v6 in [false, true] {
        let mut frames = vec![super_frame(&mut pool, v6, 60_000, b)];
        let before = frames[0].packet.bytes().to_vec();
        let mut refused = vec![];
        assert_eq!(tx.tx(&mut pool, &mut frames, &mut refused), 43);
        assert!(refused.is_empty() && frames.is_empty());
        assert_eq!(tx.plan.messages.len(), 1, "one send");
        let (out, refused) = receive(&mut rx, &mut pool, 43);
        assert!(refused.is_empty());
        assert_eq!(out.len(), 1, "one frame");
        assert_eq!(out[0].vtep, IpAddr::from(a));
        assert_eq!(out[0].vni, vni());
        assert_eq!(out[0].packet.bytes(), before);
    }
}

#[test]
fn without_gso_every_segment_is_a_datagram_of_its_own() {
    let (a, b) = ([127, 47, 2, 1], [127, 47, 2, 2]);
    let (mut tx, mut rx, mut pool) = (open(a), open(b), pool());
    tx.gso = false;
    tx.without_checksums();
    let mut frames = vec![super_frame(&mut pool, true, 30_000, b)];
    let before = frames[0].packet.bytes().to_vec();
    assert_eq!(tx.tx(&mut pool, &mut frames, &mut vec![]), 22);
    assert_eq!(tx.plan.messages.len(), 22);
    let (out, _) = receive(&mut rx, &mut pool, 22);
    // What one call received is together again; a second call begins anew.
    let mut whole = vec![];
    for t in &out {
        let bytes = t.packet.bytes();
        whole.extend_from_slice(&bytes[t.packet.headers().payload_at.into()..]);
    }
    assert_eq!(whole, before[74..]);
}

#[test]
fn equal_small_frames_to_one_vtep_share_a_send() {
    let (a, b) = ([127, 47, 3, 1], [127, 47, 3, 2]);
    let (mut tx, mut rx, mut pool) = (open(a), open(b), pool());
    let mut frames = vec![];
    for n in 0..30u8 {
        let len = if n == 29 { 40 } else { 100 };
        let frame = FrameBuilder::udp(false, 1, 2)
            .payload(&vec![n; len])
            .build();
        frames.push(tunnelled(&mut pool, &frame, b));
    }
    assert_eq!(tx.tx(&mut pool, &mut frames, &mut vec![]), 30);
    assert_eq!(tx.plan.messages.len(), 1, "one send");
    let (out, refused) = receive(&mut rx, &mut pool, 30);
    assert!(refused.is_empty());
    let mut seen = vec![];
    for t in &out {
        let payload = &t.packet.bytes()[42..];
        seen.extend(payload.chunks(100).map(|c| c[0]));
    }
    assert_eq!(seen, (0..30).collect::<Vec<u8>>(), "in order");
}

/// Frames of two flows that have a sender in common, in turns, in one call: how many messages are made of them?
fn messages_of_two_flows(frame: impl Fn(u16) -> FrameBuilder) -> usize {
    let b = [127, 47, 3, 4];
    let (mut tx, mut pool) = (open([127, 47, 3, 3]), pool());
    let slot = |port: u16| {
        let key = Headers::parse(&frame(port).build()).unwrap().1;
        overlay::entropy::slot(&key, tx.source_ports())
    };
    let other = (2..1000).find(|port| slot(*port) == slot(1)).unwrap();
    let frames = [1, other].repeat(5);
    let mut frames: Vec<_> = frames
        .into_iter()
        .map(|port| tunnelled(&mut pool, &frame(port).build(), b))
        .collect();
    assert_eq!(tx.tx(&mut pool, &mut frames, &mut vec![]), 10);
    tx.plan.messages.len()
}

#[test]
fn flows_share_a_send_only_where_order_does_not_matter() {
    // 16: ACK; 17: with FIN.
    let tcp = |port| FrameBuilder::tcp(false, port, 80).flags(16);
    assert_eq!(messages_of_two_flows(tcp), 1);
    assert_eq!(messages_of_two_flows(|p| tcp(p).flags(17)), 2);
    assert_eq!(messages_of_two_flows(|p| tcp(p).payload(&[1; 90])), 2);
    let udp = |port| FrameBuilder::udp(true, port, 80).payload(&[1; 90]);
    assert_eq!(messages_of_two_flows(udp), 2);
}

#[test]
fn flows_spread_over_ports_but_one_flow_keeps_its_own() {
    let a = [127, 47, 4, 1];
    let (mut tx, mut pool) = (open(a), pool());
    let receiver = UdpSocket::bind("127.47.4.2:4789").unwrap();
    receiver
        .set_read_timeout(Some(Duration::from_secs(10)))
        .unwrap();
    let mut ports = vec![];
    for flow in 0..64u16 {
        let mut from = vec![];
        for _ in 0..2 {
            let frame = FrameBuilder::udp(false, flow, 2).payload(b"x").build();
            let mut frames = vec![tunnelled(&mut pool, &frame, [127, 47, 4, 2])];
            assert_eq!(tx.tx(&mut pool, &mut frames, &mut vec![]), 1);
            let mut bytes = [0; 200];
            let (len, source) = receiver.recv_from(&mut bytes).unwrap();
            let (got, inner) = vxlan::split(&bytes[..len]).unwrap();
            assert_eq!((got, inner), (vni(), &frame[..]));
            from.push(source.port());
        }
        assert_eq!(from[0], from[1]);
        ports.push(from[0]);
    }
    ports.sort_unstable();
    ports.dedup();
    assert!(ports.len() >= 6, "of 8 senders: {}", ports.len());
}

#[test]
fn strangers_and_garbage_are_named() {
    let b = [127, 47, 5, 2];
    let (mut rx, mut pool) = (open(b), pool());
    let stranger = UdpSocket::bind("127.0.0.1:0").unwrap();
    stranger.send_to(&[0x08; 60], "127.47.5.2:4789").unwrap();
    let (_, refused) = receive(&mut rx, &mut pool, 1);
    assert_eq!(refused[0].1, DropReason::UnknownVtep);
    let known = UdpSocket::bind("127.47.5.1:0").unwrap();
    known.send_to(&[0; 60], "127.47.5.2:4789").unwrap();
    let (_, refused) = receive(&mut rx, &mut pool, 1);
    assert_eq!(refused[0].1, DropReason::MalformedVxlan);
}

fn nsh() -> overlay::Nsh {
    overlay::Nsh::to(vni(), 9, 3, uuid::Uuid::from_u128(77).into(), true)
}

#[test]
fn what_is_for_an_appliance_crosses_by_its_own_port_in_trains_too() {
    let (a, b) = ([127, 47, 9, 1], [127, 47, 9, 2]);
    let (mut tx, mut rx, mut pool) = (open(a), open(b), pool());
    for v6 in [false, true] {
        let mut frames = vec![super_frame(&mut pool, v6, 60_000, b)];
        frames[0].nsh = Some(nsh());
        let before = frames[0].packet.bytes().to_vec();
        // The same flow without: it goes to the other port.
        let plain = FrameBuilder::udp(v6, 7, 80).payload(b"x").build();
        frames.push(tunnelled(&mut pool, &plain, b));
        assert_eq!(tx.tx(&mut pool, &mut frames, &mut vec![]), 44);
        let (mut out, refused) = receive(&mut rx, &mut pool, 44);
        assert!(refused.is_empty());
        out.sort_by_key(|t| t.nsh.is_some());
        assert_eq!((out[0].nsh, out[0].packet.bytes()), (None, &plain[..]));
        assert_eq!((out[1].nsh, out[1].vtep), (Some(nsh()), IpAddr::from(a)));
        assert_eq!(out[1].packet.bytes(), before);
        assert_eq!(out.len(), 2, "one super-frame, not its parts");
    }
}

#[test]
fn frames_of_two_places_in_a_chain_are_not_put_together() {
    let (a, b) = ([127, 47, 10, 1], [127, 47, 10, 2]);
    let (mut tx, mut rx, mut pool) = (open(a), open(b), pool());
    let mut frames = vec![];
    for (n, index) in [255, 254, 255].into_iter().enumerate() {
        let sequence = 100 + 500 * u32::try_from(n).unwrap();
        let frame = FrameBuilder::tcp(false, 7, 80).flags(16);
        let frame = frame.seq(sequence, 1).payload(&[1; 500]).build();
        let mut one = tunnelled(&mut pool, &frame, b);
        one.nsh = Some(overlay::Nsh { index, ..nsh() });
        frames.push(one);
    }
    assert_eq!(tx.tx(&mut pool, &mut frames, &mut vec![]), 3);
    let (out, _) = receive(&mut rx, &mut pool, 3);
    let mut places: Vec<_> = out.iter().map(|t| t.nsh.unwrap().index).collect();
    places.sort_unstable();
    assert_eq!(places, [254, 255, 255]);
}

#[test]
fn strangers_and_garbage_at_the_chain_transports_port_are_named() {
    for (host, v6) in [("127.47.11.2", false), ("::1", true)] {
        let mut rx = UdpUnderlay::open(&UnderlaySpec::new(host.parse().unwrap())).unwrap();
        let mut pool = pool();
        let to = SocketAddr::new(host.parse().unwrap(), GPE_PORT);
        let frame = FrameBuilder::udp(v6, 1, 2).build();
        let good = [&nsh().header()[..], &frame].concat();
        let mut spent = good.clone();
        spent[15] = 0;
        let vxlan = [&vxlan::header(vni())[..], &frame].concat();
        let known = UdpSocket::bind(if v6 { "[::1]:0" } else { "127.47.11.1:0" }).unwrap();
        for (bytes, reason) in [
            (&spent, DropReason::ChainIndexSpent),
            (&vxlan, DropReason::MalformedNsh),
            (&good[..31].to_vec(), DropReason::MalformedNsh),
        ] {
            known.send_to(bytes, to).unwrap();
            let (_, refused) = receive(&mut rx, &mut pool, 1);
            assert_eq!(refused[0].1, reason);
        }
        known.send_to(&good, to).unwrap();
        let (out, _) = receive(&mut rx, &mut pool, 1);
        assert_eq!(
            (out[0].nsh, out[0].packet.bytes()),
            (Some(nsh()), &frame[..])
        );
        if !v6 {
            let stranger = UdpSocket::bind("127.0.0.1:0").unwrap();
            stranger.send_to(&good, to).unwrap();
            let (_, refused) = receive(&mut rx, &mut pool, 1);
            assert_eq!(refused[0].1, DropReason::UnknownVtep);
        }
    }
}

#[test]
fn a_kernel_vteps_uncut_frames_are_told_from_trains() {
    let b = [127, 47, 6, 2];
    let (mut rx, mut pool) = (open(b), pool());
    let kernel = UdpSocket::bind("127.47.6.1:0").unwrap();
    let mut t = super_frame(&mut pool, true, 20_000, b);
    let datagram = [&vxlan::header(vni())[..], t.packet.bytes()].concat();
    assert!(is_one_frame(&datagram, 1398));
    let train = FrameBuilder::tcp(true, 7, 80).payload(&[1; 1398]).build();
    let train = [&vxlan::header(vni())[..], &train].concat();
    assert!(!is_one_frame(
        &train.repeat(3),
        u16::try_from(train.len()).unwrap()
    ));
    kernel.send_to(&datagram, "127.47.6.2:4789").unwrap();
    // As if the path were an Ethernet.
    let path = Path {
        mtu: 1600,
        until: Instant::now() + Duration::from_mins(1),
    };
    rx.paths.insert([127, 47, 6, 1].into(), path);
    let (out, _) = receive(&mut rx, &mut pool, 1);
    let size = 1600 - 20 - 8 - 8 - 14 - 60;
    assert_eq!(out[0].packet.offload().gso, Gso::Tcp { size, ecn: false });
    // And a single frame whose checksum is still to be made.
    t.packet.set_offload(Offload::default());
    let small = FrameBuilder::tcp(false, 1, 2).build();
    let mut open = small.clone();
    let headers = Headers::parse(&open).unwrap().0;
    let sum = offload::pseudo(&open, &headers) + 20;
    offload::put(&mut open, 34 + 16, &net::checksum::fold(sum).to_be_bytes());
    let datagram = [&vxlan::header(vni())[..], &open].concat();
    kernel.send_to(&datagram, "127.47.6.2:4789").unwrap();
    let (mut out, _) = receive(&mut rx, &mut pool, 1);
    let packet = &mut out[0].packet;
    let (headers, mut o) = (*packet.headers(), packet.offload());
    offload::finish(packet.bytes_mut(), &headers, &mut o);
    assert_eq!(packet.bytes(), small);
    assert!(checksums_hold(packet.bytes()));
}

#[test]
fn an_address_of_nobody_and_a_taken_port_are_told_apart() {
    let nobody = UdpUnderlay::open(&UnderlaySpec::new([192, 0, 2, 77].into()));
    assert!(matches!(nobody, Err(UnderlayError::NoSuchAddress(_))));
    let _first = open([127, 47, 7, 1]);
    let second = UdpUnderlay::open(&UnderlaySpec::new([127, 47, 7, 1].into()));
    assert!(matches!(second, Err(UnderlayError::PortTaken(_))));
    let shared = UnderlaySpec {
        shared: Some(Steering::new(1, 2)),
        ..UnderlaySpec::new([127, 47, 8, 1].into())
    };
    let _workers = [
        UdpUnderlay::open(&shared).unwrap(),
        UdpUnderlay::open(&shared).unwrap(),
    ];
}

#[test]
fn a_frame_too_large_for_its_path_is_cut_or_named() {
    let (a, b) = ([127, 47, 9, 1], [127, 47, 9, 2]);
    let (mut tx, mut rx, mut pool) = (open(a), open(b), pool());
    let path = Path {
        mtu: 1000,
        until: Instant::now() + Duration::from_mins(1),
    };
    tx.paths.insert(b.into(), path);
    let udp = FrameBuilder::udp(false, 7, 2).payload(&[1; 1400]).build();
    let mut frames = vec![
        super_frame(&mut pool, false, 10_000, b),
        tunnelled(&mut pool, &udp, b),
    ];
    let mut refused = vec![];
    assert_eq!(tx.tx(&mut pool, &mut frames, &mut refused), 8);
    assert_eq!(refused.len(), 1);
    assert_eq!(refused[0].reason, DropReason::MtuExceeded);
    assert_eq!(refused[0].room.unwrap().get(), 1000 - 20 - 8 - 8 - 14);
    let size = 1000 - 20 - 8 - 8 - 14 - 40;
    let (out, _) = receive(&mut rx, &mut pool, 11);
    assert_eq!(out[0].packet.offload().gso, Gso::Tcp { size, ecn: false });
    assert_eq!(out[0].packet.bytes().len(), 10_054);
}

#[test]
fn a_pool_that_runs_dry_loses_nothing_that_was_received() {
    let (a, b) = ([127, 47, 10, 1], [127, 47, 10, 2]);
    let (mut tx, mut rx, mut full) = (open(a), open(b), pool());
    let mut frames = vec![];
    for n in 0..5 {
        let frame = FrameBuilder::udp(true, n, 2).payload(b"x").build();
        frames.push(tunnelled(&mut full, &frame, b));
    }
    assert_eq!(tx.tx(&mut full, &mut frames, &mut vec![]), 5);
    let mut small = PacketPool::new(4, 2);
    let (mut out, mut refused, mut seen) = (vec![], vec![], 0);
    let deadline = Instant::now() + Duration::from_secs(10);
    let mut starved = false;
    while seen < 5 {
        assert!(Instant::now() < deadline);
        starved |= rx.rx(&mut small, &|_| true, &mut out, &mut refused) == Rx::Starved;
        seen += out.len();
        for t in out.drain(..) {
            small.give(t.packet);
        }
    }
    assert!(starved && refused.is_empty());
}
