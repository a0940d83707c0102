use std::collections::HashMap;

use net::{FiveTuple, Now, TcpSegment, Zone, tcp::flag};
use proptest::prelude::*;

use super::*;

const MINUTE: u64 = 60_000_000_000;

fn settings() -> Settings {
    Settings {
        seed: 42,
        timeouts: Timeouts::default(),
    }
}

fn table(capacity: usize) -> Conntrack<Vec<Entry>> {
    Conntrack::new(vec![Entry::default(); capacity], settings())
}

fn tuple(proto: u8, n: u32) -> FiveTuple {
    let src = std::net::IpAddr::from((0x0a00_0000 + (n >> 8)).to_be_bytes());
    let port = u16::try_from(n & 0xff).unwrap();
    FiveTuple::new(proto, (src, 1000 + port), ("10.9.0.1".parse().unwrap(), 80))
}

fn sides(zones: (u32, u32), t: FiveTuple) -> [SideEntry; 2] {
    let mac = net::Mac::ZERO;
    [
        SideEntry::new((Zone(zones.0), t), (mac, mac), 1, Entrance::Unknown),
        SideEntry::new(
            (Zone(zones.1), t.reversed()),
            (mac, mac),
            2,
            Entrance::Unknown,
        ),
    ]
}

fn new_conn(zone: u32, t: FiveTuple, port: u32, port_limit: u32) -> NewConn {
    let syn = TcpSegment {
        flags: flag::SYN,
        window: 1000,
        ..TcpSegment::default()
    };
    NewConn {
        sides: sides((zone, zone), t),
        owner: Owner {
            port: PortId(port),
            port_limit,
            project: port / 10,
            project_limit: 1000,
        },
        first: if t.proto == 6 {
            TrackInput::Tcp(syn)
        } else {
            TrackInput::Datagram
        },
        whole: true,
        segments: 1,
        bytes: 100,
    }
}

fn none(_: &Entry) {
    panic!("nothing may go");
}

#[test]
fn a_connection_is_found_by_both_keys_and_by_no_other() {
    let mut ct = table(4);
    let t = tuple(17, 1);
    let mut new = new_conn(7, t, 1, 10);
    new.sides = sides((7, 8), t);
    let conn = ct.insert(&new, Now::ZERO, none).unwrap();
    let hit = |side| Some(Hit { conn, side });
    assert_eq!(ct.lookup(Zone(7), &t), hit(Side::Original));
    assert_eq!(ct.lookup(Zone(8), &t.reversed()), hit(Side::Reply));
    assert_eq!(ct.lookup(Zone(8), &t), None);
    assert_eq!(ct.lookup(Zone(7), &t.reversed()), None);
    let keys = [
        None,
        Some((Zone(8), t.reversed())),
        Some((Zone(9), t)),
        Some((Zone(7), t)),
    ];
    let mut hits = [hit(Side::Reply); 4];
    ct.lookup_batch(|at| keys[at], &mut hits);
    assert_eq!(hits, [None, hit(Side::Reply), None, hit(Side::Original)]);
    assert_eq!(
        ct.insert(&new, Now::ZERO, none),
        Err(Refused::Taken(Some(conn)))
    );
    assert_eq!([7, 8, 9].map(|z| ct.knows(Zone(z))), [true, true, false]);
    let entry = ct.close(conn).unwrap();
    assert_eq!([7, 8, 9].map(|z| ct.knows(Zone(z))), [false; 3]);
    assert_eq!(
        (entry.packets(Side::Original), entry.bytes(Side::Original)),
        (1, 100)
    );
    assert_eq!(
        (ct.lookup(Zone(7), &t), ct.close(conn), ct.len()),
        (None, None, 0)
    );
}

#[test]
fn one_key_for_both_sides_is_refused() {
    let mut ct = table(4);
    let a = ("10.0.0.1".parse().unwrap(), 5);
    let new = new_conn(1, FiveTuple::new(17, a, a), 1, 10);
    assert_eq!(ct.insert(&new, Now::ZERO, none), Err(Refused::Taken(None)));
}

#[test]
fn a_side_shows_other_ethernet_addresses_and_stays_what_it_is() {
    let mut table = table(4);
    let t = tuple(17, 1);
    let conn = table
        .insert(&new_conn(1, t, 1, 10), Now::ZERO, none)
        .unwrap();
    let ends = (net::testkit::mac(1), net::testkit::mac(2));
    table.set_ethernet(conn, Side::Reply, ends);
    let ends_of = |table: &Conntrack<Vec<Entry>>, side| {
        let side = *table.entry(conn).unwrap().side(side);
        (side.eth_src(), side.eth_dst())
    };
    assert_eq!(ends_of(&table, Side::Reply), ends);
    assert_eq!(
        ends_of(&table, Side::Original),
        (net::Mac::ZERO, net::Mac::ZERO)
    );
    // It is as sound as before, and found by the same keys.
    let (kept, found) = Conntrack::recover(table.into_storage(), 4, settings(), Now::ZERO);
    assert_eq!((found.kept, found.cleared), (1, 0));
    assert!(kept.lookup(Zone(1), &t.reversed()).is_some());
    assert_eq!(ends_of(&kept, Side::Reply), ends);
    // What is over takes nothing on.
    let mut table = kept;
    table.close(conn);
    table.set_ethernet(conn, Side::Reply, ends);
    assert_eq!(table.into_storage()[conn.index()], Entry::default());
}

#[test]
fn a_side_is_known_in_another_zone_where_no_other_is_known_by_its_tuple() {
    let mut table = table(4);
    let t = tuple(17, 1);
    let first = table.insert(&new_conn(1, t, 1, 10), Now::ZERO, none);
    let first = first.unwrap();
    let ends = (net::testkit::mac(1), net::testkit::mac(2));
    let way = (Zone(2), Entrance::Tunnel);
    assert!(!table.knows(Zone(2)));
    assert!(table.set_zone(first, Side::Reply, way, ends, 7));
    assert_eq!(table.lookup(Zone(1), &t.reversed()), None);
    let known = |table: &Conntrack<Vec<Entry>>| table.lookup(Zone(2), &t.reversed());
    let hit = Some(Hit {
        conn: first,
        side: Side::Reply,
    });
    assert_eq!(known(&table), hit);
    assert!(table.knows(Zone(1)) && table.knows(Zone(2)));
    let side = *table.entry(first).unwrap().side(Side::Reply);
    assert_eq!(
        (side.eth_src(), side.eth_dst(), side.program()),
        (ends.0, ends.1, 7)
    );
    assert_eq!(side.entrance(), Entrance::Tunnel);
    // Another has that key there already.
    let second = table.insert(&new_conn(3, t, 1, 10), Now::ZERO, none);
    let second = second.unwrap();
    let before = *table.entry(second).unwrap();
    assert!(!table.set_zone(second, Side::Reply, way, ends, 7));
    assert_eq!(*table.entry(second).unwrap(), before);
    // It is found so after a restart, and goes whole.
    let (mut kept, found) = Conntrack::recover(table.into_storage(), 4, settings(), Now::ZERO);
    assert_eq!((found.kept, found.cleared), (2, 0));
    assert_eq!(known(&kept), hit);
    kept.close(first);
    assert_eq!(known(&kept), None);
    assert!(!kept.knows(Zone(2)) && kept.knows(Zone(3)));
    assert!(!kept.set_zone(first, Side::Reply, way, ends, 7));
}

#[test]
fn translation_is_the_reverse_of_the_other_side() {
    let mut ct = table(4);
    let t = tuple(6, 1);
    let member = FiveTuple::new(
        6,
        (t.src_addr(), t.src_port),
        ("10.0.5.5".parse().unwrap(), 8080),
    );
    let mut new = new_conn(1, t, 1, 10);
    new.sides[1] = sides((1, 1), member)[1];
    let conn = ct.insert(&new, Now::ZERO, none).unwrap();
    let entry = ct.entry(conn).unwrap();
    assert_eq!(entry.translated(Side::Original), member);
    assert_eq!(entry.translated(Side::Reply), t.reversed());
    assert_eq!(
        entry.binding().unwrap().dst,
        ("10.0.5.5".parse().unwrap(), 8080)
    );
    assert_eq!(
        ct.lookup(Zone(1), &member.reversed()).unwrap().side,
        Side::Reply
    );
}

#[test]
fn silence_ends_a_connection_and_packets_put_it_off() {
    let mut ct = table(200);
    let now = Now::from_nanos(MINUTE);
    let live = ct
        .insert(&new_conn(1, tuple(17, 150), 1, 1000), now, none)
        .unwrap();
    for n in 0..100 {
        ct.insert(&new_conn(1, tuple(17, n), 1, 1000), now, none)
            .unwrap();
    }
    let later = Now::from_nanos(MINUTE + MINUTE / 2);
    let hit = Hit {
        conn: live,
        side: Side::Reply,
    };
    assert_eq!(
        ct.track(hit, &TrackInput::Datagram, (1, 60), later),
        Track::Ok
    );
    assert_eq!(ct.seconds_left(ct.entry(live).unwrap(), later), 180);
    let mut gone = 0;
    let first = ct.sweep(later, 50, |_| gone += 1);
    assert!(
        !first.finished && first.expired < 7,
        "the budget bounds the work: {first:?}"
    );
    while !ct.sweep(later, 50, |_| gone += 1).finished {}
    assert_eq!((gone, ct.len()), (100, 1));
    assert_eq!(ct.of_port(PortId(1)), 1);
    assert_eq!(ct.stats().expired, 100);
}

#[test]
fn at_the_ports_limit_its_own_half_open_go_and_the_established_stay() {
    let mut ct = table(100);
    let established = ct
        .insert(&new_conn(1, tuple(17, 0), 1, 3), Now::ZERO, none)
        .unwrap();
    let hit = Hit {
        conn: established,
        side: Side::Reply,
    };
    assert_eq!(
        ct.track(hit, &TrackInput::Datagram, (1, 1), Now::ZERO),
        Track::Ok
    );
    ct.insert(&new_conn(1, tuple(17, 500), 2, 3), Now::ZERO, none)
        .unwrap();
    let mut gone = vec![];
    for n in 1..6 {
        let new = new_conn(1, tuple(17, n), 1, 3);
        ct.insert(&new, Now::ZERO, |e| {
            gone.push(*e.side(Side::Original).tuple());
        })
        .unwrap();
        assert!(ct.of_port(PortId(1)) <= 3);
    }
    assert_eq!(
        gone,
        [tuple(17, 1), tuple(17, 2), tuple(17, 3)],
        "the oldest first"
    );
    assert!(ct.entry(established).is_some());
    let zero = new_conn(1, tuple(17, 99), 3, 0);
    assert_eq!(ct.insert(&zero, Now::ZERO, none), Err(Refused::PortFull));
}

#[test]
fn a_full_table_takes_from_the_greediest_port() {
    let mut ct = table(10);
    for n in 0..3 {
        ct.insert(&new_conn(1, tuple(17, n), 10, 100), Now::ZERO, none)
            .unwrap();
    }
    for n in 10..17 {
        ct.insert(&new_conn(1, tuple(17, n), 20, 100), Now::ZERO, none)
            .unwrap();
    }
    for n in 100..104 {
        let gone = |e: &Entry| assert_eq!(e.port(), PortId(20));
        ct.insert(&new_conn(1, tuple(17, n), 30, 100), Now::ZERO, gone)
            .unwrap();
    }
    assert_eq!(ct.of_port(PortId(20)), 3);
    for (conn, _) in ct.iter().map(|(c, e)| (c, *e)).collect::<Vec<_>>() {
        let hit = Hit {
            conn,
            side: Side::Reply,
        };
        assert_eq!(
            ct.track(hit, &TrackInput::Datagram, (1, 1), Now::ZERO),
            Track::Ok
        );
    }
    let new = new_conn(1, tuple(17, 200), 40, 100);
    assert_eq!(ct.insert(&new, Now::ZERO, none), Err(Refused::TableFull));
}

#[test]
fn a_projects_limit_counts_over_its_ports() {
    let mut ct = table(100);
    let new = |port, n| {
        let mut new = new_conn(1, tuple(17, n), port, 100);
        new.owner.project_limit = 4;
        new
    };
    for n in 0..3 {
        ct.insert(&new(1, n), Now::ZERO, none).unwrap();
    }
    ct.insert(&new(2, 10), Now::ZERO, none).unwrap();
    ct.insert(&new(2, 11), Now::ZERO, |e| assert_eq!(e.port(), PortId(1)))
        .unwrap();
    assert_eq!(ct.of_project(0), 4);
    ct.insert(&new(11, 20), Now::ZERO, none).unwrap();
}

#[test]
fn a_table_goes_on_where_another_process_left_it() {
    let mut ct = table(50);
    let now = Now::from_nanos(5 * MINUTE);
    for n in 0..20 {
        ct.insert(&new_conn(1, tuple(6, n), n, 100), now, none)
            .unwrap();
    }
    let cut_short = ct.lookup(Zone(1), &tuple(6, 3)).unwrap().conn;
    let twice = ct.lookup(Zone(1), &tuple(6, 4)).unwrap().conn;
    let closed = ct.lookup(Zone(1), &tuple(6, 5)).unwrap().conn;
    ct.close(closed).unwrap();
    let mut storage = ct.into_storage();
    storage[cut_short.index()].sides[1].tuple.dst_port ^= 1;
    storage[30] = storage[twice.index()];
    storage[31].state.flags = 255;
    let (mut ct, found) = Conntrack::recover(storage, 40, settings(), Now::from_nanos(MINUTE));
    assert_eq!(
        found,
        Recovered {
            kept: 18,
            cleared: 3
        }
    );
    assert_eq!(ct.lookup(Zone(1), &tuple(6, 3)), None);
    assert_eq!(
        ct.lookup(Zone(1), &tuple(6, 7).reversed()).unwrap().side,
        Side::Reply
    );
    assert_eq!(ct.of_port(PortId(7)), 1);
    for n in 100..132 {
        ct.insert(&new_conn(1, tuple(6, n), 60, 100), now, none)
            .unwrap();
    }
    assert_eq!(ct.len(), ct.capacity());
}

#[test]
fn a_quote_belongs_to_the_side_that_sent_it() {
    let mut ct = table(4);
    let conn = ct
        .insert(&new_conn(1, tuple(6, 1), 1, 10), Now::ZERO, none)
        .unwrap();
    let sender = |side| Hit { conn, side };
    assert!(ct.has_sent(sender(Side::Original), Some(0)));
    assert!(!ct.has_sent(sender(Side::Original), Some(5_000)));
    assert!(
        ct.has_sent(sender(Side::Original), None),
        "too short to tell"
    );
    ct.close(conn).unwrap();
    assert!(!ct.has_sent(sender(Side::Original), None));
}

#[derive(Debug, Clone)]
enum Op {
    Insert(u32, u32),
    Reply(u32),
    Close(u32),
    Wait(u64),
    Sweep(u32),
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        6 => (0u32..40, 0u32..4).prop_map(|(n, p)| Op::Insert(n, p)),
        2 => (0u32..40).prop_map(Op::Reply),
        2 => (0u32..40).prop_map(Op::Close),
        1 => (0u64..40).prop_map(Op::Wait),
        1 => (1u32..60).prop_map(Op::Sweep),
    ]
}

/// What a connection is to the model: port, answered, last seen.
type Model = HashMap<u32, (u32, bool, u32)>;

proptest! {
    #[test]
    fn the_table_agrees_with_a_plain_map(ops in prop::collection::vec(op(), 1..300)) {
        let mut ct = table(16);
        let mut model: Model = HashMap::new();
        let mut now = Now::from_nanos(MINUTE);
        let number = |e: &Entry| {
            let t = e.side(Side::Original).tuple();
            (u32::from_be_bytes(*t.src.last_chunk::<4>().unwrap()) - 0x0a00_0000) << 8
                | u32::from(t.src_port - 1000)
        };
        for op in ops {
            match op {
                Op::Insert(n, port) => {
                    let mut gone = vec![];
                    let result = ct.insert(&new_conn(1, tuple(17, n), port, 6), now, |e| gone.push(number(e)));
                    let of_port = |m: &Model| m.values().filter(|v| v.0 == port).count();
                    if model.contains_key(&n) {
                        prop_assert!(matches!(result, Err(Refused::Taken(Some(_)))));
                        continue;
                    }
                    for g in &gone {
                        let old = model.remove(g).unwrap();
                        prop_assert!(!old.1, "an answered connection was evicted");
                    }
                    match result {
                        Ok(_) => { model.insert(n, (port, false, now.seconds())); }
                        Err(Refused::PortFull) => {
                            prop_assert_eq!(of_port(&model), 6);
                            prop_assert!(model.values().all(|v| v.0 != port || v.1));
                        }
                        Err(Refused::TableFull) => prop_assert!(model.len() == 16 && model.values().all(|v| v.1)),
                        Err(other) => prop_assert!(false, "{other}"),
                    }
                    prop_assert!(of_port(&model) <= 6);
                }
                Op::Reply(n) => {
                    let hit = ct.lookup(Zone(1), &tuple(17, n).reversed());
                    prop_assert_eq!(hit.is_some(), model.contains_key(&n));
                    if let (Some(hit), Some(known)) = (hit, model.get_mut(&n)) {
                        prop_assert_eq!(ct.track(hit, &TrackInput::Datagram, (1, 1), now), Track::Ok);
                        (known.1, known.2) = (true, now.seconds());
                    }
                }
                Op::Close(n) => {
                    let hit = ct.lookup(Zone(1), &tuple(17, n));
                    prop_assert_eq!(hit.is_some(), model.remove(&n).is_some());
                    if let Some(hit) = hit {
                        prop_assert_eq!(number(&ct.close(hit.conn).unwrap()), n);
                    }
                }
                Op::Wait(seconds) => now = now + std::time::Duration::from_secs(seconds),
                Op::Sweep(budget) => {
                    let mut gone = vec![];
                    ct.sweep(now, budget, |e| gone.push(number(e)));
                    for g in gone {
                        let (_, answered, seen) = model.remove(&g).unwrap();
                        let limit = if answered { 180 } else { 30 };
                        prop_assert!(now.seconds() - seen >= limit);
                    }
                }
            }
            prop_assert_eq!(ct.len(), model.len());
            let mut found: Vec<u32> = ct.iter().map(|(_, e)| number(e)).collect();
            let mut known: Vec<u32> = model.keys().copied().collect();
            found.sort_unstable();
            known.sort_unstable();
            prop_assert_eq!(found, known);
        }
    }

    #[test]
    fn no_bytes_in_the_storage_break_the_table(
        seeds in prop::collection::vec(any::<u64>(), 1..12),
        flips in prop::collection::vec((0usize..12 * 192, any::<u8>()), 0..20),
    ) {
        use zerocopy::{FromBytes as _, IntoBytes as _};
        // Some entries of noise, some good ones with a few bytes wrong.
        let mut ct = table(12);
        for n in 0..8 {
            ct.insert(&new_conn(1, tuple(6, n), n % 3, 100), Now::from_nanos(MINUTE), none).unwrap();
        }
        let mut storage = ct.into_storage();
        for (entry, seed) in storage.iter_mut().skip(8).zip(seeds) {
            let mut bytes = [0u8; 192];
            for (i, b) in bytes.iter_mut().enumerate() {
                *b = crate::keyed_hash::scramble(seed ^ i as u64).to_le_bytes()[0];
            }
            *entry = Entry::read_from_bytes(&bytes).unwrap();
        }
        for (at, value) in flips {
            storage.as_mut_slice().as_mut_bytes()[at] = value;
        }
        let now = Now::from_nanos(MINUTE);
        let (mut ct, found) = Conntrack::recover(storage, 12, settings(), now);
        prop_assert_eq!(found.kept as usize, ct.len());
        let keys: Vec<_> = ct.iter().map(|(c, e)| (c, *e)).collect();
        for (conn, entry) in &keys {
            for side in Side::BOTH {
                let key = entry.side(side);
                prop_assert_eq!(ct.lookup(key.zone(), key.tuple()), Some(Hit { conn: *conn, side }));
                prop_assert!(ct.knows(key.zone()));
                let any = TcpSegment { flags: flag::ACK, ..TcpSegment::default() };
                let _judged = ct.track(Hit { conn: *conn, side }, &TrackInput::Tcp(any), (1, 1), now);
            }
        }
        let later = Now::from_nanos(100_000 * MINUTE);
        while !ct.sweep(later, 100, |_| ()).finished {}
        prop_assert!(ct.is_empty());
        for (_, entry) in &keys {
            prop_assert!(!ct.knows(entry.side(Side::Original).zone()));
        }
        for n in 0..12 {
            ct.insert(&new_conn(1, tuple(6, n), n % 3, 100), later, none).unwrap();
        }
    }
}
