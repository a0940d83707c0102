//! The API as a client sees it: statuses, shapes and error types of a real Neutron's recordings.

#![expect(
    clippy::too_many_lines,
    reason = "tables of requests and their answers"
)]

mod address_groups;
mod auto_allocated;
mod backup;
mod bindings;
mod chains;
mod document;
mod domains;
mod firewall;
mod frozen;
mod groups;
mod guarantees;
mod hosts;
mod keys;
mod keystone;
mod l7;
mod lbaas;
mod listener;
mod matrix;
mod metering;
mod monitors;
mod names;
mod networks;
mod octavia;
mod outside;
mod outside_qos;
mod planted;
mod policies;
mod pools;
mod ports;
mod provider;
mod qos;
mod quirks;
mod quotas;
mod references;
mod registry;
mod requests;
mod routers;
mod schedules;
mod sharing;
mod subnets;
mod tags;
mod tls;
mod told;
mod trunks;
mod zones;

use super::*;
use crate::{
    audit::Audit,
    keys::Keyring,
    policy::Board,
    resource::Policy,
    rules::Facts,
    store::{Embedded, MemoryDisk, transact},
    time::{Clock, Seconds},
};
use serde_json::{Map, Value};
use tower::ServiceExt;
use uuid::Uuid;

/// A controller in memory, with an admin, two projects with a member each, and a reader of the first.
struct Cloud {
    api: Api,
    router: Router,
}

const A: &str = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";
const B: &str = "bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb";
const ADMIN: &str = "dddddddddddddddddddddddddddddddd";
const MISSING: &str = "00000000-0000-4000-8000-000000000000";

impl Cloud {
    async fn new() -> Self {
        Self::with(Facts {
            ca_pin: "PIN".to_owned(),
            ..Facts::default()
        })
        .await
    }

    async fn with(facts: Facts) -> Self {
        Self::built(facts, Board::default()).await
    }

    /// With a file of policies.
    async fn under(policies: &str) -> Self {
        let board = Board::of_text(policies).unwrap();
        Self::built(Facts::default(), board).await
    }

    async fn built(facts: Facts, policies: Board) -> Self {
        // One hash for all clouds of a process: it is made to be slow.
        static HASH: std::sync::OnceLock<String> = std::sync::OnceLock::new();
        let (store, writer) = Embedded::open(Arc::new(MemoryDisk::new(Uuid::nil()))).unwrap();
        tokio::spawn(writer);
        let facts = Facts {
            keyring: Some(Arc::new(Keyring::of(&[7; 32]))),
            ..facts
        };
        let core = Core::new(Arc::new(store), facts, Clock::default(), Audit::none());
        let core = Arc::new(core.under(policies));
        let hash = HASH.get_or_init(|| identity::hash_password("secret", [1; 16]).unwrap());
        transact::<_, ()>(core.store.as_ref(), move |view| {
            let who = [
                ("admin", ADMIN, "admin"),
                ("a", A, "member"),
                ("b", B, "member"),
                ("r", A, "reader"),
                ("s", A, "service"),
            ];
            for role in identity::ROLES {
                let record = identity::Role {
                    id: (*role).to_owned(),
                    name: (*role).to_owned(),
                    description: String::new(),
                };
                view.put(identity::key("role", role), Arc::new(record));
                view.put(
                    identity::name_key("role", role),
                    Arc::new((*role).to_owned()),
                );
            }
            for (name, project_id, role) in who {
                let id = format!("user-{name}");
                let project = identity::Project {
                    id: project_id.to_owned(),
                    name: format!("project of {name}"),
                    description: String::new(),
                    domain_id: identity::DOMAIN.to_owned(),
                    enabled: true,
                };
                view.put(identity::key("project", project_id), Arc::new(project));
                let user = identity::User {
                    id: id.clone(),
                    name: name.to_owned(),
                    description: String::new(),
                    domain_id: identity::DOMAIN.to_owned(),
                    email: None,
                    enabled: true,
                    default_project_id: Some(project_id.to_owned()),
                    password_hash: Some(hash.clone()),
                    revocations: 0,
                };
                view.put(identity::key("user", &id), Arc::new(user));
                view.put(identity::name_key("user", name), Arc::new(id.clone()));
                let assignment = identity::Assignment {
                    user_id: id.clone(),
                    project_id: project_id.to_owned(),
                    role_id: role.to_owned(),
                    ..identity::Assignment::default()
                };
                let key = identity::assignment_key(project_id, &id, role);
                view.put(key, Arc::new(assignment));
                let token = identity::Token {
                    user_id: id,
                    project_id: Some(project_id.to_owned()),
                    domain_id: None,
                    methods: Vec::new(),
                    audit_id: String::new(),
                    issued_at: Seconds::default(),
                    expires_at: Seconds::new(u64::MAX),
                    credential_id: None,
                    revocations: 0,
                };
                view.put(identity::token_key(name), Arc::new(token));
            }
            Ok(())
        })
        .await
        .unwrap();
        let stats = Arc::new(Stats::new().unwrap());
        let api = Api::new(core, stats, "http");
        Self {
            router: api.clone().router(),
            api,
        }
    }

    async fn raw(&self, request: Request<Body>) -> (StatusCode, HeaderMap, Value) {
        let response = self.router.clone().oneshot(request).await.unwrap();
        let (parts, body) = response.into_parts();
        let bytes = axum::body::to_bytes(body, usize::MAX).await.unwrap();
        let body = serde_json::from_slice(&bytes).unwrap_or(Value::Null);
        (parts.status, parts.headers, body)
    }

    /// A request as this user; the answer's status and body.
    async fn ask(&self, who: &str, method: &str, path: &str, body: Value) -> (u16, Value) {
        let mut request = Request::builder()
            .method(method)
            .uri(path)
            .header("host", "cloud.example:9696");
        if !who.is_empty() {
            request = request.header("x-auth-token", who);
        }
        let body = if body.is_null() {
            Body::empty()
        } else {
            Body::from(body.to_string())
        };
        let (status, headers, body) = self.raw(request.body(body).unwrap()).await;
        assert!(status.as_u16() < 500, "{method} {path}: {status} {body}");
        if path.starts_with("/v2.0") && status != StatusCode::NOT_FOUND {
            assert!(headers.contains_key("x-openstack-request-id") || status.as_u16() >= 400);
        }
        (status.as_u16(), body)
    }

    async fn get(&self, who: &str, path: &str) -> (u16, Value) {
        self.ask(who, "GET", path, Value::Null).await
    }

    /// A create that must succeed; the object.
    async fn made(&self, who: &str, path: &str, key: &str, body: Value) -> Value {
        let (status, answer) = self.ask(who, "POST", path, json!({key: body})).await;
        assert_eq!(status, 201, "{path} {body}: {answer}");
        answer[key].clone()
    }

    /// A request that must be refused with this status and error type.
    async fn refused(
        &self,
        who: &str,
        method: &str,
        path: &str,
        body: Value,
        status: u16,
        kind: &str,
    ) -> Value {
        let (have, answer) = self.ask(who, method, path, body.clone()).await;
        assert_eq!(
            (
                have,
                answer["NeutronError"]["type"].as_str().unwrap_or_default()
            ),
            (status, kind),
            "{method} {path} {body}: {answer}"
        );
        answer
    }

    async fn network(&self, who: &str) -> String {
        let network = self
            .made(who, "/v2.0/networks", "network", json!({"name": "n"}))
            .await;
        id(&network)
    }

    async fn subnet(&self, who: &str, network: &str, cidr: &str) -> Value {
        let version = if cidr.contains(':') { 6 } else { 4 };
        let body = json!({"network_id": network, "ip_version": version, "cidr": cidr});
        self.made(who, "/v2.0/subnets", "subnet", body).await
    }

    async fn port(&self, who: &str, body: Value) -> Value {
        self.made(who, "/v2.0/ports", "port", body).await
    }
}

fn id(object: &Value) -> String {
    object["id"].as_str().unwrap().to_owned()
}

fn names(list: &Value) -> Vec<&str> {
    list.as_array()
        .unwrap()
        .iter()
        .map(|row| row["name"].as_str().unwrap())
        .collect()
}

/// The first object with the second's keys over it.
fn with(mut base: Value, over: Value) -> Value {
    if let (Value::Object(base), Value::Object(over)) = (&mut base, over) {
        base.extend(over);
    }
    base
}
