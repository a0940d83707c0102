//! What if nobody thought of it?
//!
//! Strategies for whole fabrics and for what happens in them. A [`Scenario`] is played by [`play`]: each frame goes through the
//! fabric and is shown to the oracle, and what the two say must be the same.

use hostconfig::HostConfig;
use net::{Id, flow_key::proto, ids::kind, testkit::FrameBuilder};

use crate::{
    fabric::{Build, Fabric, agree, assert_fate, check_frames},
    oracle::{Oracle, Shown, What},
    plan::{GroupUuid, NetId, Plan, PortUuid},
    traffic::{Between, answer},
};
use build::{firewall_of, put_routers, rules_of, set_policy};
use frames::spoof;

mod any;
mod beyond;
mod build;
mod explained;
mod frames;
pub use any::{hidden, scenario};
pub use beyond::{outing, travel};
pub use explained::explained;

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
    /// The functions behind this one are another chain's, which follows in a graph.
    split: Option<usize>,
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

struct Built {
    plan: Plan,
    networks: Vec<NetId>,
    ports: Vec<PortUuid>,
    groups: Vec<GroupUuid>,
    chain: Option<(Id<kind::PortChain>, Vec<PortUuid>, NetId)>,
    policies: Vec<Id<kind::QosPolicy>>,
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

/// No two connections of the fabric show the same source to the same end.
fn assert_sources(what: &str, shown: &[Vec<Shown>]) {
    let mut seen = std::collections::HashMap::new();
    for (client, inside, outside) in shown.iter().flatten() {
        let there = seen.insert(*outside, (*client, *inside));
        assert_eq!(there, None, "{what}: {inside} shows {outside} too");
    }
}
