//! How is a NAT set?
//!
//! The value of `network_function: {"nat": …}` of a port pair group: which addresses it has, who is hidden behind them, and what
//! comes through from outside. Each address is a port of its own (`port_pair_group.rs`).

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use net::{PortRange, Prefix};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};
use uuid::Uuid;

use crate::resources::{
    function::{Target, text_or_number},
    subnet::loose_prefix,
};

/// Addresses of one NAT: each is a port.
const ADDRESSES: usize = 64;
/// Forwards of one NAT.
const FORWARDS: usize = 500;
/// Hosts that share an address.
const HOSTS: u16 = 1_024;

/// Sources are hidden behind its addresses, and what comes to its addresses is forwarded.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Nat {
    /// Which hide sources.
    #[serde(default)]
    pub addresses: Vec<IpAddr>,
    /// Which sources are hidden; empty: all.
    #[serde(default, with = "prefixes")]
    pub sources: Vec<Prefix>,
    /// The ports that they are given.
    #[serde(default = "unprivileged", with = "port_range")]
    pub ports: PortRange,
    /// How many hosts share each address: every one has an equal part of the ports.
    #[serde(default = "sixteen")]
    pub hosts: u16,
    /// The most connections that one port has through it.
    #[serde(default = "four_thousand")]
    pub connections_per_client: u32,
    /// What is forwarded, by port.
    #[serde(default)]
    pub forwards: Vec<Forward>,
    /// Who has an address for itself.
    #[serde(default, rename = "static")]
    pub statics: Vec<Static>,
    /// Where the addresses are; a request may leave it out if a target says it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub network_id: Option<Uuid>,
}

/// Connections to a port of an address go to another.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Forward {
    /// The NAT's address.
    pub address: IpAddr,
    /// Of which protocol.
    #[serde(default)]
    pub protocol: Forwarded,
    /// Its port or ports: `80` or `80-90`.
    #[serde(with = "port_range")]
    pub port: PortRange,
    /// Who serves.
    #[serde(with = "target")]
    pub to: Target,
    /// The server's first port; the same if none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to_port: Option<u16>,
}

/// What is forwarded by port.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Forwarded {
    /// TCP connections.
    #[default]
    Tcp,
    /// UDP flows.
    Udp,
    /// SCTP associations.
    Sctp,
}

impl Forwarded {
    /// The IP protocol number.
    pub const fn number(self) -> u8 {
        match self {
            Self::Tcp => 6,
            Self::Udp => 17,
            Self::Sctp => 132,
        }
    }
}

/// An address for one alone, both ways and for every protocol.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Static {
    /// The NAT's address.
    pub address: IpAddr,
    /// Whose it is.
    #[serde(with = "target")]
    pub to: Target,
}

fn unprivileged() -> PortRange {
    PortRange::new(1024, 65_535).unwrap_or(PortRange::ANY)
}

const fn sixteen() -> u16 {
    16
}

const fn four_thousand() -> u32 {
    4_000
}

/// Prefixes whose host bits are cut off, or addresses.
mod prefixes {
    use super::*;

    pub(super) fn serialize<S: Serializer>(v: &[Prefix], out: S) -> Result<S::Ok, S::Error> {
        v.serialize(out)
    }

    pub(super) fn deserialize<'de, D>(input: D) -> Result<Vec<Prefix>, D::Error>
    where
        D: Deserializer<'de>,
    {
        let texts = Vec::<String>::deserialize(input)?;
        let prefix = |text: &String| {
            let prefix = loose_prefix(text);
            prefix.ok_or_else(|| D::Error::custom(format!("not an address or prefix: {text}")))
        };
        texts.iter().map(prefix).collect()
    }
}

/// `80`, `"80"`, `"80-90"`.
mod port_range {
    use super::*;

    #[expect(
        clippy::trivially_copy_pass_by_ref,
        reason = "the signature that serde calls"
    )]
    pub(super) fn serialize<S: Serializer>(v: &PortRange, out: S) -> Result<S::Ok, S::Error> {
        v.serialize(out)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(input: D) -> Result<PortRange, D::Error> {
        let text = text_or_number(input)?;
        text.parse().map_err(D::Error::custom)
    }
}

/// A port's id or an address.
mod target {
    use super::*;

    pub(super) fn serialize<S: Serializer>(v: &Target, out: S) -> Result<S::Ok, S::Error> {
        out.collect_str(v)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(input: D) -> Result<Target, D::Error> {
        let text = String::deserialize(input)?;
        Target::parse(&text)
            .ok_or_else(|| D::Error::custom(format!("neither port id nor address: {text}")))
    }
}

impl Nat {
    /// All addresses: those that hide, and those that something is forwarded from.
    pub fn own(&self) -> BTreeSet<IpAddr> {
        let forwards = self.forwards.iter().map(|f| f.address);
        let statics = self.statics.iter().map(|s| s.address);
        let hiding = self.addresses.iter().copied();
        hiding.chain(forwards).chain(statics).collect()
    }

    /// Whom it forwards to, and from which address: `(field, address, target)`.
    pub fn targets(&self) -> impl Iterator<Item = (String, IpAddr, Target)> {
        let forwards = self.forwards.iter().enumerate();
        let forwards = forwards.map(|(at, f)| (format!("forwards[{at}].to"), f.address, f.to));
        let statics = self.statics.iter().enumerate();
        forwards.chain(statics.map(|(at, s)| (format!("static[{at}].to"), s.address, s.to)))
    }

    /// Takes a port's forwards away.
    pub fn forget(&mut self, port: Uuid) {
        self.forwards.retain(|f| f.to != Target::Port(port));
        self.statics.retain(|s| s.to != Target::Port(port));
    }

    /// Does it make sense?
    ///
    /// # Errors
    /// What of it contradicts itself: the field and why.
    pub fn check(&self) -> Result<(), String> {
        self.check_sharing()?;
        self.check_forwards()?;
        self.check_statics()
    }

    fn check_sharing(&self) -> Result<(), String> {
        let own = self.own();
        if own.is_empty() {
            return Err("addresses: a nat has one address at least".to_owned());
        }
        if own.len() > ADDRESSES {
            return Err(format!("addresses: a nat has at most {ADDRESSES}"));
        }
        for (at, address) in self.addresses.iter().enumerate() {
            if self.addresses.iter().take(at).any(|a| a == address) {
                return Err(format!("addresses[{at}]: {address} stands twice"));
            }
        }
        if self.ports.min() == 0 {
            return Err(format!("ports: out of range (1-65535): {}", self.ports));
        }
        let count = u32::from(self.ports.max() - self.ports.min()) + 1;
        if self.hosts == 0 || self.hosts > HOSTS || u32::from(self.hosts) > count {
            return Err(format!(
                "hosts: out of range (1..={HOSTS}, and a port for each): {}",
                self.hosts
            ));
        }
        if self.connections_per_client == 0 {
            return Err("connections_per_client: out of range (1 or more): 0".to_owned());
        }
        Ok(())
    }

    fn check_forwards(&self) -> Result<(), String> {
        if self.forwards.len() > FORWARDS {
            return Err(format!("forwards: a nat has at most {FORWARDS}"));
        }
        let mut taken: BTreeMap<_, Vec<PortRange>> = BTreeMap::new();
        for (at, forward) in self.forwards.iter().enumerate() {
            let (range, to) = (forward.port, forward.to_port.unwrap_or(forward.port.min()));
            if range.min() == 0 {
                return Err(format!("forwards[{at}].port: 0 is no port"));
            }
            if to == 0 || to.checked_add(range.max() - range.min()).is_none() {
                return Err(format!("forwards[{at}].to_port: out of range: {to}"));
            }
            let there = taken
                .entry((forward.address, forward.protocol))
                .or_default();
            if there.iter().any(|other| other.overlaps(range)) {
                return Err(format!("forwards[{at}].port: {range} is forwarded already"));
            }
            there.push(range);
        }
        Ok(())
    }

    fn check_statics(&self) -> Result<(), String> {
        let mut targets = BTreeSet::new();
        for (at, one) in self.statics.iter().enumerate() {
            let address = one.address;
            let others = self.statics.iter().take(at).any(|s| s.address == address);
            let hides = self.addresses.contains(&address);
            if others || hides || self.forwards.iter().any(|f| f.address == address) {
                return Err(format!(
                    "static[{at}].address: {address} serves others too: a static address is for one alone"
                ));
            }
            if !targets.insert((one.to.to_string(), address.is_ipv4())) {
                return Err(format!(
                    "static[{at}].to: {} has an address already",
                    one.to
                ));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::function::shape;
    use serde_json::{Value, json};

    #[test]
    fn a_nat_is_completed_and_keeps_its_form() {
        let shaped = shape(&json!({"nat": {
            "addresses": ["10.0.0.200", "fd00::200"], "sources": ["10.0.0.9/24"],
            "forwards": [{"address": "10.0.0.200", "port": 8080, "to": "10.0.0.7", "to_port": 80}],
            "static": [{"address": "10.0.0.201", "to": "10.0.0.8"}],
        }}))
        .unwrap();
        assert_eq!(
            shaped,
            json!({"nat": {
                "addresses": ["10.0.0.200", "fd00::200"], "sources": ["10.0.0.0/24"],
                "ports": "1024-65535", "hosts": 16, "connections_per_client": 4000,
                "forwards": [{"address": "10.0.0.200", "protocol": "tcp", "port": "8080",
                    "to": "10.0.0.7", "to_port": 80}],
                "static": [{"address": "10.0.0.201", "to": "10.0.0.8"}],
            }})
        );
        assert_eq!(shape(&shaped).unwrap(), shaped);
    }

    #[test]
    fn what_is_wrong_is_named_by_its_field() {
        let a = "10.0.0.200";
        let forward = |port: Value| json!({"address": a, "port": port, "to": "10.0.0.7"});
        let one = |to: &str| json!({"address": "10.0.0.201", "to": to});
        for (body, field) in [
            (json!({}), "addresses"),
            (json!({"addresses": [a, a]}), "addresses[1]"),
            (json!({"addresses": [a], "ports": "0-9"}), "ports"),
            (json!({"addresses": [a], "hosts": 0}), "hosts"),
            (json!({"addresses": [a], "ports": "9", "hosts": 2}), "hosts"),
            (
                json!({"addresses": [a], "connections_per_client": 0}),
                "connections_per_client",
            ),
            (json!({"forwards": [forward(json!(0))]}), "forwards[0].port"),
            (
                json!({"forwards": [{"address": a, "port": "80-90", "to": "10.0.0.7", "to_port": 65530}]}),
                "forwards[0].to_port",
            ),
            (
                json!({"forwards": [forward(json!("80-90")), forward(json!(85))]}),
                "forwards[1].port",
            ),
            (
                json!({"addresses": ["10.0.0.201"], "static": [one("10.0.0.8")]}),
                "static[0].address",
            ),
            (
                json!({"static": [one("10.0.0.8"), {"address": a, "to": "10.0.0.8"}]}),
                "static[1].to",
            ),
            (
                json!({"addresses": [a], "sources": ["x"]}),
                "not an address",
            ),
            (json!({"addresses": [a], "masquerade": true}), "masquerade"),
        ] {
            let said = shape(&json!({"nat": body})).unwrap_err();
            assert!(said.contains(field), "{field}: {said}");
        }
    }
}
