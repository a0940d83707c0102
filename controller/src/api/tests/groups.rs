//! Security groups and their rules, as a client sees them.

use super::*;

#[tokio::test]
async fn the_default_group_is_there_at_the_first_touch() {
    let cloud = Cloud::new().await;
    let (_, list) = cloud.get("a", "/v2.0/security-groups?name=default").await;
    let group = list["security_groups"][0].clone();
    assert_eq!(group["description"], "Default security group");
    assert_eq!(group["security_group_rules"].as_array().unwrap().len(), 4);
    let path = format!("/v2.0/security-groups/{}", id(&group));
    let groups = "/v2.0/security-groups";
    let named = |name: &str| json!({"security_group": {"name": name}});
    cloud
        .refused(
            "a",
            "POST",
            groups,
            named("default"),
            409,
            "SecurityGroupDefaultAlreadyExists",
        )
        .await;
    cloud
        .refused(
            "a",
            "PUT",
            &path,
            named("x"),
            409,
            "SecurityGroupCannotUpdateDefault",
        )
        .await;
    cloud
        .refused(
            "a",
            "DELETE",
            &path,
            Value::Null,
            409,
            "SecurityGroupCannotRemoveDefault",
        )
        .await;
    assert_eq!(
        cloud.ask("admin", "DELETE", &path, Value::Null).await.0,
        204
    );
    let (_, again) = cloud.get("a", "/v2.0/security-groups").await;
    assert_eq!(names(&again["security_groups"]), ["default"]);
    assert_ne!(again["security_groups"][0]["id"], group["id"]);
    let (_, rules) = cloud.get("a", "/v2.0/security-group-rules").await;
    assert_eq!(rules["security_group_rules"].as_array().unwrap().len(), 4);
}

#[tokio::test]
async fn groups_and_rules_obey_neutrons_words() {
    let cloud = Cloud::new().await;
    let groups = "/v2.0/security-groups";
    let group = cloud
        .made("a", groups, "security_group", json!({"name": "g1"}))
        .await;
    assert_eq!(group["security_group_rules"].as_array().unwrap().len(), 2);
    let other = id(&cloud
        .made("a", groups, "security_group", json!({"name": "g2"}))
        .await);
    let group = id(&group);
    let rules = "/v2.0/security-group-rules";
    let rule = |extra: Value| {
        with(
            json!({"security_group_id": group, "direction": "ingress"}),
            extra,
        )
    };
    let made = |extra: Value| cloud.made("a", rules, "security_group_rule", rule(extra));
    let tcp = json!({"protocol": "TCP", "port_range_min": 22, "port_range_max": "22", "remote_ip_prefix": "10.0.0.5/8"});
    let ssh = made(tcp.clone()).await;
    assert_eq!(ssh["protocol"], "tcp");
    assert_eq!(ssh["remote_ip_prefix"], "10.0.0.5/8");
    assert_eq!(ssh["normalized_cidr"], "10.0.0.0/8");
    assert_eq!(ssh["port_range_max"], 22);
    assert_eq!(
        made(json!({"protocol": 6, "port_range_min": 81, "port_range_max": 81})).await["protocol"],
        "6"
    );
    assert_eq!(
        made(json!({"protocol": "icmpv6", "ethertype": "ipv6", "port_range_min": 128})).await["protocol"],
        "ipv6-icmp"
    );
    made(json!({})).await;
    made(json!({"protocol": "icmp", "port_range_min": 8, "port_range_max": 0})).await;
    assert_eq!(
        made(json!({"remote_ip_prefix": "10.0.0.5"})).await["remote_ip_prefix"],
        "10.0.0.5/32"
    );
    made(json!({"protocol": "tcp", "port_range_min": 25, "port_range_max": 25, "remote_group_id": other})).await;
    for (extra, status, kind) in [
        (tcp, 409, "SecurityGroupRuleExists"),
        (json!({"protocol": "any"}), 409, "SecurityGroupRuleExists"),
        (
            json!({"protocol": "icmp", "port_range_max": 0}),
            400,
            "SecurityGroupMissingIcmpType",
        ),
        (
            json!({"protocol": "icmp", "port_range_min": 256}),
            400,
            "SecurityGroupInvalidIcmpValue",
        ),
        (
            json!({"protocol": "ipv6-icmp"}),
            400,
            "SecurityGroupEthertypeConflictWithProtocol",
        ),
        (
            json!({"protocol": 256}),
            400,
            "SecurityGroupRuleInvalidProtocol",
        ),
        (
            json!({"protocol": "bogus"}),
            400,
            "SecurityGroupRuleInvalidProtocol",
        ),
        (
            json!({"port_range_min": 1, "port_range_max": 2}),
            400,
            "SecurityGroupProtocolRequiredWithPorts",
        ),
        (
            json!({"protocol": "tcp", "port_range_min": 20, "port_range_max": 10}),
            400,
            "SecurityGroupInvalidPortRange",
        ),
        (
            json!({"protocol": "tcp", "port_range_min": 20}),
            400,
            "SecurityGroupInvalidPortRange",
        ),
        (
            json!({"protocol": "tcp", "port_range_min": 0, "port_range_max": 10}),
            400,
            "SecurityGroupInvalidPortValue",
        ),
        (
            json!({"protocol": "tcp", "port_range_min": 1, "port_range_max": 70_000}),
            400,
            "SecurityGroupInvalidPortValue",
        ),
        (
            json!({"protocol": "gre", "port_range_min": 1, "port_range_max": 2}),
            400,
            "SecurityGroupInvalidProtocolForPort",
        ),
        (
            json!({"ethertype": "IPX"}),
            400,
            "SecurityGroupRuleInvalidEtherType",
        ),
        (
            json!({"ethertype": "IPv6", "remote_ip_prefix": "10.0.0.0/8"}),
            400,
            "SecurityGroupRuleParameterConflict",
        ),
        (
            json!({"remote_ip_prefix": "10.0.0.500/8"}),
            400,
            "InvalidCIDR",
        ),
        (
            json!({"remote_group_id": MISSING}),
            404,
            "SecurityGroupNotFound",
        ),
        (
            json!({"remote_group_id": other, "remote_ip_prefix": "10.0.0.0/8"}),
            400,
            "SecurityGroupMultipleRemoteEntites",
        ),
        (json!({"direction": "sideways"}), 400, "HTTPBadRequest"),
        (
            json!({"security_group_id": MISSING}),
            404,
            "SecurityGroupNotFound",
        ),
    ] {
        let body = json!({"security_group_rule": rule(extra)});
        cloud.refused("a", "POST", rules, body, status, kind).await;
    }
    let foreign = json!({"security_group_rule": rule(json!({"protocol": "udp"}))});
    cloud
        .refused("b", "POST", rules, foreign, 403, "PolicyNotAuthorized")
        .await;
    let path = format!("{rules}/{}", id(&ssh));
    let put = json!({"security_group_rule": {"description": "new"}});
    assert_eq!(cloud.ask("a", "PUT", &path, put).await.0, 200);
    let put = json!({"security_group_rule": {"protocol": "udp"}});
    cloud
        .refused("a", "PUT", &path, put, 400, "HTTPBadRequest")
        .await;
    let one = |n: u16| json!({"security_group_id": other, "direction": "ingress", "protocol": "tcp", "port_range_min": n, "port_range_max": n});
    let bulk = |bodies: Value| json!({"security_group_rules": bodies});
    let (status, _) = cloud
        .ask("a", "POST", rules, bulk(json!([one(1), one(2)])))
        .await;
    assert_eq!(status, 201);
    let twice = bulk(json!([one(3), one(3)]));
    cloud
        .refused(
            "a",
            "POST",
            rules,
            twice,
            409,
            "DuplicateSecurityGroupRuleInPost",
        )
        .await;
    let mixed = bulk(json!([one(4), rule(json!({"protocol": "udp"}))]));
    cloud
        .refused(
            "a",
            "POST",
            rules,
            mixed,
            400,
            "SecurityGroupNotSingleGroupRules",
        )
        .await;
    // A group that goes takes the rules that mean it along.
    let (_, before) = cloud
        .get("a", &format!("{rules}?remote_group_id={other}"))
        .await;
    assert_eq!(before["security_group_rules"].as_array().unwrap().len(), 1);
    assert_eq!(
        cloud
            .ask("a", "DELETE", &format!("{groups}/{other}"), Value::Null)
            .await
            .0,
        204
    );
    let (_, after) = cloud
        .get("a", &format!("{rules}?remote_group_id={other}"))
        .await;
    assert_eq!(after["security_group_rules"], json!([]));
    let network = cloud.network("a").await;
    let port = cloud
        .port(
            "a",
            json!({"network_id": network, "security_groups": [group]}),
        )
        .await;
    assert_eq!(port["security_groups"], json!([group]));
    let path = format!("{groups}/{group}");
    let put = json!({"security_group": {"stateful": false}});
    cloud
        .refused("a", "PUT", &path, put, 409, "SecurityGroupInUse")
        .await;
    cloud
        .refused("a", "DELETE", &path, Value::Null, 409, "SecurityGroupInUse")
        .await;
}
