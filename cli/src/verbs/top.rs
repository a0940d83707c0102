//! `overweave top`: where does the time of this host's switch go?

use std::{
    io::{IsTerminal, stdout},
    process::ExitCode,
    thread,
    time::{Duration, Instant},
};

use anyhow::Context;
use comfy_table::{CellAlignment, Table, presets};
use serde_json::{Map, Value, json};

use crate::{
    local::{self, ShowArgs},
    say,
};

/// Show where the time of each worker of the switch on this host goes, live
///
/// One row a worker: the part of its time for reading (rx), parsing and looking connections up, walking the tables, carrying out
/// and running functions, writing (tx), timers and commands (other), looking again before it sleeps (poll), and sleeping (idle);
/// then packets a second, packets a batch, the part of packets whose flow was known, packets handed over to other workers a
/// second, and segments a frame, read and sent: what offloads save. `--json` prints one object an interval.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  overweave top --once --interval 5")]
pub(crate) struct Args {
    #[command(flatten)]
    show: ShowArgs,
    /// Print one interval and end
    #[arg(long)]
    once: bool,
    /// Seconds between two looks
    #[arg(long, value_name = "S", default_value_t = 1.0)]
    interval: f64,
}

/// Clears the screen of a terminal, and goes to its corner.
const CLEAR: &str = "\x1b[H\x1b[2J";
/// The parts of a worker's time, in the order of the columns.
const PARTS: [&str; 8] = [
    "rx",
    "lookup",
    "decide",
    "functions",
    "tx",
    "other",
    "poll",
    "idle",
];

impl Args {
    pub(crate) fn run(&self) -> anyhow::Result<ExitCode> {
        let interval = Duration::try_from_secs_f64(self.interval).context("read --interval")?;
        let live = !self.once && !self.show.json && stdout().is_terminal();
        let mut before = self.look()?;
        loop {
            thread::sleep(interval);
            let now = self.look()?;
            let rows = rows(&before, &now);
            if self.show.json {
                say::json(&json!({ "workers": rows }))?;
            } else {
                let clear = if live { CLEAR } else { "" };
                say::out(&format!("{clear}{}\n", table(&rows)))?;
            }
            if self.once {
                return Ok(ExitCode::SUCCESS);
            }
            before = now;
        }
    }

    fn look(&self) -> anyhow::Result<Look> {
        let reply = local::ask(&self.show.local.run_dir, "top", &json!({}))?;
        Ok(Look {
            at: Instant::now(),
            workers: reply
                .ok
                .get("workers")
                .and_then(Value::as_array)
                .cloned()
                .unwrap_or_default(),
        })
    }
}

/// What the workers had done by then.
struct Look {
    at: Instant,
    workers: Vec<Value>,
}

/// What each worker did between two looks.
fn rows(before: &Look, now: &Look) -> Vec<Value> {
    let seconds = now.at.duration_since(before.at).as_secs_f64();
    let pairs = before.workers.iter().zip(&now.workers);
    pairs.map(|(was, is)| row(was, is, seconds)).collect()
}

/// By how much a counter grew; a switch that was restarted begins anew.
fn grown(was: &Value, is: &Value, pointer: &str) -> f64 {
    let of = |value: &Value| value.pointer(pointer).and_then(Value::as_f64);
    (of(is).unwrap_or_default() - of(was).unwrap_or_default()).max(0.0)
}

fn ratio(part: f64, whole: f64) -> Value {
    if whole > 0.0 {
        json!(part / whole)
    } else {
        Value::Null
    }
}

fn row(was: &Value, is: &Value, seconds: f64) -> Value {
    let grew = |pointer: &str| grown(was, is, pointer);
    let times = PARTS.map(|part| (part, grew(&format!("/seconds/{part}"))));
    let whole: f64 = times.iter().map(|(_, time)| time).sum();
    let shares: Map<_, _> = times
        .into_iter()
        .map(|(part, time)| (part.to_owned(), ratio(time, whole)))
        .collect();
    let known = grew("/lookups/exact") + grew("/lookups/megaflow");
    let offload = |way: &str| {
        let of = |what: &str| {
            let sides = ["port", "tunnel"];
            sides.map(|side| grew(&format!("/{what}/{side}_{way}")))
        };
        ratio(of("segments").iter().sum(), of("frames").iter().sum())
    };
    json!({
        "worker": is.get("worker"),
        "shares": shares,
        "packets_per_second": ratio(grew("/packets"), seconds),
        "packets_per_batch": ratio(grew("/packets"), grew("/batches")),
        "known": ratio(known, known + grew("/lookups/upcall")),
        "handed_per_second": ratio(grew("/handed"), seconds),
        "sleeps_per_second": ratio(grew("/sleeps"), seconds),
        "segments_per_frame_rx": offload("rx"),
        "segments_per_frame_tx": offload("tx"),
        "connections": is.get("connections"),
    })
}

fn table(rows: &[Value]) -> Table {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING);
    let mut head = vec!["worker"];
    head.extend(PARTS);
    head.extend([
        "pkt/s", "batch", "known", "handed/s", "sleeps/s", "seg rx", "seg tx", "conns",
    ]);
    table.set_header(head);
    for row in rows {
        let number = |name: &str, scale: f64, decimals: usize, unit: &str| {
            let number = row.pointer(&format!("/{name}")).and_then(Value::as_f64);
            number.map_or_else(
                || "-".to_owned(),
                |n| format!("{:.decimals$}{unit}", n * scale),
            )
        };
        let mut cells = vec![number("worker", 1.0, 0, "")];
        cells.extend(PARTS.map(|part| number(&format!("shares/{part}"), 100.0, 1, "%")));
        cells.extend([
            number("packets_per_second", 1.0, 0, ""),
            number("packets_per_batch", 1.0, 1, ""),
            number("known", 100.0, 1, "%"),
            number("handed_per_second", 1.0, 0, ""),
            number("sleeps_per_second", 1.0, 0, ""),
            number("segments_per_frame_rx", 1.0, 1, ""),
            number("segments_per_frame_tx", 1.0, 1, ""),
            number("connections", 1.0, 0, ""),
        ]);
        table.add_row(cells);
    }
    for column in table.column_iter_mut() {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    fn worker(rx: f64, idle: f64, packets: u64, frames: u64, segments: u64) -> Value {
        json!({
            "worker": 1,
            "seconds": {"rx": rx, "idle": idle},
            "sleeps": packets,
            "handed": 0,
            "frames": {"port_rx": frames, "tunnel_rx": frames},
            "segments": {"port_rx": segments, "tunnel_rx": frames},
            "batches": packets / 2,
            "packets": packets,
            "lookups": {"exact": packets - packets / 4, "upcall": packets / 4},
            "connections": 7,
        })
    }

    #[test]
    fn a_row_is_the_difference_of_two_looks() {
        let row = row(
            &worker(1.0, 9.0, 1000, 100, 100),
            &worker(1.5, 10.5, 5000, 200, 1100),
            2.0,
        );
        assert_eq!(row["shares"]["rx"], 0.25);
        assert_eq!(row["shares"]["idle"], 0.75);
        assert_eq!(row["packets_per_second"], 2000.0);
        assert_eq!(row["packets_per_batch"], 2.0);
        assert_eq!(row["known"], 0.75);
        assert_eq!(row["segments_per_frame_rx"], 5.5);
        assert_eq!(
            row["segments_per_frame_tx"],
            Value::Null,
            "nothing was sent"
        );
        let text = table(&[row]).to_string();
        assert!(text.contains("25.0%") && text.contains("5.5"), "{text}");
    }

    #[test]
    fn a_restarted_switch_does_not_go_backwards() {
        let (old, new) = (worker(9.0, 9.0, 9000, 9, 9), worker(1.0, 1.0, 8, 1, 1));
        assert_eq!(row(&old, &new, 1.0)["packets_per_second"], 0.0);
    }
}
