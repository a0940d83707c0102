//! What is a lab, once its file has been judged?
//!
//! The valid form: every name resolves, every address lies in its subnet, nothing is said that this build does not
//! do. [`check`](super::check) is its only maker.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};

use controller::resources::health::Health;
use net::{Mac, Prefix};
use nfv::catalog::Kind;
use vswitch::UplinkChoice;

use super::file::{
    Action, Algorithm, Appliance, Class, Direction, Family, LbProtocol, Pair, Ports, Protocol,
    Queue, RawFloating, RawGateway, RawMetadata, RawQos, RawTrunk, Reach,
};
use super::nat::Nat;
use crate::units::{Percent, Rate, RateRange, Size, Span};

/// A lab that can be built.
#[derive(Debug)]
pub(crate) struct Lab {
    pub(crate) name: String,
    pub(crate) hosts: Vec<Host>,
    pub(crate) underlay: Underlay,
    pub(crate) networks: Vec<Network>,
    pub(crate) gateways: Vec<RawGateway>,
    pub(crate) floating_ips: Vec<RawFloating>,
    pub(crate) trunks: Vec<RawTrunk>,
    pub(crate) workloads: Vec<Workload>,
    pub(crate) groups: BTreeMap<String, Vec<Rule>>,
    pub(crate) qos: BTreeMap<String, RawQos>,
    pub(crate) chains: Vec<Chain>,
    pub(crate) serve: Vec<Serve>,
    pub(crate) expect: Vec<Expect>,
}

impl Lab {
    /// The pairs of workloads that are an appliance's sides.
    pub(crate) fn legs(&self) -> impl Iterator<Item = &Pair> {
        let functions = self.chains.iter().flat_map(|chain| &chain.functions);
        functions.flat_map(|function| match function {
            Function::Appliance(appliance) => appliance.pairs.as_slice(),
            Function::Firewall { .. }
            | Function::LoadBalancer { .. }
            | Function::Shaper { .. }
            | Function::Nat(_)
            | Function::Plain(..) => &[],
        })
    }

    pub(crate) fn workload(&self, name: &str) -> Option<&Workload> {
        self.workloads.iter().find(|w| w.name == name)
    }

    pub(crate) fn network(&self, name: &str) -> Option<&Network> {
        self.networks.iter().find(|n| n.name == name)
    }

    pub(crate) fn host(&self, name: &str) -> Option<&Host> {
        self.hosts.iter().find(|h| h.name == name)
    }

    /// The project of a workload: its network's.
    pub(crate) fn project_of(&self, workload: &Workload) -> Option<&str> {
        self.network(&workload.network)
            .and_then(|n| n.project.as_deref())
    }
}

#[derive(Debug, Clone)]
pub(crate) struct Host {
    pub(crate) name: String,
    pub(crate) kernel_vtep: bool,
}

#[derive(Debug, Clone, Copy)]
pub(crate) struct Underlay {
    pub(crate) mtu: u16,
    pub(crate) routed: bool,
    pub(crate) uplink: Option<UplinkChoice>,
    pub(crate) impairment: Impairment,
}

/// What is wrong with the wire, each way out of a host.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Impairment {
    pub(crate) loss: Option<Percent>,
    pub(crate) delay: Option<Span>,
    pub(crate) reorder: Option<Percent>,
    pub(crate) rate: Option<Rate>,
}

#[derive(Debug, Clone)]
pub(crate) struct Network {
    pub(crate) name: String,
    pub(crate) project: Option<String>,
    pub(crate) cidr: Option<Prefix>,
    pub(crate) cidr6: Option<Prefix>,
    pub(crate) mtu: Option<u16>,
    pub(crate) port_security: Option<bool>,
    /// The router of its project that it is attached to.
    pub(crate) router: Option<String>,
    /// May routers leave the fabric by it?
    pub(crate) external: bool,
    pub(crate) qos: Option<String>,
}

impl Network {
    /// The address that its router has in one of its subnets: what the API takes for a gateway if nobody says.
    pub(crate) fn gateway(&self, cidr: Prefix) -> Option<IpAddr> {
        self.router.as_ref()?;
        Some(match cidr.addr() {
            IpAddr::V4(first) if cidr.bits() < 31 => {
                Ipv4Addr::from_bits(first.to_bits() | 1).into()
            }
            first @ (IpAddr::V4(_) | IpAddr::V6(_)) => first,
        })
    }

    pub(crate) fn subnet_of(&self, address: IpAddr) -> Option<Prefix> {
        [self.cidr, self.cidr6]
            .into_iter()
            .flatten()
            .find(|cidr| cidr.contains(address))
    }

    pub(crate) fn families(&self) -> Vec<Family> {
        let v4 = self.cidr.map(|_| Family::Ipv4);
        v4.into_iter()
            .chain(self.cidr6.map(|_| Family::Ipv6))
            .collect()
    }
}

#[derive(Debug, Clone)]
pub(crate) struct Workload {
    pub(crate) name: String,
    pub(crate) host: String,
    pub(crate) network: String,
    pub(crate) ips: Vec<IpAddr>,
    pub(crate) mac: Option<Mac>,
    /// `None` leaves the project's default group.
    pub(crate) groups: Option<Vec<String>>,
    pub(crate) qos: Option<String>,
    pub(crate) metadata: Option<RawMetadata>,
}

#[derive(Debug, Clone)]
pub(crate) struct Rule {
    pub(crate) direction: Direction,
    pub(crate) protocol: Protocol,
    pub(crate) ports: Option<Ports>,
    pub(crate) remote: Remote,
    /// The families that it is made for.
    pub(crate) families: Vec<Family>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Remote {
    Any,
    Group(String),
    Cidr(Prefix),
}

#[derive(Debug)]
pub(crate) struct Chain {
    pub(crate) name: String,
    pub(crate) project: Option<String>,
    pub(crate) symmetric: bool,
    pub(crate) classifiers: Vec<Classifier>,
    pub(crate) functions: Vec<Function>,
    /// Is it entered from another chain alone?
    pub(crate) at_branch: bool,
    /// The chains that may follow.
    pub(crate) next: Vec<String>,
}

/// One flow classifier of the API: one family.
#[derive(Debug, Clone)]
pub(crate) struct Classifier {
    pub(crate) network: Option<String>,
    pub(crate) source_workload: Option<String>,
    pub(crate) destination_workload: Option<String>,
    pub(crate) family: Family,
    pub(crate) protocol: Protocol,
    pub(crate) source: Option<Prefix>,
    pub(crate) destination: Option<Prefix>,
    pub(crate) source_port: Option<Ports>,
    pub(crate) destination_port: Option<Ports>,
}

#[derive(Debug)]
pub(crate) enum Function {
    Firewall {
        rules: Vec<FirewallRule>,
        default: Action,
    },
    LoadBalancer {
        vip: IpAddr,
        port: u16,
        protocol: LbProtocol,
        algorithm: Algorithm,
        members: Vec<Member>,
        health: Option<Health>,
    },
    Shaper {
        rate: Rate,
        burst: Option<Size>,
        queue: Option<Queue>,
        classes: Vec<Class>,
    },
    Nat(Nat),
    Appliance(Appliance),
    /// A plain one of the catalogue with its settings, which name workloads where the API wants ports.
    Plain(&'static Kind, serde_json::Value),
}

impl Function {
    /// Its name in the catalogue.
    pub(crate) const fn kind(&self) -> &'static str {
        match self {
            Self::Firewall { .. } => "firewall",
            Self::LoadBalancer { .. } => "load_balancer",
            Self::Shaper { .. } => "shaper",
            Self::Nat(_) => "nat",
            Self::Appliance(_) => "appliance",
            Self::Plain(kind, _) => kind.name,
        }
    }
}

#[derive(Debug)]
pub(crate) struct FirewallRule {
    pub(crate) action: Action,
    pub(crate) source: Option<Prefix>,
    pub(crate) destination: Option<Prefix>,
    pub(crate) protocol: Protocol,
    pub(crate) source_port: Option<Ports>,
    pub(crate) destination_port: Option<Ports>,
}

#[derive(Debug)]
pub(crate) struct Member {
    pub(crate) workload: String,
    pub(crate) weight: Option<u16>,
    pub(crate) port: Option<u16>,
}

/// A small server in a workload's namespace.
#[derive(Debug, Clone, serde::Serialize, serde::Deserialize)]
pub(crate) struct Serve {
    pub(crate) workload: String,
    pub(crate) kind: ServeKind,
    pub(crate) port: u16,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum ServeKind {
    Http,
    Tcp,
    Udp,
}

/// Something that must be seen.
#[derive(Debug, Clone)]
pub(crate) struct Expect {
    pub(crate) what: What,
    /// Turns it round.
    pub(crate) not: bool,
}

#[derive(Debug, Clone)]
pub(crate) enum What {
    Ping {
        from: Vec<String>,
        to: Vec<Target>,
        family: Family,
    },
    AllPairs {
        family: Family,
    },
    Http {
        from: Vec<String>,
        url: Url,
        spread_over: Vec<String>,
        throughput: Option<RateRange>,
    },
    Connect {
        from: Vec<String>,
        transport: LbProtocol,
        to: Target,
        port: u16,
        is: Reach,
    },
    Throughput {
        from: Vec<String>,
        to: Vec<String>,
        range: RateRange,
    },
}

/// Who is called.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Target {
    Workload(String),
    Address(IpAddr),
}

impl std::fmt::Display for Target {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Workload(name) => f.write_str(name),
            Self::Address(address) => address.fmt(f),
        }
    }
}

/// An `http://` address of the lab.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Url {
    pub(crate) host: Target,
    pub(crate) port: u16,
    pub(crate) path: String,
    pub(crate) text: String,
}
