//! What is a load balancer made of?
//!
//! Octavia's objects: a load balancer holds a virtual address, its listeners the ports of it, and a pool says who serves a
//! listener. Each listener carries a [`Plan`], all that a switch must know of it: whatever changes a load balancer or a pool has its listeners
//! judged again in the same transaction, so that the compiler reads one object and joins none. What a proxy must know of all listeners of HTTP
//! is kept with their load balancer, and made in the same way.
//!
//! # Invariants
//! - A listener's plan follows from what is stored: from its load balancer, the port of the address, its pool, and itself.
//! - What a switch cannot do is refused, and never stored.
//! - What a monitor found of a member is kept with the member while a monitor asks it, and no longer.

pub mod health_monitor;
pub mod l7_policy;
pub mod listener;
pub mod load_balancer;
pub mod pool;
mod proxy;
pub(crate) mod tls;

pub use health_monitor::HealthMonitor;
pub use l7_policy::L7Policy;
pub use listener::Listener;
pub use load_balancer::LoadBalancer;
pub use pool::Pool;

use crate::{
    api::Scene,
    refusal::Refusal,
    resource::{Meta, Objects, Resource as _, index_prefix},
    resources::function::{Algorithm, Balanced},
    status::Served,
    store::{Read, View},
};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::{fmt, net::IpAddr};
use uuid::Uuid;

/// Who serves load balancers.
pub const PROVIDER: &str = "overweave";

/// What a listener or pool speaks; more are known than can be had.
pub(super) const PROTOCOLS: &[&str] = &[
    "TCP",
    "UDP",
    "SCTP",
    "HTTP",
    "HTTPS",
    "TERMINATED_HTTPS",
    "PROXY",
    "PROXYV2",
    "PROMETHEUS",
];

/// What a switch must know of a listener.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    /// The virtual address.
    pub vip: IpAddr,
    /// The port that holds it.
    pub vip_port_id: Uuid,
    /// What it takes.
    pub protocol: Balanced,
    /// How a member is chosen.
    pub algorithm: Algorithm,
    /// Who serves.
    pub members: Vec<Serving>,
    /// How they are asked whether they do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub monitor: Option<hostconfig::chain::Monitor>,
}

/// A member as a switch knows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Serving {
    /// The member's id.
    pub id: Uuid,
    /// Its address.
    pub address: IpAddr,
    /// The port that it listens on.
    pub port: u16,
    /// Its share; 0 takes no new connection.
    pub weight: u16,
}

/// What Octavia says where a driver cannot do what an option asks for.
fn unsupported(what: impl fmt::Display) -> Refusal {
    Refusal::unsupported(format!(
        "Provider '{PROVIDER}' does not support a requested option: {what}"
    ))
}

/// What a protocol's word means to a switch.
fn balanced(protocol: &str) -> Result<Balanced, Refusal> {
    match protocol {
        // Ends at the member: nothing here looks into it.
        "TCP" | "HTTPS" => Ok(Balanced::Tcp),
        "UDP" => Ok(Balanced::Udp),
        "SCTP" => Ok(Balanced::Sctp),
        other => Err(unsupported(format_args!("protocol {other}"))),
    }
}

/// What carries a protocol; none where nobody here speaks it.
fn carried(protocol: &str) -> Result<Balanced, Refusal> {
    match protocol {
        proxy::HTTP | tls::TERMINATED => Ok(Balanced::Tcp),
        other => balanced(other),
    }
}

/// Octavia's words for what is wrong with a request as such.
fn invalid(text: impl fmt::Display) -> Refusal {
    Refusal::invalid("ValidationException", format!("Validation failure: {text}"))
}

/// Ids in the form in which Octavia's objects name others.
fn named(ids: impl IntoIterator<Item = Uuid>) -> Value {
    let named: Vec<Value> = ids.into_iter().map(|id| json!({"id": id})).collect();
    json!(named)
}

/// The ids of the objects of a kind whose indexed field has this value.
fn ids_of(scene: &Scene<'_>, storage: &str, field: &str, id: Uuid) -> Vec<Uuid> {
    let snapshot: &dyn crate::resource::Lookup = scene.snapshot;
    snapshot.ids(&index_prefix(storage, field, id))
}

/// Has every host realised what was asked for? What a commit made is in force, and what a switch refused is said.
fn provisioning(scene: &Scene<'_>, listeners: impl IntoIterator<Item = Uuid>) -> &'static str {
    let refused = |id: Uuid| scene.status.complaint(id).is_some();
    if listeners.into_iter().any(refused) {
        "ERROR"
    } else {
        "ACTIVE"
    }
}

/// No monitor says otherwise.
const fn operating(admin_state_up: bool) -> &'static str {
    if admin_state_up { "ONLINE" } else { "OFFLINE" }
}

/// Why the caller does not have this object: it is another's, or there is none.
fn not_ones_own(view: &View, spec: &'static crate::resource::Spec, id: Uuid) -> Refusal {
    if crate::rules::stored(view, spec, id).is_some() {
        Refusal::foreign(spec.title, id)
    } else {
        Refusal::missing(spec.title, id)
    }
}

/// The load balancer that a listener or pool is to be of: the caller's own.
fn own_balancer(
    view: &View,
    id: Uuid,
    caller: &crate::rules::Caller,
) -> Result<std::sync::Arc<LoadBalancer>, Refusal> {
    let found = view.object::<LoadBalancer>(id);
    found
        .filter(|balancer| caller.owns(&balancer.meta.project_id))
        .ok_or_else(|| not_ones_own(view, LoadBalancer::SPEC, id))
}

/// The same object as its load balancer's project's, whose it is.
fn of_project(meta: &Meta, project_id: &str) -> Meta {
    Meta {
        project_id: project_id.to_owned(),
        ..meta.clone()
    }
}

/// Lists that answers show.
fn list_shape(value: &Value) -> Result<Value, String> {
    if value.is_array() {
        Ok(value.clone())
    } else {
        Err(format!("'{value}' is not a list"))
    }
}

/// An object that answers show.
fn object_shape(value: &Value) -> Result<Value, String> {
    if value.is_object() {
        Ok(value.clone())
    } else {
        Err(format!("'{value}' is not an object"))
    }
}

/// What passed these listeners together, in Octavia's words.
fn stats(scene: &Scene<'_>, listeners: impl IntoIterator<Item = Uuid>) -> Value {
    let all = listeners.into_iter().map(|id| scene.status.served(id));
    let sum = all.fold(Served::default(), Served::and);
    json!({
        "active_connections": sum.active,
        "total_connections": sum.connections,
        "bytes_in": sum.bytes_in,
        "bytes_out": sum.bytes_out,
        "request_errors": sum.refused,
    })
}

/// What can be named, but not had.
fn nothing(value: &Value) -> Result<Value, String> {
    Err(format!("'{value}': there is none"))
}

/// The listeners whose indexed field has this value, to be judged again.
pub(crate) fn again<R: Read>(read: &R, field: &str, id: Uuid) -> Vec<crate::rules::Write> {
    let listeners = read.related::<Listener>(field, id);
    let listeners = listeners.iter();
    listeners
        .map(|listener| crate::rules::Write::put(Listener::clone(listener)))
        .collect()
}
