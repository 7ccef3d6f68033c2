//! What the run's own collectors send, and how a client recognises it. Pure.
//!
//! A message is one line of the measurement `load`. Its first two fields are the proof: the collector's own count, and when
//! the line was written. The rest are numbers that vary like real ones, so that compression and encoding cost what they do.

use std::io::Write as _;

use memchr::memmem;

use crate::proto::channel::{Channel, CollectorId};
use crate::proto::filter::{FilterSet, Match};
use crate::proto::{json, line, message};

const MEASUREMENT: &str = "load";

/// Collectors are dealt into so many parts, named by a tag, so that filters have something to choose by.
const PARTS: usize = 16;

/// Different fillings, used in turn.
const VARIANTS: u64 = 16;

/// What stands before an own line's count in the JSON of clients.
const COUNT_MARK: &[u8] = br#""fields":{"seq":"#;

/// What stands between the count and the time.
const TIME_MARK: &[u8] = br#","sent_ns":"#;

/// Own collectors: their names, and what a run of them writes.
#[derive(Debug)]
pub(super) struct Content {
    /// `load-<run>-`: two runs on one cluster do not take each other's messages for their own.
    prefix: String,
    fillings: Vec<String>,
}

impl Content {
    /// Collectors of the run with this number, whose messages as clients get them have `message_bytes`, or the least that
    /// is possible (some 210).
    pub(super) fn new(run: u32, message_bytes: usize) -> Self {
        let mut content = Self { prefix: format!("load-{run:08x}-"), fillings: Vec::new() };
        let mut random = fastrand::Rng::with_seed(u64::from(run));
        content.fillings = (0..VARIANTS).map(|_| content.filling(&mut random, message_bytes)).collect();
        content
    }

    /// The id of a collector.
    pub(super) fn collector(&self, number: usize) -> String {
        format!("{}{number}", self.prefix)
    }

    /// The number of a collector, if it is one of this run's.
    pub(super) fn number(&self, collector: &[u8]) -> Option<usize> {
        digits(collector.strip_prefix(self.prefix.as_bytes())?).map(|(number, _)| number as usize)
    }

    /// Whether `filters` let through what a collector sends.
    pub(super) fn passes(&self, number: usize, filters: &FilterSet) -> bool {
        let Ok(id) = CollectorId::new(&self.collector(number)) else { return false };
        let channel = Channel::new(id, MEASUREMENT);
        let part = part(number).to_string();
        match filters.matches_channel(&channel) {
            Match::No => false,
            Match::Whole => true,
            Match::Lines => {
                filters.matches_line(&channel, |key| (key == "part").then(|| part.as_str().into()))
            }
        }
    }

    /// Appends the line with this count.
    pub(super) fn write_line(&self, out: &mut Vec<u8>, collector: usize, count: u32, sent_ns: u64) {
        let filling = &self.fillings[(u64::from(count) % VARIANTS) as usize];
        write_line(out, collector, count, sent_ns, filling);
    }

    /// Fields that make the message as long as wanted.
    fn filling(&self, random: &mut fastrand::Rng, message_bytes: usize) -> String {
        /// JSON puts a field's name into quotes.
        const QUOTES: usize = 2;
        /// Commas, quotes and the name of the field that fills up what is left.
        const PAD: usize = r#","pad":"""#.len();
        let mut filling = String::new();
        let mut missing = message_bytes.saturating_sub(self.least_client_bytes());
        for number in 0.. {
            let value = random.u32(10_000..100_000);
            let field = format!(",m{number}={}.{:02}", value / 100, value % 100);
            // Room for the last one is left: it cannot be empty.
            let Some(rest) = missing.checked_sub(field.len() + QUOTES).filter(|rest| *rest > PAD) else {
                break;
            };
            filling.push_str(&field);
            missing = rest;
        }
        if missing > PAD {
            let text: String = (PAD..missing).map(|_| random.alphanumeric()).collect();
            filling.push_str(&format!(",pad=\"{text}\""));
        }
        filling
    }

    /// The length of a message without a filling as a client gets it, within the few bytes that numbers and offsets vary by.
    fn least_client_bytes(&self) -> usize {
        // An offset of one shard has 24 characters for most of its life.
        const OFFSET: &str = "AAAAAAAAAAAAAAAAAAAAAAAA";
        const SOME_TIME_NS: u64 = 1_800_000_000_000_000_000;
        let mut text = Vec::new();
        write_line(&mut text, 1, 10_000, SOME_TIME_NS, "");
        let mut shown = Vec::new();
        message::write_metrics_open(&mut shown, OFFSET, &self.collector(1));
        json::write_metrics(&mut shown, line::lines(&text).filter_map(Result::ok), 0);
        shown.len() + 1
    }
}

fn part(collector: usize) -> usize {
    collector % PARTS
}

fn write_line(out: &mut Vec<u8>, collector: usize, count: u32, sent_ns: u64, filling: &str) {
    // Writing into memory cannot fail.
    let _ = write!(
        out,
        "{MEASUREMENT},part={} seq={count}i,sent_ns={sent_ns}i{filling} {sent_ns}",
        part(collector)
    );
}

/// The message that carries metrics, taken apart no further than a client that counts needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Metrics<'a> {
    /// Where the client is with it; the token's characters.
    pub(super) offset: &'a [u8],
    /// Whose metrics they are, as JSON spells it.
    pub(super) collector: &'a [u8],
    /// The metrics as JSON.
    metrics: &'a [u8],
}

/// One line of an own collector.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Proof {
    /// The collector's count.
    pub(super) count: u32,
    /// When the line was written.
    pub(super) sent_ns: u64,
}

impl<'a> Metrics<'a> {
    /// Recognises the message by the bytes that every edge begins it with; `None` is some other message.
    pub(super) fn parse(message: &'a [u8]) -> Option<Self> {
        let rest = message.strip_prefix(br#"{"type":"metrics","offset":""#)?;
        // Neither tokens nor own ids need escapes.
        let (offset, rest) = rest.split_at(memchr::memchr(b'"', rest)?);
        let rest = rest.strip_prefix(br#"","collector":""#)?;
        let (collector, metrics) = rest.split_at(memchr::memchr(b'"', rest)?);
        Some(Self { offset, collector, metrics })
    }

    /// What the lines of an own collector prove, in their order.
    pub(super) fn proofs(&self, marks: &Marks) -> impl Iterator<Item = Proof> {
        let mut rest = self.metrics;
        std::iter::from_fn(move || {
            let at = marks.0.find(rest)?;
            let (count, after) = digits(&rest[at + COUNT_MARK.len()..])?;
            let (sent_ns, after) = digits(after.strip_prefix(TIME_MARK)?)?;
            rest = after;
            Some(Proof { count: u32::try_from(count).ok()?, sent_ns })
        })
    }
}

/// What is searched for, prepared once.
#[derive(Debug)]
pub(super) struct Marks(memmem::Finder<'static>);

impl Marks {
    pub(super) fn new() -> Self {
        Self(memmem::Finder::new(COUNT_MARK))
    }
}

/// The number at the front, and what follows it.
fn digits(bytes: &[u8]) -> Option<(u64, &[u8])> {
    let end = bytes.iter().position(|byte| !byte.is_ascii_digit()).unwrap_or(bytes.len());
    let (digits, rest) = bytes.split_at(end);
    let add = |number: u64, digit: &u8| number.checked_mul(10)?.checked_add(u64::from(digit - b'0'));
    let number = digits.iter().try_fold(0, add)?;
    (end > 0).then_some((number, rest))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::offset::{Epoch, Offset};
    use proptest::prelude::*;

    /// The message as an edge writes it.
    fn message(content: &Content, collector: usize, counts: &[u32], sent_ns: u64) -> Vec<u8> {
        let mut lines = Vec::new();
        for count in counts {
            content.write_line(&mut lines, collector, *count, sent_ns);
            lines.push(b'\n');
        }
        let offset = Offset { epoch: Epoch(1 << 60), sequences: [5_000_000].into_iter().collect() };
        let mut message = Vec::new();
        message::write_metrics_open(&mut message, &offset.token(), &content.collector(collector));
        json::write_metrics(&mut message, line::lines(&lines).map(Result::unwrap), 0);
        message.push(b'}');
        message
    }

    proptest! {
        #[test]
        fn what_a_collector_writes_a_client_reads(
            run: u32, collector in 0usize..10_000, counts in prop::collection::vec(any::<u32>(), 1..4),
            sent_ns in 1_700_000_000_000_000_000u64..1_900_000_000_000_000_000, bytes in 0usize..3_000,
        ) {
            let content = Content::new(run, bytes);
            let message = message(&content, collector, &counts, sent_ns);
            let metrics = Metrics::parse(&message).unwrap();
            prop_assert_eq!(content.number(metrics.collector), Some(collector));
            let marks = Marks::new();
            let proofs: Vec<Proof> = metrics.proofs(&marks).collect();
            let expected: Vec<Proof> = counts.iter().map(|count| Proof { count: *count, sent_ns }).collect();
            prop_assert_eq!(proofs, expected);
        }

        #[test]
        fn any_bytes_are_read_without_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let bytes = [br#"{"type":"metrics","offset":"a","collector":"b","fields":{"seq":"#, &bytes[..]].concat();
            if let Some(metrics) = Metrics::parse(&bytes) {
                let marks = Marks::new();
                prop_assert!(metrics.proofs(&marks).count() <= bytes.len());
            }
        }
    }

    #[test]
    fn a_message_has_about_the_size_that_was_asked_for() {
        for bytes in [256, 512, 1_000, 4_096] {
            let content = Content::new(7, bytes);
            let got = message(&content, 1, &[12_345], 1_795_323_015_000_000_000).len();
            assert!(got.abs_diff(bytes) <= 8, "{got} instead of {bytes}");
        }
        let least = message(&Content::new(7, 0), 1, &[1], 1_795_323_015_000_000_000).len();
        assert!(least < 215, "{least}");
    }

    #[test]
    fn others_are_not_taken_for_own() {
        let content = Content::new(7, 0);
        for id in ["load-00000008-1", "load-00000007-", "load-7-1", "web-01", ""] {
            assert_eq!(content.number(id.as_bytes()), None, "{id}");
        }
        assert!(Metrics::parse(br#"{"type":"heartbeat","offset":"x"}"#).is_none());
    }

    #[test]
    fn filters_choose_among_own_collectors() {
        let content = Content::new(7, 0);
        let passing = |filter: &str| -> Vec<usize> {
            let filters = FilterSet::parse([filter]).unwrap();
            (0..20).filter(|number| content.passes(*number, &filters)).collect()
        };
        assert_eq!(passing("*.load").len(), 20);
        assert!(passing("*.cpu").is_empty());
        assert_eq!(passing("load-00000007-3.*"), [3]);
        assert_eq!(passing("*.load{part=3}"), [3, 19]);
        assert!(content.passes(1, &FilterSet::default()));
    }
}
