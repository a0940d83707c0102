//! What may the connection table of a process that is gone hold?
//!
//! The mapping outlives its writer, which may have died in the middle of a write, and belongs to whoever can write the run dir:
//! whatever is in it, the next process opens it, forwards by what is sound, and forgets it in time.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use net::{FiveTuple, Mac, Now, PortId, TcpSegment, Zone};
use nfv::conntrack::{
    Conntrack, Entrance, Entry, NewConn, Owner, Settings, Side, SideEntry, Timeouts, TrackInput,
};
use zerocopy::{FromBytes, IntoBytes};

/// The most entries of a table; what does not fill one is its last bytes, the rest zero.
const ENTRIES: usize = 16;
/// When the process is opened: late enough that an entry can be old.
const NOW: Now = Now::from_nanos(1_000_000_000_000);

fn settings() -> Settings {
    Settings {
        seed: 7,
        timeouts: Timeouts::default(),
    }
}

/// Opens a table with these bytes in it, uses it, and waits until all is forgotten.
pub(crate) fn inherited(bytes: &[u8]) {
    let mut storage = vec![Entry::default(); ENTRIES];
    for (entry, from) in storage.iter_mut().zip(bytes.chunks(size_of::<Entry>())) {
        let mut whole = [0; size_of::<Entry>()];
        whole.iter_mut().zip(from).for_each(|(to, b)| *to = *b);
        if let Ok(read) = Entry::read_from_bytes(&whole) {
            *entry = read;
        }
    }
    let (mut table, found) = Conntrack::recover(storage, ENTRIES, settings(), NOW);
    assert_eq!(table.len(), found.kept as usize);
    assert!((found.kept + found.cleared) as usize <= ENTRIES);
    let kept: Vec<_> = table.iter().map(|(conn, e)| (conn, *e)).collect();
    assert_eq!(kept.len(), table.len());
    for (conn, entry) in &kept {
        for side in Side::BOTH {
            let (zone, tuple) = (entry.side(side).zone(), *entry.side(side).tuple());
            let Some(hit) = table.lookup(zone, &tuple) else {
                unreachable!("a connection that was kept is found by either side");
            };
            assert_eq!(hit.conn, *conn, "a key belongs to one connection");
            for input in [TrackInput::Datagram, TrackInput::Tcp(segment(0x10))] {
                let _verdict = table.track(hit, &input, (1, 60), NOW);
            }
        }
    }
    // There is room for others, or a reason why not.
    let before = table.len();
    let made = table.insert(&connection(false, 6, 999), NOW, |_| {});
    assert!(made.is_err() || table.len() <= before + 1);
    // Nothing is kept for ever, whatever it says of itself.
    let later = NOW + Duration::from_hours(100 * 365 * 24);
    while !table.sweep(later, 1000, |_| {}).finished {}
    assert!(table.is_empty(), "an entry is immortal");
    let left = table.into_storage();
    assert!(left.iter().all(Entry::is_free), "an entry is left behind");
}

fn segment(flags: u16) -> TcpSegment {
    TcpSegment {
        flags,
        ..TcpSegment::default()
    }
}

fn connection(v6: bool, proto: u8, port: u16) -> NewConn {
    let [a, b]: [IpAddr; 2] = if v6 {
        [Ipv6Addr::from_bits(1).into(), Ipv6Addr::from_bits(2).into()]
    } else {
        [Ipv4Addr::from_bits(1).into(), Ipv4Addr::from_bits(2).into()]
    };
    let tuple = FiveTuple::new(proto, (a, port), (b, 80));
    let macs = [1, 2].map(|n| Mac::new([2, 0, 0, 0, 0, n]));
    let [src, dst] = macs;
    NewConn {
        sides: [
            SideEntry::new((Zone(1), tuple), (src, dst), 0, Entrance::Unknown),
            SideEntry::new(
                (Zone(2), tuple.reversed()),
                (dst, src),
                0,
                Entrance::Unknown,
            ),
        ],
        owner: Owner {
            port: PortId(1),
            port_limit: 1000,
            project: 1,
            project_limit: 1000,
        },
        first: if proto == 6 {
            TrackInput::Tcp(segment(2))
        } else {
            TrackInput::Datagram
        },
        whole: true,
        segments: 1,
        bytes: 60,
    }
}

pub(crate) fn seeds() -> Vec<Vec<u8>> {
    [1, 3, ENTRIES]
        .into_iter()
        .map(|count| {
            let mut table = Conntrack::new(vec![Entry::default(); ENTRIES], settings());
            for (n, port) in (0..count).zip(4000..) {
                let proto = if n % 2 == 0 { 6 } else { 17 };
                let made = table.insert(&connection(n % 3 == 0, proto, port), NOW, |_| {});
                assert!(made.is_ok(), "a seed holds connections");
            }
            let storage = table.into_storage();
            storage.get(..count).unwrap_or_default().as_bytes().to_vec()
        })
        .collect()
}
