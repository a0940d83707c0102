//! Do functions that count connections count those that begin, and nothing else?

use std::time::Duration;

use hostconfig::{Firewall, FunctionKind, Plain, chain::Action};
use net::DropReason;
use serde_json::{Value, json};

use super::harness::*;

const CHAIN: u128 = 8000;

fn limiter(settings: Value) -> FunctionKind {
    FunctionKind::Plain(Plain {
        name: "rate_limiter".into(),
        settings,
        places: std::collections::BTreeMap::new(),
    })
}

fn deny() -> FunctionKind {
    FunctionKind::Firewall(Firewall {
        rules: vec![],
        default: Action::Deny,
    })
}

fn conf(functions: Vec<FunctionKind>) -> Conf {
    let mut c = Conf::new();
    c.web(6, 80)
        .port(1, &[GROUP])
        .port(2, &[GROUP])
        .port(3, &[GROUP]);
    c.chain(CHAIN, 80, functions);
    c
}

#[test]
fn each_source_begins_as_many_connections_as_it_may() {
    for v6 in [false, true] {
        let settings = json!({"rate": "1/s", "burst": 2});
        let mut h = Host::new(&conf(vec![limiter(settings)]));
        let begin = |h: &mut Host, from: u16, port: u16| {
            h.places(from, &syn(v6, (from, port), (2, 80))) == [At::Port(2)]
        };
        assert_eq!([1, 2, 3].map(|n| begin(&mut h, 1, n)), [true, true, false]);
        assert_eq!(h.dropped(DropReason::RateLimited), 1);
        // What began goes on, also when its first packet is sent again; another source has its own.
        assert!(begin(&mut h, 1, 1));
        assert_eq!(
            h.places(1, &ack(v6, (1, 1), (2, 80))).len(),
            0,
            "no answer yet"
        );
        let answer = syn_ack(v6, (2, 80), (1, 1));
        assert_eq!(h.places(2, &answer), [At::Port(1)]);
        assert_eq!(h.places(1, &ack(v6, (1, 1), (2, 80))), [At::Port(2)]);
        assert!(begin(&mut h, 3, 1));
        // A second later there is one more, also for the one that was refused.
        h.pass(Duration::from_secs(1));
        assert_eq!([3, 4].map(|n| begin(&mut h, 1, n)), [true, false]);
        assert_eq!(h.dropped(DropReason::RateLimited), 2);
        let hops = &h.dp.counters().hops;
        let sum = |of: fn(&nfv::chain::HopCounters) -> u64| hops.iter().map(of).sum::<u64>();
        assert_eq!((sum(|c| c.drops), sum(|c| c.connections)), (2, 4));
    }
}

#[test]
fn all_who_come_through_the_chain_share_its_bucket_where_it_says_so() {
    let settings = json!({"rate": "2/min", "per": "chain"});
    let mut h = Host::new(&conf(vec![limiter(settings)]));
    let ends = [(1, false), (3, true), (1, true)];
    let begun = ends.map(|(n, v6)| h.places(n, &syn(v6, (n, 9), (2, 80))).len());
    assert_eq!(begun, [1, 1, 0]);
    h.pass(Duration::from_secs(30));
    assert_eq!(h.places(1, &syn(true, (1, 9), (2, 80))), [At::Port(2)]);
}

#[test]
fn what_begins_no_connection_costs_nothing() {
    let settings = json!({"rate": "1/h"});
    let mut h = Host::new(&conf(vec![limiter(settings.clone())]));
    for port in 1..20 {
        assert_eq!(h.places(1, &ack(false, (1, port), (2, 80))), []);
    }
    assert_eq!(h.dropped(DropReason::ConntrackInvalid), 19);
    assert_eq!(h.places(1, &syn(false, (1, 30), (2, 80))), [At::Port(2)]);
    // Nor what another function refuses.
    let mut c = conf(vec![limiter(settings.clone()), deny()]);
    let mut h = Host::new(&c);
    for port in 1..20 {
        assert_eq!(h.places(1, &syn(false, (1, port), (2, 80))), []);
    }
    assert_eq!(h.dropped(DropReason::FirewallDenied), 19);
    c.chain(CHAIN, 80, vec![limiter(settings)]);
    h.apply(&c);
    assert_eq!(h.places(1, &syn(false, (1, 30), (2, 80))), [At::Port(2)]);
}

#[test]
fn connections_and_levels_outlive_a_change_of_the_chain() {
    let mut c = conf(vec![limiter(json!({"rate": "1/h", "burst": 2}))]);
    let mut h = Host::new(&c);
    assert_eq!(h.places(1, &syn(false, (1, 1), (2, 80))), [At::Port(2)]);
    let answer = syn_ack(false, (2, 80), (1, 1));
    assert_eq!(h.places(2, &answer), [At::Port(1)]);
    c.chain(CHAIN, 80, vec![limiter(json!({"rate": "1/h", "burst": 1}))]);
    h.apply(&c);
    // It is judged again, and is no new one.
    assert_eq!(h.places(1, &ack(false, (1, 1), (2, 80))), [At::Port(2)]);
    assert_eq!(h.places(1, &syn(false, (1, 2), (2, 80))), [At::Port(2)]);
    assert_eq!(h.places(1, &syn(false, (1, 3), (2, 80))), []);
    assert_eq!(h.dropped(DropReason::RateLimited), 1);
}
