//! How are secrets put together?

use super::{Page, answered, fields, id_of, invalid, project, reference, text};
use crate::{
    api::{
        Api, ApiError,
        error::{respond, respond_empty},
        handlers::{Answer, Asked},
    },
    keys::{
        CONTAINER_TYPES, Container, ContainerType, MOST, MOST_NAMED, container, container_key,
        referred, secret,
    },
    refusal::Refusal,
    store::{Read, View, transact},
};
use axum::{
    body::Body,
    extract::{Path, State},
    http::{Method, Request, Response, StatusCode},
};
use serde_json::{Map, Value, json};
use std::sync::Arc;
use uuid::Uuid;

const SCHEMA: &str = "Container";
const KNOWN: &[&str] = &["name", "type", "secret_refs"];
/// Filters of the list.
const FILTERS: &[&str] = &["name", "type"];

pub(super) async fn many(State(api): State<Api>, request: Request<Body>) -> Response<Body> {
    let of = &api;
    let answer = async |request: Request<Body>| {
        let method = request.method().clone();
        let asked = of.read(request).await?;
        match method {
            Method::GET => list(of, &asked),
            Method::POST => create(of, &asked).await,
            _ => Err(ApiError::no_method(&["GET", "POST"])),
        }
    };
    answered(of, request, "containers", answer).await
}

pub(super) async fn one(
    State(api): State<Api>,
    Path(id): Path<String>,
    request: Request<Body>,
) -> Response<Body> {
    let of = &api;
    let answer = async |request: Request<Body>| {
        let method = request.method().clone();
        let asked = of.read(request).await?;
        match method {
            Method::GET => show(of, &id, &asked),
            Method::DELETE => delete(of, &id, &asked).await,
            _ => Err(ApiError::no_method(&["GET", "DELETE"])),
        }
    };
    answered(of, request, "containers", answer).await
}

/// The caller's container.
fn own(read: &impl Read, project: &str, id: &str) -> Result<Arc<Container>, Refusal> {
    let found = container(read, project, id_of(SCHEMA, id)?);
    found.ok_or_else(|| Refusal::missing(SCHEMA, id))
}

fn row(asked: &Asked, container: &Container) -> Value {
    let secrets = container.secrets.iter().map(|(name, id)| {
        let secret_ref = reference(asked, "secrets", *id);
        json!({"name": name, "secret_ref": secret_ref})
    });
    json!({
        "container_ref": reference(asked, "containers", container.id),
        "name": container.name,
        "type": container.kind,
        "status": "ACTIVE",
        "secret_refs": secrets.collect::<Vec<Value>>(),
        "consumers": [],
        "creator_id": container.creator_id,
        "created": container.created.bare(),
        "updated": container.created.bare(),
    })
}

fn list(api: &Api, asked: &Asked) -> Answer {
    let project = project(&asked.caller, "containers:get", false)?;
    let (page, filters) = Page::of(asked, FILTERS)?;
    let snapshot = api.core.store.snapshot();
    let fits = |container: &Container| {
        filters.iter().all(|(name, wanted)| match *name {
            "name" => container.name.as_deref() == Some(*wanted),
            _ => container.kind == *wanted,
        })
    };
    let prefix = format!("container/{project}/");
    let all = snapshot.scan(&prefix);
    let all: Vec<&Container> = all
        .filter_map(|(_, entry)| entry.peek::<Container>())
        .filter(|container| fits(container))
        .collect();
    let when = |container: &&Container| (container.created, container.id);
    let row = |container: &&Container| row(asked, container);
    Ok(page.told(asked, "containers", all, (when, row)))
}

fn show(api: &Api, id: &str, asked: &Asked) -> Answer {
    let project = project(&asked.caller, "container:get", false)?;
    let snapshot = api.core.store.snapshot();
    let container = own(&snapshot, project, id)?;
    Ok(respond(StatusCode::OK, &row(asked, &container)))
}

/// The secrets that a create names.
fn named(fields: &Map<String, Value>) -> Result<Vec<(String, Uuid)>, Refusal> {
    let wrong = |reason: &str| invalid(SCHEMA, "secret_refs", reason);
    let list = match fields.get("secret_refs") {
        None | Some(Value::Null) => return Ok(Vec::new()),
        Some(Value::Array(list)) if list.len() <= MOST_NAMED => list,
        Some(_) => {
            let reason = format!("it is no list of {MOST_NAMED} secrets at most");
            return Err(wrong(&reason));
        }
    };
    let mut all: Vec<(String, Uuid)> = Vec::with_capacity(list.len());
    for item in list {
        let item = item.as_object();
        let item = item.ok_or_else(|| wrong("it has what is no object"))?;
        let name = text(item, SCHEMA, "name")?.unwrap_or_default();
        let of = item.get("secret_ref").and_then(Value::as_str);
        let id = of.and_then(|of| referred(of, "secrets"));
        let id = id.ok_or_else(|| wrong("it has a secret_ref that leads to no secret"))?;
        let same = |known: &&(String, Uuid)| known.0 == name || known.1 == id;
        if all.iter().find(same).is_some() {
            return Err(wrong("it names something twice"));
        }
        all.push((name, id));
    }
    Ok(all)
}

/// Has it what its type needs, and no more?
fn fits(kind: &ContainerType, secrets: &[(String, Uuid)]) -> Result<(), Refusal> {
    let (word, must, may) = kind;
    let has = |name: &&&str| secrets.iter().any(|(known, _)| known == **name);
    if let Some(missing) = must.iter().find(|name| !has(name)) {
        let reason = format!("a container of type {word} has a {missing}");
        return Err(invalid(SCHEMA, "secret_refs", reason));
    }
    let Some(may) = may else {
        return Ok(());
    };
    let known = |name: &str| must.contains(&name) || may.contains(&name);
    match secrets.iter().find(|(name, _)| !known(name)) {
        Some((name, _)) => {
            let reason = format!("a container of type {word} has no '{name}'");
            Err(invalid(SCHEMA, "secret_refs", reason))
        }
        None => Ok(()),
    }
}

async fn create(api: &Api, asked: &Asked) -> Answer {
    let caller = &asked.caller;
    let project = project(caller, "containers:post", true)?.to_owned();
    let fields = fields(asked, SCHEMA, KNOWN)?;
    let word = text(&fields, SCHEMA, "type")?.unwrap_or_default();
    let kind = CONTAINER_TYPES.iter().find(|kind| kind.0 == word);
    let kind = kind.ok_or_else(|| invalid(SCHEMA, "type", "it is none that is known"))?;
    let secrets = named(&fields)?;
    fits(kind, &secrets)?;
    let (id, now) = (Uuid::new_v4(), api.core.clock.now());
    let made = Container {
        id,
        name: text(&fields, SCHEMA, "name")?,
        kind: word,
        creator_id: caller.user_id.clone(),
        created: now,
        secrets,
    };
    let stored = transact(api.core.store.as_ref(), move |view: &mut View| {
        let missing = made.secrets.iter();
        let mut missing = missing.filter(|(_, id)| secret(view, &project, *id, now).is_none());
        if let Some((name, _)) = missing.next() {
            let text = format!("Secret provided for '{name}' doesn't exist.");
            return Err(Refusal::no_such("SecretNotFound", text));
        }
        if view.scan(&format!("container/{project}/")).count() >= MOST {
            return Err(Refusal::OverQuota { kind: "container" });
        }
        view.put(container_key(&project, id), Arc::new(made.clone()));
        Ok(())
    });
    let stored = stored.await;
    let ids = [id.to_string()];
    let stored = api.audited(caller, "create", "container", &ids, stored);
    stored.await?;
    let place = reference(asked, "containers", id);
    Ok(super::made("container_ref", &place))
}

async fn delete(api: &Api, id: &str, asked: &Asked) -> Answer {
    let caller = &asked.caller;
    let project = project(caller, "container:delete", true)?.to_owned();
    let named = id.to_owned();
    let gone = transact(api.core.store.as_ref(), move |view: &mut View| {
        let container = own(view, &project, &named)?;
        view.delete(&container_key(&project, container.id));
        Ok::<(), Refusal>(())
    });
    let gone = gone.await;
    let ids = [id.to_owned()];
    let gone = api.audited(caller, "delete", "container", &ids, gone);
    gone.await?;
    Ok(respond_empty(StatusCode::NO_CONTENT))
}
