//! Is it for the metadata service?
//!
//! Every network has it, with a router or without: its two addresses are answered by ARP and ND, and by pings, in the client's own
//! switch, and what a workload sends by TCP to port 80 of them ends there, whatever Ethernet address it was sent to. A workload that has one
//! of them itself is reached by nobody at it.
//!
//! # References
//! RFC 3927 §2.1 and RFC 4291 §2.5.6: the addresses are link-local; no router forwards them.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use hostconfig::network::{SERVICE_V4, SERVICE_V6};
use net::{
    Fragment, Mac, Probe,
    flow_key::{addr_bytes, ethertype, proto},
};

use crate::datapath::dns;

/// The service's address.
pub const V4: Ipv4Addr = SERVICE_V4;
/// The same in IPv6: the host part holds the IPv4 address.
pub const V6: Ipv6Addr = SERVICE_V6;
/// Where it is on every network.
pub const MAC: Mac = dns::MAC;
/// Its port.
pub const PORT: u16 = 80;

/// What a packet wants of the service.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wants {
    /// To speak with it.
    Page,
    /// To know that it is there.
    Echo,
}

/// Is the packet for it? Reads no more of the destination than tells it from the service's, so that flows to others stay wide.
pub fn wanted(probe: &mut Probe) -> Option<Wants> {
    let (own, echo) = match probe.ethertype() {
        ethertype::IPV4 => (IpAddr::V4(V4), (proto::ICMP, 8)),
        ethertype::IPV6 => (IpAddr::V6(V6), (proto::ICMP6, 128)),
        _ => return None,
    };
    let own = u128::from_be_bytes(addr_bytes(own));
    let there = u128::from_be_bytes(probe.rewritten_key().ip_dst);
    // Whole bytes up to the first that differs: few masks, and whoever is equal in them differs there too.
    let bits = ((own ^ there).leading_zeros() / 8 + 1) * 8;
    let bits = u8::try_from(bits.min(128)).unwrap_or(128);
    let shift = 128 - u32::from(bits);
    if probe.ip_dst_top(bits) >> shift != own >> shift {
        return None;
    }
    if probe.ip_frag() != Fragment::Whole as u8 {
        return None;
    }
    let of = probe.ip_proto();
    if of == proto::TCP && probe.l4_dst() == PORT {
        return Some(Wants::Page);
    }
    (of == echo.0 && probe.l4_src() == echo.1).then_some(Wants::Echo)
}

#[cfg(test)]
mod tests {
    use net::FlowKey;

    use super::*;

    fn key(dst: &str, of: u8, ports: (u16, u16)) -> FlowKey {
        let dst: IpAddr = dst.parse().unwrap();
        FlowKey {
            ethertype: if dst.is_ipv4() { 0x0800 } else { 0x86dd },
            ip_dst: addr_bytes(dst),
            ip_proto: of,
            l4_src: ports.0,
            l4_dst: ports.1,
            ..FlowKey::default()
        }
    }

    #[test]
    fn tcp_to_port_80_and_pings_are_for_it_and_nothing_else() {
        for (dst, of, ports, wants) in [
            ("169.254.169.254", 6, (4000, 80), Some(Wants::Page)),
            ("fe80::a9fe:a9fe", 6, (4000, 80), Some(Wants::Page)),
            ("169.254.169.254", 1, (8, 0), Some(Wants::Echo)),
            ("fe80::a9fe:a9fe", 58, (128, 0), Some(Wants::Echo)),
            ("169.254.169.254", 6, (80, 443), None),
            ("169.254.169.254", 17, (4000, 80), None),
            ("169.254.169.254", 1, (0, 0), None),
            ("169.254.169.253", 6, (4000, 80), None),
            ("10.0.0.1", 6, (4000, 80), None),
            ("fe80::a9fe:a9ff", 6, (4000, 80), None),
            ("2001:db8::1", 6, (4000, 80), None),
        ] {
            assert_eq!(
                wanted(&mut Probe::new(&key(dst, of, ports))),
                wants,
                "{dst}"
            );
        }
        let mut later = key("169.254.169.254", 6, (4000, 80));
        later.ip_frag = Fragment::First as u8;
        assert_eq!(wanted(&mut Probe::new(&later)), None);
    }

    #[test]
    fn flows_to_others_read_one_byte_of_their_destination() {
        let mut probe = Probe::new(&key("10.0.0.1", 6, (4000, 80)));
        assert_eq!(wanted(&mut probe), None);
        let mask = probe.mask();
        assert_eq!(mask.fields().ip_dst[12..], [0xff, 0, 0, 0]);
        assert_eq!(mask.fields().l4_dst, 0);
        let mut probe = Probe::new(&key("2001:db8::1", 6, (4000, 80)));
        assert_eq!(wanted(&mut probe), None);
        assert_eq!(probe.mask().fields().ip_dst[..3], [0xff, 0, 0]);
    }
}
