//! What does a router tell the hosts of a network about itself?
//!
//! An [`Advertisement`]: where the router is, for how long, how hosts get their addresses on each subnet that it speaks for, the MTU, and
//! the name servers with the network's domain. Only subnets that say how ([`hostconfig::network::RaMode`]) are advertised, each by one router: the one that has the
//! gateway's address, or else the first that is on it. Whoever solicits is told ([`asks`]); when all are told unasked is
//! `datapath::advertise`'s.
//!
//! # References
//! RFC 4861 §4.2, §4.6, §6.2; RFC 4862 §5.5; RFC 8106 §5.

use std::net::{IpAddr, Ipv6Addr};

use hostconfig::{Subnet, network::RaMode};
use net::{
    DropReason, Mac, Mtu, Offload, Packet, Prefix, Probe, RouterId, checksum,
    flow_key::{ethertype, proto},
};

use super::{dhcp6, l3::Interface, service::Writer};

/// For how many seconds a host believes in the router that it heard of, and in its name servers: three times as long as the next
/// advertisement takes at most (RFC 4861 §6.2.1, RFC 8106 §5.1).
const ROUTER_SECONDS: u16 = 1800;
/// For how long a prefix is on the link and its addresses are good, and for how long they are preferred: thirty days and seven (RFC 4861
/// §6.2.1). Each advertisement says it anew.
const VALID_SECONDS: u32 = 2_592_000;
const PREFERRED_SECONDS: u32 = 604_800;
/// The most subnets and name servers that one advertisement speaks of: what fits the smallest MTU of IPv6.
const SUBNETS: usize = 32;
const SERVERS: usize = 8;
/// ICMPv6 header of an advertisement, its link-layer address and MTU options, one of a prefix, and the head of that of name servers.
const FIXED: usize = 16 + 8 + 8;
const PREFIX: usize = 32;
const SERVERS_HEAD: usize = 8;

/// What one router says of itself on a network.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Advertisement {
    /// The router.
    pub router: RouterId,
    /// The MAC address of its interface.
    pub mac: Mac,
    mtu: Mtu,
    managed: bool,
    other: bool,
    /// The subnets, and whether hosts make addresses from each.
    prefixes: Vec<(Prefix, bool)>,
    /// The same of those that it speaks for no more: hosts are to begin nothing with them.
    faded: Vec<(Prefix, bool)>,
    servers: Vec<Ipv6Addr>,
    /// The domain in which hosts look for names, in labels.
    search: Vec<u8>,
}

/// Does the router stay?
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Says {
    /// It is here, and goes on to be.
    Here,
    /// It goes: nobody is to send through it any more (RFC 4861 §6.2.5).
    Leaves,
}

/// Is it a Router Solicitation?
pub fn asks(probe: &mut Probe) -> bool {
    probe.ethertype() == ethertype::IPV6
        && probe.ip_proto() == proto::ICMP6
        && probe.l4_src() == 133
}

/// What the routers on a network say to its hosts: one for each interface that speaks for a subnet. Those that are down are not told of.
pub(super) fn advertisements(
    network: &hostconfig::Network,
    interfaces: &[(RouterId, &Interface)],
) -> Vec<Advertisement> {
    let mut all: Vec<Advertisement> = Vec::new();
    for subnet in network.subnets.iter().filter(|s| !s.cidr.is_ipv4()) {
        let Some(mode) = subnet.ra else {
            continue;
        };
        let Some((router, interface)) = speaker(subnet, interfaces) else {
            continue;
        };
        let mac = interface.mac;
        let known = all.iter().position(|a| (a.router, a.mac) == (router, mac));
        let at = known.unwrap_or(all.len());
        if known.is_none() {
            all.push(Advertisement {
                router,
                mac,
                mtu: network.mtu,
                managed: false,
                other: false,
                prefixes: Vec::new(),
                faded: Vec::new(),
                servers: Vec::new(),
                search: dhcp6::domain(&network.domain).unwrap_or_default(),
            });
        }
        if let Some(one) = all.get_mut(at) {
            one.add(subnet, mode);
        }
    }
    all
}

/// Who speaks for a subnet.
fn speaker<'i>(
    subnet: &Subnet,
    interfaces: &[(RouterId, &'i Interface)],
) -> Option<(RouterId, &'i Interface)> {
    let on = |(_, i): &&(RouterId, &Interface)| i.addrs.iter().any(|(_, of)| *of == subnet.cidr);
    let has = |i: &Interface| {
        let mut own = i.addrs.iter().map(|(addr, _)| *addr);
        own.any(|addr: IpAddr| subnet.gateway == Some(addr))
    };
    let mut on = interfaces.iter().filter(on);
    let gateway = on.clone().find(|(_, i)| has(i));
    gateway.or_else(|| on.next()).copied()
}

impl Advertisement {
    fn add(&mut self, subnet: &Subnet, mode: RaMode) {
        if self.prefixes.len() >= SUBNETS {
            return;
        }
        self.managed |= mode == RaMode::Stateful;
        self.other |= mode == RaMode::Stateless;
        let makes_addresses = mode != RaMode::Stateful;
        self.prefixes.push((subnet.cidr, makes_addresses));
        for server in &subnet.dns6 {
            if self.servers.len() < SERVERS && !self.servers.contains(server) {
                self.servers.push(*server);
            }
        }
    }

    /// The subnets that it speaks for.
    pub fn prefixes(&self) -> &[(Prefix, bool)] {
        &self.prefixes
    }

    /// The same, and that these subnets are its no more, as far as there is room.
    #[must_use]
    pub fn without(&self, faded: impl Iterator<Item = (Prefix, bool)>) -> Self {
        let room = SUBNETS.saturating_sub(self.prefixes.len());
        Self {
            faded: faded.take(room).collect(),
            ..self.clone()
        }
    }

    fn icmp(&self, says: Says) -> Vec<u8> {
        let servers = match self.servers.len() {
            0 => 0,
            n => SERVERS_HEAD + 16 * n,
        };
        let search = match self.search.len() {
            0 => 0,
            n => SERVERS_HEAD + n.next_multiple_of(8),
        };
        let prefixes = self.prefixes.len() + self.faded.len();
        let mut icmp = vec![0u8; FIXED + PREFIX * prefixes + servers + search];
        let mut w = Writer::new(&mut icmp);
        let managed = if self.managed { 0x80 } else { 0 };
        let other = if self.other { 0x40 } else { 0 };
        let seconds = match says {
            Says::Here => ROUTER_SECONDS,
            Says::Leaves => 0,
        };
        w.put(&[134, 0, 0, 0, 64, managed | other]);
        w.put(&seconds.to_be_bytes());
        // Reachable time and retransmission timer: as the host likes.
        w.put(&[0; 8]);
        w.put(&[1, 1]);
        w.put(&self.mac.octets());
        w.put(&[5, 1, 0, 0]);
        w.put(&u32::from(self.mtu.get()).to_be_bytes());
        // The addresses outlive the router: their ports keep them. What is no longer its own is off the link at once, and deprecated.
        let here = self
            .prefixes
            .iter()
            .map(|p| (p, VALID_SECONDS, PREFERRED_SECONDS));
        let faded = self.faded.iter().map(|p| (p, 0, 0));
        for ((prefix, makes_addresses), valid, preferred) in here.chain(faded) {
            // On the link; and where hosts make addresses from it, good for that.
            let flags = if *makes_addresses { 0xc0 } else { 0x80 };
            w.put(&[3, 4, prefix.bits(), flags]);
            w.put(&u32::to_be_bytes(valid));
            w.put(&u32::to_be_bytes(preferred));
            w.put(&[0; 4]);
            w.put(&net::flow_key::addr_bytes(prefix.addr()));
        }
        if let (Ok(units), true) = (u8::try_from(servers / 8), servers > 0) {
            w.put(&[25, units, 0, 0]);
            w.put(&u32::from(seconds).to_be_bytes());
            for server in &self.servers {
                w.put(&server.octets());
            }
        }
        // RFC 8106 §5.2; what fills it up is zero already.
        if let (Ok(units), true) = (u8::try_from(search / 8), search > 0) {
            w.put(&[31, units, 0, 0]);
            w.put(&u32::from(seconds).to_be_bytes());
            w.put(&self.search);
        }
        icmp
    }

    /// Writes it into a packet: for one host, or for all.
    ///
    /// # Errors
    /// When it does not fit.
    pub fn write(
        &self,
        packet: &mut Packet,
        says: Says,
        to: Option<(Mac, Ipv6Addr)>,
    ) -> Result<(), DropReason> {
        let all_nodes = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
        let everyone = (Mac::new([0x33, 0x33, 0, 0, 0, 1]), all_nodes);
        let (dst_mac, dst) = to.unwrap_or(everyone);
        let src = self.mac.link_local();
        let mut icmp = self.icmp(says);
        let sum = checksum::transport(src.into(), dst.into(), proto::ICMP6, &icmp);
        if let Some(field) = icmp.get_mut(2..4) {
            field.copy_from_slice(&sum.to_be_bytes());
        }
        let length = u16::try_from(icmp.len()).or(Err(DropReason::PoolExhausted))?;
        let mut frame = vec![0u8; 14 + 40 + icmp.len()];
        let mut w = Writer::new(&mut frame);
        w.put(&dst_mac.octets());
        w.put(&self.mac.octets());
        w.put(&ethertype::IPV6.to_be_bytes());
        w.put(&[0x60, 0, 0, 0]);
        w.put(&length.to_be_bytes());
        w.put(&[proto::ICMP6, 255]);
        w.put(&src.octets());
        w.put(&dst.octets());
        w.put(&icmp);
        packet.fill(&frame).or(Err(DropReason::PoolExhausted))?;
        packet.set_offload(Offload::default());
        Ok(())
    }
}

/// Whom an answer to this solicitation is for. Who has no address yet hears what all would (`None`).
pub fn asker(packet: &Packet) -> Option<(Mac, Ipv6Addr)> {
    let key = packet.key();
    let asker = Ipv6Addr::from(key.ip_src);
    (!asker.is_unspecified()).then_some((key.src_mac(), asker))
}
