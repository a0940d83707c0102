//! What is only kept and shown?
//!
//! Names, notes, owners and tags change no packet: lists are filtered by them, and owners see what is theirs. This is so for every resource
//! that has them, so there is no entry for each: [`kept`] makes them from the tables of the API.

use controller::{
    resource::{Policy, Spec},
    resources::REGISTRY,
};
use serde_json::{Value, json};

use super::{A, ADMIN, Region, Seen, id, spec, with};

/// The attributes that are kept and shown.
pub const KEPT: [&str; 4] = ["name", "description", "project_id", "tags"];

/// May anybody set it?
pub fn settable(field: &controller::resource::Field) -> bool {
    field.create != Policy::Nobody || field.update != Policy::Nobody
}

/// Proves what is kept and shown, of every resource that has it, but for what is known to have no effect.
pub fn kept(region: &mut Region, no_effect: &[String]) {
    for spec in REGISTRY {
        for name in KEPT {
            let field = spec.field(name).filter(|field| settable(field));
            let of = format!("{}.{name}", spec.singular);
            if field.is_some()
                && !no_effect.contains(&of)
                && spec.verbs.contains(&controller::resource::Verb::Create)
            {
                super::show(&of);
                region.keeps(spec, name);
                region.clear();
            }
        }
    }
}

impl Region {
    /// What a resource needs at the least.
    fn least(&mut self, kind: &str) -> Value {
        match kind {
            "subnet" => {
                let network = self.make("network", &json!({}));
                json!({"network_id": id(&network), "ip_version": 4, "cidr": "10.0.0.0/24"})
            }
            "port" => {
                let network = self.make("network", &json!({}));
                json!({"network_id": id(&network)})
            }
            "floatingip" => {
                let (net, _) = self.outside(9);
                json!({"floating_network_id": net.id})
            }
            "trunk" => {
                let base = self.least("port");
                let port = self.make("port", &base);
                json!({"port_id": id(&port)})
            }
            "security_group_rule" => {
                let group = self.make("security_group", &json!({"name": "g"}));
                json!({"security_group_id": id(&group), "direction": "ingress", "protocol": "tcp"})
            }
            "address_scope" => json!({"name": "s", "ip_version": 4}),
            "subnetpool" => json!({"name": "p", "prefixes": ["10.60.0.0/16"]}),
            "policy" => json!({"name": "q"}),
            "rbac_policy" => {
                let network = self.make("network", &json!({}));
                json!({
                    "object_type": "network", "object_id": id(&network), "action": "access_as_shared",
                    "target_tenant": A.1,
                })
            }
            "metering_label_rule" => {
                let label = self.make("metering_label", &json!({"name": "l"}));
                json!({"metering_label_id": id(&label), "remote_ip_prefix": "10.0.0.0/8"})
            }
            "flow_classifier" => {
                let base = self.least("port");
                let port = self.make("port", &base);
                json!({"logical_source_port": id(&port)})
            }
            "port_pair" => {
                let base = self.least("port");
                let bound = with(&base, &json!({"binding:host_id": "h1"}));
                let port = self.make("port", &bound);
                json!({"ingress": id(&port), "egress": id(&port)})
            }
            "port_chain" => {
                let shaper = json!({"network_function": {"shaper": {"rate": "100mbit"}}});
                let group = self.make("port_pair_group", &shaper);
                json!({"port_pair_groups": [id(&group)]})
            }
            "loadbalancer" => {
                let base = self.least("subnet");
                let subnet = self.make("subnet", &base);
                json!({"vip_subnet_id": id(&subnet)})
            }
            "listener" | "pool" => {
                let base = self.least("loadbalancer");
                let balancer = self.make("loadbalancer", &base);
                if kind == "listener" {
                    json!({"loadbalancer_id": id(&balancer), "protocol": "TCP", "protocol_port": 80})
                } else {
                    json!({"loadbalancer_id": id(&balancer), "protocol": "TCP", "lb_algorithm": "ROUND_ROBIN"})
                }
            }
            "healthmonitor" => {
                let base = self.least("pool");
                let pool = self.make("pool", &base);
                json!({"pool_id": id(&pool), "type": "TCP", "delay": 5, "timeout": 2, "max_retries": 1})
            }
            "l7policy" => {
                let base = with(&self.least("listener"), &json!({"protocol": "HTTP"}));
                let listener = self.make("listener", &base);
                json!({"listener_id": id(&listener), "action": "REJECT"})
            }
            "firewall_rule" | "firewall_policy" | "firewall_group" | "service_graph" => json!({}),
            "host" => json!({"name": "h9"}),
            "network" | "router" | "security_group" | "address_group" | "metering_label"
            | "port_pair_group" => json!({"name": "n"}),
            other => panic!("what does {other} need at the least? Say it here"),
        }
    }

    fn keeps(&mut self, spec: &Spec, attribute: &str) {
        let kind = spec.singular;
        let base = self.least(kind);
        match attribute {
            "project_id" => self.owned(kind, &base),
            "tags" => {
                let tags = json!(["red"]);
                self.found((kind, &base), "tags", &tags);
            }
            _ => self.found((kind, &base), attribute, &json!("chosen")),
        }
    }

    /// An attribute that lists are filtered by, and that does nothing else.
    pub fn found(&mut self, of: (&str, &Value), attribute: &str, value: &Value) {
        let text = value
            .as_str()
            .map_or_else(|| value[0].as_str().unwrap().to_owned(), str::to_owned);
        let path = format!("{}?{attribute}={text}&fields=id", spec(of.0).path);
        let probe = move |region: &mut Self, made: &Value| -> Seen {
            let answer = region.read(ADMIN.0, &path);
            let lists = answer.as_object().unwrap().values();
            let rows = lists.filter_map(Value::as_array).flatten();
            let found = rows.filter(|row| row["id"] == made["id"]).count();
            vec![format!("found {found}")]
        };
        let field = spec(of.0).field(attribute).unwrap();
        if field.update == Policy::Nobody {
            self.by_create(of, (attribute, value), probe);
        } else {
            self.both(of, (attribute, value), probe);
        }
    }

    /// Whose an object is decides who sees it.
    fn owned(&mut self, kind: &str, base: &Value) {
        let path = spec(kind).path;
        // What only admins see is found by its project.
        let seen_by = if spec(kind).policy == Policy::Admin && kind != "policy" {
            ADMIN.0
        } else {
            A.0
        };
        let theirs = json!(A.1);
        self.by_create((kind, base), ("project_id", &theirs), |region, made| {
            let found = format!("{path}?project_id={}&id={}", A.1, id(made));
            let answer = region.read(seen_by, &found);
            let mut lists = answer.as_object().unwrap().values();
            vec![format!(
                "seen {}",
                lists.find_map(Value::as_array).unwrap().len()
            )]
        });
    }
}

/// What docs/no-effect.md lists, as `router.ha`: a row a word, with a reason.
pub fn no_effect() -> Vec<String> {
    let text = include_str!("../../../docs/no-effect.md");
    let rows = text.lines().filter_map(|line| line.strip_prefix("| `"));
    rows.map(|row| {
        let (attribute, rest) = row.split_once('`').unwrap();
        let (of, why) = rest.split_once('|').unwrap();
        let of = of
            .trim()
            .trim_start_matches("of a ")
            .trim_start_matches("of an ");
        assert!(
            why.trim().trim_end_matches('|').trim().len() > 20,
            "why has {attribute} no effect?"
        );
        format!("{}.{attribute}", of.replace(' ', "_"))
    })
    .collect()
}
