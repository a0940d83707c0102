//! What is an address group?
//!
//! Addresses by a name, for rules of security groups: whoever changes it changes what all of them mean.

use crate::{
    api::Scene,
    refusal::Refusal,
    resource::{
        ALL, Absent, Action, Field, How, Kind, Lookup, Meta, Objects, Operations, Ops, Policy,
        Reply, Resource, Spec, field,
    },
    resources::{SecurityGroupRule, rbac_policy, subnet::loose_prefix},
    rules::{Act, Acted, Caller, Change, Deed, Judged, Rule, join},
    store::View,
};
use net::Prefix;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use std::collections::BTreeSet;
use uuid::Uuid;

/// How many addresses: each host that has a rule of the group holds them all.
const MOST: usize = 4096;

/// An address group.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AddressGroup {
    /// What every object has.
    #[serde(flatten)]
    pub meta: Meta,
    /// Its addresses, of both families.
    #[serde(default)]
    pub addresses: BTreeSet<Prefix>,
}

static OPS: Ops<AddressGroup> = Ops::new();

const ADDRESSES: Field = field(
    "addresses",
    Kind::Shape(addresses_shape),
    "Addresses and blocks of addresses.",
)
.unfiltered();

const ARGUMENTS: &[Field] = &[ADDRESSES.create_only(Absent::Required)];

const fn change(name: &'static str, doc: &'static str) -> Action {
    Action {
        name,
        doc,
        rule: "update_address_group",
        policy: Policy::Anyone,
        how: How::Change,
        wrapped: false,
        arguments: ARGUMENTS,
        reply: Reply::Object,
        success: 200,
    }
}

impl Resource for AddressGroup {
    const SPEC: &'static Spec = &Spec {
        singular: "address_group",
        plural: "address_groups",
        path: "address-groups",
        storage: "address_group",
        title: "AddressGroup",
        doc: "Addresses that rules refer to.",
        verbs: ALL,
        policy: Policy::Anyone,
        quota: Some(("address_group", 100)),
        tags: false,
        bare: false,
        fields: &[
            ADDRESSES.create_only(Absent::List),
            field(
                "shared",
                Kind::Bool,
                "May the caller's project use it by a grant?",
            )
            .computed(),
        ],
        actions: &[
            change("add_addresses", "Add addresses to a group."),
            change("remove_addresses", "Take addresses from a group."),
        ],
        parts: &[],
        ops: &OPS as &dyn Operations,
    };
    const RULES: &'static [Rule<Self>] = &[size, removal];
    const ACTS: &'static [(&'static str, Act<Self>)] =
        &[("add_addresses", add), ("remove_addresses", remove)];

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
            _ => Value::Null,
        }
    }
}

fn addresses_shape(value: &Value) -> Result<Value, String> {
    let items = value
        .as_array()
        .ok_or_else(|| format!("'{value}' is not a list"))?;
    if items.len() > MOST {
        return Err(format!("more than {MOST} addresses"));
    }
    let mut addresses = BTreeSet::new();
    for item in items {
        let prefix = item.as_str().and_then(loose_prefix);
        addresses.insert(prefix.ok_or_else(|| format!("'{item}' is not a valid CIDR"))?);
    }
    Ok(json!(addresses))
}

fn size(_: &View, change: &Change<'_, AddressGroup>, _: &Caller) -> Judged {
    let many = change.after.filter(|after| after.addresses.len() > MOST);
    match many {
        Some(after) => Err(Refusal::input(format_args!(
            "address group {} would have more than {MOST} addresses",
            after.meta.id
        ))),
        None => Ok(Vec::new()),
    }
}

fn removal(view: &View, change: &Change<'_, AddressGroup>, _: &Caller) -> Judged {
    let Some(before) = change.removed() else {
        return Ok(Vec::new());
    };
    let id = before.meta.id;
    if view.any_related::<SecurityGroupRule>("remote_address_group_id", id) {
        return Err(Refusal::conflict(
            "AddressGroupInUse",
            format!("Address group {id} is in use on one or more security group rules."),
        ));
    }
    Ok(rbac_policy::remove_all(view, id).collect())
}

fn given(deed: &Deed<'_, AddressGroup>) -> Result<BTreeSet<Prefix>, Refusal> {
    let addresses = deed.arguments.get("addresses").cloned().unwrap_or_default();
    serde_json::from_value(addresses).map_err(|error| Refusal::attribute("addresses", error))
}

fn with(deed: &Deed<'_, AddressGroup>, addresses: BTreeSet<Prefix>) -> Acted<AddressGroup> {
    let mut object = deed.object.clone();
    object.addresses = addresses;
    Acted {
        object,
        writes: Vec::new(),
        reply: Map::new(),
    }
}

fn add(
    _: &View,
    deed: &Deed<'_, AddressGroup>,
    _: &Caller,
) -> Result<Acted<AddressGroup>, Refusal> {
    let (had, new) = (&deed.object.addresses, given(deed)?);
    let known: Vec<&Prefix> = new.intersection(had).collect();
    if !known.is_empty() {
        return Err(Refusal::invalid(
            "AddressesAlreadyExist",
            format!(
                "Addresses {} already exist in the address group {}.",
                join(known),
                deed.object.meta.id
            ),
        ));
    }
    Ok(with(deed, had.union(&new).copied().collect()))
}

fn remove(
    _: &View,
    deed: &Deed<'_, AddressGroup>,
    _: &Caller,
) -> Result<Acted<AddressGroup>, Refusal> {
    let (had, gone) = (&deed.object.addresses, given(deed)?);
    let unknown: Vec<&Prefix> = gone.difference(had).collect();
    if !unknown.is_empty() {
        return Err(Refusal::no_such(
            "AddressesNotFound",
            format!(
                "Addresses {} not found in the address group {}.",
                join(unknown),
                deed.object.meta.id
            ),
        ));
    }
    Ok(with(deed, had.difference(&gone).copied().collect()))
}
