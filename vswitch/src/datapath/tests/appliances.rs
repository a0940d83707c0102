//! Do packets pass appliances as their chain says, and nothing else?

use hostconfig::{
    Firewall, FunctionKind, Location,
    chain::{Action, Failure, Instance, Side},
};
use net::{
    Checksum, DropReason, Gso, Label, Offload,
    testkit::{FrameBuilder, mac},
};

use super::harness::*;

const CHAIN: u128 = 8000;
const VIP: u16 = 50;
const CLIENT: u16 = 1;
const SERVER: u16 = 2;
const OTHER: u16 = 3;
/// Ingress and egress ports of two instances, and of one that is behind them.
const A: (u16, u16) = (11, 12);
const B: (u16, u16) = (13, 14);
const C: (u16, u16) = (15, 15);
const FAR: u16 = 9;

fn appliance(pairs: &[(u16, u16)], failure: Failure) -> FunctionKind {
    let instance = |(ingress, egress): &(u16, u16)| Instance {
        id: id(u128::from(*ingress)),
        name: format!("pair-{ingress}"),
        ingress: id(u128::from(*ingress)),
        egress: id(u128::from(*egress)),
        weight: 1,
        labelled: false,
        silent: false,
        at: None,
    };
    FunctionKind::Appliance(hostconfig::Appliance {
        instances: pairs.iter().map(instance).collect(),
        hash: vec![],
        failure,
        label: None,
        probe: None,
    })
}

fn closed(pairs: &[(u16, u16)]) -> FunctionKind {
    appliance(pairs, Failure::Closed)
}

fn firewall() -> FunctionKind {
    FunctionKind::Firewall(Firewall {
        rules: vec![],
        default: Action::Allow,
    })
}

fn balancer(v6: bool, member: u16) -> FunctionKind {
    FunctionKind::LoadBalancer(balanced((VIP, v6), &[(member, 80)]))
}

fn conf(functions: Vec<FunctionKind>) -> Conf {
    let mut conf = Conf::new();
    conf.web(6, 80);
    conf.port(CLIENT, &[GROUP]).port(SERVER, &[GROUP]);
    conf.port(OTHER, &[GROUP]).far(FAR);
    for n in [A.0, A.1, B.0, B.1, C.0] {
        conf.port(n, &[GROUP]);
    }
    conf.endpoint(VIP, Location::Virtual);
    conf.chain(CHAIN, 80, functions);
    conf
}

/// Where one frame goes that this port sends, which is out again unchanged.
fn passes(h: &mut Host, from: u16, frame: &FrameBuilder) -> At {
    let mut got = h.from(from, frame);
    assert_eq!(got.len(), 1, "from port {from}");
    let (at, bytes) = got.remove(0);
    assert_eq!(bytes, frame.build(), "from port {from}");
    at
}

/// The frame goes by these ports, one after the other.
fn goes(h: &mut Host, frame: &FrameBuilder, way: &[(u16, u16)]) {
    for (from, to) in way {
        assert_eq!(passes(h, *from, frame), At::Port(*to), "from port {from}");
    }
}

fn packets(h: &Host) -> Vec<u64> {
    let hops = h.dp.counters().hops.iter();
    hops.map(|hop| hop.packets).collect()
}

#[test]
fn a_connection_passes_its_appliance_both_ways_by_its_records() {
    for v6 in [false, true] {
        let c = conf(vec![firewall(), closed(&[A])]);
        let mut h = Host::new(&c);
        let (there, back) = ((CLIENT, 4000), (SERVER, 80));
        let forward = [(CLIENT, A.0), (A.1, SERVER)];
        let reply = [(SERVER, A.1), (A.0, CLIENT)];
        goes(&mut h, &syn(v6, there, back), &forward);
        goes(&mut h, &syn_ack(v6, back, there), &reply);
        goes(&mut h, &ack(v6, there, back), &forward);
        let before = h.dp.counters().lookups;
        for _ in 0..3 {
            goes(&mut h, &ack(v6, there, back), &forward);
        }
        let after = h.dp.counters().lookups;
        // Established packets are looked up once on each part of their way, and nothing else.
        assert_eq!(
            (after.upcall, after.exact),
            (before.upcall, before.exact + 6)
        );
        // Five packets forward and one back, at the firewall and at the appliance.
        assert_eq!(packets(&h), [6, 6]);
        assert_eq!(h.dp.conntrack().len(), 2);
    }
}

#[test]
fn replies_pass_by_where_the_chain_is_not_symmetric() {
    for (v6, server) in [(false, SERVER), (true, SERVER), (false, FAR), (true, FAR)] {
        let mut c = conf(vec![closed(&[A]), closed(&[C])]);
        c.one_way(CHAIN);
        let mut h = Host::new(&c);
        let (there, back) = ((CLIENT, 4000), (server, 80));
        let forward = |h: &mut Host, frame: &FrameBuilder| {
            goes(h, frame, &[(CLIENT, A.0), (A.1, C.0)]);
            let out = passes(h, C.1, frame);
            let far = At::Vtep(REMOTE.into());
            assert_eq!(out, if server == FAR { far } else { At::Port(server) });
        };
        let reply = |h: &mut Host, frame: &FrameBuilder| {
            let got = if server == FAR {
                h.tunnelled(frame)
            } else {
                h.places(server, frame)
            };
            assert_eq!(got, [At::Port(CLIENT)]);
        };
        forward(&mut h, &syn(v6, there, back));
        reply(&mut h, &syn_ack(v6, back, there));
        for n in 0..3 {
            forward(&mut h, &ack(v6, there, back).payload(&[n; 10]));
        }
        assert_eq!(packets(&h), [4, 4]);
    }
}

#[test]
fn several_hops_and_a_translation_are_met_last_to_first_by_replies() {
    for v6 in [false, true] {
        let c = conf(vec![closed(&[A]), balancer(v6, SERVER), closed(&[C])]);
        let mut h = Host::new(&c);
        let asks = syn(v6, (CLIENT, 4000), (VIP, 80));
        assert_eq!(passes(&mut h, CLIENT, &asks), At::Port(A.0));
        // Behind the load balancer it shows the member.
        let got = h.from(A.1, &asks);
        assert_eq!(got[0].0, At::Port(C.0));
        let asked = syn(v6, (CLIENT, 4000), (SERVER, 80));
        assert_eq!(got[0].1, asked.build());
        assert_eq!(passes(&mut h, C.1, &asked), At::Port(SERVER));
        let answer = syn_ack(v6, (SERVER, 80), (CLIENT, 4000));
        assert_eq!(passes(&mut h, SERVER, &answer), At::Port(C.1));
        let got = h.from(C.0, &answer);
        assert_eq!(got[0].0, At::Port(A.1));
        let answered = syn_ack(v6, (VIP, 80), (CLIENT, 4000));
        assert_eq!(got[0].1, answered.build());
        assert_eq!(passes(&mut h, A.0, &answered), At::Port(CLIENT));
        assert_eq!(packets(&h), [2, 2, 2]);
    }
}

#[test]
fn a_chain_of_the_receiver_hands_over_at_the_receivers_host() {
    for v6 in [false, true] {
        let mut c = conf(vec![]);
        let to = Some(Side::Port(id(u128::from(SERVER))));
        c.chain_of(CHAIN, None, to, 80, vec![closed(&[A])]);
        let mut h = Host::new(&c);
        let (there, back) = ((FAR, 4000), (SERVER, 80));
        assert_eq!(h.tunnelled(&syn(v6, there, back)), [At::Port(A.0)]);
        assert_eq!(passes(&mut h, A.1, &syn(v6, there, back)), At::Port(SERVER));
        let answer = syn_ack(v6, back, there);
        assert_eq!(passes(&mut h, SERVER, &answer), At::Port(A.1));
        assert_eq!(passes(&mut h, A.0, &answer), At::Vtep(REMOTE.into()));
        // The receiver's group is asked behind the appliance.
        let refused = syn(v6, (FAR, 4000), (SERVER, 81));
        assert_eq!(h.tunnelled(&refused), []);
        assert_eq!(h.dropped(DropReason::SecurityGroupIngress), 1);
    }
}

#[test]
fn what_was_not_handed_over_is_not_placed_whatever_address_it_shows() {
    for v6 in [false, true] {
        let c = conf(vec![closed(&[A, B])]);
        let mut h = Host::new(&c);
        let (there, back) = ((CLIENT, 4000), (SERVER, 80));
        // Nothing was handed over yet: neither way, from neither port.
        for (from, frame) in [
            (A.0, syn(v6, there, back)),
            (A.1, syn(v6, there, back)),
            (A.0, syn_ack(v6, back, there)),
            (A.1, syn_ack(v6, back, there)),
        ] {
            assert_eq!(h.places(from, &frame), []);
        }
        assert_eq!(h.dropped(DropReason::ChainPlaceUnknown), 4);
        let At::Port(chosen) = passes(&mut h, CLIENT, &syn(v6, there, back)) else {
            panic!("not to a port")
        };
        let (chosen, other) = if chosen == A.0 { (A, B) } else { (B, A) };
        // Another instance, another tuple, another Ethernet address, or the wrong port of the pair.
        let stranger = syn(v6, there, back).macs(mac(OTHER), mac(SERVER));
        for (from, frame) in [
            (other.1, syn(v6, there, back)),
            (chosen.1, syn(v6, (CLIENT, 4001), back)),
            (chosen.1, stranger),
            (chosen.0, syn(v6, there, back)),
        ] {
            assert_eq!(h.places(from, &frame), []);
        }
        assert_eq!(h.dropped(DropReason::ChainPlaceUnknown), 8);
        goes(&mut h, &syn(v6, there, back), &[(chosen.1, SERVER)]);
        // The appliance's own traffic goes the ordinary way, under its own name.
        let own = between(FrameBuilder::udp(v6, 5, 6), v6, A.0, FAR);
        assert_eq!(h.places(A.0, &own), [At::Vtep(REMOTE.into())]);
    }
}

#[test]
fn connections_that_could_not_be_told_apart_do_not_share_an_appliance() {
    for v6 in [false, true] {
        let mut c = conf(vec![closed(&[A])]);
        // Another workload may show the client's address.
        c.port_with(OTHER, &[GROUP], |port| port.port_security = false);
        let mut h = Host::new(&c);
        let frame = syn(v6, (CLIENT, 4000), (SERVER, 80));
        assert_eq!(passes(&mut h, CLIENT, &frame), At::Port(A.0));
        let twin = frame.clone().macs(mac(OTHER), mac(SERVER));
        assert_eq!(h.places(OTHER, &twin), []);
        assert_eq!(h.dropped(DropReason::ChainPlaceAmbiguous), 1);
        goes(&mut h, &frame, &[(A.1, SERVER)]);
    }
}

#[test]
fn connections_stay_with_their_instance_and_leave_it_when_it_is_gone() {
    for v6 in [false, true] {
        let c = conf(vec![closed(&[A])]);
        let mut h = Host::new(&c);
        let (there, back) = ((CLIENT, 4000), (SERVER, 80));
        goes(
            &mut h,
            &syn(v6, there, back),
            &[(CLIENT, A.0), (A.1, SERVER)],
        );
        goes(
            &mut h,
            &syn_ack(v6, back, there),
            &[(SERVER, A.1), (A.0, CLIENT)],
        );
        // Another instance comes: nobody moves.
        let mut both = c.clone();
        both.chain(CHAIN, 80, vec![closed(&[A, B])]);
        h.apply(&both);
        goes(
            &mut h,
            &ack(v6, there, back),
            &[(CLIENT, A.0), (A.1, SERVER)],
        );
        // The first goes: its connections go on by the other, in the middle.
        let mut second = both.clone();
        second.gone(A.0);
        h.apply(&second);
        goes(
            &mut h,
            &ack(v6, there, back),
            &[(CLIENT, B.0), (B.1, SERVER)],
        );
        let answer = syn_ack(v6, back, there).seq(501, 101);
        let answer = answer.flags(net::testkit::tcp::ACK);
        goes(&mut h, &answer, &[(SERVER, B.1), (B.0, CLIENT)]);
        // None is left.
        let mut none = second.clone();
        none.gone(B.1);
        h.apply(&none);
        assert_eq!(h.places(CLIENT, &ack(v6, there, back)), []);
        assert_eq!(h.places(CLIENT, &syn(v6, (CLIENT, 4001), back)), []);
        assert_eq!(h.dropped(DropReason::ApplianceDown), 2);
    }
}

#[test]
fn an_open_group_without_instances_is_passed_by_and_the_rest_of_the_chain_runs() {
    for v6 in [false, true] {
        let functions = || vec![appliance(&[A], Failure::Open), closed(&[C])];
        let c = conf(functions());
        let mut h = Host::new(&c);
        let (there, back) = ((CLIENT, 4000), (SERVER, 80));
        let whole = [(CLIENT, A.0), (A.1, C.0), (C.1, SERVER)];
        goes(&mut h, &syn(v6, there, back), &whole);
        let reply = [(SERVER, C.1), (C.0, A.1), (A.0, CLIENT)];
        goes(&mut h, &syn_ack(v6, back, there), &reply);
        let mut down = c.clone();
        down.gone(A.1);
        h.apply(&down);
        let rest = [(CLIENT, C.0), (C.1, SERVER)];
        goes(&mut h, &ack(v6, there, back), &rest);
        goes(&mut h, &syn(v6, (CLIENT, 4001), back), &rest);
        assert_eq!(h.dropped(DropReason::ApplianceDown), 0);
    }
}

#[test]
fn new_connections_are_shared_out_and_each_stays_where_it_went() {
    let c = conf(vec![closed(&[A, B])]);
    let mut h = Host::new(&c);
    let mut counts = [0, 0];
    for port in 4000..4100 {
        let frame = syn(false, (CLIENT, port), (SERVER, 80));
        let at = passes(&mut h, CLIENT, &frame);
        let pair = if at == At::Port(A.0) { A } else { B };
        assert_eq!(at, At::Port(pair.0));
        counts[usize::from(pair == B)] += 1;
        goes(&mut h, &frame, &[(pair.1, SERVER)]);
        goes(&mut h, &frame, &[(CLIENT, pair.0)]);
    }
    assert!(counts.iter().all(|n| *n > 25), "{counts:?}");
}

#[test]
fn errors_pass_the_appliance_of_a_symmetric_chain_and_no_other() {
    for symmetric in [true, false] {
        let mut c = conf(vec![closed(&[A])]);
        if !symmetric {
            c.one_way(CHAIN);
        }
        let mut h = Host::new(&c);
        let asks = syn(false, (CLIENT, 4000), (SERVER, 80));
        goes(&mut h, &asks, &[(CLIENT, A.0), (A.1, SERVER)]);
        let error = FrameBuilder::icmp_error(&asks.build());
        let way = if symmetric {
            vec![(SERVER, A.1), (A.0, CLIENT)]
        } else {
            vec![(SERVER, CLIENT)]
        };
        for (from, to) in way {
            let got = h.enter(h.origin(from), std::slice::from_ref(&error));
            assert_eq!(got, [(At::Port(to), error.clone())]);
        }
    }
}

#[test]
fn a_flood_does_not_reach_the_ports_of_an_appliance() {
    let c = conf(vec![closed(&[A])]);
    let mut h = Host::new(&c);
    let frame = between(FrameBuilder::udp(false, 68, 4000), false, CLIENT, SERVER);
    let got = h.places(CLIENT, &frame.macs(mac(CLIENT), net::Mac::BROADCAST));
    assert!(!got.contains(&At::Port(A.0)) && !got.contains(&At::Port(A.1)));
    assert!(got.contains(&At::Vtep(REMOTE.into())));
}

#[test]
fn connections_go_on_when_another_process_takes_over() {
    let c = conf(vec![closed(&[A, B])]);
    let mut h = Host::new(&c);
    let (there, back) = ((CLIENT, 4000), (SERVER, 80));
    let At::Port(chosen) = passes(&mut h, CLIENT, &syn(false, there, back)) else {
        panic!("not to a port")
    };
    let chosen = if chosen == A.0 { A } else { B };
    goes(&mut h, &syn(false, there, back), &[(chosen.1, SERVER)]);
    h.restart();
    let reply = [(SERVER, chosen.1), (chosen.0, CLIENT)];
    goes(&mut h, &syn_ack(false, back, there), &reply);
    goes(
        &mut h,
        &ack(false, there, back),
        &[(CLIENT, chosen.0), (chosen.1, SERVER)],
    );
}

/// The chain's path in labels.
const PATH: u16 = 5;

/// The same instances, each of which is told by a label that they are at this hop of the chain with [`PATH`].
fn labelled(pairs: &[(u16, u16)], at: u8) -> FunctionKind {
    let FunctionKind::Appliance(mut appliance) = closed(pairs) else {
        unreachable!("it is one")
    };
    appliance.label = Label::of_hop(PATH, at);
    for instance in &mut appliance.instances {
        instance.labelled = true;
    }
    FunctionKind::Appliance(appliance)
}

/// A frame under the label of a hop, as it goes in.
fn under(at: u8, frame: &[u8]) -> Vec<u8> {
    let label = u32::from(Label::of_hop(PATH, at).unwrap());
    let entry = label << 12 | 0x100 | (label & 0xff);
    [
        &frame[..12],
        &[0x88, 0x47],
        &entry.to_be_bytes(),
        &frame[14..],
    ]
    .concat()
}

/// The frame goes from one port to another, on both as it is there.
fn goes_as(h: &mut Host, (from, sent): (u16, &[u8]), (to, got): (u16, &[u8])) {
    let out = h.enter(h.origin(from), &[sent.to_vec()]);
    assert_eq!(out, [(At::Port(to), got.to_vec())], "from port {from}");
}

#[test]
fn under_a_label_a_connection_passes_its_appliances_both_ways() {
    for v6 in [false, true] {
        let c = conf(vec![labelled(&[A], 0), firewall(), labelled(&[C], 2)]);
        let mut h = Host::new(&c);
        let (there, back) = ((CLIENT, 4000), (SERVER, 80));
        let forward = |h: &mut Host, frame: &FrameBuilder| {
            let bare = &frame.build()[..];
            let (first, last) = (&under(0, bare)[..], &under(2, bare)[..]);
            goes_as(h, (CLIENT, bare), (A.0, first));
            goes_as(h, (A.1, first), (C.0, last));
            goes_as(h, (C.1, last), (SERVER, bare));
        };
        forward(&mut h, &syn(v6, there, back));
        let bare = &syn_ack(v6, back, there).build()[..];
        let (first, last) = (&under(0, bare)[..], &under(2, bare)[..]);
        goes_as(&mut h, (SERVER, bare), (C.1, last));
        goes_as(&mut h, (C.0, last), (A.1, first));
        goes_as(&mut h, (A.0, first), (CLIENT, bare));
        forward(&mut h, &ack(v6, there, back));
        let before = h.dp.counters().lookups;
        forward(&mut h, &ack(v6, there, back));
        let after = h.dp.counters().lookups;
        assert_eq!(
            (after.upcall, after.exact),
            (before.upcall, before.exact + 3)
        );
        assert_eq!(packets(&h), [4, 4, 4]);
        // Another process takes over: labels are worked out anew.
        h.restart();
        let bare = &syn_ack(v6, back, there).build()[..];
        let (first, last) = (&under(0, bare)[..], &under(2, bare)[..]);
        goes_as(&mut h, (SERVER, bare), (C.1, last));
        goes_as(&mut h, (C.0, last), (A.1, first));
        goes_as(&mut h, (A.0, first), (CLIENT, bare));
        forward(&mut h, &ack(v6, there, back));
    }
}

#[test]
fn what_bears_no_label_or_another_one_is_not_placed_and_ends_nothing() {
    for v6 in [false, true] {
        let c = conf(vec![labelled(&[A], 0), labelled(&[C], 1)]);
        let mut h = Host::new(&c);
        let (there, back) = ((CLIENT, 4000), (SERVER, 80));
        let bare = &syn(v6, there, back).build()[..];
        let answer = &syn_ack(v6, back, there).build()[..];
        let right = &under(0, bare)[..];
        goes_as(&mut h, (CLIENT, bare), (A.0, right));
        let with = |at: usize, byte: u8| {
            let mut frame = right.to_vec();
            frame[at] = byte;
            frame
        };
        // No label, the next hop's, another chain's, more than one, what is under it is cut off or no IP.
        let wrong = [
            bare.to_vec(),
            under(1, bare),
            with(14, 1),
            with(16, right[16] & 0xfe),
            right[..18].to_vec(),
            with(18, 0),
        ];
        let is_wrong = |h: &mut Host, from: u16, frame: &[u8]| {
            let before = h.dropped(DropReason::ChainLabelWrong);
            assert_eq!(h.enter(h.origin(from), &[frame.to_vec()]), []);
            assert_eq!(h.dropped(DropReason::ChainLabelWrong), before + 1);
        };
        let all_wrong = |h: &mut Host| wrong.iter().for_each(|frame| is_wrong(h, A.1, frame));
        // Whatever its place in the way of the connection: begun, known, answered.
        all_wrong(&mut h);
        goes_as(&mut h, (A.1, right), (C.0, &under(1, bare)));
        all_wrong(&mut h);
        goes_as(&mut h, (C.1, &under(1, bare)), (SERVER, bare));
        goes_as(&mut h, (SERVER, answer), (C.1, &under(1, answer)));
        goes_as(&mut h, (C.0, &under(1, answer)), (A.1, &under(0, answer)));
        is_wrong(&mut h, A.0, answer);
        goes_as(&mut h, (A.0, &under(0, answer)), (CLIENT, answer));
        is_wrong(&mut h, A.0, answer);
        all_wrong(&mut h);
        goes_as(&mut h, (A.1, right), (C.0, &under(1, bare)));
        // The label of a connection that is not there.
        let other = syn(v6, (CLIENT, 4001), back).build();
        assert_eq!(h.enter(h.origin(A.1), &[under(0, &other)]), []);
        assert_eq!(h.dropped(DropReason::ChainPlaceUnknown), 1);
        // What it sends under its own name bears none.
        let own = between(FrameBuilder::udp(v6, 5, 6), v6, A.0, FAR).build();
        assert_eq!(h.enter(h.origin(A.0), &[under(0, &own)]), []);
        let out = h.enter(h.origin(A.0), std::slice::from_ref(&own));
        assert_eq!(out, [(At::Vtep(REMOTE.into()), own)]);
    }
}

#[test]
fn super_frames_fragments_and_errors_bear_their_label() {
    for v6 in [false, true] {
        let c = conf(vec![labelled(&[A], 0)]);
        let mut h = Host::new(&c);
        let (there, back) = ((CLIENT, 4000), (SERVER, 80));
        let bare = &syn(v6, there, back).build()[..];
        goes_as(&mut h, (CLIENT, bare), (A.0, &under(0, bare)));
        goes_as(&mut h, (A.1, &under(0, bare)), (SERVER, bare));
        let bare = &syn_ack(v6, back, there).build()[..];
        goes_as(&mut h, (SERVER, bare), (A.1, &under(0, bare)));
        goes_as(&mut h, (A.0, &under(0, bare)), (CLIENT, bare));
        // A train is one frame under one label; who writes it to a device cuts it.
        let train = ack(v6, there, back).payload(&[7; 5000]).build();
        let mut packet = h.pool.take(train.len()).unwrap();
        packet.fill(&train).unwrap();
        packet.set_origin(h.origin(CLIENT));
        let gso = Gso::Tcp {
            size: 1300,
            ecn: false,
        };
        packet.set_offload(Offload {
            checksum: Checksum::Verified,
            gso,
        });
        let tx = h.dp.ledger().tx;
        let got = h.enter_packet(packet);
        assert_eq!(got, [(At::Port(A.0), under(0, &train))]);
        assert_eq!(h.dp.ledger().tx, tx + 4);
        // A packet as large as the network carries; a larger one out of the appliance is told of under the label.
        let ip = if v6 { 40 } else { 20 };
        let full = ack(v6, there, back).payload(&vec![1; 1450 - ip - 20]);
        let bare = &full.build()[..];
        goes_as(&mut h, (CLIENT, bare), (A.0, &under(0, bare)));
        goes_as(&mut h, (A.1, &under(0, bare)), (SERVER, bare));
        let large = ack(v6, there, back).payload(&vec![1; 1451 - ip - 20]);
        let got = h.enter(h.origin(A.1), &[under(0, &large.build())]);
        assert_eq!(got.len(), 1);
        assert_eq!(got[0].0, At::Port(A.1));
        assert_eq!(got[0].1[12..18], under(0, bare)[12..18]);
        assert_eq!(h.dropped(DropReason::MtuExceeded), 1);
    }
}

#[test]
fn behind_an_appliance_a_graph_goes_on_by_another_one() {
    for v6 in [false, true] {
        let mut c = conf(vec![closed(&[A])]);
        c.chain(CHAIN + 1, 80, vec![firewall(), closed(&[C])]);
        c.chain(CHAIN + 2, 80, vec![closed(&[B])]);
        c.in_graph(CHAIN, 0, &[CHAIN + 1]);
        c.in_graph(CHAIN + 1, 1, &[CHAIN + 2]);
        c.in_graph(CHAIN + 2, 2, &[]);
        let mut h = Host::new(&c);
        let (there, back) = ((CLIENT, 4000), (SERVER, 80));
        let forward = [(CLIENT, A.0), (A.1, C.0), (C.1, B.0), (B.1, SERVER)];
        let reply = [(SERVER, B.1), (B.0, C.1), (C.0, A.1), (A.0, CLIENT)];
        goes(&mut h, &syn(v6, there, back), &forward);
        goes(&mut h, &syn_ack(v6, back, there), &reply);
        goes(&mut h, &ack(v6, there, back), &forward);
        let before = h.dp.counters().lookups;
        goes(&mut h, &ack(v6, there, back), &forward);
        assert_eq!(h.dp.counters().lookups.upcall, before.upcall);
        assert_eq!(packets(&h), [4, 4, 4, 4]);
    }
}
