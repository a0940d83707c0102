//! What does a workload send?

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use net::{
    Mac,
    testkit::{FrameBuilder, mac},
};

use super::{Far, Kind, Player};
use crate::{
    plan::{Plan, PortUuid},
    traffic::{Between, ToDhcp6, dhcp_discover, dhcp6_client, router_solicitation, who_has},
};

impl Player {
    /// Frames of this kind, each changed at last.
    pub(super) fn frame(
        &mut self,
        between: &Between<'_>,
        (kind, n): (Kind, u16),
        change: &dyn Fn(FrameBuilder) -> FrameBuilder,
    ) -> Vec<Vec<u8>> {
        let (sport, dport) = (4000 + n, 80 + n);
        let one = |f: FrameBuilder| vec![change(f).build()];
        match kind {
            Kind::Udp => one(between.udp(sport, dport).payload(b"ask")),
            Kind::Tcp => {
                self.tcp_port += 1;
                one(between.syn(self.tcp_port, dport))
            }
            Kind::Ack => one(between.ack(19_000 + n, dport)),
            Kind::Echo => one(between.echo(7 + n)),
            Kind::Other => one(between.other(if n.is_multiple_of(2) { 47 } else { 50 })),
            Kind::Fragments => {
                let whole = between.udp(sport, dport).payload(&[7; 64]);
                self.tcp_port += 1;
                let id = u32::from(self.tcp_port);
                let piece = |id, at, more| change(whole.clone().fragment(id, at, more)).build();
                let (first, later) = (piece(id, 0, true), piece(id, 9, false));
                // Either may come first; the last one's first never comes.
                if n.is_multiple_of(2) {
                    vec![first, later, piece(id + 0x4000, 9, false)]
                } else {
                    vec![later, first, piece(id + 0x4000, 9, false)]
                }
            }
            Kind::WhoHas => vec![between.who_has()],
            Kind::WhoHasNobody => {
                let nobody: IpAddr = if between.v6 {
                    Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 0x9999).into()
                } else {
                    Ipv4Addr::new(10, 0, 0, 99).into()
                };
                vec![who_has(between.plan, between.from, nobody)]
            }
            Kind::Large if n == 0 => {
                self.tcp_port += 1;
                one(between.syn(self.tcp_port, dport).payload(&[7; 1500]))
            }
            // For every network, or only for the smallest.
            Kind::Large => {
                let bytes = if n == 1 { 1500 } else { 1380 };
                one(between.udp(sport, dport).payload(&vec![7; bytes]))
            }
            Kind::Solicit => {
                let own = between.plan.mac(between.from);
                let nameless = n.is_multiple_of(2).then_some(Ipv6Addr::UNSPECIFIED);
                let src = nameless.unwrap_or_else(|| own.link_local());
                vec![router_solicitation(own, src)]
            }
            Kind::Dhcp6 => {
                let kind = [ToDhcp6::Solicit, ToDhcp6::Information, ToDhcp6::Nonsense];
                let kind = kind[usize::from(n) % kind.len()];
                vec![dhcp6_client(between.plan.mac(between.from), kind)]
            }
            Kind::Dhcp => vec![dhcp_discover(between.plan.mac(between.from))],
            Kind::Multicast => {
                let (group, addr): (_, IpAddr) = if between.v6 {
                    (
                        Mac::new([0x33, 0x33, 0, 0, 0, 5]),
                        "ff02::5".parse().unwrap(),
                    )
                } else {
                    (
                        Mac::new([1, 0, 0x5e, 1, 1, 1]),
                        "239.1.1.1".parse().unwrap(),
                    )
                };
                let from = between.plan.addr(between.from, between.v6);
                let multicast = between
                    .udp(sport, dport)
                    .macs(between.plan.mac(between.from), group)
                    .addrs(from, addr);
                vec![multicast.build()]
            }
            Kind::UnknownMac => {
                let unknown = between.udp(sport, dport);
                vec![
                    unknown
                        .macs(between.plan.mac(between.from), mac(0x9999))
                        .build(),
                ]
            }
        }
    }

    /// Frames to the MAC address of a router, whatever they are for.
    pub(super) fn routed(
        &mut self,
        from: PortUuid,
        to: Far,
        (kind, n): (Kind, u16),
        v6: bool,
        ttl: u8,
    ) -> Vec<Vec<u8>> {
        let plan = self.fabric.plan.clone();
        let between = Between {
            plan: &plan,
            from,
            to: from,
            v6,
        };
        let virtuals = self.built.chain.as_ref().map(|(_, virtuals, _)| virtuals);
        let vip = virtuals.map(|all| all[usize::from(n / 2) % all.len()]);
        let dst = match to {
            Far::Port(port) => plan.addr(self.port(port), v6),
            Far::Host(k, host) => plan.host(self.built.networks[2 * k], host, v6),
            Far::Virtual => vip.map_or_else(|| plan.addr(from, v6), |vip| plan.addr(vip, v6)),
            Far::Beyond(n) => {
                let (v4, six) = [
                    ("192.0.2.7", "2001:db8::7"),
                    ("169.254.1.1", "fe80::7"),
                    ("224.0.0.7", "ff0e::7"),
                    ("10.0.9.9", "fd09::9"),
                    ("127.0.0.1", "::1"),
                    ("255.255.255.255", "::2"),
                ][n];
                if v6 { six } else { v4 }.parse().unwrap()
            }
        };
        let network = plan.get(from).network;
        let on =
            |r: &hostconfig::Router| r.interfaces.iter().find(|i| i.network == network).cloned();
        let gates: Vec<_> = plan.routers().filter_map(on).collect();
        // Where there is no router, somebody who would be one.
        let gate = gates.get(usize::from(n) % gates.len().max(1));
        let gate = gate.map_or(mac(0x9999), |i| i.mac.get());
        let (own, src) = (plan.mac(from), plan.addr(from, v6));
        self.frame(&between, (kind, n), &|frame| {
            frame.macs(own, gate).addrs(src, dst).ttl(ttl)
        })
    }
}

/// A frame in which a port says that it is another.
pub(super) fn spoof(plan: &Plan, from: PortUuid, other: PortUuid, how: usize, v6: bool) -> Vec<u8> {
    let between = Between {
        plan,
        from,
        to: other,
        v6,
    };
    let nobody: IpAddr = if v6 { "fd00::7777" } else { "10.0.0.77" }.parse().unwrap();
    let frame = between.udp(4000, 80);
    let own = plan.mac(from);
    match how {
        0 => frame.macs(mac(0x6666), plan.mac(other)).build(),
        1 => frame.addrs(nobody, plan.addr(other, v6)).build(),
        2 => {
            let (IpAddr::V4(a), IpAddr::V4(b)) = (plan.addr(other, false), plan.addr(from, false))
            else {
                unreachable!("ipv4 was asked for")
            };
            FrameBuilder::arp(2, (own, a), (plan.mac(other), b))
        }
        3 => {
            let IpAddr::V6(target) = plan.addr(other, true) else {
                unreachable!("ipv6 was asked for")
            };
            let all = (
                Mac::new([0x33, 0x33, 0, 0, 0, 1]),
                "ff02::1".parse().unwrap(),
            );
            FrameBuilder::neighbor(136, (own, own.link_local()), all, target)
        }
        // A foreign DHCP server, for either family.
        4 => between
            .udp(if v6 { 547 } else { 67 }, if v6 { 546 } else { 68 })
            .build(),
        5 => frame.vlan(7).build(),
        // What is neither IP nor ARP.
        6 => {
            let mut frame = frame.build();
            frame[12..14].copy_from_slice(&[0x88, 0xb5]);
            frame
        }
        _ => frame
            .macs(own, Mac::new([1, 0x80, 0xc2, 0, 0, 0x0e]))
            .build(),
    }
}
