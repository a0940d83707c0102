//! Frames in, frames out, and a clock beside it.

use std::{
    net::{IpAddr, Ipv4Addr},
    sync::Arc,
    time::{Duration, Instant},
};

use net::{Batch, DropReason, Now, Origin, Packet, PacketPool, batch::BATCH};
use nfv::conntrack::Entry;
use overlay::{entropy, vxlan};

use super::{
    BenchError, Work,
    replay::{OUTER, Replay, dress, empty, unfitted},
    world,
};
use crate::{
    datapath::{Claims, Datapath, Out, Rates, Settings, Tables},
    io::Tunnelled,
    worker::monotonic,
};

/// Batches between two looks at the clock.
const ROUND: usize = 64;

pub(super) struct Rig {
    work: Work,
    flows: u32,
    tables: Tables,
    replay: Replay,
    origin: Origin,
    datapath: Datapath,
    pool: PacketPool,
    batch: Batch,
    sent: Batch,
    out: Out,
    /// The outer headers of an empty frame, and their sum.
    outer: ([u8; OUTER], u32),
}

fn datapath(flows: u32, now: Now) -> Datapath {
    let places = flows as usize + flows as usize / 8 + 4096;
    let settings = Settings {
        project_connections: u32::MAX,
        // One port does all the work here.
        rates: Rates::NONE,
        seed: 0x5eed,
        ..Settings::default()
    };
    let claims = Arc::new(Claims::new(flows as usize + 1, 1));
    Datapath::new(settings, vec![Entry::default(); places], 0, claims, now)
}

impl Rig {
    pub(super) fn new(work: Work, flows: u32) -> Result<Self, BenchError> {
        let tables = world::tables(work)?;
        let outer = empty((world::HERE, world::FAR));
        let sender = tables
            .port_by_id(world::id(world::SENDER_PORT)?)
            .ok_or_else(|| BenchError::Config("no sender".to_owned()))?;
        let origin = Origin::Port(sender.dense);
        let mut rig = Self {
            work,
            flows,
            tables,
            replay: Replay::new(work, flows),
            origin,
            datapath: datapath(flows, monotonic()),
            pool: PacketPool::new(1024, 1),
            batch: Batch::new(),
            sent: Batch::new(),
            out: Out::new(),
            outer: (outer, unfitted(&outer)),
        };
        if !matches!(work, Work::SetUp(_)) {
            // Every flow is known before the first run.
            let batches = rig.replay.len().div_ceil(BATCH);
            for _ in 0..batches * 2 {
                rig.turn(monotonic());
            }
        }
        Ok(rig)
    }

    /// Millions of packets a second, copied and freed.
    pub(super) fn floor(&mut self, run: Duration) -> f64 {
        let begin = Instant::now();
        let mut packets = 0u64;
        loop {
            for _ in 0..ROUND {
                self.read();
                for packet in self.batch.drain() {
                    packets += 1;
                    self.pool.give(packet);
                }
            }
            let spent = begin.elapsed();
            if spent >= run {
                return rate(packets, spent);
            }
        }
    }

    /// Millions of packets a second, all the way.
    pub(super) fn whole(&mut self, run: Duration) -> Result<f64, BenchError> {
        if matches!(self.work, Work::SetUp(_)) {
            return self.set_up();
        }
        let begin = Instant::now();
        let (mut packets, mut delivered) = (0, 0);
        loop {
            let now = monotonic();
            for _ in 0..ROUND {
                let (of, sent) = self.turn(now);
                packets += of;
                delivered += sent;
            }
            let spent = begin.elapsed();
            if spent >= run {
                self.complete(packets, delivered)?;
                return Ok(rate(packets, spent));
            }
        }
    }

    /// Every flow once, on an empty table.
    fn set_up(&mut self) -> Result<f64, BenchError> {
        self.datapath = datapath(self.flows, monotonic());
        self.replay.rewind();
        let mut left = self.replay.len();
        let (mut packets, mut delivered) = (0, 0);
        let begin = Instant::now();
        while left > 0 {
            let (of, sent) = self.turn(monotonic());
            packets += of;
            delivered += sent;
            left = left.saturating_sub(BATCH);
        }
        let spent = begin.elapsed();
        self.complete(packets, delivered)?;
        Ok(rate(packets, spent))
    }

    fn complete(&self, sent: u64, delivered: u64) -> Result<(), BenchError> {
        if sent == delivered && self.datapath.ledger().balanced().is_ok() {
            return Ok(());
        }
        let reason = DropReason::ALL
            .iter()
            .find(|r| self.datapath.ledger().dropped(**r) > 0);
        Err(BenchError::Lost {
            work: self.work,
            sent,
            delivered,
            reason: reason.map_or("none", |r| r.name()).to_owned(),
        })
    }

    /// Fills a batch from the replay buffer.
    fn read(&mut self) {
        while !self.batch.is_full() {
            let Some(mut packet) = self.pool.take_small() else {
                return;
            };
            packet.set_origin(self.origin);
            if packet.fill(self.replay.next()).is_err() {
                return self.pool.give(packet);
            }
            if let Err(packet) = self.batch.push(packet) {
                return self.pool.give(packet);
            }
        }
    }

    /// One batch: how many packets went in, and how many came out.
    fn turn(&mut self, now: Now) -> (u64, u64) {
        if self.work == Work::Decapsulate {
            self.read_tunnel(now);
        } else {
            self.read();
        }
        let packets = self.batch.len() as u64;
        self.datapath.run(
            &self.tables,
            &mut self.batch,
            now,
            &mut self.pool,
            &mut self.out,
        );
        let mut sent = 0;
        for mut frame in self.out.tunnelled.drain(..) {
            sent += u64::from(encapsulate(&mut frame, &self.outer));
            self.pool.give(frame.packet);
        }
        while self.out.next_port(&mut self.sent).is_some() {
            for packet in self.sent.drain() {
                sent += 1;
                self.pool.give(packet);
            }
        }
        (packets, sent)
    }

    /// Fills a batch from datagrams: outer headers are read, checked and taken off.
    fn read_tunnel(&mut self, now: Now) {
        while !self.batch.is_full() {
            let Some(mut packet) = self.pool.take_small() else {
                return;
            };
            let filled = packet.fill(self.replay.next()).is_ok();
            let outer =
                decapsulate(&packet).filter(|(vtep, _)| filled && self.tables.admits(*vtep));
            let Some((vtep, vni)) = outer.filter(|_| packet.pull_front(OUTER)) else {
                return self.pool.give(packet);
            };
            let frame = Tunnelled {
                packet,
                vni,
                vtep,
                nsh: None,
            };
            let entered = self.datapath.enter_tunnel(
                &self.tables,
                frame,
                &mut self.batch,
                now,
                &mut self.pool,
            );
            if let Err(frame) = entered {
                return self.pool.give(frame.packet);
            }
        }
    }
}

/// Writes the outer headers into a frame's headroom: those of an empty frame, with what differs put in.
#[inline]
fn encapsulate(frame: &mut Tunnelled, (template, sum): &([u8; OUTER], u32)) -> bool {
    let IpAddr::V4(vtep) = frame.vtep else {
        return false;
    };
    let port = entropy::source_port(frame.packet.key());
    let inner = u16::try_from(frame.packet.len()).unwrap_or(u16::MAX);
    let Some(room) = frame.packet.push_front(OUTER) else {
        return false;
    };
    let Some(head) = room.first_chunk_mut::<OUTER>() else {
        return false;
    };
    *head = *template;
    dress(head, *sum, inner, vtep, port);
    true
}

/// The sender and the network of a datagram.
#[inline]
fn decapsulate(packet: &Packet) -> Option<(IpAddr, net::Vni)> {
    let (head, rest) = packet.bytes().split_first_chunk::<42>()?;
    let (ip, udp) = head.get(14..)?.split_first_chunk::<20>()?;
    let fits = head.get(12..14)? == [8, 0]
        && ip.first() == Some(&0x45)
        && ip.get(9) == Some(&17)
        && udp.get(2..4)? == vxlan::VXLAN_PORT.to_be_bytes()
        && net::checksum::sum(ip) == 0xffff;
    let (vni, _) = vxlan::split(rest).ok().filter(|_| fits)?;
    let source: [u8; 4] = *ip.get(12..)?.first_chunk()?;
    Some((Ipv4Addr::from(source).into(), vni))
}

#[expect(clippy::cast_precision_loss, reason = "a rate is told in a few digits")]
fn rate(packets: u64, spent: Duration) -> f64 {
    packets as f64 / spent.as_secs_f64() / 1e6
}
