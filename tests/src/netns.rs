//! Does it work with real taps, a real kernel and real programs?
//!
//! A [`Lab`] is brought up by the `overweave` binary from a file of `configs/labs`, used by `ping`, `iperf3` and `curl` inside its
//! namespaces, and taken down when it leaves scope, also when the test fails. What is then left is a failure too.
//!
//! Needs root. Without it a test says so and is skipped; with `OVERWEAVE_REQUIRE_ROOT=1` it panics instead.

use std::{
    env, fs,
    io::{BufRead, BufReader},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    sync::OnceLock,
    time::{Duration, Instant},
};

use serde_json::Value;

/// May this test make namespaces? `false`: it is to be skipped, and that was said.
///
/// # Panics
/// Without root, if root is required here.
pub fn allowed() -> bool {
    let root = fs::metadata("/proc/self").is_ok_and(|m| m.uid() == 0);
    root || skip("needs root")
}

/// Says that a test is skipped, and why; `false`.
///
/// # Panics
/// If root is required here: then all that a test needs is there.
#[expect(clippy::print_stderr, reason = "a skipped test says so")]
pub fn skip(why: &str) -> bool {
    let required = env::var_os("OVERWEAVE_REQUIRE_ROOT").is_some_and(|v| v == "1");
    assert!(!required, "this test {why}, and must not be skipped here");
    eprintln!("skipped: {why}");
    false
}

/// The repository.
pub fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .unwrap()
        .into()
}

/// The `overweave` binary: `OVERWEAVE_BIN`, or built beside this test.
pub fn overweave() -> &'static Path {
    static BINARY: OnceLock<PathBuf> = OnceLock::new();
    BINARY.get_or_init(|| {
        if let Some(given) = env::var_os("OVERWEAVE_BIN") {
            return given.into();
        }
        // target/debug/deps/netns-… : the profile's directory is two up; of a program of this package, one.
        let this = env::current_exe().unwrap();
        let folder = this.parent().unwrap();
        let profile = if folder.ends_with("deps") {
            folder.parent().unwrap()
        } else {
            folder
        };
        let mut cargo = Command::new(env!("CARGO"));
        cargo.args(["build", "--quiet", "-p", "cli", "--bin", "overweave"]);
        cargo.args([
            "--target-dir".as_ref(),
            profile.parent().unwrap().as_os_str(),
        ]);
        if profile.ends_with("release") {
            cargo.arg("--release");
        }
        let built = cargo.current_dir(repository()).status().unwrap();
        assert!(built.success(), "overweave does not build");
        profile.join("overweave")
    })
}

/// Runs `overweave` to its end.
pub fn run(args: &[&str]) -> Output {
    let done = Command::new(overweave())
        .args(args)
        .stdin(Stdio::null())
        .output();
    done.expect("overweave starts")
}

/// What a command printed; panics with all of its output if it failed.
pub fn printed(what: &str, output: &Output) -> String {
    let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
    let (out, err) = (text(&output.stdout), text(&output.stderr));
    assert!(
        output.status.success(),
        "{what} failed ({}):\n{out}{err}",
        output.status
    );
    out
}

/// The path of a lab file: one of `configs/labs`, or of the folder of `configs` that it names (`chains/web-edge`).
pub fn lab_file(stem: &str) -> String {
    let folder = if stem.contains('/') {
        "configs"
    } else {
        "configs/labs"
    };
    let path = repository().join(format!("{folder}/{stem}.yaml"));
    path.display().to_string()
}

/// What of a lab is still on this machine: namespaces, processes in them, its state.
pub fn left_of(name: &str) -> Vec<String> {
    let mut left = vec![];
    let prefix = format!("{name}-");
    for entry in fs::read_dir("/run/netns").into_iter().flatten().flatten() {
        let file = entry.file_name().to_string_lossy().into_owned();
        if file.starts_with(&prefix) {
            left.push(format!("namespace {file}"));
        }
    }
    let state = format!("/run/overweave-lab/{name}");
    if Path::new(&state).exists() {
        left.push(state.clone());
    }
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let command = fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let command = String::from_utf8_lossy(&command).replace('\0', " ");
        if command.contains(&format!("{state}/")) || command.contains(&format!("{state} ")) {
            left.push(format!("process {command}"));
        }
    }
    left
}

/// Waits for a condition, not longer than a deadline.
pub fn until(what: &str, deadline: Duration, mut holds: impl FnMut() -> bool) {
    let end = Instant::now() + deadline;
    while !holds() {
        assert!(Instant::now() < end, "after {deadline:?} still not: {what}");
        std::thread::park_timeout(Duration::from_millis(50));
    }
}

/// Runs a whole lab to its end, and returns its answer as JSON; panics with it unless all expectations held.
pub fn run_lab(stem: &str, uplink: &str) -> Value {
    // The same file may run over the other uplink at the same time.
    let name = format!("t-{}-{uplink}", stem.replace('/', "-"));
    let file = lab_file(stem);
    let output = run(&[
        "lab", "run", &file, "--name", &name, "--uplink", uplink, "--json",
    ]);
    let held = printed(&format!("lab {stem}"), &output);
    assert_eq!(left_of(&name), Vec::<String>::new());
    serde_json::from_str(&held).unwrap()
}

/// What the API of a lab that is up says of the first resource that a query finds.
///
/// # Panics
/// When it refuses, or finds none.
pub fn api(lab: &str, query: &str) -> Value {
    request(lab, query, &[])[0].clone()
}

/// All that a query finds.
///
/// # Panics
/// When it refuses.
pub fn all(lab: &str, query: &str) -> Vec<Value> {
    request(lab, query, &[]).as_array().unwrap().clone()
}

/// Its answer to a request with this body.
///
/// # Panics
/// When it refuses.
pub fn put(lab: &str, method: &str, path: &str, body: &Value) -> Value {
    let json = ["-H", "Content-Type: application/json"];
    let body = body.to_string();
    request(
        lab,
        path,
        &[&["-X", method, "-d", &body], &json[..]].concat(),
    )
}

/// Its answer to a request that `curl` makes with these words more, asked with the lab's own `clouds.yaml`.
///
/// # Panics
/// When it refuses.
pub fn request(lab: &str, query: &str, more: &[&str]) -> Value {
    let clouds = format!("/run/overweave-lab/{lab}/clouds.yaml");
    let text = std::fs::read_to_string(&clouds).unwrap();
    let url = text
        .lines()
        .find_map(|l| l.trim().strip_prefix("auth_url:"));
    let url = url.unwrap().trim().trim_matches(['"', '\'']);
    let (base, _) = url.split_once("/identity").unwrap();
    let token = Command::new(overweave())
        .args(["token"])
        .env("OS_CLIENT_CONFIG_FILE", &clouds)
        .env("OS_CLOUD", "overweave")
        .output();
    let token = printed("token", &token.unwrap());
    let header = format!("X-Auth-Token: {}", token.trim());
    let url = format!("{base}/v2.0/{query}");
    let asked = Command::new("curl")
        .args([&["-sf", "-H", &header, &url], more].concat())
        .output();
    let answer = printed(&url, &asked.unwrap());
    let answer: Value = serde_json::from_str(&answer).unwrap();
    answer.as_object().unwrap().values().next().unwrap().clone()
}

/// A lab that is up.
#[derive(Debug)]
pub struct Lab {
    name: String,
    restarted: Vec<Child>,
}

impl Lab {
    /// Brings a lab up under a name of its own.
    pub fn up(stem: &str, name: &str) -> Self {
        Self::up_from(&lab_file(stem), name)
    }

    /// The same, from a file anywhere.
    pub fn up_from(file: &str, name: &str) -> Self {
        Self::up_with(file, name, "udp")
    }

    /// The same, with this uplink on every host.
    pub fn up_with(file: &str, name: &str, uplink: &str) -> Self {
        let lab = Self {
            name: name.into(),
            restarted: vec![],
        };
        let output = run(&["lab", "up", file, "--name", name, "--uplink", uplink]);
        printed("lab up", &output);
        lab
    }

    /// A file of its state.
    pub fn path(&self, file: &str) -> PathBuf {
        Path::new("/run/overweave-lab").join(&self.name).join(file)
    }

    /// Segments that took a way over a host's underlay; 0 where it has no uplink tap.
    pub fn crossed(&self, host: &str, direction: &str, path: &str) -> u64 {
        let metrics = self.ok(host, &["curl", "-s", "http://127.0.0.1:9698/metrics"]);
        let name =
            format!("vswitch_uplink_packets_total{{direction=\"{direction}\",path=\"{path}\"}} ");
        let line = metrics.lines().find_map(|l| l.strip_prefix(name.as_str()));
        line.map_or(0, |n| n.parse().unwrap())
    }

    /// A command in the namespace of a workload or host.
    pub fn command(&self, place: &str, command: &[&str]) -> Command {
        let mut full = Command::new(overweave());
        full.args(["lab", "exec", "--name", &self.name, place, "--"]);
        full.args(command).stdin(Stdio::null());
        full
    }

    /// Runs a command in a namespace to its end.
    pub fn exec(&self, place: &str, command: &[&str]) -> Output {
        self.command(place, command)
            .output()
            .expect("the command starts")
    }

    /// What a command in a namespace prints; it must succeed.
    pub fn ok(&self, place: &str, command: &[&str]) -> String {
        printed(
            &format!("{place}: {}", command.join(" ")),
            &self.exec(place, command),
        )
    }

    /// The sum of what a host's metric says, of those lines that begin so.
    pub fn metric(&self, host: &str, begins: &str) -> u64 {
        let metrics = self.ok(host, &["curl", "-s", "http://127.0.0.1:9698/metrics"]);
        let lines = metrics.lines().filter(|line| line.starts_with(begins));
        let values = lines.filter_map(|line| line.rsplit(' ').next());
        let values: Vec<u64> = values.map(|value| value.parse().unwrap()).collect();
        assert!(!values.is_empty(), "no {begins} at {host}");
        values.iter().sum()
    }

    /// The lab's state as JSON.
    pub fn status(&self) -> Value {
        let output = run(&["lab", "status", "--name", &self.name, "--json"]);
        serde_json::from_str(&printed("lab status", &output)).unwrap()
    }

    /// An address of a workload.
    pub fn addr(&self, workload: &str, v6: bool) -> String {
        let status = self.status();
        let rows = status["workloads"].as_array().unwrap();
        let row = rows.iter().find(|w| w["workload"] == workload).unwrap();
        let addrs = row["addresses"].as_array().unwrap();
        let mut addrs = addrs.iter().map(|a| a.as_str().unwrap());
        addrs.find(|a| a.contains(':') == v6).unwrap().into()
    }

    /// The process ids of the lab, with what they are.
    pub fn processes(&self) -> Vec<(String, u64)> {
        let status = self.status();
        let rows = status["processes"].as_array().unwrap();
        rows.iter()
            .map(|p| {
                (
                    p["process"].as_str().unwrap().into(),
                    p["pid"].as_u64().unwrap(),
                )
            })
            .collect()
    }

    /// Kills a process of the lab without warning; returns the command that started it.
    pub fn kill(&self, what: &str) -> Vec<String> {
        let processes = self.processes();
        let (_, pid) = processes
            .iter()
            .find(|(w, _)| w == what || w.ends_with(&format!("-{what}")))
            .expect("the lab has such a process");
        let command = fs::read(format!("/proc/{pid}/cmdline")).unwrap();
        let killed = Command::new("kill").args(["-9", &pid.to_string()]).status();
        assert!(killed.unwrap().success());
        // All of its threads: until the last one ends, it holds its files and locks.
        until("the killed process is gone", Duration::from_secs(5), || {
            let state = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
            let threads = fs::read_dir(format!("/proc/{pid}/task")).map_or(0, Iterator::count);
            state.is_empty() || (state.contains(") Z ") && threads <= 1)
        });
        let args = command.split(|b| *b == 0).filter(|a| !a.is_empty());
        args.map(|a| String::from_utf8(a.to_vec()).unwrap())
            .collect()
    }

    /// Starts in a host's namespace what [`Lab::kill`] ended, without a join token: it has its own identity by now.
    pub fn restart(&mut self, place: &str, command: &[String]) {
        let mut args = vec![];
        let mut rest = command.iter().skip(1);
        while let Some(arg) = rest.next() {
            if arg == "--join" {
                rest.next();
            } else if !arg.starts_with("--join=") {
                args.push(arg.as_str());
            }
        }
        let binary = overweave().display().to_string();
        let full: Vec<&str> = std::iter::once(binary.as_str()).chain(args).collect();
        let mut start = self.command(place, &full);
        let child = start.stdout(Stdio::null()).stderr(Stdio::inherit()).spawn();
        self.restarted.push(child.unwrap());
    }

    /// Starts a server for one iperf3 test; returns when it listens.
    pub fn iperf_server(&self, place: &str) -> Child {
        let mut server = self
            .command(place, &["iperf3", "-s", "-1", "--forceflush"])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(server.stdout.take().unwrap()).lines();
        let listens = lines.map_while(Result::ok).any(|l| l.contains("listening"));
        assert!(listens, "iperf3 listens");
        server
    }

    /// Runs one TCP stream; returns bits a second as the receiver counted, and retransmitted segments.
    pub fn iperf(&self, from: &str, to: &str, v6: bool, seconds: u32) -> (f64, u64) {
        let end = self.iperf_with(from, to, v6, seconds, &[]);
        let rate = end["sum_received"]["bits_per_second"].as_f64().unwrap();
        (rate, end["sum_sent"]["retransmits"].as_u64().unwrap_or(0))
    }

    /// Sends datagrams at this rate, whatever becomes of them; returns bits a second as the receiver counted.
    pub fn iperf_udp(&self, from: &str, to: &str, v6: bool, seconds: u32, rate: &str) -> f64 {
        let end = self.iperf_with(from, to, v6, seconds, &["-u", "-b", rate]);
        end["sum_received"]["bits_per_second"].as_f64().unwrap()
    }

    fn iperf_with(&self, from: &str, to: &str, v6: bool, seconds: u32, more: &[&str]) -> Value {
        let mut server = self.iperf_server(to);
        let (addr, time) = (self.addr(to, v6), seconds.to_string());
        let mut command = vec!["iperf3", "-J", "-c", &addr, "-t", &time];
        command.extend(more);
        let text = self.ok(from, &command);
        assert!(server.wait().unwrap().success());
        let mut answer: Value = serde_json::from_str(&text).unwrap();
        answer["end"].take()
    }

    /// All counters of a namespace's kernel that tell of wrong checksums.
    pub fn checksum_errors(&self, place: &str) -> u64 {
        let mut errors = 0;
        let snmp = self.ok(place, &["cat", "/proc/net/snmp"]);
        let lines: Vec<&str> = snmp.lines().collect();
        for pair in lines.chunks_exact(2) {
            let names = pair[0].split_whitespace();
            let values = pair[1].split_whitespace();
            let wrong = names
                .zip(values)
                .filter(|(name, _)| *name == "InCsumErrors");
            errors += wrong.map(|(_, v)| v.parse::<u64>().unwrap()).sum::<u64>();
        }
        let snmp6 = self.ok(place, &["cat", "/proc/net/snmp6"]);
        let wrong = snmp6.lines().filter(|l| l.contains("InCsumErrors"));
        errors
            + wrong
                .map(|l| l.split_whitespace().last().unwrap().parse::<u64>().unwrap())
                .sum::<u64>()
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        for child in &mut self.restarted {
            // It may have ended by itself.
            child.kill().unwrap_or_default();
            child.wait().map(drop).unwrap_or_default();
        }
        let output = run(&["lab", "down", "--name", &self.name]);
        if !std::thread::panicking() {
            printed("lab down", &output);
            assert_eq!(left_of(&self.name), Vec::<String>::new());
        }
    }
}
