//! How does a controller live and die?

use std::{
    net::{Ipv4Addr, SocketAddr, TcpListener},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail};
use serde_json::json;

use crate::scale::http::Http;

/// A start may have to mend the file first.
const START: Duration = Duration::from_mins(1);

/// Where a controller keeps its things and listens, however often it dies.
#[derive(Debug, Clone)]
pub struct Home {
    /// The program.
    pub mortal: PathBuf,
    /// Its data dir.
    pub data: PathBuf,
    /// Its API.
    pub api: SocketAddr,
    /// Its hosts' listener.
    pub hosts: SocketAddr,
}

/// An address of loopback that nobody has just now.
fn free() -> anyhow::Result<SocketAddr> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?)
}

impl Home {
    /// A new one below a directory.
    ///
    /// # Errors
    /// When there is no place for it.
    pub fn new(mortal: &Path, dir: &Path) -> anyhow::Result<Self> {
        let data = dir.join("controller");
        std::fs::create_dir_all(&data)?;
        Ok(Self {
            mortal: mortal.to_owned(),
            data,
            api: free()?,
            hosts: free()?,
        })
    }

    /// Starts a controller that answers when this returns; `None` if it died before, as a fault in mending the file has it.
    ///
    /// # Errors
    /// When it neither answers nor dies.
    pub fn start(&self, fault: Option<&str>) -> anyhow::Result<Option<Process>> {
        let armed = self.data.join("armed");
        if armed.exists() {
            std::fs::remove_file(&armed)?;
        }
        let mut command = Command::new(&self.mortal);
        command
            .arg("--data-dir")
            .arg(&self.data)
            .arg(format!("--listen={}", self.api))
            .arg(format!("--hosts-listen={}", self.hosts))
            .stdin(Stdio::null());
        if let Some(fault) = fault {
            command.arg(format!("--die={fault}"));
        }
        let child = command.spawn().context("start the controller")?;
        let mut process = Process { child, armed };
        let began = Instant::now();
        while began.elapsed() < START {
            if process.is_dead()? {
                return Ok(None);
            }
            let healthy =
                Http::connect(self.api, "").and_then(|mut http| http.ask("GET", "/healthz", b""));
            if healthy.is_ok_and(|answer| answer.status == 200) {
                return Ok(Some(process));
            }
            thread::sleep(Duration::from_millis(10));
        }
        bail!("the controller does not answer");
    }

    /// Logs in as the admin: token and project.
    ///
    /// # Errors
    /// When that is refused.
    pub fn login(&self) -> anyhow::Result<(String, String)> {
        let clouds = std::fs::read_to_string(self.data.join("clouds.yaml"))?;
        let password = clouds
            .lines()
            .find_map(|line| line.trim().strip_prefix("password:"));
        let password = password.context("clouds.yaml has no password")?.trim();
        let domain = json!({"id": "default"});
        let body = json!({"auth": {
            "identity": {
                "methods": ["password"],
                "password": {"user": {"name": "admin", "domain": domain, "password": password}},
            },
            "scope": {"project": {"name": "admin", "domain": domain}},
        }});
        let mut http = Http::connect(self.api, "")?;
        let answer = http.ask(
            "POST",
            "/identity/v3/auth/tokens",
            body.to_string().as_bytes(),
        )?;
        let project = answer.json()?["token"]["project"]["id"]
            .as_str()
            .map(str::to_owned);
        Ok((
            answer.token.context("no token")?,
            project.context("no project")?,
        ))
    }
}

/// A controller's process; to drop it is to kill it.
#[derive(Debug)]
pub struct Process {
    child: Child,
    armed: PathBuf,
}

impl Process {
    /// From now on it dies where it was told to.
    ///
    /// # Errors
    /// When the file system refuses.
    pub fn arm(&self) -> anyhow::Result<()> {
        Ok(std::fs::write(&self.armed, "")?)
    }

    /// Has it ended?
    ///
    /// # Errors
    /// When it ended in any other way than by a kill.
    pub fn is_dead(&mut self) -> anyhow::Result<bool> {
        match self.child.try_wait()? {
            None => Ok(false),
            Some(status) if status.code().is_none() => Ok(true),
            Some(status) => bail!("the controller ended by itself: {status}"),
        }
    }

    /// Ends it now.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn kill(mut self) -> anyhow::Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may be dead already.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}
