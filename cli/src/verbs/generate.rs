//! `overweave generate`: what do the program's own tables say?
//!
//! Hidden: `cargo xtask gen` asks it for the files that are committed, so that what is read is what is run.

use std::fmt::Write as _;
use std::process::ExitCode;

use anyhow::Context;
use clap::{Command, CommandFactory, ValueEnum};

use crate::say;

/// Print a file that is made of the program's own tables
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    what: What,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum What {
    /// The API, as `OpenAPI` 3.1
    Openapi,
    /// The command's reference
    Cli,
    /// The list of metrics
    Metrics,
}

impl Args {
    pub(crate) fn run(&self) -> anyhow::Result<ExitCode> {
        let text = match self.what {
            What::Openapi => {
                serde_json::to_string_pretty(&controller::api::openapi()).context("render JSON")?
            }
            What::Cli => reference(super::Cli::command()),
            What::Metrics => metrics(),
        };
        say::out(&text)?;
        Ok(ExitCode::SUCCESS)
    }
}

/// Every verb's help, those that are for people.
fn reference(command: Command) -> String {
    // What the caller's environment holds is nobody's default.
    let mut command = command.mut_args(|argument| argument.hide_env_values(true));
    command.build();
    let mut text = String::from(
        "# The command\n\nMade by `cargo xtask gen` from the command's own help: do not edit.\n",
    );
    chapter(command, &mut text);
    text
}

fn chapter(command: Command, text: &mut String) {
    let mut command = command
        .mut_args(|argument| argument.hide_env_values(true))
        .disable_help_subcommand(true);
    let name = command.get_bin_name().unwrap_or("overweave").to_owned();
    let help = command.render_long_help().to_string();
    // Writing to a String does not fail.
    writeln!(text, "\n## {name}\n\n```text").unwrap_or_default();
    for line in help.trim_end().lines() {
        writeln!(text, "{}", line.trim_end()).unwrap_or_default();
    }
    text.push_str("```\n");
    let verbs = command.get_subcommands();
    for verb in verbs.filter(|verb| !verb.is_hide_set() && verb.get_name() != "help") {
        chapter(verb.clone(), text);
    }
}

/// A row of a table of metrics: name, kind, labels, help.
type Row = (
    &'static str,
    &'static str,
    &'static [&'static str],
    &'static str,
);

fn metrics() -> String {
    let of_switch = |metric: &vswitch::stats::Metric| -> Row {
        (metric.name, metric.kind.name(), metric.labels, metric.help)
    };
    let of_controller = |metric: &controller::stats::Metric| -> Row {
        (metric.name, metric.kind.name(), metric.labels, metric.help)
    };
    let (api, hosts) = (controller::stats::METRICS, controller::hosts::METRICS);
    let (switch, agent) = (vswitch::stats::METRICS, vswitch::AGENT_METRICS);
    let mut text = String::from(
        "# Metrics\n\nMade by `cargo xtask gen` from the tables that they are registered from: do not edit. In Prometheus' text \
         format;\nlabels come from configuration, never from packets or requests.\n",
    );
    for (title, rows) in [
        (
            "The controller: `/metrics` on its API's listener",
            api.iter()
                .chain(hosts)
                .map(of_controller)
                .collect::<Vec<_>>(),
        ),
        (
            "The vswitch: `/metrics` on 127.0.0.1:9698",
            switch.iter().chain(agent).map(of_switch).collect(),
        ),
    ] {
        writeln!(
            text,
            "\n## {title}\n\n| metric | kind | labels | what |\n|---|---|---|---|"
        )
        .unwrap_or_default();
        for (name, kind, labels, help) in rows {
            let labels = labels.iter().map(|label| format!("`{label}`"));
            let labels = labels.collect::<Vec<_>>().join(", ");
            writeln!(text, "| `{name}` | {kind} | {labels} | {help} |").unwrap_or_default();
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reference_has_the_verbs_that_are_for_people() {
        let text = reference(super::super::Cli::command());
        for verb in [
            "overweave",
            "overweave lab run",
            "overweave controller backup",
        ] {
            assert!(text.contains(&format!("\n## {verb}\n")), "{verb}");
        }
        for hidden in ["keeper", "generate", " help\n"] {
            assert!(
                !text.contains(&format!("## overweave {hidden}")),
                "{hidden}"
            );
            assert!(
                !text.contains(&format!("## overweave lab {hidden}")),
                "{hidden}"
            );
        }
        assert!(text.contains("[env: OS_CLOUD]"), "the name, not the value");
    }

    #[test]
    fn the_list_has_each_metric_once() {
        let text = metrics();
        for name in [
            "controller_requests_total",
            "controller_compile_seconds",
            "vswitch_drops_total",
            "vswitch_ports_active",
        ] {
            assert_eq!(text.matches(&format!("| `{name}` |")).count(), 1, "{name}");
        }
    }
}
