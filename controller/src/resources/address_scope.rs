//! What is an address scope?
//!
//! Pools of subnets whose addresses mean the same wherever they are: no two of its pools overlap, and a router joins subnets of one
//! scope only.

use crate::{
    api::Scene,
    refusal::Refusal,
    resource::{
        ALL, Absent, Kind, Lookup, Meta, Objects, Operations, Ops, Policy, Resource, Spec, field,
    },
    resources::{
        Subnet, SubnetPool,
        rbac_policy::{self, Access, Sharable},
    },
    rules::{Caller, Change, Judged, Rule, Write, usable},
    store::{Read, View},
};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::sync::Arc;
use uuid::Uuid;

/// An address scope.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AddressScope {
    /// What every object has.
    #[serde(flatten)]
    pub meta: Meta,
    /// 4 or 6.
    pub ip_version: u8,
    /// May every project put pools in it?
    #[serde(default)]
    pub shared: bool,
}

static OPS: Ops<AddressScope> = Ops::new();

impl Resource for AddressScope {
    const SPEC: &'static Spec = &Spec {
        singular: "address_scope",
        plural: "address_scopes",
        path: "address-scopes",
        storage: "address_scope",
        title: "AddressScope",
        doc: "Pools of subnets that do not overlap.",
        verbs: ALL,
        policy: Policy::Anyone,
        quota: None,
        tags: false,
        bare: true,
        fields: &[
            field("id", Kind::Uuid, "Identity."),
            field("name", Kind::Text(255), "Human label.").writable(Absent::Text("")),
            field(
                "tenant_id",
                Kind::Text(255),
                "The project, by its old name.",
            )
            .computed(),
            field("project_id", Kind::Text(255), "The project that owns it.")
                .create_only(Absent::Computed),
            field("ip_version", Kind::OneOfNumbers(&[4, 6]), "4 or 6.")
                .create_only(Absent::Required),
            field(
                "shared",
                Kind::Bool,
                "May every project put pools in it, or the caller's by a grant?",
            )
            .writable(Absent::Bool(false))
            .set_by(Policy::Admin)
            .computed(),
        ],
        actions: &[],
        parts: &[],
        ops: &OPS as &dyn Operations,
    };
    const RULES: &'static [Rule<Self>] = &[sharing, removal];

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

    fn derive(&self, field: &str, scene: &Scene<'_>) -> Value {
        match field {
            "shared" => json!(self.shared_with(scene.snapshot, &scene.caller.project_id)),
            _ => Value::Null,
        }
    }
}

/// The scope of this id, if the caller may use it.
///
/// # Errors
/// When there is none, or none that the caller sees.
pub fn visible(view: &View, id: Uuid, caller: &Caller) -> Result<Arc<AddressScope>, Refusal> {
    view.object::<AddressScope>(id)
        .filter(|scope| usable(view, &**scope, caller))
        .ok_or_else(|| Refusal::missing("AddressScope", id))
}

/// The scope of a subnet: that of its pool.
pub fn of_subnet(read: &dyn Lookup, subnet: &Subnet) -> Option<Uuid> {
    let pool = read.object::<SubnetPool>(subnet.subnetpool_id?)?;
    pool.address_scope_id
}

/// The key that each change of a scope's pools writes, so that two at a time are seen to meet.
fn guard_key(scope: Uuid) -> String {
    format!("guard/{scope}")
}

/// Another change of a scope's pools.
pub fn guard(view: &View, scope: Uuid) -> Write {
    let key = guard_key(scope);
    let changes = view.get::<u64>(&key).map_or(0, |changes| *changes);
    Write::Record(key, Arc::new(changes.wrapping_add(1)))
}

fn sharing(view: &View, change: &Change<'_, AddressScope>, _: &Caller) -> Judged {
    let Some(after) = change.after else {
        return Ok(Vec::new());
    };
    let lost = change.before.is_some_and(|before| before.shared) && !after.shared;
    if lost && change.is_asked() {
        return Err(Refusal::invalid(
            "AddressScopeUpdateError",
            format!(
                "Unable to update address scope {} : Shared address scope can't be unshared.",
                after.meta.id
            ),
        ));
    }
    let object = (&after.meta, Sharable::AddressScope, Access::AccessAsShared);
    let dice = &change.moment.dice;
    Ok(rbac_policy::with_everybody(
        view,
        object,
        after.shared,
        dice,
    ))
}

fn removal(view: &View, change: &Change<'_, AddressScope>, _: &Caller) -> Judged {
    let Some(before) = change.removed() else {
        return Ok(Vec::new());
    };
    let id = before.meta.id;
    if view.any_related::<SubnetPool>("address_scope_id", id) {
        return Err(Refusal::conflict(
            "AddressScopeInUse",
            format!(
                "Unable to complete operation on address scope {id}. There are one or more subnet pools in use on the address scope."
            ),
        ));
    }
    let mut writes = vec![Write::Release(guard_key(id))];
    writes.extend(rbac_policy::remove_all(view, id));
    Ok(writes)
}
