//! What does each attribute of a grant let another project do?
//!
//! A member puts a workload on what was granted, or leaves by it, and speaks to somebody who is there.

use serde_json::{Value, json};
use tests::evidence::{A, B, Entry, Net, Nic, Region, Seen, Sent, entry, id};

/// What a member's workload on a network gets when it pings one that is there.
fn used(r: &mut Region, token: &str, net: &Net, there: &Nic, more: &Value) -> Seen {
    let body = tests::evidence::with(&json!({"network_id": net.id}), more);
    match r.guest(token, &body) {
        Ok(guest) => {
            let seen = r.sees(&guest, there.v4.into(), Sent::Ping);
            r.remove("port", &guest.id);
            seen
        }
        Err(why) => vec![why],
    }
}

/// Does a member's router lead there, and what arrives?
fn left(r: &mut Region, token: &str, net: &Net) -> Seen {
    let way = json!({"router": {"external_gateway_info": {"network_id": net.id}}});
    let (status, answer) = r.call(token, "POST", "/v2.0/routers", &way);
    if status == 201 {
        r.remove("router", id(&answer["router"]));
    }
    vec![format!("a way out by it: {status}")]
}

/// A network with somebody there.
fn inhabited(r: &mut Region, number: u8) -> (Net, Nic) {
    let net = r.net(number);
    let there = r.nic(&net, 1, 12);
    (net, there)
}

fn grant(object: &str, of: &str) -> Value {
    json!({
        "object_type": object, "object_id": of, "action": "access_as_shared", "target_tenant": A.1,
    })
}

pub(crate) const TABLE: &[Entry] = &[
    entry("rbac_policy.target_tenant", |r| {
        let (net, there) = inhabited(r, 0);
        let base =
            tests::evidence::with(&grant("network", &net.id), &json!({"target_tenant": B.1}));
        r.both(
            ("rbac_policy", &base),
            ("target_tenant", &json!(A.1)),
            |r, _| {
                let mut seen = used(r, A.0, &net, &there, &json!({}));
                seen.extend(used(r, B.0, &net, &there, &json!({})));
                seen
            },
        );
    }),
    entry("rbac_policy.object_id", |r| {
        let (net, there) = inhabited(r, 0);
        let (other, beside) = inhabited(r, 1);
        let base = grant("network", &net.id);
        r.by_create(
            ("rbac_policy", &base),
            ("object_id", &json!(other.id)),
            |r, _| {
                let mut seen = used(r, A.0, &net, &there, &json!({}));
                seen.extend(used(r, A.0, &other, &beside, &json!({})));
                seen
            },
        );
    }),
    entry("rbac_policy.object_type", |r| {
        let (net, there) = inhabited(r, 0);
        r.make("rbac_policy", &grant("network", &net.id));
        // Who has this group sends nothing.
        let group = r.make("security_group", &json!({"name": "silent"}));
        let rules = r.read(
            "admin",
            &format!("security-group-rules?security_group_id={}", id(&group)),
        );
        for rule in rules["security_group_rules"].as_array().unwrap() {
            r.remove("security_group_rule", id(rule));
        }
        let pool = json!({"name": "p", "prefixes": ["10.60.0.0/24"]});
        let pool = r.make("subnetpool", &pool);
        let probe = |r: &mut Region| {
            let chosen = json!({"security_groups": [id(&group)]});
            let mut seen = used(r, A.0, &net, &there, &json!({}));
            seen.extend(used(r, A.0, &net, &there, &chosen));
            let path = format!("/v2.0/subnetpools/{}", id(&pool));
            let (status, _) = r.call(A.0, "GET", &path, &Value::Null);
            seen.push(format!("the pool is seen: {status}"));
            seen
        };
        let look = |r: &mut Region, object: &str, of: &str| {
            let made = r.make("rbac_policy", &grant(object, of));
            let seen = probe(r);
            r.remove("rbac_policy", id(&made));
            seen
        };
        r.differs(
            |r| look(r, "subnetpool", id(&pool)),
            |r| look(r, "security_group", id(&group)),
        );
    }),
    entry("rbac_policy.action", |r| {
        let (net, there) = inhabited(r, 0);
        let mut base = grant("network", &net.id);
        base["action"] = json!("access_as_external");
        // A grant of the way out opens it, and it stays so.
        r.set("network", &net.id, &json!({"router:external": true}));
        let everybody = r.read("admin", &format!("rbac-policies?object_id={}", net.id));
        for open in everybody["rbac_policies"].as_array().unwrap() {
            r.remove("rbac_policy", id(open));
        }
        let shared = json!("access_as_shared");
        r.by_create(("rbac_policy", &base), ("action", &shared), |r, _| {
            let mut seen = used(r, A.0, &net, &there, &json!({}));
            seen.extend(left(r, A.0, &net));
            seen
        });
        // Without any there is no way out either.
        assert_eq!(left(r, A.0, &net), ["a way out by it: 404"]);
    }),
];
