//! `overweave flows`, `conntrack`, `drops`, `fdb`: what does the switch on this host know now?

use std::process::ExitCode;

use serde_json::{Map, Value, json};

use crate::local::{self, ShowArgs};

/// Which rows of a dump
#[derive(Debug, clap::Args)]
struct Rows {
    /// Only rows that name this: a port's name or id, an address, a network
    #[arg(long = "match", value_name = "TEXT")]
    needle: Option<String>,
    /// At most so many rows
    #[arg(long, value_name = "N")]
    limit: Option<u32>,
    #[command(flatten)]
    show: ShowArgs,
}

impl Rows {
    fn ask(&self, verb: &str) -> anyhow::Result<ExitCode> {
        local::show(&self.show, verb, &self.question())?;
        Ok(ExitCode::SUCCESS)
    }

    fn question(&self) -> Value {
        let mut args = Map::new();
        if let Some(needle) = &self.needle {
            args.insert("match".to_owned(), json!(needle));
        }
        if let Some(limit) = self.limit {
            args.insert("limit".to_owned(), json!(limit));
        }
        Value::Object(args)
    }
}

/// Show the compiled flows that the switch on this host forwards by
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  overweave flows --json")]
pub(crate) struct Flows {
    #[command(flatten)]
    rows: Rows,
}

impl Flows {
    pub(crate) fn run(&self) -> anyhow::Result<ExitCode> {
        self.rows.ask("flows")
    }
}

/// Show the connections that the switch on this host tracks
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  overweave conntrack --match 10.0.0.5")]
pub(crate) struct Conntrack {
    #[command(flatten)]
    rows: Rows,
}

impl Conntrack {
    pub(crate) fn run(&self) -> anyhow::Result<ExitCode> {
        self.rows.ask("conntrack")
    }
}

/// Show what the switch on this host dropped, why, and which rule decided
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  overweave drops --json")]
pub(crate) struct Drops {
    #[command(flatten)]
    rows: Rows,
}

impl Drops {
    pub(crate) fn run(&self) -> anyhow::Result<ExitCode> {
        self.rows.ask("drops")
    }
}

/// Show where each MAC address of each network lives
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  overweave fdb")]
pub(crate) struct Fdb {
    #[command(flatten)]
    rows: Rows,
}

impl Fdb {
    pub(crate) fn run(&self) -> anyhow::Result<ExitCode> {
        self.rows.ask("fdb")
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Only {
        #[command(flatten)]
        rows: Rows,
    }

    #[test]
    fn only_what_is_said_is_asked() {
        assert_eq!(Only::parse_from(["x"]).rows.question(), json!({}));
        let asked = Only::parse_from(["x", "--match", "10.0.0.5", "--limit", "7"])
            .rows
            .question();
        assert_eq!(asked, json!({"match": "10.0.0.5", "limit": 7}));
    }
}
