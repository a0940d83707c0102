//! What do firewall rules, policies and groups change?

use serde_json::{Value, json};
use tests::evidence::{A, Entry, Nic, Region, Seen, Sent, entry, id, with};

/// What gets from one workload to another.
fn passes(r: &mut Region, a: &Nic, b: &Nic) -> Seen {
    let mut seen = vec![];
    for v6 in [false, true] {
        for what in [
            Sent::Ping,
            Sent::Tcp(80),
            Sent::Tcp(443),
            Sent::TcpFrom(9),
            Sent::Udp(80),
        ] {
            seen.extend(r.sees(a, b.addr(v6), what));
        }
        // And what goes the other way.
        seen.extend(r.sees(b, a.addr(v6), Sent::Udp(9)));
    }
    seen
}

/// Policies of a firewall at a workload, which lets all out that is of IPv4 and nothing in.
struct Wall {
    a: Nic,
    b: Nic,
    ingress: String,
    egress: String,
    group: String,
}

fn rule(r: &mut Region, body: &Value) -> String {
    let made = r.make("firewall_rule", body);
    id(&made).to_owned()
}

fn policy(r: &mut Region, rules: &[&str]) -> String {
    let made = r.make("firewall_policy", &json!({"firewall_rules": rules}));
    id(&made).to_owned()
}

fn wall(r: &mut Region) -> Wall {
    let (_, a, b) = r.pair();
    let out = rule(r, &json!({"action": "allow"}));
    let (ingress, egress) = (policy(r, &[]), policy(r, &[&out]));
    let body = json!({
        "ingress_firewall_policy_id": ingress, "egress_firewall_policy_id": egress, "ports": [b.id],
    });
    let group = r.make("firewall_group", &body);
    let group = id(&group).to_owned();
    Wall {
        a,
        b,
        ingress,
        egress,
        group,
    }
}

/// An attribute of a rule that decides what gets in.
fn of_rule(r: &mut Region, base: &Value, (attribute, value): (&str, &Value)) {
    let wall = wall(r);
    let base = with(&json!({"action": "allow"}), base);
    r.both(("firewall_rule", &base), (attribute, value), |r, made| {
        let named = json!({"firewall_rule_id": id(made)});
        r.act("firewall_policy", &wall.ingress, "insert_rule", &named);
        let seen = passes(r, &wall.a, &wall.b);
        r.act("firewall_policy", &wall.ingress, "remove_rule", &named);
        seen
    });
}

/// An attribute of a group that holds at a workload for as long as something is looked at.
fn of_group(r: &mut Region, base: &Value, (attribute, value): (&str, &Value), at: (&Nic, &Nic)) {
    r.both(("firewall_group", base), (attribute, value), |r, made| {
        r.set("firewall_group", id(made), &json!({"ports": [at.1.id]}));
        let seen = passes(r, at.0, at.1);
        r.set("firewall_group", id(made), &json!({"ports": []}));
        seen
    });
}

/// May another project see what is made so, or use it so?
fn by_others(r: &mut Region, kind: &str, look: impl Fn(&mut Region, &Value) -> (u16, Value)) {
    let base = json!({"name": "n"});
    r.both((kind, &base), ("shared", &json!(true)), |r, made| {
        let (status, answer) = look(r, made);
        let object = answer.as_object().and_then(|answer| answer.values().next());
        if status == 201
            && let Some(made) = object
        {
            let kind = if kind == "firewall_rule" {
                "firewall_policy"
            } else {
                "firewall_group"
            };
            r.remove(kind, id(made));
        }
        vec![format!("by another project: {status}")]
    });
}

/// Where a rule that allows is put into the order of one that denies.
fn inserted(r: &mut Region, place: impl Fn(&str) -> (Value, Value)) {
    let wall = wall(r);
    let [deny, allow] = ["deny", "allow"].map(|action| rule(r, &json!({"action": action})));
    let body = json!({"firewall_rules": [deny]});
    r.set("firewall_policy", &wall.ingress, &body);
    let (without, with_it) = place(&deny);
    let look = |r: &mut Region, more: &Value| {
        let named = json!({"firewall_rule_id": allow});
        r.act(
            "firewall_policy",
            &wall.ingress,
            "insert_rule",
            &with(&named, more),
        );
        let seen = passes(r, &wall.a, &wall.b);
        r.act("firewall_policy", &wall.ingress, "remove_rule", &named);
        seen
    };
    r.differs(|r| look(r, &without), |r| look(r, &with_it));
}

pub(crate) const TABLE: &[Entry] = &[
    entry("firewall_rule.action", |r| {
        for action in ["deny", "reject"] {
            of_rule(r, &json!({}), ("action", &json!(action)));
            r.clear();
        }
    }),
    entry("firewall_rule.protocol", |r| {
        for protocol in ["tcp", "udp", "icmp"] {
            of_rule(r, &json!({}), ("protocol", &json!(protocol)));
            r.clear();
        }
    }),
    entry("firewall_rule.ip_version", |r| {
        of_rule(r, &json!({}), ("ip_version", &json!(6)));
    }),
    entry("firewall_rule.source_ip_address", |r| {
        of_rule(r, &json!({}), ("source_ip_address", &json!("10.0.0.12")));
        r.clear();
        let (six, other) = (json!({"ip_version": 6}), json!("fd00:9::/64"));
        of_rule(r, &six, ("source_ip_address", &other));
    }),
    entry("firewall_rule.destination_ip_address", |r| {
        let other = json!("10.0.0.11");
        of_rule(r, &json!({}), ("destination_ip_address", &other));
        r.clear();
        let (six, other) = (json!({"ip_version": 6}), json!("fd00:9::/64"));
        of_rule(r, &six, ("destination_ip_address", &other));
    }),
    entry("firewall_rule.source_port", |r| {
        of_rule(r, &json!({"protocol": "tcp"}), ("source_port", &json!("9")));
    }),
    entry("firewall_rule.destination_port", |r| {
        let of = ("destination_port", &json!("400:443"));
        of_rule(r, &json!({"protocol": "tcp"}), of);
    }),
    entry("firewall_rule.enabled", |r| {
        of_rule(r, &json!({}), ("enabled", &json!(false)));
    }),
    entry("firewall_rule.shared", |r| {
        by_others(r, "firewall_rule", |r, made| {
            let body = json!({"firewall_policy": {"firewall_rules": [id(made)]}});
            r.call(A.0, "POST", "/v2.0/fwaas/firewall_policies", &body)
        });
    }),
    entry("firewall_policy.firewall_rules", |r| {
        let wall = wall(r);
        let allow = rule(r, &json!({"action": "allow"}));
        let rules = json!([allow]);
        let base = json!({"name": "p"});
        r.both(
            ("firewall_policy", &base),
            ("firewall_rules", &rules),
            |r, made| {
                let set = |r: &mut Region, policy: &Value| {
                    let body = json!({"ingress_firewall_policy_id": policy});
                    r.set("firewall_group", &wall.group, &body);
                };
                set(r, &made["id"]);
                let seen = passes(r, &wall.a, &wall.b);
                set(r, &json!(wall.ingress));
                seen
            },
        );
    }),
    entry("firewall_policy.audited", |r| {
        let base = json!({"name": "p"});
        let audited = ("audited", &json!(true));
        r.both(("firewall_policy", &base), audited, |r, made| {
            let named = r.names("admin", "fwaas/firewall_policies?audited=true");
            // Until somebody changes it.
            let shown = r.shown("firewall_policy", id(made), "audited");
            vec![format!("{named:?}, shown as {shown}")]
        });
    }),
    entry("firewall_policy.shared", |r| {
        by_others(r, "firewall_policy", |r, made| {
            let body = json!({"firewall_group": {"egress_firewall_policy_id": id(made)}});
            r.call(A.0, "POST", "/v2.0/fwaas/firewall_groups", &body)
        });
    }),
    entry("insert_rule.firewall_rule_id", |r| {
        let wall = wall(r);
        let allow = rule(r, &json!({"action": "allow"}));
        let named = json!({"firewall_rule_id": allow});
        r.differs(
            |r| passes(r, &wall.a, &wall.b),
            |r| {
                r.act("firewall_policy", &wall.ingress, "insert_rule", &named);
                let seen = passes(r, &wall.a, &wall.b);
                r.act("firewall_policy", &wall.ingress, "remove_rule", &named);
                seen
            },
        );
    }),
    entry("insert_rule.insert_before", |r| {
        inserted(r, |deny| {
            (
                json!({"insert_after": deny}),
                json!({"insert_before": deny, "insert_after": deny}),
            )
        });
    }),
    entry("insert_rule.insert_after", |r| {
        inserted(r, |deny| (json!({}), json!({"insert_after": deny})));
    }),
    entry("remove_rule.firewall_rule_id", |r| {
        let wall = wall(r);
        let [deny, allow] = ["deny", "allow"].map(|action| rule(r, &json!({"action": action})));
        let body = json!({"firewall_rules": [deny, allow]});
        r.set("firewall_policy", &wall.ingress, &body);
        let named = json!({"firewall_rule_id": deny});
        r.differs(
            |r| passes(r, &wall.a, &wall.b),
            |r| {
                r.act("firewall_policy", &wall.ingress, "remove_rule", &named);
                let seen = passes(r, &wall.a, &wall.b);
                r.act("firewall_policy", &wall.ingress, "insert_rule", &named);
                seen
            },
        );
    }),
    entry("firewall_group.ingress_firewall_policy_id", |r| {
        let wall = wall(r);
        r.set("firewall_group", &wall.group, &json!({"ports": []}));
        let allow = rule(r, &json!({"action": "allow"}));
        let inward = json!(policy(r, &[&allow]));
        let base = json!({"egress_firewall_policy_id": wall.egress});
        let of = ("ingress_firewall_policy_id", &inward);
        of_group(r, &base, of, (&wall.a, &wall.b));
    }),
    entry("firewall_group.egress_firewall_policy_id", |r| {
        let wall = wall(r);
        r.set("firewall_group", &wall.group, &json!({"ports": []}));
        let base = json!({"ingress_firewall_policy_id": wall.ingress});
        let out = json!(wall.egress);
        let of = ("egress_firewall_policy_id", &out);
        of_group(r, &base, of, (&wall.a, &wall.b));
    }),
    entry("firewall_group.admin_state_up", |r| {
        let wall = wall(r);
        r.set("firewall_group", &wall.group, &json!({"ports": []}));
        let base = json!({
            "ingress_firewall_policy_id": wall.ingress, "egress_firewall_policy_id": wall.egress,
        });
        let of = ("admin_state_up", &json!(false));
        of_group(r, &base, of, (&wall.a, &wall.b));
    }),
    entry("firewall_group.ports", |r| {
        let wall = wall(r);
        // At a workload.
        let none = json!([]);
        let of = ("firewall_group", wall.group.as_str());
        r.by_update(of, ("ports", &none), |r| passes(r, &wall.a, &wall.b));
        // At a router's interface, towards its network; and given at first.
        r.set("firewall_group", &wall.group, &json!({"ports": []}));
        let (near, far) = (r.net(1), r.net(2));
        let router = r.router(&[&near, &far]);
        let (c, d) = (r.nic(&near, 0, 13), r.nic(&far, 1, 14));
        let interfaces = format!("ports?device_id={router}&network_id={}", far.id);
        let interfaces = r.read("admin", &interfaces);
        let interfaces = interfaces["ports"].as_array().unwrap().iter();
        let ports = json!(interfaces.map(id).collect::<Vec<_>>());
        r.by_update(of, ("ports", &ports), |r| passes(r, &c, &d));
        r.set("firewall_group", &wall.group, &json!({"ports": ports}));
        let later = passes(r, &c, &d);
        r.set("firewall_group", &wall.group, &json!({"ports": []}));
        let body = json!({
            "ingress_firewall_policy_id": wall.ingress, "egress_firewall_policy_id": wall.egress,
            "ports": ports,
        });
        let made = r.make("firewall_group", &body);
        assert_eq!(
            passes(r, &c, &d),
            later,
            "to make it so is to change it later"
        );
        r.set("firewall_group", id(&made), &json!({"ports": []}));
    }),
    entry("firewall_group.shared", |r| {
        by_others(r, "firewall_group", |r, made| {
            let one = format!("/v2.0/fwaas/firewall_groups/{}", id(made));
            r.call(A.0, "GET", &one, &Value::Null)
        });
    }),
];
