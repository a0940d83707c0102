//! Has everything that is advertised its entry?

use std::collections::BTreeSet;

use controller::resources::{REGISTRY, port::bindings::BINDING};
use serde_json::Value;
use tests::evidence::{ADMIN, Entry, KEPT, Region, no_effect, settable};

use crate::aliases::{self, Proof};

/// Whose entry is a table of the real client's commands, since a real proxy must be seen: the words that set it there.
const SHOWN: &[(&str, &str)] = &[
    ("l7policy.action", "l7policy set api --action"),
    ("l7policy.admin_state_up", "l7policy set shut --"),
    ("l7policy.listener_id", "--value / --wait shut"),
    ("l7policy.position", "--position 1"),
    ("l7policy.redirect_http_code", "--redirect-http-code"),
    (
        "l7policy.redirect_pool_id",
        "l7policy set api --redirect-pool",
    ),
    ("l7policy.redirect_prefix", "rival --redirect-prefix"),
    ("l7policy.redirect_url", "old --redirect-url"),
    ("listener.alpn_protocols", "--alpn-protocol"),
    ("listener.connection_limit", "--connection-limit"),
    (
        "listener.default_tls_container_ref",
        "--default-tls-container-ref $third",
    ),
    (
        "listener.hsts_include_subdomains",
        "web --hsts-include-subdomains",
    ),
    ("listener.hsts_max_age", "--hsts-max-age"),
    ("listener.hsts_preload", "--hsts-preload"),
    ("listener.insert_headers", "--insert-headers"),
    ("listener.sni_container_refs", "--sni-container-refs"),
    ("listener.timeout_client_data", "--timeout-client-data"),
    (
        "listener.timeout_member_connect",
        "--timeout-member-connect",
    ),
    ("listener.timeout_member_data", "--timeout-member-data"),
    ("listener.tls_ciphers", "--tls-ciphers"),
    ("listener.tls_versions", "--tls-version"),
    ("rule.admin_state_up", "l7rule set api $rule --"),
    ("rule.compare_type", "$rule --compare-type"),
    ("rule.invert", "invert"),
    ("rule.key", "--type HEADER --key"),
    ("rule.tags", "--tags red"),
    ("rule.type", "$rule --type"),
    ("rule.value", "$rule --value"),
];

/// Those of [`SHOWN`], each seen in one way and in another.
fn shown() -> BTreeSet<String> {
    let folder = tests::netns::repository().join("tests/openstack");
    let tables = ["http-each", "tls"].map(|name| folder.join(format!("{name}.table")));
    let tables = tables.map(|file| std::fs::read_to_string(file).unwrap());
    let table = tables.concat();
    let rows = || table.lines().filter_map(|row| row.split_once(" | "));
    for (of, words) in SHOWN {
        let seen = |sign: char, other: &str| {
            rows().any(|(said, facts)| {
                let mut facts = facts.split_whitespace();
                said.contains(words) && facts.any(|f| f.ends_with(sign) || f.starts_with(other))
            })
        };
        assert!(
            seen('+', "has=") && seen('-', "lacks="),
            "{of} is not shown both ways by `{words}`"
        );
    }
    SHOWN.iter().map(|(of, _)| (*of).to_owned()).collect()
}

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

/// Each attribute has an entry, a table that shows it, or a reason to have no effect.
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
    let shown = shown();
    let twice: Vec<_> = proved
        .union(&idle)
        .filter(|of| shown.contains(*of))
        .collect();
    assert!(twice.is_empty(), "these have another entry: {twice:?}");
    let unknown: Vec<_> = proved
        .union(&shown)
        .filter(|of| !advertised.contains(*of))
        .collect();
    assert!(unknown.is_empty(), "nobody can set these: {unknown:?}");
    let both: Vec<_> = proved.intersection(&idle).collect();
    assert!(
        both.is_empty(),
        "these have an effect: docs/no-effect.md says that they have none: {both:?}"
    );
    let known: BTreeSet<_> = proved.iter().chain(&idle).chain(&shown).collect();
    let missing: Vec<_> = advertised.iter().filter(|of| !known.contains(of)).collect();
    assert!(missing.is_empty(), "these have no entry: {missing:#?}");
    println!(
        "{} entries, {} shown by the client's commands, {} without effect",
        proved.len(),
        shown.len(),
        idle.len()
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
