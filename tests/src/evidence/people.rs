//! Who asks?
//!
//! An admin, and two projects with a member each. Passwords are not used: they are slow on purpose.

use std::sync::Arc;

use controller::{
    identity::{self, Assignment, Bootstrap, Project, Role, Token, User},
    store::{View, transact},
    time::Seconds,
};
use tokio::runtime::Runtime;

use crate::control::brain::Brain;

/// The admin's token, and its project.
pub const ADMIN: (&str, &str) = ("admin", "00000000000000000000000000000001");
/// A member's token, and its project.
pub const A: (&str, &str) = ("a", "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa");
/// Another's.
pub const B: (&str, &str) = ("b", "bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb");
/// A service's token, in the admin's project.
pub const SERVICE: (&str, &str) = ("service", ADMIN.1);

/// Writes them into a new store.
pub(super) fn arrive(brain: &Brain, runtime: &Runtime) {
    let first = transact::<_, ()>(brain.core.store.as_ref(), |view| {
        let with = Bootstrap {
            ids: (1..=20u32).map(|n| format!("{n:032x}")).collect(),
            password_hash: String::new(),
        };
        identity::bootstrap(view, &with);
        let admin = identity::by_name::<User>(view, "user", "admin").unwrap();
        token(view, ADMIN, &admin.id);
        for (who, role) in [(A, "member"), (B, "member"), (SERVICE, "service")] {
            person(view, who, role);
        }
        Ok(())
    });
    runtime.block_on(first).unwrap();
}

fn person(view: &mut View, who: (&str, &str), role: &str) {
    let (name, project) = who;
    if !identity::has_project(view, project) {
        let made = Project {
            id: project.to_owned(),
            name: name.to_owned(),
            description: String::new(),
            domain_id: identity::DOMAIN.to_owned(),
            enabled: true,
        };
        view.put(identity::key("project", project), Arc::new(made));
    }
    let id = format!("user-{name}");
    let user = User {
        id: id.clone(),
        name: name.to_owned(),
        description: String::new(),
        domain_id: identity::DOMAIN.to_owned(),
        email: None,
        enabled: true,
        default_project_id: Some(project.to_owned()),
        password_hash: None,
        revocations: 0,
    };
    view.put(identity::key("user", &id), Arc::new(user));
    let role = identity::by_name::<Role>(view, "role", role).unwrap();
    let assignment = Assignment {
        user_id: id.clone(),
        project_id: project.to_owned(),
        role_id: role.id.clone(),
        ..Assignment::default()
    };
    let key = identity::assignment_key(project, &id, &role.id);
    view.put(key, Arc::new(assignment));
    token(view, who, &id);
}

fn token(view: &mut View, (secret, project): (&str, &str), user: &str) {
    let token = Token {
        user_id: user.to_owned(),
        project_id: Some(project.to_owned()),
        domain_id: None,
        methods: Vec::new(),
        audit_id: String::new(),
        issued_at: Seconds::default(),
        expires_at: Seconds::new(u64::MAX),
        credential_id: None,
        revocations: 0,
    };
    view.put(identity::token_key(secret), Arc::new(token));
}
