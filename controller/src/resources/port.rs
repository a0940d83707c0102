//! What is a port?
//!
//! Where a workload meets its network: a MAC address, addresses from the network's subnets, and what
//! it may send and receive. Which host it is on is its binding; whether it works there is what that
//! host proved.

use crate::{
    api::Scene,
    refusal::Refusal,
    resource::{
        ALL, Absent, Claim, Kind, Meta, Objects, Operations, Ops, Policy, Resource, Spec, Verb,
        address_key, field,
    },
    resources::{
        FlowClassifier, Host, Network, PortPairGroup, SecurityGroup, Subnet, function::Target,
        network, security_group,
    },
    rules::{
        Caller, Change, Rule, Write,
        addresses::{floor_key, holder, is_automatic, lowered_floor, lowest_free, slaac},
    },
    store::{Read, View},
};
use net::{Mac, Prefix, UnicastMac};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};
use serde_json::{Map, Value, json};
use std::{collections::HashSet, net::IpAddr, sync::Arc};
use uuid::Uuid;

/// How many addresses a port may have.
const ADDRESSES: usize = 64;
/// How many allowed address pairs (Neutron's default).
const PAIRS: usize = 10;
/// How many groups: each is a section of every host that has the port.
const GROUPS: usize = 32;

/// The owner of the port that holds a load balancer's virtual address.
pub const VIP_OWNER: &str = "overweave:load_balancer";
/// Owners whose ports go with what they belong to, never by themselves.
const SERVICE_OWNERS: &[&str] = &[VIP_OWNER];

/// An address that a port has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct FixedIp {
    /// The subnet that it is from.
    pub subnet_id: Uuid,
    /// The address.
    pub ip_address: IpAddr,
}

/// An address that a request wants: by subnet, by address, or both.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WantedIp {
    /// From this subnet.
    #[serde(default)]
    pub subnet_id: Option<Uuid>,
    /// This one.
    #[serde(default)]
    pub ip_address: Option<IpAddr>,
}

/// What a port may send from besides its own addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AddressPair {
    /// The addresses.
    #[serde(with = "bare_host")]
    pub ip_address: Prefix,
    /// The MAC address; a request may leave it out for the port's own.
    #[serde(default)]
    pub mac_address: Option<Mac>,
}

/// A prefix of one address is written without its length.
mod bare_host {
    use super::*;

    pub(super) fn serialize<S: Serializer>(prefix: &Prefix, out: S) -> Result<S::Ok, S::Error> {
        if *prefix == Prefix::host(prefix.addr()) {
            out.collect_str(&prefix.addr())
        } else {
            out.collect_str(prefix)
        }
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(input: D) -> Result<Prefix, D::Error> {
        let text = String::deserialize(input)?;
        parse(&text).ok_or_else(|| D::Error::custom(format!("not an address: {text}")))
    }

    pub(super) fn parse(text: &str) -> Option<Prefix> {
        text.parse::<IpAddr>()
            .map(Prefix::host)
            .ok()
            .or_else(|| text.parse().ok())
    }
}

/// A port.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Port {
    /// What every object has.
    #[serde(flatten)]
    pub meta: Meta,
    /// Where it is.
    pub network_id: Uuid,
    /// Its MAC address; zero in a request stands for a fresh one.
    #[serde(default = "zero")]
    pub mac_address: Mac,
    /// Its addresses, in the order in which they were given.
    #[serde(default)]
    pub fixed_ips: Vec<FixedIp>,
    /// What the request wants; never stored.
    #[serde(default, skip_serializing)]
    pub wanted: Option<Vec<WantedIp>>,
    /// Does it forward?
    pub admin_state_up: bool,
    /// Is what it sends checked, and do its groups hold?
    #[serde(default)]
    pub port_security_enabled: bool,
    /// What it may send from besides.
    #[serde(default)]
    pub allowed_address_pairs: Vec<AddressPair>,
    /// Its groups.
    #[serde(default)]
    pub security_groups: Vec<Uuid>,
    /// What it belongs to.
    #[serde(default)]
    pub device_id: String,
    /// Of which kind that is.
    #[serde(default)]
    pub device_owner: String,
    /// The name of the host that it is on; empty for none.
    #[serde(rename = "binding:host_id", default)]
    pub host: String,
    /// How it is attached.
    #[serde(rename = "binding:vnic_type", default = "normal")]
    pub vnic_type: String,
    /// What another service notes.
    #[serde(rename = "binding:profile", default)]
    pub profile: Map<String, Value>,
}

const fn zero() -> Mac {
    Mac::ZERO
}

fn normal() -> String {
    "normal".to_owned()
}

impl Port {
    /// A port that a rule makes: no security, no groups, addresses as wanted.
    pub fn new(meta: Meta, network_id: Uuid, wanted: Vec<WantedIp>) -> Self {
        Self {
            meta,
            network_id,
            mac_address: Mac::ZERO,
            fixed_ips: Vec::new(),
            wanted: Some(wanted),
            admin_state_up: true,
            port_security_enabled: false,
            allowed_address_pairs: Vec::new(),
            security_groups: Vec::new(),
            device_id: String::new(),
            device_owner: String::new(),
            host: String::new(),
            vnic_type: normal(),
            profile: Map::new(),
        }
    }
}

static OPS: Ops<Port> = Ops::new();

impl Resource for Port {
    const SPEC: &'static Spec = &Spec {
        singular: "port",
        plural: "ports",
        path: "ports",
        storage: "port",
        title: "Port",
        doc: "Where a workload meets its network.",
        verbs: ALL,
        policy: Policy::Anyone,
        quota: Some(("port", 500)),
        tags: true,
        bare: false,
        fields: &[
            field("network_id", Kind::Uuid, "Where it is.").create_only(Absent::Required),
            field("mac_address", Kind::Mac, "Its MAC address.")
                .writable(Absent::Computed)
                .update_by(Policy::AdminOrService),
            field("admin_state_up", Kind::Bool, "Does it forward?").writable(Absent::Bool(true)),
            field(
                "status",
                Kind::Text(16),
                "ACTIVE when its host proved that it works.",
            )
            .computed(),
            field("fixed_ips", Kind::Shape(fixed_ips_shape), "Its addresses.")
                .writable(Absent::Computed),
            field("device_id", Kind::Text(255), "What it belongs to.").writable(Absent::Text("")),
            field("device_owner", Kind::Text(255), "Of which kind that is.")
                .writable(Absent::Text("")),
            field(
                "port_security_enabled",
                Kind::Bool,
                "Is what it sends checked?",
            )
            .writable(Absent::Computed),
            field("security_groups", Kind::Uuids, "Its groups.").writable(Absent::List),
            field(
                "allowed_address_pairs",
                Kind::Shape(pairs_shape),
                "What it may send from.",
            )
            .writable(Absent::List)
            .unfiltered(),
            field(
                "binding:vnic_type",
                Kind::OneOf(VNIC_TYPES),
                "How it is attached.",
            )
            .writable(Absent::Text("normal")),
            field(
                "binding:host_id",
                Kind::Text(255),
                "The host that it is on.",
            )
            .writable(Absent::Text(""))
            .or_null()
            .set_by(Policy::AdminOrService)
            .read_by(Policy::AdminOrService),
            field(
                "binding:profile",
                Kind::Shape(profile_shape),
                "What another service notes.",
            )
            .writable(Absent::Object)
            .or_null()
            .set_by(Policy::Service)
            .read_by(Policy::AdminOrService)
            .unfiltered(),
            field(
                "binding:vif_type",
                Kind::Text(64),
                "How the host attaches it.",
            )
            .read_by(Policy::AdminOrService)
            .computed(),
            field(
                "binding:vif_details",
                Kind::Shape(profile_shape),
                "More of that.",
            )
            .read_by(Policy::AdminOrService)
            .computed()
            .unfiltered(),
        ],
        ops: &OPS as &dyn Operations,
    };
    const RULES: &'static [Rule<Self>] = &[
        place,
        link_address,
        allocate,
        security,
        hold,
        users,
        removal,
    ];

    fn meta(&self) -> &Meta {
        &self.meta
    }

    fn meta_mut(&mut self) -> &mut Meta {
        &mut self.meta
    }

    fn index(&self) -> Vec<(&'static str, String)> {
        let mut index = vec![("network_id", self.network_id.to_string())];
        if !self.device_id.is_empty() {
            index.push(("device_id", self.device_id.clone()));
        }
        if !self.host.is_empty() {
            index.push(("binding:host_id", self.host.clone()));
        }
        for group in &self.security_groups {
            index.push(("security_groups", group.to_string()));
        }
        index
    }

    fn intake(fields: &mut Map<String, Value>) -> Result<(), Refusal> {
        // What is asked for and what is had are two lists: the rule makes one of the other.
        if let Some(asked) = fields.shift_remove("asked:fixed_ips") {
            fields.insert("wanted".to_owned(), asked);
        }
        for (name, empty) in [
            ("binding:host_id", json!("")),
            ("binding:profile", json!({})),
        ] {
            if fields.get(name).is_some_and(Value::is_null) {
                fields.insert(name.to_owned(), empty);
            }
        }
        Ok(())
    }

    fn asked_apart(field: &str) -> bool {
        field == "fixed_ips"
    }

    fn derive(&self, field: &str, scene: &Scene<'_>) -> Value {
        match field {
            "status" => json!(if self.is_active(scene) {
                "ACTIVE"
            } else {
                "DOWN"
            }),
            "binding:vif_type" => json!(self.vif_type(scene)),
            "binding:vif_details" => match self.vif_type(scene) {
                "tap" => json!({"port_filter": true, "connectivity": "l2"}),
                _ => json!({}),
            },
            _ => Value::Null,
        }
    }
}

const VNIC_TYPES: &[&str] = &["normal"];

impl Port {
    fn vif_type(&self, scene: &Scene<'_>) -> &'static str {
        if self.host.is_empty() {
            "unbound"
        } else if scene.snapshot.entry(&Host::name_key(&self.host)).is_some() {
            "tap"
        } else {
            "binding_failed"
        }
    }

    fn is_active(&self, scene: &Scene<'_>) -> bool {
        if !self.admin_state_up {
            return false;
        }
        if SERVICE_OWNERS.contains(&self.device_owner.as_str()) {
            return scene.status.is_network_realised(self.network_id);
        }
        if self.host.is_empty() {
            return false;
        }
        let host = Host::by_name(scene.snapshot, &self.host);
        match host {
            // A foreign VTEP proves nothing by itself: the fabric around it must be there.
            Some(host) if host.is_foreign() => scene.status.is_network_realised(self.network_id),
            Some(host) => scene.status.is_port_realised(self.meta.id, host.meta.id),
            None => false,
        }
    }
}

fn fixed_ips_shape(value: &Value) -> Result<Value, String> {
    let Some(items) = value.as_array() else {
        return Err(format!("Invalid data format for fixed IP: '{value}'"));
    };
    let mut seen = HashSet::new();
    for item in items {
        let keys = item.as_object().filter(|keys| !keys.is_empty());
        let keys = keys.ok_or_else(|| format!("Invalid data format for fixed IP: '{item}'"))?;
        for (key, value) in keys {
            let text = value.as_str().unwrap_or_default();
            match key.as_str() {
                "ip_address" => {
                    let address: IpAddr = text
                        .parse()
                        .ok()
                        .ok_or_else(|| format!("'{text}' is not a valid IP address"))?;
                    if !seen.insert(address) {
                        return Err(format!("Duplicate IP address '{text}'"));
                    }
                }
                "subnet_id" => {
                    let id = text.parse::<Uuid>().ok();
                    id.ok_or_else(|| format!("'{text}' is not a valid UUID"))?;
                }
                _ => return Err(format!("Invalid data format for fixed IP: '{item}'")),
            }
        }
    }
    if items.len() > ADDRESSES {
        return Err(format!("more than {ADDRESSES} addresses"));
    }
    Ok(value.clone())
}

fn pairs_shape(value: &Value) -> Result<Value, String> {
    // Words of their own for what is wrong: `name|text`, told apart in api/body.rs.
    let Some(items) = value.as_array() else {
        return Err("HTTPBadRequest|Allowed address pairs must be a list.".to_owned());
    };
    if items.len() > PAIRS {
        return Err(format!(
            "AllowedAddressPairExhausted|The number of allowed address pair exceeds the maximum {PAIRS}."
        ));
    }
    let mut seen = HashSet::new();
    for item in items {
        let Some(text) = item.get("ip_address") else {
            return Err(
                "AllowedAddressPairsMissingIP|AllowedAddressPair must contain ip_address"
                    .to_owned(),
            );
        };
        let text = text.as_str().unwrap_or_default();
        let Some(prefix) = bare_host::parse(text) else {
            return Err(format!("HTTPBadRequest|'{text}' is not a valid IP address"));
        };
        if prefix.addr().is_multicast() {
            return Err(format!(
                "HTTPBadRequest|IP {text} is a multicast address, which is not supported."
            ));
        }
        let mac = item.get("mac_address").filter(|mac| !mac.is_null());
        let mac = match mac {
            Some(mac) => {
                let text = mac.as_str().unwrap_or_default();
                let mac = text
                    .parse::<Mac>()
                    .ok()
                    .filter(|mac| UnicastMac::try_from(*mac).is_ok());
                Some(mac.ok_or_else(|| {
                    format!("HTTPBadRequest|'{text}' is not a valid MAC address.")
                })?)
            }
            None => None,
        };
        if item.as_object().is_some_and(|keys| {
            keys.keys()
                .any(|key| key != "ip_address" && key != "mac_address")
        }) {
            return Err(format!(
                "HTTPBadRequest|Unrecognized attribute(s) in '{item}'"
            ));
        }
        if !seen.insert((mac, prefix)) {
            let mac = mac.map_or_else(|| "None".to_owned(), |mac| mac.to_string());
            return Err(format!(
                "DuplicateAddressPairInRequest|Request contains duplicate address pair: mac_address {mac} ip_address {text}."
            ));
        }
    }
    Ok(value.clone())
}

fn profile_shape(value: &Value) -> Result<Value, String> {
    let text = value.to_string();
    if !value.is_object() || text.len() > 4095 {
        return Err(format!(
            "'{text}' is not a dictionary of at most 4095 characters"
        ));
    }
    Ok(value.clone())
}

fn place(view: &View, change: &Change<'_, Port>, caller: &Caller) -> Result<Vec<Write>, Refusal> {
    let (Verb::Create, Some(after)) = (change.verb, change.after) else {
        return Ok(Vec::new());
    };
    let network = if change.is_asked() {
        network::visible(view, after.network_id, caller)?
    } else {
        let found = view.object::<Network>(after.network_id);
        found.ok_or_else(|| Refusal::missing("Network", after.network_id))?
    };
    if change.is_asked() && SERVICE_OWNERS.contains(&after.device_owner.as_str()) {
        return Err(Refusal::attribute(
            "device_owner",
            format_args!("'{}' is made by overweave alone", after.device_owner),
        ));
    }
    if change.is_asked() && !change.names("port_security_enabled") {
        let port_security_enabled = network.port_security_enabled;
        return Ok(vec![Write::amend(Port {
            port_security_enabled,
            ..after.clone()
        })]);
    }
    Ok(Vec::new())
}

fn mac_key(network: Uuid, mac: Mac) -> String {
    format!("mac/{network}/{mac}")
}

fn link_address(view: &View, change: &Change<'_, Port>, _: &Caller) -> Result<Vec<Write>, Refusal> {
    let mut writes = Vec::new();
    let key = |port: &Port| mac_key(port.network_id, port.mac_address);
    let Some(after) = change.after else {
        return Ok(change
            .before
            .map(|port| Write::Release(key(port)))
            .into_iter()
            .collect());
    };
    if change
        .before
        .is_some_and(|before| before.mac_address == after.mac_address)
    {
        return Ok(writes);
    }
    let mut port = after.clone();
    if port.mac_address == Mac::ZERO {
        if change.names("mac_address") {
            return Err(Refusal::attribute(
                "mac_address",
                "'00:00:00:00:00:00' is not a valid MAC address",
            ));
        }
        port.mac_address = change.moment.dice.mac();
        while view.entry(&key(&port)).is_some() {
            port.mac_address = change.moment.dice.mac();
        }
    }
    if UnicastMac::try_from(port.mac_address).is_err() {
        return Err(Refusal::attribute(
            "mac_address",
            format_args!("'{}' is not a valid MAC address", port.mac_address),
        ));
    }
    if view.entry(&key(&port)).is_some() {
        return Err(Refusal::conflict(
            "MacAddressInUse",
            format!(
                "Unable to complete operation for network {}. The mac address {} is in use.",
                port.network_id, port.mac_address
            ),
        ));
    }
    if let Some(before) = change.before {
        writes.push(Write::Release(key(before)));
        // Addresses that follow the MAC follow the new one.
        for fixed in &mut port.fixed_ips {
            let subnet = view.object::<Subnet>(fixed.subnet_id);
            if let Some(subnet) = subnet.filter(|subnet| is_automatic(subnet)) {
                fixed.ip_address = slaac(&subnet, port.mac_address);
            }
        }
    }
    writes.push(Write::Claim(key(&port), port.meta.id));
    writes.push(Write::amend(port));
    Ok(writes)
}

/// Turns what is wanted into addresses.
fn allocate(view: &View, change: &Change<'_, Port>, _: &Caller) -> Result<Vec<Write>, Refusal> {
    let Some(after) = change.after else {
        return Ok(Vec::new());
    };
    let create = change.verb == Verb::Create;
    if after.wanted.is_none() && !create {
        return Ok(Vec::new());
    }
    let mut port = after.clone();
    let wanted = port.wanted.take();
    let mut subnets = view.related::<Subnet>("network_id", port.network_id);
    subnets.sort_by_key(|subnet| (subnet.meta.created_at, subnet.meta.id));
    let mut allocation = Allocation {
        view,
        port: &port,
        subnets: &subnets,
        had: change
            .before
            .map(|before| before.fixed_ips.clone())
            .unwrap_or_default(),
        chosen: Vec::new(),
        floors: Vec::new(),
    };
    match &wanted {
        Some(wanted) => {
            // Those with an address first: an automatic choice must not take what another names.
            for wanted in wanted.iter().filter(|wanted| wanted.ip_address.is_some()) {
                allocation.add(*wanted)?;
            }
            for wanted in wanted.iter().filter(|wanted| wanted.ip_address.is_none()) {
                allocation.add(*wanted)?;
            }
        }
        None => allocation.add_defaults()?,
    }
    allocation.add_automatic()?;
    let (chosen, floors) = (allocation.chosen, allocation.floors);
    port.fixed_ips = chosen;
    let mut writes: Vec<Write> = floors
        .into_iter()
        .map(|(subnet, floor)| Write::Record(floor_key(subnet), Arc::new(floor)))
        .collect();
    writes.push(Write::amend(port));
    Ok(writes)
}

struct Allocation<'a> {
    view: &'a View,
    port: &'a Port,
    subnets: &'a [Arc<Subnet>],
    had: Vec<FixedIp>,
    chosen: Vec<FixedIp>,
    floors: Vec<(Uuid, u128)>,
}

impl Allocation<'_> {
    fn add(&mut self, wanted: WantedIp) -> Result<(), Refusal> {
        let subnet = match (wanted.subnet_id, wanted.ip_address) {
            (Some(id), _) => {
                let found = self.subnets.iter().find(|subnet| subnet.meta.id == id);
                let Some(found) = found else {
                    return Err(match self.view.object::<Subnet>(id) {
                        Some(_) => Refusal::input(format_args!(
                            "Failed to create port on network {}, because fixed_ips included invalid subnet {id}",
                            self.port.network_id
                        )),
                        None => Refusal::missing("Subnet", id),
                    });
                };
                found
            }
            (None, Some(address)) => {
                let holds = |subnet: &&Arc<Subnet>| subnet.cidr.contains(address);
                self.subnets.iter().find(holds).ok_or_else(|| {
                    Refusal::invalid(
                        "InvalidIpForNetwork",
                        format!(
                            "IP address {address} is not a valid IP for any of the subnets on the specified network."
                        ),
                    )
                })?
            }
            (None, None) => {
                return Err(Refusal::attribute(
                    "fixed_ips",
                    "neither subnet_id nor ip_address",
                ));
            }
        };
        let subnet = Arc::clone(subnet);
        let ip_address = match wanted.ip_address {
            Some(address) => self.named(&subnet, address)?,
            None if is_automatic(&subnet) => slaac(&subnet, self.port.mac_address),
            None => match self.kept(&subnet) {
                Some(address) => address,
                None => self.lowest(&subnet)?,
            },
        };
        self.choose(&subnet, ip_address);
        Ok(())
    }

    /// An address that the port has already in this subnet stays when only the subnet is named.
    fn kept(&self, subnet: &Subnet) -> Option<IpAddr> {
        let had = self
            .had
            .iter()
            .filter(|had| had.subnet_id == subnet.meta.id);
        had.map(|had| had.ip_address).find(|address| {
            !self
                .chosen
                .iter()
                .any(|chosen| chosen.ip_address == *address)
        })
    }

    fn named(&self, subnet: &Subnet, address: IpAddr) -> Result<IpAddr, Refusal> {
        let cidr = subnet.cidr;
        let edge = cidr.is_ipv4()
            && cidr.bits() < 31
            && (address == cidr.addr() || address == cidr.last());
        if !cidr.contains(address) || edge {
            return Err(Refusal::invalid(
                "InvalidIpForSubnet",
                format!("IP address {address} is not a valid IP for the specified subnet."),
            ));
        }
        if is_automatic(subnet) && address != slaac(subnet, self.port.mac_address) {
            return Err(Refusal::invalid(
                "AllocationOnAutoAddressSubnet",
                format!(
                    "IPv6 address {address} cannot be directly assigned to a port on subnet {} as the subnet is configured for automatic addresses",
                    subnet.meta.id
                ),
            ));
        }
        let taken = holder(self.view, subnet.meta.id, address);
        if taken.is_some_and(|holder| holder != self.port.meta.id) {
            return Err(Refusal::conflict(
                "IpAddressAlreadyAllocated",
                format!(
                    "IP address {address} already allocated in subnet {}",
                    subnet.meta.id
                ),
            ));
        }
        Ok(address)
    }

    fn lowest(&mut self, subnet: &Subnet) -> Result<IpAddr, Refusal> {
        let taken: Vec<IpAddr> = self.chosen.iter().map(|chosen| chosen.ip_address).collect();
        let (address, floor) = lowest_free(self.view, subnet, &taken)?;
        self.floors.retain(|(id, _)| *id != subnet.meta.id);
        self.floors.push((subnet.meta.id, floor));
        Ok(address)
    }

    fn choose(&mut self, subnet: &Subnet, ip_address: IpAddr) {
        let fixed = FixedIp {
            subnet_id: subnet.meta.id,
            ip_address,
        };
        if !self.chosen.contains(&fixed) {
            self.chosen.push(fixed);
        }
    }

    /// One address of each family, from the first subnet that has one left.
    fn add_defaults(&mut self) -> Result<(), Refusal> {
        for v4 in [true, false] {
            let of_family: Vec<Arc<Subnet>> = self
                .subnets
                .iter()
                .filter(|subnet| subnet.cidr.is_ipv4() == v4 && !is_automatic(subnet))
                .cloned()
                .collect();
            let mut full = None;
            for subnet in of_family {
                match self.lowest(&subnet) {
                    Ok(address) => {
                        self.choose(&subnet, address);
                        full = None;
                        break;
                    }
                    Err(refusal) => full = Some(refusal),
                }
            }
            if let Some(refusal) = full {
                return Err(refusal);
            }
        }
        Ok(())
    }

    fn add_automatic(&mut self) -> Result<(), Refusal> {
        let automatic: Vec<Arc<Subnet>> = self
            .subnets
            .iter()
            .filter(|subnet| is_automatic(subnet))
            .cloned()
            .collect();
        for subnet in automatic {
            let address = self.named(&subnet, slaac(&subnet, self.port.mac_address))?;
            self.choose(&subnet, address);
        }
        Ok(())
    }
}

fn security(
    view: &View,
    change: &Change<'_, Port>,
    caller: &Caller,
) -> Result<Vec<Write>, Refusal> {
    let Some(after) = change.after else {
        return Ok(Vec::new());
    };
    if !change.is_asked() {
        return Ok(Vec::new());
    }
    let (mut port, mut writes) = (after.clone(), Vec::new());
    for pair in &mut port.allowed_address_pairs {
        pair.mac_address.get_or_insert(port.mac_address);
    }
    if !port.port_security_enabled {
        if !port.allowed_address_pairs.is_empty() {
            return Err(Refusal::conflict(
                "AddressPairAndPortSecurityRequired",
                "Port Security must be enabled in order to have allowed address pairs on a port.",
            ));
        }
        if !port.security_groups.is_empty() {
            if change.names("security_groups") {
                return Err(Refusal::invalid(
                    "PortSecurityAndIPRequiredForSecurityGroups",
                    "Port security must be enabled and port must have an IP address in order to use security groups.",
                ));
            }
            return Err(Refusal::conflict(
                "PortSecurityPortHasSecurityGroup",
                "Port has security group associated. Cannot disable port security or IP address until security group is removed.",
            ));
        }
    }
    let service = port.device_owner.starts_with("network:");
    if change.verb == Verb::Create
        && port.port_security_enabled
        && !service
        && !change.names("security_groups")
    {
        let (group, made) =
            security_group::default_of(view, &port.meta.project_id, &change.moment.dice);
        writes.extend(made);
        port.security_groups = vec![group];
    } else if change.names("security_groups") {
        if port.security_groups.len() > GROUPS {
            return Err(Refusal::attribute(
                "security_groups",
                format_args!("more than {GROUPS} groups"),
            ));
        }
        for id in &port.security_groups {
            let group = view.object::<SecurityGroup>(*id);
            // An admin may give a port of one project the group of another, as in Neutron.
            let usable = group.is_some_and(|group| caller.owns(&group.meta.project_id));
            if !usable {
                return Err(Refusal::missing("SecurityGroup", id));
            }
        }
    }
    writes.push(Write::amend(port));
    Ok(writes)
}

/// Claims the addresses that came and frees those that went.
fn hold(view: &View, change: &Change<'_, Port>, _: &Caller) -> Result<Vec<Write>, Refusal> {
    let of = |port: Option<&Port>| port.map(|port| port.fixed_ips.clone()).unwrap_or_default();
    let (old, new) = (of(change.before), of(change.after));
    let mut writes = Vec::new();
    let mut floors: Vec<(Uuid, u128)> = Vec::new();
    for fixed in old.iter().filter(|fixed| !new.contains(fixed)) {
        writes.push(Write::Release(address_key(
            fixed.subnet_id,
            fixed.ip_address,
        )));
        if let Some(floor) = lowered_floor(view, fixed.subnet_id, fixed.ip_address) {
            match floors
                .iter_mut()
                .find(|(subnet, _)| *subnet == fixed.subnet_id)
            {
                Some((_, lowest)) => *lowest = floor.min(*lowest),
                None => floors.push((fixed.subnet_id, floor)),
            }
        }
    }
    if let Some(port) = change.after {
        for fixed in new.iter().filter(|fixed| !old.contains(fixed)) {
            let key = address_key(fixed.subnet_id, fixed.ip_address);
            let taken = view.get::<Claim>(&key);
            if taken.is_some_and(|claim| claim.holder != port.meta.id) {
                return Err(Refusal::conflict(
                    "IpAddressAlreadyAllocated",
                    format!(
                        "IP address {} already allocated in subnet {}",
                        fixed.ip_address, fixed.subnet_id
                    ),
                ));
            }
            writes.push(Write::Claim(key, port.meta.id));
        }
    }
    for (subnet, floor) in floors {
        writes.push(Write::Record(floor_key(subnet), Arc::new(floor)));
    }
    Ok(writes)
}

/// What names a port must not lose it, nor its address, unawares.
fn users(_: &View, change: &Change<'_, Port>, _: &Caller) -> Result<Vec<Write>, Refusal> {
    let Some(before) = change.before else {
        return Ok(Vec::new());
    };
    if change.is_asked()
        && SERVICE_OWNERS.contains(&before.device_owner.as_str())
        && (change.verb == Verb::Delete
            || change.names("fixed_ips")
            || change.names("device_owner")
            || change.names("device_id")
            || change.names("mac_address"))
    {
        return Err(Refusal::conflict(
            "ServicePortInUse",
            format!(
                "Port {} cannot be deleted directly via the port API: has device owner {}.",
                before.meta.id, before.device_owner
            ),
        ));
    }
    Ok(Vec::new())
}

fn removal(view: &View, change: &Change<'_, Port>, caller: &Caller) -> Result<Vec<Write>, Refusal> {
    let (Verb::Delete, Some(before)) = (change.verb, change.before) else {
        return Ok(Vec::new());
    };
    let compute = before.device_owner.starts_with("compute:");
    if change.is_asked() && compute && !caller.admin && !caller.service {
        return Err(Refusal::denied("rule:delete_port"));
    }
    let id = before.meta.id;
    for side in ["logical_source_port", "logical_destination_port"] {
        if let Some(classifier) = view.related::<FlowClassifier>(side, id).first() {
            return Err(Refusal::conflict(
                "PortInUse",
                format!(
                    "Unable to complete operation on port {id}. Flow classifier {} names it.",
                    classifier.meta.id
                ),
            ));
        }
    }
    // A member that is gone leaves its load balancers; they spread over the others.
    let groups = view.related::<PortPairGroup>("member", id);
    let without = |group: &Arc<PortPairGroup>| {
        let mut group = PortPairGroup::clone(group);
        if let Some(balancer) = group.load_balancer_mut() {
            balancer
                .members
                .retain(|member| member.target != Target::Port(id));
        }
        Write::put(group)
    };
    Ok(groups.iter().map(without).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_pair_of_one_address_is_written_bare() {
        let text = r#"{"ip_address":"10.0.0.9","mac_address":null}"#;
        let pair: AddressPair = serde_json::from_str(text).unwrap();
        assert_eq!(pair.ip_address, Prefix::host("10.0.0.9".parse().unwrap()));
        assert_eq!(serde_json::to_string(&pair).unwrap(), text);
        let wide: AddressPair = serde_json::from_str(r#"{"ip_address":"10.0.0.0/8"}"#).unwrap();
        assert_eq!(json!(wide)["ip_address"], "10.0.0.0/8");
    }

    #[test]
    fn fixed_ips_are_checked_in_all_their_forms() {
        let id = Uuid::new_v4();
        for good in [
            json!([]),
            json!([{"subnet_id": id}]),
            json!([{"ip_address": "10.0.0.1"}]),
            json!([{"subnet_id": id, "ip_address": "fd00::1"}]),
        ] {
            assert!(fixed_ips_shape(&good).is_ok(), "{good}");
        }
        for bad in [
            json!("10.0.0.1"),
            json!([{}]),
            json!([{"ip_address": "10.0.0.500"}]),
            json!([{"subnet_id": "x"}]),
            json!([{"ip_address": "10.0.0.1"}, {"ip_address": "10.0.0.1"}]),
            json!([{"ip_address": "10.0.0.1", "more": 1}]),
        ] {
            assert!(fixed_ips_shape(&bad).is_err(), "{bad}");
        }
    }
}
