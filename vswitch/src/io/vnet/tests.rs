use std::cell::RefCell;

use net::{
    Label,
    checksum::fold,
    testkit::{FrameBuilder, checksums_hold},
};

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

/// Keeps what is written to it.
#[derive(Default)]
struct Sink(RefCell<Vec<([u8; VNET], Vec<u8>)>>);

impl Device for Sink {
    fn uso(&self) -> bool {
        true
    }
    fn read(&self, _: &mut [IoSliceMut<'_>]) -> Result<Got, Errno> {
        Err(Errno::AGAIN)
    }
    fn write(&self, header: [u8; VNET], parts: [&[u8]; 2]) -> Result<(), Errno> {
        self.0.borrow_mut().push((header, parts.concat()));
        Ok(())
    }
}

/// What bears a label is written in segments whose checksums are made; without one the device does that.
#[test]
fn no_device_cuts_under_a_label_nor_makes_a_checksum_there() {
    let mut pool = PacketPool::new(1, 2);
    for v6 in [false, true] {
        for gso in [true, false] {
            let frame = FrameBuilder::tcp(v6, 1, 2).payload(&[7; 2500]).build();
            let mut packet = pool.take(frame.len()).unwrap();
            packet.fill(&frame).unwrap();
            packet.parse().unwrap();
            let headers = *packet.headers();
            let length = u64::from(headers.end - u32::from(headers.l4_at));
            let sum = fold(offload::pseudo(&frame, &headers) + length);
            let at = usize::from(headers.l4_at) + 16;
            offload::put(packet.bytes_mut(), at, &sum.to_be_bytes());
            let tcp = Gso::Tcp {
                size: 1000,
                ecn: false,
            };
            packet.set_offload(Offload {
                checksum: Checksum::Partial {
                    start: headers.l4_at,
                    offset: 16,
                },
                gso: if gso { tcp } else { Gso::None },
            });
            let mut scratch = Vec::new();
            let bare = Sink::default();
            let (sent, done) = send(&bare, &mut scratch, &mut packet);
            assert_eq!((sent, done), (if gso { 3 } else { 1 }, Ok(())));
            assert_eq!(bare.0.take().len(), 1, "as it is");
            assert!(packet.push_label(Label::of_hop(1, 0).unwrap()));
            let labelled = Sink::default();
            let (sent, done) = send(&labelled, &mut scratch, &mut packet);
            let written = labelled.0.take();
            assert_eq!((usize::try_from(sent), done), (Ok(written.len()), Ok(())));
            assert_eq!(written.len(), if gso { 3 } else { 1 });
            for (header, bytes) in written {
                assert_eq!(header, [0; VNET]);
                let mut one = pool.take(bytes.len()).unwrap();
                one.fill(&bytes).unwrap();
                one.parse().unwrap();
                assert_eq!(one.pop_label(), Label::of_hop(1, 0));
                one.parse().unwrap();
                assert!(checksums_hold(one.bytes()));
                pool.give(one);
            }
            pool.give(packet);
        }
    }
}
