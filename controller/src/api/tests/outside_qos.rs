//! QoS policies of floating IPs and of routers' gateways, as a client sees them.

use super::{
    outside::{World, path},
    qos::POLICIES,
    *,
};

#[tokio::test]
async fn floating_ips_have_policies_that_their_project_may_use() {
    let world = World::new().await;
    let cloud = &world.cloud;
    let shared = cloud.policy(json!({"shared": true})).await;
    let hidden = cloud.policy(json!({})).await;
    let plain = world.floating("a", json!({})).await;
    assert_eq!(plain["qos_policy_id"], Value::Null);
    assert_eq!(plain["qos_network_policy_id"], Value::Null);
    let made = world
        .floating(
            "a",
            json!({"qos_policy_id": shared, "port_id": world.second}),
        )
        .await;
    assert_eq!(made["qos_policy_id"], shared);
    let missing = "QosPolicyNotFound";
    for policy in [&hidden, MISSING] {
        let body = json!({"qos_policy_id": policy});
        world.unfloated("a", body.clone(), 404, missing).await;
        let body = json!({"floatingip": body});
        cloud
            .refused("a", "PUT", &path(&made), body, 404, missing)
            .await;
    }
    for wrong in [json!("x"), json!(7), json!([])] {
        let body = json!({"qos_policy_id": wrong});
        world.unfloated("a", body, 400, "HTTPBadRequest").await;
    }
    let (_, shown) = cloud.get("a", &path(&made)).await;
    assert_eq!(shown["floatingip"], made, "nothing changed");
    // Another, none, and it stays where it is not spoken of, as the port does.
    let own = path(&made);
    let put = |body: Value| world.put("a", &own, "floatingip", body);
    let other = cloud.policy(json!({"shared": true})).await;
    let changed = put(json!({"qos_policy_id": other})).await;
    assert_eq!(changed["qos_policy_id"], other);
    assert_eq!(changed["port_id"], world.second);
    let changed = put(json!({"description": "d"})).await;
    assert_eq!(changed["qos_policy_id"], other);
    let changed = put(json!({"port_id": null})).await;
    assert_eq!(changed["qos_policy_id"], other);
    let changed = put(json!({"qos_policy_id": null})).await;
    assert_eq!(changed["qos_policy_id"], Value::Null);
    // What an admin gave that the project does not see, the project does not take off.
    let given = json!({"qos_policy_id": hidden});
    world.put("admin", &own, "floatingip", given).await;
    let off = json!({"floatingip": {"qos_policy_id": null}});
    cloud
        .refused("a", "PUT", &own, off, 403, "PolicyNotAuthorized")
        .await;
    let described = put(json!({"description": "e"})).await;
    assert_eq!(described["qos_policy_id"], hidden);
    // It can be asked for.
    let query = format!("/v2.0/floatingips?qos_policy_id={hidden}");
    let (_, list) = cloud.get("a", &query).await;
    assert_eq!(list["floatingips"].as_array().unwrap().len(), 1);
    // Its network's is shown too.
    let network = format!("/v2.0/networks/{}", world.public);
    let body = json!({"qos_policy_id": shared});
    world.put("admin", &network, "network", body).await;
    let (_, shown) = cloud.get("a", &own).await;
    assert_eq!(shown["floatingip"]["qos_network_policy_id"], shared);
    assert_eq!(shown["floatingip"]["qos_policy_id"], hidden);
    let body = json!({"qos_network_policy_id": shared});
    world.unfloated("a", body, 400, "HTTPBadRequest").await;
    world.balance();
}

#[tokio::test]
async fn gateways_have_policies_that_their_project_may_use() {
    let world = World::new().await;
    let cloud = &world.cloud;
    let shared = cloud.policy(json!({"shared": true})).await;
    let hidden = cloud.policy(json!({})).await;
    let router = world.router_path();
    let info = |more: Value| {
        let way = with(json!({"network_id": world.public}), more);
        json!({"external_gateway_info": way})
    };
    let put = |who: &'static str, body: Value| world.put(who, &router, "router", body);
    let shown = |answer: &Value| answer["external_gateway_info"].clone();
    let (_, before) = cloud.get("a", &router).await;
    assert!(shown(&before["router"]).get("qos_policy_id").is_none());
    for policy in [&hidden, MISSING] {
        let body = json!({"router": info(json!({"qos_policy_id": policy}))});
        cloud
            .refused("a", "PUT", &router, body, 404, "QosPolicyNotFound")
            .await;
    }
    for wrong in [json!("x"), json!(7), json!({})] {
        let body = json!({"router": info(json!({"qos_policy_id": wrong}))});
        cloud
            .refused("a", "PUT", &router, body, 400, "HTTPBadRequest")
            .await;
    }
    assert_eq!(cloud.get("a", &router).await.1, before, "nothing changed");
    let changed = put("a", info(json!({"qos_policy_id": shared}))).await;
    let way = shown(&changed);
    assert_eq!(way["qos_policy_id"], shared);
    let port = &shown(&before["router"])["external_fixed_ips"];
    assert_eq!(&way["external_fixed_ips"], port, "the same gateway");
    // Left out it stays, null takes it off.
    let changed = put("a", info(json!({}))).await;
    assert_eq!(shown(&changed)["qos_policy_id"], shared);
    let changed = put("a", info(json!({"qos_policy_id": null}))).await;
    assert!(shown(&changed).get("qos_policy_id").is_none());
    put("admin", info(json!({"qos_policy_id": hidden}))).await;
    let off = json!({"router": info(json!({"qos_policy_id": null}))});
    cloud
        .refused("a", "PUT", &router, off, 403, "PolicyNotAuthorized")
        .await;
    // It goes with the gateway.
    put("a", json!({"external_gateway_info": null})).await;
    cloud.gone("admin", &format!("{POLICIES}/{hidden}")).await;
    let changed = put("a", info(json!({}))).await;
    assert!(shown(&changed).get("qos_policy_id").is_none());
    // A new router has one at once.
    let body = with(json!({"name": "q"}), info(json!({"qos_policy_id": shared})));
    let made = cloud.made("a", outside::ROUTERS, "router", body).await;
    assert_eq!(shown(&made)["qos_policy_id"], shared);
    world.balance();
}

#[tokio::test]
async fn a_policy_that_passes_traffic_outside_stays_and_stays_shared() {
    let world = World::new().await;
    let cloud = &world.cloud;
    for kind in ["floatingip", "router"] {
        let policy = cloud.policy(json!({})).await;
        let grant = cloud.grant("admin", "qos_policy", &policy, A).await;
        let (user, off) = if kind == "floatingip" {
            let made = world.floating("a", json!({"qos_policy_id": policy})).await;
            (path(&made), json!({"qos_policy_id": null}))
        } else {
            let way = |policy: Value| {
                json!({"external_gateway_info":
                    {"network_id": world.public, "qos_policy_id": policy}})
            };
            let router = world.router_path();
            world.put("a", &router, kind, way(json!(policy))).await;
            (router, way(Value::Null))
        };
        let at = format!("{POLICIES}/{policy}");
        let (status, answer) = cloud.ask("admin", "DELETE", &at, Value::Null).await;
        let error = &answer["NeutronError"];
        assert_eq!((status, &error["type"]), (409, &json!("QosPolicyInUse")));
        let named = user.rsplit('/').next().unwrap();
        let message = error["message"].as_str().unwrap();
        assert!(
            message.contains(kind) && message.contains(named),
            "{message}"
        );
        let grants = format!("/v2.0/rbac-policies/{grant}");
        cloud
            .refused(
                "admin",
                "DELETE",
                &grants,
                Value::Null,
                409,
                "RbacPolicyInUse",
            )
            .await;
        // Shared with all it may not lose that while it is used and the grant is gone.
        let share = |shared: bool| json!({"policy": {"shared": shared}});
        assert_eq!(cloud.ask("admin", "PUT", &at, share(true)).await.0, 200);
        cloud.gone("admin", &grants).await;
        cloud
            .refused("admin", "PUT", &at, share(false), 409, "QosPolicyInUse")
            .await;
        world.put("a", &user, kind, off).await;
        cloud.gone("admin", &at).await;
    }
}
