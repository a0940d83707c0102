//! How do the next tables come from the last ones and a config?

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    hash::{BuildHasher, Hash},
    net::IpAddr,
    sync::Arc,
};

use hostconfig::{HostConfig, Location, Section, SectionKey};
use net::{Id, NetworkId, PortId, Prefix, RouterId, VtepId, Zone, ids::kind};
use nfv::rules::AddressSet;
use overlay::{Fdb, FdbEntry, FloodList, Neighbour, Neighbours, Place};

use crate::datapath::{
    dns::Names,
    neighbours::{Limits, Outside},
};

use super::{
    Chain, Elsewhere, Epochs, Hop, HopId, MeterId, Network, Port, Qos, SectionIndex, Source,
    Tables, Vtep, WireEnd, ZoneMap,
    crossings::Crossings,
    dense::Dense,
    external::Where,
    firewall::Firewall,
    floating::{self, Floating, FloatingIps},
    l3::{Interface, Router},
    probes::{self, Targets},
    ra::{self, Advertisement},
    security_group::GroupSet,
    trunk::Trunks,
};

/// A network may have as many addresses as its subnets let the controller give out; this is where memory says stop.
const FDB_CAPACITY: usize = 1 << 20;

pub(super) fn empty(seed: u64) -> Tables {
    let mut tables = Tables {
        version: 0,
        generation: hostconfig::Generation::default(),
        seed,
        epochs: Epochs::default(),
        ports: Dense::default(),
        networks: Dense::default(),
        routers: Dense::default(),
        martians: Arc::default(),
        floating: FloatingIps::default(),
        vteps: Dense::default(),
        groups: Dense::default(),
        address_sets: BTreeMap::new(),
        set_contents: BTreeMap::new(),
        firewalls: BTreeMap::new(),
        group_names: BTreeMap::new(),
        qos: BTreeMap::new(),
        limited: HashMap::default(),
        chains: Vec::new(),
        targets: Arc::default(),
        crossings: Arc::default(),
        faults: Vec::new(),
        hops: Dense::default(),
        meters: Dense::default(),
        chains_section: SectionIndex(0),
        legs: HashMap::default(),
        labels: HashMap::default(),
        appliances: SectionIndex(0),
        transport: super::far::Transport::default(),
        by_vni: HashMap::default(),
        own: None,
        wires: HashMap::default(),
        trunks: Trunks::default(),
        alone: false,
        lease: None,
        leased: false,
        twin: None,
        by_addr: HashMap::default(),
        tracking: Vec::new(),
        joined: Vec::new(),
        outside: Arc::new(Outside::new(Limits::default(), seed)),
    };
    tables.chains_section = tables.epochs.note(&Source::Chains, 0, 0).0;
    tables.appliances = tables.epochs.note(&Source::Appliances, 0, 0).0;
    tables
}

impl Epochs {
    /// Notes what a source holds now; a change moves its epoch to `version`. Returns its place, and whether it changed.
    fn note(&mut self, source: &Source, hash: u128, version: u64) -> (SectionIndex, bool) {
        let same = self.sources.by_key(source).is_some_and(|(_, h)| *h == hash);
        let at = self.sources.put(source, hash);
        let index = at as usize;
        if index >= self.epochs.len() {
            self.epochs.resize(index + 1, version);
        }
        if !same && let Some(epoch) = self.epochs.get_mut(index) {
            *epoch = version;
        }
        (SectionIndex(at), !same)
    }

    fn retain(&mut self, version: u64, keep: &BTreeSet<Source>) {
        for gone in self.sources.retain(|s| keep.contains(s)) {
            if let Some(epoch) = self.epochs.get_mut(gone as usize) {
                *epoch = version;
            }
        }
    }
}

/// Two seeded 64-bit hashes side by side: content is compared once a section and swap, by 128 bits.
fn digest(content: impl Hash) -> u128 {
    let half = |seed| foldhash::quality::FixedState::with_seed(seed).hash_one(&content);
    u128::from(half(0x6f76)) << 64 | u128::from(half(0x6572))
}

/// The bodies of a config by kind, with their places and whether they changed.
#[derive(Default)]
struct Sorted<'a> {
    networks: Vec<(&'a hostconfig::Network, SectionIndex, bool)>,
    groups: BTreeMap<Id<kind::SecurityGroup>, (&'a hostconfig::SecurityGroup, u128)>,
    /// The parts of each set.
    sets: BTreeMap<Id<kind::AddressSet>, Vec<(&'a hostconfig::AddressSet, u128)>>,
    firewalls: Vec<(&'a hostconfig::FirewallGroup, SectionIndex, bool)>,
    qos: Vec<(&'a hostconfig::QosPolicy, SectionIndex, bool)>,
    /// By which ports of the API QoS policies limit what passes outside, at the hosts that answer for them.
    limited: BTreeMap<Id<kind::Port>, Id<kind::QosPolicy>>,
    chains: Vec<(&'a hostconfig::Chain, SectionIndex, bool)>,
    ports: Vec<(&'a hostconfig::Port, SectionIndex, bool)>,
    endpoints: BTreeMap<Id<kind::Network>, Vec<(&'a hostconfig::Endpoint, SectionIndex)>>,
    routers: Vec<(&'a hostconfig::Router, u128)>,
    floating: Vec<(&'a hostconfig::FloatingIp, SectionIndex)>,
    vteps: Option<&'a hostconfig::Vteps>,
    alive: BTreeSet<Source>,
}

impl<'a> Sorted<'a> {
    fn new(
        config: &'a HostConfig,
        (targets, crossings): (&Targets, &Crossings),
        epochs: &mut Epochs,
        version: u64,
    ) -> Self {
        let mut sorted = Self::default();
        for (key, keyed) in &config.sections {
            let mut hash = u128::from_be_bytes(keyed.hash().0);
            // What it is asked is taken out of what it says: its flows depend on that too.
            if let SectionKey::Port(id) = key
                && let asked @ [_, ..] = targets.behind(*id)
            {
                hash ^= digest(format!("{asked:?}"));
            }
            if let SectionKey::Port(id) = key
                && let Some(crossed) = crossings.at(*id)
            {
                hash ^= digest(format!("{crossed:?}"));
            }
            let source = Source::Section(*key);
            let (at, changed) = epochs.note(&source, hash, version);
            sorted.alive.insert(source);
            match keyed.body() {
                Section::Vteps(v) => sorted.vteps = Some(v),
                Section::Network(n) => sorted.networks.push((n, at, changed)),
                Section::AddressSet(s) => {
                    sorted.sets.entry(s.id).or_default().push((s, hash));
                }
                Section::Group(g) => {
                    sorted.groups.insert(g.id, (g, hash));
                }
                Section::Firewall(f) => sorted.firewalls.push((f, at, changed)),
                Section::Qos(q) => sorted.qos.push((q, at, changed)),
                Section::Chain(c) => sorted.chains.push((c, at, changed)),
                Section::Port(p) => sorted.ports.push((p, at, changed)),
                Section::Endpoint(e) => {
                    sorted.endpoints.entry(e.network).or_default().push((e, at));
                }
                Section::Router(r) => sorted.routers.push((r, hash)),
                Section::FloatingIp(f) => sorted.floating.push((f, at)),
                // Nothing that a packet's way depends on.
                Section::Metadata(_) | Section::Proxy(_) => {}
            }
        }
        sorted
    }
}

impl Tables {
    /// The tables of this config: ids and epochs go on from `previous`, and what did not change is shared with it. A port without a
    /// zone is left out: it can't be told apart from others.
    #[must_use]
    pub fn build(previous: Option<&Self>, config: &HostConfig, zones: &ZoneMap, seed: u64) -> Self {
        let next = previous.cloned().unwrap_or_else(|| empty(seed));
        let mut next = next.built(config, zones);
        if next.leased && !next.alone && next.lease.is_some() {
            let twin = next.clone().alone(true).built(config, zones);
            next.twin = Some(Arc::new(twin));
        }
        next
    }

    fn built(self, config: &HostConfig, zones: &ZoneMap) -> Self {
        let mut next = self;
        // Newer than the twin too, which some worker may run.
        next.version += 1 + u64::from(next.twin.take().is_some());
        next.leased = false;
        next.generation = config.generation;
        next.targets = Arc::new(Targets::of(config));
        next.crossings = Arc::new(Crossings::of(config));
        let asked = (&*next.targets, &*next.crossings);
        let mut sorted = Sorted::new(config, asked, &mut next.epochs, next.version);
        next.faults.clear();
        if next.targets.beyond > 0 {
            let (most, beyond) = (probes::MOST, next.targets.beyond);
            let fault =
                format!("this host asks {most} members whether they serve, {beyond} are not asked");
            next.faults.push(fault);
        }
        if next.crossings.beyond > 0 {
            let (most, beyond) = (probes::MOST, next.crossings.beyond);
            let fault = format!(
                "this host sends probes through {most} port pairs, through {beyond} it does not"
            );
            next.faults.push(fault);
        }
        next.put_vteps(&sorted);
        next.put_address_sets(&sorted);
        next.put_firewalls(&mut sorted);
        next.put_qos(&mut sorted);
        next.note_limited(&mut sorted);
        let ports = next.put_ports(&mut sorted, zones);
        let mut routers = next.put_routers(&mut sorted, zones);
        next.put_floating(&mut sorted, &mut routers);
        next.put_networks(&mut sorted, &ports, &routers);
        next.put_chains(&mut sorted, zones);
        next.note_tracking();
        next.outside.keep(|id| next.networks.by_key(&id).is_some());
        next.epochs.retain(next.version, &sorted.alive);
        next
    }

    fn note_tracking(&mut self) {
        let mut tracking = vec![!self.chains.is_empty(); self.networks.bound()];
        for port in self.ports() {
            let group = port.group.map(|id| self.group(id));
            let stateful = group.is_some_and(|g| g.is_none_or(GroupSet::stateful));
            let stateful = stateful || port.firewall.is_some();
            if let Some(tracks) = tracking.get_mut(port.network.0 as usize) {
                *tracks |= stateful;
            }
        }
        // What comes from a virtual address is tracked whatever its receiver's groups are.
        let known = self.networks.iter();
        for (network, tracks) in known.map(|(at, _, n)| (at, n.has_virtuals || n.fenced)) {
            if let Some(known) = tracking.get_mut(network as usize) {
                *known |= tracks;
            }
        }
        // What a gateway hides is tracked, whoever sent it; and so is what answers it.
        for router in self.routers.iter().map(|(_, _, r)| r) {
            let hides = router.gateway_here().is_some_and(|g| g.nat.is_some());
            for at in router.interfaces.iter().map(|i| i.network.index()) {
                if let Some(tracks) = tracking.get_mut(at) {
                    *tracks |= hides;
                }
            }
        }
        let shown = self.floating.iter();
        for at in shown.flat_map(|f| {
            let router = self.router(f.router);
            let inside = router.into_iter().flat_map(|r| &r.interfaces);
            inside.map(|i| i.network).chain([f.interface.network])
        }) {
            if let Some(tracks) = tracking.get_mut(at.index()) {
                *tracks = true;
            }
        }
        // What one network of a router sends may be for any other of them, and through the next router for its. A router that goes may come
        // again, and its connections with it.
        self.joined.resize(tracking.len(), false);
        for _ in 0..self.routers.iter().count() {
            let mut more = false;
            for router in self.routers.iter().map(|(_, _, r)| r) {
                let on = router.interfaces.iter().map(|i| i.network.index());
                let tracks = |at: usize| tracking.get(at).copied().unwrap_or(false);
                if on.clone().any(tracks) && !on.clone().all(tracks) {
                    more = true;
                    for at in on {
                        for set in [&mut tracking, &mut self.joined] {
                            if let Some(is) = set.get_mut(at) {
                                *is = true;
                            }
                        }
                    }
                }
            }
            if !more {
                break;
            }
        }
        for (tracks, joined) in tracking.iter_mut().zip(&self.joined) {
            *tracks |= *joined;
        }
        self.tracking = tracking;
    }

    /// Attaches each router to those of its networks that are here. Returns the interfaces by network.
    fn put_routers(
        &mut self,
        sorted: &mut Sorted<'_>,
        zones: &ZoneMap,
    ) -> BTreeMap<NetworkId, Vec<(RouterId, SectionIndex, Interface)>> {
        let listed = std::mem::take(&mut sorted.routers);
        let here: BTreeMap<_, _> = sorted
            .networks
            .iter()
            .map(|(n, _, _)| (n.id, NetworkId(self.networks.reserve(&n.id))))
            .collect();
        let network = |id| here.get(&id).copied();
        let mut by_network: BTreeMap<_, Vec<_>> = BTreeMap::new();
        let mut alive = BTreeSet::new();
        let mut metered = BTreeSet::new();
        for (config, hash) in listed {
            for meter in &config.meters {
                let key = (meter.label, config.id);
                self.meters.put(&key, ());
                metered.insert(key);
            }
            alive.insert(config.id);
            let attached = config.interfaces.iter().map(|i| network(i.network));
            let outside = self.way_out(config, zones);
            let leaves = config.gateway.as_ref().and_then(|g| network(g.network));
            let content = digest((hash, attached.collect::<Vec<_>>(), outside, leaves));
            let source = Source::Router(config.id);
            let (section, changed) = self.epochs.note(&source, content, self.version);
            sorted.alive.insert(source);
            let dense = RouterId(self.routers.reserve(&config.id));
            let kept = self.routers.get(dense.0).filter(|_| !changed);
            let router = match kept {
                Some(kept) => Arc::clone(kept),
                None => Arc::new(Router::new(
                    config,
                    (dense, section),
                    outside,
                    network,
                    |label| {
                        let known = self.meters.by_key(&(label, config.id));
                        known.map(|(id, ())| MeterId(id))
                    },
                    &self.martians,
                )),
            };
            self.faults.extend_from_slice(router.faults());
            for interface in &router.interfaces {
                let on: &mut Vec<_> = by_network.entry(interface.network).or_default();
                on.push((dense, section, interface.clone()));
            }
            self.routers.put(&config.id, router);
        }
        self.routers.retain(|id| alive.contains(id));
        self.meters.retain(|key| metered.contains(key));
        by_network
    }

    /// The floating IPs that are here, each on its network outside.
    fn put_floating(
        &mut self,
        sorted: &mut Sorted<'_>,
        on: &mut BTreeMap<NetworkId, Vec<(RouterId, SectionIndex, Interface)>>,
    ) {
        let mut all = FloatingIps::default();
        for (config, section) in std::mem::take(&mut sorted.floating) {
            if self.place_outside(config.at, config.movable) != Where::Here {
                continue;
            }
            let known = sorted.networks.iter().any(|(n, ..)| n.id == config.network);
            let network = known.then(|| NetworkId(self.networks.reserve(&config.network)));
            let floating = match self.floating_ip(config, network, section) {
                Ok(floating) => floating,
                Err(why) => {
                    let fault = format!("floating_ip {}: {why}", config.id);
                    self.faults.push(fault);
                    continue;
                }
            };
            let (router, interface) = (floating.router, floating.interface.clone());
            if all.put(floating) {
                let there: &mut Vec<_> = on.entry(interface.network).or_default();
                there.push((router, section, interface));
            } else {
                let fault = "its router has it, or its workload another, already";
                self.faults
                    .push(format!("floating_ip {}: {fault}", config.id));
            }
        }
        let routers: Vec<_> = self.routers().map(|r| (r.id, r.dense)).collect();
        for (id, dense) in routers {
            let source = Source::Floating(id);
            let content = digest(all.inside(dense));
            let (section, _) = self.epochs.note(&source, content, self.version);
            sorted.alive.insert(source);
            all.note(dense, section);
        }
        self.floating = all;
    }

    fn floating_ip(
        &self,
        config: &hostconfig::FloatingIp,
        network: Option<NetworkId>,
        section: SectionIndex,
    ) -> Result<Floating, String> {
        let router = self.routers.by_key(&config.router).map(|(_, r)| r);
        let router = router.ok_or("its router is not here")?;
        let network = network.ok_or("its network is not here")?;
        let gateway = || router.gateway_here().map(|g| g.zone);
        let own = config.to.and_then(|to| self.port_by_id(to.port));
        let zone = own.map(|port| port.zone).or_else(gateway);
        let zone = zone.ok_or("neither its workload nor its router's gateway is here")?;
        let forwards = floating::forwards(config).map_err(|fault| fault.to_string())?;
        Ok(Floating {
            id: config.id,
            addr: config.addr,
            interface: Interface {
                port: config.port,
                network,
                mac: config.mac.get(),
                admin_up: true,
                addrs: vec![(config.addr, Prefix::host(config.addr))],
                outside: true,
                firewall: None,
            },
            router: router.dense,
            zone,
            inside: config.to,
            forwards,
            section,
        })
    }

    /// Who has what is outside there.
    fn place_outside(&mut self, at: Option<IpAddr>, movable: bool) -> Where {
        match at.map(|addr| addr.to_canonical()) {
            Some(addr) if Some(addr) == self.own && movable => {
                self.leased = true;
                if self.alone {
                    Where::Nobody
                } else {
                    Where::Here
                }
            }
            Some(addr) if Some(addr) == self.own => Where::Here,
            Some(addr) => self.vtep_id(addr).map_or(Where::Nobody, Where::Vtep),
            None => Where::Nobody,
        }
    }

    /// Who has a router's gateway, and the scope of its connections.
    fn way_out(&mut self, config: &hostconfig::Router, zones: &ZoneMap) -> (Where, Zone) {
        let Some(gateway) = &config.gateway else {
            return (Where::Nobody, Zone::default());
        };
        let zone = zones.get(&gateway.port).copied();
        let at = self.place_outside(gateway.at, gateway.movable);
        match (at, zone) {
            (Where::Here, None) => (Where::Nobody, Zone::default()),
            (at, zone) => (at, zone.unwrap_or_default()),
        }
    }

    fn put_vteps(&mut self, sorted: &Sorted<'_>) {
        let mut vteps: BTreeMap<IpAddr, Vtep> = BTreeMap::new();
        for (addr, v) in sorted.vteps.iter().flat_map(|v| &v.vteps) {
            let addr = addr.to_canonical();
            let vtep = Vtep {
                addr,
                host: v.host.clone(),
                foreign: v.foreign,
                known: true,
            };
            vteps.insert(addr, vtep);
        }
        for (endpoint, _) in sorted.endpoints.values().flatten() {
            if let Location::Vtep(addr) = endpoint.at {
                let addr = addr.to_canonical();
                vteps.entry(addr).or_insert_with(|| Vtep {
                    addr,
                    host: String::new(),
                    foreign: false,
                    known: false,
                });
            }
        }
        self.vteps.retain(|addr| vteps.contains_key(addr));
        for (addr, vtep) in vteps {
            if self.vteps.by_key(&addr).is_none_or(|(_, v)| **v != vtep) {
                self.vteps.put(&addr, Arc::new(vtep));
            }
        }
        let hasher = foldhash::fast::FixedState::with_seed(self.seed);
        self.by_addr = HashMap::with_hasher(hasher);
        let all = self.vteps.iter();
        self.by_addr
            .extend(all.map(|(id, addr, v)| (*addr, (VtepId(id), v.known))));
    }

    fn put_address_sets(&mut self, sorted: &Sorted<'_>) {
        self.address_sets
            .retain(|id, _| sorted.sets.contains_key(id));
        self.set_contents
            .retain(|id, _| sorted.sets.contains_key(id));
        for (id, parts) in &sorted.sets {
            let content = digest(parts.iter().map(|(_, hash)| *hash).collect::<Vec<_>>());
            if self.set_contents.insert(*id, content) != Some(content) {
                let members = parts.iter().flat_map(|(part, _)| part.members.iter());
                let members = AddressSet::new(members.copied());
                self.address_sets.insert(*id, Arc::new(members));
            }
        }
        self.group_names = sorted
            .groups
            .values()
            .map(|(g, _)| (g.id, g.name.clone()))
            .collect();
    }

    fn put_qos(&mut self, sorted: &mut Sorted<'_>) {
        let kept = std::mem::take(&mut self.qos);
        for (policy, section, changed) in std::mem::take(&mut sorted.qos) {
            let entry = match kept.get(&policy.id) {
                Some(kept) if !changed => Arc::clone(kept),
                Some(_) | None => Arc::new(Qos {
                    policy: policy.clone(),
                    section,
                }),
            };
            self.qos.insert(policy.id, entry);
        }
    }

    /// The firewall groups. One that is named and not there lets nothing pass until it is.
    fn put_firewalls(&mut self, sorted: &mut Sorted<'_>) {
        let kept = std::mem::take(&mut self.firewalls);
        for (group, section, changed) in std::mem::take(&mut sorted.firewalls) {
            let entry = match kept.get(&group.id) {
                Some(kept) if !changed => Arc::clone(kept),
                Some(_) | None => Arc::new(Firewall::new(group, section)),
            };
            let faults = entry.faults().iter();
            let fault = |rule| format!("firewall {}: rule {rule} can't match", group.id);
            self.faults.extend(faults.map(fault));
            self.firewalls.insert(group.id, entry);
        }
        let ports = sorted.ports.iter().filter_map(|(port, ..)| port.firewall);
        let routers = sorted.routers.iter();
        let interfaces = routers.flat_map(|(router, _)| &router.interfaces);
        let named: BTreeSet<_> = ports
            .chain(interfaces.filter_map(|i| i.firewall))
            .filter(|id| !self.firewalls.contains_key(id))
            .collect();
        for id in named {
            let source = Source::Section(SectionKey::Firewall(id));
            let (section, _) = self.epochs.note(&source, 0, self.version);
            sorted.alive.insert(source);
            let closed = Arc::new(Firewall::closed(id, section));
            self.firewalls.insert(id, closed);
        }
    }

    /// Has any router here a firewall?
    fn is_fenced(&self) -> bool {
        let mut interfaces = self.routers().flat_map(|r| &r.interfaces);
        interfaces.any(|i| i.firewall.is_some())
    }

    /// Which floating IPs and gateways of this host have a QoS policy.
    fn note_limited(&mut self, sorted: &mut Sorted<'_>) {
        let (own, alone) = (self.own, self.alone);
        let here = |at: Option<IpAddr>, movable: bool| {
            let is_own = at.is_some_and(|addr| Some(addr.to_canonical()) == own);
            is_own && !(movable && alone)
        };
        let floating = sorted.floating.iter().map(|(f, _)| *f);
        let floating = floating.filter(|f| here(f.at, f.movable));
        let floating = floating.filter_map(|f| Some((f.port, f.qos?)));
        let gateways = sorted.routers.iter();
        let gateways = gateways.filter_map(|(router, _)| router.gateway.as_ref());
        let gateways = gateways.filter(|g| here(g.at, g.movable));
        let gateways = gateways.filter_map(|g| Some((g.port, g.qos?)));
        let limited: BTreeMap<_, _> = floating.chain(gateways).collect();
        self.limited.clear();
        for (port, policy) in &limited {
            let number = PortId(self.ports.reserve(port));
            self.limited.insert(number, (*port, *policy));
        }
        sorted.limited = limited;
    }

    /// Compiles the united rules of a set of groups, if one of them or an address set of theirs changed.
    fn put_group_set(&mut self, sorted: &mut Sorted<'_>, ids: &BTreeSet<Id<kind::SecurityGroup>>) {
        let source = Source::GroupSet(ids.clone());
        if !sorted.alive.insert(source.clone()) {
            return;
        }
        let groups: Vec<_> = ids.iter().filter_map(|id| sorted.groups.get(id)).collect();
        let sets: BTreeSet<_> = groups.iter().flat_map(|(g, _)| security_sets(g)).collect();
        let content: Vec<u128> = groups
            .iter()
            .map(|(_, hash)| *hash)
            .chain(
                sets.iter()
                    .filter_map(|s| self.set_contents.get(s).copied()),
            )
            .collect();
        let (at, changed) = self.epochs.note(&source, digest(content), self.version);
        if changed || self.groups.by_key(ids).is_none() {
            let bodies: Vec<_> = groups.iter().map(|(g, _)| *g).collect();
            let of_groups = digest(groups.iter().map(|(_, hash)| *hash).collect::<Vec<_>>());
            let previous = self.groups.by_key(ids).map(|(_, set)| &**set);
            let content = (&bodies[..], of_groups);
            let set = GroupSet::new(previous, content, &self.address_sets, at);
            self.groups.put(ids, Arc::new(set));
        }
    }

    fn put_ports(
        &mut self,
        sorted: &mut Sorted<'_>,
        zones: &ZoneMap,
    ) -> BTreeMap<Id<kind::Network>, Vec<Arc<Port>>> {
        let listed = std::mem::take(&mut sorted.ports);
        let networks: BTreeMap<_, _> = sorted
            .networks
            .iter()
            .map(|(n, _, _)| (n.id, n.mtu))
            .collect();
        let mut sets = BTreeSet::new();
        let mut by_network: BTreeMap<_, Vec<Arc<Port>>> = BTreeMap::new();
        let mut alive = BTreeSet::new();
        for (port, section, changed) in listed {
            let (Some(&zone), Some(&mtu)) = (zones.get(&port.id), networks.get(&port.network))
            else {
                continue;
            };
            alive.insert(port.id);
            let group = port.port_security.then(|| {
                let ids: BTreeSet<_> = port.security_groups.iter().copied().collect();
                self.put_group_set(sorted, &ids);
                let dense = net::GroupId(self.groups.reserve(&ids));
                sets.insert(ids);
                dense
            });
            let network = NetworkId(self.networks.reserve(&port.network));
            let dense = PortId(self.ports.reserve(&port.id));
            let qos = port.qos.and_then(|id| self.qos.get(&id)).cloned();
            let kept = self.ports.get(dense.0).filter(|p| {
                !changed
                    && p.zone == zone
                    && p.group == group
                    && p.network == network
                    && p.mtu == mtu
                    && p.qos == qos
            });
            let entry = kept.map_or_else(
                || {
                    Arc::new(Port {
                        qos,
                        ..local_port(port, (dense, network, zone, group, section), mtu)
                    })
                },
                Arc::clone,
            );
            by_network
                .entry(port.network)
                .or_default()
                .push(Arc::clone(&entry));
            self.ports.put(&port.id, entry);
        }
        for (network, _, _) in &sorted.networks {
            if network.wire.is_some() {
                let port = wire_port(network.id);
                self.ports.reserve(&port);
                alive.insert(port);
            }
        }
        alive.extend(sorted.limited.keys().copied());
        for id in self.ports_elsewhere(sorted.chains.iter().map(|(chain, ..)| *chain)) {
            self.ports.reserve(&id);
            alive.insert(id);
        }
        self.ports.retain(|id| alive.contains(id));
        let ports = self.ports.iter().map(|(_, _, port)| &**port);
        let parent = |port: &Port| {
            let (dense, parent) = self.ports.by_key(&port.trunk?.parent)?;
            // A sub-port has no device to share.
            parent.trunk.is_none().then_some(PortId(dense))
        };
        self.trunks = Trunks::new(ports, parent, self.seed);
        self.groups.retain(|ids| sets.contains(ids));
        by_network
    }

    fn put_networks(
        &mut self,
        sorted: &mut Sorted<'_>,
        ports: &BTreeMap<Id<kind::Network>, Vec<Arc<Port>>>,
        routers: &BTreeMap<NetworkId, Vec<(RouterId, SectionIndex, Interface)>>,
    ) {
        let mut alive = BTreeSet::new();
        self.by_vni = HashMap::with_capacity_and_hasher(
            sorted.networks.len(),
            foldhash::fast::FixedState::with_seed(self.seed),
        );
        self.wires.clear();
        let any_fence = self.is_fenced();
        for (network, section, changed) in std::mem::take(&mut sorted.networks) {
            alive.insert(network.id);
            let local = ports.get(&network.id).map_or(&[][..], Vec::as_slice);
            let remote = sorted
                .endpoints
                .get(&network.id)
                .map_or(&[][..], Vec::as_slice);
            let dense = NetworkId(self.networks.reserve(&network.id));
            let routers = routers.get(&dense).map_or(&[][..], Vec::as_slice);
            let advertisements = self.advertisements(network, routers);
            let content = digest((
                &advertisements,
                routers
                    .iter()
                    .map(|(router, at, i)| (router, at, i.port, i.mac, &i.addrs))
                    .collect::<Vec<_>>(),
                local
                    .iter()
                    .map(|p| (p.id, p.dense, &p.macs, &p.addrs))
                    .collect::<Vec<_>>(),
                remote
                    .iter()
                    .map(|(e, at)| (e.id, e.project, e.mac, &e.addrs, self.place(e.at), *at))
                    .collect::<Vec<_>>(),
            ));
            let source = Source::Members(network.id);
            let (members, moved) = self.epochs.note(&source, content, self.version);
            sorted.alive.insert(source);
            let virtuals: Vec<_> = remote
                .iter()
                .filter(|(e, _)| e.at == Location::Virtual)
                .map(|(e, _)| (e.mac, &e.addrs))
                .collect();
            let has_virtuals = !virtuals.is_empty();
            let fenced = any_fence && !routers.is_empty();
            let source = Source::Virtuals(network.id);
            let content = digest((virtuals, fenced));
            let (virtuals, refenced) = self.epochs.note(&source, content, self.version);
            sorted.alive.insert(source);
            // Who is called what is read when it is asked for: no flow depends on it.
            let names = digest((
                local
                    .iter()
                    .map(|p| (p.id, &p.dns_name))
                    .collect::<Vec<_>>(),
                remote
                    .iter()
                    .map(|(e, _)| (e.id, &e.dns_name))
                    .collect::<Vec<_>>(),
            ));
            let source = Source::Names(network.id);
            let (_, renamed) = self.epochs.note(&source, names, self.version);
            sorted.alive.insert(source);
            self.by_vni.insert(network.vni, dense);
            let wire = network.wire.as_ref().map(|wire| WireEnd {
                wire: wire.clone(),
                port: PortId(self.ports.reserve(&wire_port(network.id))),
            });
            if let Some(wire) = &wire {
                self.wires.insert(wire.port, dense);
            }
            if changed || moved || renamed || refenced || self.networks.get(dense.0).is_none() {
                let mut entry = Network {
                    id: network.id,
                    name: network.name.clone(),
                    dense,
                    project: network.project,
                    vni: network.vni,
                    mtu: network.mtu,
                    admin_up: network.admin_up,
                    names: names_of(network, local, remote, self.seed),
                    resolvers: network.resolvers.clone(),
                    subnets: network.subnets.clone(),
                    advertisements,
                    fdb: Fdb::new(FDB_CAPACITY, self.seed),
                    neighbours: Neighbours::new(self.seed),
                    flood: FloodList::default(),
                    endpoints: HashMap::with_hasher(foldhash::fast::FixedState::with_seed(
                        self.seed,
                    )),
                    wire,
                    section,
                    members,
                    virtuals,
                    has_virtuals,
                    fenced,
                };
                attach(&mut entry, routers);
                self.populate(&mut entry, local, remote);
                self.networks.put(&network.id, Arc::new(entry));
            }
        }
        self.networks.retain(|id| alive.contains(id));
    }

    /// What the routers on a network say of themselves, if its subnets have them say it.
    fn advertisements(
        &self,
        network: &hostconfig::Network,
        routers: &[(RouterId, SectionIndex, Interface)],
    ) -> Vec<Advertisement> {
        let asked = network.subnets.iter().any(|s| s.ra.is_some());
        if !asked {
            return Vec::new();
        }
        let up = |router: RouterId| self.router(router).is_some_and(|r| r.admin_up);
        let interfaces: Vec<_> = routers
            .iter()
            .filter(|(router, _, i)| i.admin_up && !i.outside && up(*router))
            .map(|(router, _, interface)| (*router, interface))
            .collect();
        ra::advertisements(network, &interfaces)
    }

    fn place(&self, at: Location) -> Place {
        match at {
            Location::Virtual => Place::Virtual,
            Location::Vtep(addr) => {
                let known = self.vteps.by_key(&addr.to_canonical());
                Place::Vtep(VtepId(known.map_or(u32::MAX, |(id, _)| id)))
            }
        }
    }

    /// Own addresses go before allowed pairs: nobody takes another's address by an allowed pair. What the FDB refuses (a MAC twice,
    /// which the controller refuses before) stays with the first.
    fn populate(
        &self,
        network: &mut Network,
        local: &[Arc<Port>],
        remote: &[(&hostconfig::Endpoint, SectionIndex)],
    ) {
        let pin = |network: &mut Network, mac, place, port| {
            let taken = network.fdb.pin(mac, FdbEntry { place, port });
            taken.is_ok()
        };
        for port in local {
            pin(network, port.mac, Place::Local(port.dense), port.id);
            for &addr in &port.addrs {
                let neighbour = Neighbour {
                    mac: port.mac,
                    port: port.id,
                };
                network.neighbours.claim(addr, neighbour);
            }
        }
        for (endpoint, section) in remote {
            let mac = endpoint.mac.get();
            pin(network, mac, self.place(endpoint.at), endpoint.id);
            let known = Elsewhere {
                project: endpoint.project,
                section: *section,
            };
            network.endpoints.insert(endpoint.id, known);
            for &addr in &endpoint.addrs {
                let port = endpoint.id;
                network.neighbours.claim(addr, Neighbour { mac, port });
            }
        }
        for port in local {
            for &mac in port.macs.iter().filter(|m| **m != port.mac) {
                pin(network, mac, Place::Local(port.dense), port.id);
            }
        }
        // What is on a wire reaches them all by one copy.
        let tunnelled = remote.iter().filter(|_| network.wire.is_none());
        let vteps = tunnelled.filter_map(|(e, _)| match self.place(e.at) {
            Place::Vtep(id) => Some(id),
            Place::Local(_) | Place::Virtual | Place::Router(_) => None,
        });
        network.flood = FloodList::new(local.iter().map(|p| p.dense), vteps);
    }
}

impl Tables {
    fn put_chains(&mut self, sorted: &mut Sorted<'_>, zones: &ZoneMap) {
        let mut chains = Vec::new();
        let mut alive = BTreeSet::new();
        let mut listed = Vec::new();
        for (config, section, changed) in std::mem::take(&mut sorted.chains) {
            let kept = self.chains.iter().find(|c| c.section == section);
            let chain = match kept {
                Some(kept) if !changed => Arc::clone(&kept.chain),
                Some(_) | None => match nfv::Chain::build(config) {
                    Ok(chain) => Arc::new(chain),
                    Err(fault) => {
                        self.faults.push(format!("chain {}: {fault}", config.id));
                        match kept {
                            Some(kept) => Arc::clone(&kept.chain),
                            None => continue,
                        }
                    }
                },
            };
            // Who looked for a chain read every classifier, but no function of a chain that it did not enter.
            let entrance = (chain.graph().depth, chain.classifiers());
            listed.push((chain.id(), format!("{entrance:?}")));
            let hops = chain
                .hops()
                .iter()
                .map(|hop| {
                    let key = (chain.id(), hop.id());
                    alive.insert(key);
                    let entry = Hop {
                        chain: chain.id(),
                        function: hop.id(),
                        name: hop.name().to_owned(),
                        chain_name: chain.name().to_owned(),
                        symmetric: chain.symmetric(),
                        shaper: hop.shaper().cloned(),
                        inspector: hop.inspector().cloned(),
                    };
                    HopId(self.hops.put(&key, Arc::new(entry)))
                })
                .collect();
            chains.push(Arc::new(Chain {
                chain,
                hops,
                path: config.path,
                section,
            }));
        }
        self.hops.retain(|key| alive.contains(key));
        self.chains = chains;
        self.put_legs(sorted, zones);
        let mut legs: Vec<_> = self
            .legs
            .keys()
            .filter_map(|p| Some(self.port(*p)?.id))
            .collect();
        legs.sort();
        // What a port sends is looked at otherwise when it becomes an appliance's.
        let listed = (listed, legs);
        let (at, _) = self
            .epochs
            .note(&Source::Chains, digest(listed), self.version);
        sorted.alive.insert(Source::Chains);
        self.chains_section = at;
    }
}

impl Tables {
    /// The ports of appliances, and where they are.
    fn put_legs(&mut self, sorted: &mut Sorted<'_>, zones: &ZoneMap) {
        let (pairs, shown) = self.put_pairs(zones);
        // What is brought back depends on who has which number; without appliances nobody asks.
        let vteps: Vec<_> = self.vteps().map(|(id, v)| (id, v.addr, v.known)).collect();
        let crosses = !self.legs.is_empty() || shown.iter().any(|(.., far)| far.is_some());
        let vteps = crosses.then_some(vteps);
        let state = (pairs, shown);
        let source = Source::Appliances;
        let content = digest((state, vteps));
        (self.appliances, _) = self.epochs.note(&source, content, self.version);
        sorted.alive.insert(source);
    }
}

/// The key of a network's wire among the ports, which is no port's of the API: those are random.
pub(super) fn wire_port(network: Id<kind::Network>) -> Id<kind::Port> {
    let of = network.uuid().as_u128();
    uuid::Uuid::from_u128(of ^ u128::from_be_bytes(*b"the network wire")).into()
}

/// Routers go before all others: nobody takes a gateway's address.
fn attach(network: &mut Network, routers: &[(RouterId, SectionIndex, Interface)]) {
    for (router, _, interface) in routers {
        let (mac, port) = (interface.mac, interface.port);
        let place = Place::Router(*router);
        if network.fdb.pin(mac, FdbEntry { place, port }).is_ok() {
            for addr in interface.answers_for() {
                network.neighbours.claim(addr, Neighbour { mac, port });
            }
        }
    }
}

fn security_sets(
    group: &hostconfig::SecurityGroup,
) -> impl Iterator<Item = Id<kind::AddressSet>> + '_ {
    group.rules.iter().filter_map(|r| match r.remote {
        hostconfig::group::Remote::Set(id) => Some(id),
        hostconfig::group::Remote::Any | hostconfig::group::Remote::Prefix(_) => None,
    })
}

fn local_port(
    port: &hostconfig::Port,
    (dense, network, zone, group, section): (
        PortId,
        NetworkId,
        net::Zone,
        Option<net::GroupId>,
        SectionIndex,
    ),
    mtu: net::Mtu,
) -> Port {
    let mac = port.mac.get();
    let own = port.fixed_ips.iter().map(|ip| (mac, Prefix::host(ip.addr)));
    let pairs = port
        .allowed_address_pairs
        .iter()
        .map(|pair| (pair.mac.get(), pair.prefix));
    let allowed: Vec<_> = own.chain(pairs).collect();
    let mut macs = vec![mac];
    for (m, _) in &allowed {
        if !macs.contains(m) {
            macs.push(*m);
        }
    }
    Port {
        id: port.id,
        name: port.name.clone(),
        dense,
        network,
        network_id: port.network,
        project: port.project,
        mac,
        addrs: port.fixed_ips.iter().map(|ip| ip.addr).collect(),
        allowed,
        macs,
        admin_up: port.admin_up,
        port_security: port.port_security,
        group,
        firewall: port.firewall,
        zone,
        max_connections: port.max_connections,
        qos: None,
        host_number: port.host_number,
        dns_name: port.dns_name.clone(),
        dhcp: port.dhcp.clone(),
        mtu,
        trunk: port.trunk,
        section,
    }
}

/// What the ports of a network are called, here and elsewhere.
fn names_of(
    network: &hostconfig::Network,
    local: &[Arc<Port>],
    remote: &[(&hostconfig::Endpoint, SectionIndex)],
    seed: u64,
) -> Names {
    let mut names = Names::new(&network.domain, seed);
    for port in local {
        if let Some(name) = &port.dns_name {
            names.put(port.id, name, port.addrs.iter().copied());
        }
    }
    for (endpoint, _) in remote {
        if let Some(name) = &endpoint.dns_name {
            names.put(endpoint.id, name, endpoint.addrs.iter().copied());
        }
    }
    for named in &network.names {
        names.put_outside(&named.name, named.addr);
    }
    names
}
