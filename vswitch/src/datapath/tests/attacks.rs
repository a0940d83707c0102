//! What does a neighbour's flood take from others? Nothing: they go on connecting, and lose no connection.

use std::{net::IpAddr, time::Duration};

use hostconfig::{
    Port,
    group::{Direction, Family, L4Match, Remote},
    port::AddressPair,
};
use net::{
    DropReason, FiveTuple, Id, PortRange, Prefix, Zone,
    ids::kind,
    testkit::{FrameBuilder, mac, tcp},
};
use nfv::conntrack::Entry;

use super::{
    super::Claims, super::Rates, super::Settings, super::WorkerId, super::cache, harness::*,
};

/// The flooder, who answers it, the victim, and the server that both may speak to.
pub(super) const FLOODER: u16 = 1;
const ACCOMPLICE: u16 = 2;
pub(super) const VICTIM: u16 = 3;
pub(super) const SERVER: u16 = 4;
/// More ports of the flooder.
const OTHERS: [u16; 2] = [5, 6];

/// Projects are told apart by the first bytes of their ids.
fn project(n: u128) -> Id<kind::Project> {
    id(n << 96)
}

fn of_flooder(p: &mut Port) {
    p.project = project(7);
    p.allowed_address_pairs = ["10.1.0.0/16", "fd01::/16"]
        .map(|prefix| AddressPair {
            mac: p.mac,
            prefix: prefix.parse().unwrap(),
        })
        .to_vec();
}

/// Everyone may speak to everyone.
pub(super) fn world(limit: u32) -> Conf {
    let mut conf = Conf::new();
    let mut rules = vec![];
    for family in [Family::V4, Family::V6] {
        for direction in [Direction::Egress, Direction::Ingress] {
            rules.push(rule(direction, family, None, L4Match::Any));
        }
    }
    conf.group(GROUP, true, rules);
    for n in [FLOODER, ACCOMPLICE, OTHERS[0], OTHERS[1]] {
        conf.port_with(n, &[GROUP], |p| {
            of_flooder(p);
            p.max_connections = limit;
        });
    }
    for n in [VICTIM, SERVER] {
        conf.port_with(n, &[GROUP], |p| p.project = project(9));
    }
    conf.far(9);
    conf
}

/// An address of the flooder's blocks.
fn block(v6: bool, n: u32) -> IpAddr {
    let [_, a, b, c] = n.to_be_bytes();
    if v6 {
        [0xfd01, 0, 0, 0, 0, u16::from(a), u16::from(b), u16::from(c)].into()
    } else {
        [10, 1, b, c].into()
    }
}

fn from_block(frame: FrameBuilder, v6: bool, n: u32, (from, to): (u16, u16)) -> FrameBuilder {
    frame
        .macs(mac(from), mac(to))
        .addrs(block(v6, n), ip(to, v6))
}

/// A SYN from an address of the flooder's, to the server.
pub(super) fn flood_syn(v6: bool, n: u32) -> FrameBuilder {
    let port = 1024 + u16::try_from(n % 60_000).unwrap();
    let frame = FrameBuilder::tcp(v6, port, 80).flags(tcp::SYN).seq(7, 0);
    from_block(frame, v6, n, (FLOODER, SERVER))
}

/// A hundred times four bursts of ten frames of a flood, between which the victim makes connections. Nothing of it may be lost.
fn victim_goes_on(h: &mut Host, mut flood: impl FnMut(&mut Host, u32)) {
    let mut open = vec![];
    let mut sent = 0;
    let mut burst = |h: &mut Host| {
        for _ in 0..10 {
            flood(h, sent);
            sent += 1;
        }
    };
    for step in 0..100u16 {
        let v6 = step % 2 == 1;
        let (a, b) = ((VICTIM, 20_000 + step), (SERVER, 80));
        burst(h);
        assert_eq!(
            h.places(VICTIM, &syn(v6, a, b)),
            [At::Port(SERVER)],
            "{step}"
        );
        burst(h);
        assert_eq!(
            h.places(SERVER, &syn_ack(v6, b, a)),
            [At::Port(VICTIM)],
            "{step}"
        );
        burst(h);
        assert_eq!(
            h.places(VICTIM, &ack(v6, a, b)),
            [At::Port(SERVER)],
            "{step}"
        );
        let datagram = |from, to| {
            let ports = if from == VICTIM {
                (20_000 + step, 53)
            } else {
                (53, 20_000 + step)
            };
            between(FrameBuilder::udp(v6, ports.0, ports.1), v6, from, to)
        };
        assert_eq!(
            h.places(VICTIM, &datagram(VICTIM, SERVER)),
            [At::Port(SERVER)]
        );
        burst(h);
        assert_eq!(
            h.places(SERVER, &datagram(SERVER, VICTIM)),
            [At::Port(VICTIM)]
        );
        open.push((v6, a, b));
        h.pass(Duration::from_millis(10));
        h.tick();
    }
    for (v6, a, b) in open {
        assert_eq!(h.places(VICTIM, &ack(v6, a, b)), [At::Port(SERVER)]);
    }
}

fn of_port(h: &Host, n: u16) -> u32 {
    h.dp.conntrack().of_port(net::PortId(n.into()))
}

#[test]
fn a_syn_flood_fills_its_own_limit_and_no_more() {
    for limit in [1, 300] {
        let mut h = Host::new(&world(limit));
        victim_goes_on(&mut h, |h, n| {
            let got = h.places(FLOODER, &flood_syn(n % 2 == 1, n));
            assert_eq!(got, [At::Port(SERVER)], "its own half-open make room");
        });
        assert_eq!(of_port(&h, FLOODER), limit);
        // What went is the flooder's, and what the victim has stays.
        assert_eq!(of_port(&h, VICTIM), 200);
    }
}

#[test]
fn datagrams_that_nobody_answers_are_half_open_too() {
    let mut h = Host::new(&world(300));
    victim_goes_on(&mut h, |h, n| {
        let v6 = n % 2 == 1;
        let frame = match n % 3 {
            0 => FrameBuilder::udp(v6, 4000, 53),
            1 => FrameBuilder::echo(v6, 7),
            _ => FrameBuilder::other(v6, 47),
        };
        h.places(FLOODER, &from_block(frame, v6, n, (FLOODER, SERVER)));
    });
    assert_eq!(of_port(&h, FLOODER), 300);
}

#[test]
fn a_spoofed_flood_takes_no_place_at_all() {
    let mut h = Host::new(&world(300));
    victim_goes_on(&mut h, |h, n| {
        let spoofed = flood_syn(false, n).addrs([10, 2, 0, 1].into(), ip(SERVER, false));
        assert_eq!(h.places(FLOODER, &spoofed), []);
    });
    assert_eq!(h.dropped(DropReason::PortSecurityIp), 4000);
    assert_eq!(of_port(&h, FLOODER), 0);
}

#[test]
fn a_flood_from_elsewhere_goes_round_in_the_receivers_own_limit() {
    let mut conf = world(300);
    conf.port_with(SERVER, &[GROUP], |p| {
        p.project = project(9);
        p.max_connections = 100;
    });
    let mut h = Host::new(&conf);
    victim_goes_on(&mut h, |h, n| {
        let v6 = n % 2 == 1;
        let syn = flood_syn(v6, n).macs(mac(9), mac(SERVER));
        assert_eq!(h.tunnelled(&syn), [At::Port(SERVER)]);
    });
    assert_eq!(of_port(&h, SERVER), 100);
}

/// Established connections can't be evicted: the tenant's limit is what keeps them from taking the table.
#[test]
fn a_tenant_with_many_ports_reaches_its_own_limit() {
    let settings = Settings {
        project_connections: 400,
        ..Settings::default()
    };
    let mut h = Host::with(&world(1000), settings);
    victim_goes_on(&mut h, |h, n| {
        let from = [FLOODER, OTHERS[0], OTHERS[1]][n as usize % 3];
        let v6 = n % 2 == 1;
        let ask = from_block(FrameBuilder::udp(v6, 4000, 53), v6, n, (from, ACCOMPLICE));
        if h.places(from, &ask) == [At::Port(ACCOMPLICE)] {
            let answer = FrameBuilder::udp(v6, 53, 4000)
                .macs(mac(ACCOMPLICE), mac(from))
                .addrs(ip(ACCOMPLICE, v6), block(v6, n));
            assert_eq!(h.places(ACCOMPLICE, &answer), [At::Port(from)]);
        }
    });
    assert_eq!(h.dp.conntrack().of_project(7), 400);
    assert_eq!(h.dropped(DropReason::ConntrackProjectFull), 4000 - 400);
}

/// A table that is too small for its ports' limits: who has most half-open gives.
#[test]
fn a_full_table_takes_from_who_fills_it() {
    let mut h = Host::new(&world(1000));
    victim_goes_on(&mut h, |h, n| {
        let from = [FLOODER, OTHERS[0], OTHERS[1]][n as usize % 3];
        let syn = flood_syn(n % 2 == 1, n).macs(mac(from), mac(SERVER));
        h.places(from, &syn);
    });
    assert_eq!(h.dp.conntrack().len(), h.dp.conntrack().capacity());
    assert_eq!(h.dropped(DropReason::ConntrackFull), 0);
}

/// Stateless ports whose rules make each packet read other bits: masks and megaflows stay few, whoever is tracked does not notice.
#[test]
fn many_masks_are_bounded() {
    let mut conf = world(300);
    let mut rules = vec![];
    for n in 0..=24u8 {
        let prefix = Prefix::containing([10, 0, 0, 4].into(), 8 + n).unwrap();
        let ports = PortRange::new(u16::from(n) * 3 + 1, 1 << (n % 16)).or(PortRange::new(1, 2));
        let mut r = rule(
            Direction::Egress,
            Family::V4,
            Some([6, 17][usize::from(n % 2)]),
            L4Match::Ports(ports.unwrap()),
        );
        r.id = id(7000 + u128::from(n));
        r.remote = Remote::Prefix(prefix);
        rules.push(r);
    }
    conf.group(2001, false, rules);
    conf.port_with(FLOODER, &[2001], of_flooder);
    conf.port_with(SERVER, &[GROUP], |p| p.project = project(9));
    let settings = Settings {
        megaflows: 128,
        ..Settings::default()
    };
    let mut h = Host::with(&conf, settings);
    victim_goes_on(&mut h, |h, n| {
        let port = u16::try_from(n.wrapping_mul(0x9e37) % 65_536).unwrap();
        let frame = match n % 2 {
            0 => FrameBuilder::tcp(false, 4000, port).flags(tcp::SYN),
            _ => FrameBuilder::udp(false, 4000, port),
        };
        let to: IpAddr = (0x0a00_0000 | 1u32.rotate_left(n % 24))
            .to_be_bytes()
            .into();
        let frame = frame.macs(mac(FLOODER), mac(SERVER));
        h.places(FLOODER, &frame.addrs(block(false, n), to));
        assert!(h.dp.megaflows().len() <= 128);
        assert!(h.dp.megaflows().masks() <= cache::MASKS);
    });
}

fn rates(misses: u32, connections: u32) -> Settings {
    Settings {
        rates: Rates {
            connections,
            misses,
            ..Rates::NONE
        },
        ..Settings::default()
    }
}

/// Four thousand frames of a flood in a second, of which a thousand pass (and a hundred that were saved): nobody else pays.
#[test]
fn misses_above_the_budget_are_the_flooders_loss() {
    let mut h = Host::with(&world(300), rates(1000, 0));
    victim_goes_on(&mut h, |h, n| {
        let spoofed = flood_syn(false, n).addrs([10, 2, 0, 1].into(), ip(SERVER, false));
        // A refused SYN is known by a megaflow; another address is another miss.
        let spoofed = spoofed.macs(mac(100 + u16::try_from(n % 5000).unwrap()), mac(SERVER));
        h.places(FLOODER, &spoofed);
    });
    let flooder = h.dense(FLOODER);
    let dropped = h.dropped(DropReason::MissBudget);
    assert!((2880..=2920).contains(&dropped), "{dropped}");
    let mut records = h.dp.drops().iter();
    let record = records.find(|r| r.refusal.reason == DropReason::MissBudget);
    assert_eq!(record.unwrap().refusal.port, Some(flooder));
    assert_eq!(record.unwrap().packets, dropped, "nobody else lost any");
}

#[test]
fn connections_above_the_budget_are_the_flooders_loss() {
    let mut h = Host::with(&world(300), rates(0, 1000));
    victim_goes_on(&mut h, |h, n| {
        h.places(FLOODER, &flood_syn(n % 2 == 1, n));
    });
    let dropped = h.dropped(DropReason::ConnectionBudget);
    assert!((2880..=2920).contains(&dropped), "{dropped}");
}

/// The receiver's budget for what comes from elsewhere is not the one for what it sends.
#[test]
fn a_flood_from_elsewhere_takes_nothing_from_what_its_receiver_sends() {
    let mut h = Host::with(&world(300), rates(1000, 0));
    victim_goes_on(&mut h, |h, n| {
        h.tunnelled(&flood_syn(n % 2 == 1, n).macs(mac(9), mac(SERVER)));
    });
    let (a, b) = ((SERVER, 30_000), (VICTIM, 80));
    assert_eq!(h.places(SERVER, &syn(false, a, b)), [At::Port(VICTIM)]);
    assert!(h.dropped(DropReason::MissBudget) > 1700);
}

/// When the rules change every connection is judged again: that is the switch's work, not the ports'.
#[test]
fn a_change_of_rules_takes_nothing_from_the_budgets() {
    let conf = world(300);
    let mut h = Host::with(&conf, rates(1000, 0));
    let mut open = vec![];
    for n in 0..100 {
        let (a, b) = ((VICTIM, 20_000 + n), (SERVER, 80));
        h.places(VICTIM, &syn(false, a, b));
        h.places(SERVER, &syn_ack(false, b, a));
        open.push((a, b));
    }
    for change in 0..50u128 {
        let mut conf = conf.clone();
        conf.group(2002 + change, true, vec![]);
        conf.port_with(SERVER, &[GROUP, 2002 + change], |p| p.project = project(9));
        h.apply(&conf);
        for (a, b) in &open {
            assert_eq!(h.places(VICTIM, &ack(false, *a, *b)), [At::Port(SERVER)]);
        }
    }
    assert_eq!(h.dropped(DropReason::MissBudget), 0);
}

/// All told: the entry, what finds it, what lists it, and the claim on its replies where they hash to another worker. At the worst size: one
/// more than what vectors double to.
#[test]
fn a_connection_takes_256_bytes_at_most() {
    const CONNECTIONS: u32 = (1 << 16) + 1;
    let count = CONNECTIONS as usize;
    let claims = Claims::new(count, 1);
    let settings = nfv::conntrack::Settings::default();
    let mut table = nfv::Conntrack::new(vec![Entry::default(); count], settings);
    let fill = |table: &mut nfv::Conntrack<Vec<Entry>>| {
        for n in 0..CONNECTIONS {
            let tuple = FiveTuple::new(17, (block(true, n), 1), (ip(9, true), 53));
            let side = |zone, tuple| {
                let entrance = nfv::conntrack::Entrance::Unknown;
                nfv::conntrack::SideEntry::new((Zone(zone), tuple), (mac(1), mac(2)), 0, entrance)
            };
            let new = nfv::conntrack::NewConn {
                sides: [side(1, tuple), side(1, tuple.reversed())],
                owner: nfv::conntrack::Owner {
                    port: net::PortId(1),
                    port_limit: CONNECTIONS,
                    project: 1,
                    project_limit: CONNECTIONS,
                },
                first: nfv::conntrack::TrackInput::Datagram,
                whole: true,
                segments: 1,
                bytes: 60,
            };
            table.insert(&new, net::Now::ZERO, |_| {}).unwrap();
            claims.claim(Zone(1), tuple, WorkerId(1)).unwrap();
        }
    };
    fill(&mut table);
    // All free again, and all taken again: the list of the free is as long as it gets.
    while !table
        .sweep(net::Now::from_nanos(u64::MAX), u32::MAX, |_| {})
        .finished
    {}
    assert!(table.is_empty());
    fill(&mut table);
    assert_eq!((table.len(), claims.len()), (count, count));
    let each = (table.memory_bytes() + claims.memory_bytes()).div_ceil(count);
    assert!(each <= 256, "{each} bytes");
}
