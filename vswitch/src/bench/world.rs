//! What is this host configured to be?
//!
//! One network; a sender and a receiver here, one more receiver on another host, and what the work asks for besides: groups,
//! rules, a chain.

use std::{
    net::{IpAddr, Ipv4Addr},
    sync::Arc,
};

use hostconfig::{
    Chain, Classifier, Endpoint, Firewall, Function, FunctionKind, HostConfig, Keyed, LoadBalancer,
    Location, Nat, Network, Port, Section, SecurityGroup, SecurityGroupRule, Vteps,
    chain::{Action, Algorithm, FirewallRule, Member, Side},
    group::{Direction, Family, L4Match, Remote},
    nat::NatAddress,
    port::{AddressPair, FixedIp},
    vtep::Vtep,
};
use net::{Id, Mac, Mtu, PortRange, Prefix, UnicastMac, Vni, Zone};

use super::{BenchError, Work};
use crate::datapath::{Tables, ZoneMap};

pub(super) const SENDER: [u8; 6] = [2, 0x77, 0, 0, 0, 1];
pub(super) const RECEIVER: [u8; 6] = [2, 0x77, 0, 0, 0, 2];
pub(super) const REMOTE: [u8; 6] = [2, 0x77, 0, 0, 0, 3];
pub(super) const BALANCER: [u8; 6] = [2, 0x77, 0, 0, 0, 4];
pub(super) const SENDER_IP: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);
pub(super) const RECEIVER_IP: Ipv4Addr = Ipv4Addr::new(10, 200, 0, 1);
pub(super) const REMOTE_IP: Ipv4Addr = Ipv4Addr::new(10, 200, 0, 2);
pub(super) const VIP: Ipv4Addr = Ipv4Addr::new(10, 200, 0, 3);
const HIDDEN: [u8; 6] = [2, 0x77, 0, 0, 0, 5];
const NAT: Ipv4Addr = Ipv4Addr::new(10, 200, 1, 0);
const NAT_ADDRESSES: u32 = 128;
pub(super) const HERE: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
pub(super) const FAR: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 2);
pub(super) const VNI: u32 = 100;

/// More than any number of flows.
const CONNECTIONS: u32 = 8_000_000;

const NETWORK: u128 = 1;
const PROJECT: u128 = 2;
const GROUP: u128 = 3;
const SUBNET: u128 = 4;
pub(super) const SENDER_PORT: u128 = 11;
const RECEIVER_PORT: u128 = 12;
const REMOTE_PORT: u128 = 13;
const VIP_PORT: u128 = 14;
const NAT_PORT: u128 = 15;

/// The id of that number.
pub(super) fn id<K>(number: u128) -> Result<Id<K>, BenchError> {
    format!("{number:032x}")
        .parse()
        .or(Err(BenchError::Config(format!("id {number}"))))
}

fn unicast(mac: [u8; 6]) -> Result<UnicastMac, BenchError> {
    UnicastMac::try_from(Mac::new(mac)).map_err(|e| BenchError::Config(e.to_string()))
}

fn prefix(text: &str) -> Result<Prefix, BenchError> {
    text.parse()
        .or(Err(BenchError::Config(format!("prefix {text}"))))
}

/// The tables for a work.
pub(super) fn tables(work: Work) -> Result<Tables, BenchError> {
    let secured = !matches!(work, Work::L2 | Work::Encapsulate | Work::Decapsulate);
    let mut sections = vec![
        Section::Vteps(vteps()),
        Section::Network(network()?),
        Section::Group(group(work)?),
        Section::Port(port(SENDER_PORT, (SENDER, SENDER_IP), secured)?),
        Section::Port(port(RECEIVER_PORT, (RECEIVER, RECEIVER_IP), secured)?),
        Section::Endpoint(endpoint(
            REMOTE_PORT,
            (REMOTE, REMOTE_IP),
            Location::Vtep(IpAddr::V4(FAR)),
        )?),
    ];
    if let Work::Chain(functions) = work {
        sections.push(Section::Chain(chain(functions)?));
        sections.push(Section::Endpoint(endpoint(
            VIP_PORT,
            (BALANCER, VIP),
            Location::Virtual,
        )?));
        let mut hidden = endpoint(NAT_PORT, (HIDDEN, NAT), Location::Virtual)?;
        hidden.addrs = nat_addresses();
        sections.push(Section::Endpoint(hidden));
    }
    let mut config = HostConfig::default();
    for section in sections {
        let keyed = Keyed::new(section).map_err(|e| BenchError::Config(e.to_string()))?;
        config.insert(Arc::new(keyed));
    }
    let zones: ZoneMap = [(id(SENDER_PORT)?, Zone(1)), (id(RECEIVER_PORT)?, Zone(2))].into();
    let tables = Tables::build(None, &config, &zones, 1);
    match tables.faults() {
        [] => Ok(tables),
        [first, ..] => Err(BenchError::Config(first.clone())),
    }
}

fn vteps() -> Vteps {
    let vtep = |host: &str| Vtep {
        host: host.to_owned(),
        foreign: false,
    };
    Vteps {
        vteps: [
            (IpAddr::V4(HERE), vtep("here")),
            (IpAddr::V4(FAR), vtep("far")),
        ]
        .into(),
    }
}

fn network() -> Result<Network, BenchError> {
    Ok(Network {
        id: id(NETWORK)?,
        name: "bench".to_owned(),
        project: id(PROJECT)?,
        vni: Vni::try_from(VNI).map_err(|e| BenchError::Config(e.to_string()))?,
        mtu: Mtu::try_from(1450).map_err(|e| BenchError::Config(e.to_string()))?,
        admin_up: true,
        subnets: vec![],
        wire: None,
        domain: String::new(),
        resolvers: Vec::new(),
        names: Vec::new(),
    })
}

fn port(number: u128, (mac, addr): ([u8; 6], Ipv4Addr), secured: bool) -> Result<Port, BenchError> {
    let mac = unicast(mac)?;
    Ok(Port {
        id: id(number)?,
        name: format!("p{number}"),
        network: id(NETWORK)?,
        project: id(PROJECT)?,
        mac,
        fixed_ips: vec![FixedIp {
            addr: addr.into(),
            subnet: id(SUBNET)?,
        }],
        admin_up: true,
        port_security: secured,
        // A sender of a million flows has thousands of addresses.
        allowed_address_pairs: vec![AddressPair {
            mac,
            prefix: prefix("10.0.0.0/8")?,
        }],
        security_groups: vec![id(GROUP)?],
        max_connections: CONNECTIONS,
        qos: None,
        host_number: Some(0),
        dns_name: None,
        dhcp: hostconfig::DhcpOptions::default(),
        trunk: None,
        firewall: None,
    })
}

fn endpoint(
    number: u128,
    (mac, addr): ([u8; 6], Ipv4Addr),
    at: Location,
) -> Result<Endpoint, BenchError> {
    Ok(Endpoint {
        id: id(number)?,
        network: id(NETWORK)?,
        project: Some(id(PROJECT)?),
        mac: unicast(mac)?,
        addrs: vec![addr.into()],
        dns_name: None,
        at,
    })
}

/// Anything in and out; for a set-up work what the frames are comes after all else that may go out.
fn group(work: Work) -> Result<SecurityGroup, BenchError> {
    let rule = |number, direction, l4, remote| -> Result<SecurityGroupRule, BenchError> {
        Ok(SecurityGroupRule {
            id: id(1000 + number)?,
            direction,
            family: Family::V4,
            protocol: Some(17),
            l4,
            remote,
        })
    };
    let mut rules = Vec::new();
    let mut egress = (L4Match::Any, Remote::Any);
    if let Work::SetUp(count) = work {
        for n in 0..count.saturating_sub(2) {
            let (l4, remote) = other(n)?;
            rules.push(rule(u128::from(n), Direction::Egress, l4, remote)?);
        }
        let frames = PortRange::new(53, 60).map_err(|e| BenchError::Config(e.to_string()))?;
        let to = Prefix::host(REMOTE_IP.into());
        egress = (L4Match::Ports(frames), Remote::Prefix(to));
    }
    rules.push(rule(1_000_000, Direction::Egress, egress.0, egress.1)?);
    rules.push(rule(
        1_000_001,
        Direction::Ingress,
        L4Match::Any,
        Remote::Any,
    )?);
    Ok(SecurityGroup {
        id: id(GROUP)?,
        name: "bench".to_owned(),
        stateful: true,
        rules,
    })
}

/// What may go out besides, by the shapes that people write: a block, a block with a port, a host with a range of ports, and ports of the
/// frames' own receiver. No frame is one of these.
fn other(n: u32) -> Result<(L4Match, Remote), BenchError> {
    let block = |bits: u8| {
        let addr = Ipv4Addr::from(0xac10_0000 + n * 16);
        Prefix::containing(addr.into(), bits).map_err(|e| BenchError::Config(e.to_string()))
    };
    let low = u16::try_from(n % 45).unwrap_or(0);
    let ports = |min, max| {
        let range = PortRange::new(min, max).map_err(|e| BenchError::Config(e.to_string()))?;
        Ok(L4Match::Ports(range))
    };
    Ok(match n % 4 {
        0 => (L4Match::Any, Remote::Prefix(block(28)?)),
        1 => (ports(53, 53)?, Remote::Prefix(block(24)?)),
        2 => (ports(low, 52)?, Remote::Prefix(block(32)?)),
        _ => {
            let high = 1000 + u16::try_from(n % 60_000).unwrap_or(0);
            (
                ports(high, high)?,
                Remote::Prefix(Prefix::host(REMOTE_IP.into())),
            )
        }
    })
}

/// A firewall, a load balancer and a NAT; then firewalls, up to that many functions and two.
fn chain(functions: u8) -> Result<Chain, BenchError> {
    let first = Function {
        id: id(498)?,
        name: "firewall-0".to_owned(),
        kind: FunctionKind::Firewall(firewall(0)?),
    };
    let balancer = Function {
        id: id(499)?,
        name: "balancer".to_owned(),
        kind: FunctionKind::LoadBalancer(LoadBalancer {
            vip: VIP.into(),
            vip_port: id(VIP_PORT)?,
            network: id(NETWORK)?,
            mac: unicast(BALANCER)?,
            protocol: 17,
            port: 53,
            algorithm: Algorithm::Maglev,
            members: vec![Member {
                id: id(REMOTE_PORT)?,
                addr: REMOTE_IP.into(),
                port: 53,
                weight: 1,
            }],
            monitor: None,
        }),
    };
    let hidden = Function {
        id: id(500)?,
        name: "nat".to_owned(),
        kind: FunctionKind::Nat(nat()?),
    };
    let mut list = vec![first, balancer, hidden];
    for n in 1..u128::from(functions) {
        list.push(Function {
            id: id(500 + n)?,
            name: format!("firewall-{n}"),
            kind: FunctionKind::Firewall(firewall(n)?),
        });
    }
    Ok(Chain {
        id: id(700)?,
        name: "bench".to_owned(),
        project: id(PROJECT)?,
        path: 1,
        symmetric: true,
        graph: hostconfig::Graph::default(),
        classifiers: vec![Classifier {
            id: id(701)?,
            name: "all".to_owned(),
            source: Some(Side::Network(id(NETWORK)?)),
            destination: None,
            family: None,
            protocol: Some(17),
            source_ports: None,
            destination_ports: None,
            source_prefix: None,
            destination_prefix: None,
        }],
        functions: list,
    })
}

/// All addresses of a NAT: enough for as many flows as there may be.
fn nat_addresses() -> Vec<IpAddr> {
    let first = u32::from(NAT);
    let all = (0..NAT_ADDRESSES).map(|n| Ipv4Addr::from(first + n).into());
    all.collect()
}

fn nat() -> Result<Nat, BenchError> {
    let (port, network) = (id(NAT_PORT)?, id(NETWORK)?);
    let address = |addr| NatAddress {
        addr,
        port,
        network,
        hides: true,
    };
    Ok(Nat {
        addresses: nat_addresses().into_iter().map(address).collect(),
        sources: vec![],
        ports: PortRange::new(1024, u16::MAX).map_err(|e| BenchError::Config(e.to_string()))?,
        hosts: 1,
        client_limit: CONNECTIONS,
        forwards: vec![],
        statics: vec![],
    })
}

fn firewall(number: u128) -> Result<Firewall, BenchError> {
    let rule = |n: u128| -> Result<FirewallRule, BenchError> {
        Ok(FirewallRule {
            id: id(800 + number * 16 + n)?,
            action: Action::Deny,
            family: None,
            protocol: None,
            source: Some(prefix(&format!("172.16.{n}.0/24"))?),
            destination: None,
            source_ports: None,
            destination_ports: None,
        })
    };
    Ok(Firewall {
        rules: (0..8).map(rule).collect::<Result<_, _>>()?,
        default: Action::Allow,
    })
}
