//! Which interfaces does this host have on physical networks?
//!
//! A physical network is a name that the operator gives it, the same on all hosts; each host says by which of its interfaces it is on it.
//! What cannot be meant is refused before anything starts.

use std::{collections::BTreeMap, fmt};

use crate::io::tap::{IfName, InvalidIfName};

/// The longest name of a physical network, as in Neutron.
const NAME_MAX: usize = 64;
/// The most of them: a host has few interfaces.
const COUNT_MAX: usize = 64;

/// The host's interface on each physical network, by the network's name.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PhysicalNetworks(BTreeMap<String, IfName>);

/// Why what was written can't be meant.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidPhysical {
    /// The network has no such name.
    #[error("a physical network's name has 1 to {NAME_MAX} printable ASCII characters: {0:?}")]
    Name(String),
    /// The interface has no such name.
    #[error("{network}: {source}")]
    Interface {
        /// The physical network.
        network: String,
        /// What is wrong.
        source: InvalidIfName,
    },
    /// An interface is on one physical network.
    #[error("interface {interface} is on two physical networks: {first}, {second}")]
    Twice {
        /// Which one.
        interface: IfName,
        /// The one network.
        first: String,
        /// The other.
        second: String,
    },
    /// More than a host may have.
    #[error("more than {COUNT_MAX} physical networks: {0}")]
    Many(usize),
}

impl PhysicalNetworks {
    /// How it is called where it is written: a flag names one, a file has a table of them.
    pub(crate) const fn key(flag: bool) -> &'static str {
        if flag {
            "physical_network"
        } else {
            "physical_networks"
        }
    }

    /// From what is written.
    ///
    /// # Errors
    /// See [`InvalidPhysical`].
    pub fn new(written: BTreeMap<String, String>) -> Result<Self, InvalidPhysical> {
        if written.len() > COUNT_MAX {
            return Err(InvalidPhysical::Many(written.len()));
        }
        let mut networks: BTreeMap<String, IfName> = BTreeMap::new();
        for (network, interface) in written {
            let printable = network.bytes().all(|b| b.is_ascii_graphic());
            if network.is_empty() || network.len() > NAME_MAX || !printable {
                return Err(InvalidPhysical::Name(network));
            }
            let interface: IfName = match interface.parse() {
                Ok(interface) => interface,
                Err(source) => return Err(InvalidPhysical::Interface { network, source }),
            };
            if let Some((first, _)) = networks.iter().find(|(_, i)| **i == interface) {
                return Err(InvalidPhysical::Twice {
                    first: first.clone(),
                    second: network,
                    interface,
                });
            }
            networks.insert(network, interface);
        }
        Ok(Self(networks))
    }

    /// By which interface the host is on a physical network.
    pub fn interface(&self, network: &str) -> Option<&IfName> {
        self.0.get(network)
    }

    /// Their names.
    pub fn names(&self) -> Vec<String> {
        self.0.keys().cloned().collect()
    }
}

impl fmt::Display for PhysicalNetworks {
    /// As a file says it; nothing where there is none.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            return Ok(());
        }
        writeln!(f, "\n[physical_networks]")?;
        let mut networks = self.0.iter();
        networks
            .try_for_each(|(name, interface)| writeln!(f, "{name:?} = {:?}", interface.to_string()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(written: &[(&str, &str)]) -> Result<PhysicalNetworks, String> {
        let written = written
            .iter()
            .map(|(n, i)| ((*n).to_owned(), (*i).to_owned()));
        PhysicalNetworks::new(written.collect()).map_err(|e| e.to_string())
    }

    #[test]
    fn names_and_interfaces_are_told_as_they_were_written() {
        let networks = of(&[("physnet1", "eth1"), ("a.b", "bond0.1")]).unwrap();
        assert_eq!(networks.names(), ["a.b", "physnet1"]);
        assert_eq!(networks.interface("physnet1").unwrap().to_string(), "eth1");
        assert_eq!(networks.interface("physnet2"), None);
        let text = "\n[physical_networks]\n\"a.b\" = \"bond0.1\"\n\"physnet1\" = \"eth1\"\n";
        assert_eq!(networks.to_string(), text);
        assert_eq!(PhysicalNetworks::default().to_string(), "");
    }

    #[test]
    fn what_cannot_be_meant_is_refused_by_name() {
        let long = "n".repeat(NAME_MAX + 1);
        for (written, says) in [
            (vec![("", "eth1")], "1 to 64 printable"),
            (vec![(long.as_str(), "eth1")], "1 to 64 printable"),
            (vec![("two words", "eth1")], "two words"),
            (vec![("physnet1", "not/one")], "physnet1: interface name"),
            (vec![("physnet1", "")], "physnet1: interface name"),
            (
                vec![("a", "eth1"), ("b", "eth1")],
                "interface eth1 is on two physical networks: a, b",
            ),
        ] {
            let refused = of(&written).unwrap_err();
            assert!(refused.contains(says), "{refused}");
        }
        assert!(of(&[(&long[1..], "eth1")]).is_ok());
        let names: Vec<_> = (0..=COUNT_MAX).map(|n| format!("p{n}")).collect();
        let many: Vec<_> = names.iter().map(|n| (n.as_str(), n.as_str())).collect();
        assert!(of(&many).unwrap_err().contains("more than 64"));
        assert!(of(&many[1..]).is_ok());
    }
}
