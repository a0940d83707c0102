//! Load balancers, as Octavia's client sees them, and what of them the compiler hears.

use super::*;
use crate::compile::{
    intent::{Object, Target, Work},
    view,
};
use hostconfig::Classifier;
use std::collections::BTreeSet;

pub(super) const ROOT: &str = "/load-balancer/v2.0/lbaas";

/// A network with a subnet of A's, and a load balancer on it.
pub(super) struct Farm {
    pub(super) cloud: Cloud,
    pub(super) subnet: String,
    balancer: Value,
}

impl Farm {
    pub(super) async fn new() -> Self {
        let cloud = Cloud::new().await;
        let network = cloud.network("a").await;
        let subnet = id(&cloud.subnet("a", &network, "10.0.0.0/24").await);
        let body = json!({"name": "lb", "vip_subnet_id": subnet, "vip_address": "10.0.0.100"});
        let balancer = made(&cloud, "loadbalancers", "loadbalancer", body).await;
        Self {
            cloud,
            subnet,
            balancer,
        }
    }

    pub(super) fn id(&self) -> String {
        id(&self.balancer)
    }

    pub(super) async fn listener(&self, port: u16) -> Value {
        let body = json!({"loadbalancer_id": self.id(), "protocol": "TCP", "protocol_port": port});
        made(&self.cloud, "listeners", "listener", body).await
    }

    pub(super) async fn pool(&self, listener: &Value) -> String {
        let body = json!({"listener_id": listener["id"], "protocol": "TCP", "lb_algorithm": "ROUND_ROBIN"});
        id(&made(&self.cloud, "pools", "pool", body).await)
    }

    pub(super) async fn member(&self, pool: &str, address: &str, more: Value) -> String {
        let body = with(json!({"address": address, "protocol_port": 8080}), more);
        id(&made(
            &self.cloud,
            &format!("pools/{pool}/members"),
            "member",
            body,
        )
        .await)
    }

    pub(super) async fn changed(&self, path: &str, key: &str, body: Value) -> Value {
        let path = format!("{ROOT}/{path}");
        let (status, answer) = self.cloud.ask("a", "PUT", &path, json!({key: body})).await;
        assert_eq!(status, 200, "{path}: {answer}");
        answer[key].clone()
    }

    pub(super) async fn gone(&self, path: &str) {
        let path = format!("{ROOT}/{path}");
        let (status, answer) = self.cloud.ask("a", "DELETE", &path, Value::Null).await;
        assert_eq!(status, 204, "{path}: {answer}");
    }

    /// What the compiler hears: the chains' names, and of each listener the members with their weights.
    pub(super) fn heard(&self) -> Heard {
        let stored = self.cloud.api.core.store.snapshot();
        let mut heard = Heard::default();
        for object in view::objects(&stored, &Facts::default()) {
            if let Object::Chain(chain) = &object {
                heard.chains += usize::from(!chain.functions.is_empty());
            }
            if let Object::Classifier(classifier) = &object {
                heard.classifiers.push((**classifier).clone());
            }
            let Object::Function(function) = object else {
                continue;
            };
            let Some(Work::LoadBalancer(balancer)) = &function.work else {
                panic!("{function:?}");
            };
            heard.members.extend(balancer.members.iter().map(|member| {
                let Target::Named(_, address) = member.target else {
                    panic!("{member:?}");
                };
                (address.to_string(), member.port, member.weight)
            }));
        }
        heard
    }
}

#[derive(Debug, Default)]
pub(super) struct Heard {
    pub(super) chains: usize,
    classifiers: Vec<Classifier>,
    members: BTreeSet<(String, u16, u16)>,
}

impl Heard {
    pub(super) fn of(&self, address: &str) -> Option<u16> {
        let member = self.members.iter().find(|(of, ..)| of == address);
        member.map(|(_, _, weight)| *weight)
    }
}

pub(super) async fn made(cloud: &Cloud, path: &str, key: &str, body: Value) -> Value {
    cloud.made("a", &format!("{ROOT}/{path}"), key, body).await
}

/// A request that must be refused with this status, in Octavia's words.
pub(super) async fn refused(
    cloud: &Cloud,
    who: &str,
    method: &str,
    path: &str,
    body: Value,
    status: u16,
) -> String {
    let path = format!("{ROOT}/{path}");
    let request = Request::builder()
        .method(method)
        .uri(&path)
        .header("x-auth-token", who);
    let request = request.body(Body::from(body.to_string())).unwrap();
    let (have, _, answer) = cloud.raw(request).await;
    assert_eq!(have.as_u16(), status, "{method} {path} {body}: {answer}");
    assert_eq!(answer["faultcode"], "Client", "{answer}");
    assert!(answer["debuginfo"].is_null(), "{answer}");
    answer["faultstring"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn a_listener_with_members_is_a_chain_at_the_virtual_address() {
    let farm = Farm::new().await;
    let balancer = &farm.balancer;
    assert_eq!(balancer["vip_address"], "10.0.0.100");
    assert_eq!(balancer["provisioning_status"], "ACTIVE");
    assert_eq!(balancer["operating_status"], "ONLINE");
    assert_eq!(balancer["provider"], "overweave");
    let vip = balancer["vip_port_id"].as_str().unwrap();
    let (_, port) = farm.cloud.get("a", &format!("/v2.0/ports/{vip}")).await;
    assert_eq!(port["port"]["fixed_ips"][0]["ip_address"], "10.0.0.100");
    assert_eq!(port["port"]["device_owner"], "overweave:load_balancer");
    let listener = farm.listener(80).await;
    assert_eq!(listener["loadbalancers"], json!([{"id": farm.id()}]));
    // Without a pool it is there, and has nobody.
    assert_eq!((farm.heard().chains, farm.heard().members.len()), (1, 0));
    let pool = farm.pool(&listener).await;
    let one = farm
        .member(&pool, "10.0.0.11", json!({"name": "one"}))
        .await;
    let two = farm
        .member(
            &pool,
            "10.0.0.12",
            json!({"weight": 3, "subnet_id": farm.subnet}),
        )
        .await;
    let heard = farm.heard();
    assert_eq!(
        (heard.of("10.0.0.11"), heard.of("10.0.0.12")),
        (Some(1), Some(3))
    );
    let classifier = &heard.classifiers[0];
    assert_eq!(classifier.source, None);
    assert_eq!(
        classifier.destination,
        Some(hostconfig::chain::Side::Port(vip.parse().unwrap()))
    );
    assert_eq!(
        classifier.destination_ports.map(net::PortRange::min),
        Some(80)
    );
    let shown = farm.cloud.get("a", &format!("{ROOT}/pools/{pool}")).await.1;
    assert_eq!(shown["pool"]["members"], json!([{"id": one}, {"id": two}]));
    assert_eq!(shown["pool"]["listeners"], json!([{"id": listener["id"]}]));
    // By both of Octavia's roots, and by name.
    let listed = "/load-balancer/v2/lbaas/listeners";
    let (_, list) = farm.cloud.get("a", listed).await;
    assert_eq!(list["listeners"][0]["default_pool_id"], json!(pool));
    let members = format!("{ROOT}/pools/{pool}/members?name=one");
    let (_, list) = farm.cloud.get("a", &members).await;
    assert_eq!(list["members"].as_array().unwrap().len(), 1);
    assert_eq!(list["members"][0]["operating_status"], "NO_MONITOR");
    assert_eq!(list["members"][0]["project_id"], A);
    let status = format!("{ROOT}/loadbalancers/{}/status", farm.id());
    let (_, tree) = farm.cloud.get("a", &status).await;
    let listeners = &tree["statuses"]["loadbalancer"]["listeners"];
    let second = &listeners[0]["pools"][0]["members"][1];
    assert_eq!(second["address"], "10.0.0.12", "{tree}");
    // What one member's changes are to the switches.
    let path = format!("pools/{pool}/members/{two}");
    let drained = farm.changed(&path, "member", json!({"weight": 0})).await;
    assert_eq!(drained["operating_status"], "DRAINING");
    assert_eq!(farm.heard().of("10.0.0.12"), Some(0));
    farm.changed(
        &path,
        "member",
        json!({"admin_state_up": false, "weight": 2}),
    )
    .await;
    assert_eq!(farm.heard().of("10.0.0.12"), None);
    farm.changed(&path, "member", json!({"admin_state_up": true}))
        .await;
    assert_eq!(farm.heard().of("10.0.0.12"), Some(2));
    farm.gone(&path).await;
    assert_eq!(farm.heard().of("10.0.0.12"), None);
}

#[tokio::test]
async fn backups_serve_while_nobody_else_does() {
    let farm = Farm::new().await;
    let pool = farm.pool(&farm.listener(80).await).await;
    let first = farm.member(&pool, "10.0.0.11", json!({})).await;
    farm.member(&pool, "10.0.0.12", json!({"backup": true, "weight": 5}))
        .await;
    let weights = || (farm.heard().of("10.0.0.11"), farm.heard().of("10.0.0.12"));
    assert_eq!(weights(), (Some(1), Some(0)));
    let path = format!("pools/{pool}/members/{first}");
    farm.changed(&path, "member", json!({"weight": 0})).await;
    assert_eq!(weights(), (Some(0), Some(5)));
    farm.changed(&path, "member", json!({"weight": 1})).await;
    assert_eq!(weights(), (Some(1), Some(0)));
}

#[tokio::test]
async fn what_is_down_takes_nothing_and_prefixes_are_classifiers() {
    let farm = Farm::new().await;
    let listener = farm.listener(80).await;
    let pool = farm.pool(&listener).await;
    farm.member(&pool, "10.0.0.11", json!({})).await;
    let balancer = format!("loadbalancers/{}", farm.id());
    let listening = format!("listeners/{}", id(&listener));
    for (path, key) in [(&balancer, "loadbalancer"), (&listening, "listener")] {
        let down = farm
            .changed(path, key, json!({"admin_state_up": false}))
            .await;
        assert_eq!(down["operating_status"], "OFFLINE");
        assert_eq!(
            (farm.heard().chains, farm.heard().classifiers.len()),
            (0, 0)
        );
        farm.changed(path, key, json!({"admin_state_up": true}))
            .await;
        assert_eq!(farm.heard().chains, 1);
    }
    let pooled = format!("pools/{pool}");
    farm.changed(&pooled, "pool", json!({"admin_state_up": false}))
        .await;
    assert_eq!((farm.heard().chains, farm.heard().members.len()), (1, 0));
    farm.changed(&pooled, "pool", json!({"admin_state_up": true}))
        .await;
    assert_eq!(farm.heard().members.len(), 1);
    let some = json!({"allowed_cidrs": ["10.0.0.7/24", "10.1.0.0/16"]});
    let shown = farm.changed(&listening, "listener", some).await;
    assert_eq!(
        shown["allowed_cidrs"],
        json!(["10.0.0.0/24", "10.1.0.0/16"])
    );
    let sources = |heard: Heard| {
        let sources = heard.classifiers.iter().map(|c| c.source_prefix);
        sources.collect::<Vec<_>>()
    };
    let of = sources(farm.heard());
    assert!(of.len() == 2 && of.iter().all(Option::is_some), "{of:?}");
    farm.changed(&listening, "listener", json!({"allowed_cidrs": null}))
        .await;
    assert_eq!(sources(farm.heard()), [None]);
    // A pool that goes leaves its listeners with nobody.
    farm.gone(&pooled).await;
    assert_eq!((farm.heard().chains, farm.heard().members.len()), (1, 0));
}

#[tokio::test]
async fn a_load_balancer_goes_with_its_children_only_if_told() {
    let farm = Farm::new().await;
    let pool = farm.pool(&farm.listener(80).await).await;
    farm.member(&pool, "10.0.0.11", json!({})).await;
    let path = format!("loadbalancers/{}", farm.id());
    let why = refused(&farm.cloud, "a", "DELETE", &path, json!({}), 400).await;
    assert!(why.contains("it has children"), "{why}");
    farm.gone(&format!("{path}?cascade=true")).await;
    let heard = farm.heard();
    assert_eq!((heard.chains, heard.classifiers.len()), (0, 0));
    for kind in ["loadbalancers", "listeners", "pools"] {
        let (_, list) = farm.cloud.get("a", &format!("{ROOT}/{kind}")).await;
        assert_eq!(list[kind], json!([]));
    }
    let vip = farm.balancer["vip_port_id"].as_str().unwrap();
    let port = format!("/v2.0/ports/{vip}");
    assert_eq!(farm.cloud.get("a", &port).await.0, 404);
}

#[tokio::test]
async fn a_given_port_holds_the_address_and_is_left() {
    let farm = Farm::new().await;
    let (cloud, subnet) = (&farm.cloud, &farm.subnet);
    let (_, shown) = cloud.get("a", &format!("/v2.0/subnets/{subnet}")).await;
    let port = cloud
        .port("a", json!({"network_id": shown["subnet"]["network_id"]}))
        .await;
    let body = json!({"vip_port_id": port["id"]});
    let balancer = made(cloud, "loadbalancers", "loadbalancer", body.clone()).await;
    assert_eq!(balancer["vip_address"], port["fixed_ips"][0]["ip_address"]);
    assert_eq!(balancer["vip_subnet_id"], json!(subnet));
    let again = json!({"loadbalancer": body});
    refused(cloud, "a", "POST", "loadbalancers", again, 409).await;
    farm.gone(&format!("loadbalancers/{}", id(&balancer))).await;
    let (_, left) = cloud.get("a", &format!("/v2.0/ports/{}", id(&port))).await;
    assert_eq!(left["port"]["device_owner"], "");
}

#[tokio::test]
async fn what_cannot_be_is_refused_in_octavias_words() {
    let farm = Farm::new().await;
    let cloud = &farm.cloud;
    let listener = farm.listener(80).await;
    let pool = farm.pool(&listener).await;
    farm.member(&pool, "10.0.0.11", json!({})).await;
    let (of, members) = (farm.id(), format!("pools/{pool}/members"));
    let listens = |more: Value| {
        let body = json!({"loadbalancer_id": of, "protocol": "TCP", "protocol_port": 81});
        ("listeners", json!({"listener": with(body, more)}))
    };
    let serves = |more: Value| {
        let body = json!({"loadbalancer_id": of, "protocol": "TCP", "lb_algorithm": "ROUND_ROBIN"});
        ("pools", json!({"pool": with(body, more)}))
    };
    let member = |more: Value| {
        let body = json!({"address": "10.0.0.12", "protocol_port": 80});
        (members.as_str(), json!({"member": with(body, more)}))
    };
    let balances = |body: Value| ("loadbalancers", json!({"loadbalancer": body}));
    let before = farm.heard().members;
    for ((path, body), status, word) in [
        (balances(json!({})), 400, "vip_port_id"),
        (balances(json!({"vip_subnet_id": MISSING})), 400, "Subnet"),
        (balances(json!({"vip_network_id": MISSING})), 400, "Network"),
        (
            balances(json!({"vip_subnet_id": farm.subnet, "provider": "amphora"})),
            400,
            "provider",
        ),
        (
            listens(json!({"protocol": "TERMINATED_HTTPS", "protocol_port": 443})),
            400,
            "container reference must be provided",
        ),
        (listens(json!({"protocol": "PROXY"})), 501, "PROXY"),
        (
            listens(json!({"protocol": "HTTPS", "protocol_port": 80})),
            409,
            "protocol_port 80",
        ),
        (
            listens(json!({"insert_headers": {"X-Forwarded-For": "true"}})),
            400,
            "X-Forwarded-For",
        ),
        (
            listens(json!({"connection_limit": -2})),
            400,
            "connection_limit",
        ),
        (
            listens(json!({"sni_container_refs": ["x"]})),
            400,
            "only allowed on TERMINATED_HTTPS",
        ),
        (listens(json!({"protocol": "XYZ"})), 400, "protocol"),
        (
            listens(json!({"protocol_port": 80})),
            409,
            "protocol_port 80",
        ),
        (listens(json!({"protocol_port": 0})), 400, "protocol_port"),
        (
            listens(json!({"loadbalancer_id": MISSING})),
            404,
            "not found",
        ),
        (
            listens(json!({"default_pool_id": MISSING})),
            404,
            "not found",
        ),
        (
            listens(json!({"allowed_cidrs": ["fd00::/8"]})),
            400,
            "allowed_cidrs",
        ),
        (
            listens(json!({"allowed_cidrs": ["x"]})),
            400,
            "allowed_cidrs",
        ),
        (
            listens(json!({"protocol": "UDP", "default_pool_id": pool})),
            400,
            "protocol",
        ),
        (
            serves(json!({"lb_algorithm": "LEAST_CONNECTIONS"})),
            501,
            "LEAST_CONNECTIONS",
        ),
        (
            serves(json!({"protocol": "TERMINATED_HTTPS"})),
            501,
            "TERMINATED_HTTPS of a pool",
        ),
        (
            serves(json!({"loadbalancer_id": null})),
            400,
            "loadbalancer_id",
        ),
        (
            serves(json!({"listener_id": listener["id"]})),
            409,
            "default pool",
        ),
        (
            serves(json!({"session_persistence": {"type": "HTTP_COOKIE"}})),
            501,
            "HTTP_COOKIE",
        ),
        (member(json!({"address": "127.0.0.1"})), 400, "127.0.0.1"),
        (
            member(json!({"address": "169.254.169.254"})),
            400,
            "169.254.169.254",
        ),
        (member(json!({"address": "10.0.0.100"})), 400, "10.0.0.100"),
        (member(json!({"address": "fd00::1"})), 501, "family"),
        (
            member(json!({"address": "10.0.0.11", "protocol_port": 8080})),
            409,
            "10.0.0.11",
        ),
        (member(json!({"weight": 257})), 400, "weight"),
        (member(json!({"subnet_id": MISSING})), 400, "Subnet"),
    ] {
        let why = refused(cloud, "a", "POST", path, body.clone(), status).await;
        assert!(why.contains(word), "{body}: {why}");
    }
    // Another's are not there, and nobody is let in without a token.
    for path in [
        format!("loadbalancers/{of}"),
        format!("pools/{pool}"),
        members.clone(),
    ] {
        refused(cloud, "b", "GET", &path, json!({}), 403).await;
        let (status, _) = cloud
            .ask("", "GET", &format!("{ROOT}/{path}"), Value::Null)
            .await;
        assert_eq!(status, 401);
    }
    let theirs =
        json!({"listener": {"loadbalancer_id": of, "protocol": "TCP", "protocol_port": 9}});
    refused(cloud, "b", "POST", "listeners", theirs, 403).await;
    assert_eq!(farm.heard().members, before);
    for n in 0..9 {
        let body = json!({"name": format!("{n}"), "vip_subnet_id": farm.subnet});
        made(cloud, "loadbalancers", "loadbalancer", body).await;
    }
    let (path, more) = balances(json!({"vip_subnet_id": farm.subnet}));
    let why = refused(cloud, "a", "POST", path, more, 403).await;
    assert!(why.contains("Quota has been met"), "{why}");
}

#[tokio::test]
async fn providers_and_versions_are_told() {
    let cloud = Cloud::new().await;
    let (_, told) = cloud.get("a", &format!("{ROOT}/providers")).await;
    assert_eq!(told["providers"][0]["name"], "overweave");
    assert_eq!(cloud.get("", &format!("{ROOT}/providers")).await.0, 401);
    let (_, told) = cloud.get("", "/load-balancer/").await;
    assert_eq!(told["versions"][0]["id"], "v2.0");
}

#[tokio::test]
async fn what_passed_listeners_is_what_hosts_said_last() {
    let farm = Farm::new().await;
    let (web, other) = (farm.listener(80).await, farm.listener(81).await);
    let status = &farm.cloud.api.core.status;
    let served = |active| crate::status::Served {
        active,
        connections: 10,
        bytes_in: 1000,
        bytes_out: 5000,
        refused: 1,
    };
    let of = |listener: &Value| id(listener).parse().unwrap();
    let (one, two) = (Uuid::from_u128(1), Uuid::from_u128(2));
    status.set_served(one, [(of(&web), served(3)), (of(&other), served(4))].into());
    status.set_served(two, [(of(&web), served(5))].into());
    let shown = |path: String| {
        let cloud = &farm.cloud;
        async move { cloud.get("a", &format!("{ROOT}/{path}/stats")).await.1["stats"].clone() }
    };
    let all = |active, hosts| {
        json!({
            "active_connections": active, "total_connections": 10 * hosts,
            "bytes_in": 1000 * hosts, "bytes_out": 5000 * hosts, "request_errors": hosts,
        })
    };
    assert_eq!(shown(format!("listeners/{}", id(&web))).await, all(8, 2));
    assert_eq!(
        shown(format!("loadbalancers/{}", farm.id())).await,
        all(12, 3)
    );
    status.set_served(one, [].into());
    assert_eq!(shown(format!("listeners/{}", id(&web))).await, all(5, 1));
    status.forget_host(two);
    assert_eq!(shown(format!("listeners/{}", id(&web))).await, all(0, 0));
    let path = format!("listeners/{}/stats", id(&web));
    refused(&farm.cloud, "b", "GET", &path, Value::Null, 403).await;
}
