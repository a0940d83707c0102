//! What wires do the hosts hang on?
//!
//! One bridge in the controller's namespace with a veth to each host, or, routed, a veth and a subnet per host with
//! the controller's namespace as the router. Impairments sit on each host's way out, so that a packet from host to
//! host meets them once: a qdisc of the kernel where it has one, else two taps and the lab's own [`relay`] between.

use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::AsFd;
use std::process::Command;

use anyhow::{Context, bail};
use serde::{Deserialize, Serialize};

use super::netlink::{Kind, Netlink};
use super::plan::{Impairment, Lab};
use super::{netns, relay};
use crate::units::{Percent, Rate, Span};

/// A host's link to the others.
pub(crate) const UPLINK: &str = "uplink";
const BRIDGE: &str = "underlay";

/// Where the controller listens.
pub(crate) const CONTROLLER: Ipv4Addr = Ipv4Addr::new(172, 31, 0, 1);

/// What makes the wires as bad as the lab file says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "impaired_by", rename_all = "lowercase")]
pub(crate) enum Way {
    /// Nothing: they are clean.
    Nothing,
    /// A qdisc on each host's uplink.
    Kernel { qdisc: Vec<String> },
    /// The lab's own relay, since the kernel refused the qdisc.
    Relay { because: String },
}

impl std::fmt::Display for Way {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Nothing => f.write_str("clean wires"),
            Self::Kernel { qdisc } => write!(f, "impaired by the kernel ({})", qdisc.join(" ")),
            Self::Relay { because } => {
                write!(f, "impaired by the lab's own relay ({because})")
            }
        }
    }
}

/// Finds out, by trying the qdisc on a link that carries nothing yet: the loopback of the controller's namespace.
///
/// # Errors
/// When that namespace can't be entered.
pub(crate) fn way(lab: &Lab) -> anyhow::Result<Way> {
    let Some(qdisc) = qdisc(lab.underlay.impairment) else {
        return Ok(Way::Nothing);
    };
    netns::inside(&namespace(&lab.name, "controller"), || {
        if let Err(refused) = set_qdisc("lo", &qdisc) {
            let because = format!("{refused:#}");
            return Ok(Way::Relay { because });
        }
        tc(&["qdisc", "del", "dev", "lo", "root"])?;
        Ok(Way::Kernel { qdisc })
    })
}

/// What a relay is told.
pub(crate) fn orders(lab: &Lab) -> relay::Orders {
    let Impairment {
        loss,
        delay,
        reorder,
        rate,
    } = lab.underlay.impairment;
    let controller = namespace(&lab.name, "controller");
    let ends = |(i, host): (usize, &super::plan::Host)| relay::Ends {
        host: host.name.clone(),
        uplink: (namespace(&lab.name, &host.name), UPLINK.to_owned()),
        port: (controller.clone(), port(i)),
    };
    relay::Orders {
        flaws: relay::Flaws {
            loss: loss.map_or(0, Percent::parts_per_million),
            delay: delay.map(Span::get).unwrap_or_default(),
            reorder: reorder.map_or(0, Percent::parts_per_million),
            rate: rate.map(Rate::bits_per_second),
        },
        wires: lab.hosts.iter().enumerate().map(ends).collect(),
    }
}

/// The controller's end of the wire to the host at that place in the list.
fn port(index: usize) -> String {
    format!("to{index}")
}

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

/// Wires all hosts to the controller's namespace. The namespaces are there already, and a relay's taps.
///
/// # Errors
/// When the kernel refuses a link or a qdisc.
pub(crate) fn build(lab: &Lab, way: &Way) -> anyhow::Result<()> {
    let relayed = matches!(way, Way::Relay { .. });
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
            let port = if relayed {
                tap(&mut netlink, &port(i), mtu)?
            } else {
                let far = netns::open(&namespace(&lab.name, &host.name))?;
                let kind = Kind::Veth {
                    peer: UPLINK,
                    namespace: far.as_fd(),
                    peer_mac: None,
                    peer_mtu: Some(mtu),
                };
                netlink.add_link(&port(i), kind, Some(mtu))?
            };
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
            let uplink = if relayed {
                tap(&mut netlink, UPLINK, mtu)?
            } else {
                netlink.index(UPLINK)?
            };
            let own = IpAddr::from(address(i, lab.underlay.routed));
            netlink.add_address(uplink, own, if lab.underlay.routed { 24 } else { 16 })?;
            netlink.up(uplink)?;
            if lab.underlay.routed {
                netlink.add_default_route(gateway(i).into())?;
            }
            match way {
                Way::Kernel { qdisc } => set_qdisc(UPLINK, qdisc),
                Way::Nothing | Way::Relay { .. } => Ok(()),
            }
        })
        .with_context(|| format!("wire host {}", host.name))?;
    }
    Ok(())
}

/// Finds a tap of the relay and fits it. A whole burst waits for the relay rather than being lost.
fn tap(netlink: &mut Netlink, name: &str, mtu: u32) -> anyhow::Result<u32> {
    let tap = netlink.index(name)?;
    let queue = u32::try_from(relay::FRAMES).unwrap_or(u32::MAX);
    netlink.set_sizes(tap, mtu, queue)?;
    Ok(tap)
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
    add("limit", relay::FRAMES.to_string());
    Some(words)
}

fn set_qdisc(device: &str, qdisc: &[String]) -> anyhow::Result<()> {
    let mut args = vec!["qdisc", "add", "dev", device, "root"];
    args.extend(qdisc.iter().map(String::as_str));
    tc(&args)
}

fn tc(args: &[&str]) -> anyhow::Result<()> {
    let output = Command::new("tc").args(args).output().context("run `tc`")?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        bail!(
            "`tc {}` failed: {}",
            args.join(" "),
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
