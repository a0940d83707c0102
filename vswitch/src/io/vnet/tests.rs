use net::testkit::FrameBuilder;

use super::*;

#[test]
fn a_header_is_read_back_as_it_was_written() {
    let partial = Checksum::Partial {
        start: 34,
        offset: 16,
    };
    let tcp = |ecn| Gso::Tcp { size: 1398, ecn };
    for (checksum, gso) in [
        (Checksum::Unverified, Gso::None),
        (Checksum::Verified, Gso::None),
        (partial, Gso::None),
        (partial, tcp(false)),
        (partial, tcp(true)),
        (partial, Gso::Udp { size: 1200 }),
    ] {
        for v6 in [false, true] {
            let offload = Offload { checksum, gso };
            assert_eq!(decode(encode(&offload, v6, 54)), Ok(offload));
        }
    }
}

#[test]
fn an_unknown_segmentation_is_refused() {
    for kind in [2, 3, 6, 0x7f, GSO_ECN, GSO_UDP | GSO_ECN] {
        let header = [1, kind, 0, 0, 1, 0, 34, 0, 16, 0];
        assert_eq!(decode(header), Err(DropReason::MalformedOffload), "{kind}");
    }
}

#[test]
fn a_header_that_contradicts_its_frame_is_refused() {
    let mut pool = PacketPool::new(1, 0);
    let mut packet = pool.take_small().unwrap();
    let frame = FrameBuilder::tcp(false, 1, 2).payload(&[0; 100]).build();
    packet.fill(&frame).unwrap();
    assert!(admit(&mut packet, [1, 1, 0, 0, 50, 0, 34, 0, 16, 0]).is_ok());
    assert!(admit(&mut packet, [1, 1, 0, 0, 50, 0, 35, 0, 16, 0]).is_err());
    assert!(admit(&mut packet, [0, 1, 0, 0, 50, 0, 34, 0, 16, 0]).is_err());
    assert!(admit(&mut packet, [1, 5, 0, 0, 50, 0, 34, 0, 16, 0]).is_err());
    packet.fill(b"short").unwrap();
    assert!(admit(&mut packet, [1, 0, 0, 0, 0, 0, 34, 0, 16, 0]).is_err());
    assert!(admit(&mut packet, [0; 10]).is_ok(), "ingress names it");
}
