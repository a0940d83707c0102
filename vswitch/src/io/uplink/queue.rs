//! One worker's part of the uplink.
//!
//! Reads and writes its queue of the tap, and asks the sockets for the rest.
//!
//! # Cost
//! One `readv` or `writev` a super-frame or datagram; the bytes are copied once each way. Single frames of one lane that are
//! ready at the same time go through the sockets, which send many with one call.

use std::{
    io::{self, IoSlice, IoSliceMut},
    net::IpAddr,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Instant,
};

use net::{
    DropReason, Gso, Offload, Packet, PacketPool,
    batch::BATCH,
    packet::{LARGE, SMALL},
};
use overlay::vxlan::{self, VXLAN_HEADER};
use rustix::{event::epoll, io::Errno};

use super::{
    Attached, UplinkCounters,
    header::{self, Holds, Inner, LONGEST, VNET},
    path::Ways,
};
use crate::io::{
    Refused, Rx, Tag, Tunnelled, Underlay, Unsent,
    coalesce::Coalescer,
    offload::{self, end, field},
    tagged,
    underlay::{SEND, UdpUnderlay, refuse, wait_for_room},
};

/// Bytes after which one turn of reading ends.
const TURN: usize = 256 * 1024;
/// Packets that the longest train may become.
const TRAIN: usize = 130;
/// Turns after which the sockets are looked at though the tap is busy.
const PATIENCE: u32 = 16;
/// Single frames to one VTEP, from one port, from which on one call that sends them all costs less than a write each.
const MANY: u32 = 4;
/// Segments of a UDP super-frame that every kernel takes (`UDP_MAX_SEGMENTS` was 64 for long).
const UDP_SEGMENTS: usize = 64;

/// The tap of the uplink, with the sockets behind it.
#[derive(Debug)]
pub struct TapUnderlay {
    udp: UdpUnderlay,
    /// The queue, until the tap is gone.
    tap: Option<(OwnedFd, Arc<Attached>)>,
    local: IpAddr,
    ways: Ways,
    counters: Arc<UplinkCounters>,
    /// Both descriptors to wait for.
    epoll: OwnedFd,
    coalescer: Coalescer<Tag>,
    turns: u32,
    /// The socket holds datagrams of which no event will tell.
    more: bool,
    lanes: Lanes,
    /// Frames for the sockets.
    others: Vec<Tunnelled>,
}

fn count(cell: &AtomicU64, more: u64) {
    // The worker is the only writer.
    cell.store(cell.load(Ordering::Relaxed) + more, Ordering::Relaxed);
}

fn segments(frames: &[Tunnelled]) -> u64 {
    frames.iter().map(|t| u64::from(t.packet.segments())).sum()
}

impl TapUnderlay {
    pub(super) fn new(
        udp: UdpUnderlay,
        tap: (OwnedFd, Arc<Attached>),
        local: IpAddr,
        ways: Ways,
        counters: Arc<UplinkCounters>,
    ) -> io::Result<Self> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let none = || epoll::EventData::new_u64(0);
        epoll::add(&epoll, &tap.0, none(), epoll::EventFlags::IN)?;
        for receiver in udp.receivers() {
            epoll::add(&epoll, receiver, none(), epoll::EventFlags::IN)?;
        }
        Ok(Self {
            udp,
            tap: Some(tap),
            local,
            ways,
            counters,
            epoll,
            coalescer: Coalescer::default(),
            turns: 0,
            more: false,
            lanes: Lanes::default(),
            others: Vec::new(),
        })
    }

    /// The tap was deleted: the sockets do it all from here on.
    fn give_up(&mut self, error: Errno) {
        let Some((tap, _)) = self.tap.take() else {
            return;
        };
        tracing::warn!(%error, "the uplink tap is gone; the underlay goes through sockets alone");
        if let Err(error) = epoll::delete(&self.epoll, &tap) {
            tracing::debug!(%error, "the uplink tap was not waited for");
        }
    }
}

// ---- receiving ---------------------------------------------------------------------------------------------------

/// One read: what stands before the inner frame, and where the frame is.
struct Read {
    head: [u8; LONGEST],
    head_len: usize,
    small: bool,
}

/// Reads one frame of any size: small ones end up in the small packet.
fn read(
    tap: &OwnedFd,
    head_len: usize,
    small: &mut Packet,
    large: &mut Packet,
) -> Result<Read, Errno> {
    let mut head = [0; LONGEST];
    let tail = large.room_mut().get_mut(SMALL..).unwrap_or_default();
    let mut parts = [
        IoSliceMut::new(head.get_mut(..head_len).unwrap_or_default()),
        IoSliceMut::new(small.room_mut()),
        IoSliceMut::new(tail),
    ];
    let got = rustix::io::readv(tap, &mut parts)?;
    let len = got.saturating_sub(head_len);
    if small.set_len(len.min(SMALL)).is_err() || large.set_len(len.min(LARGE)).is_err() {
        return Err(Errno::MSGSIZE);
    }
    if len > SMALL {
        offload::put(large.bytes_mut(), 0, small.bytes());
    }
    Ok(Read {
        head,
        head_len: head_len.min(got),
        small: len <= SMALL,
    })
}

impl TapUnderlay {
    /// Reads the tap. Says how it ended, and whether there was anything.
    fn rx_tap(
        &mut self,
        pool: &mut PacketPool,
        admit: &dyn Fn(IpAddr) -> bool,
        out: &mut Vec<Tunnelled>,
        refused: &mut Refused,
    ) -> (Rx, bool) {
        let head_len = VNET + header::outer_len(self.local.is_ipv6());
        let now = Instant::now();
        let mut bytes = 0;
        let mut any = false;
        let end = loop {
            let Some((tap, _)) = &self.tap else {
                break Rx::Drained;
            };
            if out.len() >= BATCH || bytes >= TURN {
                break Rx::More;
            }
            let (smalls, larges) = pool.available();
            if smalls < TRAIN || larges < 3 {
                break Rx::Starved;
            }
            let (Some(mut small), Some(mut large)) = (pool.take_small(), pool.take_large()) else {
                break Rx::Starved;
            };
            let got = read(tap, head_len, &mut small, &mut large);
            let (packet, unused) = match &got {
                Ok(got) if !got.small => (large, small),
                _ => (small, large),
            };
            pool.give(unused);
            match got {
                Ok(got) => {
                    bytes += packet.len();
                    any = true;
                    self.take(pool, (packet, &got), (admit, now), out, refused);
                }
                Err(error) => {
                    pool.give(packet);
                    match error {
                        Errno::AGAIN => break Rx::Drained,
                        Errno::INTR => {}
                        error => {
                            self.give_up(error);
                            break Rx::Drained;
                        }
                    }
                }
            }
        };
        self.coalescer
            .flush(&mut |packet, tag| out.push(tagged(packet, tag)));
        (end, any)
    }

    /// Takes one packet of the tap apart.
    fn take(
        &mut self,
        pool: &mut PacketPool,
        (mut packet, read): (Packet, &Read),
        (admit, now): (&dyn Fn(IpAddr) -> bool, Instant),
        out: &mut Vec<Tunnelled>,
        refused: &mut Refused,
    ) {
        let head = read.head.get(..read.head_len).unwrap_or_default();
        let judged = header::outer(head, self.local, packet.len()).and_then(|outer| {
            if !admit(outer.from) {
                return Err(DropReason::UnknownVtep);
            }
            let vxlan = head.len().checked_sub(VXLAN_HEADER);
            let vxlan = vxlan.and_then(|at| head.get(at..)).unwrap_or_default();
            let (vni, _) = vxlan::split(vxlan).map_err(DropReason::from)?;
            let holds = header::holds(head, self.local.is_ipv6())?;
            Ok((outer, vni, holds))
        });
        let (outer, vni, holds) = match judged {
            Ok(judged) => judged,
            Err(reason) => return refused.push((packet, reason)),
        };
        if packet.set_len(outer.len).is_err() {
            return refused.push((packet, DropReason::MalformedVxlan));
        }
        let mut emit = |packet, tag| out.push(tagged(packet, tag));
        let size = match holds {
            Holds::Whole(offload) => {
                // What came before it comes out before it.
                self.coalescer.flush(&mut emit);
                packet.set_offload(offload);
                let sound = packet.parse().is_ok()
                    && offload::validate(packet.headers(), packet.len(), &offload).is_ok();
                if sound {
                    emit(packet, (vni, outer.from, None));
                } else {
                    refused.push((packet, DropReason::MalformedOffload));
                }
                return;
            }
            Holds::Frame => LARGE + VXLAN_HEADER,
            Holds::Train(size) => size.into(),
        };
        // A small one was never left uncut; for the others the path says what its sender could have cut.
        let room = match size {
            _ if packet.len() <= SMALL => SEND,
            _ => self.udp.room(outer.from, now),
        };
        let limit = room.saturating_sub(VXLAN_HEADER + 14);
        let mut push = |pool: &mut PacketPool, vni, frame: &[u8]| {
            let pushed = self.coalescer.push(
                pool,
                frame,
                (vni, outer.from, None),
                (limit, None),
                &mut emit,
            );
            if pushed.is_err() {
                refuse(pool, frame, DropReason::MalformedEthernet, refused);
            }
        };
        // The first datagram's VXLAN header was read apart from it.
        let bytes = packet.bytes();
        let cut = size.saturating_sub(VXLAN_HEADER).min(bytes.len());
        let (first, rest) = bytes.split_at_checked(cut).unwrap_or((bytes, &[]));
        push(pool, vni, first);
        let mut wrong = Vec::new();
        for datagram in rest.chunks(size.max(1)) {
            match vxlan::split(datagram) {
                Ok((vni, frame)) => push(pool, vni, frame),
                Err(e) => wrong.push((datagram, e)),
            }
        }
        for (datagram, e) in wrong {
            refuse(pool, datagram, e.into(), refused);
        }
        pool.give(packet);
    }
}

// ---- sending -----------------------------------------------------------------------------------------------------

/// From which port each frame is sent, and how many single ones share it.
#[derive(Debug, Default)]
struct Lanes {
    slots: Vec<u16>,
    singles: Vec<(IpAddr, u16, u32)>,
}

impl Lanes {
    fn of(&mut self, frames: &[Tunnelled], senders: u16) {
        self.slots.clear();
        self.singles.clear();
        for frame in frames {
            let slot = overlay::entropy::slot(frame.packet.key(), senders);
            self.slots.push(slot);
            if frame.packet.offload().gso != Gso::None {
                continue;
            }
            let mut lanes = self.singles.iter_mut();
            match lanes.find(|(v, s, _)| *v == frame.vtep && *s == slot) {
                Some((_, _, n)) => *n += 1,
                None => self.singles.push((frame.vtep, slot, 1)),
            }
        }
    }

    fn are_many(&self, vtep: IpAddr, slot: u16) -> bool {
        let mut lanes = self.singles.iter();
        lanes.any(|(v, s, n)| *v == vtep && *s == slot && *n >= MANY)
    }
}

/// How a frame crosses whole where a datagram has so much `room`; `None` when the sockets must cut, finish or refuse it. A single
/// frame's checksum is finished.
pub(super) fn fit(packet: &mut Packet, room: usize) -> Option<Offload> {
    let headers = *packet.headers();
    let mut offload = packet.offload();
    let payload = end(&headers).saturating_sub(headers.payload_at.into());
    let sound = offload::validate(&headers, packet.len(), &offload).is_ok();
    if offload.gso != Gso::None && (!sound || end(&headers) != packet.len()) {
        return None;
    }
    let limit = room.saturating_sub(VXLAN_HEADER + usize::from(headers.payload_at));
    match offload.gso {
        Gso::Tcp { size, ecn } if payload > limit.min(size.into()) => {
            let size = field(limit.min(size.into()));
            offload.gso = Gso::Tcp { size, ecn };
            return (size > 0).then_some(offload);
        }
        Gso::Udp { size } if payload > size.into() => {
            let takes = usize::from(size) <= limit && payload.div_ceil(size.into()) <= UDP_SEGMENTS;
            return takes.then_some(offload);
        }
        // What is no longer than one segment is one.
        Gso::None | Gso::Tcp { .. } | Gso::Udp { .. } => {}
    }
    if VXLAN_HEADER + packet.len() > room {
        return None;
    }
    offload.gso = Gso::None;
    offload::finish(packet.bytes_mut(), &headers, &mut offload);
    packet.set_offload(offload);
    Some(offload)
}

/// What became of a write.
enum Written {
    Gone,
    Sent,
    /// The link's queue is full.
    Full,
    /// The tap does not take it; the sockets may.
    Refused,
}

fn write(tap: &OwnedFd, head: &[u8], body: &[u8]) -> Written {
    let parts = [IoSlice::new(head), IoSlice::new(body)];
    let mut waited = false;
    loop {
        match rustix::io::writev(tap, &parts) {
            Ok(_) => return Written::Sent,
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) if !waited => {
                waited = true;
                wait_for_room(tap.as_fd());
            }
            Err(Errno::AGAIN) => return Written::Full,
            Err(Errno::BADFD) => return Written::Gone,
            Err(_) => return Written::Refused,
        }
    }
}

impl TapUnderlay {
    /// Sends one frame through the tap.
    fn tx_tap(&mut self, frame: &mut Tunnelled, slot: u16, now: Instant) -> Written {
        let (Some((tap, _)), Some(source_port)) = (&self.tap, self.udp.source_port(slot)) else {
            return Written::Refused;
        };
        let udp = &mut self.udp;
        let vtep = frame.vtep;
        let way = self.ways.to(vtep, now, || udp.learn_room(vtep, now));
        let Some(way) = way else {
            return Written::Refused;
        };
        let Some(offload) = fit(&mut frame.packet, way.room) else {
            return Written::Refused;
        };
        let head = way.template.head(&Inner {
            vni: frame.vni,
            source_port,
            len: frame.packet.len(),
            headers: frame.packet.headers(),
            offload,
        });
        write(tap, head.bytes(), frame.packet.bytes())
    }

    fn tx_others(&mut self, pool: &mut PacketPool, refused: &mut Vec<Unsent>) -> u64 {
        if self.others.is_empty() {
            return 0;
        }
        let sent = self.udp.tx(pool, &mut self.others, refused);
        count(&self.counters.tx_socket, sent);
        sent
    }
}

impl Underlay for TapUnderlay {
    fn rx(
        &mut self,
        pool: &mut PacketPool,
        admit: &dyn Fn(IpAddr) -> bool,
        out: &mut Vec<Tunnelled>,
        refused: &mut Refused,
    ) -> Rx {
        let (end, any) = self.rx_tap(pool, admit, out, refused);
        count(&self.counters.rx_tap, segments(out));
        self.turns = self.turns.wrapping_add(1);
        let patience = any && !self.more && !self.turns.is_multiple_of(PATIENCE);
        if patience || end == Rx::Starved || out.len() >= BATCH {
            // An event tells of the socket: it is looked at when the tap has nothing, and now and then.
            return if self.more && end == Rx::Drained {
                Rx::More
            } else {
                end
            };
        }
        let before = out.len();
        let others = self.udp.rx(pool, admit, out, refused);
        let read = out.get(before..).unwrap_or_default();
        count(&self.counters.rx_socket, segments(read));
        self.more = others != Rx::Drained;
        if end == Rx::Drained { others } else { end }
    }

    fn tx(
        &mut self,
        pool: &mut PacketPool,
        frames: &mut Vec<Tunnelled>,
        refused: &mut Vec<Unsent>,
    ) -> u64 {
        let now = Instant::now();
        let mut sent = 0;
        self.lanes.of(frames, self.udp.source_ports());
        for (index, mut frame) in frames.drain(..).enumerate() {
            let slot = self.lanes.slots.get(index).copied().unwrap_or(0);
            let single = frame.packet.offload().gso == Gso::None;
            // The tap knows VXLAN alone.
            if frame.nsh.is_some() || single && self.lanes.are_many(frame.vtep, slot) {
                self.others.push(frame);
                continue;
            }
            // What was put aside for the sockets was before it.
            if self.others.iter().any(|o| o.vtep == frame.vtep) {
                sent += self.tx_others(pool, refused);
            }
            let segments = u64::from(frame.packet.segments());
            match self.tx_tap(&mut frame, slot, now) {
                Written::Sent => {
                    sent += segments;
                    count(&self.counters.tx_tap, segments);
                    pool.give(frame.packet);
                }
                Written::Full => refused.push(Unsent::new(frame, DropReason::UnderlaySend)),
                Written::Refused => self.others.push(frame),
                Written::Gone => {
                    self.give_up(Errno::BADFD);
                    self.others.push(frame);
                }
            }
        }
        sent + self.tx_others(pool, refused)
    }

    fn poll_fd(&self) -> Option<BorrowedFd<'_>> {
        Some(self.epoll.as_fd())
    }
}
