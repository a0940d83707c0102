//! `overweave controller`: who decides for all hosts?

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context;
use clap::Subcommand;
use controller::{config::Config, policy};

use super::backup;
use crate::{daemon, say};

/// The controller: the API, the store and the hosts' sessions in one process
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  overweave controller
  overweave controller --listen 192.0.2.1:9696 --data-dir /srv/overweave
  overweave controller backup /srv/backup/overweave.db")]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct Args {
    #[command(flatten)]
    settings: Settings,
    #[command(subcommand)]
    verb: Option<Verb>,
}

#[derive(Debug, clap::Args)]
struct Settings {
    /// A TOML file; a flag of the same name wins
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Where the API is served [default: 127.0.0.1:9696]
    #[arg(long, value_name = "ADDR:PORT")]
    listen: Option<SocketAddr>,
    /// Where the store is [default: /var/lib/overweave/controller]
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// Where hosts connect [default: the API's address, port 9697]
    #[arg(long, value_name = "ADDR:PORT")]
    hosts_listen: Option<SocketAddr>,
    /// Judge the settings, print what holds as a file would say it, and start nothing
    #[arg(long)]
    check: bool,
    /// Print all policies with their defaults as a policy file that changes nothing, and start nothing
    #[arg(long)]
    print_policy: bool,
}

#[derive(Debug, clap::Args)]
struct StoreArgs {
    /// The file
    file: PathBuf,
    /// Where the store is [default: /var/lib/overweave/controller]
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// A TOML file that says where the store is
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Write the store, its keys, the hosts' CA and the admin's cloud to a file
    ///
    /// A running controller is asked for it, through clouds.yaml in the data directory; of a stopped one the store is read.
    /// The file is made whole or not at all, with mode 0600: keep it secret.
    #[command(after_help = "Example:\n  overweave controller backup /srv/backup/overweave.db")]
    Backup(StoreArgs),
    /// Make a store from a backup, in a data directory that has none
    ///
    /// Hosts keep their certificates and notice that the store is another one. No controller may run on the directory.
    #[command(after_help = "Example:\n  overweave controller restore /srv/backup/overweave.db")]
    Restore(StoreArgs),
}

impl Settings {
    fn load(&self) -> anyhow::Result<Config> {
        let mut config = match &self.config {
            Some(file) => Config::read(file)?,
            None => Config::default(),
        };
        if let Some(listen) = self.listen {
            config.listen = listen;
        }
        if let Some(listen) = self.hosts_listen {
            config.hosts_listen = Some(listen);
        }
        if let Some(dir) = &self.data_dir {
            config.data_dir.clone_from(dir);
        }
        Ok(config)
    }
}

impl StoreArgs {
    fn data_dir(&self) -> anyhow::Result<PathBuf> {
        let settings = Settings {
            config: self.config.clone(),
            listen: None,
            data_dir: self.data_dir.clone(),
            hosts_listen: None,
            check: false,
            print_policy: false,
        };
        Ok(settings.load()?.data_dir)
    }
}

impl Args {
    pub(crate) fn run(&self) -> anyhow::Result<ExitCode> {
        match &self.verb {
            None => {
                if self.settings.print_policy {
                    say::out(&policy::sample())?;
                    return Ok(ExitCode::SUCCESS);
                }
                let config = self.settings.load()?;
                if self.settings.check {
                    policy::Board::open(config.policies.clone())?;
                    say::out(&effective(&config))?;
                    return Ok(ExitCode::SUCCESS);
                }
                daemon::run(|shutdown| controller::run(config, shutdown))
                    .context("run the controller")
            }
            Some(Verb::Backup(args)) => {
                backup::backup(&args.data_dir()?, &args.file)?;
                Ok(ExitCode::SUCCESS)
            }
            Some(Verb::Restore(args)) => {
                backup::restore(&args.file, &args.data_dir()?)?;
                Ok(ExitCode::SUCCESS)
            }
        }
    }
}

fn texts(addrs: &[IpAddr]) -> Vec<String> {
    addrs.iter().map(IpAddr::to_string).collect()
}

/// The settings that hold, in the file's own form.
fn effective(config: &Config) -> String {
    // Debug of a str is TOML's quoting for all that a path holds in practice.
    let quoted = |path: &Path| format!("{:?}", path.display().to_string());
    let mut lines = vec![
        format!("listen = \"{}\"", config.listen),
        format!("hosts_listen = \"{}\"", config.hosts_addr()),
        format!("data_dir = {}", quoted(&config.data_dir)),
        format!("dns_domain = \"{}\"", config.dns_domain),
        format!("dns_resolvers = {:?}", texts(&config.dns_resolvers)),
        format!("max_connections = {}", config.max_connections),
    ];
    lines.extend(
        config
            .underlay_mtu
            .map(|mtu| format!("underlay_mtu = {mtu}")),
    );
    lines.extend(
        config
            .keystone
            .as_ref()
            .map(|url| format!("keystone = {url:?}")),
    );
    lines.extend(
        config
            .keystone_ca
            .as_deref()
            .map(|path| format!("keystone_ca = {}", quoted(path))),
    );
    for (key, path) in [
        ("policy_file", &config.policies.file),
        ("policy_dir", &config.policies.dir),
    ] {
        lines.extend(
            path.as_ref()
                .map(|path| format!("{key} = {}", quoted(path))),
        );
    }
    if let Some(tls) = &config.tls {
        lines.push("[tls]".to_owned());
        lines.push(format!("cert = {}", quoted(&tls.cert)));
        lines.push(format!("key = {}", quoted(&tls.key)));
    }
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_holds_is_a_file_that_says_the_same() {
        let text = "listen = \"192.0.2.1:80\"\nunderlay_mtu = 1600\nkeystone = \"http://k.example/v3\"\nkeystone_ca = \"/c a\"\npolicy_file = \"/p\"\npolicy_dir = \"/p.d\"\n[tls]\ncert = \"/a b\"\nkey = \"/k\"\n";
        let config = Config::parse(text, Path::new("f")).unwrap();
        let again = Config::parse(&effective(&config), Path::new("f")).unwrap();
        assert_eq!(again.hosts_addr(), config.hosts_addr());
        assert_eq!(
            Config {
                hosts_listen: None,
                ..again
            },
            config
        );
    }

    #[test]
    fn the_sample_file_is_a_good_one_and_shows_the_defaults() {
        let sample = Config::parse(
            include_str!("../../../configs/controller.toml"),
            Path::new("f"),
        )
        .unwrap();
        assert_eq!(sample, Config::default());
    }
}
