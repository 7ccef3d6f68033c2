//! The time of day.

use std::time::{SystemTime, UNIX_EPOCH};

/// Now, by this machine's clock, in nanoseconds since 1970 (until 2262).
pub fn unix_ns() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_nanos()).unwrap_or(i64::MAX)
}
