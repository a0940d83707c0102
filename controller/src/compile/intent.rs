//! What has been decided, as the compiler reads it?
//!
//! Plain objects with their references, and the indexes by which a change finds what depends on it.
//! Where the API's form and the datapath's are the same, an object holds the section's own type.
//!
//! # Cost
//! A change costs a few searches in ordered maps, whatever the size of the region.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    net::IpAddr,
    ops::RangeInclusive,
    sync::Arc,
};

use hostconfig::{
    Classifier, Discipline, Firewall, MeterRule, SecurityGroupRule, Shaper,
    chain::{Algorithm, Side},
    floating_ip::Workload,
    group::Remote,
    nat::Forward,
    network::{RaMode, Route, Wire},
    share::{Node, Share},
};
use net::{Id, PortRange, Prefix, ids::kind};
use nfv::catalog::plain_ports;
use uuid::Uuid;

use crate::resources::qos_policy::MOST_ABOVE;

/// The name of a host, as in a port's `binding:host_id`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HostName(Arc<str>);

impl HostName {
    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl From<&str> for HostName {
    fn from(name: &str) -> Self {
        Self(Arc::from(name))
    }
}

impl fmt::Display for HostName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for HostName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A host of the fabric.
#[expect(clippy::struct_excessive_bools, reason = "each is a fact of its own")]
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Host {
    /// Its id.
    pub id: Id<kind::Host>,
    /// Its name.
    pub name: HostName,
    /// Its VTEP's address, once known.
    pub vtep: Option<IpAddr>,
    /// The physical networks that it has an interface on.
    pub wires: BTreeSet<String>,
    /// The availability zone that it is in.
    pub zone: String,
    /// Has it no agent of ours?
    pub foreign: bool,
    /// May it be given what the controller places?
    pub in_service: bool,
    /// Has it the program that balances HTTP?
    pub proxies: bool,
    /// Is it gone, and appliances at it down?
    pub lost: bool,
    /// Its small number.
    pub number: Option<u16>,
    /// The fingerprint of the certificate that it must show.
    pub certificate: Option<String>,
}

impl Host {
    /// Has it what a network with this wire needs?
    pub fn carries(&self, wire: Option<&Wire>) -> bool {
        wire.is_none_or(|wire| self.wires.contains(&wire.physical))
    }

    /// The physical networks on which it could have a gateway, and none.
    fn could_carry(&self) -> impl Iterator<Item = Option<String>> {
        let is_ours = !self.foreign && self.vtep.is_some();
        let wires = self.wires.iter().cloned().map(Some);
        std::iter::once(None).chain(wires).filter(move |_| is_ours)
    }
}

impl FloatingIp {
    /// Whose networks of which domain have its name.
    pub(crate) fn scope(&self) -> Option<Scope> {
        let name = self.name.as_ref()?;
        Some((self.project, name.domain.clone()))
    }

    /// The ports that it leads to.
    fn ports(&self) -> impl Iterator<Item = Id<kind::Port>> {
        let forwards = self.forwards.iter().map(|forward| forward.member);
        self.to.map(|to| to.port).into_iter().chain(forwards)
    }
}

/// A project's domain.
pub(crate) type Scope = (Id<kind::Project>, String);

impl Network {
    /// Whose floating IPs of which domain it has names of.
    pub(crate) fn scope(&self) -> Scope {
        (self.section.project, self.section.domain.clone())
    }
}

/// A subnet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subnet {
    /// Its id.
    pub id: Id<kind::Subnet>,
    /// Its network.
    pub network: Id<kind::Network>,
    /// Its addresses.
    pub cidr: Prefix,
    /// Its default router's address.
    pub gateway: Option<IpAddr>,
    /// Does the switch answer DHCP on it?
    pub dhcp: bool,
    /// How its hosts get their IPv6 addresses, if that is said.
    pub address_mode: Option<RaMode>,
    /// How its router says that hosts get their addresses, if it says so.
    pub ra: Option<RaMode>,
    /// Name servers told by DHCP and routers, of its family.
    pub dns: Vec<IpAddr>,
    /// Routes told by DHCP.
    pub routes: Vec<Route>,
}

/// A port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Port {
    /// What its host is told; groups that do not exist are left out of it, and a network's QoS policy is not yet in it.
    pub section: hostconfig::Port,
    /// The host that it is bound to.
    pub host: Option<HostName>,
    /// The router whose interface it is.
    pub router: Option<Id<kind::Router>>,
    /// The router whose way out it is.
    pub gateway_of: Option<Id<kind::Router>>,
    /// Does its host know that another may have it? Of a gateway.
    pub may_move: bool,
    /// The host that it was taken from, which may not know yet. Of a gateway.
    pub left: Option<HostName>,
    /// Does its network's QoS policy hold for it, if it has none of its own? Not for what serves the network.
    pub inherits_qos: bool,
    /// What its workload hears of itself, where anything is set; shared, since user data may be long.
    pub metadata: Option<Arc<hostconfig::Metadata>>,
}

/// A network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Network {
    /// What its hosts are told; its subnets are empty here.
    pub section: hostconfig::Network,
    /// The QoS policy of its ports that have none of their own.
    pub qos: Option<Id<kind::QosPolicy>>,
}

/// A router; its interfaces are ports.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Router {
    /// Its id.
    pub id: Id<kind::Router>,
    /// Its name.
    pub name: String,
    /// Whose it is.
    pub project: Id<kind::Project>,
    /// Routing on or off.
    pub admin_up: bool,
    /// Routes besides those to its interfaces' subnets.
    pub routes: Vec<Route>,
    /// The zones that its gateway is to be in; empty: any.
    pub zones: Vec<String>,
    /// Its way out.
    pub gateway: Option<Gateway>,
}

/// A router's way out: its port there says the rest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Gateway {
    /// The port.
    pub port: Id<kind::Port>,
    /// The external network.
    pub network: Id<kind::Network>,
    /// Are sources hidden?
    pub snat: bool,
    /// The QoS policy of what passes by it, instead of its network's.
    pub qos: Option<Id<kind::QosPolicy>>,
}

/// A floating IP.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FloatingIp {
    /// Its id.
    pub id: Id<kind::FloatingIp>,
    /// Whose it is.
    pub project: Id<kind::Project>,
    /// The port that holds the address.
    pub holder: Id<kind::Port>,
    /// The external network.
    pub network: Id<kind::Network>,
    /// The address.
    pub addr: IpAddr,
    /// The router between it and who has it; none while nobody has.
    pub router: Option<Id<kind::Router>>,
    /// Whose all of it is.
    pub to: Option<Workload>,
    /// The ports that are forwarded.
    pub forwards: Vec<Forward>,
    /// The QoS policy of what passes by it, instead of its network's.
    pub qos: Option<Id<kind::QosPolicy>>,
    /// What it is called.
    pub name: Option<Name>,
}

/// A name in a domain, both without a dot at the end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Name {
    /// The domain.
    pub domain: String,
    /// The name with it.
    pub whole: String,
}

/// A metering label, without its rules.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Label {
    /// Its id.
    pub id: Id<kind::MeteringLabel>,
    /// Whose routers count under it.
    pub project: Id<kind::Project>,
    /// Do all routers?
    pub shared: bool,
}

/// A rule of a metering label.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LabelRule {
    /// Its id.
    pub id: Id<kind::Rule>,
    /// Its label.
    pub label: Id<kind::MeteringLabel>,
    /// What routers are told of it.
    pub section: MeterRule,
}

/// A security group, without its rules.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Group {
    /// Its id.
    pub id: Id<kind::SecurityGroup>,
    /// Its name.
    pub name: String,
    /// Does it track connections?
    pub stateful: bool,
}

/// Addresses that rules refer to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AddressGroup {
    /// The set that rules know it by.
    pub id: Id<kind::AddressSet>,
    /// Its addresses.
    pub addresses: BTreeSet<Prefix>,
}

/// A rule of a security group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    /// Its group.
    pub group: Id<kind::SecurityGroup>,
    /// What the group's section says.
    pub section: SecurityGroupRule,
}

/// A firewall policy: its rules by id, in order. Those that are off are no objects.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FirewallPolicy {
    /// Its id.
    pub id: Id<kind::FirewallPolicy>,
    /// Its name.
    pub name: String,
    /// Its rules.
    pub rules: Vec<Id<kind::Rule>>,
}

/// A firewall group by policies and ports.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FirewallGroup {
    /// Its id.
    pub id: Id<kind::FirewallGroup>,
    /// Its name.
    pub name: String,
    /// Is it on?
    pub admin_up: bool,
    /// For what goes to its ports.
    pub ingress: Option<Id<kind::FirewallPolicy>>,
    /// For what comes from them.
    pub egress: Option<Id<kind::FirewallPolicy>>,
    /// Where it holds.
    pub ports: Vec<Id<kind::Port>>,
}

impl FirewallGroup {
    /// Its policies.
    fn policies(&self) -> impl Iterator<Item = Id<kind::FirewallPolicy>> {
        self.ingress.into_iter().chain(self.egress)
    }
}

/// A network function that a chain can name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Function {
    /// Its id: that of the port pair group.
    pub id: Id<kind::Function>,
    /// Its name.
    pub name: String,
    /// What it does; `None` when the group holds no native function.
    pub work: Option<Work>,
}

/// What a function does, members and virtual address still by the ports that hold them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Work {
    /// Ordered, stateful rules.
    Firewall(Firewall),
    /// A virtual address over members.
    LoadBalancer(Balancer),
    /// An exact rate.
    Shaper(Shaper),
    /// Addresses of its own in place of others'.
    Nat(Nat),
    /// A third party's.
    Appliance(hostconfig::Appliance),
    /// A third party's that gets copies alone, by this port.
    Tap(Id<kind::Port>),
    /// One that needs nothing but its settings.
    Plain(hostconfig::Plain),
}

/// A load balancer by ports.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Balancer {
    /// The port that holds the virtual address.
    pub vip_port: Id<kind::Port>,
    /// Which of its addresses.
    pub vip: IpAddr,
    /// TCP (6) or UDP (17).
    pub protocol: u8,
    /// The listener's port.
    pub port: u16,
    /// How a member is chosen.
    pub algorithm: Algorithm,
    /// Who serves.
    pub members: Vec<BalancerMember>,
    /// How they are asked whether they do.
    pub monitor: Option<hostconfig::chain::Monitor>,
}

/// A member of a load balancer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BalancerMember {
    /// Who.
    pub target: Target,
    /// The transport port that it listens on.
    pub port: u16,
    /// Its share.
    pub weight: u16,
}

/// Who a member is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target {
    /// A port: its address, whatever that becomes.
    Port(Id<kind::Port>),
    /// An address that no port need hold.
    Address(IpAddr),
    /// An address, hashed by a name of its own.
    Named(Id<kind::Port>, IpAddr),
}

/// A NAT by ports.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Nat {
    /// Its addresses: each with the port that holds it, and whether it hides sources.
    pub addresses: Vec<(IpAddr, Id<kind::Port>, bool)>,
    /// Which sources are hidden.
    pub sources: Vec<Prefix>,
    /// The ports that they are given.
    pub ports: PortRange,
    /// How many hosts share an address.
    pub hosts: u16,
    /// The most connections of one port.
    pub client_limit: u32,
    /// What is forwarded, by port.
    pub forwards: Vec<NatForward>,
    /// Who has an address for itself.
    pub statics: Vec<(IpAddr, Target)>,
}

/// What a NAT forwards.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NatForward {
    /// From which address.
    pub addr: IpAddr,
    /// The IP protocol number.
    pub protocol: u8,
    /// From which ports.
    pub ports: PortRange,
    /// To whom.
    pub to: Target,
    /// To which first port.
    pub to_port: u16,
}

/// A port chain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chain {
    /// Its id.
    pub id: Id<kind::PortChain>,
    /// Its name.
    pub name: String,
    /// Whose it is.
    pub project: Id<kind::Project>,
    /// The small number by which appliances know it in labels, and their hosts in the chain transport; 0: none.
    pub number: u32,
    /// Do replies count on its hops?
    pub symmetric: bool,
    /// What leads into it.
    pub classifiers: Vec<Id<kind::FlowClassifier>>,
    /// Its functions, first to last.
    pub functions: Vec<Id<kind::Function>>,
    /// Its place in a service graph.
    pub graph: hostconfig::Graph,
}

/// The proxy of a load balancer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Proxy {
    /// The load balancer's id.
    pub id: Uuid,
    /// What it does.
    pub section: hostconfig::Proxy,
}

/// Any of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Object {
    /// A host.
    Host(Arc<Host>),
    /// A network.
    Network(Arc<Network>),
    /// A subnet.
    Subnet(Arc<Subnet>),
    /// A port.
    Port(Arc<Port>),
    /// A router.
    Router(Arc<Router>),
    /// A floating IP.
    FloatingIp(Arc<FloatingIp>),
    /// A security group.
    Group(Arc<Group>),
    /// A rule of one.
    Rule(Arc<Rule>),
    /// An address group.
    AddressGroup(Arc<AddressGroup>),
    /// A firewall rule that is on.
    FirewallRule(Arc<hostconfig::firewall::Rule>),
    /// A firewall policy.
    FirewallPolicy(Arc<FirewallPolicy>),
    /// A firewall group.
    Firewall(Arc<FirewallGroup>),
    /// A QoS policy.
    Qos(Arc<Policy>),
    /// A flow classifier.
    Classifier(Arc<Classifier>),
    /// A network function.
    Function(Arc<Function>),
    /// A port chain.
    Chain(Arc<Chain>),
    /// A metering label.
    Label(Arc<Label>),
    /// A rule of one.
    LabelRule(Arc<LabelRule>),
    /// A load balancer's proxy.
    Proxy(Arc<Proxy>),
}

/// The id of any of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ObjectId {
    /// A host.
    Host(Id<kind::Host>),
    /// A network.
    Network(Id<kind::Network>),
    /// A subnet.
    Subnet(Id<kind::Subnet>),
    /// A port.
    Port(Id<kind::Port>),
    /// A router.
    Router(Id<kind::Router>),
    /// A floating IP.
    FloatingIp(Id<kind::FloatingIp>),
    /// A security group.
    Group(Id<kind::SecurityGroup>),
    /// A rule of one.
    Rule(Id<kind::Rule>),
    /// An address group.
    AddressGroup(Id<kind::AddressSet>),
    /// A firewall rule.
    FirewallRule(Id<kind::Rule>),
    /// A firewall policy.
    FirewallPolicy(Id<kind::FirewallPolicy>),
    /// A firewall group.
    Firewall(Id<kind::FirewallGroup>),
    /// A QoS policy.
    Qos(Id<kind::QosPolicy>),
    /// A flow classifier.
    Classifier(Id<kind::FlowClassifier>),
    /// A network function.
    Function(Id<kind::Function>),
    /// A port chain.
    Chain(Id<kind::PortChain>),
    /// A metering label.
    Label(Id<kind::MeteringLabel>),
    /// A rule of one.
    LabelRule(Id<kind::Rule>),
    /// A load balancer's proxy, by the load balancer.
    Proxy(Uuid),
}

impl Object {
    /// Its id.
    pub fn id(&self) -> ObjectId {
        match self {
            Self::Host(o) => ObjectId::Host(o.id),
            Self::Network(o) => ObjectId::Network(o.section.id),
            Self::Subnet(o) => ObjectId::Subnet(o.id),
            Self::Port(o) => ObjectId::Port(o.section.id),
            Self::Router(o) => ObjectId::Router(o.id),
            Self::FloatingIp(o) => ObjectId::FloatingIp(o.id),
            Self::Group(o) => ObjectId::Group(o.id),
            Self::Rule(o) => ObjectId::Rule(o.section.id),
            Self::AddressGroup(o) => ObjectId::AddressGroup(o.id),
            Self::FirewallRule(o) => ObjectId::FirewallRule(o.id),
            Self::FirewallPolicy(o) => ObjectId::FirewallPolicy(o.id),
            Self::Firewall(o) => ObjectId::Firewall(o.id),
            Self::Qos(o) => ObjectId::Qos(o.section.id),
            Self::Classifier(o) => ObjectId::Classifier(o.id),
            Self::Function(o) => ObjectId::Function(o.id),
            Self::Chain(o) => ObjectId::Chain(o.id),
            Self::Label(o) => ObjectId::Label(o.id),
            Self::LabelRule(o) => ObjectId::LabelRule(o.id),
            Self::Proxy(o) => ObjectId::Proxy(o.id),
        }
    }
}

/// One thing that changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// It is there, as follows.
    Put(Object),
    /// It is gone.
    Gone(ObjectId),
}

/// Which things go with a key; a key without things is not kept.
#[derive(Debug, Clone)]
pub(crate) struct Index<K, V>(BTreeMap<K, BTreeSet<V>>);

impl<K, V> Default for Index<K, V> {
    fn default() -> Self {
        Self(BTreeMap::new())
    }
}

impl<K: Ord + Clone, V: Ord + Clone> Index<K, V> {
    pub(crate) fn insert(&mut self, key: K, value: V) {
        self.0.entry(key).or_default().insert(value);
    }

    pub(crate) fn remove(&mut self, key: &K, value: &V) {
        if let Some(values) = self.0.get_mut(key) {
            values.remove(value);
            if values.is_empty() {
                self.0.remove(key);
            }
        }
    }

    /// The things of a key, in order.
    pub(crate) fn of(&self, key: &K) -> impl Iterator<Item = &V> + use<'_, K, V> {
        self.0.get(key).into_iter().flatten()
    }

    /// The things of a key that are in a range, in order.
    pub(crate) fn within(
        &self,
        key: &K,
        range: RangeInclusive<V>,
    ) -> impl Iterator<Item = &V> + use<'_, K, V> {
        let values = self.0.get(key).into_iter();
        values.flat_map(move |values| values.range(range.clone()))
    }

    /// All keys.
    pub(crate) fn keys(&self) -> impl Iterator<Item = &K> + use<'_, K, V> {
        self.0.keys()
    }

    /// How many things a key has.
    pub(crate) fn count(&self, key: &K) -> usize {
        self.0.get(key).map_or(0, BTreeSet::len)
    }

    /// All things of all keys.
    pub(crate) fn all(&self) -> impl Iterator<Item = &V> + use<'_, K, V> {
        self.0.values().flatten()
    }

    pub(crate) fn has(&self, key: &K) -> bool {
        self.0.contains_key(key)
    }
}

type Table<K, T> = BTreeMap<Id<K>, Arc<T>>;

/// A QoS policy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Policy {
    /// What hosts are told; what it is part of is not yet in it.
    pub section: hostconfig::QosPolicy,
    /// The policy whose limits its ports share.
    pub parent: Option<Id<kind::QosPolicy>>,
    /// Bits a second that each of its ports has of those for certain: of what it sends, and of what it gets.
    pub promised: [u64; 2],
    /// Do the ports of all hosts share its limits together?
    pub fabric: bool,
}

impl Policy {
    /// What those below share in this direction, if it limits that.
    fn node(&self, direction: usize) -> Option<Node> {
        let limits = [&self.section.egress, &self.section.ingress];
        let bits = limits.get(direction)?.bits?;
        Some(Node {
            id: self.section.id.uuid(),
            rate_bps: self.promised.get(direction).copied().unwrap_or(0),
            ceil_bps: bits.per_second,
            burst_bytes: bits.burst,
            fabric: self.fabric,
        })
    }
}

/// All objects and the indexes over them.
#[derive(Debug, Clone, Default)]
pub struct Intent {
    pub(crate) hosts: Table<kind::Host, Host>,
    pub(crate) networks: Table<kind::Network, Network>,
    pub(crate) subnets: Table<kind::Subnet, Subnet>,
    pub(crate) ports: Table<kind::Port, Port>,
    pub(crate) routers: Table<kind::Router, Router>,
    pub(crate) floating_ips: Table<kind::FloatingIp, FloatingIp>,
    pub(crate) groups: Table<kind::SecurityGroup, Group>,
    pub(crate) rules: Table<kind::Rule, Rule>,
    pub(crate) address_groups: Table<kind::AddressSet, AddressGroup>,
    pub(crate) firewall_rules: Table<kind::Rule, hostconfig::firewall::Rule>,
    pub(crate) firewall_policies: Table<kind::FirewallPolicy, FirewallPolicy>,
    pub(crate) firewalls: Table<kind::FirewallGroup, FirewallGroup>,
    pub(crate) qos: Table<kind::QosPolicy, Policy>,
    pub(crate) classifiers: Table<kind::FlowClassifier, Classifier>,
    pub(crate) functions: Table<kind::Function, Function>,
    pub(crate) chains: Table<kind::PortChain, Chain>,
    pub(crate) labels: Table<kind::MeteringLabel, Label>,
    pub(crate) label_rules: Table<kind::Rule, LabelRule>,
    pub(crate) proxies: BTreeMap<Uuid, Arc<Proxy>>,

    pub(crate) hosts_named: Index<HostName, Id<kind::Host>>,
    pub(crate) subnets_of: Index<Id<kind::Network>, Id<kind::Subnet>>,
    pub(crate) ports_on: Index<Id<kind::Network>, Id<kind::Port>>,
    pub(crate) interfaces_of: Index<Id<kind::Router>, Id<kind::Port>>,
    pub(crate) interfaces_on: Index<Id<kind::Network>, Id<kind::Port>>,
    /// The routers that leave by a network.
    pub(crate) gateways_on: Index<Id<kind::Network>, Id<kind::Router>>,
    /// The gateways' ports that a host has.
    pub(crate) gateways_at: Index<HostName, Id<kind::Port>>,
    /// Who could have a gateway on a physical network; on none: on an overlay.
    pub(crate) carriers: Index<Option<String>, Id<kind::Host>>,
    /// By the port that holds the address, by the ports that are meant, by router.
    pub(crate) held_by: Index<Id<kind::Port>, Id<kind::FloatingIp>>,
    pub(crate) floating_to: Index<Id<kind::Port>, Id<kind::FloatingIp>>,
    pub(crate) floating_by: Index<Id<kind::Router>, Id<kind::FloatingIp>>,
    /// The floating IPs that have names, and the networks that may know them.
    pub(crate) floating_in: Index<Scope, Id<kind::FloatingIp>>,
    pub(crate) networks_in: Index<Scope, Id<kind::Network>>,
    pub(crate) ports_at: Index<HostName, Id<kind::Port>>,
    /// The firewall groups of a port, and of a policy; the policies of a rule.
    firewalls_at: Index<Id<kind::Port>, Id<kind::FirewallGroup>>,
    firewalls_of: Index<Id<kind::FirewallPolicy>, Id<kind::FirewallGroup>>,
    policies_of: Index<Id<kind::Rule>, Id<kind::FirewallPolicy>>,
    /// The QoS policies that are part of another.
    policies_in: Index<Id<kind::QosPolicy>, Id<kind::QosPolicy>>,
    /// By QoS policy.
    ports_with: Index<Id<kind::QosPolicy>, Id<kind::Port>>,
    networks_with: Index<Id<kind::QosPolicy>, Id<kind::Network>>,
    floating_with: Index<Id<kind::QosPolicy>, Id<kind::FloatingIp>>,
    routers_with: Index<Id<kind::QosPolicy>, Id<kind::Router>>,
    pub(crate) ports_of: Index<Id<kind::Project>, Id<kind::Port>>,
    /// The sub-ports of a trunk, by its parent.
    pub(crate) carried_by: Index<Id<kind::Port>, Id<kind::Port>>,
    pub(crate) members: Index<Id<kind::SecurityGroup>, Id<kind::Port>>,
    pub(crate) rules_of: Index<Id<kind::SecurityGroup>, Id<kind::Rule>>,
    pub(crate) classifiers_of: Index<Side, Id<kind::FlowClassifier>>,
    pub(crate) chains_of_classifier: Index<Id<kind::FlowClassifier>, Id<kind::PortChain>>,
    pub(crate) chains_of_function: Index<Id<kind::Function>, Id<kind::PortChain>>,
    /// Those that a chain may follow.
    pub(crate) chains_before: Index<Id<kind::PortChain>, Id<kind::PortChain>>,
    pub(crate) functions_of: Index<Id<kind::Port>, Id<kind::Function>>,
    /// Ports that hold a function's virtual address, whether a chain uses it or not.
    pub(crate) vips_on: Index<Id<kind::Network>, Id<kind::Port>>,
    pub(crate) routers_of: Index<Id<kind::Project>, Id<kind::Router>>,
    /// By whose routers count under it; under none: all do.
    labels_of: Index<Option<Id<kind::Project>>, Id<kind::MeteringLabel>>,
    label_rules_of: Index<Id<kind::MeteringLabel>, Id<kind::Rule>>,
    /// By the proxy's port.
    proxy_at: Index<Id<kind::Port>, Uuid>,
}

impl Label {
    /// Whose routers count under it; `None`: all.
    fn of(&self) -> Option<Id<kind::Project>> {
        (!self.shared).then_some(self.project)
    }
}

impl Intent {
    /// The object with this id.
    pub fn get(&self, id: ObjectId) -> Option<Object> {
        match id {
            ObjectId::Host(id) => self.hosts.get(&id).cloned().map(Object::Host),
            ObjectId::Network(id) => self.networks.get(&id).cloned().map(Object::Network),
            ObjectId::Subnet(id) => self.subnets.get(&id).cloned().map(Object::Subnet),
            ObjectId::Port(id) => self.ports.get(&id).cloned().map(Object::Port),
            ObjectId::Router(id) => self.routers.get(&id).cloned().map(Object::Router),
            ObjectId::FloatingIp(id) => {
                let floating = self.floating_ips.get(&id).cloned();
                floating.map(Object::FloatingIp)
            }
            ObjectId::Group(id) => self.groups.get(&id).cloned().map(Object::Group),
            ObjectId::Rule(id) => self.rules.get(&id).cloned().map(Object::Rule),
            ObjectId::AddressGroup(id) => {
                let group = self.address_groups.get(&id).cloned();
                group.map(Object::AddressGroup)
            }
            ObjectId::FirewallRule(id) => {
                let rule = self.firewall_rules.get(&id).cloned();
                rule.map(Object::FirewallRule)
            }
            ObjectId::FirewallPolicy(id) => {
                let policy = self.firewall_policies.get(&id).cloned();
                policy.map(Object::FirewallPolicy)
            }
            ObjectId::Firewall(id) => self.firewalls.get(&id).cloned().map(Object::Firewall),
            ObjectId::Qos(id) => self.qos.get(&id).cloned().map(Object::Qos),
            ObjectId::Classifier(id) => self.classifiers.get(&id).cloned().map(Object::Classifier),
            ObjectId::Function(id) => self.functions.get(&id).cloned().map(Object::Function),
            ObjectId::Chain(id) => self.chains.get(&id).cloned().map(Object::Chain),
            ObjectId::Label(id) => self.labels.get(&id).cloned().map(Object::Label),
            ObjectId::LabelRule(id) => self.label_rules.get(&id).cloned().map(Object::LabelRule),
            ObjectId::Proxy(id) => self.proxies.get(&id).cloned().map(Object::Proxy),
        }
    }

    /// The ids of all objects.
    pub fn ids(&self) -> Vec<ObjectId> {
        let mut ids: Vec<ObjectId> = self.hosts.keys().copied().map(ObjectId::Host).collect();
        ids.extend(self.networks.keys().copied().map(ObjectId::Network));
        ids.extend(self.subnets.keys().copied().map(ObjectId::Subnet));
        ids.extend(self.ports.keys().copied().map(ObjectId::Port));
        ids.extend(self.routers.keys().copied().map(ObjectId::Router));
        let floating = self.floating_ips.keys().copied();
        ids.extend(floating.map(ObjectId::FloatingIp));
        ids.extend(self.groups.keys().copied().map(ObjectId::Group));
        ids.extend(self.rules.keys().copied().map(ObjectId::Rule));
        let address_groups = self.address_groups.keys().copied();
        ids.extend(address_groups.map(ObjectId::AddressGroup));
        let rules = self.firewall_rules.keys().copied();
        ids.extend(rules.map(ObjectId::FirewallRule));
        let policies = self.firewall_policies.keys().copied();
        ids.extend(policies.map(ObjectId::FirewallPolicy));
        ids.extend(self.firewalls.keys().copied().map(ObjectId::Firewall));
        ids.extend(self.qos.keys().copied().map(ObjectId::Qos));
        ids.extend(self.classifiers.keys().copied().map(ObjectId::Classifier));
        ids.extend(self.functions.keys().copied().map(ObjectId::Function));
        ids.extend(self.chains.keys().copied().map(ObjectId::Chain));
        ids.extend(self.labels.keys().copied().map(ObjectId::Label));
        ids.extend(self.label_rules.keys().copied().map(ObjectId::LabelRule));
        ids.extend(self.proxies.keys().copied().map(ObjectId::Proxy));
        ids
    }

    /// Applies one change.
    pub fn apply(&mut self, change: &Change) {
        match change {
            Change::Put(object) => {
                self.remove(object.id());
                self.insert(object.clone());
            }
            Change::Gone(id) => self.remove(*id),
        }
    }

    fn link_chain(&mut self, o: &Chain) {
        for classifier in &o.classifiers {
            self.chains_of_classifier.insert(*classifier, o.id);
        }
        for function in &o.functions {
            self.chains_of_function.insert(*function, o.id);
        }
        for next in &o.graph.next {
            self.chains_before.insert(*next, o.id);
        }
    }

    fn unlink_chain(&mut self, o: &Chain) {
        for classifier in &o.classifiers {
            self.chains_of_classifier.remove(classifier, &o.id);
        }
        for function in &o.functions {
            self.chains_of_function.remove(function, &o.id);
        }
        for next in &o.graph.next {
            self.chains_before.remove(next, &o.id);
        }
    }

    fn insert(&mut self, object: Object) {
        match object {
            Object::Host(o) => {
                self.hosts_named.insert(o.name.clone(), o.id);
                for wire in o.could_carry() {
                    self.carriers.insert(wire, o.id);
                }
                self.hosts.insert(o.id, o);
            }
            Object::Network(o) => {
                if let Some(policy) = o.qos {
                    self.networks_with.insert(policy, o.section.id);
                }
                self.networks_in.insert(o.scope(), o.section.id);
                self.networks.insert(o.section.id, o);
            }
            Object::Subnet(o) => {
                self.subnets_of.insert(o.network, o.id);
                self.subnets.insert(o.id, o);
            }
            Object::Port(o) => self.insert_port(o),
            Object::Router(o) => {
                if let Some(gateway) = o.gateway {
                    self.gateways_on.insert(gateway.network, o.id);
                    if let Some(policy) = gateway.qos {
                        self.routers_with.insert(policy, o.id);
                    }
                }
                self.routers_of.insert(o.project, o.id);
                self.routers.insert(o.id, o);
            }
            Object::FloatingIp(o) => {
                self.held_by.insert(o.holder, o.id);
                for port in o.ports() {
                    self.floating_to.insert(port, o.id);
                }
                if let Some(router) = o.router {
                    self.floating_by.insert(router, o.id);
                }
                if let Some(policy) = o.qos {
                    self.floating_with.insert(policy, o.id);
                }
                if let Some(scope) = o.scope() {
                    self.floating_in.insert(scope, o.id);
                }
                self.floating_ips.insert(o.id, o);
            }
            Object::Group(o) => {
                self.groups.insert(o.id, o);
            }
            Object::Rule(o) => {
                self.rules_of.insert(o.group, o.section.id);
                self.rules.insert(o.section.id, o);
            }
            Object::AddressGroup(o) => {
                self.address_groups.insert(o.id, o);
            }
            Object::FirewallRule(o) => {
                self.firewall_rules.insert(o.id, o);
            }
            Object::FirewallPolicy(o) => self.insert_firewall_policy(o),
            Object::Firewall(o) => self.insert_firewall(o),
            Object::Qos(o) => self.insert_qos(o),
            Object::Classifier(o) => {
                for side in sides(&o) {
                    self.classifiers_of.insert(side, o.id);
                }
                self.classifiers.insert(o.id, o);
            }
            Object::Function(o) => {
                for port in function_ports(&o) {
                    self.functions_of.insert(port, o.id);
                }
                for id in virtual_ports(&o) {
                    if let Some(port) = self.ports.get(&id).map(|port| &port.section) {
                        self.vips_on.insert(port.network, port.id);
                    }
                }
                self.functions.insert(o.id, o);
            }
            Object::Chain(o) => {
                self.link_chain(&o);
                self.chains.insert(o.id, o);
            }
            Object::Label(o) => {
                self.labels_of.insert(o.of(), o.id);
                self.labels.insert(o.id, o);
            }
            Object::LabelRule(o) => {
                self.label_rules_of.insert(o.label, o.id);
                self.label_rules.insert(o.id, o);
            }
            Object::Proxy(o) => self.insert_proxy(o),
        }
    }

    fn insert_proxy(&mut self, o: Arc<Proxy>) {
        self.proxy_at.insert(o.section.port, o.id);
        self.proxies.insert(o.id, o);
    }

    fn remove_proxy(&mut self, id: Uuid) {
        if let Some(o) = self.proxies.remove(&id) {
            self.proxy_at.remove(&o.section.port, &id);
        }
    }

    fn insert_port(&mut self, o: Arc<Port>) {
        let port = &o.section;
        self.ports_on.insert(port.network, port.id);
        self.ports_of.insert(port.project, port.id);
        if let Some(trunk) = port.trunk {
            self.carried_by.insert(trunk.parent, port.id);
        }
        for group in &port.security_groups {
            self.members.insert(*group, port.id);
        }
        if let Some(host) = &o.host {
            self.ports_at.insert(host.clone(), port.id);
            if o.gateway_of.is_some() {
                self.gateways_at.insert(host.clone(), port.id);
            }
        }
        if let Some(policy) = port.qos {
            self.ports_with.insert(policy, port.id);
        }
        if let Some(router) = o.router {
            self.interfaces_of.insert(router, port.id);
            self.interfaces_on.insert(port.network, port.id);
        }
        if self.holds_vip(port.id) {
            self.vips_on.insert(port.network, port.id);
        }
        self.ports.insert(port.id, o);
    }

    fn remove(&mut self, id: ObjectId) {
        match id {
            ObjectId::Host(id) => {
                if let Some(o) = self.hosts.remove(&id) {
                    self.hosts_named.remove(&o.name, &id);
                    for wire in o.could_carry() {
                        self.carriers.remove(&wire, &id);
                    }
                }
            }
            ObjectId::Network(id) => {
                let Some(o) = self.networks.remove(&id) else {
                    return;
                };
                self.networks_in.remove(&o.scope(), &id);
                if let Some(policy) = o.qos {
                    self.networks_with.remove(&policy, &id);
                }
            }
            ObjectId::Subnet(id) => {
                if let Some(o) = self.subnets.remove(&id) {
                    self.subnets_of.remove(&o.network, &id);
                }
            }
            ObjectId::Port(id) => self.remove_port(id),
            ObjectId::Router(id) => {
                let Some(o) = self.routers.remove(&id) else {
                    return;
                };
                self.routers_of.remove(&o.project, &id);
                if let Some(gateway) = o.gateway {
                    self.gateways_on.remove(&gateway.network, &id);
                    if let Some(policy) = gateway.qos {
                        self.routers_with.remove(&policy, &id);
                    }
                }
            }
            ObjectId::FloatingIp(id) => self.remove_floating(id),
            ObjectId::Group(id) => {
                self.groups.remove(&id);
            }
            ObjectId::Rule(id) => {
                if let Some(o) = self.rules.remove(&id) {
                    self.rules_of.remove(&o.group, &id);
                }
            }
            ObjectId::AddressGroup(id) => {
                self.address_groups.remove(&id);
            }
            ObjectId::FirewallRule(id) => drop(self.firewall_rules.remove(&id)),
            ObjectId::FirewallPolicy(id) => self.remove_firewall_policy(id),
            ObjectId::Firewall(id) => self.remove_firewall(id),
            ObjectId::Qos(id) => self.remove_qos(id),
            ObjectId::Classifier(id) => {
                let Some(o) = self.classifiers.remove(&id) else {
                    return;
                };
                for side in sides(&o) {
                    self.classifiers_of.remove(&side, &id);
                }
            }
            ObjectId::Function(id) => {
                let Some(o) = self.functions.remove(&id) else {
                    return;
                };
                for port in function_ports(&o) {
                    self.functions_of.remove(&port, &id);
                }
                let held = virtual_ports(&o).into_iter();
                let gone: Vec<_> = held.filter(|port| !self.holds_vip(*port)).collect();
                for id in gone {
                    if let Some(port) = self.ports.get(&id) {
                        self.vips_on.remove(&port.section.network, &port.section.id);
                    }
                }
            }
            ObjectId::Chain(id) => {
                let Some(o) = self.chains.remove(&id) else {
                    return;
                };
                self.unlink_chain(&o);
            }
            ObjectId::Label(id) => {
                if let Some(o) = self.labels.remove(&id) {
                    self.labels_of.remove(&o.of(), &id);
                }
            }
            ObjectId::LabelRule(id) => {
                if let Some(o) = self.label_rules.remove(&id) {
                    self.label_rules_of.remove(&o.label, &id);
                }
            }
            ObjectId::Proxy(id) => self.remove_proxy(id),
        }
    }

    fn remove_port(&mut self, id: Id<kind::Port>) {
        let Some(o) = self.ports.remove(&id) else {
            return;
        };
        self.ports_on.remove(&o.section.network, &id);
        self.ports_of.remove(&o.section.project, &id);
        if let Some(trunk) = o.section.trunk {
            self.carried_by.remove(&trunk.parent, &id);
        }
        for group in &o.section.security_groups {
            self.members.remove(group, &id);
        }
        if let Some(host) = &o.host {
            self.ports_at.remove(host, &id);
            self.gateways_at.remove(host, &id);
        }
        if let Some(policy) = o.section.qos {
            self.ports_with.remove(&policy, &id);
        }
        if let Some(router) = o.router {
            self.interfaces_of.remove(&router, &id);
            self.interfaces_on.remove(&o.section.network, &id);
        }
        self.vips_on.remove(&o.section.network, &id);
    }

    fn remove_floating(&mut self, id: Id<kind::FloatingIp>) {
        let Some(o) = self.floating_ips.remove(&id) else {
            return;
        };
        self.held_by.remove(&o.holder, &id);
        for port in o.ports() {
            self.floating_to.remove(&port, &id);
        }
        if let Some(router) = o.router {
            self.floating_by.remove(&router, &id);
        }
        if let Some(policy) = o.qos {
            self.floating_with.remove(&policy, &id);
        }
        if let Some(scope) = o.scope() {
            self.floating_in.remove(&scope, &id);
        }
    }

    /// The host of this name.
    pub(crate) fn all_hosts(&self) -> impl Iterator<Item = &Host> {
        self.hosts.values().map(Arc::as_ref)
    }

    /// A host, by its name.
    pub fn host(&self, name: &HostName) -> Option<&Arc<Host>> {
        self.hosts_named
            .of(name)
            .next()
            .and_then(|id| self.hosts.get(id))
    }

    /// A port.
    pub fn port(&self, id: Id<kind::Port>) -> Option<&Arc<Port>> {
        self.ports.get(&id)
    }

    /// Has a port its own device, or one that it can share on its host?
    pub(crate) fn has_device(&self, port: &Port) -> bool {
        port.section.trunk.is_none_or(|trunk| {
            let parent = self.ports.get(&trunk.parent);
            parent.is_some_and(|parent| {
                let is_there = self.networks.contains_key(&parent.section.network);
                let own = parent.section.trunk.is_none() && parent.gateway_of.is_none();
                is_there && own && parent.host == port.host
            })
        })
    }

    /// A network; its subnets are objects of their own.
    pub fn network(&self, id: Id<kind::Network>) -> Option<&Arc<Network>> {
        self.networks.get(&id)
    }

    fn insert_firewall_policy(&mut self, policy: Arc<FirewallPolicy>) {
        for rule in &policy.rules {
            self.policies_of.insert(*rule, policy.id);
        }
        self.firewall_policies.insert(policy.id, policy);
    }

    fn remove_firewall_policy(&mut self, id: Id<kind::FirewallPolicy>) {
        let policy = self.firewall_policies.remove(&id);
        for rule in policy.iter().flat_map(|policy| &policy.rules) {
            self.policies_of.remove(rule, &id);
        }
    }

    fn insert_firewall(&mut self, group: Arc<FirewallGroup>) {
        for policy in group.policies() {
            self.firewalls_of.insert(policy, group.id);
        }
        for port in &group.ports {
            self.firewalls_at.insert(*port, group.id);
        }
        self.firewalls.insert(group.id, group);
    }

    fn remove_firewall(&mut self, id: Id<kind::FirewallGroup>) {
        let Some(group) = self.firewalls.remove(&id) else {
            return;
        };
        for policy in group.policies() {
            self.firewalls_of.remove(&policy, &id);
        }
        for port in &group.ports {
            self.firewalls_at.remove(port, &id);
        }
    }

    /// The firewall group that holds at a port; one without any policy holds nothing up.
    pub(crate) fn firewall_of(&self, port: Id<kind::Port>) -> Option<Id<kind::FirewallGroup>> {
        let mut groups = self.firewalls_at.of(&port);
        groups.find_map(|id| {
            let group = self.firewalls.get(id)?;
            group.policies().next().map(|_| *id)
        })
    }

    /// The firewall groups that have a policy.
    pub(crate) fn firewalls_with(
        &self,
        policy: Id<kind::FirewallPolicy>,
    ) -> impl Iterator<Item = Id<kind::FirewallGroup>> {
        self.firewalls_of.of(&policy).copied()
    }

    /// The firewall policies that have a rule.
    pub(crate) fn policies_with(
        &self,
        rule: Id<kind::Rule>,
    ) -> impl Iterator<Item = Id<kind::FirewallPolicy>> {
        self.policies_of.of(&rule).copied()
    }

    /// The QoS policy that holds for a port: its own, or else its network's. One that is gone is none.
    pub(crate) fn qos_of(&self, port: &Port) -> Option<Id<kind::QosPolicy>> {
        let of_network = || {
            let network = self.networks.get(&port.section.network)?;
            network.qos.filter(|_| port.inherits_qos)
        };
        let policy = port.section.qos.or_else(of_network);
        policy.filter(|id| self.qos.contains_key(id))
    }

    fn insert_qos(&mut self, policy: Arc<Policy>) {
        if let Some(parent) = policy.parent {
            self.policies_in.insert(parent, policy.section.id);
        }
        self.qos.insert(policy.section.id, policy);
    }

    fn remove_qos(&mut self, id: Id<kind::QosPolicy>) {
        let parent = self.qos.remove(&id).and_then(|policy| policy.parent);
        if let Some(parent) = parent {
            self.policies_in.remove(&parent, &id);
        }
    }

    /// What hosts are told of a QoS policy: with what it is part of in each direction. A policy above that limits nothing there is passed over.
    pub(crate) fn told(&self, id: Id<kind::QosPolicy>) -> Option<hostconfig::QosPolicy> {
        let policy = self.qos.get(&id)?;
        let mut told = policy.section.clone();
        for (direction, limit) in [(0, &mut told.egress), (1, &mut told.ingress)] {
            let above = std::iter::successors(policy.parent, |id| self.qos.get(id)?.parent);
            let above = above.take(MOST_ABOVE).filter_map(|id| self.qos.get(&id));
            let within = above.filter_map(|above| above.node(direction));
            let within: Vec<Node> = within.collect();
            let Some(root) = within.last() else {
                continue;
            };
            if limit.bits.is_none() {
                limit.queue = Discipline::FqCodel;
                limit.queue_bytes = super::view::queue_bytes(root.ceil_bps, limit.queue);
            }
            let rate_bps = policy.promised.get(direction).copied().unwrap_or(0);
            limit.share = Some(Share { rate_bps, within });
        }
        Some(told)
    }

    /// The QoS policies that are part of one, and parts of those; a level at a time.
    pub(crate) fn policies_below(&self, id: Id<kind::QosPolicy>) -> BTreeSet<Id<kind::QosPolicy>> {
        let mut below = BTreeSet::new();
        let mut level = BTreeSet::from([id]);
        for _ in 0..MOST_ABOVE {
            let next = level.iter().flat_map(|id| self.policies_in.of(id));
            level = next.copied().collect();
            below.extend(&level);
        }
        below
    }

    /// The ports that name a QoS policy, and those whose networks do.
    pub(crate) fn named_by(&self, policy: Id<kind::QosPolicy>) -> Vec<Id<kind::Port>> {
        let networks = self.networks_with.of(&policy);
        let inherited = networks.flat_map(|network| self.ports_on.of(network));
        let own = self.ports_with.of(&policy);
        own.chain(inherited).copied().collect()
    }

    /// The QoS policy of what passes by an address of an external network: its own, or else the network's. One that is gone is none.
    pub(crate) fn qos_outside(
        &self,
        own: Option<Id<kind::QosPolicy>>,
        network: Id<kind::Network>,
    ) -> Option<Id<kind::QosPolicy>> {
        let policy = own.or_else(|| self.networks.get(&network)?.qos);
        policy.filter(|id| self.qos.contains_key(id))
    }

    /// The routers whose gateways name a QoS policy, and those who leave by networks that do.
    pub(crate) fn gateways_with(
        &self,
        policy: Id<kind::QosPolicy>,
    ) -> impl Iterator<Item = Id<kind::Router>> {
        let networks = self.networks_with.of(&policy);
        let inherited = networks.flat_map(|network| self.gateways_on.of(network));
        self.routers_with.of(&policy).chain(inherited).copied()
    }

    /// The floating IPs that name a QoS policy. Those of a network that does are found by [`Intent::gateways_with`].
    pub(crate) fn floating_with(
        &self,
        policy: Id<kind::QosPolicy>,
    ) -> impl Iterator<Item = Id<kind::FloatingIp>> {
        self.floating_with.of(&policy).copied()
    }

    /// The ports that are bound to a host.
    pub fn ports_at<'a>(&'a self, host: &HostName) -> impl Iterator<Item = &'a Arc<Port>> {
        self.ports_at.of(host).filter_map(|id| self.ports.get(id))
    }

    /// The ports of a network.
    pub fn ports_on(&self, network: Id<kind::Network>) -> impl Iterator<Item = &Arc<Port>> {
        self.ports_on
            .of(&network)
            .filter_map(|id| self.ports.get(id))
    }

    /// The ports by which a router is attached, by id.
    pub(crate) fn interfaces_of(
        &self,
        router: Id<kind::Router>,
    ) -> impl Iterator<Item = &Arc<Port>> {
        self.interfaces_of
            .of(&router)
            .filter_map(|id| self.ports.get(id))
    }

    /// The routers that have an interface on a network, whether they are there or not.
    pub(crate) fn routers_on(&self, network: Id<kind::Network>) -> BTreeSet<Id<kind::Router>> {
        self.interfaces_on
            .of(&network)
            .filter_map(|id| self.ports.get(id)?.router)
            .collect()
    }

    /// The gateway of a router, if its port is there and its own, and so is the network.
    pub(crate) fn gateway(&self, router: Id<kind::Router>) -> Option<(Gateway, &Arc<Port>)> {
        let gateway = self.routers.get(&router)?.gateway?;
        let port = self.ports.get(&gateway.port)?;
        let own = port.gateway_of == Some(router) && port.section.network == gateway.network;
        let there = self.networks.contains_key(&gateway.network);
        (own && there).then_some((gateway, port))
    }

    /// The host that answers for what is on a network of this wire, if it can.
    fn able(&self, host: Option<&HostName>, network: Id<kind::Network>) -> Option<&Arc<Host>> {
        let wire = self.networks.get(&network)?.section.wire.as_ref();
        let host = self.host(host?)?;
        (!host.foreign && host.vtep.is_some() && host.carries(wire)).then_some(host)
    }

    /// The host that has a router's gateway.
    pub(crate) fn gateway_host(&self, router: Id<kind::Router>) -> Option<&Arc<Host>> {
        let (gateway, port) = self.gateway(router)?;
        self.able(port.host.as_ref(), gateway.network)
    }

    /// The hosts that could have a gateway on a network.
    fn carriers_of(&self, network: Id<kind::Network>) -> impl Iterator<Item = &Arc<Host>> {
        let network = self.networks.get(&network);
        let wire = network.map(|network| {
            let wire = network.section.wire.as_ref();
            wire.map(|wire| wire.physical.clone())
        });
        let ids = wire.map(|wire| self.carriers.of(&wire).collect::<Vec<_>>());
        ids.into_iter()
            .flatten()
            .filter_map(|id| self.hosts.get(id))
    }

    /// The hosts that could have a router's gateway: those that could have any on its network, in the zones that the router names.
    pub(crate) fn seats_of(
        &self,
        gateway: Gateway,
        port: &Port,
    ) -> impl Iterator<Item = &Arc<Host>> {
        let router = port.gateway_of.and_then(|id| self.routers.get(&id));
        let zones = router.map_or(&[][..], |router| &router.zones);
        self.carriers_of(gateway.network)
            .filter(move |host| zones.is_empty() || zones.contains(&host.zone))
    }

    /// Could another host have a router's gateway?
    pub(crate) fn is_movable(&self, gateway: Gateway, port: &Port) -> bool {
        let other = |host: &Arc<Host>| port.host.as_ref() != Some(&host.name);
        port.may_move || self.seats_of(gateway, port).any(other)
    }

    /// The host that answers for a floating IP, and whether another could.
    pub(crate) fn seat(&self, floating: &FloatingIp) -> Option<(&Arc<Host>, bool)> {
        let router = floating.router?;
        let (gateway, port) = self.gateway(router)?;
        let to = floating.to.and_then(|to| self.ports.get(&to.port));
        let own = to.and_then(|to| self.able(to.host.as_ref(), floating.network));
        if let Some(own) = own {
            return Some((own, false));
        }
        let host = self.gateway_host(router)?;
        Some((host, self.is_movable(gateway, port)))
    }

    /// The host that a port is at, as the others of its network see it.
    pub(crate) fn place<'a>(&'a self, port: &'a Port) -> Option<&'a HostName> {
        let floating = self.held_by.of(&port.section.id).next();
        match floating.and_then(|id| self.floating_ips.get(id)) {
            Some(floating) => self.seat(floating).map(|(host, _)| &host.name),
            None => port.host.as_ref(),
        }
    }

    /// A floating IP.
    pub fn floating_ip(&self, id: Id<kind::FloatingIp>) -> Option<&Arc<FloatingIp>> {
        self.floating_ips.get(&id)
    }

    /// The labels under which a project's routers count, by id.
    pub(crate) fn labels_for(
        &self,
        project: Id<kind::Project>,
    ) -> BTreeSet<Id<kind::MeteringLabel>> {
        let own = self.labels_of.of(&Some(project));
        own.chain(self.labels_of.of(&None)).copied().collect()
    }

    /// The rules of a label, by id.
    pub(crate) fn label_rules(
        &self,
        label: Id<kind::MeteringLabel>,
    ) -> impl Iterator<Item = &Arc<LabelRule>> {
        let ids = self.label_rules_of.of(&label);
        ids.filter_map(|id| self.label_rules.get(id))
    }

    /// The routers that count under a label.
    pub(crate) fn metered(&self, label: Id<kind::MeteringLabel>) -> BTreeSet<Id<kind::Router>> {
        match self.labels.get(&label).map(|label| label.of()) {
            Some(Some(project)) => self.routers_of.of(&project).copied().collect(),
            Some(None) => self.routers.keys().copied().collect(),
            None => BTreeSet::new(),
        }
    }

    /// All routers that have a way out, whether it is there or not.
    pub(crate) fn leaving(&self) -> impl Iterator<Item = Id<kind::Router>> {
        self.gateways_on.all().copied()
    }

    /// Is this port a router's interface?
    pub fn is_interface(&self, port: Id<kind::Port>) -> bool {
        self.ports
            .get(&port)
            .is_some_and(|port| port.router.is_some())
    }

    /// The proxy behind a port.
    pub(crate) fn proxy(&self, port: Id<kind::Port>) -> Option<&Arc<Proxy>> {
        let id = self.proxy_at.of(&port).next()?;
        self.proxies.get(id)
    }

    /// Does this port hold a virtual address of a function?
    fn holds_vip(&self, port: Id<kind::Port>) -> bool {
        let holds = |id| self.functions.get(id).is_some_and(|f| holds(f, port));
        self.functions_of.of(&port).any(holds)
    }

    /// Does this port hold a virtual address of a function that a chain uses?
    pub fn is_vip(&self, port: Id<kind::Port>) -> bool {
        self.functions_of.of(&port).any(|id| {
            self.chains_of_function.has(id)
                && self.functions.get(id).is_some_and(|f| holds(f, port))
        })
    }
}

/// Does this port hold one of a function's virtual addresses?
fn holds(function: &Function, port: Id<kind::Port>) -> bool {
    virtual_ports(function).contains(&port)
}

/// The sides that a classifier names.
pub(crate) fn sides(classifier: &Classifier) -> impl Iterator<Item = Side> {
    classifier.source.into_iter().chain(classifier.destination)
}

/// The ports that hold a function's virtual addresses.
pub(crate) fn virtual_ports(function: &Function) -> Vec<Id<kind::Port>> {
    match &function.work {
        Some(Work::LoadBalancer(balancer)) => vec![balancer.vip_port],
        Some(Work::Nat(nat)) => nat.addresses.iter().map(|(_, port, _)| *port).collect(),
        Some(
            Work::Firewall(_)
            | Work::Shaper(_)
            | Work::Appliance(_)
            | Work::Tap(_)
            | Work::Plain(_),
        )
        | None => Vec::new(),
    }
}

/// The ports of a function's appliances.
pub(crate) fn appliance_ports(function: &Function) -> impl Iterator<Item = Id<kind::Port>> + '_ {
    let instances = match &function.work {
        Some(Work::Appliance(appliance)) => appliance.instances.as_slice(),
        Some(
            Work::Firewall(_)
            | Work::LoadBalancer(_)
            | Work::Shaper(_)
            | Work::Nat(_)
            | Work::Tap(_)
            | Work::Plain(_),
        )
        | None => &[],
    };
    instances.iter().flat_map(|i| [i.ingress, i.egress])
}

/// The ports to which a function hands packets, or copies: their hosts have its chains.
pub(crate) fn handed_ports(function: &Function) -> Vec<Id<kind::Port>> {
    match &function.work {
        Some(Work::Plain(plain)) => plain_ports(plain),
        Some(Work::Tap(port)) => vec![*port],
        Some(
            Work::Appliance(_)
            | Work::Firewall(_)
            | Work::LoadBalancer(_)
            | Work::Shaper(_)
            | Work::Nat(_),
        )
        | None => appliance_ports(function).collect(),
    }
}

/// The ports that a function's section is made from.
fn function_ports(function: &Function) -> BTreeSet<Id<kind::Port>> {
    let targets: Vec<Target> = match &function.work {
        Some(Work::LoadBalancer(balancer)) => balancer.members.iter().map(|m| m.target).collect(),
        Some(Work::Nat(nat)) => {
            let forwards = nat.forwards.iter().map(|f| f.to);
            forwards
                .chain(nat.statics.iter().map(|(_, to)| *to))
                .collect()
        }
        Some(
            Work::Firewall(_)
            | Work::Shaper(_)
            | Work::Appliance(_)
            | Work::Tap(_)
            | Work::Plain(_),
        )
        | None => Vec::new(),
    };
    let ports = targets.into_iter().filter_map(|target| match target {
        Target::Port(id) => Some(id),
        Target::Address(_) | Target::Named(..) => None,
    });
    let ports = ports.chain(virtual_ports(function));
    ports.chain(handed_ports(function)).collect()
}

/// The set that a rule refers to.
pub(crate) fn remote_set(rule: &Rule) -> Option<Id<kind::AddressSet>> {
    match rule.section.remote {
        Remote::Set(set) => Some(set),
        Remote::Any | Remote::Prefix(_) => None,
    }
}
