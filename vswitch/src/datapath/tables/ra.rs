//! What does a router tell the hosts of a network about itself?
//!
//! A Router Advertisement, to whoever solicits one, and to everyone from time to time: where the router is, how hosts get their addresses
//! on each subnet that it is on, and the MTU. Only subnets that say how ([`hostconfig::network::RaMode`]) are advertised.
//!
//! # References
//! RFC 4861 §4.2, §4.6, §6.2; RFC 4862 §5.5.

use std::net::Ipv6Addr;

use hostconfig::{Subnet, network::RaMode};
use net::{
    DropReason, Mac, Offload, Packet, Probe, RouterId, checksum,
    flow_key::{ethertype, proto},
};

use super::{Network, Tables, l3::Interface, service::Writer};

/// For how many seconds a host believes in the router that it heard of: three times as long as the next advertisement takes.
const ROUTER_SECONDS: u16 = 1800;
/// For how long addresses are good: a port has its own for as long as it lives.
const INFINITY: u32 = u32::MAX;
/// The most subnets that one advertisement speaks of: what fits the smallest MTU of IPv6.
const SUBNETS: usize = 32;
/// ICMPv6 header of an advertisement, its link-layer address and MTU options, and one of a prefix.
const FIXED: usize = 16 + 8 + 8;
const PREFIX: usize = 32;

/// Is it a Router Solicitation?
pub fn asks(probe: &mut Probe) -> bool {
    probe.ethertype() == ethertype::IPV6
        && probe.ip_proto() == proto::ICMP6
        && probe.l4_src() == 133
}

/// The router that speaks to a network's hosts, by the interface at this place: that which has the gateway's address, else the first.
pub fn speaker(tables: &Tables, network: &Network) -> Option<(RouterId, u16)> {
    // Most networks have none: nobody looks for one there.
    network.subnets.iter().find(|s| s.ra.is_some())?;
    let up = tables.routers().filter(|router| router.admin_up);
    let all = up.flat_map(|router| {
        let interfaces = (0u16..).zip(&router.interfaces);
        interfaces.map(move |(at, interface)| (router.dense, at, interface))
    });
    let mut speaks = all.filter(|(_, _, interface)| {
        interface.admin_up
            && interface.network == network.dense
            && told(network, interface).next().is_some()
    });
    let mut first = None;
    let gateway = speaks.find(|(router, at, interface)| {
        first.get_or_insert((*router, *at));
        let is = |s: &Subnet| interface.addrs.iter().any(|(a, _)| s.gateway == Some(*a));
        told(network, interface).any(is)
    });
    gateway.map(|(router, at, _)| (router, at)).or(first)
}

/// Does any router speak to hosts of this one?
pub fn any_speaks(tables: &Tables) -> bool {
    let mut interfaces = tables.routers().flat_map(|r| &r.interfaces);
    interfaces.any(|interface| {
        let network = tables.network(interface.network);
        network.is_some_and(|n| told(n, interface).next().is_some())
    })
}

/// The subnets of an interface that are advertised.
fn told<'n>(network: &'n Network, interface: &Interface) -> impl Iterator<Item = &'n Subnet> {
    let own: Vec<_> = interface.addrs.iter().map(|(_, subnet)| *subnet).collect();
    let subnets = network.subnets.iter();
    subnets.filter(move |s| s.ra.is_some() && !s.cidr.is_ipv4() && own.contains(&s.cidr))
}

/// Writes the advertisement of this interface into a packet: for one host, or for all.
///
/// # Errors
/// When it does not fit.
pub fn write(
    packet: &mut Packet,
    network: &Network,
    interface: &Interface,
    to: Option<(Mac, Ipv6Addr)>,
) -> Result<(), DropReason> {
    let all_nodes = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
    let everyone = (Mac::new([0x33, 0x33, 0, 0, 0, 1]), all_nodes);
    let (dst_mac, dst) = to.unwrap_or(everyone);
    let src = interface.mac.link_local();
    let subnets: Vec<_> = told(network, interface).take(SUBNETS).collect();
    let modes = |wanted: RaMode| subnets.iter().any(|s| s.ra == Some(wanted));
    let managed = if modes(RaMode::Stateful) { 0x80 } else { 0 };
    let other = if modes(RaMode::Stateless) { 0x40 } else { 0 };
    let length = FIXED + PREFIX * subnets.len();
    let mut icmp = vec![0u8; length];
    let mut w = Writer::new(&mut icmp);
    let lifetime = ROUTER_SECONDS.to_be_bytes();
    w.put(&[134, 0, 0, 0, 64, managed | other, lifetime[0], lifetime[1]]);
    // Reachable time and retransmission timer: as the host likes.
    w.put(&[0; 8]);
    w.put(&[1, 1]);
    w.put(&interface.mac.octets());
    w.put(&[5, 1, 0, 0]);
    w.put(&u32::from(network.mtu.get()).to_be_bytes());
    for subnet in &subnets {
        // On the link; and where hosts make addresses from it, good for that.
        let makes = !matches!(subnet.ra, Some(RaMode::Stateful));
        let flags = if makes { 0xc0 } else { 0x80 };
        w.put(&[3, 4, subnet.cidr.bits(), flags]);
        w.put(&INFINITY.to_be_bytes());
        w.put(&INFINITY.to_be_bytes());
        w.put(&[0; 4]);
        w.put(&net::flow_key::addr_bytes(subnet.cidr.addr()));
    }
    let sum = checksum::transport(src.into(), dst.into(), proto::ICMP6, &icmp);
    if let Some(field) = icmp.get_mut(2..4) {
        field.copy_from_slice(&sum.to_be_bytes());
    }
    let [l0, l1] = u16::try_from(length)
        .or(Err(DropReason::PoolExhausted))?
        .to_be_bytes();
    let mut frame = vec![0u8; 14 + 40 + length];
    let mut w = Writer::new(&mut frame);
    w.put(&dst_mac.octets());
    w.put(&interface.mac.octets());
    w.put(&ethertype::IPV6.to_be_bytes());
    w.put(&[0x60, 0, 0, 0, l0, l1, proto::ICMP6, 255]);
    w.put(&src.octets());
    w.put(&dst.octets());
    w.put(&icmp);
    packet.fill(&frame).or(Err(DropReason::PoolExhausted))?;
    packet.set_offload(Offload::default());
    Ok(())
}

/// Writes the advertisement over the solicitation. Who has no address yet hears what all would.
///
/// # Errors
/// When it does not fit.
pub fn answer(
    packet: &mut Packet,
    network: &Network,
    interface: &Interface,
) -> Result<(), DropReason> {
    let key = *packet.key();
    let asker = Ipv6Addr::from(key.ip_src);
    let to = (!asker.is_unspecified()).then_some((key.src_mac(), asker));
    write(packet, network, interface, to)
}
