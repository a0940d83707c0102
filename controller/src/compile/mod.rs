//! What should each host be?
//!
//! [`Compiler`] turns intent into a [`HostConfig`] a host: each section compiled once and shared by
//! all who need it. A change finds by indexes the sections that it alters and the hosts that need
//! them; nothing else is looked at. [`compile`] says the same in the plainest way, from scratch; a
//! property test holds the two equal.
//!
//! # Who needs what
//! Every host hears the VTEPs. For its own ports: the ports, their networks, their groups, the
//! address sets that rules of those groups refer to, the chains whose classifiers name them, their
//! network or their project. Of its networks' other ports: an endpoint each, where they are.
//!
//! # Invariants
//! - Total, pure, deterministic: what can't be realised is a [`Complaint`], never an error.
//! - The order of changes does not matter to the result.
//! - `hostconfig::check` finds no fault in what is compiled.
//!
//! # Cost
//! A port that changes: its two sections, the sets of its groups, one entry in each host that has a
//! port on its network. Its own host's needs are listed anew: a walk over that host's ports.

pub mod intent;
pub mod view;

mod chain;
mod l2;
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

use intent::{Change, HostName, Index, Intent, Object, ObjectId, remote_set, sides, vip_port};

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
    /// The hosts whose own record changed, gone ones included.
    pub records: BTreeSet<HostName>,
}

impl Touched {
    /// Did nothing change for anyone?
    pub fn is_empty(&self) -> bool {
        self.hosts.is_empty()
            && self.ports.is_empty()
            && self.chains.is_empty()
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
    sections: BTreeMap<SectionKey, Arc<Keyed>>,
    hosts: BTreeMap<HostName, HostState>,
    /// Who needs a section; endpoints are not here but follow their networks.
    holders: Index<SectionKey, HostName>,
}

/// What a change may have altered, before anything is compiled.
#[derive(Debug, Default)]
struct Dirty {
    sections: BTreeSet<SectionKey>,
    hosts: BTreeSet<HostName>,
    /// Entries to set right.
    entries: BTreeSet<(SectionKey, HostName)>,
    ports: BTreeSet<Id<kind::Port>>,
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
        }
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

    /// The hosts that have a port on a network.
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
            Object::Host(host) => {
                dirty.sections.insert(SectionKey::Vteps);
                dirty.hosts.insert(host.name.clone());
                dirty.records.insert(host.name.clone());
                for port in intent.ports_at.of(&host.name) {
                    self.mark_endpoint(*port, dirty);
                    dirty.ports.insert(*port);
                }
            }
            Object::Network(network) => {
                dirty.sections.insert(SectionKey::Network(network.id));
                if extent == Extent::Existence {
                    for port in intent.ports_on.of(&network.id) {
                        self.mark_port(*port, dirty);
                    }
                }
            }
            Object::Subnet(subnet) => {
                dirty.sections.insert(SectionKey::Network(subnet.network));
            }
            Object::Port(port) => {
                let id = port.section.id;
                self.mark_port(id, dirty);
                // Also once the index has lost it.
                dirty.hosts.extend(port.host.clone());
                dirty.ports.insert(id);
                for group in &port.section.security_groups {
                    dirty
                        .sections
                        .insert(SectionKey::AddressSet(Id::new(group.uuid())));
                }
                for function in intent.functions_of.of(&id) {
                    for chain in intent.chains_of_function.of(function) {
                        dirty.sections.insert(SectionKey::Chain(*chain));
                    }
                }
            }
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
                if let Some(port) = vip_port(function) {
                    self.mark_endpoint(port, dirty);
                    dirty.ports.insert(port);
                }
            }
            Object::Chain(chain) => {
                dirty.sections.insert(SectionKey::Chain(chain.id));
                let classifiers = chain.classifiers.iter();
                for classifier in classifiers.filter_map(|id| intent.classifiers.get(id)) {
                    for side in sides(classifier) {
                        self.mark_side(side, dirty);
                    }
                }
                let functions = chain.functions.iter();
                for function in functions.filter_map(|id| intent.functions.get(id)) {
                    if let Some(port) = vip_port(function) {
                        self.mark_endpoint(port, dirty);
                        dirty.ports.insert(port);
                    }
                }
            }
        }
    }

    /// A port's own two sections, and its host's needs.
    fn mark_port(&self, id: Id<kind::Port>, dirty: &mut Dirty) {
        dirty.sections.insert(SectionKey::Port(id));
        dirty.ports.insert(id);
        if let Some(port) = self.intent.ports.get(&id) {
            dirty.hosts.extend(port.host.clone());
        }
        self.mark_endpoint(id, dirty);
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
            }
            Side::Network(id) => dirty.hosts.extend(self.hosts_of(id).cloned()),
            Side::Project(id) => {
                let ports = self
                    .intent
                    .ports_of
                    .of(&id)
                    .filter_map(|p| self.intent.ports.get(p));
                dirty
                    .hosts
                    .extend(ports.filter_map(|port| port.host.clone()));
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
            records: dirty.records,
        };
        for (key, host) in dirty.entries {
            if self.set_right(&host, key) {
                touched.hosts.entry(host).or_default().insert(key);
            }
        }
        let gone: Vec<HostName> = self
            .hosts
            .iter()
            .filter(|(name, state)| state.needs.is_empty() && touched.hosts.contains_key(*name))
            .map(|(name, _)| name.clone())
            .collect();
        for host in gone {
            self.hosts.remove(&host);
        }
        touched
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
                BTreeSet::new()
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
                SectionKey::Vteps
                | SectionKey::AddressSet(_)
                | SectionKey::Group(_)
                | SectionKey::Chain(_)
                | SectionKey::Endpoint(_) => {}
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
            SectionKey::Vteps
            | SectionKey::Network(_)
            | SectionKey::AddressSet(_)
            | SectionKey::Group(_)
            | SectionKey::Chain(_)
            | SectionKey::Port(_) => Some(key),
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
                .is_none_or(|port| port.host.as_ref() != Some(host)),
            SectionKey::Vteps
            | SectionKey::Network(_)
            | SectionKey::AddressSet(_)
            | SectionKey::Group(_)
            | SectionKey::Chain(_)
            | SectionKey::Port(_) => true,
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

/// The sections that a host needs, but for endpoints; none for a host that is told nothing.
fn needs(intent: &Intent, host: &HostName) -> BTreeSet<SectionKey> {
    let mut keys = BTreeSet::new();
    if intent.host(host).is_none_or(|host| host.foreign) {
        return keys;
    }
    keys.insert(SectionKey::Vteps);
    let mut named = BTreeSet::new();
    let mut groups: BTreeSet<Id<kind::SecurityGroup>> = BTreeSet::new();
    for port in intent.ports_at(host) {
        let port = &port.section;
        if !intent.networks.contains_key(&port.network) {
            continue;
        }
        keys.insert(SectionKey::Port(port.id));
        named.insert(Side::Port(port.id));
        named.insert(Side::Network(port.network));
        named.insert(Side::Project(port.project));
        groups.extend(
            port.security_groups
                .iter()
                .filter(|g| intent.groups.contains_key(*g)),
        );
    }
    for side in named {
        if let Side::Network(network) = side {
            keys.insert(SectionKey::Network(network));
        }
        for classifier in intent.classifiers_of.of(&side) {
            let chains = intent.chains_of_classifier.of(classifier);
            keys.extend(chains.map(|chain| SectionKey::Chain(*chain)));
        }
    }
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

/// Compiles one section; `None` if its object can't be had.
fn section(intent: &Intent, key: SectionKey) -> Option<Keyed> {
    let body = match key {
        SectionKey::Vteps => Section::Vteps(l2::vteps(intent)),
        SectionKey::Network(id) => Section::Network(l2::network(intent, id)?),
        SectionKey::AddressSet(id) => Section::AddressSet(policy::address_set(intent, id)),
        SectionKey::Group(id) => Section::Group(policy::group(intent, id)?),
        SectionKey::Chain(id) => Section::Chain(chain::chain(intent, id)?.0),
        SectionKey::Port(id) => Section::Port(l2::port(intent, id)?),
        SectionKey::Endpoint(id) => Section::Endpoint(l2::endpoint(intent, id)?),
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
        let mut keys = needs(intent, &host.name);
        if keys.is_empty() {
            continue;
        }
        let elsewhere: Vec<SectionKey> = keys
            .iter()
            .flat_map(|key| {
                let network = if let SectionKey::Network(id) = key {
                    Some(*id)
                } else {
                    None
                };
                network.into_iter().flat_map(|id| intent.ports_on(id))
            })
            .filter(|port| port.host.as_ref() != Some(&host.name))
            .map(|port| SectionKey::Endpoint(port.section.id))
            .collect();
        keys.extend(elsewhere);
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
            Self::Group(id) => write!(f, "security group {id}"),
            Self::Rule(id) => write!(f, "security group rule {id}"),
            Self::Classifier(id) => write!(f, "flow classifier {id}"),
            Self::Function(id) => write!(f, "port pair group {id}"),
            Self::Chain(id) => write!(f, "port chain {id}"),
        }
    }
}
