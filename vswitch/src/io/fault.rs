//! What if a device misbehaves?
//!
//! A decorator around any port: frames that come in are damaged, cut short, doubled or lost, and writes fail, under a
//! seeded coin. For tests of what is above.

use std::os::fd::BorrowedFd;

use net::{Batch, DropReason, PacketPool};

use super::{PortIo, Refused, Rx, random::Random};

/// How often what goes wrong, in parts of a million.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct FaultRates {
    /// One bit of a frame that comes in is flipped.
    pub flip: u32,
    /// A frame that comes in ends early.
    pub truncate: u32,
    /// A frame that comes in comes twice.
    pub duplicate: u32,
    /// A frame that comes in is lost before the switch sees it, as on any link.
    pub lose: u32,
    /// A write fails.
    pub refuse: u32,
}

/// A port with faults.
#[derive(Debug)]
pub struct Faulty<P> {
    port: P,
    rates: FaultRates,
    random: Random,
    read: Batch,
}

impl<P> Faulty<P> {
    /// Puts faults in front of a port.
    pub fn new(port: P, rates: FaultRates, seed: u64) -> Self {
        Self {
            port,
            rates,
            random: Random::new(seed),
            read: Batch::new(),
        }
    }
}

impl<P: PortIo> PortIo for Faulty<P> {
    fn rx(&mut self, pool: &mut PacketPool, batch: &mut Batch, refused: &mut Refused) -> Rx {
        let end = self.port.rx(pool, &mut self.read, refused);
        for mut packet in self.read.drain() {
            if self.random.happens(self.rates.lose) {
                pool.give(packet);
                continue;
            }
            if self.random.happens(self.rates.flip) {
                let at = self.random.below(packet.len());
                let bit = 1u8 << self.random.below(8);
                if let Some(byte) = packet.bytes_mut().get_mut(at) {
                    *byte ^= bit;
                }
            }
            if self.random.happens(self.rates.truncate) {
                let len = self.random.below(packet.len());
                if packet.set_len(len).is_err() {
                    debug_assert!(false, "a shorter frame fits");
                }
            }
            let twin = if self.random.happens(self.rates.duplicate) {
                pool.copy(&packet)
            } else {
                None
            };
            for packet in [Some(packet), twin].into_iter().flatten() {
                if let Err(packet) = batch.push(packet) {
                    // Its own frame, never the device's last word: a full batch loses it before the switch saw it.
                    pool.give(packet);
                }
            }
        }
        end
    }

    fn tx(&mut self, pool: &mut PacketPool, batch: &mut Batch, refused: &mut Refused) -> u64 {
        let (random, rates) = (&mut self.random, &self.rates);
        batch.judge(
            |_| {
                if random.happens(rates.refuse) {
                    Err(DropReason::PortSend)
                } else {
                    Ok(())
                }
            },
            |packet, reason| refused.push((packet, reason)),
        );
        self.port.tx(pool, batch, refused)
    }

    fn poll_fd(&self) -> Option<BorrowedFd<'_>> {
        self.port.poll_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::io::memory::{Frame, MemoryPort};

    fn run(seed: u64, rates: FaultRates) -> Vec<Vec<u8>> {
        let (port, workload) = MemoryPort::new(100);
        let mut port = Faulty::new(port, rates, seed);
        let mut pool = PacketPool::new(200, 1);
        let (mut batch, mut refused) = (Batch::new(), vec![]);
        for n in 0..30u8 {
            let bytes = vec![n; 60];
            let frame = Frame {
                bytes,
                ..Frame::default()
            };
            workload.send(frame).unwrap();
        }
        assert_eq!(port.rx(&mut pool, &mut batch, &mut refused), Rx::Drained);
        let read: Vec<_> = batch.iter().map(|p| p.bytes().to_vec()).collect();
        let all = read.len() as u64;
        let sent = port.tx(&mut pool, &mut batch, &mut refused);
        assert_eq!(sent + refused.len() as u64, all);
        read
    }

    #[test]
    fn the_same_seed_gives_the_same_faults_and_none_without_rates() {
        let clean = run(1, FaultRates::default());
        assert_eq!(clean.len(), 30);
        assert!(
            clean
                .iter()
                .enumerate()
                .all(|(n, f)| f == &vec![u8::try_from(n).unwrap(); 60])
        );
        let rates = FaultRates {
            flip: 200_000,
            truncate: 200_000,
            duplicate: 200_000,
            lose: 200_000,
            refuse: 200_000,
        };
        assert_eq!(run(7, rates), run(7, rates));
        assert_ne!(run(7, rates), run(8, rates));
        assert_ne!(run(7, rates), clean);
    }
}
