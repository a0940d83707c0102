//! What becomes of a frame?
//!
//! A workload sends; what is seen is who got what, in words that hold nothing that chance gave (no source ports, no ids), and of MAC
//! addresses only where they are asked for.

use std::{net::IpAddr, time::Duration};

use hostconfig::network::Wire;
use net::{
    Headers, Mac, PacketPool,
    flow_key::{ethertype, proto},
    testkit::{FrameBuilder, tcp},
};
use vswitch::io::{Underlay as _, memory::Frame};

use super::{Nic, Region};

/// What was seen, a line each, sorted.
pub type Seen = Vec<String>;

/// What a workload sends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sent {
    /// An echo request.
    Ping,
    /// A datagram to this port.
    Udp(u16),
    /// The first segment of a connection to this port.
    Tcp(u16),
    /// The same from this port, to one that nobody used lately.
    TcpFrom(u16),
    /// An SCTP packet to this port.
    Sctp(u16),
    /// A datagram with so many bytes.
    Long(usize),
}

impl Sent {
    fn frame(self, v6: bool, fresh: u16) -> FrameBuilder {
        match self {
            Self::Ping => FrameBuilder::echo(v6, fresh),
            Self::Udp(port) => FrameBuilder::udp(v6, fresh, port),
            Self::Tcp(port) => FrameBuilder::tcp(v6, fresh, port).flags(tcp::SYN),
            Self::TcpFrom(port) => FrameBuilder::tcp(v6, port, fresh).flags(tcp::SYN),
            Self::Sctp(port) => FrameBuilder::sctp(v6, fresh, port),
            Self::Long(bytes) => FrameBuilder::udp(v6, fresh, 9).payload(&vec![0; bytes]),
        }
    }

    /// What answers it, from the one who got a frame.
    fn answer(self, got: &[u8]) -> Option<Vec<u8>> {
        let (_, key) = Headers::parse(got).ok()?;
        let v6 = key.ethertype == ethertype::IPV6;
        let frame = match (self, key.ip_proto) {
            (Self::Ping, proto::ICMP | proto::ICMP6) if matches!(key.l4_src, 8 | 128) => {
                FrameBuilder::echo_reply(v6, key.icmp_id)
            }
            (Self::Udp(_) | Self::Long(_), proto::UDP) => {
                FrameBuilder::udp(v6, key.l4_dst, key.l4_src)
            }
            (Self::Tcp(_) | Self::TcpFrom(_), proto::TCP) => {
                let frame = FrameBuilder::tcp(v6, key.l4_dst, key.l4_src);
                // It acknowledges the SYN (RFC 9293 §3.4).
                frame.flags(tcp::SYN | tcp::ACK).seq(7, 2)
            }
            (Self::Sctp(_), proto::SCTP) => FrameBuilder::sctp(v6, key.l4_dst, key.l4_src),
            _ => return None,
        };
        let frame = frame.macs(key.dst_mac(), key.src_mac());
        Some(frame.addrs(key.dst_addr(), key.src_addr()).build())
    }
}

/// A frame in words.
pub(super) fn words(frame: &[u8], fresh: u16) -> String {
    let Ok((headers, key)) = Headers::parse(frame) else {
        return "what cannot be read".to_owned();
    };
    if key.ethertype == ethertype::ARP {
        let asks = if key.is_query() { "asks for" } else { "says" };
        return format!("arp {asks} {} > {}", key.src_addr(), key.dst_addr());
    }
    if !key.is_ip() {
        return format!("ethertype {:#06x}", key.ethertype);
    }
    let tag = match key.vlan {
        0 => String::new(),
        vlan => format!("vlan {} ", vlan & 0xfff),
    };
    let port = |port: u16| {
        if port == fresh {
            "its own".to_owned()
        } else {
            port.to_string()
        }
    };
    let l4 = usize::from(headers.l4_at);
    let what = match key.ip_proto {
        proto::ICMP | proto::ICMP6 => {
            let told = frame.get(l4 + 4..l4 + 8).unwrap_or_default();
            // The MTU of what was too big.
            let big = (key.ip_proto, key.l4_src, key.l4_dst) == (proto::ICMP, 3, 4)
                || (key.ip_proto, key.l4_src) == (proto::ICMP6, 2);
            let mtu = if big {
                format!(" mtu {}", u16::from_be_bytes([told[2], told[3]]))
            } else {
                String::new()
            };
            format!("icmp {}/{}{mtu}", key.l4_src, key.l4_dst)
        }
        proto::TCP => format!("tcp {}", port(key.l4_dst)),
        proto::UDP => format!("udp {}", port(key.l4_dst)),
        proto::SCTP => format!("sctp {}", port(key.l4_dst)),
        other => format!("protocol {other}"),
    };
    format!(
        "{tag}{what} {} > {} ttl {} dscp {}",
        key.src_addr(),
        key.dst_addr(),
        key.ip_ttl,
        key.ip_tos >> 2,
    )
}

fn solicited(addr: std::net::Ipv6Addr) -> (Mac, std::net::Ipv6Addr) {
    let o = addr.octets();
    let mac = Mac::new([0x33, 0x33, 0xff, o[13], o[14], o[15]]);
    let all = format!("ff02::1:ff{:02x}:{:02x}{:02x}", o[13], o[14], o[15]);
    (mac, all.parse().unwrap())
}

impl Region {
    /// A source port, or identifier, that nobody used lately.
    pub(super) fn next_fresh(&mut self) -> u16 {
        self.fresh = if self.fresh >= 60_000 {
            20_000
        } else {
            self.fresh + 1
        };
        self.fresh
    }

    /// Forgets what was heard so far.
    fn hush(&mut self) {
        self.settle();
        drop(self.received());
        self.wire.clear();
    }

    /// A workload sends a frame; who got what, and the frames.
    fn frames(
        &mut self,
        from: &Nic,
        frame: Vec<u8>,
    ) -> Vec<(String, net::Id<net::ids::kind::Port>, Frame)> {
        self.hush();
        if !self.inject(from.host, from.port, frame) {
            return vec![];
        }
        self.settle();
        let got = self.received();
        let labelled = got.into_iter().map(|(port, frame)| {
            let label = self.labels.get(&port).cloned();
            (label.unwrap_or_else(|| "somebody".to_owned()), port, frame)
        });
        labelled.collect()
    }

    fn told(&mut self, got: &[(String, net::Id<net::ids::kind::Port>, Frame)], fresh: u16) -> Seen {
        let at_ports = got.iter();
        let at_ports =
            at_ports.map(|(label, _, frame)| format!("{label}: {}", words(&frame.bytes, fresh)));
        let mut seen: Seen = at_ports.collect();
        let on_wires = std::mem::take(&mut self.wire);
        seen.extend(on_wires.iter().map(|(wire, frame)| {
            let vlan = wire
                .vlan
                .map(|vlan| format!(" vlan {vlan}"))
                .unwrap_or_default();
            format!("{}{vlan}: {}", wire.physical, words(&frame.bytes, fresh))
        }));
        seen.sort();
        seen
    }

    /// A workload sends this frame; what is seen of it.
    pub fn sends(&mut self, from: &Nic, frame: Vec<u8>) -> Seen {
        let fresh = self.next_fresh();
        let got = self.frames(from, frame);
        self.told(&got, fresh)
    }

    /// The frames that workloads get of one that is sent, by label.
    pub fn bytes(&mut self, from: &Nic, frame: Vec<u8>) -> Vec<(String, Vec<u8>)> {
        let got = self.frames(from, frame);
        got.into_iter()
            .map(|(label, _, frame)| (label, frame.bytes))
            .collect()
    }

    /// A workload sends a frame so many times at once; how many arrive at this moment. See [`Region::arrived`].
    pub fn burst(&mut self, from: &Nic, frame: &[u8], times: usize) -> usize {
        self.hush();
        for _ in 0..times {
            self.inject(from.host, from.port, frame.to_vec());
        }
        self.settle();
        self.arrived()
    }

    /// How many datagrams arrived since the last time.
    pub fn arrived(&mut self) -> usize {
        let frames = self.received();
        // A super-frame carries many.
        frames
            .iter()
            .map(|(_, frame)| crate::fabric::payloads(frame).len())
            .sum()
    }

    /// Who has this address, as the network tells a workload.
    pub fn neighbour(&mut self, from: &Nic, addr: IpAddr) -> Option<Mac> {
        let ask = match addr {
            IpAddr::V4(addr) => FrameBuilder::arp(1, (from.mac, from.v4), (Mac::new([0; 6]), addr)),
            IpAddr::V6(addr) => {
                FrameBuilder::neighbor(135, (from.mac, from.v6), solicited(addr), addr)
            }
        };
        let got = self.frames(from, ask);
        let asked = got.iter().filter(|(_, port, _)| *port != from.port);
        let answers: Vec<_> = asked
            .filter_map(|(_, port, _)| self.answer(*port, from, addr))
            .collect();
        let mut own: Vec<_> = got
            .into_iter()
            .filter(|(_, port, _)| *port == from.port)
            .collect();
        for (nic, frame) in answers {
            self.inject(nic.host, nic.port, frame);
            self.settle();
            let got = self.received().into_iter();
            let got = got.filter(|(port, _)| *port == from.port);
            own.extend(got.map(|(port, frame)| (String::new(), port, frame)));
        }
        let mut own = own.iter();
        own.find_map(|(_, _, frame)| {
            let (_, key) = Headers::parse(&frame.bytes).ok()?;
            let answers = match addr {
                IpAddr::V4(_) => {
                    key.ethertype == ethertype::ARP && !key.is_query() && key.src_addr() == addr
                }
                IpAddr::V6(_) => {
                    key.l4_src == 136 && key.nd_target == net::flow_key::addr_bytes(addr)
                }
            };
            answers.then(|| Mac::new(key.link_addr))
        })
    }

    /// What a workload says that was asked for an address, if it has it.
    fn answer(
        &self,
        asked: net::Id<net::ids::kind::Port>,
        asker: &Nic,
        addr: IpAddr,
    ) -> Option<(Nic, Vec<u8>)> {
        let nic = self.nics.get(&asked)?;
        let frame = match addr {
            IpAddr::V4(addr) if addr == nic.v4 => {
                FrameBuilder::arp(2, (nic.mac, addr), (asker.mac, asker.v4))
            }
            IpAddr::V6(addr) if addr == nic.v6 => {
                FrameBuilder::neighbor(136, (nic.mac, addr), (asker.mac, asker.v6), addr)
            }
            _ => return None,
        };
        Some((nic.clone(), frame))
    }

    /// Where a workload sends what is for an address: to it, or to its router.
    fn next_hop(&mut self, from: &Nic, to: IpAddr) -> Option<Mac> {
        let hop = if from.near(to) {
            to
        } else {
            from.gateway(to.is_ipv6())
        };
        self.neighbour(from, hop)
    }

    /// The hosts whose switches a packet comes by, from a workload to an address.
    pub fn way(&mut self, from: &Nic, to: IpAddr, what: Sent) -> Seen {
        let hop = self.next_hop(from, to).expect("somebody tells the way");
        let frame = what.frame(to.is_ipv6(), self.next_fresh());
        let frame = frame.macs(from.mac, hop);
        let frame = frame.addrs(from.addr(to.is_ipv6()), to).build();
        let before = self.heard();
        let got = self.frames(from, frame);
        let passed = self.heard().into_iter().zip(before);
        let passed = passed.filter(|((_, now), (_, then))| now > then);
        let mut seen: Seen = passed.map(|((host, _), _)| format!("by {host}")).collect();
        seen.extend(got.iter().map(|(label, ..)| format!("to {label}")));
        seen
    }

    /// A workload sends so many datagrams of so many bytes to an address: how many arrive at once, and how many within a while.
    pub fn floods(&mut self, from: &Nic, to: IpAddr, (times, bytes): (usize, usize)) -> Seen {
        let Some(hop) = self.next_hop(from, to) else {
            return vec![format!("nobody tells {} the way to {to}", self.label(from))];
        };
        let frame = FrameBuilder::udp(to.is_ipv6(), self.next_fresh(), 4001)
            .macs(from.mac, hop)
            .addrs(from.addr(to.is_ipv6()), to)
            .payload(&vec![0; bytes])
            .build();
        // A switch meets another limit with the first packet, and keeps what was left of the last one's burst.
        self.burst(from, &frame, 1);
        self.advance(Duration::from_secs(2));
        let at_once = self.burst(from, &frame, times);
        self.advance(Duration::from_millis(250));
        let later = at_once + self.arrived();
        vec![format!(
            "{at_once} at once, {later} in a quarter of a second"
        )]
    }

    /// A workload sends something to an address, by its neighbour or router; what is seen.
    pub fn sees(&mut self, from: &Nic, to: IpAddr, what: Sent) -> Seen {
        self.exchange(from, to, what, false)
    }

    /// The same, and whoever gets it answers.
    pub fn talks(&mut self, from: &Nic, to: IpAddr, what: Sent) -> Seen {
        self.exchange(from, to, what, true)
    }

    /// A ping in each family between two workloads.
    pub fn pings(&mut self, from: &Nic, to: &Nic) -> Seen {
        let mut seen = self.sees(from, to.v4.into(), Sent::Ping);
        seen.extend(self.sees(from, to.v6.into(), Sent::Ping));
        seen
    }

    fn exchange(&mut self, from: &Nic, to: IpAddr, what: Sent, answered: bool) -> Seen {
        let Some(hop) = self.next_hop(from, to) else {
            return vec![format!("nobody tells {} the way to {to}", self.label(from))];
        };
        let fresh = self.next_fresh();
        let frame = what.frame(to.is_ipv6(), fresh).macs(from.mac, hop);
        let frame = frame.addrs(from.addr(to.is_ipv6()), to).build();
        let before = self.drops();
        let got = self.frames(from, frame);
        let mut seen = self.told(&got, fresh);
        let after = self.drops().into_iter().zip(before);
        let more = after.filter(|((_, now), (_, then))| now > then);
        seen.extend(more.map(|((reason, _), _)| format!("dropped: {reason}")));
        if answered {
            let answers: Vec<_> = got
                .iter()
                .filter_map(|(_, port, frame)| Some((*port, what.answer(&frame.bytes)?)))
                .collect();
            for (port, answer) in answers {
                let host = (0..super::HOSTS).find(|host| self.inject(*host, port, answer.clone()));
                host.expect("who got it is somewhere");
                self.settle();
                let got: Vec<_> = self.received();
                let back = got.into_iter().map(|(port, frame)| {
                    let label = self.labels.get(&port).cloned().unwrap_or_default();
                    format!("answered, {label}: {}", words(&frame.bytes, fresh))
                });
                seen.extend(back.collect::<Vec<_>>());
                self.wire.clear();
            }
        }
        seen
    }

    /// What reaches a tunnel endpoint that is no host of ours, of what is done meanwhile.
    pub fn tunnelled(&mut self, vtep: std::net::IpAddr, does: impl FnOnce(&mut Self)) -> Seen {
        let mut end = self.far_end(vtep);
        let mut pool = PacketPool::new(64, 4);
        let mut hear = |region: &mut Self| {
            region.settle();
            let (mut got, mut refused) = (vec![], vec![]);
            end.rx(&mut pool, &|_| true, &mut got, &mut refused);
            let seen = got.iter().map(|frame| words(frame.packet.bytes(), 0));
            let seen: Seen = seen.map(|words| format!("{vtep}: {words}")).collect();
            let refused = refused.into_iter().map(|(packet, _)| packet);
            for packet in got.into_iter().map(|frame| frame.packet).chain(refused) {
                pool.give(packet);
            }
            seen
        };
        hear(self);
        does(self);
        hear(self)
    }

    /// What a workload is called.
    pub(super) fn label(&self, nic: &Nic) -> String {
        self.labels.get(&nic.port).cloned().unwrap_or_default()
    }

    /// Somebody on a physical network sends a frame; what is seen.
    pub fn hears(&mut self, wire: &Wire, frame: Vec<u8>) -> Seen {
        self.hush();
        let frame = Frame {
            bytes: frame,
            offload: net::Offload::default(),
        };
        self.call_out(wire, &frame);
        let got: Vec<_> = self.received();
        let labelled: Vec<_> = got
            .into_iter()
            .map(|(port, frame)| {
                let label = self.labels.get(&port).cloned().unwrap_or_default();
                (label, port, frame)
            })
            .collect();
        self.told(&labelled, 0)
    }
}
