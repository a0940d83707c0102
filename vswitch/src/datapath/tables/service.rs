//! What does the switch answer itself?
//!
//! ARP requests and Neighbor Solicitations for addresses that the controller knows, routers' among them, for the metadata service's, and for its own as a DHCP server,
//! DHCPv4 on subnets where it is on, and pings to virtual addresses and routers. What is not known is left to the network, so that a workload may answer for an allowed pair.
//!
//! The decision is the table's ([`arp`], [`neighbor`], [`dhcp`]); the answer is written over the request, in its own buffer.
//!
//! # References
//! RFC 826; RFC 5227 §2.1.1; RFC 4861 §7.2.4; RFC 2131 §4.3; RFC 2132; RFC 3442; RFC 792; RFC 4443 §4.2.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use dhcproto::{
    Encodable,
    v4::{DhcpOption, Message, MessageType, Opcode, OptionCode, UnknownOption, borrowed},
};
use hostconfig::network::{Route, SERVICE_V4};
use net::{
    Checksum, DropReason, Id, L3, Mac, Offload, Packet, Prefix, Probe, checksum,
    flow_key::{ethertype, proto},
    ids::kind,
};

use overlay::Place;

use super::{Network, Port};
use crate::datapath::dns::{self, host_name};

/// Who answers this ARP request; `None`: the network.
pub fn arp(network: &Network, port: &Port, probe: &mut Probe) -> Option<Mac> {
    if probe.ethertype() != ethertype::ARP || probe.ip_proto() != 1 {
        return None;
    }
    let target = probe.ip_dst();
    if dns::is_service(target) {
        return Some(dns::MAC);
    }
    let Some(known) = network.neighbours.get(target) else {
        return dhcp_server(network, target);
    };
    if is_outside(network, known.mac) {
        return None;
    }
    // A port that asks for its own address announces it, or looks for a duplicate: that is for all to hear.
    (known.port != port.id).then_some(known.mac)
}

/// Is it on a wire? Who is there answers for itself.
fn is_outside(network: &Network, mac: Mac) -> bool {
    let place = network.fdb.get(mac).map(|entry| entry.place);
    network.wire.is_some() && matches!(place, Some(Place::Vtep(_)))
}

/// The switch as a DHCP server that clients renew their leases from by unicast (RFC 2131 §4.4.5). As the gateway's address it is
/// the gateway's to answer for, which may be a workload with an allowed pair.
fn dhcp_server(network: &Network, target: IpAddr) -> Option<Mac> {
    let mut own = network.subnets.iter().filter(|s| s.gateway != Some(target));
    own.find_map(|subnet| {
        let dhcp = subnet.dhcp.as_ref()?;
        (target == IpAddr::V4(dhcp.server)).then_some(dhcp.server_mac)
    })
}

/// Who answers this Neighbor Solicitation, and whether that is a router; `None`: the network. `floating`: is this port of the API a floating
/// IP's? That is at its router's place, but its workload's.
pub fn neighbor(
    network: &Network,
    port: &Port,
    floating: impl Fn(Id<kind::Port>) -> bool,
    probe: &mut Probe,
) -> Option<(Mac, bool)> {
    if probe.ethertype() != ethertype::IPV6
        || probe.ip_proto() != proto::ICMP6
        || probe.l4_src() != 135
    {
        return None;
    }
    let target = probe.nd_target();
    if dns::is_service(target) {
        return Some((dns::MAC, false));
    }
    let known = network.neighbours.get(target)?;
    if is_outside(network, known.mac) {
        return None;
    }
    let entry = network.fdb.get(known.mac);
    let router = entry.is_some_and(|e| matches!(e.place, Place::Router(_)));
    let router = router && !floating(known.port);
    (known.port != port.id).then_some((known.mac, router))
}

/// The subnet's place and the address by which the switch answers this DHCP client; `None`: it is none, or DHCP is off.
pub fn dhcp(network: &Network, port: &Port, probe: &mut Probe) -> Option<(u8, Ipv4Addr)> {
    if probe.ethertype() != ethertype::IPV4
        || probe.ip_proto() != proto::UDP
        || probe.l4_dst() != 67
        || probe.l4_src() != 68
    {
        return None;
    }
    let subnets = network.subnets.iter().zip(0u8..);
    let (_, at, addr) = subnets
        .filter(|(s, _)| s.dhcp.is_some())
        .find_map(|(s, at)| {
            let own = port.addrs.iter().find(|a| s.cidr.contains(**a))?;
            match own {
                IpAddr::V4(a) => Some((s, at, *a)),
                IpAddr::V6(_) => None,
            }
        })?;
    Some((at, addr))
}

/// Writes the ARP reply over the request: `mac` is where the target is.
///
/// # Errors
/// When the frame is no ARP request.
pub fn answer_arp(packet: &mut Packet, mac: Mac) -> Result<(), DropReason> {
    let at = usize::from(packet.headers().l3_at);
    let request = packet
        .bytes()
        .get(at..)
        .and_then(|b| b.first_chunk::<28>())
        .copied()
        .ok_or(DropReason::MalformedArp)?;
    let (fixed, rest) = request.split_at(8);
    let (sender, rest) = rest.split_at(10);
    let (_, target) = rest.split_at(6);
    let mut frame = [0u8; 42];
    let sender_mac = sender.get(..6).unwrap_or_default();
    let mut w = Writer(&mut frame);
    w.put(sender_mac);
    w.put(&mac.octets());
    w.put(&ethertype::ARP.to_be_bytes());
    w.put(fixed.get(..6).unwrap_or_default());
    w.put(&[0, 2]);
    w.put(&mac.octets());
    w.put(target);
    w.put(sender);
    finish(packet, &frame)
}

/// Writes the Neighbor Advertisement over the solicitation: `mac` is where the target is.
///
/// # Errors
/// When the frame is no solicitation.
pub fn answer_neighbor(packet: &mut Packet, mac: Mac, router: bool) -> Result<(), DropReason> {
    let key = *packet.key();
    let target = Ipv6Addr::from(key.nd_target);
    let asker = Ipv6Addr::from(key.ip_src);
    // A prober for duplicates has no address: all nodes are told, and nobody is solicited (RFC 4861 §7.2.4).
    let (dst, dst_mac, flags) = if asker.is_unspecified() {
        let all_nodes = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
        (all_nodes, Mac::new([0x33, 0x33, 0, 0, 0, 1]), 0x20)
    } else {
        (asker, key.src_mac(), 0x60)
    };
    // Whoever is told that its router is none forgets it (RFC 4861 §7.2.5).
    let flags = if router { flags | 0x80 } else { flags };
    let mut l4 = [0u8; 32];
    let mut w = Writer(&mut l4);
    w.put(&[136, 0, 0, 0, flags, 0, 0, 0]);
    w.put(&target.octets());
    w.put(&[2, 1]);
    w.put(&mac.octets());
    let sum = checksum::transport(target.into(), dst.into(), proto::ICMP6, &l4);
    if let Some(field) = l4.get_mut(2..4) {
        field.copy_from_slice(&sum.to_be_bytes());
    }
    let mut frame = [0u8; 14 + 40 + 32];
    let mut w = Writer(&mut frame);
    w.put(&dst_mac.octets());
    w.put(&mac.octets());
    w.put(&ethertype::IPV6.to_be_bytes());
    w.put(&[0x60, 0, 0, 0, 0, 32, proto::ICMP6, 255]);
    w.put(&target.octets());
    w.put(&dst.octets());
    w.put(&l4);
    finish(packet, &frame)
}

/// Turns an echo request into its reply, in place.
///
/// # Errors
/// When the packet is no echo request.
pub fn answer_ping(packet: &mut Packet) -> Result<(), DropReason> {
    let (bytes, headers, _, offload) = packet.parts_mut();
    let (l3_at, l4_at) = (usize::from(headers.l3_at), usize::from(headers.l4_at));
    let (reply, before, after, at, len) = match headers.l3 {
        L3::Ipv4 => (0u8, 0x0800u16, 0u16, l3_at + 12, 4),
        L3::Ipv6 => (129, 0x8000, 0x8100, l3_at + 8, 16),
        L3::Other | L3::Arp => return Err(DropReason::MalformedL4),
    };
    swap(bytes, 0, 6);
    swap(bytes, at, len);
    let kind = bytes.get_mut(l4_at).ok_or(DropReason::MalformedL4)?;
    *kind = reply;
    // A checksum that is still to be made holds the pseudo-header's sum alone, which swapping does not change.
    if !matches!(offload.checksum, Checksum::Partial { .. })
        && let Some(field) = bytes
            .get_mut(l4_at + 2..)
            .and_then(|b| b.first_chunk_mut::<2>())
    {
        // RFC 1624 equation 3.
        let sum = u64::from(!u16::from_be_bytes(*field)) + u64::from(!before) + u64::from(after);
        *field = (!checksum::fold(sum)).to_be_bytes();
    }
    let ttl_at = l3_at + if len == 4 { 8 } else { 7 };
    if let Some(ttl) = bytes.get_mut(ttl_at) {
        *ttl = 64;
    }
    if len == 4 {
        checksum_ipv4(bytes, l3_at);
    }
    Ok(())
}

/// Writes the DHCP answer over the client's message. `Ok(false)`: it needs none.
///
/// # Errors
/// When the message is none that a server could answer.
pub fn answer_dhcp(
    packet: &mut Packet,
    (network, port): (&Network, &Port),
    subnet: u8,
    addr: Ipv4Addr,
) -> Result<bool, DropReason> {
    let malformed = DropReason::MalformedDhcp;
    let (Some(subnet), headers) = (network.subnets.get(usize::from(subnet)), *packet.headers())
    else {
        return Err(malformed);
    };
    let dhcp = subnet.dhcp.as_ref().ok_or(malformed)?;
    let end = usize::try_from(headers.end).or(Err(malformed))?;
    let payload = packet.bytes().get(usize::from(headers.payload_at)..end);
    let asked = borrowed::Message::new(payload.ok_or(malformed)?).or(Err(malformed))?;
    let client = packet.key().src_mac();
    // The length is looked at before the address: that of a hostile message may exceed the field.
    if asked.opcode() != Opcode::BootRequest || asked.hlen() != 6 {
        return Err(malformed);
    }
    if asked.chaddr() != client.octets() {
        return Err(DropReason::PortSecurityMac);
    }
    let wishes = Wishes::read(&asked).ok_or(malformed)?;
    let wanted = wishes
        .address
        .or_else(|| Some(asked.ciaddr()).filter(|a| !a.is_unspecified()));
    let for_us = wishes.server.is_none_or(|s| s == dhcp.server);
    let kind = match wishes.kind {
        MessageType::Discover => MessageType::Offer,
        // RFC 2131 §4.3.2: a client that took another server's offer says so by its identifier.
        MessageType::Request if !for_us => return Ok(false),
        MessageType::Request if wanted.is_none_or(|w| w == addr) => MessageType::Ack,
        MessageType::Request => MessageType::Nak,
        MessageType::Inform => MessageType::Ack,
        // Nothing is leased here that could be given back: addresses are the controller's.
        MessageType::Decline | MessageType::Release => return Ok(false),
        MessageType::Offer
        | MessageType::Ack
        | MessageType::Nak
        | MessageType::ForceRenew
        | MessageType::LeaseQuery
        | MessageType::LeaseUnassigned
        | MessageType::LeaseUnknown
        | MessageType::LeaseActive
        | MessageType::BulkLeaseQuery
        | MessageType::LeaseQueryDone
        | MessageType::ActiveLeaseQuery
        | MessageType::LeaseQueryStatus
        | MessageType::Tls
        | MessageType::Unknown(_) => return Err(malformed),
    };
    let informed = wishes.kind == MessageType::Inform;
    let mut answer =
        dhcp_message(&asked, kind, informed, network, subnet, addr).ok_or(malformed)?;
    if kind != MessageType::Nak {
        let room = wishes.room(network.mtu.get());
        tell_more(&mut answer, port, addr, room);
    }
    let answer = answer.to_vec().or(Err(malformed))?;
    let nak = kind == MessageType::Nak;
    let known = !asked.ciaddr().is_unspecified() && !nak && !asked.flags().broadcast();
    let dst = if known {
        asked.ciaddr()
    } else if nak || asked.flags().broadcast() {
        Ipv4Addr::BROADCAST
    } else {
        addr
    };
    let dst_mac = if dst.is_broadcast() {
        Mac::BROADCAST
    } else {
        client
    };
    let frame = udp_frame(
        (dhcp.server_mac, dst_mac),
        (dhcp.server, dst),
        (67, 68),
        &answer,
    )
    .ok_or(malformed)?;
    finish(packet, &frame)?;
    Ok(true)
}

/// What a client says of what it wants. Its other options are not decoded: whatever is in them, it gets its answer.
struct Wishes {
    kind: MessageType,
    address: Option<Ipv4Addr>,
    server: Option<Ipv4Addr>,
    /// The largest message that it takes.
    largest: Option<u16>,
}

impl Wishes {
    /// How much may be said: what the client takes (RFC 2132 §9.10), and fits the network.
    fn room(&self, mtu: u16) -> usize {
        // What every host takes (RFC 2131 §2).
        let largest = self.largest.unwrap_or(0).max(576).min(mtu);
        usize::from(largest).saturating_sub(28)
    }

    /// `None` when it does not say which message it is, or an address is none.
    fn read(asked: &borrowed::Message<'_>) -> Option<Self> {
        let (mut kind, mut address, mut server) = (None, None, None);
        let mut largest = None;
        for option in asked.opts() {
            let data = option.data();
            let four = || Some(Ipv4Addr::from(<[u8; 4]>::try_from(data).ok()?));
            match u8::from(option.code()) {
                50 => address = Some(four()?),
                53 => kind = Some(MessageType::from(*data.first()?)),
                54 => server = Some(four()?),
                57 => largest = data.first_chunk().map(|b| u16::from_be_bytes(*b)),
                _ => {}
            }
        }
        Some(Self {
            kind: kind?,
            address,
            server,
            largest,
        })
    }
}

fn dhcp_message(
    asked: &borrowed::Message<'_>,
    kind: MessageType,
    informed: bool,
    network: &Network,
    subnet: &hostconfig::Subnet,
    addr: Ipv4Addr,
) -> Option<Message> {
    let dhcp = subnet.dhcp.as_ref()?;
    let mut answer = Message::default();
    answer
        .set_opcode(Opcode::BootReply)
        .set_htype(asked.htype())
        .set_xid(asked.xid())
        .set_flags(asked.flags())
        .set_giaddr(asked.giaddr())
        .set_chaddr(asked.chaddr());
    let opts = answer.opts_mut();
    opts.insert(DhcpOption::MessageType(kind));
    opts.insert(DhcpOption::ServerIdentifier(dhcp.server));
    if kind == MessageType::Nak {
        return Some(answer);
    }
    if !informed {
        let lease = dhcp.lease_seconds;
        opts.insert(DhcpOption::AddressLeaseTime(lease));
        // RFC 2131 §4.4.5: half, and seven eighths.
        opts.insert(DhcpOption::Renewal(lease / 2));
        let rebinding = u64::from(lease) * 7 / 8;
        opts.insert(DhcpOption::Rebinding(u32::try_from(rebinding).ok()?));
    }
    let bits = u32::from(subnet.cidr.bits());
    let mask = u32::MAX
        .checked_shl(32u32.saturating_sub(bits))
        .unwrap_or(0);
    opts.insert(DhcpOption::SubnetMask(mask.into()));
    opts.insert(DhcpOption::InterfaceMtu(network.mtu.get()));
    let gateway = match subnet.gateway {
        Some(IpAddr::V4(g)) => Some(g),
        Some(IpAddr::V6(_)) | None => None,
    };
    if let Some(gateway) = gateway {
        opts.insert(DhcpOption::Router(vec![gateway]));
    }
    if !dhcp.dns.is_empty() {
        opts.insert(DhcpOption::DomainNameServer(dhcp.dns.clone()));
    }
    if !dhcp.domain.is_empty() {
        opts.insert(DhcpOption::DomainName(dhcp.domain.clone()));
    }
    let mut routes = dhcp.routes.clone();
    // Who has no router finds the switch's services on the link: metadata, and names where it is told as their server.
    if !gateway.is_some_and(|gateway| is_routers(network, gateway)) {
        routes.push(Route {
            destination: Prefix::host(SERVICE_V4.into()),
            nexthop: Ipv4Addr::UNSPECIFIED.into(),
        });
    }
    let routes = classless_routes(&routes, gateway);
    if !routes.is_empty() {
        let code = OptionCode::from(121);
        opts.insert(DhcpOption::Unknown(UnknownOption::new(code, routes)));
    }
    if informed {
        answer.set_ciaddr(asked.ciaddr());
    } else {
        answer.set_yiaddr(addr).set_ciaddr(asked.ciaddr());
    }
    answer.set_siaddr(dhcp.server);
    Some(answer)
}

/// What is told to this port alone: what it is called, and its options, instead of what the subnet says under their codes. Those for which
/// there is no room are left out, the last first.
fn tell_more(answer: &mut Message, port: &Port, addr: Ipv4Addr, room: usize) {
    let name = host_name(port.dns_name.as_deref(), addr.into());
    answer.opts_mut().insert(DhcpOption::Hostname(name));
    for option in &port.dhcp.v4 {
        let Ok(number) = u8::try_from(option.code) else {
            continue;
        };
        let code = OptionCode::from(number);
        let before = answer.opts_mut().remove(code);
        let Some(data) = &option.data else {
            continue;
        };
        let own = UnknownOption::new(code, data.clone());
        answer.opts_mut().insert(DhcpOption::Unknown(own));
        if answer.to_vec().map_or(usize::MAX, |bytes| bytes.len()) > room {
            answer.opts_mut().remove(code);
            if let Some(before) = before {
                answer.opts_mut().insert(before);
            }
            continue;
        }
        // Who boots by the fields of old reads them there (RFC 2131 §2).
        match number {
            66 if data.len() < 64 => answer.set_sname(data),
            67 if data.len() < 128 => answer.set_fname(data),
            _ => continue,
        };
    }
    if let Some(server) = port.dhcp.next_server {
        answer.set_siaddr(server);
    }
}

/// Is this address a router's of the fabric, by which its clients reach the switch too?
fn is_routers(network: &Network, gateway: Ipv4Addr) -> bool {
    let known = network.neighbours.get(gateway.into());
    let at = known.and_then(|known| network.fdb.get(known.mac));
    at.is_some_and(|entry| matches!(entry.place, Place::Router(_)))
}

/// RFC 3442: whoever sends classless routes sends the default one among them, since a client then ignores option 3.
fn classless_routes(routes: &[Route], gateway: Option<Ipv4Addr>) -> Vec<u8> {
    let mut bytes = Vec::new();
    for route in routes {
        let (IpAddr::V4(to), IpAddr::V4(by)) = (route.destination.addr(), route.nexthop) else {
            continue;
        };
        let bits = route.destination.bits();
        bytes.push(bits);
        let significant = usize::from(bits.div_ceil(8));
        bytes.extend(to.octets().iter().take(significant));
        bytes.extend(by.octets());
    }
    if let (false, Some(gateway)) = (bytes.is_empty(), gateway) {
        bytes.push(0);
        bytes.extend(gateway.octets());
    }
    bytes
}

fn udp_frame(
    (src_mac, dst_mac): (Mac, Mac),
    (src, dst): (Ipv4Addr, Ipv4Addr),
    (src_port, dst_port): (u16, u16),
    payload: &[u8],
) -> Option<Vec<u8>> {
    let length = u16::try_from(8 + payload.len()).ok()?;
    let total = length.checked_add(20)?;
    let mut udp = Vec::with_capacity(usize::from(length));
    udp.extend(src_port.to_be_bytes());
    udp.extend(dst_port.to_be_bytes());
    udp.extend(length.to_be_bytes());
    udp.extend([0, 0]);
    udp.extend(payload);
    let sum = match checksum::transport(src.into(), dst.into(), proto::UDP, &udp) {
        0 => 0xffff,
        sum => sum,
    };
    udp.get_mut(6..8)?.copy_from_slice(&sum.to_be_bytes());
    let mut frame = Vec::with_capacity(14 + usize::from(total));
    frame.extend(dst_mac.octets());
    frame.extend(src_mac.octets());
    frame.extend(ethertype::IPV4.to_be_bytes());
    frame.extend([0x45, 0]);
    frame.extend(total.to_be_bytes());
    frame.extend([0, 0, 0x40, 0, 64, proto::UDP, 0, 0]);
    frame.extend(src.octets());
    frame.extend(dst.octets());
    checksum_ipv4(&mut frame, 14);
    frame.extend(udp);
    Some(frame)
}

/// Makes the checksum of the IPv4 header at this place.
pub(in crate::datapath) fn checksum_ipv4(frame: &mut [u8], at: usize) {
    let header = frame.get(at).map_or(20, |b| usize::from(b & 0x0f) * 4);
    if let Some(ip) = frame.get_mut(at..at + header) {
        if let Some(field) = ip.get_mut(10..12) {
            field.fill(0);
        }
        let sum = !checksum::sum(ip);
        if let Some(field) = ip.get_mut(10..12) {
            field.copy_from_slice(&sum.to_be_bytes());
        }
    }
}

fn swap(bytes: &mut [u8], at: usize, len: usize) {
    if let Some(both) = bytes.get_mut(at..at + 2 * len) {
        let (a, b) = both.split_at_mut(len);
        a.swap_with_slice(b);
    }
}

fn finish(packet: &mut Packet, frame: &[u8]) -> Result<(), DropReason> {
    packet.fill(frame).or(Err(DropReason::PoolExhausted))?;
    packet.set_offload(Offload::default());
    Ok(())
}

/// Writes pieces one behind the other; what does not fit is left out.
pub(in crate::datapath) struct Writer<'a>(&'a mut [u8]);

impl<'a> Writer<'a> {
    /// Writes from the first byte on.
    pub(in crate::datapath) fn new(into: &'a mut [u8]) -> Self {
        Self(into)
    }

    /// Writes a piece behind the last one.
    pub(in crate::datapath) fn put(&mut self, bytes: &[u8]) {
        if bytes.len() > self.0.len() {
            return;
        }
        let (head, tail) = std::mem::take(&mut self.0).split_at_mut(bytes.len());
        head.copy_from_slice(bytes);
        self.0 = tail;
    }
}
