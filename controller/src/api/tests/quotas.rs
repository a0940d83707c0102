//! How many may a project have?

use super::*;

#[tokio::test]
async fn quotas_count_exactly() {
    let cloud = Cloud::new().await;
    let path = format!("/v2.0/quotas/{B}");
    assert_eq!(cloud.get("b", &path).await.1["quota"]["network"], 100);
    cloud
        .refused("a", "GET", &path, Value::Null, 403, "PolicyNotAuthorized")
        .await;
    cloud
        .refused(
            "b",
            "PUT",
            &path,
            json!({"quota": {"network": 5}}),
            403,
            "PolicyNotAuthorized",
        )
        .await;
    let (status, body) = cloud
        .ask("admin", "PUT", &path, json!({"quota": {"network": 1}}))
        .await;
    assert_eq!((status, &body["quota"]["network"]), (200, &json!(1)));
    let network = cloud.network("b").await;
    let one = json!({"network": {}});
    cloud
        .refused("b", "POST", "/v2.0/networks", one.clone(), 409, "OverQuota")
        .await;
    for (body, kind) in [
        (json!({"bogus": 1}), "HTTPBadRequest"),
        (json!({"network": "x"}), "InvalidInput"),
        (json!({"network": -2}), "HTTPBadRequest"),
        (json!({"network": 0}), "HTTPBadRequest"),
    ] {
        cloud
            .refused("admin", "PUT", &path, json!({"quota": body}), 400, kind)
            .await;
    }
    let (_, details) = cloud.get("b", &format!("{path}/details")).await;
    assert_eq!(
        details["quota"]["network"],
        json!({"limit": 1, "used": 1, "reserved": 0})
    );
    cloud
        .ask(
            "b",
            "DELETE",
            &format!("/v2.0/networks/{network}"),
            Value::Null,
        )
        .await;
    cloud
        .made("b", "/v2.0/networks", "network", json!({}))
        .await;
    assert_eq!(
        cloud.ask("admin", "DELETE", &path, Value::Null).await.0,
        204
    );
    cloud
        .refused(
            "admin",
            "DELETE",
            &path,
            Value::Null,
            404,
            "TenantQuotaNotFound",
        )
        .await;
}
