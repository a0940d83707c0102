//! Is what an inspector says what becomes of packets?

use hostconfig::{
    FunctionKind, Plain, Section, SectionKey,
    group::{Direction, Family, L4Match},
};
use net::{
    DropReason, Headers, Originated, TcpSegment,
    testkit::{FrameBuilder, tcp},
};
use serde_json::{Value, json};

use super::harness::*;

const CHAIN: u128 = 8000;
const VIP: u16 = 50;

fn plain(name: &str, settings: Value) -> FunctionKind {
    FunctionKind::Plain(Plain {
        name: name.into(),
        settings,
        places: std::collections::BTreeMap::new(),
    })
}

fn inspector(settings: Value) -> FunctionKind {
    plain("inspector", settings)
}

/// Looks for a word in the first sixteen bytes of what clients say.
fn evil(then: &str) -> Value {
    json!({"patterns": [{"text": "evil", "of": "forward", "then": then}], "depth": 16})
}

fn open(mut settings: Value) -> Value {
    settings["undecided"] = json!("open");
    settings
}

/// Workloads 1 and 2 here, and a chain of these functions to port 80 of any protocol.
fn conf(functions: Vec<FunctionKind>) -> Conf {
    let mut c = Conf::new();
    let rules = [Family::V4, Family::V6].into_iter().flat_map(|family| {
        let way = |direction| rule(direction, family, None, L4Match::Any);
        [Direction::Egress, Direction::Ingress].map(way)
    });
    c.group(GROUP, true, rules.collect());
    c.port(1, &[GROUP]).port(2, &[GROUP]);
    c.endpoint(VIP, hostconfig::Location::Virtual);
    passing(&mut c, functions);
    c
}

fn passing(c: &mut Conf, functions: Vec<FunctionKind>) {
    c.chain(CHAIN, 80, functions);
    let key = SectionKey::Chain(id(CHAIN));
    let Section::Chain(mut chain) = c.0.sections[&key].body().clone() else {
        unreachable!("it is a chain's key")
    };
    chain.classifiers[0].protocol = None;
    chain.classifiers[0].destination_ports = None;
    c.put(Section::Chain(chain));
}

/// A connection from port 4000 of workload 1 to port 80 of workload 2, whose streams begin at 101 and 501.
#[derive(Clone, Copy)]
struct Talk {
    v6: bool,
    to: u16,
}

impl Talk {
    fn new(v6: bool) -> Self {
        Self { v6, to: 2 }
    }

    /// So many bytes into its stream, having heard so many.
    fn asks(self, at: u32, heard: u32, bytes: &[u8]) -> FrameBuilder {
        let frame = between(FrameBuilder::tcp(self.v6, 4000, 80), self.v6, 1, self.to);
        frame
            .flags(tcp::ACK)
            .seq(101 + at, 501 + heard)
            .payload(bytes)
    }

    fn answers(self, at: u32, heard: u32, bytes: &[u8]) -> FrameBuilder {
        let frame = between(FrameBuilder::tcp(self.v6, 80, 4000), self.v6, 2, 1);
        frame
            .flags(tcp::ACK)
            .seq(501 + at, 101 + heard)
            .payload(bytes)
    }

    fn shakes_hands(self, h: &mut Host) {
        assert_eq!(
            h.places(1, &syn(self.v6, (1, 4000), (self.to, 80))),
            [At::Port(2)]
        );
        assert_eq!(
            h.places(2, &syn_ack(self.v6, (2, 80), (1, 4000))),
            [At::Port(1)]
        );
        assert_eq!(h.places(1, &self.asks(0, 0, b"")), [At::Port(2)]);
    }

    /// Sixteen bytes without the word, acknowledged.
    fn is_cleared(self, h: &mut Host) {
        assert_eq!(
            h.places(1, &self.asks(0, 0, b"sixteen bytes ok")),
            [At::Port(2)]
        );
        assert_eq!(h.places(2, &self.answers(0, 16, b"")), [At::Port(1)]);
    }
}

/// How many frames went on.
fn passes(h: &mut Host, from: u16, frame: &FrameBuilder) -> bool {
    let got = h.places(from, frame);
    h.dp.ledger().balanced().unwrap();
    got == [At::Port(3 - from)]
}

#[test]
fn a_pattern_over_two_segments_ends_the_connection_and_its_ends_may_begin_anew() {
    for v6 in [false, true] {
        let mut h = Host::new(&conf(vec![inspector(evil("drop"))]));
        let talk = Talk::new(v6);
        talk.shakes_hands(&mut h);
        assert!(passes(&mut h, 1, &talk.asks(0, 0, b"so ev")));
        assert!(passes(
            &mut h,
            2,
            &talk.answers(0, 0, b"evil is what servers may say")
        ));
        assert!(!passes(&mut h, 1, &talk.asks(5, 0, b"il!")));
        assert_eq!(h.dropped(DropReason::InspectorPattern), 1);
        // Neither what comes again, nor anything else of either end.
        assert!(!passes(&mut h, 1, &talk.asks(5, 0, b"il!")));
        assert!(!passes(&mut h, 1, &talk.asks(5, 0, b"good")));
        assert!(!passes(&mut h, 2, &talk.answers(28, 5, b"more")));
        assert_eq!(h.dropped(DropReason::InspectorCondemned), 3);
        let hop = h.dp.counters().hops[0];
        assert_eq!(
            (hop.connections, hop.packets, hop.reply_packets, hop.drops),
            (1, 9, 3, 4)
        );
        assert_eq!(h.dp.ledger().originated[Originated::TcpReset.index()], 0);
        talk.shakes_hands(&mut h);
        talk.is_cleared(&mut h);
    }
}

#[test]
fn what_is_cleared_is_not_read_any_more_also_by_another_process_or_in_another_chain() {
    for v6 in [false, true] {
        let (first, second) = (inspector(evil("drop")), inspector(open(evil("reset"))));
        let mut h = Host::new(&conf(vec![first.clone(), second.clone()]));
        let talk = Talk::new(v6);
        talk.shakes_hands(&mut h);
        talk.is_cleared(&mut h);
        let more = talk.asks(16, 0, b"evil");
        assert!(passes(&mut h, 1, &more));
        h.restart();
        assert!(passes(&mut h, 1, &more));
        let closed = inspector(evil("drop"));
        let alert = json!({"patterns": [{"text": "x"}], "undecided": "open"});
        for functions in [
            vec![second.clone(), closed.clone()],
            vec![closed.clone()],
            vec![inspector(alert), closed],
        ] {
            h.apply(&conf(functions));
            assert!(passes(&mut h, 1, &more));
            assert!(passes(&mut h, 2, &talk.answers(0, 20, b"yes")));
        }
    }
}

#[test]
fn nobody_saw_it_begin() {
    for v6 in [false, true] {
        for (settings, passed) in [(evil("drop"), false), (open(evil("drop")), true)] {
            // The inspector came in the middle of the connection, or another process did.
            for restart in [false, true] {
                let with = conf(vec![inspector(settings.clone())]);
                let none = conf(vec![plain("rate_limiter", json!({"rate": "9/s"}))]);
                let mut h = Host::new(if restart { &with } else { &none });
                let talk = Talk::new(v6);
                talk.shakes_hands(&mut h);
                if restart {
                    h.restart();
                } else {
                    h.apply(&with);
                }
                assert!(
                    passes(&mut h, 1, &talk.asks(0, 0, b"")),
                    "it carries nothing"
                );
                assert_eq!(passes(&mut h, 1, &talk.asks(0, 0, b"so evil")), passed);
                assert_eq!(passes(&mut h, 2, &talk.answers(0, 0, b"well")), passed);
                let dropped = if passed { 0 } else { 2 };
                assert_eq!(h.dropped(DropReason::InspectorUndecided), dropped);
            }
        }
    }
}

#[test]
fn a_condemned_connection_stays_so_in_another_process() {
    let mut h = Host::new(&conf(vec![inspector(evil("drop"))]));
    let talk = Talk::new(false);
    talk.shakes_hands(&mut h);
    assert!(!passes(&mut h, 1, &talk.asks(0, 0, b"evil")));
    h.restart();
    assert!(!passes(&mut h, 1, &talk.asks(0, 0, b"good")));
    assert_eq!(h.dropped(DropReason::InspectorCondemned), 1);
}

#[test]
fn both_ends_hear_of_a_reset_the_receiver_in_its_own_addresses() {
    for v6 in [false, true] {
        let balancer = FunctionKind::LoadBalancer(balanced((VIP, v6), &[(2, 80)]));
        let mut h = Host::new(&conf(vec![inspector(evil("reset")), balancer]));
        let talk = Talk { v6, to: VIP };
        talk.shakes_hands(&mut h);
        let got = h.from(1, &talk.asks(0, 0, b"evil"));
        let said = |at| {
            let (_, frame) = got
                .iter()
                .find(|(place, _)| *place == At::Port(at))
                .unwrap();
            assert!(net::testkit::checksums_hold(frame));
            let (headers, key) = Headers::parse(frame).unwrap();
            let segment = TcpSegment::read(frame, &headers).unwrap();
            (key.five_tuple().unwrap(), segment)
        };
        assert_eq!(got.len(), 2);
        // By each end's own numbers it is in its window (RFC 9293 §3.10.7.4).
        let (client, to_client) = said(1);
        assert_eq!((client.src_addr(), client.src_port), (ip(VIP, v6), 80));
        assert_eq!((to_client.seq, to_client.flags & 4), (501, 4));
        let (member, to_member) = said(2);
        assert_eq!(
            (member.src_addr(), member.dst_addr()),
            (ip(1, v6), ip(2, v6))
        );
        assert_eq!(
            (to_member.seq, to_member.flags & 4, to_member.payload),
            (101, 4, 0)
        );
        assert_eq!(h.dp.ledger().originated[Originated::TcpReset.index()], 2);
        h.dp.ledger().balanced().unwrap();
        assert!(h.places(1, &talk.asks(4, 0, b"more")).is_empty());
    }
}

#[test]
fn a_datagram_is_judged_by_itself_and_only_whole() {
    for v6 in [false, true] {
        let mut h = Host::new(&conf(vec![inspector(evil("drop"))]));
        let says = |bytes: &[u8]| between(FrameBuilder::udp(v6, 4000, 80), v6, 1, 2).payload(bytes);
        assert!(passes(&mut h, 1, &says(b"so")));
        assert!(!passes(&mut h, 1, &says(b"so evil")));
        assert!(passes(
            &mut h,
            1,
            &says(b"not at all, and evil beyond the depth")
        ));
        assert!(!passes(
            &mut h,
            1,
            &says(b"first part").fragment(7, 0, true)
        ));
        assert_eq!(h.dropped(DropReason::InspectorPattern), 1);
        assert_eq!(h.dropped(DropReason::InspectorFragment), 1);
        // A flow that begins with it does not pass either; what comes after it does.
        let other =
            |bytes: &[u8]| between(FrameBuilder::udp(v6, 4001, 80), v6, 1, 2).payload(bytes);
        assert!(!passes(&mut h, 1, &other(b"evil")));
        assert!(passes(&mut h, 1, &other(b"good")));
    }
}

#[test]
fn what_can_not_be_put_together_does_not_pass_and_can_come_again() {
    for v6 in [false, true] {
        let mut h = Host::new(&conf(vec![inspector(evil("drop"))]));
        let talk = Talk::new(v6);
        talk.shakes_hands(&mut h);
        assert!(!passes(&mut h, 1, &talk.asks(4, 0, b"later")));
        assert_eq!(h.dropped(DropReason::InspectorGap), 1);
        assert!(passes(&mut h, 1, &talk.asks(0, 0, b"soon")));
        assert!(!passes(&mut h, 1, &talk.asks(0, 0, b"evil")));
        assert_eq!(h.dropped(DropReason::InspectorRewritten), 1);
        assert!(passes(&mut h, 1, &talk.asks(0, 0, b"soon")));
        let urgent = talk.asks(4, 0, b"!").flags(tcp::ACK | 0x20);
        assert!(!passes(&mut h, 1, &urgent));
        assert_eq!(h.dropped(DropReason::InspectorUrgent), 1);
        assert!(passes(&mut h, 1, &talk.asks(4, 0, b"later")));
    }
}

#[test]
fn one_that_is_done_stays_so_where_the_other_refuses() {
    let both = json!({"patterns": [{"text": "evil"}], "depth": 64});
    let mut h = Host::new(&conf(vec![inspector(evil("drop")), inspector(both)]));
    let talk = Talk::new(false);
    talk.shakes_hands(&mut h);
    assert!(passes(&mut h, 1, &talk.asks(0, 0, b"sixteen bytes ok")));
    // It acknowledges what the first had to see, and has a gap for the second.
    assert!(!passes(&mut h, 2, &talk.answers(5, 16, b"later")));
    assert_eq!(h.dropped(DropReason::InspectorGap), 1);
    assert!(passes(&mut h, 2, &talk.answers(0, 16, b"soon ")));
    assert!(passes(&mut h, 2, &talk.answers(5, 16, b"later")));
    assert!(!passes(&mut h, 1, &talk.asks(16, 0, b"evil")));
}

#[test]
fn a_protocol_is_wanted_and_pings_have_none() {
    for v6 in [false, true] {
        let http = json!({"protocol": "http"});
        let mut h = Host::new(&conf(vec![inspector(http)]));
        let talk = Talk::new(v6);
        talk.shakes_hands(&mut h);
        assert!(!passes(&mut h, 1, &talk.asks(0, 0, b"\x16\x03\x01")));
        let ping = between(FrameBuilder::echo(v6, 7), v6, 1, 2);
        let datagram = between(FrameBuilder::udp(v6, 4000, 80), v6, 1, 2);
        assert!(!passes(&mut h, 1, &ping) && !passes(&mut h, 1, &datagram));
        assert_eq!(h.dropped(DropReason::InspectorProtocol), 3);
        h.apply(&conf(vec![inspector(evil("drop"))]));
        assert!(passes(&mut h, 1, &ping));
    }
}

#[test]
fn an_alert_is_counted_and_nothing_else() {
    let settings =
        json!({"patterns": [{"text": "a", "then": "alert"}, {"text": "ab", "then": "alert"}]});
    let mut h = Host::new(&conf(vec![inspector(settings)]));
    let talk = Talk::new(false);
    talk.shakes_hands(&mut h);
    assert!(passes(&mut h, 1, &talk.asks(0, 0, b"ab")));
    assert!(passes(&mut h, 1, &talk.asks(2, 0, b"ba")));
    assert_eq!(h.dp.counters().hops[0].alerts, 3);
}

#[test]
fn what_finds_no_room_does_not_begin_and_room_comes_back() {
    let settings = super::super::Settings {
        project_connections: 1 << 20,
        ..super::super::Settings::default()
    };
    let mut h = Host::with(&conf(vec![inspector(evil("drop"))]), settings);
    h.dp.inspections.hold_at_most(8);
    let ask = |port: u16| {
        between(FrameBuilder::tcp(false, port, 80), false, 1, 2)
            .flags(tcp::SYN)
            .seq(100, 0)
    };
    // A quarter of them is what one function may have.
    assert_eq!(
        [1, 2, 3].map(|port| passes(&mut h, 1, &ask(port))),
        [true, true, false]
    );
    assert_eq!(h.dropped(DropReason::InspectorFull), 1);
    assert_eq!(h.dp.conntrack().len(), 2);
    let end = between(FrameBuilder::tcp(false, 80, 1), false, 2, 1).flags(tcp::RST | tcp::ACK);
    assert!(passes(&mut h, 2, &end.seq(0, 101)));
    h.pass(std::time::Duration::from_secs(2));
    h.tick();
    assert!(passes(&mut h, 1, &ask(3)));
    // Where what can't be judged passes, so does what finds no room.
    h.apply(&conf(vec![inspector(open(evil("drop")))]));
    assert!(passes(&mut h, 1, &ask(4)));
}
