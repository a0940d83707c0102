//! How do super-frames cross from host to host whole?
//!
//! Through a tap beside the underlay's link. What is written to it leaves through the link, and what comes to the VTEP on the
//! link can be read from it, with the kernel's offloads for UDP tunnels on: a super-frame of 60 KB with its VXLAN headers is one
//! write, standard VXLAN on the wire, and nobody has cut or summed it before a network card does. The host keeps the
//! address, ARP, ND and routes; the sockets of [`super::underlay`] stay open, and take what the tap does not.
//!
//! # Map
//! `filter` (which packets cross), `header` (what stands before a frame), `path` (MAC addresses and MTUs, from the
//! kernel), `queue` (one worker's part: [`TapUnderlay`]).
//!
//! # Invariants
//! - Nothing of it outlives the process: the tap is not persistent, the programs are attached by descriptors.
//! - Frames of one flow keep their order, whichever way each takes: a write and a send both end in the link's queue.
//! - Nothing is fragmented, and no segment is larger than the path's MTU: the same rule as for the sockets.
//!
//! # Attack
//! As for the sockets: what is not VXLAN for the VTEP never gets here, an unknown sender's frame is read once and dropped.
//!
//! # References
//! docs/adr/0010. RFC 7348. virtio 1.3 §5.1.6. Linux: `TUN_F_UDP_TUNNEL_GSO` (since 6.17), `BPF_TCX_INGRESS`.

use std::{
    collections::VecDeque,
    io,
    net::IpAddr,
    num::NonZeroU16,
    os::fd::{AsFd, OwnedFd},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use rustix::fs::{Mode, OFlags};

use super::{
    netlink::{Change, Netlink},
    steering::Steering,
    sys,
    underlay::UdpUnderlay,
};

mod filter;
pub mod header;
mod path;
mod queue;

use path::{UplinkDevice, Ways};
pub use queue::TapUnderlay;

/// The kernel puts a number behind it.
const NAME: &str = "ow-up%d";
/// Frames that wait in the kernel for a worker. They may be super-frames: 128 MB at the very most.
const QUEUE_LEN: u32 = 2000;
/// Bytes that may wait behind the link, as for a sending socket.
const SEND_BUFFER: libc::c_int = 8 << 20;
const TUNNEL_GSO: libc::c_uint = 0x80;
const TUNNEL_GSO_CHECKSUM: libc::c_uint = 0x100;

/// Why there is no uplink tap.
#[derive(Debug, thiserror::Error)]
pub enum UplinkError {
    /// No device has the address.
    #[error("no device of this host has the VTEP address {0}")]
    NoDevice(IpAddr),
    /// The device is no Ethernet.
    #[error("the device of the VTEP address is no Ethernet: {0}")]
    NoEthernet(String),
    /// The kernel refused.
    #[error("cannot {doing}")]
    Kernel {
        /// What was being done.
        doing: &'static str,
        /// What it said.
        #[source]
        source: io::Error,
    },
}

fn failed(doing: &'static str) -> impl Fn(io::Error) -> UplinkError {
    move |source| UplinkError::Kernel { doing, source }
}

/// What went over the uplink of one worker: counted by it, read by whoever asks.
#[derive(Debug, Default)]
pub struct UplinkCounters {
    pub(super) tx_tap: AtomicU64,
    pub(super) tx_socket: AtomicU64,
    pub(super) rx_tap: AtomicU64,
    pub(super) rx_socket: AtomicU64,
}

/// Segments that took each way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct UplinkTraffic {
    /// Written to the tap.
    pub tx_tap: u64,
    /// Sent by the sockets.
    pub tx_socket: u64,
    /// Read from the tap.
    pub rx_tap: u64,
    /// Received by the socket.
    pub rx_socket: u64,
}

impl UplinkTraffic {
    /// The sum with another worker's.
    pub fn add(&mut self, other: &Self) {
        self.tx_tap += other.tx_tap;
        self.tx_socket += other.tx_socket;
        self.rx_tap += other.rx_tap;
        self.rx_socket += other.rx_socket;
    }
}

impl UplinkCounters {
    /// What was counted so far.
    pub fn read(&self) -> UplinkTraffic {
        let of = |cell: &AtomicU64| cell.load(Ordering::Relaxed);
        UplinkTraffic {
            tx_tap: of(&self.tx_tap),
            tx_socket: of(&self.tx_socket),
            rx_tap: of(&self.rx_tap),
            rx_socket: of(&self.rx_socket),
        }
    }
}

/// The tap's programs, where they are attached. Dropped, they no longer run.
#[derive(Debug)]
struct Attached {
    _transmit: OwnedFd,
    _receive: OwnedFd,
}

/// The uplink tap of a host, its queues not yet given to the workers.
#[derive(Debug)]
pub struct Uplink {
    name: String,
    device: UplinkDevice,
    local: IpAddr,
    queues: VecDeque<OwnedFd>,
    attached: Arc<Attached>,
}

impl Uplink {
    /// Makes the tap in the calling thread's namespace and lets it take VXLAN from the link of `local`.
    ///
    /// # Errors
    /// See [`UplinkError`]; then nothing is left behind.
    pub fn open(local: IpAddr, queues: NonZeroU16) -> Result<Self, UplinkError> {
        let mut netlink = Netlink::open().map_err(failed("open netlink"))?;
        let device = device(&mut netlink, local)?;
        let (name, queues) = attach(queues)?;
        let tap = netlink.link(&name).map_err(failed("look for the tap"))?;
        let tap = tap.ok_or(io::ErrorKind::NotFound.into());
        let tap = tap.map_err(failed("look for the tap"))?.index;
        let alias = format!("overweave uplink of {local}");
        let first = Change {
            alias: Some(&alias),
            queue_len: Some(QUEUE_LEN),
            // What the kernel itself would send there is not for us. It must be told before the tap is up.
            no_ipv6: true,
            ..Change::default()
        };
        let then = Change {
            up: true,
            ..Change::default()
        };
        for change in [first, then] {
            netlink
                .change(tap, &change)
                .map_err(failed("set the tap up"))?;
        }
        let transmit = filter::attach("ow_uplink_tx", &filter::transmit(device.index), tap)
            .map_err(failed("attach a program to the tap"))?;
        let receive = filter::attach("ow_uplink_rx", &filter::receive(local, tap), device.index)
            .map_err(failed("attach a program to the underlay's link"))?;
        Ok(Self {
            name,
            device,
            local,
            queues: queues.into(),
            attached: Arc::new(Attached {
                _transmit: transmit,
                _receive: receive,
            }),
        })
    }

    /// Has the kernel put each packet into the queue of the worker who is home to its connection.
    pub fn steer(&self, steering: &Steering) {
        if let Some(queue) = self.queues.front() {
            steering.of_uplink(queue.as_fd(), self.local.is_ipv4());
        }
    }

    /// The tap's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The name of the underlay's link.
    pub fn link(&self) -> &str {
        &self.device.name
    }

    /// The next worker's part of it, with the sockets that it falls back to.
    ///
    /// # Errors
    /// When the kernel has no netlink socket or epoll instance for it, or all queues are given away.
    pub fn queue(
        &mut self,
        udp: UdpUnderlay,
        counters: Arc<UplinkCounters>,
    ) -> Result<TapUnderlay, UplinkError> {
        let queue = self
            .queues
            .pop_front()
            .ok_or(io::ErrorKind::NotFound.into());
        let queue = queue.map_err(failed("take another queue of the tap"))?;
        let netlink = Netlink::open().map_err(failed("open netlink"))?;
        let ways = Ways::new(netlink, self.device.clone(), self.local);
        let attached = Arc::clone(&self.attached);
        TapUnderlay::new(udp, (queue, attached), self.local, ways, counters)
            .map_err(failed("wait for the tap"))
    }
}

/// The link that has an address.
fn device(netlink: &mut Netlink, local: IpAddr) -> Result<UplinkDevice, UplinkError> {
    let index = netlink
        .device_of(local)
        .map_err(failed("look for the underlay's link"))?
        .ok_or(UplinkError::NoDevice(local))?;
    let link = netlink
        .link_at(index)
        .map_err(failed("look for the underlay's link"))?
        .ok_or(UplinkError::NoDevice(local))?;
    if !link.ethernet {
        return Err(UplinkError::NoEthernet(link.name));
    }
    Ok(UplinkDevice {
        index,
        name: link.name,
    })
}

/// Makes the tap: its name and its queues.
fn attach(queues: NonZeroU16) -> Result<(String, Vec<OwnedFd>), UplinkError> {
    let flags = libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR | libc::IFF_MULTI_QUEUE;
    let offloads = libc::TUN_F_CSUM
        | libc::TUN_F_TSO4
        | libc::TUN_F_TSO6
        | libc::TUN_F_TSO_ECN
        | libc::TUN_F_USO4
        | libc::TUN_F_USO6
        | TUNNEL_GSO
        | TUNNEL_GSO_CHECKSUM;
    let mut name = NAME.to_owned();
    let mut made = Vec::with_capacity(queues.get().into());
    for _ in 0..queues.get() {
        let fd = rustix::fs::open(
            "/dev/net/tun",
            OFlags::RDWR | OFlags::NONBLOCK | OFlags::CLOEXEC,
            Mode::empty(),
        )
        .map_err(|e| failed("open /dev/net/tun")(e.into()))?;
        name = sys::tun_attach(fd.as_fd(), name.as_bytes(), flags).map_err(failed("make a tap"))?;
        let set = |request, value| sys::tun_set_by_pointer(fd.as_fd(), request, value);
        let header = libc::c_int::try_from(header::VNET).unwrap_or(0);
        set(libc::TUNSETVNETHDRSZ, header)
            .and_then(|()| set(libc::TUNSETVNETLE, 1))
            .and_then(|()| set(libc::TUNSETSNDBUF, SEND_BUFFER))
            .map_err(failed("set the tap's header"))?;
        sys::tun_set(fd.as_fd(), libc::TUNSETOFFLOAD, offloads).map_err(failed(
            "have UDP tunnels offloaded by a tap (Linux 6.17 and later can)",
        ))?;
        made.push(fd);
    }
    Ok((name, made))
}

#[cfg(test)]
mod tests;
