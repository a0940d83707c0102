//! Tokens, projects, users and roles, as a client sees them.

use super::*;
use crate::store::Read as _;

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

#[tokio::test]
async fn what_the_catalog_lists_is_shown_by_its_id() {
    let cloud = Cloud::new().await;
    for (collection, word) in [
        ("services", "service"),
        ("endpoints", "endpoint"),
        ("regions", "region"),
    ] {
        let path = format!("/identity/v3/{collection}");
        let (status, listed) = cloud.get("admin", &path).await;
        assert_eq!(status, 200, "{collection}");
        let rows = listed[collection].as_array().unwrap();
        assert!(!rows.is_empty());
        for row in rows {
            let one = format!("{path}/{}", row["id"].as_str().unwrap());
            let (status, shown) = cloud.get("admin", &one).await;
            assert_eq!(status, 200, "{one}");
            assert_eq!(&shown[word], row);
            assert_eq!(cloud.get("a", &one).await.0, 403);
        }
        let nothing = format!("{path}/nothing");
        assert_eq!(cloud.get("admin", &nothing).await.0, 404);
    }
}

/// A login by an application credential.
fn by_credential(credential: &Value, scope: Value) -> Request<Body> {
    let mut auth = json!({"identity": {
        "methods": ["application_credential"], "application_credential": credential,
    }});
    if !scope.is_null() {
        auth["scope"] = scope;
    }
    Request::post("/identity/v3/auth/tokens")
        .body(Body::from(json!({"auth": auth}).to_string()))
        .unwrap()
}

impl Cloud {
    /// Logs in; the token and what it says.
    async fn login(&self, request: Request<Body>) -> (String, Value) {
        let (status, headers, body) = self.raw(request).await;
        assert_eq!(status, 201, "{body}");
        let token = headers["x-subject-token"].to_str().unwrap().to_owned();
        (token, body["token"].clone())
    }
}

#[tokio::test]
async fn a_credential_acts_for_its_user_in_one_project_with_the_roles_it_was_lent() {
    let cloud = Cloud::new().await;
    let path = "/identity/v3/users/user-a/application_credentials";
    let wanted = json!({"application_credential": {
        "name": "ci", "description": "reads", "roles": [{"name": "reader"}],
    }});
    let (status, body) = cloud.ask("a", "POST", path, wanted.clone()).await;
    assert_eq!(status, 201, "{body}");
    let made = body["application_credential"].clone();
    let secret = made["secret"].as_str().unwrap().to_owned();
    assert_eq!(
        (&made["project_id"], &made["unrestricted"]),
        (&json!(A), &json!(false))
    );
    assert_eq!(cloud.ask("a", "POST", path, wanted).await.0, 409);
    // The secret is told once.
    let (_, list) = cloud.get("a", path).await;
    assert_eq!(list["application_credentials"].as_array().unwrap().len(), 1);
    assert!(!list.to_string().contains(&secret) && !list.to_string().contains("argon2"));
    // By id, and by its name and its user's.
    let by_name =
        json!({"name": "ci", "secret": secret, "user": {"name": "a", "domain": {"id": "default"}}});
    for given in [json!({"id": made["id"], "secret": secret}), by_name.clone()] {
        let (token, told) = cloud.login(by_credential(&given, Value::Null)).await;
        assert_eq!(told["application_credential"]["restricted"], true);
        assert_eq!(told["project"]["id"], A);
        let roles: Vec<_> = told["roles"]
            .as_array()
            .unwrap()
            .iter()
            .map(|r| &r["name"])
            .collect();
        assert_eq!(roles, ["reader"]);
        assert_eq!(cloud.get(&token, "/v2.0/networks").await.0, 200);
        let network = json!({"network": {"name": "n"}});
        let refused = cloud.ask(&token, "POST", "/v2.0/networks", network).await;
        assert_eq!(refused.0, 403);
        // Restricted, it makes and deletes none; another token of it is no more than it.
        let another = json!({"application_credential": {"name": "x"}});
        assert_eq!(cloud.ask(&token, "POST", path, another).await.0, 403);
        let again = json!({"auth": {"identity": {"methods": ["token"], "token": {"id": token}}}});
        let again = Request::post("/identity/v3/auth/tokens").body(Body::from(again.to_string()));
        let (again, told) = cloud.login(again.unwrap()).await;
        assert_eq!(told["roles"].as_array().unwrap().len(), 1);
        let own = format!("{path}/{}", made["id"].as_str().unwrap());
        assert_eq!(cloud.ask(&again, "DELETE", &own, Value::Null).await.0, 403);
    }
    for (given, scope, status) in [
        (
            json!({"id": made["id"], "secret": "wrong"}),
            Value::Null,
            401,
        ),
        (json!({"id": "nobody", "secret": secret}), Value::Null, 401),
        (json!({"id": made["id"]}), Value::Null, 400),
        (json!({"secret": secret}), Value::Null, 400),
        (json!({"name": "ci", "secret": secret}), Value::Null, 400),
        (by_name.clone(), json!({"project": {"id": B}}), 401),
        (by_name.clone(), json!({"project": {"id": A}}), 201),
    ] {
        let got = cloud.raw(by_credential(&given, scope.clone())).await.0;
        assert_eq!(got, status, "{given} {scope}");
    }
    // Nobody makes one in another's name, or of roles that it has not.
    let other = json!({"application_credential": {"name": "y"}});
    assert_eq!(cloud.ask("admin", "POST", path, other).await.0, 403);
    assert_eq!(cloud.get("b", path).await.0, 403);
    for (what, wanted) in [
        ("role", json!({"name": "z", "roles": [{"name": "admin"}]})),
        ("name", json!({"roles": []})),
        (
            "past",
            json!({"name": "z", "expires_at": "1970-01-01T00:00:01Z"}),
        ),
        ("time", json!({"name": "z", "expires_at": "tomorrow"})),
        (
            "unrestricted",
            json!({"name": "z", "unrestricted": "perhaps"}),
        ),
        ("access_rules", json!({"name": "z", "access_rules": [{}]})),
    ] {
        let body = json!({"application_credential": wanted});
        let (status, body) = cloud.ask("a", "POST", path, body).await;
        assert_eq!(status, 400, "{what}: {body}");
        assert!(body.to_string().contains(what), "{what}: {body}");
    }
    // It goes: its tokens go with it.
    let (token, _) = cloud.login(by_credential(&by_name, Value::Null)).await;
    let own = format!("{path}/{}", made["id"].as_str().unwrap());
    assert_eq!(cloud.ask("a", "DELETE", &own, Value::Null).await.0, 204);
    assert_eq!(cloud.get(&token, "/v2.0/networks").await.0, 401);
    assert_eq!(cloud.raw(by_credential(&by_name, Value::Null)).await.0, 401);
    assert_eq!(cloud.ask("a", "DELETE", &own, Value::Null).await.0, 404);
}

#[tokio::test]
async fn a_credential_has_no_role_that_its_user_lost_and_goes_with_its_user() {
    let cloud = Cloud::new().await;
    let path = "/identity/v3/users/user-a/application_credentials";
    let wanted =
        json!({"application_credential": {"name": "ci", "secret": "s3cret", "unrestricted": true}});
    let (_, body) = cloud.ask("a", "POST", path, wanted).await;
    let given = json!({"id": body["application_credential"]["id"], "secret": "s3cret"});
    let (token, _) = cloud.login(by_credential(&given, Value::Null)).await;
    let network = json!({"network": {"name": "n"}});
    let made = cloud
        .ask(&token, "POST", "/v2.0/networks", network.clone())
        .await;
    assert_eq!(made.0, 201);
    // Unrestricted, it makes others.
    let another = json!({"application_credential": {"name": "x"}});
    assert_eq!(cloud.ask(&token, "POST", path, another).await.0, 201);
    let role = |name: &str| format!("/identity/v3/projects/{A}/users/user-a/roles/{name}");
    assert_eq!(
        cloud
            .ask("admin", "PUT", &role("reader"), Value::Null)
            .await
            .0,
        204
    );
    assert_eq!(
        cloud
            .ask("admin", "DELETE", &role("member"), Value::Null)
            .await
            .0,
        204
    );
    assert_eq!(cloud.get(&token, "/v2.0/networks").await.0, 200);
    let refused = cloud.ask(&token, "POST", "/v2.0/networks", network).await;
    assert_eq!(refused.0, 403);
    assert_eq!(
        cloud
            .ask("admin", "DELETE", &role("reader"), Value::Null)
            .await
            .0,
        204
    );
    assert_eq!(cloud.raw(by_credential(&given, Value::Null)).await.0, 401);
    assert_eq!(
        cloud
            .ask("admin", "DELETE", "/identity/v3/users/user-a", Value::Null)
            .await
            .0,
        204
    );
    assert_eq!(cloud.get(&token, "/v2.0/networks").await.0, 401);
    let left = cloud.api.core.store.snapshot();
    assert_eq!(
        left.scan("appcred/").count() + left.scan("idname/appcred/").count(),
        0
    );
}

#[tokio::test]
async fn another_password_takes_back_what_the_old_one_bought() {
    let cloud = Cloud::new().await;
    assert_eq!(cloud.get("a", "/v2.0/networks").await.0, 200);
    let change = json!({"user": {"password": "other"}});
    let changed = cloud
        .ask("admin", "PATCH", "/identity/v3/users/user-a", change)
        .await;
    assert_eq!(changed.0, 200);
    assert_eq!(cloud.get("a", "/v2.0/networks").await.0, 401);
    assert_eq!(cloud.get("r", "/v2.0/networks").await.0, 200);
}

#[tokio::test]
async fn a_service_goes_on_with_a_users_token_that_expired() {
    let cloud = Cloud::new().await;
    transact::<_, ()>(cloud.api.core.store.as_ref(), |view| {
        let now = Clock::default().now();
        for (name, ago) in [("late", 60), ("old", identity::EXPIRED_LIFE + 60)] {
            let token = view
                .get::<identity::Token>(&identity::token_key("a"))
                .unwrap();
            let expired = identity::Token {
                expires_at: now.minus(ago),
                ..identity::Token::clone(&token)
            };
            view.put(identity::token_key(name), Arc::new(expired));
        }
        Ok(())
    })
    .await
    .unwrap();
    for (token, service, status) in [
        ("late", None, 401),
        ("late", Some("b"), 401),
        ("late", Some("s"), 200),
        ("old", Some("s"), 401),
        ("nobody", Some("s"), 401),
        ("a", Some("nobody"), 200),
    ] {
        let mut request = Request::get("/v2.0/networks").header("x-auth-token", token);
        if let Some(service) = service {
            request = request.header("x-service-token", service);
        }
        let got = cloud.raw(request.body(Body::empty()).unwrap()).await.0;
        assert_eq!(got, status, "{token} {service:?}");
    }
}

#[tokio::test]
async fn where_another_keystone_judges_the_embedded_one_does_not() {
    let cloud = Cloud::new().await;
    let judge = crate::api::Judge::new("http://127.0.0.1:9/v3", None).unwrap();
    let api = cloud.api.clone().judged_by(Some(judge));
    let judged = Cloud {
        router: api.clone().router(),
        api,
    };
    let ask = |path: &str| {
        let request = Request::get(path).header("x-auth-token", "admin");
        judged.raw(request.body(Body::empty()).unwrap())
    };
    // It cannot be reached: nobody is let in by a token of the embedded one.
    let (status, _, body) = ask("/v2.0/networks").await;
    assert_eq!(
        (status.as_u16(), &body["NeutronError"]["type"]),
        (503, &json!("ServiceUnavailable"))
    );
    assert_eq!(ask("/identity/v3").await.0, 404);
    assert_eq!(ask("/healthz").await.0, 200);
}
