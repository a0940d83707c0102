//! Which availability zones are there, and what is in which?
//!
//! A zone is there while a host says that it is in it: there is no list of zones besides. Routers name those that their gateways are to be in,
//! networks those that were wished for.

use crate::{
    refusal::Refusal,
    resource::Objects,
    resources::{Host, Port},
    store::{Read, View},
};
use std::{
    borrow::Borrow,
    collections::{BTreeMap, BTreeSet},
};

/// The most that one object names.
const NAMED: usize = 64;

/// Is there a host in each of these zones?
///
/// # Errors
/// Names one without; that they are too many.
pub fn known(view: &View, named: &[String]) -> Result<(), Refusal> {
    if named.is_empty() {
        return Ok(());
    }
    if named.len() > NAMED {
        return Err(Refusal::attribute(
            "availability_zone_hints",
            format_args!("more than {NAMED} zones"),
        ));
    }
    let hosts = view.objects::<Host>();
    let there: BTreeSet<&str> = ours(&hosts)
        .map(|host| host.availability_zone.as_str())
        .collect();
    match named.iter().find(|zone| !there.contains(zone.as_str())) {
        Some(zone) => Err(Refusal::missing("AvailabilityZone", zone)),
        None => Ok(()),
    }
}

/// All zones, and whether one of a zone's hosts is in service.
pub fn all(read: &impl Read) -> BTreeMap<String, bool> {
    let mut zones = BTreeMap::new();
    for host in ours(&read.objects::<Host>()) {
        let available: &mut bool = zones.entry(host.availability_zone.clone()).or_default();
        *available |= host.admin_state_up;
    }
    zones
}

/// The zones of the hosts that these ports are on, each once.
pub fn of_ports(read: &impl Read, ports: &[impl Borrow<Port>]) -> BTreeSet<String> {
    let names: BTreeSet<&str> = ports
        .iter()
        .filter_map(|port| port.borrow().place())
        .collect();
    let hosts = names
        .into_iter()
        .filter_map(|name| Host::by_name(read, name));
    hosts.map(|host| host.availability_zone.clone()).collect()
}

/// Tunnel endpoints without an agent are in no zone.
fn ours(hosts: &[impl Borrow<Host>]) -> impl Iterator<Item = &Host> {
    let hosts = hosts.iter().map(Borrow::borrow);
    hosts.filter(|host| !host.foreign)
}
