//! What can be asked for?
//!
//! [`REGISTRY`] is the table of contents of the API: a file and a line each.

pub mod address_group;
pub mod address_scope;
pub mod dns;
pub mod floating_ip;
pub mod flow_classifier;
pub mod function;
pub mod fwaas;
pub mod guarantee;
pub mod health;
pub mod host;
pub mod lbaas;
pub mod metering_label;
pub mod metering_label_rule;
pub mod nat;
pub mod network;
pub mod port;
pub mod port_chain;
pub mod port_pair;
pub mod port_pair_group;
pub mod protocol;
pub mod qos_policy;
pub mod rbac_policy;
pub mod router;
pub mod security_group;
pub mod security_group_rule;
pub mod service_graph;
pub mod subnet;
pub mod subnet_pool;
pub mod trunk;
pub mod zones;

pub use address_group::AddressGroup;
pub use address_scope::AddressScope;
pub use floating_ip::FloatingIp;
pub use flow_classifier::FlowClassifier;
pub use function::NetworkFunction;
pub use fwaas::{FirewallGroup, FirewallPolicy, FirewallRule};
pub use host::Host;
pub use lbaas::{HealthMonitor, L7Policy, Listener, LoadBalancer, Pool};
pub use metering_label::MeteringLabel;
pub use metering_label_rule::MeteringLabelRule;
pub use network::Network;
pub use port::Port;
pub use port_chain::PortChain;
pub use port_pair::PortPair;
pub use port_pair_group::PortPairGroup;
pub use qos_policy::QosPolicy;
pub use rbac_policy::RbacPolicy;
pub use router::Router;
pub use security_group::SecurityGroup;
pub use security_group_rule::SecurityGroupRule;
pub use service_graph::ServiceGraph;
pub use subnet::Subnet;
pub use subnet_pool::SubnetPool;
pub use trunk::Trunk;

use crate::{
    identity, keys,
    resource::{Claim, Resource, Spec},
    rules::quotas::Limits,
    store::Record,
};
use serde::de::DeserializeOwned;
use std::{fmt, sync::Arc};

/// Every resource of the API.
pub const REGISTRY: &[&Spec] = &[
    Network::SPEC,
    Subnet::SPEC,
    Port::SPEC,
    Router::SPEC,
    FloatingIp::SPEC,
    Trunk::SPEC,
    SecurityGroup::SPEC,
    SecurityGroupRule::SPEC,
    AddressGroup::SPEC,
    AddressScope::SPEC,
    SubnetPool::SPEC,
    QosPolicy::SPEC,
    RbacPolicy::SPEC,
    MeteringLabel::SPEC,
    MeteringLabelRule::SPEC,
    FirewallRule::SPEC,
    FirewallPolicy::SPEC,
    FirewallGroup::SPEC,
    FlowClassifier::SPEC,
    PortPair::SPEC,
    PortPairGroup::SPEC,
    PortChain::SPEC,
    ServiceGraph::SPEC,
    LoadBalancer::SPEC,
    Listener::SPEC,
    Pool::SPEC,
    HealthMonitor::SPEC,
    L7Policy::SPEC,
    Host::SPEC,
    &host::AGENT,
];

fn json<T>(json: &[u8]) -> Result<Arc<dyn Record>, serde_json::Error>
where
    T: DeserializeOwned + serde::Serialize + fmt::Debug + Send + Sync + 'static,
{
    serde_json::from_slice::<T>(json).map(|value| Arc::new(value) as Arc<dyn Record>)
}

/// The type of each stored record, by the first part of its key.
///
/// # Errors
/// When the bytes are not of that type.
pub fn decode(key: &str, bytes: &[u8]) -> Result<Arc<dyn Record>, serde_json::Error> {
    let kind = key.split('/').next().unwrap_or_default();
    if let Some(spec) = REGISTRY.iter().find(|spec| spec.storage == kind) {
        return spec.ops.decode(bytes);
    }
    match kind {
        "by" | "space" => json::<()>(bytes),
        "free" => json::<u128>(bytes),
        "guard" | "quota" => json::<u64>(bytes),
        "limits" => json::<Limits>(bytes),
        "autotopology" => json::<crate::api::Topology>(bytes),
        "jointoken" => json::<host::JoinToken>(bytes),
        "ip" | "mac" | "vni" | "vlan" | "flat" | "fipport" | "name" | "unique" | "iface" => {
            json::<Claim>(bytes)
        }
        other => match identity::decode(other, bytes).or_else(|| keys::decode(other, bytes)) {
            Some(result) => result,
            // A kind that a later part of this schema knows: kept as it is.
            None => json::<serde_json::Value>(bytes),
        },
    }
}
