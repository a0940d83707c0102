//! Health monitors: what they may ask, what of them the compiler hears, and what is known of members.

use super::{
    lbaas::{Farm, ROOT, made, refused},
    *,
};
use crate::{
    compile::{
        intent::{Object, Work},
        view,
    },
    resources::lbaas::health_monitor::{Verdict, note},
    rules::Occasion,
    store::transact,
};
use hostconfig::chain::{HealthProbe, Monitor};

impl Cloud {
    /// A host says what it found of what is asked by this monitor, or for this group of a chain.
    pub(super) async fn found(&self, monitor: &str, member: uuid::Uuid, serves: bool) {
        let verdict = Verdict {
            monitor: monitor.parse().unwrap(),
            member,
            serves,
        };
        let occasion = Occasion {
            now: crate::time::Seconds::default(),
            seed: [0; 32],
            facts: Arc::default(),
            bundles: Arc::default(),
        };
        let set = move |view: &mut crate::store::View| note(view, &[verdict], &occasion.moment());
        transact(self.api.core.store.as_ref(), set).await.unwrap();
    }
}

impl Farm {
    async fn monitor(&self, pool: &str, kind: &str, more: Value) -> Value {
        let body =
            json!({"pool_id": pool, "type": kind, "delay": 5, "timeout": 2, "max_retries": 3});
        made(
            &self.cloud,
            "healthmonitors",
            "healthmonitor",
            with(body, more),
        )
        .await
    }

    /// What each listener's members are asked.
    fn asked(&self) -> Vec<Option<Monitor>> {
        let stored = self.cloud.api.core.store.snapshot();
        let objects = view::objects(&stored, &Facts::default());
        let balancers = objects.into_iter().filter_map(|object| {
            let Object::Function(function) = object else {
                return None;
            };
            let Some(Work::LoadBalancer(balancer)) = &function.work else {
                return None;
            };
            Some(balancer.monitor.clone())
        });
        balancers.collect()
    }

    /// A host says what it found.
    async fn found(&self, monitor: &Value, member: &str, serves: bool) {
        let member = member.parse().unwrap();
        self.cloud.found(&id(monitor), member, serves).await;
    }

    async fn shown(&self, path: &str) -> Value {
        let (status, answer) = self.cloud.get("a", &format!("{ROOT}/{path}")).await;
        assert_eq!(status, 200, "{path}: {answer}");
        answer
    }

    /// Of the load balancer, the listener, the pool and the members.
    async fn statuses(&self) -> Vec<String> {
        let tree = self
            .shown(&format!("loadbalancers/{}/status", self.id()))
            .await;
        let balancer = &tree["statuses"]["loadbalancer"];
        let listener = &balancer["listeners"][0];
        let pool = &listener["pools"][0];
        let members = pool["members"].as_array().unwrap().iter();
        let all = [balancer, listener, pool].into_iter().chain(members);
        all.map(|of| of["operating_status"].as_str().unwrap().to_owned())
            .collect()
    }
}

#[tokio::test]
async fn a_pools_monitor_is_part_of_what_switches_know_of_its_listeners() {
    let farm = Farm::new().await;
    let listener = farm.listener(80).await;
    let pool = farm.pool(&listener).await;
    assert_eq!(farm.asked(), [None]);
    let more = json!({"name": "hm", "url_path": "/up", "expected_codes": "200, 202"});
    let monitor = farm.monitor(&pool, "HTTP", more).await;
    for (field, value) in [
        ("type", json!("HTTP")),
        ("http_method", json!("GET")),
        ("max_retries_down", json!(3)),
        ("http_version", Value::Null),
        ("pools", json!([{"id": pool}])),
        ("operating_status", json!("ONLINE")),
    ] {
        assert_eq!(monitor[field], value, "{field}");
    }
    assert_eq!(
        farm.asked(),
        [Some(Monitor {
            id: id(&monitor).parse().unwrap(),
            probe: HealthProbe::Http {
                request: "GET /up HTTP/1.0\r\n\r\n".to_owned(),
                codes: vec![(200, 200), (202, 202)],
            },
            delay_ms: 5000,
            timeout_ms: 2000,
            rise: 3,
            fall: 3,
            elsewhere: Vec::new(),
        })]
    );
    let shown = farm.shown(&format!("pools/{pool}")).await;
    assert_eq!(shown["pool"]["healthmonitor_id"], monitor["id"]);
    let path = format!("healthmonitors/{}", id(&monitor));
    let change = json!({
        "http_method": "HEAD", "http_version": 1.1, "domain_name": "web.example.org",
        "expected_codes": "200-204", "url_path": null, "delay": 7, "timeout": 9,
        "max_retries": 1, "max_retries_down": 2,
    });
    let changed = farm.changed(&path, "healthmonitor", change).await;
    assert_eq!(changed["http_version"], json!(1.1));
    let asked = farm.asked().remove(0).unwrap();
    let request = "HEAD / HTTP/1.1\r\nHost: web.example.org\r\nConnection: close\r\n\r\n";
    assert_eq!(
        asked.probe,
        HealthProbe::Http {
            request: request.to_owned(),
            codes: vec![(200, 204)]
        }
    );
    let numbers = (asked.delay_ms, asked.timeout_ms, asked.rise, asked.fall);
    assert_eq!(numbers, (7000, 9000, 1, 2));
    farm.changed(&path, "healthmonitor", json!({"admin_state_up": false}))
        .await;
    assert_eq!(farm.asked(), [None]);
    farm.changed(&path, "healthmonitor", json!({"admin_state_up": true}))
        .await;
    assert!(farm.asked()[0].is_some());
    farm.gone(&path).await;
    assert_eq!(farm.asked(), [None]);
    // It goes with its pool.
    let monitor = farm.monitor(&pool, "PING", json!({})).await;
    farm.gone(&format!("pools/{pool}")).await;
    let path = format!("healthmonitors/{}", id(&monitor));
    refused(&farm.cloud, "a", "GET", &path, Value::Null, 404).await;
}

#[tokio::test]
async fn what_hosts_find_is_whom_connections_go_to() {
    let farm = Farm::new().await;
    let listener = farm.listener(80).await;
    let pool = farm.pool(&listener).await;
    let one = farm.member(&pool, "10.0.0.11", json!({})).await;
    let two = farm.member(&pool, "10.0.0.12", json!({"weight": 2})).await;
    let spare = json!({"backup": true, "weight": 5});
    let spare = farm.member(&pool, "10.0.0.13", spare).await;
    let monitor = farm.monitor(&pool, "TCP", json!({})).await;
    let weights = || {
        let heard = farm.heard();
        ["10.0.0.11", "10.0.0.12", "10.0.0.13"].map(|of| heard.of(of).unwrap())
    };
    let up = ["ONLINE", "ONLINE", "ONLINE"];
    assert_eq!(weights(), [1, 2, 0]);
    assert_eq!(farm.statuses().await[..3], up);
    assert_eq!(farm.statuses().await[3..], ["NO_MONITOR"; 3]);
    for member in [&one, &two, &spare] {
        farm.found(&monitor, member, true).await;
    }
    assert_eq!(weights(), [1, 2, 0]);
    assert_eq!(farm.statuses().await, ["ONLINE"; 6]);
    farm.found(&monitor, &one, false).await;
    assert_eq!(weights(), [0, 2, 0]);
    let some = [
        "DEGRADED", "DEGRADED", "DEGRADED", "ERROR", "ONLINE", "ONLINE",
    ];
    assert_eq!(farm.statuses().await, some);
    farm.found(&monitor, &two, false).await;
    assert_eq!(weights(), [0, 0, 5], "the spare one comes in");
    farm.found(&monitor, &spare, false).await;
    assert_eq!(weights(), [0, 0, 0], "and with nobody it is closed");
    assert_eq!(farm.statuses().await, ["ERROR"; 6]);
    // A change of a member says nothing of whether it serves, and no client can say it.
    let path = format!("pools/{pool}/members/{two}");
    let changed = farm.changed(&path, "member", json!({"weight": 7})).await;
    assert_eq!(changed["operating_status"], "ERROR");
    assert!(changed.get("serves").is_none());
    refused(
        &farm.cloud,
        "a",
        "PUT",
        &path,
        json!({"member": {"serves": true}}),
        400,
    )
    .await;
    // Who does not serve by its owner's will is no fault.
    farm.changed(&path, "member", json!({"admin_state_up": false}))
        .await;
    farm.found(&monitor, &one, true).await;
    farm.found(&monitor, &spare, true).await;
    assert_eq!(farm.statuses().await[..3], up);
    // What another monitor finds, or of nobody, is nothing.
    farm.found(&json!({"id": two}), &one, false).await;
    farm.found(&monitor, &id(&monitor), false).await;
    assert_eq!(farm.heard().of("10.0.0.11"), Some(1));
    farm.found(&monitor, &one, false).await;
    assert_eq!(farm.heard().of("10.0.0.11"), Some(0));
    // Without a monitor nothing is known.
    let path = format!("healthmonitors/{}", id(&monitor));
    farm.changed(&path, "healthmonitor", json!({"admin_state_up": false}))
        .await;
    assert_eq!(farm.heard().of("10.0.0.11"), Some(1));
    farm.found(&monitor, &one, false).await;
    assert_eq!(farm.heard().of("10.0.0.11"), Some(1), "it does not ask");
    farm.gone(&format!("loadbalancers/{}?cascade=true", farm.id()))
        .await;
    refused(&farm.cloud, "a", "GET", &path, Value::Null, 404).await;
}

#[tokio::test]
async fn what_a_monitor_can_not_be_is_refused_by_its_name() {
    let farm = Farm::new().await;
    let listener = farm.listener(80).await;
    let pool = farm.pool(&listener).await;
    let body = |kind: &str, more: Value| {
        let body =
            json!({"pool_id": pool, "type": kind, "delay": 5, "timeout": 2, "max_retries": 3});
        json!({"healthmonitor": with(body, more)})
    };
    for (kind, more, status, says) in [
        ("HTTPS", json!({}), 501, "HTTPS"),
        ("TLS-HELLO", json!({}), 501, "TLS-HELLO"),
        ("UDP-CONNECT", json!({}), 400, "pools of type UDP"),
        ("GOPHER", json!({}), 400, "type"),
        ("TCP", json!({"url_path": "/"}), 400, "url_path"),
        ("PING", json!({"domain_name": "x"}), 400, "domain_name"),
        ("TCP", json!({"delay": 0}), 400, "delay"),
        ("TCP", json!({"timeout": 0}), 400, "timeout"),
        ("TCP", json!({"max_retries": 11}), 400, "max_retries"),
        (
            "TCP",
            json!({"max_retries_down": 0}),
            400,
            "max_retries_down",
        ),
        ("HTTP", json!({"url_path": "up"}), 400, "url_path"),
        ("HTTP", json!({"url_path": "/a\r\nX: y"}), 400, "url_path"),
        (
            "HTTP",
            json!({"expected_codes": "2xx"}),
            400,
            "expected_codes",
        ),
        (
            "HTTP",
            json!({"expected_codes": "204-200"}),
            400,
            "expected_codes",
        ),
        ("HTTP", json!({"http_method": "BREW"}), 400, "http_method"),
        ("HTTP", json!({"http_version": 2.0}), 400, "http_version"),
        (
            "HTTP",
            json!({"domain_name": "a.b"}),
            400,
            "http_version 1.1",
        ),
        (
            "HTTP",
            json!({"http_version": 1.1, "domain_name": "a b"}),
            400,
            "domain_name",
        ),
        ("TCP", json!({"pool_id": "mine"}), 400, "pool_id"),
        ("TCP", json!({"pool_id": farm.id()}), 404, "Pool"),
    ] {
        let asked = body(kind, more);
        let text = refused(
            &farm.cloud,
            "a",
            "POST",
            "healthmonitors",
            asked.clone(),
            status,
        )
        .await;
        assert!(text.contains(says), "{asked}: {text}");
    }
    let other = body("TCP", json!({}));
    refused(
        &farm.cloud,
        "b",
        "POST",
        "healthmonitors",
        other.clone(),
        403,
    )
    .await;
    let monitor = farm.monitor(&pool, "TCP", json!({})).await;
    let text = refused(&farm.cloud, "a", "POST", "healthmonitors", other, 409).await;
    assert_eq!(text, "This pool already has a health monitor");
    let path = format!("healthmonitors/{}", id(&monitor));
    for change in [
        json!({"type": "PING"}),
        json!({"url_path": "/"}),
        json!({"pool_id": pool}),
    ] {
        let change = json!({"healthmonitor": change});
        refused(&farm.cloud, "a", "PUT", &path, change, 400).await;
    }
    refused(&farm.cloud, "b", "GET", &path, Value::Null, 403).await;
    let names =
        json!({"loadbalancer_id": farm.id(), "protocol": "UDP", "lb_algorithm": "SOURCE_IP"});
    let names = id(&made(&farm.cloud, "pools", "pool", names).await);
    let short = json!({"pool_id": names, "delay": 2});
    let text = refused(
        &farm.cloud,
        "a",
        "POST",
        "healthmonitors",
        body("UDP-CONNECT", short),
        400,
    )
    .await;
    assert!(text.contains("delay"), "{text}");
    let ping = body("PING", json!({"pool_id": names}));
    refused(&farm.cloud, "a", "POST", "healthmonitors", ping, 400).await;
    farm.monitor(&names, "UDP-CONNECT", json!({})).await;
}
