//! What was a DHCP client told?

use std::net::Ipv4Addr;

use smoltcp::{
    socket::dhcpv4,
    wire::{DhcpPacket, Ipv4Cidr},
};

/// What a client asks for, as Linux's do: mask, router, name servers, domain, MTU, classless routes.
const ASKED: &[u8] = &[1, 3, 6, 15, 26, 121];

/// A client's lease.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lease {
    /// The address and its mask.
    pub address: Ipv4Cidr,
    /// The server's identifier.
    pub server: Ipv4Addr,
    /// The default router.
    pub router: Option<Ipv4Addr>,
    /// Name servers.
    pub dns: Vec<Ipv4Addr>,
    /// The domain.
    pub domain: String,
    /// The MTU.
    pub mtu: Option<u16>,
    /// Classless static routes: prefix, its bits, next hop.
    pub routes: Vec<(Ipv4Addr, u8, Ipv4Addr)>,
    /// The lease time in seconds.
    pub seconds: u32,
    /// How often the server has confirmed it so far.
    pub answers: u32,
}

/// A DHCP client that keeps the server's whole message.
pub(super) fn client() -> dhcpv4::Socket<'static> {
    let mut socket = dhcpv4::Socket::new();
    // The socket wants a buffer for as long as its set lives: a few of them a test process are nothing.
    socket.set_receive_packet_buffer(Box::leak(Box::new([0; 1500])));
    socket.set_parameter_request_list(ASKED);
    socket
}

fn option<'a>(packet: &'a DhcpPacket<&[u8]>, kind: u8) -> Option<&'a [u8]> {
    packet.options().find(|o| o.kind == kind).map(|o| o.data)
}

/// RFC 3442: bits, as many octets of the prefix as they need, router; and again.
fn routes(mut bytes: &[u8]) -> Vec<(Ipv4Addr, u8, Ipv4Addr)> {
    let mut routes = vec![];
    while let Some((&bits, rest)) = bytes.split_first() {
        let (prefix, rest) = rest.split_at(usize::from(bits.div_ceil(8)));
        let (router, rest) = rest.split_first_chunk::<4>().unwrap();
        let mut octets = [0; 4];
        octets[..prefix.len()].copy_from_slice(prefix);
        routes.push((octets.into(), bits, (*router).into()));
        bytes = rest;
    }
    routes
}

impl Lease {
    pub(super) fn of(config: &dhcpv4::Config<'_>, answers: u32) -> Self {
        let packet = config.packet.as_ref().unwrap();
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
        let seconds = option(packet, 51).and_then(|b| b.first_chunk());
        Self {
            address: config.address,
            server: config.server.identifier,
            router: config.router,
            dns: config.dns_servers.to_vec(),
            domain: option(packet, 15).map_or_else(String::new, text),
            mtu: option(packet, 26)
                .and_then(|b| b.first_chunk())
                .map(|b| u16::from_be_bytes(*b)),
            routes: option(packet, 121).map_or_else(Vec::new, routes),
            seconds: u32::from_be_bytes(*seconds.unwrap()),
            answers,
        }
    }
}
