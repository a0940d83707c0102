//! Trunks, as a client sees them: the steps that were recorded of a real Neutron, and what hosts make of them.

use super::*;
use crate::resource::Objects;

const TRUNKS: &str = "/v2.0/trunks";
const PORTS: &str = "/v2.0/ports";

impl Cloud {
    async fn trunk(&self, who: &str, body: Value) -> Value {
        self.made(who, TRUNKS, "trunk", body).await
    }

    /// A parent on one network, and as many other ports on another.
    async fn trunk_ports(&self, others: usize) -> (String, Vec<String>) {
        let (one, two) = (self.network("a").await, self.network("a").await);
        let parent = id(&self.port("a", json!({"network_id": one})).await);
        let mut ports = Vec::new();
        for _ in 0..others {
            ports.push(id(&self.port("a", json!({"network_id": two})).await));
        }
        (parent, ports)
    }

    async fn one(&self, who: &str, path: &str, key: &str) -> Value {
        let (status, body) = self.get(who, path).await;
        assert_eq!(status, 200, "{path}: {body}");
        body[key].clone()
    }
}

fn sub_port(port: &str, vlan: u16) -> Value {
    json!({"port_id": port, "segmentation_type": "vlan", "segmentation_id": vlan})
}

fn given(sub_ports: &[Value]) -> Value {
    json!({ "sub_ports": sub_ports })
}

#[tokio::test]
async fn a_trunk_has_neutrons_shape_and_errors() {
    let cloud = Cloud::new().await;
    let (p0, others) = cloud.trunk_ports(3).await;
    let [p1, p2, p3] = &others[..] else {
        panic!("three were made")
    };
    let first = sub_port(p1, 101);
    let body = json!({"port_id": p0, "name": "t", "sub_ports": [first]});
    let trunk = cloud.trunk("a", body).await;
    for (field, value) in [
        ("name", json!("t")),
        ("port_id", json!(p0)),
        ("admin_state_up", json!(true)),
        ("status", json!("DOWN")),
        ("sub_ports", json!([first])),
        ("description", json!("")),
        ("tags", json!([])),
        ("project_id", json!(A)),
        ("tenant_id", json!(A)),
        ("revision_number", json!(1)),
    ] {
        assert_eq!(trunk[field], value, "{field}");
    }
    let one = format!("{TRUNKS}/{}", id(&trunk));
    assert_eq!(cloud.one("a", &one, "trunk").await, trunk);
    let list = cloud.one("a", &format!("{TRUNKS}?name=t"), "trunks").await;
    assert_eq!(list, json!([trunk]));
    // The parent says it, nobody else does.
    let details = cloud
        .one("a", &format!("{PORTS}/{p0}?fields=trunk_details"), "port")
        .await;
    let mac = cloud.one("a", &format!("{PORTS}/{p1}"), "port").await["mac_address"].clone();
    let shown = json!({"segmentation_id": 101, "segmentation_type": "vlan", "port_id": p1, "mac_address": mac});
    let details_are = json!({"trunk_details": {"trunk_id": id(&trunk), "sub_ports": [shown]}});
    assert_eq!(details, details_are);
    let rows = cloud.one("a", PORTS, "ports").await;
    let says = |row: &&Value| row.get("trunk_details").is_some();
    assert_eq!(rows.as_array().unwrap().iter().filter(says).count(), 1);
    for (port, kind) in [(&p0, "ParentPortInUse"), (p1, "TrunkPortInUse")] {
        let body = json!({"trunk": {"port_id": port}});
        cloud.refused("a", "POST", TRUNKS, body, 409, kind).await;
    }
    for (body, status, kind) in [
        (json!({}), 400, "HTTPBadRequest"),
        (json!({"port_id": MISSING}), 404, "PortNotFound"),
        (
            json!({"port_id": p2, "sub_ports": [{"port_id": "x"}]}),
            400,
            "HTTPBadRequest",
        ),
        (
            json!({"port_id": p2, "sub_ports": [sub_port(p2, 5)]}),
            409,
            "ParentPortInUse",
        ),
        (
            json!({"port_id": p2, "sub_ports": [sub_port(&p0, 5)]}),
            409,
            "ParentPortInUse",
        ),
        (
            json!({"port_id": p2, "sub_ports": [sub_port(p1, 5)]}),
            409,
            "TrunkPortInUse",
        ),
        (
            json!({"port_id": p2, "sub_ports": [sub_port(MISSING, 5)]}),
            404,
            "PortNotFound",
        ),
        (
            json!({"port_id": p2, "sub_ports": [sub_port(p3, 4095)]}),
            400,
            "InvalidInput",
        ),
    ] {
        let body = json!({ "trunk": body });
        cloud.refused("a", "POST", TRUNKS, body, status, kind).await;
    }
    let add = format!("{one}/add_subports");
    let (status, bare) = cloud
        .ask("a", "PUT", &add, given(&[sub_port(p2, 102)]))
        .await;
    assert_eq!((status, &bare["id"]), (200, &trunk["id"]));
    assert_eq!(bare["sub_ports"], json!([first, sub_port(p2, 102)]));
    for (sub_ports, status, kind) in [
        (json!([sub_port(p3, 102)]), 409, "DuplicateSubPort"),
        (json!([sub_port(p2, 103)]), 409, "TrunkPortInUse"),
        (json!([sub_port(p3, 5000)]), 400, "InvalidInput"),
        (
            json!([{"port_id": p3, "segmentation_type": "foo", "segmentation_id": 5}]),
            400,
            "InvalidInput",
        ),
        (json!([{"port_id": p3}]), 400, "InvalidInput"),
        (
            json!([{"port_id": p3, "segmentation_type": "vlan", "segmentation_id": "x"}]),
            400,
            "InvalidInput",
        ),
        (
            json!([{"port_id": p3, "segmentation_type": "inherit"}]),
            400,
            "InvalidInput",
        ),
        (
            json!([sub_port(p3, 7), sub_port(p3, 8)]),
            400,
            "InvalidInput",
        ),
        (
            json!([with(sub_port(p3, 7), json!({"vlan": 7}))]),
            400,
            "InvalidInput",
        ),
        (json!([7]), 400, "HTTPBadRequest"),
        (json!(7), 400, "HTTPBadRequest"),
    ] {
        let body = json!({ "sub_ports": sub_ports });
        cloud.refused("a", "PUT", &add, body, status, kind).await;
    }
    let (_, all) = cloud.get("r", &format!("{one}/get_subports")).await;
    assert_eq!(all, given(&[first.clone(), sub_port(p2, 102)]));
    for (port, kind) in [(p1, "PortInUseAsSubPort"), (&p0, "PortInUseAsTrunkParent")] {
        let path = format!("{PORTS}/{port}");
        cloud
            .refused("a", "DELETE", &path, Value::Null, 409, kind)
            .await;
    }
    let disabled = json!({"trunk": {"admin_state_up": false, "name": "tt"}});
    assert_eq!(cloud.ask("a", "PUT", &one, disabled).await.0, 200);
    let remove = format!("{one}/remove_subports");
    for (method, path, body) in [
        ("PUT", &add, given(&[sub_port(p3, 104)])),
        ("PUT", &remove, given(&[json!({"port_id": p2})])),
        ("DELETE", &one, Value::Null),
    ] {
        cloud
            .refused("a", method, path, body, 409, "TrunkDisabled")
            .await;
    }
    let enabled = json!({"trunk": {"admin_state_up": true}});
    assert_eq!(cloud.ask("a", "PUT", &one, enabled).await.0, 200);
    let gone = given(&[json!({"port_id": p2})]);
    let (status, bare) = cloud.ask("a", "PUT", &remove, gone.clone()).await;
    assert_eq!((status, &bare["sub_ports"]), (200, &json!([first])));
    cloud
        .refused("a", "PUT", &remove, gone, 404, "SubPortNotFound")
        .await;
    assert_eq!(cloud.ask("a", "DELETE", &one, Value::Null).await.0, 204);
    cloud
        .refused("a", "DELETE", &one, Value::Null, 404, "TrunkNotFound")
        .await;
    for port in [&p0, p1, p2, p3] {
        let path = format!("{PORTS}/{port}");
        let left = cloud.one("a", &path, "port").await;
        assert_eq!(
            (&left["device_owner"], left.get("trunk_details")),
            (&json!(""), None)
        );
        assert_eq!(cloud.ask("a", "DELETE", &path, Value::Null).await.0, 204);
    }
}

#[tokio::test]
async fn a_trunk_is_its_projects_own() {
    let cloud = Cloud::new().await;
    let (p0, others) = cloud.trunk_ports(1).await;
    let trunk = cloud.trunk("a", json!({"port_id": p0})).await;
    let one = format!("{TRUNKS}/{}", id(&trunk));
    for path in [one.clone(), format!("{one}/get_subports")] {
        cloud
            .refused("b", "GET", &path, Value::Null, 404, "TrunkNotFound")
            .await;
    }
    assert_eq!(cloud.one("b", TRUNKS, "trunks").await, json!([]));
    // Others' ports are not to be had, neither as parents nor as sub-ports.
    let theirs = cloud.network("b").await;
    let theirs = id(&cloud.port("b", json!({"network_id": theirs})).await);
    let add = format!("{one}/add_subports");
    cloud
        .refused(
            "a",
            "PUT",
            &add,
            given(&[sub_port(&theirs, 5)]),
            404,
            "PortNotFound",
        )
        .await;
    let body = json!({"trunk": {"port_id": theirs}});
    cloud
        .refused("a", "POST", TRUNKS, body, 404, "PortNotFound")
        .await;
    let sub = given(&[sub_port(&others[0], 5)]);
    cloud
        .refused("r", "PUT", &add, sub, 403, "PolicyNotAuthorized")
        .await;
    cloud
        .refused("r", "DELETE", &one, Value::Null, 403, "PolicyNotAuthorized")
        .await;
    let quota = json!({"quota": {"trunk": 1}});
    let path = format!("/v2.0/quotas/{A}");
    assert_eq!(cloud.ask("admin", "PUT", &path, quota).await.0, 200);
    let body = json!({"trunk": {"port_id": others[0]}});
    cloud
        .refused("a", "POST", TRUNKS, body, 409, "OverQuota")
        .await;
}

#[tokio::test]
async fn a_sub_port_is_where_its_parent_is_and_nobodys_else() {
    let cloud = Cloud::new().await;
    cloud.host_on("h1", &[]).await;
    cloud.host_on("h2", &[]).await;
    let (p0, others) = cloud.trunk_ports(2).await;
    let place = |host: &str| json!({"port": {"binding:host_id": host}});
    let parent = format!("{PORTS}/{p0}");
    assert_eq!(cloud.ask("admin", "PUT", &parent, place("h1")).await.0, 200);
    let body = json!({"port_id": p0, "sub_ports": [sub_port(&others[0], 5)]});
    let one = format!("{TRUNKS}/{}", id(&cloud.trunk("a", body).await));
    let sub = format!("{PORTS}/{}", others[0]);
    let at = async |host: &str, owner: &str| {
        let port = cloud.one("admin", &sub, "port").await;
        let is = [
            &port["binding:host_id"],
            &port["device_owner"],
            &port["device_id"],
        ];
        assert_eq!(is, [&json!(host), &json!(owner), &json!("")]);
    };
    at("h1", "trunk:subport").await;
    assert_eq!(cloud.ask("admin", "PUT", &parent, place("h2")).await.0, 200);
    at("h2", "trunk:subport").await;
    cloud
        .refused("admin", "PUT", &sub, place("h1"), 409, "PortInUseAsSubPort")
        .await;
    let sub_ports = given(&[sub_port(&others[0], 5)]);
    let remove = format!("{one}/remove_subports");
    assert_eq!(cloud.ask("a", "PUT", &remove, sub_ports).await.0, 200);
    at("", "").await;
    // A device's own port is none of a trunk's.
    let device = json!({"port": {"device_id": "vm", "device_owner": "compute:az"}});
    assert_eq!(cloud.ask("admin", "PUT", &sub, device).await.0, 200);
    let add = format!("{one}/add_subports");
    let sub_ports = given(&[sub_port(&others[0], 5)]);
    cloud
        .refused("a", "PUT", &add, sub_ports, 409, "PortInUse")
        .await;
    // A trunk that is deleted lets go of all of it, bound or not.
    let sub_ports = given(&[sub_port(&others[1], 6)]);
    assert_eq!(cloud.ask("a", "PUT", &add, sub_ports).await.0, 200);
    assert_eq!(cloud.ask("a", "DELETE", &one, Value::Null).await.0, 204);
    let freed = cloud
        .one("admin", &format!("{PORTS}/{}", others[1]), "port")
        .await;
    assert_eq!(freed["binding:host_id"], "");
    assert_eq!(
        cloud.one("admin", &parent, "port").await["binding:host_id"],
        "h2"
    );
}

#[tokio::test]
async fn a_trunks_status_is_what_its_host_proved() {
    let cloud = Cloud::new().await;
    cloud.host_on("h1", &[]).await;
    let (p0, others) = cloud.trunk_ports(1).await;
    let body = json!({"port_id": p0, "sub_ports": [sub_port(&others[0], 5)]});
    let one = format!("{TRUNKS}/{}", id(&cloud.trunk("a", body).await));
    let status = async |is: &str| {
        assert_eq!(cloud.one("a", &one, "trunk").await["status"], is);
    };
    status("DOWN").await;
    let place = json!({"port": {"binding:host_id": "h1"}});
    let parent = format!("{PORTS}/{p0}");
    assert_eq!(cloud.ask("admin", "PUT", &parent, place).await.0, 200);
    status("DOWN").await;
    let snapshot = cloud.api.core.store.snapshot();
    let host = crate::resources::Host::by_name(&snapshot, "h1")
        .unwrap()
        .meta
        .id;
    let board = &cloud.api.core.status;
    let proves = |port: &str, proved| board.set_port(port.parse().unwrap(), host, proved);
    proves(&p0, true);
    status("BUILD").await;
    let sub: Uuid = others[0].parse().unwrap();
    board.set_complaint(sub, Some("no"));
    status("DEGRADED").await;
    board.set_complaint(sub, None);
    proves(&others[0], true);
    status("ACTIVE").await;
    // What carries nothing is not up.
    let down = json!({"trunk": {"admin_state_up": false}});
    assert_eq!(cloud.ask("a", "PUT", &one, down).await.0, 200);
    status("DOWN").await;
    let stored = cloud.api.core.store.snapshot();
    let objects = crate::compile::view::objects(&stored, &Facts::default());
    let told = objects.iter().find_map(|object| {
        let crate::compile::intent::Object::Port(port) = object else {
            return None;
        };
        (port.section.id.uuid() == sub).then_some(port)
    });
    let told = &told.unwrap().section;
    assert!(
        !told.admin_up
            && stored
                .object::<crate::resources::Port>(sub)
                .unwrap()
                .admin_state_up
    );
    assert_eq!(u16::from(told.trunk.unwrap().vlan), 5);
    assert_eq!(told.trunk.unwrap().parent.to_string(), p0);
}

#[tokio::test]
async fn a_segment_may_be_inherited_and_no_sub_port_is_wider_than_its_parent() {
    let cloud = Cloud::new().await;
    let vlan = json!({"provider:network_type": "vlan", "provider:physical_network": "physnet1", "provider:segmentation_id": 333});
    let wired = id(&cloud.made("admin", "/v2.0/networks", "network", vlan).await);
    let narrow = json!({"mtu": 1400});
    let narrow = id(&cloud
        .made("admin", "/v2.0/networks", "network", narrow)
        .await);
    let port = async |network: &str| id(&cloud.port("admin", json!({"network_id": network})).await);
    let (wide, small) = (port(&wired).await, port(&narrow).await);
    let body = json!({"port_id": wide, "sub_ports": [sub_port(&small, 9)]});
    cloud.trunk("admin", body).await;
    let (wide, small) = (port(&wired).await, port(&narrow).await);
    let body = json!({"trunk": {"port_id": small, "sub_ports": [sub_port(&wide, 9)]}});
    let kind = "SubPortMtuGreaterThanTrunkPortMtu";
    cloud
        .refused("admin", "POST", TRUNKS, body, 409, kind)
        .await;
    let parent = port(&wired).await;
    let inherits = json!({"port_id": wide, "segmentation_type": "inherit"});
    let trunk = cloud
        .trunk("admin", json!({"port_id": parent, "sub_ports": [inherits]}))
        .await;
    assert_eq!(trunk["sub_ports"], json!([sub_port(&wide, 333)]));
    // A number as text is a number.
    let text = json!({"port_id": small, "segmentation_type": "vlan", "segmentation_id": "12"});
    let add = format!("{TRUNKS}/{}/add_subports", id(&trunk));
    let (status, bare) = cloud.ask("admin", "PUT", &add, given(&[text])).await;
    assert_eq!(
        (status, &bare["sub_ports"][1]),
        (200, &sub_port(&small, 12))
    );
}
