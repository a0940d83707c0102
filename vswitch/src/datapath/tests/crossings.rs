//! Do probes through appliances find out which ones let frames pass?

use std::{collections::BTreeMap, time::Duration};

use hostconfig::{
    FunctionKind,
    chain::{Crossing, Failure, Instance},
    group::Family,
};
use net::{
    Consumed, DropReason, Headers, Label, Originated,
    flow_key::{ethertype, proto},
};

use super::harness::*;

const CHAIN: u128 = 8000;
const A: (u16, u16) = (11, 12);
const B: (u16, u16) = (13, 13);

fn conf(family: Family, labelled: bool, silent: &[u16]) -> Conf {
    let mut conf = Conf::new();
    conf.web(6, 80);
    for n in [1, 2, A.0, A.1, B.0] {
        conf.port(n, &[GROUP]);
    }
    let instance = |(ingress, egress): &(u16, u16)| Instance {
        id: id(u128::from(*ingress)),
        name: format!("pair-{ingress}"),
        ingress: id(u128::from(*ingress)),
        egress: id(u128::from(*egress)),
        weight: 1,
        labelled,
        silent: silent.contains(ingress),
        at: None,
    };
    let appliance = FunctionKind::Appliance(hostconfig::Appliance {
        instances: [A, B].iter().map(instance).collect(),
        hash: vec![],
        failure: Failure::Closed,
        label: Label::of_hop(5, 0).filter(|_| labelled),
        probe: Some(Crossing {
            interval_ms: 1000,
            misses: 3,
            family,
        }),
    });
    conf.chain(CHAIN, 80, vec![appliance]);
    conf
}

/// What comes out of the switch in this time, where these appliances pass frames; how many probes went into each port.
fn run(h: &mut Host, time: Duration, pass: &[(u16, u16)]) -> BTreeMap<u16, u32> {
    let mut asked = BTreeMap::new();
    let step = Duration::from_millis(50);
    for _ in 0..time.as_millis() / step.as_millis() {
        let (sent, _) = h.tick();
        for (at, frame) in sent {
            let At::Port(into) = at else {
                panic!("a probe left the host");
            };
            *asked.entry(into).or_default() += 1;
            let out = pass.iter().find_map(|(a, b)| match into {
                _ if into == *a => Some(*b),
                _ if into == *b => Some(*a),
                _ => None,
            });
            if let Some(out) = out {
                assert!(h.enter(h.origin(out), &[frame]).is_empty());
            }
        }
        h.pass(step);
    }
    asked
}

fn verdicts(h: &Host) -> Vec<(u16, bool)> {
    let known = h.dp.probes().verdicts().into_iter();
    known
        .map(|v| (u16::try_from(v.member.uuid().as_u128()).unwrap(), v.serves))
        .collect()
}

const SECOND: Duration = Duration::from_secs(1);

#[test]
fn an_appliance_is_silent_after_three_probes_that_did_not_come_out_and_back_with_the_first() {
    for family in [Family::V4, Family::V6] {
        for labelled in [false, true] {
            let mut h = Host::new(&conf(family, labelled, &[]));
            let asked = run(&mut h, SECOND * 2, &[A, B]);
            // Both ways through two ports, and once through the one.
            assert_eq!(asked, [(A.0, 2), (A.1, 2), (B.0, 2)].into());
            assert_eq!(verdicts(&h), [(A.0, true), (B.0, true)]);
            run(&mut h, SECOND * 2, &[B]);
            assert_eq!(verdicts(&h), [(A.0, true), (B.0, true)], "too early");
            run(&mut h, SECOND * 2, &[B]);
            assert_eq!(verdicts(&h), [(A.0, false), (B.0, true)]);
            run(&mut h, SECOND * 2, &[A, B]);
            assert_eq!(verdicts(&h), [(A.0, true), (B.0, true)]);
            let (ledger, dropped) = (h.dp.ledger(), DropReason::ChainPlaceUnknown);
            assert!(ledger.originated[Originated::Probe.index()] >= 20);
            assert!(ledger.consumed[Consumed::Probe.index()] >= 14);
            assert_eq!(h.dropped(dropped), 0);
        }
    }
}

/// A probe that comes back out of the port that it went in by says nothing, nor does one of an earlier round.
#[test]
fn only_this_rounds_probe_out_of_the_other_port_counts() {
    let mut h = Host::new(&conf(Family::V4, false, &[]));
    let mut first = None;
    for _ in 0..100 {
        for (at, frame) in h.tick().0 {
            if at == At::Port(A.0) {
                assert!(
                    h.enter(h.origin(A.0), std::slice::from_ref(&frame))
                        .is_empty()
                );
                let old = first.get_or_insert(frame);
                let old = old.clone();
                if h.dp.probes().verdicts().iter().all(|v| v.serves) {
                    continue;
                }
                assert!(h.enter(h.origin(A.1), &[old]).is_empty());
            }
        }
        h.pass(SECOND / 20);
    }
    assert_eq!(verdicts(&h), [(A.0, false), (B.0, false)]);
    // Its frame is a datagram that no router passes on.
    let (_, key) = Headers::parse(&first.unwrap()).unwrap();
    assert_eq!((key.ethertype, key.ip_proto), (ethertype::IPV4, proto::UDP));
    assert_eq!((key.l4_src, key.l4_dst), (9, 9));
    assert!(
        key.five_tuple()
            .unwrap()
            .src_addr()
            .to_string()
            .starts_with("169.254.255.")
    );
}

#[test]
fn a_silent_instance_gets_nothing_and_with_none_the_group_is_closed() {
    let (there, back) = ((1, 4000), (2, 80));
    for (silent, goes) in [
        (vec![A.0], vec![At::Port(B.0)]),
        (vec![B.0], vec![At::Port(A.0)]),
        (vec![A.0, B.0], vec![]),
    ] {
        let mut h = Host::new(&conf(Family::V4, false, &[]));
        // It is known before it is silent.
        assert_eq!(h.places(1, &syn(false, there, back)).len(), 1);
        h.apply(&conf(Family::V4, false, &silent));
        for port in 4001..4020 {
            let frame = syn(false, (1, port), back);
            assert_eq!(h.places(1, &frame), goes, "{silent:?}");
        }
        // Its own connection, too.
        assert_eq!(h.places(1, &syn(false, there, back)), goes, "{silent:?}");
        let closed = goes.is_empty();
        assert_eq!(h.dropped(DropReason::ApplianceDown) > 0, closed);
    }
}
