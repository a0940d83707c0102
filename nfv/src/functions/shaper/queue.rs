//! What waits, and when may it go?
//!
//! Packets wait first in, first out, or by flow ([`FqCodel`]); either way a bucket of bits and one of segments let them go.

use std::{collections::VecDeque, time::Duration};

use hostconfig::Discipline;
use net::{Now, Packet};

use super::{
    LATENESS,
    codel::{FULL_FRAME, Patience},
    fq_codel::{FqCodel, Left},
};

pub(super) const NANOS: i128 = 1_000_000_000;

/// What takes part in sums with times; no limit is meant.
const FASTEST: u64 = 1 << 60;

/// What a packet takes from the buckets of bits and of segments.
pub(super) fn costs(packet: &Packet) -> (i128, i128) {
    let bits = i128::from(packet.wire_bytes()) * 8 * NANOS;
    (bits, i128::from(packet.segments()) * NANOS)
}

/// What a queue lets go, and how much may wait in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pace {
    /// Bits a second, Ethernet headers counted; and how many bytes may go at once.
    pub bits: Option<(u64, u64)>,
    /// Segments a second; and how many may go at once.
    pub segments: Option<(u64, u64)>,
    /// How many bytes may wait.
    pub queue_bytes: u64,
    /// In which order.
    pub queue: Discipline,
}

impl Pace {
    /// `CoDel`'s times: at a slow rate a full frame alone takes long.
    pub(super) fn patience(&self) -> Patience {
        let time = |per_second: u64, cost: u64| {
            Duration::from_nanos((cost * 1_000_000_000).div_ceil(per_second.max(1)))
        };
        let bits = self.bits.map(|(rate, _)| time(rate, FULL_FRAME * 8));
        let segments = self.segments.map(|(rate, _)| time(rate, 1));
        Patience::at(bits.max(segments).unwrap_or_default())
    }
}

impl From<&hostconfig::Shaper> for Pace {
    fn from(policy: &hostconfig::Shaper) -> Self {
        Self {
            bits: Some((policy.rate_bps, policy.burst_bytes)),
            segments: None,
            queue_bytes: policy.queue_bytes,
            queue: policy.queue,
        }
    }
}

impl From<&hostconfig::qos::Limit> for Pace {
    fn from(limit: &hostconfig::qos::Limit) -> Self {
        let rate = |rate: hostconfig::qos::Rate| (rate.per_second, rate.burst);
        Self {
            bits: limit.bits.map(rate),
            segments: limit.packets.map(rate),
            queue_bytes: limit.queue_bytes,
            queue: limit.queue,
        }
    }
}

/// What runs out first: that a packet waits, or finds no room, is its doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scarce {
    /// Bits a second.
    Bits,
    /// Segments a second.
    Segments,
}

/// Credit in units (bits or segments) times nanoseconds.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bucket {
    rate: i128,
    burst: i128,
    pub(super) credit: i128,
}

impl Bucket {
    /// Of so many units a second, full.
    pub(super) fn new(per_second: u64, burst: i128) -> Self {
        let burst = burst * NANOS;
        Self {
            rate: i128::from(per_second.clamp(1, FASTEST)),
            burst,
            credit: burst,
        }
    }

    /// `wanted`: the most that something waits for; `None`, nothing waits.
    pub(super) fn fill(&mut self, elapsed: i128, wanted: Option<i128>) {
        let most = wanted.map_or(self.burst, |wanted| {
            let late = i128::try_from(LATENESS.as_nanos()).unwrap_or(0);
            self.burst.max(self.rate * late).max(wanted)
        });
        self.credit = (self.credit + self.rate * elapsed).min(most);
    }

    /// How many nanoseconds until so much credit is there; at most zero: it is.
    pub(super) fn until(&self, credit: i128) -> i128 {
        let missing = credit - self.credit;
        // Rounded up: a poll at that very time finds the credit.
        (missing + self.rate - 1).div_euclid(self.rate)
    }

    /// The same with another rate and burst; a debt stays one.
    pub(super) fn reshaped(old: Option<Self>, new: Option<Self>) -> Option<Self> {
        let new = new?;
        let credit = old.map_or(new.credit, |old| old.credit.min(new.burst));
        Some(Self { credit, ..new })
    }
}

/// What waits.
#[derive(Debug)]
enum Waiting {
    Fifo {
        packets: VecDeque<Packet>,
        bytes: u64,
    },
    Fair(Box<FqCodel>),
}

impl Waiting {
    fn new(pace: &Pace, seed: u64) -> Self {
        match pace.queue {
            Discipline::Fifo => Self::Fifo {
                packets: VecDeque::new(),
                bytes: 0,
            },
            Discipline::FqCodel => Self::Fair(Box::new(FqCodel::new(seed, pace.patience()))),
        }
    }

    fn len(&self) -> usize {
        match self {
            Self::Fifo { packets, .. } => packets.len(),
            Self::Fair(flows) => flows.len(),
        }
    }

    fn push(&mut self, packet: Packet, now: Now) -> Result<(), Packet> {
        match self {
            Self::Fifo { packets, bytes } => {
                *bytes += packet.wire_bytes();
                packets.push_back(packet);
                Ok(())
            }
            Self::Fair(flows) => flows.push(packet, now),
        }
    }

    fn pop(&mut self) -> Option<Packet> {
        match self {
            Self::Fifo { packets, bytes } => {
                let packet = packets.pop_front()?;
                *bytes = bytes.saturating_sub(packet.wire_bytes());
                Some(packet)
            }
            Self::Fair(flows) => flows.pop(),
        }
    }
}

/// Why a queue lost a packet that it had taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Loss {
    /// Its flow's queue stood for too long, and its transport hears no marks.
    CoDel,
    /// It was the first of the fattest flow when there was no room.
    Full,
}

/// A queue with buckets: of a shaper, or of a port's limit.
#[derive(Debug)]
pub struct ShaperQueue {
    waiting: Waiting,
    lost: VecDeque<(Packet, Loss)>,
    marked: u64,
    seed: u64,
    max_packets: usize,
    /// The most bits and segments of one packet since something waits.
    wanted: (i128, i128),
    bits: Option<Bucket>,
    segments: Option<Bucket>,
    queue_bytes: u64,
    filled: Now,
}

impl ShaperQueue {
    /// An empty queue of at most `max_packets`, its buckets full. The seed is secret: it says which flows share a queue.
    pub fn new(pace: Pace, max_packets: usize, seed: u64, now: Now) -> Self {
        let mut queue = Self {
            waiting: Waiting::new(&pace, seed),
            lost: VecDeque::new(),
            marked: 0,
            seed,
            max_packets,
            wanted: (0, 0),
            bits: None,
            segments: None,
            queue_bytes: 0,
            filled: now,
        };
        queue.reshape(pace, now);
        queue
    }

    /// Goes on with another pace; what waits stays, even where it would not have been let in.
    pub fn reshape(&mut self, pace: Pace, now: Now) {
        self.fill(now);
        let bits = pace
            .bits
            .map(|(rate, bytes)| Bucket::new(rate, i128::from(bytes) * 8));
        let segments = pace
            .segments
            .map(|(rate, burst)| Bucket::new(rate, burst.into()));
        self.bits = Bucket::reshaped(self.bits, bits);
        self.segments = Bucket::reshaped(self.segments, segments);
        self.queue_bytes = pace.queue_bytes;
        match (&mut self.waiting, pace.queue) {
            (Waiting::Fifo { .. }, Discipline::Fifo) => {}
            (Waiting::Fair(flows), Discipline::FqCodel) => flows.set_patience(pace.patience()),
            (Waiting::Fifo { .. }, Discipline::FqCodel) | (Waiting::Fair(_), Discipline::Fifo) => {
                let other = Waiting::new(&pace, self.seed);
                let mut before = std::mem::replace(&mut self.waiting, other);
                while let Some(packet) = before.pop() {
                    if let Err(packet) = self.waiting.push(packet, now) {
                        self.lost.push_back((packet, Loss::Full));
                    }
                }
            }
        }
    }

    fn fill(&mut self, now: Now) {
        let elapsed = i128::from(now.nanos().saturating_sub(self.filled.nanos()));
        self.filled = self.filled.max(now);
        let (bits, segments) = self.wanted;
        let waits = !self.is_empty();
        if let Some(bucket) = &mut self.bits {
            bucket.fill(elapsed, waits.then_some(bits));
        }
        if let Some(bucket) = &mut self.segments {
            bucket.fill(elapsed, waits.then_some(segments));
        }
    }

    /// What must be in the buckets for this packet. In order, a packet may leave them in debt, so that none waits for more than the burst; by flow
    /// the credit is saved up before, so that nobody else waits for the debt.
    fn price(&self, packet: &Packet) -> (i128, i128) {
        let (bits, segments) = costs(packet);
        if matches!(self.waiting, Waiting::Fair(_)) {
            return (bits, segments);
        }
        let most = |cost: i128, bucket: Option<Bucket>| bucket.map_or(cost, |b| cost.min(b.burst));
        (most(bits, self.bits), most(segments, self.segments))
    }

    /// Nanoseconds until such a packet may go, and what it waits for; at most zero: it may go.
    fn until(&self, (bits, segments): (i128, i128)) -> Option<(i128, Scarce)> {
        let waits = [
            self.bits.map(|b| (b.until(bits), Scarce::Bits)),
            self.segments.map(|b| (b.until(segments), Scarce::Segments)),
        ];
        waits.into_iter().flatten().max_by_key(|(nanos, _)| *nanos)
    }

    fn lets(&self, price: (i128, i128)) -> bool {
        self.until(price).is_none_or(|(nanos, _)| nanos <= 0)
    }

    /// The price of the packet whose turn it is; and its flow, where they wait by flow.
    fn next(&mut self) -> Option<((i128, i128), Option<u16>)> {
        let (bits, segments) = (self.bits, self.segments);
        let first = match &mut self.waiting {
            Waiting::Fifo { packets, .. } => {
                let (b, s) = costs(packets.front()?);
                let most = |cost: i128, bucket: Option<Bucket>| {
                    bucket.map_or(cost, |bucket| cost.min(bucket.burst))
                };
                return Some(((most(b, bits), most(s, segments)), None));
            }
            Waiting::Fair(flows) => flows.select(|packet| {
                let (b, s) = costs(packet);
                bits.is_none_or(|bucket| bucket.until(b) <= 0)
                    && segments.is_none_or(|bucket| bucket.until(s) <= 0)
            }),
        };
        let (flow, packet) = first?;
        Some((costs(packet), Some(flow)))
    }

    /// Puts a packet at the end of the queue, or of its flow's. It may go at once: ask [`ShaperQueue::dequeue`]. A packet that alone is larger
    /// than the queue is taken when nothing else waits. By flow there is always room: others may be [lost](ShaperQueue::lost) for it.
    ///
    /// # Errors
    /// When the queue is full; the packet comes back.
    pub fn enqueue(&mut self, packet: Packet, now: Now) -> Result<(), Packet> {
        let bytes = packet.wire_bytes();
        if self.max_packets == 0 {
            return Err(packet);
        }
        if self.is_empty() {
            // Credit of the time without packets ends at the burst.
            self.fill(now);
            self.wanted = (0, 0);
        } else if matches!(self.waiting, Waiting::Fifo { .. })
            && (self.len() >= self.max_packets
                || self.queued_bytes().saturating_add(bytes) > self.queue_bytes)
        {
            return Err(packet);
        }
        let price = self.price(&packet);
        self.waiting.push(packet, now)?;
        self.wanted = (self.wanted.0.max(price.0), self.wanted.1.max(price.1));
        while self.len() > 1
            && (self.len() > self.max_packets || self.queued_bytes() > self.queue_bytes)
        {
            if !self.evict(|_| true) {
                break;
            }
        }
        Ok(())
    }

    /// Loses the first packet of the fattest flow, if it is such a one. `false`: nothing was lost.
    pub fn evict(&mut self, such: impl Fn(&Packet) -> bool) -> bool {
        let Waiting::Fair(flows) = &mut self.waiting else {
            return false;
        };
        let packet = flows.evict(such);
        let evicted = packet.is_some();
        self.lost.extend(packet.map(|packet| (packet, Loss::Full)));
        evicted
    }

    /// The next packet that waited, and will not go.
    pub fn lost(&mut self) -> Option<(Packet, Loss)> {
        self.lost.pop_front()
    }

    /// How many segments were marked since this was last asked.
    pub fn marked(&mut self) -> u64 {
        std::mem::take(&mut self.marked)
    }

    /// May this packet go now, past an empty queue? Then it is paid for.
    pub fn pass(&mut self, packet: &Packet, now: Now) -> bool {
        if !self.is_empty() {
            return false;
        }
        self.fill(now);
        let passes = self.lets(self.price(packet));
        if passes {
            self.pay(costs(packet));
        }
        passes
    }

    /// May the packet whose turn it is go now?
    pub(super) fn ready(&mut self, now: Now) -> bool {
        self.fill(now);
        self.next().is_some_and(|(price, _)| self.lets(price))
    }

    /// The next packet that may go now. By flow, packets may be [lost](ShaperQueue::lost) before it.
    pub fn dequeue(&mut self, now: Now) -> Option<Packet> {
        self.fill(now);
        loop {
            let (price, flow) = self.next()?;
            if !self.lets(price) {
                return None;
            }
            let packet = match (&mut self.waiting, flow) {
                (Waiting::Fair(flows), Some(flow)) => match flows.leave(flow, now)? {
                    Left::Goes { packet, marked } => {
                        self.marked += u64::from(marked) * u64::from(packet.segments());
                        packet
                    }
                    Left::Signal(packet) => {
                        self.lost.push_back((packet, Loss::CoDel));
                        continue;
                    }
                },
                _ => self.waiting.pop()?,
            };
            self.pay(costs(&packet));
            return Some(packet);
        }
    }

    /// Takes it from both buckets.
    fn pay(&mut self, (bits, segments): (i128, i128)) {
        if let Some(bucket) = &mut self.bits {
            bucket.credit -= bits;
        }
        if let Some(bucket) = &mut self.segments {
            bucket.credit -= segments;
        }
    }

    /// The next packet, without regard to the pace: the limit is gone.
    pub fn pop(&mut self) -> Option<Packet> {
        self.waiting.pop()
    }

    /// When the next packet may go: `now` if it already may, `None` if none waits.
    pub fn next_wake(&mut self, now: Now) -> Option<Now> {
        let (price, _) = self.next()?;
        let nanos = self.until(price).map_or(0, |(nanos, _)| nanos.max(0));
        let nanos = u64::try_from(nanos).unwrap_or(u64::MAX);
        Some((self.filled + Duration::from_nanos(nanos)).max(now))
    }

    /// What the next packet waits for; `None` if none waits.
    pub fn scarce(&mut self) -> Option<Scarce> {
        let (price, _) = self.next()?;
        self.until(price).map(|(_, scarce)| scarce)
    }

    /// Takes out what waits, without regard to the rate: the shaper is gone, or the switch ends.
    pub fn drain(&mut self) -> impl Iterator<Item = Packet> + '_ {
        std::iter::from_fn(|| self.waiting.pop())
    }

    /// How many packets wait.
    pub fn len(&self) -> usize {
        self.waiting.len()
    }

    /// Does none wait?
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How many bytes wait, as counted on an Ethernet link.
    pub fn queued_bytes(&self) -> u64 {
        match &self.waiting {
            Waiting::Fifo { bytes, .. } => *bytes,
            Waiting::Fair(flows) => flows.bytes(),
        }
    }

    /// How many segments wait: what conservation counts as held.
    pub fn held_segments(&self) -> u64 {
        let segments = |packet: &Packet| u64::from(packet.segments());
        match &self.waiting {
            Waiting::Fifo { packets, .. } => packets.iter().map(segments).sum(),
            Waiting::Fair(flows) => flows.packets().map(segments).sum(),
        }
    }
}
