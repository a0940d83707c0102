//! `overweave completions`: what can the shell fill in?

use std::process::ExitCode;

use anyhow::Context;
use clap::CommandFactory;
use clap_complete::Shell;

use crate::say;

/// Print the completions of a shell
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  overweave completions bash > /etc/bash_completion.d/overweave")]
pub(crate) struct Args {
    shell: Shell,
}

impl Args {
    pub(crate) fn run(&self) -> anyhow::Result<ExitCode> {
        let mut script = Vec::new();
        clap_complete::generate(
            self.shell,
            &mut super::Cli::command(),
            "overweave",
            &mut script,
        );
        say::out(&String::from_utf8(script).context("render the completions")?)?;
        Ok(ExitCode::SUCCESS)
    }
}
