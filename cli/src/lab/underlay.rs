//! What wires do the hosts hang on?
//!
//! One bridge in the controller's namespace with a veth to each host, or, routed, a veth and a subnet per host with
//! the controller's namespace as the router. Impairments sit on each host's way out, so that a packet from host to
//! host meets them once.

use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::AsFd;
use std::process::Command;

use anyhow::{Context, bail};

use super::netlink::{Kind, Netlink};
use super::netns;
use super::plan::{Impairment, Lab};

/// A host's link to the others.
pub(crate) const UPLINK: &str = "uplink";
const BRIDGE: &str = "underlay";

/// Where the controller listens.
pub(crate) const CONTROLLER: Ipv4Addr = Ipv4Addr::new(172, 31, 0, 1);

/// The underlay address of the host at that place in the list.
pub(crate) fn address(index: usize, routed: bool) -> Ipv4Addr {
    let n = u8::try_from(index + 1).unwrap_or(u8::MAX);
    if routed {
        Ipv4Addr::new(172, 31, n, 2)
    } else {
        Ipv4Addr::new(172, 31, 1, n)
    }
}

/// The namespace of a lab's host or workload, or of its controller.
pub(crate) fn namespace(lab: &str, what: &str) -> String {
    format!("{lab}-{what}")
}

/// Wires all hosts to the controller's namespace. The namespaces are there already.
///
/// # Errors
/// When the kernel refuses a link, or lacks what an impairment needs.
pub(crate) fn build(lab: &Lab) -> anyhow::Result<()> {
    let mtu = u32::from(lab.underlay.mtu);
    netns::inside(&namespace(&lab.name, "controller"), || {
        let mut netlink = Netlink::open()?;
        let bridge = if lab.underlay.routed {
            std::fs::write("/proc/sys/net/ipv4/ip_forward", "1").context("turn forwarding on")?;
            netlink.add_address(1, CONTROLLER.into(), 32)?;
            None
        } else {
            let bridge = netlink.add_link(BRIDGE, Kind::Bridge, Some(mtu))?;
            netlink.add_address(bridge, CONTROLLER.into(), 16)?;
            netlink.up(bridge)?;
            Some(bridge)
        };
        for (i, host) in lab.hosts.iter().enumerate() {
            let far = netns::open(&namespace(&lab.name, &host.name))?;
            let kind = Kind::Veth {
                peer: UPLINK,
                namespace: far.as_fd(),
                peer_mac: None,
                peer_mtu: Some(mtu),
            };
            let port = netlink.add_link(&format!("to{i}"), kind, Some(mtu))?;
            match bridge {
                Some(bridge) => netlink.enslave(port, bridge)?,
                None => netlink.add_address(port, gateway(i).into(), 24)?,
            }
            netlink.up(port)?;
        }
        Ok(())
    })?;
    for (i, host) in lab.hosts.iter().enumerate() {
        let name = namespace(&lab.name, &host.name);
        netns::inside(&name, || {
            let mut netlink = Netlink::open()?;
            let uplink = netlink.index(UPLINK)?;
            let own = IpAddr::from(address(i, lab.underlay.routed));
            netlink.add_address(uplink, own, if lab.underlay.routed { 24 } else { 16 })?;
            netlink.up(uplink)?;
            if lab.underlay.routed {
                netlink.add_default_route(gateway(i).into())?;
            }
            impair(lab.underlay.impairment)
        })
        .with_context(|| format!("wire host {}", host.name))?;
    }
    Ok(())
}

fn gateway(index: usize) -> Ipv4Addr {
    let n = u8::try_from(index + 1).unwrap_or(u8::MAX);
    Ipv4Addr::new(172, 31, n, 1)
}

/// The arguments of `tc qdisc add dev uplink root`, or none for a clean wire.
fn qdisc(impairment: Impairment) -> Option<Vec<String>> {
    let Impairment {
        loss,
        delay,
        reorder,
        rate,
    } = impairment;
    if loss.is_none() && delay.is_none() && reorder.is_none() {
        // A rate alone needs no netem, which not every kernel has.
        let rate = rate?;
        let burst = (rate.bits_per_second() / 8 / 250).max(70_000);
        return Some(
            [
                "tbf",
                "rate",
                &format!("{}bit", rate.bits_per_second()),
                "burst",
                &burst.to_string(),
                "latency",
                "50ms",
            ]
            .map(str::to_owned)
            .to_vec(),
        );
    }
    let mut words = vec!["netem".to_owned()];
    let mut add = |key: &str, value: String| words.extend([key.to_owned(), value]);
    if let Some(delay) = delay {
        add("delay", format!("{}us", delay.get().as_micros()));
    }
    if let Some(loss) = loss {
        add("loss", loss.to_string());
    }
    if let Some(reorder) = reorder {
        add("reorder", reorder.to_string());
    }
    if let Some(rate) = rate {
        add("rate", format!("{}bit", rate.bits_per_second()));
    }
    add("limit", "10000".to_owned());
    Some(words)
}

fn impair(impairment: Impairment) -> anyhow::Result<()> {
    let Some(words) = qdisc(impairment) else {
        return Ok(());
    };
    let output = Command::new("tc")
        .args(["qdisc", "add", "dev", UPLINK, "root"])
        .args(&words)
        .output()
        .context("run `tc` for the underlay's impairments (install iproute2, or leave them out)")?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        bail!(
            "`tc qdisc add … {}` failed: {} (the kernel may lack sch_netem; use `rate` alone, or leave it out)",
            words.join(" "),
            said.split_whitespace().collect::<Vec<_>>().join(" ")
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_alone_needs_no_netem() {
        let words = qdisc(Impairment {
            rate: Some("100mbit".parse().unwrap()),
            ..Impairment::default()
        })
        .unwrap();
        assert_eq!(words[..3], ["tbf", "rate", "100000000bit"]);
    }

    #[test]
    fn impairments_become_one_netem() {
        let words = qdisc(Impairment {
            loss: Some("1%".parse().unwrap()),
            delay: Some("10ms".parse().unwrap()),
            reorder: None,
            rate: Some("1gbit".parse().unwrap()),
        })
        .unwrap();
        assert_eq!(
            words.join(" "),
            "netem delay 10000us loss 1% rate 1000000000bit limit 10000"
        );
        assert_eq!(qdisc(Impairment::default()), None);
    }

    #[test]
    fn hosts_have_distinct_addresses() {
        for routed in [false, true] {
            let all: std::collections::BTreeSet<_> = (0..250).map(|i| address(i, routed)).collect();
            assert_eq!(all.len(), 250);
            assert!(!all.contains(&CONTROLLER));
        }
    }
}
