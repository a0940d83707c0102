//! What does a lab file say?
//!
//! The keys of `configs/labs/*.yaml`, as written: every struct refuses unknown keys, every leaf is parsed to its
//! type, and the parser's own message names the place. What the names in it refer to is judged in
//! [`check`](super::check), which makes the valid form.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;

use controller::resources::{function::Balanced, health::Health};
use net::{Mac, PortRange, Prefix};
use nfv::catalog::{Kind, native, plain_kind};
use serde::de::{Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Serialize};
use vswitch::UplinkChoice;

use super::nat::Nat;
use crate::units::{Percent, Rate, RateRange, Size, Span, some_text};

/// A whole file.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RawLab {
    pub(crate) hosts: Vec<RawHost>,
    #[serde(default)]
    pub(crate) underlay: RawUnderlay,
    pub(crate) networks: Vec<RawNetwork>,
    #[serde(default)]
    pub(crate) gateways: Vec<RawGateway>,
    #[serde(default)]
    pub(crate) floating_ips: Vec<RawFloating>,
    #[serde(default)]
    pub(crate) trunks: Vec<RawTrunk>,
    #[serde(default)]
    pub(crate) workloads: Vec<RawWorkload>,
    #[serde(default)]
    pub(crate) security_groups: BTreeMap<String, Vec<RawRule>>,
    #[serde(default)]
    pub(crate) qos: BTreeMap<String, RawQos>,
    #[serde(default)]
    pub(crate) chains: Vec<RawChain>,
    #[serde(default)]
    pub(crate) serve: Vec<RawServe>,
    #[serde(default)]
    pub(crate) expect: Vec<RawExpect>,
}

/// `h1`, or `{name: k1, kernel_vtep: true}`.
#[derive(Debug)]
pub(crate) struct RawHost {
    pub(crate) name: String,
    pub(crate) kernel_vtep: bool,
}

#[derive(Debug, Default, Clone, Copy, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RawUnderlay {
    pub(crate) mtu: Option<u16>,
    pub(crate) loss: Option<Percent>,
    pub(crate) delay: Option<Span>,
    pub(crate) reorder: Option<Percent>,
    pub(crate) rate: Option<Rate>,
    /// One routed subnet per host instead of one bridge.
    #[serde(default)]
    pub(crate) routed: bool,
    /// How encapsulated frames cross, for every vswitch.
    pub(crate) uplink: Option<UplinkChoice>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RawNetwork {
    pub(crate) name: String,
    pub(crate) project: Option<String>,
    #[serde(default, deserialize_with = "some_text")]
    pub(crate) cidr: Option<Prefix>,
    #[serde(default, deserialize_with = "some_text")]
    pub(crate) cidr6: Option<Prefix>,
    pub(crate) mtu: Option<u16>,
    pub(crate) port_security: Option<bool>,
    /// The router that it is attached to; networks of a project with the same one are joined.
    pub(crate) router: Option<String>,
    /// May routers leave the fabric by it?
    #[serde(default)]
    pub(crate) external: bool,
    /// The QoS policy of its workloads that name none.
    pub(crate) qos: Option<String>,
}

/// Which router leaves the fabric by which network.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RawGateway {
    pub(crate) router: String,
    /// The router's.
    pub(crate) project: Option<String>,
    pub(crate) network: String,
    /// Are sources hidden? They are unless told otherwise.
    pub(crate) snat: Option<bool>,
}

/// An address of an external network for a workload.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RawFloating {
    pub(crate) network: String,
    pub(crate) workload: String,
    pub(crate) ip: Option<IpAddr>,
}

/// Workloads by the device of another.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RawTrunk {
    pub(crate) parent: String,
    pub(crate) sub_ports: Vec<RawSubPort>,
}

/// One of them, and the 802.1Q tag of its frames.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RawSubPort {
    pub(crate) workload: String,
    pub(crate) vlan: u16,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RawWorkload {
    pub(crate) name: String,
    pub(crate) host: String,
    pub(crate) network: String,
    /// One address, or one of each family.
    pub(crate) ip: Option<OneOrMany<IpAddr>>,
    #[serde(default, deserialize_with = "some_text")]
    pub(crate) mac: Option<Mac>,
    pub(crate) security_groups: Option<Vec<String>>,
    pub(crate) qos: Option<String>,
    pub(crate) metadata: Option<RawMetadata>,
}

/// What a workload hears of itself at 169.254.169.254.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RawMetadata {
    pub(crate) instance_id: Option<String>,
    pub(crate) hostname: Option<String>,
    /// SSH keys, by name.
    #[serde(default)]
    pub(crate) public_keys: BTreeMap<String, String>,
    /// As it is; the API is told it in base64.
    pub(crate) user_data: Option<String>,
}

/// A QoS policy: what its workloads send (egress) and get (ingress).
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RawQos {
    pub(crate) egress: Option<Rate>,
    pub(crate) ingress: Option<Rate>,
    /// Thousands of packets a second.
    pub(crate) egress_kpps: Option<u32>,
    pub(crate) ingress_kpps: Option<u32>,
    /// The mark of what they send.
    pub(crate) dscp: Option<u8>,
    /// The policy whose rates their workloads share at each host.
    pub(crate) within: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RawRule {
    pub(crate) direction: Direction,
    #[serde(default)]
    pub(crate) protocol: Protocol,
    pub(crate) port: Option<Ports>,
    pub(crate) ports: Option<Ports>,
    pub(crate) remote_group: Option<String>,
    #[serde(default, deserialize_with = "some_text")]
    pub(crate) remote_cidr: Option<Prefix>,
    pub(crate) ethertype: Option<Family>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Direction {
    Ingress,
    Egress,
}

impl Direction {
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Ingress => "ingress",
            Self::Egress => "egress",
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Family {
    Ipv4,
    Ipv6,
}

impl Family {
    /// The API's `ethertype`.
    pub(crate) const fn ethertype(self) -> &'static str {
        match self {
            Self::Ipv4 => "IPv4",
            Self::Ipv6 => "IPv6",
        }
    }

    pub(crate) const fn of(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(_) => Self::Ipv4,
            IpAddr::V6(_) => Self::Ipv6,
        }
    }
}

/// A rule's protocol; `Any` when the key is absent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Protocol {
    #[default]
    Any,
    Tcp,
    Udp,
    Sctp,
    /// Both families' ICMP.
    Icmp,
    Icmpv6,
    Number(u8),
}

impl Protocol {
    pub(crate) const fn has_ports(self) -> bool {
        matches!(self, Self::Tcp | Self::Udp | Self::Sctp)
    }

    /// The API's spelling.
    pub(crate) fn name(self) -> Option<String> {
        Some(match self {
            Self::Any => return None,
            Self::Tcp => "tcp".to_owned(),
            Self::Udp => "udp".to_owned(),
            Self::Sctp => "sctp".to_owned(),
            Self::Icmp => "icmp".to_owned(),
            Self::Icmpv6 => "ipv6-icmp".to_owned(),
            Self::Number(n) => n.to_string(),
        })
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RawChain {
    pub(crate) name: String,
    pub(crate) classifier: OneOrMany<RawClassifier>,
    pub(crate) functions: Vec<RawFunction>,
    pub(crate) symmetric: Option<bool>,
    /// The chains of which the first follows whose classifier matches what comes out of this one.
    #[serde(default)]
    pub(crate) next: Vec<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RawClassifier {
    /// The network that a first packet comes from.
    pub(crate) network: Option<String>,
    /// Or one workload's port.
    pub(crate) source_workload: Option<String>,
    pub(crate) destination_workload: Option<String>,
    #[serde(default)]
    pub(crate) protocol: Protocol,
    #[serde(default, deserialize_with = "some_text")]
    pub(crate) source: Option<Prefix>,
    #[serde(default, deserialize_with = "some_text")]
    pub(crate) destination: Option<Prefix>,
    pub(crate) source_port: Option<Ports>,
    pub(crate) destination_port: Option<Ports>,
    pub(crate) ethertype: Option<Family>,
}

impl RawClassifier {
    /// Does it say whose connections?
    pub(crate) fn names_an_end(&self) -> bool {
        let workloads = [&self.source_workload, &self.destination_workload];
        self.network.is_some() || workloads.iter().any(|named| named.is_some())
    }
}

/// `firewall: {…}`, `load_balancer: {…}`, `shaper: {…}`, `nat: {…}`, `appliance: {…}`, or a plain one of the catalogue.
#[derive(Debug)]
pub(crate) enum RawFunction {
    Firewall(RawFirewall),
    LoadBalancer(RawLoadBalancer),
    Shaper(RawShaper),
    Nat(Nat),
    Appliance(Appliance),
    Plain(&'static Kind, serde_json::Value),
}

/// The functions that a chain may name.
fn functions() -> String {
    native().chain(["appliance"]).collect::<Vec<_>>().join(", ")
}

/// Appliances that stand in for one another.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Appliance {
    pub(crate) pairs: Vec<Pair>,
    #[serde(default)]
    pub(crate) failure: FailurePolicy,
    pub(crate) health_probe: Option<HealthProbe>,
}

/// How it is found out whether frames pass its pairs; what is left out is the controller's to say.
#[derive(Debug, Clone, Copy, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct HealthProbe {
    #[serde(skip_serializing_if = "Option::is_none")]
    interval: Option<u8>,
    #[serde(skip_serializing_if = "Option::is_none")]
    misses: Option<u8>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ip_version: Option<u8>,
}

/// Two workloads that are one appliance's two sides.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Pair {
    pub(crate) ingress: String,
    pub(crate) egress: String,
    pub(crate) weight: Option<u16>,
    pub(crate) correlation: Option<Correlation>,
}

#[derive(Debug, Clone, Copy, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum FailurePolicy {
    #[default]
    Closed,
    Open,
}

impl FailurePolicy {
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::Open => "open",
        }
    }
}

#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Correlation {
    Mpls,
}

impl Correlation {
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Mpls => "mpls",
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Action {
    Allow,
    #[default]
    Deny,
}

impl Action {
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Allow => "allow",
            Self::Deny => "deny",
        }
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RawFirewall {
    #[serde(default)]
    pub(crate) rules: Vec<RawFirewallRule>,
    #[serde(default)]
    pub(crate) default: Action,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RawFirewallRule {
    pub(crate) action: Action,
    #[serde(default, deserialize_with = "some_text")]
    pub(crate) source: Option<Prefix>,
    #[serde(default, deserialize_with = "some_text")]
    pub(crate) destination: Option<Prefix>,
    #[serde(default)]
    pub(crate) protocol: Protocol,
    pub(crate) source_port: Option<Ports>,
    pub(crate) destination_port: Option<Ports>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RawLoadBalancer {
    pub(crate) vip: IpAddr,
    pub(crate) port: u16,
    #[serde(default)]
    pub(crate) protocol: LbProtocol,
    #[serde(default)]
    pub(crate) algorithm: Algorithm,
    pub(crate) members: Vec<RawMember>,
    pub(crate) health: Option<Health>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum LbProtocol {
    #[default]
    Tcp,
    Udp,
}

impl LbProtocol {
    pub(crate) const fn balanced(self) -> Balanced {
        match self {
            Self::Tcp => Balanced::Tcp,
            Self::Udp => Balanced::Udp,
        }
    }

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Algorithm {
    /// Over addresses and ports.
    #[default]
    Maglev,
    /// Over the client's address: it keeps its member.
    SourceIp,
    /// By weight in turn.
    RoundRobin,
}

impl Algorithm {
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Maglev => "maglev",
            Self::SourceIp => "source_ip",
            Self::RoundRobin => "round_robin",
        }
    }
}

/// `web-1`, or `{workload: web-1, weight: 2, port: 8080}`.
#[derive(Debug)]
pub(crate) struct RawMember {
    pub(crate) workload: String,
    pub(crate) weight: Option<u16>,
    pub(crate) port: Option<u16>,
}

/// How packets wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Queue {
    /// Flows take turns.
    FqCodel,
    /// First in, first out.
    Fifo,
}

impl Queue {
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::FqCodel => "fq_codel",
            Self::Fifo => "fifo",
        }
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RawShaper {
    pub(crate) rate: Rate,
    pub(crate) burst: Option<Size>,
    pub(crate) queue: Option<Queue>,
    #[serde(default)]
    pub(crate) classes: Vec<Class>,
}

/// A part of a shaper's traffic.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Class {
    #[serde(default)]
    pub(crate) dscp: Vec<u8>,
    pub(crate) rate: Rate,
    pub(crate) ceil: Option<Rate>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RawServe {
    pub(crate) workload: String,
    pub(crate) http: Option<u16>,
    pub(crate) tcp: Option<u16>,
    pub(crate) udp: Option<u16>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RawExpect {
    pub(crate) from: Option<OneOrMany<String>>,
    pub(crate) to: Option<OneOrMany<String>>,
    pub(crate) ping: Option<PingTarget>,
    pub(crate) ping6: Option<PingTarget>,
    pub(crate) all_pairs: Option<PairKind>,
    pub(crate) http: Option<String>,
    pub(crate) spread_over: Option<Vec<String>>,
    pub(crate) tcp: Option<String>,
    pub(crate) udp: Option<String>,
    pub(crate) is: Option<Reach>,
    pub(crate) throughput: Option<RateRange>,
    #[serde(default)]
    pub(crate) not: bool,
}

/// What a connection attempt came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Reach {
    Reachable,
    RefusedByPolicy,
    Unreachable,
}

impl Reach {
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Reachable => "reachable",
            Self::RefusedByPolicy => "refused_by_policy",
            Self::Unreachable => "unreachable",
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum PairKind {
    Ping,
    Ping6,
}

/// `ping: web-1`, or `ping: true` beside `to`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum PingTarget {
    Those,
    One(String),
}

/// One port or `80-90`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Ports(pub(crate) PortRange);

/// A value, or a list of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct OneOrMany<T>(pub(crate) Vec<T>);

/// Reads a file's text. The error is one line that names the place.
pub(crate) fn parse(text: &str) -> Result<RawLab, serde_norway::Error> {
    serde_norway::from_str(text)
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for OneOrMany<T> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Either<T>(std::marker::PhantomData<T>);
        impl<'de, T: Deserialize<'de>> Visitor<'de> for Either<T> {
            type Value = OneOrMany<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a value or a list")
            }

            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Self::Value, E> {
                T::deserialize(serde::de::value::StrDeserializer::new(text))
                    .map(|v| OneOrMany(vec![v]))
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Self::Value, A::Error> {
                T::deserialize(serde::de::value::MapAccessDeserializer::new(map))
                    .map(|v| OneOrMany(vec![v]))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
                let mut all = Vec::new();
                while let Some(next) = seq.next_element()? {
                    all.push(next);
                }
                Ok(OneOrMany(all))
            }
        }
        from.deserialize_any(Either(std::marker::PhantomData))
    }
}

impl<'de> Deserialize<'de> for RawHost {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Long {
            name: String,
            #[serde(default)]
            kernel_vtep: bool,
        }
        match NameOr::<Long>::deserialize(from)? {
            NameOr::Name(name) => Ok(Self {
                name,
                kernel_vtep: false,
            }),
            NameOr::Long(long) => Ok(Self {
                name: long.name,
                kernel_vtep: long.kernel_vtep,
            }),
        }
    }
}

impl<'de> Deserialize<'de> for RawMember {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Long {
            workload: String,
            weight: Option<u16>,
            port: Option<u16>,
        }
        match NameOr::<Long>::deserialize(from)? {
            NameOr::Name(workload) => Ok(Self {
                workload,
                weight: None,
                port: None,
            }),
            NameOr::Long(long) => Ok(Self {
                workload: long.workload,
                weight: long.weight,
                port: long.port,
            }),
        }
    }
}

/// A bare name, or a map that has it and more. An untagged enum would lose the message of what is wrong inside.
enum NameOr<T> {
    Name(String),
    Long(T),
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for NameOr<T> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Either<T>(std::marker::PhantomData<T>);
        impl<'de, T: Deserialize<'de>> Visitor<'de> for Either<T> {
            type Value = NameOr<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a name or a map")
            }

            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Self::Value, E> {
                Ok(NameOr::Name(text.to_owned()))
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Self::Value, A::Error> {
                T::deserialize(serde::de::value::MapAccessDeserializer::new(map)).map(NameOr::Long)
            }
        }
        from.deserialize_any(Either(std::marker::PhantomData))
    }
}

impl<'de> Deserialize<'de> for RawFunction {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct OneKey;
        impl<'de> Visitor<'de> for OneKey {
            type Value = RawFunction;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "one function with its settings, of: {}", functions())
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let Some(kind) = map.next_key::<String>()? else {
                    return Err(A::Error::custom(format!(
                        "an empty function; name one of: {}",
                        functions()
                    )));
                };
                let function = match kind.as_str() {
                    "firewall" => RawFunction::Firewall(map.next_value()?),
                    "load_balancer" => RawFunction::LoadBalancer(map.next_value()?),
                    "shaper" => RawFunction::Shaper(map.next_value()?),
                    "nat" => RawFunction::Nat(map.next_value()?),
                    "appliance" => RawFunction::Appliance(map.next_value()?),
                    other => {
                        let Some(plain) = plain_kind(other) else {
                            return Err(A::Error::custom(format!(
                                "no function is called `{other}`; name one of: {}",
                                functions()
                            )));
                        };
                        RawFunction::Plain(plain, map.next_value()?)
                    }
                };
                match map.next_key::<String>()? {
                    None => Ok(function),
                    Some(more) => Err(A::Error::custom(format!(
                        "`{more}` beside `{kind}`; give each function its own list item"
                    ))),
                }
            }
        }
        from.deserialize_map(OneKey)
    }
}

impl<'de> Deserialize<'de> for Protocol {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct NameOrNumber;
        impl Visitor<'_> for NameOrNumber {
            type Value = Protocol;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("tcp, udp, sctp, icmp, icmpv6, any or a number up to 255")
            }

            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Protocol, E> {
                Ok(match text {
                    "any" => Protocol::Any,
                    "tcp" => Protocol::Tcp,
                    "udp" => Protocol::Udp,
                    "sctp" => Protocol::Sctp,
                    "icmp" => Protocol::Icmp,
                    "icmpv6" | "ipv6-icmp" => Protocol::Icmpv6,
                    _ => return Err(E::invalid_value(serde::de::Unexpected::Str(text), &self)),
                })
            }

            fn visit_u64<E: serde::de::Error>(self, number: u64) -> Result<Protocol, E> {
                u8::try_from(number)
                    .map(Protocol::Number)
                    .map_err(|_number| {
                        E::invalid_value(serde::de::Unexpected::Unsigned(number), &self)
                    })
            }
        }
        from.deserialize_any(NameOrNumber)
    }
}

impl<'de> Deserialize<'de> for PingTarget {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct TrueOrName;
        impl Visitor<'_> for TrueOrName {
            type Value = PingTarget;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a workload, an address, or `true` beside `to`")
            }

            fn visit_bool<E: serde::de::Error>(self, those: bool) -> Result<PingTarget, E> {
                if those {
                    Ok(PingTarget::Those)
                } else {
                    Err(E::custom(
                        "`false` says nothing; write `not: true` to expect no answer",
                    ))
                }
            }

            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<PingTarget, E> {
                Ok(PingTarget::One(text.to_owned()))
            }
        }
        from.deserialize_any(TrueOrName)
    }
}

impl<'de> Deserialize<'de> for Ports {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct NumberOrRange;
        impl Visitor<'_> for NumberOrRange {
            type Value = Ports;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a port from 1 to 65535, or a range like 80-90")
            }

            fn visit_u64<E: serde::de::Error>(self, number: u64) -> Result<Ports, E> {
                match u16::try_from(number) {
                    Ok(port) if port > 0 => Ok(Ports(PortRange::one(port))),
                    _ => Err(E::invalid_value(
                        serde::de::Unexpected::Unsigned(number),
                        &self,
                    )),
                }
            }

            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Ports, E> {
                let refuse = || E::invalid_value(serde::de::Unexpected::Str(text), &self);
                let (low, high) = text.split_once(['-', ':']).unwrap_or((text, text));
                let low: u16 = low.trim().parse().map_err(|_number| refuse())?;
                let high: u16 = high.trim().parse().map_err(|_number| refuse())?;
                match PortRange::new(low, high) {
                    Ok(range) if low > 0 => Ok(Ports(range)),
                    _ => Err(refuse()),
                }
            }
        }
        from.deserialize_any(NumberOrRange)
    }
}
