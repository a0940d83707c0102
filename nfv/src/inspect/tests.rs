use std::sync::Arc;

use net::tcp::{TcpSegment, flag};
use proptest::prelude::*;
use serde_json::{Value, json};

use super::{
    records::{Limits, Records, Used},
    stream::{Inspection, Refused},
    *,
};

fn inspector(settings: Value) -> Result<Inspector, String> {
    let settings =
        serde_json::from_value(settings).map_err(|e: serde_json::Error| e.to_string())?;
    Inspector::new(&settings).map_err(|fault| fault.to_string())
}

fn pattern(index: u8) -> Condemned {
    Condemned::Pattern {
        index,
        reset: false,
    }
}

/// A connection whose SYNs were seen: the initiator's bytes begin at 101, the other's at 901.
struct Talk(Inspection);

const FIRST: [u32; 2] = [101, 901];

impl Talk {
    fn new(settings: Value) -> Self {
        let mut talk = Self(Inspection::new(Arc::new(inspector(settings).unwrap())));
        talk.segment(Side::Original, (flag::SYN, -1, 0), b"")
            .unwrap();
        let syn_ack = (flag::SYN | flag::ACK, -1, 0);
        talk.segment(Side::Reply, syn_ack, b"").unwrap();
        talk
    }

    /// At a place of its stream, acknowledging the other's up to one.
    fn segment(
        &mut self,
        side: Side,
        (flags, at, ack): (u16, i32, i32),
        payload: &[u8],
    ) -> Result<Alerts, Refused> {
        let segment = TcpSegment {
            flags,
            seq: side.of(&FIRST).wrapping_add_signed(at),
            ack: side.other().of(&FIRST).wrapping_add_signed(ack),
            payload: u32::try_from(payload.len()).unwrap(),
            ..TcpSegment::default()
        };
        self.0.judge(side, &segment, payload)
    }

    fn sends(&mut self, at: i32, payload: &[u8]) -> Result<Alerts, Refused> {
        self.segment(Side::Original, (flag::ACK, at, 0), payload)
    }

    fn acknowledges(&mut self, ack: i32) {
        self.segment(Side::Reply, (flag::ACK, 0, ack), b"").unwrap();
    }
}

fn evil() -> Value {
    json!({"patterns": [{"text": "evil", "of": "forward"}], "depth": 16})
}

#[test]
fn settings_that_cannot_be_are_refused_by_name() {
    let many: Vec<Value> = (0..65).map(|n| json!({"text": n.to_string()})).collect();
    let large: Vec<Value> = (0..17).map(|_| json!({"text": "x".repeat(256)})).collect();
    for (settings, why) in [
        (json!({}), "patterns out of range (1..=64): 0"),
        (
            json!({"patterns": many}),
            "patterns out of range (1..=64): 65",
        ),
        (
            json!({"patterns": large}),
            "bytes of all patterns out of range (0..=4096): 4352",
        ),
        (
            json!({"patterns": [{"text": ""}]}),
            "bytes of a pattern out of range (1..=256): 0",
        ),
        (
            json!({"patterns": [{"text": "x".repeat(257)}]}),
            "(1..=256): 257",
        ),
        (
            json!({"patterns": [{"text": "x".repeat(20)}], "depth": 16}),
            "(1..=16): 20",
        ),
        (
            json!({"patterns": [{"hex": "4"}]}),
            "not two digits a byte: 4",
        ),
        (
            json!({"patterns": [{"hex": "+4"}]}),
            "not two digits a byte: +4",
        ),
        (json!({"patterns": [{}]}), "either text or hex"),
        (
            json!({"patterns": [{"text": "a", "hex": "61"}]}),
            "either text or hex",
        ),
        (
            json!({"patterns": [{"text": "a", "then": "log"}]}),
            "unknown variant `log`",
        ),
        (
            json!({"patterns": [{"text": "a", "of": "up"}]}),
            "unknown variant `up`",
        ),
        (json!({"protocol": "gopher"}), "unknown variant `gopher`"),
        (
            json!({"protocol": "tls", "depth": 15}),
            "depth out of range (16..=16384): 15",
        ),
        (
            json!({"protocol": "tls", "depth": 16_385}),
            "depth out of range",
        ),
        (
            json!({"protocol": "tls", "sample": 2}),
            "unknown field `sample`",
        ),
    ] {
        let refused = inspector(settings.clone()).unwrap_err();
        assert!(refused.contains(why), "{settings}: {refused}");
    }
}

#[test]
fn a_pattern_is_met_over_segments_and_only_in_its_direction() {
    let mut talk = Talk::new(evil());
    assert!(
        talk.segment(Side::Reply, (flag::ACK, 0, 0), b"evil")
            .is_ok()
    );
    assert!(talk.sends(0, b"an ev").is_ok());
    assert!(talk.sends(5, b"i").is_ok());
    let condemned = Refused::Condemned(pattern(0));
    assert_eq!(talk.sends(6, b"l?"), Err(condemned));
    // Not even what ends it, from either side.
    assert_eq!(talk.sends(0, b""), Err(condemned));
    let reply = talk.segment(Side::Reply, (flag::RST, 4, 0), b"");
    assert_eq!(reply, Err(condemned));
}

#[test]
fn an_alert_counts_and_a_reset_tells() {
    let mut talk = Talk::new(json!({"patterns": [
        {"text": "hm"}, {"hex": "4F68", "then": "alert"}, {"text": "bad", "then": "reset"},
    ]}));
    assert_eq!(talk.sends(0, b"O"), Ok(Alerts(0)));
    assert_eq!(talk.sends(1, b"h, "), Ok(Alerts(2)));
    let told = Condemned::Pattern {
        index: 2,
        reset: true,
    };
    assert_eq!(talk.sends(4, b"bad"), Err(Refused::Condemned(told)));
}

#[test]
fn what_comes_again_is_what_was_inspected_until_it_is_acknowledged() {
    let mut talk = Talk::new(evil());
    assert!(talk.sends(0, b"good").is_ok());
    assert!(talk.sends(0, b"good").is_ok());
    assert_eq!(talk.sends(0, b"evil"), Err(Refused::Rewritten));
    assert_eq!(talk.sends(2, b"xx and"), Err(Refused::Rewritten));
    assert_eq!(talk.sends(5, b"l"), Err(Refused::Gap));
    talk.acknowledges(3);
    assert_eq!(talk.0.kept(), 1);
    assert!(talk.sends(0, b"evid").is_ok(), "three are the receiver's");
    assert_eq!(talk.sends(0, b"evil"), Err(Refused::Rewritten));
    // An acknowledgment of what never came by frees what did, and no more.
    talk.acknowledges(9);
    assert_eq!(talk.0.kept(), 0);
    assert_eq!(talk.sends(9, b"x"), Err(Refused::Gap));
}

#[test]
fn a_direction_is_cleared_when_its_depth_is_acknowledged() {
    let mut talk = Talk::new(evil());
    assert!(talk.sends(16, b"evil").is_ok(), "beyond the depth");
    assert!(talk.sends(0, b"sixteen bytes ..evil").is_ok());
    assert!(!talk.0.is_cleared());
    talk.acknowledges(15);
    assert!(!talk.0.is_cleared());
    talk.acknowledges(16);
    assert!(talk.0.is_cleared());
    assert!(talk.sends(20, b"evil").is_ok());
}

#[test]
fn a_fin_ends_its_stream_only_when_it_is_acknowledged() {
    let mut talk = Talk::new(evil());
    assert!(talk.sends(0, b"ev").is_ok());
    let fin = flag::FIN | flag::ACK;
    assert_eq!(
        talk.segment(Side::Original, (fin, 3, 0), b""),
        Err(Refused::Gap)
    );
    assert!(talk.segment(Side::Original, (fin, 2, 0), b"").is_ok());
    talk.acknowledges(2);
    assert!(!talk.0.is_cleared());
    // It may have been lost, and this takes its place.
    let condemned = Refused::Condemned(pattern(0));
    assert_eq!(talk.sends(2, b"il"), Err(condemned));

    let mut talk = Talk::new(evil());
    assert!(talk.segment(Side::Original, (fin, 0, 0), b"ev").is_ok());
    talk.acknowledges(3);
    assert!(talk.0.is_cleared());
}

#[test]
fn a_stream_begins_once_and_urgent_bytes_do_not_pass() {
    let mut talk = Talk::new(evil());
    let other = talk.segment(Side::Original, (flag::SYN, 7, 0), b"");
    assert_eq!(other, Err(Refused::Rewritten));
    assert!(
        talk.segment(Side::Original, (flag::SYN, -1, 0), b"")
            .is_ok()
    );
    let urgent = (flag::URG | flag::ACK, 0, 0);
    assert_eq!(
        talk.segment(Side::Original, urgent, b"x"),
        Err(Refused::Urgent)
    );

    let mut unseen = Talk(Inspection::new(Arc::new(inspector(evil()).unwrap())));
    assert_eq!(unseen.sends(0, b"x"), Err(Refused::Undecided));
    assert!(!unseen.0.is_cleared());
}

#[test]
fn a_protocol_shows_itself_in_its_first_bytes() {
    for (protocol, side, bytes, passes) in [
        ("http", Side::Original, &b"GET / HTTP/1.1\r\n"[..], true),
        ("http", Side::Original, b"POTS / HTTP/1.1\r\n", false),
        ("http", Side::Reply, b"HTTP/1.1 200 OK", true),
        ("http", Side::Reply, b"SSH-2.0-x", false),
        ("tls", Side::Original, &[22, 3, 1, 0, 9], true),
        ("tls", Side::Original, &[21, 3, 1, 0, 9], false),
        ("tls", Side::Reply, &[21, 3, 1, 0, 9], true),
        ("ssh", Side::Original, b"SSH-2.0-x", true),
        ("ssh", Side::Original, b"SSH-1.9-x", false),
        ("ssh", Side::Reply, b"come in", true),
    ] {
        // Whole, and byte by byte.
        for size in [bytes.len(), 1] {
            let mut talk = Talk::new(json!({"protocol": protocol}));
            let mut judged = Ok(Alerts(0));
            for (n, part) in bytes.chunks(size).enumerate() {
                let at = i32::try_from(n * size).unwrap();
                judged = judged.and(talk.segment(side, (flag::ACK, at, 0), part));
            }
            let wanted = if passes {
                Ok(Alerts(0))
            } else {
                Err(Refused::Condemned(Condemned::Protocol))
            };
            assert_eq!(judged, wanted, "{protocol} {bytes:?}");
        }
    }
}

#[test]
fn a_datagram_is_judged_by_itself_up_to_the_depth() {
    let judge = inspector(evil()).unwrap();
    assert_eq!(judge.datagram(Side::Original, b"evil"), Err(pattern(0)));
    assert!(judge.datagram(Side::Original, b"ev").is_ok());
    assert!(judge.datagram(Side::Original, b"il").is_ok());
    assert!(judge.datagram(Side::Reply, b"evil").is_ok());
    assert_eq!(
        judge.datagram(Side::Original, b"............evil"),
        Err(pattern(0))
    );
    assert!(judge.datagram(Side::Original, b".............evil").is_ok());
    let tls = inspector(json!({"protocol": "tls"})).unwrap();
    assert_eq!(
        tls.datagram(Side::Original, &[22, 3]),
        Err(Condemned::Protocol)
    );
}

const DEPTH: usize = 16;

fn of_originator(flags: u16, at: u32, payload: &[u8]) -> TcpSegment {
    TcpSegment {
        flags,
        seq: 100 + at,
        payload: u32::try_from(payload.len()).unwrap(),
        ..TcpSegment::default()
    }
}

#[test]
fn records_keep_to_their_room_and_give_it_back() {
    let evil = json!({"patterns": [{"text": "evil", "of": "forward"}], "depth": 64});
    let evil = Arc::new(inspector(evil).unwrap());
    let mut records = Records::new(Limits {
        records: 8,
        bytes: 512,
    });
    assert!(records.begin(1, "a", Arc::clone(&evil)));
    assert!(records.begin(2, "a", Arc::clone(&evil)));
    assert!(!records.begin(3, "a", Arc::clone(&evil)), "a quarter");
    assert!(records.begin(4, "b", Arc::clone(&evil)));
    let mut says = |key, flags, at, bytes: &[u8]| {
        let segment = of_originator(flags, at, bytes);
        let judged = records.judge(&key, Side::Original, &segment, bytes);
        (judged.map(|passed| passed.cleared), records.used())
    };
    for key in [1, 2, 4] {
        assert_eq!(says(key, flag::SYN, 0, b"").0, Ok(false));
    }
    let long = [b'x'; 60];
    assert_eq!(says(1, flag::ACK, 1, &long).0, Ok(false));
    let (refused, used) = says(2, flag::ACK, 1, &[b'x'; 64]);
    let full = (Err(Refused::Full), 3);
    assert!((60..=128).contains(&used.bytes), "{used:?}");
    assert_eq!((refused, used.records), full, "of its function's bytes");
    assert_eq!(says(1, flag::ACK, 1, &long).0, Ok(false), "nothing new");
    assert_eq!(says(4, flag::ACK, 1, &long).0, Ok(false), "another's share");
    // What was refused was not read: the same bytes pass when there is room, a pattern in them does not.
    let (condemned, used) = says(1, flag::ACK, 61, b"evil");
    assert_eq!(condemned, Err(Refused::Condemned(pattern(0))));
    assert_eq!(used.records, 2, "its room is given back");
    assert_eq!(says(1, flag::ACK, 1, b"x").0, Err(Refused::Undecided));
    assert_eq!(says(2, flag::ACK, 1, &[b'x'; 64]).0, Ok(false));
    let answer = TcpSegment {
        flags: flag::ACK,
        ack: 165,
        ..TcpSegment::default()
    };
    let passed = records.judge(&2, Side::Reply, &answer, b"").unwrap();
    assert!(passed.cleared);
    records.end(&4);
    assert_eq!(records.used(), Used::default());
}

/// The plain way: all that was inspected, searched whole each time.
#[derive(Default)]
struct Naive {
    patterns: Vec<String>,
    inspected: Vec<u8>,
    acknowledged: usize,
    condemned: bool,
}

#[derive(Debug, PartialEq, Eq)]
enum Says {
    Pass,
    Gap,
    Rewritten,
    Condemned,
}

impl Naive {
    fn has_pattern(&self, bytes: &[u8]) -> bool {
        let has = |pattern: &[u8]| bytes.windows(pattern.len()).any(|part| part == pattern);
        self.patterns.iter().any(|pattern| has(pattern.as_bytes()))
    }

    fn judge(&mut self, at: usize, bytes: &[u8]) -> Says {
        if self.condemned {
            return Says::Condemned;
        }
        let known = self.inspected.len();
        if at > known {
            return if at >= DEPTH { Says::Pass } else { Says::Gap };
        }
        let mut now = self.inspected.clone();
        for (place, byte) in (at..).zip(bytes) {
            if place < known {
                if place >= self.acknowledged && self.inspected[place] != *byte {
                    return Says::Rewritten;
                }
            } else if place < DEPTH {
                now.push(*byte);
            }
        }
        self.condemned = self.has_pattern(&now);
        if self.condemned {
            return Says::Condemned;
        }
        self.inspected = now;
        Says::Pass
    }
}

/// Who reads: bytes in order are its own at once, of others the first or the last that came.
struct Receiver {
    bytes: Vec<Option<u8>>,
    last_wins: bool,
}

impl Receiver {
    fn read(&self) -> Vec<u8> {
        self.bytes.iter().map_while(|byte| *byte).collect()
    }

    fn takes(&mut self, at: usize, bytes: &[u8]) {
        let own = self.read().len();
        for (place, byte) in (at..).zip(bytes) {
            if place >= own && (self.bytes[place].is_none() || self.last_wins) {
                self.bytes[place] = Some(*byte);
            }
        }
    }
}

#[derive(Debug, Clone)]
enum Event {
    Segment {
        at: usize,
        len: usize,
        rewritten: bool,
        lost: bool,
    },
    Next {
        len: usize,
        lost: bool,
    },
    Acknowledge,
}

fn events(rewrites: bool) -> impl Strategy<Value = Vec<Event>> {
    let flip = if rewrites {
        prop::bool::weighted(0.3).boxed()
    } else {
        Just(false).boxed()
    };
    let lost = prop::bool::weighted(0.3);
    let one = prop_oneof![
        3 => (0..LONG, 1usize..9, flip, lost).prop_map(|(at, len, rewritten, lost)| {
            Event::Segment { at, len, rewritten, lost }
        }),
        3 => (1usize..5, lost).prop_map(|(len, lost)| Event::Next { len, lost }),
        1 => Just(Event::Acknowledge),
    ];
    prop::collection::vec(one, 0..40)
}

const LONG: usize = 24;

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    /// Cut, repeated, overlapped, rewritten, reordered, lost behind the judge.
    #[test]
    fn no_receiver_puts_a_pattern_together_and_honest_streams_arrive(
        (rewrites, events) in prop::bool::ANY.prop_flat_map(|r| (Just(r), events(r))),
        said in prop::collection::vec(prop::sample::select(&b"abc"[..]), LONG),
        other in prop::collection::vec(prop::sample::select(&b"abc"[..]), LONG),
        patterns in prop::collection::vec("[abc]{2,5}", 1..4),
        last_wins in prop::bool::ANY,
        first in prop_oneof![any::<u32>(), Just(u32::MAX - 4)],
    ) {
        let looked_for: Vec<Value> =
            patterns.iter().map(|text| json!({"text": text, "of": "forward"})).collect();
        let judge = inspector(json!({"patterns": looked_for, "depth": DEPTH})).unwrap();
        let mut judged = Inspection::new(Arc::new(judge));
        let mut naive = Naive { patterns, ..Naive::default() };
        let mut receiver = Receiver { bytes: vec![None; LONG], last_wins };
        let syn = TcpSegment {
            flags: flag::SYN,
            seq: first.wrapping_sub(1),
            ..TcpSegment::default()
        };
        prop_assert!(judged.judge(Side::Original, &syn, b"").is_ok());
        // What is asked last, of who rewrites nothing, is the whole stream, acknowledged.
        let whole = Event::Segment { at: 0, len: LONG, rewritten: false, lost: false };
        let ending = [whole, Event::Acknowledge];
        let ending = ending.into_iter().filter(|_| !rewrites);
        for event in events.into_iter().chain(ending) {
            let (at, len, rewritten, lost) = match event {
                Event::Segment { at, len, rewritten, lost } => (at, len, rewritten, lost),
                Event::Next { len, lost } => (naive.inspected.len(), len, false, lost),
                Event::Acknowledge => {
                    let read = receiver.read().len();
                    let ack = TcpSegment {
                        flags: flag::ACK,
                        ack: first.wrapping_add(u32::try_from(read).unwrap()),
                        ..TcpSegment::default()
                    };
                    let passes = judged.judge(Side::Reply, &ack, b"").is_ok();
                    prop_assert_eq!(passes, !naive.condemned);
                    naive.acknowledged = naive.acknowledged.max(read.min(naive.inspected.len()));
                    if passes {
                        prop_assert_eq!(judged.kept(), naive.inspected.len() - naive.acknowledged);
                    }
                    continue;
                }
            };
            let end = LONG.min(at + len);
            let bytes = if rewritten { &other[at..end] } else { &said[at..end] };
            if bytes.is_empty() {
                continue;
            }
            let segment = TcpSegment {
                flags: flag::ACK,
                seq: first.wrapping_add(u32::try_from(at).unwrap()),
                ..TcpSegment::default()
            };
            let says = match judged.judge(Side::Original, &segment, bytes) {
                Ok(_) => Says::Pass,
                Err(Refused::Gap) => Says::Gap,
                Err(Refused::Rewritten) => Says::Rewritten,
                Err(Refused::Condemned(_)) => Says::Condemned,
                Err(refused) => panic!("{refused:?}"),
            };
            prop_assert_eq!(&says, &naive.judge(at, bytes));
            prop_assert!(rewrites || says != Says::Rewritten);
            if says == Says::Pass && !lost {
                receiver.takes(at, bytes);
            }
            let read = receiver.read();
            prop_assert!(!naive.has_pattern(&read[..read.len().min(DEPTH)]));
            prop_assert!(judged.kept() <= DEPTH);
        }
        if !rewrites {
            prop_assert_eq!(naive.condemned, naive.has_pattern(&said[..DEPTH]));
            prop_assert!(naive.condemned || receiver.read() == said && judged.is_cleared());
        }
    }
}
