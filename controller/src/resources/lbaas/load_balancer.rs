//! Which address is balanced?
//!
//! A load balancer holds one virtual address: a port of its own on a subnet of the caller's, or one that the caller made.

use super::{
    Listener, PROVIDER, Pool, again, health_monitor::of_balancer, ids_of, invalid, list_shape,
    named, nothing, object_shape, provisioning, proxy::proxied, stats,
};
use crate::{
    api::Scene,
    keys::Sealed,
    refusal::Refusal,
    resource::{
        ALL, Absent, Action, How, Kind, Meta, Objects, Operations, Ops, Policy, Reply, Resource,
        Spec, field,
    },
    resources::{
        Port, Subnet, network,
        port::{VIP_OWNER, WantedIp},
    },
    rules::{Caller, Change, Judged, Rule, Write},
    store::View,
};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::{collections::BTreeMap, net::IpAddr};
use uuid::Uuid;

/// A load balancer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LoadBalancer {
    /// What every object has.
    #[serde(flatten)]
    pub meta: Meta,
    /// The address that was asked for; the port says which it has.
    #[serde(default)]
    pub vip_address: Option<IpAddr>,
    /// The subnet that it is from.
    #[serde(default)]
    pub vip_subnet_id: Option<Uuid>,
    /// The network that it is on.
    #[serde(default)]
    pub vip_network_id: Option<Uuid>,
    /// The port that holds it.
    #[serde(default)]
    pub vip_port_id: Option<Uuid>,
    /// Does that port go with the load balancer?
    #[serde(default)]
    pub made_port: bool,
    /// Does it take connections?
    pub admin_state_up: bool,
    /// Who serves it.
    pub provider: String,
    /// The port behind which its proxy runs; none without listeners of HTTP.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub proxy_port_id: Option<Uuid>,
    /// What that proxy does; nothing while no such listener is up.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub proxy: Option<hostconfig::Proxy>,
    /// What its listeners that end TLS show, sealed for each; in the order of their references.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub certificates: BTreeMap<Uuid, Vec<Sealed>>,
}

static OPS: Ops<LoadBalancer> = Ops::new();

impl Resource for LoadBalancer {
    const SPEC: &'static Spec = &Spec {
        singular: "loadbalancer",
        plural: "loadbalancers",
        path: "lbaas/loadbalancers",
        storage: "loadbalancer",
        title: "LoadBalancer",
        doc: "A virtual address whose connections members serve.",
        verbs: ALL,
        policy: Policy::Anyone,
        quota: Some(("loadbalancer", 10)),
        tags: true,
        bare: false,
        fields: &[
            field("vip_address", Kind::Address, "The virtual address.")
                .create_only(Absent::Null)
                .or_null()
                .computed(),
            field("vip_subnet_id", Kind::Uuid, "The subnet of the address.")
                .create_only(Absent::Null)
                .or_null(),
            field("vip_network_id", Kind::Uuid, "The network of the address.")
                .create_only(Absent::Null)
                .or_null(),
            field(
                "vip_port_id",
                Kind::Uuid,
                "The port that holds the address.",
            )
            .create_only(Absent::Null)
            .or_null(),
            field("admin_state_up", Kind::Bool, "Does it take connections?")
                .writable(Absent::Bool(true)),
            field("provider", Kind::OneOf(&[PROVIDER]), "Who serves it.")
                .create_only(Absent::Text(PROVIDER)),
            field(
                "flavor_id",
                Kind::Shape(nothing),
                "None: there is one way to balance.",
            )
            .create_only(Absent::Null)
            .or_null()
            .computed()
            .unfiltered(),
            field(
                "availability_zone",
                Kind::Shape(nothing),
                "None: it is in each client's switch.",
            )
            .create_only(Absent::Null)
            .or_null()
            .computed()
            .unfiltered(),
            field(
                "vip_qos_policy_id",
                Kind::Shape(nothing),
                "None: what limits a client or a member is its own port's.",
            )
            .writable(Absent::Null)
            .or_null()
            .computed()
            .unfiltered(),
            field(
                "provisioning_status",
                Kind::Text(16),
                "ACTIVE, or ERROR if a switch refused it.",
            )
            .computed(),
            field(
                "operating_status",
                Kind::Text(16),
                "ONLINE or OFFLINE; DEGRADED or ERROR as the worst of its pools is.",
            )
            .computed(),
            field("listeners", Kind::Shape(list_shape), "Its listeners.")
                .computed()
                .unfiltered(),
            field("pools", Kind::Shape(list_shape), "Its pools.")
                .computed()
                .unfiltered(),
        ],
        actions: &[
            Action {
                name: "status",
                doc: "Show the status of a load balancer and of all below it.",
                rule: "get_loadbalancer_status",
                policy: Policy::Anyone,
                how: How::Look,
                wrapped: false,
                arguments: &[],
                reply: Reply::Fields(&[field(
                    "statuses",
                    Kind::Shape(list_shape),
                    "The load balancer, its listeners, their pools and members.",
                )
                .computed()]),
                success: 200,
            },
            Action {
                name: "stats",
                doc: "Show what passed its listeners.",
                rule: "get_loadbalancer_stats",
                policy: Policy::Anyone,
                how: How::Look,
                wrapped: false,
                arguments: &[],
                reply: Reply::Fields(&[field(
                    "stats",
                    Kind::Shape(object_shape),
                    "Connections and bytes, as the hosts said last.",
                )
                .computed()]),
                success: 200,
            },
        ],
        parts: &[],
        ops: &OPS as &dyn Operations,
    };
    const RULES: &'static [Rule<Self>] = &[placed, removed, followed, proxied];

    fn meta(&self) -> &Meta {
        &self.meta
    }

    fn meta_mut(&mut self) -> &mut Meta {
        &mut self.meta
    }

    fn derive(&self, field: &str, scene: &Scene<'_>) -> Value {
        let of = |storage| ids_of(scene, storage, "loadbalancer_id", self.meta.id);
        match field {
            "vip_address" => {
                let port = self.vip_port_id;
                let port = port.and_then(|id| scene.snapshot.object::<Port>(id));
                json!(port.and_then(|port| self.vip(&port)))
            }
            "provisioning_status" => json!(provisioning(scene, of("listener"))),
            "operating_status" => json!(of_balancer(scene, self)),
            "listeners" => named(of("listener")),
            "pools" => named(of("pool")),
            "stats" => stats(scene, of("listener")),
            "statuses" => json!({"loadbalancer": self.tree(scene)}),
            _ => Value::Null,
        }
    }
}

impl LoadBalancer {
    /// Its address, of those that its port has.
    pub(super) fn vip(&self, port: &Port) -> Option<IpAddr> {
        let mut addresses = port.fixed_ips.iter();
        let vip = addresses.find(|ip| Some(ip.subnet_id) == self.vip_subnet_id);
        vip.map(|ip| ip.ip_address)
    }

    fn tree(&self, scene: &Scene<'_>) -> Value {
        let listeners = scene
            .snapshot
            .related::<Listener>("loadbalancer_id", self.meta.id);
        let listeners: Vec<Value> = listeners
            .iter()
            .map(|listener| {
                let pools = listener.pools(scene);
                json!({
                    "id": listener.meta.id,
                    "name": listener.meta.name,
                    "provisioning_status": provisioning(scene, [listener.meta.id]),
                    "operating_status": listener.operating(scene),
                    "pools": pools.iter().map(|pool| pool.tree(scene)).collect::<Vec<_>>(),
                })
            })
            .collect();
        json!({
            "id": self.meta.id,
            "name": self.meta.name,
            "provisioning_status": self.derive("provisioning_status", scene),
            "operating_status": of_balancer(scene, self),
            "listeners": listeners,
        })
    }
}

/// The address is on a network that the caller may use, and has a port.
fn placed(view: &View, change: &Change<'_, LoadBalancer>, caller: &Caller) -> Judged {
    let Some(made) = change.made() else {
        return Ok(Vec::new());
    };
    let mut balancer = made.clone();
    let device_id = format!("lb-{}", made.meta.id);
    if let Some(id) = made.vip_port_id {
        let mut port = given_port(view, made, id, caller)?;
        let first = port.fixed_ips.first().copied();
        let first = first.ok_or_else(|| invalid(format_args!("port {id} has no address")))?;
        balancer.vip_subnet_id = Some(first.subnet_id);
        balancer.vip_network_id = Some(port.network_id);
        VIP_OWNER.clone_into(&mut port.device_owner);
        port.device_id = device_id;
        return Ok(vec![Write::amend(balancer), Write::put(port)]);
    }
    let subnet = subnet(view, made, caller)?;
    let id = change.moment.dice.uuid();
    let name = format!("octavia-lb-{}", made.meta.id);
    let wanted = WantedIp {
        subnet_id: Some(subnet.meta.id),
        ip_address: made.vip_address,
    };
    let meta = Meta::new(id, &made.meta.project_id, name);
    let mut port = Port::new(meta, subnet.network_id, vec![wanted]);
    VIP_OWNER.clone_into(&mut port.device_owner);
    port.device_id = device_id;
    balancer.vip_subnet_id = Some(subnet.meta.id);
    balancer.vip_network_id = Some(subnet.network_id);
    balancer.vip_port_id = Some(id);
    balancer.made_port = true;
    Ok(vec![Write::amend(balancer), Write::put(port)])
}

/// A port of the caller's that nobody uses, for the address.
fn given_port(
    view: &View,
    made: &LoadBalancer,
    id: Uuid,
    caller: &Caller,
) -> Result<Port, Refusal> {
    let port = view.object::<Port>(id);
    let port = port.filter(|port| caller.owns(&port.meta.project_id));
    let port = port.ok_or_else(|| invalid(format_args!("Port {id} not found.")))?;
    if !port.host.is_empty() || !port.device_id.is_empty() || !port.device_owner.is_empty() {
        return Err(Refusal::conflict(
            "ImmutableObject",
            format!("Port {id} is in use already."),
        ));
    }
    let fits = |address: IpAddr| port.fixed_ips.iter().any(|ip| ip.ip_address == address);
    if made.vip_address.is_some_and(|address| !fits(address)) {
        return Err(invalid(format_args!("vip_address is none of port {id}")));
    }
    Ok(Port::clone(&port))
}

/// The subnet of the address: the named one, or one of the named network that fits.
fn subnet(view: &View, made: &LoadBalancer, caller: &Caller) -> Result<Subnet, Refusal> {
    let rule = "create_loadbalancer";
    let of_network = |id: Uuid| made.vip_network_id.is_none_or(|wanted| wanted == id);
    if let Some(id) = made.vip_subnet_id {
        let missing = || invalid(format_args!("Subnet {id} not found."));
        let subnet = view.object::<Subnet>(id).ok_or_else(missing)?;
        network::open(view, subnet.network_id, caller, rule)
            .ok()
            .ok_or_else(missing)?;
        if !of_network(subnet.network_id) {
            return Err(invalid("vip_subnet_id is not of vip_network_id"));
        }
        return Ok(Subnet::clone(&subnet));
    }
    let Some(id) = made.vip_network_id else {
        return Err(invalid(
            "VIP must contain one of: vip_port_id, vip_network_id, vip_subnet_id.",
        ));
    };
    let open = network::open(view, id, caller, rule);
    let network = open.ok();
    let network = network.ok_or_else(|| invalid(format_args!("Network {id} not found.")))?;
    let mut subnets = view.related::<Subnet>("network_id", network.meta.id);
    subnets.retain(|subnet| made.vip_address.is_none_or(|vip| subnet.cidr.contains(vip)));
    subnets.sort_by_key(|subnet| !subnet.cidr.is_ipv4());
    let first = subnets.first();
    let first = first.ok_or_else(|| {
        invalid("Supplied network does not contain a subnet for the virtual address.")
    })?;
    Ok(Subnet::clone(first))
}

/// With children it goes only if these are to go too; its port goes, or is free again.
fn removed(view: &View, change: &Change<'_, LoadBalancer>, _: &Caller) -> Judged {
    let Some(gone) = change.removed() else {
        return Ok(Vec::new());
    };
    let id = gone.meta.id;
    let listeners = view.related::<Listener>("loadbalancer_id", id);
    let pools = view.related::<Pool>("loadbalancer_id", id);
    if !(change.names("cascade") || listeners.is_empty() && pools.is_empty()) {
        return Err(invalid(format_args!(
            "Cannot delete Load Balancer {id} - it has children"
        )));
    }
    let listeners = listeners.iter();
    let mut writes: Vec<Write> = listeners
        .map(|listener| Write::Remove(Listener::SPEC, listener.meta.id))
        .collect();
    writes.extend(
        pools
            .iter()
            .map(|pool| Write::Remove(Pool::SPEC, pool.meta.id)),
    );
    writes.extend(
        gone.proxy_port_id
            .map(|port| Write::Remove(Port::SPEC, port)),
    );
    match gone.vip_port_id {
        Some(port) if gone.made_port => writes.push(Write::Remove(Port::SPEC, port)),
        Some(port) => {
            if let Some(port) = view.object::<Port>(port) {
                let mut port = Port::clone(&port);
                port.device_owner.clear();
                port.device_id.clear();
                writes.push(Write::put(port));
            }
        }
        None => {}
    }
    Ok(writes)
}

/// What changes here changes what its listeners do.
#[expect(clippy::unnecessary_wraps, reason = "a rule's signature")]
fn followed(view: &View, change: &Change<'_, LoadBalancer>, _: &Caller) -> Judged {
    match (change.before, change.after) {
        (Some(before), Some(after)) if before.admin_state_up != after.admin_state_up => {
            Ok(again(view, "loadbalancer_id", after.meta.id))
        }
        _ => Ok(Vec::new()),
    }
}
