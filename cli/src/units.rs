//! How many bits, bytes, seconds or percent did a person write?
//!
//! Values in lab files carry their unit: `100mbit`, `64KiB`, `10ms`, `1.5%`. Decimal prefixes for rates
//! (as network gear counts), binary and decimal ones for sizes.

use std::fmt;
use std::marker::PhantomData;
use std::str::FromStr;
use std::time::Duration;

use serde::de::{Deserialize, Deserializer, Error, Visitor};

/// A value that could not be read, and how it is written.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{kind} is written like {example}: `{text}`")]
pub(crate) struct InvalidUnit {
    kind: &'static str,
    example: &'static str,
    text: String,
}

impl InvalidUnit {
    fn new(kind: &'static str, example: &'static str, text: &str) -> Self {
        Self {
            kind,
            example,
            text: text.to_owned(),
        }
    }
}

/// Reads a value from its text. A visitor, since `try_from` would lose the key's name in the message.
pub(crate) fn text<'de, D, T>(from: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: FromStr<Err: fmt::Display>,
{
    struct Text<T>(PhantomData<T>);
    impl<T: FromStr<Err: fmt::Display>> Visitor<'_> for Text<T> {
        type Value = T;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a text")
        }

        fn visit_str<E: Error>(self, text: &str) -> Result<T, E> {
            text.parse().map_err(E::custom)
        }
    }
    from.deserialize_str(Text(PhantomData))
}

/// The same for a key that may be absent.
pub(crate) fn some_text<'de, D, T>(from: D) -> Result<Option<T>, D::Error>
where
    D: Deserializer<'de>,
    T: FromStr<Err: fmt::Display>,
{
    text(from).map(Some)
}

/// Splits `12.5 mbit` into its number and its unit.
fn split(text: &str) -> Option<(f64, String)> {
    let text = text.trim();
    let at = text
        .find(|c: char| !(c.is_ascii_digit() || c == '.'))
        .unwrap_or(text.len());
    let (number, unit) = text.split_at(at);
    let number: f64 = number.parse().ok()?;
    number
        .is_finite()
        .then(|| (number, unit.trim().to_ascii_lowercase()))
}

/// Bits a second.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Rate(u64);

impl Rate {
    const KIND: &'static str = "a rate";
    const EXAMPLE: &'static str = "100mbit (bit, kbit, mbit, gbit; 8kbit to 1000gbit)";

    /// Bits a second.
    pub(crate) const fn bits_per_second(self) -> u64 {
        self.0
    }
}

fn rate_unit(unit: &str) -> Option<f64> {
    Some(match unit {
        "bit" | "bps" | "bit/s" => 1.0,
        "kbit" | "kbps" | "kbit/s" => 1e3,
        "mbit" | "mbps" | "mbit/s" => 1e6,
        "gbit" | "gbps" | "gbit/s" => 1e9,
        _ => return None,
    })
}

impl FromStr for Rate {
    type Err = InvalidUnit;

    fn from_str(text: &str) -> Result<Self, InvalidUnit> {
        let refuse = || InvalidUnit::new(Self::KIND, Self::EXAMPLE, text);
        let (number, unit) = split(text).ok_or_else(refuse)?;
        let bits = number * rate_unit(&unit).ok_or_else(refuse)?;
        if !(8_000.0..=1e12).contains(&bits) {
            return Err(refuse());
        }
        whole(bits).map(Self).ok_or_else(refuse)
    }
}

/// A whole, non-negative number that f64 holds exactly.
fn whole(value: f64) -> Option<u64> {
    format!("{value:.0}").parse().ok()
}

impl<'de> Deserialize<'de> for Rate {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        text(from)
    }
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            n if n % 1_000_000_000 == 0 => write!(f, "{}gbit", n / 1_000_000_000),
            n if n % 1_000_000 == 0 => write!(f, "{}mbit", n / 1_000_000),
            n if n % 1_000 == 0 => write!(f, "{}kbit", n / 1_000),
            n => write!(f, "{n}bit"),
        }
    }
}

/// Bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Size(u64);

impl Size {
    const KIND: &'static str = "a size";
    const EXAMPLE: &'static str = "64KiB (B, KB, KiB, MB, MiB; 1514B to 1024MiB)";
}

impl FromStr for Size {
    type Err = InvalidUnit;

    fn from_str(text: &str) -> Result<Self, InvalidUnit> {
        let refuse = || InvalidUnit::new(Self::KIND, Self::EXAMPLE, text);
        let (number, unit) = split(text).ok_or_else(refuse)?;
        let factor = match unit.as_str() {
            "" | "b" => 1.0,
            "kb" => 1e3,
            "kib" | "k" => 1024.0,
            "mb" => 1e6,
            "mib" | "m" => 1_048_576.0,
            _ => return Err(refuse()),
        };
        let bytes = number * factor;
        if !(1_514.0..=1_073_741_824.0).contains(&bytes) {
            return Err(refuse());
        }
        whole(bytes).map(Self).ok_or_else(refuse)
    }
}

impl<'de> Deserialize<'de> for Size {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        text(from)
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            n if n % 1_048_576 == 0 => write!(f, "{}MiB", n / 1_048_576),
            n if n % 1024 == 0 => write!(f, "{}KiB", n / 1024),
            n => write!(f, "{n}B"),
        }
    }
}

/// A part of a hundred, of packets.
#[derive(Debug, Clone, Copy, PartialEq, PartialOrd)]
pub(crate) struct Percent(f64);

impl Percent {
    /// Parts of a million, to the nearest.
    pub(crate) fn parts_per_million(self) -> u32 {
        // At most 100 by construction.
        whole(self.0 * 10_000.0)
            .and_then(|parts| u32::try_from(parts).ok())
            .unwrap_or(1_000_000)
    }
}

impl FromStr for Percent {
    type Err = InvalidUnit;

    fn from_str(text: &str) -> Result<Self, InvalidUnit> {
        let refuse = || InvalidUnit::new("a share", "1.5% (0% to 100%)", text);
        match split(text).ok_or_else(refuse)? {
            (number, unit) if unit == "%" && number <= 100.0 => Ok(Self(number)),
            _ => Err(refuse()),
        }
    }
}

impl<'de> Deserialize<'de> for Percent {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        text(from)
    }
}

impl fmt::Display for Percent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}%", self.0)
    }
}

/// A length of time, up to an hour.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Span(Duration);

impl Span {
    /// The length.
    pub(crate) const fn get(self) -> Duration {
        self.0
    }
}

impl FromStr for Span {
    type Err = InvalidUnit;

    fn from_str(text: &str) -> Result<Self, InvalidUnit> {
        let refuse = || InvalidUnit::new("a time", "10ms (us, ms, s, m; at most 1h)", text);
        match humantime::parse_duration(text.trim()) {
            Ok(length) if length <= Duration::from_hours(1) => Ok(Self(length)),
            _ => Err(refuse()),
        }
    }
}

impl<'de> Deserialize<'de> for Span {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        text(from)
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", humantime::format_duration(self.0))
    }
}

/// A measured rate must lie between the two, ends included.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct RateRange {
    least: Rate,
    most: Rate,
}

impl RateRange {
    /// Whether the rate lies in the range.
    pub(crate) const fn contains(self, bits_per_second: u64) -> bool {
        self.least.0 <= bits_per_second && bits_per_second <= self.most.0
    }
}

impl FromStr for RateRange {
    type Err = InvalidUnit;

    fn from_str(text: &str) -> Result<Self, InvalidUnit> {
        let refuse = || InvalidUnit::new("a range of rates", "`94..101 mbit`", text);
        let (least, most) = text.split_once("..").ok_or_else(refuse)?;
        let most_rate: Rate = most.parse().map_err(|_unit: InvalidUnit| refuse())?;
        let (_, unit) = split(most).ok_or_else(refuse)?;
        // The first number may leave its unit to the second.
        let least_rate: Rate = match split(least) {
            Some((_, own)) if own.is_empty() => format!("{}{unit}", least.trim()).parse(),
            _ => least.parse(),
        }
        .map_err(|_unit: InvalidUnit| refuse())?;
        if least_rate > most_rate {
            return Err(refuse());
        }
        Ok(Self {
            least: least_rate,
            most: most_rate,
        })
    }
}

impl<'de> Deserialize<'de> for RateRange {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        text(from)
    }
}

impl fmt::Display for RateRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}..{}", self.least, self.most)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_decimal() {
        assert_eq!(
            "100mbit".parse::<Rate>().unwrap().bits_per_second(),
            100_000_000
        );
        assert_eq!(
            "1.5 Gbit".parse::<Rate>().unwrap().bits_per_second(),
            1_500_000_000
        );
        assert_eq!("64kbit".parse::<Rate>().unwrap().to_string(), "64kbit");
    }

    #[test]
    fn a_rate_needs_a_unit_and_a_value_over_zero() {
        for text in [
            "100",
            "0mbit",
            "-1mbit",
            "mbit",
            "1e9gbit",
            "2000gbit",
            "10 parsec",
            "",
        ] {
            let refused = text.parse::<Rate>().unwrap_err().to_string();
            assert!(
                refused.contains("100mbit") && refused.contains(text),
                "{refused}"
            );
        }
    }

    #[test]
    fn sizes_know_both_kinds_of_prefix() {
        assert_eq!("64KiB".parse::<Size>().unwrap(), Size(65_536));
        assert_eq!("64KB".parse::<Size>().unwrap(), Size(64_000));
        assert_eq!("64KiB".parse::<Size>().unwrap().to_string(), "64KiB");
        assert!("0B".parse::<Size>().is_err());
        assert!("2000MiB".parse::<Size>().is_err());
    }

    #[test]
    fn percent_and_span_have_bounds() {
        assert_eq!("1.5%".parse::<Percent>().unwrap().to_string(), "1.5%");
        assert!("101%".parse::<Percent>().is_err());
        assert!("5".parse::<Percent>().is_err());
        assert_eq!(
            "10ms".parse::<Span>().unwrap().get(),
            Duration::from_millis(10)
        );
        assert!("2h".parse::<Span>().is_err());
        assert!("ten".parse::<Span>().is_err());
    }

    #[test]
    fn a_range_may_name_its_unit_once() {
        let range: RateRange = "94..101 mbit".parse().unwrap();
        assert!(range.contains(94_000_000) && range.contains(101_000_000));
        assert!(!range.contains(93_999_999) && !range.contains(101_000_001));
        assert_eq!(range, "94mbit..101mbit".parse().unwrap());
        for text in ["101..94 mbit", "94 mbit", "..", "94..", "a..b mbit"] {
            assert!(text.parse::<RateRange>().is_err(), "{text}");
        }
    }
}
