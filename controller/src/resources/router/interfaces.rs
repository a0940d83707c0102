//! Where is a router attached?
//!
//! An interface is a port with one IPv4 address, or with an address of each IPv6 subnet of its network
//! that the router was attached to: those share one port. Its addresses are the subnets' gateways unless
//! a port was brought along.

use super::{OWNERS, Router, bad, gateway};
use crate::{
    refusal::Refusal,
    resource::{Claim, Meta, Objects, Resource},
    resources::{
        Network, Port, Subnet, address_scope, floating_ip,
        port::{FixedIp, WantedIp},
    },
    rules::{Acted, Caller, Deed, Write, usable},
    store::{Read, View},
};
use serde::Deserialize;
use serde_json::{Map, Value, json};
use std::{
    collections::{BTreeSet, HashSet},
    net::IpAddr,
    sync::Arc,
};
use uuid::Uuid;

fn prefix(router: Uuid) -> String {
    format!("iface/{router}/")
}

fn key(router: Uuid, subnet: Uuid) -> String {
    format!("iface/{router}/{subnet}")
}

/// The subnets that a router is attached to, each with the port that it is by.
pub(super) fn attached(view: &View, router: Uuid) -> Vec<(Uuid, Uuid)> {
    let prefix = prefix(router);
    let claims = view.scan(&prefix);
    claims
        .filter_map(|(key, entry)| {
            let subnet = key.rsplit('/').next()?.parse().ok()?;
            Some((subnet, entry.peek::<Claim>()?.holder))
        })
        .collect()
}

/// The ports of a router's interfaces.
pub(super) fn ports(view: &View, router: Uuid) -> Vec<Arc<Port>> {
    let ids: BTreeSet<Uuid> = attached(view, router)
        .into_iter()
        .map(|(_, port)| port)
        .collect();
    ids.into_iter().filter_map(|id| view.object(id)).collect()
}

/// The subnets that a router is attached to or leaves by, and its own addresses there.
pub(super) fn reach(view: &View, router: &Router) -> (Vec<Arc<Subnet>>, HashSet<IpAddr>) {
    let mut subnets = subnets(view, router.meta.id);
    subnets.extend(gateway::subnets(view, router));
    let mut ports = ports(view, router.meta.id);
    let outside = router.gateway.map(|gateway| gateway.port_id);
    ports.extend(outside.and_then(|port| view.object(port)));
    let own = ports
        .iter()
        .flat_map(|port| port.fixed_ips.iter().map(|fixed| fixed.ip_address));
    (subnets, own.collect())
}

/// The subnets that a router is attached to.
pub fn subnets(view: &View, router: Uuid) -> Vec<Arc<Subnet>> {
    let attached = attached(view, router).into_iter();
    attached
        .filter_map(|(subnet, _)| view.object(subnet))
        .collect()
}

/// The routers with an interface on one of these networks.
pub fn on_networks(view: &View, networks: impl IntoIterator<Item = Uuid>) -> BTreeSet<Uuid> {
    let ports = networks
        .into_iter()
        .flat_map(|network| view.related::<Port>("network_id", network));
    let interfaces = ports.filter(|port| is_interface(view, port));
    interfaces.filter_map(|port| router_of(&port)).collect()
}

/// The router that a port says that it belongs to.
pub fn router_of(port: &Port) -> Option<Uuid> {
    let owned = OWNERS.contains(&port.device_owner.as_str());
    owned.then(|| port.device_id.parse().ok()).flatten()
}

/// Is the port an interface of a router?
pub fn is_interface(view: &View, port: &Port) -> bool {
    let Some(router) = router_of(port) else {
        return false;
    };
    port.fixed_ips.iter().any(|fixed| {
        let claim = view.get::<Claim>(&key(router, fixed.subnet_id));
        claim.is_some_and(|claim| claim.holder == port.meta.id)
    })
}

/// What an interface is added or removed by.
#[derive(Debug, Clone, Copy, Deserialize)]
struct Wanted {
    #[serde(default)]
    subnet_id: Option<Uuid>,
    #[serde(default)]
    port_id: Option<Uuid>,
}

impl Wanted {
    fn of(arguments: &Map<String, Value>) -> Result<Self, Refusal> {
        let wanted = serde_json::from_value(Value::Object(arguments.clone()));
        let wanted: Self = wanted.map_err(bad)?;
        if wanted.subnet_id.is_none() && wanted.port_id.is_none() {
            return Err(bad("Either subnet_id or port_id must be specified"));
        }
        Ok(wanted)
    }
}

/// The subnet of this id, if the caller may use it.
fn visible_subnet(view: &View, id: Uuid, caller: &Caller) -> Result<Arc<Subnet>, Refusal> {
    view.object::<Subnet>(id)
        .filter(|subnet| usable(view, &**subnet, caller))
        .ok_or_else(|| Refusal::missing("Subnet", id))
}

/// Who sees a subnet because its network leads outside may not put a router there.
fn open(view: &View, subnet: &Subnet, caller: &Caller) -> Result<(), Refusal> {
    let network = view.object::<Network>(subnet.network_id);
    let open = network.is_some_and(|network| {
        caller.owns(&network.meta.project_id) || network.is_open_to(view, &caller.project_id)
    });
    if open {
        return Ok(());
    }
    Err(bad(format_args!(
        "Subnet {} is neither the caller's nor shared with its project",
        subnet.meta.id
    )))
}

/// The answer, and another revision of the router.
fn acted(
    router: &Router,
    port: &Port,
    subnets: &[Uuid],
    first: Option<&Uuid>,
    mut writes: Vec<Write>,
) -> Acted<Router> {
    let reply = json!({
        "id": router.meta.id,
        "project_id": router.meta.project_id,
        "port_id": port.meta.id,
        "network_id": port.network_id,
        "subnet_id": first,
        "subnet_ids": subnets,
    });
    writes.push(Write::Touch(Router::SPEC, router.meta.id));
    Acted {
        object: router.clone(),
        writes,
        reply: reply.as_object().cloned().unwrap_or_default(),
    }
}

pub(super) fn add(
    view: &View,
    deed: &Deed<'_, Router>,
    caller: &Caller,
) -> Result<Acted<Router>, Refusal> {
    let router = deed.object;
    match Wanted::of(deed.arguments)? {
        Wanted {
            subnet_id: Some(_),
            port_id: Some(_),
        } => Err(bad("Cannot specify both subnet-id and port-id")),
        Wanted {
            port_id: Some(port),
            ..
        } => add_port(view, router, port, caller),
        Wanted {
            subnet_id: Some(subnet),
            ..
        } => {
            let subnet = visible_subnet(view, subnet, caller)?;
            open(view, &subnet, caller)?;
            add_subnet(view, deed, &subnet)
        }
        Wanted { .. } => unreachable!("one of the two is there"),
    }
}

/// By the gateway's address of a subnet.
fn add_subnet(
    view: &View,
    deed: &Deed<'_, Router>,
    subnet: &Arc<Subnet>,
) -> Result<Acted<Router>, Refusal> {
    let router = deed.object;
    let id = subnet.meta.id;
    let Some(ip_address) = subnet.gateway_ip else {
        return Err(bad("Subnet for router interface must have a gateway IP"));
    };
    if subnet.ipv6_address_mode.is_some() && subnet.ipv6_ra_mode.is_none() {
        return Err(bad(format_args!(
            "IPv6 subnet {id} configured to receive RAs from an external router cannot be added to Neutron Router"
        )));
    }
    admit(view, router, std::slice::from_ref(subnet))?;
    let shared = ports(view, router.meta.id).into_iter().find(|port| {
        !subnet.cidr.is_ipv4() && port.network_id == subnet.network_id && has_ipv6(port)
    });
    let port = if let Some(port) = shared {
        let mut port = Port::clone(&port);
        port.fixed_ips.push(FixedIp {
            subnet_id: id,
            ip_address,
        });
        port
    } else {
        let meta = Meta::new(deed.moment.dice.uuid(), &router.meta.project_id, "");
        let wanted = WantedIp {
            subnet_id: Some(id),
            ip_address: Some(ip_address),
        };
        let mut port = Port::new(meta, subnet.network_id, vec![wanted]);
        router.owner().clone_into(&mut port.device_owner);
        port.device_id = router.meta.id.to_string();
        port
    };
    let writes = vec![
        Write::Claim(key(router.meta.id, id), port.meta.id),
        Write::put(port.clone()),
    ];
    Ok(acted(router, &port, &[id], Some(&id), writes))
}

/// By a port that is nobody's yet, with the addresses that it has.
fn add_port(
    view: &View,
    router: &Router,
    id: Uuid,
    caller: &Caller,
) -> Result<Acted<Router>, Refusal> {
    let port = view.object::<Port>(id);
    let port = port.filter(|port| caller.owns(&port.meta.project_id));
    let port = port.ok_or_else(|| Refusal::missing("Port", id))?;
    // Neutron looks at the device alone: what is bound to a host and is nobody's yet becomes the router's.
    if !port.device_id.is_empty() || !port.device_owner.is_empty() {
        return Err(Refusal::conflict(
            "PortInUse",
            format!(
                "Unable to complete operation on port {id} for network {}. Port already has an attached device {}.",
                port.network_id, port.device_id
            ),
        ));
    }
    let mut subnets: Vec<Arc<Subnet>> = Vec::new();
    for fixed in &port.fixed_ips {
        if !subnets.iter().any(|had| had.meta.id == fixed.subnet_id) {
            subnets.extend(view.object::<Subnet>(fixed.subnet_id));
        }
    }
    if subnets.is_empty() {
        return Err(bad("Router port must have at least one fixed IP"));
    }
    let v4 = port.fixed_ips.iter().filter(|ip| ip.ip_address.is_ipv4());
    if v4.count() > 1 {
        return Err(bad("Cannot have multiple IPv4 subnets on router port"));
    }
    let other = ports(view, router.meta.id)
        .into_iter()
        .find(|other| other.network_id == port.network_id && has_ipv6(other));
    if let Some(other) = other.filter(|_| has_ipv6(&port)) {
        return Err(bad(format_args!(
            "Router already contains IPv6 port {} belonging to network id {}. Only one IPv6 port from the same network subnet can be connected to a router",
            other.meta.id, port.network_id
        )));
    }
    admit(view, router, &subnets)?;
    let mut port = Port::clone(&port);
    port.device_id = router.meta.id.to_string();
    router.owner().clone_into(&mut port.device_owner);
    let ids: Vec<Uuid> = subnets.iter().map(|subnet| subnet.meta.id).collect();
    let mut writes: Vec<Write> = ids
        .iter()
        .map(|subnet| Write::Claim(key(router.meta.id, *subnet), id))
        .collect();
    writes.push(Write::put(port.clone()));
    Ok(acted(router, &port, &ids, ids.last(), writes))
}

fn has_ipv6(port: &Port) -> bool {
    port.fixed_ips.iter().any(|ip| ip.ip_address.is_ipv6())
}

/// May the router be attached to these subnets, besides those that it is attached to and leaves by?
fn admit(view: &View, router: &Router, new: &[Arc<Subnet>]) -> Result<(), Refusal> {
    apart(view, router.meta.id, new)?;
    for (id, _) in attached(view, router.meta.id) {
        let Some(other) = view.object::<Subnet>(id) else {
            continue;
        };
        // Nothing is routed between scopes (but by NAT), and so nothing is joined that could not talk.
        let scope = address_scope::of_subnet(view, &other);
        let apart = new.iter().find(|subnet| {
            subnet.ip_version == other.ip_version && address_scope::of_subnet(view, subnet) != scope
        });
        if let Some(subnet) = apart {
            return Err(bad(format_args!(
                "Subnet {} and subnet {id}, which the router is attached to, are not of the same address scope",
                subnet.meta.id
            )));
        }
    }
    for outside in gateway::subnets(view, router) {
        if let Some(subnet) = new.iter().find(|subnet| subnet.cidr.overlaps(outside.cidr)) {
            return Err(overlap(subnet, &outside));
        }
    }
    Ok(())
}

fn overlap(new: &Subnet, other: &Subnet) -> Refusal {
    bad(format_args!(
        "Cidr {} of subnet {} overlaps with cidr {} of subnet {}",
        new.cidr, new.meta.id, other.cidr, other.meta.id
    ))
}

/// Are these subnets apart from those that the router is attached to?
///
/// # Errors
/// That it is on one of them already, or on one that overlaps.
pub fn apart(view: &View, router: Uuid, new: &[Arc<Subnet>]) -> Result<(), Refusal> {
    for (id, _) in attached(view, router) {
        if new.iter().any(|subnet| subnet.meta.id == id) {
            return Err(bad(format_args!(
                "Router already has a port on subnet {id}"
            )));
        }
        let Some(other) = view.object::<Subnet>(id) else {
            continue;
        };
        if let Some(subnet) = new.iter().find(|subnet| subnet.cidr.overlaps(other.cidr)) {
            return Err(overlap(subnet, &other));
        }
    }
    Ok(())
}

pub(super) fn remove(
    view: &View,
    deed: &Deed<'_, Router>,
    caller: &Caller,
) -> Result<Acted<Router>, Refusal> {
    let router = deed.object;
    let id = router.meta.id;
    let wanted = Wanted::of(deed.arguments)?;
    let held = attached(view, id);
    let holder = match wanted {
        Wanted {
            port_id: Some(port),
            subnet_id,
        } => {
            if !held.iter().any(|(_, holder)| *holder == port) {
                return Err(Refusal::no_such(
                    "RouterInterfaceNotFound",
                    format!("Router {id} does not have an interface with id {port}"),
                ));
            }
            if let Some(subnet) = subnet_id
                && !held.contains(&(subnet, port))
            {
                return Err(Refusal::invalid(
                    "SubnetMismatchForPort",
                    format!("Subnet on port {port} does not match the requested subnet {subnet}."),
                ));
            }
            port
        }
        Wanted {
            subnet_id: Some(subnet),
            ..
        } => {
            visible_subnet(view, subnet, caller)?;
            let holder = held.iter().find(|(held, _)| *held == subnet);
            let (_, port) = holder.ok_or_else(|| {
                Refusal::no_such(
                    "RouterInterfaceNotFoundForSubnet",
                    format!("Router {id} has no interface on subnet {subnet}"),
                )
            })?;
            *port
        }
        Wanted { .. } => unreachable!("one of the two is there"),
    };
    let port = view.object::<Port>(holder);
    let port = port.ok_or_else(|| Refusal::missing("Port", holder))?;
    let subnets: Vec<Uuid> = held
        .iter()
        .filter(|(_, port)| *port == holder)
        .map(|(subnet, _)| *subnet)
        .collect();
    // Of several prefixes that share a port, one alone goes, and the port stays.
    let one = wanted.subnet_id.filter(|subnet| {
        let v6 = view.object::<Subnet>(*subnet);
        wanted.port_id.is_none()
            && subnets.len() > 1
            && v6.is_some_and(|subnet| !subnet.cidr.is_ipv4())
    });
    let gone = one.map_or(subnets, |subnet| vec![subnet]);
    unrouted(view, router, &gone)?;
    unfloated(view, router, &gone)?;
    let mut writes: Vec<Write> = gone
        .iter()
        .map(|subnet| Write::Release(key(id, *subnet)))
        .collect();
    writes.push(match one {
        Some(subnet) => {
            let mut port = Port::clone(&port);
            port.fixed_ips.retain(|fixed| fixed.subnet_id != subnet);
            Write::put(port)
        }
        None => Write::Remove(Port::SPEC, holder),
    });
    Ok(acted(router, &port, &gone, gone.first(), writes))
}

/// No floating IP may lead through what goes.
fn unfloated(view: &View, router: &Router, gone: &[Uuid]) -> Result<(), Refusal> {
    for id in gone {
        let subnet = view.object::<Subnet>(*id);
        if subnet.is_some_and(|subnet| floating_ip::leads_through(view, router.meta.id, &subnet)) {
            return Err(Refusal::conflict(
                "RouterInterfaceInUseByFloatingIP",
                format!(
                    "Router interface for subnet {id} on router {} cannot be deleted, as it is required by one or more floating IPs.",
                    router.meta.id
                ),
            ));
        }
    }
    Ok(())
}

/// No route may need what goes.
fn unrouted(view: &View, router: &Router, gone: &[Uuid]) -> Result<(), Refusal> {
    for id in gone {
        let Some(subnet) = view.object::<Subnet>(*id) else {
            continue;
        };
        let mut hops = router.routes.iter().map(|route| route.nexthop);
        if hops.any(|hop| subnet.cidr.contains(hop)) {
            return Err(Refusal::conflict(
                "RouterInterfaceInUseByRoute",
                format!(
                    "Router interface for subnet {id} on router {} cannot be deleted, as it is required by one or more routes.",
                    router.meta.id
                ),
            ));
        }
    }
    Ok(())
}
