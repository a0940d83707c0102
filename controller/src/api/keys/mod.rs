//! How does Barbican's API answer?
//!
//! Below `/key-manager/v1`: secrets, their payloads, and containers, of the project that the token is for. Its readers see what is there; its members make,
//! read and delete it. Admins are members of their own project here, and of no other.
//!
//! # Attack
//! A payload is in no message, list, log or audit line, and no answer but the one that was asked for it may be kept on the way.

mod containers;
mod secrets;

use crate::{
    api::{
        Api, ApiError,
        error::respond,
        handlers::{Answer, Asked},
    },
    keys::{LARGEST, MOST_NAMED},
    refusal::Refusal,
    rules::Caller,
    time::Seconds,
};
use axum::{
    Router,
    body::Body,
    extract::State,
    http::{HeaderMap, HeaderValue, Request, Response, StatusCode, header},
    routing::{any, get},
};
use serde_json::{Map, Value, json};
use std::time::Instant;
use uuid::Uuid;

/// Where it stands.
const ROOT: &str = "/key-manager/v1";
/// What Barbican shows at once, and at most.
const PAGE: (usize, usize) = (10, 100);
/// Letters of a name.
const LONGEST: usize = 255;
/// When the version was published.
const UPDATED: &str = "2015-04-28T00:00:00Z";

pub(super) fn routes() -> Router<Api> {
    let at = |path: &str| format!("{ROOT}{path}");
    Router::new()
        .route("/key-manager", get(versions))
        .route("/key-manager/", get(versions))
        .route(ROOT, get(version))
        .route(&at("/"), get(version))
        // Its client asks for collections with a slash and without one.
        .route(&at("/secrets"), any(secrets::many))
        .route(&at("/secrets/"), any(secrets::many))
        .route(&at("/secrets/{id}"), any(secrets::one))
        .route(&at("/secrets/{id}/payload"), any(secrets::payload))
        .route(&at("/containers"), any(containers::many))
        .route(&at("/containers/"), any(containers::many))
        .route(&at("/containers/{id}"), any(containers::one))
}

fn version_document(origin: &str) -> Value {
    json!({
        "id": "v1",
        "status": "CURRENT",
        "min_version": "1.0",
        "max_version": "1.0",
        "updated": UPDATED,
        "links": [{"rel": "self", "href": format!("{origin}{ROOT}/")}],
    })
}

async fn versions(State(api): State<Api>, headers: HeaderMap) -> Response<Body> {
    let version = version_document(&api.origin(&headers));
    respond(
        StatusCode::MULTIPLE_CHOICES,
        &json!({"versions": [version]}),
    )
}

async fn version(State(api): State<Api>, headers: HeaderMap) -> Response<Body> {
    let version = version_document(&api.origin(&headers));
    respond(StatusCode::OK, &json!({"version": version}))
}

/// Answers in Barbican's form, and counts it.
async fn answered(
    api: &Api,
    request: Request<Body>,
    kind: &'static str,
    answer: impl AsyncFnOnce(Request<Body>) -> Answer,
) -> Response<Body> {
    let started = Instant::now();
    let verb = match request.method().as_str() {
        "POST" => "create",
        "PUT" => "update",
        "DELETE" => "delete",
        _ => "show",
    };
    let response = answer(request).await.unwrap_or_else(|error| told(&error));
    let response = super::finish(Ok(response));
    api.stats
        .request(kind, verb, response.status(), started.elapsed());
    response
}

/// A refusal in Barbican's words. A token's is Keystone's to tell.
fn told(error: &ApiError) -> Response<Body> {
    let plain = error.respond();
    if *error == ApiError::Unauthenticated {
        return plain;
    }
    let status = if let ApiError::Refused(Refusal::OverQuota { .. }) = error {
        StatusCode::FORBIDDEN
    } else {
        plain.status()
    };
    let title = status.canonical_reason().unwrap_or("Error");
    let body = json!({"code": status.as_u16(), "title": title, "description": error.to_string()});
    let mut response = respond(status, &body);
    if let Some(allow) = plain.headers().get(header::ALLOW) {
        response.headers_mut().insert(header::ALLOW, allow.clone());
    }
    response
}

/// The project whose secrets these are.
///
/// # Errors
/// When the caller may not look at them, or not make or read any.
fn project<'a>(caller: &'a Caller, rule: &str, writes: bool) -> Result<&'a str, Refusal> {
    let may = if writes {
        caller.member
    } else {
        caller.is_usual()
    };
    if may && !caller.project_id.is_empty() {
        Ok(&caller.project_id)
    } else {
        Err(Refusal::denied(format!("rule:{rule}")))
    }
}

/// The id in a path.
fn id_of(kind: &'static str, id: &str) -> Result<Uuid, Refusal> {
    id.parse().ok().ok_or_else(|| Refusal::missing(kind, id))
}

fn reference(asked: &Asked, kind: &str, id: Uuid) -> String {
    format!("{}{ROOT}/{kind}/{id}", asked.origin)
}

/// What was made, and where it is.
fn made(key: &str, reference: &str) -> Response<Body> {
    let mut response = respond(StatusCode::CREATED, &json!({key: reference}));
    if let Ok(place) = HeaderValue::from_str(reference) {
        response.headers_mut().insert(header::LOCATION, place);
    }
    response
}

fn invalid(schema: &str, property: &str, reason: impl std::fmt::Display) -> Refusal {
    Refusal::invalid(
        "InvalidObject",
        format!(
            "Provided object does not match schema '{schema}': {reason}. Invalid property: '{property}'"
        ),
    )
}

/// The fields of a body, of which all are known.
fn fields(asked: &Asked, schema: &str, known: &[&str]) -> Result<Map<String, Value>, Refusal> {
    let Ok(Value::Object(fields)) = serde_json::from_slice(&asked.body) else {
        let text = "Malformed JSON: the body is no object";
        return Err(Refusal::invalid("MalformedJson", text));
    };
    match fields.keys().find(|name| !known.contains(&name.as_str())) {
        Some(name) => Err(invalid(schema, name, "it is not known")),
        None => Ok(fields),
    }
}

/// A short text; none if it is null or not there.
fn text(fields: &Map<String, Value>, schema: &str, name: &str) -> Result<Option<String>, Refusal> {
    match fields.get(name) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) if text.chars().count() <= LONGEST && !text.contains('\0') => {
            Ok(Some(text.clone()))
        }
        Some(_) => {
            let reason = format!("it is no text of {LONGEST} letters at most");
            Err(invalid(schema, name, reason))
        }
    }
}

/// What the query of a list asks for, by name.
type Filters<'a> = Vec<(&'a str, &'a str)>;

/// Which part of a list is asked for.
struct Page {
    limit: usize,
    offset: usize,
}

impl Page {
    /// Also what else the query says, of what is known.
    fn of<'a>(asked: &'a Asked, known: &[&str]) -> Result<(Self, Filters<'a>), Refusal> {
        let mut page = Self {
            limit: PAGE.0,
            offset: 0,
        };
        let mut filters = Vec::new();
        for (name, value) in &asked.pairs {
            let bad = || Refusal::attribute(name, "it is no number, or it can't be asked for");
            match name.as_str() {
                "limit" => page.limit = value.parse::<usize>().ok().ok_or_else(bad)?.min(PAGE.1),
                "offset" => page.offset = value.parse().ok().ok_or_else(bad)?,
                name if known.contains(&name) => filters.push((name, value.as_str())),
                _ => return Err(bad()),
            }
        }
        Ok((page, filters))
    }

    /// The part of all rows, in the order in which they were made.
    fn told<T>(
        &self,
        asked: &Asked,
        kind: &str,
        mut all: Vec<T>,
        (when, row): (impl Fn(&T) -> (Seconds, Uuid), impl Fn(&T) -> Value),
    ) -> Response<Body> {
        all.sort_by_key(when);
        let shown = all.iter().skip(self.offset).take(self.limit);
        let rows: Vec<Value> = shown.map(row).collect();
        let mut body = Map::from_iter([
            (kind.to_owned(), Value::Array(rows)),
            ("total".to_owned(), json!(all.len())),
        ]);
        let limit = self.limit;
        let link = |offset: usize| {
            json!(format!(
                "{}{ROOT}/{kind}?limit={limit}&offset={offset}",
                asked.origin
            ))
        };
        let next = self.offset.saturating_add(limit);
        if limit > 0 && next < all.len() {
            body.insert("next".to_owned(), link(next));
        }
        if self.offset > 0 {
            let previous = self.offset.saturating_sub(limit);
            body.insert("previous".to_owned(), link(previous));
        }
        respond(StatusCode::OK, &body)
    }
}

/// What of it stands in the document: the path, method, summary, what is asked, and with what it ends.
pub(super) type Operation = (String, &'static str, &'static str, Option<Value>, u16);

/// A body of these fields and no others.
fn body(fields: &Value, required: &[&str]) -> Value {
    json!({
        "type": "object", "properties": fields, "required": required, "additionalProperties": false,
    })
}

fn short() -> Value {
    json!({"type": ["string", "null"], "maxLength": LONGEST, "pattern": "^[^\\u0000]*$"})
}

fn secret_body() -> Value {
    let fields = json!({
        "name": short(), "algorithm": short(), "mode": short(),
        "bit_length": {"type": ["integer", "null"], "minimum": 1, "maximum": secrets::MOST_BITS},
        "secret_type": {"type": "string", "enum": crate::keys::SECRET_TYPES},
        "expiration": short(),
        "payload": {"type": "string", "maxLength": 2 * LARGEST},
        "payload_content_type": {"type": "string"},
        "payload_content_encoding": {"type": ["string", "null"], "enum": ["base64", null]},
    });
    body(&fields, &[])
}

fn container_body() -> Value {
    let named = body(
        &json!({"name": short(), "secret_ref": {"type": "string"}}),
        &["secret_ref"],
    );
    let types: Vec<&str> = crate::keys::CONTAINER_TYPES.iter().map(|t| t.0).collect();
    let fields = json!({
        "name": short(),
        "type": {"type": "string", "enum": types},
        "secret_refs": {"type": "array", "items": named, "maxItems": MOST_NAMED},
    });
    body(&fields, &["type"])
}

/// All that can be asked.
pub(super) fn operations() -> Vec<Operation> {
    let at = |path: &str| format!("{ROOT}{path}");
    let (secret, container) = (Some(secret_body()), Some(container_body()));
    vec![
        (
            at("/secrets"),
            "get",
            "List the project's secrets.",
            None,
            200,
        ),
        (
            at("/secrets"),
            "post",
            "Store a secret, or announce one.",
            secret,
            201,
        ),
        (
            at("/secrets/{id}"),
            "get",
            "Show what is known of a secret.",
            None,
            200,
        ),
        (
            at("/secrets/{id}"),
            "put",
            "Give an announced secret its payload: the body as it is.",
            None,
            204,
        ),
        (at("/secrets/{id}"), "delete", "Delete a secret.", None, 204),
        (
            at("/secrets/{id}/payload"),
            "get",
            "Read a secret's payload.",
            None,
            200,
        ),
        (
            at("/containers"),
            "get",
            "List the project's containers.",
            None,
            200,
        ),
        (
            at("/containers"),
            "post",
            "Put secrets together.",
            container,
            201,
        ),
        (
            at("/containers/{id}"),
            "get",
            "Show a container.",
            None,
            200,
        ),
        (
            at("/containers/{id}"),
            "delete",
            "Delete a container; its secrets stay.",
            None,
            204,
        ),
    ]
}
