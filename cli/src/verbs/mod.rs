//! What can one ask of `overweave`?

use std::process::ExitCode;

use clap::{Parser, Subcommand};

mod backup;
mod bench;
mod completions;
mod controller;
mod explain;
mod generate;
mod host;
mod inspect;
mod lab;
mod port;
mod token;
mod top;
mod vswitch;

pub(crate) use host::add as add_host;
pub(crate) use port::attach as attach_port;

/// A software-defined network in one program
#[derive(Debug, Parser)]
#[command(name = "overweave", version, propagate_version = true)]
#[command(after_help = "Example:\n  overweave lab run configs/labs/quickstart.yaml")]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) verb: Verb,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    Controller(controller::Args),
    Vswitch(vswitch::Args),
    Host(host::Args),
    Token(token::Args),
    Port(port::Args),
    Lab(lab::Args),
    Explain(explain::Args),
    Flows(inspect::Flows),
    Conntrack(inspect::Conntrack),
    Drops(inspect::Drops),
    Fdb(inspect::Fdb),
    Top(top::Args),
    Bench(bench::Args),
    Completions(completions::Args),
    #[command(hide = true)]
    Generate(generate::Args),
}

impl Verb {
    /// Does it.
    ///
    /// # Errors
    /// What went wrong and what to do next.
    pub(crate) fn run(self) -> anyhow::Result<ExitCode> {
        match self {
            Self::Controller(args) => args.run(),
            Self::Vswitch(args) => args.run(),
            Self::Host(args) => args.run(),
            Self::Token(args) => args.run(),
            Self::Port(args) => args.run(),
            Self::Lab(args) => args.run(),
            Self::Explain(args) => args.run(),
            Self::Flows(args) => args.run(),
            Self::Conntrack(args) => args.run(),
            Self::Drops(args) => args.run(),
            Self::Fdb(args) => args.run(),
            Self::Top(args) => args.run(),
            Self::Bench(args) => args.run(),
            Self::Completions(args) => args.run(),
            Self::Generate(args) => args.run(),
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::Cli;

    fn walk(command: &clap::Command, path: &str, seen: &mut Vec<String>) {
        for sub in command
            .get_subcommands()
            .filter(|sub| sub.get_name() != "help" && !sub.is_hide_set())
        {
            let path = format!("{path} {}", sub.get_name());
            let help = sub
                .get_after_help()
                .map(ToString::to_string)
                .unwrap_or_default();
            assert!(
                help.contains("Example") && help.contains(&path),
                "`{path} --help` has no example of itself"
            );
            assert!(sub.get_about().is_some(), "`{path}` says not what it does");
            seen.push(path.clone());
            walk(sub, &path, seen);
        }
    }

    #[test]
    fn every_verb_has_an_example() {
        let mut seen = Vec::new();
        let command = Cli::command();
        walk(&command, "overweave", &mut seen);
        assert!(seen.contains(&"overweave lab run".to_owned()));
        command.clone().debug_assert();
    }
}
