//! Who is asked whether it serves, how, and what do answers come to?

use std::time::Duration;

use hostconfig::{
    FunctionKind, LoadBalancer, Location,
    chain::{HealthProbe, Monitor, Side},
};
use net::{
    Consumed, DropReason, Headers, Originated, TcpSegment,
    flow_key::{FlowKey, proto},
    testkit::{FrameBuilder, mac, tcp},
};

use super::{super::probes::Verdict, harness::*};

const CHAIN: u128 = 300;
const VIP: u16 = 100;
const MONITOR: u128 = 900;

fn http() -> HealthProbe {
    HealthProbe::Http {
        request: "GET /health HTTP/1.0\r\n\r\n".to_owned(),
        codes: vec![(200, 200), (202, 204)],
    }
}

/// A load balancer whose members are asked every second, answer within half a second, and are out after two failures, back after two answers.
fn conf(v6: bool, members: &[u16], probe: Option<HealthProbe>) -> Conf {
    let mut conf = Conf::new();
    // Nobody may call the members, nor may they call anyone.
    conf.group(GROUP, true, vec![]);
    conf.port(1, &[]).port(2, &[GROUP]).port(3, &[GROUP]).far(9);
    conf.endpoint(VIP, Location::Virtual);
    let members: Vec<_> = members.iter().map(|n| (*n, 8080)).collect();
    let balancer = FunctionKind::LoadBalancer(LoadBalancer {
        monitor: probe.map(|probe| Monitor {
            id: id(MONITOR),
            probe,
            delay_ms: 1000,
            timeout_ms: 500,
            rise: 2,
            fall: 2,
            elsewhere: Vec::new(),
        }),
        ..balanced((VIP, v6), &members)
    });
    let vip = Some(Side::Port(id(u128::from(VIP))));
    conf.chain_of(CHAIN, None, vip, 80, vec![balancer]);
    conf
}

/// Until the next question; what it is, and to which port.
fn question(h: &mut Host) -> (u16, Vec<u8>) {
    for _ in 0..200 {
        let (sent, _) = h.tick();
        if let Some((At::Port(n), frame)) = sent.into_iter().next() {
            return (n, frame);
        }
        h.pass(Duration::from_millis(50));
    }
    panic!("nobody is asked");
}

fn key(frame: &[u8]) -> FlowKey {
    Headers::parse(frame).unwrap().1
}

fn segment(frame: &[u8]) -> TcpSegment {
    let (headers, _) = Headers::parse(frame).unwrap();
    TcpSegment::read(frame, &headers).unwrap()
}

/// An answer to a segment, by the n-th port.
fn answer(v6: bool, n: u16, to: &[u8], flags: u8, seq: u32) -> FrameBuilder {
    let asked = segment(to);
    let acknowledged = asked.end();
    FrameBuilder::tcp(v6, 8080, key(to).l4_src)
        .macs(mac(n), mac(VIP))
        .addrs(ip(n, v6), ip(VIP, v6))
        .flags(flags)
        .seq(seq, acknowledged)
}

fn verdicts(h: &Host) -> Vec<(u16, bool)> {
    let known = h.dp.probes().verdicts().into_iter();
    known
        .map(
            |Verdict {
                 monitor,
                 member,
                 serves,
             }| {
                assert_eq!(monitor, id(MONITOR));
                (u16::try_from(member.uuid().as_u128()).unwrap(), serves)
            },
        )
        .collect()
}

#[test]
fn a_member_is_asked_in_the_virtual_address_name_whatever_its_groups_say() {
    for v6 in [false, true] {
        let mut h = Host::new(&conf(v6, &[2], Some(HealthProbe::Tcp)));
        let (n, syn) = question(&mut h);
        assert_eq!((n, verdicts(&h)), (2, vec![]));
        let asked = key(&syn);
        assert_eq!((asked.src_mac(), asked.dst_mac()), (mac(VIP), mac(2)));
        assert_eq!(
            (asked.src_addr(), asked.dst_addr()),
            (ip(VIP, v6), ip(2, v6))
        );
        assert!((256..512).contains(&asked.l4_src) && asked.l4_dst == 8080);
        assert_eq!(segment(&syn).flags, u16::from(tcp::SYN));
        // An answer to another question says nothing; nor does one in another's name.
        let late = answer(v6, 2, &syn, tcp::SYN | tcp::ACK, 7).seq(7, 1);
        assert_eq!(h.from(2, &late), []);
        let forged = answer(v6, 3, &syn, tcp::SYN | tcp::ACK, 7);
        h.from(3, &forged.addrs(ip(2, v6), ip(VIP, v6)));
        assert_eq!(h.dropped(DropReason::PortSecurityIp), 1);
        assert_eq!(verdicts(&h), []);
        let sent = h.from(2, &answer(v6, 2, &syn, tcp::SYN | tcp::ACK, 7));
        assert_eq!(verdicts(&h), [(2, true)]);
        let reset = segment(&sent[0].1);
        assert_eq!(reset.flags, u16::from(tcp::RST | tcp::ACK));
        assert_eq!((reset.seq, reset.ack), (segment(&syn).end(), 8));
        assert_eq!(h.dp.ledger().originated[Originated::Probe.index()], 2);
        assert_eq!(h.dp.ledger().consumed[Consumed::Probe.index()], 2);
        assert!(h.dp.conntrack().is_empty(), "nothing is tracked");
    }
}

#[test]
fn failures_in_a_row_take_a_member_out_and_answers_in_a_row_bring_it_back() {
    let mut h = Host::new(&conf(false, &[2], Some(HealthProbe::Tcp)));
    let mut at = None;
    for (answers, then) in [
        (Some(tcp::SYN), true),
        (Some(tcp::RST), true),
        (Some(tcp::SYN), true),
        (None, true),
        (Some(tcp::RST), false),
        (Some(tcp::SYN), false),
        (None, false),
        (Some(tcp::SYN), false),
        (Some(tcp::SYN), true),
    ] {
        let (_, syn) = question(&mut h);
        if let Some(before) = at {
            let apart = h.now.since(before);
            assert!(apart >= Duration::from_millis(950), "{apart:?}");
        }
        at = Some(h.now);
        if let Some(flags) = answers {
            h.from(2, &answer(false, 2, &syn, flags | tcp::ACK, 7));
        } else {
            h.pass(Duration::from_millis(500));
            h.tick();
        }
        assert_eq!(verdicts(&h), [(2, then)]);
    }
}

#[test]
fn a_request_is_answered_by_a_code_in_one_piece_or_several() {
    for (v6, pieces, serves) in [
        (false, &["HTTP/1.0 200 OK\r\n"][..], true),
        (true, &["HTTP/1.1 203 so\r\n"], true),
        (false, &["HTT", "P/1.1 20", "4 \r\n"], true),
        (true, &["HTTP/1.1 201 no\r\n"], false),
        (false, &["HTTP/1.1 503 \r\n"], false),
        (false, &["SSH-2.0-x\r\nand so on"], false),
    ] {
        let mut h = Host::new(&conf(v6, &[2], Some(http())));
        for _ in 0..if serves { 1 } else { 2 } {
            let (_, syn) = question(&mut h);
            let sent = h.from(2, &answer(v6, 2, &syn, tcp::SYN | tcp::ACK, 99));
            let request = &sent[0].1;
            assert!(request.ends_with(b"GET /health HTTP/1.0\r\n\r\n"));
            assert_eq!(segment(request).ack, 100);
            let mut seq = 100;
            let mut last = vec![];
            for piece in pieces {
                let part = answer(v6, 2, request, tcp::ACK, seq).payload(piece.as_bytes());
                last = h.from(2, &part);
                seq += u32::try_from(piece.len()).unwrap();
            }
            let reset = segment(&last[0].1);
            assert_eq!(reset.flags, u16::from(tcp::RST | tcp::ACK));
            assert_eq!((reset.seq, reset.ack), (segment(request).end(), seq));
        }
        assert_eq!(verdicts(&h), [(2, serves)], "{pieces:?}");
    }
}

#[test]
fn silence_serves_a_datagram_and_a_refusal_does_not() {
    for v6 in [false, true] {
        let mut h = Host::new(&conf(v6, &[2], Some(HealthProbe::Udp)));
        let (_, datagram) = question(&mut h);
        assert_eq!(key(&datagram).ip_proto, proto::UDP);
        h.pass(Duration::from_millis(500));
        h.tick();
        assert_eq!(verdicts(&h), [(2, true)]);
        for _ in 0..2 {
            let (_, datagram) = question(&mut h);
            let refusal = FrameBuilder::icmp_error(&datagram);
            assert_eq!(h.enter(h.origin(2), &[refusal]), []);
        }
        assert_eq!(verdicts(&h), [(2, false)]);
    }
}

#[test]
fn pings_are_answered_with_their_own_number() {
    for v6 in [false, true] {
        let mut h = Host::new(&conf(v6, &[2], Some(HealthProbe::Ping)));
        let (_, ping) = question(&mut h);
        let number = key(&ping).icmp_id;
        let pong = |number| {
            let pong = FrameBuilder::echo_reply(v6, number).macs(mac(2), mac(VIP));
            pong.addrs(ip(2, v6), ip(VIP, v6))
        };
        h.from(2, &pong(number + 1));
        assert_eq!(verdicts(&h), []);
        h.from(2, &pong(number));
        assert_eq!(verdicts(&h), [(2, true)]);
    }
}

#[test]
fn each_is_asked_that_is_behind_a_port_here_and_nobody_else_is() {
    let asked = conf(false, &[2, 3, 9], Some(HealthProbe::Tcp));
    let mut h = Host::new(&asked);
    h.pass(Duration::from_millis(300));
    h.tick();
    h.pass(Duration::from_millis(300));
    for (at, syn) in h.tick().0 {
        let At::Port(n) = at else {
            panic!("{at:?} is asked");
        };
        h.from(n, &answer(false, n, &syn, tcp::SYN | tcp::ACK, 7));
    }
    assert_eq!(verdicts(&h), [(2, true), (3, true)]);
    // Another config, the same members: what is known stays, and is asked on.
    h.apply(&conf(false, &[2], Some(http())));
    let (_, syn) = question(&mut h);
    assert_eq!(verdicts(&h), [(2, true)]);
    let late = answer(false, 2, &syn, tcp::SYN | tcp::ACK, 7);
    assert_eq!(h.from(2, &late).len(), 1);
    // No monitor: nobody is asked, and what comes late finds nobody.
    h.apply(&conf(false, &[2], None));
    let consumed = h.dp.ledger().consumed[Consumed::Probe.index()];
    assert_eq!(h.from(2, &late), []);
    assert_eq!(h.dp.ledger().consumed[Consumed::Probe.index()], consumed);
    h.pass(Duration::from_secs(5));
    assert_eq!((h.tick().0, verdicts(&h)), (vec![], vec![]));
}
