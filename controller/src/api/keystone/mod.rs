//! How does the identity API answer?
//!
//! Keystone v3 below `/identity`, as far as the real clients need it: tokens by password or token,
//! domains, projects, users, groups, roles and their assignments, the catalog. Anyone may read what is
//! their own; the rest is an admin's, and what is in a domain also an admin's of that domain.

mod credentials;
mod groups;
mod paths;
mod records;
mod roles;
mod stored;
mod tokens;

use crate::{
    api::{
        Api, ApiError,
        error::{keystone_error, respond},
        whole_body,
    },
    identity,
    rules::Caller,
    store::{Read, Snapshot, View, transact},
};
use axum::{
    Router,
    body::Body,
    extract::State,
    http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, header},
    middleware,
    routing::{any, get},
};
use rand::RngCore;
use serde_json::{Value, json};
use uuid::Uuid;

pub(in crate::api) use paths::operations;

const MEDIA: &str = "application/vnd.openstack.identity-v3+json";
const SUBJECT: &str = "x-subject-token";

/// What an identity request is refused with.
#[derive(Debug)]
struct Fault(StatusCode, String);

impl Fault {
    fn unauthorized() -> Self {
        Self(
            StatusCode::UNAUTHORIZED,
            ApiError::Unauthenticated.to_string(),
        )
    }

    fn forbidden() -> Self {
        let text = "You are not authorized to perform the requested action.";
        Self(StatusCode::FORBIDDEN, text.to_owned())
    }

    fn missing(kind: &str, id: &str) -> Self {
        Self(
            StatusCode::NOT_FOUND,
            format!("Could not find {kind}: {id}."),
        )
    }

    fn bad(text: impl Into<String>) -> Self {
        Self(StatusCode::BAD_REQUEST, text.into())
    }

    fn method() -> Self {
        Self(
            StatusCode::METHOD_NOT_ALLOWED,
            "the method is not allowed here".to_owned(),
        )
    }
}

type Answer = Result<Response<Body>, Fault>;

fn finish(answer: Answer) -> Response<Body> {
    let mut response =
        answer.unwrap_or_else(|Fault(status, message)| keystone_error(status, &message));
    response
        .headers_mut()
        .insert(header::VARY, HeaderValue::from_static("X-Auth-Token"));
    response
}

pub(in crate::api) fn routes() -> Router<Api> {
    Router::new()
        .route("/identity", get(versions))
        .route("/identity/", get(versions))
        .route("/identity/v3", get(version))
        .route("/identity/v3/", get(version))
        .route("/identity/v3/auth/tokens", any(tokens::tokens))
        .route("/identity/v3/auth/{what}", any(tokens::auth_views))
        .route(
            "/identity/v3/role_assignments",
            any(roles::role_assignments),
        )
        .route(
            "/identity/v3/users/{user}/projects",
            any(roles::user_projects),
        )
        .route(
            "/identity/v3/users/{user}/password",
            any(tokens::own_password),
        )
        .route(
            "/identity/v3/users/{user}/application_credentials",
            any(credentials::credentials),
        )
        .route(
            "/identity/v3/users/{user}/application_credentials/{id}",
            any(credentials::credential),
        )
        .route("/identity/v3/users/{user}/groups", any(groups::of_user))
        .route("/identity/v3/groups/{group}/users", any(groups::users))
        .route(
            "/identity/v3/groups/{group}/users/{user}",
            any(groups::member),
        )
        .merge(roles::routes())
        .route("/identity/v3/{collection}", any(records::collection))
        .route("/identity/v3/{collection}/{id}", any(records::item))
        .layer(middleware::from_fn(paths::by_method))
}

fn version_document(origin: &str) -> Value {
    json!({
        "id": "v3.14",
        "status": "stable",
        "updated": "2020-04-07T00:00:00Z",
        "links": [{"rel": "self", "href": format!("{origin}/identity/v3/")}],
        "media-types": [{"base": "application/json", "type": MEDIA}],
    })
}

async fn versions(State(api): State<Api>, headers: HeaderMap) -> Response<Body> {
    let version = version_document(&api.origin(&headers));
    respond(
        StatusCode::MULTIPLE_CHOICES,
        &json!({"versions": {"values": [version]}}),
    )
}

async fn version(State(api): State<Api>, headers: HeaderMap) -> Response<Body> {
    respond(
        StatusCode::OK,
        &json!({"version": version_document(&api.origin(&headers))}),
    )
}

/// A request whose body was read.
struct Call {
    method: Method,
    headers: HeaderMap,
    body: Value,
    origin: String,
    snapshot: Snapshot,
}

impl Api {
    async fn call(&self, request: Request<Body>) -> Result<Call, Fault> {
        let (parts, body) = request.into_parts();
        let bytes = whole_body(body)
            .await
            .map_err(|error| Fault(StatusCode::PAYLOAD_TOO_LARGE, error.to_string()))?;
        let body = if bytes.is_empty() {
            Value::Null
        } else {
            serde_json::from_slice(&bytes)
                .map_err(|error| Fault::bad(format!("the body is not JSON: {error}")))?
        };
        Ok(Call {
            method: parts.method,
            origin: self.origin(&parts.headers),
            headers: parts.headers,
            body,
            snapshot: self.core.store.snapshot(),
        })
    }

    /// The same, with who asks.
    async fn known_call(&self, request: Request<Body>) -> Result<(Call, Caller), Fault> {
        let call = self.call(request).await?;
        let token = call
            .headers
            .get("x-auth-token")
            .and_then(|token| token.to_str().ok());
        let token = token.ok_or_else(Fault::unauthorized)?;
        let caller = identity::caller(&call.snapshot, token, self.core.clock.now());
        let caller = caller.ok_or_else(Fault::unauthorized)?;
        Ok((call, caller))
    }

    async fn change<T: Send + 'static>(
        &self,
        caller: &Caller,
        verb: &'static str,
        kind: &'static str,
        id: &str,
        rule: impl Fn(&mut View) -> Result<T, Fault> + Send + 'static,
    ) -> Result<T, Fault> {
        let result = transact(self.core.store.as_ref(), rule).await;
        let result = result.map(|done| done.value).map_err(|error| match error {
            crate::store::TransactError::Refused(fault) => fault,
            crate::store::TransactError::Unavailable(error) => {
                Fault(StatusCode::SERVICE_UNAVAILABLE, error.to_string())
            }
        });
        let outcome = match &result {
            Ok(_) => "done".to_owned(),
            Err(fault) => fault.0.as_u16().to_string(),
        };
        let now = self.core.clock.now();
        self.core
            .audit
            .note(now, caller, verb, kind, &[id.to_owned()], &outcome)
            .await;
        result
    }
}

fn fresh_id() -> String {
    Uuid::new_v4().simple().to_string()
}

#[expect(clippy::needless_pass_by_value, reason = "the rows go into the body")]
fn listed(plural: &str, rows: Vec<Value>, origin: &str) -> Value {
    let own = format!("{origin}/identity/v3/{plural}");
    json!({plural: rows, "links": {"next": null, "self": own, "previous": null}})
}

fn domain_reference(read: &impl Read, id: &str) -> Value {
    let name = identity::domain(read, id).map(|domain| domain.name.clone());
    json!({"id": id, "name": name})
}

/// May the caller keep what is in this domain, or in none? An admin of the domain makes no admins of the cloud, though: see `roles`.
fn governs(caller: &Caller, domain: Option<&str>) -> bool {
    let own = domain.is_some() && caller.domain.as_deref() == domain;
    caller.admin || (own && caller.roles.iter().any(|role| role == "admin"))
}

async fn hashed(api: &Api, password: String) -> Result<String, Fault> {
    let _turn = api.logins.acquire().await;
    let mut salt = [0_u8; 16];
    rand::rng().fill_bytes(&mut salt);
    let work = move || identity::hash_password(&password, salt);
    match tokio::task::spawn_blocking(work).await {
        Ok(Ok(hash)) => Ok(hash),
        Ok(Err(error)) => Err(Fault::bad(format!("the password cannot be kept: {error}"))),
        Err(error) => Err(Fault(StatusCode::SERVICE_UNAVAILABLE, error.to_string())),
    }
}
