//! The `overweave` command: arguments become parts, parts run.
//!
//! Every verb is a file in [`verbs`]; the lab's machinery is in [`lab`].

mod api;
mod cancel;
mod clouds;
mod daemon;
mod lab;
mod local;
mod say;
mod units;
mod verbs;

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    let cli = verbs::Cli::parse();
    match cli.verb.run() {
        Ok(code) => code,
        Err(error) => {
            say::error(&error);
            ExitCode::FAILURE
        }
    }
}
