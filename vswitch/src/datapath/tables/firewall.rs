//! What does the firewall group of a port say?
//!
//! Ordered rules for each direction; the first that matches decides, and what none matches is denied. A group that is off, or that is
//! named and not there, denies everything.
//!
//! # Cost
//! That of a look-up among [`nfv::rules`], at the first packet of a connection.

use hostconfig::{
    FirewallGroup,
    firewall::{Action, Policy, Rule},
    group::{Direction, Family},
};
use net::{
    Id, PortRange, Probe,
    flow_key::{ethertype, proto},
    ids::kind,
};
use nfv::rules::{Pattern, RuleTable};

use super::SectionIndex;

/// A firewall group, its rules compiled.
#[derive(Debug)]
pub struct Firewall {
    /// Its id in the API.
    pub id: Id<kind::FirewallGroup>,
    /// Its name, for people.
    pub name: String,
    /// Its section.
    pub section: SectionIndex,
    admin_up: bool,
    ingress: Rules,
    egress: Rules,
    faults: Vec<Id<kind::Rule>>,
}

/// What a firewall says of a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ruling<'a> {
    /// It is nothing that rules are for.
    Beyond,
    /// A rule of the policy of this name decides.
    Rule(Id<kind::Rule>, Action, &'a str),
    /// No rule of that policy matches.
    NoRule(&'a str),
    /// The group is off, or not there.
    Off,
}

#[derive(Debug)]
struct Rules {
    policy: String,
    says: Vec<(Id<kind::Rule>, Action)>,
    table: RuleTable,
}

impl Firewall {
    /// From its section.
    pub fn new(config: &FirewallGroup, section: SectionIndex) -> Self {
        let mut faults = Vec::new();
        let mut rules = |policy: &Policy| {
            let mut patterns = Vec::with_capacity(policy.rules.len());
            for (place, rule) in (0u32..).zip(&policy.rules) {
                match pattern(rule) {
                    Some(pattern) => patterns.push((place, pattern)),
                    None => faults.push(rule.id),
                }
            }
            Rules {
                policy: policy.name.clone(),
                says: policy.rules.iter().map(|r| (r.id, r.action)).collect(),
                table: RuleTable::new(patterns),
            }
        };
        let (ingress, egress) = (rules(&config.ingress), rules(&config.egress));
        Self {
            id: config.id,
            name: config.name.clone(),
            section,
            admin_up: config.admin_up,
            ingress,
            egress,
            faults,
        }
    }

    /// In place of one that is named and not there.
    pub fn closed(id: Id<kind::FirewallGroup>, section: SectionIndex) -> Self {
        let config = FirewallGroup {
            id,
            name: String::new(),
            admin_up: false,
            ingress: Policy::default(),
            egress: Policy::default(),
        };
        Self::new(&config, section)
    }

    /// The rules that contradict themselves, which match nothing.
    pub fn faults(&self) -> &[Id<kind::Rule>] {
        &self.faults
    }

    /// What it says of a packet in this direction. What is not IP is nothing that it judges.
    pub fn judge(&self, probe: &mut Probe, direction: Direction) -> Ruling<'_> {
        if !matches!(probe.ethertype(), ethertype::IPV4 | ethertype::IPV6) {
            return Ruling::Beyond;
        }
        if !self.admin_up {
            return Ruling::Off;
        }
        let rules = match direction {
            Direction::Ingress => &self.ingress,
            Direction::Egress => &self.egress,
        };
        // Its rules name no sets.
        let place = rules.table.first_match(probe, &mut |_, _| false);
        match place.and_then(|place| rules.says.get(place as usize)) {
            Some((id, action)) => Ruling::Rule(*id, *action, &rules.policy),
            None => Ruling::NoRule(&rules.policy),
        }
    }
}

/// What a rule asks; `None`: what no packet has.
fn pattern(rule: &Rule) -> Option<Pattern> {
    let ends = [rule.source, rule.destination];
    let is_v4 = rule.family == Family::V4;
    let of_family = ends.iter().flatten().all(|p| p.is_ipv4() == is_v4);
    let asks = rule.source_ports.is_some() || rule.destination_ports.is_some();
    let has_ports = matches!(rule.protocol, Some(proto::TCP | proto::UDP | proto::SCTP));
    let any = |ports: Option<PortRange>| ports.unwrap_or(PortRange::ANY);
    (of_family && (has_ports || !asks)).then_some(Pattern {
        family: Some(rule.family),
        protocol: rule.protocol,
        src: rule.source,
        dst: rule.destination,
        src_ports: any(rule.source_ports),
        dst_ports: any(rule.destination_ports),
        set: None,
    })
}

#[cfg(test)]
mod tests {
    use net::{FiveTuple, FlowKey};

    use super::*;

    fn id<K>(n: u128) -> Id<K> {
        uuid::Uuid::from_u128(n).into()
    }

    fn rule(n: u128, action: Action, v6: bool) -> Rule {
        Rule {
            id: id(n),
            action,
            family: if v6 { Family::V6 } else { Family::V4 },
            protocol: None,
            source: None,
            destination: None,
            source_ports: None,
            destination_ports: None,
        }
    }

    fn group(admin_up: bool, ingress: Vec<Rule>, egress: Vec<Rule>) -> (Firewall, Vec<u128>) {
        let policy = |name: &str, rules| Policy {
            name: name.to_owned(),
            rules,
        };
        let config = FirewallGroup {
            id: id(1),
            name: "fg".to_owned(),
            admin_up,
            ingress: policy("in", ingress),
            egress: policy("out", egress),
        };
        let made = Firewall::new(&config, SectionIndex(0));
        let faults = made.faults().iter().map(|rule| rule.uuid().as_u128());
        let faults = faults.collect();
        (made, faults)
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

    fn says(firewall: &Firewall, key: &FlowKey, direction: Direction) -> Option<(u128, Action)> {
        match firewall.judge(&mut Probe::new(key), direction) {
            Ruling::Rule(id, action, _) => Some((id.uuid().as_u128(), action)),
            Ruling::NoRule(_) => None,
            other @ (Ruling::Beyond | Ruling::Off) => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_first_rule_that_matches_decides_in_its_family_and_direction() {
        for (v6, near, far, net) in [
            (false, "10.0.0.1", "10.9.0.1", "10.0.0.0/24"),
            (true, "fd00::1", "fd09::1", "fd00::/64"),
        ] {
            let web = Rule {
                protocol: Some(6),
                destination_ports: Some(PortRange::new(80, 90).unwrap()),
                source: Some(net.parse().unwrap()),
                ..rule(1, Action::Allow, v6)
            };
            let from = Rule {
                protocol: Some(17),
                source_ports: Some(PortRange::one(53)),
                ..rule(2, Action::Reject, v6)
            };
            let rest = Rule {
                destination: Some(net.parse().unwrap()),
                ..rule(3, Action::Deny, v6)
            };
            let (firewall, faults) = group(true, vec![web, from, rest], vec![]);
            assert_eq!(faults, []);
            let says = |key: &FlowKey| says(&firewall, key, Direction::Ingress);
            let tcp = |src, port| key(v6, 6, (src, 4000), (far, port));
            assert_eq!(says(&tcp(near, 85)), Some((1, Action::Allow)));
            assert_eq!(says(&tcp(near, 91)), None);
            assert_eq!(says(&tcp(far, 85)), None);
            let udp = |port, dst| key(v6, 17, (far, port), (dst, 9));
            assert_eq!(says(&udp(53, near)), Some((2, Action::Reject)));
            assert_eq!(says(&udp(54, near)), Some((3, Action::Deny)));
            assert_eq!(says(&udp(54, far)), None);
            let (a, b) = if v6 {
                ("10.0.0.1", "10.0.0.2")
            } else {
                ("fd00::1", "fd00::2")
            };
            assert_eq!(
                says(&key(!v6, 6, (a, 1), (b, 85))),
                None,
                "the other family"
            );
            let out = firewall.judge(&mut Probe::new(&tcp(near, 85)), Direction::Egress);
            assert_eq!(out, Ruling::NoRule("out"));
        }
    }

    #[test]
    fn one_that_is_off_or_not_there_denies_all_that_is_ip() {
        let (off, _) = group(false, vec![rule(1, Action::Allow, false)], vec![]);
        let gone = Firewall::closed(id(1), SectionIndex(0));
        for firewall in [off, gone] {
            let ip = key(false, 6, ("10.0.0.1", 1), ("10.0.0.2", 2));
            let arp = FlowKey {
                ethertype: ethertype::ARP,
                ..FlowKey::default()
            };
            for way in [Direction::Ingress, Direction::Egress] {
                let judge = |key| firewall.judge(&mut Probe::new(key), way);
                assert_eq!((judge(&ip), judge(&arp)), (Ruling::Off, Ruling::Beyond));
            }
        }
    }

    #[test]
    fn a_rule_that_contradicts_itself_matches_nothing_and_is_named() {
        let family = Rule {
            source: Some("fd00::/8".parse().unwrap()),
            ..rule(7, Action::Allow, false)
        };
        let ports = Rule {
            protocol: Some(1),
            destination_ports: Some(PortRange::one(8)),
            ..rule(8, Action::Allow, false)
        };
        let (firewall, faults) = group(true, vec![family, ports], vec![]);
        assert_eq!(faults, [7, 8]);
        let ping = key(false, 1, ("10.0.0.1", 8), ("10.0.0.2", 8));
        assert_eq!(says(&firewall, &ping, Direction::Ingress), None);
    }
}
