//! Whose is a floating IP?

use super::{FloatingIp, bad, forwarding};
use crate::{
    refusal::Refusal,
    resource::{Claim, Objects, Verb},
    resources::{Port, Router, Subnet, router::router_of},
    rules::{Caller, Change, Given, Judged, Write, addresses::holder},
    store::{Read, View},
};
use std::{net::IpAddr, sync::Arc};
use uuid::Uuid;

/// Who holds it is the floating IP of a port's address on an external network.
fn key(port: Uuid, address: IpAddr, network: Uuid) -> String {
    format!("fipport/{port}/{address}/{network}")
}

/// The key of what it is to whom.
fn own_key(floating: &FloatingIp) -> Option<String> {
    let (port, address) = (floating.port_id?, floating.fixed_ip_address?);
    Some(key(port, address, floating.floating_network_id))
}

/// The floating IP of a port's address on an external network.
pub(super) fn of(view: &View, port: Uuid, address: IpAddr, network: Uuid) -> Option<Uuid> {
    let claim = view.get::<Claim>(&key(port, address, network));
    claim.map(|claim| claim.holder)
}

/// Gives it to the port that a request names, or to nobody.
pub(super) fn associate(view: &View, change: &Change<'_, FloatingIp>, caller: &Caller) -> Judged {
    let Some(after) = change.after.filter(|_| change.is_asked()) else {
        return Ok(Vec::new());
    };
    let update = change.verb == Verb::Update;
    let of_parts = change
        .before
        .is_some_and(|before| before.forwards != after.forwards);
    // An update that says nothing takes it from its port, as ever in Neutron.
    let blank = update && !of_parts && change.given.is_some_and(Given::is_empty);
    let address = after
        .fixed_ip_address
        .filter(|_| change.names("fixed_ip_address"));
    let port = after.port_id.filter(|_| change.names("port_id"));
    let Some(port) = port else {
        if address.is_some() {
            return Err(bad(
                "fixed_ip_address cannot be specified without a port_id",
            ));
        }
        if update && !blank && !change.names("port_id") {
            return Ok(Vec::new());
        }
        return Ok(vec![Write::amend(FloatingIp {
            port_id: None,
            fixed_ip_address: None,
            router_id: after.router_id.filter(|_| !after.forwards.is_empty()),
            ..after.clone()
        })]);
    };
    if !after.forwards.is_empty() {
        return Err(forwarding::in_use(after.meta.id));
    }
    let port = own_port(view, port, caller)?;
    let address = meant(&port, address)?;
    if forwarding::leads_to(view, port.meta.id, address, after.floating_network_id) {
        return Err(Refusal::conflict(
            "PortHasPortForwarding",
            format!(
                "Cannot associate floating IP {} with port {} using fixed IP {address}, as that fixed IP already has a port forwarding.",
                after.meta.id, port.meta.id
            ),
        ));
    }
    let router = router_for(view, &port, address, after.floating_network_id)?;
    Ok(vec![Write::amend(FloatingIp {
        port_id: Some(port.meta.id),
        fixed_ip_address: Some(address),
        router_id: Some(router),
        ..after.clone()
    })])
}

/// The caller's port of this id.
pub(super) fn own_port(view: &View, id: Uuid, caller: &Caller) -> Result<Arc<Port>, Refusal> {
    let port = view.object::<Port>(id);
    let port = port.filter(|port| caller.owns(&port.meta.project_id));
    port.ok_or_else(|| Refusal::missing("Port", id))
}

/// Which of a port's addresses is meant.
fn meant(port: &Port, asked: Option<IpAddr>) -> Result<IpAddr, Refusal> {
    let id = port.meta.id;
    let all = port.fixed_ips.iter().map(|fixed| fixed.ip_address);
    let mut v4 = all.filter(IpAddr::is_ipv4);
    if let Some(asked) = asked {
        let found = v4.find(|address| *address == asked);
        return found.ok_or_else(|| bad(format_args!("Port {id} does not have fixed ip {asked}")));
    }
    match (v4.next(), v4.next()) {
        (Some(only), None) => Ok(only),
        (None, _) => Err(bad(format_args!(
            "Cannot add floating IP to port {id} that has no fixed IPv4 addresses"
        ))),
        (Some(_), Some(_)) => Err(bad(format_args!(
            "Port {id} has multiple fixed IPv4 addresses.  Must provide a specific IPv4 address when assigning a floating IP"
        ))),
    }
}

/// The router by which an address of a port is reached from an external network: the subnet's gateway before others.
pub(super) fn router_for(
    view: &View,
    port: &Port,
    address: IpAddr,
    network: Uuid,
) -> Result<Uuid, Refusal> {
    let fixed = port.fixed_ips.iter().find(|ip| ip.ip_address == address);
    let subnet = fixed.map(|fixed| fixed.subnet_id).unwrap_or_default();
    let leaves = |interface: &Port| {
        let there = interface.fixed_ips.iter().any(|ip| ip.subnet_id == subnet);
        let router = router_of(interface).filter(|_| there)?;
        let router = view.object::<Router>(router)?;
        let gateway = router.gateway.filter(|way| way.network_id == network);
        gateway.map(|_| router.meta.id)
    };
    let gateway = view.object::<Subnet>(subnet).and_then(|s| s.gateway_ip);
    let gateway = gateway.and_then(|gateway| holder(view, subnet, gateway));
    let gateway = gateway.and_then(|port| view.object::<Port>(port));
    if let Some(router) = gateway.and_then(|port| leaves(&port)) {
        return Ok(router);
    }
    let ports = view.related::<Port>("network_id", port.network_id);
    let first = ports.iter().filter_map(|port| leaves(port)).min();
    first.ok_or_else(|| {
        Refusal::no_such(
            "ExternalGatewayForFloatingIPNotFound",
            format!(
                "External network {network} is not reachable from subnet {subnet}.  Therefore, cannot associate Port {} with a Floating IP.",
                port.meta.id
            ),
        )
    })
}

/// Claims whom it leads to, and frees whom it led to.
pub(super) fn hold(view: &View, change: &Change<'_, FloatingIp>, _: &Caller) -> Judged {
    let (old, new) = (
        change.before.and_then(own_key),
        change.after.and_then(own_key),
    );
    if old == new {
        return Ok(Vec::new());
    }
    let mut writes: Vec<Write> = old.map(Write::Release).into_iter().collect();
    if let (Some(after), Some(key)) = (change.after, new) {
        let taken = view.get::<Claim>(&key);
        if taken.is_some_and(|claim| claim.holder != after.meta.id) {
            let text = |id: Option<String>| id.unwrap_or_default();
            return Err(Refusal::conflict(
                "FloatingIPPortAlreadyAssociated",
                format!(
                    "Cannot associate floating IP {} ({}) with port {} using fixed IP {}, as that fixed IP already has a floating IP on external network {}.",
                    text(after.floating_ip_address.map(|ip| ip.to_string())),
                    after.meta.id,
                    text(after.port_id.map(|id| id.to_string())),
                    text(after.fixed_ip_address.map(|ip| ip.to_string())),
                    after.floating_network_id,
                ),
            ));
        }
        writes.push(Write::Claim(key, after.meta.id));
    }
    Ok(writes)
}
