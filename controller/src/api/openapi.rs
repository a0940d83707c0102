//! What does the API look like to a machine?
//!
//! An `OpenAPI` 3.1 document made from the tables.

use crate::{
    resource::{Field, Kind, Policy, Spec, Verb},
    resources::REGISTRY,
};
use axum::{
    body::Body,
    http::{Response, StatusCode},
};
use serde_json::{Map, Value, json};

fn schema(field: &Field) -> Value {
    let mut schema = match field.kind {
        Kind::Uuid => json!({"type": "string", "format": "uuid"}),
        Kind::Text(longest) => json!({"type": "string", "maxLength": longest}),
        Kind::Bool => json!({"type": "boolean"}),
        Kind::Int(least, most) => json!({"type": "integer", "minimum": least, "maximum": most}),
        Kind::Mac => json!({"type": "string", "pattern": "^([0-9a-f]{2}:){5}[0-9a-f]{2}$"}),
        Kind::Address => json!({"type": "string", "description": "IPv4 or IPv6 address"}),
        Kind::Cidr => json!({"type": "string", "description": "address block"}),
        Kind::OneOf(words) => json!({"type": "string", "enum": words}),
        Kind::Uuids | Kind::Words => json!({"type": "array"}),
        Kind::Shape(_) => json!({}),
    };
    if let Some(object) = schema.as_object_mut() {
        object.insert("description".to_owned(), json!(field.doc));
        if field.nullable
            && let Some(Value::String(kind)) = object.get("type").cloned()
        {
            object.insert("type".to_owned(), json!([kind, "null"]));
        }
    }
    schema
}

fn object(spec: &Spec, wanted: impl Fn(&Field) -> bool) -> Value {
    let fields: Map<String, Value> = spec
        .fields()
        .filter(|field| wanted(field))
        .map(|field| (field.name.to_owned(), schema(field)))
        .collect();
    json!({"type": "object", "properties": fields})
}

fn wrapped(key: &str, inner: &Value) -> Value {
    let schema = json!({"type": "object", "properties": {key: inner}, "required": [key]});
    json!({"content": {"application/json": {"schema": schema}}})
}

fn operations(spec: &Spec, paths: &mut Map<String, Value>) {
    let shown = object(spec, |field| field.read != Policy::Nobody);
    let many = json!({"type": "array", "items": shown});
    let (one_key, many_key) = (spec.singular, spec.plural);
    let answer = |key: &str, inner: &Value| {
        let mut answer = wrapped(key, inner);
        if let Some(object) = answer.as_object_mut() {
            object.insert("description".to_owned(), json!("done"));
        }
        answer
    };
    let (mut collection, mut item) = (Map::new(), Map::new());
    for verb in spec.verbs {
        match verb {
            Verb::Create => {
                let body = object(spec, |field| field.create != Policy::Nobody);
                collection.insert(
                    "post".to_owned(),
                    json!({
                        "requestBody": wrapped(one_key, &body),
                        "responses": {"201": answer(one_key, &shown)},
                    }),
                );
            }
            Verb::Read => {
                collection.insert(
                    "get".to_owned(),
                    json!({"responses": {"200": answer(many_key, &many)}}),
                );
                item.insert(
                    "get".to_owned(),
                    json!({"responses": {"200": answer(one_key, &shown)}}),
                );
            }
            Verb::Update => {
                let body = object(spec, |field| field.update != Policy::Nobody);
                item.insert(
                    "put".to_owned(),
                    json!({
                        "requestBody": wrapped(one_key, &body),
                        "responses": {"200": answer(one_key, &shown)},
                    }),
                );
            }
            Verb::Delete => {
                item.insert(
                    "delete".to_owned(),
                    json!({"responses": {"204": {"description": "gone"}}}),
                );
            }
        }
    }
    let id = json!([{"name": "id", "in": "path", "required": true, "schema": {"type": "string"}}]);
    item.insert("parameters".to_owned(), id);
    paths.insert(format!("/v2.0/{}", spec.path), Value::Object(collection));
    paths.insert(format!("/v2.0/{}/{{id}}", spec.path), Value::Object(item));
}

/// GET /openapi.json
pub(super) async fn document() -> Response<Body> {
    let mut paths = Map::new();
    for spec in REGISTRY {
        operations(spec, &mut paths);
    }
    let version = env!("CARGO_PKG_VERSION");
    let body = json!({
        "openapi": "3.1.0",
        "info": {"title": "overweave", "version": version},
        "paths": paths,
    });
    super::error::respond(StatusCode::OK, &body)
}
