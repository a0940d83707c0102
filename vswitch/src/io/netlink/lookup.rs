//! Which way would the kernel take?
//!
//! Its routes and its neighbours, asked for one destination at a time: three requests, each one message and one answer,
//! none of which takes the kernel's configuration lock (since Linux 6.17), so that a worker may ask between two batches.
//!
//! # References
//! Linux: rtnetlink(7) `RTM_GETROUTE` and `RTM_GETNEIGH`, `RTM_F_FIB_MATCH`.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use super::{MALFORMED, Message, Netlink, attributes, octets};

/// Where the kernel would send to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::io) struct Route {
    /// Through this device.
    pub(in crate::io) link: u32,
    /// To this router; `None`: to the destination itself.
    pub(in crate::io) gateway: Option<IpAddr>,
}

/// Who answers to an address on a link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::io) struct Neighbour {
    /// Its MAC address.
    pub(in crate::io) mac: [u8; 6],
    /// Has it been heard of lately? Otherwise the kernel wants to send to it, to find out.
    pub(in crate::io) confirmed: bool,
}

const UNICAST: u8 = 1;
const LOCAL: u8 = 2;
const REACHABLE: u16 = 0x02;
const STALE: u16 = 0x04;
const DELAY: u16 = 0x08;
const PROBE: u16 = 0x10;
const NOARP: u16 = 0x40;
const PERMANENT: u16 = 0x80;
const CONFIRMED: u16 = REACHABLE | NOARP | PERMANENT;
const RTA_VIA: u16 = 18;
const RTA_ENCAP: u16 = 22;

fn address(bytes: &[u8]) -> Option<IpAddr> {
    if let Ok(v4) = <[u8; 4]>::try_from(bytes) {
        return Some(Ipv4Addr::from(v4).into());
    }
    <[u8; 16]>::try_from(bytes)
        .ok()
        .map(|v6| Ipv6Addr::from(v6).into())
}

fn index(bytes: &[u8]) -> Option<u32> {
    bytes.try_into().ok().map(u32::from_ne_bytes)
}

/// The route of an answer, unless it needs more than a MAC address (another kind, an encapsulation).
fn route(answer: &[u8], kind: u8) -> Option<Route> {
    let (fixed, tail) = answer.split_first_chunk::<12>()?;
    let [_, _, _, _, _, _, _, got, ..] = *fixed;
    let (mut link, mut gateway, mut plain) = (None, None, got == kind);
    for (attribute, value) in attributes(tail) {
        match attribute {
            libc::RTA_OIF => link = index(value),
            libc::RTA_GATEWAY => gateway = Some(address(value)?),
            RTA_VIA => gateway = Some(address(value.get(2..)?)?),
            RTA_ENCAP => plain = false,
            _ => {}
        }
    }
    link.filter(|_| plain).map(|link| Route { link, gateway })
}

/// The neighbour of an answer, if its MAC address is known.
fn neighbour(answer: &[u8]) -> Option<Neighbour> {
    let (fixed, tail) = answer.split_first_chunk::<12>()?;
    let [_, _, _, _, _, _, _, _, s0, s1, ..] = *fixed;
    let state = u16::from_ne_bytes([s0, s1]);
    if state & (CONFIRMED | STALE | DELAY | PROBE) == 0 {
        return None;
    }
    let (_, mac) = attributes(tail).find(|(kind, _)| *kind == libc::NDA_LLADDR)?;
    Some(Neighbour {
        mac: mac.try_into().ok()?,
        confirmed: state & CONFIRMED != 0,
    })
}

impl Netlink {
    fn ask_route(&mut self, to: IpAddr, from: Option<IpAddr>, flags: u32) -> io::Result<Vec<u8>> {
        let (family, destination) = octets(to);
        let bits = u8::try_from(destination.len() * 8).or(Err(MALFORMED))?;
        let mut body = vec![family, bits, 0, 0, 0, 0, 0, 0];
        if from.is_some()
            && let Some(length) = body.get_mut(2)
        {
            *length = bits;
        }
        body.extend(flags.to_ne_bytes());
        let mut request =
            Message::new(libc::RTM_GETROUTE, 0, &body).attribute(libc::RTA_DST, &destination);
        if let Some(from) = from {
            request = request.attribute(libc::RTA_SRC, &octets(from).1);
        }
        self.ask(request)
    }

    /// The way to an address, from one of this host's; `None` when there is none that needs no more than a MAC address.
    ///
    /// # Errors
    /// When the kernel cannot be asked.
    pub(in crate::io) fn route(&mut self, to: IpAddr, from: IpAddr) -> io::Result<Option<Route>> {
        match self.ask_route(to, Some(from), 0) {
            Ok(answer) => Ok(route(&answer, UNICAST)),
            Err(e) if e.kind() == io::ErrorKind::NetworkUnreachable => Ok(None),
            Err(e) if e.kind() == io::ErrorKind::HostUnreachable => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// The device that has an address of this host; `None` when none has.
    ///
    /// # Errors
    /// When the kernel cannot be asked.
    pub(in crate::io) fn device_of(&mut self, local: IpAddr) -> io::Result<Option<u32>> {
        const FIB_MATCH: u32 = 0x2000;
        let answer = self.ask_route(local, None, FIB_MATCH)?;
        Ok(route(&answer, LOCAL).map(|r| r.link))
    }

    /// Who answers to an address on a link; `None` when the kernel does not know.
    ///
    /// # Errors
    /// When the kernel cannot be asked.
    pub(in crate::io) fn neighbour(
        &mut self,
        link: u32,
        ip: IpAddr,
    ) -> io::Result<Option<Neighbour>> {
        let (family, bytes) = octets(ip);
        let mut body = vec![family, 0, 0, 0];
        body.extend(link.to_ne_bytes());
        body.extend([0; 4]);
        let request = Message::new(libc::RTM_GETNEIGH, 0, &body).attribute(libc::NDA_DST, &bytes);
        match self.ask(request) {
            Ok(answer) => Ok(neighbour(&answer)),
            Err(e) if e.raw_os_error() == Some(libc::ENOENT) => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// The MAC address of a device, without the lock that [`Netlink::link`] takes.
    ///
    /// # Errors
    /// When there is no such device.
    pub(in crate::io) fn mac_of(&self, name: &str) -> io::Result<[u8; 6]> {
        super::super::sys::mac_address(std::os::fd::AsFd::as_fd(&self.socket), name.as_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_of_this_host_is_on_its_device_and_a_strangers_is_on_none() {
        let mut netlink = Netlink::open().unwrap();
        assert_eq!(netlink.device_of([127, 0, 0, 1].into()).unwrap(), Some(1));
        assert!(!matches!(
            netlink.device_of([192, 0, 2, 200].into()),
            Ok(Some(_))
        ));
        // To itself it is no unicast route, and no neighbour is there.
        let here = [127, 0, 0, 1].into();
        assert_eq!(netlink.route(here, here).unwrap(), None);
        assert_eq!(netlink.neighbour(1, [127, 9, 9, 9].into()).unwrap(), None);
        assert_eq!(netlink.mac_of("lo").unwrap(), [0; 6]);
        assert!(netlink.mac_of("no-such-device").is_err());
    }

    fn answer(fixed: [u8; 12], attributes: &[(u16, &[u8])]) -> Vec<u8> {
        let mut message = Message(fixed.to_vec());
        for (kind, value) in attributes {
            message = message.attribute(*kind, value);
        }
        message.0
    }

    #[test]
    fn only_a_plain_unicast_route_is_a_way() {
        let fixed = |kind| [2, 32, 0, 0, 254, 0, 0, kind, 0, 0, 0, 0];
        let link = 7u32.to_ne_bytes();
        let got = route(&answer(fixed(1), &[(4, &link), (5, &[192, 0, 2, 1])]), 1);
        let through = Some([192, 0, 2, 1].into());
        assert_eq!(
            got,
            Some(Route {
                link: 7,
                gateway: through
            })
        );
        // A router of the other family (RFC 9229), behind its family.
        let mut via = vec![10, 0];
        via.extend([0xfe; 16]);
        let got = route(&answer(fixed(1), &[(4, &link), (18, &via)]), 1).unwrap();
        assert_eq!(got.gateway, Some(Ipv6Addr::from([0xfe; 16]).into()));
        assert_eq!(route(&answer(fixed(2), &[(4, &link)]), 1), None);
        assert_eq!(route(&answer(fixed(1), &[(4, &link), (22, &[])]), 1), None);
        assert_eq!(route(&answer(fixed(1), &[]), 1), None);
        assert_eq!(route(&[0; 5], 1), None);
    }

    #[test]
    fn a_neighbour_counts_while_the_kernel_believes_in_it() {
        let of = |state: u8, mac: &[u8]| {
            let fixed = [2, 0, 0, 0, 7, 0, 0, 0, state, 0, 0, 1];
            neighbour(&answer(fixed, &[(2, mac)]))
        };
        let mac = [2, 0, 0, 0, 0, 9];
        for (state, confirmed) in [(0x02, true), (0x80, true), (0x04, false), (0x10, false)] {
            assert_eq!(of(state, &mac), Some(Neighbour { mac, confirmed }));
        }
        for incomplete_or_failed in [0x00, 0x01, 0x20] {
            assert_eq!(of(incomplete_or_failed, &mac), None);
        }
        assert_eq!(of(0x02, &mac[..4]), None);
    }
}
