//! How is a token got, shown and revoked, and what does it lead to?

use super::{Answer, Fault, SUBJECT, credentials, domain_reference, finish, fresh_id, hashed};
use crate::{
    api::{
        Api,
        error::{respond, respond_empty},
        keystone::{
            records::{Kind, domain_row, project_row},
            stored::{Wanted, store_named},
        },
    },
    identity::{
        self, DOMAIN, Project, TOKEN_LIFE, Token, User, by_name_in, domains_of, is_domain_open,
        key, projects_of, roles_in, roles_of, token_key, token_text,
    },
    rules::Caller,
    store::{Read, Snapshot, View},
};
use axum::{
    body::Body,
    extract::{Path, State},
    http::{HeaderValue, Method, Request, Response, StatusCode},
};
use rand::RngCore;
use serde_json::{Value, json};
use std::sync::Arc;
use uuid::Uuid;

pub(super) async fn tokens(State(api): State<Api>, request: Request<Body>) -> Response<Body> {
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

pub(super) fn with_subject(mut response: Response<Body>, token: &str) -> Response<Body> {
    if let Ok(value) = HeaderValue::from_str(token) {
        response.headers_mut().insert(SUBJECT, value);
    }
    response
}

/// The domain that is named by id or name; none named is the one that is always there.
pub(super) fn named_domain(read: &impl Read, value: Option<&Value>) -> Option<String> {
    let Some(domain) = value else {
        return Some(DOMAIN.to_owned());
    };
    let text = |name: &str| domain.get(name).and_then(Value::as_str);
    let found = match (text("id"), text("name")) {
        (Some(id), _) => identity::domain(read, id),
        (None, Some(name)) => identity::domain_by_name(read, name),
        (None, None) => return Some(DOMAIN.to_owned()),
    };
    let found = found.filter(|it| text("id").is_none_or(|id| it.id == id));
    found.map(|domain| domain.id.clone())
}

pub(super) async fn issue(api: &Api, request: Request<Body>) -> Answer {
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
    let expires = now.plus(TOKEN_LIFE);
    let (user, expires_at, got) = match methods.as_slice() {
        ["password"] => {
            let given = who.pointer("/password/user");
            let given = given.ok_or_else(|| Fault::bad("password.user is missing"))?;
            (
                check_password(api, &call.snapshot, given).await?,
                expires,
                Got::Password,
            )
        }
        ["token"] => {
            let given = who.pointer("/token/id").and_then(Value::as_str);
            let given = given.ok_or_else(|| Fault::bad("token.id is missing"))?;
            let found = identity::good_token(&call.snapshot, given, now);
            let (token, user) = found.ok_or_else(Fault::unauthorized)?;
            let got = match &token.credential_id {
                // It stays what it was.
                Some(id) => Got::Credential(id.clone(), token.project_id.clone()),
                None => Got::Token(token.project_id.clone()),
            };
            (user, token.expires_at, got)
        }
        ["application_credential"] => {
            let given = who.get("application_credential");
            let given = given.ok_or_else(|| Fault::bad("application_credential is missing"))?;
            let (it, user) = credentials::check(api, &call.snapshot, given, now).await?;
            let until = it.expires_at.map_or(expires, |at| at.min(expires));
            let project = Some(it.project_id.clone());
            (user, until, Got::Credential(it.id.clone(), project))
        }
        [] => return Err(Fault::bad("methods is missing")),
        _ => return Err(Fault::unauthorized()),
    };
    let (place, credential_id) = match got {
        Got::Password => (scope(&call.snapshot, auth, &user, None)?, None),
        Got::Token(before) => (scope(&call.snapshot, auth, &user, before)?, None),
        Got::Credential(id, project) => {
            // A credential is for its own project: none is to be named, or that one.
            if auth.get("scope").is_some() {
                let wanted = scope(&call.snapshot, auth, &user, None)?;
                if wanted.domain.is_some() || wanted.project != project {
                    return Err(Fault::unauthorized());
                }
            }
            let project = good_project(&call.snapshot, project.as_deref(), &user)?;
            let place = Place {
                project,
                domain: None,
            };
            (place, Some(id))
        }
    };
    let mut bytes = [0_u8; 32];
    rand::rng().fill_bytes(&mut bytes);
    let secret = token_text(&bytes);
    let token = Token {
        user_id: user.id.clone(),
        project_id: place.project,
        domain_id: place.domain,
        methods: methods.iter().map(|&method| method.to_owned()).collect(),
        audit_id: fresh_id(),
        issued_at: now,
        expires_at,
        credential_id,
        revocations: user.revocations,
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

/// By what a token is got.
enum Got {
    Password,
    /// With the project of the other token.
    Token(Option<String>),
    /// With its id and its project.
    Credential(String, Option<String>),
}

/// The project of a credential, if its user still has a role there.
fn good_project(
    snapshot: &Snapshot,
    project: Option<&str>,
    user: &User,
) -> Result<Option<String>, Fault> {
    let found = project.and_then(|id| snapshot.get::<Project>(&key("project", id)));
    let found = found.filter(|project| is_open(snapshot, project, user));
    found
        .map(|project| Some(project.id.clone()))
        .ok_or_else(Fault::unauthorized)
}

pub(super) async fn check_password(
    api: &Api,
    snapshot: &Snapshot,
    given: &Value,
) -> Result<Arc<User>, Fault> {
    let text = |name: &str| given.get(name).and_then(Value::as_str);
    let user = match (text("id"), text("name")) {
        (Some(id), _) => snapshot.get::<User>(&key("user", id)),
        (None, Some(name)) => named_domain(snapshot, given.get("domain"))
            .and_then(|domain| by_name_in::<User>(snapshot, "user", &domain, name)),
        (None, None) => return Err(Fault::bad("user needs an id or a name")),
    };
    let user = user.filter(|user| user.enabled && is_domain_open(snapshot, &user.domain_id));
    let password = text("password")
        .ok_or_else(|| Fault::bad("password is missing"))?
        .to_owned();
    let hash = user.as_ref().and_then(|user| user.password_hash.clone());
    let verified = verify(api, password, hash).await;
    user.filter(|_| verified).ok_or_else(Fault::unauthorized)
}

pub(super) async fn verify(api: &Api, password: String, hash: Option<String>) -> bool {
    let _turn = api.logins.acquire().await;
    let work = move || identity::verify_password(&password, hash.as_deref());
    tokio::task::spawn_blocking(work).await.unwrap_or(false)
}

/// What a token is for.
#[derive(Debug, Default)]
pub(super) struct Place {
    pub(super) project: Option<String>,
    pub(super) domain: Option<String>,
}

/// Can this user have a token for the project?
fn is_open(snapshot: &Snapshot, project: &Project, user: &User) -> bool {
    project.enabled
        && is_domain_open(snapshot, &project.domain_id)
        && !roles_in(snapshot, &project.id, &user.id).is_empty()
}

/// What the token is to be for.
pub(super) fn scope(
    snapshot: &Snapshot,
    auth: &Value,
    user: &User,
    before: Option<String>,
) -> Result<Place, Fault> {
    let of_project = |project: Option<Arc<Project>>| Place {
        project: project.map(|project| project.id.clone()),
        domain: None,
    };
    let scope = match auth.get("scope") {
        None => {
            let wanted = before.or_else(|| user.default_project_id.clone());
            // A default that is no longer there leaves the token without a scope.
            let project = wanted.and_then(|id| snapshot.get::<Project>(&key("project", &id)));
            let project = project.filter(|project| is_open(snapshot, project, user));
            return Ok(of_project(project));
        }
        Some(Value::String(word)) if word == "unscoped" => return Ok(Place::default()),
        Some(scope) if scope.get("unscoped").is_some() => return Ok(Place::default()),
        Some(scope) => scope,
    };
    if let Some(domain) = scope.get("domain").filter(|it| it.is_object()) {
        let named = domain.get("id").is_some() || domain.get("name").is_some();
        let id = named_domain(snapshot, Some(domain)).filter(|_| named);
        let id = id.filter(|id| is_domain_open(snapshot, id));
        let id = id.filter(|id| !roles_in(snapshot, &format!("@{id}"), &user.id).is_empty());
        return Ok(Place {
            project: None,
            domain: Some(id.ok_or_else(Fault::unauthorized)?),
        });
    }
    let project = scope.get("project").ok_or_else(Fault::unauthorized)?;
    let text = |name: &str| project.get(name).and_then(Value::as_str);
    let found = match (text("id"), text("name")) {
        (Some(id), _) => snapshot.get::<Project>(&key("project", id)),
        (None, Some(name)) => named_domain(snapshot, project.get("domain"))
            .and_then(|domain| by_name_in::<Project>(snapshot, "project", &domain, name)),
        (None, None) => None,
    };
    let found = found.filter(|project| is_open(snapshot, project, user));
    found
        .map(|project| of_project(Some(project)))
        .ok_or_else(Fault::unauthorized)
}

pub(super) fn token_body(snapshot: &Snapshot, token: &Token, user: &User, origin: &str) -> Value {
    let mut body = json!({
        "methods": token.methods,
        "user": {
            "domain": domain_reference(snapshot, &user.domain_id),
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
    let place = match (&project, &token.domain_id) {
        (Some(project), _) => {
            let domain = domain_reference(snapshot, &project.domain_id);
            let of = json!({"domain": domain, "id": project.id, "name": project.name});
            Some(("project", of))
        }
        (None, Some(id)) => Some(("domain", domain_reference(snapshot, id))),
        (None, None) => None,
    };
    if let (Some((word, place)), Some(body)) = (place, body.as_object_mut()) {
        let roles: Vec<Value> = roles_of(snapshot, token)
            .iter()
            .map(|role| json!({"id": role.id, "name": role.name}))
            .collect();
        body.insert(word.to_owned(), place);
        if word == "project" {
            body.insert("is_domain".to_owned(), json!(false));
        }
        let by = token.credential_id.as_deref();
        if let Some(by) = by.and_then(|id| credentials::told(snapshot, id)) {
            body.insert("application_credential".to_owned(), by);
        }
        body.insert("roles".to_owned(), Value::Array(roles));
        body.insert("catalog".to_owned(), catalog(origin));
    }
    json!({"token": body})
}

/// Type, name, path of each service.
pub(super) const SERVICES: &[(&str, &str, &str)] = &[
    ("identity", "keystone", "/identity/v3"),
    ("network", "neutron", ""),
    ("load-balancer", "octavia", "/load-balancer"),
    ("key-manager", "barbican", "/key-manager"),
];

pub(super) fn service_id(kind: &str, part: &str) -> String {
    let name = format!("overweave/{kind}/{part}");
    Uuid::new_v5(&Uuid::NAMESPACE_URL, name.as_bytes())
        .simple()
        .to_string()
}

pub(super) fn catalog(origin: &str) -> Value {
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

pub(super) async fn auth_views(
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
                let rows = domains_of(&call.snapshot, &caller.user_id);
                let rows: Vec<Value> = rows
                    .iter()
                    .map(|domain| domain_row(domain, &call.origin))
                    .collect();
                let body = json!({"domains": rows, "links": links});
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

pub(super) async fn own_password(
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
