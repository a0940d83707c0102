//! What is done for many packets at once is what is done for each.

use std::net::Ipv4Addr;

use net::{
    DropReason, FlowMask, NetworkId, Origin, PortId, VtepId,
    testkit::{FrameBuilder, mac},
};
use smallvec::SmallVec;

use super::{
    super::{
        Action, CompiledFlow, Lane, Refusal, RouterHop, Stage, Verdict,
        gate::{Exit, Gate},
        tables::HopId,
    },
    harness::*,
};

fn flow(origin: Origin, actions: &[Action]) -> CompiledFlow {
    CompiledFlow {
        origin,
        mask: FlowMask::default(),
        actions: actions.iter().copied().collect(),
        hops: SmallVec::new(),
        meters: SmallVec::new(),
        depends: SmallVec::new(),
        verdict: Verdict::Deliver,
        tracked: false,
        replies: false,
        handed: None,
        path: 0,
    }
}

#[test]
fn only_what_rewrites_and_sends_to_one_place_has_a_way_of_its_own() {
    let mut conf = Conf::new();
    conf.web(6, 80).port(1, &[]).port(2, &[]).far(3);
    let host = Host::new(&conf);
    let [one, two] = [1, 2].map(|n| host.dense(n));
    let out = Action::Output(two);
    let mac = |n| Some(mac(n));
    let eth = |src, dst| Action::SetEth { src, dst };
    let lane = Lane::Function {
        hop: HopId(0),
        side: nfv::conntrack::Side::Original,
    };
    let gate = |actions: &[Action]| Gate::of(&flow(Origin::Port(one), actions), &host.tables);
    let plain = gate(&[out]);
    assert_eq!((plain.exit, plain.limit), (Exit::Port(two), 1450));
    assert!(!plain.translates && !plain.drops);
    // The last one that names an address wins, as when each is done in turn.
    let rewritten = gate(&[
        Action::Translate,
        eth(mac(1), mac(2)),
        eth(None, mac(3)),
        out,
    ]);
    assert_eq!((rewritten.src, rewritten.dst), (mac(1), mac(3)));
    assert!(rewritten.translates && rewritten.exit == plain.exit);
    // Of routers each takes one off the TTL; the narrowest network is the limit.
    let by = |to| {
        Action::Route(RouterHop {
            router: net::RouterId(0),
            interface: 0,
            to,
        })
    };
    let routed = gate(&[
        eth(mac(1), mac(2)),
        by(Some(NetworkId(0))),
        by(Some(NetworkId(0))),
        out,
    ]);
    assert_eq!((routed.forwards, routed.limit), (2, 1450));
    assert!(routed.rewrites && rewritten.rewrites && !plain.rewrites);
    let marked = gate(&[Action::SetDscp(46), out]);
    assert_eq!((marked.dscp, marked.exit), (Some(46), plain.exit));
    assert!(marked.rewrites);
    assert!(size_of::<Gate>() <= 64, "a cache line");
    let network = NetworkId(0);
    let tunnel = gate(&[Action::Tunnel {
        network,
        vtep: VtepId(0),
    }]);
    assert!(matches!(
        tunnel.exit,
        Exit::Tunnel {
            vtep: VtepId(0),
            ..
        }
    ));
    let gone = Action::Output(PortId(99));
    let refused = Refusal::new(DropReason::AdminDown, Stage::Egress);
    let dhcp = Action::AnswerDhcp {
        network,
        subnet: 0,
        addr: Ipv4Addr::LOCALHOST,
    };
    let others: [&[Action]; 7] = [
        &[],
        &[gone],
        &[out, out],
        &[Action::Queue(lane), out],
        &[Action::Refuse(refused)],
        &[dhcp],
        &[out, eth(mac(1), None)],
    ];
    for actions in others {
        assert_eq!(gate(actions).exit, Exit::Program, "{actions:?}");
    }
    let mut dropped = flow(Origin::Port(one), &[out]);
    dropped.verdict = Verdict::Drop(refused);
    let dropped = Gate::of(&dropped, &host.tables);
    assert!(dropped.drops && dropped.exit == Exit::Program);
}

/// Ports without port security, so that nothing is tracked.
fn open(conf: &mut Conf) {
    conf.web(6, 80).far(4);
    for n in 1..=3 {
        conf.port_with(n, &[], |p| p.port_security = false);
    }
}

#[test]
fn flows_that_take_turns_are_each_counted_where_they_go() {
    let mut conf = Conf::new();
    open(&mut conf);
    let mut host = Host::new(&conf);
    for v6 in [false, true] {
        let to = |n: u16| between(FrameBuilder::udp(v6, n, 53), v6, 1, n).build();
        let frames: Vec<_> = [2, 3, 4, 2, 2, 4].map(to).into();
        for _ in 0..2 {
            assert_eq!(host.enter(host.origin(1), &frames).len(), 6);
        }
    }
    let counters = host.dp.counters();
    let [one, two, three] = [1, 2, 3].map(|n| counters.ports[host.dense(n).index()]);
    assert_eq!((one.rx_packets, one.tx_packets), (24, 0));
    assert_eq!((two.tx_packets, three.tx_packets), (12, 4));
    let sent = |v6: bool| {
        between(FrameBuilder::udp(v6, 3, 53), v6, 1, 3)
            .build()
            .len() as u64
    };
    assert_eq!(three.tx_bytes, 2 * (sent(false) + sent(true)));
    assert_eq!(counters.vteps[0].tx_packets, 8);
    assert_eq!(host.dp.ledger().tx, 24);
    // All but the first of each flow were found.
    let found = counters.lookups;
    assert_eq!((found.exact, found.upcall + found.megaflow), (0, 24));
    assert!(found.megaflow >= 12, "{found:?}");
}

#[test]
fn a_changed_mtu_holds_for_flows_that_are_known() {
    for v6 in [false, true] {
        let mut conf = Conf::new();
        open(&mut conf);
        let mut host = Host::new(&conf);
        let large = |to| between(FrameBuilder::udp(v6, 1, 53), v6, 1, to).payload(&[0; 1350]);
        for to in [2, 4] {
            assert_eq!(host.places(1, &large(to)).len(), 1);
        }
        conf.network(NET, 1, 1300);
        host.apply(&conf);
        for to in [2, 4] {
            let got = host.places(1, &large(to));
            assert!(!got.iter().any(|at| *at != At::Port(1)), "{got:?}");
        }
        assert_eq!(host.dropped(DropReason::MtuExceeded), 2);
        conf.network(NET, 1, 1450);
        host.apply(&conf);
        assert_eq!(host.places(1, &large(2)), [At::Port(2)]);
    }
}

#[test]
fn a_port_that_goes_takes_its_flows_along() {
    let mut conf = Conf::new();
    open(&mut conf);
    let mut host = Host::new(&conf);
    let frame = between(FrameBuilder::udp(false, 1, 53), false, 1, 2);
    assert_eq!(host.places(1, &frame), [At::Port(2)]);
    conf.0.sections.remove(&hostconfig::SectionKey::Port(id(2)));
    host.apply(&conf);
    assert!(host.places(1, &frame).is_empty());
    assert_eq!(host.dropped(DropReason::UnknownUnicast), 1);
}
