//! Who waits, and until when?
//!
//! The queues of one worker: two of each shaper in a chain, one for each direction of its connections, two of each port that a
//! QoS policy limits, one for what its workload sends and one for what it gets, and two of each floating IP and gateway that one limits. A queue is its API object's, not its policy's: a
//! change of the policy finds what waits where it was.
//!
//! # Invariants
//! - A queue is one worker's ([`owner`]), so that its rate is one, whichever worker has the connections.
//! - What waits in all queues of a worker leaves a quarter of its pool's buffers free.
//!
//! # Attack
//! Who fills queues takes packets from the pool that all ports share. So a queue may be only as long as there is still room beside
//! it: of `n` full ones each has the `n + 1`st part of the room, however many ports somebody has. In a queue by flow the fattest flow pays for it.

use hostconfig::group::Direction;
use net::{DropReason, Now, Packet, PortId};
use nfv::{
    conntrack::Side,
    functions::shaper::{Loss, Pace, Scarce, ShaperQueue},
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

/// The worker that has a lane's queue; `None` without a limit.
pub(super) fn owner(tables: &Tables, lane: Lane, workers: u16) -> Option<WorkerId> {
    let (of, _) = pace(tables, lane)?;
    let [.., a, b, c, d] = *of.as_bytes();
    let at = u32::from_be_bytes([a, b, c, d]) % u32::from(workers.max(1));
    Some(WorkerId(u16::try_from(at).unwrap_or(0)))
}

#[derive(Debug)]
struct Queue {
    /// Whose it is: an index may be another object's one day.
    of: Uuid,
    pace: Pace,
    shaper: ShaperQueue,
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
    /// Those in which something waits.
    waiting: Vec<Lane>,
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
        let Some((of, pace)) = pace(tables, lane) else {
            return Entered::Free(packet);
        };
        let size = usize::from(packet.is_large());
        let left = |list: &[usize; 2]| list.get(size).copied().unwrap_or_default();
        let left = left(&room).saturating_sub(left(&self.held));
        let (at, side) = place(lane);
        let seed = self.seed;
        let kind = self.of_kind(lane);
        if at >= kind.len() {
            kind.resize_with(at + 1, || [None, None]);
        }
        let Some(slot) = kind.get_mut(at).and_then(|both| both.get_mut(side)) else {
            return Entered::Full(packet, refusal(tables, lane, None));
        };
        let queue = slot.get_or_insert_with(|| Queue {
            of,
            pace,
            shaper: ShaperQueue::new(pace, QUEUE_PACKETS, seed, now),
        });
        if queue.of != of {
            // What another object left waits for the next release, which lets all of it go.
            if !queue.shaper.is_empty() {
                return Entered::Full(packet, refusal(tables, lane, None));
            }
            *queue = Queue {
                of,
                pace,
                shaper: ShaperQueue::new(pace, QUEUE_PACKETS, seed, now),
            };
        }
        queue.reshape(pace, now);
        if queue.shaper.pass(&packet, now) {
            return Entered::Passes(packet);
        }
        let was_empty = queue.shaper.is_empty();
        // The longest queue finds no room first; by flow, its fattest flow, if what that loses is as large.
        let large = packet.is_large();
        let has_room =
            queue.shaper.len() < left || queue.shaper.evict(|lost| lost.is_large() == large);
        let entered = if has_room {
            queue.shaper.enqueue(packet, now)
        } else {
            Err(packet)
        };
        match entered {
            Ok(()) => {
                if was_empty {
                    self.waiting.push(lane);
                }
                if let Some(held) = self.held.get_mut(size) {
                    *held += 1;
                }
                Entered::Waits
            }
            Err(packet) => {
                let scarce = queue.shaper.scarce();
                Entered::Full(packet, refusal(tables, lane, scarce))
            }
        }
    }

    /// The lane at this place among those in which something waits.
    pub(super) fn waiting(&self, at: usize) -> Option<Lane> {
        self.waiting.get(at).copied()
    }

    /// The next packet of a lane that may go now. A changed policy holds at once; where the limit is gone, or is another object's,
    /// all may go. The second: is it another object's?
    pub(super) fn release(
        &mut self,
        tables: &Tables,
        lane: Lane,
        now: Now,
    ) -> Option<(Packet, bool)> {
        let queue = self.queue(lane)?;
        let (packet, stranger) = match pace(tables, lane) {
            Some((of, pace)) if of == queue.of => {
                queue.reshape(pace, now);
                (queue.shaper.dequeue(now)?, false)
            }
            Some(_) => (queue.shaper.pop()?, true),
            None => (queue.shaper.pop()?, false),
        };
        self.forget_one(&packet);
        Some((packet, stranger))
    }

    /// The next packet of a lane that waited, and is lost: for whom, and why.
    pub(super) fn lost(&mut self, tables: &Tables, lane: Lane) -> Option<(Packet, Refusal)> {
        let queue = self.queue(lane)?;
        let (packet, loss) = queue.shaper.lost()?;
        let scarce = queue.shaper.scarce();
        self.forget_one(&packet);
        let full = refusal(tables, lane, scarce);
        let reason = match loss {
            Loss::Full => full.reason,
            Loss::CoDel => DropReason::CoDelDrop,
        };
        Some((packet, Refusal { reason, ..full }))
    }

    /// How many segments of a lane were marked since this was last asked.
    pub(super) fn marked(&mut self, lane: Lane) -> u64 {
        self.queue(lane).map_or(0, |queue| queue.shaper.marked())
    }

    /// When the next packet of the lane at this place may go. If none waits, the place becomes another lane's.
    pub(super) fn wake(&mut self, at: usize, now: Now) -> Option<Now> {
        let lane = self.waiting(at)?;
        let next = self.queue(lane).and_then(|q| q.shaper.next_wake(now));
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
    pub(super) fn forget(&mut self, tables: &Tables) {
        let forget = |queues: &mut Vec<[Option<Queue>; 2]>, lane: &dyn Fn(u32, usize) -> Lane| {
            for (id, both) in (0u32..).zip(queues) {
                for (side, queue) in both.iter_mut().enumerate() {
                    let empty = queue.as_ref().is_some_and(|q| q.shaper.is_empty());
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
        let mut gone = Vec::new();
        for lane in std::mem::take(&mut self.waiting) {
            if let Some(queue) = self.queue(lane) {
                gone.extend(queue.shaper.drain().map(|packet| (lane, packet)));
            }
        }
        self.held = [0; 2];
        gone
    }
}

impl Queue {
    fn reshape(&mut self, pace: Pace, now: Now) {
        if self.pace != pace {
            self.shaper.reshape(pace, now);
            self.pace = pace;
        }
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
