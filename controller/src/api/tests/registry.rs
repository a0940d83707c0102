//! What must hold for every table of the registry?

use super::*;
use crate::resource::{Absent, Field, How};

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
    every_action_refuses_what_it_must(&cloud).await;
    every_part_refuses_what_it_must(&cloud).await;
    let (status, document) = cloud.get("", "/openapi.json").await;
    assert_eq!((status, &document["openapi"]), (200, &json!("3.1.0")));
    assert!(
        document["paths"]
            .get("/v2.0/sfc/port_chains/{id}")
            .is_some()
    );
}

#[tokio::test]
async fn a_list_shows_what_a_show_shows() {
    let cloud = Cloud::new().await;
    let network = cloud.network("a").await;
    cloud.subnet("a", &network, "10.0.0.0/24").await;
    let name = "quoted \"\\ \u{1} \u{2028}";
    let pairs = json!([{"ip_address": "10.0.0.9"}]);
    let body =
        json!({"network_id": network, "name": name, "tags": ["t"], "allowed_address_pairs": pairs});
    let port = id(&cloud.port("a", body).await);
    for (who, path, key, body) in [
        ("a", "trunks", "trunk", json!({"port_id": port})),
        ("a", "routers", "router", json!({"description": name})),
        (
            "a",
            "address-groups",
            "address_group",
            json!({"addresses": ["10.0.0.0/8"]}),
        ),
        (
            "a",
            "subnetpools",
            "subnetpool",
            json!({"prefixes": ["10.0.0.0/8"]}),
        ),
        (
            "admin",
            "address-scopes",
            "address_scope",
            json!({"ip_version": 6, "shared": true}),
        ),
        ("admin", "qos/policies", "policy", json!({"shared": true})),
        ("admin", "overweave/hosts", "host", json!({"name": "h1"})),
        (
            "admin",
            "metering/metering-labels",
            "metering_label",
            json!({"shared": true, "name": name}),
        ),
        (
            "a",
            "sfc/flow_classifiers",
            "flow_classifier",
            json!({"protocol": "tcp"}),
        ),
        (
            "a",
            "sfc/port_pair_groups",
            "port_pair_group",
            json!({"network_function": {"shaper": {"rate": "1mbit"}}}),
        ),
    ] {
        cloud.made(who, &format!("/v2.0/{path}"), key, body).await;
    }
    let (_, labels) = cloud.get("admin", "/v2.0/metering/metering-labels").await;
    let label = &labels["metering_labels"][0]["id"];
    let body = json!({"metering_label_id": label, "remote_ip_prefix": "10.0.0.0/8"});
    let rules = "/v2.0/metering/metering-label-rules";
    cloud
        .made("admin", rules, "metering_label_rule", body)
        .await;
    for spec in REGISTRY {
        for who in ["a", "r", "b", "admin"] {
            let many = format!("/v2.0/{}", spec.path);
            let (_, list) = cloud.get(who, &many).await;
            let rows = list[spec.plural].as_array().unwrap();
            // These need others that are not here.
            let rare = [
                "port_pairs",
                "port_chains",
                "service_graphs",
                "floatingips",
                "loadbalancers",
                "listeners",
                "pools",
                "healthmonitors",
                "l7policies",
            ]
            .contains(&spec.plural);
            assert!(who != "admin" || rare || !rows.is_empty(), "{many}");
            for row in rows {
                let one = format!("{many}/{}", id(row));
                let (_, shown) = cloud.get(who, &one).await;
                assert_eq!(shown[spec.singular], *row, "{one} as {who}");
                let names = |value: &Value| -> Vec<String> {
                    value.as_object().unwrap().keys().cloned().collect()
                };
                assert_eq!(names(&shown[spec.singular]), names(row), "{one}");
                for (name, _) in row.as_object().unwrap().iter().filter(|(_, v)| v.is_null()) {
                    let field = spec.field(name).unwrap();
                    let is_free = matches!(field.kind, crate::resource::Kind::Shape(_));
                    assert!(
                        field.nullable || is_free,
                        "{}.{name} is null, the document says never",
                        spec.singular
                    );
                }
                let (_, few) = cloud
                    .get(
                        who,
                        &format!("{many}?fields=id&fields=tenant_id&id={}", id(row)),
                    )
                    .await;
                let of = |name: &str| row.get(name).cloned();
                let few = &few[spec.plural][0];
                assert_eq!(
                    (few.get("id").cloned(), few.get("tenant_id").cloned()),
                    (of("id"), of("tenant_id"))
                );
                assert!(few.as_object().unwrap().len() <= 2, "{few}");
            }
        }
    }
}

async fn every_action_refuses_what_it_must(cloud: &Cloud) {
    for spec in REGISTRY {
        let changes = spec.actions.iter().filter(|a| a.how == How::Change);
        let declared: Vec<&str> = changes.map(|action| action.name).collect();
        assert_eq!(declared, spec.ops.acts(), "{}", spec.singular);
        for action in spec.actions {
            let path = format!("/v2.0/{}/{MISSING}/{}", spec.path, action.name);
            let missing = format!("{}NotFound", spec.title);
            let body = |arguments: Value| {
                if action.wrapped {
                    json!({spec.singular: arguments})
                } else {
                    arguments
                }
            };
            let own = match action.how {
                How::Change => "PUT",
                How::Look => "GET",
            };
            for who in ["", "expired"] {
                let (status, _) = cloud.ask(who, own, &path, body(json!({}))).await;
                assert_eq!(status, 401, "{path}");
            }
            let required = |field: &&Field| matches!(field.absent, Absent::Required);
            let least: Map<String, Value> = action
                .arguments
                .iter()
                .filter(required)
                .map(|field| (field.name.to_owned(), json!([])))
                .collect();
            for who in ["a", "r", "admin"] {
                let body = body(Value::Object(least.clone()));
                cloud.refused(who, own, &path, body, 404, &missing).await;
            }
            if action.how == How::Change {
                let bogus = body(json!({"bogus": 1}));
                cloud
                    .refused("admin", "PUT", &path, bogus, 400, "HTTPBadRequest")
                    .await;
            }
            let others = ["GET", "PUT", "POST", "DELETE"];
            for method in others.into_iter().filter(|method| *method != own) {
                cloud
                    .refused(
                        "admin",
                        method,
                        &path,
                        Value::Null,
                        405,
                        "HTTPMethodNotAllowed",
                    )
                    .await;
            }
            if action.how == How::Look {
                continue;
            }
            for bad in ["[]", "{", "null", "7"] {
                let request = Request::put(&path)
                    .header("x-auth-token", "admin")
                    .body(Body::from(bad))
                    .unwrap();
                assert_eq!(cloud.raw(request).await.0, 400, "{path} {bad}");
            }
            for field in action.arguments {
                for wrong in [
                    json!({}),
                    json!([[]]),
                    json!("\u{0}\n"),
                    json!(-1),
                    json!(1e300),
                ] {
                    let arguments = Map::from_iter([(field.name.to_owned(), wrong)]);
                    let body = body(Value::Object(arguments));
                    let (status, answer) = cloud.ask("admin", "PUT", &path, body.clone()).await;
                    assert_eq!(status, 400, "{path} {body}: {answer}");
                }
            }
        }
    }
}

async fn every_part_refuses_what_it_must(cloud: &Cloud) {
    for spec in REGISTRY {
        for part in spec.parts {
            let many = format!("/v2.0/{}/{MISSING}/{}", spec.path, part.plural);
            let one = format!("{many}/{MISSING}");
            let object = format!("{}NotFound", spec.title);
            let mut places = vec![(one.clone(), part.singular, object.clone())];
            if let Some((name, paths)) = part.alias {
                let alias = |path: &&str| {
                    let missing = format!("{}NotFound", part.title);
                    (format!("/v2.0/{path}/{MISSING}"), name, missing)
                };
                places.extend(paths.iter().map(alias));
            }
            for who in ["", "expired"] {
                let (status, _) = cloud.ask(who, "POST", &many, json!({})).await;
                assert_eq!(status, 401, "{many}");
            }
            cloud
                .refused("admin", "GET", &many, Value::Null, 404, &object)
                .await;
            for (path, name, missing) in places {
                for who in ["", "expired"] {
                    let (status, _) = cloud.ask(who, "GET", &path, Value::Null).await;
                    assert_eq!(status, 401, "{path}");
                }
                let bogus = json!({name: {"bogus": 1}});
                cloud
                    .refused("admin", "PUT", &path, bogus, 400, "HTTPBadRequest")
                    .await;
                let nothing = json!({name: {}});
                cloud
                    .refused("admin", "PUT", &path, nothing, 404, &missing)
                    .await;
                for method in ["GET", "DELETE"] {
                    cloud
                        .refused("admin", method, &path, Value::Null, 404, &missing)
                        .await;
                }
                cloud
                    .refused(
                        "admin",
                        "POST",
                        &path,
                        json!({}),
                        405,
                        "HTTPMethodNotAllowed",
                    )
                    .await;
            }
            for bad in ["", "[]", "{", "null", "{\"x\": 1}"] {
                let request = Request::post(&many)
                    .header("x-auth-token", "admin")
                    .body(Body::from(bad))
                    .unwrap();
                assert_eq!(cloud.raw(request).await.0, 400, "{many} {bad}");
            }
            for name in ["project_id", "tenant_id"] {
                for wrong in [
                    json!({}),
                    json!(7),
                    Value::Null,
                    json!("a\u{0}b"),
                    json!("x".repeat(256)),
                ] {
                    let fields = Map::from_iter([(name.to_owned(), wrong)]);
                    let body = json!({part.singular: fields});
                    for (method, path) in [("POST", &many), ("PUT", &one)] {
                        cloud
                            .refused("admin", method, path, body.clone(), 400, "HTTPBadRequest")
                            .await;
                    }
                }
            }
            for field in part.fields {
                for wrong in [
                    json!({}),
                    json!([[]]),
                    json!("\u{0}\n"),
                    json!(-1),
                    json!(1e300),
                ] {
                    let fields = Map::from_iter([(field.name.to_owned(), wrong)]);
                    let body = json!({part.singular: fields});
                    for (method, path) in [("POST", &many), ("PUT", &one)] {
                        let (status, answer) = cloud.ask("admin", method, path, body.clone()).await;
                        assert_eq!(status, 400, "{path} {body}: {answer}");
                    }
                }
            }
        }
    }
}

/// Any JSON, with the names that the tables know among its keys.
fn any_json() -> impl proptest::strategy::Strategy<Value = Value> {
    use proptest::prelude::*;
    let names: Vec<&'static str> = REGISTRY
        .iter()
        .flat_map(|spec| {
            let parts = spec.parts.iter().flat_map(|part| part.fields);
            spec.fields().chain(parts).map(|field| field.name)
        })
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
            "destination",
            "nexthop",
            "port_id",
            "rules",
            "members",
            "vip",
            "port",
            "rate",
            "action",
            "source",
            "default",
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
            let balancer = json!({"vip_subnet_id": id(&subnet)});
            let balancer = cloud.made("admin", "/v2.0/lbaas/loadbalancers", "loadbalancer", balancer).await;
            let listener = json!({"loadbalancer_id": balancer["id"], "protocol": "HTTP", "protocol_port": 80});
            let listener = cloud.made("admin", "/v2.0/lbaas/listeners", "listener", listener).await;
            let router = cloud.made("admin", "/v2.0/routers", "router", json!({})).await;
            let external = json!({"network": {"router:external": true}});
            cloud.ask("admin", "PUT", &format!("/v2.0/networks/{network}"), external).await;
            for (at, body) in bodies {
                let spec = REGISTRY[at];
                // Bodies that name things that are there get further than those that do not.
                let text = body.to_string().replace("NETWORK", &network);
                let mut body: Value = serde_json::from_str(&text).unwrap();
                if let Some(body) = body.as_object_mut() {
                    body.retain(|name, _| {
                        let part = spec.parts.iter().any(|part| part.field(name).is_some());
                        spec.field(name).is_some() || part
                    });
                    if spec.field("network_id").is_some() {
                        body.entry("network_id").or_insert(json!(network));
                    }
                }
                let body = json!({spec.singular: body});
                let path = format!("/v2.0/{}", spec.path);
                // `ask` fails the test on any status from 500 on.
                cloud.ask("admin", "POST", &path, body.clone()).await;
                for action in spec.actions {
                    let path = format!("{path}/{}/{}", id(&router), action.name);
                    cloud.ask("admin", "PUT", &path, body.clone()).await;
                    cloud.ask("admin", "PUT", &path, body[spec.singular].clone()).await;
                }
                for (kind, id) in [("networks", &network), ("subnets", &id(&subnet)), ("ports", &id(&port))] {
                    if spec.plural == kind {
                        cloud.ask("admin", "PUT", &format!("{path}/{id}"), body.clone()).await;
                    }
                }
                for part in spec.parts {
                    let mut least = json!({});
                    if spec.field("floating_network_id").is_some() {
                        least["floating_network_id"] = json!(network);
                    }
                    if spec.plural == "pools" {
                        let tcp = json!({"protocol": "TCP", "lb_algorithm": "SOURCE_IP"});
                        least = with(tcp, json!({"loadbalancer_id": balancer["id"]}));
                    }
                    if spec.plural == "l7policies" {
                        least = json!({"listener_id": listener["id"], "action": "REJECT"});
                    }
                    let whole = cloud.made("admin", &path, spec.singular, least).await;
                    let parts = format!("{path}/{}/{}", id(&whole), part.plural);
                    let mut fields = body[spec.singular].clone();
                    if let Some(fields) = fields.as_object_mut() {
                        fields.retain(|name, _| part.field(name).is_some());
                    }
                    let body = json!({part.singular: fields});
                    let (_, made) = cloud.ask("admin", "POST", &parts, body.clone()).await;
                    if let Some(one) = made[part.singular]["id"].as_str() {
                        cloud.ask("admin", "PUT", &format!("{parts}/{one}"), body).await;
                    }
                    cloud.get("admin", &parts).await;
                }
                cloud.get("admin", &path).await;
            }
        });
    }
}
