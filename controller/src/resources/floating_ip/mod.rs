//! What is a floating IP?
//!
//! An address of an external network that is a project's, and that it gives to one of its ports, or of which it forwards ports
//! (`forwarding.rs`). A port of no project's holds the address, owner [`FLOATING_OWNER`], made and deleted with it.
//!
//! # Invariants
//! - `fipport/PORT/ADDRESS/NETWORK` is held by the floating IP that a port's address has on an external network.
//! - `router_id` names the router between it and whom it leads to, as long as it leads to anyone.
//! - It is one port's as a whole, or ports of it are forwarded.

mod association;
mod forwarding;

use crate::{
    api::Scene,
    refusal::Refusal,
    resource::{
        ALL, Absent, Field, Kind, Meta, Objects, Operations, Ops, Part, Policy, Resource, Shown,
        Spec, field,
    },
    resources::{
        Network, Port, Subnet, dns, network,
        port::{FLOATING_OWNER, WantedIp, allocation::for_owner},
        qos_policy,
    },
    rules::{
        Caller, Change, Judged, Rule, Write,
        addresses::{floor_key, lowest_free},
    },
    store::View,
};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use std::{net::IpAddr, sync::Arc};
use uuid::Uuid;

pub use forwarding::PortForwarding;

/// A floating IP.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FloatingIp {
    /// What every object has.
    #[serde(flatten)]
    pub meta: Meta,
    /// The external network.
    pub floating_network_id: Uuid,
    /// The address; none only in a request, for a free one.
    #[serde(default)]
    pub floating_ip_address: Option<IpAddr>,
    /// The port that holds it.
    #[serde(default)]
    pub holder: Option<Uuid>,
    /// Whose it is.
    #[serde(default)]
    pub port_id: Option<Uuid>,
    /// The address of that port that is meant.
    #[serde(default)]
    pub fixed_ip_address: Option<IpAddr>,
    /// The router between the two.
    #[serde(default)]
    pub router_id: Option<Uuid>,
    /// The QoS policy that limits what passes by it, instead of its network's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub qos_policy_id: Option<Uuid>,
    /// Its name, within its domain; empty: it has none.
    #[serde(default)]
    pub dns_name: String,
    /// The domain of that, with its dot.
    #[serde(default)]
    pub dns_domain: String,
    /// The ports that are forwarded.
    #[serde(default)]
    pub forwards: Vec<PortForwarding>,
    /// The subnet that a request wants the address from; never stored.
    #[serde(default, skip_serializing)]
    pub subnet_id: Option<Uuid>,
}

static OPS: Ops<FloatingIp> = Ops::new();

const FIELDS: &[Field] = &[
    field("id", Kind::Uuid, "Identity."),
    field("project_id", Kind::Text(255), "The project that owns it.").create_only(Absent::Computed),
    field(
        "tenant_id",
        Kind::Text(255),
        "The project, by its old name.",
    )
    .computed(),
    field("description", Kind::Text(255), "Human note.").writable(Absent::Text("")),
    field(
        "floating_network_id",
        Kind::Uuid,
        "The external network that it is an address of.",
    )
    .create_only(Absent::Required),
    field("floating_ip_address", Kind::Address, "The address.")
        .create_only(Absent::Null)
        .or_null()
        .set_by(Policy::Admin),
    field(
        "subnet_id",
        Kind::Uuid,
        "The subnet that the address is to be from.",
    )
    .create_only(Absent::Null)
    .or_null()
    .read_by(Policy::Nobody),
    field(
        "port_id",
        Kind::Uuid,
        "The port whose it is; null: nobody's.",
    )
    .writable(Absent::Null)
    .or_null(),
    field(
        "fixed_ip_address",
        Kind::Address,
        "The port's address that is meant, if it has several.",
    )
    .writable(Absent::Null)
    .or_null(),
    field(
        "router_id",
        Kind::Uuid,
        "The router between it and whom it leads to.",
    )
    .shown(Shown::OrNull),
    field(
        "status",
        Kind::Text(16),
        "ACTIVE when the host that answers for it proved that it does.",
    )
    .computed(),
    field(
        "qos_policy_id",
        Kind::Uuid,
        "The QoS policy that limits what passes by it, instead of its network's.",
    )
    .writable(Absent::Null)
    .or_null(),
    field(
        "qos_network_policy_id",
        Kind::Uuid,
        "The QoS policy of its network.",
    )
    .shown(Shown::OrNull)
    .computed()
    .unfiltered(),
    field(
        "dns_name",
        Kind::Shape(dns::floating_name_shape),
        "Its name, within its domain.",
    )
    .create_only(Absent::Text("")),
    field(
        "dns_domain",
        Kind::Shape(dns::domain_shape),
        "The domain of its name: networks of its project that have this one know it.",
    )
    .create_only(Absent::Text("")),
    field("port_details", Kind::Text(255), "Of its port.")
        .shown(Shown::ObjectOrNull)
        .computed()
        .unfiltered(),
    field(
        "port_forwardings",
        Kind::Words,
        "The ports that are forwarded.",
    )
    .computed()
    .unfiltered(),
    field(
        "revision_number",
        Kind::Int(0, i64::MAX),
        "Grows with each change.",
    ),
    field("created_at", Kind::Text(32), "When it was made.").computed(),
    field("updated_at", Kind::Text(32), "When it was last changed.").computed(),
];

impl Resource for FloatingIp {
    const SPEC: &'static Spec = &Spec {
        singular: "floatingip",
        plural: "floatingips",
        path: "floatingips",
        storage: "floatingip",
        title: "FloatingIP",
        doc: "An address of an external network for a workload.",
        verbs: ALL,
        policy: Policy::Anyone,
        quota: Some(("floatingip", 50)),
        tags: true,
        bare: true,
        fields: FIELDS,
        actions: &[],
        parts: &[forwarding::PART],
        ops: &OPS as &dyn Operations,
    };
    const RULES: &'static [Rule<Self>] = &[
        address,
        association::associate,
        forwarding::forwarded,
        association::hold,
        dns::floating_named,
        quality,
        removal,
    ];

    fn meta(&self) -> &Meta {
        &self.meta
    }

    fn meta_mut(&mut self) -> &mut Meta {
        &mut self.meta
    }

    fn index(&self) -> Vec<(&'static str, String)> {
        let mut index = vec![("floating_network_id", self.floating_network_id.to_string())];
        index.extend(self.port_id.map(|id| ("port_id", id.to_string())));
        index.extend(self.router_id.map(|id| ("router_id", id.to_string())));
        index.extend(
            self.qos_policy_id
                .map(|id| ("qos_policy_id", id.to_string())),
        );
        let forwards = self.forwards.iter();
        index.extend(forwards.map(|f| ("forwarded_to", f.internal_port_id.to_string())));
        index
    }

    fn derive(&self, field: &str, scene: &Scene<'_>) -> Value {
        match field {
            "status" => json!(if scene.status.is_realised(self.meta.id) {
                "ACTIVE"
            } else {
                "DOWN"
            }),
            "port_details" => {
                let port = self
                    .port_id
                    .and_then(|id| scene.snapshot.object::<Port>(id));
                port.map_or(Value::Null, |port| {
                    json!({
                        "name": port.meta.name,
                        "network_id": port.network_id,
                        "mac_address": port.mac_address,
                        "admin_state_up": port.admin_state_up,
                        "status": Resource::derive(&*port, "status", scene),
                        "device_id": port.device_id,
                        "device_owner": port.device_owner,
                    })
                })
            }
            "qos_network_policy_id" => {
                let network = scene.snapshot.object::<Network>(self.floating_network_id);
                json!(network.and_then(|network| network.qos_policy_id))
            }
            "port_forwardings" => self.forwards.iter().map(PortForwarding::shown).collect(),
            _ => Value::Null,
        }
    }

    fn parts(&self, _: &Part) -> Vec<Map<String, Value>> {
        self.forwards.iter().map(PortForwarding::fields).collect()
    }

    fn with_part(
        &self,
        _: &Part,
        id: Uuid,
        fields: Option<Map<String, Value>>,
    ) -> Result<Self, Refusal> {
        let mut floating = self.clone();
        let at = floating
            .forwards
            .iter()
            .position(|forward| forward.id == id);
        let Some(fields) = fields else {
            floating.forwards.retain(|forward| forward.id != id);
            return Ok(floating);
        };
        let had = at.and_then(|at| self.forwards.get(at));
        let forward = PortForwarding::of(id, &fields, had)?;
        match at.and_then(|at| floating.forwards.get_mut(at)) {
            Some(there) => *there = forward,
            None => floating.forwards.push(forward),
        }
        Ok(floating)
    }
}

pub(super) fn bad(text: impl std::fmt::Display) -> Refusal {
    Refusal::invalid("BadRequest", format!("Bad floatingip request: {text}."))
}

impl FloatingIp {
    /// The same, once a port is gone or has lost addresses: it leads there no more.
    fn without(&self, is_left: impl Fn(Uuid, IpAddr) -> bool) -> Self {
        let mut floating = self.clone();
        if let (Some(port), Some(address)) = (self.port_id, self.fixed_ip_address)
            && !is_left(port, address)
        {
            floating.port_id = None;
            floating.fixed_ip_address = None;
        }
        floating
            .forwards
            .retain(|forward| is_left(forward.internal_port_id, forward.internal_ip_address));
        if floating.port_id.is_none() && floating.forwards.is_empty() {
            floating.router_id = None;
        }
        floating
    }
}

/// What a port that goes or loses addresses means to the floating IPs that lead to it.
pub fn follow(view: &View, before: &Port, after: Option<&Port>) -> Vec<Write> {
    let id = before.meta.id;
    let had = before.fixed_ips.iter().map(|fixed| fixed.ip_address);
    let has = |address: IpAddr| {
        let mut has = after.iter().flat_map(|port| &port.fixed_ips);
        has.any(|fixed| fixed.ip_address == address)
    };
    if after.is_some() && had.into_iter().all(has) {
        return Vec::new();
    }
    let whole = view.related::<FloatingIp>("port_id", id);
    let parts = view.related::<FloatingIp>("forwarded_to", id);
    let mut writes = Vec::new();
    for floating in whole.into_iter().chain(parts) {
        let left = floating.without(|port, address| port != id || has(address));
        if left != *floating {
            writes.push(Write::put(left));
        }
    }
    writes
}

/// Does a floating IP lead through this router to an address of this block?
pub fn leads_through(view: &View, router: Uuid, subnet: &Subnet) -> bool {
    let floating = view.related::<FloatingIp>("router_id", router);
    floating.iter().any(|floating| {
        let forwards = floating.forwards.iter().map(|f| f.internal_ip_address);
        let mut all = floating.fixed_ip_address.into_iter().chain(forwards);
        all.any(|address| subnet.cidr.contains(address))
    })
}

/// The floating IPs of a network that nobody uses, and the ports that hold them: they go with it.
pub fn unused_on(view: &View, network: Uuid) -> (Vec<Uuid>, Vec<Uuid>) {
    let all = view.related::<FloatingIp>("floating_network_id", network);
    let unused = |floating: &&Arc<FloatingIp>| floating.router_id.is_none();
    let unused: Vec<_> = all.iter().filter(unused).collect();
    let holders = unused.iter().filter_map(|floating| floating.holder);
    let ids = unused.iter().map(|floating| floating.meta.id);
    (ids.collect(), holders.collect())
}

/// A new one gets its address, and a port that holds it.
fn address(view: &View, change: &Change<'_, FloatingIp>, caller: &Caller) -> Judged {
    let Some(after) = change.made() else {
        return Ok(Vec::new());
    };
    let network = network::visible(view, after.floating_network_id, caller)?;
    let id = network.meta.id;
    if !network.external {
        return Err(bad(format_args!(
            "Network {id} is not a valid external network"
        )));
    }
    if after
        .floating_ip_address
        .is_some_and(|address| !address.is_ipv4())
    {
        return Err(bad("floating IPs are of IPv4"));
    }
    let mut subnets = view.related::<Subnet>("network_id", id);
    subnets.sort_by_key(|subnet| (subnet.meta.created_at, subnet.meta.id));
    if let Some(wanted) = after.subnet_id {
        if view.object::<Subnet>(wanted).is_none() {
            return Err(Refusal::missing("Subnet", wanted));
        }
        subnets.retain(|subnet| subnet.meta.id == wanted);
        if subnets.is_empty() {
            return Err(Refusal::input(format_args!(
                "Failed to create port on network {id}, because fixed_ips included invalid subnet {wanted}"
            )));
        }
    }
    subnets.retain(|subnet| subnet.cidr.is_ipv4());
    if subnets.is_empty() {
        return Err(bad(format_args!(
            "Network {id} does not contain any IPv4 subnet"
        )));
    }
    if after.subnet_id.is_none() && after.floating_ip_address.is_none() {
        subnets = for_owner(&subnets, FLOATING_OWNER, id)?;
    }
    let (subnet, chosen, floor) = choose(view, &subnets, after.floating_ip_address, id)?;
    let holder = change.moment.dice.uuid();
    let wanted = WantedIp {
        subnet_id: Some(subnet),
        ip_address: Some(chosen),
    };
    let mut port = Port::new(Meta::new(holder, "", ""), id, vec![wanted]);
    FLOATING_OWNER.clone_into(&mut port.device_owner);
    port.device_id = after.meta.id.to_string();
    let floor = floor.map(|floor| Write::Record(floor_key(subnet), Arc::new(floor)));
    let mut writes: Vec<Write> = floor.into_iter().collect();
    writes.push(Write::put(port));
    writes.push(Write::amend(FloatingIp {
        floating_ip_address: Some(chosen),
        holder: Some(holder),
        subnet_id: None,
        ..after.clone()
    }));
    Ok(writes)
}

/// A subnet, an address of it, and the subnet's new floor if the address is the lowest that is free.
type Choice = (Uuid, IpAddr, Option<u128>);

fn choose(
    view: &View,
    subnets: &[Arc<Subnet>],
    asked: Option<IpAddr>,
    network: Uuid,
) -> Result<Choice, Refusal> {
    if let Some(asked) = asked {
        let subnet = subnets.iter().find(|subnet| subnet.cidr.contains(asked));
        let subnet = subnet.ok_or_else(|| {
            Refusal::invalid(
                "InvalidIpForNetwork",
                format!(
                    "IP address {asked} is not a valid IP for any of the subnets on the specified network."
                ),
            )
        })?;
        if subnet.gateway_ip == Some(asked) {
            return Err(bad(format_args!(
                "{asked} is the gateway of subnet {} of network {network}",
                subnet.meta.id
            )));
        }
        return Ok((subnet.meta.id, asked, None));
    }
    let mut full = None;
    for subnet in subnets {
        match lowest_free(view, subnet, &[]) {
            Ok((address, floor)) => return Ok((subnet.meta.id, address, Some(floor))),
            Err(refusal) => full = Some(refusal),
        }
    }
    match full {
        Some(refusal) => Err(refusal),
        None => unreachable!("there is a subnet"),
    }
}

/// Its QoS policy is one that the caller may use.
fn quality(view: &View, change: &Change<'_, FloatingIp>, caller: &Caller) -> Judged {
    if let Some(after) = change.after {
        let before = change.before.and_then(|before| before.qos_policy_id);
        let ids = (before, after.qos_policy_id);
        let rule = FloatingIp::SPEC.rule(change.verb);
        qos_policy::exchange(view, ids, &rule, caller)?;
    }
    Ok(Vec::new())
}

fn removal(_: &View, change: &Change<'_, FloatingIp>, _: &Caller) -> Judged {
    let Some(before) = change.removed() else {
        return Ok(Vec::new());
    };
    if !before.forwards.is_empty() {
        return Err(forwarding::in_use(before.meta.id));
    }
    let holder = before.holder.map(|port| Write::Remove(Port::SPEC, port));
    Ok(holder.into_iter().collect())
}
