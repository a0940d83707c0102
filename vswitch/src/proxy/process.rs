//! How does the program run where only its port is?
//!
//! In a network namespace without a name: a thread leaves the host's and starts the program, whose own it then is. That thread lives as long as the
//! program: when it ends, by whatever, the kernel tells the program to end too.

use std::{
    fs,
    io::{self, BufRead as _, BufReader, Read as _},
    path::{Path, PathBuf},
    process::{ChildStderr, Command, Stdio},
    thread,
};

use rustix::{
    process::{Pid, Signal, kill_process},
    thread::UnshareFlags,
};
use tokio::sync::oneshot;

/// What is read of a line that it says.
const LINE: u64 = 1000;

/// A running program.
#[derive(Debug)]
pub(super) struct Process {
    pid: Pid,
    ended: oneshot::Receiver<String>,
    /// How it ended.
    over: Option<String>,
}

impl Process {
    /// Starts a program with its configuration.
    ///
    /// # Errors
    /// When there is no thread, no namespace or no such program.
    pub(super) async fn start(program: &Path, file: &Path) -> io::Result<Self> {
        let (program, file) = (program.to_owned(), file.to_owned());
        let (begun, started) = oneshot::channel();
        let (over, ended) = oneshot::channel();
        thread::Builder::new()
            .name("proxy".to_owned())
            .spawn(move || {
                let mut child = match spawn(&program, &file) {
                    Ok(child) => child,
                    Err(error) => return drop(begun.send(Err(error))),
                };
                let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
                let told = begun.send(pid.ok_or_else(|| io::Error::other("no process id")));
                if told.is_err() {
                    // Nobody waits for it any more.
                    drop(child.kill());
                }
                // Until nobody can say anything any more.
                let alarm = child.stderr.take().and_then(last_alarm);
                let ended = match child.wait() {
                    Ok(status) => status.to_string(),
                    Err(error) => error.to_string(),
                };
                let ended = alarm.map_or(ended.clone(), |alarm| format!("{ended}: {alarm}"));
                drop(over.send(ended));
            })?;
        let pid = started.await.map_err(io::Error::other)??;
        Ok(Self {
            pid,
            ended,
            over: None,
        })
    }

    /// Its network namespace.
    pub(super) fn netns(&self) -> PathBuf {
        PathBuf::from(format!("/proc/{}/ns/net", self.pid.as_raw_nonzero()))
    }

    /// Has it read its configuration again; what it has open stays.
    pub(super) fn reload(&mut self) -> io::Result<()> {
        self.signal(Signal::USR2)
    }

    /// Waits until it has ended.
    pub(super) async fn ended(&mut self) -> String {
        if let Some(how) = &self.over {
            return how.clone();
        }
        let ended = (&mut self.ended).await;
        let how = ended.unwrap_or_else(|error| error.to_string());
        self.over.insert(how).clone()
    }

    /// Has it ended?
    pub(super) fn is_over(&mut self) -> bool {
        if self.over.is_none() {
            // What is taken from here once is not there again.
            self.over = match self.ended.try_recv() {
                Err(oneshot::error::TryRecvError::Empty) => None,
                Err(error) => Some(error.to_string()),
                Ok(how) => Some(how),
            };
        }
        self.over.is_some()
    }

    fn signal(&mut self, signal: Signal) -> io::Result<()> {
        // Whoever has ended may have given its number to another.
        if self.is_over() {
            return Err(io::Error::other("it has ended"));
        }
        Ok(kill_process(self.pid, signal)?)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It ends at once: nobody reaches it any more.
        drop(self.signal(Signal::TERM));
    }
}

fn spawn(program: &Path, file: &Path) -> io::Result<std::process::Child> {
    #[expect(
        deprecated,
        reason = "its successor is unsafe for CLONE_FILES and CLONE_FS; a network namespace is neither"
    )]
    rustix::thread::unshare(UnshareFlags::NEWNET)?;
    // What is asked of neighbours while the device is still being attached is lost, and is asked again after a second otherwise.
    for family in ["ipv4", "ipv6"] {
        let sysctl = format!("/proc/sys/net/{family}/neigh/default/retrans_time_ms");
        drop(fs::write(sysctl, "100")); // a kernel without the family
    }
    Command::new("setpriv")
        .args(["--pdeathsig", "TERM", "--"])
        .arg(program)
        .args(["-W", "-db", "-q", "-f"])
        .arg(file)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
}

/// The last line in which it gave alarm, as far as it is of a sensible length.
fn last_alarm(said: ChildStderr) -> Option<String> {
    let (mut reader, mut line, mut alarm) = (BufReader::new(said), Vec::new(), None);
    loop {
        line.clear();
        match reader.by_ref().take(LINE).read_until(b'\n', &mut line) {
            Ok(0) | Err(_) => return alarm,
            Ok(_) => {
                let text = String::from_utf8_lossy(&line);
                if text.contains("[ALERT]") {
                    alarm = Some(text.trim_end().to_owned());
                }
            }
        }
    }
}

/// Does the program understand its configuration? What it says if not.
///
/// # Errors
/// What is wrong, in its own words.
pub(super) async fn check(program: &Path, file: &Path) -> Result<(), String> {
    let mut command = Command::new(program);
    command
        .args(["-c", "-q", "-f"])
        .arg(file)
        .stdin(Stdio::null());
    let done = tokio::task::spawn_blocking(move || command.output()).await;
    let output = match done {
        Ok(Ok(output)) => output,
        Ok(Err(error)) => return Err(format!("{}: {error}", program.display())),
        Err(error) => return Err(error.to_string()),
    };
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let said = said.lines().find(|line| line.contains("[ALERT]"));
    Err(said.unwrap_or("it refuses its configuration").to_owned())
}
