//! What do routers say to hosts?
//!
//! The oracle's own reading of RFC 4861 §4.2 and RFC 8106 §5.1: from a config what must be said, and from a frame what was.

use std::net::{IpAddr, Ipv6Addr};

use hostconfig::{Subnet, network::RaMode, router::Interface};
use net::{FlowKey, Headers, Mac};

use super::{Delivery, Host, NetId, Oracle, PortUuid, What};

const ALL_NODES: Mac = Mac::new([0x33, 0x33, 0, 0, 0, 1]);

/// A Router Advertisement.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Advertised {
    /// The MAC address of the router's interface.
    pub router: Mac,
    /// To whom it is sent.
    pub to: Mac,
    /// For how long it is a default router; zero: it goes.
    pub seconds: u16,
    flags: u8,
    mtu: u16,
    /// Address, length, flags.
    prefixes: Vec<(IpAddr, u8, u8)>,
    servers: Vec<Ipv6Addr>,
}

impl Advertised {
    /// The advertisement that a frame is; `None`: it is none, or not as it must be.
    pub fn of(frame: &[u8]) -> Option<Self> {
        let (headers, key) = Headers::parse(frame).ok()?;
        let icmp = frame.get(usize::from(headers.l4_at)..)?;
        let router = key.src_mac();
        let own = key.src_addr() == IpAddr::V6(router.link_local());
        if !own || (key.l4_src, key.ip_ttl) != (134, 255) || key.link_addr != router.octets() {
            return None;
        }
        let mut all = Self {
            router,
            to: key.dst_mac(),
            seconds: u16::from_be_bytes([*icmp.get(6)?, *icmp.get(7)?]),
            flags: *icmp.get(5)?,
            mtu: 0,
            prefixes: vec![],
            servers: vec![],
        };
        let mut left = icmp.get(16..)?;
        while let [kind, units, ..] = left {
            let option = left.get(..usize::from(*units) * 8)?;
            left = left.get(option.len().max(1)..)?;
            match kind {
                3 => {
                    let addr: [u8; 16] = *option.get(16..)?.first_chunk()?;
                    all.prefixes.push((addr.into(), option[2], option[3]));
                }
                5 => all.mtu = u16::from_be_bytes([option[6], option[7]]),
                25 => {
                    let servers = option.get(8..)?.chunks(16);
                    for server in servers {
                        all.servers.push(<[u8; 16]>::try_from(server).ok()?.into());
                    }
                }
                _ => {}
            }
        }
        Some(all)
    }
}

/// Whom a solicitation's answer is for.
pub(super) fn asker(key: &FlowKey) -> Mac {
    if key.src_addr().is_unspecified() {
        ALL_NODES
    } else {
        key.src_mac()
    }
}

impl Host {
    /// What must be said on a network.
    pub(super) fn advertised(&self, network: NetId, to: Mac) -> Vec<Advertised> {
        let Some(on) = self.network(network).filter(|n| n.admin_up) else {
            return vec![];
        };
        let up = self.routers().filter(|r| r.admin_up);
        let all = up.flat_map(|r| &r.interfaces);
        let all: Vec<&Interface> = all.filter(|i| i.network == network && i.admin_up).collect();
        let mut said: Vec<Advertised> = vec![];
        for subnet in &on.subnets {
            let Some((mode, by)) = subnet.ra.zip(speaker(subnet, &all)) else {
                continue;
            };
            let router = by.mac.get();
            if !said.iter().any(|s| s.router == router) {
                said.push(Advertised {
                    router,
                    to,
                    seconds: 1800,
                    flags: 0,
                    mtu: on.mtu.get(),
                    prefixes: vec![],
                    servers: vec![],
                });
            }
            let mut own = said.iter_mut().filter(|s| s.router == router);
            let one = own.next().expect("it was put there");
            let (flag, of_prefix) = match mode {
                RaMode::Slaac => (0, 0xc0),
                RaMode::Stateless => (0x40, 0xc0),
                RaMode::Stateful => (0x80, 0x80),
            };
            one.flags |= flag;
            let cidr = subnet.cidr;
            one.prefixes.push((cidr.addr(), cidr.bits(), of_prefix));
            one.servers.extend(&subnet.dns6);
        }
        said
    }
}

fn speaker<'i>(subnet: &Subnet, all: &[&'i Interface]) -> Option<&'i Interface> {
    let mut near = all
        .iter()
        .filter(|i| i.addrs.iter().any(|a| a.subnet == subnet.cidr));
    let has = |i: &&&Interface| i.addrs.iter().any(|a| subnet.gateway == Some(a.addr));
    let gateway = near.clone().find(has);
    gateway.or_else(|| near.next()).copied()
}

impl Oracle {
    /// What ports hear unasked because the config is no more that of `before`: what they must hear, and what they may.
    pub fn unasked(&self, before: &Self) -> (Vec<Delivery>, Vec<Delivery>) {
        let (mut must, mut may) = (vec![], vec![]);
        for (host, was) in self.hosts.iter().zip(&before.hosts) {
            for port in host.ports().filter(|p| p.admin_up) {
                let says = |of: &Host| of.advertised(port.network, ALL_NODES);
                let heard = |id: PortUuid, said| (id, What::Advertisement(said));
                let now = says(host);
                let up = host.network(port.network).is_some_and(|n| n.admin_up);
                for gone in says(was).into_iter().filter(|_| up) {
                    if now.iter().all(|s| s.router != gone.router) {
                        must.push(heard(port.id, Advertised { seconds: 0, ..gone }));
                    }
                }
                may.extend(now.into_iter().map(|said| heard(port.id, said)));
            }
        }
        must.sort();
        may.sort();
        (must, may)
    }
}
