//! What do policies change of what crosses a gateway?

use serde_json::{Value, json};
use tests::evidence::{Entry, Nic, Region, Seen, entry, id};

use crate::routers::gated;

/// A policy that lets little pass.
pub(crate) fn tight(r: &mut Region) -> Value {
    let policy = r.make("policy", &json!({"name": "q"}));
    let path = format!("/v2.0/qos/policies/{}/bandwidth_limit_rules", id(&policy));
    for direction in ["egress", "ingress"] {
        let rule = json!({"max_kbps": 800, "max_burst_kbps": 100, "direction": direction});
        r.ok("POST", &path, &json!({"bandwidth_limit_rule": rule}));
    }
    json!(id(&policy))
}

/// How much of a flood each way comes across, to and from this address of the workload's.
pub(crate) fn across(r: &mut Region, a: &Nic, out: &Nic, addr: &str) -> Seen {
    let mut seen = r.floods(a, out.v4.into(), (100, 1000));
    seen.extend(r.floods(out, addr.parse().unwrap(), (100, 1000)));
    seen
}

pub(crate) const TABLE: &[Entry] = &[entry("floatingip.qos_policy_id", |r| {
    let (_, a, outside, out) = gated(r);
    let policy = tight(r);
    let base = json!({
        "floating_network_id": outside.id, "floating_ip_address": "10.0.9.200", "port_id": a.id,
    });
    r.both(("floatingip", &base), ("qos_policy_id", &policy), |r, _| {
        across(r, &a, &out, "10.0.9.200")
    });
})];
