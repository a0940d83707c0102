//! Which address outside is a workload's?

use std::net::IpAddr;

use net::{Id, UnicastMac, ids::kind};
use serde::{Deserialize, Serialize};

use crate::nat::Forward;

/// An address of an external network that is one workload's, or of which ports are forwarded.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FloatingIp {
    /// Its id in the API.
    pub id: Id<kind::FloatingIp>,
    /// Whose it is.
    pub project: Id<kind::Project>,
    /// The port of the API that holds the address.
    pub port: Id<kind::Port>,
    /// The external network.
    pub network: Id<kind::Network>,
    /// The address.
    pub addr: IpAddr,
    /// Its MAC address outside.
    pub mac: UnicastMac,
    /// The router between it and the workload.
    pub router: Id<kind::Router>,
    /// Whose all of it is; `None`: ports are forwarded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to: Option<Workload>,
    /// The ports that are forwarded; none where all of it is one workload's.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub forwards: Vec<Forward>,
    /// The VTEP of the host that answers for it; `None`: none does now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub at: Option<IpAddr>,
    /// Could another host answer for it? Then its host stops while it does not hear from the controller.
    pub movable: bool,
    /// The QoS policy that limits what passes by it: its own, or else its network's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub qos: Option<Id<kind::QosPolicy>>,
}

/// An address of a workload.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Workload {
    /// Its port in the API.
    pub port: Id<kind::Port>,
    /// Its address inside.
    pub addr: IpAddr,
}
