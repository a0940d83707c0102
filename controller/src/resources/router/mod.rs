//! What is a router?
//!
//! It joins networks: each of its interfaces is a port of its own on one of them, `device_owner`
//! [`OWNER`], `device_id` the router's id, made and deleted by the actions `add_router_interface` and
//! `remove_router_interface` alone. Every switch that has a port on one of its networks routes for it,
//! so `distributed` and `ha` are kept as they were asked for and change nothing. Its way out is a gateway (`gateway.rs`).
//!
//! # Invariants
//! - `iface/ROUTER/SUBNET` is held by the interface port that has an address in that subnet; there is no
//!   other list of what a router is attached to.
//! - The subnets of a router do not overlap.
//! - Every route's next hop is in a subnet of an interface or of the network that it leaves by.

mod gateway;
mod interfaces;
mod routes;

use crate::{
    api::Scene,
    refusal::Refusal,
    resource::{
        ALL, Absent, Action, Field, How, Kind, Meta, Objects, Operations, Ops, Policy, Reply,
        Resource, Spec, field,
    },
    resources::{
        Port,
        subnet::{HostRoute, routes_shape},
        zones,
    },
    rules::{Act, Caller, Change, Judged, Rule, Write, join},
    store::View,
};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use std::collections::BTreeSet;
use uuid::Uuid;

pub use gateway::Gateway;
pub use interfaces::{apart, is_interface, on_networks, router_of, subnets};

/// The owner of an interface's port.
pub const OWNER: &str = "network:router_interface";
/// The same, of a router that was asked to be distributed.
pub const DISTRIBUTED_OWNER: &str = "network:router_interface_distributed";
/// Both.
pub const OWNERS: &[&str] = &[OWNER, DISTRIBUTED_OWNER];

/// A router.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Router {
    /// What every object has.
    #[serde(flatten)]
    pub meta: Meta,
    /// Does it forward?
    pub admin_state_up: bool,
    /// Was it asked to be distributed?
    #[serde(default)]
    pub distributed: bool,
    /// Was it asked to be highly available?
    #[serde(default)]
    pub ha: bool,
    /// The zones that its gateway is to be in; empty: any.
    #[serde(
        rename = "availability_zone_hints",
        default,
        skip_serializing_if = "Vec::is_empty"
    )]
    pub zones: Vec<String>,
    /// Its routes besides those to its interfaces' subnets.
    #[serde(default)]
    pub routes: Vec<HostRoute>,
    /// Its way out of the fabric.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gateway: Option<Gateway>,
    /// Who had the last one, while there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub former: Option<gateway::Former>,
    /// The way out that the request wants; never stored.
    #[serde(default, skip_serializing)]
    pub wanted: Option<gateway::Wanted>,
}

impl Router {
    /// The owner of its interfaces' ports.
    pub const fn owner(&self) -> &'static str {
        if self.distributed {
            DISTRIBUTED_OWNER
        } else {
            OWNER
        }
    }
}

static OPS: Ops<Router> = Ops::new();

/// What an interface is added or removed by: one of the two.
const INTERFACE: &[Field] = &[
    field(
        "subnet_id",
        Kind::Uuid,
        "The subnet, by its gateway's address.",
    )
    .create_only(Absent::Computed)
    .or_null(),
    field("port_id", Kind::Uuid, "Or a port.")
        .create_only(Absent::Computed)
        .or_null(),
];

/// What is said of an interface.
const ATTACHMENT: &[Field] = &[
    field("id", Kind::Uuid, "The router."),
    field("project_id", Kind::Text(255), "The project that owns it."),
    field("port_id", Kind::Uuid, "The interface's port."),
    field("network_id", Kind::Uuid, "Where that is."),
    field("subnet_id", Kind::Uuid, "One of its subnets."),
    field("subnet_ids", Kind::Uuids, "All subnets that came or went."),
];

const ROUTES: &[Field] =
    &[field("routes", Kind::Shape(routes_shape), "The routes.").create_only(Absent::Required)];

const fn interface(name: &'static str, doc: &'static str) -> Action {
    Action {
        name,
        doc,
        rule: name,
        policy: Policy::Anyone,
        how: How::Change,
        wrapped: false,
        arguments: INTERFACE,
        reply: Reply::Fields(ATTACHMENT),
        success: 200,
    }
}

const fn extra_routes(name: &'static str, doc: &'static str) -> Action {
    Action {
        name,
        doc,
        rule: name,
        policy: Policy::Anyone,
        how: How::Change,
        wrapped: true,
        arguments: ROUTES,
        reply: Reply::Object,
        success: 200,
    }
}

impl Resource for Router {
    const SPEC: &'static Spec = &Spec {
        singular: "router",
        plural: "routers",
        path: "routers",
        storage: "router",
        title: "Router",
        doc: "What joins networks.",
        verbs: ALL,
        policy: Policy::Anyone,
        quota: Some(("router", 50)),
        tags: true,
        bare: false,
        fields: &[
            field("admin_state_up", Kind::Bool, "Does it forward?").writable(Absent::Bool(true)),
            field("status", Kind::Text(16), "ACTIVE.").computed(),
            field(
                "external_gateway_info",
                Kind::Shape(gateway::shape),
                "The way out: an external network, the addresses there, whether sources are hidden behind them, and the QoS policy of what passes by it.",
            )
            .writable(Absent::Null)
            .or_null()
            .computed()
            .unfiltered(),
            field(
                "routes",
                Kind::Shape(routes_shape),
                "Routes besides those to its interfaces' subnets.",
            )
            .update_only(Absent::List)
            .unfiltered(),
            field(
                "distributed",
                Kind::Bool,
                "Changes nothing: every router is in every switch that needs it.",
            )
            .writable(Absent::Bool(false))
            .set_by(Policy::Admin)
            .read_by(Policy::Admin),
            field(
                "ha",
                Kind::Bool,
                "Changes nothing: there is no place that a router could fail with.",
            )
            .writable(Absent::Bool(false))
            .set_by(Policy::Admin)
            .read_by(Policy::Admin),
            field(
                "availability_zone_hints",
                Kind::Words,
                "The zones that its gateway is to be in; empty: any.",
            )
            .create_only(Absent::List)
            .computed()
            .unfiltered(),
            field(
                "availability_zones",
                Kind::Words,
                "The zone of the host that has its gateway.",
            )
            .computed()
            .unfiltered(),
            field("flavor_id", Kind::Uuid, "Null: there are no flavors.")
                .create_only(Absent::Null)
                .or_null()
                .computed(),
        ],
        actions: &[
            interface(
                "add_router_interface",
                "Attach a router to a subnet or port.",
            ),
            interface(
                "remove_router_interface",
                "Detach a router from a subnet or port.",
            ),
            extra_routes("add_extraroutes", "Add routes to a router's own."),
            extra_routes("remove_extraroutes", "Take routes from a router's own."),
        ],
        parts: &[],
        ops: &OPS as &dyn Operations,
    };
    const RULES: &'static [Rule<Self>] =
        &[removal, placed, gateway::way_out, kind, routes::reachable];
    const ACTS: &'static [(&'static str, Act<Self>)] = &[
        ("add_router_interface", interfaces::add),
        ("remove_router_interface", interfaces::remove),
        ("add_extraroutes", routes::add),
        ("remove_extraroutes", routes::remove),
    ];

    fn meta(&self) -> &Meta {
        &self.meta
    }

    fn meta_mut(&mut self) -> &mut Meta {
        &mut self.meta
    }

    fn index(&self) -> Vec<(&'static str, String)> {
        let policy = self.gateway.and_then(|gateway| gateway.qos_policy_id);
        let policy = policy.map(|id| ("qos_policy_id", id.to_string()));
        policy.into_iter().collect()
    }

    fn asked_apart(field: &str) -> bool {
        field == "external_gateway_info"
    }

    fn intake(fields: &mut Map<String, Value>) -> Result<(), Refusal> {
        if let Some(asked) = fields.shift_remove("asked:external_gateway_info") {
            fields.insert("wanted".to_owned(), asked);
        }
        if let Some(Value::String(flavor)) = fields.shift_remove("flavor_id") {
            return Err(Refusal::missing("Flavor", flavor));
        }
        Ok(())
    }

    fn derive(&self, field: &str, scene: &Scene<'_>) -> Value {
        match field {
            "status" => json!("ACTIVE"),
            "external_gateway_info" => self.gateway.map_or(Value::Null, |gateway| {
                let port = scene.snapshot.object::<Port>(gateway.port_id);
                let mut shown = json!({
                    "network_id": gateway.network_id,
                    "enable_snat": gateway.enable_snat,
                    "external_fixed_ips": port.map_or_else(Vec::new, |port| port.fixed_ips.clone()),
                });
                // Shown where there is one, as in Neutron.
                if let (Some(policy), Some(fields)) = (gateway.qos_policy_id, shown.as_object_mut())
                {
                    fields.insert("qos_policy_id".to_owned(), json!(policy));
                }
                shown
            }),
            "availability_zone_hints" => json!(self.zones),
            "availability_zones" => {
                let gateway = self.gateway.map(|gateway| gateway.port_id);
                let port = gateway.and_then(|id| scene.snapshot.object::<Port>(id));
                json!(zones::of_ports(scene.snapshot, port.as_slice()))
            }
            _ => Value::Null,
        }
    }
}

pub(super) fn bad(text: impl std::fmt::Display) -> Refusal {
    Refusal::invalid("BadRequest", format!("Bad router request: {text}."))
}

/// The zones that it names are there.
fn placed(view: &View, change: &Change<'_, Router>, _: &Caller) -> Judged {
    let named = change.made().map_or(&[][..], |made| &made.zones);
    zones::known(view, named).map(|()| Vec::new())
}

/// What a router was asked to be changes only while it is down; the owners of its ports follow.
fn kind(view: &View, change: &Change<'_, Router>, _: &Caller) -> Judged {
    let (Some(before), Some(after)) = (change.before, change.after) else {
        return Ok(Vec::new());
    };
    let changed = [
        ("distributed", before.distributed != after.distributed),
        ("ha", before.ha != after.ha),
    ];
    if let Some((name, _)) = changed.iter().find(|(_, changed)| *changed)
        && before.admin_state_up
        && after.admin_state_up
    {
        return Err(bad(format_args!(
            "Cannot change the '{name}' attribute of active routers. Please set router admin_state_up to False prior to upgrade"
        )));
    }
    if before.owner() == after.owner() {
        return Ok(Vec::new());
    }
    let ports = interfaces::ports(view, after.meta.id);
    let renamed = ports.iter().map(|port| {
        let mut port = Port::clone(port);
        after.owner().clone_into(&mut port.device_owner);
        Write::put(port)
    });
    Ok(renamed.collect())
}

fn removal(view: &View, change: &Change<'_, Router>, _: &Caller) -> Judged {
    let Some(before) = change.removed() else {
        return Ok(Vec::new());
    };
    let id = before.meta.id;
    let attached = interfaces::attached(view, id);
    let ports: BTreeSet<Uuid> = attached.iter().map(|(_, port)| *port).collect();
    if ports.is_empty() {
        return Ok(Vec::new());
    }
    Err(Refusal::conflict(
        "RouterInUse",
        format!("Router {id} has ports still attached: {}", join(ports)),
    ))
}
