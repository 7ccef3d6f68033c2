//! Influx line protocol, as InfluxDB and Telegraf write and read it: the format of the log, and the product's hot path.
//!
//! [`lines`] finds and validates lines in one pass without allocating; a [`Line`] is slices of the input, and only who
//! asks for its parts pays for them. Nothing is repaired: a line is passed on as it was written, or refused with its place.
//!
//! Escapes: outside quotes a delimiter is part of a name exactly when a backslash stands before it, whatever stands before
//! that backslash; every other backslash is itself (InfluxDB 1.x and 2.x, and Telegraf in tags). Inside quotes `\"` and `\\`.

mod error;
mod keys;
mod physical;
mod precision;
mod scan;
mod series;
#[cfg(test)]
mod tests;
mod value;
mod write;

use std::borrow::Cow;

pub use error::{LineError, LineErrorKind, LineFault};
pub(in crate::proto) use keys::repeated;
pub use physical::{read_physical, write_physical};
pub use precision::{Precision, PrecisionError};
pub use scan::BYTE_ORDER_MARK;
pub(in crate::proto) use scan::closing_quote;
pub use series::{add_missing_fields, merge_fields, series_tags};
pub use value::{Fields, Tags};
pub(in crate::proto) use value::{
    RawFields, RawTags, RawValue, unescape_key, unescape_name, unescape_string,
};
pub use write::{Unwritable, write_metric};

use crate::proto::metric::{FieldValue, Metric};

/// Iterates over the lines of `input`, skipping blank ones and comments. A newline inside a quoted string belongs to the
/// string. A bad line never costs its neighbours: after it, reading resumes at the next raw newline (behind the last
/// string that did close, so that the text inside a string never passes for a line of its own). A byte order mark before a line
/// is no part of it: files of Windows programs begin with one, and files are joined.
pub fn lines(input: &[u8]) -> Lines<'_> {
    Lines { input, text: std::str::from_utf8(input).ok(), at: 0, counted_to: 0, newlines: 0 }
}

/// See [`lines`].
#[derive(Clone, Debug)]
pub struct Lines<'a> {
    input: &'a [u8],
    /// The whole input, when all of it is UTF-8; else each line is checked for itself, so that only the bad one is lost.
    text: Option<&'a str>,
    at: usize,
    /// Newlines are counted up to the last error only: input without errors is not counted at all.
    counted_to: usize,
    newlines: usize,
}

/// One valid line, as it was written. Every accessor returns slices of it, or a copy where an escape stands in the way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Line<'a> {
    text: &'a str,
    measurement_end: usize,
    series_end: usize,
    body_end: usize,
    timestamp: Option<i64>,
}

impl<'a> Line<'a> {
    /// The whole line, without the white space around it.
    pub fn text(&self) -> &'a str {
        self.text
    }

    /// The line without its timestamp and the space before that.
    pub fn body(&self) -> &'a str {
        &self.text[..self.body_end]
    }

    /// Measurement and tags, as written.
    pub fn series(&self) -> &'a str {
        &self.text[..self.series_end]
    }

    /// The measurement, as written.
    pub fn measurement_escaped(&self) -> &'a str {
        &self.text[..self.measurement_end]
    }

    /// The measurement.
    pub fn measurement(&self) -> Cow<'a, str> {
        unescape_name(self.measurement_escaped())
    }

    /// The value of one tag.
    pub fn tag(&self, key: &str) -> Option<Cow<'a, str>> {
        self.tags().find_map(|(name, value)| (name == key).then_some(value))
    }

    /// Tag keys and values, in the order written. No key comes twice.
    pub fn tags(&self) -> Tags<'a> {
        Tags::new(self.raw_tags())
    }

    /// Field keys and values, in the order written. There is at least one. Of a key that comes twice the last value counts.
    pub fn fields(&self) -> Fields<'a> {
        Fields::new(self.raw_fields())
    }

    /// The time as written; its unit is known to whoever received the line.
    pub fn timestamp(&self) -> Option<i64> {
        self.timestamp
    }

    /// Everything the line says, its timestamp read in `precision`. Fails only where the time has no place in 64 bits of
    /// nanoseconds (years 1677 to 2262).
    pub fn to_metric(&self, precision: Precision) -> Result<Metric<'a>, LineErrorKind> {
        let timestamp_ns = match self.timestamp {
            Some(raw) => Some(precision.to_nanoseconds(raw).ok_or(LineErrorKind::TimestampOutOfRange)?),
            None => None,
        };
        let fields: Vec<(Cow<'a, str>, FieldValue<'a>)> = self.fields().collect();
        Ok(Metric { name: self.measurement(), tags: self.tags().collect(), fields, timestamp_ns })
    }

    pub(in crate::proto) fn raw_tags(&self) -> RawTags<'a> {
        RawTags::new(&self.text[self.measurement_end..self.series_end])
    }

    pub(in crate::proto) fn raw_fields(&self) -> RawFields<'a> {
        RawFields::new(self.fields_text())
    }
}

impl<'a> Iterator for Lines<'a> {
    type Item = Result<Line<'a>, LineError>;

    fn next(&mut self) -> Option<Self::Item> {
        let start = scan::next_line_start(self.input, self.at)?;
        match scan::scan(self.input, start) {
            Ok(shape) => {
                self.at = shape.end;
                Some(self.line(start, &shape))
            }
            Err(fault) => {
                let end = memchr::memchr(b'\n', &self.input[fault.resume_from..])
                    .map_or(self.input.len(), |offset| fault.resume_from + offset);
                self.at = end;
                Some(Err(self.syntax_error(start, end, &fault)))
            }
        }
    }
}

impl<'a> Lines<'a> {
    fn line(&mut self, start: usize, shape: &scan::Shape) -> Result<Line<'a>, LineError> {
        let text = match self.text {
            Some(text) => &text[start..shape.text_end],
            None => std::str::from_utf8(&self.input[start..shape.text_end])
                .map_err(|e| self.error(start + e.valid_up_to(), LineErrorKind::InvalidUtf8))?,
        };
        Ok(Line {
            text,
            measurement_end: shape.measurement_end - start,
            series_end: shape.series_end - start,
            body_end: shape.body_end - start,
            timestamp: shape.timestamp,
        })
    }

    /// Bytes that are no text at all are named as such, rather than as the syntax error they happen to make as well.
    fn syntax_error(&mut self, start: usize, end: usize, fault: &scan::Fault) -> LineError {
        match (self.text, std::str::from_utf8(&self.input[start..end])) {
            (None, Err(e)) => self.error(start + e.valid_up_to(), LineErrorKind::InvalidUtf8),
            _ => self.error(fault.at, fault.kind),
        }
    }

    fn error(&mut self, at: usize, kind: LineErrorKind) -> LineError {
        // A string that was closed wrongly is reported behind it, but reading resumes inside it: errors may go backwards.
        if at >= self.counted_to {
            self.newlines += memchr::memchr_iter(b'\n', &self.input[self.counted_to..at]).count();
        } else {
            self.newlines -= memchr::memchr_iter(b'\n', &self.input[at..self.counted_to]).count();
        }
        self.counted_to = at;
        let line_start = memchr::memrchr(b'\n', &self.input[..at]).map_or(0, |newline| newline + 1);
        // Columns count characters: every byte that does not continue one.
        let characters = self.input[line_start..at].iter().filter(|byte| **byte & 0xC0 != 0x80).count();
        LineError { line: self.newlines + 1, column: characters + 1, kind }
    }
}
