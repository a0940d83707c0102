//! What does each alias of the list of extensions promise, and is it so?
//!
//! Most have attributes of their own: their entries are theirs. What is here are the words of queries, of paths and of refusals.

use serde_json::{Value, json};
use tests::evidence::{A, ADMIN, Region, Seen, id};

/// What shows that an alias is true.
pub(crate) enum Proof {
    /// The entries of these attributes, and that nothing of it is anywhere else.
    Attributes(&'static [&'static str]),
    /// This.
    Shown(fn(&mut Region)),
    /// A view, whose truth is asserted; nothing can be undone about it.
    Kept(&'static [&'static str]),
}

use Proof::{Attributes, Kept, Shown};

fn status(r: &mut Region, token: &str, method: &str, path: &str, body: &Value) -> Seen {
    let (status, answer) = r.call(token, method, path, body);
    vec![format!("{status} {}", answer["NeutronError"]["type"])]
}

/// Three networks, in no order of their names.
fn some(r: &mut Region) {
    for name in ["nb", "na", "nc"] {
        r.make("network", &json!({"name": name, "description": "of some"}));
    }
}

fn listed(r: &mut Region, query: &str) -> Seen {
    r.listed(ADMIN.0, &format!("networks?description=of+some{query}"))
}

fn rule_by_alias(r: &mut Region, kind: &str, rule: &Value) {
    let policy = r.make("policy", &json!({"name": "q"}));
    let path = format!("/v2.0/qos/policies/{}/{kind}s", id(&policy));
    let made = r.ok("POST", &path, &json!({kind: rule}));
    let one = format!("/v2.0/qos/alias_{kind}s/{}", id(&made[kind]));
    let look = |r: &mut Region, one: &str| {
        let (status, _) = r.call(ADMIN.0, "GET", one, &Value::Null);
        vec![format!("{status}")]
    };
    r.differs(
        |r| {
            r.call(ADMIN.0, "DELETE", &one, &Value::Null);
            let made = r.ok("POST", &path, &json!({kind: rule}));
            let one = format!("/v2.0/qos/alias_{kind}s/{}", id(&made[kind]));
            let seen = look(r, &one);
            r.ok("DELETE", &one, &Value::Null);
            seen
        },
        |r| look(r, &one),
    );
}

/// Does a grant let another project see an object of this kind?
fn granted(r: &mut Region, object: &str, kind: &str, body: &Value) {
    let made = r.make(kind, body);
    let path = format!("/v2.0/{}/{}", tests::evidence::spec(kind).path, id(&made));
    let look = |r: &mut Region| {
        let (status, _) = r.call(A.0, "GET", &path, &Value::Null);
        vec![format!("seen by another: {status}")]
    };
    let grant = json!({
        "object_type": object, "object_id": id(&made), "action": "access_as_shared", "target_tenant": A.1,
    });
    r.differs(look, |r| {
        let grant = r.make("rbac_policy", &grant);
        let seen = look(r);
        r.remove("rbac_policy", id(&grant));
        seen
    });
}

/// The list changes with what there is.
fn follows(r: &mut Region, path: &str, make: impl Fn(&mut Region) -> (&'static str, String)) {
    let look = |r: &mut Region| {
        let answer = r.read(ADMIN.0, path);
        let mut lists = answer.as_object().unwrap().values();
        vec![format!(
            "{} rows",
            lists.find_map(Value::as_array).unwrap().len()
        )]
    };
    r.differs(look, |r| {
        let (kind, made) = make(r);
        let seen = look(r);
        r.remove(kind, &made);
        seen
    });
}

pub(crate) const TABLE: &[(&str, Proof)] = &[
    (
        "address-scope",
        Attributes(&["subnetpool.address_scope_id"]),
    ),
    (
        "dhcp_agent_scheduler",
        Shown(|r| {
            let net = r.net(0);
            let path = format!("networks/{}/dhcp-agents", net.id);
            let look = |r: &mut Region| {
                vec![
                    r.read(ADMIN.0, &path)["agents"]
                        .as_array()
                        .unwrap()
                        .len()
                        .to_string(),
                ]
            };
            r.differs(look, |r| {
                let nic = r.nic(&net, 0, 11);
                let seen = look(r);
                r.remove("port", &nic.id);
                seen
            });
        }),
    ),
    (
        "l3_agent_scheduler",
        Shown(|r| {
            let net = r.net(0);
            let router = r.router(&[&net]);
            let path = format!("routers/{router}/l3-agents");
            let look = |r: &mut Region| {
                vec![
                    r.read(ADMIN.0, &path)["agents"]
                        .as_array()
                        .unwrap()
                        .len()
                        .to_string(),
                ]
            };
            r.differs(look, |r| {
                let nic = r.nic(&net, 0, 11);
                let seen = look(r);
                r.remove("port", &nic.id);
                seen
            });
        }),
    ),
    ("dvr", Kept(&["router.distributed"])),
    ("l3-ha", Kept(&["router.ha"])),
    (
        "default-subnetpools",
        Attributes(&["subnet.use_default_subnetpool", "subnetpool.is_default"]),
    ),
    (
        "subnet_allocation",
        Attributes(&[
            "subnet.subnetpool_id",
            "subnet.prefixlen",
            "subnetpool.prefixes",
        ]),
    ),
    (
        "subnetpool-prefix-ops",
        Attributes(&["add_prefixes.prefixes", "remove_prefixes.prefixes"]),
    ),
    (
        "rbac-address-scope",
        Shown(|r| {
            granted(
                r,
                "address_scope",
                "address_scope",
                &json!({"name": "s", "ip_version": 4}),
            );
        }),
    ),
    (
        "rbac-subnetpool",
        Shown(|r| {
            granted(
                r,
                "subnetpool",
                "subnetpool",
                &json!({"name": "p", "prefixes": ["10.60.0.0/16"]}),
            );
        }),
    ),
    (
        "address-group",
        Attributes(&[
            "address_group.addresses",
            "add_addresses.addresses",
            "remove_addresses.addresses",
        ]),
    ),
    (
        "agent",
        Shown(|r| {
            follows(r, "agents", |r| {
                let host = r.make("host", &json!({"name": "h9"}));
                ("host", id(&host).to_owned())
            })
        }),
    ),
    (
        "agent_sort_key",
        Shown(|r| {
            let hosts = |r: &mut Region, query: &str| -> Seen {
                let answer = r.read(ADMIN.0, &format!("agents?sort_key=host&sort_dir={query}"));
                answer["agents"]
                    .as_array()
                    .unwrap()
                    .iter()
                    .map(|agent| agent["host"].to_string())
                    .collect()
            };
            r.differs(|r| hosts(r, "asc"), |r| hosts(r, "desc"));
        }),
    ),
    (
        "allowed-address-pairs",
        Attributes(&["port.allowed_address_pairs"]),
    ),
    (
        "aap-reject-multicast",
        Shown(|r| {
            let net = r.net(0);
            let nic = r.nic(&net, 0, 11);
            let path = format!("/v2.0/ports/{}", nic.id);
            let ask = |r: &mut Region, addr: &str| {
                let pairs = json!({"port": {"allowed_address_pairs": [{"ip_address": addr}]}});
                status(r, ADMIN.0, "PUT", &path, &pairs)
            };
            r.differs(|r| ask(r, "10.0.0.77"), |r| ask(r, "224.0.0.5"));
        }),
    ),
    (
        "auto-allocated-topology",
        Attributes(&["network.is_default"]),
    ),
    ("binding", Attributes(&["port.binding:host_id"])),
    (
        "binding-extended",
        Attributes(&["binding.host", "binding.vnic_type"]),
    ),
    (
        "empty-string-filtering",
        Shown(|r| {
            r.make("network", &json!({"name": "", "description": "of some"}));
            some(r);
            r.differs(|r| listed(r, "&name="), |r| listed(r, ""));
        }),
    ),
    (
        "availability_zone",
        Shown(|r| {
            // A host that said nothing yet is in a zone of its own here.
            follows(r, "availability_zones", |r| {
                let host = r.make("host", &json!({"name": "h9"}));
                ("host", id(&host).to_owned())
            })
        }),
    ),
    (
        "availability_zone_filter",
        Shown(|r| {
            let of = |r: &mut Region, query: &str| {
                r.listed(ADMIN.0, &format!("availability_zones{query}"))
            };
            r.differs(
                |r| of(r, ""),
                |r| {
                    of(
                        r,
                        &format!("?name={}&resource=router", tests::evidence::ZONES[1]),
                    )
                },
            );
        }),
    ),
    (
        "network_availability_zone",
        Shown(|r| {
            let net = r.net(0);
            r.nic(&net, 0, 11);
            let look = |r: &mut Region| vec![r.shown("network", &net.id, "availability_zones")];
            r.differs(look, |r| {
                let nic = r.nic(&net, 1, 12);
                let seen = look(r);
                r.remove("port", &nic.id);
                seen
            });
        }),
    ),
    (
        "router_availability_zone",
        Attributes(&["router.availability_zone_hints"]),
    ),
    ("dns-domain-ports", Attributes(&["port.dns_domain"])),
    (
        "dns-integration",
        Attributes(&[
            "port.dns_name",
            "network.dns_domain",
            "floatingip.dns_name",
            "floatingip.dns_domain",
        ]),
    ),
    (
        "external-net",
        Attributes(&["network.router:external", "network.is_default"]),
    ),
    (
        "ext-gw-mode",
        Shown(|r| {
            let (router, a, outside, out) = crate::routers::gated(r);
            let look = |r: &mut Region| {
                let got = r.sees(&a, out.v4.into(), tests::evidence::Sent::Ping);
                vec![format!(
                    "by its own address: {}",
                    got.iter().any(|line| line.contains("10.0.0.11"))
                )]
            };
            let way = |on: bool| json!({"external_gateway_info": {"network_id": outside.id, "enable_snat": on}});
            r.differs(
                |r| {
                    r.set("router", &router, &way(true));
                    look(r)
                },
                |r| {
                    r.set("router", &router, &way(false));
                    look(r)
                },
            );
        }),
    ),
    ("extraroute", Attributes(&["router.routes"])),
    (
        "extraroute-atomic",
        Attributes(&["add_extraroutes.routes", "remove_extraroutes.routes"]),
    ),
    (
        "expose-port-forwarding-in-fip",
        Shown(|r| forwardings_shown(r, "protocol")),
    ),
    ("extra_dhcp_opt", Attributes(&["port.extra_dhcp_opts"])),
    (
        "fip-port-details",
        Shown(|r| {
            let (_, a, outside, _) = crate::routers::gated(r);
            let base = json!({"floating_network_id": outside.id});
            r.both(
                ("floatingip", &base),
                ("port_id", &json!(a.id)),
                |r, made| {
                    let shown = r.show("floatingip", id(made));
                    vec![format!("whose: {}", shown["port_details"]["name"])]
                },
            );
        }),
    ),
    (
        "floating-ip-port-forwarding",
        Attributes(&[
            "port_forwarding.external_port",
            "port_forwarding.internal_port",
            "port_forwarding.protocol",
        ]),
    ),
    (
        "floating-ip-port-forwarding-description",
        Attributes(&["port_forwarding.description"]),
    ),
    (
        "floating-ip-port-forwarding-detail",
        Shown(|r| forwardings_shown(r, "internal_port_id")),
    ),
    (
        "floating-ip-port-forwarding-port-ranges",
        Attributes(&[
            "port_forwarding.external_port_range",
            "port_forwarding.internal_port_range",
        ]),
    ),
    (
        "floatingip-pools",
        Shown(|r| {
            let base = json!({"name": "n"});
            r.both(
                ("network", &base),
                ("router:external", &json!(true)),
                |r, made| {
                    let subnet = r.subnet_of(id(made), 8, 4, &json!({}));
                    let pools = r.read(ADMIN.0, "floatingip_pools");
                    r.remove("subnet", &subnet);
                    vec![format!(
                        "{} pools",
                        pools["floatingip_pools"].as_array().unwrap().len()
                    )]
                },
            );
        }),
    ),
    (
        "fwaas_v2",
        Attributes(&[
            "firewall_rule.action",
            "firewall_policy.firewall_rules",
            "firewall_group.ports",
        ]),
    ),
    ("flow_classifier", Attributes(&["flow_classifier.protocol"])),
    (
        "ip-substring-filtering",
        Shown(|r| {
            let net = r.net(0);
            r.nic(&net, 0, 11);
            r.nic(&net, 0, 12);
            let by = |r: &mut Region, part: &str| {
                r.names(
                    ADMIN.0,
                    &format!("ports?fixed_ips=ip_address_substr%3D{part}"),
                )
            };
            r.differs(|r| by(r, "10.0.0.1"), |r| by(r, "0.11"));
        }),
    ),
    (
        "l3-port-ip-change-not-allowed",
        Shown(|r| {
            let net = r.net(0);
            let nic = r.nic(&net, 0, 11);
            let router = r.router(&[&net]);
            let found = r.read(ADMIN.0, &format!("ports?device_id={router}"));
            let own = id(&found["ports"][0]).to_owned();
            let ask = |r: &mut Region, port: &str| {
                let addrs = json!({"port": {"fixed_ips": [{"subnet_id": net.v4, "ip_address": "10.0.0.88"}]}});
                status(r, ADMIN.0, "PUT", &format!("/v2.0/ports/{port}"), &addrs)
            };
            r.differs(|r| ask(r, &nic.id), |r| ask(r, &own));
        }),
    ),
    (
        "l2_adjacency",
        Shown(|r| {
            let (net, a, b) = r.pair();
            assert_eq!(r.shown("network", &net.id, "l2_adjacency"), "true");
            r.by_update(("port", &b.id), ("admin_state_up", &json!(false)), |r| {
                r.pings(&a, &b)
            });
        }),
    ),
    (
        "metering",
        Attributes(&["metering_label_rule.direction", "metering_label.shared"]),
    ),
    (
        "metering_source_and_destination_fields",
        Attributes(&[
            "metering_label_rule.source_ip_prefix",
            "metering_label_rule.destination_ip_prefix",
        ]),
    ),
    (
        "network-ip-availability",
        Shown(|r| {
            let net = r.net(0);
            let look = |r: &mut Region| {
                let answer = r.read(ADMIN.0, &format!("network-ip-availabilities/{}", net.id));
                vec![format!(
                    "used {}",
                    answer["network_ip_availability"]["used_ips"]
                )]
            };
            r.differs(look, |r| {
                let nic = r.nic(&net, 0, 11);
                let seen = look(r);
                r.remove("port", &nic.id);
                seen
            });
        }),
    ),
    ("net-mtu", Attributes(&["network.mtu"])),
    ("net-mtu-writable", Attributes(&["network.mtu"])),
    (
        "overweave-hosts",
        Attributes(&[
            "host.vtep",
            "host.capacity",
            "host.admin_state_up",
            "host.new_token",
        ]),
    ),
    (
        "overweave-network-function",
        Attributes(&["port_pair_group.network_function"]),
    ),
    (
        "pagination",
        Shown(|r| {
            some(r);
            let all = r.read(
                ADMIN.0,
                "networks?description=of+some&sort_key=name&sort_dir=asc",
            );
            let second = id(&all["networks"][1]).to_owned();
            r.differs(
                |r| listed(r, "&sort_key=name&sort_dir=asc"),
                |r| {
                    listed(
                        r,
                        &format!("&sort_key=name&sort_dir=asc&limit=1&marker={second}"),
                    )
                },
            );
            let page = r.read(
                ADMIN.0,
                &format!(
                    "networks?description=of+some&sort_key=name&sort_dir=asc&limit=1&marker={}",
                    id(&all["networks"][0])
                ),
            );
            let links = page["networks_links"].as_array().unwrap();
            assert_eq!(links.len(), 2, "both ways: {links:?}");
        }),
    ),
    (
        "port-security",
        Attributes(&[
            "port.port_security_enabled",
            "network.port_security_enabled",
        ]),
    ),
    (
        "port-security-groups-filtering",
        Shown(|r| {
            let (net, _, _) = r.pair();
            let open = r.open();
            let by = |r: &mut Region| {
                r.names(
                    ADMIN.0,
                    &format!("ports?network_id={}&security_groups={open}", net.id),
                )
            };
            r.differs(by, |r| {
                let more = r.nic(&net, 2, 13);
                let seen = by(r);
                r.remove("port", &more.id);
                seen
            });
        }),
    ),
    (
        "project-id",
        Shown(|r| {
            some(r);
            r.make(
                "network",
                &json!({"name": "theirs", "description": "of some", "tenant_id": A.1}),
            );
            let by =
                |r: &mut Region, name: &str, whose: &str| listed(r, &format!("&{name}={whose}"));
            assert_eq!(by(r, "tenant_id", A.1), by(r, "project_id", A.1));
            r.differs(
                |r| by(r, "project_id", A.1),
                |r| by(r, "project_id", ADMIN.1),
            );
        }),
    ),
    (
        "provider",
        Attributes(&[
            "network.provider:network_type",
            "network.provider:physical_network",
            "network.provider:segmentation_id",
        ]),
    ),
    (
        "qos",
        Attributes(&[
            "port.qos_policy_id",
            "network.qos_policy_id",
            "bandwidth_limit_rule.max_kbps",
            "dscp_marking_rule.dscp_mark",
        ]),
    ),
    (
        "qos-bw-limit-direction",
        Attributes(&["bandwidth_limit_rule.direction"]),
    ),
    (
        "qos-bw-minimum-ingress",
        Attributes(&["minimum_bandwidth_rule.direction"]),
    ),
    (
        "qos-pps-minimum",
        Attributes(&["minimum_packet_rate_rule.min_kpps"]),
    ),
    (
        "qos-pps-minimum-rule-alias",
        Shown(|r| rule_by_alias(r, "minimum_packet_rate_rule", &json!({"min_kpps": 1}))),
    ),
    ("qos-fip", Attributes(&["floatingip.qos_policy_id"])),
    (
        "qos-fip-network-policy",
        Shown(|r| {
            let (_, a, outside, out) = crate::routers::gated(r);
            let policy = crate::limits::tight(r);
            let ip = json!({
                "floating_network_id": outside.id, "floating_ip_address": "10.0.9.200",
                "port_id": a.id,
            });
            let ip = r.make("floatingip", &ip);
            r.by_update(("network", &outside.id), ("qos_policy_id", &policy), |r| {
                let mut seen = crate::limits::across(r, &a, &out, "10.0.9.200");
                let shown = r.show("floatingip", id(&ip));
                assert_eq!(shown["qos_policy_id"], Value::Null);
                seen.push(shown["qos_network_policy_id"].to_string());
                seen
            });
        }),
    ),
    (
        "qos-gateway-ip",
        Shown(|r| {
            let (router, a, outside, out) = crate::routers::gated(r);
            let policy = crate::limits::tight(r);
            let look = |r: &mut Region, policy: &Value| {
                let way = json!({"network_id": outside.id, "qos_policy_id": policy});
                r.set("router", &router, &json!({"external_gateway_info": way}));
                r.floods(&a, out.v4.into(), (100, 1000))
            };
            r.differs(|r| look(r, &Value::Null), |r| look(r, &policy));
        }),
    ),
    ("qos-default", Attributes(&["policy.is_default"])),
    (
        "qos-port-network-policy",
        Shown(|r| {
            let policy = r.make("policy", &json!({"name": "q"}));
            let net = r.net(0);
            let nic = r.nic(&net, 0, 11);
            let of = json!(id(&policy));
            r.by_update(("network", &net.id), ("qos_policy_id", &of), |r| {
                vec![r.shown("port", &nic.id, "qos_network_policy_id")]
            });
        }),
    ),
    ("qos-pps", Attributes(&["packet_rate_limit_rule.max_kpps"])),
    (
        "qos-rule-type-details",
        Shown(|r| {
            let of = |r: &mut Region, kind: &str| {
                vec![
                    r.read(ADMIN.0, &format!("qos/rule-types/{kind}"))["rule_type"]["drivers"]
                        .to_string(),
                ]
            };
            r.differs(|r| of(r, "bandwidth_limit"), |r| of(r, "dscp_marking"));
        }),
    ),
    (
        "qos-rule-type-filter",
        Shown(|r| {
            let of = |r: &mut Region, query: &str| {
                let answer = r.read(ADMIN.0, &format!("qos/rule-types?{query}"));
                vec![format!(
                    "{} kinds",
                    answer["rule_types"].as_array().unwrap().len()
                )]
            };
            assert_eq!(of(r, "all_rules=true"), of(r, "all_supported=true"));
            r.differs(|r| of(r, "all_rules=true"), |r| of(r, "type=dscp_marking"));
        }),
    ),
    (
        "qos-rules-alias",
        Shown(|r| {
            rule_by_alias(r, "bandwidth_limit_rule", &json!({"max_kbps": 1000}));
            rule_by_alias(r, "dscp_marking_rule", &json!({"dscp_mark": 10}));
            rule_by_alias(r, "minimum_bandwidth_rule", &json!({"min_kbps": 1}));
        }),
    ),
    (
        "quotas",
        Shown(|r| limited(r, &json!({"network": 0}), &json!({"network": 100}))),
    ),
    ("quota-check-limit", Shown(too_low)),
    ("quota-check-limit-default", Shown(too_low)),
    (
        "quota_details",
        Shown(|r| {
            let look = |r: &mut Region| {
                let answer = r.read(ADMIN.0, &format!("quotas/{}/details", ADMIN.1));
                vec![answer["quota"]["network"]["used"].to_string()]
            };
            r.differs(look, |r| {
                let net = r.make("network", &json!({"name": "n"}));
                let seen = look(r);
                r.remove("network", id(&net));
                seen
            });
        }),
    ),
    (
        "rbac-address-group",
        Shown(|r| granted(r, "address_group", "address_group", &json!({"name": "g"}))),
    ),
    (
        "rbac-policies",
        Shown(|r| granted(r, "network", "network", &json!({"name": "n"}))),
    ),
    (
        "rbac-security-groups",
        Shown(|r| granted(r, "security_group", "security_group", &json!({"name": "g"}))),
    ),
    (
        "revision-if-match",
        Shown(|r| {
            let net = r.make("network", &json!({"name": "n"}));
            let path = format!("/v2.0/networks/{}", id(&net));
            let ask = |r: &mut Region, behind: i64| {
                let revision = r.show("network", id(&net))["revision_number"]
                    .as_i64()
                    .unwrap()
                    - behind;
                let wanted = format!("revision_number={revision}");
                let body = json!({"network": {"name": "m"}});
                let (status, _, _) =
                    r.request(ADMIN.0, ("PUT", &path), &[("if-match", &wanted)], &body);
                vec![format!("{status}")]
            };
            r.differs(|r| ask(r, 0), |r| ask(r, 1));
        }),
    ),
    (
        "router",
        Attributes(&[
            "router.admin_state_up",
            "router.external_gateway_info",
            "floatingip.port_id",
            "add_router_interface.subnet_id",
        ]),
    ),
    (
        "router-admin-state-down-before-update",
        Shown(|r| {
            let router = r.make("router", &json!({"name": "r"}));
            let path = format!("/v2.0/routers/{}", id(&router));
            let ask = |r: &mut Region, up: bool| {
                r.set("router", id(&router), &json!({"admin_state_up": up}));
                let now = r.show("router", id(&router))["distributed"]
                    .as_bool()
                    .unwrap();
                status(
                    r,
                    ADMIN.0,
                    "PUT",
                    &path,
                    &json!({"router": {"distributed": !now}}),
                )
            };
            r.differs(|r| ask(r, false), |r| ask(r, true));
        }),
    ),
    (
        "security-group",
        Attributes(&[
            "port.security_groups",
            "security_group_rule.direction",
            "security_group_rule.remote_group_id",
        ]),
    ),
    (
        "security-groups-normalized-cidr",
        Shown(|r| {
            let group = r.make("security_group", &json!({"name": "g"}));
            let base = json!({"security_group_id": id(&group), "direction": "ingress"});
            let prefix = json!("10.9.8.7/16");
            r.by_create(
                ("security_group_rule", &base),
                ("remote_ip_prefix", &prefix),
                |_, made| vec![made["normalized_cidr"].to_string()],
            );
        }),
    ),
    (
        "security-groups-rules-belongs-to-default-sg",
        Shown(|r| {
            let group = r.make("security_group", &json!({"name": "g"}));
            let found = r.read(ADMIN.0, "security-groups?name=default");
            let default = id(&found["security_groups"][0]).to_owned();
            let base =
                json!({"security_group_id": id(&group), "direction": "ingress", "protocol": "tcp"});
            let other = json!(default);
            r.by_create(
                ("security_group_rule", &base),
                ("security_group_id", &other),
                |_, made| vec![made["belongs_to_default_sg"].to_string()],
            );
        }),
    ),
    (
        "security-groups-remote-address-group",
        Attributes(&["security_group_rule.remote_address_group_id"]),
    ),
    (
        "subnet-service-types",
        Attributes(&["subnet.service_types"]),
    ),
    ("service-type", Kept(&[])),
    (
        "networking-sfc-tap",
        Attributes(&["port_pair_group.tap_enabled"]),
    ),
    ("service_graph", Attributes(&["service_graph.port_chains"])),
    (
        "sfc",
        Attributes(&["port_chain.port_pair_groups", "port_chain.flow_classifiers"]),
    ),
    (
        "sorting",
        Shown(|r| {
            some(r);
            r.differs(
                |r| listed(r, "&sort_key=name&sort_dir=asc"),
                |r| listed(r, "&sort_key=name&sort_dir=desc"),
            );
        }),
    ),
    (
        "standard-attr-description",
        Shown(|r| {
            some(r);
            r.differs(
                |r| listed(r, ""),
                |r| r.listed(ADMIN.0, "networks?description=of+none"),
            );
        }),
    ),
    (
        "standard-attr-revisions",
        Shown(|r| {
            let net = r.make("network", &json!({"name": "n"}));
            let grows = |r: &mut Region, body: &Value| {
                let number = |r: &mut Region| {
                    r.show("network", id(&net))["revision_number"]
                        .as_i64()
                        .unwrap()
                };
                let before = number(r);
                r.set("network", id(&net), body);
                vec![format!("grows: {}", number(r) > before)]
            };
            let mut name = 0;
            r.differs(
                |r| grows(r, &json!({})),
                |r| {
                    name += 1;
                    grows(r, &json!({"name": format!("m{name}")}))
                },
            );
        }),
    ),
    (
        "standard-attr-tag",
        Shown(|r| {
            let net = r.make("network", &json!({"name": "n", "description": "of some"}));
            let path = format!("/v2.0/networks/{}/tags/red", id(&net));
            r.differs(
                |r| listed(r, "&tags=red"),
                |r| {
                    r.ok("PUT", &path, &Value::Null);
                    let seen = listed(r, "&tags=red");
                    r.ok("DELETE", &path, &Value::Null);
                    seen
                },
            );
        }),
    ),
    (
        "standard-attr-timestamp",
        Shown(|r| {
            some(r);
            r.differs(
                |r| listed(r, "&sort_key=name&sort_dir=asc"),
                |r| {
                    listed(
                        r,
                        "&sort_key=name&sort_dir=asc&changed_since=2099-01-01T00:00:00",
                    )
                },
            );
        }),
    ),
    (
        "stateful-security-group",
        Attributes(&["security_group.stateful"]),
    ),
    (
        "subnet-external-network",
        Shown(|r| {
            let base = json!({"name": "n"});
            r.both(
                ("network", &base),
                ("router:external", &json!(true)),
                |r, made| {
                    let subnet = r.subnet_of(id(made), 8, 4, &json!({}));
                    let shown = r.shown("subnet", &subnet, "router:external");
                    r.remove("subnet", &subnet);
                    vec![shown]
                },
            );
        }),
    ),
    (
        "tag-creation",
        Shown(|r| {
            let base = json!({"name": "n"});
            r.found(("network", &base), "tags", &json!(["red"]));
        }),
    ),
    (
        "tag-ports-during-bulk-creation",
        Shown(|r| {
            let net = r.net(0);
            let made = |r: &mut Region, tags: Value| {
                let one = json!({"network_id": net.id, "name": "p", "tags": tags});
                let all = r.ok("POST", "/v2.0/ports", &json!({"ports": [one, one]}));
                let seen = r.names(ADMIN.0, &format!("ports?network_id={}&tags=red", net.id));
                for port in all["ports"].as_array().unwrap() {
                    r.remove("port", id(port));
                }
                seen
            };
            r.differs(|r| made(r, json!([])), |r| made(r, json!(["red"])));
        }),
    ),
    (
        "trunk",
        Attributes(&["trunk.sub_ports", "trunk.port_id", "add_subports.sub_ports"]),
    ),
    (
        "trunk-details",
        Shown(|r| {
            let net = r.net(0);
            let nic = r.nic(&net, 0, 11);
            let look = |r: &mut Region| {
                vec![(!r.show("port", &nic.id)["trunk_details"].is_null()).to_string()]
            };
            r.differs(look, |r| {
                let trunk = r.make("trunk", &json!({"name": "t", "port_id": nic.id}));
                let seen = look(r);
                r.remove("trunk", id(&trunk));
                seen
            });
        }),
    ),
];

fn limited(r: &mut Region, low: &Value, high: &Value) {
    let path = format!("/v2.0/quotas/{}", A.1);
    let ask = |r: &mut Region, limits: &Value| {
        r.ok("PUT", &path, &json!({"quota": limits}));
        let seen = status(
            r,
            A.0,
            "POST",
            "/v2.0/networks",
            &json!({"network": {"name": "n"}}),
        );
        r.clear();
        seen
    };
    r.differs(|r| ask(r, high), |r| ask(r, low));
    r.ok("DELETE", &path, &Value::Null);
}

/// A limit below what is used.
fn too_low(r: &mut Region) {
    let path = format!("/v2.0/quotas/{}", A.1);
    r.make_as(A.0, "network", &json!({"name": "n"}));
    let ask = |r: &mut Region, force: bool| {
        let body = json!({"quota": {"network": 0, "force": force}});
        let seen = status(r, ADMIN.0, "PUT", &path, &body);
        // A refused one left nothing.
        r.call(ADMIN.0, "DELETE", &path, &Value::Null);
        seen
    };
    r.differs(|r| ask(r, true), |r| ask(r, false));
}

/// What a floating IP shows of its forwardings.
fn forwardings_shown(r: &mut Region, attribute: &str) {
    let (_, a, outside, _) = crate::routers::gated(r);
    let ip = r.make("floatingip", &json!({"floating_network_id": outside.id}));
    let path = format!("/v2.0/floatingips/{}/port_forwardings", id(&ip));
    let one = json!({
        "protocol": "tcp", "external_port": 8080, "internal_port": 80, "internal_port_id": a.id,
        "internal_ip_address": "10.0.0.11",
    });
    let look = |r: &mut Region| {
        let shown = r.show("floatingip", id(&ip));
        vec![shown["port_forwardings"][0][attribute].to_string()]
    };
    r.differs(look, |r| {
        let made = r.ok("POST", &path, &json!({"port_forwarding": one}));
        let seen = look(r);
        r.ok(
            "DELETE",
            &format!("{path}/{}", id(&made["port_forwarding"])),
            &Value::Null,
        );
        seen
    });
}
