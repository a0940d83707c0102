//! Which projects, users and roles are there?

use super::{
    Answer, Call, Fault, finish, fresh_id, governs, hashed, listed,
    stored::{Wanted, may_go, remove, store_named},
    tokens::{SERVICES, service_id},
};
use crate::{
    api::{
        Api,
        error::{respond, respond_empty},
    },
    identity::{self, DOMAIN, Domain, Group, Project, Role, User, key},
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
        "domain_id": project.domain_id,
        "description": project.description,
        "enabled": project.enabled,
        "parent_id": project.domain_id,
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
        "domain_id": user.domain_id,
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

pub(super) fn group_row(group: &Group, origin: &str) -> Value {
    json!({
        "id": group.id,
        "name": group.name,
        "domain_id": group.domain_id,
        "description": group.description,
        "links": {"self": format!("{origin}/identity/v3/groups/{}", group.id)},
    })
}

pub(super) fn domain_row(domain: &Domain, origin: &str) -> Value {
    json!({
        "id": domain.id,
        "name": domain.name,
        "description": domain.description,
        "enabled": domain.enabled,
        "options": {},
        "tags": [],
        "links": {"self": format!("{origin}/identity/v3/domains/{}", domain.id)},
    })
}

/// The kinds of named records, told apart by their collection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Project,
    User,
    Group,
    Role,
    Domain,
}

impl Kind {
    fn of(collection: &str) -> Option<Self> {
        match collection {
            "projects" => Some(Self::Project),
            "users" => Some(Self::User),
            "groups" => Some(Self::Group),
            "domains" => Some(Self::Domain),
            "roles" => Some(Self::Role),
            _ => None,
        }
    }

    pub(super) const fn word(self) -> &'static str {
        match self {
            Self::Project => "project",
            Self::User => "user",
            Self::Group => "group",
            Self::Domain => "domain",
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
            Self::Group => snapshot
                .get(&key)
                .map(|it: Arc<Group>| group_row(&it, origin)),
            Self::Role => snapshot
                .get(&key)
                .map(|it: Arc<Role>| role_row(&it, origin)),
            Self::Domain => identity::domain(snapshot, id).map(|it| domain_row(&it, origin)),
        }
    }

    /// The domain that such a record is in, if it is there and in any.
    pub(super) fn domain(self, read: &impl Read, id: &str) -> Option<String> {
        let key = key(self.word(), id);
        match self {
            Self::Project => read.get::<Project>(&key).map(|it| it.domain_id.clone()),
            Self::User => read.get::<User>(&key).map(|it| it.domain_id.clone()),
            Self::Group => read.get::<Group>(&key).map(|it| it.domain_id.clone()),
            Self::Role | Self::Domain => None,
        }
    }

    fn ids(self, snapshot: &Snapshot) -> Vec<String> {
        if self == Self::Domain {
            let domains = identity::domains(snapshot).into_iter();
            return domains.map(|domain| domain.id.clone()).collect();
        }
        let prefix = format!("{}/", self.word());
        let keys = snapshot.scan(&prefix);
        keys.filter_map(|(key, _)| key.strip_prefix(&prefix).map(str::to_owned))
            .collect()
    }

    /// Does the caller see it? Who is no admin finds itself and its own.
    fn is_seen_by(self, snapshot: &Snapshot, id: &str, caller: &Caller) -> bool {
        let own = id == caller.user_id || id == caller.project_id;
        let domain = || match self {
            Self::Domain => {
                let user = Self::User.domain(snapshot, &caller.user_id);
                user.as_deref() == Some(id) || caller.domain.as_deref() == Some(id)
            }
            Self::Project | Self::User | Self::Group | Self::Role => {
                let domain = self.domain(snapshot, id);
                governs(caller, domain.as_deref())
            }
        };
        caller.admin || own || self == Self::Role || domain()
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
                let rows: Vec<Value> = kind
                    .ids(&call.snapshot)
                    .iter()
                    .filter(|id| kind.is_seen_by(&call.snapshot, id, &caller))
                    .filter_map(|id| kind.row(&call.snapshot, id, &call.origin))
                    .filter(|row| fits(row, &query))
                    .collect();
                Ok(respond(StatusCode::OK, &listed(&name, rows, &call.origin)))
            }
            Method::POST => {
                let domain = home(&call, kind, &caller);
                if !governs(&caller, domain.as_deref()) {
                    return Err(Fault::forbidden());
                }
                let id = write(&api, kind, None, domain, &call.body, &caller).await?;
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
        let domain = kind.domain(&call.snapshot, &id);
        let kept = governs(&caller, domain.as_deref());
        match call.method {
            Method::GET | Method::HEAD => {
                if !kind.is_seen_by(&call.snapshot, &id, &caller) {
                    return Err(Fault::forbidden());
                }
                let row = row.ok_or_else(|| Fault::missing(kind.word(), &id))?;
                Ok(respond(StatusCode::OK, &json!({kind.word(): row})))
            }
            Method::PATCH | Method::DELETE if !kept => Err(Fault::forbidden()),
            Method::PATCH | Method::DELETE if row.is_none() => {
                Err(Fault::missing(kind.word(), &id))
            }
            Method::PATCH => {
                write(&api, kind, Some(id.clone()), domain, &call.body, &caller).await?;
                let row = kind.row(&api.core.store.snapshot(), &id, &call.origin);
                Ok(respond(StatusCode::OK, &json!({kind.word(): row})))
            }
            Method::DELETE => {
                let gone = id.clone();
                let remove = move |view: &mut View| {
                    if kind == Kind::Domain {
                        may_go(view, &gone)?;
                    }
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

/// The domain that a new record is to be in: what the body says, or that of the token.
fn home(call: &Call, kind: Kind, caller: &Caller) -> Option<String> {
    if matches!(kind, Kind::Role | Kind::Domain) {
        return None;
    }
    let said = call.body.pointer(&format!("/{}/domain_id", kind.word()));
    let said = said.and_then(Value::as_str).map(str::to_owned);
    let of_project = || Kind::Project.domain(&call.snapshot, &caller.project_id);
    said.or_else(|| caller.domain.clone())
        .or_else(of_project)
        .or_else(|| Some(DOMAIN.to_owned()))
}

pub(super) async fn wanted(api: &Api, kind: Kind, body: &Value) -> Result<Wanted, Fault> {
    let given = body.get(kind.word()).and_then(Value::as_object);
    let given: &Map<String, Value> =
        given.ok_or_else(|| Fault::bad(format!("{} is missing", kind.word())))?;
    let text = |name: &str| match given.get(name) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) if text.chars().count() <= 255 && !text.contains('\0') => {
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
    let domain_id = text("domain_id")?;
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
        domain_id,
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
    domain: Option<String>,
    body: &Value,
    caller: &Caller,
) -> Result<String, Fault> {
    let mut wanted = wanted(api, kind, body).await?;
    let moved = wanted.domain_id.is_some() && wanted.domain_id != domain;
    if moved && !matches!(kind, Kind::Role | Kind::Domain) {
        return Err(Fault::bad("domain_id cannot be changed"));
    }
    wanted.domain_id = domain;
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
