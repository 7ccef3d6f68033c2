//! Whether ingest nodes stamp envelopes by a clock that the log's servers agree with: latencies are worked out from both.

use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use tokio::time::Instant;

use crate::broker::Stored;

/// An envelope is stamped before it is stored: a clock that says otherwise by more than this is off.
const AHEAD_MIN: Duration = Duration::from_secs(5);
/// An envelope may wait to be stored, while NATS elects a leader for instance; not all of them in a window wait so long.
const BEHIND_MIN: Duration = Duration::from_secs(30);
/// Envelopes of so long are judged together.
const WINDOW: Duration = Duration::from_secs(10);
/// A warning is forgotten when no envelope has come for so long.
const FORGOTTEN_AFTER: Duration = Duration::from_secs(60);

/// The least time between stamp and storage that was seen, in nanoseconds; [`i64::MAX`] if nothing was.
pub(crate) struct StampAges(AtomicI64);

impl Default for StampAges {
    fn default() -> Self {
        Self(AtomicI64::new(i64::MAX))
    }
}

impl StampAges {
    /// These arrived.
    pub(crate) fn note(&self, arrived: &[Stored]) {
        let age = |stored: &Stored| Some(stored.stored_ns.saturating_sub(stored.envelope.stamp?.received_ns));
        if let Some(least) = arrived.iter().filter_map(age).min() {
            self.0.fetch_min(least, Ordering::Relaxed);
        }
    }

    fn take(&self) -> Option<i64> {
        Some(self.0.swap(i64::MAX, Ordering::Relaxed)).filter(|age| *age != i64::MAX)
    }
}

/// Judges one window after the other.
pub(crate) struct SourceClocks {
    judged: Instant,
    seen: Instant,
    concern: Option<String>,
}

impl SourceClocks {
    pub(crate) fn new(now: Instant) -> Self {
        Self { judged: now, seen: now, concern: None }
    }

    /// What there is to warn of at `now`.
    pub(crate) fn look(&mut self, ages: &StampAges, now: Instant) -> Option<String> {
        if now.saturating_duration_since(self.judged) >= WINDOW {
            self.judged = now;
            if let Some(least_ns) = ages.take() {
                self.seen = now;
                self.concern = concern(least_ns);
            } else if now.saturating_duration_since(self.seen) >= FORGOTTEN_AFTER {
                self.concern = None;
            }
        }
        self.concern.clone()
    }
}

fn concern(least_ns: i64) -> Option<String> {
    let off = Duration::from_nanos(least_ns.unsigned_abs());
    let seconds = off.as_secs();
    if least_ns < 0 && off >= AHEAD_MIN {
        return Some(format!(
            "the clock of an ingest node is {seconds} s ahead of the NATS server's: have NTP set both; latencies are \
             wrong until then"
        ));
    }
    (least_ns > 0 && off >= BEHIND_MIN).then(|| {
        format!(
            "every envelope was stamped {seconds} s before it was stored: the clock of an ingest node is behind the NATS \
             server's, or its batches wait"
        )
    })
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::proto::channel::{Channel, CollectorId};
    use crate::proto::envelope::{Envelope, Stamp};

    fn stored(age_s: i64) -> Stored {
        let channel = Channel::new(CollectorId::new("c").unwrap(), "m");
        let stamp = Some(Stamp { revision: 1, sequence: 1, received_ns: 1_000_000_000_000 });
        let envelope = Envelope { channel, stamp, lines: Bytes::from_static(b"m v=1 1") };
        Stored { sequence: 1, stored_ns: 1_000_000_000_000 + age_s * 1_000_000_000, envelope }
    }

    /// The warning at the end of a window in which envelopes of these ages came.
    fn judged(ages_s: &[i64]) -> Option<String> {
        let (ages, now) = (StampAges::default(), Instant::now());
        let mut clocks = SourceClocks::new(now);
        ages_s.iter().for_each(|age| ages.note(&[stored(*age)]));
        assert_eq!(clocks.look(&ages, now), None);
        clocks.look(&ages, now + WINDOW)
    }

    #[test]
    fn a_clock_90_s_off_is_a_warning_whichever_way_it_is_off() {
        assert!(judged(&[0, -90, 0]).unwrap().contains("is 90 s ahead"));
        assert!(judged(&[90, 91]).unwrap().contains("stamped 90 s before"));
    }

    #[test]
    fn envelopes_that_waited_are_no_sign_of_a_wrong_clock() {
        for ages in [&[][..], &[0], &[-4], &[29], &[300, 0], &[300, 300, 1]] {
            assert_eq!(judged(ages), None, "{ages:?}");
        }
    }

    #[test]
    fn a_warning_ends_with_a_good_window_or_a_minute_without_envelopes() {
        let (ages, now) = (StampAges::default(), Instant::now());
        let mut clocks = SourceClocks::new(now);
        let mut look = |second| clocks.look(&ages, now + Duration::from_secs(second));
        ages.note(&[stored(-90)]);
        assert!(look(10).is_some() && look(69).is_some());
        assert_eq!(look(79), None);
        ages.note(&[stored(-90)]);
        assert!(look(90).is_some());
        ages.note(&[stored(1)]);
        assert_eq!(look(100), None);
    }
}
