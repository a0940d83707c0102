//! Was every packet accounted for?
//!
//! On each host, what began (read, made, copied) must have ended (sent, dropped for a reason, consumed) or wait in a
//! queue. Asked of every vswitch when a lab ends; traffic that is just under way gets a moment to come to rest.

use std::path::Path;
use std::time::Duration;

use anyhow::Context;
use serde_json::{Value, json};

use super::expect::Row;
use super::fabric::Fabric;
use crate::cancel::Cancel;
use crate::local;

/// Far longer than a packet is under way.
const REST: Duration = Duration::from_secs(3);

/// Asks every vswitch of a lab.
///
/// # Errors
/// When one does not answer.
pub(crate) fn check(fabric: &Fabric, cancel: &Cancel) -> anyhow::Result<Row> {
    let mut hosts = 0;
    let mut wrong = Vec::new();
    for host in fabric.lab.hosts.iter().filter(|host| !host.kernel_vtep) {
        hosts += 1;
        let run_dir = fabric.run_dir(&host.name);
        let mut last = None;
        let balanced = cancel.wait(REST, || {
            last = unbalanced(&run_dir).with_context(|| format!("ask {}", host.name))?;
            Ok(last.is_none().then_some(()))
        })?;
        if balanced.is_none() {
            let sums = last.unwrap_or_default();
            wrong.push(format!("{}: {sums}", host.name));
        }
    }
    Ok(Row {
        what: "every segment on every host".to_owned(),
        expected: "accounted for".to_owned(),
        held: wrong.is_empty(),
        seen: match wrong.as_slice() {
            [] => format!("balanced on {hosts} of {hosts}"),
            wrong => wrong.join(", "),
        },
    })
}

/// Both sums, if they differ.
fn unbalanced(run_dir: &Path) -> anyhow::Result<Option<String>> {
    let status = local::ask(run_dir, "status", &json!({}))?.ok;
    let sums = status
        .get("switch")
        .and_then(|switch| switch.get("unbalanced"))
        .context("the vswitch does not tell its ledger")?;
    Ok(described(sums))
}

fn described(sums: &Value) -> Option<String> {
    let sum = |key: &str| sums.get(key).and_then(Value::as_u64).unwrap_or_default();
    let (begun, ended) = (sum("begun"), sum("ended"));
    (!sums.is_null()).then(|| format!("{begun} began, {ended} ended"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_sums_that_differ_are_told() {
        assert_eq!(described(&Value::Null), None);
        let sums = json!({"begun": 10, "ended": 9});
        assert_eq!(described(&sums).as_deref(), Some("10 began, 9 ended"));
    }
}
