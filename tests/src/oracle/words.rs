//! What does a packet say, and may its sender say it?
//!
//! The oracle's own reading of port security, classifiers and of what can begin a connection.

use std::net::IpAddr;

use hostconfig::{
    Classifier, Port,
    chain::Side,
    group::{Direction, Family},
};
use net::{
    DropReason, FlowKey, Fragment, Mac,
    flow_key::{ethertype, proto},
};

pub(super) fn macs_of(port: &Port) -> Vec<Mac> {
    let pairs = port.allowed_address_pairs.iter().map(|p| p.mac.get());
    std::iter::once(port.mac.get()).chain(pairs).collect()
}

pub(super) fn side(side: Side, port: &Port) -> bool {
    match side {
        Side::Port(id) => port.id == id,
        Side::Network(id) => port.network == id,
        Side::Project(id) => port.project == id,
        Side::Branch => false,
    }
}

pub(super) fn family_is(family: Option<Family>, key: &FlowKey) -> bool {
    match family {
        None => true,
        Some(Family::V4) => key.ethertype == ethertype::IPV4,
        Some(Family::V6) => key.ethertype == ethertype::IPV6,
    }
}

pub(super) fn has_ports(key: &FlowKey) -> bool {
    matches!(key.ip_proto, proto::TCP | proto::UDP | proto::SCTP)
}

pub(super) fn matches(c: &Classifier, key: &FlowKey) -> bool {
    key.is_ip()
        && family_is(c.family, key)
        && c.protocol.is_none_or(|p| p == key.ip_proto)
        && c.source_ports
            .is_none_or(|r| has_ports(key) && r.contains(key.l4_src))
        && c.destination_ports
            .is_none_or(|r| has_ports(key) && r.contains(key.l4_dst))
        && c.source_prefix.is_none_or(|p| p.contains(key.src_addr()))
        && c.destination_prefix
            .is_none_or(|p| p.contains(key.dst_addr()))
}

/// What addresses are got and kept by may not be forbidden.
pub(super) fn always(key: &FlowKey, direction: Direction) -> bool {
    let egress = direction == Direction::Egress;
    let dhcp = |client, server| {
        let ports = if egress {
            (client, server)
        } else {
            (server, client)
        };
        (key.l4_src, key.l4_dst) == ports
    };
    match (key.ethertype, key.ip_proto) {
        (ethertype::IPV6, proto::ICMP6) => match key.l4_src {
            130..=132 | 135 | 136 | 143 => true,
            133 => egress,
            134 => !egress,
            _ => false,
        },
        (ethertype::IPV4, proto::UDP) => dhcp(68, 67),
        (ethertype::IPV6, proto::UDP) => dhcp(546, 547),
        _ => false,
    }
}

pub(super) fn port_security(port: &Port, key: &FlowKey) -> Result<(), DropReason> {
    if !port.port_security {
        return Ok(());
    }
    let mac = key.src_mac();
    let own = |addr: IpAddr| {
        let fixed = mac == port.mac.get() && port.fixed_ips.iter().any(|f| f.addr == addr);
        let pairs = &port.allowed_address_pairs;
        fixed
            || pairs
                .iter()
                .any(|p| p.mac.get() == mac && p.prefix.contains(addr))
    };
    if !macs_of(port).contains(&mac) {
        return Err(DropReason::PortSecurityMac);
    }
    let link = Mac::new(key.link_addr);
    let (src, ports) = (key.src_addr(), (key.l4_src, key.l4_dst));
    match key.ethertype {
        ethertype::ARP if link == mac && (own(src) || src.is_unspecified()) => Ok(()),
        ethertype::ARP => Err(DropReason::PortSecurityArp),
        ethertype::IPV4 => match key.ip_proto {
            proto::UDP if ports == (67, 68) => Err(DropReason::PortSecurityDhcpServer),
            proto::UDP if ports == (68, 67) && src.is_unspecified() => Ok(()),
            2 if src.is_unspecified() => Ok(()),
            _ if own(src) => Ok(()),
            _ => Err(DropReason::PortSecurityIp),
        },
        ethertype::IPV6 => {
            let local = IpAddr::V6(mac.link_local());
            let nd = (key.ip_proto == proto::ICMP6).then_some(key.l4_src);
            let target = IpAddr::V6(key.nd_target.into());
            match nd {
                Some(134 | 137) => return Err(DropReason::PortSecurityRa),
                Some(135 | 136) if link != Mac::ZERO && link != mac => {
                    return Err(DropReason::PortSecurityNd);
                }
                Some(136) if !own(target) && target != local => {
                    return Err(DropReason::PortSecurityNd);
                }
                None if key.ip_proto == proto::UDP && ports == (547, 546) => {
                    return Err(DropReason::PortSecurityDhcpServer);
                }
                _ => {}
            }
            let nameless = src.is_unspecified() && matches!(nd, Some(130..=133 | 135 | 143));
            if own(src) || src == local || nameless {
                Ok(())
            } else {
                Err(DropReason::PortSecurityIp)
            }
        }
        _ => Err(DropReason::PortSecurityEthertype),
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Begins {
    Connection,
    /// A message that stands alone.
    Alone,
    Nothing,
}

pub(super) fn query(key: &FlowKey) -> Option<bool> {
    match (key.ip_proto, key.l4_src) {
        (proto::ICMP, 8 | 13 | 15 | 17) | (proto::ICMP6, 128) => Some(true),
        (proto::ICMP, 0 | 14 | 16 | 18) | (proto::ICMP6, 129) => Some(false),
        _ => None,
    }
}

pub(super) fn quote_kind(key: &FlowKey) -> bool {
    match key.ip_proto {
        proto::ICMP => matches!(key.l4_src, 3 | 4 | 5 | 11 | 12),
        proto::ICMP6 => key.l4_src < 128,
        _ => false,
    }
}

pub(super) fn begins(key: &FlowKey) -> Begins {
    if key.ip_frag == Fragment::Later as u8 {
        return Begins::Nothing;
    }
    match (key.ip_proto, query(key)) {
        // SYN, and none of ACK, FIN, RST (RFC 9293 §3.10.7.2).
        (proto::TCP, _) if key.tcp_flags & 0x17 == 2 => Begins::Connection,
        (proto::TCP, _) | (_, Some(false)) => Begins::Nothing,
        (proto::ICMP | proto::ICMP6, None) if quote_kind(key) => Begins::Nothing,
        (proto::ICMP | proto::ICMP6, None) => Begins::Alone,
        _ => Begins::Connection,
    }
}
