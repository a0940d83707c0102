//! What do hosts hear about security groups, the addresses that their rules follow, and firewalls?

use std::ops::RangeInclusive;

use hostconfig::{AddressSet, FirewallGroup, SectionKey, SecurityGroup, firewall};
use net::{Id, Prefix, ids::kind};
use uuid::Uuid;

use super::intent::{Intent, Port};

/// A group with its rules, by id.
pub(super) fn group(intent: &Intent, id: Id<kind::SecurityGroup>) -> Option<SecurityGroup> {
    let group = intent.groups.get(&id)?;
    let rules = intent
        .rules_of
        .of(&id)
        .filter_map(|rule| intent.rules.get(rule));
    Some(SecurityGroup {
        id,
        name: group.name.clone(),
        stateful: group.stateful,
        rules: rules.map(|rule| rule.section.clone()).collect(),
    })
}

/// A firewall group with the rules of its policies that are on, in order.
pub(super) fn firewall(intent: &Intent, id: Id<kind::FirewallGroup>) -> Option<FirewallGroup> {
    let group = intent.firewalls.get(&id)?;
    let policy = |id: Option<Id<kind::FirewallPolicy>>| {
        let policy = id.and_then(|id| intent.firewall_policies.get(&id));
        policy.map_or_else(firewall::Policy::default, |policy| {
            let rules = policy.rules.iter();
            let rules = rules.filter_map(|rule| intent.firewall_rules.get(rule));
            firewall::Policy {
                name: policy.name.clone(),
                rules: rules.map(|rule| firewall::Rule::clone(rule)).collect(),
            }
        })
    };
    Some(FirewallGroup {
        id,
        name: group.name.clone(),
        admin_up: group.admin_up,
        ingress: policy(group.ingress),
        egress: policy(group.egress),
    })
}

/// The addresses of an address group. Of a remote group none: they are in its [parts](address_part). A group that is gone is an
/// empty set.
pub(super) fn address_set(intent: &Intent, id: Id<kind::AddressSet>) -> AddressSet {
    let group = intent.address_groups.get(&id);
    AddressSet {
        id,
        part: None,
        members: group
            .map(|group| group.addresses.clone())
            .unwrap_or_default(),
    }
}

/// The part of a group's set in which a member is: by the first byte of its id, which is as good as drawn by lot.
pub(super) fn part_of(group: Id<kind::SecurityGroup>, port: Id<kind::Port>) -> SectionKey {
    let [first, ..] = port.uuid().into_bytes();
    SectionKey::AddressPart(Id::new(group.uuid()), first)
}

/// The keys that the parts of a set may have.
pub(super) fn all_parts(set: Id<kind::AddressSet>) -> RangeInclusive<SectionKey> {
    SectionKey::AddressPart(set, 0)..=SectionKey::AddressPart(set, u8::MAX)
}

/// The ids of the members that are in a part.
fn members_in(part: u8) -> RangeInclusive<Id<kind::Port>> {
    let id = |rest: u128| Id::new(Uuid::from_u128(u128::from(part) << 120 | rest));
    id(0)..=id(u128::MAX >> 8)
}

/// The parts of a set that have members.
pub(super) fn parts(
    intent: &Intent,
    set: Id<kind::AddressSet>,
) -> impl Iterator<Item = SectionKey> {
    let group = Id::new(set.uuid());
    let there = move |part: &u8| {
        let members = intent.members.within(&group, members_in(*part));
        members.into_iter().next().is_some()
    };
    (0..=u8::MAX)
        .filter(there)
        .map(move |part| SectionKey::AddressPart(set, part))
}

/// The addresses of some of a remote group's members, bound or not: what those ports may send from. `None` if there is no such member.
pub(super) fn address_part(
    intent: &Intent,
    id: Id<kind::AddressSet>,
    part: u8,
) -> Option<AddressSet> {
    let members = intent
        .members
        .within(&Id::new(id.uuid()), members_in(part))
        .filter_map(|port| intent.ports.get(port));
    let mut members = members.peekable();
    members.peek()?;
    Some(AddressSet {
        id,
        part: Some(part),
        members: members.flat_map(|port| addresses(port)).collect(),
    })
}

fn addresses(port: &Port) -> impl Iterator<Item = Prefix> {
    let fixed = port
        .section
        .fixed_ips
        .iter()
        .map(|fixed| Prefix::host(fixed.addr));
    let pairs = port
        .section
        .allowed_address_pairs
        .iter()
        .map(|pair| pair.prefix);
    fixed.chain(pairs)
}
