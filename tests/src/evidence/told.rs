//! What is a workload told when it asks?
//!
//! DHCP, DHCPv6, Router Advertisements and names, as text: messages are read by other libraries than the switch's own reading.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use dhcproto::{
    Decodable, Decoder, Encodable,
    v4::{self, Message, MessageType, OptionCode},
    v6,
};
use net::{
    Headers, Mac,
    flow_key::proto,
    testkit::{FrameBuilder, tcp},
};
use simple_dns::{CLASS, Name, Packet, QCLASS, QTYPE, Question, TYPE};

use super::{Nic, Region, Seen};

/// Where names are asked for on every network.
pub const SERVICE: IpAddr = IpAddr::V4(Ipv4Addr::new(169, 254, 169, 254));

/// Where workloads ask of themselves besides.
const SERVICE_V6: IpAddr = IpAddr::V6(Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0xa9fe, 0xa9fe));

fn payload(frame: &[u8]) -> &[u8] {
    let (headers, _) = Headers::parse(frame).unwrap();
    &frame[usize::from(headers.payload_at)..headers.end as usize]
}

fn v4_options(bytes: &[u8]) -> Seen {
    let message = Message::decode(&mut Decoder::new(bytes)).unwrap();
    let mut said = vec![format!(
        "address {} next server {}",
        message.yiaddr(),
        message.siaddr()
    )];
    let text =
        |bytes: Option<&[u8]>| String::from_utf8_lossy(bytes.unwrap_or_default()).into_owned();
    said.push(format!(
        "sname {} file {}",
        text(message.sname()),
        text(message.fname())
    ));
    let mut options: Seen = message
        .opts()
        .iter()
        .map(|(_, option)| format!("{option:?}"))
        .collect();
    options.sort();
    said.extend(options);
    said
}

impl Region {
    fn answers(&mut self, from: &Nic, ask: Vec<u8>, port: u16) -> Vec<Vec<u8>> {
        let got = self.bytes(from, ask);
        let udp = got.into_iter().filter(|(_, frame)| {
            let parsed = Headers::parse(frame);
            parsed.is_ok_and(|(_, key)| (key.ip_proto, key.l4_dst) == (proto::UDP, port))
        });
        udp.map(|(_, frame)| payload(&frame).to_vec()).collect()
    }

    /// What DHCP offers a workload.
    pub fn dhcp(&mut self, nic: &Nic) -> Seen {
        let mut message = Message::default();
        message.set_chaddr(&nic.mac.octets()).set_xid(7);
        let opts = message.opts_mut();
        opts.insert(v4::DhcpOption::MessageType(MessageType::Discover));
        let asked = [1, 3, 6, 12, 15, 26, 42, 66, 67, 119, 121].map(OptionCode::from);
        opts.insert(v4::DhcpOption::ParameterRequestList(asked.to_vec()));
        opts.insert(v4::DhcpOption::MaxMessageSize(1400));
        let frame = FrameBuilder::udp(false, 68, 67)
            .macs(nic.mac, Mac::BROADCAST)
            .addrs(Ipv4Addr::UNSPECIFIED.into(), Ipv4Addr::BROADCAST.into())
            .payload(&message.to_vec().unwrap());
        let told = self.answers(nic, frame.build(), 68);
        told.iter().flat_map(|bytes| v4_options(bytes)).collect()
    }

    /// What DHCPv6 offers a workload that asks for an address, and one that asks for the rest.
    pub fn dhcp6(&mut self, nic: &Nic) -> Seen {
        let mut seen = vec![];
        for kind in [
            v6::MessageType::Solicit,
            v6::MessageType::InformationRequest,
        ] {
            let mut message = v6::Message::new_with_id(kind, [1, 2, 3]);
            let opts = message.opts_mut();
            let client = [&[0, 3, 0, 1][..], &nic.mac.octets()].concat();
            opts.insert(v6::DhcpOption::ClientId(client));
            let asked = v6::ORO {
                opts: [23, 24, 59, 56].map(v6::OptionCode::from).to_vec(),
            };
            opts.insert(v6::DhcpOption::ORO(asked));
            if kind == v6::MessageType::Solicit {
                opts.insert(v6::DhcpOption::IANA(v6::IANA {
                    id: 1,
                    t1: 0,
                    t2: 0,
                    opts: v6::DhcpOptions::new(),
                }));
            }
            let all = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 1, 2);
            let frame = FrameBuilder::udp(true, 546, 547)
                .macs(nic.mac, Mac::new([0x33, 0x33, 0, 1, 0, 2]))
                .addrs(nic.mac.link_local().into(), all.into())
                .payload(&message.to_vec().unwrap());
            for bytes in self.answers(nic, frame.build(), 546) {
                let answer = v6::Message::decode(&mut Decoder::new(&bytes)).unwrap();
                let options = answer.opts().iter();
                let mut options: Seen = options.map(|o| format!("{kind:?}: {o:?}")).collect();
                options.sort();
                seen.extend(options);
            }
        }
        seen
    }

    /// What routers advertise to a workload that asks: flags and lifetime, then options as type and bytes.
    pub fn advertised(&mut self, nic: &Nic) -> Seen {
        let all: Ipv6Addr = "ff02::2".parse().unwrap();
        let solicit = [133, 0, 0, 0, 0, 0, 0, 0];
        let link = (nic.mac, nic.mac.link_local());
        let frame = solicitation(link, (Mac::new([0x33, 0x33, 0, 0, 0, 2]), all), &solicit);
        let got = self.bytes(nic, frame);
        let mut seen = vec![];
        for (_, frame) in got {
            let (headers, key) = Headers::parse(&frame).unwrap();
            if (key.ip_proto, key.l4_src) != (proto::ICMP6, 134) {
                continue;
            }
            let icmp = &frame[usize::from(headers.l4_at)..];
            let life = u16::from_be_bytes([icmp[6], icmp[7]]);
            seen.push(format!(
                "hops {} flags {:#04x} life {life}",
                icmp[4], icmp[5]
            ));
            let mut left = &icmp[16..];
            while let [kind, units, ..] = left {
                let (option, rest) = left.split_at(usize::from(*units) * 8);
                // Not the router's own MAC address: chance gave it.
                if *kind != 1 {
                    seen.push(format!("option {kind}: {:02x?}", &option[2..]));
                }
                left = rest;
            }
        }
        seen
    }

    /// What a workload reads at a path of the metadata service, by each of its addresses.
    pub fn page(&mut self, nic: &Nic, path: &str) -> Seen {
        let ask = format!("GET {path} HTTP/1.1\r\nhost: metadata\r\n\r\n");
        [SERVICE, SERVICE_V6]
            .into_iter()
            .flat_map(|service| {
                let Some(mac) = self.neighbour(nic, service) else {
                    return vec![format!("nobody has {service}")];
                };
                let fresh = self.next_fresh();
                let segment = |flags: u8, (seq, ack): (u32, u32), said: &str| {
                    let frame = FrameBuilder::tcp(service.is_ipv6(), fresh, 80);
                    let frame = frame.macs(nic.mac, mac);
                    let frame = frame.addrs(nic.addr(service.is_ipv6()), service);
                    frame
                        .flags(flags)
                        .seq(seq, ack)
                        .payload(said.as_bytes())
                        .build()
                };
                let greeted = self.segments(nic, segment(tcp::SYN, (1, 0), ""), fresh);
                let Some((theirs, _)) = greeted.first() else {
                    return vec![format!("nobody answers at {service}")];
                };
                let next = theirs.wrapping_add(1);
                let asks = segment(tcp::ACK | tcp::PSH, (2, next), &ask);
                let told = self.segments(nic, asks, fresh);
                let sent = u32::try_from(ask.len()).unwrap();
                self.segments(nic, segment(tcp::RST, (2 + sent, 0), ""), fresh);
                let told: Vec<u8> = told.into_iter().flat_map(|(_, said)| said).collect();
                let told = String::from_utf8_lossy(&told).into_owned();
                told.lines().map(str::to_owned).collect()
            })
            .collect()
    }

    /// The TCP segments that a workload gets of one that it sends: sequence number and payload.
    fn segments(&mut self, nic: &Nic, frame: Vec<u8>, port: u16) -> Vec<(u32, Vec<u8>)> {
        let got = self.bytes(nic, frame).into_iter();
        let own = got.filter_map(|(_, frame)| {
            let (headers, key) = Headers::parse(&frame).ok()?;
            let at = usize::from(headers.l4_at) + 4;
            let seq = frame.get(at..at + 4)?.try_into().ok()?;
            let own = (key.ip_proto, key.l4_dst) == (proto::TCP, port);
            own.then(|| (u32::from_be_bytes(seq), payload(&frame).to_vec()))
        });
        own.collect()
    }

    /// What the switch says when a workload asks a server for a name's address, or an address's name.
    pub fn looked_up(&mut self, nic: &Nic, name: &str) -> Seen {
        let reverse = name.rsplit('.').next() == Some("arpa");
        let kinds: &[TYPE] = if reverse {
            &[TYPE::PTR]
        } else {
            &[TYPE::A, TYPE::AAAA]
        };
        kinds
            .iter()
            .flat_map(|kind| self.look_up(nic, name, *kind))
            .collect()
    }

    fn look_up(&mut self, nic: &Nic, name: &str, kind: TYPE) -> Seen {
        let mut packet = Packet::new_query(7);
        let (kind, class) = (QTYPE::TYPE(kind), QCLASS::CLASS(CLASS::IN));
        packet
            .questions
            .push(Question::new(Name::new(name).unwrap(), kind, class, false));
        let bytes = packet.build_bytes_vec().unwrap();
        let Some(server) = self.neighbour(nic, SERVICE) else {
            return vec!["no server of names".to_owned()];
        };
        let fresh = self.next_fresh();
        let frame = FrameBuilder::udp(false, fresh, 53)
            .macs(nic.mac, server)
            .addrs(nic.v4.into(), SERVICE)
            .payload(&bytes);
        let answers = self.answers(nic, frame.build(), fresh);
        let read = answers.iter().map(|bytes| {
            let answer = Packet::parse(bytes).unwrap();
            let records = answer.answers.iter().map(|r| format!("{:?}", r.rdata));
            format!(
                "{kind:?} {:?} {:?}",
                answer.rcode(),
                records.collect::<Vec<_>>()
            )
        });
        read.collect()
    }
}

/// An ICMPv6 message that is not of the builder's kinds.
fn solicitation(from: (Mac, Ipv6Addr), to: (Mac, Ipv6Addr), icmp: &[u8]) -> Vec<u8> {
    let sum = net::checksum::transport(from.1.into(), to.1.into(), proto::ICMP6, icmp);
    let mut icmp = icmp.to_vec();
    icmp[2..4].copy_from_slice(&sum.to_be_bytes());
    FrameBuilder::other(true, proto::ICMP6)
        .macs(from.0, to.0)
        .addrs(from.1.into(), to.1.into())
        .ttl(255)
        .payload(&icmp)
        .build()
}
