//! What of Octavia's API is no resource: whole load balancers at once, batches of members, quotas.

use super::{
    lbaas::{Farm, ROOT, refused},
    *,
};

impl Farm {
    async fn whole(&self, body: Value) -> Value {
        let path = format!("{ROOT}/loadbalancers");
        let body = json!({"loadbalancer": body});
        let (status, answer) = self.cloud.ask("a", "POST", &path, body).await;
        assert_eq!(status, 201, "{answer}");
        answer["loadbalancer"].clone()
    }

    async fn members(&self, pool: &str, query: &str, members: Value) -> u16 {
        let path = format!("{ROOT}/pools/{pool}/members{query}");
        let body = json!({"members": members});
        self.cloud.ask("a", "PUT", &path, body).await.0
    }
}

#[tokio::test]
async fn a_load_balancer_is_made_with_all_that_hangs_on_it() {
    let farm = Farm::new().await;
    let monitor = json!({"type": "TCP", "delay": 3, "timeout": 2, "max_retries": 1});
    let whole = farm
        .whole(json!({
            "name": "whole", "vip_subnet_id": farm.subnet, "vip_address": "10.0.0.200",
            "pools": [{
                "name": "shared", "protocol": "TCP", "lb_algorithm": "ROUND_ROBIN",
                "members": [{"address": "10.0.0.31", "protocol_port": 81}],
            }],
            "listeners": [
                {
                    "name": "web", "protocol": "TCP", "protocol_port": 80, "l7policies": [],
                    "default_pool": {
                        "name": "own", "protocol": "TCP", "lb_algorithm": "SOURCE_IP",
                        "healthmonitor": monitor,
                        "members": [
                            {"address": "10.0.0.30", "protocol_port": 8080, "weight": 4},
                            {"address": "10.0.0.32", "protocol_port": 8080, "backup": true},
                        ],
                    },
                },
                {"protocol": "TCP", "protocol_port": 81, "default_pool": {"name": "shared"}},
            ],
        }))
        .await;
    assert_eq!(whole["vip_address"], "10.0.0.200");
    let listeners = whole["listeners"].as_array().unwrap();
    let ports: Vec<_> = listeners
        .iter()
        .map(|l| l["protocol_port"].clone())
        .collect();
    assert_eq!(ports, [80, 81]);
    let pools = whole["pools"].as_array().unwrap();
    let named = |name: &str| pools.iter().find(|pool| pool["name"] == name).unwrap();
    let (own, shared) = (named("own"), named("shared"));
    assert_eq!(listeners[0]["default_pool_id"], own["id"]);
    assert_eq!(listeners[1]["default_pool_id"], shared["id"]);
    assert_eq!(own["members"][0]["address"], "10.0.0.30");
    let path = format!(
        "{ROOT}/healthmonitors/{}",
        own["healthmonitor_id"].as_str().unwrap()
    );
    assert_eq!(
        farm.cloud.get("a", &path).await.1["healthmonitor"]["delay"],
        3
    );
    let heard = farm.heard();
    assert_eq!(heard.chains, 2);
    let weights = ["10.0.0.30", "10.0.0.31", "10.0.0.32"].map(|of| heard.of(of));
    assert_eq!(weights, [Some(4), Some(1), Some(0)]);
}

#[tokio::test]
async fn of_a_whole_load_balancer_there_is_all_or_nothing() {
    let farm = Farm::new().await;
    let count = || async {
        let list = farm
            .cloud
            .get("a", &format!("{ROOT}/loadbalancers"))
            .await
            .1;
        list["loadbalancers"].as_array().unwrap().len()
    };
    let listener = |more: Value| with(json!({"protocol": "TCP", "protocol_port": 80}), more);
    let pool = json!({"protocol": "TCP", "lb_algorithm": "ROUND_ROBIN"});
    for (nested, status) in [
        (
            json!({"listeners": [listener(json!({})), listener(json!({}))]}),
            409,
        ),
        (
            json!({"listeners": [listener(json!({"protocol": "PROXY"}))]}),
            501,
        ),
        (
            json!({"listeners": [listener(json!({"l7policies": [{"action": "REJECT"}]}))]}),
            501,
        ),
        (
            json!({"listeners": [listener(json!({"default_pool": {"name": "nobody"}}))]}),
            400,
        ),
        (
            json!({"listeners": [listener(json!({"color": "red"}))]}),
            400,
        ),
        (json!({"listeners": 7}), 400),
        (json!({"listeners": [7]}), 400),
        (
            json!({"pools": [with(pool.clone(), json!({"members": [{"address": "10.0.0.9"}]}))]}),
            400,
        ),
        (
            json!({"pools": [with(pool.clone(), json!({"members": [{"address": "127.0.0.1", "protocol_port": 1}]}))]}),
            400,
        ),
        (
            json!({"pools": [with(pool.clone(), json!({"healthmonitor": {"type": "TCP"}}))]}),
            400,
        ),
        (json!({"pools": [pool.clone()], "vip_subnet_id": "x"}), 400),
        (json!({"pools": vec![pool.clone(); 300]}), 400),
    ] {
        let body = with(json!({"vip_subnet_id": farm.subnet}), nested);
        let body = json!({"loadbalancer": body});
        if status == 501 {
            refused(
                &farm.cloud,
                "a",
                "POST",
                "loadbalancers",
                body.clone(),
                status,
            )
            .await;
        } else {
            let path = format!("{ROOT}/loadbalancers");
            let (have, answer) = farm.cloud.ask("a", "POST", &path, body.clone()).await;
            let is_refused = (400..500).contains(&have);
            assert!(
                is_refused && (status != 409 || have == 409),
                "{body}: {have} {answer}"
            );
        }
        assert_eq!(count().await, 1, "{body}");
    }
    let body = json!({"loadbalancer": {"vip_subnet_id": farm.subnet, "pools": [pool]}});
    refused(&farm.cloud, "b", "POST", "loadbalancers", body, 400).await;
    assert_eq!(farm.heard().chains, 0);
}

#[tokio::test]
async fn a_batch_says_who_the_members_are() {
    let farm = Farm::new().await;
    let listener = farm.listener(80).await;
    let pool = farm.pool(&listener).await;
    let one = farm
        .member(&pool, "10.0.0.11", json!({"name": "one", "weight": 3}))
        .await;
    farm.member(&pool, "10.0.0.12", json!({})).await;
    let of = |address: &str| json!({"address": address, "protocol_port": 8080});
    let batch = json!([with(of("10.0.0.11"), json!({"weight": 5})), of("10.0.0.13")]);
    assert_eq!(farm.members(&pool, "", batch).await, 202);
    let weights = || {
        let heard = farm.heard();
        ["10.0.0.11", "10.0.0.12", "10.0.0.13", "10.0.0.14"].map(|of| heard.of(of))
    };
    assert_eq!(weights(), [Some(5), None, Some(1), None]);
    let path = format!("{ROOT}/pools/{pool}/members/{one}");
    let kept = farm.cloud.get("a", &path).await.1["member"].clone();
    assert_eq!((&kept["name"], &kept["weight"]), (&json!("one"), &json!(5)));
    let batch = json!([of("10.0.0.14")]);
    assert_eq!(
        farm.members(&pool, "?additive_only=true", batch.clone())
            .await,
        202
    );
    assert_eq!(weights(), [Some(5), None, Some(1), Some(1)]);
    // All or none.
    let bad = json!([of("10.0.0.15"), of("127.0.0.1")]);
    assert_eq!(farm.members(&pool, "", bad).await, 400);
    assert_eq!(
        farm.members(&pool, "", json!([of("10.0.0.15"), of("10.0.0.15")]))
            .await,
        409
    );
    assert_eq!(farm.members(&pool, "", json!({})).await, 400);
    assert_eq!(weights(), [Some(5), None, Some(1), Some(1)]);
    assert_eq!(farm.members(&pool, "", json!([])).await, 202);
    assert_eq!(weights(), [None; 4]);
    let path = format!("pools/{pool}/members");
    refused(&farm.cloud, "b", "PUT", &path, json!({"members": []}), 403).await;
}

#[tokio::test]
async fn quotas_have_octavias_words() {
    let farm = Farm::new().await;
    let path = format!("{ROOT}/quotas/{A}");
    let shown = |who: &'static str, path: String| {
        let cloud = &farm.cloud;
        async move { cloud.get(who, &path).await }
    };
    let (status, quota) = shown("a", path.clone()).await;
    assert_eq!(status, 200);
    for (name, limit) in [
        ("loadbalancer", 10),
        ("load_balancer", 10),
        ("listener", 100),
        ("pool", 100),
        ("healthmonitor", 100),
        ("health_monitor", 100),
        ("member", -1),
        ("l7policy", 100),
        ("l7rule", -1),
    ] {
        assert_eq!(quota["quota"][name], limit, "{name}");
    }
    assert_eq!(shown("b", path.clone()).await.0, 403);
    assert_eq!(shown("a", format!("{ROOT}/quotas/defaults")).await.0, 403);
    let (_, defaults) = shown("admin", format!("{ROOT}/quotas/defaults")).await;
    assert_eq!(defaults["quota"]["pool"], 100);
    let put = |who: &'static str, quota: Value| {
        let (cloud, path) = (&farm.cloud, path.clone());
        async move { cloud.ask(who, "PUT", &path, json!({"quota": quota})).await }
    };
    assert_eq!(put("a", json!({"pool": 1})).await.0, 403);
    for (wrong, status) in [
        (json!({"pool": -2}), 400),
        (json!({"pool": "many"}), 400),
        (json!({"network": 5}), 400),
    ] {
        assert_eq!(put("admin", wrong.clone()).await.0, status, "{wrong}");
    }
    let counted = json!({"quota": {"member": 5}});
    let path_of = format!("quotas/{A}");
    refused(&farm.cloud, "admin", "PUT", &path_of, counted, 501).await;
    let (status, set) = put("admin", json!({"load_balancer": 1, "member": -1})).await;
    assert_eq!((status, &set["quota"]["loadbalancer"]), (202, &json!(1)));
    let (_, list) = shown("a", format!("{ROOT}/quotas")).await;
    assert_eq!(list["quotas"][0]["load_balancer"], 1);
    let body = json!({"loadbalancer": {"vip_subnet_id": farm.subnet}});
    let text = refused(&farm.cloud, "a", "POST", "loadbalancers", body.clone(), 403).await;
    assert!(text.contains("Quota"), "{text}");
    let (_, set) = put("admin", json!({"load_balancer": null})).await;
    assert_eq!(set["quota"]["loadbalancer"], 10);
    put("admin", json!({"load_balancer": 1})).await;
    let gone = farm.cloud.ask("admin", "DELETE", &path, Value::Null).await;
    assert_eq!(gone.0, 204);
    let (status, _) = farm
        .cloud
        .ask("a", "POST", &format!("{ROOT}/loadbalancers"), body)
        .await;
    assert_eq!(status, 201);
}
