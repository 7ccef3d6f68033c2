//! Units of timestamps.

use std::str::FromStr;

/// The unit of a timestamp on its way in. Inside, time is always nanoseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Precision {
    /// `ns` or `n`: line protocol's own.
    #[default]
    Nanoseconds,
    /// `us`, `u` or `µ`
    Microseconds,
    /// `ms`
    Milliseconds,
    /// `s`: Telegraf JSON's own.
    Seconds,
    /// `m`, as InfluxDB 1.x takes it.
    Minutes,
    /// `h`, as InfluxDB 1.x takes it.
    Hours,
}

/// A precision that is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("this is not a precision: use ns, us, ms, s, m or h")]
pub struct PrecisionError;

impl Precision {
    /// Nanoseconds in one unit.
    pub fn unit_ns(self) -> i64 {
        match self {
            Self::Nanoseconds => 1,
            Self::Microseconds => 1_000,
            Self::Milliseconds => 1_000_000,
            Self::Seconds => 1_000_000_000,
            Self::Minutes => 60 * 1_000_000_000,
            Self::Hours => 3_600 * 1_000_000_000,
        }
    }

    /// A raw timestamp in nanoseconds; `None` where 64 bits do not hold it (before 1677, after 2262).
    pub fn to_nanoseconds(self, raw: i64) -> Option<i64> {
        raw.checked_mul(self.unit_ns())
    }
}

impl FromStr for Precision {
    type Err = PrecisionError;

    fn from_str(text: &str) -> Result<Self, PrecisionError> {
        match text {
            "ns" | "n" => Ok(Self::Nanoseconds),
            // The micro sign and the Greek letter look the same, and both are typed.
            "us" | "u" | "\u{b5}" | "\u{b5}s" | "\u{3bc}" | "\u{3bc}s" => Ok(Self::Microseconds),
            "ms" => Ok(Self::Milliseconds),
            "s" => Ok(Self::Seconds),
            "m" => Ok(Self::Minutes),
            "h" => Ok(Self::Hours),
            _ => Err(PrecisionError),
        }
    }
}
