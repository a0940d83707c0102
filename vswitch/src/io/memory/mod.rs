//! How do hosts talk in a simulation?
//!
//! [`MemoryPort`] is a port whose workload is a [`Workload`] in the same process. [`Fabric`] is the underlay of several hosts:
//! wires with delay, loss, duplication and reordering under a seeded generator and a virtual clock. What crosses a wire are real
//! VXLAN datagrams, one a segment, so that what the kernel underlay does to bytes is done here too.
//!
//! # Invariants
//! - The same seed and the same calls give the same run.
//! - Every queue is bounded; a full port refuses, a full wire loses and counts.
//!
//! # Threads
//! Handles may be shared between threads; no lock is held across a call out of this file.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use net::{Batch, DropReason, Now, Offload, Packet, PacketPool, packet::LARGE};

use super::{
    PortIo, Refused, Rx, Tag, Tunnelled, Underlay, Unsent,
    coalesce::Coalescer,
    offload::{self, Segments},
    open,
    random::Random,
    tagged,
};

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // A test that panicked elsewhere says so itself.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A frame outside of the switch.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Frame {
    /// Its bytes.
    pub bytes: Vec<u8>,
    /// The offloads that are open on it.
    pub offload: Offload,
}

#[derive(Debug)]
struct Pipe {
    capacity: usize,
    to_switch: VecDeque<Frame>,
    to_workload: VecDeque<Frame>,
    gone: bool,
}

/// The switch's end of a port in memory.
#[derive(Debug)]
pub struct MemoryPort(Arc<Mutex<Pipe>>);

/// The workload's end of a port in memory.
#[derive(Debug, Clone)]
pub struct Workload(Arc<Mutex<Pipe>>);

impl MemoryPort {
    /// A port whose queues hold `capacity` frames in each direction, and its workload.
    pub fn new(capacity: usize) -> (Self, Workload) {
        let pipe = Arc::new(Mutex::new(Pipe {
            capacity,
            to_switch: VecDeque::new(),
            to_workload: VecDeque::new(),
            gone: false,
        }));
        (Self(Arc::clone(&pipe)), Workload(pipe))
    }
}

impl Workload {
    /// Sends a frame to the switch.
    ///
    /// # Errors
    /// Gives it back when the queue is full.
    pub fn send(&self, frame: Frame) -> Result<(), Frame> {
        let mut pipe = lock(&self.0);
        if pipe.to_switch.len() >= pipe.capacity {
            return Err(frame);
        }
        pipe.to_switch.push_back(frame);
        Ok(())
    }

    /// The next frame that the switch delivered.
    pub fn receive(&self) -> Option<Frame> {
        lock(&self.0).to_workload.pop_front()
    }

    /// Takes the device away: the switch finds it gone.
    pub fn unplug(&self) {
        lock(&self.0).gone = true;
    }
}

impl PortIo for MemoryPort {
    fn rx(&mut self, pool: &mut PacketPool, batch: &mut Batch, refused: &mut Refused) -> Rx {
        let mut pipe = lock(&self.0);
        while !batch.is_full() {
            let Some(frame) = pipe.to_switch.front() else {
                return if pipe.gone { Rx::Gone } else { Rx::Drained };
            };
            if frame.bytes.len() > LARGE {
                pipe.to_switch.pop_front();
                if let Some(packet) = pool.take_small() {
                    refused.push((packet, DropReason::MalformedEthernet));
                }
                continue;
            }
            let Some(mut packet) = pool.take(frame.bytes.len()) else {
                return Rx::Starved;
            };
            let filled = packet.fill(&frame.bytes);
            packet.set_offload(frame.offload);
            let plain = frame.offload == Offload::default();
            pipe.to_switch.pop_front();
            let holds = filled.is_ok()
                && (plain
                    || packet.parse().is_ok_and(|()| {
                        let h = *packet.headers();
                        offload::validate(&h, packet.len(), &packet.offload()).is_ok()
                    }));
            if !holds {
                refused.push((packet, DropReason::MalformedOffload));
            } else if let Err(packet) = batch.push(packet) {
                refused.push((packet, DropReason::PoolExhausted));
            }
        }
        Rx::More
    }

    fn tx(&mut self, pool: &mut PacketPool, batch: &mut Batch, refused: &mut Refused) -> u64 {
        let mut pipe = lock(&self.0);
        let mut sent = 0;
        for packet in batch.drain() {
            if pipe.gone {
                refused.push((packet, DropReason::PortSend));
            } else if pipe.to_workload.len() >= pipe.capacity {
                refused.push((packet, DropReason::PortQueueFull));
            } else {
                sent += u64::from(packet.segments());
                pipe.to_workload.push_back(Frame {
                    bytes: packet.bytes().to_vec(),
                    offload: packet.offload(),
                });
                pool.give(packet);
            }
        }
        sent
    }
}

/// What happens to datagrams between hosts. Rates are parts in a million.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Weather {
    /// The least time that a datagram takes.
    pub delay: Duration,
    /// What some take longer, at random: so they overtake each other.
    pub jitter: Duration,
    /// How many are late by the jitter.
    pub reorder: u32,
    /// How many are lost.
    pub loss: u32,
    /// How many arrive twice.
    pub duplicate: u32,
    /// The largest datagram, in bytes of UDP payload.
    pub payload_max: usize,
    /// How many may be under way, and how many may wait at one host.
    pub capacity: usize,
}

impl Default for Weather {
    /// Fair: a datagram of an MTU of 1600 over IPv6 arrives, at once and in order.
    fn default() -> Self {
        Self {
            delay: Duration::ZERO,
            jitter: Duration::ZERO,
            reorder: 0,
            loss: 0,
            duplicate: 0,
            payload_max: 1600 - 48,
            capacity: 65_536,
        }
    }
}

/// What a fabric did so far, in datagrams.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct FabricCounts {
    /// Sent by a host.
    pub sent: u64,
    /// Handed to a host.
    pub delivered: u64,
    /// Lost by the weather.
    pub lost: u64,
    /// Made twice by the weather.
    pub duplicated: u64,
    /// Lost because a queue was full, or nobody has the address.
    pub undelivered: u64,
}

#[derive(Debug)]
struct Datagram {
    to: IpAddr,
    from: IpAddr,
    /// For the chain transport's port?
    chained: bool,
    bytes: Vec<u8>,
}

#[derive(Debug)]
struct Wires {
    now: Now,
    weather: Weather,
    random: Random,
    sequence: u64,
    flying: BTreeMap<(Now, u64), Datagram>,
    hosts: HashMap<IpAddr, VecDeque<Datagram>>,
    counts: FabricCounts,
}

/// The wires between the hosts of a simulation.
#[derive(Debug, Clone)]
pub struct Fabric(Arc<Mutex<Wires>>);

impl Fabric {
    /// Wires under this weather, with their own seeded coin.
    pub fn new(weather: Weather, seed: u64) -> Self {
        Self(Arc::new(Mutex::new(Wires {
            now: Now::ZERO,
            weather,
            random: Random::new(seed),
            sequence: 0,
            flying: BTreeMap::new(),
            hosts: HashMap::new(),
            counts: FabricCounts::default(),
        })))
    }

    /// The underlay of the host with this address.
    pub fn attach(&self, vtep: IpAddr) -> MemoryUnderlay {
        lock(&self.0).hosts.entry(vtep).or_default();
        MemoryUnderlay {
            wires: Arc::clone(&self.0),
            vtep,
            coalescer: Coalescer::default(),
        }
    }

    /// Changes the weather; what is under way keeps its time.
    pub fn set_weather(&self, weather: Weather) {
        lock(&self.0).weather = weather;
    }

    /// Moves the clock on and delivers what is due.
    pub fn advance(&self, now: Now) {
        lock(&self.0).advance(now);
    }

    /// When the next datagram is due.
    pub fn next(&self) -> Option<Now> {
        lock(&self.0).flying.keys().next().map(|(at, _)| *at)
    }

    /// What was done so far.
    pub fn counts(&self) -> FabricCounts {
        lock(&self.0).counts
    }

    /// Puts a datagram of any content on the wire, as a foreign sender would.
    pub fn inject(&self, from: IpAddr, to: IpAddr, bytes: Vec<u8>) {
        lock(&self.0).send(Datagram {
            to,
            from,
            chained: false,
            bytes,
        });
    }

    /// The same to the chain transport's port.
    pub fn inject_chained(&self, from: IpAddr, to: IpAddr, bytes: Vec<u8>) {
        lock(&self.0).send(Datagram {
            to,
            from,
            chained: true,
            bytes,
        });
    }
}

impl Wires {
    fn advance(&mut self, now: Now) {
        self.now = self.now.max(now);
        while let Some(entry) = self.flying.first_entry() {
            if entry.key().0 > self.now {
                return;
            }
            let datagram = entry.remove();
            let capacity = self.weather.capacity;
            match self.hosts.get_mut(&datagram.to) {
                Some(queue) if queue.len() < capacity => {
                    queue.push_back(datagram);
                    self.counts.delivered += 1;
                }
                _ => self.counts.undelivered += 1,
            }
        }
    }

    fn send(&mut self, datagram: Datagram) {
        self.counts.sent += 1;
        let weather = self.weather;
        if self.random.happens(weather.loss) {
            self.counts.lost += 1;
            return;
        }
        let twice = self.random.happens(weather.duplicate);
        if twice {
            self.counts.duplicated += 1;
            self.fly(Datagram {
                bytes: datagram.bytes.clone(),
                ..datagram
            });
        }
        self.fly(datagram);
    }

    fn fly(&mut self, datagram: Datagram) {
        if self.flying.len() >= self.weather.capacity {
            self.counts.undelivered += 1;
            return;
        }
        let mut at = self.now + self.weather.delay;
        if self.random.happens(self.weather.reorder) {
            let jitter = usize::try_from(self.weather.jitter.as_nanos()).unwrap_or(usize::MAX);
            at = at + Duration::from_nanos(self.random.below(jitter) as u64);
        }
        self.sequence += 1;
        self.flying.insert((at, self.sequence), datagram);
        let now = self.now;
        self.advance(now);
    }
}

/// One host's end of a [`Fabric`].
#[derive(Debug)]
pub struct MemoryUnderlay {
    wires: Arc<Mutex<Wires>>,
    vtep: IpAddr,
    coalescer: Coalescer<Tag>,
}

impl MemoryUnderlay {
    /// The datagrams of one frame; super-frames are cut, and TCP at what the wire takes.
    fn datagrams(frame: &mut Tunnelled, max: usize) -> Result<Vec<Vec<u8>>, DropReason> {
        let header = frame.outer();
        let packet = &mut frame.packet;
        // Whoever filled it may not have parsed it; one that does not parse goes as it is.
        let parsed = packet.parse().is_ok();
        let room = max.saturating_sub(header.len());
        let mut offload = packet.offload();
        let headers = *packet.headers();
        if !parsed || (packet.segments() == 1 && packet.len() <= room) {
            if parsed {
                offload::finish(packet.bytes_mut(), &headers, &mut offload);
            }
            return Ok(vec![[&header[..], packet.bytes()].concat()]);
        }
        let limit = room.saturating_sub(headers.payload_at.into());
        let mut segments = Segments::new(packet.bytes(), &headers, &offload, limit)?;
        let mut out = Vec::with_capacity(segments.left());
        let mut head = vec![0; segments.header_len()];
        while let Some(payload) = segments.next_into(&mut head) {
            out.push([&header[..], &head, payload].concat());
        }
        Ok(out)
    }
}

impl Underlay for MemoryUnderlay {
    fn rx(
        &mut self,
        pool: &mut PacketPool,
        admit: &dyn Fn(IpAddr) -> bool,
        out: &mut Vec<Tunnelled>,
        refused: &mut Refused,
    ) -> Rx {
        let mut wires = lock(&self.wires);
        let Some(queue) = wires.hosts.get_mut(&self.vtep) else {
            return Rx::Gone;
        };
        let mut emit = |packet: Packet, tag| out.push(tagged(packet, tag));
        let mut end = Rx::Drained;
        for _ in 0..net::batch::BATCH {
            let Some(datagram) = queue.pop_front() else {
                break;
            };
            let (from, bytes) = (datagram.from, &datagram.bytes);
            let verdict = match open(bytes, from, datagram.chained) {
                _ if !admit(from) => Err(DropReason::UnknownVtep),
                Err(reason) => Err(reason),
                Ok((tag, frame)) => self
                    .coalescer
                    .push(pool, frame, tag, (LARGE, None), &mut emit)
                    .or(Err(DropReason::PoolExhausted)),
            };
            if let Err(reason) = verdict {
                if let Some(mut packet) = pool.take(bytes.len())
                    && packet.fill(bytes).is_ok()
                {
                    refused.push((packet, reason));
                } else {
                    queue.push_front(datagram);
                    end = Rx::Starved;
                    break;
                }
            }
            end = Rx::More;
        }
        if queue.is_empty() && end == Rx::More {
            end = Rx::Drained;
        }
        self.coalescer.flush(&mut emit);
        end
    }

    fn tx(
        &mut self,
        pool: &mut PacketPool,
        frames: &mut Vec<Tunnelled>,
        refused: &mut Vec<Unsent>,
    ) -> u64 {
        let mut wires = lock(&self.wires);
        let max = wires.weather.payload_max;
        let mut sent = 0;
        for mut frame in frames.drain(..) {
            match Self::datagrams(&mut frame, max) {
                Ok(datagrams) => {
                    // A frame that had to be cut finer than its sender asked still counts what it was when it came.
                    sent += u64::from(frame.packet.segments());
                    for bytes in datagrams {
                        wires.send(Datagram {
                            to: frame.vtep,
                            from: self.vtep,
                            chained: frame.nsh.is_some(),
                            bytes,
                        });
                    }
                    pool.give(frame.packet);
                }
                Err(reason) => {
                    let large = reason == DropReason::MtuExceeded;
                    let room = large.then(|| super::inner_room(max, frame.outer().len()));
                    let room = room.flatten();
                    refused.push(Unsent {
                        frame,
                        reason,
                        room,
                    });
                }
            }
        }
        sent
    }
}

#[cfg(test)]
mod tests;
