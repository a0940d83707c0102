//! What hosts guarantee their ports, and what they can't.

use super::*;

const HOSTS: &str = "/v2.0/overweave/hosts";
const PORTS: &str = "/v2.0/ports";
const POLICIES: &str = "/v2.0/qos/policies";
const SHORT: &str = "HostCapacityExceeded";

/// A cloud with two hosts, a network, and a policy that guarantees 600 kbit/s out and 2,000 packets a second both ways.
struct World {
    cloud: Cloud,
    hosts: Vec<String>,
    network: String,
    policy: String,
    rule: String,
}

impl World {
    async fn new() -> Self {
        let cloud = Cloud::new().await;
        let mut hosts = Vec::new();
        for (name, capacity) in [
            ("h1", json!({"egress_kbps": 1500, "any_kpps": 10})),
            ("h2", Value::Null),
        ] {
            let body = json!({"name": name, "capacity": capacity});
            let host = cloud.made("admin", HOSTS, "host", body).await;
            assert_eq!(host["capacity"], capacity);
            hosts.push(id(&host));
        }
        let network = cloud.network("a").await;
        let policy = cloud
            .made(
                "admin",
                POLICIES,
                "policy",
                json!({"name": "q", "shared": true}),
            )
            .await;
        let policy = id(&policy);
        let made = async |kind: &str, body: Value| {
            let path = format!("{POLICIES}/{policy}/{kind}s");
            id(&cloud.made("admin", &path, kind, body).await)
        };
        let rule = made("minimum_bandwidth_rule", json!({"min_kbps": 600})).await;
        let rate = json!({"min_kpps": 2, "direction": "any"});
        made("minimum_packet_rate_rule", rate).await;
        let rule = format!("{POLICIES}/{policy}/minimum_bandwidth_rules/{rule}");
        Self {
            cloud,
            hosts,
            network,
            policy,
            rule,
        }
    }

    fn port(&self, host: &str, policy: bool) -> Value {
        let policy = policy.then_some(&self.policy);
        json!({"network_id": self.network, "binding:host_id": host, "qos_policy_id": policy})
    }

    async fn made(&self, host: &str, policy: bool) -> String {
        let port = self.cloud.port("admin", self.port(host, policy)).await;
        format!("{PORTS}/{}", id(&port))
    }

    async fn short(&self, method: &str, path: &str, body: Value) {
        self.cloud
            .refused("admin", method, path, body, 409, SHORT)
            .await;
    }

    async fn put(&self, path: &str, body: Value) {
        let (status, answer) = self.cloud.ask("admin", "PUT", path, body).await;
        assert_eq!(status, 200, "{path}: {answer}");
    }

    async fn reserved(&self, host: usize) -> Value {
        let path = format!("{HOSTS}/{}", self.hosts[host]);
        self.cloud.get("admin", &path).await.1["host"]["reserved"].clone()
    }
}

#[tokio::test]
async fn a_host_takes_ports_as_long_as_it_has_what_they_are_guaranteed() {
    let world = World::new().await;
    let first = world.made("h1", true).await;
    let second = world.made("h1", true).await;
    let both = json!({"egress_kbps": 1200, "any_kpps": 4});
    assert_eq!(world.reserved(0).await, both);
    let third = json!({"port": world.port("h1", true)});
    world.short("POST", PORTS, third.clone()).await;
    assert_eq!(world.reserved(0).await, both, "nothing of it is kept");
    // Who is guaranteed nothing, or is nowhere, takes nothing.
    let plain = world.made("h1", false).await;
    let nowhere = world.made("", true).await;
    for (path, body) in [
        (&plain, json!({"qos_policy_id": world.policy})),
        (&nowhere, json!({"binding:host_id": "h1"})),
        (&first, json!({"binding:host_id": "h2"})),
    ] {
        world.short("PUT", path, json!({"port": body})).await;
    }
    // A host that says nothing has nothing; it says so later.
    let more = json!({"capacity": {"egress_kbps": 600, "any_kpps": 2}});
    let path = format!("{HOSTS}/{}", world.hosts[1]);
    world.put(&path, json!({"host": more})).await;
    world
        .put(&first, json!({"port": {"binding:host_id": "h2"}}))
        .await;
    let less = json!({"host": {"capacity": {"egress_kbps": 599, "any_kpps": 2}}});
    world.short("PUT", &path, less).await;
    world
        .short("PUT", &path, json!({"host": {"capacity": null}}))
        .await;
    // What moved made room, and what goes does.
    world
        .put(&nowhere, json!({"port": {"binding:host_id": "h1"}}))
        .await;
    world.short("POST", PORTS, third.clone()).await;
    let (status, _) = world
        .cloud
        .ask("admin", "DELETE", &second, Value::Null)
        .await;
    assert_eq!(status, 204);
    world.cloud.ask("admin", "POST", PORTS, third).await;
    assert_eq!(world.reserved(0).await, both);
}

#[tokio::test]
async fn rules_and_networks_take_no_more_than_there_is() {
    let world = World::new().await;
    let port = world.made("h1", true).await;
    let rule = |kbps: u32| json!({"minimum_bandwidth_rule": {"min_kbps": kbps}});
    world.short("PUT", &world.rule, rule(1501)).await;
    world.put(&world.rule, rule(1500)).await;
    world.put(&world.rule, rule(700)).await;
    // In the other direction the host has none.
    let other = json!({"minimum_bandwidth_rule": {"min_kbps": 1, "direction": "ingress"}});
    let path = format!("{POLICIES}/{}/minimum_bandwidth_rules", world.policy);
    world.short("POST", &path, other).await;
    // By the network two ports more would have it, and one of the two has its own.
    for _ in 0..2 {
        world.made("h1", false).await;
    }
    let network = format!("/v2.0/networks/{}", world.network);
    let body = json!({"network": {"qos_policy_id": world.policy}});
    world.short("PUT", &network, body.clone()).await;
    world.put(&world.rule, rule(500)).await;
    world.put(&network, body).await;
    assert_eq!(
        world.reserved(0).await,
        json!({"egress_kbps": 1500, "any_kpps": 6})
    );
    world.short("PUT", &world.rule, rule(501)).await;
    let more = json!({"port": world.port("h1", false)});
    world.short("POST", PORTS, more).await;
    let (status, _) = world
        .cloud
        .ask("admin", "DELETE", &world.rule, Value::Null)
        .await;
    assert_eq!(status, 204);
    assert_eq!(world.reserved(0).await, json!({"any_kpps": 6}));
    world
        .put(&port, json!({"port": {"qos_policy_id": null}}))
        .await;
}

#[tokio::test]
async fn bad_capacities_are_refused() {
    let cloud = Cloud::new().await;
    for capacity in [
        json!({"egress_kbps": -1}),
        json!({"egress_kbps": 4_294_967_296_u64}),
        json!({"egress": 1}),
        json!([]),
        json!("1"),
    ] {
        let body = json!({"host": {"name": "h", "capacity": capacity}});
        cloud
            .refused("admin", "POST", HOSTS, body, 400, "HTTPBadRequest")
            .await;
    }
}

/// As it was recorded of a real Neutron.
#[tokio::test]
async fn minimum_rules_have_neutrons_shape_and_contradict_no_other() {
    let world = World::new().await;
    let cloud = &world.cloud;
    let of = |kind: &str| format!("{POLICIES}/{}/{kind}s", world.policy);
    let (bandwidth, rate) = ("minimum_bandwidth_rule", "minimum_packet_rate_rule");
    let (_, list) = cloud.get("a", &of(bandwidth)).await;
    let rows = list["minimum_bandwidth_rules"].as_array().unwrap();
    let expected = json!({"id": rows[0]["id"], "min_kbps": 600, "direction": "egress"});
    assert_eq!(rows.as_slice(), std::slice::from_ref(&expected));
    let alias = id(&expected);
    for path in [
        "alias_minimum_bandwidth_rules",
        "alias-minimum-bandwidth-rules",
    ] {
        let (_, shown) = cloud
            .get("admin", &format!("/v2.0/qos/{path}/{alias}"))
            .await;
        assert_eq!(shown, json!({"alias_minimum_bandwidth_rule": expected}));
    }
    for (kind, body, status, error) in [
        (bandwidth, json!({"min_kbps": 700}), 409, "QoSRulesConflict"),
        (bandwidth, json!({}), 400, "HTTPBadRequest"),
        (
            bandwidth,
            json!({"min_kbps": 1, "direction": "any"}),
            400,
            "HTTPBadRequest",
        ),
        (rate, json!({"min_kpps": 1}), 409, "QoSRulesConflict"),
        (
            rate,
            json!({"min_kpps": 1, "direction": "ingress"}),
            409,
            "QoSRulesConflict",
        ),
        (rate, json!({"direction": "any"}), 400, "HTTPBadRequest"),
        (
            "bandwidth_limit_rule",
            json!({"max_kbps": 599}),
            409,
            "QoSRuleParameterConflict",
        ),
    ] {
        cloud
            .refused(
                "admin",
                "POST",
                &of(kind),
                json!({kind: body}),
                status,
                error,
            )
            .await;
    }
    let limit = json!({"max_kbps": 600});
    cloud
        .made(
            "admin",
            &of("bandwidth_limit_rule"),
            "bandwidth_limit_rule",
            limit,
        )
        .await;
    let more = json!({"minimum_bandwidth_rule": {"min_kbps": 601}});
    cloud
        .refused(
            "admin",
            "PUT",
            &world.rule,
            more,
            409,
            "QoSRuleParameterConflict",
        )
        .await;
    let (_, types) = cloud.get("a", "/v2.0/qos/rule-types").await;
    assert_eq!(types["rule_types"].as_array().unwrap().len(), 5);
    let detail = "/v2.0/qos/rule-types/minimum_packet_rate";
    let (_, detail) = cloud.get("admin", detail).await;
    let parameters = &detail["rule_type"]["drivers"][0]["supported_parameters"];
    assert_eq!(
        parameters[1]["parameter_values"],
        json!(["ingress", "egress", "any"])
    );
}
