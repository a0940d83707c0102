//! What does a group allow?
//!
//! One rule: a direction, a family, a protocol with ports or ICMP type and code, and the other end.

use crate::{
    api::Scene,
    refusal::Refusal,
    resource::{
        ALL, Absent, Claim, Kind, Lookup, Meta, Objects, Operations, Ops, Policy, Resource, Spec,
        Verb, field,
    },
    resources::{
        AddressGroup, SecurityGroup,
        protocol::{Ethertype, ICMP, ICMPV6, PROTOCOLS, protocol_number},
        subnet::loose_prefix,
    },
    rules::{Caller, Change, Judged, Rule, Write, usable},
    store::{Read, View},
};
use net::Prefix;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use std::collections::HashSet;
use uuid::Uuid;

/// Seen from the instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Direction {
    /// Towards it.
    Ingress,
    /// From it.
    Egress,
}

/// A rule of a security group.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SecurityGroupRule {
    /// What every object has.
    #[serde(flatten)]
    pub meta: Meta,
    /// Whose rule it is.
    pub security_group_id: Uuid,
    /// Which way.
    pub direction: Direction,
    /// Which family.
    pub ethertype: Ethertype,
    /// The protocol as it was given: a name or a number; none for any.
    pub protocol: Option<String>,
    /// The first port, or the ICMP type.
    pub port_range_min: Option<i64>,
    /// The last port, or the ICMP code.
    pub port_range_max: Option<i64>,
    /// The other end as it was given, host bits and all.
    pub remote_ip_prefix: Option<String>,
    /// The other end without host bits.
    #[serde(default)]
    pub normalized_cidr: Option<Prefix>,
    /// The other end: the members of a group.
    pub remote_group_id: Option<Uuid>,
    /// The other end: the addresses of a group.
    #[serde(default)]
    pub remote_address_group_id: Option<Uuid>,
}

/// Protocols whose rules may name ports.
const WITH_PORTS: &[u8] = &[6, 17, 33, 132, 136];

impl SecurityGroupRule {
    /// A rule that asks for nothing but direction and family.
    pub const fn allow_all(
        meta: Meta,
        security_group_id: Uuid,
        direction: Direction,
        ethertype: Ethertype,
    ) -> Self {
        Self {
            meta,
            security_group_id,
            direction,
            ethertype,
            protocol: None,
            port_range_min: None,
            port_range_max: None,
            remote_ip_prefix: None,
            normalized_cidr: None,
            remote_group_id: None,
            remote_address_group_id: None,
        }
    }

    /// The number of its protocol; `None` for any. `icmp` in an IPv6 rule means ICMPv6.
    pub fn protocol_number(&self) -> Option<u8> {
        self.ethertype.protocol_number(self.protocol.as_deref()?)
    }

    /// Is its protocol ICMP or ICMPv6?
    pub fn is_icmp(&self) -> bool {
        matches!(self.protocol_number(), Some(ICMP | ICMPV6))
    }

    /// What no other rule of the group may say again.
    fn claim_key(&self) -> String {
        let text = |value: Option<String>| value.unwrap_or_default();
        // Everything is the same as nothing here: 0.0.0.0/0 asks for no more than no prefix. It is
        // kept apart, though, as Neutron does.
        let mut said = format!(
            "{}/{}/{}/{}/{}/{}/{}",
            json!(self.direction),
            self.ethertype,
            text(self.protocol_number().map(|n| n.to_string())),
            text(self.port_range_min.map(|n| n.to_string())),
            text(self.port_range_max.map(|n| n.to_string())),
            text(self.normalized_cidr.map(|prefix| prefix.to_string())),
            text(self.remote_group_id.map(|id| id.to_string())),
        );
        // Only where there is one: a rule without keeps the key that it had before there were any.
        if let Some(id) = self.remote_address_group_id {
            said = format!("{said}/{id}");
        }
        let name = Uuid::new_v5(&self.security_group_id, said.as_bytes());
        format!(
            "unique/security_group_rule/{}/{name}",
            self.security_group_id
        )
    }
}

static OPS: Ops<SecurityGroupRule> = Ops::new();

impl Resource for SecurityGroupRule {
    const SPEC: &'static Spec = &Spec {
        singular: "security_group_rule",
        plural: "security_group_rules",
        path: "security-group-rules",
        storage: "security_group_rule",
        title: "SecurityGroupRule",
        doc: "One thing that a group allows.",
        verbs: ALL,
        policy: Policy::Anyone,
        quota: Some(("security_group_rule", 500)),
        tags: true,
        bare: true,
        fields: &[
            field("id", Kind::Uuid, "Identity."),
            field("project_id", Kind::Text(255), "The project that owns it.")
                .create_only(Absent::Computed),
            field(
                "tenant_id",
                Kind::Text(255),
                "The project, by its old name.",
            )
            .computed(),
            field("security_group_id", Kind::Uuid, "Whose rule it is.")
                .create_only(Absent::Required),
            field(
                "direction",
                Kind::OneOf(&["ingress", "egress"]),
                "Towards the instance or from it.",
            )
            .create_only(Absent::Required),
            field("ethertype", Kind::Shape(word_shape), "IPv4 or IPv6.")
                .create_only(Absent::Text("IPv4"))
                .or_null(),
            field(
                "protocol",
                Kind::Shape(word_shape),
                "A name or number; null for any.",
            )
            .create_only(Absent::Null)
            .or_null(),
            field(
                "port_range_min",
                Kind::Int(i64::MIN, i64::MAX),
                "First port, or ICMP type.",
            )
            .create_only(Absent::Null)
            .or_null(),
            field(
                "port_range_max",
                Kind::Int(i64::MIN, i64::MAX),
                "Last port, or ICMP code.",
            )
            .create_only(Absent::Null)
            .or_null(),
            field(
                "remote_ip_prefix",
                Kind::Shape(word_shape),
                "The other end.",
            )
            .create_only(Absent::Null)
            .or_null(),
            field(
                "remote_group_id",
                Kind::IdOf("SecurityGroup"),
                "The other end: a group's members.",
            )
            .create_only(Absent::Null)
            .or_null(),
            field(
                "remote_address_group_id",
                Kind::Uuid,
                "The other end: an address group's addresses.",
            )
            .create_only(Absent::Null)
            .or_null(),
            field(
                "normalized_cidr",
                Kind::Text(64),
                "The prefix without host bits.",
            )
            .or_null(),
            field(
                "belongs_to_default_sg",
                Kind::Bool,
                "Is its group a default one?",
            )
            .computed(),
            field("description", Kind::Text(255), "Human note.").writable(Absent::Text("")),
            field(
                "revision_number",
                Kind::Int(0, i64::MAX),
                "Grows with each change.",
            ),
            field("created_at", Kind::Text(32), "When it was made.").computed(),
            field("updated_at", Kind::Text(32), "When it was last changed.").computed(),
        ],
        actions: &[],
        parts: &[],
        ops: &OPS as &dyn Operations,
    };
    const RULES: &'static [Rule<Self>] = &[group, remote, transport, once];

    fn meta(&self) -> &Meta {
        &self.meta
    }

    fn meta_mut(&mut self) -> &mut Meta {
        &mut self.meta
    }

    fn index(&self) -> Vec<(&'static str, String)> {
        let mut index = vec![("security_group_id", self.security_group_id.to_string())];
        if let Some(remote) = self.remote_group_id {
            index.push(("remote_group_id", remote.to_string()));
        }
        if let Some(remote) = self.remote_address_group_id {
            index.push(("remote_address_group_id", remote.to_string()));
        }
        index
    }

    /// A group's rules are its project's to see, whoever made them.
    fn shared_with(&self, read: &dyn Lookup, project: &str) -> bool {
        read.object::<SecurityGroup>(self.security_group_id)
            .is_some_and(|group| group.meta.project_id == project)
    }

    fn granted(read: &dyn Lookup, project: &str) -> Vec<Uuid> {
        let groups = read.related::<SecurityGroup>("project_id", project);
        let rules = groups
            .iter()
            .flat_map(|group| read.related::<Self>("security_group_id", group.meta.id));
        rules
            .filter(|rule| rule.meta.project_id != project)
            .map(|rule| rule.meta.id)
            .collect()
    }

    fn derive(&self, field: &str, scene: &Scene<'_>) -> Value {
        match field {
            "belongs_to_default_sg" => scene
                .snapshot
                .object::<SecurityGroup>(self.security_group_id)
                .map_or(Value::Null, |group| json!(group.is_default)),
            _ => Value::Null,
        }
    }

    fn intake(fields: &mut Map<String, Value>) -> Result<(), Refusal> {
        let word = |fields: &Map<String, Value>, name: &str| {
            fields.get(name).and_then(Value::as_str).map(str::to_owned)
        };
        Ethertype::intake(fields, |given| {
            Refusal::invalid(
                "SecurityGroupRuleInvalidEtherType",
                format!(
                    "Security group rule for ethertype '{given}' not supported. Allowed values are ['IPv4', 'IPv6']."
                ),
            )
        })?;
        if let Some(given) = word(fields, "protocol") {
            let protocol = match given.to_ascii_lowercase().as_str() {
                "any" | "" => Value::Null,
                "icmpv6" => json!("ipv6-icmp"),
                lower if protocol_number(lower).is_some() => json!(lower),
                _ => {
                    let names: Vec<&str> = PROTOCOLS.iter().map(|(name, _)| *name).collect();
                    return Err(Refusal::invalid(
                        "SecurityGroupRuleInvalidProtocol",
                        format!(
                            "Security group rule protocol {given} not supported. Only protocol values (None, 'any', '{}') and integer representations [0 to 255] are supported.",
                            names.join("', '")
                        ),
                    ));
                }
            };
            fields.insert("protocol".to_owned(), protocol);
        }
        if let Some(given) = word(fields, "remote_ip_prefix") {
            let Some(prefix) = loose_prefix(&given) else {
                return Err(Refusal::invalid(
                    "InvalidCIDR",
                    format!("Invalid CIDR {given} given as IP prefix."),
                ));
            };
            fields.insert("normalized_cidr".to_owned(), json!(prefix));
            if !given.contains('/') {
                fields.insert("remote_ip_prefix".to_owned(), json!(prefix));
            }
        }
        Ok(())
    }

    fn check_bulk(bodies: &[Map<String, Value>]) -> Result<(), Refusal> {
        let groups: HashSet<_> = bodies
            .iter()
            .map(|body| body.get("security_group_id").map(Value::to_string))
            .collect();
        if groups.len() > 1 {
            return Err(Refusal::invalid(
                "SecurityGroupNotSingleGroupRules",
                "Only allowed to update rules for one security profile at a time",
            ));
        }
        let mut said = HashSet::new();
        for body in bodies {
            let mut body = body.clone();
            body.shift_remove("description");
            body.sort_keys();
            if !said.insert(Value::Object(body).to_string()) {
                return Err(Refusal::conflict(
                    "DuplicateSecurityGroupRuleInPost",
                    "Duplicate Security Group Rule in POST.",
                ));
            }
        }
        Ok(())
    }
}

/// Text or a number, as text.
fn word_shape(value: &Value) -> Result<Value, String> {
    match value {
        Value::String(text) if text.len() <= 64 => Ok(value.clone()),
        Value::Number(number) => Ok(Value::String(number.to_string())),
        Value::Null | Value::Bool(_) | Value::String(_) | Value::Array(_) | Value::Object(_) => {
            Err(format!("'{value}' is not a valid string"))
        }
    }
}

fn group(view: &View, change: &Change<'_, SecurityGroupRule>, caller: &Caller) -> Judged {
    let Some(subject) = change.subject().filter(|_| change.before != change.after) else {
        return Ok(Vec::new());
    };
    let id = subject.security_group_id;
    if change.verb == Verb::Create {
        let Some(group) = view.object::<SecurityGroup>(id) else {
            return Err(Refusal::missing("SecurityGroup", id));
        };
        let rule = "create_security_group_rule";
        let open = caller.owns(&group.meta.project_id) || caller.is_told(rule);
        if change.is_asked() && !open {
            return Err(Refusal::denied(format!("rule:{rule}")));
        }
    }
    Ok(vec![Write::Touch(SecurityGroup::SPEC, id)])
}

fn remote(view: &View, change: &Change<'_, SecurityGroupRule>, caller: &Caller) -> Judged {
    let Some(rule) = change.made() else {
        return Ok(Vec::new());
    };
    let remotes = [
        rule.remote_group_id.is_some(),
        rule.remote_ip_prefix.is_some(),
        rule.remote_address_group_id.is_some(),
    ];
    if remotes.into_iter().filter(|is_there| *is_there).count() > 1 {
        return Err(Refusal::invalid(
            "SecurityGroupMultipleRemoteEntites",
            "Only one of remote_ip_prefix or remote_group_id or remote_address_group_id may be provided.",
        ));
    }
    if let Some(remote) = rule.remote_group_id {
        let group = view.object::<SecurityGroup>(remote);
        let known = group.is_some_and(|group| !change.is_asked() || usable(view, &*group, caller));
        if !known {
            return Err(Refusal::missing("SecurityGroup", remote));
        }
    }
    if let Some(remote) = rule.remote_address_group_id {
        let group = view.object::<AddressGroup>(remote);
        if !group.is_some_and(|group| usable(view, &*group, caller)) {
            return Err(Refusal::missing("AddressGroup", remote));
        }
    }
    if let Some(prefix) = rule.normalized_cidr
        && !rule.ethertype.holds(prefix)
    {
        return Err(Refusal::invalid(
            "SecurityGroupRuleParameterConflict",
            format!(
                "Conflicting value ethertype {} for CIDR {prefix}",
                rule.ethertype
            ),
        ));
    }
    Ok(Vec::new())
}

fn transport(_: &View, change: &Change<'_, SecurityGroupRule>, _: &Caller) -> Judged {
    let Some(rule) = change.made() else {
        return Ok(Vec::new());
    };
    let (min, max) = (rule.port_range_min, rule.port_range_max);
    let Some(protocol) = rule.protocol_number() else {
        if min.is_some() || max.is_some() {
            return Err(Refusal::invalid(
                "SecurityGroupProtocolRequiredWithPorts",
                "Must also specify protocol if port range is given.",
            ));
        }
        return Ok(Vec::new());
    };
    if rule.ethertype == Ethertype::V4 && protocol == ICMPV6 {
        return Err(Refusal::invalid(
            "SecurityGroupEthertypeConflictWithProtocol",
            format!(
                "Invalid ethertype {} for protocol {}.",
                rule.ethertype,
                rule.protocol.as_deref().unwrap_or_default()
            ),
        ));
    }
    if rule.is_icmp() {
        return icmp(min, max);
    }
    if WITH_PORTS.contains(&protocol) {
        return ports(min, max);
    }
    if min.is_some() || max.is_some() {
        return Err(Refusal::invalid(
            "SecurityGroupInvalidProtocolForPort",
            format!(
                "Ports cannot be specified for protocol {protocol}. Ports are only supported for DCCP, SCTP, TCP, UDP, UDPLITE."
            ),
        ));
    }
    Ok(Vec::new())
}

fn icmp(kind: Option<i64>, code: Option<i64>) -> Judged {
    for (value, word) in [
        (kind, "type (port_range_min)"),
        (code, "code (port_range_max)"),
    ] {
        if let Some(value) = value
            && !(0..=255).contains(&value)
        {
            return Err(Refusal::invalid(
                "SecurityGroupInvalidIcmpValue",
                format!("Invalid value for ICMP {word} {value}. It must be 0 to 255."),
            ));
        }
    }
    if let (None, Some(code)) = (kind, code) {
        return Err(Refusal::invalid(
            "SecurityGroupMissingIcmpType",
            format!(
                "ICMP code (port-range-max) {code} is provided but ICMP type (port-range-min) is missing."
            ),
        ));
    }
    Ok(Vec::new())
}

fn ports(min: Option<i64>, max: Option<i64>) -> Judged {
    for port in [min, max].into_iter().flatten() {
        if !(1..=65_535).contains(&port) {
            return Err(Refusal::invalid(
                "SecurityGroupInvalidPortValue",
                format!("Invalid value for port {port}"),
            ));
        }
    }
    match (min, max) {
        (None, None) => Ok(Vec::new()),
        (Some(min), Some(max)) if min <= max => Ok(Vec::new()),
        _ => Err(Refusal::invalid(
            "SecurityGroupInvalidPortRange",
            "For TCP/UDP protocols, port_range_min must be <= port_range_max",
        )),
    }
}

/// The same thing is allowed once.
fn once(view: &View, change: &Change<'_, SecurityGroupRule>, _: &Caller) -> Judged {
    match (change.verb, change.before, change.after) {
        (Verb::Create, _, Some(rule)) => {
            let key = rule.claim_key();
            if let Some(claim) = view.get::<Claim>(&key) {
                return Err(Refusal::conflict(
                    "SecurityGroupRuleExists",
                    format!(
                        "Security group rule already exists. Rule id is {}.",
                        claim.holder
                    ),
                ));
            }
            Ok(vec![Write::Claim(key, rule.meta.id)])
        }
        (Verb::Delete, Some(rule), _) => Ok(vec![Write::Release(rule.claim_key())]),
        _ => Ok(Vec::new()),
    }
}
