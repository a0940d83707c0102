//! Address groups, as a client sees them.

use super::*;

const GROUPS: &str = "/v2.0/address-groups";

impl Cloud {
    async fn address_group(&self, who: &str, addresses: Value) -> Value {
        let body = json!({"name": "ag", "addresses": addresses});
        self.made(who, GROUPS, "address_group", body).await
    }
}

fn body(addresses: &Value) -> Value {
    json!({"address_group": {"addresses": addresses}})
}

/// What an action is given: bare, as the clients send it.
fn given(addresses: &Value) -> Value {
    json!({"addresses": addresses})
}

#[tokio::test]
async fn address_groups_have_neutrons_shape() {
    let cloud = Cloud::new().await;
    let group = cloud
        .address_group(
            "a",
            json!(["10.2.3.4/16", "10.1.1.1", "10.1.1.1/32", "fd00::1"]),
        )
        .await;
    for (field, value) in [
        ("name", json!("ag")),
        ("description", json!("")),
        ("project_id", json!(A)),
        ("shared", json!(false)),
        ("revision_number", json!(1)),
        (
            "addresses",
            json!(["10.1.1.1/32", "10.2.0.0/16", "fd00::1/128"]),
        ),
    ] {
        assert_eq!(group[field], value, "{field}");
    }
    let path = format!("{GROUPS}/{}", id(&group));
    for method in ["GET", "DELETE"] {
        cloud
            .refused("b", method, &path, Value::Null, 404, "AddressGroupNotFound")
            .await;
    }
    for (addresses, kind) in [
        (json!("10.0.0.1"), "HTTPBadRequest"),
        (json!(["x"]), "HTTPBadRequest"),
        (json!([7]), "HTTPBadRequest"),
    ] {
        cloud
            .refused("a", "POST", GROUPS, body(&addresses), 400, kind)
            .await;
    }
    // Addresses change by the actions alone.
    cloud
        .refused("a", "PUT", &path, body(&json!([])), 400, "HTTPBadRequest")
        .await;
    let rename = json!({"address_group": {"name": "other", "description": "d"}});
    let (status, renamed) = cloud.ask("a", "PUT", &path, rename).await;
    assert_eq!(
        (status, &renamed["address_group"]["name"]),
        (200, &json!("other"))
    );
    let empty = cloud.made("a", GROUPS, "address_group", json!({})).await;
    assert_eq!(empty["addresses"], json!([]));
}

#[tokio::test]
async fn addresses_come_and_go_by_actions() {
    let cloud = Cloud::new().await;
    let group = id(&cloud.address_group("a", json!(["10.0.0.0/8"])).await);
    let add = format!("{GROUPS}/{group}/add_addresses");
    let remove = format!("{GROUPS}/{group}/remove_addresses");
    let (status, answer) = cloud
        .ask("a", "PUT", &add, given(&json!(["fd00::/8", "10.1.0.1"])))
        .await;
    assert_eq!(status, 200, "{answer}");
    let shown = &answer["address_group"];
    assert_eq!(
        shown["addresses"],
        json!(["10.0.0.0/8", "10.1.0.1/32", "fd00::/8"])
    );
    assert_eq!(shown["revision_number"], 2);
    cloud
        .refused(
            "a",
            "PUT",
            &add,
            given(&json!(["10.2.0.0/16", "fd00::1/8"])),
            400,
            "AddressesAlreadyExist",
        )
        .await;
    cloud
        .refused(
            "a",
            "PUT",
            &remove,
            given(&json!(["10.1.0.1", "10.9.0.0/16"])),
            404,
            "AddressesNotFound",
        )
        .await;
    let (status, answer) = cloud
        .ask("a", "PUT", &remove, given(&json!(["10.1.0.1"])))
        .await;
    assert_eq!(status, 200, "{answer}");
    assert_eq!(
        answer["address_group"]["addresses"],
        json!(["10.0.0.0/8", "fd00::/8"])
    );
    for path in [&add, &remove] {
        cloud
            .refused(
                "b",
                "PUT",
                path,
                given(&json!([])),
                404,
                "AddressGroupNotFound",
            )
            .await;
        cloud
            .refused(
                "r",
                "PUT",
                path,
                given(&json!([])),
                403,
                "PolicyNotAuthorized",
            )
            .await;
    }
    let many: Vec<String> = (0..4095_u32)
        .map(|n| std::net::Ipv4Addr::from_bits(0x0b00_0000 + n).to_string())
        .collect();
    cloud
        .refused("a", "PUT", &add, given(&json!(many)), 400, "InvalidInput")
        .await;
}

#[tokio::test]
async fn a_rule_may_name_an_address_group() {
    let cloud = Cloud::new().await;
    let (_, groups) = cloud.get("a", "/v2.0/security-groups").await;
    let security_group = groups["security_groups"][0]["id"].clone();
    let group = id(&cloud.address_group("a", json!(["10.0.0.0/8"])).await);
    let foreign = id(&cloud.address_group("b", json!([])).await);
    let path = "/v2.0/security-group-rules";
    let rule = |more: Value| {
        let base = json!({
            "security_group_id": security_group, "direction": "ingress", "protocol": "udp",
            "remote_address_group_id": group,
        });
        json!({"security_group_rule": with(base, more)})
    };
    let (status, made) = cloud.ask("a", "POST", path, rule(json!({}))).await;
    assert_eq!(status, 201, "{made}");
    let made = &made["security_group_rule"];
    assert_eq!(made["remote_address_group_id"], group);
    assert_eq!(made["remote_group_id"], Value::Null);
    for (more, status, kind) in [
        (json!({}), 409, "SecurityGroupRuleExists"),
        (
            json!({"remote_address_group_id": MISSING}),
            404,
            "AddressGroupNotFound",
        ),
        (
            json!({"remote_address_group_id": foreign}),
            404,
            "AddressGroupNotFound",
        ),
        (
            json!({"remote_ip_prefix": "10.0.0.0/8"}),
            400,
            "SecurityGroupMultipleRemoteEntites",
        ),
        (
            json!({"remote_group_id": security_group}),
            400,
            "SecurityGroupMultipleRemoteEntites",
        ),
    ] {
        cloud
            .refused("a", "POST", path, rule(more), status, kind)
            .await;
    }
    let group_path = format!("{GROUPS}/{group}");
    cloud
        .refused(
            "a",
            "DELETE",
            &group_path,
            Value::Null,
            409,
            "AddressGroupInUse",
        )
        .await;
    let rule_path = format!("{path}/{}", id(made));
    assert_eq!(
        cloud.ask("a", "DELETE", &rule_path, Value::Null).await.0,
        204
    );
    assert_eq!(
        cloud.ask("a", "DELETE", &group_path, Value::Null).await.0,
        204
    );
}
