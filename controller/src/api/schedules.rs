//! Which hosts serve a network or a router?
//!
//! In Neutron agents are given them; here every switch that needs one has it, and nothing is to be chosen. So these are views of what is: a host answers
//! DHCP on the networks of its ports, and has the routers of those networks and those whose gateways it has. What Neutron lets an admin choose is refused.

use crate::{
    api::{
        Api, ApiError,
        error::respond,
        finish,
        handlers::{Answer, visible},
        scene::Scene,
    },
    refusal::Refusal,
    resource::{Objects, Resource, Spec},
    resources::{Host, Network, Port, Router, host::AGENT, port::GATEWAY_OWNER, router::router_of},
    rules::stored,
    store::Snapshot,
};
use axum::{
    body::Body,
    http::{Method, Request, Response, StatusCode},
};
use serde_json::{Map, Value, json};
use std::{collections::BTreeSet, sync::Arc};
use uuid::Uuid;

/// A view below an object.
#[derive(Debug)]
pub(super) struct Served {
    /// Whose it is.
    pub(super) of: &'static Spec,
    /// The last part of its path.
    pub(super) path: &'static str,
    /// What it lists.
    pub(super) listed: &'static Spec,
    find: fn(&Snapshot, Uuid) -> BTreeSet<Uuid>,
}

/// All of them.
pub(super) const SERVED: &[Served] = &[
    Served {
        of: Network::SPEC,
        path: "dhcp-agents",
        listed: &AGENT,
        find: hosts_of_network,
    },
    Served {
        of: &AGENT,
        path: "dhcp-networks",
        listed: Network::SPEC,
        find: networks_of_host,
    },
    Served {
        of: Router::SPEC,
        path: "l3-agents",
        listed: &AGENT,
        find: hosts_of_router,
    },
    Served {
        of: &AGENT,
        path: "l3-routers",
        listed: Router::SPEC,
        find: routers_of_host,
    },
];

fn host_of(snapshot: &Snapshot, port: &Port) -> Option<Uuid> {
    let host = Host::by_name(snapshot, port.place()?)?;
    Some(host.meta.id)
}

/// A gateway is answered for, but nobody gets an address by it.
fn is_workload(port: &Port) -> bool {
    port.device_owner != GATEWAY_OWNER
}

fn hosts_of_network(snapshot: &Snapshot, network: Uuid) -> BTreeSet<Uuid> {
    let ports = snapshot.related::<Port>("network_id", network);
    let ports = ports.iter().filter(|port| is_workload(port));
    ports.filter_map(|port| host_of(snapshot, port)).collect()
}

fn ports_at(snapshot: &Snapshot, host: Uuid) -> Vec<Arc<Port>> {
    let host = snapshot.object::<Host>(host);
    host.map_or_else(Vec::new, |host| {
        snapshot.related("binding:host_id", &host.meta.name)
    })
}

fn networks_of_host(snapshot: &Snapshot, host: Uuid) -> BTreeSet<Uuid> {
    let ports = ports_at(snapshot, host);
    let ports = ports.iter();
    let ports = ports.filter(|port| is_workload(port) && port.place().is_some());
    ports.map(|port| port.network_id).collect()
}

fn hosts_of_router(snapshot: &Snapshot, router: Uuid) -> BTreeSet<Uuid> {
    let mut hosts = BTreeSet::new();
    for port in snapshot.related::<Port>("device_id", router) {
        if port.device_owner == GATEWAY_OWNER {
            hosts.extend(host_of(snapshot, &port));
        } else if router_of(&port) == Some(router) {
            hosts.extend(hosts_of_network(snapshot, port.network_id));
        }
    }
    hosts
}

fn routers_of_host(snapshot: &Snapshot, host: Uuid) -> BTreeSet<Uuid> {
    let mut routers = BTreeSet::new();
    for port in ports_at(snapshot, host) {
        if port.device_owner == GATEWAY_OWNER {
            routers.extend(port.device_id.parse::<Uuid>().ok());
        }
    }
    for network in networks_of_host(snapshot, host) {
        let ports = snapshot.related::<Port>("network_id", network);
        routers.extend(ports.iter().filter_map(|port| router_of(port)));
    }
    routers
}

impl Served {
    /// Can an admin choose in Neutron what it lists?
    pub(super) fn is_chosen(&self) -> bool {
        self.of.path == AGENT.path
    }

    fn denied(&self, verb: &str) -> Refusal {
        Refusal::denied(format!("rule:{verb}_{}", self.path))
    }

    fn rows(&self, api: &Api, snapshot: &Snapshot, scene: &Scene<'_>, of: Uuid) -> Vec<Value> {
        let found = (self.find)(snapshot, of).into_iter();
        let rows = found.filter_map(|id| {
            let object = stored(snapshot, self.listed, id)?;
            let mut row: Map<String, Value> =
                scene.render(self.listed.fields(), object.as_ref(), &[]);
            if self.path == "l3-agents" {
                let alive = api.core.status.is_host_alive(id);
                let state = if alive { "active" } else { "standby" };
                row.insert("ha_state".to_owned(), json!(state));
            }
            Some(Value::Object(row))
        });
        rows.collect()
    }

    /// The methods of the list, or of one of it.
    fn methods(&self, one: bool) -> &'static [&'static str] {
        match (one, self.is_chosen()) {
            (false, true) => &["GET", "POST"],
            (false, false) => &["GET"],
            (true, true) => &["DELETE"],
            (true, false) => &[],
        }
    }

    /// What is asked of it, or of one that it lists.
    pub(super) async fn answer(
        &self,
        api: &Api,
        id: &str,
        one: bool,
        request: Request<Body>,
    ) -> Response<Body> {
        let method = request.method().clone();
        let answer: Answer = async {
            let asked = api.read(request).await?;
            let snapshot = api.core.store.snapshot();
            let verb = match method {
                Method::GET if !one => "get",
                Method::POST if !one && self.is_chosen() => "create",
                Method::DELETE if one && self.is_chosen() => "delete",
                _ => return Err(ApiError::no_method(self.methods(one))),
            };
            if !asked.caller.admin {
                return Err(self.denied(verb).into());
            }
            let of = visible(&snapshot, self.of, id, &asked.caller)?;
            if verb != "get" {
                return Err(Refusal::conflict(
                    "NothingToSchedule",
                    "Every switch has the networks and routers that its ports need, and no others: there is nothing to choose.",
                )
                .into());
            }
            let scene = api.scene(&snapshot, &asked.caller);
            let rows = self.rows(api, &snapshot, &scene, of.meta().id);
            Ok(respond(StatusCode::OK, &json!({self.listed.plural: rows})))
        }
        .await;
        finish(answer)
    }
}
