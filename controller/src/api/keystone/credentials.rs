//! How does a program act for a user, without the user's password?
//!
//! Application credentials (Keystone v3.10): a secret of a user for one project, with some of the user's roles there. It is good as long as the
//! user has those roles, and no longer than it says itself. What a token was got by, the token says; one that was got by a restricted credential
//! makes and deletes none.

use super::{
    Call, Fault, finish, fresh_id, hashed, listed,
    tokens::{named_domain, verify},
};
use crate::{
    api::{
        Api,
        error::{respond, respond_empty},
    },
    identity::{AppCredential, Role, User, by_name_in, is_domain_open, key, name_key, roles_in},
    resource::boolean,
    rules::Caller,
    store::{Read, Snapshot, View},
    time::Seconds,
};
use axum::{
    body::Body,
    extract::{Path, State},
    http::{Method, Request, Response, StatusCode},
};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use rand::RngCore;
use serde_json::{Map, Value, json};
use std::sync::Arc;

/// How many a user may have.
const MOST: usize = 200;
const LONGEST_NAME: usize = 255;

fn row(snapshot: &Snapshot, it: &AppCredential, origin: &str) -> Value {
    let roles: Vec<Value> = it
        .roles
        .iter()
        .filter_map(|id| snapshot.get::<Role>(&key("role", id)))
        .map(|role| json!({"id": role.id, "name": role.name, "domain_id": null}))
        .collect();
    let own = format!(
        "{origin}/identity/v3/users/{}/application_credentials/{}",
        it.user_id, it.id
    );
    json!({
        "id": it.id,
        "name": it.name,
        "description": it.description,
        "project_id": it.project_id,
        "user_id": it.user_id,
        "roles": roles,
        "expires_at": it.expires_at.map(Seconds::iso_micros),
        "unrestricted": it.unrestricted,
        "system": null,
        "links": {"self": own},
    })
}

fn of_user(snapshot: &Snapshot, user: &str) -> Vec<Arc<AppCredential>> {
    let prefix = name_key("appcred", &format!("{user}/"));
    snapshot
        .scan(&prefix)
        .filter_map(|(_, entry)| entry.peek::<String>())
        .filter_map(|id| snapshot.get::<AppCredential>(&key("appcred", id)))
        .collect()
}

/// Whose credentials are these to see? Its own, and an admin's.
fn may_see(caller: &Caller, user: &str) -> Result<(), Fault> {
    if caller.admin || caller.user_id == user {
        Ok(())
    } else {
        Err(Fault::forbidden())
    }
}

/// May the token that the call came with make and delete credentials?
fn unrestricted(call: &Call, now: Seconds) -> Result<(), Fault> {
    let token = call
        .headers
        .get("x-auth-token")
        .and_then(|token| token.to_str().ok());
    let found = token.and_then(|token| crate::identity::good_token(&call.snapshot, token, now));
    let by = found.and_then(|(token, _)| token.credential_id.clone());
    let by = by.and_then(|id| call.snapshot.get::<AppCredential>(&key("appcred", &id)));
    match by {
        Some(by) if !by.unrestricted => Err(Fault::forbidden()),
        _ => Ok(()),
    }
}

pub(super) async fn credentials(
    State(api): State<Api>,
    Path(user): Path<String>,
    request: Request<Body>,
) -> Response<Body> {
    let answer = async {
        let (call, caller) = api.known_call(request).await?;
        match call.method {
            Method::GET => {
                may_see(&caller, &user)?;
                let rows = of_user(&call.snapshot, &user);
                let rows = rows
                    .iter()
                    .map(|it| row(&call.snapshot, it, &call.origin))
                    .collect();
                Ok(respond(
                    StatusCode::OK,
                    &listed("application_credentials", rows, &call.origin),
                ))
            }
            Method::POST => {
                // Nobody, an admin neither, makes one in another's name.
                if caller.user_id != user {
                    return Err(Fault::forbidden());
                }
                unrestricted(&call, api.core.clock.now())?;
                let (made, secret) = make(&api, &call, &caller).await?;
                let snapshot = api.core.store.snapshot();
                let mut row = row(&snapshot, &made, &call.origin);
                if let Some(row) = row.as_object_mut() {
                    row.insert("secret".to_owned(), Value::String(secret));
                }
                Ok(respond(
                    StatusCode::CREATED,
                    &json!({"application_credential": row}),
                ))
            }
            _ => Err(Fault::method()),
        }
    };
    finish(answer.await)
}

pub(super) async fn credential(
    State(api): State<Api>,
    Path((user, id)): Path<(String, String)>,
    request: Request<Body>,
) -> Response<Body> {
    let answer = async {
        let (call, caller) = api.known_call(request).await?;
        may_see(&caller, &user)?;
        let found = call.snapshot.get::<AppCredential>(&key("appcred", &id));
        let found = found.filter(|it| it.user_id == user);
        let missing = || Fault::missing("application credential", &id);
        let found = found.ok_or_else(missing)?;
        match call.method {
            Method::GET | Method::HEAD => {
                let row = row(&call.snapshot, &found, &call.origin);
                Ok(respond(
                    StatusCode::OK,
                    &json!({"application_credential": row}),
                ))
            }
            Method::DELETE => {
                unrestricted(&call, api.core.clock.now())?;
                let (stored, named) = (key("appcred", &id), found.name_key());
                let gone = id.clone();
                let rule = move |view: &mut View| {
                    if !view.delete(&stored) {
                        return Err(Fault::missing("application credential", &gone));
                    }
                    view.delete(&named);
                    Ok(())
                };
                api.change(&caller, "delete", "application_credential", &id, rule)
                    .await?;
                Ok(respond_empty(StatusCode::NO_CONTENT))
            }
            _ => Err(Fault::method()),
        }
    };
    finish(answer.await)
}

async fn make(api: &Api, call: &Call, caller: &Caller) -> Result<(AppCredential, String), Fault> {
    let given = call.body.get("application_credential");
    let given = given.and_then(Value::as_object);
    let given = given.ok_or_else(|| Fault::bad("application_credential is missing"))?;
    let known = [
        "name",
        "description",
        "secret",
        "roles",
        "expires_at",
        "unrestricted",
        "project_id",
        "access_rules",
    ];
    if let Some(name) = given.keys().find(|name| !known.contains(&name.as_str())) {
        return Err(Fault::bad(format!(
            "{name} is not an attribute that is known here"
        )));
    }
    // The client names them even where there are none.
    let none = |rules: &Value| rules.is_null() || rules.as_array().is_some_and(Vec::is_empty);
    if !given.get("access_rules").is_none_or(none) {
        return Err(Fault::bad("access_rules are not known here"));
    }
    if caller.project_id.is_empty() {
        return Err(Fault::bad("the token is for no project"));
    }
    let name = text(given, "name")?.ok_or_else(|| Fault::bad("name is missing"))?;
    if name.trim().is_empty() {
        return Err(Fault::bad("name is empty"));
    }
    let expires_at = match text(given, "expires_at")? {
        Some(text) => {
            let at = Seconds::parse(&text);
            let at = at.ok_or_else(|| Fault::bad(format!("expires_at is not a time: {text}")))?;
            if at <= api.core.clock.now() {
                return Err(Fault::bad(format!("expires_at is in the past: {text}")));
            }
            Some(at)
        }
        None => None,
    };
    let unrestricted = match given.get("unrestricted") {
        None | Some(Value::Null) => false,
        Some(value) => boolean(value).ok_or_else(|| Fault::bad("unrestricted is not a boolean"))?,
    };
    let roles = chosen(call, caller, given.get("roles"))?;
    let secret = match text(given, "secret")? {
        Some(secret) if secret.is_empty() => return Err(Fault::bad("secret is empty")),
        Some(secret) => secret,
        None => {
            let mut bytes = [0_u8; 64];
            rand::rng().fill_bytes(&mut bytes);
            URL_SAFE_NO_PAD.encode(bytes)
        }
    };
    let made = AppCredential {
        id: fresh_id(),
        user_id: caller.user_id.clone(),
        project_id: caller.project_id.clone(),
        name,
        description: text(given, "description")?.unwrap_or_default(),
        roles,
        unrestricted,
        expires_at,
        secret_hash: hashed(api, secret.clone()).await?,
    };
    let record = Arc::new(made.clone());
    let rule = move |view: &mut View| {
        let named = record.name_key();
        if view.entry(&named).is_some() {
            return Err(Fault(
                StatusCode::CONFLICT,
                format!(
                    "Conflict occurred attempting to store application_credential - Duplicate entry found with name {}.",
                    record.name
                ),
            ));
        }
        let prefix = name_key("appcred", &format!("{}/", record.user_id));
        if view.scan(&prefix).count() >= MOST {
            return Err(Fault(
                StatusCode::FORBIDDEN,
                format!("a user has at most {MOST} application credentials"),
            ));
        }
        // It stands and falls with whom it is of.
        if view.entry(&key("user", &record.user_id)).is_none() {
            return Err(Fault::missing("user", &record.user_id));
        }
        view.put(named, Arc::new(record.id.clone()));
        view.put(
            key("appcred", &record.id),
            Arc::<AppCredential>::clone(&record),
        );
        Ok(())
    };
    api.change(caller, "create", "application_credential", &made.id, rule)
        .await?;
    Ok((made, secret))
}

/// The roles that it is to have, by id: all of the token's, or some.
fn chosen(call: &Call, caller: &Caller, given: Option<&Value>) -> Result<Vec<String>, Fault> {
    let own: Vec<Arc<Role>> = roles_in(&call.snapshot, &caller.project_id, &caller.user_id)
        .into_iter()
        .filter(|role| caller.roles.contains(&role.name))
        .collect();
    let given = match given {
        None | Some(Value::Null) => return Ok(own.iter().map(|role| role.id.clone()).collect()),
        Some(Value::Array(given)) if given.is_empty() => {
            return Ok(own.iter().map(|role| role.id.clone()).collect());
        }
        Some(Value::Array(given)) => given,
        Some(_) => return Err(Fault::bad("roles is not a list")),
    };
    let find = |value: &Value| {
        let text = |name: &str| value.get(name).and_then(Value::as_str);
        let (id, name) = (text("id"), text("name"));
        if id.is_none() && name.is_none() {
            return Err(Fault::bad("a role needs an id or a name"));
        }
        let fits = |role: &&Arc<Role>| {
            id.is_none_or(|id| id == role.id) && name.is_none_or(|name| name == role.name)
        };
        let found = own.iter().find(fits).map(|role| role.id.clone());
        let what = id.or(name).unwrap_or_default();
        found
            .ok_or_else(|| Fault::bad(format!("the user does not have role {what} in the project")))
    };
    given.iter().map(find).collect()
}

fn text(given: &Map<String, Value>, name: &str) -> Result<Option<String>, Fault> {
    match given.get(name) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) if text.len() <= LONGEST_NAME && !text.contains('\0') => {
            Ok(Some(text.clone()))
        }
        Some(_) => Err(Fault::bad(format!(
            "{name} is not a text of at most {LONGEST_NAME} characters"
        ))),
    }
}

/// The credential that a login names and knows the secret of, with its user.
pub(super) async fn check(
    api: &Api,
    snapshot: &Snapshot,
    given: &Value,
    now: Seconds,
) -> Result<(Arc<AppCredential>, Arc<User>), Fault> {
    let text = |pointer: &str| given.pointer(pointer).and_then(Value::as_str);
    let found = match (text("/id"), text("/name")) {
        (Some(id), _) => snapshot.get::<AppCredential>(&key("appcred", id)),
        (None, Some(name)) => {
            let user = match (text("/user/id"), text("/user/name")) {
                (Some(id), _) => Some(id.to_owned()),
                (None, Some(name)) => named_domain(snapshot, given.pointer("/user/domain"))
                    .and_then(|domain| by_name_in::<User>(snapshot, "user", &domain, name))
                    .map(|user| user.id.clone()),
                _ => return Err(Fault::bad("application_credential by name needs its user")),
            };
            let named = user.map(|user| name_key("appcred", &format!("{user}/{name}")));
            let id = named.and_then(|named| snapshot.get::<String>(&named));
            id.and_then(|id| snapshot.get::<AppCredential>(&key("appcred", &id)))
        }
        (None, None) => {
            return Err(Fault::bad("application_credential needs an id or a name"));
        }
    };
    let found = found.filter(|it| it.is_good(now));
    let user = found
        .as_ref()
        .and_then(|it| snapshot.get::<User>(&key("user", &it.user_id)))
        .filter(|user| user.enabled && is_domain_open(snapshot, &user.domain_id));
    let secret = text("/secret").ok_or_else(|| Fault::bad("secret is missing"))?;
    let hash = found.as_ref().map(|it| it.secret_hash.clone());
    let verified = verify(api, secret.to_owned(), hash).await;
    match (found, user) {
        (Some(found), Some(user)) if verified => Ok((found, user)),
        _ => Err(Fault::unauthorized()),
    }
}

/// What a token says of the credential by which it was got.
pub(super) fn told(snapshot: &Snapshot, id: &str) -> Option<Value> {
    let it = snapshot.get::<AppCredential>(&key("appcred", id))?;
    Some(json!({
        "id": it.id, "name": it.name, "restricted": !it.unrestricted,
    }))
}
