//! Which of thousands of ordered rules matches a packet first?
//!
//! Tuple space search: rules that name a protocol (or none), and address prefixes of the same lengths, make a *tuple*; it is a
//! hash table by protocol and the first bits of both addresses, and what is found there is asked for ports (`ports`). Tuples
//! are visited in the order of the earliest rule in each, and a tuple is passed over where its protocols, its prefixes (`blocks`)
//! or its set of addresses leave the packet out. Used by firewalls and, in the switch, by security groups.
//!
//! # Invariants
//! - The answer is that of asking the rules one by one, in their order.
//! - Any other packet that is equal under the bits that were read gets the same answer. Of an address as many bits are read as tell
//!   it from the prefixes around it (whole bytes, so that the variety of masks stays small), and no more than the lengths that were asked for.
//!
//! # Attack
//! Rules are written by tenants. There are at most [`MAX_TUPLES`] tuples a family: when rules ask for more pairs of lengths, the rarer ones
//! are rounded down and what was cut off is compared rule by rule; what still does not fit stands in one list. So many lengths cost
//! what a list of those rules costs, and no more. Port ranges cost two binary searches, however they overlap, and memory of
//! `n log n`. Who shares a bucket with whom is decided by a hash whose seed follows from all rules.
//!
//! # Cost
//! Building: a few sorts. Looking up: two binary searches among the prefixes, a hash a tuple that is not passed over.
//!
//! # References
//! Srinivasan, Suri, Varghese, "Packet Classification using Tuple Space Search" (SIGCOMM 1999); Daly et al., "Tuple Merge" (2019).

mod address;
mod address_set;
mod blocks;
mod ports;

#[cfg(test)]
mod tests;

use std::hash::{BuildHasher, Hash, Hasher};

use foldhash::fast::FixedState;
use hashbrown::{HashMap, HashSet};
use hostconfig::group::Family;
use net::{
    PortRange, Prefix, Probe,
    flow_key::{addr_bytes, ethertype},
};

pub use address_set::{AddressSet, End};

use address::{Address, told_apart};
use blocks::{Blocks, Held};
use ports::{Ports, Rect};

/// The most tuples of one family. Rules that ask for one address, as those of security groups do, have 258 shapes at most, and as many more as
/// they name sets.
pub const MAX_TUPLES: usize = 384;
/// No rule.
const NONE: u32 = u32::MAX;

/// What a rule asks of a packet; what is absent matches anything that is IP.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Pattern {
    /// Which family.
    pub family: Option<Family>,
    /// The IP protocol.
    pub protocol: Option<u8>,
    /// Where the source is.
    pub src: Option<Prefix>,
    /// Where the destination is.
    pub dst: Option<Prefix>,
    /// The source port, or the type of ICMP. Asked of every protocol: who means only some says which.
    pub src_ports: PortRange,
    /// The destination port, or the code of ICMP.
    pub dst_ports: PortRange,
    /// A set of addresses that the asker knows by this number, of which one end must be.
    pub set: Option<u32>,
}

impl Pattern {
    /// Anything that is IP.
    pub const ANY: Self = Self {
        family: None,
        protocol: None,
        src: None,
        dst: None,
        src_ports: PortRange::ANY,
        dst_ports: PortRange::ANY,
        set: None,
    };
}

/// Ordered patterns, for look-up.
#[derive(Debug, Clone)]
pub struct RuleTable {
    v4: Half<u32>,
    v6: Half<u128>,
}

impl RuleTable {
    /// From patterns with their places: of those that match, the one with the lowest is found. Places may repeat.
    pub fn new(patterns: impl IntoIterator<Item = (u32, Pattern)>) -> Self {
        let (mut v4, mut v6) = (Vec::new(), Vec::new());
        let mut seed = FixedState::with_seed(0x7261_6e6b).build_hasher();
        for (order, pattern) in patterns {
            pattern.hash(&mut seed);
            let ends = [pattern.src, pattern.dst];
            let is = |family: Family| {
                pattern.family.is_none_or(|f| f == family)
                    && ends
                        .iter()
                        .flatten()
                        .all(|p| p.is_ipv4() == (family == Family::V4))
            };
            if is(Family::V4) {
                v4.push(Rule::new(order, &pattern));
            }
            if is(Family::V6) {
                v6.push(Rule::new(order, &pattern));
            }
        }
        let seed = seed.finish();
        Self {
            v4: Half::new(v4, seed),
            v6: Half::new(v6, seed),
        }
    }

    /// The lowest place of a pattern that matches. `member` says whether the packet's end is in the set of that number, and reads what
    /// it asks. What is not IP matches nothing.
    pub fn first_match(
        &self,
        probe: &mut Probe,
        member: &mut dyn FnMut(u32, &mut Probe) -> bool,
    ) -> Option<u32> {
        let order = match probe.ethertype() {
            ethertype::IPV4 => self.v4.first_match(&mut Packet::new(probe), member),
            ethertype::IPV6 => self.v6.first_match(&mut Packet::new(probe), member),
            _ => NONE,
        };
        (order != NONE).then_some(order)
    }
}

/// The first bits of an address, and how many.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
struct Block<A> {
    value: A,
    bits: u8,
}

impl<A: Address> Block<A> {
    fn new(prefix: Option<Prefix>) -> Self {
        prefix.map_or_else(Self::default, |p| Self {
            value: A::of(addr_bytes(p.addr())),
            bits: p.bits(),
        })
    }

    fn cut(self, bits: u8) -> Self {
        let bits = bits.min(self.bits);
        Self {
            value: self.value & A::mask(bits),
            bits,
        }
    }

    fn contains(self, addr: A) -> bool {
        addr & A::mask(self.bits) == self.value
    }
}

/// A pattern of one family.
#[derive(Debug, Clone, Copy)]
struct Rule<A> {
    order: u32,
    protocol: Option<u8>,
    src: Block<A>,
    dst: Block<A>,
    src_ports: PortRange,
    dst_ports: PortRange,
    set: Option<u32>,
}

impl<A: Address> Rule<A> {
    fn new(order: u32, pattern: &Pattern) -> Self {
        Self {
            order,
            protocol: pattern.protocol,
            src: Block::new(pattern.src),
            dst: Block::new(pattern.dst),
            src_ports: pattern.src_ports,
            dst_ports: pattern.dst_ports,
            set: pattern.set,
        }
    }

    fn rect(&self) -> Rect {
        Rect {
            order: self.order,
            src: self.src_ports,
            dst: self.dst_ports,
        }
    }

    /// Is it told whole by a tuple of this shape?
    fn is_whole(&self, shape: &Shape) -> bool {
        self.src.bits == shape.src
            && self.dst.bits == shape.dst
            && self.protocol.is_some() == shape.protocol
            && self.set == shape.set
    }

    /// Does a packet match whose ports do? Of one that does not, only what differs is read.
    fn matches(
        &self,
        packet: &mut Packet<'_, A>,
        member: &mut dyn FnMut(u32, &mut Probe) -> bool,
    ) -> bool {
        if self.protocol.is_some_and(|p| p != packet.protocol) {
            packet.protocol();
            return false;
        }
        if !self.dst.contains(packet.dst) {
            return packet.dst_is_in(self.dst);
        }
        if !self.src.contains(packet.src) {
            return packet.src_is_in(self.src);
        }
        if self.protocol.is_some() {
            packet.protocol();
        }
        packet.dst_is_in(self.dst)
            && packet.src_is_in(self.src)
            && self.set.is_none_or(|s| member(s, packet.probe))
    }
}

/// Which fields the rules of a tuple have in common.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
struct Shape {
    protocol: bool,
    src: u8,
    dst: u8,
    set: Option<u32>,
}

impl Shape {
    /// Of a rule, its lengths rounded down to a multiple of `step`.
    fn of<A>(rule: &Rule<A>, step: u8) -> Self {
        Self {
            protocol: rule.protocol.is_some(),
            src: rule.src.bits / step * step,
            dst: rule.dst.bits / step * step,
            set: rule.set,
        }
    }
}

/// All rules of one family.
#[derive(Debug, Clone)]
struct Half<A> {
    tuples: Vec<Tuple<A>>,
    src: Blocks<A>,
    dst: Blocks<A>,
}

#[derive(Debug, Clone)]
struct Tuple<A> {
    shape: Shape,
    /// The earliest rule in it.
    best: u32,
    protocols: [u64; 4],
    buckets: HashMap<Key<A>, Bucket<A>, FixedState>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Key<A> {
    src: A,
    dst: A,
    protocol: u8,
}

/// The rules of one tuple that agree in all that it hashes.
#[derive(Debug, Clone)]
struct Bucket<A> {
    /// Those that ask for nothing else but ports.
    whole: Ports,
    /// Those that ask for more than the tuple hashes, in order: their ports, side by side, since most fail by them; and the whole.
    rest_ports: Vec<Rect>,
    rest: Vec<Rule<A>>,
}

/// A bucket to be.
#[derive(Debug, Default)]
struct Sorted<A> {
    whole: Vec<Rect>,
    rest: Vec<Rule<A>>,
}

impl<A: Address> Half<A> {
    fn new(mut rules: Vec<Rule<A>>, seed: u64) -> Self {
        rules.sort_by_key(|r| r.order);
        let shapes = shapes(&rules);
        let mut tuples: HashMap<Shape, Vec<Rule<A>>, FixedState> =
            HashMap::with_hasher(FixedState::with_seed(seed));
        for rule in &rules {
            tuples.entry(shapes.of(rule)).or_default().push(*rule);
        }
        let mut tuples: Vec<_> = tuples
            .into_iter()
            .map(|(shape, rules)| Tuple::new(shape, &rules, seed))
            .collect();
        // Where two begin with the same rule's place, the order of the two changes nothing but what is read.
        tuples.sort_by_key(|t| (t.best, t.shape));
        let cut = |end: fn(&Rule<A>) -> Block<A>, bits: fn(&Shape) -> u8| {
            Blocks::new(rules.iter().map(|r| end(r).cut(bits(&shapes.of(r)))))
        };
        Self {
            src: cut(|r| r.src, |s| s.src),
            dst: cut(|r| r.dst, |s| s.dst),
            tuples,
        }
    }

    fn first_match(
        &self,
        packet: &mut Packet<'_, A>,
        member: &mut dyn FnMut(u32, &mut Probe) -> bool,
    ) -> u32 {
        let mut found = NONE;
        let mut steps = 0;
        for tuple in &self.tuples {
            if tuple.best >= found {
                break;
            }
            let shape = &tuple.shape;
            let protocol = if shape.protocol { packet.protocol() } else { 0 };
            if shape.protocol && !tuple.has(protocol) {
                continue;
            }
            if !packet.dst_may_be(&self.dst, shape.dst) || !packet.src_may_be(&self.src, shape.src)
            {
                continue;
            }
            let key = Key {
                src: packet.src & A::mask(shape.src),
                dst: packet.dst & A::mask(shape.dst),
                protocol,
            };
            steps += 1;
            let Some(bucket) = tuple.buckets.get(&key) else {
                continue;
            };
            if shape.set.is_some_and(|s| !member(s, packet.probe)) {
                continue;
            }
            found = bucket.whole.first_match(packet, found);
            let before = bucket.rest_ports.iter().take_while(|r| r.order < found);
            for (ports, rule) in before.zip(&bucket.rest) {
                steps += 1;
                if packet.ports_are_in(ports) && rule.matches(packet, member) {
                    found = rule.order;
                    break;
                }
            }
        }
        packet.probe.spend(steps);
        found
    }
}

impl<A: Address> Tuple<A> {
    /// From its rules, in order.
    fn new(shape: Shape, rules: &[Rule<A>], seed: u64) -> Self {
        let mut sorted = HashMap::<_, Sorted<A>, _>::with_hasher(FixedState::with_seed(seed));
        let mut protocols = [0u64; 4];
        for rule in rules {
            let protocol = rule.protocol.filter(|_| shape.protocol);
            if let Some(word) = protocols.get_mut(usize::from(protocol.unwrap_or(0) / 64)) {
                *word |= 1 << (protocol.unwrap_or(0) % 64);
            }
            let key = Key {
                src: rule.src.cut(shape.src).value,
                dst: rule.dst.cut(shape.dst).value,
                protocol: protocol.unwrap_or(0),
            };
            let sorted = sorted.entry(key).or_default();
            if rule.is_whole(&shape) {
                sorted.whole.push(rule.rect());
            } else {
                sorted.rest.push(*rule);
            }
        }
        let mut buckets =
            HashMap::with_capacity_and_hasher(sorted.len(), FixedState::with_seed(seed));
        for (key, Sorted { whole, rest }) in sorted {
            let bucket = Bucket {
                whole: Ports::new(whole),
                rest_ports: rest.iter().map(Rule::rect).collect(),
                rest,
            };
            buckets.insert(key, bucket);
        }
        Self {
            shape,
            best: rules.first().map_or(NONE, |r| r.order),
            protocols,
            buckets,
        }
    }

    fn has(&self, protocol: u8) -> bool {
        let word = self.protocols.get(usize::from(protocol / 64));
        word.is_some_and(|w| w >> (protocol % 64) & 1 == 1)
    }
}

/// Which tuples there are: at most [`MAX_TUPLES`].
struct Shapes {
    /// Those that are there; `None`: every rule's own. A rule whose own is not goes to the rounded one, or to that of what asks for nothing.
    kept: Option<HashSet<Shape, FixedState>>,
}

fn shapes<A: Address>(rules: &[Rule<A>]) -> Shapes {
    let own = most_populous(rules.iter().map(|r| Shape::of(r, 1)));
    if own.len() <= MAX_TUPLES {
        return Shapes { kept: None };
    }
    let mut kept: HashSet<_, _> = own.into_iter().take(MAX_TUPLES / 2).collect();
    let left = rules
        .iter()
        .filter(|r| !kept.contains(&Shape::of(*r, 1)))
        .map(|r| Shape::of(r, A::ROUND));
    let rounded = most_populous(left);
    kept.extend(rounded.into_iter().take(MAX_TUPLES / 2 - 1));
    Shapes { kept: Some(kept) }
}

/// The most populous first.
fn most_populous(shapes: impl Iterator<Item = Shape>) -> Vec<Shape> {
    let mut counts: HashMap<Shape, u32, FixedState> = HashMap::default();
    for shape in shapes {
        *counts.entry(shape).or_default() += 1;
    }
    let mut counts: Vec<_> = counts.into_iter().collect();
    counts.sort_by_key(|(shape, count)| (std::cmp::Reverse(*count), *shape));
    counts.into_iter().map(|(shape, _)| shape).collect()
}

impl Shapes {
    fn of<A: Address>(&self, rule: &Rule<A>) -> Shape {
        let own = Shape::of(rule, 1);
        let Some(kept) = &self.kept else {
            return own;
        };
        [own, Shape::of(rule, A::ROUND)]
            .into_iter()
            .find(|shape| kept.contains(shape))
            .unwrap_or_default()
    }
}

/// A packet as it is read: whatever an answer depends on is marked in its [`Probe`], and no more than that.
struct Packet<'a, A> {
    probe: &'a mut Probe,
    src: A,
    dst: A,
    protocol: u8,
    src_port: u16,
    dst_port: u16,
    src_held: Option<Held>,
    dst_held: Option<Held>,
    read: Read,
}

/// How many bits of each field were read so far.
#[derive(Default)]
struct Read {
    protocol: bool,
    src: u8,
    dst: u8,
    src_port: u8,
    dst_port: u8,
}

impl<'a, A: Address> Packet<'a, A> {
    fn new(probe: &'a mut Probe) -> Self {
        let key = probe.rewritten_key();
        Self {
            src: A::of(key.ip_src),
            dst: A::of(key.ip_dst),
            protocol: key.ip_proto,
            src_port: key.l4_src,
            dst_port: key.l4_dst,
            src_held: None,
            dst_held: None,
            read: Read::default(),
            probe,
        }
    }

    fn protocol(&mut self) -> u8 {
        if !std::mem::replace(&mut self.read.protocol, true) {
            self.probe.ip_proto();
        }
        self.protocol
    }

    fn read_src(&mut self, bits: u8) {
        if bits > self.read.src {
            self.read.src = bits;
            self.probe.ip_src_top(A::BEFORE + bits);
        }
    }

    fn read_dst(&mut self, bits: u8) {
        if bits > self.read.dst {
            self.read.dst = bits;
            self.probe.ip_dst_top(A::BEFORE + bits);
        }
    }

    /// May the source be in one of the blocks of this length?
    fn src_may_be(&mut self, blocks: &Blocks<A>, bits: u8) -> bool {
        if bits == 0 {
            return true;
        }
        let src = self.src;
        let held = *self.src_held.get_or_insert_with(|| blocks.find(src));
        self.read_src(held.bits.min(bits));
        held.has(bits)
    }

    /// May the destination be in one of the blocks of this length?
    fn dst_may_be(&mut self, blocks: &Blocks<A>, bits: u8) -> bool {
        if bits == 0 {
            return true;
        }
        let dst = self.dst;
        let held = *self.dst_held.get_or_insert_with(|| blocks.find(dst));
        self.read_dst(held.bits.min(bits));
        held.has(bits)
    }

    fn src_is_in(&mut self, block: Block<A>) -> bool {
        self.read_src(told_apart(self.src, block.value, block.bits));
        block.contains(self.src)
    }

    fn dst_is_in(&mut self, block: Block<A>) -> bool {
        self.read_dst(told_apart(self.dst, block.value, block.bits));
        block.contains(self.dst)
    }

    fn read_dst_port(&mut self, bits: u8) {
        if bits > self.read.dst_port {
            self.read.dst_port = bits;
            self.probe.l4_dst_top(bits);
        }
    }

    fn read_src_port(&mut self, bits: u8) {
        if bits > self.read.src_port {
            self.read.src_port = bits;
            self.probe.l4_src_top(bits);
        }
    }

    /// Of ports that are not, only the one that differs is read.
    fn ports_are_in(&mut self, rect: &Rect) -> bool {
        let (dst, src) = (
            rect.dst.contains(self.dst_port),
            rect.src.contains(self.src_port),
        );
        if self.read.dst_port < 16 && (!dst || src) {
            self.read_dst_port(ports::bits(rect.dst, self.dst_port));
        }
        if self.read.src_port < 16 && dst {
            self.read_src_port(ports::bits(rect.src, self.src_port));
        }
        dst && src
    }
}
