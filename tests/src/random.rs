//! What if nobody thought of it?
//!
//! Strategies for whole fabrics and for what happens in them. A [`Scenario`] is played by [`play`]: each frame goes through the
//! fabric and is shown to the oracle, and what the two say must be the same.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use hostconfig::{
    Firewall, FunctionKind, HostConfig, SecurityGroupRule, Shaper, SubPort,
    chain::{Action, Classifier, Side},
    group::{Direction, Family, L4Match, Remote},
    network::{Dhcp6, RaMode, Route},
    port::AddressPair,
    qos::{Dscp, Limit},
};
use net::{
    DropReason, Fragment, Id, Mac, PortRange, Prefix, UnicastMac, Vlan,
    flow_key::proto,
    ids::kind,
    testkit::{FrameBuilder, any_frame, mac},
};
use proptest::prelude::*;

use vswitch::datapath::explain::{Ending, Step, explain_key};

use crate::{
    fabric::{Build, Fabric, agree, assert_fate, check_frames},
    oracle::{Oracle, Shown, What},
    plan::{GroupUuid, NetId, Plan, PortUuid, allow, allow_all, bits, firewall_rule, from_network},
    traffic::{
        Between, ToDhcp6, answer, dhcp_discover, dhcp6_client, router_solicitation, who_has,
    },
};

/// A fabric and what happens in it.
#[derive(Debug, Clone)]
pub struct Scenario {
    hosts: usize,
    rules: Vec<Vec<Rule>>,
    ports: Vec<PortSpec>,
    routers: Vec<RouterSpec>,
    chain: Option<ChainSpec>,
    ops: Vec<Op>,
}

/// A rule of a group, as far as it does not name others.
#[derive(Debug, Clone)]
struct Rule {
    egress: bool,
    v6: bool,
    what: usize,
    remote: usize,
}

#[derive(Debug, Clone)]
struct PortSpec {
    host: usize,
    network: usize,
    groups: Vec<usize>,
    open: bool,
    pair: bool,
    qos: usize,
    /// Does it go by the device of an earlier port of its host?
    carried: bool,
}

/// A router of a tenant.
#[derive(Debug, Clone)]
struct RouterSpec {
    tenant: usize,
    /// On which of the tenant's networks.
    on: [bool; 3],
    /// Destination, next hop, family.
    routes: Vec<(usize, usize, bool)>,
    /// What is down: itself, one of its interfaces, or (mostly) nothing.
    down: usize,
}

/// How many networks a tenant has.
const NETWORKS: usize = 3;

#[derive(Debug, Clone)]
#[expect(clippy::struct_excessive_bools, reason = "each is a coin")]
struct ChainSpec {
    firewall: Vec<(bool, usize)>,
    default_deny: bool,
    members: usize,
    v6: bool,
    udp: bool,
    shaper: bool,
    destination: bool,
    nat: Nat,
}

/// Where a chain has a NAT.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Nat {
    None,
    First,
    Last,
}

/// Something that happens.
#[derive(Debug, Clone)]
enum Op {
    /// From, to, kind, number, family.
    Send(usize, usize, Kind, u16, bool),
    /// What a received frame's receiver answers.
    Answer(usize),
    /// By a router: from, to, kind, number, family, TTL.
    Route(usize, Far, Kind, u16, bool, u8),
    /// The routers are others.
    Routers(Vec<RouterSpec>),
    /// The ICMP error about a received frame.
    Error(usize),
    /// To the virtual address.
    Virtual(usize, Kind, u16, bool),
    /// What it is not: (port, other, how).
    Spoof(usize, usize, usize, bool),
    /// Any frame, perhaps with the port's own source MAC.
    Any(usize, Vec<u8>, bool),
    /// A group's rules are others.
    Rules(usize, Vec<Rule>),
    /// The firewall's rules are others.
    Firewall(Vec<(bool, usize)>, bool),
    /// A port has another QoS policy.
    Qos(usize, usize),
    /// A QoS policy marks otherwise, and lets go at another pace.
    Policy(usize, Option<u8>, u64),
    /// A host forgets all that it need not know.
    Restart(usize),
}

/// Where a packet is to go by a router.
#[derive(Debug, Clone, Copy)]
enum Far {
    /// To a port of any network.
    Port(usize),
    /// To this address of this network of everyone, which a router may have, or nobody.
    Host(usize, u16),
    /// To a virtual address, if there is one.
    Virtual,
    /// To one of these, which are in no network.
    Beyond(usize),
}

#[derive(Debug, Clone, Copy)]
enum Kind {
    Udp,
    Tcp,
    Ack,
    Echo,
    Other,
    Fragments,
    WhoHas,
    WhoHasNobody,
    Solicit,
    Dhcp,
    Dhcp6,
    Multicast,
    UnknownMac,
    Large,
}

fn kind() -> impl Strategy<Value = Kind> {
    use Kind::{
        Ack, Dhcp, Dhcp6, Echo, Fragments, Large, Multicast, Other, Solicit, Tcp, Udp, UnknownMac,
        WhoHas, WhoHasNobody,
    };
    prop_oneof![
        4 => Just(Udp),
        4 => Just(Tcp),
        1 => Just(Ack),
        3 => Just(Echo),
        1 => Just(Other),
        1 => Just(Fragments),
        1 => Just(WhoHas),
        1 => Just(WhoHasNobody),
        1 => Just(Dhcp),
        1 => Just(Dhcp6),
        1 => Just(Solicit),
        1 => Just(Multicast),
        1 => Just(UnknownMac),
        1 => Just(Large),
    ]
}

fn rule() -> impl Strategy<Value = Rule> {
    (any::<bool>(), any::<bool>(), 0usize..10, 0usize..5).prop_map(|(egress, v6, what, remote)| {
        Rule {
            egress,
            v6,
            what,
            remote,
        }
    })
}

fn routers() -> impl Strategy<Value = Vec<RouterSpec>> {
    let router = (
        0usize..2,
        any::<[bool; NETWORKS]>(),
        prop::collection::vec((0usize..8, 0usize..12, any::<bool>()), 0..4),
        0usize..12,
    );
    let router = router.prop_map(|(tenant, on, routes, down)| RouterSpec {
        tenant,
        on,
        routes,
        down,
    });
    prop::collection::vec(router, 0..5)
}

fn far() -> impl Strategy<Value = Far> {
    prop_oneof![
        8 => any::<usize>().prop_map(Far::Port),
        3 => (0..NETWORKS, 238u16..246).prop_map(|(k, n)| Far::Host(k, n)),
        1 => Just(Far::Virtual),
        2 => (0usize..6).prop_map(Far::Beyond),
    ]
}

fn op() -> impl Strategy<Value = Op> {
    let ttl = prop_oneof![4 => Just(64u8), 2 => 0u8..5, 1 => Just(255)];
    let firewall = prop::collection::vec((any::<bool>(), 0usize..6), 0..4);
    prop_oneof![
        8 => (any::<usize>(), any::<usize>(), kind(), 0u16..4, any::<bool>())
            .prop_map(|(a, b, k, n, v6)| Op::Send(a, b, k, n, v6)),
        8 => any::<usize>().prop_map(Op::Answer),
        8 => (any::<usize>(), far(), kind(), 0u16..4, any::<bool>(), ttl)
            .prop_map(|(a, to, k, n, v6, ttl)| Op::Route(a, to, k, n, v6, ttl)),
        1 => routers().prop_map(Op::Routers),
        1 => any::<usize>().prop_map(Op::Error),
        3 => (any::<usize>(), kind(), 0u16..4, any::<bool>())
            .prop_map(|(a, k, n, v6)| Op::Virtual(a, k, n, v6)),
        1 => (any::<usize>(), any::<usize>(), 0usize..8, any::<bool>())
            .prop_map(|(a, b, how, v6)| Op::Spoof(a, b, how, v6)),
        1 => (any::<usize>(), any_frame(), any::<bool>()).prop_map(|(a, f, own)| Op::Any(a, f, own)),
        1 => (any::<usize>(), prop::collection::vec(rule(), 0..6)).prop_map(|(g, r)| Op::Rules(g, r)),
        1 => (firewall, any::<bool>()).prop_map(|(r, d)| Op::Firewall(r, d)),
        1 => any::<usize>().prop_map(Op::Restart),
        1 => (any::<usize>(), 0usize..4).prop_map(|(p, policy)| Op::Qos(p, policy)),
        1 => (0usize..2, prop::option::of(0u8..64), 0u64..8).prop_map(|(p, mark, pace)| Op::Policy(p, mark, pace)),
    ]
}

/// Any fabric of up to three hosts, two tenants with the same addresses, routers among their networks, and up to `steps` things that happen
/// in it.
pub fn scenario(steps: usize) -> impl Strategy<Value = Scenario> {
    let port = (
        0usize..3,
        prop_oneof![4 => 0usize..2, 3 => 2usize..2 * NETWORKS],
        prop::collection::vec(0usize..3, 0..3),
        prop::bool::weighted(0.1),
        prop::bool::weighted(0.2),
        0usize..6,
        prop::bool::weighted(0.3),
    );
    let port = port.prop_map(
        |(host, network, groups, open, pair, qos, carried)| PortSpec {
            host,
            network,
            groups,
            open,
            pair,
            qos,
            carried,
        },
    );
    let chain = (
        prop::collection::vec((any::<bool>(), 0usize..6), 0..4),
        prop::bool::weighted(0.2),
        0usize..4,
        any::<bool>(),
        any::<bool>(),
        any::<bool>(),
        prop::bool::weighted(0.3),
        prop_oneof![Just(Nat::None), Just(Nat::First), Just(Nat::Last)],
    );
    let chain = chain.prop_map(
        |(firewall, default_deny, members, v6, udp, shaper, destination, nat)| ChainSpec {
            firewall,
            default_deny,
            members,
            v6,
            udp,
            shaper,
            destination,
            nat,
        },
    );
    (
        1usize..=3,
        prop::collection::vec(prop::collection::vec(rule(), 0..6), 3),
        prop::collection::vec(port, 2..8),
        routers(),
        prop::option::of(chain),
        prop::collection::vec(op(), 1..steps),
    )
        .prop_map(|(hosts, rules, ports, routers, chain, ops)| Scenario {
            hosts,
            rules,
            ports,
            routers,
            chain,
            ops,
        })
}

/// The same where a NAT hides who sends by routers that stay as they are, and most of it is answered.
pub fn hidden(steps: usize) -> impl Strategy<Value = Scenario> {
    (scenario(steps), any::<[bool; 2]>()).prop_map(|(mut scenario, [last, firewalled])| {
        scenario.hosts = scenario.hosts.max(2);
        scenario.routers.truncate(3);
        let joins_all = RouterSpec {
            tenant: 0,
            on: [true; NETWORKS],
            routes: vec![],
            down: usize::MAX,
        };
        scenario.routers.insert(0, joins_all);
        for v6 in [false, true] {
            let open = Rule {
                egress: false,
                v6,
                what: 0,
                remote: 0,
            };
            scenario.rules[0].extend([
                open.clone(),
                Rule {
                    egress: true,
                    ..open
                },
            ]);
        }
        for (n, port) in scenario.ports.iter_mut().enumerate() {
            if n % 3 < 2 {
                port.network = [0, 2][n % 3] + port.network / NETWORKS * 2 * (n % 3);
                port.groups.insert(0, 0);
            }
            port.groups.sort_unstable();
            port.host += n;
        }
        let chain = scenario.chain.get_or_insert(ChainSpec {
            firewall: vec![],
            default_deny: false,
            members: 1,
            v6: false,
            udp: true,
            shaper: false,
            destination: false,
            nat: Nat::None,
        });
        if chain.nat == Nat::None {
            chain.nat = if last { Nat::Last } else { Nat::First };
        }
        chain.default_deny = false;
        if !(last && firewalled) {
            // Not only for receivers of the client's own project.
            chain.members &= !1;
        }
        if !firewalled {
            chain.firewall.clear();
        }
        let ops = std::mem::take(&mut scenario.ops).into_iter();
        let answered = ops.flat_map(|op| match op {
            Op::Send(a, b, kind, n, v6) => {
                let op = Op::Route(a, Far::Port(b), kind, n, v6, 64);
                vec![op.clone(), Op::Answer(5), op]
            }
            Op::Route(..) | Op::Virtual(..) => vec![op.clone(), Op::Answer(5), op],
            // Whoever is hidden loses its connection where another route takes it to somebody else (docs/roadmap.md).
            Op::Routers(_) => vec![],
            _ => vec![op],
        });
        scenario.ops = answered.collect();
        scenario
    })
}

struct Built {
    plan: Plan,
    networks: Vec<NetId>,
    ports: Vec<PortUuid>,
    groups: Vec<GroupUuid>,
    chain: Option<(Id<kind::PortChain>, Vec<PortUuid>, NetId)>,
    policies: Vec<Id<kind::QosPolicy>>,
}

fn rules_of(rules: &[Rule], groups: &[GroupUuid]) -> Vec<SecurityGroupRule> {
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

fn firewall_of(rules: &[(bool, usize)], deny: bool) -> FunctionKind {
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
fn put_routers(plan: &mut Plan, networks: &[NetId], specs: &[RouterSpec]) {
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
    fn put_nat(
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
    fn build(&self) -> Built {
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
                functions.push(FunctionKind::Shaper(Shaper {
                    rate_bps: 1_000_000_000_000,
                    burst_bytes: 1 << 30,
                    queue_bytes: 1 << 20,
                    queue: hostconfig::Discipline::Fifo,
                }));
            }
            let virtuals = std::iter::once(vip).chain(nat).collect();
            (plan.chain(vec![classifier], functions), virtuals, net)
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

/// Has a port go by the device of the first of these that is on its host and has one, with a tag of its own.
fn carry(plan: &mut Plan, port: PortUuid, ports: &[PortUuid], n: usize) {
    let host = plan.host_of(port);
    let device = |p: &&PortUuid| plan.host_of(**p) == host && plan.get(**p).trunk.is_none();
    let parent = ports.iter().find(device).copied();
    plan.get_mut(port).trunk = parent.map(|parent| SubPort {
        parent,
        vlan: Vlan::try_from(u16::try_from(n).unwrap() + 100).unwrap(),
    });
}

/// Marks, and limits that hold nobody up: there is credit for all that a scenario sends.
fn set_policy(plan: &mut Plan, id: Id<kind::QosPolicy>, (mark, pace): (Option<u8>, u64)) {
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

struct Player {
    fabric: Fabric,
    /// All that may be so: which member a balancer chose is seen only when something arrives there.
    oracles: Vec<Oracle>,
    built: Built,
    received: Vec<(PortUuid, Vec<u8>)>,
    tcp_port: u16,
}

/// Plays a scenario, and holds the fabric to the oracle at every step.
pub fn play(scenario: &Scenario, build: Build) {
    let built = scenario.build();
    // The oracle knows no time, and so no limit.
    let build = Build {
        errors_per_second: u32::MAX,
        ..build
    };
    let mut fabric = Fabric::build(built.plan.clone(), build);
    let oracle = Oracle::new(fabric.apply());
    let mut player = Player {
        fabric,
        oracles: vec![oracle],
        built,
        received: vec![],
        tcp_port: 20_000,
    };
    let before = Oracle::new(vec![HostConfig::default(); scenario.hosts]);
    player.listen("at first", &before);
    for (n, op) in scenario.ops.iter().enumerate() {
        player.step(&format!("step {n}, {op:?}"), op);
    }
}

impl Player {
    fn port(&self, n: usize) -> PortUuid {
        self.built.ports[n % self.built.ports.len()]
    }

    /// Another port of the same network, if there is one; else itself.
    fn peer(&self, of: PortUuid, n: usize) -> PortUuid {
        let network = self.fabric.plan.get(of).network;
        let same: Vec<_> = self
            .fabric
            .plan
            .ports()
            .filter(|p| p.network == network)
            .collect();
        same[n % same.len()].id
    }

    /// Frames of this kind, each changed at last.
    fn frame(
        &mut self,
        between: &Between<'_>,
        (kind, n): (Kind, u16),
        change: &dyn Fn(FrameBuilder) -> FrameBuilder,
    ) -> Vec<Vec<u8>> {
        let (sport, dport) = (4000 + n, 80 + n);
        let one = |f: FrameBuilder| vec![change(f).build()];
        match kind {
            Kind::Udp => one(between.udp(sport, dport).payload(b"ask")),
            Kind::Tcp => {
                self.tcp_port += 1;
                one(between.syn(self.tcp_port, dport))
            }
            Kind::Ack => one(between.ack(19_000 + n, dport)),
            Kind::Echo => one(between.echo(7 + n)),
            Kind::Other => one(between.other(if n.is_multiple_of(2) { 47 } else { 50 })),
            Kind::Fragments => {
                let whole = between.udp(sport, dport).payload(&[7; 64]);
                self.tcp_port += 1;
                let id = u32::from(self.tcp_port);
                let piece = |id, at, more| change(whole.clone().fragment(id, at, more)).build();
                let (first, later) = (piece(id, 0, true), piece(id, 9, false));
                // Either may come first; the last one's first never comes.
                if n.is_multiple_of(2) {
                    vec![first, later, piece(id + 0x4000, 9, false)]
                } else {
                    vec![later, first, piece(id + 0x4000, 9, false)]
                }
            }
            Kind::WhoHas => vec![between.who_has()],
            Kind::WhoHasNobody => {
                let nobody: IpAddr = if between.v6 {
                    Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 0x9999).into()
                } else {
                    Ipv4Addr::new(10, 0, 0, 99).into()
                };
                vec![who_has(between.plan, between.from, nobody)]
            }
            Kind::Large if n == 0 => {
                self.tcp_port += 1;
                one(between.syn(self.tcp_port, dport).payload(&[7; 1500]))
            }
            // For every network, or only for the smallest.
            Kind::Large => {
                let bytes = if n == 1 { 1500 } else { 1380 };
                one(between.udp(sport, dport).payload(&vec![7; bytes]))
            }
            Kind::Solicit => {
                let own = between.plan.mac(between.from);
                let nameless = n.is_multiple_of(2).then_some(Ipv6Addr::UNSPECIFIED);
                let src = nameless.unwrap_or_else(|| own.link_local());
                vec![router_solicitation(own, src)]
            }
            Kind::Dhcp6 => {
                let kind = [ToDhcp6::Solicit, ToDhcp6::Information, ToDhcp6::Nonsense];
                let kind = kind[usize::from(n) % kind.len()];
                vec![dhcp6_client(between.plan.mac(between.from), kind)]
            }
            Kind::Dhcp => vec![dhcp_discover(between.plan.mac(between.from))],
            Kind::Multicast => {
                let (group, addr): (_, IpAddr) = if between.v6 {
                    (
                        Mac::new([0x33, 0x33, 0, 0, 0, 5]),
                        "ff02::5".parse().unwrap(),
                    )
                } else {
                    (
                        Mac::new([1, 0, 0x5e, 1, 1, 1]),
                        "239.1.1.1".parse().unwrap(),
                    )
                };
                let from = between.plan.addr(between.from, between.v6);
                let multicast = between
                    .udp(sport, dport)
                    .macs(between.plan.mac(between.from), group)
                    .addrs(from, addr);
                vec![multicast.build()]
            }
            Kind::UnknownMac => {
                let unknown = between.udp(sport, dport);
                vec![
                    unknown
                        .macs(between.plan.mac(between.from), mac(0x9999))
                        .build(),
                ]
            }
        }
    }

    fn step(&mut self, what: &str, op: &Op) {
        match op {
            Op::Send(from, to, kind, n, v6) => {
                let from = self.port(*from);
                let to = self.peer(from, *to);
                self.between(what, from, to, *kind, *n, *v6);
            }
            Op::Route(from, to, kind, n, v6, ttl) => {
                let from = self.port(*from);
                for frame in self.routed(from, *to, (*kind, *n), *v6, *ttl) {
                    self.send(what, from, &frame);
                }
            }
            Op::Routers(specs) => {
                let networks = self.built.networks.clone();
                put_routers(&mut self.fabric.plan, &networks, specs);
                self.reconfigure(what);
            }
            Op::Virtual(from, kind, n, v6) => {
                if let Some((_, virtuals, network)) = self.built.chain.clone() {
                    let vip = virtuals[usize::from(*n) % virtuals.len()];
                    let ports = self.fabric.plan.ports().filter(|p| p.network == network);
                    let ports: Vec<_> = ports.map(|p| p.id).collect();
                    if let Some(&from) = ports.get(from % ports.len().max(1)) {
                        self.between(what, from, vip, *kind, *n, *v6);
                    }
                }
            }
            Op::Answer(n) => {
                if let Some((port, frame)) = self.any_received(*n)
                    && let Some(frame) = answer(&frame, b"and back")
                {
                    self.send(what, port, &frame);
                }
            }
            Op::Error(n) => {
                if let Some((port, frame)) = self.any_received(*n) {
                    let (_, key) = net::Headers::parse(&frame).unwrap();
                    let lone = matches!(key.ip_proto, proto::ICMP | proto::ICMP6);
                    if key.is_ip() && key.ip_frag == 0 && !lone && !key.dst_mac().is_multicast() {
                        self.send(what, port, &FrameBuilder::icmp_error(&frame));
                    }
                }
            }
            Op::Spoof(from, other, how, v6) => {
                let from = self.port(*from);
                let other = self.peer(from, *other);
                let frame = spoof(&self.fabric.plan, from, other, *how, *v6);
                self.send(what, from, &frame);
            }
            Op::Any(from, frame, own) => {
                let from = self.port(*from);
                let mut frame = frame.clone();
                if *own {
                    frame[6..12].copy_from_slice(&self.fabric.plan.mac(from).octets());
                }
                self.send(what, from, &frame);
            }
            Op::Rules(group, rules) => {
                let groups = self.built.groups.clone();
                let rules = rules_of(rules, &groups);
                self.fabric
                    .plan
                    .set_rules(groups[group % groups.len()], rules);
                self.reconfigure(what);
            }
            Op::Firewall(rules, deny) => {
                if let Some((chain, ..)) = self.built.chain.clone() {
                    let there = &self.fabric.plan.chain_mut(chain).functions;
                    let mut functions: Vec<_> = there.iter().map(|f| f.kind.clone()).collect();
                    functions[0] = firewall_of(rules, *deny);
                    self.fabric.plan.set_functions(chain, functions);
                    self.reconfigure(what);
                }
            }
            Op::Qos(port, policy) => {
                let port = self.port(*port);
                let policy = self.built.policies.get(*policy).copied();
                self.fabric.plan.get_mut(port).qos = policy;
                self.reconfigure(what);
            }
            Op::Policy(policy, mark, pace) => {
                let policy = self.built.policies[policy % self.built.policies.len()];
                set_policy(&mut self.fabric.plan, policy, (*mark, *pace));
                self.reconfigure(what);
            }
            Op::Restart(host) => {
                self.fabric.restart(host % self.fabric.plan.hosts());
                let before = self.oracles[0].clone();
                self.listen(what, &before);
            }
        }
    }

    fn reconfigure(&mut self, what: &str) {
        let before = self.oracles[0].clone();
        let configs = self.fabric.apply();
        for oracle in &mut self.oracles {
            oracle.configure(configs.clone());
        }
        self.listen(what, &before);
    }

    /// Routers speak to hosts unasked once their config is no more what it was. When they do is their matter, but a last word is due at once.
    fn listen(&mut self, what: &str, before: &Oracle) {
        self.fabric.settle();
        let received = self.fabric.receive();
        let (must, mut may) = self.oracles[0].unasked(before);
        let mut heard = vec![];
        for r in &received {
            let of = |(port, said): &&(PortUuid, What)| *port == r.port && said.is(&r.frame.bytes);
            if let Some(due) = must.iter().find(of) {
                heard.push(due.clone());
                continue;
            }
            let at = may.iter().position(|said| of(&said));
            let shown = || What::of(&r.frame.bytes);
            let at = at.unwrap_or_else(|| panic!("{what}: {} hears {:?}", r.port, shown()));
            may.remove(at);
        }
        heard.sort();
        assert_eq!(heard, must, "{what}: last words");
        check_frames(what, &received);
    }

    fn any_received(&self, n: usize) -> Option<(PortUuid, Vec<u8>)> {
        // The last few are the ones that go on.
        let last = &self.received[self.received.len().saturating_sub(6)..];
        last.get(n % last.len().max(1)).cloned()
    }

    fn between(&mut self, what: &str, from: PortUuid, to: PortUuid, kind: Kind, n: u16, v6: bool) {
        let plan = self.fabric.plan.clone();
        let between = Between {
            plan: &plan,
            from,
            to,
            v6,
        };
        for frame in self.frame(&between, (kind, n), &|f| f) {
            self.send(what, from, &frame);
        }
    }

    /// Frames to the MAC address of a router, whatever they are for.
    fn routed(
        &mut self,
        from: PortUuid,
        to: Far,
        (kind, n): (Kind, u16),
        v6: bool,
        ttl: u8,
    ) -> Vec<Vec<u8>> {
        let plan = self.fabric.plan.clone();
        let between = Between {
            plan: &plan,
            from,
            to: from,
            v6,
        };
        let virtuals = self.built.chain.as_ref().map(|(_, virtuals, _)| virtuals);
        let vip = virtuals.map(|all| all[usize::from(n / 2) % all.len()]);
        let dst = match to {
            Far::Port(port) => plan.addr(self.port(port), v6),
            Far::Host(k, host) => plan.host(self.built.networks[2 * k], host, v6),
            Far::Virtual => vip.map_or_else(|| plan.addr(from, v6), |vip| plan.addr(vip, v6)),
            Far::Beyond(n) => {
                let (v4, six) = [
                    ("192.0.2.7", "2001:db8::7"),
                    ("169.254.1.1", "fe80::7"),
                    ("224.0.0.7", "ff0e::7"),
                    ("10.0.9.9", "fd09::9"),
                    ("127.0.0.1", "::1"),
                    ("255.255.255.255", "::2"),
                ][n];
                if v6 { six } else { v4 }.parse().unwrap()
            }
        };
        let network = plan.get(from).network;
        let on =
            |r: &hostconfig::Router| r.interfaces.iter().find(|i| i.network == network).cloned();
        let gates: Vec<_> = plan.routers().filter_map(on).collect();
        // Where there is no router, somebody who would be one.
        let gate = gates.get(usize::from(n) % gates.len().max(1));
        let gate = gate.map_or(mac(0x9999), |i| i.mac.get());
        let (own, src) = (plan.mac(from), plan.addr(from, v6));
        self.frame(&between, (kind, n), &|frame| {
            frame.macs(own, gate).addrs(src, dst).ttl(ttl)
        })
    }

    fn send(&mut self, what: &str, port: PortUuid, frame: &[u8]) {
        let bare = self.built.plan.bears_the_tag_of(port, frame);
        let (port, frame) = match &bare {
            Some((port, bare)) => (*port, &bare[..]),
            None => (port, frame),
        };
        let (received, drops) = self.fabric.send_judged(port, frame);
        let seen: Vec<_> = received.iter().map(|r| r.port).collect();
        let mut choices = vec![seen];
        // Nor where its sender was told that it is too large.
        let unseen = received.iter().all(|r| r.port == port);
        if unseen && self.built.chain.is_some() {
            choices.extend(self.built.ports.iter().map(|p| vec![*p]));
        }
        let shown = self.fabric.shown();
        assert_sources(what, &shown);
        for oracle in &mut self.oracles {
            oracle.show(&shown);
        }
        let mut possible: Vec<Oracle> = vec![];
        let mut first = None;
        for oracle in &self.oracles {
            for seen in &choices {
                let mut oracle = oracle.clone();
                let fate = oracle.send(port, frame, seen);
                let agrees = agree(&fate, &received, &drops);
                first.get_or_insert(fate);
                if agrees && !possible.iter().any(|o| o.same_connections(&oracle)) {
                    possible.push(oracle);
                }
            }
        }
        if let (true, Some(fate)) = (possible.is_empty(), &first) {
            assert_fate(what, fate, &received, &drops);
        }
        possible.truncate(32);
        self.oracles = possible;
        check_frames(what, &received);
        let frames = received.into_iter().map(|r| (r.port, r.frame.bytes));
        self.received.extend(frames);
    }
}

/// The first member serves what comes to a port of the NAT's.
fn with_forward(plan: &Plan, mut nat: hostconfig::Nat, members: &[PortUuid]) -> hostconfig::Nat {
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

/// No two connections of the fabric show the same source to the same end.
fn assert_sources(what: &str, shown: &[Vec<Shown>]) {
    let mut seen = std::collections::HashMap::new();
    for (client, inside, outside) in shown.iter().flatten() {
        let there = seen.insert(*outside, (*client, *inside));
        assert_eq!(there, None, "{what}: {inside} shows {outside} too");
    }
}

/// A frame in which a port says that it is another.
fn spoof(plan: &Plan, from: PortUuid, other: PortUuid, how: usize, v6: bool) -> Vec<u8> {
    let between = Between {
        plan,
        from,
        to: other,
        v6,
    };
    let nobody: IpAddr = if v6 { "fd00::7777" } else { "10.0.0.77" }.parse().unwrap();
    let frame = between.udp(4000, 80);
    let own = plan.mac(from);
    match how {
        0 => frame.macs(mac(0x6666), plan.mac(other)).build(),
        1 => frame.addrs(nobody, plan.addr(other, v6)).build(),
        2 => {
            let (IpAddr::V4(a), IpAddr::V4(b)) = (plan.addr(other, false), plan.addr(from, false))
            else {
                unreachable!("ipv4 was asked for")
            };
            FrameBuilder::arp(2, (own, a), (plan.mac(other), b))
        }
        3 => {
            let IpAddr::V6(target) = plan.addr(other, true) else {
                unreachable!("ipv6 was asked for")
            };
            let all = (
                Mac::new([0x33, 0x33, 0, 0, 0, 1]),
                "ff02::1".parse().unwrap(),
            );
            FrameBuilder::neighbor(136, (own, own.link_local()), all, target)
        }
        // A foreign DHCP server, for either family.
        4 => between
            .udp(if v6 { 547 } else { 67 }, if v6 { 546 } else { 68 })
            .build(),
        5 => frame.vlan(7).build(),
        // What is neither IP nor ARP.
        6 => {
            let mut frame = frame.build();
            frame[12..14].copy_from_slice(&[0x88, 0xb5]);
            frame
        }
        _ => frame
            .macs(own, Mac::new([1, 0x80, 0xc2, 0, 0, 0x0e]))
            .build(),
    }
}

/// Each frame of a scenario, as the first thing that a fresh fabric sees: what `explain` tells is what happens on the sender's host.
pub fn explained(scenario: &Scenario) {
    let built = scenario.build();
    let sends = |op: &Op| matches!(op, Op::Send(..) | Op::Route(..));
    for (n, op) in scenario.ops.iter().enumerate().filter(|(_, op)| sends(op)) {
        let mut player = Player {
            fabric: Fabric::new(built.plan.clone()),
            oracles: vec![],
            built: scenario.build(),
            received: vec![],
            tcp_port: 20_000,
        };
        // What routers say unasked is nobody's answer.
        player.fabric.settle();
        player.fabric.receive();
        let (from, frames) = match op {
            Op::Send(from, to, kind, number, v6) => {
                let from = player.port(*from);
                let plan = player.fabric.plan.clone();
                let between = Between {
                    plan: &plan,
                    from,
                    to: player.peer(from, *to),
                    v6: *v6,
                };
                (from, player.frame(&between, (*kind, *number), &|f| f))
            }
            Op::Route(from, to, kind, number, v6, ttl) => {
                let from = player.port(*from);
                (from, player.routed(from, *to, (*kind, *number), *v6, *ttl))
            }
            _ => continue,
        };
        // A fragment that waits for its first goes nowhere yet.
        let goes = |frame: &&Vec<u8>| {
            net::Headers::parse(frame).is_ok_and(|(_, key)| key.ip_frag != Fragment::Later as u8)
        };
        if let Some(frame) = frames.iter().find(goes) {
            player.explained(&format!("step {n}, {op:?}"), from, frame);
        }
    }
}

impl Player {
    fn explained(&mut self, what: &str, from: PortUuid, frame: &[u8]) {
        let host = self.fabric.plan.host_of(from);
        let (headers, mut key) = net::Headers::parse(frame).unwrap();
        key.set_origin(net::Origin::Port(self.fabric.dense(from)));
        let len = frame.len() - usize::from(headers.l3_at);
        let tables = self.fabric.tables(host);
        let told = explain_key(tables, &key, Some(len), String::new(), self.fabric.now());
        let (before, sent) = (self.fabric.ledger(host), self.fabric.wires().counts().sent);
        let received = self.fabric.send(from, frame);
        let (after, sent_then) = (self.fabric.ledger(host), self.fabric.wires().counts().sent);
        let here = received
            .iter()
            .filter(|r| self.fabric.plan.host_of(r.port) == host);
        let mut here: Vec<String> = here.map(|r| r.port.to_string()).collect();
        let dropped = |reason: &str| {
            let reason = DropReason::ALL.iter().find(|r| r.name() == reason).unwrap();
            after.dropped(*reason) - before.dropped(*reason)
        };
        match &told.verdict {
            Ending::Delivered { to } => {
                let vteps = to.iter().filter(|t| t.parse::<IpAddr>().is_ok()).count();
                let mut ports: Vec<_> = to
                    .iter()
                    .filter(|t| t.parse::<IpAddr>().is_err())
                    .cloned()
                    .collect();
                ports.sort();
                here.sort();
                assert_eq!(ports, here, "{what}: {told}");
                assert_eq!(
                    sent_then - sent,
                    u64::try_from(vteps).unwrap(),
                    "{what}: {told}"
                );
            }
            Ending::Answered { .. } => {
                // By each router that speaks there. What a DHCPv6 client says decides whether it hears anything.
                here.dedup();
                let silent = here.is_empty() && key.l4_dst == 547;
                assert!(silent || here == [from.to_string()], "{what}: {told}");
            }
            Ending::Dropped { reason, .. } => {
                let hears = |step: &Step| step.says.contains("its sender is told");
                let hears = told.steps.iter().any(hears);
                let heard: Vec<_> = hears.then(|| from.to_string()).into_iter().collect();
                assert_eq!(here, heard, "{what}: {told}");
                assert_eq!(dropped(reason), 1, "{what}: {told}");
            }
        }
    }
}
