//! One of everything, of one project: what the matrices of bad input ask about.

use super::*;
use crate::resource::Spec;
use std::collections::BTreeMap;

/// In the order in which they can be made.
const ORDER: &[&str] = &[
    "address_scope",
    "policy",
    "security_group",
    "address_group",
    "network",
    "subnet",
    "port",
    "router",
    "floatingip",
    "trunk",
    "security_group_rule",
    "subnetpool",
    "rbac_policy",
    "metering_label",
    "metering_label_rule",
    "flow_classifier",
    "port_pair",
    "port_pair_group",
    "port_chain",
    "service_graph",
    "firewall_rule",
    "firewall_policy",
    "firewall_group",
    "loadbalancer",
    "listener",
    "pool",
    "healthmonitor",
    "l7policy",
    "host",
];

/// Objects of a project by what they are, and what besides is needed to make another.
pub(super) struct Planted {
    /// Whose they are, by a member's token.
    pub(super) who: &'static str,
    project: &'static str,
    /// Its own numbers, in prefixes.
    number: u16,
    ids: BTreeMap<&'static str, String>,
}

pub(super) fn table(singular: &str) -> &'static Spec {
    let found = REGISTRY.iter().find(|spec| spec.singular == singular);
    found.unwrap()
}

impl Planted {
    /// Plants them. All of the registry can be made, or nobody can make it.
    pub(super) async fn new(cloud: &Cloud, who: &'static str, number: u16) -> Self {
        for spec in REGISTRY.iter().filter(|spec| spec.allows(Verb::Create)) {
            assert!(ORDER.contains(&spec.singular), "plant a {}", spec.singular);
        }
        let project = if who == "b" { B } else { A };
        let mut all = Self {
            who,
            project,
            number,
            ids: BTreeMap::new(),
        };
        let (external, outside) = cloud.external(&format!("203.0.{number}.0/24")).await;
        all.ids.insert("external", external);
        all.ids.insert("outside", id(&outside));
        for kind in ORDER {
            match *kind {
                "floatingip" => all.join(cloud).await,
                "port_pair" => all.place(cloud).await,
                "healthmonitor" => {
                    let (maker, body) = all.wanted("pool", number);
                    let bare = all.made(cloud, maker, "pool", body).await;
                    all.ids.insert("bare", bare);
                }
                "l7policy" => {
                    for (of, name) in [("listener", "reader"), ("pool", "read")] {
                        let (maker, body) = all.wanted(of, number + 1);
                        let body = with(body, json!({"protocol": "HTTP"}));
                        let made = all.made(cloud, maker, of, body).await;
                        all.ids.insert(name, made);
                    }
                }
                _ => {}
            }
            let (maker, body) = all.wanted(kind, number);
            let made = all.made(cloud, maker, kind, body).await;
            all.ids.insert(kind, made);
        }
        all
    }

    async fn made(&self, cloud: &Cloud, maker: &str, kind: &str, body: Value) -> String {
        let path = format!("/v2.0/{}", table(kind).path);
        id(&cloud.made(maker, &path, table(kind).singular, body).await)
    }

    /// The router joins the subnet; ports that nothing has taken yet.
    async fn join(&mut self, cloud: &Cloud) {
        let path = format!("/v2.0/routers/{}/add_router_interface", self.id("router"));
        let subnet = json!({"subnet_id": self.id("subnet")});
        assert_eq!(cloud.ask(self.who, "PUT", &path, subnet).await.0, 200);
        for spare in ["parent", "spare"] {
            let (maker, body) = self.wanted("port", 0);
            let port = self.made(cloud, maker, "port", body).await;
            self.ids.insert(spare, port);
        }
        let (maker, body) = self.wanted("port_pair_group", 0);
        let hop = self.made(cloud, maker, "port_pair_group", body).await;
        self.ids.insert("hop", hop);
    }

    /// Ports that are on a host, for two pairs.
    async fn place(&mut self, cloud: &Cloud) {
        for place in ["in", "out", "spare in", "spare out"] {
            let body = json!({
                "network_id": self.id("network"), "project_id": self.project,
                "binding:host_id": "host-of-pairs",
            });
            let port = self.made(cloud, "admin", "port", body).await;
            self.ids.insert(place, port);
        }
    }

    /// The id of what it has of a kind.
    pub(super) fn id(&self, kind: &str) -> &str {
        let found = self.ids.get(kind);
        found.map_or_else(|| panic!("no {kind} is planted"), String::as_str)
    }

    /// Who makes one, and with what; another number is another one, which meets no planted one.
    pub(super) fn wanted(&self, kind: &str, fresh: u16) -> (&'static str, Value) {
        let own = |kind: &str| json!(self.ids.get(kind));
        let (number, member) = (self.number, self.who);
        let first = fresh == number;
        match kind {
            "address_scope" => (member, json!({"name": "s", "ip_version": 4})),
            "policy" => ("admin", json!({"name": "q", "project_id": self.project})),
            "security_group" | "network" => (member, json!({"name": kind})),
            "address_group" => (member, json!({"name": "g", "addresses": ["10.0.0.0/8"]})),
            "subnet" => (
                member,
                json!({
                    "network_id": own("network"), "ip_version": 4, "cidr": format!("10.{fresh}.0.0/24"),
                }),
            ),
            "port" => (
                member,
                json!({
                    "network_id": own("network"), "security_groups": [own("security_group")],
                    "qos_policy_id": own("policy"),
                }),
            ),
            "router" => (
                member,
                json!({"external_gateway_info": {"network_id": own("external")}}),
            ),
            "floatingip" => (
                member,
                json!({
                    "floating_network_id": own("external"), "subnet_id": own("outside"),
                    "port_id": own("port"), "qos_policy_id": own("policy"),
                }),
            ),
            "trunk" => {
                let parent = if first { "parent" } else { "spare" };
                (member, json!({"name": "t", "port_id": own(parent)}))
            }
            "security_group_rule" => (
                member,
                json!({
                    "security_group_id": own("security_group"), "direction": "ingress", "protocol": "tcp",
                    "port_range_min": 1000 + fresh, "port_range_max": 1000 + fresh,
                    "remote_group_id": own("security_group"),
                }),
            ),
            "subnetpool" => (
                member,
                json!({
                    "name": "p", "prefixes": [format!("172.{fresh}.0.0/16")],
                    "address_scope_id": own("address_scope"),
                }),
            ),
            "rbac_policy" => (
                member,
                json!({
                    "object_type": "network", "object_id": own("network"), "action": "access_as_shared",
                    "target_tenant": format!("{fresh:032x}"),
                }),
            ),
            "metering_label" => ("admin", json!({"name": "l", "project_id": self.project})),
            "metering_label_rule" => (
                "admin",
                json!({
                    "metering_label_id": own("metering_label"), "remote_ip_prefix": format!("10.{fresh}.0.0/24"),
                }),
            ),
            "flow_classifier" => (
                member,
                json!({
                    "protocol": "tcp", "logical_source_port": own("port"),
                    "logical_destination_port": own("spare"),
                    "destination_port_range_min": 1000 + fresh, "destination_port_range_max": 1000 + fresh,
                }),
            ),
            "port_pair" => {
                let [way_in, way_out] = if first {
                    ["in", "out"]
                } else {
                    ["spare in", "spare out"]
                };
                (
                    member,
                    json!({"ingress": own(way_in), "egress": own(way_out)}),
                )
            }
            "port_pair_group" => {
                let pairs = json!({"port_pairs": [own("port_pair")]});
                let function = json!({"network_function": {"shaper": {"rate": "1mbit"}}});
                (member, if first { pairs } else { function })
            }
            // One with chains would keep them as they are.
            "service_graph" => (member, json!({"port_chains": {}})),
            "port_chain" => {
                let hop = if first { "port_pair_group" } else { "hop" };
                (member, json!({"port_pair_groups": [own(hop)]}))
            }
            "firewall_rule" => (member, json!({"protocol": "tcp"})),
            "firewall_policy" => (member, json!({"firewall_rules": [own("firewall_rule")]})),
            "firewall_group" => {
                let ports = if first { vec![own("in")] } else { Vec::new() };
                let policy = own("firewall_policy");
                (
                    member,
                    json!({"ingress_firewall_policy_id": policy, "ports": ports}),
                )
            }
            "loadbalancer" => (
                member,
                json!({"vip_subnet_id": own("subnet"), "vip_network_id": own("network")}),
            ),
            "listener" => (
                member,
                json!({
                    "loadbalancer_id": own("loadbalancer"), "protocol": "TCP", "protocol_port": fresh,
                }),
            ),
            "pool" => (
                member,
                json!({
                    "loadbalancer_id": own("loadbalancer"), "protocol": "TCP", "lb_algorithm": "ROUND_ROBIN",
                }),
            ),
            "healthmonitor" => {
                let pool = if first { "pool" } else { "bare" };
                (
                    member,
                    json!({
                        "pool_id": own(pool), "type": "TCP", "delay": 5, "timeout": 2, "max_retries": 1,
                    }),
                )
            }
            "l7policy" => (
                member,
                json!({
                    "listener_id": own("reader"), "action": "REDIRECT_TO_POOL", "redirect_pool_id": own("read"),
                }),
            ),
            "host" => ("admin", json!({"name": format!("host-{fresh}")})),
            other => panic!("what is a {other} made with?"),
        }
    }
}
