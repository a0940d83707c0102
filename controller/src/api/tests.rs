//! The API as a client sees it: statuses, shapes and error types of a real Neutron's recordings.

#![expect(
    clippy::too_many_lines,
    reason = "tables of requests and their answers"
)]

use super::*;
use crate::{
    audit::Audit,
    resource::Policy,
    rules::Facts,
    store::{Embedded, MemoryDisk, transact},
    time::{Clock, Seconds},
};
use serde_json::{Map, Value};
use tower::ServiceExt;
use uuid::Uuid;

/// A controller in memory, with an admin, two projects with a member each, and a reader of the first.
struct Cloud {
    api: Api,
    router: Router,
}

const A: &str = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";
const B: &str = "bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb";
const ADMIN: &str = "dddddddddddddddddddddddddddddddd";
const MISSING: &str = "00000000-0000-4000-8000-000000000000";

impl Cloud {
    async fn new() -> Self {
        Self::with(Facts {
            ca_pin: "PIN".to_owned(),
            underlay_mtu: None,
        })
        .await
    }

    async fn with(facts: Facts) -> Self {
        // One hash for all clouds of a process: it is made to be slow.
        static HASH: std::sync::OnceLock<String> = std::sync::OnceLock::new();
        let (store, writer) = Embedded::open(Arc::new(MemoryDisk::new(Uuid::nil()))).unwrap();
        tokio::spawn(writer);
        let core = Arc::new(Core::new(
            Arc::new(store),
            facts,
            Clock::default(),
            Audit::none(),
        ));
        let hash = HASH.get_or_init(|| identity::hash_password("secret", [1; 16]).unwrap());
        transact::<_, ()>(core.store.as_ref(), move |view| {
            let who = [
                ("admin", ADMIN, "admin"),
                ("a", A, "member"),
                ("b", B, "member"),
                ("r", A, "reader"),
                ("s", A, "service"),
            ];
            for role in identity::ROLES {
                let record = identity::Role {
                    id: (*role).to_owned(),
                    name: (*role).to_owned(),
                    description: String::new(),
                };
                view.put(identity::key("role", role), Arc::new(record));
                view.put(
                    identity::name_key("role", role),
                    Arc::new((*role).to_owned()),
                );
            }
            for (name, project_id, role) in who {
                let id = format!("user-{name}");
                let project = identity::Project {
                    id: project_id.to_owned(),
                    name: format!("project of {name}"),
                    description: String::new(),
                    enabled: true,
                };
                view.put(identity::key("project", project_id), Arc::new(project));
                let user = identity::User {
                    id: id.clone(),
                    name: name.to_owned(),
                    description: String::new(),
                    email: None,
                    enabled: true,
                    default_project_id: Some(project_id.to_owned()),
                    password_hash: Some(hash.clone()),
                };
                view.put(identity::key("user", &id), Arc::new(user));
                view.put(identity::name_key("user", name), Arc::new(id.clone()));
                let assignment = identity::Assignment {
                    user_id: id.clone(),
                    project_id: project_id.to_owned(),
                    role_id: role.to_owned(),
                };
                let key = identity::assignment_key(project_id, &id, role);
                view.put(key, Arc::new(assignment));
                let token = identity::Token {
                    user_id: id,
                    project_id: Some(project_id.to_owned()),
                    methods: Vec::new(),
                    audit_id: String::new(),
                    issued_at: Seconds::default(),
                    expires_at: Seconds::new(u64::MAX),
                };
                view.put(identity::token_key(name), Arc::new(token));
            }
            Ok(())
        })
        .await
        .unwrap();
        let stats = Arc::new(Stats::new().unwrap());
        let api = Api::new(core, stats, "http");
        Self {
            router: api.clone().router(),
            api,
        }
    }

    async fn raw(&self, request: Request<Body>) -> (StatusCode, HeaderMap, Value) {
        let response = self.router.clone().oneshot(request).await.unwrap();
        let (parts, body) = response.into_parts();
        let bytes = axum::body::to_bytes(body, usize::MAX).await.unwrap();
        let body = serde_json::from_slice(&bytes).unwrap_or(Value::Null);
        (parts.status, parts.headers, body)
    }

    /// A request as this user; the answer's status and body.
    async fn ask(&self, who: &str, method: &str, path: &str, body: Value) -> (u16, Value) {
        let mut request = Request::builder()
            .method(method)
            .uri(path)
            .header("host", "cloud.example:9696");
        if !who.is_empty() {
            request = request.header("x-auth-token", who);
        }
        let body = if body.is_null() {
            Body::empty()
        } else {
            Body::from(body.to_string())
        };
        let (status, headers, body) = self.raw(request.body(body).unwrap()).await;
        assert!(status.as_u16() < 500, "{method} {path}: {status} {body}");
        if path.starts_with("/v2.0") && status != StatusCode::NOT_FOUND {
            assert!(headers.contains_key("x-openstack-request-id") || status.as_u16() >= 400);
        }
        (status.as_u16(), body)
    }

    async fn get(&self, who: &str, path: &str) -> (u16, Value) {
        self.ask(who, "GET", path, Value::Null).await
    }

    /// A create that must succeed; the object.
    async fn made(&self, who: &str, path: &str, key: &str, body: Value) -> Value {
        let (status, answer) = self.ask(who, "POST", path, json!({key: body})).await;
        assert_eq!(status, 201, "{path} {body}: {answer}");
        answer[key].clone()
    }

    /// A request that must be refused with this status and error type.
    async fn refused(
        &self,
        who: &str,
        method: &str,
        path: &str,
        body: Value,
        status: u16,
        kind: &str,
    ) -> Value {
        let (have, answer) = self.ask(who, method, path, body.clone()).await;
        assert_eq!(
            (
                have,
                answer["NeutronError"]["type"].as_str().unwrap_or_default()
            ),
            (status, kind),
            "{method} {path} {body}: {answer}"
        );
        answer
    }

    async fn network(&self, who: &str) -> String {
        let network = self
            .made(who, "/v2.0/networks", "network", json!({"name": "n"}))
            .await;
        id(&network)
    }

    async fn subnet(&self, who: &str, network: &str, cidr: &str) -> Value {
        let version = if cidr.contains(':') { 6 } else { 4 };
        let body = json!({"network_id": network, "ip_version": version, "cidr": cidr});
        self.made(who, "/v2.0/subnets", "subnet", body).await
    }

    async fn port(&self, who: &str, body: Value) -> Value {
        self.made(who, "/v2.0/ports", "port", body).await
    }
}

fn id(object: &Value) -> String {
    object["id"].as_str().unwrap().to_owned()
}

fn names(list: &Value) -> Vec<&str> {
    list.as_array()
        .unwrap()
        .iter()
        .map(|row| row["name"].as_str().unwrap())
        .collect()
}

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
async fn networks_have_neutrons_shape_and_policies() {
    let cloud = Cloud::new().await;
    let network = cloud
        .made("a", "/v2.0/networks", "network", json!({"name": "gn1"}))
        .await;
    for (field, value) in [
        ("name", json!("gn1")),
        ("tenant_id", json!(A)),
        ("project_id", json!(A)),
        ("admin_state_up", json!(true)),
        ("mtu", json!(1450)),
        ("status", json!("ACTIVE")),
        ("subnets", json!([])),
        ("shared", json!(false)),
        ("port_security_enabled", json!(true)),
        ("router:external", json!(false)),
        ("description", json!("")),
        ("revision_number", json!(1)),
        ("tags", json!([])),
    ] {
        assert_eq!(network[field], value, "{field}");
    }
    assert!(network.get("provider:segmentation_id").is_none());
    let path = format!("/v2.0/networks/{}", id(&network));
    let (_, shown) = cloud.get("admin", &path).await;
    assert_eq!(shown["network"]["provider:network_type"], "vxlan");
    assert_eq!(shown["network"]["provider:segmentation_id"], 1);
    let (_, shown) = cloud
        .get("a", &format!("{path}?fields=id&fields=name"))
        .await;
    assert_eq!(
        shown,
        json!({"network": {"id": network["id"], "name": "gn1"}})
    );
    let (_, shown) = cloud.get("a", &format!("{path}?fields=bogus")).await;
    assert_eq!(shown, json!({"network": {}}));
    assert_eq!(cloud.get("r", &path).await.0, 200);
    let body = || json!({"network": {"name": "x"}});
    cloud
        .refused("b", "GET", &path, Value::Null, 404, "NetworkNotFound")
        .await;
    cloud
        .refused("b", "PUT", &path, body(), 404, "NetworkNotFound")
        .await;
    cloud
        .refused("b", "DELETE", &path, Value::Null, 404, "NetworkNotFound")
        .await;
    cloud
        .refused("r", "PUT", &path, body(), 403, "PolicyNotAuthorized")
        .await;
    cloud
        .refused(
            "r",
            "DELETE",
            &path,
            Value::Null,
            403,
            "PolicyNotAuthorized",
        )
        .await;
    cloud
        .refused(
            "r",
            "POST",
            "/v2.0/networks",
            body(),
            403,
            "PolicyNotAuthorized",
        )
        .await;
    let (status, body) = cloud
        .ask(
            "a",
            "PUT",
            &path,
            json!({"network": {"name": "gn1b", "description": "d"}}),
        )
        .await;
    assert_eq!(
        (status, &body["network"]["revision_number"]),
        (200, &json!(2))
    );
    let (_, body) = cloud.ask("a", "PUT", &path, json!({"network": {}})).await;
    assert_eq!(body["network"]["revision_number"], 2);
    assert_eq!(cloud.ask("a", "DELETE", &path, Value::Null).await.0, 204);
    cloud
        .refused("a", "GET", &path, Value::Null, 404, "NetworkNotFound")
        .await;
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
async fn a_known_underlay_bounds_the_mtu() {
    let facts = Facts {
        ca_pin: String::new(),
        underlay_mtu: Some(1600),
    };
    let cloud = Cloud::with(facts).await;
    let network = cloud
        .made("a", "/v2.0/networks", "network", json!({}))
        .await;
    assert_eq!(network["mtu"], 1506);
    let body = json!({"network": {"mtu": 1507}});
    cloud
        .refused("a", "POST", "/v2.0/networks", body, 400, "InvalidInput")
        .await;
    let cloud = Cloud::new().await;
    let network = cloud
        .made("a", "/v2.0/networks", "network", json!({"mtu": 9000}))
        .await;
    assert_eq!(network["mtu"], 9000);
}

#[tokio::test]
async fn shared_networks_are_seen_and_used_but_not_changed() {
    let cloud = Cloud::new().await;
    let body = json!({"name": "s", "shared": true});
    let network = id(&cloud.made("admin", "/v2.0/networks", "network", body).await);
    let path = format!("/v2.0/networks/{network}");
    assert_eq!(cloud.get("a", &path).await.0, 200);
    let (_, list) = cloud.get("b", "/v2.0/networks").await;
    assert_eq!(names(&list["networks"]), ["s"]);
    let rename = json!({"network": {"name": "x"}});
    cloud
        .refused("a", "PUT", &path, rename, 403, "PolicyNotAuthorized")
        .await;
    let subnet = json!({"subnet": {"network_id": network, "ip_version": 4, "cidr": "10.0.0.0/24"}});
    cloud
        .refused(
            "a",
            "POST",
            "/v2.0/subnets",
            subnet,
            403,
            "PolicyNotAuthorized",
        )
        .await;
    let port = cloud.port("a", json!({"network_id": network})).await;
    let own = cloud.subnet("admin", &network, "10.0.0.0/24").await;
    let (_, list) = cloud.get("a", "/v2.0/subnets").await;
    assert_eq!(list["subnets"][0]["id"], own["id"]);
    let unshare = json!({"network": {"shared": false}});
    cloud
        .refused(
            "admin",
            "PUT",
            &path,
            unshare.clone(),
            409,
            "InvalidSharedSetting",
        )
        .await;
    cloud
        .refused("admin", "DELETE", &path, Value::Null, 409, "NetworkInUse")
        .await;
    let path_of_port = format!("/v2.0/ports/{}", id(&port));
    assert_eq!(
        cloud.ask("a", "DELETE", &path_of_port, Value::Null).await.0,
        204
    );
    assert_eq!(cloud.ask("admin", "PUT", &path, unshare).await.0, 200);
    assert_eq!(cloud.get("a", &path).await.0, 404);
    assert_eq!(
        cloud.get("a", "/v2.0/subnets").await.1["subnets"],
        json!([])
    );
    let share = json!({"network": {"shared": true}});
    assert_eq!(cloud.ask("admin", "PUT", &path, share).await.0, 200);
    let (_, list) = cloud.get("b", "/v2.0/subnets").await;
    assert_eq!(list["subnets"][0]["id"], own["id"]);
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

/// The first object with the second's keys over it.
fn with(mut base: Value, over: Value) -> Value {
    if let (Value::Object(base), Value::Object(over)) = (&mut base, over) {
        base.extend(over);
    }
    base
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
async fn the_default_group_is_there_at_the_first_touch() {
    let cloud = Cloud::new().await;
    let (_, list) = cloud.get("a", "/v2.0/security-groups?name=default").await;
    let group = list["security_groups"][0].clone();
    assert_eq!(group["description"], "Default security group");
    assert_eq!(group["security_group_rules"].as_array().unwrap().len(), 4);
    let path = format!("/v2.0/security-groups/{}", id(&group));
    let groups = "/v2.0/security-groups";
    let named = |name: &str| json!({"security_group": {"name": name}});
    cloud
        .refused(
            "a",
            "POST",
            groups,
            named("default"),
            409,
            "SecurityGroupDefaultAlreadyExists",
        )
        .await;
    cloud
        .refused(
            "a",
            "PUT",
            &path,
            named("x"),
            409,
            "SecurityGroupCannotUpdateDefault",
        )
        .await;
    cloud
        .refused(
            "a",
            "DELETE",
            &path,
            Value::Null,
            409,
            "SecurityGroupCannotRemoveDefault",
        )
        .await;
    assert_eq!(
        cloud.ask("admin", "DELETE", &path, Value::Null).await.0,
        204
    );
    let (_, again) = cloud.get("a", "/v2.0/security-groups").await;
    assert_eq!(names(&again["security_groups"]), ["default"]);
    assert_ne!(again["security_groups"][0]["id"], group["id"]);
    let (_, rules) = cloud.get("a", "/v2.0/security-group-rules").await;
    assert_eq!(rules["security_group_rules"].as_array().unwrap().len(), 4);
}

#[tokio::test]
async fn groups_and_rules_obey_neutrons_words() {
    let cloud = Cloud::new().await;
    let groups = "/v2.0/security-groups";
    let group = cloud
        .made("a", groups, "security_group", json!({"name": "g1"}))
        .await;
    assert_eq!(group["security_group_rules"].as_array().unwrap().len(), 2);
    let other = id(&cloud
        .made("a", groups, "security_group", json!({"name": "g2"}))
        .await);
    let group = id(&group);
    let rules = "/v2.0/security-group-rules";
    let rule = |extra: Value| {
        with(
            json!({"security_group_id": group, "direction": "ingress"}),
            extra,
        )
    };
    let made = |extra: Value| cloud.made("a", rules, "security_group_rule", rule(extra));
    let tcp = json!({"protocol": "TCP", "port_range_min": 22, "port_range_max": "22", "remote_ip_prefix": "10.0.0.5/8"});
    let ssh = made(tcp.clone()).await;
    assert_eq!(ssh["protocol"], "tcp");
    assert_eq!(ssh["remote_ip_prefix"], "10.0.0.5/8");
    assert_eq!(ssh["normalized_cidr"], "10.0.0.0/8");
    assert_eq!(ssh["port_range_max"], 22);
    assert_eq!(
        made(json!({"protocol": 6, "port_range_min": 81, "port_range_max": 81})).await["protocol"],
        "6"
    );
    assert_eq!(
        made(json!({"protocol": "icmpv6", "ethertype": "ipv6", "port_range_min": 128})).await["protocol"],
        "ipv6-icmp"
    );
    made(json!({})).await;
    made(json!({"protocol": "icmp", "port_range_min": 8, "port_range_max": 0})).await;
    assert_eq!(
        made(json!({"remote_ip_prefix": "10.0.0.5"})).await["remote_ip_prefix"],
        "10.0.0.5/32"
    );
    made(json!({"protocol": "tcp", "port_range_min": 25, "port_range_max": 25, "remote_group_id": other})).await;
    for (extra, status, kind) in [
        (tcp, 409, "SecurityGroupRuleExists"),
        (json!({"protocol": "any"}), 409, "SecurityGroupRuleExists"),
        (
            json!({"protocol": "icmp", "port_range_max": 0}),
            400,
            "SecurityGroupMissingIcmpType",
        ),
        (
            json!({"protocol": "icmp", "port_range_min": 256}),
            400,
            "SecurityGroupInvalidIcmpValue",
        ),
        (
            json!({"protocol": "ipv6-icmp"}),
            400,
            "SecurityGroupEthertypeConflictWithProtocol",
        ),
        (
            json!({"protocol": 256}),
            400,
            "SecurityGroupRuleInvalidProtocol",
        ),
        (
            json!({"protocol": "bogus"}),
            400,
            "SecurityGroupRuleInvalidProtocol",
        ),
        (
            json!({"port_range_min": 1, "port_range_max": 2}),
            400,
            "SecurityGroupProtocolRequiredWithPorts",
        ),
        (
            json!({"protocol": "tcp", "port_range_min": 20, "port_range_max": 10}),
            400,
            "SecurityGroupInvalidPortRange",
        ),
        (
            json!({"protocol": "tcp", "port_range_min": 20}),
            400,
            "SecurityGroupInvalidPortRange",
        ),
        (
            json!({"protocol": "tcp", "port_range_min": 0, "port_range_max": 10}),
            400,
            "SecurityGroupInvalidPortValue",
        ),
        (
            json!({"protocol": "tcp", "port_range_min": 1, "port_range_max": 70_000}),
            400,
            "SecurityGroupInvalidPortValue",
        ),
        (
            json!({"protocol": "gre", "port_range_min": 1, "port_range_max": 2}),
            400,
            "SecurityGroupInvalidProtocolForPort",
        ),
        (
            json!({"ethertype": "IPX"}),
            400,
            "SecurityGroupRuleInvalidEtherType",
        ),
        (
            json!({"ethertype": "IPv6", "remote_ip_prefix": "10.0.0.0/8"}),
            400,
            "SecurityGroupRuleParameterConflict",
        ),
        (
            json!({"remote_ip_prefix": "10.0.0.500/8"}),
            400,
            "InvalidCIDR",
        ),
        (
            json!({"remote_group_id": MISSING}),
            404,
            "SecurityGroupNotFound",
        ),
        (
            json!({"remote_group_id": other, "remote_ip_prefix": "10.0.0.0/8"}),
            400,
            "SecurityGroupMultipleRemoteEntites",
        ),
        (json!({"direction": "sideways"}), 400, "HTTPBadRequest"),
        (
            json!({"security_group_id": MISSING}),
            404,
            "SecurityGroupNotFound",
        ),
    ] {
        let body = json!({"security_group_rule": rule(extra)});
        cloud.refused("a", "POST", rules, body, status, kind).await;
    }
    let foreign = json!({"security_group_rule": rule(json!({"protocol": "udp"}))});
    cloud
        .refused("b", "POST", rules, foreign, 403, "PolicyNotAuthorized")
        .await;
    let path = format!("{rules}/{}", id(&ssh));
    let put = json!({"security_group_rule": {"description": "new"}});
    assert_eq!(cloud.ask("a", "PUT", &path, put).await.0, 200);
    let put = json!({"security_group_rule": {"protocol": "udp"}});
    cloud
        .refused("a", "PUT", &path, put, 400, "HTTPBadRequest")
        .await;
    let one = |n: u16| json!({"security_group_id": other, "direction": "ingress", "protocol": "tcp", "port_range_min": n, "port_range_max": n});
    let bulk = |bodies: Value| json!({"security_group_rules": bodies});
    let (status, _) = cloud
        .ask("a", "POST", rules, bulk(json!([one(1), one(2)])))
        .await;
    assert_eq!(status, 201);
    let twice = bulk(json!([one(3), one(3)]));
    cloud
        .refused(
            "a",
            "POST",
            rules,
            twice,
            409,
            "DuplicateSecurityGroupRuleInPost",
        )
        .await;
    let mixed = bulk(json!([one(4), rule(json!({"protocol": "udp"}))]));
    cloud
        .refused(
            "a",
            "POST",
            rules,
            mixed,
            400,
            "SecurityGroupNotSingleGroupRules",
        )
        .await;
    // A group that goes takes the rules that mean it along.
    let (_, before) = cloud
        .get("a", &format!("{rules}?remote_group_id={other}"))
        .await;
    assert_eq!(before["security_group_rules"].as_array().unwrap().len(), 1);
    assert_eq!(
        cloud
            .ask("a", "DELETE", &format!("{groups}/{other}"), Value::Null)
            .await
            .0,
        204
    );
    let (_, after) = cloud
        .get("a", &format!("{rules}?remote_group_id={other}"))
        .await;
    assert_eq!(after["security_group_rules"], json!([]));
    let network = cloud.network("a").await;
    let port = cloud
        .port(
            "a",
            json!({"network_id": network, "security_groups": [group]}),
        )
        .await;
    assert_eq!(port["security_groups"], json!([group]));
    let path = format!("{groups}/{group}");
    let put = json!({"security_group": {"stateful": false}});
    cloud
        .refused("a", "PUT", &path, put, 409, "SecurityGroupInUse")
        .await;
    cloud
        .refused("a", "DELETE", &path, Value::Null, 409, "SecurityGroupInUse")
        .await;
}

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
async fn hosts_get_a_token_once_and_show_as_agents() {
    let cloud = Cloud::new().await;
    let hosts = "/v2.0/overweave/hosts";
    let host = cloud
        .made("admin", hosts, "host", json!({"name": "h1"}))
        .await;
    let token = host["token"].as_str().unwrap();
    let parts: Vec<&str> = token.split('.').collect();
    assert_eq!(parts[..2], ["ow1", "PIN"]);
    let secret =
        base64::Engine::decode(&base64::engine::general_purpose::URL_SAFE_NO_PAD, parts[2])
            .unwrap();
    let key = crate::resources::host::join_token_key(&secret);
    let stored =
        |key: &str| crate::store::Read::entry(&cloud.api.core.store.snapshot(), key).is_some();
    assert!(stored(&key));
    let path = format!("{hosts}/{}", id(&host));
    let (_, shown) = cloud.get("admin", &path).await;
    assert!(shown["host"].get("token").is_none());
    assert!(!shown.to_string().contains("jointoken"));
    let again = json!({"host": {"new_token": true}});
    let (_, body) = cloud.ask("admin", "PUT", &path, again).await;
    assert!(body["host"]["token"].is_string() && body["host"]["token"] != json!(token));
    assert!(!stored(&key), "the old token is spent");
    cloud
        .refused(
            "admin",
            "POST",
            hosts,
            json!({"host": {"name": "h1"}}),
            409,
            "HostExists",
        )
        .await;
    cloud
        .refused(
            "admin",
            "POST",
            hosts,
            json!({"host": {"name": "h 1"}}),
            400,
            "HTTPBadRequest",
        )
        .await;
    cloud
        .refused(
            "a",
            "POST",
            hosts,
            json!({"host": {"name": "h2"}}),
            403,
            "PolicyNotAuthorized",
        )
        .await;
    cloud
        .refused("a", "GET", &path, Value::Null, 404, "HostNotFound")
        .await;
    let foreign = cloud
        .made(
            "admin",
            hosts,
            "host",
            json!({"name": "k1", "vtep": "192.0.2.9"}),
        )
        .await;
    assert_eq!(
        (&foreign["foreign"], foreign.get("token")),
        (&json!(true), None)
    );
    let (_, agents) = cloud.get("admin", "/v2.0/agents?host=h1").await;
    assert_eq!(agents["agents"][0]["alive"], false);
    assert_eq!(agents["agents"][0]["binary"], "overweave-vswitch");
    assert_eq!(
        cloud.get("a", "/v2.0/agents").await.1,
        json!({"agents": []})
    );
    let missing = format!("/v2.0/agents/{MISSING}");
    cloud
        .refused("admin", "GET", &missing, Value::Null, 404, "AgentNotFound")
        .await;
    let agent = format!("/v2.0/agents/{}", id(&host));
    assert_eq!(
        cloud.ask("admin", "DELETE", &agent, Value::Null).await.0,
        204
    );
    cloud
        .refused("admin", "GET", &path, Value::Null, 404, "HostNotFound")
        .await;
}

#[tokio::test]
async fn quotas_count_exactly() {
    let cloud = Cloud::new().await;
    let path = format!("/v2.0/quotas/{B}");
    assert_eq!(cloud.get("b", &path).await.1["quota"]["network"], 100);
    cloud
        .refused("a", "GET", &path, Value::Null, 403, "PolicyNotAuthorized")
        .await;
    cloud
        .refused(
            "b",
            "PUT",
            &path,
            json!({"quota": {"network": 5}}),
            403,
            "PolicyNotAuthorized",
        )
        .await;
    let (status, body) = cloud
        .ask("admin", "PUT", &path, json!({"quota": {"network": 1}}))
        .await;
    assert_eq!((status, &body["quota"]["network"]), (200, &json!(1)));
    let network = cloud.network("b").await;
    let one = json!({"network": {}});
    cloud
        .refused("b", "POST", "/v2.0/networks", one.clone(), 409, "OverQuota")
        .await;
    for (body, kind) in [
        (json!({"bogus": 1}), "HTTPBadRequest"),
        (json!({"network": "x"}), "InvalidInput"),
        (json!({"network": -2}), "HTTPBadRequest"),
        (json!({"network": 0}), "HTTPBadRequest"),
    ] {
        cloud
            .refused("admin", "PUT", &path, json!({"quota": body}), 400, kind)
            .await;
    }
    let (_, details) = cloud.get("b", &format!("{path}/details")).await;
    assert_eq!(
        details["quota"]["network"],
        json!({"limit": 1, "used": 1, "reserved": 0})
    );
    cloud
        .ask(
            "b",
            "DELETE",
            &format!("/v2.0/networks/{network}"),
            Value::Null,
        )
        .await;
    cloud
        .made("b", "/v2.0/networks", "network", json!({}))
        .await;
    assert_eq!(
        cloud.ask("admin", "DELETE", &path, Value::Null).await.0,
        204
    );
    cloud
        .refused(
            "admin",
            "DELETE",
            &path,
            Value::Null,
            404,
            "TenantQuotaNotFound",
        )
        .await;
}

#[tokio::test]
async fn tags_are_set_found_and_taken_off() {
    let cloud = Cloud::new().await;
    let network = cloud
        .made("a", "/v2.0/networks", "network", json!({"tags": ["red"]}))
        .await;
    let path = format!("/v2.0/networks/{}/tags", id(&network));
    assert_eq!(
        cloud
            .ask("a", "PUT", &format!("{path}/blue"), Value::Null)
            .await
            .0,
        201
    );
    assert_eq!(
        cloud.get("a", &path).await.1,
        json!({"tags": ["red", "blue"]})
    );
    assert_eq!(cloud.get("a", &format!("{path}/blue")).await.0, 204);
    cloud
        .refused(
            "a",
            "GET",
            &format!("{path}/none"),
            Value::Null,
            404,
            "TagNotFound",
        )
        .await;
    for (filter, found) in [
        ("tags=red,blue", 1),
        ("tags-any=none,blue", 1),
        ("not-tags=red,blue", 0),
        ("not-tags-any=none", 1),
    ] {
        let (_, list) = cloud.get("a", &format!("/v2.0/networks?{filter}")).await;
        assert_eq!(
            list["networks"].as_array().unwrap().len(),
            found,
            "{filter}"
        );
    }
    let put = json!({"tags": ["x", "x"]});
    cloud
        .refused("a", "PUT", &path, put, 400, "HTTPBadRequest")
        .await;
    let (status, body) = cloud.ask("a", "PUT", &path, json!({"tags": ["y"]})).await;
    assert_eq!((status, body), (200, json!({"tags": ["y"]})));
    assert_eq!(
        cloud
            .ask("a", "DELETE", &format!("{path}/y"), Value::Null)
            .await
            .0,
        204
    );
    cloud
        .refused("b", "GET", &path, Value::Null, 404, "NetworkNotFound")
        .await;
}

#[tokio::test]
async fn passwords_buy_tokens_with_a_catalog() {
    let cloud = Cloud::new().await;
    let login = |password: &str, scope: Value| {
        let mut auth = json!({"identity": {"methods": ["password"], "password": {"user": {
            "name": "a", "domain": {"id": "default"}, "password": password,
        }}}});
        if !scope.is_null() {
            auth["scope"] = scope;
        }
        let body = json!({"auth": auth}).to_string();
        Request::post("/identity/v3/auth/tokens")
            .header("host", "cloud.example:9696")
            .body(Body::from(body))
            .unwrap()
    };
    let (status, headers, body) = cloud
        .raw(login("secret", json!({"project": {"id": A}})))
        .await;
    assert_eq!(status, 201);
    let token = headers["x-subject-token"].to_str().unwrap().to_owned();
    assert_eq!(body["token"]["project"]["id"], A);
    assert_eq!(body["token"]["roles"][0]["name"], "member");
    let network = body["token"]["catalog"]
        .as_array()
        .unwrap()
        .iter()
        .find(|s| s["type"] == "network");
    assert_eq!(
        network.unwrap()["endpoints"][0]["url"],
        "http://cloud.example:9696"
    );
    assert_eq!(cloud.get(&token, "/v2.0/networks").await.0, 200);
    assert_eq!(cloud.raw(login("wrong", Value::Null)).await.0, 401);
    assert_eq!(
        cloud
            .raw(login("secret", json!({"project": {"id": B}})))
            .await
            .0,
        401
    );
    let (_, headers, body) = cloud.raw(login("secret", json!("unscoped"))).await;
    assert!(body["token"].get("project").is_none());
    let unscoped = headers["x-subject-token"].to_str().unwrap().to_owned();
    cloud
        .refused(
            &unscoped,
            "GET",
            "/v2.0/networks",
            Value::Null,
            403,
            "PolicyNotAuthorized",
        )
        .await;
    assert_eq!(
        cloud.get(&unscoped, "/identity/v3/auth/projects").await.1["projects"][0]["id"],
        A
    );
    let subject = |method: &str| {
        Request::builder()
            .method(method)
            .uri("/identity/v3/auth/tokens")
            .header("x-auth-token", &token)
            .header("x-subject-token", &token)
            .body(Body::empty())
            .unwrap()
    };
    assert_eq!(cloud.raw(subject("GET")).await.0, 200);
    assert_eq!(cloud.raw(subject("HEAD")).await.0, 200);
    assert_eq!(cloud.raw(subject("DELETE")).await.0, 204);
    assert_eq!(cloud.get(&token, "/v2.0/networks").await.0, 401);
}

#[tokio::test]
async fn an_admin_keeps_projects_users_and_roles() {
    let cloud = Cloud::new().await;
    let v3 = "/identity/v3";
    let project = json!({"project": {"name": "blue"}});
    let (status, body) = cloud
        .ask("admin", "POST", &format!("{v3}/projects"), project.clone())
        .await;
    assert_eq!(status, 201);
    let project_id = body["project"]["id"].as_str().unwrap().to_owned();
    assert_eq!(
        cloud
            .ask("admin", "POST", &format!("{v3}/projects"), project)
            .await
            .0,
        409
    );
    let user = json!({"user": {"name": "eve", "password": "pw", "default_project_id": project_id}});
    let (_, body) = cloud
        .ask("admin", "POST", &format!("{v3}/users"), user.clone())
        .await;
    let user_id = body["user"]["id"].as_str().unwrap().to_owned();
    assert!(!body.to_string().contains("argon2"));
    let grant = format!("{v3}/projects/{project_id}/users/{user_id}/roles/member");
    assert_eq!(cloud.ask("admin", "PUT", &grant, Value::Null).await.0, 204);
    assert_eq!(cloud.ask("admin", "HEAD", &grant, Value::Null).await.0, 204);
    let (_, list) = cloud
        .get("admin", &format!("{v3}/role_assignments?user.id={user_id}"))
        .await;
    assert_eq!(list["role_assignments"].as_array().unwrap().len(), 1);
    let (_, list) = cloud
        .get("admin", &format!("{v3}/projects?name=blue"))
        .await;
    assert_eq!(list["projects"].as_array().unwrap().len(), 1);
    assert_eq!(
        cloud.ask("a", "POST", &format!("{v3}/users"), user).await.0,
        403
    );
    assert_eq!(
        cloud.get("a", &format!("{v3}/users/{user_id}")).await.0,
        403
    );
    let off = json!({"user": {"enabled": false}});
    let (_, body) = cloud
        .ask("admin", "PATCH", &format!("{v3}/users/{user_id}"), off)
        .await;
    assert_eq!(body["user"]["enabled"], false);
    assert_eq!(
        cloud
            .ask(
                "admin",
                "DELETE",
                &format!("{v3}/users/{user_id}"),
                Value::Null
            )
            .await
            .0,
        204
    );
    assert_eq!(cloud.ask("admin", "HEAD", &grant, Value::Null).await.0, 404);
    assert_eq!(cloud.get("", &format!("{v3}/projects")).await.0, 401);
    assert_eq!(cloud.get("", v3).await.1["version"]["status"], "stable");
    assert_eq!(cloud.get("", "/identity").await.0, 300);
}

/// Every table names the fields that its struct has, and the other way round but for what only the
/// rules know.
#[tokio::test]
async fn every_resource_answers_every_verb() {
    let cloud = Cloud::new().await;
    for spec in REGISTRY {
        let many = format!("/v2.0/{}", spec.path);
        let one = format!("{many}/{MISSING}");
        for (method, path) in [
            ("GET", &many),
            ("POST", &many),
            ("GET", &one),
            ("PUT", &one),
            ("DELETE", &one),
        ] {
            let (status, _) = cloud.ask("", method, path, json!({})).await;
            assert_eq!(status, 401, "{method} {path}");
            let (status, _) = cloud.ask("expired", method, path, json!({})).await;
            assert_eq!(status, 401, "{method} {path}");
        }
        let (status, list) = cloud.get("admin", &many).await;
        assert_eq!(status, 200);
        assert!(list[spec.plural].is_array(), "{}", spec.plural);
        let missing = format!("{}NotFound", spec.title);
        cloud
            .refused("a", "GET", &one, Value::Null, 404, &missing)
            .await;
        cloud
            .refused(
                "a",
                "GET",
                &format!("{many}/notauuid"),
                Value::Null,
                404,
                &missing,
            )
            .await;
        let nothing = json!({spec.singular: {}});
        cloud
            .refused("a", "PUT", &one, nothing.clone(), 404, &missing)
            .await;
        cloud
            .refused("admin", "DELETE", &one, Value::Null, 404, &missing)
            .await;
        let unknown = json!({spec.singular: {"bogus": 1}});
        cloud
            .refused("admin", "PUT", &one, unknown.clone(), 400, "HTTPBadRequest")
            .await;
        if spec.allows(Verb::Create) {
            cloud
                .refused("admin", "POST", &many, unknown, 400, "HTTPBadRequest")
                .await;
            for bad in ["", "[]", "{", "null", "{\"x\": 1}"] {
                let request = Request::post(&many)
                    .header("x-auth-token", "admin")
                    .body(Body::from(bad))
                    .unwrap();
                assert_eq!(cloud.raw(request).await.0, 400, "{many} {bad}");
            }
        } else {
            cloud
                .refused("admin", "POST", &many, nothing, 405, "HTTPMethodNotAllowed")
                .await;
        }
        for field in spec.fields() {
            for wrong in [
                json!({}),
                json!([[]]),
                json!("\u{0}\n"),
                json!(-1),
                json!(1e300),
            ] {
                let body: Map<String, Value> = Map::from_iter([(field.name.to_owned(), wrong)]);
                let body = json!({spec.singular: body});
                let (status, answer) = cloud.ask("admin", "POST", &many, body.clone()).await;
                assert!(status < 500, "{many} {body}: {answer}");
                let (status, answer) = cloud.ask("admin", "PUT", &one, body.clone()).await;
                assert!((400..500).contains(&status), "{one} {body}: {answer}");
            }
            let frozen = field.update == Policy::Nobody
                && field.name != "project_id"
                && field.name != "tenant_id";
            if frozen {
                let body: Map<String, Value> =
                    Map::from_iter([(field.name.to_owned(), json!("x"))]);
                let body = json!({spec.singular: body});
                cloud
                    .refused("admin", "PUT", &one, body, 400, "HTTPBadRequest")
                    .await;
            }
        }
    }
    let (status, document) = cloud.get("", "/openapi.json").await;
    assert_eq!((status, &document["openapi"]), (200, &json!("3.1.0")));
    assert!(
        document["paths"]
            .get("/v2.0/sfc/port_chains/{id}")
            .is_some()
    );
}

#[tokio::test]
async fn a_listener_answers_cuts_off_slow_heads_and_drains() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let cloud = Cloud::new().await;
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let limits = Limits {
        header: std::time::Duration::from_millis(200),
        ..Limits::default()
    };
    let shutdown = async {
        drop(stopped.await);
    };
    let server = tokio::spawn(serve(
        listener,
        cloud.router.clone(),
        None,
        limits,
        shutdown,
    ));
    let mut stream = tokio::net::TcpStream::connect(addr).await.unwrap();
    let request = "GET /v2.0/networks.json?name=x HTTP/1.1\r\nhost: x\r\nx-auth-token: a\r\nconnection: close\r\n\r\n";
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert!(
        answer.starts_with("HTTP/1.1 200") && answer.ends_with("{\"networks\":[]}"),
        "{answer}"
    );
    let mut slow = tokio::net::TcpStream::connect(addr).await.unwrap();
    slow.write_all(b"GET / HTTP/1.1\r\n").await.unwrap();
    let mut rest = Vec::new();
    slow.read_to_end(&mut rest).await.unwrap();
    assert!(!String::from_utf8_lossy(&rest).contains(" 200 "));
    stop.send(()).unwrap();
    server.await.unwrap();
    assert!(tokio::net::TcpStream::connect(addr).await.is_err());
}

/// Any JSON, with the names that the tables know among its keys.
fn any_json() -> impl proptest::strategy::Strategy<Value = Value> {
    use proptest::prelude::*;
    let names: Vec<&'static str> = REGISTRY
        .iter()
        .flat_map(|spec| spec.fields().map(|field| field.name))
        .chain([
            "start",
            "end",
            "ip_address",
            "subnet_id",
            "firewall",
            "load_balancer",
            "shaper",
        ])
        .chain([
            "rules", "members", "vip", "port", "rate", "action", "source", "default",
        ])
        .collect();
    let words = prop_oneof![
        Just("10.0.0.0/24"),
        Just("fd00::/64"),
        Just("10.0.0.5"),
        Just("fd00::1"),
        Just(MISSING),
        Just("tcp"),
        Just("fa:16:3e:00:00:01"),
        Just("allow"),
        Just("100mbit"),
        Just(""),
        Just("\u{0}"),
        Just("4"),
        Just("ingress"),
        Just("slaac"),
        Just("NETWORK"),
    ];
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        (-3_i64..7).prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(|number| json!(number)),
        words.prop_map(Value::from),
        ".{0,12}".prop_map(Value::from),
    ];
    leaf.prop_recursive(3, 24, 6, move |inner| {
        let key = proptest::sample::select(names.clone()).prop_map(str::to_owned);
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            proptest::collection::btree_map(key, inner, 0..6)
                .prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
}

proptest::proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig::with_cases(64))]

    #[test]
    fn no_body_is_a_fault_of_ours(bodies in proptest::collection::vec((0..REGISTRY.len(), any_json()), 1..12)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let cloud = Cloud::new().await;
            let network = cloud.network("admin").await;
            let subnet = cloud.subnet("admin", &network, "10.0.0.0/24").await;
            let port = cloud.port("admin", json!({"network_id": network})).await;
            for (at, body) in bodies {
                let spec = REGISTRY[at];
                // Bodies that name things that are there get further than those that do not.
                let text = body.to_string().replace("NETWORK", &network);
                let mut body: Value = serde_json::from_str(&text).unwrap();
                if let Some(body) = body.as_object_mut() {
                    body.retain(|name, _| spec.field(name).is_some());
                    if spec.field("network_id").is_some() {
                        body.entry("network_id").or_insert(json!(network));
                    }
                }
                let body = json!({spec.singular: body});
                let path = format!("/v2.0/{}", spec.path);
                // `ask` fails the test on any status from 500 on.
                cloud.ask("admin", "POST", &path, body.clone()).await;
                for (kind, id) in [("networks", &network), ("subnets", &id(&subnet)), ("ports", &id(&port))] {
                    if spec.plural == kind {
                        cloud.ask("admin", "PUT", &format!("{path}/{id}"), body.clone()).await;
                    }
                }
                cloud.get("admin", &path).await;
            }
        });
    }
}
