//! Which flow's packet goes next?
//!
//! FQ-CoDel (RFC 8290): packets wait by flow, in one of 1,024 queues chosen by a keyed hash of addresses and ports. Flows take
//! turns by deficit round robin; one that has just begun, or sends little, comes before those that always have something. Each is watched by
//! [`CoDel`], which marks packets whose transport hears marks (RFC 3168), and drops others. Where there is no room, the fattest flow loses its first packet.
//!
//! A super-frame is one packet that costs its segments. While it waits for the bucket, a flow whose turn comes later in the same round and whose packet is no larger
//! than a frame goes before it: so nobody waits for the time of 64 KiB, and in each round everybody still gets the same.
//!
//! # Invariants
//! - Packets of one flow leave in their order.
//! - `bytes` and `len` are the sums over all flows.
//! - A flow is listed, once, whenever it has packets.
//!
//! # Attack
//! Who opens a thousand flows gets a thousand shares of its own limit, which is nobody else's. Which flows share a queue can't be chosen without the key.
//! Each queue that was ever used costs 72 bytes, each packet at most 24: below 100 KiB for all, and none once nothing was used for long.
//!
//! # Cost
//! Some 20 ns a packet, and one step for each 1,514 bytes. A packet too many looks at the lengths of all queues once (at most 8 KiB).

use std::collections::VecDeque;

use net::{FiveTuple, FlowKey, Now, Packet};

use super::codel::{CoDel, FULL_FRAME, Patience};
use crate::keyed_hash::KeyedHash;

/// How many flow queues there are (RFC 8290 §4.1.2).
const QUEUES: u16 = 1024;
/// No index.
const NONE: u16 = u16::MAX;
/// What a flow may send in its turn: one full frame (RFC 8290 §5.2.4).
const QUANTUM: i64 = 1514;
/// After so many intervals nothing of a flow's past counts.
const FORGET_INTERVALS: u32 = 16;

/// A packet's place. Empty places are a list too.
#[derive(Debug)]
struct Slot {
    packet: Option<Packet>,
    since: Now,
    next: u16,
}

#[derive(Debug)]
struct Flow {
    head: u16,
    tail: u16,
    listed: bool,
    deficit: i64,
    codel: CoDel,
}

/// What became of a flow's first packet.
#[derive(Debug)]
pub(super) enum Left {
    /// It goes; it was marked.
    Goes {
        /// What.
        packet: Packet,
        /// Was it marked?
        marked: bool,
    },
    /// Its flow's queue has stood for too long.
    Signal(Packet),
}

/// Packets by flow.
#[derive(Debug)]
pub(super) struct FqCodel {
    hash: KeyedHash,
    patience: Patience,
    /// Which flow a queue is; empty until a packet waits.
    queues: Vec<u16>,
    flows: Vec<Flow>,
    /// Of each flow, apart from it: all are looked at for the fattest.
    bytes_of: Vec<u64>,
    slots: Vec<Slot>,
    free: u16,
    new: VecDeque<u16>,
    old: VecDeque<u16>,
    len: usize,
    bytes: u64,
    used: Now,
}

fn bytes_of(packet: &Packet) -> i64 {
    i64::try_from(packet.wire_bytes()).unwrap_or(i64::MAX)
}

/// What a flow is known by: connection, or, where there is none, who talks to whom.
fn tuple(key: &FlowKey) -> (FiveTuple, u32) {
    if let Some(tuple) = key.five_tuple() {
        return (tuple, 0);
    }
    let (mut src, mut dst) = ([0; 16], [0; 16]);
    for (to, from) in [(&mut src, key.eth_src), (&mut dst, key.eth_dst)] {
        for (to, from) in to.iter_mut().zip(from) {
            *to = from;
        }
    }
    let tuple = FiveTuple {
        src,
        dst,
        src_port: 0,
        dst_port: 0,
        proto: 0,
        role: 0,
        reserved: [0; 2],
    };
    (tuple, u32::from(key.ethertype))
}

impl FqCodel {
    pub(super) fn new(seed: u64, patience: Patience) -> Self {
        Self {
            hash: KeyedHash::new(seed),
            patience,
            queues: Vec::new(),
            flows: Vec::new(),
            bytes_of: Vec::new(),
            slots: Vec::new(),
            free: NONE,
            new: VecDeque::new(),
            old: VecDeque::new(),
            len: 0,
            bytes: 0,
            used: Now::ZERO,
        }
    }

    pub(super) fn set_patience(&mut self, patience: Patience) {
        self.patience = patience;
    }

    pub(super) fn len(&self) -> usize {
        self.len
    }

    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    pub(super) fn packets(&self) -> impl Iterator<Item = &Packet> {
        self.slots.iter().filter_map(|slot| slot.packet.as_ref())
    }

    /// Puts a packet at the end of its flow.
    ///
    /// # Errors
    /// When 65,535 wait; the packet comes back.
    pub(super) fn push(&mut self, packet: Packet, now: Now) -> Result<(), Packet> {
        self.forget(now);
        let bytes = packet.wire_bytes();
        let id = self.flow_of(&packet);
        let slot = self.store(packet, now)?;
        let Some(flow) = self.flows.get_mut(usize::from(id)) else {
            return self.take(slot).map_or(Ok(()), |(packet, _)| Err(packet));
        };
        let last = std::mem::replace(&mut flow.tail, slot);
        if flow.head == NONE {
            flow.head = slot;
        }
        if !flow.listed {
            flow.listed = true;
            flow.deficit = QUANTUM;
            self.new.push_back(id);
        }
        if let Some(last) = self.slots.get_mut(usize::from(last)) {
            last.next = slot;
        }
        if let Some(sum) = self.bytes_of.get_mut(usize::from(id)) {
            *sum += bytes;
        }
        self.len += 1;
        self.bytes += bytes;
        Ok(())
    }

    /// Where nothing was used for long, nothing is kept.
    fn forget(&mut self, now: Now) {
        let long = self.patience.interval * FORGET_INTERVALS;
        if self.len == 0 && now - self.used >= long {
            let fresh = Self {
                hash: self.hash.clone(),
                ..Self::new(0, self.patience)
            };
            *self = fresh;
        }
        self.used = now;
    }

    /// The flow of a packet; it has a place from now on.
    fn flow_of(&mut self, packet: &Packet) -> u16 {
        if self.queues.is_empty() {
            self.queues = vec![NONE; usize::from(QUEUES)];
        }
        let (tuple, number) = tuple(packet.key());
        let queue = self.hash.tuple(&tuple, number) % u64::from(QUEUES);
        let queue = usize::try_from(queue).unwrap_or(0);
        let Some(place) = self.queues.get_mut(queue) else {
            return NONE;
        };
        if *place == NONE {
            *place = u16::try_from(self.flows.len()).unwrap_or(NONE);
            self.flows.push(Flow {
                head: NONE,
                tail: NONE,
                listed: false,
                deficit: 0,
                codel: CoDel::default(),
            });
            self.bytes_of.push(0);
        }
        *place
    }

    fn store(&mut self, packet: Packet, since: Now) -> Result<u16, Packet> {
        let at = self.free;
        if let Some(slot) = self.slots.get_mut(usize::from(at)) {
            self.free = slot.next;
            *slot = Slot {
                packet: Some(packet),
                since,
                next: NONE,
            };
            return Ok(at);
        }
        match u16::try_from(self.slots.len()) {
            Ok(at) if at != NONE => {
                self.slots.push(Slot {
                    packet: Some(packet),
                    since,
                    next: NONE,
                });
                Ok(at)
            }
            _ => Err(packet),
        }
    }

    /// Empties a place; what was behind it?
    fn take(&mut self, at: u16) -> Option<(Packet, u16)> {
        let slot = self.slots.get_mut(usize::from(at))?;
        let packet = slot.packet.take()?;
        let next = std::mem::replace(&mut slot.next, self.free);
        self.free = at;
        Some((packet, next))
    }

    fn first_of(&self, id: u16) -> Option<(&Packet, Now)> {
        let flow = self.flows.get(usize::from(id))?;
        let slot = self.slots.get(usize::from(flow.head))?;
        Some((slot.packet.as_ref()?, slot.since))
    }

    /// The first packet of the flow whose turn it is (RFC 8290 §4.2), and which flow that is; `affordable` says what the bucket could let go.
    pub(super) fn select(
        &mut self,
        affordable: impl Fn(&Packet) -> bool,
    ) -> Option<(u16, &Packet)> {
        let mut id = self.turn()?;
        let (packet, _) = self.first_of(id)?;
        if packet.wire_bytes() > FULL_FRAME && !affordable(packet) {
            id = self.small().unwrap_or(id);
        }
        Some((id, self.first_of(id)?.0))
    }

    /// Whose turn is it?
    fn turn(&mut self) -> Option<u16> {
        loop {
            let is_new = !self.new.is_empty();
            let list = if is_new { &self.new } else { &self.old };
            let id = *list.front()?;
            let Some(flow) = self.flows.get_mut(usize::from(id)) else {
                self.leave_list(is_new);
                continue;
            };
            if flow.deficit <= 0 {
                flow.deficit += QUANTUM;
            } else if flow.head != NONE {
                return Some(id);
            } else {
                flow.codel.empty();
                if !is_new {
                    flow.listed = false;
                    self.leave_list(false);
                    continue;
                }
            }
            self.leave_list(is_new);
            self.old.push_back(id);
        }
    }

    fn leave_list(&mut self, is_new: bool) {
        let list = if is_new { &mut self.new } else { &mut self.old };
        list.pop_front();
    }

    /// The next flow that has something left of its turn, and no more than a frame to send.
    fn small(&self) -> Option<u16> {
        let mut listed = self.new.iter().chain(&self.old);
        let fits = |id: &&u16| {
            let flow = self.flows.get(usize::from(**id));
            let small = |(packet, _): (&Packet, Now)| packet.wire_bytes() <= FULL_FRAME;
            flow.is_some_and(|flow| flow.deficit > 0) && self.first_of(**id).is_some_and(small)
        };
        listed.find(fits).copied()
    }

    /// Takes the first packet of a flow that was selected.
    pub(super) fn leave(&mut self, id: u16, now: Now) -> Option<Left> {
        self.used = now;
        let (first, since) = self.first_of(id)?;
        let own = first.wire_bytes();
        let all = self.bytes_of.get(usize::from(id)).copied().unwrap_or(0);
        // RFC 8289 §5.4: no signal where no more than a packet would be left.
        let stands = all.saturating_sub(own) > own.max(FULL_FRAME);
        let flow = self.flows.get_mut(usize::from(id))?;
        let signals = flow.codel.signals(&self.patience, since, stands, now);
        let mut packet = self.unlink(id)?;
        let marked = signals && net::rewrite::mark_congestion(&mut packet);
        if signals && !marked {
            return Some(Left::Signal(packet));
        }
        let flow = self.flows.get_mut(usize::from(id))?;
        if marked {
            flow.codel.marked(&self.patience);
        }
        flow.deficit -= bytes_of(&packet);
        Some(Left::Goes { packet, marked })
    }

    /// Takes any packet in turn, unwatched.
    pub(super) fn pop(&mut self) -> Option<Packet> {
        let id = self.turn()?;
        let packet = self.unlink(id)?;
        let flow = self.flows.get_mut(usize::from(id))?;
        flow.deficit -= bytes_of(&packet);
        Some(packet)
    }

    /// Takes the first packet of the fattest flow, if the caller `wants` that one.
    pub(super) fn evict(&mut self, wants: impl Fn(&Packet) -> bool) -> Option<Packet> {
        let fattest = (0u16..)
            .zip(&self.bytes_of)
            .max_by_key(|(_, bytes)| **bytes);
        let (id, _) = fattest?;
        let (first, _) = self.first_of(id)?;
        if wants(first) { self.unlink(id) } else { None }
    }

    fn unlink(&mut self, id: u16) -> Option<Packet> {
        let head = self.flows.get(usize::from(id))?.head;
        let (packet, next) = self.take(head)?;
        let flow = self.flows.get_mut(usize::from(id))?;
        flow.head = next;
        if next == NONE {
            flow.tail = NONE;
        }
        let bytes = packet.wire_bytes();
        if let Some(sum) = self.bytes_of.get_mut(usize::from(id)) {
            *sum = sum.saturating_sub(bytes);
        }
        self.len = self.len.saturating_sub(1);
        self.bytes = self.bytes.saturating_sub(bytes);
        Some(packet)
    }
}
