//! Does one host at a time have what is outside, and do its neighbours hear where?

use std::{net::IpAddr, sync::Arc, time::Duration};

use arc_swap::ArcSwap;
use net::{
    DropReason, Headers, Mac, Originated,
    testkit::{FrameBuilder, mac},
};
use nfv::conntrack::Entry;

use super::{
    super::{Claims, Datapath, Lease, Settings, Tables},
    floating::{floating, shown},
    harness::*,
    routing::at,
    several::*,
};
use crate::worker::{Corridor, Lane};

/// What a host tells of its own accord now: which addresses are at which Ethernet addresses.
fn told(h: &mut Host) -> Vec<(At, IpAddr, Mac)> {
    let (frames, _) = h.tick();
    let read = |(place, frame): (At, Vec<u8>)| {
        let key = Headers::parse(&frame).unwrap().1;
        assert!(key.dst_mac().is_multicast());
        let addr = match key.src_addr() {
            IpAddr::V4(_) => {
                assert_eq!((key.src_addr(), key.ip_proto), (key.dst_addr(), 1));
                key.src_addr()
            }
            IpAddr::V6(_) => {
                assert_eq!((key.l4_src, key.ip_ttl), (136, 255));
                IpAddr::V6(key.nd_target.into())
            }
        };
        (place, addr, key.src_mac())
    };
    frames.into_iter().map(read).collect()
}

fn plan() -> Plan {
    let mut plan = Plan::new(&[]);
    plan.place(NEXT, 1);
    plan.floating.push(floating(100, Some(2), &[], Some(1)));
    plan
}

#[test]
fn neighbours_hear_three_times_in_a_second_of_what_begins_to_be_here() {
    let mut s = Several::new(plan());
    let gateway = [
        at(OUT, GATE, false),
        at(OUT, GATE, true),
        IpAddr::V6(door(1).link_local()),
    ];
    let gateway = gateway.map(|addr| (addr, door(1)));
    let floating = (at(OUT, 100, false), shown(100));
    let all = [gateway[0], floating, gateway[1], gateway[2]];
    let here = |all: &[(IpAddr, Mac)]| {
        let all = all.iter().map(|(addr, mac)| (At::Port(NEXT), *addr, *mac));
        all.collect::<Vec<_>>()
    };
    let mut times = vec![];
    let begun = s.hosts[1].now;
    loop {
        let got = told(&mut s.hosts[1]);
        if !got.is_empty() {
            assert_eq!(got, here(&all));
            times.push(s.hosts[1].now.since(begun).as_millis());
        }
        if s.hosts[1].now.since(begun) > Duration::from_secs(5) {
            break;
        }
        s.pass(Duration::from_millis(50));
    }
    assert_eq!(times, [0, 400, 800]);
    let made = s.hosts[1].dp.ledger().originated[Originated::Announcement.index()];
    assert_eq!(made, 12);
    // Who has nothing tells nothing; a change that is none is not told.
    assert_eq!(told(&mut s.hosts[0]), []);
    s.change(|plan| plan.gateway(1, |g| g.snat = false));
    assert_eq!(told(&mut s.hosts[1]), []);
    // It moves: the new host tells, by the tunnel too; the old one does not.
    s.change(|plan| plan.gateway(1, |g| g.at = Some(vtep(3))));
    assert_eq!(told(&mut s.hosts[1]), []);
    let to = At::Vtep(vtep(1).to_string());
    let got = told(&mut s.hosts[3]);
    assert!(got.contains(&(to, gateway[0].0, gateway[0].1)), "{got:?}");
    // What goes before it was told thrice is told no more.
    s.change(|plan| plan.gateway(1, |g| g.at = None));
    s.pass(Duration::from_millis(400));
    assert_eq!(told(&mut s.hosts[3]), []);
    // Another MAC address is news.
    s.change(|plan| plan.floating[0].mac = mac(0xbbbb).try_into().unwrap());
    assert_eq!(
        told(&mut s.hosts[1]),
        here(&[(at(OUT, 100, false), mac(0xbbbb))])
    );
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

/// The host's agent extends a lease, or hangs: its workers look themselves.
#[test]
fn workers_give_up_what_could_move_when_the_lease_is_over_though_nobody_tells_them() {
    let mut s = Several::new(plan());
    let conf = s.plan.conf(1);
    let lease = Arc::<Lease>::default();
    let leased = Tables::clone(&s.hosts[1].tables).under(Arc::clone(&lease));
    s.hosts[1].tables = Arc::new(leased);
    s.hosts[1].apply(&conf);
    let begun = s.hosts[1].now;
    let end = begun + Duration::from_millis(1200);
    lease.extend(end);
    let shared = Arc::new(ArcSwap::new(Arc::clone(&s.hosts[1].tables)));
    let claims = Arc::new(Claims::new(16, 7));
    let entries = vec![Entry::default(); 16];
    let datapath = Datapath::new(Settings::default(), entries, 0, claims, begun);
    let mut lane = Lane::new(datapath, Arc::clone(&shared));
    lane.refresh(begun);
    assert!(!lane.view().1.is_alone() && !lease.has_lapsed());

    let ask = outward(FrameBuilder::udp(false, 5000, 53), false, 1);
    s.one(1, &ask, NEXT);
    lane.refresh(end);
    assert!(lane.view().1.is_alone() && lease.has_lapsed());
    s.hosts[1].tables = Arc::clone(shared.load().after_lease(end).unwrap());
    let before = s.dropped(DropReason::NoGateway);
    s.one(1, &ask, 1);
    assert_eq!(s.dropped(DropReason::NoGateway), before + 1);
    // Another lease is for other tables: what was given up is not taken up by the way.
    let later = end + Duration::from_secs(1);
    lease.extend(later);
    lane.refresh(end);
    assert!(lane.view().1.is_alone());
    let twin = lane.view().1.version();
    s.hosts[1].tables = shared.load_full();
    s.hosts[1].apply(&conf);
    shared.store(Arc::clone(&s.hosts[1].tables));
    lane.refresh(end);
    assert!(!lane.view().1.is_alone());
    assert!(lane.view().1.version() > twin);
    // New tables do not make a lease longer.
    s.hosts[1].apply(&conf);
    shared.store(Arc::clone(&s.hosts[1].tables));
    lane.refresh(later);
    assert!(lane.view().1.is_alone());
    // Where there is nothing that could move there is no twin.
    s.hosts[0].tables = Arc::new(Tables::clone(&s.hosts[0].tables).under(lease));
    let conf = s.plan.conf(0);
    s.hosts[0].apply(&conf);
    assert!(s.hosts[0].tables.after_lease(later).is_none());
}
