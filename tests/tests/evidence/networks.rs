//! What does each attribute of a network change?

use serde_json::{Value, json};
use tests::evidence::{A, Entry, Region, Seen, Sent, entry, id, with};

use crate::ports::marking;

/// An attribute whose effect shows between two workloads of the network.
fn between(
    r: &mut Region,
    (attribute, value): (&str, Value),
    probe: impl Fn(&mut Region, &tests::evidence::Nic, &tests::evidence::Nic) -> Seen,
) {
    let base = json!({"name": "n"});
    r.both(("network", &base), (attribute, &value), |r, made| {
        r.populated(made, |r, a, b| probe(r, a, b))
    });
}

/// What crosses physical networks when a workload of such a network pings another.
fn on_wires(r: &mut Region, made: &Value) -> Seen {
    r.populated(made, |r, a, b| r.pings(a, b))
}

/// Can a router leave by it, and what arrives there?
pub(crate) fn way_out(r: &mut Region, made: &Value) -> Seen {
    let inside = r.net(3);
    let a = r.nic(&inside, 0, 11);
    let router = r.router(&[&inside]);
    let seen = r.populated(made, |r, _, out| {
        let way = json!({"router": {"external_gateway_info": {"network_id": id(made)}}});
        let path = format!("/v2.0/routers/{router}");
        let (status, _) = r.call("admin", "PUT", &path, &way);
        let mut seen = vec![format!("gateway: {status}")];
        let got = r.sees(&a, out.v4.into(), Sent::Ping);
        // The gateway's address is as chance has it.
        seen.push(format!(
            "frames that arrive: {}",
            got.iter().filter(|line| line.starts_with("b: ")).count()
        ));
        r.set("router", &router, &json!({"external_gateway_info": null}));
        seen
    });
    for subnet in [&inside.v4, &inside.v6] {
        r.leave(&router, subnet);
    }
    r.remove("router", &router);
    r.remove("port", &a.id);
    r.remove("network", &inside.id);
    seen
}

pub(crate) const TABLE: &[Entry] = &[
    entry("network.admin_state_up", |r| {
        between(r, ("admin_state_up", json!(false)), |r, a, b| r.pings(a, b));
    }),
    entry("network.mtu", |r| {
        between(r, ("mtu", json!(1300)), |r, a, b| {
            let mut seen = r.sees(a, b.v4.into(), Sent::Long(1350));
            seen.extend(r.sees(a, b.v6.into(), Sent::Long(1350)));
            seen.extend(r.dhcp(a));
            seen
        });
    }),
    entry("network.shared", |r| {
        let base = json!({"name": "n"});
        r.both(("network", &base), ("shared", &json!(true)), |r, made| {
            let port = json!({"port": {"network_id": id(made)}});
            let (status, answer) = r.call(A.0, "POST", "/v2.0/ports", &port);
            if status == 201 {
                r.remove("port", id(&answer["port"]));
            }
            vec![format!("another project's port: {status}")]
        });
    }),
    entry("network.port_security_enabled", |r| {
        let base = json!({"name": "n"});
        r.both(
            ("network", &base),
            ("port_security_enabled", &json!(false)),
            |r, made| {
                r.populated(made, |r, a, _| {
                    r.plainly(id(made), |r, plain| {
                        let spoofed = plain.at("10.0.0.77").at("fd00::77");
                        r.pings(&spoofed, a)
                    })
                })
            },
        );
    }),
    entry("network.qos_policy_id", |r| {
        let policy = marking(r);
        between(r, ("qos_policy_id", json!(policy)), |r, a, b| r.pings(a, b));
    }),
    entry("network.dns_domain", |r| {
        between(r, ("dns_domain", json!("blue.example.")), |r, a, b| {
            r.set("port", &b.id, &json!({"dns_name": "web"}));
            let mut seen = r.looked_up(a, "web.blue.example");
            seen.extend(r.dhcp(a));
            seen.extend(r.dhcp6(a));
            seen
        });
    }),
    entry("network.router:external", |r| {
        let base = json!({"name": "n"});
        r.both(
            ("network", &base),
            ("router:external", &json!(true)),
            way_out,
        );
    }),
    entry("network.is_default", |r| {
        let pool = json!({"name": "p", "prefixes": ["10.61.0.0/16"], "is_default": true, "default_prefixlen": 24});
        r.make("subnetpool", &pool);
        let base = json!({"name": "n", "router:external": true});
        r.both(
            ("network", &base),
            ("is_default", &json!(true)),
            |r, made| {
                let subnet = r.subnet_of(id(made), 8, 4, &json!({}));
                let path = "/v2.0/auto-allocated-topology/None";
                let (status, _) = r.call(A.0, "GET", path, &Value::Null);
                r.call(A.0, "DELETE", path, &Value::Null);
                r.remove("subnet", &subnet);
                vec![format!("topology: {status}")]
            },
        );
    }),
    entry("network.provider:network_type", |r| {
        let base = json!({"name": "n", "provider:physical_network": "physnet1", "provider:network_type": "vlan"});
        let flat = json!("flat");
        r.by_create(
            ("network", &base),
            ("provider:network_type", &flat),
            on_wires,
        );
    }),
    entry("network.provider:physical_network", |r| {
        let base = json!({
            "name": "n", "provider:network_type": "vlan", "provider:physical_network": "physnet1",
            "provider:segmentation_id": 100,
        });
        let other = json!("physnet2");
        r.by_create(
            ("network", &base),
            ("provider:physical_network", &other),
            on_wires,
        );
    }),
    entry("network.provider:segmentation_id", |r| {
        let base = json!({
            "name": "n", "provider:network_type": "vlan", "provider:physical_network": "physnet1",
            "provider:segmentation_id": 100,
        });
        r.both(
            ("network", &base),
            ("provider:segmentation_id", &json!(101)),
            on_wires,
        );
        // Of a network in the fabric it is the VNI: nobody else gets it.
        let base = with(
            &json!({"name": "n"}),
            &json!({"provider:network_type": "vxlan"}),
        );
        r.by_create(("network", &base), ("provider:segmentation_id", &json!(7777)), |r, _| {
            let other = json!({"network": {"name": "o", "provider:segmentation_id": 7777, "provider:network_type": "vxlan"}});
            let (status, answer) = r.call("admin", "POST", "/v2.0/networks", &other);
            if status == 201 {
                r.remove("network", id(&answer["network"]));
            }
            vec![format!("another with it: {status}")]
        });
    }),
];
