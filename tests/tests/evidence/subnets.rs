//! What does each attribute of a subnet change?

use serde_json::{Value, json};
use tests::evidence::{Entry, Region, Seen, entry, id, with};

/// A network alone, and what a subnet of it is made with.
fn bare(r: &mut Region, version: u8) -> (String, Value) {
    let network = r.make("network", &json!({"name": "n"}));
    let cidr = if version == 4 {
        "10.0.0.0/24"
    } else {
        "fd00::/64"
    };
    let base = json!({"network_id": id(&network), "ip_version": version, "cidr": cidr});
    (id(&network).to_owned(), base)
}

/// An attribute of which DHCP tells.
fn told(r: &mut Region, attribute: &str, value: &Value) {
    let (network, base) = bare(r, 4);
    r.both(("subnet", &base), (attribute, value), |r, _| {
        r.plainly(&network, |r, nic| r.dhcp(nic))
    });
}

/// What a router says on a subnet of IPv6, and what DHCPv6 does there.
fn advertised(r: &mut Region, made: &Value, network: &str) -> Seen {
    let router = r.make("router", &json!({"name": "r"}));
    r.join(id(&router), id(made));
    let seen = r.plainly(network, |r, nic| {
        let mut seen = vec![format!("address {}", nic.v6)];
        seen.extend(r.advertised(nic));
        seen.extend(r.dhcp6(nic));
        seen
    });
    r.leave(id(&router), id(made));
    r.remove("router", id(&router));
    seen
}

/// What a pool of a single block gives to another when somebody has asked for it.
fn left(r: &mut Region, pool: &str) -> Seen {
    let network = r.make("network", &json!({"name": "o"}));
    let ask = json!({"subnet": {"network_id": id(&network), "ip_version": 4, "subnetpool_id": pool, "prefixlen": 24}});
    let (status, _) = r.call("admin", "POST", "/v2.0/subnets", &ask);
    r.remove("network", id(&network));
    vec![format!("another of the pool: {status}")]
}

pub(crate) const TABLE: &[Entry] = &[
    entry("subnet.network_id", |r| {
        let (network, base) = bare(r, 4);
        let (other, _) = bare(r, 4);
        r.by_create(("subnet", &base), ("network_id", &json!(other)), |r, _| {
            r.plainly(&network, |r, nic| r.dhcp(nic))
        });
    }),
    entry("subnet.ip_version", |r| {
        let (network, _) = bare(r, 4);
        let look = move |r: &mut Region, version: u8| {
            let subnet = r.subnet_of(&network, 0, version, &json!({}));
            let seen = r.plainly(&network, |r, nic| {
                let mut seen = r.dhcp(nic);
                seen.push(format!("{} {}", nic.v4, nic.v6.is_unspecified()));
                seen
            });
            r.remove("subnet", &subnet);
            seen
        };
        r.differs(|r| look(r, 4), |r| look(r, 6));
    }),
    entry("subnet.cidr", |r| {
        let (network, base) = bare(r, 4);
        r.by_create(
            ("subnet", &base),
            ("cidr", &json!("10.5.0.0/26")),
            |r, _| r.plainly(&network, |r, nic| r.dhcp(nic)),
        );
    }),
    entry("subnet.gateway_ip", |r| {
        let (network, base) = bare(r, 4);
        let pools = json!({"allocation_pools": [{"start": "10.0.0.10", "end": "10.0.0.99"}]});
        let other = json!("10.0.0.254");
        r.both(
            ("subnet", &with(&base, &pools)),
            ("gateway_ip", &other),
            |r, _| r.plainly(&network, |r, nic| r.dhcp(nic)),
        );
    }),
    entry("subnet.enable_dhcp", |r| {
        told(r, "enable_dhcp", &json!(false))
    }),
    entry("subnet.allocation_pools", |r| {
        told(
            r,
            "allocation_pools",
            &json!([{"start": "10.0.0.100", "end": "10.0.0.110"}]),
        );
    }),
    entry("subnet.dns_nameservers", |r| {
        told(r, "dns_nameservers", &json!(["9.9.9.9"]))
    }),
    entry("subnet.host_routes", |r| {
        let routes = json!([{"destination": "172.16.0.0/12", "nexthop": "10.0.0.9"}]);
        told(r, "host_routes", &routes);
    }),
    entry("subnet.ipv6_ra_mode", |r| {
        let (network, base) = bare(r, 6);
        let base = with(&base, &json!({"ipv6_address_mode": null}));
        r.by_create(
            ("subnet", &base),
            ("ipv6_ra_mode", &json!("dhcpv6-stateful")),
            |r, made| advertised(r, made, &network),
        );
    }),
    entry("subnet.ipv6_address_mode", |r| {
        let (network, base) = bare(r, 6);
        for mode in ["slaac", "dhcpv6-stateless", "dhcpv6-stateful"] {
            // A subnet whose routers are others' can't join one of ours.
            r.by_create(
                ("subnet", &base),
                ("ipv6_address_mode", &json!(mode)),
                |r, _| {
                    r.plainly(&network, |r, nic| {
                        let mut seen = vec![format!("address {}", nic.v6)];
                        seen.extend(r.dhcp6(nic));
                        seen
                    })
                },
            );
        }
    }),
    entry("subnet.service_types", |r| {
        let (network, base) = bare(r, 4);
        r.both(
            ("subnet", &base),
            ("service_types", &json!(["compute:x"])),
            |r, _| {
                let plain = json!({"port": {"network_id": network}});
                let (status, answer) = r.call("admin", "POST", "/v2.0/ports", &plain);
                if status == 201 {
                    r.remove("port", id(&answer["port"]));
                }
                vec![format!("a port of another kind: {status}")]
            },
        );
    }),
    entry("subnet.subnetpool_id", |r| {
        let pool = r.make(
            "subnetpool",
            &json!({"name": "p", "prefixes": ["10.0.0.0/24"]}),
        );
        let (_, base) = bare(r, 4);
        r.by_create(
            ("subnet", &base),
            ("subnetpool_id", &json!(id(&pool))),
            |r, _| left(r, id(&pool)),
        );
    }),
    entry("subnet.prefixlen", |r| {
        let pool = r.make(
            "subnetpool",
            &json!({"name": "p", "prefixes": ["10.0.0.0/24"], "default_prefixlen": 26}),
        );
        let (network, _) = bare(r, 4);
        let base = json!({"network_id": network, "ip_version": 4, "subnetpool_id": id(&pool)});
        r.by_create(("subnet", &base), ("prefixlen", &json!(27)), |r, _| {
            r.plainly(&network, |r, nic| r.dhcp(nic))
        });
    }),
    entry("subnet.use_default_subnetpool", |r| {
        let pool = json!({"name": "p", "prefixes": ["10.0.0.0/24"], "is_default": true});
        let pool = r.make("subnetpool", &pool);
        let (_, base) = bare(r, 4);
        r.by_create(
            ("subnet", &base),
            ("use_default_subnetpool", &json!(true)),
            |r, _| left(r, id(&pool)),
        );
    }),
];
