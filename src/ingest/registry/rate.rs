//! A rate that forgets: lines per second over about the last ten.

use std::time::Duration;
use tokio::time::Instant;

/// Time constant of the average: long enough to be steady under one flush per second, or per ten.
const WINDOW: Duration = Duration::from_secs(10);

/// An exponentially weighted rate per second.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Rate {
    per_second: f64,
    at: Option<Instant>,
}

impl Rate {
    /// Adds `count` events that happened at `now`.
    pub(super) fn add(&mut self, count: u64, now: Instant) {
        self.per_second = self.at(now) + count as f64 / WINDOW.as_secs_f64();
        self.at = Some(now);
    }

    /// The rate as seen at `now`.
    pub(super) fn at(&self, now: Instant) -> f64 {
        let Some(at) = self.at else { return 0.0 };
        let age = now.saturating_duration_since(at).as_secs_f64();
        self.per_second * (-age / WINDOW.as_secs_f64()).exp()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_steady_flow_is_seen_as_it_is_and_an_ended_one_fades() {
        let start = Instant::now();
        let mut rate = Rate::default();
        for second in 0..120 {
            rate.add(100, start + Duration::from_secs(second));
        }
        let steady = rate.at(start + Duration::from_secs(119));
        assert!((95.0..=106.0).contains(&steady), "{steady}");
        assert!(rate.at(start + Duration::from_secs(240)) < 0.01);
    }
}
