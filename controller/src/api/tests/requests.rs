//! Does a request get as far as its handler?

use super::*;

#[tokio::test]
async fn who_has_no_good_token_gets_401() {
    let cloud = Cloud::new().await;
    for who in ["", "nonsense"] {
        let (status, body) = cloud.get(who, "/v2.0/networks").await;
        assert_eq!(status, 401);
        assert_eq!(body["error"]["title"], "Unauthorized");
        assert_eq!(cloud.get(who, "/v2.0/").await.0, 401);
        assert_eq!(cloud.get(who, "/v2.0/frobs").await.0, 401);
    }
    let (status, body) = cloud.get("", "/").await;
    assert_eq!(status, 200);
    assert_eq!(
        body["versions"][0]["links"][0]["href"],
        "http://cloud.example:9696/v2.0/"
    );
    assert_eq!(cloud.get("", "/healthz").await.0, 200);
}

#[tokio::test]
async fn paths_methods_and_forms_are_refused_as_neutron_does() {
    let cloud = Cloud::new().await;
    cloud
        .refused("a", "GET", "/v2.0/frobs", Value::Null, 404, "HTTPNotFound")
        .await;
    let patch = json!({"network": {}});
    cloud
        .refused(
            "a",
            "PATCH",
            "/v2.0/networks",
            patch,
            405,
            "HTTPMethodNotAllowed",
        )
        .await;
    assert_eq!(
        cloud
            .ask("a", "HEAD", "/v2.0/networks", Value::Null)
            .await
            .0,
        405
    );
    let xml = Request::builder()
        .uri("/v2.0/networks")
        .header("x-auth-token", "a")
        .header("accept", "application/xml")
        .body(Body::empty())
        .unwrap();
    assert_eq!(cloud.raw(xml).await.0, 406);
    let (status, body) = cloud.get("a", "/v2.0/extensions/nope").await;
    assert_eq!((status, body["title"].as_str()), (404, Some("Not Found")));
    let (_, body) = cloud.get("a", "/v2.0/extensions/sfc").await;
    assert_eq!(body["extension"]["alias"], "sfc");
}

#[tokio::test]
async fn a_path_that_is_no_utf8_is_refused_in_the_apis_own_words() {
    let cloud = Cloud::new().await;
    for path in [
        "/v2.0/quotas/ID/%%%details.json",
        "/v2.0/quotas/ID/%ff",
        "/v2.0/ports/%c3%28",
    ] {
        let (status, body) = cloud.get("a", path).await;
        assert_eq!(
            (status, &body["NeutronError"]["type"]),
            (400, &json!("HTTPBadRequest")),
            "{path}"
        );
    }
    let (status, body) = cloud.get("a", "/identity/v3/projects/%ff").await;
    assert_eq!((status, &body["error"]["code"]), (400, &json!(400)));
}

#[tokio::test]
async fn bad_bodies_are_named() {
    let cloud = Cloud::new().await;
    let networks = "/v2.0/networks";
    for (body, status, kind) in [
        (json!({"network": {"bogus": 1}}), 400, "HTTPBadRequest"),
        (json!({"net": {}}), 400, "HTTPBadRequest"),
        (json!({"networks": []}), 400, "HTTPBadRequest"),
        (json!({"network": {"name": 5}}), 400, "HTTPBadRequest"),
        (
            json!({"network": {"name": "x".repeat(256)}}),
            400,
            "HTTPBadRequest",
        ),
        (
            json!({"network": {"admin_state_up": "maybe"}}),
            400,
            "InvalidInput",
        ),
        (json!({"network": {"mtu": 60_000}}), 400, "InvalidInput"),
        (
            json!({"network": {"shared": true}}),
            403,
            "PolicyNotAuthorized",
        ),
        (
            json!({"network": {"provider:network_type": "vlan"}}),
            403,
            "PolicyNotAuthorized",
        ),
        (json!({"network": {"tenant_id": B}}), 400, "HTTPBadRequest"),
        (
            json!({"networks": [{}, {"project_id": B}]}),
            400,
            "HTTPBadRequest",
        ),
    ] {
        cloud
            .refused("a", "POST", networks, body, status, kind)
            .await;
    }
    let (_, body) = cloud.get("a", networks).await;
    assert_eq!(body["networks"], json!([]), "nothing half-made is left");
    for (body, kind) in [
        (json!({"provider:network_type": "foo"}), "InvalidInput"),
        (json!({"provider:segmentation_id": 5}), "InvalidInput"),
        (
            json!({"provider:network_type": "vxlan", "provider:physical_network": "p"}),
            "InvalidInput",
        ),
        (json!({"tenant_id": A, "project_id": B}), "HTTPBadRequest"),
    ] {
        let body = json!({"network": body});
        cloud
            .refused("admin", "POST", networks, body, 400, kind)
            .await;
    }
    let vni = json!({"provider:network_type": "vxlan", "provider:segmentation_id": 4242});
    let made = cloud.made("admin", networks, "network", vni.clone()).await;
    assert_eq!(made["provider:segmentation_id"], 4242);
    let again = json!({"network": vni});
    cloud
        .refused("admin", "POST", networks, again, 409, "TunnelIdInUse")
        .await;
    let request = Request::post(networks)
        .header("x-auth-token", "a")
        .body(Body::from("{\"network\":"))
        .unwrap();
    assert_eq!(cloud.raw(request).await.0, 400);
}

#[tokio::test]
async fn lists_are_filtered_sorted_and_paged() {
    let cloud = Cloud::new().await;
    let bulk: Vec<Value> = (0..7).map(|n| json!({"name": format!("pg0{n}")})).collect();
    let (status, body) = cloud
        .ask("a", "POST", "/v2.0/networks", json!({"networks": bulk}))
        .await;
    assert_eq!(status, 201);
    assert_eq!(names(&body["networks"]).len(), 7);
    let sorted = "/v2.0/networks?limit=3&sort_key=name&sort_dir=asc";
    let (_, page) = cloud.get("a", sorted).await;
    assert_eq!(names(&page["networks"]), ["pg00", "pg01", "pg02"]);
    let marker = id(&page["networks"][2]);
    let (_, page) = cloud.get("a", &format!("{sorted}&marker={marker}")).await;
    assert_eq!(names(&page["networks"]), ["pg03", "pg04", "pg05"]);
    assert_eq!(page["networks_links"][0]["rel"], "next");
    assert_eq!(page["networks_links"][1]["rel"], "previous");
    let href = page["networks_links"][1]["href"].as_str().unwrap();
    let (_, back) = cloud
        .get("a", href.strip_prefix("http://cloud.example:9696").unwrap())
        .await;
    assert_eq!(names(&back["networks"]), ["pg00", "pg01", "pg02"]);
    let marker = id(&page["networks"][2]);
    let (_, page) = cloud.get("a", &format!("{sorted}&marker={marker}")).await;
    assert_eq!(names(&page["networks"]), ["pg06"]);
    assert_eq!(page["networks_links"].as_array().unwrap().len(), 1);
    let (_, page) = cloud.get("a", &format!("{sorted}&page_reverse=True")).await;
    assert_eq!(names(&page["networks"]), ["pg04", "pg05", "pg06"]);
    let (_, list) = cloud
        .get("a", "/v2.0/networks?name=pg01&name=pg05&fields=name")
        .await;
    assert_eq!(list["networks"].as_array().unwrap().len(), 2);
    let (_, list) = cloud
        .get("a", "/v2.0/networks?bogus=1&admin_state_up=True")
        .await;
    assert_eq!(list["networks"].as_array().unwrap().len(), 7);
    let (_, list) = cloud.get("b", "/v2.0/networks").await;
    assert_eq!(list["networks"], json!([]));
    for (query, status, kind) in [
        ("admin_state_up=maybe", 400, "InvalidInput"),
        ("sort_key=name", 400, "HTTPBadRequest"),
        ("limit=-1", 400, "BadRequest"),
        (
            "limit=2&marker=00000000-0000-4000-8000-000000000000",
            404,
            "NetworkNotFound",
        ),
    ] {
        let path = format!("/v2.0/networks?{query}");
        cloud
            .refused("a", "GET", &path, Value::Null, status, kind)
            .await;
    }
}

#[tokio::test]
async fn changes_may_be_bound_to_a_revision() {
    let cloud = Cloud::new().await;
    let path = format!("/v2.0/networks/{}", cloud.network("a").await);
    let change = |matching: &str| {
        Request::put(&path)
            .header("x-auth-token", "a")
            .header("if-match", matching)
            .body(Body::from(
                json!({"network": {"name": matching}}).to_string(),
            ))
            .unwrap()
    };
    assert_eq!(cloud.raw(change("revision_number=9")).await.0, 412);
    assert_eq!(cloud.raw(change("revision_number=1")).await.0, 200);
    assert_eq!(cloud.raw(change("nonsense")).await.0, 200);
}

#[tokio::test]
async fn a_bulk_create_is_whole_or_not_at_all() {
    let cloud = Cloud::new().await;
    let network = cloud.network("a").await;
    cloud.subnet("a", &network, "10.20.0.0/24").await;
    let ports: Vec<Value> = (0..20)
        .map(|_| json!({"network_id": network, "name": "b"}))
        .collect();
    let (status, body) = cloud
        .ask("a", "POST", "/v2.0/ports", json!({"ports": ports}))
        .await;
    assert_eq!(status, 201);
    let addresses: std::collections::BTreeSet<String> = body["ports"]
        .as_array()
        .unwrap()
        .iter()
        .map(|port| port["fixed_ips"][0]["ip_address"].to_string())
        .collect();
    assert_eq!(addresses.len(), 20);
    let groups: std::collections::BTreeSet<String> = body["ports"]
        .as_array()
        .unwrap()
        .iter()
        .map(|port| port["security_groups"].to_string())
        .collect();
    assert_eq!(groups.len(), 1, "one default group");
    let bad = json!({"ports": [
        {"network_id": network, "name": "bb"},
        {"network_id": network, "name": "bb", "fixed_ips": [{"ip_address": "10.20.0.5"}]},
    ]});
    cloud
        .refused(
            "a",
            "POST",
            "/v2.0/ports",
            bad,
            409,
            "IpAddressAlreadyAllocated",
        )
        .await;
    let (_, list) = cloud.get("a", "/v2.0/ports?name=bb").await;
    assert_eq!(list["ports"], json!([]));
}
