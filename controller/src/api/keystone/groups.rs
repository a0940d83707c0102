//! Who is in which group?

use super::{
    Fault, finish, governs, listed,
    records::{Kind, group_row, user_row},
};
use crate::{
    api::{
        Api,
        error::{respond, respond_empty},
    },
    identity::{Group, User, groups_of, key, member_key},
    store::{Read, View},
};
use axum::{
    body::Body,
    extract::{Path, State},
    http::{Method, Request, Response, StatusCode},
};
use serde_json::Value;
use std::sync::Arc;

/// GET /v3/users/USER/groups
pub(super) async fn of_user(
    State(api): State<Api>,
    Path(user): Path<String>,
    request: Request<Body>,
) -> Response<Body> {
    let answer = async {
        let (call, caller) = api.known_call(request).await?;
        if call.method != Method::GET {
            return Err(Fault::method());
        }
        let domain = Kind::User.domain(&call.snapshot, &user);
        if !governs(&caller, domain.as_deref()) && caller.user_id != user {
            return Err(Fault::forbidden());
        }
        domain.ok_or_else(|| Fault::missing("user", &user))?;
        let rows: Vec<Value> = groups_of(&call.snapshot, &user)
            .iter()
            .filter_map(|id| call.snapshot.get::<Group>(&key("group", id)))
            .map(|group| group_row(&group, &call.origin))
            .collect();
        Ok(respond(
            StatusCode::OK,
            &listed("groups", rows, &call.origin),
        ))
    };
    finish(answer.await)
}

/// GET /v3/groups/GROUP/users
pub(super) async fn users(
    State(api): State<Api>,
    Path(group): Path<String>,
    request: Request<Body>,
) -> Response<Body> {
    let answer = async {
        let (call, caller) = api.known_call(request).await?;
        if call.method != Method::GET {
            return Err(Fault::method());
        }
        let domain = Kind::Group.domain(&call.snapshot, &group);
        if !governs(&caller, domain.as_deref()) {
            return Err(Fault::forbidden());
        }
        domain.ok_or_else(|| Fault::missing("group", &group))?;
        let users = call.snapshot.scan("user/");
        let users = users.filter_map(|(_, entry)| entry.get::<User>());
        let is_in = |user: &Arc<User>| call.snapshot.entry(&member_key(&user.id, &group)).is_some();
        let rows: Vec<Value> = users
            .filter(is_in)
            .map(|user| user_row(&user, &call.origin))
            .collect();
        Ok(respond(
            StatusCode::OK,
            &listed("users", rows, &call.origin),
        ))
    };
    finish(answer.await)
}

/// /v3/groups/GROUP/users/USER
pub(super) async fn member(
    State(api): State<Api>,
    Path((group, user)): Path<(String, String)>,
    request: Request<Body>,
) -> Response<Body> {
    let answer = async {
        let (call, caller) = api.known_call(request).await?;
        let domain = Kind::Group.domain(&call.snapshot, &group);
        let own = caller.user_id == user && matches!(call.method, Method::GET | Method::HEAD);
        if !governs(&caller, domain.as_deref()) && !own {
            return Err(Fault::forbidden());
        }
        let stored = member_key(&user, &group);
        let id = group.clone();
        match call.method {
            Method::GET | Method::HEAD => match call.snapshot.entry(&stored) {
                Some(_) => Ok(respond_empty(StatusCode::NO_CONTENT)),
                None => Err(Fault::missing("user in group", &user)),
            },
            Method::PUT => {
                // Whoever keeps a domain puts its own users into its groups.
                let of_user = Kind::User.domain(&call.snapshot, &user);
                if !caller.admin && of_user.is_some() && of_user != domain {
                    return Err(Fault::forbidden());
                }
                let rule = move |view: &mut View| {
                    for (kind, id) in [("group", &group), ("user", &user)] {
                        if view.entry(&key(kind, id)).is_none() {
                            return Err(Fault::missing(kind, id));
                        }
                    }
                    view.put(stored.as_str(), Arc::new(()));
                    Ok(())
                };
                api.change(&caller, "add_user", "group", &id, rule).await?;
                Ok(respond_empty(StatusCode::NO_CONTENT))
            }
            Method::DELETE => {
                let rule = move |view: &mut View| {
                    if view.delete(&stored) {
                        Ok(())
                    } else {
                        Err(Fault::missing("user in group", &user))
                    }
                };
                api.change(&caller, "remove_user", "group", &id, rule)
                    .await?;
                Ok(respond_empty(StatusCode::NO_CONTENT))
            }
            _ => Err(Fault::method()),
        }
    };
    finish(answer.await)
}
