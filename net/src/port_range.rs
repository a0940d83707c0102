//! Which transport ports are meant?

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

/// A non-empty, inclusive range of TCP, UDP or SCTP ports. Spelled `80` or `80-90`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct PortRange {
    min: u16,
    max: u16,
}

/// Why two numbers or a text are no port range.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidPortRange {
    /// The first port is above the last.
    #[error("port range runs backwards: {0}-{1}")]
    Backwards(u16, u16),
    /// The text is neither `80` nor `80-90`.
    #[error("not a port or a port range (80 or 80-90): {0}")]
    Text(String),
}

impl PortRange {
    /// Every port.
    pub const ANY: Self = Self {
        min: 0,
        max: u16::MAX,
    };

    /// From `min` to `max`, both in.
    ///
    /// # Errors
    /// When `min > max`.
    pub const fn new(min: u16, max: u16) -> Result<Self, InvalidPortRange> {
        if min > max {
            Err(InvalidPortRange::Backwards(min, max))
        } else {
            Ok(Self { min, max })
        }
    }

    /// Just one port.
    pub const fn one(port: u16) -> Self {
        Self {
            min: port,
            max: port,
        }
    }

    /// The first port.
    pub const fn min(self) -> u16 {
        self.min
    }

    /// The last port.
    pub const fn max(self) -> u16 {
        self.max
    }

    /// Is `port` in it?
    pub const fn contains(self, port: u16) -> bool {
        self.min <= port && port <= self.max
    }

    /// Do the two have a port in common?
    pub const fn overlaps(self, other: Self) -> bool {
        self.min <= other.max && other.min <= self.max
    }
}

impl fmt::Display for PortRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.min == self.max {
            write!(f, "{}", self.min)
        } else {
            write!(f, "{}-{}", self.min, self.max)
        }
    }
}

impl FromStr for PortRange {
    type Err = InvalidPortRange;
    fn from_str(s: &str) -> Result<Self, InvalidPortRange> {
        let bad = || InvalidPortRange::Text(s.to_owned());
        let number = |t: &str| {
            t.parse::<u16>()
                .ok()
                .filter(|_| t.bytes().all(|b| b.is_ascii_digit()))
        };
        match s.split_once(['-', ':']) {
            None => number(s).map(Self::one).ok_or_else(bad),
            Some((a, b)) => Self::new(number(a).ok_or_else(bad)?, number(b).ok_or_else(bad)?),
        }
    }
}

impl TryFrom<String> for PortRange {
    type Error = InvalidPortRange;
    fn try_from(s: String) -> Result<Self, InvalidPortRange> {
        s.parse()
    }
}

impl From<PortRange> for String {
    fn from(r: PortRange) -> Self {
        r.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_round_trips_and_bad_text_is_refused() {
        for good in ["80", "80-90", "0-65535"] {
            assert_eq!(good.parse::<PortRange>().unwrap().to_string(), good);
        }
        for bad in ["", "90-80", "65536", "-", "1-", "+1", "a"] {
            assert!(bad.parse::<PortRange>().is_err(), "{bad}");
        }
    }
}
