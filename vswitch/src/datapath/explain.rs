//! What would happen to this packet, and who says so?
//!
//! The datapath's own walk with a [`Witness`] that writes down what each table said. A packet is described in words
//! (`tcp 10.0.1.5:40000 > 10.0.2.9:443`); what is not said follows from the tables: the Ethernet addresses are those that the
//! workload would use. `len 1500` says how large its IP packet is; where that is not said, it is small enough. `ttl 1` says its TTL or hop
//! limit, else 64. `vlan 101` says that it bears that 802.1Q tag.

use std::{
    fmt::{self, Write as _},
    net::{IpAddr, SocketAddr},
    str::FromStr,
};

use hostconfig::group::Direction;
use net::{
    DropReason, FlowKey, FlowMask, Fragment, Id, Mac, Now, Origin, Probe, TcpSegment, Vlan, Vni,
    flow_key::{addr_bytes, ethertype, proto},
    ids::kind,
};
use nfv::conntrack::{Begin, TrackInput};
use serde::Serialize;

use super::{
    drops::describe,
    errors::{self, Told},
    flow::{Action, CompiledFlow, Lane, Refusal, RouterHop, Stage, Verdict},
    rejects,
    tables::{Network, Port, Tables, trunk::Tagged},
    too_big,
    walk::{Known, Lent, Outcome, Witness, advertisers, walk},
};

/// Where the described packet enters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Entrance {
    /// From a local port, by its id or its name.
    Port(String),
    /// From the tunnel, on the network of this VNI.
    Tunnel(Vni),
    /// From the wire of the network of this id or name.
    Wire(String),
}

/// A packet in words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Described {
    protocol: u8,
    arp: bool,
    src: (IpAddr, u16),
    dst: (IpAddr, u16),
    icmp: Option<(u8, u8)>,
    flags: Option<u16>,
    eth: Option<(Mac, Mac)>,
    len: Option<usize>,
    ttl: u8,
    vlan: Option<Vlan>,
}

/// Why a packet can't be explained.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotExplained {
    /// The description can't be read.
    #[error("not a packet (tcp 10.0.0.5:40000 > 10.0.0.9:443, icmp 10.0.0.1 > 10.0.0.2): {0}")]
    Description(String),
    /// No such port here.
    #[error("no port of this host has this id or name: {0}")]
    Port(String),
    /// Several ports have that name.
    #[error("several ports have this name, use the id: {0}")]
    Ambiguous(String),
    /// No such network here.
    #[error("no network of this host has this vni: {0}")]
    Network(Vni),
    /// No such network with a wire here.
    #[error("no network of this host with this id or name has a wire: {0}")]
    Wire(String),
    /// Nobody has the destination.
    #[error("nobody on the network has the address, say 'eth SOURCE > DESTINATION': {0}")]
    Destination(IpAddr),
}

impl FromStr for Described {
    type Err = NotExplained;

    fn from_str(s: &str) -> Result<Self, NotExplained> {
        let bad = || NotExplained::Description(s.to_owned());
        let mut words = s.split_whitespace();
        let name = words.next().ok_or_else(bad)?;
        let src = words.next().ok_or_else(bad)?;
        if words.next() != Some(">") {
            return Err(bad());
        }
        let dst = words.next().ok_or_else(bad)?;
        let arp = name == "arp";
        let protocol = match name {
            "tcp" => proto::TCP,
            "udp" => proto::UDP,
            "sctp" => proto::SCTP,
            "icmp" => proto::ICMP,
            "icmp6" => proto::ICMP6,
            "arp" => 1,
            _ => name
                .strip_prefix("proto-")
                .and_then(|n| n.parse().ok())
                .ok_or_else(bad)?,
        };
        let ports = matches!(protocol, proto::TCP | proto::UDP | proto::SCTP) && !arp;
        let end = |text: &str| match (ports, text.parse::<SocketAddr>()) {
            (true, Ok(end)) => Some((end.ip(), end.port())),
            (true, Err(_)) => None,
            (false, _) => text.parse().ok().map(|addr| (addr, 0)),
        };
        let (src, dst) = (end(src).ok_or_else(bad)?, end(dst).ok_or_else(bad)?);
        if src.0.is_ipv4() != dst.0.is_ipv4() || (arp && src.0.is_ipv6()) {
            return Err(bad());
        }
        let mut described = Self {
            protocol,
            arp,
            src,
            dst,
            icmp: None,
            flags: None,
            eth: None,
            len: None,
            ttl: 64,
            vlan: None,
        };
        while let Some(word) = words.next() {
            described.option(word, &mut words).ok_or_else(bad)?;
        }
        Ok(described)
    }
}

impl Described {
    fn option<'a>(&mut self, word: &str, words: &mut impl Iterator<Item = &'a str>) -> Option<()> {
        match word {
            "flags" => {
                let mut bits = 0;
                for flag in words.next()?.split(',') {
                    bits |= match flag {
                        "fin" => 0x01,
                        "syn" => 0x02,
                        "rst" => 0x04,
                        "psh" => 0x08,
                        "ack" => 0x10,
                        _ => return None,
                    };
                }
                self.flags = Some(bits);
            }
            "type" => {
                let kind = words.next()?.parse().ok()?;
                self.icmp = Some((kind, self.icmp.map_or(0, |(_, code)| code)));
            }
            "code" => {
                let code = words.next()?.parse().ok()?;
                self.icmp = Some((self.icmp.map_or(8, |(kind, _)| kind), code));
            }
            "eth" => {
                let src = words.next()?.parse().ok()?;
                (words.next()? == ">").then_some(())?;
                self.eth = Some((src, words.next()?.parse().ok()?));
            }
            "vlan" => self.vlan = Some(words.next()?.parse::<u16>().ok()?.try_into().ok()?),
            "ttl" => self.ttl = words.next()?.parse().ok()?,
            "len" => self.len = Some(words.next()?.parse().ok()?),
            _ => return None,
        }
        Some(())
    }

    /// The key of the described packet, as it enters there.
    fn key(&self, network: &Network, port: Option<&Port>) -> Result<FlowKey, NotExplained> {
        let v4 = self.src.0.is_ipv4();
        let mut key = FlowKey {
            ethertype: match (self.arp, v4) {
                (true, _) => ethertype::ARP,
                (false, true) => ethertype::IPV4,
                (false, false) => ethertype::IPV6,
            },
            ip_src: addr_bytes(self.src.0),
            ip_dst: addr_bytes(self.dst.0),
            l4_src: self.src.1,
            l4_dst: self.dst.1,
            ip_proto: self.protocol,
            ip_ttl: if self.arp { 0 } else { self.ttl },
            ip_frag: Fragment::Whole as u8,
            ..FlowKey::default()
        };
        match self.protocol {
            _ if self.arp => {}
            proto::TCP => key.tcp_flags = self.flags.unwrap_or(0x02),
            proto::ICMP | proto::ICMP6 => {
                let echo = if v4 { 8 } else { 128 };
                let (kind, code) = self.icmp.unwrap_or((echo, 0));
                (key.l4_src, key.l4_dst) = (u16::from(kind), u16::from(code));
                if matches!((v4, kind), (true, 0 | 8) | (false, 128 | 129)) {
                    key.icmp_id = 1;
                }
            }
            _ => {}
        }
        let (src, dst) = match self.eth {
            Some(eth) => eth,
            None => (
                self.source_mac(network, port),
                self.destination_mac(network)?,
            ),
        };
        (key.eth_src, key.eth_dst) = (src.octets(), dst.octets());
        if self.arp {
            key.link_addr = src.octets();
        }
        Ok(key)
    }

    fn source_mac(&self, network: &Network, port: Option<&Port>) -> Mac {
        let known = || network.neighbours.get(self.src.0).map(|n| n.mac);
        let own = port.map(|port| {
            let pair = port.allowed.iter().find(|(_, p)| p.contains(self.src.0));
            pair.map_or(port.mac, |(mac, _)| *mac)
        });
        own.or_else(known).unwrap_or(Mac::ZERO)
    }

    fn destination_mac(&self, network: &Network) -> Result<Mac, NotExplained> {
        if self.arp {
            return Ok(Mac::BROADCAST);
        }
        let dst = self.dst.0;
        match dst {
            IpAddr::V4(a) if a.is_broadcast() => return Ok(Mac::BROADCAST),
            IpAddr::V4(a) if a.is_multicast() => {
                let [_, b, c, d] = a.octets();
                return Ok(Mac::new([1, 0, 0x5e, b & 0x7f, c, d]));
            }
            IpAddr::V6(a) if a.is_multicast() => {
                let [.., o1, o2, o3, o4] = a.octets();
                return Ok(Mac::new([0x33, 0x33, o1, o2, o3, o4]));
            }
            IpAddr::V4(_) | IpAddr::V6(_) => {}
        }
        let gateway = || {
            let far = |s: &&hostconfig::Subnet| {
                s.cidr.is_ipv4() == dst.is_ipv4() && !s.cidr.contains(dst) && s.gateway.is_some()
            };
            let of_source = |s: &&hostconfig::Subnet| far(s) && s.cidr.contains(self.src.0);
            let own = network.subnets.iter().find(of_source);
            let subnet = own.or_else(|| network.subnets.iter().find(far))?;
            network.neighbours.get(subnet.gateway?)
        };
        let neighbour = network.neighbours.get(dst).or_else(gateway);
        // Who is outside has an address that the switch does not know.
        let outside = || {
            network
                .wire
                .is_some()
                .then_some(Mac::new([2, 0, 0, 0, 0, 0]))
        };
        neighbour
            .map(|n| n.mac)
            .or_else(outside)
            .ok_or(NotExplained::Destination(dst))
    }
}

/// What one table said.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Step {
    /// The room.
    pub stage: &'static str,
    /// Its words.
    pub says: String,
}

/// How it ends.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "result", rename_all = "snake_case")]
pub enum Ending {
    /// It goes to these receivers: ports by id, VTEPs by address.
    Delivered {
        /// Who gets it.
        to: Vec<String>,
    },
    /// The switch answers it.
    Answered {
        /// With what.
        with: String,
    },
    /// It is dropped.
    Dropped {
        /// The drop reason.
        reason: String,
        /// The room.
        stage: String,
        /// The rule that said so, where one did.
        rule: Option<Id<kind::Rule>>,
        /// The API object behind it: the function, or the port whose groups or security refuse.
        object: Option<String>,
    },
}

/// The walk of one packet, told.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Explanation {
    /// Where it enters.
    pub entrance: String,
    /// The packet.
    pub packet: String,
    /// What each table said, in order.
    pub steps: Vec<Step>,
    /// What of the packet was read.
    pub megaflow: String,
    /// What is done with it.
    pub actions: String,
    /// How it ends.
    pub verdict: Ending,
}

impl fmt::Display for Explanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.entrance)?;
        for step in &self.steps {
            writeln!(f, "  {:<15} {}", step.stage, step.says)?;
        }
        writeln!(f, "megaflow  {}", self.megaflow)?;
        writeln!(f, "actions   {}", self.actions)?;
        match &self.verdict {
            Ending::Delivered { to } => write!(f, "verdict   delivered to {}", to.join(", ")),
            Ending::Answered { with } => write!(f, "verdict   answered: {with}"),
            Ending::Dropped {
                reason,
                stage,
                rule,
                object,
            } => {
                write!(f, "verdict   dropped: {reason} ({stage})")?;
                if let Some(rule) = rule {
                    write!(f, ", rule {rule}")?;
                }
                if let Some(object) = object {
                    write!(f, ", {object}")?;
                }
                Ok(())
            }
        }
    }
}

#[derive(Default)]
struct Teller(Vec<Step>);

impl Witness for Teller {
    const LISTENS: bool = true;
    fn says(&mut self, stage: Stage, what: fmt::Arguments<'_>) {
        self.0.push(Step {
            stage: stage.name(),
            says: what.to_string(),
        });
    }
}

/// Tells what would happen to a packet, as the first of its connection.
///
/// # Errors
/// When it can't be described from here.
pub fn explain(
    tables: &Tables,
    entrance: &Entrance,
    packet: &Described,
    now: Now,
) -> Result<Explanation, NotExplained> {
    let mut key_vlan = packet.vlan;
    let (network, port, text) = match entrance {
        Entrance::Port(name) => {
            let device = find_port(tables, name)?;
            let port = match packet.vlan.map(|v| tables.tagged(device.dense, v.into())) {
                Some(Tagged::Is(port)) => {
                    key_vlan = None;
                    tables.port(port).unwrap_or(device)
                }
                Some(Tagged::Unknown) => return Ok(nobodys_tag(device, packet)),
                Some(Tagged::NoTrunk) | None => device,
            };
            let network = tables
                .network(port.network)
                .ok_or_else(|| NotExplained::Port(name.clone()))?;
            let mut text = format!(
                "port {} (network {}, vni {})",
                port.name, network.name, network.vni
            );
            if let Some((parent, vlan)) = tables.carrier(port.dense) {
                let parent = tables.port(parent).map_or("?", |p| &p.name);
                write!(text, ", vlan {vlan} of trunk parent {parent}").unwrap_or_default();
            }
            (network, Some(port), text)
        }
        Entrance::Tunnel(vni) => {
            let network = tables.network_of(*vni).ok_or(NotExplained::Network(*vni))?;
            if network.wire.is_some() {
                return Ok(not_by_tunnel(network, *vni, packet));
            }
            (
                network,
                None,
                format!("tunnel (network {}, vni {vni})", network.name),
            )
        }
        Entrance::Wire(name) => {
            let network = find_wired(tables, name)?;
            let text = format!("{} (network {})", network.outside(), network.name);
            (network, None, text)
        }
    };
    let mut key = packet.key(network, port)?;
    key.vlan = key_vlan.map_or(0, |vlan| 0x1000 | u16::from(vlan));
    key.set_origin(match port {
        Some(port) => Origin::Port(port.dense),
        None => Origin::Tunnel(network.dense),
    });
    Ok(explain_key(tables, &key, packet.len, text, now))
}

/// The same for a key as the datapath knows it, of a packet whose IP part is so long; `None`: short enough.
pub fn explain_key(
    tables: &Tables,
    key: &FlowKey,
    len: Option<usize>,
    entrance: String,
    now: Now,
) -> Explanation {
    let mut teller = Teller::default();
    let lent = Lent {
        now,
        known: Known::New,
        sources: None,
        attempt: 0,
        before: None,
        after: None,
        had: None,
    };
    let Outcome {
        mut flow, tracking, ..
    } = walk(tables, &mut Probe::new(key), &mut teller, lent);
    let translates = flow.actions.contains(&Action::Translate);
    let ended = expire(tables, key, &mut flow, &mut teller);
    if !ended && tracking.is_some() {
        match begins(key) {
            Begin::Tracked => {}
            Begin::Untracked if !translates => {}
            Begin::Untracked | Begin::Invalid => {
                teller.says(
                    Stage::Conntrack,
                    format_args!("belongs to no connection that is known, and can't begin one"),
                );
                flow.verdict = Verdict::Drop(Refusal {
                    reason: DropReason::ConntrackInvalid,
                    stage: Stage::Conntrack,
                    rule: None,
                    port: None,
                    hop: None,
                });
                flow.actions.clear();
            }
        }
    }
    if !ended {
        measure(tables, key, len, &mut flow, &mut teller);
    }
    let to = tracking.map(|t| t.reply.reversed());
    Explanation {
        entrance,
        packet: describe(key),
        steps: teller.0,
        megaflow: megaflow(tables, key, &flow.mask),
        actions: actions(tables, &flow, to.map(|t| t.to_string()).as_deref()),
        verdict: ending(tables, &flow),
    }
}

/// Does a router on its way refuse it: since its TTL is used up there, or since the router knows no way? Its sender is told.
fn expire(tables: &Tables, key: &FlowKey, flow: &mut CompiledFlow, teller: &mut Teller) -> bool {
    rejected(tables, key, flow, teller);
    if !told_here(key, flow) {
        return false;
    }
    if let Some(by) = flow.expires_at(key.ip_ttl) {
        tell(tables, key, Stage::L3, "ttl is used up", Some(by), teller);
        let refusal = Refusal::new(DropReason::TtlExceeded, Stage::L3);
        drop_at(flow, refusal, key.origin());
        return true;
    }
    let by = flow.routers().last();
    if flow.verdict.rejects() {
        return false;
    }
    if let (Verdict::Drop(refusal), Some(_)) = (flow.verdict, by)
        && Told::of(refusal.reason).is_some()
    {
        tell(tables, key, Stage::L3, refusal.reason.name(), by, teller);
    }
    false
}

/// Does a firewall reject it? Its sender is told, wherever that is.
fn rejected(tables: &Tables, key: &FlowKey, flow: &CompiledFlow, teller: &mut Teller) {
    let by = flow.routers().last();
    if let Verdict::Drop(refusal) = &flow.verdict
        && flow.verdict.rejects()
        && flow.expires_at(key.ip_ttl).is_none()
    {
        let what = match key.ip_proto {
            proto::TCP => "a tcp reset",
            _ => "communication is administratively prohibited",
        };
        match rejects::speaker(tables, key, refusal, by) {
            Some(from) => teller.says(
                Stage::Firewall,
                format_args!("its sender is told, in the name of {from}: {what}"),
            ),
            None => teller.says(Stage::Firewall, format_args!("its sender is not told")),
        }
    }
}

/// Is it larger than a link on its way carries? That is asked of whatever the tables let pass.
fn measure(
    tables: &Tables,
    key: &FlowKey,
    len: Option<usize>,
    flow: &mut CompiledFlow,
    teller: &mut Teller,
) {
    if !told_here(key, flow) {
        return;
    }
    let passes = !matches!(flow.verdict, Verdict::Drop(_));
    let small = len
        .filter(|_| passes)
        .and_then(|len| too_big::too_small(tables, flow, len));
    if let Some((mtu, by)) = small {
        let what = format!("larger than the mtu of {mtu}");
        tell(tables, key, Stage::Egress, &what, by, teller);
        let refusal = Refusal::new(DropReason::MtuExceeded, Stage::Egress);
        drop_at(flow, refusal, key.origin());
    }
}

/// Does this switch tell the sender what becomes of its packet? A gateway's host tells of what it routes, whoever sent it.
fn told_here(key: &FlowKey, flow: &CompiledFlow) -> bool {
    match key.origin() {
        Origin::Port(_) => true,
        Origin::Tunnel(_) => flow.routers().next().is_some(),
        Origin::Switch => false,
    }
}

fn drop_at(flow: &mut CompiledFlow, refusal: Refusal, origin: Origin) {
    flow.verdict = Verdict::Drop(match origin {
        Origin::Port(port) => refusal.at(port),
        Origin::Tunnel(_) | Origin::Switch => refusal,
    });
    flow.actions.clear();
    flow.hops.clear();
    flow.meters.clear();
}

/// Who tells its sender what became of it?
fn tell(
    tables: &Tables,
    key: &FlowKey,
    stage: Stage,
    what: &str,
    by: Option<RouterHop>,
    teller: &mut Teller,
) {
    let network = match key.origin() {
        Origin::Port(id) => tables.port(id).map(|p| p.network),
        Origin::Tunnel(network) => by.map(|_| network),
        Origin::Switch => None,
    };
    let network = network.and_then(|id| tables.network(id));
    let ends = (key.src_addr(), key.dst_addr());
    let told = network
        .filter(|_| errors::may_be_told(key))
        .and_then(|n| errors::teller(tables, n, by, ends));
    match told {
        Some(from) => teller.says(
            stage,
            format_args!("{what}: its sender is told, in the name of {from}"),
        ),
        None => teller.says(stage, format_args!("{what}")),
    }
}

fn begins(key: &FlowKey) -> Begin {
    let kind = u8::try_from(key.l4_src).unwrap_or(u8::MAX);
    let input = match (key.ethertype, key.ip_proto) {
        _ if key.ip_frag == Fragment::Later as u8 => TrackInput::Fragment,
        (_, proto::TCP) => TrackInput::Tcp(TcpSegment {
            flags: key.tcp_flags,
            ..TcpSegment::default()
        }),
        (ethertype::IPV4, proto::ICMP) => TrackInput::Icmp(kind),
        (ethertype::IPV6, proto::ICMP6) => TrackInput::Icmp6(kind),
        _ => TrackInput::Datagram,
    };
    input.begins()
}

fn find_port<'a>(tables: &'a Tables, name: &str) -> Result<&'a Port, NotExplained> {
    if let Some(port) = name.parse().ok().and_then(|id| tables.port_by_id(id)) {
        return Ok(port);
    }
    let mut named = tables.ports().filter(|p| p.name == name);
    match (named.next(), named.next()) {
        (Some(port), None) => Ok(port),
        (Some(_), Some(_)) => Err(NotExplained::Ambiguous(name.to_owned())),
        (None, _) => Err(NotExplained::Port(name.to_owned())),
    }
}

fn find_wired<'a>(tables: &'a Tables, name: &str) -> Result<&'a Network, NotExplained> {
    let id = name.parse().ok();
    let mut named = tables
        .wires()
        .map(|(network, _)| network)
        .filter(|network| Some(network.id) == id || network.name == name);
    match (named.next(), named.next()) {
        (Some(network), None) => Ok(network),
        (Some(_), Some(_)) => Err(NotExplained::Ambiguous(name.to_owned())),
        (None, _) => Err(NotExplained::Wire(name.to_owned())),
    }
}

/// What comes out of a tunnel on a network that is on wires.
fn not_by_tunnel(network: &Network, vni: Vni, packet: &Described) -> Explanation {
    Explanation {
        entrance: format!("tunnel (network {}, vni {vni})", network.name),
        packet: format!("{} > {}", packet.src.0, packet.dst.0),
        steps: vec![Step {
            stage: Stage::Io.name(),
            says: format!("the network is on {}", network.outside()),
        }],
        megaflow: String::new(),
        actions: format!("drop({})", DropReason::NotByTunnel),
        verdict: Ending::Dropped {
            reason: DropReason::NotByTunnel.name().to_owned(),
            stage: Stage::Io.name().to_owned(),
            rule: None,
            object: None,
        },
    }
}

/// What bears a tag that no sub-port of the device's trunk has.
fn nobodys_tag(device: &Port, packet: &Described) -> Explanation {
    let reason = DropReason::TrunkVlanUnknown;
    let tag = packet.vlan.map_or(0, u16::from);
    Explanation {
        entrance: format!("port {}", device.name),
        packet: format!("{} > {}", packet.src.0, packet.dst.0),
        steps: vec![Step {
            stage: Stage::Ingress.name(),
            says: format!("no sub-port of its trunk has vlan {tag}"),
        }],
        megaflow: String::new(),
        actions: format!("drop({reason})"),
        verdict: Ending::Dropped {
            reason: reason.name().to_owned(),
            stage: Stage::Ingress.name().to_owned(),
            rule: None,
            object: Some(format!("port {} ({})", device.name, device.id)),
        },
    }
}

fn ending(tables: &Tables, flow: &CompiledFlow) -> Ending {
    match flow.verdict {
        Verdict::Consume(what) => Ending::Answered {
            with: what.name().to_owned(),
        },
        Verdict::Drop(refusal) => {
            let hop = refusal.hop.and_then(|h| tables.hop(h));
            let port = refusal.port.and_then(|p| tables.port(p));
            Ending::Dropped {
                reason: refusal.reason.name().to_owned(),
                stage: refusal.stage.name().to_owned(),
                rule: refusal.rule,
                object: hop
                    .map(|h| {
                        format!(
                            "function {} ({}) of chain {}",
                            h.name, h.function, h.chain_name
                        )
                    })
                    .or_else(|| port.map(|p| format!("port {} ({})", p.name, p.id))),
            }
        }
        Verdict::Deliver => Ending::Delivered {
            to: flow
                .actions
                .iter()
                .filter_map(|action| match action {
                    Action::Output(port) => tables.port(*port).map(|p| p.id.to_string()),
                    Action::Tunnel { vtep, .. } | Action::Carry { vtep, .. } => {
                        tables.vtep(*vtep).map(|v| v.addr.to_string())
                    }
                    Action::Wire(network) => tables.network(*network).map(Network::outside),
                    Action::Translate
                    | Action::Resolve(_)
                    | Action::SetEth { .. }
                    | Action::SetDscp(_)
                    | Action::Copy { .. }
                    | Action::Inspect { .. }
                    | Action::Route(_)
                    | Action::Label(_)
                    | Action::Queue(..)
                    | Action::Refuse(_)
                    | Action::AnswerArp(_)
                    | Action::AnswerNd { .. }
                    | Action::AnswerRs(_)
                    | Action::Hear
                    | Action::AnswerPing
                    | Action::AnswerDhcp { .. }
                    | Action::AnswerDhcp6(_)
                    | Action::AnswerNames(_)
                    | Action::Metadata
                    | Action::HandBack(_) => None,
                })
                .collect(),
        },
    }
}

/// Who is shown copies.
fn shown(tables: &Tables, to: net::PortId) -> String {
    match (tables.port(to), tables.shown_there(to)) {
        (Some(port), _) => port.name.clone(),
        (None, Some(far)) => {
            let vtep = tables.vtep(far.vtep);
            let addr = vtep.map_or_else(|| "gone".to_owned(), |v| v.addr.to_string());
            format!("{} at vtep {addr}", far.name)
        }
        (None, None) => "?".to_owned(),
    }
}

/// What is done, in the words of `explain` and `flows`.
pub fn actions(tables: &Tables, flow: &CompiledFlow, to: Option<&str>) -> String {
    let mut words = Vec::new();
    if flow.tracked && flow.verdict == Verdict::Deliver {
        words.push("ct(commit)".to_owned());
    }
    for hop in &flow.hops {
        if let Some(hop) = tables.hop(*hop) {
            words.push(format!("hop({}/{})", hop.chain_name, hop.name));
        }
    }
    for action in &flow.actions {
        words.push(match action {
            Action::Translate => match to {
                Some(to) => format!("translate({to})"),
                None => "translate".to_owned(),
            },
            Action::SetEth { src, dst } => {
                let src = src.map(|m| format!("src={m}"));
                let dst = dst.map(|m| format!("dst={m}"));
                let both: Vec<_> = src.into_iter().chain(dst).collect();
                format!("set_eth({})", both.join(" "))
            }
            Action::Route(RouterHop { router, .. }) => {
                let name = tables.router(*router).map_or("?", |r| r.name.as_str());
                format!("dec_ttl({name})")
            }
            Action::SetDscp(dscp) => format!("set_dscp({dscp})"),
            Action::Label(label) => format!("push_mpls({label})"),
            Action::Inspect { hop, .. } => {
                let name = tables.hop(*hop).map_or("?", |h| h.name.as_str());
                format!("inspect({name})")
            }
            Action::Copy { to, .. } => format!("copy({})", shown(tables, *to)),
            Action::Queue(Lane::Function { hop, .. }) => {
                let name = tables.hop(*hop).map_or("?", |h| h.name.as_str());
                format!("queue({name})")
            }
            Action::Queue(Lane::Port { port, direction }) => {
                let name = tables.port(*port).map_or("?", |p| p.name.as_str());
                let direction = match direction {
                    Direction::Ingress => "ingress",
                    Direction::Egress => "egress",
                };
                format!("queue({name} {direction})")
            }
            Action::Queue(Lane::Outside { port, direction }) => {
                let id = tables.limited(*port).map(|(id, _)| id.to_string());
                let direction = match direction {
                    Direction::Ingress => "ingress",
                    Direction::Egress => "egress",
                };
                format!("queue({} {direction})", id.as_deref().unwrap_or("?"))
            }
            Action::Output(port) => {
                let name = tables.port(*port).map_or("?", |p| p.name.as_str());
                format!("output({name})")
            }
            Action::Tunnel { network, vtep } => {
                let vtep = tables.vtep(*vtep).map(|v| v.addr.to_string());
                let vni = tables.network(*network).map(|n| n.vni.to_string());
                format!(
                    "encap(vtep {}, vni {})",
                    vtep.as_deref().unwrap_or("?"),
                    vni.as_deref().unwrap_or("?")
                )
            }
            Action::Carry { vtep, nsh, .. } => {
                let vtep = tables.vtep(*vtep).map(|v| v.addr.to_string());
                let vtep = vtep.as_deref().unwrap_or("?");
                format!("nsh(vtep {vtep}, path {}, index {})", nsh.path, nsh.index)
            }
            Action::Wire(network) => {
                let network = tables.network(*network);
                let wire = network.and_then(|n| n.wire.as_ref());
                wire.map_or_else(|| "wire(?)".to_owned(), |wire| format!("wire({wire})"))
            }
            Action::Refuse(refusal) => format!("refuse({})", refusal.reason),
            Action::AnswerArp(mac) => format!("answer_arp({mac})"),
            Action::AnswerNd { mac, .. } => format!("answer_nd({mac})"),
            Action::AnswerRs(network) => {
                let network = tables.network(*network);
                let names = network.map_or_else(String::new, |n| advertisers(tables, n));
                format!("answer_rs({names})")
            }
            Action::Hear => "hear".to_owned(),
            Action::AnswerPing => "answer_ping".to_owned(),
            Action::AnswerDhcp { addr, .. } => format!("answer_dhcp({addr})"),
            Action::AnswerDhcp6(_) => "answer_dhcp6".to_owned(),
            Action::AnswerNames(_) => "answer_names".to_owned(),
            Action::Resolve(_) => "resolve".to_owned(),
            Action::Metadata => "metadata".to_owned(),
            Action::HandBack(_) => "hand_back".to_owned(),
        });
    }
    if let Verdict::Drop(refusal) = flow.verdict {
        words.push(format!("drop({})", refusal.reason));
    }
    words.join(" ")
}

/// What of the packet was read, field by field.
pub fn megaflow(tables: &Tables, key: &FlowKey, mask: &FlowMask) -> String {
    let m = mask.fields();
    let mut words = Vec::new();
    if m.origin != 0 {
        words.push(match key.origin() {
            Origin::Port(port) => {
                let name = tables.port(port).map_or("?", |p| p.name.as_str());
                format!("in_port={name}")
            }
            Origin::Tunnel(network) => {
                let network = tables.network(network);
                match network.map(|n| (n.vni, &n.wire)) {
                    Some((_, Some(wire))) => format!("wire={wire}").replace(' ', "/"),
                    Some((vni, None)) => format!("tunnel={vni}"),
                    None => "tunnel=?".to_owned(),
                }
            }
            Origin::Switch => "switch".to_owned(),
        });
    }
    let whole = |field: &[u8]| field.iter().any(|b| *b != 0);
    if whole(&m.eth_src) {
        words.push(format!("eth_src={}", key.src_mac()));
    }
    if whole(&m.eth_dst) {
        words.push(format!("eth_dst={}", key.dst_mac()));
    }
    if m.ethertype != 0 {
        words.push(match key.ethertype {
            ethertype::IPV4 => "ipv4".to_owned(),
            ethertype::IPV6 => "ipv6".to_owned(),
            ethertype::ARP => "arp".to_owned(),
            other => format!("type={other:#06x}"),
        });
    }
    if m.ip_proto != 0 {
        words.push(match key.ip_proto {
            _ if key.ethertype == ethertype::ARP => format!("op={}", key.ip_proto),
            proto::TCP => "tcp".to_owned(),
            proto::UDP => "udp".to_owned(),
            proto::ICMP => "icmp".to_owned(),
            proto::ICMP6 => "icmp6".to_owned(),
            other => format!("proto={other}"),
        });
    }
    let prefix = |name: &str, addr: IpAddr, mask: &[u8; 16]| {
        let bits: u32 = mask.iter().map(|b| b.count_ones()).sum();
        let bits = if addr.is_ipv4() {
            bits.saturating_sub(96)
        } else {
            bits
        };
        let prefix = u8::try_from(bits)
            .ok()
            .and_then(|b| net::Prefix::containing(addr, b).ok());
        prefix.map(|p| format!("{name}={p}"))
    };
    if whole(&m.ip_src) {
        words.extend(prefix("src", key.src_addr(), &m.ip_src));
    }
    if whole(&m.ip_dst) {
        words.extend(prefix("dst", key.dst_addr(), &m.ip_dst));
    }
    let icmp = matches!(key.ip_proto, proto::ICMP | proto::ICMP6) && key.is_ip();
    if m.l4_src != 0 {
        let name = if icmp { "icmp_type" } else { "sport" };
        words.push(format!("{name}={}", port(key.l4_src, m.l4_src)));
    }
    if m.l4_dst != 0 {
        let name = if icmp { "icmp_code" } else { "dport" };
        words.push(format!("{name}={}", port(key.l4_dst, m.l4_dst)));
    }
    words.join(" ")
}

/// The ports that are equal in the bits that were read: the first ones of all.
fn port(port: u16, mask: u16) -> String {
    match (port & mask, port | !mask) {
        (first, last) if first == last => first.to_string(),
        (first, last) => format!("{first}-{last}"),
    }
}
