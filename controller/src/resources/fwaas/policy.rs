//! In which order are rules asked?

use super::{EGRESS, INGRESS, fixed, reserved};
use crate::{
    refusal::Refusal,
    resource::{
        ALL, Absent, Action, Field, How, Kind, Lookup, Meta, Objects, Operations, Ops, Policy,
        Reply, Resource, Spec, Verb, field,
    },
    resources::{FirewallGroup, FirewallRule},
    rules::{Act, Acted, Caller, Change, Deed, Judged, Rule, Write, usable},
    store::View,
};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use uuid::Uuid;

/// The most rules of a policy: each is part of every host's tables that has a port with it.
const RULES: usize = 4096;

/// A firewall policy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FirewallPolicy {
    /// What every object has.
    #[serde(flatten)]
    pub meta: Meta,
    /// Has somebody looked through it since it was changed?
    pub audited: bool,
    /// May every project use it?
    pub shared: bool,
    /// Its rules; the first that matches decides.
    pub firewall_rules: Vec<Uuid>,
    /// Is it of its project's default group?
    #[serde(default)]
    pub is_default: bool,
}

impl FirewallPolicy {
    /// One of these rules.
    pub const fn new(meta: Meta, firewall_rules: Vec<Uuid>) -> Self {
        Self {
            meta,
            audited: false,
            shared: false,
            firewall_rules,
            is_default: false,
        }
    }
}

static OPS: Ops<FirewallPolicy> = Ops::new();

/// The rule that an action is about; one that is left out has words of its own.
const RULE: Field =
    field("firewall_rule_id", Kind::Uuid, "The rule.").create_only(Absent::Computed);

const INSERTION: &[Field] = &[
    RULE,
    field(
        "insert_before",
        Kind::Shape(place_shape),
        "Before this rule; empty: not said.",
    )
    .create_only(Absent::Null)
    .or_null(),
    field(
        "insert_after",
        Kind::Shape(place_shape),
        "After this rule, unless it is said before which; empty: not said. With neither it comes first.",
    )
    .create_only(Absent::Null)
    .or_null(),
];

impl Resource for FirewallPolicy {
    const SPEC: &'static Spec = &Spec {
        singular: "firewall_policy",
        plural: "firewall_policies",
        path: "fwaas/firewall_policies",
        storage: "firewall_policy",
        title: "FirewallPolicy",
        doc: "Rules in order; what none of them matches is denied.",
        verbs: ALL,
        policy: Policy::Anyone,
        quota: Some(("firewall_policy", 10)),
        tags: true,
        bare: false,
        fields: &[
            field(
                "audited",
                Kind::Bool,
                "Has somebody looked through it? No longer, once it or one of its rules is changed.",
            )
            .writable(Absent::Bool(false)),
            field("shared", Kind::Bool, "May every project use it?")
                .writable(Absent::Bool(false))
                .set_by(Policy::Admin),
            field("firewall_rules", Kind::Uuids, "Its rules, in order.").writable(Absent::List),
        ],
        actions: &[
            Action {
                name: "insert_rule",
                doc: "Puts a rule into the order.",
                rule: "insert_rule",
                policy: Policy::Anyone,
                how: How::Change,
                wrapped: false,
                arguments: INSERTION,
                reply: Reply::Bare,
                success: 200,
            },
            Action {
                name: "remove_rule",
                doc: "Takes a rule out.",
                rule: "remove_rule",
                policy: Policy::Anyone,
                how: How::Change,
                wrapped: false,
                arguments: &[RULE],
                reply: Reply::Bare,
                success: 200,
            },
        ],
        parts: &[],
        ops: &OPS as &dyn Operations,
    };
    const RULES: &'static [Rule<Self>] = &[names, rules, sharing, audits, removal];
    const ACTS: &'static [(&'static str, Act<Self>)] =
        &[("insert_rule", insert), ("remove_rule", take_out)];

    fn meta(&self) -> &Meta {
        &self.meta
    }

    fn meta_mut(&mut self) -> &mut Meta {
        &mut self.meta
    }

    fn shared(&self, _: &dyn Lookup) -> bool {
        self.shared
    }

    fn index(&self) -> Vec<(&'static str, String)> {
        let rules = self.firewall_rules.iter();
        rules.map(|id| ("firewall_rules", id.to_string())).collect()
    }
}

fn place_shape(value: &Value) -> Result<Value, String> {
    match value.as_str() {
        Some("") => Ok(Value::Null),
        Some(text) if text.parse::<Uuid>().is_ok() => Ok(value.clone()),
        Some(text) => Err(format!("'{text}' is not a valid UUID")),
        None => Err(format!("'{value}' is not a valid UUID")),
    }
}

/// Is it asked for by an action?
fn by_action(change: &Change<'_, FirewallPolicy>) -> bool {
    change.names("firewall_rule_id")
}

fn names(_: &View, change: &Change<'_, FirewallPolicy>, _: &Caller) -> Judged {
    let Some(after) = change.after.filter(|_| change.is_asked()) else {
        return Ok(Vec::new());
    };
    if after.is_default && !by_action(change) {
        return Err(fixed("Firewall Policy", after.meta.id));
    }
    let name = after.meta.name.as_str();
    if !after.is_default && [INGRESS, EGRESS].contains(&name) {
        return Err(reserved("Firewall Policy", name));
    }
    Ok(Vec::new())
}

/// Its rules are there, and may be used by it.
fn rules(view: &View, change: &Change<'_, FirewallPolicy>, caller: &Caller) -> Judged {
    let Some(after) = change.after.filter(|_| change.is_asked()) else {
        return Ok(Vec::new());
    };
    let had = change.before.map(|before| &before.firewall_rules);
    if had == Some(&after.firewall_rules) {
        return Ok(Vec::new());
    }
    if after.firewall_rules.len() > RULES {
        let why = format_args!("more than {RULES} rules");
        return Err(Refusal::attribute("firewall_rules", why));
    }
    for id in &after.firewall_rules {
        let rule = view.object::<FirewallRule>(*id);
        let rule = rule.filter(|rule| usable(view, &**rule, caller));
        let rule = rule.ok_or_else(|| Refusal::missing("FirewallRule", id))?;
        if rule.shared {
            continue;
        }
        if after.shared {
            return Err(Refusal::no_such(
                "FirewallRuleSharingConflict",
                format!(
                    "Firewall policy {} is shared, firewall rule {id} is not.",
                    after.meta.id
                ),
            ));
        }
        if rule.meta.project_id != after.meta.project_id {
            return Err(Refusal::conflict(
                "FirewallRuleConflict",
                format!(
                    "Firewall rule {id} is not shared and belongs to another project {}.",
                    rule.meta.project_id
                ),
            ));
        }
    }
    Ok(Vec::new())
}

/// Who shares a policy shares its rules; who shares it no longer takes it from nobody.
fn sharing(view: &View, change: &Change<'_, FirewallPolicy>, _: &Caller) -> Judged {
    let (Some(before), Some(after)) = (change.before, change.after) else {
        return Ok(Vec::new());
    };
    let id = after.meta.id;
    if after.shared && !before.shared {
        let kept = after.firewall_rules.iter();
        let mut rules = kept.filter_map(|id| view.object::<FirewallRule>(*id));
        if let Some(rule) = rules.find(|rule| !rule.shared) {
            return Err(Refusal::conflict(
                "FirewallPolicySharingConflict",
                format!(
                    "Before firewall policy {id} is shared, share firewall rule {}.",
                    rule.meta.id
                ),
            ));
        }
    }
    if before.shared && !after.shared {
        let users = groups_with(view, id);
        let others = |group: &FirewallGroup| group.meta.project_id != after.meta.project_id;
        if users.iter().any(others) {
            return Err(in_use(id));
        }
    }
    Ok(Vec::new())
}

/// Whoever looked through it has not seen what is asked for now, unless the same request says so.
#[expect(clippy::unnecessary_wraps, reason = "a rule's signature")]
fn audits(_: &View, change: &Change<'_, FirewallPolicy>, _: &Caller) -> Judged {
    let update = change.verb == Verb::Update && change.is_asked();
    let audited = change.after.filter(|after| update && after.audited);
    match audited {
        Some(after) if !change.names("audited") => Ok(vec![Write::amend(FirewallPolicy {
            audited: false,
            ..after.clone()
        })]),
        Some(_) | None => Ok(Vec::new()),
    }
}

/// The groups that have a policy in one direction or the other.
fn groups_with(view: &View, policy: Uuid) -> Vec<FirewallGroup> {
    let mut groups = Vec::new();
    for way in ["ingress_firewall_policy_id", "egress_firewall_policy_id"] {
        let related = view.related::<FirewallGroup>(way, policy);
        groups.extend(related.iter().map(|group| FirewallGroup::clone(group)));
    }
    groups
}

fn in_use(id: Uuid) -> Refusal {
    Refusal::conflict(
        "FirewallPolicyInUse",
        format!("Firewall policy {id} is being used."),
    )
}

fn removal(view: &View, change: &Change<'_, FirewallPolicy>, _: &Caller) -> Judged {
    match change.removed().map(|before| before.meta.id) {
        Some(id) if !groups_with(view, id).is_empty() => Err(in_use(id)),
        Some(_) | None => Ok(Vec::new()),
    }
}

fn id_of(arguments: &Map<String, Value>, name: &str) -> Option<Uuid> {
    arguments.get(name)?.as_str()?.parse().ok()
}

/// The rule that an action names, which the caller may use.
fn named(view: &View, deed: &Deed<'_, FirewallPolicy>, caller: &Caller) -> Result<Uuid, Refusal> {
    let id = id_of(deed.arguments, RULE.name).ok_or_else(|| {
        Refusal::invalid(
            "FirewallRuleInfoMissing",
            "Missing rule info argument for insert/remove rule operation.",
        )
    })?;
    let rule = view.object::<FirewallRule>(id);
    let known = rule.is_some_and(|rule| usable(view, &*rule, caller));
    if known {
        Ok(id)
    } else {
        Err(Refusal::missing("FirewallRule", id))
    }
}

/// Where a rule is in the policy.
fn position(policy: &FirewallPolicy, rule: Uuid) -> Result<usize, Refusal> {
    let found = policy.firewall_rules.iter().position(|id| *id == rule);
    found.ok_or_else(|| {
        let policy = policy.meta.id;
        Refusal::invalid(
            "FirewallRuleNotAssociatedWithPolicy",
            format!("Firewall rule {rule} is not associated with firewall policy {policy}."),
        )
    })
}

fn with(deed: &Deed<'_, FirewallPolicy>, rules: Vec<Uuid>) -> Acted<FirewallPolicy> {
    Acted {
        object: FirewallPolicy {
            firewall_rules: rules,
            ..deed.object.clone()
        },
        writes: Vec::new(),
        reply: Map::new(),
    }
}

fn insert(
    view: &View,
    deed: &Deed<'_, FirewallPolicy>,
    caller: &Caller,
) -> Result<Acted<FirewallPolicy>, Refusal> {
    let policy = deed.object;
    let rule = named(view, deed, caller)?;
    if policy.firewall_rules.contains(&rule) {
        let policy = policy.meta.id;
        return Err(Refusal::conflict(
            "FirewallRuleAlreadyAssociated",
            format!("Firewall rule {rule} is already associated with firewall policy {policy}."),
        ));
    }
    let place = |name| id_of(deed.arguments, name);
    let at = match (place("insert_before"), place("insert_after")) {
        (Some(before), _) => position(policy, before)?,
        (None, Some(after)) => position(policy, after)? + 1,
        (None, None) => 0,
    };
    let mut rules = policy.firewall_rules.clone();
    rules.insert(at, rule);
    Ok(with(deed, rules))
}

fn take_out(
    view: &View,
    deed: &Deed<'_, FirewallPolicy>,
    caller: &Caller,
) -> Result<Acted<FirewallPolicy>, Refusal> {
    let rule = named(view, deed, caller)?;
    let at = position(deed.object, rule)?;
    let mut rules = deed.object.firewall_rules.clone();
    rules.remove(at);
    Ok(with(deed, rules))
}
