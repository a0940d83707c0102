//! What nobody may write, and what an admin alone may: each field of each table, in a create and in an update.
//!
//! Generated from the registry. A real Neutron looks at a body before it looks for the object or at who asks: so an answer tells nobody
//! whether there is one.

use super::{planted::Planted, *};
use crate::resource::{Field, Kind};

/// Text that each kind of field could hold.
fn plausible(field: &Field) -> Value {
    match field.kind {
        Kind::Uuid | Kind::IdOf(_) => json!(MISSING),
        Kind::Text(_) => json!("x"),
        Kind::Bool => json!(true),
        Kind::Int(least, _) => json!(least),
        Kind::Mac => json!("02:00:00:00:00:01"),
        Kind::Address => json!("10.0.0.1"),
        Kind::Cidr => json!("10.0.0.0/8"),
        Kind::OneOf(words) => json!(words[0]),
        Kind::OneOfNumbers(numbers) => json!(numbers[0]),
        Kind::Uuids => json!([MISSING]),
        Kind::Words => json!(["x"]),
        Kind::Shape(_) => json!({}),
    }
}

/// The project is told by two names: the old one is no field that can be given of its own in the tables.
fn is_project(field: &Field) -> bool {
    ["project_id", "tenant_id"].contains(&field.name)
}

#[tokio::test]
async fn what_is_read_only_is_refused_whoever_writes_it() {
    let cloud = Cloud::new().await;
    let own = Planted::new(&cloud, "a", 11).await;
    let (mut made, mut changed) = (0, 0);
    for spec in REGISTRY.iter().filter(|spec| spec.allows(Verb::Create)) {
        let many = format!("/v2.0/{}", spec.path);
        let one = format!("{many}/{}", own.id(spec.singular));
        let absent = format!("{many}/{MISSING}");
        let (status, before) = cloud.get("admin", &one).await;
        assert_eq!(status, 200, "{one}");
        let (_, list) = cloud.get("admin", &many).await;
        for field in spec.fields() {
            let name = field.name;
            if field.create == Policy::Nobody && !is_project(field) {
                made += 1;
                let (_, mut body) = own.wanted(spec.singular, 99);
                // Whose it is is an admin's to say.
                body.as_object_mut().unwrap().remove("project_id");
                body[name] = plausible(field);
                let wrapped = json!({ spec.singular: body });
                for who in ["admin", "a", "r", "b"] {
                    let answer = cloud
                        .refused(who, "POST", &many, wrapped.clone(), 400, "HTTPBadRequest")
                        .await;
                    let text = answer["NeutronError"]["message"].as_str().unwrap();
                    assert_eq!(text, format!("Attribute '{name}' not allowed in POST"));
                }
            }
            if field.update == Policy::Nobody && spec.allows(Verb::Update) {
                changed += 1;
                // As it is shown: that too is a write.
                let shown = before[spec.singular].get(name).cloned();
                for value in [plausible(field), shown.unwrap_or_default()] {
                    let body = json!({spec.singular: {name: value}});
                    for who in ["admin", "a", "r", "b"] {
                        let asked = (who, name);
                        let (status, answer) = cloud.ask(who, "PUT", &one, body.clone()).await;
                        let error = &answer["NeutronError"];
                        let refused = (status, error["type"].as_str().unwrap_or_default());
                        assert_eq!(
                            refused,
                            (400, "HTTPBadRequest"),
                            "{one} {asked:?}: {answer}"
                        );
                        let other = cloud.ask(who, "PUT", &absent, body.clone()).await;
                        assert_eq!(other, (status, answer.clone()), "{one} {asked:?}");
                        if !is_project(field) {
                            let text = error["message"].as_str().unwrap();
                            let wanted = format!("Cannot update read-only attribute {name}");
                            assert_eq!(text, wanted);
                        }
                    }
                }
            }
        }
        assert_eq!(
            cloud.get("admin", &one).await.1,
            before,
            "{one} is as it was"
        );
        assert_eq!(
            cloud.get("admin", &many).await.1,
            list,
            "{many} is as it was"
        );
    }
    assert!(made >= 100 && changed >= 150, "{made} and {changed} fields");
}

#[tokio::test]
async fn what_is_an_admins_is_refused_to_members() {
    let cloud = Cloud::new().await;
    let own = Planted::new(&cloud, "a", 11).await;
    let mut met = 0;
    let of_admins = |policy: Policy| {
        matches!(
            policy,
            Policy::Admin | Policy::AdminOrService | Policy::Service
        )
    };
    for spec in REGISTRY.iter().filter(|spec| spec.allows(Verb::Create)) {
        let many = format!("/v2.0/{}", spec.path);
        let one = format!("{many}/{}", own.id(spec.singular));
        let (_, before) = cloud.get("admin", &one).await;
        for field in spec.fields() {
            let name = field.name;
            let mut value = plausible(field);
            if matches!(field.kind, Kind::Shape(_)) {
                value = before[spec.singular].get(name).cloned().unwrap_or(value);
            }
            let mut asked = Vec::new();
            if of_admins(field.create) {
                let (_, mut body) = own.wanted(spec.singular, 99);
                body[name] = value.clone();
                asked.push(("POST", &many, body));
            }
            if of_admins(field.update) && spec.allows(Verb::Update) {
                asked.push(("PUT", &one, json!({name: value})));
            }
            for (method, path, body) in asked {
                met += 1;
                for who in ["a", "r"] {
                    let body = json!({spec.singular: body});
                    cloud
                        .refused(who, method, path, body, 403, "PolicyNotAuthorized")
                        .await;
                }
            }
        }
        assert_eq!(
            cloud.get("admin", &one).await.1,
            before,
            "{one} is as it was"
        );
    }
    assert!(met >= 20, "{met} fields");
}
