//! What is kept of a named record, and what goes with it?
//!
//! The rules of the identity API's transactions: names are one of a kind in their domain, and what a record held goes with it.

use super::{Fault, records::Kind};
use crate::{
    identity::{
        self, AppCredential, Assignment, DOMAIN, Domain, Group, Project, Role, User, key, name_key,
        named_kind,
    },
    store::{Read, View},
};
use axum::http::StatusCode;
use std::sync::Arc;

/// What a body may say of a named record.
#[derive(Debug, Clone, Default)]
pub(super) struct Wanted {
    pub(super) name: Option<String>,
    pub(super) domain_id: Option<String>,
    pub(super) description: Option<String>,
    pub(super) enabled: Option<bool>,
    pub(super) email: Option<String>,
    pub(super) default_project_id: Option<String>,
    pub(super) password_hash: Option<String>,
}

/// May this domain be deleted?
pub(super) fn may_go(view: &View, id: &str) -> Result<(), Fault> {
    let refused = |text: &str| Err(Fault(StatusCode::FORBIDDEN, text.to_owned()));
    if id == DOMAIN {
        return refused("The default domain is always there.");
    }
    match identity::domain(view, id) {
        Some(domain) if domain.enabled => {
            refused("Cannot delete a domain that is enabled, please disable it first.")
        }
        Some(_) => Ok(()),
        None => Err(Fault::missing("domain", id)),
    }
}

pub(super) fn store_named(
    view: &mut View,
    kind: Kind,
    id: &str,
    new: bool,
    wanted: &Wanted,
) -> Result<(), Fault> {
    let word = kind.word();
    let domain = wanted.domain_id.as_deref();
    if let Some(domain) = domain.filter(|_| new)
        && identity::domain(view, domain).is_none()
    {
        return Err(Fault::missing("domain", domain));
    }
    rename(view, kind, id, wanted)?;
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
                    domain_id: domain.unwrap_or(DOMAIN).to_owned(),
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
                    domain_id: domain.unwrap_or(DOMAIN).to_owned(),
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
        Kind::Group => store_group(view, id, new, wanted)?,
        Kind::Domain => store_domain(view, id, new, wanted)?,
    }
    Ok(())
}

fn store_group(view: &mut View, id: &str, new: bool, wanted: &Wanted) -> Result<(), Fault> {
    let key = key("group", id);
    let domain = wanted.domain_id.as_deref().unwrap_or(DOMAIN);
    let mut group = match view.get::<Group>(&key) {
        Some(group) => Group::clone(&group),
        None if new => Group {
            id: id.to_owned(),
            name: String::new(),
            description: String::new(),
            domain_id: domain.to_owned(),
        },
        None => return Err(Fault::missing("group", id)),
    };
    set(&mut group.name, wanted.name.as_ref());
    set(&mut group.description, wanted.description.as_ref());
    view.put(key, Arc::new(group));
    Ok(())
}

fn store_domain(view: &mut View, id: &str, new: bool, wanted: &Wanted) -> Result<(), Fault> {
    let mut domain = match identity::domain(view, id) {
        Some(domain) => Domain::clone(&domain),
        None if new => Domain {
            id: id.to_owned(),
            name: String::new(),
            description: String::new(),
            enabled: true,
        },
        None => return Err(Fault::missing("domain", id)),
    };
    // Nobody could open it again.
    if id == DOMAIN && wanted.enabled == Some(false) {
        let text = "The default domain is always enabled.";
        return Err(Fault(StatusCode::FORBIDDEN, text.to_owned()));
    }
    set(&mut domain.name, wanted.name.as_ref());
    set(&mut domain.description, wanted.description.as_ref());
    set(&mut domain.enabled, wanted.enabled.as_ref());
    view.put(key("domain", id), Arc::new(domain));
    Ok(())
}

/// Gives a record the name that is wanted, if no other has it.
fn rename(view: &mut View, kind: Kind, id: &str, wanted: &Wanted) -> Result<(), Fault> {
    let Some(name) = &wanted.name else {
        return Ok(());
    };
    let word = kind.word();
    let domain = kind.domain(view, id).or_else(|| wanted.domain_id.clone());
    let named = named_kind(word, domain.as_deref().unwrap_or(DOMAIN));
    let holder = if kind == Kind::Domain {
        identity::domain_by_name(view, name).map(|domain| domain.id.clone())
    } else {
        let holder = view.get::<String>(&name_key(&named, name));
        holder.map(|holder| String::clone(&holder))
    };
    if holder.is_some_and(|holder| holder != id) {
        return Err(Fault(
            StatusCode::CONFLICT,
            format!(
                "Conflict occurred attempting to store {word} - Duplicate entry found with name {name}."
            ),
        ));
    }
    if let Some(old) = name_key_of(view, kind, id) {
        view.delete(&old);
    }
    view.put(name_key(&named, name), Arc::new(id.to_owned()));
    Ok(())
}

pub(super) fn set<T: Clone>(slot: &mut T, value: Option<&T>) {
    if let Some(value) = value {
        slot.clone_from(value);
    }
}

/// The key that holds the name of a record.
fn name_key_of(view: &View, kind: Kind, id: &str) -> Option<String> {
    let key = key(kind.word(), id);
    let name = match kind {
        Kind::Project => view.get::<Project>(&key).map(|it| it.name.clone()),
        Kind::User => view.get::<User>(&key).map(|it| it.name.clone()),
        Kind::Group => view.get::<Group>(&key).map(|it| it.name.clone()),
        Kind::Role => view.get::<Role>(&key).map(|it| it.name.clone()),
        Kind::Domain => view.get::<Domain>(&key).map(|it| it.name.clone()),
    };
    let domain = kind.domain(view, id);
    let named = named_kind(kind.word(), domain.as_deref().unwrap_or(DOMAIN));
    name.map(|name| name_key(&named, &name))
}

pub(super) fn remove(view: &mut View, kind: Kind, id: &str) {
    if kind == Kind::Domain {
        // What is in it goes first, while its names are found.
        let inside: Vec<(Kind, String)> = [Kind::User, Kind::Group, Kind::Project]
            .into_iter()
            .flat_map(|kind| {
                let prefix = format!("{}/", kind.word());
                let keys = view.scan(&prefix);
                let ids = keys.filter_map(|(key, _)| key.strip_prefix(&prefix));
                let ids = ids.filter(|it| kind.domain(view, it).as_deref() == Some(id));
                ids.map(|it| (kind, it.to_owned())).collect::<Vec<_>>()
            })
            .collect();
        for (kind, id) in inside {
            remove(view, kind, &id);
        }
    }
    if let Some(name) = name_key_of(view, kind, id) {
        view.delete(&name);
    }
    view.delete(&key(kind.word(), id));
    let is = |of: Option<&String>| of.is_some_and(|of| of == id);
    let concerned: Vec<String> = view
        .scan("assignment/")
        .filter(|(_, entry)| {
            entry.peek::<Assignment>().is_some_and(|it| match kind {
                Kind::Project => it.project_id == id,
                Kind::User => it.user_id == id,
                Kind::Role => it.role_id == id,
                Kind::Group => is(it.group_id.as_ref()),
                Kind::Domain => is(it.domain_id.as_ref()),
            })
        })
        .map(|(key, _)| key.to_owned())
        .collect();
    let members: Vec<String> = view
        .scan("groupuser/")
        .filter(|(key, _)| match kind {
            Kind::User => key.split('/').nth(1) == Some(id),
            Kind::Group => key.split('/').nth(2) == Some(id),
            Kind::Project | Kind::Role | Kind::Domain => false,
        })
        .map(|(key, _)| key.to_owned())
        .collect();
    for key in concerned.iter().chain(&members) {
        view.delete(key);
    }
    // What acts for a user in a project goes with either.
    let lent: Vec<Arc<AppCredential>> = view
        .scan("appcred/")
        .filter_map(|(_, entry)| entry.get::<AppCredential>())
        .filter(|it| match kind {
            Kind::Project => it.project_id == id,
            Kind::User => it.user_id == id,
            Kind::Role | Kind::Group | Kind::Domain => false,
        })
        .collect();
    for it in lent {
        view.delete(&it.name_key());
        view.delete(&self::key("appcred", &it.id));
    }
}
