//! What may a workload ask of the switch as a DHCP server?
//!
//! An input is the message of a datagram from port 68 to port 67, whole and with right checksums: what is around it is the
//! header parser's.

use std::net::{IpAddr, Ipv4Addr};

use dhcproto::v4::{
    DhcpOption, Flags, HType, Message, MessageType, Opcode, OptionCode, UnknownOption, borrowed,
};
use dhcproto::{Decodable, Decoder, Encodable};
use net::testkit::{FrameBuilder, checksums_hold, mac};
use net::{DropReason, Headers, Mac, PacketPool};
use vswitch::datapath::Tables;
use vswitch::datapath::tables::service::answer_dhcp;

use crate::host;

/// The client: the first workload.
const CLIENT: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);

thread_local! {
    static TABLES: Tables = host::tables();
}

/// Asks, and reads the answer as a client would.
pub(crate) fn request(message: &[u8]) {
    let frame = FrameBuilder::udp(false, 68, 67)
        .macs(mac(1), Mac::BROADCAST)
        .addrs(
            IpAddr::V4(Ipv4Addr::UNSPECIFIED),
            IpAddr::V4(Ipv4Addr::BROADCAST),
        )
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
        match answer_dhcp(&mut packet, (network, port), 0, CLIENT) {
            Ok(true) => answered(message, packet.bytes(), network.mtu.get()),
            Ok(false) => assert_eq!(packet.bytes(), frame, "what needs no answer is left alone"),
            Err(reason) => assert!(
                matches!(
                    reason,
                    DropReason::MalformedDhcp | DropReason::PortSecurityMac
                ),
                "another reason: {reason:?}"
            ),
        }
    });
}

fn answered(asked: &[u8], frame: &[u8], mtu: u16) {
    let Ok((headers, key)) = Headers::parse(frame) else {
        unreachable!("an answer parses");
    };
    assert!(checksums_hold(frame), "an answer's checksum is wrong");
    assert_eq!((key.l4_src, key.l4_dst), (67, 68));
    assert_eq!(
        headers.end as usize,
        frame.len(),
        "its length says what it is"
    );
    let l3 = usize::from(headers.l3_at);
    assert!(
        frame.len() - l3 <= mtu.into(),
        "an answer exceeds the MTU: {}",
        frame.len() - l3
    );
    let payload = frame
        .get(usize::from(headers.payload_at)..)
        .unwrap_or_default();
    let answer = Message::decode(&mut Decoder::new(payload));
    let (Ok(asked), Ok(answer)) = (borrowed::Message::new(asked), answer) else {
        unreachable!("what was answered is a message, and so is the answer");
    };
    assert_eq!(answer.opcode(), Opcode::BootReply);
    assert_eq!(
        (answer.xid(), answer.chaddr()),
        (asked.xid(), asked.chaddr()),
        "an answer is for who asked"
    );
    let kind = answer.opts().msg_type();
    let given = answer.yiaddr();
    let asked_for = |kind: MessageType| {
        let is = |option: borrowed::DhcpOption<'_>| {
            option.code() == OptionCode::MessageType
                && option.data().first() == Some(&u8::from(kind))
        };
        asked.opts().any(is)
    };
    let leased = match kind {
        Some(MessageType::Offer) if asked_for(MessageType::Discover) => true,
        Some(MessageType::Ack) if asked_for(MessageType::Request) => !given.is_unspecified(),
        Some(MessageType::Ack) => {
            assert!(asked_for(MessageType::Inform), "nobody asked");
            false
        }
        Some(MessageType::Nak) if asked_for(MessageType::Request) => false,
        _ => unreachable!("no answer to that: {kind:?}"),
    };
    let expected = if leased {
        CLIENT
    } else {
        Ipv4Addr::UNSPECIFIED
    };
    assert_eq!(given, expected, "another's address is leased");
}

pub(crate) fn seeds() -> Vec<Vec<u8>> {
    let kinds = [
        MessageType::Discover,
        MessageType::Request,
        MessageType::Inform,
        MessageType::Release,
        MessageType::Decline,
    ];
    let mut seeds = Vec::new();
    for kind in kinds {
        for wanted in [None, Some(CLIENT), Some(Ipv4Addr::new(10, 0, 0, 77))] {
            seeds.push(message(kind, wanted));
        }
    }
    seeds
}

fn message(kind: MessageType, wanted: Option<Ipv4Addr>) -> Vec<u8> {
    let mut message = Message::default();
    message
        .set_opcode(Opcode::BootRequest)
        .set_htype(HType::Eth)
        .set_xid(0xdead_beef)
        .set_flags(Flags::default().set_broadcast())
        .set_chaddr(&mac(1).octets());
    if kind == MessageType::Inform || kind == MessageType::Release {
        message.set_ciaddr(CLIENT).set_flags(Flags::default());
    }
    let options = message.opts_mut();
    options.insert(DhcpOption::MessageType(kind));
    options.insert(DhcpOption::ParameterRequestList(
        [1, 3, 6, 15, 26, 51, 54, 121].map(OptionCode::from).into(),
    ));
    options.insert(DhcpOption::Hostname("w1".into()));
    let client = UnknownOption::new(OptionCode::from(61), [&[1][..], &mac(1).octets()].concat());
    options.insert(DhcpOption::Unknown(client));
    if let Some(wanted) = wanted {
        options.insert(DhcpOption::RequestedIpAddress(wanted));
        options.insert(DhcpOption::ServerIdentifier(Ipv4Addr::new(10, 0, 0, 250)));
    }
    match message.to_vec() {
        Ok(bytes) => bytes,
        Err(error) => unreachable!("a message that was made here encodes: {error}"),
    }
}
