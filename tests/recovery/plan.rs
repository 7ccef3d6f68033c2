//! How long, how many and how often: from the environment, so that the same run is short in every test and long on demand.

use std::str::FromStr;
use std::time::Duration;

/// What to do.
#[derive(Clone, Debug)]
pub struct Plan {
    /// `TELECAST_TEST_SEED`: repeats what is left to chance here. What machine and kernel do is not.
    pub seed: u64,
    /// `TELECAST_RECOVERY_SECONDS`: how long metrics flow.
    pub flow: Duration,
    /// `TELECAST_RECOVERY_CLIENTS`.
    pub clients: usize,
    /// `TELECAST_RECOVERY_COLLECTORS`.
    pub collectors: usize,
    /// `TELECAST_RECOVERY_PACE_MS`: between two flushes of a collector, on average.
    pub pace_ms: u64,
    /// `TELECAST_RECOVERY_EVERY_S`: between the ends of two edges.
    pub every: Duration,
}

impl Plan {
    /// What the environment says; short and small where it says nothing.
    pub fn from_environment() -> Self {
        Self {
            seed: variable("TELECAST_TEST_SEED").unwrap_or_else(|| fastrand::u64(..)),
            flow: Duration::from_secs(variable("TELECAST_RECOVERY_SECONDS").unwrap_or(15)),
            clients: variable("TELECAST_RECOVERY_CLIENTS").unwrap_or(60),
            collectors: variable("TELECAST_RECOVERY_COLLECTORS").unwrap_or(6),
            pace_ms: variable("TELECAST_RECOVERY_PACE_MS").unwrap_or(400),
            every: Duration::from_secs(variable("TELECAST_RECOVERY_EVERY_S").unwrap_or(4)),
        }
    }
}

fn variable<T: FromStr>(name: &str) -> Option<T> {
    let value = std::env::var(name).ok()?;
    Some(value.parse().unwrap_or_else(|_| panic!("{name}={value} is no number")))
}
