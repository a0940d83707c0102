//! Which hosts must hear of a change, and of which sections?
//!
//! [`Compiler`] keeps every host's config and follows the intent change by change. A change is noted
//! twice, as things stood before and as they stand after it: what depends on the object by the indexes
//! is dirty. Then needs, sections and entries are set right, each only where it is dirty.
//!
//! # Invariants
//! - What is kept equals [`compile`](super::compile) of the same intent.
//! - A section is kept only while a host needs it.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use hostconfig::{Generation, HostConfig, Keyed, SectionKey, chain::Side};
use net::{Id, ids::kind};
use uuid::Uuid;

use super::{
    Complaint, all_keys, chain,
    intent::{
        Chain, Change, Function, Host, HostName, Index, Intent, Network, Object, Port,
        handed_ports, remote_set, sides, virtual_ports,
    },
    l2, needs, policy, section,
};

/// What a batch of changes altered.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Touched {
    /// The sections of each host that changed, came or went; a host that came or went is named with
    /// all that it has or had.
    pub hosts: BTreeMap<HostName, BTreeSet<SectionKey>>,
    /// The ports whose status may differ now, gone ones included.
    pub ports: BTreeSet<Id<kind::Port>>,
    /// The chains whose complaints may differ now, gone ones included.
    pub chains: BTreeSet<Id<kind::PortChain>>,
    /// The floating IPs whose status may differ now, gone ones included.
    pub floating: BTreeSet<Id<kind::FloatingIp>>,
    /// The networks of which something else than their own section may be realised or not now.
    pub networks: BTreeSet<Id<kind::Network>>,
    /// The hosts whose own record changed, gone ones included.
    pub records: BTreeSet<HostName>,
}

impl Touched {
    /// Did nothing change for anyone?
    pub fn is_empty(&self) -> bool {
        self.hosts.is_empty()
            && self.ports.is_empty()
            && self.chains.is_empty()
            && self.floating.is_empty()
            && self.networks.is_empty()
            && self.records.is_empty()
    }
}

#[derive(Debug, Clone)]
struct HostState {
    needs: BTreeSet<SectionKey>,
    config: HostConfig,
}

/// Host configs that follow the intent, change by change.
#[derive(Debug, Clone)]
pub struct Compiler {
    incarnation: Uuid,
    generation: Generation,
    intent: Intent,
    /// What somebody needs, compiled.
    pub(super) sections: BTreeMap<SectionKey, Arc<Keyed>>,
    hosts: BTreeMap<HostName, HostState>,
    /// Who needs a section; endpoints and parts of sets are not here but follow their networks and sets.
    holders: Index<SectionKey, HostName>,
    /// How often a section was compiled.
    compiled: u64,
}

/// What a change may have altered, before anything is compiled.
#[derive(Debug, Default)]
struct Dirty {
    sections: BTreeSet<SectionKey>,
    hosts: BTreeSet<HostName>,
    /// Those that have nothing yet: their configs are made whole, not entry by entry.
    fresh: BTreeSet<HostName>,
    /// Entries to set right.
    entries: BTreeSet<(SectionKey, HostName)>,
    ports: BTreeSet<Id<kind::Port>>,
    networks: BTreeSet<Id<kind::Network>>,
    floating: BTreeSet<Id<kind::FloatingIp>>,
    records: BTreeSet<HostName>,
}

/// Did an object only change, or come or go?
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Extent {
    Content,
    Existence,
}

impl Compiler {
    /// Nothing yet, of one incarnation of the store.
    pub fn new(incarnation: Uuid) -> Self {
        Self {
            incarnation,
            generation: Generation::default(),
            intent: Intent::default(),
            sections: BTreeMap::new(),
            hosts: BTreeMap::new(),
            holders: Index::default(),
            compiled: 0,
        }
    }

    /// How often a section was compiled so far: what a change costs does not grow with the region.
    pub fn compiled(&self) -> u64 {
        self.compiled
    }

    /// What it compiles.
    pub fn intent(&self) -> &Intent {
        &self.intent
    }

    /// The store that it compiles from.
    pub fn incarnation(&self) -> Uuid {
        self.incarnation
    }

    /// The revision up to which it has heard.
    pub fn generation(&self) -> Generation {
        self.generation
    }

    /// What a host should be; `None` for a host that there is not, or without an agent.
    pub fn config(&self, host: &HostName) -> Option<&HostConfig> {
        self.hosts.get(host).map(|state| &state.config)
    }

    /// All hosts that are told something.
    pub fn hosts(&self) -> impl Iterator<Item = (&HostName, &HostConfig)> {
        self.hosts.iter().map(|(name, state)| (name, &state.config))
    }

    /// The networks that a host needs.
    pub fn networks_of(&self, host: &HostName) -> impl Iterator<Item = Id<kind::Network>> {
        let needs = self.hosts.get(host).map(|state| &state.needs);
        needs.into_iter().flatten().filter_map(|key| match key {
            SectionKey::Network(id) => Some(*id),
            SectionKey::Vteps
            | SectionKey::AddressSet(_)
            | SectionKey::AddressPart(..)
            | SectionKey::Group(_)
            | SectionKey::Firewall(_)
            | SectionKey::Qos(_)
            | SectionKey::Chain(_)
            | SectionKey::Port(_)
            | SectionKey::Endpoint(_)
            | SectionKey::Router(_)
            | SectionKey::FloatingIp(_)
            | SectionKey::Metadata(_)
            | SectionKey::Proxy(_) => None,
        })
    }

    /// The hosts that need a network: they have a port on it, or on one that routers join with it.
    pub fn hosts_of(&self, network: Id<kind::Network>) -> impl Iterator<Item = &HostName> {
        self.holders.of(&SectionKey::Network(network))
    }

    /// Why a port can't be had.
    pub fn port_complaint(&self, port: Id<kind::Port>) -> Option<Complaint> {
        l2::complaint(&self.intent, port)
    }

    /// What of a chain can't be had.
    pub fn chain_complaints(&self, chain: Id<kind::PortChain>) -> Vec<Complaint> {
        chain::chain(&self.intent, chain).map_or_else(Vec::new, |(_, complaints)| complaints)
    }

    /// Follows the changes of one commit; `generation` is the store's revision after it.
    pub fn apply(&mut self, changes: &[Change], generation: Generation) -> Touched {
        self.generation = generation;
        let mut dirty = Dirty::default();
        for change in changes {
            let id = match change {
                Change::Put(object) => object.id(),
                Change::Gone(id) => *id,
            };
            let before = self.intent.get(id);
            if let (Some(before), Change::Put(after)) = (&before, change)
                && before == after
            {
                continue;
            }
            let extent = match (&before, change) {
                (Some(_), Change::Put(_)) => Extent::Content,
                (None, _) | (_, Change::Gone(_)) => Extent::Existence,
            };
            if let Some(before) = &before {
                self.mark(before, extent, &mut dirty);
            }
            self.intent.apply(change);
            if let Change::Put(after) = change {
                self.mark(after, extent, &mut dirty);
            }
        }
        self.settle(dirty)
    }

    /// Notes what depends on an object as things stand; done before and after each change.
    fn mark(&self, object: &Object, extent: Extent, dirty: &mut Dirty) {
        let intent = &self.intent;
        match object {
            Object::Host(host) => self.mark_host(host, dirty),
            Object::Network(network) => self.mark_network(network, extent, dirty),
            Object::Subnet(subnet) => {
                dirty.sections.insert(SectionKey::Network(subnet.network));
                let routers = intent.routers_on(subnet.network);
                dirty
                    .sections
                    .extend(routers.into_iter().map(SectionKey::Router));
                let leaving = intent.gateways_on.of(&subnet.network);
                dirty
                    .sections
                    .extend(leaving.map(|router| SectionKey::Router(*router)));
            }
            Object::FloatingIp(floating) => self.mark_floating(floating.id, dirty),
            Object::Router(router) => {
                dirty.sections.insert(SectionKey::Router(router.id));
                self.mark_gateway(router.id, dirty);
                if extent == Extent::Existence {
                    self.mark_router(router.id, dirty);
                }
            }
            Object::Port(port) => self.mark_changed_port(port, dirty),
            Object::Group(group) => {
                dirty.sections.insert(SectionKey::Group(group.id));
                if extent == Extent::Existence {
                    for port in intent.members.of(&group.id) {
                        self.mark_port(*port, dirty);
                    }
                }
            }
            Object::Rule(rule) => {
                let key = SectionKey::Group(rule.group);
                dirty.sections.insert(key);
                if remote_set(rule).is_some() {
                    dirty.hosts.extend(self.holders.of(&key).cloned());
                }
            }
            Object::AddressGroup(group) => {
                dirty.sections.insert(SectionKey::AddressSet(group.id));
            }
            Object::FirewallRule(rule) => {
                for policy in intent.policies_with(rule.id) {
                    self.mark_firewalls(policy, dirty);
                }
            }
            Object::FirewallPolicy(policy) => self.mark_firewalls(policy.id, dirty),
            Object::Firewall(group) => {
                dirty.sections.insert(SectionKey::Firewall(group.id));
                for port in &group.ports {
                    self.mark_walled(*port, dirty);
                }
            }
            Object::Qos(policy) => {
                let id = policy.section.id;
                dirty.sections.insert(SectionKey::Qos(id));
                let below = intent.policies_below(id).into_iter();
                dirty.sections.extend(below.map(SectionKey::Qos));
                if extent == Extent::Existence {
                    for port in intent.named_by(id) {
                        self.mark_qos(port, dirty);
                    }
                    for router in intent.gateways_with(id) {
                        self.mark_gateway(router, dirty);
                    }
                    for floating in intent.floating_with(id) {
                        self.mark_floating(floating, dirty);
                    }
                }
            }
            Object::Classifier(classifier) => {
                for chain in intent.chains_of_classifier.of(&classifier.id) {
                    dirty.sections.insert(SectionKey::Chain(*chain));
                    for side in sides(classifier) {
                        self.mark_side(side, dirty);
                    }
                }
            }
            Object::Function(function) => {
                for chain in intent.chains_of_function.of(&function.id) {
                    dirty.sections.insert(SectionKey::Chain(*chain));
                }
                self.mark_virtual_addresses(function, dirty);
                self.mark_appliances(function, dirty);
            }
            Object::Chain(chain) => {
                self.mark_chain(chain, dirty);
                self.mark_before(chain, dirty);
            }
            Object::Label(label) => self.mark_metered(label.id, dirty),
            Object::LabelRule(rule) => self.mark_metered(rule.label, dirty),
            Object::Proxy(proxy) => self.mark_proxy(proxy.section.port, dirty),
        }
    }

    /// A chain, what leads into it, and where its functions are.
    fn mark_chain(&self, chain: &Chain, dirty: &mut Dirty) {
        dirty.sections.insert(SectionKey::Chain(chain.id));
        let classifiers = chain.classifiers.iter();
        for classifier in classifiers.filter_map(|id| self.intent.classifiers.get(id)) {
            for side in sides(classifier) {
                self.mark_side(side, dirty);
            }
        }
        let functions = chain.functions.iter();
        for function in functions.filter_map(|id| self.intent.functions.get(id)) {
            self.mark_virtual_addresses(function, dirty);
            self.mark_appliances(function, dirty);
        }
    }

    /// Whoever has a chain has what may follow it.
    fn mark_before(&self, chain: &Chain, dirty: &mut Dirty) {
        let mut seen = BTreeSet::new();
        let mut ahead = vec![chain.id];
        while let Some(id) = ahead.pop() {
            for before in self.intent.chains_before.of(&id) {
                if seen.insert(*before)
                    && let Some(before) = self.intent.chains.get(before)
                {
                    self.mark_chain(before, dirty);
                    ahead.push(before.id);
                }
            }
        }
    }

    /// A proxy behind a port, and its host's needs.
    fn mark_proxy(&self, port: Id<kind::Port>, dirty: &mut Dirty) {
        dirty.sections.insert(SectionKey::Proxy(port));
        dirty.ports.insert(port);
        if let Some(port) = self.intent.ports.get(&port) {
            dirty.hosts.extend(port.host.clone());
        }
    }

    /// A host: its VTEP, its ports, and who could have a gateway.
    fn mark_host(&self, host: &Host, dirty: &mut Dirty) {
        let intent = &self.intent;
        dirty.sections.insert(SectionKey::Vteps);
        dirty.hosts.insert(host.name.clone());
        dirty.records.insert(host.name.clone());
        for port in intent.ports_at.of(&host.name) {
            // A port tells its host's number.
            self.mark_port(*port, dirty);
            self.mark_outside(*port, dirty);
        }
        let wires = host.wires.iter().cloned().map(Some);
        let counts = std::iter::once(None).chain(wires);
        let few = counts
            .into_iter()
            .any(|wire| intent.carriers.count(&wire) <= 2);
        // Gateways may be movable now that were not, or the other way round; in a zone there may be few hosts where in all there are many.
        for router in intent.leaving() {
            let zones = intent.routers.get(&router);
            if few || zones.is_some_and(|router| !router.zones.is_empty()) {
                self.mark_gateway(router, dirty);
            }
        }
    }

    /// The routers that count under a label.
    fn mark_metered(&self, label: Id<kind::MeteringLabel>, dirty: &mut Dirty) {
        let routers = self.intent.metered(label).into_iter();
        dirty.sections.extend(routers.map(SectionKey::Router));
    }

    /// A network, and what is on it if it came or went.
    fn mark_network(&self, network: &Network, extent: Extent, dirty: &mut Dirty) {
        let intent = &self.intent;
        let id = network.section.id;
        dirty.sections.insert(SectionKey::Network(id));
        for router in intent.gateways_on.of(&id) {
            self.mark_gateway(*router, dirty);
        }
        for port in intent.ports_on.of(&id) {
            // Its MTU is that of the appliances behind its ports.
            self.mark_chains(*port, dirty);
            for floating in intent.held_by.of(port) {
                self.mark_floating(*floating, dirty);
            }
        }
        if extent == Extent::Existence {
            for port in intent.ports_on.of(&id) {
                self.mark_port(*port, dirty);
            }
            for router in intent.routers_on(id) {
                self.mark_router(router, dirty);
            }
        } else if network.qos.is_some() {
            for port in intent.ports_on.of(&id) {
                self.mark_qos(*port, dirty);
            }
        }
    }

    /// A port, and what is made of its addresses.
    fn mark_changed_port(&self, port: &Port, dirty: &mut Dirty) {
        let id = port.section.id;
        self.mark_port(id, dirty);
        // Also once the index has lost it.
        dirty.hosts.extend(port.host.clone());
        dirty.ports.insert(id);
        if let Some(router) = port.router {
            self.mark_router(router, dirty);
        }
        self.mark_outside(id, dirty);
        if let Some(router) = port.gateway_of {
            self.mark_gateway(router, dirty);
        }
        for group in &port.section.security_groups {
            dirty.sections.insert(policy::part_of(*group, id));
        }
        self.mark_vip(id, dirty);
    }

    /// The chains whose functions are made from a port.
    fn mark_chains(&self, id: Id<kind::Port>, dirty: &mut Dirty) {
        for function in self.intent.functions_of.of(&id) {
            let chains = self.intent.chains_of_function.of(function);
            dirty
                .sections
                .extend(chains.map(|chain| SectionKey::Chain(*chain)));
        }
    }

    /// The firewall groups that have a policy.
    fn mark_firewalls(&self, policy: Id<kind::FirewallPolicy>, dirty: &mut Dirty) {
        let groups = self.intent.firewalls_with(policy);
        dirty.sections.extend(groups.map(SectionKey::Firewall));
    }

    /// A port that may have another firewall group now: its host, or whoever has its router.
    fn mark_walled(&self, id: Id<kind::Port>, dirty: &mut Dirty) {
        dirty.sections.insert(SectionKey::Port(id));
        let Some(port) = self.intent.ports.get(&id) else {
            return;
        };
        dirty.hosts.extend(port.host.clone());
        if let Some(router) = port.router {
            let key = SectionKey::Router(router);
            dirty.sections.insert(key);
            dirty.hosts.extend(self.holders.of(&key).cloned());
        }
    }

    /// The hosts of a function's appliances.
    fn mark_appliances(&self, function: &Function, dirty: &mut Dirty) {
        for port in handed_ports(function) {
            let port = self.intent.ports.get(&port);
            dirty.hosts.extend(port.and_then(|port| port.host.clone()));
        }
    }

    /// The ports of a function's virtual addresses.
    fn mark_virtual_addresses(&self, function: &Function, dirty: &mut Dirty) {
        for port in virtual_ports(function) {
            self.mark_endpoint(port, dirty);
            self.mark_vip(port, dirty);
            dirty.ports.insert(port);
        }
    }

    /// A port that may have another QoS policy now.
    fn mark_qos(&self, id: Id<kind::Port>, dirty: &mut Dirty) {
        dirty.sections.insert(SectionKey::Port(id));
        if let Some(port) = self.intent.ports.get(&id) {
            dirty.hosts.extend(port.host.clone());
        }
    }

    /// A port's own two sections, and its host's needs.
    fn mark_port(&self, id: Id<kind::Port>, dirty: &mut Dirty) {
        dirty.sections.insert(SectionKey::Port(id));
        dirty.sections.insert(SectionKey::Metadata(id));
        dirty.sections.insert(SectionKey::Proxy(id));
        dirty.ports.insert(id);
        self.mark_chains(id, dirty);
        if let Some(port) = self.intent.ports.get(&id) {
            dirty.hosts.extend(port.host.clone());
        }
        for sub_port in self.intent.carried_by.of(&id) {
            dirty.sections.insert(SectionKey::Port(*sub_port));
            dirty.ports.insert(*sub_port);
            self.mark_chains(*sub_port, dirty);
        }
        self.mark_endpoint(id, dirty);
    }

    /// What is outside of a port: the router whose way out it is, its floating IPs, the one that it holds.
    fn mark_outside(&self, id: Id<kind::Port>, dirty: &mut Dirty) {
        let intent = &self.intent;
        if let Some(router) = intent.ports.get(&id).and_then(|port| port.gateway_of) {
            self.mark_gateway(router, dirty);
        }
        for floating in intent.floating_to.of(&id).chain(intent.held_by.of(&id)) {
            self.mark_floating(*floating, dirty);
        }
    }

    /// A router whose way out may be another: whoever has it or has a floating IP by it.
    fn mark_gateway(&self, id: Id<kind::Router>, dirty: &mut Dirty) {
        let intent = &self.intent;
        dirty.sections.insert(SectionKey::Router(id));
        let gateway = intent.routers.get(&id).and_then(|router| router.gateway);
        if let Some(port) = gateway.and_then(|gateway| intent.ports.get(&gateway.port)) {
            dirty.hosts.extend(port.host.clone());
            dirty.ports.insert(port.section.id);
        }
        for floating in intent.floating_by.of(&id) {
            self.mark_floating(*floating, dirty);
        }
    }

    /// A floating IP, its address as others see it, and the needs of the hosts that may answer for it.
    fn mark_floating(&self, id: Id<kind::FloatingIp>, dirty: &mut Dirty) {
        let intent = &self.intent;
        dirty.sections.insert(SectionKey::FloatingIp(id));
        dirty.floating.insert(id);
        let Some(floating) = intent.floating_ips.get(&id) else {
            return;
        };
        self.mark_endpoint(floating.holder, dirty);
        if let Some(scope) = floating.scope() {
            let networks = intent.networks_in.of(&scope);
            dirty
                .sections
                .extend(networks.map(|network| SectionKey::Network(*network)));
        }
        let gateway = floating.router.and_then(|router| intent.gateway(router));
        let gateway = gateway.map(|(_, port)| port);
        let to = floating.to.and_then(|to| intent.ports.get(&to.port));
        let hosts = gateway.into_iter().chain(to);
        dirty
            .hosts
            .extend(hosts.filter_map(|port| port.host.clone()));
    }

    /// A router that is attached otherwise: whoever needs one of its networks may need other ones now.
    fn mark_router(&self, id: Id<kind::Router>, dirty: &mut Dirty) {
        self.mark_gateway(id, dirty);
        for port in self.intent.interfaces_of(id) {
            let network = port.section.network;
            if dirty.networks.insert(network) {
                dirty.hosts.extend(self.hosts_of(network).cloned());
            }
        }
    }

    /// A port that may hold a virtual address: whoever needs its network serves it.
    fn mark_vip(&self, id: Id<kind::Port>, dirty: &mut Dirty) {
        let Some(port) = self.intent.ports.get(&id) else {
            return;
        };
        let network = port.section.network;
        if self.intent.vips_on.of(&network).any(|vip| *vip == id) {
            dirty.hosts.extend(self.hosts_of(network).cloned());
        }
    }

    /// A port as the others of its network see it.
    fn mark_endpoint(&self, id: Id<kind::Port>, dirty: &mut Dirty) {
        let key = SectionKey::Endpoint(id);
        dirty.sections.insert(key);
        if let Some(port) = self.intent.ports.get(&id) {
            let hosts = self.hosts_of(port.section.network);
            dirty.entries.extend(hosts.map(|host| (key, host.clone())));
        }
    }

    /// The hosts whose ports a classifier's side means.
    fn mark_side(&self, side: Side, dirty: &mut Dirty) {
        match side {
            Side::Port(id) => {
                let port = self.intent.ports.get(&id);
                dirty.hosts.extend(port.and_then(|port| port.host.clone()));
                self.mark_vip(id, dirty);
            }
            Side::Network(id) => dirty.hosts.extend(self.hosts_of(id).cloned()),
            // Whoever has a chain before it.
            Side::Branch => {}
            Side::Project(id) => {
                for port in self.intent.ports_of.of(&id) {
                    self.mark_vip(*port, dirty);
                    let port = self.intent.ports.get(port);
                    dirty.hosts.extend(port.and_then(|port| port.host.clone()));
                }
            }
        }
    }

    /// Compiles what is dirty and sets the hosts' configs right.
    fn settle(&mut self, mut dirty: Dirty) -> Touched {
        for host in std::mem::take(&mut dirty.hosts) {
            self.settle_needs(&host, &mut dirty);
        }
        let mut stale = std::mem::take(&mut dirty.sections);
        let chains = stale.iter().filter_map(|key| {
            if let SectionKey::Chain(id) = key {
                Some(*id)
            } else {
                None
            }
        });
        let chains = chains.collect();
        stale.extend(
            dirty
                .entries
                .iter()
                .map(|(key, _)| *key)
                .filter(|key| !self.sections.contains_key(key)),
        );
        stale.extend(
            dirty
                .entries
                .iter()
                .map(|(key, _)| *key)
                .filter(|key| !self.is_needed(*key)),
        );
        for key in stale {
            if self.refresh(key) {
                let holders: Vec<HostName> = self.holders_of(key).cloned().collect();
                dirty
                    .entries
                    .extend(holders.into_iter().map(|host| (key, host)));
            }
        }
        let mut touched = Touched {
            hosts: BTreeMap::new(),
            ports: dirty.ports,
            chains,
            floating: dirty.floating,
            networks: dirty.networks,
            records: dirty.records,
        };
        for host in dirty.fresh {
            let told = self.furnish(&host);
            touched.hosts.insert(host, told);
        }
        for (key, host) in dirty.entries {
            if self.set_right(&host, key) {
                touched.hosts.entry(host).or_default().insert(key);
            }
        }
        for host in touched.hosts.keys() {
            if self.hosts.get(host).is_some_and(|s| s.needs.is_empty()) {
                self.hosts.remove(host);
            }
        }
        touched
    }

    /// Makes the config of a host that has none yet; what is in it.
    fn furnish(&mut self, host: &HostName) -> BTreeSet<SectionKey> {
        let Some(state) = self.hosts.get(host) else {
            return BTreeSet::new();
        };
        let all = all_keys(&self.intent, host, state.needs.clone());
        for key in &all {
            if !self.sections.contains_key(key) {
                self.refresh(*key);
            }
        }
        let sections = all.into_iter().filter_map(|key| {
            let section = self.sections.get(&key)?;
            Some((key, Arc::clone(section)))
        });
        let sections: BTreeMap<_, _> = sections.collect();
        let keys = sections.keys().copied().collect();
        if let Some(state) = self.hosts.get_mut(host) {
            state.config.sections = sections;
            state.config.generation = self.generation;
        }
        keys
    }

    /// Lists a host's needs anew and notes every entry that comes or goes.
    fn settle_needs(&mut self, host: &HostName, dirty: &mut Dirty) {
        let new = needs(&self.intent, host);
        let old = match self.hosts.get_mut(host) {
            Some(state) => std::mem::replace(&mut state.needs, new.clone()),
            None if new.is_empty() => return,
            None => {
                let config = HostConfig {
                    incarnation: self.incarnation,
                    ..HostConfig::default()
                };
                let needs = new.clone();
                self.hosts.insert(host.clone(), HostState { needs, config });
                for &key in &new {
                    self.holders.insert(key, host.clone());
                }
                dirty.fresh.insert(host.clone());
                return;
            }
        };
        for &key in new.difference(&old) {
            self.holders.insert(key, host.clone());
        }
        for key in old.difference(&new) {
            self.holders.remove(key, host);
        }
        for &key in old.symmetric_difference(&new) {
            dirty.entries.insert((key, host.clone()));
            match key {
                SectionKey::Network(network) => {
                    let ports = self.intent.ports_on.of(&network);
                    let entries = ports.map(|p| (SectionKey::Endpoint(*p), host.clone()));
                    dirty.entries.extend(entries);
                }
                // What is here is not elsewhere.
                SectionKey::Port(port) => {
                    dirty
                        .entries
                        .insert((SectionKey::Endpoint(port), host.clone()));
                }
                SectionKey::AddressSet(set) => {
                    let had = self.hosts.get(host).into_iter().flat_map(|state| {
                        let parts = policy::all_parts(set);
                        state.config.sections.range(parts).map(|(key, _)| *key)
                    });
                    let has = policy::parts(&self.intent, set);
                    let entries = had.chain(has).map(|key| (key, host.clone()));
                    dirty.entries.extend(entries);
                }
                SectionKey::Vteps
                | SectionKey::AddressPart(..)
                | SectionKey::Group(_)
                | SectionKey::Firewall(_)
                | SectionKey::Qos(_)
                | SectionKey::Chain(_)
                | SectionKey::Endpoint(_)
                | SectionKey::Router(_)
                | SectionKey::FloatingIp(_)
                | SectionKey::Metadata(_)
                | SectionKey::Proxy(_) => {}
            }
        }
    }

    /// The key of the section by which hosts come to need this one.
    fn root(&self, key: SectionKey) -> Option<SectionKey> {
        match key {
            SectionKey::Endpoint(id) => {
                let port = self.intent.ports.get(&id)?;
                Some(SectionKey::Network(port.section.network))
            }
            SectionKey::AddressPart(set, _) => Some(SectionKey::AddressSet(set)),
            SectionKey::Vteps
            | SectionKey::Network(_)
            | SectionKey::AddressSet(_)
            | SectionKey::Group(_)
            | SectionKey::Firewall(_)
            | SectionKey::Qos(_)
            | SectionKey::Chain(_)
            | SectionKey::Port(_)
            | SectionKey::Router(_)
            | SectionKey::FloatingIp(_)
            | SectionKey::Metadata(_)
            | SectionKey::Proxy(_) => Some(key),
        }
    }

    fn holders_of(&self, key: SectionKey) -> impl Iterator<Item = &HostName> {
        self.root(key)
            .into_iter()
            .flat_map(|root| self.holders.of(&root))
    }

    fn is_needed(&self, key: SectionKey) -> bool {
        self.root(key).is_some_and(|root| self.holders.has(&root))
    }

    /// Compiles a section anew; did it change?
    fn refresh(&mut self, key: SectionKey) -> bool {
        let new = if self.is_needed(key) {
            self.compiled += 1;
            section(&self.intent, key)
        } else {
            None
        };
        match (self.sections.get(&key), new) {
            (None, None) => false,
            (Some(_), None) => {
                self.sections.remove(&key);
                true
            }
            (old, Some(new)) => {
                if old.is_some_and(|old| old.hash() == new.hash()) {
                    return false;
                }
                self.sections.insert(key, Arc::new(new));
                true
            }
        }
    }

    /// Makes a host's entry what it should be; did it change?
    fn set_right(&mut self, host: &HostName, key: SectionKey) -> bool {
        let elsewhere = match key {
            SectionKey::Endpoint(id) => self
                .intent
                .ports
                .get(&id)
                .is_none_or(|port| self.intent.place(port) != Some(host)),
            SectionKey::Vteps
            | SectionKey::Network(_)
            | SectionKey::AddressSet(_)
            | SectionKey::AddressPart(..)
            | SectionKey::Group(_)
            | SectionKey::Firewall(_)
            | SectionKey::Qos(_)
            | SectionKey::Chain(_)
            | SectionKey::Port(_)
            | SectionKey::Router(_)
            | SectionKey::FloatingIp(_)
            | SectionKey::Metadata(_)
            | SectionKey::Proxy(_) => true,
        };
        let root = self.root(key);
        let Some(state) = self.hosts.get_mut(host) else {
            return false;
        };
        let needed = elsewhere && root.is_some_and(|root| state.needs.contains(&root));
        let wanted = if needed {
            self.sections.get(&key)
        } else {
            None
        };
        let has = state.config.sections.get(&key);
        if has.map(|s| s.hash()) == wanted.map(|s| s.hash()) {
            return false;
        }
        match wanted {
            Some(section) => state.config.insert(Arc::clone(section)),
            None => {
                state.config.sections.remove(&key);
            }
        }
        state.config.generation = self.generation;
        true
    }
}
