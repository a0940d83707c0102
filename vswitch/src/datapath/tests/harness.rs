//! A host in memory: a config, a clock, a datapath, and what came out of it.

use std::{net::IpAddr, sync::Arc, time::Duration};

use hostconfig::{
    AddressSet, Chain, Classifier, Endpoint, Function, FunctionKind, HostConfig, Keyed,
    LoadBalancer, Location, Network, Port, Section, SecurityGroup, SecurityGroupRule, Subnet,
    Vteps,
    chain::{Algorithm, Member, Side},
    group::{Direction, Family, L4Match, Remote},
    network::Dhcp,
    port::FixedIp,
};
use net::{
    Batch, DropReason, Headers, Id, Now, Origin, PacketPool, PortId, PortRange, Vni, Zone,
    testkit::{FrameBuilder, checksums_hold, mac},
};
use nfv::conntrack::Entry;

use super::super::{Claims, Datapath, Out, Settings, Tables, ZoneMap};

pub(super) fn id<K>(n: u128) -> Id<K> {
    uuid::Uuid::from_u128(n).into()
}

pub(super) const NET: u128 = 1000;
pub(super) const GROUP: u128 = 2000;
pub(super) const REMOTE: &str = "192.0.2.9";
/// The VTEP of a host that is not told another.
pub(super) const HERE: &str = "192.0.2.1";

/// The address of the n-th workload.
pub(super) fn ip(n: u16, v6: bool) -> IpAddr {
    if v6 {
        format!("fd00::{n:x}").parse().unwrap()
    } else {
        format!("10.0.0.{n}").parse().unwrap()
    }
}

/// A config under construction.
#[derive(Debug, Clone, Default)]
pub(super) struct Conf(pub(super) HostConfig);

impl Conf {
    /// One network with DHCP, no ports.
    pub(super) fn new() -> Self {
        let mut this = Self::default();
        this.network(NET, 1, 1450);
        let vtep = hostconfig::vtep::Vtep {
            host: "far".into(),
            foreign: false,
        };
        this.put(Section::Vteps(Vteps {
            vteps: [(REMOTE.parse().unwrap(), vtep)].into(),
        }));
        this
    }

    pub(super) fn put(&mut self, section: Section) {
        self.0.insert(Arc::new(Keyed::new(section).unwrap()));
    }

    pub(super) fn network(&mut self, n: u128, vni: u32, mtu: u32) {
        let dhcp = Dhcp {
            server: "10.0.0.2".parse().unwrap(),
            server_mac: mac(0xd000),
            lease_seconds: 3600,
            dns: vec!["10.0.0.3".parse().unwrap()],
            domain: "example.org".into(),
            routes: vec![],
        };
        let subnet = |k: u128, cidr: &str, dhcp: Option<Dhcp>| Subnet {
            id: id(n * 10 + k),
            cidr: cidr.parse().unwrap(),
            gateway: dhcp.as_ref().map(|_| "10.0.0.254".parse().unwrap()),
            dhcp,
            dhcp6: None,
            ra: None,
            dns6: vec![],
        };
        self.put(Section::Network(Network {
            id: id(n),
            name: "blue".into(),
            project: id(7),
            vni: Vni::try_from(vni).unwrap(),
            mtu: net::Mtu::try_from(mtu).unwrap(),
            admin_up: true,
            subnets: vec![
                subnet(1, "10.0.0.0/24", Some(dhcp)),
                subnet(2, "fd00::/64", None),
            ],
            wire: None,
            domain: String::new(),
            resolvers: Vec::new(),
            names: Vec::new(),
        }));
    }

    /// The network is on this VLAN of a wire; 0: untagged.
    pub(super) fn wire(&mut self, vlan: u16) -> &mut Self {
        self.on(Some(hostconfig::network::Wire {
            physical: "physnet1".to_owned(),
            vlan: Some(vlan).filter(|id| *id > 0),
        }))
    }

    pub(super) fn on(&mut self, wire: Option<hostconfig::network::Wire>) -> &mut Self {
        let key = hostconfig::SectionKey::Network(id(NET));
        let Section::Network(mut network) = self.0.sections[&key].body().clone() else {
            unreachable!("it is a network's key")
        };
        network.wire = wire;
        self.put(Section::Network(network));
        self
    }

    /// Another default router of the IPv4 subnet.
    pub(super) fn gateway(&mut self, gateway: Option<IpAddr>) -> &mut Self {
        let key = hostconfig::SectionKey::Network(id(NET));
        let Section::Network(mut network) = self.0.sections[&key].body().clone() else {
            unreachable!("it is a network's key")
        };
        network.subnets[0].gateway = gateway;
        self.put(Section::Network(network));
        self
    }

    /// The n-th workload, on this host, in these groups.
    pub(super) fn port(&mut self, n: u16, groups: &[u128]) -> &mut Self {
        self.port_with(n, groups, |_| {})
    }

    pub(super) fn port_with(
        &mut self,
        n: u16,
        groups: &[u128],
        change: impl FnOnce(&mut Port),
    ) -> &mut Self {
        let fixed = |v6| FixedIp {
            addr: ip(n, v6),
            subnet: id(NET * 10 + if v6 { 2 } else { 1 }),
        };
        let mut port = Port {
            id: id(u128::from(n)),
            name: format!("p{n}"),
            network: id(NET),
            project: id(7),
            mac: mac(n).try_into().unwrap(),
            fixed_ips: vec![fixed(false), fixed(true)],
            admin_up: true,
            port_security: true,
            allowed_address_pairs: vec![],
            security_groups: groups.iter().map(|g| id(*g)).collect(),
            max_connections: 1000,
            qos: None,
            host_number: Some(0),
            dns_name: None,
            dhcp: hostconfig::DhcpOptions::default(),
            trunk: None,
            firewall: None,
        };
        change(&mut port);
        self.put(Section::Port(port));
        self
    }

    /// The n-th workload, which is here, has this firewall group.
    pub(super) fn walled(&mut self, n: u16, group: u128) -> &mut Self {
        let key = hostconfig::SectionKey::Port(id(u128::from(n)));
        let Section::Port(mut port) = self.0.sections[&key].body().clone() else {
            unreachable!("it is a port's key")
        };
        port.firewall = Some(id(group));
        self.put(Section::Port(port));
        self
    }

    /// The n-th workload, on another host, or in every switch.
    pub(super) fn endpoint(&mut self, n: u16, at: Location) -> &mut Self {
        self.put(Section::Endpoint(Endpoint {
            id: id(u128::from(n)),
            network: id(NET),
            project: Some(id(7)),
            mac: mac(n).try_into().unwrap(),
            addrs: vec![ip(n, false), ip(n, true)],
            dns_name: None,
            at,
        }));
        self
    }

    pub(super) fn far(&mut self, n: u16) -> &mut Self {
        self.endpoint(n, Location::Vtep(REMOTE.parse().unwrap()))
    }

    pub(super) fn group(
        &mut self,
        n: u128,
        stateful: bool,
        rules: Vec<SecurityGroupRule>,
    ) -> &mut Self {
        self.put(Section::Group(SecurityGroup {
            id: id(n),
            name: format!("g{n}"),
            stateful,
            rules,
        }));
        self
    }

    /// A stateful group that lets everything out, and `protocol` to `port` in, in both families.
    pub(super) fn web(&mut self, protocol: u8, port: u16) -> &mut Self {
        let mut rules = vec![];
        for family in [Family::V4, Family::V6] {
            rules.push(rule(Direction::Egress, family, None, L4Match::Any));
            let ports = L4Match::Ports(PortRange::one(port));
            rules.push(rule(Direction::Ingress, family, Some(protocol), ports));
        }
        for (n, r) in rules.iter_mut().enumerate() {
            r.id = id(5000 + n as u128);
        }
        self.group(GROUP, true, rules)
    }

    pub(super) fn set(&mut self, n: u128, members: &[&str]) -> &mut Self {
        self.put(Section::AddressSet(AddressSet {
            part: None,
            id: id(n),
            members: members.iter().map(|m| m.parse().unwrap()).collect(),
        }));
        self
    }

    /// A chain for what the network's ports send to this TCP port.
    pub(super) fn chain(
        &mut self,
        n: u128,
        dst_port: u16,
        functions: Vec<FunctionKind>,
    ) -> &mut Self {
        self.chain_of(n, Some(Side::Network(id(NET))), None, dst_port, functions)
    }

    pub(super) fn chain_of(
        &mut self,
        n: u128,
        source: Option<Side>,
        destination: Option<Side>,
        dst_port: u16,
        functions: Vec<FunctionKind>,
    ) -> &mut Self {
        let functions = functions
            .into_iter()
            .zip(0u128..)
            .map(|(kind, k)| Function {
                id: id(n * 100 + k),
                name: format!("f{k}"),
                kind,
            });
        self.put(Section::Chain(Chain {
            id: id(n),
            name: "edge".into(),
            project: id(7),
            path: 1,
            symmetric: true,
            classifiers: vec![Classifier {
                id: id(n * 100 + 90),
                name: "c".into(),
                source,
                destination,
                family: None,
                protocol: Some(6),
                source_ports: None,
                destination_ports: Some(PortRange::one(dst_port)),
                source_prefix: None,
                destination_prefix: None,
            }],
            functions: functions.collect(),
            graph: hostconfig::Graph::default(),
        }));
        self
    }

    /// The chain's place in a service graph.
    pub(super) fn in_graph(&mut self, n: u128, depth: u8, next: &[u128]) -> &mut Self {
        let key = hostconfig::SectionKey::Chain(id(n));
        let Section::Chain(mut chain) = self.0.sections[&key].body().clone() else {
            unreachable!("it is a chain's key")
        };
        chain.graph = hostconfig::Graph {
            depth,
            next: next.iter().map(|n| id(*n)).collect(),
        };
        self.put(Section::Chain(chain));
        self
    }

    /// Replies do not pass this chain.
    pub(super) fn one_way(&mut self, n: u128) -> &mut Self {
        let key = hostconfig::SectionKey::Chain(id(n));
        let Section::Chain(mut chain) = self.0.sections[&key].body().clone() else {
            unreachable!("it is a chain's key")
        };
        chain.symmetric = false;
        self.put(Section::Chain(chain));
        self
    }

    /// The n-th workload is here no more.
    pub(super) fn gone(&mut self, n: u16) -> &mut Self {
        let key = hostconfig::SectionKey::Port(id(u128::from(n)));
        self.0.sections.remove(&key);
        self
    }
}

pub(super) fn rule(
    direction: Direction,
    family: Family,
    protocol: Option<u8>,
    l4: L4Match,
) -> SecurityGroupRule {
    SecurityGroupRule {
        id: id(4000),
        direction,
        family,
        protocol,
        l4,
        remote: Remote::Any,
    }
}

/// Where a frame came out.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum At {
    Port(u16),
    Vtep(String),
    /// The wire of a network.
    Wire(String),
}

#[derive(Debug)]
pub(super) struct Host {
    pub(super) tables: Arc<Tables>,
    pub(super) dp: Datapath,
    pub(super) pool: PacketPool,
    pub(super) now: Now,
    pub(super) sent: Vec<(At, Vec<u8>)>,
    /// Of each frame that went into the tunnel.
    pub(super) vnis: Vec<u32>,
    /// And its place in a chain.
    pub(super) places: Vec<Option<overlay::Nsh>>,
    /// What was taken out for the metadata service.
    metadata: Vec<net::Packet>,
    out: Out,
}

impl Host {
    pub(super) fn new(conf: &Conf) -> Self {
        Self::with(conf, Settings::default())
    }

    pub(super) fn with(conf: &Conf, settings: Settings) -> Self {
        Self::at(HERE.parse().unwrap(), conf, settings)
    }

    /// The host with this VTEP.
    pub(super) fn at(vtep: IpAddr, conf: &Conf, settings: Settings) -> Self {
        let none = Tables::empty(1).at(vtep);
        let now = Now::from_nanos(1_000_000_000_000);
        let claims = Arc::new(Claims::new(1000, 1));
        Self {
            tables: Arc::new(Tables::build(Some(&none), &conf.0, &zones(conf), 1)),
            dp: Datapath::new(settings, vec![Entry::default(); 1000], 0, claims, now),
            pool: PacketPool::new(4096, 64),
            now,
            sent: vec![],
            vnis: vec![],
            places: vec![],
            metadata: vec![],
            out: Out::new(),
        }
    }

    pub(super) fn apply(&mut self, conf: &Conf) {
        self.tables = Arc::new(Tables::build(Some(&self.tables), &conf.0, &zones(conf), 1));
    }

    /// Another process takes over: only the connections' records stay.
    pub(super) fn restart(&mut self) {
        let claims = Arc::new(Claims::new(1000, 1));
        let settings = *self.dp.settings();
        let none = Datapath::new(settings, vec![], 0, Arc::clone(&claims), self.now);
        let storage = std::mem::replace(&mut self.dp, none).into_storage();
        let used = storage.len();
        self.dp = Datapath::new(settings, storage, used, claims, self.now);
    }

    pub(super) fn dense(&self, n: u16) -> PortId {
        self.tables.port_by_id(id(u128::from(n))).unwrap().dense
    }

    pub(super) fn origin(&self, n: u16) -> Origin {
        Origin::Port(self.dense(n))
    }

    pub(super) fn tunnel(&self) -> Origin {
        Origin::Tunnel(self.tables.network_by_id(id(NET)).unwrap().dense)
    }

    /// A frame enters; what comes out is returned, in order of places.
    pub(super) fn enter(&mut self, origin: Origin, frames: &[Vec<u8>]) -> Vec<(At, Vec<u8>)> {
        let mut batch = Batch::new();
        for frame in frames {
            let mut p = self.pool.take(frame.len()).unwrap();
            p.fill(frame).unwrap();
            p.set_origin(origin);
            batch.push(p).unwrap();
        }
        let tables = Arc::clone(&self.tables);
        self.dp
            .run(&tables, &mut batch, self.now, &mut self.pool, &mut self.out);
        self.flush()
    }

    /// One packet enters, its origin and offloads set.
    pub(super) fn enter_packet(&mut self, packet: net::Packet) -> Vec<(At, Vec<u8>)> {
        let mut batch = Batch::new();
        batch.push(packet).unwrap();
        let tables = Arc::clone(&self.tables);
        self.dp
            .run(&tables, &mut batch, self.now, &mut self.pool, &mut self.out);
        self.flush()
    }

    /// A frame comes by the chain transport.
    pub(super) fn brought(
        &mut self,
        nsh: overlay::Nsh,
        from: IpAddr,
        frame: &[u8],
    ) -> Vec<(At, Vec<u8>)> {
        let mut batch = Batch::new();
        let mut packet = self.pool.take(frame.len()).unwrap();
        packet.fill(frame).unwrap();
        let frame = crate::io::Tunnelled {
            packet,
            vni: nsh.vni,
            vtep: from,
            nsh: Some(nsh),
        };
        let tables = Arc::clone(&self.tables);
        let (dp, pool) = (&mut self.dp, &mut self.pool);
        dp.enter_tunnel(&tables, frame, &mut batch, self.now, pool)
            .unwrap();
        self.dp
            .run(&tables, &mut batch, self.now, &mut self.pool, &mut self.out);
        self.flush()
    }

    /// A port's device comes, or goes.
    pub(super) fn device(&mut self, port: PortId, here: bool) {
        let tables = Arc::clone(&self.tables);
        self.dp.device(&tables, port, here, self.now);
    }

    pub(super) fn tick(&mut self) -> (Vec<(At, Vec<u8>)>, Option<Now>) {
        let tables = Arc::clone(&self.tables);
        let wake = self
            .dp
            .tick(&tables, self.now, &mut self.pool, &mut self.out);
        (self.flush(), wake)
    }

    fn flush(&mut self) -> Vec<(At, Vec<u8>)> {
        let mut got = vec![];
        let mut batch = Batch::new();
        while let Some(port) = self.out.next_port(&mut batch) {
            let wired = self.tables.wired(port).and_then(|n| self.tables.network(n));
            let name = self
                .tables
                .port(port)
                .map_or(0, |p| u16::try_from(p.id.uuid().as_u128()).unwrap());
            let at = wired.map_or(At::Port(name), |n| At::Wire(n.name.clone()));
            for p in batch.drain() {
                got.push((at.clone(), p.bytes().to_vec()));
                self.pool.give(p);
            }
        }
        for t in self.out.tunnelled.drain(..) {
            self.vnis.push(t.vni.into());
            self.places.push(t.nsh);
            got.push((At::Vtep(t.vtep.to_string()), t.packet.bytes().to_vec()));
            self.pool.give(t.packet);
        }
        self.metadata.append(&mut self.out.metadata);
        assert!(self.out.is_empty());
        for (_, frame) in &got {
            let whole = Headers::parse(frame).is_ok_and(|(_, k)| k.ip_frag == 0);
            assert!(!whole || checksums_hold(frame), "a checksum does not hold");
        }
        self.dp.ledger().balanced().unwrap();
        self.sent.extend(got.clone());
        got
    }

    /// From the n-th port.
    pub(super) fn from(&mut self, n: u16, frame: &FrameBuilder) -> Vec<(At, Vec<u8>)> {
        self.enter(self.origin(n), &[frame.build()])
    }

    pub(super) fn places(&mut self, n: u16, frame: &FrameBuilder) -> Vec<At> {
        self.from(n, frame).into_iter().map(|(at, _)| at).collect()
    }

    pub(super) fn tunnelled(&mut self, frame: &FrameBuilder) -> Vec<At> {
        let got = self.enter(self.tunnel(), &[frame.build()]);
        got.into_iter().map(|(at, _)| at).collect()
    }

    /// What the metadata service would be handed, and from which port.
    pub(super) fn take_metadata(&mut self) -> Vec<(u16, crate::metadata::Inward)> {
        let taken = std::mem::take(&mut self.metadata).into_iter();
        taken
            .map(|packet| {
                let inward = crate::metadata::Inward::of(&packet, &self.tables, 0).unwrap();
                self.pool.give(packet);
                let port = inward.port.uuid().as_u128();
                (u16::try_from(port).unwrap(), inward)
            })
            .collect()
    }

    /// The service does not take what it was to be handed.
    pub(super) fn refuse_metadata(&mut self) {
        for packet in std::mem::take(&mut self.metadata) {
            self.dp.refuse_metadata(packet, self.now, &mut self.pool);
        }
    }

    /// The service sends as the n-th port does.
    pub(super) fn send_as(&mut self, n: u16, frame: &[u8]) -> Vec<(At, Vec<u8>)> {
        let tables = Arc::clone(&self.tables);
        let of = (id(u128::from(n)), frame);
        self.dp
            .send_as(&tables, of, self.now, &mut self.pool, &mut self.out);
        self.flush()
    }

    /// The service answers the n-th port.
    pub(super) fn answer_metadata(&mut self, n: u16, frame: &[u8]) -> Vec<(At, Vec<u8>)> {
        let tables = Arc::clone(&self.tables);
        let to = (id(u128::from(n)), frame);
        self.dp
            .answer_metadata(&tables, to, self.now, &mut self.pool, &mut self.out);
        self.flush()
    }

    pub(super) fn dropped(&self, reason: DropReason) -> u64 {
        self.dp.ledger().dropped(reason)
    }

    pub(super) fn pass(&mut self, d: Duration) {
        self.now = self.now + d;
    }
}

/// Every port has the zone of its number.
pub(super) fn zones(conf: &Conf) -> ZoneMap {
    let zone = |id: Id<_>| (id, Zone(u32::try_from(id.uuid().as_u128()).unwrap()));
    let mut chains = vec![];
    for section in conf.0.sections.values() {
        if let Section::Chain(chain) = section.body() {
            chains.push(chain);
        }
    }
    let chains = chains.into_iter();
    let legs = chains.flat_map(Chain::instances);
    let legs = legs.filter(|i| i.at.is_some());
    let legs = legs.flat_map(|i| [zone(i.ingress), zone(i.egress)]);
    let ports = conf.0.sections.values().filter_map(|s| match s.body() {
        Section::Port(p) => Some((p.id, Zone(u32::try_from(p.id.uuid().as_u128()).unwrap()))),
        Section::Router(r) => {
            let port = r.gateway.as_ref()?.port;
            Some((port, Zone(u32::try_from(port.uuid().as_u128()).unwrap())))
        }
        Section::Vteps(_)
        | Section::Network(_)
        | Section::AddressSet(_)
        | Section::Group(_)
        | Section::Firewall(_)
        | Section::Qos(_)
        | Section::Chain(_)
        | Section::Endpoint(_)
        | Section::FloatingIp(_)
        | Section::Metadata(_)
        | Section::Proxy(_) => None,
    });
    legs.chain(ports).collect()
}

/// A load balancer of TCP at port 80 of a virtual address, over workloads with the port where they listen.
pub(super) fn balanced((vip, v6): (u16, bool), members: &[(u16, u16)]) -> LoadBalancer {
    let member = |(n, port): &(u16, u16)| Member {
        id: id(u128::from(*n)),
        addr: ip(*n, v6),
        port: *port,
        weight: 1,
    };
    LoadBalancer {
        vip: ip(vip, v6),
        vip_port: id(u128::from(vip)),
        network: id(NET),
        mac: mac(vip).try_into().unwrap(),
        protocol: 6,
        port: 80,
        algorithm: Algorithm::Maglev,
        members: members.iter().map(member).collect(),
        monitor: None,
    }
}

/// A frame between two workloads.
pub(super) fn between(frame: FrameBuilder, v6: bool, from: u16, to: u16) -> FrameBuilder {
    frame
        .macs(mac(from), mac(to))
        .addrs(ip(from, v6), ip(to, v6))
}

pub(super) fn syn(v6: bool, from: (u16, u16), to: (u16, u16)) -> FrameBuilder {
    use net::testkit::tcp;
    between(FrameBuilder::tcp(v6, from.1, to.1), v6, from.0, to.0)
        .flags(tcp::SYN)
        .seq(100, 0)
}

/// A handshake's later segments, in turn: SYN-ACK by the answerer, ACK by the asker.
pub(super) fn syn_ack(v6: bool, from: (u16, u16), to: (u16, u16)) -> FrameBuilder {
    use net::testkit::tcp;
    between(FrameBuilder::tcp(v6, from.1, to.1), v6, from.0, to.0)
        .flags(tcp::SYN | tcp::ACK)
        .seq(500, 101)
}

pub(super) fn ack(v6: bool, from: (u16, u16), to: (u16, u16)) -> FrameBuilder {
    between(FrameBuilder::tcp(v6, from.1, to.1), v6, from.0, to.0).seq(101, 501)
}
