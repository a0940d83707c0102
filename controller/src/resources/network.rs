//! What is a network?
//!
//! One broadcast domain of a project, carried as one VXLAN segment. Its VNI is a claimed key
//! (`vni/N`), its ports' addresses come from its subnets.

use crate::{
    api::Scene,
    refusal::Refusal,
    resource::{
        ALL, Absent, Kind, Lookup, Meta, Objects, Operations, Ops, Policy, Resource, Spec, Verb,
        field,
    },
    resources::{
        FlowClassifier, Port, Subnet, address_scope, qos_policy,
        rbac_policy::{self, Sharable},
    },
    rules::{Caller, Change, Rule, Write, join, usable},
    store::{Read, View},
};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use std::sync::Arc;
use uuid::Uuid;

/// What the fabric puts around an inner IP packet at most: IPv6 (40), UDP (8), VXLAN-GPE (8), NSH
/// with context (24), inner Ethernet (14).
const OVERHEAD: u16 = 94;
/// The default where nobody said what the underlay carries: Ethernet's 1500 less IPv4's 50.
const DEFAULT_MTU: u16 = 1450;
/// The most that is taken on trust: what jumbo frames carry.
const LARGEST_MTU: u16 = 9000;
const LAST_VNI: u32 = 0x00ff_ffff;

/// A network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
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
    /// `vxlan`.
    #[serde(rename = "provider:network_type", default = "vxlan")]
    pub network_type: String,
    /// The VXLAN network identifier; 0 in a request stands for a free one.
    #[serde(rename = "provider:segmentation_id", default)]
    pub vni: u32,
    /// The QoS policy of its ports that have none of their own.
    #[serde(default)]
    pub qos_policy_id: Option<Uuid>,
}

fn vxlan() -> String {
    "vxlan".to_owned()
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
                "router:external",
                Kind::Bool,
                "Does it lead outside? Not yet: always false.",
            )
            .writable(Absent::Bool(false))
            .set_by(Policy::Admin)
            .computed(),
            field(
                "ipv4_address_scope",
                Kind::Uuid,
                "The address scope of its IPv4 subnets.",
            )
            .computed(),
            field(
                "ipv6_address_scope",
                Kind::Uuid,
                "The address scope of its IPv6 subnets.",
            )
            .computed(),
            field(
                "l2_adjacency",
                Kind::Bool,
                "One broadcast domain: always true.",
            )
            .computed(),
            field(
                "provider:network_type",
                Kind::Text(32),
                "How it is carried: vxlan.",
            )
            .writable(Absent::Computed)
            .set_by(Policy::Admin)
            .read_by(Policy::Admin),
            field(
                "provider:physical_network",
                Kind::Text(64),
                "None: it is an overlay.",
            )
            .create_only(Absent::Computed)
            .or_null()
            .set_by(Policy::Admin)
            .read_by(Policy::Admin)
            .computed(),
            field(
                "provider:segmentation_id",
                Kind::Int(0, 0x7fff_ffff),
                "Its VNI.",
            )
            .writable(Absent::Computed)
            .set_by(Policy::Admin)
            .read_by(Policy::Admin),
        ],
        actions: &[],
        parts: &[],
        ops: &OPS as &dyn Operations,
    };
    const RULES: &'static [Rule<Self>] = &[provider, size, quality, sharing, removal];

    fn meta(&self) -> &Meta {
        &self.meta
    }

    fn meta_mut(&mut self) -> &mut Meta {
        &mut self.meta
    }

    fn shared(&self, _: &dyn Lookup) -> bool {
        self.shared
    }

    fn shared_with(&self, read: &dyn Lookup, project: &str) -> bool {
        self.shared || rbac_policy::may_use(read, self.meta.id, project)
    }

    fn granted(read: &dyn Lookup, project: &str) -> Vec<Uuid> {
        rbac_policy::granted::<Self>(read, project)
    }

    fn index(&self) -> Vec<(&'static str, String)> {
        let policy = self.qos_policy_id.iter();
        policy.map(|id| ("qos_policy_id", id.to_string())).collect()
    }

    fn intake(fields: &mut Map<String, Value>) -> Result<(), Refusal> {
        if fields.get("router:external") == Some(&Value::Bool(true)) {
            return Err(Refusal::input("external networks are not supported yet"));
        }
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
            "shared" => json!(self.shared_with(scene.snapshot, &scene.caller.project_id)),
            "subnets" => {
                let mut subnets = scene.snapshot.related::<Subnet>("network_id", self.meta.id);
                subnets.sort_by_key(|subnet| (subnet.meta.created_at, subnet.meta.id));
                subnets.iter().map(|subnet| json!(subnet.meta.id)).collect()
            }
            "router:external" => json!(false),
            "ipv4_address_scope" => json!(self.address_scope(4, scene)),
            "ipv6_address_scope" => json!(self.address_scope(6, scene)),
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
}

/// The network of this id, if the caller may use it.
///
/// # Errors
/// When there is none, or none that the caller sees.
pub fn visible(view: &View, id: Uuid, caller: &Caller) -> Result<Arc<Network>, Refusal> {
    view.object::<Network>(id)
        .filter(|network| usable(view, &**network, caller))
        .ok_or_else(|| Refusal::missing("Network", id))
}

/// The key of a VNI; they sort by number.
fn vni_key(vni: u32) -> String {
    format!("vni/{vni:06x}")
}

const VNI_FLOOR: &str = "free/vni";

fn provider(view: &View, change: &Change<'_, Network>, _: &Caller) -> Result<Vec<Write>, Refusal> {
    let mut writes = Vec::new();
    let release = |writes: &mut Vec<Write>, vni: u32| {
        writes.push(Write::Release(vni_key(vni)));
        if view.get::<u32>(VNI_FLOOR).is_some_and(|floor| vni < *floor) {
            writes.push(Write::Record(VNI_FLOOR.to_owned(), Arc::new(vni)));
        }
    };
    let Some(after) = change.after else {
        if let Some(before) = change.before {
            release(&mut writes, before.vni);
        }
        return Ok(writes);
    };
    let named_id = change.names("provider:segmentation_id") && after.vni != 0;
    if change.verb == Verb::Create && named_id && !change.names("provider:network_type") {
        return Err(Refusal::input("network_type required"));
    }
    if after.network_type != "vxlan" {
        if change.verb == Verb::Update {
            return Err(Refusal::input(
                "the network type of a network cannot be changed",
            ));
        }
        return Err(Refusal::input(format_args!(
            "network_type value '{}' not supported",
            after.network_type
        )));
    }
    if change.names("provider:physical_network") {
        return Err(Refusal::input(
            "provider:physical_network specified for vxlan network",
        ));
    }
    if change.before.is_some_and(|before| before.vni == after.vni) {
        return Ok(writes);
    }
    let mut chosen = after.clone();
    if chosen.vni == 0 {
        let (vni, floor) = lowest_vni(view)?;
        chosen.vni = vni;
        writes.push(Write::Record(VNI_FLOOR.to_owned(), Arc::new(floor)));
    } else if chosen.vni > LAST_VNI {
        return Err(Refusal::input(format_args!(
            "segmentation_id out of range (1 through {LAST_VNI})"
        )));
    } else if view.entry(&vni_key(chosen.vni)).is_some() {
        return Err(Refusal::conflict(
            "TunnelIdInUse",
            format!(
                "Unable to create the network. The tunnel ID {} is in use.",
                chosen.vni
            ),
        ));
    }
    if let Some(before) = change.before {
        release(&mut writes, before.vni);
    }
    writes.push(Write::Claim(vni_key(chosen.vni), chosen.meta.id));
    writes.push(Write::amend(chosen));
    Ok(writes)
}

/// The lowest free VNI, and the floor below which none is free.
fn lowest_vni(view: &View) -> Result<(u32, u32), Refusal> {
    let mut candidate = view
        .get::<u32>(VNI_FLOOR)
        .map_or(1, |floor| (*floor).max(1));
    let from = format!("{candidate:06x}");
    for (key, _) in view.scan_from("vni/", &from) {
        let held = key
            .get(4..)
            .and_then(|hex| u32::from_str_radix(hex, 16).ok());
        if held != Some(candidate) {
            break;
        }
        candidate += 1;
    }
    if candidate > LAST_VNI {
        return Err(Refusal::conflict(
            "NoNetworkAvailable",
            "Unable to create the network. No tenant network is available for allocation.",
        ));
    }
    Ok((candidate, candidate + 1))
}

fn too_big(largest: u16) -> Refusal {
    Refusal::input(format_args!(
        "Requested MTU is too big, maximum is {largest}"
    ))
}

fn size(view: &View, change: &Change<'_, Network>, _: &Caller) -> Result<Vec<Write>, Refusal> {
    let Some(after) = change.after else {
        return Ok(Vec::new());
    };
    let underlay = change.moment.facts.underlay_mtu;
    let (default, largest) = match underlay {
        Some(carried) => {
            let left = carried.saturating_sub(OVERHEAD);
            (left, left)
        }
        None => (DEFAULT_MTU, LARGEST_MTU),
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
    let object = (&after.meta, Sharable::Network);
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
    if before.shared != after.shared {
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
    let ports = view.related::<Port>("network_id", id);
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
    Ok(subnets
        .iter()
        .map(|subnet| Write::Remove(Subnet::SPEC, subnet.meta.id))
        .chain(rbac_policy::remove_all(view, id))
        .collect())
}
