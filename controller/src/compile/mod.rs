//! What should each host be?
//!
//! [`Compiler`] turns intent into a [`HostConfig`] a host: each section compiled once and shared by
//! all who need it. A change finds by indexes the sections that it alters and the hosts that need
//! them; nothing else is looked at. [`compile`] says the same in the plainest way, from scratch; a
//! property test holds the two equal.
//!
//! # Who needs what
//! Every host hears the VTEPs. For its own ports: the ports, what their workloads hear of themselves, their networks, their groups, the
//! address sets that rules of those groups refer to, their firewall groups, their QoS policies, the chains whose classifiers name them, their
//! network or their project, or that pass an appliance behind them. The routers of its networks, the firewall groups of their interfaces, those
//! routers' networks, and so on. Of all these
//! networks: an endpoint for each other port, where it is, and the chains that serve their virtual addresses. A host that has a
//! router's gateway needs the router, all of its networks and floating IPs, and the external network, as if it had ports there; one that
//! has a workload with a floating IP, that, its router, and the external network if the address is answered there; both, the QoS policies of these.
//!
//! # Invariants
//! - Total, pure, deterministic: what can't be realised is a [`Complaint`], never an error.
//! - The order of changes does not matter to the result.
//! - `hostconfig::check` finds no fault in what is compiled.
//!
//! # Cost
//! A port that changes: its two sections, its part of each of its groups' sets, one entry in each host that has a
//! port on its network or on one that routers join with it. A part is a 256th of a set. Its own host's needs are listed anew: a walk
//! over that host's ports, and over the routers that they reach.

pub mod incremental;
pub mod intent;
pub mod view;

pub(crate) mod chain;
mod l2;
mod l3;
mod policy;
#[cfg(test)]
pub(crate) mod tests;

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    net::IpAddr,
    sync::Arc,
};

use hostconfig::{Generation, HostConfig, Keyed, Section, SectionKey, chain::Side};
use net::{Id, ids::kind};
use uuid::Uuid;

use intent::{HostName, Intent, ObjectId, remote_set};

pub use incremental::{Compiler, Touched};

/// What can't be realised, and why.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, thiserror::Error)]
pub enum Complaint {
    /// The port is bound to a host that there is not.
    #[error("no such host: {host}")]
    HostUnknown {
        /// The name in the binding.
        host: HostName,
    },
    /// The port's host has not said where its VTEP is: the others can't reach it.
    #[error("the host has no VTEP address yet: {host}")]
    NoVtep {
        /// The host.
        host: HostName,
    },
    /// The port's host has no interface on the physical network that the port's network is a part of.
    #[error("host {host} has no interface on physical network {physical}")]
    NoWire {
        /// The host.
        host: HostName,
        /// The physical network.
        physical: String,
    },
    /// The parent of the port's trunk is not on its host.
    #[error("the parent of its trunk is not on host {host}")]
    NoDevice {
        /// The host.
        host: HostName,
    },
    /// The port's network is gone.
    #[error("no such network: {network}")]
    NetworkMissing {
        /// The network.
        network: Id<kind::Network>,
    },
    /// A chain names a classifier that there is not.
    #[error("no such flow classifier: {classifier}")]
    ClassifierMissing {
        /// The classifier.
        classifier: Id<kind::FlowClassifier>,
    },
    /// A chain names a group that there is not, or that has no network function.
    #[error("no network function in port pair group: {function}")]
    FunctionMissing {
        /// The group.
        function: Id<kind::Function>,
    },
    /// A load balancer's virtual address is no port's.
    #[error("no port holds the virtual address: {vip}")]
    VipMissing {
        /// The address.
        vip: IpAddr,
    },
    /// A member has no address of the virtual address's family, or its port is gone.
    #[error("no address for member: {port}")]
    MemberMissing {
        /// The member's port.
        port: Id<kind::Port>,
    },
}

/// The sections that a host needs, but for endpoints; none for a host that is told nothing.
fn needs(intent: &Intent, host: &HostName) -> BTreeSet<SectionKey> {
    let mut keys = BTreeSet::new();
    if intent.host(host).is_none_or(|host| host.foreign) {
        return keys;
    }
    keys.insert(SectionKey::Vteps);
    let mut named = BTreeSet::new();
    let mut outside = l3::Outside::default();
    let mut groups: BTreeSet<Id<kind::SecurityGroup>> = BTreeSet::new();
    for bound in intent.ports_at(host) {
        let port = &bound.section;
        if !intent.networks.contains_key(&port.network) {
            continue;
        }
        outside.add(intent, host, bound);
        if bound.gateway_of.is_some() {
            continue;
        }
        keys.extend(intent.qos_of(bound).map(SectionKey::Qos));
        keys.extend(intent.firewall_of(port.id).map(SectionKey::Firewall));
        keys.insert(SectionKey::Port(port.id));
        if bound.metadata.is_some() {
            keys.insert(SectionKey::Metadata(port.id));
        }
        if intent.proxy(port.id).is_some() {
            keys.insert(SectionKey::Proxy(port.id));
        }
        keys.extend(chains_through(intent, port.id));
        named.insert(Side::Port(port.id));
        named.insert(Side::Network(port.network));
        named.insert(Side::Project(port.project));
        groups.extend(
            port.security_groups
                .iter()
                .filter(|g| intent.groups.contains_key(*g)),
        );
    }
    let own = named.iter().filter_map(|side| match side {
        Side::Network(network) => Some(*network),
        Side::Port(_) | Side::Project(_) | Side::Branch => None,
    });
    let (mut routers, networks) = l3::reach(intent, own.chain(outside.networks).collect());
    routers.extend(outside.routers);
    keys.extend(outside.floating.into_iter().map(SectionKey::FloatingIp));
    keys.extend(outside.qos.into_iter().map(SectionKey::Qos));
    for side in served(intent, &networks) {
        let classifiers = intent.classifiers_of.of(&side).filter(|id| {
            let classifier = intent.classifiers.get(id);
            classifier.is_some_and(|c| c.source.is_none() && c.destination == Some(side))
        });
        keys.extend(chains_of(intent, classifiers));
    }
    for router in routers {
        keys.insert(SectionKey::Router(router));
        let interfaces = intent.interfaces_of(router);
        let firewalls = interfaces.filter_map(|port| intent.firewall_of(port.section.id));
        keys.extend(firewalls.map(SectionKey::Firewall));
    }
    keys.extend(networks.into_iter().map(SectionKey::Network));
    for side in named {
        keys.extend(chains_of(intent, intent.classifiers_of.of(&side)));
    }
    keys.extend(chains_after(intent, &keys));
    for group in groups {
        keys.insert(SectionKey::Group(group));
        let rules = intent
            .rules_of
            .of(&group)
            .filter_map(|rule| intent.rules.get(rule));
        keys.extend(
            rules
                .filter_map(|rule| remote_set(rule))
                .map(SectionKey::AddressSet),
        );
    }
    keys
}

fn chains_of<'a>(
    intent: &Intent,
    classifiers: impl Iterator<Item = &'a Id<kind::FlowClassifier>>,
) -> impl Iterator<Item = SectionKey> {
    classifiers
        .flat_map(|id| intent.chains_of_classifier.of(id))
        .map(|chain| SectionKey::Chain(*chain))
}

/// The chains that may follow those that a host has.
fn chains_after(intent: &Intent, keys: &BTreeSet<SectionKey>) -> BTreeSet<SectionKey> {
    let next = |id: &Id<kind::PortChain>| {
        let chain = intent.chains.get(id);
        chain.map_or(&[][..], |chain| &chain.graph.next)
    };
    let mut after = BTreeSet::new();
    let mut ahead: Vec<&Id<kind::PortChain>> = Vec::new();
    for key in keys {
        if let SectionKey::Chain(id) = key {
            ahead.extend(next(id));
        }
    }
    while let Some(id) = ahead.pop() {
        if intent.chains.contains_key(id) && after.insert(SectionKey::Chain(*id)) {
            ahead.extend(next(id));
        }
    }
    after
}

/// The chains with an appliance behind a port, or that show packets to it.
fn chains_through(intent: &Intent, port: Id<kind::Port>) -> impl Iterator<Item = SectionKey> + '_ {
    let functions = intent.functions_of.of(&port);
    let through = functions.filter(move |id| {
        let function = intent.functions.get(id);
        function.is_some_and(|f| intent::handed_ports(f).contains(&port))
    });
    through
        .flat_map(|id| intent.chains_of_function.of(id))
        .map(|chain| SectionKey::Chain(*chain))
}

/// What a classifier may name as its only end and have served here: a virtual address is served in the
/// sender's own switch.
fn served(intent: &Intent, networks: &BTreeSet<Id<kind::Network>>) -> BTreeSet<Side> {
    let mut sides = BTreeSet::new();
    for network in networks {
        let vips = intent.vips_on.of(network);
        for id in vips.filter(|id| intent.is_vip(**id)) {
            sides.insert(Side::Port(*id));
            sides.insert(Side::Network(*network));
            sides.extend(
                intent
                    .port(*id)
                    .map(|port| Side::Project(port.section.project)),
            );
        }
    }
    sides
}

/// What a host is told that needs this: its needs, the endpoints of its networks, and the parts of its sets.
fn all_keys(intent: &Intent, host: &HostName, needs: BTreeSet<SectionKey>) -> BTreeSet<SectionKey> {
    let mut all: Vec<SectionKey> = Vec::with_capacity(needs.len() * 2);
    for key in &needs {
        if let SectionKey::Network(network) = key {
            let ports = intent.ports_on(*network);
            let elsewhere = ports.filter(|port| intent.place(port) != Some(host));
            all.extend(elsewhere.map(|port| SectionKey::Endpoint(port.section.id)));
        }
        if let SectionKey::AddressSet(set) = key {
            all.extend(policy::parts(intent, *set));
        }
    }
    all.extend(needs);
    all.into_iter().collect()
}

/// Compiles one section; `None` if its object can't be had.
fn section(intent: &Intent, key: SectionKey) -> Option<Keyed> {
    let body = match key {
        SectionKey::Vteps => Section::Vteps(l2::vteps(intent)),
        SectionKey::Network(id) => Section::Network(l2::network(intent, id)?),
        SectionKey::AddressSet(id) => Section::AddressSet(policy::address_set(intent, id)),
        SectionKey::AddressPart(id, part) => {
            Section::AddressSet(policy::address_part(intent, id, part)?)
        }
        SectionKey::Group(id) => Section::Group(policy::group(intent, id)?),
        SectionKey::Firewall(id) => Section::Firewall(policy::firewall(intent, id)?),
        SectionKey::Qos(id) => Section::Qos(intent.told(id)?),
        SectionKey::Chain(id) => Section::Chain(chain::chain(intent, id)?.0),
        SectionKey::Port(id) => Section::Port(l2::port(intent, id)?),
        SectionKey::Endpoint(id) => Section::Endpoint(l2::endpoint(intent, id)?),
        SectionKey::Router(id) => Section::Router(l3::router(intent, id)?),
        SectionKey::FloatingIp(id) => Section::FloatingIp(l3::floating_ip(intent, id)?),
        SectionKey::Metadata(id) => Section::Metadata(l2::metadata(intent, id)?),
        SectionKey::Proxy(id) => Section::Proxy(intent.proxy(id)?.section.clone()),
    };
    match Keyed::new(body) {
        Ok(keyed) => Some(keyed),
        Err(_) => unreachable!("sections are structs with text keys: they always have a JSON form"),
    }
}

/// All hosts' configs from scratch: what [`Compiler`] must arrive at, whatever way it took.
pub fn compile(
    intent: &Intent,
    incarnation: Uuid,
    generation: Generation,
) -> BTreeMap<HostName, HostConfig> {
    let mut shared: BTreeMap<SectionKey, Option<Arc<Keyed>>> = BTreeMap::new();
    let mut plan = BTreeMap::new();
    for host in intent.hosts.values() {
        let keys = needs(intent, &host.name);
        if keys.is_empty() {
            continue;
        }
        let keys = all_keys(intent, &host.name, keys);
        let mut config = HostConfig {
            incarnation,
            generation,
            ..HostConfig::default()
        };
        for key in keys {
            let compiled = shared
                .entry(key)
                .or_insert_with(|| section(intent, key).map(Arc::new));
            if let Some(section) = compiled {
                config.insert(Arc::clone(section));
            }
        }
        plan.insert(host.name.clone(), config);
    }
    plan
}

impl fmt::Display for ObjectId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Host(id) => write!(f, "host {id}"),
            Self::Network(id) => write!(f, "network {id}"),
            Self::Subnet(id) => write!(f, "subnet {id}"),
            Self::Port(id) => write!(f, "port {id}"),
            Self::Router(id) => write!(f, "router {id}"),
            Self::FloatingIp(id) => write!(f, "floating IP {id}"),
            Self::Group(id) => write!(f, "security group {id}"),
            Self::Rule(id) => write!(f, "security group rule {id}"),
            Self::AddressGroup(id) => write!(f, "address group {id}"),
            Self::FirewallRule(id) => write!(f, "firewall rule {id}"),
            Self::FirewallPolicy(id) => write!(f, "firewall policy {id}"),
            Self::Firewall(id) => write!(f, "firewall group {id}"),
            Self::Qos(id) => write!(f, "QoS policy {id}"),
            Self::Classifier(id) => write!(f, "flow classifier {id}"),
            Self::Function(id) => write!(f, "port pair group {id}"),
            Self::Chain(id) => write!(f, "port chain {id}"),
            Self::Label(id) => write!(f, "metering label {id}"),
            Self::LabelRule(id) => write!(f, "metering label rule {id}"),
            Self::Proxy(id) => write!(f, "proxy of load balancer {id}"),
        }
    }
}
