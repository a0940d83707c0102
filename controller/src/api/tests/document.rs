//! Does the document say what is answered, and what is taken?
//!
//! Generated from the registry: each object that can be planted is as its schema says, as an admin and as its member see it, and so is what it was made
//! with. A small reader of schemas, of the words that the document uses: any other fails.

use super::{planted::Planted, *};

/// What is wrong with a value; the place first.
fn wrong(document: &Value, schema: &Value, value: &Value, place: &str, found: &mut Vec<String>) {
    let Some(words) = schema.as_object() else {
        return found.push(format!("{place}: no schema"));
    };
    let no = |found: &mut Vec<String>, why: String| {
        found.push(format!("{place}: {why}: {value:.80}"));
    };
    for (word, what) in words {
        match word.as_str() {
            // What a pattern means is in the tests of the values.
            "description" | "pattern" | "minItems" | "maxItems" | "uniqueItems" => {}
            "$ref" => {
                let path = what.as_str().unwrap().trim_start_matches('#');
                let schema = document.pointer(path).unwrap();
                wrong(document, schema, value, place, found);
                return;
            }
            "type" => {
                let one = std::slice::from_ref(what);
                let kinds = what.as_array().map_or(one, Vec::as_slice);
                let is = match value {
                    Value::Null => "null",
                    Value::Bool(_) => "boolean",
                    Value::Number(_) => "integer",
                    Value::String(_) => "string",
                    Value::Array(_) => "array",
                    Value::Object(_) => "object",
                };
                if !kinds.contains(&json!(is)) {
                    no(found, format!("{is}, not {what}"));
                }
            }
            "enum" => {
                if !what.as_array().unwrap().contains(value) {
                    no(found, format!("none of {what}"));
                }
            }
            "maxLength" | "minLength" => {
                if let Some(text) = value.as_str() {
                    let (long, bound) = (text.chars().count(), what.as_u64().unwrap());
                    let long = u64::try_from(long).unwrap();
                    if (word == "maxLength" && long > bound)
                        || (word == "minLength" && long < bound)
                    {
                        no(found, format!("{word} {bound}"));
                    }
                }
            }
            "minimum" | "maximum" => {
                if let Some(number) = value.as_i64() {
                    let bound = what.as_i64().unwrap();
                    if (word == "minimum" && number < bound)
                        || (word == "maximum" && number > bound)
                    {
                        no(found, format!("{word} {bound}"));
                    }
                }
            }
            "format" => {
                let text = value.as_str();
                let good = text.is_none_or(|text| match what.as_str().unwrap() {
                    "uuid" => text.parse::<Uuid>().is_ok(),
                    "ipv4" => text.parse::<std::net::Ipv4Addr>().is_ok(),
                    "ipv6" => text.parse::<std::net::Ipv6Addr>().is_ok(),
                    other => panic!("{place}: format {other}"),
                });
                if !good {
                    no(found, format!("no {what}"));
                }
            }
            "required" => {
                for name in what.as_array().unwrap() {
                    if value.is_object() && value.get(name.as_str().unwrap()).is_none() {
                        no(found, format!("no {name}"));
                    }
                }
            }
            "additionalProperties" => {
                assert_eq!(what, false);
                let known = &schema["properties"];
                for name in value
                    .as_object()
                    .into_iter()
                    .flatten()
                    .map(|(name, _)| name)
                {
                    if known.get(name).is_none() {
                        no(found, format!("{name} is not known"));
                    }
                }
            }
            "properties" => {
                for (name, of) in what.as_object().unwrap() {
                    if let Some(value) = value.get(name) {
                        wrong(document, of, value, &format!("{place}.{name}"), found);
                    }
                }
            }
            "items" => {
                for item in value.as_array().into_iter().flatten() {
                    wrong(document, what, item, &format!("{place}[]"), found);
                }
            }
            "anyOf" => {
                let fits = |form: &&Value| {
                    let mut own = Vec::new();
                    wrong(document, form, value, place, &mut own);
                    own.is_empty()
                };
                if what.as_array().unwrap().iter().find(fits).is_none() {
                    no(found, "fits no form".to_owned());
                }
            }
            other => panic!("{place}: what does {other} mean?"),
        }
    }
}

/// The schema of a body, asked or answered.
fn body_of<'a>(document: &'a Value, (path, method): (&str, &str), of: &str) -> &'a Value {
    let operation = &document["paths"][path][method];
    let at = match of {
        "asked" => &operation["requestBody"],
        code => &operation["responses"][code],
    };
    &at["content"]["application/json"]["schema"]
}

#[tokio::test]
async fn the_document_says_what_is_answered_and_what_is_taken() {
    let cloud = Cloud::new().await;
    let own = Planted::new(&cloud, "a", 11).await;
    cloud.host_on("wired", &["physnet1"]).await;
    let flat = json!({"provider:network_type": "flat", "provider:physical_network": "physnet1"});
    cloud.made("admin", "/v2.0/networks", "network", flat).await;
    let nobodys = json!({"floating_network_id": own.id("external")});
    let floating = "/v2.0/floatingips";
    cloud.made("a", floating, "floatingip", nobodys).await;
    let document = openapi::openapi();
    let mut found = Vec::new();
    for spec in REGISTRY {
        let many = format!("/v2.0/{}", spec.path);
        for who in ["admin", "a"] {
            let (status, list) = cloud.get(who, &many).await;
            assert_eq!(status, 200);
            let told = body_of(&document, (&many, "get"), "200");
            wrong(
                &document,
                told,
                &list,
                &format!("{who} GET {many}"),
                &mut found,
            );
            let rows = list[spec.plural].as_array().unwrap();
            assert!(
                who != "admin" || !rows.is_empty(),
                "{many}: nothing to look at"
            );
            let path = format!("{many}/{{id}}");
            for row in rows {
                let one = format!("{many}/{}", id(row));
                let (_, shown) = cloud.get(who, &one).await;
                let told = body_of(&document, (&path, "get"), "200");
                wrong(
                    &document,
                    told,
                    &shown,
                    &format!("{who} GET {path}"),
                    &mut found,
                );
            }
        }
        if spec.allows(Verb::Create) {
            let (maker, asked) = own.wanted(spec.singular, 99);
            let told = body_of(&document, (&many, "post"), "asked");
            for body in [
                json!({spec.singular: asked}),
                json!({spec.plural: [asked, asked]}),
            ] {
                wrong(&document, told, &body, &format!("POST {many}"), &mut found);
            }
            let mut asked = asked;
            if spec.singular == "floatingip" {
                // The port has one.
                asked.as_object_mut().unwrap().remove("port_id");
            }
            let several = json!({spec.plural: [asked]});
            let (status, made) = cloud.ask(maker, "POST", &many, several).await;
            assert_eq!(status, 201, "{many}: {made}");
            let told = body_of(&document, (&many, "post"), "201");
            wrong(&document, told, &made, &format!("POST {many}"), &mut found);
            let told = body_of(&document, (&many, "post"), "asked");
            let mut bad = Vec::new();
            let body = json!({spec.singular: {"no-such-field": 1}});
            wrong(&document, told, &body, &many, &mut bad);
            assert!(!bad.is_empty(), "{many}: takes what it does not know");
        }
    }
    found.sort();
    found.dedup();
    assert!(found.is_empty(), "{}", found.join("\n"));
}

#[tokio::test]
async fn a_path_without_the_method_says_which_it_has() {
    let cloud = Cloud::new().await;
    let document = openapi::openapi();
    let methods = ["get", "put", "post", "patch", "delete"];
    for (path, item) in document["paths"].as_object().unwrap() {
        let own: Vec<&str> = methods
            .into_iter()
            .filter(|method| item.get(method).is_some())
            .collect();
        let place = path.split('/').map(|part| match part.strip_prefix('{') {
            Some(_) => MISSING,
            None => part,
        });
        let place = place.collect::<Vec<_>>().join("/");
        let request = Request::builder()
            .method("TRACE")
            .uri(&place)
            .header("x-auth-token", "admin")
            .body(Body::empty())
            .unwrap();
        let (status, headers, _) = cloud.raw(request).await;
        assert_eq!(status, 405, "{path}");
        let allow = headers["allow"].to_str().unwrap().to_ascii_lowercase();
        let mut allow: Vec<&str> = allow.split(", ").collect();
        allow.retain(|method| methods.contains(method));
        let order = |method: &&str| methods.iter().position(|known| known == method);
        allow.sort_by_key(order);
        assert_eq!(allow, own, "{path}");
    }
}

/// Values that a body may have in place of what belongs there.
fn odd() -> Vec<Value> {
    let long = "x".repeat(256);
    vec![
        json!(null),
        json!(true),
        json!(-1),
        json!(1e300),
        json!(""),
        json!("\0"),
        json!(long),
        json!("x"),
        json!([]),
        json!([null]),
        json!([[]]),
        json!({}),
        json!({"id": []}),
        json!({"x": {}}),
    ]
}

/// The schema's bodies with each value of them, and each object in them, something odd.
fn odd_bodies(schema: &Value) -> Vec<Value> {
    let mut all = odd();
    for (name, of) in schema["properties"].as_object().into_iter().flatten() {
        let others = schema["required"].as_array().into_iter().flatten();
        let others = others.filter(|other| *other != name);
        let others: serde_json::Map<String, Value> = others
            .map(|other| (other.as_str().unwrap().to_owned(), json!("x")))
            .collect();
        for odd in odd_bodies(of) {
            let mut body = others.clone();
            body.insert(name.clone(), odd);
            all.push(Value::Object(body));
        }
    }
    all
}

#[tokio::test]
async fn identity_answers_as_the_document_says_and_no_body_is_its_fault() {
    let cloud = Cloud::new().await;
    let document = openapi::openapi();
    let v3 = "/identity/v3";
    let mut ids = std::collections::HashMap::new();
    for kind in ["project", "user", "group", "domain", "role"] {
        let body = json!({kind: {"name": format!("of-{kind}"), "enabled": false}});
        let (status, made) = cloud
            .ask("admin", "POST", &format!("{v3}/{kind}s"), body)
            .await;
        assert_eq!(status, 201, "{made}");
        ids.insert(kind, made[kind]["id"].as_str().unwrap().to_owned());
    }
    let (_, services) = cloud.get("admin", &format!("{v3}/services")).await;
    let (_, endpoints) = cloud.get("admin", &format!("{v3}/endpoints")).await;
    ids.insert("service", id(&services["services"][0]));
    ids.insert("endpoint", id(&endpoints["endpoints"][0]));
    ids.insert("region", "RegionOne".to_owned());
    let mut seen = std::collections::BTreeSet::new();
    let mut found = Vec::new();
    // What is deleted is so last, and what things are in before them; a PUT comes before its GET.
    let order = |method: &str| {
        ["post", "put", "get", "patch", "delete"]
            .iter()
            .position(|m| *m == method)
    };
    let mut all = crate::api::keystone::operations();
    all.sort_by_key(|o| {
        (
            order(o.method),
            std::cmp::Reverse(o.path.matches('/').count()),
        )
    });
    for operation in all {
        let (path, method, success) = (&operation.path, &operation.method, &operation.success);
        let asked = &operation.asked;
        let mut before = "";
        let place = path.split('/').map(|part| {
            let name = part.strip_prefix('{').and_then(|p| p.strip_suffix('}'));
            let kind = match name {
                Some("id" | "place" | "actor") => before.trim_end_matches('s'),
                Some(name) => name,
                None => "",
            };
            before = part;
            name.map_or(part, |_| ids.get(kind).map_or("nobody", String::as_str))
        });
        let place = place.collect::<Vec<_>>().join("/");
        let verb = method.to_ascii_uppercase();
        if (path.as_str(), *method) == ("/identity/v3/domains/{id}", "delete") {
            // One that is open stays.
            let shut = json!({"domain": {"enabled": false}});
            assert_eq!(cloud.ask("admin", "PATCH", &place, shut).await.0, 200);
        }
        let bodies = asked.as_ref().map_or_else(|| vec![Value::Null], odd_bodies);
        for body in bodies {
            let (status, answer) = cloud.ask("admin", &verb, &place, body.clone()).await;
            let told = if (200..400).contains(&status) {
                assert_eq!(status, *success, "{verb} {place}: {answer}");
                seen.insert((path.clone(), *method));
                if status == 204 {
                    assert_eq!(answer, Value::Null, "{verb} {place}");
                    continue;
                }
                if let Some(asked) = asked {
                    wrong(
                        &document,
                        asked,
                        &body,
                        &format!("{verb} {path} takes"),
                        &mut found,
                    );
                }
                body_of(&document, (path, method), &status.to_string())
            } else {
                &document["components"]["responses"]["Unauthenticated"]["content"]["application/json"]
                    ["schema"]
            };
            wrong(
                &document,
                told,
                &answer,
                &format!("{verb} {path} {status}"),
                &mut found,
            );
        }
        for query in [
            "?name=%00",
            "?user.id=&effective",
            "?domain_id=x&enabled=maybe",
        ] {
            if *method == "get" {
                cloud.get("admin", &format!("{place}{query}")).await;
            }
        }
    }
    found.sort();
    found.dedup();
    assert!(found.is_empty(), "{}", found.join("\n"));
    let all = crate::api::keystone::operations();
    let missed = all
        .iter()
        .filter(|o| !seen.contains(&(o.path.clone(), o.method)));
    let missed: Vec<_> = missed.map(|o| (o.path.as_str(), o.method)).collect();
    // What asks for more than an odd value to be taken; their own tests have it.
    let known = |(path, method): &(&str, &str)| {
        path.ends_with("/auth/tokens")
            || path.ends_with("/password")
            || path.contains("/application_credentials")
                && (path.ends_with('}') || *method == "post")
    };
    assert!(missed.iter().all(known), "{missed:?}");
}
