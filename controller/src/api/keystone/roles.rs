//! Who may do what where?

use super::{
    Fault, domain_reference, finish, listed,
    records::{Kind, project_row},
};
use crate::{
    api::{
        Api,
        error::{respond, respond_empty},
    },
    identity::{Assignment, assignment_key, key, projects_of},
    store::{Read, View},
};
use axum::{
    body::Body,
    extract::{Path, Query, State},
    http::{Method, Request, Response, StatusCode},
};
use serde_json::{Value, json};
use std::{collections::HashMap, sync::Arc};

pub(super) async fn user_projects(
    State(api): State<Api>,
    Path(user): Path<String>,
    request: Request<Body>,
) -> Response<Body> {
    let answer = async {
        let (call, caller) = api.known_call(request).await?;
        if call.method != Method::GET {
            return Err(Fault::method());
        }
        if !caller.admin && caller.user_id != user {
            return Err(Fault::forbidden());
        }
        let rows = projects_of(&call.snapshot, &user);
        let rows = rows
            .iter()
            .map(|project| project_row(project, &call.origin))
            .collect();
        Ok(respond(
            StatusCode::OK,
            &listed("projects", rows, &call.origin),
        ))
    };
    finish(answer.await)
}

pub(super) async fn project_roles(
    State(api): State<Api>,
    Path((project, user)): Path<(String, String)>,
    request: Request<Body>,
) -> Response<Body> {
    let answer = async {
        let (call, caller) = api.known_call(request).await?;
        if !caller.admin {
            return Err(Fault::forbidden());
        }
        let prefix = format!("assignment/{project}/{user}/");
        let rows: Vec<Value> = call
            .snapshot
            .scan(&prefix)
            .filter_map(|(_, entry)| entry.peek::<Assignment>())
            .filter_map(|it| Kind::Role.row(&call.snapshot, &it.role_id, &call.origin))
            .collect();
        Ok(respond(
            StatusCode::OK,
            &listed("roles", rows, &call.origin),
        ))
    };
    finish(answer.await)
}

pub(super) async fn project_role(
    State(api): State<Api>,
    Path((project, user, role)): Path<(String, String, String)>,
    request: Request<Body>,
) -> Response<Body> {
    let answer = async {
        let (call, caller) = api.known_call(request).await?;
        if !caller.admin {
            return Err(Fault::forbidden());
        }
        let stored = assignment_key(&project, &user, &role);
        let missing = Fault::missing("role assignment", &role);
        match call.method {
            Method::GET | Method::HEAD => match call.snapshot.entry(&stored) {
                Some(_) => Ok(respond_empty(StatusCode::NO_CONTENT)),
                None => Err(missing),
            },
            Method::PUT => {
                let id = role.clone();
                let rule = move |view: &mut View| {
                    for (kind, id) in [("project", &project), ("user", &user), ("role", &role)] {
                        if view.entry(&key(kind, id)).is_none() {
                            return Err(Fault::missing(kind, id));
                        }
                    }
                    let assignment = Assignment {
                        user_id: user.clone(),
                        project_id: project.clone(),
                        role_id: role.clone(),
                    };
                    view.put(stored.as_str(), Arc::new(assignment));
                    Ok(())
                };
                api.change(&caller, "assign", "role", &id, rule).await?;
                Ok(respond_empty(StatusCode::NO_CONTENT))
            }
            Method::DELETE => {
                let id = role.clone();
                let rule = move |view: &mut View| {
                    if view.delete(&stored) {
                        Ok(())
                    } else {
                        Err(Fault::missing("role assignment", &role))
                    }
                };
                api.change(&caller, "unassign", "role", &id, rule).await?;
                Ok(respond_empty(StatusCode::NO_CONTENT))
            }
            _ => Err(Fault::method()),
        }
    };
    finish(answer.await)
}

pub(super) async fn role_assignments(
    State(api): State<Api>,
    Query(query): Query<HashMap<String, String>>,
    request: Request<Body>,
) -> Response<Body> {
    let answer = async {
        let (call, caller) = api.known_call(request).await?;
        if call.method != Method::GET {
            return Err(Fault::method());
        }
        let wants = |name: &str, have: &str| query.get(name).is_none_or(|wanted| wanted == have);
        let names = query.contains_key("include_names");
        let named = |kind: Kind, id: &str| {
            let row = kind.row(&call.snapshot, id, "");
            let name = row
                .as_ref()
                .and_then(|row| row.get("name"))
                .filter(|_| names);
            match name {
                Some(name) if kind == Kind::Role => json!({"id": id, "name": name}),
                Some(name) => json!({"id": id, "name": name, "domain": domain_reference()}),
                None => json!({"id": id}),
            }
        };
        let rows: Vec<Value> = call
            .snapshot
            .scan("assignment/")
            .filter_map(|(_, entry)| entry.peek::<Assignment>())
            .filter(|it| caller.admin || it.user_id == caller.user_id)
            .filter(|it| {
                wants("user.id", &it.user_id)
                    && wants("role.id", &it.role_id)
                    && wants("scope.project.id", &it.project_id)
            })
            .map(|it| {
                json!({
                    "role": named(Kind::Role, &it.role_id),
                    "user": named(Kind::User, &it.user_id),
                    "scope": {"project": named(Kind::Project, &it.project_id)},
                    "links": {},
                })
            })
            .collect();
        Ok(respond(
            StatusCode::OK,
            &listed("role_assignments", rows, &call.origin),
        ))
    };
    finish(answer.await)
}
