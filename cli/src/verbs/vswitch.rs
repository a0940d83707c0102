//! `overweave vswitch`: who forwards on this host?

use std::collections::BTreeMap;
use std::io::{IsTerminal, Read};
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, bail};
use vswitch::{Config, Options, UplinkChoice};

use crate::daemon;

/// The longest join token that is read.
const TOKEN_MAX: u64 = 4096;

/// The switch of this host, and its agent
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  overweave vswitch --host h1 --controller https://192.0.2.1:9697 --join \"$(overweave host add h1)\"
  overweave host add h1 | ssh h1 overweave vswitch --controller https://192.0.2.1:9697 --join -
  overweave vswitch --config /etc/overweave/vswitch.toml --check")]
pub(crate) struct Args {
    /// A TOML file; a flag of the same name wins
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// This host's name, as in `overweave host add` [default: the system's host name]
    #[arg(long, value_name = "NAME")]
    host: Option<String>,
    /// The controller [default port: 9697]
    #[arg(long, value_name = "https://ADDR:9697")]
    controller: Option<String>,
    /// A join token, needed once; `-` reads it from standard input
    #[arg(long, value_name = "TOKEN")]
    join: Option<String>,
    /// The underlay address of this host [default: the one that the controller is reached from]
    #[arg(long, value_name = "IP")]
    vtep_ip: Option<IpAddr>,
    /// How encapsulated frames cross: through a tap beside the underlay's link, or UDP sockets [default: udp]
    #[arg(long, value_name = "auto|tap|udp")]
    uplink: Option<UplinkChoice>,
    /// Where the local socket is [default: /run/overweave]
    #[arg(long, value_name = "DIR")]
    run_dir: Option<PathBuf>,
    /// Where the host's state is kept [default: /var/lib/overweave/vswitch, or RUN-DIR/state]
    #[arg(long, value_name = "DIR")]
    state_dir: Option<PathBuf>,
    /// Worker threads [default: one a CPU, four at most]
    #[arg(long, value_name = "N")]
    workers: Option<usize>,
    /// For how many microseconds a worker looks on for more packets before it sleeps, while they come that soon; 0: never [default: 50]
    #[arg(long, value_name = "US")]
    busy_poll_us: Option<u64>,
    /// Where /metrics and /healthz are served [default: 127.0.0.1:9698]
    #[arg(long, value_name = "ADDR:PORT")]
    metrics_listen: Option<SocketAddr>,
    /// Connections that a worker tracks [default: 262144]
    #[arg(long, value_name = "N")]
    conntrack_entries: Option<usize>,
    /// The availability zone that this host is in [default: nova]
    #[arg(long, value_name = "ZONE")]
    availability_zone: Option<String>,
    /// This host's interface on a physical network; once for each
    #[arg(long, value_name = "NETWORK=INTERFACE", value_parser = physical_network)]
    physical_network: Vec<(String, String)>,
    /// Check the configuration, print it, and end
    #[arg(long)]
    check: bool,
}

impl Args {
    pub(crate) fn run(&self) -> anyhow::Result<ExitCode> {
        let config = Config::load(self.config.as_deref(), self.options()?)?;
        if self.check {
            crate::say::out(&config.to_string())?;
            return Ok(ExitCode::SUCCESS);
        }
        daemon::run(|shutdown| vswitch::run(config, shutdown)).context("run the vswitch")
    }

    fn physical_networks(&self) -> anyhow::Result<Option<BTreeMap<String, String>>> {
        let mut networks = BTreeMap::new();
        for (network, interface) in &self.physical_network {
            if networks
                .insert(network.clone(), interface.clone())
                .is_some()
            {
                bail!("--physical-network: given twice: {network}");
            }
        }
        Ok((!networks.is_empty()).then_some(networks))
    }

    fn options(&self) -> anyhow::Result<Options> {
        let join = match self.join.as_deref() {
            Some("-") => Some(token_from(std::io::stdin())?),
            Some(token) => Some(token.to_owned()),
            None => None,
        };
        Ok(Options {
            host: self.host.clone(),
            controller: self.controller.clone(),
            join,
            vtep_ip: self.vtep_ip,
            uplink: self.uplink,
            run_dir: self.run_dir.clone(),
            state_dir: self.state_dir.clone(),
            workers: self.workers,
            busy_poll_us: self.busy_poll_us,
            metrics_listen: self.metrics_listen,
            conntrack_entries: self.conntrack_entries,
            availability_zone: self.availability_zone.clone(),
            physical_networks: self.physical_networks()?,
            ..Options::default()
        })
    }
}

fn physical_network(text: &str) -> Result<(String, String), String> {
    let (network, interface) = text
        .split_once('=')
        .ok_or_else(|| "not NETWORK=INTERFACE, such as physnet1=eth1".to_owned())?;
    Ok((network.to_owned(), interface.to_owned()))
}

fn token_from(stdin: std::io::Stdin) -> anyhow::Result<String> {
    if stdin.is_terminal() {
        bail!("--join - reads the token from standard input; pipe it in");
    }
    let mut token = String::new();
    stdin
        .take(TOKEN_MAX)
        .read_to_string(&mut token)
        .context("read the join token from standard input")?;
    Ok(token)
}
