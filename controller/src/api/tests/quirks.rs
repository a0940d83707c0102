//! What Neutron's own clients and tests send and expect besides.

use super::*;

#[tokio::test]
async fn bulk_objects_may_name_their_resource_once_more() {
    let cloud = Cloud::new().await;
    let groups = json!({"security_groups": [
        {"security_group": {"name": "g1"}}, {"name": "g2"},
    ]});
    let (status, made) = cloud
        .ask("a", "POST", "/v2.0/security-groups", groups)
        .await;
    let names = made["security_groups"].as_array().unwrap().iter();
    let names: Vec<_> = names.map(|group| &group["name"]).collect();
    assert_eq!((status, names), (201, vec![&json!("g1"), &json!("g2")]));
    let wrong = json!({"ports": [{"network": {}}]});
    cloud
        .refused("a", "POST", "/v2.0/ports", wrong, 400, "HTTPBadRequest")
        .await;
}

#[tokio::test]
async fn routes_that_are_null_are_none() {
    let cloud = Cloud::new().await;
    let router = cloud.made("a", "/v2.0/routers", "router", json!({})).await;
    let path = format!("/v2.0/routers/{}", id(&router));
    let none = json!({"router": {"routes": null}});
    let (status, router) = cloud.ask("a", "PUT", &path, none).await;
    assert_eq!((status, &router["router"]["routes"]), (200, &json!([])));
}

#[tokio::test]
async fn a_quota_may_be_forced_below_what_is_used() {
    let cloud = Cloud::new().await;
    cloud.network("a").await;
    let path = format!("/v2.0/quotas/{A}");
    let of = |more: Value| json!({"quota": more});
    for more in [
        json!({"network": 0}),
        json!({"network": 0, "force": false}),
        json!({"network": 0, "check_limit": true}),
    ] {
        cloud
            .refused("admin", "PUT", &path, of(more), 400, "HTTPBadRequest")
            .await;
    }
    let perhaps = of(json!({"network": 0, "force": "perhaps"}));
    cloud
        .refused("admin", "PUT", &path, perhaps, 400, "InvalidInput")
        .await;
    let forced = of(json!({"network": 0, "force": true}));
    let (status, quota) = cloud.ask("admin", "PUT", &path, forced).await;
    assert_eq!((status, &quota["quota"]["network"]), (200, &json!(0)));
    let one = json!({"network": {}});
    cloud
        .refused("a", "POST", "/v2.0/networks", one, 409, "OverQuota")
        .await;
}

#[tokio::test]
async fn grants_that_follow_from_shared_are_counted_and_never_refused() {
    let cloud = Cloud::new().await;
    let admins = cloud.network("admin").await;
    let (_, shown) = cloud
        .get("admin", &format!("/v2.0/networks/{admins}"))
        .await;
    let project = shown["network"]["project_id"].as_str().unwrap();
    let path = format!("/v2.0/quotas/{project}");
    let one = json!({"quota": {"rbac_policy": 1}});
    assert_eq!(cloud.ask("admin", "PUT", &path, one).await.0, 200);
    for _ in 0..3 {
        let shared = json!({"shared": true});
        cloud
            .made("admin", "/v2.0/networks", "network", shared)
            .await;
    }
    let (_, details) = cloud.get("admin", &format!("{path}/details")).await;
    assert_eq!(details["quota"]["rbac_policy"]["used"], 3);
    let grant = json!({"rbac_policy": {
        "object_type": "network", "object_id": admins,
        "action": "access_as_shared", "target_tenant": B,
    }});
    cloud
        .refused(
            "admin",
            "POST",
            "/v2.0/rbac-policies",
            grant,
            409,
            "OverQuota",
        )
        .await;
}

#[tokio::test]
async fn a_groups_rules_are_its_projects_to_see() {
    let cloud = Cloud::new().await;
    let rules = "/v2.0/security-group-rules";
    let group = |name: &str| json!({"name": name});
    let of_a = cloud
        .made("a", "/v2.0/security-groups", "security_group", group("a"))
        .await;
    let of_admin = cloud
        .made(
            "admin",
            "/v2.0/security-groups",
            "security_group",
            group("x"),
        )
        .await;
    let rule = |group: &Value| json!({"security_group_id": id(group), "direction": "ingress", "protocol": "tcp"});
    let seen = cloud
        .made("admin", rules, "security_group_rule", rule(&of_a))
        .await;
    let hidden = cloud
        .made("admin", rules, "security_group_rule", rule(&of_admin))
        .await;
    let (_, list) = cloud.get("a", rules).await;
    let listed = |rule: &Value| {
        let rows = list["security_group_rules"].as_array().unwrap();
        rows.iter().filter(|row| row["id"] == rule["id"]).count()
    };
    assert_eq!([listed(&seen), listed(&hidden)], [1, 0]);
    let path = |rule: &Value| format!("{rules}/{}", id(rule));
    assert_eq!(cloud.get("a", &path(&seen)).await.0, 200);
    assert_eq!(cloud.get("b", &path(&seen)).await.0, 404);
    assert_eq!(cloud.get("a", &path(&hidden)).await.0, 404);
    let mut lost = rule(&of_a);
    lost["remote_group_id"] = json!("bad_group_id");
    let lost = json!({"security_group_rule": lost});
    cloud
        .refused("a", "POST", rules, lost, 404, "SecurityGroupNotFound")
        .await;
}

#[tokio::test]
async fn a_subnet_needs_its_familys_least_mtu() {
    let cloud = Cloud::new().await;
    let kind = "NetworkMTUSubnetConflict";
    for (mtu, cidr, version) in [(67, "10.0.0.0/24", 4), (1279, "fd00::/64", 6)] {
        let small = json!({"mtu": mtu});
        let small = id(&cloud.made("a", "/v2.0/networks", "network", small).await);
        let subnet = json!({"subnet": {"network_id": small, "cidr": cidr, "ip_version": version}});
        cloud
            .refused("a", "POST", "/v2.0/subnets", subnet, 409, kind)
            .await;
        let large = cloud.network("a").await;
        cloud.subnet("a", &large, cidr).await;
        let path = format!("/v2.0/networks/{large}");
        let less = json!({"network": {"mtu": mtu}});
        cloud.refused("a", "PUT", &path, less, 409, kind).await;
        let enough = json!({"network": {"mtu": mtu + 1}});
        assert_eq!(cloud.ask("a", "PUT", &path, enough).await.0, 200);
    }
}

#[tokio::test]
async fn there_are_no_service_providers_to_choose() {
    let cloud = Cloud::new().await;
    let (status, list) = cloud.get("a", "/v2.0/service-providers").await;
    assert_eq!((status, list), (200, json!({"service_providers": []})));
}

#[tokio::test]
async fn pages_of_policies_begin_anew_at_a_marker_that_is_not_seen() {
    let cloud = Cloud::new().await;
    let policies = "/v2.0/qos/policies";
    let policy = cloud
        .made("admin", policies, "policy", json!({"name": "p"}))
        .await;
    let page = format!(
        "{policies}?limit=1&sort_key=name&sort_dir=asc&marker={}",
        id(&policy)
    );
    let (status, list) = cloud.get("a", &page).await;
    assert_eq!((status, &list["policies"]), (200, &json!([])));
    let rels = list["policies_links"].as_array().unwrap().iter();
    let rels: Vec<_> = rels.map(|link| &link["rel"]).collect();
    assert_eq!(rels, ["previous"]);
}

#[tokio::test]
async fn a_used_grant_to_all_is_not_given_to_one() {
    let cloud = Cloud::new().await;
    let network = cloud.network("admin").await;
    let grant = json!({
        "object_type": "network", "object_id": network,
        "action": "access_as_shared", "target_tenant": "*",
    });
    let grant = cloud
        .made("admin", "/v2.0/rbac-policies", "rbac_policy", grant)
        .await;
    let path = format!("/v2.0/rbac-policies/{}", id(&grant));
    let to_b = json!({"rbac_policy": {"target_tenant": B}});
    cloud.port("b", json!({"network_id": network})).await;
    cloud
        .refused("admin", "PUT", &path, to_b, 409, "RbacPolicyInUse")
        .await;
}

#[tokio::test]
async fn a_port_gets_addresses_of_the_subnets_for_its_owner() {
    let cloud = Cloud::new().await;
    let network = cloud.network("a").await;
    let subnet = |cidr: &str, types: Value| json!({"network_id": network, "ip_version": 4, "cidr": cidr, "service_types": types});
    let path = "/v2.0/subnets";
    let one = subnet("10.0.1.0/24", json!(["test:one"]));
    let one = cloud.made("a", path, "subnet", one).await;
    assert_eq!(one["service_types"], json!(["test:one"]));
    let two = subnet("10.0.2.0/24", json!(["test:two"]));
    cloud.made("a", path, "subnet", two).await;
    let port = |owner: &str| json!({"network_id": network, "device_owner": owner});
    let first = |port: &Value| port["fixed_ips"][0]["ip_address"].clone();
    let lost = json!({"port": port("test:three")});
    let kind = "IpAddressGenerationFailureNoMatchingSubnet";
    cloud
        .refused("a", "POST", "/v2.0/ports", lost, 409, kind)
        .await;
    // One that names the subnet gets it, whoever owns it.
    let mut named = port("test:three");
    named["fixed_ips"] = json!([{"subnet_id": id(&one)}]);
    assert_eq!(first(&cloud.port("a", named).await), "10.0.1.2");
    let all = subnet("10.0.3.0/24", json!([]));
    cloud.made("a", path, "subnet", all).await;
    for (owner, address) in [
        ("test:one", "10.0.1.3"),
        ("test:two", "10.0.2.2"),
        ("test:three", "10.0.3.2"),
        ("", "10.0.3.3"),
    ] {
        assert_eq!(first(&cloud.port("a", port(owner)).await), address);
    }
    let path = format!("{path}/{}", id(&one));
    let none = json!({"subnet": {"service_types": []}});
    assert_eq!(cloud.ask("a", "PUT", &path, none).await.0, 200);
    let mine = first(&cloud.port("a", port("test:three")).await);
    assert!(["10.0.1.4", "10.0.3.4"].contains(&mine.as_str().unwrap()));
}
