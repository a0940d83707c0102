//! How does a workload's device become a port?
//!
//! A tap lives inside the workload's network namespace and is persistent: the switch holds its queues' descriptors, and
//! a switch that was restarted opens it again with addresses and routes untouched. Every frame crosses with a virtio-net
//! header, so that TCP and UDP super-frames and unfinished checksums stay what they are.
//!
//! # Invariants
//! - Offloads are set anew at each open: the kernel keeps the last owner's on a persistent tap.
//! - A tap that was not made to the end leaves nothing behind: it is made persistent last.
//! - A frame that the device refuses is cut in software where that may help, else it is returned with its reason.
//!
//! # Cost
//! One `readv` or `writev` a frame, whatever its size; nothing is allocated.
//!
//! # References
//! Linux: Documentation/networking/tuntap. virtio 1.2 §5.1.6.

use std::{
    fmt, io,
    io::{IoSlice, IoSliceMut},
    net::IpAddr,
    num::NonZeroU16,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    str::FromStr,
};

use net::{
    Batch, Checksum, DropReason, Gso, Mac, Mtu, Offload, Packet, PacketPool,
    packet::{LARGE, SMALL},
};
use rustix::{
    fs::{Mode, OFlags},
    io::Errno,
};

use super::{
    PortIo, Refused, Rx,
    netlink::{Change, Link, Netlink},
    netns::{Netns, NetnsError},
    offload::{self, Segments},
    steering::Steering,
    sys,
};

/// Bytes of the virtio-net header: the form without merged buffers.
pub const VNET: usize = 10;
/// The largest super-frame that a workload may make: with its encapsulations it fits one UDP datagram.
const GSO_MAX_SIZE: u32 = 61_500;
/// Frames that wait in the kernel for the switch, a queue.
const QUEUE_LEN: u32 = 1000;
/// Bytes after which one turn of reading ends: what is read should still be in the cache when it is sent on.
const TURN: usize = 256 * 1024;

/// The name of a network device: 1 to 15 bytes, no `/`, no white space.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct IfName(String);

/// Why a text is no device name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("interface name must be 1 to 15 bytes without '/' and white space: {0:?}")]
pub struct InvalidIfName(pub String);

impl FromStr for IfName {
    type Err = InvalidIfName;
    fn from_str(s: &str) -> Result<Self, InvalidIfName> {
        // The kernel's own rule (dev_valid_name); '%' would make it choose a number.
        let bad = |b: u8| b == b'/' || b == b':' || b == b'%' || b == 0 || b.is_ascii_whitespace();
        if matches!(s.len(), 1..=15) && !matches!(s, "." | "..") && !s.bytes().any(bad) {
            Ok(Self(s.to_owned()))
        } else {
            Err(InvalidIfName(s.to_owned()))
        }
    }
}

impl fmt::Display for IfName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Where a tap is, and how it is recognized.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TapPlace {
    /// The workload's namespace.
    pub netns: Netns,
    /// The device's name there.
    pub ifname: IfName,
    /// Written on the device (its alias) and compared before anything is done to one that is there already; say whose it is, such as
    /// `overweave PORT-ID`.
    pub owner: String,
}

/// A static route: destination with its prefix length, and the gateway unless it is on the link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TapRoute {
    /// Where to.
    pub destination: (IpAddr, u8),
    /// Through whom.
    pub gateway: Option<IpAddr>,
}

/// What a new tap is to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TapSpec {
    /// Its MAC address.
    pub mac: Mac,
    /// Its MTU.
    pub mtu: Mtu,
    /// Its queues: one a worker.
    pub queues: NonZeroU16,
    /// Addresses with prefix lengths, set at once; none when DHCP is to bring them.
    pub addresses: Vec<(IpAddr, u8)>,
    /// Routes, set at once.
    pub routes: Vec<TapRoute>,
}

/// Why a tap could not be made, opened or deleted.
#[derive(Debug, thiserror::Error)]
pub enum TapError {
    /// The namespace could not be entered.
    #[error("namespace of interface {ifname}")]
    Netns {
        /// The device.
        ifname: IfName,
        /// Why not.
        #[source]
        source: NetnsError,
    },
    /// Something else has that name there.
    #[error("interface name is taken in that namespace: {ifname}")]
    NameTaken {
        /// The name.
        ifname: IfName,
    },
    /// There is no such tap any more.
    #[error("no such tap: {ifname}")]
    Missing {
        /// Its name.
        ifname: IfName,
    },
    /// Another process holds its queues.
    #[error("tap is held by another process: {ifname}")]
    Busy {
        /// Its name.
        ifname: IfName,
    },
    /// The process lacks `CAP_NET_ADMIN`, or may not open `/dev/net/tun`.
    #[error("no permission to {doing} (CAP_NET_ADMIN is needed): {ifname}")]
    Permission {
        /// The device.
        ifname: IfName,
        /// What was being done.
        doing: &'static str,
    },
    /// The kernel has no tun driver.
    #[error("no /dev/net/tun: load the kernel's tun module")]
    NoDriver,
    /// The kernel refused something else.
    #[error("cannot {doing}: {ifname}")]
    Kernel {
        /// The device.
        ifname: IfName,
        /// What was being done.
        doing: &'static str,
        /// What it said.
        #[source]
        source: io::Error,
    },
}

/// Which super-frames the kernel hands over and takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is one of the kernel's flags"
)]
pub struct TapOffloads {
    /// Unfinished checksums.
    pub checksum: bool,
    /// TCP super-frames, IPv4 and IPv6.
    pub tso: bool,
    /// TCP super-frames of connections with ECN.
    pub ecn: bool,
    /// UDP super-frames, IPv4 and IPv6.
    pub uso: bool,
}

/// A tap with its queues open.
#[derive(Debug)]
pub struct Tap {
    queues: Vec<TapQueue>,
    offloads: TapOffloads,
}

impl Tap {
    /// Makes the tap and brings it up. Where one of the same owner is there already, it is set to the spec instead.
    ///
    /// # Errors
    /// See [`TapError`]; then nothing new is left behind.
    pub fn create(place: &TapPlace, spec: &TapSpec) -> Result<Self, TapError> {
        place.enter(|| {
            let mut netlink = place.netlink()?;
            let fresh = match netlink.link(&place.ifname.0) {
                Ok(None) => true,
                Ok(Some(link)) if place.owns(&link) => false,
                Ok(Some(_)) => {
                    return Err(TapError::NameTaken {
                        ifname: place.ifname.clone(),
                    });
                }
                Err(e) => return Err(place.failed("look for the interface", e)),
            };
            let tap = place.attach(fresh, spec.queues)?;
            let link = place.find(&mut netlink)?;
            let change = Change {
                up: true,
                mac: Some(spec.mac),
                mtu: Some(spec.mtu.into()),
                alias: Some(&place.owner),
                gso_max_size: Some(GSO_MAX_SIZE),
                queue_len: Some(QUEUE_LEN),
                ..Change::default()
            };
            netlink
                .change(link.index, &change)
                .map_err(|e| place.failed("set MAC and MTU", e))?;
            for (ip, length) in &spec.addresses {
                netlink
                    .add_address(link.index, *ip, *length)
                    .map_err(|e| place.failed("add an address", e))?;
            }
            for route in &spec.routes {
                netlink
                    .add_route(link.index, route.destination, route.gateway)
                    .map_err(|e| place.failed("add a route", e))?;
            }
            tap.persist(place)?;
            Ok(tap)
        })
    }

    /// Opens the tap that an earlier process made; addresses, routes and whatever the workload changed stay as they are.
    ///
    /// # Errors
    /// See [`TapError`]; `Missing` when it is gone or is another's.
    pub fn open(place: &TapPlace, queues: NonZeroU16) -> Result<Self, TapError> {
        place.enter(|| {
            place.find(&mut place.netlink()?)?;
            place.attach(false, queues)
        })
    }

    /// Deletes the tap; it is no error when it is gone already.
    ///
    /// # Errors
    /// See [`TapError`]; `NameTaken` when the name belongs to another device.
    pub fn delete(place: &TapPlace) -> Result<(), TapError> {
        let done = place.enter(|| {
            let mut netlink = place.netlink()?;
            match netlink.link(&place.ifname.0) {
                Ok(None) => Ok(()),
                Ok(Some(link)) if place.owns(&link) => netlink
                    .delete(link.index)
                    .map_err(|e| place.failed("delete the tap", e)),
                Ok(Some(_)) => Err(TapError::NameTaken {
                    ifname: place.ifname.clone(),
                }),
                Err(e) => Err(place.failed("look for the interface", e)),
            }
        });
        match done {
            // Its namespace went, and the tap with it.
            Err(TapError::Netns {
                source: NetnsError::Missing { .. },
                ..
            }) => Ok(()),
            other => other,
        }
    }

    /// Changes MAC and MTU of a tap that may be in use.
    ///
    /// # Errors
    /// See [`TapError`].
    pub fn change(place: &TapPlace, mac: Mac, mtu: Mtu) -> Result<(), TapError> {
        place.enter(|| {
            let mut netlink = place.netlink()?;
            let link = place.find(&mut netlink)?;
            let change = Change {
                mac: Some(mac),
                mtu: Some(mtu.into()),
                ..Change::default()
            };
            netlink
                .change(link.index, &change)
                .map_err(|e| place.failed("set MAC and MTU", e))
        })
    }

    /// What the kernel agreed to.
    pub fn offloads(&self) -> TapOffloads {
        self.offloads
    }

    /// Has the kernel put each packet into the queue of the worker who is home to its connection: the queues are the workers', in
    /// order.
    pub fn steer(&self, steering: &Steering) {
        if let Some(queue) = self.queues.first() {
            steering.of_tap(queue.fd.as_fd());
        }
    }

    /// The queues, one for each worker.
    pub fn into_queues(self) -> Vec<TapQueue> {
        self.queues
    }

    fn persist(&self, place: &TapPlace) -> Result<(), TapError> {
        let Some(queue) = self.queues.first() else {
            return Ok(());
        };
        sys::tun_set(queue.fd.as_fd(), libc::TUNSETPERSIST, 1)
            .map_err(|e| place.failed("make the tap persistent", e))
    }
}

impl TapPlace {
    fn enter<T: Send>(
        &self,
        work: impl FnOnce() -> Result<T, TapError> + Send,
    ) -> Result<T, TapError> {
        match self.netns.enter(work) {
            Ok(done) => done,
            Err(source) => Err(TapError::Netns {
                ifname: self.ifname.clone(),
                source,
            }),
        }
    }

    fn failed(&self, doing: &'static str, source: io::Error) -> TapError {
        let ifname = self.ifname.clone();
        if source.kind() == io::ErrorKind::PermissionDenied {
            TapError::Permission { ifname, doing }
        } else {
            TapError::Kernel {
                ifname,
                doing,
                source,
            }
        }
    }

    fn netlink(&self) -> Result<Netlink, TapError> {
        Netlink::open().map_err(|e| self.failed("open netlink", e))
    }

    fn owns(&self, link: &Link) -> bool {
        link.tun && link.alias.as_deref() == Some(&self.owner)
    }

    /// The device of that name, unless it is known to be another's.
    fn find(&self, netlink: &mut Netlink) -> Result<Link, TapError> {
        match netlink.link(&self.ifname.0) {
            // One that was just made has no owner written on it yet.
            Ok(Some(link)) if link.tun && (link.alias.is_none() || self.owns(&link)) => Ok(link),
            Ok(_) => Err(TapError::Missing {
                ifname: self.ifname.clone(),
            }),
            Err(e) => Err(self.failed("look for the interface", e)),
        }
    }

    fn attach(&self, fresh: bool, queues: NonZeroU16) -> Result<Tap, TapError> {
        let mut tap = Tap {
            queues: Vec::with_capacity(queues.get().into()),
            offloads: TapOffloads::default(),
        };
        let flags = libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR | libc::IFF_MULTI_QUEUE;
        for index in 0..queues.get() {
            let fd = rustix::fs::open(
                "/dev/net/tun",
                OFlags::RDWR | OFlags::NONBLOCK | OFlags::CLOEXEC,
                Mode::empty(),
            )
            .map_err(|e| match e {
                Errno::NOENT | Errno::NODEV | Errno::NXIO => TapError::NoDriver,
                e => self.failed("open /dev/net/tun", e.into()),
            })?;
            let only_new = if fresh && index == 0 {
                libc::IFF_TUN_EXCL
            } else {
                0
            };
            sys::tun_attach(fd.as_fd(), self.ifname.0.as_bytes(), flags | only_new).map_err(
                |e| match e.raw_os_error() {
                    Some(libc::EBUSY | libc::EEXIST) if fresh && index == 0 => {
                        TapError::NameTaken {
                            ifname: self.ifname.clone(),
                        }
                    }
                    Some(libc::EBUSY | libc::E2BIG) => TapError::Busy {
                        ifname: self.ifname.clone(),
                    },
                    _ => self.failed("attach to the tap", e),
                },
            )?;
            let set = |request, value| sys::tun_set_by_pointer(fd.as_fd(), request, value);
            set(
                libc::TUNSETVNETHDRSZ,
                libc::c_int::try_from(VNET).unwrap_or(0),
            )
            .and_then(|()| set(libc::TUNSETVNETLE, 1))
            .map_err(|e| self.failed("set the offload header", e))?;
            tap.offloads = self.probe(&fd)?;
            tap.queues.push(TapQueue {
                fd,
                offloads: tap.offloads,
                scratch: Vec::new(),
            });
        }
        Ok(tap)
    }

    /// Asks for all offloads, then for fewer, until the kernel agrees.
    fn probe(&self, fd: &OwnedFd) -> Result<TapOffloads, TapError> {
        let tso = libc::TUN_F_CSUM | libc::TUN_F_TSO4 | libc::TUN_F_TSO6;
        let ecn = libc::TUN_F_TSO_ECN;
        let uso = libc::TUN_F_USO4 | libc::TUN_F_USO6;
        let all = TapOffloads {
            checksum: true,
            tso: true,
            ecn: true,
            uso: true,
        };
        let ladder = [
            (tso | ecn | uso, all),
            (tso | ecn, TapOffloads { uso: false, ..all }),
            (
                tso,
                TapOffloads {
                    uso: false,
                    ecn: false,
                    ..all
                },
            ),
            (
                libc::TUN_F_CSUM,
                TapOffloads {
                    checksum: true,
                    ..TapOffloads::default()
                },
            ),
            (0, TapOffloads::default()),
        ];
        let mut last = None;
        for (mask, offloads) in ladder {
            match sys::tun_set(fd.as_fd(), libc::TUNSETOFFLOAD, mask) {
                Ok(()) => {
                    if offloads != all {
                        say_once(offloads);
                    }
                    return Ok(offloads);
                }
                Err(e) => last = Some(e),
            }
        }
        let error = last.unwrap_or_else(|| io::ErrorKind::Unsupported.into());
        Err(self.failed("set offloads", error))
    }
}

fn say_once(offloads: TapOffloads) {
    static SAID: std::sync::Once = std::sync::Once::new();
    SAID.call_once(|| {
        tracing::warn!(
            ?offloads,
            "this kernel's taps lack offloads; frames are cut in software"
        );
    });
}

/// One queue of a tap.
#[derive(Debug)]
pub struct TapQueue {
    fd: OwnedFd,
    offloads: TapOffloads,
    /// One segment's headers, where they are cut in software.
    scratch: Vec<u8>,
}

const NEEDS_CHECKSUM: u8 = 1;
const CHECKSUM_VALID: u8 = 2;
const GSO_TCP4: u8 = 1;
const GSO_TCP6: u8 = 4;
const GSO_UDP: u8 = 5;
const GSO_ECN: u8 = 0x80;

/// What a virtio-net header says of its frame.
fn decode(header: [u8; VNET]) -> Result<Offload, DropReason> {
    let [flags, kind, _, _, s0, s1, c0, c1, o0, o1] = header;
    let size = u16::from_le_bytes([s0, s1]);
    let checksum = if flags & NEEDS_CHECKSUM != 0 {
        Checksum::Partial {
            start: u16::from_le_bytes([c0, c1]),
            offset: u16::from_le_bytes([o0, o1]),
        }
    } else if flags & CHECKSUM_VALID != 0 {
        Checksum::Verified
    } else {
        Checksum::Unverified
    };
    let gso = match kind & !GSO_ECN {
        0 if kind == 0 => Gso::None,
        GSO_TCP4 | GSO_TCP6 => Gso::Tcp {
            size,
            ecn: kind & GSO_ECN != 0,
        },
        GSO_UDP if kind == GSO_UDP => Gso::Udp { size },
        _ => return Err(DropReason::MalformedOffload),
    };
    Ok(Offload { checksum, gso })
}

/// The virtio-net header of a frame.
fn encode(offload: &Offload, v6: bool, header_len: u16) -> [u8; VNET] {
    let (flags, start, offset) = match offload.checksum {
        Checksum::Unverified => (0, 0, 0),
        Checksum::Verified => (CHECKSUM_VALID, 0, 0),
        Checksum::Partial { start, offset } => (NEEDS_CHECKSUM, start, offset),
    };
    let (kind, size) = match offload.gso {
        Gso::None => (0, 0),
        Gso::Tcp { size, ecn } => {
            let kind = if v6 { GSO_TCP6 } else { GSO_TCP4 };
            (if ecn { kind | GSO_ECN } else { kind }, size)
        }
        Gso::Udp { size } => (GSO_UDP, size),
    };
    let len = if kind == 0 { 0 } else { header_len };
    let [l0, l1] = len.to_le_bytes();
    let [s0, s1] = size.to_le_bytes();
    let [c0, c1] = start.to_le_bytes();
    let [o0, o1] = offset.to_le_bytes();
    [flags, kind, l0, l1, s0, s1, c0, c1, o0, o1]
}

/// Sets what the device said of a frame, if it can be true. A frame that does not parse keeps it: ingress drops it for that.
///
/// # Errors
/// `MalformedOffload` when it contradicts the frame.
pub fn admit(packet: &mut Packet, header: [u8; VNET]) -> Result<(), DropReason> {
    let offload = decode(header)?;
    packet.set_offload(offload);
    let plain = matches!(offload.checksum, Checksum::Unverified | Checksum::Verified);
    if plain && offload.gso == Gso::None {
        return Ok(());
    }
    match packet.parse() {
        Ok(()) => offload::validate(packet.headers(), packet.len(), &offload),
        Err(_) => Err(DropReason::MalformedOffload),
    }
}

impl TapQueue {
    /// Reads one frame of any size: small ones end up in the small buffer (says `true`), others in the large one.
    fn read(
        &mut self,
        small: &mut Packet,
        large: &mut Packet,
    ) -> Result<([u8; VNET], bool), Errno> {
        let mut header = [0; VNET];
        let tail = large.room_mut().get_mut(SMALL..).unwrap_or_default();
        let mut parts = [
            IoSliceMut::new(&mut header),
            IoSliceMut::new(small.room_mut()),
            IoSliceMut::new(tail),
        ];
        let read = rustix::io::readv(&self.fd, &mut parts)?;
        let len = read.saturating_sub(VNET);
        if small.set_len(len.min(SMALL)).is_err() || large.set_len(len.min(LARGE)).is_err() {
            return Err(Errno::MSGSIZE);
        }
        if len > SMALL {
            // Moving the first bytes of a frame of 60 KB costs less than reading every small frame into a large buffer.
            offload::put(large.bytes_mut(), 0, small.bytes());
        }
        Ok((header, len <= SMALL))
    }

    fn write(&self, header: [u8; VNET], parts: [&[u8]; 2]) -> Result<(), Errno> {
        let [a, b] = parts;
        let parts = [IoSlice::new(&header), IoSlice::new(a), IoSlice::new(b)];
        loop {
            match rustix::io::writev(&self.fd, &parts) {
                Ok(_) => return Ok(()),
                Err(Errno::INTR) => {}
                Err(e) => return Err(e),
            }
        }
    }

    /// Writes one frame and says how many segments of it went out; where it fails, the packet holds what did not.
    fn send(&mut self, packet: &mut Packet) -> (u64, Result<(), DropReason>) {
        let offload = packet.offload();
        let v6 = packet.headers().l3 == net::L3::Ipv6;
        let lacks = matches!(offload.gso, Gso::Udp { .. }) && !self.offloads.uso;
        if !lacks {
            let header = encode(&offload, v6, packet.headers().payload_at);
            match self.write(header, [packet.bytes(), &[]]) {
                Ok(()) => return (packet.segments().into(), Ok(())),
                Err(Errno::INVAL) if offload != Offload::default() => {}
                Err(e) => return (0, Err(reason(e))),
            }
        }
        self.send_cut(packet, offload)
    }

    /// Sends a frame without asking anything of the device.
    fn send_cut(
        &mut self,
        packet: &mut Packet,
        mut offload: Offload,
    ) -> (u64, Result<(), DropReason>) {
        let plain = encode(&Offload::default(), false, 0);
        let mut scratch = std::mem::take(&mut self.scratch);
        scratch.clear();
        let (mut sent, mut left, mut result) = (0, 0, Ok(()));
        if offload.gso == Gso::None {
            scratch.extend_from_slice(packet.bytes());
            offload::finish(&mut scratch, packet.headers(), &mut offload);
            result = self.write(plain, [&scratch, &[]]).map_err(reason);
            sent = u64::from(result.is_ok());
        } else {
            match Segments::new(packet.bytes(), packet.headers(), &offload, usize::MAX) {
                Ok(mut segments) => {
                    scratch.resize(segments.header_len(), 0);
                    while let Some(payload) = segments.next_into(&mut scratch) {
                        if let Err(e) = self.write(plain, [&scratch, payload]) {
                            result = Err(reason(e));
                            left = scratch.len() + payload.len() + segments.rest();
                            break;
                        }
                        sent += 1;
                    }
                }
                Err(reason) => result = Err(reason),
            }
        }
        self.scratch = scratch;
        if sent > 0 && left > 0 && packet.set_len(left).is_err() {
            debug_assert!(false, "what is left is shorter than the whole");
        }
        (sent, result)
    }
}

fn reason(errno: Errno) -> DropReason {
    match errno {
        Errno::AGAIN => DropReason::PortQueueFull,
        _ => DropReason::PortSend,
    }
}

impl PortIo for TapQueue {
    fn rx(&mut self, pool: &mut PacketPool, batch: &mut Batch, refused: &mut Refused) -> Rx {
        let (mut small, mut large) = (None, None);
        let mut read = 0;
        let end = loop {
            if batch.is_full() || read >= TURN {
                break Rx::More;
            }
            small = small.or_else(|| pool.take_small());
            large = large.or_else(|| pool.take_large());
            let (Some(s), Some(l)) = (&mut small, &mut large) else {
                break Rx::Starved;
            };
            let (header, is_small) = match self.read(s, l) {
                Ok(got) => got,
                Err(Errno::AGAIN) => break Rx::Drained,
                Err(Errno::INTR) => continue,
                Err(_) => break Rx::Gone,
            };
            let used = if is_small { &mut small } else { &mut large };
            let Some(mut packet) = used.take() else {
                break Rx::Starved;
            };
            read += packet.len();
            match admit(&mut packet, header) {
                Ok(()) => {
                    if let Err(packet) = batch.push(packet) {
                        refused.push((packet, DropReason::PoolExhausted));
                    }
                }
                Err(reason) => refused.push((packet, reason)),
            }
        };
        for unused in small.into_iter().chain(large) {
            pool.give(unused);
        }
        end
    }

    fn tx(&mut self, pool: &mut PacketPool, batch: &mut Batch, refused: &mut Refused) -> u64 {
        let mut sent = 0;
        for mut packet in batch.drain() {
            let (segments, result) = self.send(&mut packet);
            sent += segments;
            match result {
                Ok(()) => pool.give(packet),
                Err(reason) => refused.push((packet, reason)),
            }
        }
        sent
    }

    fn poll_fd(&self) -> Option<BorrowedFd<'_>> {
        Some(self.fd.as_fd())
    }
}

#[cfg(test)]
mod tests;
