//! Can this lab be built?
//!
//! Turns a file as written ([`file`](super::file)) into a lab that can be built ([`plan`](super::plan)), or says in
//! one line which file, which place and what to do. Pure: no namespace has been made when it refuses.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use super::file::{
    self, Family, OneOrMany, PairKind, PingTarget, Protocol, RawChain, RawClassifier, RawExpect,
    RawFunction, RawLab, RawNetwork, RawRule, RawServe, RawWorkload, Reach,
};
use super::plan::{
    Chain, Classifier, Expect, FirewallRule, Function, Host, Impairment, Lab, Member, Network,
    Remote, Rule, Serve, ServeKind, Target, Underlay, Url, What, Workload,
};

/// How many hosts a lab may have: each is a process with its own switch.
const HOSTS_MAX: usize = 250;
/// How many workloads.
const WORKLOADS_MAX: usize = 2_000;
/// An underlay that leaves overlay networks their customary 1500 bytes.
const UNDERLAY_MTU: u16 = 1600;

/// What is wrong with a lab file, and where.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{file}: {place}{}{what}", if place.is_empty() { "" } else { ": " })]
pub(crate) struct LabError {
    file: String,
    place: String,
    what: String,
}

/// A refusal inside one file: the place, and what to do.
struct Wrong {
    place: String,
    what: String,
}

fn wrong<T>(place: impl Into<String>, what: impl Into<String>) -> Result<T, Wrong> {
    Err(Wrong {
        place: place.into(),
        what: what.into(),
    })
}

/// Judges the text of the file called `file` as a lab called `name`.
///
/// # Errors
/// One line: the file, the place in it, what to do.
pub(crate) fn lab(file: &str, name: &str, text: &str) -> Result<Lab, LabError> {
    let raw = file::parse(text).map_err(|e| LabError {
        file: file.to_owned(),
        place: String::new(),
        what: one_line(&e.to_string()),
    })?;
    checked(name, raw).map_err(|w| LabError {
        file: file.to_owned(),
        place: w.place,
        what: w.what,
    })
}

fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

fn checked(name: &str, raw: RawLab) -> Result<Lab, Wrong> {
    name_is_plain("--name", name, "lab")?;
    let hosts = hosts(&raw)?;
    let underlay = underlay(&raw)?;
    let networks = networks(raw.networks, underlay.mtu)?;
    let groups = groups(raw.security_groups)?;
    let workloads = workloads(raw.workloads, &hosts, &networks, &groups)?;
    let mut lab = Lab {
        name: name.to_owned(),
        hosts,
        underlay,
        networks,
        workloads,
        groups,
        chains: Vec::new(),
        serve: Vec::new(),
        expect: Vec::new(),
    };
    lab.chains = raw
        .chains
        .into_iter()
        .enumerate()
        .map(|(i, c)| chain(&lab, i, c))
        .collect::<Result<_, _>>()?;
    unique("chains", lab.chains.iter().map(|c| c.name.as_str()))?;
    lab.serve = serves(&lab, &raw.serve)?;
    lab.expect = raw
        .expect
        .into_iter()
        .enumerate()
        .map(|(i, e)| expect(&lab, i, e))
        .collect::<Result<_, _>>()?;
    Ok(lab)
}

/// A name becomes part of a namespace's file name and of the API's host name.
fn name_is_plain(place: &str, name: &str, kind: &str) -> Result<(), Wrong> {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    let starts = name.starts_with(|c: char| c.is_ascii_alphanumeric());
    // The path of a host's socket has both names in it and may have 107 bytes.
    let most = if matches!(kind, "lab" | "host") {
        30
    } else {
        60
    };
    if !starts || name.len() > most || !name.chars().all(plain) {
        return wrong(
            place,
            format!(
                "`{name}` is no {kind} name; use up to {most} letters, digits, `-`, `_` and `.`, a letter or digit first"
            ),
        );
    }
    Ok(())
}

fn unique<'a>(list: &str, names: impl Iterator<Item = &'a str>) -> Result<(), Wrong> {
    let mut seen = BTreeSet::new();
    for (i, name) in names.enumerate() {
        if !seen.insert(name) {
            return wrong(
                format!("{list}[{i}].name"),
                format!("`{name}` is there twice; give each its own name"),
            );
        }
    }
    Ok(())
}

fn hosts(raw: &RawLab) -> Result<Vec<Host>, Wrong> {
    if raw.hosts.is_empty() {
        return wrong("hosts", "there is none; name at least one host");
    }
    if raw.hosts.len() > HOSTS_MAX {
        return wrong(
            "hosts",
            format!(
                "{} are more than the {HOSTS_MAX} that one lab may have",
                raw.hosts.len()
            ),
        );
    }
    unique("hosts", raw.hosts.iter().map(|h| h.name.as_str()))?;
    let mut hosts = Vec::new();
    for (i, host) in raw.hosts.iter().enumerate() {
        let place = format!("hosts[{i}]");
        name_is_plain(&place, &host.name, "host")?;
        if host.name == "controller" {
            return wrong(
                place,
                "`controller` is the controller's own namespace; choose another name",
            );
        }
        hosts.push(Host {
            name: host.name.clone(),
            kernel_vtep: host.kernel_vtep,
        });
    }
    if hosts.iter().all(|h| h.kernel_vtep) {
        return wrong(
            "hosts",
            "all are kernel VTEPs; at least one host needs a vswitch of its own",
        );
    }
    Ok(hosts)
}

fn underlay(raw: &RawLab) -> Result<Underlay, Wrong> {
    let mtu = raw.underlay.mtu.unwrap_or(UNDERLAY_MTU);
    if !(1350..=65_000).contains(&mtu) {
        return wrong(
            "underlay.mtu",
            format!("{mtu} is out of range; use 1350 to 65000 (the default is {UNDERLAY_MTU})"),
        );
    }
    let file::RawUnderlay {
        loss,
        delay,
        reorder,
        rate,
        routed,
        mtu: _,
    } = raw.underlay;
    if reorder.is_some() && delay.is_none() {
        return wrong(
            "underlay.reorder",
            "reordering needs a delay to overtake; add `delay: 10ms`",
        );
    }
    Ok(Underlay {
        mtu,
        routed,
        impairment: Impairment {
            loss,
            delay,
            reorder,
            rate,
        },
    })
}

fn networks(raw: Vec<RawNetwork>, underlay_mtu: u16) -> Result<Vec<Network>, Wrong> {
    unique("networks", raw.iter().map(|n| n.name.as_str()))?;
    let mut networks: Vec<Network> = Vec::new();
    for (i, one) in raw.into_iter().enumerate() {
        let place = format!("networks[{i}]");
        name_is_plain(&format!("{place}.name"), &one.name, "network")?;
        if let Some(project) = &one.project {
            name_is_plain(&format!("{place}.project"), project, "project")?;
        }
        if one.router.is_some() {
            return wrong(
                format!("{place}.router"),
                "routers come with the OpenStack network issue; leave it out until then",
            );
        }
        match (one.cidr, one.cidr6) {
            (None, None) => {
                return wrong(
                    place,
                    "a network needs addresses; add `cidr: 10.0.0.0/24` or `cidr6: fd00::/64`",
                );
            }
            (Some(cidr), _) if !cidr.is_ipv4() => {
                return wrong(
                    format!("{place}.cidr"),
                    format!("{cidr} is IPv6; write it as `cidr6`"),
                );
            }
            (_, Some(cidr6)) if cidr6.is_ipv4() => {
                return wrong(
                    format!("{place}.cidr6"),
                    format!("{cidr6} is IPv4; write it as `cidr`"),
                );
            }
            _ => {}
        }
        if let Some(mtu) = one.mtu {
            // Outer Ethernet, IPv6, UDP and VXLAN take 70 of the underlay's bytes; one byte less never passes.
            let most = underlay_mtu.saturating_sub(70).min(9000);
            let least = if one.cidr6.is_some() { 1280 } else { 68 };
            if !(least..=most).contains(&mtu) {
                return wrong(
                    format!("{place}.mtu"),
                    format!(
                        "{mtu} is out of range; use {least} to {most}, or raise `underlay.mtu` (now {underlay_mtu})"
                    ),
                );
            }
        }
        let network = Network {
            name: one.name,
            project: one.project,
            cidr: one.cidr,
            cidr6: one.cidr6,
            mtu: one.mtu,
            port_security: one.port_security,
        };
        for before in networks
            .iter()
            .filter(|before| before.project == network.project)
        {
            overlap(&place, &network, before)?;
        }
        networks.push(network);
    }
    Ok(networks)
}

fn overlap(place: &str, new: &Network, before: &Network) -> Result<(), Wrong> {
    for (key, mine, theirs) in [
        ("cidr", new.cidr, before.cidr),
        ("cidr6", new.cidr6, before.cidr6),
    ] {
        if let (Some(mine), Some(theirs)) = (mine, theirs)
            && mine.overlaps(theirs)
        {
            return wrong(
                format!("{place}.{key}"),
                format!(
                    "{mine} overlaps {theirs} of network `{}` in the same project; choose another range, or another `project`",
                    before.name
                ),
            );
        }
    }
    Ok(())
}

fn groups(raw: BTreeMap<String, Vec<RawRule>>) -> Result<BTreeMap<String, Vec<Rule>>, Wrong> {
    let names: BTreeSet<String> = raw.keys().cloned().collect();
    let mut groups = BTreeMap::new();
    for (name, rules) in raw {
        if name == "default" {
            return wrong(
                "security_groups.default",
                "every project has its own `default`; choose another name",
            );
        }
        name_is_plain(&format!("security_groups.{name}"), &name, "group")?;
        let rules = rules
            .into_iter()
            .enumerate()
            .map(|(i, r)| rule(&format!("security_groups.{name}[{i}]"), r, &names))
            .collect::<Result<_, _>>()?;
        groups.insert(name, rules);
    }
    Ok(groups)
}

fn rule(place: &str, raw: RawRule, groups: &BTreeSet<String>) -> Result<Rule, Wrong> {
    let ports = match (raw.port, raw.ports) {
        (Some(_), Some(_)) => return wrong(place, "has both `port` and `ports`; keep one"),
        (one, range) => one.or(range),
    };
    if ports.is_some() && !raw.protocol.has_ports() {
        return wrong(place, "ports need `protocol: tcp`, `udp` or `sctp`");
    }
    let remote = match (raw.remote_group, raw.remote_cidr) {
        (Some(_), Some(_)) => {
            return wrong(place, "has both `remote_group` and `remote_cidr`; keep one");
        }
        (Some(group), None) => {
            if !groups.contains(&group) {
                return wrong(
                    format!("{place}.remote_group"),
                    unknown("group", &group, groups.iter()),
                );
            }
            Remote::Group(group)
        }
        (None, Some(cidr)) => Remote::Cidr(cidr),
        (None, None) => Remote::Any,
    };
    let mut families = match (raw.ethertype, &remote) {
        (Some(family), _) => vec![family],
        (None, Remote::Cidr(cidr)) => vec![Family::of(cidr.addr())],
        (None, Remote::Any | Remote::Group(_)) => vec![Family::Ipv4, Family::Ipv6],
    };
    if raw.protocol == Protocol::Icmpv6 {
        families.retain(|f| *f == Family::Ipv6);
    }
    let cidr_fits = match &remote {
        Remote::Cidr(cidr) => families.contains(&Family::of(cidr.addr())),
        Remote::Any | Remote::Group(_) => true,
    };
    if families.is_empty() || !cidr_fits {
        return wrong(
            place,
            "protocol, `ethertype` and `remote_cidr` are of different families; make them one",
        );
    }
    Ok(Rule {
        direction: raw.direction,
        protocol: raw.protocol,
        ports,
        remote,
        families,
    })
}

/// "unknown host `h9`; the file has: h1, h2".
fn unknown<'a>(kind: &str, name: &str, known: impl Iterator<Item = &'a String>) -> String {
    let known: Vec<&str> = known.map(String::as_str).take(12).collect();
    if known.is_empty() {
        format!("unknown {kind} `{name}`; the file has none")
    } else {
        format!(
            "unknown {kind} `{name}`; the file has: {}",
            known.join(", ")
        )
    }
}

fn workloads(
    raw: Vec<RawWorkload>,
    hosts: &[Host],
    networks: &[Network],
    groups: &BTreeMap<String, Vec<Rule>>,
) -> Result<Vec<Workload>, Wrong> {
    if raw.len() > WORKLOADS_MAX {
        return wrong(
            "workloads",
            format!(
                "{} are more than the {WORKLOADS_MAX} that one lab may have",
                raw.len()
            ),
        );
    }
    unique("workloads", raw.iter().map(|w| w.name.as_str()))?;
    let mut taken: BTreeMap<(String, IpAddr), String> = BTreeMap::new();
    let mut workloads = Vec::new();
    for (i, one) in raw.into_iter().enumerate() {
        let place = format!("workloads[{i}]");
        name_is_plain(&format!("{place}.name"), &one.name, "workload")?;
        if one.name == "controller" || hosts.iter().any(|h| h.name == one.name) {
            return wrong(
                format!("{place}.name"),
                format!(
                    "`{}` is also a host; hosts and workloads share one namespace prefix, rename one",
                    one.name
                ),
            );
        }
        if !hosts.iter().any(|h| h.name == one.host) {
            return wrong(
                format!("{place}.host"),
                unknown("host", &one.host, hosts.iter().map(|h| &h.name)),
            );
        }
        let Some(network) = networks.iter().find(|n| n.name == one.network) else {
            return wrong(
                format!("{place}.network"),
                unknown("network", &one.network, networks.iter().map(|n| &n.name)),
            );
        };
        for (j, group) in one.security_groups.iter().flatten().enumerate() {
            if group != "default" && !groups.contains_key(group) {
                return wrong(
                    format!("{place}.security_groups[{j}]"),
                    unknown("group", group, groups.keys()),
                );
            }
        }
        if one.security_groups.as_ref().is_some_and(|g| !g.is_empty())
            && network.port_security == Some(false)
        {
            return wrong(
                format!("{place}.security_groups"),
                format!(
                    "network `{}` has `port_security: false`; groups need it on",
                    network.name
                ),
            );
        }
        if let Some(mac) = one.mac
            && net::UnicastMac::try_from(mac).is_err()
        {
            return wrong(
                format!("{place}.mac"),
                format!("{mac} is a group address; use a unicast one"),
            );
        }
        let ips = one.ip.map(|OneOrMany(ips)| ips).unwrap_or_default();
        for ip in &ips {
            address(&place, *ip, network, &ips)?;
            if let Some(other) = taken.insert((network.name.clone(), *ip), one.name.clone()) {
                return wrong(
                    format!("{place}.ip"),
                    format!("{ip} is already `{other}`'s; choose another address"),
                );
            }
        }
        workloads.push(Workload {
            name: one.name,
            host: one.host,
            network: one.network,
            ips,
            mac: one.mac,
            groups: one.security_groups,
        });
    }
    Ok(workloads)
}

fn address(place: &str, ip: IpAddr, network: &Network, all: &[IpAddr]) -> Result<(), Wrong> {
    let place = format!("{place}.ip");
    let subnets: Vec<String> = [network.cidr, network.cidr6]
        .into_iter()
        .flatten()
        .map(|cidr| cidr.to_string())
        .collect();
    let Some(subnet) = network.subnet_of(ip) else {
        return wrong(
            place,
            format!(
                "{ip} is outside network `{}` ({}); choose an address inside",
                network.name,
                subnets.join(", ")
            ),
        );
    };
    let ends = subnet.is_ipv4() && subnet.bits() < 31;
    if (ends || !subnet.is_ipv4() && subnet.bits() < 127) && ip == subnet.addr()
        || ends && ip == subnet.last()
    {
        return wrong(
            place,
            format!(
                "{ip} is the first or last of {subnet}, which no host may have; choose another"
            ),
        );
    }
    if all
        .iter()
        .filter(|other| other.is_ipv4() == ip.is_ipv4())
        .count()
        > 1
    {
        return wrong(
            place,
            "two addresses of one family; give at most one of each",
        );
    }
    Ok(())
}

fn chain(lab: &Lab, index: usize, raw: RawChain) -> Result<Chain, Wrong> {
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
        let at = classifier_network(lab, &format!("{place}.classifier"), &one)?;
        projects.insert(at.project.clone());
        classifiers.extend(families_of(&format!("{place}.classifier"), &one, at)?);
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
    let mut families = network.families();
    families.retain(|family| {
        let fits = |p: Option<net::Prefix>| p.is_none_or(|p| Family::of(p.addr()) == *family);
        raw.ethertype.is_none_or(|e| e == *family)
            && fits(raw.source)
            && fits(raw.destination)
            && (raw.protocol != Protocol::Icmpv6 || *family == Family::Ipv6)
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
            protocol: match (raw.protocol, family) {
                (Protocol::Icmp, Family::Ipv6) => Protocol::Icmpv6,
                (protocol, _) => protocol,
            },
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
        RawFunction::Shaper(shaper) => {
            if shaper.queue.is_some() {
                return wrong(
                    format!("{place}.shaper.queue"),
                    "choosing a queue comes with the chains issue; leave it out until then (the queue is a bounded FIFO)",
                );
            }
            Ok(Function::Shaper {
                rate: shaper.rate,
                burst: shaper.burst,
            })
        }
    }
}

fn load_balancer(
    lab: &Lab,
    network: &Network,
    place: &str,
    lb: file::RawLoadBalancer,
) -> Result<Function, Wrong> {
    if lb.health.is_some() {
        return wrong(
            format!("{place}.health"),
            "health probes come with the chains issue; leave it out until then (all members count as healthy)",
        );
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
        if member.weight.is_some_and(|w| w == 0 || w > 256) {
            return wrong(format!("{place}.weight"), "is out of range; use 1 to 256");
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
    })
}

fn serves(lab: &Lab, raw: &[RawServe]) -> Result<Vec<Serve>, Wrong> {
    let mut serves = Vec::new();
    let mut taken = BTreeSet::new();
    for (i, one) in raw.iter().enumerate() {
        let place = format!("serve[{i}]");
        if lab.workload(&one.workload).is_none() {
            return wrong(
                format!("{place}.workload"),
                unknown(
                    "workload",
                    &one.workload,
                    lab.workloads.iter().map(|w| &w.name),
                ),
            );
        }
        let before = serves.len();
        for (kind, port) in [
            (ServeKind::Http, one.http),
            (ServeKind::Tcp, one.tcp),
            (ServeKind::Udp, one.udp),
        ] {
            let Some(port) = port else { continue };
            if port == 0 {
                return wrong(place, "0 is no port; use 1 to 65535");
            }
            if !taken.insert((one.workload.clone(), kind == ServeKind::Udp, port)) {
                return wrong(
                    place,
                    format!(
                        "port {port} of `{}` is served twice; choose another",
                        one.workload
                    ),
                );
            }
            serves.push(Serve {
                workload: one.workload.clone(),
                kind,
                port,
            });
        }
        if serves.len() == before {
            return wrong(
                place,
                "says not what to serve; add `http: 80`, `tcp: PORT` or `udp: PORT`",
            );
        }
    }
    Ok(serves)
}

fn expect(lab: &Lab, index: usize, raw: RawExpect) -> Result<Expect, Wrong> {
    let place = format!("expect[{index}]");
    let not = raw.not;
    let kinds = [
        ("ping", raw.ping.is_some()),
        ("ping6", raw.ping6.is_some()),
        ("all_pairs", raw.all_pairs.is_some()),
        ("http", raw.http.is_some()),
        ("tcp", raw.tcp.is_some()),
        ("udp", raw.udp.is_some()),
    ];
    let named: Vec<&str> = kinds
        .iter()
        .filter(|(_, there)| *there)
        .map(|(name, _)| *name)
        .collect();
    if named.len() > 1 {
        return wrong(
            place,
            format!("has {} at once; make an item of each", named.join(" and ")),
        );
    }
    let what = match named.first().copied() {
        Some("all_pairs") => all_pairs(&place, &raw)?,
        Some("ping" | "ping6") => ping(lab, &place, raw)?,
        Some("http") => http(lab, &place, raw)?,
        Some(_) => connect(lab, &place, raw)?,
        None => throughput(lab, &place, raw)?,
    };
    Ok(Expect { what, not })
}

fn senders(lab: &Lab, place: &str, from: Option<OneOrMany<String>>) -> Result<Vec<String>, Wrong> {
    let names = from.map(|OneOrMany(names)| names).unwrap_or_default();
    if names.is_empty() {
        return wrong(place, "says not who; add `from: WORKLOAD`");
    }
    workload_names(lab, &format!("{place}.from"), names)
}

fn workload_names(lab: &Lab, place: &str, names: Vec<String>) -> Result<Vec<String>, Wrong> {
    for name in &names {
        if lab.workload(name).is_none() {
            return wrong(
                place,
                unknown("workload", name, lab.workloads.iter().map(|w| &w.name)),
            );
        }
    }
    Ok(names)
}

fn target(lab: &Lab, place: &str, text: &str) -> Result<Target, Wrong> {
    if lab.workload(text).is_some() {
        return Ok(Target::Workload(text.to_owned()));
    }
    match text.trim_start_matches('[').trim_end_matches(']').parse() {
        Ok(address) => Ok(Target::Address(address)),
        Err(_) => wrong(
            place,
            format!(
                "{}, and it is no address",
                unknown("workload", text, lab.workloads.iter().map(|w| &w.name))
            ),
        ),
    }
}

/// Only the keys of that kind of expectation may be there.
fn only(place: &str, kind: &str, rest: &[(&str, bool)]) -> Result<(), Wrong> {
    match rest.iter().find(|(_, there)| *there) {
        Some((key, _)) => wrong(
            format!("{place}.{key}"),
            format!("does not go with `{kind}`; leave it out"),
        ),
        None => Ok(()),
    }
}

fn all_pairs(place: &str, raw: &RawExpect) -> Result<What, Wrong> {
    only(
        place,
        "all_pairs",
        &[
            ("from", raw.from.is_some()),
            ("to", raw.to.is_some()),
            ("is", raw.is.is_some()),
            ("spread_over", raw.spread_over.is_some()),
            ("throughput", raw.throughput.is_some()),
        ],
    )?;
    let family = match raw.all_pairs {
        Some(PairKind::Ping6) => Family::Ipv6,
        Some(PairKind::Ping) | None => Family::Ipv4,
    };
    Ok(What::AllPairs { family })
}

fn ping(lab: &Lab, place: &str, raw: RawExpect) -> Result<What, Wrong> {
    let six = raw.ping6.is_some();
    let kind = if six { "ping6" } else { "ping" };
    only(
        place,
        kind,
        &[
            ("is", raw.is.is_some()),
            ("spread_over", raw.spread_over.is_some()),
            ("throughput", raw.throughput.is_some()),
        ],
    )?;
    let from = senders(lab, place, raw.from)?;
    let to = match (raw.ping.or(raw.ping6), raw.to) {
        (Some(PingTarget::One(_)), Some(_)) => {
            return wrong(
                place,
                format!("has both `to` and a target in `{kind}`; write `{kind}: true`"),
            );
        }
        (Some(PingTarget::One(name)), None) => {
            vec![target(lab, &format!("{place}.{kind}"), &name)?]
        }
        (_, Some(OneOrMany(names))) if !names.is_empty() => names
            .iter()
            .map(|name| target(lab, &format!("{place}.to"), name))
            .collect::<Result<_, _>>()?,
        _ => {
            return wrong(
                place,
                format!("says not whom; write `{kind}: WORKLOAD`, or add `to: [..]`"),
            );
        }
    };
    for one in &to {
        if let Target::Address(address) = one
            && address.is_ipv6() != six
        {
            let right = if six { "ping" } else { "ping6" };
            return wrong(
                place,
                format!("{address} is of the other family; use `{right}`"),
            );
        }
    }
    let family = if six { Family::Ipv6 } else { Family::Ipv4 };
    Ok(What::Ping { from, to, family })
}

fn http(lab: &Lab, place: &str, raw: RawExpect) -> Result<What, Wrong> {
    only(
        place,
        "http",
        &[("to", raw.to.is_some()), ("is", raw.is.is_some())],
    )?;
    let from = senders(lab, place, raw.from)?;
    let url = url(
        lab,
        &format!("{place}.http"),
        raw.http.as_deref().unwrap_or_default(),
    )?;
    let spread_over = match raw.spread_over {
        None => Vec::new(),
        Some(names) if names.is_empty() => {
            return wrong(
                format!("{place}.spread_over"),
                "is empty; name the workloads that must answer",
            );
        }
        Some(names) => workload_names(lab, &format!("{place}.spread_over"), names)?,
    };
    Ok(What::Http {
        from,
        url,
        spread_over,
        throughput: raw.throughput,
    })
}

fn url(lab: &Lab, place: &str, text: &str) -> Result<Url, Wrong> {
    let Some(rest) = text.strip_prefix("http://") else {
        return wrong(
            place,
            format!("`{text}` is no plain http address; write http://ADDRESS[:PORT]/"),
        );
    };
    let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    let (host, port) = match authority_port(authority) {
        Some((host, port)) => (host, port),
        None if !authority.is_empty() => (authority, 80),
        None => {
            return wrong(
                place,
                format!("`{text}` names no address; write http://ADDRESS[:PORT]/"),
            );
        }
    };
    if path.contains(|c: char| c.is_whitespace() || c.is_control()) {
        return wrong(
            place,
            "its path has a space or a control character; write it percent-encoded",
        );
    }
    Ok(Url {
        host: target(lab, place, host)?,
        port,
        path: if path.is_empty() {
            "/".to_owned()
        } else {
            path.to_owned()
        },
        text: text.to_owned(),
    })
}

/// `web-1:22` and `[fd00::1]:22`, not `fd00::1`.
fn authority_port(text: &str) -> Option<(&str, u16)> {
    let (host, port) = text.rsplit_once(':')?;
    if host.contains(':') && !(host.starts_with('[') && host.ends_with(']')) {
        return None;
    }
    port.parse()
        .ok()
        .filter(|port| *port > 0)
        .map(|port| (host, port))
}

fn connect(lab: &Lab, place: &str, raw: RawExpect) -> Result<What, Wrong> {
    let (kind, transport, text) = match (&raw.tcp, &raw.udp) {
        (Some(text), _) => ("tcp", file::LbProtocol::Tcp, text.clone()),
        (None, text) => (
            "udp",
            file::LbProtocol::Udp,
            text.clone().unwrap_or_default(),
        ),
    };
    only(
        place,
        kind,
        &[
            ("to", raw.to.is_some()),
            ("spread_over", raw.spread_over.is_some()),
            ("throughput", raw.throughput.is_some()),
        ],
    )?;
    let from = senders(lab, place, raw.from)?;
    let place = format!("{place}.{kind}");
    let Some((host, port)) = authority_port(&text) else {
        return wrong(
            place,
            format!("`{text}` has no port; write `{kind}: \"WORKLOAD:22\"`"),
        );
    };
    Ok(What::Connect {
        from,
        transport,
        to: target(lab, &place, host)?,
        port,
        is: raw.is.unwrap_or(Reach::Reachable),
    })
}

fn throughput(lab: &Lab, place: &str, raw: RawExpect) -> Result<What, Wrong> {
    let Some(range) = raw.throughput else {
        return wrong(
            place,
            "expects nothing; add `ping`, `ping6`, `all_pairs`, `http`, `tcp`, `udp` or `throughput`",
        );
    };
    only(
        place,
        "throughput",
        &[
            ("is", raw.is.is_some()),
            ("spread_over", raw.spread_over.is_some()),
        ],
    )?;
    let from = senders(lab, place, raw.from)?;
    let to = raw.to.map(|OneOrMany(names)| names).unwrap_or_default();
    if to.is_empty() {
        return wrong(
            place,
            "says not whom; add `to: WORKLOAD`, or an `http` address to download from",
        );
    }
    Ok(What::Throughput {
        from,
        to: workload_names(lab, &format!("{place}.to"), to)?,
        range,
    })
}

#[cfg(test)]
#[path = "check_tests.rs"]
mod tests;
