//! Do networks, groups and workloads fit together?

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use super::{Wrong, name_is_plain, unique, unknown, wrong};
use crate::lab::file::{Family, OneOrMany, Protocol, RawNetwork, RawRule, RawWorkload};
use crate::lab::plan::{Host, Network, Remote, Rule, Workload};

/// What the largest encapsulation takes of the underlay's bytes (outer IPv6, UDP, VXLAN-GPE, NSH with context, inner
/// Ethernet): the controller refuses networks that leave less.
const ENCAPSULATION: u16 = 94;
/// How many workloads.
const WORKLOADS_MAX: usize = 2_000;

pub(super) fn networks(raw: Vec<RawNetwork>, underlay_mtu: u16) -> Result<Vec<Network>, Wrong> {
    unique("networks", raw.iter().map(|n| n.name.as_str()))?;
    let mut networks: Vec<Network> = Vec::new();
    for (i, one) in raw.into_iter().enumerate() {
        let place = format!("networks[{i}]");
        name_is_plain(&format!("{place}.name"), &one.name, "network")?;
        if let Some(project) = &one.project {
            name_is_plain(&format!("{place}.project"), project, "project")?;
        }
        if let Some(router) = &one.router {
            name_is_plain(&format!("{place}.router"), router, "router")?;
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
            let most = underlay_mtu.saturating_sub(ENCAPSULATION).min(9000);
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
            router: one.router,
            external: one.external,
            qos: one.qos,
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

pub(super) fn groups(
    raw: BTreeMap<String, Vec<RawRule>>,
) -> Result<BTreeMap<String, Vec<Rule>>, Wrong> {
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

pub(super) fn workloads(
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
        let Some(host) = hosts.iter().find(|h| h.name == one.host) else {
            return wrong(
                format!("{place}.host"),
                unknown("host", &one.host, hosts.iter().map(|h| &h.name)),
            );
        };
        let Some(network) = networks.iter().find(|n| n.name == one.network) else {
            return wrong(
                format!("{place}.network"),
                unknown("network", &one.network, networks.iter().map(|n| &n.name)),
            );
        };
        if host.kernel_vtep && network.router.is_some() {
            return wrong(
                format!("{place}.host"),
                format!(
                    "`{}` is a kernel VTEP, where nothing routes, and network `{}` has a router; choose another host",
                    host.name, network.name
                ),
            );
        }
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
            qos: one.qos,
            metadata: one.metadata,
        });
    }
    Ok(workloads)
}

pub(super) fn address(
    place: &str,
    ip: IpAddr,
    network: &Network,
    all: &[IpAddr],
) -> Result<(), Wrong> {
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
    if network.gateway(subnet) == Some(ip) {
        return wrong(
            place,
            format!(
                "{ip} is the router's on network `{}`; choose another",
                network.name
            ),
        );
    }
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
