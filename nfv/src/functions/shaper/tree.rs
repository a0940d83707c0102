//! Who of those that share a rate goes next?
//!
//! A hierarchy as `tc-htb` has it, with virtual time in place of deficits. Leaves are queues ([`ShaperQueue`]) whose own limit is their ceiling. A leaf that has credit of its
//! own rate goes. Else the nearest node above lends that has credit of its rate, if nobody between is at its ceiling; nearest lenders first. Of those who want to
//! borrow at a lender, that child goes which has borrowed least for its weight.
//!
//! # Invariants
//! - Over any time in which somebody below waits, a node lets go its ceiling × time, within its burst, those of the rates below it, and one packet.
//! - Rates of a node's children are together at most its own; the root's rate is its ceiling.
//! - Packets of one leaf leave as from its queue alone.
//!
//! # Attack
//! A leaf's weight is at least a hundredth of its parent's rate, so guarantees of others make it slow, and never starve it. Credit ends at the burst, or [`super::LATENESS`] of
//! the rate: who was idle has no claim on the past.
//!
//! # Cost
//! A packet: the leaves in which something waits, once each, then the children of one node a level. At most [`MAX_NODES`] nodes.

use std::{
    collections::{BTreeMap, VecDeque},
    time::Duration,
};

use hostconfig::share::{MAX_ABOVE, Node, Use};
use net::{Now, Packet};

use super::{
    Loss, Pace, Scarce, ShaperQueue,
    queue::{Bucket, NANOS, costs},
};

/// The most nodes of a tree, its leaves with them.
pub const MAX_NODES: usize = 1024;

/// A weight is at least this part of what the parent has.
const LEAST_WEIGHT: u64 = 100;
/// Virtual time counts in 2⁻²⁰ ns: half a frame at 1 Tbit/s is not nothing.
const FINE: u32 = 20;
/// So many bits may somebody have borrowed less than others, and have it back: a super-frame's.
const SLACK: u128 = 65_536 * 8;

/// Why a leaf has no place in a tree.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TreeFault {
    /// More is promised than there is.
    #[error(
        "rates of those that share {of:032x} are together above its own ({left} left): {asked}"
    )]
    Rates {
        /// The node above.
        of: u128,
        /// What it has left to promise.
        left: u64,
        /// What was wanted.
        asked: u64,
    },
    /// No more nodes.
    #[error("a tree has too many nodes (at most {MAX_NODES})")]
    Full,
    /// No more levels.
    #[error("too many nodes above a queue (1..={MAX_ABOVE}): {0}")]
    Depth(usize),
    /// The way up ends at another root.
    #[error("not below the root {0:032x}")]
    Root(u128),
}

/// One of a tree's leaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Leaf(u16);

/// A node or a leaf.
#[derive(Debug)]
struct Place<K> {
    /// Of a node.
    id: u128,
    parent: Option<u16>,
    level: usize,
    weight: u64,
    rate_bps: u64,
    /// What its children have for certain.
    promised: u64,
    rate: Option<Bucket>,
    /// Of a node: a leaf's queue has its own.
    ceil: Option<Bucket>,
    filled: Now,
    /// When what it has borrowed ends, in virtual time.
    finish: u128,
    /// Virtual time among its children.
    clock: u128,
    children: Vec<u16>,
    /// Leaves below in which something waits, or the leaf itself.
    waiting: usize,
    leaf: Option<Box<(K, ShaperQueue)>>,
    /// Of a node: what it let through, and whether that kept anybody waiting, since that was last asked.
    used: Use,
    /// Of a node: did nothing wait below it at any moment since then?
    paused: bool,
}

/// Queues that share rates.
#[derive(Debug)]
pub struct Tree<K> {
    seed: u64,
    places: Vec<Option<Place<K>>>,
    free: Vec<u16>,
    leaves: BTreeMap<K, u16>,
    /// All nodes, lowest first.
    lenders: Vec<u16>,
    /// Leaves in which something waits.
    active: Vec<u16>,
    lost: VecDeque<(K, Packet, Loss)>,
    marked: Vec<(K, u64)>,
    now: Now,
}

/// The root's place.
const ROOT: u16 = 0;

/// Which credit.
#[derive(Debug, Clone, Copy)]
enum Credit {
    Rate,
    Ceil,
}

fn rate_of(bps: u64, burst_bytes: u64) -> Option<Bucket> {
    (bps > 0).then(|| Bucket::new(bps, i128::from(burst_bytes) * 8))
}

impl<K> Place<K> {
    fn new(parent: Option<(u16, usize)>, now: Now) -> Self {
        Self {
            id: 0,
            parent: parent.map(|(at, _)| at),
            level: parent.map_or(0, |(_, level)| level + 1),
            weight: 1,
            rate_bps: 0,
            promised: 0,
            rate: None,
            ceil: None,
            filled: now,
            finish: 0,
            clock: 0,
            children: Vec::new(),
            waiting: 0,
            leaf: None,
            used: Use::default(),
            paused: true,
        }
    }

    /// With the rate that it has now.
    fn shape(&mut self, node: &Node) {
        self.id = node.id.as_u128();
        let ceil = rate_of(node.ceil_bps.max(1), node.burst_bytes);
        self.ceil = Bucket::reshaped(self.ceil, ceil);
        self.rate = Bucket::reshaped(self.rate, rate_of(self.rate_bps, node.burst_bytes));
    }

    fn fill(&mut self, now: Now) {
        let elapsed = i128::from(now.nanos().saturating_sub(self.filled.nanos()));
        if elapsed == 0 {
            return;
        }
        self.filled = now;
        for bucket in [&mut self.rate, &mut self.ceil].into_iter().flatten() {
            bucket.fill(elapsed, Some(0));
        }
    }

    fn bucket(&self, credit: Credit) -> Option<&Bucket> {
        match credit {
            Credit::Rate => self.rate.as_ref(),
            Credit::Ceil => self.ceil.as_ref(),
        }
    }

    fn pay(&mut self, credit: Credit, cost: i128) {
        let bucket = match credit {
            Credit::Rate => &mut self.rate,
            Credit::Ceil => &mut self.ceil,
        };
        if let Some(bucket) = bucket {
            bucket.credit -= cost;
        }
    }
}

impl<K: Copy + Ord> Tree<K> {
    /// A root that nothing is below.
    pub fn new(root: &Node, seed: u64, now: Now) -> Self {
        let mut place = Place::new(None, now);
        place.rate_bps = root.ceil_bps;
        place.shape(root);
        Self {
            seed,
            places: vec![Some(place)],
            free: Vec::new(),
            leaves: BTreeMap::new(),
            lenders: vec![ROOT],
            active: Vec::new(),
            lost: VecDeque::new(),
            marked: Vec::new(),
            now,
        }
    }

    fn place(&self, at: u16) -> Option<&Place<K>> {
        self.places.get(usize::from(at))?.as_ref()
    }

    fn place_mut(&mut self, at: u16) -> Option<&mut Place<K>> {
        self.places.get_mut(usize::from(at))?.as_mut()
    }

    fn children(&self, at: u16) -> &[u16] {
        self.place(at).map_or(&[], |place| &place.children)
    }

    fn queue_mut(&mut self, at: u16) -> Option<&mut ShaperQueue> {
        Some(&mut self.place_mut(at)?.leaf.as_mut()?.1)
    }

    /// What waits at a leaf.
    pub fn queue(&self, leaf: Leaf) -> Option<&ShaperQueue> {
        Some(&self.place(leaf.0)?.leaf.as_ref()?.1)
    }

    /// The leaf of this name.
    pub fn find(&self, key: K) -> Option<Leaf> {
        self.leaves.get(&key).copied().map(Leaf)
    }

    /// Has it no leaves?
    pub fn is_bare(&self) -> bool {
        self.leaves.is_empty()
    }

    /// Forgets what was promised: each leaf is [put](Tree::put) anew.
    pub fn unpromise(&mut self) {
        for place in self.places.iter_mut().flatten() {
            place.promised = 0;
            if place.parent.is_some() {
                place.rate_bps = 0;
            }
        }
    }

    /// Gives a leaf its place, or another pace and place; what waits there stays. `rate_bps`: what it has for certain; `above`: the nodes above it, nearest
    /// first, which have the numbers that they had here last.
    ///
    /// # Errors
    /// When there is no such place, or no more than that is left to promise. Then all is as before, but for the numbers of nodes above.
    pub fn put(
        &mut self,
        key: K,
        (rate_bps, pace, max_packets): (u64, Pace, usize),
        above: &[Node],
        now: Now,
    ) -> Result<Leaf, TreeFault> {
        self.now = self.now.max(now);
        let now = self.now;
        let (root, below) = match above.split_last() {
            Some((root, below)) if above.len() <= MAX_ABOVE => (root, below),
            Some(_) | None => return Err(TreeFault::Depth(above.len())),
        };
        let old = self.find(key);
        self.shape_root(root)?;
        let mut parent = ROOT;
        for node in below.iter().rev() {
            let id = node.id.as_u128();
            let mut known = self.children(parent).iter().copied();
            let known = known.find(|at| {
                self.place(*at)
                    .is_some_and(|p| p.leaf.is_none() && p.id == id)
            });
            let promised = self.promise(parent, known, node.rate_bps);
            let at = match promised
                .and_then(|()| known.map_or_else(|| self.add_node(parent, now), Ok))
            {
                Ok(at) => at,
                Err(fault) => {
                    self.prune(parent);
                    return Err(fault);
                }
            };
            self.set_rate(at, node.rate_bps);
            if let Some(place) = self.place_mut(at) {
                place.fill(now);
                place.shape(node);
            }
            parent = at;
        }
        let at = match self.leaf(key, old, parent, rate_bps) {
            Ok(at) => at,
            Err(fault) => {
                self.prune(parent);
                return Err(fault);
            }
        };
        let seed = self.seed;
        self.set_rate(at, rate_bps);
        self.leaves.insert(key, at);
        if let Some(place) = self.place_mut(at) {
            place.fill(now);
            let burst = pace.bits.map_or(0, |(_, burst)| burst);
            place.rate = Bucket::reshaped(place.rate, rate_of(rate_bps, burst));
            match &mut place.leaf {
                Some(leaf) => leaf.1.reshape(pace, now),
                leaf @ None => {
                    let queue = ShaperQueue::new(pace, max_packets, seed, now);
                    *leaf = Some(Box::new((key, queue)));
                }
            }
        }
        Ok(Leaf(at))
    }

    fn shape_root(&mut self, root: &Node) -> Result<(), TreeFault> {
        let now = self.now;
        let Some(place) = self.place_mut(ROOT) else {
            return Ok(());
        };
        if place.id != root.id.as_u128() {
            return Err(TreeFault::Root(place.id));
        }
        place.fill(now);
        place.rate_bps = root.ceil_bps;
        place.shape(root);
        Ok(())
    }

    /// May a child of this node have this rate for certain, beside the others?
    fn promise(&self, parent: u16, child: Option<u16>, asked: u64) -> Result<(), TreeFault> {
        let Some(place) = self.place(parent) else {
            return Ok(());
        };
        let own = child.and_then(|child| self.place(child));
        let others = place
            .promised
            .saturating_sub(own.map_or(0, |own| own.rate_bps));
        let left = place.rate_bps.saturating_sub(others);
        if asked > left {
            let of = place.id;
            return Err(TreeFault::Rates { of, left, asked });
        }
        Ok(())
    }

    /// The place of a leaf below this node: where it is, or it comes from elsewhere, or a new one.
    fn leaf(
        &mut self,
        key: K,
        old: Option<Leaf>,
        parent: u16,
        rate: u64,
    ) -> Result<u16, TreeFault> {
        let here = old.filter(|old| self.place(old.0).is_some_and(|p| p.parent == Some(parent)));
        self.promise(parent, here.map(|leaf| leaf.0), rate)?;
        if let Some(here) = here {
            return Ok(here.0);
        }
        let Some(Leaf(old)) = old else {
            return self.add(parent, self.now);
        };
        let at = self.add(parent, self.now)?;
        let moved = self.place_mut(old).and_then(|place| place.leaf.take());
        self.settle(old);
        self.cut(old);
        if let Some(place) = self.place_mut(at) {
            place.leaf = moved.filter(|leaf| leaf.0 == key);
        }
        self.settle(at);
        Ok(at)
    }

    fn add(&mut self, parent: u16, now: Now) -> Result<u16, TreeFault> {
        let at = match self.free.pop() {
            Some(at) => at,
            None if self.places.len() < MAX_NODES => {
                self.places.push(None);
                u16::try_from(self.places.len() - 1).map_err(|_too_many| TreeFault::Full)?
            }
            None => return Err(TreeFault::Full),
        };
        let level = self.place(parent).map_or(0, |place| place.level);
        if let Some(place) = self.places.get_mut(usize::from(at)) {
            *place = Some(Place::new(Some((parent, level)), now));
        }
        if let Some(place) = self.place_mut(parent) {
            place.children.push(at);
        }
        Ok(at)
    }

    /// What it has for certain, and how much of what is lent it may have.
    fn set_rate(&mut self, at: u16, rate_bps: u64) {
        let Some(place) = self.place_mut(at) else {
            return;
        };
        let before = std::mem::replace(&mut place.rate_bps, rate_bps);
        let parent = place.parent.and_then(|parent| self.place_mut(parent));
        let least = parent.map_or(1, |parent| {
            parent.promised = parent
                .promised
                .saturating_sub(before)
                .saturating_add(rate_bps);
            (parent.rate_bps / LEAST_WEIGHT).max(1)
        });
        if let Some(place) = self.place_mut(at) {
            place.weight = rate_bps.max(least);
        }
    }

    /// A node that may lend; the lowest come first.
    fn add_node(&mut self, parent: u16, now: Now) -> Result<u16, TreeFault> {
        let at = self.add(parent, now)?;
        let level = |at: u16| self.place(at).map_or(0, |place| place.level);
        let own = level(at);
        let first = self.lenders.partition_point(|lender| level(*lender) > own);
        self.lenders.insert(first, at);
        Ok(at)
    }

    /// Takes a leaf away, with what waits there.
    pub fn remove(&mut self, key: K) -> Vec<Packet> {
        let Some(Leaf(at)) = self.find(key) else {
            return Vec::new();
        };
        self.leaves.remove(&key);
        let packets = self.queue_mut(at).map(|queue| queue.drain().collect());
        self.settle(at);
        self.cut(at);
        packets.unwrap_or_default()
    }

    /// Nothing is at this place any more.
    fn cut(&mut self, at: u16) {
        let Some(place) = self.places.get_mut(usize::from(at)).and_then(Option::take) else {
            return;
        };
        self.free.push(at);
        if place.leaf.is_none() {
            self.lenders.retain(|lender| *lender != at);
        }
        if let Some(parent) = place.parent {
            if let Some(above) = self.place_mut(parent) {
                above.children.retain(|child| *child != at);
                above.promised = above.promised.saturating_sub(place.rate_bps);
            }
            self.prune(parent);
        }
    }

    /// A node that nothing is below is none.
    fn prune(&mut self, at: u16) {
        let childless = |place: &Place<K>| place.children.is_empty() && place.leaf.is_none();
        if at != ROOT && self.place(at).is_some_and(childless) {
            self.cut(at);
        }
    }

    /// Takes out what waits, without regard to any rate.
    pub fn drain(&mut self) -> impl Iterator<Item = (K, Packet)> + '_ {
        std::iter::from_fn(|| {
            let at = *self.active.first()?;
            let leaf = self.place_mut(at)?.leaf.as_mut()?;
            let taken = (leaf.0, leaf.1.pop()?);
            self.settle(at);
            Some(taken)
        })
    }

    /// Counts a leaf in which something begins or ends to wait, and takes what it lost.
    fn settle(&mut self, at: u16) {
        let Some(place) = self.place_mut(at) else {
            return;
        };
        let waited = place.waiting > 0;
        let mut told = None;
        let waits = match &mut place.leaf {
            Some(leaf) => {
                let (key, queue) = &mut **leaf;
                told = Some((*key, queue.marked()));
                !queue.is_empty()
            }
            None => false,
        };
        if let Some((key, marked)) = told {
            while let Some((packet, loss)) = self.queue_mut(at).and_then(ShaperQueue::lost) {
                self.lost.push_back((key, packet, loss));
            }
            if marked > 0 {
                match self.marked.iter_mut().find(|(of, _)| *of == key) {
                    Some((_, sum)) => *sum += marked,
                    None => self.marked.push((key, marked)),
                }
            }
        }
        if waits == waited {
            return;
        }
        if waits {
            self.active.push(at);
        } else if let Some(nth) = self.active.iter().position(|active| *active == at) {
            self.active.swap_remove(nth);
        }
        let mut next = Some(at);
        while let Some(place) = next.and_then(|at| self.place_mut(at)) {
            place.waiting = if waits {
                place.waiting + 1
            } else {
                place.waiting.saturating_sub(1)
            };
            place.paused |= place.waiting == 0;
            next = place.parent;
        }
    }

    /// Has it credit?
    fn has(&mut self, at: u16, credit: Credit) -> bool {
        let now = self.now;
        self.place_mut(at).is_some_and(|place| {
            place.fill(now);
            place.bucket(credit).is_some_and(|bucket| bucket.credit > 0)
        })
    }

    fn ready(&mut self, at: u16) -> bool {
        let now = self.now;
        self.queue_mut(at).is_some_and(|queue| queue.ready(now))
    }

    fn parent(&self, at: u16) -> Option<u16> {
        self.place(at)?.parent
    }

    /// Where in virtual time a child stands: who did not want to borrow has no claim on the past.
    fn start(&self, at: u16) -> u128 {
        let Some(place) = self.place(at) else {
            return u128::MAX;
        };
        let clock = place.parent.and_then(|parent| self.place(parent));
        let clock = clock.map_or(0, |parent| parent.clock);
        place
            .finish
            .max(clock.saturating_sub(virtual_time(SLACK, place.weight)))
    }

    /// The leaf that goes next, and who lends it that; `None`: it has it for certain.
    fn next(&mut self) -> Option<(u16, Option<u16>)> {
        for nth in 0..self.active.len() {
            let at = *self.active.get(nth)?;
            if self.has(at, Credit::Rate) && self.ready(at) {
                return Some((at, None));
            }
        }
        for nth in 0..self.lenders.len() {
            let at = *self.lenders.get(nth)?;
            let asked = self.place(at).is_some_and(|place| place.waiting > 0);
            if asked
                && self.has(at, Credit::Rate)
                && self.has(at, Credit::Ceil)
                && let Some(leaf) = self.borrower(at)
            {
                return Some((leaf, Some(at)));
            }
        }
        self.note_waits();
        None
    }

    /// Nobody may go: for which nodes does a leaf wait that could go itself?
    fn note_waits(&mut self) {
        for nth in 0..self.active.len() {
            let Some(at) = self.active.get(nth).copied() else {
                return;
            };
            if !self.ready(at) {
                continue;
            }
            let mut next = self.parent(at);
            while let Some(at) = next {
                if !self.has(at, Credit::Ceil)
                    && let Some(place) = self.place_mut(at)
                {
                    place.used.waits = true;
                }
                next = self.parent(at);
            }
        }
    }

    /// The leaf below a node that borrows next.
    fn borrower(&mut self, lender: u16) -> Option<u16> {
        let mut asked = None;
        loop {
            let children = self.children(lender).iter().copied();
            let waiting = children.filter(|at| self.place(*at).is_some_and(|p| p.waiting > 0));
            let starts = waiting.map(|at| (self.start(at), at));
            let next = starts
                .filter(|start| asked.is_none_or(|asked| *start > asked))
                .min()?;
            asked = Some(next);
            let (_, at) = next;
            if self.place(at).is_some_and(|place| place.leaf.is_some()) {
                if self.ready(at) {
                    return Some(at);
                }
            } else if self.has(at, Credit::Ceil)
                && let Some(leaf) = self.borrower(at)
            {
                return Some(leaf);
            }
        }
    }

    /// All above pay: their ceilings, and their rates from the lender up.
    fn charge(&mut self, leaf: u16, lender: Option<u16>, cost: i128) {
        let now = self.now;
        if lender.is_none()
            && let Some(place) = self.place_mut(leaf)
        {
            place.pay(Credit::Rate, cost);
        }
        let bits = u128::try_from(cost / NANOS).unwrap_or(0);
        let mut lent = lender.is_none();
        let mut at = leaf;
        while let Some(parent) = self.parent(at) {
            if !lent {
                let start = self.start(at);
                if let Some(place) = self.place_mut(at) {
                    place.finish = start + virtual_time(bits, place.weight);
                }
                if let Some(place) = self.place_mut(parent) {
                    place.clock = place.clock.max(start);
                }
            }
            lent |= lender == Some(parent);
            if let Some(place) = self.place_mut(parent) {
                place.fill(now);
                let bits = u64::try_from(bits).unwrap_or(u64::MAX);
                place.used.bits = place.used.bits.saturating_add(bits);
                place.pay(Credit::Ceil, cost);
                if lent {
                    place.pay(Credit::Rate, cost);
                }
            }
            at = parent;
        }
    }

    /// Puts a packet into a leaf, as [`ShaperQueue::enqueue`].
    ///
    /// # Errors
    /// When the queue is full; the packet comes back.
    pub fn enqueue(&mut self, leaf: Leaf, packet: Packet, now: Now) -> Result<(), Packet> {
        self.now = self.now.max(now);
        let entered = match self.queue_mut(leaf.0) {
            Some(queue) => queue.enqueue(packet, now),
            None => Err(packet),
        };
        self.settle(leaf.0);
        entered
    }

    /// Loses the first packet of a leaf's fattest flow, as [`ShaperQueue::evict`].
    pub fn evict(&mut self, leaf: Leaf, such: impl Fn(&Packet) -> bool) -> bool {
        let evicted = self
            .queue_mut(leaf.0)
            .is_some_and(|queue| queue.evict(such));
        self.settle(leaf.0);
        evicted
    }

    /// May this packet go now, past an empty leaf? Then it is paid for. Who borrows does not go past others who wait.
    pub fn pass(&mut self, leaf: Leaf, packet: &Packet, now: Now) -> bool {
        self.now = self.now.max(now);
        let lender = if self.has(leaf.0, Credit::Rate) {
            None
        } else if self.active.is_empty() {
            match self.lender(leaf.0) {
                Some(lender) => Some(lender),
                None => return false,
            }
        } else {
            return false;
        };
        let now = self.now;
        let passes = self
            .queue_mut(leaf.0)
            .is_some_and(|queue| queue.pass(packet, now));
        if passes {
            self.charge(leaf.0, lender, costs(packet).0);
        }
        passes
    }

    /// The nearest node above that would lend.
    fn lender(&mut self, leaf: u16) -> Option<u16> {
        let mut next = self.parent(leaf);
        while let Some(at) = next {
            if !self.has(at, Credit::Ceil) {
                return None;
            }
            if self.has(at, Credit::Rate) {
                return Some(at);
            }
            next = self.parent(at);
        }
        None
    }

    /// The next packet that may go now, and whose it is. Packets may be [lost](Tree::lost) before it.
    pub fn dequeue(&mut self, now: Now) -> Option<(K, Packet)> {
        self.now = self.now.max(now);
        let now = self.now;
        loop {
            let (at, lender) = self.next()?;
            let leaf = self.place_mut(at)?.leaf.as_mut()?;
            let (key, before) = (leaf.0, leaf.1.len());
            let packet = leaf.1.dequeue(now);
            let same = leaf.1.len() == before;
            self.settle(at);
            if let Some(packet) = packet {
                self.charge(at, lender, costs(&packet).0);
                return Some((key, packet));
            }
            // What waited there was lost: it is somebody else's turn.
            if same {
                return None;
            }
        }
    }

    /// The next packet that waited, and will not go.
    pub fn lost(&mut self) -> Option<(K, Packet, Loss)> {
        self.lost.pop_front()
    }

    /// How many segments of one leaf were marked since this was last asked.
    pub fn marked(&mut self) -> Option<(K, u64)> {
        self.marked.pop()
    }

    /// When the next packet may go: `now` if it already may, `None` if none waits.
    pub fn next_wake(&mut self, now: Now) -> Option<Now> {
        self.now = self.now.max(now);
        let now = self.now;
        let mut wake: Option<Now> = None;
        for nth in 0..self.active.len() {
            let at = *self.active.get(nth)?;
            let Some(own) = self.queue_mut(at).and_then(|queue| queue.next_wake(now)) else {
                continue;
            };
            let mut best = self.due(at, Credit::Rate).map(|due| due.max(own));
            let mut between = own;
            let mut next = self.parent(at);
            while let Some(at) = next {
                between = between.max(self.due(at, Credit::Ceil).unwrap_or(now));
                if let Some(lent) = self.due(at, Credit::Rate) {
                    let lent = lent.max(between);
                    best = Some(best.map_or(lent, |best| best.min(lent)));
                }
                next = self.parent(at);
            }
            wake = match (wake, best) {
                (Some(a), Some(b)) => Some(a.min(b)),
                (a, b) => a.or(b),
            };
        }
        wake
    }

    /// When it will have credit; `None`: never.
    fn due(&mut self, at: u16, credit: Credit) -> Option<Now> {
        let now = self.now;
        let place = self.place_mut(at)?;
        place.fill(now);
        let nanos = place.bucket(credit)?.until(1).max(0);
        Some(now + Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX)))
    }

    /// What the next packet of a leaf waits for, of its own limit.
    pub fn scarce(&mut self, leaf: Leaf) -> Option<Scarce> {
        self.queue_mut(leaf.0)?.scarce()
    }

    /// What each node let through since this was last asked, and whether more is wanted of it: it kept somebody waiting, and was never done with all that waited. A burst that
    /// it was done with by then wants no more.
    pub fn uses(&mut self) -> impl Iterator<Item = (u128, Use)> + '_ {
        let nodes = self.places.iter_mut().flatten();
        let nodes = nodes.filter(|place| place.leaf.is_none());
        nodes.map(|place| {
            let used = std::mem::take(&mut place.used);
            let paused = std::mem::replace(&mut place.paused, place.waiting == 0);
            let waits = used.waits && !paused;
            (place.id, Use { waits, ..used })
        })
    }

    /// Does nothing wait?
    pub fn is_empty(&self) -> bool {
        self.active.is_empty()
    }
}

/// How long so many bits take of a weight's time.
fn virtual_time(bits: u128, weight: u64) -> u128 {
    ((bits * 1_000_000_000) << FINE) / u128::from(weight.max(1))
}
