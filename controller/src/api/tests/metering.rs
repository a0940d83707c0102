//! Metering labels, their rules, and what was counted.

use super::*;
use crate::status::Sum;

const LABELS: &str = "/v2.0/metering/metering-labels";
const RULES: &str = "/v2.0/metering/metering-label-rules";
const SUMS: &str = "/v2.0/overweave/metering-sums";

impl Cloud {
    async fn label(&self, body: Value) -> Value {
        self.made("admin", LABELS, "metering_label", body).await
    }

    async fn meter_rule(&self, body: Value) -> Value {
        self.made("admin", RULES, "metering_label_rule", body).await
    }
}

#[tokio::test]
async fn labels_are_an_admins_and_seen_by_whom_they_count_for() {
    let cloud = Cloud::new().await;
    let own = cloud.label(json!({"name": "own", "project_id": A})).await;
    let expected = json!({
        "id": own["id"], "name": "own", "description": "", "tenant_id": A, "project_id": A, "shared": false,
    });
    assert_eq!(own, expected);
    let all = cloud
        .label(json!({"name": "all", "description": "d", "shared": true}))
        .await;
    for (who, seen) in [("a", 2), ("r", 2), ("b", 1), ("admin", 2)] {
        let (_, list) = cloud.get(who, LABELS).await;
        let list = list["metering_labels"].as_array().unwrap();
        assert_eq!(list.len(), seen, "{who}");
    }
    let path = format!("{LABELS}/{}", id(&own));
    cloud
        .refused("b", "GET", &path, Value::Null, 404, "MeteringLabelNotFound")
        .await;
    let body = json!({"metering_label": {}});
    cloud
        .refused("a", "POST", LABELS, body, 403, "PolicyNotAuthorized")
        .await;
    cloud
        .refused(
            "a",
            "DELETE",
            &path,
            Value::Null,
            403,
            "PolicyNotAuthorized",
        )
        .await;
    let body = json!({"metering_label": {"name": "x"}});
    cloud
        .refused("admin", "PUT", &path, body, 400, "HTTPBadRequest")
        .await;
    // Its rules go with it, and the other's stay.
    for label in [&own, &all] {
        let body = json!({"metering_label_id": label["id"], "remote_ip_prefix": "10.0.0.0/8"});
        cloud.meter_rule(body).await;
    }
    let (status, _) = cloud.ask("admin", "DELETE", &path, Value::Null).await;
    assert_eq!(status, 204);
    let (_, rules) = cloud.get("admin", RULES).await;
    let rules = rules["metering_label_rules"].as_array().unwrap();
    assert_eq!(rules.len(), 1);
    assert_eq!(rules[0]["metering_label_id"], all["id"]);
    for _ in 1..32 {
        cloud.label(json!({"shared": true})).await;
    }
    let body = json!({"metering_label": {"shared": true}});
    cloud
        .refused("admin", "POST", LABELS, body, 409, "MeteringLabelLimit")
        .await;
    cloud.label(json!({})).await;
}

#[tokio::test]
async fn rules_name_one_end_inside_or_both_ends() {
    let cloud = Cloud::new().await;
    let label = cloud.label(json!({"project_id": A})).await;
    let of = |more: Value| with(json!({"metering_label_id": label["id"]}), more);
    let rule = cloud
        .meter_rule(of(json!({"remote_ip_prefix": "10.0.0.9/24"})))
        .await;
    let expected = json!({
        "id": rule["id"], "tenant_id": A, "project_id": A, "metering_label_id": label["id"],
        "direction": "ingress", "excluded": false, "remote_ip_prefix": "10.0.0.0/24",
        "source_ip_prefix": null, "destination_ip_prefix": null,
    });
    assert_eq!(rule, expected);
    for (body, status, kind) in [
        (json!({}), 400, "BadRequest"),
        (
            json!({"remote_ip_prefix": "10.1.0.0/16", "source_ip_prefix": "10.0.0.0/8"}),
            400,
            "BadRequest",
        ),
        (
            json!({"source_ip_prefix": "10.1.0.0/16", "destination_ip_prefix": "fd00::/8"}),
            400,
            "BadRequest",
        ),
        (json!({"remote_ip_prefix": "x"}), 400, "HTTPBadRequest"),
        (
            json!({"remote_ip_prefix": "10.0.0.0/8", "direction": "up"}),
            400,
            "HTTPBadRequest",
        ),
        // Said already, of a part of it, in another way.
        (
            json!({"remote_ip_prefix": "10.0.0.128/25"}),
            409,
            "MeteringLabelRuleOverlaps",
        ),
        (
            json!({"destination_ip_prefix": "10.0.0.0/8"}),
            409,
            "MeteringLabelRuleOverlaps",
        ),
        (
            json!({"remote_ip_prefix": "10.1.0.0/16", "metering_label_id": MISSING}),
            404,
            "MeteringLabelNotFound",
        ),
    ] {
        let body = json!({"metering_label_rule": of(body)});
        cloud
            .refused("admin", "POST", RULES, body, status, kind)
            .await;
    }
    // Of another direction, excluded, or of another family it is another thing.
    for more in [
        json!({"remote_ip_prefix": "10.0.0.0/24", "direction": "egress"}),
        json!({"remote_ip_prefix": "10.0.0.7/32", "excluded": "true"}),
        json!({"remote_ip_prefix": "fd00::/64"}),
    ] {
        cloud.meter_rule(of(more)).await;
    }
    let both = json!({"source_ip_prefix": "10.7.0.0/16", "destination_ip_prefix": "192.0.2.0/24"});
    let both = cloud.meter_rule(of(both)).await;
    let path = format!("{RULES}/{}", id(&both));
    let change = |body: Value| json!({"metering_label_rule": body});
    let moved = change(json!({"source_ip_prefix": "10.8.0.0/16"}));
    let (status, moved) = cloud.ask("admin", "PUT", &path, moved).await;
    let moved = &moved["metering_label_rule"]["source_ip_prefix"];
    assert_eq!((status, moved), (200, &json!("10.8.0.0/16")));
    let none = json!({"source_ip_prefix": null, "destination_ip_prefix": null});
    cloud
        .refused("admin", "PUT", &path, change(none), 400, "BadRequest")
        .await;
    let excluded = change(json!({"excluded": true}));
    cloud
        .refused("admin", "PUT", &path, excluded, 400, "HTTPBadRequest")
        .await;
    let filter = format!("{RULES}?direction=egress&fields=direction");
    let (_, list) = cloud.get("a", &filter).await;
    assert_eq!(
        list,
        json!({"metering_label_rules": [{"direction": "egress"}]})
    );
    let (_, list) = cloud.get("b", RULES).await;
    assert_eq!(list, json!({"metering_label_rules": []}));
}

#[tokio::test]
async fn what_hosts_counted_is_summed_for_whose_routers_it_is() {
    let cloud = Cloud::new().await;
    let label = cloud.label(json!({"shared": true})).await;
    let own = cloud.label(json!({"project_id": B})).await;
    let mut routers = Vec::new();
    for who in ["a", "b"] {
        let router = cloud.made(who, "/v2.0/routers", "router", json!({})).await;
        routers.push(id(&router).parse::<Uuid>().unwrap());
    }
    let [of_label, of_own] = [&label, &own].map(|l| id(l).parse::<Uuid>().unwrap());
    let (first, second) = (Uuid::from_u128(1), Uuid::from_u128(2));
    let sum = |packets, bytes| Sum { packets, bytes };
    let told = [
        (
            first,
            vec![
                ((of_label, routers[0]), sum(1, 10)),
                ((of_label, Uuid::nil()), sum(9, 9)),
            ],
        ),
        (
            second,
            vec![
                ((of_label, routers[0]), sum(2, 20)),
                ((of_label, routers[1]), sum(4, 40)),
                ((of_own, routers[1]), sum(8, 80)),
            ],
        ),
    ];
    let board = &cloud.api.core.status;
    for (host, sums) in told {
        board.set_meters(host, sums.into_iter().collect());
    }
    let shown = async |who: &str, query: &str| {
        let (status, list) = cloud.get(who, &format!("{SUMS}{query}")).await;
        assert_eq!(status, 200);
        let rows = list["metering_sums"].as_array().unwrap().clone();
        let mut rows: Vec<_> = rows
            .iter()
            .map(|row| (row["packets"].as_u64(), row["bytes"].as_u64()))
            .collect();
        rows.sort_unstable();
        rows
    };
    let row = |n: u64, m: u64| (Some(n), Some(m));
    assert_eq!(shown("a", "").await, [row(3, 30)]);
    assert_eq!(shown("b", "").await, [row(4, 40), row(8, 80)]);
    assert_eq!(
        shown("admin", "").await,
        [row(3, 30), row(4, 40), row(8, 80)]
    );
    let query = format!("?metering_label_id={of_own}");
    assert_eq!(shown("admin", &query).await, [row(8, 80)]);
    board.forget_host(second);
    assert_eq!(shown("a", "").await, [row(1, 10)]);
    assert_eq!(cloud.get("", SUMS).await.0, 401);
    cloud
        .refused("a", "POST", SUMS, json!({}), 405, "HTTPMethodNotAllowed")
        .await;
}
