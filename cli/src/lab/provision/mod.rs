//! Which API calls make a lab's intent?
//!
//! Networks, subnets, routers, groups, rules, ports and chains, by the public API alone, in bulk where it can be. What the
//! API chose (ids, addresses, MACs) comes back as the [`Inventory`].

mod chains;
mod groups;
mod outside;
mod qos;
mod trunks;

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use anyhow::{Context, bail};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use self::groups::Groups;
use self::qos::Policies;
use super::file::RawMetadata;
use super::plan::{Function, Lab, Member, Network, Workload};
use super::underlay::namespace;
use crate::api::{Api, text};

/// What the API made of a lab.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct Inventory {
    pub(crate) networks: BTreeMap<String, MadeNetwork>,
    pub(crate) workloads: BTreeMap<String, Placed>,
}

/// A network as the API made it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct MadeNetwork {
    pub(crate) id: String,
    pub(crate) project: String,
    pub(crate) mtu: u32,
    /// The VNI, which only an admin sees.
    pub(crate) vni: Option<u32>,
    pub(crate) subnets: BTreeMap<String, String>,
}

/// A workload's port.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Placed {
    pub(crate) host: String,
    pub(crate) network: String,
    pub(crate) namespace: String,
    pub(crate) port: String,
    pub(crate) mac: String,
    pub(crate) addresses: Vec<Address>,
}

#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(crate) struct Address {
    pub(crate) ip: IpAddr,
    pub(crate) bits: u8,
}

impl Placed {
    /// The first address of a family.
    pub(crate) fn address(&self, v6: bool) -> Option<IpAddr> {
        self.addresses
            .iter()
            .map(|a| a.ip)
            .find(|ip| ip.is_ipv6() == v6)
    }
}

/// Makes it all.
///
/// # Errors
/// What the API refuses, with the call.
pub(crate) fn provision(lab: &Lab, api: &Api) -> anyhow::Result<Inventory> {
    let projects = projects(lab, api)?;
    let policies = qos::make(lab, api)?;
    let mut inventory = Inventory {
        networks: networks(lab, api, &projects, &policies)?,
        ..Inventory::default()
    };
    let routers = routers(lab, api, &projects, &inventory.networks)?;
    let groups = groups::make(lab, api, &projects)?;
    inventory.workloads = ports(lab, api, &inventory.networks, (&groups, &policies))?;
    trunks::make(lab, api, &inventory)?;
    outside::lead(lab, api, &projects, &routers, &inventory)?;
    let mut chains = BTreeMap::new();
    for chain in &lab.chains {
        let made = chains::make(api, &projects, &inventory, chain)
            .with_context(|| format!("chain {}", chain.name))?;
        chains.insert(chain.name.as_str(), made);
    }
    chains::join(api, &projects, &lab.chains, &chains).context("service graph")?;
    Ok(inventory)
}

/// Project ids by the lab's names; `None` is the admin's own.
type Projects = BTreeMap<Option<String>, String>;

fn projects(lab: &Lab, api: &Api) -> anyhow::Result<Projects> {
    let mut projects = Projects::from([(None, api.project.clone())]);
    for network in &lab.networks {
        let Some(name) = &network.project else {
            continue;
        };
        if !projects.contains_key(&network.project) {
            let made = api
                .post_identity(
                    "/projects",
                    &json!({"project": {"name": name, "domain_id": "default"}}),
                )
                .with_context(|| format!("make project {name}"))?;
            projects.insert(network.project.clone(), id(&made, "project")?);
        }
    }
    Ok(projects)
}

fn project_id(projects: &Projects, name: Option<&str>) -> anyhow::Result<String> {
    projects
        .get(&name.map(str::to_owned))
        .cloned()
        .context("find the project's id")
}

fn id(answer: &Value, kind: &str) -> anyhow::Result<String> {
    match answer.get(kind).map(|object| text(object, "id")) {
        Some(id) if !id.is_empty() => Ok(id.to_owned()),
        _ => bail!("the API's answer has no {kind} id"),
    }
}

/// Creates many of a kind in one call; the answers are in the order of the requests.
fn bulk(api: &Api, path: &str, plural: &str, items: Vec<Value>) -> anyhow::Result<Vec<Value>> {
    if items.is_empty() {
        return Ok(Vec::new());
    }
    let wanted = items.len();
    let mut body = Map::new();
    body.insert(plural.to_owned(), Value::Array(items));
    let mut answer = api.post(path, &Value::Object(body))?;
    match answer.get_mut(plural).map(Value::take) {
        Some(Value::Array(made)) if made.len() == wanted => Ok(made),
        _ => bail!(
            "the answer to POST {path} does not hold the {wanted} {plural} that were asked for"
        ),
    }
}

fn networks(
    lab: &Lab,
    api: &Api,
    projects: &Projects,
    policies: &Policies,
) -> anyhow::Result<BTreeMap<String, MadeNetwork>> {
    let mut wanted = Vec::new();
    for network in &lab.networks {
        let mut body = json!({
            "name": network.name,
            "project_id": project_id(projects, network.project.as_deref())?,
        });
        set(&mut body, "mtu", network.mtu);
        set(
            &mut body,
            "router:external",
            network.external.then_some(true),
        );
        set(&mut body, "port_security_enabled", network.port_security);
        let policy = network.qos.as_ref().and_then(|name| policies.get(name));
        set(&mut body, "qos_policy_id", policy);
        wanted.push(body);
    }
    let answers = bulk(api, "/v2.0/networks", "networks", wanted)?;
    let mut made = BTreeMap::new();
    let mut subnets = Vec::new();
    for (network, answer) in lab.networks.iter().zip(&answers) {
        let project = project_id(projects, network.project.as_deref())?;
        let one = MadeNetwork {
            id: text(answer, "id").to_owned(),
            project: project.clone(),
            mtu: number(answer, "mtu").unwrap_or(1450),
            vni: number(answer, "provider:segmentation_id"),
            subnets: BTreeMap::new(),
        };
        for (version, cidr) in [(4, network.cidr), (6, network.cidr6)] {
            let Some(cidr) = cidr else { continue };
            let mut subnet = json!({
                "name": format!("{}-v{version}", network.name),
                "network_id": one.id,
                "project_id": project,
                "ip_version": version,
                "cidr": cidr.to_string(),
                // Without a router, a gateway that nobody answers for would only hide that.
                "gateway_ip": network.gateway(cidr),
            });
            set(&mut subnet, "allocation_pools", pools(lab, network, cidr));
            subnets.push((network.name.clone(), subnet));
        }
        made.insert(network.name.clone(), one);
    }
    let (owners, bodies): (Vec<String>, Vec<Value>) = subnets.into_iter().unzip();
    for (owner, answer) in owners
        .iter()
        .zip(bulk(api, "/v2.0/subnets", "subnets", bodies)?)
    {
        if let Some(network) = made.get_mut(owner) {
            network.subnets.insert(
                text(&answer, "cidr").to_owned(),
                text(&answer, "id").to_owned(),
            );
        }
    }
    Ok(made)
}

/// Makes each project's routers and attaches them to every subnet of their networks.
fn routers(
    lab: &Lab,
    api: &Api,
    projects: &Projects,
    networks: &BTreeMap<String, MadeNetwork>,
) -> anyhow::Result<outside::Routers> {
    let mut made = outside::Routers::new();
    for network in &lab.networks {
        let Some(name) = network.router.as_deref() else {
            continue;
        };
        let project = project_id(projects, network.project.as_deref())?;
        let router = match made.entry((project, name.to_owned())) {
            Entry::Occupied(had) => had.into_mut(),
            Entry::Vacant(new) => {
                let body = json!({"router": {"name": name, "project_id": new.key().0}});
                let answer = api.post("/v2.0/routers", &body)?;
                new.insert(id(&answer, "router")?)
            }
        };
        let subnets = networks.get(&network.name).map(|made| &made.subnets);
        for subnet in subnets.into_iter().flat_map(BTreeMap::values) {
            let path = format!("/v2.0/routers/{router}/add_router_interface");
            api.put(&path, &json!({"subnet_id": subnet}))
                .with_context(|| format!("attach router {name} to network {}", network.name))?;
        }
    }
    Ok(made)
}

/// The addresses that automatic ones are taken from, where chains have virtual addresses or a NAT's in the subnet, or floating IPs are
/// chosen there: all but those and a router's. A virtual address gets its port with its chain, when every workload has one already.
fn pools(lab: &Lab, network: &Network, cidr: net::Prefix) -> Option<Vec<Value>> {
    let here = |vip: &IpAddr, members: &[Member]| {
        let mut on = members.iter().filter_map(|m| lab.workload(&m.workload));
        cidr.contains(*vip) && on.any(|w| w.network == network.name)
    };
    let floating = lab
        .floating_ips
        .iter()
        .filter(|f| f.network == network.name);
    let floating = floating.filter_map(|f| f.ip.filter(|ip| cidr.contains(*ip)));
    let functions = lab.chains.iter().flat_map(|chain| &chain.functions);
    let vips: BTreeSet<u128> = functions
        .filter_map(|function| match function {
            Function::LoadBalancer { vip, members, .. } if here(vip, members) => {
                Some([*vip].into())
            }
            Function::Nat(nat) => Some(nat.inside(network, cidr)),
            Function::LoadBalancer { .. }
            | Function::Firewall { .. }
            | Function::Shaper { .. }
            | Function::Appliance(_)
            | Function::Plain(..) => None,
        })
        .flat_map(|addresses: BTreeSet<IpAddr>| addresses)
        .chain(floating)
        .map(bits)
        .collect();
    if vips.is_empty() {
        return None;
    }
    let mut held = vips;
    held.extend(network.gateway(cidr).map(bits));
    let (mut start, mut last) = (bits(cidr.addr()), bits(cidr.last()));
    // No workload has the network's address, nor the broadcast address of IPv4.
    match (cidr.is_ipv4(), cidr.bits()) {
        (true, ..=30) => (start, last) = (start + 1, last - 1),
        (false, ..=126) => start += 1,
        _ => {}
    }
    let mut pools = Vec::new();
    for end in held.into_iter().chain([last.saturating_add(1)]) {
        if end > start {
            let ends = [start, end - 1].map(|n| address(n, cidr.is_ipv4()));
            pools.push(json!({"start": ends[0], "end": ends[1]}));
        }
        start = start.max(end + 1);
    }
    Some(pools)
}

fn bits(addr: IpAddr) -> u128 {
    match addr {
        IpAddr::V4(a) => a.to_bits().into(),
        IpAddr::V6(a) => a.to_bits(),
    }
}

fn address(bits: u128, v4: bool) -> IpAddr {
    match u32::try_from(bits) {
        Ok(bits) if v4 => Ipv4Addr::from_bits(bits).into(),
        _ => Ipv6Addr::from_bits(bits).into(),
    }
}

fn number(value: &Value, key: &str) -> Option<u32> {
    value
        .get(key)
        .and_then(Value::as_u64)
        .and_then(|n| u32::try_from(n).ok())
}

/// Sets a key if there is a value.
fn set(body: &mut Value, key: &str, value: Option<impl Serialize>) {
    if let (Some(value), Some(body)) = (value, body.as_object_mut()) {
        body.insert(key.to_owned(), json!(value));
    }
}

fn ports(
    lab: &Lab,
    api: &Api,
    networks: &BTreeMap<String, MadeNetwork>,
    (groups, policies): (&Groups, &Policies),
) -> anyhow::Result<BTreeMap<String, Placed>> {
    // Chosen addresses first, so that no automatic one takes them.
    let mut order: Vec<&Workload> = lab.workloads.iter().collect();
    order.sort_by_key(|w| w.ips.is_empty());
    let mut bodies = Vec::new();
    for workload in &order {
        bodies.push(
            port_body(lab, workload, networks, (groups, policies))
                .with_context(|| format!("workload {}", workload.name))?,
        );
    }
    let answers = bulk(api, "/v2.0/ports", "ports", bodies)?;
    let mut placed = BTreeMap::new();
    for (workload, answer) in order.iter().zip(&answers) {
        let network = lab
            .network(&workload.network)
            .context("find the workload's network")?;
        let addresses = answer
            .get("fixed_ips")
            .and_then(Value::as_array)
            .into_iter()
            .flatten()
            .map(|fixed| {
                let ip: IpAddr = text(fixed, "ip_address")
                    .parse()
                    .context("read the port's address")?;
                let bits = network
                    .subnet_of(ip)
                    .map_or(if ip.is_ipv4() { 32 } else { 128 }, net::Prefix::bits);
                Ok(Address { ip, bits })
            })
            .collect::<anyhow::Result<_>>()?;
        placed.insert(
            workload.name.clone(),
            Placed {
                host: workload.host.clone(),
                network: workload.network.clone(),
                namespace: namespace(&lab.name, &workload.name),
                port: text(answer, "id").to_owned(),
                mac: text(answer, "mac_address").to_owned(),
                addresses,
            },
        );
    }
    Ok(placed)
}

fn metadata_body(metadata: &RawMetadata) -> Value {
    let user_data = metadata.user_data.as_ref();
    json!({
        "instance_id": metadata.instance_id,
        "hostname": metadata.hostname,
        "public_keys": metadata.public_keys,
        "user_data": user_data.map(|text| STANDARD.encode(text)),
    })
}

fn port_body(
    lab: &Lab,
    workload: &Workload,
    networks: &BTreeMap<String, MadeNetwork>,
    (groups, policies): (&Groups, &Policies),
) -> anyhow::Result<Value> {
    let network = lab.network(&workload.network).context("find its network")?;
    let made = networks
        .get(&workload.network)
        .context("find its network's id")?;
    let mut fixed_ips = Vec::new();
    for cidr in [network.cidr, network.cidr6].into_iter().flatten() {
        let mut fixed = json!({"subnet_id": made.subnets.get(&cidr.to_string()).context("find its subnet's id")?});
        set(
            &mut fixed,
            "ip_address",
            workload.ips.iter().find(|ip| cidr.contains(**ip)),
        );
        fixed_ips.push(fixed);
    }
    let mut body = json!({
        "name": workload.name,
        "network_id": made.id,
        "project_id": made.project,
        "binding:host_id": workload.host,
        "fixed_ips": fixed_ips,
    });
    set(
        &mut body,
        "mac_address",
        workload.mac.map(|mac| mac.to_string()),
    );
    let policy = workload.qos.as_ref().and_then(|name| policies.get(name));
    set(&mut body, "qos_policy_id", policy);
    let metadata = workload.metadata.as_ref().map(metadata_body);
    set(&mut body, "overweave:metadata", metadata);
    if let Some(names) = &workload.groups
        && !names.iter().any(|name| name == "default")
    {
        let ids = names
            .iter()
            .map(|name| {
                groups
                    .get(&(made.project.clone(), name.clone()))
                    .context("find its group's id")
            })
            .collect::<anyhow::Result<Vec<_>>>()?;
        set(&mut body, "security_groups", Some(ids));
    }
    Ok(body)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lab::check;

    #[test]
    fn automatic_addresses_leave_virtual_ones_free() {
        let text = include_str!("../../../../configs/labs/quickstart.yaml");
        let of = |vip: &str, cidr: &str| {
            let text = text.replace("10.0.0.100", vip).replace("10.0.0.0/24", cidr);
            let lab = check::lab("quickstart.yaml", "quickstart", &text).unwrap();
            let network = &lab.networks[0];
            pools(&lab, network, network.cidr.unwrap()).map(Value::from)
        };
        let pool = |start: &str, end: &str| json!({"start": start, "end": end});
        assert_eq!(
            of("10.0.0.100", "10.0.0.0/24"),
            Some(json!([
                pool("10.0.0.1", "10.0.0.99"),
                pool("10.0.0.101", "10.0.0.254")
            ]))
        );
        let routed = text.replace("cidr: 10.0.0.0/24", "router: r1, cidr: 10.0.0.0/24");
        let routed = check::lab("f", "f", &routed).unwrap();
        let cidr = routed.networks[0].cidr.unwrap();
        assert_eq!(
            pools(&routed, &routed.networks[0], cidr).map(Value::from),
            Some(json!([
                pool("10.0.0.2", "10.0.0.99"),
                pool("10.0.0.101", "10.0.0.254")
            ]))
        );
        assert_eq!(
            of("10.0.0.1", "10.0.0.0/24"),
            Some(json!([pool("10.0.0.2", "10.0.0.254")]))
        );
        assert_eq!(
            of("10.0.0.254", "10.0.0.0/24"),
            Some(json!([pool("10.0.0.1", "10.0.0.253")]))
        );
        let lab = check::lab(
            "two-tenants.yaml",
            "t",
            include_str!("../../../../configs/labs/mixed-v4-v6.yaml"),
        )
        .unwrap();
        assert_eq!(
            pools(&lab, &lab.networks[0], lab.networks[0].cidr.unwrap()),
            None
        );
    }
}
