//! Which calls make QoS policies?

use std::collections::BTreeMap;

use anyhow::Context as _;
use serde_json::{Value, json};

use super::{id, set};
use crate::{
    api::Api,
    lab::{file::RawQos, plan::Lab},
    units::Rate,
};

/// Policy ids by the lab's names.
pub(super) type Policies = BTreeMap<String, String>;

/// Makes them all, for every project.
pub(super) fn make(lab: &Lab, api: &Api) -> anyhow::Result<Policies> {
    let mut made = Policies::new();
    // Those above come first; the file was checked for circles, so each turn makes one.
    while made.len() < lab.qos.len() {
        let mut left = lab.qos.iter().filter(|(name, _)| !made.contains_key(*name));
        let ready = |(_, policy): &(&String, &RawQos)| {
            policy
                .within
                .as_ref()
                .is_none_or(|above| made.contains_key(above))
        };
        let (name, policy) = left
            .find(ready)
            .context("find a QoS policy with nothing above")?;
        let above = policy.within.as_ref().and_then(|above| made.get(above));
        let one =
            policy_of(api, name, policy, above).with_context(|| format!("QoS policy {name}"))?;
        made.insert(name.clone(), one);
    }
    Ok(made)
}

fn policy_of(
    api: &Api,
    name: &str,
    policy: &RawQos,
    above: Option<&String>,
) -> anyhow::Result<String> {
    let mut body = json!({"name": name, "shared": true});
    set(&mut body, "parent_id", above);
    let body = json!({"policy": body});
    let id = id(&api.post("/v2.0/qos/policies", &body)?, "policy")?;
    for (kind, body) in rules(policy) {
        let path = format!("/v2.0/qos/policies/{id}/{kind}s");
        api.post(&path, &json!({kind: body}))
            .with_context(|| format!("make its {kind}"))?;
    }
    Ok(id)
}

/// Its rules: of which kind, and what each says.
fn rules(policy: &RawQos) -> Vec<(&'static str, Value)> {
    let bits = |rate: Option<Rate>, direction: &str| {
        let kbps = rate?.bits_per_second() / 1000;
        let body = json!({"max_kbps": kbps, "direction": direction});
        Some(("bandwidth_limit_rule", body))
    };
    let packets = |kpps: Option<u32>, direction: &str| {
        let body = json!({"max_kpps": kpps?, "direction": direction});
        Some(("packet_rate_limit_rule", body))
    };
    let mark = |mark: u8| ("dscp_marking_rule", json!({"dscp_mark": mark}));
    [
        bits(policy.egress, "egress"),
        bits(policy.ingress, "ingress"),
        packets(policy.egress_kpps, "egress"),
        packets(policy.ingress_kpps, "ingress"),
        policy.dscp.map(mark),
    ]
    .into_iter()
    .flatten()
    .collect()
}
