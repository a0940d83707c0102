//! Which word would the glossary not use?

use super::Finding;
use super::source::{Source, identifiers};

/// A word, and the one that the glossary has for the same thing.
const UNSPOKEN: &[(&str, &str)] = &[
    ("vxlan_id", "Vni"),
    ("mac_table", "Fdb"),
    ("cam_table", "Fdb"),
    ("broadcast_list", "FloodList"),
    ("tunnel_push", "encap"),
    ("tunnel_pop", "decap"),
    ("conn_key", "FiveTuple"),
    ("session_table", "Conntrack"),
    ("nat_in", "DNAT"),
    ("nat_out", "SNAT"),
    ("antispoof", "port_security"),
    ("anti_spoof", "port_security"),
    ("acl", "security_group"),
    ("vnf", "NetworkFunction"),
    ("middleware", "NetworkFunction"),
    ("genid", "Generation"),
];

/// Names that say nothing, as a module or at a type's end.
const EMPTY: &[&str] = &[
    "manager", "helper", "helpers", "util", "utils", "common", "misc",
];

/// Verbs that say nothing, at the start of a function's name.
const EMPTY_VERBS: &[&str] = &["handle_", "process_", "do_"];

/// Tells of words in the product's code that the glossary would not use.
pub(super) fn unspoken(source: &Source) -> Vec<Finding> {
    let mut found = Vec::new();
    let stem = source
        .path
        .rsplit('/')
        .next()
        .and_then(|name| name.strip_suffix(".rs"));
    if let Some(stem) = stem.filter(|stem| EMPTY.contains(stem)) {
        found.push(Finding::new(
            source.path,
            0,
            format!("a module named `{stem}` says nothing"),
        ));
    }
    for (index, line) in source.product.lines().enumerate() {
        let mut before = "";
        for word in identifiers(line) {
            if let Some(text) = complaint(before, word) {
                found.push(Finding::new(source.path, index + 1, text));
            }
            before = word;
        }
    }
    found
}

fn complaint(before: &str, word: &str) -> Option<String> {
    let lower = word.to_lowercase();
    if let Some((_, instead)) = UNSPOKEN.iter().find(|(unspoken, _)| lower == *unspoken) {
        return Some(format!("`{word}`: the glossary says {instead}"));
    }
    let names_a_type = ["struct", "enum", "trait", "type"].contains(&before);
    if names_a_type && EMPTY.iter().any(|empty| lower.ends_with(empty)) {
        return Some(format!("a type named `{word}` says nothing of what it is"));
    }
    if before == "fn" && EMPTY_VERBS.iter().any(|verb| word.starts_with(verb)) {
        return Some(format!("`{word}`: name what changes or what is returned"));
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(path: &str, text: &str) -> usize {
        unspoken(&Source::read(path, text)).len()
    }

    #[test]
    fn words_outside_the_glossary_are_told() {
        assert_eq!(
            told("net/src/x.rs", "fn handle_packet(vxlan_id: u32) {}"),
            2
        );
        assert_eq!(told("net/src/x.rs", "struct PortManager;"), 1);
        assert_eq!(told("net/src/utils.rs", "fn mask() {}"), 1);
    }

    #[test]
    fn the_glossarys_own_words_are_not() {
        assert_eq!(
            told("net/src/x.rs", "fn learn(vni: Vni) {} // a vxlan_id, misc"),
            0
        );
        assert_eq!(told("net/src/x.rs", "fn document() { common(); }"), 0);
    }
}
