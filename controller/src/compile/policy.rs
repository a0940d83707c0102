//! What do hosts hear about security groups and the addresses that their rules follow?

use hostconfig::{AddressSet, SecurityGroup};
use net::{Id, Prefix, ids::kind};

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

/// The addresses of an address group, or of a remote group's members, bound or not: what its ports may
/// send from. A group that is gone is an empty set.
pub(super) fn address_set(intent: &Intent, id: Id<kind::AddressSet>) -> AddressSet {
    if let Some(group) = intent.address_groups.get(&id) {
        let members = group.addresses.clone();
        return AddressSet { id, members };
    }
    let ports = intent
        .members
        .of(&Id::new(id.uuid()))
        .filter_map(|p| intent.ports.get(p));
    AddressSet {
        id,
        members: ports.flat_map(|port| addresses(port)).collect(),
    }
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
