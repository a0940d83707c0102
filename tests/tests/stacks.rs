//! Real stacks over real switches: TCP and UDP of smoltcp through tunnels, groups and chains, under a virtual clock.

use std::{net::IpAddr, time::Duration};

use hostconfig::{
    Firewall, FunctionKind, LoadBalancer, Shaper,
    chain::{Action, FirewallRule},
    group::{Direction, Family, L4Match},
};
use net::{DropReason, Id, PortRange, Prefix, flow_key::proto, ids::kind};
use tests::{
    fabric::Build,
    plan::{GroupUuid, Plan, PortUuid, allow, allow_all, firewall_rule, from_network},
    stack::{Site, Transfer, WINDOW, step_all},
};
use vswitch::io::memory::Weather;

const MINUTE: Duration = Duration::from_mins(1);
/// smoltcp waits twice as long after each segment of a burst that it has to send again.
const LONG: Duration = Duration::from_mins(20);

/// A wire between racks: nothing is lost.
fn fair() -> Weather {
    Weather {
        delay: Duration::from_micros(200),
        ..Weather::default()
    }
}

/// A wire that loses, repeats and reorders.
fn bad() -> Weather {
    Weather {
        delay: Duration::from_millis(1),
        jitter: Duration::from_millis(2),
        reorder: 50_000,
        loss: 10_000,
        duplicate: 10_000,
        ..Weather::default()
    }
}

fn build(weather: Weather, workers: u16, seed: u64) -> Build {
    Build {
        workers,
        weather,
        seed,
        ..Build::default()
    }
}

/// Two ports on two hosts of one network, everything allowed.
fn two(build: Build) -> (Site, [PortUuid; 2]) {
    let mut plan = Plan::new(2);
    let net = plan.network("net");
    let open = plan.open_group();
    let ports = [0, 1].map(|host| plan.port(host, net, &[open]));
    (Site::new(plan, build), ports)
}

/// One transfer between two ports, by their own addresses.
fn transfer(site: &mut Site, [a, b]: [PortUuid; 2], v6: bool, bytes: (usize, usize)) -> Transfer {
    let to = (site.fabric.plan.addr(b, v6), 80);
    Transfer::new(site, a, to, &[(b, 80)], bytes)
}

/// A client on host 0, members on the others, and a chain over their network.
struct Chained {
    site: Site,
    client: PortUuid,
    members: Vec<PortUuid>,
    vip: IpAddr,
    chain: Id<kind::PortChain>,
    balancer: LoadBalancer,
}

fn chained(v6: bool, hosts: usize, members: usize, build: Build) -> Chained {
    let mut plan = Plan::new(hosts);
    let net = plan.network("net");
    let open = plan.open_group();
    let client = plan.port(0, net, &[open]);
    let members: Vec<_> = (0..members)
        .map(|n| plan.port((n + 1) % hosts, net, &[open]))
        .collect();
    let members = if members.is_empty() {
        vec![client]
    } else {
        members
    };
    let (vip, balancer) = plan.load_balancer(net, v6, (proto::TCP, 80), &members);
    let functions = vec![FunctionKind::LoadBalancer(balancer.clone())];
    let chain = plan.chain(vec![from_network(net)], functions);
    let vip = plan.addr(vip, v6);
    Chained {
        site: Site::new(plan, build),
        client,
        members,
        vip,
        chain,
        balancer,
    }
}

impl Chained {
    fn set(&mut self, functions: Vec<FunctionKind>) {
        let fabric = &mut self.site.fabric;
        fabric.plan.set_functions(self.chain, functions);
        fabric.apply();
    }

    fn balancer(&self) -> FunctionKind {
        FunctionKind::LoadBalancer(self.balancer.clone())
    }

    fn transfer(&mut self, bytes: (usize, usize)) -> Transfer {
        let servers: Vec<_> = self.members.iter().map(|m| (*m, 8080)).collect();
        let to = (self.vip, 80);
        Transfer::new(&mut self.site, self.client, to, &servers, bytes)
    }
}

fn firewall(rules: Vec<FirewallRule>) -> FunctionKind {
    FunctionKind::Firewall(Firewall {
        rules,
        default: Action::Allow,
    })
}

fn shaper(rate_bps: u64, queue_bytes: u64) -> FunctionKind {
    FunctionKind::Shaper(Shaper {
        rate_bps,
        burst_bytes: 3000,
        queue_bytes,
        queue: hostconfig::Discipline::Fifo,
        share: None,
        classes: Vec::new(),
    })
}

/// Drops so far, on each host since its last restart.
fn drops(site: &Site) -> Vec<(DropReason, u64)> {
    let total = site.fabric.total();
    let all = DropReason::ALL.iter().map(|r| (*r, total.dropped(*r)));
    all.filter(|(_, n)| *n > 0).collect()
}

/// In bad weather a segment may come more than a window late. Its receiver would have no use for it either.
fn assert_only_late_ones_are_dropped(site: &Site) {
    let sent = site.fabric.wires().counts().sent;
    let late =
        |&(reason, n): &(DropReason, u64)| reason == DropReason::ConntrackInvalid && n * 50 < sent;
    let drops = drops(site);
    assert!(drops.iter().all(late), "{drops:?} of {sent}");
}

#[test]
fn bytes_arrive_whole_and_in_order_whatever_the_underlay_does() {
    for v6 in [false, true] {
        for seed in [1, 2] {
            let (mut site, ports) = two(build(bad(), 1, seed));
            let mut transfer = transfer(&mut site, ports, v6, (300_000, 100_000));
            let whole = site.run(LONG, |site| transfer.step(site));
            assert!(whole, "v6 {v6}, seed {seed}: {}", transfer.told(&mut site));
            assert_only_late_ones_are_dropped(&site);
            let counts = site.fabric.wires().counts();
            assert!(counts.lost > 0 && counts.duplicated > 0, "{counts:?}");
        }
    }
}

#[test]
fn nothing_is_dropped_in_fair_weather() {
    for v6 in [false, true] {
        let (mut site, ports) = two(build(fair(), 1, 1));
        let mut transfer = transfer(&mut site, ports, v6, (300_000, 300_000)).at_once();
        assert!(site.run(MINUTE, |site| {
            transfer.step(site);
            transfer.has_ended()
        }));
        assert_eq!(drops(&site), []);
    }
}

#[test]
fn the_same_seed_gives_the_same_run() {
    let run = |seed| {
        let (mut site, ports) = two(build(bad(), 3, seed));
        let mut transfer = transfer(&mut site, ports, true, (100_000, 50_000));
        assert!(site.run(MINUTE, |site| transfer.step(site)));
        let arrivals = ports.map(|p| site.arrivals(p).to_vec());
        (arrivals, site.fabric.wires().counts())
    };
    let first = run(7);
    assert!(first == run(7), "a seed replays to the nanosecond");
    assert!(first != run(8), "another seed is another run");
}

#[test]
fn pings_and_datagrams_pass_on_one_host_and_over_the_tunnel() {
    let mut plan = Plan::new(2);
    let net = plan.network("net");
    let open = plan.open_group();
    let [a, b, c] = [0, 0, 1].map(|host| plan.port(host, net, &[open]));
    let mut site = Site::new(plan, build(fair(), 2, 1));
    for v6 in [false, true] {
        for to in [b, c] {
            let addr = site.fabric.plan.addr(to, v6);
            assert!(site.ping(a, addr, 7).is_some(), "they learn of each other");
            let took = site.ping(a, addr, 7).unwrap();
            let wires = if to == c { 2 } else { 0 };
            assert!(took >= fair().delay * wires, "{took:?}");
            assert!(took < fair().delay * wires + Duration::from_micros(10));
            let [from, at] = [(a, 4000), (to, 5000)].map(|(port, number)| site.bind(port, number));
            for n in 0..50u8 {
                let sent = site.udp(from).send_slice(&[n; 1000], (addr, 5000));
                sent.unwrap();
            }
            let mut next = 0;
            let all = site.run(Duration::from_secs(1), |site| {
                while let Ok((bytes, _)) = site.udp(at).recv() {
                    assert_eq!(bytes, [next; 1000], "in order and whole");
                    next += 1;
                }
                next == 50
            });
            assert!(all, "{next} of 50");
            site.udp(from).close();
            site.udp(at).close();
        }
    }
    assert_eq!(drops(&site), []);
}

#[test]
fn a_chain_of_firewall_balancer_and_shaper_carries_whole_connections() {
    for v6 in [false, true] {
        for weather in [fair(), bad()] {
            let mut at = chained(v6, 3, 4, build(weather, 1, 3));
            let balancer = at.balancer();
            let functions = vec![firewall(vec![]), balancer, shaper(100_000_000, 400_000)];
            at.set(functions);
            let mut open: Vec<_> = (0..4).map(|_| at.transfer((60_000, 60_000))).collect();
            let whole = at.site.run(LONG, |site| step_all(&mut open, site));
            let received: Vec<_> = open.iter().map(|t| t.told(&mut at.site)).collect();
            assert!(whole, "v6 {v6}: {received:?}");
            assert_only_late_ones_are_dropped(&at.site);
        }
    }
}

#[test]
fn a_shaper_gives_a_connection_its_rate_to_the_percent() {
    let rate = 20_000_000;
    for v6 in [false, true] {
        for up in [true, false] {
            let mut at = chained(v6, 2, 1, build(fair(), 1, 1));
            let balancer = at.balancer();
            // More than a window: nothing needs to be sent twice.
            at.set(vec![firewall(vec![]), balancer, shaper(rate, 200_000)]);
            let bytes = if up { (600_000, 0) } else { (0, 600_000) };
            let mut transfer = at.transfer(bytes);
            assert!(at.site.run(MINUTE, |site| transfer.step(site)));
            assert_eq!(drops(&at.site), []);
            let receiver = if up { at.members[0] } else { at.client };
            // While the queue was full: not the burst, not the end. A super-frame arrives whole, and was waited for.
            let arrivals = at.site.arrivals(receiver);
            let (begin, end) = (arrivals[20].0, arrivals[arrivals.len() - 50].0);
            let steady = arrivals.iter().filter(|(t, _)| *t > begin && *t <= end);
            let bits: u64 = steady.map(|(_, bytes)| bytes * 8).sum();
            let seen = u128::from(bits) * 1_000_000_000 / (end - begin).as_nanos();
            let off = seen.abs_diff(rate.into());
            assert!(off * 100 <= rate.into(), "v6 {v6}, up {up}: {seen} bit/s");
        }
    }
}

/// 8 Mbit/s is a byte a microsecond: a queue of 30,000 bytes is 30 ms long.
#[test]
fn delay_rises_to_the_queues_limit_before_the_first_drop() {
    for v6 in [false, true] {
        let mut at = chained(v6, 2, 1, build(Weather::default(), 1, 1));
        at.set(vec![shaper(8_000_000, 30_000)]);
        let (site, to) = (&mut at.site, at.members[0]);
        let addr = site.fabric.plan.addr(to, v6);
        let (from, sink) = (site.bind(at.client, 4000), site.bind(to, 5000));
        assert!(
            site.ping(at.client, addr, 1).is_some(),
            "they know each other"
        );
        let payload = 1000 - 42 - if v6 { 20 } else { 0 };
        let (mut sent, mut delays, mut dropped_after) = (vec![], vec![], None);
        for n in 0..200usize {
            let mut bytes = vec![0; payload];
            bytes[..8].copy_from_slice(&n.to_be_bytes());
            site.udp(from).send_slice(&bytes, (addr, 5000)).unwrap();
            sent.push(site.fabric.now());
            // Half as much again as the rate.
            site.run(Duration::from_micros(667), |site| {
                while let Ok((bytes, _)) = site.udp(sink).recv() {
                    let n = usize::from_be_bytes(*bytes.first_chunk().unwrap());
                    let now = site.fabric.now();
                    delays.push((n, now - sent[n]));
                }
                false
            });
            if dropped_after.is_none() && !drops(site).is_empty() {
                dropped_after = Some(n);
            }
        }
        let first = dropped_after.unwrap();
        assert!(
            drops(site)
                .iter()
                .all(|(r, _)| *r == DropReason::ShaperQueueFull),
            "{:?}",
            drops(site)
        );
        let rising = delays.windows(2).take_while(|w| w[1].0 <= first);
        assert!(rising.clone().count() > 50, "they are delayed first");
        for pair in rising {
            assert!(pair[1].1 >= pair[0].1, "delay rises: {pair:?}");
        }
        let before = delays.iter().rfind(|(n, _)| *n < first).unwrap().1;
        let limit = Duration::from_millis(30);
        let packet = Duration::from_millis(1);
        assert!(before + packet >= limit, "{before:?} before the first drop");
        let longest = delays.iter().map(|(_, d)| *d).max().unwrap();
        assert!(longest <= limit + packet, "{longest:?}");
    }
}

/// Rules of a web server's group: from anywhere to port 80, and out.
fn web() -> Vec<hostconfig::SecurityGroupRule> {
    let mut rules = allow_all(Direction::Egress);
    for family in [Family::V4, Family::V6] {
        let mut rule = allow(Direction::Ingress, family);
        rule.protocol = Some(proto::TCP);
        rule.l4 = L4Match::Ports(PortRange::one(80));
        rules.push(rule);
    }
    rules
}

/// A client and a web server, each with a group of its own.
fn guarded(host: usize) -> (Site, [PortUuid; 2], [GroupUuid; 2]) {
    let mut plan = Plan::new(2);
    let net = plan.network("net");
    let groups = [plan.group(allow_all(Direction::Egress)), plan.group(web())];
    let client = plan.port(0, net, &[groups[0]]);
    let server = plan.port(host, net, &[groups[1]]);
    (
        Site::new(plan, build(fair(), 1, 1)),
        [client, server],
        groups,
    )
}

#[test]
fn a_rule_revoked_under_a_transfer_ends_it() {
    for v6 in [false, true] {
        for (host, egress) in [(0, false), (1, false), (0, true), (1, true)] {
            let (mut site, ports, groups) = guarded(host);
            let mut transfer = transfer(&mut site, ports, v6, (2_000_000, 2_000_000)).at_once();
            let client = transfer.client();
            let patience = Some(smoltcp::time::Duration::from_secs(5));
            site.tcp(client).set_timeout(patience);
            let begun = site.run(MINUTE, |site| {
                transfer.step(site);
                transfer.received().0 > 100_000 && transfer.received().1 > 100_000
            });
            assert!(begun);
            let (group, rules, reason) = if egress {
                (groups[0], vec![], DropReason::SecurityGroupEgress)
            } else {
                (
                    groups[1],
                    allow_all(Direction::Egress),
                    DropReason::SecurityGroupIngress,
                )
            };
            site.fabric.plan.set_rules(group, rules);
            site.fabric.apply();
            // What was under way behind the rule still arrives, no more.
            let under_way = 2 * WINDOW;
            let (up, down) = transfer.received();
            let ended = site.run(MINUTE, |site| {
                transfer.step(site);
                transfer.is_closed(site)
            });
            assert!(ended, "v6 {v6}, host {host}, egress {egress}");
            let after = transfer.received();
            assert!(after.0 - up <= under_way && after.1 - down <= under_way);
            assert!(
                site.fabric.total().dropped(reason) > 0,
                "{:?}",
                drops(&site)
            );
        }
    }
}

#[test]
fn unrelated_changes_under_a_transfer_cost_it_nothing() {
    for v6 in [false, true] {
        let (mut site, ports, groups) = guarded(1);
        let mut transfer = transfer(&mut site, ports, v6, (1_000_000, 1_000_000)).at_once();
        let mut changes = 0;
        let mut next = 50_000;
        let whole = site.run(MINUTE, |site| {
            let whole = transfer.step(site);
            if transfer.received().0 >= next {
                next += 50_000;
                changes += 1;
                let plan = &mut site.fabric.plan;
                match changes % 4 {
                    0 => {
                        plan.network("another");
                    }
                    1 => {
                        plan.group(allow_all(Direction::Ingress));
                    }
                    2 => {
                        // More is allowed than before.
                        let mut rules = web();
                        rules.extend(allow_all(Direction::Ingress));
                        plan.set_rules(groups[1], rules);
                    }
                    _ => {
                        let net = plan.network(&format!("net-{changes}"));
                        plan.port(changes % 2, net, &[groups[0]]);
                    }
                }
                site.fabric.apply();
            }
            whole
        });
        assert!(whole, "{:?}", transfer.received());
        assert!(changes >= 15, "{changes}");
        assert_eq!(drops(&site), []);
    }
}

#[test]
fn a_chain_replaced_under_traffic_keeps_connections_and_their_members() {
    for v6 in [false, true] {
        for workers in [1, 3] {
            let mut at = chained(v6, 3, 4, build(fair(), workers, 5));
            let balancer = at.balancer();
            let stranger: Prefix = if v6 { "fd09::/64" } else { "10.9.0.0/24" }
                .parse()
                .unwrap();
            let deny = FirewallRule {
                source: Some(stranger),
                ..firewall_rule(Action::Deny)
            };
            let variants = [
                vec![firewall(vec![]), balancer.clone()],
                vec![firewall(vec![deny.clone()]), balancer.clone()],
                vec![balancer.clone(), firewall(vec![deny])],
                vec![balancer],
            ];
            let mut open: Vec<_> = (0..4).map(|_| at.transfer((200_000, 50_000))).collect();
            let mut members = vec![];
            for functions in variants.iter().cycle().take(8) {
                at.site
                    .run(Duration::from_millis(2), |site| step_all(&mut open, site));
                members.push(open.iter().map(Transfer::server).collect::<Vec<_>>());
                at.set(functions.clone());
            }
            let whole = at.site.run(MINUTE, |site| step_all(&mut open, site));
            let received: Vec<_> = open.iter().map(|t| t.told(&mut at.site)).collect();
            assert!(whole, "v6 {v6}, workers {workers}: {received:?}");
            assert_eq!(drops(&at.site), []);
            let chosen = &members[0];
            assert!(chosen.iter().all(Option::is_some), "{members:?}");
            assert!(members.iter().all(|m| m == chosen), "{members:?}");
        }
    }
}

#[test]
fn whichever_worker_reads_a_segment_the_bytes_arrive() {
    for v6 in [false, true] {
        for workers in 2..=4 {
            let mut at = chained(v6, 3, 4, build(bad(), workers, workers.into()));
            let balancer = at.balancer();
            at.set(vec![
                firewall(vec![]),
                balancer,
                shaper(200_000_000, 200_000),
            ]);
            let mut open: Vec<_> = (0..4).map(|_| at.transfer((40_000, 40_000))).collect();
            let whole = at.site.run(LONG, |site| step_all(&mut open, site));
            let received: Vec<_> = open.iter().map(|t| t.told(&mut at.site)).collect();
            assert!(whole, "v6 {v6}, workers {workers}: {received:?}");
            assert_only_late_ones_are_dropped(&at.site);
        }
    }
}

#[test]
fn connections_outlive_the_restart_of_either_hosts_datapath() {
    for v6 in [false, true] {
        for (workers, shaped) in [(1, false), (3, false), (1, true), (3, true)] {
            let mut at = chained(v6, 2, 3, build(fair(), workers, 9));
            let mut functions = vec![firewall(vec![]), at.balancer()];
            if shaped {
                // What waits when the process ends is lost, and sent again.
                functions.push(shaper(50_000_000, 400_000));
            }
            at.set(functions);
            let mut open: Vec<_> = (0..3).map(|_| at.transfer((100_000, 50_000))).collect();
            let mut restarts = 0;
            let whole = at.site.run(LONG, |site| {
                let whole = step_all(&mut open, site);
                let received: usize = open.iter().map(|t| t.received().0).sum();
                if received > (restarts + 1) * 60_000 {
                    assert_eq!(drops(site), []);
                    site.fabric.restart(restarts % 2);
                    restarts += 1;
                }
                whole
            });
            let received: Vec<_> = open.iter().map(|t| t.told(&mut at.site)).collect();
            assert!(whole, "v6 {v6}, workers {workers}: {received:?}");
            assert_eq!(drops(&at.site), []);
            assert!(restarts >= 4, "{restarts}");
        }
    }
}

#[test]
fn a_member_that_calls_its_own_address_is_answered_by_itself() {
    for v6 in [false, true] {
        for workers in [1, 3] {
            let mut at = chained(v6, 2, 0, build(fair(), workers, 4));
            let mut transfer = at.transfer((100_000, 100_000)).at_once();
            let whole = at.site.run(MINUTE, |site| transfer.step(site));
            assert!(
                whole,
                "v6 {v6}, workers {workers}: {:?}",
                transfer.received()
            );
            assert_eq!(transfer.server(), Some(at.client));
            assert_eq!(drops(&at.site), []);
        }
    }
}

#[test]
fn a_nat_stands_anywhere_in_a_chain_that_is_replaced_and_restarted_under_traffic() {
    for v6 in [false, true] {
        for workers in [1, 3] {
            let mut at = chained(v6, 3, 4, build(fair(), workers, 12));
            let net = at.site.fabric.plan.get(at.client).network;
            let (_, mut nat) = at.site.fabric.plan.nat(net);
            let (_, another) = at.site.fabric.plan.nat(net);
            // All clients are on the first host: their ports are kept, by which the servers know them.
            nat.hosts = 1;
            let mut more = nat.clone();
            more.addresses.extend(another.addresses);
            let (nat, more) = (FunctionKind::Nat(nat), FunctionKind::Nat(more));
            let (balancer, wall) = (at.balancer(), firewall(vec![]));
            let variants = [
                vec![wall.clone(), balancer.clone(), nat.clone()],
                vec![nat.clone(), balancer.clone(), wall.clone()],
                vec![balancer.clone(), more.clone(), wall.clone()],
                vec![more, wall, balancer.clone()],
                vec![balancer, nat],
            ];
            at.set(variants[0].clone());
            let mut open: Vec<_> = (0..4).map(|_| at.transfer((200_000, 50_000))).collect();
            for (n, functions) in variants.iter().cycle().take(10).enumerate() {
                at.site
                    .run(Duration::from_millis(2), |site| step_all(&mut open, site));
                at.set(functions.clone());
                assert_eq!(drops(&at.site), [], "change {n}");
                at.site.fabric.restart(n % 3);
            }
            let whole = at.site.run(MINUTE, |site| step_all(&mut open, site));
            let received: Vec<_> = open.iter().map(|t| t.told(&mut at.site)).collect();
            assert!(whole, "v6 {v6}, workers {workers}: {received:?}");
            assert_eq!(drops(&at.site), []);
            // Each showed its servers one address of the NAT's from beginning to end.
            let shown = at.site.fabric.shown();
            assert_eq!(shown[0].len(), open.len());
        }
    }
}
