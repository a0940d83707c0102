//! Where must a frame go?
//!
//! The naive switch: one pass over plain configs, linear rules, no caches, no epochs. Every packet of a connection is judged as
//! if its first packet came now. It shares the parser ([`net::Headers`]) with the datapath, and nothing else.
//!
//! It does not know TCP's windows or any timeout: who asks it sends well-formed conversations and does not wait long.

use std::collections::BTreeMap;

use hostconfig::{Chain, HostConfig, Location, Network, Port, Section, SectionKey, chain::Side};
use net::{DropReason, FiveTuple, FlowKey, Fragment, Headers, flow_key::proto};

use crate::plan::{NetId, PortUuid, vtep};
use routers::Trail;

mod advertised;
mod answers;
pub mod beyond;
mod connections;
mod dhcp6;
mod ended;
mod forward;
mod groups;
mod nat;
mod routers;
mod walk;
mod what;
mod words;
pub use advertised::Advertised;
pub use what::{About, Delivery, Fate, What};

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
        Side::Branch => false,
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
    /// Does its receiver, which is here, ask for that?
    received: bool,
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

#[cfg(test)]
mod tests;
