//! Subnets, as a client sees them.

use super::*;

#[tokio::test]
async fn subnets_default_as_neutrons_do() {
    let cloud = Cloud::new().await;
    let network = cloud.network("a").await;
    let subnet = cloud.subnet("a", &network, "10.1.0.0/24").await;
    assert_eq!(subnet["gateway_ip"], "10.1.0.1");
    assert_eq!(
        subnet["allocation_pools"],
        json!([{"start": "10.1.0.2", "end": "10.1.0.254"}])
    );
    assert_eq!(subnet["enable_dhcp"], true);
    let subnet = cloud.subnet("a", &network, "10.2.0.7/24").await;
    assert_eq!(subnet["cidr"], "10.2.0.0/24");
    let subnet = cloud.subnet("a", &network, "fd00:1::/64").await;
    assert_eq!(subnet["gateway_ip"], "fd00:1::");
    assert_eq!(subnet["allocation_pools"][0]["start"], "fd00:1::1");
    let none =
        json!({"network_id": network, "ip_version": 4, "cidr": "10.4.0.0/30", "gateway_ip": null});
    let subnet = cloud.made("a", "/v2.0/subnets", "subnet", none).await;
    assert_eq!(
        subnet["allocation_pools"],
        json!([{"start": "10.4.0.1", "end": "10.4.0.2"}])
    );
    let (_, shown) = cloud.get("a", &format!("/v2.0/networks/{network}")).await;
    assert_eq!(shown["network"]["subnets"].as_array().unwrap().len(), 4);
    assert!(shown["network"]["revision_number"].as_u64().unwrap() > 1);
    assert_eq!(
        cloud
            .ask(
                "a",
                "DELETE",
                &format!("/v2.0/networks/{network}"),
                Value::Null
            )
            .await
            .0,
        204
    );
    let gone = format!("/v2.0/subnets/{}", id(&subnet));
    cloud
        .refused("a", "GET", &gone, Value::Null, 404, "SubnetNotFound")
        .await;
}

#[tokio::test]
async fn bad_subnets_are_refused_with_neutrons_words() {
    let cloud = Cloud::new().await;
    let network = cloud.network("a").await;
    cloud.subnet("a", &network, "10.1.0.0/24").await;
    let v4 = |extra: Value| with(json!({"network_id": network, "ip_version": 4}), extra);
    let v6 = |extra: Value| with(json!({"network_id": network, "ip_version": 6}), extra);
    for (body, status, kind) in [
        (v4(json!({"cidr": "10.1.0.0/25"})), 400, "InvalidInput"),
        (v4(json!({"cidr": "10.5.0.0/31"})), 400, "InvalidInput"),
        (v4(json!({"cidr": "0.0.0.0/0"})), 400, "InvalidInput"),
        (
            v6(
                json!({"cidr": "fd00:3::/80", "ipv6_ra_mode": "slaac", "ipv6_address_mode": "slaac"}),
            ),
            400,
            "InvalidInput",
        ),
        (
            v6(
                json!({"cidr": "fd00:5::/64", "ipv6_ra_mode": "slaac", "ipv6_address_mode": "dhcpv6-stateful"}),
            ),
            400,
            "InvalidInput",
        ),
        (
            v4(json!({"cidr": "10.9.0.0/24", "ipv6_ra_mode": "slaac"})),
            400,
            "InvalidInput",
        ),
        (
            v6(json!({"cidr": "fd00:6::/64", "enable_dhcp": false, "ipv6_ra_mode": "slaac"})),
            400,
            "InvalidInput",
        ),
        (v6(json!({"cidr": "10.10.0.0/24"})), 400, "InvalidInput"),
        (
            with(
                v4(json!({"cidr": "10.10.0.0/24"})),
                json!({"ip_version": 5}),
            ),
            400,
            "HTTPBadRequest",
        ),
        (
            json!({"ip_version": 4, "cidr": "10.10.0.0/24"}),
            400,
            "HTTPBadRequest",
        ),
        (
            json!({"network_id": network, "cidr": "10.10.0.0/24"}),
            400,
            "HTTPBadRequest",
        ),
        (v4(json!({})), 400, "BadRequest"),
        (v4(json!({"cidr": "10.10.0.0/33"})), 400, "InvalidInput"),
        (v4(json!({"cidr": "10.10.0.0"})), 400, "InvalidInput"),
        (
            with(
                v4(json!({"cidr": "10.10.0.0/24"})),
                json!({"network_id": MISSING}),
            ),
            404,
            "NetworkNotFound",
        ),
        (
            v4(json!({"cidr": "10.12.0.0/24", "gateway_ip": "10.12.0.0"})),
            400,
            "InvalidInput",
        ),
        (
            v4(
                json!({"cidr": "10.13.0.0/24", "gateway_ip": "10.13.0.15", "allocation_pools": [{"start": "10.13.0.10", "end": "10.13.0.20"}]}),
            ),
            409,
            "GatewayConflictWithAllocationPools",
        ),
        (
            v4(
                json!({"cidr": "10.14.0.0/24", "allocation_pools": [{"start": "10.15.0.10", "end": "10.15.0.20"}]}),
            ),
            400,
            "OutOfBoundsAllocationPool",
        ),
        (
            v4(
                json!({"cidr": "10.14.0.0/24", "allocation_pools": [{"start": "10.14.0.20", "end": "10.14.0.10"}]}),
            ),
            400,
            "InvalidAllocationPool",
        ),
        (
            v4(
                json!({"cidr": "10.14.0.0/24", "allocation_pools": [{"start": "10.14.0.10", "end": "10.14.0.20"}, {"start": "10.14.0.15", "end": "10.14.0.30"}]}),
            ),
            409,
            "OverlappingAllocationPools",
        ),
        (
            v4(json!({"cidr": "10.16.0.0/24", "dns_nameservers": ["not-ip"]})),
            400,
            "HTTPBadRequest",
        ),
        (
            v4(json!({"cidr": "10.16.0.0/24", "dns_nameservers": ["8.8.8.8", "8.8.8.8"]})),
            400,
            "HTTPBadRequest",
        ),
        (
            v4(
                json!({"cidr": "10.16.0.0/24", "dns_nameservers": ["8.8.8.1", "8.8.8.2", "8.8.8.3", "8.8.8.4", "8.8.8.5", "8.8.8.6"]}),
            ),
            400,
            "DNSNameServersExhausted",
        ),
        (
            v4(
                json!({"cidr": "10.16.0.0/24", "host_routes": [{"destination": "x", "nexthop": "y"}]}),
            ),
            400,
            "HTTPBadRequest",
        ),
    ] {
        let body = json!({"subnet": body});
        cloud
            .refused("a", "POST", "/v2.0/subnets", body, status, kind)
            .await;
    }
    let foreign = json!({"subnet": v4(json!({"cidr": "10.17.0.0/24"}))});
    cloud
        .refused(
            "b",
            "POST",
            "/v2.0/subnets",
            foreign,
            403,
            "PolicyNotAuthorized",
        )
        .await;
}

#[tokio::test]
async fn subnets_change_within_their_bounds() {
    let cloud = Cloud::new().await;
    let network = cloud.network("a").await;
    let path = format!(
        "/v2.0/subnets/{}",
        id(&cloud.subnet("a", &network, "10.1.0.0/24").await)
    );
    let put = |body: Value| json!({"subnet": body});
    cloud
        .refused(
            "a",
            "PUT",
            &path,
            put(json!({"gateway_ip": "10.1.0.254"})),
            409,
            "GatewayConflictWithAllocationPools",
        )
        .await;
    cloud
        .refused(
            "a",
            "PUT",
            &path,
            put(json!({"cidr": "10.1.0.0/25"})),
            400,
            "HTTPBadRequest",
        )
        .await;
    let (status, body) = cloud
        .ask("a", "PUT", &path, put(json!({"gateway_ip": null})))
        .await;
    assert_eq!((status, &body["subnet"]["gateway_ip"]), (200, &Value::Null));
    let pools = json!({"allocation_pools": [{"start": "10.1.0.10", "end": "10.1.0.11"}]});
    assert_eq!(cloud.ask("a", "PUT", &path, put(pools)).await.0, 200);
    for expected in ["10.1.0.10", "10.1.0.11"] {
        let port = cloud.port("a", json!({"network_id": network})).await;
        assert_eq!(port["fixed_ips"][0]["ip_address"], expected);
    }
    let body = json!({"port": {"network_id": network}});
    cloud
        .refused(
            "a",
            "POST",
            "/v2.0/ports",
            body,
            409,
            "IpAddressGenerationFailure",
        )
        .await;
    cloud
        .refused("a", "DELETE", &path, Value::Null, 409, "SubnetInUse")
        .await;
}

#[tokio::test]
async fn how_ipv6_addresses_are_got_is_said_once() {
    let cloud = Cloud::new().await;
    let network = cloud.network("a").await;
    let modes = json!({"ipv6_ra_mode": "dhcpv6-stateful", "ipv6_address_mode": "dhcpv6-stateful"});
    let subnet = cloud.subnet_with(&network, "fd00:1::/64", modes).await;
    let path = format!("/v2.0/subnets/{}", id(&subnet));
    for (body, kind) in [
        (json!({"ipv6_ra_mode": "slaac"}), "HTTPBadRequest"),
        (json!({"ipv6_address_mode": null}), "HTTPBadRequest"),
        (json!({"enable_dhcp": false}), "InvalidInput"),
    ] {
        let body = json!({"subnet": body});
        cloud.refused("a", "PUT", &path, body, 400, kind).await;
    }
    // Where nothing was said it may be turned off, and on.
    let plain = cloud.subnet("a", &network, "fd00:2::/64").await;
    let path = format!("/v2.0/subnets/{}", id(&plain));
    for on in [false, true] {
        let body = json!({"subnet": {"enable_dhcp": on}});
        let (status, body) = cloud.ask("a", "PUT", &path, body).await;
        assert_eq!((status, &body["subnet"]["enable_dhcp"]), (200, &json!(on)));
    }
}
