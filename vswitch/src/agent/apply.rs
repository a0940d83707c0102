//! Which part of a config can be realised?
//!
//! A config comes from a compiler that checks it; should one come that does not make sense all the same, a host leaves
//! out what offends, says so, and runs the rest.

use std::sync::Arc;

use hostconfig::{
    HostConfig, Network, Section, SectionKey,
    check::{self, Fault},
    network::Wire,
};

use super::session::Complaint;

/// The networks of a config that are on wires.
pub(crate) fn wired(config: &HostConfig) -> impl Iterator<Item = (&Network, &Wire)> + '_ {
    let sections = config.sections.values();
    sections.filter_map(|section| match section.body() {
        Section::Network(network) => Some((network, network.wire.as_ref()?)),
        Section::Vteps(_)
        | Section::AddressSet(_)
        | Section::Group(_)
        | Section::Firewall(_)
        | Section::Qos(_)
        | Section::Chain(_)
        | Section::Port(_)
        | Section::Endpoint(_)
        | Section::Router(_)
        | Section::FloatingIp(_)
        | Section::Metadata(_)
        | Section::Proxy(_) => None,
    })
}

/// The config without what offends, and why that was left out. The same allocation when nothing does.
pub(crate) fn usable(told: &Arc<HostConfig>) -> (Arc<HostConfig>, Vec<Complaint>) {
    let mut faults = check::check(told);
    if faults.is_empty() {
        return (Arc::clone(told), Vec::new());
    }
    let mut config = HostConfig::clone(told);
    let mut complaints = Vec::new();
    // What is left out may be what another section refers to; each round leaves out at least one.
    while !faults.is_empty() {
        let before = config.sections.len();
        for fault in &faults {
            let key = offender(fault);
            if config.sections.remove(&key).is_some() {
                complaints.push(Complaint {
                    key: key.to_string(),
                    text: format!("left out: {fault}"),
                });
            }
        }
        if config.sections.len() == before {
            break; // a fault that no section answers for: nothing more to leave out
        }
        faults = check::check(&config);
    }
    (Arc::new(config), complaints)
}

/// Which section goes.
fn offender(fault: &Fault) -> SectionKey {
    match fault {
        Fault::Dangling { from, .. } => *from,
        Fault::SameVni(later, _) | Fault::SameMac(later, _) | Fault::SameVlan(later, _) => *later,
        // Here is known for certain; elsewhere may be old news.
        Fault::HereAndElsewhere(SectionKey::Port(id)) => SectionKey::Endpoint(*id),
        Fault::HereAndElsewhere(key) => *key,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agent::testkit::{config, endpoint, network, port};

    #[test]
    fn a_sound_config_is_run_as_it_is() {
        let told = Arc::new(config([network(1, 5001), port(1, 1), endpoint(2, 1)]));
        let (run, complaints) = usable(&told);
        assert!(Arc::ptr_eq(&run, &told));
        assert!(complaints.is_empty());
    }

    #[test]
    fn what_offends_is_left_out_with_all_that_refers_to_it() {
        // Network 2 has the VNI of network 1; port 2 is on network 2, and port 3 on one that is not there.
        let told = Arc::new(config([
            network(1, 5001),
            network(2, 5001),
            port(1, 1),
            port(2, 2),
            port(3, 3),
        ]));
        let (run, complaints) = usable(&told);
        let left: Vec<_> = run.sections.values().map(|s| s.body().clone()).collect();
        assert_eq!(left, [network(1, 5001), port(1, 1)]);
        let mut keys: Vec<_> = complaints.iter().map(|c| c.key.as_str()).collect();
        keys.sort_unstable();
        let expected = [
            network(2, 1).key().to_string(),
            port(2, 1).key().to_string(),
            port(3, 1).key().to_string(),
        ];
        assert_eq!(keys, expected);
        assert!(complaints.iter().all(|c| c.text.starts_with("left out: ")));
        assert!(check::check(&run).is_empty());
    }

    #[test]
    fn a_port_that_is_here_is_not_elsewhere() {
        let told = Arc::new(config([network(1, 5001), port(1, 1), endpoint(1, 1)]));
        let (run, complaints) = usable(&told);
        assert!(run.sections.contains_key(&port(1, 1).key()));
        assert!(!run.sections.contains_key(&endpoint(1, 1).key()));
        assert!(!complaints.is_empty());
    }
}
