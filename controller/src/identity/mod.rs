//! Who is who?
//!
//! An embedded Keystone: domains, projects, users, groups, roles, assignments and tokens, kept in the same store.
//! Passwords are argon2id hashes. A token is 32 random bytes; the store knows its SHA-256 only.
//! What a token may do is looked up when it is used, so that a role taken away is gone at once.
//!
//! # Attack
//! A wrong user name costs as much time as a wrong password. Whoever reads the store's file learns no
//! token and no password.

mod passwords;

pub use passwords::{hash as hash_password, verify as verify_password};

use crate::{
    resource::Lookup,
    rules::Caller,
    store::{Read, Record, Snapshot, View},
    time::Seconds,
};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use sha2::{Digest, Sha256};
use std::sync::Arc;

/// The id of the domain that is always there.
pub const DOMAIN: &str = "default";

fn default_domain() -> String {
    DOMAIN.to_owned()
}

/// A domain: names of users, groups and projects are one of a kind in it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Domain {
    /// 32 hexadecimal digits, or `default`.
    pub id: String,
    /// Its name, one of a kind.
    pub name: String,
    /// Human note.
    #[serde(default)]
    pub description: String,
    /// Are its users let in, and tokens for its projects good?
    pub enabled: bool,
}

impl Domain {
    /// The one that is always there, as long as nobody changed it.
    fn first() -> Self {
        Self {
            id: default_domain(),
            name: "Default".to_owned(),
            description: "The default domain".to_owned(),
            enabled: true,
        }
    }
}

/// A group: its users have its roles.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Group {
    /// 32 hexadecimal digits.
    pub id: String,
    /// Its name, one of a kind in its domain.
    pub name: String,
    /// Human note.
    #[serde(default)]
    pub description: String,
    /// Where its name is.
    #[serde(default = "default_domain")]
    pub domain_id: String,
}
/// The roles that are there from the start.
pub const ROLES: &[&str] = &["admin", "manager", "member", "reader", "service"];
/// How long a token is good, in seconds: a working day, as Keystone's deployments have it.
pub const TOKEN_LIFE: u64 = 12 * 3600;

/// How much longer, beside the token of a service: two days, as keystonemiddleware has it.
pub const EXPIRED_LIFE: u64 = 48 * 3600;

/// A project.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Project {
    /// 32 hexadecimal digits.
    pub id: String,
    /// Its name, one of a kind in its domain.
    pub name: String,
    /// Human note.
    #[serde(default)]
    pub description: String,
    /// Where its name is.
    #[serde(default = "default_domain")]
    pub domain_id: String,
    /// May tokens be for it?
    pub enabled: bool,
}

/// A user.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct User {
    /// 32 hexadecimal digits.
    pub id: String,
    /// Its name, one of a kind.
    pub name: String,
    /// Human note.
    #[serde(default)]
    pub description: String,
    /// Where its name is.
    #[serde(default = "default_domain")]
    pub domain_id: String,
    /// An address.
    #[serde(default)]
    pub email: Option<String>,
    /// May it log in?
    pub enabled: bool,
    /// Where it works if it does not say.
    #[serde(default)]
    pub default_project_id: Option<String>,
    /// The argon2id hash.
    #[serde(default)]
    pub password_hash: Option<String>,
    /// How often what it could do with its tokens was taken back: older ones are not good.
    #[serde(default)]
    pub revocations: u64,
}

/// A role.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Role {
    /// 32 hexadecimal digits.
    pub id: String,
    /// Its name, one of a kind.
    pub name: String,
    /// Human note.
    #[serde(default)]
    pub description: String,
}

/// That a user, or all of a group, have a role in a project, or a domain.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Assignment {
    /// Who; empty for a group.
    pub user_id: String,
    /// Where; empty for a domain.
    pub project_id: String,
    /// As what.
    pub role_id: String,
    /// Who, if that is a group.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group_id: Option<String>,
    /// Where, if that is a domain.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub domain_id: Option<String>,
}

impl Assignment {
    /// Where: a project's id, or a domain's behind `@`.
    pub fn place(&self) -> String {
        self.domain_id
            .as_ref()
            .map_or_else(|| self.project_id.clone(), |id| format!("@{id}"))
    }

    /// Who: a user's id, or a group's behind `@`.
    pub fn actor(&self) -> String {
        self.group_id
            .as_ref()
            .map_or_else(|| self.user_id.clone(), |id| format!("@{id}"))
    }

    /// Its key.
    pub fn key(&self) -> String {
        assignment_key(&self.place(), &self.actor(), &self.role_id)
    }
}

/// What a program acts for a user with, in one project.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AppCredential {
    /// 32 hexadecimal digits.
    pub id: String,
    /// Whose.
    pub user_id: String,
    /// Where.
    pub project_id: String,
    /// Its name, one of a kind among its user's.
    pub name: String,
    /// Human note.
    #[serde(default)]
    pub description: String,
    /// As what, by ids of roles.
    pub roles: Vec<String>,
    /// May it make and delete credentials?
    #[serde(default)]
    pub unrestricted: bool,
    /// Until when; for good if not said.
    #[serde(default)]
    pub expires_at: Option<Seconds>,
    /// The argon2id hash of its secret.
    pub secret_hash: String,
}

impl AppCredential {
    /// The key that holds its name.
    pub fn name_key(&self) -> String {
        name_key("appcred", &format!("{}/{}", self.user_id, self.name))
    }

    /// Has it not expired?
    pub fn is_good(&self, now: Seconds) -> bool {
        self.expires_at.is_none_or(|at| at > now)
    }
}

/// A token, under the hash of its secret.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Token {
    /// Whose.
    pub user_id: String,
    /// For which project; none if unscoped.
    pub project_id: Option<String>,
    /// For which domain, instead.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub domain_id: Option<String>,
    /// How it was got.
    pub methods: Vec<String>,
    /// A name for it in audits.
    pub audit_id: String,
    /// Since when.
    pub issued_at: Seconds,
    /// Until when.
    pub expires_at: Seconds,
    /// The application credential by which it was got, if it was.
    #[serde(default)]
    pub credential_id: Option<String>,
    /// How often its user's tokens had been taken back then.
    #[serde(default)]
    pub revocations: u64,
}

fn json<T>(bytes: &[u8]) -> Result<Arc<dyn Record>, serde_json::Error>
where
    T: DeserializeOwned + Serialize + std::fmt::Debug + Send + Sync + 'static,
{
    serde_json::from_slice::<T>(bytes).map(|value| Arc::new(value) as Arc<dyn Record>)
}

/// Stored bytes of an identity record, if it is one.
pub fn decode(kind: &str, bytes: &[u8]) -> Option<Result<Arc<dyn Record>, serde_json::Error>> {
    Some(match kind {
        "project" => json::<Project>(bytes),
        "user" => json::<User>(bytes),
        "role" => json::<Role>(bytes),
        "domain" => json::<Domain>(bytes),
        "group" => json::<Group>(bytes),
        "groupuser" => json::<()>(bytes),
        "assignment" => json::<Assignment>(bytes),
        "appcred" => json::<AppCredential>(bytes),
        "token" => json::<Token>(bytes),
        "idname" => json::<String>(bytes),
        _ => return None,
    })
}

/// The key of an identity record.
pub fn key(kind: &str, id: &str) -> String {
    format!("{kind}/{id}")
}

/// The key that holds a name; its record is the id.
pub fn name_key(kind: &str, name: &str) -> String {
    format!("idname/{kind}/{name}")
}

/// The key of an assignment.
pub fn assignment_key(project: &str, user: &str, role: &str) -> String {
    format!("assignment/{project}/{user}/{role}")
}

/// The key of a token by its secret.
pub fn token_key(secret: &str) -> String {
    format!("token/{:x}", Sha256::digest(secret.as_bytes()))
}

/// The text of a token with these bytes.
pub fn token_text(bytes: &[u8]) -> String {
    format!("ow-{}", URL_SAFE_NO_PAD.encode(bytes))
}

/// The record of this kind and name.
pub fn by_name<T: Send + Sync + 'static>(
    read: &impl Read,
    kind: &str,
    name: &str,
) -> Option<Arc<T>> {
    let id = read.get::<String>(&name_key(kind, name))?;
    read.get(&key(kind, &id))
}

/// The record of this kind and name in a domain.
pub fn by_name_in<T: Send + Sync + 'static>(
    read: &impl Read,
    kind: &str,
    domain: &str,
    name: &str,
) -> Option<Arc<T>> {
    let id = read.get::<String>(&name_key(&named_kind(kind, domain), name))?;
    read.get(&key(kind, &id))
}

/// The kind by which names of a domain are kept apart from those of others.
pub fn named_kind(kind: &str, domain: &str) -> String {
    if domain == DOMAIN {
        kind.to_owned()
    } else {
        format!("{kind}@{domain}")
    }
}

/// The domain with this id.
pub fn domain(read: &impl Read, id: &str) -> Option<Arc<Domain>> {
    let stored = read.get::<Domain>(&key("domain", id));
    stored.or_else(|| (id == DOMAIN).then(|| Arc::new(Domain::first())))
}

/// All domains.
pub fn domains(read: &impl Read) -> Vec<Arc<Domain>> {
    let stored = read.scan("domain/");
    let mut all: Vec<Arc<Domain>> = stored.filter_map(|(_, entry)| entry.get()).collect();
    if !all.iter().any(|domain| domain.id == DOMAIN) {
        all.insert(0, Arc::new(Domain::first()));
    }
    all
}

/// The domain with this name, in whatever case for the one that is always there, as ever.
pub fn domain_by_name(read: &impl Read, name: &str) -> Option<Arc<Domain>> {
    let is = |domain: &Arc<Domain>| {
        let first = domain.id == DOMAIN && domain.name.eq_ignore_ascii_case(name);
        domain.name == name || first
    };
    domains(read).into_iter().find(is)
}

/// Is there such a domain, and is it not shut?
pub fn is_domain_open(read: &impl Read, id: &str) -> bool {
    domain(read, id).is_some_and(|domain| domain.enabled)
}

/// The key of a user's part in a group.
pub fn member_key(user: &str, group: &str) -> String {
    format!("groupuser/{user}/{group}")
}

/// The groups of a user.
pub fn groups_of(read: &impl Read, user: &str) -> Vec<String> {
    let prefix = member_key(user, "");
    let keys = read.scan(&prefix);
    keys.filter_map(|(key, _)| key.rsplit('/').next().map(str::to_owned))
        .collect()
}

/// The roles of a user in a project, or a domain (behind `@`), its groups' and what they imply included, by name.
pub fn roles_in(read: &impl Read, place: &str, user: &str) -> Vec<Arc<Role>> {
    let mut prefixes = vec![format!("assignment/{place}/{user}/")];
    let groups = groups_of(read, user);
    prefixes.extend(
        groups
            .iter()
            .map(|group| format!("assignment/{place}/@{group}/")),
    );
    let ids = prefixes.iter().flat_map(|prefix| read.scan(prefix));
    let ids = ids.filter_map(|(_, entry)| entry.peek::<Assignment>());
    with_implied(read, ids.map(|assignment| assignment.role_id.as_str()))
}

/// The roles that a token has: its user's, of which an application credential may have fewer.
pub fn roles_of(read: &impl Read, token: &Token) -> Vec<Arc<Role>> {
    if let Some(domain) = &token.domain_id {
        return roles_in(read, &format!("@{domain}"), &token.user_id);
    }
    let Some(project) = &token.project_id else {
        return Vec::new();
    };
    let mut roles = roles_in(read, project, &token.user_id);
    if let Some(id) = &token.credential_id {
        let credential = read.get::<AppCredential>(&key("appcred", id));
        let ids = credential.iter().flat_map(|it| &it.roles);
        let lent = with_implied(read, ids.map(String::as_str));
        roles.retain(|role| lent.iter().any(|lent| lent.id == role.id));
    }
    roles
}

/// The roles of these ids, what they imply included, by name.
pub fn with_implied<'a>(read: &impl Read, ids: impl Iterator<Item = &'a str>) -> Vec<Arc<Role>> {
    let mut names: Vec<String> = ids
        .filter_map(|id| read.get::<Role>(&key("role", id)))
        .map(|role| role.name.clone())
        .collect();
    let mut at = 0;
    while let Some(name) = names.get(at) {
        let implied = match name.as_str() {
            "admin" => "manager",
            "manager" => "member",
            "member" => "reader",
            _ => "",
        };
        if !implied.is_empty() && !names.iter().any(|name| name == implied) {
            names.push(implied.to_owned());
        }
        at += 1;
    }
    names.sort();
    names
        .iter()
        .filter_map(|name| by_name(read, "role", name))
        .collect()
}

/// The projects in which a user has a role.
pub fn projects_of(read: &impl Read, user: &str) -> Vec<Arc<Project>> {
    read.scan("project/")
        .filter_map(|(_, entry)| entry.get::<Project>())
        .filter(|project| !roles_in(read, &project.id, user).is_empty())
        .collect()
}

/// The domains in which a user has a role.
pub fn domains_of(read: &impl Read, user: &str) -> Vec<Arc<Domain>> {
    let mut domains = domains(read);
    domains.retain(|domain| !roles_in(read, &format!("@{}", domain.id), user).is_empty());
    domains
}

/// The token with this secret, if it is good now, and whose it is.
pub fn good_token(
    snapshot: &Snapshot,
    secret: &str,
    now: Seconds,
) -> Option<(Arc<Token>, Arc<User>)> {
    if secret.len() > 255 {
        return None;
    }
    let token = snapshot.get::<Token>(&token_key(secret))?;
    if token.expires_at <= now {
        return None;
    }
    let user = snapshot
        .get::<User>(&key("user", &token.user_id))
        .filter(|user| user.enabled && user.revocations == token.revocations)
        .filter(|user| is_domain_open(snapshot, &user.domain_id))?;
    if let Some(id) = &token.credential_id {
        let credential = snapshot.get::<AppCredential>(&key("appcred", id))?;
        if !credential.is_good(now) {
            return None;
        }
    }
    if let Some(project) = &token.project_id {
        snapshot
            .get::<Project>(&key("project", project))
            .filter(|project| project.enabled && is_domain_open(snapshot, &project.domain_id))?;
    }
    if let Some(domain) = &token.domain_id
        && !is_domain_open(snapshot, domain)
    {
        return None;
    }
    // Whoever lost the last role of a place has no business there any more.
    let is_scoped = token.project_id.is_some() || token.domain_id.is_some();
    if is_scoped && roles_of(snapshot, &token).is_empty() {
        return None;
    }
    Some((token, user))
}

/// Who asks with this token. Beside the token of a service, one that expired is good for [`EXPIRED_LIFE`] longer: what a service does for a
/// user may take longer than the user's token.
pub fn caller_for(
    snapshot: &Snapshot,
    secret: &str,
    service: Option<&str>,
    now: Seconds,
) -> Option<Caller> {
    let serves = || service.and_then(|service| caller(snapshot, service, now));
    caller(snapshot, secret, now).or_else(|| {
        serves().filter(|caller| caller.service)?;
        caller(snapshot, secret, now.minus(EXPIRED_LIFE))
    })
}

/// Who asks with this token.
pub fn caller(snapshot: &Snapshot, secret: &str, now: Seconds) -> Option<Caller> {
    let (token, user) = good_token(snapshot, secret, now)?;
    let project_id = token.project_id.clone().unwrap_or_default();
    let roles = roles_of(snapshot, &token);
    let roles = roles.iter().map(|role| role.name.clone()).collect();
    let mut caller = with_roles(&user.id, &user.name, &project_id, roles);
    if let Some(domain) = &token.domain_id {
        // What it may do is its domain's alone.
        caller.domain = Some(domain.clone());
        caller.admin = false;
        caller.member = false;
        caller.service = false;
    }
    Some(caller)
}

/// A user, as these roles in a project make it.
pub fn with_roles(user_id: &str, user_name: &str, project_id: &str, roles: Vec<String>) -> Caller {
    let has = |name: &str| roles.iter().any(|role| role == name);
    Caller {
        user_id: user_id.to_owned(),
        user_name: user_name.to_owned(),
        admin: has("admin"),
        service: has("service"),
        member: has("admin") || has("member") || has("service"),
        project_id: project_id.to_owned(),
        roles,
        domain: None,
        policies: None,
    }
}

/// The default group and all else of a project is found by its id: is there one?
pub fn has_project(read: &impl Read, id: &str) -> bool {
    read.at(&key("project", id)).is_some()
}

/// What the first start makes: the roles, the project `admin`, the user `admin` with this hash.
#[derive(Debug, Clone)]
pub struct Bootstrap {
    /// Fresh ids: one for each role, one for the project, one for the user.
    pub ids: Vec<String>,
    /// The hash of the admin's password.
    pub password_hash: String,
}

/// Makes what the first start needs; `false` if it was made before.
pub fn bootstrap(view: &mut View, with: &Bootstrap) -> bool {
    if view.entry(&name_key("user", "admin")).is_some() {
        return false;
    }
    let mut ids = with.ids.iter().cloned();
    let mut next = || ids.next().unwrap_or_default();
    let (project_id, user_id) = (next(), next());
    for name in ROLES {
        let id = next();
        let role = Role {
            id: id.clone(),
            name: (*name).to_owned(),
            description: String::new(),
        };
        if *name == "admin" {
            let assignment = Assignment {
                user_id: user_id.clone(),
                project_id: project_id.clone(),
                role_id: id.clone(),
                ..Assignment::default()
            };
            view.put(
                assignment_key(&project_id, &user_id, &id),
                Arc::new(assignment),
            );
        }
        view.put(key("role", &id), Arc::new(role));
        view.put(name_key("role", name), Arc::new(id));
    }
    let project = Project {
        id: project_id.clone(),
        name: "admin".to_owned(),
        description: "The operator's own project".to_owned(),
        domain_id: default_domain(),
        enabled: true,
    };
    view.put(key("project", &project_id), Arc::new(project));
    view.put(name_key("project", "admin"), Arc::new(project_id.clone()));
    let user = User {
        id: user_id.clone(),
        name: "admin".to_owned(),
        description: String::new(),
        domain_id: default_domain(),
        email: None,
        enabled: true,
        default_project_id: Some(project_id),
        password_hash: Some(with.password_hash.clone()),
        revocations: 0,
    };
    view.put(key("user", &user_id), Arc::new(user));
    view.put(name_key("user", "admin"), Arc::new(user_id));
    true
}

/// Deletes tokens that expired, a few at a time; how many went.
pub fn sweep(view: &mut View, now: Seconds) -> usize {
    let spent: Vec<String> = view
        .scan("token/")
        .filter(|(_, entry)| {
            entry
                .peek::<Token>()
                .is_some_and(|token| token.expires_at.plus(EXPIRED_LIFE) <= now)
        })
        .map(|(key, _)| key.to_owned())
        .take(1000)
        .collect();
    let joins: Vec<String> = view
        .scan("jointoken/")
        .filter(|(_, entry)| {
            let token = entry.peek::<crate::resources::host::JoinToken>();
            token.is_some_and(|token| token.expires_at <= now)
        })
        .map(|(key, _)| key.to_owned())
        .collect();
    for key in spent.iter().chain(&joins) {
        view.delete(key);
    }
    spent.len() + joins.len()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{Embedded, MemoryDisk, Store, transact};
    use uuid::Uuid;

    fn ids() -> Vec<String> {
        (0..ROLES.len() + 2)
            .map(|_| Uuid::new_v4().simple().to_string())
            .collect()
    }

    #[tokio::test]
    async fn the_first_start_makes_an_admin_once() {
        let disk = MemoryDisk::new(Uuid::nil());
        let (store, writer) = Embedded::open(Arc::new(disk)).unwrap();
        tokio::spawn(writer);
        for expected in [true, false] {
            let with = Bootstrap {
                ids: ids(),
                password_hash: "x".to_owned(),
            };
            let made = transact::<_, ()>(&store, move |view| Ok(bootstrap(view, &with)));
            assert_eq!(made.await.unwrap().value, expected);
        }
        let snapshot = store.snapshot();
        let user = by_name::<User>(&snapshot, "user", "admin").unwrap();
        let project = by_name::<Project>(&snapshot, "project", "admin").unwrap();
        let roles = roles_in(&snapshot, &project.id, &user.id);
        let names: Vec<&str> = roles.iter().map(|role| role.name.as_str()).collect();
        assert_eq!(names, ["admin", "manager", "member", "reader"]);
        assert_eq!(projects_of(&snapshot, &user.id).len(), 1);
    }

    #[tokio::test]
    async fn a_token_is_good_until_it_expires_or_its_user_is_disabled() {
        let disk = MemoryDisk::new(Uuid::nil());
        let (store, writer) = Embedded::open(Arc::new(disk)).unwrap();
        tokio::spawn(writer);
        let with = Bootstrap {
            ids: ids(),
            password_hash: "x".to_owned(),
        };
        let (project, user) = (with.ids[0].clone(), with.ids[1].clone());
        let user_id = user.clone();
        transact::<_, ()>(&store, move |view| {
            bootstrap(view, &with);
            let token = Token {
                user_id: user.clone(),
                project_id: Some(project.clone()),
                domain_id: None,
                methods: vec!["password".to_owned()],
                audit_id: String::new(),
                issued_at: Seconds::new(100),
                expires_at: Seconds::new(200),
                credential_id: None,
                revocations: 0,
            };
            view.put(token_key("secret"), Arc::new(token));
            Ok(())
        })
        .await
        .unwrap();
        let snapshot = store.snapshot();
        let who = caller(&snapshot, "secret", Seconds::new(150)).unwrap();
        assert!(who.admin && who.member && !who.service);
        assert!(caller(&snapshot, "secret", Seconds::new(200)).is_none());
        assert!(caller(&snapshot, "other", Seconds::new(150)).is_none());
        transact::<_, ()>(&store, move |view| {
            let user = view.get::<User>(&key("user", &user_id)).unwrap();
            let user = User {
                enabled: false,
                ..User::clone(&user)
            };
            view.put(key("user", &user_id), Arc::new(user));
            Ok(())
        })
        .await
        .unwrap();
        assert!(caller(&store.snapshot(), "secret", Seconds::new(150)).is_none());
        let swept = transact::<_, ()>(&store, |view| {
            Ok(sweep(view, Seconds::new(200 + EXPIRED_LIFE)))
        })
        .await;
        assert_eq!(swept.unwrap().value, 1);
    }
}
