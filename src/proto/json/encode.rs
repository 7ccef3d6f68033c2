//! Lines to the JSON that clients get.

use std::borrow::Cow;
use std::collections::HashMap;

use crate::proto::line::{Line, RawFields, RawValue, repeated, unescape_key, unescape_name, unescape_string};
use crate::proto::printable::is_unprintable;

/// Up to so many fields of a line are told apart while they are written; of longer lines the keys are compared afterwards.
const COMPARED_MAX: usize = 16;

/// Appends a JSON array of the metrics of `lines`:
/// `[{"name":"cpu","tags":{…},"fields":{…},"timestamp":1700000000123},…]`.
///
/// Timestamps of the lines are nanoseconds, `fallback_ns` stands in for missing ones; written are milliseconds, rounded down.
/// Numbers are written as the collector wrote them wherever that is JSON, so no float changes on its way.
pub fn write_metrics<'a>(out: &mut Vec<u8>, lines: impl Iterator<Item = Line<'a>>, fallback_ns: i64) {
    out.push(b'[');
    for (index, line) in lines.enumerate() {
        out.extend_from_slice(if index == 0 { b"{" } else { b",{" });
        write_members(out, &line, fallback_ns);
        out.push(b'}');
    }
    out.push(b']');
}

/// Appends the members of one metric's object, without the braces, for callers that add members of their own.
pub fn write_members(out: &mut Vec<u8>, line: &Line<'_>, fallback_ns: i64) {
    out.extend_from_slice(b"\"name\":");
    write_unescaped(out, line.measurement_escaped(), unescape_name);
    out.extend_from_slice(b",\"tags\":{");
    for (index, (key, value)) in line.raw_tags().enumerate() {
        write_key(out, index, key);
        write_unescaped(out, value, unescape_key);
    }
    out.extend_from_slice(b"},\"fields\":{");
    write_fields(out, line.raw_fields());
    out.extend_from_slice(b"},\"timestamp\":");
    let timestamp_ms = line.timestamp().unwrap_or(fallback_ns).div_euclid(1_000_000);
    out.extend_from_slice(itoa::Buffer::new().format(timestamp_ms).as_bytes());
}

/// Of a field that the line repeats the last value counts, and no object has a member twice.
#[inline]
fn write_fields<'a>(out: &mut Vec<u8>, fields: RawFields<'a>) {
    let start = out.len();
    let mut seen = [0u32; COMPARED_MAX];
    let mut doubtful = false;
    for (index, (key, value)) in fields.clone().enumerate() {
        let sample = sample(key);
        doubtful |= index >= COMPARED_MAX || seen[..index].contains(&sample);
        if let Some(slot) = seen.get_mut(index) {
            *slot = sample;
        }
        write_key(out, index, key);
        write_value(out, value);
    }
    if doubtful && repeated(fields.clone().map(|(key, _)| key)).is_some() {
        out.truncate(start);
        write_last_fields(out, fields);
    }
}

/// Equal for equal keys, and hardly ever for others: how long a key is, and three of its bytes.
#[inline]
fn sample(key: &str) -> u32 {
    let bytes = key.as_bytes();
    let at = |index: usize| bytes.get(index).copied().unwrap_or_default();
    u32::from_le_bytes([bytes.len() as u8, at(0), at(bytes.len() / 2), at(bytes.len().wrapping_sub(1))])
}

#[cold]
#[inline(never)]
fn write_last_fields<'a>(out: &mut Vec<u8>, fields: RawFields<'a>) {
    let last: HashMap<&str, usize> =
        fields.clone().enumerate().map(|(place, (key, _))| (key, place)).collect();
    let counting = fields.enumerate().filter(|(place, (key, _))| last.get(key) == Some(place));
    for (index, (_, (key, value))) in counting.enumerate() {
        write_key(out, index, key);
        write_value(out, value);
    }
}

/// Appends `text` as a JSON string, quotes included. What would steer a terminal is an escape, so JSON may be shown as it is.
pub fn write_string(out: &mut Vec<u8>, text: &str) {
    out.push(b'"');
    let bytes = text.as_bytes();
    let mut copied = 0;
    for (at, byte) in bytes.iter().enumerate() {
        if !may_need_escape(*byte) {
            continue;
        }
        if !byte.is_ascii() {
            // Nothing at a byte in the middle of a character.
            let character = text.get(at..).and_then(|rest| rest.chars().next());
            if let Some(character) = character.filter(|character| is_unprintable(*character)) {
                out.extend_from_slice(&bytes[copied..at]);
                copied = at + character.len_utf8();
                character.encode_utf16(&mut [0; 2]).iter().for_each(|unit| write_unit(out, *unit));
            }
            continue;
        }
        out.extend_from_slice(&bytes[copied..at]);
        copied = at + 1;
        match byte {
            b'"' => out.extend_from_slice(b"\\\""),
            b'\\' => out.extend_from_slice(b"\\\\"),
            b'\n' => out.extend_from_slice(b"\\n"),
            b'\r' => out.extend_from_slice(b"\\r"),
            b'\t' => out.extend_from_slice(b"\\t"),
            _ => write_unit(out, u16::from(*byte)),
        }
    }
    out.extend_from_slice(&bytes[copied..]);
    out.push(b'"');
}

/// A unit of UTF-16 as an escape.
fn write_unit(out: &mut Vec<u8>, unit: u16) {
    const HEX: &[u8; 16] = b"0123456789abcdef";
    out.extend_from_slice(b"\\u");
    out.extend([12, 8, 4, 0].map(|shift| HEX[usize::from(unit >> shift & 15)]));
}

/// Text without a backslash is the same in line protocol and outside it, and mostly needs no escape in JSON either: one
/// look finds out both.
fn write_unescaped(out: &mut Vec<u8>, text: &str, unescape: fn(&str) -> Cow<'_, str>) {
    if text.bytes().any(may_need_escape) {
        return write_string(out, &unescape(text));
    }
    out.push(b'"');
    out.extend_from_slice(text.as_bytes());
    out.push(b'"');
}

/// RFC 8259 §7: quotes, backslashes and control characters below 0x20. Of the others, those that steer a terminal are not ASCII,
/// but for one.
fn may_need_escape(byte: u8) -> bool {
    !(0x20..0x7f).contains(&byte) || byte == b'"' || byte == b'\\'
}

fn write_key(out: &mut Vec<u8>, index: usize, key: &str) {
    if index > 0 {
        out.push(b',');
    }
    write_unescaped(out, key, unescape_key);
    out.push(b':');
}

fn write_value(out: &mut Vec<u8>, value: RawValue<'_>) {
    match value {
        RawValue::Float(text) | RawValue::Integer(text) | RawValue::Unsigned(text) => write_number(out, text),
        RawValue::Boolean(value) => out.extend_from_slice(if value { b"true" } else { b"false" }),
        RawValue::String(text) => write_unescaped(out, text, unescape_string),
    }
}

/// Line protocol also writes numbers as `007`, `5.` and `.5`, which are no JSON (RFC 8259 §6): those get the digits they lack,
/// or lose those they have too many.
fn write_number(out: &mut Vec<u8>, text: &str) {
    let bytes = text.as_bytes();
    let (sign, magnitude) = bytes.split_at(usize::from(bytes.first() == Some(&b'-')));
    let whole = magnitude.iter().position(|byte| !byte.is_ascii_digit()).unwrap_or(magnitude.len());
    let zeros = magnitude[..whole].iter().take_while(|byte| **byte == b'0').count();
    out.extend_from_slice(sign);
    if zeros == whole {
        out.push(b'0');
    }
    out.extend_from_slice(&magnitude[zeros..whole]);
    let rest = &magnitude[whole..];
    match rest {
        [b'.'] => {}
        [b'.', next, ..] if !next.is_ascii_digit() => out.extend_from_slice(&rest[1..]),
        _ => out.extend_from_slice(rest),
    }
}
