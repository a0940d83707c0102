//! Does a cache ever say what the rules do not?
//!
//! An input is a stream of choices: a host with two workloads whose groups and firewall have random rules (all shapes of addresses,
//! ports, protocols, types, sets), and [`PAIRS`] packets between them. Each packet's verdict is found four times: by reading the
//! config word for word, by a walk of the tables, by a datapath that has seen the packets before it, and by the same once more,
//! when it has surely seen this one. All must agree, with the rule that refused. Choices that an input does not have are drawn from
//! its hash, so that every input has as many pairs.

use std::collections::HashSet;
use std::net::IpAddr;
use std::sync::Arc;

use hostconfig::chain::{Action, FirewallRule, Side};
use hostconfig::group::{Direction, Family, L4Match, Remote};
use hostconfig::port::AddressPair;
use hostconfig::{
    AddressSet, Chain, Classifier, Firewall, Function, FunctionKind, HostConfig, Keyed, Network,
    Port, Section, SecurityGroup, SecurityGroupRule,
};
use net::flow_key::{ethertype, proto};
use net::testkit::{FrameBuilder, mac, tcp};
use net::{
    Batch, DropReason, FiveTuple, FlowKey, Headers, Id, Now, Origin, PacketPool, PortRange, Prefix,
    Probe, Zone, ids::kind,
};
use nfv::conntrack::Entry;
use vswitch::datapath::walk::{Known, Lent, walk};
use vswitch::datapath::{Claims, Datapath, Out, Settings, Tables, Verdict, ZoneMap};

use crate::host::{self, id};

/// Packets of one input.
pub(crate) const PAIRS: u32 = 64;
/// Sets of addresses; one more is named and not there.
const SETS: u8 = 3;
const NOW: Now = Now::from_nanos(1_000_000_000_000);

/// What an input chooses.
struct Choices<'a> {
    bytes: &'a [u8],
    state: u64,
}

impl<'a> Choices<'a> {
    fn new(bytes: &'a [u8]) -> Self {
        let state = bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash: u64, b| {
            (hash ^ u64::from(*b)).wrapping_mul(0x0100_0000_01b3)
        });
        Self { bytes, state }
    }

    fn byte(&mut self) -> u8 {
        if let Some((first, rest)) = self.bytes.split_first() {
            self.bytes = rest;
            return *first;
        }
        // splitmix64, its highest byte.
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.state;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        let [.., last] = (mixed ^ (mixed >> 31)).to_le_bytes();
        last
    }

    /// One in so many.
    fn one_in(&mut self, n: u8) -> bool {
        self.byte().is_multiple_of(n)
    }

    fn of<T: Copy>(&mut self, all: &[T]) -> T {
        let at = usize::from(self.byte()) % all.len();
        match all.get(at) {
            Some(one) => *one,
            None => unreachable!("a remainder is below what divides"),
        }
    }

    fn maybe<T>(&mut self, what: impl FnOnce(&mut Self) -> T) -> Option<T> {
        (!self.one_in(2)).then(|| what(self))
    }

    /// At the edges of bytes, and few enough to meet.
    fn number(&mut self) -> u8 {
        self.of(&[0, 1, 2, 127, 128, 254, 255])
    }

    fn address(&mut self, v6: bool) -> IpAddr {
        let [a, b, c] = [self.number(), self.number(), self.number()];
        if v6 {
            [0xfd00, u16::from(a), 0, 0, 0, 0, u16::from(b), u16::from(c)].into()
        } else {
            [10, a, b, c].into()
        }
    }

    fn prefix(&mut self, v6: bool) -> Prefix {
        let len = if v6 {
            self.of(&[0, 8, 16, 31, 32, 33, 64, 111, 112, 113, 120, 127, 128, 128])
        } else {
            self.byte() % 33
        };
        let addr = self.address(v6);
        match Prefix::containing(addr, len) {
            Ok(prefix) => prefix,
            Err(error) => unreachable!("a length of the family: {error}"),
        }
    }

    fn port(&mut self) -> u16 {
        self.of(&[
            0, 1, 2, 3, 80, 255, 256, 257, 1023, 1024, 32_768, 65_534, 65_535,
        ])
    }

    fn ports(&mut self) -> PortRange {
        let (a, b) = (self.port(), self.port());
        match PortRange::new(a.min(b), a.max(b)) {
            Ok(range) if !self.one_in(3) => range,
            _ => PortRange::one(a),
        }
    }

    /// How many rules: mostly few, sometimes more than there are tuples.
    fn count(&mut self) -> u16 {
        match self.byte() {
            n if n.is_multiple_of(16) => 100 + u16::from(self.byte()),
            n => u16::from(n % 13),
        }
    }
}

fn set_id(n: u8) -> Id<kind::AddressSet> {
    id(300 + u128::from(n))
}

fn action(deny: bool) -> Action {
    if deny { Action::Deny } else { Action::Allow }
}

fn group_rule(c: &mut Choices<'_>, number: u16) -> SecurityGroupRule {
    let v6 = c.one_in(3);
    let icmp = if v6 { proto::ICMP6 } else { proto::ICMP };
    let (protocol, l4) = match c.byte() % 8 {
        0 => (None, L4Match::Any),
        1 => (
            Some(c.of(&[proto::TCP, proto::UDP, icmp, 47])),
            L4Match::Any,
        ),
        2 => {
            let kind = c.of(&[0, 8, 128, 129]);
            let code = c.maybe(|c| c.byte() % 2);
            (Some(icmp), L4Match::Icmp { kind, code })
        }
        _ => (
            Some(c.of(&[proto::TCP, proto::UDP])),
            L4Match::Ports(c.ports()),
        ),
    };
    let remote = match c.byte() % 6 {
        0 => Remote::Any,
        1 => Remote::Set(set_id(c.byte() % (SETS + 1))),
        _ => Remote::Prefix(c.prefix(v6)),
    };
    SecurityGroupRule {
        id: id(10_000 + u128::from(number)),
        direction: c.of(&[Direction::Egress, Direction::Ingress]),
        family: if v6 { Family::V6 } else { Family::V4 },
        protocol,
        l4,
        remote,
    }
}

fn firewall_rule(c: &mut Choices<'_>, number: u16) -> FirewallRule {
    let v6 = c.one_in(3);
    let ports = c.one_in(2);
    let protocol = if ports {
        c.of(&[None, Some(proto::TCP), Some(proto::UDP)])
    } else {
        c.of(&[None, Some(proto::ICMP), Some(proto::TCP), Some(47)])
    };
    FirewallRule {
        id: id(20_000 + u128::from(number)),
        action: action(!c.one_in(3)),
        family: c.maybe(|_| if v6 { Family::V6 } else { Family::V4 }),
        protocol,
        source: c.maybe(|c| c.prefix(v6)),
        destination: c.maybe(|c| c.prefix(v6)),
        source_ports: ports.then(|| c.maybe(Choices::ports)).flatten(),
        destination_ports: ports.then(|| c.maybe(Choices::ports)).flatten(),
    }
}

/// The config, kept as it is read word for word.
struct World {
    group: SecurityGroup,
    sets: Vec<AddressSet>,
    firewall: Option<Firewall>,
}

impl World {
    fn new(c: &mut Choices<'_>) -> Self {
        let mut rules: Vec<_> = (0..c.count()).map(|n| group_rule(c, n)).collect();
        // Else nearly everything ends at the first door.
        if !c.one_in(3) {
            for (number, family) in [(0, Family::V4), (1, Family::V6)] {
                rules.push(SecurityGroupRule {
                    id: id(9000 + number),
                    direction: c.of(&[Direction::Egress, Direction::Egress, Direction::Ingress]),
                    family,
                    protocol: None,
                    l4: L4Match::Any,
                    remote: Remote::Any,
                });
            }
        }
        let set = |n: u8, c: &mut Choices<'_>| AddressSet {
            part: None,
            id: set_id(n),
            members: (0..c.byte() % 8)
                .map(|_| {
                    let v6 = c.one_in(3);
                    c.prefix(v6)
                })
                .collect(),
        };
        Self {
            group: SecurityGroup {
                id: id(200),
                name: "group".into(),
                stateful: !c.one_in(3),
                rules,
            },
            sets: (0..SETS).map(|n| set(n, c)).collect(),
            firewall: c.maybe(|c| Firewall {
                rules: (0..c.count()).map(|n| firewall_rule(c, n)).collect(),
                default: action(c.one_in(4)),
            }),
        }
    }

    fn tables(&self) -> Tables {
        let mut config = HostConfig::default();
        let mut sections = vec![
            Section::Network(Network {
                subnets: vec![],
                ..host::network()
            }),
            Section::Group(self.group.clone()),
        ];
        sections.extend([1, 2].map(|n| Section::Port(port(n))));
        sections.extend(self.sets.iter().cloned().map(Section::AddressSet));
        sections.extend(self.firewall.clone().map(|f| Section::Chain(chain(f))));
        for section in sections {
            let Ok(keyed) = Keyed::new(section) else {
                unreachable!("a section that was made here encodes");
            };
            config.insert(Arc::new(keyed));
        }
        let zones: ZoneMap = [(id(1), Zone(1)), (id(2), Zone(2))].into();
        let tables = Tables::build(None, &config, &zones, 1);
        assert!(tables.faults().is_empty(), "{:?}", tables.faults());
        tables
    }

    /// What the groups say.
    fn allows(&self, key: &FlowKey, direction: Direction) -> bool {
        let remote = match direction {
            Direction::Egress => key.dst_addr(),
            Direction::Ingress => key.src_addr(),
        };
        self.group.rules.iter().any(|r| {
            let l4 = match r.l4 {
                L4Match::Any => true,
                L4Match::Ports(range) => range.contains(key.l4_dst),
                L4Match::Icmp { kind, code } => {
                    key.l4_src == u16::from(kind) && code.is_none_or(|c| key.l4_dst == u16::from(c))
                }
            };
            let remote = match r.remote {
                Remote::Any => true,
                Remote::Prefix(p) => p.contains(remote),
                Remote::Set(id) => {
                    let mut of_set = self.sets.iter().filter(|s| s.id == id);
                    of_set.any(|s| s.members.iter().any(|p| p.contains(remote)))
                }
            };
            r.direction == direction
                && is_of(r.family, key)
                && r.protocol.is_none_or(|p| p == key.ip_proto)
                && l4
                && remote
        })
    }

    /// What the whole says of a connection's first packet.
    fn judge(&self, key: &FlowKey) -> Answer {
        if !self.allows(key, Direction::Egress) {
            return Answer::Drop(DropReason::SecurityGroupEgress, None);
        }
        if let Some(firewall) = &self.firewall {
            let first = firewall.rules.iter().find(|r| asks(r, key));
            if first.map_or(firewall.default, |r| r.action) == Action::Deny {
                return Answer::Drop(DropReason::FirewallDenied, first.map(|r| r.id));
            }
        }
        if !self.allows(key, Direction::Ingress) {
            return Answer::Drop(DropReason::SecurityGroupIngress, None);
        }
        Answer::Pass
    }

    /// What it says of a reply to a connection that passed.
    fn judge_reply(&self, key: &FlowKey) -> Answer {
        for (direction, reason) in [
            (Direction::Egress, DropReason::SecurityGroupEgress),
            (Direction::Ingress, DropReason::SecurityGroupIngress),
        ] {
            if !self.group.stateful && !self.allows(key, direction) {
                return Answer::Drop(reason, None);
            }
        }
        Answer::Pass
    }

    fn tracks(&self) -> bool {
        self.group.stateful || self.firewall.is_some()
    }
}

fn is_of(family: Family, key: &FlowKey) -> bool {
    key.ethertype
        == match family {
            Family::V4 => ethertype::IPV4,
            Family::V6 => ethertype::IPV6,
        }
}

fn asks(r: &FirewallRule, key: &FlowKey) -> bool {
    let has_ports = matches!(key.ip_proto, proto::TCP | proto::UDP | proto::SCTP);
    let ports = |range: Option<PortRange>, port| {
        range.is_none_or(|range| has_ports && range.contains(port))
    };
    r.family.is_none_or(|f| is_of(f, key))
        && r.protocol.is_none_or(|p| p == key.ip_proto)
        && r.source.is_none_or(|p| p.contains(key.src_addr()))
        && r.destination.is_none_or(|p| p.contains(key.dst_addr()))
        && ports(r.source_ports, key.l4_src)
        && ports(r.destination_ports, key.l4_dst)
}

/// A workload that may send from every address that is chosen here.
fn port(n: u8) -> Port {
    let pair = |prefix: &str| match prefix.parse() {
        Ok(prefix) => AddressPair {
            mac: host::unicast(n),
            prefix,
        },
        Err(_) => unreachable!("a prefix: {prefix}"),
    };
    Port {
        port_security: true,
        allowed_address_pairs: vec![pair("10.0.0.0/8"), pair("fd00::/8")],
        security_groups: vec![id(200)],
        max_connections: 1024,
        qos: None,
        host_number: Some(0),
        trunk: None,
        firewall: None,
        ..host::port(n)
    }
}

fn chain(firewall: Firewall) -> Chain {
    Chain {
        id: id(400),
        name: "chain".into(),
        project: id(7),
        path: 1,
        symmetric: true,
        graph: hostconfig::Graph::default(),
        classifiers: vec![Classifier {
            id: id(401),
            name: "all".into(),
            source: Some(Side::Network(id(host::NETWORK))),
            destination: None,
            family: None,
            protocol: None,
            source_ports: None,
            destination_ports: None,
            source_prefix: None,
            destination_prefix: None,
        }],
        functions: vec![Function {
            id: id(402),
            name: "firewall".into(),
            kind: FunctionKind::Firewall(firewall),
        }],
    }
}

/// How a packet ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Answer {
    Pass,
    Drop(DropReason, Option<Id<kind::Rule>>),
}

/// A packet from one of the two to the other.
struct Sent {
    from: u8,
    frame: Vec<u8>,
    key: FlowKey,
    tuple: FiveTuple,
}

impl Sent {
    fn new(from: u8, frame: Vec<u8>) -> Self {
        let Ok((_, key)) = Headers::parse(&frame) else {
            unreachable!("a frame that was made here parses");
        };
        let Some(tuple) = key.five_tuple() else {
            unreachable!("it is IP");
        };
        Self {
            from,
            frame,
            key,
            tuple,
        }
    }

    fn draw(c: &mut Choices<'_>) -> Self {
        let v6 = c.one_in(3);
        let (sport, dport) = (c.port(), c.port());
        let builder = match c.byte() % 5 {
            0 | 1 => FrameBuilder::udp(v6, sport, dport),
            2 | 3 => FrameBuilder::tcp(v6, sport, dport).flags(tcp::SYN),
            _ if c.one_in(3) => FrameBuilder::other(v6, 47),
            _ => FrameBuilder::echo(v6, sport),
        };
        let from = 1 + c.byte() % 2;
        let (src, dst) = (c.address(v6), c.address(v6));
        Self::new(from, between(from, builder.addrs(src, dst)))
    }

    /// What its receiver answers; `None` for what is not simply turned round.
    fn reply(&self) -> Option<Self> {
        let t = &self.tuple;
        let v6 = self.key.ethertype == ethertype::IPV6;
        let builder = match t.proto {
            proto::UDP => FrameBuilder::udp(v6, t.dst_port, t.src_port),
            proto::ICMP | proto::ICMP6 => FrameBuilder::echo_reply(v6, t.src_port),
            47 => FrameBuilder::other(v6, 47),
            _ => return None,
        };
        let from = 3 - self.from;
        let builder = builder.addrs(t.dst_addr(), t.src_addr());
        Some(Self::new(from, between(from, builder)))
    }
}

fn between(from: u8, builder: FrameBuilder) -> Vec<u8> {
    let to = 3 - from;
    builder.macs(mac(from.into()), mac(to.into())).build()
}

struct Switch {
    tables: Tables,
    datapath: Datapath,
    pool: PacketPool,
    out: Out,
}

impl Switch {
    fn new(world: &World) -> Self {
        let settings = Settings {
            programs: 256,
            megaflows: 256,
            fragments: 4,
            early_fragments: 4,
            ..Settings::default()
        };
        let claims = Arc::new(Claims::new(1, 1));
        let entries = vec![Entry::default(); 2 * PAIRS as usize];
        Self {
            tables: world.tables(),
            datapath: Datapath::new(settings, entries, 0, claims, NOW),
            pool: PacketPool::new(4, 1),
            out: Out::new(),
        }
    }

    fn origin(&self, from: u8) -> Origin {
        match self.tables.port_by_id(id(from.into())) {
            Some(port) => Origin::Port(port.dense),
            None => unreachable!("a port of the tables"),
        }
    }

    /// What a walk says of the packet as the first one of its connection.
    fn walked(&self, sent: &Sent) -> Answer {
        let mut key = sent.key;
        key.set_origin(self.origin(sent.from));
        let lent = Lent {
            now: NOW,
            known: Known::New,
            sources: None,
            attempt: 0,
            before: None,
            after: None,
            had: None,
        };
        let outcome = walk(&self.tables, &mut Probe::new(&key), &mut (), lent);
        match outcome.flow.verdict {
            Verdict::Drop(refusal) => Answer::Drop(refusal.reason, refusal.rule),
            Verdict::Deliver => Answer::Pass,
            Verdict::Consume(what) => unreachable!("nothing here is answered: {what}"),
        }
    }

    /// What becomes of the packet.
    fn send(&mut self, sent: &Sent) -> Answer {
        let before: u64 = self.datapath.ledger().dropped_total();
        let records: Vec<_> = self.datapath.drops().iter().map(|r| r.packets).collect();
        let origin = self.origin(sent.from);
        let Some(mut packet) = self.pool.take(sent.frame.len()) else {
            unreachable!("one packet is on its way at a time");
        };
        assert!(packet.fill(&sent.frame).is_ok());
        packet.set_origin(origin);
        let mut batch = Batch::new();
        assert!(batch.push(packet).is_ok());
        self.datapath
            .run(&self.tables, &mut batch, NOW, &mut self.pool, &mut self.out);
        let mut received = 0;
        while let Some(port) = self.out.next_port(&mut batch) {
            assert_ne!(Origin::Port(port), origin, "it came back");
            for packet in batch.drain() {
                received += 1;
                self.pool.give(packet);
            }
        }
        let dropped = self.datapath.ledger().dropped_total() - before;
        assert_eq!(received + dropped, 1, "a packet ends once");
        if received == 1 {
            return Answer::Pass;
        }
        let mut records = records.into_iter().chain(std::iter::repeat(0));
        let mut all = self.datapath.drops().iter();
        match all.find(|r| Some(r.packets) != records.next()) {
            Some(r) => Answer::Drop(r.refusal.reason, r.refusal.rule),
            None => unreachable!("a drop leaves a record"),
        }
    }
}

/// Plays the input.
pub(crate) fn agree(bytes: &[u8]) {
    let mut choices = Choices::new(bytes);
    let c = &mut choices;
    let world = World::new(c);
    let mut switch = Switch::new(&world);
    let mut known = HashSet::new();
    let mut answer = None;
    for _ in 0..PAIRS {
        let sent = loop {
            let sent: Sent = answer.take().unwrap_or_else(|| Sent::draw(c));
            let turned = sent.tuple.reversed();
            // One connection with itself; and a TCP machine that says no is not the rules'.
            let odd = turned == sent.tuple
                || sent.tuple.proto == proto::TCP && known.contains(&(3 - sent.from, turned));
            if !odd {
                break sent;
            }
        };
        let is_reply = known.contains(&(3 - sent.from, sent.tuple.reversed()));
        let expected = if is_reply {
            world.judge_reply(&sent.key)
        } else {
            let expected = world.judge(&sent.key);
            assert_eq!(switch.walked(&sent), expected, "walked {:?}", sent.key);
            expected
        };
        assert_eq!(switch.send(&sent), expected, "first {:?}", sent.key);
        assert_eq!(switch.send(&sent), expected, "cached {:?}", sent.key);
        if expected == Answer::Pass {
            if !is_reply && world.tracks() {
                known.insert((sent.from, sent.tuple));
            }
            if c.one_in(3) {
                // Of what is not tracked, a reply is a packet like any other; an echo reply would begin nothing.
                answer = sent.reply().filter(|_| !is_reply && world.tracks());
            }
        }
    }
    assert!(switch.datapath.ledger().balanced().is_ok());
}

/// Choices of all kinds; what is drawn from the hash does the rest.
pub(crate) fn seeds() -> Vec<Vec<u8>> {
    let stream = |n: u8| (0..=255u8).map(move |b| b.wrapping_mul(37).wrapping_add(n));
    (0..32)
        .map(|n: u8| {
            stream(n.wrapping_mul(53))
                .take(8 + usize::from(n) * 7)
                .collect()
        })
        .collect()
}
