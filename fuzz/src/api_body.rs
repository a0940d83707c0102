//! What may a client of the API say in bodies and query strings?
//!
//! An input is a list of requests, parted by empty lines: method and path on the first line of each, its body behind. They walk
//! through a controller of their own, whose store is in memory. `$0`, `$1` … stand for the ids of what was made before: ids are
//! drawn at random, so they can't stand in an input.

use std::sync::Arc;

use axum::body::Body;
use axum::http::{Request, Response};
use controller::Core;
use controller::api::Api;
use controller::audit::Audit;
use controller::identity::{self, Bootstrap, Token, User};
use controller::rules::Facts;
use controller::stats::Stats;
use controller::store::{Embedded, MemoryDisk, transact};
use controller::time::{Clock, Seconds};
use serde_json::Value;
use tokio::runtime::{Builder, Runtime};
use tower::ServiceExt as _;

/// The most requests of an input.
const REQUESTS: usize = 8;
/// Of those, how many may have something hashed.
const HASHED: usize = 2;
/// The admin's token.
const TOKEN: &str = "secret";

thread_local! {
    static RUNTIME: Runtime = match Builder::new_current_thread().enable_time().build() {
        Ok(runtime) => runtime,
        Err(error) => unreachable!("a runtime without I/O starts: {error}"),
    };
    /// Registered once: nothing reads them here.
    static STATS: Arc<Stats> = match Stats::new() {
        Ok(stats) => Arc::new(stats),
        Err(error) => unreachable!("metrics have names of their own: {error}"),
    };
}

/// Asks one after the other. None is the server's fault, and each answer is what its header says.
pub(crate) fn requests(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let _made = RUNTIME.with(|runtime| runtime.block_on(walk(&text, "/v2.0")));
}

/// The same of the identity API.
pub(crate) fn identities(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let _made = RUNTIME.with(|runtime| runtime.block_on(walk(&text, "/identity")));
}

/// How many objects were made by requests for one.
async fn walk(text: &str, root: &str) -> usize {
    let cloud = cloud().await.router();
    let mut made: Vec<String> = Vec::new();
    let mut hashed = 0;
    for part in text.split("\n\n").take(REQUESTS) {
        let mut part = part.to_owned();
        for (n, id) in made.iter().enumerate() {
            part = part.replace(&format!("${n}"), id);
        }
        // Passwords and secrets are hashed slowly, and on purpose.
        hashed += usize::from(part.contains("password") || part.contains("credential"));
        if hashed > HASHED {
            continue;
        }
        let Some(request) = request(&part, root) else {
            continue;
        };
        let Ok(answer) = cloud.clone().oneshot(request).await;
        if let Some(id) = told(&part, answer).await {
            made.push(id);
        }
    }
    made.len()
}

/// The id of what was made, if something was.
async fn told(asked: &str, answer: Response<Body>) -> Option<String> {
    let status = answer.status();
    assert!(!status.is_server_error(), "{status} to {asked}");
    let bytes = axum::body::to_bytes(answer.into_body(), usize::MAX).await;
    let Ok(bytes) = bytes else {
        unreachable!("an answer in memory is whole");
    };
    if bytes.is_empty() {
        return None;
    }
    let Ok(body) = serde_json::from_slice::<Value>(&bytes) else {
        unreachable!("an answer is JSON: {status} to {asked}");
    };
    if status.as_u16() != 201 {
        return None;
    }
    let object = body.as_object()?.values().next()?;
    Some(object.get("id")?.as_str()?.to_owned())
}

/// A request below this path, by the admin; `None`: it is none that HTTP could carry.
fn request(part: &str, root: &str) -> Option<Request<Body>> {
    let (line, body) = part.split_once('\n').unwrap_or((part, ""));
    let (method, path) = line.split_once(' ')?;
    // Backups go to files.
    if !path.starts_with(root) || path.contains("backup") {
        return None;
    }
    Request::builder()
        .method(method)
        .uri(path)
        .header("host", "cloud.example:9696")
        .header("x-auth-token", TOKEN)
        .body(Body::from(body.to_owned()))
        .ok()
}

/// A controller at its first start.
async fn cloud() -> Api {
    let disk = Arc::new(MemoryDisk::new(uuid::Uuid::nil()));
    let Ok((store, writer)) = Embedded::open(disk) else {
        unreachable!("a store in memory opens");
    };
    tokio::spawn(writer);
    let core = Core::new(
        Arc::new(store),
        Facts::default(),
        Clock::default(),
        Audit::none(),
    );
    let core = Arc::new(core);
    let first = transact::<_, ()>(core.store.as_ref(), |view| {
        let ids = (1..=20u32).map(|n| format!("{n:032x}"));
        let with = Bootstrap {
            ids: ids.collect(),
            password_hash: String::new(),
        };
        identity::bootstrap(view, &with);
        let admin = identity::by_name::<User>(view, "user", "admin");
        let token = Token {
            user_id: admin.as_ref().map(|a| a.id.clone()).unwrap_or_default(),
            project_id: admin.and_then(|a| a.default_project_id.clone()),
            domain_id: None,
            methods: Vec::new(),
            audit_id: String::new(),
            issued_at: Seconds::default(),
            expires_at: Seconds::new(u64::MAX),
            credential_id: None,
            revocations: 0,
        };
        view.put(identity::token_key(TOKEN), Arc::new(token));
        Ok(())
    });
    assert!(first.await.is_ok(), "a store in memory is written");
    Api::new(core, STATS.with(Arc::clone), "http")
}

pub(crate) fn seeds() -> Vec<Vec<u8>> {
    let seeds: [&[&str]; 9] = [
        &[
            "POST /v2.0/networks\n{\"network\":{\"name\":\"n\",\"mtu\":1400,\"tags\":[\"a\"]}}",
            "POST /v2.0/subnets\n{\"subnet\":{\"network_id\":\"$0\",\"ip_version\":4,\"cidr\":\"10.0.0.0/24\",\"gateway_ip\":\"10.0.0.1\",\"allocation_pools\":[{\"start\":\"10.0.0.10\",\"end\":\"10.0.0.20\"}],\"dns_nameservers\":[\"9.9.9.9\"],\"host_routes\":[{\"destination\":\"10.9.0.0/16\",\"nexthop\":\"10.0.0.1\"}]}}",
            "POST /v2.0/ports\n{\"port\":{\"network_id\":\"$0\",\"mac_address\":\"02:00:00:00:00:07\",\"fixed_ips\":[{\"subnet_id\":\"$1\",\"ip_address\":\"10.0.0.12\"}],\"allowed_address_pairs\":[{\"ip_address\":\"10.0.0.200\"}]}}",
            "PUT /v2.0/ports/$2\n{\"port\":{\"port_security_enabled\":false,\"security_groups\":[],\"binding:host_id\":\"h1\"}}",
            "GET /v2.0/ports?network_id=$0&fields=id&fields=fixed_ips&sort_key=id&sort_dir=desc&limit=1&marker=$2&page_reverse=True",
            "DELETE /v2.0/networks/$0",
        ],
        &[
            "POST /v2.0/subnets\n{\"subnet\":{\"network_id\":\"$0\",\"ip_version\":6,\"cidr\":\"fd00::/64\",\"enable_dhcp\":false,\"gateway_ip\":null}}",
            "PUT /v2.0/subnets/$0\n{\"subnet\":{\"name\":\"x\"}}",
        ],
        &[
            "POST /v2.0/networks\n{\"networks\":[{\"name\":\"a\"},{\"name\":\"b\",\"admin_state_up\":false}]}",
            "GET /v2.0/networks?name=a&tags-any=a,b&not-tags=c&shared=false&fields=name",
        ],
        &[
            "POST /v2.0/security-groups\n{\"security_group\":{\"name\":\"web\",\"description\":\"d\"}}",
            "POST /v2.0/security-group-rules\n{\"security_group_rule\":{\"security_group_id\":\"$0\",\"direction\":\"ingress\",\"ethertype\":\"IPv4\",\"protocol\":\"tcp\",\"port_range_min\":80,\"port_range_max\":90,\"remote_ip_prefix\":\"10.0.0.0/8\"}}",
            "POST /v2.0/security-group-rules\n{\"security_group_rule\":{\"security_group_id\":\"$0\",\"direction\":\"egress\",\"ethertype\":\"IPv6\",\"protocol\":\"icmpv6\",\"remote_group_id\":\"$0\"}}",
            "DELETE /v2.0/security-groups/$0",
        ],
        &[
            "POST /v2.0/networks\n{\"network\":{}}",
            "POST /v2.0/subnets\n{\"subnet\":{\"network_id\":\"$0\",\"ip_version\":4,\"cidr\":\"10.0.0.0/24\"}}",
            "POST /v2.0/ports\n{\"port\":{\"network_id\":\"$0\"}}",
            "POST /v2.0/sfc/flow_classifiers\n{\"flow_classifier\":{\"name\":\"c\",\"logical_source_port\":\"$2\",\"protocol\":\"tcp\",\"ethertype\":\"IPv4\",\"destination_port_range_min\":80,\"destination_port_range_max\":80,\"destination_ip_prefix\":\"10.0.0.0/24\"}}",
            "POST /v2.0/sfc/port_pair_groups\n{\"port_pair_group\":{\"name\":\"f\",\"network_function\":{\"firewall\":{\"rules\":[{\"action\":\"deny\",\"source\":\"10.0.0.66/32\"}],\"default\":\"allow\"}}}}",
            "POST /v2.0/sfc/port_pair_groups\n{\"port_pair_group\":{\"network_function\":{\"load_balancer\":{\"vip\":\"10.0.0.100\",\"port\":80,\"algorithm\":\"maglev\",\"members\":[\"$2\"]}}}}",
            "POST /v2.0/sfc/port_chains\n{\"port_chain\":{\"name\":\"edge\",\"port_pair_groups\":[\"$4\",\"$5\"],\"flow_classifiers\":[\"$3\"],\"chain_parameters\":{\"symmetric\":true}}}",
            "DELETE /v2.0/ports/$2",
        ],
        &[
            "POST /v2.0/sfc/port_pair_groups\n{\"port_pair_group\":{\"network_function\":{\"shaper\":{\"rate\":\"100mbit\",\"burst\":\"64KiB\"}}}}",
            "PUT /v2.0/sfc/port_pair_groups/$0\n{\"port_pair_group\":{\"network_function\":{\"shaper\":{\"rate\":\"1gbit\"}}}}",
        ],
        &[
            "PUT /v2.0/quotas/00000000000000000000000000000001\n{\"quota\":{\"network\":1,\"port\":-1}}",
            "GET /v2.0/quotas/00000000000000000000000000000001/details.json",
            "POST /v2.0/networks\n{\"network\":{}}",
            "POST /v2.0/networks\n{\"network\":{}}",
        ],
        &[
            "POST /v2.0/networks\n{\"network\":{\"name\":\"t\"}}",
            "PUT /v2.0/networks/$0/tags\n{\"tags\":[\"red\",\"blue\"]}",
            "PUT /v2.0/networks/$0/tags/green",
            "DELETE /v2.0/networks/$0/tags/red",
            "GET /v2.0/networks?tags=blue,green",
        ],
        &[
            "GET /v2.0/extensions",
            "GET /v2.0/agents?fields=id",
            "POST /v2.0/overweave/hosts\n{\"host\":{\"name\":\"h1\"}}",
        ],
    ];
    let joined = seeds
        .iter()
        .map(|requests| requests.join("\n\n").into_bytes());
    joined.collect()
}

/// The admin's user and project, and the role `admin`, as [`Bootstrap`] numbers them.
pub(crate) fn identity_seeds() -> Vec<Vec<u8>> {
    let (project, user, role) = (
        "00000000000000000000000000000001",
        "00000000000000000000000000000002",
        "00000000000000000000000000000003",
    );
    let seeds: [Vec<String>; 4] = [
        vec![
            "POST /identity/v3/domains\n{\"domain\":{\"name\":\"blue\",\"description\":\"d\",\"enabled\":true}}".to_owned(),
            "POST /identity/v3/projects\n{\"project\":{\"name\":\"p\",\"domain_id\":\"$0\",\"enabled\":\"true\"}}".to_owned(),
            "POST /identity/v3/users\n{\"user\":{\"name\":\"eve\",\"domain_id\":\"$0\",\"default_project_id\":\"$1\",\"email\":\"e@x\"}}".to_owned(),
            format!("PUT /identity/v3/projects/$1/users/$2/roles/{role}"),
            format!("PUT /identity/v3/domains/$0/users/$2/roles/{role}"),
            "GET /identity/v3/role_assignments?effective&include_names=1&scope.domain.id=$0".to_owned(),
            "PATCH /identity/v3/domains/$0\n{\"domain\":{\"enabled\":false}}".to_owned(),
            "DELETE /identity/v3/domains/$0".to_owned(),
        ],
        vec![
            "POST /identity/v3/groups\n{\"group\":{\"name\":\"ops\"}}".to_owned(),
            format!("PUT /identity/v3/groups/$0/users/{user}"),
            format!("PUT /identity/v3/projects/{project}/groups/$0/roles/{role}"),
            format!("GET /identity/v3/users/{user}/groups"),
            "GET /identity/v3/groups/$0/users".to_owned(),
            "POST /identity/v3/roles\n{\"role\":{\"name\":\"auditor\"}}".to_owned(),
            "DELETE /identity/v3/groups/$0".to_owned(),
        ],
        vec![
            format!("POST /identity/v3/users/{user}/application_credentials\n{{\"application_credential\":{{\"name\":\"ci\",\"roles\":[{{\"name\":\"reader\"}}],\"expires_at\":\"2090-01-01T00:00:00Z\",\"unrestricted\":true,\"access_rules\":[]}}}}"),
            "POST /identity/v3/users\n{\"user\":{\"name\":\"bob\",\"password\":\"pw\"}}".to_owned(),
            format!("DELETE /identity/v3/users/{user}/application_credentials/$0"),
        ],
        vec![
            "POST /identity/v3/auth/tokens\n{\"auth\":{\"identity\":{\"methods\":[\"token\"],\"token\":{\"id\":\"secret\"}},\"scope\":{\"project\":{\"name\":\"admin\",\"domain\":{\"name\":\"Default\"}}}}}".to_owned(),
            "POST /identity/v3/auth/tokens\n{\"auth\":{\"identity\":{\"methods\":[\"password\"],\"password\":{\"user\":{\"name\":\"admin\",\"domain\":{\"id\":\"default\"},\"password\":\"x\"}}},\"scope\":{\"domain\":{\"id\":\"default\"}}}}".to_owned(),
            "GET /identity/v3/auth/projects".to_owned(),
            "GET /identity/v3/services".to_owned(),
        ],
    ];
    let joined = seeds
        .iter()
        .map(|requests| requests.join("\n\n").into_bytes());
    joined.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_seeds_make_what_they_say() {
        let made = seeds()
            .iter()
            .map(|seed| {
                let text = String::from_utf8(seed.clone()).unwrap();
                RUNTIME.with(|runtime| runtime.block_on(walk(&text, "/v2.0")))
            })
            .collect::<Vec<_>>();
        // A list of objects has no id of its own.
        assert_eq!(made, [3, 0, 0, 3, 7, 1, 1, 1, 1]);
        let made = identity_seeds()
            .iter()
            .map(|seed| {
                let text = String::from_utf8(seed.clone()).unwrap();
                RUNTIME.with(|runtime| runtime.block_on(walk(&text, "/identity")))
            })
            .collect::<Vec<_>>();
        assert_eq!(made, [3, 2, 2, 0]);
    }
}
