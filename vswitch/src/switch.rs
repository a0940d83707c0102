//! What does the agent move?
//!
//! The workers of this host with their tables, the underlay's sockets, and the taps: [`LocalSwitch`] is what the agent's
//! decisions are carried out by. Each worker runs a [`Lane`]: its datapath, on the tables behind one shared pointer.
//!
//! # Invariants
//! - A config runs when every worker has said so.
//! - The queues of a port that goes are taken from the workers before the tables that no longer know it are swapped in: its
//!   dense id may be another port's in them.

use std::{
    collections::{BTreeMap, BTreeSet},
    error::Error as _,
    fs,
    net::IpAddr,
    num::NonZeroU16,
    path::Path,
    sync::{Arc, Mutex, PoisonError},
};

use arc_swap::ArcSwap;
use hostconfig::{
    HostConfig, SectionKey,
    share::{OneWay, Use},
};
use net::{DropReason, Id, Now, PortId, ids::kind};
use nfv::conntrack::Entry;
use rustix::fs::SeekFrom;
use serde_json::json;
use tokio::sync::mpsc;
use tracing::{error, info, warn};

use crate::{
    agent::{
        DeviceError, Input, Switch, Wanted,
        apply::wired,
        balanced::Balanced,
        chain,
        device::{place, spec},
        meters::{self, Count},
        report::Obstacles,
        session::Complaint,
        state::{Attachment, Ports},
    },
    config::{Config, UplinkChoice},
    datapath::{
        Claims, Datapath, Lease, Settings, Tables, WorkerId,
        explain::{Described, Entrance, NotExplained, explain},
        probes::Verdict,
    },
    dump,
    effort::Effort,
    io::{
        Underlay,
        mapping::{ConnMapping, MappingError},
        steering::Steering,
        tap::Tap,
        underlay::{UdpUnderlay, UnderlayError, UnderlaySpec},
        uplink::{Uplink, UplinkCounters, UplinkError},
    },
    local::{Answer, Ask, Explain, Refusal, Rows, code},
    metadata::{self, Service, ServiceError},
    stats::WorkerStats,
    wires::{Look, Wires},
    worker::{self, Command, Handle, Lane, Limits, SharedTables, WorkerGone},
};

/// The version of [`Entry`]: another one's tables are begun anew.
const LAYOUT: u64 = 2;
/// Packets in a ring between two workers.
const RING: usize = 1024;
/// Extents of a connection table's file that are looked at; one with more is read whole.
const EXTENTS: usize = 4096;

/// Why the workers could not be started.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The underlay's sockets.
    #[error(transparent)]
    Underlay(#[from] UnderlayError),
    /// The uplink tap, where nothing else will do.
    #[error("no uplink tap (`uplink = \"udp\"` does without)")]
    Uplink(#[from] UplinkError),
    /// A connection table.
    #[error(transparent)]
    Mapping(#[from] MappingError),
    /// Threads, event queues.
    #[error("can't start a worker")]
    Worker(#[source] std::io::Error),
    /// The metadata service.
    #[error(transparent)]
    Metadata(#[from] ServiceError),
    /// A worker ended as it began.
    #[error("a worker ended as it began; see the log")]
    Gone(#[from] WorkerGone),
}

/// What each worker runs: its datapath, its connections in a file that outlives the process.
type Live = Lane<ConnMapping<Entry>>;

/// The workers and devices of this host.
#[derive(Debug)]
pub(crate) struct LocalSwitch {
    seed: u64,
    tables: SharedTables,
    workers: Vec<Handle<Live>>,
    queues: NonZeroU16,
    steering: Steering,
    /// Ports whose queues the workers have, under which number.
    open: BTreeMap<Id<kind::Port>, PortId>,
    wires: Wires,
    gone: Gone,
    /// The host does not hear from its controller.
    alone: bool,
    lease: Arc<Lease>,
    /// A worker's counters of the uplink tap; none where there is no tap.
    uplink: Vec<Arc<UplinkCounters>>,
    metadata: Service,
    claims: Arc<Claims>,
}

/// A worker's datapath and its tables.
type Workings<'a> = (&'a Datapath<ConnMapping<Entry>>, &'a Tables);

/// Ports whose devices the workers lost and nobody heard of yet.
type Gone = Arc<Mutex<BTreeSet<Id<kind::Port>>>>;

impl LocalSwitch {
    /// Starts the workers, which refuse everything until they are told more.
    ///
    /// # Errors
    /// When the underlay, a connection table or a thread can't be had.
    pub(crate) fn start(
        config: &Config,
        vtep: IpAddr,
        seed: u64,
        inputs: &mpsc::Sender<Input>,
    ) -> Result<Self, StartError> {
        let count = u16::try_from(config.workers.get()).unwrap_or(u16::MAX);
        let queues = NonZeroU16::new(count).unwrap_or(NonZeroU16::MIN);
        let lease = Arc::<Lease>::default();
        let tables = Arc::new(ArcSwap::from_pointee(
            Tables::empty(seed)
                .at(vtep)
                .alone(true)
                .under(Arc::clone(&lease)),
        ));
        // Two a connection at most, so that the tables of connections are full first, whose limits keep tenants apart.
        let most = config.conntrack_entries * usize::from(count) * 2;
        let claims = Arc::new(Claims::new(most, seed));
        let gone = Gone::default();
        let alone = UnderlaySpec::new(vtep);
        // Sockets that are shared among workers would be shared with another switch too: one that is not finds it.
        drop(UdpUnderlay::open(&alone)?);
        let steering = Steering::new(seed, count);
        let underlay = UnderlaySpec {
            shared: (count > 1).then_some(steering),
            ..alone
        };
        let mut tap = uplink(config.uplink, vtep, queues)?;
        if let Some(tap) = &tap {
            tap.steer(&steering);
        }
        let mut counters = Vec::new();
        let mut workers = Vec::new();
        let (foundation, hatches) = metadata::Foundation::new(count);
        let seats = worker::crew(count, RING).map_err(StartError::Worker)?;
        for (seat, hatch) in seats.into_iter().zip(hatches) {
            let WorkerId(number) = seat.id();
            let path = config.run_dir.join(format!("connections-{number}"));
            let used = used_entries(&path, config.conntrack_entries);
            let storage = ConnMapping::<Entry>::open(&path, LAYOUT, config.conntrack_entries)?;
            let used = if storage.is_fresh() { 0 } else { used };
            let settings = Settings {
                worker: seat.id(),
                workers: count,
                seed,
                project_connections: config.project_connections,
                rates: config.rates,
                ..Settings::default()
            };
            let now = worker::monotonic();
            let datapath = Datapath::new(settings, storage, used, Arc::clone(&claims), now);
            info!(
                worker = number,
                connections = datapath.conntrack().len(),
                "worker starts"
            );
            let corridor = Lane::new(datapath, Arc::clone(&tables)).with_metadata(hatch);
            let lost = lost(Arc::clone(&tables), Arc::clone(&gone), inputs.clone());
            let limits = Limits {
                spin: config.busy_poll,
                port_drops: share(config.rates.drops, config.workers),
                ..Limits::default()
            };
            let handle = worker::spawn(seat, corridor, limits, lost).map_err(StartError::Worker)?;
            let socket = UdpUnderlay::open(&underlay)?;
            let underlay = match &mut tap {
                Some(tap) => {
                    let counted = Arc::<UplinkCounters>::default();
                    counters.push(Arc::clone(&counted));
                    Box::new(tap.queue(socket, counted)?) as Box<dyn Underlay>
                }
                None => Box::new(socket),
            };
            handle.tell(Command::SetUnderlay(Some(underlay)))?;
            workers.push(handle);
        }
        let ringers = workers.iter().map(Handle::ringer).collect();
        let nova = config.nova_metadata.as_ref();
        let metadata = {
            let tables = Arc::clone(&tables);
            foundation.start(nova, (seed, tables), ringers, worker::monotonic)?
        };
        Ok(Self {
            seed,
            tables,
            workers,
            queues,
            steering,
            open: BTreeMap::new(),
            wires: Wires::new(config.physical_networks.clone()),
            gone,
            alone: true,
            lease,
            uplink: counters,
            metadata,
            claims,
        })
    }

    /// Waits until every worker runs what it was told, on the tables that stand.
    fn settle(&self) {
        for worker in &self.workers {
            if let Err(gone) = worker.ask(|_, _| ()) {
                error!(%gone, "a worker does not answer");
            }
        }
    }

    fn tell(&self, command: impl Fn() -> Command<Live>) {
        for worker in &self.workers {
            if let Err(gone) = worker.tell(command()) {
                error!(%gone, "a worker does not listen");
            }
        }
    }

    /// Gives a tap's queues to the workers, one each.
    fn serve(&mut self, port: Id<kind::Port>, tap: Tap) -> Result<(), DeviceError> {
        let tables = self.tables.load_full();
        let known = tables.port_by_id(port).map(|p| p.dense);
        let dense = known.ok_or_else(|| DeviceError {
            code: code::DEVICE,
            message: format!("the switch does not run port {port}"),
        })?;
        tap.steer(&self.steering);
        for (worker, queue) in self.workers.iter().zip(tap.into_queues()) {
            if let Err(gone) = worker.tell(Command::AddPort(dense, Box::new(queue))) {
                error!(%gone, "a worker does not listen");
            }
        }
        self.open.insert(port, dense);
        self.settle();
        Ok(())
    }

    /// What each worker says to a question.
    fn all<T: Send + 'static>(
        &self,
        question: impl Fn(Workings<'_>, Now) -> Vec<T> + Clone + Send + 'static,
    ) -> Result<Vec<T>, Refusal> {
        let mut rows = Vec::new();
        for worker in &self.workers {
            let question = question.clone();
            let answer = worker.ask(move |lane, now| question(lane.view(), now));
            let ended = |gone: WorkerGone| Refusal::new(code::UNAVAILABLE, gone.to_string());
            rows.extend(answer.map_err(ended)?);
        }
        Ok(rows)
    }

    /// What each worker counted, and what it did.
    fn efforts(&self) -> Result<Vec<(u16, WorkerStats, Effort)>, Refusal> {
        let ended = |gone: WorkerGone| Refusal::new(code::UNAVAILABLE, gone.to_string());
        let all = (0u16..).zip(&self.workers);
        all.map(|(number, worker)| {
            let stats = worker.ask(|lane, _| WorkerStats::of(lane.view().0));
            let stats = stats.map_err(ended)?;
            Ok((number, stats, worker.effort().map_err(ended)?))
        })
        .collect()
    }

    fn stats(&self) -> Result<WorkerStats, Refusal> {
        let mut sum = WorkerStats::default();
        for (number, stats, effort) in self.efforts()? {
            sum.add(&stats);
            sum.efforts.push((number, effort));
        }
        for counters in &self.uplink {
            sum.uplink.get_or_insert_default().add(&counters.read());
        }
        sum.metadata = Some(self.metadata.counts());
        Ok(sum)
    }

    fn explain(&self, ask: &Explain) -> Result<Answer, Refusal> {
        let refuse = |e: NotExplained| {
            let code = match e {
                NotExplained::Port(_) => code::UNKNOWN_PORT,
                NotExplained::Description(_)
                | NotExplained::Ambiguous(_)
                | NotExplained::Network(_)
                | NotExplained::Wire(_)
                | NotExplained::Destination(_) => code::BAD_REQUEST,
            };
            Refusal::new(code, e.to_string())
        };
        let tables = self.tables.load_full();
        let packet: Described = ask.packet.parse().map_err(refuse)?;
        let entrance = match (&ask.port, ask.tunnel, &ask.wire) {
            (Some(port), None, None) => Entrance::Port(port.clone()),
            (None, None, Some(network)) => Entrance::Wire(network.clone()),
            (None, Some(tunnel), None) if tables.admits(tunnel.vtep) => {
                Entrance::Tunnel(tunnel.vni)
            }
            (None, Some(tunnel), None) => {
                let reason = DropReason::UnknownVtep.name();
                return Ok(Answer {
                    ok: json!({"verdict": {
                        "result": "dropped", "reason": reason, "stage": "io",
                        "rule": null, "object": null,
                    }}),
                    text: format!(
                        "tunnel (vni {})\nverdict   dropped: {reason} (io), {} is no VTEP of the fabric\n",
                        tunnel.vni, tunnel.vtep
                    ),
                });
            }
            _ => {
                let either = "a packet comes from a port, over the tunnel, or off a wire";
                return Err(Refusal::new(code::BAD_REQUEST, either));
            }
        };
        let told = explain(&tables, &entrance, &packet, worker::monotonic()).map_err(refuse)?;
        Ok(Answer {
            text: format!("{told}\n"),
            ok: json!(told),
        })
    }
}

/// The uplink tap, if it is wanted and can be had.
fn uplink(
    choice: UplinkChoice,
    vtep: IpAddr,
    queues: NonZeroU16,
) -> Result<Option<Uplink>, UplinkError> {
    if choice == UplinkChoice::Udp {
        return Ok(None);
    }
    match Uplink::open(vtep, queues) {
        Ok(tap) => {
            info!(tap = tap.name(), link = tap.link(), "uplink tap");
            Ok(Some(tap))
        }
        Err(error) if choice == UplinkChoice::Auto => {
            let cause = error.source().map(ToString::to_string);
            info!(%error, cause, "no uplink tap; the underlay goes through UDP sockets");
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

/// A fault of the tables, which begins with the section that it is of: `chain 6f1c…: why`.
pub(crate) fn complaint(fault: &str) -> Complaint {
    let of = fault
        .split_once(": ")
        .map(|(of, _)| of.replacen(' ', "/", 1));
    Complaint {
        key: of
            .filter(|key| key.parse::<SectionKey>().is_ok())
            .unwrap_or_default(),
        text: fault.to_owned(),
    }
}

/// Says that a port's device went away.
fn lost(tables: SharedTables, gone: Gone, inputs: mpsc::Sender<Input>) -> worker::Lost {
    Box::new(move |dense| {
        let Some(port) = tables.load().port(dense).map(|p| p.id) else {
            if tables.load().wired(dense).is_some() {
                error!(
                    wire = dense.0,
                    "a packet socket does not work any more; restart the vswitch"
                );
            }
            return;
        };
        gone.lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(port);
        // When there is no room the agent has much to do, and looks behind it.
        drop(inputs.try_send(Input::DeviceGone));
    })
}

/// Up to which entry the file of a connection table holds anything: what was never written is a hole.
fn used_entries(path: &Path, capacity: usize) -> usize {
    let Ok(file) = fs::File::open(path) else {
        return 0;
    };
    let mut end = 0;
    for _ in 0..EXTENTS {
        let Ok(data) = rustix::fs::seek(&file, SeekFrom::Data(end)) else {
            // No more data.
            let entries = usize::try_from(end).unwrap_or(usize::MAX) / size_of::<Entry>();
            return entries.saturating_add(1).min(capacity);
        };
        match rustix::fs::seek(&file, SeekFrom::Hole(data)) {
            Ok(hole) if hole > end => end = hole,
            Ok(_) | Err(_) => return capacity,
        }
    }
    capacity
}

impl Switch for LocalSwitch {
    fn fence(&mut self, alone: bool) {
        self.alone = alone;
    }

    fn lease(&mut self, until: Now) {
        self.lease.extend(until);
    }

    fn lapsed(&mut self) -> bool {
        self.lease.has_lapsed()
    }

    fn run(&mut self, config: &HostConfig, ports: &Ports) -> Vec<Complaint> {
        let leaving: Vec<_> = self
            .open
            .keys()
            .filter(|id| !config.sections.contains_key(&SectionKey::Port(**id)))
            .copied()
            .collect();
        for port in leaving {
            self.close(port);
        }
        for dense in self.wires.leave(config) {
            self.tell(|| Command::RemovePort(dense));
        }
        let zones = ports.zones.iter().map(|(id, zone)| (*id, *zone)).collect();
        let before = Tables::clone(&self.tables.load()).alone(self.alone);
        let tables = Tables::build(Some(&before), config, &zones, self.seed);
        let faults = tables.faults().iter().map(|fault| complaint(fault));
        let complaints = faults.collect();
        self.settle();
        // Before the first packet of a new port may ask.
        self.metadata.told(config);
        self.tables.store(Arc::new(tables));
        self.settle();
        complaints
    }

    fn wires(&mut self, config: &HostConfig) -> Obstacles {
        let tables = self.tables.load_full();
        let dense = |network| tables.wire_of(tables.network_by_id(network)?.dense);
        let mut obstacles = Obstacles::new();
        for (network, wire) in wired(config) {
            let Some(port) = dense(network.id) else {
                continue;
            };
            match self.wires.look(network, wire) {
                Look::Stands => {}
                Look::Obstacle(why) => drop(obstacles.insert(network.id, why)),
                Look::Gone(port, why) => {
                    self.tell(|| Command::RemovePort(port));
                    self.settle();
                    obstacles.insert(network.id, why);
                }
                Look::Open(interface, why) => {
                    let reader = u16::try_from(port.index()).unwrap_or(0) % self.queues;
                    match self.wires.open(
                        network.id,
                        wire,
                        (port, interface),
                        (self.queues, reader),
                    ) {
                        Ok(opened) => {
                            for (worker, queue) in self.workers.iter().zip(opened.into_queues()) {
                                if let Err(gone) =
                                    worker.tell(Command::AddPort(port, Box::new(queue)))
                                {
                                    error!(%gone, "a worker does not listen");
                                }
                            }
                            obstacles.extend(why.map(|why| (network.id, why)));
                        }
                        Err(error) => drop(obstacles.insert(network.id, chain(&error))),
                    }
                }
            }
        }
        obstacles
    }

    fn create(&mut self, wanted: &Wanted<'_>) -> Result<(), DeviceError> {
        let place = place(wanted.port.id, wanted.at)?;
        let tap = Tap::create(&place, &spec(wanted, self.queues))?;
        self.serve(wanted.port.id, tap)
    }

    fn open(&mut self, wanted: &Wanted<'_>) -> Result<(), DeviceError> {
        let place = place(wanted.port.id, wanted.at)?;
        let tap = Tap::open(&place, self.queues)?;
        self.serve(wanted.port.id, tap)
    }

    fn change(&mut self, wanted: &Wanted<'_>) -> Result<(), DeviceError> {
        let place = place(wanted.port.id, wanted.at)?;
        Ok(Tap::change(&place, wanted.port.mac.into(), wanted.mtu())?)
    }

    fn close(&mut self, port: Id<kind::Port>) {
        if let Some(dense) = self.open.remove(&port) {
            self.tell(|| Command::RemovePort(dense));
            self.settle();
        }
    }

    fn delete(&mut self, port: Id<kind::Port>, at: &Attachment) -> Result<(), DeviceError> {
        Ok(Tap::delete(&place(port, at)?)?)
    }

    fn gone(&mut self) -> Vec<Id<kind::Port>> {
        let mut gone = self.gone.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::take(&mut *gone).into_iter().collect()
    }

    fn meters(&mut self) -> BTreeMap<meters::Key, Count> {
        let tables = self.tables.load_full();
        let Ok(stats) = self.stats() else {
            // A worker that ended counts no more: the agent sees that by itself.
            return BTreeMap::new();
        };
        let rows = stats.meters(&tables);
        rows.map(|(label, router, counted)| {
            let count = Count {
                packets: counted.packets,
                bytes: counted.bytes,
            };
            ((label, router), count)
        })
        .collect()
    }

    fn divide(&mut self, parts: &BTreeMap<OneWay, u64>) -> BTreeMap<OneWay, Use> {
        let parts = Arc::new(parts.clone());
        let mut sums = BTreeMap::<OneWay, Use>::new();
        for worker in &self.workers {
            let parts = Arc::clone(&parts);
            // A worker that ended lets nothing through: the agent sees that by itself.
            let uses = worker.ask(move |lane, now| lane.divide(&parts, now));
            for (way, used) in uses.unwrap_or_default() {
                let sum = sums.entry(way).or_default();
                sum.bits = sum.bits.saturating_add(used.bits);
                sum.waits |= used.waits;
            }
        }
        sums
    }

    fn balanced(&mut self) -> Balanced {
        let tables = self.tables.load_full();
        let Ok(stats) = self.stats() else {
            return Balanced::new();
        };
        let rows = stats.listeners(&tables);
        rows.map(|(listener, counted)| (listener.uuid(), counted))
            .collect()
    }

    fn verdicts(&mut self) -> Vec<Verdict> {
        self.claims.probes().verdicts()
    }

    fn ask(&mut self, ask: &Ask) -> Result<Answer, Refusal> {
        let own = |rows: &Rows| rows.clone();
        match ask {
            Ask::Explain(ask) => self.explain(ask),
            Ask::Flows(rows) => {
                let rows = own(rows);
                let limit = rows.limit;
                let all =
                    self.all(move |(datapath, tables), _| dump::flows(datapath, tables, &rows))?;
                Ok(dump::answer("flows", all, limit))
            }
            Ask::Conntrack(rows) => {
                let rows = own(rows);
                let limit = rows.limit;
                let all = self.all(move |(datapath, tables), now| {
                    dump::connections(datapath, tables, &rows, now)
                })?;
                Ok(dump::answer("connections", all, limit))
            }
            Ask::Drops(rows) => {
                let rows = own(rows);
                let limit = rows.limit;
                let all = self.all(move |(datapath, tables), now| {
                    dump::drops(datapath, tables, &rows, now)
                })?;
                Ok(dump::answer("drops", dump::merge_drops(all), limit))
            }
            Ask::Fdb(rows) => {
                let all = dump::fdb(&self.tables.load(), rows);
                Ok(dump::answer("fdb", all, rows.limit))
            }
            Ask::Top => Ok(Answer {
                ok: dump::top(&self.efforts()?),
                ..Answer::default()
            }),
            Ask::Metrics => {
                let families = self.stats()?.families(&self.tables.load());
                Ok(Answer {
                    text: dump::prometheus(&families),
                    ..Answer::default()
                })
            }
            Ask::Status => {
                let stats = self.stats()?;
                let balance = stats.ledger.balanced();
                Ok(Answer {
                    ok: json!({
                        "tables": self.tables.load().version(),
                        "connections": stats.connections,
                        "held": stats.ledger.held,
                        "unbalanced": balance.err(),
                    }),
                    ..Answer::default()
                })
            }
            Ask::Attach(_) | Ask::Detach(_) | Ask::Health => {
                let not_here = "the agent answers this";
                Err(Refusal::new(code::BAD_REQUEST, not_here))
            }
        }
    }

    fn is_alive(&mut self) -> bool {
        self.workers.iter().all(|w| w.ask(|_, _| ()).is_ok())
    }

    fn stop(&mut self) {
        for worker in self.workers.drain(..) {
            if worker.stop().is_err() {
                warn!("a worker had ended before; see the log");
            }
        }
        // With the workers its last hatch is gone.
        self.metadata.join();
        self.open.clear();
    }
}

/// What each of so many workers has of it.
fn share(rate: u32, workers: std::num::NonZeroUsize) -> u32 {
    rate.div_ceil(u32::try_from(workers.get()).unwrap_or(u32::MAX))
}
