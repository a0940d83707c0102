//! How does the control plane bear a region?
//!
//! A whole controller on a disk that syncs, asked over HTTP on loopback: first with a hundred ports, then with all of them; then a thousand
//! hosts that hear of single changes. Everything is one process, so clients and simulated hosts share the processor with it.
//!
//! # Map
//! - [`http`]: a client
//! - [`hosts`]: who hears

pub mod hosts;
pub mod http;

use std::{
    net::{Ipv4Addr, SocketAddr},
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc,
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail};
use controller::{Config, Controller, Core, policy::Files};
use serde_json::{Value, json};
use tokio::{
    runtime::{Builder, Runtime},
    sync::oneshot,
};

use crate::wire::figures::Middle;
use http::Http;

/// The policies' file of a stand: empty at first, which is as good as none.
const POLICIES: &str = "policy.json";

/// What is to be measured.
#[derive(Debug, Clone)]
pub struct Wish {
    /// Ports of the full region.
    pub ports: usize,
    /// Of these the ports of one network that is listed whole, bound to no host.
    pub listed: usize,
    /// Networks that the others are on.
    pub networks: usize,
    /// Hosts that they are on.
    pub hosts: usize,
    /// Requests of a work; a tenth of it where one takes many milliseconds.
    pub requests: usize,
    /// Where the store is made: a disk whose syncs count.
    pub dir: PathBuf,
}

/// One figure.
#[derive(Debug, Clone)]
pub struct Figure {
    /// What was done, and with how many ports there.
    pub work: String,
    /// The unit.
    pub unit: &'static str,
    /// The figure: a median where there are several values.
    pub value: f64,
    /// From and to, where it is a median.
    pub spread: Option<(f64, f64)>,
    /// The ninety-ninth of a hundred.
    pub p99: Option<f64>,
    /// What is wanted: at least or at most this.
    pub wanted: Option<Wanted>,
}

/// A bound.
#[derive(Debug, Clone, Copy)]
pub enum Wanted {
    /// Not less.
    AtLeast(f64),
    /// Not more.
    AtMost(f64),
}

impl Figure {
    fn one(work: impl Into<String>, unit: &'static str, value: f64) -> Self {
        Self {
            work: work.into(),
            unit,
            value,
            spread: None,
            p99: None,
            wanted: None,
        }
    }

    /// Of times, in milliseconds.
    fn times(work: impl Into<String>, times: &[Duration]) -> Self {
        let mut values: Vec<f64> = times.iter().map(|time| time.as_secs_f64() * 1e3).collect();
        values.sort_by(f64::total_cmp);
        let last = values.len().saturating_sub(1);
        Self {
            spread: values.first().copied().zip(values.last().copied()),
            p99: (values.len() >= 100).then(|| values[last * 99 / 100]),
            ..Self::one(work, "ms", Middle::of(&values).median)
        }
    }

    const fn wanted(mut self, wanted: Wanted) -> Self {
        self.wanted = Some(wanted);
        self
    }

    /// Is it as wanted? `None` where nothing was said.
    pub fn holds(&self) -> Option<bool> {
        self.wanted.map(|wanted| match wanted {
            Wanted::AtLeast(bound) => self.value >= bound,
            Wanted::AtMost(bound) => self.value <= bound,
        })
    }
}

/// A line each.
pub fn table(figures: &[Figure]) -> String {
    let mut text = String::new();
    for figure in figures {
        use std::fmt::Write as _;
        let _written = write!(
            text,
            "{:<58} {:>10.1} {:<8}",
            figure.work, figure.value, figure.unit
        );
        if let Some((least, most)) = figure.spread {
            let _written = write!(text, " [{least:.1}, {most:.1}]");
        }
        if let Some(p99) = figure.p99 {
            let _written = write!(text, " p99 {p99:.1}");
        }
        let held = figure
            .holds()
            .map(|holds| if holds { "holds" } else { "MISSES" });
        match (figure.wanted, held) {
            (Some(Wanted::AtLeast(bound)), Some(held)) => {
                let _written = write!(text, " (at least {bound}: {held})");
            }
            (Some(Wanted::AtMost(bound)), Some(held)) => {
                let _written = write!(text, " (at most {bound}: {held})");
            }
            _ => {}
        }
        text.push('\n');
    }
    text
}

/// The same as a document.
pub fn document(figures: &[Figure]) -> Value {
    let one = |figure: &Figure| {
        let (least, most) = figure.spread.unzip();
        json!({
            "work": figure.work, "unit": figure.unit, "value": figure.value, "least": least, "most": most,
            "p99": figure.p99, "holds": figure.holds(),
        })
    };
    Value::Array(figures.iter().map(one).collect())
}

/// A controller that serves, with its store in a directory that goes with it.
pub(crate) struct Stand {
    runtime: Runtime,
    pub(crate) core: Arc<Core>,
    addr: SocketAddr,
    token: String,
    pub(crate) project: String,
    stop: Option<oneshot::Sender<()>>,
    dir: PathBuf,
}

impl Drop for Stand {
    fn drop(&mut self) {
        if let Some(stop) = self.stop.take() {
            // It may have ended by itself.
            let _ended = stop.send(());
        }
        drop(std::fs::remove_dir_all(&self.dir));
    }
}

impl Stand {
    pub(crate) fn up(dir: &std::path::Path) -> anyhow::Result<Self> {
        let runtime = Builder::new_multi_thread().enable_all().build()?;
        let dir = dir.join(format!("ow-control-{}", uuid::Uuid::new_v4()));
        std::fs::create_dir_all(&dir).with_context(|| format!("make {}", dir.display()))?;
        let policies = Files {
            file: Some(dir.join(POLICIES)),
            dir: None,
        };
        std::fs::write(dir.join(POLICIES), "{}")?;
        let config = Config {
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
            data_dir: dir.clone(),
            policies,
            ..Config::default()
        };
        let controller = runtime.block_on(Controller::start(&config, "pin".to_owned()))?;
        let core = Arc::clone(controller.core());
        let clouds = std::fs::read_to_string(controller.clouds_file())?;
        let password = clouds
            .lines()
            .find_map(|line| line.trim().strip_prefix("password:"));
        let password = password.context("clouds.yaml has no password")?.trim();
        let (stop, stopped) = oneshot::channel();
        let addr = core.api_addr();
        runtime.spawn(controller.serve(async { drop(stopped.await) }));
        let user = json!({"name": "admin", "domain": {"id": "default"}, "password": password});
        let scope = json!({"project": {"name": "admin", "domain": {"id": "default"}}});
        let login = json!({"auth": {
            "identity": {"methods": ["password"], "password": {"user": user}}, "scope": scope,
        }});
        let mut stand = Self {
            runtime,
            core,
            addr,
            token: String::new(),
            project: String::new(),
            stop: Some(stop),
            dir,
        };
        let body = login.to_string();
        let answer = stand
            .client()?
            .ask("POST", "/identity/v3/auth/tokens", body.as_bytes())?;
        let project = &answer.json()?["token"]["project"]["id"];
        project
            .as_str()
            .context("no project")?
            .clone_into(&mut stand.project);
        stand.token = answer.token.context("no token")?;
        let path = format!("/v2.0/quotas/{}", stand.project);
        let quota =
            json!({"quota": {"port": -1, "network": -1, "subnet": -1, "security_group_rule": -1}});
        stand
            .client()?
            .ask("PUT", &path, quota.to_string().as_bytes())?
            .json()?;
        Ok(stand)
    }

    /// From now on this is the policies' file.
    fn rule(&self, policies: &Value) -> anyhow::Result<()> {
        std::fs::write(self.dir.join(POLICIES), policies.to_string())?;
        if !self.core.policies.refresh()? {
            bail!("the policies are as they were");
        }
        Ok(())
    }

    pub(crate) fn client(&self) -> anyhow::Result<Http> {
        Http::connect(self.addr, &self.token)
    }
}

/// A network with a subnet of IPv4, large enough for what is put on it.
fn network(http: &mut Http, cidr: &str) -> anyhow::Result<String> {
    let body = json!({"network": {"name": "scale"}});
    let made = http.post("/v2.0/networks", &body)?;
    let id = made["network"]["id"].as_str().context("no id")?.to_owned();
    let subnet = json!({"network_id": id, "ip_version": 4, "cidr": cidr});
    http.post("/v2.0/subnets", &json!({"subnet": subnet}))?;
    Ok(id)
}

/// Megabytes of this process: now, and at most so far.
fn memory() -> (f64, f64) {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let of = |name: &str| -> f64 {
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        let text = line.and_then(|line| line.split_whitespace().next());
        text.and_then(|text| text.parse::<f64>().ok())
            .unwrap_or_default()
            / 1024.0
    };
    (of("VmRSS:"), of("VmHWM:"))
}

fn timed<T>(act: impl FnOnce() -> anyhow::Result<T>) -> anyhow::Result<(T, Duration)> {
    let began = Instant::now();
    let done = act()?;
    Ok((done, began.elapsed()))
}

#[expect(clippy::cast_precision_loss, reason = "counts of a bench")]
fn per_second(count: usize, time: Duration) -> f64 {
    count as f64 / time.as_secs_f64()
}

fn port(network: &str, host: Option<usize>) -> Value {
    match host {
        Some(host) => json!({"network_id": network, "binding:host_id": format!("h{host}")}),
        None => json!({"network_id": network}),
    }
}

/// What one client and many do with the ports of a network, while so many are there.
fn works(
    stand: &Stand,
    wish: &Wish,
    there: usize,
    figures: &mut Vec<Figure>,
) -> anyhow::Result<()> {
    let mut http = stand.client()?;
    let network = network(&mut http, "10.128.0.0/14")?;
    let one = json!({"port": port(&network, None)});
    let at = |what: &str| format!("{what}, {there} ports there");
    let mut times = Vec::new();
    let mut made = Vec::new();
    let began = Instant::now();
    for _ in 0..wish.requests {
        let (answer, time) = timed(|| http.post("/v2.0/ports", &one))?;
        made.push(answer["port"]["id"].as_str().context("no id")?.to_owned());
        times.push(time);
    }
    let rate = per_second(wish.requests, began.elapsed());
    figures.push(Figure::one(at("creates one by one"), "1/s", rate).wanted(Wanted::AtLeast(500.0)));
    figures.push(Figure::times(at("a create"), &times));
    let clients: anyhow::Result<Vec<Http>> = (0..32).map(|_| stand.client()).collect();
    let each = wish.requests.div_ceil(8);
    let began = Instant::now();
    let threads: Vec<_> = clients?
        .into_iter()
        .map(|mut http| {
            let one = one.clone();
            thread::spawn(move || {
                (0..each).try_for_each(|_| http.post("/v2.0/ports", &one).map(drop))
            })
        })
        .collect();
    for one in threads {
        match one.join() {
            Ok(done) => done?,
            Err(_) => bail!("a client panicked"),
        }
    }
    let rate = per_second(32 * each, began.elapsed());
    figures.push(
        Figure::one(at("creates by 32 clients"), "1/s", rate).wanted(Wanted::AtLeast(4000.0)),
    );
    let bulk = json!({"ports": vec![port(&network, None); 100]});
    let (mut bulks, mut shows, mut updates, mut deletes) = (vec![], vec![], vec![], vec![]);
    for _ in 0..(wish.requests / 10).max(1) {
        bulks.push(timed(|| http.post("/v2.0/ports", &bulk))?.1);
    }
    figures.push(Figure::times(at("a bulk create of 100"), &bulks).wanted(Wanted::AtMost(50.0)));
    for (n, id) in made.iter().enumerate() {
        let path = format!("/v2.0/ports/{id}");
        let name = json!({"port": {"name": format!("n{n}")}}).to_string();
        shows.push(timed(|| http.ask("GET", &path, b"")?.json())?.1);
        updates.push(timed(|| http.ask("PUT", &path, name.as_bytes())?.json())?.1);
        deletes.push(timed(|| http.ask("DELETE", &path, b""))?.1);
    }
    figures.push(Figure::times(at("a show"), &shows));
    figures.push(Figure::times(at("an update"), &updates));
    figures.push(Figure::times(at("a delete"), &deletes));
    Ok(())
}

/// Lists of ten thousand ports and pages of a hundred, while so many are there.
fn lists(
    stand: &Stand,
    wish: &Wish,
    there: usize,
    network: &str,
    figures: &mut Vec<Figure>,
) -> anyhow::Result<()> {
    let mut http = stand.client()?;
    let at = |what: &str| format!("{what}, {there} ports there");
    let all = format!("/v2.0/ports?network_id={network}");
    let count = |answer: &Value| answer["ports"].as_array().map_or(0, Vec::len);
    let mut ask = |path: &str, wanted: usize, times: usize| -> anyhow::Result<Vec<Duration>> {
        let mut took = Vec::new();
        for _ in 0..times {
            let (answer, time) = timed(|| http.ask("GET", path, b""))?;
            let listed = count(&answer.json()?);
            if listed != wanted {
                bail!("{path}: {listed} ports instead of {wanted}");
            }
            took.push(time);
        }
        Ok(took)
    };
    let ten = (wish.requests / 25).max(5);
    let some = wish.listed;
    figures.push(
        Figure::times(at("a list of 10,000"), &ask(&all, some, ten)?).wanted(Wanted::AtMost(150.0)),
    );
    figures.push(Figure::times(
        at("a list of 10,000, ids alone"),
        &ask(&format!("{all}&fields=id"), some, ten)?,
    ));
    let page = format!("{all}&limit=100");
    figures.push(
        Figure::times(
            at("a page of 100 of one network"),
            &ask(&page, some.min(100), wish.requests / 2)?,
        )
        .wanted(Wanted::AtMost(5.0)),
    );
    let page = "/v2.0/ports?limit=100";
    figures.push(
        Figure::times(
            at("a page of 100 of all"),
            &ask(page, 100, wish.requests / 2)?,
        )
        .wanted(Wanted::AtMost(5.0)),
    );
    Ok(())
}

/// What a policies' file costs on a list of ten thousand ports, which lets all of them be seen: rules of ports, of one of their attributes, and of
/// whose their network is. The last rule hides an attribute, and so shows that the file is asked.
fn ruled(
    stand: &Stand,
    wish: &Wish,
    there: usize,
    network: &str,
    figures: &mut Vec<Figure>,
) -> anyhow::Result<()> {
    let mut http = stand.client()?;
    let all = format!("/v2.0/ports?network_id={network}");
    let own = "role:reader and project_id:%(project_id)s or role:admin";
    let files = [
        ("ports", "get_port", own),
        ("an attribute", "get_port:mac_address", own),
        (
            "their network's owner",
            "get_port",
            "project_id:%(network:project_id)s or !",
        ),
        ("a hidden attribute", "get_port:description", "!"),
    ];
    for (what, rule, check) in files {
        stand.rule(&json!({rule: check}))?;
        let mut took = Vec::new();
        for _ in 0..(wish.requests / 25).max(5) {
            let (answer, time) = timed(|| http.ask("GET", &all, b"")?.json())?;
            let ports = answer["ports"].as_array().context("no ports")?;
            let hides = ports.iter().all(|port| port["description"].is_null());
            if ports.len() != wish.listed || hides != (check == "!") {
                bail!("{rule} = {check}: {} ports, hidden: {hides}", ports.len());
            }
            took.push(time);
        }
        let work = format!("a list of 10,000, a policy of {what}, {there} ports there");
        figures.push(Figure::times(work, &took));
    }
    stand.rule(&json!({}))
}

/// Fills the region; the network that is listed, and one port of each other network.
fn fill(
    stand: &Stand,
    wish: &Wish,
    tell: &mut dyn FnMut(&str),
) -> anyhow::Result<(String, Vec<String>)> {
    let mut http = stand.client()?;
    for n in 0..wish.hosts {
        http.post(
            "/v2.0/overweave/hosts",
            &json!({"host": {"name": format!("h{n}")}}),
        )?;
    }
    tell(&format!("{} hosts", wish.hosts));
    let mut put = |network: &str,
                   ports: usize,
                   on: &dyn Fn(usize) -> Option<usize>|
     -> anyhow::Result<Option<String>> {
        let all: Vec<Value> = (0..ports).map(|n| port(network, on(n))).collect();
        let mut first = None;
        for some in all.chunks(250) {
            let made = http.post("/v2.0/ports", &json!({"ports": some}))?;
            first = first.or_else(|| made["ports"][0]["id"].as_str().map(str::to_owned));
        }
        Ok(first)
    };
    let mut networks = stand.client()?;
    let listed = network(&mut networks, "10.64.0.0/16")?;
    put(&listed, wish.listed, &|_| None)?;
    let rest = wish.ports.saturating_sub(wish.listed);
    let mut ports = Vec::new();
    for n in 0..wish.networks {
        let network = network(&mut networks, "10.0.0.0/16")?;
        let some = rest * (n + 1) / wish.networks - rest * n / wish.networks;
        // A network's workloads are on as many hosts, others than its neighbours'.
        let on = |at: usize| Some((n * 37 + at) % wish.hosts);
        ports.extend(put(&network, some, &on)?);
        if (n + 1) % 500 == 0 {
            tell(&format!("{} networks", n + 1));
        }
    }
    Ok((listed, ports))
}

/// The publisher's thread, which ends with this: before the runtime that it waits in.
struct Publishing {
    stop: Arc<AtomicBool>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Publishing {
    fn start(run: impl FnOnce(&AtomicBool) + Send + 'static) -> anyhow::Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let told = Arc::clone(&stop);
        let thread = thread::Builder::new()
            .name("publisher".to_owned())
            .spawn(move || run(&told))?;
        Ok(Self {
            stop,
            thread: Some(thread),
        })
    }
}

impl Drop for Publishing {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // If it panicked, that was told already.
            drop(thread.join());
        }
    }
}

/// How many hosts were told of a change that have no port of its network.
fn strangers(one: &hosts::Heard, network: &str, http: &mut Http) -> anyhow::Result<usize> {
    let path = format!("/v2.0/ports?network_id={network}&fields=binding:host_id");
    let of = http.ask("GET", &path, b"")?.json()?;
    let of = of["ports"].as_array().cloned().unwrap_or_default();
    let its = |name: &str| of.iter().any(|port| port["binding:host_id"] == name);
    Ok(one.told.iter().filter(|name| !its(name)).count())
}

/// What became of the last commit.
fn until_heard(
    stand: &Stand,
    heard: &mpsc::Receiver<hosts::Heard>,
) -> anyhow::Result<hosts::Heard> {
    let wanted = stand.core.store.snapshot().revision().get();
    loop {
        let one = heard
            .recv_timeout(Duration::from_mins(1))
            .context("nobody heard of a change")?;
        if one.revision >= wanted {
            return Ok(one);
        }
    }
}

/// A rule of a chain's firewall changes, and with it the chain on each host that has a workload of its network.
fn chained(
    stand: &Stand,
    wish: &Wish,
    heard: &mpsc::Receiver<hosts::Heard>,
    figures: &mut Vec<Figure>,
) -> anyhow::Result<()> {
    let some = wish.hosts.min(100);
    let mut http = stand.client()?;
    let network = network(&mut http, "10.0.0.0/16")?;
    let all: Vec<Value> = (0..some).map(|n| port(&network, Some(n))).collect();
    http.post("/v2.0/ports", &json!({"ports": all}))?;
    let function = |n: usize| {
        let port = 1_000 + n;
        json!({"firewall": {"default": "allow", "rules": [{
            "action": "deny", "protocol": "tcp", "destination_port": port.to_string(),
        }]}})
    };
    let id = |made: &Value, kind: &str| -> anyhow::Result<String> {
        let id = made[kind]["id"].as_str();
        id.map(str::to_owned).with_context(|| format!("{made}"))
    };
    let mut make = |path: &str, kind: &str, body: Value| -> anyhow::Result<String> {
        let made = http.post(&format!("/v2.0/sfc/{path}"), &json!({kind: body}))?;
        id(&made, kind)
    };
    let classifier = json!({"logical_source_network": network});
    let classifier = make("flow_classifiers", "flow_classifier", classifier)?;
    let group = json!({"network_function": function(0)});
    let group = make("port_pair_groups", "port_pair_group", group)?;
    let chain = json!({"flow_classifiers": [classifier], "port_pair_groups": [group]});
    make("port_chains", "port_chain", chain)?;
    until_heard(stand, heard)?;
    let path = format!("/v2.0/sfc/port_pair_groups/{group}");
    let mut whole = Vec::new();
    for n in 1..=wish.requests.min(200) {
        let body = json!({"port_pair_group": {"network_function": function(n)}}).to_string();
        let began = Instant::now();
        http.ask("PUT", &path, body.as_bytes())?.json()?;
        let last = until_heard(stand, heard)?;
        whole.push(last.at.duration_since(began));
        if last.told.len() != some {
            bail!("a chain of {some} hosts was told to {}", last.told.len());
        }
    }
    let what = format!("a chain's change, until its {some} hosts acknowledged it");
    figures.push(Figure::times(what, &whole).wanted(Wanted::AtMost(100.0)));
    Ok(())
}

/// Single changes, each with how long it took until its hosts had acknowledged it.
fn changes(
    stand: &Stand,
    wish: &Wish,
    ports: &[String],
    figures: &mut Vec<Figure>,
    tell: &mut dyn FnMut(&str),
) -> anyhow::Result<()> {
    let (up_to, up) = mpsc::channel();
    let (heard_to, heard) = mpsc::channel::<hosts::Heard>();
    let handle = stand.runtime.handle().clone();
    hosts::certify(&handle, &stand.core);
    let core = Arc::clone(&stand.core);
    let run = move |stop: &AtomicBool| hosts::run(&handle, core, (&up_to, &heard_to), stop);
    let _publishing = Publishing::start(run)?;
    let up = up
        .recv_timeout(Duration::from_mins(30))
        .context("the hosts did not come up")?;
    let mb = |bytes: usize| per_second(bytes, Duration::from_secs(1)) / 1e6;
    tell(&format!(
        "{} hosts are up: compiled in {:?}, all told in {:?}",
        wish.hosts, up.compiling, up.synced
    ));
    figures.push(Figure::one(
        "compiling the whole region",
        "s",
        up.compiling.as_secs_f64(),
    ));
    figures.push(Figure::one(
        "until all hosts had acknowledged it",
        "s",
        up.synced.as_secs_f64(),
    ));
    let (now, most) = memory();
    figures.push(Figure::one("resident, with the hosts", "MB", now).wanted(Wanted::AtMost(4096.0)));
    figures.push(Figure::one("resident at most", "MB", most));
    let mut http = stand.client()?;
    let (mut whole, mut compiling, mut told) = (vec![], vec![], vec![]);
    let mut sent = 0;
    for (n, id) in ports.iter().cycle().take(wish.requests).enumerate() {
        // Its MAC address follows it to all who talk to it.
        let mac = format!("02:00:00:{:02x}:{:02x}:01", n >> 8 & 0xff, n & 0xff);
        let body = json!({"port": {"mac_address": mac}}).to_string();
        let path = format!("/v2.0/ports/{id}");
        let began = Instant::now();
        let port = http.ask("PUT", &path, body.as_bytes())?.json()?;
        let last = until_heard(stand, &heard)?;
        whole.push(last.at.duration_since(began));
        compiling.push(last.compiling);
        sent += last.bytes;
        told.push(last.told.len());
        let network = port["port"]["network_id"].as_str().context("no network")?;
        let strangers = strangers(&last, network, &mut http)?;
        if last.told.is_empty() || strangers > 0 {
            bail!(
                "a change of {id} was told to {} hosts, {strangers} of them without a port of its network",
                last.told.len()
            );
        }
    }
    let asked = Figure::times(
        "a port's change, asked for until its hosts acknowledged it",
        &whole,
    );
    let p99 = Figure::one(
        "the same, the 99th of 100",
        "ms",
        asked.p99.unwrap_or(asked.value),
    )
    .wanted(Wanted::AtMost(150.0));
    figures.push(asked.wanted(Wanted::AtMost(20.0)));
    figures.push(p99);
    figures.push(Figure::times(
        "of it the publisher, until messages were ready",
        &compiling,
    ));
    let most = told.iter().copied().max().unwrap_or_default();
    figures.push(Figure::one(
        "hosts that were told of it, at most",
        "",
        per_second(most, Duration::from_secs(1)),
    ));
    figures.push(Figure::one(
        "told of it, all hosts together",
        "MB",
        mb(sent) / per_second(wish.requests, Duration::from_secs(1)),
    ));
    chained(stand, wish, &heard, figures)?;
    Ok(())
}

/// Measures; what it finds is told as it comes by `tell`.
///
/// # Errors
/// When anything is refused, or a change is told to a host that it does not concern.
pub fn run(wish: &Wish, tell: &mut dyn FnMut(&str)) -> anyhow::Result<Vec<Figure>> {
    let mut figures = Vec::new();
    let stand = Stand::up(&wish.dir)?;
    works(&stand, wish, 100, &mut figures)?;
    tell(&table(&figures));
    let before = figures.len();
    let ((listed, ports), took) = timed(|| fill(&stand, wish, tell))?;
    tell(&format!("filled in {took:?}"));
    figures.push(Figure::one(
        format!("filling up to {} ports", wish.ports),
        "s",
        took.as_secs_f64(),
    ));
    figures.push(Figure::one("resident, without hosts", "MB", memory().0));
    works(&stand, wish, wish.ports, &mut figures)?;
    lists(&stand, wish, wish.ports, &listed, &mut figures)?;
    ruled(&stand, wish, wish.ports, &listed, &mut figures)?;
    tell(&table(figures.get(before..).unwrap_or_default()));
    changes(&stand, wish, &ports, &mut figures, tell)?;
    Ok(figures)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_small_region_is_measured_whole() {
        let wish = Wish {
            ports: 60,
            listed: 20,
            networks: 4,
            hosts: 6,
            requests: 8,
            dir: std::env::temp_dir(),
        };
        let figures = run(&wish, &mut |_| {}).unwrap();
        let text = table(&figures);
        for line in [
            "creates by 32 clients, 60 ports there",
            "a policy of an attribute, 60 ports there",
            "a port's change",
            "a chain's change, until its 6 hosts acknowledged it",
            "resident",
        ] {
            assert!(text.contains(line), "{text}");
        }
        assert!(document(&figures)[0]["value"].as_f64().unwrap() > 0.0);
    }
}
