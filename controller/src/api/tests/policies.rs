//! Policies of a file, as a client meets them.

use super::*;

#[tokio::test]
async fn a_rule_of_a_file_stands_for_the_built_in_one() {
    let cloud = Cloud::under(
        r#"
"create_network": "role:admin"
"create_network:shared": "role:member"
"update_network": "role:reader and project_id:%(project_id)s"
"delete_network": "rule:mine and not field:networks:name=keep"
"mine": "user_id:user-a"
"get_network:provider:network_type": "role:member and project_id:%(project_id)s"
"get_network:mtu": "!"
"create_network:mtu": "!"
"#,
    )
    .await;
    let networks = "/v2.0/networks";
    let body = json!({"network": {"name": "n"}});
    let told = cloud
        .refused("a", "POST", networks, body, 403, "PolicyNotAuthorized")
        .await;
    assert!(told.to_string().contains("rule:create_network"), "{told}");
    let mine = json!({"name": "n", "project_id": A});
    let network = cloud.made("admin", networks, "network", mine).await;
    // Seen where it is one's own, and hidden from everybody.
    assert!(network.get("provider:network_type").is_none());
    assert!(network.get("mtu").is_none());
    let path = format!("{networks}/{}", id(&network));
    let (_, shown) = cloud.get("a", &path).await;
    assert_eq!(shown["network"]["provider:network_type"], "vxlan");
    let (_, listed) = cloud.get("a", networks).await;
    assert_eq!(listed["networks"][0]["provider:network_type"], "vxlan");
    assert!(listed["networks"][0].get("mtu").is_none());
    let (_, listed) = cloud.get("admin", networks).await;
    assert!(listed["networks"][0].get("provider:network_type").is_none());
    // What is not seen is not found by it.
    let (_, found) = cloud
        .get("admin", &format!("{networks}?provider:network_type=vxlan"))
        .await;
    assert_eq!(found["networks"], json!([]));
    let (_, found) = cloud
        .get("a", &format!("{networks}?provider:network_type=vxlan"))
        .await;
    assert_eq!(names(&found["networks"]), ["n"]);
    // A reader may change it now.
    let body = json!({"network": {"name": "keep"}});
    let (status, _) = cloud.ask("r", "PUT", &path, body.clone()).await;
    assert_eq!(status, 200);
    let told = cloud
        .refused("admin", "PUT", &path, body, 403, "PolicyNotAuthorized")
        .await;
    assert!(told.to_string().contains("rule:update_network"), "{told}");
    let nobody = "PolicyNotAuthorized";
    cloud
        .refused("a", "DELETE", &path, Value::Null, 403, nobody)
        .await;
    let body = json!({"network": {"name": "n"}});
    cloud.ask("r", "PUT", &path, body).await;
    cloud
        .refused("r", "DELETE", &path, Value::Null, 403, nobody)
        .await;
    // Another's is not there, whatever the rules say.
    cloud
        .refused("b", "DELETE", &path, Value::Null, 404, "NetworkNotFound")
        .await;
    let (status, _) = cloud.ask("a", "DELETE", &path, Value::Null).await;
    assert_eq!(status, 204);
    let body = json!({"network": {"name": "n", "mtu": 1400}});
    let told = cloud
        .refused("admin", "POST", networks, body, 403, nobody)
        .await;
    let rule = "rule:create_network and rule:create_network:mtu";
    assert!(told.to_string().contains(rule), "{told}");
}

#[tokio::test]
async fn what_may_not_be_read_is_not_there_and_lists_leave_it_out() {
    let cloud = Cloud::under(
        "get_network: rule:admin_only or field:networks:name=open\nget_security_group: '!'\nget_subports: '!'",
    )
    .await;
    let networks = "/v2.0/networks";
    for name in ["open", "closed"] {
        cloud
            .made("a", networks, "network", json!({"name": name}))
            .await;
    }
    let (_, mine) = cloud.get("a", networks).await;
    assert_eq!(names(&mine["networks"]), ["open"]);
    let (_, all) = cloud.get("admin", networks).await;
    assert_eq!(all["networks"].as_array().unwrap().len(), 2);
    for row in all["networks"].as_array().unwrap() {
        let path = format!("{networks}/{}", id(row));
        let open = row["name"] == "open";
        assert_eq!(cloud.get("a", &path).await.0, if open { 200 } else { 404 });
        if !open {
            // Nor changed, nor deleted, nor tagged.
            let body = json!({"network": {"name": "mine"}});
            let kind = "NetworkNotFound";
            cloud.refused("a", "PUT", &path, body, 404, kind).await;
            let none = Value::Null;
            cloud
                .refused("a", "DELETE", &path, none.clone(), 404, kind)
                .await;
            let tags = format!("{path}/tags/t");
            cloud.refused("a", "PUT", &tags, none, 404, kind).await;
        }
    }
    let (status, groups) = cloud.get("a", "/v2.0/security-groups").await;
    assert_eq!((status, &groups["security_groups"]), (200, &json!([])));
}

#[tokio::test]
async fn keys_parts_actions_and_tags_have_rules() {
    let cloud = Cloud::under(
        r#"
"create_port:fixed_ips:ip_address": "role:admin"
"update_port:device_owner": "not rule:network_device"
"add_router_interface": "role:admin"
"update_network:tags": "role:reader"
"create_policy": "role:member and project_id:%(project_id)s"
"create_policy_bandwidth_limit_rule": "role:member and rule:ext_parent_owner"
"update_quota": "role:member and project_id:%(project_id)s"
"get_segment": "role:member"
"create_subnet": "role:member and (rule:network_owner or rule:shared)"
"#,
    )
    .await;
    let network = cloud.network("a").await;
    let subnet = cloud.subnet("a", &network, "10.0.0.0/24").await;
    let denied = "PolicyNotAuthorized";
    let body = json!({"port": {"network_id": network, "fixed_ips": [{"subnet_id": id(&subnet), "ip_address": "10.0.0.9"}]}});
    let told = cloud
        .refused("a", "POST", "/v2.0/ports", body, 403, denied)
        .await;
    let rule = "create_port:fixed_ips:ip_address";
    assert!(told.to_string().contains(rule), "{told}");
    let fixed = json!({"network_id": network, "fixed_ips": [{"subnet_id": id(&subnet)}]});
    let port = cloud.port("a", fixed).await;
    let path = format!("/v2.0/ports/{}", id(&port));
    let owner = |text: &str| json!({"port": {"device_owner": text}});
    let (status, _) = cloud.ask("a", "PUT", &path, owner("compute:x")).await;
    assert_eq!(status, 200);
    cloud
        .refused("admin", "PUT", &path, owner("network:dhcp"), 403, denied)
        .await;
    let router = cloud.made("a", "/v2.0/routers", "router", json!({})).await;
    let add = format!("/v2.0/routers/{}/add_router_interface", id(&router));
    let with = json!({"subnet_id": id(&subnet)});
    cloud
        .refused("a", "PUT", &add, with.clone(), 403, denied)
        .await;
    assert_eq!(cloud.ask("admin", "PUT", &add, with).await.0, 200);
    // The rule of tags alone is asked for tags.
    let tags = format!("/v2.0/networks/{network}/tags");
    let body = json!({"tags": ["t"]});
    assert_eq!(cloud.ask("r", "PUT", &tags, body).await.0, 200);
    cloud
        .refused("r", "DELETE", &tags, Value::Null, 403, denied)
        .await;
    // A policy that a member made is its own to fill.
    let policy = cloud
        .made("a", "/v2.0/qos/policies", "policy", json!({"name": "p"}))
        .await;
    let rules = format!("/v2.0/qos/policies/{}/bandwidth_limit_rules", id(&policy));
    let rule = json!({"bandwidth_limit_rule": {"max_kbps": 1000}});
    assert_eq!(cloud.ask("a", "POST", &rules, rule.clone()).await.0, 201);
    cloud
        .refused("r", "POST", &rules, rule.clone(), 403, denied)
        .await;
    cloud
        .refused("b", "POST", &rules, rule, 404, "QosPolicyNotFound")
        .await;
    let quota = json!({"quota": {"network": 7}});
    let own = format!("/v2.0/quotas/{A}");
    assert_eq!(cloud.ask("a", "PUT", &own, quota.clone()).await.0, 200);
    let other = format!("/v2.0/quotas/{B}");
    cloud.refused("a", "PUT", &other, quota, 403, denied).await;
    let (_, segments) = cloud.get("a", "/v2.0/segments").await;
    assert_eq!(segments["segments"].as_array().unwrap().len(), 1);
    let (_, segments) = cloud.get("b", "/v2.0/segments").await;
    assert_eq!(segments["segments"], json!([]));
    // A subnet of another's network, where the rule lets it.
    let open = json!({"name": "open", "shared": true});
    let open = cloud.made("admin", "/v2.0/networks", "network", open).await;
    cloud.subnet("b", &id(&open), "10.9.0.0/24").await;
}

#[tokio::test]
async fn on_a_network_of_another_some_of_a_port_is_not_the_ports_owners() {
    let cloud = Cloud::new().await;
    let shared = json!({"name": "open", "shared": true});
    let network = id(&cloud
        .made("admin", "/v2.0/networks", "network", shared)
        .await);
    let subnet = id(&cloud.subnet("admin", &network, "10.0.0.0/24").await);
    for (name, value) in [
        ("mac_address", json!("fa:16:3e:00:00:01")),
        ("port_security_enabled", json!(false)),
        (
            "allowed_address_pairs",
            json!([{"ip_address": "10.0.0.77"}]),
        ),
        ("device_owner", json!("network:dhcp")),
        ("fixed_ips", json!([{"ip_address": "10.0.0.9"}])),
    ] {
        let body = json!({"port": {"network_id": network, name: value}});
        let told = cloud
            .refused(
                "a",
                "POST",
                "/v2.0/ports",
                body.clone(),
                403,
                "PolicyNotAuthorized",
            )
            .await;
        let rule = format!("rule:create_port:{name}");
        assert!(told.to_string().contains(&rule), "{told}");
        if name != "device_owner" {
            assert_eq!(
                cloud.ask("admin", "POST", "/v2.0/ports", body).await.0,
                201,
                "{name}"
            );
        }
    }
    let fixed = json!({"network_id": network, "fixed_ips": [{"subnet_id": subnet}], "device_owner": "compute:x"});
    let port = cloud.port("a", fixed).await;
    let path = format!("/v2.0/ports/{}", id(&port));
    for (name, value) in [
        ("port_security_enabled", json!(false)),
        ("fixed_ips", json!([{"subnet_id": subnet}])),
    ] {
        let body = json!({"port": {name: value}});
        cloud
            .refused("a", "PUT", &path, body, 403, "PolicyNotAuthorized")
            .await;
    }
    let body = json!({"port": {"name": "mine"}});
    assert_eq!(cloud.ask("a", "PUT", &path, body).await.0, 200);
}

#[tokio::test]
async fn a_role_that_no_table_knows_reads_what_is_shared() {
    let cloud = Cloud::new().await;
    transact::<_, ()>(cloud.api.core.store.as_ref(), |view| {
        let role = identity::Role {
            id: "auditor".to_owned(),
            name: "auditor".to_owned(),
            description: String::new(),
        };
        view.put(identity::key("role", "auditor"), Arc::new(role));
        let name = identity::name_key("role", "auditor");
        view.put(name, Arc::new("auditor".to_owned()));
        let assignment = identity::Assignment {
            user_id: "user-r".to_owned(),
            project_id: A.to_owned(),
            role_id: "auditor".to_owned(),
            ..identity::Assignment::default()
        };
        view.delete(&identity::assignment_key(A, "user-r", "reader"));
        let key = identity::assignment_key(A, "user-r", "auditor");
        view.put(key, Arc::new(assignment));
        Ok(())
    })
    .await
    .unwrap();
    let own = cloud.network("a").await;
    let shared = json!({"name": "open", "shared": true});
    cloud
        .made("admin", "/v2.0/networks", "network", shared)
        .await;
    let (status, listed) = cloud.get("r", "/v2.0/networks").await;
    assert_eq!((status, names(&listed["networks"])), (200, vec!["open"]));
    let path = format!("/v2.0/networks/{own}");
    assert_eq!(cloud.get("r", &path).await.0, 404);
    assert_eq!(cloud.get("a", &path).await.0, 200);
}
