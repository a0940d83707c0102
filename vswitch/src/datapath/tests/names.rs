//! Who is told what of names, read as a resolver would?

use std::net::IpAddr;

use hostconfig::{
    Section, SectionKey,
    network::{Dhcp6, Named},
};
use net::{
    Consumed, DropReason, Headers, Originated,
    testkit::{FrameBuilder, mac},
};
use simple_dns::{
    CLASS, Name, Packet, PacketFlag, Question, RCODE, TYPE,
    rdata::{OPT, RData},
};

use super::harness::*;

const SERVICE: [&str; 2] = ["169.254.169.254", "fe80::a9fe:a9fe"];

fn addr(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// Ports 1 and 2 here, 9 elsewhere; 1 is `web`, 9 is `db`. The subnets name these name servers.
fn conf(servers: &[&str]) -> Conf {
    let mut c = Conf::new();
    c.web(17, 53).port(2, &[GROUP]).far(9);
    c.port_with(1, &[GROUP], |p| p.dns_name = Some("web".to_owned()));
    rename(&mut c, "db");
    let key = SectionKey::Network(id(NET));
    let Section::Network(mut network) = c.0.sections[&key].body().clone() else {
        unreachable!("it is a network's key")
    };
    network.domain = "blue.example".to_owned();
    let all: Vec<_> = servers.iter().map(|s| addr(s)).collect();
    let dhcp = network.subnets[0].dhcp.as_mut().unwrap();
    dhcp.dns = all
        .iter()
        .filter_map(|a| match a {
            IpAddr::V4(a) => Some(*a),
            IpAddr::V6(_) => None,
        })
        .collect();
    let v6 = all.iter().filter_map(|a| match a {
        IpAddr::V4(_) => None,
        IpAddr::V6(a) => Some(*a),
    });
    network.subnets[1].dns6 = v6.collect();
    network.subnets[1].dhcp6 = Some(Dhcp6 {
        server_mac: mac(0xd000),
        lease_seconds: None,
        domain: network.domain.clone(),
    });
    c.put(Section::Network(network));
    c
}

/// The same, with what the network's section says besides.
fn with(mut c: Conf, alter: impl FnOnce(&mut hostconfig::Network)) -> Conf {
    let key = SectionKey::Network(id(NET));
    let Section::Network(mut network) = c.0.sections[&key].body().clone() else {
        unreachable!("it is a network's key")
    };
    alter(&mut network);
    c.put(Section::Network(network));
    c
}

fn named(name: &str, at: &str) -> Named {
    Named {
        name: name.to_owned(),
        addr: addr(at),
    }
}

fn rename(c: &mut Conf, name: &str) {
    let key = SectionKey::Endpoint(id(9));
    let Section::Endpoint(mut endpoint) = c.0.sections[&key].body().clone() else {
        unreachable!("it is an endpoint's key")
    };
    endpoint.dns_name = Some(name.to_owned());
    c.put(Section::Endpoint(endpoint));
}

fn question(name: &str, of: TYPE) -> Packet<'_> {
    let mut message = Packet::new_query(0x1234);
    message.set_flags(PacketFlag::RECURSION_DESIRED);
    let question = Question::new(Name::new(name).unwrap(), of.into(), CLASS::IN.into(), false);
    message.questions.push(question);
    message
}

/// From port 2 to this address, from this source.
fn frame(from: IpAddr, to: IpAddr, message: &[u8]) -> FrameBuilder {
    FrameBuilder::udp(!to.is_ipv4(), 4000, 53)
        .macs(mac(2), mac(0xd000))
        .addrs(from, to)
        .payload(message)
}

fn to_service(v6: bool, message: &[u8]) -> FrameBuilder {
    let from = if v6 {
        mac(2).link_local().into()
    } else {
        ip(2, false)
    };
    frame(from, addr(SERVICE[usize::from(v6)]), message)
}

/// What a resolver makes of an answer.
#[derive(Debug, PartialEq)]
struct Told {
    code: RCODE,
    addrs: Vec<IpAddr>,
    names: Vec<String>,
}

fn told(frame: &[u8], from: IpAddr) -> Told {
    let (headers, key) = Headers::parse(frame).unwrap();
    assert_eq!((key.src_addr(), key.l4_src, key.l4_dst), (from, 53, 4000));
    assert_eq!(key.dst_mac(), mac(2));
    let message = Packet::parse(&frame[usize::from(headers.payload_at)..]).unwrap();
    assert_eq!(message.id(), 0x1234);
    assert!(message.has_flags(PacketFlag::RESPONSE | PacketFlag::RECURSION_DESIRED));
    let mut told = Told {
        code: message.rcode(),
        addrs: vec![],
        names: vec![],
    };
    for record in &message.answers {
        assert_eq!((record.ttl, record.class), (0, CLASS::IN));
        if let RData::A(a) = &record.rdata {
            told.addrs.push(IpAddr::V4(a.address.into()));
        } else if let RData::AAAA(a) = &record.rdata {
            told.addrs.push(IpAddr::V6(a.address.into()));
        } else if let RData::PTR(name) = &record.rdata {
            told.names.push(name.0.to_string());
        } else {
            panic!("no such record: {record:?}");
        }
    }
    told
}

/// Asks the switch, by both families: they must say the same.
fn ask(h: &mut Host, name: &str, of: TYPE) -> Told {
    let message = question(name, of).build_bytes_vec().unwrap();
    let [four, six] = [false, true].map(|v6| {
        let got = h.from(2, &to_service(v6, &message));
        assert_eq!(got.len(), 1, "{name}");
        assert_eq!(got[0].0, At::Port(2));
        told(&got[0].1, addr(SERVICE[usize::from(v6)]))
    });
    assert_eq!(four, six);
    four
}

fn found(addrs: &[IpAddr]) -> Told {
    Told {
        code: RCODE::NoError,
        addrs: addrs.to_vec(),
        names: vec![],
    }
}

fn none(code: RCODE) -> Told {
    Told { code, ..found(&[]) }
}

#[test]
fn names_of_a_networks_ports_are_told_wherever_they_are() {
    let mut h = Host::new(&conf(&[]));
    for (name, n) in [
        ("web.blue.example", 1),
        ("WEB.Blue.Example", 1),
        ("web", 1),
        ("db.blue.example", 9),
        ("host-10-0-0-9.blue.example", 9),
        ("host-10-0-0-2", 2),
    ] {
        assert_eq!(ask(&mut h, name, TYPE::A), found(&[ip(n, false)]), "{name}");
    }
    for (name, n) in [("web.blue.example", 1), ("host-fd00--9.blue.example", 9)] {
        assert_eq!(ask(&mut h, name, TYPE::AAAA), found(&[ip(n, true)]));
    }
    // There is such a name, but nothing of that kind.
    for (name, of) in [
        ("host-10-0-0-2", TYPE::AAAA),
        ("web", TYPE::MX),
        ("blue.example", TYPE::SOA),
    ] {
        assert_eq!(ask(&mut h, name, of), found(&[]), "{name}");
    }
    for name in [
        "nobody.blue.example",
        "a.web.blue.example",
        "nobody",
        "host-10-0-0-77",
    ] {
        assert_eq!(ask(&mut h, name, TYPE::A), none(RCODE::NameError), "{name}");
    }
    for (name, is) in [
        ("9.0.0.10.in-addr.arpa", "db.blue.example"),
        ("2.0.0.10.in-addr.arpa", "host-10-0-0-2.blue.example"),
    ] {
        let called = ask(&mut h, name, TYPE::PTR);
        assert_eq!(called.names, [is]);
    }
    let six = "1.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.d.f.ip6.arpa";
    assert_eq!(ask(&mut h, six, TYPE::PTR).names, ["web.blue.example"]);
    let gone = ask(&mut h, "77.0.0.10.in-addr.arpa", TYPE::PTR);
    assert_eq!(gone, none(RCODE::NameError));
    // Nobody else is there to ask.
    for name in [
        "example.org",
        "1.1.168.192.in-addr.arpa",
        "blue.example.org",
    ] {
        assert_eq!(ask(&mut h, name, TYPE::A), none(RCODE::Refused), "{name}");
    }
    let ledger = h.dp.ledger();
    let asked = ledger.consumed[Consumed::Dns.index()];
    assert!(asked > 40);
    assert_eq!(ledger.originated[Originated::Dns.index()], asked);
    assert!(h.dp.conntrack().is_empty());
}

#[test]
fn names_follow_changes_of_ports_and_networks() {
    let mut c = conf(&[]);
    let mut h = Host::new(&c);
    assert_eq!(ask(&mut h, "db", TYPE::A), found(&[ip(9, false)]));
    rename(&mut c, "store.example.org.");
    h.apply(&c);
    assert_eq!(ask(&mut h, "db", TYPE::A), none(RCODE::NameError));
    assert_eq!(
        ask(&mut h, "store.example.org", TYPE::A),
        found(&[ip(9, false)])
    );
    // Two ports of a name.
    rename(&mut c, "web");
    h.apply(&c);
    let both = ask(&mut h, "web", TYPE::A);
    assert_eq!(both.addrs.len(), 2);
    c.0.sections.remove(&SectionKey::Endpoint(id(9)));
    h.apply(&c);
    assert_eq!(ask(&mut h, "web", TYPE::A), found(&[ip(1, false)]));
    assert_eq!(
        ask(&mut h, "host-10-0-0-9", TYPE::A),
        none(RCODE::NameError)
    );
}

#[test]
fn what_a_network_does_not_know_its_name_server_is_asked() {
    for v6 in [false, true] {
        let mut h = Host::new(&conf(&["10.0.0.9", "fd00::9"]));
        let server = ip(9, v6);
        let elsewhere = question("example.org", TYPE::A).build_bytes_vec().unwrap();
        let got = h.from(2, &to_service(v6, &elsewhere));
        let asked = FrameBuilder::udp(v6, 4000, 53)
            .macs(mac(2), mac(9))
            .addrs(ip(2, v6), server)
            .payload(&elsewhere);
        assert_eq!(got, [(At::Vtep(REMOTE.to_owned()), asked.build())]);
        // Of the same flow: what the network knows is answered here.
        let here = question("web", TYPE::A).build_bytes_vec().unwrap();
        let got = h.from(2, &to_service(v6, &here));
        assert_eq!(got.len(), 1);
        let service = addr(SERVICE[usize::from(v6)]);
        assert_eq!(told(&got[0].1, service), found(&[ip(1, false)]));
        // The answer comes from whom it was asked of, as far as the workload sees.
        let mut reply = Packet::new_reply(0x1234);
        reply.set_flags(PacketFlag::RECURSION_DESIRED);
        *reply.rcode_mut() = RCODE::NameError;
        let reply = reply.build_bytes_vec().unwrap();
        let from = |n: u16| {
            FrameBuilder::udp(v6, 53, 4000)
                .macs(mac(n), mac(2))
                .addrs(ip(n, v6), ip(2, v6))
                .payload(&reply)
        };
        let got = h.enter(h.tunnel(), &[from(9).build()]);
        assert_eq!(got.len(), 1);
        assert_eq!(told(&got[0].1, service), none(RCODE::NameError));
        // A name server is not asked what it asks itself.
        let mut alone = Host::new(&conf(&["10.0.0.2", "fd00::2"]));
        let got = alone.from(2, &to_service(v6, &elsewhere));
        assert_eq!(told(&got[0].1, service), none(RCODE::Refused));
        // Another's is none.
        let before = h.dropped(DropReason::SecurityGroupIngress);
        assert_eq!(h.from(1, &from(1)), []);
        assert_eq!(h.dropped(DropReason::SecurityGroupIngress), before + 1);
    }
}

#[test]
fn questions_to_a_name_server_are_answered_on_their_way() {
    for v6 in [false, true] {
        let mut h = Host::new(&conf(&["10.0.0.9", "fd00::9"]));
        let server = ip(9, v6);
        let ask = |name: &str| {
            let message = question(name, TYPE::A).build_bytes_vec().unwrap();
            let frame = FrameBuilder::udp(v6, 4000, 53);
            frame
                .macs(mac(2), mac(9))
                .addrs(ip(2, v6), server)
                .payload(&message)
        };
        let got = h.from(2, &ask("web.blue.example"));
        assert_eq!(got.len(), 1);
        assert_eq!(told(&got[0].1, server), found(&[ip(1, false)]));
        let other = ask("example.org");
        let passed = [(At::Vtep(REMOTE.to_owned()), other.build())];
        assert_eq!(h.from(2, &other), passed);
        // What is no question goes its way too, and so does what asks a port that is no name server.
        let noise = ask("web").payload(b"no question");
        assert_eq!(h.places(2, &noise).len(), 1);
        let message = question("web", TYPE::A).build_bytes_vec().unwrap();
        let stranger = between(FrameBuilder::udp(v6, 4000, 53).payload(&message), v6, 2, 1);
        assert_eq!(h.from(2, &stranger), [(At::Port(1), stranger.build())]);
    }
}

#[test]
fn what_is_no_question_is_refused() {
    let mut h = Host::new(&conf(&[]));
    let good = question("web", TYPE::A).build_bytes_vec().unwrap();
    let mut said = |message: &[u8]| {
        let got = h.from(2, &to_service(false, message));
        let code = got.first().map(|(_, frame)| {
            let (headers, _) = Headers::parse(frame).unwrap();
            frame[usize::from(headers.payload_at) + 3] & 15
        });
        (code, h.dropped(DropReason::MalformedDns))
    };
    let with = |at: usize, value: u8| {
        let mut message = good.clone();
        message[at] = value;
        message
    };
    assert_eq!(said(&with(2, 0x81)), (None, 1), "an answer");
    assert_eq!(said(b"short"), (None, 2));
    assert_eq!(said(&with(2, 0x29)), (Some(4), 2), "an update");
    for (at, value) in [
        (5, 2),
        (4, 255),
        (7, 1),
        (8, 255),
        (11, 3),
        (12, 0xc0),
        (12, 70),
    ] {
        assert_eq!(said(&with(at, value)), (Some(1), 2), "{at} is {value}");
    }
    assert_eq!(said(&good[..good.len() - 1]), (Some(1), 2), "cut off");
    let mut new = question("web", TYPE::A);
    *new.opt_mut() = Some(OPT {
        opt_codes: vec![],
        udp_packet_size: 4096,
        version: 1,
    });
    assert_eq!(
        said(&new.build_bytes_vec().unwrap()),
        (Some(0), 2),
        "its rest is in EDNS"
    );
}

fn by_tcp(v6: bool, to: u16) -> FrameBuilder {
    let from = ip(2, v6);
    FrameBuilder::tcp(v6, 4000, to)
        .flags(net::testkit::tcp::SYN)
        .macs(mac(2), mac(0xd000))
        .addrs(from, addr(SERVICE[usize::from(v6)]))
}

#[test]
fn by_tcp_the_switch_is_asked_and_asks_in_the_workloads_name() {
    use net::testkit::tcp::{ACK, SYN};
    for v6 in [false, true] {
        let service = addr(SERVICE[usize::from(v6)]);
        for servers in [&[][..], &["10.0.0.9", "fd00::9"]] {
            let mut h = Host::new(&conf(servers));
            assert_eq!(h.from(2, &by_tcp(v6, 53)), []);
            let taken = h.take_metadata();
            let [(2, taken)] = &taken[..] else {
                panic!("{taken:?}")
            };
            assert_eq!(taken.from, (ip(2, v6), 4000).into());
            assert_eq!(taken.to, (service, 53).into());
            assert!(taken.opens && h.dp.conntrack().is_empty());
        }
        let mut h = Host::new(&conf(&[]));
        assert_eq!(h.from(2, &by_tcp(v6, 54)), [], "there is nobody to ask");
        assert_eq!(h.dropped(DropReason::NoListener), 1);
        let mut h = Host::new(&conf(&["10.0.0.9", "fd00::9"]));
        let asks = by_tcp(v6, 54).seq(100, 0);
        let asked = FrameBuilder::tcp(v6, 4000, 53)
            .flags(SYN)
            .seq(100, 0)
            .macs(mac(2), mac(9))
            .addrs(ip(2, v6), ip(9, v6));
        let got = h.send_as(2, &asks.build());
        assert_eq!(got, [(At::Vtep(REMOTE.to_owned()), asked.build())]);
        let answer = |flags| {
            let frame = FrameBuilder::tcp(v6, 53, 4000)
                .flags(flags)
                .seq(500, 101)
                .macs(mac(9), mac(2))
                .addrs(ip(9, v6), ip(2, v6));
            frame.build()
        };
        for flags in [SYN | ACK, ACK] {
            assert_eq!(
                h.enter(h.tunnel(), &[answer(flags)]),
                [],
                "it is not the workload's"
            );
            let taken = h.take_metadata();
            let [(2, taken)] = &taken[..] else {
                panic!("{taken:?}")
            };
            assert_eq!(taken.from, (service, 54).into());
            assert_eq!(taken.to, (ip(2, v6), 4000).into());
            let next = by_tcp(v6, 54).flags(ACK).seq(101, 501);
            assert_eq!(h.send_as(2, &next.build()).len(), 1);
        }
        h.dp.ledger().balanced().unwrap();
        // A group that lets the workload ask nobody lets nobody ask in its name.
        let mut silent = conf(&["10.0.0.9", "fd00::9"]);
        silent.group(GROUP, true, vec![]).port(2, &[GROUP]);
        let mut h = Host::new(&silent);
        assert_eq!(h.send_as(2, &asks.build()), []);
        assert_eq!(h.dropped(DropReason::SecurityGroupEgress), 1);
    }
}

#[test]
fn what_does_not_fit_is_asked_for_again() {
    let mut c = conf(&[]);
    for n in 100..140 {
        c.far(n);
        let key = SectionKey::Endpoint(id(u128::from(n)));
        let Section::Endpoint(mut endpoint) = c.0.sections[&key].body().clone() else {
            unreachable!("it is an endpoint's key")
        };
        endpoint.dns_name = Some("many".to_owned());
        c.put(Section::Endpoint(endpoint));
    }
    let mut h = Host::new(&c);
    let mut message = question("many", TYPE::AAAA);
    let plain = message.build_bytes_vec().unwrap();
    *message.opt_mut() = Some(OPT {
        opt_codes: vec![],
        udp_packet_size: 1232,
        version: 0,
    });
    let large = message.build_bytes_vec().unwrap();
    for (asked, answers, cut) in [(plain, 0, true), (large, 32, false)] {
        let got = h.from(2, &to_service(false, &asked));
        let (headers, _) = Headers::parse(&got[0].1).unwrap();
        let reply = &got[0].1[usize::from(headers.payload_at)..];
        let reply = Packet::parse(reply).unwrap();
        assert_eq!(reply.answers.len(), answers);
        assert_eq!(reply.has_flags(PacketFlag::TRUNCATION), cut);
        assert_eq!(reply.opt().is_some(), !cut);
    }
}

#[test]
fn a_port_gets_as_many_answers_as_of_any_kind() {
    let mut h = Host::new(&conf(&[]));
    let message = question("web", TYPE::A).build_bytes_vec().unwrap();
    for _ in 0..1100 {
        h.from(2, &to_service(false, &message));
    }
    assert_eq!(h.dropped(DropReason::OriginateLimit), 100);
}

#[test]
fn explain_says_who_is_asked() {
    use super::super::explain::explain_key;
    for (servers, says, does) in [
        (&["10.0.0.9"][..], "is asked of 10.0.0.9", "resolve"),
        (&[], "a name server of network blue", "answer_names"),
    ] {
        let h = Host::new(&conf(servers));
        let message = question("web", TYPE::A).build_bytes_vec().unwrap();
        let frame = to_service(false, &message).build();
        let (_, mut key) = Headers::parse(&frame).unwrap();
        key.set_origin(h.origin(2));
        let told = explain_key(&h.tables, &key, None, String::new(), h.now).to_string();
        assert!(told.contains(says) && told.contains(does), "{told}");
    }
}

#[test]
fn floating_ips_names_are_told_behind_those_of_ports() {
    let c = with(conf(&[]), |network| {
        network.names = vec![
            named("www.blue.example", "203.0.113.7"),
            named("WWW.blue.example", "203.0.113.8"),
            named("a.b.blue.example", "203.0.113.9"),
            named("web.blue.example", "203.0.113.10"),
        ];
    });
    let mut h = Host::new(&c);
    let both = found(&[addr("203.0.113.7"), addr("203.0.113.8")]);
    assert_eq!(ask(&mut h, "www.blue.example", TYPE::A), both);
    assert_eq!(ask(&mut h, "www", TYPE::A), both);
    assert_eq!(ask(&mut h, "www.blue.example", TYPE::AAAA), found(&[]));
    let deeper = ask(&mut h, "a.b.blue.example", TYPE::A);
    assert_eq!(deeper, found(&[addr("203.0.113.9")]));
    // A workload inside is reached inside.
    assert_eq!(ask(&mut h, "web", TYPE::A), found(&[ip(1, false)]));
    let called = ask(&mut h, "8.113.0.203.in-addr.arpa", TYPE::PTR);
    assert_eq!(called.names, ["www.blue.example"]);
    let nobody = ask(&mut h, "77.113.0.203.in-addr.arpa", TYPE::PTR);
    assert_eq!(nobody, none(RCODE::Refused));
    h.apply(&conf(&[]));
    assert_eq!(ask(&mut h, "www", TYPE::A), none(RCODE::NameError));
}

#[test]
fn the_operators_name_servers_are_asked_as_those_of_a_subnet_are() {
    for v6 in [false, true] {
        let c = with(conf(&[]), |network| {
            network.resolvers = vec![addr("10.0.0.9"), addr("fd00::9")];
        });
        let mut h = Host::new(&c);
        let elsewhere = question("example.org", TYPE::A).build_bytes_vec().unwrap();
        let got = h.from(2, &to_service(v6, &elsewhere));
        let asked = FrameBuilder::udp(v6, 4000, 53)
            .macs(mac(2), mac(9))
            .addrs(ip(2, v6), ip(9, v6))
            .payload(&elsewhere);
        assert_eq!(got, [(At::Vtep(REMOTE.to_owned()), asked.build())]);
        let here = question("web", TYPE::A).build_bytes_vec().unwrap();
        let got = h.from(2, &to_service(v6, &here));
        let service = addr(SERVICE[usize::from(v6)]);
        assert_eq!(told(&got[0].1, service), found(&[ip(1, false)]));
    }
}
