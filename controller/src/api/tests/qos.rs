//! QoS policies and their rules, as a client sees them.

use super::*;

pub(super) const POLICIES: &str = "/v2.0/qos/policies";

impl Cloud {
    pub(super) async fn policy(&self, more: Value) -> String {
        let body = with(json!({"name": "q"}), more);
        id(&self.made("admin", POLICIES, "policy", body).await)
    }

    pub(super) async fn rule(&self, policy: &str, kind: &str, body: Value) -> Value {
        let path = format!("{POLICIES}/{policy}/{kind}s");
        self.made("admin", &path, kind, body).await
    }
}

/// The recorded steps of a real Neutron; minimum guarantees are in `guarantees.rs`.
#[tokio::test]
async fn policies_and_rules_have_neutrons_shape() {
    let cloud = Cloud::new().await;
    let body = json!({"name": "q1", "description": "d", "shared": true});
    let policy = cloud.made("admin", POLICIES, "policy", body).await;
    for (field, value) in [
        ("project_id", json!(ADMIN)),
        ("tenant_id", json!(ADMIN)),
        ("name", json!("q1")),
        ("description", json!("d")),
        ("shared", json!(true)),
        ("is_default", json!(false)),
        ("rules", json!([])),
        ("tags", json!([])),
    ] {
        assert_eq!(policy[field], value, "{field}");
    }
    let at = format!("{POLICIES}/{}", id(&policy));
    let many = |kind: &str| format!("{at}/{kind}s");
    let bandwidth = many("bandwidth_limit_rule");
    let (kind, body) = (
        "bandwidth_limit_rule",
        json!({"max_kbps": 1000, "max_burst_kbps": 100}),
    );
    let egress = cloud.made("admin", &bandwidth, kind, body).await;
    let shown = json!({
        "id": egress["id"], "max_kbps": 1000, "max_burst_kbps": 100, "direction": "egress",
    });
    assert_eq!(egress, shown);
    let body = json!({"max_kbps": 2000, "direction": "ingress"});
    let ingress = cloud.made("admin", &bandwidth, kind, body).await;
    assert_eq!(ingress["max_burst_kbps"], 0);
    for (body, status, kind) in [
        (json!({"max_kbps": 2000}), 409, "QoSRulesConflict"),
        (json!({"max_kbps": -1}), 400, "HTTPBadRequest"),
        (json!({"max_kbps": "x"}), 400, "HTTPBadRequest"),
        (
            json!({"max_kbps": 1, "direction": "any"}),
            400,
            "HTTPBadRequest",
        ),
        (json!({"max_kbps": 1, "bogus": 1}), 400, "HTTPBadRequest"),
        (json!({"max_kbps": 1, "id": MISSING}), 400, "HTTPBadRequest"),
        (json!({}), 400, "HTTPBadRequest"),
        (json!([]), 400, "HTTPBadRequest"),
    ] {
        let body = json!({"bandwidth_limit_rule": body});
        cloud
            .refused("admin", "POST", &bandwidth, body, status, kind)
            .await;
    }
    let one = format!("{bandwidth}/{}", id(&egress));
    let body = |kbps: u32| json!({"bandwidth_limit_rule": {"max_kbps": kbps}});
    let (status, answer) = cloud.ask("admin", "PUT", &one, body(1500)).await;
    let shown = with(egress.clone(), json!({"max_kbps": 1500}));
    assert_eq!((status, &answer["bandwidth_limit_rule"]), (200, &shown));
    assert_eq!(cloud.get("a", &one).await.1["bandwidth_limit_rule"], shown);
    let turned = json!({"bandwidth_limit_rule": {"direction": "ingress"}});
    cloud
        .refused("admin", "PUT", &one, turned, 409, "QoSRulesConflict")
        .await;
    // Lists have filters, fields and orders.
    let rows = |answer: Value| answer["bandwidth_limit_rules"].as_array().unwrap().clone();
    assert_eq!(rows(cloud.get("a", &bandwidth).await.1).len(), 2);
    let of = |query: &str| format!("{bandwidth}?{query}");
    let (_, answer) = cloud.get("a", &of("direction=ingress&fields=id")).await;
    assert_eq!(rows(answer), [json!({"id": ingress["id"]})]);
    let (_, answer) = cloud.get("a", &of("sort_key=max_kbps&sort_dir=desc")).await;
    assert_eq!(rows(answer)[0]["max_kbps"], 2000);
    let bad = of("sort_key=direction");
    cloud
        .refused("admin", "GET", &bad, Value::Null, 400, "HTTPBadRequest")
        .await;
    // Marks and packets.
    let mark = cloud
        .rule(&id(&policy), "dscp_marking_rule", json!({"dscp_mark": 26}))
        .await;
    assert_eq!(mark, json!({"dscp_mark": 26, "id": mark["id"]}));
    for (mark, status, kind) in [(77, 400, "HTTPBadRequest"), (28, 409, "QoSRulesConflict")] {
        let body = json!({"dscp_marking_rule": {"dscp_mark": mark}});
        let path = many("dscp_marking_rule");
        cloud
            .refused("admin", "POST", &path, body, status, kind)
            .await;
    }
    let packets = cloud
        .rule(
            &id(&policy),
            "packet_rate_limit_rule",
            json!({"max_kpps": 100}),
        )
        .await;
    let shown = json!({
        "max_kpps": 100, "max_burst_kpps": 0, "direction": "egress", "id": packets["id"],
    });
    assert_eq!(packets, shown);
    // The policy shows them all, and grew with each.
    let (_, answer) = cloud.get("a", &at).await;
    let rules = answer["policy"]["rules"].as_array().unwrap();
    let kinds: Vec<_> = rules
        .iter()
        .map(|rule| rule["type"].as_str().unwrap())
        .collect();
    let expected = [
        "bandwidth_limit",
        "bandwidth_limit",
        "packet_rate_limit",
        "dscp_marking",
    ];
    assert_eq!(kinds, expected);
    assert!(
        rules
            .iter()
            .all(|rule| rule["qos_policy_id"] == policy["id"])
    );
    assert_eq!(rules[0]["max_kbps"], 1500);
    assert_eq!(answer["policy"]["revision_number"], 6);
    // What is gone is gone.
    let one = format!("{}/{}", many("dscp_marking_rule"), id(&mark));
    assert_eq!(cloud.ask("admin", "DELETE", &one, Value::Null).await.0, 204);
    cloud
        .refused("admin", "DELETE", &one, Value::Null, 404, "QosRuleNotFound")
        .await;
    let nowhere = format!("{POLICIES}/{MISSING}/bandwidth_limit_rules");
    cloud
        .refused("admin", "POST", &nowhere, body(1), 404, "QosPolicyNotFound")
        .await;
    assert_eq!(cloud.ask("admin", "DELETE", &at, Value::Null).await.0, 204);
    cloud
        .refused("a", "GET", &at, Value::Null, 404, "QosPolicyNotFound")
        .await;
}

#[tokio::test]
async fn a_rule_is_found_by_its_own_id_under_both_spellings() {
    let cloud = Cloud::new().await;
    let policy = cloud.policy(json!({"shared": false})).await;
    for (kind, body, change) in [
        (
            "bandwidth_limit_rule",
            json!({"max_kbps": 1}),
            json!({"max_kbps": 1600}),
        ),
        (
            "packet_rate_limit_rule",
            json!({"max_kpps": 1}),
            json!({"max_kpps": 2}),
        ),
        (
            "dscp_marking_rule",
            json!({"dscp_mark": 0}),
            json!({"dscp_mark": 46}),
        ),
    ] {
        let rule = cloud.rule(&policy, kind, body).await;
        let alias = format!("alias_{kind}");
        let path = format!("/v2.0/qos/{alias}s/{}", id(&rule));
        let dashed = format!("/v2.0/qos/{}s/{}", alias.replace('_', "-"), id(&rule));
        assert_eq!(
            cloud.get("admin", &path).await,
            (200, json!({&alias: rule}))
        );
        let changed = with(rule.clone(), change.clone());
        let body = json!({&alias: change});
        let answer = cloud.ask("admin", "PUT", &dashed, body).await;
        assert_eq!(answer, (200, json!({&alias: changed})));
        cloud
            .refused("a", "GET", &path, Value::Null, 404, "QosRuleNotFound")
            .await;
        let other = format!("/v2.0/qos/{alias}s/{MISSING}");
        cloud
            .refused("admin", "GET", &other, Value::Null, 404, "QosRuleNotFound")
            .await;
        assert_eq!(
            cloud.ask("admin", "DELETE", &path, Value::Null).await.0,
            204
        );
        cloud
            .refused("admin", "GET", &dashed, Value::Null, 404, "QosRuleNotFound")
            .await;
    }
}

#[tokio::test]
async fn admins_make_policies_and_projects_use_what_they_see() {
    let cloud = Cloud::new().await;
    let denied = "PolicyNotAuthorized";
    let make = json!({"policy": {"name": "q"}});
    cloud
        .refused("a", "POST", POLICIES, make, 403, denied)
        .await;
    let own = cloud.policy(json!({"project_id": A})).await;
    let foreign = cloud.policy(json!({})).await;
    let shared = cloud.policy(json!({"shared": true})).await;
    let body = json!({"max_kbps": 1, "max_burst_kbps": 1});
    let rule = json!({"bandwidth_limit_rule": body});
    let update = json!({"policy": {"description": "d"}});
    for (policy, seen) in [(&own, true), (&foreign, false), (&shared, true)] {
        let path = format!("{POLICIES}/{policy}");
        let rules = format!("{path}/bandwidth_limit_rules");
        cloud
            .refused("a", "POST", &rules, rule.clone(), 403, denied)
            .await;
        let made = cloud
            .rule(policy, "bandwidth_limit_rule", body.clone())
            .await;
        let one = format!("{rules}/{}", id(&made));
        let (status, kind) = if seen {
            (403, denied)
        } else {
            (404, "QosPolicyNotFound")
        };
        cloud
            .refused("a", "PUT", &path, update.clone(), status, kind)
            .await;
        cloud
            .refused("a", "PUT", &one, rule.clone(), status, kind)
            .await;
        cloud
            .refused("a", "DELETE", &one, Value::Null, status, kind)
            .await;
        cloud
            .refused("a", "DELETE", &path, Value::Null, status, kind)
            .await;
        for path in [&path, &rules, &one] {
            let status = if seen { 200 } else { 404 };
            assert_eq!(cloud.get("a", path).await.0, status);
            assert_eq!(cloud.get("r", path).await.0, status);
            assert_eq!(cloud.get("", path).await.0, 401);
        }
        // Who sees it may use it.
        let network = json!({"network": {"qos_policy_id": policy}});
        let (status, answer) = cloud.ask("a", "POST", "/v2.0/networks", network).await;
        assert_eq!(status, if seen { 201 } else { 404 }, "{answer}");
    }
    // What an admin gave, and the project does not see, it can't take off, until it does.
    let network = cloud.network("a").await;
    let path = format!("/v2.0/networks/{network}");
    let given = json!({"network": {"qos_policy_id": foreign}});
    assert_eq!(cloud.ask("admin", "PUT", &path, given).await.0, 200);
    let off = json!({"network": {"qos_policy_id": null}});
    cloud
        .refused("a", "PUT", &path, off.clone(), 403, denied)
        .await;
    let (status, _) = cloud
        .ask("a", "PUT", &path, json!({"network": {"name": "x"}}))
        .await;
    assert_eq!(status, 200);
    let port = cloud.port("a", json!({"network_id": network})).await;
    assert_eq!(port["qos_network_policy_id"], foreign);
    let share = |shared: bool| json!({"policy": {"shared": shared}});
    let policy = format!("{POLICIES}/{foreign}");
    assert_eq!(cloud.ask("admin", "PUT", &policy, share(true)).await.0, 200);
    cloud
        .refused("admin", "PUT", &policy, share(false), 409, "QosPolicyInUse")
        .await;
    assert_eq!(cloud.ask("a", "PUT", &path, off).await.0, 200);
    assert_eq!(
        cloud.ask("admin", "PUT", &policy, share(false)).await.0,
        200
    );
}

#[tokio::test]
async fn networks_and_ports_have_policies_that_stay_while_they_do() {
    let cloud = Cloud::new().await;
    let policy = cloud.policy(json!({"shared": true})).await;
    let other = cloud.policy(json!({"shared": true})).await;
    let body = json!({"name": "n", "qos_policy_id": policy});
    let network = cloud.made("a", "/v2.0/networks", "network", body).await;
    assert_eq!(network["qos_policy_id"], policy);
    let port = cloud
        .port("a", json!({"network_id": network["id"], "fixed_ips": []}))
        .await;
    assert_eq!(port["qos_policy_id"], Value::Null);
    assert_eq!(port["qos_network_policy_id"], policy);
    let at = format!("/v2.0/ports/{}", id(&port));
    let own = |id: Value| json!({"port": {"qos_policy_id": id}});
    let (status, answer) = cloud.ask("a", "PUT", &at, own(json!(other))).await;
    assert_eq!(
        (status, &answer["port"]["qos_policy_id"]),
        (200, &json!(other))
    );
    assert_eq!(answer["port"]["qos_network_policy_id"], policy);
    let (_, found) = cloud
        .get("a", &format!("/v2.0/ports?qos_policy_id={other}"))
        .await;
    assert_eq!(found["ports"].as_array().unwrap().len(), 1);
    for (body, status, kind) in [
        (own(json!(MISSING)), 404, "QosPolicyNotFound"),
        (own(json!("x")), 400, "HTTPBadRequest"),
    ] {
        cloud.refused("a", "PUT", &at, body, status, kind).await;
    }
    for used in [&policy, &other] {
        let path = format!("{POLICIES}/{used}");
        cloud
            .refused("admin", "DELETE", &path, Value::Null, 409, "QosPolicyInUse")
            .await;
    }
    let (_, answer) = cloud.ask("a", "PUT", &at, own(Value::Null)).await;
    assert_eq!(answer["port"]["qos_policy_id"], Value::Null);
    let other = format!("{POLICIES}/{other}");
    assert_eq!(
        cloud.ask("admin", "DELETE", &other, Value::Null).await.0,
        204
    );
    assert_eq!(cloud.ask("a", "DELETE", &at, Value::Null).await.0, 204);
    let network = format!("/v2.0/networks/{}", id(&network));
    assert_eq!(cloud.ask("a", "DELETE", &network, Value::Null).await.0, 204);
    let policy = format!("{POLICIES}/{policy}");
    assert_eq!(
        cloud.ask("admin", "DELETE", &policy, Value::Null).await.0,
        204
    );
}

#[tokio::test]
async fn a_projects_default_policy_is_its_new_networks() {
    let cloud = Cloud::new().await;
    let default = cloud
        .policy(json!({"is_default": true, "project_id": B}))
        .await;
    let again = json!({"policy": {"is_default": true, "project_id": B}});
    let exists = "QoSPolicyDefaultAlreadyExists";
    cloud
        .refused("admin", "POST", POLICIES, again, 409, exists)
        .await;
    let second = cloud.policy(json!({"project_id": B})).await;
    let path = |id: &str| format!("{POLICIES}/{id}");
    let set = |on: bool| json!({"policy": {"is_default": on}});
    cloud
        .refused("admin", "PUT", &path(&second), set(true), 409, exists)
        .await;
    cloud
        .refused(
            "a",
            "GET",
            &path(&default),
            Value::Null,
            404,
            "QosPolicyNotFound",
        )
        .await;
    let network = |who: &'static str, more: Value| {
        let cloud = &cloud;
        async move {
            let made = cloud.made(who, "/v2.0/networks", "network", more).await;
            made["qos_policy_id"].clone()
        }
    };
    assert_eq!(network("b", json!({})).await, default);
    assert_eq!(network("admin", json!({"project_id": B})).await, default);
    assert_eq!(network("b", json!({"qos_policy_id": second})).await, second);
    assert_eq!(network("a", json!({})).await, Value::Null);
    // Another takes its place.
    assert_eq!(
        cloud
            .ask("admin", "PUT", &path(&default), set(false))
            .await
            .0,
        200
    );
    assert_eq!(network("b", json!({})).await, Value::Null);
    assert_eq!(
        cloud.ask("admin", "PUT", &path(&second), set(true)).await.0,
        200
    );
    assert_eq!(network("b", json!({})).await, second);
}

#[tokio::test]
async fn rule_types_are_those_that_have_an_effect() {
    let cloud = Cloud::new().await;
    let path = "/v2.0/qos/rule-types";
    for who in ["a", "r", "admin"] {
        let types = json!([
            {"type": "bandwidth_limit"}, {"type": "packet_rate_limit"}, {"type": "minimum_bandwidth"},
            {"type": "minimum_packet_rate"}, {"type": "dscp_marking"},
        ]);
        assert_eq!(
            cloud.get(who, path).await,
            (200, json!({"rule_types": types}))
        );
    }
    let one = format!("{path}/bandwidth_limit");
    cloud
        .refused("a", "GET", &one, Value::Null, 403, "PolicyNotAuthorized")
        .await;
    let (status, answer) = cloud.get("admin", &one).await;
    let shown = &answer["rule_type"];
    assert_eq!((status, &shown["type"]), (200, &json!("bandwidth_limit")));
    let parameters = &shown["drivers"][0]["supported_parameters"];
    let first = json!({
        "parameter_name": "max_kbps", "parameter_type": "range",
        "parameter_values": {"start": 0, "end": 2_147_483_647},
    });
    assert_eq!(parameters[0], first);
    assert_eq!(
        parameters[2]["parameter_values"],
        json!(["ingress", "egress"])
    );
    let other = format!("{path}/maximum_patience");
    let missing = "QosRuleTypeNotFound";
    cloud
        .refused("admin", "GET", &other, Value::Null, 404, missing)
        .await;
    assert_eq!(cloud.get("", path).await.0, 401);
    cloud
        .refused(
            "admin",
            "POST",
            path,
            json!({}),
            405,
            "HTTPMethodNotAllowed",
        )
        .await;
}

#[tokio::test]
async fn policies_are_granted_to_projects() {
    let cloud = Cloud::new().await;
    let policy = cloud.policy(json!({})).await;
    let path = format!("{POLICIES}/{policy}");
    let grants = "/v2.0/rbac-policies";
    let grant = |target: &str| {
        json!({
            "object_type": "qos_policy", "object_id": policy, "action": "access_as_shared",
            "target_tenant": target,
        })
    };
    let of_a = cloud.made("admin", grants, "rbac_policy", grant(A)).await;
    let (status, shown) = cloud.get("a", &path).await;
    assert_eq!((status, &shown["policy"]["shared"]), (200, &json!(true)));
    cloud
        .refused("b", "GET", &path, Value::Null, 404, "QosPolicyNotFound")
        .await;
    let (_, list) = cloud.get("a", POLICIES).await;
    assert_eq!(list["policies"].as_array().unwrap().len(), 1);
    let body = json!({"qos_policy_id": policy});
    cloud
        .made("a", "/v2.0/networks", "network", body.clone())
        .await;
    let at = |grant: &Value| format!("{grants}/{}", id(grant));
    let used = "RbacPolicyInUse";
    cloud
        .refused("admin", "DELETE", &at(&of_a), Value::Null, 409, used)
        .await;
    // Shared with all it may lose the one, and only the one that nobody needs.
    let share = |shared: bool| json!({"policy": {"shared": shared}});
    assert_eq!(cloud.ask("admin", "PUT", &path, share(true)).await.0, 200);
    let (_, list) = cloud
        .get(
            "admin",
            &format!("{grants}?object_id={policy}&target_tenant=*"),
        )
        .await;
    let open = list["rbac_policies"][0].clone();
    assert_eq!(open["object_type"], "qos_policy");
    cloud.gone("admin", &at(&open)).await;
    let (_, shown) = cloud.get("admin", &path).await;
    assert_eq!(shown["policy"]["shared"], false, "they are one thing");
    let open = cloud.made("admin", grants, "rbac_policy", grant("*")).await;
    assert_eq!(cloud.get("b", &path).await.1["policy"]["shared"], true);
    cloud.gone("admin", &at(&of_a)).await;
    cloud
        .refused("admin", "DELETE", &at(&open), Value::Null, 409, used)
        .await;
    cloud
        .refused("admin", "PUT", &path, share(false), 409, "QosPolicyInUse")
        .await;
    // What an admin gave a project is no matter of another's grant.
    let other = cloud.policy(json!({})).await;
    let network = cloud.network("a").await;
    let given = json!({"network": {"qos_policy_id": other}});
    let network = format!("/v2.0/networks/{network}");
    assert_eq!(cloud.ask("admin", "PUT", &network, given).await.0, 200);
    let of_b = with(grant(B), json!({"object_id": other}));
    let of_b = cloud.made("admin", grants, "rbac_policy", of_b).await;
    cloud.gone("admin", &at(&of_b)).await;
}

#[tokio::test]
async fn policies_stand_below_others_in_a_tree() {
    let cloud = Cloud::new().await;
    let of_a = |more: Value| with(json!({"project_id": A}), more);
    let top = cloud.policy(of_a(json!({}))).await;
    let mut all = vec![top.clone()];
    for _ in 0..4 {
        let above = all.last().unwrap();
        all.push(cloud.policy(of_a(json!({"parent_id": above}))).await);
    }
    let path = |id: &str| format!("{POLICIES}/{id}");
    let below = |id: Value| json!({"policy": {"parent_id": id}});
    let conflict = "QosPolicyParentConflict";
    let low = json!({"policy": of_a(json!({"name": "q", "parent_id": all[4]}))});
    cloud
        .refused("admin", "POST", POLICIES, low, 409, conflict)
        .await;
    // Nor by what is below.
    let other = cloud.policy(of_a(json!({}))).await;
    let onto = below(json!(other));
    cloud
        .refused("admin", "PUT", &path(&top), onto, 409, conflict)
        .await;
    for at in [0, 2, 4] {
        let body = below(json!(all[at]));
        cloud
            .refused("admin", "PUT", &path(&top), body, 409, conflict)
            .await;
    }
    let missing = "QosPolicyNotFound";
    let theirs = cloud.policy(json!({"project_id": B})).await;
    for id in [MISSING, &theirs] {
        let body = below(json!(id));
        cloud
            .refused("admin", "PUT", &path(&all[4]), body, 404, missing)
            .await;
    }
    let open = cloud.policy(json!({"project_id": B, "shared": true})).await;
    let (status, answer) = cloud
        .ask("admin", "PUT", &path(&other), below(json!(open)))
        .await;
    assert_eq!(
        (status, &answer["policy"]["parent_id"]),
        (200, &json!(open))
    );
    for used in [&open, &all[3]] {
        let gone = ("admin", "DELETE", path(used));
        cloud
            .refused(gone.0, gone.1, &gone.2, Value::Null, 409, "QosPolicyInUse")
            .await;
    }
    let (status, answer) = cloud
        .ask("admin", "PUT", &path(&all[4]), below(Value::Null))
        .await;
    assert_eq!(
        (status, &answer["policy"]["parent_id"]),
        (200, &Value::Null)
    );
    assert_eq!(
        cloud
            .ask("admin", "DELETE", &path(&all[3]), Value::Null)
            .await
            .0,
        204
    );
}
