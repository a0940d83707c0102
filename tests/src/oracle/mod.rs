//! Where must a frame go?
//!
//! The naive switch: one pass over plain configs, linear rules, no caches, no epochs. Every packet of a connection is judged as
//! if its first packet came now. It shares the parser ([`net::Headers`]) with the datapath, and nothing else.
//!
//! It does not know TCP's windows or any timeout: who asks it sends well-formed conversations and does not wait long.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv6Addr},
};

use hostconfig::{
    Chain, Classifier, Function, FunctionKind, HostConfig, Location, Network, Port, Section,
    SectionKey, SecurityGroupRule,
    chain::{Action, Side},
    group::{Direction, L4Match, Remote},
};
use net::{
    DropReason, FiveTuple, FlowKey, Fragment, Headers, Mac,
    flow_key::{addr_bytes, ethertype, proto},
};

use crate::plan::{NetId, PortUuid, vtep};

mod advertised;
mod dhcp6;
mod nat;
mod routers;
mod words;
pub use advertised::Advertised;
use routers::{Trail, expires};
use words::{
    Begins, always, begins, family_is, has_ports, macs_of, matches, port_security, query,
    quote_kind, side,
};

/// What a port must receive.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum What {
    /// The frame, with these addresses.
    Frame {
        /// Ethernet source and destination.
        macs: (Mac, Mac),
        /// EtherType.
        ethertype: u16,
        /// Source and destination, ports (or identifier) with them, protocol.
        tuple: Option<String>,
        /// TTL or hop limit.
        ttl: u8,
        /// DSCP and ECN.
        tos: u8,
    },
    /// The switch's answer to an ARP request or Neighbor Solicitation: who has the address.
    Neighbor(IpAddr, Mac),
    /// What a router says to hosts, asked or not.
    Advertisement(Advertised),
    /// The switch's DHCP answer: the client's address.
    Dhcp(IpAddr),
    /// The switch's DHCPv6 answer: the addresses that it leases, and the name servers that it tells.
    Dhcp6(Vec<Ipv6Addr>, Vec<Ipv6Addr>),
    /// The switch's answer to a ping to a virtual address, or to a router.
    Pong(IpAddr),
    /// The switch's error: in whose name, about what, and the quoted packet's addresses.
    Error(IpAddr, About, String),
}

/// What an error is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum About {
    /// The packet is larger than this.
    TooBig(u16),
    /// Its TTL is used up.
    TimeExceeded,
    /// There is no route.
    NoRoute,
    /// Nobody has the address.
    HostUnreachable,
}

impl About {
    fn message(self, v6: bool) -> (u16, u16) {
        match (self, v6) {
            (Self::TooBig(_), false) => (3, 4),
            (Self::TooBig(_), true) => (2, 0),
            (Self::TimeExceeded, false) => (11, 0),
            (Self::TimeExceeded, true) | (Self::NoRoute, false) => (3, 0),
            (Self::NoRoute, true) => (1, 0),
            (Self::HostUnreachable, false) => (3, 1),
            (Self::HostUnreachable, true) => (1, 3),
        }
    }
}

impl What {
    /// What a received frame is, as far as the oracle tells frames apart.
    pub fn of(frame: &[u8]) -> Self {
        let (_, key) = Headers::parse(frame).expect("the switch sends frames that can be read");
        Self::of_key(&key)
    }

    /// Is this frame what must be received?
    pub fn is(&self, frame: &[u8]) -> bool {
        let Ok((headers, key)) = Headers::parse(frame) else {
            return false;
        };
        let payload = usize::from(headers.payload_at);
        match self {
            Self::Frame { .. } => *self == Self::of_key(&key),
            Self::Neighbor(addr, mac) => {
                let (kind, who) = match key.ethertype {
                    ethertype::ARP => (key.ip_proto == 2, key.src_addr()),
                    _ => (key.l4_src == 136, IpAddr::V6(key.nd_target.into())),
                };
                kind && who == *addr && key.link_addr == mac.octets()
            }
            Self::Advertisement(said) => Advertised::of(frame).as_ref() == Some(said),
            Self::Dhcp(addr) => {
                let client = frame.get(payload + 16..payload + 20);
                (key.l4_src, key.l4_dst) == (67, 68)
                    && client.is_some_and(|c| addr_bytes(*addr).ends_with(c))
            }
            Self::Dhcp6(leased, servers) => {
                let message = frame.get(payload..).unwrap_or_default();
                let ports = (key.l4_src, key.l4_dst) == (547, 546);
                ports && dhcp6::told(message) == Some((leased.clone(), servers.clone()))
            }
            Self::Error(from, about, tuple) => {
                let v6 = key.ethertype == ethertype::IPV6;
                let kind = (key.l4_src, key.l4_dst) == about.message(v6);
                let at = usize::from(headers.l4_at);
                let told = frame.get(at + 6..at + 8);
                let mtu = match about {
                    About::TooBig(mtu) => *mtu,
                    _ => 0,
                };
                let quoted = headers.quoted(frame).map(|q| q.tuple.to_string());
                kind && key.src_addr() == *from
                    && told == Some(&mtu.to_be_bytes()[..])
                    && quoted.as_ref() == Some(tuple)
            }
            Self::Pong(addr) => query(&key) == Some(false) && key.src_addr() == *addr,
        }
    }

    fn of_key(key: &FlowKey) -> Self {
        let mut key = *key;
        // A later fragment shows no ports, whatever it was lent.
        if key.ip_frag == Fragment::Later as u8 {
            (key.l4_src, key.l4_dst, key.icmp_id) = (0, 0, 0);
        }
        Self::Frame {
            macs: (key.src_mac(), key.dst_mac()),
            ethertype: key.ethertype,
            tuple: key.five_tuple().map(|t| t.to_string()),
            ttl: key.ip_ttl,
            tos: key.ip_tos,
        }
    }
}

/// A port that must receive something.
pub type Delivery = (PortUuid, What);

/// What must become of a frame: its deliveries and the reasons of its drops, both sorted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Fate {
    /// Who receives what.
    pub deliveries: Vec<Delivery>,
    /// Why copies of it, or all of it, are dropped.
    pub drops: Vec<DropReason>,
}

/// A connection as one host knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Conn {
    /// The network on which its first packet entered.
    network: NetId,
    from: Option<PortUuid>,
    to: Option<PortUuid>,
    first: FlowKey,
    seen: FiveTuple,
    wire: FiveTuple,
}

/// Which packet of a connection?
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    Original,
    Reply,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    Here(PortUuid),
    Host(usize),
    Foreign,
    Virtual,
    /// A router, to which it is addressed.
    Router,
}

#[derive(Debug, Clone, Default)]
struct Host {
    config: HostConfig,
    conns: Vec<Conn>,
    /// Ports of first fragments, by origin, addresses, protocol and identification.
    fragments: BTreeMap<FragmentKey, (u16, u16)>,
    /// Later fragments that wait for theirs.
    early: Vec<(FragmentKey, Arrival)>,
    /// What sources NATs gave: a choice of the switch's.
    shown: Vec<Shown>,
}

/// A connection at its home: whose zone it began in, what its first packet showed, and what it shows outside.
pub type Shown = (PortUuid, FiveTuple, FiveTuple);

/// Who gets the frame, what it looks like then, and on which network; or why nobody does.
type Receiver = Result<(FlowKey, NetId, Place), DropReason>;

/// An end of a connection: port, network, project.
type End = (PortUuid, NetId, Option<net::Id<net::ids::kind::Project>>);

fn is_end(side: Side, (port, network, project): End) -> bool {
    match side {
        Side::Port(id) => port == id,
        Side::Network(id) => network == id,
        Side::Project(id) => project == Some(id),
    }
}

type FragmentKey = (Option<PortUuid>, NetId, [u8; 16], [u8; 16], u8, u32);

/// The naive switch of a whole fabric.
#[derive(Debug, Clone)]
pub struct Oracle {
    hosts: Vec<Host>,
}

/// What the functions of a chain are told besides the packet.
#[derive(Clone, Copy)]
struct Lent<'a> {
    /// In whose zone the connection begins.
    client: Option<PortUuid>,
    /// Its first packet, as it came.
    first: &'a FlowKey,
    /// On which network answers find the connection's home.
    at: Option<NetId>,
    /// What it shows behind the chain, if it is judged again.
    bound: Option<FiveTuple>,
    /// Who received something of what was sent.
    seen: &'a [PortUuid],
}

/// Where a walk led.
struct Walk {
    key: FlowKey,
    network: NetId,
    place: Place,
    tracked: bool,
}

impl Oracle {
    /// The fabric of these hosts.
    pub fn new(configs: Vec<HostConfig>) -> Self {
        let host = |config| Host {
            config,
            ..Host::default()
        };
        Self {
            hosts: configs.into_iter().map(host).collect(),
        }
    }

    /// Do the two know the same connections? Then they say the same from here on.
    pub fn same_connections(&self, other: &Self) -> bool {
        let hosts = self.hosts.iter().zip(&other.hosts);
        hosts.into_iter().all(|(a, b)| a.conns == b.conns)
    }

    /// The hosts are told anew; connections stay.
    pub fn configure(&mut self, configs: Vec<HostConfig>) {
        for (host, config) in self.hosts.iter_mut().zip(configs) {
            host.config = config;
        }
    }

    /// What the hosts' connections show outside, as the switches chose it: the oracle says whether they may.
    pub fn show(&mut self, shown: &[Vec<Shown>]) {
        for (host, shown) in self.hosts.iter_mut().zip(shown) {
            host.shown.clone_from(shown);
        }
    }

    /// A workload sends a frame. Where a choice is the switch's to make (a load balancer's member), `seen` is what it did; the oracle
    /// accepts every choice that is legal.
    pub fn send(&mut self, port: PortUuid, frame: &[u8], seen: &[PortUuid]) -> Fate {
        let host = self.hosts.iter().position(|h| h.port(port).is_some());
        let host = host.expect("a port of this fabric sends");
        let mut fate = Fate::default();
        let mut arrivals = vec![];
        match self.hosts[host].read(port, frame) {
            Err(reason) => fate.drops.push(reason),
            Ok(read) => arrivals = self.hosts[host].enter(Some(port), &read, seen, &mut fate),
        }
        for (to, arrival) in arrivals {
            let none = self.hosts[to].enter(None, &arrival, seen, &mut fate);
            assert!(none.is_empty(), "what came from a tunnel never enters one");
        }
        fate.deliveries.sort();
        fate.drops.sort();
        fate
    }
}

/// The oracle carries keys, not frames, from host to host; only the quote of an ICMP error is needed besides.
#[derive(Debug, Clone)]
struct Arrival {
    key: FlowKey,
    quote: Option<FiveTuple>,
    network: NetId,
    fragment_id: u32,
    len: usize,
    /// What it carries.
    message: Vec<u8>,
}

/// The tuple of the packet that an ICMP error quotes.
fn quote(frame: &[u8], headers: &Headers, key: &FlowKey) -> Option<FiveTuple> {
    let error = match key.ip_proto {
        proto::ICMP => matches!(key.l4_src, 3 | 4 | 5 | 11 | 12),
        proto::ICMP6 => key.l4_src < 128,
        _ => false,
    };
    if !error || key.ip_frag != Fragment::Whole as u8 {
        return None;
    }
    let mut quoted = frame[..12].to_vec();
    quoted.extend(key.ethertype.to_be_bytes());
    quoted.extend(frame.get(usize::from(headers.l4_at) + 8..)?);
    let (_, key) = Headers::parse(&quoted).ok()?;
    key.five_tuple()
}

impl Host {
    fn bodies(&self) -> impl Iterator<Item = &Section> {
        self.config.sections.values().map(|s| s.body())
    }

    fn port(&self, id: PortUuid) -> Option<&Port> {
        match self.config.sections.get(&SectionKey::Port(id))?.body() {
            Section::Port(p) => Some(p),
            _ => None,
        }
    }

    fn ports(&self) -> impl Iterator<Item = &Port> {
        self.bodies().filter_map(|s| match s {
            Section::Port(p) => Some(p),
            _ => None,
        })
    }

    /// What a port's QoS policy marks its packets with. How fast they may go is no matter here: nobody waits.
    fn mark(&self, port: PortUuid) -> Option<u8> {
        let policy = SectionKey::Qos(self.port(port)?.qos?);
        match self.config.sections.get(&policy)?.body() {
            Section::Qos(policy) => Some(policy.dscp?.mark),
            _ => None,
        }
    }

    fn network(&self, id: NetId) -> Option<&Network> {
        match self.config.sections.get(&SectionKey::Network(id))?.body() {
            Section::Network(n) => Some(n),
            _ => None,
        }
    }

    fn endpoints(&self, network: NetId) -> impl Iterator<Item = &hostconfig::Endpoint> {
        self.bodies().filter_map(move |s| match s {
            Section::Endpoint(e) if e.network == network => Some(e),
            _ => None,
        })
    }

    fn chains(&self) -> impl Iterator<Item = &Chain> {
        self.bodies().filter_map(|s| match s {
            Section::Chain(c) => Some(c),
            _ => None,
        })
    }

    fn read(&self, port: PortUuid, frame: &[u8]) -> Result<Arrival, DropReason> {
        let (headers, key) = Headers::parse(frame).map_err(DropReason::from)?;
        Ok(Arrival {
            quote: quote(frame, &headers, &key),
            fragment_id: headers.fragment_id,
            len: frame.len() - usize::from(headers.l3_at),
            message: frame
                .get(usize::from(headers.payload_at)..)
                .unwrap_or_default()
                .to_vec(),
            key,
            network: self.port(port).expect("a port of this host").network,
        })
    }

    /// A frame enters this host, from a port or from a tunnel. Returns what leaves for other hosts.
    fn enter(
        &mut self,
        origin: Option<PortUuid>,
        arrival: &Arrival,
        seen: &[PortUuid],
        fate: &mut Fate,
    ) -> Vec<(usize, Arrival)> {
        let mut arrival = arrival.clone();
        let Some(waited) = self.defragment(origin, &mut arrival) else {
            return vec![];
        };
        let mut out = self.go_on(origin, arrival, seen, fate);
        for arrival in waited {
            out.extend(self.go_on(origin, arrival, seen, fate));
        }
        out
    }

    /// The same, with ports.
    fn go_on(
        &mut self,
        origin: Option<PortUuid>,
        mut arrival: Arrival,
        seen: &[PortUuid],
        fate: &mut Fate,
    ) -> Vec<(usize, Arrival)> {
        let admitted = self.admit(origin, &mut arrival).map_err(|reason| {
            let of_connection = self.refused_again(origin, &arrival, seen);
            of_connection.unwrap_or(reason)
        });
        let mut trail = Trail::new();
        let quote = self.quoted_beyond(origin, &arrival);
        let (receivers, refused) = match admitted {
            Err(reason) => (vec![Err(reason)], Some(reason)),
            Ok(Some(_)) if self.too_small(&arrival, &trail).is_some() => (vec![], None),
            Ok(Some(answers)) => {
                fate.deliveries.extend(answers);
                return vec![];
            }
            Ok(None) if arrival.key.dst_mac().is_multicast() => {
                match self.flood(origin, &arrival) {
                    Ok(copies) => (copies, None),
                    Err(reason) => (vec![Err(reason)], Some(reason)),
                }
            }
            Ok(None) => {
                let receiver = self.unicast(origin, &arrival, seen, &mut trail);
                let refused = receiver.as_ref().err().copied();
                (vec![receiver], refused)
            }
        };
        if let Some(sender) = origin {
            let ended = self.ended(&arrival, &trail, refused);
            if let Some((reason, about, by)) = ended {
                fate.drops.push(reason);
                fate.deliveries
                    .extend(self.told(sender, &arrival, about, by));
                return vec![];
            }
        }
        let forwards = trail.iter().filter(|r| r.onwards.is_some()).count();
        let mark = origin.and_then(|port| self.mark(port));
        let mut out = vec![];
        for receiver in receivers {
            let receiver = receiver.map(|(mut key, network, place)| {
                key.ip_ttl -= u8::try_from(forwards).unwrap();
                if let Some(mark) = mark.filter(|_| key.is_ip()) {
                    key.ip_tos = mark << 2 | key.ip_tos & 3;
                }
                (key, network, place)
            });
            match receiver {
                Err(reason) => fate.drops.push(reason),
                Ok((key, _, Place::Here(port))) => fate.deliveries.push((port, What::of_key(&key))),
                Ok((key, network, Place::Host(to))) => out.push((
                    to,
                    Arrival {
                        key,
                        quote,
                        network,
                        ..arrival.clone()
                    },
                )),
                Ok((key, _, Place::Virtual | Place::Router)) => {
                    let asker = origin.expect("only local ports reach what is in every switch");
                    fate.deliveries.push((asker, What::Pong(key.dst_addr())));
                }
                Ok((_, _, Place::Foreign)) => {}
            }
        }
        out
    }

    /// What an error quotes behind this host: turned back as the connection is that it speaks of.
    fn quoted_beyond(&self, origin: Option<PortUuid>, a: &Arrival) -> Option<FiveTuple> {
        let quote = a.quote?;
        let Some((at, _)) = self.find(origin, a, a.key.five_tuple()?) else {
            return Some(quote);
        };
        let Conn { seen, wire, .. } = &self.conns[at];
        Some(if quote == seen.reversed() {
            wire.reversed()
        } else if quote == *wire {
            *seen
        } else {
            quote
        })
    }

    /// An answer to what is refused by now ends its connection, before it is looked at itself.
    fn refused_again(
        &mut self,
        origin: Option<PortUuid>,
        a: &Arrival,
        seen: &[PortUuid],
    ) -> Option<DropReason> {
        let tuple = a.key.five_tuple()?;
        if a.key.dst_mac().is_multicast() {
            return None;
        }
        let (at, way) = self.find(origin, a, tuple)?;
        if way == Way::Original && a.quote.is_none() {
            return None;
        }
        let conn = &self.conns[at];
        let (from, bound) = ((conn.from, conn.network), Some(conn.wire));
        let walked = self.walk(from, &conn.first, bound, seen, &mut Trail::new());
        let refused = walked.err()?;
        self.conns.remove(at);
        Some(refused)
    }

    /// Does a local port's packet end on its way, though the tables let it pass or at a router that refuses it? With which reason, what its
    /// sender is told, and by which router.
    fn ended<'t>(
        &self,
        a: &Arrival,
        trail: &'t Trail,
        refused: Option<DropReason>,
    ) -> Option<(DropReason, About, Option<&'t routers::Passed>)> {
        if let Some(by) = expires(trail, a.key.ip_ttl) {
            return Some((DropReason::TtlExceeded, About::TimeExceeded, Some(by)));
        }
        // What a connection is refused for that is judged again was not this packet's way.
        match (refused, trail.last()) {
            (Some(reason @ DropReason::NoRoute), Some(by)) => {
                Some((reason, About::NoRoute, Some(by)))
            }
            (Some(reason @ DropReason::UnknownNeighbor), Some(by)) => {
                Some((reason, About::HostUnreachable, Some(by)))
            }
            (Some(_), _) => None,
            (None, _) => {
                let (mtu, by) = self.too_small(a, trail)?;
                Some((DropReason::MtuExceeded, About::TooBig(mtu), by))
            }
        }
    }

    /// The first network on its way for which a packet is too large, and the router before it.
    fn too_small<'t>(
        &self,
        a: &Arrival,
        trail: &'t Trail,
    ) -> Option<(u16, Option<&'t routers::Passed>)> {
        let own = (self.mtu(a.network), trail.first());
        let routed = trail.iter().filter_map(|r| Some((r.onwards?, Some(r))));
        let mut all = std::iter::once(own).chain(routed);
        all.find(|(mtu, _)| a.len > usize::from(*mtu))
    }

    fn mtu(&self, network: NetId) -> u16 {
        let network = self.network(network);
        network.map_or(0, |n| n.mtu.get())
    }

    /// What the sender of a packet hears that ended on its way.
    fn told(
        &self,
        sender: PortUuid,
        a: &Arrival,
        about: About,
        by: Option<&routers::Passed>,
    ) -> Option<Delivery> {
        let (key, network) = (&a.key, self.network(a.network)?);
        let one = |addr: IpAddr| !addr.is_multicast() && !addr.is_unspecified();
        let quiet = quote_kind(key) || key.ip_frag == Fragment::Later as u8;
        let macs = !key.dst_mac().is_multicast() && !key.src_mac().is_multicast();
        if quiet || !macs || !one(key.src_addr()) || !one(key.dst_addr()) {
            return None;
        }
        let mut subnets = network.subnets.iter();
        let own = subnets.find(|s| s.cidr.contains(key.src_addr()));
        let gateway = own.and_then(|s| s.gateway);
        let from = gateway.filter(|g| *g != key.src_addr());
        let from = match by {
            Some(router) => router.name(key.src_addr())?,
            None => from.unwrap_or(key.dst_addr()),
        };
        let tuple = key.five_tuple()?.to_string();
        Some((sender, What::Error(from, about, tuple)))
    }

    /// May it come in at all? Perhaps the switch answers it.
    fn admit(
        &mut self,
        origin: Option<PortUuid>,
        a: &mut Arrival,
    ) -> Result<Option<Vec<Delivery>>, DropReason> {
        if let Some(origin) = origin
            && a.key.vlan != 0
        {
            // Tags that are somebody's are off by now.
            let of_trunk = |p: &Port| p.trunk.is_some_and(|t| t.parent == origin);
            return Err(if self.ports().any(of_trunk) {
                DropReason::TrunkVlanUnknown
            } else {
                DropReason::VlanNotAllowed
            });
        }
        let port = origin.and_then(|p| self.port(p)).cloned();
        let up = self.network(a.network).is_some_and(|n| n.admin_up);
        if !up || port.as_ref().is_some_and(|p| !p.admin_up) {
            return Err(DropReason::AdminDown);
        }
        let Some(port) = port else {
            let mut ours = self.ports().filter(|p| p.network == a.network);
            let forged = ours.any(|p| macs_of(p).contains(&a.key.src_mac()));
            return if forged {
                Err(DropReason::TunnelSpoof)
            } else {
                Ok(None)
            };
        };
        port_security(&port, &a.key)?;
        let answers = self.answers(&port, a)?;
        Ok(answers.map(|all| all.into_iter().map(|answer| (port.id, answer)).collect()))
    }

    /// A later fragment gets the ports of its first, or waits for it (`None`). With a first one come those that waited for it.
    fn defragment(&mut self, origin: Option<PortUuid>, a: &mut Arrival) -> Option<Vec<Arrival>> {
        let key = &mut a.key;
        let (src, dst) = (key.ip_src, key.ip_dst);
        let id = (origin, a.network, src, dst, key.ip_proto, a.fragment_id);
        if key.ip_frag == Fragment::First as u8 {
            let ports = (key.l4_src, key.l4_dst);
            self.fragments.insert(id, ports);
            let early = std::mem::take(&mut self.early);
            let (mut waited, early): (Vec<_>, _) = early.into_iter().partition(|(of, _)| *of == id);
            self.early = early;
            for (_, later) in &mut waited {
                (later.key.l4_src, later.key.l4_dst) = ports;
            }
            return Some(waited.into_iter().map(|(_, later)| later).collect());
        }
        if key.ip_frag == Fragment::Later as u8 {
            let Some(ports) = self.fragments.get(&id) else {
                self.early.push((id, a.clone()));
                return None;
            };
            (key.l4_src, key.l4_dst) = *ports;
        }
        Some(vec![])
    }

    /// What the switch answers itself, which may be nothing; `None`: it is the network's to answer.
    fn answers(&self, port: &Port, a: &Arrival) -> Result<Option<Vec<What>>, DropReason> {
        let key = &a.key;
        if dhcp6::asks(key) {
            return self.dhcp6(port, &a.message);
        }
        if (key.ethertype, key.ip_proto, key.l4_src) == (ethertype::IPV6, proto::ICMP6, 133) {
            let said = self.advertised(port.network, advertised::asker(key));
            let said: Vec<_> = said.into_iter().map(What::Advertisement).collect();
            return Ok(Some(said).filter(|said| !said.is_empty()));
        }
        Ok(self.answer(port, a).map(|answer| vec![answer]))
    }

    /// The same, where there is one answer at most.
    fn answer(&self, port: &Port, a: &Arrival) -> Option<What> {
        let key = &a.key;
        let known = |addr: IpAddr| {
            if let Some((_, mac)) = self.router_at(port.network, addr) {
                return Some(What::Neighbor(addr, mac));
            }
            let here = self.ports().filter(|p| p.network == port.network);
            let here = here.map(|p| (p.id, p.mac, p.fixed_ips.iter().map(|f| f.addr).collect()));
            let there = self.endpoints(port.network);
            let there = there.map(|e| (e.id, e.mac, e.addrs.clone()));
            let mut all = here.chain(there);
            let found = all.find(|(_, _, addrs): &(_, _, Vec<IpAddr>)| addrs.contains(&addr))?;
            (found.0 != port.id).then(|| What::Neighbor(addr, found.1.get()))
        };
        // As a DHCP server the switch has an address itself, where nobody else has it.
        let server = |addr: IpAddr| {
            let subnets = &self.network(port.network)?.subnets;
            let others = self.ports().filter(|p| p.network == port.network);
            let mut others = others.flat_map(|p| p.fixed_ips.iter().map(|f| f.addr));
            let mut far = self.endpoints(port.network).flat_map(|e| &e.addrs);
            let routed = self.router_at(port.network, addr).is_some();
            if routed || others.any(|a| a == addr) || far.any(|a| *a == addr) {
                return None;
            }
            let mut own = subnets.iter().filter(|s| s.gateway != Some(addr));
            own.find_map(|s| {
                let dhcp = s.dhcp.as_ref()?;
                (addr == IpAddr::V4(dhcp.server)).then_some(What::Neighbor(addr, dhcp.server_mac))
            })
        };
        match (key.ethertype, key.ip_proto) {
            (ethertype::ARP, 1) => known(key.dst_addr()).or_else(|| server(key.dst_addr())),
            (ethertype::IPV6, proto::ICMP6) if key.l4_src == 135 => {
                known(IpAddr::V6(key.nd_target.into()))
            }
            (ethertype::IPV4, proto::UDP) if (key.l4_src, key.l4_dst) == (68, 67) => {
                let subnets = &self.network(port.network)?.subnets;
                let mut leased = port.fixed_ips.iter().map(|f| f.addr).filter(|a| {
                    let of = |s: &&hostconfig::Subnet| s.dhcp.is_some() && s.cidr.contains(*a);
                    a.is_ipv4() && subnets.iter().any(|s| of(&s))
                });
                Some(What::Dhcp(leased.next()?))
            }
            _ => None,
        }
    }

    /// Is it a ping to a virtual address? That is the switch's to answer.
    fn is_ping_to(&self, network: NetId, key: &FlowKey) -> bool {
        let asks = query(key) == Some(true) && matches!(key.l4_src, 8 | 128);
        let named = |e: &hostconfig::Endpoint| {
            let there = e.at == Location::Virtual && e.mac.get() == key.dst_mac();
            there && e.addrs.contains(&key.dst_addr())
        };
        let whole = key.ip_frag == Fragment::Whole as u8;
        asks && whole && self.endpoints(network).any(named)
    }

    /// Who has a MAC address, and whose that one is.
    fn end(&self, network: NetId, mac: Mac) -> Option<End> {
        let mut here = self.ports().filter(|p| p.network == network);
        let port = here.find(|p| macs_of(p).contains(&mac));
        let port = port.map(|p| (p.id, network, Some(p.project)));
        let mut there = self.endpoints(network);
        port.or_else(|| {
            let endpoint = there.find(|e| e.mac.get() == mac)?;
            Some((endpoint.id, network, endpoint.project))
        })
    }

    fn place(&self, network: NetId, mac: Mac) -> Option<Place> {
        let mut here = self.ports().filter(|p| p.network == network);
        if let Some(port) = here.find(|p| macs_of(p).contains(&mac)) {
            return Some(Place::Here(port.id));
        }
        let endpoint = self.endpoints(network).find(|e| e.mac.get() == mac)?;
        Some(place_of(endpoint.at))
    }

    /// Copies for everyone else on the network; each local receiver's groups judge its own.
    fn flood(&self, origin: Option<PortUuid>, a: &Arrival) -> Result<Vec<Receiver>, DropReason> {
        if let Some(port) = origin.and_then(|p| self.port(p)) {
            self.group(port, &a.key, Direction::Egress)?;
        }
        if a.key.dst_mac().is_link_local_control() {
            return Err(DropReason::LinkLocalControl);
        }
        let ports = self
            .ports()
            .filter(|p| p.network == a.network && Some(p.id) != origin);
        let mut copies: Vec<_> = ports
            .map(|p| {
                if !p.admin_up {
                    return Err(DropReason::AdminDown);
                }
                let passed = self.group(p, &a.key, Direction::Ingress);
                passed.map(|()| (a.key, a.network, Place::Here(p.id)))
            })
            .collect();
        if origin.is_some() {
            let mut hosts: Vec<_> = self.endpoints(a.network).map(|e| e.at).collect();
            hosts.retain(|at| *at != Location::Virtual);
            hosts.sort_by_key(|at| format!("{at:?}"));
            hosts.dedup();
            copies.extend(
                hosts
                    .into_iter()
                    .map(|at| Ok((a.key, a.network, place_of(at)))),
            );
        }
        if copies.is_empty() {
            return Err(DropReason::NoReceiver);
        }
        Ok(copies)
    }

    fn unicast(
        &mut self,
        origin: Option<PortUuid>,
        a: &Arrival,
        seen: &[PortUuid],
        trail: &mut Trail,
    ) -> Receiver {
        let key = a.key;
        if !key.is_ip() {
            let walk = self.walk((origin, a.network), &key, None, seen, trail)?;
            return Ok((key, walk.network, walk.place));
        }
        let tuple = key.five_tuple().expect("ip has a tuple");
        if let Some((at, way)) = self.find(origin, a, tuple) {
            let conn = self.conns[at].clone();
            let original = way == Way::Original && a.quote.is_none();
            // A packet of the original side goes by its own Ethernet addresses.
            let mut first = conn.first;
            if original {
                (first.eth_src, first.eth_dst) = (key.eth_src, key.eth_dst);
            }
            let from = (conn.from, conn.network);
            let mut of_first = Trail::new();
            let walked = self.walk(from, &first, Some(conn.wire), seen, &mut of_first);
            if original {
                *trail = of_first;
            }
            // What only imitates a connection can't end it.
            let own = (first.eth_src, first.eth_dst) == (conn.first.eth_src, conn.first.eth_dst);
            let walk = walked.inspect_err(|_| {
                if own {
                    self.conns.remove(at);
                }
            })?;
            if original && walk.tracked {
                // An end that shows another Ethernet address between the same ports is known by that from now on.
                let same = match walk.place {
                    Place::Here(port) => conn.to == Some(port),
                    _ => conn.to.is_none(),
                };
                if same {
                    let known = &mut self.conns[at].first;
                    (known.eth_src, known.eth_dst) = (first.eth_src, first.eth_dst);
                }
            }
            let mut to = key;
            translate(&mut to, &conn, way, a.quote.is_some());
            self.stateless(origin, &key, Direction::Egress)?;
            let (network, place) = if original {
                (to.eth_src, to.eth_dst) = (walk.key.eth_src, walk.key.eth_dst);
                (walk.network, walk.place)
            } else {
                // The Ethernet addresses that the other end showed.
                let back = match way {
                    Way::Original => (walk.key.dst_mac(), walk.key.src_mac()),
                    Way::Reply => (conn.first.src_mac(), conn.first.dst_mac()),
                };
                if conn.seen != conn.wire {
                    let server = conn.to.and_then(|p| Some(self.port(p)?.network));
                    let of = match way {
                        Way::Original => server.unwrap_or(conn.network),
                        Way::Reply => conn.network,
                    };
                    self.turn_back((a.network, of), &mut to, back);
                }
                self.go_home((origin, a.network), &mut to, back.0.unmarked(), trail)?
            };
            if let Place::Here(receiver) = place {
                // A route leads back to its sender.
                if !original && origin == Some(receiver) && conn.seen == conn.wire {
                    return Err(DropReason::SplitHorizon);
                }
                // Whoever is a virtual address shows that address's own Ethernet address, however it was called.
                if !original && let Some(mac) = self.source_mac(origin, network, &to) {
                    to.eth_src = mac.octets();
                }
                let ends = [conn.from, conn.to];
                match self.port(receiver) {
                    // A route may lead a reply to somebody who is no end of the connection.
                    Some(port) if !ends.contains(&Some(receiver)) => {
                        self.group(port, &to, Direction::Ingress)?;
                    }
                    _ => self.stateless(Some(receiver), &to, Direction::Ingress)?,
                }
            }
            return Ok((to, network, place));
        }
        let walk = self.walk((origin, a.network), &key, None, seen, trail)?;
        // What ends at a router begins nothing.
        if expires(trail, key.ip_ttl).is_some() {
            return Err(DropReason::TtlExceeded);
        }
        let to = match walk.place {
            Place::Here(port) => Some(port),
            _ => None,
        };
        if walk.tracked && begins(&key) == Begins::Connection {
            let wire = walk.key.five_tuple().unwrap();
            distinct((origin, tuple), (to, wire))?;
            // The other end asks under the same identifier: a conversation of its own in place of the old one.
            self.conns
                .retain(|c| !(c.from == to && c.to == origin && c.wire.reversed() == wire));
            self.conns.push(Conn {
                network: a.network,
                from: origin,
                to,
                first: key,
                seen: tuple,
                wire,
            });
        } else if walk.tracked && begins(&key) == Begins::Nothing {
            return Err(DropReason::ConntrackInvalid);
        }
        Ok((walk.key, walk.network, walk.place))
    }

    /// The connection that a packet belongs to, and its direction (an error's is that of what it tells about, turned).
    fn find(
        &self,
        origin: Option<PortUuid>,
        a: &Arrival,
        tuple: FiveTuple,
    ) -> Option<(usize, Way)> {
        let local = match self.place(a.network, a.key.dst_mac()) {
            Some(Place::Here(port)) => Some(port),
            _ => None,
        };
        // What is about a packet is looked for as that packet's answer.
        let error = quote_kind(&a.key);
        let tuple = match (error, a.quote) {
            (true, quote) => quote?.reversed(),
            (false, _) => tuple,
        };
        let asks = query(&a.key);
        self.conns.iter().enumerate().find_map(|(at, c)| {
            let (original, reply) = match origin {
                Some(port) => (
                    c.from == Some(port) && c.seen == tuple,
                    c.to == Some(port) && c.wire.reversed() == tuple,
                ),
                None => (
                    c.from.is_none() && c.to == local && c.seen == tuple,
                    c.to.is_none() && c.from == local && c.wire.reversed() == tuple,
                ),
            };
            match asks {
                _ if error && original => Some((at, Way::Original)),
                _ if error && reply => Some((at, Way::Reply)),
                Some(true) => original.then_some((at, Way::Original)),
                None if original => Some((at, Way::Original)),
                Some(false) | None => reply.then_some((at, Way::Reply)),
            }
        })
    }

    /// The way of a connection's first packet: egress group, chains of the source, L2, chains of the destination, ingress group.
    fn walk(
        &self,
        (origin, network): (Option<PortUuid>, NetId),
        first: &FlowKey,
        bound: Option<FiveTuple>,
        seen: &[PortUuid],
        trail: &mut Trail,
    ) -> Result<Walk, DropReason> {
        let mut key = *first;
        let mut tracked = false;
        let lent = Lent {
            client: origin,
            first,
            at: origin.map(|_| network),
            bound,
            seen,
        };
        let sender = origin.and_then(|p| self.port(p));
        if origin.is_some() && sender.is_none() {
            return Err(DropReason::PortGone);
        }
        if let Some(port) = sender {
            tracked |= self.tracks(port, &key, Direction::Egress);
            self.group(port, &key, Direction::Egress)?;
            for chain in self.chains() {
                let receiver = self.far_end(network, &key);
                let of = |c: &&Classifier| {
                    let named = |s| receiver.is_some_and(|end| is_end(s, end));
                    c.source.is_some_and(|s| side(s, port)) && c.destination.is_none_or(named)
                };
                if chain
                    .classifiers
                    .iter()
                    .filter(of)
                    .any(|c| matches(c, &key))
                {
                    tracked = true;
                    self.functions(network, chain, &mut key, lent)?;
                }
            }
        }
        let hidden = key.ip_src != first.ip_src;
        let shown = key.eth_src;
        let (network, place) = self.arrive((origin, network), &mut key, lent, trail)?;
        let same = key.five_tuple() == first.five_tuple();
        tracked |= !same;
        match place {
            Place::Here(port) if origin == Some(port) && same => Err(DropReason::SplitHorizon),
            Place::Here(id) => {
                let port = self.port(id).unwrap();
                if !port.admin_up {
                    return Err(DropReason::AdminDown);
                }
                tracked |= self.tracks(port, &key, Direction::Ingress);
                let of = |s| side(s, port);
                let lent = Lent {
                    client: origin.or(Some(id)),
                    at: Some(network),
                    ..lent
                };
                tracked |= self.destination_chains(network, of, &mut key, lent)?;
                if let Some(mac) = self.source_mac(origin, network, &key) {
                    tracked = true;
                    key.eth_src = mac.octets();
                }
                self.group(port, &key, Direction::Ingress)?;
                Ok(Walk {
                    key,
                    network,
                    place,
                    tracked,
                })
            }
            Place::Host(_) | Place::Foreign if origin.is_none() => Err(DropReason::SplitHorizon),
            Place::Virtual | Place::Router => Ok(Walk {
                key,
                network,
                place,
                tracked: false,
            }),
            Place::Host(_) | Place::Foreign => {
                // By that the receiver's switch finds the home of what answers, also behind routers.
                if hidden && trail.iter().any(|r| r.onwards.is_some()) {
                    key.eth_src = shown;
                    key.eth_src[0] |= 1;
                }
                Ok(Walk {
                    key,
                    network,
                    place,
                    tracked,
                })
            }
        }
    }

    /// Through routers, and the chains of virtual addresses, which are in every switch as these are, to where it stays.
    fn arrive(
        &self,
        (origin, mut network): (Option<PortUuid>, NetId),
        key: &mut FlowKey,
        lent: Lent<'_>,
        trail: &mut Trail,
    ) -> Result<(NetId, Place), DropReason> {
        for _ in 0..routers::FORWARDS {
            let place;
            (network, place) = self.route(origin, network, key, trail)?;
            if place != Place::Virtual {
                return Ok((network, place));
            }
            let mac = key.dst_mac();
            let mut all = self.endpoints(network);
            let endpoint = all.find(|e| e.mac.get() == mac);
            let of = |s| match s {
                Side::Port(id) => endpoint.is_some_and(|e| e.id == id),
                Side::Network(id) => network == id,
                Side::Project(id) => endpoint.is_some_and(|e| e.project == Some(id)),
            };
            self.destination_chains(network, of, key, lent)?;
            if key.dst_mac() != mac {
                continue;
            }
            if self.is_ping_to(network, key) && origin.is_some() {
                return Ok((network, place));
            }
            return Err(DropReason::NoListener);
        }
        Err(DropReason::HopLimit)
    }

    /// The first chain that names only a destination, and this one. Was there one?
    fn destination_chains(
        &self,
        network: NetId,
        of: impl Fn(Side) -> bool,
        key: &mut FlowKey,
        lent: Lent<'_>,
    ) -> Result<bool, DropReason> {
        let named = |c: &Classifier| {
            c.source.is_none() && c.destination.is_some_and(&of) && matches(c, key)
        };
        let chain = self
            .chains()
            .find(|chain| chain.classifiers.iter().any(named));
        if let Some(chain) = chain {
            self.functions(network, chain, key, lent)?;
        }
        Ok(chain.is_some())
    }

    /// Ports without state judge each packet by itself, both ways.
    fn stateless(
        &self,
        port: Option<PortUuid>,
        key: &FlowKey,
        direction: Direction,
    ) -> Result<(), DropReason> {
        match port.and_then(|p| self.port(p)) {
            Some(port) if !self.stateful(port) => self.group(port, key, direction),
            _ => Ok(()),
        }
    }

    fn functions(
        &self,
        network: NetId,
        chain: &Chain,
        key: &mut FlowKey,
        lent: Lent<'_>,
    ) -> Result<(), DropReason> {
        for Function { kind, .. } in &chain.functions {
            match kind {
                FunctionKind::Shaper(_) => {}
                FunctionKind::Nat(nat) => self.nat(network, nat, key, lent)?,
                FunctionKind::Firewall(f) => {
                    let hit = f.rules.iter().find(|r| {
                        family_is(r.family, key)
                            && r.protocol.is_none_or(|p| p == key.ip_proto)
                            && r.source.is_none_or(|p| p.contains(key.src_addr()))
                            && r.destination.is_none_or(|p| p.contains(key.dst_addr()))
                            && r.source_ports
                                .is_none_or(|p| has_ports(key) && p.contains(key.l4_src))
                            && r.destination_ports
                                .is_none_or(|p| has_ports(key) && p.contains(key.l4_dst))
                    });
                    if hit.map_or(f.default, |r| r.action) == Action::Deny {
                        return Err(DropReason::FirewallDenied);
                    }
                }
                FunctionKind::LoadBalancer(lb) => {
                    let asked = (key.dst_addr(), key.l4_dst, key.ip_proto);
                    if asked != (lb.vip, lb.port, lb.protocol) {
                        continue;
                    }
                    let kept = lent.bound.and_then(|b| {
                        let is = |m: &&hostconfig::chain::Member| {
                            (m.addr, m.port) == (b.dst_addr(), b.dst_port)
                        };
                        lb.members.iter().find(is)
                    });
                    let chosen = kept.or_else(|| {
                        let mut open = lb.members.iter().filter(|m| m.weight > 0);
                        let taken = |m: &&hostconfig::chain::Member| lent.seen.contains(&m.id);
                        open.clone().find(taken).or_else(|| open.next())
                    });
                    let member = chosen.ok_or(DropReason::NoHealthyMember)?;
                    if member.addr == key.src_addr() {
                        key.ip_src = addr_bytes(lb.vip);
                        key.eth_src = lb.mac.get().octets();
                    }
                    key.ip_dst = addr_bytes(member.addr);
                    key.l4_dst = member.port;
                    key.eth_dst = self.mac_of(lb.network, member.addr).octets();
                }
            }
        }
        Ok(())
    }

    fn mac_of(&self, network: NetId, addr: IpAddr) -> Mac {
        let here = self.ports().filter(|p| p.network == network);
        let mut here = here.filter(|p| p.fixed_ips.iter().any(|f| f.addr == addr));
        let there = || self.endpoints(network).find(|e| e.addrs.contains(&addr));
        let mac = here
            .next()
            .map(|p| p.mac)
            .or_else(|| there().map(|e| e.mac));
        mac.map_or(Mac::ZERO, net::UnicastMac::get)
    }

    fn rules(&self, port: &Port) -> Vec<&SecurityGroupRule> {
        let groups = port.security_groups.iter().filter_map(|g| {
            match self.config.sections.get(&SectionKey::Group(*g))?.body() {
                Section::Group(g) => Some(g),
                _ => None,
            }
        });
        groups.flat_map(|g| &g.rules).collect()
    }

    fn stateful(&self, port: &Port) -> bool {
        let mut groups = self.bodies().filter_map(|s| match s {
            Section::Group(g) if port.security_groups.contains(&g.id) => Some(g),
            _ => None,
        });
        port.port_security && (port.security_groups.is_empty() || groups.any(|g| g.stateful))
    }

    /// Does the port remember what it lets pass? What is always allowed needs no memory.
    fn tracks(&self, port: &Port, key: &FlowKey, direction: Direction) -> bool {
        key.is_ip() && self.stateful(port) && !always(key, direction)
    }

    fn group(&self, port: &Port, key: &FlowKey, direction: Direction) -> Result<(), DropReason> {
        let (remote, reason) = match direction {
            Direction::Ingress => (key.src_addr(), DropReason::SecurityGroupIngress),
            Direction::Egress => (key.dst_addr(), DropReason::SecurityGroupEgress),
        };
        if !port.port_security || !key.is_ip() || always(key, direction) {
            return Ok(());
        }
        let allowed = self.rules(port).iter().any(|r| {
            let remote = match r.remote {
                Remote::Any => true,
                Remote::Prefix(p) => p.contains(remote),
                Remote::Set(id) => self.config.sections.values().any(|s| match s.body() {
                    Section::AddressSet(s) => {
                        s.id == id && s.members.iter().any(|p| p.contains(remote))
                    }
                    _ => false,
                }),
            };
            let l4 = match r.l4 {
                L4Match::Any => true,
                L4Match::Ports(range) => has_ports(key) && range.contains(key.l4_dst),
                L4Match::Icmp { kind, code } => {
                    key.l4_src == u16::from(kind) && code.is_none_or(|c| key.l4_dst == u16::from(c))
                }
            };
            r.direction == direction
                && family_is(Some(r.family), key)
                && r.protocol.is_none_or(|p| p == key.ip_proto)
                && l4
                && remote
        });
        if allowed { Ok(()) } else { Err(reason) }
    }
}

fn place_of(at: Location) -> Place {
    match at {
        Location::Virtual => Place::Virtual,
        Location::Vtep(addr) => match (0..64).find(|h| vtep(*h) == addr) {
            Some(host) => Place::Host(host),
            None => Place::Foreign,
        },
    }
}

fn translate(key: &mut FlowKey, conn: &Conn, way: Way, error: bool) {
    if conn.seen == conn.wire {
        return;
    }
    // An error comes from whoever met the packet: only the connection's own addresses are turned back.
    let shown = match way {
        Way::Original => conn.wire,
        Way::Reply => conn.seen.reversed(),
    };
    (key.ip_src, key.ip_dst) = (shown.src, shown.dst);
    if error {
        return;
    }
    if has_ports(key) {
        (key.l4_src, key.l4_dst) = (shown.src_port, shown.dst_port);
    } else if key.is_query() {
        // An echo's identifier is both ports of its tuple; type and code stay.
        key.icmp_id = shown.src_port;
    }
}

/// From a port to its own address, by a router that sends it elsewhere: nothing would tell an answer from a question.
fn distinct(
    (from, seen): (Option<PortUuid>, FiveTuple),
    (to, wire): (Option<PortUuid>, FiveTuple),
) -> Result<(), DropReason> {
    let one_zone = to.is_none() || from.is_none() || from == to;
    if one_zone && wire.reversed() == seen {
        return Err(DropReason::ConntrackInvalid);
    }
    Ok(())
}

#[cfg(test)]
mod tests;
