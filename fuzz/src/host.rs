//! A small host for targets that need one: a network with DHCP, two workloads that send what they like, one elsewhere.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use hostconfig::network::{Dhcp, Dhcp6, RaMode, Route};
use hostconfig::{
    Endpoint, HostConfig, Keyed, Location, Network, Port, Router, Section, Subnet, Vteps,
    port::FixedIp,
    router::{Interface, InterfaceAddr},
    vtep::Vtep,
};
use net::testkit::mac;
use net::{Id, Mtu, Prefix, Vni, Zone};
use vswitch::datapath::{Tables, ZoneMap};

/// The network's number; ports have 1 and 2, the far one 3.
pub(crate) const NETWORK: u128 = 1000;

pub(crate) fn id<K>(n: u128) -> Id<K> {
    uuid::Uuid::from_u128(n).into()
}

/// The address of the n-th workload.
pub(crate) fn address(n: u8, v6: bool) -> IpAddr {
    if v6 {
        [0xfd00, 0, 0, 0, 0, 0, 0, n.into()].into()
    } else {
        [10, 0, 0, n].into()
    }
}

/// Its tables.
pub(crate) fn tables() -> Tables {
    let mut config = HostConfig::default();
    let mut zones = ZoneMap::default();
    let far: IpAddr = [192, 0, 2, 9].into();
    let vtep = Vtep {
        host: "far".into(),
        foreign: false,
    };
    let mut sections = vec![
        Section::Network(network()),
        Section::Vteps(Vteps {
            vteps: [(far, vtep)].into(),
        }),
        Section::Endpoint(Endpoint {
            id: id(3),
            network: id(NETWORK),
            project: Some(id(7)),
            mac: unicast(3),
            addrs: vec![address(3, false), address(3, true)],
            dns_name: None,
            at: Location::Vtep(far),
        }),
        Section::Router(router()),
    ];
    for n in [1u8, 2] {
        sections.push(Section::Port(port(n)));
        zones.insert(id(n.into()), Zone(n.into()));
    }
    for section in sections {
        let Ok(keyed) = Keyed::new(section) else {
            unreachable!("a section that was made here encodes");
        };
        config.insert(Arc::new(keyed));
    }
    let tables = Tables::build(None, &config, &zones, 1);
    assert!(tables.faults().is_empty(), "{:?}", tables.faults());
    tables
}

/// A router on the network: its own addresses, a way through the second workload, and none else.
fn router() -> Router {
    let addr = |v6| InterfaceAddr {
        addr: address(251, v6),
        subnet: prefix(if v6 { "fd00::/64" } else { "10.0.0.0/24" }),
    };
    Router {
        id: id(20),
        name: "r".into(),
        project: id(7),
        admin_up: true,
        interfaces: vec![Interface {
            port: id(21),
            network: id(NETWORK),
            mac: unicast(251),
            admin_up: true,
            addrs: [false, true].map(addr).to_vec(),
            firewall: None,
        }],
        routes: vec![
            Route {
                destination: prefix("192.0.2.0/24"),
                nexthop: address(2, false),
            },
            Route {
                destination: prefix("2001:db8::/32"),
                nexthop: address(2, true),
            },
        ],
        gateway: None,
        meters: Vec::new(),
    }
}

fn prefix(text: &str) -> Prefix {
    match text.parse::<Prefix>() {
        Ok(prefix) => prefix,
        Err(_) => unreachable!("a prefix: {text}"),
    }
}

pub(crate) fn unicast(n: u8) -> net::UnicastMac {
    match mac(n.into()).try_into() {
        Ok(mac) => mac,
        Err(_) => unreachable!("the n-th workload's MAC is one's own"),
    }
}

pub(crate) fn port(n: u8) -> Port {
    let fixed = |v6| FixedIp {
        addr: address(n, v6),
        subnet: id(if v6 { 12 } else { 11 }),
    };
    Port {
        id: id(n.into()),
        name: format!("p{n}"),
        network: id(NETWORK),
        project: id(7),
        mac: unicast(n),
        fixed_ips: vec![fixed(false), fixed(true)],
        admin_up: true,
        port_security: false,
        allowed_address_pairs: vec![],
        security_groups: vec![],
        max_connections: 8,
        qos: None,
        host_number: Some(0),
        dns_name: None,
        dhcp: hostconfig::DhcpOptions::default(),
        trunk: None,
        firewall: None,
    }
}

/// Its DHCP says as much as the API admits: five servers for names, twenty routes.
pub(crate) fn network() -> Network {
    let (Ok(vni), Ok(mtu)) = (Vni::try_from(5001), Mtu::try_from(1280)) else {
        unreachable!("both are in range");
    };
    let routes = (1..=20u8).map(|n| Route {
        destination: prefix(&format!("10.{n}.1.0/24")),
        nexthop: address(n, false),
    });
    let dhcp = Dhcp {
        server: Ipv4Addr::new(10, 0, 0, 250),
        server_mac: mac(0xd000),
        lease_seconds: 3600,
        dns: (1..=5).map(|n| Ipv4Addr::new(10, 0, 0, n)).collect(),
        domain: "a-rather-long-name-of-a-domain.overweave.example".into(),
        routes: routes.collect(),
    };
    let subnet = |n, cidr, dhcp: Option<Dhcp>| Subnet {
        id: id(n),
        cidr: prefix(cidr),
        gateway: dhcp.is_some().then(|| address(254, false)),
        dhcp,
        ra: Some(RaMode::Slaac).filter(|_| !prefix(cidr).is_ipv4()),
        dhcp6: Some(Dhcp6 {
            server_mac: mac(0xd000),
            lease_seconds: Some(3600),
            domain: "a-rather-long-name-of-a-domain.overweave.example".into(),
        })
        .filter(|_| !prefix(cidr).is_ipv4()),
        dns6: if prefix(cidr).is_ipv4() {
            Vec::new()
        } else {
            (1..=5)
                .map(|n| [0xfd00, 0, 0, 0, 0, 0, 0, n].into())
                .collect()
        },
    };
    Network {
        id: id(NETWORK),
        name: "blue".into(),
        project: id(7),
        vni,
        mtu,
        admin_up: true,
        subnets: vec![
            subnet(11, "10.0.0.0/24", Some(dhcp)),
            subnet(12, "fd00::/64", None),
        ],
        wire: None,
        domain: "blue.example".into(),
        resolvers: Vec::new(),
        names: Vec::new(),
    }
}
