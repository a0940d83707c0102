//! Three hosts, two of them on a wire, and the internet at its end.

use std::{
    collections::BTreeMap,
    fs,
    net::IpAddr,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use serde_json::{Value, json};

use super::cable::Cable;
use crate::{
    netns::{Lab, overweave, printed, run, until},
    openstack::{Namespace, Probe, answers, serve},
};

/// Somebody in the internet.
pub const SERVER4: &str = "198.51.100.1";
/// The same.
pub const SERVER6: &str = "2001:db8:5::1";
/// Who is at the other end of the wire.
const NEXT4: &str = "203.0.113.254";
const NEXT6: &str = "2001:db8:99::fe";
/// The interface of a host outside, and its physical network.
const INTERFACE: &str = "ext0";
const PLUG: &str = "physnet1=ext0";

/// The API of a lab, as its admin.
#[derive(Debug)]
pub struct Api {
    base: String,
    token: String,
}

impl Api {
    fn of(lab: &Lab) -> Self {
        let clouds = lab.path("clouds.yaml");
        let text = fs::read_to_string(&clouds).unwrap();
        let mut lines = text.lines();
        let url = lines.find_map(|line| line.trim().strip_prefix("auth_url:"));
        let url = url.unwrap().trim().trim_matches(['"', '\'']);
        let token = Command::new(overweave())
            .arg("token")
            .env("OS_CLIENT_CONFIG_FILE", &clouds)
            .env("OS_CLOUD", "overweave")
            .output();
        let token = printed("token", &token.unwrap());
        Self {
            base: url.split_once("/identity").unwrap().0.to_owned(),
            token: token.trim().to_owned(),
        }
    }

    fn ask(&self, path: &str, more: &[&str]) -> Value {
        let url = format!("{}/v2.0/{path}", self.base);
        let header = format!("X-Auth-Token: {}", self.token);
        let words = ["-s", "--fail-with-body", "-H", &header, &url];
        let done = Command::new("curl")
            .args(words)
            .args(more)
            .output()
            .unwrap();
        let text = printed(&format!("{path} {more:?}"), &done);
        let answer: Value = serde_json::from_str(&text).unwrap();
        answer.as_object().unwrap().values().next().unwrap().clone()
    }

    fn answers(&self) -> bool {
        let url = format!("{}/v2.0/networks", self.base);
        let header = format!("X-Auth-Token: {}", self.token);
        let words = ["-sf", "-m", "2", "-o", "/dev/null", "-H", &header, &url];
        Command::new("curl").args(words).status().unwrap().success()
    }

    /// What is there.
    pub fn get(&self, path: &str) -> Value {
        self.ask(path, &[])
    }

    /// Changes something, or makes something.
    pub fn say(&self, verb: &str, path: &str, body: &Value) -> Value {
        let body = body.to_string();
        let json = "Content-Type: application/json";
        self.ask(path, &["-X", verb, "-H", json, "-d", &body])
    }

    /// Makes something and returns it.
    pub fn make(&self, kind: &str, attributes: &Value) -> Value {
        let body = json!({kind.replace('-', "_"): attributes});
        self.say("POST", &format!("{kind}s"), &body)
    }
}

/// A command without its join token: who it is of has an identity by now.
fn without_token(command: Vec<String>) -> Vec<String> {
    let mut kept = vec![];
    let mut rest = command.into_iter();
    while let Some(word) = rest.next() {
        if word == "--join" {
            rest.next();
        } else if !word.starts_with("--join=") {
            kept.push(word);
        }
    }
    kept
}

/// The id of an answer.
fn id(of: &Value) -> &str {
    of["id"].as_str().unwrap()
}

/// A workload: its namespace and its port.
#[derive(Debug)]
pub struct Workload {
    /// Where it runs.
    pub namespace: Namespace,
    /// Its port's id.
    pub port: String,
}

/// A tenant with a router.
#[derive(Debug)]
pub struct Tenant {
    number: u8,
    project: String,
    network: String,
    subnets: [String; 3],
    group: String,
    /// Its router's id.
    pub router: String,
    /// The addresses of its gateway, IPv4 and IPv6.
    pub gateway: [IpAddr; 2],
}

/// A part of overweave that this test started.
#[derive(Debug)]
struct Daemon {
    command: Vec<String>,
    child: Option<Child>,
}

impl Daemon {
    fn start(&mut self, netns: &str) {
        let child = Command::new("ip")
            .args(["netns", "exec", netns])
            .args(&self.command)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn();
        self.child = Some(child.unwrap());
    }

    fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        self.kill();
    }
}

/// All of it.
#[derive(Debug)]
pub struct Rig {
    // In the order in which they go.
    daemons: BTreeMap<String, Daemon>,
    _servers: std::sync::mpsc::Sender<()>,
    /// The wire: port 0 is h1's, 1 is h2's, 2 the internet's.
    pub cable: Cable,
    /// The internet.
    pub internet: Namespace,
    /// The lab.
    pub lab: Lab,
    /// The lab's API.
    pub api: Api,
    name: String,
    outside: String,
}

impl Rig {
    /// Makes it.
    pub fn new(name: &str) -> Self {
        let dir = std::env::temp_dir().join(format!("{name}-{}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        let file = dir.join("three-hosts.yaml");
        fs::write(&file, "hosts: [h1, h2, h3]\nnetworks: []\nworkloads: []\n").unwrap();
        let lab = Lab::up_from(file.to_str().unwrap(), name);
        fs::remove_dir_all(&dir).unwrap();
        let internet = Namespace::new(&format!("{name}-net"));
        let ends = ["h1", "h2", "net"].map(|end| format!("{name}-{end}"));
        let cable = Cable::plug(&[
            (&ends[0], INTERFACE),
            (&ends[1], INTERFACE),
            (&ends[2], "eth0"),
        ]);
        for (addr, device) in [
            (format!("{NEXT4}/24"), "eth0"),
            (format!("{NEXT6}/64"), "eth0"),
            (format!("{SERVER4}/32"), "lo"),
            (format!("{SERVER6}/128"), "lo"),
        ] {
            internet.ip(&format!("addr add {addr} dev {device} nodad"));
        }
        internet.ip("link set lo up");
        // It speaks as the server that was spoken to.
        internet.ip(&format!(
            "route replace 203.0.113.0/24 dev eth0 src {SERVER4}"
        ));
        internet.ip(&format!(
            "route replace 2001:db8:99::/64 dev eth0 src {SERVER6}"
        ));
        // What is measured is not this kernel's patience with a neighbour that did not answer.
        internet.set("ipv4/neigh/eth0/retrans_time_ms", "100");
        internet.set("ipv6/neigh/eth0/retrans_time_ms", "100");
        let servers = serve(&internet, &[80, 53]);
        let api = Api::of(&lab);
        let mut daemons = BTreeMap::new();
        for part in ["h1", "h2", "controller"] {
            let mut command = without_token(lab.kill(part));
            if part != "controller" {
                command.extend(["--physical-network".to_owned(), PLUG.to_owned()]);
            }
            let child = None;
            let mut daemon = Daemon { command, child };
            daemon.start(&format!("{name}-{part}"));
            daemons.insert(part.to_owned(), daemon);
        }
        until("the API answers", Duration::from_secs(20), || api.answers());
        let outside = api.make(
            "network",
            &json!({
                "name": "outside", "router:external": true, "provider:network_type": "flat",
                "provider:physical_network": "physnet1",
            }),
        );
        let outside = id(&outside).to_owned();
        for (version, cidr, gateway) in
            [(4, "203.0.113.0/24", NEXT4), (6, "2001:db8:99::/64", NEXT6)]
        {
            let subnet = json!({
                "network_id": outside, "ip_version": version, "cidr": cidr, "gateway_ip": gateway,
            });
            api.make("subnet", &subnet);
        }
        Self {
            daemons,
            _servers: servers,
            cable,
            internet,
            lab,
            api,
            name: name.to_owned(),
            outside,
        }
    }

    /// Kills a host's switch, or the controller, without warning.
    pub fn kill(&mut self, part: &str) {
        self.daemons.get_mut(part).unwrap().kill();
    }

    /// Starts it again.
    pub fn start(&mut self, part: &str) {
        let netns = format!("{}-{part}", self.name);
        self.daemons.get_mut(part).unwrap().start(&netns);
        if part == "controller" {
            until("the API answers", Duration::from_secs(20), || {
                self.api.answers()
            });
        }
    }

    /// Sends it a signal.
    pub fn signal(&self, part: &str, signal: &str) {
        let child = self.daemons[part].child.as_ref().unwrap();
        let pid = child.id().to_string();
        let sent = Command::new("kill").args([signal, &pid]).status().unwrap();
        assert!(sent.success());
    }

    /// Runs `ip` in a host's namespace.
    pub fn ip(&self, host: &str, words: &str) {
        let netns = format!("{}-{host}", self.name);
        let mut command = Command::new("ip");
        command.args(["-n", &netns]).args(words.split(' '));
        printed(words, &command.output().unwrap());
    }

    /// A tenant with the addresses that every tenant has, and IPv6 of its own: `2001:db8:N::/64`. The internet knows the way to that.
    pub fn tenant(&self, n: u8) -> Tenant {
        let project = format!("{n:032x}");
        let network = self.api.make(
            "network",
            &json!({"name": format!("inside-{n}"), "project_id": project}),
        );
        let network = id(&network).to_owned();
        let router = self.api.make(
            "router",
            &json!({
                "name": format!("router-{n}"), "project_id": project,
                "external_gateway_info": {"network_id": self.outside},
            }),
        );
        let own = format!("2001:db8:{n}::/64");
        let subnets = [(4, "10.0.0.0/24"), (6, "fd00:1::/64"), (6, own.as_str())];
        let subnets = subnets.map(|(version, cidr)| {
            let subnet = json!({
                "network_id": network, "project_id": project, "ip_version": version, "cidr": cidr,
            });
            let subnet = id(&self.api.make("subnet", &subnet)).to_owned();
            let path = format!("routers/{}/add_router_interface", id(&router));
            self.api.say("PUT", &path, &json!({"subnet_id": subnet}));
            subnet
        });
        let group = self.api.make(
            "security-group",
            &json!({"name": "open", "project_id": project}),
        );
        let group = id(&group).to_owned();
        for (family, protocols) in [
            ("IPv4", ["icmp", "tcp", "udp"]),
            ("IPv6", ["ipv6-icmp", "tcp", "udp"]),
        ] {
            for protocol in protocols {
                let rule = json!({
                    "security_group_id": group, "project_id": project, "direction": "ingress",
                    "ethertype": family, "protocol": protocol,
                });
                self.api.make("security-group-rule", &rule);
            }
        }
        let shown = self.api.get(&format!("routers/{}", id(&router)));
        let fixed = shown["external_gateway_info"]["external_fixed_ips"].clone();
        let mut addrs: Vec<IpAddr> = fixed
            .as_array()
            .unwrap()
            .iter()
            .map(|one| one["ip_address"].as_str().unwrap().parse().unwrap())
            .collect();
        addrs.sort_unstable();
        self.internet
            .ip(&format!("route add {own} via {} src {SERVER6}", addrs[1]));
        Tenant {
            number: n,
            project,
            network,
            subnets,
            group,
            router: id(&router).to_owned(),
            gateway: [addrs[0], addrs[1]],
        }
    }

    /// A workload on a host, whose addresses end in `n`.
    pub fn workload(&self, tenant: &Tenant, name: &str, n: u8, host: &str) -> Workload {
        let namespace = Namespace::new(&format!("{}-{name}", self.name));
        let port = json!({
            "name": name, "network_id": tenant.network, "project_id": tenant.project,
            "security_groups": [tenant.group], "binding:host_id": host,
            "fixed_ips": [
                {"subnet_id": tenant.subnets[0], "ip_address": format!("10.0.0.{n}")},
                {"subnet_id": tenant.subnets[1], "ip_address": format!("fd00:1::{n:x}")},
                {"subnet_id": tenant.subnets[2], "ip_address": format!("2001:db8:{}::{n:x}", tenant.number)},
            ],
        });
        let made = self.api.make("port", &port);
        let port = id(&made).to_owned();
        let mut attached = None;
        until("the port is attached", Duration::from_secs(20), || {
            let dir = self.lab.path(&format!("hosts/{host}"));
            let words = ["port", "attach", &port, "--run-dir", dir.to_str().unwrap()];
            let more = ["--netns", namespace.name(), "--static"];
            let done = run(&[&words[..], &more].concat());
            let is = done.status.success();
            attached = Some(done);
            is
        });
        printed("port attach", &attached.unwrap());
        until("the port is ACTIVE", Duration::from_secs(20), || {
            self.api.get(&format!("ports/{port}"))["status"] == "ACTIVE"
        });
        Workload { namespace, port }
    }

    /// An address outside for a workload.
    pub fn floating(&self, tenant: &Tenant, workload: &Workload, n: u8) -> IpAddr {
        let addr = format!("203.0.113.{n}");
        let floating = json!({
            "floating_network_id": self.outside, "project_id": tenant.project,
            "floating_ip_address": addr, "port_id": workload.port,
        });
        self.api.make("floatingip", &floating);
        addr.parse().unwrap()
    }

    /// The host that has a tenant's gateway; none while it moves.
    pub fn gateway_at(&self, tenant: &Tenant) -> Option<String> {
        let ports = format!(
            "ports?device_owner=network:router_gateway&device_id={}",
            tenant.router
        );
        let ports = self.api.get(&ports);
        let host = ports[0]["binding:host_id"].as_str()?;
        (!host.is_empty()).then(|| host.to_owned())
    }

    /// A probe gets its answer, soon.
    pub fn passes(&self, from: &Namespace, probe: &Probe) {
        let what = format!("{probe:?} from {}", from.name());
        until(&what, Duration::from_secs(20), || answers(from, probe));
    }

    /// It gets none, though it is tried a few times.
    pub fn fails(&self, from: &Namespace, probe: &Probe) {
        for _ in 0..3 {
            assert!(!answers(from, probe), "{probe:?} from {}", from.name());
        }
    }

    /// From which addresses the internet heard something of a protocol, to one of its own or from it, since a moment.
    pub fn sources(&self, since: Instant, to: IpAddr, protocol: u8) -> Vec<IpAddr> {
        let seen = self.cable.since(since).into_iter();
        let all = seen
            .filter(|seen| seen.port != 2)
            .filter_map(|s| s.addresses());
        let mut found: Vec<IpAddr> = all
            .filter(|(_, dst, proto)| (*dst, *proto) == (to, protocol))
            .map(|(src, ..)| src)
            .collect();
        found.sort_unstable();
        found.dedup();
        found
    }
}
