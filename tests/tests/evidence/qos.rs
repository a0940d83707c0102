//! What do policies and their rules change?

use std::time::Duration;

use net::testkit::FrameBuilder;
use serde_json::{Value, json};
use tests::evidence::{A, Entry, Nic, Region, Seen, entry, id};

/// A pair of which the first has a policy; its rules' path by kind.
fn ruled(r: &mut Region) -> (String, Nic, Nic) {
    let (_, a, b) = r.pair();
    let policy = r.make("policy", &json!({"name": "q"}));
    r.set("port", &a.id, &json!({"qos_policy_id": id(&policy)}));
    (format!("/v2.0/qos/policies/{}", id(&policy)), a, b)
}

/// A hundred datagrams of so many bytes: how many arrive at once, and how many within a while.
fn burst(r: &mut Region, from: &Nic, to: &Nic, bytes: usize) -> Seen {
    let frame = FrameBuilder::udp(false, 4000, 4001)
        .macs(from.mac, to.mac)
        .addrs(from.v4.into(), to.v4.into())
        .payload(&vec![0; bytes])
        .build();
    // A switch meets another limit with the first packet, and keeps what was left of the last one's burst.
    r.burst(from, &frame, 1);
    r.advance(Duration::from_secs(2));
    let at_once = r.burst(from, &frame, 100);
    r.advance(Duration::from_millis(250));
    let later = at_once + r.arrived();
    vec![format!(
        "{at_once} at once, {later} in a quarter of a second"
    )]
}

/// Two workloads send more than they may, for so many seconds; how much arrives in the last.
fn flood(r: &mut Region, from: [&Nic; 2], to: &Nic, seconds: usize) -> usize {
    let mut arrived = 0;
    for _ in 0..seconds {
        arrived = 0;
        for _ in 0..10 {
            for nic in from {
                let frame = FrameBuilder::udp(false, 4000, 4001)
                    .macs(nic.mac, to.mac)
                    .addrs(nic.v4.into(), to.v4.into())
                    .payload(&[0; 1000])
                    .build();
                arrived += r.burst(nic, &frame, 150);
            }
            r.advance(Duration::from_millis(100));
            arrived += r.arrived();
        }
    }
    // What waits is of no interest to who comes next.
    r.advance(Duration::from_secs(1));
    r.arrived();
    arrived
}

fn both_ways(r: &mut Region, a: &Nic, b: &Nic) -> Seen {
    let mut seen = vec![];
    for (from, to) in [(a, b), (b, a)] {
        seen.extend(burst(r, from, to, 1000));
        seen.extend(burst(r, from, to, 20));
    }
    seen
}

/// A rule of such a kind, without and with this; changed and given at first.
fn rule(
    r: &mut Region,
    kind: &str,
    (base, over): (Value, Value),
    probe: impl Fn(&mut Region, &Nic, &Nic) -> Seen,
) {
    let (policy, a, b) = ruled(r);
    let path = format!("{policy}/{kind}s");
    let made = r.ok("POST", &path, &json!({kind: base}));
    let one = format!("{path}/{}", id(&made[kind]));
    r.differs(
        |r| {
            r.ok("PUT", &one, &json!({kind: base}));
            probe(r, &a, &b)
        },
        |r| {
            r.ok("PUT", &one, &json!({kind: over}));
            probe(r, &a, &b)
        },
    );
    r.ok("PUT", &one, &json!({kind: over}));
    let later = probe(r, &a, &b);
    r.ok("DELETE", &one, &Value::Null);
    let whole = tests::evidence::with(&base, &over);
    let made = r.ok("POST", &path, &json!({kind: whole}));
    assert_eq!(
        probe(r, &a, &b),
        later,
        "to make it so is to change it later"
    );
    r.ok(
        "DELETE",
        &format!("{path}/{}", id(&made[kind])),
        &Value::Null,
    );
}

/// Is a second port with the policy let onto a host that can guarantee so much?
fn guaranteed(r: &mut Region, kind: &str, (base, over): (Value, Value)) {
    let net = r.net(0);
    let h3 = r.host_id(2);
    let capacity =
        json!({"egress_kbps": 1000, "ingress_kbps": 500, "egress_kpps": 1000, "ingress_kpps": 500});
    r.set("host", &h3, &json!({"capacity": capacity}));
    let policy = r.make("policy", &json!({"name": "q"}));
    let path = format!("/v2.0/qos/policies/{}/{kind}s", id(&policy));
    let probe = |r: &mut Region| {
        let port = json!({"port": {"network_id": net.id, "binding:host_id": "h3", "qos_policy_id": id(&policy)}});
        let (status, answer) = r.call("admin", "POST", "/v2.0/ports", &port);
        if status == 201 {
            r.remove("port", id(&answer["port"]));
        }
        vec![format!("a port there: {status}")]
    };
    let made = r.ok("POST", &path, &json!({kind: base}));
    let one = format!("{path}/{}", id(&made[kind]));
    r.differs(
        |r| {
            r.ok("PUT", &one, &json!({kind: base}));
            probe(r)
        },
        |r| {
            r.ok("PUT", &one, &json!({kind: over}));
            probe(r)
        },
    );
    r.ok("DELETE", &one, &Value::Null);
    r.set("host", &h3, &json!({"capacity": null}));
}

pub(crate) const TABLE: &[Entry] = &[
    entry("policy.shared", |r| {
        let base = json!({"name": "q"});
        r.both(("policy", &base), ("shared", &json!(true)), |r, made| {
            let net = json!({"network": {"qos_policy_id": id(made)}});
            let (status, answer) = r.call(A.0, "POST", "/v2.0/networks", &net);
            if status == 201 {
                r.remove("network", id(&answer["network"]));
            }
            vec![format!("another project's network with it: {status}")]
        });
    }),
    entry("policy.is_default", |r| {
        let base = json!({"name": "q"});
        r.both(
            ("policy", &base),
            ("is_default", &json!(true)),
            |r, made| {
                let rule = json!({"dscp_marking_rule": {"dscp_mark": 46}});
                let rules = format!("/v2.0/qos/policies/{}/dscp_marking_rules", id(made));
                // The second look at the same policy finds its rule there.
                r.call("admin", "POST", &rules, &rule);
                let network = r.make("network", &json!({"name": "n"}));
                let seen = r.populated(&network, |r, a, b| r.pings(a, b));
                r.remove("network", id(&network));
                seen
            },
        );
    }),
    entry("policy.parent_id", |r| {
        // Both ports of one host share what the policy above has: the second finds nothing left of its burst.
        let (net, wide) = (r.net(0), r.make("policy", &json!({"name": "all"})));
        let rules = format!("/v2.0/qos/policies/{}/bandwidth_limit_rules", id(&wide));
        for direction in ["egress", "ingress"] {
            let rule = json!({"max_kbps": 800, "direction": direction});
            r.ok("POST", &rules, &json!({"bandwidth_limit_rule": rule}));
        }
        let nics = [(0, 11), (0, 12), (1, 13)].map(|(host, at)| r.nic(&net, host, at));
        let base = json!({"name": "q"});
        r.both(
            ("policy", &base),
            ("parent_id", &json!(id(&wide))),
            |r, made| {
                let [a, b, far] = &nics;
                for nic in [a, b] {
                    r.set("port", &nic.id, &json!({"qos_policy_id": id(made)}));
                }
                let mut seen = vec![];
                for (from, to) in [(a, far), (b, far), (far, a), (far, b)] {
                    seen.extend(burst(r, from, to, 1000));
                }
                for nic in [a, b] {
                    r.set("port", &nic.id, &json!({"qos_policy_id": null}));
                }
                seen
            },
        );
    }),
    entry("policy.limit_scope", |r| {
        // A port on each of two hosts below one policy: each has the limit at its host, or both have it once.
        let net = r.net(0);
        let nics = [(0, 11), (1, 12), (2, 13)].map(|(host, at)| r.nic(&net, host, at));
        r.both(
            ("policy", &json!({"name": "all"})),
            ("limit_scope", &json!("fabric")),
            |r, made| {
                let rules = format!("/v2.0/qos/policies/{}/bandwidth_limit_rules", id(made));
                let rule = json!({"bandwidth_limit_rule": {"max_kbps": 8000}});
                let rule = r.ok("POST", &rules, &rule);
                let below = r.make("policy", &json!({"name": "q", "parent_id": id(made)}));
                let [a, b, far] = &nics;
                for nic in [a, b] {
                    r.set("port", &nic.id, &json!({"qos_policy_id": id(&below)}));
                }
                let arrived = flood(r, [a, b], far, 4);
                for nic in [a, b] {
                    r.set("port", &nic.id, &json!({"qos_policy_id": null}));
                }
                r.remove("policy", id(&below));
                let rule = format!("{rules}/{}", id(&rule["bandwidth_limit_rule"]));
                r.ok("DELETE", &rule, &Value::Null);
                // A frame has 1,042 bytes: in one second a limit lets 960 of them through.
                vec![format!("limits a second: {}", (arrived + 480) / 960)]
            },
        );
    }),
    entry("bandwidth_limit_rule.max_kbps", |r| {
        let (base, over) = (json!({"max_kbps": 1_000_000}), json!({"max_kbps": 800}));
        rule(r, "bandwidth_limit_rule", (base, over), both_ways);
    }),
    entry("bandwidth_limit_rule.max_burst_kbps", |r| {
        let base = json!({"max_kbps": 800, "max_burst_kbps": 100});
        rule(
            r,
            "bandwidth_limit_rule",
            (base, json!({"max_burst_kbps": 400})),
            both_ways,
        );
    }),
    entry("bandwidth_limit_rule.direction", |r| {
        let base = json!({"max_kbps": 800, "direction": "egress"});
        rule(
            r,
            "bandwidth_limit_rule",
            (base, json!({"direction": "ingress"})),
            both_ways,
        );
    }),
    entry("packet_rate_limit_rule.max_kpps", |r| {
        let (base, over) = (json!({"max_kpps": 1000}), json!({"max_kpps": 1}));
        rule(r, "packet_rate_limit_rule", (base, over), both_ways);
    }),
    entry("packet_rate_limit_rule.max_burst_kpps", |r| {
        let base = json!({"max_kpps": 1, "max_burst_kpps": 0});
        rule(
            r,
            "packet_rate_limit_rule",
            (base, json!({"max_burst_kpps": 1})),
            both_ways,
        );
    }),
    entry("packet_rate_limit_rule.direction", |r| {
        let base = json!({"max_kpps": 1, "direction": "egress"});
        rule(
            r,
            "packet_rate_limit_rule",
            (base, json!({"direction": "ingress"})),
            both_ways,
        );
    }),
    entry("dscp_marking_rule.dscp_mark", |r| {
        let marks = (json!({"dscp_mark": 10}), json!({"dscp_mark": 46}));
        rule(r, "dscp_marking_rule", marks, |r, a, b| r.pings(a, b));
    }),
    entry("minimum_bandwidth_rule.min_kbps", |r| {
        let least = (json!({"min_kbps": 900}), json!({"min_kbps": 1100}));
        guaranteed(r, "minimum_bandwidth_rule", least);
    }),
    entry("minimum_bandwidth_rule.direction", |r| {
        let base = json!({"min_kbps": 900, "direction": "egress"});
        guaranteed(
            r,
            "minimum_bandwidth_rule",
            (base, json!({"direction": "ingress"})),
        );
    }),
    entry("minimum_packet_rate_rule.min_kpps", |r| {
        let least = (json!({"min_kpps": 900}), json!({"min_kpps": 1100}));
        guaranteed(r, "minimum_packet_rate_rule", least);
    }),
    entry("minimum_packet_rate_rule.direction", |r| {
        let base = json!({"min_kpps": 900, "direction": "egress"});
        guaranteed(
            r,
            "minimum_packet_rate_rule",
            (base, json!({"direction": "ingress"})),
        );
    }),
];
