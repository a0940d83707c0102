//! What may a workload ask of the switch as a DHCPv6 server?
//!
//! An input is the message of a datagram from port 546 to port 547, whole and with right checksums: what is around it is the
//! header parser's.

use std::net::{IpAddr, Ipv6Addr};

use dhcproto::v6::{
    DhcpOption, DhcpOptions, IAAddr, IANA, IAPD, Message, MessageType, OptionCode, UnknownOption,
};
use dhcproto::{Decodable, Decoder, Encodable};
use net::testkit::{FrameBuilder, checksums_hold, mac};
use net::{DropReason, Headers, Mac, PacketPool};
use vswitch::datapath::Tables;
use vswitch::datapath::tables::dhcp6::answer;

use crate::host;

/// The client's address: that of the first workload.
const CLIENT: Ipv6Addr = Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 1);
/// The most that an answer may be: it must pass any link of IPv6.
const MOST: usize = 1280;

thread_local! {
    static TABLES: Tables = host::tables();
}

/// Asks, and reads the answer as a client would.
pub(crate) fn request(message: &[u8]) {
    let servers = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 1, 2);
    let frame = FrameBuilder::udp(true, 546, 547)
        .macs(mac(1), Mac::new([0x33, 0x33, 0, 1, 0, 2]))
        .addrs(IpAddr::V6(mac(1).link_local()), IpAddr::V6(servers))
        .payload(message)
        .build();
    let mut pool = PacketPool::new(1, 1);
    TABLES.with(|tables| {
        let (Some(network), Some(port), Some(mut packet)) = (
            tables.network_by_id(host::id(host::NETWORK)),
            tables.port_by_id(host::id(1)),
            pool.take(frame.len()),
        ) else {
            unreachable!("the network, the port and the packet are there");
        };
        assert!(packet.fill(&frame).is_ok() && packet.parse().is_ok());
        match answer(&mut packet, network, port) {
            Ok(true) => answered(message, packet.bytes()),
            Ok(false) => assert_eq!(packet.bytes(), frame, "what needs no answer is left alone"),
            Err(reason) => assert_eq!(reason, DropReason::MalformedDhcp),
        }
    });
}

fn answered(asked: &[u8], frame: &[u8]) {
    let Ok((headers, key)) = Headers::parse(frame) else {
        unreachable!("an answer parses");
    };
    assert!(checksums_hold(frame), "an answer's checksum is wrong");
    assert_eq!((key.l4_src, key.l4_dst), (547, 546));
    assert_eq!(key.dst_addr(), IpAddr::V6(mac(1).link_local()));
    assert_eq!(
        headers.end as usize,
        frame.len(),
        "its length says what it is"
    );
    let length = frame.len() - usize::from(headers.l3_at);
    assert!(length <= MOST, "an answer is too large: {length}");
    let payload = frame
        .get(usize::from(headers.payload_at)..)
        .unwrap_or_default();
    let Ok(answer) = Message::decode(&mut Decoder::new(payload)) else {
        unreachable!("an answer is a message");
    };
    assert_eq!(
        asked.get(1..4),
        Some(&answer.xid()[..]),
        "it is for who asked"
    );
    // Each option is as long as it says, to the last.
    let mut left = payload.get(4..).unwrap_or_default();
    let mut options = 0;
    while let [_, _, l0, l1, rest @ ..] = left {
        let Some((_, after)) = rest.split_at_checked(u16::from_be_bytes([*l0, *l1]).into()) else {
            unreachable!("an option exceeds the answer");
        };
        (left, options) = (after, options + 1);
    }
    assert!(left.is_empty() && options == answer.opts().iter().count());
    let kind = asked.first().copied().unwrap_or_default();
    match (kind, answer.msg_type()) {
        (1, MessageType::Advertise) | (1 | 3..=6 | 8 | 9 | 11, MessageType::Reply) => {}
        other => unreachable!("no answer to that: {other:?}"),
    }
    leases(answer.opts());
}

/// Nobody is leased another's address, and it is leased once.
fn leases(options: &DhcpOptions) {
    let mut leased = 0;
    for option in options.iter() {
        if let DhcpOption::IANA(ia) = option {
            for option in ia.opts.iter() {
                if let DhcpOption::IAAddr(addr) = option
                    && addr.valid_life > 0
                {
                    assert_eq!(addr.addr, CLIENT, "another's address is leased");
                    leased += 1;
                }
            }
        }
    }
    assert!(leased <= 1, "one address is leased {leased} times");
}

pub(crate) fn seeds() -> Vec<Vec<u8>> {
    let kinds = [
        MessageType::Solicit,
        MessageType::Request,
        MessageType::Confirm,
        MessageType::Renew,
        MessageType::Rebind,
        MessageType::Release,
        MessageType::Decline,
        MessageType::InformationRequest,
    ];
    let mut seeds = Vec::new();
    for kind in kinds {
        for wanted in [None, Some(CLIENT), Some(Ipv6Addr::LOCALHOST)] {
            seeds.push(message(kind, wanted));
        }
    }
    seeds
}

fn message(kind: MessageType, wanted: Option<Ipv6Addr>) -> Vec<u8> {
    let mut message = Message::new_with_id(kind, [1, 2, 3]);
    let options = message.opts_mut();
    options.insert(DhcpOption::ClientId(vec![0, 1, 0, 1, 9, 9, 9, 9, 2, 2]));
    let server = [&[0, 3, 0, 1][..], &mac(0xd000).octets()].concat();
    if kind == MessageType::Solicit {
        options.insert(DhcpOption::RapidCommit);
    } else if !matches!(kind, MessageType::Confirm | MessageType::Rebind) {
        options.insert(DhcpOption::ServerId(server));
    }
    if kind != MessageType::InformationRequest {
        let addr = |addr| {
            DhcpOption::IAAddr(IAAddr {
                addr,
                preferred_life: 1,
                valid_life: 2,
                opts: DhcpOptions::new(),
            })
        };
        options.insert(DhcpOption::IANA(IANA {
            id: 7,
            t1: 0,
            t2: 0,
            opts: wanted.into_iter().map(addr).collect(),
        }));
        options.insert(DhcpOption::IAPD(IAPD {
            id: 8,
            t1: 0,
            t2: 0,
            opts: DhcpOptions::new(),
        }));
    }
    let fqdn = UnknownOption::new(OptionCode::from(39), vec![0, 2, b'w', b'1']);
    options.insert(DhcpOption::Unknown(fqdn));
    match message.to_vec() {
        Ok(bytes) => bytes,
        Err(error) => unreachable!("a message that was made here encodes: {error}"),
    }
}
