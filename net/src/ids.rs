//! Who is meant: by whom, and where does the name hold?
//!
//! [`Id`] is a UUID of the API with its kind in the type. The dense ids ([`PortId`], [`NetworkId`] …) are indices on one
//! host, resolved when a config is applied, so that the hot path indexes arrays; they never leave the host. [`Zone`] is
//! dense too, but kept in the host's state dir and never reused while a connection's record names it.

use std::{fmt, hash::Hash, marker::PhantomData, str::FromStr};

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use uuid::Uuid;

/// The UUID of an API object of kind `K`; ids of different kinds can't be swapped. Printed bare.
pub struct Id<K> {
    uuid: Uuid,
    kind: PhantomData<fn() -> K>,
}

/// The kinds of [`Id`].
pub mod kind {
    macro_rules! kinds {
        ($($(#[$doc:meta])* $name:ident),* $(,)?) => {
            $($(#[$doc])* #[derive(Debug, Clone, Copy, PartialEq, Eq)] pub enum $name {})*
        };
    }
    kinds! {
        /// A network.
        Network,
        /// A port.
        Port,
        /// A subnet.
        Subnet,
        /// A security group.
        SecurityGroup,
        /// A rule of a security group, firewall, QoS policy or other list.
        Rule,
        /// An address set: the members of a remote group or address group.
        AddressSet,
        /// A port chain.
        PortChain,
        /// A network function in a chain (a port pair group of the API).
        Function,
        /// A port pair: an instance of an appliance.
        PortPair,
        /// A flow classifier.
        FlowClassifier,
        /// A host.
        Host,
        /// A project (tenant).
        Project,
        /// A router.
        Router,
        /// A floating IP.
        FloatingIp,
        /// A QoS policy.
        QosPolicy,
        /// A metering label.
        MeteringLabel,
        /// A firewall group.
        FirewallGroup,
        /// A firewall policy.
        FirewallPolicy,
        /// A health monitor, or what has one of its own.
        HealthMonitor,
    }
}

impl<K> Id<K> {
    /// From a UUID.
    pub const fn new(uuid: Uuid) -> Self {
        Self {
            uuid,
            kind: PhantomData,
        }
    }

    /// The UUID.
    pub const fn uuid(self) -> Uuid {
        self.uuid
    }
}

impl<K> Clone for Id<K> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<K> Copy for Id<K> {}
impl<K> PartialEq for Id<K> {
    fn eq(&self, other: &Self) -> bool {
        self.uuid == other.uuid
    }
}
impl<K> Eq for Id<K> {}
impl<K> PartialOrd for Id<K> {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl<K> Ord for Id<K> {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.uuid.cmp(&other.uuid)
    }
}
impl<K> Hash for Id<K> {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        self.uuid.hash(state);
    }
}
impl<K> fmt::Debug for Id<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.uuid, f)
    }
}
impl<K> fmt::Display for Id<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.uuid, f)
    }
}
impl<K> FromStr for Id<K> {
    type Err = uuid::Error;
    fn from_str(s: &str) -> Result<Self, uuid::Error> {
        Uuid::parse_str(s).map(Self::new)
    }
}
impl<K> From<Uuid> for Id<K> {
    fn from(uuid: Uuid) -> Self {
        Self::new(uuid)
    }
}
impl<K> Serialize for Id<K> {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        self.uuid.serialize(s)
    }
}
impl<'de, K> Deserialize<'de> for Id<K> {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        Uuid::deserialize(d).map(Self::new)
    }
}

macro_rules! dense {
    ($($(#[$doc:meta])* $name:ident),* $(,)?) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub u32);

        impl $name {
            /// As an index into this host's table.
            pub const fn index(self) -> usize {
                self.0 as usize
            }
        }
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}", self.0)
            }
        }
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}", self.0)
            }
        }
    )*};
}
dense! {
    /// A local port of this host's switch.
    PortId,
    /// A network that this host knows.
    NetworkId,
    /// A compiled set of security groups or one group, on this host.
    GroupId,
    /// A chain entry of this host.
    ChainId,
    /// A remote VTEP in this host's table.
    VtepId,
    /// A router that this host knows.
    RouterId,
    /// A scope in which tuples are told apart: one a port, one a chain entry, one a router. Kept in the state dir.
    Zone,
}
