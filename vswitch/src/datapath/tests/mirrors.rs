//! Is a port shown what a mirror says, and nothing else?

use std::collections::BTreeMap;

use hostconfig::{FunctionKind, Plain};
use net::{Copied, DropReason};
use serde_json::json;

use super::harness::*;

const CHAIN: u128 = 8000;
const TAP: u16 = 3;

fn mirror(of: &str, to: u16) -> FunctionKind {
    FunctionKind::Plain(Plain {
        name: "mirror".into(),
        settings: json!({"to": id::<()>(u128::from(to)).to_string(), "of": of}),
        places: BTreeMap::new(),
    })
}

fn conf(functions: Vec<FunctionKind>) -> Conf {
    let mut c = Conf::new();
    c.web(6, 80)
        .port(1, &[GROUP])
        .port(2, &[GROUP])
        .port(TAP, &[])
        .far(9);
    c.chain(CHAIN, 80, functions);
    c
}

/// Where a frame goes and whether its copy is what was sent.
fn sent(h: &mut Host, from: u16, frame: &net::testkit::FrameBuilder) -> Vec<At> {
    let got = h.from(from, frame);
    for (at, bytes) in &got {
        assert!(*at != At::Port(TAP) || *bytes == frame.build());
    }
    got.into_iter().map(|(at, _)| at).collect()
}

#[test]
fn each_direction_is_copied_where_it_says_so() {
    for v6 in [false, true] {
        for (of, forward, reply) in [
            ("both", true, true),
            ("forward", true, false),
            ("reply", false, true),
        ] {
            let mut h = Host::new(&conf(vec![mirror(of, TAP)]));
            let with = |copied: bool, to: u16| {
                let mut all = vec![At::Port(to)];
                if copied {
                    all.insert(0, At::Port(TAP));
                }
                all
            };
            let there = [
                syn(v6, (1, 4000), (2, 80)),
                ack(v6, (1, 4000), (2, 80)),
                ack(v6, (1, 4000), (2, 80)),
            ];
            let back = syn_ack(v6, (2, 80), (1, 4000));
            let mut got = sent(&mut h, 1, &there[0]);
            got.sort();
            let mut wanted = with(forward, 2);
            wanted.sort();
            assert_eq!(got, wanted, "{of}");
            let mut got = sent(&mut h, 2, &back);
            got.sort();
            let mut wanted = with(reply, 1);
            wanted.sort();
            assert_eq!(got, wanted, "{of}");
            for frame in &there[1..] {
                assert_eq!(
                    sent(&mut h, 1, frame).len(),
                    1 + usize::from(forward),
                    "{of}"
                );
            }
            let copies = u64::from(forward) * 3 + u64::from(reply);
            let ledger = h.dp.ledger();
            assert_eq!(ledger.copies[Copied::Mirror.index()], copies);
        }
    }
}

#[test]
fn two_mirrors_do_not_copy_copies_and_a_port_is_not_shown_what_it_sends() {
    let mut c = conf(vec![mirror("both", TAP), mirror("both", 2)]);
    c.web(6, 80);
    let mut h = Host::new(&c);
    let mut got = h.places(1, &syn(false, (1, 4000), (2, 80)));
    got.sort();
    assert_eq!(got, [At::Port(2), At::Port(2), At::Port(TAP)]);
    let mut got = h.places(2, &syn_ack(false, (2, 80), (1, 4000)));
    got.sort();
    assert_eq!(got, [At::Port(1), At::Port(TAP)]);
}

#[test]
fn without_its_port_nothing_is_copied_and_nothing_lost() {
    let mut c = conf(vec![mirror("both", TAP)]);
    let mut h = Host::new(&c);
    assert_eq!(h.places(1, &syn(false, (1, 1), (9, 80))).len(), 2);
    c.gone(TAP);
    h.apply(&c);
    assert_eq!(h.places(1, &syn(false, (1, 2), (9, 80))).len(), 1);
    // Also of the connection that was shown to it.
    assert_eq!(h.places(1, &syn(false, (1, 1), (9, 80))).len(), 1);
    assert_eq!(h.dropped(DropReason::PortGone), 0);
    c.port(TAP, &[]);
    h.apply(&c);
    assert_eq!(h.places(1, &syn(false, (1, 1), (9, 80))).len(), 2);
}

#[test]
fn past_their_budget_copies_are_dropped_by_name_and_originals_go_on() {
    let mut h = Host::new(&conf(vec![mirror("both", TAP)]));
    h.dp.hands.shown = (h.now.seconds(), 199_999);
    let mut got = |port| h.places(1, &syn(false, (1, port), (9, 80))).len();
    assert_eq!([1, 2, 3].map(&mut got), [2, 1, 1]);
    assert_eq!(h.dropped(DropReason::MirrorBudget), 2);
    h.pass(std::time::Duration::from_secs(1));
    assert_eq!(h.places(1, &syn(false, (1, 4), (9, 80))).len(), 2);
}
