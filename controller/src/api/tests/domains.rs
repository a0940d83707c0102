//! Domains and groups, as a client sees them.

use super::*;

const V3: &str = "/identity/v3";

impl Cloud {
    /// A record of the identity API that must be made; its id.
    async fn kept(&self, who: &str, many: &str, one: &str, body: Value) -> String {
        let path = format!("{V3}/{many}");
        let (status, answer) = self.ask(who, "POST", &path, json!({one: body})).await;
        assert_eq!(status, 201, "{many} {body}: {answer}");
        id(&answer[one])
    }

    /// A token by password; its text and body, or the status of the refusal.
    async fn enter(&self, user: Value, scope: Value) -> Result<(String, Value), u16> {
        let mut auth = json!({"identity": {"methods": ["password"], "password": {"user": user}}});
        if !scope.is_null() {
            auth["scope"] = scope;
        }
        let request = Request::post(format!("{V3}/auth/tokens"))
            .header("host", "cloud.example:9696")
            .body(Body::from(json!({"auth": auth}).to_string()))
            .unwrap();
        let (status, headers, body) = self.raw(request).await;
        if status != 201 {
            return Err(status.as_u16());
        }
        let token = headers["x-subject-token"].to_str().unwrap().to_owned();
        Ok((token, body["token"].clone()))
    }

    async fn status(&self, who: &str, method: &str, path: &str) -> u16 {
        let path = format!("{V3}/{path}");
        self.ask(who, method, &path, Value::Null).await.0
    }
}

fn eve(domain: &Value) -> Value {
    json!({"name": "eve", "password": "pw", "domain": domain})
}

#[tokio::test]
async fn names_are_of_their_domain_and_a_shut_one_lets_nobody_in() {
    let cloud = Cloud::new().await;
    let blue = cloud
        .kept("admin", "domains", "domain", json!({"name": "blue"}))
        .await;
    for name in ["blue", "Default", "default"] {
        let body = json!({"domain": {"name": name}});
        let path = format!("{V3}/domains");
        assert_eq!(
            cloud.ask("admin", "POST", &path, body).await.0,
            409,
            "{name}"
        );
    }
    // The same names in both, each for itself.
    let mut ids = Vec::new();
    for domain in [&blue, "default"] {
        let project = json!({"name": "p", "domain_id": domain});
        let project = cloud.kept("admin", "projects", "project", project).await;
        let user = json!({"name": "eve", "password": "pw", "domain_id": domain});
        let user = cloud.kept("admin", "users", "user", user.clone()).await;
        let grant = format!("projects/{project}/users/{user}/roles/member");
        assert_eq!(cloud.status("admin", "PUT", &grant).await, 204);
        ids.push((project, user));
        let again = json!({"project": {"name": "p", "domain_id": domain}});
        let path = format!("{V3}/projects");
        assert_eq!(cloud.ask("admin", "POST", &path, again).await.0, 409);
    }
    let nowhere = json!({"user": {"name": "x", "domain_id": "nowhere"}});
    let path = format!("{V3}/users");
    assert_eq!(cloud.ask("admin", "POST", &path, nowhere).await.0, 404);
    let moved = json!({"user": {"domain_id": "default"}});
    let path = format!("{V3}/users/{}", ids[0].1);
    assert_eq!(cloud.ask("admin", "PATCH", &path, moved).await.0, 400);
    let p = |domain: Value| json!({"project": {"name": "p", "domain": domain}});
    let (by_name, by_id) = (json!({"name": "blue"}), json!({"id": blue}));
    let (token, body) = cloud.enter(eve(&by_name), p(by_id.clone())).await.unwrap();
    assert_eq!(body["user"]["domain"], json!({"id": blue, "name": "blue"}));
    assert_eq!(body["project"]["id"], ids[0].0);
    assert_eq!(body["project"]["domain"]["name"], "blue");
    let first = json!({"name": "Default"});
    let (other, body) = cloud.enter(eve(&first), p(first.clone())).await.unwrap();
    assert_eq!(body["user"]["id"], ids[1].1);
    assert_eq!(cloud.enter(eve(&by_id), p(first.clone())).await, Err(401));
    assert_eq!(
        cloud.enter(eve(&json!({"name": "red"})), Value::Null).await,
        Err(401)
    );
    let (_, listed) = cloud
        .get("admin", &format!("{V3}/users?domain_id={blue}"))
        .await;
    assert_eq!(names(&listed["users"]), ["eve"]);
    // Shut, its users and projects are.
    let networks = "/v2.0/networks";
    assert_eq!(cloud.get(&token, networks).await.0, 200);
    let path = format!("{V3}/domains/{blue}");
    assert_eq!(
        cloud
            .status("admin", "DELETE", &format!("domains/{blue}"))
            .await,
        403
    );
    let shut = json!({"domain": {"enabled": false}});
    assert_eq!(
        cloud.ask("admin", "PATCH", &path, shut.clone()).await.0,
        200
    );
    assert_eq!(cloud.get(&token, networks).await.0, 401);
    assert_eq!(cloud.get(&other, networks).await.0, 200);
    assert_eq!(cloud.enter(eve(&by_id), Value::Null).await, Err(401));
    let open = json!({"domain": {"enabled": true, "name": "azure"}});
    assert_eq!(cloud.ask("admin", "PATCH", &path, open).await.0, 200);
    assert_eq!(cloud.get(&token, networks).await.0, 200);
    assert!(
        cloud
            .enter(eve(&json!({"name": "azure"})), Value::Null)
            .await
            .is_ok()
    );
    // It goes with all that is in it, and its names are free.
    assert_eq!(
        cloud.ask("admin", "PATCH", &path, shut.clone()).await.0,
        200
    );
    assert_eq!(
        cloud
            .status("admin", "DELETE", &format!("domains/{blue}"))
            .await,
        204
    );
    for path in [
        format!("domains/{blue}"),
        format!("projects/{}", ids[0].0),
        format!("users/{}", ids[0].1),
    ] {
        assert_eq!(cloud.status("admin", "GET", &path).await, 404, "{path}");
    }
    assert_eq!(
        cloud
            .status("admin", "GET", &format!("users/{}", ids[1].1))
            .await,
        200
    );
    cloud
        .kept("admin", "domains", "domain", json!({"name": "azure"}))
        .await;
    // The first one stays, and open.
    assert_eq!(
        cloud.status("admin", "DELETE", "domains/default").await,
        403
    );
    let path = format!("{V3}/domains/default");
    assert_eq!(cloud.ask("admin", "PATCH", &path, shut).await.0, 403);
    let note = json!({"domain": {"description": "ours"}});
    assert_eq!(cloud.ask("admin", "PATCH", &path, note).await.0, 200);
    assert_eq!(
        cloud.get("admin", &path).await.1["domain"]["description"],
        "ours"
    );
}

#[tokio::test]
async fn an_admin_of_a_domain_keeps_what_is_in_it_and_no_more() {
    let cloud = Cloud::new().await;
    let blue = cloud
        .kept("admin", "domains", "domain", json!({"name": "blue"}))
        .await;
    let user = json!({"name": "eve", "password": "pw", "domain_id": blue});
    let user = cloud.kept("admin", "users", "user", user).await;
    let scope = json!({"domain": {"id": blue}});
    let by = json!({"id": blue});
    assert_eq!(cloud.enter(eve(&by), scope.clone()).await, Err(401));
    let grant = format!("domains/{blue}/users/{user}/roles/admin");
    assert_eq!(cloud.status("admin", "PUT", &grant).await, 204);
    assert_eq!(cloud.status("admin", "HEAD", &grant).await, 204);
    let (token, body) = cloud.enter(eve(&by), scope).await.unwrap();
    assert_eq!(body["domain"], json!({"id": blue, "name": "blue"}));
    assert!(body.get("project").is_none());
    assert_eq!(body["roles"][0]["name"], "admin");
    let (_, mine) = cloud.get(&token, &format!("{V3}/auth/domains")).await;
    assert_eq!(names(&mine["domains"]), ["blue"]);
    // In its domain.
    let project = json!({"name": "p"});
    let project = cloud.kept(&token, "projects", "project", project).await;
    let (_, shown) = cloud.get(&token, &format!("{V3}/projects/{project}")).await;
    assert_eq!(shown["project"]["domain_id"], blue);
    let roles = format!("projects/{project}/users/{user}/roles");
    assert_eq!(
        cloud
            .status(&token, "PUT", &format!("{roles}/member"))
            .await,
        204
    );
    let (_, seen) = cloud.get(&token, &format!("{V3}/users")).await;
    assert_eq!(names(&seen["users"]), ["eve"]);
    // And no further: not elsewhere, not to the cloud's own roles, and not to its networks.
    for role in ["admin", "service"] {
        assert_eq!(
            cloud
                .status(&token, "PUT", &format!("{roles}/{role}"))
                .await,
            403
        );
    }
    let far = format!("projects/{A}/users/{user}/roles/member");
    assert_eq!(cloud.status(&token, "PUT", &far).await, 403);
    assert_eq!(cloud.status(&token, "DELETE", "users/user-a").await, 403);
    assert_eq!(cloud.status(&token, "GET", "users/user-a").await, 403);
    let other = json!({"project": {"name": "x", "domain_id": "default"}});
    let path = format!("{V3}/projects");
    assert_eq!(cloud.ask(&token, "POST", &path, other).await.0, 403);
    let domain = json!({"domain": {"name": "x"}});
    assert_eq!(
        cloud
            .ask(&token, "POST", &format!("{V3}/domains"), domain)
            .await
            .0,
        403
    );
    assert_eq!(cloud.get(&token, "/v2.0/networks").await.0, 403);
    assert_eq!(cloud.status("a", "PUT", &grant).await, 403);
    assert_eq!(cloud.status("admin", "DELETE", &grant).await, 204);
    assert_eq!(
        cloud
            .status(&token, "GET", &format!("projects/{project}"))
            .await,
        401
    );
}

#[tokio::test]
async fn users_of_a_group_have_its_roles() {
    let cloud = Cloud::new().await;
    let group = json!({"name": "ops"});
    let group = cloud.kept("admin", "groups", "group", group).await;
    let member = format!("groups/{group}/users/user-b");
    assert_eq!(cloud.status("admin", "HEAD", &member).await, 404);
    assert_eq!(cloud.status("admin", "PUT", &member).await, 204);
    assert_eq!(cloud.status("b", "HEAD", &member).await, 204);
    assert_eq!(cloud.status("b", "DELETE", &member).await, 403);
    let (_, of) = cloud.get("b", &format!("{V3}/users/user-b/groups")).await;
    assert_eq!(names(&of["groups"]), ["ops"]);
    let (_, users) = cloud
        .get("admin", &format!("{V3}/groups/{group}/users"))
        .await;
    assert_eq!(names(&users["users"]), ["b"]);
    let b = || json!({"name": "b", "password": "secret", "domain": {"id": "default"}});
    let scope = || json!({"project": {"id": A}});
    assert_eq!(cloud.enter(b(), scope()).await, Err(401));
    let grant = format!("projects/{A}/groups/{group}/roles/member");
    assert_eq!(cloud.status("admin", "PUT", &grant).await, 204);
    let (token, body) = cloud.enter(b(), scope()).await.unwrap();
    assert_eq!(names(&body["roles"]), ["member", "reader"]);
    let network = cloud.network(&token).await;
    let path = format!("/v2.0/networks/{network}");
    assert_eq!(cloud.get("a", &path).await.0, 200);
    // What assignments say, and what they come to.
    let list = |query: &str| format!("{V3}/role_assignments?scope.project.id={A}&{query}");
    let (_, said) = cloud
        .get("admin", &list(&format!("group.id={group}")))
        .await;
    assert_eq!(said["role_assignments"][0]["group"]["id"], group);
    let (_, none) = cloud.get("admin", &list("user.id=user-b")).await;
    assert_eq!(none["role_assignments"], json!([]));
    let effective = list("user.id=user-b&effective&include_names");
    let (_, come) = cloud.get("admin", &effective).await;
    let come = come["role_assignments"].as_array().unwrap();
    let roles: Vec<&str> = come
        .iter()
        .map(|it| it["role"]["name"].as_str().unwrap())
        .collect();
    assert_eq!(roles, ["member", "reader"]);
    assert_eq!(come[0]["user"]["domain"]["name"], "Default");
    // Out of it, or without it, the roles are gone at once, and without roles the token is nothing.
    assert_eq!(cloud.status("admin", "DELETE", &member).await, 204);
    assert_eq!(cloud.get(&token, &path).await.0, 401);
    assert_eq!(cloud.status("admin", "PUT", &member).await, 204);
    assert_eq!(cloud.get(&token, &path).await.0, 200);
    assert_eq!(
        cloud
            .status("admin", "DELETE", &format!("groups/{group}"))
            .await,
        204
    );
    assert_eq!(cloud.get(&token, &path).await.0, 401);
    let (_, said) = cloud
        .get("admin", &list(&format!("group.id={group}")))
        .await;
    assert_eq!(said["role_assignments"], json!([]));
}

/// Each collection of the identity API, each verb, each caller, and bodies that are none.
#[tokio::test]
async fn no_body_is_the_identity_apis_fault() {
    let cloud = Cloud::new().await;
    let values = [
        Value::Null,
        json!(true),
        json!(-1),
        json!([null]),
        json!({"a": {"b": []}}),
        json!(""),
        json!(" "),
        json!("a\nb"),
        json!("a\u{0}b"),
        json!("x/../y"),
        json!("@default"),
        json!("x".repeat(256)),
        json!("x".repeat(70_000)),
    ];
    let kinds = [
        ("domains", "domain", &["name", "description", "enabled"][..]),
        (
            "projects",
            "project",
            &["name", "description", "enabled", "domain_id"],
        ),
        (
            "users",
            "user",
            &[
                "name",
                "email",
                "enabled",
                "domain_id",
                "default_project_id",
            ],
        ),
        ("groups", "group", &["name", "description", "domain_id"]),
        ("roles", "role", &["name", "description"]),
    ];
    for (many, one, fields) in kinds {
        let path = format!("{V3}/{many}");
        for (n, field) in fields.iter().enumerate() {
            for (at, value) in values.iter().enumerate() {
                let mut body = json!({"name": format!("{one}-{n}-{at}")});
                body[*field] = value.clone();
                let body = json!({one: body});
                for (who, status) in [("", 401), ("expired", 401), ("b", 403), ("r", 403)] {
                    let asked = cloud.ask(who, "POST", &path, body.clone()).await;
                    assert_eq!(asked.0, status, "{who} {path} {body:.200}");
                    assert_eq!(asked.1["error"]["code"], status);
                }
                // `ask` fails on every 5xx.
                let (status, answer) = cloud.ask("admin", "POST", &path, body.clone()).await;
                if status == 201 {
                    let item = format!("{path}/{}", id(&answer[one]));
                    let (status, _) = cloud.ask("admin", "PATCH", &item, body).await;
                    assert!(status == 200 || status == 403, "{item}: {status}");
                    let shut = json!({one: {"enabled": false}});
                    cloud.ask("admin", "PATCH", &item, shut).await;
                    let (status, answer) = cloud.ask("admin", "DELETE", &item, Value::Null).await;
                    assert_eq!(status, 204, "{item}: {answer}");
                } else {
                    assert!(
                        matches!(status, 400 | 404 | 409),
                        "{path} {body:.200}: {answer}"
                    );
                    assert_eq!(answer["error"]["code"], status, "{answer}");
                }
            }
        }
        for body in [
            json!([]),
            json!("x"),
            json!({one: []}),
            json!({one: null}),
            json!({}),
        ] {
            let (status, answer) = cloud.ask("admin", "POST", &path, body.clone()).await;
            assert_eq!(status, 400, "{path} {body}: {answer}");
        }
        for (who, status) in [("", 401), ("b", 403), ("admin", 404)] {
            for method in ["PATCH", "DELETE"] {
                let item = format!("{path}/{MISSING}");
                let asked = cloud.ask(who, method, &item, json!({one: {}})).await;
                assert_eq!(asked.0, status, "{who} {method} {item}: {}", asked.1);
            }
        }
    }
}
