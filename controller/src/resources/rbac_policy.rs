//! Who may use what is another's?
//!
//! A grant: an object of one project may be seen and used by another, or by all (`*`). Whoever may use a network puts ports on it; a group, names it on
//! ports and in rules; a QoS policy, gives it to networks and ports; a pool of
//! subnets, takes blocks of it; an address scope, puts pools in it. The `shared` of all but groups is the grant to all, and changes with it.

use crate::{
    refusal::Refusal,
    resource::{
        ALL, Absent, Kind, Lookup, Meta, Object, Objects, Operations, Ops, Policy, Resource, Spec,
        field, index_prefix,
    },
    resources::{
        AddressGroup, AddressScope, Network, Port, QosPolicy, SecurityGroup, SecurityGroupRule,
        Subnet, SubnetPool,
    },
    rules::{Caller, Change, Dice, Judged, Rule, Write, join, stored, usable},
    store::View,
};
use serde::{Deserialize, Serialize};
use std::{collections::BTreeSet, sync::Arc};
use uuid::Uuid;

/// The target that stands for every project.
pub const EVERYBODY: &str = "*";

/// What can be shared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Sharable {
    /// A network.
    Network,
    /// A security group.
    SecurityGroup,
    /// An address group.
    AddressGroup,
    /// A QoS policy.
    QosPolicy,
    /// A pool of subnets.
    Subnetpool,
    /// An address scope.
    AddressScope,
}

impl Sharable {
    const WORDS: &'static [&'static str] = &[
        "network",
        "security_group",
        "address_group",
        "qos_policy",
        "subnetpool",
        "address_scope",
    ];

    fn spec(self) -> &'static Spec {
        match self {
            Self::Network => Network::SPEC,
            Self::SecurityGroup => SecurityGroup::SPEC,
            Self::AddressGroup => AddressGroup::SPEC,
            Self::QosPolicy => QosPolicy::SPEC,
            Self::Subnetpool => SubnetPool::SPEC,
            Self::AddressScope => AddressScope::SPEC,
        }
    }
}

/// What a grant allows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Access {
    /// To use it as one's own, but not to change it.
    AccessAsShared,
}

/// A grant.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RbacPolicy {
    /// What every object has.
    #[serde(flatten)]
    pub meta: Meta,
    /// Of what kind the object is.
    pub object_type: Sharable,
    /// What is granted.
    pub object_id: Uuid,
    /// What may be done with it.
    pub action: Access,
    /// By which project.
    pub target_tenant: String,
}

static OPS: Ops<RbacPolicy> = Ops::new();

impl Resource for RbacPolicy {
    const SPEC: &'static Spec = &Spec {
        singular: "rbac_policy",
        plural: "rbac_policies",
        path: "rbac-policies",
        storage: "rbac_policy",
        title: "RbacPolicy",
        doc: "A grant of one project's object to another, or to all.",
        verbs: ALL,
        policy: Policy::Anyone,
        quota: Some(("rbac_policy", 10)),
        tags: false,
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
            field(
                "object_type",
                Kind::OneOf(Sharable::WORDS),
                "Of what kind the object is.",
            )
            .create_only(Absent::Required),
            field("object_id", Kind::Uuid, "What is granted.").create_only(Absent::Required),
            field(
                "action",
                Kind::OneOf(&["access_as_shared"]),
                "What may be done with it.",
            )
            .create_only(Absent::Required),
            field(
                "target_tenant",
                Kind::Text(255),
                "By which project; * for every one.",
            )
            .writable(Absent::Required),
        ],
        actions: &[],
        parts: &[],
        ops: &OPS as &dyn Operations,
    };
    const RULES: &'static [Rule<Self>] = &[target, object, scope, once, loss, follow];

    fn meta(&self) -> &Meta {
        &self.meta
    }

    fn meta_mut(&mut self) -> &mut Meta {
        &mut self.meta
    }

    fn index(&self) -> Vec<(&'static str, String)> {
        let (id, to) = (self.object_id, &self.target_tenant);
        vec![
            ("object_id", id.to_string()),
            ("grant", format!("{id}:{to}")),
            (
                "target",
                format!("{}:{to}", self.object_type.spec().storage),
            ),
        ]
    }
}

/// Is the object granted to exactly this target?
pub fn is_granted(read: &dyn Lookup, object: Uuid, target: &str) -> bool {
    let storage = RbacPolicy::SPEC.storage;
    let prefix = index_prefix(storage, "grant", format_args!("{object}:{target}"));
    !read.ids(&prefix).is_empty()
}

/// May a project use the object by a grant, its own or everybody's?
pub fn may_use(read: &dyn Lookup, object: Uuid, project: &str) -> bool {
    [project, EVERYBODY]
        .iter()
        .any(|target| is_granted(read, object, target))
}

/// The objects of a kind that are granted to a project by name.
pub fn granted<T: Resource>(read: &dyn Lookup, project: &str) -> Vec<Uuid> {
    let value = format!("{}:{project}", T::SPEC.storage);
    let grants = read.related::<RbacPolicy>("target", value);
    grants.iter().map(|grant| grant.object_id).collect()
}

/// The grants of an object go with it.
pub fn remove_all(view: &View, object: Uuid) -> impl Iterator<Item = Write> + use<> {
    let grants = view.related::<RbacPolicy>("object_id", object);
    grants
        .into_iter()
        .map(|grant| Write::Remove(RbacPolicy::SPEC, grant.meta.id))
}

/// Makes the grant of an object to everybody what its `shared` says.
pub fn with_everybody(
    view: &View,
    (object, kind): (&Meta, Sharable),
    shared: bool,
    dice: &Dice,
) -> Vec<Write> {
    let grants = view.related::<RbacPolicy>("object_id", object.id);
    let mut open = grants
        .iter()
        .filter(|grant| grant.target_tenant == EVERYBODY)
        .peekable();
    if !shared {
        return open
            .map(|grant| Write::Remove(RbacPolicy::SPEC, grant.meta.id))
            .collect();
    }
    if open.peek().is_some() {
        return Vec::new();
    }
    vec![Write::put(RbacPolicy {
        meta: Meta::new(dice.uuid(), &object.project_id, ""),
        object_type: kind,
        object_id: object.id,
        action: Access::AccessAsShared,
        target_tenant: EVERYBODY.to_owned(),
    })]
}

fn target(_: &View, change: &Change<'_, RbacPolicy>, caller: &Caller) -> Judged {
    let Some(after) = change.after.filter(|_| change.names("target_tenant")) else {
        return Ok(Vec::new());
    };
    if after.target_tenant.is_empty() {
        return Err(Refusal::attribute("target_tenant", "'' is no project"));
    }
    if after.target_tenant == EVERYBODY && !caller.admin {
        return Err(Refusal::denied(format!(
            "(rule:{0} and rule:{0}:target_tenant)",
            RbacPolicy::SPEC.rule(change.verb)
        )));
    }
    Ok(Vec::new())
}

/// The object of a grant, if it is still there.
fn granted_object(view: &View, grant: &RbacPolicy) -> Option<Arc<dyn Object>> {
    stored(view, grant.object_type.spec(), grant.object_id)
}

fn object(view: &View, change: &Change<'_, RbacPolicy>, caller: &Caller) -> Judged {
    let Some(after) = change.made().filter(|_| change.is_asked()) else {
        return Ok(Vec::new());
    };
    let object = granted_object(view, after).filter(|object| usable(view, &**object, caller));
    let Some(object) = object else {
        let title = after.object_type.spec().title;
        return Err(Refusal::missing(title, after.object_id));
    };
    if !caller.owns(&object.meta().project_id) {
        return Err(Refusal::input(
            "Only admins can manipulate policies on objects they do not own",
        ));
    }
    Ok(Vec::new())
}

/// Who may use a pool may use the scope that it is in.
fn scope(view: &View, change: &Change<'_, RbacPolicy>, _: &Caller) -> Judged {
    let granted = change
        .after
        .filter(|after| change.is_asked() && after.object_type == Sharable::Subnetpool);
    let pool = granted.and_then(|grant| view.object::<SubnetPool>(grant.object_id));
    let scope = pool.and_then(|pool| view.object::<AddressScope>(pool.address_scope_id?));
    let Some((grant, scope)) = granted.zip(scope) else {
        return Ok(Vec::new());
    };
    let target = &grant.target_tenant;
    if scope.meta.project_id == *target || Resource::shared_with(&*scope, view, target) {
        return Ok(Vec::new());
    }
    Err(Refusal::input(format_args!(
        "subnet pool {} is in address scope {}, which project {target} may not use",
        grant.object_id, scope.meta.id
    )))
}

fn once(view: &View, change: &Change<'_, RbacPolicy>, _: &Caller) -> Judged {
    let Some(after) = change.after else {
        return Ok(Vec::new());
    };
    let value = format!("{}:{}", after.object_id, after.target_tenant);
    let same = view.related::<RbacPolicy>("grant", value);
    if same.iter().any(|grant| grant.meta.id != after.meta.id) {
        return Err(Refusal::conflict(
            "DuplicateRbacPolicy",
            "An RBAC policy already exists with those values.",
        ));
    }
    Ok(Vec::new())
}

/// Nobody loses what it uses.
fn loss(view: &View, change: &Change<'_, RbacPolicy>, _: &Caller) -> Judged {
    let Some(before) = change.before else {
        return Ok(Vec::new());
    };
    let to = |policy: &RbacPolicy| policy.target_tenant.clone();
    let unchanged = change
        .after
        .is_some_and(|after| after.target_tenant == before.target_tenant);
    let Some(object) = granted_object(view, before).filter(|_| !unchanged) else {
        return Ok(Vec::new());
    };
    let mut left: BTreeSet<String> = view
        .related::<RbacPolicy>("object_id", before.object_id)
        .iter()
        .filter(|grant| grant.meta.id != before.meta.id)
        .map(|grant| to(grant))
        .collect();
    // Given to another project it is taken from this one first, as Neutron judges it.
    left.extend(change.after.map(to).filter(|to| to == EVERYBODY));
    left.insert(object.meta().project_id.clone());
    if left.contains(EVERYBODY) {
        return Ok(Vec::new());
    }
    let users = users(view, before);
    // An admin may have given a project what it was never granted: that is no matter of another's grant.
    let of_grant = |project: &String| [EVERYBODY, project].contains(&&*before.target_tenant);
    let losers: BTreeSet<&String> = users
        .iter()
        .filter(|(project, _)| !project.is_empty() && !left.contains(project) && of_grant(project))
        .map(|(_, what)| what)
        .collect();
    if losers.is_empty() {
        return Ok(Vec::new());
    }
    Err(Refusal::conflict(
        "RbacPolicyInUse",
        format!(
            "RBAC policy on object {} cannot be removed because other objects depend on it.\nDetails: {}",
            before.object_id,
            join(losers.into_iter().take(10))
        ),
    ))
}

/// Objects whose indexed field has this value: each one's project, and what it is.
fn told<T: Resource>(view: &View, field: &str, value: Uuid) -> Vec<(String, String)> {
    let related = view.related::<T>(field, value).into_iter();
    let told = related.map(|object| {
        let (meta, kind) = (object.meta(), T::SPEC.singular.replace('_', " "));
        (meta.project_id.clone(), format!("{kind} {}", meta.id))
    });
    told.collect()
}

/// Who uses the object: each user's project, and what it is.
fn users(view: &View, grant: &RbacPolicy) -> Vec<(String, String)> {
    let id = grant.object_id;
    let ports = |field| told::<Port>(view, field, id);
    let rules = |field| told::<SecurityGroupRule>(view, field, id);
    match grant.object_type {
        Sharable::Network => ports("network_id"),
        Sharable::SecurityGroup => {
            let mut all = ports("security_groups");
            all.extend(rules("remote_group_id"));
            all
        }
        Sharable::AddressGroup => rules("remote_address_group_id"),
        Sharable::QosPolicy => {
            let mut all = ports("qos_policy_id");
            all.extend(told::<Network>(view, "qos_policy_id", id));
            all
        }
        Sharable::Subnetpool => told::<Subnet>(view, "subnetpool_id", id),
        Sharable::AddressScope => told::<SubnetPool>(view, "address_scope_id", id),
    }
}

/// What everybody may use is known as such.
#[expect(clippy::unnecessary_wraps, reason = "a rule's signature")]
fn follow(view: &View, change: &Change<'_, RbacPolicy>, _: &Caller) -> Judged {
    let open = |policy: Option<&RbacPolicy>| policy.is_some_and(|p| p.target_tenant == EVERYBODY);
    let (was, is) = (open(change.before), open(change.after));
    let Some(grant) = change.subject().filter(|_| was != is) else {
        return Ok(Vec::new());
    };
    let id = grant.object_id;
    let told = match grant.object_type {
        Sharable::Network => {
            let network = view.object::<Network>(id).filter(|n| n.shared != is);
            network.map(|network| {
                Write::put(Network {
                    shared: is,
                    ..Network::clone(&network)
                })
            })
        }
        Sharable::QosPolicy => {
            let policy = view.object::<QosPolicy>(id).filter(|p| p.shared != is);
            policy.map(|policy| {
                Write::put(QosPolicy {
                    shared: is,
                    ..QosPolicy::clone(&policy)
                })
            })
        }
        Sharable::Subnetpool => {
            let pool = view.object::<SubnetPool>(id).filter(|p| p.shared != is);
            pool.map(|pool| {
                Write::put(SubnetPool {
                    shared: is,
                    ..SubnetPool::clone(&pool)
                })
            })
        }
        Sharable::AddressScope => {
            let scope = view.object::<AddressScope>(id).filter(|s| s.shared != is);
            scope.map(|scope| {
                Write::put(AddressScope {
                    shared: is,
                    ..AddressScope::clone(&scope)
                })
            })
        }
        Sharable::SecurityGroup | Sharable::AddressGroup => {
            Some(Write::Touch(grant.object_type.spec(), id))
        }
    };
    Ok(told.into_iter().collect())
}
