//! What does a packet meet at one hop of a chain?
//!
//! A port pair group of networking-sfc. Its own attribute `network_function` names a native function;
//! port pairs, which are appliances, come later and are refused until then.
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
        ALL, Absent, Kind, Meta, Objects, Operations, Ops, Policy, Resource, Spec, Verb, boolean,
        field,
    },
    resources::{
        FlowClassifier, Port, PortChain, Subnet,
        function::{self, LoadBalancer, NetworkFunction, Target},
        nat::Nat,
        network,
        port::{NAT_OWNER, VIP_OWNER, WantedIp},
    },
    rules::{Caller, Change, Judged, Rule, Write},
    store::{Read, View},
};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};
use uuid::Uuid;

/// A port pair group.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortPairGroup {
    /// What every object has.
    #[serde(flatten)]
    pub meta: Meta,
    /// The native function of this hop.
    #[serde(default)]
    pub network_function: Option<NetworkFunction>,
    /// The port that holds a load balancer's virtual address.
    #[serde(default)]
    pub vip_port_id: Option<Uuid>,
    /// The ports that hold a NAT's addresses.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub nat_ports: BTreeMap<IpAddr, Uuid>,
    /// A small number for it.
    #[serde(default)]
    pub group_id: u32,
}

impl PortPairGroup {
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
                Kind::Shape(pairs_shape),
                "Appliances: none yet.",
            )
            .writable(Absent::List)
            .computed(),
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
                "nat_port_ids",
                Kind::Uuids,
                "The ports of a NAT's addresses.",
            )
            .computed(),
            field(
                "tap_enabled",
                Kind::Shape(false_shape),
                "Not yet: always false.",
            )
            .create_only(Absent::Bool(false))
            .computed(),
            field(
                "port_pair_group_parameters",
                Kind::Shape(parameters_shape),
                "For appliances.",
            )
            .create_only(Absent::Object)
            .or_null()
            .computed()
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
        virtual_address,
        nat_addresses,
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
        ports
            .into_iter()
            .map(|id| ("member", id.to_string()))
            .collect()
    }

    fn derive(&self, field: &str, _: &Scene<'_>) -> Value {
        match field {
            "port_pairs" => json!([]),
            "nat_port_ids" => json!(self.nat_ports.values().collect::<Vec<_>>()),
            "tap_enabled" => json!(false),
            "port_pair_group_parameters" => json!({
                "lb_fields": [],
                "ppg_n_tuple_mapping": {"ingress_n_tuple": {}, "egress_n_tuple": {}},
            }),
            _ => Value::Null,
        }
    }
}

fn pairs_shape(value: &Value) -> Result<Value, String> {
    match value.as_array() {
        Some(pairs) if pairs.is_empty() => Ok(value.clone()),
        Some(_) => Err(
            "port pairs (appliances) are not supported yet: name a native function with network_function"
                .to_owned(),
        ),
        None => Err(format!("'{value}' is not a list")),
    }
}

fn false_shape(value: &Value) -> Result<Value, String> {
    if boolean(value) == Some(false) {
        return Ok(Value::Bool(false));
    }
    Err("tap groups are not supported yet: leave it out".to_owned())
}

/// What is empty says nothing; anything else is about appliances.
fn parameters_shape(value: &Value) -> Result<Value, String> {
    fn says_something(value: &Value) -> bool {
        match value {
            Value::Object(object) => object.values().any(says_something),
            Value::Array(items) => !items.is_empty(),
            Value::Null => false,
            Value::Bool(_) | Value::Number(_) | Value::String(_) => true,
        }
    }
    if !value.is_object() || says_something(value) {
        return Err("parameters of appliances are not supported yet: leave them out".to_owned());
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

/// A group in a chain stays, and stays a function.
fn chains(view: &View, change: &Change<'_, PortPairGroup>, _: &Caller) -> Judged {
    let Some(before) = change.before else {
        return Ok(Vec::new());
    };
    let id = before.meta.id;
    let emptied = change
        .after
        .is_none_or(|after| after.network_function.is_none());
    if emptied && view.any_related::<PortChain>("port_pair_groups", id) {
        return Err(Refusal::conflict(
            "PortPairGroupInUse",
            format!("Port Pair Group {id} in use."),
        ));
    }
    Ok(Vec::new())
}
