//! Which address does this host tunnel from, and how large a packet may leave there?
//!
//! Asked of the kernel's routing without a packet being sent: a connected UDP socket knows its source address and its
//! route's MTU.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket},
};

use crate::config::ControllerUrl;

/// Any port will do: nothing is sent.
const DISCARD: u16 = 9;

/// The address that the controller is reached from.
///
/// # Errors
/// When its name can't be resolved, or there is no way to it.
pub(crate) async fn source(controller: &ControllerUrl) -> io::Result<IpAddr> {
    let mut last = io::Error::from(io::ErrorKind::NotFound);
    for target in tokio::net::lookup_host((controller.host(), controller.port())).await? {
        match connected(target.ip()) {
            Ok(socket) => return Ok(socket.local_addr()?.ip()),
            Err(error) => last = error,
        }
    }
    Err(last)
}

/// The MTU of the link that an address of this host is on; 0 when it can't be told.
pub(crate) fn mtu(vtep: IpAddr) -> u32 {
    let routes = match vtep {
        IpAddr::V4(_) => "/proc/thread-self/net/route",
        IpAddr::V6(_) => "/proc/thread-self/net/if_inet6",
    };
    let text = std::fs::read_to_string(routes).unwrap_or_default();
    // To itself the way is the loopback, whose MTU says nothing: ask for a neighbour on its link.
    let neighbour = match vtep {
        IpAddr::V4(v4) => neighbour_v4(v4, &text).map(IpAddr::V4),
        IpAddr::V6(v6) => neighbour_v6(v6, &text).map(IpAddr::V6),
    };
    let asked = connected(neighbour.unwrap_or(vtep)).and_then(|socket| {
        Ok(match vtep {
            IpAddr::V4(_) => rustix::net::sockopt::ip_mtu(&socket)?,
            IpAddr::V6(_) => rustix::net::sockopt::ipv6_mtu(&socket)?,
        })
    });
    asked.unwrap_or(0)
}

fn connected(target: IpAddr) -> io::Result<UdpSocket> {
    let any: IpAddr = match target {
        IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = UdpSocket::bind(SocketAddr::new(any, 0))?;
    socket.connect(SocketAddr::new(target, DISCARD))?;
    Ok(socket)
}

/// Another address of the smallest directly connected block that `own` is in. `routes` is `/proc/net/route`.
fn neighbour_v4(own: Ipv4Addr, routes: &str) -> Option<Ipv4Addr> {
    let own = u32::from(own);
    // Iface Destination Gateway Flags RefCnt Use Metric Mask: numbers in hex, as they lie in memory.
    let block = |line: &str| {
        let number = |at: usize| {
            let word = line.split_ascii_whitespace().nth(at)?;
            u32::from_str_radix(word, 16).ok().map(u32::from_be)
        };
        let (net, gateway, mask) = (number(1)?, number(2)?, number(7)?);
        (gateway == 0 && mask != 0 && own & mask == net).then_some((mask, net))
    };
    let (mask, net) = routes.lines().skip(1).filter_map(block).max()?;
    let own_bits = own & !mask;
    let other = if own_bits == 1 { 2 } else { 1 };
    (other & mask == 0).then(|| Ipv4Addr::from(net | other))
}

/// Another address of the block that `own` is set with. `addresses` is `/proc/net/if_inet6`.
fn neighbour_v6(own: Ipv6Addr, addresses: &str) -> Option<Ipv6Addr> {
    // Address, interface, prefix length: in hex.
    let bits = addresses.lines().find_map(|line| {
        let mut words = line.split_ascii_whitespace();
        let addr = u128::from_str_radix(words.next()?, 16).ok()?;
        let bits = u32::from_str_radix(words.nth(1)?, 16).ok()?;
        (addr == u128::from(own)).then_some(bits)
    })?;
    (bits < 128).then(|| Ipv6Addr::from(u128::from(own) ^ 1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_neighbour_is_on_the_same_link() {
        let routes = "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\n\
                      eth0\t00000000\t010200C0\t0003\t0\t0\t0\t00000000\t0\t0\t0\n\
                      eth1\t00000A0A\t00000000\t0001\t0\t0\t0\t0000FFFF\t0\t0\t0\n\
                      eth0\t000200C0\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0\n";
        let of = |own: &str| neighbour_v4(own.parse().unwrap(), routes).map(|a| a.to_string());
        assert_eq!(of("192.0.2.2").as_deref(), Some("192.0.2.1"));
        assert_eq!(of("192.0.2.1").as_deref(), Some("192.0.2.2"));
        assert_eq!(of("10.10.3.4").as_deref(), Some("10.10.0.1"));
        assert_eq!(of("198.51.100.1"), None);
        assert_eq!(of("127.0.0.1"), None);
        assert_eq!(
            neighbour_v4("192.0.2.2".parse().unwrap(), "head\ngibberish\n"),
            None
        );

        let addresses = "fd000000000000000000000000000002 04 40 00 82     eth0\n\
                         00000000000000000000000000000001 01 80 10 80       lo\n";
        let of = |own: &str| neighbour_v6(own.parse().unwrap(), addresses).map(|a| a.to_string());
        assert_eq!(of("fd00::2").as_deref(), Some("fd00::3"));
        assert_eq!(of("::1"), None);
        assert_eq!(of("fd00::9"), None);
    }

    #[tokio::test]
    async fn the_loopback_is_reached_from_itself() {
        let controller = "https://127.0.0.1:9697".parse().unwrap();
        let from = source(&controller).await.unwrap();
        assert_eq!(from, IpAddr::from(Ipv4Addr::LOCALHOST));
        assert!(mtu(from) > 1500, "{}", mtu(from));
    }
}
