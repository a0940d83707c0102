//! What is a pool of subnets?
//!
//! Prefixes of one family of which subnets get their blocks, each address once. Which blocks are free is told by the keys of
//! [`blocks`]; a pool in an address scope overlaps no other pool of it.

use crate::{
    api::Scene,
    refusal::Refusal,
    resource::{
        ALL, Absent, Action, Claim, Field, How, Kind, Lookup, Meta, Objects, Operations, Ops,
        Policy, Reply, Resource, Shown, Spec, field,
    },
    resources::{
        Subnet, address_scope,
        rbac_policy::{self, Access, Sharable},
        router,
        subnet::loose_prefix,
    },
    rules::{
        Act, Acted, Caller, Change, Deed, Judged, Rule, Write,
        blocks::{self, width},
        usable,
    },
    store::{Read, View},
};
use net::Prefix;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use std::{collections::BTreeSet, sync::Arc};
use uuid::Uuid;

/// How many prefixes: each change of them, and of those of another pool of the scope, walks them.
const MOST: usize = 256;

/// A pool of subnets.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SubnetPool {
    /// What every object has.
    #[serde(flatten)]
    pub meta: Meta,
    /// The fewest blocks that hold its addresses, in order.
    pub prefixes: Vec<Prefix>,
    /// 4 or 6.
    pub ip_version: u8,
    /// The largest block that it gives.
    pub min_prefixlen: u8,
    /// The smallest.
    pub max_prefixlen: u8,
    /// What it gives when nobody says.
    pub default_prefixlen: u8,
    /// How much each project may have of it: addresses of IPv4, /64s of IPv6; 0 is no limit.
    #[serde(default)]
    pub default_quota: Option<u64>,
    /// Do subnets that ask for the default pool of the family get it?
    #[serde(default)]
    pub is_default: bool,
    /// May every project use it?
    #[serde(default)]
    pub shared: bool,
    /// The scope that it is in.
    #[serde(default)]
    pub address_scope_id: Option<Uuid>,
}

static OPS: Ops<SubnetPool> = Ops::new();

const PREFIXES: Field = field(
    "prefixes",
    Kind::Shape(prefixes_shape),
    "Blocks of one family; those that touch are joined.",
)
.unfiltered();

const ARGUMENTS: &[Field] = &[PREFIXES.create_only(Absent::Required)];

const fn change(name: &'static str, doc: &'static str) -> Action {
    Action {
        name,
        doc,
        rule: "update_subnetpool",
        policy: Policy::Anyone,
        how: How::Change,
        wrapped: false,
        arguments: ARGUMENTS,
        reply: Reply::Fields(&[PREFIXES]),
        success: 200,
    }
}

const fn length(name: &'static str, doc: &'static str) -> Field {
    // Taken as a number or as text, shown as text: so does Neutron.
    field(name, Kind::Int(0, 128), doc)
        .writable(Absent::Computed)
        .shown(Shown::Text)
        .computed()
}

impl Resource for SubnetPool {
    const SPEC: &'static Spec = &Spec {
        singular: "subnetpool",
        plural: "subnetpools",
        path: "subnetpools",
        storage: "subnetpool",
        title: "SubnetPool",
        doc: "Prefixes of which subnets get their blocks.",
        verbs: ALL,
        policy: Policy::Anyone,
        quota: Some(("subnetpool", -1)),
        tags: true,
        bare: false,
        fields: &[
            PREFIXES.writable(Absent::Required),
            field("ip_version", Kind::OneOfNumbers(&[4, 6]), "4 or 6."),
            length("min_prefixlen", "The largest block that it gives."),
            length("max_prefixlen", "The smallest block that it gives."),
            length("default_prefixlen", "What it gives when nobody says."),
            field(
                "default_quota",
                Kind::Int(0, i64::MAX),
                "How much each project may have of it: addresses of IPv4, /64s of IPv6.",
            )
            .writable(Absent::Null)
            .or_null(),
            field(
                "is_default",
                Kind::Bool,
                "Do subnets that ask for the default pool of the family get it?",
            )
            .writable(Absent::Bool(false))
            .set_by(Policy::Admin),
            field(
                "shared",
                Kind::Bool,
                "May every project use it, or the caller's by a grant?",
            )
            .create_only(Absent::Bool(false))
            .set_by(Policy::Admin)
            .computed(),
            field("address_scope_id", Kind::Uuid, "The scope that it is in.")
                .writable(Absent::Null)
                .or_null(),
        ],
        actions: &[
            change("add_prefixes", "Add prefixes to a pool."),
            change("remove_prefixes", "Take prefixes from a pool."),
        ],
        parts: &[],
        ops: &OPS as &dyn Operations,
    };
    const RULES: &'static [Rule<Self>] =
        &[bounds, default, scope, routers, space, sharing, removal];
    const ACTS: &'static [(&'static str, Act<Self>)] =
        &[("add_prefixes", add), ("remove_prefixes", remove)];

    fn meta(&self) -> &Meta {
        &self.meta
    }

    fn meta_mut(&mut self) -> &mut Meta {
        &mut self.meta
    }

    fn shared(&self, _: &dyn Lookup) -> bool {
        self.shared
    }

    fn shared_with(&self, read: &dyn Lookup, project: &str) -> bool {
        self.shared || rbac_policy::may_use(read, self.meta.id, project)
    }

    fn granted(read: &dyn Lookup, project: &str) -> Vec<Uuid> {
        rbac_policy::granted::<Self>(read, project)
    }

    fn index(&self) -> Vec<(&'static str, String)> {
        let scope = self.address_scope_id.iter();
        scope
            .map(|id| ("address_scope_id", id.to_string()))
            .collect()
    }

    fn asked_apart(field: &str) -> bool {
        field == "prefixes"
    }

    fn intake(fields: &mut Map<String, Value>) -> Result<(), Refusal> {
        let blocks = |value: &Value| -> Vec<Prefix> {
            serde_json::from_value(value.clone()).unwrap_or_default()
        };
        let asked = fields.shift_remove("asked:prefixes");
        let had = fields.get("prefixes").map(blocks);
        let wanted = match (&asked, &had) {
            (Some(asked), _) => blocks(asked),
            (None, had) => had.clone().unwrap_or_default(),
        };
        let family = wanted.first().map(|prefix| prefix.is_ipv4());
        let Some(v4) = family else {
            return Err(Refusal::invalid(
                "EmptySubnetPoolPrefixList",
                "Empty subnet pool prefix list.",
            ));
        };
        if wanted.iter().any(|prefix| prefix.is_ipv4() != v4) {
            return Err(Refusal::invalid(
                "PrefixVersionMismatch",
                "Cannot mix IPv4 and IPv6 prefixes in a subnet pool.",
            ));
        }
        if let Some(had) = had
            && asked.is_some()
            && !blocks::without(&had, &wanted).is_empty()
        {
            return Err(illegal_prefixes(
                "Existing prefixes must be a subset of the new prefixes",
            ));
        }
        fields.insert("prefixes".to_owned(), json!(blocks::merged(wanted)));
        let mut defaults = |name: &str, value: Value| fields.entry(name).or_insert(value).clone();
        defaults("ip_version", json!(if v4 { 4 } else { 6 }));
        defaults("max_prefixlen", json!(width(v4)));
        let least = defaults("min_prefixlen", json!(if v4 { 8 } else { 64 }));
        defaults("default_prefixlen", least);
        Ok(())
    }

    fn derive(&self, field: &str, scene: &Scene<'_>) -> Value {
        match field {
            "shared" => json!(self.shared_with(scene.snapshot, &scene.caller.project_id)),
            "min_prefixlen" => json!(self.min_prefixlen.to_string()),
            "max_prefixlen" => json!(self.max_prefixlen.to_string()),
            "default_prefixlen" => json!(self.default_prefixlen.to_string()),
            _ => Value::Null,
        }
    }
}

impl SubnetPool {
    /// The length of the blocks that [`SubnetPool::default_quota`] counts.
    pub const fn unit(&self) -> u8 {
        if self.ip_version == 4 { 32 } else { 64 }
    }

    /// Whose default it would be.
    fn default_key(&self) -> String {
        default_key(self.ip_version)
    }
}

fn default_key(ip_version: u8) -> String {
    format!("unique/subnetpool_default/{ip_version}")
}

/// The pool of this id, if the caller may use it.
///
/// # Errors
/// When there is none, or none that the caller sees.
pub fn visible(view: &View, id: Uuid, caller: &Caller) -> Result<Arc<SubnetPool>, Refusal> {
    view.object::<SubnetPool>(id)
        .filter(|pool| usable(view, &**pool, caller))
        .ok_or_else(|| Refusal::missing("SubnetPool", id))
}

/// The default pool of a family, if there is one that the caller may use.
pub fn default_of(view: &View, ip_version: u8, caller: &Caller) -> Option<Arc<SubnetPool>> {
    let claim = view.get::<Claim>(&default_key(ip_version))?;
    visible(view, claim.holder, caller).ok()
}

fn prefixes_shape(value: &Value) -> Result<Value, String> {
    let items = value
        .as_array()
        .ok_or_else(|| format!("'{value}' is not a list"))?;
    if items.len() > MOST {
        return Err(format!("more than {MOST} prefixes"));
    }
    let mut prefixes = BTreeSet::new();
    for item in items {
        let text = item.as_str().filter(|text| text.contains('/'));
        let prefix = text.and_then(loose_prefix);
        let prefix = prefix.ok_or_else(|| format!("'{item}' isn't a recognized IP subnet cidr"))?;
        if !prefixes.insert(prefix) {
            return Err(format!("Duplicate items in the list: '{prefix}'"));
        }
    }
    Ok(json!(prefixes))
}

fn illegal_prefixes(why: &str) -> Refusal {
    Refusal::invalid(
        "IllegalSubnetPoolPrefixUpdate",
        format!("Illegal update to prefixes: {why}."),
    )
}

fn bounds(_: &View, change: &Change<'_, SubnetPool>, _: &Caller) -> Judged {
    let Some(after) = change.after else {
        return Ok(Vec::new());
    };
    if after.prefixes.len() > MOST {
        return Err(Refusal::input(format_args!(
            "a subnet pool has at most {MOST} prefixes"
        )));
    }
    let widest = width(after.ip_version == 4);
    let least = ("min_prefixlen", after.min_prefixlen);
    let most = ("max_prefixlen", after.max_prefixlen);
    let default = ("default_prefixlen", after.default_prefixlen);
    // What must not be larger comes first; what is named first in the message is what is wrong.
    let pairs = [
        (least, most, false),
        (most, ("ip_version_max", widest), false),
        (least, default, true),
        (default, most, false),
    ];
    for ((small, less), (large, more), swap) in pairs {
        if less <= more {
            continue;
        }
        let (wrong, base) = if swap {
            ((large, more), (small, less))
        } else {
            ((small, less), (large, more))
        };
        return Err(Refusal::invalid(
            "IllegalSubnetPoolPrefixBounds",
            format!(
                "Illegal prefix bounds: {}={}, {}={}.",
                wrong.0, wrong.1, base.0, base.1
            ),
        ));
    }
    Ok(Vec::new())
}

/// One for each family.
fn default(view: &View, change: &Change<'_, SubnetPool>, _: &Caller) -> Judged {
    let held = change.before.filter(|before| before.is_default);
    let wanted = change.after.filter(|after| after.is_default);
    match (held, wanted) {
        (None, Some(after)) => {
            if view.entry(&after.default_key()).is_some() {
                return Err(Refusal::input(
                    "A default subnetpool for this IP family has already been set. Only one default may exist per IP family",
                ));
            }
            Ok(vec![Write::Claim(after.default_key(), after.meta.id)])
        }
        (Some(before), None) => Ok(vec![Write::Release(before.default_key())]),
        (Some(_), Some(_)) | (None, None) => Ok(Vec::new()),
    }
}

/// A pool is in a scope of its family that the caller may use, and overlaps no other pool of it. A network's subnets stay in one scope.
fn scope(view: &View, change: &Change<'_, SubnetPool>, caller: &Caller) -> Judged {
    let was = change.before.and_then(|before| before.address_scope_id);
    let Some(after) = change.after else {
        return Ok(was
            .map(|id| address_scope::guard(view, id))
            .into_iter()
            .collect());
    };
    let id = after.meta.id;
    let moves = change.before.is_some() && was != after.address_scope_id;
    let only_tags = change
        .given
        .is_some_and(|given| given.iter().all(|name| name == "tags"));
    if let Some(was) = was.filter(|_| change.is_asked() && !only_tags)
        && let Some(scope) = view.object::<crate::resources::AddressScope>(was)
        && !caller.owns(&scope.meta.project_id)
    {
        return Err(Refusal::invalid(
            "IllegalSubnetPoolUpdate",
            format!(
                "Illegal subnetpool update : subnetpool {id} cannot be updated when associated with shared address scope {was}."
            ),
        ));
    }
    if moves {
        affinity(view, after)?;
    }
    let widens = change.before.map(|before| &before.prefixes) != Some(&after.prefixes);
    let mut writes = Vec::new();
    if moves || widens {
        let scopes = [was, after.address_scope_id].into_iter().flatten();
        let scopes: BTreeSet<Uuid> = scopes.collect();
        writes.extend(scopes.into_iter().map(|id| address_scope::guard(view, id)));
    }
    let Some(into) = after.address_scope_id.filter(|_| moves || widens) else {
        return Ok(writes);
    };
    let scope = if change.is_asked() {
        address_scope::visible(view, into, caller)?
    } else {
        address_scope::visible(view, into, &Caller::system())?
    };
    if scope.ip_version != after.ip_version {
        return Err(Refusal::invalid(
            "IllegalSubnetPoolIpVersionAssociationToAddressScope",
            format!(
                "Illegal subnetpool association: subnetpool {id} cannot associate with address scope {into} because subnetpool ip_version is not {}.",
                scope.ip_version
            ),
        ));
    }
    let others = view.related::<SubnetPool>("address_scope_id", into);
    let mut others = others.iter().filter(|other| other.meta.id != id);
    if others.any(|other| blocks::meet(&other.prefixes, &after.prefixes)) {
        return Err(Refusal::conflict(
            "AddressScopePrefixConflict",
            "Failed to associate address scope: subnetpools within an address scope must have unique prefixes.",
        ));
    }
    Ok(writes)
}

/// No subnet of another pool is on a network with one of this pool and family.
fn affinity(view: &View, pool: &SubnetPool) -> Result<(), Refusal> {
    let subnets = view.related::<Subnet>("subnetpool_id", pool.meta.id);
    let networks: BTreeSet<Uuid> = subnets.iter().map(|subnet| subnet.network_id).collect();
    let beside = networks
        .into_iter()
        .flat_map(|network| view.related::<Subnet>("network_id", network))
        .any(|subnet| {
            subnet.ip_version == pool.ip_version && subnet.subnetpool_id != Some(pool.meta.id)
        });
    if beside {
        return Err(scope_affinity());
    }
    Ok(())
}

/// Subnets of a network in two scopes.
pub fn scope_affinity() -> Refusal {
    Refusal::invalid(
        "NetworkAddressScopeAffinityError",
        "Subnets of the same address family hosted on the same network must all be in the same address scope.",
    )
}

/// Routers join subnets of one scope, also after a pool moved to another.
fn routers(view: &View, change: &Change<'_, SubnetPool>, _: &Caller) -> Judged {
    let (Some(before), Some(after)) = (change.before, change.after) else {
        return Ok(Vec::new());
    };
    if before.address_scope_id == after.address_scope_id {
        return Ok(Vec::new());
    }
    let subnets = view.related::<Subnet>("subnetpool_id", after.meta.id);
    let networks: BTreeSet<Uuid> = subnets.iter().map(|subnet| subnet.network_id).collect();
    for router in router::on_networks(view, networks) {
        let joined = router::subnets(view, router);
        let beside = joined.iter().find(|subnet| {
            subnet.ip_version == after.ip_version
                && subnet.subnetpool_id != Some(after.meta.id)
                && address_scope::of_subnet(view, subnet) != after.address_scope_id
        });
        if let Some(beside) = beside {
            return Err(Refusal::conflict(
                "AddressScopeInUse",
                format!(
                    "Router {router} joins subnets of subnet pool {} with subnet {}, which would be of another address scope.",
                    after.meta.id, beside.meta.id
                ),
            ));
        }
    }
    Ok(Vec::new())
}

/// What is free follows the prefixes; what a subnet has is not taken away.
fn space(view: &View, change: &Change<'_, SubnetPool>, _: &Caller) -> Judged {
    let Some(after) = change.after else {
        let id = change.before.map(|before| before.meta.id);
        return Ok(id.map(|id| blocks::set(view, id, &[])).unwrap_or_default());
    };
    if change
        .before
        .is_some_and(|before| before.prefixes == after.prefixes)
    {
        return Ok(Vec::new());
    }
    let id = after.meta.id;
    let subnets = view.related::<Subnet>("subnetpool_id", id);
    let taken: Vec<Prefix> = subnets.iter().map(|subnet| subnet.cidr).collect();
    if !blocks::without(&taken, &after.prefixes).is_empty() {
        return Err(illegal_prefixes(
            "One or more of the prefixes to be removed is in use by a subnet",
        ));
    }
    let free = blocks::without(&after.prefixes, &taken);
    Ok(blocks::set(view, id, &free))
}

#[expect(clippy::unnecessary_wraps, reason = "a rule's signature")]
fn sharing(view: &View, change: &Change<'_, SubnetPool>, _: &Caller) -> Judged {
    let Some(after) = change.after else {
        return Ok(Vec::new());
    };
    let object = (&after.meta, Sharable::Subnetpool, Access::AccessAsShared);
    let dice = &change.moment.dice;
    Ok(rbac_policy::with_everybody(
        view,
        object,
        after.shared,
        dice,
    ))
}

fn removal(view: &View, change: &Change<'_, SubnetPool>, _: &Caller) -> Judged {
    let Some(before) = change.removed() else {
        return Ok(Vec::new());
    };
    let id = before.meta.id;
    if view.any_related::<Subnet>("subnetpool_id", id) {
        return Err(Refusal::invalid(
            "SubnetPoolDeleteError",
            "Unable to delete subnet pool: Subnet pool has existing allocations.",
        ));
    }
    Ok(rbac_policy::remove_all(view, id).collect())
}

fn with(deed: &Deed<'_, SubnetPool>, prefixes: Vec<Prefix>) -> Acted<SubnetPool> {
    let mut object = deed.object.clone();
    object.prefixes = prefixes;
    let mut reply = Map::new();
    reply.insert("prefixes".to_owned(), json!(object.prefixes));
    Acted {
        object,
        writes: Vec::new(),
        reply,
    }
}

fn given(deed: &Deed<'_, SubnetPool>) -> Result<Vec<Prefix>, Refusal> {
    let prefixes = deed.arguments.get("prefixes").cloned().unwrap_or_default();
    let given: Vec<Prefix> =
        serde_json::from_value(prefixes).map_err(|error| Refusal::attribute("prefixes", error))?;
    let v4 = deed.object.ip_version == 4;
    if given.iter().any(|prefix| prefix.is_ipv4() != v4) {
        return Err(Refusal::invalid(
            "PrefixVersionMismatch",
            "Cannot mix IPv4 and IPv6 prefixes in a subnet pool.",
        ));
    }
    Ok(given)
}

fn add(_: &View, deed: &Deed<'_, SubnetPool>, _: &Caller) -> Result<Acted<SubnetPool>, Refusal> {
    let had = deed.object.prefixes.iter().copied();
    let prefixes = blocks::merged(had.chain(given(deed)?));
    Ok(with(deed, prefixes))
}

fn remove(_: &View, deed: &Deed<'_, SubnetPool>, _: &Caller) -> Result<Acted<SubnetPool>, Refusal> {
    let prefixes = blocks::without(&deed.object.prefixes, &given(deed)?);
    if prefixes.is_empty() {
        return Err(Refusal::invalid(
            "EmptySubnetPoolPrefixList",
            "Empty subnet pool prefix list.",
        ));
    }
    Ok(with(deed, prefixes))
}
