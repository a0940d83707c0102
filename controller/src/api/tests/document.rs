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
    let methods = ["get", "put", "post", "delete"];
    for (path, item) in document["paths"].as_object().unwrap() {
        let own: Vec<&str> = methods
            .into_iter()
            .filter(|method| item.get(method).is_some())
            .collect();
        let place = ["id", "one", "part", "host", "project"];
        let place = place.iter().fold(path.clone(), |path, name| {
            path.replace(&format!("{{{name}}}"), MISSING)
        });
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
