//! What does a packet cost, from a batch to a batch: found, missed, encapsulated, refused? And does a known flow allocate? (It
//! must not: the bench fails.)

#![expect(clippy::unwrap_used, reason = "a bench may fail loudly")]
#![expect(unsafe_code, reason = "a counting allocator has no safe form")]

use std::{
    alloc::{GlobalAlloc, Layout, System},
    net::IpAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use hostconfig::{
    Chain, Classifier, Endpoint, Firewall, Function, FunctionKind, HostConfig, Keyed, Location,
    Network, Port, Section, SecurityGroup, SecurityGroupRule,
    chain::{Action, Side},
    group::{Direction, Family, L4Match, Remote},
    port::FixedIp,
};
use net::{
    Batch, Id, Mtu, Now, Origin, PacketPool, Vni, Zone,
    batch::BATCH,
    testkit::{FrameBuilder, mac, tcp},
};
use nfv::conntrack::Entry;
use vswitch::datapath::{Claims, Datapath, Out, Rates, Settings, Tables, ZoneMap};

/// Counts allocations, and leaves the work to the system's allocator.
struct Counting;

static ALLOCATIONS: AtomicU64 = AtomicU64::new(0);

// SAFETY: every call is passed on unchanged to the system's allocator, which keeps the trait's promises.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        // SAFETY: the caller's promises about `layout` are passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        // SAFETY: `at` came from `alloc` above, so from the system's allocator, with this layout.
        unsafe { System.dealloc(at, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn id<K>(n: u128) -> Id<K> {
    format!("{n:032x}").parse().unwrap()
}

fn ip(n: u16) -> IpAddr {
    let [a, b] = n.to_be_bytes();
    IpAddr::from([10, 0, a, b])
}

fn port(n: u16, security: bool) -> Section {
    Section::Port(Port {
        id: id(u128::from(n)),
        name: format!("p{n}"),
        network: id(1000),
        project: id(7),
        mac: mac(n).try_into().unwrap(),
        fixed_ips: vec![FixedIp {
            addr: ip(n),
            subnet: id(1),
        }],
        admin_up: true,
        port_security: security,
        allowed_address_pairs: vec![],
        security_groups: vec![id(2000)],
        max_connections: 1_000_000,
        qos: None,
        host_number: Some(0),
        dns_name: None,
        dhcp: hostconfig::DhcpOptions::default(),
        trunk: None,
        firewall: None,
    })
}

fn group() -> Section {
    let rule = |n, direction| SecurityGroupRule {
        id: id(n),
        direction,
        family: Family::V4,
        protocol: None,
        l4: L4Match::Any,
        remote: Remote::Any,
    };
    Section::Group(SecurityGroup {
        id: id(2000),
        name: "open".into(),
        stateful: true,
        rules: vec![rule(1, Direction::Egress), rule(2, Direction::Ingress)],
    })
}

fn chain() -> Section {
    let function = |n| Function {
        id: id(n),
        name: format!("f{n}"),
        kind: FunctionKind::Firewall(Firewall {
            rules: vec![],
            default: Action::Allow,
        }),
    };
    Section::Chain(Chain {
        id: id(8000),
        name: "five".into(),
        project: id(7),
        path: 1,
        symmetric: true,
        graph: hostconfig::Graph::default(),
        classifiers: vec![Classifier {
            id: id(8100),
            name: "c".into(),
            source: Some(Side::Network(id(1000))),
            destination: None,
            family: None,
            protocol: None,
            source_ports: None,
            destination_ports: None,
            source_prefix: None,
            destination_prefix: None,
        }],
        functions: (1..=5).map(function).collect(),
    })
}

struct Rig {
    tables: Tables,
    origin: Origin,
    dp: Datapath,
    pool: PacketPool,
    out: Out,
    batch: Batch,
    sent: Batch,
    now: Now,
}

impl Rig {
    fn new(security: bool, chained: bool) -> Self {
        let network = Section::Network(Network {
            id: id(1000),
            name: "blue".into(),
            project: id(7),
            vni: Vni::try_from(1).unwrap(),
            mtu: Mtu::try_from(1450).unwrap(),
            admin_up: true,
            subnets: vec![],
            wire: None,
            domain: String::new(),
            resolvers: Vec::new(),
            names: Vec::new(),
        });
        let far = Section::Endpoint(Endpoint {
            id: id(9),
            network: id(1000),
            project: None,
            mac: mac(9).try_into().unwrap(),
            addrs: vec![ip(9)],
            dns_name: None,
            at: Location::Vtep(IpAddr::from([192, 0, 2, 9])),
        });
        let mut sections = vec![network, group(), port(1, security), port(2, security), far];
        sections.extend(chained.then(chain));
        let mut config = HostConfig::default();
        for section in sections {
            config.insert(Arc::new(Keyed::new(section).unwrap()));
        }
        let zones: ZoneMap = [(id(1), Zone(1)), (id(2), Zone(2))].into();
        let now = Now::from_nanos(1_000_000_000_000);
        let claims = Arc::new(Claims::new(1, 1));
        let settings = Settings {
            // The clock stands still here.
            rates: Rates::NONE,
            ..Settings::default()
        };
        let storage = vec![Entry::default(); 1 << 17];
        let tables = Tables::build(None, &config, &zones, 1);
        Self {
            origin: Origin::Port(tables.port_by_id(id(1)).unwrap().dense),
            tables,
            dp: Datapath::new(settings, storage, 0, claims, now),
            pool: PacketPool::new(256, 1),
            out: Out::new(),
            batch: Batch::new(),
            sent: Batch::new(),
            now,
        }
    }

    /// A batch of the frames from port 1, and all that comes out back into the pool.
    fn run(&mut self, frames: &[Vec<u8>]) -> usize {
        for frame in frames {
            let mut packet = self.pool.take_small().unwrap();
            packet.fill(frame).unwrap();
            packet.set_origin(self.origin);
            self.batch.push(packet).unwrap();
        }
        let (tables, dp) = (&self.tables, &mut self.dp);
        dp.run(
            tables,
            &mut self.batch,
            self.now,
            &mut self.pool,
            &mut self.out,
        );
        let mut sent = self.out.tunnelled.len();
        for frame in self.out.tunnelled.drain(..) {
            self.pool.give(frame.packet);
        }
        while self.out.next_port(&mut self.sent).is_some() {
            sent += self.sent.len();
            for packet in self.sent.drain() {
                self.pool.give(packet);
            }
        }
        sent
    }
}

/// A batch of frames of as many flows, to this workload.
fn frames(to: u16, first: u16, flags: u8) -> Vec<Vec<u8>> {
    let flow = |n: u16| {
        FrameBuilder::tcp(false, first + n, 80)
            .macs(mac(1), mac(to))
            .addrs(ip(1), ip(to))
            .flags(flags)
            .build()
    };
    (0..u16::try_from(BATCH).unwrap()).map(flow).collect()
}

fn known(c: &mut Criterion) {
    let mut bench = c.benchmark_group("known");
    bench.throughput(Throughput::Elements(BATCH as u64));
    for (name, security, chained, to) in [
        ("l2", false, false, 2),
        ("security_group", true, false, 2),
        ("security_group_vxlan", true, false, 9),
        ("chain_of_five_vxlan", true, true, 9),
    ] {
        let mut rig = Rig::new(security, chained);
        let udp: Vec<_> = (0..u16::try_from(BATCH).unwrap())
            .map(|n| {
                FrameBuilder::udp(false, 1000 + n, 80)
                    .macs(mac(1), mac(to))
                    .addrs(ip(1), ip(to))
                    .build()
            })
            .collect();
        for _ in 0..3 {
            assert_eq!(rig.run(&udp), BATCH, "{name}");
        }
        let before = ALLOCATIONS.load(Ordering::Relaxed);
        for _ in 0..100 {
            rig.run(&udp);
        }
        let after = ALLOCATIONS.load(Ordering::Relaxed);
        assert_eq!(after, before, "{name}: a known flow allocates");
        bench.bench_function(name, |b| b.iter(|| rig.run(&udp)));
        rig.dp.ledger().balanced().unwrap();
    }
    bench.finish();
}

fn first(c: &mut Criterion) {
    let mut bench = c.benchmark_group("first");
    bench.throughput(Throughput::Elements(BATCH as u64));
    for (name, chained) in [("security_group", false), ("chain_of_five", true)] {
        let mut rig = Rig::new(true, chained);
        let mut at = 0u16;
        bench.bench_function(name, |b| {
            b.iter_batched(
                || {
                    at = at.wrapping_add(u16::try_from(BATCH).unwrap()) % 60_000;
                    frames(9, at, tcp::SYN)
                },
                |frames| rig.run(&frames),
                criterion::BatchSize::SmallInput,
            );
        });
        rig.dp.ledger().balanced().unwrap();
    }
    bench.finish();
}

criterion_group!(walk, known, first);
criterion_main!(walk);
