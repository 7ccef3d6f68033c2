//! What arrived, checked: every connection sees every message once, in order. Pure.

use hdrhistogram::Histogram;
use peers::stamp::{FIRST_NUMBER, Stamp};
use serde::Serialize;

/// Latencies are told up to here; longer ones count as this long.
const LATENCY_US_MAX: u64 = 600_000_000;

/// Where one connection is in the sequence of messages.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct Place {
    /// The newest number seen; 0 before the first.
    newest: u64,
    /// The newest number seen before the window.
    at_begin: u64,
}

/// What all connections together got in the window.
#[derive(Debug)]
pub(crate) struct Account {
    counting: bool,
    deliveries: u64,
    bytes: u64,
    reads: u64,
    lost: u64,
    repeated: u64,
    latency: Histogram<u64>,
}

/// The numbers of a window, as they are printed.
#[derive(Debug, Serialize, PartialEq)]
pub(crate) struct Summary {
    /// Messages that were published in the window, as far as any connection saw.
    messages: u64,
    deliveries: u64,
    bytes_read: u64,
    /// Reads that had anything: fewer than deliveries where messages came together.
    reads: u64,
    /// Messages that a connection did not get although it got later ones.
    lost: u64,
    /// Messages that came twice or after later ones.
    repeated: u64,
    /// Connections that got nothing in the window.
    silent: usize,
    /// How many messages the last connection is behind the first one at the end.
    behind_messages: u64,
    latency_p50_us: u64,
    latency_p90_us: u64,
    latency_p99_us: u64,
    latency_max_us: u64,
}

impl Account {
    pub(crate) fn new() -> anyhow::Result<Self> {
        let mut latency = Histogram::new_with_bounds(1, LATENCY_US_MAX, 3)?;
        latency.auto(false);
        Ok(Self { counting: false, deliveries: 0, bytes: 0, reads: 0, lost: 0, repeated: 0, latency })
    }

    /// From here on things count.
    pub(crate) fn begin<'a>(&mut self, places: impl Iterator<Item = &'a mut Place>) {
        self.counting = true;
        places.for_each(|place| place.at_begin = place.newest);
    }

    pub(crate) fn read(&mut self, bytes: usize) {
        if self.counting {
            self.reads += 1;
            self.bytes += bytes as u64;
        }
    }

    pub(crate) fn delivered(&mut self, place: &mut Place, stamp: Stamp, now_ns: u64) {
        let newest = place.newest;
        place.newest = newest.max(stamp.number);
        if !self.counting {
            return;
        }
        self.deliveries += 1;
        // A connection's first message may have any number: it came while the others were flowing.
        match stamp.number.checked_sub(newest + 1) {
            _ if newest < FIRST_NUMBER => {}
            Some(skipped) => self.lost += skipped,
            None => self.repeated += 1,
        }
        self.latency.saturating_record(now_ns.saturating_sub(stamp.sent_ns) / 1000);
    }

    pub(crate) fn summary(&self, places: &[Place]) -> Summary {
        let newest = places.iter().map(|place| place.newest).max().unwrap_or(0);
        let oldest = places.iter().map(|place| place.newest).min().unwrap_or(0);
        let before = places.iter().map(|place| place.at_begin).max().unwrap_or(0);
        let percentile = |quantile: f64| self.latency.value_at_quantile(quantile);
        Summary {
            messages: newest - before.max(FIRST_NUMBER - 1).min(newest),
            deliveries: self.deliveries,
            bytes_read: self.bytes,
            reads: self.reads,
            lost: self.lost,
            repeated: self.repeated,
            silent: places.iter().filter(|place| place.newest == place.at_begin).count(),
            behind_messages: if oldest < FIRST_NUMBER { 0 } else { newest - oldest },
            latency_p50_us: percentile(0.5),
            latency_p90_us: percentile(0.9),
            latency_p99_us: percentile(0.99),
            latency_max_us: self.latency.max(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn summary_of(numbers: &[u64], begin_after: usize) -> Summary {
        let mut account = Account::new().unwrap();
        let mut place = Place::default();
        for (index, number) in numbers.iter().enumerate() {
            if index == begin_after {
                account.begin(std::iter::once(&mut place));
            }
            let stamp = Stamp { sent_ns: 1_000_000, number: FIRST_NUMBER + number };
            account.delivered(&mut place, stamp, 1_000_000 + 1_000 * number);
        }
        account.summary(&[place, place])
    }

    #[test]
    fn an_unbroken_sequence_has_nothing_lost() {
        let summary = summary_of(&[7, 8, 9, 10], 2);
        assert_eq!((summary.messages, summary.deliveries), (2, 2));
        assert_eq!((summary.lost, summary.repeated, summary.silent), (0, 0, 0));
        assert_eq!((summary.latency_p50_us, summary.latency_max_us), (9, 10));
    }

    #[test]
    fn holes_and_repetitions_are_counted_apart() {
        let summary = summary_of(&[0, 1, 4, 4, 3, 5], 0);
        assert_eq!((summary.lost, summary.repeated), (2, 2));
    }

    #[test]
    fn a_connection_without_messages_is_silent() {
        let account = Account::new().unwrap();
        let summary = account.summary(&[Place::default()]);
        assert_eq!((summary.messages, summary.silent), (0, 1));
    }
}
