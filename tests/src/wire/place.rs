//! Where does a system stand?
//!
//! `NAME-h1` and `NAME-h2` are hosts with a veth `u0` between them, `NAME-w1` and `NAME-w2` the workloads. All names begin with
//! [`prefix`], by which an interrupted sitting is swept away.

use crate::netns;
use anyhow::{Context as _, bail, ensure};
use std::{
    net::IpAddr,
    path::Path,
    process::{Child, Command, ExitCode, Output, Stdio},
};
use tokio::signal::unix::{SignalKind, signal};
use vswitch::io::netns::Netns;

/// What all names of this process's namespaces begin with.
pub fn prefix() -> String {
    format!("owb{}", std::process::id())
}

/// Runs a command to its end; what it printed.
///
/// # Errors
/// It does not start, or fails: with what it said.
pub fn command(words: &[&str]) -> anyhow::Result<String> {
    let line = words.join(" ");
    let (program, arguments) = words.split_first().context("no command")?;
    let done = Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .output();
    told(&line, &done.with_context(|| format!("start {program}"))?)
}

fn told(line: &str, done: &Output) -> anyhow::Result<String> {
    if !done.status.success() {
        let said = String::from_utf8_lossy(&done.stderr);
        bail!(
            "`{line}` failed ({}): {}{}",
            done.status,
            said.trim(),
            String::from_utf8_lossy(&done.stdout)
        );
    }
    Ok(String::from_utf8_lossy(&done.stdout).into_owned())
}

/// `ip …`.
///
/// # Errors
/// What it said.
pub fn ip(line: &str) -> anyhow::Result<String> {
    let words: Vec<&str> = std::iter::once("ip").chain(line.split(' ')).collect();
    command(&words)
}

/// Ends all processes in this process's namespaces and deletes them; what else stands on the machine is not touched.
pub fn sweep() {
    let prefix = format!("{}-", prefix());
    let Ok(entries) = std::fs::read_dir("/run/netns") else {
        return;
    };
    for entry in entries.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        if !name.starts_with(&prefix) {
            continue;
        }
        for pid in ip(&format!("netns pids {name}"))
            .unwrap_or_default()
            .split_whitespace()
        {
            // It may have ended by itself.
            command(&["kill", "-9", pid]).map(drop).unwrap_or_default();
        }
        ip(&format!("netns del {name}"))
            .map(drop)
            .unwrap_or_default();
    }
}

/// Runs a command of this package to its end, as root, and removes what it made if it fails or is told to end (SIGINT, SIGTERM).
#[expect(
    clippy::print_stderr,
    reason = "the last word of a command that failed"
)]
pub fn guarded(work: impl FnOnce() -> anyhow::Result<()> + Send + 'static) -> ExitCode {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    let ended = runtime.context("start").and_then(|runtime| {
        runtime.block_on(async {
            ensure!(netns::allowed(), "namespaces need root");
            let mut terminated = signal(SignalKind::terminate())?;
            let (told, hears) = tokio::sync::oneshot::channel();
            std::thread::spawn(move || told.send(work()).map_err(drop));
            tokio::select! {
                // If it panicked it has said where.
                done = hears => done.context("nothing done")?,
                _ = tokio::signal::ctrl_c() => bail!("interrupted"),
                _ = terminated.recv() => bail!("terminated"),
            }
        })
    });
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            sweep();
            eprintln!("bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// What every system has; dropped in this order.
const NODES: [&str; 4] = ["w1", "w2", "h1", "h2"];

/// The namespaces of one system.
#[derive(Debug)]
pub struct Place {
    name: String,
    /// Bytes of a workload's packet.
    pub mtu: u16,
    /// Both workloads on the first host.
    pub local: bool,
    /// Nodes that came later.
    more: Vec<String>,
}

impl Place {
    /// Makes them.
    ///
    /// # Errors
    /// What `ip` said.
    pub fn new(number: usize, mtu: u16, underlay_mtu: u16, local: bool) -> anyhow::Result<Self> {
        let place = Self {
            name: format!("{}-{number}", prefix()),
            mtu,
            local,
            more: vec![],
        };
        for node in NODES {
            place.make(node)?;
        }
        let (h1, h2) = (place.netns("h1"), place.netns("h2"));
        ip(&format!(
            "-n {h1} link add u0 mtu {underlay_mtu} type veth peer name u0 mtu {underlay_mtu} netns {h2}"
        ))?;
        for netns in [h1, h2] {
            ip(&format!("-n {netns} link set u0 up"))?;
        }
        Ok(place)
    }

    fn make(&self, node: &str) -> anyhow::Result<()> {
        let netns = self.netns(node);
        ip(&format!("netns add {netns}"))?;
        ip(&format!("-n {netns} link set lo up"))?;
        Ok(())
    }

    /// Makes one more namespace.
    ///
    /// # Errors
    /// What `ip` said.
    pub fn add(&mut self, node: &str) -> anyhow::Result<()> {
        self.more.push(node.to_owned());
        self.make(node)
    }

    /// The full name of a node's namespace.
    pub fn netns(&self, node: &str) -> String {
        format!("{}-{node}", self.name)
    }

    /// The host of a workload.
    pub fn host_of(&self, workload: u8) -> &'static str {
        if self.local || workload == 1 {
            "h1"
        } else {
            "h2"
        }
    }

    /// The hosts that have something to do.
    pub fn hosts(&self) -> &'static [(&'static str, u8)] {
        if self.local {
            &[("h1", 1)]
        } else {
            &[("h1", 1), ("h2", 2)]
        }
    }

    /// A host's underlay address.
    pub fn vtep(host: u8, v6: bool) -> IpAddr {
        if v6 {
            IpAddr::from([0xfd00, 0x77, 0, 0, 0, 0, 0, u16::from(host)])
        } else {
            IpAddr::from([192, 168, 77, host])
        }
    }

    /// A workload's address.
    pub fn address(workload: u8, v6: bool) -> IpAddr {
        if v6 {
            IpAddr::from([0xfd77, 0, 0, 0, 0, 0, 0, u16::from(workload)])
        } else {
            IpAddr::from([10, 77, 0, workload])
        }
    }

    /// A workload's Ethernet address.
    pub fn mac(workload: u8) -> String {
        format!("02:77:00:00:00:0{workload}")
    }

    /// Gives a host's device its underlay addresses, of both families.
    ///
    /// # Errors
    /// What `ip` said.
    pub fn address_host(&self, host: &str, number: u8, device: &str) -> anyhow::Result<()> {
        let netns = self.netns(host);
        let (v4, v6) = (Self::vtep(number, false), Self::vtep(number, true));
        ip(&format!("-n {netns} addr add {v4}/24 dev {device}"))?;
        ip(&format!("-n {netns} addr add {v6}/64 dev {device} nodad"))?;
        Ok(())
    }

    /// Makes a device of a workload's namespace its `eth0`, with address and size.
    ///
    /// # Errors
    /// What `ip` said.
    pub fn address_workload(&self, workload: u8, device: &str) -> anyhow::Result<()> {
        let netns = self.netns(&format!("w{workload}"));
        let (mac, mtu) = (Self::mac(workload), self.mtu);
        if device != "eth0" {
            ip(&format!("-n {netns} link set {device} name eth0"))?;
        }
        ip(&format!("-n {netns} link set eth0 address {mac}"))?;
        ip(&format!("-n {netns} link set eth0 mtu {mtu} up"))?;
        let (v4, v6) = (
            Self::address(workload, false),
            Self::address(workload, true),
        );
        ip(&format!("-n {netns} addr add {v4}/24 dev eth0"))?;
        ip(&format!("-n {netns} addr add {v6}/64 dev eth0 nodad"))?;
        Ok(())
    }

    /// A command in a node's namespace, not started yet.
    pub fn inside(&self, node: &str, words: &[&str]) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.netns(node)]);
        command.args(words).stdin(Stdio::null());
        command
    }

    /// Runs a command in a node's namespace; what it printed.
    ///
    /// # Errors
    /// It does not start, or fails.
    pub fn ask(&self, node: &str, words: &[&str]) -> anyhow::Result<String> {
        let line = words.join(" ");
        told(&line, &self.inside(node, words).output()?)
    }

    /// Starts a command that stays, with its words in a file.
    ///
    /// # Errors
    /// It does not start, or the file can't be made.
    pub fn spawn(&self, node: &str, words: &[&str], log: &Path) -> anyhow::Result<Child> {
        let file = std::fs::File::create(log)
            .with_context(|| format!("create the log {}", log.display()))?;
        let mut command = self.inside(node, words);
        command.stdout(file.try_clone()?).stderr(file);
        command
            .spawn()
            .with_context(|| format!("start {}", words.join(" ")))
    }

    /// A node's namespace, to enter.
    pub fn enter(&self, node: &str) -> Netns {
        Netns::named(&self.netns(node))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        for node in self.more.iter().map(String::as_str).chain(NODES) {
            // Half made where it failed early.
            ip(&format!("netns del {}", self.netns(node)))
                .map(drop)
                .unwrap_or_default();
        }
    }
}
