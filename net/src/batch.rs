//! What moves through the corridor at a time?
//!
//! Up to 64 packets, in order. The only way out of a batch is a verdict with a reason, or taking all of it.

use crate::packet::Packet;

/// The most packets that a batch holds.
pub const BATCH: usize = 64;

/// Up to [`BATCH`] packets, in order of arrival. Allocates once, when it is made.
#[derive(Debug)]
pub struct Batch(Vec<Packet>, usize);

impl Default for Batch {
    fn default() -> Self {
        Self::new()
    }
}

impl Batch {
    /// An empty batch.
    pub fn new() -> Self {
        Self(Vec::with_capacity(BATCH), BATCH)
    }

    /// Is full with so many packets from now on, 1 to [`BATCH`]; those that it holds stay.
    pub fn set_room(&mut self, packets: usize) {
        self.1 = packets.clamp(1, BATCH);
    }

    /// Adds a packet, or gives it back when the batch is full.
    ///
    /// # Errors
    /// When the batch is full.
    pub fn push(&mut self, packet: Packet) -> Result<(), Packet> {
        if self.is_full() {
            return Err(packet);
        }
        self.0.push(packet);
        Ok(())
    }

    /// How many packets there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Is there none?
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Is there no room for another?
    pub fn is_full(&self) -> bool {
        self.0.len() >= self.1
    }

    /// The packets.
    pub fn iter(&self) -> std::slice::Iter<'_, Packet> {
        self.0.iter()
    }

    /// The packets, to change.
    pub fn iter_mut(&mut self) -> std::slice::IterMut<'_, Packet> {
        self.0.iter_mut()
    }

    /// Takes all packets out, in order.
    pub fn drain(&mut self) -> std::vec::Drain<'_, Packet> {
        self.0.drain(..)
    }

    /// Judges each packet in order: one that gets an `Err` leaves the batch into `out` with its reason, the others stay in order.
    pub fn judge<R>(
        &mut self,
        mut verdict: impl FnMut(&mut Packet) -> Result<(), R>,
        mut out: impl FnMut(Packet, R),
    ) {
        let mut at = 0;
        while let Some(packet) = self.0.get_mut(at) {
            match verdict(packet) {
                Ok(()) => at += 1,
                // Refusals are the exception: moving at most 63 pointers keeps the order without a second buffer.
                Err(reason) => out(self.0.remove(at), reason),
            }
        }
    }
}

impl<'a> IntoIterator for &'a Batch {
    type Item = &'a Packet;
    type IntoIter = std::slice::Iter<'a, Packet>;
    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

impl<'a> IntoIterator for &'a mut Batch {
    type Item = &'a mut Packet;
    type IntoIter = std::slice::IterMut<'a, Packet>;
    fn into_iter(self) -> Self::IntoIter {
        self.iter_mut()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{DropReason, PacketPool};

    #[test]
    fn judging_keeps_order_and_names_each_removal() {
        let mut pool = PacketPool::new(10, 0);
        let mut batch = Batch::new();
        for n in 0..10u8 {
            let mut p = pool.take_small().unwrap();
            p.fill(&[n]).unwrap();
            batch.push(p).unwrap();
        }
        let mut gone = vec![];
        batch.judge(
            |p| {
                if p.bytes()[0] % 3 == 0 {
                    Err(DropReason::HopLimit)
                } else {
                    Ok(())
                }
            },
            |p, r| gone.push((p.bytes()[0], r)),
        );
        assert_eq!(gone.iter().map(|g| g.0).collect::<Vec<_>>(), [0, 3, 6, 9]);
        assert_eq!(
            batch.iter().map(|p| p.bytes()[0]).collect::<Vec<_>>(),
            [1, 2, 4, 5, 7, 8]
        );
    }
}
