//! `overweave host`: which machines belong to the fabric?

use std::net::IpAddr;
use std::process::ExitCode;

use anyhow::Context;
use clap::Subcommand;
use serde_json::{Value, json};

use crate::api::{Api, text};
use crate::clouds::{self, CloudArgs};
use crate::say;

/// Hosts of the fabric
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  overweave host add h1")]
pub(crate) struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Add a host and print its join token, alone, once; with --vtep a foreign VTEP that has no agent
    #[command(
        after_help = "Examples:\n  overweave vswitch --host h1 --controller https://192.0.2.1:9697 --join \"$(overweave host add h1)\"\n  overweave host add rack7-tor --vtep 192.0.2.77"
    )]
    Add {
        /// The host's name, as ports are bound to it
        name: String,
        /// The underlay address of a VXLAN device that somebody else configures
        #[arg(long, value_name = "IP")]
        vtep: Option<IpAddr>,
        #[command(flatten)]
        cloud: CloudArgs,
    },
}

impl Args {
    pub(crate) fn run(&self) -> anyhow::Result<ExitCode> {
        let Verb::Add { name, vtep, cloud } = &self.verb;
        let api = Api::login(&clouds::find(cloud, &clouds::process_env)?)?;
        if let Some(token) = add(&api, name, *vtep)? {
            say::out(&token)?;
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// Adds a host; the answer is its join token, which a foreign VTEP has not.
///
/// # Errors
/// As the controller refuses.
pub(crate) fn add(api: &Api, name: &str, vtep: Option<IpAddr>) -> anyhow::Result<Option<String>> {
    let mut host = json!({"name": name});
    if let (Some(vtep), Some(fields)) = (vtep, host.as_object_mut()) {
        fields.insert("vtep".to_owned(), Value::String(vtep.to_string()));
    }
    let made = api
        .post("/v2.0/overweave/hosts", &json!({"host": host}))
        .with_context(|| format!("add host {name}"))?;
    let token = made
        .get("host")
        .map(|host| text(host, "join_token").to_owned())
        .filter(|token| !token.is_empty());
    if vtep.is_none() && token.is_none() {
        anyhow::bail!("the controller gave host {name} no join token; is it an older version?");
    }
    Ok(token)
}
