//! How are the members of a chain's load balancer asked whether they serve?
//!
//! `health` of a group's `load_balancer`, in the lab file's words. Switches know it as any monitor
//! ([ADR 20](../../../docs/adr/0020-monitors-by-the-members-host.md)), by the group's id; what they find is kept with the group.

use super::{function::Balanced, function::text_or_number, lbaas::health_monitor::codes};
use hostconfig::chain::{HealthProbe, Monitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};
use std::fmt;
use uuid::Uuid;

/// From one probe to the next, if nothing is said.
const APART: Pause = Pause(3_000);
/// Kernels refuse datagrams once a second, so what is asked more often seems to be taken (and Octavia's bound).
const DATAGRAMS_APART: Pause = Pause(3_000);
const ATTEMPTS: u8 = 3;

/// How members are asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Form", into = "Form")]
pub struct Health {
    /// What.
    pub asks: Asks,
    /// From one probe to the next.
    pub interval: Pause,
    /// How long an answer may take; no longer than to the next probe.
    pub timeout: Pause,
    /// Failures in a row that take a member out, and answers in a row that bring it back.
    pub attempts: u8,
}

/// What a member is asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Asks {
    /// Does it take a connection?
    Tcp,
    /// Does it answer a request for this path with one of these codes?
    Http {
        /// The path.
        path: String,
        /// In Octavia's three forms.
        codes: String,
    },
    /// Does it answer a ping?
    Ping,
    /// Does it refuse a datagram?
    UdpConnect,
}

/// A time of 100 ms to a day, as it is written: `500ms`, `2s`, `1m`, or a number of seconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Pause(u32);

const SHORTEST: u32 = 100;
const LONGEST: u32 = 86_400_000;

impl fmt::Display for Pause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_multiple_of(1000) {
            write!(f, "{}s", self.0 / 1000)
        } else {
            write!(f, "{}ms", self.0)
        }
    }
}

impl Serialize for Pause {
    fn serialize<S: Serializer>(&self, out: S) -> Result<S::Ok, S::Error> {
        out.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Pause {
    fn deserialize<D: Deserializer<'de>>(input: D) -> Result<Self, D::Error> {
        let text = text_or_number(input)?;
        let (digits, scale) = [("ms", 1), ("s", 1000), ("m", 60_000)]
            .into_iter()
            .find_map(|(unit, scale)| Some((text.strip_suffix(unit)?, scale)))
            .unwrap_or((&text, 1000));
        let number = digits.trim_end().parse::<u32>().ok();
        let millis = number.and_then(|number| number.checked_mul(scale));
        let millis = millis.filter(|millis| (SHORTEST..=LONGEST).contains(millis));
        let wrong = || D::Error::custom(format!("not a time (100ms to 86400s): {text}"));
        millis.map(Self).ok_or_else(wrong)
    }
}

/// As it is written.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Form {
    #[serde(rename = "type")]
    kind: Type,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    interval: Option<Pause>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    timeout: Option<Pause>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    attempts: Option<u8>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    path: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    codes: Option<String>,
}

#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Type {
    Tcp,
    Http,
    Ping,
    UdpConnect,
}

impl TryFrom<Form> for Health {
    type Error = String;

    fn try_from(form: Form) -> Result<Self, String> {
        let interval = form.interval.unwrap_or(APART);
        let timeout = form.timeout.unwrap_or(interval);
        if timeout > interval {
            return Err(format!(
                "health: timeout is longer than the interval of {interval}: {timeout}"
            ));
        }
        let attempts = form.attempts.unwrap_or(ATTEMPTS);
        if !(1..=10).contains(&attempts) {
            return Err(format!(
                "health: attempts out of range (1..=10): {attempts}"
            ));
        }
        if form.kind != Type::Http && (form.path.is_some() || form.codes.is_some()) {
            return Err("health: path and codes are of type http alone".to_owned());
        }
        let asks = match form.kind {
            Type::Tcp => Asks::Tcp,
            Type::Ping => Asks::Ping,
            Type::UdpConnect if interval < DATAGRAMS_APART => {
                return Err(format!(
                    "health: interval of udp-connect is at least {DATAGRAMS_APART}: {interval}"
                ));
            }
            Type::UdpConnect => Asks::UdpConnect,
            Type::Http => {
                let path = form.path.unwrap_or_else(|| "/".to_owned());
                let plain = path.bytes().all(|byte| byte.is_ascii_graphic());
                if !path.starts_with('/') || !plain || path.len() > 255 {
                    return Err(format!("health: not the path of a URL: {path}"));
                }
                let expected = form.codes.unwrap_or_else(|| "200".to_owned());
                if codes(&expected).is_none() || expected.len() > 64 {
                    return Err(format!(
                        "health: codes are no code, list of codes or range: {expected}"
                    ));
                }
                Asks::Http {
                    path,
                    codes: expected,
                }
            }
        };
        Ok(Self {
            asks,
            interval,
            timeout,
            attempts,
        })
    }
}

impl From<Health> for Form {
    fn from(health: Health) -> Self {
        let (kind, path, codes) = match health.asks {
            Asks::Tcp => (Type::Tcp, None, None),
            Asks::Ping => (Type::Ping, None, None),
            Asks::UdpConnect => (Type::UdpConnect, None, None),
            Asks::Http { path, codes } => (Type::Http, Some(path), Some(codes)),
        };
        Self {
            kind,
            interval: Some(health.interval),
            timeout: Some(health.timeout),
            attempts: Some(health.attempts),
            path,
            codes,
        }
    }
}

impl Health {
    /// Can members that take this be asked so?
    ///
    /// # Errors
    /// Where nobody would refuse a datagram.
    pub fn suits(&self, protocol: Balanced) -> Result<(), String> {
        if self.asks == Asks::UdpConnect && protocol == Balanced::Tcp {
            return Err(
                "health: udp-connect is for a load_balancer of protocol udp or sctp".to_owned(),
            );
        }
        Ok(())
    }

    /// As switches know it.
    pub fn monitor(&self, group: Uuid) -> Option<Monitor> {
        let probe = match &self.asks {
            Asks::Tcp => HealthProbe::Tcp,
            Asks::Ping => HealthProbe::Ping,
            Asks::UdpConnect => HealthProbe::Udp,
            Asks::Http {
                path,
                codes: expected,
            } => HealthProbe::Http {
                request: format!("GET {path} HTTP/1.0\r\n\r\n"),
                codes: codes(expected)?,
            },
        };
        Some(Monitor {
            id: group.into(),
            probe,
            delay_ms: self.interval.0,
            timeout_ms: self.timeout.0,
            rise: self.attempts,
            fall: self.attempts,
            elsewhere: Vec::new(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    #[test]
    fn what_is_left_out_is_filled_in_and_what_is_written_stays() {
        for (given, full) in [
            (
                json!({"type": "tcp"}),
                json!({"type": "tcp", "interval": "3s", "timeout": "3s", "attempts": 3}),
            ),
            (
                json!({"type": "ping", "interval": 2, "timeout": "500ms", "attempts": 1}),
                json!({"type": "ping", "interval": "2s", "timeout": "500ms", "attempts": 1}),
            ),
            (
                json!({"type": "http", "interval": "1m", "codes": "200-204"}),
                json!({"type": "http", "interval": "60s", "timeout": "60s", "attempts": 3, "path": "/", "codes": "200-204"}),
            ),
        ] {
            let health: Health = serde_json::from_value(given).unwrap();
            let written = serde_json::to_value(&health).unwrap();
            assert_eq!(written, full);
            assert_eq!(serde_json::from_value::<Health>(written).unwrap(), health);
        }
    }

    #[test]
    fn what_nobody_could_ask_is_refused() {
        for (given, why) in [
            (json!({}), "missing field `type`"),
            (json!({"type": "tls"}), "unknown variant `tls`"),
            (
                json!({"type": "tcp", "interval": "99ms"}),
                "not a time (100ms to 86400s): 99ms",
            ),
            (json!({"type": "tcp", "interval": "1441m"}), "not a time"),
            (json!({"type": "tcp", "interval": -1}), "not a time"),
            (
                json!({"type": "tcp", "interval": "1s", "timeout": "2s"}),
                "longer than the interval of 1s: 2s",
            ),
            (json!({"type": "tcp", "attempts": 0}), "1..=10"),
            (json!({"type": "tcp", "attempts": 11}), "1..=10"),
            (json!({"type": "tcp", "path": "/"}), "of type http alone"),
            (
                json!({"type": "http", "path": "/a b"}),
                "not the path of a URL",
            ),
            (json!({"type": "http", "codes": "20x"}), "no code"),
            (
                json!({"type": "udp-connect", "interval": "2s"}),
                "at least 3s: 2s",
            ),
            (json!({"type": "tcp", "rise": 2}), "unknown field `rise`"),
        ] {
            let refused = serde_json::from_value::<Health>(Value::clone(&given));
            let refused = refused.unwrap_err().to_string();
            assert!(refused.contains(why), "{given}: {refused}");
        }
    }
}
