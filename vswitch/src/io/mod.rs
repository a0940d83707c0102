//! How do frames come in and go out?
//!
//! The edge: the only part of the datapath that makes system calls. A port kind implements [`PortIo`]; the underlay has its
//! own shape, [`Underlay`], since one socket serves every remote VTEP.
//!
//! # Map
//! - ports: [`tap`] (a workload's device, in its [`netns`]), [`wire`] (an interface of the host on a physical network), both by way of [`vnet`]; [`memory`], [`pcap`] and [`fault`] for tests and tools
//! - underlay: [`underlay`] (VXLAN over UDP sockets), [`uplink`] (a tap that carries it whole, where the kernel can)
//! - bytes: [`offload`] (cutting super-frames, finishing checksums), [`coalesce`] (its inverse)
//! - state: [`mapping`] (connection tables that outlive the process)
//! - queues: [`steering`] (which worker's queue the kernel puts a packet into), `bpf` (how a program for it is written down)
//! - `sys` holds the only `unsafe` of the switch.
//!
//! # Invariants
//! Nothing is lost silently: a frame that a device refuses comes back in the [`Refused`] list with its reason.

use std::{net::IpAddr, os::fd::BorrowedFd};

use net::{Batch, DropReason, Mtu, Packet, PacketPool, Vni};
use overlay::{
    GPE_PORT, NSH_HEADER, Nsh,
    vxlan::{self, VXLAN_PORT},
};

mod bpf;
pub mod coalesce;
pub mod fault;
pub mod mapping;
pub mod memory;
mod netlink;
pub mod netns;
pub mod offload;
pub mod pcap;
pub mod plain_tap;
pub mod random;
pub mod steering;
mod sys;
pub mod tap;
pub mod underlay;
pub mod uplink;
pub mod vnet;
pub mod wire;

/// What became of a call for more frames.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rx {
    /// The device may have more.
    More,
    /// The device is drained: wait for it.
    Drained,
    /// The pool is out of packets; the device still has frames.
    Starved,
    /// The device is gone, or broken for good.
    Gone,
}

/// Frames that did not go out, each with its reason; the caller counts them and gives them back to the pool.
pub type Refused = Vec<(Packet, DropReason)>;

/// A workload's port: batches in, batches out. One queue of it, owned by one worker.
pub trait PortIo: Send + std::fmt::Debug {
    /// Reads frames into packets of `pool` until the batch is full or the device is drained. Offloads are set on each packet from
    /// the device's own header (virtio-net); origin is the caller's to set. A frame whose header contradicts it is returned in
    /// `refused` with `MalformedOffload`.
    fn rx(&mut self, pool: &mut PacketPool, batch: &mut Batch, refused: &mut Refused) -> Rx;

    /// Writes all frames of the batch, parsed and in order, and gives them back to the pool; super-frames whole where the device takes them,
    /// segmented in software where it does not. What it can't write goes to `refused`. Returns the segments sent.
    fn tx(&mut self, pool: &mut PacketPool, batch: &mut Batch, refused: &mut Refused) -> u64;

    /// The descriptor to wait on for reading; `None` for ports in memory.
    fn poll_fd(&self) -> Option<BorrowedFd<'_>> {
        None
    }
}

/// A frame that came out of the tunnel, or is to go into it: the packet holds the inner frame alone.
#[derive(Debug)]
pub struct Tunnelled {
    /// The inner frame (a super-frame when a train of one flow was coalesced).
    pub packet: Packet,
    /// The network.
    pub vni: Vni,
    /// The VTEP at the other end.
    pub vtep: IpAddr,
    /// Its place in a chain, if it comes from, or goes to, an appliance's host: then it crosses as VXLAN-GPE with NSH.
    pub nsh: Option<Nsh>,
}

impl Tunnelled {
    /// What stands before the frame in its datagram.
    fn outer(&self) -> Outer {
        self.nsh.map_or_else(
            || Outer::from_iter(vxlan::header(self.vni)),
            |nsh| Outer::from_iter(nsh.header()),
        )
    }

    /// To which UDP port it goes.
    fn port(&self) -> u16 {
        self.nsh.map_or(VXLAN_PORT, |_| GPE_PORT)
    }
}

/// The headers before a frame.
type Outer = smallvec::SmallVec<[u8; NSH_HEADER]>;

/// By what frames that belong together are known: network, VTEP, place in a chain.
type Tag = (Vni, IpAddr, Option<Nsh>);

/// A frame with its tag.
fn tagged(packet: Packet, (vni, vtep, nsh): Tag) -> Tunnelled {
    Tunnelled {
        packet,
        vni,
        vtep,
        nsh,
    }
}

/// What a datagram's payload says that came from this VTEP, and the frame in it. `chained`: it came to the chain transport's port.
fn open(payload: &[u8], from: IpAddr, chained: bool) -> Result<(Tag, &[u8]), DropReason> {
    if chained {
        let (nsh, frame) = overlay::nsh::split(payload)?;
        return Ok(((nsh.vni, from, Some(nsh)), frame));
    }
    let (vni, frame) = vxlan::split(payload)?;
    Ok(((vni, from, None), frame))
}

/// A frame that the underlay did not send.
#[derive(Debug)]
pub struct Unsent {
    /// The frame.
    pub frame: Tunnelled,
    /// Why.
    pub reason: DropReason,
    /// The largest inner IP packet that goes to its VTEP whole, where it was larger.
    pub room: Option<Mtu>,
}

impl Unsent {
    /// One of no particular room.
    pub const fn new(frame: Tunnelled, reason: DropReason) -> Self {
        Self {
            frame,
            reason,
            room: None,
        }
    }
}

/// The largest inner IP packet where a datagram may carry this much, with so much of it before the frame.
fn inner_room(payload: usize, outer: usize) -> Option<Mtu> {
    let room = payload.checked_sub(outer + 14)?;
    Mtu::try_from(u32::try_from(room.min(usize::from(u16::MAX))).ok()?).ok()
}

/// The underlay: VXLAN over UDP, every remote VTEP. One queue of it, owned by one worker.
pub trait Underlay: Send + std::fmt::Debug {
    /// Receives datagrams, strips VXLAN, coalesces trains of one inner flow. `admit` says whether an outer source address is a
    /// known VTEP. What is malformed or not admitted goes to `refused` (its packet then holds what there was).
    fn rx(
        &mut self,
        pool: &mut PacketPool,
        admit: &dyn Fn(IpAddr) -> bool,
        out: &mut Vec<Tunnelled>,
        refused: &mut Refused,
    ) -> Rx;

    /// Encapsulates and sends all (their packets parsed), in order per flow, and gives the packets back to the pool. Super-frames are cut here (one UDP GSO
    /// send each where the kernel can), checksums finished. Returns the inner segments sent; what could not be sent is in `refused`, with what room there was if it was too large.
    fn tx(
        &mut self,
        pool: &mut PacketPool,
        frames: &mut Vec<Tunnelled>,
        refused: &mut Vec<Unsent>,
    ) -> u64;

    /// The descriptor to wait on for reading; `None` in memory.
    fn poll_fd(&self) -> Option<BorrowedFd<'_>> {
        None
    }
}
