//! Tokens, projects, users and roles, as a client sees them.

use super::*;

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
