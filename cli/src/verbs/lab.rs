//! `overweave lab`: a whole fabric on this machine, from one file.

use std::collections::BTreeMap;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::{Context, bail};
use clap::Subcommand;
use serde_json::{Value, json};
use vswitch::UplinkChoice;

use crate::api::{Api, text};
use crate::cancel::Cancel;
use crate::clouds;
use crate::lab::expect::{self, Row};
use crate::lab::fabric::{self, Fabric};
use crate::lab::plan::Lab;
use crate::lab::provision::Inventory;
use crate::lab::state::{self, ROOT, State};
use crate::lab::underlay::Way;
use crate::lab::{check, keeper, ledger, netns, relay, tagger, underlay};
use crate::say::{self, Progress};

/// A whole fabric on this machine, from one file
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  overweave lab run configs/labs/quickstart.yaml")]
pub(crate) struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, clap::Args)]
struct Source {
    /// The lab file
    file: PathBuf,
    /// The lab's name, first part of its namespaces' names (default: the file's stem)
    #[arg(long)]
    name: Option<String>,
    /// How the hosts' encapsulated frames cross (default: what the file says, else the vswitch's own)
    #[arg(long, value_name = "auto|tap|udp")]
    uplink: Option<UplinkChoice>,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Bring a lab up, check all that its file expects with real traffic, print a table, tear it down
    #[command(after_help = "Example:\n  overweave lab run configs/labs/quickstart.yaml")]
    Run {
        #[command(flatten)]
        source: Source,
        /// Print the result as JSON
        #[arg(long)]
        json: bool,
    },
    /// Bring a lab up and leave it running; prints the path of its clouds.yaml
    #[command(
        after_help = "Example:\n  export OS_CLIENT_CONFIG_FILE=$(overweave lab up configs/labs/quickstart.yaml)\n  openstack --os-cloud overweave network list"
    )]
    Up {
        #[command(flatten)]
        source: Source,
    },
    /// Run a command in the namespace of a workload, a host or the controller
    #[command(after_help = "Example:\n  overweave lab exec client -- curl -s http://10.0.0.100/")]
    Exec {
        /// The lab (needed if several are up)
        #[arg(long)]
        name: Option<String>,
        /// A workload, a host, or `controller`
        place: String,
        #[arg(last = true, required = true, value_name = "CMD")]
        command: Vec<String>,
    },
    /// Show what is up
    #[command(after_help = "Example:\n  overweave lab status --json")]
    Status {
        /// The lab (needed if several are up)
        #[arg(long)]
        name: Option<String>,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// End a lab and remove all of it, also after a crash; without a name, every lab that no `lab run` is at work on
    #[command(after_help = "Example:\n  overweave lab down")]
    Down {
        /// The lab (all that no `lab run` is at work on if not given)
        #[arg(long)]
        name: Option<String>,
    },
    /// The process that serves in a lab while nobody looks
    #[command(hide = true)]
    Keeper { dir: PathBuf },
    /// The process that makes a lab's wires bad where the kernel can't
    #[command(hide = true)]
    Relay { dir: PathBuf },
    /// The process that makes the devices of a lab's sub-ports
    #[command(hide = true)]
    Tagger { dir: PathBuf },
}

impl Args {
    pub(crate) fn run(&self) -> anyhow::Result<ExitCode> {
        match &self.verb {
            Verb::Run { source, json } => run(source, *json),
            Verb::Up { source } => up(source),
            Verb::Exec {
                name,
                place,
                command,
            } => exec(name.as_deref(), place, command),
            Verb::Status { name, json } => status(name.as_deref(), *json),
            Verb::Down { name } => down(name.as_deref()),
            Verb::Keeper { dir } => keeper::run(dir).map(|()| ExitCode::SUCCESS),
            Verb::Tagger { dir } => tagger::run(dir).map(|()| ExitCode::SUCCESS),
            Verb::Relay { dir } => relay::run(dir).map(|()| ExitCode::SUCCESS),
        }
    }
}

/// Reads and judges a lab file.
fn read(source: &Source) -> anyhow::Result<Lab> {
    let file = source.file.display().to_string();
    let text = std::fs::read_to_string(&source.file)
        .with_context(|| format!("read {file} (examples are in configs/labs)"))?;
    let stem = source
        .file
        .file_stem()
        .map(|stem| stem.to_string_lossy().into_owned())
        .unwrap_or_default();
    let name = source.name.clone().unwrap_or(stem);
    let mut lab = check::lab(&file, &name, &text)?;
    lab.underlay.uplink = source.uplink.or(lab.underlay.uplink);
    Ok(lab)
}

fn bring_up(source: &Source, cancel: &Cancel, progress: &Progress) -> anyhow::Result<Fabric> {
    let lab = read(source)?;
    if !rustix::process::geteuid().is_root() {
        bail!("a lab makes network namespaces and taps; run it as root (`sudo overweave lab …`)");
    }
    let state = State::at(Path::new(ROOT), &lab.name);
    fabric::bring_up(lab, &source.file, state, cancel, progress)
}

fn run(source: &Source, as_json: bool) -> anyhow::Result<ExitCode> {
    let cancel = Cancel::on_signals()?;
    let progress = Progress::new();
    let mut fabric = bring_up(source, &cancel, &progress)?;
    let result = try_all(&fabric, &cancel, &progress);
    progress.step("tearing the lab down");
    let removed = fabric.tear_down();
    drop(progress);
    let rows = result?;
    if as_json {
        say::json(
            &json!({"lab": fabric.lab.name, "held": rows.iter().all(|r| r.held), "expectations": rows}),
        )?;
    } else {
        say::out(&expect::table(&rows))?;
    }
    removed.context("remove the lab (run `overweave lab down`)")?;
    Ok(if rows.iter().all(|row| row.held) {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

fn try_all(fabric: &Fabric, cancel: &Cancel, progress: &Progress) -> anyhow::Result<Vec<Row>> {
    let all = &fabric.lab.expect;
    let mut rows = Vec::new();
    for (i, expect) in all.iter().enumerate() {
        progress.step(format!("checking {} of {}", i + 1, all.len()));
        rows.push(
            expect::check(fabric, expect, cancel).with_context(|| format!("try expect[{i}]"))?,
        );
    }
    rows.push(ledger::check(fabric, cancel)?);
    fabric.check_alive()?;
    Ok(rows)
}

fn up(source: &Source) -> anyhow::Result<ExitCode> {
    let cancel = Cancel::on_signals()?;
    let progress = Progress::new();
    let fabric = bring_up(source, &cancel, &progress)?;
    drop(progress);
    say::out(&fabric.state.path("clouds.yaml").display().to_string())?;
    Ok(ExitCode::SUCCESS)
}

fn exec(name: Option<&str>, place: &str, command: &[String]) -> anyhow::Result<ExitCode> {
    let state = state::choose(Path::new(ROOT), name)?;
    let manifest = state.manifest()?;
    let namespace = underlay::namespace(&manifest.name, place);
    if !manifest.namespaces.contains(&namespace) {
        let prefix = underlay::namespace(&manifest.name, "");
        let places: Vec<&str> = manifest
            .namespaces
            .iter()
            .filter_map(|n| n.strip_prefix(&prefix))
            .collect();
        bail!(
            "lab `{}` has no `{place}`; it has: {}",
            manifest.name,
            places.join(", ")
        );
    }
    let (program, args) = command.split_first().context("read the command")?;
    netns::join(&namespace)?;
    // Only returns if it could not.
    let error = Command::new(program).args(args).exec();
    Err(error).with_context(|| format!("run {program}"))
}

fn status(name: Option<&str>, as_json: bool) -> anyhow::Result<ExitCode> {
    let state = state::choose(Path::new(ROOT), name)?;
    let manifest = state.manifest()?;
    let inventory: Inventory = state.read_json("inventory.json").unwrap_or_default();
    let processes: Vec<Value> = state
        .processes()
        .iter()
        .map(|p| json!({"process": p.what, "pid": p.pid, "alive": p.is_alive()}))
        .collect();
    let ports = port_states(&state).unwrap_or_default();
    let workloads: Vec<Value> = inventory
        .workloads
        .iter()
        .map(|(name, placed)| {
            let status = ports.iter().find(|p| text(p, "id") == placed.port).map_or("UNKNOWN", |p| text(p, "status"));
            let addresses: Vec<String> = placed.addresses.iter().map(|a| a.ip.to_string()).collect();
            json!({"workload": name, "host": placed.host, "network": placed.network, "addresses": addresses,
                "mac": placed.mac, "port": placed.port, "status": status, "namespace": placed.namespace})
        })
        .collect();
    let way: Option<Way> = state.read_json("underlay.json").ok();
    let relayed = relayed(&state);
    let clouds_file = state.path("clouds.yaml");
    if as_json {
        say::json(
            &json!({"lab": manifest.name, "file": manifest.file, "ready": manifest.ready, "state": state.dir(),
            "clouds_yaml": clouds_file, "underlay": way, "relayed": relayed, "processes": processes, "workloads": workloads}),
        )?;
        return Ok(ExitCode::SUCCESS);
    }
    let ready = if manifest.ready { "up" } else { "not ready" };
    say::out(&format!(
        "lab {}: {ready}, from {}",
        manifest.name,
        manifest.file.display()
    ))?;
    say::out(&format!("OS_CLIENT_CONFIG_FILE={}", clouds_file.display()))?;
    if let Some(way) = way.filter(|way| *way != Way::Nothing) {
        say::out(&format!("underlay: {way}"))?;
    }
    if !relayed.is_empty() {
        let keys = [
            "host",
            "entered",
            "lost",
            "overtook",
            "overflowed",
            "refused",
        ];
        say::out(&columns(&keys, &relayed))?;
    }
    say::out(&columns(&["process", "pid", "alive"], &processes))?;
    say::out(&columns(
        &[
            "workload",
            "host",
            "network",
            "addresses",
            "mac",
            "port",
            "status",
        ],
        &workloads,
    ))?;
    Ok(ExitCode::SUCCESS)
}

/// What the relay did to each host's frames, if there is one and it has told.
fn relayed(state: &State) -> Vec<Value> {
    let counts: BTreeMap<String, relay::Counts> =
        state.read_json(relay::COUNTS).unwrap_or_default();
    let row = |(host, of): (String, relay::Counts)| {
        json!({"host": host, "entered": of.entered, "lost": of.lost, "overtook": of.overtook,
            "overflowed": of.overflowed, "refused": of.refused})
    };
    counts.into_iter().map(row).collect()
}

/// What the API says of the lab's ports.
fn port_states(state: &State) -> anyhow::Result<Vec<Value>> {
    let cloud = clouds::read(&state.path("clouds.yaml"))?
        .remove("overweave")
        .context("find cloud overweave")?;
    let answer = Api::login(&cloud)?.get("/v2.0/ports?fields=id&fields=status")?;
    Ok(answer
        .get("ports")
        .and_then(Value::as_array)
        .cloned()
        .unwrap_or_default())
}

fn columns(keys: &[&str], rows: &[Value]) -> String {
    let mut table = comfy_table::Table::new();
    table.load_preset(comfy_table::presets::UTF8_HORIZONTAL_ONLY);
    table.set_header(keys);
    for row in rows {
        table.add_row(keys.iter().map(|key| {
            match row.get(*key) {
                Some(Value::String(text)) => text.clone(),
                Some(Value::Array(items)) => items
                    .iter()
                    .filter_map(Value::as_str)
                    .collect::<Vec<_>>()
                    .join(" "),
                Some(other) => other.to_string(),
                None => String::new(),
            }
        }));
    }
    table.to_string()
}

fn down(name: Option<&str>) -> anyhow::Result<ExitCode> {
    let root = Path::new(ROOT);
    let labs = match name {
        Some(name) => {
            state::choose(root, Some(name))?;
            vec![name.to_owned()]
        }
        // One that a live `lab run` holds goes by itself; by name it can be ended all the same.
        None => state::labs(root)?
            .into_iter()
            .filter(|lab| !State::at(root, lab).is_held())
            .collect(),
    };
    let progress = Progress::new();
    let mut failed = Vec::new();
    for lab in &labs {
        progress.step(format!("removing lab {lab}"));
        if let Err(error) = State::at(root, lab).tear_down() {
            failed.push(format!("{lab}: {error:#}"));
        }
    }
    drop(progress);
    if !failed.is_empty() {
        bail!("something is left of {}; try again", failed.join("; "));
    }
    match labs.as_slice() {
        [] => say::out("no lab was up")?,
        labs => say::out(&format!("removed: {}", labs.join(", ")))?,
    }
    // Only if empty: another lab may be starting.
    std::fs::remove_dir(root).unwrap_or_default();
    Ok(ExitCode::SUCCESS)
}
