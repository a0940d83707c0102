//! What tells one flow from another?
//!
//! [`FlowKey`] is everything that a table may ask of a packet, in a fixed shape that can be hashed, masked and compared as
//! bytes. [`FiveTuple`] is what tells connections apart. IPv4 addresses stand as IPv4-mapped IPv6 (RFC 4291 §2.5.5.2), so
//! that every table is written once.

use std::{
    fmt,
    net::{IpAddr, Ipv6Addr},
};

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::{Mac, NetworkId, PortId, Spread};

/// EtherType numbers (IEEE 802 numbers registry).
pub mod ethertype {
    /// IPv4.
    pub const IPV4: u16 = 0x0800;
    /// ARP.
    pub const ARP: u16 = 0x0806;
    /// IEEE 802.1Q tag.
    pub const VLAN: u16 = 0x8100;
    /// IEEE 802.1ad service tag.
    pub const QINQ: u16 = 0x88a8;
    /// IPv6.
    pub const IPV6: u16 = 0x86dd;
    /// MPLS (unicast).
    pub const MPLS: u16 = 0x8847;
}

/// IP protocol numbers (IANA registry).
pub mod proto {
    /// ICMP.
    pub const ICMP: u8 = 1;
    /// TCP.
    pub const TCP: u8 = 6;
    /// UDP.
    pub const UDP: u8 = 17;
    /// ICMPv6.
    pub const ICMP6: u8 = 58;
    /// SCTP.
    pub const SCTP: u8 = 132;
}

/// Where a packet entered the switch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Origin {
    /// From a workload's port.
    Port(PortId),
    /// From a tunnel, on this network.
    Tunnel(NetworkId),
    /// Made by the switch.
    Switch,
}

const KIND: u32 = 0xc000_0000;

impl From<Origin> for u32 {
    fn from(o: Origin) -> u32 {
        match o {
            Origin::Port(p) => p.0 & !KIND,
            Origin::Tunnel(n) => 0x4000_0000 | (n.0 & !KIND),
            Origin::Switch => 0x8000_0000,
        }
    }
}

impl From<u32> for Origin {
    fn from(v: u32) -> Self {
        match v & KIND {
            0 => Self::Port(PortId(v)),
            0x4000_0000 => Self::Tunnel(NetworkId(v & !KIND)),
            _ => Self::Switch,
        }
    }
}

/// Is the packet a fragment?
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[repr(u8)]
pub enum Fragment {
    /// A whole packet.
    #[default]
    Whole = 0,
    /// The first fragment: its transport header is there.
    First = 1,
    /// A later fragment: it has no transport header.
    Later = 2,
}

/// All that a table may ask of a packet. Fixed layout, no padding; unused fields are zero.
#[derive(
    Clone, Copy, PartialEq, Eq, Hash, Default, FromBytes, IntoBytes, KnownLayout, Immutable,
)]
#[repr(C)]
pub struct FlowKey {
    /// [`Origin`] as a number.
    pub origin: u32,
    /// EtherType behind any VLAN tag.
    pub ethertype: u16,
    /// 0x1000 | VLAN id when tagged, else 0.
    pub vlan: u16,
    /// IP source; ARP sender protocol address.
    pub ip_src: [u8; 16],
    /// IP destination; ARP target protocol address.
    pub ip_dst: [u8; 16],
    /// Transport source port; ICMP type.
    pub l4_src: u16,
    /// Transport destination port; ICMP code.
    pub l4_dst: u16,
    /// Ethernet destination.
    pub eth_dst: [u8; 6],
    /// Ethernet source.
    pub eth_src: [u8; 6],
    /// IP protocol (the upper-layer one, behind IPv6 extension headers); ARP operation.
    pub ip_proto: u8,
    /// DSCP and ECN.
    pub ip_tos: u8,
    /// TTL or hop limit.
    pub ip_ttl: u8,
    /// [`Fragment`] as a number.
    pub ip_frag: u8,
    /// TCP flags, low 9 bits (RFC 9293 §3.1, RFC 3540).
    pub tcp_flags: u16,
    /// Identifier of an ICMP query.
    pub icmp_id: u16,
    /// Target of a Neighbor Solicitation, Advertisement or Redirect.
    pub nd_target: [u8; 16],
    /// ARP sender hardware address; link-layer address option of Neighbor Discovery.
    pub link_addr: [u8; 6],
    /// The path of the label under which it came out of an appliance, and which was taken off; zero else.
    pub path: u16,
}

/// An address as the 16 bytes in a key.
pub fn addr_bytes(addr: IpAddr) -> [u8; 16] {
    match addr {
        IpAddr::V4(a) => a.to_ipv6_mapped().octets(),
        IpAddr::V6(a) => a.octets(),
    }
}

/// The address that 16 bytes in a key mean.
pub fn addr_of(bytes: [u8; 16]) -> IpAddr {
    Ipv6Addr::from(bytes).to_canonical()
}

impl FlowKey {
    /// Says where the packet entered.
    pub fn set_origin(&mut self, origin: Origin) {
        self.origin = origin.into();
    }

    /// Where the packet entered.
    pub fn origin(&self) -> Origin {
        self.origin.into()
    }

    /// Is it IPv4 or IPv6?
    pub fn is_ip(&self) -> bool {
        matches!(self.ethertype, ethertype::IPV4 | ethertype::IPV6)
    }

    /// Ethernet source.
    pub fn src_mac(&self) -> Mac {
        Mac::new(self.eth_src)
    }

    /// Ethernet destination.
    pub fn dst_mac(&self) -> Mac {
        Mac::new(self.eth_dst)
    }

    /// Source address.
    pub fn src_addr(&self) -> IpAddr {
        addr_of(self.ip_src)
    }

    /// Destination address.
    pub fn dst_addr(&self) -> IpAddr {
        addr_of(self.ip_dst)
    }

    /// Is it an ICMP query or the reply to one? Only these have an identifier.
    pub fn is_query(&self) -> bool {
        !matches!(IcmpRole::of(self.ip_proto, self.l4_src), IcmpRole::Neither)
    }

    /// What tells the connection apart; `None` for what is not IP.
    ///
    /// ICMP queries carry their identifier as both ports, and which of both they are, so that request and reply are each
    /// other's reverse, and two ends that ping each other under one identifier have two conversations; any other ICMP and
    /// any other protocol has none.
    #[inline]
    pub fn five_tuple(&self) -> Option<FiveTuple> {
        if !self.is_ip() {
            return None;
        }
        let (src_port, dst_port) = match self.ip_proto {
            proto::ICMP | proto::ICMP6 => (self.icmp_id, self.icmp_id),
            _ => (self.l4_src, self.l4_dst),
        };
        Some(FiveTuple {
            src: self.ip_src,
            dst: self.ip_dst,
            src_port,
            dst_port,
            proto: self.ip_proto,
            role: IcmpRole::of(self.ip_proto, self.l4_src) as u8,
            reserved: [0; 2],
        })
    }
}

impl fmt::Debug for FlowKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{:?} {}>{} type={:04x} {}:{} > {}:{} proto={} frag={}",
            self.origin(),
            self.src_mac(),
            self.dst_mac(),
            self.ethertype,
            self.src_addr(),
            self.l4_src,
            self.dst_addr(),
            self.l4_dst,
            self.ip_proto,
            self.ip_frag
        )
    }
}

/// Which half of a conversation an ICMP message is.
pub(crate) enum IcmpRole {
    Neither = 0,
    Query = 1,
    Reply = 2,
}

impl IcmpRole {
    #[inline]
    pub(crate) fn of(protocol: u8, kind: u16) -> Self {
        match (protocol, kind) {
            // Echo, timestamp, information, address mask.
            (proto::ICMP, 8 | 13 | 15 | 17) | (proto::ICMP6, 128) => Self::Query,
            (proto::ICMP, 0 | 14 | 16 | 18) | (proto::ICMP6, 129) => Self::Reply,
            _ => Self::Neither,
        }
    }
}

/// Addresses, ports and protocol: what tells connections apart within a zone.
#[derive(
    Clone,
    Copy,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    Default,
    FromBytes,
    IntoBytes,
    KnownLayout,
    Immutable,
)]
#[repr(C)]
pub struct FiveTuple {
    /// Source address (IPv4 as mapped).
    pub src: [u8; 16],
    /// Destination address (IPv4 as mapped).
    pub dst: [u8; 16],
    /// Source port, or ICMP identifier.
    pub src_port: u16,
    /// Destination port, or ICMP identifier.
    pub dst_port: u16,
    /// IP protocol.
    pub proto: u8,
    /// Of ICMP: 1 for a query, 2 for its reply; else 0.
    pub role: u8,
    /// Zero; fills the layout.
    pub reserved: [u8; 2],
}

impl FiveTuple {
    /// From addresses, ports and protocol.
    pub fn new(proto: u8, src: (IpAddr, u16), dst: (IpAddr, u16)) -> Self {
        Self {
            src: addr_bytes(src.0),
            dst: addr_bytes(dst.0),
            src_port: src.1,
            dst_port: dst.1,
            proto,
            role: 0,
            reserved: [0; 2],
        }
    }

    /// The same, as seen by packets in the other direction.
    #[must_use]
    pub fn reversed(self) -> Self {
        Self {
            src: self.dst,
            dst: self.src,
            src_port: self.dst_port,
            dst_port: self.src_port,
            role: match self.role {
                1 => 2,
                2 => 1,
                other => other,
            },
            ..self
        }
    }

    /// Source address.
    pub fn src_addr(&self) -> IpAddr {
        addr_of(self.src)
    }

    /// Destination address.
    pub fn dst_addr(&self) -> IpAddr {
        addr_of(self.dst)
    }

    /// As machine words, put together from the fields: read as bytes, a tuple that was only just made would wait for its own
    /// narrower writes to arrive (10 ns).
    #[inline]
    pub fn words(&self) -> [u64; 5] {
        let halves = |bytes: [u8; 16]| {
            let wide = u128::from_le_bytes(bytes);
            #[expect(clippy::cast_possible_truncation, reason = "both halves are wanted")]
            let (low, high) = (wide as u64, (wide >> 64) as u64);
            (low, high)
        };
        let ((s0, s1), (d0, d1)) = (halves(self.src), halves(self.dst));
        let ports = u64::from(self.src_port) | u64::from(self.dst_port) << 16;
        let last = ports | u64::from(self.proto) << 32 | u64::from(self.role) << 40;
        [s0, s1, d0, d1, last]
    }

    /// A hash that both directions share: which worker is home to the connection.
    pub fn symmetric_hash(&self, seed: u64) -> u64 {
        Spread::new(seed).hash(self)
    }
}

impl fmt::Display for FiveTuple {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = match self.proto {
            proto::TCP => "tcp",
            proto::UDP => "udp",
            proto::ICMP => "icmp",
            proto::ICMP6 => "icmp6",
            proto::SCTP => "sctp",
            p => return write!(f, "proto-{p} {} > {}", self.src_addr(), self.dst_addr()),
        };
        let end = |a: IpAddr, p: u16| std::net::SocketAddr::new(a, p);
        write!(
            f,
            "{name} {} > {}",
            end(self.src_addr(), self.src_port),
            end(self.dst_addr(), self.dst_port)
        )
    }
}

impl fmt::Debug for FiveTuple {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn origin_survives_its_number() {
        for o in [
            Origin::Port(PortId(7)),
            Origin::Tunnel(NetworkId(9)),
            Origin::Switch,
        ] {
            assert_eq!(Origin::from(u32::from(o)), o);
        }
    }

    #[test]
    fn two_ends_that_ping_each_other_under_one_identifier_have_two_conversations() {
        let (a, b) = ("10.0.0.1".parse().unwrap(), "10.0.0.2".parse().unwrap());
        let message = |src: IpAddr, dst: IpAddr, kind: u16| {
            let key = FlowKey {
                ethertype: ethertype::IPV4,
                ip_src: addr_bytes(src),
                ip_dst: addr_bytes(dst),
                ip_proto: proto::ICMP,
                l4_src: kind,
                icmp_id: 1,
                ..FlowKey::default()
            };
            key.five_tuple().unwrap()
        };
        let (query, reply) = (message(a, b, 8), message(b, a, 0));
        assert_eq!(query.reversed(), reply);
        assert_eq!(query.symmetric_hash(1), reply.symmetric_hash(1));
        assert_ne!(message(b, a, 8), reply);
    }

    #[test]
    fn both_directions_share_a_hash() {
        let t = FiveTuple::new(
            6,
            ("10.0.0.1".parse().unwrap(), 40000),
            ("10.0.0.2".parse().unwrap(), 80),
        );
        assert_eq!(t.symmetric_hash(1), t.reversed().symmetric_hash(1));
        assert_ne!(t, t.reversed());
        assert_eq!(t.to_string(), "tcp 10.0.0.1:40000 > 10.0.0.2:80");
    }
}
