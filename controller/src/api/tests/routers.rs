//! Routers, as a client sees them: the steps that were recorded of a real Neutron, and what it leaves open.

use super::*;
use crate::{rules::tests::balance, store::View};

const ROUTERS: &str = "/v2.0/routers";

impl Cloud {
    async fn router(&self, who: &str, body: Value) -> Value {
        self.made(who, ROUTERS, "router", body).await
    }

    /// An action that must succeed; the answer.
    async fn acted(&self, who: &str, router: &str, action: &str, body: Value) -> Value {
        let path = format!("{ROUTERS}/{router}/{action}");
        let (status, answer) = self.ask(who, "PUT", &path, body.clone()).await;
        assert_eq!(status, 200, "{path} {body}: {answer}");
        answer
    }

    async fn attach(&self, router: &str, subnet: &Value) -> Value {
        let body = json!({"subnet_id": subnet["id"]});
        self.acted("a", router, "add_router_interface", body).await
    }

    async fn detach(&self, router: &str, subnet: &Value) -> Value {
        let body = json!({"subnet_id": subnet["id"]});
        self.acted("a", router, "remove_router_interface", body)
            .await
    }

    async fn unacted(&self, who: &str, path: &str, body: Value, status: u16, kind: &str) {
        let path = format!("{ROUTERS}/{path}");
        self.refused(who, "PUT", &path, body, status, kind).await;
    }

    pub(super) async fn subnet_with(&self, network: &str, cidr: &str, more: Value) -> Value {
        let version = if cidr.contains(':') { 6 } else { 4 };
        let body = json!({"network_id": network, "ip_version": version, "cidr": cidr});
        self.made("a", "/v2.0/subnets", "subnet", with(body, more))
            .await
    }

    async fn shown(&self, kind: &str, id: &str) -> Value {
        let (status, body) = self.get("a", &format!("/v2.0/{kind}s/{id}")).await;
        assert_eq!(status, 200, "{body}");
        body[kind].clone()
    }
}

#[tokio::test]
async fn routers_have_neutrons_shape_and_policies() {
    let cloud = Cloud::new().await;
    let router = cloud.router("a", json!({"name": "r1"})).await;
    for (field, value) in [
        ("name", json!("r1")),
        ("project_id", json!(A)),
        ("tenant_id", json!(A)),
        ("admin_state_up", json!(true)),
        ("status", json!("ACTIVE")),
        ("external_gateway_info", Value::Null),
        ("description", json!("")),
        ("availability_zones", json!([])),
        ("availability_zone_hints", json!([])),
        ("routes", json!([])),
        ("flavor_id", Value::Null),
        ("revision_number", json!(1)),
        ("tags", json!([])),
    ] {
        assert_eq!(router[field], value, "{field}");
    }
    assert!(router.get("distributed").is_none() && router.get("ha").is_none());
    let path = format!("{ROUTERS}/{}", id(&router));
    let (_, shown) = cloud.get("admin", &path).await;
    assert_eq!(shown["router"]["distributed"], false);
    assert_eq!(shown["router"]["ha"], false);
    cloud
        .refused("b", "GET", &path, Value::Null, 404, "RouterNotFound")
        .await;
    let (_, list) = cloud
        .get("a", "/v2.0/routers?name=r1&fields=name&fields=status")
        .await;
    assert_eq!(
        list,
        json!({"routers": [{"name": "r1", "status": "ACTIVE"}]})
    );
    assert_eq!(cloud.get("b", ROUTERS).await.1, json!({"routers": []}));
    for field in ["ha", "distributed"] {
        let body = json!({"router": {field: true}});
        cloud
            .refused("a", "POST", ROUTERS, body, 403, "PolicyNotAuthorized")
            .await;
    }
    let wrong = [
        (json!({"routes": []}), 400, "HTTPBadRequest"),
        (json!({"status": "DOWN"}), 400, "HTTPBadRequest"),
        (json!({"flavor_id": MISSING}), 404, "FlavorNotFound"),
        (
            json!({"availability_zone_hints": ["mars"]}),
            404,
            "AvailabilityZoneNotFound",
        ),
    ];
    for (body, status, kind) in wrong {
        let body = json!({"router": body});
        cloud
            .refused("a", "POST", ROUTERS, body, status, kind)
            .await;
    }
    let (status, updated) = cloud
        .ask(
            "a",
            "PUT",
            &path,
            json!({"router": {"name": "r1b", "admin_state_up": false}}),
        )
        .await;
    assert_eq!(
        (status, &updated["router"]["admin_state_up"]),
        (200, &json!(false))
    );
    assert_eq!(updated["router"]["status"], "ACTIVE");
    assert_eq!(cloud.ask("a", "DELETE", &path, Value::Null).await.0, 204);
    cloud
        .refused("a", "DELETE", &path, Value::Null, 404, "RouterNotFound")
        .await;
}

#[tokio::test]
async fn a_gateway_needs_an_external_network_and_there_is_none() {
    let cloud = Cloud::new().await;
    let network = cloud.network("a").await;
    let router = id(&cloud
        .router("a", json!({"external_gateway_info": null}))
        .await);
    let path = format!("{ROUTERS}/{router}");
    let wrong = [
        (json!({"network_id": network}), 400, "BadRequest"),
        (json!({"network_id": MISSING}), 404, "NetworkNotFound"),
        (json!({"enable_snat": true}), 400, "HTTPBadRequest"),
        (
            json!({"network_id": network, "more": 1}),
            400,
            "HTTPBadRequest",
        ),
        (json!("x"), 400, "HTTPBadRequest"),
    ];
    for (gateway, status, kind) in wrong {
        let body = json!({"router": {"external_gateway_info": gateway}});
        cloud
            .refused("a", "POST", ROUTERS, body.clone(), status, kind)
            .await;
        cloud.refused("a", "PUT", &path, body, status, kind).await;
    }
    let body = json!({"router": {"external_gateway_info": {}}});
    let (status, router) = cloud.ask("a", "PUT", &path, body).await;
    assert_eq!(
        (status, &router["router"]["external_gateway_info"]),
        (200, &Value::Null)
    );
    let other = cloud.network("b").await;
    let body = json!({"router": {"external_gateway_info": {"network_id": other}}});
    cloud
        .refused("a", "PUT", &path, body, 404, "NetworkNotFound")
        .await;
}

#[tokio::test]
async fn what_a_router_was_asked_to_be_changes_while_it_is_down() {
    let cloud = Cloud::new().await;
    let network = cloud.network("a").await;
    let subnet = cloud.subnet("a", &network, "10.0.0.0/24").await;
    let router = id(&cloud.router("a", json!({})).await);
    let port = cloud.attach(&router, &subnet).await["port_id"].clone();
    let port = port.as_str().unwrap();
    let path = format!("{ROUTERS}/{router}");
    for field in ["distributed", "ha"] {
        let body = json!({"router": {field: true}});
        cloud
            .refused("admin", "PUT", &path, body, 400, "BadRequest")
            .await;
        let body = json!({"router": {field: true, "admin_state_up": false}});
        let (status, shown) = cloud.ask("admin", "PUT", &path, body).await;
        assert_eq!((status, &shown["router"][field]), (200, &json!(true)));
        let body = json!({"router": {"admin_state_up": true}});
        cloud.ask("admin", "PUT", &path, body).await;
    }
    assert_eq!(
        cloud.shown("port", port).await["device_owner"],
        "network:router_interface_distributed"
    );
    cloud.detach(&router, &subnet).await;
}

#[tokio::test]
async fn an_interface_is_a_port_of_the_router_alone() {
    let cloud = Cloud::new().await;
    let network = cloud.network("a").await;
    let subnet = cloud
        .subnet_with(
            &network,
            "10.30.0.0/24",
            json!({"allocation_pools": [{"start": "10.30.0.100", "end": "10.30.0.199"}]}),
        )
        .await;
    let router = id(&cloud.router("a", json!({})).await);
    let answer = cloud.attach(&router, &subnet).await;
    let port = answer["port_id"].as_str().unwrap().to_owned();
    assert_eq!(
        answer,
        json!({
            "id": router, "project_id": A, "port_id": port, "network_id": network,
            "subnet_id": subnet["id"], "subnet_ids": [subnet["id"]],
        })
    );
    assert_eq!(cloud.shown("router", &router).await["revision_number"], 2);
    let shown = cloud.shown("port", &port).await;
    for (field, value) in [
        ("name", json!("")),
        ("status", json!("ACTIVE")),
        ("device_id", json!(router)),
        ("device_owner", json!("network:router_interface")),
        (
            "fixed_ips",
            json!([{"subnet_id": subnet["id"], "ip_address": "10.30.0.1"}]),
        ),
        ("security_groups", json!([])),
        ("port_security_enabled", json!(false)),
        ("project_id", json!(A)),
    ] {
        assert_eq!(shown[field], value, "{field}");
    }
    let list = format!("/v2.0/ports?device_id={router}&device_owner=network:router_interface");
    assert_eq!(cloud.get("a", &list).await.1["ports"][0]["id"], port);

    let port_path = format!("/v2.0/ports/{port}");
    cloud
        .refused(
            "a",
            "DELETE",
            &port_path,
            Value::Null,
            409,
            "ServicePortInUse",
        )
        .await;
    for (body, status, kind) in [
        (
            json!({"fixed_ips": [{"subnet_id": subnet["id"], "ip_address": "10.30.0.250"}]}),
            400,
            "BadRequest",
        ),
        (json!({"fixed_ips": []}), 400, "BadRequest"),
        (json!({"device_owner": ""}), 409, "ServicePortInUse"),
        (json!({"device_id": "x"}), 409, "ServicePortInUse"),
        (json!({"binding:host_id": "h1"}), 409, "ServicePortInUse"),
        (
            json!({"mac_address": "fa:16:3e:00:00:01"}),
            409,
            "ServicePortInUse",
        ),
    ] {
        let body = json!({"port": body});
        cloud
            .refused("admin", "PUT", &port_path, body, status, kind)
            .await;
    }
    let same = json!({"port": {"fixed_ips": [{"subnet_id": subnet["id"]}], "name": "mine"}});
    assert_eq!(cloud.ask("a", "PUT", &port_path, same).await.0, 200);

    let subnet_path = format!("/v2.0/subnets/{}", id(&subnet));
    cloud
        .refused("a", "DELETE", &subnet_path, Value::Null, 409, "SubnetInUse")
        .await;
    for gateway in [json!("10.30.0.99"), Value::Null] {
        let body = json!({"subnet": {"gateway_ip": gateway}});
        cloud
            .refused("a", "PUT", &subnet_path, body, 409, "GatewayIpInUse")
            .await;
    }
    let network_path = format!("/v2.0/networks/{network}");
    cloud
        .refused(
            "a",
            "DELETE",
            &network_path,
            Value::Null,
            409,
            "NetworkInUse",
        )
        .await;
    let path = format!("{ROUTERS}/{router}");
    let refusal = cloud
        .refused("a", "DELETE", &path, Value::Null, 409, "RouterInUse")
        .await;
    assert!(refusal.to_string().contains(&port));

    let gone = cloud.detach(&router, &subnet).await;
    assert_eq!(gone, answer);
    cloud
        .refused("a", "GET", &port_path, Value::Null, 404, "PortNotFound")
        .await;
    for path in [path, subnet_path, network_path] {
        assert_eq!(cloud.ask("a", "DELETE", &path, Value::Null).await.0, 204);
    }
    for owner in [
        "network:router_interface",
        "network:router_interface_distributed",
    ] {
        let network = cloud.network("a").await;
        let body =
            json!({"port": {"network_id": network, "device_owner": owner, "device_id": router}});
        cloud
            .refused("a", "POST", "/v2.0/ports", body, 400, "HTTPBadRequest")
            .await;
        let plain = cloud.port("a", json!({"network_id": network})).await;
        let body = json!({"port": {"device_owner": owner, "device_id": router}});
        let path = format!("/v2.0/ports/{}", id(&plain));
        cloud
            .refused("a", "PUT", &path, body, 400, "HTTPBadRequest")
            .await;
    }
}

/// Neutron asks whether the port has a device, not whether it is bound.
#[tokio::test]
async fn a_bound_port_without_a_device_becomes_an_interface() {
    let cloud = Cloud::new().await;
    let network = cloud.network("a").await;
    cloud.subnet("a", &network, "10.30.0.0/24").await;
    let router = id(&cloud.router("a", json!({})).await);
    let bound = json!({"network_id": network, "project_id": A, "binding:host_id": "h1"});
    let port = id(&cloud.port("admin", bound).await);
    let body = json!({"port_id": port});
    cloud
        .acted("a", &router, "add_router_interface", body.clone())
        .await;
    let path = format!("/v2.0/ports/{port}");
    let shown = cloud.get("admin", &path).await.1["port"].clone();
    for (field, value) in [
        ("device_owner", "network:router_interface"),
        ("device_id", router.as_str()),
        ("binding:host_id", "h1"),
        ("binding:vif_type", "unbound"),
    ] {
        assert_eq!(shown[field], value, "{field}");
    }
    // An appliance there would never be up, but networking-sfc takes it.
    let pair = json!({"port_pair": {"ingress": port, "egress": port}});
    let pairs = "/v2.0/sfc/port_pairs";
    assert_eq!(cloud.ask("a", "POST", pairs, pair).await.0, 201);
    let path = format!("{ROUTERS}/{router}/remove_router_interface");
    cloud
        .refused("a", "PUT", &path, body, 409, "PortInUse")
        .await;
    let owned = json!({"network_id": network, "project_id": A, "device_id": "vm"});
    let port = id(&cloud.port("admin", owned).await);
    let path = format!("{router}/add_router_interface");
    let body = json!({"port_id": port});
    cloud.unacted("a", &path, body, 409, "PortInUse").await;
}

#[tokio::test]
async fn interfaces_are_refused_as_neutron_refuses_them() {
    let cloud = Cloud::new().await;
    let (network, other) = (cloud.network("a").await, cloud.network("a").await);
    let subnet = cloud.subnet("a", &network, "10.30.0.0/24").await;
    let second = cloud.subnet("a", &network, "10.31.0.0/24").await;
    let none = cloud
        .subnet_with(&network, "10.32.0.0/24", json!({"gateway_ip": null}))
        .await;
    let wide = cloud.subnet("a", &other, "10.30.0.0/16").await;
    let foreign = cloud.network("b").await;
    let foreign = cloud.subnet("b", &foreign, "10.40.0.0/24").await;
    let one = id(&cloud.router("a", json!({})).await);
    let two = id(&cloud.router("a", json!({})).await);
    let port = cloud.attach(&one, &subnet).await["port_id"].clone();
    let path = |router: &str| format!("{router}/add_router_interface");
    for (router, body, status, kind) in [
        (&one, json!({"subnet_id": subnet["id"]}), 400, "BadRequest"),
        (
            &two,
            json!({"subnet_id": subnet["id"]}),
            409,
            "IpAddressAlreadyAllocated",
        ),
        (&one, json!({"subnet_id": none["id"]}), 400, "BadRequest"),
        (&one, json!({"subnet_id": wide["id"]}), 400, "BadRequest"),
        (&one, json!({"subnet_id": MISSING}), 404, "SubnetNotFound"),
        (
            &one,
            json!({"subnet_id": foreign["id"]}),
            404,
            "SubnetNotFound",
        ),
        (&one, json!({"port_id": MISSING}), 404, "PortNotFound"),
        (
            &one,
            json!({"subnet_id": second["id"], "port_id": port}),
            400,
            "BadRequest",
        ),
        (&one, json!({}), 400, "BadRequest"),
        (&one, Value::Null, 400, "BadRequest"),
        (&one, json!({"subnet_id": null}), 400, "BadRequest"),
        (&one, json!({"subnet_id": "x"}), 400, "HTTPBadRequest"),
        (&one, json!({"bogus": 1}), 400, "HTTPBadRequest"),
        (&one, json!([]), 400, "HTTPBadRequest"),
        (&two, json!({"port_id": port}), 409, "PortInUse"),
        (
            &MISSING.to_owned(),
            json!({"subnet_id": second["id"]}),
            404,
            "RouterNotFound",
        ),
    ] {
        cloud.unacted("a", &path(router), body, status, kind).await;
    }
    let body = || json!({"subnet_id": second["id"]});
    cloud
        .unacted("b", &path(&one), body(), 404, "RouterNotFound")
        .await;
    cloud
        .unacted("r", &path(&one), body(), 403, "PolicyNotAuthorized")
        .await;
    // Nothing of that left anything behind.
    let (_, ports) = cloud
        .get("a", &format!("/v2.0/ports?network_id={network}"))
        .await;
    assert_eq!(ports["ports"].as_array().unwrap().len(), 1);

    let path = |router: &str| format!("{router}/remove_router_interface");
    for (router, body, status, kind) in [
        (&one, json!({}), 400, "BadRequest"),
        (
            &one,
            json!({"port_id": port, "subnet_id": second["id"]}),
            400,
            "SubnetMismatchForPort",
        ),
        (
            &two,
            json!({"port_id": port}),
            404,
            "RouterInterfaceNotFound",
        ),
        (
            &two,
            json!({"subnet_id": subnet["id"]}),
            404,
            "RouterInterfaceNotFoundForSubnet",
        ),
        (
            &one,
            json!({"subnet_id": foreign["id"]}),
            404,
            "SubnetNotFound",
        ),
    ] {
        cloud.unacted("a", &path(router), body, status, kind).await;
    }
    let body = json!({"port_id": port});
    cloud
        .acted("a", &one, "remove_router_interface", body.clone())
        .await;
    cloud
        .unacted("a", &path(&one), body, 404, "RouterInterfaceNotFound")
        .await;
    // The other one may have it now.
    cloud.attach(&two, &subnet).await;
}

#[tokio::test]
async fn a_port_may_be_brought_along() {
    let cloud = Cloud::new().await;
    let network = cloud.network("a").await;
    let none = cloud
        .subnet_with(&network, "10.32.0.0/24", json!({"gateway_ip": null}))
        .await;
    let router = id(&cloud.router("a", json!({})).await);
    let path = format!("{router}/add_router_interface");
    let port = |fixed: Value| json!({"network_id": network, "fixed_ips": fixed});
    let brought = cloud
        .port("a", port(json!([{"ip_address": "10.32.0.9"}])))
        .await;
    for (more, status, kind) in [
        (json!({"fixed_ips": []}), 400, "BadRequest"),
        (
            json!({"fixed_ips": [{"ip_address": "10.32.0.20"}, {"ip_address": "10.32.0.21"}]}),
            400,
            "BadRequest",
        ),
        (
            json!({"device_id": "vm", "device_owner": "compute:nova"}),
            409,
            "PortInUse",
        ),
    ] {
        let wrong = cloud
            .port(
                "admin",
                with(json!({"network_id": network, "project_id": A}), more),
            )
            .await;
        let body = json!({"port_id": wrong["id"]});
        cloud.unacted("a", &path, body, status, kind).await;
    }
    let body = json!({"port_id": brought["id"]});
    let answer = cloud
        .acted("a", &router, "add_router_interface", body.clone())
        .await;
    assert_eq!(answer["subnet_ids"], json!([none["id"]]));
    let shown = cloud.shown("port", &id(&brought)).await;
    assert_eq!(shown["device_id"], router);
    assert_eq!(shown["status"], "ACTIVE");
    assert_eq!(shown["fixed_ips"], brought["fixed_ips"]);
    cloud
        .unacted("a", &path, body.clone(), 409, "PortInUse")
        .await;
    cloud
        .acted("a", &router, "remove_router_interface", body)
        .await;
    let port = format!("/v2.0/ports/{}", id(&brought));
    cloud
        .refused("a", "GET", &port, Value::Null, 404, "PortNotFound")
        .await;
}

#[tokio::test]
async fn ipv6_subnets_of_a_network_share_one_interface() {
    let cloud = Cloud::new().await;
    let network = cloud.network("a").await;
    let slaac = json!({"ipv6_ra_mode": "slaac", "ipv6_address_mode": "slaac"});
    let four = cloud.subnet("a", &network, "10.0.0.0/24").await;
    let first = cloud
        .subnet_with(&network, "fd00:30::/64", slaac.clone())
        .await;
    let second = cloud.subnet("a", &network, "fd00:31::/64").await;
    let external = json!({"ipv6_address_mode": "slaac"});
    let external = cloud.subnet_with(&network, "fd00:32::/64", external).await;
    let router = id(&cloud.router("a", json!({})).await);
    let v4 = cloud.attach(&router, &four).await;
    let one = cloud.attach(&router, &first).await;
    let two = cloud.attach(&router, &second).await;
    assert_ne!(v4["port_id"], one["port_id"]);
    assert_eq!(one["port_id"], two["port_id"]);
    assert_eq!(two["subnet_ids"], json!([second["id"]]));
    let port = one["port_id"].as_str().unwrap();
    let shown = cloud.shown("port", port).await;
    let addresses: Vec<&Value> = shown["fixed_ips"]
        .as_array()
        .unwrap()
        .iter()
        .map(|fixed| &fixed["ip_address"])
        .collect();
    // The gateway's address, not one that follows the MAC.
    assert_eq!(addresses, ["fd00:30::", "fd00:31::"]);
    let body = json!({"subnet_id": external["id"]});
    let path = format!("{router}/add_router_interface");
    cloud.unacted("a", &path, body, 400, "BadRequest").await;
    // A subnet with automatic addresses that comes later gives routers none, and workloads one.
    let workload = cloud.port("a", json!({"network_id": network})).await;
    let late = cloud.subnet_with(&network, "fd00:33::/64", slaac).await;
    let had = cloud.shown("port", port).await["fixed_ips"].clone();
    assert_eq!(had.as_array().unwrap().len(), 2);
    let has = cloud.shown("port", &id(&workload)).await["fixed_ips"].clone();
    assert!(has.to_string().contains("fd00:33::"), "{has}");
    // A second IPv6 port on the network is none of this router's.
    let body = json!({"port_id": workload["id"]});
    cloud.unacted("a", &path, body, 400, "BadRequest").await;
    // A subnet whose addresses are automatic goes with the workloads', but not with the router's.
    let late = format!("/v2.0/subnets/{}", id(&late));
    assert_eq!(cloud.ask("a", "DELETE", &late, Value::Null).await.0, 204);
    let first_path = format!("/v2.0/subnets/{}", id(&first));
    cloud
        .refused("a", "DELETE", &first_path, Value::Null, 409, "SubnetInUse")
        .await;
    // One prefix goes, the port stays; the last takes it along.
    let gone = cloud.detach(&router, &first).await;
    assert_eq!(gone["subnet_ids"], json!([first["id"]]));
    let left = cloud.shown("port", port).await["fixed_ips"].clone();
    assert_eq!(
        left,
        json!([{"subnet_id": second["id"], "ip_address": "fd00:31::"}])
    );
    cloud.detach(&router, &second).await;
    let path = format!("/v2.0/ports/{port}");
    cloud
        .refused("a", "GET", &path, Value::Null, 404, "PortNotFound")
        .await;
    assert_eq!(
        cloud.ask("a", "DELETE", &first_path, Value::Null).await.0,
        204
    );
}

#[tokio::test]
async fn routes_lead_to_neighbours() {
    let cloud = Cloud::new().await;
    let network = cloud.network("a").await;
    let subnet = cloud.subnet("a", &network, "10.30.0.0/24").await;
    let six = cloud.subnet("a", &network, "fd00:30::/64").await;
    let router = id(&cloud.router("a", json!({})).await);
    cloud.attach(&router, &subnet).await;
    cloud.attach(&router, &six).await;
    let path = format!("{ROUTERS}/{router}");
    let route = |to: &str, via: &str| json!({"destination": to, "nexthop": via});
    let body = |routes: Value| json!({"router": {"routes": routes}});
    let first = route("172.16.0.0/24", "10.30.0.20");
    let many: Vec<Value> = (0..31)
        .map(|n| route(&format!("172.16.{n}.0/24"), "10.30.0.20"))
        .collect();
    for (routes, kind) in [
        (json!([route("172.17.0.0/24", "1.2.3.4")]), "InvalidRoutes"),
        (
            json!([route("172.17.0.0/24", "10.30.0.1")]),
            "InvalidRoutes",
        ),
        (
            json!([route("fd00:99::/64", "10.30.0.20")]),
            "InvalidRoutes",
        ),
        (
            json!([route("127.1.0.0/16", "10.30.0.20")]),
            "InvalidRoutes",
        ),
        (
            json!([route("169.254.169.254/32", "10.30.0.20")]),
            "InvalidRoutes",
        ),
        (json!([route("224.0.0.0/8", "10.30.0.20")]), "InvalidRoutes"),
        (json!([route("fe80::/64", "fd00:30::5")]), "InvalidRoutes"),
        (json!([first, first]), "HTTPBadRequest"),
        (json!([route("abc", "10.30.0.20")]), "HTTPBadRequest"),
        (json!([{"destination": "172.17.0.0/24"}]), "HTTPBadRequest"),
        (json!("x"), "HTTPBadRequest"),
        (json!(many), "RoutesExhausted"),
    ] {
        cloud
            .refused("a", "PUT", &path, body(routes.clone()), 400, kind)
            .await;
        let action = format!("{router}/add_extraroutes");
        cloud.unacted("a", &action, body(routes), 400, kind).await;
    }
    let (status, shown) = cloud.ask("a", "PUT", &path, body(json!([first]))).await;
    assert_eq!((status, &shown["router"]["routes"]), (200, &json!([first])));
    let second = route("fd00:99::/64", "fd00:30::5");
    let added = cloud
        .acted(
            "a",
            &router,
            "add_extraroutes",
            body(json!([second, first])),
        )
        .await;
    assert_eq!(added["router"]["routes"], json!([first, second]));
    assert_eq!(added["router"]["id"], router);
    for (subnet, kind) in [
        (&subnet, "RouterInterfaceInUseByRoute"),
        (&six, "RouterInterfaceInUseByRoute"),
    ] {
        let body = json!({"subnet_id": subnet["id"]});
        let action = format!("{router}/remove_router_interface");
        cloud.unacted("a", &action, body, 409, kind).await;
    }
    let left = cloud
        .acted("a", &router, "remove_extraroutes", body(json!([first])))
        .await;
    assert_eq!(left["router"]["routes"], json!([second]));
    cloud.detach(&router, &subnet).await;
    // What is not there is gone already.
    cloud
        .acted("a", &router, "remove_extraroutes", body(json!([first])))
        .await;
    let (_, cleared) = cloud.ask("a", "PUT", &path, body(json!([]))).await;
    assert_eq!(cleared["router"]["routes"], json!([]));
    cloud.detach(&router, &six).await;
    for (body, status) in [
        (json!({}), 400),
        (json!({"router": {}}), 400),
        (json!({"router": []}), 400),
        (json!({"router": {"routes": [], "name": "x"}}), 400),
        (json!({"router": {"routes": []}}), 200),
    ] {
        let path = format!("{path}/add_extraroutes");
        let (have, answer) = cloud.ask("a", "PUT", &path, body.clone()).await;
        assert_eq!(have, status, "{body}: {answer}");
    }
}

#[tokio::test]
async fn an_action_is_of_one_revision_and_leaves_a_trace() {
    let cloud = Cloud::new().await;
    let network = cloud.network("a").await;
    let subnet = cloud.subnet("a", &network, "10.30.0.0/24").await;
    let router = id(&cloud.router("a", json!({})).await);
    let path = format!("{ROUTERS}/{router}/add_router_interface");
    let ask = |revision: u64| {
        let request = Request::put(&path)
            .header("x-auth-token", "a")
            .header("if-match", format!("revision_number={revision}"));
        let body = json!({"subnet_id": subnet["id"]}).to_string();
        cloud.raw(request.body(Body::from(body)).unwrap())
    };
    let (status, _, body) = ask(5).await;
    assert_eq!(status, 412, "{body}");
    assert_eq!(
        body["NeutronError"]["type"],
        "RevisionNumberConstraintFailed"
    );
    assert_eq!(ask(1).await.0, 200);
    for method in ["GET", "POST", "DELETE"] {
        cloud
            .refused("a", method, &path, Value::Null, 405, "HTTPMethodNotAllowed")
            .await;
    }
    let metrics = String::from_utf8(cloud.api.stats.render(&cloud.api.core)).unwrap();
    let line = "controller_requests_total{code=\"200\",resource=\"routers\",verb=\"add_router_interface\"} 1";
    assert!(metrics.contains(line), "{metrics}");
}

#[tokio::test]
async fn routers_are_counted() {
    let cloud = Cloud::new().await;
    let path = format!("/v2.0/quotas/{A}");
    let body = json!({"quota": {"router": 1}});
    assert_eq!(cloud.ask("admin", "PUT", &path, body).await.0, 200);
    let router = id(&cloud.router("a", json!({})).await);
    let body = || json!({"router": {}});
    cloud
        .refused("a", "POST", ROUTERS, body(), 409, "OverQuota")
        .await;
    let one = format!("{ROUTERS}/{router}");
    assert_eq!(cloud.ask("a", "DELETE", &one, Value::Null).await.0, 204);
    assert_eq!(cloud.ask("a", "POST", ROUTERS, body()).await.0, 201);
}

/// Whoever comes first has the subnet's gateway; all of it commits or none.
#[tokio::test]
async fn routers_and_ports_that_race_for_a_gateway_leave_the_books_balanced() {
    let cloud = Cloud::new().await;
    let network = cloud.network("a").await;
    let subnet = cloud.subnet("a", &network, "10.0.0.0/28").await;
    let mut routers = Vec::new();
    for _ in 0..8 {
        routers.push(id(&cloud.router("a", json!({})).await));
    }
    let by_subnet = json!({"subnet_id": subnet["id"]});
    for round in 0..4 {
        let attach = routers.iter().map(|router| {
            let path = format!("{ROUTERS}/{router}/add_router_interface");
            let body = by_subnet.clone();
            let cloud = &cloud;
            async move { (path.clone(), cloud.ask("a", "PUT", &path, body).await.0) }
        });
        let port = json!({"port": {
            "network_id": network, "fixed_ips": [{"ip_address": "10.0.0.1"}],
        }});
        let ports = (0..8).map(|_| cloud.ask("a", "POST", "/v2.0/ports", port.clone()));
        let (attached, made) = futures::future::join(
            futures::future::join_all(attach),
            futures::future::join_all(ports),
        )
        .await;
        let winners = attached.iter().filter(|(_, status)| *status == 200);
        let winners: Vec<&String> = winners.map(|(path, _)| path).collect();
        let ports: Vec<&Value> = made
            .iter()
            .filter(|(status, _)| *status == 201)
            .map(|(_, body)| &body["port"]["id"])
            .collect();
        assert_eq!(
            winners.len() + ports.len(),
            1,
            "round {round}: {attached:?}"
        );
        let lost = attached.iter().filter(|(_, status)| *status == 409).count();
        assert_eq!(lost, 8 - winners.len());
        balance(&View::of(&cloud.api.core.store.snapshot()), A);
        for path in winners {
            let path = path.replace("add_", "remove_");
            let (status, body) = cloud.ask("a", "PUT", &path, by_subnet.clone()).await;
            assert_eq!(status, 200, "{body}");
        }
        for port in ports {
            let path = format!("/v2.0/ports/{}", port.as_str().unwrap());
            assert_eq!(cloud.ask("a", "DELETE", &path, Value::Null).await.0, 204);
        }
    }
    let free = cloud.port(
        "a",
        json!({"network_id": network, "fixed_ips": [{"ip_address": "10.0.0.1"}]}),
    );
    free.await;
    balance(&View::of(&cloud.api.core.store.snapshot()), A);
}
