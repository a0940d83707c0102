//! What do workloads say to each other?
//!
//! Frames between the ports of a [`Plan`], and answers to frames that were received, as a well-behaved stack would send them.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use net::{
    FlowKey, Headers, Mac,
    flow_key::proto,
    testkit::{FrameBuilder, tcp},
};

use crate::plan::{Plan, PortUuid};

/// Frames of one port to another, by their own addresses.
#[derive(Debug, Clone, Copy)]
pub struct Between<'a> {
    /// Who they are.
    pub plan: &'a Plan,
    /// Who sends.
    pub from: PortUuid,
    /// Who is to receive.
    pub to: PortUuid,
    /// Which family.
    pub v6: bool,
}

impl Between<'_> {
    fn addressed(&self, frame: FrameBuilder) -> FrameBuilder {
        let Self { plan, from, to, v6 } = *self;
        frame
            .macs(plan.mac(from), plan.mac(to))
            .addrs(plan.addr(from, v6), plan.addr(to, v6))
    }

    /// A datagram.
    pub fn udp(&self, src: u16, dst: u16) -> FrameBuilder {
        self.addressed(FrameBuilder::udp(self.v6, src, dst))
    }

    /// The first segment of a connection.
    pub fn syn(&self, src: u16, dst: u16) -> FrameBuilder {
        let syn = FrameBuilder::tcp(self.v6, src, dst).flags(tcp::SYN);
        self.addressed(syn.seq(100, 0))
    }

    /// A segment in the middle of a connection.
    pub fn ack(&self, src: u16, dst: u16) -> FrameBuilder {
        self.addressed(FrameBuilder::tcp(self.v6, src, dst))
    }

    /// An echo request.
    pub fn echo(&self, id: u16) -> FrameBuilder {
        self.addressed(FrameBuilder::echo(self.v6, id))
    }

    /// A packet of a protocol that has no ports.
    pub fn other(&self, protocol: u8) -> FrameBuilder {
        self.addressed(FrameBuilder::other(self.v6, protocol))
    }

    /// The question who has the receiver's address: ARP or a Neighbor Solicitation.
    pub fn who_has(&self) -> Vec<u8> {
        who_has(self.plan, self.from, self.plan.addr(self.to, self.v6))
    }
}

/// A port asks who has an address.
pub fn who_has(plan: &Plan, from: PortUuid, addr: IpAddr) -> Vec<u8> {
    let mac = plan.mac(from);
    match (plan.addr(from, addr.is_ipv6()), addr) {
        (IpAddr::V4(own), IpAddr::V4(addr)) => FrameBuilder::arp(1, (mac, own), (Mac::ZERO, addr)),
        (IpAddr::V6(own), IpAddr::V6(addr)) => {
            let [.., a, b, c] = addr.octets();
            let group = Mac::new([0x33, 0x33, 0xff, a, b, c]);
            let node = Ipv6Addr::new(
                0xff02,
                0,
                0,
                0,
                0,
                1,
                0xff00 | u16::from(a),
                u16::from_be_bytes([b, c]),
            );
            FrameBuilder::neighbor(135, (mac, own), (group, node), addr)
        }
        _ => unreachable!("addresses of one family"),
    }
}

/// A host asks for routers (RFC 4861 §4.1).
pub fn router_solicitation(mac: Mac, src: Ipv6Addr) -> Vec<u8> {
    let all_routers = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 2);
    let mut message = [133, 0, 0, 0, 0, 0, 0, 0];
    let sum = net::checksum::transport(src.into(), all_routers.into(), proto::ICMP6, &message);
    message[2..4].copy_from_slice(&sum.to_be_bytes());
    FrameBuilder::other(true, proto::ICMP6)
        .macs(mac, Mac::new([0x33, 0x33, 0, 0, 0, 2]))
        .addrs(src.into(), all_routers.into())
        .ttl(255)
        .payload(&message)
        .build()
}

/// What a DHCPv6 client says (RFC 8415 §7.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ToDhcp6 {
    /// It wants an address.
    Solicit,
    /// It wants to know the rest.
    Information,
    /// It requests an address of no server.
    Nonsense,
}

/// A DHCPv6 client's message to all servers.
pub fn dhcp6_client(mac: Mac, says: ToDhcp6) -> Vec<u8> {
    let kind = match says {
        ToDhcp6::Solicit => 1,
        ToDhcp6::Information => 11,
        ToDhcp6::Nonsense => 3,
    };
    let mut message = vec![kind, 7, 7, 7];
    // Client identifier, by the link-layer address; an association without wishes.
    message.extend([0, 1, 0, 10, 0, 3, 0, 1]);
    message.extend(mac.octets());
    if says != ToDhcp6::Information {
        message.extend([0, 3, 0, 12]);
        message.extend([0; 12]);
    }
    let all = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 1, 2);
    FrameBuilder::udp(true, 546, 547)
        .macs(mac, Mac::new([0x33, 0x33, 0, 1, 0, 2]))
        .addrs(mac.link_local().into(), all.into())
        .payload(&message)
        .build()
}

/// A DHCPv4 client's first message (RFC 2131 §2, option 53 in RFC 2132 §9.6).
pub fn dhcp_discover(mac: Mac) -> Vec<u8> {
    let mut message = vec![1, 1, 6, 0, 0, 0, 0, 7];
    message.resize(28, 0);
    message.extend(mac.octets());
    message.resize(236, 0);
    message.extend([99, 130, 83, 99, 53, 1, 1, 255]);
    FrameBuilder::udp(false, 68, 67)
        .macs(mac, Mac::BROADCAST)
        .addrs(Ipv4Addr::UNSPECIFIED.into(), Ipv4Addr::BROADCAST.into())
        .payload(&message)
        .build()
}

/// What the receiver of a frame answers, if anything: the next segment, a datagram back, an echo reply. `payload` goes with it.
pub fn answer(frame: &[u8], payload: &[u8]) -> Option<Vec<u8>> {
    let (headers, key) = Headers::parse(frame).ok()?;
    if !key.is_ip() || key.ip_frag != 0 || key.dst_mac().is_multicast() {
        return None;
    }
    let v6 = key.src_addr().is_ipv6();
    let back = |builder: FrameBuilder| {
        builder
            .macs(key.dst_mac(), key.src_mac())
            .addrs(key.dst_addr(), key.src_addr())
    };
    let built = match key.ip_proto {
        // A DHCP client asks again when it likes, not when it was answered.
        proto::UDP if matches!(key.l4_src, 67 | 547) => return None,
        proto::UDP => FrameBuilder::udp(v6, key.l4_dst, key.l4_src).payload(payload),
        proto::TCP => tcp_answer(frame, &headers, &key, payload)?,
        proto::ICMP if key.l4_src == 8 => FrameBuilder::echo_reply(false, key.icmp_id),
        proto::ICMP6 if key.l4_src == 128 => FrameBuilder::echo_reply(true, key.icmp_id),
        proto::ICMP | proto::ICMP6 => return None,
        other => FrameBuilder::other(v6, other),
    };
    Some(back(built).build())
}

fn tcp_answer(
    frame: &[u8],
    headers: &Headers,
    key: &FlowKey,
    payload: &[u8],
) -> Option<FrameBuilder> {
    let at = usize::from(headers.l4_at);
    let word = |at: usize| {
        let bytes = frame.get(at..)?.first_chunk::<4>()?;
        Some(u32::from_be_bytes(*bytes))
    };
    let (seq, ack) = (word(at + 4)?, word(at + 8)?);
    let length = headers.end - u32::from(headers.payload_at);
    let syn = key.tcp_flags & u16::from(tcp::SYN) != 0;
    let next = seq + length + u32::from(syn);
    let builder = FrameBuilder::tcp(key.src_addr().is_ipv6(), key.l4_dst, key.l4_src);
    let first = key.tcp_flags & u16::from(tcp::ACK) == 0;
    if key.tcp_flags & u16::from(tcp::RST) != 0 {
        None
    } else if first {
        Some(builder.flags(tcp::SYN | tcp::ACK).seq(1000, next))
    } else {
        Some(builder.flags(tcp::ACK).seq(ack, next).payload(payload))
    }
}
