//! Which availability zones are there?
//!
//! Those that hosts say they are in, once for each kind of object that may name them; made for each answer.

use crate::{
    api::{Api, error::respond, query},
    refusal::Refusal,
    resources::zones,
};
use axum::{
    body::Body,
    extract::State,
    http::{Request, Response, StatusCode},
};
use serde_json::{Map, Value, json};

/// The fields of a zone.
pub(super) const FIELDS: &[&str] = &["name", "resource", "state"];

fn row(zone: &str, resource: &str, available: bool) -> Map<String, Value> {
    let state = if available {
        "available"
    } else {
        "unavailable"
    };
    let values = [zone, resource, state].map(|text| json!(text));
    let names = FIELDS.iter().map(|name| (*name).to_owned());
    names.zip(values).collect()
}

/// GET `/v2.0/availability_zones`
pub(super) async fn list(State(api): State<Api>, request: Request<Body>) -> Response<Body> {
    let get = api.get(request, |asked| {
        if asked.caller.roles.is_empty() {
            return Err(Refusal::denied("rule:get_availability_zone").into());
        }
        let all = zones::all(&api.core.store.snapshot());
        let rows = all.iter().flat_map(|(zone, available)| {
            ["network", "router"].map(|resource| row(zone, resource, *available))
        });
        let rows = query::rows(&asked.pairs, |name| FIELDS.contains(&name), rows.collect())?;
        Ok(respond(
            StatusCode::OK,
            &json!({"availability_zones": rows}),
        ))
    });
    get.await
}
