//! What happens to the first packet of a flow?
//!
//! One straight walk through the tables. Source half, for what a local port sends: port security, services, egress security group,
//! chains that name a source, forwarding, routers. Destination half, for each local receiver: chains that name only a destination, un-NAT,
//! ingress security group, output. The walk reads the packet through a [`Probe`] and notes which sections it read; its answer is a
//! [`CompiledFlow`]. A [`Witness`] hears each judgement: `explain` is one that writes them down, `()` is one that costs nothing.
//!
//! # Invariants
//! - Every key that is equal under the mask gets the same answer from the same tables.
//! - The walk changes nothing: tables are read, records are lent.

use std::fmt;

use hostconfig::group::Direction;
use net::{
    Consumed, DropReason, Fragment, Id, Mac, NetworkId, Now, Origin, PortId, Probe, RouterId, Zone,
    flow_key::{FiveTuple, ethertype, proto},
    ids::kind,
};
use nfv::{
    conntrack::{Entry, Side},
    function::{Binding, Spend},
};
use overlay::{Place, Receiver};
use smallvec::SmallVec;

use super::{
    dns::Asks,
    external::Crossed,
    flow::{Action, CompiledFlow, Half, Handed, Lane, Refusal, Stage, Verdict},
    sources::Lender,
    tables::{
        HopId, Network, Port, Qos, SectionIndex, Tables, dhcp6, l2, port_security, ra,
        security_group::Allowed, service, tunnel,
    },
};

/// The names of the routers that speak on a network, for people.
pub(super) fn advertisers(tables: &Tables, network: &Network) -> String {
    let name = |a: &ra::Advertisement| tables.router(a.router).map_or("?", |r| r.name.as_str());
    let names: Vec<_> = network.advertisements.iter().map(name).collect();
    names.join(", ")
}

/// How often a packet may be forwarded anew because its destination became another, or a router sends it on.
pub(super) const MAX_FORWARDS: usize = 8;

/// Hears what each table says.
pub trait Witness {
    /// Is anybody there? What only a listener needs is not even looked up for `()`.
    const LISTENS: bool;
    /// A table of this stage has judged.
    fn says(&mut self, stage: Stage, what: fmt::Arguments<'_>);
}

impl Witness for () {
    const LISTENS: bool = false;
    fn says(&mut self, _: Stage, _: fmt::Arguments<'_>) {}
}

/// What is known of the connection that the packet belongs to.
#[derive(Debug, Clone, Copy)]
pub enum Known<'a> {
    /// Nothing: it may begin one.
    New,
    /// It is judged again, as if it began; its translation is lent to the functions.
    Again(Option<Binding>),
    /// It is a packet of a connection's reply side.
    Reply {
        /// The connection.
        entry: &'a Entry,
        /// What was decided for its original side.
        forward: &'a CompiledFlow,
    },
    /// It is an ICMP error about a packet of the other side.
    Related {
        /// The connection.
        entry: &'a Entry,
        /// The side that it travels with.
        side: Side,
        /// What was decided for its original side.
        forward: &'a CompiledFlow,
    },
}

/// What a walk is lent.
#[derive(Debug, Clone, Copy)]
pub struct Lent<'a> {
    /// The time.
    pub now: Now,
    /// The connection.
    pub known: Known<'a>,
    /// The sources that connections have, as a worker sees them; `None`: none is taken.
    pub sources: Option<Lender<'a>>,
    /// How often the connection was to begin before, and another had its source.
    pub attempt: u8,
    /// The part of the connection's way before an appliance, if it comes out of one, or its original side does.
    pub before: Option<&'a CompiledFlow>,
    /// The appliance at which this part of a known connection's way ends.
    pub after: Option<Handed>,
    /// Of a connection that is judged again, the zone at its end: where it was handed over, if it was.
    pub had: Option<Zone>,
}

/// What the record of a connection is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tracking {
    /// The zones of both sides.
    pub zones: [Zone; 2],
    /// The tuple by which replies are known.
    pub reply: FiveTuple,
    /// Ethernet source and destination of replies.
    pub reply_eth: (Mac, Mac),
    /// Whom the connection counts for.
    pub owner: Holder,
    /// The port of the API at which its source is to be its own: that which holds the address which a NAT gave it, or to which it was forwarded.
    pub source: Option<Id<kind::Port>>,
    /// Was it forwarded to that port?
    pub forwarded: bool,
    /// Does its receiver, which is here, ask for it, or a chain of that one? Not only its sender.
    pub received: bool,
}

/// A token that a connection takes when it begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Token {
    /// The function that wants it.
    pub function: Id<kind::Function>,
    /// Its hop.
    pub hop: Option<HopId>,
    /// Of which bucket, and how that fills.
    pub spend: Spend,
}

/// Whom a connection counts for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Holder {
    /// A local port.
    Port(PortId),
    /// The gateway of this router, which is here.
    Gateway(RouterId),
}

/// The answer of a walk.
#[derive(Debug, Clone)]
pub struct Outcome {
    /// What was decided.
    pub flow: CompiledFlow,
    /// The record to be; `None` when no table asked for one.
    pub tracking: Option<Tracking>,
    /// The tokens that functions want for it when it begins, in their order.
    pub tokens: SmallVec<[Token; 2]>,
}

/// Walks the tables for one packet.
pub fn walk<W: Witness>(
    tables: &Tables,
    probe: &mut Probe,
    witness: &mut W,
    lent: Lent<'_>,
) -> Outcome {
    let mut walk = Walk {
        tables,
        probe,
        witness,
        lent,
        flow: CompiledFlow {
            origin: Origin::Switch,
            mask: net::FlowMask::default(),
            actions: SmallVec::new(),
            hops: SmallVec::new(),
            meters: SmallVec::new(),
            depends: SmallVec::new(),
            verdict: Verdict::Deliver,
            tracked: false,
            replies: false,
            handed: None,
            path: 0,
        },
        back: None,
        placed: false,
        zones: [None, None],
        owner: None,
        translated: false,
        routed: None,
        source: None,
        forwarded: None,
        crossed: None,
        received: false,
        tokens: SmallVec::new(),
    };
    if let Err(refusal) = walk.enter() {
        walk.witness
            .says(refusal.stage, format_args!("dropped: {}", refusal.reason));
        walk.flow.refuse(refusal);
    }
    walk.finish()
}

pub(super) struct Walk<'a, W> {
    pub(super) tables: &'a Tables,
    pub(super) probe: &'a mut Probe,
    pub(super) witness: &'a mut W,
    pub(super) lent: Lent<'a>,
    pub(super) flow: CompiledFlow,
    pub(super) zones: [Option<Zone>; 2],
    /// The zone in which replies come that have none at their sender's.
    pub(super) back: Option<Zone>,
    /// Does it come out of an appliance to which it was handed over?
    pub(super) placed: bool,
    pub(super) owner: Option<PortId>,
    pub(super) translated: bool,
    /// Ethernet source and destination with which it came to its first router.
    pub(super) routed: Option<(Mac, Mac)>,
    /// Whose address a NAT gave it as its source.
    pub(super) source: Option<Id<kind::Port>>,
    /// To whom it was forwarded, where its source is to be its own.
    pub(super) forwarded: Option<Id<kind::Port>>,
    /// The gateway of this host that it passed.
    pub(super) crossed: Option<Crossed>,
    /// Its receiver is here, and asks that it be tracked.
    received: bool,
    /// What functions want for it when it begins.
    pub(super) tokens: SmallVec<[Token; 2]>,
}

impl<'a, W: Witness> Walk<'a, W> {
    fn finish(self) -> Outcome {
        let Self {
            mut flow,
            probe,
            zones,
            back,
            owner,
            routed,
            source,
            forwarded,
            crossed,
            received,
            tokens,
            ..
        } = self;
        flow.mask = probe.mask();
        // A packet that waits is rewritten before: what goes on behind the queue needs only to be sent.
        flow.actions.sort_by_key(|action| match action {
            // A question is read as it was asked.
            Action::Resolve(_) => 0,
            Action::Copy { .. } | Action::Inspect { .. } => 1,
            Action::Translate
            | Action::SetEth { .. }
            | Action::SetDscp(_)
            | Action::Route(_)
            | Action::Label(_) => 2,
            // What its workload may not send does not count for what it shows outside.
            Action::Queue(Lane::Function { .. } | Lane::Port { .. }) => 3,
            Action::Queue(Lane::Outside { .. }) => 4,
            Action::Output(_)
            | Action::Tunnel { .. }
            | Action::Carry { .. }
            | Action::Wire(_)
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
            | Action::HandBack(_) => 5,
        });
        let delivers = flow.verdict == Verdict::Deliver;
        if !delivers {
            // What a router did not send on did not cross its gateway.
            flow.meters.clear();
        }
        flow.tracked &= delivers;
        let [first, second] = zones;
        let key = probe.rewritten_key();
        // Who is here answers with what it was sent. Who is elsewhere answers in the sender's network, where its router brings it.
        let sent = routed.filter(|_| second.is_none());
        // Who is outside answers the gateway.
        let left = crossed.and_then(|c| c.left);
        let (eth_src, eth_dst) = left.or(sent).unwrap_or((key.src_mac(), key.dst_mac()));
        let gateway = crossed.map(|c| Holder::Gateway(c.router));
        let owner = owner.map(Holder::Port).or(gateway);
        let tracking = first.zip(owner).zip(key.five_tuple());
        let tracking = tracking
            .filter(|_| flow.tracked)
            .map(|((zone, owner), tuple)| Tracking {
                zones: [zone, second.or(back).unwrap_or(zone)],
                reply: tuple.reversed(),
                reply_eth: (eth_dst, eth_src),
                owner,
                source: source.or(forwarded),
                forwarded: forwarded.is_some(),
                received,
            });
        flow.tracked = tracking.is_some();
        Outcome {
            flow,
            tracking,
            tokens,
        }
    }

    pub(super) fn depend(&mut self, section: SectionIndex) {
        self.flow.depend(self.tables.depend(section));
    }

    fn enter(&mut self) -> Result<(), Refusal> {
        let origin = self.probe.origin();
        self.flow.origin = origin;
        // What is tagged goes nowhere: neither ports nor networks carry VLANs.
        if self.probe.vlan() != 0 {
            return Err(Refusal::new(DropReason::VlanNotAllowed, Stage::Ingress));
        }
        if let Known::Reply { forward, .. } = self.lent.known {
            for on in &forward.depends {
                self.flow.depend(*on);
            }
        }
        for on in self.lent.before.iter().flat_map(|flow| &flow.depends) {
            self.flow.depend(*on);
        }
        match origin {
            Origin::Port(id) => self.source_half(id),
            Origin::Tunnel(network) => {
                let network = self.network(network)?;
                if let Err(reason) = tunnel::judge(network, self.probe) {
                    self.depend(network.members);
                    return Err(Refusal::new(reason, Stage::Tunnel));
                }
                self.says(Stage::Tunnel, || network.outside());
                if self.asked_for_what_is_here(network) || self.answers_a_router(network) {
                    return Ok(());
                }
                if self.known_connection(network) && self.hand_on() {
                    return Ok(());
                }
                self.forward(network)
            }
            // What the switch makes is sent, not judged.
            Origin::Switch => Err(Refusal::new(DropReason::PortGone, Stage::Ingress)),
        }
    }

    pub(super) fn says(&mut self, stage: Stage, what: impl FnOnce() -> String) {
        if W::LISTENS {
            self.witness.says(stage, format_args!("{}", what()));
        }
    }

    pub(super) fn network(&mut self, id: NetworkId) -> Result<&'a Network, Refusal> {
        let gone = Refusal::new(DropReason::PortGone, Stage::Ingress);
        let network = self.tables.network(id).ok_or(gone)?;
        self.depend(network.section);
        if network.admin_up {
            Ok(network)
        } else {
            Err(Refusal::new(DropReason::AdminDown, Stage::Ingress))
        }
    }

    fn source_half(&mut self, id: PortId) -> Result<(), Refusal> {
        let gone = Refusal::new(DropReason::PortGone, Stage::Ingress).at(id);
        let tables = self.tables;
        let Some(port) = tables.port(id) else {
            self.depend(tables.chains_section());
            let far = tables.far(id).ok_or(gone)?;
            return self.out_of_appliance(far.into(), None).map(|_| ());
        };
        self.depend(port.section);
        if !port.admin_up {
            return Err(Refusal::new(DropReason::AdminDown, Stage::Ingress).at(id));
        }
        // Refused before any chain is looked at, it is let in when its port becomes an appliance's.
        self.depend(self.tables.chains_section());
        if self.tables.leg(id).is_some()
            && (self.came_through(port) || self.out_of_appliance(port.into(), Some(port))?)
        {
            return Ok(());
        }
        let network = self.network(port.network)?;
        let allowed = port_security::judge(port, self.probe)
            .map_err(|reason| Refusal::new(reason, Stage::PortSecurity).at(id))?;
        self.witness
            .says(Stage::PortSecurity, format_args!("{allowed}"));
        self.zones[0] = Some(port.zone);
        self.owner = Some(id);
        if self.served(network, port) || self.asks_for_names(network, port)? == Asks::Here {
            return Ok(());
        }
        if self.answers_a_probe(port) {
            return Ok(());
        }
        self.security_group(port, Direction::Egress)?;
        self.port_firewall(port, Direction::Egress)?;
        if self.metadata() {
            return Ok(());
        }
        if self.known_connection(network) {
            if self.hand_on() {
                return Ok(());
            }
        } else {
            self.source_chains(network, port)?;
            if self.flow.handed.is_some() {
                return Ok(());
            }
        }
        self.forward(network)
    }

    /// ARP, ND and DHCP: does the switch answer?
    fn served(&mut self, network: &Network, port: &Port) -> bool {
        // That an address is not known is read too.
        let asks = self.probe.ethertype() == ethertype::ARP
            || (self.probe.ethertype() == ethertype::IPV6
                && self.probe.ip_proto() == proto::ICMP6
                && self.probe.l4_src() == 135);
        if asks {
            self.depend(network.members);
        }
        if let Some(mac) = service::arp(network, port, self.probe) {
            self.answers(Action::AnswerArp(mac), Consumed::Arp);
            self.says(Stage::Service, || format!("arp answered with {mac}"));
            return true;
        }
        let floating = |port| self.tables.floating().of_port(port).is_some();
        if let Some((mac, router)) = service::neighbor(network, port, floating, self.probe) {
            let action = Action::AnswerNd { mac, router };
            self.answers(action, Consumed::NeighborDiscovery);
            self.says(Stage::Service, || {
                format!("neighbor solicitation answered with {mac}")
            });
            return true;
        }
        if ra::asks(self.probe) {
            // Who is on the network has what its routers say in it.
            self.depend(network.members);
            if !network.advertisements.is_empty() {
                let action = Action::AnswerRs(network.dense);
                self.answers(action, Consumed::NeighborDiscovery);
                let tables = self.tables;
                self.says(Stage::Service, || {
                    let names = advertisers(tables, network);
                    format!("router solicitation answered by router {names}")
                });
                return true;
            }
        }
        if let Some((subnet, addr)) = service::dhcp(network, port, self.probe) {
            let network = network.dense;
            let action = Action::AnswerDhcp {
                network,
                subnet,
                addr,
            };
            self.answers(action, Consumed::Dhcp);
            self.says(Stage::Service, || format!("dhcp answered with {addr}"));
            return true;
        }
        if dhcp6::serves(network, port, self.probe) {
            self.answers(Action::AnswerDhcp6(network.dense), Consumed::Dhcp);
            self.says(Stage::Service, || {
                match dhcp6::leased(network, port).as_slice() {
                    [] => "dhcpv6 answered, without addresses".to_owned(),
                    own => {
                        let own: Vec<_> = own.iter().map(ToString::to_string).collect();
                        format!("dhcpv6 answered with {}", own.join(", "))
                    }
                }
            });
            return true;
        }
        false
    }

    pub(super) fn answers(&mut self, action: Action, what: Consumed) {
        // The answer goes straight back to who asked, as it asked, whatever routers the question passed and a chain made of it.
        self.flow
            .actions
            .retain(|action| !matches!(action, Action::SetEth { .. } | Action::Translate));
        self.flow.actions.push(action);
        self.flow.verdict = Verdict::Consume(what);
    }

    /// Did the record's connection already pass this port's stateful groups?
    pub(super) fn is_established(&self, port: &Port) -> bool {
        match self.lent.known {
            Known::New | Known::Again(_) => false,
            Known::Reply { entry, .. } | Known::Related { entry, .. } => {
                // Its sender passed them on the way to the appliance.
                let before = self.lent.before.and_then(|flow| flow.handed);
                before.is_some_and(|handed| handed.owner == port.dense)
                    || Side::BOTH
                        .iter()
                        .any(|side| entry.side(*side).zone() == port.zone)
            }
        }
    }

    fn security_group(&mut self, port: &Port, direction: Direction) -> Result<(), Refusal> {
        let Some(id) = port.group else {
            return Ok(());
        };
        let reason = match direction {
            Direction::Egress => DropReason::SecurityGroupEgress,
            Direction::Ingress => DropReason::SecurityGroupIngress,
        };
        let refusal = Refusal::new(reason, Stage::SecurityGroup).at(port.dense);
        let group = self.tables.group(id).ok_or(refusal)?;
        self.depend(group.section);
        let way = match direction {
            Direction::Egress => "egress",
            Direction::Ingress => "ingress",
        };
        if group.stateful() && self.is_established(port) {
            self.flow.tracked = true;
            self.says(Stage::SecurityGroup, || format!("{way}: established"));
            return Ok(());
        }
        match group.judge(self.probe, direction) {
            Some(Allowed::Rule(rule)) => {
                self.flow.tracked |= group.stateful();
                let tables = self.tables;
                self.says(Stage::SecurityGroup, || {
                    let of = group.group_of(rule);
                    let name = of.and_then(|g| tables.group_name(g)).unwrap_or("?");
                    let then = if group.stateful() {
                        "new -> commit"
                    } else {
                        "stateless"
                    };
                    format!("{way} rule {rule} of group {name}: {then}")
                });
                Ok(())
            }
            Some(Allowed::Always(why)) => {
                self.says(Stage::SecurityGroup, || {
                    format!("{way}: always allowed ({why})")
                });
                Ok(())
            }
            None => {
                self.says(Stage::SecurityGroup, || {
                    format!("{way}: no rule of port {} allows it", port.name)
                });
                Err(refusal)
            }
        }
    }

    /// A packet of a known connection takes that connection's way; is it one?
    pub(super) fn known_connection(&mut self, network: &Network) -> bool {
        match self.lent.known {
            Known::New | Known::Again(_) => false,
            Known::Reply { entry, forward } => {
                self.flow.tracked = true;
                self.reply_hops(forward);
                self.untranslate(network, entry, Side::Reply);
                true
            }
            Known::Related { entry, side, .. } => {
                self.says(Stage::Conntrack, || {
                    format!("related to {}", entry.side(side.other()).tuple())
                });
                self.untranslate(network, entry, side);
                true
            }
        }
    }

    /// Replies pass the functions last to first, if the chain is symmetric.
    fn reply_hops(&mut self, forward: &CompiledFlow) {
        for action in &forward.actions {
            if let Action::Copy {
                to, replies: true, ..
            } = *action
            {
                self.show(to, true, false);
            }
            if let Action::Inspect { .. } = action {
                self.flow.actions.push(*action);
            }
        }
        for hop in forward.hops.iter().rev() {
            if self.tables.hop(*hop).is_some_and(|h| h.symmetric) {
                self.flow.hops.push(*hop);
                self.flow.replies = true;
                let lane = |side| Action::Queue(Lane::Function { hop: *hop, side });
                if forward.actions.contains(&lane(Side::Original)) {
                    self.flow.actions.push(lane(Side::Reply));
                }
            }
        }
    }

    /// A port is shown its packets, once, unless it is the port that sends them.
    pub(super) fn show(&mut self, to: PortId, now: bool, replies: bool) {
        let copy = Action::Copy { to, now, replies };
        if self.flow.origin != Origin::Port(to) && !self.flow.actions.contains(&copy) {
            self.flow.actions.push(copy);
        }
    }

    fn untranslate(&mut self, network: &Network, entry: &Entry, side: Side) {
        if entry.binding().is_none() {
            return;
        }
        let mut to = entry.translated(side);
        let other = entry.side(side.other());
        let (src, dst) = (other.eth_dst(), other.eth_src());
        if matches!(self.lent.known, Known::Related { .. }) {
            // An error has no ports: where they would be, its type and code stay.
            let key = self.probe.rewritten_key();
            (to.src_port, to.dst_port) = (key.l4_src, key.l4_dst);
        }
        // Where a router brings it, that one gives it its Ethernet addresses.
        let via = network.fdb.get(self.probe.eth_dst());
        let routed = via.is_some_and(|e| matches!(e.place, Place::Router(_)));
        // The other end's Ethernet address says nothing on another network than its own, nor does a mark.
        let of = self.tables.ports().find(|p| p.zone == other.zone());
        let near = of.is_none_or(|p| p.network == network.dense) && !dst.is_multicast();
        let eth = if routed {
            None
        } else if near {
            Some((src, dst))
        } else {
            let router = self.routers_to(network, to.dst_addr()).first().copied();
            Some((src, router.unwrap_or(dst)))
        };
        self.translate(&to, eth);
        self.says(Stage::Conntrack, || format!("translated to {to}"));
    }

    fn translate(&mut self, to: &FiveTuple, eth: Option<(Mac, Mac)>) {
        self.probe.set_src(to.src_addr(), to.src_port);
        self.probe.set_dst(to.dst_addr(), to.dst_port);
        if let Some((src, dst)) = eth {
            self.set_eth(Some(src), Some(dst));
        }
        if !self.translated {
            self.flow.actions.push(Action::Translate);
        }
        self.translated = true;
    }

    pub(super) fn set_eth(&mut self, src: Option<Mac>, dst: Option<Mac>) {
        if let Some(mac) = src {
            self.probe.set_eth_src(mac);
        }
        if let Some(mac) = dst {
            self.probe.set_eth_dst(mac);
        }
        let there = self.flow.actions.iter_mut().find_map(|action| {
            if let Action::SetEth { src, dst } = action {
                Some((src, dst))
            } else {
                None
            }
        });
        if let Some((to_src, to_dst)) = there {
            (*to_src, *to_dst) = (src.or(*to_src), dst.or(*to_dst));
        } else {
            self.flow.actions.push(Action::SetEth { src, dst });
        }
    }

    pub(super) fn forward(&mut self, mut network: &'a Network) -> Result<(), Refusal> {
        for _ in 0..MAX_FORWARDS {
            let to = match l2::forward(self.tables, network, self.probe) {
                Ok(l2::Forward::Flood) => return self.flood(network),
                Ok(l2::Forward::To {
                    place,
                    port,
                    section,
                }) => {
                    self.depend(section);
                    (place, port)
                }
                // Nothing is learned: who is not here is outside.
                Err(DropReason::UnknownUnicast) if self.leads_out(network) => {
                    self.depend(network.members);
                    self.send_out(network);
                    return Ok(());
                }
                Err(reason) => {
                    self.depend(network.members);
                    return Err(self.about_sender(reason, Stage::L2));
                }
            };
            let origin = self.flow.origin;
            // A client that is its own load balancer's member gets its packets back, translated.
            let returns = l2::returns(origin, to.0) && self.crossed.is_none();
            if returns && !self.translated {
                return Err(self.about_sender(DropReason::SplitHorizon, Stage::L2));
            }
            match to.0 {
                Place::Local(id) => {
                    let mac = self.probe.eth_dst();
                    self.says(Stage::L2, || format!("{mac} is local port {}", to.1));
                    self.leave();
                    return self.destination_half(id);
                }
                Place::Vtep(_) if self.leads_out(network) => {
                    self.send_out(network);
                    return Ok(());
                }
                Place::Vtep(vtep) => {
                    if self.is_unrouted() {
                        return Err(Refusal::new(DropReason::SplitHorizon, Stage::L2));
                    }
                    self.leave();
                    let tables = self.tables;
                    // What answers a hidden source finds its home by the client's Ethernet address, also behind routers. Another port may
                    // have the same on this network: so it is marked.
                    if let (Some(_), Some((client, _)), None) =
                        (self.source, self.routed, self.crossed)
                    {
                        self.set_eth(Some(client.marked()), None);
                    }
                    self.says(Stage::Tunnel, || {
                        let addr = tables.vtep(vtep).map(|v| v.addr.to_string());
                        let addr = addr.unwrap_or_else(|| "gone".to_owned());
                        format!("vtep {addr}, vni {}", network.vni)
                    });
                    self.flow.actions.push(Action::Tunnel {
                        network: network.dense,
                        vtep,
                    });
                    return Ok(());
                }
                Place::Virtual => {
                    if let Some(mac) = self.home_of_reply() {
                        self.says(Stage::Conntrack, || format!("back to its home, {mac}"));
                        self.set_eth(None, Some(mac));
                        continue;
                    }
                    if !self.virtual_address(network, to.1)? {
                        return Ok(());
                    }
                }
                Place::Router(router) => match self.route(router, to.1)? {
                    Some(next) => network = next,
                    None => return Ok(()),
                },
            }
        }
        Err(self.about_sender(DropReason::HopLimit, Stage::L2))
    }

    /// The end of the source half: what the sender's QoS policy says of what leaves its port.
    pub(super) fn leave(&mut self) {
        let Origin::Port(id) = self.flow.origin else {
            return;
        };
        // It left its sender's port before the appliance.
        if self.placed {
            return;
        }
        let Some((port, qos)) = self
            .tables
            .port(id)
            .and_then(|p| Some((p, p.qos.as_ref()?)))
        else {
            return;
        };
        self.depend(qos.section);
        let is_ip = matches!(self.probe.ethertype(), ethertype::IPV4 | ethertype::IPV6);
        if let Some(dscp) = qos.policy.dscp.filter(|_| is_ip) {
            self.flow.actions.push(Action::SetDscp(dscp.mark));
            let policy = &qos.policy;
            self.says(Stage::Qos, || {
                let (mark, rule, name, id) = (dscp.mark, dscp.rule, &policy.name, policy.id);
                format!("dscp becomes {mark} (rule {rule} of policy {name}, {id})")
            });
        }
        if port.limit(Direction::Egress).is_some() {
            self.flow.actions.push(Action::Queue(Lane::Port {
                port: id,
                direction: Direction::Egress,
            }));
            self.says_limit(port, Direction::Egress);
        }
    }

    fn says_limit(&mut self, port: &Port, direction: Direction) {
        let Some(qos) = &port.qos else {
            return;
        };
        self.says_rates(qos, direction, "");
    }

    /// `by`: which address outside is meant, with a space behind.
    fn says_rates(&mut self, qos: &Qos, direction: Direction, by: &str) {
        let Some(limit) = qos.limit(direction) else {
            return;
        };
        let policy = &qos.policy;
        self.says(Stage::Qos, || {
            let way = match direction {
                Direction::Ingress => "ingress",
                Direction::Egress => "egress",
            };
            let bits = limit.bits.map(|r| (r, "bit"));
            let packets = limit.packets.map(|r| (r, "packets"));
            let rates = bits.into_iter().chain(packets);
            let rates =
                rates.map(|(r, unit)| format!("{} {unit}/s (rule {})", r.per_second, r.rule));
            let share = limit.share.iter().flat_map(|share| {
                let own =
                    (share.rate_bps > 0).then(|| format!("{} bit/s for certain", share.rate_bps));
                let nodes = share.within.iter();
                let nodes =
                    nodes.map(|node| format!("{} bit/s shared ({})", node.ceil_bps, node.id));
                own.into_iter().chain(nodes)
            });
            let rates: Vec<_> = rates.chain(share).collect();
            let (rates, name, id) = (rates.join(", "), &policy.name, policy.id);
            format!("{by}{way}: {rates} of policy {name} ({id})")
        });
    }

    /// It passes by a floating IP or gateway that is here, held by this port of the API: what a QoS policy says of that.
    pub(super) fn limit_outside(&mut self, port: Id<kind::Port>, direction: Direction, what: &str) {
        let tables = self.tables;
        let limited = tables.number_outside(port);
        let Some((port, (_, qos))) = limited.and_then(|port| Some((port, tables.limited(port)?)))
        else {
            return;
        };
        self.depend(qos.section);
        let queue = Action::Queue(Lane::Outside { port, direction });
        if qos.limit(direction).is_some() && !self.flow.actions.contains(&queue) {
            self.flow.actions.push(queue);
            self.says_rates(qos, direction, what);
        }
    }

    /// What answers a translated source goes to whom that came from: behind its Ethernet address is the host whose record translates
    /// it back.
    fn home_of_reply(&self) -> Option<Mac> {
        let (entry, side) = match self.lent.known {
            Known::Reply { entry, .. } => (entry, Side::Reply),
            Known::Related { entry, side, .. } => (entry, side),
            Known::New | Known::Again(_) => return None,
        };
        let from = entry.side(side.other()).eth_src().unmarked();
        (from != self.probe.rewritten_key().dst_mac()).then_some(from)
    }

    pub(super) fn about_sender(&self, reason: DropReason, stage: Stage) -> Refusal {
        Refusal {
            port: self.owner,
            ..Refusal::new(reason, stage)
        }
    }

    /// Is it an echo request that can be answered in its own buffer?
    pub(super) fn is_ping(&mut self) -> bool {
        let echo = match (self.probe.ethertype(), self.probe.ip_proto()) {
            (ethertype::IPV4, proto::ICMP) => self.probe.l4_src() == 8,
            (ethertype::IPV6, proto::ICMP6) => self.probe.l4_src() == 128,
            _ => false,
        };
        echo && self.probe.ip_frag() == Fragment::Whole as u8
    }

    /// A packet to a virtual address that no chain named by its source has taken. `Ok(true)`: it has another destination now.
    fn virtual_address(
        &mut self,
        network: &'a Network,
        vip: Id<kind::Port>,
    ) -> Result<bool, Refusal> {
        let known = network.endpoints.get(&vip);
        let project = known.and_then(|e| e.project);
        let asked = self.probe.rewritten_key().dst_mac();
        let half = Half::Virtual(vip);
        let chained = self.destination_chains(network, vip, project, half)?;
        if self.flow.handed.is_some() {
            return Ok(false);
        }
        if chained && self.probe.rewritten_key().dst_mac() != asked {
            return Ok(true);
        }
        self.at_virtual_address(network, vip)?;
        Ok(false)
    }

    /// No chain made another destination of a virtual address.
    pub(super) fn at_virtual_address(
        &mut self,
        network: &Network,
        vip: Id<kind::Port>,
    ) -> Result<(), Refusal> {
        self.depend(network.members);
        let dst = self.probe.ip_dst();
        let named = network.neighbours.get(dst).is_some_and(|n| n.port == vip);
        // Who is elsewhere is answered by its own switch.
        let here = matches!(self.flow.origin, Origin::Port(_));
        if self.is_ping() && named && here {
            self.flow.tracked = false;
            self.answers(Action::AnswerPing, Consumed::Icmp);
            self.says(Stage::Service, || {
                format!("ping of virtual address {dst} answered")
            });
            return Ok(());
        }
        Err(self.about_sender(DropReason::NoListener, Stage::Service))
    }

    fn destination_half(&mut self, id: PortId) -> Result<(), Refusal> {
        let gone = Refusal::new(DropReason::PortGone, Stage::Egress).at(id);
        let port = self.tables.port(id).ok_or(gone)?;
        self.depend(port.section);
        if !port.admin_up {
            return Err(Refusal::new(DropReason::AdminDown, Stage::Egress).at(id));
        }
        if self.zones[0].is_none() {
            self.zones[0] = Some(port.zone);
        }
        self.zones[1] = Some(port.zone);
        if let Some(crossed) = &mut self.crossed {
            crossed.left = None;
        }
        self.owner.get_or_insert(id);
        let fresh = matches!(self.lent.known, Known::New | Known::Again(_));
        let sent = std::mem::take(&mut self.flow.tracked);
        if fresh && let Some(network) = self.tables.network(port.network) {
            let half = Half::Destination(id);
            self.destination_chains(network, port.id, Some(port.project), half)?;
            if self.flow.handed.is_some() {
                self.flow.tracked |= sent;
                return Ok(());
            }
        }
        self.deliver(port, fresh, sent)
    }

    /// The destination half behind the chains. `sent`: is it tracked for what was before that?
    pub(super) fn deliver(&mut self, port: &Port, fresh: bool, sent: bool) -> Result<(), Refusal> {
        let id = port.dense;
        self.virtual_source(port, fresh);
        self.security_group(port, Direction::Ingress)?;
        self.port_firewall(port, Direction::Ingress)?;
        self.received = self.flow.tracked;
        self.flow.tracked |= sent;
        if self.answers_the_switch() {
            self.flow.actions.push(Action::HandBack(id));
            self.says(Stage::Service, || {
                format!(
                    "to the name server of this switch, which asked as port {}",
                    port.name
                )
            });
            return Ok(());
        }
        self.flow.actions.push(Action::Output(id));
        self.says_limit(port, Direction::Ingress);
        self.says(Stage::Egress, || {
            format!("port {} ({})", port.name, port.id)
        });
        Ok(())
    }

    /// What comes from a virtual address (a NAT's, or that of a load balancer whose member is the client) shows the Ethernet address by
    /// which it is answered: its own, or that of the router behind which it is. It is tracked even where nobody's group asks for it: by
    /// the record its replies find their way back.
    fn virtual_source(&mut self, port: &Port, fresh: bool) {
        let Some(network) = self.tables.network(port.network) else {
            return;
        };
        // That an address is not virtual is read too.
        self.depend(network.virtuals);
        if !self.probe.rewritten_key().is_ip() || self.probe.eth_dst().is_multicast() {
            return;
        }
        // What answers must find by which way it came, past a firewall elsewhere.
        if network.fenced && fresh {
            let came = network.fdb.get(self.probe.eth_src());
            self.flow.tracked |= came.is_some_and(|e| matches!(e.place, Place::Router(_)));
        }
        if fresh && self.comes_past_floating(network) {
            self.flow.tracked = true;
        }
        let shown = if self.is_routed_source(network) {
            self.routed_source(network)
        } else if network.has_virtuals {
            self.probe.ethertype();
            let known = network.neighbours.get(self.probe.ip_src());
            known.map(|n| n.mac).filter(|mac| {
                let place = network.fdb.get(*mac).map(|e| e.place);
                place == Some(Place::Virtual)
            })
        } else {
            None
        };
        let Some(mac) = shown else {
            return;
        };
        self.flow.tracked |= fresh;
        if self.probe.eth_src() != mac {
            self.set_eth(Some(mac), None);
        }
    }

    fn flood(&mut self, network: &'a Network) -> Result<(), Refusal> {
        self.depend(network.members);
        let origin = self.flow.origin;
        let mut receivers = 0usize;
        self.depend(self.tables.appliances());
        for receiver in network.flood.replicate(origin) {
            match receiver {
                Receiver::Vtep(vtep) => {
                    receivers += 1;
                    self.flow.actions.push(Action::Tunnel {
                        network: network.dense,
                        vtep,
                    });
                }
                // An appliance would carry it on to the other side.
                Receiver::Port(id) if self.tables.leg(id).is_some() => {}
                Receiver::Port(id) => {
                    let Some(port) = self.tables.port(id) else {
                        continue;
                    };
                    receivers += 1;
                    self.depend(port.section);
                    let judged = if port.admin_up {
                        self.security_group(port, Direction::Ingress)
                            .and_then(|()| self.port_firewall(port, Direction::Ingress))
                    } else {
                        Err(Refusal::new(DropReason::AdminDown, Stage::Egress).at(id))
                    };
                    self.flow.actions.push(match judged {
                        Ok(()) => Action::Output(id),
                        Err(refusal) => Action::Refuse(refusal),
                    });
                }
            }
        }
        if self.leads_out(network) {
            receivers += 1;
            self.flow.actions.push(Action::Wire(network.dense));
        }
        self.leave();
        // What goes to many has no one reply: nothing to track.
        self.flow.tracked = false;
        if receivers == 0 {
            return Err(self.about_sender(DropReason::NoReceiver, Stage::L2));
        }
        self.says(Stage::L2, || format!("flooded to {receivers} receivers"));
        Ok(())
    }
}
