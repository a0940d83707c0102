//! Several workers are one switch: fragments, shapers and changed addresses, whoever reads a packet.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "tests fail loudly"
)]

use std::time::Duration;

use hostconfig::{
    Discipline, FunctionKind, SecurityGroupRule, Shaper,
    group::{Direction, Family, L4Match},
    port::AddressPair,
};
use net::{
    DropReason, Headers, PortRange, Prefix, UnicastMac,
    flow_key::proto,
    testkit::{FrameBuilder, mac},
};
use tests::{
    fabric::{Build, Fabric, Received, payloads},
    plan::{NetId, Plan, PortUuid, allow, allow_all, from_network},
    traffic::Between,
};
use vswitch::io::memory::Frame;

/// A client that may ask anything and hears answers alone, a server of UDP 53 on host `far`, and a third port beside the client.
struct Scene {
    fabric: Fabric,
    net: NetId,
    client: PortUuid,
    server: PortUuid,
    third: PortUuid,
}

fn scene(far: usize, workers: u16, change: impl FnOnce(&mut Plan, PortUuid)) -> Scene {
    let mut plan = Plan::new(2);
    let net = plan.network("net");
    let asks = plan.group(allow_all(Direction::Egress));
    let dns = |family| SecurityGroupRule {
        protocol: Some(proto::UDP),
        l4: L4Match::Ports(PortRange::one(53)),
        ..allow(Direction::Ingress, family)
    };
    let serves = plan.group(vec![dns(Family::V4), dns(Family::V6)]);
    let client = plan.port(0, net, &[asks]);
    let server = plan.port(far, net, &[serves]);
    let third = plan.port(0, net, &[asks]);
    change(&mut plan, client);
    let build = Build {
        workers,
        seed: u64::from(workers),
        ..Build::default()
    };
    Scene {
        fabric: Fabric::build(plan, build),
        net,
        client,
        server,
        third,
    }
}

/// One datagram in three pieces.
fn pieces(udp: &FrameBuilder, id: u32) -> [Vec<u8>; 3] {
    let piece = |offset, more| {
        let piece = udp.clone().payload(&[7; 64]).fragment(id, offset, more);
        piece.build()
    };
    // Eight bytes of UDP and 64 of payload, then 64 each.
    [piece(0, true), piece(9, true), piece(17, false)]
}

const ORDERS: [[usize; 3]; 6] = [
    [0, 1, 2],
    [0, 2, 1],
    [1, 0, 2],
    [1, 2, 0],
    [2, 0, 1],
    [2, 1, 0],
];

/// Sends the pieces in this order; all that arrived, once all are sent.
fn send_pieces(
    fabric: &mut Fabric,
    from: PortUuid,
    udp: &FrameBuilder,
    id: u32,
    order: [usize; 3],
) -> Vec<Received> {
    let pieces = pieces(udp, id);
    let sent = order.iter().flat_map(|n| fabric.send(from, &pieces[*n]));
    sent.collect()
}

fn upcalls(fabric: &Fabric) -> u64 {
    let hosts = 0..fabric.plan.hosts();
    hosts
        .flat_map(|h| fabric.datapaths(h))
        .map(|d| d.counters().lookups.upcall)
        .sum()
}

#[test]
fn the_fragments_of_a_packet_meet_whoever_reads_them_and_in_whichever_order() {
    for v6 in [false, true] {
        for (workers, far) in [(1, 1), (2, 0), (3, 1), (4, 1)] {
            let mut s = scene(far, workers, |_, _| {});
            let plan = s.fabric.plan.clone();
            let there = Between {
                plan: &plan,
                from: s.client,
                to: s.server,
                v6,
            };
            let back = Between {
                from: s.server,
                to: s.client,
                ..there
            };
            for (n, order) in (0u16..24).zip(ORDERS.into_iter().cycle()) {
                let asked = there.udp(2000 + n, 53);
                let got = send_pieces(&mut s.fabric, s.client, &asked, n.into(), order);
                assert_eq!(got.len(), 3, "{workers} workers, {order:?}");
                assert!(got.iter().all(|r| r.port == s.server));
                // The answer is let in by the record alone: each fragment must find it.
                let answer = back.udp(53, 2000 + n);
                let id = 0x8000 + u32::from(n);
                let got = send_pieces(&mut s.fabric, s.server, &answer, id, order);
                assert_eq!(got.len(), 3, "{workers} workers, {order:?}");
                assert!(got.iter().all(|r| r.port == s.client));
            }
            assert_eq!(s.fabric.total().dropped_total(), 0);
            assert_eq!(s.fabric.total().held, 0);
        }
    }
}

#[test]
fn the_fragments_of_a_packet_have_one_member() {
    for v6 in [false, true] {
        for workers in 1..=3 {
            let mut plan = Plan::new(3);
            let net = plan.network("net");
            let open = plan.open_group();
            let client = plan.port(0, net, &[open]);
            let members: Vec<_> = (0..4).map(|n| plan.port(n % 3, net, &[open])).collect();
            let (vip, balancer) = plan.load_balancer(net, v6, (proto::UDP, 80), &members);
            plan.chain(
                vec![from_network(net)],
                vec![FunctionKind::LoadBalancer(balancer)],
            );
            let build = Build {
                workers,
                seed: 7,
                ..Build::default()
            };
            let mut fabric = Fabric::build(plan, build);
            let plan = fabric.plan.clone();
            for (n, order) in (0u16..24).zip(ORDERS.into_iter().cycle()) {
                let between = |from, to| Between {
                    plan: &plan,
                    from,
                    to,
                    v6,
                };
                let asked = between(client, vip).udp(2000 + n, 80);
                let got = send_pieces(&mut fabric, client, &asked, n.into(), order);
                assert_eq!(got.len(), 3, "{workers} workers, {order:?}");
                let member = got[0].port;
                for r in &got {
                    let (_, key) = Headers::parse(&r.frame.bytes).unwrap();
                    assert_eq!((r.port, key.dst_addr()), (member, plan.addr(member, v6)));
                }
                let answer = between(member, client).udp(8080, 2000 + n);
                let got = send_pieces(&mut fabric, member, &answer, 0x8000 + u32::from(n), order);
                assert_eq!(got.len(), 3, "{workers} workers, {order:?}");
                for r in &got {
                    let (_, key) = Headers::parse(&r.frame.bytes).unwrap();
                    assert_eq!((r.port, key.src_addr()), (client, plan.addr(vip, v6)));
                }
            }
            assert_eq!(fabric.total().dropped_total(), 0);
        }
    }
}

#[test]
fn a_fragment_that_waits_for_its_first_in_vain_says_so() {
    for workers in [1, 3] {
        let mut s = scene(1, workers, |_, _| {});
        let plan = s.fabric.plan.clone();
        let udp = Between {
            plan: &plan,
            from: s.client,
            to: s.server,
            v6: false,
        }
        .udp(2000, 53);
        let [first, later, _] = pieces(&udp, 5);
        assert_eq!(s.fabric.send_judged(s.client, &later), (vec![], vec![]));
        assert_eq!(s.fabric.total().held, 1);
        s.fabric.advance(Duration::from_secs(3));
        assert_eq!(
            s.fabric.total().dropped(DropReason::FragmentUnmatched),
            1,
            "its time is over"
        );
        assert_eq!(s.fabric.total().held, 0);
        // The first one comes too late for it, and goes alone.
        assert_eq!(s.fabric.send(s.client, &first).len(), 1);
    }
}

#[test]
fn who_sends_fragments_without_a_first_takes_no_room_from_others() {
    let mut s = scene(1, 1, |_, _| {});
    let plan = s.fabric.plan.clone();
    let between = |from| Between {
        plan: &plan,
        from,
        to: s.server,
        v6: false,
    };
    for id in 0..400 {
        let [_, later, _] = pieces(&between(s.third).udp(9, 53), id);
        assert_eq!(s.fabric.send(s.third, &later), []);
    }
    let full = s.fabric.total().dropped(DropReason::FragmentTableFull);
    assert_eq!(full + s.fabric.total().held, 400);
    assert!(full >= 300, "{full} were displaced by their own");
    let udp = between(s.client).udp(2000, 53);
    let got = send_pieces(&mut s.fabric, s.client, &udp, 5, [2, 1, 0]);
    assert_eq!(got.len(), 3);
    // The newest of the flooder's are there.
    let [first, ..] = pieces(&between(s.third).udp(9, 53), 399);
    assert_eq!(s.fabric.send(s.third, &first).len(), 2);
}

/// The client may also send from this address.
const SECOND_MAC: u16 = 0x7777;

fn with_pair(plan: &mut Plan, client: PortUuid) {
    let pairs = [false, true].map(|v6| AddressPair {
        mac: UnicastMac::try_from(mac(SECOND_MAC)).unwrap(),
        prefix: Prefix::host(plan.addr(client, v6)),
    });
    plan.get_mut(client).allowed_address_pairs = pairs.into();
}

#[test]
fn a_connection_whose_peer_changed_its_mac_address_is_walked_once() {
    for v6 in [false, true] {
        for (workers, far) in [(1, 0), (1, 1), (3, 0), (3, 1)] {
            let mut s = scene(far, workers, with_pair);
            let plan = s.fabric.plan.clone();
            let there = Between {
                plan: &plan,
                from: s.client,
                to: s.server,
                v6,
            };
            let back = Between {
                from: s.server,
                to: s.client,
                ..there
            };
            let (own, second) = (plan.mac(s.client), mac(SECOND_MAC));
            let server = plan.mac(s.server);
            let asked = there.udp(2000, 53);
            let answer = back.udp(53, 2000);
            for _ in 0..3 {
                assert_eq!(s.fabric.send(s.client, &asked.build()).len(), 1);
                assert_eq!(s.fabric.send(s.server, &answer.build()).len(), 1);
            }
            // What is forged is refused, again and again, and changes nothing.
            let before = upcalls(&s.fabric);
            let forged = asked.clone().macs(mac(0x6666), server).build();
            for _ in 0..3 {
                let (received, drops) = s.fabric.send_judged(s.client, &forged);
                assert_eq!(
                    (received, drops),
                    (vec![], vec![DropReason::PortSecurityMac])
                );
            }
            let walked = upcalls(&s.fabric) - before;
            assert_eq!(s.fabric.send(s.client, &asked.build()).len(), 1);
            assert_eq!(
                upcalls(&s.fabric) - before,
                walked,
                "the record stands as it was"
            );
            // The other node of the pair takes over: one walk a switch and direction, then none.
            for (mac, step) in [(second, "there"), (own, "and back again")] {
                let asked = asked.clone().macs(mac, server).build();
                // Another switch knows the port's own address alone.
                let to = if far == 0 { mac } else { own };
                let answer = answer.clone().macs(server, to).build();
                assert_eq!(s.fabric.send(s.client, &asked).len(), 1, "{step}");
                assert_eq!(s.fabric.send(s.server, &answer).len(), 1, "{step}");
                let before = upcalls(&s.fabric);
                for _ in 0..10 {
                    assert_eq!(s.fabric.send(s.client, &asked).len(), 1);
                    assert_eq!(s.fabric.send(s.server, &answer).len(), 1);
                }
                assert_eq!(
                    upcalls(&s.fabric) - before,
                    0,
                    "{workers} workers, {far}: {step}"
                );
            }
        }
    }
}

#[test]
fn answers_of_a_balanced_connection_go_to_the_clients_new_mac_address() {
    for v6 in [false, true] {
        for workers in [1, 3] {
            let mut plan = Plan::new(1);
            let net = plan.network("net");
            let open = plan.open_group();
            let client = plan.port(0, net, &[open]);
            with_pair(&mut plan, client);
            let member = plan.port(0, net, &[open]);
            let (vip, balancer) = plan.load_balancer(net, v6, (proto::UDP, 80), &[member]);
            plan.chain(
                vec![from_network(net)],
                vec![FunctionKind::LoadBalancer(balancer)],
            );
            let build = Build {
                workers,
                ..Build::default()
            };
            let mut fabric = Fabric::build(plan, build);
            let plan = fabric.plan.clone();
            for port in 2000..2010 {
                let between = |from, to| Between {
                    plan: &plan,
                    from,
                    to,
                    v6,
                };
                for from in [plan.mac(client), mac(SECOND_MAC), plan.mac(client)] {
                    let asked = between(client, vip).udp(port, 80).macs(from, plan.mac(vip));
                    assert_eq!(fabric.send(client, &asked.build()).len(), 1);
                    let answer = between(member, client).udp(8080, port);
                    let answer = answer.macs(plan.mac(member), from).build();
                    for _ in 0..2 {
                        let got = fabric.send(member, &answer);
                        assert_eq!(got.len(), 1);
                        let (_, key) = Headers::parse(&got[0].frame.bytes).unwrap();
                        assert_eq!((got[0].port, key.dst_mac()), (client, from));
                        assert_eq!(key.src_mac(), plan.mac(vip));
                    }
                }
            }
        }
    }
}

fn shaper(rate_bps: u64, queue: Discipline) -> FunctionKind {
    FunctionKind::Shaper(Shaper {
        rate_bps,
        burst_bytes: 3000,
        queue_bytes: 40_000,
        queue,
        share: None,
        classes: Vec::new(),
    })
}

/// 1,000 bytes of frame.
fn datagram(between: &Between<'_>, ports: (u16, u16)) -> Frame {
    let head = between.udp(ports.0, ports.1).build().len();
    let frame = between.udp(ports.0, ports.1).payload(&vec![0; 1000 - head]);
    Frame {
        bytes: frame.build(),
        ..Frame::default()
    }
}

/// Many connections, each way twice as much as the shapers let go, for so long; the bits that arrived at server and client.
fn offer(s: &mut Scene, v6: bool, time: Duration, connections: u16) -> [u64; 2] {
    let plan = s.fabric.plan.clone();
    let there = Between {
        plan: &plan,
        from: s.client,
        to: s.server,
        v6,
    };
    let back = Between {
        from: s.server,
        to: s.client,
        ..there
    };
    let mut bits = [0; 2];
    let mut next = (0..connections).cycle();
    let step = Duration::from_millis(20);
    for _ in 0..time.as_millis() / step.as_millis() {
        for _ in 0..10 {
            let port = 2000 + next.next().unwrap();
            s.fabric.inject(s.client, datagram(&there, (port, 53)));
            s.fabric.inject(s.server, datagram(&back, (53, port)));
        }
        s.fabric.advance(step);
        for (bits, port) in bits.iter_mut().zip([s.server, s.client]) {
            for frame in s.fabric.receive_at(port) {
                *bits += 8000 * u64::try_from(payloads(&frame).len()).unwrap();
            }
        }
    }
    bits
}

fn exactly(bits: [u64; 2], rate: u64, seconds: u64, what: &str) {
    for bits in bits {
        let wanted = rate * seconds;
        assert!(
            bits.abs_diff(wanted) <= wanted / 1000 + 8000,
            "{what}: {bits} of {wanted}"
        );
    }
}

#[test]
fn a_shapers_rate_is_one_whichever_workers_have_its_connections() {
    let (fifo, fair) = (Discipline::Fifo, Discipline::FqCodel);
    for (workers, v6, queue) in [
        (1, false, fifo),
        (2, true, fair),
        (3, false, fair),
        (4, true, fifo),
    ] {
        let mut s = scene(1, workers, |_, _| {});
        let chain = (s.fabric.plan).chain(vec![from_network(s.net)], vec![]);
        s.fabric.apply();
        // Connections on every worker, before anything shapes them.
        offer(&mut s, v6, Duration::from_millis(200), 40);
        let set = |s: &mut Scene, functions: Vec<FunctionKind>| {
            s.fabric.plan.set_functions(chain, functions);
            s.fabric.apply();
            // Bursts go, and queues fill.
            offer(s, v6, Duration::from_secs(1), 60);
        };
        let ten = Duration::from_secs(10);
        set(&mut s, vec![shaper(2_000_000, queue)]);
        let bits = offer(&mut s, v6, ten, 60);
        exactly(bits, 2_000_000, 10, &format!("{workers}: one"));
        set(
            &mut s,
            vec![shaper(2_000_000, queue), shaper(1_000_000, queue)],
        );
        let bits = offer(&mut s, v6, ten, 60);
        exactly(bits, 1_000_000, 10, &format!("{workers}: the second"));
        // The first goes while the second's queue is full: that one's rate holds across the change.
        s.fabric.plan.chain_mut(chain).functions.remove(0);
        s.fabric.apply();
        let bits = offer(&mut s, v6, ten, 80);
        exactly(bits, 1_000_000, 10, &format!("{workers}: the second alone"));
        // Without shapers all goes again, and nothing waits.
        s.fabric.plan.set_functions(chain, vec![]);
        s.fabric.apply();
        s.fabric.advance(Duration::from_secs(1));
        assert_eq!(s.fabric.total().held, 0);
    }
}
