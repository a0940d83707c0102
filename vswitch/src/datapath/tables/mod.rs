//! What does the switch know while it decides?
//!
//! [`Tables`] is one immutable snapshot of all policy: built by the agent from a [`hostconfig::HostConfig`], swapped in behind a pointer, read
//! by every worker once a batch. API ids become dense ids here; those of objects that stay do not change from snapshot to
//! snapshot, and what did not change is shared with the last one.
//!
//! # Epochs
//! Each section, and each set derived from sections (who is on a network; the rules of a set of groups), has a [`SectionIndex`]
//! and an epoch: the version of the tables at which it last changed. A flow remembers those that its walk read ([`Dependency`]);
//! while they stand still, so does its answer.
//!
//! # Invariants
//! - Epochs and versions only grow; the place of a section that went is reused only at a later epoch.
//! - Total: a config that refers to what is not there gives tables that refuse, never a panic.

mod build;
pub mod crossings;
pub mod dense;
pub mod dhcp6;
pub mod external;
mod far;
pub mod firewall;
pub mod floating;
pub mod l2;
pub mod l3;
mod lease;
pub mod lpm;
pub mod metadata;
pub mod port_security;
pub mod probes;
pub mod ra;
pub mod security_group;
pub mod service;
pub mod trunk;
pub mod tunnel;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    fmt,
    net::IpAddr,
    sync::Arc,
};

use hostconfig::{SectionKey, SubPort, group::Direction, qos::Limit};
use net::{
    GroupId, Id, Label, Mac, Mtu, NetworkId, Now, Origin, PortId, Prefix, RouterId, Vlan, Vni,
    VtepId, Zone, ids::kind,
};
use nfv::rules::AddressSet;
use overlay::{Fdb, FloodList, Neighbours};

use self::{
    crossings::Crossings,
    dense::Dense,
    firewall::Firewall,
    floating::FloatingIps,
    l3::{Martians, Router},
    probes::Targets,
    security_group::GroupSet,
    trunk::{Tagged, Trunks},
};
pub use far::{Arrival, End, Far};
pub use lease::Lease;

use super::{dns::Names, neighbours::Outside};

/// Which zone each port of this host has; the agent keeps it in the state dir.
pub type ZoneMap = HashMap<Id<kind::Port>, Zone>;

/// The place of a section, or of a set derived from sections, among the epochs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SectionIndex(pub u32);

/// What a flow's walk read: it is current while the section is at this epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Dependency {
    /// What was read.
    pub section: SectionIndex,
    /// At which epoch.
    pub epoch: u64,
}

/// What has an epoch.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Source {
    Section(SectionKey),
    /// Who is on a network: members, addresses, places.
    Members(Id<kind::Network>),
    /// A router, and which of its networks are here.
    Router(Id<kind::Router>),
    /// Which workloads have a floating IP of a router that this host answers for.
    Floating(Id<kind::Router>),
    /// What the ports of a network are called.
    Names(Id<kind::Network>),
    /// Which addresses of a network are virtual.
    Virtuals(Id<kind::Network>),
    /// The united rules of a set of groups, with the address sets that they name.
    GroupSet(BTreeSet<Id<kind::SecurityGroup>>),
    /// Which chains there are at all, and which ports are appliances'.
    Chains,
    /// Which instances of appliances there are, where, and whether they are up; which ports that plain functions name are here and up.
    Appliances,
}

/// A local port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Port {
    /// Its id in the API.
    pub id: Id<kind::Port>,
    /// Its name, for people.
    pub name: String,
    /// Its dense id.
    pub dense: PortId,
    /// Its network.
    pub network: NetworkId,
    /// The network's id in the API.
    pub network_id: Id<kind::Network>,
    /// Whose it is.
    pub project: Id<kind::Project>,
    /// Its MAC address.
    pub mac: Mac,
    /// Its addresses.
    pub addrs: Vec<IpAddr>,
    /// What it may send from: its own addresses first, then its allowed pairs.
    pub allowed: Vec<(Mac, Prefix)>,
    /// The MAC addresses that it may send from.
    pub macs: Vec<Mac>,
    /// Forwarding on or off.
    pub admin_up: bool,
    /// Anti-spoofing and security groups on or off.
    pub port_security: bool,
    /// Its rules; `None` when port security is off.
    pub group: Option<GroupId>,
    /// The firewall group that holds for it besides.
    pub firewall: Option<Id<kind::FirewallGroup>>,
    /// The scope of its connections.
    pub zone: Zone,
    /// The most connections that it may have tracked.
    pub max_connections: u32,
    /// The number of this host among all.
    pub host_number: Option<u16>,
    /// Its name in its network's domain, unless it ends with a dot.
    pub dns_name: Option<String>,
    /// What DHCP tells it besides.
    pub dhcp: hostconfig::DhcpOptions,
    /// Its network's MTU.
    pub mtu: Mtu,
    /// Whose device it shares, and by which tag.
    pub trunk: Option<SubPort>,
    /// The QoS policy that holds for it.
    pub qos: Option<Arc<Qos>>,
    /// Its section.
    pub section: SectionIndex,
}

impl Port {
    /// How its traffic in this direction is limited, if it is.
    #[inline]
    pub fn limit(&self, direction: Direction) -> Option<&Limit> {
        self.qos.as_ref()?.limit(direction)
    }
}

/// A QoS policy, with its place among the epochs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Qos {
    /// What it says.
    pub policy: hostconfig::QosPolicy,
    /// Its section.
    pub section: SectionIndex,
}

impl Qos {
    /// How traffic in this direction is limited, if it is.
    #[inline]
    pub fn limit(&self, direction: Direction) -> Option<&Limit> {
        let limit = match direction {
            Direction::Ingress => &self.policy.ingress,
            Direction::Egress => &self.policy.egress,
        };
        (!limit.is_none()).then_some(limit)
    }
}

/// A network with all that is on it.
#[derive(Debug, Clone)]
pub struct Network {
    /// Its id in the API.
    pub id: Id<kind::Network>,
    /// Its name, for people.
    pub name: String,
    /// Its dense id.
    pub dense: NetworkId,
    /// Whose it is.
    pub project: Id<kind::Project>,
    /// Its VNI.
    pub vni: Vni,
    /// Its MTU.
    pub mtu: Mtu,
    /// Forwarding on or off.
    pub admin_up: bool,
    /// What its ports are called.
    pub names: Names,
    /// Who is asked for names where its subnets name nobody.
    pub resolvers: Vec<IpAddr>,
    /// Its subnets.
    pub subnets: Vec<hostconfig::Subnet>,
    /// What its routers say of themselves.
    pub advertisements: Vec<ra::Advertisement>,
    /// Where MAC addresses are.
    pub fdb: Fdb,
    /// Whose the addresses are.
    pub neighbours: Neighbours,
    /// Who gets copies.
    pub flood: FloodList,
    /// Its ports elsewhere.
    pub endpoints: HashMap<Id<kind::Port>, Elsewhere, foldhash::fast::FixedState>,
    /// The wire that it is on. Then what is outside of this switch, all that has [`net::Origin::Tunnel`] with it, is on the wire, and nothing
    /// of it in a tunnel.
    pub wire: Option<WireEnd>,
    /// Its section.
    pub section: SectionIndex,
    /// Who is on it: read by what was not found, and by floods.
    pub members: SectionIndex,
    /// Which of its addresses are virtual, and whether it is fenced: read by what asks where a source is.
    pub virtuals: SectionIndex,
    /// Is there any?
    pub has_virtuals: bool,
    /// Has a router here a firewall? Then what any router brings is tracked: what answers is known by that.
    pub fenced: bool,
}

impl Network {
    /// Where what is not in this switch comes from, for people.
    pub fn outside(&self) -> String {
        match &self.wire {
            Some(wire) => format!("wire {wire}"),
            None => format!("vni {}", self.vni),
        }
    }
}

/// This host's end of a wire.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WireEnd {
    /// Which one.
    pub wire: hostconfig::network::Wire,
    /// Under which number the workers have it. No port of the API has it.
    pub port: PortId,
}

impl fmt::Display for WireEnd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.wire.physical)?;
        match self.wire.vlan {
            Some(vlan) => write!(f, " vlan {vlan}"),
            None => Ok(()),
        }
    }
}

/// What is known of a port elsewhere, besides its place and addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Elsewhere {
    /// Whose it is.
    pub project: Option<Id<kind::Project>>,
    /// Its section, so that a flow depends on the one that it met.
    pub section: SectionIndex,
}

/// A remote VTEP.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Vtep {
    /// Its address.
    pub addr: IpAddr,
    /// The host's name; empty when only endpoints name it.
    pub host: String,
    /// Has it no overweave agent?
    pub foreign: bool,
    /// May VXLAN come from it?
    pub known: bool,
}

/// A chain of this host, with its place among the epochs.
#[derive(Debug, Clone)]
pub struct Chain {
    /// What it does.
    pub chain: Arc<nfv::Chain>,
    /// Each hop's counters.
    pub hops: Vec<HopId>,
    /// The path by which other hosts name it.
    pub path: u32,
    /// Its section.
    pub section: SectionIndex,
}

/// A port of an appliance, with the other one of its pair.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Leg {
    /// Where forward packets go in.
    pub ingress: PortId,
    /// Where they come out.
    pub egress: PortId,
    /// The scope in which what was handed over is known.
    pub zone: Zone,
}

/// A function of a chain on this host: the index of its counters. Kept while the pair stays.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HopId(pub u32);

/// What a router counts under a label, on this host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct MeterId(pub u32);

/// Whose counters those of a hop are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hop {
    /// The chain.
    pub chain: Id<kind::PortChain>,
    /// The function in it.
    pub function: Id<kind::Function>,
    /// The function's name, for people.
    pub name: String,
    /// The chain's name, for people.
    pub chain_name: String,
    /// Do replies pass it?
    pub symmetric: bool,
    /// The policy of its queue, if packets wait at it.
    pub shaper: Option<hostconfig::Shaper>,
    /// Who reads bytes there, if it is an inspector.
    pub inspector: Option<Arc<nfv::inspect::Inspector>>,
}

/// A snapshot of all policy.
#[derive(Debug, Clone)]
pub struct Tables {
    version: u64,
    generation: hostconfig::Generation,
    seed: u64,
    epochs: Epochs,
    ports: Dense<Id<kind::Port>, Arc<Port>>,
    networks: Dense<Id<kind::Network>, Arc<Network>>,
    routers: Dense<Id<kind::Router>, Arc<Router>>,
    martians: Arc<Martians>,
    floating: FloatingIps,
    /// The addresses of this host on networks outside that a QoS policy limits.
    limited: HashMap<PortId, (Id<kind::Port>, Id<kind::QosPolicy>), foldhash::fast::FixedState>,
    vteps: Dense<IpAddr, Arc<Vtep>>,
    groups: Dense<BTreeSet<Id<kind::SecurityGroup>>, Arc<GroupSet>>,
    address_sets: BTreeMap<Id<kind::AddressSet>, Arc<AddressSet>>,
    /// What each was made of.
    set_contents: BTreeMap<Id<kind::AddressSet>, u128>,
    /// The firewall groups of ports and routers' interfaces.
    firewalls: BTreeMap<Id<kind::FirewallGroup>, Arc<Firewall>>,
    group_names: BTreeMap<Id<kind::SecurityGroup>, String>,
    qos: BTreeMap<Id<kind::QosPolicy>, Arc<Qos>>,
    chains: Vec<Arc<Chain>>,
    targets: Arc<Targets>,
    crossings: Arc<Crossings>,
    faults: Vec<String>,
    hops: Dense<(Id<kind::PortChain>, Id<kind::Function>), Arc<Hop>>,
    meters: Dense<(Id<kind::MeteringLabel>, Id<kind::Router>), ()>,
    chains_section: SectionIndex,
    legs: HashMap<PortId, Leg, foldhash::fast::FixedState>,
    /// The labels of the hops at which a port is an appliance's.
    labels: far::Labels,
    appliances: SectionIndex,
    transport: far::Transport,
    by_vni: HashMap<Vni, NetworkId, foldhash::fast::FixedState>,
    wires: HashMap<PortId, NetworkId, foldhash::fast::FixedState>,
    trunks: Trunks,
    /// By network: may a connection of its packets be tracked at all?
    tracking: Vec<bool>,
    /// By network: has it ever been because routers joined it with others?
    joined: Vec<bool>,
    /// The VTEP of this host: what is at it is here.
    own: Option<IpAddr>,
    /// Does the host not hear from its controller? Then another may have by now what could move.
    alone: bool,
    /// The lease under which this host has what another could have; none: there is nobody who would extend it.
    lease: Option<Arc<Lease>>,
    /// Is there any of that here?
    leased: bool,
    /// What to go on with when the lease is over: the same without it. Only where there is any of it here.
    twin: Option<Arc<Self>>,
    /// Those among the VTEPs from which VXLAN may come, and the others.
    by_addr: HashMap<IpAddr, (VtepId, bool), foldhash::fast::FixedState>,
    /// The one thing here that changes without a swap: it is shared by all versions.
    outside: Arc<Outside>,
}

#[derive(Debug, Clone, Default)]
pub(crate) struct Epochs {
    sources: Dense<Source, u128>,
    epochs: Vec<u64>,
}

impl Tables {
    /// The tables of a host that was told nothing: they refuse everything.
    pub fn empty(seed: u64) -> Self {
        build::empty(seed)
    }

    /// The same for the host with this VTEP; those that are built on them are too.
    #[must_use]
    pub fn at(self, vtep: IpAddr) -> Self {
        Self {
            own: Some(vtep.to_canonical()),
            ..self
        }
    }

    /// Whether the host hears from its controller, for those that are built on these: while it does not, nobody is known to have what could
    /// move from here.
    #[must_use]
    pub fn alone(self, alone: bool) -> Self {
        Self { alone, ..self }
    }

    /// Under which lease the host has what could move, for those that are built on these.
    #[must_use]
    pub fn under(self, lease: Arc<Lease>) -> Self {
        Self {
            lease: Some(lease),
            ..self
        }
    }

    /// What a worker goes on with instead of these: where the lease of what could move from here is over, the same tables without it.
    pub fn after_lease(&self, now: Now) -> Option<&Arc<Self>> {
        let (lease, twin) = (self.lease.as_ref()?, self.twin.as_ref()?);
        lease.is_over(now).then_some(twin)
    }

    /// Were they built for a host that does not hear from its controller?
    pub fn is_alone(&self) -> bool {
        self.alone
    }

    /// The members of load balancers that this host asks whether they serve.
    pub fn targets(&self) -> &Targets {
        &self.targets
    }

    /// Which appliances this host sends frames through.
    pub fn crossings(&self) -> &Crossings {
        &self.crossings
    }

    /// Grows by one with each snapshot.
    pub fn version(&self) -> u64 {
        self.version
    }

    /// Grows by one with each snapshot, and with each neighbour outside that is found, moves or is lost: while it stands still, so does whatever
    /// a flow read.
    #[inline]
    pub fn moment(&self) -> u64 {
        self.version + self.outside.version()
    }

    /// Who has which address on physical networks, as far as it was asked for.
    pub fn outside(&self) -> &Outside {
        &self.outside
    }

    /// The generation of the config that it was built from.
    pub fn generation(&self) -> hostconfig::Generation {
        self.generation
    }

    /// Mixed into choices that outsiders must not foresee.
    pub fn seed(&self) -> u64 {
        self.seed
    }

    /// What reading this section now makes a flow depend on.
    pub fn depend(&self, section: SectionIndex) -> Dependency {
        Dependency {
            section,
            epoch: self.epoch(section),
        }
    }

    /// Does what was read still stand?
    pub fn is_current(&self, dependency: Dependency) -> bool {
        self.epoch(dependency.section) == dependency.epoch
    }

    fn epoch(&self, section: SectionIndex) -> u64 {
        if Outside::has(section) {
            return self.outside.epoch(section);
        }
        let at = section.0 as usize;
        self.epochs.epochs.get(at).copied().unwrap_or_default()
    }

    /// A local port.
    pub fn port(&self, id: PortId) -> Option<&Port> {
        self.ports.get(id.0).map(|p| &**p)
    }

    /// A local port by its id in the API.
    pub fn port_by_id(&self, id: Id<kind::Port>) -> Option<&Port> {
        self.ports.by_key(&id).map(|(_, p)| &**p)
    }

    /// All local ports.
    pub fn ports(&self) -> impl Iterator<Item = &Port> + '_ {
        self.ports.iter().map(|(_, _, p)| &**p)
    }

    /// Under which number the workers have a network's wire.
    #[inline]
    pub fn wire_of(&self, network: NetworkId) -> Option<PortId> {
        Some(self.network(network)?.wire.as_ref()?.port)
    }

    /// The network whose wire the workers have under this number.
    #[inline]
    pub fn wired(&self, port: PortId) -> Option<NetworkId> {
        self.wires.get(&port).copied()
    }

    /// All wires, with their networks.
    pub fn wires(&self) -> impl Iterator<Item = (&Network, &WireEnd)> + '_ {
        self.networks().filter_map(|n| Some((n, n.wire.as_ref()?)))
    }

    /// Whose is what a port's device sends with this tag (IEEE 802.1Q §9.6)?
    pub fn tagged(&self, device: PortId, vlan: u16) -> Tagged {
        self.trunks.tagged(device, vlan)
    }

    /// The port whose device a sub-port shares, and its tag there; `None`: it has one of its own.
    pub fn carrier(&self, port: PortId) -> Option<(PortId, Vlan)> {
        self.trunks.carrier(port)
    }

    /// One past the largest [`PortId`].
    pub fn port_bound(&self) -> usize {
        self.ports.bound()
    }

    /// A network.
    pub fn network(&self, id: NetworkId) -> Option<&Network> {
        self.networks.get(id.0).map(|n| &**n)
    }

    /// May a connection of this network's packets be tracked, on any worker? By a stateful group or a firewall of one of its ports, by a virtual address, by
    /// a router's firewall, by any of them on a network that routers join with it, or by a chain: that may be for any network.
    #[inline]
    pub fn tracks(&self, network: NetworkId) -> bool {
        let at = network.0 as usize;
        self.tracking.get(at).copied().unwrap_or(true)
    }

    /// A network by its id in the API.
    pub fn network_by_id(&self, id: Id<kind::Network>) -> Option<&Network> {
        self.networks.by_key(&id).map(|(_, n)| &**n)
    }

    /// All networks.
    pub fn networks(&self) -> impl Iterator<Item = &Network> + '_ {
        self.networks.iter().map(|(_, _, n)| &**n)
    }

    /// The network of a VNI.
    pub fn network_of(&self, vni: Vni) -> Option<&Network> {
        self.network(*self.by_vni.get(&vni)?)
    }

    /// A router.
    pub fn router(&self, id: RouterId) -> Option<&Router> {
        self.routers.get(id.0).map(|r| &**r)
    }

    /// All routers.
    pub fn routers(&self) -> impl Iterator<Item = &Router> + '_ {
        self.routers.iter().map(|(_, _, r)| &**r)
    }

    /// The router whose gateway is here and has this zone.
    pub fn router_of_zone(&self, zone: Zone) -> Option<&Router> {
        let has = |r: &&Router| r.gateway_here().is_some_and(|g| g.zone == zone);
        self.routers().find(has)
    }

    /// The floating IPs that this host answers for.
    pub fn floating(&self) -> &FloatingIps {
        &self.floating
    }

    /// Whose traffic under this number a QoS policy is for: a port's, or that of a floating IP or gateway which is here, by the port of the API
    /// that holds the address.
    pub fn limited(&self, port: PortId) -> Option<(Id<kind::Port>, &Qos)> {
        if let Some(port) = self.port(port) {
            return Some((port.id, port.qos.as_deref()?));
        }
        let (id, policy) = self.limited.get(&port)?;
        Some((*id, self.qos.get(policy)?))
    }

    /// All floating IPs and gateways of this host with a QoS policy, by number.
    pub fn limited_outside(&self) -> impl Iterator<Item = PortId> + '_ {
        self.limited.keys().copied()
    }

    /// The number of a port of the API that a QoS policy limits outside.
    pub(super) fn number_outside(&self, port: Id<kind::Port>) -> Option<PortId> {
        if self.limited.is_empty() {
            return None;
        }
        let number = PortId(self.ports.id(&port)?);
        self.limited.contains_key(&number).then_some(number)
    }

    /// The scope of what comes out of a tunnel for a router's MAC address, that of this port: its gateway's, or a floating IP's.
    #[inline]
    pub fn zone_outside(&self, router: RouterId, port: Id<kind::Port>) -> Option<Zone> {
        if let Some(floating) = self.floating.of_port(port) {
            return Some(floating.zone);
        }
        self.router(router)?.gateway_here().map(|g| g.zone)
    }

    /// A remote VTEP.
    pub fn vtep(&self, id: VtepId) -> Option<&Vtep> {
        self.vteps.get(id.0).map(|v| &**v)
    }

    /// The dense id of a VTEP.
    pub fn vtep_id(&self, addr: IpAddr) -> Option<VtepId> {
        let (id, _) = self.by_addr.get(&addr.to_canonical())?;
        Some(*id)
    }

    /// All remote VTEPs.
    pub fn vteps(&self) -> impl Iterator<Item = (VtepId, &Vtep)> + '_ {
        self.vteps.iter().map(|(i, _, v)| (VtepId(i), &**v))
    }

    /// May VXLAN come from this address?
    pub fn admits(&self, outer_source: IpAddr) -> bool {
        self.by_addr
            .get(&outer_source.to_canonical())
            .is_some_and(|(_, known)| *known)
    }

    /// The united rules of a set of groups.
    pub fn group(&self, id: GroupId) -> Option<&GroupSet> {
        self.groups.get(id.0).map(|g| &**g)
    }

    /// A firewall group.
    pub fn firewall(&self, id: Id<kind::FirewallGroup>) -> Option<&Firewall> {
        self.firewalls.get(&id).map(|f| &**f)
    }

    /// The name of a security group, for people.
    pub fn group_name(&self, id: Id<kind::SecurityGroup>) -> Option<&str> {
        self.group_names.get(&id).map(String::as_str)
    }

    /// The chains, by id.
    pub fn chains(&self) -> impl Iterator<Item = &'_ Chain> + '_ {
        self.chains.iter().map(|c| &**c)
    }

    /// A chain by its id.
    pub fn chain(&self, id: Id<kind::PortChain>) -> Option<&Chain> {
        // They are by id, as their sections are.
        let at = self.chains.binary_search_by_key(&id, |c| c.chain.id());
        at.ok().and_then(|at| self.chains.get(at)).map(|c| &**c)
    }

    /// What of the config could not be built; what was there before goes on in its place. Empty for what the controller compiles.
    pub fn faults(&self) -> &[String] {
        &self.faults
    }

    /// Which chains there are at all.
    pub fn chains_section(&self) -> SectionIndex {
        self.chains_section
    }

    /// Which instances of appliances there are, and whether they are up.
    pub fn appliances(&self) -> SectionIndex {
        self.appliances
    }

    /// The pair of an appliance that a port is one end of.
    pub fn leg(&self, port: PortId) -> Option<Leg> {
        self.legs.get(&port).copied()
    }

    /// Does a local port get packets under labels?
    pub fn is_labelled(&self, origin: Origin) -> bool {
        matches!(origin, Origin::Port(port) if self.labels.contains_key(&port))
    }

    /// The label with this path under which packets go out of a port, and come in.
    pub fn label(&self, origin: Origin, path: u16) -> Option<Label> {
        let Origin::Port(port) = origin else {
            return None;
        };
        let labels = self.labels.get(&port)?;
        labels.iter().find(|label| label.path() == path).copied()
    }

    /// Is any port an appliance's?
    pub fn has_legs(&self) -> bool {
        !self.legs.is_empty()
    }

    /// Whose a hop's counters are.
    pub fn hop(&self, id: HopId) -> Option<&Hop> {
        self.hops.get(id.0).map(|h| &**h)
    }

    /// Is this meter anybody's?
    pub fn is_metered(&self, id: MeterId) -> bool {
        self.meters.get(id.0).is_some()
    }

    /// All meters, each with its label and router.
    pub fn meters(
        &self,
    ) -> impl Iterator<Item = (MeterId, Id<kind::MeteringLabel>, Id<kind::Router>)> + '_ {
        let all = self.meters.iter();
        all.map(|(id, (label, router), ())| (MeterId(id), *label, *router))
    }

    /// One past the largest [`HopId`].
    pub fn hop_bound(&self) -> usize {
        self.hops.bound()
    }
}
