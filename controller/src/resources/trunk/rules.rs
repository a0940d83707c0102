//! What must hold of a trunk, and what of its ports?

use super::{INHERIT, OWNER, SubPort, Trunk, Trunking, VLAN, asked, named};
use crate::{
    refusal::Refusal,
    resource::Objects,
    resources::{Network, Port, port::SERVICE_OWNERS},
    rules::{Acted, Caller, Change, Deed, Judged, Write},
    store::View,
};
use net::Vlan;
use serde_json::Map;
use std::sync::Arc;
use uuid::Uuid;

/// A port of the caller's.
fn own(view: &View, id: Uuid, caller: &Caller) -> Result<Arc<Port>, Refusal> {
    let found = view.object::<Port>(id);
    found
        .filter(|port| caller.owns(&port.meta.project_id))
        .ok_or_else(|| Refusal::missing("Port", id))
}

fn parent_in_use(id: Uuid) -> Refusal {
    Refusal::conflict(
        "ParentPortInUse",
        format!("Port {id} is currently in use and is not eligible for use as a parent port."),
    )
}

/// Is it in no trunk yet?
fn free(port: &Port) -> Result<(), Refusal> {
    let id = port.meta.id;
    match port.trunk {
        None => Ok(()),
        Some(Trunking::Parent { .. }) => Err(parent_in_use(id)),
        Some(Trunking::SubPort { .. }) => Err(Refusal::conflict(
            "TrunkPortInUse",
            format!("Port {id} is in use by another trunk."),
        )),
    }
}

/// What a new trunk is made of is there, and free.
pub(super) fn made_of(view: &View, change: &Change<'_, Trunk>, caller: &Caller) -> Judged {
    let Some(made) = change.made() else {
        return Ok(Vec::new());
    };
    let parent = own(view, made.port_id, caller)?;
    free(&parent)?;
    let sub_ports = joining(view, &parent, &made.sub_ports, caller)?;
    distinct(made.meta.id, &sub_ports)?;
    Ok(vec![Write::amend(Trunk {
        sub_ports,
        ..made.clone()
    })])
}

/// The sub-ports that join a trunk of this parent, with their own segments.
fn joining(
    view: &View,
    parent: &Port,
    asked: &[SubPort],
    caller: &Caller,
) -> Result<Vec<SubPort>, Refusal> {
    let network = |port: &Port| {
        let found = view.object::<Network>(port.network_id);
        found.ok_or_else(|| Refusal::missing("Network", port.network_id))
    };
    let widest = network(parent)?.mtu;
    let join = |asked: &SubPort| {
        let id = asked.port_id;
        if id == parent.meta.id {
            return Err(parent_in_use(id));
        }
        let port = own(view, id, caller)?;
        let network = network(&port)?;
        if network.mtu > widest {
            let text = format!(
                "MTU {} of port {id} is greater than MTU {widest} of trunk parent {}.",
                network.mtu, parent.meta.id
            );
            return Err(Refusal::conflict("SubPortMtuGreaterThanTrunkPortMtu", text));
        }
        let segmentation_id = segment(asked, &network)?;
        free(&port)?;
        let owner = port.device_owner.as_str();
        if !port.device_id.is_empty() || SERVICE_OWNERS.contains(&owner) {
            let text = format!(
                "Unable to complete operation on port {id} for network {}. Port already has an attached device {}.",
                port.network_id, port.device_id
            );
            return Err(Refusal::conflict("PortInUse", text));
        }
        Ok(SubPort {
            port_id: id,
            segmentation_type: VLAN.to_owned(),
            segmentation_id,
        })
    };
    asked.iter().map(join).collect()
}

/// By which VLAN the frames of a sub-port of this network are to be known.
fn segment(asked: &SubPort, network: &Network) -> Result<u32, Refusal> {
    let number = match asked.segmentation_type.as_str() {
        VLAN => asked.segmentation_id,
        INHERIT => network.vlan().map(u32::from).ok_or_else(|| {
            Refusal::input(format_args!(
                "network {} of port {} has no VLAN to inherit",
                network.meta.id, asked.port_id
            ))
        })?,
        other => {
            return Err(Refusal::input(format_args!(
                "Unknown segmentation_type '{other}'"
            )));
        }
    };
    match vlan(number) {
        Some(_) => Ok(number),
        None => Err(Refusal::input(format_args!(
            "Segmentation ID '{number}' is not in range"
        ))),
    }
}

fn vlan(number: u32) -> Option<Vlan> {
    u16::try_from(number).ok()?.try_into().ok()
}

/// No two sub-ports have one VLAN.
fn distinct(trunk: Uuid, sub_ports: &[SubPort]) -> Result<(), Refusal> {
    let mut seen = std::collections::BTreeSet::new();
    let twice = sub_ports
        .iter()
        .find(|sub| !seen.insert(sub.segmentation_id));
    twice.map_or(Ok(()), |sub| {
        let number = sub.segmentation_id;
        Err(Refusal::conflict(
            "DuplicateSubPort",
            format!(
                "segmentation_type vlan and segmentation_id {number} already in use on trunk {trunk}."
            ),
        ))
    })
}

fn may_change(trunk: &Trunk) -> Result<(), Refusal> {
    if trunk.admin_state_up {
        return Ok(());
    }
    Err(Refusal::conflict(
        "TrunkDisabled",
        format!("Trunk {} is currently disabled.", trunk.meta.id),
    ))
}

pub(super) fn removal(_: &View, change: &Change<'_, Trunk>, _: &Caller) -> Judged {
    if let Some(before) = change.removed().filter(|_| change.is_asked()) {
        may_change(before)?;
    }
    Ok(Vec::new())
}

/// The trunk's ports say which part they have in it; a sub-port is where its parent is.
#[expect(clippy::unnecessary_wraps, reason = "a rule's signature")]
pub(super) fn follow(view: &View, change: &Change<'_, Trunk>, _: &Caller) -> Judged {
    let Some(trunk) = change.subject() else {
        return Ok(Vec::new());
    };
    let parent = view.object::<Port>(trunk.port_id);
    let host = parent.as_ref().map(|parent| parent.host.clone());
    let mut writes = Vec::new();
    if let Some(parent) = parent {
        let part = change.after.map(|trunk| Trunking::Parent {
            trunk: trunk.meta.id,
        });
        if parent.trunk != part {
            writes.push(Write::put(Port {
                trunk: part,
                ..Port::clone(&parent)
            }));
        }
    }
    let of = |trunk: Option<&Trunk>| trunk.map_or(&[][..], |t| &t.sub_ports).to_vec();
    let (before, after) = (of(change.before), of(change.after));
    let stays = |sub: &SubPort| after.iter().any(|other| other.port_id == sub.port_id);
    for left in before.iter().filter(|sub| !stays(sub)) {
        if let Some(port) = view.object::<Port>(left.port_id) {
            writes.push(Write::put(released(&port)));
        }
    }
    for sub in &after {
        let (Some(port), Some(vlan)) =
            (view.object::<Port>(sub.port_id), vlan(sub.segmentation_id))
        else {
            continue;
        };
        let part = Trunking::SubPort {
            trunk: trunk.meta.id,
            parent: trunk.port_id,
            vlan,
            up: trunk.admin_state_up,
        };
        if port.trunk != Some(part) {
            writes.push(Write::put(Port {
                trunk: Some(part),
                host: host.clone().unwrap_or_default(),
                device_owner: OWNER.to_owned(),
                ..Port::clone(&port)
            }));
        }
    }
    Ok(writes)
}

/// A port that is no trunk's any more: nowhere, and nobody's.
fn released(port: &Port) -> Port {
    let owner = port.device_owner.as_str();
    Port {
        trunk: None,
        host: String::new(),
        device_owner: if owner == OWNER { "" } else { owner }.to_owned(),
        ..port.clone()
    }
}

fn with(trunk: &Trunk, sub_ports: Vec<SubPort>) -> Acted<Trunk> {
    Acted {
        object: Trunk {
            sub_ports,
            ..trunk.clone()
        },
        writes: Vec::new(),
        reply: Map::new(),
    }
}

pub(super) fn add(
    view: &View,
    deed: &Deed<'_, Trunk>,
    caller: &Caller,
) -> Result<Acted<Trunk>, Refusal> {
    let trunk = deed.object;
    let given = deed.arguments.get("sub_ports").cloned().unwrap_or_default();
    let given = asked(&given).map_err(Refusal::input)?;
    let parent = own(view, trunk.port_id, &Caller::system())?;
    let mut sub_ports = trunk.sub_ports.clone();
    sub_ports.extend(joining(view, &parent, &given, caller)?);
    may_change(trunk)?;
    distinct(trunk.meta.id, &sub_ports)?;
    Ok(with(trunk, sub_ports))
}

pub(super) fn remove(
    _: &View,
    deed: &Deed<'_, Trunk>,
    _: &Caller,
) -> Result<Acted<Trunk>, Refusal> {
    let trunk = deed.object;
    let given = deed.arguments.get("sub_ports").cloned().unwrap_or_default();
    let given = named(&given).map_err(Refusal::input)?;
    may_change(trunk)?;
    let has = |id: &Uuid| trunk.sub_ports.iter().any(|sub| sub.port_id == *id);
    if let Some(id) = given.iter().find(|id| !has(id)) {
        return Err(Refusal::no_such(
            "SubPortNotFound",
            format!(
                "SubPort {id} on trunk {} could not be found.",
                trunk.meta.id
            ),
        ));
    }
    let mut sub_ports = trunk.sub_ports.clone();
    sub_ports.retain(|sub| !given.contains(&sub.port_id));
    Ok(with(trunk, sub_ports))
}

/// What a change of a port means to the trunk that it is in: a port in use stays, and sub-ports are where their parent is.
pub(in crate::resources) fn of_port(view: &View, change: &Change<'_, Port>, _: &Caller) -> Judged {
    let Some((before, part)) = change.before.and_then(|p| Some((p, p.trunk?))) else {
        return Ok(Vec::new());
    };
    let id = before.meta.id;
    let in_use = |trunk: Uuid| {
        Refusal::conflict(
            "PortInUseAsSubPort",
            format!("Port {id} is currently a subport for trunk {trunk}."),
        )
    };
    let moved = change.after.is_some_and(|after| after.host != before.host);
    match (part, change.after) {
        (Trunking::Parent { trunk }, None) => Err(Refusal::conflict(
            "PortInUseAsTrunkParent",
            format!("Port {id} is currently a parent port for trunk {trunk}."),
        )),
        (Trunking::SubPort { trunk, .. }, None) => Err(in_use(trunk)),
        // Its parent's host is its own.
        (Trunking::SubPort { trunk, .. }, Some(_)) if moved && change.is_asked() => {
            Err(in_use(trunk))
        }
        (Trunking::Parent { trunk }, Some(after)) if moved => {
            let trunk = view.object::<Trunk>(trunk);
            let ports = trunk.iter().flat_map(|trunk| &trunk.sub_ports);
            let ports = ports.filter_map(|sub| view.object::<Port>(sub.port_id));
            let follows = |port: Arc<Port>| {
                Write::put(Port {
                    host: after.host.clone(),
                    ..Port::clone(&port)
                })
            };
            Ok(ports.map(follows).collect())
        }
        (Trunking::Parent { .. } | Trunking::SubPort { .. }, Some(_)) => Ok(Vec::new()),
    }
}
