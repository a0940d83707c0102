//! What time is it?
//!
//! Time is an argument: [`Now`] comes from the edge (a monotonic clock, or a test's virtual one) and is passed down.

use std::{
    fmt,
    ops::{Add, Sub},
    time::Duration,
};

/// Nanoseconds on a monotonic clock whose zero means nothing.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Now(u64);

impl Now {
    /// The clock's zero.
    pub const ZERO: Self = Self(0);

    /// From nanoseconds.
    pub const fn from_nanos(nanos: u64) -> Self {
        Self(nanos)
    }

    /// Nanoseconds since the clock's zero.
    pub const fn nanos(self) -> u64 {
        self.0
    }

    /// Whole seconds since the clock's zero, modulo 2³²: what fits a table entry.
    #[expect(clippy::cast_possible_truncation, reason = "136 years of uptime fit")]
    pub const fn seconds(self) -> u32 {
        (self.0 / 1_000_000_000) as u32
    }

    /// How long after `earlier`; zero if it was not.
    pub const fn since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}

impl Add<Duration> for Now {
    type Output = Self;
    fn add(self, d: Duration) -> Self {
        Self(
            self.0
                .saturating_add(u64::try_from(d.as_nanos()).unwrap_or(u64::MAX)),
        )
    }
}

impl Sub<Now> for Now {
    type Output = Duration;
    fn sub(self, earlier: Now) -> Duration {
        self.since(earlier)
    }
}

impl fmt::Debug for Now {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", Duration::from_nanos(self.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_saturates() {
        assert_eq!(Now::ZERO - Now::from_nanos(5), Duration::ZERO);
        assert_eq!(
            (Now::from_nanos(u64::MAX) + Duration::from_secs(1)).nanos(),
            u64::MAX
        );
    }
}
