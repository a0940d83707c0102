//! Which of the rules that agree in everything else holds these ports?
//!
//! A rule is a rectangle of source and destination ports. A few are asked one by one. Of many, those that take any source port are
//! stretches of destination ports, each with its first rule; the others stand in a tree over the destination ports, each
//! at no more than two nodes a level, where they are stretches of source ports.
//!
//! # Cost
//! `n` rules: memory `n log n` at most; a look-up takes `log n`, or `log² n` where source ports are asked for.

use std::{cmp::Reverse, collections::BinaryHeap};

use net::PortRange;
use smallvec::SmallVec;

use super::{NONE, Packet, address::Address};

/// Up to so many are asked one by one.
const FEW: usize = 8;
/// As many bits of a port are read as a multiple of this one.
const ROUND: u8 = 8;

/// What a rule asks of ports.
#[derive(Debug, Clone, Copy)]
pub(super) struct Rect {
    pub(super) order: u32,
    pub(super) src: PortRange,
    pub(super) dst: PortRange,
}

#[derive(Debug, Clone)]
pub(super) enum Ports {
    /// In order.
    Few(SmallVec<[Rect; 2]>),
    Many(Box<Many>),
}

#[derive(Debug, Clone)]
pub(super) struct Many {
    any_source: Stretches,
    tree: Option<Tree>,
}

/// How many of a port's first bits show whether it is in a range.
pub(super) fn bits(range: PortRange, port: u16) -> u8 {
    let (below, above) = if range.contains(port) {
        (range.min().checked_sub(1), range.max().checked_add(1))
    } else if port < range.min() {
        (None, Some(range.min()))
    } else {
        (Some(range.max()), None)
    };
    apart(port, below, above)
}

/// How many of a port's first bits tell it from the nearest others, below and above.
fn apart(port: u16, below: Option<u16>, above: Option<u16>) -> u8 {
    let one = |other: Option<u16>| other.map_or(0, |o| (port ^ o).leading_zeros() + 1);
    // At most 16.
    let bits = u8::try_from(one(below).max(one(above))).unwrap_or(16);
    bits.next_multiple_of(ROUND)
}

impl Ports {
    pub(super) fn new(mut rects: Vec<Rect>) -> Self {
        rects.sort_by_key(|r| r.order);
        if rects.len() <= FEW {
            return Self::Few(rects.into());
        }
        let (any, some): (Vec<_>, Vec<_>) =
            rects.into_iter().partition(|r| r.src == PortRange::ANY);
        Self::Many(Box::new(Many {
            any_source: Stretches::new(any.iter().map(|r| (r.dst, r.order)).collect()),
            tree: (!some.is_empty()).then(|| Tree::new(&some)),
        }))
    }

    /// The first rule that holds the packet's ports, if it is before `found`; else `found`.
    pub(super) fn first_match<A: Address>(&self, packet: &mut Packet<'_, A>, found: u32) -> u32 {
        match self {
            Self::Few(rects) => rects
                .iter()
                .take_while(|r| r.order < found)
                .find(|r| packet.ports_are_in(r))
                .map_or(found, |r| r.order),
            Self::Many(many) => {
                let (order, bits) = many.any_source.find(packet.dst_port);
                packet.read_dst_port(bits);
                let found = found.min(order);
                match &many.tree {
                    Some(tree) => tree.first_match(packet, found),
                    None => found,
                }
            }
        }
    }
}

/// Stretches of ports, each with the first rule that holds it.
#[derive(Debug, Clone)]
struct Stretches {
    starts: Vec<u16>,
    orders: Vec<u32>,
}

/// Where ranges begin, and where they have ended.
fn bounds(ranges: impl Iterator<Item = PortRange>) -> Vec<u16> {
    let mut bounds = vec![0];
    for range in ranges {
        bounds.push(range.min());
        bounds.extend(range.max().checked_add(1));
    }
    bounds.sort_unstable();
    bounds.dedup();
    bounds
}

/// The stretch of a port, and how many of its bits keep it there.
fn stretch(starts: &[u16], port: u16) -> (usize, u8) {
    let behind = starts.partition_point(|s| *s <= port);
    let at = behind.saturating_sub(1);
    let below = starts.get(at).and_then(|s| s.checked_sub(1));
    (at, apart(port, below, starts.get(behind).copied()))
}

#[cfg(test)]
impl Many {
    /// How many stretches there are in all.
    pub(super) fn stretches(&self) -> usize {
        let nodes = self.tree.iter().flat_map(|t| &t.nodes);
        let in_tree: usize = nodes.map(|n| n.sources.starts.len()).sum();
        self.any_source.starts.len() + in_tree
    }
}

impl Stretches {
    fn new(mut ranges: Vec<(PortRange, u32)>) -> Self {
        let mut this = Self {
            starts: Vec::new(),
            orders: Vec::new(),
        };
        if ranges.is_empty() {
            return this;
        }
        ranges.sort_unstable();
        let mut coming = ranges.iter().peekable();
        // The first rule of those that have begun; what has ended goes when it comes up.
        let mut open: BinaryHeap<Reverse<(u32, u16)>> = BinaryHeap::new();
        for start in bounds(ranges.iter().map(|(r, _)| *r)) {
            while let Some(&(range, order)) = coming.next_if(|(r, _)| PortRange::min(*r) <= start) {
                open.push(Reverse((order, PortRange::max(range))));
            }
            while open.peek().is_some_and(|Reverse((_, max))| *max < start) {
                open.pop();
            }
            let first = open.peek().map_or(NONE, |Reverse((order, _))| *order);
            if this.orders.last() != Some(&first) {
                this.starts.push(start);
                this.orders.push(first);
            }
        }
        this
    }

    fn find(&self, port: u16) -> (u32, u8) {
        let (at, bits) = stretch(&self.starts, port);
        (self.orders.get(at).copied().unwrap_or(NONE), bits)
    }
}

/// A segment tree over stretches of destination ports.
#[derive(Debug, Clone)]
struct Tree {
    starts: Vec<u16>,
    /// Node 1 is the root, `2n` and `2n + 1` are below `n`; the last half is the stretches.
    nodes: Vec<Node>,
}

#[derive(Debug, Clone)]
struct Node {
    /// The first rule here.
    best: u32,
    sources: Stretches,
}

impl Tree {
    fn new(rects: &[Rect]) -> Self {
        let starts = bounds(rects.iter().map(|r| r.dst));
        let leaves = starts.len().next_power_of_two();
        let mut lists: Vec<Vec<(PortRange, u32)>> = vec![Vec::new(); leaves * 2];
        let mut put = |node: usize, rect: &Rect| {
            if let Some(list) = lists.get_mut(node) {
                list.push((rect.src, rect.order));
            }
        };
        for rect in rects {
            let mut from = leaves + starts.partition_point(|s| *s < rect.dst.min());
            let mut to = leaves + starts.partition_point(|s| *s <= rect.dst.max());
            while from < to {
                if from % 2 == 1 {
                    put(from, rect);
                    from += 1;
                }
                if to % 2 == 1 {
                    to -= 1;
                    put(to, rect);
                }
                (from, to) = (from / 2, to / 2);
            }
        }
        let nodes = lists.into_iter().map(|list| Node {
            best: list.iter().map(|(_, order)| *order).min().unwrap_or(NONE),
            sources: Stretches::new(list),
        });
        Self {
            nodes: nodes.collect(),
            starts,
        }
    }

    fn first_match<A: Address>(&self, packet: &mut Packet<'_, A>, mut found: u32) -> u32 {
        let (at, bits) = stretch(&self.starts, packet.dst_port);
        packet.read_dst_port(bits);
        let mut node = self.nodes.len() / 2 + at;
        while node > 0 {
            if let Some(n) = self.nodes.get(node).filter(|n| n.best < found) {
                let (order, bits) = n.sources.find(packet.src_port);
                packet.read_src_port(bits);
                found = found.min(order);
            }
            node /= 2;
        }
        found
    }
}
