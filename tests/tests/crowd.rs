//! Fifty clients, ten members on four hosts, half of the traffic IPv6, and a chain of a firewall, an appliance, load balancers and a shaper.
//!
//! The appliance is a bridge in a namespace that stamps what it forwards (a DSCP) and counts it. Members take only what is stamped, clients only what is on
//! its way back: so whatever escapes the chain is a failed request. A monitor asks the members: of these frames alone a member takes
//! what the appliance has not seen. `OVERWEAVE_REQUESTS` says how many are asked (2,000 if not); with 10,000 `wrk` asks too, where it is installed.

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
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use serde_json::{Value, json};
use tests::{
    crowd::{self, Crowd, Load, Outcome, Server},
    netns::{Lab, all, allowed, api, printed, put, until},
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
const SOME: usize = 100;
/// How many requests make shares of requests, and not of connections alone, even; and `wrk` worth its time.
const MANY: usize = 10_000;
/// The member whose process is killed.
const VICTIM: usize = 3;
/// A dead member is out after so long: three times 500 ms and one more for the last answer, and the news to all hosts.
const MONITOR: Duration = Duration::from_secs(2 + 1);
/// The load balancers' places in the chain, IPv4 and IPv6, and those of all that leaves a mark on what an appliance let by.
const BALANCERS: [usize; 2] = [2, 3];
const OTHERS: [usize; 4] = [0, 2, 3, 4];

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
      - appliance: {{pairs: [{{ingress: probe, egress: probe-out}}, {{ingress: second, egress: second-out}}], failure: closed, health_probe: {{interval: 1, misses: 2}}}}
      - load_balancer: {{vip: 10.90.0.5, port: 80, algorithm: round_robin, members: [{v4}], health: {HEALTH}}}
      - load_balancer: {{vip: \"fd90::5\", port: 80, algorithm: round_robin, members: [{v6}], health: {HEALTH}}}
      - shaper: {{rate: 200mbit, burst: 256KiB}}
expect: []
",
        v4 = members(8080),
        v6 = members(8080),
    )
    .unwrap();
    text
}

/// How members are asked; [`MONITOR`] follows from it.
const HEALTH: &str = "{type: tcp, interval: 500ms, attempts: 3}";

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

/// What a member takes: what bears the stamp, and what its monitor asks in the virtual address's name.
const MEMBER: &str = "table inet only {
    counter came {
    }
    counter four {
    }
    counter six {
    }
    chain c {
        type filter hook input priority 0
        ip saddr 10.90.0.5 accept
        ip6 saddr fd90::5 accept
        tcp dport 8080 counter name came
        meta nfproto ipv4 tcp dport 8080 ip dscp != 42 counter name four drop
        meta nfproto ipv6 tcp dport 8080 ip6 dscp != 42 counter name six drop
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
    victim: Option<Server>,
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
            within(instance, &["nft", STAMPS]);
        }
        let servers = (0..MEMBERS).filter_map(|n| {
            let name = format!("web-{n}");
            within(&name, &["nft", MEMBER]);
            (n != VICTIM).then(|| Server::start(&namespace(&name), &name, 8080))
        });
        let servers = servers.collect();
        for n in 0..CLIENTS {
            within(&format!("client-{n}"), &["nft", CLIENT]);
        }
        let chain = api(NAME, "sfc/port_chains?name=edge");
        let groups = chain["port_pair_groups"].as_array().unwrap().iter();
        Self {
            groups: groups.map(|id| id.as_str().unwrap().to_owned()).collect(),
            chain: chain["id"].as_str().unwrap().to_owned(),
            _servers: servers,
            victim: Some(victim()),
            lab,
        }
    }

    /// Counters of a table in a namespace, by their names.
    fn counters<const N: usize>(place: &str, table: [&str; 2], names: [&str; N]) -> [u64; N] {
        let words = ["nft", "-j", "list", "table", table[0], table[1]];
        let table: Value = serde_json::from_str(&within(place, &words)).unwrap();
        let rows = table["nftables"].as_array().unwrap();
        names.map(|name| {
            let row = rows.iter().find(|row| row["counter"]["name"] == name);
            row.unwrap()["counter"]["packets"].as_u64().unwrap()
        })
    }

    /// What an instance of the appliance has stamped, on its way to members and back.
    fn stamped(instance: usize) -> [u64; 2] {
        let place = INSTANCES[instance].1[0];
        Self::counters(place, ["bridge", "seen"], ["up", "down"])
    }

    /// Frames that came to members, all together, and those of each family that came without a stamp.
    fn came() -> [u64; 3] {
        let members = (0..MEMBERS).map(|n| {
            let names = ["came", "four", "six"];
            Self::counters(&format!("web-{n}"), ["inet", "only"], names)
        });
        members.fold([0; 3], |sum, of| [0, 1, 2].map(|i| sum[i] + of[i]))
    }

    /// Those without a stamp.
    fn unstamped() -> [u64; 2] {
        let [_, four, six] = Self::came();
        [four, six]
    }

    /// Segments that all hosts count at hops of the chain.
    fn counted<const N: usize>(&self, hops: [usize; N]) -> [u64; N] {
        let told = HOSTS.map(|host| {
            let url = "http://127.0.0.1:9698/metrics";
            within(host, &["curl", "-s", url])
        });
        hops.map(|hop| {
            let start = format!(
                "nfv_packets_total{{chain=\"{}\",function=\"{}\",",
                self.chain, self.groups[hop]
            );
            let lines = told.iter().flat_map(|told| told.lines());
            let lines = lines.filter(|line| line.starts_with(&start));
            let numbers = lines.filter_map(|line| line.rsplit_once(' '));
            numbers.map(|(_, n)| n.parse::<u64>().unwrap()).sum()
        })
    }

    /// Waits until the last connections have ended: nothing passes the appliance any more. What each instance has stamped.
    fn quiet() -> [u64; 2] {
        let mut last = [0; 2];
        until("nothing passes", crowd::PATIENCE, || {
            let now = [0, 1].map(|instance| Self::stamped(instance).iter().sum());
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

    /// All clients ask at once, so many requests together or until something is done; what became of them. Every other one
    /// keeps its connections for that many.
    fn crowd(
        &self,
        (requests, kept, patience): (usize, usize, Duration),
        meanwhile: impl FnOnce(&Self, &Crowd),
    ) -> Vec<Outcome> {
        let crowd = Crowd::default();
        thread::scope(|scope| {
            let all = (0..CLIENTS).map(|n| {
                let crowd = &crowd;
                let to = CHAINS[usize::from(n % 4 < 2)].parse().unwrap();
                let load = Load {
                    requests: requests.div_ceil(CLIENTS),
                    kept: if n % 2 == 0 { 1 } else { kept },
                    patience,
                };
                let place = namespace(&format!("client-{n}"));
                scope.spawn(move || crowd::ask(&place, to, load, crowd))
            });
            let all: Vec<_> = all.collect();
            let _ending = Ending(&crowd);
            meanwhile(self, &crowd);
            all.into_iter().flat_map(|t| t.join().unwrap()).collect()
        })
    }

    /// The same, while something is done and for a while after it, over connections that last as long; no request may fail.
    fn all_well(&self, what: &str, act: impl FnOnce(&Self)) -> Vec<Outcome> {
        let told = self.crowd(LASTING, |scene, crowd| {
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

    /// Waits until the monitors of both load balancers have found this of a member, or of all.
    fn found(&self, member: Option<usize>, status: &str, patience: Duration) {
        let port = member.map(|n| port_of(&format!("web-{n}")));
        until(status, patience, || {
            let groups = all(NAME, "sfc/port_pair_groups");
            BALANCERS.iter().all(|at| {
                let group = groups.iter().find(|g| g["id"] == self.groups[*at].as_str());
                let rows = group.unwrap()["member_statuses"].as_array().unwrap();
                assert_eq!(rows.len(), MEMBERS);
                let mut rows = rows.iter();
                rows.all(|row| {
                    row["operating_status"] == status
                        || port.as_ref().is_some_and(|port| row["port_id"] != *port)
                })
            })
        });
    }

    /// Its appliances' software dies, or is back: their bridges let nothing through.
    fn bridges(up: bool) {
        for (_, [place, _]) in INSTANCES {
            let to = if up { "up" } else { "down" };
            within(place, &["ip", "link", "set", "br0", to]);
        }
    }

    /// Waits until what is known of both is this.
    fn appliances_are(status: &str) {
        until(status, crowd::PATIENCE * 2, || {
            let pairs = all(NAME, "sfc/port_pairs");
            pairs.iter().all(|pair| pair["operating_status"] == status)
        });
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
}

/// The id of a port by its name.
fn port_of(name: &str) -> Value {
    api(NAME, &format!("ports?name={name}"))["id"].clone()
}

/// What a command prints in a workload's or host's namespace, without the price of `overweave lab exec`.
fn within(place: &str, command: &[&str]) -> String {
    let output = thread::scope(|scope| {
        let done = scope.spawn(|| {
            crowd::enter(&namespace(place));
            Command::new(command[0]).args(&command[1..]).output()
        });
        done.join().unwrap().unwrap()
    });
    printed(&format!("{place}: {}", command.join(" ")), &output)
}

/// The namespace of a workload.
fn namespace(workload: &str) -> String {
    format!("{NAME}-{workload}")
}

/// The member that is killed, as a process.
fn victim() -> Server {
    let name = format!("web-{VICTIM}");
    Server::process(
        "a_crowd_passes_a_chain_whole",
        &namespace(&name),
        &name,
        8080,
    )
}

fn failures(told: &[Outcome]) -> Vec<&Outcome> {
    told.iter().filter(|one| one.answer.is_err()).collect()
}

/// As long as it takes, over connections that last.
const LASTING: (usize, usize, Duration) = (usize::MAX, usize::MAX, crowd::PATIENCE);

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

/// A capture of a direction at a side of an appliance; ended, it says how many frames it saw.
struct Capture(Child);

impl Capture {
    fn start(lab: &Lab, place: &str, device: &str, filter: &str) -> Self {
        let mut command = lab.command(
            place,
            &[
                "tcpdump",
                "-nn",
                "--immediate-mode",
                "-B",
                "8192",
                "-s",
                "96",
                "-i",
                device,
                "-w",
                "/dev/null",
                filter,
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
    if crowd::serves() || !allowed() {
        return;
    }
    let mut scene = Scene::set();
    // They were asked before they served.
    scene.found(None, "ONLINE", crowd::PATIENCE);
    until("all hosts choose among all", crowd::PATIENCE * 2, || {
        let told = scene.crowd((600, 1, crowd::PATIENCE), |_, _| {});
        let served = served(told.iter());
        (0..MEMBERS).all(|n| served.get(&*format!("web-{n}")).copied() > Some(30 * weight(n)))
    });
    Scene::quiet();
    let captures = INSTANCES.map(|(_, [place, _])| {
        ["tcp dst port 80", "tcp src port 80"].map(|filter| {
            ["eth0", "eth1"].map(|device| Capture::start(&scene.lab, place, device, filter))
        })
    });
    let [before] = scene.counted([APPLIANCE]);
    let from = [0, 1].map(Scene::stamped);

    // All is answered, by everybody, and by weight.
    let told = scene.crowd((requests(), KEPT, crowd::PATIENCE), |_, _| {});
    let failed = failures(&told);
    assert!(failed.is_empty(), "{failed:#?}");
    spread("connections", told.iter().filter(|one| one.by.is_none()), 0);
    spread("requests", told.iter(), MANY);

    // In another order, and back, while they go on.
    for order in [[4, 1, 2, 3, 0], [1, 0, 4, 2, 3], [0, 1, 2, 3, 4]] {
        let what = format!("in the order {order:?}");
        scene.all_well(&what, |scene| scene.order(&order));
    }
    if requests() >= MANY {
        under_wrk(&scene);
    }

    // One instance is drained, then is back. What it had goes on there; nothing else comes.
    scene.all_well("while one is drained", |_| Scene::weigh(1, 0));
    Scene::quiet();
    let drained = Scene::stamped(1);
    scene.all_well("with one drained", |_| ());
    assert_eq!(Scene::stamped(1), drained);
    scene.all_well("while it comes back", |_| Scene::weigh(1, 1));
    Scene::quiet();
    assert!(Scene::stamped(1) > drained);

    loses_a_member(&mut scene);

    // Nothing passed but what the appliance stamped, and all agree on how much that was.
    Scene::quiet();
    let stamped = [0, 1].map(|at| {
        let (now, from) = (Scene::stamped(at), from[at]);
        [now[0] - from[0], now[1] - from[1]]
    });
    let [counted] = scene.counted([APPLIANCE]);
    let counted = counted - before;
    let seen = captures.map(|at| at.map(|way| way.map(Capture::end)));
    println!("the hop {counted}, stamped {stamped:?}, captured {seen:?}");
    assert_eq!(seen, stamped.map(|at| at.map(|way| [way; 2])));
    assert_eq!(counted, stamped.iter().flatten().sum::<u64>());
    assert_eq!(Scene::unstamped(), [0; 2]);

    fails_as_it_is_told(&scene);
}

/// Each has its share by weight within 10 %, if there are so many.
fn spread<'a>(what: &str, told: impl Iterator<Item = &'a Outcome>, least: usize) {
    let served = served(told);
    let all: usize = served.values().sum();
    let weights: usize = (0..MEMBERS).map(weight).sum();
    let mut worst = 0;
    for member in 0..MEMBERS {
        let name = format!("web-{member}");
        let has = served.get(name.as_str()).copied().unwrap_or(0) * weights;
        let share = all * weight(member);
        let off = has.abs_diff(share) * 1000 / share;
        worst = worst.max(off);
        assert!(off <= 100 || all < least, "{name} of {what}: {served:?}");
    }
    println!("{all} {what}, at most {worst} in 1,000 beside the weights: {served:?}");
}

/// The order changes while `wrk` asks as fast as it can, in both families.
fn under_wrk(scene: &Scene) {
    let clients = [0, 2].map(|n| {
        let url = format!("http://{}/", CHAINS[usize::from(n % 4 < 2)]);
        let words = ["wrk", "-t", "1", "-c", "20", "-d", "6s", &url];
        let mut wrk = scene.lab.command(&format!("client-{n}"), &words);
        let wrk = wrk.stdout(Stdio::piped()).stderr(Stdio::piped());
        wrk.spawn().unwrap()
    });
    for order in [
        [4, 1, 2, 3, 0],
        [0, 1, 2, 3, 4],
        [1, 0, 4, 2, 3],
        [0, 1, 2, 3, 4],
    ] {
        let stamped = || (0..2).flat_map(Scene::stamped).sum::<u64>();
        let from = stamped();
        until("wrk goes on", crowd::PATIENCE, || stamped() > from + 1_000);
        scene.order(&order);
    }
    for wrk in clients {
        let done = wrk.wait_with_output().unwrap();
        let told = String::from_utf8_lossy(&done.stdout);
        if !done.status.success() {
            println!("no wrk: {}", String::from_utf8_lossy(&done.stderr));
            continue;
        }
        println!("{told}");
        assert!(told.contains("requests in"), "{told}");
        assert!(
            !told.contains("Socket errors") && !told.contains("Non-2xx"),
            "{told}"
        );
    }
}

/// A member's process is killed: after the monitor's time nobody meets it, and no connection of another is touched.
fn loses_a_member(scene: &mut Scene) {
    let name = format!("web-{VICTIM}");
    let mut dies = scene.victim.take();
    let mut killed = Instant::now();
    let told = scene.crowd(LASTING, |scene, crowd| {
        go_on(crowd);
        killed = Instant::now();
        drop(dies.take());
        scene.found(Some(VICTIM), "ERROR", MONITOR);
        println!("the member is out after {:?}", killed.elapsed());
        until("the monitor's time is over", MONITOR * 2, || {
            killed.elapsed() > MONITOR
        });
        go_on(crowd);
        crowd.end();
    });
    let failed = failures(&told);
    let last = failed.iter().map(|one| one.at).max();
    let last = last.map(|at| at.saturating_duration_since(killed));
    println!(
        "a member killed: {} requests, {} failed, the last {last:?} after it",
        told.len(),
        failed.len()
    );
    for one in failed {
        assert!(one.at <= killed + MONITOR, "{one:?}");
        let by = one.by.as_ref();
        assert!(by.is_none_or(|by| *by == name), "another's: {one:?}");
    }
    let after = || told.iter().filter(|one| one.at > killed + MONITOR);
    let others = served(after());
    assert!(!others.contains_key(name.as_str()), "{others:?}");
    let lasted = after().filter(|one| one.since < killed).count();
    assert!(lasted > 0, "no connection was kept all the time");
    scene.victim = Some(victim());
    scene.found(Some(VICTIM), "ONLINE", crowd::PATIENCE);
    until("it is chosen again", crowd::PATIENCE * 2, || {
        let told = scene.all_well("with the member back", |_| ());
        served(told.iter()).contains_key(name.as_str())
    });
}

/// With both instances dead nothing passes, or all does, but the other functions are not passed by.
fn fails_as_it_is_told(scene: &Scene) {
    let patience = Duration::from_millis(500);
    let answers = |n: usize| {
        let client = namespace(&format!("client-{n}"));
        let to = CHAINS[usize::from(n % 4 < 2)].parse().unwrap();
        thread::scope(|scope| {
            let asked = scope.spawn(|| crowd::ask_within(&client, to, patience));
            asked.join().unwrap().is_ok()
        })
    };
    Scene::appliances_are("ONLINE");
    let mut dead = Instant::now();
    let told = scene.crowd((usize::MAX, KEPT, patience), |_, crowd| {
        go_on(crowd);
        Scene::bridges(false);
        dead = Instant::now();
        // What was behind the appliance already arrives.
        let mut last = 0;
        until("no frame is under way", crowd::PATIENCE, || {
            let [now, ..] = Scene::came();
            std::mem::replace(&mut last, now) == now
        });
        Scene::appliances_are("ERROR");
        assert!(!answers(1) && !answers(3));
        let [now, ..] = Scene::came();
        assert_eq!(now, last, "frames passed by the appliance");
        crowd.end();
    });
    let late = told.iter().filter(|one| one.at > dead);
    let (answered, failed): (Vec<_>, Vec<_>) = late.partition(|one| one.answer.is_ok());
    println!("the appliances dead: {} failed", failed.len());
    assert!(answered.is_empty(), "{answered:#?}");
    assert!(failed.len() >= CLIENTS);
    assert_eq!(Scene::unstamped(), [0; 2], "frames passed by the appliance");
    // Open: what comes to members was translated, counted and shaped, and is without a stamp, which they refuse.
    let path = format!("sfc/port_pair_groups/{}", scene.groups[APPLIANCE]);
    let fails = |how: &str| {
        let body = json!({"port_pair_group": {"failure_policy": how}});
        put(NAME, "PUT", &path, &body);
    };
    let others = || scene.counted(OTHERS);
    let before = others();
    fails("open");
    until("frames pass by the appliance", crowd::PATIENCE, || {
        let answered = answers(0) || answers(2);
        assert!(!answered, "a member took what bears no stamp");
        Scene::unstamped().iter().all(|frames| *frames > 0)
    });
    let marked = others();
    println!(
        "open: unstamped {:?}, others {before:?} to {marked:?}",
        Scene::unstamped()
    );
    assert!(before.iter().zip(&marked).all(|(before, now)| now > before));
    fails("closed");
    Scene::bridges(true);
    Scene::appliances_are("ONLINE");
    until("all is answered again", crowd::PATIENCE, || {
        answers(0) && answers(2)
    });
    let unstamped = Scene::unstamped();
    scene.all_well("after it came back", |_| ());
    assert_eq!(Scene::unstamped(), unstamped);
}

/// How many requests each has answered.
fn served<'a>(told: impl Iterator<Item = &'a Outcome>) -> BTreeMap<&'a str, usize> {
    let mut served = BTreeMap::new();
    for name in told.filter_map(|one| one.answer.as_ref().ok()) {
        *served.entry(name.as_str()).or_default() += 1;
    }
    served
}
