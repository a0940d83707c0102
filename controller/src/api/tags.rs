//! By which words is an object found?
//!
//! The tags sub-resource of every object that has tags: all of them, or one.

use crate::{
    api::{
        Api, ApiError, body,
        error::{respond, respond_empty},
        finish,
        handlers::{Answer, Asked, visible},
    },
    refusal::Refusal,
    resource::Spec,
    rules::{Given, Order},
};
use axum::{
    body::Body,
    http::{Method, Request, Response, StatusCode},
};
use serde_json::{Value, json};

/// What is done to the tags.
#[derive(Debug, Clone)]
enum Edit {
    Replace(Vec<String>),
    Add(Vec<String>),
    Remove(String),
    Clear,
}

impl Edit {
    /// The verb in its policy's name.
    const fn verb(&self) -> &'static str {
        match self {
            Self::Replace(_) => "update",
            Self::Add(_) => "create",
            Self::Remove(_) | Self::Clear => "delete",
        }
    }

    fn apply(&self, tags: &[String]) -> Result<Vec<String>, Refusal> {
        let mut tags = tags.to_vec();
        match self {
            Self::Replace(new) => tags.clone_from(new),
            Self::Add(new) => {
                for tag in new {
                    if !tags.contains(tag) {
                        tags.push(tag.clone());
                    }
                }
            }
            Self::Remove(gone) => {
                if !tags.contains(gone) {
                    return Err(Refusal::missing("Tag", gone));
                }
                tags.retain(|tag| tag != gone);
            }
            Self::Clear => tags.clear(),
        }
        body::words(&json!(tags), 50).map_err(|reason| Refusal::attribute("tags", reason))?;
        Ok(tags)
    }
}

/// /v2.0/COLLECTION/ID/tags
pub(super) async fn all(
    api: &Api,
    spec: &'static Spec,
    id: &str,
    request: Request<Body>,
) -> Response<Body> {
    let method = request.method().clone();
    let answer: Answer = async {
        let asked = api.read(request).await?;
        match method {
            Method::GET => {
                let tags = tags_of(api, spec, id, &asked)?;
                Ok(respond(StatusCode::OK, &json!({"tags": tags})))
            }
            Method::PUT => {
                let tags = edit(api, spec, id, &asked, Edit::Replace(given(&asked.body)?)).await?;
                Ok(respond(StatusCode::OK, &json!({"tags": tags})))
            }
            Method::POST => {
                let tags = edit(api, spec, id, &asked, Edit::Add(given(&asked.body)?)).await?;
                Ok(respond(StatusCode::OK, &json!({"tags": tags})))
            }
            Method::DELETE => {
                edit(api, spec, id, &asked, Edit::Clear).await?;
                Ok(respond_empty(StatusCode::NO_CONTENT))
            }
            _ => Err(ApiError::no_method(&["GET", "PUT", "POST", "DELETE"])),
        }
    }
    .await;
    finish(answer)
}

/// /v2.0/COLLECTION/ID/tags/TAG
pub(super) async fn one(
    api: &Api,
    spec: &'static Spec,
    id: &str,
    tag: &str,
    request: Request<Body>,
) -> Response<Body> {
    let method = request.method().clone();
    let answer: Answer = async {
        let asked = api.read(request).await?;
        match method {
            Method::GET => {
                if tags_of(api, spec, id, &asked)?
                    .iter()
                    .any(|have| have == tag)
                {
                    Ok(respond_empty(StatusCode::NO_CONTENT))
                } else {
                    Err(Refusal::missing("Tag", tag).into())
                }
            }
            Method::PUT => {
                edit(api, spec, id, &asked, Edit::Add(vec![tag.to_owned()])).await?;
                Ok(respond_empty(StatusCode::CREATED))
            }
            Method::DELETE => {
                edit(api, spec, id, &asked, Edit::Remove(tag.to_owned())).await?;
                Ok(respond_empty(StatusCode::NO_CONTENT))
            }
            _ => Err(ApiError::no_method(&["GET", "PUT", "DELETE"])),
        }
    }
    .await;
    finish(answer)
}

fn tags_of(
    api: &Api,
    spec: &'static Spec,
    id: &str,
    asked: &Asked,
) -> Result<Vec<String>, Refusal> {
    let snapshot = api.core.store.snapshot();
    api.may_tag(spec, "get", id, asked)?;
    Ok(visible(&snapshot, spec, id, &asked.caller)?
        .meta()
        .tags
        .clone())
}

fn given(bytes: &[u8]) -> Result<Vec<String>, Refusal> {
    let bad = |text: &str| Refusal::invalid("HTTPBadRequest", text);
    let body: Value = serde_json::from_slice(bytes)
        .ok()
        .ok_or_else(|| bad("Body contains invalid data"))?;
    let tags = body.get("tags").ok_or_else(|| bad("Invalid tags body"))?;
    body::words(tags, 50).map_err(|reason| Refusal::attribute("tags", reason))?;
    let tags = tags.as_array().map(Vec::as_slice).unwrap_or_default();
    Ok(tags
        .iter()
        .filter_map(Value::as_str)
        .map(str::to_owned)
        .collect())
}

async fn edit(
    api: &Api,
    spec: &'static Spec,
    id: &str,
    asked: &Asked,
    edit: Edit,
) -> Result<Vec<String>, ApiError> {
    let given = Given::from(["tags".to_owned()]);
    // Who may change the object may tag it: no field's own policy is asked.
    api.may_tag(spec, edit.verb(), id, asked)?;
    let edited = api.enact(spec, "tag", id, asked, move |before| {
        let mut fields = before.to_map();
        fields.insert("tags".to_owned(), json!(edit.apply(&before.meta().tags)?));
        let after = spec.ops.build(fields)?;
        Ok(Order::Update(before, after, given.clone()))
    });
    let edited = edited.await?.object;
    Ok(edited.map_or_else(Vec::new, |object| object.meta().tags.clone()))
}
