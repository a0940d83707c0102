//! Whoever asks whatever: each table's own object, each verb, each caller, and what no value may be.
//!
//! Generated from the registry. What is A's has a mark in every text; whoever is not of A never sees it.

use super::*;
use crate::resource::{Absent, Field, Kind, Spec};

/// In every text of what is A's.
const MARK: &str = "a-secret-of-a";

/// What a create of each table needs besides marks; `None`: it is made in another way, or not at all.
fn body(path: &str, network: &str) -> Option<(&'static str, Value)> {
    Some(match path {
        "networks" | "routers" | "security-groups" => ("a", json!({})),
        "subnets" => (
            "a",
            json!({"network_id": network, "ip_version": 4, "cidr": "10.7.0.0/24"}),
        ),
        "ports" => ("a", json!({"network_id": network})),
        "address-groups" => ("a", json!({"addresses": ["10.0.0.0/8"]})),
        "subnetpools" => ("a", json!({"prefixes": ["10.0.0.0/8"]})),
        "address-scopes" => ("a", json!({"ip_version": 4})),
        "qos/policies" => ("admin", json!({"project_id": A})),
        "sfc/flow_classifiers" => ("a", json!({"protocol": "tcp"})),
        "sfc/port_pair_groups" => (
            "a",
            json!({"network_function": {"shaper": {"rate": "1mbit"}}}),
        ),
        "fwaas/firewall_rules" | "fwaas/firewall_policies" | "fwaas/firewall_groups" => {
            ("a", json!({}))
        }
        "overweave/hosts" => ("admin", json!({})),
        _ => return None,
    })
}

/// An object of A's, or of nobody's where the table is the admin's.
async fn planted(cloud: &Cloud, spec: &Spec, network: &str) -> Option<String> {
    let (who, mut body) = body(spec.path, network)?;
    for field in spec.fields() {
        let texts = matches!(field.kind, Kind::Text(255)) && field.create == Policy::Anyone;
        if texts && ["name", "description"].contains(&field.name) {
            body[field.name] = json!(format!("{MARK}-{}", field.name));
        }
    }
    let many = format!("/v2.0/{}", spec.path);
    Some(id(&cloud.made(who, &many, spec.singular, body).await))
}

#[tokio::test]
async fn each_verb_of_each_table_is_answered_as_who_asks_may_know() {
    let cloud = Cloud::new().await;
    let network = cloud.network("a").await;
    let mut met = 0;
    for spec in REGISTRY {
        let Some(id) = planted(&cloud, spec, &network).await else {
            continue;
        };
        met += 1;
        let (many, missing) = (
            format!("/v2.0/{}", spec.path),
            format!("{}NotFound", spec.title),
        );
        let one = format!("{many}/{id}");
        let nothing = json!({spec.singular: {}});
        let whole = |who: &'static str, method: &'static str, path: String, body: Value| {
            let cloud = &cloud;
            async move {
                let (status, answer) = cloud.ask(who, method, &path, body).await;
                let kind = answer["NeutronError"]["type"].as_str().unwrap_or_default();
                (status, kind.to_owned(), answer.to_string())
            }
        };
        for who in ["", "expired"] {
            for (method, path) in [
                ("GET", &many),
                ("POST", &many),
                ("GET", &one),
                ("PUT", &one),
                ("DELETE", &one),
            ] {
                let (status, _, text) = whole(who, method, path.clone(), nothing.clone()).await;
                assert_eq!(status, 401, "{who} {method} {path}");
                assert!(!text.contains(MARK) && !text.contains(A), "{text}");
            }
        }
        // Of another project: it is not there.
        let queries = [
            "",
            "?limit=1",
            "?name=a-secret-of-a-name",
            "?fields=name",
            "?sort_key=id&sort_dir=asc",
        ];
        for query in queries {
            let (status, _, text) = whole("b", "GET", format!("{many}{query}"), Value::Null).await;
            assert!(status == 200 || status == 403, "{many}{query}: {text}");
            assert!(
                !text.contains(MARK) && !text.contains(A),
                "{many}{query}: {text}"
            );
        }
        for (method, body) in [
            ("GET", Value::Null),
            ("PUT", nothing.clone()),
            ("DELETE", Value::Null),
        ] {
            if (method == "PUT" && !spec.allows(Verb::Update))
                || (method == "DELETE" && !spec.allows(Verb::Delete))
            {
                continue;
            }
            let (status, kind, text) = whole("b", method, one.clone(), body).await;
            let hidden = status == 404 && kind == missing;
            assert!(
                hidden || (status, kind.as_str()) == (403, "PolicyNotAuthorized"),
                "b {method} {one}: {text}"
            );
            assert!(!text.contains(MARK) && !text.contains(A), "{text}");
        }
        // A reader of A sees it and changes nothing.
        let own = spec.policy == Policy::Anyone;
        if own {
            let (status, _, text) = whole("r", "GET", one.clone(), Value::Null).await;
            assert!(status == 200 && text.contains(&id), "r GET {one}: {text}");
            for (method, body) in [("PUT", nothing.clone()), ("DELETE", Value::Null)] {
                let (status, kind, text) = whole("r", method, one.clone(), body).await;
                assert_eq!(
                    (status, kind.as_str()),
                    (403, "PolicyNotAuthorized"),
                    "r {method} {one}: {text}"
                );
            }
        }
        for (who, is_known) in [("a", own), ("admin", true)] {
            let (status, _, text) = whole(who, "GET", one.clone(), Value::Null).await;
            assert!(!is_known || status == 200, "{who} GET {one}: {text}");
            let (status, _, text) = whole(who, "PUT", one.clone(), nothing.clone()).await;
            let may = is_known && spec.allows(Verb::Update);
            assert!(!may || status == 200, "{who} PUT {one}: {text}");
        }
        let (status, _, text) = whole("admin", "DELETE", one.clone(), Value::Null).await;
        assert_eq!(status, 204, "{one}: {text}");
    }
    assert!(met >= 11, "only {met} tables were asked");
}

/// What no field takes, or what it must take as it is.
fn values(field: &Field) -> Vec<(Value, Option<u16>)> {
    let mut values = vec![
        (json!({"a": {"b": []}}), None),
        (json!([null]), None),
        (json!(true), None),
        (json!(-9_223_372_036_854_775_808_i64), None),
        (json!("a\nb"), None),
        (json!("a\u{0}b"), None),
        (json!(""), None),
        (json!("\u{202e}\u{feff}"), None),
    ];
    if let Kind::Text(most) = field.kind {
        values.push((json!("x".repeat(most + 1)), Some(400)));
        values.push((json!(["x"]), Some(400)));
    } else {
        values.push((json!("x".repeat(70_000)), Some(400)));
    }
    // A list that is null is an empty one, as in Neutron.
    let is_plain = matches!(field.kind, Kind::Text(_) | Kind::Bool);
    let has_default = matches!(field.absent, Absent::Text(_) | Absent::Bool(_));
    let is_null_refused = is_plain && has_default && !field.nullable;
    values.push((Value::Null, is_null_refused.then_some(400)));
    values
}

#[tokio::test]
async fn no_value_of_any_field_is_the_servers_fault() {
    let cloud = Cloud::new().await;
    let network = cloud.network("a").await;
    for spec in REGISTRY {
        let Some((who, good)) = body(spec.path, &network) else {
            continue;
        };
        let many = format!("/v2.0/{}", spec.path);
        for name in ["project_id", "tenant_id"] {
            let mut all = good.clone();
            all[name] = json!("a\u{0}b");
            let body = json!({ spec.singular: all });
            cloud
                .refused("admin", "POST", &many, body, 400, "HTTPBadRequest")
                .await;
        }
        for field in spec.fields() {
            for (value, refused) in values(field) {
                let mut all = good.clone();
                all[field.name] = value.clone();
                if spec.path == "overweave/hosts" && field.name != "name" {
                    all["name"] = json!(Uuid::new_v4().to_string());
                }
                let wrapped = json!({spec.singular: all});
                let may_name = matches!(field.create, Policy::Anyone);
                // `ask` fails on every 5xx.
                let (status, answer) = cloud.ask(who, "POST", &many, wrapped).await;
                let kind = answer["NeutronError"]["type"].as_str();
                assert!(
                    status == 201 || kind.is_some(),
                    "{many} {}: {answer}",
                    field.name
                );
                if may_name && let Some(refused) = refused {
                    assert_eq!(
                        status, refused,
                        "{many} {} {value:.60}: {answer}",
                        field.name
                    );
                }
                if status == 201 {
                    let one = format!("{many}/{}", id(&answer[spec.singular]));
                    let (status, answer) = cloud.ask("admin", "DELETE", &one, Value::Null).await;
                    assert_eq!(status, 204, "{one}: {answer}");
                }
            }
        }
    }
}
