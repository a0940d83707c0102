//! Which hosts serve networks and routers.

use super::*;

const HOSTS: &str = "/v2.0/overweave/hosts";

#[tokio::test]
async fn hosts_serve_what_their_ports_need() {
    let cloud = Cloud::new().await;
    let mut hosts = Vec::new();
    for name in ["h1", "h2", "h3"] {
        let host = cloud
            .made("admin", HOSTS, "host", json!({"name": name}))
            .await;
        hosts.push(id(&host));
    }
    let mut networks = Vec::new();
    let router = id(&cloud.made("a", "/v2.0/routers", "router", json!({})).await);
    let attach = format!("/v2.0/routers/{router}/add_router_interface");
    for (cidr, host) in [("10.0.1.0/24", "h1"), ("10.0.2.0/24", "h2")] {
        let network = cloud.network("a").await;
        let subnet = cloud.subnet("a", &network, cidr).await;
        let body = json!({"subnet_id": subnet["id"]});
        assert_eq!(cloud.ask("a", "PUT", &attach, body).await.0, 200);
        let body = json!({"network_id": network, "binding:host_id": host});
        cloud.port("admin", body).await;
        networks.push(network);
    }
    let alone = cloud.network("a").await;
    cloud
        .port(
            "admin",
            json!({"network_id": alone, "binding:host_id": "h2"}),
        )
        .await;
    let listed = async |path: String, key: &str| {
        let (status, list) = cloud.get("admin", &path).await;
        assert_eq!(status, 200, "{path}: {list}");
        let rows = list[key].as_array().unwrap();
        let mut ids: Vec<String> = rows.iter().map(id).collect();
        ids.sort();
        ids
    };
    let sorted = |ids: &[&String]| {
        let mut ids: Vec<String> = ids.iter().map(|id| (*id).clone()).collect();
        ids.sort();
        ids
    };
    let of = |kind: &str, id: &str, view: &str| format!("/v2.0/{kind}/{id}/{view}");
    for (network, host) in [(&networks[0], &hosts[0]), (&alone, &hosts[1])] {
        let path = of("networks", network, "dhcp-agents");
        assert_eq!(listed(path, "agents").await, sorted(&[host]));
    }
    let agents = [
        (0, vec![&networks[0]], vec![&router]),
        (1, vec![&networks[1], &alone], vec![&router]),
        (2, vec![], vec![]),
    ];
    for (host, networks, routers) in agents {
        let path = of("agents", &hosts[host], "dhcp-networks");
        assert_eq!(listed(path, "networks").await, sorted(&networks));
        let path = of("agents", &hosts[host], "l3-routers");
        assert_eq!(listed(path, "routers").await, sorted(&routers));
    }
    let path = of("routers", &router, "l3-agents");
    let both = sorted(&[&hosts[0], &hosts[1]]);
    assert_eq!(listed(path.clone(), "agents").await, both);
    cloud
        .refused("a", "GET", &path, Value::Null, 403, "PolicyNotAuthorized")
        .await;
    let missing = of("routers", MISSING, "l3-agents");
    cloud
        .refused("admin", "GET", &missing, Value::Null, 404, "RouterNotFound")
        .await;
    let chosen = of("agents", &hosts[2], "l3-routers");
    let body = json!({"router_id": router});
    cloud
        .refused("admin", "POST", &chosen, body, 409, "NothingToSchedule")
        .await;
    let one = format!("{chosen}/{router}");
    cloud
        .refused(
            "admin",
            "DELETE",
            &one,
            Value::Null,
            409,
            "NothingToSchedule",
        )
        .await;
    cloud
        .refused(
            "admin",
            "PUT",
            &path,
            json!({}),
            405,
            "HTTPMethodNotAllowed",
        )
        .await;
    assert_eq!(cloud.get("", &path).await.0, 401);
}
