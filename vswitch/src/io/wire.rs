//! How is a host's interface on a physical network a port?
//!
//! A packet socket on the interface, one for each network that is on it. The kernel gives it what comes in on the network's VLAN (untagged
//! where it has none), by a filter of its own; a tag is taken off on receipt and put on when sending. The interface stays the
//! host's: its own addresses go on working, and what two of the switch's networks send does not come back to either.
//!
//! # Queues
//! Every worker has a socket to send by; one of them receives, and hands what is of others' connections over, as of a tap whose queues are
//! not steered. A group of receivers (`PACKET_FANOUT`) deals by the kernel's hash, which tells no worker's home: it would save
//! reading in one place, not the hand-over.
//!
//! # Invariants
//! - The filter stands before the socket is bound: no frame of another VLAN is ever read. What the kernel says of the tag is compared all the same.
//! - What goes out is not read again (`PACKET_IGNORE_OUTGOING`).
//! - Closed, nothing of it is left: filter and promiscuous mode end with the socket.
//!
//! # References
//! Linux: packet(7), `PACKET_VNET_HDR`; BPF extensions of Documentation/networking/filter. IEEE 802.1Q §9.6.

use std::{
    io::{self, IoSlice, IoSliceMut},
    num::NonZeroU16,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
};

use net::{Batch, DropReason, PacketPool};
use rustix::{
    io::Errno,
    net::{AddressFamily, SocketFlags, SocketType},
};

use super::{
    PortIo, Refused, Rx,
    netlink::Netlink,
    sys::{self, Filter, PacketFrame},
    tap::IfName,
    vnet::{self, Device, Got, VNET},
};

/// Bytes that may wait in the kernel, in its accounting, each way.
const BUFFER: libc::c_int = 8 << 20;
/// The protocol of a VLAN tag, and where in a frame it stands.
const TAG: u16 = 0x8100;
const TAG_AT: usize = 12;
const TAG_LEN: u16 = 4;
const VLAN: u16 = 0x0fff;

/// An interface of the host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Interface {
    /// Its name.
    pub name: IfName,
    /// Which one: another of the same name has another number.
    pub index: u32,
    /// Is it up?
    pub up: bool,
    /// Does it have a link to somebody?
    pub carrier: bool,
    /// The largest IP packet.
    pub mtu: u32,
}

/// Why there is no wire.
#[derive(Debug, thiserror::Error)]
pub enum WireError {
    /// It is no Ethernet.
    #[error("interface is no Ethernet: {0}")]
    NoEthernet(IfName),
    /// The process lacks `CAP_NET_RAW`.
    #[error("no permission to open a packet socket (CAP_NET_RAW is needed): {0}")]
    Permission(IfName),
    /// The kernel refused something else.
    #[error("cannot {doing}: {interface}")]
    Kernel {
        /// The interface.
        interface: IfName,
        /// What was being done.
        doing: &'static str,
        /// What it said.
        #[source]
        source: io::Error,
    },
}

/// The interface of this name, in the calling thread's namespace; `None`: there is none.
///
/// # Errors
/// When it is no Ethernet, or the kernel can't be asked.
pub fn interface(name: &IfName) -> Result<Option<Interface>, WireError> {
    let link = Netlink::open().and_then(|mut netlink| netlink.link(&name.to_string()));
    let Some(link) = link.map_err(failed(name, "look for the interface"))? else {
        return Ok(None);
    };
    if !link.ethernet {
        return Err(WireError::NoEthernet(name.clone()));
    }
    Ok(Some(Interface {
        name: name.clone(),
        index: link.index,
        up: link.up,
        carrier: link.carrier,
        mtu: link.mtu,
    }))
}

fn failed<'n>(name: &'n IfName, doing: &'static str) -> impl Fn(io::Error) -> WireError + 'n {
    move |source| {
        let interface = name.clone();
        if source.kind() == io::ErrorKind::PermissionDenied {
            return WireError::Permission(interface);
        }
        WireError::Kernel {
            interface,
            doing,
            source,
        }
    }
}

/// A wire with its sockets open.
#[derive(Debug)]
pub struct Wire {
    queues: Vec<WireQueue>,
}

impl Wire {
    /// Opens a socket for each of so many workers on an interface in the calling thread's namespace; that of `reader` receives.
    ///
    /// # Errors
    /// See [`WireError`]; then nothing is left behind.
    pub fn open(
        device: &Interface,
        vlan: Option<u16>,
        workers: NonZeroU16,
        reader: u16,
    ) -> Result<Self, WireError> {
        let queue = |worker: u16| {
            let fd = socket(device.index, vlan, worker == reader)?;
            Ok(WireQueue {
                fd,
                vlan,
                scratch: Vec::new(),
            })
        };
        let queues: io::Result<Vec<_>> = (0..workers.get()).map(queue).collect();
        let queues = queues.map_err(failed(&device.name, "open a packet socket"))?;
        Ok(Self { queues })
    }

    /// One for each worker, in order.
    pub fn into_queues(self) -> Vec<WireQueue> {
        self.queues
    }
}

fn socket(device: u32, vlan: Option<u16>, receives: bool) -> io::Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let fd = rustix::net::socket_with(AddressFamily::PACKET, SocketType::RAW, flags, None)?;
    let set = |level, name, value| sys::set_option(fd.as_fd(), level, name, value);
    sys::attach_filter(fd.as_fd(), &filter(vlan))?;
    set(libc::SOL_PACKET, libc::PACKET_VNET_HDR, 1)?;
    set(libc::SOL_PACKET, libc::PACKET_AUXDATA, 1)?;
    set(libc::SOL_PACKET, libc::PACKET_IGNORE_OUTGOING, 1)?;
    for (forced, asked) in [
        (libc::SO_RCVBUFFORCE, libc::SO_RCVBUF),
        (libc::SO_SNDBUFFORCE, libc::SO_SNDBUF),
    ] {
        // Without the capability for it, as much as is allowed.
        set(libc::SOL_SOCKET, forced, BUFFER).or_else(|_| set(libc::SOL_SOCKET, asked, BUFFER))?;
    }
    if receives {
        sys::packet_promiscuous(fd.as_fd(), device)?;
    }
    sys::packet_bind(fd.as_fd(), device, receives)?;
    Ok(fd)
}

/// Takes the frames of a VLAN, or those of none. A tag of VLAN 0 names none: it holds a priority alone (IEEE 802.1Q §6.9.1).
fn filter(vlan: Option<u16>) -> [Filter; 7] {
    const LOAD: u16 = 0x20;
    const AND: u16 = 0x54;
    const IF: u16 = 0x15;
    const RETURN: u16 = 0x06;
    /// What the kernel knows of a frame besides its bytes: its tag, and whether it has one.
    const KNOWN: u32 = 0_u32.wrapping_sub(0x1000);
    const TAG: u32 = KNOWN + 44;
    const TAGGED: u32 = KNOWN + 48;
    let untagged = if vlan.is_some() { 4 } else { 3 };
    [
        (LOAD, 0, 0, TAGGED),
        (IF, untagged, 0, 0),
        (LOAD, 0, 0, TAG),
        (AND, 0, 0, VLAN.into()),
        (IF, 0, 1, vlan.unwrap_or(0).into()),
        (RETURN, 0, 0, 1 << 20),
        (RETURN, 0, 0, 0),
    ]
}

/// One worker's socket of a wire.
#[derive(Debug)]
pub struct WireQueue {
    fd: OwnedFd,
    vlan: Option<u16>,
    /// One segment's headers, where they are cut in software.
    scratch: Vec<u8>,
}

/// What is wrong with what the kernel gave, if anything is.
fn judge(frame: &PacketFrame, vlan: Option<u16>) -> Option<DropReason> {
    let of = match frame.vlan {
        Some((TAG, control)) => Some(control & VLAN).filter(|id| *id != 0),
        Some(_) => return Some(DropReason::VlanNotAllowed),
        None => None,
    };
    if of != vlan {
        return Some(DropReason::VlanNotAllowed);
    }
    frame.truncated.then_some(DropReason::MalformedEthernet)
}

/// A header for a frame that is a tag longer.
fn shifted(mut header: [u8; VNET]) -> [u8; VNET] {
    let [flags, kind, l0, l1, _, _, c0, c1, _, _] = &mut header;
    let add = |low: &mut u8, high: &mut u8| {
        let number = u16::from_le_bytes([*low, *high]).saturating_add(TAG_LEN);
        [*low, *high] = number.to_le_bytes();
    };
    if *flags & 1 != 0 {
        add(c0, c1);
    }
    if *kind != 0 {
        add(l0, l1);
    }
    header
}

impl Device for WireQueue {
    fn uso(&self) -> bool {
        true // refused by a kernel that does not know it, and cut then
    }

    fn read(&self, parts: &mut [IoSliceMut<'_>]) -> Result<Got, Errno> {
        let errno = |e: io::Error| Errno::from_io_error(&e).unwrap_or(Errno::IO);
        match sys::packet_receive(self.fd.as_fd(), parts).map_err(errno) {
            Ok(frame) => Ok(Got {
                len: frame.len,
                refused: judge(&frame, self.vlan),
            }),
            // A super-frame of a kind that its header has no name for: the kernel has let go of it.
            Err(Errno::INVAL) => Ok(Got {
                len: VNET,
                refused: Some(DropReason::MalformedOffload),
            }),
            // The interface went down, or away: whoever looks after it says so. It may come up again.
            Err(Errno::NETDOWN | Errno::NODEV | Errno::NXIO) => Err(Errno::AGAIN),
            Err(e) => Err(e),
        }
    }

    fn write(&self, header: [u8; VNET], [first, rest]: [&[u8]; 2]) -> Result<(), Errno> {
        let Some(vlan) = self.vlan else {
            let parts = [header.as_slice(), first, rest].map(IoSlice::new);
            return rustix::io::writev(&self.fd, &parts).map(drop);
        };
        let header = shifted(header);
        let (addresses, behind) = first.split_at_checked(TAG_AT).ok_or(Errno::INVAL)?;
        let [p0, p1] = TAG.to_be_bytes();
        let [c0, c1] = vlan.to_be_bytes();
        let tag = [p0, p1, c0, c1];
        let parts = [header.as_slice(), addresses, &tag, behind, rest].map(IoSlice::new);
        rustix::io::writev(&self.fd, &parts).map(drop)
    }
}

impl PortIo for WireQueue {
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
mod tests {
    use super::*;

    /// What the program returns for a frame with this tag.
    fn takes(program: &[Filter], tag: Option<u16>) -> bool {
        let (mut at, mut register) = (0usize, 0u32);
        loop {
            let (code, jt, jf, k) = program[at];
            at += 1;
            match code {
                0x20 if k == u32::MAX - 0xfff + 48 => register = tag.is_some().into(),
                0x20 => register = tag.unwrap_or(0).into(),
                0x54 => register &= k,
                0x15 => at += usize::from(if register == k { jt } else { jf }),
                0x06 => return k != 0,
                other => panic!("no such instruction: {other:#x}"),
            }
        }
    }

    #[test]
    fn a_filter_takes_its_own_vlan_whatever_the_priority() {
        let tags = [
            None,
            Some(0),
            Some(100),
            Some(200),
            Some(0xe064),
            Some(0x6000),
        ];
        for (vlan, wanted) in [
            (None, vec![None, Some(0), Some(0x6000)]),
            (Some(100), vec![Some(100), Some(0xe064)]),
            (Some(4094), vec![]),
        ] {
            let program = filter(vlan);
            for tag in tags {
                assert_eq!(
                    takes(&program, tag),
                    wanted.contains(&tag),
                    "{vlan:?} {tag:?}"
                );
                let frame = PacketFrame {
                    len: 0,
                    vlan: tag.map(|tag| (TAG, tag)),
                    truncated: false,
                };
                assert_eq!(judge(&frame, vlan).is_none(), wanted.contains(&tag));
            }
        }
        let service = PacketFrame {
            len: 0,
            vlan: Some((0x88a8, 100)),
            truncated: false,
        };
        assert_eq!(judge(&service, Some(100)), Some(DropReason::VlanNotAllowed));
    }

    #[test]
    fn a_tag_moves_what_a_header_points_at() {
        let open = [1, 1, 54, 0, 120, 5, 34, 0, 16, 0];
        assert_eq!(shifted(open), [1, 1, 58, 0, 120, 5, 38, 0, 16, 0]);
        assert_eq!(shifted([0; VNET]), [0; VNET]);
    }
}
