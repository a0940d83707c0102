//! Whose frames wait while a neighbour floods? The flooder's own, in its own device.

use std::{collections::BTreeMap, sync::Arc};

use arc_swap::ArcSwap;
use hostconfig::{
    Firewall, FunctionKind,
    chain::{Action, FirewallRule, Side},
};
use net::{Now, PortRange, Prefix, batch::BATCH, testkit::FrameBuilder};
use nfv::conntrack::Entry;

use super::{
    super::{Claims, Datapath, Rates, Settings, Tables},
    attacks::{FLOODER, SERVER, VICTIM, flood_syn, world},
    harness::{Conf, between, id, zones},
};
use crate::{
    io::memory::{Frame, MemoryPort, Workload},
    worker::{Command, Handle, Lane, Limits, Worker, crew},
};

struct Bed {
    worker: Worker<Lane>,
    // A worker ends with its handle.
    _handle: Handle<Lane>,
    devices: BTreeMap<u16, Workload>,
    now: Now,
    flooded: u32,
}

impl Bed {
    fn new(ports: &[u16]) -> Self {
        Self::of(&world(100_000), ports)
    }

    fn of(conf: &Conf, ports: &[u16]) -> Self {
        let now = Now::from_nanos(1_000_000_000_000);
        let tables = Tables::build(None, &conf.0, &zones(conf), 1);
        let numbers = ports
            .iter()
            .map(|n| (*n, tables.port_by_id(id(u128::from(*n))).unwrap().dense));
        let numbers: Vec<_> = numbers.collect();
        let settings = Settings {
            rates: Rates::NONE,
            ..Settings::default()
        };
        let claims = Arc::new(Claims::new(16, 1));
        let entries = vec![Entry::default(); 100_000];
        let datapath = Datapath::new(settings, entries, 0, claims, now);
        let lane = Lane::new(datapath, Arc::new(ArcSwap::from_pointee(tables)));
        let seat = crew(1, 1).unwrap().pop().unwrap();
        let (worker, handle) =
            Worker::new(seat, lane, Limits::default(), Box::new(|_| {})).unwrap();
        let mut devices = BTreeMap::new();
        for (n, dense) in numbers {
            let (port, workload) = MemoryPort::new(512);
            handle
                .tell(Command::AddPort(dense, Box::new(port)))
                .unwrap();
            devices.insert(n, workload);
        }
        let mut bed = Self {
            worker,
            _handle: handle,
            devices,
            now,
            flooded: 0,
        };
        bed.turn();
        bed
    }

    /// As many frames of new connections as the flooder's device holds.
    fn flood(&mut self) {
        loop {
            let bytes = flood_syn(self.flooded % 2 == 1, self.flooded).build();
            let frame = Frame {
                bytes,
                ..Frame::default()
            };
            if self.devices[&FLOODER].send(frame).is_err() {
                return;
            }
            self.flooded += 1;
        }
    }

    fn turn(&mut self) {
        self.worker.turn(self.now);
    }

    fn misses(&self) -> u64 {
        let (datapath, _) = self.worker.corridor().view();
        datapath.ledger().balanced().unwrap();
        datapath.counters().lookups.upcall
    }
}

#[test]
fn a_flood_of_misses_waits_while_its_neighbour_is_served_every_turn() {
    let mut bed = Bed::new(&[FLOODER, VICTIM, SERVER]);
    let talk = |bed: &Bed| {
        for n in 0..32 {
            let datagram = FrameBuilder::udp(false, 4000 + n, 53);
            let frame = Frame {
                bytes: between(datagram, false, VICTIM, SERVER).build(),
                ..Frame::default()
            };
            bed.devices[&VICTIM].send(frame).unwrap();
        }
    };
    let arrived = |bed: &Bed| {
        let source = net::testkit::mac(VICTIM).octets();
        std::iter::from_fn(|| bed.devices[&SERVER].receive())
            .filter(|f| f.bytes[6..12] == source)
            .count()
    };
    talk(&bed);
    bed.turn();
    assert_eq!(arrived(&bed), 32);
    // Its own misses are paid for, and forgotten, before the flood begins.
    for turn in 0..20 {
        if turn < 10 {
            talk(&bed);
        }
        bed.turn();
    }
    arrived(&bed);
    let before = bed.misses();
    for turn in 0..200 {
        bed.flood();
        talk(&bed);
        bed.turn();
        assert_eq!(arrived(&bed), 32, "turn {turn}");
    }
    // A miss costs ten known packets: a turn has a tenth of a batch, and what is left of its worth is not saved.
    let (missed, most) = (bed.misses() - before, 20 * BATCH as u64);
    assert!((most * 9 / 10..=most).contains(&missed), "{missed}");
}

#[test]
fn a_flood_that_is_alone_waits_for_nobody() {
    let mut bed = Bed::new(&[FLOODER]);
    for _ in 0..50 {
        let before = bed.misses();
        bed.flood();
        bed.turn();
        assert!(bed.misses() >= before + 6, "a turn's worth each turn");
    }
}

/// A tenant's firewall whose rules ask for more pairs of lengths than there are tuples: who meets it pays for the list.
#[test]
fn a_miss_that_compares_thousands_of_rules_costs_more() {
    let mut conf = world(100_000);
    let block = |len: u32| {
        let len = u8::try_from(len % 129).unwrap();
        Some(Prefix::containing("fd01::1".parse().unwrap(), len).unwrap())
    };
    let rules = (0..10_000u32).map(|n| FirewallRule {
        id: id(90_000 + u128::from(n)),
        action: Action::Deny,
        family: None,
        protocol: Some(6),
        source: block(n),
        destination: block(n / 129),
        source_ports: Some(PortRange::one(1)),
        destination_ports: None,
    });
    let firewall = Firewall {
        rules: rules.collect(),
        default: Action::Allow,
    };
    let flooder = Some(Side::Port(id(u128::from(FLOODER))));
    conf.chain_of(
        8000,
        flooder,
        None,
        80,
        vec![FunctionKind::Firewall(firewall)],
    );
    let served = |conf: &Conf| {
        let mut bed = Bed::of(conf, &[FLOODER, VICTIM]);
        for _ in 0..400 {
            bed.flood();
            bed.turn();
        }
        bed.misses()
    };
    let (dear, cheap) = (served(&conf), served(&world(100_000)));
    let most = 40 * BATCH as u64;
    assert!((most * 9 / 10..=most).contains(&cheap), "{cheap}");
    // Half of the flood is IPv6, and of that some is in the blocks that most rules name.
    assert!(dear * 2 < cheap, "{dear} of {cheap}");
    assert!(dear > 0);
}
