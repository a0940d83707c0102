//! Networks that a project gets when it asks.

use super::*;
use crate::{rules::tests::balance, store::View};

const FAILS: &str = "AutoAllocationFailure";

fn path(project: &str) -> String {
    format!("/v2.0/auto-allocated-topology/{project}")
}

async fn count(cloud: &Cloud, who: &str, plural: &str) -> usize {
    let (_, list) = cloud
        .get(who, &format!("/v2.0/{plural}?project_id={A}"))
        .await;
    list[plural].as_array().unwrap().len()
}

#[tokio::test]
async fn a_project_gets_a_network_that_leads_outside_once() {
    let cloud = Cloud::new().await;
    let own = path(A);
    let dry = format!("{own}?fields=dry-run");
    for ask in [&own, &dry] {
        cloud
            .refused("a", "GET", ask, Value::Null, 409, FAILS)
            .await;
    }
    let (external, _) = cloud.external("203.0.113.0/24").await;
    let body = json!({"network": {"is_default": true}});
    let one = format!("/v2.0/networks/{external}");
    cloud.ask("admin", "PUT", &one, body).await;
    for ask in [&own, &dry] {
        cloud
            .refused("a", "GET", ask, Value::Null, 409, FAILS)
            .await;
    }
    for (name, prefix, length) in [("v4", "10.200.0.0/16", 26), ("v6", "fd20::/48", 64)] {
        let body = json!({
            "name": name, "prefixes": [prefix], "is_default": true, "shared": true, "default_prefixlen": length,
        });
        cloud
            .made("admin", "/v2.0/subnetpools", "subnetpool", body)
            .await;
    }
    let (status, passed) = cloud.get("a", &dry).await;
    let topology = &passed["auto_allocated_topology"];
    assert_eq!((status, &topology["id"]), (200, &json!("dry-run=pass")));
    assert_eq!(count(&cloud, "a", "networks").await, 0);
    cloud
        .refused("r", "GET", &own, Value::Null, 403, "PolicyNotAuthorized")
        .await;
    for who in ["b", "r"] {
        cloud
            .refused(who, "DELETE", &own, Value::Null, 403, "PolicyNotAuthorized")
            .await;
    }
    cloud
        .refused("b", "GET", &own, Value::Null, 403, "PolicyNotAuthorized")
        .await;
    let (status, made) = cloud.get("a", &own).await;
    let network = made["auto_allocated_topology"]["id"].as_str().unwrap();
    let expected = json!({"id": network, "tenant_id": A, "project_id": A});
    assert_eq!((status, &made["auto_allocated_topology"]), (200, &expected));
    // Asked again, by another way or by another user, it is the same.
    for (who, path) in [
        ("a", path("None")),
        ("r", own.clone()),
        ("admin", own.clone()),
    ] {
        assert_eq!(cloud.get(who, &path).await, (200, made.clone()), "{who}");
    }
    let (_, shown) = cloud.get("a", &format!("/v2.0/networks/{network}")).await;
    let shown = &shown["network"];
    assert_eq!(
        (
            &shown["name"],
            &shown["project_id"],
            &shown["admin_state_up"]
        ),
        (&json!("auto_allocated_network"), &json!(A), &json!(true))
    );
    assert_eq!(shown["subnets"].as_array().unwrap().len(), 2);
    let (_, routers) = cloud.get("a", "/v2.0/routers").await;
    let router = &routers["routers"][0];
    assert_eq!(
        router["external_gateway_info"]["network_id"],
        json!(external)
    );
    let query = format!("/v2.0/ports?device_id={}&network_id={network}", id(router));
    let (_, ports) = cloud.get("a", &query).await;
    assert_eq!(ports["ports"].as_array().unwrap().len(), 2);
    // What is used stays, all of it.
    let port = cloud.port("a", json!({"network_id": network})).await;
    assert_eq!(port["fixed_ips"].as_array().unwrap().len(), 2);
    cloud
        .refused("a", "DELETE", &own, Value::Null, 409, "NetworkInUse")
        .await;
    assert_eq!(count(&cloud, "a", "routers").await, 1);
    cloud
        .ask(
            "a",
            "DELETE",
            &format!("/v2.0/ports/{}", id(&port)),
            Value::Null,
        )
        .await;
    for _ in 0..2 {
        assert_eq!(cloud.ask("a", "DELETE", &own, Value::Null).await.0, 204);
        for plural in ["networks", "routers", "subnets", "ports"] {
            assert_eq!(count(&cloud, "a", plural).await, 0, "{plural}");
        }
    }
    // And once more; what a user took away in between is made anew.
    let (_, again) = cloud.get("a", &own).await;
    assert_ne!(again, made);
    let view = View::of(&cloud.api.core.store.snapshot());
    balance(&view, A);
}

#[tokio::test]
async fn a_quota_that_is_too_small_leaves_nothing_behind() {
    let cloud = Cloud::new().await;
    let (external, _) = cloud.external("203.0.113.0/24").await;
    let one = format!("/v2.0/networks/{external}");
    cloud
        .ask(
            "admin",
            "PUT",
            &one,
            json!({"network": {"is_default": true}}),
        )
        .await;
    let body =
        json!({"name": "v4", "prefixes": ["10.200.0.0/16"], "is_default": true, "shared": true});
    cloud
        .made("admin", "/v2.0/subnetpools", "subnetpool", body)
        .await;
    let quota = json!({"quota": {"router": 0}});
    cloud
        .ask("admin", "PUT", &format!("/v2.0/quotas/{A}"), quota)
        .await;
    cloud
        .refused("a", "GET", &path(A), Value::Null, 409, "OverQuota")
        .await;
    assert_eq!(count(&cloud, "a", "networks").await, 0);
    let bad = format!("{}?fields=bogus", path(A));
    cloud
        .refused("a", "GET", &bad, Value::Null, 400, "BadRequest")
        .await;
    assert_eq!(cloud.get("", &path(A)).await.0, 401);
}
