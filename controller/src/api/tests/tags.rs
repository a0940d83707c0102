//! Tags, on any resource that has them.

use super::*;

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
