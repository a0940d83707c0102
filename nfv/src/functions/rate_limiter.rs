//! How many connections may begin?
//!
//! So many in a time, for each source or for all who come through the chain, and a burst of them at once after a pause. What begins no
//! connection is not counted, and what a connection sends later is the shaper's affair.
//!
//! A source is an address of one port: of IPv6 its /64, since who has one address there has them all.
//!
//! # Cost
//! A token is asked for by the first packet of a connection alone ([`crate::buckets`]).

use std::{fmt, net::IpAddr, str::FromStr};

use net::Probe;
use serde::{Deserialize, Serialize};

use crate::{
    buckets::{MAX_BURST, Pace},
    catalog::{Plain, SettingFault},
    function::{Context, Decision, NetworkFunction, Spend},
};

/// What a configuration says beside `rate_limiter`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// New connections in a time: `10/s`, `30/min`, `100/h`.
    pub rate: Rate,
    /// How many may begin at once after a pause; the rate's number if left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub burst: Option<u32>,
    /// Whose connections are counted together.
    #[serde(default)]
    pub per: Per,
}

/// Whose connections are counted together.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Per {
    /// Each source's.
    #[default]
    Source,
    /// All that come through the chain.
    Chain,
}

/// So many in a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Rate {
    number: u32,
    unit: Unit,
}

type Unit = (&'static str, u64);

/// Each with how often it fits an hour.
const UNITS: &[Unit] = &[("s", 3_600), ("min", 60), ("h", 1)];

/// Not a rate.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not a rate (1/h to {MAX_BURST}/s, in s, min or h): {0}")]
pub struct InvalidRate(String);

impl FromStr for Rate {
    type Err = InvalidRate;

    fn from_str(text: &str) -> Result<Self, InvalidRate> {
        let invalid = || InvalidRate(text.to_owned());
        let (number, unit) = text.split_once('/').ok_or_else(invalid)?;
        let number = number.trim().parse().map_err(|_not_a_number| invalid())?;
        let unit = UNITS.iter().find(|(name, _)| *name == unit.trim());
        match unit {
            Some(&unit) if (1..=MAX_BURST).contains(&number) => Ok(Self { number, unit }),
            Some(_) | None => Err(invalid()),
        }
    }
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.number, self.unit.0)
    }
}

impl TryFrom<String> for Rate {
    type Error = InvalidRate;

    fn try_from(text: String) -> Result<Self, InvalidRate> {
        text.parse()
    }
}

impl From<Rate> for String {
    fn from(rate: Rate) -> Self {
        rate.to_string()
    }
}

/// A rate limiter.
#[derive(Debug)]
pub struct RateLimiter {
    settings: Settings,
    pace: Pace,
}

impl Plain for RateLimiter {
    type Settings = Settings;

    fn new(settings: &Settings) -> Result<Self, SettingFault> {
        let Rate { number, unit } = settings.rate;
        let burst = settings.burst.unwrap_or(number);
        SettingFault::within("burst", burst.into(), 1..=MAX_BURST.into())?;
        Ok(Self {
            settings: *settings,
            pace: Pace {
                per_hour: u64::from(number) * unit.1,
                burst,
            },
        })
    }
}

impl NetworkFunction for RateLimiter {
    fn decide(
        &self,
        first: &mut Probe,
        _cx: &Context<'_>,
        note: &mut dyn FnMut(fmt::Arguments<'_>),
    ) -> Decision {
        let (rate, burst) = (self.settings.rate, self.pace.burst);
        let source = match self.settings.per {
            Per::Source => Some(source(first.ip_src())),
            Per::Chain => None,
        };
        match source {
            Some(source) => note(format_args!("{rate} from {source}, {burst} at once")),
            None => note(format_args!("{rate} from all, {burst} at once")),
        }
        Decision::Spend(Spend {
            source,
            pace: self.pace,
        })
    }
}

/// Of IPv6 the /64.
fn source(addr: IpAddr) -> IpAddr {
    match addr {
        IpAddr::V4(_) => addr,
        IpAddr::V6(v6) => IpAddr::from((v6.to_bits() >> 64 << 64).to_be_bytes()),
    }
}

#[cfg(test)]
mod tests {
    use net::{FlowKey, flow_key::addr_bytes};
    use serde_json::{Value, json};

    use super::*;

    fn limiter(settings: Value) -> Result<RateLimiter, String> {
        let settings =
            serde_json::from_value(settings).map_err(|e: serde_json::Error| e.to_string())?;
        RateLimiter::new(&settings).map_err(|fault| fault.to_string())
    }

    fn decide(settings: Value, from: &str) -> (Decision, String) {
        let addr: IpAddr = from.parse().unwrap();
        let key = FlowKey {
            ethertype: if addr.is_ipv4() { 0x0800 } else { 0x86dd },
            ip_src: addr_bytes(addr),
            ..FlowKey::default()
        };
        let mut words = String::new();
        let decision = limiter(settings).unwrap().decide(
            &mut Probe::new(&key),
            &Context::default(),
            &mut |text| words = text.to_string(),
        );
        (decision, words)
    }

    fn spend(source: Option<&str>, per_hour: u64, burst: u32) -> Decision {
        Decision::Spend(Spend {
            source: source.map(|s| s.parse().unwrap()),
            pace: Pace { per_hour, burst },
        })
    }

    #[test]
    fn a_source_is_an_address_or_a_slash_64() {
        let settings = json!({"rate": "10/s", "burst": 20});
        let (decision, words) = decide(settings.clone(), "10.0.0.7");
        assert_eq!(decision, spend(Some("10.0.0.7"), 36_000, 20));
        assert_eq!(words, "10/s from 10.0.0.7, 20 at once");
        let (decision, _) = decide(settings, "fd00:1:2:3:4::5");
        assert_eq!(decision, spend(Some("fd00:1:2:3::"), 36_000, 20));
    }

    #[test]
    fn the_chain_has_one_bucket_and_reads_no_address() {
        let settings = json!({"rate": "2/min", "per": "chain"});
        let (decision, words) = decide(settings.clone(), "10.0.0.7");
        assert_eq!(decision, spend(None, 120, 2));
        assert_eq!(words, "2/min from all, 2 at once");
        let mut probe = Probe::new(&FlowKey::default());
        let cx = Context::default();
        limiter(settings)
            .unwrap()
            .decide(&mut probe, &cx, &mut |_| {});
        assert_eq!(probe.mask(), Probe::new(&FlowKey::default()).mask());
    }

    #[test]
    fn what_is_no_limit_is_refused_by_name() {
        for (settings, why) in [
            (json!({}), "missing field `rate`"),
            (json!({"rate": 10}), "invalid type"),
            (json!({"rate": "10"}), "not a rate"),
            (json!({"rate": "0/s"}), "not a rate"),
            (json!({"rate": "1/day"}), "not a rate"),
            (json!({"rate": "1000001/h"}), "not a rate"),
            (
                json!({"rate": "1/s", "burst": 0}),
                "burst out of range (1..=1000000): 0",
            ),
            (
                json!({"rate": "1/s", "per": "port"}),
                "unknown variant `port`",
            ),
            (json!({"rate": "1/s", "size": 1}), "unknown field `size`"),
        ] {
            let refused = limiter(settings.clone()).unwrap_err();
            assert!(refused.contains(why), "{settings}: {refused}");
        }
    }
}
