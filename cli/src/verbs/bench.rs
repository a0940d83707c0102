//! `overweave bench`: how fast is the datapath on this machine?

use std::{process::ExitCode, time::Duration};

use anyhow::Context;
use comfy_table::{CellAlignment, Table, presets};
use serde_json::{Value, json};
use vswitch::bench::{self, Figure, Options, Work};

use crate::say;

/// Measure the datapath on this machine, in memory, on one core
///
/// Frames of 64 bytes go from a replay buffer through the production datapath. Beside each figure stands the floor: the frames
/// copied and freed, with no switch between. Let nothing else run meanwhile.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  overweave bench security-group chain:5 --flows 10000")]
pub(crate) struct Args {
    /// What to measure: l2, encapsulate, decapsulate, security-group, chain:FUNCTIONS, set-up:RULES; all of them if none is named
    works: Vec<Work>,
    /// Distinct 5-tuples, 1 to 4000000; each work's own numbers if not given
    #[arg(long, value_name = "N")]
    flows: Option<u32>,
    /// Seconds of each run
    #[arg(long, value_name = "S", default_value_t = 1.0)]
    seconds: f64,
    /// Runs of each, of which the median is told
    #[arg(long, value_name = "N", default_value_t = 5)]
    runs: u32,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

impl Args {
    pub(crate) fn run(self) -> anyhow::Result<ExitCode> {
        let progress = say::Progress::new();
        let run = Duration::try_from_secs_f64(self.seconds).context("read --seconds")?;
        let mut figures = Vec::new();
        for (work, usual) in self.plan() {
            for flows in self.flows.map_or(usual, |n| vec![n]) {
                progress.step(format!("measuring {work} with {flows} flows"));
                let options = Options {
                    flows,
                    run,
                    runs: self.runs,
                };
                let figure = bench::run(work, &options)
                    .with_context(|| format!("measure {work} with {flows} flows"))?;
                figures.push(figure);
            }
        }
        if self.json {
            let rows: Vec<Value> = figures.iter().map(row).collect();
            say::json(&json!({ "datapath": rows }))?;
        } else {
            say::out(&table(&figures).to_string())?;
        }
        Ok(ExitCode::SUCCESS)
    }

    fn plan(&self) -> Vec<(Work, Vec<u32>)> {
        let usual = |work: Work| {
            Work::ALL
                .iter()
                .find(|(w, _)| *w == work)
                .map_or_else(|| vec![10_000], |(_, flows)| flows.to_vec())
        };
        if self.works.is_empty() {
            Work::ALL.iter().map(|(w, f)| (*w, f.to_vec())).collect()
        } else {
            self.works.iter().map(|w| (*w, usual(*w))).collect()
        }
    }
}

fn row(figure: &Figure) -> Value {
    json!({
        "work": figure.work.to_string(),
        "flows": figure.flows,
        "mpps": figure.rate.median,
        "mpps_least": figure.rate.least,
        "mpps_most": figure.rate.most,
        "floor_mpps": figure.floor.median,
        "nanoseconds": figure.rate.nanos(),
        "nanoseconds_above_floor": figure.rate.nanos() - figure.floor.nanos(),
    })
}

fn table(figures: &[Figure]) -> Table {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING);
    table.set_header([
        "work", "flows", "Mpps", "least", "most", "ns", "floor ns", "above it",
    ]);
    for figure in figures {
        let (whole, floor) = (figure.rate.nanos(), figure.floor.nanos());
        table.add_row([
            figure.work.to_string(),
            figure.flows.to_string(),
            format!("{:.2}", figure.rate.median),
            format!("{:.2}", figure.rate.least),
            format!("{:.2}", figure.rate.most),
            format!("{whole:.1}"),
            format!("{floor:.1}"),
            format!("{:.1}", whole - floor),
        ]);
    }
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table
}
