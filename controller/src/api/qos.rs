//! Which rules may a QoS policy have?
//!
//! The kinds of a policy's parts, by their table; not objects of anybody's, so they have handlers of their own.

use crate::{
    api::{Api, error::respond, query},
    policy::Nothing,
    refusal::Refusal,
    resource::{Field, Kind, Part, Resource},
    resources::QosPolicy,
};
use axum::{
    body::Body,
    extract::{Path, State},
    http::{Request, Response, StatusCode},
};
use serde_json::{Map, Value, json};

/// The word for the rules of a table.
fn name(part: &Part) -> &'static str {
    let rule = part.singular;
    rule.strip_suffix("_rule").unwrap_or(rule)
}

/// GET /v2.0/qos/rule-types
pub(super) async fn list(State(api): State<Api>, request: Request<Body>) -> Response<Body> {
    let get = api.get(request, |asked| {
        if asked.caller.roles.is_empty() {
            return Err(Refusal::denied("rule:get_rule_type").into());
        }
        // All that are known are supported, so `all_rules` and `all_supported` are one.
        let parts = QosPolicy::SPEC.parts.iter();
        let row = |part: &Part| Map::from_iter([("type".to_owned(), json!(name(part)))]);
        let known = |field: &str| field == "type";
        let rows = query::rows(&asked.pairs, known, parts.map(row).collect())?;
        Ok(respond(StatusCode::OK, &json!({"rule_types": rows})))
    });
    get.await
}

/// GET /v2.0/qos/rule-types/NAME
pub(super) async fn show(
    State(api): State<Api>,
    Path(wanted): Path<String>,
    request: Request<Body>,
) -> Response<Body> {
    let get = api.get(request, |asked| {
        let caller = &asked.caller;
        if !caller.may("get_rule_type", &Nothing, caller.admin) {
            return Err(Refusal::denied("rule:get_rule_type").into());
        }
        let part = QosPolicy::SPEC.parts.iter().find(|p| name(p) == wanted);
        let part = part.ok_or_else(|| Refusal::missing("QosRuleType", &wanted))?;
        let parameters: Vec<Value> = part.fields.iter().filter_map(parameter).collect();
        let driver = json!({"name": "overweave", "supported_parameters": parameters});
        let shown = json!({"type": wanted, "drivers": [driver]});
        Ok(respond(StatusCode::OK, &json!({"rule_type": shown})))
    });
    get.await
}

/// Which values a field may have.
fn parameter(field: &Field) -> Option<Value> {
    let (kind, values) = match field.kind {
        Kind::Int(start, end) => ("range", json!({"start": start, "end": end})),
        Kind::OneOf(words) => ("choices", json!(words)),
        Kind::OneOfNumbers(numbers) => ("choices", json!(numbers)),
        Kind::Uuid
        | Kind::IdOf(_)
        | Kind::Text(_)
        | Kind::Bool
        | Kind::Mac
        | Kind::Address
        | Kind::Cidr
        | Kind::Uuids
        | Kind::Words
        | Kind::Shape(_) => return None,
    };
    Some(json!({
        "parameter_name": field.name,
        "parameter_type": kind,
        "parameter_values": values,
    }))
}
