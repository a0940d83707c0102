//! May this connection be?
//!
//! Ordered rules; the first that matches the connection's first packet decides, in the direction of that packet. What follows
//! on the connection, both ways, is not asked again until the rules change.
//!
//! # Cost
//! That of a look-up among [`crate::rules`], which also says what is read: whatever tells the packet from those that other
//! rules would decide.

use hostconfig::chain::Action;
use net::{DropReason, Id, PortRange, Probe, flow_key::proto, ids::kind};

use crate::{
    fields::{Fields, Wanted},
    function::{Context, Decision, NetworkFunction},
    rules::{Pattern, RuleTable},
};

pub use crate::fields::FieldsFault;

/// The most rules of one firewall: past it the time of a first packet would be felt by others.
pub const MAX_RULES: usize = 65_536;

/// Why a firewall can't be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FirewallFault {
    /// A rule contradicts itself.
    #[error("rule {rule} can't match")]
    Rule {
        /// Which.
        rule: Id<kind::Rule>,
        /// Why.
        #[source]
        fault: FieldsFault,
    },
    /// There are too many rules.
    #[error("too many rules (0..={MAX_RULES}): {0}")]
    TooMany(usize),
}

/// What a rule says of what it matches.
#[derive(Debug)]
struct Rule {
    action: Action,
    id: Id<kind::Rule>,
}

/// A firewall.
#[derive(Debug)]
pub struct Firewall {
    rules: Vec<Rule>,
    table: RuleTable,
    default: Action,
}

impl Firewall {
    /// From its configuration.
    ///
    /// # Errors
    /// When a rule contradicts itself, or there are too many.
    pub fn new(config: &hostconfig::Firewall) -> Result<Self, FirewallFault> {
        if config.rules.len() > MAX_RULES {
            return Err(FirewallFault::TooMany(config.rules.len()));
        }
        let mut patterns = Vec::with_capacity(config.rules.len());
        for (place, rule) in (0u32..).zip(&config.rules) {
            let asked = patterns_of(rule).map_err(|fault| FirewallFault::Rule {
                rule: rule.id,
                fault,
            })?;
            patterns.extend(asked.map(|p| (place, p)));
        }
        let rule = |r: &hostconfig::chain::FirewallRule| Rule {
            action: r.action,
            id: r.id,
        };
        Ok(Self {
            rules: config.rules.iter().map(rule).collect(),
            table: RuleTable::new(patterns),
            default: config.default,
        })
    }

    fn first_match(&self, probe: &mut Probe) -> Option<&Rule> {
        // Its rules name no sets.
        let place = self.table.first_match(probe, &mut |_, _| false)?;
        self.rules.get(place as usize)
    }
}

/// What a rule asks: of ports, of each protocol that has them, if it names none.
fn patterns_of(
    rule: &hostconfig::chain::FirewallRule,
) -> Result<impl Iterator<Item = Pattern>, FieldsFault> {
    Fields::new(Wanted {
        family: rule.family,
        protocol: rule.protocol,
        src: rule.source,
        dst: rule.destination,
        src_ports: rule.source_ports,
        dst_ports: rule.destination_ports,
    })?;
    let ports = rule.source_ports.is_some() || rule.destination_ports.is_some();
    let protocols = match rule.protocol {
        None if ports => [proto::TCP, proto::UDP, proto::SCTP].map(Some).to_vec(),
        one => vec![one],
    };
    let any = |ports: Option<PortRange>| ports.unwrap_or(PortRange::ANY);
    let pattern = Pattern {
        family: rule.family,
        protocol: None,
        src: rule.source,
        dst: rule.destination,
        src_ports: any(rule.source_ports),
        dst_ports: any(rule.destination_ports),
        set: None,
    };
    Ok(protocols.into_iter().map(move |protocol| Pattern {
        protocol,
        ..pattern
    }))
}

impl NetworkFunction for Firewall {
    fn decide(
        &self,
        first: &mut Probe,
        _cx: &Context<'_>,
        note: &mut dyn FnMut(std::fmt::Arguments<'_>),
    ) -> Decision {
        let rule = self.first_match(first);
        let action = rule.map_or(self.default, |r| r.action);
        let word = match action {
            Action::Allow => "allow",
            Action::Deny => "deny",
        };
        match rule {
            Some(r) => note(format_args!("rule {} {word}", r.id)),
            None => note(format_args!("no rule, default {word}")),
        }
        match action {
            Action::Allow => Decision::Pass,
            Action::Deny => Decision::Drop {
                reason: DropReason::FirewallDenied,
                rule: rule.map(|r| r.id),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use hostconfig::{chain::FirewallRule, group::Family};
    use net::{FlowKey, PortRange, Prefix, flow_key::addr_bytes};
    use proptest::prelude::*;

    use super::*;

    fn id(n: u128) -> Id<kind::Rule> {
        format!("{n:032x}").parse().unwrap()
    }

    fn rule(n: u128, action: Action) -> FirewallRule {
        FirewallRule {
            id: id(n),
            action,
            family: None,
            protocol: None,
            source: None,
            destination: None,
            source_ports: None,
            destination_ports: None,
        }
    }

    fn key(protocol: u8, src: IpAddr, dst: IpAddr, dst_port: u16) -> FlowKey {
        FlowKey {
            ethertype: if src.is_ipv4() { 0x0800 } else { 0x86dd },
            ip_proto: protocol,
            ip_src: addr_bytes(src),
            ip_dst: addr_bytes(dst),
            l4_src: 40_000,
            l4_dst: dst_port,
            ..FlowKey::default()
        }
    }

    fn decide(config: &hostconfig::Firewall, key: &FlowKey) -> (Decision, Probe) {
        let mut probe = Probe::new(key);
        let cx = Context::default();
        let decision = Firewall::new(config)
            .unwrap()
            .decide(&mut probe, &cx, &mut |_| {});
        (decision, probe)
    }

    fn denied(n: u128) -> Decision {
        Decision::Drop {
            reason: DropReason::FirewallDenied,
            rule: Some(id(n)),
        }
    }

    #[test]
    fn the_first_rule_that_matches_decides() {
        let web = FirewallRule {
            protocol: Some(6),
            destination: Some("10.0.0.0/24".parse().unwrap()),
            destination_ports: Some(PortRange::new(80, 90).unwrap()),
            ..rule(1, Action::Allow)
        };
        let all_v4 = FirewallRule {
            family: Some(Family::V4),
            ..rule(2, Action::Deny)
        };
        let config = hostconfig::Firewall {
            rules: vec![web, all_v4],
            default: Action::Allow,
        };
        let (a, b, v6) = (
            "10.1.1.1".parse().unwrap(),
            "10.0.0.9".parse().unwrap(),
            "fd00::1".parse().unwrap(),
        );
        assert_eq!(decide(&config, &key(6, a, b, 85)).0, Decision::Pass);
        assert_eq!(decide(&config, &key(6, a, b, 91)).0, denied(2));
        assert_eq!(decide(&config, &key(17, a, b, 85)).0, denied(2));
        assert_eq!(decide(&config, &key(6, b, a, 85)).0, denied(2));
        assert_eq!(decide(&config, &key(6, v6, v6, 85)).0, Decision::Pass);
        let closed = hostconfig::Firewall {
            default: Action::Deny,
            ..config
        };
        let dropped = Decision::Drop {
            reason: DropReason::FirewallDenied,
            rule: None,
        };
        assert_eq!(decide(&closed, &key(6, v6, v6, 85)).0, dropped);
    }

    #[test]
    fn only_what_the_answer_depends_on_is_read() {
        let config = hostconfig::Firewall {
            rules: vec![FirewallRule {
                protocol: Some(6),
                destination: Some("10.0.0.0/8".parse().unwrap()),
                ..rule(1, Action::Deny)
            }],
            default: Action::Allow,
        };
        let (a, b) = ("10.1.1.1".parse().unwrap(), "10.0.0.9".parse().unwrap());
        let mask = decide(&config, &key(6, a, b, 80)).1.mask();
        let fields = mask.fields();
        assert_eq!(
            (fields.l4_dst, fields.l4_src, fields.ip_src),
            (0, 0, [0; 16])
        );
        assert_eq!(fields.ip_dst[12..], [0xff, 0, 0, 0]);
        let mask = decide(&config, &key(17, a, b, 80)).1.mask();
        assert_eq!(mask.fields().ip_dst, [0; 16], "the protocol was enough");
    }

    #[test]
    fn rules_that_contradict_themselves_are_named() {
        let mixed = FirewallRule {
            source: Some("10.0.0.0/8".parse().unwrap()),
            destination: Some("fd00::/8".parse().unwrap()),
            ..rule(7, Action::Allow)
        };
        let ports = FirewallRule {
            protocol: Some(1),
            destination_ports: Some(PortRange::one(8)),
            ..rule(8, Action::Allow)
        };
        for (r, fault) in [
            (mixed, FieldsFault::Family("fd00::/8".parse().unwrap())),
            (ports, FieldsFault::Ports(1)),
        ] {
            let rule = r.id;
            let config = hostconfig::Firewall {
                rules: vec![r],
                default: Action::Deny,
            };
            assert_eq!(
                Firewall::new(&config).unwrap_err(),
                FirewallFault::Rule { rule, fault }
            );
        }
    }

    fn any_addr() -> impl Strategy<Value = IpAddr> {
        // Few enough to collide, in both families.
        prop_oneof![
            (0u8..3, 0u8..4, any::<bool>()).prop_map(|(b, c, d)| [10, b, c, u8::from(d)].into()),
            (0u16..3, any::<bool>())
                .prop_map(|(b, d)| [0xfd00, b, 0, 0, 0, 0, 0, u16::from(d)].into()),
        ]
    }

    fn any_prefix() -> impl Strategy<Value = Prefix> {
        (any_addr(), 0u8..=128).prop_map(|(a, len)| {
            Prefix::containing(a, len % if a.is_ipv4() { 33 } else { 129 }).unwrap()
        })
    }

    fn any_rule() -> impl Strategy<Value = FirewallRule> {
        use prop::option::of;
        let ports = || {
            of((0u16..8, 0u16..8).prop_map(|(a, b)| PortRange::new(a.min(b), a.max(b)).unwrap()))
        };
        let protocol = of(prop_oneof![Just(1u8), Just(6), Just(17)]);
        (
            0u128..1000,
            any::<bool>(),
            protocol,
            of(any_prefix()),
            of(any_prefix()),
            ports(),
            ports(),
        )
            .prop_map(
                |(n, allow, protocol, source, destination, source_ports, destination_ports)| {
                    FirewallRule {
                        protocol,
                        source,
                        destination,
                        source_ports,
                        destination_ports,
                        ..rule(n, if allow { Action::Allow } else { Action::Deny })
                    }
                },
            )
    }

    fn any_key() -> impl Strategy<Value = FlowKey> {
        let protocol = prop_oneof![Just(1u8), Just(6), Just(17), Just(47)];
        (protocol, any_addr(), any_addr(), 0u16..8, 0u16..8).prop_map(
            |(p, src, dst, sport, dport)| {
                let dst = if src.is_ipv4() == dst.is_ipv4() {
                    dst
                } else {
                    src
                };
                FlowKey {
                    l4_src: sport,
                    ..key(p, src, dst, dport)
                }
            },
        )
    }

    /// What a rule means, word for word.
    fn means(r: &FirewallRule, k: &FlowKey) -> bool {
        let ports = |r: Option<PortRange>, p| {
            r.is_none_or(|r| [6, 17, 132].contains(&k.ip_proto) && r.contains(p))
        };
        r.protocol.is_none_or(|p| p == k.ip_proto)
            && r.source.is_none_or(|p| p.contains(k.src_addr()))
            && r.destination.is_none_or(|p| p.contains(k.dst_addr()))
            && ports(r.source_ports, k.l4_src)
            && ports(r.destination_ports, k.l4_dst)
    }

    proptest! {
        #[test]
        fn the_verdict_is_that_of_a_plain_reading_and_holds_for_all_under_the_mask(
            rules in prop::collection::vec(any_rule(), 0..12),
            k in any_key(),
            others in prop::collection::vec(any_key(), 30),
        ) {
            let legal = |r: &FirewallRule| Firewall::new(&hostconfig::Firewall { rules: vec![r.clone()], default: Action::Deny }).is_ok();
            let rules: Vec<_> = rules.into_iter().filter(legal).collect();
            let config = hostconfig::Firewall { rules, default: Action::Allow };
            let (decision, probe) = decide(&config, &k);
            let expected = config.rules.iter().find(|r| means(r, &k));
            match expected {
                Some(r) if r.action == Action::Deny => {
                    prop_assert_eq!(decision, Decision::Drop { reason: DropReason::FirewallDenied, rule: Some(r.id) });
                }
                _ => prop_assert_eq!(decision, Decision::Pass),
            }
            let mask = probe.mask();
            for other in others {
                // Mixed from both, so that it is often equal under the mask.
                let mut mixed = mask.apply(&k);
                let outside = mask.apply(&other);
                for ((m, o), x) in zerocopy::IntoBytes::as_mut_bytes(&mut mixed).iter_mut()
                    .zip(zerocopy::IntoBytes::as_bytes(&other)).zip(zerocopy::IntoBytes::as_bytes(&outside)) {
                    *m |= o ^ x;
                }
                prop_assert_eq!(mask.apply(&mixed), mask.apply(&k));
                prop_assert_eq!(decide(&config, &mixed).0, decision, "{:?} and {:?}", k, mixed);
            }
        }
    }
}
