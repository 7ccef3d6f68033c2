//! What writers tell of a log that takes nothing, and when that is why nothing arrives here. Pure.

use std::collections::HashMap;
use std::time::Duration;

use tokio::time::Instant;

use crate::broker::Stall;

/// Writers say it every second; one that was not heard for three can store again, or is gone.
const HEARD_FOR: Duration = Duration::from_secs(3);
/// Writers and shards that are remembered; a cluster has some tens.
const STALLS_MAX: usize = 1_024;
/// Of what a node says about itself, in characters.
const WRITER_CHARS_MAX: usize = 64;
const REASON_CHARS_MAX: usize = 600;

/// What was heard lately.
#[derive(Default)]
pub(crate) struct Stalls {
    heard: HashMap<(u16, String), Heard>,
}

struct Heard {
    at: Instant,
    since: Instant,
    reason: String,
}

/// Nothing arrives, because nothing can be stored.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Stopped {
    pub(crate) time: Duration,
    pub(crate) reason: String,
}

impl Stalls {
    /// A writer told something.
    pub(crate) fn note(&mut self, stall: Stall, now: Instant) {
        let Stall { shard, writer, since_ms, reason } = stall;
        let writer: String = writer.chars().take(WRITER_CHARS_MAX).collect();
        let key = (shard, writer);
        if self.heard.len() >= STALLS_MAX && !self.heard.contains_key(&key) {
            return;
        }
        let since = now.checked_sub(Duration::from_millis(since_ms)).unwrap_or(now);
        let reason = reason.chars().take(REASON_CHARS_MAX).collect();
        self.heard.insert(key, Heard { at: now, since, reason });
    }

    /// The longest time for which nothing has arrived of a shard although a writer wants to store there; `quiet` is for how long
    /// nothing has arrived of one. A shard that another writer fills has not stopped, and one where nobody wants to store is quiet.
    pub(crate) fn stopped(
        &mut self,
        now: Instant,
        quiet: impl Fn(u16) -> Option<Duration>,
    ) -> Option<Stopped> {
        self.heard.retain(|_, heard| now.saturating_duration_since(heard.at) < HEARD_FOR);
        let stopped = self.heard.iter().filter_map(|((shard, writer), heard)| {
            let time = now.saturating_duration_since(heard.since).min(quiet(*shard)?);
            Some((time, shard, writer, &heard.reason))
        });
        let (time, shard, writer, reason) = stopped.max_by_key(|(time, ..)| *time)?;
        let reason = format!(
            "nothing has arrived for {} s, because {writer} cannot store (shard {shard}): {reason}",
            time.as_secs()
        );
        Some(Stopped { time, reason })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(shard: u16, since_ms: u64) -> Stall {
        Stall { shard, writer: "ingest-1".into(), since_ms, reason: "no room".into() }
    }

    fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn arrivals_have_stopped_for_as_long_as_a_writer_could_not_store_and_nothing_came() {
        let now = Instant::now() + seconds(1_000);
        let mut stalls = Stalls::default();
        assert_eq!(stalls.stopped(now, |_| Some(seconds(900))), None, "a quiet log is well");
        stalls.note(told(0, 5_000), now);
        let stopped = stalls.stopped(now + seconds(1), |_| Some(seconds(900))).unwrap();
        assert_eq!(stopped.time, seconds(6));
        assert_eq!(
            stopped.reason,
            "nothing has arrived for 6 s, because ingest-1 cannot store (shard 0): no room"
        );
        assert_eq!(stalls.stopped(now, |_| Some(seconds(1))).unwrap().time, seconds(1), "another one stores");
        assert_eq!(stalls.stopped(now, |_| None), None, "there is no such shard here");
        assert_eq!(stalls.stopped(now + HEARD_FOR, |_| Some(seconds(900))), None, "it said so no more");
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let now = Instant::now() + seconds(1_000);
        let mut stalls = Stalls::default();
        for number in 0..2_000 {
            stalls.note(
                Stall { writer: format!("{number:0>200}"), reason: "x".repeat(5_000), ..told(0, 0) },
                now,
            );
        }
        assert!(stalls.heard.len() <= STALLS_MAX);
        assert!(stalls.stopped(now, |_| Some(seconds(9))).unwrap().reason.len() < 1_000);
    }
}
