//! Several workers are one switch: shapers and changed addresses, whoever reads a packet.

#![expect(clippy::unwrap_used, reason = "tests fail loudly")]

use std::time::Duration;

use hostconfig::{
    FunctionKind, SecurityGroupRule, Shaper,
    group::{Direction, Family, L4Match},
    port::AddressPair,
};
use net::{DropReason, Headers, PortRange, Prefix, UnicastMac, flow_key::proto, testkit::mac};
use tests::{
    fabric::{Build, Fabric, payloads},
    plan::{NetId, Plan, PortUuid, allow, allow_all, from_network},
    traffic::Between,
};
use vswitch::io::memory::Frame;

/// A client that may ask anything and hears answers alone, a server of UDP 53 on host `far`.
struct Scene {
    fabric: Fabric,
    net: NetId,
    client: PortUuid,
    server: PortUuid,
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
    }
}

fn upcalls(fabric: &Fabric) -> u64 {
    let hosts = 0..fabric.plan.hosts();
    hosts
        .flat_map(|h| fabric.datapaths(h))
        .map(|d| d.counters().lookups.upcall)
        .sum()
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

fn shaper(rate_bps: u64) -> FunctionKind {
    FunctionKind::Shaper(Shaper {
        rate_bps,
        burst_bytes: 3000,
        queue_bytes: 40_000,
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
    for (workers, v6) in [(1, false), (2, true), (3, false), (4, true)] {
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
        set(&mut s, vec![shaper(2_000_000)]);
        let bits = offer(&mut s, v6, ten, 60);
        exactly(bits, 2_000_000, 10, &format!("{workers}: one"));
        set(&mut s, vec![shaper(2_000_000), shaper(1_000_000)]);
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
