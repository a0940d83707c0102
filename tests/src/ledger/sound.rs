//! Do the books of a store balance?
//!
//! Read from the records alone, by none of the code that wrote them.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context as _, ensure};
use controller::{
    resource::{Claim, Object, Objects as _, address_key, index_prefix},
    resources::{
        FloatingIp, Network, Port, REGISTRY, Router, SecurityGroupRule, Subnet, router::router_of,
    },
    rules::{addresses::is_automatic, quotas},
    store::{Read as _, Snapshot},
};
use uuid::Uuid;

/// The holders of all claims below a prefix.
fn claims(store: &Snapshot, prefix: &str) -> anyhow::Result<BTreeMap<String, Uuid>> {
    let one = |(key, entry): (&str, &controller::store::Entry)| {
        let claim = entry.peek::<Claim>().context(key.to_owned())?;
        Ok((key.to_owned(), claim.holder))
    };
    store.scan(prefix).map(one).collect()
}

/// Two things that must be the same, and of what they differ.
fn same<K: Ord + std::fmt::Debug, V: PartialEq + std::fmt::Debug>(
    what: &str,
    kept: &BTreeMap<K, V>,
    wanted: &BTreeMap<K, V>,
) -> anyhow::Result<()> {
    let differ: Vec<_> = wanted
        .iter()
        .filter(|(key, value)| kept.get(key) != Some(value))
        .chain(kept.iter().filter(|(key, _)| !wanted.contains_key(key)))
        .take(5)
        .collect();
    ensure!(differ.is_empty(), "{what}: {differ:?} and maybe more");
    Ok(())
}

/// Addresses and MACs are their ports', and no port has what is not there.
fn ports(store: &Snapshot) -> anyhow::Result<()> {
    let (mut ips, mut macs, mut interfaces) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
    for port in store.objects::<Port>() {
        let id = port.meta.id;
        ensure!(
            store.object::<Network>(port.network_id).is_some(),
            "port {id} has no network"
        );
        for fixed in &port.fixed_ips {
            let subnet = store.object::<Subnet>(fixed.subnet_id);
            let subnet = subnet.with_context(|| format!("port {id}: no such subnet"))?;
            ensure!(
                subnet.network_id == port.network_id && subnet.cidr.contains(fixed.ip_address),
                "port {id}: {} is not of its subnet",
                fixed.ip_address
            );
            let key = address_key(fixed.subnet_id, fixed.ip_address);
            ensure!(ips.insert(key.clone(), id).is_none(), "{key} is two ports'");
            if let Some(router) = router_of(&port) {
                ensure!(
                    store.object::<Router>(router).is_some(),
                    "port {id}: no such router"
                );
                interfaces.insert(format!("iface/{router}/{}", fixed.subnet_id), id);
            }
        }
        let key = format!("mac/{}/{}", port.network_id, port.mac_address);
        ensure!(
            macs.insert(key.clone(), id).is_none(),
            "{key} is two ports'"
        );
    }
    same("addresses", &claims(store, "ip/")?, &ips)?;
    same("MAC addresses", &claims(store, "mac/")?, &macs)?;
    same("interfaces", &claims(store, "iface/")?, &interfaces)
}

/// Nobody is without who it belongs to.
fn parents(store: &Snapshot) -> anyhow::Result<()> {
    for subnet in store.objects::<Subnet>() {
        ensure!(
            store.object::<Network>(subnet.network_id).is_some(),
            "subnet {} has no network",
            subnet.meta.id
        );
        // One transaction gives all of its network's ports their addresses.
        if is_automatic(&subnet) {
            let ports = store.related::<Port>("network_id", subnet.network_id);
            let have = |port: &Port| {
                port.fixed_ips
                    .iter()
                    .any(|ip| ip.subnet_id == subnet.meta.id)
            };
            let without = ports.iter().filter(|port| !have(port)).count();
            ensure!(
                without == 0,
                "subnet {}: {without} of {} ports have no address of it",
                subnet.meta.id,
                ports.len()
            );
        }
    }
    for rule in store.objects::<SecurityGroupRule>() {
        let group = store.object::<controller::resources::SecurityGroup>(rule.security_group_id);
        ensure!(group.is_some(), "rule {} has no group", rule.meta.id);
    }
    for router in store.objects::<Router>() {
        if let Some(gateway) = router.gateway {
            let port = store.object::<Port>(gateway.port_id);
            let is_its = port.is_some_and(|port| port.network_id == gateway.network_id);
            ensure!(is_its, "router {} has no gateway's port", router.meta.id);
        }
    }
    let mut held = BTreeMap::new();
    for floating in store.objects::<FloatingIp>() {
        let id = floating.meta.id;
        let holder = floating.holder.and_then(|port| store.object::<Port>(port));
        let holder = holder.with_context(|| format!("floating IP {id} has no port"))?;
        let has: Vec<_> = holder
            .fixed_ips
            .iter()
            .map(|ip| Some(ip.ip_address))
            .collect();
        ensure!(
            has == [floating.floating_ip_address],
            "floating IP {id}: {has:?}"
        );
        if let (Some(port), Some(address)) = (floating.port_id, floating.fixed_ip_address) {
            ensure!(
                store.object::<Port>(port).is_some(),
                "floating IP {id}: no port {port}"
            );
            let network = floating.floating_network_id;
            held.insert(format!("fipport/{port}/{address}/{network}"), id);
        }
    }
    same("floating IPs", &claims(store, "fipport/")?, &held)
}

/// What is counted is there, and what is found by an index is what the index says.
fn books(store: &Snapshot) -> anyhow::Result<()> {
    let mut counted: BTreeMap<String, u64> = BTreeMap::new();
    let mut indexed: BTreeSet<String> = BTreeSet::new();
    for spec in REGISTRY {
        let prefix = format!("{}/", spec.storage);
        let objects = store
            .scan(&prefix)
            .filter_map(|(_, entry)| spec.ops.object(entry));
        for object in objects {
            // Some tables are another's rows in another form.
            if object.spec().path != spec.path {
                continue;
            }
            let (meta, object) = (object.meta(), &*object);
            if let Some((kind, _)) = spec.quota.filter(|_| !meta.project_id.is_empty()) {
                *counted
                    .entry(format!("quota/{}/{kind}", meta.project_id))
                    .or_default() += 1;
            }
            let own = [("project_id", meta.project_id.clone())];
            for (field, value) in Object::index(object).into_iter().chain(own) {
                indexed.insert(format!(
                    "{}{}",
                    index_prefix(spec.storage, field, value),
                    meta.id
                ));
            }
            if Object::shared(object, store) {
                indexed.insert(format!(
                    "{}{}",
                    index_prefix(spec.storage, "shared", "true"),
                    meta.id
                ));
            }
        }
    }
    for (key, count) in &counted {
        let mut parts = key.split('/').skip(1);
        let (project, kind) = (
            parts.next().unwrap_or_default(),
            parts.next().unwrap_or_default(),
        );
        let used = quotas::used(store, project, kind);
        ensure!(used == *count, "{key} says {used}, there are {count}");
    }
    let kept: BTreeSet<String> = store
        .scan("quota/")
        .map(|(key, _)| key.to_owned())
        .collect();
    let stray: Vec<_> = kept
        .iter()
        .filter(|key| !counted.contains_key(*key))
        .collect();
    ensure!(stray.is_empty(), "counts of nothing: {stray:?}");
    let kept: BTreeSet<String> = store.scan("by/").map(|(key, _)| key.to_owned()).collect();
    let differ: Vec<_> = kept.symmetric_difference(&indexed).take(5).collect();
    ensure!(differ.is_empty(), "indexes: {differ:?} and maybe more");
    Ok(())
}

/// All of it.
///
/// # Errors
/// The first thing that does not balance.
pub fn check(store: &Snapshot) -> anyhow::Result<()> {
    ports(store)?;
    parents(store)?;
    books(store)
}
