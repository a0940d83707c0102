//! What does the switch answer itself, and to whom?

use dhcproto::{
    Decodable, Decoder, Encodable,
    v4::{DhcpOption, Message, MessageType, OptionCode, UnknownOption},
};
use hostconfig::Location;
use net::{
    DropReason, Headers, Mac,
    testkit::{FrameBuilder, mac},
};

use super::harness::*;

fn conf() -> Conf {
    let mut conf = Conf::new();
    conf.web(6, 80).port(1, &[GROUP]).port(2, &[GROUP]).far(9);
    conf.endpoint(50, Location::Virtual);
    conf
}

fn v4(n: u16) -> std::net::Ipv4Addr {
    format!("10.0.0.{n}").parse().unwrap()
}

#[test]
fn arp_is_answered_for_whom_the_controller_knows() {
    let mut h = Host::new(&conf());
    for n in [2, 9, 50] {
        let ask = FrameBuilder::arp(1, (mac(1), v4(1)), (Mac::ZERO, v4(n)));
        let got = h.enter(h.origin(1), &[ask]);
        let answer = FrameBuilder::arp(2, (mac(n), v4(n)), (mac(1), v4(1)));
        assert_eq!(got, [(At::Port(1), answer)]);
    }
    // Nobody known: everyone is asked. For its own address: everyone hears.
    for n in [77, 1] {
        let ask = FrameBuilder::arp(1, (mac(1), v4(1)), (Mac::ZERO, v4(n)));
        let got = h.enter(h.origin(1), &[ask]);
        assert_eq!(got.len(), 2, "{n}");
        assert!(got.iter().all(|(at, _)| *at != At::Port(1)));
    }
    assert_eq!(h.dp.ledger().consumed[net::Consumed::Arp.index()], 3);
}

#[test]
fn neighbors_are_advertised_and_duplicates_found() {
    let mut h = Host::new(&conf());
    let own = ip6(1);
    let snm = (
        Mac::new([0x33, 0x33, 0xff, 0, 0, 9]),
        "ff02::1:ff00:9".parse().unwrap(),
    );
    let ask = FrameBuilder::neighbor(135, (mac(1), own), snm, ip6(9));
    let got = h.enter(h.origin(1), &[ask]);
    let answer = FrameBuilder::neighbor(136, (mac(9), ip6(9)), (mac(1), own), ip6(9));
    assert_eq!(got, [(At::Port(1), answer)]);
    // Somebody looks whether the address is free: it is not.
    let probe = FrameBuilder::neighbor(135, (mac(1), "::".parse().unwrap()), snm, ip6(9));
    let got = h.enter(h.origin(1), &[probe]);
    assert_eq!(got.len(), 1);
    let (_, key) = Headers::parse(&got[0].1).unwrap();
    assert_eq!(
        (key.dst_addr(), key.l4_src),
        ("ff02::1".parse().unwrap(), 136)
    );
    // For its own address: heard by all, answered by none.
    let own_probe = FrameBuilder::neighbor(135, (mac(1), "::".parse().unwrap()), snm, own);
    let got = h.enter(h.origin(1), &[own_probe]);
    assert!(got.iter().all(|(at, _)| *at != At::Port(1)) && got.len() == 2);
}

fn ip6(n: u16) -> std::net::Ipv6Addr {
    format!("fd00::{n:x}").parse().unwrap()
}

#[test]
fn virtual_addresses_answer_pings_and_nothing_else() {
    for v6 in [false, true] {
        let mut h = Host::new(&conf());
        let ping = between(FrameBuilder::echo(v6, 3).payload(b"hello"), v6, 1, 50);
        let got = h.from(1, &ping);
        let pong = between(FrameBuilder::echo_reply(v6, 3).payload(b"hello"), v6, 50, 1);
        assert_eq!(got, [(At::Port(1), pong.build())]);
        assert_eq!(h.places(1, &syn(v6, (1, 5), (50, 80))), []);
        assert_eq!(h.dropped(DropReason::NoListener), 1);
        assert!(h.dp.conntrack().is_empty());
    }
}

fn dhcp(kind: MessageType, options: &[DhcpOption]) -> FrameBuilder {
    let mut m = Message::default();
    m.set_chaddr(&mac(1).octets()).set_xid(0x1234);
    m.opts_mut().insert(DhcpOption::MessageType(kind));
    for o in options {
        m.opts_mut().insert(o.clone());
    }
    FrameBuilder::udp(false, 68, 67)
        .macs(mac(1), Mac::BROADCAST)
        .addrs(
            "0.0.0.0".parse().unwrap(),
            "255.255.255.255".parse().unwrap(),
        )
        .payload(&m.to_vec().unwrap())
}

fn answer(h: &mut Host, ask: &FrameBuilder) -> Option<Message> {
    let got = h.from(1, ask);
    assert!(got.len() <= 1);
    let (at, frame) = got.first()?;
    assert_eq!(*at, At::Port(1));
    let (headers, key) = Headers::parse(frame).unwrap();
    assert_eq!((key.l4_src, key.l4_dst), (67, 68));
    assert_eq!(key.src_mac(), mac(0xd000));
    let payload = &frame[usize::from(headers.payload_at)..];
    Some(Message::decode(&mut Decoder::new(payload)).unwrap())
}

#[test]
fn dhcp_gives_each_port_its_own_address() {
    let mut h = Host::new(&conf());
    let offer = answer(&mut h, &dhcp(MessageType::Discover, &[])).unwrap();
    assert_eq!(offer.opts().msg_type(), Some(MessageType::Offer));
    assert_eq!((offer.yiaddr(), offer.xid()), (v4(1), 0x1234));
    let get = |c| offer.opts().get(c).cloned();
    assert_eq!(
        get(OptionCode::SubnetMask),
        Some(DhcpOption::SubnetMask("255.255.255.0".parse().unwrap()))
    );
    assert_eq!(
        get(OptionCode::Router),
        Some(DhcpOption::Router(vec![v4(254)]))
    );
    assert_eq!(
        get(OptionCode::DomainNameServer),
        Some(DhcpOption::DomainNameServer(vec![v4(3)]))
    );
    assert_eq!(
        get(OptionCode::InterfaceMtu),
        Some(DhcpOption::InterfaceMtu(1450))
    );
    assert_eq!(
        get(OptionCode::AddressLeaseTime),
        Some(DhcpOption::AddressLeaseTime(3600))
    );
    let ask = |addr, server| {
        dhcp(
            MessageType::Request,
            &[
                DhcpOption::RequestedIpAddress(addr),
                DhcpOption::ServerIdentifier(server),
            ],
        )
    };
    let kind = |m: Option<Message>| m.and_then(|m| m.opts().msg_type());
    assert_eq!(
        kind(answer(&mut h, &ask(v4(1), v4(2)))),
        Some(MessageType::Ack)
    );
    assert_eq!(
        kind(answer(&mut h, &ask(v4(5), v4(2)))),
        Some(MessageType::Nak)
    );
    // Another server was chosen.
    assert_eq!(kind(answer(&mut h, &ask(v4(1), v4(99)))), None);
    assert_eq!(
        kind(answer(&mut h, &dhcp(MessageType::Inform, &[]))),
        Some(MessageType::Ack)
    );
    for silent in [MessageType::Release, MessageType::Decline] {
        assert_eq!(kind(answer(&mut h, &dhcp(silent, &[]))), None);
    }
    assert_eq!(kind(answer(&mut h, &dhcp(MessageType::Offer, &[]))), None);
    assert_eq!(h.dropped(DropReason::MalformedDhcp), 1);
}

/// RFC 2131 §4.4.5: a client renews by unicast, so it asks for the server's address. The gateway's is the gateway's to answer.
#[test]
fn whoever_renews_by_unicast_finds_the_server() {
    for (gateway, answered) in [(Some(v4(254)), true), (None, true), (Some(v4(2)), false)] {
        let mut conf = Conf::new();
        conf.web(6, 80).port(1, &[GROUP]).port(3, &[GROUP]);
        conf.gateway(gateway.map(Into::into));
        let mut h = Host::new(&conf);
        let ask = FrameBuilder::arp(1, (mac(1), v4(1)), (Mac::ZERO, v4(2)));
        let got = h.enter(h.origin(1), &[ask]);
        let answer = FrameBuilder::arp(2, (mac(0xd000), v4(2)), (mac(1), v4(1)));
        assert_eq!(got == [(At::Port(1), answer)], answered, "{got:?}");
        // Its address as its source, the server as its destination.
        let mut m = Message::default();
        m.set_chaddr(&mac(1).octets()).set_ciaddr(v4(1));
        m.opts_mut()
            .insert(DhcpOption::MessageType(MessageType::Request));
        let renewal = FrameBuilder::udp(false, 68, 67)
            .macs(mac(1), mac(0xd000))
            .addrs(v4(1).into(), v4(2).into())
            .payload(&m.to_vec().unwrap());
        let ack = self::answer(&mut h, &renewal).unwrap();
        assert_eq!(ack.opts().msg_type(), Some(MessageType::Ack));
        assert_eq!((ack.yiaddr(), ack.ciaddr()), (v4(1), v4(1)));
    }
    // A workload that has the address is its owner.
    let mut h = Host::new(&conf());
    let ask = FrameBuilder::arp(1, (mac(1), v4(1)), (Mac::ZERO, v4(2)));
    let answer = FrameBuilder::arp(2, (mac(2), v4(2)), (mac(1), v4(1)));
    assert_eq!(h.enter(h.origin(1), &[ask]), [(At::Port(1), answer)]);
}

#[test]
fn hostile_dhcp_messages_are_malformed_not_fatal() {
    let mut h = Host::new(&conf());
    let whole = dhcp(MessageType::Discover, &[DhcpOption::Hostname("x".into())]).build();
    let payload = whole[42..].to_vec();
    for cut in 0..payload.len() {
        let frame = FrameBuilder::udp(false, 68, 67)
            .macs(mac(1), Mac::BROADCAST)
            .addrs(
                "0.0.0.0".parse().unwrap(),
                "255.255.255.255".parse().unwrap(),
            );
        h.from(1, &frame.clone().payload(&payload[..cut]));
        let mut wild = payload.clone();
        wild[cut] ^= 0xff;
        h.from(1, &frame.payload(&wild));
    }
    assert!(h.dropped(DropReason::MalformedDhcp) > 0);
}

#[test]
fn what_nobody_asks_for_costs_a_client_no_answer() {
    let mut h = Host::new(&conf());
    // Each is shorter than its kind, or no name: a FQDN, times of lease queries, a network interface, rapid commit, a search list.
    for code in [81, 152, 153, 154, 155, 94, 80, 119] {
        let odd = UnknownOption::new(OptionCode::from(code), vec![0xc1]);
        let ask = dhcp(MessageType::Discover, &[DhcpOption::Unknown(odd)]);
        let offer = answer(&mut h, &ask).unwrap();
        assert_eq!(offer.opts().msg_type(), Some(MessageType::Offer), "{code}");
    }
    // What is read must be whole.
    for code in [50, 54] {
        let odd = UnknownOption::new(OptionCode::from(code), vec![10, 0, 0]);
        let ask = dhcp(MessageType::Discover, &[DhcpOption::Unknown(odd)]);
        assert_eq!(answer(&mut h, &ask), None, "{code}");
    }
    assert_eq!(h.dropped(DropReason::MalformedDhcp), 2);
}

#[test]
fn whoever_asks_too_often_is_not_answered() {
    let settings = super::super::Settings {
        answers_per_second: 5,
        ..super::super::Settings::default()
    };
    let mut h = Host::with(&conf(), settings);
    let ask = FrameBuilder::arp(1, (mac(1), v4(1)), (Mac::ZERO, v4(9)));
    for _ in 0..9 {
        h.enter(h.origin(1), std::slice::from_ref(&ask));
    }
    assert_eq!(h.dropped(DropReason::OriginateLimit), 4);
    h.pass(std::time::Duration::from_secs(1));
    assert_eq!(h.enter(h.origin(1), &[ask]).len(), 1);
}

#[test]
fn a_port_is_told_its_name_and_its_own_options() {
    let mut c = Conf::new();
    let told = |code, data: Option<&[u8]>| hostconfig::DhcpOption {
        code,
        data: data.map(<[u8]>::to_vec),
    };
    c.port_with(1, &[], |p| {
        p.dns_name = Some("web.example.org.".to_owned());
        p.dhcp.v4 = vec![
            told(67, Some(b"pxe.0")),
            told(3, None),
            told(6, Some(&[9, 9, 9, 9])),
            told(224, Some(&[7; 200])),
            told(225, Some(&[8; 200])),
            told(226, Some(b"last")),
        ];
        p.dhcp.next_server = Some(v4(77));
    });
    let mut h = Host::new(&c);
    let offer = answer(&mut h, &dhcp(MessageType::Discover, &[])).unwrap();
    let get = |c: u8| offer.opts().get(OptionCode::from(c)).cloned();
    assert_eq!(get(12), Some(DhcpOption::Hostname("web".to_owned())));
    assert_eq!(get(67), Some(DhcpOption::BootfileName(b"pxe.0".to_vec())));
    assert_eq!(offer.fname(), Some(&b"pxe.0\0"[..]));
    assert_eq!((get(3), offer.siaddr()), (None, v4(77)));
    let servers = vec![[9, 9, 9, 9].into()];
    assert_eq!(get(6), Some(DhcpOption::DomainNameServer(servers)));
    // What a client takes is not exceeded: the second long one would.
    assert_eq!(
        (get(224).is_some(), get(225).is_some(), get(226).is_some()),
        (true, false, true)
    );
    assert!(offer.to_vec().unwrap().len() <= 548);
    let large = dhcp(MessageType::Discover, &[DhcpOption::MaxMessageSize(1500)]);
    let offer = answer(&mut h, &large).unwrap();
    assert!(offer.opts().get(OptionCode::from(225)).is_some());
    // Without a name of its own it has that of its address.
    c.port_with(1, &[], |p| p.dns_name = None);
    h.apply(&c);
    let offer = answer(&mut h, &dhcp(MessageType::Discover, &[])).unwrap();
    let name = offer.opts().get(OptionCode::Hostname).cloned();
    assert_eq!(name, Some(DhcpOption::Hostname("host-10-0-0-1".to_owned())));
    assert_eq!((offer.siaddr(), offer.fname()), (v4(2), None));
}

/// Who has no router of the fabric is told that the metadata service is on the link, and its default route with that (RFC 3442); who has one is
/// not, and so goes on believing option 3.
#[test]
fn who_has_no_router_is_told_where_metadata_is() {
    let told = |gateway: Option<u16>, router: bool| {
        let mut conf = Conf::new();
        conf.web(6, 80).port(1, &[GROUP]);
        conf.gateway(gateway.map(|n| v4(n).into()));
        if router {
            let addr = hostconfig::router::InterfaceAddr {
                addr: v4(254).into(),
                subnet: "10.0.0.0/24".parse().unwrap(),
            };
            conf.put(hostconfig::Section::Router(hostconfig::Router {
                id: id(3000),
                name: "r".into(),
                project: id(7),
                admin_up: true,
                interfaces: vec![hostconfig::router::Interface {
                    port: id(3001),
                    network: id(NET),
                    mac: mac(0x9000).try_into().unwrap(),
                    admin_up: true,
                    addrs: vec![addr],
                    firewall: None,
                }],
                routes: vec![],
                gateway: None,
                meters: vec![],
            }));
        }
        let mut h = Host::new(&conf);
        let offer = answer(&mut h, &dhcp(MessageType::Discover, &[])).unwrap();
        let opts = offer.opts();
        let routes = opts.iter().find(|(code, _)| u8::from(**code) == 121);
        routes.map(|(_, option)| {
            let mut bytes = vec![];
            let mut encoder = dhcproto::Encoder::new(&mut bytes);
            option.encode(&mut encoder).unwrap();
            bytes[2..].to_vec()
        })
    };
    let link = [32, 169, 254, 169, 254, 0, 0, 0, 0];
    let default = [0, 10, 0, 0, 254];
    assert_eq!(told(None, false), Some(link.to_vec()));
    assert_eq!(told(Some(254), false), Some([&link[..], &default].concat()));
    assert_eq!(told(Some(254), true), None);
}
