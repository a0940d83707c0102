//! What did a lab leave on this machine?
//!
//! A directory per lab under `/run/overweave-lab` says which namespaces and processes are its own, written before
//! (namespaces) or right after (processes) they are made, so that `lab down` finds all of it also when the lab was
//! killed. A process is known by its id and its start time; it is signalled through a pidfd that was checked against
//! both, never by a name. What still runs inside one of the lab's namespaces ends with it.

use std::collections::BTreeSet;
use std::fs::{self, OpenOptions};
use std::io::{ErrorKind, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use rustix::event::{PollFd, PollFlags};
use rustix::process::{Pid, PidfdFlags, Signal};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use super::neighbours::Raised;
use super::netns;

/// Where labs keep their state: gone after a reboot, as the labs are.
pub(crate) const ROOT: &str = "/run/overweave-lab";
/// How long a process may take to end in order.
const GRACE: Duration = Duration::from_secs(4);

/// The directory of one lab.
#[derive(Debug, Clone)]
pub(crate) struct State {
    dir: PathBuf,
}

/// What the directory says first.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Manifest {
    pub(crate) name: String,
    /// The lab file, as an absolute path.
    pub(crate) file: PathBuf,
    pub(crate) namespaces: Vec<String>,
    /// The command that brings it up, while it does.
    pub(crate) builder: Process,
    /// All is up.
    pub(crate) ready: bool,
}

/// A process, so that no other of the same id is ever meant.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Process {
    pub(crate) what: String,
    pub(crate) pid: i32,
    /// Ticks since boot.
    pub(crate) start: u64,
}

impl Process {
    /// The process of that id, as it is now.
    pub(crate) fn of(what: &str, pid: u32) -> anyhow::Result<Self> {
        let pid = i32::try_from(pid).context("read a process id")?;
        let start = start_time(pid).with_context(|| format!("{what} ended at once"))?;
        Ok(Self {
            what: what.to_owned(),
            pid,
            start,
        })
    }

    pub(crate) fn is_alive(&self) -> bool {
        start_time(self.pid) == Some(self.start)
    }

    /// A handle that means this process and no other.
    fn handle(&self) -> Option<OwnedFd> {
        let pid = Pid::from_raw(self.pid)?;
        let fd = rustix::process::pidfd_open(pid, PidfdFlags::empty()).ok()?;
        // Checked after the handle is open: from here on the id can't pass to another.
        self.is_alive().then_some(fd)
    }
}

/// When a process started, unless it is gone or only waits to be reaped.
fn start_time(pid: i32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    parse_stat(&stat)
}

/// The name in field 2 may hold spaces and brackets: fields count from its last bracket.
fn parse_stat(stat: &str) -> Option<u64> {
    let (_, rest) = stat.rsplit_once(')')?;
    let mut fields = rest.split_whitespace();
    let state = fields.next()?;
    if matches!(state, "Z" | "X") {
        return None;
    }
    fields.nth(18)?.parse().ok()
}

/// Names of labs that left something.
pub(crate) fn labs(root: &Path) -> anyhow::Result<Vec<String>> {
    let entries = match fs::read_dir(root) {
        Ok(entries) => entries,
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => return Err(e).with_context(|| format!("list {}", root.display())),
    };
    let mut names: Vec<String> = entries
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .collect();
    names.sort();
    Ok(names)
}

/// The lab that is meant: the one named, or the only one.
///
/// # Errors
/// When there is none, or more than one and no name.
pub(crate) fn choose(root: &Path, name: Option<&str>) -> anyhow::Result<State> {
    let labs = labs(root)?;
    match (name, labs.as_slice()) {
        (Some(name), labs) if labs.iter().any(|lab| lab == name) => Ok(State::at(root, name)),
        (Some(name), []) => bail!("no lab `{name}` is up; start one with `overweave lab up FILE`"),
        (Some(name), labs) => bail!("no lab `{name}` is up; these are: {}", labs.join(", ")),
        (None, [only]) => Ok(State::at(root, only)),
        (None, []) => bail!("no lab is up; start one with `overweave lab up FILE`"),
        (None, labs) => bail!(
            "several labs are up; choose one with --name: {}",
            labs.join(", ")
        ),
    }
}

impl State {
    pub(crate) fn at(root: &Path, name: &str) -> Self {
        Self {
            dir: root.join(name),
        }
    }

    /// The lab of that directory, which is told to its parts.
    ///
    /// # Errors
    /// When it can't be a lab's.
    pub(crate) fn of_dir(dir: &Path) -> anyhow::Result<Self> {
        let name = dir.file_name().and_then(|name| name.to_str());
        Ok(Self::at(
            dir.parent().context("find the state's root")?,
            name.context("read the lab's name")?,
        ))
    }

    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// Claims the directory for a new lab. The name is a lock: of two starts one wins.
    ///
    /// # Errors
    /// When a lab of that name is there.
    pub(crate) fn claim(&self) -> anyhow::Result<()> {
        let make = |path: &Path, recursive: bool| {
            fs::DirBuilder::new()
                .mode(0o700)
                .recursive(recursive)
                .create(path)
        };
        if let Some(root) = self.dir.parent() {
            make(root, true)
                .with_context(|| format!("make {} (labs need root)", root.display()))?;
        }
        make(&self.dir, false).with_context(|| format!("make {}", self.dir.display()))?;
        for sub in ["pids", "logs"] {
            make(&self.dir.join(sub), true).context("make the lab's state directory")?;
        }
        Ok(())
    }

    pub(crate) fn exists(&self) -> bool {
        self.dir.exists()
    }

    /// Writes a file whole or not at all, for the owner's eyes only.
    pub(crate) fn write(&self, name: &str, text: &str) -> anyhow::Result<()> {
        let path = self.dir.join(name);
        // A process and the one that started it may both write: each has a half of its own.
        let half = path.with_extension(format!("{}.new", std::process::id()));
        let write = || {
            let mut file = OpenOptions::new()
                .write(true)
                .create(true)
                .truncate(true)
                .mode(0o600)
                .open(&half)?;
            file.write_all(text.as_bytes())?;
            fs::rename(&half, &path)
        };
        write().with_context(|| format!("write {}", path.display()))
    }

    pub(crate) fn write_json(&self, name: &str, value: &impl Serialize) -> anyhow::Result<()> {
        self.write(
            name,
            &serde_json::to_string_pretty(value).context("render state")?,
        )
    }

    pub(crate) fn read_json<T: DeserializeOwned>(&self, name: &str) -> anyhow::Result<T> {
        let path = self.dir.join(name);
        let text = fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
        serde_json::from_str(&text).with_context(|| format!("read {}", path.display()))
    }

    pub(crate) fn manifest(&self) -> anyhow::Result<Manifest> {
        self.read_json("lab.json")
    }

    /// Remembers a process.
    pub(crate) fn record(&self, process: &Process) -> anyhow::Result<()> {
        self.write_json(&format!("pids/{}.json", process.what), process)
    }

    /// Every process that was remembered.
    pub(crate) fn processes(&self) -> Vec<Process> {
        let Ok(entries) = fs::read_dir(self.dir.join("pids")) else {
            return Vec::new();
        };
        let mut all: Vec<Process> = entries
            .filter_map(|entry| {
                serde_json::from_str(&fs::read_to_string(entry.ok()?.path()).ok()?).ok()
            })
            .collect();
        all.sort_by(|a, b| a.what.cmp(&b.what));
        all
    }

    /// Whether the command that brought it up is still at work on it.
    pub(crate) fn is_held(&self) -> bool {
        self.manifest().is_ok_and(|m| m.builder.is_alive())
    }

    /// Whether the lab is up or comes up right now.
    pub(crate) fn is_live(&self) -> bool {
        self.is_held() || self.processes().iter().any(Process::is_alive)
    }

    /// The last lines of a log, for an error message.
    pub(crate) fn log_tail(&self, what: &str) -> String {
        let text =
            fs::read_to_string(self.dir.join(format!("logs/{what}.log"))).unwrap_or_default();
        let lines: Vec<&str> = text
            .lines()
            .rev()
            .filter(|line| !line.trim().is_empty())
            .take(3)
            .collect();
        lines.into_iter().rev().collect::<Vec<_>>().join(" | ")
    }

    /// Ends the lab's processes, removes its namespaces and then the directory itself.
    ///
    /// # Errors
    /// When something of it can't be removed; the directory then stays, so that it can be tried again.
    pub(crate) fn tear_down(&self) -> anyhow::Result<()> {
        let manifest = match self.manifest() {
            Ok(manifest) => Some(manifest),
            // Killed between the directory and the manifest: nothing else was made yet.
            Err(_) if !self.path("lab.json").exists() => None,
            Err(e) => return Err(e),
        };
        let namespaces = manifest
            .as_ref()
            .map(|m| m.namespaces.clone())
            .unwrap_or_default();
        if let Some(Manifest { builder, .. }) = &manifest
            && builder.is_alive()
            && builder.pid.unsigned_abs() != std::process::id()
        {
            // It unwinds by itself on a signal; what it leaves is removed below.
            end(std::slice::from_ref(builder));
        }
        end(&self.processes());
        let identities: BTreeSet<(u64, u64)> = namespaces
            .iter()
            .filter_map(|name| netns::identity(name))
            .collect();
        end(&inhabitants(&identities));
        let mut failed = Vec::new();
        for name in &namespaces {
            if let Err(e) = netns::remove(name) {
                failed.push(format!("{e:#}"));
            }
        }
        if !failed.is_empty() {
            bail!("{}", failed.join("; "));
        }
        let limits: Vec<Raised> = self.read_json("limits.json").unwrap_or_default();
        limits.iter().for_each(Raised::revert);
        match fs::remove_dir_all(&self.dir) {
            Ok(()) => Ok(()),
            Err(e) if e.kind() == ErrorKind::NotFound => Ok(()),
            Err(e) => Err(e).with_context(|| format!("remove {}", self.dir.display())),
        }
    }
}

/// Processes that live in one of these namespaces.
fn inhabitants(namespaces: &BTreeSet<(u64, u64)>) -> Vec<Process> {
    if namespaces.is_empty() {
        return Vec::new();
    }
    let Ok(entries) = fs::read_dir("/proc") else {
        return Vec::new();
    };
    entries
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<u32>().ok())
        .filter(|pid| *pid != std::process::id())
        .filter_map(|pid| {
            let stat = rustix::fs::stat(format!("/proc/{pid}/ns/net")).ok()?;
            namespaces
                .contains(&(stat.st_dev, stat.st_ino))
                .then(|| Process::of("inhabitant", pid).ok())?
        })
        .collect()
}

/// Ends processes: asked first, made to after a while, and waited for.
pub(crate) fn end(processes: &[Process]) {
    let mut handles: Vec<OwnedFd> = processes.iter().filter_map(Process::handle).collect();
    for signal in [Signal::TERM, Signal::KILL] {
        for handle in &handles {
            // Gone meanwhile is what was wanted.
            rustix::process::pidfd_send_signal(handle, signal).unwrap_or_default();
        }
        let until = Instant::now() + GRACE;
        while !handles.is_empty() && Instant::now() < until {
            handles = still_running(handles, Duration::from_millis(100));
        }
        if handles.is_empty() {
            return;
        }
    }
}

/// A pidfd is readable once its process has ended.
fn still_running(handles: Vec<OwnedFd>, at_most: Duration) -> Vec<OwnedFd> {
    let Some(first) = handles.first() else {
        return handles;
    };
    let timeout = rustix::time::Timespec {
        tv_sec: 0,
        tv_nsec: i64::from(at_most.subsec_nanos()),
    };
    let mut waiting = [PollFd::new(first, PollFlags::IN)];
    // Interrupted or timed out: the loop above looks at the clock.
    let _ready = rustix::event::poll(&mut waiting, Some(&timeout));
    let now = rustix::time::Timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    handles
        .into_iter()
        .filter(|handle| {
            let mut one = [PollFd::new(handle, PollFlags::IN)];
            !matches!(rustix::event::poll(&mut one, Some(&now)), Ok(n) if n > 0)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use super::*;

    fn root(name: &str) -> PathBuf {
        let root =
            std::env::temp_dir().join(format!("overweave-state-{}-{name}", std::process::id()));
        fs::remove_dir_all(&root).unwrap_or_default();
        root
    }

    #[test]
    fn a_start_time_is_field_22_whatever_the_name_holds() {
        let stat = "12 (a) b) (c)) S 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 987654 20 21";
        assert_eq!(parse_stat(stat), Some(987_654));
        assert_eq!(
            parse_stat("12 (a) Z 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 987654 20"),
            None
        );
        assert_eq!(parse_stat("garbage"), None);
    }

    #[test]
    fn a_process_is_ended_and_only_that_one() {
        let mut child = Command::new("sleep")
            .arg("600")
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        let known = Process::of("sleep", child.id()).unwrap();
        assert!(known.is_alive());
        // Of another start time, it is another process: it must be left alone.
        let stranger = Process {
            start: known.start + 1,
            ..known.clone()
        };
        end(std::slice::from_ref(&stranger));
        assert!(known.is_alive());
        end(std::slice::from_ref(&known));
        assert!(!known.is_alive());
        child.wait().unwrap();
    }

    #[test]
    fn one_lab_needs_no_name_and_two_do() {
        let root = root("choose");
        assert!(
            choose(&root, None)
                .unwrap_err()
                .to_string()
                .contains("overweave lab up")
        );
        State::at(&root, "one").claim().unwrap();
        assert!(choose(&root, None).unwrap().dir().ends_with("one"));
        State::at(&root, "two").claim().unwrap();
        assert!(
            choose(&root, None)
                .unwrap_err()
                .to_string()
                .contains("--name: one, two")
        );
        assert!(
            choose(&root, Some("three"))
                .unwrap_err()
                .to_string()
                .contains("these are: one, two")
        );
        assert!(State::at(&root, "two").claim().is_err());
        fs::remove_dir_all(root).unwrap();
    }

    #[test]
    fn down_forgets_what_is_recorded_and_removes_the_directory() {
        let root = root("down");
        let state = State::at(&root, "lab");
        state.claim().unwrap();
        let mut child = Command::new("sleep")
            .arg("600")
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        let me = Process::of("builder", std::process::id()).unwrap();
        let manifest = Manifest {
            name: "lab".into(),
            file: "/x".into(),
            namespaces: vec![],
            builder: me,
            ready: false,
        };
        state.write_json("lab.json", &manifest).unwrap();
        state
            .record(&Process::of("sleep", child.id()).unwrap())
            .unwrap();
        assert!(state.is_live());
        state.tear_down().unwrap();
        assert!(!state.exists());
        assert!(child.wait().is_ok_and(|status| !status.success()));
        fs::remove_dir_all(root).unwrap();
    }
}
