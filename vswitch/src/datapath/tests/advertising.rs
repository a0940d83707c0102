//! Do hosts hear of their routers, when and as they should?

use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv6Addr},
    time::Duration,
};

use hostconfig::{Network, Section, SectionKey, Subnet, network::RaMode};
use net::{
    DropReason, Headers, Mac, Originated,
    testkit::{FrameBuilder, mac},
};

use super::{
    harness::*,
    routing::{gate, network, router_with, two},
};

/// What an advertisement says.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Said {
    /// Whose it is, by the MAC address.
    router: Mac,
    /// To whom.
    to: Mac,
    flags: u8,
    seconds: u16,
    mtu: u32,
    /// Each prefix, with its flags.
    prefixes: Vec<(IpAddr, u8)>,
    /// The same of those that have no time left.
    faded: Vec<(IpAddr, u8)>,
    /// Name servers, and for how long.
    servers: Vec<IpAddr>,
    /// The search list, in labels filled up with zeros.
    search: Vec<u8>,
}

/// Reads an advertisement option by option.
fn said(frame: &[u8]) -> Said {
    let (headers, key) = Headers::parse(frame).unwrap();
    assert_eq!((key.l4_src, key.ip_ttl), (134, 255));
    let router = key.src_mac();
    assert_eq!(key.src_addr(), IpAddr::V6(router.link_local()));
    let icmp = &frame[usize::from(headers.l4_at)..];
    let half = |at: usize| u16::from_be_bytes([icmp[at], icmp[at + 1]]);
    let mut all = Said {
        router,
        to: key.dst_mac(),
        flags: icmp[5],
        seconds: half(6),
        mtu: 0,
        prefixes: vec![],
        faded: vec![],
        servers: vec![],
        search: vec![],
    };
    let mut left = &icmp[16..];
    while let Some((&kind, &units)) = left.first().zip(left.get(1)) {
        let (option, rest) = left.split_at(usize::from(units) * 8);
        left = rest;
        let word = |at: usize| u32::from_be_bytes(*option[at..].first_chunk().unwrap());
        let addr = |at: usize| IpAddr::from(*option[at..].first_chunk::<16>().unwrap());
        match kind {
            1 => assert_eq!(option[2..8], router.octets()),
            5 => all.mtu = word(4),
            3 => {
                assert_eq!(option[2], 64);
                let prefix = (addr(16), option[3]);
                match (word(4), word(8)) {
                    // RFC 4861 §6.2.1: thirty days and seven.
                    (2_592_000, 604_800) => all.prefixes.push(prefix),
                    (0, 0) => all.faded.push(prefix),
                    other => panic!("{other:?}"),
                }
            }
            25 => {
                assert_eq!(word(4), u32::from(all.seconds));
                all.servers.extend((8..option.len()).step_by(16).map(addr));
            }
            31 => {
                assert_eq!(word(4), u32::from(all.seconds));
                all.search.extend(&option[8..]);
            }
            other => panic!("no such option: {other}"),
        }
    }
    all
}

const ALL_NODES: Mac = Mac::new([0x33, 0x33, 0, 0, 0, 1]);

fn v6(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// What the first router says on the first network.
fn here(flags: u8, of_prefix: u8) -> Said {
    Said {
        router: gate(1, 0),
        to: ALL_NODES,
        flags,
        seconds: 1800,
        mtu: 1400,
        prefixes: vec![(v6("fd00::"), of_prefix)],
        faded: vec![],
        servers: vec![],
        search: vec![],
    }
}

fn solicit(own: Ipv6Addr) -> FrameBuilder {
    let all_routers = "ff02::2".parse().unwrap();
    let mut l4 = vec![133, 0, 0, 0, 0, 0, 0, 0];
    let sum = net::checksum::transport(own.into(), all_routers, 58, &l4);
    l4[2..4].copy_from_slice(&sum.to_be_bytes());
    FrameBuilder::other(true, 58)
        .macs(mac(1), Mac::new([0x33, 0x33, 0, 0, 0, 2]))
        .addrs(own.into(), all_routers)
        .ttl(255)
        .payload(&l4)
}

fn told(conf: &mut Conf, mode: Option<RaMode>) {
    network(conf, 0, 1400, |n| n.subnets[1].ra = mode);
}

/// The first router, with an interface on each of both networks.
fn router(conf: &mut Conf, change: impl FnOnce(&mut hostconfig::Router)) {
    router_with(conf, 1, &[(0, 254), (1, 254)], &[], change);
}

/// What the one workload of the first network hears now, unasked.
fn heard(h: &mut Host) -> Vec<Said> {
    let got = h.tick().0;
    let of = |(at, frame): &(At, Vec<u8>)| {
        assert_eq!(*at, At::Port(1), "the others are on another network");
        said(frame)
    };
    got.iter().map(of).collect()
}

/// Lets time pass until something is to be done; how long was it?
fn wait(h: &mut Host) -> Duration {
    let (got, wake) = h.tick();
    assert_eq!(got, []);
    let pause = wake.unwrap().since(h.now);
    h.pass(pause);
    pause
}

#[test]
fn who_solicits_is_told_how_addresses_are_got() {
    let mut conf = two(&[GROUP]);
    let mut h = Host::new(&conf);
    let ask = solicit(mac(1).link_local());
    let nobody = [At::Vtep(REMOTE.into())];
    assert_eq!(h.places(1, &ask), nobody, "it is for whoever knows");
    for (mode, flags, of_prefix) in [
        (RaMode::Slaac, 0, 0xc0),
        (RaMode::Stateless, 0x40, 0xc0),
        (RaMode::Stateful, 0x80, 0x80),
    ] {
        told(&mut conf, Some(mode));
        h.apply(&conf);
        for (own, to) in [
            (mac(1).link_local(), mac(1)),
            (Ipv6Addr::UNSPECIFIED, ALL_NODES),
        ] {
            let got = h.from(1, &solicit(own));
            let [(At::Port(1), answer)] = got.as_slice() else {
                panic!("one answer: {got:?}");
            };
            let answer = said(answer);
            assert_eq!(
                answer,
                Said {
                    to,
                    ..here(flags, of_prefix)
                }
            );
        }
    }
    for down in 0..2 {
        router(&mut conf, |r| match down {
            0 => r.admin_up = false,
            _ => r.interfaces[0].admin_up = false,
        });
        h.apply(&conf);
        assert_eq!(h.places(1, &ask), nobody, "it is down");
    }
    router(&mut conf, |_| {});
    told(&mut conf, None);
    h.apply(&conf);
    assert_eq!(h.places(1, &ask), nobody, "nothing is said of that subnet");
    let made = h.dp.ledger().originated[Originated::RouterAdvertisement.index()];
    assert_eq!(made, 6);
}

/// RFC 4861 §6.2.4: three soon, then at random between `MinRtrAdvInterval` and `MaxRtrAdvInterval`.
#[test]
fn hosts_are_told_unasked_soon_and_then_from_time_to_time() {
    let mut conf = two(&[GROUP]);
    let mut h = Host::new(&conf);
    assert_eq!(
        h.tick(),
        (vec![], None),
        "nobody wakes where no router speaks"
    );
    told(&mut conf, Some(RaMode::Slaac));
    h.apply(&conf);
    let mut pauses = vec![];
    for _ in 0..40 {
        assert_eq!(heard(&mut h), [here(0, 0xc0)]);
        pauses.push(wait(&mut h));
    }
    let (soon, later) = pauses.split_at(2);
    let between = |all: &[Duration], least, most| {
        let range = Duration::from_secs(least)..=Duration::from_secs(most);
        assert!(all.iter().all(|pause| range.contains(pause)), "{all:?}");
    };
    between(soon, 8, 16);
    between(later, 198, 600);
    let different: BTreeSet<_> = later.iter().collect();
    assert!(different.len() > 30, "they are drawn: {later:?}");
    // Something else to say is said soon, but not sooner than three seconds after the last.
    assert_eq!(heard(&mut h), [here(0, 0xc0)]);
    told(&mut conf, Some(RaMode::Stateless));
    h.apply(&conf);
    assert_eq!(wait(&mut h), Duration::from_secs(3));
    assert_eq!(heard(&mut h), [here(0x40, 0xc0)]);
    // What changes for others is no news.
    conf.port(77, &[GROUP]);
    h.apply(&conf);
    assert!(wait(&mut h) >= Duration::from_secs(8));
}

/// RFC 4862 §5.5.3 e: whoever hears it prefers other addresses from then on.
#[test]
fn a_prefix_that_goes_while_its_router_stays_is_deprecated_for_a_while() {
    let with = |conf: &mut Conf, second: Option<RaMode>| {
        network(conf, 0, 1400, |n| {
            n.subnets[1].ra = Some(RaMode::Slaac);
            let mut more = n.subnets[1].clone();
            more.id = id(NET * 10 + 5);
            more.cidr = "fd77::/64".parse().unwrap();
            more.gateway = Some(v6("fd77::fe"));
            more.ra = second;
            n.subnets.push(more);
        });
        router(conf, |r| {
            let mut more = r.interfaces[0].addrs[1];
            more.addr = v6("fd77::fe");
            more.subnet = "fd77::/64".parse().unwrap();
            r.interfaces[0].addrs.push(more);
        });
    };
    let mut conf = two(&[GROUP]);
    with(&mut conf, Some(RaMode::Slaac));
    let mut h = Host::new(&conf);
    let second = (v6("fd77::"), 0xc0);
    let both = Said {
        prefixes: vec![(v6("fd00::"), 0xc0), second],
        ..here(0, 0xc0)
    };
    assert_eq!(heard(&mut h), std::slice::from_ref(&both));
    h.pass(Duration::from_mins(1));
    with(&mut conf, None);
    h.apply(&conf);
    let less = Said {
        faded: vec![second],
        ..here(0, 0xc0)
    };
    let gone = h.now;
    let mut times = 0;
    loop {
        let all = heard(&mut h);
        if h.now.since(gone) >= Duration::from_hours(2) {
            assert_eq!(all, [here(0, 0xc0)], "it is forgotten");
            break;
        }
        assert_eq!(all, std::slice::from_ref(&less));
        times += 1;
        wait(&mut h);
    }
    assert!(times >= 12, "as often as the router speaks: {times}");
    // One that comes back is as good as before, at once.
    with(&mut conf, Some(RaMode::Slaac));
    h.apply(&conf);
    assert_eq!(heard(&mut h), []);
    wait(&mut h);
    assert_eq!(heard(&mut h), std::slice::from_ref(&both));
    h.pass(Duration::from_mins(1));
    with(&mut conf, None);
    h.apply(&conf);
    assert_eq!(heard(&mut h), std::slice::from_ref(&less));
    with(&mut conf, Some(RaMode::Slaac));
    h.apply(&conf);
    wait(&mut h);
    assert_eq!(heard(&mut h), [both]);
}

/// RFC 4861 §6.2.5: a Router Lifetime of zero.
#[test]
fn a_router_that_goes_says_so_at_once() {
    let gone = Said {
        seconds: 0,
        servers: vec![v6("fd00::53")],
        ..here(0, 0xc0)
    };
    for way in 0..5 {
        let mut conf = two(&[GROUP]);
        network(&mut conf, 0, 1400, |n| {
            n.subnets[1].ra = Some(RaMode::Slaac);
            n.subnets[1].dns6 = vec!["fd00::53".parse().unwrap()];
        });
        let mut h = Host::new(&conf);
        let lives = Said {
            seconds: 1800,
            ..gone.clone()
        };
        assert_eq!(heard(&mut h), std::slice::from_ref(&lives));
        match way {
            0 => router(&mut conf, |r| r.admin_up = false),
            1 => router(&mut conf, |r| r.interfaces[0].admin_up = false),
            2 => router(&mut conf, |r| drop(r.interfaces.remove(0))),
            3 => told(&mut conf, None),
            _ => {
                let key = SectionKey::Router(id(9001));
                assert!(conf.0.sections.remove(&key).is_some());
            }
        }
        h.apply(&conf);
        assert_eq!(heard(&mut h), std::slice::from_ref(&gone), "way {way}");
        h.pass(Duration::from_mins(11));
        assert_eq!(h.tick().0, [], "once");
        // It comes again.
        let mut again = two(&[GROUP]);
        network(&mut again, 0, 1400, |n| {
            n.subnets[1].ra = Some(RaMode::Slaac);
            n.subnets[1].dns6 = vec!["fd00::53".parse().unwrap()];
        });
        h.apply(&again);
        assert_eq!(heard(&mut h), [lives]);
    }
}

#[test]
fn routers_that_come_and_go_are_not_heard_more_often_than_hosts_bear() {
    let mut conf = two(&[GROUP]);
    told(&mut conf, Some(RaMode::Slaac));
    let mut h = Host::new(&conf);
    assert_eq!(heard(&mut h).len(), 1);
    for _ in 0..3 {
        router(&mut conf, |r| r.admin_up = false);
        h.apply(&conf);
        assert_eq!(heard(&mut h).len(), 1, "a last word is not held up");
        router(&mut conf, |_| {});
        h.apply(&conf);
        assert_eq!(heard(&mut h), []);
    }
    h.pass(Duration::from_secs(3));
    assert_eq!(heard(&mut h), [here(0, 0xc0)]);
}

/// Each subnet is spoken for by the router that has its gateway's address, so that no host is told twice.
#[test]
fn each_router_speaks_for_the_subnets_whose_gateway_it_is() {
    let mut conf = two(&[GROUP]);
    let second = Subnet {
        id: id(777),
        cidr: "fd77::/64".parse().unwrap(),
        gateway: Some(v6("fd77::1")),
        dhcp: None,
        dhcp6: None,
        ra: Some(RaMode::Stateful),
        dns6: vec!["fd77::53".parse().unwrap(), "fd77::54".parse().unwrap()],
    };
    let both = |n: &mut Network| {
        n.subnets[1].ra = Some(RaMode::Slaac);
        n.subnets.push(second.clone());
    };
    network(&mut conf, 0, 1400, both);
    // The second router is on both subnets, and the gateway of one.
    let on_both = |r: &mut hostconfig::Router| {
        let own = hostconfig::router::InterfaceAddr {
            addr: v6("fd77::1"),
            subnet: "fd77::/64".parse().unwrap(),
        };
        r.interfaces[0].addrs.push(own);
    };
    router_with(&mut conf, 2, &[(0, 253)], &[], on_both);
    let mut h = Host::new(&conf);
    let first = here(0, 0xc0);
    let other = Said {
        router: gate(2, 0),
        flags: 0x80,
        prefixes: vec![(v6("fd77::"), 0x80)],
        servers: vec![v6("fd77::53"), v6("fd77::54")],
        ..here(0, 0)
    };
    assert_eq!(heard(&mut h), [first.clone(), other.clone()]);
    let got = h.from(1, &solicit(mac(1).link_local()));
    let got: BTreeSet<_> = got.iter().map(|(_, f)| said(f).router.octets()).collect();
    assert_eq!(
        got,
        BTreeSet::from([gate(1, 0).octets(), gate(2, 0).octets()])
    );
    // With the first router its subnet is the other's, which says both now.
    router(&mut conf, |r| r.admin_up = false);
    h.apply(&conf);
    assert_eq!(
        heard(&mut h),
        [Said {
            seconds: 0,
            ..first
        }]
    );
    h.pass(Duration::from_secs(3));
    let all = Said {
        prefixes: vec![(v6("fd00::"), 0xc0), (v6("fd77::"), 0x80)],
        ..other
    };
    assert_eq!(heard(&mut h), [all]);
}

/// An advertisement as large as they come fits the smallest MTU of IPv6.
#[test]
fn an_advertisement_of_many_subnets_and_servers_fits() {
    let mut conf = two(&[GROUP]);
    let many = |n: &mut Network| {
        n.subnets.truncate(1);
        for k in 0..60u8 {
            n.subnets.push(Subnet {
                id: id(6000 + u128::from(k)),
                cidr: format!("fd00:{k:x}::/64").parse().unwrap(),
                gateway: Some(v6(&format!("fd00:{k:x}::"))),
                dhcp: None,
                dhcp6: None,
                ra: Some(RaMode::Slaac),
                dns6: (0..5)
                    .map(|s| format!("fd00:{k:x}::{s}").parse().unwrap())
                    .collect(),
            });
        }
    };
    network(&mut conf, 0, 1280, many);
    router(&mut conf, |r| {
        let on = (0..60u8).map(|k| hostconfig::router::InterfaceAddr {
            addr: v6(&format!("fd00:{k:x}::")),
            subnet: format!("fd00:{k:x}::/64").parse().unwrap(),
        });
        r.interfaces[0].addrs = on.collect();
    });
    let mut h = Host::new(&conf);
    let got = h.tick().0;
    let [(At::Port(1), frame)] = got.as_slice() else {
        panic!("one is told: {got:?}");
    };
    assert!(frame.len() <= 14 + 1280, "{}", frame.len());
    let all = said(frame);
    assert_eq!((all.prefixes.len(), all.servers.len()), (32, 8));
}

#[test]
fn each_port_hears_it_from_one_worker() {
    use super::super::{Settings, WorkerId};
    let mut conf = two(&[GROUP]);
    told(&mut conf, Some(RaMode::Slaac));
    for n in 20..30 {
        super::routing::workload(&mut conf, 0, n, &[GROUP]);
    }
    let mut all = vec![];
    for worker in 0..3 {
        let settings = Settings {
            worker: WorkerId(worker),
            workers: 3,
            ..Settings::default()
        };
        let mut h = Host::with(&conf, settings);
        let got = h.tick().0;
        assert!(!got.is_empty());
        all.extend(got.into_iter().map(|(at, _)| at));
    }
    all.sort();
    let ports = std::iter::once(1).chain(20..30).map(At::Port);
    assert_eq!(all, ports.collect::<Vec<_>>());
}

#[test]
fn what_a_host_that_is_down_would_hear_is_not_made() {
    let mut conf = two(&[GROUP]);
    told(&mut conf, Some(RaMode::Slaac));
    let key = SectionKey::Port(id(1));
    let Section::Port(mut port) = conf.0.sections[&key].body().clone() else {
        unreachable!("it is a port's key");
    };
    port.admin_up = false;
    conf.put(Section::Port(port));
    let mut h = Host::new(&conf);
    assert_eq!(h.tick().0, []);
    h.from(1, &solicit(mac(1).link_local()));
    assert_eq!(h.dropped(DropReason::AdminDown), 1);
    assert_eq!(h.dp.ledger().originated.iter().sum::<u64>(), 0);
}

#[test]
fn hosts_hear_in_which_domain_to_look_for_names() {
    let mut c = two(&[]);
    network(&mut c, 0, 1400, |n| {
        n.subnets[1].ra = Some(RaMode::Slaac);
        n.domain = "blue.example".to_owned();
    });
    router(&mut c, |_| {});
    let mut h = Host::new(&c);
    let mut search = b"\x04blue\x07example\0".to_vec();
    search.resize(16, 0);
    let said = Said {
        search,
        ..here(0, 0xc0)
    };
    assert_eq!(heard(&mut h), [said]);
}
