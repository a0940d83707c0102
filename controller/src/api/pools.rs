//! Where can floating IPs be had from?
//!
//! The IPv4 subnets of the external networks that the caller sees; made for each answer, no objects of their own.

use crate::{
    api::{Api, error::respond, query},
    refusal::Refusal,
    resource::Objects,
    resources::{Network, Subnet},
    rules::usable,
};
use axum::{
    body::Body,
    extract::State,
    http::{Request, Response, StatusCode},
};
use serde_json::{Map, Value, json};

/// The fields of a pool.
pub(super) const FIELDS: &[&str] = &[
    "network_id",
    "subnet_id",
    "subnet_name",
    "cidr",
    "project_id",
    "tenant_id",
];

fn row(subnet: &Subnet) -> Map<String, Value> {
    let project = &subnet.meta.project_id;
    let values = [
        json!(subnet.network_id),
        json!(subnet.meta.id),
        json!(subnet.meta.name),
        json!(subnet.cidr),
        json!(project),
        json!(project),
    ];
    let names = FIELDS.iter().map(|name| (*name).to_owned());
    names.zip(values).collect()
}

/// GET `/v2.0/floatingip_pools`, and with a dash, as Neutron's own clients write it
pub(super) async fn list(State(api): State<Api>, request: Request<Body>) -> Response<Body> {
    let get = api.get(request, |asked| {
        if asked.caller.roles.is_empty() {
            return Err(Refusal::denied("rule:get_floatingip_pool").into());
        }
        let snapshot = api.core.store.snapshot();
        let mut networks = snapshot.objects::<Network>();
        networks.retain(|network| network.external && usable(&snapshot, &**network, &asked.caller));
        let subnets = networks
            .iter()
            .flat_map(|network| snapshot.related::<Subnet>("network_id", network.meta.id));
        let rows = subnets.filter(|subnet| subnet.cidr.is_ipv4());
        let rows = rows.map(|subnet| row(&subnet)).collect();
        let rows = query::rows(&asked.pairs, |name| FIELDS.contains(&name), rows)?;
        Ok(respond(StatusCode::OK, &json!({"floatingip_pools": rows})))
    });
    get.await
}
