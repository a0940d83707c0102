//! How does the identity API answer?
//!
//! Keystone v3 below `/identity`, as far as the real clients need it: tokens by password or token,
//! projects, users, roles and their assignments, the one domain, the catalog. Anyone may read what is
//! their own; the rest is an admin's.

use crate::{
    api::{
        Api, ApiError,
        error::{keystone_error, respond, respond_empty},
        whole_body,
    },
    identity::{
        self, Assignment, DOMAIN, Project, Role, TOKEN_LIFE, Token, User, assignment_key, by_name,
        key, name_key, projects_of, roles_in, token_key, token_text,
    },
    rules::Caller,
    store::{Read, Snapshot, View, transact},
};
use axum::{
    Router,
    body::Body,
    extract::{Path, Query, State},
    http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, header},
    routing::{any, get},
};
use rand::RngCore;
use serde_json::{Map, Value, json};
use std::{collections::HashMap, sync::Arc};
use uuid::Uuid;

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

pub(super) fn routes() -> Router<Api> {
    Router::new()
        .route("/identity", get(versions))
        .route("/identity/", get(versions))
        .route("/identity/v3", get(version))
        .route("/identity/v3/", get(version))
        .route("/identity/v3/auth/tokens", any(tokens))
        .route("/identity/v3/auth/{what}", any(auth_views))
        .route("/identity/v3/domains", any(domains))
        .route("/identity/v3/domains/{id}", any(domain))
        .route("/identity/v3/role_assignments", any(role_assignments))
        .route("/identity/v3/users/{user}/projects", any(user_projects))
        .route("/identity/v3/users/{user}/password", any(own_password))
        .route(
            "/identity/v3/projects/{project}/users/{user}/roles",
            any(project_roles),
        )
        .route(
            "/identity/v3/projects/{project}/users/{user}/roles/{role}",
            any(project_role),
        )
        .route("/identity/v3/{collection}", any(collection))
        .route("/identity/v3/{collection}/{id}", any(item))
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

// --- tokens

async fn tokens(State(api): State<Api>, request: Request<Body>) -> Response<Body> {
    let answer = async {
        if request.method() == Method::POST {
            return issue(&api, request).await;
        }
        let (call, caller) = api.known_call(request).await?;
        let subject = call
            .headers
            .get(SUBJECT)
            .and_then(|token| token.to_str().ok());
        let subject = subject
            .ok_or_else(|| Fault::missing("token", "none given"))?
            .to_owned();
        let now = api.core.clock.now();
        let found = identity::good_token(&call.snapshot, &subject, now);
        let (token, user) = found.ok_or_else(|| Fault::missing("token", "not valid"))?;
        if user.id != caller.user_id && !caller.admin && !caller.service {
            return Err(Fault::forbidden());
        }
        match call.method {
            Method::GET => {
                let body = token_body(&call.snapshot, &token, &user, &call.origin);
                Ok(with_subject(respond(StatusCode::OK, &body), &subject))
            }
            Method::HEAD => Ok(with_subject(respond_empty(StatusCode::OK), &subject)),
            Method::DELETE => {
                let (stored, audit_id) = (token_key(&subject), token.audit_id.clone());
                let gone = move |view: &mut View| {
                    view.delete(&stored);
                    Ok(())
                };
                api.change(&caller, "revoke", "token", &audit_id, gone)
                    .await?;
                Ok(respond_empty(StatusCode::NO_CONTENT))
            }
            _ => Err(Fault::method()),
        }
    };
    finish(answer.await)
}

fn with_subject(mut response: Response<Body>, token: &str) -> Response<Body> {
    if let Ok(value) = HeaderValue::from_str(token) {
        response.headers_mut().insert(SUBJECT, value);
    }
    response
}

/// Is this the one domain, by id or name? None named is it too.
fn is_domain(value: Option<&Value>) -> bool {
    let Some(domain) = value else { return true };
    let is = |name: &str, wanted: &str| match domain.get(name).and_then(Value::as_str) {
        Some(text) => text.eq_ignore_ascii_case(wanted),
        None => true,
    };
    is("id", DOMAIN) && is("name", "Default")
}

async fn issue(api: &Api, request: Request<Body>) -> Answer {
    let call = api.call(request).await?;
    let auth = call
        .body
        .get("auth")
        .ok_or_else(|| Fault::bad("auth is missing"))?;
    let who = auth
        .get("identity")
        .ok_or_else(|| Fault::bad("identity is missing"))?;
    let methods = who
        .get("methods")
        .and_then(Value::as_array)
        .map(Vec::as_slice);
    let methods: Vec<&str> = methods
        .unwrap_or_default()
        .iter()
        .filter_map(Value::as_str)
        .collect();
    let now = api.core.clock.now();
    let (user, expires_at, scoped_before) = match methods.as_slice() {
        ["password"] => {
            let given = who.pointer("/password/user");
            let given = given.ok_or_else(|| Fault::bad("password.user is missing"))?;
            (
                check_password(api, &call.snapshot, given).await?,
                now.plus(TOKEN_LIFE),
                None,
            )
        }
        ["token"] => {
            let given = who.pointer("/token/id").and_then(Value::as_str);
            let given = given.ok_or_else(|| Fault::bad("token.id is missing"))?;
            let found = identity::good_token(&call.snapshot, given, now);
            let (token, user) = found.ok_or_else(Fault::unauthorized)?;
            (user, token.expires_at, token.project_id.clone())
        }
        [] => return Err(Fault::bad("methods is missing")),
        _ => return Err(Fault::unauthorized()),
    };
    let project_id = scope(&call.snapshot, auth, &user, scoped_before)?;
    let mut bytes = [0_u8; 32];
    rand::rng().fill_bytes(&mut bytes);
    let secret = token_text(&bytes);
    let token = Token {
        user_id: user.id.clone(),
        project_id,
        methods: methods.iter().map(|&method| method.to_owned()).collect(),
        audit_id: fresh_id(),
        issued_at: now,
        expires_at,
    };
    let caller = Caller {
        user_id: user.id.clone(),
        user_name: user.name.clone(),
        project_id: token.project_id.clone().unwrap_or_default(),
        ..Caller::default()
    };
    let (stored, record) = (token_key(&secret), Arc::new(token.clone()));
    let keep = move |view: &mut View| {
        view.put(stored.as_str(), Arc::<Token>::clone(&record));
        Ok(())
    };
    api.change(&caller, "issue", "token", &token.audit_id, keep)
        .await?;
    let body = token_body(&call.snapshot, &token, &user, &call.origin);
    Ok(with_subject(respond(StatusCode::CREATED, &body), &secret))
}

async fn check_password(api: &Api, snapshot: &Snapshot, given: &Value) -> Result<Arc<User>, Fault> {
    let text = |name: &str| given.get(name).and_then(Value::as_str);
    let user = match (text("id"), text("name")) {
        (Some(id), _) => snapshot.get::<User>(&key("user", id)),
        (None, Some(name)) => by_name::<User>(snapshot, "user", name),
        (None, None) => return Err(Fault::bad("user needs an id or a name")),
    };
    let user = user.filter(|user| user.enabled && is_domain(given.get("domain")));
    let password = text("password")
        .ok_or_else(|| Fault::bad("password is missing"))?
        .to_owned();
    let hash = user.as_ref().and_then(|user| user.password_hash.clone());
    let verified = verify(api, password, hash).await;
    user.filter(|_| verified).ok_or_else(Fault::unauthorized)
}

async fn verify(api: &Api, password: String, hash: Option<String>) -> bool {
    let _turn = api.logins.acquire().await;
    let work = move || identity::verify_password(&password, hash.as_deref());
    tokio::task::spawn_blocking(work).await.unwrap_or(false)
}

/// The project that the token is to be for.
fn scope(
    snapshot: &Snapshot,
    auth: &Value,
    user: &User,
    before: Option<String>,
) -> Result<Option<String>, Fault> {
    let project = match auth.get("scope") {
        None => {
            let wanted = before.or_else(|| user.default_project_id.clone());
            // A default that is no longer there leaves the token without a scope.
            let project = wanted.and_then(|id| snapshot.get::<Project>(&key("project", &id)));
            return Ok(project
                .filter(|project| {
                    project.enabled && !roles_in(snapshot, &project.id, &user.id).is_empty()
                })
                .map(|project| project.id.clone()));
        }
        Some(Value::String(word)) if word == "unscoped" => return Ok(None),
        Some(scope) if scope.get("unscoped").is_some() => return Ok(None),
        Some(scope) => scope.get("project").ok_or_else(Fault::unauthorized)?,
    };
    let text = |name: &str| project.get(name).and_then(Value::as_str);
    let found = match (text("id"), text("name")) {
        (Some(id), _) => snapshot.get::<Project>(&key("project", id)),
        (None, Some(name)) if is_domain(project.get("domain")) => {
            by_name::<Project>(snapshot, "project", name)
        }
        _ => None,
    };
    let found = found
        .filter(|project| project.enabled)
        .filter(|project| !roles_in(snapshot, &project.id, &user.id).is_empty());
    Ok(Some(found.ok_or_else(Fault::unauthorized)?.id.clone()))
}

fn domain_reference() -> Value {
    json!({"id": DOMAIN, "name": "Default"})
}

fn token_body(snapshot: &Snapshot, token: &Token, user: &User, origin: &str) -> Value {
    let mut body = json!({
        "methods": token.methods,
        "user": {
            "domain": domain_reference(),
            "id": user.id,
            "name": user.name,
            "password_expires_at": null,
        },
        "audit_ids": [token.audit_id],
        "expires_at": token.expires_at.iso_micros(),
        "issued_at": token.issued_at.iso_micros(),
    });
    let project = token
        .project_id
        .as_ref()
        .and_then(|id| snapshot.get::<Project>(&key("project", id)));
    if let (Some(project), Some(body)) = (project, body.as_object_mut()) {
        let roles: Vec<Value> = roles_in(snapshot, &project.id, &user.id)
            .iter()
            .map(|role| json!({"id": role.id, "name": role.name}))
            .collect();
        body.insert(
            "project".to_owned(),
            json!({
                "domain": domain_reference(), "id": project.id, "name": project.name,
            }),
        );
        body.insert("is_domain".to_owned(), json!(false));
        body.insert("roles".to_owned(), Value::Array(roles));
        body.insert("catalog".to_owned(), catalog(origin));
    }
    json!({"token": body})
}

/// Type, name, path of each service.
const SERVICES: &[(&str, &str, &str)] = &[
    ("identity", "keystone", "/identity/v3"),
    ("network", "neutron", ""),
];

fn service_id(kind: &str, part: &str) -> String {
    let name = format!("overweave/{kind}/{part}");
    Uuid::new_v5(&Uuid::NAMESPACE_URL, name.as_bytes())
        .simple()
        .to_string()
}

fn catalog(origin: &str) -> Value {
    SERVICES
        .iter()
        .map(|(kind, name, path)| {
            let endpoints: Vec<Value> = ["public", "internal", "admin"]
                .iter()
                .map(|interface| {
                    json!({
                        "id": service_id(kind, interface),
                        "interface": interface,
                        "region": "RegionOne",
                        "region_id": "RegionOne",
                        "url": format!("{origin}{path}"),
                    })
                })
                .collect();
            let id = service_id(kind, "service");
            json!({"type": kind, "name": name, "id": id, "endpoints": endpoints})
        })
        .collect()
}

async fn auth_views(
    State(api): State<Api>,
    Path(what): Path<String>,
    request: Request<Body>,
) -> Response<Body> {
    let answer = async {
        let (call, caller) = api.known_call(request).await?;
        if call.method != Method::GET {
            return Err(Fault::method());
        }
        let links = json!({"self": format!("{}/identity/v3/auth/{what}", call.origin)});
        match what.as_str() {
            "catalog" => {
                let body = json!({"catalog": catalog(&call.origin), "links": links});
                Ok(respond(StatusCode::OK, &body))
            }
            "projects" => {
                let rows: Vec<Value> = projects_of(&call.snapshot, &caller.user_id)
                    .iter()
                    .map(|project| project_row(project, &call.origin))
                    .collect();
                Ok(respond(
                    StatusCode::OK,
                    &json!({"projects": rows, "links": links}),
                ))
            }
            "domains" => {
                let body = json!({"domains": [domain_row(&call.origin)], "links": links});
                Ok(respond(StatusCode::OK, &body))
            }
            "system" => Ok(respond(
                StatusCode::OK,
                &json!({"system": [], "links": links}),
            )),
            _ => Err(Fault::missing("path", &what)),
        }
    };
    finish(answer.await)
}

// --- the one domain

fn domain_row(origin: &str) -> Value {
    json!({
        "id": DOMAIN,
        "name": "Default",
        "description": "The only domain",
        "enabled": true,
        "options": {},
        "tags": [],
        "links": {"self": format!("{origin}/identity/v3/domains/{DOMAIN}")},
    })
}

async fn domains(
    State(api): State<Api>,
    Query(query): Query<HashMap<String, String>>,
    request: Request<Body>,
) -> Response<Body> {
    let answer = async {
        let (call, _) = api.known_call(request).await?;
        if call.method != Method::GET {
            return Err(Fault::forbidden());
        }
        let fits = query
            .get("name")
            .is_none_or(|name| name.eq_ignore_ascii_case("Default"));
        let rows: Vec<Value> = fits.then(|| domain_row(&call.origin)).into_iter().collect();
        Ok(respond(
            StatusCode::OK,
            &listed("domains", rows, &call.origin),
        ))
    };
    finish(answer.await)
}

async fn domain(
    State(api): State<Api>,
    Path(id): Path<String>,
    request: Request<Body>,
) -> Response<Body> {
    let answer = async {
        let (call, _) = api.known_call(request).await?;
        match call.method {
            Method::GET if id == DOMAIN => Ok(respond(
                StatusCode::OK,
                &json!({"domain": domain_row(&call.origin)}),
            )),
            Method::GET => Err(Fault::missing("domain", &id)),
            _ => Err(Fault::forbidden()),
        }
    };
    finish(answer.await)
}

// --- projects, users, roles

#[expect(clippy::needless_pass_by_value, reason = "the rows go into the body")]
fn listed(plural: &str, rows: Vec<Value>, origin: &str) -> Value {
    let own = format!("{origin}/identity/v3/{plural}");
    json!({plural: rows, "links": {"next": null, "self": own, "previous": null}})
}

fn project_row(project: &Project, origin: &str) -> Value {
    json!({
        "id": project.id,
        "name": project.name,
        "domain_id": DOMAIN,
        "description": project.description,
        "enabled": project.enabled,
        "parent_id": DOMAIN,
        "is_domain": false,
        "options": {},
        "tags": [],
        "links": {"self": format!("{origin}/identity/v3/projects/{}", project.id)},
    })
}

fn user_row(user: &User, origin: &str) -> Value {
    json!({
        "id": user.id,
        "name": user.name,
        "domain_id": DOMAIN,
        "description": user.description,
        "email": user.email,
        "enabled": user.enabled,
        "default_project_id": user.default_project_id,
        "password_expires_at": null,
        "options": {},
        "links": {"self": format!("{origin}/identity/v3/users/{}", user.id)},
    })
}

fn role_row(role: &Role, origin: &str) -> Value {
    json!({
        "id": role.id,
        "name": role.name,
        "domain_id": null,
        "description": role.description,
        "options": {},
        "links": {"self": format!("{origin}/identity/v3/roles/{}", role.id)},
    })
}

/// The three kinds of named records, told apart by their collection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Project,
    User,
    Role,
}

impl Kind {
    fn of(collection: &str) -> Option<Self> {
        match collection {
            "projects" => Some(Self::Project),
            "users" => Some(Self::User),
            "roles" => Some(Self::Role),
            _ => None,
        }
    }

    const fn word(self) -> &'static str {
        match self {
            Self::Project => "project",
            Self::User => "user",
            Self::Role => "role",
        }
    }

    fn row(self, snapshot: &Snapshot, id: &str, origin: &str) -> Option<Value> {
        let key = key(self.word(), id);
        match self {
            Self::Project => snapshot
                .get(&key)
                .map(|it: Arc<Project>| project_row(&it, origin)),
            Self::User => snapshot
                .get(&key)
                .map(|it: Arc<User>| user_row(&it, origin)),
            Self::Role => snapshot
                .get(&key)
                .map(|it: Arc<Role>| role_row(&it, origin)),
        }
    }
}

async fn collection(
    State(api): State<Api>,
    Path(name): Path<String>,
    Query(query): Query<HashMap<String, String>>,
    request: Request<Body>,
) -> Response<Body> {
    let answer = async {
        let (call, caller) = api.known_call(request).await?;
        if let ("services" | "endpoints" | "regions", &Method::GET) = (name.as_str(), &call.method)
        {
            return services(&name, &query, &call, &caller);
        }
        let kind = Kind::of(&name).ok_or_else(|| Fault::missing("path", &name))?;
        match call.method {
            Method::GET => {
                // A caller who is no admin finds itself and its own.
                let own = |id: &str| {
                    caller.admin
                        || id == caller.user_id
                        || id == caller.project_id
                        || kind == Kind::Role
                };
                let prefix = format!("{}/", kind.word());
                let rows: Vec<Value> = call
                    .snapshot
                    .scan(&prefix)
                    .filter_map(|(key, _)| key.strip_prefix(&prefix))
                    .filter(|id| own(id))
                    .filter_map(|id| kind.row(&call.snapshot, id, &call.origin))
                    .filter(|row| fits(row, &query))
                    .collect();
                Ok(respond(StatusCode::OK, &listed(&name, rows, &call.origin)))
            }
            Method::POST => {
                if !caller.admin {
                    return Err(Fault::forbidden());
                }
                let id = write(&api, kind, None, &call.body, &caller).await?;
                let snapshot = api.core.store.snapshot();
                let row = kind.row(&snapshot, &id, &call.origin);
                Ok(respond(StatusCode::CREATED, &json!({kind.word(): row})))
            }
            _ => Err(Fault::method()),
        }
    };
    finish(answer.await)
}

fn fits(row: &Value, query: &HashMap<String, String>) -> bool {
    query.iter().all(|(name, wanted)| match row.get(name) {
        Some(Value::String(have)) => have == wanted,
        Some(Value::Bool(have)) => have.to_string().eq_ignore_ascii_case(wanted),
        _ => true,
    })
}

fn services(name: &str, query: &HashMap<String, String>, call: &Call, caller: &Caller) -> Answer {
    if !caller.admin {
        return Err(Fault::forbidden());
    }
    let mut rows = Vec::new();
    for (kind, service, path) in SERVICES {
        let service_id = service_id(kind, "service");
        match name {
            "services" => rows.push(json!({
                "id": service_id, "type": kind, "name": service, "enabled": true, "links": {},
            })),
            "endpoints" => rows.push(json!({
                "id": self::service_id(kind, "public"), "service_id": service_id,
                "interface": "public", "region": "RegionOne", "region_id": "RegionOne",
                "url": format!("{}{path}", call.origin), "enabled": true, "links": {},
            })),
            _ => {}
        }
    }
    if name == "regions" {
        rows.push(json!({
            "id": "RegionOne", "description": "", "parent_region_id": null, "links": {},
        }));
    }
    rows.retain(|row| fits(row, query));
    Ok(respond(StatusCode::OK, &listed(name, rows, &call.origin)))
}

async fn item(
    State(api): State<Api>,
    Path((name, id)): Path<(String, String)>,
    request: Request<Body>,
) -> Response<Body> {
    let answer = async {
        let (call, caller) = api.known_call(request).await?;
        let kind = Kind::of(&name).ok_or_else(|| Fault::missing("path", &name))?;
        let row = kind.row(&call.snapshot, &id, &call.origin);
        let own = caller.admin || id == caller.user_id || id == caller.project_id;
        match call.method {
            Method::GET | Method::HEAD => {
                if !own && kind != Kind::Role {
                    return Err(Fault::forbidden());
                }
                let row = row.ok_or_else(|| Fault::missing(kind.word(), &id))?;
                Ok(respond(StatusCode::OK, &json!({kind.word(): row})))
            }
            Method::PATCH | Method::DELETE if !caller.admin => Err(Fault::forbidden()),
            Method::PATCH | Method::DELETE if row.is_none() => {
                Err(Fault::missing(kind.word(), &id))
            }
            Method::PATCH => {
                write(&api, kind, Some(id.clone()), &call.body, &caller).await?;
                let row = kind.row(&api.core.store.snapshot(), &id, &call.origin);
                Ok(respond(StatusCode::OK, &json!({kind.word(): row})))
            }
            Method::DELETE => {
                let gone = id.clone();
                let remove = move |view: &mut View| {
                    remove(view, kind, &gone);
                    Ok(())
                };
                api.change(&caller, "delete", kind.word(), &id, remove)
                    .await?;
                Ok(respond_empty(StatusCode::NO_CONTENT))
            }
            _ => Err(Fault::method()),
        }
    };
    finish(answer.await)
}

/// What a body may say of a named record.
#[derive(Debug, Clone, Default)]
struct Wanted {
    name: Option<String>,
    description: Option<String>,
    enabled: Option<bool>,
    email: Option<String>,
    default_project_id: Option<String>,
    password_hash: Option<String>,
}

async fn wanted(api: &Api, kind: Kind, body: &Value) -> Result<Wanted, Fault> {
    let given = body.get(kind.word()).and_then(Value::as_object);
    let given: &Map<String, Value> =
        given.ok_or_else(|| Fault::bad(format!("{} is missing", kind.word())))?;
    let text = |name: &str| match given.get(name) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) if text.len() <= 255 && !text.contains('\0') => {
            Ok(Some(text.clone()))
        }
        Some(_) => Err(Fault::bad(format!(
            "{name} is not a text of at most 255 characters"
        ))),
    };
    let name = text("name")?;
    if name.as_ref().is_some_and(|name| name.trim().is_empty()) {
        return Err(Fault::bad("name is empty"));
    }
    if let Some(domain) = text("domain_id")?
        && domain != DOMAIN
    {
        return Err(Fault::missing("domain", &domain));
    }
    let enabled = match given.get("enabled") {
        None => None,
        Some(value) => Some(
            super::body::boolean(value).ok_or_else(|| Fault::bad("enabled is not a boolean"))?,
        ),
    };
    let password_hash = match text("password")? {
        Some(password) => Some(hashed(api, password).await?),
        None => None,
    };
    Ok(Wanted {
        name,
        description: text("description")?,
        enabled,
        email: text("email")?,
        default_project_id: text("default_project_id")?,
        password_hash,
    })
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

/// Makes or changes a named record; its id.
async fn write(
    api: &Api,
    kind: Kind,
    id: Option<String>,
    body: &Value,
    caller: &Caller,
) -> Result<String, Fault> {
    let wanted = wanted(api, kind, body).await?;
    if id.is_none() && wanted.name.is_none() {
        return Err(Fault::bad("name is missing"));
    }
    let verb = if id.is_some() { "update" } else { "create" };
    let new = id.is_none();
    let id = id.unwrap_or_else(fresh_id);
    let stored = id.clone();
    let rule = move |view: &mut View| store_named(view, kind, &stored, new, &wanted);
    api.change(caller, verb, kind.word(), &id, rule).await?;
    Ok(id)
}

fn store_named(
    view: &mut View,
    kind: Kind,
    id: &str,
    new: bool,
    wanted: &Wanted,
) -> Result<(), Fault> {
    let word = kind.word();
    if let Some(name) = &wanted.name {
        match view.get::<String>(&name_key(word, name)) {
            Some(holder) if *holder != id => {
                return Err(Fault(
                    StatusCode::CONFLICT,
                    format!(
                        "Conflict occurred attempting to store {word} - Duplicate entry found with name {name}."
                    ),
                ));
            }
            _ => {}
        }
        if let Some(old) = name_of(view, kind, id) {
            view.delete(&name_key(word, &old));
        }
        view.put(name_key(word, name), Arc::new(id.to_owned()));
    }
    let key = key(word, id);
    let gone = || Fault::missing(word, id);
    match kind {
        Kind::Project => {
            let mut project = match view.get::<Project>(&key) {
                Some(project) => Project::clone(&project),
                None if new => Project {
                    id: id.to_owned(),
                    name: String::new(),
                    description: String::new(),
                    enabled: true,
                },
                None => return Err(gone()),
            };
            set(&mut project.name, wanted.name.as_ref());
            set(&mut project.description, wanted.description.as_ref());
            set(&mut project.enabled, wanted.enabled.as_ref());
            view.put(key, Arc::new(project));
        }
        Kind::User => {
            let mut user = match view.get::<User>(&key) {
                Some(user) => User::clone(&user),
                None if new => User {
                    id: id.to_owned(),
                    name: String::new(),
                    description: String::new(),
                    email: None,
                    enabled: true,
                    default_project_id: None,
                    password_hash: None,
                },
                None => return Err(gone()),
            };
            set(&mut user.name, wanted.name.as_ref());
            set(&mut user.description, wanted.description.as_ref());
            set(&mut user.enabled, wanted.enabled.as_ref());
            if wanted.email.is_some() {
                user.email.clone_from(&wanted.email);
            }
            if wanted.default_project_id.is_some() {
                user.default_project_id
                    .clone_from(&wanted.default_project_id);
            }
            if wanted.password_hash.is_some() {
                user.password_hash.clone_from(&wanted.password_hash);
            }
            view.put(key, Arc::new(user));
        }
        Kind::Role => {
            let mut role = match view.get::<Role>(&key) {
                Some(role) => Role::clone(&role),
                None if new => Role {
                    id: id.to_owned(),
                    name: String::new(),
                    description: String::new(),
                },
                None => return Err(gone()),
            };
            set(&mut role.name, wanted.name.as_ref());
            set(&mut role.description, wanted.description.as_ref());
            view.put(key, Arc::new(role));
        }
    }
    Ok(())
}

fn set<T: Clone>(slot: &mut T, value: Option<&T>) {
    if let Some(value) = value {
        slot.clone_from(value);
    }
}

fn name_of(view: &View, kind: Kind, id: &str) -> Option<String> {
    let key = key(kind.word(), id);
    match kind {
        Kind::Project => view.get::<Project>(&key).map(|it| it.name.clone()),
        Kind::User => view.get::<User>(&key).map(|it| it.name.clone()),
        Kind::Role => view.get::<Role>(&key).map(|it| it.name.clone()),
    }
}

fn remove(view: &mut View, kind: Kind, id: &str) {
    if let Some(name) = name_of(view, kind, id) {
        view.delete(&name_key(kind.word(), &name));
    }
    view.delete(&key(kind.word(), id));
    let concerned: Vec<String> = view
        .scan("assignment/")
        .filter(|(_, entry)| {
            entry
                .peek::<Assignment>()
                .is_some_and(|assignment| match kind {
                    Kind::Project => assignment.project_id == id,
                    Kind::User => assignment.user_id == id,
                    Kind::Role => assignment.role_id == id,
                })
        })
        .map(|(key, _)| key.to_owned())
        .collect();
    for key in concerned {
        view.delete(&key);
    }
}

// --- passwords and assignments

async fn own_password(
    State(api): State<Api>,
    Path(user): Path<String>,
    request: Request<Body>,
) -> Response<Body> {
    let answer = async {
        let call = api.call(request).await?;
        if call.method != Method::POST {
            return Err(Fault::method());
        }
        let text = |name: &str| {
            call.body
                .pointer(&format!("/user/{name}"))
                .and_then(Value::as_str)
        };
        let (Some(old), Some(new)) = (text("original_password"), text("password")) else {
            return Err(Fault::bad("original_password and password are wanted"));
        };
        let given = json!({"id": user, "password": old});
        let known = check_password(&api, &call.snapshot, &given).await?;
        let caller = Caller {
            user_id: known.id.clone(),
            user_name: known.name.clone(),
            ..Caller::default()
        };
        let hash = hashed(&api, new.to_owned()).await?;
        let id = known.id.clone();
        let rule = move |view: &mut View| {
            let wanted = Wanted {
                password_hash: Some(hash.clone()),
                ..Wanted::default()
            };
            store_named(view, Kind::User, &id, false, &wanted)
        };
        api.change(&caller, "update", "user", &user, rule).await?;
        Ok(respond_empty(StatusCode::NO_CONTENT))
    };
    finish(answer.await)
}

async fn user_projects(
    State(api): State<Api>,
    Path(user): Path<String>,
    request: Request<Body>,
) -> Response<Body> {
    let answer = async {
        let (call, caller) = api.known_call(request).await?;
        if call.method != Method::GET {
            return Err(Fault::method());
        }
        if !caller.admin && caller.user_id != user {
            return Err(Fault::forbidden());
        }
        let rows = projects_of(&call.snapshot, &user);
        let rows = rows
            .iter()
            .map(|project| project_row(project, &call.origin))
            .collect();
        Ok(respond(
            StatusCode::OK,
            &listed("projects", rows, &call.origin),
        ))
    };
    finish(answer.await)
}

async fn project_roles(
    State(api): State<Api>,
    Path((project, user)): Path<(String, String)>,
    request: Request<Body>,
) -> Response<Body> {
    let answer = async {
        let (call, caller) = api.known_call(request).await?;
        if !caller.admin {
            return Err(Fault::forbidden());
        }
        let prefix = format!("assignment/{project}/{user}/");
        let rows: Vec<Value> = call
            .snapshot
            .scan(&prefix)
            .filter_map(|(_, entry)| entry.peek::<Assignment>())
            .filter_map(|it| Kind::Role.row(&call.snapshot, &it.role_id, &call.origin))
            .collect();
        Ok(respond(
            StatusCode::OK,
            &listed("roles", rows, &call.origin),
        ))
    };
    finish(answer.await)
}

async fn project_role(
    State(api): State<Api>,
    Path((project, user, role)): Path<(String, String, String)>,
    request: Request<Body>,
) -> Response<Body> {
    let answer = async {
        let (call, caller) = api.known_call(request).await?;
        if !caller.admin {
            return Err(Fault::forbidden());
        }
        let stored = assignment_key(&project, &user, &role);
        let missing = Fault::missing("role assignment", &role);
        match call.method {
            Method::GET | Method::HEAD => match call.snapshot.entry(&stored) {
                Some(_) => Ok(respond_empty(StatusCode::NO_CONTENT)),
                None => Err(missing),
            },
            Method::PUT => {
                let id = role.clone();
                let rule = move |view: &mut View| {
                    for (kind, id) in [("project", &project), ("user", &user), ("role", &role)] {
                        if view.entry(&key(kind, id)).is_none() {
                            return Err(Fault::missing(kind, id));
                        }
                    }
                    let assignment = Assignment {
                        user_id: user.clone(),
                        project_id: project.clone(),
                        role_id: role.clone(),
                    };
                    view.put(stored.as_str(), Arc::new(assignment));
                    Ok(())
                };
                api.change(&caller, "assign", "role", &id, rule).await?;
                Ok(respond_empty(StatusCode::NO_CONTENT))
            }
            Method::DELETE => {
                let id = role.clone();
                let rule = move |view: &mut View| {
                    if view.delete(&stored) {
                        Ok(())
                    } else {
                        Err(Fault::missing("role assignment", &role))
                    }
                };
                api.change(&caller, "unassign", "role", &id, rule).await?;
                Ok(respond_empty(StatusCode::NO_CONTENT))
            }
            _ => Err(Fault::method()),
        }
    };
    finish(answer.await)
}

async fn role_assignments(
    State(api): State<Api>,
    Query(query): Query<HashMap<String, String>>,
    request: Request<Body>,
) -> Response<Body> {
    let answer = async {
        let (call, caller) = api.known_call(request).await?;
        if call.method != Method::GET {
            return Err(Fault::method());
        }
        let wants = |name: &str, have: &str| query.get(name).is_none_or(|wanted| wanted == have);
        let names = query.contains_key("include_names");
        let named = |kind: Kind, id: &str| {
            let row = kind.row(&call.snapshot, id, "");
            let name = row
                .as_ref()
                .and_then(|row| row.get("name"))
                .filter(|_| names);
            match name {
                Some(name) if kind == Kind::Role => json!({"id": id, "name": name}),
                Some(name) => json!({"id": id, "name": name, "domain": domain_reference()}),
                None => json!({"id": id}),
            }
        };
        let rows: Vec<Value> = call
            .snapshot
            .scan("assignment/")
            .filter_map(|(_, entry)| entry.peek::<Assignment>())
            .filter(|it| caller.admin || it.user_id == caller.user_id)
            .filter(|it| {
                wants("user.id", &it.user_id)
                    && wants("role.id", &it.role_id)
                    && wants("scope.project.id", &it.project_id)
            })
            .map(|it| {
                json!({
                    "role": named(Kind::Role, &it.role_id),
                    "user": named(Kind::User, &it.user_id),
                    "scope": {"project": named(Kind::Project, &it.project_id)},
                    "links": {},
                })
            })
            .collect();
        Ok(respond(
            StatusCode::OK,
            &listed("role_assignments", rows, &call.origin),
        ))
    };
    finish(answer.await)
}
