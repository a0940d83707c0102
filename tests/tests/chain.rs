//! Chains: a firewall, a load balancer and a shaper, over one, two and three hosts.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "tests fail loudly"
)]

use std::{collections::BTreeMap, time::Duration};

use hostconfig::{
    Firewall, FunctionKind, LoadBalancer, Shaper,
    chain::{Action, Classifier, FirewallRule, Side},
};
use net::{
    DropReason, Id, Prefix,
    flow_key::proto,
    ids::kind,
    testkit::{self, FrameBuilder},
};
use tests::{
    fabric::{Build, Fabric, Received, payloads},
    plan::{NetId, Plan, PortUuid, firewall_rule, from_network},
    traffic::{Between, answer},
};

/// A client on host 0, members spread over the other hosts, and a chain over the client's network.
struct Scene {
    fabric: Fabric,
    net: NetId,
    client: PortUuid,
    members: Vec<PortUuid>,
    vip: PortUuid,
    chain: Id<kind::PortChain>,
    balancer: LoadBalancer,
    v6: bool,
}

fn scene(v6: bool, hosts: usize, members: usize, build: Build) -> Scene {
    let mut plan = Plan::new(hosts);
    let net = plan.network("net");
    let open = plan.open_group();
    let client = plan.port(0, net, &[open]);
    let members: Vec<_> = (0..members)
        .map(|n| plan.port((n + 1) % hosts, net, &[open]))
        .collect();
    let (vip, balancer) = plan.load_balancer(net, v6, (proto::TCP, 80), &members);
    let functions = vec![FunctionKind::LoadBalancer(balancer.clone())];
    let chain = plan.chain(vec![from_network(net)], functions);
    Scene {
        fabric: Fabric::build(plan, build),
        net,
        client,
        members,
        vip,
        chain,
        balancer,
        v6,
    }
}

impl Scene {
    fn syn(&self, sport: u16) -> Vec<u8> {
        let between = Between {
            plan: &self.fabric.plan,
            from: self.client,
            to: self.vip,
            v6: self.v6,
        };
        between.syn(sport, 80).build()
    }

    /// Opens a connection; the member that got it, and what the client received last.
    fn open(&mut self, sport: u16) -> (PortUuid, Received) {
        let syn = self.syn(sport);
        let received = self.fabric.send(self.client, &syn);
        assert_eq!(received.len(), 1, "one member gets it: {received:?}");
        let member = received[0].port;
        assert!(testkit::checksums_hold(&received[0].frame.bytes));
        let (_, key) = net::Headers::parse(&received[0].frame.bytes).unwrap();
        assert_eq!(key.dst_addr(), self.fabric.plan.addr(member, self.v6));
        assert_eq!(key.l4_dst, 8080);
        let back = answer(&received[0].frame.bytes, b"").unwrap();
        let received = self.fabric.send(member, &back);
        assert_eq!(received.len(), 1, "the answer comes back: {received:?}");
        self.is_from_vip(&received[0]);
        let ack = answer(&received[0].frame.bytes, b"GET").unwrap();
        let there = self.fabric.send(self.client, &ack);
        assert_eq!(there.len(), 1);
        assert_eq!(there[0].port, member);
        (member, received[0].clone())
    }

    fn is_from_vip(&self, received: &Received) {
        assert_eq!(received.port, self.client);
        assert!(testkit::checksums_hold(&received.frame.bytes));
        let (_, key) = net::Headers::parse(&received.frame.bytes).unwrap();
        assert_eq!(key.src_addr(), self.fabric.plan.addr(self.vip, self.v6));
        assert_eq!(
            (key.l4_src, key.src_mac()),
            (80, self.fabric.plan.mac(self.vip))
        );
        assert_eq!(key.dst_addr(), self.fabric.plan.addr(self.client, self.v6));
    }

    fn set(&mut self, functions: Vec<FunctionKind>) {
        self.fabric.plan.set_functions(self.chain, functions);
        self.fabric.apply();
    }

    /// Which rules dropped something, by reason.
    fn rules_that_dropped(&self) -> Vec<(DropReason, Option<Id<kind::Rule>>)> {
        let hosts = 0..self.fabric.plan.hosts();
        let mut all: Vec<_> = hosts
            .flat_map(|h| self.fabric.datapaths(h))
            .flat_map(|d| d.drops().iter().map(|r| (r.refusal.reason, r.refusal.rule)))
            .collect();
        all.sort();
        all
    }
}

fn deny_from(source: Prefix) -> FirewallRule {
    FirewallRule {
        source: Some(source),
        ..firewall_rule(Action::Deny)
    }
}

fn firewall(rules: Vec<FirewallRule>) -> FunctionKind {
    FunctionKind::Firewall(Firewall {
        rules,
        default: Action::Allow,
    })
}

#[test]
fn each_connection_keeps_its_member_and_all_members_get_some() {
    for v6 in [false, true] {
        for hosts in 1..=3 {
            let mut scene = scene(v6, hosts, 10, Build::default());
            let mut shares: BTreeMap<PortUuid, u32> = BTreeMap::new();
            let mut open = vec![];
            for sport in 10_000..10_400 {
                let (member, last) = scene.open(sport);
                *shares.entry(member).or_default() += 1;
                open.push((member, last));
            }
            assert_eq!(shares.len(), 10);
            // 400 over 10: four standard deviations around 40.
            assert!(shares.values().all(|n| (16..=64).contains(n)), "{shares:?}");
            for (member, last) in &open {
                let next = answer(&last.frame.bytes, b"GET").unwrap();
                let received = scene.fabric.send(scene.client, &next);
                assert_eq!(received.len(), 1);
                assert_eq!(received[0].port, *member);
            }
        }
    }
}

#[test]
fn removing_a_member_moves_no_connection_of_the_others_and_few_of_their_choices() {
    for v6 in [false, true] {
        let mut scene = scene(v6, 3, 10, Build::default());
        let open: Vec<_> = (10_000..10_300).map(|sport| scene.open(sport)).collect();
        let gone = scene.members[4];
        let mut balancer = scene.balancer.clone();
        balancer.members.retain(|m| m.id != gone);
        scene.set(vec![FunctionKind::LoadBalancer(balancer)]);
        for (member, last) in open.iter().filter(|(m, _)| *m != gone) {
            let next = answer(&last.frame.bytes, b"GET").unwrap();
            let received = scene.fabric.send(scene.client, &next);
            assert_eq!(received.len(), 1, "a connection of another member goes on");
            assert_eq!(received[0].port, *member);
        }
        // New connections under the same tuples: what chose another member stays with it, but for 2 %.
        let mut moved = 0;
        let mut others = 0;
        let mut fresh = self::scene(v6, 3, 10, Build::default());
        let mut balancer = fresh.balancer.clone();
        balancer.members.retain(|m| m.id != gone);
        fresh.set(vec![FunctionKind::LoadBalancer(balancer)]);
        for ((before, _), sport) in open.iter().zip(10_000..) {
            let (after, _) = fresh.open(sport);
            if *before != gone {
                others += 1;
                moved += u32::from(after != *before);
            }
        }
        assert!(moved * 50 <= others, "{moved} of {others} moved");
    }
}

#[test]
fn a_member_without_weight_takes_no_new_connection_and_keeps_its_old_ones() {
    for v6 in [false, true] {
        let mut scene = scene(v6, 2, 2, Build::default());
        let open: Vec<_> = (10_000..10_020).map(|sport| scene.open(sport)).collect();
        let drained = scene.members[0];
        let mut balancer = scene.balancer.clone();
        for member in &mut balancer.members {
            if member.id == drained {
                member.weight = 0;
            }
        }
        scene.set(vec![FunctionKind::LoadBalancer(balancer)]);
        for (member, last) in &open {
            let next = answer(&last.frame.bytes, b"GET").unwrap();
            assert_eq!(scene.fabric.send(scene.client, &next)[0].port, *member);
        }
        for sport in 20_000..20_020 {
            assert_eq!(scene.open(sport).0, scene.members[1]);
        }
    }
}

#[test]
fn a_client_that_is_its_own_member_talks_to_itself_through_the_address() {
    for v6 in [false, true] {
        for hosts in [1, 2] {
            let mut scene = scene(v6, hosts, 0, Build::default());
            let client = scene.client;
            let (_, balancer) = {
                let plan = &mut scene.fabric.plan;
                plan.load_balancer(scene.net, v6, (proto::TCP, 80), &[client])
            };
            let mut ours = scene.balancer.clone();
            ours.members = balancer.members;
            scene.set(vec![FunctionKind::LoadBalancer(ours)]);
            let syn = scene.syn(4000);
            let mut last = scene.fabric.send(client, &syn);
            for n in 0..6 {
                assert_eq!(last.len(), 1, "segment {n}");
                assert_eq!(last[0].port, client);
                let (_, key) = net::Headers::parse(&last[0].frame.bytes).unwrap();
                let vip = scene.fabric.plan.addr(scene.vip, v6);
                assert_eq!(
                    key.src_addr(),
                    vip,
                    "segment {n} seems to come from the address"
                );
                assert!(testkit::checksums_hold(&last[0].frame.bytes));
                // The stack answers to where it came from, as ARP or ND told it.
                let back = answer(&last[0].frame.bytes, b"data").unwrap();
                last = scene.fabric.send(client, &back);
            }
        }
    }
}

#[test]
fn a_firewalls_denial_names_its_rule_on_the_host_of_whoever_is_denied() {
    for v6 in [false, true] {
        // Client, member and third party on three hosts.
        let mut scene = scene(v6, 3, 1, Build::default());
        let open = scene.fabric.plan.get(scene.client).security_groups.clone();
        let third = scene.fabric.plan.port(2, scene.net, &open);
        let rule = deny_from(Prefix::host(scene.fabric.plan.addr(third, v6)));
        let balancer = FunctionKind::LoadBalancer(scene.balancer.clone());
        scene.set(vec![firewall(vec![rule]), balancer]);
        scene.open(4000);
        let syn = Between {
            plan: &scene.fabric.plan,
            from: third,
            to: scene.vip,
            v6,
        }
        .syn(4000, 80)
        .build();
        let (received, drops) = scene.fabric.send_judged(third, &syn);
        assert_eq!(received, []);
        assert_eq!(drops, [DropReason::FirewallDenied]);
        let functions = &scene.fabric.plan.chain_mut(scene.chain).functions;
        let FunctionKind::Firewall(there) = &functions[0].kind else {
            panic!("the firewall comes first")
        };
        let id = there.rules[0].id;
        assert_eq!(
            scene.rules_that_dropped(),
            [(DropReason::FirewallDenied, Some(id))]
        );
        assert_eq!(
            scene.fabric.ledger(2).dropped(DropReason::FirewallDenied),
            1
        );
    }
}

#[test]
fn a_chain_replaced_under_traffic_breaks_nothing_it_still_allows() {
    for v6 in [false, true] {
        let mut scene = scene(v6, 3, 4, Build::default());
        let balancer = FunctionKind::LoadBalancer(scene.balancer.clone());
        let open: Vec<_> = (10_000..10_020).map(|sport| scene.open(sport)).collect();
        let stranger = deny_from(
            if v6 { "fd09::/64" } else { "10.9.0.0/24" }
                .parse()
                .unwrap(),
        );
        let shaper = FunctionKind::Shaper(Shaper {
            rate_bps: 1_000_000_000,
            burst_bytes: 1 << 20,
            queue_bytes: 1 << 20,
            queue: hostconfig::Discipline::Fifo,
            share: None,
            classes: Vec::new(),
        });
        let variants = [
            vec![firewall(vec![]), balancer.clone()],
            vec![
                firewall(vec![stranger.clone()]),
                balancer.clone(),
                shaper.clone(),
            ],
            vec![shaper, balancer.clone(), firewall(vec![stranger])],
            vec![balancer.clone()],
        ];
        for functions in variants {
            scene.set(functions);
            for (member, last) in &open {
                let there = answer(&last.frame.bytes, b"GET").unwrap();
                let received = scene.fabric.send(scene.client, &there);
                assert_eq!(received.len(), 1);
                assert_eq!(received[0].port, *member);
                let back = answer(&received[0].frame.bytes, b"").unwrap();
                let received = scene.fabric.send(*member, &back);
                assert_eq!(received.len(), 1);
                scene.is_from_vip(&received[0]);
            }
        }
        // What is denied now ends with that rule, in whichever direction the next packet goes.
        let client = deny_from(Prefix::host(scene.fabric.plan.addr(scene.client, v6)));
        scene.set(vec![firewall(vec![client]), balancer]);
        for (n, (member, last)) in open.iter().enumerate() {
            let there = answer(&last.frame.bytes, b"GET").unwrap();
            let drops = if n % 2 == 0 {
                scene.fabric.send_judged(scene.client, &there).1
            } else {
                let ports = net::Headers::parse(&last.frame.bytes).unwrap().1;
                let between = Between {
                    plan: &scene.fabric.plan,
                    from: *member,
                    to: scene.client,
                    v6,
                };
                let back = between.ack(8080, ports.l4_dst).seq(1001, 104).build();
                scene.fabric.send_judged(*member, &back).1
            };
            assert_eq!(drops, [DropReason::FirewallDenied]);
        }
    }
}

#[test]
fn an_address_without_members_or_listener_says_so() {
    for v6 in [false, true] {
        let mut scene = scene(v6, 2, 0, Build::default());
        let syn = scene.syn(4000);
        let (_, drops) = scene.fabric.send_judged(scene.client, &syn);
        assert_eq!(drops, [DropReason::NoHealthyMember]);
        let between = Between {
            plan: &scene.fabric.plan,
            from: scene.client,
            to: scene.vip,
            v6,
        };
        let (elsewhere, ping) = (between.syn(4001, 81).build(), between.echo(5).build());
        let asked = between.who_has();
        let (_, drops) = scene.fabric.send_judged(scene.client, &elsewhere);
        assert_eq!(drops, [DropReason::NoListener]);
        for frame in [ping, asked] {
            let received = scene.fabric.send(scene.client, &frame);
            assert_eq!(received.len(), 1, "the client's own switch answers");
            assert_eq!(received[0].port, scene.client);
        }
    }
}

#[test]
fn an_icmp_error_from_a_member_seems_to_come_from_the_address() {
    for v6 in [false, true] {
        let mut scene = scene(v6, 2, 1, Build::default());
        let syn = scene.syn(4000);
        let received = scene.fabric.send(scene.client, &syn);
        let error = FrameBuilder::icmp_error(&received[0].frame.bytes);
        let received = scene.fabric.send(scene.members[0], &error);
        assert_eq!(received.len(), 1, "it is related to a connection");
        assert_eq!(received[0].port, scene.client);
        let frame = &received[0].frame.bytes;
        assert!(testkit::checksums_hold(frame));
        let (headers, key) = net::Headers::parse(frame).unwrap();
        assert_eq!(key.src_addr(), scene.fabric.plan.addr(scene.vip, v6));
        let quoted = headers.quoted(frame).unwrap().tuple;
        assert_eq!(
            quoted.dst_addr(),
            scene.fabric.plan.addr(scene.vip, v6),
            "the quote is turned back"
        );
        assert_eq!(quoted.dst_port, 80);
        assert_eq!(quoted.src_addr(), scene.fabric.plan.addr(scene.client, v6));
    }
}

#[test]
fn both_directions_of_a_translated_connection_meet_whichever_worker_reads_them() {
    for v6 in [false, true] {
        for workers in 2..=4 {
            for hosts in [1, 3] {
                let build = Build {
                    workers,
                    seed: u64::from(workers),
                    ..Build::default()
                };
                let mut scene = scene(v6, hosts, 5, build);
                let open: Vec<_> = (10_000..10_060).map(|sport| scene.open(sport)).collect();
                for (member, last) in &open {
                    let next = answer(&last.frame.bytes, b"GET").unwrap();
                    let received = scene.fabric.send(scene.client, &next);
                    assert_eq!(received.len(), 1);
                    assert_eq!(received[0].port, *member);
                }
                // One record a connection on the client's host, whoever read its packets.
                let records: usize = scene.fabric.datapaths(0).map(|d| d.conntrack().len()).sum();
                let local = open
                    .iter()
                    .filter(|(m, _)| scene.fabric.plan.host_of(*m) == 0);
                assert!(records >= open.len(), "{records}, {} local", local.count());
            }
        }
    }
}

/// Bits a second on the wire, in order, and not a byte above.
#[test]
fn a_shaper_is_exact_in_virtual_time() {
    for v6 in [false, true] {
        let mut scene = scene(v6, 2, 1, Build::default());
        let (rate_bps, burst_bytes) = (8_000_000, 10_000);
        scene.set(vec![FunctionKind::Shaper(Shaper {
            rate_bps,
            burst_bytes,
            queue_bytes: 500_000,
            queue: hostconfig::Discipline::Fifo,
            share: None,
            classes: Vec::new(),
        })]);
        let member = scene.members[0];
        let plan = scene.fabric.plan.clone();
        let between = Between {
            plan: &plan,
            from: scene.client,
            to: member,
            v6,
        };
        // 1,000 bytes of frame each: 300 of them need 0.3 s at 1 MB/s, less the burst.
        let head = between.udp(1, 2).build().len();
        for n in 0..300u16 {
            let mut payload = vec![0; 1000 - head];
            payload[..2].copy_from_slice(&n.to_be_bytes());
            let frame = between.udp(1, 2).payload(&payload).build();
            assert_eq!(frame.len(), 1000);
            scene.fabric.inject(
                scene.client,
                vswitch::io::memory::Frame {
                    bytes: frame,
                    ..vswitch::io::memory::Frame::default()
                },
            );
        }
        scene.fabric.settle();
        let mut bytes = 0u64;
        let mut next = 0u16;
        for millisecond in 0..=300u64 {
            let frames = scene.fabric.receive_at(member);
            for payload in frames.iter().flat_map(payloads) {
                assert_eq!(payload.len(), 1000 - head);
                assert_eq!(payload[..2], next.to_be_bytes(), "in order");
                next += 1;
                bytes += 1000;
            }
            let allowed = burst_bytes + millisecond * rate_bps / 8 / 1000;
            assert!(
                bytes <= allowed,
                "at {millisecond} ms: {bytes} of {allowed}"
            );
            let least = allowed.min(300_000).saturating_sub(2000);
            assert!(bytes >= least, "at {millisecond} ms: {bytes} of {allowed}");
            scene.fabric.advance(Duration::from_millis(1));
        }
        assert_eq!(bytes, 300_000, "nothing was dropped");
        assert_eq!(scene.fabric.ledger(0).held, 0);
    }
}

#[test]
fn a_shaper_delays_up_to_its_queue_before_it_drops() {
    let mut scene = scene(false, 2, 1, Build::default());
    scene.set(vec![FunctionKind::Shaper(Shaper {
        rate_bps: 8_000_000,
        burst_bytes: 2000,
        queue_bytes: 50_000,
        queue: hostconfig::Discipline::Fifo,
        share: None,
        classes: Vec::new(),
    })]);
    let member = scene.members[0];
    let plan = scene.fabric.plan.clone();
    let between = Between {
        plan: &plan,
        from: scene.client,
        to: member,
        v6: false,
    };
    let frame = between.udp(1, 2).payload(&[0; 958]).build();
    assert_eq!(frame.len(), 1000);
    let mut arrived = 0;
    for n in 0..100u64 {
        let (received, drops) = scene.fabric.send_judged(scene.client, &frame);
        arrived += received.iter().flat_map(|r| payloads(&r.frame)).count();
        let (held, lost) = (scene.fabric.ledger(0).held, drops.len());
        if n < 52 {
            assert_eq!(lost, 0, "frame {n} waits");
        } else {
            assert_eq!(
                drops,
                [DropReason::ShaperQueueFull],
                "frame {n} finds {held} waiting"
            );
        }
    }
    assert_eq!(arrived, 2, "the burst");
    assert_eq!(scene.fabric.ledger(0).held, 50);
    scene.fabric.advance(Duration::from_millis(49));
    let count = |f: &mut Fabric| f.receive_at(member).iter().flat_map(payloads).count();
    let almost = count(&mut scene.fabric);
    assert!((48..=50).contains(&almost), "{almost} after 49 ms");
    scene.fabric.advance(Duration::from_millis(2));
    assert_eq!(almost + count(&mut scene.fabric), 50);
}

/// "With neither port: the ports of the classifier's project, never another's", wherever they are.
#[test]
fn a_project_named_as_destination_means_its_ports_on_every_host() {
    for v6 in [false, true] {
        for far in [0, 1] {
            let mut plan = Plan::new(2);
            let net = plan.network("net");
            let open = plan.open_group();
            let client = plan.port(0, net, &[open]);
            let ours = plan.port(far, net, &[open]);
            let theirs = plan.port(far, net, &[open]);
            let project = plan.get(ours).project;
            plan.get_mut(theirs).project = Id::new(uuid::Uuid::from_u128(77));
            let classifier = Classifier {
                destination: Some(Side::Project(project)),
                ..from_network(net)
            };
            let all = firewall_rule(Action::Deny);
            plan.chain(vec![classifier], vec![firewall(vec![all])]);
            let mut fabric = Fabric::new(plan);
            let ask = |fabric: &mut Fabric, to| {
                let plan = fabric.plan.clone();
                let between = Between {
                    plan: &plan,
                    from: client,
                    to,
                    v6,
                };
                fabric.send_judged(client, &between.udp(1, 2).build()).1
            };
            assert_eq!(ask(&mut fabric, ours), [DropReason::FirewallDenied]);
            assert_eq!(ask(&mut fabric, theirs), []);
            // A port that is given to the project is its from the next packet on.
            fabric.plan.get_mut(theirs).project = project;
            fabric.apply();
            assert_eq!(ask(&mut fabric, theirs), [DropReason::FirewallDenied]);
        }
    }
}

#[test]
fn a_virtual_address_is_its_projects() {
    for v6 in [false, true] {
        for ours in [true, false] {
            let mut plan = Plan::new(2);
            let net = plan.network("net");
            let open = plan.open_group();
            let client = plan.port(0, net, &[open]);
            let member = plan.port(1, net, &[open]);
            let (vip, balancer) = plan.load_balancer(net, v6, (proto::TCP, 80), &[member]);
            let project = if ours {
                plan.get(member).project
            } else {
                Id::new(uuid::Uuid::from_u128(77))
            };
            let classifier = Classifier {
                source: None,
                destination: Some(Side::Project(project)),
                ..from_network(net)
            };
            // A chain comes to where a side of its classifier is; the client's network makes it so here.
            let nobody = Classifier {
                protocol: Some(254),
                ..from_network(net)
            };
            let functions = vec![FunctionKind::LoadBalancer(balancer)];
            plan.chain(vec![classifier, nobody], functions);
            let mut fabric = Fabric::new(plan);
            let plan = fabric.plan.clone();
            let between = Between {
                plan: &plan,
                from: client,
                to: vip,
                v6,
            };
            let (received, drops) = fabric.send_judged(client, &between.syn(4000, 80).build());
            if ours {
                assert_eq!(received.len(), 1);
                assert_eq!(received[0].port, member);
            } else {
                assert_eq!(drops, [DropReason::NoListener]);
            }
        }
    }
}

/// The path leaves less than the network promises: whoever sends to a virtual address is told about what it sent, not about what
/// became of it.
#[test]
fn who_sends_more_than_the_underlay_carries_is_told_what_fits() {
    for v6 in [false, true] {
        let weather = vswitch::io::memory::Weather {
            payload_max: 1322,
            ..Default::default()
        };
        let build = Build {
            weather,
            ..Build::default()
        };
        let mut plan = Plan::new(2);
        let net = plan.network("net");
        let open = plan.open_group();
        let client = plan.port(0, net, &[open]);
        let member = plan.port(1, net, &[open]);
        let (vip, balancer) = plan.load_balancer(net, v6, (proto::UDP, 80), &[member]);
        let classifier = hostconfig::Classifier {
            protocol: None,
            ..from_network(net)
        };
        plan.chain(vec![classifier], vec![FunctionKind::LoadBalancer(balancer)]);
        let mut fabric = Fabric::build(plan, build);
        let (plan, headers) = (fabric.plan.clone(), if v6 { 48 } else { 28 });
        for (to, own) in [(vip, plan.addr(vip, v6)), (member, plan.addr(member, v6))] {
            let between = Between {
                plan: &plan,
                from: client,
                to,
                v6,
            };
            let of = |bytes: usize| -> FrameBuilder {
                between.udp(4000, 80).payload(&vec![7; bytes - headers])
            };
            let got = fabric.send(client, &of(1300).build());
            assert_eq!(got.iter().map(|r| r.port).collect::<Vec<_>>(), [member]);
            let before = fabric.ledger(0).dropped(DropReason::MtuExceeded);
            let got = fabric.send(client, &of(1301).build());
            assert_eq!(got.iter().map(|r| r.port).collect::<Vec<_>>(), [client]);
            let after = fabric.ledger(0).dropped(DropReason::MtuExceeded);
            assert_eq!(after - before, 1);
            let error = &got[0].frame.bytes;
            assert!(testkit::checksums_hold(error));
            let (told, key) = net::Headers::parse(error).unwrap();
            let quoted = told.quoted(error).unwrap().tuple;
            assert_eq!(
                (quoted.src_addr(), quoted.src_port),
                (plan.addr(client, v6), 4000)
            );
            assert_eq!((quoted.dst_addr(), quoted.dst_port), (own, 80));
            let at = usize::from(told.l4_at);
            assert_eq!(error[at + 6..at + 8], 1300u16.to_be_bytes());
            assert_eq!(key.dst_addr(), plan.addr(client, v6));
        }
    }
}
