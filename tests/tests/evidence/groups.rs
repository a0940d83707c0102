//! What does each attribute of security groups, their rules, and address groups change?

use serde_json::{Value, json};
use tests::evidence::{Entry, Nic, Region, Seen, Sent, entry, id, with};

/// A workload whose group lets nothing in, one that writes to it, and the group.
fn guarded(r: &mut Region) -> (Nic, Nic, String) {
    let (net, a, _) = r.pair();
    let group = r.make("security_group", &json!({"name": "g"}));
    let only = json!({"security_groups": [id(&group)]});
    let c = r.nic_with(&net, 2, 13, &only);
    (a, c, id(&group).to_owned())
}

/// What gets in.
fn admitted(r: &mut Region, a: &Nic, c: &Nic) -> Seen {
    let mut seen = vec![];
    for v6 in [false, true] {
        for what in [
            Sent::Ping,
            Sent::Tcp(80),
            Sent::Tcp(443),
            Sent::Udp(80),
            Sent::Udp(53),
        ] {
            seen.extend(r.sees(a, c.addr(v6), what));
        }
        // And what gets out.
        seen.extend(r.sees(c, a.addr(v6), Sent::Udp(9)));
    }
    seen
}

/// An attribute of a rule beside these.
fn rule(r: &mut Region, base: &Value, attribute: &str, value: impl Fn(&mut Region) -> Value) {
    let (a, c, group) = guarded(r);
    let first = json!({"security_group_id": group, "direction": "ingress"});
    let value = value(r);
    r.by_create(
        ("security_group_rule", &with(&first, base)),
        (attribute, &value),
        |r, _| admitted(r, &a, &c),
    );
}

/// A rule that lets a group's addresses in.
fn by_addresses(r: &mut Region, body: &Value) -> (Nic, Nic, String) {
    let (a, c, group) = guarded(r);
    let addresses = r.make("address_group", body);
    let rule = json!({
        "security_group_id": group, "direction": "ingress", "remote_address_group_id": id(&addresses),
    });
    r.make("security_group_rule", &rule);
    (a, c, id(&addresses).to_owned())
}

pub(crate) const TABLE: &[Entry] = &[
    entry("security_group.stateful", |r| {
        let (net, a, _) = r.pair();
        let base = json!({"name": "g"});
        r.both(
            ("security_group", &base),
            ("stateful", &json!(false)),
            |r, made| {
                let c = r.nic_with(&net, 2, 13, &json!({"security_groups": [id(made)]}));
                let mut seen = vec![];
                for v6 in [false, true] {
                    seen.extend(r.talks(&c, a.addr(v6), Sent::Ping));
                    seen.extend(r.talks(&c, a.addr(v6), Sent::Tcp(80)));
                }
                r.remove("port", &c.id);
                seen
            },
        );
    }),
    entry("security_group_rule.security_group_id", |r| {
        let other = |r: &mut Region| {
            let other = r.make("security_group", &json!({"name": "o"}));
            json!(id(&other))
        };
        rule(r, &json!({}), "security_group_id", other);
    }),
    entry("security_group_rule.direction", |r| {
        let (a, c, group) = guarded(r);
        let own = r.read(
            "admin",
            &format!("security-group-rules?security_group_id={group}"),
        );
        for rule in own["security_group_rules"].as_array().unwrap() {
            r.remove("security_group_rule", id(rule));
        }
        let base = json!({"security_group_id": group, "direction": "ingress"});
        let other = json!("egress");
        r.by_create(
            ("security_group_rule", &base),
            ("direction", &other),
            |r, _| admitted(r, &a, &c),
        );
    }),
    entry("security_group_rule.ethertype", |r| {
        rule(r, &json!({}), "ethertype", |_| json!("IPv6"));
    }),
    entry("security_group_rule.protocol", |r| {
        for protocol in ["tcp", "udp", "icmp", "6", "any"] {
            if protocol == "any" {
                rule(r, &json!({"protocol": "tcp"}), "protocol", |_| json!("any"));
            } else {
                rule(r, &json!({}), "protocol", |_| json!(protocol));
            }
        }
    }),
    entry("security_group_rule.port_range_min", |r| {
        let base = json!({"protocol": "tcp", "port_range_max": 443, "port_range_min": 80});
        rule(r, &base, "port_range_min", |_| json!(443));
    }),
    entry("security_group_rule.port_range_max", |r| {
        let base = json!({"protocol": "tcp", "port_range_max": 443, "port_range_min": 80});
        rule(r, &base, "port_range_max", |_| json!(80));
    }),
    entry("security_group_rule.remote_ip_prefix", |r| {
        rule(r, &json!({}), "remote_ip_prefix", |_| json!("10.9.0.0/16"));
        let base = json!({"ethertype": "IPv6"});
        rule(r, &base, "remote_ip_prefix", |_| json!("fd99::/64"));
    }),
    entry("security_group_rule.remote_group_id", |r| {
        let empty = |r: &mut Region| {
            let other = r.make("security_group", &json!({"name": "o"}));
            json!(id(&other))
        };
        rule(r, &json!({}), "remote_group_id", empty);
    }),
    entry("security_group_rule.remote_address_group_id", |r| {
        let empty = |r: &mut Region| {
            let other = r.make("address_group", &json!({"name": "o"}));
            json!(id(&other))
        };
        rule(r, &json!({}), "remote_address_group_id", empty);
    }),
    entry("address_group.addresses", |r| {
        let (a, c, group) = guarded(r);
        let base = json!({"name": "friends"});
        r.by_create(
            ("address_group", &base),
            ("addresses", &json!(["10.0.0.11/32"])),
            |r, made| {
                let rule = json!({
                    "security_group_id": group, "direction": "ingress",
                    "remote_address_group_id": id(made),
                });
                let rule = r.make("security_group_rule", &rule);
                let seen = admitted(r, &a, &c);
                r.remove("security_group_rule", id(&rule));
                seen
            },
        );
    }),
    entry("add_addresses.addresses", |r| {
        let (a, c, addresses) = by_addresses(r, &json!({"name": "friends"}));
        let body = json!({"addresses": ["10.0.0.0/28"]});
        let mut there = false;
        r.differs(
            |r| {
                if std::mem::replace(&mut there, true) {
                    r.act("address_group", &addresses, "remove_addresses", &body);
                }
                admitted(r, &a, &c)
            },
            |r| {
                r.act("address_group", &addresses, "add_addresses", &body);
                admitted(r, &a, &c)
            },
        );
    }),
    entry("remove_addresses.addresses", |r| {
        let body = json!({"name": "friends", "addresses": ["10.0.0.0/28"]});
        let (a, c, addresses) = by_addresses(r, &body);
        let body = json!({"addresses": ["10.0.0.0/28"]});
        let mut gone = false;
        r.differs(
            |r| {
                if std::mem::replace(&mut gone, true) {
                    r.act("address_group", &addresses, "add_addresses", &body);
                }
                admitted(r, &a, &c)
            },
            |r| {
                r.act("address_group", &addresses, "remove_addresses", &body);
                admitted(r, &a, &c)
            },
        );
    }),
];
