//! Which security groups does each project need?
//!
//! A lab names a group once; the API keeps groups per project, so each project gets its own copy of those that its
//! workloads use, and of those that these refer to.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::Context;
use serde_json::{Value, json};

use super::{Projects, bulk, project_id, set};
use crate::api::{Api, text};
use crate::lab::file::{Direction, Family, Ports, Protocol};
use crate::lab::plan::{Lab, Remote, Rule};

/// Ids of security groups by (project id, name).
pub(super) type Groups = BTreeMap<(String, String), String>;

/// Which groups which projects need: those of their workloads and what their rules refer to.
fn needed_groups(lab: &Lab) -> BTreeSet<(Option<String>, String)> {
    let mut needed = BTreeSet::new();
    let mut open: Vec<(Option<String>, String)> = lab
        .workloads
        .iter()
        .flat_map(|w| {
            let project = lab.project_of(w).map(str::to_owned);
            w.groups
                .iter()
                .flatten()
                .map(move |group| (project.clone(), group.clone()))
        })
        .filter(|(_, group)| group != "default")
        .collect();
    while let Some((project, group)) = open.pop() {
        if !needed.insert((project.clone(), group.clone())) {
            continue;
        }
        for rule in lab.groups.get(&group).into_iter().flatten() {
            if let Remote::Group(other) = &rule.remote {
                open.push((project.clone(), other.clone()));
            }
        }
    }
    needed
}

/// Makes the groups that workloads need, with their rules.
pub(super) fn make(lab: &Lab, api: &Api, projects: &Projects) -> anyhow::Result<Groups> {
    let needed: Vec<(String, String)> = needed_groups(lab)
        .into_iter()
        .map(|(project, group)| Ok((project_id(projects, project.as_deref())?, group)))
        .collect::<anyhow::Result<_>>()?;
    let bodies = needed
        .iter()
        .map(|(project, group)| json!({"name": group, "project_id": project}))
        .collect();
    let answers = bulk(api, "/v2.0/security-groups", "security_groups", bodies)?;
    let groups: Groups = needed
        .iter()
        .cloned()
        .zip(answers.iter().map(|a| text(a, "id").to_owned()))
        .collect();
    for ((project, group), answer) in needed.iter().zip(&answers) {
        let wanted = lab.groups.get(group).map(Vec::as_slice).unwrap_or_default();
        if wanted
            .iter()
            .any(|rule| rule.direction == Direction::Egress)
        {
            // A group that lists what may leave means just that, not the API's default of all.
            drop_default_egress(api, answer)?;
        }
        let mut rules = Vec::new();
        for rule in wanted {
            rules.extend(rule_bodies(rule, project, text(answer, "id"), &groups)?);
        }
        // The API takes the rules of one group at a time.
        bulk(
            api,
            "/v2.0/security-group-rules",
            "security_group_rules",
            rules,
        )?;
    }
    Ok(groups)
}

fn drop_default_egress(api: &Api, group: &Value) -> anyhow::Result<()> {
    let rules = group
        .get("security_group_rules")
        .and_then(Value::as_array)
        .map(Vec::as_slice)
        .unwrap_or_default();
    for rule in rules
        .iter()
        .filter(|rule| text(rule, "direction") == "egress")
    {
        api.delete(&format!("/v2.0/security-group-rules/{}", text(rule, "id")))?;
    }
    Ok(())
}

fn rule_bodies(
    rule: &Rule,
    project: &str,
    group: &str,
    groups: &Groups,
) -> anyhow::Result<Vec<Value>> {
    let mut bodies = Vec::new();
    for family in &rule.families {
        let protocol = match (rule.protocol, family) {
            (Protocol::Icmp, Family::Ipv6) => Protocol::Icmpv6,
            (protocol, _) => protocol,
        };
        let mut body = json!({
            "security_group_id": group,
            "project_id": project,
            "direction": rule.direction.name(),
            "ethertype": family.ethertype(),
        });
        set(&mut body, "protocol", protocol.name());
        set(
            &mut body,
            "port_range_min",
            rule.ports.map(|Ports(range)| range.min()),
        );
        set(
            &mut body,
            "port_range_max",
            rule.ports.map(|Ports(range)| range.max()),
        );
        match &rule.remote {
            Remote::Any => {}
            Remote::Cidr(cidr) => set(&mut body, "remote_ip_prefix", Some(cidr.to_string())),
            Remote::Group(name) => {
                let id = groups
                    .get(&(project.to_owned(), name.clone()))
                    .context("find the remote group's id")?;
                set(&mut body, "remote_group_id", Some(id));
            }
        }
        bodies.push(body);
    }
    Ok(bodies)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lab::check;

    const FILE: &str = r#"
hosts: [h1]
networks: [{name: a, cidr: 10.0.0.0/24}, {name: b, project: p, cidr: 10.0.0.0/24}]
workloads:
  - {name: w1, host: h1, network: a, security_groups: [web]}
  - {name: w2, host: h1, network: b, security_groups: [lonely]}
security_groups:
  web: [{direction: ingress, protocol: tcp, ports: 80-90, remote_group: lonely}]
  lonely: [{direction: ingress, protocol: icmp}, {direction: egress, protocol: udp, remote_cidr: "fd00::/8"}]
  unused: []
"#;

    #[test]
    fn each_project_gets_what_its_workloads_need_and_no_more() {
        let lab = check::lab("f", "f", FILE).unwrap();
        let needed: Vec<(Option<String>, String)> = needed_groups(&lab).into_iter().collect();
        let other = Some("p".to_owned());
        assert_eq!(
            needed,
            [
                (None, "lonely".to_owned()),
                (None, "web".to_owned()),
                (other, "lonely".to_owned())
            ]
        );
    }

    #[test]
    fn a_rule_becomes_one_of_each_family() {
        let lab = check::lab("f", "f", FILE).unwrap();
        let groups = Groups::from([(("P".to_owned(), "lonely".to_owned()), "G".to_owned())]);
        let bodies = rule_bodies(&lab.groups["web"][0], "P", "W", &groups).unwrap();
        assert_eq!(bodies.len(), 2);
        assert_eq!(
            bodies[0],
            json!({"security_group_id": "W", "project_id": "P", "direction": "ingress", "ethertype": "IPv4",
                "protocol": "tcp", "port_range_min": 80, "port_range_max": 90, "remote_group_id": "G"})
        );
        let icmp = rule_bodies(&lab.groups["lonely"][0], "P", "W", &groups).unwrap();
        assert_eq!(icmp[0]["protocol"], "icmp");
        assert_eq!(
            (&icmp[1]["protocol"], &icmp[1]["ethertype"]),
            (&json!("ipv6-icmp"), &json!("IPv6"))
        );
        let udp = rule_bodies(&lab.groups["lonely"][1], "P", "W", &groups).unwrap();
        assert_eq!(udp.len(), 1);
        assert_eq!(
            (&udp[0]["remote_ip_prefix"], &udp[0]["ethertype"]),
            (&json!("fd00::/8"), &json!("IPv6"))
        );
    }
}
