//! What do several switches do together?
//!
//! A [`Fabric`] is all hosts of a [`Plan`] in one process: real datapaths with real tables, workloads that are test code, wires in
//! memory with weather, and a clock that moves only when told. Frames enter a host at a worker chosen by a seeded coin, as from a
//! device with several queues: who finds a connection must be at home there by hand-over, not by luck.
//!
//! # Invariants
//! After each step, and once more when it leaves scope, the conservation law holds for each worker and each host, and every packet
//! is back in its pool.

use std::{collections::BTreeMap, net::IpAddr, sync::Arc, time::Duration};

use hostconfig::{
    HostConfig, Section, SectionKey,
    share::{OneWay, Use},
};
use net::{
    Batch, Checksum, Consumed, Copied, DropReason, Id, Now, Offload, Origin, Originated, Packet,
    PacketPool, PortId, Vlan, Zone, ids::kind, testkit,
};
use nfv::conntrack::{Entry, Side};
use vswitch::{
    datapath::{Claims, Datapath, Ledger, Out, Settings, Tables, WorkerId, ZoneMap},
    io::{
        PortIo, Tunnelled, Underlay,
        memory::{Frame, MemoryPort, MemoryUnderlay, Weather, Workload},
    },
    metadata::{Inward, Limits, Outward, exchange::Exchange},
    stats::WorkerStats,
};

use crate::{
    oracle::{Fate, Shown},
    plan::{NetId, Plan, PortUuid, vtep},
};

/// Packets of a worker's pool: (small, large).
const POOL: (usize, usize) = (1024, 64);

/// How a fabric is built.
#[derive(Debug, Clone, Copy)]
pub struct Build {
    /// Workers of each host.
    pub workers: u16,
    /// What happens on the wires.
    pub weather: Weather,
    /// For every coin.
    pub seed: u64,
    /// Connections that each worker has room for.
    pub connections: usize,
    /// ICMP errors a second that a port gets.
    pub errors_per_second: u32,
}

impl Default for Build {
    fn default() -> Self {
        Self {
            workers: 1,
            weather: Weather::default(),
            seed: 1,
            connections: 4096,
            errors_per_second: Settings::default().errors_per_second,
        }
    }
}

struct Worker {
    datapath: Datapath<Vec<Entry>>,
    pool: PacketPool,
    out: Out,
    inbox: Vec<Packet>,
}

/// The switch of one host: tables, workers, devices in memory.
pub(crate) struct Switch {
    pub(crate) tables: Arc<Tables>,
    zones: ZoneMap,
    workers: Vec<Worker>,
    pub(crate) ports: BTreeMap<PortUuid, (MemoryPort, Workload)>,
    /// The ends on physical networks, by the network that each carries.
    pub(crate) wires: BTreeMap<NetId, (MemoryPort, Workload)>,
    underlay: MemoryUnderlay,
    /// Who tells workloads of themselves, if anybody does.
    metadata: Option<Exchange>,
    coin: u64,
}

/// A frame that a workload received.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Received {
    /// Which port's.
    pub port: PortUuid,
    /// The frame.
    pub frame: Frame,
}

/// The payload of each segment of a frame.
pub fn payloads(frame: &Frame) -> Vec<Vec<u8>> {
    let (headers, _) = net::Headers::parse(&frame.bytes).unwrap();
    let payload = &frame.bytes[usize::from(headers.payload_at)..];
    let size = match frame.offload.gso {
        net::Gso::None => payload.len(),
        net::Gso::Tcp { size, .. } | net::Gso::Udp { size } => size.into(),
    };
    payload.chunks(size.max(1)).map(<[u8]>::to_vec).collect()
}

/// Is what happened what must happen?
pub fn agree(fate: &Fate, received: &[Received], drops: &[DropReason]) -> bool {
    let mut open: Vec<&Received> = received.iter().collect();
    let found = fate.deliveries.iter().all(|(port, what)| {
        let is = |r: &&Received| r.port == *port && what.is(&r.frame.bytes);
        let at = open.iter().position(is);
        at.map(|at| open.remove(at)).is_some()
    });
    found && open.is_empty() && drops == fate.drops
}

/// Asserts that what happened is what must happen.
pub fn assert_fate(what: &str, fate: &Fate, received: &[Received], drops: &[DropReason]) {
    let shown = |r: &Received| (r.port, crate::oracle::What::of(&r.frame.bytes));
    assert!(
        agree(fate, received, drops),
        "{what}:\n  must be {fate:?}\n  but was {:?}, dropped {drops:?}",
        received.iter().map(shown).collect::<Vec<_>>(),
    );
}

/// Asserts that frames that are whole have right checksums.
pub fn check_frames(what: &str, received: &[Received]) {
    for r in received {
        let (_, key) = net::Headers::parse(&r.frame.bytes).unwrap();
        let open = matches!(r.frame.offload.checksum, net::Checksum::Partial { .. });
        let whole = key.ip_frag == 0 && !open && r.frame.offload.gso == net::Gso::None;
        assert!(
            !whole || testkit::checksums_hold(&r.frame.bytes),
            "{what}: a checksum does not hold"
        );
    }
}

/// All hosts of a plan.
pub struct Fabric {
    /// What they are to be. After a change: [`Fabric::apply`].
    pub plan: Plan,
    build: Build,
    hosts: Vec<Switch>,
    wires: vswitch::io::memory::Fabric,
    now: Now,
}

impl std::fmt::Debug for Fabric {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Fabric of {} hosts at {:?}", self.hosts.len(), self.now)
    }
}

impl Worker {
    fn new(build: &Build, worker: u16, seed: u64, claims: &Arc<Claims>) -> Self {
        let settings = Settings {
            worker: WorkerId(worker),
            workers: build.workers,
            seed,
            errors_per_second: build.errors_per_second,
            ..Settings::default()
        };
        let storage = vec![Entry::default(); build.connections];
        Self {
            datapath: Datapath::new(settings, storage, 0, Arc::clone(claims), Now::ZERO),
            pool: PacketPool::new(POOL.0, POOL.1),
            out: Out::new(),
            inbox: vec![],
        }
    }
}

impl Worker {
    /// What asks for metadata is answered, or refused where nobody does.
    fn tell(&mut self, metadata: Option<&mut Exchange>, tables: &Tables, now: Now) {
        let Self {
            datapath,
            pool,
            out,
            ..
        } = self;
        let asked = std::mem::take(&mut out.metadata);
        let Some(metadata) = metadata.filter(|_| !asked.is_empty()) else {
            for packet in asked {
                datapath.refuse_metadata(packet, now, pool);
            }
            return;
        };
        let mut inward = vec![];
        for packet in asked {
            inward.extend(Inward::of(&packet, tables, 0));
            pool.give(packet);
        }
        let mut frames = metadata.turn(inward, now);
        // What it was told to say in the first turn goes out in the next.
        frames.extend(metadata.turn([], now));
        for Outward { port, frame, sent } in frames {
            assert!(!sent, "it asks nobody: no names are asked for here");
            datapath.answer_metadata(tables, (port, &frame), now, pool, out);
        }
    }
}

impl Switch {
    pub(crate) fn new(build: &Build, host: usize, underlay: MemoryUnderlay) -> Self {
        let seed = build.seed.wrapping_mul(1000) + u64::try_from(host).unwrap();
        let mut this = Self {
            tables: Arc::new(Tables::empty(seed)),
            zones: ZoneMap::default(),
            workers: vec![],
            ports: BTreeMap::new(),
            wires: BTreeMap::new(),
            underlay,
            metadata: None,
            coin: seed | 1,
        };
        this.start_workers(build);
        this
    }

    /// The same, of a host with one worker whose workloads are told of themselves.
    pub(crate) fn with_metadata(mut self) -> Self {
        let seed = self.tables.seed();
        self.metadata = Some(Exchange::with_pages(Limits::default(), seed));
        self
    }

    /// The same, of a host that knows which VTEP is its own: whether a gateway is here.
    pub(crate) fn at(mut self, vtep: IpAddr) -> Self {
        self.tables = Arc::new(Tables::empty(self.tables.seed()).at(vtep));
        self
    }

    fn start_workers(&mut self, build: &Build) {
        let seed = self.tables.seed();
        let claims = Arc::new(Claims::new(10_000, seed));
        let workers = 0..build.workers;
        self.workers = workers
            .map(|w| Worker::new(build, w, seed, &claims))
            .collect();
    }

    pub(crate) fn configure(&mut self, config: &HostConfig) {
        let wanted: Vec<PortUuid> = (config.sections.keys())
            .filter_map(|key| match key {
                SectionKey::Port(id) => Some(*id),
                _ => None,
            })
            .collect();
        let carrier = |port| match config.sections[&SectionKey::Port(port)].body() {
            Section::Port(port) => port.trunk,
            _ => unreachable!("it is a port's key"),
        };
        for &port in &wanted {
            // Zones are never used again.
            let next = Zone(u32::try_from(self.zones.len() + 1).unwrap());
            self.zones.entry(port).or_insert(next);
            if carrier(port).is_none() {
                self.ports
                    .entry(port)
                    .or_insert_with(|| MemoryPort::new(1024));
            }
        }
        let routers = config
            .sections
            .values()
            .filter_map(|section| match section.body() {
                Section::Router(router) => router.gateway.as_ref(),
                _ => None,
            });
        for gateway in routers {
            let next = Zone(u32::try_from(self.zones.len() + 1).unwrap());
            self.zones.entry(gateway.port).or_insert(next);
        }
        self.ports
            .retain(|port, _| wanted.contains(port) && carrier(*port).is_none());
        let seed = self.tables.seed();
        let tables = Tables::build(Some(&self.tables), config, &self.zones, seed);
        self.tables = Arc::new(tables);
        if let Some(metadata) = &mut self.metadata {
            metadata.told(config);
        }
        let wired: Vec<NetId> = self.tables.wires().map(|(network, _)| network.id).collect();
        self.wires.retain(|network, _| wired.contains(network));
        for network in wired {
            let end = || MemoryPort::new(1024);
            self.wires.entry(network).or_insert_with(end);
        }
    }

    fn shown(&self) -> Vec<Shown> {
        let connections = self.workers.iter().map(|w| w.datapath.conntrack());
        let all = connections.flat_map(|table| table.iter().map(|(_, entry)| entry));
        all.filter_map(|entry| {
            let original = entry.side(Side::Original);
            let (inside, outside) = (*original.tuple(), entry.translated(Side::Original));
            let moved = (inside.src, inside.src_port) != (outside.src, outside.src_port);
            let mut zones = self.zones.iter();
            let (port, _) = zones.find(|(_, zone)| **zone == original.zone())?;
            moved.then_some((*port, inside, outside))
        })
        .collect()
    }

    /// Which worker reads next.
    fn toss(&mut self) -> usize {
        // xorshift64 (Marsaglia 2003): any coin does.
        self.coin ^= self.coin << 13;
        self.coin ^= self.coin >> 7;
        self.coin ^= self.coin << 17;
        usize::try_from(self.coin % 1_000_003).unwrap() % self.workers.len()
    }

    /// Does everything that can be done now. Returns whether anything was.
    pub(crate) fn turn(&mut self, now: Now) -> bool {
        let tables = Arc::clone(&self.tables);
        let mut moved = false;
        let ids: Vec<PortUuid> = self.ports.keys().copied().collect();
        let mut batch = Batch::new();
        for id in ids {
            let at = self.toss();
            let Self { workers, ports, .. } = self;
            let worker = &mut workers[at];
            let mut refused = vec![];
            let port = &mut ports.get_mut(&id).unwrap().0;
            port.rx(&mut worker.pool, &mut batch, &mut refused);
            moved |= !batch.is_empty() || !refused.is_empty();
            let dense = tables.port_by_id(id).unwrap().dense;
            for packet in &mut batch {
                packet.set_origin(Origin::Port(dense));
            }
            worker.run(&tables, &mut batch, now, refused);
        }
        moved |= self.read_wires(&tables, now);
        moved |= self.read_underlay(&tables, now);
        for at in 0..self.workers.len() {
            let worker = &mut self.workers[at];
            let Worker {
                datapath,
                pool,
                out,
                inbox,
            } = worker;
            let mut handed = inbox.drain(..).peekable();
            while handed.peek().is_some() {
                moved = true;
                for packet in handed.by_ref().take(net::batch::BATCH) {
                    batch.push(packet).expect("a batch at most");
                }
                datapath.take_over(&tables, &mut batch, now, pool, out);
            }
            drop(handed);
            datapath.tick(&tables, now, pool, out);
            moved |= self.flush(at, &tables, now);
        }
        moved
    }

    fn read_wires(&mut self, tables: &Tables, now: Now) -> bool {
        let mut moved = false;
        let mut batch = Batch::new();
        for (network, _) in tables.wires() {
            let at = self.toss();
            let Self { workers, wires, .. } = self;
            let (worker, mut refused) = (&mut workers[at], vec![]);
            let wire = &mut wires.get_mut(&network.id).unwrap().0;
            wire.rx(&mut worker.pool, &mut batch, &mut refused);
            moved |= !batch.is_empty() || !refused.is_empty();
            for packet in &mut batch {
                packet.set_origin(Origin::Tunnel(network.dense));
            }
            worker.run(tables, &mut batch, now, refused);
        }
        moved
    }

    fn read_underlay(&mut self, tables: &Tables, now: Now) -> bool {
        let at = self.toss();
        let (mut frames, mut refused): (Vec<Tunnelled>, _) = (vec![], vec![]);
        let worker = &mut self.workers[at];
        let admit = |addr: IpAddr| tables.admits(addr);
        self.underlay
            .rx(&mut worker.pool, &admit, &mut frames, &mut refused);
        let any = !frames.is_empty() || !refused.is_empty();
        let mut batch = Batch::new();
        for frame in frames {
            let Worker { datapath, pool, .. } = worker;
            let entered = datapath.enter_tunnel(tables, frame, &mut batch, now, pool);
            assert!(entered.is_ok(), "the underlay reads a batch at most");
        }
        worker.run(tables, &mut batch, now, refused);
        any
    }

    /// Sends what a worker handed out.
    fn flush(&mut self, at: usize, tables: &Tables, now: Now) -> bool {
        let Self {
            workers,
            ports,
            wires,
            underlay,
            metadata,
            ..
        } = self;
        let worker = &mut workers[at];
        worker.tell(metadata.as_mut(), tables, now);
        let Worker {
            datapath,
            pool,
            out,
            ..
        } = worker;
        let mut any = !out.is_empty();
        let mut unsent = vec![];
        underlay.tx(pool, &mut out.tunnelled, &mut unsent);
        for unsent in unsent {
            datapath.refuse_tunnel(tables, unsent, now, pool, out);
        }
        let mut batch = Batch::new();
        while let Some(dense) = out.next_port(&mut batch) {
            // As a worker does it.
            let carrier = tables.carrier(dense);
            let device = carrier.map_or(dense, |(parent, _)| parent);
            let wired = tables.wired(device).and_then(|dense| tables.network(dense));
            let port = match wired {
                Some(network) => wires.get_mut(&network.id),
                None => tables.port(device).and_then(|p| ports.get_mut(&p.id)),
            };
            let mut refused = vec![];
            match port {
                Some((port, _)) => {
                    for packet in &mut batch {
                        assert!(carrier.is_none_or(|(_, vlan)| packet.push_vlan(vlan)));
                    }
                    port.tx(pool, &mut batch, &mut refused);
                    for (packet, _) in &mut refused {
                        assert!(carrier.is_none() || packet.pop_vlan());
                    }
                }
                None => refused.extend(batch.drain().map(|p| (p, DropReason::PortGone))),
            }
            for (packet, reason) in refused {
                datapath.refuse_tx(packet, dense, reason, now, pool);
            }
        }
        let handed = std::mem::take(&mut out.handed);
        any |= !handed.is_empty();
        for (WorkerId(to), packet) in handed {
            assert_ne!(usize::from(to), at, "nobody hands over to itself");
            workers[usize::from(to)].inbox.push(packet);
        }
        any
    }

    pub(crate) fn ledger(&self) -> Ledger {
        let mut sum = Ledger::default();
        for worker in &self.workers {
            sum.add(worker.datapath.ledger());
        }
        sum
    }

    /// What each router counted under each label.
    pub(crate) fn metered(&self) -> Vec<(Id<kind::MeteringLabel>, Id<kind::Router>, u64, u64)> {
        let mut all = vec![];
        for worker in &self.workers {
            let stats = WorkerStats::of(&worker.datapath);
            let rows = stats.meters(&self.tables);
            all.extend(rows.map(|(label, router, c)| (label, router, c.packets, c.bytes)));
        }
        all
    }

    /// What passed its listeners.
    pub(crate) fn listened(&self) -> Vec<(Id<kind::PortChain>, nfv::chain::HopCounters)> {
        let workers = self.workers.iter();
        let stats = workers.map(|worker| WorkerStats::of(&worker.datapath));
        let rows = stats.flat_map(|stats| stats.listeners(&self.tables).collect::<Vec<_>>());
        rows.collect()
    }

    /// Takes what it has of limits that several hosts share; what it let through of each since the last time.
    pub(crate) fn divide(
        &mut self,
        parts: &BTreeMap<OneWay, u64>,
        now: Now,
    ) -> BTreeMap<OneWay, Use> {
        let mut sums = BTreeMap::<OneWay, Use>::new();
        for worker in &mut self.workers {
            for (way, used) in worker.datapath.divide(&self.tables, parts, now) {
                let sum = sums.entry(way).or_default();
                sum.bits += used.bits;
                sum.waits |= used.waits;
            }
        }
        sums
    }

    /// What became of the members that it asks: monitor, member, and whether it serves.
    pub(crate) fn verdicts(&self) -> Vec<(Id<kind::HealthMonitor>, Id<kind::Port>, bool)> {
        // All workers know the same.
        let known = self.workers.first().map(|w| w.datapath.probes().verdicts());
        let known = known.unwrap_or_default().into_iter();
        known.map(|v| (v.monitor, v.member, v.serves)).collect()
    }

    pub(crate) fn check(&self) {
        let mut free = (0, 0);
        for worker in &self.workers {
            worker
                .datapath
                .ledger()
                .balanced()
                .expect("the conservation law");
            let (small, large) = worker.pool.available();
            free = (free.0 + small, free.1 + large);
        }
        let sum = self.ledger();
        assert_eq!(
            sum.handed_over, sum.handed_in,
            "nothing is lost between workers"
        );
        sum.balanced().expect("the conservation law");
        // Packets that went to another worker and stay there make up for each other only while no pool is full.
        if self.workers.len() == 1 && sum.held == 0 {
            assert_eq!(free, POOL, "every packet is back in its pool");
        }
    }
}

impl Worker {
    fn run(
        &mut self,
        tables: &Tables,
        batch: &mut Batch,
        now: Now,
        refused: Vec<(Packet, DropReason)>,
    ) {
        let Self {
            datapath,
            pool,
            out,
            ..
        } = self;
        for (packet, reason) in refused {
            datapath.refuse_rx(packet, reason, now, pool);
        }
        datapath.run(tables, batch, now, pool, out);
    }
}

impl Fabric {
    /// All hosts of this plan, one worker each, in fair weather.
    pub fn new(plan: Plan) -> Self {
        Self::build(plan, Build::default())
    }

    /// The same with other settings.
    pub fn build(plan: Plan, build: Build) -> Self {
        let wires = vswitch::io::memory::Fabric::new(build.weather, build.seed);
        let hosts = (0..plan.hosts())
            .map(|h| Switch::new(&build, h, wires.attach(vtep(h))).at(vtep(h)))
            .collect();
        let mut this = Self {
            plan,
            build,
            hosts,
            wires,
            now: Now::ZERO,
        };
        this.apply();
        this
    }

    /// Tells every host what the plan says now.
    pub fn apply(&mut self) -> Vec<HostConfig> {
        let configs = self.plan.configs();
        for (host, config) in self.hosts.iter_mut().zip(&configs) {
            assert_eq!(hostconfig::check::check(config), []);
            host.configure(config);
        }
        configs
    }

    /// The clock.
    pub fn now(&self) -> Now {
        self.now
    }

    /// The wires, for weather and for what foreign senders put on them.
    pub fn wires(&self) -> &vswitch::io::memory::Fabric {
        &self.wires
    }

    /// Puts a frame into a port's device; nothing moves yet.
    pub fn inject(&mut self, port: PortUuid, mut frame: Frame) {
        let host = &self.hosts[self.plan.host_of(port)];
        let device = match self.plan.get(port).trunk {
            Some(trunk) => {
                tag(&mut frame, trunk.vlan);
                trunk.parent
            }
            None => port,
        };
        let sent = host.ports[&device].1.send(frame);
        sent.expect("the port's queue has room");
    }

    /// A workload sends a frame; everything moves until nothing does, at this moment. Returns what workloads received.
    pub fn send(&mut self, port: PortUuid, frame: &[u8]) -> Vec<Received> {
        self.inject(
            port,
            Frame {
                bytes: frame.to_vec(),
                offload: Offload::default(),
            },
        );
        self.settle();
        self.receive()
    }

    /// The same, and which drops it made, sorted.
    pub fn send_judged(
        &mut self,
        port: PortUuid,
        frame: &[u8],
    ) -> (Vec<Received>, Vec<DropReason>) {
        let before = self.total();
        let received = self.send(port, frame);
        let after = self.total();
        let drops = DropReason::ALL.iter().flat_map(|&reason| {
            let times = after.dropped(reason) - before.dropped(reason);
            std::iter::repeat_n(reason, usize::try_from(times).unwrap())
        });
        (received, drops.collect())
    }

    /// What the connections of each host show outside whose source became another.
    pub fn shown(&self) -> Vec<Vec<Shown>> {
        self.hosts.iter().map(Switch::shown).collect()
    }

    /// Moves everything until nothing moves, at this moment.
    pub fn settle(&mut self) {
        self.wires.advance(self.now);
        // Fifty hops are more than any frame of a correct fabric takes.
        for _ in 0..200 {
            let mut moved = false;
            for host in &mut self.hosts {
                moved |= host.turn(self.now);
            }
            if !moved {
                self.check();
                return;
            }
        }
        panic_unsettled();
    }

    /// Time passes; whatever is due happens at its time.
    pub fn advance(&mut self, time: Duration) {
        let end = self.now + time;
        loop {
            self.settle();
            match self.next_event() {
                Some(at) if at < end => self.now = at,
                _ => break,
            }
        }
        self.now = end;
        self.settle();
    }

    /// When something is due on a wire or in a switch, after this moment.
    pub fn next_event(&mut self) -> Option<Now> {
        let now = self.now;
        let ticks = self.hosts.iter_mut().filter_map(|h| h.next_tick(now));
        let due = ticks.chain(self.wires.next()).filter(|at| *at > now);
        due.min()
    }

    /// What workloads received since the last time, in order of ports.
    pub fn receive(&mut self) -> Vec<Received> {
        let mut all = vec![];
        for host in &self.hosts {
            for (&port, (_, workload)) in &host.ports {
                while let Some(mut frame) = workload.receive() {
                    let port = untag(&self.plan, port, &mut frame);
                    all.push(Received { port, frame });
                }
            }
        }
        all.sort_by_key(|r| r.port);
        all
    }

    /// What one port received since the last time. Not for ports of trunks: what is not its own is lost.
    pub fn receive_at(&mut self, port: PortUuid) -> Vec<Frame> {
        let workload = &self.hosts[self.plan.host_of(port)].ports[&port].1;
        std::iter::from_fn(|| workload.receive()).collect()
    }

    /// A host's ledger over its workers.
    pub fn ledger(&self, host: usize) -> Ledger {
        self.hosts[host].ledger()
    }

    /// The ledger over all hosts.
    pub fn total(&self) -> Ledger {
        let mut sum = Ledger::default();
        for host in &self.hosts {
            sum.add(&host.ledger());
        }
        sum
    }

    /// The tables of a host.
    pub fn tables(&self, host: usize) -> &Tables {
        &self.hosts[host].tables
    }

    /// The datapaths of a host, one a worker.
    pub fn datapaths(&self, host: usize) -> impl Iterator<Item = &Datapath<Vec<Entry>>> {
        self.hosts[host].workers.iter().map(|w| &w.datapath)
    }

    /// The dense id of a port on its host.
    pub fn dense(&self, port: PortUuid) -> PortId {
        let tables = self.tables(self.plan.host_of(port));
        tables.port_by_id(port).unwrap().dense
    }

    /// Forgets all caches: every connection's record stays, every program and megaflow goes, as when a process takes over from another.
    pub fn restart(&mut self, host: usize) {
        self.settle();
        let (build, now) = (self.build, self.now);
        let switch = &mut self.hosts[host];
        let old = std::mem::take(&mut switch.workers);
        switch.start_workers(&build);
        let claims = Arc::new(Claims::new(10_000, switch.tables.seed()));
        for (mut left, worker) in old.into_iter().zip(&mut switch.workers) {
            left.datapath.drain(now, &mut left.pool);
            left.datapath
                .ledger()
                .balanced()
                .expect("the conservation law");
            let settings = *left.datapath.settings();
            let storage = left.datapath.into_storage();
            let used = storage.len();
            worker.datapath = Datapath::new(settings, storage, used, Arc::clone(&claims), now);
        }
    }

    fn check(&self) {
        for host in &self.hosts {
            host.check();
        }
    }

    /// How many of these the switches made, multiplied and consumed so far.
    pub fn made(&self, what: Originated) -> u64 {
        self.total().originated[what.index()]
    }

    /// Copies made so far.
    pub fn copied(&self, what: Copied) -> u64 {
        self.total().copies[what.index()]
    }

    /// Packets meant for the switch so far.
    pub fn consumed(&self, what: Consumed) -> u64 {
        self.total().consumed[what.index()]
    }
}

impl Switch {
    pub(crate) fn next_tick(&mut self, now: Now) -> Option<Now> {
        let tables = Arc::clone(&self.tables);
        let ticks = self
            .workers
            .iter_mut()
            .filter_map(|w| w.datapath.tick(&tables, now, &mut w.pool, &mut w.out));
        let next = ticks.min();
        for at in 0..self.workers.len() {
            self.flush(at, &tables, now);
        }
        next
    }
}

/// What a trunk's workload does to what it sends by a sub-port. What is too short for a tag stays what it is.
fn tag(frame: &mut Frame, vlan: Vlan) {
    if frame.bytes.len() < 12 {
        return;
    }
    let [t0, t1] = u16::from(vlan).to_be_bytes();
    frame.bytes.splice(12..12, [0x81, 0, t0, t1]);
    if let Checksum::Partial { start, .. } = &mut frame.offload.checksum {
        *start += 4;
    }
}

/// Whose a frame is that came by a port's device; then it is what it would be by a device of its own.
fn untag(plan: &Plan, device: PortUuid, frame: &mut Frame) -> PortUuid {
    let Some((port, bare)) = plan.bears_the_tag_of(device, &frame.bytes) else {
        assert!(frame.bytes.get(12..14) != Some(&[0x81, 0]), "nobody's tag");
        return device;
    };
    frame.bytes = bare;
    if let Checksum::Partial { start, .. } = &mut frame.offload.checksum {
        *start -= 4;
    }
    port
}

#[expect(
    clippy::panic,
    reason = "a fabric in which frames circle is a failed test"
)]
fn panic_unsettled() -> ! {
    panic!("frames circle: nothing settled");
}

impl Drop for Fabric {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            self.settle();
            self.check();
        }
    }
}
