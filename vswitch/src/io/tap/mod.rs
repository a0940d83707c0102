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

use net::{Batch, Mac, Mtu, PacketPool};
use rustix::{
    fs::{Mode, OFlags},
    io::Errno,
};

pub use super::vnet::{VNET, admit};
use super::{
    PortIo, Refused, Rx,
    netlink::{Change, Link, Netlink},
    netns::{Netns, NetnsError},
    steering::Steering,
    sys,
    vnet::{self, Device, Got},
};

/// The largest super-frame that a workload may make: with its encapsulations it fits one UDP datagram.
const GSO_MAX_SIZE: u32 = 61_500;
/// Frames that wait in the kernel for the switch, a queue.
const QUEUE_LEN: u32 = 1000;
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

impl Device for TapQueue {
    fn uso(&self) -> bool {
        self.offloads.uso
    }

    fn read(&self, parts: &mut [IoSliceMut<'_>]) -> Result<Got, Errno> {
        let len = rustix::io::readv(&self.fd, parts)?;
        Ok(Got { len, refused: None })
    }

    fn write(&self, header: [u8; VNET], parts: [&[u8]; 2]) -> Result<(), Errno> {
        let [a, b] = parts;
        let parts = [IoSlice::new(&header), IoSlice::new(a), IoSlice::new(b)];
        rustix::io::writev(&self.fd, &parts).map(drop)
    }
}

impl PortIo for TapQueue {
    fn rx(&mut self, pool: &mut PacketPool, batch: &mut Batch, refused: &mut Refused) -> Rx {
        vnet::rx(self, pool, batch, refused)
    }

    fn tx(&mut self, pool: &mut PacketPool, batch: &mut Batch, refused: &mut Refused) -> u64 {
        let mut scratch = std::mem::take(&mut self.scratch);
        let sent = vnet::tx(self, &mut scratch, pool, batch, refused);
        self.scratch = scratch;
        sent
    }

    fn poll_fd(&self) -> Option<BorrowedFd<'_>> {
        Some(self.fd.as_fd())
    }
}

#[cfg(test)]
mod tests;
