//! How is a token got, shown and revoked, and what does it lead to?

use super::{
    Answer, Fault, SUBJECT, credentials, domain_reference, domain_row, finish, fresh_id, hashed,
};
use crate::{
    api::{
        Api,
        error::{respond, respond_empty},
        keystone::records::{Kind, Wanted, project_row, store_named},
    },
    identity::{
        self, DOMAIN, Project, TOKEN_LIFE, Token, User, by_name, key, projects_of, roles_in,
        roles_of, token_key, token_text,
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

/// Is this the one domain, by id or name? None named is it too.
pub(super) fn is_domain(value: Option<&Value>) -> bool {
    let Some(domain) = value else { return true };
    let is = |name: &str, wanted: &str| match domain.get(name).and_then(Value::as_str) {
        Some(text) => text.eq_ignore_ascii_case(wanted),
        None => true,
    };
    is("id", DOMAIN) && is("name", "Default")
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
    let (project_id, credential_id) = match got {
        Got::Password => (scope(&call.snapshot, auth, &user, None)?, None),
        Got::Token(before) => (scope(&call.snapshot, auth, &user, before)?, None),
        Got::Credential(id, project) => {
            // A credential is for its own project: none is to be named, or that one.
            if auth.get("scope").is_some() {
                let wanted = scope(&call.snapshot, auth, &user, None)?;
                if wanted != project {
                    return Err(Fault::unauthorized());
                }
            }
            (
                good_project(&call.snapshot, project.as_deref(), &user)?,
                Some(id),
            )
        }
    };
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
    let found = found
        .filter(|project| project.enabled)
        .filter(|project| !roles_in(snapshot, &project.id, &user.id).is_empty());
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

pub(super) async fn verify(api: &Api, password: String, hash: Option<String>) -> bool {
    let _turn = api.logins.acquire().await;
    let work = move || identity::verify_password(&password, hash.as_deref());
    tokio::task::spawn_blocking(work).await.unwrap_or(false)
}

/// The project that the token is to be for.
pub(super) fn scope(
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

pub(super) fn token_body(snapshot: &Snapshot, token: &Token, user: &User, origin: &str) -> Value {
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
        let roles: Vec<Value> = roles_of(snapshot, token)
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
