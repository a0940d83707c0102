//! How is a device given its name, address and routes?
//!
//! The few rtnetlink requests that a tap needs, blocking, on a socket of the calling thread's namespace. They run on the
//! scratch thread of [`super::netns`], where there is no async runtime and none is wanted: each is one message and
//! one answer. What the kernel knows of the way to another host is [`lookup`]'s.
//!
//! # References
//! Linux: netlink(7), rtnetlink(7). RFC 3549.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    os::fd::OwnedFd,
};

use net::Mac;
mod lookup;

use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType};

/// One socket to the kernel's routing tables.
#[derive(Debug)]
pub(super) struct Netlink {
    socket: OwnedFd,
    sequence: u32,
}

/// What a device is.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is one of the kernel's flags"
)]
pub(super) struct Link {
    /// Its index in the namespace.
    pub(super) index: u32,
    /// Its name.
    pub(super) name: String,
    /// Does it carry Ethernet frames to others?
    pub(super) ethernet: bool,
    /// Its MAC address.
    pub(super) mac: Option<[u8; 6]>,
    /// Who made it, in its maker's words.
    pub(super) alias: Option<String>,
    /// Is it a tun or tap device?
    pub(super) tun: bool,
    /// Is it up?
    pub(super) up: bool,
    /// Does it have a link to somebody?
    pub(super) carrier: bool,
    /// The largest IP packet.
    pub(super) mtu: u32,
}

/// What is to be set on a device; `None` stays as it is.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Change<'a> {
    pub(super) up: bool,
    pub(super) mac: Option<Mac>,
    pub(super) mtu: Option<u32>,
    pub(super) alias: Option<&'a str>,
    pub(super) gso_max_size: Option<u32>,
    pub(super) queue_len: Option<u32>,
    /// The kernel's own IPv6 is to keep quiet on it: no address, and nothing sent.
    pub(super) no_ipv6: bool,
}

const IFF_UP: u32 = 1;
const IFF_LOWER_UP: u32 = 0x1_0000;
const NLMSG_ERROR: u16 = 2;
const ACK: u16 = 4;
const REQUEST: u16 = 1;
const CREATE: u16 = 0x400;
const REPLACE: u16 = 0x100;
const NLA_NESTED: u16 = 0x8000;
const MALFORMED: io::ErrorKind = io::ErrorKind::InvalidData;

/// A message under construction.
struct Message(Vec<u8>);

impl Message {
    fn new(kind: u16, flags: u16, body: &[u8]) -> Self {
        let mut bytes = Vec::with_capacity(256);
        bytes.extend(0u32.to_ne_bytes());
        bytes.extend(kind.to_ne_bytes());
        bytes.extend((REQUEST | flags).to_ne_bytes());
        bytes.extend([0; 8]);
        bytes.extend(body);
        Self(bytes)
    }

    fn attribute(mut self, kind: u16, value: &[u8]) -> Self {
        let len = u16::try_from(4 + value.len()).unwrap_or(u16::MAX);
        self.0.extend(len.to_ne_bytes());
        self.0.extend(kind.to_ne_bytes());
        self.0.extend(value);
        self.0.resize(self.0.len().next_multiple_of(4), 0);
        self
    }

    fn maybe(self, kind: u16, value: Option<u32>) -> Self {
        match value {
            Some(v) => self.attribute(kind, &v.to_ne_bytes()),
            None => self,
        }
    }
}

fn ifinfo(index: u32, flags: u32, mask: u32) -> [u8; 16] {
    let mut body = [0; 16];
    let words = [index, flags, mask];
    for (to, from) in body
        .iter_mut()
        .skip(4)
        .zip(words.iter().flat_map(|w| w.to_ne_bytes()))
    {
        *to = from;
    }
    body
}

fn octets(ip: IpAddr) -> (u8, Vec<u8>) {
    match ip {
        IpAddr::V4(v4) => (2, v4.octets().to_vec()),
        IpAddr::V6(v6) => (10, v6.octets().to_vec()),
    }
}

/// The attributes of a message's tail, as (kind without flags, value).
fn attributes(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let ([l0, l1, k0, k1], _) = bytes.split_first_chunk::<4>()?;
        let len = usize::from(u16::from_ne_bytes([*l0, *l1]));
        let value = bytes.get(4..len)?;
        bytes = bytes.get(len.next_multiple_of(4)..).unwrap_or_default();
        Some((u16::from_ne_bytes([*k0, *k1]) & !NLA_NESTED, value))
    })
}

impl Netlink {
    /// A socket in the calling thread's namespace.
    pub(super) fn open() -> io::Result<Self> {
        let socket = rustix::net::socket_with(
            AddressFamily::NETLINK,
            SocketType::RAW,
            SocketFlags::CLOEXEC,
            None,
        )?;
        Ok(Self {
            socket,
            sequence: 0,
        })
    }

    /// Sends a request and returns the body of the one message that answers it; empty for a plain acknowledgement.
    fn ask(&mut self, Message(mut bytes): Message) -> io::Result<Vec<u8>> {
        self.sequence += 1;
        let len = u32::try_from(bytes.len()).or(Err(MALFORMED))?;
        let fields = [(0usize, len), (8, self.sequence)];
        for (at, value) in fields {
            for (to, from) in bytes.iter_mut().skip(at).zip(value.to_ne_bytes()) {
                *to = from;
            }
        }
        rustix::net::send(&self.socket, &bytes, SendFlags::empty())?;
        let mut answer = vec![0; 32 * 1024];
        loop {
            let (_, len) = rustix::net::recv(&self.socket, &mut answer[..], RecvFlags::empty())?;
            let got = answer.get(..len).ok_or(MALFORMED)?;
            let (header, body) = got.split_first_chunk::<16>().ok_or(MALFORMED)?;
            let [_, _, _, _, k0, k1, _, _, s0, s1, s2, s3, ..] = *header;
            if u32::from_ne_bytes([s0, s1, s2, s3]) != self.sequence {
                continue;
            }
            if u16::from_ne_bytes([k0, k1]) != NLMSG_ERROR {
                return Ok(body.to_vec());
            }
            let code = i32::from_ne_bytes(*body.first_chunk().ok_or(MALFORMED)?);
            return match code {
                0 => Ok(Vec::new()),
                _ => Err(io::Error::from_raw_os_error(-code)),
            };
        }
    }

    /// The device of that name; `None` when there is none.
    pub(super) fn link(&mut self, name: &str) -> io::Result<Option<Link>> {
        let mut zero_ended = name.as_bytes().to_vec();
        zero_ended.push(0);
        let request = Message::new(libc::RTM_GETLINK, 0, &ifinfo(0, 0, 0))
            .attribute(libc::IFLA_IFNAME, &zero_ended);
        self.link_by(request)
    }

    /// The device of that index; `None` when there is none.
    pub(super) fn link_at(&mut self, index: u32) -> io::Result<Option<Link>> {
        self.link_by(Message::new(libc::RTM_GETLINK, 0, &ifinfo(index, 0, 0)))
    }

    fn link_by(&mut self, request: Message) -> io::Result<Option<Link>> {
        const ETHERNET: u16 = 1;
        let answer = match self.ask(request) {
            Ok(answer) => answer,
            Err(e) if e.raw_os_error() == Some(libc::ENODEV) => return Ok(None),
            Err(e) => return Err(e),
        };
        let (fixed, tail) = answer.split_first_chunk::<16>().ok_or(MALFORMED)?;
        let [_, _, t0, t1, i0, i1, i2, i3, f0, f1, f2, f3, ..] = *fixed;
        let flags = u32::from_ne_bytes([f0, f1, f2, f3]);
        let mut link = Link {
            up: flags & IFF_UP != 0,
            carrier: flags & IFF_LOWER_UP != 0,
            index: u32::from_ne_bytes([i0, i1, i2, i3]),
            ethernet: u16::from_ne_bytes([t0, t1]) == ETHERNET,
            ..Link::default()
        };
        for (kind, value) in attributes(tail) {
            match kind {
                libc::IFLA_IFNAME => link.name = text(value),
                libc::IFLA_ADDRESS => link.mac = value.try_into().ok(),
                libc::IFLA_MTU => {
                    link.mtu = value.try_into().map(u32::from_ne_bytes).unwrap_or_default();
                }
                libc::IFLA_IFALIAS => link.alias = Some(text(value)),
                libc::IFLA_LINKINFO => {
                    link.tun = attributes(value)
                        .any(|(k, v)| k == libc::IFLA_INFO_KIND && text(v) == "tun");
                }
                _ => {}
            }
        }
        Ok(Some(link))
    }

    /// Changes a device.
    pub(super) fn change(&mut self, index: u32, change: &Change<'_>) -> io::Result<()> {
        let up = if change.up { IFF_UP } else { 0 };
        let mut message = Message::new(libc::RTM_NEWLINK, ACK, &ifinfo(index, up, up))
            .maybe(libc::IFLA_MTU, change.mtu)
            .maybe(libc::IFLA_TXQLEN, change.queue_len)
            .maybe(libc::IFLA_GSO_MAX_SIZE, change.gso_max_size);
        if let Some(mac) = change.mac {
            message = message.attribute(libc::IFLA_ADDRESS, &mac.octets());
        }
        if let Some(alias) = change.alias {
            message = message.attribute(libc::IFLA_IFALIAS, alias.as_bytes());
        }
        if change.no_ipv6 {
            const ADDRESS_GENERATION: u16 = 8;
            const NONE: u8 = 1;
            let mode = Message(Vec::new()).attribute(ADDRESS_GENERATION, &[NONE]);
            let v6 = Message(Vec::new()).attribute(10, &mode.0);
            message = message.attribute(libc::IFLA_AF_SPEC, &v6.0);
        }
        self.ask(message).map(drop)
    }

    /// Deletes a device.
    pub(super) fn delete(&mut self, index: u32) -> io::Result<()> {
        self.ask(Message::new(libc::RTM_DELLINK, ACK, &ifinfo(index, 0, 0)))
            .map(drop)
    }

    /// Gives a device an address, at once usable (no duplicate address detection); it may have it already.
    pub(super) fn add_address(&mut self, index: u32, ip: IpAddr, length: u8) -> io::Result<()> {
        const NODAD: u8 = 0x02;
        let (family, bytes) = octets(ip);
        let flags = if ip.is_ipv6() { NODAD } else { 0 };
        let mut body = vec![family, length, flags, 0];
        body.extend(index.to_ne_bytes());
        let mut message = Message::new(libc::RTM_NEWADDR, ACK | CREATE | REPLACE, &body)
            .attribute(libc::IFA_LOCAL, &bytes)
            .attribute(libc::IFA_ADDRESS, &bytes);
        if let IpAddr::V4(v4) = ip
            && length < 31
        {
            let host = u32::MAX.checked_shr(length.into()).unwrap_or(0);
            let broadcast = Ipv4Addr::from(u32::from(v4) | host);
            message = message.attribute(libc::IFA_BROADCAST, &broadcast.octets());
        }
        self.ask(message).map(drop)
    }

    /// Adds a route through a device; it may be there already.
    pub(super) fn add_route(
        &mut self,
        index: u32,
        destination: (IpAddr, u8),
        gateway: Option<IpAddr>,
    ) -> io::Result<()> {
        const MAIN: u8 = 254;
        const STATIC: u8 = 4;
        const UNICAST: u8 = 1;
        const LINK: u8 = 253;
        let (family, bytes) = octets(destination.0);
        let scope = match (gateway, family) {
            (None, 2) => LINK,
            _ => 0,
        };
        let body = [
            family,
            destination.1,
            0,
            0,
            MAIN,
            STATIC,
            scope,
            UNICAST,
            0,
            0,
            0,
            0,
        ];
        let mut message = Message::new(libc::RTM_NEWROUTE, ACK | CREATE | REPLACE, &body)
            .attribute(libc::RTA_OIF, &index.to_ne_bytes());
        let zero = [
            IpAddr::V4(Ipv4Addr::UNSPECIFIED),
            IpAddr::V6(Ipv6Addr::UNSPECIFIED),
        ];
        if destination.1 > 0 || !zero.contains(&destination.0) {
            message = message.attribute(libc::RTA_DST, &bytes);
        }
        if let Some(gateway) = gateway {
            message = message.attribute(libc::RTA_GATEWAY, &octets(gateway).1);
        }
        self.ask(message).map(drop)
    }
}

fn text(bytes: &[u8]) -> String {
    let end = bytes.iter().position(|b| *b == 0).unwrap_or(bytes.len());
    String::from_utf8_lossy(bytes.get(..end).unwrap_or_default()).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_that_lie_about_their_length_end_the_list() {
        let two = Message(vec![]).attribute(1, b"abc").attribute(2, b"");
        let all: Vec<_> = attributes(&two.0).collect();
        assert_eq!(all, [(1, &b"abc"[..]), (2, &b""[..])]);
        assert_eq!(attributes(&[3, 0, 1, 0]).count(), 0);
        assert_eq!(attributes(&[200, 0, 1, 0, 5]).count(), 0);
        assert_eq!(attributes(&[4]).count(), 0);
    }

    #[test]
    fn the_loopback_device_is_found_and_an_absent_one_is_not() {
        let mut netlink = Netlink::open().unwrap();
        let lo = netlink.link("lo").unwrap().unwrap();
        assert_eq!(lo.index, 1);
        assert!(!lo.tun);
        assert_eq!(netlink.link("no-such-device").unwrap(), None);
    }
}
