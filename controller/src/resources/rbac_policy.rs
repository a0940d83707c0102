//! Who may use what is another's?
//!
//! A grant: an object of one project may be seen and used by another, or by all (`*`). Whoever may use a network puts ports on it; a group, names it on
//! ports and in rules; a QoS policy, gives it to networks and ports; a pool of
//! subnets, takes blocks of it; an address scope, puts pools in it. The `shared` of all but groups is the grant to all, and changes with it.
//! Of a network the way outside can be granted alone: for routers' gateways and floating IPs.

use crate::{
    refusal::Refusal,
    resource::{
        ALL, Absent, Kind, Lookup, Meta, Object, Objects, Operations, Ops, Policy, Resource, Spec,
        field, index_prefix,
    },
    resources::{
        AddressGroup, AddressScope, FloatingIp, Network, Port, QosPolicy, Router, SecurityGroup,
        SecurityGroupRule, Subnet, SubnetPool, port::GATEWAY_OWNER,
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
    /// To leave the fabric through a network.
    AccessAsExternal,
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
                Kind::OneOf(&["access_as_shared", "access_as_external"]),
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
    const RULES: &'static [Rule<Self>] = &[target, object, way_out, scope, once, loss, follow];

    fn meta(&self) -> &Meta {
        &self.meta
    }

    fn meta_mut(&mut self) -> &mut Meta {
        &mut self.meta
    }

    fn index(&self) -> Vec<(&'static str, String)> {
        let (grant, target) = self.action.indexes();
        let (id, to) = (self.object_id, &self.target_tenant);
        vec![
            ("object_id", id.to_string()),
            (grant, format!("{id}:{to}")),
            (target, format!("{}:{to}", self.object_type.spec().storage)),
        ]
    }
}

impl Access {
    /// By which a grant is found: of an object to a target, and of a kind to a target.
    const fn indexes(self) -> (&'static str, &'static str) {
        match self {
            Self::AccessAsShared => ("grant", "target"),
            Self::AccessAsExternal => ("way_out", "way_out_of"),
        }
    }
}

/// Is the object granted to exactly this target, to be used?
pub fn is_granted(read: &dyn Lookup, object: Uuid, target: &str) -> bool {
    has(read, Access::AccessAsShared, object, target)
}

fn has(read: &dyn Lookup, access: Access, object: Uuid, target: &str) -> bool {
    let (storage, (grant, _)) = (RbacPolicy::SPEC.storage, access.indexes());
    let prefix = index_prefix(storage, grant, format_args!("{object}:{target}"));
    !read.ids(&prefix).is_empty()
}

/// May a project use the object by a grant, its own or everybody's?
pub fn may_use(read: &dyn Lookup, object: Uuid, project: &str) -> bool {
    [project, EVERYBODY]
        .iter()
        .any(|target| is_granted(read, object, target))
}

/// May a project leave the fabric through the network by a grant, its own or everybody's?
pub fn may_leave_by(read: &dyn Lookup, network: Uuid, project: &str) -> bool {
    [project, EVERYBODY]
        .iter()
        .any(|target| has(read, Access::AccessAsExternal, network, target))
}

fn targets_of(read: &dyn Lookup, access: Access, storage: &str, project: &str) -> Vec<Uuid> {
    let value = format!("{storage}:{project}");
    let grants = read.related::<RbacPolicy>(access.indexes().1, value);
    grants.iter().map(|grant| grant.object_id).collect()
}

/// The objects of a kind that are granted to a project by name.
pub fn granted<T: Resource>(read: &dyn Lookup, project: &str) -> Vec<Uuid> {
    targets_of(read, Access::AccessAsShared, T::SPEC.storage, project)
}

/// The networks that a project may leave the fabric through, granted by name.
pub fn ways_out(read: &dyn Lookup, project: &str) -> Vec<Uuid> {
    let storage = Network::SPEC.storage;
    targets_of(read, Access::AccessAsExternal, storage, project)
}

/// The grants of an object go with it.
pub fn remove_all(view: &View, object: Uuid) -> impl Iterator<Item = Write> + use<> {
    let grants = view.related::<RbacPolicy>("object_id", object);
    grants
        .into_iter()
        .map(|grant| Write::Remove(RbacPolicy::SPEC, grant.meta.id))
}

/// The grants of the way out through a network go when there is none.
pub fn remove_ways_out(view: &View, network: Uuid) -> impl Iterator<Item = Write> + use<> {
    let grants = view.related::<RbacPolicy>("object_id", network);
    let of_way = |grant: &Arc<RbacPolicy>| grant.action == Access::AccessAsExternal;
    let ways = grants.into_iter().filter(of_way);
    ways.map(|grant| Write::Remove(RbacPolicy::SPEC, grant.meta.id))
}

/// Makes the grant of an object to everybody what its `shared` says.
pub fn with_everybody(
    view: &View,
    (object, kind, action): (&Meta, Sharable, Access),
    shared: bool,
    dice: &Dice,
) -> Vec<Write> {
    let grants = view.related::<RbacPolicy>("object_id", object.id);
    let mut open = grants
        .iter()
        .filter(|grant| grant.target_tenant == EVERYBODY && grant.action == action)
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
        action,
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
    let rule = RbacPolicy::SPEC.rule(change.verb);
    let open = caller.admin || caller.is_told(&format!("{rule}:target_tenant"));
    if after.target_tenant == EVERYBODY && !open {
        return Err(Refusal::denied(format!(
            "(rule:{rule} and rule:{rule}:target_tenant)"
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

/// The way out is a network's, and of one that leads nowhere an admin's to open.
fn way_out(view: &View, change: &Change<'_, RbacPolicy>, caller: &Caller) -> Judged {
    let asked = change.made().filter(|_| change.is_asked());
    let Some(after) = asked.filter(|grant| grant.action == Access::AccessAsExternal) else {
        return Ok(Vec::new());
    };
    if after.object_type != Sharable::Network {
        return Err(Refusal::invalid(
            "InvalidActionForType",
            format!(
                "Invalid action 'access_as_external' for object type '{}'. Valid actions: access_as_shared.",
                after.object_type.spec().singular
            ),
        ));
    }
    let network = view.object::<Network>(after.object_id);
    if !caller.admin && network.is_some_and(|network| !network.external) {
        return Err(Refusal::denied("rule:update_network:router:external"));
    }
    Ok(Vec::new())
}

fn once(view: &View, change: &Change<'_, RbacPolicy>, _: &Caller) -> Judged {
    let Some(after) = change.after else {
        return Ok(Vec::new());
    };
    let value = format!("{}:{}", after.object_id, after.target_tenant);
    let same = view.related::<RbacPolicy>(after.action.indexes().0, value);
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
        // Who may use a network may leave by it.
        .filter(|grant| [before.action, Access::AccessAsShared].contains(&grant.action))
        .map(|grant| to(grant))
        .collect();
    // Given to another project it is taken from this one first, as Neutron judges it.
    left.extend(change.after.map(to).filter(|to| to == EVERYBODY));
    left.insert(object.meta().project_id.clone());
    if left.contains(EVERYBODY) {
        return Ok(Vec::new());
    }
    if before.action == Access::AccessAsExternal && change.is_asked() {
        unless_default(view, before)?;
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
    Err(in_use(before, join(losers.into_iter().take(10))))
}

fn in_use(grant: &RbacPolicy, details: impl std::fmt::Display) -> Refusal {
    Refusal::conflict(
        "RbacPolicyInUse",
        format!(
            "RBAC policy on object {} cannot be removed because other objects depend on it.\nDetails: {details}",
            grant.object_id,
        ),
    )
}

/// The default way outside is everybody's.
fn unless_default(view: &View, grant: &RbacPolicy) -> Result<(), Refusal> {
    let network = view.object::<Network>(grant.object_id);
    let default = network.is_some_and(|network| network.is_default);
    if default && grant.target_tenant == EVERYBODY {
        return Err(in_use(grant, "the default external network is everybody's"));
    }
    Ok(())
}

/// Whose routers and floating IPs are on an external network.
fn leavers(view: &View, network: Uuid) -> Vec<(String, String)> {
    let ports = view.related::<Port>("network_id", network);
    let gateways = ports.iter().filter(|p| p.device_owner == GATEWAY_OWNER);
    let routers = gateways.filter_map(|port| {
        let router = view.object::<Router>(port.device_id.parse().ok()?)?;
        let (of, id) = (&router.meta.project_id, router.meta.id);
        Some((of.clone(), format!("router {id}")))
    });
    routers.collect()
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
    if grant.action == Access::AccessAsExternal {
        return leavers(view, id);
    }
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
            all.extend(told::<FloatingIp>(view, "qos_policy_id", id));
            all.extend(told::<Router>(view, "qos_policy_id", id));
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
    if let Some(grant) = change.subject()
        && grant.action == Access::AccessAsExternal
    {
        // A network with a way out that somebody may take is one that leads outside.
        let network = change.after.and_then(|grant| view.object(grant.object_id));
        let network = network.filter(|network: &Arc<Network>| !network.external);
        let led_out = network.map(|network| {
            Write::put(Network {
                external: true,
                ..Network::clone(&network)
            })
        });
        return Ok(led_out.into_iter().collect());
    }
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
