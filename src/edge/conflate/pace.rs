//! The beat: every group of views flushes once per interval.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;

use super::{GroupKey, Matcher, PHASES};
use crate::edge::Shared;
use crate::edge::hub::Hub;

/// Gives groups their beat, from when they come to be until their last view is gone.
pub(crate) struct Pacer {
    shared: Arc<Shared>,
    hub: Arc<Hub>,
    new_groups: mpsc::UnboundedReceiver<GroupKey>,
}

impl Pacer {
    /// The pacer of a hub's groups.
    pub(crate) fn new(
        shared: Arc<Shared>,
        hub: Arc<Hub>,
        new_groups: mpsc::UnboundedReceiver<GroupKey>,
    ) -> Self {
        Self { shared, hub, new_groups }
    }

    /// Runs until `shutdown`.
    pub(crate) async fn run(mut self, shutdown: CancellationToken) {
        let mut groups = JoinSet::new();
        loop {
            // All three are cancel-safe. Groups end with this task at the latest.
            tokio::select! {
                Some(key) = self.new_groups.recv() => {
                    groups.spawn(pace(self.shared.clone(), self.hub.clone(), key));
                }
                Some(_ended) = groups.join_next(), if !groups.is_empty() => {}
                () = shutdown.cancelled() => return,
            }
        }
    }
}

async fn pace(shared: Arc<Shared>, hub: Arc<Hub>, key: GroupKey) {
    let interval = Duration::from_millis(u64::from(key.interval_ms));
    let first = Instant::now() + until_phase(shared.started.elapsed(), interval, key.phase);
    let mut beat = tokio::time::interval_at(first, interval);
    // A late flush puts off the next one: no series is sent twice within an interval.
    beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut matcher = Matcher::default();
    loop {
        beat.tick().await;
        let (hub, lost, of, node) = (hub.clone(), hub.clone(), shared.clone(), shared.node.clone());
        // Thousands of series may have changed: on a thread that nobody else waits for.
        let flushed = shared.tasks.spawn_blocking(move || {
            let round = hub.collect(key, &mut matcher)?;
            round.flush(&mut matcher, &of.compressor, &node.meters, || hub.ring_grown());
            Some(matcher)
        });
        match flushed.await {
            Ok(Some(used)) => matcher = used,
            // The group is gone.
            Ok(None) => return,
            Err(error) if error.is_panic() => {
                tracing::error!(event = "flush_failed", %error, "newest values were not sent; clients are told of a gap");
                matcher = Matcher::default();
                let lose = shared.tasks.spawn_blocking(move || lost.lose_round(key));
                if lose.await.is_err() {
                    return;
                }
            }
            // The node stops.
            Err(_) => return,
        }
    }
}

/// How long to wait for a phase's next moment: the phases of an interval are spread over it since the node has started.
fn until_phase(elapsed: Duration, interval: Duration, phase: u8) -> Duration {
    let interval_ms = interval.as_millis().max(1);
    let moment_ms = interval_ms * u128::from(phase) / u128::from(PHASES);
    let into_ms = elapsed.as_millis() % interval_ms;
    Duration::from_millis(((interval_ms + moment_ms - into_ms - 1) % interval_ms + 1) as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn phases_are_spread_over_the_interval_whenever_a_group_comes_to_be() {
        let interval = Duration::from_millis(1_000);
        for elapsed in [0, 1, 249, 250, 999, 1_000, 123_456_789] {
            for phase in 0..PHASES {
                let wait = until_phase(Duration::from_millis(elapsed), interval, phase);
                assert!(!wait.is_zero() && wait <= interval, "{wait:?}");
                assert_eq!((elapsed + wait.as_millis() as u64) % 1_000, u64::from(phase) * 250);
            }
        }
    }
}
