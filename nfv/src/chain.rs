//! What do the functions of a chain say of a connection?
//!
//! A [`Chain`] is a configuration, compiled: classifiers and functions in order. [`Chain::decide`] walks a connection's first
//! packet through them, each seeing what those before it have rewritten, and says in one [`ChainOutcome`] what holds for all
//! packets to come. It keeps nothing: bindings come in through the [`Context`], queues and counters are the caller's, by the
//! hops' ids, and so survive the chain.
//!
//! # Invariants
//! - Hops are visited in order, up to the one that drops.
//! - The outcome follows from the packet's marked bits, the context and the configuration alone.

use std::{collections::BTreeMap, fmt, net::IpAddr, ops::AddAssign, sync::Arc};

use hostconfig::Graph;
use net::{DropReason, Id, Probe, ids::kind};
use smallvec::SmallVec;

use crate::{
    catalog::{self, FunctionFault, Kind},
    classifier::{Classifier, Party, Place},
    fields::FieldsFault,
    function::{Binding, Context, Decision, NetworkFunction, Shown, Spend},
    functions::Appliance,
    inspect::Inspector,
};

/// The most functions of one chain.
pub const MAX_HOPS: usize = 32;
/// The most inspectors of one chain: a connection's record has room for what two said.
pub const MAX_INSPECTORS: usize = 2;
/// The most classifiers of one chain.
pub const MAX_CLASSIFIERS: usize = 4_096;

/// Why a chain can't be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ChainFault {
    /// A function can't be built.
    #[error("function {id} ({name}) can't be built")]
    Function {
        /// Which.
        id: Id<kind::Function>,
        /// Its name.
        name: String,
        /// Why.
        #[source]
        fault: FunctionFault,
    },
    /// A classifier contradicts itself.
    #[error("classifier {id} ({name}) can't match")]
    Classifier {
        /// Which.
        id: Id<kind::FlowClassifier>,
        /// Its name.
        name: String,
        /// Why.
        #[source]
        fault: FieldsFault,
    },
    /// There are too many functions.
    #[error("too many functions (0..={MAX_HOPS}): {0}")]
    TooManyHops(usize),
    /// There are too many classifiers.
    #[error("too many classifiers (0..={MAX_CLASSIFIERS}): {0}")]
    TooManyClassifiers(usize),
    /// Replies that pass no hop could not be translated back by what stands before an appliance.
    #[error("function {0} translates before an appliance, and replies do not pass the chain")]
    Untranslatable(Id<kind::Function>),
    /// There are too many functions of a kind.
    #[error("too many functions of kind {kind} (0..={most}): {count}")]
    TooManyOf {
        /// Which.
        kind: &'static str,
        /// How many there may be.
        most: usize,
        /// How many there are.
        count: usize,
    },
    /// A function stands twice: its queue and counters would be one.
    #[error("function stands twice: {0}")]
    Twice(Id<kind::Function>),
}

/// One function of a chain.
#[derive(Debug)]
pub struct Hop {
    id: Id<kind::Function>,
    name: String,
    kind: &'static Kind,
    function: Box<dyn NetworkFunction>,
    shaper: Option<hostconfig::Shaper>,
    appliance: Option<Appliance>,
    ports: Vec<Id<kind::Port>>,
    places: BTreeMap<Id<kind::Port>, hostconfig::chain::Place>,
}

impl Hop {
    /// Its id in the API: the key of its counters and its queue.
    pub fn id(&self) -> Id<kind::Function> {
        self.id
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its kind, as the configuration calls it.
    pub fn kind(&self) -> &'static str {
        self.kind.name
    }

    /// The policy of its queue, if packets wait at it.
    pub fn shaper(&self) -> Option<&hostconfig::Shaper> {
        self.shaper.as_ref()
    }

    /// The ports that its settings name, if it is a plain one.
    pub fn ports(&self) -> &[Id<kind::Port>] {
        &self.ports
    }

    /// Where those of them are that others reach.
    pub fn places(&self) -> &BTreeMap<Id<kind::Port>, hostconfig::chain::Place> {
        &self.places
    }

    /// Who reads bytes, if it is an inspector.
    pub fn inspector(&self) -> Option<&Arc<Inspector>> {
        self.function.inspector()
    }

    /// The instances to which packets are handed over, if it is an appliance.
    pub fn appliance(&self) -> Option<&Appliance> {
        self.appliance.as_ref()
    }
}

/// A compiled chain.
#[derive(Debug)]
pub struct Chain {
    id: Id<kind::PortChain>,
    name: String,
    project: Id<kind::Project>,
    symmetric: bool,
    classifiers: Vec<Classifier>,
    hops: Vec<Hop>,
    graph: Graph,
}

/// Why and where a connection ends in a chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ChainDrop {
    /// The index of the hop that said so.
    pub hop: u8,
    /// Why.
    pub reason: DropReason,
    /// The rule that said so.
    pub rule: Option<Id<kind::Rule>>,
}

/// What a chain says of a connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChainOutcome {
    /// How many hops its packets reach: all, or up to and with the one that drops.
    pub reached: u8,
    /// Where it ends, if it does.
    pub drop: Option<ChainDrop>,
    /// Its addresses behind the chain, if they were translated: what the record's reply side is made from.
    pub binding: Option<Binding>,
    /// The member that was chosen: the destination became another.
    pub member: Option<Id<kind::Port>>,
    /// Is that member the client itself? Then its packets come from the virtual address.
    pub hairpin: bool,
    /// The port of the API that holds the address of a NAT which the source became.
    pub source: Option<Id<kind::Port>>,
    /// To whom it was forwarded by a NAT: its source is its own there.
    pub forwarded: Option<Id<kind::Port>>,
    /// The indices of the hops at which its packets wait, in the forward direction. Replies wait at them too, last to first,
    /// if the chain is symmetric.
    pub queues: SmallVec<[u8; 4]>,
    /// Which ports are shown its packets, with the indices of the hops that say so.
    pub copies: SmallVec<[(u8, Shown); 2]>,
    /// The indices of the hops whose inspectors read its packets.
    pub inspects: SmallVec<[u8; 2]>,
    /// The tokens that it takes when it begins, with the indices of the hops that ask for them.
    pub spends: SmallVec<[(u8, Spend); 2]>,
    /// The index of the hop at which its packets leave the chain, to go on behind that one when they come back.
    pub handed: Option<u8>,
}

impl ChainOutcome {
    /// Does the connection pass?
    pub fn passes(&self) -> bool {
        self.drop.is_none()
    }
}

impl Chain {
    /// Compiles a chain.
    ///
    /// # Errors
    /// When a part of it contradicts itself, or there are too many.
    pub fn build(config: &hostconfig::Chain) -> Result<Self, ChainFault> {
        if config.functions.len() > MAX_HOPS {
            return Err(ChainFault::TooManyHops(config.functions.len()));
        }
        if config.classifiers.len() > MAX_CLASSIFIERS {
            return Err(ChainFault::TooManyClassifiers(config.classifiers.len()));
        }
        let classifier = |c: &hostconfig::Classifier| {
            Classifier::new(c).map_err(|fault| ChainFault::Classifier {
                id: c.id,
                name: c.name.clone(),
                fault,
            })
        };
        let mut hops: Vec<Hop> = Vec::with_capacity(config.functions.len());
        for f in &config.functions {
            if hops.iter().any(|h| h.id == f.id) {
                return Err(ChainFault::Twice(f.id));
            }
            hops.push(hop(f)?);
        }
        for Hop { kind, .. } in &hops {
            let (kind, most) = (kind.name, kind.most());
            let count = hops.iter().filter(|h| h.kind.name == kind).count();
            if count > most {
                return Err(ChainFault::TooManyOf { kind, most, count });
            }
        }
        if !config.symmetric
            && let Some(last) = hops.iter().rposition(|h| h.appliance.is_some())
            && let Some(f) = config.functions.iter().take(last).find(|f| translates(f))
        {
            return Err(ChainFault::Untranslatable(f.id));
        }
        Ok(Self {
            id: config.id,
            name: config.name.clone(),
            project: config.project,
            symmetric: config.symmetric,
            classifiers: config
                .classifiers
                .iter()
                .map(classifier)
                .collect::<Result<_, _>>()?,
            hops,
            graph: config.graph.clone(),
        })
    }

    /// Its id in the API.
    pub fn id(&self) -> Id<kind::PortChain> {
        self.id
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Whose it is.
    pub fn project(&self) -> Id<kind::Project> {
        self.project
    }

    /// Do replies count on its hops, and wait in its queues?
    pub fn symmetric(&self) -> bool {
        self.symmetric
    }

    /// What leads into it.
    pub fn classifiers(&self) -> &[Classifier] {
        &self.classifiers
    }

    /// Its functions, first to last.
    pub fn hops(&self) -> &[Hop] {
        &self.hops
    }

    /// Its place in a service graph.
    pub fn graph(&self) -> &Graph {
        &self.graph
    }

    /// The first classifier whose header fields match what a chain before this one made of a connection's first packet. The ends that it names are not
    /// asked: they led into the chain before.
    pub fn follows(&self, first: &mut Probe) -> Option<&Classifier> {
        self.classifiers.iter().find(|c| c.matches_fields(first))
    }

    /// The first classifier of that place that leads the connection into the chain which this packet begins.
    pub fn classify(
        &self,
        place: Place,
        first: &mut Probe,
        source: Option<&Party>,
        destination: Option<&Party>,
    ) -> Option<&Classifier> {
        let mut here = self.classifiers.iter().filter(|c| c.place() == place);
        here.find(|c| c.matches(first, source, destination))
    }

    /// Walks the first packet of a connection through the functions, from its first. `first` shows afterwards what the packet looks like
    /// behind the chain. `note` takes each function's words for `explain`.
    pub fn decide(
        &self,
        first: &mut Probe,
        cx: &Context<'_>,
        note: &mut dyn FnMut(&Hop, fmt::Arguments<'_>),
    ) -> ChainOutcome {
        self.decide_from(0, first, cx, note)
    }

    /// The same from the function at this index.
    pub fn decide_from(
        &self,
        from: u8,
        first: &mut Probe,
        cx: &Context<'_>,
        note: &mut dyn FnMut(&Hop, fmt::Arguments<'_>),
    ) -> ChainOutcome {
        let mut outcome = ChainOutcome {
            reached: from,
            drop: None,
            binding: None,
            member: None,
            hairpin: false,
            source: None,
            forwarded: None,
            queues: SmallVec::new(),
            copies: SmallVec::new(),
            inspects: SmallVec::new(),
            spends: SmallVec::new(),
            handed: None,
        };
        for (at, hop) in (0u8..).zip(&self.hops).skip(usize::from(from)) {
            outcome.reached = at + 1;
            match hop
                .function
                .decide(first, cx, &mut |words| note(hop, words))
            {
                Decision::Pass => {}
                Decision::Drop { reason, rule } => {
                    outcome.drop = Some(ChainDrop {
                        hop: at,
                        reason,
                        rule,
                    });
                    break;
                }
                Decision::Dnat {
                    to,
                    member,
                    snat,
                    port,
                } => {
                    outcome.binding = Some(redirect(first, to, (snat, port)));
                    outcome.member = Some(member);
                    outcome.forwarded = port.map(|_| member);
                    outcome.hairpin |= snat.is_some();
                }
                Decision::Snat { to, address } => {
                    outcome.binding = Some(hide(first, to));
                    outcome.source = Some(address);
                }
                Decision::Copy(shown) => outcome.copies.push((at, shown)),
                Decision::Spend(spend) => outcome.spends.push((at, spend)),
                Decision::Inspect => outcome.inspects.push(at),
                Decision::Queue => outcome.queues.push(at),
                Decision::HandOver => {
                    outcome.handed = Some(at);
                    break;
                }
            }
        }
        outcome
    }
}

fn hop(config: &hostconfig::Function) -> Result<Hop, ChainFault> {
    let (kind, function) = catalog::build(&config.kind).map_err(|fault| ChainFault::Function {
        id: config.id,
        name: config.name.clone(),
        fault,
    })?;
    let shaper = if let hostconfig::FunctionKind::Shaper(s) = &config.kind {
        Some(s.clone())
    } else {
        None
    };
    let appliance = if let hostconfig::FunctionKind::Appliance(a) = &config.kind {
        Appliance::new(a).ok()
    } else {
        None
    };
    let places = if let hostconfig::FunctionKind::Plain(plain) = &config.kind {
        plain.places.clone()
    } else {
        BTreeMap::new()
    };
    Ok(Hop {
        id: config.id,
        name: config.name.clone(),
        kind,
        function,
        shaper,
        appliance,
        ports: catalog::ports(&config.kind),
        places,
    })
}

fn translates(config: &hostconfig::Function) -> bool {
    match config.kind {
        hostconfig::FunctionKind::LoadBalancer(_) | hostconfig::FunctionKind::Nat(_) => true,
        hostconfig::FunctionKind::Firewall(_)
        | hostconfig::FunctionKind::Shaper(_)
        | hostconfig::FunctionKind::Appliance(_)
        | hostconfig::FunctionKind::Plain(_) => false,
    }
}

/// Shows the functions behind what the packet will look like; a translated connection is known by its whole tuple, so what
/// the binding says is read.
fn redirect(
    first: &mut Probe,
    to: (IpAddr, u16),
    (addr, port): (Option<IpAddr>, Option<u16>),
) -> Binding {
    let own = source(first);
    let src = (addr.unwrap_or(own.0), port.unwrap_or(own.1));
    if src != own {
        first.set_src(src.0, src.1);
    }
    first.set_dst(to.0, to.1);
    Binding { dst: to, src }
}

/// The same where the source becomes another.
fn hide(first: &mut Probe, to: (IpAddr, u16)) -> Binding {
    first.set_src(to.0, to.1);
    let dst = first.five_tuple();
    let dst = dst.map_or((first.ip_dst(), 0), |t| (t.dst_addr(), t.dst_port));
    Binding { dst, src: to }
}

fn source(first: &mut Probe) -> (IpAddr, u16) {
    let tuple = first.five_tuple();
    tuple.map_or((first.ip_src(), 0), |t| (t.src_addr(), t.src_port))
}

/// What passed a hop, or ended at it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct HopCounters {
    /// Segments that reached it.
    pub packets: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Segments that it dropped.
    pub drops: u64,
    /// Of the segments, those of replies.
    pub reply_packets: u64,
    /// Of the bytes, those of replies.
    pub reply_bytes: u64,
    /// Patterns that an inspector met and only counted.
    pub alerts: u64,
    /// Connections that began through it.
    pub connections: u64,
    /// Connections through it that were there when the table was last looked through.
    pub active: u64,
}

impl HopCounters {
    /// Counts what reached it.
    pub fn count(&mut self, segments: u32, bytes: u64) {
        self.packets += u64::from(segments);
        self.bytes += bytes;
    }

    /// Counts replies that reached it.
    pub fn count_replies(&mut self, segments: u32, bytes: u64) {
        self.count(segments, bytes);
        self.reply_packets += u64::from(segments);
        self.reply_bytes += bytes;
    }

    /// Counts what it dropped, of what reached it.
    pub fn count_drop(&mut self, segments: u32) {
        self.drops += u64::from(segments);
    }
}

impl AddAssign for HopCounters {
    fn add_assign(&mut self, other: Self) {
        self.packets += other.packets;
        self.bytes += other.bytes;
        self.drops += other.drops;
        self.reply_packets += other.reply_packets;
        self.reply_bytes += other.reply_bytes;
        self.connections += other.connections;
        self.alerts += other.alerts;
        self.active += other.active;
    }
}

#[cfg(test)]
mod tests {
    use hostconfig::{
        Function, FunctionKind,
        chain::{Action, Algorithm, FirewallRule, Member, Side},
    };
    use net::{FlowKey, PortRange, flow_key::addr_bytes};

    use super::*;

    fn id<K>(n: u128) -> Id<K> {
        format!("{n:032x}").parse().unwrap()
    }

    const VIP: [u8; 4] = [10, 0, 0, 100];
    const MEMBER: [u8; 4] = [10, 0, 1, 1];

    fn firewall(n: u128, deny: Option<[u8; 4]>) -> Function {
        let rule = |a: [u8; 4]| FirewallRule {
            id: id(n),
            action: Action::Deny,
            family: None,
            protocol: None,
            source: None,
            destination: Some(net::Prefix::host(a.into())),
            source_ports: None,
            destination_ports: None,
        };
        let rules = deny.map(rule).into_iter().collect();
        Function {
            id: id(n),
            name: format!("fw{n}"),
            kind: FunctionKind::Firewall(hostconfig::Firewall {
                rules,
                default: Action::Allow,
            }),
        }
    }

    fn load_balancer(n: u128) -> Function {
        let kind = FunctionKind::LoadBalancer(hostconfig::LoadBalancer {
            vip: VIP.into(),
            vip_port: id(50),
            network: id(51),
            mac: net::UnicastMac::try_from(net::testkit::mac(1)).unwrap(),
            protocol: 6,
            port: 80,
            algorithm: Algorithm::Maglev,
            members: vec![Member {
                id: id(60),
                addr: MEMBER.into(),
                port: 8080,
                weight: 1,
            }],
            monitor: None,
        });
        Function {
            id: id(n),
            name: "lb".into(),
            kind,
        }
    }

    fn shaper(n: u128) -> Function {
        let kind = FunctionKind::Shaper(hostconfig::Shaper {
            rate_bps: 1_000_000,
            burst_bytes: 3_000,
            queue_bytes: 30_000,
            queue: hostconfig::Discipline::Fifo,
            share: None,
            classes: Vec::new(),
        });
        Function {
            id: id(n),
            name: "slow".into(),
            kind,
        }
    }

    fn config(functions: Vec<Function>) -> hostconfig::Chain {
        hostconfig::Chain {
            id: id(1),
            name: "edge".into(),
            project: id(2),
            path: 1,
            symmetric: true,
            graph: hostconfig::Graph::default(),
            classifiers: vec![hostconfig::Classifier {
                id: id(3),
                name: "all".into(),
                source: Some(Side::Network(id(51))),
                destination: None,
                family: None,
                protocol: None,
                source_ports: None,
                destination_ports: None,
                source_prefix: None,
                destination_prefix: None,
            }],
            functions,
        }
    }

    fn key(src: [u8; 4]) -> FlowKey {
        FlowKey {
            ethertype: 0x0800,
            ip_proto: 6,
            ip_src: addr_bytes(src.into()),
            ip_dst: addr_bytes(VIP.into()),
            l4_src: 40_000,
            l4_dst: 80,
            ..FlowKey::default()
        }
    }

    fn decide(functions: Vec<Function>, src: [u8; 4]) -> (ChainOutcome, Vec<String>) {
        let chain = Chain::build(&config(functions)).unwrap();
        let cx = Context {
            seed: 5,
            ..Context::default()
        };
        let mut words = vec![];
        let outcome = chain.decide(&mut Probe::new(&key(src)), &cx, &mut |hop, text| {
            words.push(format!("{} {}: {text}", hop.kind(), hop.name()));
        });
        (outcome, words)
    }

    #[test]
    fn functions_before_the_load_balancer_see_the_virtual_address_those_behind_it_the_member() {
        let client = [10, 0, 0, 7];
        let (outcome, _) = decide(vec![firewall(11, Some(VIP)), load_balancer(12)], client);
        let drop = ChainDrop {
            hop: 0,
            reason: DropReason::FirewallDenied,
            rule: Some(id(11)),
        };
        assert_eq!(
            (outcome.reached, outcome.drop, outcome.binding),
            (1, Some(drop), None)
        );
        let (outcome, _) = decide(vec![load_balancer(12), firewall(11, Some(VIP))], client);
        assert!(outcome.passes());
        let (outcome, _) = decide(vec![load_balancer(12), firewall(11, Some(MEMBER))], client);
        assert_eq!(outcome.drop.map(|d| d.hop), Some(1));
    }

    #[test]
    fn one_outcome_holds_all_decisions() {
        let functions = vec![
            firewall(11, None),
            shaper(13),
            load_balancer(12),
            shaper(14),
        ];
        let (outcome, words) = decide(functions, [10, 0, 0, 7]);
        let binding = Binding {
            dst: (MEMBER.into(), 8080),
            src: ([10, 0, 0, 7].into(), 40_000),
        };
        assert_eq!(outcome.binding, Some(binding));
        assert_eq!(
            (outcome.reached, outcome.member, outcome.queues.as_slice()),
            (4, Some(id(60)), &[1, 3][..])
        );
        assert_eq!(
            words,
            [
                "firewall fw11: no rule, default allow",
                "shaper slow: 1000000 bit/s, queue of 30000 bytes",
                "load_balancer lb: chosen member 00000000-0000-0000-0000-00000000003c at 10.0.1.1:8080",
                "shaper slow: 1000000 bit/s, queue of 30000 bytes",
            ]
        );
    }

    #[test]
    fn a_hairpin_changes_both_ends() {
        let (outcome, _) = decide(vec![load_balancer(12)], MEMBER);
        let binding = Binding {
            dst: (MEMBER.into(), 8080),
            src: (VIP.into(), 40_000),
        };
        assert_eq!(outcome.binding, Some(binding));
    }

    #[test]
    fn rewritten_fields_are_shown_but_not_marked() {
        let chain = Chain::build(&config(vec![
            load_balancer(12),
            firewall(11, Some([10, 9, 9, 9])),
        ]))
        .unwrap();
        let cx = Context {
            seed: 5,
            ..Context::default()
        };
        let mut probe = Probe::new(&key([10, 0, 0, 7]));
        chain.decide(&mut probe, &cx, &mut |_, _| {});
        assert_eq!(probe.ip_dst(), IpAddr::from(MEMBER));
        assert_eq!(
            probe.mask().fields().ip_dst,
            [0xff; 16],
            "the load balancer read the address that was sent"
        );
    }

    #[test]
    fn classifiers_lead_in_at_their_place() {
        let chain = Chain::build(&config(vec![])).unwrap();
        let here = Party {
            port: None,
            network: id(51),
            project: None,
        };
        let mut probe = Probe::new(&key([10, 0, 0, 7]));
        assert!(
            chain
                .classify(Place::Source, &mut probe, Some(&here), None)
                .is_some()
        );
        assert!(
            chain
                .classify(Place::Destination, &mut probe, Some(&here), None)
                .is_none()
        );
        assert!(
            chain
                .classify(Place::Source, &mut probe, None, Some(&here))
                .is_none()
        );
    }

    #[test]
    fn faults_name_their_part() {
        let mut bad = shaper(13);
        bad.kind = FunctionKind::Shaper(hostconfig::Shaper {
            rate_bps: 0,
            burst_bytes: 1,
            queue_bytes: 1,
            queue: hostconfig::Discipline::Fifo,
            share: None,
            classes: Vec::new(),
        });
        let fault = Chain::build(&config(vec![bad])).unwrap_err();
        assert!(
            matches!(&fault, ChainFault::Function { id: f, .. } if *f == id(13)),
            "{fault}"
        );
        let twice = Chain::build(&config(vec![shaper(13), shaper(13)])).unwrap_err();
        assert_eq!(twice, ChainFault::Twice(id(13)));
        let many = (0..33).map(|n| shaper(n + 100)).collect();
        assert_eq!(
            Chain::build(&config(many)).unwrap_err(),
            ChainFault::TooManyHops(33)
        );
        let inspector = |n| {
            let settings = serde_json::json!({"protocol": "tls"});
            let name = "inspector".to_owned();
            Function {
                id: id(n),
                name: name.clone(),
                kind: FunctionKind::Plain(hostconfig::Plain {
                    name,
                    settings,
                    places: BTreeMap::new(),
                }),
            }
        };
        assert!(Chain::build(&config([13, 14].map(inspector).to_vec())).is_ok());
        let fault = Chain::build(&config([13, 14, 15].map(inspector).to_vec())).unwrap_err();
        let said = "too many functions of kind inspector (0..=2): 3";
        assert_eq!(fault.to_string(), said);
        let mut c = config(vec![]);
        c.classifiers[0].protocol = Some(1);
        c.classifiers[0].destination_ports = Some(PortRange::one(5));
        assert!(matches!(
            Chain::build(&c).unwrap_err(),
            ChainFault::Classifier { .. }
        ));
    }

    fn any_key() -> impl proptest::strategy::Strategy<Value = FlowKey> {
        use proptest::prelude::*;
        let addr = || {
            prop_oneof![
                Just(VIP),
                Just(MEMBER),
                Just([10, 0, 0, 7]),
                Just([10, 9, 9, 9])
            ]
        };
        let port = || prop_oneof![Just(80u16), Just(8080), Just(40_000)];
        let protocol = prop_oneof![Just(6u8), Just(17), Just(1)];
        (addr(), addr(), port(), port(), protocol).prop_map(
            |(src, dst, l4_src, l4_dst, ip_proto)| {
                let ip_dst = addr_bytes(dst.into());
                FlowKey {
                    ip_dst,
                    l4_src,
                    l4_dst,
                    ip_proto,
                    ..key(src)
                }
            },
        )
    }

    proptest::proptest! {
        #[test]
        fn every_key_that_is_equal_under_the_mask_has_the_same_outcome(
            k in any_key(),
            others in proptest::collection::vec(any_key(), 20),
            deny in proptest::option::of(proptest::prop_oneof![
                proptest::strategy::Just(VIP), proptest::strategy::Just(MEMBER)
            ]),
            before in proptest::bool::ANY,
        ) {
            use zerocopy::IntoBytes;
            let mut functions = vec![load_balancer(12), shaper(13)];
            functions.insert(if before { 0 } else { 2 }, firewall(11, deny));
            let chain = Chain::build(&config(functions)).unwrap();
            let cx = Context { seed: 5, ..Context::default() };
            let decide = |k: &FlowKey| {
                let mut probe = Probe::new(k);
                let outcome = chain.decide(&mut probe, &cx, &mut |_, _| {});
                (outcome, probe.mask())
            };
            let (outcome, mask) = decide(&k);
            for other in others {
                let (mut mixed, outside) = (mask.apply(&k), mask.apply(&other));
                let rest = other.as_bytes().iter().zip(outside.as_bytes());
                for (m, (o, x)) in mixed.as_mut_bytes().iter_mut().zip(rest) {
                    *m |= o ^ x;
                }
                proptest::prop_assert_eq!(&decide(&mixed).0, &outcome, "{:?} and {:?}", k, mixed);
            }
        }
    }
}
