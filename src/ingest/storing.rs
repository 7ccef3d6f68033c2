//! Whether what was accepted is being stored: how old the oldest batch is that the log has not acknowledged, and what the log last
//! said. Per shard, because one may have no room or no leader while the others are well.
//!
//! Pure but for its locks: callers bring the time.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::time::Instant;

use crate::broker::Stall;
use crate::proto::offset::Shard;
use crate::sync::Locked;

/// Nothing stored for so long, although something waits, is a fault: a cluster that lost its leader is silent for 7 to 9 s, and
/// clients are promised to hear of it within ten.
pub(super) const STALLED_AFTER: Duration = Duration::from_secs(6);
/// From then on readers are told, who judge for themselves.
const TELL_AFTER: Duration = Duration::from_secs(3);
/// A batch that waits for so long while others are stored is worth a warning.
const SLOW_AFTER: Duration = Duration::from_secs(10);
/// A sender whose write failed tries again within this time, if it wants to: agents flush every ten seconds by default.
const REMEMBERED: Duration = Duration::from_secs(30);
/// A refusal is shown for so long.
const REFUSAL_SHOWN: Duration = Duration::from_secs(60);
/// Longest reason that is kept, in characters: it goes into answers and to every edge.
const REASON_CHARS_MAX: usize = 600;

/// All shards.
pub(super) struct Storing {
    shards: Box<[Locked<Progress>]>,
    next: AtomicU64,
    refusal: Locked<Option<(Instant, String)>>,
}

/// One shard.
#[derive(Default)]
struct Progress {
    /// Batches on their way into the log, one per collector at most, and when they were accepted.
    waiting: HashMap<u64, Instant>,
    stored: Option<Instant>,
    /// Since the last success: when the first was accepted of those whose senders gave up, and when the last of them did.
    given_up: Option<(Instant, Instant)>,
    /// What the last failed attempt said; nothing after one that succeeded.
    failure: Option<String>,
}

/// A batch on its way. Dropped, it no longer waits.
pub(super) struct Underway {
    storing: Arc<Storing>,
    shard: Shard,
    number: u64,
}

/// What is known of a node's storing at one time.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Look {
    /// Age of the oldest batch that waits.
    pub(super) oldest: Duration,
    /// For how long nothing was stored although something waits, where that is longest.
    pub(super) stalled: Duration,
    /// Why the node does not do its work.
    pub(super) fault: Option<String>,
    /// What somebody should look at.
    pub(super) concern: Option<String>,
    /// What readers are told.
    pub(super) stalls: Vec<Stall>,
}

impl Storing {
    pub(super) fn new(shards: u16) -> Arc<Self> {
        let shards = (0..shards.max(1)).map(|_| Locked::empty("what is being stored")).collect();
        let refusal = Locked::empty("the log's last refusal");
        Arc::new(Self { shards, next: AtomicU64::new(0), refusal })
    }

    /// A batch that was accepted at `accepted` is about to be stored.
    pub(super) fn begin(self: &Arc<Self>, shard: Shard, accepted: Instant) -> Underway {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        self.shard(shard).with(|shard| shard.waiting.insert(number, accepted));
        Underway { storing: self.clone(), shard, number }
    }

    /// The log will never take something.
    pub(super) fn refused(&self, now: Instant, reason: &str) {
        let refusal = Some((now, bounded(reason)));
        self.refusal.with(|last| *last = refusal);
    }

    /// What the last failed attempt on a shard said, if none has succeeded since.
    pub(super) fn failure(&self, shard: Shard) -> Option<String> {
        self.shard(shard).with(|shard| shard.failure.clone())
    }

    /// The same for any shard.
    pub(super) fn any_failure(&self) -> Option<String> {
        (0..self.shards.len()).find_map(|shard| self.failure(Shard(shard as u16)))
    }

    /// What is known at `now`. `node` is who tells readers.
    pub(super) fn look(&self, now: Instant, node: &str) -> Look {
        let mut look = Look::default();
        let mut waiting = 0;
        for (number, shard) in self.shards.iter().enumerate() {
            let Some(Seen { waiting: here, oldest, stalled, failure }) = shard.with(|shard| shard.look(now))
            else {
                continue;
            };
            waiting += here;
            look.oldest = look.oldest.max(oldest);
            look.stalled = look.stalled.max(stalled);
            if stalled >= TELL_AFTER {
                let reason = failure.unwrap_or_else(|| "the log has not answered yet".to_owned());
                let since_ms = u64::try_from(stalled.as_millis()).unwrap_or(u64::MAX);
                look.stalls.push(Stall { shard: number as u16, writer: node.to_owned(), since_ms, reason });
            }
        }
        look.judge(waiting);
        if look.concern.is_none() {
            let refusal = self.refusal.with(|refusal| refusal.clone());
            look.concern = refusal.and_then(|(at, reason)| {
                let age = now.saturating_duration_since(at);
                (age < REFUSAL_SHOWN)
                    .then(|| format!("the log refused metrics {} s ago: {reason}", age.as_secs()))
            });
        }
        look
    }

    fn shard(&self, shard: Shard) -> &Locked<Progress> {
        &self.shards[usize::from(shard.0).min(self.shards.len() - 1)]
    }
}

/// What is known of one shard.
struct Seen {
    waiting: usize,
    oldest: Duration,
    stalled: Duration,
    failure: Option<String>,
}

impl Progress {
    /// Nothing where nobody wants to store anything.
    fn look(&self, now: Instant) -> Option<Seen> {
        let age = |at: Instant| now.saturating_duration_since(at);
        let oldest = self.waiting.values().min().copied();
        let given_up = self.given_up.filter(|(_, last)| age(*last) < REMEMBERED).map(|(first, _)| first);
        let wanted_for = oldest.into_iter().chain(given_up).min().map(age)?;
        Some(Seen {
            waiting: self.waiting.len(),
            oldest: oldest.map(age).unwrap_or_default(),
            stalled: self.stored.map_or(wanted_for, |stored| wanted_for.min(age(stored))),
            failure: self.failure.clone(),
        })
    }
}

impl Look {
    fn judge(&mut self, waiting: usize) {
        let longest = self.stalls.iter().max_by_key(|stall| stall.since_ms);
        match longest {
            Some(stall) if self.stalled >= STALLED_AFTER => {
                let Stall { shard, reason, .. } = stall;
                let seconds = self.stalled.as_secs();
                let waits = match waiting {
                    0 => String::new(),
                    1 => ", and 1 batch waits".to_owned(),
                    batches => format!(", and {batches} batches wait"),
                };
                self.fault =
                    Some(format!("nothing has been stored for {seconds} s (shard {shard}){waits}: {reason}"));
            }
            _ if self.oldest >= SLOW_AFTER => {
                self.concern = Some(format!(
                    "the log is slow: the oldest batch has waited {} s to be stored",
                    self.oldest.as_secs()
                ));
            }
            _ => {}
        }
    }
}

impl Underway {
    /// The log has it.
    pub(super) fn stored(&self, now: Instant) {
        self.storing.shard(self.shard).with(|shard| {
            shard.stored = Some(now);
            shard.given_up = None;
            shard.failure = None;
        });
    }

    /// Its sender waits no more, and it is not stored: it may come again, here or elsewhere.
    pub(super) fn withdrawn(&self, now: Instant) {
        self.storing.shard(self.shard).with(|shard| {
            let Some(accepted) = shard.waiting.get(&self.number).copied() else { return };
            let first = shard.given_up.map_or(accepted, |(first, _)| first.min(accepted));
            shard.given_up = Some((first, now));
        });
    }

    /// An attempt failed, and another follows.
    pub(super) fn failed(&self, reason: &str) {
        let reason = bounded(reason);
        self.storing.shard(self.shard).with(|shard| shard.failure = Some(reason));
    }
}

impl Drop for Underway {
    fn drop(&mut self) {
        self.storing.shard(self.shard).with(|shard| shard.waiting.remove(&self.number));
    }
}

fn bounded(reason: &str) -> String {
    reason.chars().take(REASON_CHARS_MAX).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHARDS: [Shard; 2] = [Shard(0), Shard(1)];

    fn after(start: Instant, seconds: u64) -> Instant {
        start + Duration::from_secs(seconds)
    }

    #[test]
    fn what_waits_unstored_becomes_a_fault_and_readers_hear_of_it_before() {
        let (storing, start) = (Storing::new(2), Instant::now());
        let look = |seconds| storing.look(after(start, seconds), "ingest-1");
        let underway = storing.begin(SHARDS[1], start);
        assert_eq!(
            look(2),
            Look { oldest: Duration::from_secs(2), stalled: Duration::from_secs(2), ..Look::default() }
        );
        assert_eq!((look(3).stalls.len(), look(5).fault), (1, None));
        underway.failed("no room");
        let late = look(14);
        assert_eq!(
            late.fault.as_deref(),
            Some("nothing has been stored for 14 s (shard 1), and 1 batch waits: no room")
        );
        let stall = Stall { shard: 1, writer: "ingest-1".into(), since_ms: 14_000, reason: "no room".into() };
        assert_eq!(late.stalls, [stall]);
        underway.stored(after(start, 15));
        drop(underway);
        assert_eq!(look(16), Look::default());
        assert_eq!(storing.failure(SHARDS[1]), None);
    }

    #[test]
    fn a_quiet_node_is_well_however_long_ago_it_stored_something() {
        let (storing, start) = (Storing::new(1), Instant::now());
        let underway = storing.begin(SHARDS[0], start);
        underway.stored(after(start, 1));
        drop(underway);
        assert_eq!(storing.look(after(start, 3_600), "n"), Look::default());
        // The first batch after an hour has its own time.
        let _underway = storing.begin(SHARDS[0], after(start, 3_600));
        assert_eq!(storing.look(after(start, 3_605), "n").stalled, Duration::from_secs(5));
    }

    /// Writes over HTTP are given up after some seconds and come again: that is no new beginning.
    #[test]
    fn senders_that_give_up_do_not_make_a_log_well() {
        let (storing, start) = (Storing::new(1), Instant::now());
        let fault = |seconds| storing.look(after(start, seconds), "n").fault;
        for second in [0, 10] {
            let underway = storing.begin(SHARDS[0], after(start, second));
            underway.failed("no leader");
            underway.withdrawn(after(start, second + 9));
        }
        assert!(fault(22).unwrap().contains("stored for 22 s (shard 0): no leader"));
        assert_eq!(fault(49), None, "nobody has tried for half a minute");
        let underway = storing.begin(SHARDS[0], after(start, 50));
        underway.stored(after(start, 51));
        assert_eq!(storing.look(after(start, 51), "n").stalled, Duration::ZERO);
    }

    #[test]
    fn a_log_that_stores_slowly_is_a_warning_and_no_fault() {
        let (storing, start) = (Storing::new(1), Instant::now());
        let (quick, _slow) = (storing.begin(SHARDS[0], start), storing.begin(SHARDS[0], start));
        quick.stored(after(start, 19));
        let look = storing.look(after(start, 20), "n");
        assert_eq!((look.fault, look.stalled), (None, Duration::from_secs(1)));
        assert!(look.concern.unwrap().contains("waited 20 s"));
    }

    #[test]
    fn a_shard_that_stores_does_not_hide_one_that_does_not() {
        let (storing, start) = (Storing::new(2), Instant::now());
        let (well, ill) = (storing.begin(SHARDS[0], start), storing.begin(SHARDS[1], start));
        well.stored(after(start, 9));
        ill.failed("no leader");
        let look = storing.look(after(start, 9), "n");
        assert!(look.fault.unwrap().contains("(shard 1)"));
    }

    #[test]
    fn a_refusal_is_shown_for_a_minute() {
        let (storing, start) = (Storing::new(1), Instant::now());
        storing.refused(start, &"too large".repeat(1_000));
        let concern = storing.look(after(start, 59), "n").concern.unwrap();
        assert!(concern.contains("59 s ago: too large") && concern.len() < 1_000, "{concern}");
        assert_eq!(storing.look(after(start, 60), "n").concern, None);
    }
}
