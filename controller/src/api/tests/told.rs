//! What is told of networks that is no object.

use super::*;

const AVAILABLE: &str = "/v2.0/network-ip-availabilities";
const SEGMENTS: &str = "/v2.0/segments";

#[tokio::test]
async fn addresses_are_counted_exactly() {
    let cloud = Cloud::new().await;
    let network = cloud.network("a").await;
    let v4 = cloud.subnet("a", &network, "10.0.0.0/24").await;
    let v6 = cloud.subnet("a", &network, "fd00::/48").await;
    cloud.port("a", json!({"network_id": network})).await;
    let only_v4 = json!([{"subnet_id": v4["id"]}]);
    cloud
        .port("a", json!({"network_id": network, "fixed_ips": only_v4}))
        .await;
    let empty = cloud.network("b").await;
    // As text: these numbers are larger than a JSON reader's.
    let text = async |path: &str| {
        let request = Request::get(path).header("x-auth-token", "admin");
        let request = request.body(Body::empty()).unwrap();
        let response = cloud.router.clone().oneshot(request).await.unwrap();
        let body = axum::body::to_bytes(response.into_body(), usize::MAX).await;
        String::from_utf8(body.unwrap().to_vec()).unwrap()
    };
    let of_v6 = (1_u128 << 80) - 1;
    let whole = text(&format!("{AVAILABLE}/{network}")).await;
    let (first, second) = (id(&v4), id(&v6));
    let expected = format!(
        concat!(
            r#"{{"network_ip_availability":{{"network_id":"{}","network_name":"n","tenant_id":"{}","project_id":"{}","#,
            r#""subnet_ip_availability":[{}],"used_ips":3,"total_ips":{}}}}}"#
        ),
        network,
        A,
        A,
        {
            let mut rows = [
                (
                    &first,
                    format!(
                        r#"{{"subnet_id":"{first}","subnet_name":"","ip_version":4,"cidr":"10.0.0.0/24","used_ips":2,"total_ips":253}}"#
                    ),
                ),
                (
                    &second,
                    format!(
                        r#"{{"subnet_id":"{second}","subnet_name":"","ip_version":6,"cidr":"fd00::/48","used_ips":1,"total_ips":{of_v6}}}"#
                    ),
                ),
            ];
            // Made within one second, they are in the order of their ids.
            rows.sort();
            rows.map(|(_, row)| row).join(",")
        },
        of_v6 + 253,
    );
    assert_eq!(whole, expected);
    let (_, list) = cloud.get("admin", AVAILABLE).await;
    assert_eq!(
        list["network_ip_availabilities"].as_array().unwrap().len(),
        2
    );
    for (query, ids) in [
        (format!("network_id={empty}"), vec![&empty]),
        (format!("network_id={MISSING}"), vec![]),
        (format!("project_id={B}&fields=network_id"), vec![&empty]),
        (format!("tenant_id={A}"), vec![&network]),
        ("network_name=n&ip_version=4".to_owned(), vec![&network]),
        ("ip_version=5".to_owned(), vec![]),
        (
            "sort_key=used_ips&sort_dir=desc".to_owned(),
            vec![&network, &empty],
        ),
        (
            "sort_key=total_ips&sort_dir=asc".to_owned(),
            vec![&empty, &network],
        ),
    ] {
        let (status, list) = cloud.get("admin", &format!("{AVAILABLE}?{query}")).await;
        let rows = list["network_ip_availabilities"].as_array().unwrap();
        let have: Vec<String> = rows
            .iter()
            .map(|row| row["network_id"].as_str().unwrap().to_owned())
            .collect();
        let ids: Vec<String> = ids.into_iter().cloned().collect();
        assert_eq!((status, have), (200, ids), "{query}");
    }
    let (_, list) = cloud
        .get("admin", &format!("{AVAILABLE}?ip_version=4"))
        .await;
    let row = &list["network_ip_availabilities"][0];
    assert_eq!(
        (&row["used_ips"], &row["total_ips"]),
        (&json!(2), &json!(253))
    );
    let (_, list) = cloud
        .get(
            "admin",
            &format!("{AVAILABLE}?network_id={empty}&fields=total_ips"),
        )
        .await;
    assert_eq!(list["network_ip_availabilities"], json!([{"total_ips": 0}]));
    let (_, list) = cloud.get("a", AVAILABLE).await;
    assert_eq!(list["network_ip_availabilities"], json!([]));
    for (who, id) in [("a", network.as_str()), ("admin", MISSING), ("admin", "x")] {
        let path = format!("{AVAILABLE}/{id}");
        cloud
            .refused(
                who,
                "GET",
                &path,
                Value::Null,
                404,
                "NetworkIpAvailabilityNotFound",
            )
            .await;
    }
    for method in ["POST", "PUT", "DELETE"] {
        let path = format!("{AVAILABLE}/{network}");
        cloud
            .refused(
                "admin",
                method,
                &path,
                json!({}),
                405,
                "HTTPMethodNotAllowed",
            )
            .await;
    }
    let bad = format!("{AVAILABLE}?sort_key=bogus&sort_dir=asc");
    cloud
        .refused("admin", "GET", &bad, Value::Null, 400, "HTTPBadRequest")
        .await;
    assert_eq!(cloud.get("", AVAILABLE).await.0, 401);
}

#[tokio::test]
async fn a_network_is_one_segment() {
    let cloud = Cloud::new().await;
    let network = cloud.network("a").await;
    cloud.network("a").await;
    let (_, shown) = cloud
        .get("admin", &format!("/v2.0/networks/{network}"))
        .await;
    let shown = &shown["network"];
    let segment = json!({
        "id": network, "network_id": network, "name": null, "description": null,
        "physical_network": null, "network_type": "vxlan",
        "segmentation_id": shown["provider:segmentation_id"],
        "revision_number": shown["revision_number"],
        "created_at": shown["created_at"], "updated_at": shown["updated_at"],
    });
    let one = format!("{SEGMENTS}/{network}");
    assert_eq!(
        cloud.get("admin", &one).await,
        (200, json!({"segment": segment}))
    );
    let vni = &shown["provider:segmentation_id"];
    for query in [
        format!("network_id={network}"),
        format!("segmentation_id={vni}&network_type=vxlan"),
    ] {
        let (_, list) = cloud.get("admin", &format!("{SEGMENTS}?{query}")).await;
        assert_eq!(list, json!({"segments": [segment]}), "{query}");
    }
    let (_, list) = cloud
        .get("admin", &format!("{SEGMENTS}?fields=network_type"))
        .await;
    assert_eq!(
        list,
        json!({"segments": [{"network_type": "vxlan"}, {"network_type": "vxlan"}]})
    );
    assert_eq!(cloud.get("a", SEGMENTS).await.1, json!({"segments": []}));
    cloud
        .refused("a", "GET", &one, Value::Null, 404, "SegmentNotFound")
        .await;
    let body = json!({"segment": {"network_id": network, "network_type": "vxlan"}});
    cloud
        .refused(
            "admin",
            "POST",
            SEGMENTS,
            body.clone(),
            400,
            "HTTPBadRequest",
        )
        .await;
    assert_eq!(cloud.ask("", "POST", SEGMENTS, body.clone()).await.0, 401);
    cloud
        .refused("admin", "DELETE", &one, body, 405, "HTTPMethodNotAllowed")
        .await;
    let put = |body: Value| json!({"segment": body});
    let named = put(json!({"name": "uplink", "description": "d"}));
    let (status, now) = cloud.ask("admin", "PUT", &one, named).await;
    let now = &now["segment"];
    assert_eq!(
        (status, &now["name"], &now["description"]),
        (200, &json!("uplink"), &json!("d"))
    );
    assert_ne!(now["revision_number"], segment["revision_number"]);
    assert_eq!(now["created_at"], segment["created_at"]);
    let (_, list) = cloud.get("admin", &format!("{SEGMENTS}?name=uplink")).await;
    assert_eq!(list, json!({"segments": [now]}));
    // The network has no such field.
    let (_, shown) = cloud
        .get("admin", &format!("/v2.0/networks/{network}"))
        .await;
    assert!(shown["network"].get("segment_name").is_none());
    for (who, body, status, kind) in [
        ("a", json!({"name": "x"}), 404, "SegmentNotFound"),
        (
            "admin",
            json!({"network_type": "vlan"}),
            400,
            "HTTPBadRequest",
        ),
        ("admin", json!({"bogus": 1}), 400, "HTTPBadRequest"),
        ("admin", json!({"name": 5}), 400, "HTTPBadRequest"),
        ("admin", json!({"name": "a\0b"}), 400, "HTTPBadRequest"),
        (
            "admin",
            json!({"name": "x".repeat(256)}),
            400,
            "HTTPBadRequest",
        ),
    ] {
        cloud
            .refused(who, "PUT", &one, put(body), status, kind)
            .await;
    }
    let missing = format!("{SEGMENTS}/{MISSING}");
    cloud
        .refused(
            "admin",
            "PUT",
            &missing,
            put(json!({})),
            404,
            "SegmentNotFound",
        )
        .await;
}
