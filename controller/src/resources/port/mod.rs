//! What is a port?
//!
//! Where a workload meets its network: a MAC address, addresses from the network's subnets, and what
//! it may send and receive. Which host it is on is its binding; whether it works there is what that
//! host proved.

pub mod allocation;
pub mod bindings;
pub mod dhcp_options;
mod metadata;
mod rules;
mod shapes;

use crate::{
    api::Scene,
    refusal::Refusal,
    resource::{ALL, Absent, Kind, Meta, Objects, Operations, Ops, Policy, Resource, Spec, field},
    resources::{
        Host, Network, Trunk, dns, fwaas, guarantee, router,
        trunk::{self, Trunking},
    },
    rules::Rule,
};
pub use bindings::Binding;
use dhcp_options::DhcpOption;
pub use metadata::Metadata;
use net::{Mac, Prefix};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};
use serde_json::{Map, Value, json};
pub(in crate::resources) use shapes::fixed_ips_shape;
use shapes::{pairs_shape, profile_shape};
use std::net::IpAddr;
use uuid::Uuid;

/// The owner of the port that holds a load balancer's virtual address.
pub const VIP_OWNER: &str = "overweave:load_balancer";
/// The owner of the port behind which a load balancer's proxy runs.
pub const PROXY_OWNER: &str = "overweave:load_balancer_proxy";
/// The owner of a port that holds an address of a NAT.
pub const NAT_OWNER: &str = "overweave:nat";
/// The owner of the port by which a router leaves the fabric.
pub const GATEWAY_OWNER: &str = "network:router_gateway";
/// The owner of a port that holds a floating IP.
pub const FLOATING_OWNER: &str = "network:floatingip";
/// Owners whose ports go with what they belong to, never by themselves.
pub(in crate::resources) const SERVICE_OWNERS: &[&str] = &[
    VIP_OWNER,
    PROXY_OWNER,
    NAT_OWNER,
    router::OWNER,
    router::DISTRIBUTED_OWNER,
    GATEWAY_OWNER,
    FLOATING_OWNER,
];

/// An address that a port has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct FixedIp {
    /// The subnet that it is from.
    pub subnet_id: Uuid,
    /// The address.
    pub ip_address: IpAddr,
}

/// An address that a request wants: by subnet, by address, or both.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WantedIp {
    /// From this subnet.
    #[serde(default)]
    pub subnet_id: Option<Uuid>,
    /// This one.
    #[serde(default)]
    pub ip_address: Option<IpAddr>,
}

/// What a port may send from besides its own addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AddressPair {
    /// The addresses.
    #[serde(with = "bare_host")]
    pub ip_address: Prefix,
    /// The MAC address; a request may leave it out for the port's own.
    #[serde(default)]
    pub mac_address: Option<Mac>,
}

/// A prefix of one address is written without its length.
mod bare_host {
    use super::*;

    pub(super) fn serialize<S: Serializer>(prefix: &Prefix, out: S) -> Result<S::Ok, S::Error> {
        if *prefix == Prefix::host(prefix.addr()) {
            out.collect_str(&prefix.addr())
        } else {
            out.collect_str(prefix)
        }
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(input: D) -> Result<Prefix, D::Error> {
        let text = String::deserialize(input)?;
        parse(&text).ok_or_else(|| D::Error::custom(format!("not an address: {text}")))
    }

    pub(super) fn parse(text: &str) -> Option<Prefix> {
        text.parse::<IpAddr>()
            .map(Prefix::host)
            .ok()
            .or_else(|| text.parse().ok())
    }
}

/// A port.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Port {
    /// What every object has.
    #[serde(flatten)]
    pub meta: Meta,
    /// Where it is.
    pub network_id: Uuid,
    /// Its MAC address; zero in a request stands for a fresh one.
    #[serde(default = "zero")]
    pub mac_address: Mac,
    /// Its addresses, in the order in which they were given.
    #[serde(default)]
    pub fixed_ips: Vec<FixedIp>,
    /// What the request wants; never stored.
    #[serde(default, skip_serializing)]
    pub wanted: Option<Vec<WantedIp>>,
    /// Does it forward?
    pub admin_state_up: bool,
    /// Is what it sends checked, and do its groups hold?
    #[serde(default)]
    pub port_security_enabled: bool,
    /// What it may send from besides.
    #[serde(default)]
    pub allowed_address_pairs: Vec<AddressPair>,
    /// Its groups.
    #[serde(default)]
    pub security_groups: Vec<Uuid>,
    /// What it belongs to.
    #[serde(default)]
    pub device_id: String,
    /// Of which kind that is.
    #[serde(default)]
    pub device_owner: String,
    /// The name of the host that it is on; empty for none.
    #[serde(rename = "binding:host_id", default)]
    pub host: String,
    /// Its name; empty: it has but those of its addresses.
    #[serde(default)]
    pub dns_name: String,
    /// The domain of its name, instead of its network's.
    #[serde(default)]
    pub dns_domain: String,
    /// What DHCP tells it besides.
    #[serde(default)]
    pub extra_dhcp_opts: Vec<DhcpOption>,
    /// What the request wants of that; never stored.
    #[serde(default, skip_serializing)]
    pub wanted_dhcp: Option<Vec<DhcpOption>>,
    /// How it is attached.
    #[serde(rename = "binding:vnic_type", default = "normal")]
    pub vnic_type: String,
    /// What another service notes.
    #[serde(rename = "binding:profile", default)]
    pub profile: Map<String, Value>,
    /// Where it may be next.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub inactive_bindings: Vec<Binding>,
    /// Its QoS policy, instead of its network's.
    #[serde(default)]
    pub qos_policy_id: Option<Uuid>,
    /// Of a router's gateway: has its host proved that it knows that another may have it? Only then it is given to another while its host is silent.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub may_move: bool,
    /// Of a router's gateway that is nowhere: the host that it was taken from, until that one has proved that it knows or can't have it any more.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub left: String,
    /// Its part in a trunk, kept by the trunk's rules.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trunk: Option<Trunking>,
    /// What its workload hears of itself.
    #[serde(rename = "overweave:metadata", default)]
    pub metadata: Option<Metadata>,
}

const fn zero() -> Mac {
    Mac::ZERO
}

fn normal() -> String {
    NORMAL.to_owned()
}

impl Port {
    /// A port that a rule makes: no security, no groups, addresses as wanted.
    pub fn new(meta: Meta, network_id: Uuid, wanted: Vec<WantedIp>) -> Self {
        Self {
            meta,
            network_id,
            mac_address: Mac::ZERO,
            fixed_ips: Vec::new(),
            wanted: Some(wanted),
            admin_state_up: true,
            port_security_enabled: false,
            allowed_address_pairs: Vec::new(),
            security_groups: Vec::new(),
            device_id: String::new(),
            device_owner: String::new(),
            host: String::new(),
            dns_name: String::new(),
            dns_domain: String::new(),
            extra_dhcp_opts: Vec::new(),
            wanted_dhcp: None,
            vnic_type: normal(),
            profile: Map::new(),
            inactive_bindings: Vec::new(),
            qos_policy_id: None,
            may_move: false,
            left: String::new(),
            trunk: None,
            metadata: None,
        }
    }
}

static OPS: Ops<Port> = Ops::new();

impl Resource for Port {
    const SPEC: &'static Spec = &Spec {
        singular: "port",
        plural: "ports",
        path: "ports",
        storage: "port",
        title: "Port",
        doc: "Where a workload meets its network.",
        verbs: ALL,
        policy: Policy::Anyone,
        quota: Some(("port", 500)),
        tags: true,
        bare: false,
        fields: &[
            field("network_id", Kind::Uuid, "Where it is.").create_only(Absent::Required),
            field("mac_address", Kind::Mac, "Its MAC address.")
                .writable(Absent::Computed)
                .update_by(Policy::AdminOrService),
            field("admin_state_up", Kind::Bool, "Does it forward?").writable(Absent::Bool(true)),
            field(
                "status",
                Kind::Text(16),
                "ACTIVE when its host proved that it works.",
            )
            .computed(),
            field("fixed_ips", Kind::Shape(fixed_ips_shape), "Its addresses.")
                .writable(Absent::Computed),
            field("device_id", Kind::Text(255), "What it belongs to.").writable(Absent::Text("")),
            field("device_owner", Kind::Text(255), "Of which kind that is.")
                .writable(Absent::Text("")),
            field(
                "port_security_enabled",
                Kind::Bool,
                "Is what it sends checked?",
            )
            .writable(Absent::Computed),
            field("security_groups", Kind::Uuids, "Its groups.").writable(Absent::List),
            field(
                "allowed_address_pairs",
                Kind::Shape(pairs_shape),
                "What it may send from.",
            )
            .writable(Absent::List)
            .unfiltered(),
            field(
                "qos_policy_id",
                Kind::Uuid,
                "Its QoS policy, instead of its network's.",
            )
            .writable(Absent::Null)
            .or_null(),
            field(
                "qos_network_policy_id",
                Kind::Uuid,
                "Its network's QoS policy.",
            )
            .or_null()
            .computed(),
            field(
                "extra_dhcp_opts",
                Kind::Shape(dhcp_options::shape),
                "What DHCP tells it besides.",
            )
            .writable(Absent::List)
            .or_null()
            .unfiltered(),
            field(
                "dns_name",
                Kind::Shape(dns::name_shape),
                "Its name; empty: it has but those of its addresses.",
            )
            .writable(Absent::Text("")),
            field(
                "dns_domain",
                Kind::Shape(dns::domain_shape),
                "The domain of its name, instead of its network's.",
            )
            .writable(Absent::Text("")),
            field(
                "dns_assignment",
                Kind::Shape(fixed_ips_shape),
                "What its addresses are called.",
            )
            .computed()
            .unfiltered(),
            field(
                "binding:vnic_type",
                Kind::OneOf(VNIC_TYPES),
                "How it is attached.",
            )
            .writable(Absent::Text(NORMAL)),
            field(
                "binding:host_id",
                Kind::Text(255),
                "The host that it is on.",
            )
            .writable(Absent::Text(""))
            .or_null()
            .set_by(Policy::AdminOrService)
            .read_by(Policy::AdminOrService),
            field(
                "binding:profile",
                Kind::Shape(profile_shape),
                "What another service notes.",
            )
            .writable(Absent::Object)
            .or_null()
            .set_by(Policy::Service)
            .read_by(Policy::AdminOrService)
            .unfiltered(),
            field(
                "binding:vif_type",
                Kind::Text(64),
                "How the host attaches it.",
            )
            .read_by(Policy::AdminOrService)
            .computed(),
            field(
                "binding:vif_details",
                Kind::Shape(profile_shape),
                "More of that.",
            )
            .read_by(Policy::AdminOrService)
            .computed()
            .unfiltered(),
            field(
                "trunk_details",
                Kind::Shape(profile_shape),
                "The trunk that it is the parent of.",
            )
            .computed()
            .unfiltered()
            .if_any(),
            field(
                "overweave:metadata",
                Kind::Shape(metadata::shape),
                "What its workload hears of itself at 169.254.169.254.",
            )
            .writable(Absent::Null)
            .or_null()
            .unfiltered(),
        ],
        actions: &[],
        parts: &[],
        ops: &OPS as &dyn Operations,
    };
    const RULES: &'static [Rule<Self>] = &[
        rules::place,
        rules::foreign,
        bindings::kept,
        rules::link_address,
        allocation::allocate,
        rules::security,
        rules::quality,
        guarantee::of_port,
        dns::named,
        dhcp_options::options,
        allocation::hold,
        rules::users,
        rules::floating,
        trunk::rules::of_port,
        fwaas::group::of_port,
        rules::removal,
    ];

    fn meta(&self) -> &Meta {
        &self.meta
    }

    fn meta_mut(&mut self) -> &mut Meta {
        &mut self.meta
    }

    fn index(&self) -> Vec<(&'static str, String)> {
        let mut index = vec![("network_id", self.network_id.to_string())];
        if !self.device_id.is_empty() {
            index.push(("device_id", self.device_id.clone()));
        }
        if !self.host.is_empty() {
            index.push(("binding:host_id", self.host.clone()));
        }
        let others = self.inactive_bindings.iter();
        for other in others.filter(|other| !other.host.is_empty()) {
            index.push((MAY_BE_AT, other.host.clone()));
        }
        if let Some(policy) = self.qos_policy_id {
            index.push(("qos_policy_id", policy.to_string()));
        }
        for group in &self.security_groups {
            index.push(("security_groups", group.to_string()));
        }
        index
    }

    fn intake(fields: &mut Map<String, Value>) -> Result<(), Refusal> {
        // What is asked for and what is had are two lists: the rule makes one of the other.
        if let Some(asked) = fields.shift_remove("asked:fixed_ips") {
            fields.insert("wanted".to_owned(), asked);
        }
        if let Some(asked) = fields.shift_remove("asked:extra_dhcp_opts") {
            fields.insert("wanted_dhcp".to_owned(), asked);
        }
        for (name, empty) in [
            ("binding:host_id", json!("")),
            ("binding:profile", json!({})),
        ] {
            if fields.get(name).is_some_and(Value::is_null) {
                fields.insert(name.to_owned(), empty);
            }
        }
        Ok(())
    }

    fn asked_apart(field: &str) -> bool {
        matches!(field, "fixed_ips" | "extra_dhcp_opts")
    }

    fn derive(&self, field: &str, scene: &Scene<'_>) -> Value {
        match field {
            "status" if self.device_owner == FLOATING_OWNER => json!("N/A"),
            "status" => json!(if self.is_active(scene) {
                "ACTIVE"
            } else {
                "DOWN"
            }),
            "dns_assignment" => {
                let network = scene.snapshot.object::<Network>(self.network_id);
                dns::assignment(self, network.as_deref(), scene.facts)
            }
            "qos_network_policy_id" => {
                let network = scene.snapshot.object::<Network>(self.network_id);
                json!(network.and_then(|network| network.qos_policy_id))
            }
            "trunk_details" => match self.trunk {
                Some(Trunking::Parent { trunk }) => {
                    let trunk = scene.snapshot.object::<Trunk>(trunk);
                    trunk.map_or(Value::Null, |trunk| trunk.details(scene))
                }
                Some(Trunking::SubPort { .. }) | None => Value::Null,
            },
            "binding:vif_type" => json!(self.vif((&self.host, &self.vnic_type), scene).0),
            "binding:vif_details" => self.vif((&self.host, &self.vnic_type), scene).1,
            _ => Value::Null,
        }
    }
}

/// How ports ask to be attached, in Neutron's words. A switch attaches [`NORMAL`] ones; the others are for hardware, and are bound nowhere.
const VNIC_TYPES: &[&str] = &[
    NORMAL,
    "direct",
    "direct-physical",
    "macvtap",
    "baremetal",
    "virtio-forwarder",
    "smart-nic",
    "vdpa",
    "accelerator-direct",
    "accelerator-direct-physical",
    "remote-managed",
];
/// By a device of the host's switch.
const NORMAL: &str = "normal";
/// What is said of a binding that no host can realise.
const FAILED: &str = "binding_failed";
/// The index of the hosts of inactive bindings.
pub(in crate::resources) const MAY_BE_AT: &str = "inactive_host";

impl Port {
    /// The host whose switch is to have it: the one that it is bound to, unless it asks to be attached as none does, or is an interface
    /// of a router, which is in every switch.
    pub fn place(&self) -> Option<&str> {
        let able = !self.host.is_empty() && self.attaches(&self.vnic_type);
        able.then_some(self.host.as_str())
            .filter(|_| !self.is_interface())
    }

    /// Is it a router's? Then it has no device, wherever it was bound.
    fn is_interface(&self) -> bool {
        [router::OWNER, router::DISTRIBUTED_OWNER].contains(&self.device_owner.as_str())
    }

    /// Does a switch attach it in this way? Ports of services have no device that could be of another kind.
    fn attaches(&self, vnic_type: &str) -> bool {
        vnic_type == NORMAL || SERVICE_OWNERS.contains(&self.device_owner.as_str())
    }

    /// How a host attaches it by a binding of this kind, and more of that.
    fn vif(&self, (host, vnic_type): (&str, &str), scene: &Scene<'_>) -> (&'static str, Value) {
        let kind = self.vif_type((host, vnic_type), scene);
        let details = match kind {
            "tap" => json!({"port_filter": true, "connectivity": "l2"}),
            _ => json!({}),
        };
        (kind, details)
    }

    fn vif_type(&self, (host, vnic_type): (&str, &str), scene: &Scene<'_>) -> &'static str {
        if host.is_empty() || self.is_interface() {
            return "unbound";
        }
        if !self.attaches(vnic_type) {
            return FAILED;
        }
        let network = scene.snapshot.object::<Network>(self.network_id);
        let wire = network.and_then(|network| network.physical_network.clone());
        let host = Host::by_name(scene.snapshot, host);
        let carries = |host: &Host| wire.is_none_or(|wire| host.physical_networks.contains(&wire));
        if host.is_some_and(|host| carries(&host)) {
            "tap"
        } else {
            FAILED
        }
    }

    pub(super) fn is_active(&self, scene: &Scene<'_>) -> bool {
        if !self.admin_state_up {
            return false;
        }
        let owner = self.device_owner.as_str();
        if SERVICE_OWNERS.contains(&owner) && owner != GATEWAY_OWNER {
            return scene.status.is_network_realised(self.network_id);
        }
        let Some(host) = self.place() else {
            return false;
        };
        match Host::by_name(scene.snapshot, host) {
            // A foreign VTEP proves nothing by itself: the fabric around it must be there.
            Some(host) if host.is_foreign() => scene.status.is_network_realised(self.network_id),
            Some(host) => scene.status.is_port_realised(self.meta.id, host.meta.id),
            None => false,
        }
    }
}
