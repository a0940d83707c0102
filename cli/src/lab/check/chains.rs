//! Can a chain be made of these functions, for these flows?

use std::collections::BTreeSet;

use nfv::catalog::Kind;

use super::intent::address;
use super::{Wrong, name_is_plain, unknown, wrong};
use crate::lab::file::{
    Appliance, Family, OneOrMany, Protocol, RawChain, RawClassifier, RawFunction, RawLoadBalancer,
};
use crate::lab::plan::{Chain, Classifier, FirewallRule, Function, Lab, Member, Network};

/// For each chain that follows others, the network from which connections come into the first of them.
pub(super) fn entrances<'a>(
    lab: &'a Lab,
    raw: &[RawChain],
) -> Result<Vec<Option<&'a Network>>, Wrong> {
    for (index, chain) in raw.iter().enumerate() {
        for (i, name) in chain.next.iter().enumerate() {
            if !raw.iter().any(|other| other.name == *name) {
                return wrong(
                    format!("chains[{index}].next[{i}]"),
                    unknown("chain", name, raw.iter().map(|c| &c.name)),
                );
            }
        }
    }
    let before = |of: &RawChain| {
        let found = raw.iter().enumerate();
        found.rev().find(|(_, chain)| chain.next.contains(&of.name))
    };
    let mut entrances = Vec::new();
    for (index, chain) in raw.iter().enumerate() {
        let mut first = before(chain);
        for _ in 0..raw.len() {
            first = first.and_then(|(_, chain)| before(chain)).or(first);
        }
        let Some((at, root)) = first else {
            entrances.push(None);
            continue;
        };
        if before(root).is_some() {
            return wrong(
                format!("chains[{index}]"),
                format!(
                    "`{}` follows itself; a graph of chains has no loop",
                    chain.name
                ),
            );
        }
        let OneOrMany(classifiers) = &root.classifier;
        let place = format!("chains[{at}].classifier");
        let network = classifiers
            .first()
            .map(|one| classifier_network(lab, &place, one));
        entrances.push(network.transpose()?);
    }
    Ok(entrances)
}

pub(super) fn chain(
    lab: &Lab,
    index: usize,
    raw: RawChain,
    entrance: Option<&Network>,
) -> Result<Chain, Wrong> {
    let place = format!("chains[{index}]");
    name_is_plain(&format!("{place}.name"), &raw.name, "chain")?;
    let OneOrMany(raw_classifiers) = raw.classifier;
    if raw_classifiers.is_empty() {
        return wrong(
            format!("{place}.classifier"),
            "is empty; say which flows enter, e.g. `{network: blue}`",
        );
    }
    if raw.functions.is_empty() {
        return wrong(
            format!("{place}.functions"),
            "is empty; list at least one function",
        );
    }
    let mut projects = BTreeSet::new();
    let mut classifiers = Vec::new();
    let mut network = None;
    for one in raw_classifiers {
        let place = format!("{place}.classifier");
        let at = match entrance {
            None => classifier_network(lab, &place, &one)?,
            Some(_) if one.names_an_end() => {
                return wrong(
                    place,
                    "names a network or a workload, which is not asked behind another chain; leave it out",
                );
            }
            Some(network) => network,
        };
        projects.insert(at.project.clone());
        classifiers.extend(families_of(&place, &one, at)?);
        network = Some(at);
    }
    let (Some(project), Some(network), 1) = (projects.first().cloned(), network, projects.len())
    else {
        return wrong(
            format!("{place}.classifier"),
            "names networks of several projects; make a chain for each",
        );
    };
    let functions = raw
        .functions
        .into_iter()
        .enumerate()
        .map(|(i, f)| function(lab, network, &format!("{place}.functions[{i}]"), f))
        .collect::<Result<_, _>>()?;
    Ok(Chain {
        name: raw.name,
        project,
        symmetric: raw.symmetric.unwrap_or(true),
        classifiers,
        functions,
        at_branch: entrance.is_some(),
        next: raw.next,
    })
}

/// The network that a classifier is about, by its own name or through a workload's.
fn classifier_network<'a>(
    lab: &'a Lab,
    place: &str,
    raw: &RawClassifier,
) -> Result<&'a Network, Wrong> {
    if raw.network.is_some() && raw.source_workload.is_some() {
        return wrong(place, "has both `network` and `source_workload`; keep one");
    }
    let mut found = None;
    if let Some(name) = &raw.network {
        found = lab.network(name);
        if found.is_none() {
            return wrong(
                format!("{place}.network"),
                unknown("network", name, lab.networks.iter().map(|n| &n.name)),
            );
        }
    }
    for (key, workload) in [
        ("destination_workload", &raw.destination_workload),
        ("source_workload", &raw.source_workload),
    ] {
        let Some(name) = workload else { continue };
        match lab.workload(name) {
            None => {
                return wrong(
                    format!("{place}.{key}"),
                    unknown("workload", name, lab.workloads.iter().map(|w| &w.name)),
                );
            }
            Some(workload) => found = lab.network(&workload.network).or(found),
        }
    }
    match found {
        Some(network) => Ok(network),
        None => wrong(
            place,
            "says not where flows come from; add `network`, `source_workload` or `destination_workload`",
        ),
    }
}

fn families_of(
    place: &str,
    raw: &RawClassifier,
    network: &Network,
) -> Result<Vec<Classifier>, Wrong> {
    if (raw.source_port.is_some() || raw.destination_port.is_some()) && !raw.protocol.has_ports() {
        return wrong(place, "ports need `protocol: tcp` or `udp`");
    }
    if !matches!(
        raw.protocol,
        Protocol::Any | Protocol::Tcp | Protocol::Udp | Protocol::Icmp
    ) {
        return wrong(
            format!("{place}.protocol"),
            "flows are classified by tcp, udp or icmp (of both families); use one of them, or leave it out for all",
        );
    }
    let mut families = network.families();
    families.retain(|family| {
        let fits = |p: Option<net::Prefix>| p.is_none_or(|p| Family::of(p.addr()) == *family);
        raw.ethertype.is_none_or(|e| e == *family) && fits(raw.source) && fits(raw.destination)
    });
    if families.is_empty() {
        return wrong(
            place,
            format!(
                "no packet of network `{}` can match: its families and the classifier's differ",
                network.name
            ),
        );
    }
    Ok(families
        .into_iter()
        .map(|family| Classifier {
            network: raw.network.clone(),
            source_workload: raw.source_workload.clone(),
            destination_workload: raw.destination_workload.clone(),
            family,
            protocol: raw.protocol,
            source: raw.source,
            destination: raw.destination,
            source_port: raw.source_port,
            destination_port: raw.destination_port,
        })
        .collect())
}

fn function(
    lab: &Lab,
    network: &Network,
    place: &str,
    raw: RawFunction,
) -> Result<Function, Wrong> {
    match raw {
        RawFunction::Firewall(firewall) => {
            let place = format!("{place}.firewall");
            let mut rules = Vec::new();
            for (i, r) in firewall.rules.into_iter().enumerate() {
                if (r.source_port.is_some() || r.destination_port.is_some())
                    && !r.protocol.has_ports()
                {
                    return wrong(
                        format!("{place}.rules[{i}]"),
                        "ports need `protocol: tcp` or `udp`",
                    );
                }
                rules.push(FirewallRule {
                    action: r.action,
                    source: r.source,
                    destination: r.destination,
                    protocol: r.protocol,
                    source_port: r.source_port,
                    destination_port: r.destination_port,
                });
            }
            Ok(Function::Firewall {
                rules,
                default: firewall.default,
            })
        }
        RawFunction::LoadBalancer(lb) => {
            load_balancer(lab, network, &format!("{place}.load_balancer"), lb)
        }
        RawFunction::Nat(mut nat) => {
            if let Some((key, what)) = nat.wrong(lab, network) {
                return wrong(format!("{place}.nat.{key}"), what);
            }
            nat.network.clone_from(&network.name);
            Ok(Function::Nat(nat))
        }
        RawFunction::Appliance(appliance) => self::appliance(lab, place, appliance),
        RawFunction::Plain(kind, settings) => plain(lab, place, kind, settings),
        RawFunction::Shaper(shaper) => Ok(Function::Shaper {
            rate: shaper.rate,
            burst: shaper.burst,
            queue: shaper.queue,
            classes: shaper.classes,
        }),
    }
}

fn appliance(lab: &Lab, place: &str, appliance: Appliance) -> Result<Function, Wrong> {
    let place = format!("{place}.appliance.pairs");
    if appliance.pairs.is_empty() {
        return wrong(place, "is empty; list `{ingress: …, egress: …}`");
    }
    for (i, pair) in appliance.pairs.iter().enumerate() {
        let mut host = None;
        for (key, name) in [("ingress", &pair.ingress), ("egress", &pair.egress)] {
            let place = format!("{place}[{i}].{key}");
            let Some(workload) = lab.workload(name) else {
                let all = lab.workloads.iter().map(|w| &w.name);
                return wrong(place, unknown("workload", name, all));
            };
            if lab.host(&workload.host).is_some_and(|h| h.kernel_vtep) {
                let what = format!(
                    "host `{}` is a kernel VTEP, which has no chains",
                    workload.host
                );
                return wrong(place, what);
            }
            if *host.get_or_insert(&workload.host) != &workload.host {
                let what = format!("`{name}` is not on the host of `{}`", pair.ingress);
                return wrong(place, what);
            }
        }
    }
    Ok(Function::Appliance(appliance))
}

/// Is each side of an appliance one side of one appliance, and in no trunk?
pub(super) fn sides(lab: &Lab) -> Result<(), Wrong> {
    let in_trunk = lab.trunks.iter().flat_map(|trunk| {
        let sub_ports = trunk.sub_ports.iter().map(|sub| sub.workload.as_str());
        sub_ports.chain([trunk.parent.as_str()])
    });
    let mut used: BTreeSet<&str> = in_trunk.collect();
    for name in lab.legs().flat_map(|pair| [&pair.ingress, &pair.egress]) {
        if !used.insert(name) {
            let what = format!(
                "`{name}` is another side of an appliance, or in a trunk; choose another workload"
            );
            return wrong("chains", what);
        }
    }
    Ok(())
}

/// Where the API takes a port's id the file names a workload.
fn plain(
    lab: &Lab,
    place: &str,
    kind: &'static Kind,
    settings: serde_json::Value,
) -> Result<Function, Wrong> {
    let place = format!("{place}.{}", kind.name);
    let mut judged = settings.clone();
    for key in kind.ports() {
        let Some(named) = judged.get_mut(key) else {
            continue;
        };
        let workload = named.as_str().and_then(|name| lab.workload(name));
        if workload.is_none() {
            return wrong(
                format!("{place}.{key}"),
                format!("no workload is called {named}"),
            );
        }
        *named = uuid::Uuid::nil().to_string().into();
    }
    if let Err(fault) = kind.shape(&judged) {
        return wrong(place, fault.to_string());
    }
    Ok(Function::Plain(kind, settings))
}

fn load_balancer(
    lab: &Lab,
    network: &Network,
    place: &str,
    lb: RawLoadBalancer,
) -> Result<Function, Wrong> {
    if let Some(health) = &lb.health
        && let Err(why) = health.suits(lb.protocol.balanced())
    {
        return wrong(format!("{place}.health"), why);
    }
    if lb.port == 0 {
        return wrong(format!("{place}.port"), "0 is no port; use 1 to 65535");
    }
    address(place, lb.vip, network, &[lb.vip]).map_err(|w| Wrong {
        place: format!("{place}.vip"),
        what: w.what,
    })?;
    if let Some(owner) = lab
        .workloads
        .iter()
        .find(|w| w.network == network.name && w.ips.contains(&lb.vip))
    {
        return wrong(
            format!("{place}.vip"),
            format!(
                "{} is already `{}`'s; choose another address",
                lb.vip, owner.name
            ),
        );
    }
    if lb.members.is_empty() {
        return wrong(
            format!("{place}.members"),
            "is empty; name the workloads that serve",
        );
    }
    let mut seen = BTreeSet::new();
    let mut members = Vec::new();
    for (i, member) in lb.members.into_iter().enumerate() {
        let place = format!("{place}.members[{i}]");
        let Some(workload) = lab.workload(&member.workload) else {
            return wrong(
                place,
                unknown(
                    "workload",
                    &member.workload,
                    lab.workloads.iter().map(|w| &w.name),
                ),
            );
        };
        if workload.network != network.name {
            return wrong(
                place,
                format!(
                    "`{}` is on network `{}`, the VIP on `{}`; members in other networks need routers, which come later",
                    workload.name, workload.network, network.name
                ),
            );
        }
        if member.port == Some(0) {
            return wrong(format!("{place}.port"), "0 is no port; use 1 to 65535");
        }
        if member.weight.is_some_and(|w| w > 256) {
            return wrong(format!("{place}.weight"), "is out of range; use 0 to 256");
        }
        if !seen.insert((member.workload.clone(), member.port)) {
            return wrong(
                place,
                format!(
                    "`{}` is there twice; give it a `weight` instead",
                    member.workload
                ),
            );
        }
        members.push(Member {
            workload: member.workload,
            weight: member.weight,
            port: member.port,
        });
    }
    Ok(Function::LoadBalancer {
        vip: lb.vip,
        port: lb.port,
        protocol: lb.protocol,
        algorithm: lb.algorithm,
        members,
        health: lb.health,
    })
}
