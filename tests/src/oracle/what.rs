//! What does a port receive?

use std::net::{IpAddr, Ipv6Addr};

use net::{
    DropReason, FlowKey, Fragment, Headers, Mac,
    flow_key::{addr_bytes, ethertype},
};

use super::{Advertised, dhcp6, words::query};
use crate::plan::PortUuid;

/// What a port must receive.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum What {
    /// The frame, with these addresses.
    Frame {
        /// Ethernet source and destination.
        macs: (Mac, Mac),
        /// EtherType.
        ethertype: u16,
        /// Source and destination, ports (or identifier) with them, protocol.
        tuple: Option<String>,
        /// TTL or hop limit.
        ttl: u8,
        /// DSCP and ECN.
        tos: u8,
    },
    /// The switch's answer to an ARP request or Neighbor Solicitation: who has the address.
    Neighbor(IpAddr, Mac),
    /// What a router says to hosts, asked or not.
    Advertisement(Advertised),
    /// The switch's DHCP answer: the client's address.
    Dhcp(IpAddr),
    /// The switch's DHCPv6 answer: the addresses that it leases, and the name servers that it tells.
    Dhcp6(Vec<Ipv6Addr>, Vec<Ipv6Addr>),
    /// The switch's answer to a ping to a virtual address, or to a router.
    Pong(IpAddr),
    /// The switch's error: in whose name, about what, and the quoted packet's addresses.
    Error(IpAddr, About, String),
}

/// What an error is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum About {
    /// The packet is larger than this.
    TooBig(u16),
    /// Its TTL is used up.
    TimeExceeded,
    /// There is no route.
    NoRoute,
    /// Nobody has the address.
    HostUnreachable,
}

impl About {
    fn message(self, v6: bool) -> (u16, u16) {
        match (self, v6) {
            (Self::TooBig(_), false) => (3, 4),
            (Self::TooBig(_), true) => (2, 0),
            (Self::TimeExceeded, false) => (11, 0),
            (Self::TimeExceeded, true) | (Self::NoRoute, false) => (3, 0),
            (Self::NoRoute, true) => (1, 0),
            (Self::HostUnreachable, false) => (3, 1),
            (Self::HostUnreachable, true) => (1, 3),
        }
    }
}

impl What {
    /// What a received frame is, as far as the oracle tells frames apart.
    pub fn of(frame: &[u8]) -> Self {
        let (_, key) = Headers::parse(frame).expect("the switch sends frames that can be read");
        Self::of_key(&key)
    }

    /// Is this frame what must be received?
    pub fn is(&self, frame: &[u8]) -> bool {
        let Ok((headers, key)) = Headers::parse(frame) else {
            return false;
        };
        let payload = usize::from(headers.payload_at);
        match self {
            Self::Frame { .. } => *self == Self::of_key(&key),
            Self::Neighbor(addr, mac) => {
                let (kind, who) = match key.ethertype {
                    ethertype::ARP => (key.ip_proto == 2, key.src_addr()),
                    _ => (key.l4_src == 136, IpAddr::V6(key.nd_target.into())),
                };
                kind && who == *addr && key.link_addr == mac.octets()
            }
            Self::Advertisement(said) => Advertised::of(frame).as_ref() == Some(said),
            Self::Dhcp(addr) => {
                let client = frame.get(payload + 16..payload + 20);
                (key.l4_src, key.l4_dst) == (67, 68)
                    && client.is_some_and(|c| addr_bytes(*addr).ends_with(c))
            }
            Self::Dhcp6(leased, servers) => {
                let message = frame.get(payload..).unwrap_or_default();
                let ports = (key.l4_src, key.l4_dst) == (547, 546);
                ports && dhcp6::told(message) == Some((leased.clone(), servers.clone()))
            }
            Self::Error(from, about, tuple) => {
                let v6 = key.ethertype == ethertype::IPV6;
                let kind = (key.l4_src, key.l4_dst) == about.message(v6);
                let at = usize::from(headers.l4_at);
                let told = frame.get(at + 6..at + 8);
                let mtu = match about {
                    About::TooBig(mtu) => *mtu,
                    _ => 0,
                };
                let quoted = headers.quoted(frame).map(|q| q.tuple.to_string());
                kind && key.src_addr() == *from
                    && told == Some(&mtu.to_be_bytes()[..])
                    && quoted.as_ref() == Some(tuple)
            }
            Self::Pong(addr) => query(&key) == Some(false) && key.src_addr() == *addr,
        }
    }

    pub(super) fn of_key(key: &FlowKey) -> Self {
        let mut key = *key;
        // A later fragment shows no ports, whatever it was lent.
        if key.ip_frag == Fragment::Later as u8 {
            (key.l4_src, key.l4_dst, key.icmp_id) = (0, 0, 0);
        }
        Self::Frame {
            macs: (key.src_mac(), key.dst_mac()),
            ethertype: key.ethertype,
            tuple: key.five_tuple().map(|t| t.to_string()),
            ttl: key.ip_ttl,
            tos: key.ip_tos,
        }
    }
}

/// A port that must receive something.
pub type Delivery = (PortUuid, What);

/// What must become of a frame: its deliveries and the reasons of its drops, both sorted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Fate {
    /// Who receives what.
    pub deliveries: Vec<Delivery>,
    /// Why copies of it, or all of it, are dropped.
    pub drops: Vec<DropReason>,
}
