//! Who waits, and until when?
//!
//! The queues of one worker: two of each shaper in a chain, one for each direction of its connections, two of each port that a
//! QoS policy limits, one for what its workload sends and one for what it gets, and two of each floating IP and gateway that one limits. A queue is its API object's, not its policy's: a
//! change of the policy finds what waits where it was. Queues that are part of something others are part of too stand in a tree ([`Tree`]), which takes its turn as a whole.
//!
//! # Invariants
//! - A queue is one worker's ([`owner`]), so that its rate is one, whichever worker has the connections; a tree with all its queues too.
//! - What waits in all queues of a worker leaves a quarter of its pool's buffers free.
//!
//! # Attack
//! Who fills queues takes packets from the pool that all ports share. So a queue may be only as long as there is still room beside
//! it: of `n` full ones each has the `n + 1`st part of the room, however many ports somebody has. In a queue by flow the fattest flow pays for it.

use std::collections::{BTreeMap, VecDeque};

use hostconfig::{
    Discipline,
    group::Direction,
    share::{Class, MAX_PARTS, Node, OneWay, Share, Use},
};
use net::{DropReason, Now, Packet, PortId};
use nfv::{
    conntrack::Side,
    functions::shaper::{Leaf, Loss, Pace, Scarce, ShaperQueue, Tree, TreeFault},
};
use uuid::Uuid;

use super::{
    WorkerId,
    flow::{Lane, Refusal, Stage},
    tables::{HopId, Tables},
};

/// The most packets that wait in one queue: a quarter of the pool's.
const QUEUE_PACKETS: usize = 1024;

/// The object that has a lane, and how fast it lets go; `None` without a limit.
fn pace(tables: &Tables, lane: Lane) -> Option<(Uuid, Pace)> {
    match lane {
        Lane::Function { hop, .. } => {
            let hop = tables.hop(hop)?;
            let shaper = hop.shaper.as_ref()?;
            Some((hop.function.uuid(), Pace::from(shaper)))
        }
        Lane::Port { port, direction } | Lane::Outside { port, direction } => {
            let (id, qos) = tables.limited(port)?;
            Some((id.uuid(), Pace::from(qos.limit(direction)?)))
        }
    }
}

/// What a lane shares with others.
struct Shared<'a> {
    share: Option<&'a Share>,
    classes: &'a [Class],
    /// The shaper itself, above its classes.
    node: Option<Node>,
}

fn shared(tables: &Tables, lane: Lane) -> Option<Shared<'_>> {
    match lane {
        Lane::Function { hop, .. } => {
            let hop = tables.hop(hop)?;
            let shaper = hop.shaper.as_ref()?;
            let share = shaper
                .share
                .as_ref()
                .filter(|share| !share.within.is_empty());
            if share.is_none() && shaper.classes.is_empty() {
                return None;
            }
            // One function in two chains is two shapers.
            let id = hop.chain.uuid().as_u128() ^ hop.function.uuid().as_u128();
            let node = (!shaper.classes.is_empty()).then(|| Node {
                id: Uuid::from_u128(id),
                rate_bps: share.map_or(shaper.rate_bps, |share| share.rate_bps),
                ceil_bps: shaper.rate_bps,
                burst_bytes: shaper.burst_bytes,
                fabric: false,
            });
            Some(Shared {
                share,
                classes: &shaper.classes,
                node,
            })
        }
        Lane::Port { port, direction } | Lane::Outside { port, direction } => {
            let (_, qos) = tables.limited(port)?;
            let share = qos.limit(direction)?.share.as_ref();
            Some(Shared {
                share: Some(share.filter(|share| !share.within.is_empty())?),
                classes: &[],
                node: None,
            })
        }
    }
}

impl Shared<'_> {
    /// The nodes above each of its queues, nearest first.
    fn above(&self) -> impl Iterator<Item = &Node> {
        let within = self.share.map_or(&[][..], |share| &share.within);
        self.node.iter().chain(within)
    }

    fn root(&self) -> Option<Node> {
        self.above().last().copied()
    }

    /// Of each queue what it has for certain, and its pace: one for each class and one for what is in none, or a single one.
    fn leaves(&self, pace: Pace) -> Vec<(u64, Pace)> {
        if self.node.is_none() {
            return vec![(self.share.map_or(0, |share| share.rate_bps), pace)];
        }
        let burst = pace.bits.map_or(0, |(_, burst)| burst);
        let classes = self.classes.iter().map(|class| {
            let bits = Some((class.ceil_bps, burst));
            (class.rate_bps, Pace { bits, ..pace })
        });
        classes.chain([(0, pace)]).collect()
    }
}

/// Which of a shaper's classes a packet is in: the one that has its mark, else the one without marks, else none's.
fn class_of(marks: &[Vec<u8>], packet: &Packet) -> usize {
    let dscp = packet.key().ip_tos >> 2;
    let named = marks.iter().position(|marks| marks.contains(&dscp));
    let rest = || marks.iter().position(Vec::is_empty);
    named.or_else(rest).unwrap_or(marks.len())
}

/// The worker that has a lane's queue; `None` without a limit.
pub(super) fn owner(tables: &Tables, lane: Lane, workers: u16) -> Option<WorkerId> {
    let (of, _) = pace(tables, lane)?;
    let root = shared(tables, lane).and_then(|shared| shared.root());
    let of = root.map_or(of, |root| root.id);
    let [.., a, b, c, d] = *of.as_bytes();
    let at = u32::from_be_bytes([a, b, c, d]) % u32::from(workers.max(1));
    Some(WorkerId(u16::try_from(at).unwrap_or(0)))
}

#[derive(Debug)]
struct Queue {
    /// Whose it is: an index may be another object's one day.
    of: Uuid,
    lane: Lane,
    held: Held,
}

/// Where a lane's packets wait.
#[derive(Debug)]
enum Held {
    /// In a queue that shares nothing.
    Alone {
        pace: Pace,
        shaper: Box<ShaperQueue>,
    },
    /// In a tree: one leaf, or one for each class. A leaf without a place takes nothing.
    Shared {
        root: Root,
        marks: Vec<Vec<u8>>,
        leaves: Vec<Option<Leaf>>,
    },
}

/// A tree's root, and which of the two directions it is for.
pub(super) type Root = (Uuid, usize);

/// What has its turn at a release.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Turn {
    /// A queue.
    Lane(Lane),
    /// All queues that share a root.
    Tree(Root),
}

/// A leaf's name: its lane's number, and its class.
type Seat = (u32, u8);

#[derive(Debug)]
struct Grown {
    tree: Tree<Seat>,
    /// Is it among those that have their turns?
    waits: bool,
}

/// What became of a packet that came to a queue.
#[derive(Debug)]
pub(super) enum Entered {
    /// It waits.
    Waits,
    /// There is no room.
    Full(Packet, Refusal),
    /// There is no limit: nothing holds it up.
    Free(Packet),
    /// The limit lets it go at once.
    Passes(Packet),
}

/// The queues of one worker.
#[derive(Debug, Default)]
pub(super) struct Queues {
    /// Secret: which flows share a queue.
    seed: u64,
    functions: Vec<[Option<Queue>; 2]>,
    ports: Vec<[Option<Queue>; 2]>,
    trees: BTreeMap<Root, Grown>,
    /// Those in which something waits.
    waiting: Vec<Turn>,
    /// What found no room where it was moved to.
    lost: VecDeque<(Lane, Packet)>,
    /// What this host has of the nodes that it shares with others, in bits a second.
    parts: BTreeMap<(Uuid, usize), u64>,
    /// Up to which tables the trees are as they say.
    followed: Option<u64>,
    /// How many packets wait: in small buffers, and in large ones.
    held: [usize; 2],
}

/// Where a lane's queue is among those of its kind.
const fn place(lane: Lane) -> (usize, usize) {
    match lane {
        Lane::Function { hop, side } => (hop.0 as usize, side as usize),
        Lane::Port { port, direction } | Lane::Outside { port, direction } => {
            (port.index(), direction as usize)
        }
    }
}

impl Queues {
    pub(super) fn new(seed: u64) -> Self {
        Self {
            seed,
            ..Self::default()
        }
    }

    fn of_kind(&mut self, lane: Lane) -> &mut Vec<[Option<Queue>; 2]> {
        match lane {
            Lane::Function { .. } => &mut self.functions,
            // One number is a port's or an address's.
            Lane::Port { .. } | Lane::Outside { .. } => &mut self.ports,
        }
    }

    fn queue(&mut self, lane: Lane) -> Option<&mut Queue> {
        let (at, side) = place(lane);
        self.of_kind(lane).get_mut(at)?.get_mut(side)?.as_mut()
    }

    /// Puts a packet into a queue, unless it may go at once. `room`: how many packets of either size may wait in
    /// all queues together.
    pub(super) fn enter(
        &mut self,
        tables: &Tables,
        lane: Lane,
        packet: Packet,
        room: [usize; 2],
        now: Now,
    ) -> Entered {
        self.follow(tables, now);
        let Some((of, pace)) = pace(tables, lane) else {
            return Entered::Free(packet);
        };
        let size = usize::from(packet.is_large());
        let left = |list: &[usize; 2]| list.get(size).copied().unwrap_or_default();
        let left = left(&room).saturating_sub(left(&self.held));
        if !self.has_queue(tables, lane, of, now) {
            return Entered::Full(packet, refusal(tables, lane, None));
        }
        let (at, side) = place(lane);
        let kind = match lane {
            Lane::Function { .. } => &mut self.functions,
            Lane::Port { .. } | Lane::Outside { .. } => &mut self.ports,
        };
        let slot = kind.get_mut(at).and_then(|both| both.get_mut(side));
        let Some(queue) = slot.and_then(Option::as_mut) else {
            return Entered::Full(packet, refusal(tables, lane, None));
        };
        let entered = match &mut queue.held {
            Held::Alone { pace: had, shaper } => {
                if *had != pace {
                    shaper.reshape(pace, now);
                    *had = pace;
                }
                let turn = Turn::Lane(lane);
                enter_alone(shaper, packet, left, now).map(|begins| begins.then_some(turn))
            }
            Held::Shared {
                root,
                marks,
                leaves,
            } => {
                let class = class_of(marks, &packet);
                let leaf = leaves.get(class).copied().flatten();
                match (self.trees.get_mut(root), leaf) {
                    (Some(grown), Some(leaf)) => {
                        let entered = enter_shared(grown, leaf, packet, left, now);
                        entered.map(|begins| begins.then_some(Turn::Tree(*root)))
                    }
                    (_, _) => Err(Stopped::Full(packet, None)),
                }
            }
        };
        match entered {
            Ok(turn) => {
                self.waiting.extend(turn);
                if let Some(held) = self.held.get_mut(size) {
                    *held += 1;
                }
                Entered::Waits
            }
            Err(Stopped::Passes(packet)) => Entered::Passes(packet),
            Err(Stopped::Full(packet, scarce)) => {
                Entered::Full(packet, refusal(tables, lane, scarce))
            }
        }
    }

    /// Makes a lane's queue, where there is none. `false`: what another object left there waits for the next release, which lets all of it go.
    fn has_queue(&mut self, tables: &Tables, lane: Lane, of: Uuid, now: Now) -> bool {
        match self.queue(lane) {
            Some(queue) if queue.of == of => return true,
            Some(Queue {
                held: Held::Alone { shaper, .. },
                ..
            }) if shaper.is_empty() => {}
            Some(_) => return false,
            None => {}
        }
        let held = self.open(tables, lane, now);
        let (at, side) = place(lane);
        let kind = self.of_kind(lane);
        if at >= kind.len() {
            kind.resize_with(at + 1, || [None, None]);
        }
        match (held, kind.get_mut(at).and_then(|both| both.get_mut(side))) {
            (Some(held), Some(slot)) => {
                *slot = Some(Queue { of, lane, held });
                true
            }
            (_, _) => false,
        }
    }

    /// An empty queue for a lane, or its places in a tree; those that it has already are as they are to be now.
    fn open(&mut self, tables: &Tables, lane: Lane, now: Now) -> Option<Held> {
        let (_, pace) = pace(tables, lane)?;
        let Some(shared) = shared(tables, lane) else {
            let shaper = ShaperQueue::new(pace, QUEUE_PACKETS, self.seed, now);
            let shaper = Box::new(shaper);
            return Some(Held::Alone { pace, shaper });
        };
        let (_, side) = place(lane);
        let above: Vec<Node> = shared
            .above()
            .map(|node| in_part(&self.parts, *node, side))
            .collect();
        let top = *above.last()?;
        let root = (top.id, side);
        let seed = self.seed;
        let grown = self.trees.entry(root).or_insert_with(|| Grown {
            tree: Tree::new(&top, seed, now),
            waits: false,
        });
        // What more is promised than there is, is nobody's for certain: the ceilings hold all the same.
        let unpromised: Vec<Node> = above
            .iter()
            .map(|node| Node {
                rate_bps: 0,
                ..*node
            })
            .collect();
        let leaves = (0u8..)
            .zip(shared.leaves(pace))
            .map(|(class, (rate, pace))| {
                let seat = (lane.number(), class);
                let mut put = |rate, above: &[Node]| {
                    grown
                        .tree
                        .put(seat, (rate, pace, QUEUE_PACKETS), above, now)
                };
                match put(rate, &above) {
                    Ok(leaf) => Some(leaf),
                    Err(TreeFault::Rates { .. }) => {
                        put(0, &above).or_else(|_fault| put(0, &unpromised)).ok()
                    }
                    Err(TreeFault::Full | TreeFault::Depth(_) | TreeFault::Root(_)) => None,
                }
            });
        Some(Held::Shared {
            root,
            leaves: leaves.collect(),
            marks: shared
                .classes
                .iter()
                .map(|class| class.dscp.clone())
                .collect(),
        })
    }

    /// Takes what this host has now of what it shares with others, and says what was let through of each such node since it was last asked. The rates
    /// change where they are: no table is swapped, and what waits goes on waiting.
    pub(super) fn divide(
        &mut self,
        tables: &Tables,
        parts: &BTreeMap<OneWay, u64>,
        now: Now,
    ) -> BTreeMap<OneWay, Use> {
        let parts = parts.iter();
        let parts = parts.map(|(way, bps)| ((way.node, way.direction as usize), *bps));
        let parts: BTreeMap<_, _> = parts.take(2 * MAX_PARTS).collect();
        if parts != self.parts {
            self.parts = parts;
            self.followed = None;
        }
        self.follow(tables, now);
        let mut uses = BTreeMap::<OneWay, Use>::new();
        for ((_, side), grown) in &mut self.trees {
            for (node, used) in grown.tree.uses() {
                let node = Uuid::from_u128(node);
                if !self.parts.contains_key(&(node, *side)) {
                    continue;
                }
                let direction = if *side == Direction::Ingress as usize {
                    Direction::Ingress
                } else {
                    Direction::Egress
                };
                let sum = uses.entry(OneWay { node, direction }).or_default();
                sum.bits = sum.bits.saturating_add(used.bits);
                sum.waits |= used.waits;
            }
        }
        uses
    }

    /// Brings the trees to what the tables say now. What waits goes along.
    fn follow(&mut self, tables: &Tables, now: Now) {
        if self.followed.replace(tables.version()) == Some(tables.version()) {
            return;
        }
        for grown in self.trees.values_mut() {
            grown.tree.unpromise();
        }
        for at in 0..self.functions.len() {
            self.follow_both(tables, |queues| queues.functions.get_mut(at), now);
        }
        for at in 0..self.ports.len() {
            self.follow_both(tables, |queues| queues.ports.get_mut(at), now);
        }
        self.trees
            .retain(|_, grown| grown.waits || !grown.tree.is_bare());
    }

    fn follow_both(
        &mut self,
        tables: &Tables,
        slots: impl Fn(&mut Self) -> Option<&mut [Option<Queue>; 2]>,
        now: Now,
    ) {
        for side in 0..2 {
            let slot = |queues: &mut Self, to: Option<Queue>| {
                let slot = slots(queues)?.get_mut(side)?;
                std::mem::replace(slot, to)
            };
            let Some(queue) = slot(self, None) else {
                continue;
            };
            let queue = self.follow_one(tables, queue, now);
            slot(self, Some(queue));
        }
    }

    fn follow_one(&mut self, tables: &Tables, mut queue: Queue, now: Now) -> Queue {
        let lane = queue.lane;
        let is_own = pace(tables, lane).is_some_and(|(of, _)| of == queue.of);
        let wanted = shared(tables, lane).filter(|_| is_own);
        match (&queue.held, &wanted) {
            (Held::Alone { .. }, None) => return queue,
            (Held::Shared { root, marks, .. }, Some(shared)) => {
                let same = shared.root().is_some_and(|top| (top.id, root.1) == *root)
                    && shared.classes.iter().map(|class| &class.dscp).eq(marks);
                if same {
                    queue.held = self.open(tables, lane, now).unwrap_or(queue.held);
                    return queue;
                }
            }
            (Held::Alone { .. }, Some(_)) | (Held::Shared { .. }, None) => {}
        }
        let packets = self.vacate(lane, &mut queue.held);
        let opened = if is_own {
            self.open(tables, lane, now)
        } else {
            None
        };
        // All that waits may go: the next release sees why.
        queue.held = opened.unwrap_or_else(|| unlimited(self.seed, now));
        for packet in packets {
            self.refill(&mut queue, packet, now);
        }
        queue
    }

    /// Takes all that waits in a lane's queues out.
    fn vacate(&mut self, lane: Lane, held: &mut Held) -> Vec<Packet> {
        match held {
            Held::Alone { shaper, .. } => shaper.drain().collect(),
            Held::Shared { root, leaves, .. } => {
                let Some(grown) = self.trees.get_mut(root) else {
                    return Vec::new();
                };
                let seats = (0u8..).zip(leaves).map(|(class, _)| (lane.number(), class));
                seats.flat_map(|seat| grown.tree.remove(seat)).collect()
            }
        }
    }

    /// Puts back what waited.
    fn refill(&mut self, queue: &mut Queue, packet: Packet, now: Now) {
        let lane = queue.lane;
        let (entered, turn) = match &mut queue.held {
            Held::Alone { shaper, .. } => (shaper.enqueue(packet, now), Turn::Lane(lane)),
            Held::Shared {
                root,
                marks,
                leaves,
            } => {
                let leaf = leaves.get(class_of(marks, &packet)).copied().flatten();
                let entered = match (self.trees.get_mut(root), leaf) {
                    (Some(grown), Some(leaf)) => {
                        grown.waits = true;
                        grown.tree.enqueue(leaf, packet, now)
                    }
                    (_, _) => Err(packet),
                };
                (entered, Turn::Tree(*root))
            }
        };
        // A turn also for what was lost, so that it is buried.
        if !self.waiting.contains(&turn) {
            self.waiting.push(turn);
        }
        if let Err(packet) = entered {
            self.lost.push_back((lane, packet));
        }
    }

    /// What has its turn at this place among those in which something waits.
    pub(super) fn waiting(&self, at: usize) -> Option<Turn> {
        self.waiting.get(at).copied()
    }

    /// What a lane has its turn with.
    pub(super) fn turn(&mut self, lane: Lane) -> Turn {
        match self.queue(lane).map(|queue| &queue.held) {
            Some(Held::Shared { root, .. }) => Turn::Tree(*root),
            Some(Held::Alone { .. }) | None => Turn::Lane(lane),
        }
    }

    /// The next packet that may go now, and which lane's it is. A changed policy holds at once; where the limit is gone, or is another object's,
    /// all may go. The third: is it another object's?
    pub(super) fn release(
        &mut self,
        tables: &Tables,
        turn: Turn,
        now: Now,
    ) -> Option<(Lane, Packet, bool)> {
        self.follow(tables, now);
        let (lane, packet, stranger) = match turn {
            Turn::Tree(root) => {
                let ((number, _), packet) = self.trees.get_mut(&root)?.tree.dequeue(now)?;
                (Lane::from_number(number), packet, false)
            }
            Turn::Lane(lane) => {
                let queue = self.queue(lane)?;
                let Held::Alone { pace: had, shaper } = &mut queue.held else {
                    return None;
                };
                match pace(tables, lane) {
                    Some((of, pace)) if of == queue.of => {
                        if *had != pace {
                            shaper.reshape(pace, now);
                            *had = pace;
                        }
                        (lane, shaper.dequeue(now)?, false)
                    }
                    Some(_) => (lane, shaper.pop()?, true),
                    None => (lane, shaper.pop()?, false),
                }
            }
        };
        self.forget_one(&packet);
        Some((lane, packet, stranger))
    }

    /// The next packet that waited, and is lost: whose, for whom, and why.
    pub(super) fn lost(&mut self, tables: &Tables, turn: Turn) -> Option<(Lane, Packet, Refusal)> {
        let moved = self
            .lost
            .pop_front()
            .map(|(lane, packet)| (lane, packet, Loss::Full, None));
        let (lane, packet, loss, scarce) = match (moved, turn) {
            (Some(moved), _) => moved,
            (None, Turn::Tree(root)) => {
                let ((number, _), packet, loss) = self.trees.get_mut(&root)?.tree.lost()?;
                (Lane::from_number(number), packet, loss, None)
            }
            (None, Turn::Lane(lane)) => {
                let Held::Alone { shaper, .. } = &mut self.queue(lane)?.held else {
                    return None;
                };
                let (packet, loss) = shaper.lost()?;
                (lane, packet, loss, shaper.scarce())
            }
        };
        self.forget_one(&packet);
        let full = refusal(tables, lane, scarce);
        let reason = match loss {
            Loss::Full => full.reason,
            Loss::CoDel => DropReason::CoDelDrop,
        };
        Some((lane, packet, Refusal { reason, ..full }))
    }

    /// How many segments of one lane were marked since this was last asked.
    pub(super) fn marked(&mut self, turn: Turn) -> Option<(Lane, u64)> {
        match turn {
            Turn::Tree(root) => {
                let ((number, _), marked) = self.trees.get_mut(&root)?.tree.marked()?;
                Some((Lane::from_number(number), marked))
            }
            Turn::Lane(lane) => match &mut self.queue(lane)?.held {
                Held::Alone { shaper, .. } => Some((lane, shaper.marked())).filter(|(_, n)| *n > 0),
                Held::Shared { .. } => None,
            },
        }
    }

    /// When the next packet of what is at this place may go. If none waits, the place becomes another's.
    pub(super) fn wake(&mut self, at: usize, now: Now) -> Option<Now> {
        let next = match self.waiting(at)? {
            Turn::Lane(lane) => match self.queue(lane).map(|queue| &mut queue.held) {
                Some(Held::Alone { shaper, .. }) => shaper.next_wake(now),
                Some(Held::Shared { .. }) | None => None,
            },
            Turn::Tree(root) => {
                let next = self.trees.get_mut(&root).and_then(|grown| {
                    grown.waits = !grown.tree.is_empty();
                    grown.tree.next_wake(now)
                });
                let bare = |grown: &Grown| !grown.waits && grown.tree.is_bare();
                if self.trees.get(&root).is_some_and(bare) {
                    self.trees.remove(&root);
                }
                next
            }
        };
        if next.is_none() {
            self.waiting.swap_remove(at);
        }
        next
    }

    fn forget_one(&mut self, packet: &Packet) {
        if let Some(held) = self.held.get_mut(usize::from(packet.is_large())) {
            *held = held.saturating_sub(1);
        }
    }

    /// Forgets the empty queues of what is no longer there.
    pub(super) fn forget(&mut self, tables: &Tables, now: Now) {
        self.follow(tables, now);
        let forget = |queues: &mut Vec<[Option<Queue>; 2]>, lane: &dyn Fn(u32, usize) -> Lane| {
            for (id, both) in (0u32..).zip(queues) {
                for (side, queue) in both.iter_mut().enumerate() {
                    let empty = queue.as_ref().is_some_and(|queue| match &queue.held {
                        Held::Alone { shaper, .. } => shaper.is_empty(),
                        Held::Shared { .. } => false,
                    });
                    if empty && pace(tables, lane(id, side)).is_none() {
                        *queue = None;
                    }
                }
            }
        };
        forget(&mut self.functions, &|id, side| Lane::Function {
            hop: HopId(id),
            side: if side == 0 {
                Side::Original
            } else {
                Side::Reply
            },
        });
        forget(&mut self.ports, &|id, side| Lane::Port {
            port: PortId(id),
            direction: if side == Direction::Ingress as usize {
                Direction::Ingress
            } else {
                Direction::Egress
            },
        });
    }

    /// Takes out all that waits.
    pub(super) fn drain(&mut self) -> Vec<(Lane, Packet)> {
        let mut gone: Vec<(Lane, Packet)> = self.lost.drain(..).collect();
        for turn in std::mem::take(&mut self.waiting) {
            match turn {
                Turn::Lane(lane) => {
                    if let Some(Held::Alone { shaper, .. }) = self.queue(lane).map(|q| &mut q.held)
                    {
                        gone.extend(shaper.drain().map(|packet| (lane, packet)));
                    }
                }
                Turn::Tree(root) => {
                    if let Some(grown) = self.trees.get_mut(&root) {
                        grown.waits = false;
                        let all = grown.tree.drain();
                        gone.extend(all.map(|((n, _), packet)| (Lane::from_number(n), packet)));
                    }
                }
            }
        }
        self.held = [0; 2];
        gone
    }
}

/// A node with what this host has of it.
fn in_part(parts: &BTreeMap<(Uuid, usize), u64>, node: Node, side: usize) -> Node {
    if !node.fabric {
        return node;
    }
    let part = parts.get(&(node.id, side)).copied();
    let part = part
        .unwrap_or(node.untold_bps())
        .clamp(1, node.ceil_bps.max(1));
    Node {
        ceil_bps: part,
        rate_bps: node.rate_bps.min(part),
        ..node
    }
}

/// A queue that lets all go.
fn unlimited(seed: u64, now: Now) -> Held {
    let pace = Pace {
        bits: None,
        segments: None,
        queue_bytes: u64::MAX,
        queue: Discipline::Fifo,
    };
    let shaper = Box::new(ShaperQueue::new(pace, usize::MAX, seed, now));
    Held::Alone { pace, shaper }
}

/// Why a packet does not wait.
enum Stopped {
    Passes(Packet),
    Full(Packet, Option<Scarce>),
}

/// `true`: now something waits here, and nothing did. The longest queue finds no room first; by flow, its fattest flow, if what that loses is as large.
fn enter_alone(
    shaper: &mut ShaperQueue,
    packet: Packet,
    left: usize,
    now: Now,
) -> Result<bool, Stopped> {
    if shaper.pass(&packet, now) {
        return Err(Stopped::Passes(packet));
    }
    let begins = shaper.is_empty();
    let large = packet.is_large();
    let has_room = shaper.len() < left || shaper.evict(|lost| lost.is_large() == large);
    let entered = if has_room {
        shaper.enqueue(packet, now)
    } else {
        Err(packet)
    };
    match entered {
        Ok(()) => Ok(begins),
        Err(packet) => Err(Stopped::Full(packet, shaper.scarce())),
    }
}

/// The same in a tree.
fn enter_shared(
    grown: &mut Grown,
    leaf: Leaf,
    packet: Packet,
    left: usize,
    now: Now,
) -> Result<bool, Stopped> {
    let tree = &mut grown.tree;
    if tree.pass(leaf, &packet, now) {
        return Err(Stopped::Passes(packet));
    }
    let large = packet.is_large();
    let has_room = tree.queue(leaf).is_some_and(|queue| queue.len() < left)
        || tree.evict(leaf, |lost| lost.is_large() == large);
    let entered = if has_room {
        tree.enqueue(leaf, packet, now)
    } else {
        Err(packet)
    };
    match entered {
        Ok(()) => Ok(!std::mem::replace(&mut grown.waits, true)),
        Err(packet) => Err(Stopped::Full(packet, tree.scarce(leaf))),
    }
}

/// A packet that finds no room: by the limit that the first in the queue waits for.
fn refusal(tables: &Tables, lane: Lane, scarce: Option<Scarce>) -> Refusal {
    match lane {
        Lane::Function { hop, .. } => Refusal {
            hop: Some(hop),
            ..Refusal::new(DropReason::ShaperQueueFull, Stage::Chain)
        },
        Lane::Port { port, direction } | Lane::Outside { port, direction } => {
            let qos = tables.limited(port).map(|(_, qos)| qos);
            let limit = qos.and_then(|qos| qos.limit(direction));
            let rate = limit.and_then(|limit| match scarce {
                Some(Scarce::Segments) => limit.packets,
                Some(Scarce::Bits) | None => limit.bits.or(limit.packets),
            });
            let local = matches!(lane, Lane::Port { .. });
            Refusal {
                rule: rate.map(|rate| rate.rule),
                port: local.then_some(port),
                ..Refusal::new(DropReason::QosQueueFull, Stage::Qos)
            }
        }
    }
}
