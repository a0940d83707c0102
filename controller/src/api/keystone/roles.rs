//! Who may do what where?

use super::{
    Answer, Call, Fault, domain_reference, finish, governs, listed,
    records::{Kind, project_row},
};
use crate::{
    api::{
        Api,
        error::{respond, respond_empty},
    },
    identity::{Assignment, Role, domain, key, projects_of, with_implied},
    rules::Caller,
    store::{Read, Snapshot, View},
};
use axum::{
    Router,
    body::Body,
    extract::{Path, Query, State},
    http::{Method, Request, Response, StatusCode},
    routing::any,
};
use serde_json::{Value, json};
use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

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

/// Where a role is assigned, and to whom: `@` before the id of a domain or a group.
#[derive(Debug, Clone, Copy)]
struct Assigned {
    place: Kind,
    actor: Kind,
}

impl Assigned {
    fn assignment(self, place: String, actor: String, role: String) -> Assignment {
        let mut assignment = Assignment {
            role_id: role,
            ..Assignment::default()
        };
        match self.place {
            Kind::Domain => assignment.domain_id = Some(place),
            Kind::Project | Kind::User | Kind::Group | Kind::Role => assignment.project_id = place,
        }
        match self.actor {
            Kind::Group => assignment.group_id = Some(actor),
            Kind::Project | Kind::User | Kind::Domain | Kind::Role => assignment.user_id = actor,
        }
        assignment
    }

    /// May the caller say who has which role there?
    fn is_kept_by(self, call: &Call, place: &str, caller: &Caller) -> bool {
        let domain = match self.place {
            Kind::Domain => Some(place.to_owned()),
            Kind::Project | Kind::User | Kind::Group | Kind::Role => {
                self.place.domain(&call.snapshot, place)
            }
        };
        governs(caller, domain.as_deref())
    }
}

/// The roles of users and groups in projects and domains.
pub(super) fn routes() -> Router<Api> {
    let mut router = Router::new();
    for (places, place) in [("projects", Kind::Project), ("domains", Kind::Domain)] {
        for (actors, actor) in [("users", Kind::User), ("groups", Kind::Group)] {
            let assigned = Assigned { place, actor };
            let many = format!("/identity/v3/{places}/{{place}}/{actors}/{{actor}}/roles");
            router = router
                .route(
                    &many,
                    any(
                        move |State(api): State<Api>, Path(ids), request| async move {
                            finish(assigned_roles(&api, assigned, ids, request).await)
                        },
                    ),
                )
                .route(
                    &format!("{many}/{{role}}"),
                    any(
                        move |State(api): State<Api>, Path(ids), request| async move {
                            finish(assigned_role(&api, assigned, ids, request).await)
                        },
                    ),
                );
        }
    }
    router
}

async fn assigned_roles(
    api: &Api,
    assigned: Assigned,
    (place, actor): (String, String),
    request: Request<Body>,
) -> Answer {
    let (call, caller) = api.known_call(request).await?;
    if !assigned.is_kept_by(&call, &place, &caller) {
        return Err(Fault::forbidden());
    }
    if call.method != Method::GET {
        return Err(Fault::method());
    }
    let prefix = assigned.assignment(place, actor, String::new()).key();
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
}

async fn assigned_role(
    api: &Api,
    assigned: Assigned,
    (place, actor, role): (String, String, String),
    request: Request<Body>,
) -> Answer {
    let (call, caller) = api.known_call(request).await?;
    if !assigned.is_kept_by(&call, &place, &caller) {
        return Err(Fault::forbidden());
    }
    let id = role.clone();
    let assignment = assigned.assignment(place.clone(), actor.clone(), role.clone());
    let stored = assignment.key();
    let missing = Fault::missing("role assignment", &role);
    match call.method {
        Method::GET | Method::HEAD => match call.snapshot.entry(&stored) {
            Some(_) => Ok(respond_empty(StatusCode::NO_CONTENT)),
            None => Err(missing),
        },
        Method::PUT => {
            // These two reach beyond the domain: whoever keeps one gives them to nobody.
            let known = call.snapshot.get::<Role>(&key("role", &role));
            let far = known.is_some_and(|role| matches!(role.name.as_str(), "admin" | "service"));
            if far && !caller.admin {
                return Err(Fault::forbidden());
            }
            let rule = move |view: &mut View| {
                for (kind, id) in [
                    (assigned.place, &place),
                    (assigned.actor, &actor),
                    (Kind::Role, &role),
                ] {
                    let is_there = match kind {
                        Kind::Domain => domain(view, id).is_some(),
                        Kind::Project | Kind::User | Kind::Group | Kind::Role => {
                            view.entry(&key(kind.word(), id)).is_some()
                        }
                    };
                    if !is_there {
                        return Err(Fault::missing(kind.word(), id));
                    }
                }
                view.put(stored.as_str(), Arc::new(assignment.clone()));
                Ok(())
            };
            api.change(&caller, "assign", "role", &id, rule).await?;
            Ok(respond_empty(StatusCode::NO_CONTENT))
        }
        Method::DELETE => {
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
}

/// What assignments come to: each user of a group by itself, each role that is implied.
fn effective(snapshot: &Snapshot, assignments: Vec<Assignment>) -> Vec<Assignment> {
    let mut come = BTreeMap::new();
    for it in assignments {
        let users = match &it.group_id {
            None => vec![it.user_id.clone()],
            Some(group) => {
                let members = snapshot.scan("groupuser/").filter_map(|(key, _)| {
                    let mut parts = key.split('/').skip(1);
                    let (user, of) = (parts.next()?, parts.next()?);
                    (of == group).then(|| user.to_owned())
                });
                members.collect()
            }
        };
        for user_id in users {
            for role in with_implied(snapshot, std::iter::once(it.role_id.as_str())) {
                let one = Assignment {
                    user_id: user_id.clone(),
                    group_id: None,
                    role_id: role.id.clone(),
                    ..it.clone()
                };
                come.insert(one.key(), one);
            }
        }
    }
    come.into_values().collect()
}

/// One of the query's words that need no value.
fn is_set(query: &HashMap<String, String>, name: &str) -> bool {
    query
        .get(name)
        .is_some_and(|value| !matches!(value.to_ascii_lowercase().as_str(), "0" | "false"))
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
        let wants = |name: &str, have: Option<&str>| {
            let wanted = query.get(name);
            wanted.is_none_or(|wanted| have == Some(wanted.as_str()))
        };
        let names = is_set(&query, "include_names");
        let named = |kind: Kind, id: &str| {
            let row = kind.row(&call.snapshot, id, "").filter(|_| names);
            let Some(row) = row else {
                return json!({"id": id});
            };
            let name = row.get("name").cloned().unwrap_or_default();
            match kind.domain(&call.snapshot, id) {
                Some(domain) => {
                    let domain = domain_reference(&call.snapshot, &domain);
                    json!({"id": id, "name": name, "domain": domain})
                }
                None => json!({"id": id, "name": name}),
            }
        };
        let assignments = call.snapshot.scan("assignment/");
        let mut assignments: Vec<Assignment> = assignments
            .filter_map(|(_, entry)| entry.peek::<Assignment>().cloned())
            .collect();
        if is_set(&query, "effective") {
            assignments = effective(&call.snapshot, assignments);
        }
        let seen = |it: &Assignment| {
            let domain = it.domain_id.clone();
            let domain = domain.or_else(|| Kind::Project.domain(&call.snapshot, &it.project_id));
            governs(&caller, domain.as_deref())
                || (it.group_id.is_none() && it.user_id == caller.user_id)
        };
        let some = |id: &str| (!id.is_empty()).then(|| id.to_owned());
        let rows: Vec<Value> = assignments
            .iter()
            .filter(|it| seen(it))
            .filter(|it| {
                wants("user.id", some(&it.user_id).as_deref())
                    && wants("group.id", it.group_id.as_deref())
                    && wants("role.id", Some(&it.role_id))
                    && wants("scope.project.id", some(&it.project_id).as_deref())
                    && wants("scope.domain.id", it.domain_id.as_deref())
            })
            .map(|it| {
                let (who, actor) = match &it.group_id {
                    Some(group) => ("group", named(Kind::Group, group)),
                    None => ("user", named(Kind::User, &it.user_id)),
                };
                let (place, scope) = match &it.domain_id {
                    Some(domain) => ("domain", named(Kind::Domain, domain)),
                    None => ("project", named(Kind::Project, &it.project_id)),
                };
                json!({
                    "role": named(Kind::Role, &it.role_id),
                    who: actor,
                    "scope": {place: scope},
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
