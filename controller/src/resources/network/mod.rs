//! What is a network?
//!
//! One broadcast domain of a project: a VXLAN segment, or a part of a physical network (`provider.rs`). Routers leave the fabric
//! through it if it is external (`external.rs`). Its ports' addresses come from its subnets.

mod external;
mod provider;

use crate::{
    api::Scene,
    refusal::Refusal,
    resource::{
        ALL, Absent, Kind, Lookup, Meta, Objects, Operations, Ops, Policy, Resource, Shown, Spec,
        field,
    },
    resources::{
        FloatingIp, FlowClassifier, Port, Subnet, address_scope, dns, floating_ip, guarantee,
        qos_policy,
        rbac_policy::{self, Access, Sharable},
        zones,
    },
    rules::{Caller, Change, Rule, Write, join, usable},
    store::View,
};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use std::sync::Arc;
use uuid::Uuid;

pub use external::DEFAULT_EXTERNAL;
pub use provider::{Carrier, check_physical_name};

/// What the fabric puts around an inner IP packet at most: IPv6 (40), UDP (8), VXLAN-GPE (8), NSH
/// with context (24), inner Ethernet (14).
const OVERHEAD: u16 = 94;
/// The default where nobody said what the underlay carries: Ethernet's 1500 less IPv4's 50.
const DEFAULT_MTU: u16 = 1450;
/// The most that is taken on trust: what jumbo frames carry.
const LARGEST_MTU: u16 = 9000;
/// The default on a wire, which has nothing around it: Ethernet's.
const WIRE_MTU: u16 = 1500;

/// A network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[expect(clippy::struct_excessive_bools, reason = "each is a field of the API")]
pub struct Network {
    /// What every object has.
    #[serde(flatten)]
    pub meta: Meta,
    /// Does it forward?
    pub admin_state_up: bool,
    /// The largest IP packet; 0 in a request stands for the default.
    #[serde(default)]
    pub mtu: u16,
    /// May every project put ports on it?
    pub shared: bool,
    /// What new ports get.
    pub port_security_enabled: bool,
    /// What carries it.
    #[serde(rename = "provider:network_type", default)]
    pub carrier: Carrier,
    /// The physical network that it is a part of; none for an overlay.
    #[serde(rename = "provider:physical_network", default)]
    pub physical_network: Option<String>,
    /// The VXLAN network identifier, or the VLAN; 0 in a request stands for a free one.
    #[serde(rename = "provider:segmentation_id", default)]
    pub segment: Option<u32>,
    /// The VNI of a network with a wire, for what routers send on between hosts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wire_vni: Option<u32>,
    /// Does it lead outside?
    #[serde(rename = "router:external", default)]
    pub external: bool,
    /// Is it the way outside where none is named?
    #[serde(default)]
    pub is_default: bool,
    /// The domain of its ports' names; empty: the controller's.
    #[serde(default)]
    pub dns_domain: String,
    /// The QoS policy of its ports that have none of their own.
    #[serde(default)]
    pub qos_policy_id: Option<Uuid>,
    /// The zones that were asked for: it is wherever its ports are.
    #[serde(
        rename = "availability_zone_hints",
        default,
        skip_serializing_if = "Vec::is_empty"
    )]
    pub zones: Vec<String>,
    /// What its segment is called.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub segment_name: Option<String>,
    /// What is noted of its segment.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub segment_note: Option<String>,
}

static OPS: Ops<Network> = Ops::new();

impl Resource for Network {
    const SPEC: &'static Spec = &Spec {
        singular: "network",
        plural: "networks",
        path: "networks",
        storage: "network",
        title: "Network",
        doc: "A broadcast domain of a project.",
        verbs: ALL,
        policy: Policy::Anyone,
        quota: Some(("network", 100)),
        tags: true,
        bare: false,
        fields: &[
            field("admin_state_up", Kind::Bool, "Does it forward?").writable(Absent::Bool(true)),
            field(
                "mtu",
                Kind::Int(0, 0x7fff_ffff),
                "The largest IP packet that it carries.",
            )
            .writable(Absent::Int(0)),
            field("status", Kind::Text(16), "ACTIVE.").computed(),
            field("subnets", Kind::Uuids, "Its subnets.")
                .computed()
                .unfiltered(),
            field(
                "shared",
                Kind::Bool,
                "May every project put ports on it, or the caller's by a grant?",
            )
            .writable(Absent::Bool(false))
            .set_by(Policy::Admin)
            .computed(),
            field("port_security_enabled", Kind::Bool, "What new ports get.")
                .writable(Absent::Bool(true)),
            field(
                "qos_policy_id",
                Kind::Uuid,
                "The QoS policy of its ports that have none of their own.",
            )
            .writable(Absent::Null)
            .or_null(),
            field(
                "dns_domain",
                Kind::Shape(dns::domain_shape),
                "The domain of its ports' names; empty: the controller's.",
            )
            .writable(Absent::Text("")),
            field("router:external", Kind::Bool, "Does it lead outside?")
                .writable(Absent::Bool(false))
                .set_by(Policy::Admin),
            field(
                "is_default",
                Kind::Bool,
                "Is it the way outside where none is named? Of external networks, one.",
            )
            .writable(Absent::Bool(false))
            .set_by(Policy::Admin),
            field(
                "ipv4_address_scope",
                Kind::Uuid,
                "The address scope of its IPv4 subnets.",
            )
            .or_null()
            .computed(),
            field(
                "ipv6_address_scope",
                Kind::Uuid,
                "The address scope of its IPv6 subnets.",
            )
            .or_null()
            .computed(),
            field(
                "l2_adjacency",
                Kind::Bool,
                "One broadcast domain: always true.",
            )
            .computed(),
            field(
                "availability_zone_hints",
                Kind::Words,
                "Changes nothing: it is wherever its ports are.",
            )
            .create_only(Absent::List)
            .computed()
            .unfiltered(),
            field(
                "availability_zones",
                Kind::Words,
                "The zones of the hosts that its ports are on.",
            )
            .computed()
            .unfiltered(),
            field(
                "provider:network_type",
                Kind::Text(32),
                "How it is carried: vxlan, vlan, flat.",
            )
            .writable(Absent::Computed)
            .set_by(Policy::Admin)
            .read_by(Policy::Admin),
            field(
                "provider:physical_network",
                Kind::Text(64),
                "The physical network that it is a part of; null for an overlay.",
            )
            .writable(Absent::Computed)
            .or_null()
            .set_by(Policy::Admin)
            .read_by(Policy::Admin),
            field(
                "provider:segmentation_id",
                Kind::Int(0, 0x7fff_ffff),
                "Its VNI, or its VLAN; null for a flat one.",
            )
            .writable(Absent::Computed)
            .set_by(Policy::Admin)
            .read_by(Policy::Admin)
            .shown(Shown::OrNull),
        ],
        actions: &[],
        parts: &[],
        ops: &OPS as &dyn Operations,
    };
    const RULES: &'static [Rule<Self>] = &[
        provider::carried,
        placed,
        size,
        quality,
        guarantee::of_network,
        sharing,
        external::leading_out,
        removal,
    ];

    fn meta(&self) -> &Meta {
        &self.meta
    }

    fn meta_mut(&mut self) -> &mut Meta {
        &mut self.meta
    }

    // Of an external one, whoever has a grant: `shared_with` looks.
    fn shared(&self, _: &dyn Lookup) -> bool {
        self.shared || self.external
    }

    fn shared_with(&self, read: &dyn Lookup, project: &str) -> bool {
        self.is_open_to(read, project)
            || (self.external && rbac_policy::may_leave_by(read, self.meta.id, project))
    }

    fn granted(read: &dyn Lookup, project: &str) -> Vec<Uuid> {
        let mut all = rbac_policy::granted::<Self>(read, project);
        all.extend(rbac_policy::ways_out(read, project));
        all
    }

    fn index(&self) -> Vec<(&'static str, String)> {
        let policy = self.qos_policy_id.iter();
        policy.map(|id| ("qos_policy_id", id.to_string())).collect()
    }

    fn intake(fields: &mut Map<String, Value>) -> Result<(), Refusal> {
        Carrier::check(fields.get("provider:network_type"))?;
        let mtu = fields
            .get("mtu")
            .and_then(Value::as_u64)
            .unwrap_or_default();
        if u16::try_from(mtu).is_err() {
            return Err(too_big(LARGEST_MTU));
        }
        Ok(())
    }

    fn derive(&self, field: &str, scene: &Scene<'_>) -> Value {
        match field {
            "status" => json!("ACTIVE"),
            "shared" => json!(self.is_open_to(scene.snapshot, &scene.caller.project_id)),
            "subnets" => {
                let mut subnets = scene.snapshot.related::<Subnet>("network_id", self.meta.id);
                subnets.sort_by_key(|subnet| (subnet.meta.created_at, subnet.meta.id));
                subnets.iter().map(|subnet| json!(subnet.meta.id)).collect()
            }
            "ipv4_address_scope" => json!(self.address_scope(4, scene)),
            "ipv6_address_scope" => json!(self.address_scope(6, scene)),
            "availability_zone_hints" => json!(self.zones),
            "availability_zones" => {
                let ports = scene.snapshot.related::<Port>("network_id", self.meta.id);
                json!(zones::of_ports(scene.snapshot, &ports))
            }
            "l2_adjacency" => json!(true),
            _ => Value::Null,
        }
    }
}

impl Network {
    /// The scope of its subnets of a family: they are all of one.
    fn address_scope(&self, ip_version: u8, scene: &Scene<'_>) -> Option<Uuid> {
        let subnets = scene.snapshot.related::<Subnet>("network_id", self.meta.id);
        let subnet = subnets
            .iter()
            .find(|subnet| subnet.ip_version == ip_version)?;
        address_scope::of_subnet(scene.snapshot, subnet)
    }

    /// May this project put ports on it, though it is another's?
    pub fn is_open_to(&self, read: &dyn Lookup, project: &str) -> bool {
        self.shared || rbac_policy::may_use(read, self.meta.id, project)
    }

    /// The number by which hosts know it among themselves.
    pub fn vni(&self) -> Option<u32> {
        match self.carrier {
            Carrier::Vxlan => self.segment,
            Carrier::Vlan | Carrier::Flat => self.wire_vni,
        }
    }
}

/// The network of this id, if the caller sees it.
///
/// # Errors
/// When there is none, or none that the caller sees.
pub fn visible(view: &View, id: Uuid, caller: &Caller) -> Result<Arc<Network>, Refusal> {
    view.object::<Network>(id)
        .filter(|network| usable(view, &**network, caller))
        .ok_or_else(|| Refusal::missing("Network", id))
}

/// The network of this id, if the caller may put ports on it. Who sees it because it leads outside may not.
///
/// # Errors
/// When there is none that the caller sees, or `rule` denies it.
pub fn open(view: &View, id: Uuid, caller: &Caller, rule: &str) -> Result<Arc<Network>, Refusal> {
    let network = visible(view, id, caller)?;
    if caller.owns(&network.meta.project_id) || network.is_open_to(view, &caller.project_id) {
        return Ok(network);
    }
    Err(Refusal::denied(format!("rule:{rule}")))
}

fn too_big(largest: u16) -> Refusal {
    Refusal::input(format_args!(
        "Requested MTU is too big, maximum is {largest}"
    ))
}

/// The zones that were asked for are there.
fn placed(view: &View, change: &Change<'_, Network>, _: &Caller) -> Result<Vec<Write>, Refusal> {
    let named = change.made().map_or(&[][..], |made| &made.zones);
    zones::known(view, named).map(|()| Vec::new())
}

fn size(view: &View, change: &Change<'_, Network>, _: &Caller) -> Result<Vec<Write>, Refusal> {
    let Some(after) = change.after else {
        return Ok(Vec::new());
    };
    let underlay = change.moment.facts.underlay_mtu;
    let (default, largest) = match (after.carrier, underlay) {
        (Carrier::Vlan | Carrier::Flat, _) => (WIRE_MTU, LARGEST_MTU),
        (Carrier::Vxlan, Some(carried)) => {
            let left = carried.saturating_sub(OVERHEAD);
            (left, left)
        }
        (Carrier::Vxlan, None) => (DEFAULT_MTU, LARGEST_MTU),
    };
    if after.mtu == 0 {
        return Ok(vec![Write::amend(Network {
            mtu: default,
            ..after.clone()
        })]);
    }
    let unchanged = change.before.is_some_and(|before| before.mtu == after.mtu);
    if unchanged {
        return Ok(Vec::new());
    }
    if after.mtu > largest {
        return Err(too_big(largest));
    }
    let subnets = view.related::<Subnet>("network_id", after.meta.id);
    for subnet in subnets {
        carries(after, subnet.cidr)?;
    }
    Ok(Vec::new())
}

/// Is the MTU one that a subnet of this family can have (RFC 791 §3.2, RFC 8200 §5)?
pub(super) fn carries(network: &Network, cidr: net::Prefix) -> Result<(), Refusal> {
    let (least, version) = if cidr.is_ipv4() { (68, 4) } else { (1280, 6) };
    if network.mtu >= least {
        return Ok(());
    }
    Err(Refusal::conflict(
        "NetworkMTUSubnetConflict",
        format!(
            "The MTU {} of network {} is below {least}, the least that subnet {cidr} of IPv{version} needs.",
            network.mtu, network.meta.id
        ),
    ))
}

/// Its QoS policy: one that the caller may use, or of a new network its project's default one.
fn quality(
    view: &View,
    change: &Change<'_, Network>,
    caller: &Caller,
) -> Result<Vec<Write>, Refusal> {
    let Some(after) = change.after.filter(|_| change.is_asked()) else {
        return Ok(Vec::new());
    };
    let before = change.before.and_then(|before| before.qos_policy_id);
    let ids = (before, after.qos_policy_id);
    qos_policy::exchange(view, ids, "update_network", caller)?;
    if change.made().is_some() && after.qos_policy_id.is_none() {
        let qos_policy_id = qos_policy::default_of(view, &after.meta.project_id);
        return Ok(vec![Write::amend(Network {
            qos_policy_id,
            ..after.clone()
        })]);
    }
    Ok(Vec::new())
}

fn sharing(view: &View, change: &Change<'_, Network>, _: &Caller) -> Result<Vec<Write>, Refusal> {
    let Some(after) = change.after else {
        return Ok(Vec::new());
    };
    let object = (&after.meta, Sharable::Network, Access::AccessAsShared);
    let dice = &change.moment.dice;
    let mut writes = rbac_policy::with_everybody(view, object, after.shared, dice);
    let Some(before) = change.before else {
        return Ok(writes);
    };
    if before.shared && !after.shared {
        let foreign = view
            .related::<Port>("network_id", after.meta.id)
            .iter()
            .map(|port| &port.meta.project_id)
            .any(|user| {
                *user != after.meta.project_id
                    && !rbac_policy::is_granted(view, after.meta.id, user)
            });
        if foreign {
            return Err(Refusal::conflict(
                "InvalidSharedSetting",
                format!(
                    "Unable to reconfigure sharing settings for network {}. Multiple projects are using it.",
                    after.meta.name
                ),
            ));
        }
    }
    if (before.shared, before.external) != (after.shared, after.external) {
        // Whoever sees the network sees its subnets.
        let subnets = view.related::<Subnet>("network_id", after.meta.id);
        let touch = |subnet: &Arc<Subnet>| Write::Touch(Subnet::SPEC, subnet.meta.id);
        writes.extend(subnets.iter().map(touch));
    }
    Ok(writes)
}

fn removal(view: &View, change: &Change<'_, Network>, _: &Caller) -> Result<Vec<Write>, Refusal> {
    let Some(before) = change.removed() else {
        return Ok(Vec::new());
    };
    let id = before.meta.id;
    let (unused, holders) = floating_ip::unused_on(view, id);
    let mut ports = view.related::<Port>("network_id", id);
    ports.retain(|port| !holders.contains(&port.meta.id));
    if !ports.is_empty() {
        let named = join(ports.iter().take(10).map(|port| port.meta.id));
        return Err(Refusal::conflict(
            "NetworkInUse",
            format!(
                "Unable to complete operation on network {id}. There are one or more ports still in use on the network, id for these ports is: {named}."
            ),
        ));
    }
    for side in ["logical_source_network", "logical_destination_network"] {
        if let Some(classifier) = view.related::<FlowClassifier>(side, id).first() {
            return Err(Refusal::conflict(
                "NetworkInUse",
                format!(
                    "Unable to complete operation on network {id}. Flow classifier {} names it.",
                    classifier.meta.id
                ),
            ));
        }
    }
    let subnets = view.related::<Subnet>("network_id", id);
    // Holders first: a subnet with addresses in use stays.
    let holders = holders.into_iter().map(|id| Write::Remove(Port::SPEC, id));
    let unused = unused
        .into_iter()
        .map(|id| Write::Remove(FloatingIp::SPEC, id));
    let subnets = subnets
        .iter()
        .map(|subnet| Write::Remove(Subnet::SPEC, subnet.meta.id));
    Ok(holders
        .chain(unused)
        .chain(subnets)
        .chain(rbac_policy::remove_all(view, id))
        .collect())
}
