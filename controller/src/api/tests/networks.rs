//! Networks, as a client sees them.

use super::*;

#[tokio::test]
async fn networks_have_neutrons_shape_and_policies() {
    let cloud = Cloud::new().await;
    let network = cloud
        .made("a", "/v2.0/networks", "network", json!({"name": "gn1"}))
        .await;
    for (field, value) in [
        ("name", json!("gn1")),
        ("tenant_id", json!(A)),
        ("project_id", json!(A)),
        ("admin_state_up", json!(true)),
        ("mtu", json!(1450)),
        ("status", json!("ACTIVE")),
        ("subnets", json!([])),
        ("shared", json!(false)),
        ("port_security_enabled", json!(true)),
        ("router:external", json!(false)),
        ("description", json!("")),
        ("revision_number", json!(1)),
        ("tags", json!([])),
    ] {
        assert_eq!(network[field], value, "{field}");
    }
    assert!(network.get("provider:segmentation_id").is_none());
    let path = format!("/v2.0/networks/{}", id(&network));
    let (_, shown) = cloud.get("admin", &path).await;
    assert_eq!(shown["network"]["provider:network_type"], "vxlan");
    assert_eq!(shown["network"]["provider:segmentation_id"], 1);
    let (_, shown) = cloud
        .get("a", &format!("{path}?fields=id&fields=name"))
        .await;
    assert_eq!(
        shown,
        json!({"network": {"id": network["id"], "name": "gn1"}})
    );
    let (_, shown) = cloud.get("a", &format!("{path}?fields=bogus")).await;
    assert_eq!(shown, json!({"network": {}}));
    assert_eq!(cloud.get("r", &path).await.0, 200);
    let body = || json!({"network": {"name": "x"}});
    cloud
        .refused("b", "GET", &path, Value::Null, 404, "NetworkNotFound")
        .await;
    cloud
        .refused("b", "PUT", &path, body(), 404, "NetworkNotFound")
        .await;
    cloud
        .refused("b", "DELETE", &path, Value::Null, 404, "NetworkNotFound")
        .await;
    cloud
        .refused("r", "PUT", &path, body(), 403, "PolicyNotAuthorized")
        .await;
    cloud
        .refused(
            "r",
            "DELETE",
            &path,
            Value::Null,
            403,
            "PolicyNotAuthorized",
        )
        .await;
    cloud
        .refused(
            "r",
            "POST",
            "/v2.0/networks",
            body(),
            403,
            "PolicyNotAuthorized",
        )
        .await;
    let (status, body) = cloud
        .ask(
            "a",
            "PUT",
            &path,
            json!({"network": {"name": "gn1b", "description": "d"}}),
        )
        .await;
    assert_eq!(
        (status, &body["network"]["revision_number"]),
        (200, &json!(2))
    );
    let (_, body) = cloud.ask("a", "PUT", &path, json!({"network": {}})).await;
    assert_eq!(body["network"]["revision_number"], 2);
    assert_eq!(cloud.ask("a", "DELETE", &path, Value::Null).await.0, 204);
    cloud
        .refused("a", "GET", &path, Value::Null, 404, "NetworkNotFound")
        .await;
}

#[tokio::test]
async fn a_known_underlay_bounds_the_mtu() {
    let facts = Facts {
        underlay_mtu: Some(1600),
        ..Facts::default()
    };
    let cloud = Cloud::with(facts).await;
    let network = cloud
        .made("a", "/v2.0/networks", "network", json!({}))
        .await;
    assert_eq!(network["mtu"], 1506);
    let body = json!({"network": {"mtu": 1507}});
    cloud
        .refused("a", "POST", "/v2.0/networks", body, 400, "InvalidInput")
        .await;
    let cloud = Cloud::new().await;
    let network = cloud
        .made("a", "/v2.0/networks", "network", json!({"mtu": 9000}))
        .await;
    assert_eq!(network["mtu"], 9000);
}

#[tokio::test]
async fn shared_networks_are_seen_and_used_but_not_changed() {
    let cloud = Cloud::new().await;
    let body = json!({"name": "s", "shared": true});
    let network = id(&cloud.made("admin", "/v2.0/networks", "network", body).await);
    let path = format!("/v2.0/networks/{network}");
    assert_eq!(cloud.get("a", &path).await.0, 200);
    let (_, list) = cloud.get("b", "/v2.0/networks").await;
    assert_eq!(names(&list["networks"]), ["s"]);
    let rename = json!({"network": {"name": "x"}});
    cloud
        .refused("a", "PUT", &path, rename, 403, "PolicyNotAuthorized")
        .await;
    let subnet = json!({"subnet": {"network_id": network, "ip_version": 4, "cidr": "10.0.0.0/24"}});
    cloud
        .refused(
            "a",
            "POST",
            "/v2.0/subnets",
            subnet,
            403,
            "PolicyNotAuthorized",
        )
        .await;
    let port = cloud.port("a", json!({"network_id": network})).await;
    let own = cloud.subnet("admin", &network, "10.0.0.0/24").await;
    let (_, list) = cloud.get("a", "/v2.0/subnets").await;
    assert_eq!(list["subnets"][0]["id"], own["id"]);
    let unshare = json!({"network": {"shared": false}});
    cloud
        .refused(
            "admin",
            "PUT",
            &path,
            unshare.clone(),
            409,
            "InvalidSharedSetting",
        )
        .await;
    cloud
        .refused("admin", "DELETE", &path, Value::Null, 409, "NetworkInUse")
        .await;
    let path_of_port = format!("/v2.0/ports/{}", id(&port));
    assert_eq!(
        cloud.ask("a", "DELETE", &path_of_port, Value::Null).await.0,
        204
    );
    assert_eq!(cloud.ask("admin", "PUT", &path, unshare).await.0, 200);
    assert_eq!(cloud.get("a", &path).await.0, 404);
    assert_eq!(
        cloud.get("a", "/v2.0/subnets").await.1["subnets"],
        json!([])
    );
    let share = json!({"network": {"shared": true}});
    assert_eq!(cloud.ask("admin", "PUT", &path, share).await.0, 200);
    let (_, list) = cloud.get("b", "/v2.0/subnets").await;
    assert_eq!(list["subnets"][0]["id"], own["id"]);
}
