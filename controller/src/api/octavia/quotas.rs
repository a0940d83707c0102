//! How many load balancers may a project have, in Octavia's words?
//!
//! The limits are those of `/v2.0/quotas`: Octavia calls two of them by two names. What is not counted here has no limit, and gets none.

use crate::{
    api::{
        Api, ApiError,
        error::{respond, respond_empty},
        handlers::{Answer, Asked},
        quotas,
    },
    refusal::Refusal,
    resource::Resource as _,
    resources::LoadBalancer,
    rules::quotas::{Limits, limits_key},
    store::{Read as _, transact},
};
use axum::http::{Method, StatusCode};
use serde_json::{Map, Value, json};
use std::{collections::BTreeMap, sync::Arc};

/// Octavia's words, and ours.
const WORDS: &[(&str, &str)] = &[
    ("loadbalancer", "loadbalancer"),
    ("load_balancer", "loadbalancer"),
    ("listener", "listener"),
    ("pool", "pool"),
    ("healthmonitor", "healthmonitor"),
    ("health_monitor", "healthmonitor"),
    ("l7policy", "l7policy"),
];
/// What Octavia counts besides.
const UNCOUNTED: &[&str] = &["member", "l7rule"];

/// Limits in Octavia's words.
fn worded(limits: &Map<String, Value>) -> Map<String, Value> {
    let counted = WORDS.iter();
    let counted = counted.filter_map(|(theirs, ours)| Some((*theirs, limits.get(*ours)?.clone())));
    let uncounted = UNCOUNTED.iter().map(|name| (*name, json!(-1)));
    counted
        .chain(uncounted)
        .map(|(name, limit)| (name.to_owned(), limit))
        .collect()
}

fn row(limits: &Map<String, Value>, project: &str) -> Value {
    let mut row = worded(limits);
    row.insert("project_id".to_owned(), json!(project));
    row.insert("tenant_id".to_owned(), json!(project));
    Value::Object(row)
}

/// All that were set.
pub(super) fn list(api: &Api, asked: &Asked) -> Answer {
    if asked.caller.roles.is_empty() {
        return Err(Refusal::denied("rule:get_quota").into());
    }
    let snapshot = api.core.store.snapshot();
    let all = snapshot.scan("limits/");
    let projects = all.filter_map(|(key, _)| key.strip_prefix("limits/"));
    let seen = projects.filter(|project| asked.caller.admin || asked.caller.owns(project));
    let rows = seen.map(|project| row(&quotas::limits(Some(&snapshot), project), project));
    let rows: Vec<Value> = rows.collect();
    Ok(respond(StatusCode::OK, &json!({"quotas": rows})))
}

/// A project's, or the defaults.
pub(super) async fn one(api: &Api, project: &str, method: &Method, asked: &Asked) -> Answer {
    match *method {
        Method::GET if project == "defaults" => {
            if !asked.caller.admin {
                return Err(Refusal::denied("rule:get_quota-defaults").into());
            }
            let shown = worded(&quotas::limits(None, project));
            Ok(respond(StatusCode::OK, &json!({"quota": shown})))
        }
        Method::GET => {
            quotas::own(&asked.caller, project)?;
            Ok(shown(api, project, StatusCode::OK))
        }
        Method::PUT => {
            quotas::admin(&asked.caller, "update_quota", project)?;
            let wanted = wanted(&asked.body)?;
            set(api, project, "update", wanted, asked).await?;
            Ok(shown(api, project, StatusCode::ACCEPTED))
        }
        Method::DELETE => {
            quotas::admin(&asked.caller, "delete_quota", project)?;
            let none = WORDS.iter().map(|(_, ours)| (*ours, None)).collect();
            set(api, project, "delete", none, asked).await?;
            Ok(respond_empty(StatusCode::NO_CONTENT))
        }
        _ => Err(ApiError::no_method(&["GET", "PUT", "DELETE"])),
    }
}

fn shown(api: &Api, project: &str, success: StatusCode) -> axum::response::Response {
    let limits = quotas::limits(Some(&api.core.store.snapshot()), project);
    respond(success, &json!({"quota": row(&limits, project)}))
}

/// By our words; `None`: as by default.
type Wanted = BTreeMap<&'static str, Option<i64>>;

fn wanted(bytes: &[u8]) -> Result<Wanted, Refusal> {
    let body: Value = serde_json::from_slice(bytes).unwrap_or_default();
    let quota = body.get("quota").and_then(Value::as_object);
    let quota = quota.ok_or_else(|| Refusal::input("unable to find 'quota' in request body"))?;
    let mut wanted = Wanted::new();
    for (name, value) in quota {
        if ["project_id", "tenant_id"].contains(&name.as_str()) {
            continue;
        }
        let number = value.as_i64().filter(|number| *number >= -1);
        if !value.is_null() && number.is_none() {
            return Err(Refusal::input(format_args!(
                "{name}: '{value}' is not an integer of -1 or more"
            )));
        }
        if UNCOUNTED.contains(&name.as_str()) {
            if number.is_some_and(|number| number != -1) {
                let what = format!("Provider does not support a requested option: quota of {name}");
                return Err(Refusal::unsupported(what));
            }
            continue;
        }
        let word = WORDS.iter().find(|(theirs, _)| theirs == name);
        let (_, ours) =
            word.ok_or_else(|| Refusal::input(format_args!("unknown quota '{name}'")))?;
        wanted.insert(ours, number.map(|number| number.min(i64::from(i32::MAX))));
    }
    Ok(wanted)
}

async fn set(
    api: &Api,
    project: &str,
    verb: &'static str,
    wanted: Wanted,
    asked: &Asked,
) -> Result<(), ApiError> {
    let key = limits_key(project);
    let set = transact::<_, Refusal>(api.core.store.as_ref(), move |view| {
        let stored = view.get::<Limits>(&key);
        let mut limits = stored
            .map(|limits| Limits::clone(&limits))
            .unwrap_or_default();
        for (kind, limit) in &wanted {
            match limit {
                Some(limit) => drop(limits.0.insert((*kind).to_owned(), *limit)),
                None => drop(limits.0.remove(*kind)),
            }
        }
        view.put(key.clone(), Arc::new(limits));
        Ok(())
    });
    let ids = [project.to_owned()];
    api.audited(
        &asked.caller,
        verb,
        LoadBalancer::SPEC.singular,
        &ids,
        set.await,
    )
    .await?;
    Ok(())
}
