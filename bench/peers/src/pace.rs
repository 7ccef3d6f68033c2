//! When the next message is due.

use std::time::Duration;

use crate::stamp::{FIRST_NUMBER, Stamp, now_ns};

/// Messages evenly spaced in time. One that is late is sent at once and none is left out, and it keeps the time at which it was
/// due: a server that cannot keep up shows in its latencies.
#[derive(Debug)]
pub struct Pace {
    start_ns: u64,
    interval_ns: Option<f64>,
    count: u64,
}

impl Pace {
    /// `per_second` messages from now on; infinitely many a second are due whenever asked, and none ever with 0.
    pub fn new(per_second: f64) -> Self {
        let interval_ns = (per_second > 0.0).then(|| 1e9 / per_second);
        Self { start_ns: now_ns(), interval_ns, count: 0 }
    }

    /// The next message, if it is due at `now_ns`.
    pub fn take(&mut self, now_ns: u64) -> Option<Stamp> {
        let due_ns = self.due_ns()?;
        if due_ns > now_ns {
            return None;
        }
        // Without a rate there is no time at which a message was due.
        let sent_ns = if self.interval_ns == Some(0.0) { now_ns } else { due_ns };
        let stamp = Stamp { sent_ns, number: FIRST_NUMBER + self.count };
        self.count += 1;
        Some(stamp)
    }

    /// How long until the next message; `None` if there is none.
    pub fn wait(&self, now_ns: u64) -> Option<Duration> {
        self.due_ns().map(|due_ns| Duration::from_nanos(due_ns.saturating_sub(now_ns)))
    }

    fn due_ns(&self) -> Option<u64> {
        // Beyond 2^53 ns (104 days) of one run this would lose single nanoseconds.
        self.interval_ns.map(|interval_ns| self.start_ns + (self.count as f64 * interval_ns) as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn late_messages_are_due_at_once_and_keep_their_time() {
        let mut pace = Pace::new(1000.0);
        let start = pace.start_ns;
        let late = start + 3_500_000;
        let sent: Vec<_> =
            std::iter::from_fn(|| pace.take(late)).map(|stamp| stamp.sent_ns - start).collect();
        assert_eq!(sent, [0, 1_000_000, 2_000_000, 3_000_000]);
        assert_eq!(pace.wait(late), Some(Duration::from_micros(500)));
    }

    #[test]
    fn no_rate_is_no_message_and_an_infinite_one_is_always_due() {
        assert_eq!(Pace::new(0.0).wait(now_ns()), None);
        let mut pace = Pace::new(f64::INFINITY);
        assert_eq!(pace.take(now_ns()).unwrap().number, FIRST_NUMBER);
        assert_eq!(pace.wait(now_ns()), Some(Duration::ZERO));
    }
}
