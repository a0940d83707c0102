//! `overweave port`: which workload is behind a port?

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, bail};
use clap::Subcommand;
use serde_json::json;
use uuid::Uuid;

use crate::local::{self, LocalArgs};
use crate::say::Progress;

/// Attach ports to network namespaces of this host
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Example:\n  overweave port attach 3c2a9f0e-5d0c-4f6e-9a43-6f2f5c1a7e11 --netns web-1"
)]
pub(crate) struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Make the port's tap inside a network namespace and wait until the port is ACTIVE
    #[command(
        after_help = "Example:\n  overweave port attach 3c2a9f0e-5d0c-4f6e-9a43-6f2f5c1a7e11 --netns web-1 --ifname eth0 --static"
    )]
    Attach {
        /// The port's id in the API
        port: Uuid,
        /// The namespace, by its name or its path
        #[arg(long, value_name = "NS")]
        netns: String,
        /// The interface's name in there
        #[arg(long, default_value = "eth0", value_name = "NAME", value_parser = ifname)]
        ifname: String,
        /// Set addresses and routes at once instead of leaving them to DHCP and RA
        #[arg(long = "static")]
        fixed: bool,
        #[command(flatten)]
        local: LocalArgs,
    },
    /// Remove the port's tap and forget the attachment
    #[command(
        after_help = "Example:\n  overweave port detach 3c2a9f0e-5d0c-4f6e-9a43-6f2f5c1a7e11"
    )]
    Detach {
        /// The port's id in the API
        port: Uuid,
        #[command(flatten)]
        local: LocalArgs,
    },
}

fn ifname(name: &str) -> Result<String, String> {
    let plain = name
        .chars()
        .all(|c| c.is_ascii_graphic() && c != '/' && c != ':');
    if name.is_empty() || name.len() > 15 || !plain || name == "." || name == ".." {
        return Err(
            "an interface name has 1 to 15 printable characters without `/` and `:`".to_owned(),
        );
    }
    Ok(name.to_owned())
}

impl Args {
    pub(crate) fn run(&self) -> anyhow::Result<ExitCode> {
        match &self.verb {
            Verb::Attach {
                port,
                netns,
                ifname,
                fixed,
                local,
            } => {
                let path = namespace(netns)?;
                let progress = Progress::new();
                progress.step(format!("waiting for port {port} to be ACTIVE"));
                attach(&local.run_dir, &port.to_string(), &path, ifname, *fixed)?;
            }
            Verb::Detach { port, local } => {
                local::ask(&local.run_dir, "detach", &json!({"port": port}))?;
            }
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// Attaches a port. The vswitch opens the namespace by its absolute path.
///
/// # Errors
/// When the vswitch refuses, or the port is not ACTIVE within its 10 s.
pub(crate) fn attach(
    run_dir: &Path,
    port: &str,
    netns: &Path,
    ifname: &str,
    fixed: bool,
) -> anyhow::Result<()> {
    let args = json!({"port": port, "netns": netns, "ifname": ifname, "static": fixed});
    local::ask(run_dir, "attach", &args).map(drop)
}

/// The path of a namespace given by name or path.
fn namespace(given: &str) -> anyhow::Result<PathBuf> {
    let path = if given.contains('/') {
        std::path::absolute(given).context("find the working directory")?
    } else {
        Path::new("/run/netns").join(given)
    };
    if !path.exists() {
        bail!(
            "no network namespace at {}; make one with `ip netns add {given}`",
            path.display()
        );
    }
    Ok(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_namespace_is_a_name_or_a_path() {
        assert_eq!(
            namespace("/proc/self/ns/net").unwrap(),
            Path::new("/proc/self/ns/net")
        );
        let message = namespace("no-such-namespace").unwrap_err().to_string();
        assert!(
            message.contains("/run/netns/no-such-namespace") && message.contains("ip netns add"),
            "{message}"
        );
    }

    #[test]
    fn interface_names_are_the_kernels() {
        assert!(ifname("eth0").is_ok());
        for bad in ["", "a/b", "a b", "0123456789abcdef", "..", "a:b"] {
            assert!(ifname(bad).is_err(), "{bad}");
        }
    }
}
