//! Is the sender of a packet that was too large told so, once, and nobody else?

use std::time::Duration;

use net::{
    Batch, DropReason, Gso, Headers, Offload, Originated,
    testkit::{FrameBuilder, mac},
};

use super::harness::*;

const MTU: usize = 1450;

fn open() -> Conf {
    let mut conf = Conf::new();
    for n in [1, 2] {
        conf.port_with(n, &[], |p| p.port_security = false);
    }
    conf.far(9);
    conf
}

fn large(v6: bool, from: u16, to: u16, bytes: usize) -> FrameBuilder {
    let headers = if v6 { 48 } else { 28 };
    let udp = FrameBuilder::udp(v6, 4000, 53).payload(&vec![7; bytes - headers]);
    between(udp, v6, from, to)
}

/// The MTU that an error tells, and of which packet.
fn told(frame: &[u8]) -> (u8, u8, u32, String) {
    let (headers, _) = Headers::parse(frame).unwrap();
    let icmp = &frame[usize::from(headers.l4_at)..];
    let mtu = u32::from_be_bytes(*icmp[4..].first_chunk().unwrap());
    let quoted = headers.quoted(frame).unwrap();
    (icmp[0], icmp[1], mtu, quoted.tuple.to_string())
}

fn made(h: &Host) -> u64 {
    h.dp.ledger().originated[Originated::Icmp.index()]
}

#[test]
fn a_sender_is_told_the_mtu_in_the_name_of_the_gateway_or_the_destination() {
    for (v6, from, (kind, code), most) in [
        (false, "10.0.0.254", (3, 4), 576),
        (true, "fd00::9", (2, 0), 1280),
    ] {
        let mut h = Host::new(&open());
        assert_eq!(h.from(1, &large(v6, 1, 9, MTU)).len(), 1, "it fits");
        let sent = large(v6, 1, 9, MTU + 1);
        let got = h.from(1, &sent);
        let [(At::Port(1), error)] = got.as_slice() else {
            panic!("one error comes back: {got:?}");
        };
        let (headers, key) = Headers::parse(error).unwrap();
        assert_eq!(key.src_addr().to_string(), from);
        assert_eq!(key.dst_addr(), ip(1, v6));
        assert_eq!((key.src_mac(), key.dst_mac()), (mac(9), mac(1)));
        let tuple = format!(
            "udp {}",
            if v6 {
                "[fd00::1]:4000 > [fd00::9]:53"
            } else {
                "10.0.0.1:4000 > 10.0.0.9:53"
            }
        );
        assert_eq!(told(error), (kind, code, 1450, tuple));
        assert_eq!(error.len(), 14 + most, "as much is quoted as may be");
        let quote = &error[usize::from(headers.l4_at) + 8..];
        assert_eq!(quote, &sent.build()[14..14 + quote.len()]);
        assert_eq!((h.dropped(DropReason::MtuExceeded), made(&h)), (1, 1));
    }
}

#[test]
fn what_must_not_be_told_about_is_only_dropped() {
    for v6 in [false, true] {
        let mut conf = open();
        conf.port(3, &[]);
        let mut h = Host::new(&conf);
        let error = FrameBuilder::icmp_error(&large(v6, 9, 1, MTU).build());
        let group = "01:00:5e:01:01:01".parse().unwrap();
        let first = large(v6, 1, 9, MTU + 1).fragment(7, 0, true);
        // It has no UDP header.
        let later = large(v6, 1, 9, MTU + 9).fragment(7, 200, false);
        let nobody = if v6 { "::" } else { "0.0.0.0" };
        let quiet = [
            error,
            large(v6, 1, 9, MTU + 1).macs(mac(1), group).build(),
            large(v6, 1, 9, MTU + 1)
                .macs(mac(1), net::Mac::BROADCAST)
                .build(),
            large(v6, 1, 9, MTU + 1)
                .addrs(nobody.parse().unwrap(), ip(9, v6))
                .build(),
        ];
        for (n, frame) in quiet.into_iter().enumerate() {
            let before = h.dropped(DropReason::MtuExceeded);
            assert_eq!(h.enter(h.origin(1), &[frame]), [], "frame {n}, v6 {v6}");
            assert_eq!(
                h.dropped(DropReason::MtuExceeded),
                before + 1,
                "frame {n}, v6 {v6}"
            );
        }
        assert_eq!(
            h.from(1, &first).len(),
            1,
            "a first fragment tells what a whole one would"
        );
        assert_eq!(h.from(1, &later), []);
        assert_eq!(made(&h), 1);
        // Refused by port security: not even measured.
        let before = h.dropped(DropReason::MtuExceeded);
        assert_eq!(
            h.from(3, &large(v6, 1, 9, MTU + 1).macs(mac(3), mac(9))),
            []
        );
        assert_eq!(h.dropped(DropReason::PortSecurityIp), 1);
        // What comes from the tunnel was its own switch's to tell about.
        assert_eq!(h.enter(h.tunnel(), &[large(v6, 9, 1, MTU + 1).build()]), []);
        assert_eq!(h.dropped(DropReason::MtuExceeded), before + 1);
        assert_eq!(made(&h), 1);
    }
}

#[test]
fn a_port_is_told_ten_times_a_second_and_others_besides() {
    let mut h = Host::new(&open());
    let told = |h: &mut Host, from, times: usize| -> usize {
        (0..times)
            .map(|_| h.from(from, &large(false, from, 9, 2000)).len())
            .sum()
    };
    assert_eq!(told(&mut h, 1, 25), 10);
    assert_eq!(told(&mut h, 2, 3), 3);
    h.pass(Duration::from_secs(1));
    assert_eq!(told(&mut h, 1, 25), 10);
    assert_eq!(h.dropped(DropReason::MtuExceeded), 53);
    assert_eq!(made(&h), 23);
    let frame = large(false, 1, 9, 2000).build();
    let (_, key) = Headers::parse(&frame).unwrap();
    let home = key.five_tuple().unwrap().symmetric_hash(0) % 4;
    let settings = super::super::Settings {
        worker: super::super::WorkerId(home.try_into().unwrap()),
        workers: 4,
        ..super::super::Settings::default()
    };
    let mut of_four = Host::with(&open(), settings);
    of_four.enter(of_four.origin(1), &vec![frame; 64]);
    assert_eq!(made(&of_four), 2, "each of four workers has its share");
}

#[test]
fn a_super_frame_is_measured_and_quoted_by_a_segment() {
    for v6 in [false, true] {
        let headers = if v6 { 60 } else { 40 };
        let mut h = Host::new(&open());
        let bytes = ack(v6, (1, 7), (9, 80)).payload(&[0; 4000]).build();
        for size in [MTU - headers, MTU - headers + 1] {
            let mut p = h.pool.take_large().unwrap();
            p.fill(&bytes).unwrap();
            p.set_origin(h.origin(1));
            let size = u16::try_from(size).unwrap();
            p.set_offload(Offload {
                gso: Gso::Tcp { size, ecn: false },
                checksum: net::Checksum::Partial {
                    start: if v6 { 54 } else { 34 },
                    offset: 16,
                },
            });
            let (mut batch, mut out) = (Batch::new(), super::super::Out::new());
            batch.push(p).unwrap();
            let tables = std::sync::Arc::clone(&h.tables);
            h.dp.run(&tables, &mut batch, h.now, &mut h.pool, &mut out);
            h.dp.ledger().balanced().unwrap();
            let mut told = Batch::new();
            let port = out.next_port(&mut told);
            if usize::from(size) == MTU - headers {
                assert_eq!((out.tunnelled.len(), port), (1, None));
                continue;
            }
            assert_eq!((out.tunnelled.len(), port), (0, Some(h.dense(1))));
            let error = told.drain().next().unwrap();
            let at = usize::from(error.headers().l4_at) + 8;
            let field = if v6 { at + 4 } else { at + 2 };
            let length = u16::from_be_bytes(*error.bytes()[field..].first_chunk().unwrap());
            let fixed = if v6 { 40 } else { 0 };
            assert_eq!(usize::from(length) + fixed, MTU + 1, "one segment's length");
        }
    }
}
