//! How many may a project have?
//!
//! `quota/PROJECT/KIND` counts the objects, in the same transaction that makes or deletes them;
//! `limits/PROJECT` holds what an admin set. -1 is no limit.
//!
//! The grants that follow from `shared` are counted, and never refused: nobody asked for them.

use crate::{
    refusal::Refusal,
    resource::{Object, Spec, Verb},
    store::{Read, View},
};
use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, sync::Arc};

/// The limits that an admin set for a project.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Limits(pub BTreeMap<String, i64>);

/// The key of a project's limits.
pub fn limits_key(project: &str) -> String {
    format!("limits/{project}")
}

fn count_key(project: &str, kind: &str) -> String {
    format!("quota/{project}/{kind}")
}

/// How many of a kind a project has.
pub fn used(read: &impl Read, project: &str, kind: &str) -> u64 {
    read.get::<u64>(&count_key(project, kind))
        .map_or(0, |count| *count)
}

/// How many of a kind a project may have; `None` is as many as it likes.
pub fn limit(read: &impl Read, project: &str, kind: &str, default: i64) -> Option<u64> {
    let set = read.get::<Limits>(&limits_key(project));
    let limit = set
        .and_then(|limits| limits.0.get(kind).copied())
        .unwrap_or(default);
    u64::try_from(limit).ok()
}

/// Counts a create or delete.
pub(super) fn count(
    view: &mut View,
    spec: &Spec,
    verb: Verb,
    object: Option<&dyn Object>,
    asked: bool,
) -> Result<(), Refusal> {
    let (Some((kind, default)), Some(object)) = (spec.quota, object) else {
        return Ok(());
    };
    let project = &object.meta().project_id;
    if project.is_empty() {
        return Ok(());
    }
    let have = used(view, project, kind);
    let now = match verb {
        Verb::Create => {
            let follows = !asked && kind == "rbac_policy";
            let limit = limit(view, project, kind, default);
            if !follows && limit.is_some_and(|limit| have >= limit) {
                return Err(Refusal::OverQuota { kind });
            }
            have + 1
        }
        Verb::Delete => have.saturating_sub(1),
        Verb::Read | Verb::Update => return Ok(()),
    };
    let key = count_key(project, kind);
    if now == 0 {
        view.delete(&key);
    } else {
        view.put(key, Arc::new(now));
    }
    Ok(())
}
