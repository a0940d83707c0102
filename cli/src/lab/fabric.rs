//! How does a lab come up, and go?
//!
//! In order: namespaces, wires, the keeper, a real controller, a real vswitch a host that joins by token, the intent
//! by the public API, the workloads' ports by each vswitch's socket. Whatever fails, what was made is removed.

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::time::Duration;

use anyhow::{Context, anyhow, bail};

use super::keeper::{Orders, Server};
use super::netlink::{Kind, Netlink};
use super::plan::{Host, Lab};
use super::probe::side_by_side;
use super::provision::{self, Inventory};
use super::state::{Manifest, Process, State};
use super::underlay::{self, CONTROLLER, Way, namespace};
use super::{neighbours, netns, relay, tagger, vtep};
use crate::api::{Api, text};
use crate::cancel::Cancel;
use crate::clouds;
use crate::say::Progress;
use crate::verbs::{add_host, attach_port};

const API_PORT: u16 = 9696;
const HOSTS_PORT: u16 = 9697;
/// What an unoptimised build on a loaded machine may need.
const START: Duration = Duration::from_secs(30);

/// A lab that is up.
#[derive(Debug)]
pub(crate) struct Fabric {
    pub(crate) lab: Lab,
    pub(crate) state: State,
    pub(crate) inventory: Inventory,
    controller: Option<Child>,
    children: Vec<Child>,
}

/// A child process, and where its output goes.
struct Spawn<'a> {
    what: &'a str,
    namespace: Option<&'a str>,
    args: Vec<String>,
    input: Option<&'a str>,
}

/// Brings a lab up from nothing.
///
/// # Errors
/// What failed; then nothing of the lab is left.
pub(crate) fn bring_up(
    lab: Lab,
    file: &Path,
    state: State,
    cancel: &Cancel,
    progress: &Progress,
) -> anyhow::Result<Fabric> {
    make_room(&lab, &state, progress)?;
    let mut fabric = Fabric {
        lab,
        state,
        inventory: Inventory::default(),
        controller: None,
        children: Vec::new(),
    };
    match fabric.build(file, cancel, progress) {
        Ok(()) => Ok(fabric),
        Err(error) => {
            progress.step("removing what was made");
            match fabric.tear_down() {
                Ok(()) => Err(error),
                Err(left) => Err(error.context(format!(
                    "something is left ({left:#}); run `overweave lab down`"
                ))),
            }
        }
    }
}

/// Removes what an earlier lab of the name left when it was killed.
fn make_room(lab: &Lab, state: &State, progress: &Progress) -> anyhow::Result<()> {
    if state.exists() {
        if state.is_live() {
            bail!(
                "lab `{0}` is already up; end it with `overweave lab down --name {0}`, or choose another --name",
                lab.name
            );
        }
        progress.step("removing what an earlier lab left");
        state
            .tear_down()
            .context("remove what an earlier lab left")?;
    }
    let taken: Vec<String> = namespaces(lab)
        .into_iter()
        .filter(|name| netns::exists(name))
        .collect();
    if let Some(first) = taken.first() {
        bail!(
            "namespace {first} is there already and is not a lab's; remove it with `ip netns delete {first}`, or choose another --name"
        );
    }
    state.claim()
}

fn namespaces(lab: &Lab) -> Vec<String> {
    let hosts = lab.hosts.iter().map(|h| h.name.as_str());
    let workloads = lab.workloads.iter().map(|w| w.name.as_str());
    ["controller"]
        .into_iter()
        .chain(hosts)
        .chain(workloads)
        .map(|what| namespace(&lab.name, what))
        .collect()
}

impl Fabric {
    /// The run directory of a host's vswitch.
    pub(crate) fn run_dir(&self, host: &str) -> PathBuf {
        run_dir(&self.state, host)
    }

    fn build(&mut self, file: &Path, cancel: &Cancel, progress: &Progress) -> anyhow::Result<()> {
        let mut manifest = Manifest {
            name: self.lab.name.clone(),
            file: std::path::absolute(file).context("find the working directory")?,
            namespaces: namespaces(&self.lab),
            builder: Process::of("builder", std::process::id())?,
            ready: false,
        };
        self.state.write_json("lab.json", &manifest)?;
        let limits = neighbours::wanted(&self.lab);
        self.state.write_json("limits.json", &limits)?;
        limits.iter().for_each(neighbours::Raised::apply);
        progress.step("making namespaces");
        netns::create(&manifest.namespaces)?;
        self.wire(progress).context("build the underlay")?;
        cancel.check()?;

        progress.step("starting the controller");
        self.start_controller()?;
        let port = self.start_keeper()?;
        let api = self.log_in(port, cancel)?;

        progress.step("starting the vswitches and creating the intent");
        let started = Mutex::new(Vec::new());
        let (hosts, inventory) = std::thread::scope(|scope| {
            let hosts = scope.spawn(|| self.start_hosts(&api, cancel, &started));
            let inventory = provision::provision(&self.lab, &api);
            (
                hosts
                    .join()
                    .map_err(|_panic| anyhow!("the thread that starts hosts died")),
                inventory,
            )
        });
        self.children
            .extend(started.into_inner().unwrap_or_default());
        hosts??;
        self.inventory = inventory?;
        self.state.write_json("inventory.json", &self.inventory)?;
        cancel.check()?;

        progress.step("attaching the workloads");
        self.attach_all(cancel)?;
        self.tag()?;
        for host in self.lab.hosts.iter().filter(|h| h.kernel_vtep) {
            vtep::build(&self.lab, &self.inventory, host)?;
        }
        progress.step("waiting until all ports are ACTIVE");
        self.wait_active(&api, cancel)?;
        manifest.ready = true;
        self.state.write_json("lab.json", &manifest)
    }

    /// Starts a part of overweave as a process of its own, in a process group of its own: a Ctrl-C is for the lab,
    /// which ends its parts in order.
    fn spawn(state: &State, spawn: &Spawn<'_>) -> anyhow::Result<Child> {
        let Spawn {
            what,
            namespace,
            args,
            input,
        } = spawn;
        let log = File::create(state.path(&format!("logs/{what}.log")))
            .with_context(|| format!("log {what}"))?;
        let exe = std::env::current_exe().context("find this program")?;
        let start = || {
            let mut command = Command::new(&exe);
            command.args(args).process_group(0);
            command.stdin(if input.is_some() {
                Stdio::piped()
            } else {
                Stdio::null()
            });
            command
                .stdout(log.try_clone().context("share a log")?)
                .stderr(log);
            command.spawn().with_context(|| format!("start {what}"))
        };
        let mut child = match namespace {
            Some(namespace) => netns::inside(namespace, start),
            None => start(),
        }?;
        if let Ok(process) = Process::of(what, child.id()) {
            state.record(&process)?;
        } else {
            let status = child.wait().with_context(|| format!("look after {what}"))?;
            bail!("{what} ended at once ({status}): {}", state.log_tail(what));
        }
        if let (Some(text), Some(mut stdin)) = (input, child.stdin.take()) {
            writeln!(stdin, "{text}").with_context(|| format!("hand {what} its token"))?;
        }
        Ok(child)
    }

    /// Makes the wires, with the relay where the kernel can't make them bad.
    fn wire(&mut self, progress: &Progress) -> anyhow::Result<()> {
        let way = underlay::way(&self.lab)?;
        self.state.write_json("underlay.json", &way)?;
        if matches!(way, Way::Relay { .. }) {
            progress.note(&format!("underlay: {way}"));
            self.state
                .write_json(relay::ORDERS, &underlay::orders(&self.lab))?;
            let said = self.start_attendant("relay")?;
            if said != relay::READY {
                bail!("the relay did not start: {}", self.state.log_tail("relay"));
            }
        }
        underlay::build(&self.lab, &way)
    }

    fn start_controller(&mut self) -> anyhow::Result<()> {
        // What every wire of the lab carries, so that networks get the mtu that it leaves.
        self.state.write(
            "controller.toml",
            &format!("underlay_mtu = {}\n", self.lab.underlay.mtu),
        )?;
        let data = self.state.path("controller");
        let config = self.state.path("controller.toml");
        let args = vec![
            "controller".to_owned(),
            format!("--config={}", config.display()),
            format!("--listen={CONTROLLER}:{API_PORT}"),
            format!("--hosts-listen={CONTROLLER}:{HOSTS_PORT}"),
            format!("--data-dir={}", data.display()),
        ];
        let namespace = namespace(&self.lab.name, "controller");
        let spawn = Spawn {
            what: "controller",
            namespace: Some(&namespace),
            args,
            input: None,
        };
        self.controller = Some(Self::spawn(&self.state, &spawn)?);
        Ok(())
    }

    /// Starts the servers and the forwarder; the answer is the API's port on the caller's loopback.
    fn start_keeper(&mut self) -> anyhow::Result<u16> {
        let servers = self
            .lab
            .serve
            .iter()
            .map(|serve| Server {
                namespace: namespace(&self.lab.name, &serve.workload),
                workload: serve.workload.clone(),
                kind: serve.kind,
                port: serve.port,
            })
            .collect();
        let orders = Orders {
            controller_namespace: namespace(&self.lab.name, "controller"),
            controller: SocketAddr::from((CONTROLLER, API_PORT)),
            servers,
        };
        self.state.write_json("keeper.json", &orders)?;
        match self.start_attendant("keeper")?.parse() {
            Ok(port) => Ok(port),
            Err(_) => bail!(
                "the lab's servers did not start: {}",
                self.state.log_tail("keeper")
            ),
        }
    }

    /// Starts a process that attends the lab from outside its namespaces, and returns the line that it says when it
    /// is ready, or nothing if it ended.
    fn start_attendant(&mut self, what: &str) -> anyhow::Result<String> {
        let log = File::create(self.state.path(&format!("logs/{what}.log")))
            .with_context(|| format!("log the {what}"))?;
        let mut child = Command::new(std::env::current_exe().context("find this program")?)
            .args(["lab", what])
            .arg(self.state.dir())
            .process_group(0)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(log)
            .spawn()
            .with_context(|| format!("start the {what}"))?;
        self.state.record(&Process::of(what, child.id())?)?;
        let stdout = child.stdout.take();
        self.children.push(child);
        let mut line = String::new();
        BufReader::new(stdout.with_context(|| format!("hear the {what}"))?)
            .read_line(&mut line)
            .with_context(|| format!("hear the {what}"))?;
        Ok(line.trim().to_owned())
    }

    /// Waits for the controller and logs in with the clouds.yaml that it wrote, through the caller's loopback.
    fn log_in(&mut self, port: u16, cancel: &Cancel) -> anyhow::Result<Api> {
        let written = self.state.path("controller/clouds.yaml");
        let at = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let Self {
            state, controller, ..
        } = self;
        let up = cancel.wait(START, || {
            gone(controller.as_mut(), "controller", state)?;
            Ok((written.exists() && healthy(at)).then_some(()))
        })?;
        if up.is_none() {
            bail!(
                "the controller does not answer after {} s: {}",
                START.as_secs(),
                self.state.log_tail("controller")
            );
        }
        let theirs =
            std::fs::read_to_string(&written).context("read the controller's clouds.yaml")?;
        let ours = theirs.replace(&format!("{CONTROLLER}:{API_PORT}"), &at.to_string());
        self.state.write("clouds.yaml", &ours)?;
        let cloud = clouds::read(&self.state.path("clouds.yaml"))?
            .remove("overweave")
            .context("the controller's clouds.yaml has no cloud `overweave`")?;
        Api::login(&cloud)
    }

    fn start_hosts(
        &self,
        api: &Api,
        cancel: &Cancel,
        started: &Mutex<Vec<Child>>,
    ) -> anyhow::Result<()> {
        let hosts: Vec<(usize, &Host)> = self.lab.hosts.iter().enumerate().collect();
        side_by_side(&hosts, 8, |(i, host)| {
            cancel.check()?;
            let vtep = underlay::address(*i, self.lab.underlay.routed);
            if host.kernel_vtep {
                return add_host(api, &host.name, Some(vtep.into())).map(drop);
            }
            let token = add_host(api, &host.name, None)?.context("get a join token")?;
            let namespace = namespace(&self.lab.name, &host.name);
            let what = format!("vswitch-{}", host.name);
            let run_dir = self.run_dir(&host.name).display().to_string();
            let controller = format!("https://{CONTROLLER}:{HOSTS_PORT}");
            let vtep = vtep.to_string();
            let mut args = [
                "vswitch",
                "--host",
                &host.name,
                "--controller",
                &controller,
                "--join",
                "-",
                "--vtep-ip",
                &vtep,
                "--run-dir",
                &run_dir,
            ]
            .map(str::to_owned)
            .to_vec();
            args.extend(self.lab.underlay.uplink.map(|u| format!("--uplink={u}")));
            let child = Self::spawn(
                &self.state,
                &Spawn {
                    what: &what,
                    namespace: Some(&namespace),
                    args,
                    input: Some(&token),
                },
            )?;
            let child = Mutex::new(child);
            let joined = cancel.wait(START, || {
                gone(child.lock().ok().as_deref_mut(), &what, &self.state)?;
                let here = SocketAddr::from((Ipv4Addr::LOCALHOST, 9698));
                netns::inside(&namespace, || Ok(healthy(here).then_some(())))
            });
            if let (Ok(child), Ok(mut started)) = (child.into_inner(), started.lock()) {
                started.push(child);
            }
            match joined? {
                Some(()) => Ok(()),
                None => bail!(
                    "{what} has not joined after {} s: {}",
                    START.as_secs(),
                    self.state.log_tail(&what)
                ),
            }
        })
        .map(drop)
    }

    fn attach_all(&self, cancel: &Cancel) -> anyhow::Result<()> {
        let kernel = |host: &str| self.lab.host(host).is_some_and(|h| h.kernel_vtep);
        let all: Vec<_> = self
            .inventory
            .workloads
            .iter()
            .filter(|(name, placed)| !kernel(&placed.host) && !tagger::is_sub_port(&self.lab, name))
            .collect();
        side_by_side(&all, 16, |(name, placed)| {
            cancel.check()?;
            // Both sides of an appliance are in one namespace, and nobody there has their addresses.
            let pair = self
                .lab
                .legs()
                .find(|pair| [&pair.ingress, &pair.egress].contains(name));
            let first = pair.and_then(|pair| self.inventory.workloads.get(&pair.ingress));
            let is_second = pair.is_some_and(|pair| pair.egress == **name);
            attach_port(
                &self.run_dir(&placed.host),
                &placed.port,
                &netns::path(&first.unwrap_or(placed).namespace),
                if is_second { "eth1" } else { "eth0" },
                pair.is_none(),
            )
            .with_context(|| format!("attach workload {name} on host {}", placed.host))
        })?;
        self.lab.legs().try_for_each(|pair| {
            let placed = self.inventory.workloads.get(&pair.ingress);
            let placed = placed.context("find an appliance's port")?;
            netns::inside(&placed.namespace, || {
                let mut netlink = Netlink::open()?;
                let hub = netlink.add_link("br0", Kind::Hub, None)?;
                for side in ["eth0", "eth1"] {
                    let side = netlink.index(side)?;
                    netlink.enslave(side, hub)?;
                    netlink.up(side)?;
                }
                netlink.up(hub)
            })
            .with_context(|| format!("bridge the appliance behind {}", pair.ingress))
        })
    }

    /// Makes the devices of sub-ports, on those of their trunks' parents.
    fn tag(&mut self) -> anyhow::Result<()> {
        if self.lab.trunks.is_empty() {
            return Ok(());
        }
        let orders = tagger::orders(&self.lab, &self.inventory)?;
        self.state.write_json(tagger::ORDERS, &orders)?;
        if self.start_attendant("tagger")? != tagger::READY {
            let said = self.state.log_tail("tagger");
            bail!("the sub-ports' devices are not there: {said}");
        }
        Ok(())
    }

    fn wait_active(&self, api: &Api, cancel: &Cancel) -> anyhow::Result<()> {
        let mut waiting: Vec<(&str, &str)> = self
            .inventory
            .workloads
            .iter()
            .filter(|(_, placed)| self.lab.host(&placed.host).is_some_and(|h| !h.kernel_vtep))
            .map(|(name, placed)| (placed.port.as_str(), name.as_str()))
            .collect();
        let done = cancel.wait(START, || {
            let ports = api.get("/v2.0/ports?fields=id&fields=status&status=ACTIVE")?;
            let ports = ports
                .get("ports")
                .and_then(|p| p.as_array())
                .cloned()
                .unwrap_or_default();
            waiting.retain(|(id, _)| {
                !ports
                    .iter()
                    .any(|p| text(p, "id") == *id && text(p, "status") == "ACTIVE")
            });
            Ok(waiting.is_empty().then_some(()))
        })?;
        if done.is_none() {
            let names: Vec<&str> = waiting.iter().map(|(_, name)| *name).take(8).collect();
            bail!(
                "{} ports are not ACTIVE after {} s ({}); see the logs in {}",
                waiting.len(),
                START.as_secs(),
                names.join(", "),
                self.state.path("logs").display()
            );
        }
        Ok(())
    }

    /// Ends and removes all of it.
    ///
    /// # Errors
    /// What could not be removed.
    pub(crate) fn tear_down(&mut self) -> anyhow::Result<()> {
        let result = self.state.tear_down();
        for child in self.children.iter_mut().chain(&mut self.controller) {
            // Ended above; this collects it.
            child.wait().map(drop).unwrap_or_default();
        }
        result
    }

    /// A part of the lab that has ended by itself, with its last words.
    ///
    /// # Errors
    /// When there is one.
    pub(crate) fn check_alive(&self) -> anyhow::Result<()> {
        for process in self.state.processes() {
            if !process.is_alive() {
                bail!(
                    "{} ended by itself: {}",
                    process.what,
                    self.state.log_tail(&process.what)
                );
            }
        }
        Ok(())
    }
}

/// The run directory of a host's vswitch.
pub(crate) fn run_dir(state: &State, host: &str) -> PathBuf {
    state.path(&format!("hosts/{host}"))
}

/// # Errors
/// When the child has ended, with its last words.
fn gone(child: Option<&mut Child>, what: &str, state: &State) -> anyhow::Result<()> {
    if let Some(child) = child
        && let Some(status) = child
            .try_wait()
            .with_context(|| format!("look after {what}"))?
    {
        bail!("{what} ended ({status}): {}", state.log_tail(what));
    }
    Ok(())
}

/// Whether `/healthz` there says 200.
fn healthy(at: SocketAddr) -> bool {
    let ask = || -> std::io::Result<bool> {
        let mut stream = TcpStream::connect_timeout(&at, Duration::from_secs(1))?;
        stream.set_read_timeout(Some(Duration::from_secs(2)))?;
        stream
            .write_all(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")?;
        let mut status = [0_u8; 12];
        stream.read_exact(&mut status)?;
        Ok(status.ends_with(b" 200"))
    };
    ask().unwrap_or(false)
}
