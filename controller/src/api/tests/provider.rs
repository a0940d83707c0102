//! Networks of physical networks and those that lead outside: the steps that were recorded of a real Neutron.

use super::*;
use crate::{
    resource::Objects,
    resources::{Host, host::Site},
    store::Read,
};

const NETWORKS: &str = "/v2.0/networks";
const GRANTS: &str = "/v2.0/rbac-policies";

impl Cloud {
    async fn provided(&self, kind: &str, physical: &str, segment: Value) -> Value {
        let mut body =
            json!({"provider:network_type": kind, "provider:physical_network": physical});
        if !segment.is_null() {
            body["provider:segmentation_id"] = segment;
        }
        self.made("admin", NETWORKS, "network", body).await
    }

    /// An external network with a subnet, an admin's.
    pub(super) async fn external(&self, cidr: &str) -> (String, Value) {
        let body = json!({"name": "public", "router:external": true});
        let network = id(&self.made("admin", NETWORKS, "network", body).await);
        let subnet = self.subnet("admin", &network, cidr).await;
        (network, subnet)
    }

    /// A host that said that it has an interface on these physical networks.
    pub(super) async fn host_on(&self, name: &str, physical: &[&str]) {
        let hosts = "/v2.0/overweave/hosts";
        let host = self
            .made("admin", hosts, "host", json!({"name": name}))
            .await;
        let host: Uuid = id(&host).parse().unwrap();
        self.stands(host, physical, "nova").await;
    }

    /// A host says where it stands.
    pub(super) async fn stands(&self, host: Uuid, physical: &[&str], zone: &str) {
        let site = Site {
            physical_networks: physical.iter().map(ToString::to_string).collect(),
            availability_zone: zone.to_owned(),
            proxies: true,
        };
        let store = self.api.core.store.as_ref();
        crate::hosts::note_site(store, host, site, Seconds::new(1))
            .await
            .unwrap();
    }
}

#[tokio::test]
async fn a_part_of_a_physical_network_is_one_networks() {
    let cloud = Cloud::new().await;
    let vlan = cloud.provided("vlan", "physnet1", json!(3333)).await;
    for (field, value) in [
        ("mtu", json!(1500)),
        ("provider:network_type", json!("vlan")),
        ("provider:physical_network", json!("physnet1")),
        ("provider:segmentation_id", json!(3333)),
        ("router:external", json!(false)),
        ("is_default", json!(false)),
    ] {
        assert_eq!(vlan[field], value, "{field}");
    }
    let lowest = cloud.provided("vlan", "physnet1", Value::Null).await;
    assert_eq!(lowest["provider:segmentation_id"], 1);
    let second = cloud.provided("vlan", "physnet1", Value::Null).await;
    assert_eq!(second["provider:segmentation_id"], 2);
    let other = cloud.provided("vlan", "physnet2", json!(3333)).await;
    let flat = cloud.provided("flat", "physnet1", Value::Null).await;
    assert_eq!(flat["provider:segmentation_id"], Value::Null);
    let on = |kind: &str, more: Value| json!({"network": with(json!({"provider:network_type": kind}), more)});
    let physical = json!({"provider:physical_network": "physnet1"});
    let numbered = |n: i64| with(physical.clone(), json!({"provider:segmentation_id": n}));
    for (body, status, kind) in [
        (on("vlan", numbered(3333)), 409, "VlanIdInUse"),
        (on("vlan", numbered(4095)), 400, "InvalidInput"),
        (on("vlan", numbered(5000)), 400, "InvalidInput"),
        (on("vlan", json!({})), 400, "InvalidInput"),
        (on("flat", json!({})), 400, "InvalidInput"),
        (on("flat", numbered(5)), 400, "InvalidInput"),
        (on("flat", physical.clone()), 409, "FlatNetworkInUse"),
        (on("vxlan", physical.clone()), 400, "InvalidInput"),
        (on("geneve", json!({})), 400, "InvalidInput"),
        (
            on("vlan", json!({"provider:physical_network": "a/b"})),
            400,
            "InvalidInput",
        ),
        (json!({"network": physical}), 400, "InvalidInput"),
    ] {
        cloud
            .refused("admin", "POST", NETWORKS, body, status, kind)
            .await;
    }
    cloud
        .refused(
            "a",
            "POST",
            NETWORKS,
            on("vlan", numbered(7)),
            403,
            "PolicyNotAuthorized",
        )
        .await;
    let query = format!("{NETWORKS}?provider:network_type=vlan&provider:segmentation_id=3333");
    let (_, list) = cloud.get("admin", &query).await;
    assert_eq!(list["networks"].as_array().unwrap().len(), 2);
    // Another VLAN, and the first is free again; the kind stays.
    let path = format!("{NETWORKS}/{}", id(&vlan));
    let moved = json!({"network": {"provider:segmentation_id": 3334}});
    let (status, shown) = cloud.ask("admin", "PUT", &path, moved).await;
    assert_eq!(
        (status, &shown["network"]["provider:segmentation_id"]),
        (200, &json!(3334))
    );
    let taken = json!({"network": {"provider:segmentation_id": 2}});
    cloud
        .refused("admin", "PUT", &path, taken, 409, "VlanIdInUse")
        .await;
    for change in [
        json!({"provider:network_type": "flat"}),
        json!({"provider:physical_network": "physnet2"}),
    ] {
        let body = json!({"network": change});
        cloud
            .refused("admin", "PUT", &path, body, 400, "InvalidInput")
            .await;
    }
    cloud.provided("vlan", "physnet1", json!(3333)).await;
    for network in [&vlan, &lowest, &second, &other, &flat] {
        let path = format!("{NETWORKS}/{}", id(network));
        assert_eq!(
            cloud.ask("admin", "DELETE", &path, Value::Null).await.0,
            204
        );
    }
    let snapshot = cloud.api.core.store.snapshot();
    let keys: Vec<String> = ["vlan/", "flat/", "vni/"]
        .iter()
        .flat_map(|prefix| snapshot.scan(prefix).map(|(key, _)| key.to_owned()))
        .collect();
    assert_eq!(keys.len(), 2, "the last network's VLAN and VNI: {keys:?}");
    cloud.provided("flat", "physnet1", Value::Null).await;
}

#[tokio::test]
async fn a_port_needs_a_host_on_its_physical_network() {
    let cloud = Cloud::new().await;
    cloud.host_on("h1", &["physnet1"]).await;
    cloud.host_on("h2", &[]).await;
    let unknown = json!({"network": {"provider:network_type": "vlan",
        "provider:physical_network": "nope", "provider:segmentation_id": 5}});
    cloud
        .refused("admin", "POST", NETWORKS, unknown, 400, "InvalidInput")
        .await;
    let network = id(&cloud.provided("vlan", "physnet1", json!(5)).await);
    for (host, vif) in [
        ("h1", "tap"),
        ("h2", "binding_failed"),
        ("h3", "binding_failed"),
    ] {
        let body = json!({"network_id": network, "binding:host_id": host});
        let port = cloud.port("admin", body).await;
        assert_eq!(port["binding:vif_type"], vif, "{host}");
        assert_eq!(port["status"], "DOWN");
    }
    let (_, agents) = cloud.get("admin", "/v2.0/agents?host=h1").await;
    assert_eq!(
        agents["agents"][0]["configurations"]["bridge_mappings"],
        json!({"physnet1": "physnet1"})
    );
    let snapshot = cloud.api.core.store.snapshot();
    let host = Host::by_name(&snapshot, "h2").unwrap();
    assert!(host.physical_networks.is_empty());
    assert_eq!(snapshot.objects::<Host>().len(), 2);
}

#[tokio::test]
async fn everybody_sees_an_external_network_and_its_subnets_but_puts_nothing_there() {
    let cloud = Cloud::new().await;
    let (network, subnet) = cloud.external("203.0.113.0/24").await;
    assert_eq!(subnet["router:external"], true);
    let path = format!("{NETWORKS}/{network}");
    let (status, shown) = cloud.get("a", &path).await;
    assert_eq!(status, 200);
    let shown = &shown["network"];
    assert_eq!(
        (&shown["router:external"], &shown["shared"]),
        (&json!(true), &json!(false))
    );
    assert_eq!(shown["subnets"], json!([subnet["id"]]));
    assert!(shown.get("provider:network_type").is_none());
    let (_, list) = cloud
        .get("a", &format!("{NETWORKS}?router:external=True"))
        .await;
    assert_eq!(names(&list["networks"]), ["public"]);
    let subnet_path = format!("/v2.0/subnets/{}", id(&subnet));
    let (status, seen) = cloud.get("a", &subnet_path).await;
    assert_eq!((status, &seen["subnet"]["id"]), (200, &subnet["id"]));
    let (_, list) = cloud.get("a", "/v2.0/subnets").await;
    assert_eq!(list["subnets"][0]["id"], subnet["id"]);
    let (_, router) = cloud
        .ask("a", "POST", "/v2.0/routers", json!({"router": {}}))
        .await;
    let attach = format!(
        "/v2.0/routers/{}/add_router_interface",
        id(&router["router"])
    );
    let body = json!({"subnet_id": subnet["id"]});
    cloud
        .refused("a", "PUT", &attach, body, 400, "BadRequest")
        .await;
    let body = json!({"subnet": {"name": "x"}});
    cloud
        .refused("a", "PUT", &subnet_path, body, 403, "PolicyNotAuthorized")
        .await;
    let body = json!({"port": {"network_id": network}});
    cloud
        .refused("a", "POST", "/v2.0/ports", body, 403, "PolicyNotAuthorized")
        .await;
    let body = json!({"network": {"name": "x"}});
    cloud
        .refused("a", "PUT", &path, body, 403, "PolicyNotAuthorized")
        .await;
    for body in [
        json!({"router:external": true}),
        json!({"is_default": true}),
    ] {
        let body = json!({"network": body});
        cloud
            .refused("a", "POST", NETWORKS, body, 403, "PolicyNotAuthorized")
            .await;
    }
    // Its way out is a grant to all, and goes with it.
    let query = format!("{GRANTS}?object_id={network}");
    let (_, grants) = cloud.get("admin", &query).await;
    let grants = grants["rbac_policies"].as_array().unwrap().clone();
    assert_eq!(grants.len(), 1);
    assert_eq!(grants[0]["action"], "access_as_external");
    assert_eq!(grants[0]["target_tenant"], "*");
    // Shared besides, it is open to all.
    let share = |shared: bool| json!({"network": {"shared": shared}});
    assert_eq!(cloud.ask("admin", "PUT", &path, share(true)).await.0, 200);
    let port = cloud.port("a", json!({"network_id": network})).await;
    assert_eq!(cloud.get("a", &subnet_path).await.0, 200);
    let port = format!("/v2.0/ports/{}", id(&port));
    assert_eq!(cloud.ask("a", "DELETE", &port, Value::Null).await.0, 204);
    assert_eq!(cloud.ask("admin", "PUT", &path, share(false)).await.0, 200);
    assert_eq!(cloud.get("a", &path).await.0, 200);
    let inside = json!({"network": {"router:external": false}});
    assert_eq!(cloud.ask("admin", "PUT", &path, inside).await.0, 200);
    cloud
        .refused("a", "GET", &path, Value::Null, 404, "NetworkNotFound")
        .await;
    let (_, grants) = cloud.get("admin", &query).await;
    assert_eq!(grants["rbac_policies"], json!([]));
}

#[tokio::test]
async fn a_way_out_can_be_one_projects() {
    let cloud = Cloud::new().await;
    let network = cloud.network("admin").await;
    let path = format!("{NETWORKS}/{network}");
    let grant = |action: &str, kind: &str, to: &str| {
        json!({"rbac_policy": {"object_type": kind, "object_id": network,
            "action": action, "target_tenant": to}})
    };
    let out = grant("access_as_external", "network", A);
    let (status, made) = cloud.ask("admin", "POST", GRANTS, out.clone()).await;
    assert_eq!(status, 201, "{made}");
    // The network leads outside by it, for that project alone.
    let (_, shown) = cloud.get("a", &path).await;
    assert_eq!(shown["network"]["router:external"], true);
    cloud
        .refused("b", "GET", &path, Value::Null, 404, "NetworkNotFound")
        .await;
    let (_, list) = cloud.get("a", NETWORKS).await;
    assert_eq!(names(&list["networks"]), ["n"]);
    assert_eq!(cloud.get("b", NETWORKS).await.1["networks"], json!([]));
    cloud
        .refused("admin", "POST", GRANTS, out, 409, "DuplicateRbacPolicy")
        .await;
    let both = grant("access_as_shared", "network", A);
    assert_eq!(cloud.ask("admin", "POST", GRANTS, both).await.0, 201);
    let group = cloud
        .made(
            "a",
            "/v2.0/security-groups",
            "security_group",
            json!({"name": "g"}),
        )
        .await;
    let wrong = json!({"rbac_policy": {"object_type": "security_group", "object_id": group["id"],
        "action": "access_as_external", "target_tenant": B}});
    cloud
        .refused("a", "POST", GRANTS, wrong, 400, "InvalidActionForType")
        .await;
    // A member opens no way outside.
    let own = cloud.network("a").await;
    let wrong = json!({"rbac_policy": {"object_type": "network", "object_id": own,
        "action": "access_as_external", "target_tenant": B}});
    cloud
        .refused("a", "POST", GRANTS, wrong, 403, "PolicyNotAuthorized")
        .await;
}

#[tokio::test]
async fn there_is_one_default_external_network() {
    let cloud = Cloud::new().await;
    let (first, _) = cloud.external("203.0.113.0/24").await;
    let (second, _) = cloud.external("198.51.100.0/24").await;
    let default = |is: bool| json!({"network": {"is_default": is}});
    let path = |id: &str| format!("{NETWORKS}/{id}");
    assert_eq!(
        cloud
            .ask("admin", "PUT", &path(&first), default(true))
            .await
            .0,
        200
    );
    let refused = ("DefaultExternalNetworkExists", 409);
    cloud
        .refused(
            "admin",
            "PUT",
            &path(&second),
            default(true),
            refused.1,
            refused.0,
        )
        .await;
    let plain = cloud.network("admin").await;
    cloud
        .refused(
            "admin",
            "PUT",
            &path(&plain),
            default(true),
            400,
            "InvalidInput",
        )
        .await;
    let (_, list) = cloud.get("a", &format!("{NETWORKS}?is_default=True")).await;
    assert_eq!(list["networks"].as_array().unwrap().len(), 1);
    let grants = format!("{GRANTS}?object_id={first}");
    let (_, grants) = cloud.get("admin", &grants).await;
    let grant = format!("{GRANTS}/{}", id(&grants["rbac_policies"][0]));
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
    let inside = json!({"network": {"router:external": false}});
    let (_, shown) = cloud.ask("admin", "PUT", &path(&first), inside).await;
    assert_eq!(shown["network"]["is_default"], false);
    assert_eq!(
        cloud
            .ask("admin", "PUT", &path(&second), default(true))
            .await
            .0,
        200
    );
    let gone = cloud
        .ask("admin", "DELETE", &path(&second), Value::Null)
        .await;
    assert_eq!(gone.0, 204);
    let body = json!({"router:external": true, "is_default": true});
    cloud.made("admin", NETWORKS, "network", body).await;
}
