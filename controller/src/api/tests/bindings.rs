//! Several bindings of a port: what a compute service asks for while it moves a workload.

use super::*;

impl Cloud {
    /// A port of a compute service's, on the first of two hosts, and the path of its bindings.
    async fn bound(&self) -> (String, String) {
        for host in ["h1", "h2"] {
            self.host_on(host, &[]).await;
        }
        let body = json!({
            "network_id": self.network("a").await, "binding:host_id": "h1",
            "device_owner": "compute:nova", "project_id": A,
        });
        let port = id(&self.port("admin", body).await);
        let path = format!("/v2.0/ports/{port}/bindings");
        (port, path)
    }

    /// The hosts of a port's bindings and their states.
    async fn at(&self, path: &str) -> Vec<(String, String)> {
        let (status, listed) = self.get("admin", path).await;
        assert_eq!(status, 200, "{listed}");
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        let rows = listed["bindings"].as_array().unwrap().iter();
        rows.map(|row| (text(&row["host"]), text(&row["status"])))
            .collect()
    }

    async fn port_shown(&self, port: &str) -> Value {
        self.get("admin", &format!("/v2.0/ports/{port}")).await.1["port"].clone()
    }
}

fn at(host: &str, active: bool) -> (String, String) {
    let status = if active { "ACTIVE" } else { "INACTIVE" };
    (host.to_owned(), status.to_owned())
}

#[tokio::test]
async fn a_port_is_bound_beside_and_moves_when_that_is_activated() {
    let cloud = Cloud::new().await;
    let (port, path) = cloud.bound().await;
    assert_eq!(cloud.at(&path).await, [at("h1", true)]);
    let body = json!({"binding": {"host": "h2", "profile": {"migrating_to": "h2"}}});
    let (status, made) = cloud.ask("admin", "POST", &path, body).await;
    let shown = json!({
        "host": "h2", "vif_type": "tap", "vnic_type": "normal", "status": "INACTIVE",
        "vif_details": {"port_filter": true, "connectivity": "l2"},
        "profile": {"migrating_to": "h2"},
    });
    assert_eq!((status, &made), (201, &json!({"binding": shown})));
    let both = [at("h1", true), at("h2", false)];
    assert_eq!(cloud.at(&path).await, both);
    let before = cloud.port_shown(&port).await;
    assert_eq!(before["binding:host_id"], "h1", "nothing moved yet");
    let one = format!("{path}/h2");
    assert_eq!(cloud.get("admin", &one).await, (200, made));
    let (_, only) = cloud.get("admin", &format!("{one}?fields=status")).await;
    assert_eq!(only, json!({"binding": {"status": "INACTIVE"}}));
    let (_, listed) = cloud.get("admin", &format!("{path}?status=INACTIVE")).await;
    assert_eq!(listed["bindings"], json!([shown]));

    let (status, active) = cloud
        .ask("admin", "PUT", &format!("{one}/activate"), Value::Null)
        .await;
    let mut now = shown.clone();
    now["status"] = json!("ACTIVE");
    assert_eq!((status, active), (200, now));
    assert_eq!(cloud.at(&path).await, [at("h2", true), at("h1", false)]);
    let after = cloud.port_shown(&port).await;
    assert_eq!(after["binding:host_id"], "h2");
    assert_eq!(after["binding:profile"], json!({"migrating_to": "h2"}));
    let revision = |port: &Value| port["revision_number"].as_i64().unwrap();
    assert_eq!(revision(&after), revision(&before) + 1, "at once");
    assert_eq!(after["fixed_ips"], before["fixed_ips"]);
    // The way back is there until it is given up.
    let back = format!("{path}/h1");
    assert_eq!(
        cloud.ask("admin", "DELETE", &back, Value::Null).await.0,
        204
    );
    assert_eq!(cloud.at(&path).await, [at("h2", true)]);
    // Without its active one it is nowhere.
    assert_eq!(cloud.ask("admin", "DELETE", &one, Value::Null).await.0, 204);
    assert_eq!(cloud.at(&path).await, [at("", true)]);
    let after = cloud.port_shown(&port).await;
    assert_eq!(after["binding:vif_type"], "unbound");
    assert_eq!(after["binding:profile"], json!({}));
}

#[tokio::test]
async fn what_cannot_be_is_refused_and_changes_nothing() {
    let cloud = Cloud::new().await;
    let (port, path) = cloud.bound().await;
    let make = |host: Value| json!({"binding": {"host": host}});
    cloud
        .made("admin", &path, "binding", json!({"host": "h2"}))
        .await;
    for (method, more, body, status, kind) in [
        (
            "POST",
            "",
            make(json!("h2")),
            409,
            "PortBindingAlreadyExists",
        ),
        (
            "POST",
            "",
            make(json!("h1")),
            409,
            "PortBindingAlreadyExists",
        ),
        ("POST", "", make(json!("nobody")), 409, "PortBindingError"),
        ("POST", "", make(json!("")), 400, "HTTPBadRequest"),
        ("POST", "", make(json!(7)), 400, "HTTPBadRequest"),
        ("POST", "", json!({"binding": {}}), 400, "HTTPBadRequest"),
        ("POST", "", json!({}), 400, "HTTPBadRequest"),
        (
            "POST",
            "",
            json!({"binding": {"host": "h2", "status": "ACTIVE"}}),
            400,
            "HTTPBadRequest",
        ),
        (
            "PUT",
            "/h2",
            json!({"binding": {"vnic_type": "weird"}}),
            400,
            "HTTPBadRequest",
        ),
        (
            "PUT",
            "/h2",
            json!({"binding": {"vnic_type": "direct"}}),
            409,
            "PortBindingError",
        ),
        (
            "PUT",
            "/h2",
            json!({"binding": {"profile": 7}}),
            400,
            "HTTPBadRequest",
        ),
        (
            "PUT",
            "/h2",
            make(json!("h1")),
            409,
            "PortBindingAlreadyExists",
        ),
        ("PUT", "/h2", make(json!("nobody")), 409, "PortBindingError"),
        (
            "PUT",
            "/h3",
            json!({"binding": {}}),
            404,
            "PortBindingNotFound",
        ),
        ("GET", "/h3", Value::Null, 404, "PortBindingNotFound"),
        ("DELETE", "/h3", Value::Null, 404, "PortBindingNotFound"),
        (
            "PUT",
            "/h3/activate",
            Value::Null,
            404,
            "PortBindingNotFound",
        ),
        (
            "PUT",
            "/h1/activate",
            Value::Null,
            409,
            "PortBindingAlreadyActive",
        ),
    ] {
        let path = format!("{path}{more}");
        cloud
            .refused("admin", method, &path, body, status, kind)
            .await;
    }
    assert_eq!(cloud.at(&path).await, [at("h1", true), at("h2", false)]);
    // They are for admins and services alone.
    for (method, more) in [
        ("GET", ""),
        ("POST", ""),
        ("GET", "/h2"),
        ("PUT", "/h2"),
        ("DELETE", "/h2"),
        ("PUT", "/h2/activate"),
    ] {
        let body = match method {
            "POST" => make(json!("h3")),
            _ => json!({"binding": {}}),
        };
        let path = format!("{path}{more}");
        cloud
            .refused("a", method, &path, body.clone(), 403, "PolicyNotAuthorized")
            .await;
        cloud
            .refused("b", method, &path, body, 404, "PortNotFound")
            .await;
    }
    // A host that a workload may come to stays; and so do ports of others where those say.
    let (_, hosts) = cloud.get("admin", "/v2.0/overweave/hosts?name=h2").await;
    let host = format!("/v2.0/overweave/hosts/{}", id(&hosts["hosts"][0]));
    cloud
        .refused("admin", "DELETE", &host, Value::Null, 409, "HostInUse")
        .await;
    let body = json!({"port": {"device_owner": ""}});
    cloud
        .ask("admin", "PUT", &format!("/v2.0/ports/{port}"), body)
        .await;
    for (method, more) in [("GET", ""), ("POST", ""), ("PUT", "/h2/activate")] {
        let path = format!("{path}{more}");
        cloud
            .refused("admin", method, &path, make(json!("h3")), 400, "BadRequest")
            .await;
    }
    let gone = format!("/v2.0/ports/{port}");
    assert_eq!(
        cloud.ask("admin", "DELETE", &gone, Value::Null).await.0,
        204
    );
    assert_eq!(
        cloud.ask("admin", "DELETE", &host, Value::Null).await.0,
        204
    );
}

#[tokio::test]
async fn bindings_change_are_few_and_give_way_to_the_ports_own() {
    let cloud = Cloud::new().await;
    let (port, path) = cloud.bound().await;
    cloud
        .made("admin", &path, "binding", json!({"host": "h2"}))
        .await;
    // Of the active one what changes is the port's own.
    let body = json!({"binding": {"profile": {"x": 1}}});
    let (status, _) = cloud
        .ask("admin", "PUT", &format!("{path}/h1"), body.clone())
        .await;
    assert_eq!(status, 200);
    assert_eq!(
        cloud.port_shown(&port).await["binding:profile"],
        json!({"x": 1})
    );
    let (_, changed) = cloud.ask("admin", "PUT", &format!("{path}/h2"), body).await;
    assert_eq!(changed["binding"]["profile"], json!({"x": 1}));
    assert_eq!(changed["binding"]["status"], "INACTIVE");
    let none = json!({"binding": {"profile": null}});
    let (_, changed) = cloud.ask("admin", "PUT", &format!("{path}/h2"), none).await;
    assert_eq!(changed["binding"]["profile"], json!({}));
    // Bound the old way to where it could go, it is there, once.
    let own = json!({"port": {"binding:host_id": "h2"}});
    cloud
        .ask("admin", "PUT", &format!("/v2.0/ports/{port}"), own)
        .await;
    assert_eq!(cloud.at(&path).await, [at("h2", true)]);
    for n in 10..26 {
        let host = format!("h{n}");
        cloud.host_on(&host, &[]).await;
        cloud
            .made("admin", &path, "binding", json!({"host": host}))
            .await;
    }
    let one_more = json!({"binding": {"host": "h1"}});
    cloud
        .refused("admin", "POST", &path, one_more, 409, "PortBindingError")
        .await;
    assert_eq!(cloud.at(&path).await.len(), 17);
    // Renamed, it is another host's, though there are as many as may be.
    let other = json!({"binding": {"host": "h1"}});
    let (status, renamed) = cloud
        .ask("admin", "PUT", &format!("{path}/h10"), other)
        .await;
    assert_eq!((status, &renamed["binding"]["host"]), (200, &json!("h1")));
}

#[tokio::test]
async fn what_no_switch_attaches_is_bound_nowhere() {
    let cloud = Cloud::new().await;
    let (port, path) = cloud.bound().await;
    let direct = |host: &str| json!({"binding": {"host": host, "vnic_type": "direct"}});
    cloud
        .refused(
            "admin",
            "POST",
            &path,
            direct("h2"),
            409,
            "PortBindingError",
        )
        .await;
    // Of the active one it is what the port asks for.
    let here = format!("{path}/h1");
    let (status, shown) = cloud.ask("admin", "PUT", &here, direct("h1")).await;
    assert_eq!(status, 200, "{shown}");
    let failed = |binding: &Value| {
        assert_eq!(binding["vnic_type"], "direct");
        assert_eq!(binding["vif_type"], "binding_failed");
        assert_eq!(binding["vif_details"], json!({}));
    };
    failed(&shown["binding"]);
    assert_eq!(
        cloud.port_shown(&port).await["binding:vif_type"],
        "binding_failed"
    );
    // The way out is a host where it asks for what there is, and the way back stays.
    cloud
        .made("admin", &path, "binding", json!({"host": "h2"}))
        .await;
    let go = format!("{path}/h2/activate");
    assert_eq!(cloud.ask("admin", "PUT", &go, Value::Null).await.0, 200);
    let after = cloud.port_shown(&port).await;
    assert_eq!(after["binding:vif_type"], "tap");
    assert_eq!(after["binding:vnic_type"], "normal");
    failed(&cloud.get("admin", &here).await.1["binding"]);
    let note = json!({"binding": {"profile": {"x": 1}}});
    assert_eq!(cloud.ask("admin", "PUT", &here, note).await.0, 200);
}

#[tokio::test]
async fn a_host_without_the_networks_wire_is_no_place_to_go() {
    let cloud = Cloud::new().await;
    cloud.host_on("h1", &["physnet1"]).await;
    cloud.host_on("h2", &[]).await;
    let body = json!({"provider:network_type": "flat", "provider:physical_network": "physnet1"});
    let network = id(&cloud.made("admin", "/v2.0/networks", "network", body).await);
    let body = json!({"network_id": network, "device_owner": "compute:nova"});
    let port = id(&cloud.port("admin", body).await);
    let path = format!("/v2.0/ports/{port}/bindings");
    let to = |host: &str| json!({"binding": {"host": host}});
    cloud
        .refused("admin", "POST", &path, to("h2"), 409, "PortBindingError")
        .await;
    // A port that is nowhere goes where it is activated first.
    let (status, made) = cloud.ask("admin", "POST", &path, to("h1")).await;
    assert_eq!(
        (status, &made["binding"]["status"]),
        (201, &json!("INACTIVE"))
    );
    let (status, _) = cloud
        .ask("admin", "PUT", &format!("{path}/h1/activate"), Value::Null)
        .await;
    assert_eq!(status, 200);
    assert_eq!(cloud.at(&path).await, [at("h1", true), at("", false)]);
    assert_eq!(cloud.port_shown(&port).await["binding:host_id"], "h1");
}
