//! What may a workload ask of the switch as a name server?
//!
//! An input is the message of a datagram to port 53 of the service address, whole and with right checksums: what is around it is the
//! header parser's.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use hostconfig::network::{SERVICE_V4, SERVICE_V6};
use net::testkit::{FrameBuilder, checksums_hold, mac};
use net::{DropReason, Headers, PacketPool};
use simple_dns::{CLASS, Name, Packet, PacketFlag, Question, RCODE, TYPE, rdata::OPT};
use vswitch::datapath::Tables;
use vswitch::datapath::dns::answer::{Server, answer};

use crate::host;

/// The most that an answer may be: it must pass any link of IPv6.
const MOST: usize = 1280;

thread_local! {
    static TABLES: Tables = host::tables();
}

/// Asks by both families, of the switch and on the way to another, and reads the answers as a resolver would.
pub(crate) fn request(message: &[u8]) {
    // What is larger than its network is never read.
    if message.len() > MOST - 48 {
        return;
    }
    let ends = [
        (IpAddr::V4(Ipv4Addr::new(10, 0, 0, 1)), SERVICE_V4.into()),
        (
            IpAddr::V6(Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 1)),
            SERVICE_V6.into(),
        ),
    ];
    for (from, to) in ends {
        let frame = FrameBuilder::udp(from.is_ipv6(), 4000, 53)
            .macs(mac(1), mac(0xd000))
            .addrs(from, to)
            .payload(message)
            .build();
        let alone = ask(&frame, Server::Switch);
        let on_the_way = ask(&frame, Server::Another);
        if let Ok(Some(answer)) = &on_the_way {
            assert_eq!(
                alone.as_ref().ok().and_then(Option::as_ref),
                Some(answer),
                "a name is one thing, whoever is asked"
            );
        }
        for answer in [alone, on_the_way].into_iter().flatten().flatten() {
            answered(message, &answer, (from, to));
        }
    }
}

fn ask(frame: &[u8], by: Server) -> Result<Option<Vec<u8>>, DropReason> {
    let mut pool = PacketPool::new(1, 1);
    TABLES.with(|tables| {
        let (Some(network), Some(mut packet)) = (
            tables.network_by_id(host::id(host::NETWORK)),
            pool.take(frame.len()),
        ) else {
            unreachable!("the network and the packet are there");
        };
        assert!(packet.fill(frame).is_ok() && packet.parse().is_ok());
        match answer(&mut packet, network, by) {
            Ok(true) => Ok(Some(packet.bytes().to_vec())),
            Ok(false) => {
                assert_eq!(packet.bytes(), frame, "what goes on is left alone");
                Ok(None)
            }
            Err(reason) => {
                assert_eq!(reason, DropReason::MalformedDns);
                assert_eq!(by, Server::Switch, "what goes on is not judged");
                Err(reason)
            }
        }
    })
}

fn answered(asked: &[u8], frame: &[u8], (from, to): (IpAddr, IpAddr)) {
    let Ok((headers, key)) = Headers::parse(frame) else {
        unreachable!("an answer parses");
    };
    assert!(checksums_hold(frame), "an answer's checksum is wrong");
    assert_eq!((key.src_addr(), key.dst_addr()), (to, from));
    assert_eq!((key.l4_src, key.l4_dst), (53, 4000));
    let length = frame.len() - usize::from(headers.l3_at);
    assert!(length <= MOST, "an answer is too large: {length}");
    let payload = frame
        .get(usize::from(headers.payload_at)..)
        .unwrap_or_default();
    assert_eq!(
        asked.get(..2),
        payload.get(..2),
        "an answer is for who asked"
    );
    let Ok(answer) = Packet::parse(payload) else {
        unreachable!("an answer is a message");
    };
    assert!(answer.has_flags(PacketFlag::RESPONSE), "it is an answer");
    let whole = answer.rcode() == RCODE::NoError;
    assert!(
        whole || answer.answers.is_empty(),
        "nothing is told besides"
    );
    for record in &answer.answers {
        let of = answer.questions.first().map(|q| &q.qname);
        assert_eq!(of, Some(&record.name), "another name is told");
    }
}

pub(crate) fn seeds() -> Vec<Vec<u8>> {
    let reverse = "1.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.d.f.ip6.arpa";
    let questions = [
        ("web.blue.example", TYPE::A),
        ("web", TYPE::AAAA),
        ("host-10-0-0-1.blue.example", TYPE::A),
        ("nobody.blue.example", TYPE::MX),
        ("1.0.0.10.in-addr.arpa", TYPE::PTR),
        (reverse, TYPE::PTR),
        ("example.org", TYPE::A),
    ];
    let messages = questions.into_iter().flat_map(|(name, of)| {
        [false, true].map(|large| {
            let mut message = Packet::new_query(0xbeef);
            let Ok(name) = Name::new(name) else {
                unreachable!("a name");
            };
            let question = Question::new(name, of.into(), CLASS::IN.into(), false);
            message.questions.push(question);
            if large {
                *message.opt_mut() = Some(OPT {
                    opt_codes: Vec::new(),
                    udp_packet_size: 1232,
                    version: 0,
                });
            }
            message.build_bytes_vec()
        })
    });
    messages.flatten().collect()
}
