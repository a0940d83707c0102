//! Does one host at a time have what is outside?

use std::sync::Arc;

use net::{
    DropReason,
    testkit::{FrameBuilder, mac},
};

use super::{
    super::Tables,
    floating::{floating, shown},
    routing::at,
    several::*,
};

fn plan() -> Plan {
    let mut plan = Plan::new(&[]);
    plan.place(NEXT, 1);
    plan.floating.push(floating(100, Some(2), &[], Some(1)));
    plan
}

/// The host does not hear from its controller, or does again.
fn alone(s: &mut Several, host: usize, alone: bool) {
    let before = Tables::clone(&s.hosts[host].tables).alone(alone);
    s.hosts[host].tables = Arc::new(before);
    let conf = s.plan.conf(host);
    s.hosts[host].apply(&conf);
}

#[test]
fn a_host_that_hears_no_controller_gives_up_what_could_move_and_that_alone() {
    for movable in [true, false] {
        let mut p = plan();
        p.gateway(1, |g| g.movable = movable);
        p.floating[0].movable = movable;
        let mut s = Several::new(p);
        let ask = |n, port| outward(FrameBuilder::udp(false, port, 53), false, n);
        let come = FrameBuilder::udp(false, 1, 2).macs(mac(NEXT), shown(100));
        let come = come.addrs(world(false), at(OUT, 100, false));
        let ping = inward(FrameBuilder::echo(false, 7), false, 1, at(OUT, GATE, false));
        let back = FrameBuilder::udp(false, 53, 5000);
        let back = inward(back, false, 1, at(OUT, GATE, false));
        for _ in 0..2 {
            s.one(1, &ask(1, 5000), NEXT);
            s.one(NEXT, &back, 1);
            s.one(2, &ask(2, 6000), NEXT);
            s.one(NEXT, &come, 2);
            s.one(NEXT, &ping, NEXT);
            alone(&mut s, 1, true);
            if movable {
                // Neither what is new nor what is established, in either direction.
                let before = s.dropped(DropReason::NoGateway);
                let got = s.one(1, &ask(1, 5000), 1);
                assert_eq!(super::routing::told(&got).0, 3, "net unreachable");
                assert_eq!(s.dropped(DropReason::NoGateway), before + 1);
                let error = s.raw(2, ask(2, 6000).build());
                assert!(error.iter().all(|(_, to, _)| *to == 2), "{error:?}");
                assert_eq!(s.from(NEXT, &back), []);
                assert_eq!(s.from(NEXT, &come), []);
                assert_eq!(s.from(NEXT, &ping), []);
            } else {
                s.one(1, &ask(1, 5000), NEXT);
                s.one(NEXT, &back, 1);
                s.one(NEXT, &come, 2);
            }
            alone(&mut s, 1, false);
        }
    }
}
