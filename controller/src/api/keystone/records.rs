//! Which projects, users and roles are there?

use super::{
    Answer, Call, Fault, finish, fresh_id, hashed, listed,
    tokens::{SERVICES, service_id},
};
use crate::{
    api::{
        Api,
        error::{respond, respond_empty},
    },
    identity::{AppCredential, Assignment, DOMAIN, Project, Role, User, key, name_key},
    resource::boolean,
    rules::Caller,
    store::{Read, Snapshot, View},
};
use axum::{
    body::Body,
    extract::{Path, Query, State},
    http::{Method, Request, Response, StatusCode},
};
use serde_json::{Map, Value, json};
use std::{collections::HashMap, sync::Arc};

pub(super) fn project_row(project: &Project, origin: &str) -> Value {
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

pub(super) fn user_row(user: &User, origin: &str) -> Value {
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

pub(super) fn role_row(role: &Role, origin: &str) -> Value {
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
pub(super) enum Kind {
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

    pub(super) fn row(self, snapshot: &Snapshot, id: &str, origin: &str) -> Option<Value> {
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

pub(super) async fn collection(
    State(api): State<Api>,
    Path(name): Path<String>,
    Query(query): Query<HashMap<String, String>>,
    request: Request<Body>,
) -> Response<Body> {
    let answer = async {
        let (call, caller) = api.known_call(request).await?;
        if catalog_word(&name).is_some() {
            return catalog(&name, None, &query, &call, &caller);
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

pub(super) fn fits(row: &Value, query: &HashMap<String, String>) -> bool {
    query.iter().all(|(name, wanted)| match row.get(name) {
        Some(Value::String(have)) => have == wanted,
        Some(Value::Bool(have)) => have.to_string().eq_ignore_ascii_case(wanted),
        _ => true,
    })
}

/// What the catalog is made of, and the name of one in an answer.
fn catalog_word(collection: &str) -> Option<&'static str> {
    match collection {
        "services" => Some("service"),
        "endpoints" => Some("endpoint"),
        "regions" => Some("region"),
        _ => None,
    }
}

fn catalog_rows(collection: &str, origin: &str) -> Vec<Value> {
    if collection == "regions" {
        return vec![json!({
            "id": "RegionOne", "description": "", "parent_region_id": null, "links": {},
        })];
    }
    let row = |(kind, service, path): &(&str, &str, &str)| {
        let own_id = service_id(kind, "service");
        if collection == "services" {
            return json!({
                "id": own_id, "type": kind, "name": service, "enabled": true, "links": {},
            });
        }
        json!({
            "id": service_id(kind, "public"), "service_id": own_id,
            "interface": "public", "region": "RegionOne", "region_id": "RegionOne",
            "url": format!("{origin}{path}"), "enabled": true, "links": {},
        })
    };
    SERVICES.iter().map(row).collect()
}

/// A part of the catalog, or one thing of it: for admins, and only to read.
fn catalog(
    collection: &str,
    id: Option<&str>,
    query: &HashMap<String, String>,
    call: &Call,
    caller: &Caller,
) -> Answer {
    if !caller.admin {
        return Err(Fault::forbidden());
    }
    if !matches!(call.method, Method::GET | Method::HEAD) {
        return Err(Fault::method());
    }
    let mut rows = catalog_rows(collection, &call.origin);
    let Some(id) = id else {
        rows.retain(|row| fits(row, query));
        return Ok(respond(
            StatusCode::OK,
            &listed(collection, rows, &call.origin),
        ));
    };
    let word = catalog_word(collection).unwrap_or(collection);
    let row = rows.into_iter().find(|row| row["id"] == id);
    let row = row.ok_or_else(|| Fault::missing(word, id))?;
    Ok(respond(StatusCode::OK, &json!({word: row})))
}

pub(super) async fn item(
    State(api): State<Api>,
    Path((name, id)): Path<(String, String)>,
    request: Request<Body>,
) -> Response<Body> {
    let answer = async {
        let (call, caller) = api.known_call(request).await?;
        if catalog_word(&name).is_some() {
            return catalog(&name, Some(&id), &HashMap::new(), &call, &caller);
        }
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
pub(super) struct Wanted {
    pub(super) name: Option<String>,
    pub(super) description: Option<String>,
    pub(super) enabled: Option<bool>,
    pub(super) email: Option<String>,
    pub(super) default_project_id: Option<String>,
    pub(super) password_hash: Option<String>,
}

pub(super) async fn wanted(api: &Api, kind: Kind, body: &Value) -> Result<Wanted, Fault> {
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
        Some(value) => Some(boolean(value).ok_or_else(|| Fault::bad("enabled is not a boolean"))?),
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

/// Makes or changes a named record; its id.
pub(super) async fn write(
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

pub(super) fn store_named(
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
                    revocations: 0,
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
            // As in Keystone, whoever had a token by the old password, or before it was shut out, begins anew.
            if !new && (wanted.password_hash.is_some() || wanted.enabled == Some(false)) {
                user.revocations += 1;
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

pub(super) fn set<T: Clone>(slot: &mut T, value: Option<&T>) {
    if let Some(value) = value {
        slot.clone_from(value);
    }
}

pub(super) fn name_of(view: &View, kind: Kind, id: &str) -> Option<String> {
    let key = key(kind.word(), id);
    match kind {
        Kind::Project => view.get::<Project>(&key).map(|it| it.name.clone()),
        Kind::User => view.get::<User>(&key).map(|it| it.name.clone()),
        Kind::Role => view.get::<Role>(&key).map(|it| it.name.clone()),
    }
}

pub(super) fn remove(view: &mut View, kind: Kind, id: &str) {
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
    // What acts for a user in a project goes with either.
    let lent: Vec<Arc<AppCredential>> = view
        .scan("appcred/")
        .filter_map(|(_, entry)| entry.get::<AppCredential>())
        .filter(|it| match kind {
            Kind::Project => it.project_id == id,
            Kind::User => it.user_id == id,
            Kind::Role => false,
        })
        .collect();
    for it in lent {
        view.delete(&it.name_key());
        view.delete(&self::key("appcred", &it.id));
    }
}
