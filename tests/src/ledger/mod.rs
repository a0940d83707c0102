//! Is an acknowledged write there after `kill -9`, and a refused one not?
//!
//! A controller's process, clients that each keep a book of what they were told, and hosts without devices that stay connected as well as
//! they can. The process is killed in the midst of writes, by chance or at a place of a commit; then its file is read beside it, by none of
//! its code paths but the store's: every book holds, what nobody answered is there as a whole or not at all, and the books of the store
//! balance. The next process starts on the same file, and the hosts come to what a compile of it from scratch says.
//!
//! # Map
//! - [`process`]: a controller that dies where it is told to
//! - [`writer`]: a client and its book
//! - [`sound`]: do the books of a store balance?

pub mod process;
pub mod sound;
pub mod writer;

use std::{
    collections::BTreeMap,
    fmt,
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail, ensure};
use controller::{
    compile::{
        self,
        intent::{Change, HostName, Intent},
        view,
    },
    resources,
    rules::Facts,
    store::{Disk as _, Embedded, RedbDisk, Snapshot},
};
use hostconfig::Generation;
use rand::{Rng as _, SeedableRng as _, rngs::StdRng};
use serde_json::json;
use tokio::{
    runtime::{Builder, Runtime},
    sync::watch,
};
use vswitch::simulated::Machine;

use crate::scale::http::Http;
use process::{Home, Process};
use writer::{Counts, Found, Writer};

/// Until a host holds what it should: it dials again after pauses.
const SETTLE: Duration = Duration::from_secs(45);
/// Hosts.
const HOSTS: usize = 2;

/// What is to be done.
#[derive(Debug, Clone)]
pub struct Wish {
    /// How often the controller dies.
    pub kills: usize,
    /// Clients.
    pub writers: usize,
    /// Ports of the network whose subnets give each of them an address.
    pub ports: usize,
    /// The mortal controller's program.
    pub mortal: PathBuf,
    /// Where its things are.
    pub dir: PathBuf,
    /// Chance.
    pub seed: u64,
}

/// What was seen.
#[derive(Debug, Default)]
pub struct Seen {
    /// Deaths, by how.
    pub deaths: BTreeMap<&'static str, usize>,
    /// Answers.
    pub counts: Counts,
    /// From the start of a process until it answered, at most.
    pub start: Duration,
    /// From there until all hosts held what they should, at most.
    pub settled: Duration,
    /// Records of the last store.
    pub records: usize,
}

impl fmt::Display for Seen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let counts = self.counts;
        writeln!(f, "deaths: {:?}", self.deaths)?;
        writeln!(
            f,
            "writes: {} acknowledged, {} refused, {} unknown (of these {} done)",
            counts.acknowledged, counts.refused, counts.unknown, counts.done
        )?;
        write!(
            f,
            "a start took {:?} at most, then the hosts {:?} at most; {} records",
            self.start, self.settled, self.records
        )
    }
}

/// A directory that goes with this.
struct Scratch(PathBuf);

impl Drop for Scratch {
    fn drop(&mut self) {
        drop(std::fs::remove_dir_all(&self.0));
    }
}

/// What a data dir that nobody uses holds; read from a copy, so that the next process finds what the last one left.
fn read(data: &Path, copy: &Path) -> anyhow::Result<Snapshot> {
    std::fs::create_dir_all(copy)?;
    std::fs::copy(data.join("store.redb"), copy.join("store.redb"))?;
    let disk = RedbDisk::open(copy, resources::decode)?;
    let snapshot = Embedded::read(&disk)?;
    drop(disk.load());
    Ok(snapshot)
}

/// What a live controller's backup holds.
fn backed_up(home: &Home, token: &str, scratch: &Path) -> anyhow::Result<Snapshot> {
    let answer = Http::connect(home.api, token)?.ask("POST", "/v2.0/overweave/backup", b"")?;
    ensure!(answer.status == 200, "backup: {}", answer.status);
    let (file, dir) = (scratch.join("backup"), scratch.join("restored"));
    drop(std::fs::remove_dir_all(&dir));
    std::fs::write(&file, &answer.body)?;
    controller::restore(&file, &dir)?;
    let disk = RedbDisk::open(&dir, resources::decode)?;
    Ok(Embedded::read(&disk)?)
}

/// Hosts without devices, with all else.
struct Hosts {
    runtime: Option<Runtime>,
    machines: Vec<(HostName, Machine)>,
    threads: Vec<thread::JoinHandle<()>>,
    stop: watch::Sender<bool>,
}

impl Drop for Hosts {
    fn drop(&mut self) {
        self.stop.send_replace(true);
        for thread in self.threads.drain(..) {
            // What a host ended with was told when it ended.
            drop(thread.join());
        }
        drop(self.runtime.take());
    }
}

impl Hosts {
    fn start(home: &Home, token: &str, scratch: &Path) -> anyhow::Result<Self> {
        let runtime = Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()?;
        let (mut machines, mut threads) = (Vec::new(), Vec::new());
        let (stop, stopped) = watch::channel(false);
        for n in 0..HOSTS {
            let name = format!("h{n}");
            let body = json!({"host": {"name": name}});
            let made = Http::connect(home.api, token)?.post("/v2.0/overweave/hosts", &body)?;
            let join = made["host"]["token"].as_str().context("no join token")?;
            let run_dir = scratch.join(&name);
            std::fs::create_dir_all(&run_dir)?;
            let options = vswitch::Options {
                host: Some(name.clone()),
                controller: Some(format!("https://{}", home.hosts)),
                join: Some(join.to_owned()),
                vtep_ip: Some(format!("192.0.2.{}", n + 1).parse()?),
                run_dir: Some(run_dir),
                metrics_listen: Some("127.0.0.1:0".parse()?),
                workers: Some(1),
                ..vswitch::Options::default()
            };
            let config = vswitch::Config::load(None, options)?;
            let machine = Machine::default();
            let its = machine.clone();
            let (handle, mut stopped) = (runtime.handle().clone(), stopped.clone());
            let thread = thread::Builder::new().name(name.clone()).spawn(move || {
                let told = async move { drop(stopped.wait_for(|stop| *stop).await) };
                if let Err(error) = handle.block_on(vswitch::simulated::run(config, its, told)) {
                    panic!("a host ended: {error}");
                }
            })?;
            threads.push(thread);
            machines.push((HostName::from(name.as_str()), machine));
        }
        Ok(Self {
            runtime: Some(runtime),
            machines,
            threads,
            stop,
        })
    }

    /// Waits until each host runs what the live controller's store compiles to from scratch.
    fn settle(&self, home: &Home, token: &str, scratch: &Path) -> anyhow::Result<Duration> {
        let began = Instant::now();
        loop {
            let store = backed_up(home, token, scratch)?;
            let mut intent = Intent::default();
            for object in view::objects(&store, &Facts::default()) {
                intent.apply(&Change::Put(object));
            }
            let generation = Generation(store.revision().get());
            let wanted = compile::compile(&intent, store.incarnation(), generation);
            let differ: Vec<String> = self
                .machines
                .iter()
                .filter_map(|(name, machine)| {
                    let wanted = wanted.get(name).map(hostconfig::HostConfig::digest);
                    let runs = machine.running().map(|config| config.digest());
                    (wanted.is_none() || wanted != runs)
                        .then(|| format!("{name} runs {runs:?}, and should {wanted:?}"))
                })
                .collect();
            if differ.is_empty() {
                return Ok(began.elapsed());
            }
            if began.elapsed() > SETTLE {
                bail!("{differ:?}");
            }
            thread::sleep(Duration::from_millis(100));
        }
    }
}

/// The ground on which all write: no quotas, a way outside, and a network with many ports.
fn ground(
    home: &Home,
    token: &str,
    project: &str,
    ports: usize,
) -> anyhow::Result<(String, String)> {
    let mut http = Http::connect(home.api, token)?;
    let kinds = [
        "port",
        "network",
        "subnet",
        "router",
        "floatingip",
        "security_group_rule",
    ];
    let quota: serde_json::Map<_, _> = kinds
        .map(|kind| (kind.to_owned(), json!(-1)))
        .into_iter()
        .collect();
    let body = json!({"quota": quota}).to_string();
    http.ask("PUT", &format!("/v2.0/quotas/{project}"), body.as_bytes())?
        .json()?;
    let mut network = |body: serde_json::Value| -> anyhow::Result<String> {
        let made = http.post("/v2.0/networks", &json!({"network": body}))?;
        Ok(made["network"]["id"].as_str().context("no id")?.to_owned())
    };
    let outside = network(json!({"name": "outside", "router:external": true}))?;
    let automatic = network(json!({"name": "automatic"}))?;
    let subnet = json!({"network_id": outside, "ip_version": 4, "cidr": "198.18.0.0/16"});
    http.post("/v2.0/subnets", &json!({"subnet": subnet}))?;
    let port = json!({"network_id": automatic, "binding:host_id": "h0"});
    for some in vec![port; ports].chunks(250) {
        http.post("/v2.0/ports", &json!({"ports": some}))?;
    }
    Ok((outside, automatic))
}

/// How the controller is to die: the fault that it is told, if it is not simply killed.
fn death(round: usize, random: &mut StdRng) -> (&'static str, Option<String>) {
    let writes = random.random_range(0..400);
    let syncs = random.random_range(0..40);
    match round % 5 {
        0 => ("before a sync", Some(format!("sync:{syncs}"))),
        1 => ("after a sync", Some(format!("synced:{syncs}"))),
        2 => ("between writes", Some(format!("write:{writes}"))),
        3 => ("in a write", Some(format!("torn:{writes}"))),
        _ => ("by kill -9", None),
    }
}

/// Lets all write until the controller is dead.
fn storm(
    process: Process,
    home: &Home,
    token: &str,
    writers: &mut [Writer],
    (fault, life): (bool, Duration),
) -> anyhow::Result<()> {
    process.arm()?;
    thread::scope(|scope| {
        let all: Vec<_> = writers
            .iter_mut()
            .map(|writer| scope.spawn(|| writer.write(home, token)))
            .collect();
        let (began, mut process) = (Instant::now(), process);
        let patience = if fault { Duration::from_secs(10) } else { life };
        while !process.is_dead()? && began.elapsed() < patience {
            thread::sleep(Duration::from_millis(1));
        }
        process.kill()?;
        for one in all {
            match one.join() {
                Ok(done) => done?,
                Err(_) => bail!("a writer panicked"),
            }
        }
        Ok(())
    })
}

/// Kills a controller so often.
///
/// # Errors
/// The first promise that was broken.
pub fn run(wish: &Wish, tell: &mut dyn FnMut(&str)) -> anyhow::Result<Seen> {
    let scratch = Scratch(wish.dir.join(format!("ow-ledger-{}", std::process::id())));
    std::fs::create_dir_all(&scratch.0)?;
    let home = Home::new(&wish.mortal, &scratch.0)?;
    let mut random = StdRng::seed_from_u64(wish.seed);
    let process = home.start(None)?.context("it died by itself")?;
    let (token, project) = home.login()?;
    let hosts = Hosts::start(&home, &token, &scratch.0)?;
    let (outside, automatic) = ground(&home, &token, &project, wish.ports)?;
    let mut writers = Vec::new();
    for n in 0..wish.writers {
        let mut http = Http::connect(home.api, &token)?;
        // Two of them renumber the large network.
        let automatic = (n < 2).then_some(automatic.as_str());
        writers.push(Writer::new(n, wish.seed, &mut http, &outside, automatic)?);
    }
    let mut seen = Seen::default();
    hosts.settle(&home, &token, &scratch.0)?;
    process.kill()?;
    for round in 0..wish.kills {
        let (how, fault) = death(round, &mut random);
        let began = Instant::now();
        let process = home.start(fault.as_deref())?.context("it died by itself")?;
        seen.start = seen.start.max(began.elapsed());
        let settled = hosts.settle(&home, &token, &scratch.0);
        let settled = settled.with_context(|| format!("round {round}, seed {}", wish.seed))?;
        seen.settled = seen.settled.max(settled);
        let life = Duration::from_millis(random.random_range(50..600));
        storm(
            process,
            &home,
            &token,
            &mut writers,
            (fault.is_some(), life),
        )?;
        let copy = scratch.0.join(format!("copy-{round}"));
        let store = read(&home.data, &copy)?;
        std::fs::remove_dir_all(&copy)?;
        let place = || format!("round {round}, {how} ({fault:?}), seed {}", wish.seed);
        let found = Found::of(&store).with_context(place)?;
        for writer in &mut writers {
            writer.check(&store, &found).with_context(place)?;
        }
        let strangers = found.strangers(&writers);
        ensure!(
            strangers.is_empty(),
            "{}: nobody made {strangers:?}",
            place()
        );
        sound::check(&store).with_context(place)?;
        *seen.deaths.entry(how).or_default() += 1;
        seen.records = store.len();
        if (round + 1) % 10 == 0 {
            tell(&format!("{} deaths", round + 1));
        }
    }
    let process = home.start(None)?.context("it died by itself")?;
    seen.settled = seen.settled.max(hosts.settle(&home, &token, &scratch.0)?);
    process.kill()?;
    for writer in &writers {
        seen.counts.add(writer.counts);
    }
    Ok(seen)
}
