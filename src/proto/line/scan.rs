//! The scanner: one pass over the bytes of one line, validating everything and allocating nothing.

use std::str::FromStr;

use super::error::LineErrorKind::{self, *};
use super::keys::repeated;
use super::value::RawTags;

/// Where the parts of a valid line end, as positions in the input.
pub(super) struct Shape {
    pub(super) measurement_end: usize,
    pub(super) series_end: usize,
    pub(super) body_end: usize,
    /// Behind the last byte that is not white space.
    pub(super) text_end: usize,
    /// The newline, or the end of the input.
    pub(super) end: usize,
    pub(super) timestamp: Option<i64>,
}

/// What is wrong, where, and from where to look for the next line.
pub(super) struct Fault {
    pub(super) at: usize,
    pub(super) kind: LineErrorKind,
    pub(super) resume_from: usize,
}

/// U+FEFF, in UTF-8.
pub const BYTE_ORDER_MARK: &[u8] = b"\xEF\xBB\xBF";

/// The first byte of the next line that is neither blank nor a comment.
pub(super) fn next_line_start(input: &[u8], mut at: usize) -> Option<usize> {
    loop {
        match input.get(at)? {
            0xEF if input[at..].starts_with(BYTE_ORDER_MARK) => at += BYTE_ORDER_MARK.len(),
            b' ' | b'\t' | b'\n' | b'\r' => at += 1,
            b'#' => at += memchr::memchr(b'\n', &input[at..])?,
            _ => return Some(at),
        }
    }
}

/// Validates the line that begins at `start`.
pub(super) fn scan(input: &[u8], start: usize) -> Result<Shape, Fault> {
    let mut scanner = Scanner { input, at: start, closed: start };
    scanner.line().map_err(|(at, kind)| Fault { at, kind, resume_from: scanner.closed })
}

/// Ends a measurement, and any value without quotes.
pub(super) const PLAIN: u8 = 1;
/// Ends a tag's key or value, and a field's key.
pub(super) const KEYED: u8 = 2;

const STOPS: [u8; 256] = {
    let mut stops = [0; 256];
    stops[b',' as usize] = PLAIN | KEYED;
    stops[b' ' as usize] = PLAIN | KEYED;
    stops[b'\n' as usize] = PLAIN | KEYED;
    stops[b'=' as usize] = KEYED;
    stops
};

/// The first delimiter that no backslash precedes, or the first newline, or the end.
pub(super) fn token_end(input: &[u8], start: usize, stops: u8) -> usize {
    let mut at = start;
    loop {
        let stop = input[at..].iter().position(|byte| STOPS[usize::from(*byte)] & stops != 0);
        let Some(offset) = stop else { return input.len() };
        at += offset;
        let escaped = at > start && input[at - 1] == b'\\';
        if !escaped || input[at] == b'\n' {
            return at;
        }
        at += 1;
    }
}

/// The quote that closes the string opened at `open`. The rule is the same in line protocol and JSON.
pub(in crate::proto) fn closing_quote(input: &[u8], open: usize) -> Option<usize> {
    let mut at = open + 1;
    loop {
        at += memchr::memchr2(b'"', b'\\', input.get(at..)?)?;
        if input[at] == b'"' {
            return Some(at);
        }
        // The byte after a backslash closes nothing: it is escaped, or it is no quote.
        at += 2;
    }
}

fn parse<T: FromStr>(digits: &[u8]) -> Option<T> {
    std::str::from_utf8(digits).ok()?.parse().ok()
}

/// Whether `last` comes before `key`. Neighbours differ within few bytes: a loop takes a fraction of a call of the library.
fn ascends(last: &[u8], key: &[u8]) -> bool {
    let first_difference = last.iter().zip(key).find(|(one, other)| one != other);
    first_difference.map_or(last.len() < key.len(), |(one, other)| one < other)
}

struct Scanner<'a> {
    input: &'a [u8],
    at: usize,
    /// Behind the last string that was closed properly (else the line's start): text before it was understood, and is
    /// not read again after an error.
    closed: usize,
}

type Scan<T> = Result<T, (usize, LineErrorKind)>;

impl<'a> Scanner<'a> {
    fn line(&mut self) -> Scan<Shape> {
        if self.peek() == Some(b',') {
            return self.fail(EmptyMeasurement);
        }
        self.token(PLAIN);
        let measurement_end = self.at;
        // Telegraf sorts its tags, and what ascends has nothing twice.
        let mut last = &[][..];
        let mut ascending = true;
        while self.peek() == Some(b',') {
            let key = self.tag()?;
            ascending &= ascends(last, key);
            last = key;
        }
        let series_end = self.at;
        if !ascending {
            self.unrepeated(measurement_end, series_end)?;
        }
        self.space();
        if self.at_line_end() {
            return self.fail(MissingFields);
        }
        self.field()?;
        while self.peek() == Some(b',') {
            self.at += 1;
            self.field()?;
        }
        let body_end = self.at;
        self.space();
        if self.at_line_end() {
            return Ok(self.shape(measurement_end, series_end, body_end, body_end, None));
        }
        let timestamp = self.timestamp()?;
        let text_end = self.at;
        self.spaces();
        if !self.at_line_end() {
            return self.fail(TrailingText);
        }
        Ok(self.shape(measurement_end, series_end, body_end, text_end, Some(timestamp)))
    }

    fn shape(
        &self,
        measurement_end: usize,
        series_end: usize,
        body_end: usize,
        text_end: usize,
        timestamp: Option<i64>,
    ) -> Shape {
        Shape { measurement_end, series_end, body_end, text_end, end: self.at, timestamp }
    }

    /// `,key=value`, standing on the comma; returns the key.
    fn tag(&mut self) -> Scan<&'a [u8]> {
        self.at += 1;
        let start = self.at;
        let length = self.token(KEYED);
        if length == 0 {
            return self.fail(MissingTagKey);
        }
        if self.peek() != Some(b'=') {
            return self.fail(MissingTagValue);
        }
        self.at += 1;
        if self.token(KEYED) == 0 {
            return self.fail(MissingTagValue);
        }
        if self.peek() == Some(b'=') {
            return self.fail(UnescapedEquals);
        }
        Ok(&self.input[start..start + length])
    }

    /// Refuses a key that comes twice among tags in any order, at its second place.
    #[cold]
    #[inline(never)]
    fn unrepeated(&self, measurement_end: usize, series_end: usize) -> Scan<()> {
        // What is no text is refused for that, once the line has been scanned.
        let Ok(tags) = std::str::from_utf8(&self.input[measurement_end..series_end]) else { return Ok(()) };
        match repeated(RawTags::new(tags).map(|(key, _)| key)) {
            None => Ok(()),
            Some((_, key)) => Err((key.as_ptr() as usize - self.input.as_ptr() as usize, RepeatedTag)),
        }
    }

    /// `key=value`, standing on the key.
    fn field(&mut self) -> Scan<()> {
        if self.token(KEYED) == 0 {
            return self.fail(MissingFieldKey);
        }
        if self.peek() != Some(b'=') {
            return self.fail(MissingFieldValue);
        }
        self.at += 1;
        match self.peek() {
            Some(b'"') => self.string(),
            Some(b'0'..=b'9' | b'-' | b'.') => self.number(),
            Some(b't' | b'T' | b'f' | b'F') => self.boolean(),
            _ => self.fail(self.other_value()),
        }
    }

    /// Skips a name; returns how long it is.
    fn token(&mut self, stops: u8) -> usize {
        let start = self.at;
        self.at = token_end(self.input, start, stops);
        // The carriage return of a line end is no part of the name before it.
        if self.at > start && self.input[self.at - 1] == b'\r' && matches!(self.peek(), None | Some(b'\n')) {
            self.at -= 1;
        }
        self.at - start
    }

    fn string(&mut self) -> Scan<()> {
        let Some(close) = closing_quote(self.input, self.at) else { return self.fail(UnterminatedString) };
        self.at = close + 1;
        if !self.at_value_end() {
            return self.fail(TextAfterString);
        }
        self.closed = self.at;
        Ok(())
    }

    fn number(&mut self) -> Scan<()> {
        let start = self.at;
        let negative = self.skip(b'-');
        let whole = self.digits();
        let decimal = self.skip(b'.');
        let fraction = if decimal { self.digits() } else { 0 };
        if whole + fraction == 0 {
            return Err((start, self.other_number(start)));
        }
        let exponent = matches!(self.peek(), Some(b'e' | b'E'));
        if exponent {
            self.at += 1;
            if matches!(self.peek(), Some(b'+' | b'-')) {
                self.at += 1;
            }
            if self.digits() == 0 {
                return Err((start, BadNumber));
            }
        }
        let digits = &self.input[start..self.at];
        let suffix = self.peek().filter(|byte| !decimal && !exponent && matches!(byte, b'i' | b'u'));
        self.at += usize::from(suffix.is_some());
        if !self.at_value_end() || (negative && suffix == Some(b'u')) {
            return Err((start, BadNumber));
        }
        // Only numbers as long as the longest that fit are parsed to see whether they do.
        match suffix {
            Some(b'i') if whole >= 19 && parse::<i64>(digits).is_none() => Err((start, IntegerOutOfRange)),
            Some(b'u') if whole >= 20 && parse::<u64>(digits).is_none() => Err((start, IntegerOutOfRange)),
            None if (exponent || whole > 308) && !parse::<f64>(digits).is_some_and(f64::is_finite) => {
                Err((start, FloatOutOfRange))
            }
            _ => Ok(()),
        }
    }

    fn boolean(&mut self) -> Scan<()> {
        let start = self.at;
        self.token(PLAIN);
        match &self.input[start..self.at] {
            b"t" | b"T" | b"true" | b"True" | b"TRUE" | b"f" | b"F" | b"false" | b"False" | b"FALSE" => {
                Ok(())
            }
            _ => Err((start, BadBoolean)),
        }
    }

    fn timestamp(&mut self) -> Scan<i64> {
        let start = self.at;
        let negative = self.skip(b'-');
        let mut value = 0i64;
        let mut in_range = true;
        let mut digits = 0;
        // Counts down from zero, because the smallest number has no positive twin.
        while let Some(digit @ b'0'..=b'9') = self.peek() {
            digits += 1;
            self.at += 1;
            match value.checked_mul(10).and_then(|tens| tens.checked_sub(i64::from(digit - b'0'))) {
                Some(next) => value = next,
                None => in_range = false,
            }
        }
        if digits == 0 || !(self.peek() == Some(b' ') || self.at_line_end()) {
            return Err((start, BadTimestamp));
        }
        let value = if negative { Some(value) } else { value.checked_neg() };
        value.filter(|_| in_range).ok_or((start, TimestampOutOfRange))
    }

    /// What is wrong with a value that begins like nothing.
    fn other_value(&self) -> LineErrorKind {
        if self.at_value_end() {
            return MissingFieldValue;
        }
        match self.peek() {
            Some(b'+') => self.other_number(self.at),
            _ if self.is_not_finite(self.at) => NotFinite,
            _ => UnquotedString,
        }
    }

    fn other_number(&self, start: usize) -> LineErrorKind {
        if self.is_not_finite(start + 1) { NotFinite } else { BadNumber }
    }

    fn is_not_finite(&self, start: usize) -> bool {
        let rest = &self.input[start..];
        let word = &rest[..rest.iter().take(9).take_while(|byte| byte.is_ascii_alphabetic()).count()];
        [&b"nan"[..], b"inf", b"infinity"].iter().any(|other| word.eq_ignore_ascii_case(other))
    }

    fn digits(&mut self) -> usize {
        let start = self.at;
        while matches!(self.peek(), Some(b'0'..=b'9')) {
            self.at += 1;
        }
        self.at - start
    }

    /// Between series, fields and timestamp: a space ends the part before it, and tabs may follow, as in InfluxDB.
    fn space(&mut self) {
        if self.skip(b' ') {
            while matches!(self.peek(), Some(b' ' | b'\t')) {
                self.at += 1;
            }
        }
    }

    fn spaces(&mut self) {
        while self.peek() == Some(b' ') {
            self.at += 1;
        }
    }

    fn skip(&mut self, byte: u8) -> bool {
        let found = self.peek() == Some(byte);
        self.at += usize::from(found);
        found
    }

    fn peek(&self) -> Option<u8> {
        self.input.get(self.at).copied()
    }

    fn at_line_end(&self) -> bool {
        match self.peek() {
            None | Some(b'\n') => true,
            Some(b'\r') => matches!(self.input.get(self.at + 1), None | Some(b'\n')),
            _ => false,
        }
    }

    fn at_value_end(&self) -> bool {
        matches!(self.peek(), Some(b',' | b' ')) || self.at_line_end()
    }

    fn fail<T>(&self, kind: LineErrorKind) -> Scan<T> {
        Err((self.at, kind))
    }
}
