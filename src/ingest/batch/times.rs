//! Times that cannot be meant: `$(date +%s)` taken for nanoseconds is a second of 1970. Such lines are stored as they are, and their
//! sender is told.

use jiff::Timestamp;

use crate::ingest::batch::BadLine;
use crate::ops::meters::{Label, SuspiciousTime};
use crate::proto::line::Precision;

const DAY_NS: i64 = 24 * 3_600 * 1_000_000_000;
/// 2000-01-01. What is measured now is later, and a unit taken for a smaller one ends in 1970; clocks that were never set say
/// 1970, or the first second of 2000.
const EARLIEST_NS: i64 = 946_684_800_000_000_000 + DAY_NS;
/// Clocks are minutes off, or a time zone. A day ahead, nobody means it.
const AHEAD_NS_MAX: i64 = DAY_NS;
/// A unit is recommended for times that it puts at most so far back: two of them are never more likely than one, since neighbours
/// differ by a factor of 60 or more.
const BEHIND_NS_MAX: i64 = 3_650 * DAY_NS;

/// Most likely first.
const UNITS: [(Precision, &str); 6] = [
    (Precision::Seconds, "s"),
    (Precision::Milliseconds, "ms"),
    (Precision::Microseconds, "us"),
    (Precision::Nanoseconds, "ns"),
    (Precision::Minutes, "m"),
    (Precision::Hours, "h"),
];

/// The times of one message, as they are looked at.
#[derive(Debug)]
pub(super) struct Times {
    precision: Precision,
    received_ns: i64,
    earliest_ns: i64,
    latest_ns: i64,
    found: Suspicious,
}

/// Lines of one message whose times cannot be meant.
#[derive(Debug, Default)]
pub struct Suspicious {
    counts: [u64; SuspiciousTime::ALL.len()],
    first: [Option<BadLine>; SuspiciousTime::ALL.len()],
}

impl Times {
    pub(super) fn new(precision: Precision, received_ns: i64) -> Self {
        // A node whose own clock was never set judges nobody's.
        let is_set = received_ns > EARLIEST_NS;
        Self {
            precision,
            received_ns,
            earliest_ns: if is_set { EARLIEST_NS } else { i64::MIN },
            latest_ns: if is_set { received_ns.saturating_add(AHEAD_NS_MAX) } else { i64::MAX },
            found: Suspicious::default(),
        }
    }

    /// Looks at a line's own time; `place` is its line and column.
    #[inline]
    pub(super) fn look(&mut self, time_ns: i64, place: impl FnOnce() -> (usize, usize)) {
        if time_ns < self.earliest_ns || time_ns > self.latest_ns {
            self.note(time_ns, place);
        }
    }

    /// The unit that puts a time as it was written near the present, as a parameter takes it.
    pub(super) fn fitting(&self, raw: i64) -> Option<&'static str> {
        let near = |unit: &(Precision, &str)| {
            unit.0.to_nanoseconds(raw).is_some_and(|time_ns| {
                time_ns <= self.latest_ns && time_ns >= self.received_ns.saturating_sub(BEHIND_NS_MAX)
            })
        };
        UNITS.iter().find(|unit| near(unit)).map(|(_, name)| *name)
    }

    pub(super) fn finish(self) -> Suspicious {
        self.found
    }

    #[cold]
    fn note(&mut self, time_ns: i64, place: impl FnOnce() -> (usize, usize)) {
        let raw = time_ns.div_euclid(self.precision.unit_ns());
        let fitting = self.fitting(raw);
        let kind = match fitting {
            Some(_) => SuspiciousTime::Precision,
            None if time_ns < self.earliest_ns => SuspiciousTime::Past,
            None => SuspiciousTime::Future,
        };
        self.found.counts[kind.index()] += 1;
        let first = &mut self.found.first[kind.index()];
        if first.is_none() {
            let (line, column) = place();
            let time = Timestamp::from_nanosecond(time_ns.into())
                .map_or_else(|_| time_ns.to_string(), |time| time.to_string());
            let advice = match (fitting, kind) {
                (Some(unit), _) => {
                    format!("precision={unit} would fit {raw}: add it to the address, or send nanoseconds")
                }
                (None, SuspiciousTime::Future) => {
                    "it is more than a day ahead: check the clock and the precision".into()
                }
                (None, _) => "check the clock and the precision".into(),
            };
            *first = Some(BadLine {
                line,
                column,
                message: format!("stored, but the time {time} cannot be meant: {advice}"),
            });
        }
    }
}

impl Suspicious {
    /// All of them.
    pub fn total(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// Those of one kind.
    pub fn of(&self, kind: SuspiciousTime) -> u64 {
        self.counts[kind.index()]
    }

    /// The first of each kind, with how many there are.
    pub fn described(&self) -> Vec<BadLine> {
        let counted = self.first.iter().zip(self.counts).filter_map(|(first, count)| {
            let mut line = first.clone()?;
            if count > 1 {
                line.message += &format!(" ({count} lines of this message)");
            }
            Some(line)
        });
        counted.collect()
    }
}
