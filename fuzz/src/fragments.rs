//! In which order may fragments come?
//!
//! An input is a list of steps of four bytes: which packet a fragment is of, which piece, how long, and what comes before it.
//! Whatever the order, every fragment ends delivered, dropped or waiting, and none waits for ever.

use std::cell::RefCell;
use std::sync::Arc;
use std::time::Duration;

use net::testkit::{FrameBuilder, mac};
use net::{Batch, DropReason, Now, Origin, PacketPool};
use nfv::conntrack::Entry;
use vswitch::datapath::{Claims, Datapath, Out, Settings, Tables};

use crate::host::{self, address};

/// More fragments than any table here holds.
const STEPS: usize = 64;

/// A worker with little room.
struct Switch {
    tables: Tables,
    pool: PacketPool,
    out: Out,
}

thread_local! {
    /// That of the input before; a panic takes it with it.
    static SWITCH: RefCell<Option<Switch>> = const { RefCell::new(None) };
}

/// Lets them come, one batch after the other.
pub(crate) fn arrive(bytes: &[u8]) {
    let mut switch = SWITCH.take().unwrap_or_else(|| Switch {
        tables: host::tables(),
        pool: PacketPool::new(256, 8),
        out: Out::new(),
    });
    switch.run(bytes);
    SWITCH.set(Some(switch));
}

impl Switch {
    fn run(&mut self, bytes: &[u8]) {
        let before = self.pool.available();
        let mut now = Now::from_nanos(1_000_000_000_000);
        let mut datapath = small(now);
        let mut batch = Batch::new();
        let mut read = 0u64;
        for step in bytes.as_chunks::<4>().0.iter().take(STEPS) {
            let [.., how] = *step;
            if how & 0x80 != 0 {
                self.go(&mut datapath, &mut batch, now);
                now = now + Duration::from_millis(u64::from(how & 0x7f) * 40);
                datapath.tick(&self.tables, now, &mut self.pool, &mut self.out);
                self.flush(&datapath);
            }
            let frame = fragment(*step);
            let Some(mut packet) = self.pool.take(frame.len()) else {
                unreachable!("more packets than steps");
            };
            assert!(packet.fill(&frame).is_ok());
            packet.set_origin(self.origin(*step));
            assert!(batch.push(packet).is_ok());
            read += 1;
            if how & 0x40 != 0 {
                self.go(&mut datapath, &mut batch, now);
            }
        }
        self.go(&mut datapath, &mut batch, now);
        // Nothing waits for ever.
        for _ in 0..4 {
            now = now + Duration::from_mins(10);
            datapath.tick(&self.tables, now, &mut self.pool, &mut self.out);
            self.flush(&datapath);
        }
        let ledger = datapath.ledger();
        assert_eq!((ledger.rx, ledger.held), (read, 0), "a fragment waits");
        assert_eq!(
            ledger.dropped(DropReason::Shutdown),
            0,
            "nobody stopped the switch"
        );
        assert_eq!(self.pool.available(), before, "a packet is lost");
    }

    fn go(&mut self, datapath: &mut Datapath, batch: &mut Batch, now: Now) {
        datapath.run(&self.tables, batch, now, &mut self.pool, &mut self.out);
        self.flush(datapath);
    }

    /// Gives everything that came out back.
    fn flush(&mut self, datapath: &Datapath) {
        let mut batch = Batch::new();
        while self.out.next_port(&mut batch).is_some() {
            for packet in batch.drain() {
                self.pool.give(packet);
            }
        }
        for frame in self.out.tunnelled.drain(..) {
            self.pool.give(frame.packet);
        }
        for packet in self.out.metadata.drain(..) {
            self.pool.give(packet);
        }
        assert!(self.out.is_empty(), "there is no other worker");
        let balanced = datapath.ledger().balanced();
        assert!(balanced.is_ok(), "{balanced:?}");
    }

    /// From a workload here, or from the tunnel.
    fn origin(&self, [which, ..]: [u8; 4]) -> Origin {
        let port = self.tables.port_by_id(host::id(1)).map(|p| p.dense);
        let network = self.tables.network_by_id(host::id(host::NETWORK));
        match (port, network.map(|n| n.dense)) {
            (Some(port), _) if which & 0x20 == 0 => Origin::Port(port),
            (_, Some(network)) => Origin::Tunnel(network),
            _ => unreachable!("the port and the network are there"),
        }
    }
}

fn small(now: Now) -> Datapath {
    let settings = Settings {
        programs: 256,
        megaflows: 16,
        fragments: 4,
        early_fragments: 4,
        drop_records: 8,
        ..Settings::default()
    };
    let claims = Arc::new(Claims::new(16, 1));
    Datapath::new(settings, vec![Entry::default(); 16], 0, claims, now)
}

/// The fragment of a step: `which` names the packet (family, protocol, entrance, identification), then piece and length.
fn fragment([which, piece, len, how]: [u8; 4]) -> Vec<u8> {
    let v6 = which & 0x80 != 0;
    let builder = if which & 0x40 == 0 {
        FrameBuilder::udp(v6, 4000, 53)
    } else {
        FrameBuilder::tcp(v6, 4000, 80).flags(2)
    };
    let from = if which & 0x20 == 0 { 1 } else { 3 };
    let to = if which & 0x10 == 0 || from == 3 { 2 } else { 3 };
    // Three times out of four the piece begins where the one before it ends.
    let offset = if piece & 0x40 == 0 {
        u16::from(piece & 0x07) * 32
    } else {
        u16::from(piece) * 32
    };
    builder
        .macs(mac(from), mac(to))
        .addrs(
            address(if from == 1 { 1 } else { 3 }, v6),
            address(if to == 2 { 2 } else { 3 }, v6),
        )
        .payload(&vec![7; usize::from(len)])
        .fragment(u32::from(which & 0x0f), offset, how & 1 == 0)
        .build()
}

pub(crate) fn seeds() -> Vec<Vec<u8>> {
    // In order, backwards, two packets by turns, later ones alone, and the same with pauses and batches of one.
    let orders: [&[[u8; 2]]; 5] = [
        &[[1, 0], [1, 1], [1, 2]],
        &[[1, 2], [1, 1], [1, 0]],
        &[[1, 0], [0x82, 1], [1, 1], [0x82, 0], [0x82, 2], [1, 2]],
        &[
            [0x21, 1],
            [0x21, 2],
            [0x22, 1],
            [0x23, 1],
            [0x24, 1],
            [0x25, 1],
        ],
        &[
            [0x41, 0],
            [0x41, 1],
            [0x51, 0],
            [0x52, 1],
            [0xd1, 1],
            [0xd1, 0],
        ],
    ];
    let mut seeds = Vec::new();
    for order in orders {
        for how in [0, 0x40, 0x80, 0xc0 + 60] {
            let last = order.iter().map(|[_, piece]| *piece).max();
            let steps = order.iter().flat_map(|[which, piece]| {
                let is_last = Some(*piece) == last;
                [*which, *piece, 255, how | u8::from(is_last)]
            });
            seeds.push(steps.collect());
        }
    }
    seeds
}
