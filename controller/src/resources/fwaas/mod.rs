//! What may pass ports and routers' interfaces, by ordered rules?
//!
//! Firewalls of the second kind (`FWaaS` v2): rules, policies that put them in order, and groups that hold at ports. Each project has a default
//! group with two policies and four rules of its own, made when any of the three is first touched; no port is in it by itself. See ADR 22.

pub mod group;
pub mod policy;
pub mod rule;

pub use group::FirewallGroup;
pub use policy::FirewallPolicy;
pub use rule::FirewallRule;

use crate::{
    refusal::Refusal,
    resource::{Claim, Meta},
    rules::{Dice, Write},
    store::Read,
};
use rule::{Action, IpVersion};
use std::fmt;
use uuid::Uuid;

/// The name of a project's default group.
const GROUP: &str = "default";
/// The names of its policies.
const INGRESS: &str = "default ingress";
const EGRESS: &str = "default egress";

fn default_key(project: &str) -> String {
    format!("unique/default_firewall_group/{project}")
}

/// The project's default group, if it was made.
pub fn known_default(read: &impl Read, project: &str) -> Option<Uuid> {
    read.get::<Claim>(&default_key(project))
        .map(|claim| claim.holder)
}

/// What makes the project's default group, with its policies and rules: all goes out, nothing comes in.
pub fn default_of(read: &impl Read, project: &str, dice: &Dice) -> Vec<Write> {
    if known_default(read, project).is_some() {
        return Vec::new();
    }
    let meta = |name: &str, description: &str| {
        let mut meta = Meta::new(dice.uuid(), project, name);
        description.clone_into(&mut meta.description);
        meta
    };
    let mut writes = Vec::new();
    let mut policy = |name: &str, word: &str, about: &str, action| {
        let mut rules = Vec::new();
        for (ip_version, family) in [(IpVersion::V4, "v4"), (IpVersion::V6, "v6")] {
            let meta = meta(
                &format!("default {word} ip{family}"),
                &format!("default {word} rule for IP{family}"),
            );
            rules.push(meta.id);
            writes.push(Write::put(FirewallRule::all(meta, ip_version, action)));
        }
        let policy = FirewallPolicy {
            is_default: true,
            ..FirewallPolicy::new(meta(name, about), rules)
        };
        let id = policy.meta.id;
        writes.push(Write::put(policy));
        Some(id)
    };
    let ingress = policy(INGRESS, "ingress", "Ingress firewall policy", Action::Deny);
    let egress = policy(EGRESS, "egress", "Egress firewall policy", Action::Allow);
    let group = FirewallGroup {
        ingress_firewall_policy_id: ingress,
        egress_firewall_policy_id: egress,
        is_default: true,
        ..FirewallGroup::new(meta(GROUP, "Default firewall group"))
    };
    writes.push(Write::Claim(default_key(project), group.meta.id));
    writes.push(Write::put(group));
    writes
}

/// A name that only a default object has.
fn reserved(what: &str, name: &str) -> Refusal {
    Refusal::conflict(
        "FirewallDefaultParameterExists",
        format!("'{name}' is a reserved name for a {what}."),
    )
}

/// What of a default object stays as it is.
fn fixed(what: &str, id: impl fmt::Display) -> Refusal {
    Refusal::conflict(
        "FirewallDefaultObjectUpdateRestricted",
        format!("Firewall object {what} {id} cannot be changed so: it is its project's default."),
    )
}
