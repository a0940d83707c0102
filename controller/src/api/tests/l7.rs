//! Listeners of HTTP, and what decides by a request's head: as Octavia's client sees it, and what of it a proxy is told.

use super::{
    lbaas::{Farm, ROOT, made, refused},
    *,
};
use crate::{resource::Objects as _, resources::LoadBalancer};
use hostconfig::{
    Proxy,
    proxy::{
        Compare, HttpAction, HttpAlgorithm, HttpPart, HttpPersistence, HttpRule, InsertHeader,
    },
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

impl Farm {
    /// A listener of HTTP with a pool of its own, and another pool of the load balancer's.
    async fn reader(&self) -> (String, String) {
        let own = self.http_pool(json!({})).await;
        let listener = self.http(80, json!({"default_pool_id": own["id"]})).await;
        (id(&listener), id(&self.http_pool(json!({})).await))
    }

    async fn policy(&self, listener: &str, more: Value) -> Value {
        let body = with(json!({"listener_id": listener, "action": "REJECT"}), more);
        made(&self.cloud, "l7policies", "l7policy", body).await
    }

    async fn rule(&self, policy: &str, more: Value) -> Value {
        let body = json!({"type": "PATH", "compare_type": "STARTS_WITH", "value": "/x"});
        let path = format!("l7policies/{policy}/rules");
        made(&self.cloud, &path, "rule", with(body, more)).await
    }

    /// The policies of a listener by name, in order, with their positions.
    async fn order(&self, listener: &str) -> Vec<(String, i64)> {
        let path = format!("{ROOT}/listeners/{listener}");
        let shown = self.cloud.get("a", &path).await.1;
        let mut order = Vec::new();
        for policy in shown["listener"]["l7policies"].as_array().unwrap() {
            let path = format!("{ROOT}/l7policies/{}", id(policy));
            let policy = self.cloud.get("a", &path).await.1["l7policy"].clone();
            let name = policy["name"].as_str().unwrap().to_owned();
            order.push((name, policy["position"].as_i64().unwrap()));
        }
        order
    }
}

#[tokio::test]
async fn policies_with_rules_are_told_to_the_proxy() {
    let farm = Farm::new().await;
    let (listener, pool) = farm.reader().await;
    let told = || farm.proxy().unwrap().listeners[0].policies.clone();
    let refused_by = farm.policy(&listener, json!({"name": "r"})).await;
    let policy = id(&refused_by);
    assert_eq!(refused_by["rules"], json!([]));
    // One that has no rule never applies.
    assert_eq!(told(), []);
    let rule = farm.rule(&policy, json!({"tags": ["t"]})).await;
    assert_eq!(
        (
            &rule["key"],
            &rule["invert"],
            &rule["operating_status"],
            &rule["tags"]
        ),
        (&Value::Null, &json!(false), &json!("ONLINE"), &json!(["t"]))
    );
    let rule = id(&rule);
    let [one] = told().try_into().unwrap();
    assert_eq!(
        (one.id.to_string(), one.action),
        (policy.clone(), HttpAction::Reject)
    );
    let want = HttpRule {
        of: HttpPart::Path,
        compare: Compare::StartsWith,
        value: "/x".to_owned(),
        invert: false,
    };
    assert_eq!(one.rules, [want]);

    for (body, of, compare, value) in [
        (
            json!({"type": "HOST_NAME", "compare_type": "REGEX", "value": r"^(a|b)\.example\.org$"}),
            HttpPart::HostName,
            Compare::Regex,
            r"^(a|b)\.example\.org$",
        ),
        (
            json!({"type": "FILE_TYPE", "compare_type": "EQUAL_TO", "value": "png"}),
            HttpPart::FileType,
            Compare::EqualTo,
            "png",
        ),
        (
            json!({"type": "HEADER", "key": "X-A", "compare_type": "CONTAINS", "value": "\"a b\""}),
            HttpPart::Header("X-A".to_owned()),
            Compare::Contains,
            "a b",
        ),
        (
            json!({"type": "HEADER", "key": "X-A", "compare_type": "EQUAL_TO", "value": "it's a b"}),
            HttpPart::Header("X-A".to_owned()),
            Compare::EqualTo,
            "it's a b",
        ),
        (
            json!({"type": "COOKIE", "key": "sid", "compare_type": "ENDS_WITH", "value": "z="}),
            HttpPart::Cookie("sid".to_owned()),
            Compare::EndsWith,
            "z=",
        ),
    ] {
        let path = format!("l7policies/{policy}/rules/{rule}");
        let inverted = with(body, json!({"invert": true}));
        let shown = farm.changed(&path, "rule", inverted.clone()).await;
        assert_eq!(shown["key"], inverted["key"]);
        let want = HttpRule {
            of,
            compare,
            value: value.to_owned(),
            invert: true,
        };
        assert_eq!(told()[0].rules, [want]);
    }
    let path = format!("l7policies/{policy}/rules/{rule}");
    farm.changed(&path, "rule", json!({"admin_state_up": false}))
        .await;
    assert_eq!(told(), []);
    farm.changed(&path, "rule", json!({"admin_state_up": true}))
        .await;
    assert_eq!(told().len(), 1);

    // Who says where to, says what is done; what was said before goes.
    let one = format!("l7policies/{policy}");
    let url = json!({"redirect_url": "https://www.example.org:8443/a?b=%20#c"});
    let shown = farm.changed(&one, "l7policy", url).await;
    assert_eq!(
        (&shown["action"], &shown["redirect_http_code"]),
        (&json!("REDIRECT_TO_URL"), &json!(302))
    );
    let to = "https://www.example.org:8443/a?b=%20#c".to_owned();
    assert_eq!(told()[0].action, HttpAction::Url { to, code: 302 });
    let prefix = json!({"redirect_prefix": "http://[fd00::1]", "redirect_http_code": 308});
    let shown = farm.changed(&one, "l7policy", prefix).await;
    assert_eq!(
        (&shown["action"], &shown["redirect_url"]),
        (&json!("REDIRECT_PREFIX"), &Value::Null)
    );
    let to = "http://[fd00::1]".to_owned();
    assert_eq!(told()[0].action, HttpAction::Prefix { to, code: 308 });
    assert_eq!(farm.proxy().unwrap().pools.len(), 1);
    let shown = farm
        .changed(&one, "l7policy", json!({"redirect_pool_id": pool}))
        .await;
    assert_eq!(
        (&shown["action"], &shown["redirect_http_code"]),
        (&json!("REDIRECT_TO_POOL"), &Value::Null)
    );
    assert_eq!(told()[0].action, HttpAction::Pool(pool.parse().unwrap()));
    assert_eq!(farm.proxy().unwrap().pools.len(), 2);
    // The pool serves the listener, and stays while it is named.
    let pooled = format!("pools/{pool}");
    let shown = farm.cloud.get("a", &format!("{ROOT}/{pooled}")).await.1["pool"].clone();
    assert_eq!(
        (&shown["listeners"], &shown["operating_status"]),
        (&json!([{"id": listener}]), &json!("ONLINE"))
    );
    let why = refused(&farm.cloud, "a", "DELETE", &pooled, Value::Null, 409).await;
    assert!(why.contains("in use by L7 policy"), "{why}");
    let member = farm.member(&pool, "10.0.0.40", json!({})).await;
    let members = farm.proxy().unwrap().pools;
    let members = members.iter().flat_map(|pool| &pool.members);
    assert!(members.map(|member| member.id.to_string()).eq([member]));
    // A policy whose pool does not serve is none, and one that is down.
    farm.changed(&pooled, "pool", json!({"admin_state_up": false}))
        .await;
    assert_eq!(told(), []);
    farm.changed(&pooled, "pool", json!({"admin_state_up": true}))
        .await;
    assert_eq!(told().len(), 1);
    farm.changed(&one, "l7policy", json!({"admin_state_up": false}))
        .await;
    assert_eq!((told(), farm.proxy().unwrap().pools.len()), (vec![], 1));
    farm.changed(
        &one,
        "l7policy",
        json!({"admin_state_up": true, "action": "REJECT"}),
    )
    .await;
    assert_eq!(told()[0].action, HttpAction::Reject);
    farm.gone(&path).await;
    assert_eq!(told(), []);
    farm.gone(&format!("listeners/{listener}")).await;
    let list = farm.cloud.get("a", &format!("{ROOT}/l7policies")).await.1;
    assert_eq!(list["l7policies"], json!([]));
    farm.gone(&pooled).await;
}

#[tokio::test]
async fn policies_have_an_order() {
    let farm = Farm::new().await;
    let (listener, _) = farm.reader().await;
    let mut ids = Vec::new();
    for (name, position) in [
        ("a", None),
        ("b", None),
        ("c", Some(1)),
        ("d", Some(3)),
        ("e", Some(99)),
    ] {
        let mut body = json!({"name": name});
        if let Some(position) = position {
            body["position"] = json!(position);
        }
        ids.push(id(&farm.policy(&listener, body).await));
    }
    let is = async |wanted: &[&str]| {
        let wanted: Vec<_> = wanted
            .iter()
            .map(|name| (*name).to_owned())
            .zip(1..)
            .collect();
        assert_eq!(farm.order(&listener).await, wanted);
    };
    is(&["c", "a", "d", "b", "e"]).await;
    for id in &ids {
        farm.rule(id, json!({})).await;
    }
    let told: Vec<_> = farm.proxy().unwrap().listeners[0]
        .policies
        .iter()
        .map(|one| one.id.to_string())
        .collect();
    assert!(
        told.iter()
            .eq([&ids[2], &ids[0], &ids[3], &ids[1], &ids[4]])
    );
    let moved = async |at: usize, position: i64| {
        let path = format!("l7policies/{}", ids[at]);
        let shown = farm
            .changed(&path, "l7policy", json!({"position": position}))
            .await;
        assert!(shown["position"].as_i64().unwrap() <= position.min(5));
    };
    moved(4, 1).await;
    is(&["e", "c", "a", "d", "b"]).await;
    moved(2, 2_147_483_647).await;
    is(&["e", "a", "d", "b", "c"]).await;
    farm.gone(&format!("l7policies/{}", ids[0])).await;
    is(&["e", "d", "b", "c"]).await;
    // Another listener's have their own.
    let other = id(&farm.http(81, json!({})).await);
    let body = json!({"name": "x", "position": 7});
    assert_eq!(farm.policy(&other, body).await["position"], 1);
    is(&["e", "d", "b", "c"]).await;
    farm.gone(&format!("loadbalancers/{}?cascade=true", farm.id()))
        .await;
    let list = farm.cloud.get("a", &format!("{ROOT}/l7policies")).await.1;
    assert_eq!(list["l7policies"], json!([]));
    let used = farm
        .cloud
        .get("a", &format!("/v2.0/quotas/{A}/details"))
        .await
        .1;
    assert_eq!(used["quota"]["l7policy"]["used"], 0, "{used}");
}

#[tokio::test]
async fn what_could_hurt_a_proxy_is_refused_by_its_name() {
    let farm = Farm::new().await;
    let (listener, pool) = farm.reader().await;
    let plain = id(&farm.listener(90).await);
    let policy = id(&farm.policy(&listener, json!({})).await);
    let before = farm.proxy();
    let long = "x".repeat(256);
    let policies = |more: Value| {
        let body = json!({"listener_id": listener, "action": "REJECT"});
        (
            "l7policies".to_owned(),
            json!({"l7policy": with(body, more)}),
        )
    };
    let to = |url: &str| policies(json!({"action": "REDIRECT_TO_URL", "redirect_url": url}));
    let below = |url: &str| policies(json!({"action": "REDIRECT_PREFIX", "redirect_prefix": url}));
    let rules = |more: Value| {
        let body = json!({"type": "PATH", "compare_type": "EQUAL_TO", "value": "/x"});
        (
            format!("l7policies/{policy}/rules"),
            json!({"rule": with(body, more)}),
        )
    };
    let value = |text: &str| rules(json!({"value": text}));
    let regex = |text: &str| rules(json!({"compare_type": "REGEX", "value": text}));
    let header = |key: &str| rules(json!({"type": "HEADER", "key": key}));
    let cookie = |text: &str| rules(json!({"type": "COOKIE", "key": "c", "value": text}));
    for ((path, body), status, word) in [
        (to("www.example.org"), 400, "redirect_url"),
        (to("ftp://example.org/"), 400, "redirect_url"),
        (to("http://"), 400, "redirect_url"),
        (to("http:///x"), 400, "redirect_url"),
        (to("http://a b/"), 400, "redirect_url"),
        (to("http://a/\nb"), 400, "redirect_url"),
        (to("http://a/\0"), 400, "redirect_url"),
        (to("http://a/%[src]"), 400, "redirect_url"),
        (to("http://a/%2"), 400, "redirect_url"),
        (to("http://a/\"x"), 400, "redirect_url"),
        (to("http://a/\u{e9}"), 400, "redirect_url"),
        (to("http://user@a/"), 400, "redirect_url"),
        (to("http://a:99999/"), 400, "redirect_url"),
        (to("http://[fd00::1/"), 400, "redirect_url"),
        (to(&format!("http://a/{long}")), 400, "redirect_url"),
        (below("/x"), 400, "redirect_prefix"),
        (below("http://a/\r\nx: y"), 400, "redirect_prefix"),
        (
            policies(json!({"action": "REDIRECT_TO_URL"})),
            400,
            "redirect_url",
        ),
        (
            policies(json!({"action": "REDIRECT_PREFIX"})),
            400,
            "redirect_prefix",
        ),
        (
            policies(json!({"action": "REDIRECT_TO_POOL"})),
            400,
            "redirect_pool_id",
        ),
        (policies(json!({"action": "ALLOW"})), 400, "action"),
        (policies(json!({"position": 0})), 400, "position"),
        (
            policies(json!({"position": 2_147_483_648_i64})),
            400,
            "position",
        ),
        (
            policies(json!({"redirect_http_code": 304})),
            400,
            "redirect_http_code",
        ),
        (policies(json!({"rules": []})), 400, "rules"),
        (
            policies(
                json!({"action": "REDIRECT_TO_POOL", "redirect_pool_id": pool, "redirect_url": "http://a/"}),
            ),
            400,
            "same time",
        ),
        (policies(json!({"listener_id": plain})), 501, "TCP"),
        (policies(json!({"listener_id": MISSING})), 404, "not found"),
        (
            policies(json!({"action": "REDIRECT_TO_POOL", "redirect_pool_id": MISSING})),
            404,
            "not found",
        ),
        (value(""), 400, "value"),
        (value("/a\nb"), 400, "value"),
        (value("/a\0"), 400, "value"),
        (value("/a\u{85}b"), 400, "value"),
        (value("/a b"), 400, "value"),
        (value("/\u{e9}"), 400, "value"),
        (value("\"a\"b\""), 400, "value"),
        (value(&long), 400, "value"),
        (rules(json!({"value": 7})), 400, "value"),
        (regex("["), 400, "value"),
        (regex("(a"), 400, "value"),
        (regex("a\\"), 400, "value"),
        (regex("(?R)"), 400, "value"),
        (regex("(?x)a"), 400, "value"),
        (regex(r"\p{Greek}"), 400, "value"),
        (regex(r"\<a"), 400, "value"),
        (regex("((a{500}){500}){500}"), 400, "value"),
        (regex("a\r\nb"), 400, "value"),
        (header("a b"), 400, "key"),
        (header("a:"), 400, "key"),
        (header(""), 400, "key"),
        (header("a\nb"), 400, "key"),
        (header(&long), 400, "key"),
        (rules(json!({"type": "COOKIE"})), 400, "key"),
        (cookie("a;b"), 400, "value"),
        (cookie("a\"b"), 400, "value"),
        (
            rules(json!({"type": "FILE_TYPE", "compare_type": "CONTAINS"})),
            400,
            "compare_type",
        ),
        (rules(json!({"type": "BODY"})), 400, "type"),
        (rules(json!({"compare_type": "LIKE"})), 400, "compare_type"),
        (
            rules(json!({"type": "SSL_CONN_HAS_CERT", "value": "true"})),
            501,
            "SSL_CONN_HAS_CERT",
        ),
    ] {
        let why = refused(&farm.cloud, "a", "POST", &path, body.clone(), status).await;
        assert!(why.contains(word), "{body}: {why}");
    }
    assert_eq!(farm.proxy(), before);
    for text in [
        "a{2,3}",
        "(?i)x",
        "(?:a|b)",
        r"\.(png|jpg)$",
        r"\d+\s",
        "[a-z]",
        "a b",
    ] {
        let (path, body) = regex(text);
        made(&farm.cloud, &path, "rule", body["rule"].clone()).await;
    }
    for _ in 7..50 {
        farm.rule(&policy, json!({})).await;
    }
    let (path, body) = rules(json!({}));
    let why = refused(&farm.cloud, "a", "POST", &path, body, 409).await;
    assert!(why.contains("Too many rules"), "{why}");
    // A rule that is to be another is judged as a whole.
    let shown = farm.cloud.get("a", &format!("{ROOT}/{path}")).await.1;
    let one = format!("{path}/{}", id(&shown["rules"][0]));
    for change in [
        json!({"type": "HEADER"}),
        json!({"value": "["}),
        json!({"value": null}),
    ] {
        refused(&farm.cloud, "a", "PUT", &one, json!({"rule": change}), 400).await;
    }
    // Another's are not there.
    for path in [format!("l7policies/{policy}"), path.clone(), one.clone()] {
        refused(&farm.cloud, "b", "GET", &path, json!({}), 403).await;
    }
}

#[tokio::test]
async fn a_whole_load_balancer_may_have_policies() {
    let farm = Farm::new().await;
    let pool = json!({"name": "img", "protocol": "HTTP", "lb_algorithm": "ROUND_ROBIN", "members": [{"address": "10.0.0.31", "protocol_port": 81}]});
    let own = with(pool.clone(), json!({"name": "own"}));
    let rule = json!({"type": "PATH", "compare_type": "STARTS_WITH", "value": "/img"});
    let body = json!({"loadbalancer": {
        "vip_subnet_id": farm.subnet, "pools": [pool],
        "listeners": [{"protocol": "HTTP", "protocol_port": 80, "l7policies": [
            {"action": "REDIRECT_TO_POOL", "redirect_pool": {"name": "img"}, "rules": [rule]},
            {"action": "REDIRECT_TO_POOL", "redirect_pool": own, "rules": [rule], "position": 1},
            {"action": "REJECT"},
        ]}],
    }});
    let (status, whole) = farm
        .cloud
        .ask("a", "POST", &format!("{ROOT}/loadbalancers"), body)
        .await;
    assert_eq!(status, 201, "{whole}");
    let whole = &whole["loadbalancer"];
    let policies = whole["listeners"][0]["l7policies"].as_array().unwrap();
    assert_eq!(
        (policies.len(), &policies[0]["rules"][0]["value"]),
        (3, &json!("/img"))
    );
    assert_eq!(whole["pools"].as_array().unwrap().len(), 2);
    let stored = farm.cloud.api.core.store.snapshot();
    let balancer = stored.object::<LoadBalancer>(id(whole).parse().unwrap());
    let proxy = balancer.unwrap().proxy.clone().unwrap();
    let named = |name: &str| {
        let pools = whole["pools"].as_array().unwrap();
        let pool = pools.iter().find(|pool| pool["name"] == name).unwrap();
        HttpAction::Pool(id(pool).parse().unwrap())
    };
    let does: Vec<_> = proxy.listeners[0]
        .policies
        .iter()
        .map(|one| one.action.clone())
        .collect();
    assert_eq!(does, [named("own"), named("img")]);
    for (bad, status) in [
        (
            json!({"action": "REDIRECT_TO_POOL", "redirect_pool": {"name": "nobody"}}),
            400,
        ),
        (
            json!({"action": "REJECT", "rules": [{"type": "PATH"}]}),
            400,
        ),
        (
            json!({"action": "REJECT", "rules": [with(rule.clone(), json!({"value": "a\nb"}))]}),
            400,
        ),
    ] {
        let body = json!({"loadbalancer": {"vip_subnet_id": farm.subnet, "listeners": [{"protocol": "HTTP", "protocol_port": 80, "l7policies": [bad]}]}});
        refused(&farm.cloud, "a", "POST", "loadbalancers", body, status).await;
    }
}

#[tokio::test]
async fn rules_are_listed_in_octavias_ways() {
    let farm = Farm::new().await;
    let (listener, _) = farm.reader().await;
    let policy = id(&farm.policy(&listener, json!({})).await);
    for value in ["/2", "/1", "/3"] {
        farm.rule(&policy, json!({"value": value})).await;
    }
    for (query, wanted) in [
        ("", vec!["/2", "/1", "/3"]),
        ("?sort=value", vec!["/1", "/2", "/3"]),
        ("?sort=value:desc", vec!["/3", "/2", "/1"]),
        ("?sort=type,value:desc&fields=value", vec!["/3", "/2", "/1"]),
        ("?sort=project_id,value", vec!["/1", "/2", "/3"]),
        ("?value=/3", vec!["/3"]),
    ] {
        let path = format!("{ROOT}/l7policies/{policy}/rules{query}");
        let list = farm.cloud.get("a", &path).await.1;
        let rows = list["rules"].as_array().unwrap().iter();
        let values: Vec<_> = rows.map(|row| row["value"].as_str().unwrap()).collect();
        assert_eq!(values, wanted, "{query}");
    }
    let path = format!("{ROOT}/l7policies/{policy}/rules?sort=color");
    assert_eq!(farm.cloud.get("a", &path).await.0, 400);
}

#[tokio::test]
async fn a_null_takes_back_what_was_said() {
    let farm = Farm::new().await;
    let (listener, pool) = farm.reader().await;
    let policy = id(&farm
        .policy(&listener, json!({"name": "p", "redirect_http_code": 301, "action": "REDIRECT_TO_URL", "redirect_url": "http://a/"}))
        .await);
    let rule = id(&farm.rule(&policy, json!({"invert": true})).await);
    let member = farm
        .member(&pool, "10.0.0.9", json!({"weight": 7, "backup": true}))
        .await;
    for (path, key, said, wanted) in [
        (
            format!("l7policies/{policy}"),
            "l7policy",
            json!({"name": null, "redirect_http_code": null}),
            json!({"name": "", "redirect_http_code": 302}),
        ),
        (
            format!("l7policies/{policy}/rules/{rule}"),
            "rule",
            json!({"invert": null}),
            json!({"invert": false}),
        ),
        (
            format!("pools/{pool}/members/{member}"),
            "member",
            json!({"weight": null, "backup": null}),
            json!({"weight": 1, "backup": false}),
        ),
        (
            format!("listeners/{listener}"),
            "listener",
            json!({"connection_limit": null, "insert_headers": null, "tags": null}),
            json!({"connection_limit": -1, "insert_headers": {}, "tags": []}),
        ),
    ] {
        let shown = farm.changed(&path, key, said).await;
        for (name, value) in wanted.as_object().unwrap() {
            assert_eq!(shown[name], *value, "{path} {name}");
        }
    }
    // What has no default is not taken back.
    for (path, key, said) in [
        (
            format!("l7policies/{policy}"),
            "l7policy",
            json!({"action": null}),
        ),
        (
            format!("l7policies/{policy}/rules/{rule}"),
            "rule",
            json!({"value": null}),
        ),
        (
            format!("pools/{pool}"),
            "pool",
            json!({"lb_algorithm": null}),
        ),
    ] {
        refused(&farm.cloud, "a", "PUT", &path, json!({key: said}), 400).await;
    }
}
