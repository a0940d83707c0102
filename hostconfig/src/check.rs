//! Does a whole config make sense?
//!
//! The linter of what the compiler makes and of what a host is told: every reference resolves, nothing is claimed twice.

use std::collections::{BTreeMap, BTreeSet};

use crate::{HostConfig, Section, SectionKey, group::Remote};

/// Something that a config must not have.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// A section refers to one that is not there.
    #[error("{from} refers to {to}, which is not there")]
    Dangling {
        /// Who refers.
        from: SectionKey,
        /// To what.
        to: SectionKey,
    },
    /// Two networks have one VNI.
    #[error("{0} has the vni of {1}")]
    SameVni(SectionKey, SectionKey),
    /// Two ports of a network have one MAC address.
    #[error("{0} has the mac address of {1}")]
    SameMac(SectionKey, SectionKey),
    /// Two sub-ports of a trunk have one VLAN.
    #[error("{0} has the vlan of {1} on their trunk")]
    SameVlan(SectionKey, SectionKey),
    /// A port stands as both here and elsewhere.
    #[error("{0} is here and elsewhere")]
    HereAndElsewhere(SectionKey),
}

/// All faults of a config; none for what the compiler makes.
pub fn check(config: &HostConfig) -> Vec<Fault> {
    let mut faults = Vec::new();
    let mut vnis = BTreeMap::new();
    let mut macs = BTreeMap::new();
    let mut tags = BTreeMap::new();
    let has = |key: SectionKey| config.sections.contains_key(&key);
    for (&key, section) in &config.sections {
        let mut needs = BTreeSet::new();
        match section.body() {
            // Metadata of a port that is not here is told to nobody.
            Section::Vteps(_)
            | Section::Firewall(_)
            | Section::Qos(_)
            | Section::Chain(_)
            | Section::Metadata(_)
            | Section::Proxy(_) => {}
            Section::AddressSet(set) => {
                needs.extend(set.part.map(|_| SectionKey::AddressSet(set.id)));
            }
            Section::Network(n) => {
                if let Some(first) = vnis.insert(n.vni, key) {
                    faults.push(Fault::SameVni(key, first));
                }
            }
            Section::Group(g) => {
                for rule in &g.rules {
                    if let Remote::Set(set) = rule.remote {
                        needs.insert(SectionKey::AddressSet(set));
                    }
                }
            }
            Section::Port(p) => {
                needs.insert(SectionKey::Network(p.network));
                needs.extend(p.security_groups.iter().map(|g| SectionKey::Group(*g)));
                needs.extend(p.firewall.map(SectionKey::Firewall));
                needs.extend(p.qos.map(SectionKey::Qos));
                if let Some(trunk) = p.trunk {
                    needs.insert(SectionKey::Port(trunk.parent));
                    if let Some(first) = tags.insert(trunk, key) {
                        faults.push(Fault::SameVlan(key, first));
                    }
                }
                if let Some(first) = macs.insert((p.network, p.mac), key) {
                    faults.push(Fault::SameMac(key, first));
                }
                if has(SectionKey::Endpoint(p.id)) {
                    faults.push(Fault::HereAndElsewhere(key));
                }
            }
            Section::Endpoint(e) => {
                needs.insert(SectionKey::Network(e.network));
                if let Some(first) = macs.insert((e.network, e.mac), key) {
                    faults.push(Fault::SameMac(key, first));
                }
            }
            Section::FloatingIp(f) => {
                needs.insert(SectionKey::Router(f.router));
                needs.extend(f.qos.map(SectionKey::Qos));
            }
            Section::Router(r) => {
                for interface in &r.interfaces {
                    needs.insert(SectionKey::Network(interface.network));
                    needs.extend(interface.firewall.map(SectionKey::Firewall));
                    if let Some(first) = macs.insert((interface.network, interface.mac), key) {
                        faults.push(Fault::SameMac(key, first));
                    }
                }
            }
        }
        let dangling = needs.into_iter().filter(|to| !has(*to));
        faults.extend(dangling.map(|to| Fault::Dangling { from: key, to }));
    }
    faults
}
