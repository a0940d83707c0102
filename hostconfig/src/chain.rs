//! Which functions does a connection pass, and which connections pass them?

use std::{collections::BTreeMap, net::IpAddr};

use net::{Id, Label, Mtu, PortRange, Prefix, UnicastMac, Vni, ids::kind};
use serde::{Deserialize, Serialize};

use crate::{
    Nat,
    group::Family,
    qos::Discipline,
    share::{Class, Share},
};

/// A port chain: functions in order, and the classifiers that lead into it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Chain {
    /// Its id in the API.
    pub id: Id<kind::PortChain>,
    /// Its name, for people.
    pub name: String,
    /// Whose it is.
    pub project: Id<kind::Project>,
    /// The path by which hosts name it to one another; 24 bits. Only a chain with appliances needs one.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub path: u32,
    /// Do replies count on its hops and visit its per-packet functions?
    pub symmetric: bool,
    /// What leads into it.
    pub classifiers: Vec<Classifier>,
    /// Its functions, first to last.
    pub functions: Vec<Function>,
    /// Its place in a service graph.
    #[serde(default, skip_serializing_if = "Graph::is_alone")]
    pub graph: Graph,
}

/// Where a chain is in a service graph; the default: in none.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Graph {
    /// 0: its classifiers lead into it. Else only a chain that lies less deep leads on to it.
    pub depth: u8,
    /// What may follow it, in order: the first whose classifiers match what it makes of a connection's first packet.
    pub next: Vec<Id<kind::PortChain>>,
}

impl Graph {
    fn is_alone(&self) -> bool {
        *self == Self::default()
    }
}

impl Chain {
    /// All instances of its appliances.
    pub fn instances(&self) -> impl Iterator<Item = &Instance> + '_ {
        let kinds = self.functions.iter().map(|function| &function.kind);
        kinds.flat_map(|kind| match kind {
            FunctionKind::Appliance(appliance) => appliance.instances.as_slice(),
            FunctionKind::Firewall(_)
            | FunctionKind::LoadBalancer(_)
            | FunctionKind::Shaper(_)
            | FunctionKind::Nat(_)
            | FunctionKind::Plain(_) => &[],
        })
    }
}

/// A flow classifier, on the first packet of a connection in the forward direction.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Classifier {
    /// Its id in the API.
    pub id: Id<kind::FlowClassifier>,
    /// Its name, for people.
    pub name: String,
    /// The source side; matched on the sender's host.
    pub source: Option<Side>,
    /// The destination side; matched on the receiver's host if no source is named.
    pub destination: Option<Side>,
    /// Which family; `None`: both.
    pub family: Option<Family>,
    /// The IP protocol number; `None`: any.
    pub protocol: Option<u8>,
    /// Source ports.
    pub source_ports: Option<PortRange>,
    /// Destination ports.
    pub destination_ports: Option<PortRange>,
    /// Source addresses.
    pub source_prefix: Option<Prefix>,
    /// Destination addresses.
    pub destination_prefix: Option<Prefix>,
}

/// Whose ports a classifier's side means.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Side {
    /// One port.
    Port(Id<kind::Port>),
    /// Every port of a network.
    Network(Id<kind::Network>),
    /// Every port of a project.
    Project(Id<kind::Project>),
    /// None: what comes from another chain of a service graph, where ends are not asked.
    Branch,
}

/// One hop of a chain.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Function {
    /// Its id in the API (the port pair group's).
    pub id: Id<kind::Function>,
    /// Its name, for people.
    pub name: String,
    /// What it does.
    pub kind: FunctionKind,
}

/// What a function does: the catalogue's kinds with their configuration.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FunctionKind {
    /// Ordered, stateful rules.
    Firewall(Firewall),
    /// A virtual address over members.
    LoadBalancer(LoadBalancer),
    /// An exact rate with a bounded queue.
    Shaper(Shaper),
    /// Addresses of its own in place of others'.
    Nat(Nat),
    /// A third party's, behind ports.
    Appliance(Appliance),
    /// One that needs nothing but its settings.
    Plain(Plain),
}

/// A function by its name in the catalogue, with settings that are its own affair.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Plain {
    /// What the catalogue calls it.
    pub name: String,
    /// In their full form.
    pub settings: serde_json::Value,
    /// Where the ports are that its settings name, those that are on a host which others reach.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub places: BTreeMap<Id<kind::Port>, Place>,
}

/// Appliances that stand in for one another: each connection passes one of them, in by its ingress port and out by its egress port.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Appliance {
    /// In the order of their ids.
    pub instances: Vec<Instance>,
    /// What of a connection is hashed to choose one; none: all of it.
    pub hash: Vec<HashField>,
    /// What becomes of connections while no instance is up.
    pub failure: Failure,
    /// The label of this hop, for instances that ask for one. With none they are down.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub label: Option<Label>,
    /// How the host of an instance finds out whether frames pass it; `None`: nobody does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub probe: Option<Crossing>,
}

/// How often a frame is sent through an instance, and what follows when it does not come out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Crossing {
    /// Milliseconds from one to the next.
    pub interval_ms: u32,
    /// So many in a row that did not come out make it silent.
    pub misses: u8,
    /// Of which family they are.
    pub family: Family,
}

/// A port pair.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Instance {
    /// Its id in the API.
    pub id: Id<kind::PortPair>,
    /// Its name, for people.
    pub name: String,
    /// Where forward packets go in, and replies come out.
    pub ingress: Id<kind::Port>,
    /// Where forward packets come out, and replies go in. It may be the same.
    pub egress: Id<kind::Port>,
    /// Its share of new connections; 0: it gets none, and keeps those that it has.
    pub weight: u16,
    /// Do packets go in and come out under the hop's label?
    #[serde(default, skip_serializing_if = "is_false")]
    pub labelled: bool,
    /// Was it found silent? Then it is down, whatever its ports are.
    #[serde(default, skip_serializing_if = "is_false")]
    pub silent: bool,
    /// On which host both of its ports are; `None`: on none, or on no one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub at: Option<Place>,
}

/// Where the ports of a pair are, for other hosts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Place {
    /// The VTEP of their host.
    pub vtep: IpAddr,
    /// Are both up?
    pub up: bool,
    /// The networks of ingress and egress port.
    pub vnis: [Vni; 2],
    /// The largest IP packet that both take.
    pub mtu: Mtu,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde's signature")]
const fn is_false(is: &bool) -> bool {
    !*is
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde's signature")]
const fn is_zero(path: &u32) -> bool {
    *path == 0
}

/// A part of a connection's addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HashField {
    /// The initiator's address.
    IpSrc,
    /// The responder's address.
    IpDst,
    /// The initiator's TCP port.
    TcpSrc,
    /// The responder's TCP port.
    TcpDst,
    /// The initiator's UDP port.
    UdpSrc,
    /// The responder's UDP port.
    UdpDst,
}

/// What becomes of connections that find no instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Failure {
    /// They are dropped.
    Closed,
    /// They go on behind the hop.
    Open,
}

/// Allow or deny.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Action {
    /// It passes.
    Allow,
    /// It is dropped.
    Deny,
}

/// A firewall: the first rule that matches decides, in the direction of the connection's first packet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Firewall {
    /// In order.
    pub rules: Vec<FirewallRule>,
    /// When no rule matches.
    pub default: Action,
}

/// A rule of a firewall; an absent field matches anything.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FirewallRule {
    /// Its id, stable while its place and content are.
    pub id: Id<kind::Rule>,
    /// What then.
    pub action: Action,
    /// Which family.
    pub family: Option<Family>,
    /// The IP protocol number.
    pub protocol: Option<u8>,
    /// Source addresses.
    pub source: Option<Prefix>,
    /// Destination addresses.
    pub destination: Option<Prefix>,
    /// Source ports.
    pub source_ports: Option<PortRange>,
    /// Destination ports.
    pub destination_ports: Option<PortRange>,
}

/// A load balancer: connections to `vip:port` go to one of the members.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LoadBalancer {
    /// The virtual address.
    pub vip: IpAddr,
    /// The port of the API that holds the address.
    pub vip_port: Id<kind::Port>,
    /// Its network.
    pub network: Id<kind::Network>,
    /// The MAC address that the VIP is answered with.
    pub mac: UnicastMac,
    /// TCP (6) or UDP (17).
    pub protocol: u8,
    /// The listener's port.
    pub port: u16,
    /// How a member is chosen.
    pub algorithm: Algorithm,
    /// In the order of their ids.
    pub members: Vec<Member>,
    /// How the hosts of its members ask whether they serve; `None`: nobody does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub monitor: Option<Monitor>,
}

/// How members are asked whether they serve. Each is asked by the host of its port.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Monitor {
    /// Its id in the API.
    pub id: Id<kind::HealthMonitor>,
    /// What is asked.
    pub probe: HealthProbe,
    /// Milliseconds from one probe to the next.
    pub delay_ms: u32,
    /// Milliseconds that an answer may take.
    pub timeout_ms: u32,
    /// Answers in a row that bring a member back.
    pub rise: u8,
    /// Failures in a row that take it out.
    pub fall: u8,
    /// The members that are not asked where they serve.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub elsewhere: Vec<Elsewhere>,
}

/// Where a member is asked that is not asked where it serves.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Elsewhere {
    /// Which member.
    pub member: Id<kind::Port>,
    /// At which address.
    pub addr: IpAddr,
    /// At which port.
    pub port: u16,
}

/// What a member is asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum HealthProbe {
    /// Does it take a connection at its port?
    Tcp,
    /// Does it refuse a datagram at its port? Silence is none.
    Udp,
    /// Does it answer a ping?
    Ping,
    /// Does it answer this request with one of these codes?
    Http {
        /// The request's head.
        request: String,
        /// First and last of each range of codes.
        codes: Vec<(u16, u16)>,
    },
}

/// How a load balancer chooses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Algorithm {
    /// Maglev over addresses and ports (`SOURCE_IP_PORT` of Octavia).
    Maglev,
    /// Maglev over the source address alone (`SOURCE_IP`).
    SourceIp,
    /// By weight in turn, each switch for itself (`ROUND_ROBIN`).
    RoundRobin,
}

/// A member of a load balancer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Member {
    /// What it is hashed by: stable whatever joins or leaves. The member's port, where it is one.
    pub id: Id<kind::Port>,
    /// Its address.
    pub addr: IpAddr,
    /// The port that it listens on.
    pub port: u16,
    /// Its share, 0..=256; 0 takes no new connection.
    pub weight: u16,
}

/// A shaper: what exceeds the rate waits, what exceeds the queue is dropped. Counts inner Ethernet bytes, each segment of a
/// super-frame with its own headers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Shaper {
    /// Bits a second, 8,000 to 10¹².
    pub rate_bps: u64,
    /// Bytes that may go at once after a pause.
    pub burst_bytes: u64,
    /// Bytes that may wait; what exceeds them is dropped.
    pub queue_bytes: u64,
    /// In which order they go.
    #[serde(default, skip_serializing_if = "Discipline::is_fifo")]
    pub queue: Discipline,
    /// What it is part of; the rate is its ceiling there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub share: Option<Share>,
    /// Its parts, each with a queue of its own; none: it has one queue.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub classes: Vec<Class>,
}
