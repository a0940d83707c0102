//! What does each attribute of a port change?

use serde_json::{Value, json};
use tests::evidence::{Entry, Net, Nic, Region, Seen, Sent, entry, id, with};

/// The third workload beside a pair.
fn third(r: &mut Region) -> (Net, Nic, Value) {
    let (net, a, _) = r.pair();
    let base = r.nic_body(&net, 2, 13);
    (net, a, base)
}

/// An attribute whose effect shows between a workload and the third.
fn between(
    r: &mut Region,
    (attribute, value): (&str, Value),
    probe: impl Fn(&mut Region, &Nic, &Nic) -> Seen,
) {
    let (net, a, base) = third(r);
    r.both(("port", &base), (attribute, &value), |r, made| {
        let c = r.workload(made, &net, 2, 13);
        probe(r, &a, &c)
    });
}

/// A policy that marks all that is sent.
pub(crate) fn marking(r: &mut Region) -> String {
    let policy = r.make("policy", &json!({"name": "marks"}));
    let rule = json!({"dscp_marking_rule": {"dscp_mark": 46}});
    let path = format!("/v2.0/qos/policies/{}/dscp_marking_rules", id(&policy));
    r.ok("POST", &path, &rule);
    id(&policy).to_owned()
}

pub(crate) const TABLE: &[Entry] = &[
    entry("port.admin_state_up", |r| {
        between(r, ("admin_state_up", json!(false)), |r, a, c| r.pings(a, c));
    }),
    entry("port.network_id", |r| {
        let (net, a, base) = third(r);
        let other = r.net(0);
        let base = with(&base, &json!({"fixed_ips": [{"ip_address": "10.0.0.13"}]}));
        r.by_create(
            ("port", &base),
            ("network_id", &json!(other.id)),
            |r, made| {
                let c = r.workload(made, &net, 2, 13);
                r.sees(&a, c.v4.into(), Sent::Ping)
            },
        );
    }),
    entry("port.mac_address", |r| {
        between(r, ("mac_address", json!("02:00:00:00:00:99")), |r, a, c| {
            r.pings(c, a)
        });
    }),
    entry("port.fixed_ips", |r| {
        let other = json!([{"ip_address": "10.0.0.50"}, {"ip_address": "fd00::50"}]);
        between(r, ("fixed_ips", other), |r, a, c| r.pings(a, c));
    }),
    entry("port.device_id", |r| {
        let (_, _, base) = third(r);
        r.found(("port", &base), "device_id", &json!("vm-1"));
    }),
    entry("port.device_owner", |r| {
        let net = r.net(0);
        let whose = json!({"service_types": ["compute:nova"], "cidr": "10.0.7.0/24"});
        r.subnet_of(&net.id, 0, 4, &whose);
        let base = json!({"network_id": net.id, "binding:host_id": "h1"});
        r.by_create(
            ("port", &base),
            ("device_owner", &json!("compute:nova")),
            |_, made| {
                let addrs = made["fixed_ips"].to_string();
                vec![format!(
                    "from the subnet of its kind: {}",
                    addrs.contains("10.0.7.")
                )]
            },
        );
        r.found(("port", &base), "device_owner", &json!("compute:x"));
    }),
    entry("port.port_security_enabled", |r| {
        let (net, a, base) = third(r);
        let base = with(&base, &json!({"security_groups": []}));
        r.both(
            ("port", &base),
            ("port_security_enabled", &json!(false)),
            |r, made| {
                let c = r.workload(made, &net, 2, 13);
                let mut seen = r.pings(&c.at("10.0.0.77").at("fd00::77"), &a);
                seen.extend(r.pings(&a, &c));
                seen
            },
        );
    }),
    entry("port.security_groups", |r| {
        between(r, ("security_groups", json!([])), |r, a, c| r.pings(a, c));
    }),
    entry("port.allowed_address_pairs", |r| {
        let pairs = json!([{"ip_address": "10.0.0.200"}, {"ip_address": "fd00:0:0:0::200"}]);
        between(r, ("allowed_address_pairs", pairs), |r, a, c| {
            r.pings(&c.at("10.0.0.200").at("fd00::200"), a)
        });
    }),
    entry("port.qos_policy_id", |r| {
        let policy = marking(r);
        between(r, ("qos_policy_id", json!(policy)), |r, a, c| r.pings(c, a));
    }),
    entry("port.extra_dhcp_opts", |r| {
        let (net, _, base) = third(r);
        let option = json!([
            {"opt_name": "ntp-server", "opt_value": "10.0.0.9"},
            {"opt_name": "ntp-server", "opt_value": "fd00::9", "ip_version": 6},
        ]);
        r.by_create(("port", &base), ("extra_dhcp_opts", &option), |r, made| {
            let c = r.workload(made, &net, 2, 13);
            r.dhcp(&c)
        });
        // An update takes away what it says is null.
        let made = r.make("port", &base);
        let c = r.workload(&made, &net, 2, 13);
        let gone = json!({"extra_dhcp_opts": [{"opt_name": "ntp-server", "opt_value": null}]});
        r.differs(
            |r| {
                r.set("port", &c.id, &gone);
                r.dhcp(&c)
            },
            |r| {
                r.set("port", &c.id, &json!({"extra_dhcp_opts": option}));
                r.dhcp(&c)
            },
        );
    }),
    entry("port.dns_name", |r| {
        between(r, ("dns_name", json!("web")), |r, a, c| {
            let mut seen = r.looked_up(a, "web.openstacklocal");
            seen.extend(r.looked_up(a, "13.0.0.10.in-addr.arpa"));
            seen.extend(r.dhcp(c));
            seen
        });
    }),
    entry("port.dns_domain", |r| {
        let (net, a, base) = third(r);
        let base = with(&base, &json!({"dns_name": "web"}));
        r.both(
            ("port", &base),
            ("dns_domain", &json!("blue.example.")),
            |r, made| {
                r.workload(made, &net, 2, 13);
                r.looked_up(&a, "web.blue.example")
            },
        );
    }),
    entry("port.binding:host_id", |r| {
        between(r, ("binding:host_id", json!("h1")), |r, a, c| r.pings(c, a));
    }),
];
