//! How is a controller inside a namespace asked for what the bench needs?

use crate::wire::place::Place;
use anyhow::{Context as _, bail};
use serde_json::{Value, json};

/// A controller's API, reached by `curl` from the first host.
#[derive(Debug)]
pub struct Rest<'p> {
    /// Where it runs.
    pub place: &'p Place,
    /// `http://ADDRESS:9696`.
    pub origin: String,
    /// An admin's token.
    pub token: String,
}

impl Rest<'_> {
    /// Creates an object; what the API answered of it.
    ///
    /// # Errors
    /// What the API, or curl, said.
    pub fn create(&self, path: &str, key: &str, body: Value) -> anyhow::Result<Value> {
        let url = format!("{}/v2.0/{path}", self.origin);
        let token = format!("X-Auth-Token: {}", self.token);
        let mut whole = serde_json::Map::new();
        whole.insert(key.to_owned(), body);
        let body = Value::Object(whole).to_string();
        let kind = "Content-Type: application/json";
        let words = ["curl", "-s", "-H", &token, "-H", kind, "-d", &body, &url];
        let answer = self.place.ask("h1", &words)?;
        let answer: Value = serde_json::from_str(&answer)
            .with_context(|| format!("{path} answered no JSON: {answer}"))?;
        match answer.get(key) {
            Some(object) => Ok(object.clone()),
            None => bail!("{path}: {answer}"),
        }
    }

    /// The same; its id.
    ///
    /// # Errors
    /// What the API, or curl, said.
    pub fn id(&self, path: &str, key: &str, body: Value) -> anyhow::Result<String> {
        let object = self.create(path, key, body)?;
        let id = object["id"].as_str().context("an object without an id")?;
        Ok(id.to_owned())
    }

    /// All objects of a kind; the API's answer.
    ///
    /// # Errors
    /// What the API, or curl, said.
    pub fn list(&self, path: &str) -> anyhow::Result<Value> {
        let url = format!("{}/v2.0/{path}", self.origin);
        let token = format!("X-Auth-Token: {}", self.token);
        let words = ["curl", "-sf", "-H", &token, &url];
        Ok(serde_json::from_str(&self.place.ask("h1", &words)?)?)
    }

    /// Deletes an object.
    ///
    /// # Errors
    /// What the API, or curl, said.
    pub fn delete(&self, path: &str, id: &str) -> anyhow::Result<()> {
        let url = format!("{}/v2.0/{path}/{id}", self.origin);
        let token = format!("X-Auth-Token: {}", self.token);
        let words = ["curl", "-sf", "-X", "DELETE", "-H", &token, &url];
        self.place.ask("h1", &words).map(drop)
    }

    /// A security group that admits what the works send, of both families.
    ///
    /// # Errors
    /// What the API said.
    pub fn open_group(&self) -> anyhow::Result<String> {
        let group = json!({"name": "bench"});
        let group = self.id("security-groups", "security_group", group)?;
        for (ethertype, icmp) in [("IPv4", "icmp"), ("IPv6", "ipv6-icmp")] {
            for protocol in ["tcp", "udp", icmp] {
                let rule = json!({
                    "security_group_id": group, "direction": "ingress",
                    "protocol": protocol, "ethertype": ethertype,
                });
                self.id("security-group-rules", "security_group_rule", rule)?;
            }
        }
        Ok(group)
    }

    /// A chain of a firewall, a load balancer with the one member and a shaper that does not bind, for TCP to `vip`.
    ///
    /// # Errors
    /// What the API said.
    pub fn chain(&self, network: &str, vip: &str, port: u16, member: &str) -> anyhow::Result<()> {
        let functions = [
            json!({"firewall": {"rules": [{"action": "deny", "source": "10.77.0.66/32"}], "default": "allow"}}),
            json!({"load_balancer": {"vip": vip, "port": port, "algorithm": "maglev", "members": [member]}}),
            json!({"shaper": {"rate": "100gbit", "burst": "1MiB"}}),
        ];
        let mut groups = vec![];
        for function in functions {
            let body = json!({"network_function": function});
            groups.push(self.id("sfc/port_pair_groups", "port_pair_group", body)?);
        }
        let classifier = json!({
            "logical_source_network": network, "protocol": "tcp",
            "destination_port_range_min": port, "destination_port_range_max": port,
        });
        let classifier = self.id("sfc/flow_classifiers", "flow_classifier", classifier)?;
        let chain = json!({
            "port_pair_groups": groups, "flow_classifiers": [classifier],
            "chain_parameters": {"symmetric": true},
        });
        self.id("sfc/port_chains", "port_chain", chain).map(drop)
    }
}
