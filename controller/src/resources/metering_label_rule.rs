//! Which traffic counts under a label?
//!
//! What comes in by a router's gateway, or leaves by it, by the addresses that it has inside. A rule that excludes goes before all others of its
//! label. `remote_ip_prefix` is, as in Neutron, what is inside: the source of what leaves, the destination of what comes in.

use crate::{
    refusal::Refusal,
    resource::{
        ALL, Absent, Field, Kind, Lookup, Meta, Objects, Operations, Ops, Policy, Resource, Spec,
        field,
    },
    resources::{MeteringLabel, security_group_rule::Direction},
    rules::{Caller, Change, Judged, Rule, Write},
    store::View,
};
use net::Prefix;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// How many a label has.
const MOST: usize = 256;

/// A rule of a metering label.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MeteringLabelRule {
    /// What every object has.
    #[serde(flatten)]
    pub meta: Meta,
    /// Whose rule it is.
    pub metering_label_id: Uuid,
    /// Does it come in by the gateway, or leave by it?
    pub direction: Direction,
    /// Does it not count?
    pub excluded: bool,
    /// The end inside.
    #[serde(default)]
    pub remote_ip_prefix: Option<Prefix>,
    /// Where it comes from.
    #[serde(default)]
    pub source_ip_prefix: Option<Prefix>,
    /// Where it goes.
    #[serde(default)]
    pub destination_ip_prefix: Option<Prefix>,
}

impl MeteringLabelRule {
    /// Source and destination that it means.
    pub fn ends(&self) -> (Option<Prefix>, Option<Prefix>) {
        match (self.remote_ip_prefix, self.direction) {
            (Some(inside), Direction::Egress) => (Some(inside), None),
            (Some(inside), Direction::Ingress) => (None, Some(inside)),
            (None, _) => (self.source_ip_prefix, self.destination_ip_prefix),
        }
    }
}

static OPS: Ops<MeteringLabelRule> = Ops::new();

const fn prefix(name: &'static str, doc: &'static str) -> Field {
    field(name, Kind::Cidr, doc)
        .create_only(Absent::Null)
        .or_null()
}

impl Resource for MeteringLabelRule {
    const SPEC: &'static Spec = &Spec {
        singular: "metering_label_rule",
        plural: "metering_label_rules",
        path: "metering/metering-label-rules",
        storage: "metering_label_rule",
        title: "MeteringLabelRule",
        doc: "What counts under a label.",
        verbs: ALL,
        policy: Policy::Admin,
        quota: None,
        tags: false,
        bare: true,
        fields: &[
            field("id", Kind::Uuid, "Identity."),
            field(
                "tenant_id",
                Kind::Text(255),
                "The project, by its old name.",
            )
            .computed(),
            field("project_id", Kind::Text(255), "The project of its label.")
                .create_only(Absent::Computed),
            field("metering_label_id", Kind::Uuid, "Whose rule it is.")
                .create_only(Absent::Required),
            field(
                "direction",
                Kind::OneOf(&["ingress", "egress"]),
                "Does it come in by the gateway, or leave by it?",
            )
            .create_only(Absent::Text("ingress")),
            field("excluded", Kind::Bool, "Does it not count?").create_only(Absent::Bool(false)),
            prefix(
                "remote_ip_prefix",
                "The end inside; instead of the other two.",
            ),
            prefix("source_ip_prefix", "Where it comes from.").writable(Absent::Null),
            prefix("destination_ip_prefix", "Where it goes.").writable(Absent::Null),
        ],
        actions: &[],
        parts: &[],
        ops: &OPS as &dyn Operations,
    };
    const RULES: &'static [Rule<Self>] = &[ends, place];

    fn meta(&self) -> &Meta {
        &self.meta
    }

    fn meta_mut(&mut self) -> &mut Meta {
        &mut self.meta
    }

    fn shared(&self, read: &dyn Lookup) -> bool {
        let label = read.object::<MeteringLabel>(self.metering_label_id);
        label.is_some_and(|label| label.shared)
    }

    fn index(&self) -> Vec<(&'static str, String)> {
        vec![("metering_label_id", self.metering_label_id.to_string())]
    }
}

fn bad(text: impl std::fmt::Display) -> Refusal {
    Refusal::invalid(
        "BadRequest",
        format!("Bad metering_label_rule request: {text}."),
    )
}

/// One end inside, or one or both of the others, of one family.
fn ends(_: &View, change: &Change<'_, MeteringLabelRule>, _: &Caller) -> Judged {
    let Some(rule) = change.after else {
        return Ok(Vec::new());
    };
    let (source, destination) = (rule.source_ip_prefix, rule.destination_ip_prefix);
    let other = source.or(destination).is_some();
    match rule.remote_ip_prefix {
        Some(_) if other => Err(bad(
            "remote_ip_prefix cannot be given with source_ip_prefix or destination_ip_prefix",
        )),
        None if !other => Err(bad(
            "one of remote_ip_prefix, source_ip_prefix and destination_ip_prefix is required",
        )),
        _ if source
            .zip(destination)
            .is_some_and(|(a, b)| a.is_ipv4() != b.is_ipv4()) =>
        {
            Err(bad(
                "source_ip_prefix and destination_ip_prefix are of different families",
            ))
        }
        _ => Ok(Vec::new()),
    }
}

/// It is its label's project's, and no other of the label says the same of a part of it.
fn place(view: &View, change: &Change<'_, MeteringLabelRule>, caller: &Caller) -> Judged {
    let Some(rule) = change.after else {
        return Ok(Vec::new());
    };
    let id = rule.metering_label_id;
    let label = view.object::<MeteringLabel>(id);
    let label = label.filter(|label| caller.owns(&label.meta.project_id));
    let label = label.ok_or_else(|| Refusal::missing("MeteringLabel", id))?;
    let mut others = view.related::<MeteringLabelRule>("metering_label_id", id);
    others.retain(|other| other.meta.id != rule.meta.id);
    if others.len() >= MOST {
        return Err(Refusal::conflict(
            "MeteringLabelRuleLimit",
            format!("Metering label {id} has {MOST} rules already."),
        ));
    }
    let meets = |a: Option<Prefix>, b: Option<Prefix>| match (a, b) {
        (Some(a), Some(b)) => a.overlaps(b),
        _ => true,
    };
    let (source, destination) = rule.ends();
    let twin = others.iter().find(|other| {
        let (theirs, to) = other.ends();
        other.direction == rule.direction
            && other.excluded == rule.excluded
            && meets(source, theirs)
            && meets(destination, to)
    });
    if let Some(twin) = twin {
        return Err(Refusal::conflict(
            "MeteringLabelRuleOverlaps",
            format!(
                "The prefixes of the rule overlap those of rule {} of metering label {id}.",
                twin.meta.id
            ),
        ));
    }
    let mut own = rule.clone();
    own.meta.project_id.clone_from(&label.meta.project_id);
    Ok(vec![Write::amend(own)])
}
