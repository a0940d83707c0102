//! Did a policy drop it?
//!
//! A silence counts as a refusal only if a switch recorded a drop for a reason that is policy, with the rule that
//! decided where one did (a group refuses by having no rule that allows). Records are counters, so two readings are
//! compared.

use std::collections::BTreeMap;
use std::path::Path;

use net::DropReason;
use serde_json::{Value, json};

use crate::api::text;
use crate::local;

/// The reasons that are somebody's decision, not an accident.
const POLICY: &[DropReason] = &[
    DropReason::PortSecurityMac,
    DropReason::PortSecurityIp,
    DropReason::PortSecurityArp,
    DropReason::PortSecurityNd,
    DropReason::PortSecurityDhcpServer,
    DropReason::PortSecurityRa,
    DropReason::PortSecurityEthertype,
    DropReason::SecurityGroupEgress,
    DropReason::SecurityGroupIngress,
    DropReason::FirewallDenied,
    DropReason::FirewallRejected,
    DropReason::RateLimited,
    DropReason::InspectorPattern,
    DropReason::InspectorProtocol,
    DropReason::InspectorCondemned,
];

/// Why, and for whom: a drop record's key.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Refusal {
    pub(crate) reason: String,
    /// Empty where no rule decided.
    pub(crate) rule: String,
    pub(crate) port: String,
}

/// Packets by refusal.
pub(crate) type Refusals = BTreeMap<Refusal, u64>;

/// Reads a vswitch's drop records.
///
/// # Errors
/// When it does not answer.
pub(crate) fn read(run_dir: &Path) -> anyhow::Result<Refusals> {
    Ok(refusals(&local::ask(run_dir, "drops", &json!({}))?.ok))
}

fn refusals(answer: &Value) -> Refusals {
    let records = answer.get("drops").unwrap_or(answer).as_array();
    let mut found = Refusals::new();
    for record in records.map(Vec::as_slice).unwrap_or_default() {
        let reason = text(record, "reason");
        if !POLICY.iter().any(|policy| policy.name() == reason) {
            continue;
        }
        let packets = record
            .get("packets")
            .and_then(Value::as_u64)
            .unwrap_or_default();
        let key = Refusal {
            reason: reason.to_owned(),
            rule: text(record, "rule").to_owned(),
            port: text(record, "port").to_owned(),
        };
        *found.entry(key).or_default() += packets;
    }
    found
}

/// What was refused between two readings; one that names a rule first.
pub(crate) fn since(before: &Refusals, after: &Refusals) -> Vec<Refusal> {
    let grew = |(key, packets): &(&Refusal, &u64)| before.get(key).is_none_or(|old| old < packets);
    let mut new: Vec<Refusal> = after
        .iter()
        .filter(grew)
        .map(|(key, _)| key.clone())
        .collect();
    new.sort_by_key(|refusal| refusal.rule.is_empty());
    new
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_policy_counts_and_only_what_is_new() {
        let before = refusals(&json!([{"reason": "firewall_denied", "rule": "r1", "packets": 3}]));
        let after = refusals(&json!([
            {"reason": "firewall_denied", "rule": "r1", "packets": 3},
            {"reason": "security_group_ingress", "rule": null, "port": "p", "packets": 1},
            {"reason": "firewall_denied", "rule": "r2", "packets": 1},
            {"reason": "unknown_unicast", "rule": null, "packets": 9},
        ]));
        let new = since(&before, &after);
        assert_eq!(
            new.iter().map(|r| r.rule.as_str()).collect::<Vec<_>>(),
            ["r2", ""]
        );
        assert!(since(&after, &after).is_empty());
    }
}
