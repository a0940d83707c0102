//! What is counted, and under which name is it told?
//!
//! [`METRICS`] is the one table of the switch's metrics. Workers count in plain `u64` of their own ([`Counters`]); a scrape asks
//! each for a [`WorkerStats`], which add up, and [`WorkerStats::families`] gives rows for whoever renders.
//!
//! # Invariants
//! Labels come from configuration, never from packets.

use hostconfig::group::Direction;
use net::{DropReason, Id, PortId, VtepId, ids::kind};
use nfv::{chain::HopCounters, conntrack::Entry};

use crate::datapath::{Datapath, HopId, Ledger, MeterId, Refusal, Stage, Tables};
use crate::effort::{self, Effort};
use crate::io::uplink::UplinkTraffic;
use crate::metadata;

/// What kind of metric it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MetricKind {
    /// It only grows.
    Counter,
    /// It goes up and down.
    Gauge,
    /// Counts by size.
    Histogram,
}

impl MetricKind {
    /// Its word in Prometheus' text format.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram => "histogram",
        }
    }
}

/// A metric as it is declared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Metric {
    /// Its name.
    pub name: &'static str,
    /// Its kind.
    pub kind: MetricKind,
    /// Its labels.
    pub labels: &'static [&'static str],
    /// What it counts.
    pub help: &'static str,
}

pub(crate) const fn metric(
    name: &'static str,
    kind: MetricKind,
    labels: &'static [&'static str],
    help: &'static str,
) -> Metric {
    Metric {
        name,
        kind,
        labels,
        help,
    }
}

/// Every metric of the switch. The agent's are beside it.
pub const METRICS: &[Metric] = &[
    metric(
        "vswitch_rx_packets_total",
        MetricKind::Counter,
        &["port"],
        "Segments read from a port.",
    ),
    metric(
        "vswitch_rx_bytes_total",
        MetricKind::Counter,
        &["port"],
        "Bytes read from a port.",
    ),
    metric(
        "vswitch_tx_packets_total",
        MetricKind::Counter,
        &["port"],
        "Segments written to a port.",
    ),
    metric(
        "vswitch_tx_bytes_total",
        MetricKind::Counter,
        &["port"],
        "Bytes written to a port.",
    ),
    metric(
        "vswitch_wire_packets_total",
        MetricKind::Counter,
        &["network", "direction"],
        "Segments read from the wire of a network, and written to it.",
    ),
    metric(
        "vswitch_wire_bytes_total",
        MetricKind::Counter,
        &["network", "direction"],
        "Bytes of those.",
    ),
    metric(
        "vswitch_drops_total",
        MetricKind::Counter,
        &["stage", "reason"],
        "Segments dropped.",
    ),
    metric(
        "vswitch_qos_packets_total",
        MetricKind::Counter,
        &["port", "direction", "verdict"],
        "Segments at the limit that a QoS policy sets a port, or the port that holds a floating IP's or a gateway's address.",
    ),
    metric(
        "vswitch_qos_bytes_total",
        MetricKind::Counter,
        &["port", "direction"],
        "Bytes there, those included that found no room.",
    ),
    metric(
        "vswitch_ecn_marked_total",
        MetricKind::Counter,
        &["stage"],
        "Segments that queues marked (CE) in place of a drop.",
    ),
    metric(
        "vswitch_originated_total",
        MetricKind::Counter,
        &["kind"],
        "Segments that the switch made.",
    ),
    metric(
        "vswitch_consumed_total",
        MetricKind::Counter,
        &["kind"],
        "Segments that were meant for the switch.",
    ),
    metric(
        "vswitch_flow_lookups_total",
        MetricKind::Counter,
        &["tier"],
        "Packets by where their flow was found.",
    ),
    metric(
        "vswitch_flows",
        MetricKind::Gauge,
        &["table"],
        "Entries of the flow tables.",
    ),
    metric(
        "vswitch_held_packets",
        MetricKind::Gauge,
        &[],
        "Segments that wait in queues.",
    ),
    metric(
        "vswitch_unaccounted_segments",
        MetricKind::Gauge,
        &[],
        "Segments that began and neither ended nor wait: 0, or the switch has a mistake.",
    ),
    metric(
        "vswitch_batch_packets",
        MetricKind::Histogram,
        &[],
        "Packets in a batch.",
    ),
    metric(
        "vswitch_tables_version",
        MetricKind::Gauge,
        &[],
        "Version of the tables in use.",
    ),
    metric(
        "vswitch_worker_seconds_total",
        MetricKind::Counter,
        &["worker", "part"],
        "Time of a worker thread, by what it did: rx, lookup, decide, functions, tx, other, poll (looked again before it slept), idle.",
    ),
    metric(
        "vswitch_worker_turns_total",
        MetricKind::Counter,
        &["worker"],
        "Times that a worker thread went around its loop.",
    ),
    metric(
        "vswitch_worker_sleeps_total",
        MetricKind::Counter,
        &["worker"],
        "Times that a worker thread went to sleep.",
    ),
    metric(
        "vswitch_worker_handed_packets_total",
        MetricKind::Counter,
        &["worker"],
        "Packets that a worker thread handed over to another.",
    ),
    metric(
        "vswitch_worker_frames_total",
        MetricKind::Counter,
        &["worker", "direction", "side"],
        "Frames that a worker thread read from ports and the tunnel, and sent to them; a super-frame is one.",
    ),
    metric(
        "vswitch_worker_segments_total",
        MetricKind::Counter,
        &["worker", "direction", "side"],
        "Segments in those frames: more than one a frame is what offloads save.",
    ),
    metric(
        "vswitch_uplink_packets_total",
        MetricKind::Counter,
        &["direction", "path"],
        "Segments that crossed the underlay, by way: the uplink tap, or the sockets beside it.",
    ),
    metric(
        "vswitch_metadata_requests_total",
        MetricKind::Counter,
        &["code"],
        "Requests that the metadata service answered, by HTTP status.",
    ),
    metric(
        "vswitch_metadata_names_total",
        MetricKind::Counter,
        &["by"],
        "Questions for names by TCP, by who answered (network: the switch, by what the network knows; server: its name server) or why none did (failed: the name server; malformed: it was none). Those by UDP are `dns` among vswitch_consumed_total.",
    ),
    metric(
        "vswitch_metadata_connections",
        MetricKind::Gauge,
        &[],
        "Connections to the metadata service, half-open and closing ones included.",
    ),
    metric(
        "vswitch_metadata_refused_total",
        MetricKind::Counter,
        &["limit"],
        "Connections that the metadata service did not take (port, host: as many as may be), packets that it lost (packets: its port's queue was full, or it could not be read), and ports whose connections ended by a mistake of ours (fault).",
    ),
    metric(
        "overlay_encap_packets_total",
        MetricKind::Counter,
        &["vtep"],
        "Segments sent to a VTEP.",
    ),
    metric(
        "overlay_encap_bytes_total",
        MetricKind::Counter,
        &["vtep"],
        "Inner bytes sent to a VTEP.",
    ),
    metric(
        "overlay_decap_packets_total",
        MetricKind::Counter,
        &["vtep"],
        "Frames received from a VTEP.",
    ),
    metric(
        "overlay_flood_copies_total",
        MetricKind::Counter,
        &[],
        "Copies made for floods.",
    ),
    metric(
        "overlay_fdb_entries",
        MetricKind::Gauge,
        &["network"],
        "MAC addresses known of a network.",
    ),
    metric(
        "nfv_packets_total",
        MetricKind::Counter,
        &["chain", "function", "verdict"],
        "Segments at a function.",
    ),
    metric(
        "nfv_bytes_total",
        MetricKind::Counter,
        &["chain", "function"],
        "Bytes at a function.",
    ),
    metric(
        "nfv_inspector_alerts_total",
        MetricKind::Counter,
        &["chain", "function"],
        "Patterns that an inspector met and only counted.",
    ),
    metric(
        "vswitch_meter_packets_total",
        MetricKind::Counter,
        &["label", "router"],
        "Segments that crossed a router's gateway and count under a metering label.",
    ),
    metric(
        "vswitch_meter_bytes_total",
        MetricKind::Counter,
        &["label", "router"],
        "Bytes of IP of those.",
    ),
    metric(
        "nfv_conntrack_entries",
        MetricKind::Gauge,
        &[],
        "Connections tracked.",
    ),
    metric(
        "nfv_conntrack_inserted_total",
        MetricKind::Counter,
        &[],
        "Connections made.",
    ),
    metric(
        "nfv_conntrack_evicted_total",
        MetricKind::Counter,
        &[],
        "Connections that had to go for others.",
    ),
    metric(
        "nfv_conntrack_expired_total",
        MetricKind::Counter,
        &[],
        "Connections that were silent for too long.",
    ),
];

/// Segments and bytes each way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Traffic {
    /// Segments read.
    pub rx_packets: u64,
    /// Bytes read.
    pub rx_bytes: u64,
    /// Segments written.
    pub tx_packets: u64,
    /// Bytes written.
    pub tx_bytes: u64,
}

impl Traffic {
    fn add(&mut self, other: &Self) {
        self.rx_packets += other.rx_packets;
        self.rx_bytes += other.rx_bytes;
        self.tx_packets += other.tx_packets;
        self.tx_bytes += other.tx_bytes;
    }
}

/// Packets by where their flow was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Lookups {
    /// In the connection table.
    pub exact: u64,
    /// Among the megaflows.
    pub megaflow: u64,
    /// Nowhere: the tables were walked.
    pub upcall: u64,
}

/// Upper bounds of the batch histogram's buckets.
pub const BATCH_BOUNDS: [usize; 7] = [1, 2, 4, 8, 16, 32, 64];

const CAUSES: usize = Stage::ALL.len() * DropReason::COUNT;

/// One worker's counters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Counters {
    /// By [`PortId`].
    pub ports: Vec<Traffic>,
    /// By [`VtepId`].
    pub vteps: Vec<Traffic>,
    /// By [`HopId`].
    pub hops: Vec<HopCounters>,
    /// By [`MeterId`].
    pub meters: Vec<HopCounters>,
    /// By [`PortId`], then by direction: what came to a limit.
    pub limits: Vec<[HopCounters; 2]>,
    /// Where flows were found.
    pub lookups: Lookups,
    /// Batches by size.
    pub batches: [u64; BATCH_BOUNDS.len()],
    /// Packets in all batches.
    pub batched: u64,
    /// Segments that queues marked (ECN), by [`Stage`].
    pub marked: [u64; Stage::ALL.len()],
    drops: Vec<u64>,
    /// Where a counter goes whose index can't be.
    nowhere: HopCounters,
}

impl Default for Counters {
    fn default() -> Self {
        Self {
            ports: Vec::new(),
            vteps: Vec::new(),
            hops: Vec::new(),
            meters: Vec::new(),
            limits: Vec::new(),
            lookups: Lookups::default(),
            batches: [0; BATCH_BOUNDS.len()],
            batched: 0,
            marked: [0; Stage::ALL.len()],
            drops: vec![0; CAUSES],
            nowhere: HopCounters::default(),
        }
    }
}

fn at<T: Clone + Default>(list: &mut Vec<T>, index: usize) -> Option<&mut T> {
    // Dense ids are few: a list grows when an object is new, and never again.
    if index >= list.len() {
        list.resize(index + 1, T::default());
    }
    list.get_mut(index)
}

impl Counters {
    pub(crate) fn receive(&mut self, port: PortId, segments: u64, bytes: u64) {
        if let Some(port) = at(&mut self.ports, port.index()) {
            port.rx_packets += segments;
            port.rx_bytes += bytes;
        }
    }

    pub(crate) fn transmit(&mut self, port: PortId, segments: u64, bytes: u64) {
        if let Some(port) = at(&mut self.ports, port.index()) {
            port.tx_packets += segments;
            port.tx_bytes += bytes;
        }
    }

    pub(crate) fn untransmit(&mut self, port: PortId, segments: u64, bytes: u64) {
        if let Some(port) = at(&mut self.ports, port.index()) {
            port.tx_packets = port.tx_packets.saturating_sub(segments);
            port.tx_bytes = port.tx_bytes.saturating_sub(bytes);
        }
    }

    pub(crate) fn tunnel_tx(&mut self, vtep: VtepId, segments: u64, bytes: u64) {
        if let Some(vtep) = at(&mut self.vteps, vtep.index()) {
            vtep.tx_packets += segments;
            vtep.tx_bytes += bytes;
        }
    }

    pub(crate) fn tunnel_rx(&mut self, vtep: VtepId) {
        if let Some(vtep) = at(&mut self.vteps, vtep.index()) {
            vtep.rx_packets += 1;
        }
    }

    pub(crate) fn hop(&mut self, hop: HopId) -> &mut HopCounters {
        at(&mut self.hops, hop.0 as usize).unwrap_or(&mut self.nowhere)
    }

    pub(crate) fn meter(&mut self, meter: MeterId) -> &mut HopCounters {
        at(&mut self.meters, meter.0 as usize).unwrap_or(&mut self.nowhere)
    }

    pub(crate) fn limit(&mut self, port: PortId, direction: Direction) -> &mut HopCounters {
        at(&mut self.limits, port.index())
            .and_then(|both| both.get_mut(direction as usize))
            .unwrap_or(&mut self.nowhere)
    }

    pub(crate) fn batch(&mut self, packets: usize) {
        let bucket = BATCH_BOUNDS.partition_point(|b| *b < packets);
        if let Some(bucket) = self.batches.get_mut(bucket) {
            *bucket += 1;
        }
        self.batched += packets as u64;
    }

    pub(crate) fn drop(&mut self, refusal: &Refusal, segments: u64) {
        let index = refusal.stage as usize * DropReason::COUNT + refusal.reason.index();
        if let Some(counter) = self.drops.get_mut(index) {
            *counter += segments;
        }
    }

    pub(crate) fn mark(&mut self, stage: Stage, segments: u64) {
        if let Some(counter) = self.marked.get_mut(stage as usize) {
            *counter += segments;
        }
    }

    /// Sets to zero what is counted for ports, VTEPs and hops that are no longer there.
    pub(crate) fn forget(&mut self, tables: &Tables) {
        for (id, port) in (0u32..).zip(&mut self.ports) {
            let id = PortId(id);
            if tables.port(id).is_none() && tables.wired(id).is_none() {
                *port = Traffic::default();
            }
        }
        for (id, limits) in (0u32..).zip(&mut self.limits) {
            if tables.limited(PortId(id)).is_none() {
                *limits = <[HopCounters; 2]>::default();
            }
        }
        for (id, vtep) in (0u32..).zip(&mut self.vteps) {
            if tables.vtep(VtepId(id)).is_none() {
                *vtep = Traffic::default();
            }
        }
        for (id, hop) in (0u32..).zip(&mut self.hops) {
            if tables.hop(HopId(id)).is_none() {
                *hop = HopCounters::default();
            }
        }
        for (id, meter) in (0u32..).zip(&mut self.meters) {
            if !tables.is_metered(MeterId(id)) {
                *meter = HopCounters::default();
            }
        }
    }

    /// Drops by stage and reason, where there were any.
    pub fn drops(&self) -> impl Iterator<Item = (Stage, DropReason, u64)> + '_ {
        let causes = Stage::ALL
            .iter()
            .flat_map(|s| DropReason::ALL.iter().map(move |r| (*s, *r)));
        causes
            .zip(&self.drops)
            .filter(|(_, n)| **n > 0)
            .map(|((s, r), n)| (s, r, *n))
    }

    /// The sum with another worker's.
    pub fn add(&mut self, other: &Self) {
        for (index, from) in other.ports.iter().enumerate() {
            if let Some(to) = at(&mut self.ports, index) {
                to.add(from);
            }
        }
        for (index, from) in other.vteps.iter().enumerate() {
            if let Some(to) = at(&mut self.vteps, index) {
                to.add(from);
            }
        }
        for (index, from) in other.hops.iter().enumerate() {
            if let Some(to) = at(&mut self.hops, index) {
                *to += *from;
            }
        }
        for (index, from) in other.meters.iter().enumerate() {
            if let Some(to) = at(&mut self.meters, index) {
                *to += *from;
            }
        }
        for (to, from) in self.marked.iter_mut().zip(other.marked) {
            *to += from;
        }
        for (index, from) in other.limits.iter().enumerate() {
            let to = at(&mut self.limits, index);
            for (to, from) in to.into_iter().flatten().zip(from) {
                *to += *from;
            }
        }
        self.lookups.exact += other.lookups.exact;
        self.lookups.megaflow += other.lookups.megaflow;
        self.lookups.upcall += other.lookups.upcall;
        for (to, from) in self.batches.iter_mut().zip(other.batches) {
            *to += from;
        }
        self.batched += other.batched;
        for (to, from) in self.drops.iter_mut().zip(&other.drops) {
            *to += from;
        }
    }
}

/// Label values in the order of the declaration, and the number.
pub type Row = (Vec<String>, u64);

/// A metric with its rows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Family {
    /// Its declaration.
    pub metric: &'static Metric,
    /// Its rows.
    pub rows: Vec<Row>,
}

/// What a worker answers to a scrape, and what the sum over workers is.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct WorkerStats {
    /// Its counters.
    pub counters: Counters,
    /// Its ledger.
    pub ledger: Ledger,
    /// Its connections.
    pub connections: u64,
    /// Its megaflows.
    pub megaflows: u64,
    /// Its masks of megaflows.
    pub masks: u64,
    /// Its programs.
    pub programs: u64,
    /// What its connection table counts.
    pub conntrack: nfv::conntrack::Stats,
    /// What took which way over the underlay, where there is an uplink tap.
    pub uplink: Option<UplinkTraffic>,
    /// What the metadata service counted, where one runs.
    pub metadata: Option<metadata::Counts>,
    /// What each worker did, by its number.
    pub efforts: Vec<(u16, Effort)>,
}

impl WorkerStats {
    /// A worker's numbers as they are now.
    pub fn of<M: AsRef<[Entry]> + AsMut<[Entry]>>(datapath: &Datapath<M>) -> Self {
        Self {
            counters: datapath.counters().clone(),
            ledger: datapath.ledger().clone(),
            connections: datapath.conntrack().len() as u64,
            megaflows: datapath.megaflows().len() as u64,
            masks: datapath.megaflows().masks() as u64,
            programs: datapath.programs().len() as u64,
            conntrack: *datapath.conntrack().stats(),
            uplink: None,
            metadata: None,
            efforts: Vec::new(),
        }
    }

    /// The sum with another worker's.
    pub fn add(&mut self, other: &Self) {
        self.counters.add(&other.counters);
        self.ledger.add(&other.ledger);
        self.connections += other.connections;
        self.megaflows += other.megaflows;
        self.masks += other.masks;
        self.programs += other.programs;
        self.conntrack.inserted += other.conntrack.inserted;
        self.conntrack.evicted += other.conntrack.evicted;
        self.conntrack.expired += other.conntrack.expired;
        self.conntrack.invalid += other.conntrack.invalid;
        self.conntrack.refused += other.conntrack.refused;
        if let Some(uplink) = &other.uplink {
            self.uplink.get_or_insert_default().add(uplink);
        }
        self.efforts.extend_from_slice(&other.efforts);
    }

    /// Every metric with its rows: label values in the order of the declaration, and the number, of a time in nanoseconds. Histograms have one row a
    /// bucket, cumulative, labelled by its bound, and then `sum` and `count`.
    pub fn families(&self, tables: &Tables) -> Vec<Family> {
        METRICS
            .iter()
            .map(|metric| Family {
                metric,
                rows: self.rows(metric.name, tables),
            })
            .collect()
    }

    fn rows(&self, name: &str, tables: &Tables) -> Vec<Row> {
        let plain = |n: u64| vec![(Vec::new(), n)];
        let ports = |value: fn(&Traffic) -> u64| {
            let of = |p: &crate::datapath::tables::Port| self.counters.ports.get(p.dense.index());
            let rows = tables.ports();
            rows.map(|p| (vec![p.id.to_string()], of(p).map_or(0, value)))
                .collect()
        };
        let vteps = |value: fn(&Traffic) -> u64| {
            let of = |id: VtepId| self.counters.vteps.get(id.index());
            let rows = tables.vteps();
            rows.map(|(id, v)| (vec![v.addr.to_string()], of(id).map_or(0, value)))
                .collect()
        };
        match name {
            "vswitch_rx_packets_total" => ports(|t| t.rx_packets),
            "vswitch_rx_bytes_total" => ports(|t| t.rx_bytes),
            "vswitch_tx_packets_total" => ports(|t| t.tx_packets),
            "vswitch_tx_bytes_total" => ports(|t| t.tx_bytes),
            "vswitch_wire_packets_total" => self.wires(tables, |t| (t.rx_packets, t.tx_packets)),
            "vswitch_wire_bytes_total" => self.wires(tables, |t| (t.rx_bytes, t.tx_bytes)),
            "vswitch_drops_total" => self
                .counters
                .drops()
                .map(|(s, r, n)| (vec![s.name().to_owned(), r.name().to_owned()], n))
                .collect(),
            "vswitch_qos_packets_total" => verdicts(self.limits(tables)),
            "vswitch_qos_bytes_total" => self.limits(tables).map(|(l, c)| (l, c.bytes)).collect(),
            "vswitch_ecn_marked_total" => {
                let stages = Stage::ALL.iter().zip(self.counters.marked);
                let queues = stages.filter(|(s, _)| matches!(s, Stage::Chain | Stage::Qos));
                queues
                    .map(|(s, n)| (vec![s.name().to_owned()], n))
                    .collect()
            }
            "vswitch_originated_total" => {
                let kinds = net::Originated::ALL.iter().zip(self.ledger.originated);
                kinds.map(|(k, n)| (vec![k.name().to_owned()], n)).collect()
            }
            "vswitch_consumed_total" => {
                let kinds = net::Consumed::ALL.iter().zip(self.ledger.consumed);
                kinds.map(|(k, n)| (vec![k.name().to_owned()], n)).collect()
            }
            "vswitch_flow_lookups_total" => {
                let l = self.counters.lookups;
                let tiers = [
                    ("exact", l.exact),
                    ("megaflow", l.megaflow),
                    ("upcall", l.upcall),
                ];
                tiers.map(|(t, n)| (vec![t.to_owned()], n)).to_vec()
            }
            "vswitch_flows" => {
                let of = [
                    ("conntrack", self.connections),
                    ("megaflow", self.megaflows),
                    ("mask", self.masks),
                    ("program", self.programs),
                ];
                of.map(|(t, n)| (vec![t.to_owned()], n)).to_vec()
            }
            "vswitch_held_packets" => plain(self.ledger.held),
            "vswitch_unaccounted_segments" => plain(self.ledger.unaccounted()),
            "vswitch_batch_packets" => self.batch_rows(),
            "vswitch_tables_version" => plain(tables.version()),
            "vswitch_uplink_packets_total" => self.uplink.map_or_else(Vec::new, |t| {
                let rows = [
                    ("rx", "tap", t.rx_tap),
                    ("rx", "socket", t.rx_socket),
                    ("tx", "tap", t.tx_tap),
                    ("tx", "socket", t.tx_socket),
                ];
                let row = |(d, p, n): (&str, &str, u64)| (vec![d.to_owned(), p.to_owned()], n);
                rows.map(row).to_vec()
            }),
            name if name.starts_with("vswitch_metadata_") => {
                metadata::rows(name, &self.metadata.unwrap_or_default())
            }
            "overlay_encap_packets_total" => vteps(|t| t.tx_packets),
            "overlay_encap_bytes_total" => vteps(|t| t.tx_bytes),
            "overlay_decap_packets_total" => vteps(|t| t.rx_packets),
            "overlay_flood_copies_total" => plain(self.ledger.copies.iter().sum()),
            "overlay_fdb_entries" => tables
                .networks()
                .map(|n| (vec![n.id.to_string()], n.fdb.len() as u64))
                .collect(),
            "nfv_packets_total" => verdicts(self.hops(tables)),
            "nfv_bytes_total" => self.hops(tables).map(|(l, c)| (l, c.bytes)).collect(),
            "nfv_inspector_alerts_total" => {
                let inspectors = self.hops(tables).filter(|(_, c)| c.alerts > 0);
                inspectors.map(|(l, c)| (l, c.alerts)).collect()
            }
            "vswitch_meter_packets_total" => self.metered(tables, |c| c.packets),
            "vswitch_meter_bytes_total" => self.metered(tables, |c| c.bytes),
            "nfv_conntrack_entries" => plain(self.connections),
            "nfv_conntrack_inserted_total" => plain(self.conntrack.inserted),
            "nfv_conntrack_evicted_total" => plain(self.conntrack.evicted),
            "nfv_conntrack_expired_total" => plain(self.conntrack.expired),
            _ => effort::rows(name, &self.efforts),
        }
    }

    fn batch_rows(&self) -> Vec<Row> {
        let mut sum = 0;
        let mut rows: Vec<_> = BATCH_BOUNDS
            .iter()
            .zip(self.counters.batches)
            .map(|(bound, n)| {
                sum += n;
                (vec![bound.to_string()], sum)
            })
            .collect();
        rows.push((vec!["sum".to_owned()], self.counters.batched));
        rows.push((vec!["count".to_owned()], sum));
        rows
    }

    /// What is counted of each wire, by network and direction.
    fn wires(&self, tables: &Tables, value: fn(&Traffic) -> (u64, u64)) -> Vec<Row> {
        let rows = tables.wires().flat_map(|(network, wire)| {
            let counted = self.counters.ports.get(wire.port.index());
            let (rx, tx) = counted.map_or((0, 0), value);
            [("rx", rx), ("tx", tx)].map(|(direction, n)| {
                let labels = vec![network.id.to_string(), direction.to_owned()];
                (labels, n)
            })
        });
        rows.collect()
    }

    /// The counters of each limit, by port and direction.
    fn limits<'a>(
        &'a self,
        tables: &'a Tables,
    ) -> impl Iterator<Item = (Vec<String>, HopCounters)> + 'a {
        let local = tables.ports().filter(|port| port.qos.is_some());
        let all = local.map(|port| port.dense).chain(tables.limited_outside());
        all.flat_map(|port| {
            let counters = self.counters.limits.get(port.index());
            let counters = counters.copied().unwrap_or_default();
            let limited = tables.limited(port).into_iter();
            limited.flat_map(move |(id, qos)| {
                let limits = [Direction::Ingress, Direction::Egress].into_iter();
                let limits = limits.filter(|direction| qos.limit(*direction).is_some());
                limits.map(move |direction| {
                    let name = match direction {
                        Direction::Ingress => "ingress",
                        Direction::Egress => "egress",
                    };
                    let counters = counters.get(direction as usize).copied();
                    let labels = vec![id.to_string(), name.to_owned()];
                    (labels, counters.unwrap_or_default())
                })
            })
        })
    }

    /// What each router counted under each of its labels.
    pub fn meters<'a>(
        &'a self,
        tables: &'a Tables,
    ) -> impl Iterator<Item = (Id<kind::MeteringLabel>, Id<kind::Router>, HopCounters)> + 'a {
        tables.meters().map(|(id, label, router)| {
            let counters = self.counters.meters.get(id.0 as usize).copied();
            (label, router, counters.unwrap_or_default())
        })
    }

    fn metered(&self, tables: &Tables, value: fn(&HopCounters) -> u64) -> Vec<Row> {
        let rows = self.meters(tables);
        rows.map(|(label, router, counters)| {
            let labels = vec![label.to_string(), router.to_string()];
            (labels, value(&counters))
        })
        .collect()
    }

    /// What passed each listener of a load balancer: a chain that has its function's id.
    pub fn listeners<'a>(
        &'a self,
        tables: &'a Tables,
    ) -> impl Iterator<Item = (Id<kind::PortChain>, HopCounters)> + 'a {
        (0u32..).zip(0..tables.hop_bound()).filter_map(|(id, at)| {
            let hop = tables.hop(HopId(id))?;
            let counters = self.counters.hops.get(at).copied().unwrap_or_default();
            (hop.chain.uuid() == hop.function.uuid()).then_some((hop.chain, counters))
        })
    }

    /// Each hop's counters, by chain and function.
    pub fn hops<'a>(
        &'a self,
        tables: &'a Tables,
    ) -> impl Iterator<Item = (Vec<String>, HopCounters)> + 'a {
        (0u32..).zip(0..tables.hop_bound()).filter_map(|(id, at)| {
            let hop = tables.hop(HopId(id))?;
            let counters = self.counters.hops.get(at).copied().unwrap_or_default();
            Some((
                vec![hop.chain.to_string(), hop.function.to_string()],
                counters,
            ))
        })
    }
}

/// What passed and what was dropped, of what reached each.
fn verdicts(counted: impl Iterator<Item = (Vec<String>, HopCounters)>) -> Vec<Row> {
    let rows = counted.flat_map(|(labels, c)| {
        let row = |verdict: &str, n| {
            let mut labels = labels.clone();
            labels.push(verdict.to_owned());
            (labels, n)
        };
        let pass = c.packets.saturating_sub(c.drops);
        [row("pass", pass), row("drop", c.drops)]
    });
    rows.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_metric_is_told_with_its_labels() {
        let stats = WorkerStats::default();
        let families = stats.families(&Tables::empty(1));
        assert_eq!(families.len(), METRICS.len());
        let mut names = std::collections::BTreeSet::new();
        for Family { metric, rows } in families {
            assert!(names.insert(metric.name));
            if metric.kind != MetricKind::Histogram {
                assert!(rows.iter().all(|(l, _)| l.len() == metric.labels.len()));
            }
            if metric.labels.is_empty() {
                assert!(!rows.is_empty(), "{} has no rows", metric.name);
            }
        }
    }

    #[test]
    fn sums_are_sums() {
        let mut a = Counters::default();
        let mut b = Counters::default();
        a.receive(PortId(3), 2, 100);
        b.receive(PortId(3), 1, 50);
        b.hop(HopId(1)).count(4, 400);
        b.batch(3);
        b.drop(&Refusal::new(DropReason::AdminDown, Stage::Ingress), 5);
        a.add(&b);
        assert_eq!(a.ports[3].rx_packets, 3);
        assert_eq!(a.hops[1].packets, 4);
        assert_eq!(
            a.drops().collect::<Vec<_>>(),
            [(Stage::Ingress, DropReason::AdminDown, 5)]
        );
    }
}
