//! How does a chain look to the API?
//!
//! A flow classifier per family, a port pair group per function (its `network_function` is the lab file's schema with
//! workloads replaced by their ports), and the port chain over them.

use std::collections::BTreeMap;

use anyhow::{Context, bail};
use serde_json::{Value, json};

use super::{Inventory, Projects, id, project_id, set};
use crate::api::Api;
use crate::lab::file::{Class, Correlation, OneOrMany, Pair, Ports, Protocol, Queue};
use crate::lab::nat::Nat;
use crate::lab::plan::{Chain, Classifier, FirewallRule, Function, Member};

/// Makes a chain with its classifiers and functions.
pub(super) fn make(
    api: &Api,
    projects: &Projects,
    inventory: &Inventory,
    chain: &Chain,
) -> anyhow::Result<String> {
    let project = project_id(projects, chain.project.as_deref())?;
    let mut classifiers = Vec::new();
    for (i, classifier) in chain.classifiers.iter().enumerate() {
        let name = format!("{}-{i}", chain.name);
        let mut body = classifier_body(inventory, classifier, &name, &project);
        set(&mut body, "at_branch", chain.at_branch.then_some(true));
        let made = api.post(
            "/v2.0/sfc/flow_classifiers",
            &json!({"flow_classifier": body}),
        )?;
        classifiers.push(id(&made, "flow_classifier")?);
    }
    let mut groups = Vec::new();
    for (i, function) in chain.functions.iter().enumerate() {
        let mut body = json!({
            "name": format!("{}-{i}-{}", chain.name, function.kind()),
            "project_id": project,
            "port_pairs": [],
        });
        if let Function::Appliance(appliance) = function {
            let pairs = appliance.pairs.iter();
            let pairs: Vec<_> = pairs
                .map(|pair| port_pair(api, inventory, pair, &project))
                .collect::<anyhow::Result<_>>()?;
            set(&mut body, "port_pairs", Some(pairs));
            set(&mut body, "failure_policy", Some(appliance.failure.name()));
            set(&mut body, "health_probe", appliance.health_probe);
        } else {
            let function = function_body(inventory, function)?;
            set(&mut body, "network_function", Some(function));
        }
        let made = api.post(
            "/v2.0/sfc/port_pair_groups",
            &json!({"port_pair_group": body}),
        )?;
        groups.push(id(&made, "port_pair_group")?);
    }
    let body = json!({
        "name": chain.name,
        "project_id": project,
        "flow_classifiers": classifiers,
        "port_pair_groups": groups,
        "chain_parameters": {"symmetric": chain.symmetric},
    });
    let made = api.post("/v2.0/sfc/port_chains", &json!({"port_chain": body}))?;
    id(&made, "port_chain")
}

/// Makes the graphs of chains that name others, when all of them are there: one for each project.
pub(super) fn join(
    api: &Api,
    projects: &Projects,
    chains: &[Chain],
    made: &BTreeMap<&str, String>,
) -> anyhow::Result<()> {
    let mut graphs: BTreeMap<String, serde_json::Map<String, Value>> = BTreeMap::new();
    for chain in chains.iter().filter(|chain| !chain.next.is_empty()) {
        let of = |name: &str| made.get(name).context("find a chain that follows");
        let next: Vec<_> = chain
            .next
            .iter()
            .map(|name| of(name))
            .collect::<anyhow::Result<_>>()?;
        let project = project_id(projects, chain.project.as_deref())?;
        let graph = graphs.entry(project).or_default();
        graph.insert(of(&chain.name)?.clone(), json!(next));
    }
    for (project, branches) in graphs {
        let body = json!({"name": "lab", "project_id": project, "port_chains": branches});
        api.post("/v2.0/sfc/service_graphs", &json!({"service_graph": body}))?;
    }
    Ok(())
}

/// An appliance's port pair; its id.
fn port_pair(
    api: &Api,
    inventory: &Inventory,
    pair: &Pair,
    project: &str,
) -> anyhow::Result<String> {
    let port = |name: &String| {
        let placed = inventory.workloads.get(name);
        placed
            .map(|placed| placed.port.clone())
            .context("find an appliance's port")
    };
    let mut parameters = json!({});
    set(&mut parameters, "weight", pair.weight);
    set(
        &mut parameters,
        "correlation",
        pair.correlation.map(Correlation::name),
    );
    let body = json!({
        "name": pair.ingress,
        "project_id": project,
        "ingress": port(&pair.ingress)?,
        "egress": port(&pair.egress)?,
        "service_function_parameters": parameters,
    });
    let made = api.post("/v2.0/sfc/port_pairs", &json!({"port_pair": body}))?;
    id(&made, "port_pair")
}

fn classifier_body(
    inventory: &Inventory,
    classifier: &Classifier,
    name: &str,
    project: &str,
) -> Value {
    let mut body = json!({
        "name": name,
        "project_id": project,
        "ethertype": classifier.family.ethertype(),
    });
    let port = |name: &Option<String>| {
        name.as_ref()
            .and_then(|name| inventory.workloads.get(name))
            .map(|placed| placed.port.clone())
    };
    let network = classifier
        .network
        .as_ref()
        .and_then(|name| inventory.networks.get(name))
        .map(|n| n.id.clone());
    set(&mut body, "protocol", classifier.protocol.name());
    set(&mut body, "logical_source_network", network);
    set(
        &mut body,
        "logical_source_port",
        port(&classifier.source_workload),
    );
    set(
        &mut body,
        "logical_destination_port",
        port(&classifier.destination_workload),
    );
    set(
        &mut body,
        "source_ip_prefix",
        classifier.source.map(|p| p.to_string()),
    );
    set(
        &mut body,
        "destination_ip_prefix",
        classifier.destination.map(|p| p.to_string()),
    );
    for (side, ports) in [
        ("source", classifier.source_port),
        ("destination", classifier.destination_port),
    ] {
        set(
            &mut body,
            &format!("{side}_port_range_min"),
            ports.map(|Ports(range)| range.min()),
        );
        set(
            &mut body,
            &format!("{side}_port_range_max"),
            ports.map(|Ports(range)| range.max()),
        );
    }
    body
}

/// The API's `network_function`: the lab file's own schema, with workloads replaced by their ports.
fn function_body(inventory: &Inventory, function: &Function) -> anyhow::Result<Value> {
    Ok(match function {
        Function::Appliance(_) => bail!("an appliance is its port pairs"),
        Function::Firewall { rules, default } => json!({"firewall": {
            "rules": rules.iter().flat_map(firewall_rules).collect::<Vec<_>>(),
            "default": default.name(),
        }}),
        Function::LoadBalancer {
            vip,
            port,
            protocol,
            algorithm,
            members,
            health,
        } => {
            let members = members
                .iter()
                .map(|m| member(inventory, m))
                .collect::<anyhow::Result<Vec<_>>>()?;
            let mut body = json!({
                "vip": vip,
                "port": port,
                "protocol": protocol.name(),
                "algorithm": algorithm.name(),
                "members": members,
            });
            set(&mut body, "health", health.as_ref());
            json!({"load_balancer": body})
        }
        Function::Nat(nat) => json!({"nat": nat_body(inventory, nat)?}),
        Function::Plain(kind, settings) => {
            let mut settings = settings.clone();
            for key in kind.ports() {
                if let Some(named) = settings.get_mut(key) {
                    let placed = named.as_str().and_then(|n| inventory.workloads.get(n));
                    *named = placed
                        .context("find a function's port")?
                        .port
                        .clone()
                        .into();
                }
            }
            json!({kind.name: settings})
        }
        Function::Shaper {
            rate,
            burst,
            queue,
            classes,
        } => {
            let mut body = json!({"rate": rate.to_string()});
            set(&mut body, "burst", burst.map(|b| b.to_string()));
            set(&mut body, "queue", queue.map(Queue::name));
            let classes: Vec<Value> = classes.iter().map(class_body).collect();
            set(
                &mut body,
                "classes",
                Some(classes).filter(|all| !all.is_empty()),
            );
            json!({"shaper": body})
        }
    })
}

fn class_body(class: &Class) -> Value {
    let mut body = json!({"rate": class.rate.to_string()});
    set(
        &mut body,
        "dscp",
        Some(&class.dscp).filter(|marks| !marks.is_empty()),
    );
    set(&mut body, "ceil", class.ceil.map(|ceil| ceil.to_string()));
    body
}

/// A rule of the file for the API. `icmp` means both families, as it does in a group; the API's own `icmp` is ICMPv6 only where a
/// prefix says so.
fn firewall_rules(rule: &FirewallRule) -> Vec<Value> {
    let one = |protocol| firewall_rule(rule, protocol);
    let prefix = rule.source.or(rule.destination);
    match (rule.protocol, prefix) {
        (Protocol::Icmp, None) => vec![one(Protocol::Icmp), one(Protocol::Icmpv6)],
        (Protocol::Icmp, Some(p)) if !p.is_ipv4() => vec![one(Protocol::Icmpv6)],
        (protocol, _) => vec![one(protocol)],
    }
}

fn firewall_rule(rule: &FirewallRule, protocol: Protocol) -> Value {
    let mut body = json!({"action": rule.action.name()});
    set(&mut body, "protocol", protocol.name());
    set(&mut body, "source", rule.source.map(|p| p.to_string()));
    set(
        &mut body,
        "destination",
        rule.destination.map(|p| p.to_string()),
    );
    set(
        &mut body,
        "source_port",
        rule.source_port.map(|Ports(range)| range.to_string()),
    );
    set(
        &mut body,
        "destination_port",
        rule.destination_port.map(|Ports(range)| range.to_string()),
    );
    body
}

fn nat_body(inventory: &Inventory, nat: &Nat) -> anyhow::Result<Value> {
    let port = |name: &String| {
        let placed = inventory.workloads.get(name);
        placed
            .map(|placed| placed.port.clone())
            .context("find a target's port")
    };
    let OneOrMany(addresses) = &nat.addresses;
    let mut body = json!({"addresses": addresses});
    let sources: Vec<String> = nat.sources.iter().map(|s| s.0.to_string()).collect();
    set(
        &mut body,
        "sources",
        (!sources.is_empty()).then_some(sources),
    );
    let ports = nat.ports.map(|Ports(range)| range.to_string());
    set(&mut body, "ports", ports);
    set(&mut body, "hosts", nat.hosts);
    set(
        &mut body,
        "connections_per_client",
        nat.connections_per_client,
    );
    let mut forwards = Vec::new();
    for forward in &nat.forwards {
        let Ports(range) = forward.port;
        let mut one = json!({"address": forward.address, "protocol": forward.protocol.name(),
            "port": range.to_string(), "to": port(&forward.to)?});
        set(&mut one, "to_port", forward.to_port);
        forwards.push(one);
    }
    let mut statics = Vec::new();
    for one in &nat.statics {
        statics.push(json!({"address": one.address, "to": port(&one.to)?}));
    }
    set(&mut body, "forwards", Some(forwards));
    set(&mut body, "static", Some(statics));
    let network = inventory.networks.get(&nat.network);
    set(&mut body, "network_id", network.map(|n| n.id.clone()));
    Ok(body)
}

fn member(inventory: &Inventory, member: &Member) -> anyhow::Result<Value> {
    let placed = inventory
        .workloads
        .get(&member.workload)
        .context("find a member's port")?;
    let mut body = json!({"port_id": placed.port});
    set(&mut body, "weight", member.weight);
    set(&mut body, "port", member.port);
    Ok(body)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lab::check;
    use crate::lab::provision::{MadeNetwork, Placed};

    fn lab() -> crate::lab::plan::Lab {
        let text = include_str!("../../../../configs/labs/quickstart.yaml");
        check::lab("quickstart.yaml", "quickstart", text).unwrap()
    }

    fn inventory() -> Inventory {
        let placed = |port: &str| Placed {
            host: "h1".into(),
            network: "blue".into(),
            namespace: "n".into(),
            port: port.into(),
            mac: "02:00:00:00:00:01".into(),
            addresses: vec![],
        };
        let made = MadeNetwork {
            id: "N".into(),
            project: "P".into(),
            mtu: 1450,
            vni: None,
            subnets: [].into(),
        };
        Inventory {
            networks: [("blue".to_owned(), made)].into(),
            workloads: [
                ("web-1".to_owned(), placed("P1")),
                ("web-2".to_owned(), placed("P2")),
            ]
            .into(),
        }
    }

    #[test]
    fn functions_keep_the_files_schema_with_ports_for_workloads() {
        let lab = lab();
        let bodies: Vec<Value> = lab.chains[0]
            .functions
            .iter()
            .map(|f| function_body(&inventory(), f).unwrap())
            .collect();
        assert_eq!(
            bodies,
            [
                json!({"firewall": {"rules": [{"action": "deny", "source": "10.0.0.66/32"}], "default": "allow"}}),
                json!({"load_balancer": {"vip": "10.0.0.100", "port": 80, "protocol": "tcp",
                    "algorithm": "maglev", "members": [{"port_id": "P1"}, {"port_id": "P2"}]}}),
                json!({"shaper": {"rate": "100mbit", "burst": "64KiB"}}),
            ]
        );
    }

    #[test]
    fn how_members_are_asked_is_told_where_the_file_says_it() {
        let text = include_str!("../../../../configs/labs/quickstart.yaml");
        let asked = "health: {type: tcp, interval: 500ms, attempts: 2}, members: ";
        let text = text.replace("members: ", asked);
        let lab = check::lab("quickstart.yaml", "quickstart", &text).unwrap();
        let body = function_body(&inventory(), &lab.chains[0].functions[1]).unwrap();
        assert_eq!(
            body["load_balancer"]["health"],
            json!({"type": "tcp", "interval": "500ms", "timeout": "500ms", "attempts": 2})
        );
    }

    #[test]
    fn a_shapers_queue_is_told_where_the_file_says_it() {
        let text = include_str!("../../../../configs/labs/quickstart.yaml");
        for queue in ["fifo", "fq_codel"] {
            let text = text.replace("burst: 64KiB", &format!("burst: 64KiB, queue: {queue}"));
            let lab = check::lab("quickstart.yaml", "quickstart", &text).unwrap();
            let body = function_body(&inventory(), &lab.chains[0].functions[2]).unwrap();
            assert_eq!(body["shaper"]["queue"], queue);
        }
    }

    #[test]
    fn a_shapers_classes_are_told_as_the_file_says_them() {
        let text = include_str!("../../../../configs/chains/classes.yaml");
        let lab = check::lab("classes.yaml", "classes", text).unwrap();
        let body = function_body(&inventory(), &lab.chains[0].functions[0]).unwrap();
        assert_eq!(
            body["shaper"]["classes"],
            json!([{"dscp": [46], "rate": "20mbit"}, {"rate": "5mbit", "ceil": "8mbit"}])
        );
    }

    #[test]
    fn icmp_in_a_firewall_means_the_families_that_its_prefixes_leave() {
        let protocols = |prefix: Option<&str>| -> Vec<Value> {
            let rule = FirewallRule {
                action: crate::lab::file::Action::Deny,
                source: prefix.map(|p| p.parse().unwrap()),
                destination: None,
                protocol: Protocol::Icmp,
                source_port: None,
                destination_port: None,
            };
            let rules = firewall_rules(&rule);
            rules.iter().map(|r| r["protocol"].clone()).collect()
        };
        assert_eq!(protocols(None), ["icmp", "ipv6-icmp"]);
        assert_eq!(protocols(Some("10.0.0.0/8")), ["icmp"]);
        assert_eq!(protocols(Some("fd00::/8")), ["ipv6-icmp"]);
    }

    #[test]
    fn a_classifier_names_its_network_and_ports() {
        let lab = lab();
        let body = classifier_body(&inventory(), &lab.chains[0].classifiers[0], "edge-0", "P");
        assert_eq!(
            body,
            json!({"name": "edge-0", "project_id": "P", "ethertype": "IPv4", "protocol": "tcp",
                "logical_source_network": "N",
                "destination_port_range_min": 80, "destination_port_range_max": 80})
        );
    }
}
