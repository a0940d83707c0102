//! Classifiers, functions and chains, as a client sees them.

use super::*;

#[tokio::test]
async fn chains_are_made_of_native_functions() {
    let cloud = Cloud::new().await;
    let network = cloud.network("a").await;
    cloud.subnet("a", &network, "10.0.0.0/24").await;
    let web = id(&cloud.port("a", json!({"network_id": network})).await);
    let groups = "/v2.0/sfc/port_pair_groups";
    let function = |function: Value| json!({"name": "f", "network_function": function});
    let firewall = json!({"firewall": {"rules": [{"action": "deny", "source": "10.0.0.66/32"}], "default": "allow"}});
    let firewall = id(&cloud
        .made("a", groups, "port_pair_group", function(firewall))
        .await);
    let balancer = json!({"load_balancer": {"vip": "10.0.0.100", "port": 80, "algorithm": "maglev", "members": [web]}});
    let balancer = cloud
        .made("a", groups, "port_pair_group", function(balancer))
        .await;
    let vip = balancer["vip_port_id"].as_str().unwrap();
    let (_, shown) = cloud.get("a", &format!("/v2.0/ports/{vip}")).await;
    assert_eq!(shown["port"]["device_owner"], "overweave:load_balancer");
    assert_eq!(shown["port"]["device_id"], balancer["id"]);
    assert_eq!(shown["port"]["fixed_ips"][0]["ip_address"], "10.0.0.100");
    assert_eq!(shown["port"]["status"], "ACTIVE");
    let path_of_vip = format!("/v2.0/ports/{vip}");
    cloud
        .refused(
            "a",
            "DELETE",
            &path_of_vip,
            Value::Null,
            409,
            "ServicePortInUse",
        )
        .await;
    let taken =
        json!({"port": {"network_id": network, "fixed_ips": [{"ip_address": "10.0.0.100"}]}});
    cloud
        .refused(
            "a",
            "POST",
            "/v2.0/ports",
            taken,
            409,
            "IpAddressAlreadyAllocated",
        )
        .await;
    let empty = id(&cloud
        .made("a", groups, "port_pair_group", json!({"name": "e"}))
        .await);
    for (body, status, kind) in [
        (json!({"port_pairs": [MISSING]}), 400, "HTTPBadRequest"),
        (json!({"tap_enabled": true}), 400, "HTTPBadRequest"),
        (
            json!({"network_function": {"nat": {}}}),
            400,
            "HTTPBadRequest",
        ),
        (
            json!({"network_function": {"shaper": {"rate": "1mbit", "queue": "fq_codel"}}}),
            400,
            "HTTPBadRequest",
        ),
        (
            json!({"network_function": {"load_balancer": {"vip": "10.9.0.1", "port": 80, "members": [web]}}}),
            400,
            "InvalidIpForNetwork",
        ),
        (
            json!({"network_function": {"load_balancer": {"vip": "10.0.0.101", "port": 80, "members": [MISSING]}}}),
            404,
            "PortNotFound",
        ),
        (
            json!({"network_function": {"load_balancer": {"vip": "10.0.0.100", "port": 81, "members": [web]}}}),
            409,
            "IpAddressAlreadyAllocated",
        ),
        (
            json!({"network_function": {"load_balancer": {"vip": "10.0.0.101", "port": 80}}}),
            400,
            "HTTPBadRequest",
        ),
    ] {
        let body = json!({"port_pair_group": body});
        cloud.refused("a", "POST", groups, body, status, kind).await;
    }
    let foreign = json!({"port_pair_group": function(json!({"load_balancer": {"vip": "10.0.0.9", "port": 80, "members": [web]}}))});
    cloud
        .refused("b", "POST", groups, foreign, 404, "PortNotFound")
        .await;

    let classifiers = "/v2.0/sfc/flow_classifiers";
    let on = |extra: Value| {
        with(
            json!({"logical_source_network": network, "protocol": "tcp"}),
            extra,
        )
    };
    let http = json!({"destination_port_range_min": 80, "destination_port_range_max": 80});
    let http = cloud
        .made("a", classifiers, "flow_classifier", on(http))
        .await;
    assert_eq!(http["ethertype"], "IPv4");
    assert_eq!(http["l7_parameters"], json!({}));
    for (body, status, kind) in [
        (json!({}), 400, "FlowClassifierInConflict"),
        (
            json!({"logical_source_port": web, "protocol": "tcp"}),
            400,
            "FlowClassifierInConflict",
        ),
        (
            json!({"protocol": "xyz"}),
            400,
            "FlowClassifierInvalidProtocol",
        ),
        (
            json!({"destination_port_range_min": 80}),
            400,
            "FlowClassifierProtocolRequiredWithPorts",
        ),
        (
            json!({"logical_source_port": MISSING}),
            404,
            "FlowClassifierPortNotFound",
        ),
        (
            on(json!({"destination_port_range_min": 90, "destination_port_range_max": 80})),
            400,
            "FlowClassifierInvalidPortRange",
        ),
        (
            json!({"ethertype": "IPX"}),
            400,
            "FlowClassifierInvalidEthertype",
        ),
        (
            json!({"ethertype": "IPv6", "source_ip_prefix": "10.0.0.0/8"}),
            400,
            "FlowClassifierIpPrefixFormatConflictWithEthertype",
        ),
        (
            on(json!({"logical_source_port": web})),
            400,
            "HTTPBadRequest",
        ),
    ] {
        let body = json!({"flow_classifier": body});
        cloud
            .refused("a", "POST", classifiers, body, status, kind)
            .await;
    }
    let foreign = json!({"flow_classifier": {"logical_source_network": network}});
    cloud
        .refused("b", "POST", classifiers, foreign, 404, "NetworkNotFound")
        .await;
    cloud
        .made(
            "a",
            classifiers,
            "flow_classifier",
            on(json!({"destination_port_range_min": 81})),
        )
        .await;
    cloud
        .made("b", classifiers, "flow_classifier", json!({}))
        .await;

    let chains = "/v2.0/sfc/port_chains";
    let balancer = id(&balancer);
    let body = json!({"name": "edge", "port_pair_groups": [firewall, balancer], "flow_classifiers": [http["id"]]});
    let chain = cloud.made("a", chains, "port_chain", body).await;
    assert_eq!(
        chain["chain_parameters"],
        json!({"correlation": "mpls", "symmetric": false})
    );
    assert_eq!(chain["chain_id"], 1);
    let body = json!({"port_pair_groups": [balancer], "chain_parameters": {"symmetric": "True"}});
    let second = cloud.made("a", chains, "port_chain", body).await;
    assert_eq!(
        second["chain_parameters"],
        json!({"correlation": "mpls", "symmetric": true})
    );
    let path = format!("{chains}/{}", id(&second));
    assert_eq!(cloud.ask("a", "DELETE", &path, Value::Null).await.0, 204);
    for (body, status, kind) in [
        (json!({"flow_classifiers": []}), 400, "HTTPBadRequest"),
        (
            json!({"port_pair_groups": []}),
            400,
            "PortPairGroupNotSpecified",
        ),
        (json!({"port_pair_groups": [empty]}), 400, "HTTPBadRequest"),
        (
            json!({"port_pair_groups": [firewall], "flow_classifiers": [http["id"]]}),
            409,
            "FlowClassifierInUse",
        ),
        (
            json!({"port_pair_groups": [firewall, balancer]}),
            409,
            "InvalidPortPairGroups",
        ),
        (
            json!({"port_pair_groups": [MISSING]}),
            404,
            "PortPairGroupNotFound",
        ),
        (
            json!({"port_pair_groups": [firewall], "flow_classifiers": [MISSING]}),
            404,
            "FlowClassifierNotFound",
        ),
        (
            json!({"port_pair_groups": [firewall], "chain_parameters": {"correlation": "zz"}}),
            400,
            "HTTPBadRequest",
        ),
    ] {
        let body = json!({"port_chain": body});
        cloud.refused("a", "POST", chains, body, status, kind).await;
    }
    let path = format!("{chains}/{}", id(&chain));
    let put = json!({"port_chain": {"chain_parameters": {"symmetric": true}}});
    cloud
        .refused("a", "PUT", &path, put, 400, "HTTPBadRequest")
        .await;
    let put = json!({"port_chain": {"port_pair_groups": [balancer, firewall]}});
    assert_eq!(cloud.ask("a", "PUT", &path, put).await.0, 200);
    for (path, kind) in [
        (format!("{groups}/{firewall}"), "PortPairGroupInUse"),
        (
            format!("{classifiers}/{}", id(&http)),
            "FlowClassifierInUse",
        ),
        (format!("/v2.0/networks/{network}"), "NetworkInUse"),
    ] {
        cloud
            .refused("a", "DELETE", &path, Value::Null, 409, kind)
            .await;
    }
    // A member that goes leaves the balancer.
    assert_eq!(
        cloud
            .ask("a", "DELETE", &format!("/v2.0/ports/{web}"), Value::Null)
            .await
            .0,
        204
    );
    let (_, shown) = cloud.get("a", &format!("{groups}/{balancer}")).await;
    assert_eq!(
        shown["port_pair_group"]["network_function"]["load_balancer"]["members"],
        json!([])
    );
    // A new address is a new port; the old one is free.
    let moved = json!({"port_pair_group": {"network_function": {"load_balancer": {"vip": "10.0.0.120", "port": 80, "network_id": network}}}});
    let (status, body) = cloud
        .ask("a", "PUT", &format!("{groups}/{balancer}"), moved)
        .await;
    assert_eq!(status, 200, "{body}");
    assert_ne!(body["port_pair_group"]["vip_port_id"], json!(vip));
    cloud
        .refused("a", "GET", &path_of_vip, Value::Null, 404, "PortNotFound")
        .await;
    assert_eq!(cloud.ask("a", "DELETE", &path, Value::Null).await.0, 204);
    assert_eq!(
        cloud
            .ask("a", "DELETE", &format!("{groups}/{balancer}"), Value::Null)
            .await
            .0,
        204
    );
    let (_, list) = cloud.get("a", "/v2.0/ports").await;
    assert_eq!(list["ports"], json!([]), "the address went with the group");
}

#[tokio::test]
async fn appliances_are_refused_until_they_are_there() {
    let cloud = Cloud::new().await;
    for (path, list) in [
        ("port_pairs", "port_pairs"),
        ("service_graphs", "service_graphs"),
    ] {
        let path = format!("/v2.0/sfc/{path}");
        assert_eq!(cloud.get("a", &path).await, (200, json!({list: []})));
        let answer = cloud
            .refused("a", "POST", &path, json!({"x": {}}), 400, "HTTPBadRequest")
            .await;
        assert!(answer.to_string().contains("not supported yet"));
        assert_eq!(cloud.get("", &path).await.0, 401);
    }
}
