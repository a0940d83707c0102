//! Which pages are there?
//!
//! Two trees over what is known of an instance: EC2's (`/latest/meta-data/…`, one value a page) and OpenStack's
//! (`/openstack/latest/meta_data.json`). A path that names a directory lists it.

use std::net::IpAddr;

use hostconfig::{Subnet, network::RaMode};
use serde_json::{Value, json};

use super::directory::Instance;

/// The versions of EC2's tree, oldest first; they say the same.
const EC2: [&str; 2] = ["2009-04-04", "latest"];
/// Of OpenStack's: the first with `network_data.json`, and the last that clients ask for.
const OPENSTACK: [&str; 3] = ["2015-10-15", "2018-08-27", "latest"];

const TEXT: &str = "text/plain; charset=UTF-8";
const JSON: &str = "application/json";
const BYTES: &str = "application/octet-stream";

/// A page.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Page {
    pub(super) kind: &'static str,
    pub(super) body: Vec<u8>,
}

fn text(body: impl Into<String>) -> Page {
    Page {
        kind: TEXT,
        body: body.into().into_bytes(),
    }
}

fn object(value: &Value) -> Page {
    Page {
        kind: JSON,
        body: value.to_string().into_bytes(),
    }
}

/// The page of this path; `None`: there is none.
pub(super) fn page(path: &str, of: &Instance) -> Option<Page> {
    let parts: Vec<&str> = path.split('/').filter(|part| !part.is_empty()).collect();
    match parts.as_slice() {
        [] => Some(text(EC2.join("\n"))),
        ["openstack", rest @ ..] => openstack(rest, of),
        [version, rest @ ..] if EC2.contains(version) => ec2(rest, of),
        [_, ..] => None,
    }
}

fn ec2(path: &[&str], of: &Instance) -> Option<Page> {
    let keys: Vec<(&str, &str)> = of.keys().collect();
    match path {
        [] => {
            let user_data = of.has_user_data().then_some("user-data");
            let all: Vec<_> = ["meta-data/"].into_iter().chain(user_data).collect();
            Some(text(all.join("\n")))
        }
        ["user-data"] => of.user_data().map(|body| Page { kind: BYTES, body }),
        ["meta-data"] => {
            let address = local_ipv4(of).map(|_| "local-ipv4");
            let keys = (!keys.is_empty()).then_some("public-keys/");
            let all = ["hostname", "instance-id", "local-hostname"].into_iter();
            let all = all.chain(address).chain(["mac"]).chain(keys);
            Some(text(all.collect::<Vec<_>>().join("\n")))
        }
        ["meta-data", "instance-id"] => Some(text(of.id())),
        ["meta-data", "hostname" | "local-hostname"] => Some(text(of.hostname())),
        ["meta-data", "local-ipv4"] => local_ipv4(of).map(|addr| text(addr.to_string())),
        ["meta-data", "mac"] => of.port().map(|port| text(port.mac.to_string())),
        ["meta-data", "public-keys"] if !keys.is_empty() => {
            let named = keys.iter().enumerate();
            let named: Vec<_> = named.map(|(n, (name, _))| format!("{n}={name}")).collect();
            Some(text(named.join("\n")))
        }
        ["meta-data", "public-keys", n, rest @ ..] => {
            let (_, key) = keys.get(n.parse::<usize>().ok()?)?;
            match rest {
                [] => Some(text("openssh-key")),
                ["openssh-key"] => Some(text(*key)),
                _ => None,
            }
        }
        _ => None,
    }
}

fn local_ipv4(of: &Instance) -> Option<IpAddr> {
    of.addresses().find(IpAddr::is_ipv4)
}

fn openstack(path: &[&str], of: &Instance) -> Option<Page> {
    let (version, rest) = match path {
        [] => return Some(text(OPENSTACK.join("\n"))),
        [version, rest @ ..] => (version, rest),
    };
    if !OPENSTACK.contains(version) {
        return None;
    }
    match rest {
        [] => {
            let user_data = of.has_user_data().then_some("user_data");
            let all = ["meta_data.json", "network_data.json"].into_iter();
            let all = all.chain(user_data).chain(["vendor_data.json"]);
            Some(text(all.collect::<Vec<_>>().join("\n")))
        }
        ["meta_data.json"] => Some(object(&meta_data(of))),
        ["network_data.json"] => Some(object(&network_data(of))),
        ["user_data"] => of.user_data().map(|body| Page { kind: BYTES, body }),
        // There is no vendor here, and clients ask for it.
        ["vendor_data.json"] => Some(object(&json!({}))),
        _ => None,
    }
}

fn meta_data(of: &Instance) -> Value {
    let mut all = json!({
        "uuid": of.id(),
        "hostname": of.hostname(),
        "name": of.name(),
        "project_id": of.project(),
        "launch_index": 0,
        "devices": [],
    });
    let keys: Vec<_> = of.keys().collect();
    if let (false, Some(all)) = (keys.is_empty(), all.as_object_mut()) {
        let named: serde_json::Map<_, _> = keys
            .iter()
            .map(|(name, key)| ((*name).to_owned(), json!(key)))
            .collect();
        let listed: Vec<_> = keys
            .iter()
            .map(|(name, key)| json!({"name": name, "type": "ssh", "data": key}))
            .collect();
        all.insert("public_keys".to_owned(), named.into());
        all.insert("keys".to_owned(), listed.into());
    }
    all
}

/// The port's link and its addresses, as a client sets them.
fn network_data(of: &Instance) -> Value {
    let (Some(port), Some(network)) = (of.port(), of.network()) else {
        return json!({"links": [], "networks": [], "services": []});
    };
    let id = port.id.to_string();
    let link = format!("tap{}", id.get(..11).unwrap_or(&id));
    let subnet =
        |ip: &hostconfig::port::FixedIp| network.subnets.iter().find(|s| s.id == ip.subnet);
    let mut servers: Vec<IpAddr> = Vec::new();
    let networks = port.fixed_ips.iter().enumerate().map(|(n, ip)| {
        let subnet = subnet(ip);
        let dns = subnet.map(name_servers).unwrap_or_default();
        for server in &dns {
            if !servers.contains(server) {
                servers.push(*server);
            }
        }
        let mut row = address(ip.addr, subnet);
        if let Some(row) = row.as_object_mut() {
            row.insert("id".to_owned(), json!(format!("network{n}")));
            row.insert("link".to_owned(), json!(link));
            row.insert("network_id".to_owned(), json!(network.id));
            row.insert("services".to_owned(), services(&dns));
        }
        row
    });
    let networks: Vec<_> = networks.collect();
    json!({
        "links": [{
            "id": link, "vif_id": id, "type": "tap",
            "mtu": network.mtu, "ethernet_mac_address": port.mac,
        }],
        "networks": networks,
        "services": services(&servers),
    })
}

fn services(servers: &[IpAddr]) -> Value {
    let all = servers.iter();
    all.map(|server| json!({"type": "dns", "address": server}))
        .collect()
}

fn name_servers(subnet: &Subnet) -> Vec<IpAddr> {
    let v4 = subnet.dhcp.iter().flat_map(|dhcp| &dhcp.dns);
    let v4 = v4.map(|addr| IpAddr::V4(*addr));
    v4.chain(subnet.dns6.iter().map(|addr| IpAddr::V6(*addr)))
        .collect()
}

/// How a client gets an address: by itself, from a server, or from here.
fn address(addr: IpAddr, subnet: Option<&Subnet>) -> Value {
    let kind = match (addr, subnet) {
        (IpAddr::V4(_), Some(subnet)) if subnet.dhcp.is_some() => "ipv4_dhcp",
        (IpAddr::V4(_), _) => "ipv4",
        (IpAddr::V6(_), Some(subnet)) => match (&subnet.dhcp6, subnet.ra) {
            (Some(dhcp), _) if dhcp.lease_seconds.is_some() => "ipv6_dhcpv6-stateful",
            (Some(_), _) | (None, Some(RaMode::Stateless)) => "ipv6_dhcpv6-stateless",
            (None, Some(RaMode::Slaac)) => "ipv6_slaac",
            (None, Some(RaMode::Stateful) | None) => "ipv6",
        },
        (IpAddr::V6(_), None) => "ipv6",
    };
    if kind != "ipv4" && kind != "ipv6" {
        return json!({"type": kind});
    }
    let bits = subnet.map_or(if addr.is_ipv4() { 32 } else { 128 }, |s| s.cidr.bits());
    let mut routes = Vec::new();
    if let Some(subnet) = subnet {
        if let Some(gateway) = subnet.gateway.filter(|gateway| *gateway != addr) {
            let any = any(addr);
            routes.push(json!({"network": any, "netmask": any, "gateway": gateway}));
        }
        for route in subnet.dhcp.iter().flat_map(|dhcp| &dhcp.routes) {
            let to = route.destination;
            let mask = netmask(to.addr(), to.bits());
            routes.push(json!({"network": to.addr(), "netmask": mask, "gateway": route.nexthop}));
        }
    }
    json!({"type": kind, "ip_address": addr, "netmask": netmask(addr, bits), "routes": routes})
}

fn any(of: IpAddr) -> IpAddr {
    match of {
        IpAddr::V4(_) => std::net::Ipv4Addr::UNSPECIFIED.into(),
        IpAddr::V6(_) => std::net::Ipv6Addr::UNSPECIFIED.into(),
    }
}

fn netmask(of: IpAddr, bits: u8) -> IpAddr {
    let bits = u32::from(bits);
    match of {
        IpAddr::V4(_) => {
            let host = u32::MAX.checked_shr(bits).unwrap_or(0);
            std::net::Ipv4Addr::from(!host).into()
        }
        IpAddr::V6(_) => {
            let host = u128::MAX.checked_shr(bits).unwrap_or(0);
            std::net::Ipv6Addr::from(!host).into()
        }
    }
}
