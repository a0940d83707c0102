//! What does one rule of a firewall say?

use crate::{
    api::Scene,
    refusal::Refusal,
    resource::{
        ALL, Absent, Kind, Lookup, Meta, Objects, Operations, Ops, Policy, Resource, Shown, Spec,
        field,
    },
    resources::{
        FirewallPolicy,
        protocol::{ICMP, ICMPV6, protocol_number},
        subnet::loose_prefix,
    },
    rules::{Caller, Change, Judged, Rule, Write},
    store::View,
};
use net::{PortRange, Prefix};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

/// What becomes of what a rule matches.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Action {
    /// It passes.
    Allow,
    /// It is dropped.
    Deny,
    /// It is dropped, and its sender hears so.
    Reject,
}

/// The family, by its number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "u8", into = "u8")]
pub enum IpVersion {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl From<IpVersion> for u8 {
    fn from(version: IpVersion) -> Self {
        match version {
            IpVersion::V4 => 4,
            IpVersion::V6 => 6,
        }
    }
}

impl TryFrom<u8> for IpVersion {
    type Error = String;

    fn try_from(number: u8) -> Result<Self, String> {
        match number {
            4 => Ok(Self::V4),
            6 => Ok(Self::V6),
            other => Err(format!("no IP version: {other}")),
        }
    }
}

/// A rule of firewall policies.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FirewallRule {
    /// What every object has.
    #[serde(flatten)]
    pub meta: Meta,
    /// May every project use it?
    pub shared: bool,
    /// `tcp`, `udp` or `icmp`; none for any.
    pub protocol: Option<String>,
    /// Which family.
    pub ip_version: IpVersion,
    /// Where it comes from, as it was given.
    pub source_ip_address: Option<String>,
    /// Where it goes, as it was given.
    pub destination_ip_address: Option<String>,
    /// From which port or ports.
    pub source_port: Option<String>,
    /// To which port or ports.
    pub destination_port: Option<String>,
    /// What becomes of it.
    pub action: Action,
    /// Does it count?
    pub enabled: bool,
}

impl FirewallRule {
    /// A rule for all that is of a family.
    pub const fn all(meta: Meta, ip_version: IpVersion, action: Action) -> Self {
        Self {
            meta,
            shared: false,
            protocol: None,
            ip_version,
            source_ip_address: None,
            destination_ip_address: None,
            source_port: None,
            destination_port: None,
            action,
            enabled: true,
        }
    }

    /// The number of its protocol; `icmp` of IPv6 is ICMPv6.
    pub fn protocol_number(&self) -> Option<u8> {
        match (protocol_number(self.protocol.as_deref()?), self.ip_version) {
            (Some(ICMP), IpVersion::V6) => Some(ICMPV6),
            (number, _) => number,
        }
    }

    /// Source and destination, without host bits.
    pub fn ends(&self) -> [Option<Prefix>; 2] {
        [&self.source_ip_address, &self.destination_ip_address]
            .map(|end| end.as_deref().and_then(loose_prefix))
    }

    /// The source and the destination ports.
    pub fn ports(&self) -> [Option<PortRange>; 2] {
        [&self.source_port, &self.destination_port].map(|ports| ports.as_deref().and_then(range))
    }
}

/// `80` or `80:90`, the first port lower.
fn range(text: &str) -> Option<PortRange> {
    let (first, last) = text.split_once(':').unwrap_or((text, text));
    PortRange::new(first.parse().ok()?, last.parse().ok()?).ok()
}

static OPS: Ops<FirewallRule> = Ops::new();

impl Resource for FirewallRule {
    const SPEC: &'static Spec = &Spec {
        singular: "firewall_rule",
        plural: "firewall_rules",
        path: "fwaas/firewall_rules",
        storage: "firewall_rule",
        title: "FirewallRule",
        doc: "What becomes of what it matches, in policies.",
        verbs: ALL,
        policy: Policy::Anyone,
        quota: Some(("firewall_rule", 100)),
        tags: true,
        bare: false,
        fields: &[
            field("shared", Kind::Bool, "May every project use it?")
                .writable(Absent::Bool(false))
                .set_by(Policy::Admin),
            field(
                "protocol",
                Kind::Shape(protocol_shape),
                "tcp, udp or icmp; null for any.",
            )
            .writable(Absent::Null)
            .or_null()
            .shown(Shown::Text),
            field("ip_version", Kind::OneOfNumbers(&[4, 6]), "Which family.")
                .writable(Absent::Int(4)),
            field(
                "source_ip_address",
                Kind::Shape(address_shape),
                "An address or a block; null for any.",
            )
            .writable(Absent::Null)
            .or_null()
            .shown(Shown::Text),
            field(
                "destination_ip_address",
                Kind::Shape(address_shape),
                "An address or a block; null for any.",
            )
            .writable(Absent::Null)
            .or_null()
            .shown(Shown::Text),
            field(
                "source_port",
                Kind::Shape(ports_shape),
                "A port, or the first and the last with a colon between; null for any.",
            )
            .writable(Absent::Null)
            .or_null()
            .shown(Shown::Text),
            field(
                "destination_port",
                Kind::Shape(ports_shape),
                "A port, or the first and the last with a colon between; null for any.",
            )
            .writable(Absent::Null)
            .or_null()
            .shown(Shown::Text),
            field(
                "action",
                Kind::Shape(action_shape),
                "allow, deny or reject.",
            )
            .writable(Absent::Text("deny"))
            .shown(Shown::Text),
            field("enabled", Kind::Bool, "Does it count?").writable(Absent::Bool(true)),
            field(
                "firewall_policy_id",
                Kind::Uuids,
                "The policies that have it; null for none.",
            )
            .or_null()
            .computed()
            .unfiltered(),
        ],
        actions: &[],
        parts: &[],
        ops: &OPS as &dyn Operations,
    };
    const RULES: &'static [Rule<Self>] = &[consistent, sharing, audits, removal];

    fn meta(&self) -> &Meta {
        &self.meta
    }

    fn meta_mut(&mut self) -> &mut Meta {
        &mut self.meta
    }

    fn shared(&self, _: &dyn Lookup) -> bool {
        self.shared
    }

    fn derive(&self, field: &str, scene: &Scene<'_>) -> Value {
        match field {
            "firewall_policy_id" => {
                let policies = scene
                    .snapshot
                    .related::<FirewallPolicy>("firewall_rules", self.meta.id);
                let ids: Vec<_> = policies.iter().map(|policy| policy.meta.id).collect();
                if ids.is_empty() {
                    Value::Null
                } else {
                    json!(ids)
                }
            }
            _ => Value::Null,
        }
    }
}

fn protocol_shape(value: &Value) -> Result<Value, String> {
    let text = match value {
        Value::String(text) => text.to_ascii_lowercase(),
        Value::Number(number) => number.to_string(),
        Value::Null | Value::Bool(_) | Value::Array(_) | Value::Object(_) => {
            return Err(format!("'{value}' is not a valid string"));
        }
    };
    match text.as_str() {
        "any" => Ok(Value::Null),
        "tcp" | "udp" | "icmp" => Ok(json!(text)),
        other if protocol_number(other).is_some() => Err(format!("{other} is not in valid_values")),
        other => Err(format!(
            "InvalidInput|Invalid input for operation: IP protocol '{other}' is not supported: a firewall rule has tcp, udp, icmp or none."
        )),
    }
}

fn address_shape(value: &Value) -> Result<Value, String> {
    match value.as_str() {
        Some(text) if loose_prefix(text).is_some() => Ok(value.clone()),
        Some(text) => Err(format!(
            "'{text}' is neither a valid IP address, nor is it a valid IP subnet"
        )),
        None => Err(format!("'{value}' is not a valid string")),
    }
}

fn ports_shape(value: &Value) -> Result<Value, String> {
    let text = match value {
        Value::String(text) => text.clone(),
        Value::Number(number) => number.to_string(),
        Value::Null | Value::Bool(_) | Value::Array(_) | Value::Object(_) => {
            return Err(format!("'{value}' is not a valid string"));
        }
    };
    let invalid = |port: &str| format!("Invalid port: {port}");
    let one = |port: &str| {
        let number = port.parse::<u16>().ok().filter(|number| *number > 0);
        number.ok_or_else(|| invalid(port))
    };
    match text.split_once(':') {
        None => one(&text).map(|port| json!(port.to_string())),
        Some((first, last)) => {
            let (first, last) = (one(first)?, one(last)?);
            if first >= last {
                return Err(
                    "First port in a port range must be lower than the second port".to_owned(),
                );
            }
            Ok(json!(format!("{first}:{last}")))
        }
    }
}

fn action_shape(value: &Value) -> Result<Value, String> {
    let text = value.as_str().map(str::to_ascii_lowercase);
    match text.as_deref() {
        Some("allow" | "deny" | "reject") => Ok(json!(text)),
        Some(other) => Err(format!("{other} is not in valid_values")),
        None => Err(format!("{value} is not in valid_values")),
    }
}

fn consistent(_: &View, change: &Change<'_, FirewallRule>, _: &Caller) -> Judged {
    let Some(after) = change.after else {
        return Ok(Vec::new());
    };
    if after.source_port.is_some() || after.destination_port.is_some() {
        match after.protocol.as_deref() {
            Some("tcp" | "udp") => {}
            Some(_) => {
                return Err(Refusal::invalid(
                    "FirewallRuleInvalidICMPParameter",
                    "Source, destination port are not allowed when protocol is set to ICMP.",
                ));
            }
            None => {
                return Err(Refusal::invalid(
                    "FirewallRuleWithPortWithoutProtocolInvalid",
                    "Source/destination port requires a protocol.",
                ));
            }
        }
    }
    let v4 = after.ip_version == IpVersion::V4;
    if after.ends().iter().flatten().any(|end| end.is_ipv4() != v4) {
        return Err(Refusal::invalid(
            "FirewallIpAddressConflict",
            "Invalid input - IP addresses do not agree with IP Version.",
        ));
    }
    Ok(Vec::new())
}

/// Who shares it no longer takes it from nobody.
fn sharing(view: &View, change: &Change<'_, FirewallRule>, _: &Caller) -> Judged {
    let (Some(before), Some(after)) = (change.before, change.after) else {
        return Ok(Vec::new());
    };
    if !before.shared || after.shared {
        return Ok(Vec::new());
    }
    let policies = view.related::<FirewallPolicy>("firewall_rules", after.meta.id);
    let others = |project: &str| project != after.meta.project_id;
    let mut policies = policies.iter();
    if policies.any(|policy| policy.shared || others(&policy.meta.project_id)) {
        return Err(in_use(after));
    }
    Ok(Vec::new())
}

fn in_use(rule: &FirewallRule) -> Refusal {
    let id = rule.meta.id;
    let why = format!("Firewall rule {id} is being used.");
    Refusal::conflict("FirewallRuleInUse", why)
}

/// Whoever looked through a policy has not seen this.
#[expect(clippy::unnecessary_wraps, reason = "a rule's signature")]
fn audits(view: &View, change: &Change<'_, FirewallRule>, _: &Caller) -> Judged {
    let (Some(before), Some(after)) = (change.before, change.after) else {
        return Ok(Vec::new());
    };
    if before == after {
        return Ok(Vec::new());
    }
    let policies = view.related::<FirewallPolicy>("firewall_rules", after.meta.id);
    let audited = policies.iter().filter(|policy| policy.audited);
    let unaudited = audited.map(|policy| {
        Write::put(FirewallPolicy {
            audited: false,
            ..FirewallPolicy::clone(policy)
        })
    });
    Ok(unaudited.collect())
}

fn removal(view: &View, change: &Change<'_, FirewallRule>, _: &Caller) -> Judged {
    let Some(before) = change.removed() else {
        return Ok(Vec::new());
    };
    if view.any_related::<FirewallPolicy>("firewall_rules", before.meta.id) {
        return Err(in_use(before));
    }
    Ok(Vec::new())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_have_a_normal_form_or_a_reason() {
        for (shape, given, normal) in [
            (
                protocol_shape as fn(&Value) -> _,
                json!("TCP"),
                json!("tcp"),
            ),
            (protocol_shape, json!("any"), Value::Null),
            (ports_shape, json!(80), json!("80")),
            (ports_shape, json!("80:90"), json!("80:90")),
            (ports_shape, json!("65535"), json!("65535")),
            (address_shape, json!("10.0.0.7/8"), json!("10.0.0.7/8")),
            (address_shape, json!("fd00::1"), json!("fd00::1")),
            (action_shape, json!("Reject"), json!("reject")),
        ] {
            assert_eq!(shape(&given), Ok(normal), "{given}");
        }
        for (shape, given, reason) in [
            (
                protocol_shape as fn(&Value) -> _,
                json!("zz"),
                "InvalidInput|",
            ),
            (protocol_shape, json!("sctp"), "not in valid_values"),
            (protocol_shape, json!(6), "not in valid_values"),
            (protocol_shape, json!([]), "not a valid string"),
            (ports_shape, json!("90:80"), "must be lower"),
            (ports_shape, json!("80:80"), "must be lower"),
            (ports_shape, json!(0), "Invalid port: 0"),
            (ports_shape, json!("65536"), "Invalid port: 65536"),
            (ports_shape, json!("-1"), "Invalid port: -1"),
            (ports_shape, json!("1:2:3"), "Invalid port: 2:3"),
            (address_shape, json!("10.0.0.0/33"), "neither"),
            (address_shape, json!(7), "not a valid string"),
            (action_shape, json!("zz"), "zz is not in valid_values"),
            (action_shape, json!(true), "not in valid_values"),
        ] {
            let refused = shape(&given).unwrap_err();
            assert!(refused.contains(reason), "{given}: {refused}");
        }
    }
}
