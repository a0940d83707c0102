//! How many may a project have?
//!
//! Not a collection but one object a project, so it has handlers of its own.

use crate::{
    api::{
        Api, ApiError,
        error::{respond, respond_empty},
        finish,
        handlers::{Answer, Asked},
    },
    policy::OfProject,
    refusal::Refusal,
    resource::boolean,
    resources::REGISTRY,
    rules::{
        Caller,
        quotas::{Limits, limit, limits_key, used},
    },
    store::{Read, Snapshot, transact},
};
use axum::{
    body::Body,
    extract::{Path, State},
    http::{Method, Request, Response, StatusCode},
};
use serde_json::{Map, Value, json};
use std::sync::Arc;

/// Every kind that is counted, with the default.
fn kinds() -> impl Iterator<Item = (&'static str, i64)> {
    REGISTRY.iter().filter_map(|spec| spec.quota)
}

pub(super) fn limits(snapshot: Option<&Snapshot>, project: &str) -> Map<String, Value> {
    kinds()
        .map(|(kind, default)| {
            let limit = match snapshot {
                Some(snapshot) => limit(snapshot, project, kind, default)
                    .map_or(-1, |limit| i64::try_from(limit).unwrap_or(i64::MAX)),
                None => default,
            };
            (kind.to_owned(), json!(limit))
        })
        .collect()
}

pub(super) fn own(caller: &Caller, project: &str) -> Result<(), Refusal> {
    if caller.may("get_quota", &OfProject(project), caller.owns(project)) {
        Ok(())
    } else {
        Err(Refusal::denied("rule:get_quota"))
    }
}

pub(super) fn admin(caller: &Caller, rule: &str, project: &str) -> Result<(), Refusal> {
    if caller.may(rule, &OfProject(project), caller.admin) {
        Ok(())
    } else {
        Err(Refusal::denied(format!("rule:{rule}")))
    }
}

/// GET /v2.0/quotas
pub(super) async fn list(State(api): State<Api>, request: Request<Body>) -> Response<Body> {
    let get = api.get(request, |asked| {
        if !asked.caller.admin {
            return Err(Refusal::denied("rule:get_quota").into());
        }
        let snapshot = api.core.store.snapshot();
        let quotas: Vec<Value> = snapshot
            .scan("limits/")
            .filter_map(|(key, _)| key.strip_prefix("limits/"))
            .map(|project| {
                let mut row = limits(Some(&snapshot), project);
                row.insert("project_id".to_owned(), json!(project));
                row.insert("tenant_id".to_owned(), json!(project));
                Value::Object(row)
            })
            .collect();
        Ok(respond(StatusCode::OK, &json!({"quotas": quotas})))
    });
    get.await
}

/// /v2.0/quotas/PROJECT
pub(super) async fn one(
    State(api): State<Api>,
    Path(project): Path<String>,
    request: Request<Body>,
) -> Response<Body> {
    let method = request.method().clone();
    let answer: Answer = async {
        let asked = api.read(request).await?;
        match method {
            Method::GET if project == "tenant" || project == "project" => {
                let key = format!("{project}_id");
                let inner = json!({key: asked.caller.project_id});
                Ok(respond(StatusCode::OK, &json!({project: inner})))
            }
            Method::GET => {
                own(&asked.caller, &project)?;
                let shown = limits(Some(&api.core.store.snapshot()), &project);
                Ok(respond(StatusCode::OK, &json!({"quota": shown})))
            }
            Method::PUT => update(&api, &project, &asked).await,
            Method::DELETE => delete(&api, &project, &asked).await,
            _ => Err(ApiError::no_method(&["GET", "PUT", "DELETE"])),
        }
    }
    .await;
    finish(answer)
}

/// /v2.0/quotas/PROJECT/default and /details
pub(super) async fn part(
    State(api): State<Api>,
    Path((project, part)): Path<(String, String)>,
    request: Request<Body>,
) -> Response<Body> {
    let get = api.get(request, |asked| {
        own(&asked.caller, &project)?;
        let snapshot = api.core.store.snapshot();
        let shown = match part.as_str() {
            "default" => limits(None, &project),
            "details" => limits(Some(&snapshot), &project)
                .into_iter()
                .map(|(kind, limit)| {
                    let used = used(&snapshot, &project, &kind);
                    (kind, json!({"limit": limit, "used": used, "reserved": 0}))
                })
                .collect(),
            _ => return Err(ApiError::NoPath),
        };
        Ok(respond(StatusCode::OK, &json!({"quota": shown})))
    });
    get.await
}

/// The limits that a body names, and whether they hold though more is used already.
fn checked(bytes: &[u8]) -> Result<(Vec<(String, i64)>, bool), Refusal> {
    let bad = |text: String| Refusal::invalid("HTTPBadRequest", text);
    let body: Value = serde_json::from_slice(bytes)
        .ok()
        .ok_or_else(|| bad("Body contains invalid data".to_owned()))?;
    let wanted = body
        .get("quota")
        .and_then(Value::as_object)
        .ok_or_else(|| bad("Unable to find 'quota' in request body".to_owned()))?;
    let mut limits = Vec::new();
    let forced = match wanted.get("force") {
        None => false,
        Some(value) => boolean(value).ok_or_else(|| {
            Refusal::input(format_args!("'{value}' cannot be converted to boolean"))
        })?,
    };
    for (name, value) in wanted {
        if ["tenant_id", "project_id", "force", "check_limit"].contains(&name.as_str()) {
            continue;
        }
        if !kinds().any(|(kind, _)| kind == name) {
            return Err(bad(format!("Unrecognized attribute(s) '{name}'")));
        }
        let text = || {
            value
                .as_str()
                .map_or_else(|| value.to_string(), str::to_owned)
        };
        let number = value
            .as_i64()
            .or_else(|| value.as_str().and_then(|text| text.parse().ok()));
        let number = number
            .filter(|_| !value.is_boolean())
            .ok_or_else(|| Refusal::input(format_args!("'{}' is not an integer", text())))?;
        if number < -1 {
            return Err(Refusal::attribute(
                name,
                format_args!("'{number}' is too small - must be at least '-1'"),
            ));
        }
        limits.push((name.clone(), number.min(i64::from(i32::MAX))));
    }
    Ok((limits, forced))
}

async fn update(api: &Api, project: &str, asked: &Asked) -> Answer {
    let (wanted, forced) = checked(&asked.body)?;
    admin(&asked.caller, "update_quota", project)?;
    let key = project.to_owned();
    let set = transact(api.core.store.as_ref(), move |view| {
        for (kind, limit) in &wanted {
            let have = used(view, &key, kind);
            if !forced && u64::try_from(*limit).is_ok_and(|limit| limit < have) {
                return Err(Refusal::invalid(
                    "HTTPBadRequest",
                    format!(
                        "Quota limit {limit} for {kind} must be greater than or equal to already used {have}"
                    ),
                ));
            }
        }
        let stored = view.get::<Limits>(&limits_key(&key));
        let mut limits = stored.map(|limits| Limits::clone(&limits)).unwrap_or_default();
        limits.0.extend(wanted.clone());
        view.put(limits_key(&key), Arc::new(limits));
        Ok(())
    })
    .await;
    api.audited(&asked.caller, "update", "quota", &[project.to_owned()], set)
        .await?;
    let shown = limits(Some(&api.core.store.snapshot()), project);
    Ok(respond(StatusCode::OK, &json!({"quota": shown})))
}

async fn delete(api: &Api, project: &str, asked: &Asked) -> Answer {
    admin(&asked.caller, "delete_quota", project)?;
    let key = project.to_owned();
    let gone = transact(api.core.store.as_ref(), move |view| {
        if view.delete(&limits_key(&key)) {
            Ok(())
        } else {
            Err(Refusal::missing("TenantQuota", &key))
        }
    })
    .await;
    api.audited(
        &asked.caller,
        "delete",
        "quota",
        &[project.to_owned()],
        gone,
    )
    .await?;
    Ok(respond_empty(StatusCode::NO_CONTENT))
}
