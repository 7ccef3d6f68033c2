//! Finding the elements of Telegraf JSON without parsing them, so that a broken one costs only itself.
//!
//! Only braces and strings are followed: whatever else is wrong inside an object, its end is where its braces balance.

use crate::proto::line::{BYTE_ORDER_MARK, closing_quote};

/// What there is at the top level or in an array of metrics.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Piece<'a> {
    /// `{…}`, braces balanced, nothing else known.
    Object(&'a [u8]),
    /// Something else where an object should be.
    Other,
    /// The input ends inside an object or an array.
    Truncated,
    /// After this, nothing can be told apart any more.
    Garbage,
}

/// Calls `each` for every metric of the input, in order. `false` if the input is neither an object nor an array.
pub(super) fn pieces<'a>(input: &'a [u8], mut each: impl FnMut(Piece<'a>)) -> bool {
    let mut at = skip_space_and_mark(input, 0);
    if !matches!(input.get(at), None | Some(b'{' | b'[')) {
        return false;
    }
    while let Some(byte) = input.get(at) {
        let next = match byte {
            b'[' => array(input, at, &mut each),
            b'{' => object(input, at, &mut each),
            _ => {
                each(Piece::Garbage);
                None
            }
        };
        let Some(next) = next else { break };
        at = skip_space_and_mark(input, next);
    }
    true
}

/// The elements of the array that opens at `open`; returns the place behind it, if it is closed.
fn array<'a>(input: &'a [u8], open: usize, each: &mut impl FnMut(Piece<'a>)) -> Option<usize> {
    let mut at = skip_space(input, open + 1);
    if input.get(at) == Some(&b']') {
        return Some(at + 1);
    }
    loop {
        let end = value_end(input, at);
        match (input.get(at), end) {
            (_, None) => {
                each(Piece::Truncated);
                return None;
            }
            (Some(b'{'), Some(end)) => each(Piece::Object(&input[at..end])),
            (_, Some(_)) => each(Piece::Other),
        }
        at = skip_space(input, end?);
        match input.get(at) {
            Some(b',') => at = skip_space(input, at + 1),
            Some(b']') => return Some(at + 1),
            None => {
                each(Piece::Truncated);
                return None;
            }
            Some(_) => {
                each(Piece::Garbage);
                return None;
            }
        }
    }
}

/// A metric, or an object whose `metrics` is an array of them (the array is all that counts of such an object).
fn object<'a>(input: &'a [u8], open: usize, each: &mut impl FnMut(Piece<'a>)) -> Option<usize> {
    let end = value_end(input, open);
    // A batch that was cut off still holds the metrics before the cut.
    match (batch_array(&input[..end.unwrap_or(input.len())], open), end) {
        (Some(array_open), end) => {
            array(&input[..end.unwrap_or(input.len())], array_open, each);
        }
        (None, Some(end)) => each(Piece::Object(&input[open..end])),
        (None, None) => each(Piece::Truncated),
    }
    end
}

/// Where the array `metrics` of the object at `open` begins, if it has one.
fn batch_array(input: &[u8], open: usize) -> Option<usize> {
    let mut at = skip_space(input, open + 1);
    while input.get(at) == Some(&b'"') {
        let close = closing_quote(input, at)?;
        let key = &input[at + 1..close];
        at = skip_space(input, close + 1);
        if input.get(at) != Some(&b':') {
            return None;
        }
        at = skip_space(input, at + 1);
        if key == b"metrics" && input.get(at) == Some(&b'[') {
            return Some(at);
        }
        at = skip_space(input, value_end(input, at)?);
        if input.get(at) != Some(&b',') {
            return None;
        }
        at = skip_space(input, at + 1);
    }
    None
}

/// Behind the value that begins at `start`, whatever it is; `None` if the input ends first.
fn value_end(input: &[u8], start: usize) -> Option<usize> {
    match input.get(start)? {
        b'{' => balanced_end(input, start, b'{', b'}'),
        b'[' => balanced_end(input, start, b'[', b']'),
        b'"' => Some(closing_quote(input, start)? + 1),
        _ => input[start..].iter().position(|byte| b",]} \t\r\n".contains(byte)).map(|length| start + length),
    }
}

/// Behind the `close` that balances the `open` at `start`. Depth is a number, not a stack: no nesting is too deep.
fn balanced_end(input: &[u8], start: usize, open: u8, close: u8) -> Option<usize> {
    let mut depth = 0usize;
    let mut at = start;
    loop {
        at += memchr::memchr3(b'"', open, close, &input[at..])?;
        if input[at] == b'"' {
            at = closing_quote(input, at)?;
        } else if input[at] == open {
            depth += 1;
        } else {
            depth -= 1;
            if depth == 0 {
                return Some(at + 1);
            }
        }
        at += 1;
    }
}

/// Files that begin with a byte order mark are joined, too.
fn skip_space_and_mark(input: &[u8], at: usize) -> usize {
    let at = skip_space(input, at);
    let rest = input.get(at..).unwrap_or_default();
    if rest.starts_with(BYTE_ORDER_MARK) { skip_space(input, at + BYTE_ORDER_MARK.len()) } else { at }
}

fn skip_space(input: &[u8], at: usize) -> usize {
    let rest = input.get(at..).unwrap_or_default();
    at + rest.iter().position(|byte| !b" \t\r\n".contains(byte)).unwrap_or(rest.len())
}
