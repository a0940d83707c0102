use net::testkit::{FrameBuilder, checksums_hold};
use net::{Checksum, Gso, PortId, Vni, flow_key::Origin};

use super::*;

fn vtep(n: u8) -> IpAddr {
    [192, 0, 2, n].into()
}

fn tunnelled(pool: &mut PacketPool, bytes: &[u8], to: u8) -> Tunnelled {
    let packet = net::testkit::packet(pool, bytes, Origin::Port(PortId(0)));
    Tunnelled {
        packet,
        vni: Vni::try_from(7).unwrap(),
        vtep: vtep(to),
        nsh: None,
    }
}

/// Sends `count` datagrams from host 1 to host 2 and returns what arrives by the end of a second.
fn run(weather: Weather, seed: u64, count: u16) -> (Vec<u16>, FabricCounts) {
    let fabric = Fabric::new(weather, seed);
    let (mut a, mut b) = (fabric.attach(vtep(1)), fabric.attach(vtep(2)));
    let mut pool = PacketPool::new(4000, 10);
    let (mut refused, mut got, mut unsent) = (vec![], vec![], vec![]);
    for n in 0..count {
        let frame = FrameBuilder::udp(true, n, 80).payload(b"x").build();
        let mut frames = vec![tunnelled(&mut pool, &frame, 2)];
        assert_eq!(a.tx(&mut pool, &mut frames, &mut unsent), 1);
    }
    assert!(unsent.is_empty());
    fabric.advance(Now::from_nanos(1_000_000_000));
    assert_eq!(fabric.next(), None);
    while b.rx(&mut pool, &|_| true, &mut got, &mut refused) == Rx::More {}
    assert!(refused.is_empty());
    // Twins that arrive side by side are one frame of two segments.
    let ports = got
        .iter()
        .flat_map(|t| vec![t.packet.key().l4_src; t.packet.segments() as usize])
        .collect();
    (ports, fabric.counts())
}

#[test]
fn fair_weather_delivers_all_in_order() {
    let (ports, counts) = run(Weather::default(), 1, 200);
    assert_eq!(ports, (0..200).collect::<Vec<_>>());
    assert_eq!((counts.sent, counts.delivered, counts.lost), (200, 200, 0));
}

#[test]
fn foul_weather_is_the_same_for_the_same_seed_and_accounts_for_all() {
    let weather = Weather {
        delay: Duration::from_millis(1),
        jitter: Duration::from_millis(5),
        reorder: 300_000,
        loss: 100_000,
        duplicate: 100_000,
        ..Weather::default()
    };
    let (ports, counts) = run(weather, 3, 500);
    assert_eq!(run(weather, 3, 500), (ports.clone(), counts));
    assert_ne!(run(weather, 4, 500).0, ports);
    assert!(!ports.is_sorted(), "some overtake others");
    assert!(counts.lost > 20 && counts.duplicated > 20);
    let arrived = counts.sent + counts.duplicated - counts.lost;
    assert_eq!(counts.delivered, arrived);
    assert_eq!(ports.len() as u64, arrived);
}

#[test]
fn a_super_frame_crosses_as_datagrams_and_arrives_as_one() {
    let fabric = Fabric::new(Weather::default(), 1);
    let (mut a, mut b) = (fabric.attach(vtep(1)), fabric.attach(vtep(2)));
    let mut pool = PacketPool::new(100, 10);
    let frame = FrameBuilder::tcp(false, 9, 80)
        .payload(&vec![7; 20_000])
        .build();
    let mut frames = vec![tunnelled(&mut pool, &frame, 2)];
    let headers = *frames[0].packet.headers();
    // As a workload's kernel hands it over.
    let bytes = frames[0].packet.bytes_mut();
    let len = (bytes.len() - usize::from(headers.l4_at)) as u64;
    let sum = net::checksum::fold(offload::pseudo(bytes, &headers) + len);
    offload::put(bytes, usize::from(headers.l4_at) + 16, &sum.to_be_bytes());
    frames[0].packet.set_offload(Offload {
        checksum: Checksum::Partial {
            start: headers.l4_at,
            offset: 16,
        },
        gso: Gso::Tcp {
            size: 1400,
            ecn: false,
        },
    });
    let (mut refused, mut got) = (vec![], vec![]);
    assert_eq!(a.tx(&mut pool, &mut frames, &mut vec![]), 15);
    assert_eq!(fabric.counts().sent, 15);
    b.rx(&mut pool, &|_| true, &mut got, &mut refused);
    assert_eq!(got.len(), 1);
    assert_eq!(got[0].packet.segments(), 15);
    assert_eq!(got[0].vtep, vtep(1));
    let mut whole = got[0].packet.bytes().to_vec();
    let (h, mut offload) = (*got[0].packet.headers(), got[0].packet.offload());
    offload::finish(&mut whole, &h, &mut offload);
    assert!(checksums_hold(&whole));
    assert_eq!(whole[usize::from(h.payload_at)..], vec![7; 20_000]);
}

#[test]
fn what_is_malformed_or_from_a_stranger_is_named() {
    let fabric = Fabric::new(Weather::default(), 1);
    let mut b = fabric.attach(vtep(2));
    fabric.inject(vtep(9), vtep(2), vec![8, 0, 0, 0, 0, 0, 7, 0]);
    fabric.inject(vtep(1), vtep(2), vec![0; 60]);
    fabric.inject(vtep(1), vtep(3), vec![0; 60]);
    let mut pool = PacketPool::new(10, 0);
    let (mut refused, mut got) = (vec![], vec![]);
    b.rx(&mut pool, &|ip| ip == vtep(1), &mut got, &mut refused);
    let reasons: Vec<_> = refused.iter().map(|(_, r)| *r).collect();
    assert_eq!(
        reasons,
        [DropReason::UnknownVtep, DropReason::MalformedVxlan]
    );
    assert_eq!(fabric.counts().undelivered, 1);
}

#[test]
fn a_frame_too_large_for_the_wire_is_cut_or_named() {
    let fabric = Fabric::new(
        Weather {
            payload_max: 1000,
            ..Weather::default()
        },
        1,
    );
    let mut a = fabric.attach(vtep(1));
    let mut pool = PacketPool::new(10, 0);
    let tcp = FrameBuilder::tcp(true, 9, 80).payload(&[1; 1400]).build();
    let udp = FrameBuilder::udp(true, 9, 80).payload(&[1; 1400]).build();
    let mut frames = vec![tunnelled(&mut pool, &tcp, 2), tunnelled(&mut pool, &udp, 2)];
    let mut refused = vec![];
    assert_eq!(a.tx(&mut pool, &mut frames, &mut refused), 1);
    assert_eq!(fabric.counts().sent, 2);
    assert_eq!(refused[0].reason, DropReason::MtuExceeded);
    assert_eq!(refused[0].room.unwrap().get(), 1000 - 8 - 14);
}

#[test]
fn a_full_port_refuses_and_an_unplugged_one_is_gone() {
    let (mut port, workload) = MemoryPort::new(1);
    let mut pool = PacketPool::new(10, 0);
    let (mut batch, mut refused) = (Batch::new(), vec![]);
    for n in 0..2 {
        let mut packet = pool.take_small().unwrap();
        packet.fill(&[n; 60]).unwrap();
        batch.push(packet).unwrap();
    }
    assert_eq!(port.tx(&mut pool, &mut batch, &mut refused), 1);
    assert_eq!(refused.pop().unwrap().1, DropReason::PortQueueFull);
    assert_eq!(workload.receive().unwrap().bytes, [0; 60]);
    let frame = Frame {
        bytes: vec![1; 60],
        offload: Offload {
            gso: Gso::Udp { size: 5 },
            ..Offload::default()
        },
    };
    workload.send(frame.clone()).unwrap();
    assert_eq!(workload.send(frame.clone()), Err(frame));
    assert_eq!(port.rx(&mut pool, &mut batch, &mut refused), Rx::Drained);
    assert_eq!(refused.pop().unwrap().1, DropReason::MalformedOffload);
    workload.unplug();
    assert_eq!(port.rx(&mut pool, &mut batch, &mut refused), Rx::Gone);
}
