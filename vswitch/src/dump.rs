//! What does the switch know now, in words?
//!
//! Rows for people and programs, made where the data is: a worker's own thread reads its tables and sends rows, never the
//! tables. Dense ids become the API's here.
//!
//! # Limits
//! A worker makes [`Rows::limit`] rows at most, so that a dump of a full table can't hold up its packets for long.

use std::{collections::BTreeMap, fmt::Write as _};

use net::{Now, Zone};
use nfv::conntrack::{Entry, Side};
use overlay::Place;
use serde::Serialize;
use serde_json::{Value, json};

use crate::{
    datapath::{
        Datapath, DropText, ProgramId, Tables, WorkerId,
        explain::{actions, megaflow},
    },
    effort::{Carried, Effort, Medium, Part},
    local::{Answer, Rows},
    stats::{Family, MetricKind, WorkerStats},
};

/// What each worker did since it began, for whoever takes two and looks at the difference.
pub(crate) fn top(workers: &[(u16, WorkerStats, Effort)]) -> Value {
    let carried = |effort: &Effort, value: fn(Carried) -> u64| {
        json!({
            "port_rx": value(effort.rx(Medium::Port)),
            "port_tx": value(effort.tx(Medium::Port)),
            "tunnel_rx": value(effort.rx(Medium::Tunnel)),
            "tunnel_tx": value(effort.tx(Medium::Tunnel)),
        })
    };
    let row = |(worker, stats, effort): &(u16, WorkerStats, Effort)| {
        let seconds: serde_json::Map<_, _> = Part::ALL
            .iter()
            .map(|part| {
                let time = effort.time(*part).as_secs_f64();
                (part.name().to_owned(), json!(time))
            })
            .collect();
        let lookups = stats.counters.lookups;
        json!({
            "worker": worker,
            "seconds": seconds,
            "turns": effort.turns,
            "sleeps": effort.sleeps,
            "handed": effort.handed,
            "frames": carried(effort, |c| c.frames),
            "segments": carried(effort, |c| c.segments),
            "batches": stats.counters.batches.iter().sum::<u64>(),
            "packets": stats.counters.batched,
            "lookups": {
                "exact": lookups.exact,
                "megaflow": lookups.megaflow,
                "upcall": lookups.upcall,
            },
            "connections": stats.connections,
        })
    };
    json!({"workers": workers.iter().map(row).collect::<Vec<_>>()})
}

/// A row of a dump.
pub(crate) trait Row: Serialize {
    /// The columns' names.
    const HEAD: &'static [&'static str];
    /// The columns.
    fn cells(&self) -> Vec<String>;
}

/// How packets of some kind are forwarded.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct FlowRow {
    worker: u16,
    /// `exact`: one direction of a connection; `megaflow`: all that match.
    table: &'static str,
    #[serde(rename = "match")]
    matches: String,
    actions: String,
    /// Packets, where they are counted by flow.
    packets: Option<u64>,
    bytes: Option<u64>,
}

impl Row for FlowRow {
    const HEAD: &'static [&'static str] = &["worker", "table", "match", "actions", "packets"];
    fn cells(&self) -> Vec<String> {
        vec![
            self.worker.to_string(),
            self.table.to_owned(),
            self.matches.clone(),
            self.actions.clone(),
            self.packets.map_or("-".to_owned(), |n| n.to_string()),
        ]
    }
}

/// A connection.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct ConnRow {
    worker: u16,
    state: &'static str,
    /// As the initiator's packets show it.
    original: String,
    /// As the replies show it.
    reply: String,
    /// The ports in whose zones it was seen, by name; of a gateway its router's.
    ports: Vec<String>,
    packets: [u64; 2],
    bytes: [u64; 2],
    /// Where it was translated to.
    binding: Option<String>,
    seconds_left: u32,
}

impl Row for ConnRow {
    const HEAD: &'static [&'static str] =
        &["worker", "state", "original", "reply", "packets", "left"];
    fn cells(&self) -> Vec<String> {
        let [there, back] = self.packets;
        vec![
            self.worker.to_string(),
            self.state.to_owned(),
            self.original.clone(),
            self.reply.clone(),
            format!("{there}/{back}"),
            format!("{}s", self.seconds_left),
        ]
    }
}

impl Row for DropText {
    const HEAD: &'static [&'static str] =
        &["reason", "stage", "rule", "port", "packets", "ago", "last"];
    fn cells(&self) -> Vec<String> {
        let id = |id: Option<String>| id.unwrap_or_else(|| "-".to_owned());
        vec![
            self.reason.to_owned(),
            self.stage.to_owned(),
            id(self.rule.map(|r| r.to_string())),
            id(self.port.map(|p| p.to_string())),
            self.packets.to_string(),
            format!("{}s", self.seconds_ago),
            self.last.clone(),
        ]
    }
}

/// Where a MAC address lives.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct FdbRow {
    network: String,
    vni: u32,
    mac: String,
    /// A local port's name, a VTEP's address, or `virtual`.
    at: String,
    port: String,
}

impl Row for FdbRow {
    const HEAD: &'static [&'static str] = &["network", "vni", "mac", "at", "port"];
    fn cells(&self) -> Vec<String> {
        vec![
            self.network.clone(),
            self.vni.to_string(),
            self.mac.clone(),
            self.at.clone(),
            self.port.clone(),
        ]
    }
}

/// A worker's flows: its megaflows, then each direction of its connections.
pub(crate) fn flows<M: AsRef<[Entry]> + AsMut<[Entry]>>(
    datapath: &Datapath<M>,
    tables: &Tables,
    rows: &Rows,
) -> Vec<FlowRow> {
    let WorkerId(worker) = datapath.settings().worker;
    let does = |program: ProgramId, to: Option<&str>| {
        let flow = datapath.programs().get(program);
        flow.map(|flow| actions(tables, flow, to))
    };
    let wild = datapath.megaflows().iter().filter_map(|(key, mask, id)| {
        Some(FlowRow {
            worker,
            table: "megaflow",
            matches: megaflow(tables, key, mask),
            actions: does(id, None)?,
            packets: None,
            bytes: None,
        })
    });
    let sides = datapath.conntrack().iter().flat_map(|(_, entry)| {
        let translated = entry.binding().is_some();
        Side::BOTH.into_iter().filter_map(move |side| {
            let of = entry.side(side);
            let to = translated.then(|| entry.translated(side).to_string());
            Some(FlowRow {
                worker,
                table: "exact",
                matches: format!("{} in {}", of.tuple(), zone(tables, of.zone())),
                actions: does(ProgramId::from_number(of.program()), to.as_deref())?,
                packets: Some(entry.packets(side)),
                bytes: Some(entry.bytes(side)),
            })
        })
    });
    rows.take(wild.chain(sides))
}

/// A worker's connections.
pub(crate) fn connections<M: AsRef<[Entry]> + AsMut<[Entry]>>(
    datapath: &Datapath<M>,
    tables: &Tables,
    rows: &Rows,
    now: Now,
) -> Vec<ConnRow> {
    let WorkerId(worker) = datapath.settings().worker;
    let connections = datapath.conntrack();
    rows.take(connections.iter().map(|(_, entry)| {
        let [original, reply] = Side::BOTH.map(|side| entry.side(side));
        let mut ports = vec![zone(tables, original.zone())];
        if reply.zone() != original.zone() {
            ports.push(zone(tables, reply.zone()));
        }
        let translated = entry.binding().is_some();
        ConnRow {
            worker,
            state: entry.stage().name(),
            original: original.tuple().to_string(),
            reply: reply.tuple().to_string(),
            ports,
            packets: Side::BOTH.map(|side| entry.packets(side)),
            bytes: Side::BOTH.map(|side| entry.bytes(side)),
            binding: translated.then(|| entry.translated(Side::Original).to_string()),
            seconds_left: connections.seconds_left(entry, now),
        }
    }))
}

/// A worker's drop records.
pub(crate) fn drops<M: AsRef<[Entry]> + AsMut<[Entry]>>(
    datapath: &Datapath<M>,
    tables: &Tables,
    rows: &Rows,
    now: Now,
) -> Vec<DropText> {
    let records = datapath.drops().iter();
    rows.take(records.map(|r| r.text(now, |port| tables.port(port).map(|p| p.id))))
}

/// The records of all workers, of one cause in one row; the latest first.
pub(crate) fn merge_drops(all: Vec<DropText>) -> Vec<DropText> {
    let mut merged: BTreeMap<_, DropText> = BTreeMap::new();
    for record in all {
        let cause = (record.reason, record.stage, record.rule, record.port);
        match merged.get_mut(&cause) {
            None => drop(merged.insert(cause, record)),
            Some(there) => {
                there.packets += record.packets;
                there.bytes += record.bytes;
                if record.seconds_ago < there.seconds_ago {
                    there.seconds_ago = record.seconds_ago;
                    there.last = record.last;
                }
            }
        }
    }
    let mut rows: Vec<_> = merged.into_values().collect();
    rows.sort_by_key(|r| r.seconds_ago);
    rows
}

/// Where MAC addresses live, on every network.
pub(crate) fn fdb(tables: &Tables, rows: &Rows) -> Vec<FdbRow> {
    let mut all: Vec<_> = tables
        .networks()
        .flat_map(|network| {
            network.fdb.iter().map(move |(mac, entry)| FdbRow {
                network: network.name.clone(),
                vni: network.vni.into(),
                mac: mac.to_string(),
                at: match entry.place {
                    Place::Local(port) => {
                        let port = tables.port(port);
                        port.map_or_else(String::new, |p| format!("here ({})", p.name))
                    }
                    Place::Vtep(_) if network.wire.is_some() => network.outside(),
                    Place::Vtep(vtep) => {
                        let vtep = tables.vtep(vtep);
                        vtep.map_or_else(String::new, |v| v.addr.to_string())
                    }
                    Place::Virtual => "virtual".to_owned(),
                    Place::Router(router) => {
                        let router = tables.router(router);
                        router.map_or_else(String::new, |r| format!("router {}", r.name))
                    }
                },
                port: entry.port.to_string(),
            })
        })
        .collect();
    all.extend(tables.outside().show().into_iter().filter_map(|known| {
        let network = tables.network_by_id(known.network)?;
        Some(FdbRow {
            network: network.name.clone(),
            vni: network.vni.into(),
            mac: known
                .mac
                .map_or_else(|| "?".to_owned(), |mac| mac.to_string()),
            at: format!("{}: {} ({})", network.outside(), known.addr, known.state),
            port: String::new(),
        })
    }));
    all.sort_by(|a, b| (a.vni, &a.mac).cmp(&(b.vni, &b.mac)));
    rows.take(all.into_iter())
}

/// The port of a zone: its name, or its router's where it is a gateway; the number of one that is gone.
fn zone(tables: &Tables, zone: Zone) -> String {
    if let Some(port) = tables.ports().find(|p| p.zone == zone) {
        return port.name.clone();
    }
    let router = tables.router_of_zone(zone);
    router.map_or_else(
        || format!("zone {zone}"),
        |r| format!("gateway of router {}", r.name),
    )
}

impl Rows {
    /// Those that name what was asked for: one more than the limit, so that it shows when there are more.
    fn take<R: Row>(&self, rows: impl Iterator<Item = R>) -> Vec<R> {
        let named = |row: &R| {
            self.needle.as_ref().is_none_or(|needle| {
                let names = |cell: &String| cell.contains(needle.as_str());
                row.cells().iter().any(names)
            })
        };
        rows.filter(named)
            .take(self.limit.saturating_add(1))
            .collect()
    }
}

/// The answer of a dump: rows under `key`, and as a table.
pub(crate) fn answer<R: Row>(key: &str, mut rows: Vec<R>, limit: usize) -> Answer {
    let cut = rows.len() > limit;
    rows.truncate(limit);
    let values: Vec<Value> = rows.iter().map(|r| json!(r)).collect();
    Answer {
        ok: json!({key: values, "cut": cut}),
        text: table(&rows),
    }
}

/// Columns as wide as their widest cell; the last as it is.
fn table<R: Row>(rows: &[R]) -> String {
    let mut lines = vec![R::HEAD.iter().map(|h| h.to_uppercase()).collect::<Vec<_>>()];
    lines.extend(rows.iter().map(Row::cells));
    let mut widths = vec![0; R::HEAD.len()];
    for line in &lines {
        for (width, cell) in widths.iter_mut().zip(line) {
            *width = (*width).max(cell.chars().count());
        }
    }
    if let Some(last) = widths.last_mut() {
        *last = 0;
    }
    let mut text = String::new();
    for line in lines {
        for (at, (width, cell)) in widths.iter().zip(line).enumerate() {
            let gap = if at == 0 { "" } else { "  " };
            write!(text, "{gap}{cell:<width$}").unwrap_or_default();
        }
        text.push('\n');
    }
    text
}

/// Metrics in Prometheus' text format.
pub(crate) fn prometheus(families: &[Family]) -> String {
    let mut text = String::new();
    for Family { metric, rows } in families {
        let (name, kind) = (metric.name, metric.kind.name());
        writeln!(text, "# HELP {name} {}\n# TYPE {name} {kind}", metric.help).unwrap_or_default();
        for (values, number) in rows {
            if metric.kind == MetricKind::Histogram {
                let bound = values.first().map_or("", String::as_str);
                if matches!(bound, "sum" | "count") {
                    writeln!(text, "{name}_{bound} {number}").unwrap_or_default();
                    if bound == "count" {
                        writeln!(text, "{name}_bucket{{le=\"+Inf\"}} {number}").unwrap_or_default();
                    }
                } else {
                    writeln!(text, "{name}_bucket{{le=\"{bound}\"}} {number}").unwrap_or_default();
                }
                continue;
            }
            let labels: Vec<_> = metric
                .labels
                .iter()
                .zip(values)
                .map(|(label, value)| format!("{label}=\"{}\"", escaped(value)))
                .collect();
            let labels = if labels.is_empty() {
                String::new()
            } else {
                format!("{{{}}}", labels.join(","))
            };
            if name.contains("_seconds") {
                let (whole, nanos) = (number / 1_000_000_000, number % 1_000_000_000);
                writeln!(text, "{name}{labels} {whole}.{nanos:09}").unwrap_or_default();
                continue;
            }
            writeln!(text, "{name}{labels} {number}").unwrap_or_default();
        }
    }
    text
}

fn escaped(value: &str) -> String {
    value
        .replace('\\', "\\\\")
        .replace('"', "\\\"")
        .replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use net::DropReason;

    use super::*;
    use crate::{
        datapath::{Settings, ZoneMap},
        stats::{Metric, WorkerStats},
    };

    fn tables() -> Tables {
        use crate::agent::testkit::{config, endpoint, network, port};
        let zones: ZoneMap = [(uuid::Uuid::from_u128(1).into(), Zone(1))].into();
        let mut vteps = hostconfig::Vteps::default();
        vteps.vteps.insert(
            "192.0.2.2".parse().unwrap(),
            hostconfig::vtep::Vtep {
                host: "h2".to_owned(),
                foreign: false,
            },
        );
        let config = config([
            hostconfig::Section::Vteps(vteps),
            network(1, 5001),
            port(1, 1),
            endpoint(2, 1),
        ]);
        Tables::build(None, &config, &zones, 7)
    }

    fn drop_of(reason: DropReason, packets: u64, seconds_ago: u64) -> DropText {
        DropText {
            reason: reason.name(),
            stage: "ingress",
            rule: None,
            port: None,
            packets,
            bytes: packets * 60,
            seconds_ago,
            last: format!("{seconds_ago} s ago"),
        }
    }

    #[test]
    fn the_fdb_says_who_is_where() {
        let tables = tables();
        let rows = fdb(&tables, &Rows::default());
        let said: Vec<_> = rows.iter().map(|r| (r.vni, r.at.as_str())).collect();
        assert_eq!(said, [(5001, "here (port-1)"), (5001, "192.0.2.2")]);
        let some = Rows {
            needle: Some("192.0.2.2".to_owned()),
            ..Rows::default()
        };
        assert_eq!(fdb(&tables, &some).len(), 1);
        let one = Rows {
            limit: 1,
            ..Rows::default()
        };
        let cut = super::answer("fdb", fdb(&tables, &one), one.limit);
        assert_eq!(cut.ok["fdb"].as_array().unwrap().len(), 1);
        assert_eq!(cut.ok["cut"], true);
        let answer = answer("fdb", rows, 10);
        assert_eq!(answer.ok["fdb"].as_array().unwrap().len(), 2);
        let lines: Vec<_> = answer.text.lines().collect();
        assert!(
            lines[0].starts_with("NETWORK  VNI   MAC"),
            "{}",
            answer.text
        );
        assert_eq!(lines.len(), 3);
    }

    #[test]
    fn drops_of_one_cause_are_one_row_and_the_latest_is_first() {
        let all = vec![
            drop_of(DropReason::UnknownVtep, 3, 90),
            drop_of(DropReason::FirewallDenied, 1, 60),
            drop_of(DropReason::UnknownVtep, 2, 5),
        ];
        let rows = merge_drops(all);
        assert_eq!(rows.len(), 2);
        assert_eq!(
            (rows[0].reason, rows[0].packets),
            (DropReason::UnknownVtep.name(), 5)
        );
        assert_eq!(rows[0].last, "5 s ago");
    }

    #[test]
    fn a_worker_without_traffic_has_nothing_to_show() {
        let tables = tables();
        let claims = std::sync::Arc::new(crate::datapath::Claims::new(16, 7));
        let storage = vec![Entry::default(); 64];
        let datapath = Datapath::new(Settings::default(), storage, 0, claims, Now::ZERO);
        let rows = Rows::default();
        assert!(flows(&datapath, &tables, &rows).is_empty());
        assert!(connections(&datapath, &tables, &rows, Now::ZERO).is_empty());
        assert!(drops(&datapath, &tables, &rows, Now::ZERO).is_empty());
        let text = prometheus(&WorkerStats::of(&datapath).families(&tables));
        assert!(text.contains("\noverlay_fdb_entries{network=\""), "{text}");
        assert!(text.contains("# TYPE vswitch_batch_packets histogram\n"));
    }

    #[test]
    fn metrics_are_rendered_as_prometheus_reads_them() {
        static COUNTER: Metric = Metric {
            name: "a_total",
            kind: MetricKind::Counter,
            labels: &["port"],
            help: "Counts.",
        };
        static HISTOGRAM: Metric = Metric {
            name: "b",
            kind: MetricKind::Histogram,
            labels: &[],
            help: "Sizes.",
        };
        let row = |label: &str, n| (vec![label.to_owned()], n);
        let text = prometheus(&[
            Family {
                metric: &COUNTER,
                rows: vec![row("a\"\\\nb", 3)],
            },
            Family {
                metric: &HISTOGRAM,
                rows: vec![row("1", 2), row("sum", 9), row("count", 4)],
            },
        ]);
        let expected = "# HELP a_total Counts.\n# TYPE a_total counter\na_total{port=\"a\\\"\\\\\\nb\"} 3\n\
                        # HELP b Sizes.\n# TYPE b histogram\nb_bucket{le=\"1\"} 2\nb_sum 9\nb_count 4\nb_bucket{le=\"+Inf\"} 4\n";
        assert_eq!(text, expected);
    }
}
