//! What does a packet meet at one hop of a chain?
//!
//! A port pair group of networking-sfc. Its own attribute `network_function` names a native function; without one it is the appliances
//! of its port pairs, which stand in for one another.
//!
//! Each address of a NAT is a port too (`device_owner` `overweave:nat`); an address that stays keeps its port, and so its MAC address,
//! whatever else of the NAT changes. `nat_port_ids` names them.
//!
//! A load balancer's virtual address is a port of its own on the address's network, made, changed and
//! deleted with the group (`device_owner` `overweave:load_balancer`, `device_id` the group's id), so
//! that nobody else gets the address. `vip_port_id` names it.

use crate::{
    api::Scene,
    refusal::Refusal,
    resource::{
        ALL, Absent, Claim, Kind, Meta, Objects, Operations, Ops, Policy, Resource, Spec, Verb,
        field,
    },
    resources::{
        FlowClassifier, Port, PortChain, PortPair, Subnet,
        function::{self, LoadBalancer, NetworkFunction, Target},
        nat::Nat,
        network,
        port::{NAT_OWNER, VIP_OWNER, WantedIp},
    },
    rules::{Caller, Change, Judged, Rule, Write},
    store::{Read, View},
};
use nfv::catalog::{self, plain_kind};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};
use uuid::Uuid;

/// The largest number of a chain that a label has room for.
const LABELS: u32 = 4095;

/// The most pairs of a group.
const PAIRS: usize = 64;

/// A pair of a group, with what hosts are told of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Instance {
    /// The pair.
    pub id: Uuid,
    /// Its name.
    pub name: String,
    /// Where forward packets go in.
    pub ingress: Uuid,
    /// Where they come out.
    pub egress: Uuid,
    /// Its share of new connections.
    pub weight: u16,
    /// Does it get its frames under labels?
    #[serde(default)]
    pub labelled: bool,
    /// Do frames pass it? `None`: it is not known, or nobody asks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub serves: Option<bool>,
}

/// How the pairs of a group are asked whether frames pass them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct HealthProbe {
    /// Seconds from one frame to the next.
    pub interval: u8,
    /// So many in a row that did not come out take a pair out.
    pub misses: u8,
    /// Of which family they are.
    pub ip_version: u8,
}

/// A part of a connection's addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LbField {
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

/// How appliances are chosen.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct GroupParameters {
    /// What of a connection is hashed to choose a pair; none: all of it.
    pub lb_fields: Vec<LbField>,
    /// What appliances translate: nothing.
    pub ppg_n_tuple_mapping: TupleMapping,
}

/// What appliances translate: nothing.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct TupleMapping {
    /// Before.
    pub ingress_n_tuple: BTreeMap<String, String>,
    /// Behind.
    pub egress_n_tuple: BTreeMap<String, String>,
}

/// What becomes of connections while no pair is up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FailurePolicy {
    /// They are dropped.
    #[default]
    Closed,
    /// They go on behind the hop.
    Open,
}

/// A port pair group.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortPairGroup {
    /// What every object has.
    #[serde(flatten)]
    pub meta: Meta,
    /// The native function of this hop.
    #[serde(default)]
    pub network_function: Option<NetworkFunction>,
    /// The appliances of this hop.
    #[serde(default)]
    pub port_pairs: Vec<Uuid>,
    /// Is its pair shown copies, and nothing more?
    #[serde(default)]
    pub tap_enabled: bool,
    /// What hosts are told of them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub instances: Vec<Instance>,
    /// How one is chosen.
    #[serde(default)]
    pub port_pair_group_parameters: GroupParameters,
    /// What becomes of connections while none is up.
    #[serde(default)]
    pub failure_policy: FailurePolicy,
    /// How its pairs are asked whether frames pass them; `None`: nobody asks.
    #[serde(default)]
    pub health_probe: Option<HealthProbe>,
    /// The port that holds a load balancer's virtual address.
    #[serde(default)]
    pub vip_port_id: Option<Uuid>,
    /// What hosts found of a load balancer's members while it has them asked, by the ids under which switches know them.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub serving: BTreeMap<Uuid, bool>,
    /// The ports that hold a NAT's addresses.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub nat_ports: BTreeMap<IpAddr, Uuid>,
    /// A small number for it.
    #[serde(default)]
    pub group_id: u32,
}

impl PortPairGroup {
    /// Does it name neither a function nor appliances?
    pub const fn is_empty(&self) -> bool {
        self.network_function.is_none() && self.port_pairs.is_empty()
    }

    /// Its load balancer, if it is one.
    pub const fn load_balancer(&self) -> Option<&LoadBalancer> {
        match &self.network_function {
            Some(NetworkFunction::LoadBalancer(balancer)) => Some(balancer),
            _ => None,
        }
    }

    /// The same, to change.
    pub const fn load_balancer_mut(&mut self) -> Option<&mut LoadBalancer> {
        match &mut self.network_function {
            Some(NetworkFunction::LoadBalancer(balancer)) => Some(balancer),
            _ => None,
        }
    }
}

impl PortPairGroup {
    /// Under which id switches know a member; one named by its address alone has a name of its own under the virtual address's port.
    pub fn member_id(&self, target: Target) -> Option<Uuid> {
        match target {
            Target::Port(id) => Some(id),
            Target::Address(address) => Some(named_by_address(self.vip_port_id?, address)),
        }
    }

    /// Does a member serve? `None`: it is not known, or nobody asks.
    pub fn serves(&self, target: Target) -> Option<bool> {
        self.serving.get(&self.member_id(target)?).copied()
    }

    fn member_statuses(&self) -> Vec<Value> {
        let members = self.load_balancer().map(|lb| lb.members.as_slice());
        let members = members.unwrap_or_default().iter();
        let told = members.map(|member| {
            let status = match self.serves(member.target) {
                Some(true) => "ONLINE",
                Some(false) => "ERROR",
                None => "NO_MONITOR",
            };
            match member.target {
                Target::Port(id) => json!({"port_id": id, "operating_status": status}),
                Target::Address(address) => {
                    json!({"address": address, "operating_status": status})
                }
            }
        });
        told.collect()
    }
}

/// The id of a member that is named by its address alone.
pub(crate) fn named_by_address(vip_port: Uuid, address: IpAddr) -> Uuid {
    Uuid::new_v5(&vip_port, address.to_string().as_bytes())
}

impl PortPairGroup {
    /// Its NAT, if it is one.
    pub const fn nat(&self) -> Option<&Nat> {
        match &self.network_function {
            Some(NetworkFunction::Nat(nat)) => Some(nat),
            _ => None,
        }
    }

    /// The same, to change.
    pub const fn nat_mut(&mut self) -> Option<&mut Nat> {
        match &mut self.network_function {
            Some(NetworkFunction::Nat(nat)) => Some(nat),
            _ => None,
        }
    }
}

static OPS: Ops<PortPairGroup> = Ops::new();

impl Resource for PortPairGroup {
    const SPEC: &'static Spec = &Spec {
        singular: "port_pair_group",
        plural: "port_pair_groups",
        path: "sfc/port_pair_groups",
        storage: "port_pair_group",
        title: "PortPairGroup",
        doc: "One hop of a chain.",
        verbs: ALL,
        policy: Policy::Anyone,
        quota: Some(("port_pair_group", 10)),
        tags: false,
        bare: false,
        fields: &[
            field(
                "port_pairs",
                Kind::Uuids,
                "The appliances, without a native function.",
            )
            .writable(Absent::List),
            field(
                "failure_policy",
                Kind::OneOf(&["closed", "open"]),
                "Drop connections, or pass the hop by, while no appliance is up.",
            )
            .writable(Absent::Text("closed")),
            field(
                "health_probe",
                Kind::Shape(probe_shape),
                "Send frames through its appliances: interval (seconds, 1 to 60; 1), misses (1 to 10; 3), ip_version (4 or 6; 4).",
            )
            .writable(Absent::Null)
            .or_null()
            .unfiltered(),
            field(
                "network_function",
                Kind::Shape(function::shape),
                "The native function.",
            )
            .writable(Absent::Null)
            .or_null()
            .unfiltered(),
            field(
                "vip_port_id",
                Kind::Uuid,
                "The port of a load balancer's virtual address.",
            )
            .or_null(),
            field(
                "member_statuses",
                Kind::Shape(list_shape),
                "What a load balancer's `health` found of each member.",
            )
            .computed()
            .unfiltered(),
            field(
                "nat_port_ids",
                Kind::Uuids,
                "The ports of a NAT's addresses.",
            )
            .computed(),
            field(
                "tap_enabled",
                Kind::Bool,
                "Does its pair get copies alone, by its ingress port?",
            )
            .create_only(Absent::Bool(false)),
            field(
                "port_pair_group_parameters",
                Kind::Shape(parameters_shape),
                "What of a connection chooses its appliance.",
            )
            .create_only(Absent::Object)
            .or_null()
            .unfiltered(),
            field("group_id", Kind::Int(0, 65_535), "A small number for it."),
        ],
        actions: &[],
        parts: &[],
        ops: &OPS as &dyn Operations,
    };
    const RULES: &'static [Rule<Self>] = &[
        numbering,
        members,
        targets,
        named,
        virtual_address,
        known_members,
        nat_addresses,
        pairs,
        chains,
    ];

    fn meta(&self) -> &Meta {
        &self.meta
    }

    fn meta_mut(&mut self) -> &mut Meta {
        &mut self.meta
    }

    fn index(&self) -> Vec<(&'static str, String)> {
        let members = self
            .load_balancer()
            .map(|balancer| balancer.members.as_slice());
        let mut ports = BTreeSet::new();
        let members = members.unwrap_or_default().iter().map(|m| m.target);
        let forwarded = self.nat().into_iter().flat_map(Nat::targets);
        for target in members.chain(forwarded.map(|(_, _, to)| to)) {
            if let Target::Port(id) = target {
                ports.insert(id);
            }
        }
        let pairs = self
            .port_pairs
            .iter()
            .map(|id| ("port_pairs", id.to_string()));
        let members = ports.into_iter().map(|id| ("member", id.to_string()));
        members.chain(pairs).collect()
    }

    fn derive(&self, field: &str, _: &Scene<'_>) -> Value {
        match field {
            "member_statuses" => json!(self.member_statuses()),
            "nat_port_ids" => json!(self.nat_ports.values().collect::<Vec<_>>()),
            _ => Value::Null,
        }
    }

    fn intake(fields: &mut serde_json::Map<String, Value>) -> Result<(), Refusal> {
        let given = fields.get("port_pair_group_parameters");
        let lb_fields = given.and_then(|given| given.get("lb_fields")).cloned();
        let full = json!({
            "lb_fields": lb_fields.filter(|l| !l.is_null()).unwrap_or_else(|| json!([])),
            "ppg_n_tuple_mapping": TupleMapping::default(),
        });
        fields.insert("port_pair_group_parameters".to_owned(), full);
        Ok(())
    }
}

fn list_shape(value: &Value) -> Result<Value, String> {
    if value.is_array() {
        Ok(value.clone())
    } else {
        Err(format!("'{value}' is not a list"))
    }
}

fn probe_shape(value: &Value) -> Result<Value, String> {
    let Some(object) = value.as_object() else {
        return Err(format!("'{value}' is not a dictionary"));
    };
    let mut full = BTreeMap::from([("interval", 1_u8), ("misses", 3), ("ip_version", 4)]);
    for (name, value) in object {
        let text = value
            .as_str()
            .map_or_else(|| value.to_string(), str::to_owned);
        let number = text.parse::<u8>().ok();
        let (fits, bounds) = match name.as_str() {
            "interval" => (1..=60, "is not in the range 1 to 60"),
            "misses" => (1..=10, "is not in the range 1 to 10"),
            "ip_version" => (4..=6, "is not in [4, 6]"),
            other => return Err(format!("Unknown keys in dictionary: {other}")),
        };
        let fits = |n: &u8| fits.contains(n) && (name != "ip_version" || *n != 5);
        let number = number.filter(fits);
        full.insert(
            name,
            number.ok_or_else(|| format!("{name}: '{text}' {bounds}"))?,
        );
    }
    Ok(json!(full))
}

/// What is empty says nothing.
fn says_something(value: &Value) -> bool {
    match value {
        Value::Object(object) => object.values().any(says_something),
        Value::Array(items) => !items.is_empty(),
        Value::Null => false,
        Value::Bool(_) | Value::Number(_) | Value::String(_) => true,
    }
}

fn parameters_shape(value: &Value) -> Result<Value, String> {
    let Some(object) = value.as_object() else {
        return Err(format!("'{value}' is not a dictionary"));
    };
    for (name, value) in object {
        match name.as_str() {
            "lb_fields" if value.is_null() => {}
            "lb_fields" => {
                let fields = value
                    .as_array()
                    .ok_or_else(|| format!("'{value}' is not a list"))?;
                for field in fields {
                    let word = field.as_str().unwrap_or_default();
                    if ["eth_src", "eth_dst"].contains(&word) {
                        return Err(format!("lb_fields: {word} is not supported"));
                    }
                    if serde_json::from_value::<LbField>(field.clone()).is_err() {
                        return Err(format!("Illegal values in a list: {word}"));
                    }
                }
            }
            "ppg_n_tuple_mapping" if !says_something(value) => {}
            "ppg_n_tuple_mapping" => {
                return Err(
                    "ppg_n_tuple_mapping is not supported: what comes back must show the addresses that went in"
                        .to_owned(),
                );
            }
            other => return Err(format!("Unknown keys in dictionary: {other}")),
        }
    }
    Ok(value.clone())
}

/// The lowest free number of a counter whose keys are claims.
pub(super) fn lowest_number(view: &View, prefix: &str, last: u32) -> Option<u32> {
    let mut candidate = 1;
    for (key, _) in view.scan(prefix) {
        let held = key
            .get(prefix.len()..)
            .and_then(|hex| u32::from_str_radix(hex, 16).ok());
        if held != Some(candidate) {
            break;
        }
        candidate += 1;
    }
    (candidate <= last).then_some(candidate)
}

fn numbering(view: &View, change: &Change<'_, PortPairGroup>, _: &Caller) -> Judged {
    const PREFIX: &str = "unique/port_pair_group/";
    match (change.verb, change.before, change.after) {
        (Verb::Create, _, Some(new)) => {
            let group_id = lowest_number(view, PREFIX, 65_535).ok_or_else(|| {
                Refusal::conflict(
                    "PortPairGroupsExhausted",
                    "All port pair group numbers are in use.",
                )
            })?;
            Ok(vec![
                Write::Claim(format!("{PREFIX}{group_id:04x}"), new.meta.id),
                Write::amend(PortPairGroup {
                    group_id,
                    ..new.clone()
                }),
            ])
        }
        (Verb::Delete, Some(gone), _) => Ok(vec![Write::Release(format!(
            "{PREFIX}{:04x}",
            gone.group_id
        ))]),
        _ => Ok(Vec::new()),
    }
}

/// Members are ports or addresses of the virtual address's network, of its family and project.
fn members(view: &View, change: &Change<'_, PortPairGroup>, caller: &Caller) -> Judged {
    let Some(after) = change.after.filter(|_| change.is_asked()) else {
        return Ok(Vec::new());
    };
    let Some(balancer) = after.load_balancer() else {
        return Ok(Vec::new());
    };
    let mut networks = BTreeSet::new();
    for member in &balancer.members {
        let Target::Port(id) = member.target else {
            continue;
        };
        let port = view.object::<Port>(id);
        let port = port.filter(|port| caller.owns(&port.meta.project_id));
        let port = port.ok_or_else(|| Refusal::missing("Port", id))?;
        let family = |ip: &crate::resources::port::FixedIp| {
            ip.ip_address.is_ipv4() == balancer.vip.is_ipv4()
        };
        if !port.fixed_ips.iter().any(family) {
            return Err(Refusal::attribute(
                "network_function",
                format_args!(
                    "member {id} has no address of the family of {}",
                    balancer.vip
                ),
            ));
        }
        networks.insert(port.network_id);
    }
    let network_id = match balancer.network_id {
        Some(id) => {
            network::open(view, id, caller, "create_port_pair_group")?
                .meta
                .id
        }
        None => match networks.first() {
            Some(id) => *id,
            None => {
                return Err(Refusal::attribute(
                    "network_function",
                    "no member is a port, so network_id must say where the vip is",
                ));
            }
        },
    };
    if let Some(other) = networks.iter().find(|id| **id != network_id) {
        return Err(Refusal::attribute(
            "network_function",
            format_args!("members are on network {other}, the vip is on {network_id}"),
        ));
    }
    for member in &balancer.members {
        if let Target::Address(address) = member.target
            && (address.is_ipv4() != balancer.vip.is_ipv4() || address == balancer.vip)
        {
            return Err(Refusal::attribute(
                "network_function",
                format_args!("{address} cannot be a member of {}", balancer.vip),
            ));
        }
    }
    let mut placed = after.clone();
    if let Some(balancer) = placed.load_balancer_mut() {
        balancer.network_id = Some(network_id);
    }
    Ok(vec![Write::amend(placed)])
}

/// The ports that a plain function's settings name are of its own project: what goes by it must not be shown to another.
fn named(view: &View, change: &Change<'_, PortPairGroup>, _caller: &Caller) -> Judged {
    let Some(after) = change.after.filter(|_| change.is_asked()) else {
        return Ok(Vec::new());
    };
    let Some(NetworkFunction::Plain(plain)) = &after.network_function else {
        return Ok(Vec::new());
    };
    let keys = plain_kind(&plain.name).map_or(&[][..], catalog::Kind::ports);
    for id in keys
        .iter()
        .filter_map(|key| plain.settings.get(key)?.as_str())
    {
        let id = id.parse::<Uuid>().map_err(|_not_an_id| {
            Refusal::attribute("network_function", format_args!("{id} is no port's id"))
        })?;
        let port = view.object::<Port>(id);
        let port = port.filter(|port| port.meta.project_id == after.meta.project_id);
        port.ok_or_else(|| Refusal::missing("Port", id))?;
    }
    Ok(Vec::new())
}

/// Whom a NAT forwards to are ports or addresses of its network, of the family of the address that they are reached by.
fn targets(view: &View, change: &Change<'_, PortPairGroup>, caller: &Caller) -> Judged {
    let after = change.after.filter(|_| change.is_asked());
    let Some((after, nat)) = after.and_then(|group| Some((group, group.nat()?))) else {
        return Ok(Vec::new());
    };
    let wrong = |field: &str, why: std::fmt::Arguments<'_>| {
        Refusal::attribute("network_function", format_args!("nat: {field}: {why}"))
    };
    let (own, mut networks) = (nat.own(), BTreeSet::new());
    for (field, address, to) in nat.targets() {
        match to {
            Target::Port(id) => {
                let port = view.object::<Port>(id);
                let port = port.filter(|port| caller.owns(&port.meta.project_id));
                let port = port.ok_or_else(|| Refusal::missing("Port", id))?;
                let mut of_family = port.fixed_ips.iter().map(|ip| ip.ip_address);
                if !of_family.any(|a| a.is_ipv4() == address.is_ipv4()) {
                    return Err(wrong(
                        &field,
                        format_args!("{id} has no address of the family of {address}"),
                    ));
                }
                networks.insert(port.network_id);
            }
            Target::Address(a) if a.is_ipv4() != address.is_ipv4() => {
                return Err(wrong(
                    &field,
                    format_args!("{a} is not of the family of {address}"),
                ));
            }
            Target::Address(a) if own.contains(&a) => {
                return Err(wrong(&field, format_args!("{a} is the nat's own")));
            }
            Target::Address(_) => {}
        }
    }
    let network_id = match (nat.network_id, networks.first()) {
        (Some(id), _) => {
            network::open(view, id, caller, "create_port_pair_group")?
                .meta
                .id
        }
        (None, Some(id)) => *id,
        (None, None) => {
            return Err(wrong(
                "network_id",
                format_args!(
                    "nothing is forwarded to a port, so it must say where the addresses are"
                ),
            ));
        }
    };
    if let Some(other) = networks.iter().find(|id| **id != network_id) {
        return Err(wrong(
            "network_id",
            format_args!("targets are on network {other}, the addresses on {network_id}"),
        ));
    }
    for chain in view.related::<PortChain>("port_pair_groups", after.meta.id) {
        if let Some(why) = never_hidden(view, nat, network_id, &chain) {
            return Err(wrong("addresses", format_args!("{why}")));
        }
    }
    let mut placed = after.clone();
    if let Some(nat) = placed.nat_mut() {
        nat.network_id = Some(network_id);
    }
    Ok(vec![Write::amend(placed)])
}

/// Why a NAT could hide nobody of a classifier of this chain: answers to its addresses find only who is on their network. `None`: it can.
pub(super) fn never_hidden(
    view: &View,
    nat: &Nat,
    network_id: Uuid,
    chain: &PortChain,
) -> Option<String> {
    let mut classifiers = chain
        .flow_classifiers
        .iter()
        .filter(|_| !nat.addresses.is_empty());
    classifiers.find_map(|id| {
        let classifier = view.object::<FlowClassifier>(*id)?;
        let side = |port: Option<Uuid>, network: Option<Uuid>| {
            network.or_else(|| Some(view.object::<Port>(port?)?.network_id))
        };
        let source = side(
            classifier.logical_source_port,
            classifier.logical_source_network,
        );
        let enters = source.or_else(|| {
            side(
                classifier.logical_destination_port,
                classifier.logical_destination_network,
            )
        })?;
        (enters != network_id).then(|| {
            format!(
                "classifier {id} is of network {enters}, the addresses are on {network_id}: none of its sources could be hidden"
            )
        })
    })
}

/// The subnet of a network that an address is from.
fn subnet_of(view: &View, network_id: Uuid, address: IpAddr) -> Result<Uuid, Refusal> {
    let subnets = view.related::<Subnet>("network_id", network_id);
    let subnet = subnets.iter().find(|subnet| subnet.cidr.contains(address));
    subnet.map(|subnet| subnet.meta.id).ok_or_else(|| {
        Refusal::invalid(
            "InvalidIpForNetwork",
            format!(
                "IP address {address} is not a valid IP for any of the subnets on the specified network."
            ),
        )
    })
}

/// The ports that hold a NAT's addresses come and go with these.
fn nat_addresses(view: &View, change: &Change<'_, PortPairGroup>, _: &Caller) -> Judged {
    let network = |group: Option<&PortPairGroup>| group?.nat()?.network_id;
    let moved = network(change.before) != network(change.after);
    let held = change.before.map(|group| group.nat_ports.clone());
    let (held, mut writes) = (held.unwrap_or_default(), Vec::new());
    let wanted = change.after.and_then(PortPairGroup::nat).map(Nat::own);
    let wanted = wanted.unwrap_or_default();
    let mut ports = BTreeMap::new();
    for (address, id) in held {
        if !moved && wanted.contains(&address) {
            ports.insert(address, id);
        } else {
            writes.push(Write::Remove(Port::SPEC, id));
        }
    }
    let Some(after) = change.after else {
        return Ok(writes);
    };
    if let Some(network_id) = network(Some(after)) {
        for address in wanted {
            if ports.contains_key(&address) {
                continue;
            }
            let subnet_id = subnet_of(view, network_id, address)?;
            let id = change.moment.dice.uuid();
            let meta = Meta::new(
                id,
                &after.meta.project_id,
                format!("nat address of {}", after.meta.name),
            );
            let ip = WantedIp {
                subnet_id: Some(subnet_id),
                ip_address: Some(address),
            };
            let mut port = Port::new(meta, network_id, vec![ip]);
            NAT_OWNER.clone_into(&mut port.device_owner);
            port.device_id = after.meta.id.to_string();
            writes.push(Write::put(port));
            ports.insert(address, id);
        }
    }
    if ports != after.nat_ports {
        writes.push(Write::amend(PortPairGroup {
            nat_ports: ports,
            ..after.clone()
        }));
    }
    Ok(writes)
}

/// The port that holds the virtual address comes, changes and goes with the group.
fn virtual_address(view: &View, change: &Change<'_, PortPairGroup>, _: &Caller) -> Judged {
    let place = |group: Option<&PortPairGroup>| -> Option<(Uuid, std::net::IpAddr)> {
        let balancer = group?.load_balancer()?;
        Some((balancer.network_id?, balancer.vip))
    };
    let (old, new) = (place(change.before), place(change.after));
    if old == new {
        return Ok(Vec::new());
    }
    let mut writes = Vec::new();
    if let Some(id) = change.before.and_then(|group| group.vip_port_id) {
        writes.push(Write::Remove(Port::SPEC, id));
    }
    let Some(after) = change.after else {
        return Ok(writes);
    };
    let mut group = after.clone();
    group.vip_port_id = None;
    if let Some((network_id, vip)) = new {
        let subnet_id = subnet_of(view, network_id, vip)?;
        let id = change.moment.dice.uuid();
        let meta = Meta::new(
            id,
            &group.meta.project_id,
            format!("vip of {}", group.meta.name),
        );
        let wanted = WantedIp {
            subnet_id: Some(subnet_id),
            ip_address: Some(vip),
        };
        let mut port = Port::new(meta, network_id, vec![wanted]);
        VIP_OWNER.clone_into(&mut port.device_owner);
        port.device_id = group.meta.id.to_string();
        group.vip_port_id = Some(id);
        writes.push(Write::put(port));
    }
    writes.push(Write::amend(group));
    Ok(writes)
}

/// A tap has one pair, which gets copies and gives nothing back.
fn copied_to(tap: &PortPairGroup) -> Result<(), Refusal> {
    if tap.network_function.is_some() {
        return Err(Refusal::attribute(
            "tap_enabled",
            "the group has a network_function: its mirror copies to a port",
        ));
    }
    if tap.health_probe.is_some() {
        return Err(Refusal::attribute(
            "health_probe",
            "nothing comes out of a tap that could be asked for",
        ));
    }
    if tap.port_pairs.len() > 1 {
        return Err(Refusal::invalid(
            "MultiplePortPairsInTapPPGNotSupported",
            "Multiple port pairs in Tap port-pair-group is not allowed.",
        ));
    }
    Ok(())
}

/// Its pairs are the caller's and no other group's, and it names no native function beside them.
fn pairs(view: &View, change: &Change<'_, PortPairGroup>, caller: &Caller) -> Judged {
    let key = |id: &Uuid| format!("unique/group_of_pair/{id}");
    let of = |group: Option<&PortPairGroup>| {
        group
            .map(|group| group.port_pairs.clone())
            .unwrap_or_default()
    };
    let (old, new) = (of(change.before), of(change.after));
    if let Some(after) = change.after
        && after.network_function.is_some()
        && !new.is_empty()
    {
        return Err(Refusal::attribute(
            "port_pairs",
            "the group has a network_function: it is one or the other",
        ));
    }
    if let Some(tap) = change.after.filter(|after| after.tap_enabled) {
        copied_to(tap)?;
    }
    let probe = |group: Option<&PortPairGroup>| group.and_then(|group| group.health_probe);
    let probed = probe(change.after).is_some();
    if probed
        && change
            .after
            .is_some_and(|after| after.network_function.is_some())
    {
        return Err(Refusal::attribute(
            "health_probe",
            "the group has a network_function, and no appliances",
        ));
    }
    if old == new && probe(change.before).is_some() == probed {
        return Ok(Vec::new());
    }
    if new.len() > PAIRS {
        return Err(Refusal::attribute(
            "port_pairs",
            format_args!("more than {PAIRS}"),
        ));
    }
    let mut writes = Vec::new();
    for id in old.iter().filter(|id| !new.contains(id)) {
        writes.push(Write::Release(key(id)));
    }
    let Some(after) = change.after else {
        return Ok(writes);
    };
    let mut instances = Vec::with_capacity(new.len());
    let known = change.before.map(|before| before.instances.as_slice());
    let known = known.filter(|_| probed).unwrap_or_default();
    for id in &new {
        let pair = view.object::<PortPair>(*id);
        let pair = pair.filter(|pair| caller.owns(&pair.meta.project_id));
        let pair = pair.ok_or_else(|| {
            Refusal::no_such("PortPairNotFound", format!("Port Pair {id} not found."))
        })?;
        let holder = view.get::<Claim>(&key(id)).map(|claim| claim.holder);
        if holder.is_some_and(|holder| holder != after.meta.id) {
            return Err(Refusal::conflict(
                "PortPairInUse",
                format!("Port Pair {id} in use."),
            ));
        }
        let labelled = pair.service_function_parameters.correlation.is_some();
        if after.tap_enabled && labelled {
            return Err(Refusal::attribute(
                "port_pairs",
                format_args!("{id} has a correlation, and a tap's copies bear no label"),
            ));
        }
        writes.push(Write::Claim(key(id), after.meta.id));
        instances.push(Instance {
            id: *id,
            name: pair.meta.name.clone(),
            ingress: pair.ingress,
            egress: pair.egress,
            weight: pair.service_function_parameters.weight,
            labelled,
            serves: known.iter().find(|i| i.id == *id).and_then(|i| i.serves),
        });
    }
    instances.sort_by_key(|instance| instance.id);
    writes.push(Write::amend(PortPairGroup {
        instances,
        ..after.clone()
    }));
    Ok(writes)
}

/// What is known of members is of those that there are, while they are asked.
#[expect(clippy::unnecessary_wraps, reason = "a rule's signature")]
fn known_members(_: &View, change: &Change<'_, PortPairGroup>, _: &Caller) -> Judged {
    let Some(after) = change.after.filter(|after| !after.serving.is_empty()) else {
        return Ok(Vec::new());
    };
    let balancer = after.load_balancer().filter(|lb| lb.health.is_some());
    let members = balancer.map(|lb| lb.members.as_slice()).unwrap_or_default();
    let ids = members.iter().filter_map(|m| after.member_id(m.target));
    let ids: BTreeSet<Uuid> = ids.collect();
    if after.serving.keys().all(|id| ids.contains(id)) {
        return Ok(Vec::new());
    }
    let mut known = after.clone();
    known.serving.retain(|id, _| ids.contains(id));
    Ok(vec![Write::amend(known)])
}

/// Notes what a host found of a pair or a member, where it is news: what a group does not ask any more is none.
pub(super) fn note_hop(
    view: &View,
    groups: &mut BTreeMap<Uuid, PortPairGroup>,
    (group, pair): (Uuid, Uuid),
    serves: bool,
) {
    let known = groups.get(&group).cloned();
    let known =
        known.or_else(|| Some(PortPairGroup::clone(&*view.object::<PortPairGroup>(group)?)));
    let Some(mut noted) = known else {
        return;
    };
    if let Some(balancer) = noted.load_balancer().filter(|lb| lb.health.is_some()) {
        let mut members = balancer.members.iter();
        let is_member = members.any(|m| noted.member_id(m.target) == Some(pair));
        if is_member && noted.serving.insert(pair, serves) != Some(serves) {
            groups.insert(group, noted);
        }
        return;
    }
    if noted.health_probe.is_none() {
        return;
    }
    let mut instances = noted.instances.iter_mut();
    if let Some(instance) = instances.find(|i| i.id == pair && i.serves != Some(serves)) {
        instance.serves = Some(serves);
        groups.insert(group, noted);
    }
}

/// Why replies of a chain could not be translated back; `None`: they can. `group` stands for itself as it is to be.
pub(super) fn untranslatable(
    view: &View,
    chain: &PortChain,
    group: Option<&PortPairGroup>,
) -> Option<String> {
    if chain.chain_parameters.symmetric {
        return None;
    }
    let mut translates = None;
    for id in &chain.port_pair_groups {
        let known = view.object::<PortPairGroup>(*id);
        let hop = group
            .filter(|group| group.meta.id == *id)
            .or(known.as_deref())?;
        if hop.load_balancer().is_some() || hop.nat().is_some() {
            translates = Some(*id);
        }
        if let Some(first) = translates.filter(|_| !hop.port_pairs.is_empty() && !hop.tap_enabled) {
            return Some(format!(
                "group {first} translates before the appliances of group {id}: the chain must be symmetric"
            ));
        }
    }
    None
}

/// Which kind of function a chain has too many of; `None`: none. `group` stands for itself as it is to be.
pub(super) fn too_many_of_a_kind(
    view: &View,
    chain: &PortChain,
    group: Option<&PortPairGroup>,
) -> Option<String> {
    let known = chain.port_pair_groups.iter().filter_map(|id| {
        let group = group.filter(|group| group.meta.id == *id).cloned();
        group.or_else(|| view.object::<PortPairGroup>(*id).as_deref().cloned())
    });
    let plain = known.filter_map(|group| match group.network_function {
        Some(NetworkFunction::Plain(plain)) => Some(plain.name),
        _ => None,
    });
    let mut counts = BTreeMap::<String, usize>::new();
    for name in plain {
        *counts.entry(name).or_default() += 1;
    }
    counts.into_iter().find_map(|(name, count)| {
        let most = plain_kind(&name)?.most();
        (count > most)
            .then(|| format!("{count} functions of kind {name}, a chain has at most {most}"))
    })
}

/// Why a group's appliances could not be told which chain a frame is of; `None`: they can, or do not ask.
pub(super) fn unlabelled(chain: &PortChain, group: &PortPairGroup) -> Option<String> {
    let asks = group.instances.iter().find(|instance| instance.labelled)?;
    (chain.chain_id > LABELS).then(|| {
        format!(
            "port pair {} has correlation mpls, and no label has room for chain_id {} of chain {}: at most {LABELS}",
            asks.id, chain.chain_id, chain.meta.id
        )
    })
}

/// A group in a chain stays, and stays a function.
fn chains(view: &View, change: &Change<'_, PortPairGroup>, _: &Caller) -> Judged {
    let Some(before) = change.before else {
        return Ok(Vec::new());
    };
    let id = before.meta.id;
    let emptied = change.after.is_none_or(PortPairGroup::is_empty);
    if emptied && view.any_related::<PortChain>("port_pair_groups", id) {
        return Err(Refusal::conflict(
            "PortPairGroupInUse",
            format!("Port Pair Group {id} in use."),
        ));
    }
    for chain in view.related::<PortChain>("port_pair_groups", id) {
        let why = untranslatable(view, &chain, change.after)
            .or_else(|| too_many_of_a_kind(view, &chain, change.after));
        if let Some(why) = why {
            return Err(Refusal::attribute("network_function", why));
        }
        // Its pairs as they are to be: rules that come before this one have noted them.
        if let Some(why) = change.after.and_then(|after| unlabelled(&chain, after)) {
            return Err(Refusal::attribute("port_pairs", why));
        }
    }
    Ok(Vec::new())
}
