//! What is a trunk?
//!
//! Several ports by one device: what a workload sends by its parent port's with an 802.1Q tag is what the sub-port of that tag sends. Which
//! part a port has in a trunk stands in the port ([`Trunking`]), so that its host is told of it with the port; the trunk's rules keep the two the same.

pub(super) mod rules;

use crate::{
    api::Scene,
    resource::{
        ALL, Absent, Action, Field, How, Kind, Meta, Objects, Operations, Ops, Policy, Reply,
        Resource, Spec, field,
    },
    resources::Port,
    rules::{Act, Rule},
};
use net::Vlan;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use std::collections::HashSet;
use uuid::Uuid;

/// The owner of a sub-port.
pub const OWNER: &str = "trunk:subport";
/// The one kind of segmentation that sub-ports have.
const VLAN: &str = "vlan";
/// What stands for the segment of the sub-port's own network.
const INHERIT: &str = "inherit";

/// A sub-port, or what a request says of one: then its segment may be that of its network, or out of range.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SubPort {
    /// Which port.
    pub port_id: Uuid,
    /// How its frames are told from others.
    pub segmentation_type: String,
    /// By which number.
    pub segmentation_id: u32,
}

/// A port's part in a trunk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Trunking {
    /// Its device is the trunk's.
    Parent {
        /// The trunk.
        trunk: Uuid,
    },
    /// Its frames bear a tag there.
    SubPort {
        /// The trunk.
        trunk: Uuid,
        /// The port whose device it is.
        parent: Uuid,
        /// The tag.
        vlan: Vlan,
        /// Is the trunk up?
        up: bool,
    },
}

/// A trunk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Trunk {
    /// What every object has.
    #[serde(flatten)]
    pub meta: Meta,
    /// The parent.
    pub port_id: Uuid,
    /// Do the sub-ports forward?
    pub admin_state_up: bool,
    /// The sub-ports, in the order in which they were added.
    #[serde(default)]
    pub sub_ports: Vec<SubPort>,
}

static OPS: Ops<Trunk> = Ops::new();

const SUB_PORTS: Field = field(
    "sub_ports",
    Kind::Shape(sub_ports_shape),
    "Its sub-ports, each with its segment.",
)
.unfiltered();

const GIVEN: &[Field] = &[field(
    "sub_ports",
    Kind::Shape(any_list),
    "The sub-ports, each by its port_id.",
)
.create_only(Absent::Required)];

const fn change(name: &'static str, doc: &'static str) -> Action {
    Action {
        name,
        doc,
        rule: name,
        policy: Policy::Anyone,
        how: How::Change,
        wrapped: false,
        arguments: GIVEN,
        reply: Reply::Bare,
        success: 200,
    }
}

impl Resource for Trunk {
    const SPEC: &'static Spec = &Spec {
        singular: "trunk",
        plural: "trunks",
        path: "trunks",
        storage: "trunk",
        title: "Trunk",
        doc: "Several ports by the device of one.",
        verbs: ALL,
        policy: Policy::Anyone,
        quota: Some(("trunk", -1)),
        tags: true,
        bare: false,
        fields: &[
            field("port_id", Kind::Uuid, "The parent, whose device it is.")
                .create_only(Absent::Required),
            field("admin_state_up", Kind::Bool, "Do its sub-ports forward?")
                .writable(Absent::Bool(true)),
            field(
                "status",
                Kind::Text(16),
                "ACTIVE when the parent's host proved that all of it works.",
            )
            .computed(),
            SUB_PORTS.create_only(Absent::List),
        ],
        actions: &[
            change("add_subports", "Add sub-ports to a trunk."),
            change("remove_subports", "Take sub-ports from a trunk."),
            Action {
                how: How::Look,
                arguments: &[],
                reply: Reply::Fields(&[SUB_PORTS]),
                ..change("get_subports", "List a trunk's sub-ports.")
            },
        ],
        parts: &[],
        ops: &OPS as &dyn Operations,
    };
    const RULES: &'static [Rule<Self>] = &[rules::made_of, rules::removal, rules::follow];
    const ACTS: &'static [(&'static str, Act<Self>)] = &[
        ("add_subports", rules::add),
        ("remove_subports", rules::remove),
    ];

    fn meta(&self) -> &Meta {
        &self.meta
    }

    fn meta_mut(&mut self) -> &mut Meta {
        &mut self.meta
    }

    fn derive(&self, field: &str, scene: &Scene<'_>) -> Value {
        match field {
            "status" => json!(self.status(scene)),
            _ => Value::Null,
        }
    }
}

impl Trunk {
    /// What its parent's host proved of it: nothing while that one's device is not there.
    fn status(&self, scene: &Scene<'_>) -> &'static str {
        let port = |id| scene.snapshot.object::<Port>(id);
        let parent = port(self.port_id).is_some_and(|port| port.is_active(scene));
        if !self.admin_state_up || !parent {
            return "DOWN";
        }
        let ports = self.sub_ports.iter().filter_map(|sub| port(sub.port_id));
        let missing = ports.filter(|port| port.admin_state_up && !port.is_active(scene));
        let missing: Vec<_> = missing.collect();
        if missing.is_empty() {
            return "ACTIVE";
        }
        let complains = |id| scene.status.complaint(id).is_some();
        if missing.iter().any(|port| complains(port.meta.id)) {
            "DEGRADED"
        } else {
            "BUILD"
        }
    }

    /// What its parent shows of it.
    pub(super) fn details(&self, scene: &Scene<'_>) -> Value {
        let shown = self.sub_ports.iter().map(|sub| {
            let port = scene.snapshot.object::<Port>(sub.port_id);
            json!({
                "segmentation_id": sub.segmentation_id,
                "segmentation_type": sub.segmentation_type,
                "port_id": sub.port_id,
                "mac_address": port.map(|port| port.mac_address),
            })
        });
        json!({"trunk_id": self.meta.id, "sub_ports": shown.collect::<Vec<_>>()})
    }
}

/// A list of objects: what they hold is for whoever reads them.
fn any_list(value: &Value) -> Result<Value, String> {
    let items = value
        .as_array()
        .ok_or_else(|| format!("Invalid data format for subports: '{value}'"))?;
    match items.iter().find(|item| !item.is_object()) {
        Some(item) => Err(format!("Invalid data format for subport: '{item}'")),
        None => Ok(value.clone()),
    }
}

fn sub_ports_shape(value: &Value) -> Result<Value, String> {
    asked(value).map(|sub_ports| json!(sub_ports))
}

/// The sub-ports that a request names, each once, with their segments.
fn asked(value: &Value) -> Result<Vec<SubPort>, String> {
    let items = any_list(value)?;
    let (mut ports, mut segments) = (HashSet::new(), HashSet::new());
    let mut all = Vec::new();
    for item in items.as_array().into_iter().flatten() {
        let fields = fields(item)?;
        let port_id = port_of(fields, &mut ports)?;
        let segment = |name| fields.get(name).filter(|value| !value.is_null());
        let kind = segment("segmentation_type").and_then(Value::as_str);
        let number = segment("segmentation_id");
        let missing = || {
            format!(
                "Invalid subport details '{item}': missing segmentation information. Must specify both segmentation_id and segmentation_type"
            )
        };
        let kind = kind.ok_or_else(missing)?;
        let number = match number {
            None if kind == INHERIT => 0,
            None => return Err(missing()),
            Some(number) => whole(number).ok_or_else(|| {
                format!("Invalid subport details: segmentation_id '{number}' is not an integer")
            })?,
        };
        if kind != INHERIT && !segments.insert((kind.to_owned(), number)) {
            return Err(format!(
                "Segmentation ID '{number}' for '{kind}' is not unique"
            ));
        }
        all.push(SubPort {
            port_id,
            segmentation_type: kind.to_owned(),
            segmentation_id: number,
        });
    }
    Ok(all)
}

/// The ports that a request names, each once.
fn named(value: &Value) -> Result<Vec<Uuid>, String> {
    let items = any_list(value)?;
    let mut ports = HashSet::new();
    let items = items.as_array().into_iter().flatten();
    items
        .map(|item| port_of(fields(item)?, &mut ports))
        .collect()
}

/// A sub-port's fields; a MAC address is what [`Trunk::details`] shows besides.
fn fields(item: &Value) -> Result<&Map<String, Value>, String> {
    const KNOWN: &[&str] = &[
        "port_id",
        "segmentation_type",
        "segmentation_id",
        "mac_address",
    ];
    let fields = item
        .as_object()
        .ok_or_else(|| format!("Invalid data format for subport: '{item}'"))?;
    match fields.keys().find(|name| !KNOWN.contains(&name.as_str())) {
        Some(name) => Err(format!("Unrecognized attribute of a subport: '{name}'")),
        None => Ok(fields),
    }
}

fn port_of(fields: &Map<String, Value>, seen: &mut HashSet<Uuid>) -> Result<Uuid, String> {
    let id = fields.get("port_id").and_then(Value::as_str);
    let id = id.and_then(|id| id.parse::<Uuid>().ok());
    let id = id.ok_or("A valid port UUID must be specified")?;
    if seen.insert(id) {
        Ok(id)
    } else {
        Err(format!("Non unique UUID in subports: '{id}'"))
    }
}

fn whole(value: &Value) -> Option<u32> {
    match value {
        Value::Number(number) => number.as_u64()?.try_into().ok(),
        Value::String(text) => text.parse().ok(),
        Value::Null | Value::Bool(_) | Value::Array(_) | Value::Object(_) => None,
    }
}
