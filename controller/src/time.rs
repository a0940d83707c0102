//! What time is it, and how is it written?
//!
//! The clock is read at the edge, once a request; rules get the moment as an argument. Times are
//! whole seconds since 1970 UTC, as the API shows no more.

use serde::{Deserialize, Serialize};
use std::{
    fmt,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

/// A moment, to the second.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct Seconds(u64);

impl Seconds {
    /// This many seconds after 1970 began.
    pub const fn new(seconds: u64) -> Self {
        Self(seconds)
    }

    /// The moment of a system clock reading.
    pub fn of(time: SystemTime) -> Self {
        Self(
            time.duration_since(UNIX_EPOCH)
                .unwrap_or(Duration::ZERO)
                .as_secs(),
        )
    }

    /// Seconds since 1970.
    pub const fn get(self) -> u64 {
        self.0
    }

    /// This much later.
    #[must_use]
    pub const fn plus(self, seconds: u64) -> Self {
        Self(self.0.saturating_add(seconds))
    }

    /// `2026-11-21T22:10:04Z`, as the network API writes it.
    pub fn iso(self) -> String {
        let [year, month, day, hour, minute, second] = self.civil();
        format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
    }

    /// `2026-11-21T22:10:04`, as Octavia writes it.
    pub fn bare(self) -> String {
        let mut text = self.iso();
        text.truncate(text.len().saturating_sub(1));
        text
    }

    /// `2026-11-21T22:10:04.000000Z`, as the identity API writes it.
    pub fn iso_micros(self) -> String {
        self.bare() + ".000000Z"
    }

    /// Reads `2026-11-21T22:10:04Z`, with or without a fraction of a second.
    pub fn parse(text: &str) -> Option<Self> {
        let text = text.strip_suffix('Z').unwrap_or(text);
        let text = text.split('.').next().unwrap_or_default();
        let (date, time) = text.split_once('T')?;
        let three = |text: &str, by: char| -> Option<[u64; 3]> {
            let mut parts = text.split(by).map(|part| {
                let digits = !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
                part.parse::<u64>().ok().filter(|_| digits)
            });
            let all = [parts.next()??, parts.next()??, parts.next()??];
            parts.next().is_none().then_some(all)
        };
        let ([year, month, day], [hour, minute, second]) = (three(date, '-')?, three(time, ':')?);
        let is_date =
            (1970..=9999).contains(&year) && (1..=12).contains(&month) && (1..=31).contains(&day);
        if !is_date || hour > 23 || minute > 59 || second > 60 {
            return None;
        }
        // As in `civil`, backwards.
        let year = if month > 2 { year } else { year - 1 };
        let (era, of_era) = (year / 400, year % 400);
        let of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
        let days = era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719_468;
        Some(Self(days * 86_400 + hour * 3600 + minute * 60 + second))
    }

    /// This much earlier.
    #[must_use]
    pub const fn minus(self, seconds: u64) -> Self {
        Self(self.0.saturating_sub(seconds))
    }

    /// `2026-11-21 22:10:04`, as agents' times are written.
    pub fn spaced(self) -> String {
        let [year, month, day, hour, minute, second] = self.civil();
        format!("{year:04}-{month:02}-{day:02} {hour:02}:{minute:02}:{second:02}")
    }

    /// Year, month, day, hour, minute, second: days are counted in eras of 400 years that begin on
    /// 1 March, so that the leap day is the last of its year.
    fn civil(self) -> [u64; 6] {
        let (days, rest) = (self.0 / 86_400 + 719_468, self.0 % 86_400);
        let (era, of_era) = (days / 146_097, days % 146_097);
        let year = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
        let of_year = of_era - (365 * year + year / 4 - year / 100);
        let shifted = (5 * of_year + 2) / 153;
        let day = of_year - (153 * shifted + 2) / 5 + 1;
        let month = if shifted < 10 {
            shifted + 3
        } else {
            shifted - 9
        };
        let year = year + era * 400 + u64::from(month <= 2);
        [year, month, day, rest / 3600, rest / 60 % 60, rest % 60]
    }
}

impl fmt::Display for Seconds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.iso())
    }
}

/// Where the time comes from.
#[derive(Debug, Clone, Copy)]
pub struct Clock(fn() -> SystemTime);

impl Default for Clock {
    fn default() -> Self {
        Self(SystemTime::now)
    }
}

impl Clock {
    /// A clock that asks `source`.
    pub const fn from_fn(source: fn() -> SystemTime) -> Self {
        Self(source)
    }

    /// Now.
    pub fn now(self) -> Seconds {
        Seconds::of((self.0)())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_civil() {
        for (seconds, text) in [
            (0, "1970-01-01T00:00:00Z"),
            (951_782_400, "2000-02-29T00:00:00Z"),
            (1_709_251_199, "2024-02-29T23:59:59Z"),
            (1_795_299_004, "2026-11-21T22:10:04Z"),
            (4_107_542_400, "2100-03-01T00:00:00Z"),
        ] {
            assert_eq!(Seconds::new(seconds).iso(), text);
            assert_eq!(Seconds::parse(text), Some(Seconds::new(seconds)));
        }
        assert_eq!(Seconds::new(0).iso_micros(), "1970-01-01T00:00:00.000000Z");
        assert_eq!(Seconds::new(0).spaced(), "1970-01-01 00:00:00");
    }
    #[test]
    fn what_is_no_date_is_none() {
        for text in [
            "",
            "T",
            "2026-11-21",
            "2026-13-01T00:00:00Z",
            "2026-00-01T00:00:00Z",
            "1969-12-31T23:59:59Z",
            "2026-11-21T24:00:00Z",
            "2026-11-21T+1:00:00Z",
            "2026-11-21T00:00:00:00Z",
            "99999999999999999999-01-01T00:00:00Z",
        ] {
            assert_eq!(Seconds::parse(text), None, "{text}");
        }
        let fraction = Seconds::parse("2026-11-21T22:10:04.999999Z");
        assert_eq!(fraction, Some(Seconds::new(1_795_299_004)));
    }
}
