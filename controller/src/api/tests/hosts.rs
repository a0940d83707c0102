//! Hosts and agents, as an admin sees them.

use super::*;

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
    let none = json!({"host": {"new_token": false}});
    let (_, body) = cloud.ask("admin", "PUT", &path, none).await;
    assert!(
        body["host"].get("token").is_none() && stored(&key),
        "{body}"
    );
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
