//! What carries a network?
//!
//! An overlay of the fabric (VXLAN), or a part of a physical network that hosts have an interface on: one VLAN of it, or what
//! is untagged (flat). Each number is a claimed key: `vni/N`, `vlan/PHYSICAL/N`, `flat/PHYSICAL`. A network with a wire has a VNI
//! besides, since what a router sends on to its gateway's host goes through the tunnel on its sender's network.

use super::Network;
use crate::{
    refusal::Refusal,
    resource::{Objects, Verb},
    resources::Host,
    rules::{Caller, Change, Judged, Write},
    store::{Read, View},
};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::sync::Arc;
use uuid::Uuid;

const LAST_VNI: u32 = 0x00ff_ffff;
/// The last of IEEE 802.1Q.
const LAST_VLAN: u32 = 4094;
/// The longest name of a physical network.
const NAME: usize = 64;
const VNI_FLOOR: &str = "free/vni";

/// What carries it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Carrier {
    /// The fabric.
    #[default]
    Vxlan,
    /// A VLAN of a physical network.
    Vlan,
    /// What is untagged on a physical network.
    Flat,
}

impl Carrier {
    /// Does a request name one of them, if it names any?
    ///
    /// # Errors
    /// When it names another.
    pub(super) fn check(asked: Option<&Value>) -> Result<(), Refusal> {
        let Some(asked) = asked else { return Ok(()) };
        match Self::deserialize(asked) {
            Ok(_) => Ok(()),
            Err(_) => Err(Refusal::input(format_args!(
                "network_type value '{}' not supported (vxlan, vlan, flat)",
                asked.as_str().unwrap_or_default()
            ))),
        }
    }
}

/// Can a physical network be called so?
///
/// # Errors
/// What is wrong with the name.
pub fn check_physical_name(name: &str) -> Result<(), String> {
    let byte = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.:".contains(&byte);
    if name.is_empty() || name.len() > NAME || !name.bytes().all(byte) {
        return Err(format!(
            "'{name}' is no name of a physical network (1 to {NAME} letters, digits, '-', '_', '.', ':')"
        ));
    }
    Ok(())
}

/// The key of a VNI; they sort by number.
fn vni_key(vni: u32) -> String {
    format!("vni/{vni:06x}")
}

fn vlan_prefix(physical: &str) -> String {
    format!("vlan/{physical}/")
}

fn vlan_key(physical: &str, vlan: u32) -> String {
    format!("vlan/{physical}/{vlan:03x}")
}

fn flat_key(physical: &str) -> String {
    format!("flat/{physical}")
}

/// The key of the part of a physical network that it is.
fn wire_key(network: &Network) -> Option<String> {
    let physical = network.physical_network.as_deref()?;
    match network.carrier {
        Carrier::Vxlan => None,
        Carrier::Vlan => Some(vlan_key(physical, network.segment?)),
        Carrier::Flat => Some(flat_key(physical)),
    }
}

fn release_vni(view: &View, vni: Option<u32>) -> Vec<Write> {
    let Some(vni) = vni else { return Vec::new() };
    let mut writes = vec![Write::Release(vni_key(vni))];
    if view.get::<u32>(VNI_FLOOR).is_some_and(|floor| vni < *floor) {
        writes.push(Write::Record(VNI_FLOOR.to_owned(), Arc::new(vni)));
    }
    writes
}

/// What it is carried by is there, free, and its own.
pub(super) fn carried(view: &View, change: &Change<'_, Network>, _: &Caller) -> Judged {
    let Some(after) = change.after else {
        let Some(before) = change.before else {
            return Ok(Vec::new());
        };
        let mut writes = release_vni(view, before.vni());
        writes.extend(wire_key(before).map(Write::Release));
        return Ok(writes);
    };
    match change.before {
        Some(before) => {
            if (before.carrier, &before.physical_network)
                != (after.carrier, &after.physical_network)
            {
                return Err(Refusal::input(
                    "provider:network_type and provider:physical_network of a network cannot be changed",
                ));
            }
        }
        None => admissible(view, change, after)?,
    }
    let had = change.before.map(|before| (before.segment, before.vni()));
    if had.is_some_and(|(segment, _)| segment == after.segment) {
        return Ok(Vec::new());
    }
    let mut chosen = after.clone();
    let mut writes = Vec::new();
    match (after.carrier, after.segment.unwrap_or_default()) {
        (Carrier::Vxlan, 0) => chosen.segment = Some(take_vni(view, after.meta.id, &mut writes)?),
        (Carrier::Vxlan, vni) => {
            free_vni(view, vni)?;
            writes.push(Write::Claim(vni_key(vni), after.meta.id));
        }
        (Carrier::Vlan, vlan) => chosen.segment = Some(free_vlan(view, after, vlan)?),
        (Carrier::Flat, _) if after.segment.is_some() => {
            return Err(Refusal::input(
                "provider:segmentation_id is prohibited for a flat network",
            ));
        }
        (Carrier::Flat, _) => {
            let physical = after.physical_network.as_deref().unwrap_or_default();
            if view.entry(&flat_key(physical)).is_some() {
                return Err(Refusal::conflict(
                    "FlatNetworkInUse",
                    format!(
                        "Unable to create the flat network. Physical network {physical} is in use."
                    ),
                ));
            }
        }
    }
    if after.carrier != Carrier::Vxlan {
        if chosen.wire_vni.is_none() {
            chosen.wire_vni = Some(take_vni(view, after.meta.id, &mut writes)?);
        }
        let key = wire_key(&chosen);
        writes.extend(key.map(|key| Write::Claim(key, after.meta.id)));
    }
    if let Some(before) = change.before {
        match after.carrier {
            Carrier::Vxlan => writes.splice(0..0, release_vni(view, before.vni())),
            Carrier::Vlan | Carrier::Flat => writes.splice(
                0..0,
                wire_key(before)
                    .map(Write::Release)
                    .into_iter()
                    .collect::<Vec<_>>(),
            ),
        };
    }
    writes.push(Write::amend(chosen));
    Ok(writes)
}

/// Does a new network name what its carrier needs, and nothing else?
fn admissible(view: &View, change: &Change<'_, Network>, new: &Network) -> Result<(), Refusal> {
    let names = |what: &str| change.names(&format!("provider:{what}"));
    let physical = new.physical_network.as_deref();
    let segment = names("segmentation_id") && new.segment.is_some_and(|segment| segment != 0);
    if change.verb == Verb::Create && !names("network_type") && (segment || physical.is_some()) {
        return Err(Refusal::input("network_type required"));
    }
    match (new.carrier, physical) {
        (Carrier::Vxlan, None) => Ok(()),
        (Carrier::Vxlan, Some(_)) => Err(Refusal::input(
            "provider:physical_network specified for vxlan network",
        )),
        (Carrier::Vlan, None) => Err(Refusal::input(
            "physical_network required for VLAN provider network",
        )),
        (Carrier::Flat, None) => Err(Refusal::input(
            "physical_network required for flat provider network",
        )),
        (Carrier::Vlan | Carrier::Flat, Some(name)) => known(view, name),
    }
}

/// Once hosts have said what they are connected to, another name is a mistake.
fn known(view: &View, name: &str) -> Result<(), Refusal> {
    check_physical_name(name).map_err(Refusal::input)?;
    let hosts = view.objects::<Host>();
    let mut told = hosts.iter().flat_map(|host| &host.physical_networks);
    let first = told.next();
    if first.is_none_or(|first| first == name) || told.any(|other| other == name) {
        return Ok(());
    }
    Err(Refusal::input(format_args!(
        "physical_network '{name}' unknown: no host has an interface on it"
    )))
}

fn free_vni(view: &View, vni: u32) -> Result<(), Refusal> {
    if vni > LAST_VNI {
        return Err(Refusal::input(format_args!(
            "segmentation_id out of range (1 through {LAST_VNI})"
        )));
    }
    if view.entry(&vni_key(vni)).is_some() {
        return Err(Refusal::conflict(
            "TunnelIdInUse",
            format!("Unable to create the network. The tunnel ID {vni} is in use."),
        ));
    }
    Ok(())
}

/// Claims the lowest free VNI.
fn take_vni(view: &View, holder: Uuid, writes: &mut Vec<Write>) -> Result<u32, Refusal> {
    let floor = view
        .get::<u32>(VNI_FLOOR)
        .map_or(1, |floor| (*floor).max(1));
    let from = format!("{floor:06x}");
    let held = view.scan_from("vni/", &from).map(|(key, _)| key);
    let vni = lowest(held, "vni/", floor);
    if vni > LAST_VNI {
        return Err(exhausted());
    }
    writes.push(Write::Record(VNI_FLOOR.to_owned(), Arc::new(vni + 1)));
    writes.push(Write::Claim(vni_key(vni), holder));
    Ok(vni)
}

/// The VLAN that was asked for, or where none was the lowest that is free.
fn free_vlan(view: &View, network: &Network, asked: u32) -> Result<u32, Refusal> {
    let physical = network.physical_network.as_deref().unwrap_or_default();
    if asked > LAST_VLAN {
        return Err(Refusal::input(format_args!(
            "segmentation_id out of range (1 through {LAST_VLAN})"
        )));
    }
    if asked == 0 {
        let prefix = vlan_prefix(physical);
        let held = view.scan(&prefix).map(|(key, _)| key);
        let vlan = lowest(held, &prefix, 1);
        return if vlan > LAST_VLAN {
            Err(exhausted())
        } else {
            Ok(vlan)
        };
    }
    if view.entry(&vlan_key(physical, asked)).is_some() {
        return Err(Refusal::conflict(
            "VlanIdInUse",
            format!(
                "Unable to create the network. The VLAN {asked} on physical network {physical} is in use."
            ),
        ));
    }
    Ok(asked)
}

/// The lowest number from `floor` on that is not among these keys, which are in order.
fn lowest<'a>(held: impl Iterator<Item = &'a str>, prefix: &str, floor: u32) -> u32 {
    let mut candidate = floor;
    for key in held {
        let number = key.get(prefix.len()..);
        let number = number.and_then(|hex| u32::from_str_radix(hex, 16).ok());
        if number != Some(candidate) {
            break;
        }
        candidate += 1;
    }
    candidate
}

fn exhausted() -> Refusal {
    Refusal::conflict(
        "NoNetworkAvailable",
        "Unable to create the network. No tenant network is available for allocation.",
    )
}

impl Network {
    /// The VLAN of a network that has one.
    pub fn vlan(&self) -> Option<u16> {
        let vlan = self.segment.filter(|_| self.carrier == Carrier::Vlan)?;
        u16::try_from(vlan).ok()
    }
}
