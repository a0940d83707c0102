//! Listeners of HTTP, and what decides by a request's head: as Octavia's client sees it, and what of it a proxy is told.

use super::{
    lbaas::{Farm, made, refused},
    *,
};
use crate::{resource::Objects as _, resources::LoadBalancer};
use hostconfig::{
    Proxy,
    proxy::{HttpAlgorithm, HttpPersistence, InsertHeader},
};

impl Farm {
    fn proxy(&self) -> Option<Proxy> {
        let stored = self.cloud.api.core.store.snapshot();
        let balancer = stored.object::<LoadBalancer>(self.id().parse().unwrap());
        balancer.unwrap().proxy.clone()
    }

    /// The address of the proxy's port.
    fn front(&self) -> String {
        let stored = self.cloud.api.core.store.snapshot();
        let port = self.proxy().unwrap().port.uuid();
        let port = stored.object::<crate::resources::Port>(port).unwrap();
        port.fixed_ips[0].ip_address.to_string()
    }

    async fn http(&self, port: u16, more: Value) -> Value {
        let body = json!({"loadbalancer_id": self.id(), "protocol": "HTTP", "protocol_port": port});
        made(&self.cloud, "listeners", "listener", with(body, more)).await
    }

    async fn http_pool(&self, more: Value) -> Value {
        let body = json!({"loadbalancer_id": self.id(), "protocol": "HTTP", "lb_algorithm": "ROUND_ROBIN"});
        made(&self.cloud, "pools", "pool", with(body, more)).await
    }
}

#[tokio::test]
async fn the_one_member_of_a_listener_of_http_is_a_proxy() {
    let farm = Farm::new().await;
    assert_eq!(farm.proxy(), None);
    let pool = farm
        .http_pool(json!({
            "lb_algorithm": "LEAST_CONNECTIONS",
            "session_persistence": {"type": "APP_COOKIE", "cookie_name": "SID"},
        }))
        .await;
    assert_eq!(pool["session_persistence"]["cookie_name"], "SID");
    let pool = id(&pool);
    let listener = farm
        .http(
            80,
            json!({
                "default_pool_id": pool, "allowed_cidrs": ["10.0.0.0/25"], "connection_limit": 7,
                "timeout_client_data": 1000, "timeout_member_connect": 2000, "timeout_member_data": 3000,
                "insert_headers": {"X-Forwarded-For": "true", "X-Forwarded-Port": "false", "X-Forwarded-Proto": "true"},
            }),
        )
        .await;
    let proxy = farm.proxy().unwrap();
    let [http] = proxy.listeners.as_slice() else {
        panic!("{proxy:?}");
    };
    assert_eq!(http.id.to_string(), id(&listener));
    assert_eq!((http.port, http.connection_limit), (80, Some(7)));
    let times = [
        http.client_timeout,
        http.connect_timeout,
        http.member_timeout,
    ];
    assert_eq!(times, [1000, 2000, 3000]);
    let told = [InsertHeader::ForwardedFor, InsertHeader::ForwardedProto];
    assert_eq!(http.insert, told);
    assert_eq!(http.pool.unwrap().to_string(), pool);
    let [by] = proxy.pools.as_slice() else {
        panic!("{proxy:?}");
    };
    assert_eq!(by.algorithm, HttpAlgorithm::LeastConnections);
    let cookie = HttpPersistence::AppCookie("SID".to_owned());
    assert_eq!(by.persistence, Some(cookie));
    // Who is allowed is judged, and counted, as of any listener: its one member is the proxy.
    assert_eq!(farm.heard().chains, 1);
    assert_eq!(farm.heard().of(&farm.front()), Some(0), "it is nowhere");

    // Whatever changes, the proxy is told.
    let member = farm.member(&pool, "10.0.0.30", json!({"weight": 4})).await;
    farm.member(&pool, "10.0.0.31", json!({"admin_state_up": false}))
        .await;
    farm.member(&pool, "10.0.0.32", json!({"backup": true}))
        .await;
    let members = farm.proxy().unwrap().pools[0].members.clone();
    let told: Vec<_> = members
        .iter()
        .map(|member| (member.address.to_string(), member.weight, member.backup))
        .collect();
    let wanted = [
        ("10.0.0.30".to_owned(), 4, false),
        ("10.0.0.32".to_owned(), 1, true),
    ];
    assert_eq!(told, wanted);
    let path = format!("pools/{pool}/members/{member}");
    farm.changed(&path, "member", json!({"weight": 9})).await;
    assert_eq!(farm.proxy().unwrap().pools[0].members[0].weight, 9);
    let path = format!("pools/{pool}");
    let off = json!({"admin_state_up": false});
    farm.changed(&path, "pool", off.clone()).await;
    let proxy = farm.proxy().unwrap();
    assert_eq!((proxy.listeners[0].pool, proxy.pools.len()), (None, 0));
    farm.changed(
        &path,
        "pool",
        json!({"admin_state_up": true, "session_persistence": {"type": "HTTP_COOKIE"}}),
    )
    .await;
    let kept = farm.proxy().unwrap().pools[0].persistence.clone();
    assert_eq!(kept, Some(HttpPersistence::HttpCookie));

    let path = format!("listeners/{}", id(&listener));
    let any = json!({"connection_limit": -1, "allowed_cidrs": null});
    farm.changed(&path, "listener", any).await;
    let http = farm.proxy().unwrap().listeners[0].clone();
    assert_eq!(http.connection_limit, None);
    farm.changed(&path, "listener", off.clone()).await;
    assert_eq!(farm.proxy(), None);
    farm.changed(&path, "listener", json!({"admin_state_up": true}))
        .await;
    assert!(farm.proxy().is_some());
    let balancer = format!("loadbalancers/{}", farm.id());
    farm.changed(&balancer, "loadbalancer", off).await;
    assert_eq!(farm.proxy(), None);
    farm.changed(&balancer, "loadbalancer", json!({"admin_state_up": true}))
        .await;
    farm.gone(&format!("pools/{pool}")).await;
    let proxy = farm.proxy().unwrap();
    assert_eq!((proxy.listeners[0].pool, proxy.pools.len()), (None, 0));
    farm.gone(&path).await;
    assert_eq!(farm.proxy(), None);
}

#[tokio::test]
async fn pools_serve_listeners_whose_protocol_fits_theirs() {
    let farm = Farm::new().await;
    for (of, by, status) in [
        ("TCP", "HTTP", 201),
        ("TCP", "HTTPS", 201),
        ("HTTPS", "TCP", 201),
        ("HTTPS", "HTTP", 400),
        ("HTTP", "TCP", 400),
        ("HTTP", "HTTPS", 400),
        ("HTTP", "HTTP", 201),
        ("UDP", "HTTP", 400),
    ] {
        let pool = farm.http_pool(json!({"protocol": by})).await;
        let body = json!({"loadbalancer_id": farm.id(), "protocol": of, "protocol_port": 7, "default_pool_id": pool["id"]});
        if status == 201 {
            let listener = made(&farm.cloud, "listeners", "listener", body).await;
            farm.gone(&format!("listeners/{}", id(&listener))).await;
        } else {
            let body = json!({"listener": body});
            let why = refused(&farm.cloud, "a", "POST", "listeners", body, status).await;
            assert!(why.contains(by), "{of} {by}: {why}");
        }
    }
    // What needs a proxy has none where a switch balances.
    let listener = farm.listener(80).await;
    let body =
        json!({"listener_id": listener["id"], "protocol": "HTTP", "lb_algorithm": "ROUND_ROBIN"});
    let pool = id(&made(&farm.cloud, "pools", "pool", body.clone()).await);
    farm.member(&pool, "10.0.0.30", json!({})).await;
    assert_eq!(farm.heard().of("10.0.0.30"), Some(1));
    let path = format!("pools/{pool}");
    for more in [
        json!({"lb_algorithm": "LEAST_CONNECTIONS"}),
        json!({"session_persistence": {"type": "HTTP_COOKIE"}}),
    ] {
        let change = json!({"pool": more});
        refused(&farm.cloud, "a", "PUT", &path, change, 501).await;
        let other = farm.listener(81).await;
        let body =
            json!({"pool": with(with(body.clone(), more), json!({"listener_id": other["id"]}))});
        refused(&farm.cloud, "a", "POST", "pools", body, 501).await;
        farm.gone(&format!("listeners/{}", id(&other))).await;
    }
    for (persistence, word) in [
        (json!({"type": "APP_COOKIE"}), "cookie_name"),
        (
            json!({"type": "HTTP_COOKIE", "cookie_name": "x"}),
            "cookie_name",
        ),
        (
            json!({"type": "APP_COOKIE", "cookie_name": "a b"}),
            "cookie_name",
        ),
        (
            json!({"type": "APP_COOKIE", "cookie_name": "a\nb"}),
            "cookie_name",
        ),
    ] {
        let body = json!({"pool": {"loadbalancer_id": farm.id(), "protocol": "HTTP", "lb_algorithm": "ROUND_ROBIN", "session_persistence": persistence}});
        let why = refused(&farm.cloud, "a", "POST", "pools", body, 400).await;
        assert!(why.contains(word), "{why}");
    }
    for headers in [
        json!({"X-Forwarded-For": "yes"}),
        json!({"X-SSL-Client-CN": "true"}),
        json!({"X-Forwarded-For": 1}),
    ] {
        let body = json!({"listener": {"loadbalancer_id": farm.id(), "protocol": "HTTP", "protocol_port": 99, "insert_headers": headers}});
        let why = refused(&farm.cloud, "a", "POST", "listeners", body, 400).await;
        assert!(why.contains("insert_headers"), "{why}");
    }
}
