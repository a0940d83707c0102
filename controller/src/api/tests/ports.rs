//! Ports, as a client sees them.

use super::*;

#[tokio::test]
async fn ports_get_addresses_in_all_request_forms() {
    let cloud = Cloud::new().await;
    let network = cloud.network("a").await;
    let pools = json!([{"start": "10.20.0.100", "end": "10.20.0.199"}]);
    let body = json!({"network_id": network, "ip_version": 4, "cidr": "10.20.0.0/24", "allocation_pools": pools});
    let v4 = id(&cloud.made("a", "/v2.0/subnets", "subnet", body).await);
    let early = cloud.port("a", json!({"network_id": network})).await;
    let body = json!({"network_id": network, "ip_version": 6, "cidr": "fd00:20::/64", "ipv6_ra_mode": "slaac", "ipv6_address_mode": "slaac"});
    let v6 = id(&cloud.made("a", "/v2.0/subnets", "subnet", body).await);
    let (_, shown) = cloud.get("a", &format!("/v2.0/ports/{}", id(&early))).await;
    assert_eq!(
        shown["port"]["fixed_ips"].as_array().unwrap().len(),
        2,
        "{shown}"
    );

    let mac = "fa:16:3e:00:aa:01";
    let port = cloud.port("a", json!({"network_id": network, "mac_address": mac, "fixed_ips": [{"ip_address": "10.20.0.50"}]})).await;
    assert_eq!(
        port["fixed_ips"],
        json!([
            {"subnet_id": v4, "ip_address": "10.20.0.50"},
            {"subnet_id": v6, "ip_address": "fd00:20::f816:3eff:fe00:aa01"},
        ])
    );
    for (field, value) in [
        ("status", json!("DOWN")),
        ("device_id", json!("")),
        ("device_owner", json!("")),
        ("port_security_enabled", json!(true)),
        ("allowed_address_pairs", json!([])),
        ("binding:vnic_type", json!("normal")),
        ("tenant_id", json!(A)),
    ] {
        assert_eq!(port[field], value, "{field}");
    }
    assert!(port.get("binding:host_id").is_none());
    let none = cloud
        .port("a", json!({"network_id": network, "fixed_ips": []}))
        .await;
    assert_eq!(
        none["fixed_ips"].as_array().unwrap().len(),
        1,
        "the automatic one"
    );
    let two = json!([{"subnet_id": v4, "ip_address": "10.20.0.60"}, {"subnet_id": v4}]);
    let port = cloud
        .port("a", json!({"network_id": network, "fixed_ips": two}))
        .await;
    assert_eq!(port["fixed_ips"][0]["ip_address"], "10.20.0.60");
    assert_eq!(port["fixed_ips"][1]["ip_address"], "10.20.0.101");
    cloud
        .port(
            "a",
            json!({"network_id": network, "fixed_ips": [{"ip_address": "10.20.0.1"}]}),
        )
        .await;

    let on = |extra: Value| json!({"port": with(json!({"network_id": network}), extra)});
    for (body, status, kind) in [
        (
            on(json!({"fixed_ips": [{"subnet_id": v6, "ip_address": "fd00:20::5"}]})),
            400,
            "AllocationOnAutoAddressSubnet",
        ),
        (
            on(json!({"fixed_ips": [{"ip_address": "10.20.0.50"}]})),
            409,
            "IpAddressAlreadyAllocated",
        ),
        (
            on(json!({"fixed_ips": [{"ip_address": "10.99.0.50"}]})),
            400,
            "InvalidIpForNetwork",
        ),
        (
            on(json!({"fixed_ips": [{"subnet_id": v4, "ip_address": "10.99.0.50"}]})),
            400,
            "InvalidIpForSubnet",
        ),
        (
            on(json!({"fixed_ips": [{"subnet_id": v4, "ip_address": "10.20.0.255"}]})),
            400,
            "InvalidIpForSubnet",
        ),
        (
            on(json!({"fixed_ips": [{"subnet_id": v4, "ip_address": "10.20.0.0"}]})),
            400,
            "InvalidIpForSubnet",
        ),
        (
            on(json!({"fixed_ips": [{"ip_address": "10.20.0.500"}]})),
            400,
            "HTTPBadRequest",
        ),
        (
            on(json!({"fixed_ips": [{"subnet_id": MISSING}]})),
            404,
            "SubnetNotFound",
        ),
        (
            on(json!({"fixed_ips": [{"ip_address": "10.20.0.77"}, {"ip_address": "10.20.0.77"}]})),
            400,
            "HTTPBadRequest",
        ),
        (on(json!({"mac_address": mac})), 409, "MacAddressInUse"),
        (
            on(json!({"mac_address": "zz:16:3e:00:aa:01"})),
            400,
            "HTTPBadRequest",
        ),
        (json!({"port": {}}), 400, "HTTPBadRequest"),
        (
            json!({"port": {"network_id": MISSING}}),
            404,
            "NetworkNotFound",
        ),
        (
            json!({"port": {"network_id": "abc"}}),
            400,
            "HTTPBadRequest",
        ),
        (
            on(json!({"binding:host_id": "h1"})),
            403,
            "PolicyNotAuthorized",
        ),
    ] {
        cloud
            .refused("a", "POST", "/v2.0/ports", body, status, kind)
            .await;
    }
    cloud
        .refused(
            "b",
            "POST",
            "/v2.0/ports",
            on(json!({})),
            404,
            "NetworkNotFound",
        )
        .await;
    let path = format!("/v2.0/ports/{}", id(&port));
    let put = json!({"port": {"fixed_ips": [{"subnet_id": v4, "ip_address": "10.20.0.70"}]}});
    let (status, body) = cloud.ask("a", "PUT", &path, put).await;
    assert_eq!(
        (status, &body["port"]["fixed_ips"][0]["ip_address"]),
        (200, &json!("10.20.0.70"))
    );
    assert_eq!(
        body["port"]["fixed_ips"].as_array().unwrap().len(),
        2,
        "the automatic one stays"
    );
    let put = json!({"port": {"mac_address": "fa:16:3e:00:aa:0b"}});
    cloud
        .refused("a", "PUT", &path, put.clone(), 403, "PolicyNotAuthorized")
        .await;
    let (status, body) = cloud.ask("admin", "PUT", &path, put).await;
    assert_eq!(status, 200);
    assert_eq!(
        body["port"]["fixed_ips"][1]["ip_address"],
        "fd00:20::f816:3eff:fe00:aa0b"
    );
    // The freed addresses are free at once.
    cloud
        .port(
            "a",
            json!({"network_id": network, "fixed_ips": [{"ip_address": "10.20.0.60"}]}),
        )
        .await;
    for filter in [
        "fixed_ips=ip_address%3D10.20.0.50",
        "mac_address=FA:16:3E:00:AA:01",
    ] {
        let (_, list) = cloud.get("a", &format!("/v2.0/ports?{filter}")).await;
        assert_eq!(list["ports"].as_array().unwrap().len(), 1, "{filter}");
    }
    let subnet = format!("/v2.0/subnets/{v6}");
    assert_eq!(cloud.ask("a", "DELETE", &subnet, Value::Null).await.0, 204);
    let (_, shown) = cloud.get("a", &path).await;
    assert_eq!(shown["port"]["fixed_ips"].as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn each_way_to_get_an_ipv6_address_has_its_addresses() {
    let cloud = Cloud::new().await;
    let network = cloud.network("a").await;
    let mac = "fa:16:3e:00:aa:01";
    let made = cloud
        .port("a", json!({"network_id": network, "mac_address": mac}))
        .await;
    let port = format!("/v2.0/ports/{}", id(&made));
    let mut given = vec![];
    for (cidr, modes, own) in [
        // The router alone says it, the external router's subnet too, and both.
        (
            "fd00:1::/64",
            json!({"ipv6_ra_mode": "slaac"}),
            Some("fd00:1::f816:3eff:fe00:aa01"),
        ),
        (
            "fd00:2::/64",
            json!({"ipv6_address_mode": "dhcpv6-stateless"}),
            Some("fd00:2::f816:3eff:fe00:aa01"),
        ),
        (
            "fd00:3::/64",
            json!({"ipv6_ra_mode": "dhcpv6-stateless", "ipv6_address_mode": "dhcpv6-stateless"}),
            Some("fd00:3::f816:3eff:fe00:aa01"),
        ),
        // Those of a pool are given to who asks for them.
        (
            "fd00:4::/64",
            json!({"ipv6_ra_mode": "dhcpv6-stateful", "ipv6_address_mode": "dhcpv6-stateful"}),
            None,
        ),
    ] {
        let subnet = cloud.subnet_with(&network, cidr, modes).await;
        let wanted: Option<Value> =
            own.map(|addr| json!({"subnet_id": subnet["id"], "ip_address": addr}));
        given.extend(wanted.clone());
        let has = cloud.get("a", &port).await.1["port"]["fixed_ips"].clone();
        assert_eq!(has, json!(given), "{cidr}");
        if let Some(wanted) = wanted {
            // Nobody chooses such an address, not even that which it would get.
            let body = json!({"port": {"network_id": network, "mac_address": "fa:16:3e:00:aa:02", "fixed_ips": [{
                "subnet_id": subnet["id"],
                "ip_address": wanted["ip_address"].as_str().unwrap().replace("aa01", "aa02"),
            }]}});
            cloud
                .refused(
                    "a",
                    "POST",
                    "/v2.0/ports",
                    body,
                    400,
                    "AllocationOnAutoAddressSubnet",
                )
                .await;
        }
    }
    // What it has it may name.
    let put = json!({"port": {"fixed_ips": given}});
    let (status, body) = cloud.ask("a", "PUT", &port, put).await;
    assert_eq!((status, &body["port"]["fixed_ips"]), (200, &json!(given)));
    let pool = cloud.port("a", json!({"network_id": network})).await;
    let all = pool["fixed_ips"].as_array().unwrap();
    assert_eq!(all.len(), 4);
    assert_eq!(all[0]["ip_address"], "fd00:4::1");
}

#[tokio::test]
async fn bindings_are_an_admins_and_status_is_derived() {
    let cloud = Cloud::new().await;
    let network = cloud.network("a").await;
    let host = cloud
        .made(
            "admin",
            "/v2.0/overweave/hosts",
            "host",
            json!({"name": "h1"}),
        )
        .await;
    let body = json!({"network_id": network, "binding:host_id": "h1", "project_id": A, "device_owner": "compute:nova"});
    let port = cloud.port("admin", body).await;
    assert_eq!(port["binding:vif_type"], "tap");
    assert_eq!(port["status"], "DOWN");
    let status = &cloud.api.core.status;
    let (port_id, host_id): (Uuid, Uuid) = (id(&port).parse().unwrap(), id(&host).parse().unwrap());
    status.set_port(port_id, host_id, true);
    let path = format!("/v2.0/ports/{port_id}");
    assert_eq!(cloud.get("a", &path).await.1["port"]["status"], "ACTIVE");
    // What no switch attaches is bound, and nowhere: no host hears of it.
    for (kind, vif, state) in [
        ("direct", "binding_failed", "DOWN"),
        ("macvtap", "binding_failed", "DOWN"),
        ("normal", "tap", "ACTIVE"),
    ] {
        let body = json!({"port": {"binding:vnic_type": kind}});
        let (status, body) = cloud.ask("admin", "PUT", &path, body).await;
        let shown = &body["port"];
        assert_eq!(status, 200, "{body}");
        assert_eq!(shown["binding:vnic_type"], kind);
        assert_eq!(shown["binding:vif_type"], vif);
        assert_eq!(shown["binding:host_id"], "h1");
        assert_eq!(shown["status"], state);
        let stored = cloud.api.core.store.snapshot();
        let objects = crate::compile::view::objects(&stored, &Facts::default());
        let mut hosts = vec![];
        for object in &objects {
            if let crate::compile::intent::Object::Port(port) = object {
                hosts.push(port.host.is_some());
            }
        }
        assert_eq!(hosts, [kind == "normal"]);
    }
    let down = json!({"port": {"admin_state_up": false}});
    assert_eq!(
        cloud.ask("a", "PUT", &path, down).await.1["port"]["status"],
        "DOWN"
    );
    let profile = json!({"port": {"binding:profile": {"a": 1}}});
    cloud
        .refused(
            "admin",
            "PUT",
            &path,
            profile.clone(),
            403,
            "PolicyNotAuthorized",
        )
        .await;
    assert_eq!(cloud.ask("s", "PUT", &path, profile).await.0, 200);
    let failed = cloud
        .port(
            "admin",
            json!({"network_id": network, "binding:host_id": "nohost"}),
        )
        .await;
    assert_eq!(failed["binding:vif_type"], "binding_failed");
    cloud
        .refused(
            "a",
            "DELETE",
            &path,
            Value::Null,
            403,
            "PolicyNotAuthorized",
        )
        .await;
    let bad = json!({"port": {"network_id": network, "binding:vnic_type": "weird"}});
    cloud
        .refused("admin", "POST", "/v2.0/ports", bad, 400, "HTTPBadRequest")
        .await;
    let hosts = format!("/v2.0/overweave/hosts/{host_id}");
    cloud
        .refused("admin", "DELETE", &hosts, Value::Null, 409, "HostInUse")
        .await;
    let unbind = json!({"port": {"binding:host_id": null}});
    let (_, body) = cloud.ask("admin", "PUT", &path, unbind).await;
    assert_eq!(body["port"]["binding:vif_type"], "unbound");
    assert_eq!(
        cloud.ask("admin", "DELETE", &hosts, Value::Null).await.0,
        204
    );
}

#[tokio::test]
async fn port_security_moves_as_neutron_has_it() {
    let cloud = Cloud::new().await;
    let network = cloud.network("a").await;
    let port = cloud.port("a", json!({"network_id": network})).await;
    let group = port["security_groups"][0].clone();
    assert!(group.is_string());
    let path = format!("/v2.0/ports/{}", id(&port));
    let put = |body: Value| json!({"port": body});
    let pair = json!([{"ip_address": "10.20.0.201"}]);
    let (status, body) = cloud
        .ask(
            "a",
            "PUT",
            &path,
            put(json!({"allowed_address_pairs": pair})),
        )
        .await;
    assert_eq!(status, 200);
    assert_eq!(
        body["port"]["allowed_address_pairs"][0]["mac_address"],
        port["mac_address"]
    );
    let many: Vec<Value> = (0..11)
        .map(|n| json!({"ip_address": format!("10.0.0.{n}")}))
        .collect();
    for (body, status, kind) in [
        (
            json!({"allowed_address_pairs": [pair[0], pair[0]]}),
            400,
            "DuplicateAddressPairInRequest",
        ),
        (
            json!({"allowed_address_pairs": [{"ip_address": "nope"}]}),
            400,
            "HTTPBadRequest",
        ),
        (
            json!({"allowed_address_pairs": [{"mac_address": "fa:16:3e:00:aa:0c"}]}),
            400,
            "AllowedAddressPairsMissingIP",
        ),
        (
            json!({"allowed_address_pairs": [{"ip_address": "224.0.0.1"}]}),
            400,
            "HTTPBadRequest",
        ),
        (
            json!({"allowed_address_pairs": many}),
            400,
            "AllowedAddressPairExhausted",
        ),
        (
            json!({"port_security_enabled": false}),
            409,
            "AddressPairAndPortSecurityRequired",
        ),
        (
            json!({"port_security_enabled": false, "security_groups": []}),
            409,
            "AddressPairAndPortSecurityRequired",
        ),
        (
            json!({"port_security_enabled": false, "allowed_address_pairs": []}),
            409,
            "PortSecurityPortHasSecurityGroup",
        ),
        (
            json!({"security_groups": [MISSING]}),
            404,
            "SecurityGroupNotFound",
        ),
        (json!({"security_groups": ["x"]}), 400, "HTTPBadRequest"),
    ] {
        cloud
            .refused("a", "PUT", &path, put(body), status, kind)
            .await;
    }
    let off =
        json!({"port_security_enabled": false, "security_groups": [], "allowed_address_pairs": []});
    assert_eq!(cloud.ask("a", "PUT", &path, put(off)).await.0, 200);
    let groups = put(json!({"security_groups": [group]}));
    cloud
        .refused(
            "a",
            "PUT",
            &path,
            groups,
            400,
            "PortSecurityAndIPRequiredForSecurityGroups",
        )
        .await;
    let pairs = put(json!({"allowed_address_pairs": pair}));
    cloud
        .refused(
            "a",
            "PUT",
            &path,
            pairs,
            409,
            "AddressPairAndPortSecurityRequired",
        )
        .await;
    let on = put(json!({"port_security_enabled": true, "security_groups": [group]}));
    assert_eq!(cloud.ask("a", "PUT", &path, on).await.0, 200);
}

#[tokio::test]
async fn what_a_workload_hears_of_itself_is_its_owners_to_set_and_to_see() {
    let cloud = Cloud::new().await;
    let network = cloud.network("a").await;
    let told = json!({
        "instance_id": "i-1", "hostname": "web", "public_keys": {"me": "ssh-ed25519 AAAA"},
        "user_data": "I2Nsb3VkLWNvbmZpZwo=",
    });
    let with_metadata = json!({"network_id": network, "overweave:metadata": told});
    let port = cloud.port("a", with_metadata).await;
    assert_eq!(port["overweave:metadata"], told);
    let path = format!("/v2.0/ports/{}", id(&port));
    let (status, _) = cloud.get("b", &path).await;
    assert_eq!(
        status, 404,
        "another project sees no port, and nothing of it"
    );
    let (_, list) = cloud.get("b", "/v2.0/ports").await;
    assert!(!list.to_string().contains("I2Nsb3Vk"), "{list}");
    // In a list as by itself, and for whom nothing is set as nothing.
    let plain = cloud.port("a", json!({"network_id": network})).await;
    assert_eq!(plain["overweave:metadata"], Value::Null);
    let (_, list) = cloud
        .get("a", &format!("/v2.0/ports?id={}", id(&port)))
        .await;
    assert_eq!(list["ports"][0]["overweave:metadata"], told);
    // A whole one takes the place of a whole one; a wrong one changes nothing, and is not quoted.
    let set = |told: Value| json!({"port": {"overweave:metadata": told}});
    let (status, refused) = cloud
        .ask("a", "PUT", &path, set(json!({"user_data": "hush"})))
        .await;
    assert_eq!(status, 200, "four characters are base64: {refused}");
    let (status, refused) = cloud
        .ask("a", "PUT", &path, set(json!({"user_data": "hush!"})))
        .await;
    assert_eq!(status, 400, "{refused}");
    let said = refused.to_string();
    assert!(
        said.contains("overweave:metadata") && !said.contains("hush!"),
        "{said}"
    );
    let (_, shown) = cloud.get("a", &path).await;
    assert_eq!(
        shown["port"]["overweave:metadata"],
        json!({"user_data": "hush"})
    );
    let (_, shown) = cloud.ask("a", "PUT", &path, set(Value::Null)).await;
    assert_eq!(shown["port"]["overweave:metadata"], Value::Null);
}
