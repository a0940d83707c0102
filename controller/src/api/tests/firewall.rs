//! Firewall rules, policies and groups, as a client sees them.

use super::*;

const RULES: &str = "/v2.0/fwaas/firewall_rules";
const POLICIES: &str = "/v2.0/fwaas/firewall_policies";
const GROUPS: &str = "/v2.0/fwaas/firewall_groups";

async fn rule(cloud: &Cloud, who: &str, body: Value) -> Value {
    cloud.made(who, RULES, "firewall_rule", body).await
}

async fn policy(cloud: &Cloud, who: &str, body: Value) -> Value {
    cloud.made(who, POLICIES, "firewall_policy", body).await
}

async fn group(cloud: &Cloud, who: &str, body: Value) -> Value {
    cloud.made(who, GROUPS, "firewall_group", body).await
}

/// A network with a subnet, a router's interface on it, a bound port and one that is nowhere.
struct Place {
    network: String,
    router: String,
    subnet: String,
    interface: String,
    bound: String,
    unbound: String,
}

impl Place {
    async fn new(cloud: &Cloud) -> Self {
        let network = cloud.network("a").await;
        let subnet = id(&cloud.subnet("a", &network, "10.0.0.0/24").await);
        let router = cloud.made("a", "/v2.0/routers", "router", json!({})).await;
        let router = id(&router);
        let path = format!("/v2.0/routers/{router}/add_router_interface");
        let (status, joined) = cloud
            .ask("a", "PUT", &path, json!({"subnet_id": subnet}))
            .await;
        assert_eq!(status, 200, "{joined}");
        let interface = joined["port_id"].as_str().unwrap().to_owned();
        let bound = json!({"network_id": network, "binding:host_id": "h1", "project_id": A});
        let bound = id(&cloud.port("admin", bound).await);
        let unbound = id(&cloud.port("a", json!({"network_id": network})).await);
        Self {
            network,
            router,
            subnet,
            interface,
            bound,
            unbound,
        }
    }
}

#[tokio::test]
async fn each_project_has_a_default_group_that_is_made_once() {
    for path in [RULES, POLICIES, GROUPS] {
        let cloud = Cloud::new().await;
        let (status, _) = cloud.get("a", path).await;
        assert_eq!(status, 200);
        let (_, rules) = cloud.get("a", RULES).await;
        let said = |rule: &Value| {
            let text = |name: &str| rule[name].as_str().unwrap().to_owned();
            (
                text("name"),
                text("description"),
                text("action"),
                rule["ip_version"].as_i64().unwrap(),
            )
        };
        let mut rows: Vec<_> = rules["firewall_rules"]
            .as_array()
            .unwrap()
            .iter()
            .map(said)
            .collect();
        rows.sort();
        let row = |way: &str, action: &str, version: i64| {
            (
                format!("default {way} ipv{version}"),
                format!("default {way} rule for IPv{version}"),
                action.to_owned(),
                version,
            )
        };
        let wanted = [
            row("egress", "allow", 4),
            row("egress", "allow", 6),
            row("ingress", "deny", 4),
            row("ingress", "deny", 6),
        ];
        assert_eq!(rows, wanted);
        let (_, groups) = cloud.get("a", GROUPS).await;
        let [default] = groups["firewall_groups"].as_array().unwrap().as_slice() else {
            panic!("one group: {groups}");
        };
        assert_eq!(default["name"], "default");
        assert_eq!(default["description"], "Default firewall group");
        assert_eq!(
            (&default["status"], &default["ports"]),
            (&json!("INACTIVE"), &json!([]))
        );
        for (way, name) in [
            ("ingress_firewall_policy_id", "default ingress"),
            ("egress_firewall_policy_id", "default egress"),
        ] {
            let one = format!("{POLICIES}/{}", default[way].as_str().unwrap());
            let (_, shown) = cloud.get("a", &one).await;
            let shown = &shown["firewall_policy"];
            assert_eq!(shown["name"], name);
            let rules = shown["firewall_rules"].as_array().unwrap();
            assert_eq!(rules.len(), 2);
            for (rule, version) in rules.iter().zip([4, 6]) {
                let one = format!("{RULES}/{}", rule.as_str().unwrap());
                let (_, rule) = cloud.get("a", &one).await;
                assert_eq!(rule["firewall_rule"]["ip_version"], version);
                assert_eq!(
                    rule["firewall_rule"]["firewall_policy_id"],
                    json!([shown["id"]])
                );
            }
        }
    }
}

#[tokio::test]
async fn the_default_group_is_kept_as_it_is() {
    let cloud = Cloud::new().await;
    let (_, groups) = cloud.get("a", GROUPS).await;
    let default = groups["firewall_groups"][0].clone();
    let one = format!("{GROUPS}/{}", id(&default));
    let restricted = "FirewallDefaultObjectUpdateRestricted";
    for (who, body) in [
        ("a", json!({"description": "x"})),
        ("a", json!({"admin_state_up": false})),
        ("a", json!({"ingress_firewall_policy_id": null})),
        ("a", json!({"egress_firewall_policy_id": null})),
        ("a", json!({"name": "x"})),
        ("admin", json!({"name": "x"})),
    ] {
        let body = json!({"firewall_group": body});
        cloud.refused(who, "PUT", &one, body, 409, restricted).await;
    }
    let off = json!({"firewall_group": {"admin_state_up": false}});
    assert_eq!(cloud.ask("admin", "PUT", &one, off).await.0, 200);
    let policy = format!(
        "{POLICIES}/{}",
        default["ingress_firewall_policy_id"].as_str().unwrap()
    );
    let renamed = json!({"firewall_policy": {"name": "x"}});
    cloud
        .refused("admin", "PUT", &policy, renamed, 409, restricted)
        .await;
    cloud
        .refused(
            "a",
            "DELETE",
            &policy,
            Value::Null,
            409,
            "FirewallPolicyInUse",
        )
        .await;
    let exists = "FirewallDefaultParameterExists";
    for (path, key, name) in [
        (GROUPS, "firewall_group", "default"),
        (POLICIES, "firewall_policy", "default ingress"),
        (POLICIES, "firewall_policy", "default egress"),
    ] {
        let body = json!({key: {"name": name}});
        cloud.refused("a", "POST", path, body, 409, exists).await;
    }
    let plain = group(&cloud, "a", json!({"name": "fg"})).await;
    let plain = format!("{GROUPS}/{}", id(&plain));
    let body = json!({"firewall_group": {"name": "default"}});
    cloud.refused("a", "PUT", &plain, body, 409, exists).await;
    // An admin takes it away with all that was made with it, and the next touch makes another.
    let kept = "FirewallGroupCannotRemoveDefault";
    cloud
        .refused("a", "DELETE", &one, Value::Null, 409, kept)
        .await;
    assert_eq!(cloud.ask("admin", "DELETE", &one, Value::Null).await.0, 204);
    let (_, left) = cloud.get("admin", &format!("{RULES}?project_id={A}")).await;
    assert_eq!(left["firewall_rules"], json!([]));
    let (_, groups) = cloud.get("a", &format!("{GROUPS}?name=default")).await;
    assert_ne!(groups["firewall_groups"][0]["id"], default["id"]);
    assert_eq!(
        cloud.get("a", POLICIES).await.1["firewall_policies"]
            .as_array()
            .unwrap()
            .len(),
        2
    );
}

#[tokio::test]
async fn rules_have_defaults_and_refuse_what_contradicts_itself() {
    let cloud = Cloud::new().await;
    let least = rule(&cloud, "a", json!({})).await;
    for (name, value) in [
        ("name", json!("")),
        ("shared", json!(false)),
        ("protocol", Value::Null),
        ("ip_version", json!(4)),
        ("source_ip_address", Value::Null),
        ("destination_ip_address", Value::Null),
        ("source_port", Value::Null),
        ("destination_port", Value::Null),
        ("action", json!("deny")),
        ("enabled", json!(true)),
        ("firewall_policy_id", Value::Null),
        ("tags", json!([])),
    ] {
        assert_eq!(least[name], value, "{name}");
    }
    let whole = json!({
        "name": "fr1", "description": "d", "protocol": "tcp", "ip_version": 4, "source_ip_address": "10.0.0.0/8",
        "destination_ip_address": "10.1.0.0/16", "source_port": "1000:2000", "destination_port": 80,
        "action": "ALLOW", "enabled": false, "shared": false,
    });
    let made = rule(&cloud, "a", whole).await;
    assert_eq!(
        (&made["destination_port"], &made["action"]),
        (&json!("80"), &json!("allow"))
    );
    for (body, kind) in [
        (json!({"action": "zz"}), "HTTPBadRequest"),
        (json!({"protocol": "zz"}), "InvalidInput"),
        (json!({"protocol": "sctp"}), "HTTPBadRequest"),
        (json!({"ip_version": 5}), "HTTPBadRequest"),
        (
            json!({"destination_port": "80"}),
            "FirewallRuleWithPortWithoutProtocolInvalid",
        ),
        (
            json!({"protocol": "any", "source_port": "80"}),
            "FirewallRuleWithPortWithoutProtocolInvalid",
        ),
        (
            json!({"protocol": "icmp", "source_port": "80"}),
            "FirewallRuleInvalidICMPParameter",
        ),
        (
            json!({"protocol": "tcp", "destination_port": "90:80"}),
            "HTTPBadRequest",
        ),
        (
            json!({"protocol": "tcp", "destination_port": "0"}),
            "HTTPBadRequest",
        ),
        (json!({"source_ip_address": "10.0.0.256"}), "HTTPBadRequest"),
        (
            json!({"ip_version": 6, "source_ip_address": "10.0.0.1"}),
            "FirewallIpAddressConflict",
        ),
        (
            json!({"source_ip_address": "10.0.0.1", "destination_ip_address": "fd00::1"}),
            "FirewallIpAddressConflict",
        ),
    ] {
        let body = json!({"firewall_rule": body});
        cloud.refused("a", "POST", RULES, body, 400, kind).await;
    }
    // What is there counts in an update.
    let one = format!("{RULES}/{}", id(&made));
    for (body, kind) in [
        (
            json!({"protocol": null}),
            "FirewallRuleWithPortWithoutProtocolInvalid",
        ),
        (json!({"ip_version": 6}), "FirewallIpAddressConflict"),
    ] {
        let body = json!({"firewall_rule": body});
        cloud.refused("a", "PUT", &one, body, 400, kind).await;
    }
    let shared = json!({"firewall_rule": {"shared": true}});
    cloud
        .refused(
            "a",
            "POST",
            RULES,
            shared.clone(),
            403,
            "PolicyNotAuthorized",
        )
        .await;
    cloud
        .refused("a", "PUT", &one, shared, 403, "PolicyNotAuthorized")
        .await;
    cloud
        .refused("b", "GET", &one, Value::Null, 404, "FirewallRuleNotFound")
        .await;
    cloud
        .refused("r", "DELETE", &one, Value::Null, 403, "PolicyNotAuthorized")
        .await;
    assert_eq!(cloud.ask("a", "DELETE", &one, Value::Null).await.0, 204);
}

#[tokio::test]
async fn rules_are_put_in_order_and_a_change_is_no_longer_audited() {
    let cloud = Cloud::new().await;
    let mut rules = Vec::new();
    for _ in 0..4 {
        rules.push(id(&rule(&cloud, "a", json!({})).await));
    }
    let [one, two, three, four] = <[String; 4]>::try_from(rules).unwrap();
    let made = json!({"name": "fp", "firewall_rules": [one], "audited": true});
    let made = policy(&cloud, "a", made).await;
    assert_eq!(made["audited"], true);
    let path = format!("{POLICIES}/{}", id(&made));
    let (insert, remove) = (format!("{path}/insert_rule"), format!("{path}/remove_rule"));
    for (body, order) in [
        (
            json!({"firewall_rule_id": two, "insert_after": one, "insert_before": ""}),
            vec![&one, &two],
        ),
        (json!({"firewall_rule_id": three}), vec![&three, &one, &two]),
        (
            json!({"firewall_rule_id": four, "insert_before": two, "insert_after": three}),
            vec![&three, &one, &four, &two],
        ),
    ] {
        let (status, answer) = cloud.ask("a", "PUT", &insert, body).await;
        assert_eq!((status, &answer["firewall_rules"]), (200, &json!(order)));
        assert_eq!(
            (&answer["audited"], &answer["name"]),
            (&json!(false), &json!("fp"))
        );
    }
    for (path, body, status, kind) in [
        (
            &insert,
            json!({"firewall_rule_id": two}),
            409,
            "FirewallRuleAlreadyAssociated",
        ),
        (&insert, json!({}), 400, "FirewallRuleInfoMissing"),
        (
            &insert,
            json!({"firewall_rule_id": MISSING}),
            404,
            "FirewallRuleNotFound",
        ),
        (
            &remove,
            json!({"firewall_rule_id": MISSING}),
            404,
            "FirewallRuleNotFound",
        ),
        (&remove, json!({}), 400, "FirewallRuleInfoMissing"),
    ] {
        cloud.refused("a", "PUT", path, body, status, kind).await;
    }
    let (status, answer) = cloud
        .ask("a", "PUT", &remove, json!({"firewall_rule_id": one}))
        .await;
    assert_eq!(
        (status, &answer["firewall_rules"]),
        (200, &json!([three, four, two]))
    );
    for (path, body) in [
        (&remove, json!({"firewall_rule_id": one})),
        (
            &insert,
            json!({"firewall_rule_id": one, "insert_after": one}),
        ),
    ] {
        let kind = "FirewallRuleNotAssociatedWithPolicy";
        cloud.refused("a", "PUT", path, body, 400, kind).await;
    }
    cloud
        .refused(
            "b",
            "PUT",
            &insert,
            json!({}),
            404,
            "FirewallPolicyNotFound",
        )
        .await;
    cloud
        .refused("r", "PUT", &insert, json!({}), 403, "PolicyNotAuthorized")
        .await;
    // A rule that changes, and a policy that does.
    let audited = json!({"firewall_policy": {"audited": true}});
    assert_eq!(
        cloud.ask("a", "PUT", &path, audited.clone()).await.1["firewall_policy"]["audited"],
        true
    );
    let changed = json!({"firewall_rule": {"action": "allow"}});
    let (status, _) = cloud
        .ask("a", "PUT", &format!("{RULES}/{two}"), changed)
        .await;
    assert_eq!(status, 200);
    assert_eq!(
        cloud.get("a", &path).await.1["firewall_policy"]["audited"],
        false
    );
    cloud.ask("a", "PUT", &path, audited).await;
    let renamed = json!({"firewall_policy": {"name": "fq"}});
    let (_, shown) = cloud.ask("a", "PUT", &path, renamed).await;
    assert_eq!(shown["firewall_policy"]["audited"], false);
    let in_use = format!("{RULES}/{two}");
    cloud
        .refused(
            "a",
            "DELETE",
            &in_use,
            Value::Null,
            409,
            "FirewallRuleInUse",
        )
        .await;
    assert_eq!(cloud.ask("a", "DELETE", &path, Value::Null).await.0, 204);
    assert_eq!(cloud.ask("a", "DELETE", &in_use, Value::Null).await.0, 204);
    let missing = json!({"firewall_policy": {"firewall_rules": [MISSING]}});
    cloud
        .refused("a", "POST", POLICIES, missing, 404, "FirewallRuleNotFound")
        .await;
}

#[tokio::test]
async fn what_is_shared_is_used_by_others_and_what_is_not_is_not() {
    let cloud = Cloud::new().await;
    let own = id(&rule(&cloud, "a", json!({})).await);
    let open = id(&rule(&cloud, "admin", json!({"shared": true})).await);
    let body = |rules: Value| json!({"firewall_policy": {"firewall_rules": rules, "shared": true}});
    let sharing = "FirewallRuleSharingConflict";
    cloud
        .refused("admin", "POST", POLICIES, body(json!([own])), 404, sharing)
        .await;
    let foreign = json!({"firewall_policy": {"firewall_rules": [own]}});
    cloud
        .refused(
            "admin",
            "POST",
            POLICIES,
            foreign.clone(),
            409,
            "FirewallRuleConflict",
        )
        .await;
    cloud
        .refused("b", "POST", POLICIES, foreign, 404, "FirewallRuleNotFound")
        .await;
    let policies = json!({"firewall_rules": [open], "shared": true});
    let policies = policy(&cloud, "admin", policies).await;
    let path = format!("{POLICIES}/{}", id(&policies));
    assert_eq!(cloud.get("b", &path).await.0, 200);
    // It is used by a policy that is shared.
    let close = json!({"firewall_rule": {"shared": false}});
    let rule_path = format!("{RULES}/{open}");
    let kind = "FirewallRuleInUse";
    cloud
        .refused("admin", "PUT", &rule_path, close.clone(), 409, kind)
        .await;
    let used = group(
        &cloud,
        "b",
        json!({"ingress_firewall_policy_id": policies["id"]}),
    )
    .await;
    let mine = json!({"firewall_policy": {"shared": false}});
    cloud
        .refused(
            "admin",
            "PUT",
            &path,
            mine.clone(),
            409,
            "FirewallPolicyInUse",
        )
        .await;
    let gone = format!("{GROUPS}/{}", id(&used));
    assert_eq!(cloud.ask("b", "DELETE", &gone, Value::Null).await.0, 204);
    assert_eq!(cloud.ask("admin", "PUT", &path, mine).await.0, 200);
    let (status, _) = cloud.ask("admin", "PUT", &rule_path, close).await;
    assert_eq!(status, 200, "by its own project alone");
    let refused = json!({"firewall_group": {"egress_firewall_policy_id": policies["id"]}});
    cloud
        .refused("b", "POST", GROUPS, refused, 404, "FirewallPolicyNotFound")
        .await;
    let of_a =
        json!({"firewall_group": {"egress_firewall_policy_id": policies["id"], "project_id": A}});
    cloud
        .refused("admin", "POST", GROUPS, of_a, 404, "FirewallPolicyConflict")
        .await;
    // Its rules first.
    let closed = id(&policy(&cloud, "a", json!({"firewall_rules": [own]})).await);
    let share = json!({"firewall_policy": {"shared": true}});
    let path = format!("{POLICIES}/{closed}");
    let kind = "FirewallPolicySharingConflict";
    cloud.refused("admin", "PUT", &path, share, 409, kind).await;
}

#[tokio::test]
async fn a_group_holds_at_workloads_and_interfaces_one_group_a_port() {
    let cloud = Cloud::new().await;
    let place = Place::new(&cloud).await;
    let order = id(&policy(&cloud, "a", json!({})).await);
    let least = group(&cloud, "a", json!({})).await;
    for (name, value) in [
        ("admin_state_up", json!(true)),
        ("status", json!("INACTIVE")),
        ("shared", json!(false)),
        ("ports", json!([])),
        ("ingress_firewall_policy_id", Value::Null),
        ("egress_firewall_policy_id", Value::Null),
    ] {
        assert_eq!(least[name], value, "{name}");
    }
    let body = json!({
        "name": "fg", "ingress_firewall_policy_id": order, "egress_firewall_policy_id": order,
        "ports": [place.interface],
    });
    let made = group(&cloud, "a", body).await;
    let one = format!("{GROUPS}/{}", id(&made));
    assert_eq!(
        (&made["status"], &made["ports"]),
        (&json!("ACTIVE"), &json!([place.interface]))
    );
    let other = format!("{GROUPS}/{}", id(&least));
    let ports = |ports: Value| json!({"firewall_group": {"ports": ports}});
    for (body, status, kind) in [
        (
            ports(json!([place.interface])),
            409,
            "FirewallGroupPortInUse",
        ),
        (
            ports(json!([place.unbound])),
            409,
            "FirewallGroupPortInvalid",
        ),
        (ports(json!([MISSING])), 404, "PortNotFound"),
        (
            json!({"firewall_group": {"ingress_firewall_policy_id": MISSING}}),
            404,
            "FirewallPolicyNotFound",
        ),
    ] {
        cloud
            .refused("a", "PUT", &other, body.clone(), status, kind)
            .await;
        cloud.refused("a", "POST", GROUPS, body, status, kind).await;
    }
    let foreign = group(&cloud, "b", json!({})).await;
    let foreign = format!("{GROUPS}/{}", id(&foreign));
    let kind = "FirewallGroupPortInvalidProject";
    cloud
        .refused(
            "admin",
            "PUT",
            &foreign,
            ports(json!([place.bound])),
            409,
            kind,
        )
        .await;
    cloud
        .refused(
            "b",
            "PUT",
            &foreign,
            ports(json!([place.bound])),
            404,
            "PortNotFound",
        )
        .await;
    // A workload's, on a host or of Nova's.
    let nova = json!({"network_id": place.network, "device_owner": "compute:nova"});
    let nova = id(&cloud.port("a", nova).await);
    let (status, shown) = cloud
        .ask("a", "PUT", &other, ports(json!([place.bound, nova])))
        .await;
    assert_eq!(
        (status, &shown["firewall_group"]["status"]),
        (200, &json!("INACTIVE"))
    );
    let policed = json!({"firewall_group": {"egress_firewall_policy_id": order}});
    let (_, shown) = cloud.ask("a", "PUT", &other, policed).await;
    assert_eq!(shown["firewall_group"]["status"], "ACTIVE");
    let off = json!({"firewall_group": {"admin_state_up": false}});
    let (_, shown) = cloud.ask("a", "PUT", &other, off).await;
    assert_eq!(shown["firewall_group"]["status"], "DOWN");
    cloud
        .refused(
            "a",
            "DELETE",
            &other,
            Value::Null,
            409,
            "FirewallGroupInUse",
        )
        .await;
    // A port that goes leaves its group, an interface as well.
    let gone = format!("/v2.0/ports/{nova}");
    assert_eq!(
        cloud.ask("admin", "DELETE", &gone, Value::Null).await.0,
        204
    );
    let (_, shown) = cloud.get("a", &other).await;
    assert_eq!(shown["firewall_group"]["ports"], json!([place.bound]));
    let path = format!("/v2.0/routers/{}/remove_router_interface", place.router);
    let (status, _) = cloud
        .ask("a", "PUT", &path, json!({"subnet_id": place.subnet}))
        .await;
    assert_eq!(status, 200);
    let (_, shown) = cloud.get("a", &one).await;
    let shown = &shown["firewall_group"];
    assert_eq!(
        (&shown["ports"], &shown["status"]),
        (&json!([]), &json!("INACTIVE"))
    );
    let used = format!("{POLICIES}/{order}");
    cloud
        .refused(
            "a",
            "DELETE",
            &used,
            Value::Null,
            409,
            "FirewallPolicyInUse",
        )
        .await;
    // What is let go is free for others.
    assert_eq!(cloud.ask("a", "PUT", &other, ports(json!([]))).await.0, 200);
    assert_eq!(
        cloud
            .ask("a", "PUT", &one, ports(json!([place.bound])))
            .await
            .0,
        200
    );
    assert_eq!(cloud.ask("a", "PUT", &one, ports(json!([]))).await.0, 200);
    for path in [&other, &one, &used] {
        let (status, answer) = cloud.ask("a", "DELETE", path, Value::Null).await;
        assert_eq!(status, 204, "{path}: {answer}");
    }
}
