//! How does a lab file say a NAT?
//!
//! Its keys, what is checked of them before anything is made, and how they look to the API: the same, with workloads replaced by
//! their ports.

use std::collections::BTreeSet;
use std::net::IpAddr;

use net::Prefix;
use serde::Deserialize;

use super::file::{OneOrMany, Ports};
use super::plan::{Lab, Network};

/// `nat: {addresses: …}`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Nat {
    /// Which hide sources.
    #[serde(default = "none")]
    pub(crate) addresses: OneOrMany<IpAddr>,
    /// Which sources; all if left out.
    #[serde(default)]
    pub(crate) sources: Vec<Source>,
    pub(crate) ports: Option<Ports>,
    pub(crate) hosts: Option<u16>,
    pub(crate) connections_per_client: Option<u32>,
    #[serde(default)]
    pub(crate) forwards: Vec<Forward>,
    #[serde(default, rename = "static")]
    pub(crate) statics: Vec<Static>,
    /// Where the addresses are: filled in by the check.
    #[serde(skip)]
    pub(crate) network: String,
}

fn none() -> OneOrMany<IpAddr> {
    OneOrMany(Vec::new())
}

/// A prefix, or an address.
#[derive(Debug, Deserialize)]
#[serde(transparent)]
pub(crate) struct Source(#[serde(deserialize_with = "crate::units::text")] pub(crate) Prefix);

/// Connections to a port of an address go to a workload.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Forward {
    pub(crate) address: IpAddr,
    #[serde(default)]
    pub(crate) protocol: Forwarded,
    pub(crate) port: Ports,
    pub(crate) to: String,
    pub(crate) to_port: Option<u16>,
}

/// What is forwarded by port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Forwarded {
    #[default]
    Tcp,
    Udp,
    Sctp,
}

impl Forwarded {
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::Sctp => "sctp",
        }
    }
}

/// An address of a workload's own.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Static {
    pub(crate) address: IpAddr,
    pub(crate) to: String,
}

impl Nat {
    /// All its addresses, each with the key that names it.
    pub(crate) fn own(&self) -> Vec<(String, IpAddr)> {
        let OneOrMany(addresses) = &self.addresses;
        let hiding = addresses.iter().enumerate();
        let hiding = hiding.map(|(i, a)| (format!("addresses[{i}]"), *a));
        let forwards = self.forwards.iter().enumerate();
        let forwards = forwards.map(|(i, f)| (format!("forwards[{i}].address"), f.address));
        let statics = self.statics.iter().enumerate();
        let statics = statics.map(|(i, s)| (format!("static[{i}].address"), s.address));
        hiding.chain(forwards).chain(statics).collect()
    }

    /// The workloads that it forwards to, each with the key that names it.
    pub(crate) fn targets(&self) -> Vec<(String, &String)> {
        let forwards = self.forwards.iter().enumerate();
        let forwards = forwards.map(|(i, f)| (format!("forwards[{i}].to"), &f.to));
        let statics = self.statics.iter().enumerate();
        forwards
            .chain(statics.map(|(i, s)| (format!("static[{i}].to"), &s.to)))
            .collect()
    }

    /// What names something that the lab does not have: the key, and what is wrong.
    pub(crate) fn wrong(&self, lab: &Lab, network: &Network) -> Option<(String, String)> {
        let own = self.own();
        if own.is_empty() {
            let what = "is missing; give the nat one address of the network at least";
            return Some(("addresses".to_owned(), what.to_owned()));
        }
        for (key, address) in own {
            if network.subnet_of(address).is_none() {
                let what = format!("{address} is outside network `{}`", network.name);
                return Some((key, what));
            }
            let holder = lab
                .workloads
                .iter()
                .find(|w| w.network == network.name && w.ips.contains(&address));
            if let Some(holder) = holder {
                let what = format!("{address} is already `{}`'s; choose another", holder.name);
                return Some((key, what));
            }
        }
        for (key, name) in self.targets() {
            let Some(workload) = lab.workload(name) else {
                return Some((key, format!("unknown workload `{name}`")));
            };
            if workload.network != network.name {
                let what = format!(
                    "`{name}` is on network `{}`, the nat on `{}`",
                    workload.network, network.name
                );
                return Some((key, what));
            }
        }
        None
    }

    /// The addresses in one subnet, as numbers are kept free of workloads.
    pub(crate) fn inside(&self, network: &Network, cidr: Prefix) -> BTreeSet<IpAddr> {
        let own = self.own().into_iter().map(|(_, address)| address);
        own.filter(|a| self.network == network.name && cidr.contains(*a))
            .collect()
    }
}
