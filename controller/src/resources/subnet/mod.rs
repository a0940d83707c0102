//! What is a subnet?
//!
//! A block of addresses on a network, with the pools from which ports get theirs.

mod pool;

use crate::{
    api::Scene,
    refusal::Refusal,
    resource::{
        ALL, Absent, Kind, Lookup, Meta, Objects, Operations, Ops, Policy, Resource, Spec, Verb,
        field,
    },
    resources::{
        Network, Port,
        port::{FixedIp, GATEWAY_OWNER},
        router,
    },
    rules::{
        Caller, Change, Rule, Write,
        addresses::{address, floor_key, holder, is_automatic, lowest_free, number, slaac},
    },
    store::{Read, View},
};
use net::Prefix;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use std::{collections::HashSet, net::IpAddr, sync::Arc};
use uuid::Uuid;

/// How many name servers a subnet may have (Neutron's default).
const NAME_SERVERS: usize = 5;
/// How many host routes a subnet may have (Neutron's default).
const ROUTES: usize = 20;
/// How many pools: each allocation walks them.
const POOLS: usize = 64;
/// How many subnets on a network: each allocation walks them.
const SUBNETS: usize = 256;

/// A run of addresses, both ends included.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pool {
    /// The first.
    pub start: IpAddr,
    /// The last.
    pub end: IpAddr,
}

/// A route that DHCP tells the hosts, or that a router has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HostRoute {
    /// Where to.
    pub destination: Prefix,
    /// Through whom.
    pub nexthop: IpAddr,
}

/// How hosts get IPv6 addresses, or routers advertise.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Ipv6Mode {
    /// Router advertisements, addresses by EUI-64.
    #[serde(rename = "slaac")]
    Slaac,
    /// Addresses from DHCPv6.
    #[serde(rename = "dhcpv6-stateful")]
    DhcpStateful,
    /// Addresses by EUI-64, the rest from DHCPv6.
    #[serde(rename = "dhcpv6-stateless")]
    DhcpStateless,
}

impl Ipv6Mode {
    const WORDS: &'static [&'static str] = &["slaac", "dhcpv6-stateful", "dhcpv6-stateless"];

    const fn word(self) -> &'static str {
        match self {
            Self::Slaac => "slaac",
            Self::DhcpStateful => "dhcpv6-stateful",
            Self::DhcpStateless => "dhcpv6-stateless",
        }
    }
}

/// A subnet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Subnet {
    /// What every object has.
    #[serde(flatten)]
    pub meta: Meta,
    /// Where it is.
    pub network_id: Uuid,
    /// 4 or 6.
    pub ip_version: u8,
    /// The block.
    pub cidr: Prefix,
    /// The way out, if there is one.
    #[serde(default)]
    pub gateway_ip: Option<IpAddr>,
    /// Are addresses handed out by DHCP (v4, v6) or advertised (v6)?
    pub enable_dhcp: bool,
    /// Where automatic addresses come from.
    #[serde(default)]
    pub allocation_pools: Vec<Pool>,
    /// What DHCP says.
    pub dns_nameservers: Vec<IpAddr>,
    /// What DHCP says.
    pub host_routes: Vec<HostRoute>,
    /// How routers advertise.
    pub ipv6_ra_mode: Option<Ipv6Mode>,
    /// How hosts get addresses.
    pub ipv6_address_mode: Option<Ipv6Mode>,
    /// Whose ports get addresses of it unasked, by `device_owner`; empty: all that no other subnet is for.
    #[serde(default)]
    pub service_types: Vec<String>,
    /// The pool that its block is from.
    #[serde(default)]
    pub subnetpool_id: Option<Uuid>,
    /// What a create asks of a pool.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wanted: Option<pool::Wanted>,
}

impl Subnet {
    /// By what the subnets of a pool that are one project's are found.
    fn share(pool: Uuid, project: &str) -> String {
        format!("{pool}:{project}")
    }
}

static OPS: Ops<Subnet> = Ops::new();

impl Resource for Subnet {
    const SPEC: &'static Spec = &Spec {
        singular: "subnet",
        plural: "subnets",
        path: "subnets",
        storage: "subnet",
        title: "Subnet",
        doc: "A block of addresses on a network.",
        verbs: ALL,
        policy: Policy::Anyone,
        quota: Some(("subnet", 100)),
        tags: true,
        bare: false,
        fields: &[
            field("network_id", Kind::Uuid, "Where it is.").create_only(Absent::Required),
            field("ip_version", Kind::Int(4, 6), "4 or 6.").create_only(Absent::Required),
            field("cidr", Kind::Text(64), "The block.").create_only(Absent::Computed),
            field("gateway_ip", Kind::Address, "The way out; null for none.")
                .writable(Absent::Computed)
                .or_null(),
            field("enable_dhcp", Kind::Bool, "Are addresses handed out?")
                .writable(Absent::Bool(true)),
            field(
                "allocation_pools",
                Kind::Shape(pools_shape),
                "Whence automatic addresses come.",
            )
            .writable(Absent::Computed)
            .unfiltered(),
            field(
                "dns_nameservers",
                Kind::Shape(servers_shape),
                "Name servers for DHCP.",
            )
            .writable(Absent::List)
            .unfiltered(),
            field("host_routes", Kind::Shape(routes_shape), "Routes for DHCP.")
                .writable(Absent::List)
                .unfiltered(),
            field(
                "ipv6_ra_mode",
                Kind::OneOf(Ipv6Mode::WORDS),
                "How routers advertise.",
            )
            .create_only(Absent::Null)
            .or_null(),
            field(
                "ipv6_address_mode",
                Kind::OneOf(Ipv6Mode::WORDS),
                "How hosts get addresses.",
            )
            .create_only(Absent::Null)
            .or_null(),
            field(
                "router:external",
                Kind::Bool,
                "Does its network lead outside?",
            )
            .computed(),
            field(
                "service_types",
                Kind::Words,
                "Whose ports get addresses of it unasked, by device_owner.",
            )
            .writable(Absent::List)
            .unfiltered(),
            field(
                "subnetpool_id",
                Kind::Uuid,
                "The pool that its block is from.",
            )
            .create_only(Absent::Null)
            .or_null(),
            field(
                "prefixlen",
                Kind::Int(0, 128),
                "The length of the block that a pool is to give.",
            )
            .create_only(Absent::Computed)
            .read_by(Policy::Nobody)
            .computed(),
            field(
                "use_default_subnetpool",
                Kind::Bool,
                "Is its block to be from the family's default pool?",
            )
            .create_only(Absent::Computed)
            .read_by(Policy::Nobody)
            .computed(),
        ],
        actions: &[],
        parts: &[],
        ops: &OPS as &dyn Operations,
    };
    const RULES: &'static [Rule<Self>] = &[
        place,
        pool::block,
        block,
        modes,
        gateway_and_pools,
        gateway_in_use,
        options,
        automatic,
        for_gateways,
        removal,
    ];

    fn meta(&self) -> &Meta {
        &self.meta
    }

    fn meta_mut(&mut self) -> &mut Meta {
        &mut self.meta
    }

    fn shared(&self, read: &dyn Lookup) -> bool {
        read.object::<Network>(self.network_id)
            .is_some_and(|network| Resource::shared(&*network, read))
    }

    fn shared_with(&self, read: &dyn Lookup, project: &str) -> bool {
        read.object::<Network>(self.network_id)
            .is_some_and(|network| Resource::shared_with(&*network, read, project))
    }

    fn granted(read: &dyn Lookup, project: &str) -> Vec<Uuid> {
        let networks = Network::granted(read, project);
        let subnets = networks
            .into_iter()
            .flat_map(|id| read.related::<Self>("network_id", id));
        subnets.map(|subnet| subnet.meta.id).collect()
    }

    fn index(&self) -> Vec<(&'static str, String)> {
        let mut index = vec![("network_id", self.network_id.to_string())];
        if let Some(pool) = self.subnetpool_id {
            index.push(("subnetpool_id", pool.to_string()));
            index.push(("share", Self::share(pool, &self.meta.project_id)));
        }
        index
    }

    fn derive(&self, field: &str, scene: &Scene<'_>) -> Value {
        match field {
            "router:external" => {
                let network = scene.snapshot.object::<Network>(self.network_id);
                json!(network.is_some_and(|network| network.external))
            }
            _ => Value::Null,
        }
    }

    fn intake(fields: &mut Map<String, Value>) -> Result<(), Refusal> {
        pool::intake(fields)?;
        let Some(Value::String(text)) = fields.get("cidr") else {
            unreachable!("a subnet without a block is refused before");
        };
        let cidr = loose_prefix(text)
            .ok_or_else(|| Refusal::input(format_args!("{text} is not in a CIDR format")))?;
        fields.insert("cidr".to_owned(), Value::String(cidr.to_string()));
        Ok(())
    }
}

/// An address or prefix; host bits are cut off.
pub(crate) fn loose_prefix(text: &str) -> Option<Prefix> {
    match text.split_once('/') {
        Some((address, bits)) => {
            let bits = bits
                .parse()
                .ok()
                .filter(|_| bits.bytes().all(|b| b.is_ascii_digit()))?;
            Prefix::containing(address.parse().ok()?, bits).ok()
        }
        None => text.parse().ok().map(Prefix::host),
    }
}

fn list<'a>(value: &'a Value, what: &str) -> Result<&'a Vec<Value>, String> {
    value
        .as_array()
        .ok_or_else(|| format!("Invalid data format for {what}: '{value}'"))
}

fn pools_shape(value: &Value) -> Result<Value, String> {
    for pool in list(value, "IP pool")? {
        let ends = pool
            .as_object()
            .ok_or_else(|| format!("Invalid data format for IP pool: '{pool}'"))?;
        if ends.len() != 2 {
            return Err(format!("Invalid data format for IP pool: '{pool}'"));
        }
        for end in ["start", "end"] {
            let text = ends.get(end).and_then(Value::as_str);
            let text = text.ok_or_else(|| format!("Invalid data format for IP pool: '{pool}'"))?;
            let address = text.parse::<IpAddr>().ok();
            address.ok_or_else(|| format!("'{text}' is not a valid IP address"))?;
        }
    }
    Ok(value.clone())
}

fn servers_shape(value: &Value) -> Result<Value, String> {
    let mut seen = HashSet::new();
    for server in list(value, "nameserver")? {
        let text = server.as_str().unwrap_or_default();
        let address: IpAddr = text.parse().ok().ok_or_else(|| {
            format!("'{text}' is not a valid nameserver. '{text}' is not a valid IP address")
        })?;
        if !seen.insert(address) {
            return Err(format!("Duplicate nameserver '{text}'"));
        }
    }
    Ok(value.clone())
}

pub(super) fn routes_shape(value: &Value) -> Result<Value, String> {
    // Clients that want none say null.
    if value.is_null() {
        return Ok(Value::Array(Vec::new()));
    }
    let mut routes = Vec::new();
    for route in list(value, "hostroute")? {
        let text = |name: &str| route.get(name).and_then(Value::as_str).unwrap_or_default();
        if route.as_object().is_none_or(|keys| keys.len() != 2) {
            return Err(format!("Invalid data format for hostroute: '{route}'"));
        }
        let (to, via) = (text("destination"), text("nexthop"));
        let destination = to
            .contains('/')
            .then(|| loose_prefix(to))
            .flatten()
            .ok_or_else(|| format!("'{to}' is not a valid CIDR"))?;
        let nexthop = via.parse().ok();
        let nexthop = nexthop.ok_or_else(|| format!("'{via}' is not a valid IP address"))?;
        let route = HostRoute {
            destination,
            nexthop,
        };
        if routes.contains(&route) {
            return Err(format!("Duplicate hostroute '{to}'"));
        }
        routes.push(route);
    }
    serde_json::to_value(routes).map_err(|error| error.to_string())
}

fn place(view: &View, change: &Change<'_, Subnet>, caller: &Caller) -> Result<Vec<Write>, Refusal> {
    let Some(after) = change.made() else {
        // A subnet that came, changed or went is a new revision of its network.
        let changed = change.before != change.after;
        let network = change
            .subject()
            .filter(|_| changed)
            .map(|subnet| subnet.network_id);
        return Ok(network
            .map(|id| Write::Touch(Network::SPEC, id))
            .into_iter()
            .collect());
    };
    let Some(network) = view.object::<Network>(after.network_id) else {
        return Err(Refusal::missing("Network", after.network_id));
    };
    let open = caller.owns(&network.meta.project_id) || caller.is_told("create_subnet");
    if change.is_asked() && !open {
        return Err(Refusal::denied("rule:create_subnet"));
    }
    super::network::carries(&network, after.cidr)?;
    Ok(vec![Write::Touch(Network::SPEC, network.meta.id)])
}

fn block(view: &View, change: &Change<'_, Subnet>, _: &Caller) -> Result<Vec<Write>, Refusal> {
    let Some(after) = change.after else {
        return Ok(Vec::new());
    };
    let (cidr, v4) = (after.cidr, after.cidr.is_ipv4());
    if after.ip_version == 5 {
        return Err(Refusal::attribute("ip_version", "5 is not in valid_values"));
    }
    if v4 != (after.ip_version == 4) {
        return Err(Refusal::input(format_args!(
            "cidr '{cidr}' does not match the ip_version '{}'",
            after.ip_version
        )));
    }
    if after.enable_dhcp {
        if cidr.addr().is_unspecified() {
            return Err(Refusal::input(format_args!(
                "First IP '{}' of network is not supported if enable_dhcp is True.",
                cidr.addr()
            )));
        }
        if (v4 && cidr.bits() > 30) || (!v4 && cidr.bits() > 126) {
            return Err(Refusal::input(
                "Subnet has a prefix length that is incompatible with DHCP service enabled",
            ));
        }
    }
    if cidr.addr().is_multicast() {
        return Err(Refusal::input(format_args!("cidr '{cidr}' is multicast")));
    }
    if change.verb == Verb::Create {
        let siblings = view.related::<Subnet>("network_id", after.network_id);
        if siblings.len() >= SUBNETS {
            return Err(Refusal::input(format_args!(
                "a network has at most {SUBNETS} subnets"
            )));
        }
        if siblings.iter().any(|sibling| sibling.cidr.overlaps(cidr)) {
            return Err(Refusal::input(format_args!(
                "Requested subnet with cidr: {cidr} for network: {} overlaps with another subnet",
                after.network_id
            )));
        }
    }
    Ok(Vec::new())
}

fn modes(_: &View, change: &Change<'_, Subnet>, _: &Caller) -> Result<Vec<Write>, Refusal> {
    let Some(after) = change.after else {
        return Ok(Vec::new());
    };
    let (ra, address) = (after.ipv6_ra_mode, after.ipv6_address_mode);
    if ra.is_none() && address.is_none() {
        return Ok(Vec::new());
    }
    if after.ip_version == 4 {
        let name = if ra.is_some() {
            "ipv6_ra_mode"
        } else {
            "ipv6_address_mode"
        };
        return Err(Refusal::input(format_args!(
            "{name} is not valid when ip_version is 4"
        )));
    }
    if !after.enable_dhcp {
        return Err(Refusal::input(
            "ipv6_ra_mode or ipv6_address_mode cannot be set when enable_dhcp is set to False",
        ));
    }
    if let (Some(ra), Some(address)) = (ra, address)
        && ra != address
    {
        return Err(Refusal::input(format_args!(
            "ipv6_ra_mode set to '{}' with ipv6_address_mode set to '{}' is not valid. If both attributes are set, they must be the same value",
            ra.word(),
            address.word()
        )));
    }
    let eui64 = |mode| matches!(mode, Some(Ipv6Mode::Slaac | Ipv6Mode::DhcpStateless));
    if (eui64(ra) || eui64(address)) && after.cidr.bits() != 64 {
        return Err(Refusal::input(format_args!(
            "Invalid CIDR {} for IPv6 address mode. OpenStack uses the EUI-64 address format, which requires the prefix to be /64",
            after.cidr
        )));
    }
    Ok(Vec::new())
}

/// The addresses that hosts may have: for IPv4 without the network's and the broadcast address, for
/// IPv6 without the router anycast address.
fn usable(cidr: Prefix) -> (u128, u128) {
    let (first, last) = (number(cidr.addr()), number(cidr.last()));
    match (cidr.is_ipv4(), cidr.bits()) {
        (true, ..=30) => (first + 1, last - 1),
        (false, ..=126) => (first + 1, last),
        _ => (first, last),
    }
}

fn default_pools(cidr: Prefix, gateway: Option<IpAddr>) -> Vec<Pool> {
    let (first, last) = usable(cidr);
    let like = cidr.addr();
    let pool = |start: u128, end: u128| Pool {
        start: address(start, like),
        end: address(end, like),
    };
    let Some(gateway) = gateway
        .filter(|gateway| cidr.contains(*gateway))
        .map(number)
    else {
        return vec![pool(first, last)];
    };
    let mut pools = Vec::new();
    if gateway > first {
        pools.push(pool(first, (gateway - 1).min(last)));
    }
    if gateway < last {
        pools.push(pool((gateway + 1).max(first), last));
    }
    pools
}

fn gateway_and_pools(
    _: &View,
    change: &Change<'_, Subnet>,
    _: &Caller,
) -> Result<Vec<Write>, Refusal> {
    let Some(after) = change.after else {
        return Ok(Vec::new());
    };
    let mut subnet = after.clone();
    let cidr = subnet.cidr;
    if change.verb == Verb::Create {
        if !change.names("gateway_ip") {
            let first = number(cidr.addr());
            // IPv6 has the subnet router's anycast address for it (RFC 4291 §2.6.1).
            let gateway = if cidr.is_ipv4() && cidr.bits() < 31 {
                first + 1
            } else {
                first
            };
            subnet.gateway_ip = Some(address(gateway, cidr.addr()));
        }
        if !change.names("allocation_pools") {
            subnet.allocation_pools = default_pools(cidr, subnet.gateway_ip);
        }
    }
    if let Some(gateway) = subnet.gateway_ip {
        let inside = cidr.contains(gateway);
        let edge = cidr.is_ipv4()
            && cidr.bits() < 31
            && (gateway == cidr.addr() || gateway == cidr.last());
        if gateway.is_ipv4() != cidr.is_ipv4() || (inside && edge) {
            return Err(Refusal::input("Gateway is not valid on subnet"));
        }
    }
    check_pools(&subnet)?;
    Ok(vec![Write::amend(subnet)])
}

/// The gateway stays while it is a router's address.
fn gateway_in_use(
    view: &View,
    change: &Change<'_, Subnet>,
    _: &Caller,
) -> Result<Vec<Write>, Refusal> {
    let (Some(before), Some(after)) = (change.before, change.after) else {
        return Ok(Vec::new());
    };
    let had = before
        .gateway_ip
        .filter(|had| after.gateway_ip != Some(*had));
    let holder = had.and_then(|had| holder(view, before.meta.id, had));
    let port = holder.and_then(|id| view.object::<Port>(id));
    if let Some((had, port)) = had.zip(port)
        && router::is_interface(view, &port)
    {
        return Err(Refusal::conflict(
            "GatewayIpInUse",
            format!(
                "Current gateway ip {had} already in use by port {}. Unable to update.",
                port.meta.id
            ),
        ));
    }
    Ok(Vec::new())
}

fn check_pools(subnet: &Subnet) -> Result<(), Refusal> {
    let cidr = subnet.cidr;
    if subnet.allocation_pools.len() > POOLS {
        return Err(Refusal::input(format_args!(
            "a subnet has at most {POOLS} allocation pools"
        )));
    }
    let mut pools = subnet.allocation_pools.clone();
    pools.sort_by_key(|pool| number(pool.start));
    let (first, last) = usable(cidr);
    for Pool { start, end } in &pools {
        if start.is_ipv4() != end.is_ipv4() || number(*start) > number(*end) {
            return Err(Refusal::invalid(
                "InvalidAllocationPool",
                format!("The allocation pool {{'start': '{start}', 'end': '{end}'}} is not valid."),
            ));
        }
        if start.is_ipv4() != cidr.is_ipv4() || number(*start) < first || number(*end) > last {
            return Err(Refusal::invalid(
                "OutOfBoundsAllocationPool",
                format!("The allocation pool {start}-{end} spans beyond the subnet cidr {cidr}."),
            ));
        }
    }
    for (one, next) in pools.iter().zip(pools.iter().skip(1)) {
        if number(next.start) <= number(one.end) {
            return Err(Refusal::conflict(
                "OverlappingAllocationPools",
                format!(
                    "Found overlapping allocation pools: {}-{} {}-{} for subnet {cidr}.",
                    one.start, one.end, next.start, next.end
                ),
            ));
        }
    }
    if let Some(gateway) = subnet.gateway_ip {
        let at = number(gateway);
        let holds = |pool: &&Pool| (number(pool.start)..=number(pool.end)).contains(&at);
        if let Some(pool) = pools.iter().find(holds) {
            return Err(Refusal::conflict(
                "GatewayConflictWithAllocationPools",
                format!(
                    "Gateway ip {gateway} conflicts with allocation pool {}-{}.",
                    pool.start, pool.end
                ),
            ));
        }
    }
    Ok(())
}

fn options(_: &View, change: &Change<'_, Subnet>, _: &Caller) -> Result<Vec<Write>, Refusal> {
    let Some(after) = change.after else {
        return Ok(Vec::new());
    };
    let family = |address: &IpAddr| address.is_ipv4() == after.cidr.is_ipv4();
    if after.dns_nameservers.len() > NAME_SERVERS {
        return Err(Refusal::invalid(
            "DNSNameServersExhausted",
            format!(
                "Unable to complete operation for {}. The number of DNS nameservers exceeds the limit {NAME_SERVERS}.",
                if change.verb == Verb::Create {
                    "new subnet".to_owned()
                } else {
                    after.meta.id.to_string()
                }
            ),
        ));
    }
    if after.host_routes.len() > ROUTES {
        return Err(Refusal::invalid(
            "HostRoutesExhausted",
            format!(
                "Unable to complete operation for {}. The number of host routes exceeds the limit {ROUTES}.",
                after.meta.id
            ),
        ));
    }
    if let Some(server) = after.dns_nameservers.iter().find(|server| !family(server)) {
        return Err(Refusal::input(format_args!(
            "dns_nameserver '{server}' does not match the ip_version '{}'",
            after.ip_version
        )));
    }
    for route in &after.host_routes {
        if !family(&route.nexthop) || !family(&route.destination.addr()) {
            return Err(Refusal::input(format_args!(
                "host_routes '{}' does not match the ip_version '{}'",
                route.destination, after.ip_version
            )));
        }
    }
    Ok(Vec::new())
}

/// A subnet with automatic addresses gives one to every port that is there already.
#[expect(clippy::unnecessary_wraps, reason = "a rule's signature")]
fn automatic(view: &View, change: &Change<'_, Subnet>, _: &Caller) -> Result<Vec<Write>, Refusal> {
    let Some(after) = change.made() else {
        let mut writes = Vec::new();
        if let (Some(before), Some(after)) = (change.before, change.after)
            && before.allocation_pools != after.allocation_pools
        {
            writes.push(Write::Release(floor_key(after.meta.id)));
        }
        return Ok(writes);
    };
    if !is_automatic(after) {
        return Ok(Vec::new());
    }
    // A router's address is the subnet's gateway, once it is attached.
    let mut ports = view.related::<Port>("network_id", after.network_id);
    ports.retain(|port| !router::is_interface(view, port));
    let with_address = |port: &Arc<Port>| {
        let mut port = Port::clone(port);
        let ip_address = slaac(after, port.mac_address);
        port.fixed_ips.push(FixedIp {
            subnet_id: after.meta.id,
            ip_address,
        });
        Write::put(port)
    };
    Ok(ports.iter().map(with_address).collect())
}

/// Gateways that are on an external network already get an address of a subnet that comes, where they have none of its family, as in
/// Neutron. Who finds none free, or has overlapping addresses inside, goes without.
#[expect(clippy::unnecessary_wraps, reason = "a rule's signature")]
fn for_gateways(
    view: &View,
    change: &Change<'_, Subnet>,
    _: &Caller,
) -> Result<Vec<Write>, Refusal> {
    let network = |id| view.object::<Network>(id);
    let Some(after) = change.made().filter(|s| !is_automatic(s)) else {
        return Ok(Vec::new());
    };
    let own = after.service_types.iter().any(|kind| kind == GATEWAY_OWNER);
    let meant = own || after.service_types.is_empty();
    if !meant || !network(after.network_id).is_some_and(|network| network.external) {
        return Ok(Vec::new());
    }
    let subnet = [Arc::new(after.clone())];
    let v4 = after.cidr.is_ipv4();
    let mut ports = view.related::<Port>("network_id", after.network_id);
    ports.retain(|port| {
        let router = Some(port).filter(|port| port.device_owner == GATEWAY_OWNER);
        let router = router.and_then(|port| port.device_id.parse().ok());
        let apart = router.is_some_and(|id| router::apart(view, id, &subnet).is_ok());
        // What a port gives itself by a prefix is no address for others to come to.
        let has = |fixed: &FixedIp| {
            let of = view.object::<Subnet>(fixed.subnet_id);
            fixed.ip_address.is_ipv4() == v4 && of.is_some_and(|s| !is_automatic(&s))
        };
        apart && !port.fixed_ips.iter().any(has)
    });
    ports.sort_by_key(|port| (port.meta.created_at, port.meta.id));
    let (mut taken, mut floor, mut writes) = (Vec::new(), None, Vec::new());
    for port in ports {
        let Ok((ip_address, next)) = lowest_free(view, after, &taken) else {
            break;
        };
        taken.push(ip_address);
        floor = Some(next);
        let mut port = Port::clone(&port);
        port.fixed_ips.push(FixedIp {
            subnet_id: after.meta.id,
            ip_address,
        });
        writes.push(Write::put(port));
    }
    if let Some(floor) = floor {
        writes.push(Write::Record(floor_key(after.meta.id), Arc::new(floor)));
    }
    Ok(writes)
}

fn removal(view: &View, change: &Change<'_, Subnet>, _: &Caller) -> Result<Vec<Write>, Refusal> {
    let Some(before) = change.removed() else {
        return Ok(Vec::new());
    };
    let id = before.meta.id;
    let in_use = || {
        Refusal::conflict(
            "SubnetInUse",
            format!(
                "Unable to complete operation on subnet {id}: One or more ports have an IP allocation from this subnet."
            ),
        )
    };
    let mut writes = vec![Write::Release(floor_key(id))];
    let holders: Vec<Uuid> = view
        .scan(&format!("ip/{id}/"))
        .filter_map(|(_, entry)| entry.peek::<crate::resource::Claim>())
        .map(|claim| claim.holder)
        .collect();
    if !holders.is_empty() && !is_automatic(before) {
        return Err(in_use());
    }
    for holder in holders {
        let port = view.object::<Port>(holder).ok_or_else(in_use)?;
        if router::is_interface(view, &port) {
            return Err(in_use());
        }
        let mut port = Port::clone(&port);
        port.fixed_ips.retain(|fixed| fixed.subnet_id != id);
        writes.push(Write::put(port));
    }
    Ok(writes)
}
