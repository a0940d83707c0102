//! How does a load balancer's proxy come to run behind its port?
//!
//! The controller says which proxies this host has, each a section beside its port's ([ADR 24](../../docs/adr/0024-l7-by-a-proxy.md)). For each a task keeps
//! one HAProxy running: in a namespace of its own, with the port's device attached there as a workload's is, and a configuration rendered from the section. What
//! the program says of those who serve, and what keeps it from running, is told to the agent.
//!
//! # Limits
//! 256 proxies a host; those beyond do not run, and say so. One that ends is started again after 1 s, then later and later, to 15 s.

mod certificates;
mod process;
mod render;
mod told;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use hostconfig::{HostConfig, Section, SectionKey, proxy::Proxy};
use net::{Id, ids::kind};
use tokio::{
    sync::{mpsc, watch},
    task::{AbortHandle, JoinHandle, JoinSet},
    time::{Instant, MissedTickBehavior, interval, sleep_until},
};
use tracing::{info, warn};

use self::{certificates::Certificates, process::Process, render::Place};
use crate::{
    agent::Input,
    datapath::probes::Verdict,
    local::{Ask, Asker, Attach, Detach, Refusal, code},
};

/// Proxies of a host.
const MOST: usize = 256;
/// How often a program is asked what it found of those who serve.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// The first and the longest pause before a program that ended is started again.
const PAUSES: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(15));

/// So often is a program told of its configuration, and so often is it asked each time whether it has it; so often at its start.
const TOLD: usize = 20;
const TURNS: usize = 20;
const STARTS: usize = 250;
const TURN: Duration = Duration::from_millis(20);

/// The proxies that a host is to have, by their ports.
pub(crate) type Wanted = BTreeMap<Id<kind::Port>, Arc<Proxy>>;

/// Those of a config whose ports are here.
pub(crate) fn wanted(config: &HostConfig) -> Wanted {
    let proxies = config.sections.iter().filter_map(|(key, section)| {
        let (SectionKey::Proxy(port), Section::Proxy(proxy)) = (key, section.body()) else {
            return None;
        };
        let is_here = config.sections.contains_key(&SectionKey::Port(*port));
        is_here.then(|| (*port, Arc::new(proxy.clone())))
    });
    proxies.collect()
}

/// What became of a proxy.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Proxied {
    /// What keeps it from running as it was told.
    pub(crate) trouble: Option<String>,
    /// What it found of those who serve.
    pub(crate) verdicts: Vec<Verdict>,
}

/// What a keeper works with.
#[derive(Debug, Clone)]
pub(crate) struct Means {
    /// HAProxy.
    pub(crate) program: PathBuf,
    /// Where each proxy has a directory.
    pub(crate) dir: PathBuf,
    /// Makes devices.
    pub(crate) asker: Asker,
    /// Hears what became of them.
    pub(crate) inputs: mpsc::Sender<Input>,
}

/// Keeps the proxies running that are wanted, for as long as somebody says which.
pub(crate) async fn keep(means: Means, mut wanted: watch::Receiver<Wanted>) {
    // What an earlier process left there; its programs ended with it.
    drop(fs::remove_dir_all(&means.dir));
    let mut kept: BTreeMap<Id<kind::Port>, (watch::Sender<Arc<Proxy>>, AbortHandle)> =
        BTreeMap::new();
    let mut tasks = JoinSet::new();
    // One that comes again waits until what it left is gone: its device and its directory have the same names.
    let mut leaving: BTreeMap<Id<kind::Port>, JoinHandle<()>> = BTreeMap::new();
    loop {
        let now = wanted.borrow_and_update().clone();
        kept.retain(|port, (_, task)| {
            let stays = now.contains_key(port);
            if !stays {
                task.abort();
                leaving.insert(*port, tokio::spawn(let_go(means.clone(), *port)));
            }
            stays
        });
        for (port, proxy) in now {
            if let Some((changes, _)) = kept.get(&port) {
                changes.send_if_modified(|before| {
                    let differs = **before != *proxy;
                    *before = proxy;
                    differs
                });
                continue;
            }
            if kept.len() >= MOST {
                let text = format!("this host has {MOST} proxies already");
                tell(&means, port, trouble(text)).await;
                continue;
            }
            let (changes, changed) = watch::channel(proxy);
            let (means, left) = (means.clone(), leaving.remove(&port));
            let task = tasks.spawn(async move {
                if let Some(left) = left {
                    drop(left.await);
                }
                one(means, port, changed).await;
            });
            kept.insert(port, (changes, task));
        }
        while tasks.try_join_next().is_some() {}
        leaving.retain(|_, left| !left.is_finished());
        if wanted.changed().await.is_err() {
            return;
        }
    }
}

/// The device of a proxy that is not to be here any more.
async fn let_go(means: Means, port: Id<kind::Port>) {
    match means.asker.ask(Ask::Detach(Detach { port })).await {
        Ok(_) => {}
        Err(refusal) if refusal.code == code::NOT_ATTACHED => {}
        Err(refusal) => warn!(%port, "a proxy's device stays: {}", refusal.message),
    }
    drop(fs::remove_dir_all(own_dir(&means, port)));
}

fn own_dir(means: &Means, port: Id<kind::Port>) -> PathBuf {
    means.dir.join(port.to_string())
}

fn trouble(text: String) -> Proxied {
    Proxied {
        trouble: Some(text),
        verdicts: Vec::new(),
    }
}

async fn tell(means: &Means, port: Id<kind::Port>, proxied: Proxied) {
    drop(means.inputs.send(Input::Proxied(port, proxied)).await); // the agent has ended
}

/// Keeps one proxy running.
async fn one(means: Means, port: Id<kind::Port>, mut changed: watch::Receiver<Arc<Proxy>>) {
    let (mut pause, longest) = PAUSES;
    loop {
        let began = Instant::now();
        let why = run(&means, port, &mut changed).await;
        warn!(%port, why, "a proxy does not run");
        tell(&means, port, trouble(why)).await;
        if began.elapsed() > longest {
            pause = PAUSES.0;
        }
        let again = Instant::now() + pause;
        pause = (pause * 2).min(longest);
        tokio::select! {
            () = sleep_until(again) => {}
            changed = changed.changed() => if changed.is_err() { return },
        }
    }
}

/// Runs it once; why it does not run any more.
async fn run(
    means: &Means,
    port: Id<kind::Port>,
    changed: &mut watch::Receiver<Arc<Proxy>>,
) -> String {
    let mut files = match Files::make(&own_dir(means, port)) {
        Ok(files) => files,
        Err(error) => return format!("no directory for the proxy: {error}"),
    };
    let mut proxy = Arc::clone(&changed.borrow_and_update());
    let mut mark = 0;
    if let Err(why) = files.write(&means.program, &proxy, mark).await {
        return why;
    }
    let mut process = match Process::start(&means.program, &files.config).await {
        Ok(process) => process,
        Err(error) => return format!("the proxy can't be started: {error}"),
    };
    if let Err(refusal) = attach(means, port, &process.netns()).await {
        return format!("the proxy's port has no device: {}", refusal.message);
    }
    // Told of anything before it listens to signals, it would end, or miss it.
    if !has(&mut process, &files, mark, STARTS).await {
        return if process.is_over() {
            format!("the proxy ended: {}", process.ended().await)
        } else {
            "the proxy does not begin".to_owned()
        };
    }
    info!(%port, "a proxy runs");
    let mut said = Proxied::default();
    tell(means, port, said.clone()).await;
    let mut looks = interval(LOOK_EVERY);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            why = process.ended() => return format!("the proxy ended: {why}"),
            changes = changed.changed() => {
                if changes.is_err() {
                    return "the vswitch is stopping".to_owned();
                }
                proxy = Arc::clone(&changed.borrow_and_update());
                mark += 1;
                let taken = match files.write(&means.program, &proxy, mark).await {
                    Ok(()) => reload(&mut process, &files, mark).await,
                    Err(why) => Err(why),
                };
                // What ran before runs on.
                said.trouble = taken.err();
                tell(means, port, said.clone()).await;
            }
            _ = looks.tick(), if proxy.pools.iter().any(|pool| pool.monitor.is_some()) => {
                // While it reads its configuration again it is silent.
                if let Ok(verdicts) = told::verdicts(&files.socket, &proxy).await
                    && verdicts != said.verdicts
                {
                    said.verdicts = verdicts;
                    tell(means, port, said.clone()).await;
                }
            }
        }
    }
}

/// Has a program take its configuration. While it is reading one it may miss that it is told of another, so it is told again until it has it.
async fn reload(process: &mut Process, files: &Files, mark: u64) -> Result<(), String> {
    for _ in 0..TOLD {
        process.reload().map_err(|error| error.to_string())?;
        if has(process, files, mark, TURNS).await {
            return Ok(());
        }
    }
    Err("it does not take its configuration".to_owned())
}

/// Waits until a program has a configuration, for so many turns; no longer than it runs.
async fn has(process: &mut Process, files: &Files, mark: u64, turns: usize) -> bool {
    let mut clock = interval(TURN);
    for _ in 0..turns {
        clock.tick().await;
        if told::mark(&files.socket).await == Some(mark) {
            return true;
        }
        if process.is_over() {
            return false;
        }
    }
    false
}

/// Gives the program its port's device.
async fn attach(means: &Means, port: Id<kind::Port>, netns: &Path) -> Result<(), Refusal> {
    let ask = || {
        Ask::Attach(Attach {
            port,
            netns: netns.to_string_lossy().into_owned(),
            ifname: "eth0".to_owned(),
            fixed: true,
        })
    };
    match means.asker.ask(ask()).await {
        Err(refusal) if refusal.code == code::ATTACHED_ELSEWHERE => {
            // In the namespace of a program that has just ended.
            means.asker.ask(Ask::Detach(Detach { port })).await?;
            means.asker.ask(ask()).await?;
            Ok(())
        }
        answer => answer.map(drop),
    }
}

/// What a proxy has on disk.
#[derive(Debug)]
struct Files {
    config: PathBuf,
    socket: PathBuf,
    root: PathBuf,
    /// What the configuration there names.
    certificates: Certificates,
}

impl Files {
    /// Its directory is its owner's alone, and the one that the program sees is empty.
    fn make(dir: &Path) -> io::Result<Self> {
        let root = dir.join("root");
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&root)?;
        fs::set_permissions(&root, fs::Permissions::from_mode(0o555))?;
        Ok(Self {
            config: dir.join("haproxy.cfg"),
            socket: dir.join("stats.sock"),
            root,
            certificates: Certificates::default(),
        })
    }

    /// Writes a configuration that the program understands; one that it does not leaves the one of before.
    async fn write(&mut self, program: &Path, proxy: &Proxy, mark: u64) -> Result<(), String> {
        let certificates = Certificates::of(proxy);
        let certificates = certificates.map_err(|error| format!("certificates: {error}"))?;
        let place = Place {
            certificates: &certificates,
            root: &self.root,
            socket: &self.socket,
            mark,
        };
        let text = render::render(proxy, place).map_err(|unfit| unfit.to_string())?;
        let new = self.config.with_extension("new");
        let write = || {
            let mut file = fs::OpenOptions::new();
            let file = file.write(true).create(true).truncate(true).mode(0o600);
            io::Write::write_all(&mut file.open(&new)?, text.as_bytes())
        };
        write().map_err(|error| format!("{}: {error}", new.display()))?;
        process::check(program, &new).await?;
        fs::rename(&new, &self.config).map_err(|error| error.to_string())?;
        // Nobody reads the ones of before any more: what runs has read them.
        self.certificates = certificates;
        Ok(())
    }
}

/// The program where distributions put it, if this host has it.
pub(crate) fn program() -> Option<PathBuf> {
    let usual = [
        "/usr/sbin/haproxy",
        "/usr/local/sbin/haproxy",
        "/usr/bin/haproxy",
    ];
    let mut paths = usual.iter().map(PathBuf::from);
    paths.find(|path| path.is_file())
}

/// Verdicts of all proxies, each once.
pub(crate) fn verdicts(proxied: &BTreeMap<Id<kind::Port>, Proxied>) -> BTreeSet<Verdict> {
    let all = proxied.values().flat_map(|proxied| &proxied.verdicts);
    all.copied().collect()
}

#[cfg(test)]
mod tests;
