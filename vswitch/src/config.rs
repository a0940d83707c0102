//! How is a vswitch told what it is?
//!
//! [`Options`] is what a person writes, in a TOML file or as flags (flags win); [`Config`] is what holds. Every error is
//! one line that names the place and, where there is one, the remedy.

use std::{
    collections::BTreeMap,
    fmt,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    num::NonZeroUsize,
    path::{Path, PathBuf},
    str::FromStr,
    thread,
    time::Duration,
};

use hostconfig::zone::{USUAL_ZONE, check_zone};
use serde::Deserialize;

use crate::{
    agent::JoinToken,
    datapath::{Rates, Settings},
    metadata::NovaConfig,
    physical::PhysicalNetworks,
    proxy,
};

/// The port of a controller's hosts listener.
const CONTROLLER_PORT: u16 = 9697;
/// The most workers: each has its pools and tables.
const WORKERS_MAX: usize = 64;
/// Looking on for as long as two wake-ups take halves the latency of what comes and goes; see docs/performance.md.
const BUSY_POLL_US: u64 = 50;
/// A tick of the slowest kernel: past it nothing is gained over sleeping.
const BUSY_POLL_US_MAX: u64 = 10_000;
/// Connections of a worker: a table of 192 bytes each, the least and the most.
const CONNECTIONS: std::ops::RangeInclusive<usize> = 1_024..=16_777_216;
/// Where Nova serves metadata.
const NOVA_PORT: u16 = 8775;
/// A host's name is a DNS name's length at most.
const HOST_MAX: usize = 255;

/// How encapsulated frames leave the host and reach it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum UplinkChoice {
    /// Through a tap beside the underlay's link where the kernel can do that, else through UDP sockets.
    Auto,
    /// Through the tap, or not at all.
    Tap,
    /// Through UDP sockets.
    #[default]
    Udp,
}

/// Why a text is no uplink.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("uplink must be auto, tap or udp: {0:?}")]
pub struct InvalidUplink(String);

impl FromStr for UplinkChoice {
    type Err = InvalidUplink;
    fn from_str(text: &str) -> Result<Self, InvalidUplink> {
        match text {
            "auto" => Ok(Self::Auto),
            "tap" => Ok(Self::Tap),
            "udp" => Ok(Self::Udp),
            other => Err(InvalidUplink(other.to_owned())),
        }
    }
}

impl fmt::Display for UplinkChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Auto => "auto",
            Self::Tap => "tap",
            Self::Udp => "udp",
        })
    }
}

/// What a file or the flags say; what they leave out is taken from the other, or by default.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Options {
    /// This host's name, as in `overweave host add`. Default: the system's host name.
    pub host: Option<String>,
    /// The controller: `https://ADDR[:PORT]`. Default port: 9697.
    pub controller: Option<String>,
    /// A join token; needed once.
    pub join: Option<String>,
    /// The underlay address of this host. Default: the one that the controller is reached from.
    pub vtep_ip: Option<IpAddr>,
    /// How encapsulated frames cross: `auto`, `tap` or `udp`. Default: `udp`.
    pub uplink: Option<UplinkChoice>,
    /// Where the local socket is. Default: /run/overweave.
    pub run_dir: Option<PathBuf>,
    /// Where the host's state is kept. Default: /var/lib/overweave/vswitch, or RUN-DIR/state if only a run dir is given.
    pub state_dir: Option<PathBuf>,
    /// Worker threads. Default: one a CPU, four at most.
    pub workers: Option<usize>,
    /// For how many microseconds a worker looks on for more packets before it sleeps, while they come that soon. Default: 50.
    pub busy_poll_us: Option<u64>,
    /// Where /metrics and /healthz are served. Default: 127.0.0.1:9698.
    pub metrics_listen: Option<SocketAddr>,
    /// Connections that a worker tracks. Default: 262,144.
    pub conntrack_entries: Option<usize>,
    /// Of those, how many a project may have. Default: 131,072. In a file only, as the rates below.
    pub project_connections: Option<u32>,
    /// Packets that a port may send a second, over all workers; 0: any number. Default: 0.
    pub port_packets_per_second: Option<u32>,
    /// Connections that a port may begin a second; 0: any number. Default: 50,000.
    pub port_connections_per_second: Option<u32>,
    /// Packets of unknown flows that a port may send, and as many that it may be sent, a second; 0: any number. Default: 50,000.
    pub port_misses_per_second: Option<u32>,
    /// Packets of a port that may be dropped a second before its device is read less often; 0: any number. Default: 20,000.
    pub port_drops_per_second: Option<u32>,
    /// The availability zone that the host is in. Default: nova.
    pub availability_zone: Option<String>,
    /// HAProxy, which balances HTTP here; an empty path: none. Default: where distributions put it, if it is there. In a file only.
    pub haproxy: Option<PathBuf>,
    /// The host's interface on each physical network, by the network's name.
    pub physical_networks: Option<BTreeMap<String, String>>,
    /// Nova's metadata API, which answers for ports that are Nova's. Default: the switch answers for all. In a file only.
    pub nova_metadata: Option<NovaOptions>,
}

/// Where Nova's metadata API is, as a file says it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NovaOptions {
    /// Its host name or address. Needed.
    pub host: Option<String>,
    /// Its port. Default: 8775.
    pub port: Option<u16>,
    /// `http` or `https`. Default: `http`.
    pub protocol: Option<String>,
    /// The file that holds the secret which Nova knows as `metadata_proxy_shared_secret`; only its owner may read it. Needed.
    pub shared_secret_file: Option<PathBuf>,
    /// The certificates that may sign Nova's, in PEM; needed for `https`.
    pub ca_file: Option<PathBuf>,
}

/// Why a config can't be used: one line, with the place.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file can't be read.
    #[error("{file}: can't be read: {source}")]
    Read {
        /// Which one.
        file: String,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The file says something that is not understood.
    #[error("{file}:{line}: {key}{message}")]
    Parse {
        /// Which one.
        file: String,
        /// Where in it.
        line: usize,
        /// Which key, with a colon; empty if there is none.
        key: String,
        /// What is wrong.
        message: String,
    },
    /// A value is understood, but not one that can be used.
    #[error("{place}: {message}")]
    Value {
        /// The flag or the key, with its file.
        place: String,
        /// What is wrong, and what to do.
        message: String,
    },
}

/// Where a controller is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ControllerUrl {
    host: String,
    port: u16,
}

/// Why a text is no controller's address.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not an address of a controller (https://ADDR:9697): {0}")]
pub struct InvalidUrl(String);

impl ControllerUrl {
    /// A name or an address, without brackets.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The port.
    pub fn port(&self) -> u16 {
        self.port
    }
}

impl fmt::Display for ControllerUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "https://[{}]:{}", self.host, self.port)
        } else {
            write!(f, "https://{}:{}", self.host, self.port)
        }
    }
}

impl FromStr for ControllerUrl {
    type Err = InvalidUrl;
    fn from_str(text: &str) -> Result<Self, InvalidUrl> {
        let invalid = || InvalidUrl(text.to_owned());
        let rest = text.strip_prefix("https://").ok_or_else(invalid)?;
        let rest = rest.strip_suffix('/').unwrap_or(rest);
        let (host, port) = if let Some(v6) = rest.strip_prefix('[') {
            let (host, after) = v6.split_once(']').ok_or_else(invalid)?;
            host.parse::<std::net::Ipv6Addr>().or(Err(invalid()))?;
            match after.strip_prefix(':') {
                Some(port) => (host, Some(port)),
                None if after.is_empty() => (host, None),
                None => return Err(invalid()),
            }
        } else {
            match rest.split_once(':') {
                Some((host, port)) => (host, Some(port)),
                None => (rest, None),
            }
        };
        let port = match port {
            Some(port) => port.parse().or(Err(invalid()))?,
            None => CONTROLLER_PORT,
        };
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | ':' | '_');
        if host.is_empty() || port == 0 || !host.chars().all(plain) {
            return Err(invalid());
        }
        Ok(Self {
            host: host.to_owned(),
            port,
        })
    }
}

/// What a vswitch is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// This host's name.
    pub host: String,
    /// Its controller.
    pub controller: ControllerUrl,
    /// A join token.
    pub join: Option<JoinToken>,
    /// The underlay address; `None`: the one that the controller is reached from.
    pub vtep_ip: Option<IpAddr>,
    /// How encapsulated frames cross.
    pub uplink: UplinkChoice,
    /// Where the local socket is.
    pub run_dir: PathBuf,
    /// Where state is kept.
    pub state_dir: PathBuf,
    /// Worker threads.
    pub workers: NonZeroUsize,
    /// For how long a worker looks on for more packets before it sleeps, while they come that soon.
    pub busy_poll: Duration,
    /// Where /metrics and /healthz are served.
    pub metrics_listen: SocketAddr,
    /// Connections that a worker tracks.
    pub conntrack_entries: usize,
    /// Of those, how many a project may have.
    pub project_connections: u32,
    /// How much of the workers a port may take.
    pub rates: Rates,
    /// The availability zone that the host is in.
    pub availability_zone: String,
    /// HAProxy; `None`: this host balances no HTTP.
    pub haproxy: Option<PathBuf>,
    /// The host's interfaces on physical networks.
    pub physical_networks: PhysicalNetworks,
    /// Nova's metadata API.
    pub nova_metadata: Option<NovaConfig>,
}

impl Config {
    /// From a file, if one is given, and flags, which win.
    ///
    /// # Errors
    /// When the file can't be read or understood, or a value can't be used.
    pub fn load(file: Option<&Path>, flags: Options) -> Result<Self, ConfigError> {
        let Some(path) = file else {
            return Self::from_options(flags, Options::default(), "");
        };
        let name = path.display().to_string();
        let text = std::fs::read_to_string(path).map_err(|source| ConfigError::Read {
            file: name.clone(),
            source,
        })?;
        let written = parse(&name, &text)?;
        Self::from_options(flags, written, &name)
    }

    fn from_options(flags: Options, file: Options, name: &str) -> Result<Self, ConfigError> {
        let place = |flag: bool, key: &str| {
            if flag || name.is_empty() {
                format!("--{}", key.replace('_', "-"))
            } else {
                format!("{name}: {key}")
            }
        };
        let refuse = |flag: bool, key: &str, message: &dyn fmt::Display| ConfigError::Value {
            place: place(flag, key),
            message: message.to_string(),
        };

        let (project_connections, rates) = shares(&flags, &file);
        let given = flags.host.is_some();
        let host = flags.host.or(file.host);
        let host = named(host).map_err(|(own, why)| refuse(given || own, "host", &why))?;

        let given = flags.controller.is_some();
        let controller = flags.controller.or(file.controller).ok_or_else(|| {
            refuse(
                true,
                "controller",
                &"needed: the controller's address, https://ADDR:9697",
            )
        })?;
        let controller = controller
            .parse()
            .map_err(|e: InvalidUrl| refuse(given, "controller", &e))?;

        let given = flags.join.is_some();
        let join = flags
            .join
            .or(file.join)
            .map(|token| token.parse())
            .transpose();
        let join = join.map_err(|e: crate::agent::InvalidToken| refuse(given, "join", &e))?;

        let given = flags.vtep_ip.is_some();
        let vtep_ip = flags.vtep_ip.or(file.vtep_ip);
        if let Some(ip) = vtep_ip.filter(|ip| ip.is_unspecified() || ip.is_multicast()) {
            return Err(refuse(
                given,
                "vtep_ip",
                &format!("not an address of one host: {ip}"),
            ));
        }

        let (run_dir, state_dir) = directories(
            flags.run_dir.or(file.run_dir),
            flags.state_dir.or(file.state_dir),
        );

        let given = flags.workers.is_some();
        let workers = worker_threads(flags.workers.or(file.workers));
        let workers = workers.map_err(|e| refuse(given, "workers", &e))?;

        let given = flags.busy_poll_us.is_some();
        let poll = flags.busy_poll_us.or(file.busy_poll_us);
        let busy_poll = busy_poll(poll).map_err(|e| refuse(given, "busy_poll_us", &e))?;

        let given = flags.conntrack_entries.is_some();
        let entries = flags.conntrack_entries.or(file.conntrack_entries);
        let entries = connections(entries).map_err(|e| refuse(given, "conntrack_entries", &e))?;

        let given = flags.availability_zone.is_some();
        let zone = flags.availability_zone.or(file.availability_zone);
        let availability_zone = zone.unwrap_or_else(|| USUAL_ZONE.to_owned());
        check_zone(&availability_zone).map_err(|e| refuse(given, "availability_zone", &e))?;

        let given = flags.haproxy.is_some();
        let haproxy = haproxy(flags.haproxy.or(file.haproxy));
        let haproxy = haproxy.map_err(|e| refuse(given, "haproxy", &e))?;

        let given = flags.physical_networks.is_some();
        let key = PhysicalNetworks::key(given);
        let written = flags.physical_networks.or(file.physical_networks);
        let physical = PhysicalNetworks::new(written.unwrap_or_default());
        let physical_networks = physical.map_err(|e| refuse(given, key, &e))?;

        let given = flags.nova_metadata.is_some();
        let nova = flags.nova_metadata.or(file.nova_metadata).map(nova);
        let nova_metadata = nova.transpose();
        let nova_metadata = nova_metadata.map_err(|e| refuse(given, "nova_metadata", &e))?;

        Ok(Self {
            host,
            controller,
            join,
            vtep_ip,
            uplink: flags.uplink.or(file.uplink).unwrap_or_default(),
            run_dir,
            state_dir,
            workers,
            busy_poll,
            // Loopback: metrics name the tenants' ports.
            metrics_listen: flags
                .metrics_listen
                .or(file.metrics_listen)
                .unwrap_or(SocketAddr::from((Ipv4Addr::LOCALHOST, 9698))),
            conntrack_entries: entries,
            project_connections,
            rates,
            availability_zone,
            haproxy,
            physical_networks,
            nova_metadata,
        })
    }

    /// What holds, as a file would say it; the token is left out.
    fn effective(&self) -> Vec<(&'static str, String)> {
        let text = |value: &dyn fmt::Display| format!("{:?}", value.to_string());
        let mut lines = vec![
            ("host", text(&self.host)),
            ("controller", text(&self.controller)),
            ("uplink", text(&self.uplink)),
            ("run_dir", text(&self.run_dir.display())),
            ("state_dir", text(&self.state_dir.display())),
            ("workers", self.workers.to_string()),
            ("busy_poll_us", self.busy_poll.as_micros().to_string()),
            ("metrics_listen", text(&self.metrics_listen)),
            ("conntrack_entries", self.conntrack_entries.to_string()),
            ("project_connections", self.project_connections.to_string()),
            ("port_packets_per_second", self.rates.packets.to_string()),
            (
                "port_connections_per_second",
                self.rates.connections.to_string(),
            ),
            ("port_misses_per_second", self.rates.misses.to_string()),
            ("port_drops_per_second", self.rates.drops.to_string()),
            ("availability_zone", text(&self.availability_zone)),
            (
                "haproxy",
                text(&self.haproxy.as_deref().unwrap_or(Path::new("")).display()),
            ),
        ];
        if let Some(vtep) = &self.vtep_ip {
            lines.push(("vtep_ip", text(vtep)));
        }
        lines
    }

    /// The local socket.
    pub fn socket(&self) -> PathBuf {
        self.run_dir.join("vswitch.sock")
    }
}

impl fmt::Display for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut lines = self.effective().into_iter();
        lines.try_for_each(|(key, value)| writeln!(f, "{key} = {value}"))?;
        // A table of its own, so behind all else.
        write!(f, "{}", self.physical_networks)?;
        let Some(nova) = &self.nova_metadata else {
            return Ok(());
        };
        let text = |value: &dyn fmt::Display| format!("{:?}", value.to_string());
        writeln!(f, "[nova_metadata]\nhost = {}", text(&nova.host))?;
        let protocol = if nova.tls { "https" } else { "http" };
        writeln!(f, "port = {}\nprotocol = \"{protocol}\"", nova.port)?;
        let secret = text(&nova.shared_secret_file.display());
        writeln!(f, "shared_secret_file = {secret}")?;
        match &nova.ca_file {
            Some(ca) => writeln!(f, "ca_file = {}", text(&ca.display())),
            None => Ok(()),
        }
    }
}

/// A host's name, the system's where none is given; or why it can't be one, and whether it was the system's to say.
fn named(given: Option<String>) -> Result<String, (bool, String)> {
    let missing = || (true, "the system has no host name; give one".to_owned());
    let host = given.or_else(host_name).ok_or_else(missing)?;
    let printable = host.chars().all(|c| c.is_ascii_graphic() && c != '/');
    if host.is_empty() || host.len() > HOST_MAX || !printable {
        let why = format!(
            "a host's name has 1 to {HOST_MAX} printable ASCII characters and no slash: {host:?}"
        );
        return Err((false, why));
    }
    Ok(host)
}

/// Where Nova's metadata API is, or why that can't be.
fn nova(written: NovaOptions) -> Result<NovaConfig, String> {
    let host = written.host.filter(|host| !host.is_empty());
    let host = host.ok_or("host: needed, that of Nova's metadata API")?;
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | ':' | '_');
    if !host.chars().all(plain) {
        return Err(format!("host: not a host name or an address: {host:?}"));
    }
    let port = written.port.unwrap_or(NOVA_PORT);
    if port == 0 {
        return Err("port: out of range (1..=65535): 0".to_owned());
    }
    let tls = match written.protocol.as_deref() {
        None | Some("http") => false,
        Some("https") => true,
        Some(other) => return Err(format!("protocol: must be http or https: {other:?}")),
    };
    if tls && written.ca_file.is_none() {
        return Err("ca_file: needed for https".to_owned());
    }
    let secret = written.shared_secret_file;
    Ok(NovaConfig {
        host,
        port,
        tls,
        shared_secret_file: secret.ok_or("shared_secret_file: needed, a file with mode 0600")?,
        ca_file: written.ca_file,
    })
}

/// What a project may have, and a port may take.
fn shares(flags: &Options, file: &Options) -> (u32, Rates) {
    let usual = Settings::default();
    let told =
        |key: fn(&Options) -> Option<u32>, usual| key(flags).or_else(|| key(file)).unwrap_or(usual);
    let rates = Rates {
        packets: told(|o| o.port_packets_per_second, usual.rates.packets),
        connections: told(|o| o.port_connections_per_second, usual.rates.connections),
        misses: told(|o| o.port_misses_per_second, usual.rates.misses),
        drops: told(|o| o.port_drops_per_second, usual.rates.drops),
    };
    let project = told(|o| o.project_connections, usual.project_connections);
    (project, rates)
}

/// The program that balances HTTP: the named one, none if that is empty, or the one that is there.
fn haproxy(named: Option<PathBuf>) -> Result<Option<PathBuf>, String> {
    match named {
        Some(none) if none.as_os_str().is_empty() => Ok(None),
        Some(named) if named.is_file() => Ok(Some(named)),
        Some(named) => Err(format!("no such program: {}", named.display())),
        None => Ok(proxy::program()),
    }
}

fn worker_threads(given: Option<usize>) -> Result<NonZeroUsize, String> {
    let workers = given.unwrap_or_else(default_workers);
    let fits = NonZeroUsize::new(workers).filter(|n| n.get() <= WORKERS_MAX);
    fits.ok_or_else(|| format!("out of range (1..={WORKERS_MAX}): {workers}"))
}

fn busy_poll(micros: Option<u64>) -> Result<Duration, String> {
    let micros = micros.unwrap_or(BUSY_POLL_US);
    if micros > BUSY_POLL_US_MAX {
        return Err(format!("out of range (0..={BUSY_POLL_US_MAX}): {micros}"));
    }
    Ok(Duration::from_micros(micros))
}

fn connections(entries: Option<usize>) -> Result<usize, String> {
    // 50 MB of address space a worker, of which only what is used is real; the issue's hosts hold some 100 ports.
    let entries = entries.unwrap_or(262_144);
    if !CONNECTIONS.contains(&entries) {
        let (min, max) = (CONNECTIONS.start(), CONNECTIONS.end());
        return Err(format!("out of range ({min}..={max}): {entries}"));
    }
    Ok(entries)
}

/// Two vswitches on one machine differ by their run dirs; whoever gives only that means all of it.
fn directories(run: Option<PathBuf>, state: Option<PathBuf>) -> (PathBuf, PathBuf) {
    match (run, state) {
        (Some(run), Some(state)) => (run, state),
        (Some(run), None) => {
            let state = run.join("state");
            (run, state)
        }
        (None, state) => (
            PathBuf::from("/run/overweave"),
            state.unwrap_or_else(|| PathBuf::from("/var/lib/overweave/vswitch")),
        ),
    }
}

/// Beyond four, taps with a queue a worker gain little; the operator of a big host says so.
fn default_workers() -> usize {
    thread::available_parallelism()
        .map_or(1, NonZeroUsize::get)
        .min(4)
}

fn host_name() -> Option<String> {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").ok()?;
    let name = name.trim();
    (!name.is_empty() && name != "(none)").then(|| name.to_owned())
}

/// Reads a file's text; errors say line and key.
fn parse(file: &str, text: &str) -> Result<Options, ConfigError> {
    toml::from_str(text).map_err(|error| {
        let at = error.span().map_or(0, |span| span.start).min(text.len());
        let before = text.get(..at).unwrap_or_default();
        let line = before.matches('\n').count() + 1;
        let key = text
            .lines()
            .nth(line - 1)
            .and_then(|l| l.split_once('='))
            .map(|(key, _)| format!("{}: ", key.trim()))
            .unwrap_or_default();
        ConfigError::Parse {
            file: file.to_owned(),
            line,
            key,
            message: error.message().replace('\n', " "),
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flags() -> Options {
        Options {
            host: Some("h1".to_owned()),
            controller: Some("https://192.0.2.1:9697".to_owned()),
            ..Options::default()
        }
    }

    fn load(text: &str, flags: Options) -> Result<Config, ConfigError> {
        Config::from_options(flags, parse("vswitch.toml", text)?, "vswitch.toml")
    }

    #[test]
    fn flags_alone_are_enough_and_win() {
        let config = Config::load(None, flags()).unwrap();
        assert_eq!(config.controller.to_string(), "https://192.0.2.1:9697");
        assert_eq!(config.run_dir, Path::new("/run/overweave"));
        assert_eq!(config.state_dir, Path::new("/var/lib/overweave/vswitch"));
        assert_eq!(config.metrics_listen.to_string(), "127.0.0.1:9698");
        let config = load("host = \"other\"\nworkers = 3\n", flags()).unwrap();
        assert_eq!((config.host.as_str(), config.workers.get()), ("h1", 3));
    }

    #[test]
    fn a_run_dir_alone_takes_the_state_with_it() {
        let of = |run: Option<&str>, state: Option<&str>| {
            let config = Config::load(
                None,
                Options {
                    run_dir: run.map(Into::into),
                    state_dir: state.map(Into::into),
                    ..flags()
                },
            );
            let config = config.unwrap();
            (config.socket(), config.state_dir)
        };
        assert_eq!(
            of(Some("/r"), None),
            ("/r/vswitch.sock".into(), "/r/state".into())
        );
        assert_eq!(
            of(Some("/r"), Some("/s")),
            ("/r/vswitch.sock".into(), "/s".into())
        );
        assert_eq!(of(None, Some("/s")).1, Path::new("/s"));
    }

    #[test]
    fn errors_are_one_line_with_file_and_key() {
        for (text, said) in [
            (
                "workers = \"two\"\n",
                "vswitch.toml:1: workers: invalid type",
            ),
            (
                "host = \"a\"\nworker = 2\n",
                "vswitch.toml:2: worker: unknown field `worker`",
            ),
            (
                "vtep_ip = \"h1\"\n",
                "vswitch.toml:1: vtep_ip: invalid IP address",
            ),
            (
                "workers = 0\n",
                "vswitch.toml: workers: out of range (1..=64): 0",
            ),
            (
                "vtep_ip = \"224.0.0.1\"\n",
                "vswitch.toml: vtep_ip: not an address of one host",
            ),
            (
                "busy_poll_us = 20000\n",
                "vswitch.toml: busy_poll_us: out of range (0..=10000): 20000",
            ),
            (
                "conntrack_entries = 3\n",
                "vswitch.toml: conntrack_entries: out of range",
            ),
            ("join = \"x\"\n", "vswitch.toml: join: not a join token"),
            (
                "availability_zone = \"two words\"\n",
                "vswitch.toml: availability_zone: 'two words' is no name",
            ),
            (
                "[physical_networks]\nphysnet1 = \"no/name\"\n",
                "vswitch.toml: physical_networks: physnet1: interface name",
            ),
            ("workers = \n", "vswitch.toml:1: workers: "),
            (
                "[nova_metadata]\nhost = \"nova\"\n",
                "vswitch.toml: nova_metadata: shared_secret_file: needed",
            ),
            (
                "[nova_metadata]\nhost = \"nova\"\nprotocol = \"https\"\n",
                "vswitch.toml: nova_metadata: ca_file: needed",
            ),
            (
                "[nova_metadata]\nhost = \"a/b\"\n",
                "vswitch.toml: nova_metadata: host: not a host name",
            ),
        ] {
            let error = load(text, flags()).unwrap_err().to_string();
            assert!(error.starts_with(said), "{error}");
            assert_eq!(error.lines().count(), 1, "{error}");
        }
        let error = load(
            "",
            Options {
                controller: Some("http://x".into()),
                ..flags()
            },
        );
        assert!(
            error
                .unwrap_err()
                .to_string()
                .starts_with("--controller: not an address")
        );
        let error = Config::load(
            None,
            Options {
                controller: None,
                ..flags()
            },
        )
        .unwrap_err();
        assert!(
            error.to_string().starts_with("--controller: needed"),
            "{error}"
        );
        let error = Config::load(Some(Path::new("/nowhere.toml")), flags()).unwrap_err();
        assert!(
            error
                .to_string()
                .starts_with("/nowhere.toml: can't be read"),
            "{error}"
        );
    }

    #[test]
    fn the_example_is_the_defaults() {
        let text = include_str!("../../configs/vswitch.toml");
        let named = Options {
            host: flags().host,
            ..Options::default()
        };
        assert_eq!(
            load(text, named).unwrap(),
            Config::load(None, flags()).unwrap()
        );
    }

    #[test]
    fn the_example_shows_every_key_in_a_form_that_is_good() {
        let text = include_str!("../../configs/vswitch.toml");
        // A line that is commented out has no space behind the mark, prose has.
        let all: String = text
            .lines()
            .map(|line| match line.strip_prefix('#') {
                Some(rest) if !rest.is_empty() && !rest.starts_with(' ') => format!("{rest}\n"),
                _ => format!("{line}\n"),
            })
            .collect();
        toml::from_str::<Options>(&all).unwrap();
        let error = toml::from_str::<Options>("nonsense = 1").unwrap_err();
        let keys = error.message().split_once("expected one of ").unwrap().1;
        let keys: Vec<&str> = keys.split('`').skip(1).step_by(2).collect();
        assert!(keys.contains(&"join"), "{keys:?}");
        for key in keys {
            let written = [format!("\n{key} = "), format!("\n[{key}]\n")];
            assert!(written.iter().any(|w| all.contains(w)), "{key}");
        }
    }

    #[test]
    fn what_is_printed_is_a_file_that_says_the_same() {
        let given = Options {
            vtep_ip: Some("192.0.2.7".parse().unwrap()),
            availability_zone: Some("eu-1".to_owned()),
            physical_networks: Some([("physnet1".to_owned(), "eth1".to_owned())].into()),
            nova_metadata: Some(NovaOptions {
                host: Some("nova.example".to_owned()),
                port: None,
                protocol: Some("https".to_owned()),
                shared_secret_file: Some("/etc/overweave/metadata-secret".into()),
                ca_file: Some("/etc/overweave/nova-ca.pem".into()),
            }),
            ..flags()
        };
        let config = Config::load(None, given).unwrap();
        assert_eq!(
            load(&config.to_string(), Options::default()).unwrap(),
            config
        );
    }

    #[test]
    fn a_controller_is_an_https_address() {
        for (text, shown) in [
            ("https://192.0.2.1", "https://192.0.2.1:9697"),
            (
                "https://controller.example:1234/",
                "https://controller.example:1234",
            ),
            ("https://[2001:db8::1]:9697", "https://[2001:db8::1]:9697"),
            ("https://[::1]", "https://[::1]:9697"),
        ] {
            assert_eq!(text.parse::<ControllerUrl>().unwrap().to_string(), shown);
        }
        for bad in [
            "",
            "192.0.2.1",
            "http://192.0.2.1",
            "https://",
            "https://a:0",
            "https://a:b",
            "https://a:70000",
            "https://[::1",
            "https://[x]:1",
            "https://a/b",
            "https://a b",
            "https://::1",
        ] {
            assert!(bad.parse::<ControllerUrl>().is_err(), "{bad}");
        }
    }
}
