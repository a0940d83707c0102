//! Has everything that is advertised its entry?

use std::collections::BTreeSet;

use controller::resources::{REGISTRY, port::bindings::BINDING};
use serde_json::Value;
use tests::evidence::{ADMIN, Entry, KEPT, Region, no_effect, settable};

use crate::aliases::{self, Proof};

/// What has no entry yet, since nothing runs a proxy here. It only shrinks.
const PENDING: &[&str] = &[
    "l7policy.action",
    "l7policy.admin_state_up",
    "l7policy.listener_id",
    "l7policy.position",
    "l7policy.redirect_http_code",
    "l7policy.redirect_pool_id",
    "l7policy.redirect_prefix",
    "l7policy.redirect_url",
    "listener.connection_limit",
    "listener.insert_headers",
    "listener.timeout_client_data",
    "listener.timeout_member_connect",
    "listener.timeout_member_data",
    "rule.admin_state_up",
    "rule.compare_type",
    "rule.invert",
    "rule.key",
    "rule.tags",
    "rule.type",
    "rule.value",
];

/// All that can be set, by resource, part or action.
fn advertised() -> BTreeSet<String> {
    let mut all = BTreeSet::new();
    let mut add = |of: &str, name: &str| all.insert(format!("{of}.{name}"));
    // A port's bindings are known by their hosts' names, and so no part of its table.
    for field in BINDING.fields.iter().filter(|field| settable(field)) {
        add(BINDING.singular, field.name);
    }
    for spec in REGISTRY {
        for field in spec.fields().filter(|field| settable(field)) {
            let kept = KEPT.contains(&field.name)
                && spec.verbs.contains(&controller::resource::Verb::Create);
            if !kept {
                add(spec.singular, field.name);
            }
        }
        for part in spec.parts {
            for field in part.fields.iter().filter(|field| settable(field)) {
                add(part.singular, field.name);
            }
        }
        for action in spec.actions {
            for argument in action.arguments {
                add(action.name, argument.name);
            }
        }
    }
    all
}

/// Each attribute has an entry, a reason to have no effect, or waits for one.
pub(crate) fn attributes(tables: &[&[Entry]]) {
    let advertised = advertised();
    let entries: Vec<&str> = tables
        .iter()
        .copied()
        .flatten()
        .map(|entry| entry.of)
        .collect();
    let proved: BTreeSet<String> = entries.iter().map(|of| (*of).to_owned()).collect();
    assert_eq!(proved.len(), entries.len(), "an entry is there twice");
    let idle: BTreeSet<String> = no_effect().into_iter().collect();
    let pending: BTreeSet<String> = PENDING.iter().map(|of| (*of).to_owned()).collect();
    let done: Vec<_> = proved
        .union(&idle)
        .filter(|of| pending.contains(*of))
        .collect();
    assert!(
        done.is_empty(),
        "these have entries and wait for none: {done:?}"
    );
    let unknown: Vec<_> = proved
        .union(&pending)
        .filter(|of| !advertised.contains(*of))
        .collect();
    assert!(unknown.is_empty(), "nobody can set these: {unknown:?}");
    let both: Vec<_> = proved.intersection(&idle).collect();
    assert!(
        both.is_empty(),
        "these have an effect: docs/no-effect.md says that they have none: {both:?}"
    );
    let known: BTreeSet<_> = proved.iter().chain(&idle).chain(&pending).collect();
    let missing: Vec<_> = advertised.iter().filter(|of| !known.contains(of)).collect();
    assert!(missing.is_empty(), "these have no entry: {missing:#?}");
    println!(
        "{} entries, {} without effect, {} pending: {pending:?}",
        proved.len(),
        idle.len(),
        pending.len()
    );
}

/// Each alias has its proof, and no other has one.
pub(crate) fn aliases(tables: &[&[Entry]]) {
    let mut region = Region::new();
    let told = region.read(ADMIN.0, "extensions");
    let told = told["extensions"].as_array().unwrap().iter();
    let told: BTreeSet<&str> = told.filter_map(|row| row["alias"].as_str()).collect();
    let proved: BTreeSet<&str> = aliases::TABLE.iter().map(|(alias, _)| *alias).collect();
    let missing: Vec<_> = told.difference(&proved).collect();
    assert!(
        missing.is_empty(),
        "aliases without an entry are not to be advertised: {missing:?}"
    );
    let gone: Vec<_> = proved.difference(&told).collect();
    assert!(gone.is_empty(), "these are not advertised: {gone:?}");
    let entries: BTreeSet<&str> = tables
        .iter()
        .copied()
        .flatten()
        .map(|entry| entry.of)
        .collect();
    let idle = no_effect();
    for (alias, proof) in aliases::TABLE {
        match proof {
            Proof::Attributes(all) => {
                for of in *all {
                    assert!(
                        entries.contains(of),
                        "{alias} leans on {of}, which has no entry"
                    );
                }
            }
            Proof::Kept(all) => {
                for of in *all {
                    assert!(
                        idle.iter().any(|idle| idle == of),
                        "{alias}: {of} is not in docs/no-effect.md"
                    );
                }
            }
            Proof::Shown(show) => {
                region.prove_one(alias, *show);
            }
        }
    }
    let providers = region.read(ADMIN.0, "service-providers");
    assert_ne!(
        providers["service_providers"],
        Value::Null,
        "service-type is a view"
    );
}
