//! How are links, addresses and routes made without a process for each?
//!
//! A small route-netlink client over one socket of the calling thread's network namespace. A lab of twenty hosts
//! needs some six hundred changes; an `ip` process each would take longer than everything else together.
//!
//! # References
//! `rtnetlink(7)`, `netlink(7)`.

use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};

use anyhow::{Context, bail};
use net::Mac;
use rustix::io::Errno;
use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType};

const RTM_NEWLINK: u16 = 16;
const RTM_NEWADDR: u16 = 20;
const RTM_NEWROUTE: u16 = 24;
const RTM_NEWNEIGH: u16 = 28;
const NLMSG_ERROR: u16 = 2;
const REQUEST_ACK: u16 = 0x1 | 0x4;
const CREATE: u16 = 0x400;
const EXCLUSIVE: u16 = 0x200;
const APPEND: u16 = 0x800;
const IFF_UP: u32 = 0x1;
/// `NETLINK_ROUTE` is protocol 0, which rustix spells as none.
const ROUTE: Option<rustix::net::Protocol> = None;

/// One message under construction.
struct Message {
    bytes: Vec<u8>,
}

impl Message {
    fn new(kind: u16, flags: u16) -> Self {
        let mut bytes = vec![0; 4];
        bytes.extend(kind.to_ne_bytes());
        bytes.extend((REQUEST_ACK | flags).to_ne_bytes());
        bytes.extend([0; 8]);
        Self { bytes }
    }

    /// A link message about the link of that index, or a new one (0).
    fn link(kind: u16, flags: u16, index: u32, set: u32) -> Self {
        let mut message = Self::new(kind, flags);
        message.link_header(index, set);
        message
    }

    fn link_header(&mut self, index: u32, set: u32) {
        self.bytes.extend([0; 4]);
        self.bytes.extend(index.to_ne_bytes());
        self.bytes.extend(set.to_ne_bytes());
        self.bytes.extend(set.to_ne_bytes());
    }

    fn attribute(&mut self, kind: u16, value: &[u8]) {
        let length = u16::try_from(value.len() + 4).unwrap_or(u16::MAX);
        self.bytes.extend(length.to_ne_bytes());
        self.bytes.extend(kind.to_ne_bytes());
        self.bytes.extend(value);
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }

    fn text(&mut self, kind: u16, value: &str) {
        let mut value = value.as_bytes().to_vec();
        value.push(0);
        self.attribute(kind, &value);
    }

    fn number(&mut self, kind: u16, value: u32) {
        self.attribute(kind, &value.to_ne_bytes());
    }

    fn address(&mut self, kind: u16, value: IpAddr) {
        match value {
            IpAddr::V4(v4) => self.attribute(kind, &v4.octets()),
            IpAddr::V6(v6) => self.attribute(kind, &v6.octets()),
        }
    }

    /// An attribute that holds attributes.
    fn nest(&mut self, kind: u16, fill: impl FnOnce(&mut Self)) {
        let start = self.bytes.len();
        self.bytes.extend([0; 2]);
        self.bytes.extend(kind.to_ne_bytes());
        fill(self);
        let length = u16::try_from(self.bytes.len() - start).unwrap_or(u16::MAX);
        self.put(start, &length.to_ne_bytes());
    }

    fn put(&mut self, at: usize, value: &[u8]) {
        for (slot, byte) in self.bytes.iter_mut().skip(at).zip(value) {
            *slot = *byte;
        }
    }

    fn finish(mut self, sequence: u32) -> Vec<u8> {
        let length = u32::try_from(self.bytes.len()).unwrap_or(u32::MAX);
        self.put(0, &length.to_ne_bytes());
        self.put(8, &sequence.to_ne_bytes());
        self.bytes
    }
}

/// The family byte of a kernel message.
const fn family_of(address: IpAddr) -> u8 {
    match address {
        IpAddr::V4(_) => 2,
        IpAddr::V6(_) => 10,
    }
}

/// What a new link is.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Kind<'a> {
    Bridge,
    /// A bridge that learns nothing: what comes in by one link goes out by all others.
    Hub,
    /// A pair: the other end goes to that namespace under that name.
    Veth {
        peer: &'a str,
        namespace: BorrowedFd<'a>,
        peer_mac: Option<Mac>,
        peer_mtu: Option<u32>,
    },
    Vxlan {
        vni: u32,
        local: Ipv4Addr,
    },
}

/// A socket to the kernel's routing tables, in the namespace of the thread that opened it.
#[derive(Debug)]
pub(crate) struct Netlink {
    socket: OwnedFd,
    sequence: u32,
}

impl Netlink {
    /// Opens one in the calling thread's network namespace.
    pub(crate) fn open() -> anyhow::Result<Self> {
        let socket = rustix::net::socket_with(
            AddressFamily::NETLINK,
            SocketType::RAW,
            SocketFlags::CLOEXEC,
            ROUTE,
        )
        .context("open a netlink socket")?;
        rustix::net::bind(&socket, &SocketAddrNetlink::new(0, 0))
            .context("bind a netlink socket")?;
        Ok(Self {
            socket,
            sequence: 0,
        })
    }

    fn request(&mut self, message: Message) -> Result<(), Errno> {
        self.sequence += 1;
        let bytes = message.finish(self.sequence);
        rustix::net::send(&self.socket, &bytes, SendFlags::empty())?;
        let mut buffer = [0_u8; 4096];
        loop {
            let (_, length) = rustix::net::recv(&self.socket, &mut buffer, RecvFlags::empty())?;
            let answer = buffer.get(..length).unwrap_or_default();
            let kind = field::<2>(answer, 4).map(u16::from_ne_bytes);
            let sequence = field::<4>(answer, 8).map(u32::from_ne_bytes);
            if kind == Some(NLMSG_ERROR) && sequence == Some(self.sequence) {
                return match field::<4>(answer, 16).map(i32::from_ne_bytes) {
                    Some(0) => Ok(()),
                    Some(code) => Err(Errno::from_raw_os_error(-code)),
                    None => Err(Errno::PROTO),
                };
            }
        }
    }

    /// Sets a link's MTU and how many frames may wait for it.
    pub(crate) fn set_sizes(&mut self, index: u32, mtu: u32, queue: u32) -> anyhow::Result<()> {
        let mut message = Message::link(RTM_NEWLINK, 0, index, 0);
        message.number(4, mtu);
        message.number(13, queue);
        self.request(message)
            .with_context(|| format!("set link {index} to MTU {mtu} and queue {queue}"))
    }

    /// The index of a link by its name.
    pub(crate) fn index(&self, name: &str) -> anyhow::Result<u32> {
        // Interface ioctls work on any socket; a netlink one is at hand.
        rustix::net::netdevice::name_to_index(&self.socket, name)
            .with_context(|| format!("find link {name}"))
    }

    /// Makes a link, down, and tells its index.
    pub(crate) fn add_link(
        &mut self,
        name: &str,
        kind: Kind<'_>,
        mtu: Option<u32>,
    ) -> anyhow::Result<u32> {
        if name.len() > 15 {
            bail!("link name {name} is longer than the kernel's 15 bytes");
        }
        let mut message = Message::link(RTM_NEWLINK, CREATE | EXCLUSIVE, 0, 0);
        message.text(3, name);
        if let Some(mtu) = mtu {
            message.number(4, mtu);
        }
        message.nest(18, |info| match kind {
            Kind::Bridge => info.text(1, "bridge"),
            Kind::Hub => {
                info.text(1, "bridge");
                info.nest(2, |data| data.number(4, 0));
            }
            Kind::Veth {
                peer,
                namespace,
                peer_mac,
                peer_mtu,
            } => {
                info.text(1, "veth");
                info.nest(2, |data| {
                    data.nest(1, |other| {
                        other.link_header(0, 0);
                        other.text(3, peer);
                        other.attribute(28, &namespace.as_raw_fd().to_ne_bytes());
                        if let Some(mac) = peer_mac {
                            other.attribute(1, &mac.octets());
                        }
                        if let Some(mtu) = peer_mtu {
                            other.number(4, mtu);
                        }
                    });
                });
            }
            Kind::Vxlan { vni, local } => {
                info.text(1, "vxlan");
                info.nest(2, |data| {
                    data.number(1, vni);
                    data.attribute(4, &local.octets());
                    // No learning: the lab knows where everything is.
                    data.attribute(7, &[0]);
                    data.attribute(15, &4789_u16.to_be_bytes());
                });
            }
        });
        self.request(message)
            .with_context(|| format!("make link {name}"))?;
        self.index(name)
    }

    /// Puts a link on a bridge.
    pub(crate) fn enslave(&mut self, index: u32, bridge: u32) -> anyhow::Result<()> {
        let mut message = Message::link(RTM_NEWLINK, 0, index, 0);
        message.number(10, bridge);
        self.request(message).context("put a link on its bridge")
    }

    /// Brings a link up.
    pub(crate) fn up(&mut self, index: u32) -> anyhow::Result<()> {
        self.request(Message::link(RTM_NEWLINK, 0, index, IFF_UP))
            .context("bring a link up")
    }

    /// Gives a link an address, usable at once (no duplicate detection).
    pub(crate) fn add_address(
        &mut self,
        index: u32,
        address: IpAddr,
        bits: u8,
    ) -> anyhow::Result<()> {
        const NODAD: u8 = 0x02;
        let mut message = Message::new(RTM_NEWADDR, CREATE);
        message.bytes.extend([
            family_of(address),
            bits,
            if address.is_ipv6() { NODAD } else { 0 },
            0,
        ]);
        message.bytes.extend(index.to_ne_bytes());
        message.address(2, address);
        message.address(1, address);
        self.request(message)
            .with_context(|| format!("add address {address}/{bits}"))
    }

    /// Routes everything else through a gateway.
    pub(crate) fn add_default_route(&mut self, gateway: IpAddr) -> anyhow::Result<()> {
        const MAIN: u8 = 254;
        const STATIC: u8 = 4;
        const UNICAST: u8 = 1;
        let mut message = Message::new(RTM_NEWROUTE, CREATE);
        message
            .bytes
            .extend([family_of(gateway), 0, 0, 0, MAIN, STATIC, 0, UNICAST]);
        message.bytes.extend([0; 4]);
        message.address(5, gateway);
        self.request(message)
            .with_context(|| format!("route through {gateway}"))
    }

    /// Tells a VXLAN device behind which VTEP a MAC lives. The zero MAC is the flood list; it may have several.
    pub(crate) fn add_fdb(&mut self, index: u32, mac: Mac, vtep: Ipv4Addr) -> anyhow::Result<()> {
        const BRIDGE_FAMILY: u8 = 7;
        const PERMANENT: u16 = 0x80 | 0x40;
        const ON_THE_DEVICE: u8 = 0x02;
        let mut message = Message::new(RTM_NEWNEIGH, CREATE | APPEND);
        message.bytes.extend([BRIDGE_FAMILY, 0, 0, 0]);
        message.bytes.extend(index.to_ne_bytes());
        message.bytes.extend(PERMANENT.to_ne_bytes());
        message.bytes.extend([ON_THE_DEVICE, 0]);
        message.attribute(2, &mac.octets());
        message.attribute(1, &vtep.octets());
        match self.request(message) {
            Ok(()) | Err(Errno::EXIST) => Ok(()),
            Err(e) => Err(e).with_context(|| format!("place {mac} behind {vtep}")),
        }
    }
}

fn field<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..)?.first_chunk().copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_counts_itself_and_pads_its_attributes() {
        let mut message = Message::link(RTM_NEWLINK, CREATE, 7, IFF_UP);
        message.text(3, "eth0");
        message.nest(18, |info| info.text(1, "bridge"));
        let bytes = message.finish(42);
        assert_eq!(
            field::<4>(&bytes, 0).map(u32::from_ne_bytes),
            Some(u32::try_from(bytes.len()).unwrap())
        );
        assert_eq!(field::<4>(&bytes, 8).map(u32::from_ne_bytes), Some(42));
        assert_eq!(field::<4>(&bytes, 20).map(u32::from_ne_bytes), Some(7));
        // "eth0\0" takes 5 + 4 bytes and is padded to 12; the nest holds one attribute of 7 + 4, padded too.
        assert_eq!(field::<2>(&bytes, 32).map(u16::from_ne_bytes), Some(9));
        assert_eq!(field::<2>(&bytes, 44).map(u16::from_ne_bytes), Some(16));
        assert_eq!(bytes.len(), 60);
    }

    #[test]
    fn a_field_past_the_end_is_none() {
        assert_eq!(field::<4>(&[1, 2, 3], 0), None);
        assert_eq!(field::<2>(&[1, 2, 3], 9), None);
    }
}
