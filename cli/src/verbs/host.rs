//! `overweave host`: which machines belong to the fabric?

use std::net::IpAddr;
use std::process::ExitCode;

use anyhow::{Context, bail};
use clap::Subcommand;
use serde_json::{Value, json};

use crate::api::{Api, ApiRefusal, text};
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
        /// Print a new join token for a host that is there already
        #[arg(long, conflicts_with = "vtep")]
        renew: bool,
        #[command(flatten)]
        cloud: CloudArgs,
    },
}

impl Args {
    pub(crate) fn run(&self) -> anyhow::Result<ExitCode> {
        let Verb::Add {
            name,
            vtep,
            renew,
            cloud,
        } = &self.verb;
        let api = Api::login(&clouds::find(cloud, &clouds::process_env)?)?;
        let token = if *renew {
            Some(renewed(&api, name)?)
        } else {
            add(&api, name, *vtep)?
        };
        token.map_or(Ok(()), |token| say::out(&token))?;
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
        .map_err(|error| match error.downcast_ref::<ApiRefusal>() {
            Some(refusal) if refusal.status == 409 => error.context(format!(
                "host {name} is there already; `overweave host add {name} --renew` prints a new token"
            )),
            _ => error.context(format!("add host {name}")),
        })?;
    match (vtep, join_token(&made)) {
        (None, None) => bail!("the controller gave host {name} no join token; see its log"),
        (_, token) => Ok(token),
    }
}

fn join_token(answer: &Value) -> Option<String> {
    let token = text(answer.get("host")?, "token");
    (!token.is_empty()).then(|| token.to_owned())
}

/// A new join token for a host that is there.
fn renewed(api: &Api, name: &str) -> anyhow::Result<String> {
    let hosts = api.get("/v2.0/overweave/hosts").context("list the hosts")?;
    let hosts = hosts.get("hosts").and_then(Value::as_array);
    let host = hosts
        .into_iter()
        .flatten()
        .find(|host| text(host, "name") == name);
    let id = host
        .map(|host| text(host, "id"))
        .with_context(|| format!("no host {name}; `overweave host add {name}` adds it"))?;
    let path = format!("/v2.0/overweave/hosts/{id}");
    let answer = api.put(&path, &json!({"host": {"new_token": true}}))?;
    join_token(&answer).with_context(|| format!("the controller gave host {name} no join token"))
}
