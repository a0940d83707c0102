//! Which routes may a router have besides those to its subnets?

use super::{Router, interfaces};
use crate::{
    refusal::Refusal,
    resources::subnet::HostRoute,
    rules::{Acted, Caller, Change, Deed, Judged},
    store::View,
};
use net::Prefix;
use serde_json::{Map, Value};
use std::net::IpAddr;

/// How many (Neutron's default): each is looked at for every new flow that no longer prefix takes.
const MOST: usize = 30;

/// Every next hop is a neighbour, and none is the router itself.
pub(super) fn reachable(view: &View, change: &Change<'_, Router>, _: &Caller) -> Judged {
    let Some(after) = change.after else {
        return Ok(Vec::new());
    };
    if after.routes.is_empty() || change.before.is_some_and(|had| had.routes == after.routes) {
        return Ok(Vec::new());
    }
    if after.routes.len() > MOST {
        return Err(Refusal::invalid(
            "RoutesExhausted",
            format!(
                "Unable to complete operation for {}. The number of routes exceeds the maximum {MOST}.",
                after.meta.id
            ),
        ));
    }
    let (subnets, own) = interfaces::reach(view, after);
    for route in &after.routes {
        let HostRoute {
            destination,
            nexthop,
        } = route;
        let wrong = |what: &str| {
            Refusal::invalid(
                "InvalidRoutes",
                format!("Invalid format for routes: {destination} via {nexthop}, {what}"),
            )
        };
        if destination.is_ipv4() != nexthop.is_ipv4() {
            return Err(wrong("the nexthop is of another family"));
        }
        if is_martian(*destination) {
            return Err(wrong("no router forwards to such a destination"));
        }
        if !subnets.iter().any(|subnet| subnet.cidr.contains(*nexthop)) {
            return Err(wrong("the nexthop is not connected with router"));
        }
        if own.contains(nexthop) {
            return Err(wrong("the nexthop is used by router"));
        }
    }
    Ok(Vec::new())
}

/// Is all of the block what no router forwards to: link-local, multicast, loopback, "this" network?
fn is_martian(block: Prefix) -> bool {
    match block.addr() {
        IpAddr::V4(first) => {
            let alone = first.is_broadcast();
            let [this, ..] = first.octets();
            (alone && block.bits() == 32)
                || (block.bits() >= 8 && (this == 0 || first.is_loopback()))
                || (block.bits() >= 16 && first.is_link_local())
                || (block.bits() >= 4 && first.is_multicast())
        }
        IpAddr::V6(first) => {
            let alone = first.is_unspecified() || first.is_loopback();
            (alone && block.bits() == 128)
                || (block.bits() >= 10 && first.is_unicast_link_local())
                || (block.bits() >= 8 && first.is_multicast())
        }
    }
}

fn given(arguments: &Map<String, Value>) -> Result<Vec<HostRoute>, Refusal> {
    let routes = arguments.get("routes").cloned().unwrap_or_default();
    serde_json::from_value(routes).map_err(|error| Refusal::attribute("routes", error))
}

fn with(deed: &Deed<'_, Router>, routes: Vec<HostRoute>) -> Acted<Router> {
    let object = Router {
        routes,
        ..deed.object.clone()
    };
    Acted {
        object,
        writes: Vec::new(),
        reply: Map::new(),
    }
}

/// Those that it has already stay as they are.
pub(super) fn add(_: &View, deed: &Deed<'_, Router>, _: &Caller) -> Result<Acted<Router>, Refusal> {
    let mut routes = deed.object.routes.clone();
    for route in given(deed.arguments)? {
        if !routes.contains(&route) {
            routes.push(route);
        }
    }
    Ok(with(deed, routes))
}

/// Those that it has not are gone already.
pub(super) fn remove(
    _: &View,
    deed: &Deed<'_, Router>,
    _: &Caller,
) -> Result<Acted<Router>, Refusal> {
    let gone = given(deed.arguments)?;
    let mut routes = deed.object.routes.clone();
    routes.retain(|route| !gone.contains(route));
    Ok(with(deed, routes))
}
