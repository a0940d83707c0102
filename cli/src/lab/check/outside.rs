//! Do gateways and floating IPs lead outside?

use std::collections::BTreeSet;
use std::net::IpAddr;

use super::{Wrong, unique, unknown, wrong};
use crate::lab::file::{RawFloating, RawGateway};
use crate::lab::plan::{Lab, Network};

/// The external network that is called so.
fn external<'a>(place: &str, name: &str, networks: &'a [Network]) -> Result<&'a Network, Wrong> {
    let external = || networks.iter().filter(|n| n.external);
    match external().find(|n| n.name == name) {
        Some(network) => Ok(network),
        None => wrong(
            format!("{place}.network"),
            unknown("external network", name, external().map(|n| &n.name)),
        ),
    }
}

pub(super) fn gateways(
    raw: Vec<RawGateway>,
    networks: &[Network],
) -> Result<Vec<RawGateway>, Wrong> {
    let mut leaving = BTreeSet::new();
    for (i, one) in raw.iter().enumerate() {
        let place = format!("gateways[{i}]");
        let of_project = networks.iter().filter(|n| n.project == one.project);
        let routers = of_project.filter_map(|n| n.router.as_ref());
        let routers: BTreeSet<&String> = routers.collect();
        if !routers.contains(&one.router) {
            return wrong(
                format!("{place}.router"),
                unknown("router", &one.router, routers.into_iter()),
            );
        }
        external(&place, &one.network, networks)?;
        if !leaving.insert((&one.project, &one.router)) {
            return wrong(
                place,
                format!(
                    "router `{}` has a gateway already; take one away",
                    one.router
                ),
            );
        }
    }
    Ok(raw)
}

pub(super) fn floating(raw: Vec<RawFloating>, lab: &Lab) -> Result<Vec<RawFloating>, Wrong> {
    unique("floating_ips", raw.iter().map(|f| f.workload.as_str()))?;
    let mut taken: BTreeSet<(&str, IpAddr)> = BTreeSet::new();
    for workload in &lab.workloads {
        let own = workload.ips.iter();
        taken.extend(own.map(|ip| (workload.network.as_str(), *ip)));
    }
    for (i, one) in raw.iter().enumerate() {
        let place = format!("floating_ips[{i}]");
        let network = external(&place, &one.network, &lab.networks)?;
        let Some(workload) = lab.workload(&one.workload) else {
            return wrong(
                format!("{place}.workload"),
                unknown(
                    "workload",
                    &one.workload,
                    lab.workloads.iter().map(|w| &w.name),
                ),
            );
        };
        let inside = lab.network(&workload.network);
        let leaves = inside.is_some_and(|inside| {
            inside.cidr.is_some()
                && lab.gateways.iter().any(|gateway| {
                    gateway.network == one.network
                        && gateway.project == inside.project
                        && Some(&gateway.router) == inside.router.as_ref()
                })
        });
        if !leaves {
            return wrong(
                format!("{place}.workload"),
                format!(
                    "network `{}` has no IPv4, or no router with a gateway on `{}`; add one to `gateways`",
                    workload.network, one.network
                ),
            );
        }
        let Some(ip) = one.ip else { continue };
        if !ip.is_ipv4() || network.subnet_of(ip).is_none() {
            return wrong(
                format!("{place}.ip"),
                format!("{ip} is no IPv4 address of network `{}`", network.name),
            );
        }
        if !taken.insert((&one.network, ip)) {
            return wrong(
                format!("{place}.ip"),
                format!("{ip} is taken; choose another"),
            );
        }
    }
    Ok(raw)
}

#[cfg(test)]
mod tests {
    use crate::lab::check;

    const LAB: &str = "
hosts: [h1]
networks:
  - {name: public, cidr: 203.0.113.0/24, external: true}
  - {name: blue, cidr: 10.0.0.0/24, router: r1}
  - {name: red, cidr: 10.1.0.0/24}
gateways: [{router: r1, network: public}]
workloads:
  - {name: web, host: h1, network: blue}
  - {name: alone, host: h1, network: red}
  - {name: outside, host: h1, network: public, ip: 203.0.113.9}
floating_ips: [{network: public, workload: web, ip: 203.0.113.80}]
";

    #[test]
    fn gateways_and_floating_ips_name_what_is_there() {
        let lab = check::lab("f", "f", LAB).unwrap();
        assert_eq!((lab.gateways.len(), lab.floating_ips.len()), (1, 1));
        for (from, to, said) in [
            (
                "router: r1, network",
                "router: r2, network",
                "gateways[0].router",
            ),
            (
                "r1, network: public",
                "r1, network: red",
                "gateways[0].network",
            ),
            ("workload: web", "workload: wob", "floating_ips[0].workload"),
            (
                "workload: web",
                "workload: alone",
                "floating_ips[0].workload",
            ),
            ("113.80", "114.80", "floating_ips[0].ip"),
            ("113.80", "113.9", "floating_ips[0].ip"),
            (", external: true", "", "gateways[0].network"),
        ] {
            let text = LAB.replace(from, to);
            assert_ne!(text, LAB);
            let error = check::lab("f", "f", &text).unwrap_err().to_string();
            assert!(error.contains(said), "{said}: {error}");
        }
    }
}
