//! `overweave token`: what does `curl` need to speak to the API?

use std::process::ExitCode;

use crate::api::Api;
use crate::clouds::{self, CloudArgs};
use crate::say;

/// Print an API token, alone
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Example:\n  curl -H \"X-Auth-Token: $(overweave token)\" http://127.0.0.1:9696/v2.0/networks"
)]
pub(crate) struct Args {
    #[command(flatten)]
    cloud: CloudArgs,
}

impl Args {
    pub(crate) fn run(&self) -> anyhow::Result<ExitCode> {
        let api = Api::login(&clouds::find(&self.cloud, &clouds::process_env)?)?;
        say::out(api.token())?;
        Ok(ExitCode::SUCCESS)
    }
}
