//! How do packets get from the workers to the service, and back?
//!
//! One bounded queue to the service, one bounded ring from it to each worker. Neither end ever waits for the other: what finds no room is
//! refused by the worker, and made again by TCP.

use std::net::SocketAddr;

use net::{Checksum, Id, L3, Mac, Origin, Packet, ids::kind};
use rtrb::{Consumer, Producer, RingBuffer};
use tokio::sync::mpsc;

use crate::datapath::Tables;

const SYN: u16 = 0x02;
const RST: u16 = 0x04;
const ACK: u16 = 0x10;

/// A packet for the service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Inward {
    /// The worker that had it.
    pub worker: usize,
    /// The port that it came from: who asks.
    pub port: Id<kind::Port>,
    /// Its Ethernet source and destination.
    pub eth: (Mac, Mac),
    /// The largest IP packet of the port's network.
    pub mtu: usize,
    /// Where it says that it is from.
    pub from: SocketAddr,
    /// What it is for: one of the service's ends; or the workload's own, of what answers the service.
    pub to: SocketAddr,
    /// Is it to open a connection?
    pub opens: bool,
    /// Is its checksum still to be made, or verified already?
    pub verified: bool,
    /// Where its TCP header begins.
    pub l4: usize,
    /// The IP packet; of a super-frame, all of it.
    pub ip: Box<[u8]>,
}

impl Inward {
    /// A copy of a packet that a port sent; `None`: it is none.
    pub fn of(packet: &Packet, tables: &Tables, worker: usize) -> Option<Self> {
        let Origin::Port(port) = packet.origin() else {
            return None;
        };
        let port = tables.port(port)?;
        let (headers, key) = (packet.headers(), packet.key());
        if !matches!(headers.l3, L3::Ipv4 | L3::Ipv6) {
            return None;
        }
        let at = usize::from(headers.l3_at);
        let end = usize::try_from(headers.end).ok()?;
        let opens = key.tcp_flags & (SYN | RST | ACK) == SYN;
        let checksum = packet.offload().checksum;
        Some(Self {
            worker,
            port: port.id,
            eth: (key.src_mac(), key.dst_mac()),
            mtu: usize::from(port.mtu.get()),
            from: SocketAddr::new(key.src_addr(), key.l4_src),
            to: SocketAddr::new(key.dst_addr(), key.l4_dst),
            opens,
            verified: checksum != Checksum::Unverified,
            l4: usize::from(headers.l4_at).checked_sub(at)?,
            ip: packet.bytes().get(at..end)?.into(),
        })
    }
}

/// A frame of the service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outward {
    /// The port that it is for, or in whose name it is sent.
    pub port: Id<kind::Port>,
    /// The frame, its checksums made.
    pub frame: Vec<u8>,
    /// Is it sent in the port's name, as if that had sent it?
    pub sent: bool,
}

/// A worker's way to the service and back.
#[derive(Debug)]
pub struct Hatch {
    worker: usize,
    inward: mpsc::Sender<Inward>,
    outward: Consumer<Outward>,
}

impl Hatch {
    /// Hands a packet in; `false`: there is no room, or no service.
    pub fn hand(&self, packet: &Packet, tables: &Tables) -> bool {
        // Whoever finds no room has not even copied it.
        let Ok(room) = self.inward.try_reserve() else {
            return false;
        };
        match Inward::of(packet, tables, self.worker) {
            Some(inward) => {
                room.send(inward);
                true
            }
            None => false,
        }
    }

    /// The same of what was read already.
    #[cfg(test)]
    pub(super) fn put(&self, inward: Inward) -> bool {
        self.inward.try_send(inward).is_ok()
    }

    /// The next frame to send.
    pub fn pop(&mut self) -> Option<Outward> {
        self.outward.pop().ok()
    }
}

/// The service's ends of all hatches.
#[derive(Debug)]
pub(super) struct Doors {
    pub(super) inward: mpsc::Receiver<Inward>,
    /// By worker.
    pub(super) outward: Vec<Producer<Outward>>,
}

/// A hatch for each worker.
pub(super) fn hatches(workers: u16, inward: usize, outward: usize) -> (Doors, Vec<Hatch>) {
    let (to, taken) = mpsc::channel(inward);
    let mut doors = Doors {
        inward: taken,
        outward: Vec::new(),
    };
    let hatches = (0..usize::from(workers)).map(|worker| {
        let (producer, consumer) = RingBuffer::new(outward);
        doors.outward.push(producer);
        Hatch {
            worker,
            inward: to.clone(),
            outward: consumer,
        }
    });
    let hatches = hatches.collect();
    (doors, hatches)
}
