//! Gateways, floating IPs and port forwardings, as a client sees them: the steps that were recorded of a real Neutron.

use super::*;
use crate::{resource::Objects, resources::Port, rules::tests::balance, store::View};

pub(super) const ROUTERS: &str = "/v2.0/routers";
const FLOATING: &str = "/v2.0/floatingips";

/// A cloud with an external network, and a tenant's router between it and a network with ports.
pub(super) struct World {
    pub(super) cloud: Cloud,
    pub(super) public: String,
    subnet: Value,
    router: String,
    inside: Value,
    pub(super) port: String,
    pub(super) second: String,
}

impl World {
    pub(super) async fn new() -> Self {
        let cloud = Cloud::new().await;
        let (public, subnet) = cloud.external("203.0.113.0/24").await;
        cloud.subnet("admin", &public, "2001:db8:ffff::/64").await;
        let network = cloud.network("a").await;
        let inside = cloud.subnet("a", &network, "10.40.0.0/24").await;
        let body = json!({"name": "fr", "external_gateway_info": {"network_id": public}});
        let router = id(&cloud.made("a", ROUTERS, "router", body).await);
        let path = format!("{ROUTERS}/{router}/add_router_interface");
        let attached = cloud
            .ask("a", "PUT", &path, json!({"subnet_id": inside["id"]}))
            .await;
        assert_eq!(attached.0, 200);
        let at = |addresses: &[&str]| {
            let fixed = addresses.iter().map(|a| json!({"ip_address": a}));
            json!({"network_id": network, "fixed_ips": fixed.collect::<Vec<_>>()})
        };
        let port = id(&cloud.port("a", at(&["10.40.0.10", "10.40.0.11"])).await);
        let second = id(&cloud.port("a", at(&["10.40.0.12"])).await);
        Self {
            cloud,
            public,
            subnet,
            router,
            inside,
            port,
            second,
        }
    }

    pub(super) async fn floating(&self, who: &str, more: Value) -> Value {
        let body = with(json!({"floating_network_id": self.public}), more);
        self.cloud.made(who, FLOATING, "floatingip", body).await
    }

    pub(super) async fn unfloated(&self, who: &str, more: Value, status: u16, kind: &str) {
        let body = with(json!({"floating_network_id": self.public}), more);
        let body = json!({"floatingip": body});
        self.cloud
            .refused(who, "POST", FLOATING, body, status, kind)
            .await;
    }

    pub(super) async fn put(&self, who: &str, path: &str, key: &str, body: Value) -> Value {
        let (status, answer) = self.cloud.ask(who, "PUT", path, json!({key: body})).await;
        assert_eq!(status, 200, "{path}: {answer}");
        answer[key].clone()
    }

    pub(super) async fn gone(&self, who: &str, path: &str) {
        let (status, answer) = self.cloud.ask(who, "DELETE", path, Value::Null).await;
        assert_eq!(status, 204, "{path}: {answer}");
    }

    pub(super) fn router_path(&self) -> String {
        format!("{ROUTERS}/{}", self.router)
    }

    /// Addresses, quota and holders agree, of members and of nobody.
    pub(super) fn balance(&self) {
        let view = View::of(&self.cloud.api.core.store.snapshot());
        balance(&view, A);
    }
}

pub(super) fn path(floating: &Value) -> String {
    format!("{FLOATING}/{}", id(floating))
}

#[tokio::test]
async fn a_gateway_has_an_address_of_each_family_and_a_port_that_members_do_not_see() {
    let world = World::new().await;
    let cloud = &world.cloud;
    let path = world.router_path();
    let (_, shown) = cloud.get("a", &path).await;
    let info = &shown["router"]["external_gateway_info"];
    assert_eq!(info["network_id"], json!(world.public));
    assert_eq!(info["enable_snat"], true);
    let fixed = info["external_fixed_ips"].as_array().unwrap();
    let addresses: Vec<&str> = fixed
        .iter()
        .map(|f| f["ip_address"].as_str().unwrap())
        .collect();
    assert_eq!(addresses, ["203.0.113.2", "2001:db8:ffff::1"]);
    let query = "/v2.0/ports?device_owner=network:router_gateway";
    assert_eq!(cloud.get("a", query).await.1["ports"], json!([]));
    let (_, ports) = cloud.get("admin", query).await;
    let port = ports["ports"][0].clone();
    assert_eq!(
        (&port["project_id"], &port["device_id"]),
        (&json!(""), &json!(world.router))
    );
    assert_eq!(
        (&port["status"], &port["binding:host_id"]),
        (&json!("DOWN"), &json!(""))
    );
    let port_path = format!("/v2.0/ports/{}", id(&port));
    cloud
        .refused("a", "GET", &port_path, Value::Null, 404, "PortNotFound")
        .await;
    cloud
        .refused(
            "admin",
            "DELETE",
            &port_path,
            Value::Null,
            409,
            "ServicePortInUse",
        )
        .await;
    let moved = json!({"port": {"binding:host_id": "h1"}});
    cloud
        .refused("admin", "PUT", &port_path, moved, 409, "ServicePortInUse")
        .await;
    let readdressed = json!({"port": {"fixed_ips": [{"ip_address": "203.0.113.9"}]}});
    cloud
        .refused("admin", "PUT", &port_path, readdressed, 400, "BadRequest")
        .await;
    let renamed = json!({"port": {"name": "way out"}});
    assert_eq!(cloud.ask("admin", "PUT", &port_path, renamed).await.0, 200);
    // The same network again keeps the port; an admin says more.
    let again = json!({"external_gateway_info": {"network_id": world.public}});
    let shown = world.put("a", &path, "router", again.clone()).await;
    assert_eq!(
        shown["external_gateway_info"]["external_fixed_ips"],
        json!(fixed)
    );
    let plain = json!({"external_gateway_info": {"network_id": world.public, "enable_snat": false,
        "external_fixed_ips": [{"subnet_id": world.subnet["id"], "ip_address": "203.0.113.77"}]}});
    for (key, value) in plain["external_gateway_info"].as_object().unwrap() {
        if key != "network_id" {
            let info = json!({"network_id": world.public, key: value});
            let body = json!({"router": {"external_gateway_info": info}});
            cloud
                .refused("a", "PUT", &path, body.clone(), 403, "PolicyNotAuthorized")
                .await;
            cloud
                .refused("a", "POST", ROUTERS, body, 403, "PolicyNotAuthorized")
                .await;
        }
    }
    let shown = world.put("admin", &path, "router", plain).await;
    let info = &shown["external_gateway_info"];
    assert_eq!(info["enable_snat"], false);
    assert_eq!(
        info["external_fixed_ips"],
        json!([{"subnet_id": world.subnet["id"], "ip_address": "203.0.113.77"}])
    );
    let shown = world.put("a", &path, "router", again).await;
    assert_eq!(shown["external_gateway_info"]["enable_snat"], true);
    // The network is in use, and stays external.
    let network = format!("/v2.0/networks/{}", world.public);
    let inside = json!({"network": {"router:external": false}});
    cloud
        .refused(
            "admin",
            "PUT",
            &network,
            inside,
            409,
            "ExternalNetworkInUse",
        )
        .await;
    cloud
        .refused(
            "admin",
            "DELETE",
            &network,
            Value::Null,
            409,
            "NetworkInUse",
        )
        .await;
    let grants = format!("/v2.0/rbac-policies?object_id={}", world.public);
    let (_, grants) = cloud.get("admin", &grants).await;
    let grant = format!("/v2.0/rbac-policies/{}", id(&grants["rbac_policies"][0]));
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
    let shown = world
        .put("a", &path, "router", json!({"external_gateway_info": null}))
        .await;
    assert_eq!(shown["external_gateway_info"], Value::Null);
    assert_eq!(cloud.get("admin", query).await.1["ports"], json!([]));
    world.gone("admin", &grant).await;
    world.balance();
}

#[tokio::test]
async fn a_gateway_that_cannot_be_is_refused_with_neutrons_words() {
    let world = World::new().await;
    let cloud = &world.cloud;
    let network = cloud.network("a").await;
    let at = |address: &str| json!({"network_id": world.public, "external_fixed_ips": [{"ip_address": address}]});
    let taken = at("203.0.113.2");
    for (who, info, status, kind) in [
        ("a", json!({"network_id": network}), 400, "BadRequest"),
        ("a", json!({"network_id": MISSING}), 404, "NetworkNotFound"),
        ("a", json!({"enable_snat": true}), 400, "HTTPBadRequest"),
        ("admin", at("203.0.113.1"), 400, "BadRequest"),
        ("admin", at("192.0.2.1"), 400, "InvalidIpForNetwork"),
        ("admin", taken, 409, "IpAddressAlreadyAllocated"),
    ] {
        let body = json!({"router": {"external_gateway_info": info}});
        cloud
            .refused(who, "POST", ROUTERS, body, status, kind)
            .await;
    }
    // What is inside is not outside.
    let overlapping = cloud.subnet("a", &network, "203.0.113.128/25").await;
    let path = format!("{}/add_router_interface", world.router_path());
    let body = json!({"subnet_id": overlapping["id"]});
    cloud
        .refused("a", "PUT", &path, body.clone(), 400, "BadRequest")
        .await;
    let other = id(&cloud.made("a", ROUTERS, "router", json!({})).await);
    let other = format!("{ROUTERS}/{other}");
    let added = cloud
        .ask("a", "PUT", &format!("{other}/add_router_interface"), body)
        .await;
    assert_eq!(added.0, 200);
    let out = json!({"router": {"external_gateway_info": {"network_id": world.public}}});
    cloud
        .refused("a", "PUT", &other, out, 400, "BadRequest")
        .await;
    // A route leads out, so the gateway stays.
    let routes = json!([{"destination": "172.16.0.0/24", "nexthop": "203.0.113.9"}]);
    world
        .put(
            "a",
            &world.router_path(),
            "router",
            json!({"routes": routes}),
        )
        .await;
    let cleared = json!({"router": {"external_gateway_info": null}});
    cloud
        .refused(
            "a",
            "PUT",
            &world.router_path(),
            cleared,
            409,
            "RouterInterfaceInUseByRoute",
        )
        .await;
    let own =
        json!({"router": {"routes": [{"destination": "172.16.0.0/24", "nexthop": "203.0.113.2"}]}});
    cloud
        .refused("a", "PUT", &world.router_path(), own, 400, "InvalidRoutes")
        .await;
    world
        .put("a", &world.router_path(), "router", json!({"routes": []}))
        .await;
    // A router that goes takes its gateway with it.
    let path = format!("{}/remove_router_interface", world.router_path());
    let removed = cloud
        .ask("a", "PUT", &path, json!({"subnet_id": world.inside["id"]}))
        .await;
    assert_eq!(removed.0, 200);
    world.gone("a", &world.router_path()).await;
    let (_, ports) = cloud
        .get("admin", "/v2.0/ports?device_owner=network:router_gateway")
        .await;
    assert_eq!(ports["ports"], json!([]));
    world.balance();
}

#[tokio::test]
async fn floating_ips_have_neutrons_shape_and_policies() {
    let world = World::new().await;
    let cloud = &world.cloud;
    let free = world.floating("a", json!({"description": "d"})).await;
    for (field, value) in [
        ("project_id", json!(A)),
        ("tenant_id", json!(A)),
        ("floating_network_id", json!(world.public)),
        ("floating_ip_address", json!("203.0.113.3")),
        ("router_id", Value::Null),
        ("port_id", Value::Null),
        ("fixed_ip_address", Value::Null),
        ("status", json!("DOWN")),
        ("description", json!("d")),
        ("port_details", Value::Null),
        ("port_forwardings", json!([])),
        ("tags", json!([])),
    ] {
        assert_eq!(free[field], value, "{field}");
    }
    assert!(free.get("subnet_id").is_none() && free.get("name").is_none());
    let owned = world.floating("a", json!({"port_id": world.second})).await;
    assert_eq!(owned["router_id"], json!(world.router));
    assert_eq!(owned["fixed_ip_address"], "10.40.0.12");
    assert_eq!(owned["port_details"]["device_owner"], "");
    assert_eq!(owned["status"], "DOWN", "no host proved it");
    let of_subnet = json!({"subnet_id": world.subnet["id"]});
    world.floating("a", of_subnet).await;
    let chosen = json!({"floating_ip_address": "203.0.113.88"});
    world
        .unfloated("a", chosen.clone(), 403, "PolicyNotAuthorized")
        .await;
    let admins = world.floating("admin", chosen.clone()).await;
    assert_eq!(admins["floating_ip_address"], "203.0.113.88");
    let isolated = cloud.network("a").await;
    cloud.subnet("a", &isolated, "10.41.0.0/24").await;
    let isolated = id(&cloud.port("a", json!({"network_id": isolated})).await);
    let with_fixed = |address: &str| json!({"port_id": world.port, "fixed_ip_address": address});
    for (who, more, status, kind) in [
        ("admin", chosen, 409, "IpAddressAlreadyAllocated"),
        (
            "a",
            json!({"port_id": world.second}),
            409,
            "FloatingIPPortAlreadyAssociated",
        ),
        (
            "a",
            json!({"subnet_id": world.inside["id"]}),
            400,
            "InvalidInput",
        ),
        ("a", json!({"subnet_id": MISSING}), 404, "SubnetNotFound"),
        (
            "a",
            json!({"floating_network_id": world.inside["network_id"]}),
            400,
            "BadRequest",
        ),
        (
            "a",
            json!({"floating_network_id": MISSING}),
            404,
            "NetworkNotFound",
        ),
        (
            "a",
            json!({"floating_network_id": null}),
            400,
            "HTTPBadRequest",
        ),
        ("a", json!({"port_id": MISSING}), 404, "PortNotFound"),
        ("b", json!({"port_id": world.second}), 404, "PortNotFound"),
        (
            "a",
            json!({"port_id": isolated}),
            404,
            "ExternalGatewayForFloatingIPNotFound",
        ),
        (
            "a",
            json!({"fixed_ip_address": "10.40.0.10"}),
            400,
            "BadRequest",
        ),
        ("a", with_fixed("10.40.0.99"), 400, "BadRequest"),
        ("a", json!({"port_id": world.port}), 400, "BadRequest"),
        ("a", json!({"status": "ACTIVE"}), 400, "HTTPBadRequest"),
    ] {
        world.unfloated(who, more, status, kind).await;
    }
    cloud
        .refused(
            "b",
            "GET",
            &path(&owned),
            Value::Null,
            404,
            "FloatingIPNotFound",
        )
        .await;
    for (query, count) in [
        (format!("port_id={}", world.second), 1),
        (format!("router_id={}", world.router), 1),
        ("floating_ip_address=203.0.113.3".to_owned(), 1),
        ("status=DOWN".to_owned(), 3),
        ("status=ACTIVE".to_owned(), 0),
    ] {
        let (_, list) = cloud.get("a", &format!("{FLOATING}?{query}")).await;
        assert_eq!(
            list["floatingips"].as_array().unwrap().len(),
            count,
            "{query}"
        );
    }
    let query = "/v2.0/ports?device_owner=network:floatingip";
    assert_eq!(cloud.get("a", query).await.1["ports"], json!([]));
    let (_, ports) = cloud
        .get("admin", &format!("{query}&device_id={}", id(&free)))
        .await;
    let holder = &ports["ports"][0];
    assert_eq!(
        (&holder["status"], &holder["project_id"]),
        (&json!("N/A"), &json!(""))
    );
    let holder = format!("/v2.0/ports/{}", id(holder));
    cloud
        .refused(
            "admin",
            "DELETE",
            &holder,
            Value::Null,
            409,
            "ServicePortInUse",
        )
        .await;
    world.gone("a", &path(&free)).await;
    cloud
        .refused("admin", "GET", &holder, Value::Null, 404, "PortNotFound")
        .await;
    // The lowest address is free again.
    let again = world.floating("a", json!({})).await;
    assert_eq!(again["floating_ip_address"], "203.0.113.3");
    let (_, quota) = cloud
        .get("admin", &format!("/v2.0/quotas/{A}/details"))
        .await;
    assert_eq!(quota["quota"]["floatingip"]["used"], 3);
    let limit = json!({"quota": {"floatingip": 3}});
    assert_eq!(
        cloud
            .ask("admin", "PUT", &format!("/v2.0/quotas/{A}"), limit)
            .await
            .0,
        200
    );
    world.unfloated("a", json!({}), 409, "OverQuota").await;
    world.balance();
}

#[tokio::test]
async fn a_floating_ip_is_given_taken_and_follows_its_port() {
    let world = World::new().await;
    let cloud = &world.cloud;
    let floating = world.floating("a", json!({"description": "d"})).await;
    let path = path(&floating);
    let give = |more: Value| world.put("a", &path, "floatingip", more);
    let several = json!({"floatingip": {"port_id": world.port}});
    cloud
        .refused("a", "PUT", &path, several, 400, "BadRequest")
        .await;
    let second = json!({"port_id": world.port, "fixed_ip_address": "10.40.0.11"});
    let shown = give(second).await;
    assert_eq!(shown["fixed_ip_address"], "10.40.0.11");
    let shown = give(json!({"description": "zz"})).await;
    assert_eq!(
        (&shown["port_id"], &shown["description"]),
        (&json!(world.port), &json!("zz"))
    );
    let address = json!({"floatingip": {"floating_ip_address": "203.0.113.9"}});
    cloud
        .refused("a", "PUT", &path, address, 400, "HTTPBadRequest")
        .await;
    // What it needs stays.
    let router = world.router_path();
    let cleared = json!({"router": {"external_gateway_info": null}});
    let kind = "RouterExternalGatewayInUseByFloatingIp";
    cloud.refused("a", "PUT", &router, cleared, 409, kind).await;
    let detach = format!("{router}/remove_router_interface");
    let inside = json!({"subnet_id": world.inside["id"]});
    let kind = "RouterInterfaceInUseByFloatingIP";
    cloud
        .refused("a", "PUT", &detach, inside.clone(), 409, kind)
        .await;
    cloud
        .refused("a", "DELETE", &router, Value::Null, 409, "RouterInUse")
        .await;
    // Nothing said, or null, takes it away.
    for nothing in [json!({}), json!({"port_id": null})] {
        give(json!({"port_id": world.second})).await;
        let shown = give(nothing).await;
        for field in ["port_id", "fixed_ip_address", "router_id"] {
            assert_eq!(shown[field], Value::Null, "{field}");
        }
    }
    // A port that loses the address, or goes, loses it.
    give(json!({"port_id": world.port, "fixed_ip_address": "10.40.0.10"})).await;
    let other = json!({"port": {"fixed_ips": [{"ip_address": "10.40.0.11"}]}});
    let port = format!("/v2.0/ports/{}", world.port);
    assert_eq!(cloud.ask("a", "PUT", &port, other).await.0, 200);
    let (_, shown) = cloud.get("a", &path).await;
    assert_eq!(shown["floatingip"]["port_id"], Value::Null);
    give(json!({"port_id": world.port})).await;
    let renamed = json!({"port": {"name": "kept"}});
    assert_eq!(cloud.ask("a", "PUT", &port, renamed).await.0, 200);
    let (_, shown) = cloud.get("a", &path).await;
    assert_eq!(shown["floatingip"]["port_details"]["name"], "kept");
    world.gone("a", &port).await;
    let (_, shown) = cloud.get("a", &path).await;
    assert_eq!(shown["floatingip"]["router_id"], Value::Null);
    assert_eq!(cloud.ask("a", "PUT", &detach, inside).await.0, 200);
    world
        .put(
            "a",
            &router,
            "router",
            json!({"external_gateway_info": null}),
        )
        .await;
    // Unused ones go with their network.
    world
        .gone("admin", &format!("/v2.0/networks/{}", world.public))
        .await;
    cloud
        .refused("a", "GET", &path, Value::Null, 404, "FloatingIPNotFound")
        .await;
    world.balance();
}

#[tokio::test]
async fn ports_of_a_floating_ip_are_forwarded() {
    let world = World::new().await;
    let cloud = &world.cloud;
    let floating = world.floating("a", json!({})).await;
    let own = path(&floating);
    let parts = format!("{own}/port_forwardings");
    let to = |more: Value| {
        let base = json!({"protocol": "tcp", "internal_ip_address": "10.40.0.10",
            "internal_port_id": world.port});
        with(base, more)
    };
    let one =
        |inside: u16, outside: u16| json!({"internal_port": inside, "external_port": outside});
    let ssh = cloud
        .made(
            "a",
            &parts,
            "port_forwarding",
            to(with(one(22, 2222), json!({"description": "ssh"}))),
        )
        .await;
    let mut wanted = to(with(
        one(22, 2222),
        json!({"description": "ssh",
        "external_port_range": "2222:2222", "internal_port_range": "22:22"}),
    ));
    wanted["id"] = ssh["id"].clone();
    assert_eq!(with(ssh.clone(), json!({})), wanted);
    let range = |inside: &str, outside: &str| json!({"protocol": "udp", "internal_port_range": inside, "external_port_range": outside});
    let run = cloud
        .made(
            "a",
            &parts,
            "port_forwarding",
            to(range("30:32", "3030:3032")),
        )
        .await;
    assert_eq!(
        (&run["external_port"], &run["internal_port"]),
        (&Value::Null, &Value::Null)
    );
    // Many to one, as a range or by its number.
    let many = [
        range("50:50", "5050:5059"),
        json!({"protocol": "udp", "internal_port": 51, "external_port_range": "5150:5159"}),
    ];
    for (many, inside) in many.into_iter().zip([50, 51]) {
        let made = to(many);
        let made = cloud.made("a", &parts, "port_forwarding", made).await;
        assert_eq!(made["internal_port"], inside);
        assert_eq!(made["internal_port_range"], format!("{inside}:{inside}"));
        assert_eq!(made["external_port"], Value::Null);
        let part = format!("{parts}/{}", id(&made));
        let more = json!({"external_port_range": format!("6{inside}0:6{inside}9")});
        let shown = world.put("a", &part, "port_forwarding", more).await;
        assert_eq!(shown["internal_port"], inside);
        // A server's port is reached by one of them.
        let again = json!({"port_forwarding":
            to(json!({"protocol": "udp", "internal_port": inside, "external_port": 7}))});
        cloud
            .refused("a", "POST", &parts, again, 400, "BadRequest")
            .await;
        world.gone("a", &part).await;
    }
    let elsewhere = json!({"internal_port_id": MISSING});
    let not_there = json!({"internal_ip_address": "10.40.0.99"});
    for (more, status, kind) in [
        (one(23, 2222), 400, "BadRequest"),
        (one(22, 2223), 400, "BadRequest"),
        (range("40:42", "3032:3034"), 400, "BadRequest"),
        (range("40:42", "4030:4031"), 400, "BadRequest"),
        (range("40:41", "4030:4032"), 400, "BadRequest"),
        (range("40:42", "4030:4030"), 400, "BadRequest"),
        (range("42:40", "4030:4032"), 400, "HTTPBadRequest"),
        (
            with(one(40, 4040), json!({"protocol": "foo"})),
            400,
            "InvalidInput",
        ),
        (
            with(one(40, 4040), json!({"external_port_range": "1:1"})),
            400,
            "BadRequest",
        ),
        (json!({"external_port": 9}), 400, "BadRequest"),
        (one(40, 0), 400, "HTTPBadRequest"),
        (with(one(40, 4040), elsewhere), 404, "PortNotFound"),
        (with(one(40, 4040), not_there), 400, "BadRequest"),
    ] {
        let body = json!({"port_forwarding": to(more)});
        cloud.refused("a", "POST", &parts, body, status, kind).await;
    }
    let (_, shown) = cloud.get("a", &own).await;
    let shown = &shown["floatingip"];
    assert_eq!(
        (&shown["port_id"], &shown["router_id"]),
        (&Value::Null, &json!(world.router))
    );
    assert_eq!(shown["port_forwardings"].as_array().unwrap().len(), 2);
    let part = format!("{parts}/{}", id(&ssh));
    let shown = world
        .put(
            "a",
            &part,
            "port_forwarding",
            json!({"external_port": 2224}),
        )
        .await;
    assert_eq!(shown["external_port_range"], "2224:2224");
    let longer = json!({"external_port_range": "2230:2231", "internal_port_range": "22:23"});
    let shown = world.put("a", &part, "port_forwarding", longer).await;
    assert_eq!(
        (&shown["external_port"], &shown["internal_port_range"]),
        (&Value::Null, &json!("22:23"))
    );
    cloud
        .refused("b", "GET", &part, Value::Null, 404, "FloatingIPNotFound")
        .await;
    cloud
        .refused(
            "r",
            "DELETE",
            &part,
            Value::Null,
            403,
            "PolicyNotAuthorized",
        )
        .await;
    // It is one port's as a whole, or forwarded; so is the port's address.
    let whole = json!({"floatingip": {"port_id": world.second}});
    cloud
        .refused("a", "PUT", &own, whole, 409, "FipInUseByPortForwarding")
        .await;
    cloud
        .refused(
            "a",
            "DELETE",
            &own,
            Value::Null,
            409,
            "FipInUseByPortForwarding",
        )
        .await;
    let also = json!({"port_id": world.port, "fixed_ip_address": "10.40.0.10"});
    world
        .unfloated("a", also, 409, "PortHasPortForwarding")
        .await;
    let other = world.floating("a", json!({"port_id": world.second})).await;
    let bound = json!({"port_forwarding": with(to(one(80, 8080)),
        json!({"internal_port_id": world.second, "internal_ip_address": "10.40.0.12"}))});
    cloud
        .refused(
            "a",
            "POST",
            &parts,
            bound.clone(),
            409,
            "PortHasBindingFloatingIP",
        )
        .await;
    let theirs = format!("{}/port_forwardings", path(&other));
    let mine = json!({"port_forwarding": to(with(one(90, 9090), json!({"internal_ip_address": "10.40.0.11"})))});
    cloud
        .refused(
            "a",
            "POST",
            &theirs,
            mine,
            409,
            "FloatingIPPortAlreadyAssociated",
        )
        .await;
    let kind = "RouterExternalGatewayInUseByFloatingIp";
    let cleared = json!({"router": {"external_gateway_info": null}});
    world
        .put("a", &path(&other), "floatingip", json!({"port_id": null}))
        .await;
    cloud
        .refused("a", "PUT", &world.router_path(), cleared.clone(), 409, kind)
        .await;
    // A port that goes is forwarded to no more.
    world
        .gone("a", &format!("/v2.0/ports/{}", world.port))
        .await;
    let (_, list) = cloud.get("a", &parts).await;
    assert_eq!(list["port_forwardings"], json!([]));
    let (_, shown) = cloud.get("a", &own).await;
    assert_eq!(shown["floatingip"]["router_id"], Value::Null);
    let (status, _) = cloud.ask("a", "POST", &parts, bound).await;
    assert_eq!(status, 201);
    let (_, list) = cloud.get("a", &parts).await;
    let last = format!("{parts}/{}", id(&list["port_forwardings"][0]));
    world.gone("a", &last).await;
    assert_eq!(
        cloud.ask("a", "PUT", &world.router_path(), cleared).await.0,
        200
    );
    world.gone("a", &own).await;
    world.balance();
}

#[tokio::test]
async fn a_router_remembers_who_had_its_last_gateway() {
    let cloud = Cloud::new().await;
    let (public, _) = cloud.external("203.0.113.0/24").await;
    let (other, _) = cloud.external("198.51.100.0/24").await;
    let body = json!({"name": "r", "external_gateway_info": {"network_id": public}});
    let router = id(&cloud.made("a", ROUTERS, "router", body).await);
    let path = format!("{ROUTERS}/{router}");
    let query = format!("/v2.0/ports?device_id={router}");
    let gateway = async || {
        let (_, ports) = cloud.get("admin", &query).await;
        let id = id(&ports["ports"][0]).parse::<uuid::Uuid>().unwrap();
        let port = cloud.api.core.store.snapshot().object::<Port>(id);
        (id, Port::clone(&port.unwrap()))
    };
    let set = async |info: Value| {
        let body = json!({"router": {"external_gateway_info": info}});
        assert_eq!(cloud.ask("a", "PUT", &path, body).await.0, 200);
    };
    let (first, port) = gateway().await;
    assert_eq!((port.left.as_str(), port.may_move), ("", false));
    let seat = |host: Option<&str>, left: Option<&str>| crate::hosts::Seat {
        host: host.map(Into::into),
        left: left.map(Into::into),
    };
    let place = async |port: uuid::Uuid, (from, to), may_move| {
        let placement = crate::hosts::Placement {
            port: port.into(),
            from,
            to,
            may_move,
        };
        let store = cloud.api.core.store.as_ref();
        let now = crate::time::Seconds::new(1);
        assert!(crate::hosts::place(store, placement, now).await.unwrap());
    };
    place(first, (seat(None, None), seat(Some("h2"), None)), true).await;
    // Off, and on again; to another network at once; and while it waits.
    set(Value::Null).await;
    set(json!({"network_id": public})).await;
    let (second, port) = gateway().await;
    assert_ne!(first, second);
    let of = |port: &Port| (port.host.clone(), port.left.clone(), port.may_move);
    assert_eq!(of(&port), (String::new(), "h2".to_owned(), true));
    let to = (seat(None, Some("h2")), seat(Some("h3"), None));
    place(second, to, false).await;
    set(json!({"network_id": other})).await;
    let (_, port) = gateway().await;
    assert_eq!(of(&port), (String::new(), "h3".to_owned(), false));
    set(Value::Null).await;
    set(Value::Null).await;
    set(json!({"network_id": public})).await;
    let (_, port) = gateway().await;
    assert_eq!(of(&port), (String::new(), "h3".to_owned(), false));
}

#[tokio::test]
async fn a_subnet_that_comes_later_gives_each_gateway_what_it_lacks() {
    let cloud = Cloud::new().await;
    let (public, _) = cloud.external("203.0.113.0/24").await;
    let mut routers = vec![];
    for name in ["first", "second", "third"] {
        let body = json!({"name": name, "external_gateway_info": {"network_id": public}});
        routers.push(id(&cloud.made("a", ROUTERS, "router", body).await));
    }
    // The third has these addresses inside.
    let inside = cloud.network("a").await;
    let inside = cloud.subnet("a", &inside, "2001:db8:ffff::/120").await;
    let path = format!("{ROUTERS}/{}/add_router_interface", routers[2]);
    let body = json!({"subnet_id": inside["id"]});
    assert_eq!(cloud.ask("a", "PUT", &path, body).await.0, 200);
    let addresses = async || {
        let mut all = vec![];
        for router in &routers {
            let (_, shown) = cloud.get("a", &format!("{ROUTERS}/{router}")).await;
            let fixed = &shown["router"]["external_gateway_info"]["external_fixed_ips"];
            let fixed = fixed.as_array().unwrap().iter();
            let fixed = fixed.map(|f| f["ip_address"].as_str().unwrap().to_owned());
            all.push(fixed.collect::<Vec<_>>());
        }
        all
    };
    // For others alone, and of a family that all have: nobody gets one.
    let other = json!({"network_id": public, "ip_version": 6, "cidr": "2001:db8:1::/64",
        "service_types": ["network:floatingip"]});
    cloud.made("admin", "/v2.0/subnets", "subnet", other).await;
    cloud.subnet("admin", &public, "198.51.100.0/24").await;
    let before = addresses().await;
    assert_eq!(before, [["203.0.113.2"], ["203.0.113.3"], ["203.0.113.4"]]);
    let late = cloud.subnet("admin", &public, "2001:db8:ffff::/64").await;
    let after = addresses().await;
    // Which of two of one second is first is left open.
    let mut new: Vec<_> = after[..2].iter().map(|all| all[1].as_str()).collect();
    new.sort_unstable();
    assert_eq!(new, ["2001:db8:ffff::1", "2001:db8:ffff::2"]);
    for (had, has) in before.iter().zip(&after[..2]) {
        assert_eq!(had[0], has[0]);
        assert_eq!(has.len(), 2);
    }
    assert_eq!(after[2], before[2]);
    // It is theirs: nobody gets it again, and the subnet is in use.
    let port = cloud
        .made(
            "admin",
            "/v2.0/ports",
            "port",
            json!({"network_id": public,
        "fixed_ips": [{"subnet_id": late["id"]}]}),
        )
        .await;
    assert_eq!(port["fixed_ips"][0]["ip_address"], "2001:db8:ffff::3");
    let path = format!("/v2.0/subnets/{}", id(&late));
    cloud
        .refused("admin", "DELETE", &path, Value::Null, 409, "SubnetInUse")
        .await;
    // Where one is left, one gets it.
    let small = json!({"network_id": public, "ip_version": 6, "cidr": "2001:db8:2::/64",
        "allocation_pools": [{"start": "2001:db8:2::7", "end": "2001:db8:2::7"}]});
    cloud.made("admin", "/v2.0/subnets", "subnet", small).await;
    assert_eq!(addresses().await[2], ["203.0.113.4", "2001:db8:2::7"]);
    let view = View::of(&cloud.api.core.store.snapshot());
    balance(&view, A);
}

#[tokio::test]
async fn pools_are_the_subnets_that_floating_ips_can_be_had_from() {
    let world = World::new().await;
    let cloud = &world.cloud;
    let second = cloud
        .subnet("admin", &world.public, "198.51.100.0/24")
        .await;
    let (_, list) = cloud.get("a", "/v2.0/floatingip_pools").await;
    let pools = list["floatingip_pools"].as_array().unwrap();
    assert_eq!(pools.len(), 2, "none of IPv6, none of inside: {list}");
    let pool = pools.iter().find(|p| p["subnet_id"] == second["id"]);
    let expected = json!({
        "network_id": world.public, "subnet_id": second["id"], "subnet_name": "", "cidr": "198.51.100.0/24",
        "project_id": ADMIN, "tenant_id": ADMIN,
    });
    assert_eq!(pool, Some(&expected));
    let floating = world
        .floating("a", json!({"subnet_id": second["id"]}))
        .await;
    let address = floating["floating_ip_address"].as_str().unwrap();
    assert!(address.starts_with("198.51.100."), "{address}");
    let query = "/v2.0/floatingip-pools?cidr=203.0.113.0/24&fields=subnet_id";
    let (_, list) = cloud.get("b", query).await;
    assert_eq!(
        list,
        json!({"floatingip_pools": [{"subnet_id": world.subnet["id"]}]})
    );
    cloud
        .refused(
            "a",
            "POST",
            "/v2.0/floatingip_pools",
            json!({}),
            405,
            "HTTPMethodNotAllowed",
        )
        .await;
}

#[tokio::test]
async fn a_floating_ip_has_a_name_and_a_domain_or_neither() {
    let world = World::new().await;
    let plain = world.floating("a", json!({})).await;
    assert_eq!(
        (&plain["dns_name"], &plain["dns_domain"]),
        (&json!(""), &json!(""))
    );
    let both = json!({"dns_name": "WWW", "dns_domain": "Blue.Example."});
    let named = world.floating("a", both).await;
    let (_, shown) = world.cloud.get("a", &path(&named)).await;
    let shown = &shown["floatingip"];
    assert_eq!(
        (&shown["dns_name"], &shown["dns_domain"]),
        (&json!("www"), &json!("blue.example."))
    );
    let found = format!("{FLOATING}?dns_name=www");
    let (_, found) = world.cloud.get("a", &found).await;
    assert_eq!(found["floatingips"].as_array().unwrap().len(), 1);
    for (body, kind) in [
        (json!({"dns_name": "www"}), "BadRequest"),
        (json!({"dns_domain": "blue.example."}), "BadRequest"),
        (
            json!({"dns_name": "www.", "dns_domain": "blue.example."}),
            "HTTPBadRequest",
        ),
        (
            json!({"dns_name": "www", "dns_domain": "blue.example"}),
            "HTTPBadRequest",
        ),
        (
            json!({"dns_name": "a.".repeat(100) + "a", "dns_domain": "b.".repeat(100)}),
            "HTTPBadRequest",
        ),
    ] {
        world.unfloated("a", body, 400, kind).await;
    }
    // As in Neutron, both are as they were made.
    for key in ["dns_name", "dns_domain"] {
        let body = json!({"floatingip": {key: "other."}});
        world
            .cloud
            .refused("a", "PUT", &path(&named), body, 400, "HTTPBadRequest")
            .await;
    }
}
