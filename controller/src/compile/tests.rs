use std::net::{IpAddr, Ipv4Addr};

use hostconfig::{
    Chain as ChainSection, Classifier, Location, SecurityGroupRule, Shaper,
    chain::Algorithm,
    check::check,
    floating_ip::Workload,
    group::{Direction, Family, L4Match, Remote},
    nat::Forward,
    network::{RaMode, Route, Wire},
    port::{AddressPair, FixedIp},
};
use net::{Mac, Mtu, PortRange, UnicastMac, Vlan, Vni};
use proptest::prelude::*;

use super::*;
use intent::{
    AddressGroup, Balancer, BalancerMember, Chain, Change, FirewallGroup, FirewallPolicy,
    FloatingIp, Function, Gateway, Group, Host, Network, Object, Port, Router, Rule, Subnet, Work,
};

pub(crate) fn id<K>(n: u8) -> Id<K> {
    // The first byte is drawn by lot in a real one: members of a group are in parts by it.
    Uuid::from_u128(u128::from(n) << 120 | (0x1000 + u128::from(n))).into()
}

pub(crate) fn host_name(n: u8) -> HostName {
    HostName::from(format!("h{n}").as_str())
}

pub(crate) fn host(n: u8, vtep: bool, foreign: bool) -> Object {
    Object::Host(Arc::new(Host {
        id: id(n),
        name: host_name(n),
        vtep: vtep.then(|| Ipv4Addr::new(192, 0, 2, n).into()),
        wires: std::collections::BTreeSet::new(),
        zone: "nova".to_owned(),
        foreign,
        in_service: true,
        proxies: false,
        lost: false,
        number: (!foreign).then_some(u16::from(n)),
        certificate: Some(format!("certificate of h{n}")),
    }))
}

/// The same in another zone.
pub(crate) fn in_zone(host: Object, zone: &str) -> Object {
    let Object::Host(plain) = host else {
        unreachable!()
    };
    Object::Host(Arc::new(Host {
        zone: zone.to_owned(),
        ..Host::clone(&plain)
    }))
}

/// The same with interfaces on these physical networks.
pub(crate) fn on_wires(host: Object, wires: &[&str]) -> Object {
    let Object::Host(plain) = host else {
        unreachable!()
    };
    Object::Host(Arc::new(Host {
        wires: wires.iter().map(ToString::to_string).collect(),
        ..Host::clone(&plain)
    }))
}

pub(crate) fn network(n: u8, name: &str) -> Object {
    network_with(n, name, None)
}

/// A network with a QoS policy.
pub(crate) fn network_with(n: u8, name: &str, qos: Option<u8>) -> Object {
    Object::Network(Arc::new(Network {
        section: hostconfig::Network {
            id: id(n),
            name: name.to_owned(),
            project: id(200),
            vni: Vni::try_from(u32::from(n) + 100).unwrap(),
            mtu: Mtu::try_from(1450).unwrap(),
            admin_up: true,
            subnets: Vec::new(),
            wire: None,
            domain: String::new(),
            resolvers: Vec::new(),
            names: Vec::new(),
        },
        qos: qos.map(id),
    }))
}

pub(crate) fn qos(n: u8, mark: u8) -> Object {
    Object::Qos(Arc::new(intent::Policy {
        section: hostconfig::QosPolicy {
            id: id(n),
            name: format!("q{n}"),
            egress: hostconfig::qos::Limit::default(),
            ingress: hostconfig::qos::Limit::default(),
            dscp: Some(hostconfig::qos::Dscp { rule: id(n), mark }),
        },
        parent: None,
        promised: [0; 2],
        fabric: false,
    }))
}

/// One that is part of another, with so many megabits for what ports send, and what each has for certain.
pub(crate) fn qos_in(n: u8, parent: Option<u8>, mbit: u64, promised: u64) -> Object {
    let bits = (mbit > 0).then(|| hostconfig::qos::Rate {
        rule: id(n),
        per_second: mbit * 1_000_000,
        burst: 9_000,
    });
    Object::Qos(Arc::new(intent::Policy {
        section: hostconfig::QosPolicy {
            id: id(n),
            name: format!("q{n}"),
            egress: hostconfig::qos::Limit {
                bits,
                ..hostconfig::qos::Limit::default()
            },
            ingress: hostconfig::qos::Limit::default(),
            dscp: None,
        },
        parent: parent.map(id),
        promised: [promised, 0],
        fabric: false,
    }))
}

/// A firewall rule that allows, to this port.
pub(crate) fn firewall_rule(n: u8, port: u16) -> Object {
    Object::FirewallRule(Arc::new(hostconfig::firewall::Rule {
        id: id(n),
        action: hostconfig::firewall::Action::Allow,
        family: Family::V4,
        protocol: Some(6),
        source: None,
        destination: None,
        source_ports: None,
        destination_ports: Some(PortRange::one(port)),
    }))
}

pub(crate) fn firewall_policy(n: u8, rules: &[u8]) -> Object {
    Object::FirewallPolicy(Arc::new(FirewallPolicy {
        id: id(n),
        name: format!("fp{n}"),
        rules: rules.iter().map(|n| id(*n)).collect(),
    }))
}

pub(crate) fn firewall_group(n: u8, policies: [Option<u8>; 2], ports: &[u8]) -> Object {
    let [ingress, egress] = policies.map(|policy| policy.map(id));
    Object::Firewall(Arc::new(FirewallGroup {
        id: id(n),
        name: format!("fg{n}"),
        admin_up: true,
        ingress,
        egress,
        ports: ports.iter().map(|n| id(*n)).collect(),
    }))
}

/// The same port with a QoS policy of its own.
pub(crate) fn with_qos(port: Object, qos: Option<u8>) -> Object {
    let Object::Port(port) = port else {
        unreachable!()
    };
    let mut port = Port::clone(&port);
    port.section.qos = qos.map(id);
    Object::Port(Arc::new(port))
}

pub(crate) fn subnet(n: u8, network: u8, gateway: bool) -> Object {
    Object::Subnet(Arc::new(Subnet {
        id: id(n),
        network: id(network),
        cidr: format!("10.{n}.0.0/24").parse().unwrap(),
        gateway: gateway.then(|| Ipv4Addr::new(10, n, 0, 1).into()),
        dhcp: true,
        address_mode: None,
        ra: None,
        dns: vec![Ipv4Addr::new(9, 9, 9, 9).into()],
        routes: Vec::new(),
    }))
}

/// One of IPv6, of which routers say this.
fn subnet6(n: u8, network: u8, ra: Option<RaMode>, dns: &[&str]) -> Object {
    Object::Subnet(Arc::new(Subnet {
        id: id(n),
        network: id(network),
        cidr: format!("fd{n:02x}::/64").parse().unwrap(),
        gateway: Some(format!("fd{n:02x}::").parse().unwrap()),
        dhcp: true,
        address_mode: ra,
        ra,
        dns: dns.iter().map(|server| server.parse().unwrap()).collect(),
        routes: Vec::new(),
    }))
}

fn network_of(config: &HostConfig, n: u8) -> &hostconfig::Network {
    let Section::Network(network) = config.sections[&SectionKey::Network(id(n))].body() else {
        unreachable!("it is a network's key");
    };
    network
}

pub(crate) fn addr(n: u8) -> IpAddr {
    Ipv4Addr::new(10, 0, 0, n).into()
}

/// What the workload behind a port hears of itself.
pub(crate) fn metadata(n: u8, device: &str) -> hostconfig::Metadata {
    hostconfig::Metadata {
        port: id(n),
        device: device.to_owned(),
        project: String::new(),
        instance_id: None,
        hostname: None,
        public_keys: BTreeMap::new(),
        user_data: None,
    }
}

pub(crate) fn port(n: u8, network: u8, host: Option<u8>, groups: &[u8], project: u8) -> Object {
    let mac = UnicastMac::try_from(Mac::new([2, 0, 0, 0, 0, n])).unwrap();
    Object::Port(Arc::new(Port {
        section: hostconfig::Port {
            id: id(n),
            name: String::new(),
            network: id(network),
            project: id(project),
            mac,
            fixed_ips: vec![FixedIp {
                addr: addr(n),
                subnet: id(network),
            }],
            admin_up: true,
            port_security: true,
            allowed_address_pairs: vec![AddressPair {
                mac,
                prefix: format!("2001:db8:{n}::/64").parse().unwrap(),
            }],
            security_groups: groups.iter().map(|g| id(*g)).collect(),
            max_connections: 1000,
            qos: None,
            host_number: None,
            dns_name: None,
            dhcp: hostconfig::DhcpOptions::default(),
            trunk: None,
            firewall: None,
        },
        host: host.map(host_name),
        router: None,
        gateway_of: None,
        may_move: false,
        left: None,
        inherits_qos: n % 4 != 3,
        metadata: (n % 5 == 4).then(|| Arc::new(metadata(n, &format!("vm-{project}")))),
    }))
}

/// A port by the device of another; each has a tag of its own.
fn carried(port: Object, parent: Option<u8>) -> Object {
    let Object::Port(port) = port else {
        unreachable!("it is a port");
    };
    let mut port = Port::clone(&port);
    let [.., n] = port.section.id.uuid().into_bytes();
    port.section.trunk = parent.map(|parent| hostconfig::SubPort {
        parent: id(parent),
        vlan: Vlan::try_from(u16::from(n) + 1).unwrap(),
    });
    Object::Port(Arc::new(port))
}

pub(crate) fn router(n: u8, admin_up: bool, routes: &[(&str, &str)]) -> Object {
    let routes = routes.iter().map(|(to, via)| Route {
        destination: to.parse().unwrap(),
        nexthop: via.parse().unwrap(),
    });
    Object::Router(Arc::new(Router {
        id: id(n),
        name: format!("r{n}"),
        project: id(200),
        admin_up,
        routes: routes.collect(),
        zones: Vec::new(),
        gateway: None,
    }))
}

/// A port by which a router is attached to a network.
pub(crate) fn interface(n: u8, network: u8, router: u8) -> Object {
    let Object::Port(plain) = port(n, network, None, &[], 200) else {
        unreachable!()
    };
    Object::Port(Arc::new(Port {
        router: Some(id(router)),
        ..Port::clone(&plain)
    }))
}

/// The same network in a domain, with a name server of the operator's; the same floating IP with a name in it.
fn in_domain(object: Object, domain: Option<&str>) -> Object {
    let domain = domain.map(str::to_owned);
    if let Object::Network(mut o) = object {
        let section = &mut Arc::make_mut(&mut o).section;
        section.domain = domain.unwrap_or_default();
        section.resolvers = vec![Ipv4Addr::new(10, 9, 9, 9).into()];
        Object::Network(o)
    } else if let Object::FloatingIp(mut o) = object {
        Arc::make_mut(&mut o).name = domain.map(|domain| intent::Name {
            whole: format!("www.{domain}"),
            domain,
        });
        Object::FloatingIp(o)
    } else {
        object
    }
}

/// The same as a part of a physical network.
pub(crate) fn on_wire(network: Object, physical: Option<&str>) -> Object {
    let Object::Network(plain) = network else {
        unreachable!()
    };
    let mut network = Network::clone(&plain);
    network.section.wire = physical.map(|physical| Wire {
        physical: physical.to_owned(),
        vlan: None,
    });
    Object::Network(Arc::new(network))
}

/// A port by which a router leaves the fabric.
pub(crate) fn gateway_port(n: u8, network: u8, host: Option<u8>, router: u8) -> Object {
    let Object::Port(plain) = port(n, network, host, &[], 200) else {
        unreachable!()
    };
    Object::Port(Arc::new(Port {
        gateway_of: Some(id(router)),
        ..Port::clone(&plain)
    }))
}

/// A router with a way out: its port and network.
pub(crate) fn leaving(n: u8, gateway: Option<(u8, u8)>) -> Object {
    let Object::Router(plain) = router(n, true, &[]) else {
        unreachable!()
    };
    Object::Router(Arc::new(Router {
        gateway: gateway.map(|(port, network)| Gateway {
            port: id(port),
            network: id(network),
            snat: true,
            qos: None,
        }),
        ..Router::clone(&plain)
    }))
}

/// A floating IP: its holder and network, its router, and whose it is, or of whom a port is forwarded.
pub(crate) fn floating(
    n: u8,
    (holder, network): (u8, u8),
    router: Option<u8>,
    (to, forwarded): (Option<u8>, Option<u8>),
) -> Object {
    let forward = |port: u8| Forward {
        addr: addr(n),
        protocol: 6,
        ports: PortRange::new(22, 22).unwrap(),
        to: addr(port),
        to_port: 22,
        to_one: false,
        member: id(port),
    };
    Object::FloatingIp(Arc::new(FloatingIp {
        id: id(n),
        project: id(200),
        holder: id(holder),
        network: id(network),
        addr: addr(n),
        router: router.map(id),
        to: to.map(|port| Workload {
            port: id(port),
            addr: addr(port),
        }),
        forwards: forwarded.map(forward).into_iter().collect(),
        qos: None,
        name: None,
    }))
}

/// The same router or floating IP, with a QoS policy for what passes by it.
pub(crate) fn limited(object: Object, policy: Option<u8>) -> Object {
    let qos = policy.map(id);
    if let Object::Router(mut o) = object {
        if let Some(gateway) = &mut Arc::make_mut(&mut o).gateway {
            gateway.qos = qos;
        }
        Object::Router(o)
    } else if let Object::FloatingIp(mut o) = object {
        Arc::make_mut(&mut o).qos = qos;
        Object::FloatingIp(o)
    } else {
        object
    }
}

pub(crate) fn group(n: u8, stateful: bool) -> Object {
    Object::Group(Arc::new(Group {
        id: id(n),
        name: format!("g{n}"),
        stateful,
    }))
}

pub(crate) fn rule(n: u8, group: u8, remote: Remote) -> Object {
    Object::Rule(Arc::new(Rule {
        group: id(group),
        section: SecurityGroupRule {
            id: id(n),
            direction: Direction::Ingress,
            family: Family::V4,
            protocol: Some(6),
            l4: L4Match::Any,
            remote,
        },
    }))
}

pub(crate) fn address_group(n: u8, addresses: &[&str]) -> Object {
    Object::AddressGroup(Arc::new(AddressGroup {
        id: id(n),
        addresses: addresses.iter().map(|text| text.parse().unwrap()).collect(),
    }))
}

pub(crate) fn classifier(n: u8, source: Option<Side>, destination: Option<Side>) -> Object {
    Object::Classifier(Arc::new(Classifier {
        id: id(n),
        name: format!("c{n}"),
        source,
        destination,
        family: None,
        protocol: Some(6),
        source_ports: None,
        destination_ports: None,
        source_prefix: None,
        destination_prefix: None,
    }))
}

pub(crate) fn balancer(n: u8, vip: u8, members: &[u8]) -> Object {
    let members = members.iter().map(|m| BalancerMember {
        target: intent::Target::Port(id(*m)),
        port: 80,
        weight: 1,
    });
    Object::Function(Arc::new(Function {
        id: id(n),
        name: format!("lb{n}"),
        work: Some(Work::LoadBalancer(Balancer {
            vip_port: id(vip),
            vip: addr(vip),
            protocol: 6,
            port: 80,
            algorithm: Algorithm::Maglev,
            members: members.collect(),
            monitor: None,
        })),
    }))
}

/// Hides behind one address, and forwards a port of it and all of the next one.
pub(crate) fn nat(n: u8, holder: u8, to: u8) -> Object {
    let ports = net::PortRange::new(1024, 2047).unwrap();
    let target = intent::Target::Port(id(to));
    let addresses = [(holder, true), (holder + 1, false)];
    Object::Function(Arc::new(Function {
        id: id(n),
        name: format!("nat{n}"),
        work: Some(Work::Nat(intent::Nat {
            addresses: addresses.map(|(a, hides)| (addr(a), id(a), hides)).to_vec(),
            sources: vec![],
            ports,
            hosts: 4,
            client_limit: 100,
            forwards: vec![intent::NatForward {
                addr: addr(holder),
                protocol: 6,
                ports: net::PortRange::one(80),
                to: target,
                to_port: 8080,
            }],
            statics: vec![(addr(holder + 1), target)],
        })),
    }))
}

pub(crate) fn shaper(n: u8, rate_bps: u64) -> Object {
    let work = Some(Work::Shaper(Shaper {
        rate_bps,
        burst_bytes: 1 << 16,
        queue_bytes: 1 << 20,
        queue: hostconfig::Discipline::Fifo,
        share: None,
        classes: Vec::new(),
    }));
    Object::Function(Arc::new(Function {
        id: id(n),
        name: String::new(),
        work,
    }))
}

/// Appliances, each between two ports.
pub(crate) fn appliances(n: u8, pairs: &[(u8, u8)]) -> Object {
    let instance = |(at, (ingress, egress)): (u8, &(u8, u8))| hostconfig::chain::Instance {
        id: id(at),
        name: format!("pair{at}"),
        ingress: id(*ingress),
        egress: id(*egress),
        weight: 1,
        labelled: false,
        silent: false,
        at: None,
    };
    Object::Function(Arc::new(Function {
        id: id(n),
        name: String::new(),
        work: Some(Work::Appliance(hostconfig::Appliance {
            instances: (0..).zip(pairs).map(instance).collect(),
            hash: Vec::new(),
            failure: hostconfig::chain::Failure::Closed,
            label: None,
            probe: None,
        })),
    }))
}

pub(crate) fn chain(n: u8, classifiers: &[u8], functions: &[u8]) -> Object {
    Object::Chain(Arc::new(Chain {
        id: id(n),
        name: format!("chain{n}"),
        project: id(200),
        number: 1,
        symmetric: true,
        classifiers: classifiers.iter().map(|c| id(*c)).collect(),
        functions: functions.iter().map(|f| id(*f)).collect(),
        graph: hostconfig::Graph::default(),
    }))
}

/// The chain, and what may follow it.
fn followed(chain: Object, next: &[u8]) -> Object {
    let Object::Chain(chain) = chain else {
        unreachable!()
    };
    let graph = hostconfig::Graph {
        depth: 0,
        next: next.iter().map(|n| id(*n)).collect(),
    };
    Object::Chain(Arc::new(Chain {
        graph,
        ..Chain::clone(&chain)
    }))
}

pub(crate) fn label(n: u8, project: u8, shared: bool) -> Object {
    Object::Label(Arc::new(intent::Label {
        id: id(n),
        project: id(project),
        shared,
    }))
}

pub(crate) fn label_rule(n: u8, label: u8, excluded: bool) -> Object {
    Object::LabelRule(Arc::new(intent::LabelRule {
        id: id(n),
        label: id(label),
        section: hostconfig::MeterRule {
            direction: Direction::Egress,
            excluded,
            source: Some("10.0.0.0/8".parse().unwrap()),
            destination: None,
        },
    }))
}

/// Small worlds, so that references meet; dangling ones occur, as they do between commits.
fn any_qos() -> impl Strategy<Value = Object> {
    let part = (0u8..3, prop::option::of(0u8..3), 0u64..3);
    prop_oneof![
        (0u8..3, 0u8..2).prop_map(|(n, mark)| qos(n, mark)),
        part.prop_map(|(n, parent, mbit)| qos_in(n, parent, mbit, mbit)),
    ]
}

fn object() -> impl Strategy<Value = Object> {
    let small = || 0u8..4;
    let side = prop_oneof![
        (0u8..8).prop_map(|n| Side::Port(id(n))),
        (0u8..3).prop_map(|n| Side::Network(id(n))),
        (200u8..202).prop_map(|n| Side::Project(id(n))),
    ];
    prop_oneof![
        (small(), any::<bool>(), 0usize..3).prop_map(|(n, vtep, wires)| {
            on_wires(host(n, vtep, n == 3), &["p0", "p1"][..wires])
        }),
        (
            0u8..5,
            "[ab]",
            prop::option::of(0u8..3),
            (0u8..4, 0usize..3)
        )
            .prop_map(|(n, name, q, (wire, domain))| {
                let wire = ["p0", "p1"].get(usize::from(wire)).copied();
                let domain = ["d0", "d1"].get(domain).copied();
                in_domain(on_wire(network_with(n, &name, q), wire), domain)
            }),
        (12u8..14, 0u8..5, prop::option::of(0u8..5), 0u8..3)
            .prop_map(|(n, w, h, r)| gateway_port(n, w, h, r)),
        (14u8..16, 0u8..5).prop_map(|(n, w)| port(n, w, None, &[], 200)),
        (0u8..3, prop::option::of((12u8..14, 0u8..5))).prop_map(|(n, g)| leaving(n, g)),
        (
            0u8..3,
            prop::option::of((12u8..14, 0u8..5)),
            prop::option::of(0u8..3)
        )
            .prop_map(|(n, g, q)| limited(leaving(n, g), q)),
        (
            0u8..3,
            (14u8..16, 0u8..5),
            prop::option::of(0u8..3),
            (prop::option::of(0u8..8), prop::option::of(0u8..8)),
            (prop::option::of(0u8..3), 0usize..3)
        )
            .prop_map(|(n, held, r, to, (q, domain))| {
                let domain = ["d0", "d1"].get(domain).copied();
                in_domain(limited(floating(n, held, r, to), q), domain)
            }),
        any_qos(),
        firewalled(),
        firewalled(),
        firewalled(),
        (small(), 0u8..5, any::<bool>()).prop_map(|(n, w, g)| subnet(n, w, g)),
        (small(), 0u8..5, any::<bool>()).prop_map(|(n, w, says)| {
            subnet6(n, w, says.then_some(RaMode::Slaac), &["fd09::9"])
        }),
        port_strategy(),
        port_strategy(),
        (6u8..12, 0u8..5, 0u8..3).prop_map(|(n, w, r)| interface(n, w, r)),
        (6u8..12, 0u8..5, 0u8..3).prop_map(|(n, w, r)| interface(n, w, r)),
        (0u8..3, any::<bool>(), any::<bool>()).prop_map(|(n, up, routes)| {
            router(
                n,
                up,
                if routes {
                    &[("10.9.0.0/16", "10.0.0.9")]
                } else {
                    &[]
                },
            )
        }),
        (0u8..3, any::<bool>()).prop_map(|(n, s)| group(n, s)),
        (2u8..5, any::<bool>()).prop_map(|(n, more)| {
            address_group(
                n,
                if more {
                    &["10.0.0.0/8", "fd00::/8"]
                } else {
                    &[]
                },
            )
        }),
        (small(), 0u8..3, prop::option::of(0u8..5)).prop_map(|(n, g, set)| {
            rule(n, g, set.map_or(Remote::Any, |set| Remote::Set(id(set))))
        }),
        (
            0u8..3,
            prop::option::of(side.clone()),
            prop::option::of(side)
        )
            .prop_map(|(n, s, d)| classifier(n, s, d)),
        (0u8..3, 0u8..8, prop::collection::vec(0u8..8, 0..3))
            .prop_map(|(n, vip, members)| balancer(n, vip, &members)),
        (0u8..3, 0u8..7, 0u8..8).prop_map(|(n, holder, to)| nat(n, holder, to)),
        (0u8..3, 1u64..3).prop_map(|(n, rate)| shaper(n, rate * 1_000_000)),
        (0u8..3, prop::collection::vec((0u8..8, 0u8..8), 1..3))
            .prop_map(|(n, pairs)| appliances(n, &pairs)),
        (0u8..3, 200u8..202, any::<bool>()).prop_map(|(n, p, s)| label(n, p, s)),
        (0u8..3, 0u8..3, any::<bool>()).prop_map(|(n, l, e)| label_rule(n, l, e)),
        chained(),
    ]
}

/// A chain, and what may follow it.
fn chained() -> impl Strategy<Value = Object> {
    let some = |most| prop::collection::vec(0u8..3, 0..most);
    let parts = (0u8..3, some(3), some(3), some(2));
    parts.prop_map(|(n, classifiers, functions, next)| {
        followed(chain(n, &classifiers, &functions), &next)
    })
}

/// A firewall's rule, policy or group.
fn firewalled() -> impl Strategy<Value = Object> {
    prop_oneof![
        (0u8..3, 80u16..82).prop_map(|(n, port)| firewall_rule(n, port)),
        (0u8..3, prop::collection::vec(0u8..3, 0..3))
            .prop_map(|(n, rules)| firewall_policy(n, &rules)),
        (
            0u8..3,
            prop::array::uniform2(prop::option::of(0u8..3)),
            prop::collection::vec(0u8..12, 0..4)
        )
            .prop_map(|(n, policies, ports)| firewall_group(n, policies, &ports)),
    ]
}

fn port_strategy() -> impl Strategy<Value = Object> {
    let groups = prop::collection::btree_set(0u8..3, 0..3);
    let qos = prop::option::of(0u8..3);
    let host = prop::option::of(0u8..5);
    let trunk = prop::option::weighted(0.3, 0u8..8);
    let strategy = (0u8..8, 0u8..5, host, groups, 200u8..202, qos, trunk);
    strategy.prop_map(|(n, w, h, groups, project, qos, trunk)| {
        let groups: Vec<_> = groups.into_iter().collect();
        let port = with_qos(port(n, w, h, &groups, project), qos);
        carried(port, trunk.filter(|parent| *parent != n))
    })
}

fn change() -> impl Strategy<Value = Change> {
    prop_oneof![
        4 => object().prop_map(Change::Put),
        1 => object().prop_map(|object| Change::Gone(object.id())),
    ]
}

fn same(a: &HostConfig, b: &HostConfig) -> bool {
    a.sections == b.sections
}

fn compiled(changes: &[Change]) -> Compiler {
    let mut compiler = Compiler::new(Uuid::nil());
    compiler.apply(changes, Generation(1));
    compiler
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn change_by_change_arrives_where_the_whole_does(
        commits in prop::collection::vec(prop::collection::vec(change(), 1..6), 1..25),
    ) {
        let mut compiler = Compiler::new(Uuid::nil());
        let mut mirrors: BTreeMap<HostName, BTreeMap<SectionKey, Arc<Keyed>>> = BTreeMap::new();
        for (n, commit) in commits.iter().enumerate() {
            let touched = compiler.apply(commit, Generation(n as u64 + 1));
            for (host, keys) in &touched.hosts {
                let mirror = mirrors.entry(host.clone()).or_default();
                for key in keys {
                    match compiler.config(host).and_then(|c| c.sections.get(key)) {
                        Some(section) => { mirror.insert(*key, Arc::clone(section)); }
                        None => { mirror.remove(key); }
                    }
                }
            }
            mirrors.retain(|_, mirror| !mirror.is_empty());
            let whole = compile(compiler.intent(), Uuid::nil(), Generation(1));
            prop_assert_eq!(
                whole.keys().collect::<Vec<_>>(),
                compiler.hosts().map(|(h, _)| h).collect::<Vec<_>>()
            );
            for (host, config) in compiler.hosts() {
                prop_assert!(same(config, &whole[host]), "{host}: {:?} {:?}", config, whole[host]);
                prop_assert_eq!(&config.sections, &mirrors[host]);
                prop_assert_eq!(check(config), vec![]);
            }
            let held: BTreeSet<SectionKey> =
                compiler.hosts().flat_map(|(_, c)| c.sections.keys().copied()).collect();
            for key in compiler.sections.keys() {
                let here = matches!(key, SectionKey::Endpoint(_));
                prop_assert!(here || held.contains(key), "{key} is kept for nobody");
            }
        }
    }

    #[test]
    fn the_order_of_objects_does_not_matter(
        objects in prop::collection::vec(object(), 1..40).prop_flat_map(|objects| {
            let one_each: BTreeMap<ObjectId, Object> =
                objects.into_iter().map(|o| (o.id(), o)).collect();
            let changes: Vec<Change> = one_each.into_values().map(Change::Put).collect();
            (Just(changes.clone()), Just(changes).prop_shuffle())
        }),
    ) {
        let (one, other) = (compiled(&objects.0), compiled(&objects.1));
        for (host, config) in one.hosts() {
            prop_assert!(same(config, other.config(host).unwrap()));
        }
        prop_assert_eq!(one.hosts().count(), other.hosts().count());
    }
}

pub(crate) fn put(objects: impl IntoIterator<Item = Object>) -> Vec<Change> {
    objects.into_iter().map(Change::Put).collect()
}

fn chain_of(config: &HostConfig, n: u8) -> Option<&ChainSection> {
    let Section::Chain(chain) = config.sections.get(&SectionKey::Chain(id(n)))?.body() else {
        return None;
    };
    Some(chain)
}

#[test]
fn who_has_a_chain_has_what_may_follow_it() {
    let mut compiler = compiled(&put([
        host(0, true, false),
        host(1, true, false),
        network(0, "a"),
        network(1, "b"),
        port(0, 0, Some(0), &[], 200),
        port(2, 1, Some(1), &[], 201),
        classifier(0, Some(Side::Network(id(0))), None),
        classifier(1, Some(Side::Network(id(1))), None),
        shaper(0, 1_000_000),
        followed(chain(0, &[0], &[0]), &[1]),
        chain(1, &[1], &[0]),
        chain(2, &[], &[0]),
    ]));
    let has = |compiler: &Compiler| {
        [0, 1].map(|at| {
            let config = compiler.config(&host_name(at));
            [0, 1, 2].map(|n| config.is_some_and(|config| chain_of(config, n).is_some()))
        })
    };
    assert_eq!(has(&compiler), [[true, true, false], [false, true, false]]);
    compiler.apply(&put([followed(chain(1, &[1], &[0]), &[2])]), Generation(2));
    assert_eq!(has(&compiler), [[true; 3], [false, true, true]]);
    compiler.apply(&put([chain(0, &[0], &[0])]), Generation(3));
    assert_eq!(has(&compiler), [[true, false, false], [false, true, true]]);
}

#[test]
fn hosts_of_a_chain_hear_where_its_appliances_are_and_those_of_which_chain_they_are() {
    let from = Some(Side::Network(id(0)));
    let mut compiler = compiled(&put([
        host(0, true, false),
        host(1, true, false),
        host(2, true, false),
        network(0, "a"),
        network(1, "b"),
        port(0, 0, Some(0), &[], 200),
        port(2, 1, Some(1), &[], 201),
        port(3, 1, Some(1), &[], 201),
        port(4, 1, Some(2), &[], 201),
        classifier(0, from, None),
        appliances(0, &[(2, 3)]),
        chain(0, &[0], &[0]),
    ]));
    let place = |compiler: &Compiler, at: u8| {
        let chain = chain_of(compiler.config(&host_name(at))?, 0)?;
        assert_eq!(chain.path, 1);
        chain.instances().next().map(|i| i.at)
    };
    let there = |n: u8, up| {
        Some(Some(hostconfig::chain::Place {
            vtep: Ipv4Addr::new(192, 0, 2, n).into(),
            up,
            vnis: [Vni::try_from(101).unwrap(); 2],
            mtu: Mtu::try_from(1450).unwrap(),
        }))
    };
    // The sender's host, and the appliance's, which has no port of the network; and no other.
    let all = |compiler: &Compiler| [0, 1, 2].map(|at| place(compiler, at));
    assert_eq!(all(&compiler), [there(1, true), there(1, true), None]);
    let down = |n, host| {
        let Object::Port(plain) = port(n, 1, Some(host), &[], 201) else {
            unreachable!()
        };
        let mut plain = Port::clone(&plain);
        plain.section.admin_up = false;
        Object::Port(Arc::new(plain))
    };
    compiler.apply(&put([down(3, 1)]), Generation(2));
    assert_eq!(all(&compiler), [there(1, false), there(1, false), None]);
    // Its ports are on two hosts: on no one.
    compiler.apply(&put([port(3, 1, Some(2), &[], 201)]), Generation(3));
    assert_eq!(all(&compiler), [Some(None); 3]);
    // Both have moved, then the host says where its VTEP is.
    compiler.apply(&put([port(2, 1, Some(2), &[], 201)]), Generation(4));
    assert_eq!(all(&compiler), [there(2, true), None, there(2, true)]);
    compiler.apply(&put([host(2, false, false)]), Generation(5));
    assert_eq!(place(&compiler, 0), Some(None));
    compiler.apply(&put([host(2, true, true)]), Generation(6));
    assert_eq!(
        place(&compiler, 0),
        Some(None),
        "a foreign host speaks no NSH"
    );
    compiler.apply(&put([host(2, true, false)]), Generation(7));
    assert_eq!(all(&compiler), [there(2, true), None, there(2, true)]);
    // It is gone, and back.
    let lost = |lost| {
        let Object::Host(plain) = host(2, true, false) else {
            unreachable!()
        };
        let mut plain = Host::clone(&plain);
        plain.lost = lost;
        put([Object::Host(Arc::new(plain))])
    };
    compiler.apply(&lost(true), Generation(7));
    assert_eq!(all(&compiler), [there(2, false), None, there(2, false)]);
    compiler.apply(&lost(false), Generation(7));
    assert_eq!(all(&compiler), [there(2, true), None, there(2, true)]);
    // Another pair: another host.
    compiler.apply(&put([appliances(0, &[(4, 4)])]), Generation(8));
    assert_eq!(all(&compiler), [there(2, true), None, there(2, true)]);
    compiler.apply(&[Change::Gone(ObjectId::Chain(id(0)))], Generation(9));
    assert_eq!(all(&compiler), [None, None, None]);
}

#[test]
fn a_port_touches_its_own_host_and_those_of_its_network() {
    let mut compiler = compiled(&put([
        host(0, true, false),
        host(1, true, false),
        host(2, true, false),
        network(0, "a"),
        network(1, "b"),
        group(0, true),
        port(0, 0, Some(0), &[0], 200),
        port(1, 0, Some(1), &[0], 200),
        port(2, 1, Some(2), &[], 200),
    ]));
    let touched = compiler.apply(&put([port(3, 0, Some(0), &[0], 200)]), Generation(2));
    let hosts: Vec<_> = touched.hosts.keys().map(HostName::as_str).collect();
    assert_eq!(hosts, ["h0", "h1"]);
    assert_eq!(
        touched.hosts[&host_name(0)],
        [SectionKey::Port(id(3))].into()
    );
    assert_eq!(
        touched.hosts[&host_name(1)],
        [SectionKey::Endpoint(id(3))].into()
    );
    assert_eq!(touched.ports, [id(3)].into());
}

#[test]
fn a_remote_group_follows_its_members_and_their_pairs() {
    let mut compiler = compiled(&put([
        host(0, true, false),
        network(0, "a"),
        group(0, true),
        group(1, true),
        rule(0, 0, Remote::Set(id(1))),
        port(0, 0, Some(0), &[0], 200),
    ]));
    let key = SectionKey::AddressSet(id(1));
    let members = |compiler: &Compiler| {
        let config = compiler.config(&host_name(0)).unwrap();
        assert!(config.sections.contains_key(&key));
        let sets = config.sections.values().filter_map(|section| {
            let Section::AddressSet(set) = section.body() else {
                return None;
            };
            (set.id == id(1)).then_some(&set.members)
        });
        let mut all: Vec<_> = sets.flatten().map(ToString::to_string).collect();
        all.sort();
        all
    };
    assert!(members(&compiler).is_empty());
    compiler.apply(&put([port(1, 0, None, &[1], 200)]), Generation(2));
    assert_eq!(members(&compiler), ["10.0.0.1/32", "2001:db8:1::/64"]);
    compiler.apply(&[Change::Gone(ObjectId::Rule(id(0)))], Generation(3));
    assert!(
        !compiler
            .config(&host_name(0))
            .unwrap()
            .sections
            .contains_key(&key)
    );
}

fn router_of(config: &HostConfig, n: u8) -> Option<&hostconfig::Router> {
    let Section::Router(router) = config.sections.get(&SectionKey::Router(id(n)))?.body() else {
        return None;
    };
    Some(router)
}

/// Networks 0 to 4 with a port and a host each; router 0 joins 0 and 1, router 1 joins 2 and 3.
fn two_components() -> Vec<Change> {
    let mut objects: Vec<Object> = (0..5).map(|n| host(n, true, false)).collect();
    objects.extend((0..5).map(|n| network(n, "net")));
    objects.extend((0..5).map(|n| subnet(n, n, true)));
    objects.extend((0..5).map(|n| port(n, n, Some(n), &[], 200)));
    objects.extend((0..2).map(|n| router(n, true, &[])));
    for n in 0..4 {
        objects.push(interface(10 + n, n, n / 2));
    }
    put(objects)
}

fn networks_at(compiler: &Compiler, n: u8) -> Vec<u8> {
    let config = compiler.config(&host_name(n)).unwrap();
    let has = |n: &u8| config.sections.contains_key(&SectionKey::Network(id(*n)));
    let networks: Vec<u8> = (0..5).filter(has).collect();
    for n in 0..5 {
        let key = SectionKey::Endpoint(id(n));
        let here = config.sections.contains_key(&SectionKey::Port(id(n)));
        let needed = networks.contains(&n) && !here;
        assert_eq!(config.sections.contains_key(&key), needed, "{key}");
    }
    assert_eq!(check(config), vec![]);
    networks
}

#[test]
fn a_host_needs_all_that_routers_join_with_its_networks_and_no_more() {
    let mut compiler = compiled(&two_components());
    let at = |compiler: &Compiler| -> Vec<Vec<u8>> {
        (0..5).map(|n| networks_at(compiler, n)).collect()
    };
    let apart = [vec![0, 1], vec![0, 1], vec![2, 3], vec![2, 3], vec![4]];
    assert_eq!(at(&compiler), apart);
    let config = compiler.config(&host_name(0)).unwrap();
    let section = router_of(config, 0).unwrap();
    let interfaces: Vec<_> = section
        .interfaces
        .iter()
        .map(|i| (i.port, i.network))
        .collect();
    assert_eq!(interfaces, [(id(10), id(0)), (id(11), id(1))]);
    assert_eq!(
        section.interfaces[0].addrs,
        [hostconfig::router::InterfaceAddr {
            addr: addr(10),
            subnet: "10.0.0.0/24".parse().unwrap(),
        }]
    );
    assert!(router_of(config, 1).is_none());

    // An interface joins two components; the fifth network's host hears nothing.
    let touched = compiler.apply(&put([interface(20, 2, 0)]), Generation(2));
    let hosts: Vec<_> = touched.hosts.keys().map(HostName::as_str).collect();
    assert_eq!(hosts, ["h0", "h1", "h2", "h3"]);
    let all = vec![0, 1, 2, 3];
    let joined = [all.clone(), all.clone(), all.clone(), all, vec![4]];
    assert_eq!(at(&compiler), joined);
    let config = compiler.config(&host_name(0)).unwrap();
    assert_eq!(router_of(config, 0).unwrap().interfaces.len(), 3);
    assert!(router_of(config, 1).is_some());

    // A port on one of them is an endpoint for all of them.
    let touched = compiler.apply(&put([port(5, 3, Some(3), &[], 200)]), Generation(3));
    let hosts: Vec<_> = touched.hosts.keys().map(HostName::as_str).collect();
    assert_eq!(hosts, ["h0", "h1", "h2", "h3"]);
    compiler.apply(&[Change::Gone(ObjectId::Port(id(5)))], Generation(4));

    // And apart again.
    compiler.apply(&[Change::Gone(ObjectId::Port(id(20)))], Generation(5));
    assert_eq!(at(&compiler), apart);
    compiler.apply(&[Change::Gone(ObjectId::Router(id(1)))], Generation(6));
    let alone = [vec![0, 1], vec![0, 1], vec![2], vec![3], vec![4]];
    assert_eq!(at(&compiler), alone);
}

/// A virtual address is served in the sender's own switch, also when routers are between.
#[test]
fn a_chain_for_a_virtual_address_is_wherever_its_network_is_needed() {
    let mut compiler = compiled(&two_components());
    let ends = [
        Side::Port(id(30)),
        Side::Network(id(1)),
        Side::Project(id(201)),
    ];
    for (n, end) in (0..).zip(ends) {
        compiler.apply(
            &put([
                port(30, 1, None, &[], 201),
                classifier(n, None, Some(end)),
                balancer(0, 30, &[1]),
                chain(n, &[n], &[0]),
            ]),
            Generation(2),
        );
        let has = |compiler: &Compiler, host: u8| {
            let config = compiler.config(&host_name(host)).unwrap();
            chain_of(config, n).is_some()
        };
        let holders: Vec<u8> = (0..5).filter(|host| has(&compiler, *host)).collect();
        assert_eq!(holders, [0, 1], "{end:?}");
        compiler.apply(&[Change::Gone(ObjectId::Port(id(10)))], Generation(3));
        assert!(!has(&compiler, 0));
        compiler.apply(&put([interface(10, 0, 0)]), Generation(4));
        assert!(has(&compiler, 0));
        compiler.apply(&[Change::Gone(ObjectId::Function(id(0)))], Generation(5));
        assert!(!has(&compiler, 0));
    }
}

#[test]
fn what_a_router_does_changes_its_section_alone() {
    let mut compiler = compiled(&two_components());
    let routes = [("172.16.0.0/12", "10.0.0.9")];
    let touched = compiler.apply(&put([router(0, false, &routes)]), Generation(2));
    let only: BTreeSet<SectionKey> = [SectionKey::Router(id(0))].into();
    assert_eq!(
        touched.hosts,
        [(host_name(0), only.clone()), (host_name(1), only)].into()
    );
    let config = compiler.config(&host_name(1)).unwrap();
    let section = router_of(config, 0).unwrap();
    assert!(!section.admin_up);
    assert_eq!(section.routes.len(), 1);
}

/// So many ports of one group, each on a host of its own, that follow each other's addresses.
fn following(count: u8) -> Compiler {
    let mut all = put([
        network(0, "a"),
        group(0, true),
        rule(0, 0, Remote::Set(id(0))),
    ]);
    all.extend(put((0..count).map(|n| host(n, true, false))));
    all.extend(put((0..count).map(|n| port(n, 0, Some(n), &[0], 200))));
    compiled(&all)
}

#[test]
fn a_member_that_changes_costs_its_part_of_the_set_however_many_there_are() {
    let (mut few, mut many) = (following(3), following(200));
    let mut costs = Vec::new();
    for compiler in [&mut few, &mut many] {
        let before = compiler.compiled();
        let mut moved = port(1, 0, Some(1), &[0], 200);
        if let Object::Port(port) = &mut moved {
            let port = Arc::make_mut(port);
            port.section.fixed_ips[0].addr = addr(250);
        }
        let touched = compiler.apply(&put([moved]), Generation(2));
        let part = SectionKey::AddressPart(id(0), 1);
        let told = &touched.hosts[&host_name(2)];
        assert_eq!(*told, [part, SectionKey::Endpoint(id(1))].into());
        let set = &compiler.config(&host_name(2)).unwrap().sections[&part];
        let Section::AddressSet(set) = set.body() else {
            unreachable!()
        };
        assert_eq!(
            set.members.len(),
            2,
            "its address and its pair's, of nobody else"
        );
        costs.push(compiler.compiled() - before);
    }
    assert_eq!(costs[0], costs[1], "sections compiled for one change");
    assert!(costs[0] <= 4, "{costs:?}");
}

#[test]
fn a_change_that_moves_no_address_is_no_news_for_a_set() {
    let mut compiler = following(3);
    let mut other = port(1, 0, Some(1), &[0], 200);
    if let Object::Port(port) = &mut other {
        Arc::make_mut(port).section.mac =
            UnicastMac::try_from(Mac::new([2, 0, 0, 9, 9, 9])).unwrap();
    }
    let touched = compiler.apply(&put([other]), Generation(2));
    let mut told = touched.hosts.values().flatten();
    assert!(
        told.all(|key| !matches!(key, SectionKey::AddressPart(..) | SectionKey::AddressSet(_)))
    );
}

#[test]
fn an_address_group_is_told_to_the_hosts_of_its_rules() {
    let mut compiler = compiled(&put([
        host(0, true, false),
        host(1, true, false),
        network(0, "a"),
        group(0, true),
        rule(0, 0, Remote::Set(id(40))),
        port(0, 0, Some(0), &[0], 200),
        port(1, 0, Some(1), &[], 200),
        address_group(40, &["10.0.0.0/8"]),
    ]));
    let key = SectionKey::AddressSet(id(40));
    let members = |compiler: &Compiler| {
        let config = compiler.config(&host_name(0)).unwrap();
        let Section::AddressSet(set) = config.sections[&key].body() else {
            unreachable!()
        };
        set.members.len()
    };
    assert_eq!(members(&compiler), 1);
    let touched = compiler.apply(
        &put([address_group(40, &["10.0.0.0/8", "fd00::/8"])]),
        Generation(2),
    );
    assert_eq!(touched.hosts, [(host_name(0), [key].into())].into());
    assert_eq!(members(&compiler), 2);
    compiler.apply(
        &[Change::Gone(ObjectId::AddressGroup(id(40)))],
        Generation(3),
    );
    assert_eq!(members(&compiler), 0);
}

#[test]
fn a_virtual_address_is_in_every_switch_of_its_network_while_a_chain_uses_it() {
    let mut compiler = compiled(&put([
        host(0, true, false),
        host(1, true, false),
        network(0, "a"),
        port(0, 0, Some(0), &[], 200),
        port(1, 0, Some(1), &[], 200),
        port(5, 0, None, &[], 200),
        classifier(0, Some(Side::Network(id(0))), None),
        balancer(0, 5, &[1, 0]),
    ]));
    let key = SectionKey::Endpoint(id(5));
    assert!(
        !compiler
            .config(&host_name(0))
            .unwrap()
            .sections
            .contains_key(&key)
    );
    compiler.apply(&put([chain(0, &[0], &[0])]), Generation(2));
    for n in 0..2 {
        let config = compiler.config(&host_name(n)).unwrap();
        let Section::Endpoint(vip) = config.sections[&key].body() else {
            unreachable!()
        };
        assert_eq!(
            (vip.at, vip.addrs.as_slice()),
            (Location::Virtual, [addr(5)].as_slice())
        );
        assert_eq!(vip.project, Some(id(200)));
        let chain = chain_of(config, 0).unwrap();
        let hostconfig::FunctionKind::LoadBalancer(lb) = &chain.functions[0].kind else {
            unreachable!()
        };
        assert_eq!(lb.vip, addr(5));
        assert_eq!(
            lb.members.iter().map(|m| m.addr).collect::<Vec<_>>(),
            [addr(0), addr(1)]
        );
    }
    compiler.apply(&[Change::Gone(ObjectId::Chain(id(0)))], Generation(3));
    assert!(
        !compiler
            .config(&host_name(1))
            .unwrap()
            .sections
            .contains_key(&key)
    );
}

#[test]
fn a_nat_has_its_addresses_everywhere_and_each_host_its_number() {
    let mut compiler = compiled(&put([
        host(1, true, false),
        host(2, true, false),
        network(0, "a"),
        port(0, 0, Some(1), &[], 200),
        port(1, 0, Some(2), &[], 200),
        port(5, 0, None, &[], 200),
        port(6, 0, None, &[], 200),
        classifier(0, Some(Side::Network(id(0))), None),
        nat(0, 5, 1),
        chain(0, &[0], &[0]),
    ]));
    for n in [1, 2] {
        let config = compiler.config(&host_name(n)).unwrap();
        for address in [5, 6] {
            let Section::Endpoint(held) =
                config.sections[&SectionKey::Endpoint(id(address))].body()
            else {
                unreachable!()
            };
            assert_eq!(held.at, Location::Virtual);
        }
        let Section::Port(own) = config.sections[&SectionKey::Port(id(n - 1))].body() else {
            unreachable!()
        };
        assert_eq!(own.host_number, Some(u16::from(n)));
        let chain = chain_of(config, 0).unwrap();
        let hostconfig::FunctionKind::Nat(nat) = &chain.functions[0].kind else {
            unreachable!()
        };
        assert_eq!(nat.addresses.len(), 2);
        assert_eq!(
            (nat.forwards[0].to, nat.statics[0].inside),
            (addr(1), addr(1))
        );
    }
    // An address whose port is gone is none of the NAT's, nor what came by it.
    compiler.apply(&[Change::Gone(ObjectId::Port(id(6)))], Generation(2));
    let chain = chain_of(compiler.config(&host_name(1)).unwrap(), 0).unwrap();
    let hostconfig::FunctionKind::Nat(nat) = &chain.functions[0].kind else {
        unreachable!()
    };
    assert_eq!((nat.addresses.len(), nat.statics.len()), (1, 0));
    assert_eq!(compiler.chain_complaints(id(0)).len(), 1);
}

#[test]
fn what_cannot_be_had_is_complained_about() {
    let mut compiler = compiled(&put([
        host(0, false, false),
        network(0, "a"),
        port(0, 0, Some(0), &[], 200),
        port(1, 0, Some(1), &[], 200),
        port(2, 1, Some(0), &[], 200),
        balancer(0, 7, &[6]),
        shaper(2, 8_000),
        chain(0, &[1], &[0, 1, 2]),
    ]));
    let said = |c: Option<Complaint>| c.map(|c| c.to_string()).unwrap_or_default();
    assert_eq!(
        said(compiler.port_complaint(id(0))),
        "the host has no VTEP address yet: h0"
    );
    assert_eq!(said(compiler.port_complaint(id(1))), "no such host: h1");
    assert!(said(compiler.port_complaint(id(2))).starts_with("no such network"));
    assert_eq!(compiler.chain_complaints(id(0)).len(), 3);
    compiler.apply(&put([host(0, true, false)]), Generation(2));
    assert_eq!(compiler.port_complaint(id(0)), None);
}

#[test]
fn dhcp_answers_from_the_gateway_or_from_a_link_local_address() {
    let compiler = compiled(&put([
        host(0, true, false),
        network(0, "a"),
        subnet(0, 0, true),
        subnet(1, 0, false),
        port(0, 0, Some(0), &[], 200),
    ]));
    let config = compiler.config(&host_name(0)).unwrap();
    let Section::Network(network) = config.sections[&SectionKey::Network(id(0))].body() else {
        unreachable!()
    };
    let servers: Vec<_> = network
        .subnets
        .iter()
        .map(|s| s.dhcp.as_ref().unwrap())
        .collect();
    assert_eq!(servers[0].server, Ipv4Addr::new(10, 0, 0, 1));
    assert_eq!(servers[1].server, Ipv4Addr::new(169, 254, 169, 254));
    assert_eq!(servers[0].server_mac, servers[1].server_mac);
    assert!(UnicastMac::try_from(servers[0].server_mac).is_ok());
}

#[test]
fn what_routers_say_of_a_subnet_is_told_to_all_who_need_its_network() {
    let said = |mode, dns: &[&str]| {
        let mut changes = two_components();
        changes.extend(put([subnet6(9, 0, mode, dns)]));
        changes
    };
    let mut compiler = compiled(&said(None, &["fd09::9"]));
    let told = |compiler: &Compiler, n: u8| {
        let network = network_of(compiler.config(&host_name(n)).unwrap(), 0);
        let subnet = network.subnets.iter().find(|s| s.id == id(9)).unwrap();
        (subnet.ra, subnet.dns6.clone())
    };
    assert_eq!(told(&compiler, 0), (None, vec![]));
    let changed = put([subnet6(
        9,
        0,
        Some(RaMode::Stateful),
        &["fd09::9", "fd09::8"],
    )]);
    let touched = compiler.apply(&changed, Generation(2));
    // The second host's workloads come to that network by its router.
    let only: BTreeSet<SectionKey> = [SectionKey::Network(id(0))].into();
    assert_eq!(
        touched.hosts,
        [(host_name(0), only.clone()), (host_name(1), only)].into()
    );
    let servers = vec!["fd09::9".parse().unwrap(), "fd09::8".parse().unwrap()];
    for n in [0, 1] {
        assert_eq!(
            told(&compiler, n),
            (Some(RaMode::Stateful), servers.clone())
        );
    }
    let dhcp = network_of(compiler.config(&host_name(0)).unwrap(), 0);
    let v4 = dhcp.subnets.iter().find(|s| s.id == id(0)).unwrap();
    let dns = &v4.dhcp.as_ref().unwrap().dns;
    assert_eq!(dns, &[Ipv4Addr::new(9, 9, 9, 9)]);
    assert_eq!(v4.dns6, Vec::<std::net::Ipv6Addr>::new());
}

#[test]
fn dhcpv6_is_answered_where_addresses_or_the_rest_are_got_by_it() {
    let modes = [RaMode::Slaac, RaMode::Stateless, RaMode::Stateful];
    let mut changes = put([
        host(0, true, false),
        network(0, "a"),
        subnet(0, 0, true),
        subnet6(9, 0, None, &["fd09::9"]),
        port(0, 0, Some(0), &[], 200),
    ]);
    for (n, mode) in (10..).zip(modes) {
        changes.extend(put([subnet6(n, 0, Some(mode), &["fd09::9"])]));
    }
    let compiler = compiled(&changes);
    let network = network_of(compiler.config(&host_name(0)).unwrap(), 0);
    let of = |n: u8| network.subnets.iter().find(|s| s.id == id(n)).unwrap();
    let server_mac = of(0).dhcp.as_ref().unwrap().server_mac;
    let leases = [9, 10, 11, 12].map(|n| {
        let dhcp6 = of(n).dhcp6.as_ref();
        assert!(dhcp6.is_none_or(|d| d.server_mac == server_mac));
        dhcp6.map(|d| d.lease_seconds)
    });
    assert_eq!(leases, [None, None, Some(None), Some(Some(86_400))]);
    assert_eq!(of(12).dns6, of(11).dns6);
    assert_eq!((of(9).dns6.len(), of(12).dns6.len()), (0, 1));
}

#[test]
fn a_foreign_host_is_told_nothing_but_is_told_of() {
    let compiler = compiled(&put([
        host(0, true, false),
        host(3, true, true),
        network(0, "a"),
        port(0, 0, Some(0), &[], 200),
        port(1, 0, Some(3), &[], 200),
    ]));
    assert!(compiler.config(&host_name(3)).is_none());
    let config = compiler.config(&host_name(0)).unwrap();
    let Section::Vteps(vteps) = config.sections[&SectionKey::Vteps].body() else {
        unreachable!()
    };
    assert_eq!(vteps.vteps.values().filter(|v| v.foreign).count(), 1);
    assert!(config.sections.contains_key(&SectionKey::Endpoint(id(1))));
}

#[test]
fn a_firewall_group_is_told_to_the_hosts_of_its_ports_and_of_its_routers() {
    let mut compiler = compiled(&put([
        host(1, true, false),
        host(2, true, false),
        network(0, "a"),
        network(1, "b"),
        subnet(0, 0, true),
        subnet(1, 1, true),
        port(1, 0, Some(1), &[], 200),
        port(2, 1, Some(2), &[], 200),
        router(0, true, &[]),
        interface(6, 0, 0),
        firewall_rule(0, 80),
        firewall_rule(1, 81),
        firewall_policy(0, &[1, 0]),
        firewall_policy(1, &[]),
        firewall_group(0, [Some(0), None], &[1]),
        firewall_group(1, [None, Some(0)], &[6]),
        firewall_group(2, [None, None], &[2]),
    ]));
    let told = |compiler: &Compiler, n: u8| -> Vec<u8> {
        let config = compiler.config(&host_name(n)).unwrap();
        let groups = (0..3).filter(|g| {
            let key = SectionKey::Firewall(id(*g));
            config.sections.contains_key(&key)
        });
        groups.collect()
    };
    assert_eq!(
        (told(&compiler, 1), told(&compiler, 2)),
        (vec![0, 1], vec![])
    );
    let config = compiler.config(&host_name(1)).unwrap();
    let Section::Port(one) = config.sections[&SectionKey::Port(id(1))].body() else {
        unreachable!("it is a port's key");
    };
    assert_eq!(one.firewall, Some(id(0)));
    assert_eq!(
        router_of(config, 0).unwrap().interfaces[0].firewall,
        Some(id(1))
    );
    let Section::Firewall(group) = config.sections[&SectionKey::Firewall(id(0))].body() else {
        unreachable!("it is a firewall's key");
    };
    let rules: Vec<_> = group.ingress.rules.iter().map(|rule| rule.id).collect();
    assert_eq!((rules, &group.egress.rules), (vec![id(1), id(0)], &vec![]));
    // A rule is news for the groups that have it alone.
    let touched = compiler.apply(&put([firewall_rule(0, 8080)]), Generation(2));
    let groups = [0, 1].map(|g| SectionKey::Firewall(id(g)));
    assert_eq!(touched.hosts, [(host_name(1), groups.into())].into());
    // What has no policy holds nowhere, until it has one.
    let armed = firewall_group(2, [Some(1), None], &[2]);
    compiler.apply(&put([armed]), Generation(3));
    assert_eq!(told(&compiler, 2), [2]);
    compiler.apply(&[Change::Gone(ObjectId::Firewall(id(1)))], Generation(4));
    assert_eq!((told(&compiler, 1), told(&compiler, 2)), (vec![0], vec![2]));
    let config = compiler.config(&host_name(1)).unwrap();
    assert_eq!(router_of(config, 0).unwrap().interfaces[0].firewall, None);
}

#[test]
fn a_port_has_its_own_policy_or_its_networks() {
    let mut compiler = compiled(&put([
        host(0, true, false),
        host(1, true, false),
        network_with(0, "a", Some(0)),
        qos(0, 8),
        qos(1, 16),
        port(0, 0, Some(0), &[], 200),
        with_qos(port(1, 0, Some(1), &[], 200), Some(1)),
        // What serves the network is not the workloads' affair.
        port(3, 0, Some(0), &[], 200),
    ]));
    let of = |compiler: &Compiler, h: u8, p: u8| {
        let config = compiler.config(&host_name(h)).unwrap();
        let Section::Port(port) = config.sections[&SectionKey::Port(id(p))].body() else {
            unreachable!()
        };
        let told = config.sections.keys().filter_map(|key| {
            if let SectionKey::Qos(id) = key {
                Some(*id)
            } else {
                None
            }
        });
        (port.qos, told.collect::<Vec<_>>())
    };
    assert_eq!(of(&compiler, 0, 0), (Some(id(0)), vec![id(0)]));
    assert_eq!(of(&compiler, 1, 1), (Some(id(1)), vec![id(1)]));
    assert_eq!(of(&compiler, 0, 3).0, None);
    // A rule that changes is one section to those who have it.
    let touched = compiler.apply(&put([qos(0, 10)]), Generation(2));
    let expected = [(host_name(0), [SectionKey::Qos(id(0))].into())];
    assert_eq!(touched.hosts, expected.into());
    // Without its own it has the network's; and the network's may go.
    compiler.apply(&put([port(1, 0, Some(1), &[], 200)]), Generation(3));
    assert_eq!(of(&compiler, 1, 1), (Some(id(0)), vec![id(0)]));
    compiler.apply(&put([network(0, "a")]), Generation(4));
    assert_eq!(of(&compiler, 0, 0), (None, vec![]));
    assert_eq!(of(&compiler, 1, 1), (None, vec![]));
}

#[test]
fn a_policy_is_told_with_what_is_above_it() {
    let mut compiler = compiled(&put([
        host(0, true, false),
        network(0, "a"),
        qos_in(0, None, 100, 0),
        // It limits nothing, and is passed over.
        qos_in(1, Some(0), 0, 0),
        qos_in(2, Some(1), 0, 7_000_000),
        with_qos(port(0, 0, Some(0), &[], 200), Some(2)),
    ]));
    let share = |compiler: &Compiler| {
        let config = compiler.config(&host_name(0)).unwrap();
        let Section::Qos(policy) = config.sections[&SectionKey::Qos(id(2))].body() else {
            unreachable!()
        };
        assert_eq!(policy.ingress, hostconfig::qos::Limit::default());
        policy.egress.clone()
    };
    let node = |n: u8, rate_bps, mbit: u64| hostconfig::share::Node {
        id: id::<kind::QosPolicy>(n).uuid(),
        rate_bps,
        ceil_bps: mbit * 1_000_000,
        burst_bytes: 9_000,
        fabric: false,
    };
    let told = share(&compiler);
    let expected = hostconfig::share::Share {
        rate_bps: 7_000_000,
        within: vec![node(0, 0, 100)],
    };
    assert_eq!(told.share.as_ref(), Some(&expected));
    assert_eq!(told.queue, hostconfig::Discipline::FqCodel);
    assert_eq!(told.queue_bytes, 1_250_000, "100 ms of the root's rate");
    // What is above changes: the section of who is below is told anew, and no other, since nobody else's port is here.
    let touched = compiler.apply(&put([qos_in(1, Some(0), 50, 9_000_000)]), Generation(2));
    let expected = [(host_name(0), [SectionKey::Qos(id(2))].into())];
    assert_eq!(touched.hosts, expected.into());
    let within = share(&compiler).share.unwrap().within;
    assert_eq!(within, [node(1, 9_000_000, 50), node(0, 0, 100)]);
    compiler.apply(&put([qos_in(1, None, 50, 0)]), Generation(3));
    assert_eq!(share(&compiler).share.unwrap().within, [node(1, 0, 50)]);
    compiler.apply(&put([qos_in(2, None, 5, 0)]), Generation(4));
    assert_eq!(share(&compiler).share, None);
}

#[test]
fn what_a_workload_hears_of_itself_is_its_own_hosts_alone_and_changes_nothing_else() {
    let told = |n: u8, data: &str| {
        let Object::Port(plain) = port(n, 1, Some(1), &[], 9) else {
            unreachable!()
        };
        let metadata = hostconfig::Metadata {
            user_data: Some(hostconfig::metadata::UserData::new(data.to_owned())),
            ..metadata(n, "vm")
        };
        Change::Put(Object::Port(Arc::new(Port {
            metadata: Some(Arc::new(metadata)),
            ..Port::clone(&plain)
        })))
    };
    let mut compiler = Compiler::new(Uuid::nil());
    let all = [
        host(1, true, false),
        host(2, true, false),
        network(1, "blue"),
        port(2, 1, Some(2), &[], 9),
    ];
    let all: Vec<_> = all.into_iter().map(Change::Put).collect();
    compiler.apply(&all, Generation(1));
    compiler.apply(&[told(1, "YQ==")], Generation(2));
    let key = SectionKey::Metadata(id(1));
    let holds = |compiler: &Compiler, n| {
        let config = compiler.config(&host_name(n)).unwrap();
        config.sections.contains_key(&key)
    };
    assert!(holds(&compiler, 1) && !holds(&compiler, 2));
    let touched = compiler.apply(&[told(1, "Yg==")], Generation(3));
    assert_eq!(touched.hosts, [(host_name(1), [key].into())].into());
    // Without it, and without the port, nobody has it.
    let bare = Change::Put(port(1, 1, Some(1), &[], 9));
    let touched = compiler.apply(&[bare], Generation(4));
    assert_eq!(touched.hosts, [(host_name(1), [key].into())].into());
    assert!(!holds(&compiler, 1));
    compiler.apply(&[told(1, "Yg==")], Generation(5));
    let gone = Change::Gone(intent::ObjectId::Port(id(1)));
    compiler.apply(&[gone], Generation(6));
    assert!(!holds(&compiler, 1));
}

#[test]
fn a_floating_ips_name_is_known_on_its_projects_networks_of_its_domain() {
    let mut compiler = Compiler::new(Uuid::nil());
    let Object::Network(others) = in_domain(network(3, "others"), Some("d0")) else {
        unreachable!()
    };
    let mut others = Network::clone(&others);
    others.section.project = id(201);
    let all = [
        host(1, true, false),
        in_domain(network(1, "blue"), Some("d0")),
        in_domain(network(2, "red"), Some("d1")),
        Object::Network(Arc::new(others)),
        port(1, 1, Some(1), &[], 200),
        port(2, 2, Some(1), &[], 200),
        port(3, 3, Some(1), &[], 201),
    ];
    compiler.apply(&put(all), Generation(1));
    let known = |compiler: &Compiler| {
        let config = compiler.config(&host_name(1)).unwrap();
        let names = |n| network_of(config, n).names.clone();
        [1, 2, 3].map(|n| {
            names(n)
                .into_iter()
                .map(|named| named.name)
                .collect::<Vec<_>>()
        })
    };
    let none = || Vec::<String>::new();
    assert_eq!(known(&compiler), [none(), none(), none()]);
    // Nobody needs to have it.
    let named = |domain| in_domain(floating(9, (14, 4), None, (None, None)), domain);
    let touched = compiler.apply(&put([named(Some("d0"))]), Generation(2));
    let key = SectionKey::Network(id(1));
    assert_eq!(touched.hosts, [(host_name(1), [key].into())].into());
    assert_eq!(
        known(&compiler),
        [vec!["www.d0".to_owned()], none(), none()]
    );
    compiler.apply(&put([named(Some("d1"))]), Generation(3));
    assert_eq!(
        known(&compiler),
        [none(), vec!["www.d1".to_owned()], none()]
    );
    let moved = in_domain(network(1, "blue"), Some("d1"));
    compiler.apply(&put([moved]), Generation(4));
    assert_eq!(known(&compiler)[0], ["www.d1"]);
    let gone = Change::Gone(intent::ObjectId::FloatingIp(id(9)));
    compiler.apply(&[gone], Generation(5));
    assert_eq!(known(&compiler), [none(), none(), none()]);
}

#[test]
fn the_operators_name_servers_are_asked_where_no_subnet_names_any() {
    let mut compiler = Compiler::new(Uuid::nil());
    let all = [
        host(1, true, false),
        in_domain(network(1, "blue"), None),
        subnet6(1, 1, None, &[]),
        port(1, 1, Some(1), &[], 200),
    ];
    compiler.apply(&put(all), Generation(1));
    let asked = |compiler: &Compiler| {
        let config = compiler.config(&host_name(1)).unwrap();
        network_of(config, 1).resolvers.clone()
    };
    assert_eq!(asked(&compiler), [IpAddr::from([10, 9, 9, 9])]);
    compiler.apply(&put([subnet6(2, 1, None, &["fd09::9"])]), Generation(2));
    assert!(asked(&compiler).is_empty());
}
