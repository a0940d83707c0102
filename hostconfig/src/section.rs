//! What is the smallest thing that a host is told anew?
//!
//! A [`Section`]: keyed, hashed, compiled once and shared by every host that needs it. A host's table keeps an epoch for
//! each, so that a change re-judges the flows that read that section and no other.

use std::{fmt, str::FromStr};

use net::{Id, ids::kind};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::{
    AddressSet, Chain, Endpoint, FirewallGroup, FloatingIp, Metadata, Network, Port, Proxy,
    QosPolicy, Router, SecurityGroup, Vteps,
};

/// The name of a section: `port/6f1c…`; the fabric's VTEPs are `vteps`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum SectionKey {
    /// The fabric's VTEPs.
    Vteps,
    /// A network.
    Network(Id<kind::Network>),
    /// A set of addresses.
    AddressSet(Id<kind::AddressSet>),
    /// A part of one.
    AddressPart(Id<kind::AddressSet>, u8),
    /// A security group.
    Group(Id<kind::SecurityGroup>),
    /// A firewall group.
    Firewall(Id<kind::FirewallGroup>),
    /// A QoS policy.
    Qos(Id<kind::QosPolicy>),
    /// A chain.
    Chain(Id<kind::PortChain>),
    /// A port of this host.
    Port(Id<kind::Port>),
    /// A port elsewhere.
    Endpoint(Id<kind::Port>),
    /// A router.
    Router(Id<kind::Router>),
    /// A floating IP.
    FloatingIp(Id<kind::FloatingIp>),
    /// What the workload behind a port of this host hears of itself.
    Metadata(Id<kind::Port>),
    /// A proxy that runs behind a port of this host.
    Proxy(Id<kind::Port>),
}

impl fmt::Display for SectionKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Vteps => f.write_str("vteps"),
            Self::Network(id) => write!(f, "network/{id}"),
            Self::AddressSet(id) => write!(f, "address_set/{id}"),
            Self::AddressPart(id, part) => write!(f, "address_set/{id}/{part}"),
            Self::Group(id) => write!(f, "group/{id}"),
            Self::Firewall(id) => write!(f, "firewall/{id}"),
            Self::Qos(id) => write!(f, "qos/{id}"),
            Self::Chain(id) => write!(f, "chain/{id}"),
            Self::Port(id) => write!(f, "port/{id}"),
            Self::Endpoint(id) => write!(f, "endpoint/{id}"),
            Self::Router(id) => write!(f, "router/{id}"),
            Self::FloatingIp(id) => write!(f, "floating_ip/{id}"),
            Self::Metadata(id) => write!(f, "metadata/{id}"),
            Self::Proxy(id) => write!(f, "proxy/{id}"),
        }
    }
}

/// Why a text names no section.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not a section key (kind/uuid, or address_set/uuid/part): {0}")]
pub struct InvalidSectionKey(pub String);

impl FromStr for SectionKey {
    type Err = InvalidSectionKey;
    fn from_str(s: &str) -> Result<Self, InvalidSectionKey> {
        fn id<K>(s: &str, uuid: &str) -> Result<Id<K>, InvalidSectionKey> {
            uuid.parse().or(Err(InvalidSectionKey(s.to_owned())))
        }
        match s.split_once('/') {
            None if s == "vteps" => Ok(Self::Vteps),
            Some(("network", u)) => Ok(Self::Network(id(s, u)?)),
            Some(("address_set", u)) => match u.split_once('/') {
                None => Ok(Self::AddressSet(id(s, u)?)),
                Some((u, part)) => match part.parse::<u8>() {
                    Ok(number) if number.to_string() == part => {
                        Ok(Self::AddressPart(id(s, u)?, number))
                    }
                    Ok(_) | Err(_) => Err(InvalidSectionKey(s.to_owned())),
                },
            },
            Some(("group", u)) => Ok(Self::Group(id(s, u)?)),
            Some(("firewall", u)) => Ok(Self::Firewall(id(s, u)?)),
            Some(("qos", u)) => Ok(Self::Qos(id(s, u)?)),
            Some(("chain", u)) => Ok(Self::Chain(id(s, u)?)),
            Some(("port", u)) => Ok(Self::Port(id(s, u)?)),
            Some(("endpoint", u)) => Ok(Self::Endpoint(id(s, u)?)),
            Some(("router", u)) => Ok(Self::Router(id(s, u)?)),
            Some(("floating_ip", u)) => Ok(Self::FloatingIp(id(s, u)?)),
            Some(("metadata", u)) => Ok(Self::Metadata(id(s, u)?)),
            Some(("proxy", u)) => Ok(Self::Proxy(id(s, u)?)),
            _ => Err(InvalidSectionKey(s.to_owned())),
        }
    }
}

/// The content of a section.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Section {
    /// The fabric's VTEPs.
    Vteps(Vteps),
    /// A network.
    Network(Network),
    /// A set of addresses.
    AddressSet(AddressSet),
    /// A security group.
    Group(SecurityGroup),
    /// A firewall group.
    Firewall(FirewallGroup),
    /// A QoS policy.
    Qos(QosPolicy),
    /// A chain.
    Chain(Chain),
    /// A port of this host.
    Port(Port),
    /// A port elsewhere.
    Endpoint(Endpoint),
    /// A router.
    Router(Router),
    /// A floating IP.
    FloatingIp(FloatingIp),
    /// What the workload behind a port of this host hears of itself.
    Metadata(Metadata),
    /// A proxy that runs behind a port of this host.
    Proxy(Proxy),
}

/// 128 bits of the SHA-256 of key and canonical body.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct SectionHash(pub [u8; 16]);

impl fmt::Debug for SectionHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|b| write!(f, "{b:02x}"))
    }
}

/// A section with its key, its canonical bytes and their hash.
#[derive(Clone, PartialEq, Eq)]
pub struct Keyed {
    key: SectionKey,
    body: Section,
    bytes: Vec<u8>,
    hash: SectionHash,
}

/// Without the bytes: some sections have what is never shown.
impl fmt::Debug for Keyed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Keyed")
            .field("key", &self.key)
            .field("body", &self.body)
            .field("hash", &self.hash)
            .finish_non_exhaustive()
    }
}

/// Why bytes are no section.
#[derive(Debug, thiserror::Error)]
pub enum InvalidSection {
    /// The key can't be read.
    #[error(transparent)]
    Key(#[from] InvalidSectionKey),
    /// The body does not have the shape that its key asks for.
    #[error("section {key} does not have its shape")]
    Body {
        /// The section.
        key: SectionKey,
        /// What is wrong.
        #[source]
        source: serde_json::Error,
    },
    /// The key names another object than the body.
    #[error("section {0} holds another object")]
    Mismatch(SectionKey),
    /// The hash sent is not that of the bytes.
    #[error("section {0} does not hash to what was announced")]
    Hash(SectionKey),
}

impl Keyed {
    /// From its content.
    ///
    /// # Errors
    /// Never for the types of this crate; serde's signature says that it could.
    pub fn new(body: Section) -> Result<Self, InvalidSection> {
        let key = body.key();
        let bytes = match &body {
            Section::Vteps(b) => serde_json::to_vec(b),
            Section::Network(b) => serde_json::to_vec(b),
            Section::AddressSet(b) => serde_json::to_vec(b),
            Section::Group(b) => serde_json::to_vec(b),
            Section::Firewall(b) => serde_json::to_vec(b),
            Section::Qos(b) => serde_json::to_vec(b),
            Section::Chain(b) => serde_json::to_vec(b),
            Section::Port(b) => serde_json::to_vec(b),
            Section::Endpoint(b) => serde_json::to_vec(b),
            Section::Router(b) => serde_json::to_vec(b),
            Section::FloatingIp(b) => serde_json::to_vec(b),
            Section::Metadata(b) => serde_json::to_vec(b),
            Section::Proxy(b) => serde_json::to_vec(b),
        }
        .map_err(|source| InvalidSection::Body { key, source })?;
        let hash = hash(key, &bytes);
        Ok(Self {
            key,
            body,
            bytes,
            hash,
        })
    }

    /// From the bytes of the other end.
    ///
    /// # Errors
    /// When they are no section, not of this key, or do not hash to what was announced.
    pub fn decode(
        key: SectionKey,
        bytes: Vec<u8>,
        announced: SectionHash,
    ) -> Result<Self, InvalidSection> {
        fn read<'a, T: Deserialize<'a>>(
            key: SectionKey,
            bytes: &'a [u8],
        ) -> Result<T, InvalidSection> {
            serde_json::from_slice(bytes).map_err(|source| InvalidSection::Body { key, source })
        }
        let hash = hash(key, &bytes);
        if hash != announced {
            return Err(InvalidSection::Hash(key));
        }
        let body = match key {
            SectionKey::Vteps => Section::Vteps(read(key, &bytes)?),
            SectionKey::Network(_) => Section::Network(read(key, &bytes)?),
            SectionKey::AddressSet(_) | SectionKey::AddressPart(..) => {
                Section::AddressSet(read(key, &bytes)?)
            }
            SectionKey::Group(_) => Section::Group(read(key, &bytes)?),
            SectionKey::Firewall(_) => Section::Firewall(read(key, &bytes)?),
            SectionKey::Qos(_) => Section::Qos(read(key, &bytes)?),
            SectionKey::Chain(_) => Section::Chain(read(key, &bytes)?),
            SectionKey::Port(_) => Section::Port(read(key, &bytes)?),
            SectionKey::Endpoint(_) => Section::Endpoint(read(key, &bytes)?),
            SectionKey::Router(_) => Section::Router(read(key, &bytes)?),
            SectionKey::FloatingIp(_) => Section::FloatingIp(read(key, &bytes)?),
            SectionKey::Metadata(_) => Section::Metadata(read(key, &bytes)?),
            SectionKey::Proxy(_) => Section::Proxy(read(key, &bytes)?),
        };
        if body.key() != key {
            return Err(InvalidSection::Mismatch(key));
        }
        Ok(Self {
            key,
            body,
            bytes,
            hash,
        })
    }

    /// Its key.
    pub fn key(&self) -> SectionKey {
        self.key
    }

    /// Its content.
    pub fn body(&self) -> &Section {
        &self.body
    }

    /// Its canonical bytes.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Its hash.
    pub fn hash(&self) -> SectionHash {
        self.hash
    }
}

impl Section {
    /// The key that this content belongs under.
    pub fn key(&self) -> SectionKey {
        match self {
            Self::Vteps(_) => SectionKey::Vteps,
            Self::Network(b) => SectionKey::Network(b.id),
            Self::AddressSet(b) => match b.part {
                None => SectionKey::AddressSet(b.id),
                Some(part) => SectionKey::AddressPart(b.id, part),
            },
            Self::Group(b) => SectionKey::Group(b.id),
            Self::Firewall(b) => SectionKey::Firewall(b.id),
            Self::Qos(b) => SectionKey::Qos(b.id),
            Self::Chain(b) => SectionKey::Chain(b.id),
            Self::Port(b) => SectionKey::Port(b.id),
            Self::Endpoint(b) => SectionKey::Endpoint(b.id),
            Self::Router(b) => SectionKey::Router(b.id),
            Self::FloatingIp(b) => SectionKey::FloatingIp(b.id),
            Self::Metadata(b) => SectionKey::Metadata(b.port),
            Self::Proxy(b) => SectionKey::Proxy(b.port),
        }
    }
}

fn hash(key: SectionKey, bytes: &[u8]) -> SectionHash {
    let mut sha = Sha256::new();
    sha.update(key.to_string());
    sha.update([0]);
    sha.update(bytes);
    let whole: [u8; 32] = sha.finalize().into();
    let [half @ .., _, _, _, _, _, _, _, _, _, _, _, _, _, _, _, _] = whole;
    SectionHash(half)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_round_trip() {
        let u = uuid::Uuid::from_u128(7);
        for key in [
            SectionKey::Vteps,
            SectionKey::Port(u.into()),
            SectionKey::AddressSet(u.into()),
            SectionKey::AddressPart(u.into(), 0),
            SectionKey::AddressPart(u.into(), 255),
            SectionKey::Router(u.into()),
            SectionKey::Firewall(u.into()),
            SectionKey::Qos(u.into()),
            SectionKey::FloatingIp(u.into()),
            SectionKey::Metadata(u.into()),
            SectionKey::Proxy(u.into()),
        ] {
            assert_eq!(key.to_string().parse::<SectionKey>().unwrap(), key);
        }
        for bad in ["256", "-1", "01", "", "+1", "1/2"] {
            let key = format!("address_set/{u}/{bad}");
            assert!(key.parse::<SectionKey>().is_err(), "{key}");
        }
        assert!("port".parse::<SectionKey>().is_err());
        assert!(
            "door/00000000-0000-0000-0000-000000000007"
                .parse::<SectionKey>()
                .is_err()
        );
    }

    #[test]
    fn a_section_decodes_only_under_its_own_key_and_hash() {
        let set = |n| {
            Section::AddressSet(AddressSet {
                id: uuid::Uuid::from_u128(n).into(),
                part: None,
                members: [].into(),
            })
        };
        let one = Keyed::new(set(1)).unwrap();
        assert_eq!(
            Keyed::decode(one.key(), one.bytes().to_vec(), one.hash()).unwrap(),
            one
        );
        let other = SectionKey::AddressSet(uuid::Uuid::from_u128(2).into());
        assert!(matches!(
            Keyed::decode(other, one.bytes().to_vec(), one.hash()),
            Err(InvalidSection::Hash(_))
        ));
        let forged = hash(other, one.bytes());
        assert!(matches!(
            Keyed::decode(other, one.bytes().to_vec(), forged),
            Err(InvalidSection::Mismatch(_))
        ));
    }

    #[test]
    fn an_endpoint_kept_from_before_it_named_its_project_is_still_one() {
        let of = |project| {
            let endpoint = Endpoint {
                id: uuid::Uuid::from_u128(1).into(),
                network: uuid::Uuid::from_u128(2).into(),
                project,
                mac: net::Mac::new([2, 0, 0, 0, 0, 1]).try_into().unwrap(),
                addrs: vec![],
                dns_name: None,
                at: crate::Location::Virtual,
            };
            Keyed::new(Section::Endpoint(endpoint)).unwrap()
        };
        let (before, now) = (of(None), of(Some(uuid::Uuid::from_u128(3).into())));
        let kept = concat!(
            r#"{"id":"00000000-0000-0000-0000-000000000001","#,
            r#""network":"00000000-0000-0000-0000-000000000002","#,
            r#""mac":"02:00:00:00:00:01","addrs":[],"at":"virtual"}"#
        );
        assert_eq!(before.bytes(), kept.as_bytes(), "its bytes stay");
        for keyed in [&before, &now] {
            let read = Keyed::decode(keyed.key(), keyed.bytes().to_vec(), keyed.hash());
            assert_eq!(read.unwrap(), *keyed);
        }
        assert_ne!(before.hash(), now.hash(), "the controller tells it anew");
    }
}
