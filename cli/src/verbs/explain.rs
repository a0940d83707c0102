//! `overweave explain`: what would happen to this packet?

use std::net::IpAddr;
use std::process::ExitCode;

use serde_json::{Map, Value, json};

use crate::local::{self, ShowArgs};

/// Walk one described packet through the switch and tell each table that decided
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  overweave explain --port web-1 \"tcp 10.0.0.5:40000 > 10.0.0.9:443\"
  overweave explain --vtep 192.0.2.12 --vni 5001 \"icmp 10.0.0.9 > 10.0.0.5\"")]
pub(crate) struct Args {
    /// The port that sends it: its name or id in the API
    #[arg(
        long,
        value_name = "PORT",
        required_unless_present_any = ["vtep", "wire"],
        conflicts_with_all = ["vtep", "wire"]
    )]
    port: Option<String>,
    /// It comes off the wire of this network instead: its name or id in the API
    #[arg(long, value_name = "NETWORK", conflicts_with = "vtep")]
    wire: Option<String>,
    /// It comes over the tunnel from this VTEP instead
    #[arg(long, value_name = "IP", requires = "vni")]
    vtep: Option<IpAddr>,
    /// With this network identifier
    #[arg(long, value_name = "VNI", requires = "vtep", value_parser = clap::value_parser!(u32).range(1..=16_777_215))]
    vni: Option<u32>,
    /// The packet: `PROTOCOL SOURCE[:PORT] > DESTINATION[:PORT]`
    #[arg(required = true, num_args = 1.., value_name = "PACKET")]
    packet: Vec<String>,
    #[command(flatten)]
    show: ShowArgs,
}

impl Args {
    pub(crate) fn run(&self) -> anyhow::Result<ExitCode> {
        local::show(&self.show, "explain", &self.question())?;
        Ok(ExitCode::SUCCESS)
    }

    fn question(&self) -> Value {
        let mut args = Map::new();
        if let Some(port) = &self.port {
            args.insert("port".to_owned(), json!(port));
        }
        if let Some(network) = &self.wire {
            args.insert("wire".to_owned(), json!(network));
        }
        if let (Some(vtep), Some(vni)) = (self.vtep, self.vni) {
            args.insert("tunnel".to_owned(), json!({"vtep": vtep, "vni": vni}));
        }
        args.insert("packet".to_owned(), json!(self.packet.join(" ")));
        Value::Object(args)
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Only {
        #[command(flatten)]
        args: Args,
    }

    #[test]
    fn a_packet_may_be_one_word_or_several() {
        let one = Only::parse_from(["x", "--port", "p", "tcp 1.1.1.1:1 > 2.2.2.2:2"]);
        let several = Only::parse_from(["x", "--port", "p", "tcp", "1.1.1.1:1", ">", "2.2.2.2:2"]);
        assert_eq!(one.args.question(), several.args.question());
        assert_eq!(
            one.args.question(),
            json!({"port": "p", "packet": "tcp 1.1.1.1:1 > 2.2.2.2:2"})
        );
    }

    #[test]
    fn it_comes_from_a_port_or_over_the_tunnel() {
        assert!(Only::try_parse_from(["x", "tcp"]).is_err());
        assert!(
            Only::try_parse_from(["x", "--port", "p", "--vtep", "1.1.1.1", "--vni", "1", "tcp"])
                .is_err()
        );
        let far = Only::parse_from(["x", "--vtep", "192.0.2.1", "--vni", "7", "icmp"]);
        assert_eq!(
            far.args.question(),
            json!({"tunnel": {"vtep": "192.0.2.1", "vni": 7}, "packet": "icmp"})
        );
        let wire = Only::parse_from(["x", "--wire", "office", "icmp"]);
        assert_eq!(
            wire.args.question(),
            json!({"wire": "office", "packet": "icmp"})
        );
    }
}
