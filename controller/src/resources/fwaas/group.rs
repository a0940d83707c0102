//! At which ports do which policies hold?

use super::{GROUP, default_key, fixed, reserved};
use crate::{
    api::Scene,
    refusal::Refusal,
    resource::{
        ALL, Absent, Claim, Kind, Lookup, Meta, Objects, Operations, Ops, Policy, Resource, Spec,
        Verb, field,
    },
    resources::{FirewallPolicy, FirewallRule, Port, router},
    rules::{Caller, Change, Judged, Rule, Write, usable},
    store::{Read, View},
};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use uuid::Uuid;

/// A firewall group.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FirewallGroup {
    /// What every object has.
    #[serde(flatten)]
    pub meta: Meta,
    /// Is it on? One that is off lets nothing pass.
    pub admin_state_up: bool,
    /// Does every project see it?
    pub shared: bool,
    /// For what goes to its ports.
    pub ingress_firewall_policy_id: Option<Uuid>,
    /// For what comes from them.
    pub egress_firewall_policy_id: Option<Uuid>,
    /// Where it holds.
    pub ports: Vec<Uuid>,
    /// Is it its project's default?
    #[serde(default)]
    pub is_default: bool,
}

impl FirewallGroup {
    /// One without policies and ports.
    pub const fn new(meta: Meta) -> Self {
        Self {
            meta,
            admin_state_up: true,
            shared: false,
            ingress_firewall_policy_id: None,
            egress_firewall_policy_id: None,
            ports: Vec::new(),
            is_default: false,
        }
    }

    /// Its policies, each with the direction's field.
    fn policies(&self) -> [(&'static str, Option<Uuid>); 2] {
        [
            (
                "ingress_firewall_policy_id",
                self.ingress_firewall_policy_id,
            ),
            ("egress_firewall_policy_id", self.egress_firewall_policy_id),
        ]
    }

    /// Has it a policy at all? One without any holds nothing up.
    pub const fn is_armed(&self) -> bool {
        self.ingress_firewall_policy_id.is_some() || self.egress_firewall_policy_id.is_some()
    }

    fn status(&self) -> &'static str {
        if self.ports.is_empty() || !self.is_armed() {
            "INACTIVE"
        } else if self.admin_state_up {
            "ACTIVE"
        } else {
            "DOWN"
        }
    }
}

static OPS: Ops<FirewallGroup> = Ops::new();

impl Resource for FirewallGroup {
    const SPEC: &'static Spec = &Spec {
        singular: "firewall_group",
        plural: "firewall_groups",
        path: "fwaas/firewall_groups",
        storage: "firewall_group",
        title: "FirewallGroup",
        doc: "Policies, and the ports at which they hold.",
        verbs: ALL,
        policy: Policy::Anyone,
        quota: Some(("firewall_group", 10)),
        tags: true,
        bare: false,
        fields: &[
            field(
                "ingress_firewall_policy_id",
                Kind::Uuid,
                "For what goes to a workload, or from a router into an interface's network.",
            )
            .writable(Absent::Null)
            .or_null(),
            field(
                "egress_firewall_policy_id",
                Kind::Uuid,
                "For what comes from there.",
            )
            .writable(Absent::Null)
            .or_null(),
            field(
                "ports",
                Kind::Uuids,
                "Where it holds: workloads' ports, and routers' interfaces.",
            )
            .writable(Absent::List),
            field(
                "admin_state_up",
                Kind::Bool,
                "Is it on? One that is off lets nothing pass.",
            )
            .writable(Absent::Bool(true)),
            field("shared", Kind::Bool, "Does every project see it?")
                .writable(Absent::Bool(false))
                .set_by(Policy::Admin),
            field(
                "status",
                Kind::Text(16),
                "ACTIVE; DOWN where it is off; INACTIVE without ports or without policies, when it does nothing.",
            )
            .computed(),
        ],
        actions: &[],
        parts: &[],
        ops: &OPS as &dyn Operations,
    };
    const RULES: &'static [Rule<Self>] = &[the_default, policies, places, removal];

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
        let policies = self.policies();
        let policies = policies
            .into_iter()
            .filter_map(|(way, id)| Some((way, id?.to_string())));
        let ports = self.ports.iter().map(|id| ("ports", id.to_string()));
        policies.chain(ports).collect()
    }

    fn derive(&self, field: &str, _: &Scene<'_>) -> Value {
        match field {
            "status" => json!(self.status()),
            _ => Value::Null,
        }
    }
}

fn the_default(_: &View, change: &Change<'_, FirewallGroup>, caller: &Caller) -> Judged {
    let Some(after) = change.after.filter(|_| change.is_asked()) else {
        return Ok(Vec::new());
    };
    let name = after.meta.name.as_str();
    let Some(before) = change.before else {
        return if name == GROUP {
            Err(reserved("Firewall Group", name))
        } else {
            Ok(Vec::new())
        };
    };
    if name == GROUP && change.names("name") {
        return Err(reserved("Firewall Group", name));
    }
    let kept: &[&str] = if caller.admin {
        &["name"]
    } else {
        &[
            "name",
            "description",
            "admin_state_up",
            "ingress_firewall_policy_id",
            "egress_firewall_policy_id",
        ]
    };
    if before.is_default && kept.iter().any(|name| change.names(name)) {
        return Err(fixed("Firewall Group", before.meta.id));
    }
    Ok(Vec::new())
}

/// Its policies are there, and may be used by it.
fn policies(view: &View, change: &Change<'_, FirewallGroup>, caller: &Caller) -> Judged {
    let Some(after) = change.after.filter(|_| change.is_asked()) else {
        return Ok(Vec::new());
    };
    let had = change.before.map(FirewallGroup::policies);
    for (at, (_, policy)) in after.policies().into_iter().enumerate() {
        let before = had.and_then(|had| had.get(at).and_then(|(_, id)| *id));
        let Some(id) = policy.filter(|id| before != Some(*id)) else {
            continue;
        };
        let policy = view.object::<FirewallPolicy>(id);
        let policy = policy.filter(|policy| usable(view, &**policy, caller));
        let policy = policy.ok_or_else(|| Refusal::missing("FirewallPolicy", id))?;
        if !policy.shared && policy.meta.project_id != after.meta.project_id {
            return Err(Refusal::no_such(
                "FirewallPolicyConflict",
                format!("Firewall policy {id} is another project's, and not shared."),
            ));
        }
    }
    Ok(Vec::new())
}

fn place_key(port: Uuid) -> String {
    format!("unique/firewall_of_port/{port}")
}

/// Its ports are such as can have a firewall, and are in no other group.
fn places(view: &View, change: &Change<'_, FirewallGroup>, caller: &Caller) -> Judged {
    let of = |group: Option<&FirewallGroup>| group.map_or_else(Vec::new, |g| g.ports.clone());
    let (old, new) = (of(change.before), of(change.after));
    let gone = old.iter().filter(|id| !new.contains(id));
    let mut writes: Vec<Write> = gone.map(|id| Write::Release(place_key(*id))).collect();
    let Some(after) = change.after else {
        return Ok(writes);
    };
    let mut taken = Vec::new();
    for id in new.iter().filter(|id| !old.contains(id)) {
        let port = view.object::<Port>(*id);
        let port = port.filter(|port| usable(view, &**port, caller));
        let port = port.ok_or_else(|| Refusal::missing("Port", id))?;
        if !can_have(&port) {
            return Err(Refusal::conflict(
                "FirewallGroupPortInvalid",
                format!(
                    "Port {id} of firewall group is invalid: it is no workload's on a host, and no router's interface."
                ),
            ));
        }
        if port.meta.project_id != after.meta.project_id {
            return Err(Refusal::conflict(
                "FirewallGroupPortInvalidProject",
                format!("Port {id} is in another project {}.", port.meta.project_id),
            ));
        }
        if view.entry(&place_key(*id)).is_some() {
            taken.push(format!("'{id}'"));
        }
        writes.push(Write::Claim(place_key(*id), after.meta.id));
    }
    if taken.is_empty() {
        return Ok(writes);
    }
    Err(Refusal::conflict(
        "FirewallGroupPortInUse",
        format!(
            "Port(s) [{}] provided already associated with other firewall group(s).",
            taken.join(", ")
        ),
    ))
}

/// Is it a workload's, or a router's interface?
fn can_have(port: &Port) -> bool {
    let owner = port.device_owner.as_str();
    let workload = owner.starts_with("compute:");
    let bound = !owner.starts_with("network:") && !port.host.is_empty();
    workload || bound || router::OWNERS.contains(&owner)
}

fn removal(view: &View, change: &Change<'_, FirewallGroup>, caller: &Caller) -> Judged {
    let Some(before) = change.removed() else {
        return Ok(Vec::new());
    };
    let id = before.meta.id;
    if !before.ports.is_empty() {
        return Err(Refusal::conflict(
            "FirewallGroupInUse",
            format!("Firewall group {id} is still active."),
        ));
    }
    if !before.is_default {
        return Ok(Vec::new());
    }
    if !caller.admin {
        return Err(Refusal::conflict(
            "FirewallGroupCannotRemoveDefault",
            "Deleting default firewall group not allowed.",
        ));
    }
    // What was made with it goes with it, unless it is used elsewhere.
    let mut writes = vec![Write::Release(default_key(&before.meta.project_id))];
    for policy in before.policies().iter().filter_map(|(_, id)| *id) {
        let users = ["ingress_firewall_policy_id", "egress_firewall_policy_id"];
        let related = users.map(|way| view.related::<FirewallGroup>(way, policy));
        let used = related.iter().flatten().any(|group| group.meta.id != id);
        let policy = view.object::<FirewallPolicy>(policy);
        let Some(policy) = policy.filter(|policy| policy.is_default && !used) else {
            continue;
        };
        writes.push(Write::Remove(FirewallPolicy::SPEC, policy.meta.id));
        for rule in &policy.firewall_rules {
            let policies = view.related::<FirewallPolicy>("firewall_rules", *rule);
            if policies.iter().all(|other| other.meta.id == policy.meta.id) {
                writes.push(Write::Remove(FirewallRule::SPEC, *rule));
            }
        }
    }
    Ok(writes)
}

/// A port that goes leaves its group.
#[expect(clippy::unnecessary_wraps, reason = "a rule's signature")]
pub(in crate::resources) fn of_port(view: &View, change: &Change<'_, Port>, _: &Caller) -> Judged {
    let gone = change.removed().filter(|_| change.verb == Verb::Delete);
    let Some(id) = gone.map(|port| port.meta.id) else {
        return Ok(Vec::new());
    };
    let claim = view.get::<Claim>(&place_key(id));
    let group = claim.and_then(|claim| view.object::<FirewallGroup>(claim.holder));
    Ok(group.map_or_else(Vec::new, |group| {
        let mut group = FirewallGroup::clone(&group);
        group.ports.retain(|port| *port != id);
        vec![Write::put(group)]
    }))
}
