//! Did a policy drop it?
//!
//! A refusal counts as policy only if a switch's drop record names the rule. Records are counters, so two readings
//! are compared.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::{Value, json};

use crate::api::text;
use crate::local;

/// Packets by (reason, rule), of the records that name a rule.
pub(crate) type Refusals = BTreeMap<(String, String), u64>;

/// Reads a vswitch's drop records.
///
/// # Errors
/// When it does not answer.
pub(crate) fn read(run_dir: &Path) -> anyhow::Result<Refusals> {
    Ok(refusals(&local::ask(run_dir, "drops", &json!({}))?.ok))
}

fn refusals(answer: &Value) -> Refusals {
    let records = answer
        .get("drops")
        .unwrap_or(answer)
        .as_array()
        .map(Vec::as_slice)
        .unwrap_or_default();
    let mut found = Refusals::new();
    for record in records {
        let rule = text(record, "rule");
        if rule.is_empty() {
            continue;
        }
        let packets = record
            .get("packets")
            .and_then(Value::as_u64)
            .unwrap_or_default();
        *found
            .entry((text(record, "reason").to_owned(), rule.to_owned()))
            .or_default() += packets;
    }
    found
}

/// What was refused between two readings.
pub(crate) fn since(before: &Refusals, after: &Refusals) -> Vec<(String, String)> {
    after
        .iter()
        .filter(|(key, packets)| before.get(*key).is_none_or(|old| old < *packets))
        .map(|(key, _)| key.clone())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_records_that_name_a_rule_count() {
        let before =
            refusals(&json!({"drops": [{"reason": "SecurityGroup", "rule": "r1", "packets": 3}]}));
        let after = refusals(&json!({"drops": [
            {"reason": "SecurityGroup", "rule": "r1", "packets": 3},
            {"reason": "SecurityGroup", "rule": "r2", "packets": 1},
            {"reason": "Malformed", "rule": null, "packets": 9},
        ]}));
        assert_eq!(
            since(&before, &after),
            [("SecurityGroup".to_owned(), "r2".to_owned())]
        );
        assert!(since(&after, &after).is_empty());
    }
}
