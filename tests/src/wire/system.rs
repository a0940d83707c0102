//! What stands there?

use crate::{
    netns::overweave,
    wire::{
        place::{Place, ip},
        repeater::{Repeater, VNI},
        rest::Rest,
    },
};
use anyhow::{Context as _, bail};
use serde_json::{Value, json};
use std::{
    fmt,
    net::IpAddr,
    path::{Path, PathBuf},
    process::Child,
    str::FromStr,
    time::{Duration, Instant},
};

/// The port of every work.
pub const PORT: u16 = 7700;
/// The address that a chain's load balancer answers for.
const VIP: &str = "10.77.0.100";

/// A kind of switch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// This project, security group on.
    Overweave,
    /// The kernel's bridge and vxlan, no filter.
    Kernel,
    /// Open vSwitch in user space, taps, layer 2.
    Ovs,
    /// The same with connection tracking.
    OvsCt,
    /// [`Repeater`].
    Repeater,
}

/// A system as a user names it: `overweave+v6+chain`, `kernel+outer6`, `ovs+local`.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "variants that combine freely"
)]
pub struct Wanted {
    /// The switch.
    pub kind: Kind,
    /// IPv6 inside.
    pub v6: bool,
    /// IPv6 underlay.
    pub outer6: bool,
    /// An underlay with packets of 9,000 bytes.
    pub jumbo: bool,
    /// With a chain of firewall, load balancer and shaper (overweave, TCP over IPv4).
    pub chain: bool,
    /// Both workloads on one host.
    pub local: bool,
    /// More arguments for overweave's switch: `uplink=tap` as `--uplink=tap`.
    pub arguments: Vec<String>,
}

impl FromStr for Wanted {
    type Err = anyhow::Error;
    fn from_str(text: &str) -> anyhow::Result<Self> {
        let mut words = text.split('+');
        let kind = match words.next() {
            Some("overweave") => Kind::Overweave,
            Some("kernel") => Kind::Kernel,
            Some("ovs") => Kind::Ovs,
            Some("ovs-ct") => Kind::OvsCt,
            Some("repeater") => Kind::Repeater,
            _ => bail!(
                "system must be overweave, kernel, ovs, ovs-ct or repeater, with +v6 +outer6 +jumbo +chain +local: {text:?}"
            ),
        };
        let mut wanted = Self {
            kind,
            v6: false,
            outer6: false,
            jumbo: false,
            chain: false,
            local: false,
            arguments: vec![],
        };
        for word in words {
            match word {
                "v6" => wanted.v6 = true,
                "outer6" => wanted.outer6 = true,
                "jumbo" => wanted.jumbo = true,
                "chain" => wanted.chain = true,
                "local" => wanted.local = true,
                _ if word.contains('=') => wanted.arguments.push(format!("--{word}")),
                _ => bail!("system has no variant {word:?}: {text:?}"),
            }
        }
        if wanted.chain && (kind != Kind::Overweave || wanted.v6) {
            bail!("only overweave over IPv4 has the chain of this bench: {text:?}");
        }
        if wanted.local && (kind == Kind::Repeater || wanted.outer6 || wanted.jumbo) {
            bail!("no such variant on one host: {text:?}");
        }
        if !wanted.arguments.is_empty() && kind != Kind::Overweave {
            bail!("only overweave takes arguments: {text:?}");
        }
        Ok(wanted)
    }
}

impl fmt::Display for Wanted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.kind {
            Kind::Overweave => "overweave",
            Kind::Kernel => "kernel",
            Kind::Ovs => "ovs",
            Kind::OvsCt => "ovs-ct",
            Kind::Repeater => "repeater",
        })?;
        let variants = [
            (self.v6, "+v6"),
            (self.outer6, "+outer6"),
            (self.jumbo, "+jumbo"),
            (self.chain, "+chain"),
            (self.local, "+local"),
        ];
        for (_, word) in variants.iter().filter(|(on, _)| *on) {
            f.write_str(word)?;
        }
        for argument in &self.arguments {
            write!(f, "+{}", argument.trim_start_matches('-'))?;
        }
        Ok(())
    }
}

/// A system that carries packets between `w1` and `w2`.
#[derive(Debug)]
pub struct Stand {
    /// What it is.
    pub wanted: Wanted,
    /// Its namespaces; dropped after what runs in them.
    pub place: Place,
    children: Vec<Child>,
    repeaters: Vec<Repeater>,
    folder: PathBuf,
    /// Where clients call: the second workload, or the chain's virtual address.
    pub target: IpAddr,
    api: Option<Api>,
}

/// What overweave's controller is asked with.
#[derive(Debug)]
struct Api {
    origin: String,
    token: String,
    network: String,
    group: String,
}

impl Stand {
    /// Brings a system up, until a ping of full size crosses it.
    ///
    /// # Errors
    /// What refused, with its log where it has one.
    pub fn up(number: usize, wanted: &Wanted) -> anyhow::Result<Self> {
        let underlay: u16 = if wanted.jumbo { 9000 } else { 1500 };
        let mtu = underlay - if wanted.outer6 { 70 } else { 50 };
        let place = Place::new(number, mtu, underlay, wanted.local)?;
        let folder = std::env::temp_dir().join(place.netns("state"));
        std::fs::create_dir_all(&folder)?;
        let mut stand = Self {
            wanted: wanted.clone(),
            place,
            children: vec![],
            repeaters: vec![],
            folder,
            target: Place::address(2, wanted.v6),
            api: None,
        };
        match wanted.kind {
            Kind::Overweave => stand.overweave()?,
            Kind::Kernel => stand.kernel()?,
            Kind::Ovs => stand.ovs(false)?,
            Kind::OvsCt => stand.ovs(true)?,
            Kind::Repeater => stand.repeater()?,
        }
        stand.carries()?;
        Ok(stand)
    }

    /// The controller's API, and the group of both workloads; overweave alone has them.
    pub fn rest(&self) -> Option<(Rest<'_>, &str)> {
        let api = self.api.as_ref()?;
        let rest = Rest {
            place: &self.place,
            origin: api.origin.clone(),
            token: api.token.clone(),
        };
        Some((rest, &api.group))
    }

    /// The processes of the system: what each is called, and its id.
    pub fn processes(&self) -> Vec<(String, u32)> {
        let name = |id: u32| {
            let words = std::fs::read(format!("/proc/{id}/cmdline")).unwrap_or_default();
            let words = String::from_utf8_lossy(&words).into_owned();
            let words: Vec<&str> = words.split('\0').collect();
            match words.as_slice() {
                [_, "vswitch", _, host, ..] => format!("vswitch {host}"),
                [_, verb, ..] => (*verb).to_owned(),
                _ => "gone".to_owned(),
            }
        };
        let ids = self.children.iter().map(Child::id);
        ids.map(|id| (name(id), id)).collect()
    }

    fn carries(&self) -> anyhow::Result<()> {
        let target = Place::address(2, self.wanted.v6).to_string();
        let header = if self.wanted.v6 { 48 } else { 28 };
        let size = (self.place.mtu - header).to_string();
        let words = ["ping", "-c1", "-W1", "-q", "-M", "do", "-s", &size, &target];
        until(|| self.place.ask("w1", &words).map(drop))
            .with_context(|| format!("no ping of {size} bytes crosses"))
    }

    fn kernel(&mut self) -> anyhow::Result<()> {
        let place = &self.place;
        let outer6 = self.wanted.outer6;
        for &(host, number) in place.hosts() {
            let netns = place.netns(host);
            place.address_host(host, number, "u0")?;
            let mtu = place.mtu;
            ip(&format!("-n {netns} link add br0 type bridge"))?;
            ip(&format!("-n {netns} link set br0 mtu {mtu} up"))?;
            if !self.wanted.local {
                let (me, peer) = (Place::vtep(number, outer6), Place::vtep(3 - number, outer6));
                ip(&format!(
                    "-n {netns} link add vx0 mtu {mtu} type vxlan id {VNI} local {me} remote {peer} dstport 4789 dev u0"
                ))?;
                ip(&format!("-n {netns} link set vx0 master br0 up"))?;
            }
        }
        for workload in [1, 2] {
            let netns = place.netns(place.host_of(workload));
            let inside = place.netns(&format!("w{workload}"));
            ip(&format!(
                "-n {netns} link add v{workload} type veth peer name eth0 netns {inside}"
            ))?;
            ip(&format!(
                "-n {netns} link set v{workload} mtu {} master br0 up",
                place.mtu
            ))?;
            place.address_workload(workload, "eth0")?;
        }
        Ok(())
    }

    fn repeater(&mut self) -> anyhow::Result<()> {
        for (host, number) in [("h1", 1), ("h2", 2)] {
            self.place.address_host(host, number, "u0")?;
        }
        for number in [1, 2] {
            let repeater = Repeater::start(&self.place, number, self.wanted.outer6)?;
            self.repeaters.push(repeater);
        }
        Ok(())
    }

    fn ovs(&mut self, track: bool) -> anyhow::Result<()> {
        for &(host, number) in self.place.hosts() {
            let ovs = Ovs::new(&self.folder, host);
            ovs.start(&self.place, &mut self.children)?;
            let mtu = self.place.mtu;
            ovs.vsctl(
                &self.place,
                "add-br br-int -- set bridge br-int datapath_type=netdev fail-mode=standalone",
            )?;
            if !self.wanted.local {
                // The underlay's address sits on the bridge that has the link as a port: what its user-space tunnels ask for.
                for off in ["tx", "tso", "gso", "gro"] {
                    self.place.ask(host, &["ethtool", "-K", "u0", off, "off"])?;
                }
                ovs.vsctl(
                    &self.place,
                    "add-br br-phy -- set bridge br-phy datapath_type=netdev fail-mode=standalone",
                )?;
                ovs.vsctl(&self.place, "add-port br-phy u0")?;
                let underlay = if self.wanted.jumbo { 9000 } else { 1500 };
                let netns = self.place.netns(host);
                ip(&format!("-n {netns} link set br-phy mtu {underlay} up"))?;
                self.place.address_host(host, number, "br-phy")?;
                let outer6 = self.wanted.outer6;
                let (me, peer) = (Place::vtep(number, outer6), Place::vtep(3 - number, outer6));
                ovs.vsctl(&self.place, &format!(
                    "add-port br-int vx0 -- set interface vx0 type=vxlan options:remote_ip={peer} options:local_ip={me} options:key={VNI} options:dst_port=4789"
                ))?;
            }
            for workload in [1, 2] {
                if self.place.host_of(workload) != host {
                    continue;
                }
                ovs.vsctl(&self.place, &format!(
                    "add-port br-int tp{workload} -- set interface tp{workload} type=internal mtu_request={mtu}"
                ))?;
                let inside = self.place.netns(&format!("w{workload}"));
                let netns = self.place.netns(host);
                ip(&format!("-n {netns} link set tp{workload} netns {inside}"))?;
                self.place
                    .address_workload(workload, &format!("tp{workload}"))?;
            }
            if track {
                ovs.track(&self.place)?;
            }
        }
        Ok(())
    }

    fn overweave(&mut self) -> anyhow::Result<()> {
        let binary = overweave().display().to_string();
        let (data, outer6) = (self.folder.join("controller"), self.wanted.outer6);
        for &(host, number) in self.place.hosts() {
            self.place.address_host(host, number, "u0")?;
        }
        let listen = Place::vtep(1, false).to_string();
        let api = format!("{listen}:9696");
        let folder = data.display().to_string();
        let words = [
            binary.as_str(),
            "controller",
            "--listen",
            &api,
            "--data-dir",
            &folder,
        ];
        let child = self
            .place
            .spawn("h1", &words, &self.folder.join("controller.log"))?;
        self.children.push(child);
        let origin = format!("http://{api}");
        let health = format!("{origin}/healthz");
        until(|| self.place.ask("h1", &["curl", "-sf", &health]).map(drop))
            .context("the controller does not answer")?;
        let cloud = format!("OS_CLIENT_CONFIG_FILE={folder}/clouds.yaml");
        let asked = |words: &[&str]| {
            let all: Vec<&str> = ["env", &cloud, "OS_CLOUD=overweave", &binary]
                .into_iter()
                .chain(words.iter().copied())
                .collect();
            Ok::<_, anyhow::Error>(self.place.ask("h1", &all)?.trim().to_owned())
        };
        let rest = Rest {
            place: &self.place,
            origin,
            token: asked(&["token"])?,
        };
        let group = rest.open_group()?;
        let network = json!({"name": "bench", "mtu": self.place.mtu});
        let network = rest.id("networks", "network", network)?;
        for (version, cidr) in [(4, "10.77.0.0/24"), (6, "fd77::/64")] {
            let subnet = json!({"network_id": network, "ip_version": version, "cidr": cidr, "gateway_ip": null});
            rest.id("subnets", "subnet", subnet)?;
        }
        let mut ports = vec![];
        for workload in [1, 2] {
            let host = self.place.host_of(workload);
            ports.push(port(&rest, (&network, &group), workload, host, None)?);
        }
        if self.wanted.chain {
            rest.chain(&network, VIP, PORT, &ports[1])?;
            self.target = VIP.parse()?;
        }
        let mut switches = vec![];
        for &(host, number) in self.place.hosts() {
            let run = self.folder.join(host).display().to_string();
            let (join, vtep) = (asked(&["host", "add", host])?, Place::vtep(number, outer6));
            let controller = format!("https://{listen}:9697");
            let vtep = vtep.to_string();
            let mut words = vec![binary.as_str(), "vswitch", "--host", host];
            words.extend(["--controller", &controller, "--join", &join]);
            words.extend(["--vtep-ip", &vtep, "--run-dir", &run]);
            words.extend(self.wanted.arguments.iter().map(String::as_str));
            let log = self.folder.join(format!("{host}.log"));
            switches.push(self.place.spawn(host, &words, &log)?);
            let health = ["curl", "-sf", "http://127.0.0.1:9698/healthz"];
            until(|| self.place.ask(host, &health).map(drop))
                .with_context(|| format!("{host} does not answer; log: {}", said(&log)))?;
        }
        for (workload, port) in [1, 2].into_iter().zip(&ports) {
            self.attach(workload, self.place.host_of(workload), port)?;
        }
        self.children.extend(switches);
        self.api = Some(Api {
            origin: rest.origin,
            token: rest.token,
            network,
            group,
        });
        Ok(())
    }

    /// One more workload, on a host, in a namespace of its own; it may send from this block of addresses too. Overweave alone can.
    ///
    /// # Errors
    /// What the API, or the switch, said.
    pub fn join(&mut self, workload: u8, host: &str, block: Option<&str>) -> anyhow::Result<()> {
        self.place.add(&format!("w{workload}"))?;
        let (rest, group) = self.rest().context("only overweave is asked for more")?;
        let network = self.api.as_ref().map_or("", |api| &api.network);
        let port = port(&rest, (network, group), workload, host, block)?;
        self.attach(workload, host, &port)
    }

    fn attach(&self, workload: u8, host: &str, port: &str) -> anyhow::Result<()> {
        let binary = overweave().display().to_string();
        let run = self.folder.join(host).display().to_string();
        let netns = self.place.netns(&format!("w{workload}"));
        let mut words = vec![binary.as_str(), "port", "attach", port];
        words.extend(["--netns", &netns, "--ifname", "eth0", "--static"]);
        words.extend(["--run-dir", &run]);
        self.place.ask(host, &words)?;
        ip(&format!("-n {netns} link set eth0 up"))?;
        Ok(())
    }

    /// What the switch of a host dropped lately, as it tells it.
    ///
    /// # Errors
    /// What the switch said, or that it was no JSON.
    pub fn drops(&self, host: &str) -> anyhow::Result<Value> {
        let binary = overweave().display().to_string();
        let run = self.folder.join(host).display().to_string();
        let words = [&binary, "drops", "--json", "--run-dir", &run];
        Ok(serde_json::from_str(&self.place.ask(host, &words)?)?)
    }
}

/// Makes a workload's port on a host.
fn port(
    rest: &Rest<'_>,
    (network, group): (&str, &str),
    workload: u8,
    host: &str,
    block: Option<&str>,
) -> anyhow::Result<String> {
    let addresses =
        [false, true].map(|v6| json!({"ip_address": Place::address(workload, v6).to_string()}));
    let pairs: Vec<Value> = block
        .iter()
        .map(|block| json!({"ip_address": block}))
        .collect();
    let port = json!({
        "name": format!("w{workload}"),
        "network_id": network, "mac_address": Place::mac(workload), "binding:host_id": host,
        "fixed_ips": addresses, "allowed_address_pairs": pairs, "security_groups": [group],
    });
    rest.id("ports", "port", port)
}

impl Drop for Stand {
    fn drop(&mut self) {
        self.repeaters.clear();
        for child in self.children.iter_mut().rev() {
            // It may have ended by itself.
            child.kill().unwrap_or_default();
            child.wait().map(drop).unwrap_or_default();
        }
        std::fs::remove_dir_all(&self.folder).unwrap_or_default();
    }
}

/// The last words of a log.
fn said(log: &Path) -> String {
    let text = std::fs::read_to_string(log).unwrap_or_default();
    let lines: Vec<&str> = text.lines().rev().take(3).collect();
    lines.into_iter().rev().collect::<Vec<_>>().join(" | ")
}

/// Asks until it succeeds, for at most twenty seconds; the last answer if it never does.
fn until(mut ask: impl FnMut() -> anyhow::Result<()>) -> anyhow::Result<()> {
    let end = Instant::now() + Duration::from_secs(20);
    loop {
        match ask() {
            Ok(()) => return Ok(()),
            Err(error) if Instant::now() > end => return Err(error),
            Err(_) => std::thread::park_timeout(Duration::from_millis(50)),
        }
    }
}

/// One Open vSwitch of one host: a database and a switch, all files in a folder of their own.
#[derive(Debug)]
struct Ovs {
    host: &'static str,
    folder: String,
}

impl Ovs {
    fn new(state: &Path, host: &'static str) -> Self {
        let folder = state.join(format!("ovs-{host}")).display().to_string();
        Self { host, folder }
    }

    fn environment(&self) -> Vec<String> {
        let names = ["OVS_RUNDIR", "OVS_DBDIR", "OVS_LOGDIR", "OVS_SYSCONFDIR"];
        let settings = names.map(|name| format!("{name}={}", self.folder));
        std::iter::once("env".to_owned()).chain(settings).collect()
    }

    fn with<'w>(environment: &'w [String], words: &[&'w str]) -> Vec<&'w str> {
        let settings = environment.iter().map(String::as_str);
        settings.chain(words.iter().copied()).collect()
    }

    fn start(&self, place: &Place, children: &mut Vec<Child>) -> anyhow::Result<()> {
        let folder = &self.folder;
        std::fs::create_dir_all(folder)?;
        let environment = self.environment();
        let database = format!("{folder}/conf.db");
        let schema = "/usr/share/openvswitch/vswitch.ovsschema";
        place
            .ask(self.host, &["ovsdb-tool", "create", &database, schema])
            .context("Open vSwitch is not installed")?;
        let (socket, control) = (
            format!("--remote=punix:{folder}/db.sock"),
            format!("--unixctl={folder}/ovsdb.ctl"),
        );
        let words = ["ovsdb-server", &database, &socket, &control];
        let log = PathBuf::from(format!("{folder}/ovsdb.log"));
        children.push(place.spawn(self.host, &Self::with(&environment, &words), &log)?);
        until(|| self.vsctl(place, "--no-wait init"))?;
        let (server, control) = (
            format!("unix:{folder}/db.sock"),
            format!("--unixctl={folder}/switch.ctl"),
        );
        let words = ["ovs-vswitchd", &server, &control];
        let log = PathBuf::from(format!("{folder}/switch.log"));
        children.push(place.spawn(self.host, &Self::with(&environment, &words), &log)?);
        Ok(())
    }

    fn vsctl(&self, place: &Place, line: &str) -> anyhow::Result<()> {
        let environment = self.environment();
        let database = format!("--db=unix:{}/db.sock", self.folder);
        let mut words = vec!["ovs-vsctl", database.as_str(), "--timeout=20"];
        words.extend(line.split(' '));
        place
            .ask(self.host, &Self::with(&environment, &words))
            .map(drop)
    }

    /// New connections are committed, established ones forwarded: the least that a stateful filter does.
    fn track(&self, place: &Place) -> anyhow::Result<()> {
        let environment = self.environment();
        let flow = |line: &str| {
            let words = ["ovs-ofctl", "add-flow", "br-int", line];
            place
                .ask(self.host, &Self::with(&environment, &words))
                .map(drop)
        };
        let words = ["ovs-ofctl", "del-flows", "br-int"];
        place.ask(self.host, &Self::with(&environment, &words))?;
        for family in ["ip", "ipv6"] {
            flow(&format!(
                "table=0,priority=10,{family},ct_state=-trk,actions=ct(table=1,zone=1)"
            ))?;
            flow(&format!(
                "table=1,priority=10,{family},ct_state=+trk+new,actions=ct(commit,zone=1),NORMAL"
            ))?;
            flow(&format!(
                "table=1,priority=10,{family},ct_state=+trk+est,actions=NORMAL"
            ))?;
        }
        flow("table=0,priority=5,arp,actions=NORMAL")?;
        // Neighbour discovery is not tracked.
        for kind in [135, 136] {
            flow(&format!(
                "table=0,priority=20,icmp6,icmp_type={kind},actions=NORMAL"
            ))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_system_is_said_and_read_the_same() {
        for text in [
            "overweave+v6+outer6+jumbo",
            "overweave+chain+uplink=tap",
            "kernel+local",
            "ovs-ct+v6",
            "repeater",
        ] {
            let wanted: Wanted = text.parse().unwrap();
            assert_eq!(wanted.to_string(), text);
        }
        for text in [
            "",
            "linux",
            "ovs+chain",
            "repeater+local",
            "kernel+x",
            "ovs+uplink=tap",
        ] {
            assert!(text.parse::<Wanted>().is_err(), "{text:?}");
        }
    }
}
