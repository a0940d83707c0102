//! What does each attribute of hosts and agents change?

use serde_json::{Value, json};
use tests::evidence::{ADMIN, Entry, HOSTS, Region, Seen, Sent, entry, id};

use crate::routers::half_gated;

/// Whether a router finds a host for its gateway while the first host is in service, or not, and no other is.
fn gateways(r: &mut Region, kind: &str) {
    let (net, a, outside, out) = half_gated(r);
    let service = |r: &mut Region, at: usize, up: bool| {
        let host = r.host_id(at);
        r.set(kind, &host, &json!({"admin_state_up": up}));
    };
    for at in 1..HOSTS {
        service(r, at, false);
    }
    let look = |r: &mut Region, up: bool| -> Seen {
        service(r, 0, up);
        let router = r.router(&[&net]);
        r.gate(&router, &outside);
        let mut seen = r.talks(&a, out.v4.into(), Sent::Ping);
        seen.extend(r.talks(&a, out.v6.into(), Sent::Ping));
        r.set("router", &router, &json!({"external_gateway_info": null}));
        for subnet in [&net.v4, &net.v6] {
            r.leave(&router, subnet);
        }
        r.remove("router", &router);
        seen
    };
    r.differs(|r| look(r, true), |r| look(r, false));
    for at in 0..HOSTS {
        service(r, at, true);
    }
}

pub(crate) const TABLE: &[Entry] = &[
    entry("host.admin_state_up", |r| gateways(r, "host")),
    entry("agent.admin_state_up", |r| gateways(r, "agent")),
    entry("agent.description", |r| {
        let host = r.host_id(0);
        let chosen = json!("chosen");
        r.by_update(("agent", &host), ("description", &chosen), |r| {
            let found = r.read(ADMIN.0, "agents?description=chosen");
            vec![format!(
                "found {}",
                found["agents"].as_array().unwrap().len()
            )]
        });
    }),
    entry("host.vtep", |r| {
        let (net, a, _) = r.pair();
        let far = "192.0.2.99";
        let base = json!({"name": "h9"});
        r.by_create(("host", &base), ("vtep", &json!(far)), |r, _| {
            let there = json!({"binding:host_id": "h9"});
            let c = r.nic_with(&net, 2, 13, &there);
            let seen = r.tunnelled(far.parse().unwrap(), |r| {
                r.pings(&a, &c);
            });
            r.remove("port", &c.id);
            seen
        });
    }),
    entry("host.capacity", |r| {
        let (net, a, _) = r.pair();
        let policy = r.make("policy", &json!({"name": "q"}));
        let path = format!("/v2.0/qos/policies/{}/minimum_bandwidth_rules", id(&policy));
        let rule = json!({"min_kbps": 1000, "direction": "egress"});
        r.ok("POST", &path, &json!({"minimum_bandwidth_rule": rule}));
        let c = r.nic_with(&net, 2, 13, &json!({"binding:host_id": ""}));
        r.set("port", &c.id, &json!({"qos_policy_id": id(&policy)}));
        let host = r.host_id(2);
        let room = json!({"egress_kbps": 1000});
        r.by_update(("host", &host), ("capacity", &room), |r| {
            let path = format!("/v2.0/ports/{}", c.id);
            let bind = |r: &mut Region, host: &str| {
                let body = json!({"port": {"binding:host_id": host}});
                r.call(ADMIN.0, "PUT", &path, &body).0
            };
            let mut seen = vec![format!("bound there: {}", bind(r, "h3"))];
            seen.extend(r.pings(&a, &c));
            bind(r, "");
            seen
        });
    }),
    entry("host.new_token", |r| {
        let look = |r: &mut Region, another: bool| -> Seen {
            let hosts = "/v2.0/overweave/hosts";
            let made = r.ok("POST", hosts, &json!({"host": {"name": "h9"}}));
            let host = &made["host"];
            let told = r.set("host", id(host), &json!({"new_token": another}));
            let opens = |token: &Value| token.as_str().map(|token| r.may_join("h9", token));
            let seen = vec![
                format!("the first token opens: {:?}", opens(&host["token"])),
                format!("another one opens: {:?}", opens(&told["token"])),
            ];
            r.remove("host", id(host));
            seen
        };
        r.differs(|r| look(r, false), |r| look(r, true));
    }),
];
