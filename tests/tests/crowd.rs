//! Fifty clients, ten members on four hosts, half of the traffic IPv6, and a chain of a firewall, an appliance, load balancers and a shaper.
//!
//! The appliance is a bridge in a namespace that stamps what it forwards (a DSCP) and counts it. Members take only what is stamped, clients only what is on
//! its way back: so whatever escapes the chain is a failed request. `OVERWEAVE_REQUESTS` says how many are asked (2,000 if not).

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::print_stdout,
    reason = "tests fail loudly, and tell what they counted"
)]

use std::{
    collections::BTreeMap,
    env,
    fmt::Write as _,
    fs,
    process::{Child, Stdio},
    thread,
    time::Duration,
};

use serde_json::{Value, json};
use tests::{
    crowd::{self, Crowd, Outcome, Server},
    netns::{Lab, all, allowed, api, put, until},
};

const NAME: &str = "t-crowd";
const CLIENTS: usize = 50;
const MEMBERS: usize = 10;
/// Requests over one connection of a client that keeps it.
const KEPT: usize = 10;
const HOSTS: [&str; 4] = ["h1", "h2", "h3", "h4"];

fn requests() -> usize {
    env::var("OVERWEAVE_REQUESTS").map_or(2_000, |text| text.parse().unwrap())
}

/// The appliance's place in the chain.
const APPLIANCE: usize = 1;
/// The appliance's instances, by their hosts and their two sides; the first side's namespace has both.
const INSTANCES: [(usize, [&str; 2]); 2] =
    [(1, ["probe", "probe-out"]), (2, ["second", "second-out"])];
/// Requests that are answered in the middle of something.
const SOME: usize = 200;

/// A member's weight: half of them have twice as many connections as the others.
const fn weight(member: usize) -> usize {
    1 + member % 2
}

fn lab_file() -> String {
    let mut text = format!(
        "hosts: [{}]\nnetworks:\n  - {{name: shop, cidr: 10.90.0.0/24, cidr6: \"fd90::/64\"}}\nworkloads:\n",
        HOSTS.join(", ")
    );
    let mut workload = |name: &str, host: usize, at: Option<usize>| {
        let host = HOSTS[host % HOSTS.len()];
        let more = at.map_or_else(String::new, |at| {
            format!(", ip: [10.90.0.{at}, \"fd90::{at}\"], security_groups: [any]")
        });
        writeln!(
            text,
            "  - {{name: {name}, host: {host}, network: shop{more}}}"
        )
        .unwrap();
    };
    for n in 0..CLIENTS {
        workload(&format!("client-{n}"), n, Some(100 + n));
    }
    for n in 0..MEMBERS {
        workload(&format!("web-{n}"), n, Some(10 + n));
    }
    for (host, [ingress, egress]) in INSTANCES {
        workload(ingress, host, None);
        workload(egress, host, None);
    }
    let members = |port: u16| {
        let members = (0..MEMBERS)
            .map(|n| format!("{{workload: web-{n}, port: {port}, weight: {}}}", weight(n)));
        members.collect::<Vec<_>>().join(", ")
    };
    write!(
        text,
        "security_groups:
  any: [{{direction: ingress, protocol: tcp}}, {{direction: ingress, protocol: icmp}}]
chains:
  - name: edge
    symmetric: true
    classifier: {{network: shop, protocol: tcp, destination_port: 80}}
    functions:
      - firewall: {{rules: [{{action: allow, protocol: tcp, destination_port: 80}}, {{action: allow, protocol: tcp, destination_port: 8080}}], default: deny}}
      - appliance: {{pairs: [{{ingress: probe, egress: probe-out}}, {{ingress: second, egress: second-out}}], failure: closed}}
      - load_balancer: {{vip: 10.90.0.5, port: 80, algorithm: maglev, members: [{v4}]}}
      - load_balancer: {{vip: \"fd90::5\", port: 80, algorithm: maglev, members: [{v6}]}}
      - shaper: {{rate: 200mbit, burst: 256KiB}}
expect: []
",
        v4 = members(8080),
        v6 = members(8080),
    )
    .unwrap();
    text
}

/// What the appliance does with what it forwards.
const STAMPS: &str = "table bridge seen {
    counter up {
    }
    counter down {
    }
    chain c {
        type filter hook forward priority 0
        tcp dport 80 counter name up
        tcp sport 80 counter name down
        ip dscp set 42
        ip6 dscp set 42
    }
}";

/// What a member takes: what bears the stamp.
const MEMBER: &str = "table inet only {
    chain c {
        type filter hook input priority 0
        meta nfproto ipv4 tcp dport 8080 ip dscp != 42 counter drop
        meta nfproto ipv6 tcp dport 8080 ip6 dscp != 42 counter drop
    }
}";

/// And what a client takes.
const CLIENT: &str = "table inet only {
    chain c {
        type filter hook input priority 0
        meta nfproto ipv4 tcp sport 80 ip dscp != 42 counter drop
        meta nfproto ipv6 tcp sport 80 ip6 dscp != 42 counter drop
    }
}";

struct Scene {
    _servers: Vec<Server>,
    /// The chain's id, and those of its groups in their order.
    chain: String,
    groups: Vec<String>,
    lab: Lab,
}

impl Scene {
    fn set() -> Self {
        let dir = env::temp_dir().join(format!("{NAME}-{}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        let file = dir.join("crowd.yaml");
        fs::write(&file, lab_file()).unwrap();
        let lab = Lab::up_from(file.to_str().unwrap(), NAME);
        fs::remove_dir_all(&dir).unwrap();
        for (_, [instance, _]) in INSTANCES {
            lab.ok(instance, &["nft", STAMPS]);
        }
        let servers = (0..MEMBERS).map(|n| {
            let name = format!("web-{n}");
            lab.ok(&name, &["nft", MEMBER]);
            Server::start(&namespace(&name), &name, 8080)
        });
        let servers = servers.collect();
        for n in 0..CLIENTS {
            lab.ok(&format!("client-{n}"), &["nft", CLIENT]);
        }
        let chain = api(NAME, "sfc/port_chains?name=edge");
        let groups = chain["port_pair_groups"].as_array().unwrap().iter();
        Self {
            groups: groups.map(|id| id.as_str().unwrap().to_owned()).collect(),
            chain: chain["id"].as_str().unwrap().to_owned(),
            _servers: servers,
            lab,
        }
    }

    /// What an instance of the appliance has stamped, on its way to members and back.
    fn stamped(&self, instance: usize) -> [u64; 2] {
        let place = INSTANCES[instance].1[0];
        let words = ["nft", "-j", "list", "table", "bridge", "seen"];
        let table: Value = serde_json::from_str(&self.lab.ok(place, &words)).unwrap();
        let rows = table["nftables"].as_array().unwrap();
        ["up", "down"].map(|name| {
            let row = rows.iter().find(|row| row["counter"]["name"] == name);
            row.unwrap()["counter"]["packets"].as_u64().unwrap()
        })
    }

    /// Frames that came to members without a stamp, all together.
    fn unstamped(&self) -> u64 {
        let members = (0..MEMBERS).map(|n| {
            let words = ["nft", "list", "table", "inet", "only"];
            let told = self.lab.ok(&format!("web-{n}"), &words);
            let numbers = told.split("packets ").skip(1);
            let numbers = numbers.map(|rest| rest.split(' ').next().unwrap());
            numbers.map(|n| n.parse::<u64>().unwrap()).sum::<u64>()
        });
        members.sum()
    }

    /// Segments that all hosts count at a hop of the chain.
    fn counted(&self, hop: usize) -> u64 {
        let start = format!(
            "nfv_packets_total{{chain=\"{}\",function=\"{}\",",
            self.chain, self.groups[hop]
        );
        let mut sum = 0;
        for host in HOSTS {
            let url = "http://127.0.0.1:9698/metrics";
            let told = self.lab.ok(host, &["curl", "-s", url]);
            for line in told.lines().filter(|l| l.starts_with(&start)) {
                let (_, number) = line.rsplit_once(' ').unwrap();
                sum += number.parse::<u64>().unwrap();
            }
        }
        sum
    }

    /// Waits until the last connections have ended: nothing passes the appliance any more. What each instance has stamped.
    fn quiet(&self) -> [u64; 2] {
        let mut last = [0; 2];
        until("nothing passes", crowd::PATIENCE, || {
            let now = [0, 1].map(|instance| self.stamped(instance).iter().sum());
            std::mem::replace(&mut last, now) == now
        });
        last
    }

    /// Gives the chain its groups in another order.
    fn order(&self, order: &[usize]) {
        let groups: Vec<&str> = order.iter().map(|at| self.groups[*at].as_str()).collect();
        let path = format!("sfc/port_chains/{}", self.chain);
        let body = json!({"port_chain": {"port_pair_groups": groups}});
        put(NAME, "PUT", &path, &body);
    }

    /// All clients ask at once, so many requests together or until something is done; what became of them.
    fn crowd(
        &self,
        at: &Virtual,
        requests: usize,
        meanwhile: impl FnOnce(&Self, &Crowd),
    ) -> Vec<Outcome> {
        let crowd = Crowd::default();
        thread::scope(|scope| {
            let all = (0..CLIENTS).map(|n| {
                let crowd = &crowd;
                let to = at[usize::from(n % 4 < 2)].parse().unwrap();
                let kept = if n % 2 == 0 { 1 } else { KEPT };
                let each = requests.div_ceil(CLIENTS);
                let place = namespace(&format!("client-{n}"));
                scope.spawn(move || crowd::ask(&place, to, each, kept, crowd))
            });
            let all: Vec<_> = all.collect();
            let _ending = Ending(&crowd);
            meanwhile(self, &crowd);
            all.into_iter().flat_map(|t| t.join().unwrap()).collect()
        })
    }

    /// The same, while something is done and for a while after it; no request may fail.
    fn all_well(&self, at: &Virtual, what: &str, act: impl FnOnce(&Self)) -> Vec<Outcome> {
        let told = self.crowd(at, usize::MAX, |scene, crowd| {
            go_on(crowd);
            act(scene);
            go_on(crowd);
            crowd.end();
        });
        let failed = failures(&told);
        println!("{what}: {} requests, {} failed", told.len(), failed.len());
        assert!(failed.is_empty(), "{what}: {failed:#?}");
        told
    }

    /// Sets what connections that come from now on may choose of an instance.
    fn weigh(instance: usize, weight: usize) {
        let egress = port_of(INSTANCES[instance].1[1]);
        let pairs = all(NAME, "sfc/port_pairs");
        let pair = pairs.iter().find(|pair| pair["egress"] == egress).unwrap();
        let path = format!("sfc/port_pairs/{}", pair["id"].as_str().unwrap());
        let given = json!({"service_function_parameters": {"weight": weight}});
        put(NAME, "PUT", &path, &json!({"port_pair": given}));
    }

    fn port(name: &str, up: bool) {
        let path = format!("ports/{}", port_of(name).as_str().unwrap());
        put(NAME, "PUT", &path, &json!({"port": {"admin_state_up": up}}));
    }
}

/// The id of a port by its name.
fn port_of(name: &str) -> Value {
    api(NAME, &format!("ports?name={name}"))["id"].clone()
}

/// The namespace of a workload.
fn namespace(workload: &str) -> String {
    format!("{NAME}-{workload}")
}

fn failures(told: &[Outcome]) -> Vec<&String> {
    told.iter().filter_map(|one| one.as_ref().err()).collect()
}

/// A crowd whose test fails in the middle ends.
struct Ending<'a>(&'a Crowd);

impl Drop for Ending<'_> {
    fn drop(&mut self) {
        if thread::panicking() {
            self.0.end();
        }
    }
}

/// Waits until some more requests have been answered.
fn go_on(crowd: &Crowd) {
    let from = crowd.answered();
    until("requests are answered", crowd::PATIENCE * 6, || {
        crowd.answered() >= from + SOME
    });
}

/// The addresses at which a load balancer is asked, IPv4 and IPv6.
type Virtual = [&'static str; 2];
const CHAINS: Virtual = ["10.90.0.5:80", "[fd90::5]:80"];

/// A capture of a side of the appliance; ended, it says how many frames it saw.
struct Capture(Child);

impl Capture {
    fn start(lab: &Lab, device: &str) -> Self {
        let mut command = lab.command(
            "probe",
            &[
                "tcpdump",
                "-nn",
                "--immediate-mode",
                "-B",
                "16384",
                "-i",
                device,
                "-w",
                "/dev/null",
                "tcp port 80",
            ],
        );
        let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
        let mut told = std::io::BufReader::new(child.stderr.as_mut().unwrap());
        let mut line = String::new();
        while !line.contains("listening") {
            line.clear();
            std::io::BufRead::read_line(&mut told, &mut line).unwrap();
        }
        Self(child)
    }

    /// Frames seen; none may have been lost.
    fn end(self) -> u64 {
        let process = rustix::process::Pid::from_child(&self.0);
        rustix::process::kill_process(process, rustix::process::Signal::INT).unwrap();
        let done = self.0.wait_with_output().unwrap();
        let told = String::from_utf8(done.stderr).unwrap();
        let of = |what: &str| {
            let line = told.lines().find(|l| l.contains(what)).unwrap();
            line.split(' ').next().unwrap().parse::<u64>().unwrap()
        };
        assert_eq!(of("dropped by kernel"), 0, "{told}");
        of("packets captured")
    }
}

#[test]
fn a_crowd_passes_a_chain_whole() {
    if !allowed() {
        return;
    }
    let scene = Scene::set();
    let captures = ["eth0", "eth1"].map(|device| Capture::start(&scene.lab, device));
    let before = scene.counted(APPLIANCE);

    // All is answered, by everybody.
    let told = scene.crowd(&CHAINS, requests(), |_, _| {});
    let failed = failures(&told);
    assert!(failed.is_empty(), "{failed:#?}");
    let served = served(&told);
    println!("{} requests: {served:?}", told.len());
    assert_eq!(served.len(), MEMBERS);

    // In another order, and back, while they go on.
    for order in [
        [4, 1, 2, 3, 0],
        [0, 1, 2, 3, 4],
        [1, 0, 4, 2, 3],
        [0, 1, 2, 3, 4],
    ] {
        let what = format!("in the order {order:?}");
        scene.all_well(&CHAINS, &what, |scene| scene.order(&order));
    }

    // One instance is drained, then is back. What it had goes on there; nothing else comes.
    scene.all_well(&CHAINS, "while one is drained", |_| Scene::weigh(1, 0));
    scene.quiet();
    let drained = scene.stamped(1);
    scene.all_well(&CHAINS, "with one drained", |_| ());
    assert_eq!(scene.stamped(1), drained);
    scene.all_well(&CHAINS, "while it comes back", |_| Scene::weigh(1, 1));
    scene.quiet();
    assert!(scene.stamped(1) > drained);

    // Nothing passed but what the appliance stamped, and all agree on how much that was.
    let stamped = scene.quiet();
    let counted = scene.counted(APPLIANCE) - before;
    let seen = captures.map(Capture::end);
    println!("the hop {counted}, stamped {stamped:?}, captured of the first {seen:?}");
    assert_eq!(seen, [stamped[0]; 2]);
    assert_eq!(counted, stamped[0] + stamped[1]);
    assert_eq!(scene.unstamped(), 0);

    fails_as_it_is_told(&scene);
}

/// With both instances gone nothing passes, or all does, but the other functions are not passed by.
fn fails_as_it_is_told(scene: &Scene) {
    let both = |up: bool| INSTANCES.map(|(_, [_, egress])| Scene::port(egress, up));
    let answers = |n: usize| {
        let client = namespace(&format!("client-{n}"));
        let to = CHAINS[usize::from(n % 4 < 2)].parse().unwrap();
        thread::scope(|scope| {
            let asked = scope.spawn(|| crowd::ask_within(&client, to, Duration::from_millis(500)));
            asked.join().unwrap().is_ok()
        })
    };
    both(false);
    until("nothing is answered", crowd::PATIENCE, || {
        !answers(0) && !answers(2)
    });
    let told = scene.crowd(&CHAINS, usize::MAX, |_, crowd| {
        until("none is answered", crowd::PATIENCE, || {
            !answers(1) && !answers(3)
        });
        crowd.end();
    });
    assert!(told.iter().all(Result::is_err));
    assert_eq!(scene.unstamped(), 0, "frames passed by the appliance");
    // Open: what comes to members was translated, and is without a stamp, which they refuse.
    let path = format!("sfc/port_pair_groups/{}", scene.groups[APPLIANCE]);
    let fails = |how: &str| {
        let body = json!({"port_pair_group": {"failure_policy": how}});
        put(NAME, "PUT", &path, &body);
    };
    fails("open");
    until("frames pass by the appliance", crowd::PATIENCE, || {
        !answers(0) && !answers(2) && scene.unstamped() > 0
    });
    fails("closed");
    both(true);
    until("all is answered again", crowd::PATIENCE, || {
        answers(0) && answers(2)
    });
    let unstamped = scene.unstamped();
    scene.all_well(&CHAINS, "after it came back", |_| ());
    assert_eq!(scene.unstamped(), unstamped);
}

/// How many requests each has answered.
fn served(told: &[Outcome]) -> BTreeMap<&str, usize> {
    let mut served = BTreeMap::new();
    for name in told.iter().flatten() {
        *served.entry(name.as_str()).or_default() += 1;
    }
    served
}
