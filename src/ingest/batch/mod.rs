//! Pure: the bytes of one message in, batches of normalised envelopes out.
//!
//! Nothing here waits, reads a clock or knows where bytes came from. A bad line is data: it is counted, the first few
//! are described, and its neighbours go on.

use std::borrow::Cow;

use bytes::Bytes;

pub(crate) use crate::ingest::batch::group::too_many_collectors;
use crate::ingest::batch::group::{Grouping, Misfit};
use crate::ingest::batch::times::Times;
use crate::ops::meters::{Label, LineRejection};
use crate::proto::channel::{Channel, CollectorId};
use crate::proto::json;
use crate::proto::line::{self, LineFault, Precision};

pub mod foreign;
mod group;
#[cfg(test)]
mod tests;
mod times;

/// How many bad lines of one message are described; all of them are counted.
pub const ERRORS_DESCRIBED_MAX: usize = 8;

pub use crate::ingest::batch::foreign::Foreign;
pub use crate::ingest::batch::times::Suspicious;
pub use crate::proto::channel::UNKNOWN_COLLECTOR;

/// How a message is to be read.
#[derive(Clone, Copy, Debug)]
pub struct Options<'a> {
    /// Unit of timestamps, when the collector named one. Without it line protocol counts nanoseconds and Telegraf's
    /// JSON seconds: their own defaults.
    pub precision: Option<Precision>,
    /// Whose metrics these are; without it, each line's `host` tag says so.
    pub collector: Option<&'a CollectorId>,
    /// The time of metrics that have none, in nanoseconds since 1970.
    pub received_ns: i64,
    /// Largest envelope, in bytes of lines.
    pub envelope_bytes_max: usize,
    /// What sets that bound, where it is not the configuration: the end of a sentence about a longer line.
    pub envelope_bound_by: Option<&'a str>,
    /// Collectors that one message may name.
    pub collectors_max: usize,
}

/// What a message held.
#[derive(Debug, Default)]
pub struct Decoded {
    /// One batch per collector, in order of first appearance.
    pub batches: Vec<CollectorBatch>,
    /// How many lines were not accepted, and why.
    pub rejected: Rejected,
    /// The first bad lines, at most [`ERRORS_DESCRIBED_MAX`].
    pub first_errors: Vec<BadLine>,
    /// Accepted lines whose times cannot be meant.
    pub suspicious: Suspicious,
    /// What it is, if not one line could be read and it looks like something else.
    pub foreign: Option<Foreign>,
}

/// The accepted part of a message that belongs to one collector.
#[derive(Debug)]
pub struct CollectorBatch {
    /// Whose.
    pub collector: CollectorId,
    /// Grouped by measurement in order of first appearance; within a measurement the order of the lines is kept.
    pub drafts: Vec<Draft>,
}

impl CollectorBatch {
    /// Metrics in all drafts.
    pub fn metrics(&self) -> u64 {
        self.drafts.iter().map(|draft| draft.metrics).sum()
    }

    /// Bytes of lines in all drafts.
    pub fn bytes(&self) -> usize {
        self.drafts.iter().map(|draft| draft.lines.len()).sum()
    }
}

/// An envelope that waits for its stamp.
#[derive(Clone, Debug)]
pub struct Draft {
    /// Who measured what.
    pub channel: Channel,
    /// Normalised lines, as [`crate::proto::envelope::Envelope`] defines them.
    pub lines: Bytes,
    /// How many.
    pub metrics: u64,
    /// Every line brought its own time, so equal content is the same measurement sent again.
    pub own_timestamps: bool,
}

impl Draft {
    /// Cuts it at the borders of lines into parts of at most `bytes_max`; a longer line is a part of its own.
    pub fn split(self, bytes_max: usize) -> Vec<Self> {
        if self.lines.len() <= bytes_max {
            return vec![self];
        }
        let parts = split_lines(&self.lines, bytes_max).into_iter();
        let part = |(lines, metrics)| Self { channel: self.channel.clone(), lines, metrics, ..self };
        parts.map(part).collect()
    }
}

/// Cuts normalised lines at their borders into parts of at most `bytes_max`, and counts each part's; a longer line is a part of its
/// own. The parts share the memory.
pub fn split_lines(lines: &Bytes, bytes_max: usize) -> Vec<(Bytes, u64)> {
    let mut parts = Vec::new();
    let (mut start, mut end, mut count) = (0, 0, 0);
    // What was accepted can be read again; if not, it stays as it is.
    for line in line::lines(lines).flatten() {
        let from = (line.text().as_ptr() as usize).saturating_sub(lines.as_ptr() as usize);
        let to = from + line.text().len();
        if count > 0 && to - start > bytes_max {
            parts.push((lines.slice(start..end), count));
            (start, count) = (from, 0);
        }
        (end, count) = (to, count + 1);
    }
    parts.push((lines.slice(start..), count.max(1)));
    parts
}

/// Counts of lines that were not accepted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rejected {
    counts: [u64; LineRejection::ALL.len()],
}

impl Rejected {
    /// All of them.
    pub fn total(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// Those of one kind.
    pub fn of(&self, kind: LineRejection) -> u64 {
        self.counts[kind.index()]
    }
}

/// A line that was not accepted, or of which its sender should know something.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BadLine {
    /// Counted from 1; the position of the object in a JSON batch. 0 where a line was read well, and refused with others like it.
    pub line: usize,
    /// Counted from 1, in characters; 0 where it has no meaning.
    pub column: usize,
    /// What is wrong.
    pub message: String,
}

impl std::fmt::Display for BadLine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match (self.line, self.column) {
            (0, _) => f.write_str(&self.message),
            (_, 0) => write!(f, "entry {}: {}", self.line, self.message),
            (_, column) => write!(f, "line {}, column {column}: {}", self.line, self.message),
        }
    }
}

impl Decoded {
    /// Accepted metrics.
    pub fn accepted(&self) -> u64 {
        self.batches.iter().map(CollectorBatch::metrics).sum()
    }

    /// Takes out the drafts for which there is a reason, and counts their lines as not accepted.
    pub fn refuse(&mut self, mut reason: impl FnMut(&Draft) -> Option<Refusal>) {
        let Self { batches, rejected, first_errors, .. } = self;
        for batch in &mut *batches {
            batch.drafts.retain(|draft| {
                let Some(Refusal { kind, message }) = reason(draft) else { return true };
                rejected.counts[kind.index()] += draft.metrics;
                if first_errors.len() < ERRORS_DESCRIBED_MAX {
                    first_errors.push(BadLine { line: 0, column: 0, message });
                }
                false
            });
        }
        batches.retain(|batch| !batch.drafts.is_empty());
    }

    fn reject(&mut self, kind: LineRejection, place: impl FnOnce() -> Place) {
        self.rejected.counts[kind.index()] += 1;
        if self.first_errors.len() < ERRORS_DESCRIBED_MAX {
            let Place { line, column, message } = place();
            self.first_errors.push(BadLine { line, column, message });
        }
    }
}

/// Why well-formed lines are not taken.
#[derive(Debug)]
pub struct Refusal {
    /// As they are counted.
    pub kind: LineRejection,
    /// What is wrong, and what to do.
    pub message: String,
}

/// See [`BadLine`].
struct Place {
    line: usize,
    column: usize,
    message: String,
}

/// Reads one message: Telegraf JSON if it begins with `{` or `[`, line protocol otherwise. (Content types lie: Telegraf's HTTP
/// output sends `text/plain` for every format.) A measurement may begin so as well: what does not read as JSON at all, and reads as
/// lines, is lines.
pub fn decode(bytes: &[u8], options: &Options<'_>) -> Decoded {
    let mut decoded = decode_either(bytes, options);
    if decoded.rejected.total() > 0 && decoded.accepted() == 0 {
        decoded.foreign = foreign::recognise(bytes);
    }
    decoded
}

fn decode_either(bytes: &[u8], options: &Options<'_>) -> Decoded {
    if !begins_like_json(bytes) {
        return decode_lines(bytes, options);
    }
    let json = decode_json(bytes, options);
    if json.accepted() > 0 || json.rejected.total() == 0 {
        return json;
    }
    let lines = decode_lines(bytes, options);
    if lines.accepted() > 0 { lines } else { json }
}

fn begins_like_json(mut bytes: &[u8]) -> bool {
    loop {
        bytes = bytes.trim_ascii_start();
        match bytes.strip_prefix(line::BYTE_ORDER_MARK) {
            Some(rest) => bytes = rest,
            None => return matches!(bytes.first(), Some(b'{' | b'[')),
        }
    }
}

fn decode_lines(bytes: &[u8], options: &Options<'_>) -> Decoded {
    let precision = options.precision.unwrap_or(Precision::Nanoseconds);
    let verbatim = precision == Precision::Nanoseconds;
    let mut decoded = Decoded::default();
    let mut grouping = Grouping::new(options);
    let mut times = Times::new(precision, options.received_ns);
    for result in line::lines(bytes) {
        let line = match result {
            Ok(line) => line,
            Err(error) => {
                decoded.reject(rejection(error.kind.rejection()), || Place {
                    line: error.line,
                    column: error.column,
                    message: error.kind.to_string(),
                });
                continue;
            }
        };
        let host = if options.collector.is_none() { line.tag("host") } else { None };
        let host = host.filter(|host| !host.is_empty());
        let placed = grouping.group(host, Cow::Borrowed(line.measurement_escaped()), || line.measurement());
        let added = placed.and_then(|group| match line.timestamp() {
            Some(raw) => match precision.to_nanoseconds(raw) {
                Some(time) => {
                    times.look(time, || (line_number(bytes, line.text()), 1));
                    if verbatim {
                        group.push_line(line.text().as_bytes(), true)
                    } else {
                        group.push(line.body().as_bytes(), time, true)
                    }
                }
                None => Err(out_of_range(raw, &times)),
            },
            None => group.push(line.body().as_bytes(), options.received_ns, false),
        });
        if let Err(misfit) = added {
            decoded.reject(misfit.kind, || Place {
                line: line_number(bytes, line.text()),
                column: 1,
                message: misfit.message,
            });
        }
    }
    decoded.batches = grouping.finish();
    decoded.suspicious = times.finish();
    decoded
}

fn decode_json(bytes: &[u8], options: &Options<'_>) -> Decoded {
    let mut decoded = Decoded::default();
    let at_entry = |line, message| Place { line, column: 0, message };
    let entries = match json::decode(bytes, options.precision.unwrap_or(Precision::Seconds)) {
        Ok(entries) => entries,
        Err(error) => {
            decoded.reject(rejection(error.kind.rejection()), || {
                at_entry(error.index + 1, error.kind.to_string())
            });
            return decoded;
        }
    };
    let mut grouping = Grouping::new(options);
    let mut text = Vec::new();
    let mut times = Times::new(options.precision.unwrap_or(Precision::Seconds), options.received_ns);
    for (index, entry) in entries.into_iter().enumerate() {
        let mut metric = match entry {
            Ok(metric) => metric,
            Err(error) => {
                decoded.reject(rejection(error.kind.rejection()), || {
                    at_entry(error.index + 1, error.kind.to_string())
                });
                continue;
            }
        };
        let own_timestamp = metric.timestamp_ns.is_some();
        if let Some(time) = metric.timestamp_ns {
            times.look(time, || (index + 1, 0));
        }
        metric.timestamp_ns.get_or_insert(options.received_ns);
        text.clear();
        if let Err(error) = line::write_metric(&mut text, &metric) {
            decoded.reject(LineRejection::Syntax, || at_entry(index + 1, error.to_string()));
            continue;
        }
        // A tag without a value is not written, so it names nobody either.
        let host = metric.tags.iter().find(|(key, host)| key == "host" && !host.is_empty());
        let host = host.filter(|_| options.collector.is_none()).map(|(_, host)| host.clone());
        let placed = grouping.group(host, metric.name.clone(), || metric.name.clone());
        if let Err(misfit) = placed.and_then(|group| group.push_line(&text, own_timestamp)) {
            decoded.reject(misfit.kind, || at_entry(index + 1, misfit.message));
        }
    }
    decoded.batches = grouping.finish();
    decoded.suspicious = times.finish();
    decoded
}

fn out_of_range(raw: i64, times: &Times) -> Misfit {
    let advice = match times.fitting(raw) {
        Some(unit) => format!(" (precision={unit} would fit)"),
        None => String::new(),
    };
    let message = format!("the timestamp {raw} does not fit into nanoseconds: check the precision{advice}");
    Misfit { kind: LineRejection::Range, message }
}

/// Which line of `bytes` its part `text` begins on. Only asked for lines that are described, which are few.
fn line_number(bytes: &[u8], text: &str) -> usize {
    let offset = (text.as_ptr() as usize).saturating_sub(bytes.as_ptr() as usize).min(bytes.len());
    memchr::memchr_iter(b'\n', &bytes[..offset]).count() + 1
}

fn rejection(fault: LineFault) -> LineRejection {
    match fault {
        LineFault::Syntax => LineRejection::Syntax,
        LineFault::Utf8 => LineRejection::Utf8,
        LineFault::Range => LineRejection::Range,
    }
}
