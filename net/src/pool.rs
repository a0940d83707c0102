//! Where do packets come from, and where do they go?
//!
//! The only allocator of packets. Buffers of two sizes: small ones hold any frame of an ordinary MTU, large ones a whole
//! super-frame. Both are made on first need up to a limit, then only reused.
//!
//! # Attack
//! Whoever makes the switch hold packets exhausts the pool, and what then arrives is dropped and counted; memory does not
//! grow past the limits given.

use crate::packet::{LARGE, Packet, SMALL};

/// A pool of packets, owned by one worker.
#[derive(Debug)]
pub struct PacketPool {
    small: Shelf,
    large: Shelf,
}

#[derive(Debug)]
struct Shelf {
    free: Vec<Packet>,
    made: usize,
    limit: usize,
    room: usize,
}

impl Shelf {
    fn new(limit: usize, room: usize) -> Self {
        Self {
            free: Vec::with_capacity(limit.min(1024)),
            made: 0,
            limit,
            room,
        }
    }

    #[inline]
    fn take(&mut self) -> Option<Packet> {
        self.free.pop().or_else(|| self.make())
    }

    fn make(&mut self) -> Option<Packet> {
        if self.made == self.limit {
            return None;
        }
        self.made += 1;
        Some(Packet::allocate(self.room))
    }
}

impl PacketPool {
    /// A pool of at most `small` ordinary and `large` super-frame buffers (2 KiB and 66 KiB each).
    pub fn new(small: usize, large: usize) -> Self {
        Self {
            small: Shelf::new(small, SMALL),
            large: Shelf::new(large, LARGE),
        }
    }

    /// A buffer for an ordinary frame; `None` when all are in use.
    #[inline]
    pub fn take_small(&mut self) -> Option<Packet> {
        self.small.take()
    }

    /// A buffer for a super-frame; `None` when all are in use.
    pub fn take_large(&mut self) -> Option<Packet> {
        self.large.take()
    }

    /// The smallest buffer that holds `len` bytes; `None` when all are in use or none is large enough.
    pub fn take(&mut self, len: usize) -> Option<Packet> {
        match len {
            0..=SMALL => self.small.take(),
            _ if len <= LARGE => self.large.take(),
            _ => None,
        }
    }

    /// A copy of `packet` in the smallest buffer that holds it.
    pub fn copy(&mut self, packet: &Packet) -> Option<Packet> {
        let mut copy = self.take(packet.len())?;
        if copy.copy_from(packet).is_ok() {
            return Some(copy);
        }
        self.give(copy);
        None
    }

    /// Takes a packet back. One from another worker's pool is welcome: it moves its count here.
    #[inline]
    pub fn give(&mut self, mut packet: Packet) {
        packet.reset();
        let shelf = if packet.is_large() {
            &mut self.large
        } else {
            &mut self.small
        };
        // Packets that wander between workers may pile up at one of them: past its limit the buffer is freed.
        if shelf.free.len() < shelf.limit {
            shelf.free.push(packet);
        }
    }

    /// How many packets there may be: [small, large].
    pub fn limits(&self) -> [usize; 2] {
        [self.small.limit, self.large.limit]
    }

    /// How many packets could still be taken: (small, large).
    pub fn available(&self) -> (usize, usize) {
        let of = |s: &Shelf| s.free.len() + (s.limit - s.made);
        (of(&self.small), of(&self.large))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pool_never_gives_more_than_its_limit() {
        let mut pool = PacketPool::new(2, 1);
        let (a, b) = (pool.take_small().unwrap(), pool.take(100).unwrap());
        assert!(pool.take_small().is_none());
        assert!(pool.take(SMALL + 1).unwrap().is_large());
        assert!(pool.take_large().is_none());
        assert!(pool.take(LARGE + 1).is_none());
        pool.give(a);
        pool.give(b);
        assert_eq!(pool.available().0, 2);
    }

    #[test]
    fn headroom_is_pushed_and_pulled() {
        let mut pool = PacketPool::new(1, 0);
        let mut p = pool.take_small().unwrap();
        p.fill(b"payload").unwrap();
        p.push_front(8).unwrap().copy_from_slice(b"12345678");
        assert_eq!(p.bytes(), b"12345678payload");
        assert!(p.pull_front(8));
        assert_eq!(p.bytes(), b"payload");
        assert!(!p.pull_front(8));
        assert!(p.push_front(crate::packet::HEADROOM + 1).is_none());
    }
}
