//! What does a DHCPv6 client get, read by another library than the answer was written with?

use std::net::Ipv6Addr;

use dhcproto::{
    Decodable, Decoder, Encodable,
    v6::{
        DhcpOption, DhcpOptions, IAAddr, IANA, IAPD, IATA, Message, MessageType, OptionCode,
        Status, UnknownOption,
    },
};
use hostconfig::{Section, SectionKey, network::Dhcp6};
use net::{
    Consumed, DropReason, Headers, Mac, Originated,
    testkit::{FrameBuilder, mac},
};

use super::harness::*;

const DUID: [u8; 6] = [0, 4, 1, 2, 3, 4];
/// A DUID of the server's link-layer address (RFC 8415 §11.4).
const SERVER: [u8; 10] = [0, 3, 0, 1, 2, 0, 0, 0, 0xd0, 0];

fn own() -> Ipv6Addr {
    v6("fd00::1")
}

fn v6(text: &str) -> Ipv6Addr {
    text.parse().unwrap()
}

/// A port on a network whose IPv6 subnet leases for so long; `None`: hosts make their addresses.
fn conf(lease_seconds: Option<u32>) -> Conf {
    let mut conf = Conf::new();
    conf.web(6, 80).port(1, &[GROUP]).port(2, &[GROUP]).far(9);
    let key = SectionKey::Network(id(NET));
    let Section::Network(mut network) = conf.0.sections[&key].body().clone() else {
        unreachable!("it is a network's key")
    };
    network.subnets[1].dns6 = vec![v6("fd00::53"), v6("fd00::54")];
    network.subnets[1].dhcp6 = Some(Dhcp6 {
        server_mac: mac(0xd000),
        lease_seconds,
        domain: "blue.example".into(),
    });
    conf.put(Section::Network(network));
    conf
}

fn message(kind: MessageType, options: &[DhcpOption]) -> Vec<u8> {
    let mut message = Message::new_with_id(kind, [7, 8, 9]);
    // It puts an option before those of its kind.
    for option in options.iter().rev() {
        message.opts_mut().insert(option.clone());
    }
    message.to_vec().unwrap()
}

fn frame(payload: &[u8]) -> FrameBuilder {
    FrameBuilder::udp(true, 546, 547)
        .macs(mac(1), Mac::new([0x33, 0x33, 0, 1, 0, 2]))
        .addrs(mac(1).link_local().into(), v6("ff02::1:2").into())
        .payload(payload)
}

fn client() -> DhcpOption {
    DhcpOption::ClientId(DUID.to_vec())
}

fn server() -> DhcpOption {
    DhcpOption::ServerId(SERVER.to_vec())
}

fn addr(addr: Ipv6Addr, seconds: u32) -> DhcpOption {
    DhcpOption::IAAddr(IAAddr {
        addr,
        preferred_life: seconds,
        valid_life: seconds,
        opts: DhcpOptions::new(),
    })
}

/// An association that names these addresses.
fn ia(number: u32, addrs: &[Ipv6Addr]) -> DhcpOption {
    DhcpOption::IANA(IANA {
        id: number,
        t1: 0,
        t2: 0,
        opts: addrs.iter().map(|a| addr(*a, 1)).collect(),
    })
}

/// The answer to a message, if there is one.
fn answer(h: &mut Host, kind: MessageType, options: &[DhcpOption]) -> Option<Message> {
    let got = h.from(1, &frame(&message(kind, options)));
    assert!(got.len() <= 1);
    let (at, frame) = got.first()?;
    assert_eq!(*at, At::Port(1));
    let (headers, key) = Headers::parse(frame).unwrap();
    assert_eq!((key.l4_src, key.l4_dst), (547, 546));
    let from = mac(0xd000);
    assert_eq!(key.src_mac(), from);
    assert_eq!(key.src_addr(), from.link_local());
    assert_eq!(key.dst_mac(), mac(1));
    assert_eq!(key.dst_addr(), mac(1).link_local());
    let payload = &frame[usize::from(headers.payload_at)..];
    let message = Message::decode(&mut Decoder::new(payload)).unwrap();
    assert_eq!(message.xid(), [7, 8, 9]);
    let named = |code| message.opts().get(code).cloned();
    assert_eq!(named(OptionCode::ServerId), Some(server()));
    let asked = options
        .iter()
        .find(|o| matches!(o, DhcpOption::ClientId(_)));
    assert_eq!(named(OptionCode::ClientId).as_ref(), asked);
    Some(message)
}

fn associations(message: &Message) -> impl Iterator<Item = &IANA> {
    message.opts().iter().filter_map(|option| {
        if let DhcpOption::IANA(ia) = option {
            Some(ia)
        } else {
            None
        }
    })
}

/// T1, T2, and the addresses with their times, or the status, of the association of this number.
fn given(message: &Message, number: u32) -> (u32, u32, Vec<(Ipv6Addr, u32)>, Option<Status>) {
    let of = associations(message).find(|ia| ia.id == number);
    let ia = of.unwrap_or_else(|| panic!("no association {number}: {message:?}"));
    let addrs = ia.opts.iter().filter_map(|option| {
        let DhcpOption::IAAddr(a) = option else {
            return None;
        };
        assert_eq!(a.preferred_life, a.valid_life);
        Some((a.addr, a.valid_life))
    });
    (ia.t1, ia.t2, addrs.collect(), status(&ia.opts))
}

fn status(options: &DhcpOptions) -> Option<Status> {
    options.iter().find_map(|option| {
        if let DhcpOption::StatusCode(code) = option {
            Some(code.status)
        } else {
            None
        }
    })
}

fn told_all(message: &Message) -> bool {
    let names = DhcpOption::DomainNameServers(vec![v6("fd00::53"), v6("fd00::54")]);
    let domain = match message.opts().get(OptionCode::DomainSearchList) {
        Some(DhcpOption::DomainSearchList(all)) => all.iter().map(ToString::to_string).collect(),
        _ => vec![],
    };
    message.opts().get(OptionCode::DomainNameServers) == Some(&names) && domain == ["blue.example."]
}

#[test]
fn a_client_gets_its_ports_address_in_two_exchanges_or_in_one() {
    let mut h = Host::new(&conf(Some(1000)));
    let leased = (500, 800, vec![(own(), 1000)], None);
    let offer = answer(&mut h, MessageType::Solicit, &[client(), ia(5, &[])]).unwrap();
    assert_eq!(offer.msg_type(), MessageType::Advertise);
    assert_eq!(given(&offer, 5), leased);
    assert!(told_all(&offer));
    // Nobody else answers, so the client need not wait.
    assert_eq!(
        offer.opts().get(OptionCode::Preference),
        Some(&DhcpOption::Preference(255))
    );
    // Whatever it would like to have.
    let wish = ia(5, &[v6("fd00::77")]);
    let options = [client(), server(), wish];
    let reply = answer(&mut h, MessageType::Request, &options).unwrap();
    assert_eq!(reply.msg_type(), MessageType::Reply);
    assert_eq!(given(&reply, 5), leased);
    let rapid = [client(), DhcpOption::RapidCommit, ia(6, &[])];
    let reply = answer(&mut h, MessageType::Solicit, &rapid).unwrap();
    assert_eq!(reply.msg_type(), MessageType::Reply);
    assert!(reply.opts().get(OptionCode::RapidCommit).is_some());
    assert_eq!(given(&reply, 6), leased);
    let ledger = h.dp.ledger();
    assert_eq!(ledger.originated[Originated::Dhcp6.index()], 3);
    assert_eq!(ledger.consumed[Consumed::Dhcp.index()], 3);
    // RFC 8415 §18.3.2: it was elsewhere before.
    let elsewhere = [client(), server(), ia(5, &[v6("fd99::1")])];
    let reply = answer(&mut h, MessageType::Request, &elsewhere).unwrap();
    assert_eq!(given(&reply, 5), (0, 0, vec![], Some(Status::NotOnLink)));
}

#[test]
fn who_renews_keeps_its_own_and_loses_what_is_not() {
    let mut h = Host::new(&conf(Some(1000)));
    for (kind, to) in [
        (MessageType::Renew, Some(server())),
        (MessageType::Rebind, None),
    ] {
        let holds = ia(5, &[own(), v6("fd00::77")]);
        let options: Vec<_> = [client(), holds].into_iter().chain(to).collect();
        let reply = answer(&mut h, kind, &options).unwrap();
        assert_eq!(reply.msg_type(), MessageType::Reply);
        let (_, _, addrs, status) = given(&reply, 5);
        assert_eq!(addrs, [(own(), 1000), (v6("fd00::77"), 0)]);
        assert_eq!(status, None);
        assert!(told_all(&reply));
    }
}

#[test]
fn who_asks_whether_its_address_still_holds_is_told() {
    let mut h = Host::new(&conf(Some(1000)));
    for (addrs, wanted) in [
        (vec![own()], Some(Status::Success)),
        (vec![v6("fd00::77")], Some(Status::NotOnLink)),
        (vec![own(), v6("fd99::1")], Some(Status::NotOnLink)),
        // RFC 8415 §18.3.3: without an address there is nothing to confirm.
        (vec![], None),
    ] {
        let reply = answer(&mut h, MessageType::Confirm, &[client(), ia(5, &addrs)]);
        assert_eq!(reply.and_then(|r| status(r.opts())), wanted, "{addrs:?}");
    }
}

#[test]
fn what_is_given_back_stays_its_ports() {
    let mut h = Host::new(&conf(Some(1000)));
    for kind in [MessageType::Release, MessageType::Decline] {
        let foreign = ia(6, &[v6("fd00::77")]);
        let options = [client(), server(), ia(5, &[own()]), foreign];
        let reply = answer(&mut h, kind, &options).unwrap();
        assert_eq!(status(reply.opts()), Some(Status::Success));
        assert_eq!(given(&reply, 6).3, Some(Status::NoBinding));
        let all = associations(&reply).count();
        assert_eq!(all, 1, "of its own nothing is to be said");
        let again = answer(&mut h, MessageType::Solicit, &[client(), ia(5, &[])]);
        assert_eq!(given(&again.unwrap(), 5).2, [(own(), 1000)]);
    }
}

#[test]
fn where_hosts_make_their_addresses_only_the_rest_is_told() {
    for lease in [None, Some(1000)] {
        let mut h = Host::new(&conf(lease));
        for options in [vec![], vec![client()], vec![client(), server()]] {
            let reply = answer(&mut h, MessageType::InformationRequest, &options).unwrap();
            assert_eq!(reply.msg_type(), MessageType::Reply);
            assert!(told_all(&reply));
            assert!(
                reply
                    .opts()
                    .get(OptionCode::InformationRefreshTime)
                    .is_some()
            );
            assert!(reply.opts().get(OptionCode::IANA).is_none());
        }
        let asked = answer(&mut h, MessageType::Solicit, &[client(), ia(5, &[])]);
        assert_eq!(asked.is_some(), lease.is_some());
        assert_eq!(h.dropped(DropReason::MalformedDhcp), 0, "it is no fault");
        assert_eq!(h.dp.ledger().consumed[Consumed::Dhcp.index()], 4);
    }
}

#[test]
fn one_association_gets_addresses_and_nothing_else_does() {
    let mut h = Host::new(&conf(Some(1000)));
    let temporary = DhcpOption::IATA(IATA {
        id: 8,
        opts: DhcpOptions::new(),
    });
    let prefix = DhcpOption::IAPD(IAPD {
        id: 9,
        t1: 0,
        t2: 0,
        opts: DhcpOptions::new(),
    });
    let options = [client(), ia(5, &[]), ia(6, &[]), temporary, prefix];
    let offer = answer(&mut h, MessageType::Solicit, &options).unwrap();
    assert_eq!(given(&offer, 5).2, [(own(), 1000)]);
    assert_eq!(given(&offer, 6), (0, 0, vec![], Some(Status::NoAddrsAvail)));
    let of = |code| match offer.opts().get(code) {
        Some(DhcpOption::IATA(ia)) => status(&ia.opts),
        Some(DhcpOption::IAPD(ia)) => status(&ia.opts),
        _ => None,
    };
    assert_eq!(of(OptionCode::IATA), Some(Status::NoAddrsAvail));
    assert_eq!(of(OptionCode::IAPD), Some(Status::NoPrefixAvail));
    // However many it asks for, the answer has its bound.
    let many: Vec<_> = (0..12).map(|n| ia(n, &[v6("fd00::77"); 2])).collect();
    let options = [&[client(), server()][..], &many].concat();
    let reply = answer(&mut h, MessageType::Renew, &options).unwrap();
    assert_eq!(associations(&reply).count(), 4);
    let (_, frame) = h.sent.last().unwrap();
    assert!(frame.len() <= 14 + 1280, "{}", frame.len());
}

/// RFC 8415 §16: "Servers MUST discard any received … messages that meet any of the following conditions".
#[test]
fn what_says_too_much_or_too_little_is_not_answered() {
    use MessageType as M;
    let mut h = Host::new(&conf(Some(1000)));
    let another = DhcpOption::ServerId(vec![0, 3, 0, 1, 2, 2, 2, 2, 2, 2]);
    let malformed = [
        (M::Solicit, vec![ia(5, &[])]),
        (M::Solicit, vec![client(), server(), ia(5, &[])]),
        (M::Request, vec![client(), ia(5, &[])]),
        (M::Request, vec![server(), ia(5, &[])]),
        (M::Renew, vec![client(), ia(5, &[own()])]),
        (M::Rebind, vec![client(), server(), ia(5, &[own()])]),
        (M::Confirm, vec![client(), server(), ia(5, &[own()])]),
        (M::Release, vec![client(), ia(5, &[own()])]),
        (M::Decline, vec![client(), ia(5, &[own()])]),
        (M::InformationRequest, vec![client(), ia(5, &[])]),
        (M::Solicit, vec![DhcpOption::ClientId(vec![1; 131])]),
        (M::Solicit, vec![DhcpOption::ClientId(vec![])]),
        (M::Solicit, vec![client(), client()]),
        (M::Advertise, vec![client(), server()]),
        (M::Reply, vec![client(), server()]),
        (M::Reconfigure, vec![client(), server()]),
        (M::Unknown(77), vec![client()]),
    ];
    for (n, (kind, options)) in (1..).zip(&malformed) {
        assert_eq!(answer(&mut h, *kind, options), None, "{kind:?} {options:?}");
        assert_eq!(
            h.dropped(DropReason::MalformedDhcp),
            n,
            "{kind:?} {options:?}"
        );
    }
    let dropped = h.dropped(DropReason::MalformedDhcp);
    for kind in [M::Request, M::Renew, M::Release, M::Decline] {
        let options = [client(), another.clone(), ia(5, &[own()])];
        assert_eq!(answer(&mut h, kind, &options), None, "it is another's");
    }
    assert_eq!(h.dropped(DropReason::MalformedDhcp), dropped);
}

#[test]
fn hostile_messages_are_malformed_not_fatal() {
    let mut h = Host::new(&conf(Some(1000)));
    let prefix = DhcpOption::IAPD(IAPD {
        id: 9,
        t1: 0,
        t2: 0,
        opts: DhcpOptions::new(),
    });
    let options = [client(), ia(5, &[own()]), prefix, DhcpOption::RapidCommit];
    let whole = message(MessageType::Solicit, &options);
    let mut answers = 0;
    for cut in 0..whole.len() {
        h.from(1, &frame(&whole[..cut]));
        for flip in [0xff, 0x80, 1] {
            let mut wild = whole.clone();
            wild[cut] ^= flip;
            answers += h.from(1, &frame(&wild)).len();
        }
    }
    assert!(h.dropped(DropReason::MalformedDhcp) > 100);
    assert!(answers > 0, "not all of it matters");
    // What nobody reads costs no answer, however odd.
    for code in [6, 8, 11, 15, 16, 17, 20, 39, 4711] {
        let odd = DhcpOption::Unknown(UnknownOption::new(OptionCode::from(code), vec![0xc1]));
        let options = [client(), ia(5, &[]), odd];
        let offer = answer(&mut h, MessageType::Solicit, &options).unwrap();
        assert_eq!(given(&offer, 5).2, [(own(), 1000)], "{code}");
    }
}

#[test]
fn what_is_not_for_the_switch_goes_on() {
    let solicit = message(MessageType::Solicit, &[client(), ia(5, &[])]);
    // The other port's groups let it not in.
    let all = [At::Vtep(REMOTE.into())];
    let mut off = conf(Some(1000));
    off.network(NET, 1, 1450);
    assert_eq!(
        Host::new(&off).places(1, &frame(&solicit)),
        all,
        "it is off"
    );
    let mut none = conf(Some(1000));
    none.port_with(1, &[GROUP], |p| p.fixed_ips.truncate(1));
    let places = Host::new(&none).places(1, &frame(&solicit));
    assert_eq!(places, all, "the port has no address there");
    let mut h = Host::new(&conf(Some(1000)));
    let one = frame(&solicit)
        .macs(mac(1), mac(2))
        .addrs(own().into(), v6("fd00::2").into());
    // It is somebody's packet, and that one's groups let it not in.
    assert_eq!(h.places(1, &one), []);
    assert_eq!(h.dropped(DropReason::SecurityGroupIngress), 1);
    let piece = frame(&solicit).fragment(7, 0, true);
    assert_eq!(h.places(1, &piece), [At::Vtep(REMOTE.into())]);
    let foreign = FrameBuilder::udp(true, 547, 546)
        .macs(mac(1), mac(2))
        .addrs(own().into(), v6("fd00::2").into());
    assert_eq!(h.places(1, &foreign), []);
    assert_eq!(h.dropped(DropReason::PortSecurityDhcpServer), 1);
}

#[test]
fn explain_says_which_addresses_are_given() {
    use super::super::explain::{Ending, explain_key};
    for (lease, says) in [
        (Some(1000), "dhcpv6 answered with fd00::1"),
        (None, "dhcpv6 answered, without addresses"),
    ] {
        let h = Host::new(&conf(lease));
        let (_, mut key) = Headers::parse(&frame(&[]).build()).unwrap();
        key.set_origin(h.origin(1));
        let told = explain_key(&h.tables, &key, None, String::new(), h.now);
        assert!(matches!(told.verdict, Ending::Answered { .. }), "{told}");
        assert!(told.steps.iter().any(|s| s.says == says), "{told}");
        assert!(told.to_string().contains("answer_dhcp6"), "{told}");
    }
}

#[test]
fn a_port_has_options_of_its_own() {
    let told = |code, data: &[u8]| hostconfig::DhcpOption {
        code,
        data: Some(data.to_vec()),
    };
    let own = v6("fd00::99");
    let mut c = conf(Some(3600));
    c.port_with(1, &[GROUP], |p| {
        p.dhcp.v6 = vec![
            told(23, &own.octets()),
            told(59, b"tftp://x/"),
            told(200, &[7; 1000]),
            told(201, &[8; 300]),
            told(202, b"last"),
        ];
    });
    let mut h = Host::new(&c);
    for kind in [MessageType::InformationRequest, MessageType::Solicit] {
        let associates = kind == MessageType::Solicit;
        let more = associates.then(|| ia(1, &[]));
        let asked: Vec<_> = [client()].into_iter().chain(more).collect();
        let answer = answer(&mut h, kind, &asked).unwrap();
        let get = |code: u16| answer.opts().get(OptionCode::from(code)).cloned();
        assert_eq!(get(23), Some(DhcpOption::DomainNameServers(vec![own])));
        assert!(get(59).is_some() && get(24).is_some());
        // What would not fit any link of IPv6 is left out.
        assert!(get(200).is_some() && get(201).is_none() && get(202).is_some());
    }
}
