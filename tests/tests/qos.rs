//! Limits and marks of QoS policies, over hosts, by a virtual clock.

use std::{net::IpAddr, time::Duration};

use hostconfig::qos::{Dscp, Limit, Rate};
use net::{DropReason, Headers, testkit::FrameBuilder};
use serde_json::json;
use tests::{
    evidence::{Nic, Region, id},
    fabric::{Build, Fabric, payloads},
    plan::{Plan, PortUuid, bits},
    stack::{Site, transfer::Transfer},
    traffic::Between,
};
use vswitch::io::memory::Frame;

/// A client on the first host, a server on the second, a neighbour of the client's; the client has the policy.
struct Scene {
    fabric: Fabric,
    client: PortUuid,
    server: PortUuid,
    neighbour: PortUuid,
}

fn plan(egress: Limit, ingress: Limit) -> (Plan, [PortUuid; 3]) {
    let mut plan = Plan::new(2);
    let network = plan.network("blue");
    let group = plan.open_group();
    let policy = plan.qos_policy("gold");
    plan.qos_policy_mut(policy).egress = egress;
    plan.qos_policy_mut(policy).ingress = ingress;
    let ports = [0, 1, 0].map(|host| plan.port(host, network, &[group]));
    plan.get_mut(ports[0]).qos = Some(policy);
    (plan, ports)
}

fn scene(egress: Limit, ingress: Limit, build: Build) -> Scene {
    let (plan, [client, server, neighbour]) = plan(egress, ingress);
    Scene {
        fabric: Fabric::build(plan, build),
        client,
        server,
        neighbour,
    }
}

impl Scene {
    /// Frames of a thousand bytes each, of as many flows.
    fn inject(&mut self, from: PortUuid, to: PortUuid, count: u16, v6: bool) {
        let plan = self.fabric.plan.clone();
        let between = Between {
            plan: &plan,
            from,
            to,
            v6,
        };
        let head = between.udp(1, 2).build().len();
        for n in 0..count {
            let payload = vec![0; 1000 - head];
            let bytes = between.udp(2000 + n, 53).payload(&payload).build();
            let frame = Frame {
                bytes,
                ..Frame::default()
            };
            self.fabric.inject(from, frame);
        }
        self.fabric.settle();
    }

    fn arrived(&mut self, at: PortUuid) -> u64 {
        let frames = self.fabric.receive_at(at);
        frames.iter().flat_map(payloads).map(|_| 1).sum()
    }

    fn apply(&mut self) {
        self.fabric.apply();
        self.fabric.settle();
    }
}

/// Whoever reads them, and wherever the other end is: what a port sends, or gets, is one stream of its rate.
#[test]
fn a_limit_is_exact_in_virtual_time_whichever_worker_reads() {
    for (v6, workers) in [(false, 1), (true, 1), (false, 3)] {
        for egress in [true, false] {
            // A frame a millisecond, after ten at once.
            let limit = || bits(8_000_000, 10_000, 500_000);
            let (sent, got) = if egress {
                (limit(), Limit::default())
            } else {
                (Limit::default(), limit())
            };
            let build = Build {
                workers,
                ..Build::default()
            };
            let mut scene = scene(sent, got, build);
            let (client, server, neighbour) = (scene.client, scene.server, scene.neighbour);
            let receivers = if egress {
                scene.inject(client, server, 100, v6);
                scene.inject(client, neighbour, 100, v6);
                [server, neighbour]
            } else {
                scene.inject(server, client, 100, v6);
                scene.inject(neighbour, client, 100, v6);
                [client, client]
            };
            let mut arrived = 0;
            for millisecond in 0..=200u64 {
                arrived += receivers.map(|at| scene.arrived(at)).iter().sum::<u64>();
                let allowed = (10 + millisecond).min(200);
                let what = format!("egress {egress}, workers {workers}, {millisecond} ms");
                assert!(arrived <= allowed, "{what}: {arrived} of {allowed}");
                assert!(arrived + 2 >= allowed, "{what}: {arrived} of {allowed}");
                scene.fabric.advance(Duration::from_millis(1));
            }
            assert_eq!(arrived, 200, "nothing was dropped");
            assert_eq!(scene.fabric.total().held, 0);
        }
    }
}

/// A policy that changes under traffic holds at once, keeps what waits, and where it is gone nothing waits any more.
#[test]
fn a_policy_changes_under_traffic() {
    let mut scene = scene(
        bits(80_000, 1_000, 500_000),
        Limit::default(),
        Build::default(),
    );
    let (client, server) = (scene.client, scene.server);
    scene.inject(client, server, 100, false);
    scene.fabric.advance(Duration::from_secs(1));
    assert_eq!(scene.arrived(server), 11);
    let policy = scene.fabric.plan.get(client).qos.unwrap();
    scene.fabric.plan.qos_policy_mut(policy).egress = bits(800_000, 1_000, 500_000);
    scene.apply();
    scene.fabric.advance(Duration::from_millis(100));
    let arrived = scene.arrived(server);
    assert!((9..=11).contains(&arrived), "{arrived}");
    assert_eq!(scene.fabric.total().held, 100 - 11 - arrived);
    scene.fabric.plan.get_mut(client).qos = None;
    scene.apply();
    assert_eq!(scene.arrived(server), 100 - 11 - arrived, "at once");
    scene.inject(client, server, 100, true);
    assert_eq!(scene.arrived(server), 100);
    assert_eq!(scene.fabric.total().dropped(DropReason::QosQueueFull), 0);
}

#[test]
fn marks_arrive_on_other_hosts_and_packets_a_second_are_kept() {
    let packets = Limit {
        packets: Some(Rate {
            rule: uuid::Uuid::from_u128(9).into(),
            per_second: 1000,
            burst: 1,
        }),
        queue_bytes: 1 << 20,
        queue: hostconfig::Discipline::Fifo,
        ..Limit::default()
    };
    let mut scene = scene(packets, Limit::default(), Build::default());
    let (client, server) = (scene.client, scene.server);
    let policy = scene.fabric.plan.get(client).qos.unwrap();
    scene.fabric.plan.qos_policy_mut(policy).dscp = Some(Dscp {
        rule: uuid::Uuid::from_u128(8).into(),
        mark: 34,
    });
    scene.apply();
    for v6 in [false, true] {
        scene.inject(client, server, 20, v6);
        for n in 0..20 {
            let got = scene.fabric.receive_at(server);
            assert_eq!(got.len(), 1, "one a millisecond: {n}");
            let (_, key) = Headers::parse(&got[0].bytes).unwrap();
            assert_eq!(key.ip_tos, 34 << 2);
            scene.fabric.advance(Duration::from_millis(1));
        }
    }
}

/// What TCP carries, a whole connection and every byte of it, in either direction.
#[test]
fn a_connection_has_the_rate_of_the_limit() {
    let rate = 20_000_000;
    for (v6, up) in [(false, true), (true, false)] {
        let limit = || bits(rate, 20_000, 250_000);
        let (egress, ingress) = if up {
            (limit(), Limit::default())
        } else {
            (Limit::default(), limit())
        };
        let (plan, [client, server, _]) = plan(egress, ingress);
        let mut site = Site::new(plan, Build::default());
        site.boot(client);
        site.boot(server);
        let to: IpAddr = site.fabric.plan.addr(server, v6);
        let bytes = if up { (600_000, 0) } else { (0, 600_000) };
        let mut transfer = Transfer::new(&mut site, client, (to, 80), &[(server, 80)], bytes);
        assert!(site.run(Duration::from_mins(1), |site| transfer.step(site)));
        let receiver = if up { server } else { client };
        let arrivals = site.arrivals(receiver);
        let (begin, end) = (arrivals[40].0, arrivals[arrivals.len() - 50].0);
        let steady = arrivals.iter().filter(|(t, _)| *t > begin && *t <= end);
        let sent: u64 = steady.map(|(_, bytes)| bytes * 8).sum();
        let seen = u128::from(sent) * 1_000_000_000 / (end - begin).as_nanos();
        let off = seen.abs_diff(rate.into());
        assert!(off * 50 <= rate.into(), "v6 {v6}, up {up}: {seen} bit/s");
    }
}

/// Workloads of three hosts send so many frames of 1,042 bytes in each tenth of a second, for so many seconds: how many arrive in each.
fn seconds(
    region: &mut Region,
    nics: &[Nic; 3],
    demands: [usize; 3],
    seconds: usize,
) -> Vec<usize> {
    let mut all = vec![];
    for _ in 0..seconds {
        let mut arrived = 0;
        for _ in 0..10 {
            let receivers = nics.iter().cycle().skip(1);
            for ((from, to), times) in nics.iter().zip(receivers).zip(demands) {
                let frame = FrameBuilder::udp(false, 4000, 4001)
                    .macs(from.mac, to.mac)
                    .addrs(from.v4.into(), to.v4.into())
                    .payload(&[0; 1000])
                    .build();
                arrived += region.burst(from, &frame, times);
            }
            region.advance(Duration::from_millis(100));
            arrived += region.arrived();
        }
        all.push(arrived);
    }
    all
}

#[test]
fn a_limit_of_the_fabric_is_one_limit_over_three_hosts_whoever_sends() {
    let mut region = Region::new();
    let net = region.net(0);
    let nics = [(0, 11), (1, 12), (2, 13)].map(|(host, at)| region.nic(&net, host, at));
    let above = region.make("policy", &json!({"name": "all", "limit_scope": "fabric"}));
    let rules = format!("/v2.0/qos/policies/{}/bandwidth_limit_rules", id(&above));
    // 960 frames a second.
    let rule = json!({"bandwidth_limit_rule": {"max_kbps": 8000}});
    region.ok("POST", &rules, &rule);
    let below = json!({"name": "q", "parent_id": id(&above)});
    let below = region.make("policy", &below);
    for nic in &nics {
        region.set("port", &nic.id, &json!({"qos_policy_id": id(&below)}));
    }
    for demands in [
        [150, 0, 0],
        [150, 150, 0],
        [0, 40, 150],
        [150, 150, 150],
        [10, 150, 0],
    ] {
        seconds(&mut region, &nics, demands, 2);
        for arrived in seconds(&mut region, &nics, demands, 3) {
            assert!((912..=1008).contains(&arrived), "{demands:?}: {arrived}");
        }
    }
}
