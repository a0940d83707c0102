//! What do health monitors ask, and what follows?

use std::time::Duration;

use serde_json::{Value, json};
use tests::evidence::{ADMIN, Entry, Nic, Region, Seen, Sent, Serves, entry, id, with};

const VIP: &str = "10.0.0.100";
const OK: Serves = Serves::With("HTTP/1.0 200 OK\r\n");

/// A client, and a server behind a listener.
struct Scene {
    client: Nic,
    server: Nic,
    balancer: String,
    pool: String,
}

/// A listener and a pool with this one member.
fn pool(r: &mut Region, balancer: &str, port: u16, member: &Nic) -> String {
    let listener = json!({"loadbalancer_id": balancer, "protocol": "TCP", "protocol_port": port});
    let listener = r.make("listener", &listener);
    let pool =
        json!({"listener_id": id(&listener), "protocol": "TCP", "lb_algorithm": "SOURCE_IP"});
    let pool = id(&r.make("pool", &pool)).to_owned();
    let member = json!({"member": {"address": member.v4, "protocol_port": 8080}});
    r.ok(
        "POST",
        &format!("/v2.0/lbaas/pools/{pool}/members"),
        &member,
    );
    pool
}

fn scene(r: &mut Region) -> Scene {
    let (net, client, server) = r.pair();
    let balancer = json!({"vip_subnet_id": net.v4, "vip_address": VIP});
    let balancer = id(&r.make("loadbalancer", &balancer)).to_owned();
    let pool = pool(r, &balancer, 80, &server);
    Scene {
        client,
        server,
        balancer,
        pool,
    }
}

fn base(scene: &Scene, kind: &str) -> Value {
    json!({
        "pool_id": scene.pool, "type": kind, "delay": 2, "timeout": 1,
        "max_retries": 1, "max_retries_down": 1,
    })
}

/// What becomes of a connection, and what the API says of the load balancer.
fn serves(r: &mut Region, scene: &Scene) -> Seen {
    let mut seen = r.sees(&scene.client, VIP.parse().unwrap(), Sent::Tcp(80));
    let path = format!("lbaas/loadbalancers/{}", scene.balancer);
    let shown = r.read(ADMIN.0, &path);
    seen.push(format!("{}", shown["loadbalancer"]["operating_status"]));
    seen
}

/// A monitor whose attribute is changed, and changed back.
fn changed(
    kind: &str,
    more: &Value,
    (attribute, value): (&str, Value),
    probe: impl Fn(&mut Region, &Scene) -> Seen,
    r: &mut Region,
) {
    let scene = scene(r);
    let base = with(&base(&scene, kind), more);
    let monitor = r.make("healthmonitor", &base);
    let of = ("healthmonitor", id(&monitor));
    r.by_update(of, (attribute, &value), |r| probe(r, &scene));
    r.remove("healthmonitor", id(&monitor));
    // To make it so is to change it later.
    let made = r.make("healthmonitor", &with(&base, &json!({attribute: value})));
    let at_once = probe(r, &scene);
    r.remove("healthmonitor", id(&made));
    let later = r.make("healthmonitor", &base);
    r.set("healthmonitor", id(&later), &json!({attribute: value}));
    assert_eq!(probe(r, &scene), at_once, "{attribute}");
}

/// The different questions of some seconds.
fn questions(r: &mut Region, scene: &Scene) -> Seen {
    let mut asked = r.asked(&scene.server, Duration::from_secs(5), OK);
    asked.sort();
    asked.dedup();
    asked
}

/// A server that was so long one thing, and then another.
fn turned(r: &mut Region, scene: &Scene, first: Serves, then: Serves) -> Seen {
    r.asked(&scene.server, Duration::from_secs(22), first);
    r.asked(&scene.server, Duration::from_secs(5), then);
    serves(r, scene)
}

/// A member that is asked elsewhere than where it serves, said at once or later.
fn elsewhere(attribute: &str, value: impl Fn(&Nic) -> Value, r: &mut Region) {
    let scene = scene(r);
    let net = r.read(ADMIN.0, &format!("ports/{}", scene.server.id));
    let network = net["port"]["network_id"].clone();
    let other = r.plain(network.as_str().unwrap(), &json!({}));
    let value = value(&other);
    r.make("healthmonitor", &base(&scene, "TCP"));
    let all = format!("/v2.0/lbaas/pools/{}/members", scene.pool);
    let body = json!({"address": scene.server.v4, "protocol_port": 8081});
    let look = |r: &mut Region| {
        let mut seen = r.asked(&scene.server, Duration::from_secs(4), OK);
        let others = r.asked(&other, Duration::from_secs(4), OK);
        seen.extend(others.iter().map(|asked| format!("the other: {asked}")));
        seen.sort();
        seen.dedup();
        seen
    };
    let made = |r: &mut Region, body: &Value| {
        let made = r.ok("POST", &all, &json!({"member": body}));
        let seen = look(r);
        r.ok(
            "DELETE",
            &format!("{all}/{}", id(&made["member"])),
            &Value::Null,
        );
        seen
    };
    let given = with(&body, &json!({attribute: value}));
    r.differs(|r| made(r, &body), |r| made(r, &given));
    let member = r.ok("POST", &all, &json!({"member": body}));
    let member = format!("{all}/{}", id(&member["member"]));
    let changed = |r: &mut Region, to: &Value| {
        r.ok("PUT", &member, &json!({"member": {attribute: to}}));
        look(r)
    };
    r.differs(|r| changed(r, &Value::Null), |r| changed(r, &value));
}

pub(crate) const TABLE: &[Entry] = &[
    entry("member.monitor_address", |r| {
        elsewhere("monitor_address", |other| json!(other.v4), r);
    }),
    entry("member.monitor_port", |r| {
        elsewhere("monitor_port", |_| json!(9090), r);
    }),
    entry("healthmonitor.pool_id", |r| {
        let scene = scene(r);
        let net = r.read(ADMIN.0, &format!("ports/{}", scene.server.id));
        let network = net["port"]["network_id"].clone();
        let other = r.plain(network.as_str().unwrap(), &json!({}));
        let second = pool(r, &scene.balancer, 81, &other);
        let base = base(&scene, "TCP");
        r.by_create(
            ("healthmonitor", &base),
            ("pool_id", &json!(second)),
            |r, _| {
                let mut seen = r.asked(&scene.server, Duration::from_secs(3), OK);
                seen.truncate(1);
                seen.push("the end".to_owned());
                seen
            },
        );
    }),
    entry("healthmonitor.type", |r| {
        let scene = scene(r);
        let base = base(&scene, "TCP");
        r.by_create(
            ("healthmonitor", &base),
            ("type", &json!("PING")),
            |r, _| questions(r, &scene),
        );
    }),
    entry("healthmonitor.delay", |r| {
        let count = |r: &mut Region, scene: &Scene| {
            let asked = r.asked(&scene.server, Duration::from_secs(16), OK);
            vec![format!("often: {}", asked.len() > 5)]
        };
        changed("TCP", &json!({}), ("delay", json!(5)), count, r);
    }),
    entry("healthmonitor.timeout", |r| {
        let late = |r: &mut Region, scene: &Scene| {
            let late = Serves::Late("", Duration::from_millis(1500));
            r.asked(&scene.server, Duration::from_secs(9), late);
            serves(r, scene)
        };
        let more = json!({"delay": 4});
        changed("TCP", &more, ("timeout", json!(3)), late, r);
    }),
    entry("healthmonitor.max_retries", |r| {
        let back = |r: &mut Region, scene: &Scene| turned(r, scene, Serves::Refuses, OK);
        changed("TCP", &json!({}), ("max_retries", json!(10)), back, r);
    }),
    entry("healthmonitor.max_retries_down", |r| {
        let out = |r: &mut Region, scene: &Scene| turned(r, scene, OK, Serves::Silent);
        changed("TCP", &json!({}), ("max_retries_down", json!(10)), out, r);
    }),
    entry("healthmonitor.http_method", |r| {
        changed(
            "HTTP",
            &json!({}),
            ("http_method", json!("HEAD")),
            questions,
            r,
        );
    }),
    entry("healthmonitor.url_path", |r| {
        changed("HTTP", &json!({}), ("url_path", json!("/up")), questions, r);
    }),
    entry("healthmonitor.http_version", |r| {
        changed(
            "HTTP",
            &json!({}),
            ("http_version", json!(1.1)),
            questions,
            r,
        );
    }),
    entry("healthmonitor.domain_name", |r| {
        let more = json!({"http_version": 1.1});
        changed(
            "HTTP",
            &more,
            ("domain_name", json!("web.example")),
            questions,
            r,
        );
    }),
    entry("healthmonitor.expected_codes", |r| {
        let says = |r: &mut Region, scene: &Scene| {
            let no_content = Serves::With("HTTP/1.1 204 No Content\r\n");
            r.asked(&scene.server, Duration::from_secs(5), no_content);
            serves(r, scene)
        };
        changed(
            "HTTP",
            &json!({}),
            ("expected_codes", json!("200-204")),
            says,
            r,
        );
    }),
    entry("healthmonitor.admin_state_up", |r| {
        let gone = |r: &mut Region, scene: &Scene| {
            r.asked(&scene.server, Duration::from_secs(5), Serves::Refuses);
            serves(r, scene)
        };
        changed("TCP", &json!({}), ("admin_state_up", json!(false)), gone, r);
    }),
];
