//! Which plan is meant by what was drawn?

use std::net::Ipv6Addr;

use hostconfig::{
    Firewall, FunctionKind, SecurityGroupRule, Shaper, SubPort,
    chain::{Action, Classifier, Side},
    group::{Direction, Family, L4Match, Remote},
    network::{Dhcp6, RaMode, Route},
    port::AddressPair,
    qos::{Dscp, Limit},
};
use net::{Id, PortRange, Prefix, UnicastMac, Vlan, flow_key::proto, ids::kind, testkit::mac};

use super::{Built, ChainSpec, NETWORKS, Nat, RouterSpec, Rule, Scenario};
use crate::plan::{
    GroupUuid, NetId, Plan, PortUuid, allow, allow_all, bits, firewall_rule, from_network,
};

/// A shaper that lets all go at once.
fn unbinding() -> FunctionKind {
    FunctionKind::Shaper(Shaper {
        rate_bps: 1_000_000_000_000,
        burst_bytes: 1 << 30,
        queue_bytes: 1 << 20,
        queue: hostconfig::Discipline::Fifo,
        share: None,
        classes: Vec::new(),
    })
}

pub(super) fn rules_of(rules: &[Rule], groups: &[GroupUuid]) -> Vec<SecurityGroupRule> {
    // Half of what a workload wants to say is allowed from the start: else nearly everything ends at the first door.
    let mut all = allow_all(Direction::Egress);
    if rules.len() % 2 == 1 {
        all.clear();
    }
    all.extend(rules.iter().map(|r| {
        let direction = if r.egress {
            Direction::Egress
        } else {
            Direction::Ingress
        };
        let icmp = if r.v6 { proto::ICMP6 } else { proto::ICMP };
        let (protocol, l4) = match r.what {
            0 | 1 => (None, L4Match::Any),
            2 => (Some(proto::TCP), L4Match::Any),
            3 => (Some(proto::TCP), L4Match::Ports(PortRange::one(80))),
            4 => (
                Some(proto::UDP),
                L4Match::Ports(PortRange::new(80, 82).unwrap()),
            ),
            5 => (Some(proto::UDP), L4Match::Ports(PortRange::ANY)),
            6 => (Some(icmp), L4Match::Any),
            7 => {
                let kind = if r.v6 { 128 } else { 8 };
                let code = (r.remote % 2 == 0).then_some(0);
                (Some(icmp), L4Match::Icmp { kind, code })
            }
            8 => (Some(47), L4Match::Any),
            _ => (
                Some(proto::TCP),
                L4Match::Ports(PortRange::new(1, 1024).unwrap()),
            ),
        };
        let half: Prefix = if r.v6 { "fd00::/124" } else { "10.0.0.0/28" }
            .parse()
            .unwrap();
        let remote = match r.remote {
            0 | 1 => Remote::Any,
            2 => Remote::Prefix(half),
            n => Plan::members_of(groups[n % groups.len()]),
        };
        SecurityGroupRule {
            protocol,
            l4,
            remote,
            ..allow(direction, if r.v6 { Family::V6 } else { Family::V4 })
        }
    }));
    all
}

pub(super) fn firewall_of(rules: &[(bool, usize)], deny: bool) -> FunctionKind {
    let action = |deny| if deny { Action::Deny } else { Action::Allow };
    let rules = rules.iter().map(|&(deny, what)| {
        let mut rule = firewall_rule(action(deny));
        match what {
            0 => rule.protocol = Some(proto::UDP),
            1 => rule.source = Some("10.0.0.0/28".parse().unwrap()),
            2 => rule.destination = Some("fd00::/124".parse().unwrap()),
            3 => rule.destination_ports = Some(PortRange::new(80, 81).unwrap()),
            4 => rule.family = Some(Family::V6),
            _ => rule.source_ports = Some(PortRange::new(4001, 4002).unwrap()),
        }
        rule
    });
    FunctionKind::Firewall(Firewall {
        rules: rules.collect(),
        default: action(deny),
    })
}

/// The last bytes of the routers' addresses: each has its own.
const ROUTERS: u16 = 240;

/// Puts these routers in place of those that are there. The first two networks are the tenants' first ones, and so on.
pub(super) fn put_routers(plan: &mut Plan, networks: &[NetId], specs: &[RouterSpec]) {
    plan.remove_routers();
    for (n, spec) in (0u16..).zip(specs) {
        let of_tenant = networks.iter().skip(spec.tenant).step_by(2);
        let on = of_tenant.zip(spec.on).filter(|(_, is)| *is);
        let on: Vec<_> = on.map(|(network, _)| *network).collect();
        let routes = spec.routes.iter().map(|&(to, by, v6)| {
            let (v4_to, v6_to) = [
                ("0.0.0.0/0", "::/0"),
                ("10.0.0.0/24", "fd00::/64"),
                ("10.0.1.0/24", "fd01::/64"),
                ("10.0.2.0/24", "fd02::/64"),
                ("10.0.1.8/29", "fd01::8/125"),
                ("10.0.2.10/32", "fd02::a/128"),
                ("192.0.2.0/24", "2001:db8::/32"),
                ("169.254.0.0/17", "fe80::/64"),
            ][to];
            // Another router, itself, or a workload.
            let k = networks[2 * (by % NETWORKS)];
            let host = match by / NETWORKS {
                3 => 10,
                other => ROUTERS + u16::try_from(other).unwrap(),
            };
            Route {
                destination: if v6 { v6_to } else { v4_to }.parse().unwrap(),
                nexthop: plan.host(k, host, v6),
            }
        });
        let routes = routes.collect();
        let id = plan.router(&on, ROUTERS + n, routes);
        let router = plan.router_mut(id);
        match spec.down {
            0 => router.admin_up = false,
            down @ 1..=3 => {
                if let Some(interface) = router.interfaces.get_mut(down - 1) {
                    interface.admin_up = false;
                }
            }
            _ => {}
        }
    }
}

impl ChainSpec {
    /// The chain's NAT, if it has one: its virtual port.
    pub(super) fn put_nat(
        &self,
        (plan, net): (&mut Plan, NetId),
        members: &[PortUuid],
        functions: &mut Vec<FunctionKind>,
    ) -> Option<PortUuid> {
        let at = match self.nat {
            Nat::None => return None,
            Nat::First => 1,
            Nat::Last => functions.len(),
        };
        let (port, nat) = plan.nat(net);
        functions.insert(at, FunctionKind::Nat(with_forward(plan, nat, members)));
        Some(port)
    }
}

impl Scenario {
    pub(super) fn build(&self) -> Built {
        let mut plan = Plan::new(self.hosts);
        let mut networks = vec![];
        for (number, names) in (0u8..).zip([["red", "blue"]; NETWORKS]) {
            for (name, gateway) in names.into_iter().zip([true, false]) {
                let network = plan.network_at(&format!("{name}-{number}"), number);
                for v6 in [false, true] {
                    let addr = plan.host(network, ROUTERS, v6);
                    let subnet = &mut plan.network_mut(network).subnets[usize::from(v6)];
                    subnet.gateway = gateway.then_some(addr);
                }
                // Routers say something else on each, and for one tenant they are the gateways.
                let ra = [RaMode::Slaac, RaMode::Stateful, RaMode::Stateless];
                let v6 = &mut plan.network_mut(network).subnets[1];
                v6.ra = Some(ra[usize::from(number)]).filter(|_| gateway || number == 1);
                v6.dhcp6 = (number > 0).then(|| Dhcp6 {
                    server_mac: mac(0xd600),
                    lease_seconds: (number == 1).then_some(3600),
                    domain: String::new(),
                });
                if gateway {
                    v6.dns6 = vec![Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 0x53)];
                }
                if number == 2 {
                    plan.network_mut(network).mtu = 1400u32.try_into().unwrap();
                }
                networks.push(network);
            }
        }
        put_routers(&mut plan, &networks, &self.routers);
        let groups: Vec<_> = (0..3).map(|_| plan.group(vec![])).collect();
        for (group, rules) in groups.iter().zip(&self.rules) {
            plan.set_rules(*group, rules_of(rules, &groups));
        }
        let policies: Vec<_> = ["gold", "bronze"].map(|name| plan.qos_policy(name)).into();
        set_policy(&mut plan, policies[0], (Some(46), 3));
        set_policy(&mut plan, policies[1], (Some(10), 0));
        let mut ports = vec![];
        for (n, spec) in self.ports.iter().enumerate() {
            let mut of: Vec<_> = spec.groups.iter().map(|g| groups[*g]).collect();
            of.dedup();
            let port = plan.port(spec.host % self.hosts, networks[spec.network], &of);
            plan.get_mut(port).port_security = !spec.open;
            plan.get_mut(port).qos = policies.get(spec.qos).copied();
            if n % 3 == 2 {
                plan.get_mut(port).project = Id::new(uuid::Uuid::from_u128(77));
            }
            if spec.pair {
                plan.get_mut(port).allowed_address_pairs = vec![AddressPair {
                    mac: UnicastMac::try_from(mac(0x7700 + u16::try_from(n).unwrap())).unwrap(),
                    prefix: "10.0.0.128/25".parse().unwrap(),
                }];
            }
            if spec.carried {
                carry(&mut plan, port, &ports, n);
            }
            ports.push(port);
        }
        let chain = self.chain.as_ref().map(|spec| {
            let net = networks[0];
            let of_net = plan.ports().filter(|p| p.network == net).map(|p| p.id);
            let members: Vec<_> = of_net.take(spec.members).collect();
            let protocol = if spec.udp { proto::UDP } else { proto::TCP };
            let (vip, balancer) = plan.load_balancer(net, spec.v6, (protocol, 80), &members);
            let mut functions = vec![firewall_of(&spec.firewall, spec.default_deny)];
            let of_project = spec.members % 2 == 1;
            let project = Side::Project(plan.network_mut(net).project);
            let classifier = if spec.destination {
                let all = Side::Network(net);
                Classifier {
                    source: None,
                    destination: Some(if of_project { project } else { all }),
                    ..from_network(net)
                }
            } else {
                functions.push(FunctionKind::LoadBalancer(balancer));
                Classifier {
                    destination: of_project.then_some(project),
                    ..from_network(net)
                }
            };
            let nat = spec.put_nat((&mut plan, net), &members, &mut functions);
            if spec.shaper {
                functions.push(unbinding());
            }
            let virtuals = std::iter::once(vip).chain(nat).collect();
            let chain = spec.put(&mut plan, classifier, functions);
            (chain, virtuals, net)
        });
        Built {
            plan,
            networks,
            ports,
            groups,
            chain,
            policies,
        }
    }
}

impl ChainSpec {
    /// One chain, or two of a graph: what follows is for one protocol. Two more are never met: one that nothing matches, and one that is not deeper.
    fn put(
        &self,
        plan: &mut Plan,
        classifier: Classifier,
        mut functions: Vec<FunctionKind>,
    ) -> Id<kind::PortChain> {
        let split = self.split.map(|at| (at + 1).min(functions.len()));
        let behind = split.map(|at| functions.split_off(at));
        let chain = plan.chain(vec![classifier], functions);
        let Some(behind) = behind else {
            return chain;
        };
        let at_branch = |protocol| Classifier {
            source: Some(Side::Branch),
            destination: None,
            protocol,
            ..from_network(Id::new(uuid::Uuid::nil()))
        };
        let none = vec![firewall_of(&[], true)];
        let never = plan.chain(vec![at_branch(Some(255))], none.clone());
        let protocol = if self.udp { proto::UDP } else { proto::TCP };
        let then = plan.chain(vec![at_branch(Some(protocol))], behind);
        let last = plan.chain(vec![at_branch(None)], none);
        plan.chain_mut(chain).graph.next = vec![never, then, last];
        for (chain, depth) in [(never, 1), (then, 2), (last, 0)] {
            plan.chain_mut(chain).graph.depth = depth;
        }
        plan.chain_mut(then).graph.next = vec![never, chain, last];
        chain
    }
}

/// Has a port go by the device of the first of these that is on its host and has one, with a tag of its own.
pub(super) fn carry(plan: &mut Plan, port: PortUuid, ports: &[PortUuid], n: usize) {
    let host = plan.host_of(port);
    let device = |p: &&PortUuid| plan.host_of(**p) == host && plan.get(**p).trunk.is_none();
    let parent = ports.iter().find(device).copied();
    plan.get_mut(port).trunk = parent.map(|parent| SubPort {
        parent,
        vlan: Vlan::try_from(u16::try_from(n).unwrap() + 100).unwrap(),
    });
}

/// Marks, and limits that hold nobody up: there is credit for all that a scenario sends.
pub(super) fn set_policy(
    plan: &mut Plan,
    id: Id<kind::QosPolicy>,
    (mark, pace): (Option<u8>, u64),
) {
    let policy = plan.qos_policy_mut(id);
    let limit = || bits(1_000_000_000 + pace, 1 << 40, 1 << 30);
    policy.egress = if pace & 1 == 0 {
        Limit::default()
    } else {
        limit()
    };
    policy.ingress = if pace & 2 == 0 {
        Limit::default()
    } else {
        limit()
    };
    policy.egress.packets = policy.egress.bits.filter(|_| pace & 4 != 0);
    policy.dscp = mark.map(|mark| Dscp {
        rule: id.uuid().into(),
        mark,
    });
}

/// The first member serves what comes to a port of the NAT's.
pub(super) fn with_forward(
    plan: &Plan,
    mut nat: hostconfig::Nat,
    members: &[PortUuid],
) -> hostconfig::Nat {
    for address in &nat.addresses {
        if let Some(member) = members.first() {
            nat.forwards.push(hostconfig::nat::Forward {
                addr: address.addr,
                protocol: proto::UDP,
                ports: PortRange::new(80, 82).unwrap(),
                to: plan.addr(*member, address.addr.is_ipv6()),
                to_port: 8080,
                to_one: false,
                member: *member,
            });
        }
    }
    nat
}
