//! Which connections may a workload begin, and which may be begun towards it?
//!
//! The rules of all groups of a port, united and sorted by what they ask, once for every distinct set of groups. All rules
//! allow; whatever none allows is refused.
//!
//! # Cost
//! A decision asks at most: rules of any protocol, rules of this protocol, rules of this very port, ranges that hold it. Each
//! of these is a [`PrefixMap`] and the address sets named there, so it costs the same for ten rules and for ten thousand of
//! one shape. Only distinct port *ranges* are tried one by one.
//!
//! # Always allowed
//! As Neutron's own firewall does: Neighbor Discovery, multicast listener discovery, and a DHCP client's messages.
//!
//! # References
//! RFC 4890 §4.4 (ICMPv6 that must not be filtered).

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use hostconfig::{
    SecurityGroup, SecurityGroupRule,
    group::{Direction, Family, L4Match, Remote},
};
use net::{
    Id, PortRange, Prefix, Probe,
    flow_key::{ethertype, proto},
    ids::kind,
};

use super::{
    SectionIndex,
    address_set::{End, PrefixMap, PrefixSet},
};

/// The united rules of a set of groups.
#[derive(Debug, Clone)]
pub struct GroupSet {
    /// Does any of them track connections?
    pub stateful: bool,
    /// Its place among the epochs.
    pub section: SectionIndex,
    groups: HashMap<Id<kind::Rule>, Id<kind::SecurityGroup>>,
    egress_v4: Rules,
    egress_v6: Rules,
    ingress_v4: Rules,
    ingress_v6: Rules,
}

/// Why something is allowed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Allowed {
    /// A rule says so.
    Rule(Id<kind::Rule>),
    /// Always: what an address is got and kept by.
    Always(&'static str),
}

impl GroupSet {
    /// From groups and the address sets that their rules name. A set that is not there has no members.
    pub fn new(
        groups: &[&SecurityGroup],
        sets: &BTreeMap<Id<kind::AddressSet>, Arc<PrefixSet>>,
        section: SectionIndex,
        seed: u64,
    ) -> Self {
        let rules = |direction, family| {
            let wanted = groups
                .iter()
                .flat_map(|g| &g.rules)
                .filter(|r| r.direction == direction && r.family == family);
            Rules::new(wanted, sets, seed)
        };
        Self {
            // A port without any group tracks too: it may answer nobody, but Neutron's model is stateful.
            stateful: groups.is_empty() || groups.iter().any(|g| g.stateful),
            section,
            groups: groups
                .iter()
                .flat_map(|g| g.rules.iter().map(|r| (r.id, g.id)))
                .collect(),
            egress_v4: rules(Direction::Egress, Family::V4),
            egress_v6: rules(Direction::Egress, Family::V6),
            ingress_v4: rules(Direction::Ingress, Family::V4),
            ingress_v6: rules(Direction::Ingress, Family::V6),
        }
    }

    /// The group of a rule.
    pub fn group_of(&self, rule: Id<kind::Rule>) -> Option<Id<kind::SecurityGroup>> {
        self.groups.get(&rule).copied()
    }

    /// Who allows this packet in this direction; `None`: nobody. What is not IP passes: port security judged it.
    pub fn judge(&self, probe: &mut Probe, direction: Direction) -> Option<Allowed> {
        let v6 = match probe.ethertype() {
            ethertype::IPV4 => false,
            ethertype::IPV6 => true,
            _ => return Some(Allowed::Always("not ip")),
        };
        if let Some(why) = always(probe, direction, v6) {
            return Some(Allowed::Always(why));
        }
        let (rules, remote) = match (direction, v6) {
            (Direction::Egress, false) => (&self.egress_v4, End::Destination),
            (Direction::Egress, true) => (&self.egress_v6, End::Destination),
            (Direction::Ingress, false) => (&self.ingress_v4, End::Source),
            (Direction::Ingress, true) => (&self.ingress_v6, End::Source),
        };
        rules.find(probe, remote).map(Allowed::Rule)
    }
}

/// Is it one of those that nobody may forbid?
pub fn always(probe: &mut Probe, direction: Direction, v6: bool) -> Option<&'static str> {
    match (probe.ip_proto(), v6) {
        (proto::ICMP6, true) => match (probe.l4_src(), direction) {
            (135 | 136, _) => Some("neighbor discovery"),
            (133, Direction::Egress) => Some("router solicitation"),
            (134, Direction::Ingress) => Some("router advertisement"),
            (130..=132 | 143, _) => Some("multicast listener discovery"),
            _ => None,
        },
        (proto::UDP, _) => {
            let (client, server) = if v6 { (546, 547) } else { (68, 67) };
            let (from, to) = match direction {
                Direction::Egress => (client, server),
                Direction::Ingress => (server, client),
            };
            (probe.l4_dst() == to && probe.l4_src() == from).then_some("dhcp client")
        }
        _ => None,
    }
}

/// Rules of one direction and family.
#[derive(Debug, Clone, Default)]
struct Rules {
    any: Option<Remotes>,
    by_protocol: BTreeMap<u8, Protocol>,
}

#[derive(Debug, Clone, Default)]
struct Protocol {
    any: Option<Remotes>,
    ports: HashMap<u16, Remotes, foldhash::fast::FixedState>,
    ranges: Vec<(PortRange, Remotes)>,
    /// By ICMP type and code; of any code, the second map.
    kinds: HashMap<(u8, Option<u8>), Remotes, foldhash::fast::FixedState>,
}

impl Rules {
    fn new<'a>(
        rules: impl Iterator<Item = &'a SecurityGroupRule>,
        sets: &BTreeMap<Id<kind::AddressSet>, Arc<PrefixSet>>,
        seed: u64,
    ) -> Self {
        #[derive(PartialEq, Eq, PartialOrd, Ord)]
        enum Asks {
            Any,
            Ports(u16, u16),
            Icmp(u8, Option<u8>),
        }
        let mut sorted: BTreeMap<(Option<u8>, Asks), Vec<&SecurityGroupRule>> = BTreeMap::new();
        for rule in rules {
            let asks = match rule.l4 {
                L4Match::Any => Asks::Any,
                L4Match::Ports(r) if r == PortRange::ANY => Asks::Any,
                L4Match::Ports(r) => Asks::Ports(r.min(), r.max()),
                L4Match::Icmp { kind, code } => Asks::Icmp(kind, code),
            };
            sorted.entry((rule.protocol, asks)).or_default().push(rule);
        }
        let mut this = Self::default();
        for ((protocol, asks), rules) in sorted {
            let remotes = Remotes::new(&rules, sets, seed);
            let Some(protocol) = protocol else {
                // A rule that names ports names a protocol; one that does not and yet asks for them can match nothing.
                if asks == Asks::Any {
                    this.any = Some(remotes);
                }
                continue;
            };
            let p = this.by_protocol.entry(protocol).or_default();
            match asks {
                Asks::Any => p.any = Some(remotes),
                Asks::Ports(min, max) if min == max => {
                    p.ports.insert(min, remotes);
                }
                Asks::Ports(min, max) => {
                    if let Ok(range) = PortRange::new(min, max) {
                        p.ranges.push((range, remotes));
                    }
                }
                Asks::Icmp(kind, code) => {
                    p.kinds.insert((kind, code), remotes);
                }
            }
        }
        this
    }

    fn find(&self, probe: &mut Probe, end: End) -> Option<Id<kind::Rule>> {
        if let Some(rule) = self.any.as_ref().and_then(|r| r.find(probe, end)) {
            return Some(rule);
        }
        if self.by_protocol.is_empty() {
            return None;
        }
        let p = self.by_protocol.get(&probe.ip_proto())?;
        if let Some(rule) = p.any.as_ref().and_then(|r| r.find(probe, end)) {
            return Some(rule);
        }
        if !p.ports.is_empty() || !p.ranges.is_empty() {
            let port = probe.l4_dst();
            if let Some(rule) = p.ports.get(&port).and_then(|r| r.find(probe, end)) {
                return Some(rule);
            }
            // Sorted by their first port: those behind it can't hold it.
            let upto = p
                .ranges
                .partition_point(|(range, _)| PortRange::min(*range) <= port);
            let holding = p
                .ranges
                .get(..upto)?
                .iter()
                .filter(|(r, _)| r.contains(port));
            for (_, remotes) in holding {
                if let Some(rule) = remotes.find(probe, end) {
                    return Some(rule);
                }
            }
        }
        if !p.kinds.is_empty() {
            let kind = u8::try_from(probe.l4_src()).ok()?;
            let any_code = p.kinds.get(&(kind, None));
            if let Some(rule) = any_code.and_then(|r| r.find(probe, end)) {
                return Some(rule);
            }
            let code = u8::try_from(probe.l4_dst()).ok()?;
            let one_code = p.kinds.get(&(kind, Some(code)));
            return one_code.and_then(|r| r.find(probe, end));
        }
        None
    }
}

/// The other ends that rules of one shape allow.
#[derive(Debug, Clone)]
struct Remotes {
    any: Option<Id<kind::Rule>>,
    prefixes: PrefixMap<Id<kind::Rule>>,
    sets: Vec<(Arc<PrefixSet>, Id<kind::Rule>)>,
}

impl Remotes {
    fn new(
        rules: &[&SecurityGroupRule],
        sets: &BTreeMap<Id<kind::AddressSet>, Arc<PrefixSet>>,
        seed: u64,
    ) -> Self {
        let anyone = |p: Prefix| p.bits() == 0;
        let any = rules.iter().find(|r| match r.remote {
            Remote::Any => true,
            Remote::Prefix(p) => anyone(p),
            Remote::Set(_) => false,
        });
        let prefixes = rules.iter().filter_map(|r| match r.remote {
            Remote::Prefix(p) if !anyone(p) => Some((p, r.id)),
            Remote::Any | Remote::Prefix(_) | Remote::Set(_) => None,
        });
        let mut named = BTreeMap::new();
        for rule in rules {
            if let Remote::Set(id) = rule.remote {
                named.entry(id).or_insert(rule.id);
            }
        }
        Self {
            any: any.map(|r| r.id),
            prefixes: PrefixMap::new(seed, prefixes),
            sets: named
                .into_iter()
                .filter_map(|(id, rule)| Some((Arc::clone(sets.get(&id)?), rule)))
                .collect(),
        }
    }

    fn find(&self, probe: &mut Probe, end: End) -> Option<Id<kind::Rule>> {
        if self.any.is_some() {
            return self.any;
        }
        if !self.prefixes.is_empty()
            && let Some(rule) = self.prefixes.find(probe, end)
        {
            return Some(rule);
        }
        self.sets
            .iter()
            .find_map(|(set, rule)| set.find(probe, end).map(|()| *rule))
    }
}

#[cfg(test)]
mod tests {
    use net::{FiveTuple, FlowKey};

    use super::*;

    fn id<K>(n: u128) -> Id<K> {
        uuid::Uuid::from_u128(n).into()
    }

    fn key(v6: bool, protocol: u8, src: (&str, u16), dst: (&str, u16)) -> FlowKey {
        let t = FiveTuple::new(
            protocol,
            (src.0.parse().unwrap(), src.1),
            (dst.0.parse().unwrap(), dst.1),
        );
        FlowKey {
            ethertype: if v6 { ethertype::IPV6 } else { ethertype::IPV4 },
            ip_src: t.src,
            ip_dst: t.dst,
            l4_src: t.src_port,
            l4_dst: t.dst_port,
            ip_proto: protocol,
            ..FlowKey::default()
        }
    }

    fn rule(
        n: u128,
        family: Family,
        protocol: Option<u8>,
        l4: L4Match,
        remote: Remote,
    ) -> SecurityGroupRule {
        SecurityGroupRule {
            id: id(n),
            direction: Direction::Ingress,
            family,
            protocol,
            l4,
            remote,
        }
    }

    fn set_of(rules: Vec<SecurityGroupRule>, members: &[&str]) -> GroupSet {
        let group = SecurityGroup {
            id: id(1),
            name: "web".into(),
            stateful: true,
            rules,
        };
        let members = members.iter().map(|m| (m.parse().unwrap(), ()));
        let sets = [(id(9), Arc::new(PrefixSet::new(1, members)))].into();
        GroupSet::new(&[&group], &sets, SectionIndex(0), 1)
    }

    fn allowed(set: &GroupSet, key: &FlowKey) -> Option<u128> {
        match set.judge(&mut Probe::new(key), Direction::Ingress)? {
            Allowed::Rule(r) => Some(r.uuid().as_u128()),
            Allowed::Always(_) => Some(0),
        }
    }

    #[test]
    fn each_kind_of_rule_allows_what_it_says_in_both_families() {
        for (v6, family, a, b, net) in [
            (false, Family::V4, "10.0.0.1", "10.9.0.1", "10.0.0.0/24"),
            (true, Family::V6, "fd00::1", "fd09::1", "fd00::/64"),
        ] {
            let icmp = if v6 { proto::ICMP6 } else { proto::ICMP };
            let echo = if v6 { 128 } else { 8 };
            let host = if v6 { "fd00::7/128" } else { "10.0.0.7/32" };
            let in_set = if v6 { "fd00::7" } else { "10.0.0.7" };
            let set = set_of(
                vec![
                    rule(
                        1,
                        family,
                        Some(proto::TCP),
                        L4Match::Ports(PortRange::one(80)),
                        Remote::Any,
                    ),
                    rule(
                        2,
                        family,
                        Some(proto::TCP),
                        L4Match::Ports(PortRange::new(100, 200).unwrap()),
                        Remote::Prefix(net.parse().unwrap()),
                    ),
                    rule(
                        3,
                        family,
                        Some(proto::UDP),
                        L4Match::Any,
                        Remote::Set(id(9)),
                    ),
                    rule(
                        4,
                        family,
                        Some(icmp),
                        L4Match::Icmp {
                            kind: echo,
                            code: None,
                        },
                        Remote::Any,
                    ),
                    rule(
                        5,
                        family,
                        Some(icmp),
                        L4Match::Icmp {
                            kind: 3,
                            code: Some(4),
                        },
                        Remote::Any,
                    ),
                ],
                &[host],
            );
            let tcp = |src, port| key(v6, proto::TCP, (src, 4000), (b, port));
            assert_eq!(allowed(&set, &tcp(b, 80)), Some(1));
            assert_eq!(allowed(&set, &tcp(b, 81)), None);
            assert_eq!(allowed(&set, &tcp(a, 150)), Some(2));
            assert_eq!(allowed(&set, &tcp(b, 150)), None);
            assert_eq!(allowed(&set, &tcp(a, 201)), None);
            let udp = |src| key(v6, proto::UDP, (src, 4000), (b, 53));
            assert_eq!(allowed(&set, &udp(in_set)), Some(3));
            assert_eq!(allowed(&set, &udp(a)), None);
            let icmp = |kind, code| key(v6, icmp, (a, kind), (b, code));
            assert_eq!(allowed(&set, &icmp(u16::from(echo), 0)), Some(4));
            assert_eq!(allowed(&set, &icmp(3, 4)), Some(5));
            assert_eq!(allowed(&set, &icmp(3, 3)), None);
            assert_eq!(allowed(&set, &key(v6, 47, (a, 0), (b, 0))), None);
        }
    }

    #[test]
    fn what_addresses_are_got_by_is_always_allowed() {
        let set = set_of(vec![], &[]);
        let dhcp = key(false, proto::UDP, ("10.0.0.2", 67), ("10.0.0.3", 68));
        assert_eq!(allowed(&set, &dhcp), Some(0));
        let backwards = key(false, proto::UDP, ("10.0.0.2", 68), ("10.0.0.3", 67));
        assert_eq!(allowed(&set, &backwards), None);
        for kind in [130, 134, 135, 136, 143] {
            let nd = key(true, proto::ICMP6, ("fe80::1", kind), ("ff02::1", 0));
            assert_eq!(allowed(&set, &nd), Some(0), "{kind}");
        }
        let rs = key(true, proto::ICMP6, ("fe80::1", 133), ("ff02::1", 0));
        assert_eq!(allowed(&set, &rs), None);
    }

    #[test]
    fn only_what_decided_is_read() {
        let set = set_of(
            vec![rule(
                1,
                Family::V4,
                Some(proto::TCP),
                L4Match::Any,
                Remote::Prefix("10.0.0.0/8".parse().unwrap()),
            )],
            &[],
        );
        let mut probe = Probe::new(&key(false, proto::TCP, ("10.1.1.1", 5), ("10.2.2.2", 80)));
        assert!(set.judge(&mut probe, Direction::Ingress).is_some());
        let mask = probe.mask();
        assert_eq!(mask.fields().l4_dst, 0);
        assert_eq!(mask.fields().ip_dst, [0; 16]);
        assert_eq!(mask.fields().ip_src[13..], [0; 3]);
    }

    #[test]
    fn a_port_without_groups_refuses_and_tracks() {
        let set = GroupSet::new(&[], &BTreeMap::new(), SectionIndex(0), 1);
        assert!(set.stateful);
        assert_eq!(
            allowed(
                &set,
                &key(false, proto::TCP, ("10.1.1.1", 5), ("10.2.2.2", 80))
            ),
            None
        );
    }
}
