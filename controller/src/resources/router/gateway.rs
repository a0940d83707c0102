//! How does a router leave the fabric?
//!
//! By its gateway: a port of its own on an external network, owner [`GATEWAY_OWNER`], which belongs to no project, so that only an
//! admin sees it. Its addresses are the router's outside; its host, which the controller chooses, is the one that answers for them.

use super::{Router, bad, interfaces};
use crate::{
    refusal::Refusal,
    resource::{Meta, Objects, Resource},
    resources::{
        FloatingIp, Network, Port, Subnet, network,
        port::{GATEWAY_OWNER, WantedIp, fixed_ips_shape},
        qos_policy,
    },
    rules::{Caller, Change, Judged, Write},
    store::View,
};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use uuid::Uuid;

/// The way out that a router has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Gateway {
    /// The network that leads outside.
    pub network_id: Uuid,
    /// The router's port there.
    pub port_id: Uuid,
    /// Are sources hidden behind its address?
    pub enable_snat: bool,
    /// The QoS policy that limits what passes by it, instead of the network's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub qos_policy_id: Option<Uuid>,
}

/// The host that had a router's last way out, and may answer for it yet: one that is set anew has another port, perhaps with the same address.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Former {
    /// Its name.
    pub host: String,
    /// Did it know that another may have it?
    pub may_move: bool,
}

impl Former {
    /// Of a way out that is there still; `None`: it was nowhere.
    fn of(view: &View, had: Gateway) -> Option<Self> {
        let port = view.object::<Port>(had.port_id)?;
        let host = [&port.host, &port.left]
            .into_iter()
            .find(|host| !host.is_empty())?;
        Some(Self {
            host: host.clone(),
            may_move: port.may_move,
        })
    }
}

/// The way out, as a request asks for it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Wanted {
    /// The network that leads outside.
    pub network_id: Uuid,
    /// Are sources to be hidden? They are unless told otherwise.
    #[serde(default)]
    pub enable_snat: Option<bool>,
    /// The addresses; left out: those that it has, or one of each family.
    #[serde(default)]
    pub external_fixed_ips: Option<Vec<WantedIp>>,
    /// The QoS policy.
    #[serde(default, skip_serializing)]
    pub qos_policy_id: WantedPolicy,
}

/// What a request says of a way out's QoS policy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(from = "Option<Uuid>")]
pub enum WantedPolicy {
    /// Nothing: it stays what it is.
    #[default]
    Kept,
    /// It is to be this, or none.
    Is(Option<Uuid>),
}

impl From<Option<Uuid>> for WantedPolicy {
    fn from(id: Option<Uuid>) -> Self {
        Self::Is(id)
    }
}

/// An empty gateway is none, as Neutron takes it.
pub(super) fn shape(value: &Value) -> Result<Value, String> {
    let keys = value
        .as_object()
        .ok_or_else(|| format!("'{value}' is not a dictionary"))?;
    if keys.is_empty() {
        return Ok(Value::Null);
    }
    let known = [
        "network_id",
        "enable_snat",
        "external_fixed_ips",
        "qos_policy_id",
    ];
    if let Some(unknown) = keys.keys().find(|key| !known.contains(&key.as_str())) {
        return Err(format!("unknown key '{unknown}'"));
    }
    let id = keys.get("network_id").and_then(Value::as_str);
    let id = id.ok_or("Expected keys: ['network_id']")?;
    let id = id.parse::<Uuid>().ok();
    let id = id.ok_or_else(|| format!("'{value}' names no network by a UUID"))?;
    let mut shaped = Map::from_iter([("network_id".to_owned(), json!(id))]);
    if let Some(snat) = keys.get("enable_snat") {
        let snat = crate::resource::boolean(snat)
            .ok_or_else(|| format!("enable_snat: '{snat}' cannot be converted to boolean"))?;
        shaped.insert("enable_snat".to_owned(), json!(snat));
    }
    if let Some(fixed) = keys.get("external_fixed_ips").filter(|v| !v.is_null()) {
        shaped.insert("external_fixed_ips".to_owned(), fixed_ips_shape(fixed)?);
    }
    if let Some(policy) = keys.get("qos_policy_id") {
        let id = policy.as_str().and_then(|text| text.parse::<Uuid>().ok());
        if id.is_none() && !policy.is_null() {
            return Err(format!("qos_policy_id: '{policy}' is not a valid UUID"));
        }
        shaped.insert("qos_policy_id".to_owned(), json!(id));
    }
    Ok(Value::Object(shaped))
}

/// The subnets of the network that a router leaves by.
pub(super) fn subnets(view: &View, router: &Router) -> Vec<std::sync::Arc<Subnet>> {
    let network = router.gateway.map(|gateway| gateway.network_id);
    network.map_or_else(Vec::new, |id| view.related("network_id", id))
}

pub(super) fn way_out(view: &View, change: &Change<'_, Router>, caller: &Caller) -> Judged {
    let had = change.before.and_then(|before| before.gateway);
    let Some(after) = change.after else {
        return match (change.before, had) {
            (Some(before), Some(had)) => left(view, before, had),
            _ => Ok(Vec::new()),
        };
    };
    if !change.names("external_gateway_info") {
        return Ok(Vec::new());
    }
    let mut router = Router {
        wanted: None,
        ..after.clone()
    };
    let mut writes = Vec::new();
    let Some(wanted) = &after.wanted else {
        if let Some(had) = had {
            writes = left(view, after, had)?;
            router.gateway = None;
            router.former = Former::of(view, had).or(router.former);
        }
        writes.push(Write::amend(router));
        return Ok(writes);
    };
    allowed(wanted, change, caller)?;
    let network = network::visible(view, wanted.network_id, caller)?;
    admit(view, after, &network, wanted)?;
    let enable_snat = wanted.enable_snat.unwrap_or(true);
    let policy = had.and_then(|had| had.qos_policy_id);
    let qos_policy_id = match wanted.qos_policy_id {
        WantedPolicy::Kept => policy,
        WantedPolicy::Is(id) => id,
    };
    let rule = format!("{}:external_gateway_info", Router::SPEC.rule(change.verb));
    qos_policy::exchange(view, (policy, qos_policy_id), &rule, caller)?;
    if let Some(had) = had.filter(|had| had.network_id == wanted.network_id) {
        router.gateway = Some(Gateway {
            enable_snat,
            qos_policy_id,
            ..had
        });
        let port = view.object::<Port>(had.port_id);
        if let (Some(fixed), Some(port)) = (&wanted.external_fixed_ips, port) {
            let mut port = Port::clone(&port);
            port.wanted = Some(fixed.clone());
            writes.push(Write::put(port));
        }
    } else {
        if let Some(had) = had {
            writes = left(view, after, had)?;
            router.former = Former::of(view, had).or(router.former);
        }
        let port_id = change.moment.dice.uuid();
        router.gateway = Some(Gateway {
            network_id: wanted.network_id,
            port_id,
            enable_snat,
            qos_policy_id,
        });
        let mut port = Port::new(Meta::new(port_id, "", ""), wanted.network_id, Vec::new());
        port.wanted.clone_from(&wanted.external_fixed_ips);
        GATEWAY_OWNER.clone_into(&mut port.device_owner);
        port.device_id = after.meta.id.to_string();
        if let Some(former) = router.former.take() {
            (port.left, port.may_move) = (former.host, former.may_move);
        }
        writes.push(Write::put(port));
    }
    writes.push(Write::amend(router));
    Ok(writes)
}

/// What of a way out is an admin's to say.
fn allowed(wanted: &Wanted, change: &Change<'_, Router>, caller: &Caller) -> Result<(), Refusal> {
    let said = [
        ("enable_snat", wanted.enable_snat.is_some()),
        ("external_fixed_ips", wanted.external_fixed_ips.is_some()),
    ];
    let rule = Router::SPEC.rule(change.verb);
    let open = |name: &str| {
        caller.admin || caller.is_told(&format!("{rule}:external_gateway_info:{name}"))
    };
    match said.iter().find(|(name, said)| *said && !open(name)) {
        Some((name, _)) => Err(Refusal::denied(format!(
            "(rule:{rule} and rule:{rule}:external_gateway_info:{name})"
        ))),
        None => Ok(()),
    }
}

/// May the router leave by this network, with these addresses?
fn admit(view: &View, router: &Router, network: &Network, wanted: &Wanted) -> Result<(), Refusal> {
    if !network.external {
        return Err(bad(format_args!(
            "Network {} is not an external network",
            network.meta.id
        )));
    }
    let subnets = view.related::<Subnet>("network_id", network.meta.id);
    let asked = wanted.external_fixed_ips.iter().flatten();
    for address in asked.filter_map(|wanted| wanted.ip_address) {
        if subnets.iter().any(|s| s.gateway_ip == Some(address)) {
            return Err(bad(format_args!(
                "External IP {address} is the same as the gateway IP"
            )));
        }
    }
    interfaces::apart(view, router.meta.id, &subnets)
}

/// The way out goes, unless something needs it.
fn left(view: &View, router: &Router, had: Gateway) -> Judged {
    let id = router.meta.id;
    if view.any_related::<FloatingIp>("router_id", id) {
        return Err(Refusal::conflict(
            "RouterExternalGatewayInUseByFloatingIp",
            format!(
                "Gateway cannot be updated for router {id}, since a gateway to external network {} is required by one or more floating IPs.",
                had.network_id
            ),
        ));
    }
    let outside = view.related::<Subnet>("network_id", had.network_id);
    let mut hops = router.routes.iter().map(|route| route.nexthop);
    if hops.any(|hop| outside.iter().any(|subnet| subnet.cidr.contains(hop))) {
        return Err(Refusal::conflict(
            "RouterInterfaceInUseByRoute",
            format!(
                "Gateway of router {id} to external network {} cannot be updated, as it is required by one or more routes.",
                had.network_id
            ),
        ));
    }
    Ok(vec![Write::Remove(Port::SPEC, had.port_id)])
}
