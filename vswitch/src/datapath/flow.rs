//! What was decided for a flow?
//!
//! A [`CompiledFlow`] is the one answer of a walk: what it read (mask and dependencies), what is to be done (actions as plain
//! data), which hops count, and how it ends. The caches hold it, `execute` applies it, `flows` prints it, `explain` shows it.
//! What belongs to one connection (its state, its translation) is in its record, so many flows share one program.
//!
//! # Invariants
//! - A [`ProgramId`] names one program for ever: a place that is used again has a new id, and the old one finds nothing. So
//!   nobody counts references; whoever finds nothing walks again.
//! - `len() <= capacity`; at the limit the programs that were not used lately go (clock).

use std::{collections::VecDeque, fmt, hash::BuildHasher, net::Ipv4Addr, time::Duration};

use hashbrown::HashTable;
use hostconfig::group::Direction;
use net::{
    Consumed, DropReason, FlowMask, Id, Label, Mac, NetworkId, Now, Origin, PortId, RouterId,
    VtepId, Zone, ids::kind,
};
use nfv::conntrack::Side;
use overlay::Nsh;
use smallvec::SmallVec;

use super::{
    gate::Gate,
    tables::{Dependency, HopId, MeterId, SectionIndex, Tables},
};

/// Which room judged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Stage {
    /// Reading from a device or the underlay.
    Io,
    /// Parsing, fragments, admission.
    Ingress,
    /// Anti-spoofing.
    PortSecurity,
    /// ARP, ND, DHCP, ping: what the switch answers.
    Service,
    /// Security groups.
    SecurityGroup,
    /// Firewall groups of ports and routers' interfaces.
    Firewall,
    /// Chains.
    Chain,
    /// Forwarding by MAC address.
    L2,
    /// Routers.
    L3,
    /// Limits and marks of a port's QoS policy.
    Qos,
    /// The tunnel.
    Tunnel,
    /// The connection table.
    Conntrack,
    /// The way out.
    Egress,
}

impl Stage {
    /// Every stage, in walking order.
    pub const ALL: &'static [Self] = &[
        Self::Io,
        Self::Ingress,
        Self::PortSecurity,
        Self::Service,
        Self::SecurityGroup,
        Self::Firewall,
        Self::Chain,
        Self::L2,
        Self::L3,
        Self::Qos,
        Self::Tunnel,
        Self::Conntrack,
        Self::Egress,
    ];

    /// The name in metrics and dumps.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Io => "io",
            Self::Ingress => "ingress",
            Self::PortSecurity => "port_security",
            Self::Service => "service",
            Self::SecurityGroup => "security_group",
            Self::Firewall => "firewall",
            Self::Chain => "chain",
            Self::L2 => "l2",
            Self::L3 => "l3",
            Self::Qos => "qos",
            Self::Tunnel => "tunnel",
            Self::Conntrack => "conntrack",
            Self::Egress => "egress",
        }
    }
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A drop with its name: why, where, by which rule, for which port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Refusal {
    /// Why.
    pub reason: DropReason,
    /// Where.
    pub stage: Stage,
    /// The API's rule that said so, where one did. A security group refuses by having none.
    pub rule: Option<Id<kind::Rule>>,
    /// The local port that it concerns: the sender in the source half, the receiver in the destination half.
    pub port: Option<PortId>,
    /// The function that dropped it.
    pub hop: Option<HopId>,
}

impl Refusal {
    /// One without rule, port and hop.
    pub const fn new(reason: DropReason, stage: Stage) -> Self {
        Self {
            reason,
            stage,
            rule: None,
            port: None,
            hop: None,
        }
    }

    /// The same, about this port.
    #[must_use]
    pub const fn at(self, port: PortId) -> Self {
        Self {
            port: Some(port),
            ..self
        }
    }
}

/// How a flow ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Verdict {
    /// Its packets go where the actions say.
    Deliver,
    /// The switch itself is meant.
    Consume(Consumed),
    /// Its packets are dropped.
    Drop(Refusal),
}

impl Verdict {
    /// Does a firewall reject it, so that its sender hears?
    pub fn rejects(&self) -> bool {
        matches!(self, Self::Drop(refusal) if refusal.reason == DropReason::FirewallRejected)
    }
}

/// A queue in which packets wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Lane {
    /// A shaper's: it has one for each direction of its connections, so that what a client fetches does not wait for its own
    /// acknowledgements.
    Function {
        /// The shaper.
        hop: HopId,
        /// The direction.
        side: Side,
    },
    /// That of a limit which a QoS policy sets a port.
    Port {
        /// The port.
        port: PortId,
        /// What its workload sends, or what it gets.
        direction: Direction,
    },
    /// That of a limit which a QoS policy sets what passes by a floating IP, or by a router's gateway.
    Outside {
        /// The number that the port of the API has here which holds the address.
        port: PortId,
        /// What leaves the fabric by it, or what comes in.
        direction: Direction,
    },
}

impl Lane {
    /// The port that its packets only wait to be sent to.
    pub const fn receiver(self) -> Option<PortId> {
        match self {
            Self::Port {
                port,
                direction: Direction::Ingress,
            } => Some(port),
            Self::Port { .. } | Self::Function { .. } | Self::Outside { .. } => None,
        }
    }

    /// As a number, for a packet that goes to wait at another worker.
    pub const fn number(self) -> u32 {
        match self {
            Self::Function { hop, side } => hop.0 << 3 | side as u32,
            Self::Port { port, direction } => port.0 << 3 | 2 | direction as u32,
            Self::Outside { port, direction } => port.0 << 3 | 4 | direction as u32,
        }
    }

    /// From the number of [`Lane::number`].
    pub const fn from_number(number: u32) -> Self {
        let id = number >> 3;
        match number & 7 {
            0 => Self::Function {
                hop: HopId(id),
                side: Side::Original,
            },
            1 => Self::Function {
                hop: HopId(id),
                side: Side::Reply,
            },
            2 => Self::Port {
                port: PortId(id),
                direction: Direction::Ingress,
            },
            3 => Self::Port {
                port: PortId(id),
                direction: Direction::Egress,
            },
            4 => Self::Outside {
                port: PortId(id),
                direction: Direction::Ingress,
            },
            _ => Self::Outside {
                port: PortId(id),
                direction: Direction::Egress,
            },
        }
    }
}

/// A router that a packet comes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct RouterHop {
    /// Which one.
    pub router: RouterId,
    /// The place of the interface that it comes to among the router's. In that one's name its sender hears of what becomes of it there.
    pub interface: u16,
    /// The network that it goes on in; `None`: there the router knows no way.
    pub to: Option<NetworkId>,
}

impl RouterHop {
    /// It comes to a floating IP: in its own destination's name its sender hears.
    pub const ITSELF: u16 = u16::MAX;
}

/// One thing to do with a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Action {
    /// Addresses and ports become those of the record's other side, reversed.
    Translate,
    /// Ethernet addresses become these.
    SetEth {
        /// The new source.
        src: Option<Mac>,
        /// The new destination.
        dst: Option<Mac>,
    },
    /// A router takes one off its TTL, and refuses what is too large for the network that it goes on in.
    Route(RouterHop),
    /// Its DSCP becomes this.
    SetDscp(u8),
    /// It goes out under this label.
    Label(Label),
    /// A local port is shown a copy of it. Before all rewrites.
    Copy {
        /// Which port.
        to: PortId,
        /// Is it shown what this program is for?
        now: bool,
        /// And is it shown the connection's replies?
        replies: bool,
    },
    /// Its bytes were read by this inspector, or need not be any more. Before all rewrites.
    Inspect {
        /// Where in its chain.
        hop: HopId,
        /// What it looks for, in short.
        digest: u32,
    },
    /// It waits in this queue, then goes on behind this action.
    Queue(Lane),
    /// It goes to a local port. Where what that one gets is limited, it waits there for its turn.
    Output(PortId),
    /// It goes to a VTEP.
    Tunnel {
        /// The network that it is on.
        network: NetworkId,
        /// The VTEP.
        vtep: VtepId,
    },
    /// It goes to the host of an appliance, or back from there.
    Carry {
        /// The VTEP.
        vtep: VtepId,
        /// What it is told.
        nsh: Nsh,
        /// Does it go back to its home?
        back: bool,
    },
    /// It goes out of the wire of this network.
    Wire(NetworkId),
    /// A copy for this receiver would go, but is refused.
    Refuse(Refusal),
    /// The switch answers the ARP request in the name of this address.
    AnswerArp(Mac),
    /// The switch answers the Neighbor Solicitation.
    AnswerNd {
        /// In the name of this address.
        mac: Mac,
        /// Is it a router's?
        router: bool,
    },
    /// The switch answers the Router Solicitation in the name of each router that speaks on this network.
    AnswerRs(NetworkId),
    /// It ends here: it was for this switch alone, and was heard.
    Hear,
    /// The switch answers the ping.
    AnswerPing,
    /// The switch answers the DHCPv4 client at this address, from this subnet of its network.
    AnswerDhcp {
        /// The network.
        network: NetworkId,
        /// The subnet's place among the network's.
        subnet: u8,
        /// The client's address.
        addr: Ipv4Addr,
    },
    /// The switch answers the DHCPv6 client, of this network.
    AnswerDhcp6(NetworkId),
    /// The switch answers the question for a name on this network; what that does not know it refuses.
    AnswerNames(NetworkId),
    /// The switch answers the question if this network knows the name; else it goes on behind this action. First of all actions.
    Resolve(NetworkId),
    /// It is handed to the metadata service.
    Metadata,
    /// It answers what the service asked in the name of this port, which has sent nothing itself.
    HandBack(PortId),
}

/// Where packets go on that come back from an appliance.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Half {
    /// In the sender's network.
    Source,
    /// At this local receiver.
    Destination(PortId),
    /// At this virtual address.
    Virtual(Id<kind::Port>),
}

/// A chain's packets are handed over to an appliance, and this is their place in the chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Handed {
    /// The chain's section.
    pub chain: SectionIndex,
    /// The index of the hop.
    pub at: u8,
    /// Where they go in; replies come out there.
    pub ingress: PortId,
    /// Where they come out; replies go in there.
    pub egress: PortId,
    /// The network that they go on in.
    pub network: NetworkId,
    /// Where in it.
    pub half: Half,
    /// Whom the connection counts for.
    pub owner: PortId,
    /// The scope in which replies from elsewhere come.
    pub back: Zone,
    /// Do replies pass the appliance?
    pub symmetric: bool,
    /// Under which label they go in and come out, both ways; `None`: bare.
    pub label: Option<Label>,
}

impl Handed {
    /// The path of the label under which packets come out, else 0.
    pub fn path(&self) -> u16 {
        self.label.map_or(0, Label::path)
    }
}

/// The answer of one walk: an immutable program that many flows share.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct CompiledFlow {
    /// Where its packets enter.
    pub origin: Origin,
    /// What was read of the packet.
    pub mask: FlowMask,
    /// What to do, in order.
    pub actions: SmallVec<[Action; 4]>,
    /// The functions that it passes, first to last as its packets meet them.
    pub hops: SmallVec<[HopId; 4]>,
    /// What its packets are counted under at routers' gateways, once each.
    pub meters: SmallVec<[MeterId; 2]>,
    /// What was read of the tables.
    pub depends: SmallVec<[Dependency; 6]>,
    /// How it ends.
    pub verdict: Verdict,
    /// Does a record of the connection belong to it?
    pub tracked: bool,
    /// Are its packets replies, which pass its functions last to first?
    pub replies: bool,
    /// The appliance to which its packets go, if they do.
    pub handed: Option<Handed>,
    /// The path of the label under which its packets came, else 0.
    pub path: u16,
}

impl CompiledFlow {
    /// Has nothing changed that its walk read?
    pub fn is_current(&self, tables: &Tables) -> bool {
        self.depends.iter().all(|d| tables.is_current(*d))
    }

    /// Adds a dependency, once.
    pub fn depend(&mut self, on: Dependency) {
        if !self.depends.contains(&on) {
            self.depends.push(on);
        }
    }

    /// Its packets are dropped. The routers up to there stay: what can't pass them ends at them, and they tell its sender. And the hops up to
    /// the one that refuses it have seen it.
    pub fn refuse(&mut self, refusal: Refusal) {
        let is_router = |action: &mut Action| matches!(action, Action::Route(_));
        self.actions.retain(is_router);
        self.verdict = Verdict::Drop(refusal);
        self.handed = None;
        self.meters.clear();
        let at = |hop| self.hops.iter().position(|h| *h == hop);
        if let Some(at) = refusal.hop.and_then(at) {
            self.hops.truncate(at + 1);
        }
    }

    /// Does it translate?
    pub fn translates(&self) -> bool {
        self.actions.iter().any(|a| matches!(a, Action::Translate))
    }

    /// The routers that its packets come to, in order.
    pub fn routers(&self) -> impl Iterator<Item = RouterHop> + '_ {
        self.actions.iter().filter_map(|action| {
            if let Action::Route(hop) = action {
                Some(*hop)
            } else {
                None
            }
        })
    }

    /// How many routers forward its packets: as much is taken off their TTL.
    pub fn forwards(&self) -> u8 {
        let forwards = self.routers().filter(|hop| hop.to.is_some()).count();
        u8::try_from(forwards).unwrap_or(u8::MAX)
    }

    /// The router at which the TTL or hop limit of such a packet is used up.
    pub fn expires_at(&self, ttl: u8) -> Option<RouterHop> {
        let mut forwards = self.routers().filter(|hop| hop.to.is_some());
        forwards.nth(usize::from(ttl.max(1)) - 1)
    }

    /// How many receivers its packets have.
    pub fn receivers(&self) -> usize {
        self.actions
            .iter()
            .filter(|a| {
                matches!(
                    a,
                    Action::Output(_)
                        | Action::Tunnel { .. }
                        | Action::Carry { .. }
                        | Action::Wire(_)
                        | Action::Refuse(_)
                )
            })
            .count()
    }
}

/// Names a program of one worker. Zero names none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct ProgramId(u32);

const PLACE_BITS: u32 = 17;

impl ProgramId {
    /// No program.
    pub const NONE: Self = Self(0);

    /// As a number, for the record of a connection.
    pub const fn number(self) -> u32 {
        self.0
    }

    /// From the number of [`ProgramId::number`].
    pub const fn from_number(number: u32) -> Self {
        Self(number)
    }

    const fn place(self) -> usize {
        (self.0 & ((1 << PLACE_BITS) - 1)) as usize
    }
}

#[derive(Debug)]
struct Slot {
    id: ProgramId,
    hash: u64,
    /// The tables' moment at which it was last found current.
    checked: u64,
    /// Its short form at that version.
    gate: Gate,
    /// Used since the clock's hand last passed.
    used: bool,
    /// Packets that wait in a queue in the middle of it.
    held: u32,
    /// It was found stale, and its place rests.
    stale: bool,
    /// Its place gave its last number, and may begin anew.
    renewed: bool,
    flow: CompiledFlow,
}

/// The last number that a place gives to its programs.
const LAST_GENERATION: u32 = (1 << (32 - PLACE_BITS)) - 1;

/// How long the place of a stale program rests: a packet that waits at another worker goes on by it.
const LEASE: Duration = Duration::from_secs(15);

/// How many places are looked at for stale programs when a new one comes: so those not yet found are at most a part of all.
const LOOKS: usize = 4;

impl Slot {
    /// How many programs its place has had.
    fn generation(&self) -> u32 {
        self.id.0 >> PLACE_BITS
    }

    /// Has its place no more numbers to give?
    fn is_spent(&self) -> bool {
        self.generation() == LAST_GENERATION && !self.renewed
    }

    /// Is it current? Compared once a moment: what moves meanwhile makes another one.
    #[inline]
    fn check(&mut self, tables: &Tables) -> bool {
        let moment = tables.moment();
        if self.checked != moment {
            if !self.flow.is_current(tables) {
                return false;
            }
            self.gate = Gate::of(&self.flow, tables);
            self.checked = moment;
        }
        true
    }
}

/// The interned programs of one worker.
///
/// A new program has the place of one that is stale for some seconds, a new place while there are fewer than the capacity, or that of
/// one that was not used lately. So while tables change and flows do not, their number stands still.
///
/// # Invariants
/// No id is given twice before [`Self::renew`]: a place that has no more numbers is left alone until whoever keeps ids forgot them
/// all. Each has 32,767, so it is needed after five days of stale programs without a pause, or two billion programs beyond the capacity.
#[derive(Debug)]
pub struct Programs {
    slots: Vec<Slot>,
    index: HashTable<u32>,
    hasher: foldhash::fast::FixedState,
    hand: usize,
    capacity: usize,
    /// Some place gave its last number.
    spent: bool,
    /// Where the search for stale ones is.
    search: usize,
    /// Stale ones, and until when their places rest.
    resting: VecDeque<(ProgramId, Now)>,
}

/// What a look-up of a program found.
#[derive(Debug, Clone, Copy)]
pub enum Found<'a> {
    /// It stands.
    Current(&'a CompiledFlow),
    /// Something that its walk read has changed.
    Stale,
    /// It is gone.
    Gone,
}

impl Programs {
    /// None yet, at most `capacity` (up to 131,071).
    pub fn new(capacity: usize, seed: u64) -> Self {
        Self {
            slots: Vec::new(),
            index: HashTable::new(),
            hasher: foldhash::fast::FixedState::with_seed(seed),
            hand: 0,
            spent: false,
            search: 0,
            resting: VecDeque::new(),
            capacity: capacity.clamp(1, (1 << PLACE_BITS) - 1),
        }
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.slots.len()
    }

    /// Is there none?
    pub fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }

    /// The program, whatever changed since.
    #[inline]
    pub fn get(&self, id: ProgramId) -> Option<&CompiledFlow> {
        self.slots
            .get(id.place())
            .filter(|s| s.id == id)
            .map(|s| &s.flow)
    }

    /// The program, if nothing changed that it read. Dependencies are compared once a program and moment of the tables.
    #[inline]
    pub fn find(&mut self, id: ProgramId, tables: &Tables) -> Found<'_> {
        let Some(slot) = self.slots.get_mut(id.place()).filter(|s| s.id == id) else {
            return Found::Gone;
        };
        if !slot.check(tables) {
            return Found::Stale;
        }
        slot.used = true;
        Found::Current(&slot.flow)
    }

    /// The short form of a program, if nothing changed that its walk read.
    #[inline]
    pub(super) fn gate(&mut self, id: ProgramId, tables: &Tables) -> Option<&Gate> {
        let slot = self.slots.get_mut(id.place()).filter(|s| s.id == id)?;
        if !slot.check(tables) {
            return None;
        }
        slot.used = true;
        Some(&slot.gate)
    }

    /// Takes a program in, or finds the one that is equal.
    pub fn intern(&mut self, flow: CompiledFlow, tables: &Tables, now: Now) -> ProgramId {
        let hash = self.hasher.hash_one(&flow);
        let same = self.index.find(hash, |&at| {
            self.slots
                .get(at as usize)
                .is_some_and(|s| s.hash == hash && s.flow == flow)
        });
        if let Some(&at) = same
            && let Some(slot) = self.slots.get_mut(at as usize)
        {
            // What moved since the walk read it is found at the next look.
            slot.check(tables);
            slot.used = true;
            return slot.id;
        }
        let at = self.place(tables, now);
        let number = u32::try_from(at).unwrap_or(u32::MAX);
        let previous = self.slots.get(at).map_or(0, Slot::generation);
        // Zero is left out, so that no id is zero.
        let generation = previous % LAST_GENERATION + 1;
        self.spent |= generation == LAST_GENERATION;
        let id = ProgramId(generation << PLACE_BITS | number);
        let moment = tables.moment();
        let slot = Slot {
            id,
            hash,
            // What moved since the walk read it is found at the next look.
            checked: if flow.is_current(tables) {
                moment
            } else {
                u64::MAX
            },
            gate: Gate::of(&flow, tables),
            used: true,
            held: 0,
            stale: false,
            renewed: false,
            flow,
        };
        match self.slots.get_mut(at) {
            Some(there) => *there = slot,
            None => self.slots.push(slot),
        }
        let slots = &self.slots;
        self.index.insert_unique(hash, number, |&at| {
            slots.get(at as usize).map_or(0, |s| s.hash)
        });
        id
    }

    /// A free place.
    fn place(&mut self, tables: &Tables, now: Now) -> usize {
        self.look(tables, now);
        if let Some(at) = self.rested(now) {
            self.unlist(at);
            return at;
        }
        if self.slots.len() < self.capacity {
            return self.slots.len();
        }
        let mut at = self.hand;
        for _ in 0..self.slots.len() * 2 {
            at = (self.hand + 1) % self.slots.len();
            self.hand = at;
            if let Some(slot) = self.slots.get_mut(at) {
                if !slot.used && slot.held == 0 && !slot.is_spent() {
                    break;
                }
                slot.used = false;
            }
        }
        self.unlist(at);
        at
    }

    /// Searches a few places for stale programs.
    fn look(&mut self, tables: &Tables, now: Now) {
        for _ in 0..LOOKS.min(self.slots.len()) {
            self.search = (self.search + 1) % self.slots.len();
            let Some(slot) = self.slots.get_mut(self.search) else {
                continue;
            };
            if !slot.stale && slot.held == 0 && !slot.is_spent() && !slot.flow.is_current(tables) {
                slot.stale = true;
                self.resting.push_back((slot.id, now + LEASE));
            }
        }
    }

    /// The place of a stale program that rested for long enough.
    fn rested(&mut self, now: Now) -> Option<usize> {
        while let Some((id, _)) = self.resting.pop_front_if(|(_, until)| now >= *until) {
            // Another may have it already; and what waits here goes on by it.
            let Some(slot) = self.slots.get_mut(id.place()).filter(|s| s.id == id) else {
                continue;
            };
            if slot.held == 0 {
                return Some(id.place());
            }
            slot.stale = false;
        }
        None
    }

    /// Nobody finds the program of this place as an equal one any more.
    fn unlist(&mut self, at: usize) {
        if let Some(hash) = self.slots.get(at).map(|s| s.hash)
            && let Ok(entry) = self.index.find_entry(hash, |&there| there as usize == at)
        {
            entry.remove();
        }
    }

    /// Must whoever keeps ids forget them, so that places can begin anew?
    pub fn is_spent(&self) -> bool {
        self.spent
    }

    /// Nobody keeps an id, but for packets that wait: places that gave their last number may begin anew.
    pub fn renew(&mut self) {
        self.spent = false;
        for slot in self.slots.iter_mut().filter(|s| s.held == 0) {
            slot.renewed |= slot.is_spent();
        }
    }

    /// Keeps a program while a packet waits in the middle of it.
    pub fn hold(&mut self, id: ProgramId) {
        if let Some(slot) = self.slots.get_mut(id.place()).filter(|s| s.id == id) {
            slot.held += 1;
        }
    }

    /// The packet goes on.
    pub fn release(&mut self, id: ProgramId) {
        if let Some(slot) = self.slots.get_mut(id.place()).filter(|s| s.id == id) {
            slot.held = slot.held.saturating_sub(1);
        }
    }

    /// All of them, for dumps.
    pub fn iter(&self) -> impl Iterator<Item = (ProgramId, &CompiledFlow)> + '_ {
        self.slots.iter().map(|s| (s.id, &s.flow))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flow(port: u32) -> CompiledFlow {
        CompiledFlow {
            origin: Origin::Port(PortId(port)),
            mask: FlowMask::default(),
            actions: [Action::Output(PortId(port))].into_iter().collect(),
            hops: SmallVec::new(),
            meters: SmallVec::new(),
            depends: SmallVec::new(),
            verdict: Verdict::Deliver,
            tracked: false,
            replies: false,
            handed: None,
            path: 0,
        }
    }

    fn depending(port: u32, on: Dependency) -> CompiledFlow {
        CompiledFlow {
            depends: [on].into_iter().collect(),
            ..flow(port)
        }
    }

    const SOON: Now = Now::from_nanos(1);

    #[test]
    fn a_lane_is_the_one_that_its_number_names() {
        for id in [0, 1, 7, 1 << 20] {
            let mut numbers = std::collections::HashSet::new();
            for side in Side::BOTH {
                let hop = HopId(id);
                numbers.insert(Lane::Function { hop, side });
            }
            for direction in [Direction::Ingress, Direction::Egress] {
                let port = PortId(id);
                numbers.insert(Lane::Port { port, direction });
                numbers.insert(Lane::Outside { port, direction });
            }
            assert_eq!(numbers.len(), 6);
            for lane in numbers {
                assert_eq!(Lane::from_number(lane.number()), lane);
            }
        }
    }

    #[test]
    fn equal_programs_are_one_and_an_evicted_ones_id_finds_nothing() {
        let tables = Tables::empty(1);
        let mut programs = Programs::new(4, 1);
        let ids: Vec<_> = (0..4)
            .map(|n| programs.intern(flow(n), &tables, SOON))
            .collect();
        assert_eq!(programs.intern(flow(2), &tables, SOON), ids[2]);
        assert_eq!(programs.len(), 4);
        programs.hold(ids[0]);
        let mut seen = std::collections::HashSet::new();
        for n in 4..100 {
            let id = programs.intern(flow(n), &tables, SOON);
            assert!(seen.insert(id), "an id was used twice");
            assert!(matches!(programs.find(id, &tables), Found::Current(f) if *f == flow(n)));
        }
        assert_eq!(programs.len(), 4);
        assert!(
            matches!(programs.find(ids[0], &tables), Found::Current(_)),
            "held"
        );
        assert!(matches!(programs.find(ids[1], &tables), Found::Gone));
        assert!(matches!(
            programs.find(ProgramId::NONE, &tables),
            Found::Gone
        ));
    }

    #[test]
    fn programs_that_went_stale_leave_their_places_after_a_while() {
        let tables = Tables::empty(1);
        let section = tables.chains_section();
        let mut programs = Programs::new(1000, 1);
        let lasting = programs.intern(flow(0), &tables, SOON);
        let held = programs.intern(depending(1, tables.depend(section)), &tables, SOON);
        programs.hold(held);
        let mut now = SOON;
        for epoch in 0..5000 {
            // Never the tables' epoch, so it is stale at once.
            let on = Dependency {
                section,
                epoch: u64::MAX - epoch,
            };
            let id = programs.intern(depending(1, on), &tables, now);
            assert!(programs.get(id).is_some(), "while it may be waited for");
            now = now + LEASE / 20;
        }
        // Twenty a lease, and as many again until the hand comes round.
        assert!(programs.len() < 60, "{} of 5,002", programs.len());
        assert!(matches!(programs.find(lasting, &tables), Found::Current(_)));
        assert!(programs.get(held).is_some(), "held");
    }

    #[test]
    fn no_id_is_given_twice_before_all_are_forgotten() {
        let tables = Tables::empty(1);
        let section = tables.chains_section();
        let mut programs = Programs::new(3, 1);
        let mut seen = std::collections::HashSet::new();
        let mut epoch = 0;
        while !programs.is_spent() {
            epoch += 1;
            let on = Dependency { section, epoch };
            let id = programs.intern(depending(0, on), &tables, SOON);
            assert!(seen.insert(id), "twice: {id:?}");
        }
        assert!(seen.len() > 32_766, "{}", seen.len());
        programs.renew();
        seen.clear();
        for n in 0..30_000 {
            let on = Dependency {
                section,
                epoch: epoch + 1000 + n,
            };
            assert!(seen.insert(programs.intern(depending(0, on), &tables, SOON)));
        }
    }
}
