//! Which connections may a workload begin, and which may be begun towards it?
//!
//! The rules of all groups of a port, united, once for every distinct set of groups. All rules allow; whatever none allows is
//! refused. They are ordered by what they ask, those that ask least first, so that a packet is read no further than need be.
//!
//! # Cost
//! That of a look-up among [`nfv::rules`]. The members of sets are not part of what is compiled: when only they change, the
//! rules stay.
//!
//! # Always allowed
//! As Neutron's own firewall does: Neighbor Discovery, multicast listener discovery, and a DHCP client's messages.
//!
//! # References
//! RFC 4890 §4.4 (ICMPv6 that must not be filtered).

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
};

use hostconfig::{
    SecurityGroup, SecurityGroupRule,
    group::{Direction, L4Match, Remote},
};
use net::{
    Id, PortRange, Probe,
    flow_key::{ethertype, proto},
    ids::kind,
};
use nfv::rules::{AddressSet, End, Pattern, RuleTable};

use super::SectionIndex;

/// The united rules of a set of groups, and who is in the sets that they name.
#[derive(Debug, Clone)]
pub struct GroupSet {
    /// Its place among the epochs.
    pub section: SectionIndex,
    rules: Arc<GroupRules>,
    /// In the order of the rules' [`GroupRules::sets`]; nobody where there is none.
    members: Vec<Option<Arc<AddressSet>>>,
}

/// The rules alone.
#[derive(Debug)]
struct GroupRules {
    stateful: bool,
    groups: HashMap<Id<kind::Rule>, Id<kind::SecurityGroup>>,
    /// What of the groups they were made from.
    content: u128,
    sets: Vec<Id<kind::AddressSet>>,
    egress: Rules,
    ingress: Rules,
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
    /// From groups, of which `content` is a digest, and the address sets that their rules name. A set that is not there has no members.
    /// What `previous` made of the same groups is kept.
    pub fn new(
        previous: Option<&Self>,
        (groups, content): (&[&SecurityGroup], u128),
        sets: &BTreeMap<Id<kind::AddressSet>, Arc<AddressSet>>,
        section: SectionIndex,
    ) -> Self {
        let kept = previous.filter(|p| p.rules.content == content);
        let rules = kept.map_or_else(
            || Arc::new(GroupRules::new(groups, content)),
            |p| Arc::clone(&p.rules),
        );
        let members = rules.sets.iter().map(|id| sets.get(id).map(Arc::clone));
        Self {
            section,
            members: members.collect(),
            rules,
        }
    }

    /// Does any of them track connections?
    pub fn stateful(&self) -> bool {
        self.rules.stateful
    }

    /// The group of a rule.
    pub fn group_of(&self, rule: Id<kind::Rule>) -> Option<Id<kind::SecurityGroup>> {
        self.rules.groups.get(&rule).copied()
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
        let (rules, remote) = match direction {
            Direction::Egress => (&self.rules.egress, End::Destination),
            Direction::Ingress => (&self.rules.ingress, End::Source),
        };
        let mut member = |set: u32, probe: &mut Probe| {
            let members = self.members.get(set as usize).and_then(Option::as_ref);
            members.is_some_and(|m| m.has(probe, remote))
        };
        let place = rules.table.first_match(probe, &mut member)?;
        rules.ids.get(place as usize).map(|id| Allowed::Rule(*id))
    }
}

impl GroupRules {
    fn new(groups: &[&SecurityGroup], content: u128) -> Self {
        let all = || groups.iter().flat_map(|g| &g.rules);
        let named: BTreeSet<_> = all()
            .filter_map(|r| match r.remote {
                Remote::Set(id) => Some(id),
                Remote::Any | Remote::Prefix(_) => None,
            })
            .collect();
        let sets: Vec<_> = named.into_iter().collect();
        let rules = |direction| Rules::new(all().filter(|r| r.direction == direction), &sets);
        Self {
            // A port without any group tracks too: it may answer nobody, but Neutron's model is stateful.
            stateful: groups.is_empty() || groups.iter().any(|g| g.stateful),
            groups: groups
                .iter()
                .flat_map(|g| g.rules.iter().map(|r| (r.id, g.id)))
                .collect(),
            content,
            egress: rules(Direction::Egress),
            ingress: rules(Direction::Ingress),
            sets,
        }
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

/// Rules of one direction, those that ask least first.
#[derive(Debug)]
struct Rules {
    ids: Vec<Id<kind::Rule>>,
    table: RuleTable,
}

impl Rules {
    fn new<'a>(
        rules: impl Iterator<Item = &'a SecurityGroupRule>,
        sets: &[Id<kind::AddressSet>],
    ) -> Self {
        let mut asked: Vec<_> = rules
            .filter_map(|r| Some((breadth(r), r.id, pattern(r, sets)?)))
            .collect();
        asked.sort_by_key(|(breadth, _, _)| *breadth);
        let patterns = (0u32..).zip(asked.iter().map(|(_, _, pattern)| *pattern));
        Self {
            table: RuleTable::new(patterns),
            ids: asked.into_iter().map(|(_, id, _)| id).collect(),
        }
    }
}

/// What comes first of two rules: the one that asks less.
fn breadth(rule: &SecurityGroupRule) -> impl Ord + Copy + use<> {
    let asks = match rule.l4 {
        L4Match::Any => (0, 0, 0),
        L4Match::Ports(r) if r == PortRange::ANY => (0, 0, 0),
        L4Match::Ports(r) if r.min() == r.max() => (1, r.min(), 0),
        L4Match::Ports(r) => (2, r.min(), r.max()),
        L4Match::Icmp { kind, code: None } => (3, u16::from(kind), 0),
        L4Match::Icmp {
            kind,
            code: Some(code),
        } => (4, u16::from(kind), u16::from(code)),
    };
    let remote = match rule.remote {
        Remote::Any => 0,
        Remote::Prefix(p) => p.bits(),
        Remote::Set(_) => u8::MAX,
    };
    (rule.protocol.is_some(), asks, remote)
}

/// What a rule asks; `None`: what no packet has.
fn pattern(rule: &SecurityGroupRule, sets: &[Id<kind::AddressSet>]) -> Option<Pattern> {
    let (src_ports, dst_ports) = match rule.l4 {
        L4Match::Any => (PortRange::ANY, PortRange::ANY),
        L4Match::Ports(r) => (PortRange::ANY, r),
        L4Match::Icmp { kind, code } => {
            let one = |n: u8| PortRange::one(u16::from(n));
            (one(kind), code.map_or(PortRange::ANY, one))
        }
    };
    let (prefix, set) = match rule.remote {
        Remote::Any => (None, None),
        Remote::Prefix(p) => (Some(p), None),
        // More sets than a number counts are more than there is memory for.
        Remote::Set(id) => (
            None,
            Some(u32::try_from(sets.binary_search(&id).ok()?).ok()?),
        ),
    };
    let (src, dst) = match rule.direction {
        Direction::Egress => (None, prefix),
        Direction::Ingress => (prefix, None),
    };
    // A rule that names ports names a protocol; one that does not and yet asks for them can match nothing.
    let ports = src_ports != PortRange::ANY || dst_ports != PortRange::ANY;
    (rule.protocol.is_some() || !ports).then_some(Pattern {
        family: Some(rule.family),
        protocol: rule.protocol,
        src,
        dst,
        src_ports,
        dst_ports,
        set,
    })
}

#[cfg(test)]
mod tests {
    use hostconfig::group::Family;
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
        let members = members.iter().map(|m| m.parse().unwrap());
        let sets = [(id(9), Arc::new(AddressSet::new(members)))].into();
        GroupSet::new(None, (&[&group], 1), &sets, SectionIndex(0))
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
        let set = GroupSet::new(None, (&[], 1), &BTreeMap::new(), SectionIndex(0));
        assert!(set.stateful());
        assert_eq!(
            allowed(
                &set,
                &key(false, proto::TCP, ("10.1.1.1", 5), ("10.2.2.2", 80))
            ),
            None
        );
    }
}
