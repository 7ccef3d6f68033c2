//! What the log itself says, as metrics: how far it reaches, how quickly it answers, how far this node is behind it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::broker::Broker;
use crate::ops::clock::unix_ns;
use crate::ops::node::Node;
use crate::proto::offset::{Sequence, Shard};

/// How often the log is asked, once per shard and node: alerts look at minutes.
const INTERVAL: Duration = Duration::from_secs(5);

/// Clocks that NTP keeps differ by milliseconds. From here on, latencies and times that users see are wrong.
const CLOCK_OFF_MIN: Duration = Duration::from_secs(5);
/// Clients of a node that is so far behind see old values.
const LAG_MIN: Duration = Duration::from_secs(10);

/// How far a node has followed the log.
#[derive(Clone, Debug, Default)]
pub struct Followed {
    /// The newest sequence it has of each shard.
    pub sequences: Vec<Sequence>,
    /// When the log stored the newest envelope it has, in nanoseconds since 1970; 0 if it has none.
    pub stored_ns: i64,
}

/// A role that follows the log.
pub trait Follows: Send + Sync {
    /// Where it is; `None` before it has reached the log.
    fn followed(&self) -> Option<Followed>;
}

/// Keeps the gauges of the log current. Never ends; the owner drops or cancels it.
pub async fn watch(node: Arc<Node>, broker: Arc<dyn Broker>, follower: Option<Arc<dyn Follows>>) {
    let mut ticks = tokio::time::interval(INTERVAL);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut newest: Vec<Sequence> = vec![0; usize::from(broker.shards())];
    loop {
        ticks.tick().await;
        for (shard, newest) in (0..).map(Shard).zip(&mut newest) {
            let asked = Instant::now();
            // A log that does not answer keeps its last figures: how far it reaches is not unknown, only older.
            let Ok(bounds) = broker.bounds(shard).await else { continue };
            node.meters.log_request_duration.record(asked.elapsed());
            node.meters.log_first_sequence.of(shard).set(bounds.first as f64);
            node.meters.log_last_sequence.of(shard).set(bounds.last as f64);
            *newest = bounds.last;
        }
        if let Some(ahead_ns) = broker.clock_ahead_ns() {
            node.meters.clock_ahead_seconds.set(ahead_ns as f64 / 1e9);
            let is_off = Duration::from_nanos(ahead_ns.unsigned_abs()) >= CLOCK_OFF_MIN;
            node.set_concern("clock", is_off.then(|| clock_concern(ahead_ns)));
        }
        // Looked at after the log: what arrives while it answers is no lag.
        if let Some(followed) = follower.as_ref().and_then(|follower| follower.followed()) {
            // The age of an envelope is told by the clock that stamped it.
            let log_now_ns = unix_ns().saturating_sub(broker.clock_ahead_ns().unwrap_or(0));
            let lag = lag(&newest, &followed, log_now_ns);
            node.meters.log_lag_messages.set(lag.messages as f64);
            node.meters.log_lag_seconds.set(lag.time.as_secs_f64());
            node.set_concern("lag", lag.concern());
        }
    }
}

#[derive(Debug, PartialEq, Eq)]
struct Lag {
    messages: u64,
    /// Age of the newest envelope the node has, if newer ones are missing.
    time: Duration,
}

impl Lag {
    fn concern(&self) -> Option<String> {
        let Self { messages, time } = self;
        (*time >= LAG_MIN).then(|| {
            let age = time.as_secs();
            format!("the newest envelope that arrived here is {age} s old, and {messages} newer ones are in the log")
        })
    }
}

fn clock_concern(ahead_ns: i64) -> String {
    let seconds = (ahead_ns.unsigned_abs() as f64 / 1e8).round() / 10.0;
    let direction = if ahead_ns > 0 { "ahead of" } else { "behind" };
    format!(
        "the clock of this machine is {seconds} s {direction} the NATS server's: have NTP set both; latencies are wrong until then"
    )
}

fn lag(newest: &[Sequence], followed: &Followed, now_ns: i64) -> Lag {
    let behind = |(last, have): (&Sequence, &Sequence)| last.saturating_sub(*have);
    let messages = newest.iter().zip(&followed.sequences).map(behind).sum();
    let age_ns =
        if messages == 0 || followed.stored_ns == 0 { 0 } else { now_ns.saturating_sub(followed.stored_ns) };
    Lag { messages, time: Duration::from_nanos(u64::try_from(age_ns).unwrap_or(0)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_that_is_off_and_a_node_that_is_behind_are_told_in_words() {
        assert!(clock_concern(90_040_000_000).contains("is 90 s ahead of the NATS server's"));
        assert!(clock_concern(-5_600_000_000).contains("is 5.6 s behind the NATS server's"));
        let lag = |seconds| Lag { messages: 7, time: Duration::from_secs(seconds) };
        assert_eq!(lag(9).concern(), None);
        let concern = lag(12).concern().unwrap();
        assert!(concern.contains("is 12 s old, and 7 newer ones"), "{concern}");
    }

    #[test]
    fn a_node_that_has_everything_does_not_lag_however_old_that_is() {
        let log = [10, 20];
        let at = |first, second| Followed { sequences: vec![first, second], stored_ns: 1_000 };
        assert_eq!(lag(&log, &at(10, 20), 9_000), Lag { messages: 0, time: Duration::ZERO });
        assert_eq!(lag(&log, &at(12, 20), 9_000).messages, 0, "it was faster than the answer");
        assert_eq!(lag(&log, &at(7, 19), 9_000), Lag { messages: 4, time: Duration::from_nanos(8_000) });
        assert_eq!(lag(&log, &Followed::default(), 9_000).messages, 0);
    }
}
