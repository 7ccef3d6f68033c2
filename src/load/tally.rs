//! What one thread has seen, and how threads add up. Pure.

use std::collections::BTreeMap;
use std::time::Duration;

use hdrhistogram::Histogram;

use super::account::{Missing, Verdict};

/// Longest time that is told apart, in microseconds: ten minutes. Longer ones count as this.
const TIME_US_MAX: u64 = 600_000_000;

/// Digits that a time is kept with.
const TIME_DIGITS: u8 = 3;

/// Gaps of one reason.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Gaps {
    /// Announcements.
    pub(super) count: u64,
    /// Envelopes they span, of all collectors, before filters.
    pub(super) envelopes: u64,
}

/// Counts of one thread.
#[derive(Clone, Debug)]
pub(super) struct Tally {
    /// Messages with metrics, and what else servers said, in bytes off the socket.
    pub(super) deliveries: u64,
    pub(super) bytes: u64,
    /// Messages of others' collectors.
    pub(super) foreign: u64,
    /// Lines of own collectors that were sent before the connection was open.
    pub(super) replayed: u64,
    pub(super) duplicates: u64,
    pub(super) order_errors: u64,
    pub(super) unasked: u64,
    /// Messages that are none of the protocol's.
    pub(super) unreadable: u64,
    pub(super) stale: u64,
    pub(super) gaps: BTreeMap<String, Gaps>,
    /// The first refusal that a server explained in words.
    pub(super) complaint: Option<String>,
    pub(super) resumed: u64,
    /// Clients that never got in, by reason.
    pub(super) refused: BTreeMap<String, u64>,
    /// Ends of connections that had been open, and of attempts to resume, by reason.
    pub(super) ends: BTreeMap<String, u64>,
    /// Clients that are not there at the end although they had been, by reason.
    pub(super) gone: BTreeMap<String, u64>,
    pub(super) connected: u64,
    pub(super) slow_connected: u64,
    pub(super) missing: Missing,
    latency_us: Histogram<u64>,
    connect_us: Histogram<u64>,
}

/// Percentiles, in milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize)]
pub(super) struct Times {
    pub(super) p50: f64,
    pub(super) p90: f64,
    pub(super) p99: f64,
    pub(super) max: f64,
    pub(super) samples: u64,
}

impl Tally {
    pub(super) fn new() -> Self {
        Self {
            deliveries: 0,
            bytes: 0,
            foreign: 0,
            replayed: 0,
            duplicates: 0,
            order_errors: 0,
            unasked: 0,
            unreadable: 0,
            stale: 0,
            gaps: BTreeMap::new(),
            complaint: None,
            resumed: 0,
            refused: BTreeMap::new(),
            ends: BTreeMap::new(),
            gone: BTreeMap::new(),
            connected: 0,
            slow_connected: 0,
            missing: Missing::default(),
            latency_us: histogram(),
            connect_us: histogram(),
        }
    }

    /// Takes a verdict on a message.
    pub(super) fn judge(&mut self, verdict: Verdict) {
        match verdict {
            Verdict::InOrder => {}
            Verdict::Late => self.order_errors += 1,
            Verdict::Duplicate => self.duplicates += 1,
            Verdict::Unasked => self.unasked += 1,
        }
    }

    /// Takes the time from sending to receiving.
    pub(super) fn latency(&mut self, latency_ns: u64) {
        self.latency_us.saturating_record(latency_ns / 1_000);
    }

    /// Takes the time from connecting to the welcome.
    pub(super) fn connect(&mut self, took: Duration) {
        self.connect_us.saturating_record(u64::try_from(took.as_micros()).unwrap_or(u64::MAX));
    }

    /// Takes a gap.
    pub(super) fn gap(&mut self, reason: String, envelopes: Option<u64>) {
        let gaps = self.gaps.entry(reason).or_default();
        gaps.count += 1;
        gaps.envelopes += envelopes.unwrap_or(0);
    }

    pub(super) fn latency_times(&self) -> Option<Times> {
        times(&self.latency_us)
    }

    pub(super) fn connect_times(&self) -> Option<Times> {
        times(&self.connect_us)
    }

    /// Adds up threads.
    pub(super) fn merge(&mut self, other: Self) {
        self.deliveries += other.deliveries;
        self.bytes += other.bytes;
        self.foreign += other.foreign;
        self.replayed += other.replayed;
        self.duplicates += other.duplicates;
        self.order_errors += other.order_errors;
        self.unasked += other.unasked;
        self.unreadable += other.unreadable;
        self.stale += other.stale;
        self.resumed += other.resumed;
        self.connected += other.connected;
        self.slow_connected += other.slow_connected;
        self.missing.merge(other.missing);
        self.complaint = self.complaint.take().or(other.complaint);
        for (reason, gaps) in other.gaps {
            let sum = self.gaps.entry(reason).or_default();
            sum.count += gaps.count;
            sum.envelopes += gaps.envelopes;
        }
        add(&mut self.refused, other.refused);
        add(&mut self.ends, other.ends);
        add(&mut self.gone, other.gone);
        // Both have the same bounds, so nothing is out of range.
        let _ = self.latency_us.add(other.latency_us);
        let _ = self.connect_us.add(other.connect_us);
    }
}

fn histogram() -> Histogram<u64> {
    // The bounds are constants that the library takes; without bounds it would grow by itself, which is as good.
    Histogram::new_with_bounds(1, TIME_US_MAX, TIME_DIGITS)
        .or_else(|_| Histogram::new(TIME_DIGITS))
        .unwrap_or_else(|error| unreachable!("{TIME_DIGITS} digits are allowed: {error}"))
}

fn times(histogram: &Histogram<u64>) -> Option<Times> {
    let ms = |us: u64| us as f64 / 1_000.0;
    let at = |quantile| ms(histogram.value_at_quantile(quantile));
    let samples = histogram.len();
    (samples > 0).then(|| Times {
        p50: at(0.5),
        p90: at(0.9),
        p99: at(0.99),
        max: ms(histogram.max()),
        samples,
    })
}

fn add(sums: &mut BTreeMap<String, u64>, counts: BTreeMap<String, u64>) {
    for (reason, count) in counts {
        *sums.entry(reason).or_default() += count;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn threads_add_up() {
        let one = || {
            let mut tally = Tally::new();
            tally.deliveries = 3;
            tally.judge(Verdict::Late);
            tally.gap("slow".to_owned(), Some(5));
            tally.gap("reset".to_owned(), None);
            *tally.ends.entry("connection lost".to_owned()).or_default() += 2;
            tally.latency(1_500_000);
            tally.latency(u64::MAX);
            tally
        };
        let mut sum = one();
        sum.merge(one());
        assert_eq!((sum.deliveries, sum.order_errors, sum.ends["connection lost"]), (6, 2, 4));
        assert_eq!(sum.gaps["slow"], Gaps { count: 2, envelopes: 10 });
        assert_eq!(sum.gaps["reset"], Gaps { count: 2, envelopes: 0 });
        let times = sum.latency_times().unwrap();
        assert!((times.p50 - 1.5).abs() < 0.01 && times.samples == 4, "{times:?}");
        assert_eq!(sum.connect_times(), None);
    }
}
