//! How fast is it, on which machine, and how sure is that?
//!
//! Six kinds: `wire` puts the whole program beside its peers in network namespaces (package `tests`), `soak` keeps it busy for minutes there, `flood` floods it,
//! `control` asks a controller for a region, `memory` is `overweave bench`, and the rest are criterion's. Without a name: criterion's, then `memory`.
//!
//! Runs the criterion benches of the workspace, prints the median of each with its spread, and
//! writes the same as JSON under the target directory, with the machine and the kernel: a figure
//! without them says nothing. With `--compare FILE` an earlier JSON stands beside it.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use clap::Args;
use serde_json::{Value, json};

use crate::{house, step};

#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  cargo xtask bench overlay/encap\n  cargo xtask bench memory l2\n  cargo xtask bench wire overweave ovs --works tcp,rr"
)]
pub(crate) struct Options {
    /// `wire`, `soak`, `flood`, `control`, `memory`, or only benches whose `package/bench` contains this.
    name: Option<String>,
    /// What `wire`, `soak`, `flood`, `control` and `memory` are told; `cargo xtask bench wire -- --help` lists it.
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    told: Vec<String>,
    /// An earlier result to print beside this one.
    #[arg(long)]
    compare: Option<PathBuf>,
}

/// One bench target of the workspace.
#[derive(Debug, PartialEq, Eq)]
struct Bench {
    package: String,
    name: String,
}

/// What criterion found for one benchmark; times in nanoseconds.
#[derive(Debug, Clone, PartialEq)]
struct Figure {
    name: String,
    median: f64,
    low: f64,
    high: f64,
    /// Elements of one iteration, where the bench says so.
    elements: Option<u64>,
}

/// Runs the chosen benches; true if all ran.
pub(crate) fn run(root: &Path, options: &Options) -> Result<bool> {
    match options.name.as_deref() {
        // The switch is built first: the package that measures does not depend on it.
        Some(bin @ ("wire" | "soak" | "flood")) => {
            return Ok(release(root, &["build", "--package", "cli"], &[])
                && release(
                    root,
                    &["run", "--package", "tests", "--bin", bin, "--"],
                    &options.told,
                ));
        }
        Some("control") => {
            let words = ["run", "--package", "tests", "--bin", "control", "--"];
            return Ok(release(root, &words, &options.told));
        }
        Some("memory") => return Ok(memory(root, &options.told)),
        _ if !options.told.is_empty() => {
            bail!(
                "only wire, soak, flood, control and memory take arguments: {:?}",
                options.told
            )
        }
        _ => {}
    }
    let mut benches = benches(&house::files(root)?);
    if benches.is_empty() {
        println!("bench: no benches yet");
        return Ok(true);
    }
    if let Some(part) = &options.name {
        benches.retain(|bench| format!("{}/{}", bench.package, bench.name).contains(part.as_str()));
        if benches.is_empty() {
            bail!("no bench with this in its package/name: {part}");
        }
    }
    let earlier = match &options.compare {
        Some(path) => read_earlier(path)?,
        None => Vec::new(),
    };
    let folder = target_folder(root).join("bench");
    let criterion = folder.join("criterion");
    if criterion.is_dir() {
        std::fs::remove_dir_all(&criterion).context("remove the last run's figures")?;
    }
    std::fs::create_dir_all(&criterion).context("make the folder of figures")?;
    let home = criterion.to_string_lossy().into_owned();
    let mut all_ran = true;
    for bench in &benches {
        let arguments = [
            "bench",
            "-p",
            bench.package.as_str(),
            "--bench",
            bench.name.as_str(),
        ];
        all_ran &=
            step::cargo(root, &arguments, &[("CRITERION_HOME", &home)]) == step::Outcome::Passed;
    }
    let mut figures = Vec::new();
    collect(&criterion, &mut figures)?;
    figures.sort_by(|left, right| left.name.cmp(&right.name));
    let machine = Machine::here();
    println!("\n{machine}");
    print!("{}", table(&figures, &earlier));
    let path = folder.join("latest.json");
    let text = serde_json::to_string_pretty(&document(&machine, &figures)).context("write JSON")?;
    std::fs::write(&path, text + "\n").with_context(|| format!("write {}", path.display()))?;
    println!("written: {}", path.display());
    if options.name.is_none() {
        println!("\nThe datapath alone, in memory:");
        all_ran &= memory(root, &[]);
    }
    Ok(all_ran)
}

/// `overweave bench`.
fn memory(root: &Path, told: &[String]) -> bool {
    release(root, &["run", "--package", "cli", "--", "bench"], told)
}

/// Cargo with the release profile: `build` or `run`, and what the program is told.
fn release(root: &Path, words: &[&str], told: &[String]) -> bool {
    let (verb, rest) = words.split_at(1);
    let mut arguments = [verb, &["--release", "--quiet"], rest].concat();
    arguments.extend(told.iter().map(String::as_str));
    step::cargo(root, &arguments, &[]) == step::Outcome::Passed
}

/// The bench targets among `files`: `PACKAGE/benches/NAME.rs`.
fn benches(files: &[String]) -> Vec<Bench> {
    let target = |path: &String| {
        let (package, rest) = path.split_once("/benches/")?;
        let name = rest
            .strip_suffix(".rs")
            .filter(|name| !name.contains('/'))?;
        Some(Bench {
            package: package.to_owned(),
            name: name.to_owned(),
        })
    };
    files.iter().filter_map(target).collect()
}

fn target_folder(root: &Path) -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root.join("target"), PathBuf::from)
}

/// Every `…/new/estimates.json` under `folder`, with the benchmark's name from the file beside it.
fn collect(folder: &Path, figures: &mut Vec<Figure>) -> Result<()> {
    for entry in std::fs::read_dir(folder).with_context(|| format!("list {}", folder.display()))? {
        let path = entry
            .with_context(|| format!("list {}", folder.display()))?
            .path();
        if !path.is_dir() {
            continue;
        }
        let estimates = path.join("estimates.json");
        if path.ends_with("new") && estimates.is_file() {
            let benchmark = read_json(&path.join("benchmark.json"))?;
            let figure = figure(&benchmark, &read_json(&estimates)?);
            figures.push(figure.with_context(|| format!("read figures in {}", path.display()))?);
        } else {
            collect(&path, figures)?;
        }
    }
    Ok(())
}

fn read_json(path: &Path) -> Result<Value> {
    let text = std::fs::read_to_string(path).with_context(|| format!("read {}", path.display()))?;
    serde_json::from_str(&text).with_context(|| format!("parse {}", path.display()))
}

/// One figure from criterion's two documents; none if they are not what criterion writes.
fn figure(benchmark: &Value, estimates: &Value) -> Option<Figure> {
    let number = |pointer: &str| estimates.pointer(pointer).and_then(Value::as_f64);
    Some(Figure {
        name: benchmark.get("full_id")?.as_str()?.to_owned(),
        median: number("/median/point_estimate")?,
        low: number("/median/confidence_interval/lower_bound")?,
        high: number("/median/confidence_interval/upper_bound")?,
        elements: benchmark
            .pointer("/throughput/Elements")
            .and_then(Value::as_u64),
    })
}

/// Where the figures were taken.
#[derive(Debug)]
struct Machine {
    processor: String,
    cores: usize,
    kernel: String,
}

impl Machine {
    fn here() -> Self {
        let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
        let processors = read("/proc/cpuinfo");
        let model = processors
            .lines()
            .find_map(|line| line.strip_prefix("model name")?.split_once(':'));
        Self {
            processor: model.map_or("unknown", |(_, name)| name.trim()).to_owned(),
            cores: std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
            kernel: read("/proc/sys/kernel/osrelease").trim().to_owned(),
        }
    }
}

impl std::fmt::Display for Machine {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            out,
            "{} x {}, Linux {}",
            self.cores, self.processor, self.kernel
        )
    }
}

fn document(machine: &Machine, figures: &[Figure]) -> Value {
    let list: Vec<Value> = figures
        .iter()
        .map(|figure| {
            json!({
                "name": figure.name, "median_ns": figure.median, "low_ns": figure.low,
                "high_ns": figure.high, "elements": figure.elements,
            })
        })
        .collect();
    json!({
        "machine": {"processor": machine.processor, "cores": machine.cores, "kernel": machine.kernel},
        "figures": list,
    })
}

/// Names and medians of a document that [`document`] made.
fn read_earlier(path: &Path) -> Result<Vec<(String, f64)>> {
    let text = read_json(path)?;
    let list = text.get("figures").and_then(Value::as_array);
    let list = list.with_context(|| format!("{} holds no figures", path.display()))?;
    let pair = |entry: &Value| {
        Some((
            entry.get("name")?.as_str()?.to_owned(),
            entry.get("median_ns")?.as_f64()?,
        ))
    };
    Ok(list.iter().filter_map(pair).collect())
}

/// A line a benchmark: name, median, spread, time an element, change against the earlier run.
fn table(figures: &[Figure], earlier: &[(String, f64)]) -> String {
    use std::fmt::Write as _;
    let width = figures
        .iter()
        .map(|figure| figure.name.len())
        .max()
        .unwrap_or(0)
        .max(9);
    let mut text = format!(
        "{:<width$}  {:>12}  {:>8}  {:>12}  {:>8}\n",
        "benchmark", "median", "spread", "an element", "change"
    );
    for figure in figures {
        let spread = format!(
            "±{:.1} %",
            50.0 * (figure.high - figure.low) / figure.median
        );
        let element = figure.elements.map_or_else(String::new, |count| {
            #[expect(clippy::cast_precision_loss, reason = "a count of elements is small")]
            let each = figure.median / count.max(1) as f64;
            duration(each)
        });
        let before = earlier.iter().find(|(name, _)| *name == figure.name);
        let change = before.map_or_else(String::new, |(_, median)| {
            format!("{:+.1} %", 100.0 * (figure.median / median - 1.0))
        });
        let _written = writeln!(
            text,
            "{:<width$}  {:>12}  {spread:>8}  {element:>12}  {change:>8}",
            figure.name,
            duration(figure.median)
        );
    }
    text
}

fn duration(nanoseconds: f64) -> String {
    match nanoseconds {
        ns if ns < 1e3 => format!("{ns:.1} ns"),
        ns if ns < 1e6 => format!("{:.2} us", ns / 1e3),
        ns if ns < 1e9 => format!("{:.2} ms", ns / 1e6),
        ns => format!("{:.2} s", ns / 1e9),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn benches_are_found_by_their_place() {
        let files = [
            "overlay/benches/encap.rs",
            "overlay/src/lib.rs",
            "nfv/benches/common/mod.rs",
        ];
        let found = benches(&files.map(str::to_owned));
        assert_eq!(
            found,
            [Bench {
                package: "overlay".into(),
                name: "encap".into()
            }]
        );
    }

    #[test]
    fn a_figure_is_read_from_criterions_documents() {
        let benchmark = json!({"full_id": "encap/64", "throughput": {"Elements": 64}});
        let interval =
            json!({"lower_bound": 630.0, "upper_bound": 650.0, "confidence_level": 0.95});
        let estimates =
            json!({"median": {"point_estimate": 640.0, "confidence_interval": interval}});
        let read = figure(&benchmark, &estimates).unwrap();
        assert_eq!(read.elements, Some(64));
        let earlier = [("encap/64".to_owned(), 320.0)];
        let text = table(&[read], &earlier);
        assert!(text.contains("640.0 ns"), "{text}");
        assert!(text.contains("±1.6 %"), "{text}");
        assert!(text.contains("10.0 ns"), "{text}");
        assert!(text.contains("+100.0 %"), "{text}");
        assert_eq!(figure(&benchmark, &json!({})), None);
    }

    #[test]
    fn a_written_document_can_be_compared_with() {
        let machine = Machine {
            processor: "p".into(),
            cores: 2,
            kernel: "k".into(),
        };
        let figure = Figure {
            name: "a".into(),
            median: 5.0,
            low: 4.0,
            high: 6.0,
            elements: None,
        };
        let path =
            std::env::temp_dir().join(format!("overweave-bench-{}.json", std::process::id()));
        std::fs::write(&path, document(&machine, &[figure]).to_string()).unwrap();
        assert_eq!(read_earlier(&path).unwrap(), [("a".to_owned(), 5.0)]);
        std::fs::remove_file(&path).unwrap();
    }
}
