//! Grants of one project's objects to another, as clients see them.

use super::*;

const GRANTS: &str = "/v2.0/rbac-policies";

fn body(kind: &str, object: &str, target: &str) -> Value {
    json!({"object_type": kind, "object_id": object, "action": "access_as_shared", "target_tenant": target})
}

impl Cloud {
    pub(super) async fn grant(&self, who: &str, kind: &str, object: &str, target: &str) -> String {
        let grant = body(kind, object, target);
        id(&self.made(who, GRANTS, "rbac_policy", grant).await)
    }

    pub(super) async fn gone(&self, who: &str, path: &str) {
        assert_eq!(self.ask(who, "DELETE", path, Value::Null).await.0, 204);
    }
}

#[tokio::test]
async fn grants_have_neutrons_shape_and_refusals() {
    let cloud = Cloud::new().await;
    let network = cloud.network("a").await;
    let (_, shown) = cloud
        .ask(
            "a",
            "POST",
            GRANTS,
            json!({"rbac_policy": body("network", &network, B)}),
        )
        .await;
    let grant = &shown["rbac_policy"];
    let path = format!("{GRANTS}/{}", id(grant));
    assert_eq!(
        *grant,
        json!({
            "id": grant["id"], "project_id": A, "tenant_id": A, "object_type": "network",
            "object_id": network, "action": "access_as_shared", "target_tenant": B,
        })
    );
    assert_eq!(cloud.get("a", &path).await.1["rbac_policy"], *grant);
    let (_, list) = cloud
        .get(
            "a",
            &format!("{GRANTS}?target_tenant={B}&object_type=network"),
        )
        .await;
    assert_eq!(list["rbac_policies"], json!([grant]));
    for method in ["GET", "DELETE"] {
        cloud
            .refused("b", method, &path, Value::Null, 404, "RbacPolicyNotFound")
            .await;
    }
    let of_b = cloud.network("b").await;
    for (who, grant, status, kind) in [
        (
            "a",
            body("network", &network, B),
            409,
            "DuplicateRbacPolicy",
        ),
        (
            "a",
            body("network", &network, "*"),
            403,
            "PolicyNotAuthorized",
        ),
        ("a", body("network", &network, ""), 400, "HTTPBadRequest"),
        ("a", body("router", &network, B), 400, "HTTPBadRequest"),
        ("a", body("network", MISSING, B), 404, "NetworkNotFound"),
        ("a", body("network", &of_b, A), 404, "NetworkNotFound"),
        (
            "a",
            body("security_group", &network, B),
            404,
            "SecurityGroupNotFound",
        ),
        // It sees the network, but does not own it.
        ("b", body("network", &network, ADMIN), 400, "InvalidInput"),
        (
            "r",
            body("network", &network, ADMIN),
            403,
            "PolicyNotAuthorized",
        ),
    ] {
        let asked = json!({"rbac_policy": grant});
        cloud
            .refused(who, "POST", GRANTS, asked, status, kind)
            .await;
    }
    let everybody = json!({"rbac_policy": {"target_tenant": "*"}});
    cloud
        .refused("a", "PUT", &path, everybody, 403, "PolicyNotAuthorized")
        .await;
    let moved = json!({"rbac_policy": {"object_id": of_b}});
    cloud
        .refused("a", "PUT", &path, moved, 400, "HTTPBadRequest")
        .await;
    // It goes with its object.
    cloud.gone("a", &format!("/v2.0/networks/{network}")).await;
    assert_eq!(cloud.get("a", &path).await.0, 404);
}

#[tokio::test]
async fn a_granted_network_is_seen_and_used_by_the_target_alone() {
    let cloud = Cloud::new().await;
    let network = cloud.network("a").await;
    let path = format!("/v2.0/networks/{network}");
    let subnet = id(&cloud.subnet("a", &network, "10.0.0.0/24").await);
    let on_it = json!({"network_id": network});
    let port = json!({"port": on_it});
    cloud
        .refused("b", "POST", "/v2.0/ports", port, 404, "NetworkNotFound")
        .await;
    let grant = cloud.grant("a", "network", &network, B).await;
    let (status, seen) = cloud.get("b", &path).await;
    assert_eq!((status, &seen["network"]["shared"]), (200, &json!(true)));
    let (_, own) = cloud.get("a", &path).await;
    assert_eq!(own["network"]["shared"], json!(false));
    for (list, path, object) in [
        ("networks", "/v2.0/networks?shared=true", &network),
        ("subnets", "/v2.0/subnets", &subnet),
    ] {
        let (_, rows) = cloud.get("b", path).await;
        assert_eq!(rows[list][0]["id"], json!(object), "{rows}");
        assert_eq!(rows[list].as_array().unwrap().len(), 1);
    }
    let rename = json!({"network": {"name": "x"}});
    cloud
        .refused("b", "PUT", &path, rename, 403, "PolicyNotAuthorized")
        .await;
    let port = id(&cloud.port("b", on_it).await);
    // Who uses it does not lose it.
    let grant = format!("{GRANTS}/{grant}");
    cloud
        .refused("a", "DELETE", &grant, Value::Null, 409, "RbacPolicyInUse")
        .await;
    let other = json!({"rbac_policy": {"target_tenant": ADMIN}});
    cloud
        .refused("a", "PUT", &grant, other.clone(), 409, "RbacPolicyInUse")
        .await;
    // What is shared with all may be so no more, for the user has a grant of its own.
    let share = |shared: bool| json!({"network": {"shared": shared}});
    for shared in [true, false] {
        let (status, answer) = cloud.ask("admin", "PUT", &path, share(shared)).await;
        assert_eq!(status, 200, "{answer}");
    }
    cloud.gone("b", &format!("/v2.0/ports/{port}")).await;
    assert_eq!(cloud.ask("a", "PUT", &grant, other).await.0, 200);
    assert_eq!(cloud.get("b", &path).await.0, 404);
    let (_, rows) = cloud.get("b", "/v2.0/subnets").await;
    assert_eq!(rows["subnets"], json!([]));
    cloud.gone("a", &grant).await;
}

#[tokio::test]
async fn what_a_network_says_of_itself_and_the_grant_to_all_are_one() {
    let cloud = Cloud::new().await;
    let shared = json!({"name": "s", "shared": true});
    let network = id(&cloud
        .made("admin", "/v2.0/networks", "network", shared)
        .await);
    let path = format!("/v2.0/networks/{network}");
    let of_it = format!("{GRANTS}?object_id={network}");
    let (_, grants) = cloud.get("admin", &of_it).await;
    let grants = grants["rbac_policies"].as_array().unwrap().clone();
    assert_eq!(grants.len(), 1);
    assert_eq!(grants[0]["target_tenant"], json!("*"));
    let port = id(&cloud.port("b", json!({"network_id": network})).await);
    let grant = format!("{GRANTS}/{}", id(&grants[0]));
    cloud
        .refused(
            "admin",
            "DELETE",
            &grant,
            Value::Null,
            409,
            "RbacPolicyInUse",
        )
        .await;
    cloud.gone("b", &format!("/v2.0/ports/{port}")).await;
    cloud.gone("admin", &grant).await;
    let (_, own) = cloud.get("admin", &path).await;
    assert_eq!(own["network"]["shared"], json!(false));
    assert_eq!(cloud.get("b", &path).await.0, 404);
    let again = cloud.grant("admin", "network", &network, "*").await;
    let (_, seen) = cloud.get("b", &path).await;
    assert_eq!(seen["network"]["shared"], json!(true));
    let unshare = json!({"network": {"shared": false}});
    assert_eq!(cloud.ask("admin", "PUT", &path, unshare).await.0, 200);
    let again = format!("{GRANTS}/{again}");
    assert_eq!(cloud.get("admin", &again).await.0, 404);
    assert_eq!(cloud.get("b", &path).await.0, 404);
}

#[tokio::test]
async fn groups_are_shared_for_ports_and_rules() {
    let cloud = Cloud::new().await;
    for target in [B, "*"] {
        let group = json!({"name": "theirs"});
        let group = cloud.made("a", "/v2.0/security-groups", "security_group", group);
        let group = id(&group.await);
        let addresses = json!({"name": "ag", "addresses": ["10.0.0.0/8"]});
        let addresses = cloud.made("a", "/v2.0/address-groups", "address_group", addresses);
        let addresses = id(&addresses.await);
        let network = cloud.network("b").await;
        let own = cloud.made(
            "b",
            "/v2.0/security-groups",
            "security_group",
            json!({"name": "own"}),
        );
        let own = id(&own.await);
        let port = json!({"network_id": network, "security_groups": [group]});
        let rule = |remote: &str, with: &str| json!({"security_group_id": own, "direction": "ingress", remote: with});
        let tries = [
            ("ports", "port", port, "SecurityGroupNotFound"),
            (
                "security-group-rules",
                "security_group_rule",
                rule("remote_group_id", &group),
                "SecurityGroupNotFound",
            ),
            (
                "security-group-rules",
                "security_group_rule",
                rule("remote_address_group_id", &addresses),
                "AddressGroupNotFound",
            ),
        ];
        for (path, key, body, kind) in &tries {
            let path = format!("/v2.0/{path}");
            cloud
                .refused("b", "POST", &path, json!({*key: body}), 404, kind)
                .await;
        }
        let by = if target == "*" { "admin" } else { "a" };
        let grants = [
            cloud.grant(by, "security_group", &group, target).await,
            cloud.grant(by, "address_group", &addresses, target).await,
        ];
        let one = format!("/v2.0/security-groups/{group}");
        let (_, seen) = cloud.get("b", &one).await;
        assert_eq!(seen["security_group"]["shared"], json!(true));
        for (path, key, object) in [
            ("/v2.0/security-groups", "security_groups", &group),
            ("/v2.0/address-groups", "address_groups", &addresses),
        ] {
            let (_, list) = cloud.get("b", path).await;
            let rows = list[key].as_array().unwrap();
            assert!(rows.iter().any(|row| row["id"] == json!(object)), "{list}");
        }
        let mut made = vec![];
        for (path, key, body, _) in tries {
            let object = cloud.made("b", &format!("/v2.0/{path}"), key, body).await;
            made.push(format!("/v2.0/{path}/{}", id(&object)));
        }
        cloud
            .refused("b", "DELETE", &one, Value::Null, 403, "PolicyNotAuthorized")
            .await;
        for grant in &grants {
            let grant = format!("{GRANTS}/{grant}");
            cloud
                .refused(by, "DELETE", &grant, Value::Null, 409, "RbacPolicyInUse")
                .await;
        }
        for path in made {
            cloud.gone("b", &path).await;
        }
        for grant in &grants {
            cloud.gone(by, &format!("{GRANTS}/{grant}")).await;
        }
        assert_eq!(cloud.get("b", &one).await.0, 404);
        let (_, list) = cloud.get("b", "/v2.0/address-groups").await;
        assert_eq!(list["address_groups"], json!([]));
        cloud.gone("a", &one).await;
    }
}
