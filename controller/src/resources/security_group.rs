//! What is a security group?
//!
//! A named set of rules that allow; ports have groups. Each project has one called `default`, made
//! when it is first touched.

use crate::{
    api::Scene,
    refusal::Refusal,
    resource::{
        ALL, Absent, Claim, Kind, Lookup, Meta, Objects, Operations, Ops, Policy, Resource, Spec,
        field,
    },
    resources::{
        Port, SecurityGroupRule, protocol::Ethertype, rbac_policy, security_group_rule::Direction,
    },
    rules::{Caller, Change, Dice, Rule, Write},
    store::{Read, View},
};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use uuid::Uuid;

/// The name that only one group of a project has.
pub const DEFAULT: &str = "default";

/// A security group.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SecurityGroup {
    /// What every object has.
    #[serde(flatten)]
    pub meta: Meta,
    /// Does it track connections?
    pub stateful: bool,
    /// Is it its project's default?
    #[serde(default)]
    pub is_default: bool,
}

static OPS: Ops<SecurityGroup> = Ops::new();

impl Resource for SecurityGroup {
    const SPEC: &'static Spec = &Spec {
        singular: "security_group",
        plural: "security_groups",
        path: "security-groups",
        storage: "security_group",
        title: "SecurityGroup",
        doc: "A named set of rules that allow.",
        verbs: ALL,
        policy: Policy::Anyone,
        quota: Some(("security_group", 100)),
        tags: true,
        bare: false,
        fields: &[
            field("stateful", Kind::Bool, "Does it track connections?")
                .writable(Absent::Bool(true)),
            field("security_group_rules", Kind::Uuids, "Its rules.")
                .computed()
                .unfiltered(),
            field(
                "shared",
                Kind::Bool,
                "May the caller's project use it by a grant?",
            )
            .computed(),
        ],
        actions: &[],
        parts: &[],
        ops: &OPS as &dyn Operations,
    };
    const RULES: &'static [Rule<Self>] = &[the_default, first_rules, removal];

    fn meta(&self) -> &Meta {
        &self.meta
    }

    fn meta_mut(&mut self) -> &mut Meta {
        &mut self.meta
    }

    fn shared(&self, read: &dyn Lookup) -> bool {
        rbac_policy::is_granted(read, self.meta.id, rbac_policy::EVERYBODY)
    }

    fn shared_with(&self, read: &dyn Lookup, project: &str) -> bool {
        rbac_policy::may_use(read, self.meta.id, project)
    }

    fn granted(read: &dyn Lookup, project: &str) -> Vec<Uuid> {
        rbac_policy::granted::<Self>(read, project)
    }

    fn derive(&self, field: &str, scene: &Scene<'_>) -> Value {
        match field {
            "shared" => json!(self.shared_with(scene.snapshot, &scene.caller.project_id)),
            "security_group_rules" => scene
                .snapshot
                .related::<SecurityGroupRule>("security_group_id", self.meta.id)
                .iter()
                .map(|rule| Value::Object(scene.render_whole(rule.as_ref())))
                .collect(),
            _ => Value::Null,
        }
    }
}

fn default_key(project: &str) -> String {
    format!("unique/default_security_group/{project}")
}

/// The project's default group, if it was made.
pub fn known_default(read: &impl Read, project: &str) -> Option<Uuid> {
    read.get::<Claim>(&default_key(project))
        .map(|claim| claim.holder)
}

/// The project's default group, and what makes it if it is not there.
pub fn default_of(view: &View, project: &str, dice: &Dice) -> (Uuid, Vec<Write>) {
    if let Some(id) = known_default(view, project) {
        return (id, Vec::new());
    }
    let id = dice.uuid();
    let mut meta = Meta::new(id, project, DEFAULT);
    "Default security group".clone_into(&mut meta.description);
    let group = SecurityGroup {
        meta,
        stateful: true,
        is_default: true,
    };
    // The claim comes with the group's own rule, before anything else of the request runs: two
    // ports of one bulk must find it.
    (
        id,
        vec![Write::Claim(default_key(project), id), Write::put(group)],
    )
}

fn the_default(
    view: &View,
    change: &Change<'_, SecurityGroup>,
    caller: &Caller,
) -> Result<Vec<Write>, Refusal> {
    let Some(before) = change.before else {
        let named = change
            .after
            .filter(|group| change.is_asked() && group.meta.name == DEFAULT);
        return match named {
            Some(_) => Err(Refusal::conflict(
                "SecurityGroupDefaultAlreadyExists",
                "Default security group already exists.",
            )),
            None => Ok(Vec::new()),
        };
    };
    let id = before.meta.id;
    match change.after {
        Some(after) => {
            if before.is_default && after.meta.name != before.meta.name {
                return Err(Refusal::conflict(
                    "SecurityGroupCannotUpdateDefault",
                    "Updating default security group not allowed.",
                ));
            }
            if !before.is_default && after.meta.name == DEFAULT && before.meta.name != DEFAULT {
                return Err(Refusal::conflict(
                    "SecurityGroupDefaultAlreadyExists",
                    "Default security group already exists.",
                ));
            }
            if before.stateful != after.stateful && view.any_related::<Port>("security_groups", id)
            {
                return Err(in_use(id));
            }
            Ok(Vec::new())
        }
        None if before.is_default && !caller.admin => Err(Refusal::conflict(
            "SecurityGroupCannotRemoveDefault",
            "Insufficient rights for removing default security group.",
        )),
        None if before.is_default => Ok(vec![Write::Release(default_key(&before.meta.project_id))]),
        None => Ok(Vec::new()),
    }
}

fn in_use(id: Uuid) -> Refusal {
    Refusal::conflict("SecurityGroupInUse", format!("Security Group {id} in use."))
}

/// A new group lets everything out; the default one also lets its own members in.
#[expect(clippy::unnecessary_wraps, reason = "a rule's signature")]
fn first_rules(
    _: &View,
    change: &Change<'_, SecurityGroup>,
    _: &Caller,
) -> Result<Vec<Write>, Refusal> {
    let Some(group) = change.made() else {
        return Ok(Vec::new());
    };
    let mut writes = Vec::new();
    for ethertype in [Ethertype::V4, Ethertype::V6] {
        let mut make = |direction, remote_group_id| {
            let meta = Meta::new(change.moment.dice.uuid(), &group.meta.project_id, "");
            let rule = SecurityGroupRule::allow_all(meta, group.meta.id, direction, ethertype);
            writes.push(Write::put(SecurityGroupRule {
                remote_group_id,
                ..rule
            }));
        };
        make(Direction::Egress, None);
        if group.is_default {
            make(Direction::Ingress, Some(group.meta.id));
        }
    }
    Ok(writes)
}

fn removal(
    view: &View,
    change: &Change<'_, SecurityGroup>,
    _: &Caller,
) -> Result<Vec<Write>, Refusal> {
    let Some(before) = change.removed() else {
        return Ok(Vec::new());
    };
    let id = before.meta.id;
    if view.any_related::<Port>("security_groups", id) {
        return Err(in_use(id));
    }
    let mut rules = view.related::<SecurityGroupRule>("security_group_id", id);
    // Rules of other groups that mean this one mean nobody from now on.
    rules.extend(view.related::<SecurityGroupRule>("remote_group_id", id));
    Ok(rules
        .iter()
        .map(|rule| Write::Remove(SecurityGroupRule::SPEC, rule.meta.id))
        .chain(rbac_policy::remove_all(view, id))
        .collect())
}
