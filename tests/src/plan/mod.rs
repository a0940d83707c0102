//! Which fabric does a test want?
//!
//! A [`Plan`] is an intent in a few lines: hosts, networks, groups, ports, chains. [`Plan::config`] says what each host is to
//! be, as the controller would: whatever a host needs to know, and nothing else.
//!
//! Ports get the same MAC and IP addresses in every network, in order, so that tenants always overlap. Networks that routers join are told
//! apart by a number in their prefixes ([`Plan::network_at`]); those of equal numbers still overlap.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    sync::Arc,
};

use hostconfig::{
    AddressSet, Chain, Classifier, Endpoint, Firewall, FloatingIp, Function, FunctionKind,
    Generation, HostConfig, Keyed, LoadBalancer, Location, Nat, Network, Port, QosPolicy, Router,
    Section, SecurityGroup, SecurityGroupRule, Subnet, Vteps,
    chain::{Action, Algorithm, FirewallRule, Member, Side},
    group::{Direction, Family, L4Match, Remote},
    nat::NatAddress,
    network::{Dhcp, Route},
    port::FixedIp,
    qos::{Limit, Rate},
    router::{Interface, InterfaceAddr},
};
use net::{Id, Mac, PortRange, Prefix, UnicastMac, ids::kind, testkit};
use uuid::Uuid;

mod outside;
pub use outside::{FloatingUuid, Serves};

/// The id of a network.
pub type NetId = Id<kind::Network>;
/// The id of a port.
pub type PortUuid = Id<kind::Port>;
/// The id of a router.
pub type RouterUuid = Id<kind::Router>;
/// The id of a group.
pub type GroupUuid = Id<kind::SecurityGroup>;

/// A fabric that a test wants.
#[derive(Debug, Clone, Default)]
pub struct Plan {
    hosts: usize,
    foreign: Vec<IpAddr>,
    next: u128,
    generation: u64,
    networks: BTreeMap<NetId, Network>,
    groups: BTreeMap<GroupUuid, SecurityGroup>,
    sets: BTreeMap<Id<kind::AddressSet>, AddressSet>,
    ports: BTreeMap<PortUuid, (usize, Port)>,
    elsewhere: BTreeMap<PortUuid, Endpoint>,
    chains: BTreeMap<Id<kind::PortChain>, Chain>,
    routers: BTreeMap<RouterUuid, Router>,
    policies: BTreeMap<Id<kind::QosPolicy>, QosPolicy>,
    floating: BTreeMap<FloatingUuid, FloatingIp>,
}

/// A rule of a group that allows everything of one family in one direction, to be narrowed.
pub fn allow(direction: Direction, family: Family) -> SecurityGroupRule {
    SecurityGroupRule {
        id: Uuid::nil().into(),
        direction,
        family,
        protocol: None,
        l4: L4Match::Any,
        remote: Remote::Any,
    }
}

/// Rules that allow everything in one direction.
pub fn allow_all(direction: Direction) -> Vec<SecurityGroupRule> {
    vec![allow(direction, Family::V4), allow(direction, Family::V6)]
}

/// So many bits a second, after so many bytes at once; so many bytes wait.
pub fn bits(per_second: u64, burst: u64, queue_bytes: u64) -> Limit {
    Limit {
        bits: Some(Rate {
            rule: Uuid::from_u128(u128::from(per_second)).into(),
            per_second,
            burst,
        }),
        packets: None,
        queue_bytes,
        queue: hostconfig::Discipline::Fifo,
        share: None,
    }
}

/// A firewall rule that matches everything, to be narrowed.
pub fn firewall_rule(action: Action) -> FirewallRule {
    FirewallRule {
        id: Uuid::nil().into(),
        action,
        family: None,
        protocol: None,
        source: None,
        destination: None,
        source_ports: None,
        destination_ports: None,
    }
}

/// A classifier that takes all connections which ports of this network begin.
pub fn from_network(network: NetId) -> Classifier {
    Classifier {
        id: Uuid::nil().into(),
        name: String::new(),
        source: Some(Side::Network(network)),
        destination: None,
        family: None,
        protocol: None,
        source_ports: None,
        destination_ports: None,
        source_prefix: None,
        destination_prefix: None,
    }
}

/// The address of the n-th host's VTEP.
pub fn vtep(host: usize) -> IpAddr {
    IpAddr::V4(Ipv4Addr::new(192, 0, 2, u8::try_from(host + 1).unwrap()))
}

impl Plan {
    /// A fabric of this many hosts, nothing on it.
    pub fn new(hosts: usize) -> Self {
        Self {
            hosts,
            ..Self::default()
        }
    }

    /// How many hosts there are.
    pub fn hosts(&self) -> usize {
        self.hosts
    }

    fn uuid(&mut self) -> Uuid {
        self.next += 1;
        Uuid::from_u128(0xf00d << 64 | self.next)
    }

    /// Declares a VTEP without an agent.
    pub fn foreign_vtep(&mut self, addr: IpAddr) {
        self.foreign.push(addr);
    }

    /// A network with 10.0.0.0/24 and `fd00::/64`: every one has the same addresses.
    pub fn network(&mut self, name: &str) -> NetId {
        self.network_at(name, 0)
    }

    /// A network with 10.0.N.0/24 and `fdNN::/64`.
    pub fn network_at(&mut self, name: &str, number: u8) -> NetId {
        let id = self.uuid().into();
        let project = Id::new(self.uuid());
        let n = u32::try_from(self.networks.len()).unwrap();
        let v4 = Subnet {
            id: self.uuid().into(),
            cidr: format!("10.0.{number}.0/24").parse().unwrap(),
            gateway: None,
            dhcp: Some(Dhcp {
                server: Ipv4Addr::new(10, 0, number, 2),
                server_mac: Mac::new([2, 0xff, 0, 0, 0, 2]),
                lease_seconds: 3600,
                dns: vec![],
                domain: String::new(),
                routes: vec![],
            }),
            dhcp6: None,
            ra: None,
            dns6: vec![],
        };
        let v6 = Subnet {
            id: self.uuid().into(),
            cidr: format!("fd{number:02x}::/64").parse().unwrap(),
            gateway: None,
            dhcp: None,
            dhcp6: None,
            ra: None,
            dns6: vec![],
        };
        let network = Network {
            id,
            name: name.into(),
            project,
            vni: (5000 + n).try_into().unwrap(),
            mtu: 1450u32.try_into().unwrap(),
            admin_up: true,
            subnets: vec![v4, v6],
            wire: None,
            domain: String::new(),
            resolvers: Vec::new(),
            names: Vec::new(),
        };
        self.networks.insert(id, network);
        id
    }

    /// A stateful group with these rules; each gets an id.
    pub fn group(&mut self, rules: Vec<SecurityGroupRule>) -> GroupUuid {
        let id = self.uuid().into();
        let group = SecurityGroup {
            id,
            name: format!("group-{}", self.groups.len()),
            stateful: true,
            rules: vec![],
        };
        self.groups.insert(id, group);
        self.set_rules(id, rules);
        id
    }

    /// A group that allows everything.
    pub fn open_group(&mut self) -> GroupUuid {
        let mut rules = allow_all(Direction::Ingress);
        rules.extend(allow_all(Direction::Egress));
        self.group(rules)
    }

    /// Replaces a group's rules. Those without an id get one.
    pub fn set_rules(&mut self, group: GroupUuid, mut rules: Vec<SecurityGroupRule>) {
        for rule in &mut rules {
            if rule.id.uuid().is_nil() {
                rule.id = self.uuid().into();
            }
        }
        self.groups.get_mut(&group).unwrap().rules = rules;
    }

    /// A group, to change.
    pub fn group_mut(&mut self, group: GroupUuid) -> &mut SecurityGroup {
        self.groups.get_mut(&group).unwrap()
    }

    /// The set of a group's members: what a rule with this remote group names.
    pub fn members_of(group: GroupUuid) -> Remote {
        Remote::Set(group.uuid().into())
    }

    /// An address set of its own.
    pub fn address_set(&mut self, members: impl IntoIterator<Item = Prefix>) -> Remote {
        let id = self.uuid().into();
        let members = members.into_iter().collect();
        let set = AddressSet {
            id,
            part: None,
            members,
        };
        self.sets.insert(id, set);
        Remote::Set(id)
    }

    fn addresses(&self, network: NetId) -> (u16, IpAddr, IpAddr) {
        let there = self.ports.values().filter(|(_, p)| p.network == network);
        let virtuals = self.elsewhere.values().filter(|e| e.network == network);
        let n = u16::try_from(there.count() + virtuals.count() + 10).unwrap();
        (n, self.host(network, n, false), self.host(network, n, true))
    }

    /// Is an address in a subnet of this network?
    pub fn is_on(&self, network: NetId, addr: IpAddr) -> bool {
        let subnets = &self.networks[&network].subnets;
        subnets.iter().any(|s| s.cidr.contains(addr))
    }

    /// The n-th address of a network.
    pub fn host(&self, network: NetId, n: u16, v6: bool) -> IpAddr {
        match self.networks[&network].subnets[usize::from(v6)].cidr.addr() {
            IpAddr::V4(a) => {
                let [a, b, c, _] = a.octets();
                Ipv4Addr::new(a, b, c, u8::try_from(n).unwrap()).into()
            }
            IpAddr::V6(a) => {
                let mut segments = a.segments();
                segments[7] = n;
                Ipv6Addr::from(segments).into()
            }
        }
    }

    /// A router with the n-th address on each of these networks, and these routes.
    pub fn router(&mut self, networks: &[NetId], n: u16, routes: Vec<Route>) -> RouterUuid {
        let id = self.uuid().into();
        let mut interfaces = vec![];
        for &network in networks {
            let at = self.networks.keys().position(|k| *k == network).unwrap();
            let mac = testkit::mac(0x9000 | n << 4 | u16::try_from(at).unwrap());
            let subnets = &self.networks[&network].subnets;
            let addrs = [false, true].map(|v6| InterfaceAddr {
                addr: self.host(network, n, v6),
                subnet: subnets[usize::from(v6)].cidr,
            });
            interfaces.push(Interface {
                port: self.uuid().into(),
                network,
                mac: UnicastMac::try_from(mac).unwrap(),
                admin_up: true,
                addrs: addrs.to_vec(),
                firewall: None,
            });
        }
        let router = Router {
            id,
            name: format!("router-{}", self.routers.len()),
            project: self.uuid().into(),
            admin_up: true,
            interfaces,
            routes,
            gateway: None,
            meters: Vec::new(),
        };
        self.routers.insert(id, router);
        id
    }

    /// A router, to change.
    pub fn router_mut(&mut self, router: RouterUuid) -> &mut Router {
        self.routers.get_mut(&router).unwrap()
    }

    /// All routers, in order.
    pub fn routers(&self) -> impl Iterator<Item = &Router> {
        self.routers.values()
    }

    /// Takes all routers away.
    pub fn remove_routers(&mut self) {
        self.routers.clear();
    }

    /// These networks with all that routers join with them, directly or not, and those routers.
    fn joined(&self, mut networks: BTreeSet<NetId>) -> (BTreeSet<NetId>, Vec<&Router>) {
        loop {
            let near = |r: &&Router| r.interfaces.iter().any(|i| networks.contains(&i.network));
            let routers: Vec<_> = self.routers.values().filter(near).collect();
            let all = routers.iter().flat_map(|r| &r.interfaces);
            let more: BTreeSet<_> = all.map(|i| i.network).collect();
            if more.is_subset(&networks) {
                return (networks, routers);
            }
            networks.extend(more);
        }
    }

    /// A port with an address of each family.
    pub fn port(&mut self, host: usize, network: NetId, groups: &[GroupUuid]) -> PortUuid {
        assert!(host < self.hosts, "there is such a host");
        let id = self.uuid().into();
        let (n, v4, v6) = self.addresses(network);
        let net = &self.networks[&network];
        let fixed = |addr, at: usize| FixedIp {
            addr,
            subnet: net.subnets[at].id,
        };
        let port = Port {
            id,
            name: format!("port-{n}"),
            network,
            project: net.project,
            mac: UnicastMac::try_from(testkit::mac(n)).unwrap(),
            fixed_ips: vec![fixed(v4, 0), fixed(v6, 1)],
            admin_up: true,
            port_security: true,
            allowed_address_pairs: vec![],
            security_groups: groups.to_vec(),
            max_connections: 1000,
            qos: None,
            host_number: None,
            dns_name: None,
            dhcp: hostconfig::DhcpOptions::default(),
            trunk: None,
            firewall: None,
        };
        self.ports.insert(id, (host, port));
        id
    }

    /// An endpoint behind a VTEP that is no host of the plan's.
    pub fn endpoint(&mut self, network: NetId, at: IpAddr) -> PortUuid {
        let id = self.uuid().into();
        let (n, v4, v6) = self.addresses(network);
        let endpoint = Endpoint {
            id,
            network,
            project: Some(self.networks[&network].project),
            mac: UnicastMac::try_from(testkit::mac(n)).unwrap(),
            addrs: vec![v4, v6],
            dns_name: None,
            at: Location::Vtep(at),
        };
        self.elsewhere.insert(id, endpoint);
        id
    }

    /// A port.
    pub fn get(&self, port: PortUuid) -> &Port {
        &self.ports[&port].1
    }

    /// A port, to change.
    pub fn get_mut(&mut self, port: PortUuid) -> &mut Port {
        &mut self.ports.get_mut(&port).unwrap().1
    }

    /// Whose a frame is that bears a tag on a port's device, and what it is without.
    pub fn bears_the_tag_of(&self, device: PortUuid, frame: &[u8]) -> Option<(PortUuid, Vec<u8>)> {
        let [0x81, 0, t0, t1] = *frame.get(12..16)? else {
            return None;
        };
        let own = |port: &&Port| {
            let trunk = port.trunk.filter(|trunk| trunk.parent == device);
            trunk.is_some_and(|trunk| u16::from(trunk.vlan) == u16::from_be_bytes([t0, t1]))
        };
        let port = self.ports().find(own)?.id;
        Some((port, [&frame[..12], &frame[16..]].concat()))
    }

    /// Where a port is.
    pub fn host_of(&self, port: PortUuid) -> usize {
        self.ports[&port].0
    }

    /// Moves a port to another host.
    pub fn move_to(&mut self, port: PortUuid, host: usize) {
        self.ports.get_mut(&port).unwrap().0 = host;
    }

    /// Takes a port away.
    pub fn remove_port(&mut self, port: PortUuid) {
        self.ports.remove(&port);
    }

    /// All ports, in order.
    pub fn ports(&self) -> impl Iterator<Item = &Port> {
        self.ports.values().map(|(_, p)| p)
    }

    /// A network, to change.
    pub fn network_mut(&mut self, network: NetId) -> &mut Network {
        self.networks.get_mut(&network).unwrap()
    }

    /// The largest IP packet on a port's network.
    pub fn mtu(&self, port: PortUuid) -> u16 {
        self.networks[&self.get(port).network].mtu.get()
    }

    /// A port's MAC address.
    pub fn mac(&self, port: PortUuid) -> Mac {
        let elsewhere = self.elsewhere.get(&port).map(|e| e.mac.get());
        elsewhere.unwrap_or_else(|| self.get(port).mac.get())
    }

    /// A port's address of a family.
    pub fn addr(&self, port: PortUuid, v6: bool) -> IpAddr {
        let addrs: Vec<IpAddr> = match self.elsewhere.get(&port) {
            Some(e) => e.addrs.clone(),
            None => self.get(port).fixed_ips.iter().map(|ip| ip.addr).collect(),
        };
        addrs.into_iter().find(|a| a.is_ipv6() == v6).unwrap()
    }

    /// A load balancer in a network: its virtual port, and the function over members (ports and weights).
    pub fn load_balancer(
        &mut self,
        network: NetId,
        v6: bool,
        (protocol, port): (u8, u16),
        members: &[PortUuid],
    ) -> (PortUuid, LoadBalancer) {
        let vip_port = self.endpoint(network, vtep(0));
        let endpoint = self.elsewhere.get_mut(&vip_port).unwrap();
        endpoint.at = Location::Virtual;
        let mac = endpoint.mac;
        let mut members: Vec<_> = members
            .iter()
            .map(|m| Member {
                id: *m,
                addr: self.addr(*m, v6),
                port: 8080,
                weight: 1,
            })
            .collect();
        members.sort_by_key(|m| m.id);
        let balancer = LoadBalancer {
            vip: self.addr(vip_port, v6),
            vip_port,
            network,
            mac,
            protocol,
            port,
            algorithm: Algorithm::Maglev,
            members,
            monitor: None,
        };
        (vip_port, balancer)
    }

    /// A NAT in a network: its virtual port, and the function that hides all sources behind its addresses. As many hosts as the plan has
    /// share these.
    pub fn nat(&mut self, network: NetId) -> (PortUuid, Nat) {
        let port = self.endpoint(network, vtep(0));
        self.elsewhere.get_mut(&port).unwrap().at = Location::Virtual;
        let address = |v6| NatAddress {
            addr: self.addr(port, v6),
            port,
            network,
            hides: true,
        };
        let nat = Nat {
            addresses: vec![address(false), address(true)],
            sources: vec![],
            ports: PortRange::new(1024, u16::MAX).unwrap(),
            hosts: u16::try_from(self.hosts).unwrap(),
            client_limit: 1000,
            forwards: vec![],
            statics: vec![],
        };
        (port, nat)
    }

    /// A symmetric chain.
    pub fn chain(
        &mut self,
        mut classifiers: Vec<Classifier>,
        functions: Vec<FunctionKind>,
    ) -> Id<kind::PortChain> {
        let id = self.uuid().into();
        for classifier in &mut classifiers {
            classifier.id = self.uuid().into();
        }
        let chain = Chain {
            id,
            name: format!("chain-{}", self.chains.len()),
            project: self.uuid().into(),
            path: 1,
            symmetric: true,
            classifiers,
            functions: vec![],
            graph: hostconfig::Graph::default(),
        };
        self.chains.insert(id, chain);
        self.set_functions(id, functions);
        id
    }

    /// Replaces a chain's functions; each keeps the id of its place. Firewall rules without an id get one.
    pub fn set_functions(&mut self, chain: Id<kind::PortChain>, functions: Vec<FunctionKind>) {
        let mut made = vec![];
        for (n, mut kind) in functions.into_iter().enumerate() {
            if let FunctionKind::Firewall(Firewall { rules, .. }) = &mut kind {
                for rule in rules {
                    if rule.id.uuid().is_nil() {
                        rule.id = self.uuid().into();
                    }
                }
            }
            let there = self.chains[&chain].functions.get(n).map(|f| f.id);
            let id = there.unwrap_or_else(|| self.uuid().into());
            made.push(Function {
                id,
                name: format!("function-{n}"),
                kind,
            });
        }
        self.chains.get_mut(&chain).unwrap().functions = made;
    }

    /// A chain, to change.
    pub fn chain_mut(&mut self, chain: Id<kind::PortChain>) -> &mut Chain {
        self.chains.get_mut(&chain).unwrap()
    }

    /// Takes a chain away.
    pub fn remove_chain(&mut self, chain: Id<kind::PortChain>) {
        self.chains.remove(&chain);
    }

    /// A QoS policy that says nothing yet.
    pub fn qos_policy(&mut self, name: &str) -> Id<kind::QosPolicy> {
        let id = self.uuid().into();
        let policy = QosPolicy {
            id,
            name: name.to_owned(),
            egress: Limit::default(),
            ingress: Limit::default(),
            dscp: None,
        };
        self.policies.insert(id, policy);
        id
    }

    /// A QoS policy, to change it.
    pub fn qos_policy_mut(&mut self, id: Id<kind::QosPolicy>) -> &mut QosPolicy {
        self.policies.get_mut(&id).expect("a policy of this plan")
    }

    /// What every host is to be, at the next generation.
    pub fn configs(&mut self) -> Vec<HostConfig> {
        self.generation += 1;
        (0..self.hosts).map(|host| self.config(host)).collect()
    }

    /// What one host is to be.
    pub fn config(&self, host: usize) -> HostConfig {
        let mut config = HostConfig {
            generation: Generation(self.generation),
            ..HostConfig::default()
        };
        let mut put = |section| config.insert(Arc::new(Keyed::new(section).unwrap()));
        put(Section::Vteps(self.vteps()));
        let local = || self.ports.values().filter(|(h, _)| *h == host);
        let (outside, inside) = self.outside_of(host);
        let own = local().map(|(_, p)| p.network).chain(inside).collect();
        let (mut networks, routers) = self.joined(own);
        networks.extend(outside);
        let known = routers.iter().map(|r| r.id).collect();
        for section in self.answered(host, &networks, &known) {
            put(section);
        }
        for router in routers {
            put(Section::Router(router.clone()));
        }
        let groups: BTreeSet<_> = local().flat_map(|(_, p)| &p.security_groups).collect();
        for network in &networks {
            put(Section::Network(self.networks[network].clone()));
        }
        for policy in local().filter_map(|(_, p)| p.qos) {
            put(Section::Qos(self.policies[&policy].clone()));
        }
        for group in groups {
            let group = &self.groups[group];
            put(Section::Group(group.clone()));
            for rule in &group.rules {
                if let Remote::Set(id) = rule.remote {
                    for set in self.set(id) {
                        put(Section::AddressSet(set));
                    }
                }
            }
        }
        for (at, port) in self.ports.values() {
            if *at == host {
                put(Section::Port(Port {
                    host_number: Some(u16::try_from(host).unwrap()),
                    ..port.clone()
                }));
            } else if networks.contains(&port.network) {
                put(Section::Endpoint(Endpoint {
                    id: port.id,
                    network: port.network,
                    project: Some(port.project),
                    mac: port.mac,
                    addrs: port.fixed_ips.iter().map(|ip| ip.addr).collect(),
                    dns_name: None,
                    at: Location::Vtep(vtep(*at)),
                }));
            }
        }
        for endpoint in self.elsewhere.values() {
            if networks.contains(&endpoint.network) {
                put(Section::Endpoint(endpoint.clone()));
            }
        }
        let mut ahead = vec![];
        for chain in self.chains.values() {
            let sides = chain
                .classifiers
                .iter()
                .flat_map(|c| [c.source, c.destination]);
            // What is in every switch is there for whoever a router brings there.
            let virtual_here = |id| {
                let there = self.elsewhere.get(&id);
                there.is_some_and(|e| e.at == Location::Virtual && networks.contains(&e.network))
            };
            let ours = |side| match side {
                Side::Port(id) => local().any(|(_, p)| p.id == id) || virtual_here(id),
                Side::Network(id) => networks.contains(&id),
                Side::Project(id) => local().any(|(_, p)| p.project == id),
                Side::Branch => false,
            };
            if sides.flatten().any(ours) {
                ahead.push(chain.id);
            }
        }
        let mut here = BTreeSet::new();
        while let Some(chain) = ahead.pop().and_then(|id| self.chains.get(&id)) {
            if here.insert(chain.id) {
                ahead.extend(&chain.graph.next);
                put(Section::Chain(chain.clone()));
            }
        }
        config
    }

    fn vteps(&self) -> Vteps {
        let entry = |host: String, foreign| hostconfig::vtep::Vtep { host, foreign };
        let ours = (0..self.hosts).map(|h| (vtep(h), entry(format!("h{}", h + 1), false)));
        let foreign = self
            .foreign
            .iter()
            .map(|a| (*a, entry("foreign".into(), true)));
        Vteps {
            vteps: ours.chain(foreign).collect(),
        }
    }

    /// All parts of a set; a group's members are in three, as a controller might cut it.
    fn set(&self, id: Id<kind::AddressSet>) -> Vec<AddressSet> {
        if let Some(set) = self.sets.get(&id) {
            return vec![set.clone()];
        }
        let group: GroupUuid = id.uuid().into();
        let members = |part: Option<u8>| {
            let ports = self.ports.iter().filter(|(_, (_, port))| {
                port.security_groups.contains(&group)
                    && part.is_some_and(|part| port.id.uuid().as_u128() % 3 == u128::from(part))
            });
            let ips = ports.flat_map(|(_, (_, port))| &port.fixed_ips);
            ips.map(|ip| Prefix::host(ip.addr)).collect()
        };
        let parts = [None, Some(0), Some(1), Some(2)];
        let of = |part| AddressSet {
            id,
            part,
            members: members(part),
        };
        parts.into_iter().map(of).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plans_configs_have_no_faults() {
        let mut plan = Plan::new(3);
        let (red, blue) = (plan.network("red"), plan.network("blue"));
        let mut rules = allow_all(Direction::Egress);
        let group = plan.group(vec![]);
        rules.push(SecurityGroupRule {
            remote: Plan::members_of(group),
            ..allow(Direction::Ingress, Family::V4)
        });
        plan.set_rules(group, rules);
        let members: Vec<_> = (0..3).map(|h| plan.port(h, red, &[group])).collect();
        plan.port(0, blue, &[group]);
        let (_, balancer) = plan.load_balancer(red, false, (6, 80), &members);
        plan.chain(
            vec![from_network(red)],
            vec![FunctionKind::LoadBalancer(balancer)],
        );
        for config in plan.configs() {
            assert_eq!(hostconfig::check::check(&config), []);
        }
        // Host 2 has no port on blue, and learns nothing of it.
        let names = plan.config(1).sections;
        assert!(!names.contains_key(&hostconfig::SectionKey::Network(blue)));
    }
}
