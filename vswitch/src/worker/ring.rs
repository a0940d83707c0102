//! How does a packet get from one worker to another?
//!
//! Over a bounded ring for each ordered pair. A worker that sleeps is woken by its bell (an eventfd); one that is awake
//! looks at its rings each turn, so a busy pair makes no system call.
//!
//! A packet that is handed over leaves its pool for good, so the taker sends an empty one of the same size back: pools keep
//! what they have, also when all traffic goes one way.
//!
//! # Invariants
//! - A full ring refuses; it never blocks.
//! - Order is kept within a pair.
//! - No wake-up is lost: a sleeper says that it sleeps before it looks at its rings for the last time.

use std::{
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering, fence},
    },
};

use net::{Batch, Packet, PacketPool};
use rtrb::{Consumer, Producer, RingBuffer};
use rustix::event::{EventfdFlags, eventfd};

use crate::datapath::WorkerId;

/// Wakes a worker.
#[derive(Debug, Clone)]
pub(super) struct Bell(Arc<OwnedFd>);

impl Bell {
    fn new() -> io::Result<Self> {
        let flags = EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK;
        Ok(Self(Arc::new(eventfd(0, flags)?)))
    }

    pub(super) fn ring(&self) {
        // It fails only when it has rung 2^64 times unheard: heard it is then all the same.
        let _rung = rustix::io::write(&*self.0, &1u64.to_ne_bytes());
    }

    pub(super) fn silence(&self) {
        // Silent already is what was wanted.
        let _heard = rustix::io::read(&*self.0, &mut [0; 8]);
    }
}

impl AsFd for Bell {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// A ring to another worker, and the one on which empty packets come back.
#[derive(Debug)]
struct To {
    ring: Producer<Packet>,
    empties: Consumer<Packet>,
    asleep: Arc<AtomicBool>,
    bell: Bell,
    /// Was something put into it since its worker was last woken?
    fed: bool,
}

/// A ring from another worker, and the one on which empty packets go back.
#[derive(Debug)]
struct From {
    ring: Consumer<Packet>,
    empties: Producer<Packet>,
    /// Packets not sent back yet: ordinary and large ones.
    owed: [usize; 2],
}

/// A worker's place among the others: its rings and its bell.
#[derive(Debug)]
pub struct Seat {
    id: WorkerId,
    bell: Bell,
    asleep: Arc<AtomicBool>,
    to: Vec<Option<To>>,
    from: Vec<From>,
}

/// The seats of `workers` workers, with rings of `capacity` packets between each two.
///
/// # Errors
/// When the kernel has no eventfd for one.
pub fn crew(workers: u16, capacity: usize) -> io::Result<Vec<Seat>> {
    let mut seats = (0..workers)
        .map(|id| {
            Ok(Seat {
                id: WorkerId(id),
                bell: Bell::new()?,
                asleep: Arc::default(),
                to: Vec::new(),
                from: Vec::new(),
            })
        })
        .collect::<io::Result<Vec<_>>>()?;
    let ends: Vec<_> = seats
        .iter()
        .map(|s| (Arc::clone(&s.asleep), s.bell.clone()))
        .collect();
    let mut consumers: Vec<Vec<From>> = (0..workers).map(|_| Vec::new()).collect();
    for (from, seat) in seats.iter_mut().enumerate() {
        for ((to, (asleep, bell)), received) in ends.iter().enumerate().zip(&mut consumers) {
            if from == to {
                seat.to.push(None);
                continue;
            }
            let (ring, consumer) = RingBuffer::new(capacity);
            let (sent_back, empties) = RingBuffer::new(capacity);
            received.push(From {
                ring: consumer,
                empties: sent_back,
                owed: [0, 0],
            });
            seat.to.push(Some(To {
                ring,
                empties,
                asleep: Arc::clone(asleep),
                bell: bell.clone(),
                fed: false,
            }));
        }
    }
    for (seat, from) in seats.iter_mut().zip(consumers) {
        seat.from = from;
    }
    Ok(seats)
}

impl Seat {
    /// Whose it is.
    pub fn id(&self) -> WorkerId {
        self.id
    }

    pub(super) fn bell(&self) -> &Bell {
        &self.bell
    }

    /// How many others hand packets over.
    pub(super) fn peers(&self) -> usize {
        self.from.len()
    }

    /// Hands a packet over.
    ///
    /// # Errors
    /// Gives it back when the ring is full, or there is no such worker.
    pub(super) fn hand(&mut self, to: WorkerId, packet: Packet) -> Result<(), Packet> {
        let Some(Some(to)) = self.to.get_mut(usize::from(to.0)) else {
            return Err(packet);
        };
        match to.ring.push(packet) {
            Ok(()) => {
                to.fed = true;
                Ok(())
            }
            Err(rtrb::PushError::Full(packet)) => Err(packet),
        }
    }

    /// Wakes those who sleep and were handed something.
    pub(super) fn ring_bells(&mut self) {
        for to in self.to.iter_mut().flatten() {
            if std::mem::take(&mut to.fed) {
                // Pairs with the fence of `may_sleep`: either it sees the packet, or we see it asleep.
                fence(Ordering::SeqCst);
                if to.asleep.swap(false, Ordering::SeqCst) {
                    to.bell.ring();
                }
            }
        }
    }

    /// Takes one batch from a peer; says whether there is more.
    pub(super) fn receive(&mut self, peer: usize, batch: &mut Batch) -> bool {
        let Some(From { ring, owed, .. }) = self.from.get_mut(peer) else {
            return false;
        };
        while !batch.is_full() {
            let Ok(packet) = ring.pop() else {
                return false;
            };
            let [small, large] = owed;
            *(if packet.is_large() { large } else { small }) += 1;
            if batch.push(packet).is_err() {
                // It was not full.
                return true;
            }
        }
        !ring.is_empty()
    }

    /// Sends back as many empty packets as were taken, as far as there are any.
    pub(super) fn repay(&mut self, pool: &mut PacketPool) {
        for From { empties, owed, .. } in &mut self.from {
            let [small, large] = owed;
            for (owed, take) in [
                (small, PacketPool::take_small as fn(&mut PacketPool) -> _),
                (large, PacketPool::take_large),
            ] {
                while *owed > 0 && !empties.is_full() {
                    let Some(empty) = take(pool) else {
                        break;
                    };
                    if let Err(rtrb::PushError::Full(empty)) = empties.push(empty) {
                        pool.give(empty);
                        break;
                    }
                    *owed -= 1;
                }
            }
        }
    }

    /// Takes the empty packets that came back.
    pub(super) fn collect(&mut self, pool: &mut PacketPool) {
        for to in self.to.iter_mut().flatten() {
            while let Ok(empty) = to.empties.pop() {
                pool.give(empty);
            }
        }
    }

    /// Says that this worker is about to sleep, unless something came meanwhile.
    pub(super) fn may_sleep(&self) -> bool {
        self.asleep.store(true, Ordering::SeqCst);
        fence(Ordering::SeqCst);
        let may = self.from.iter().all(|f| f.ring.is_empty());
        if !may {
            self.woke();
        }
        may
    }

    pub(super) fn woke(&self) {
        self.asleep.store(false, Ordering::SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use net::PacketPool;

    use super::*;

    #[test]
    fn packets_arrive_in_order_and_a_full_ring_refuses() {
        let mut seats = crew(2, 3).unwrap();
        let (mut b, mut a) = (seats.pop().unwrap(), seats.pop().unwrap());
        let mut pool = PacketPool::new(10, 0);
        for n in 0..3u32 {
            let mut packet = pool.take_small().unwrap();
            packet.set_tag(n);
            a.hand(WorkerId(1), packet).unwrap();
        }
        let fourth = pool.take_small().unwrap();
        let fourth = a.hand(WorkerId(1), fourth).unwrap_err();
        assert!(
            a.hand(WorkerId(0), fourth).is_err(),
            "nobody hands to itself"
        );
        let mut batch = Batch::new();
        assert!(!b.receive(0, &mut batch));
        let tags: Vec<_> = batch.iter().map(Packet::tag).collect();
        assert_eq!(tags, [0, 1, 2]);
    }

    #[test]
    fn for_each_packet_that_was_taken_an_empty_one_comes_back() {
        let mut seats = crew(2, 8).unwrap();
        let (mut b, mut a) = (seats.pop().unwrap(), seats.pop().unwrap());
        let (mut mine, mut theirs) = (PacketPool::new(3, 2), PacketPool::new(3, 2));
        let mut batch = Batch::new();
        for _ in 0..50 {
            for packet in [mine.take_small(), mine.take_large()] {
                a.hand(WorkerId(1), packet.unwrap()).unwrap();
            }
            b.receive(0, &mut batch);
            batch.drain().for_each(|p| theirs.give(p));
            b.repay(&mut theirs);
            a.collect(&mut mine);
        }
        assert_eq!(mine.available(), (3, 2));
        // One that has none to send owes it until it has.
        let held: Vec<_> = std::iter::from_fn(|| theirs.take_small()).collect();
        a.hand(WorkerId(1), mine.take_small().unwrap()).unwrap();
        b.receive(0, &mut batch);
        b.repay(&mut theirs);
        a.collect(&mut mine);
        assert_eq!(mine.available(), (2, 2));
        for packet in held {
            theirs.give(packet);
        }
        b.repay(&mut theirs);
        a.collect(&mut mine);
        assert_eq!(mine.available(), (3, 2));
    }

    #[test]
    fn a_sleeper_is_woken_and_one_that_has_mail_does_not_sleep() {
        let mut seats = crew(2, 3).unwrap();
        let (b, mut a) = (seats.pop().unwrap(), seats.pop().unwrap());
        let rung = |seat: &Seat| rustix::io::read(seat.bell(), &mut [0u8; 8]).is_ok();
        let mut pool = PacketPool::new(10, 0);
        assert!(b.may_sleep());
        a.hand(WorkerId(1), pool.take_small().unwrap()).unwrap();
        assert!(!rung(&b));
        a.ring_bells();
        assert!(rung(&b));
        assert!(!b.may_sleep(), "it has mail");
        a.hand(WorkerId(1), pool.take_small().unwrap()).unwrap();
        a.ring_bells();
        assert!(!rung(&b), "it is awake: no system call");
    }
}
