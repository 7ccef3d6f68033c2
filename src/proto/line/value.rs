//! Reading the parts of a line that the scanner has validated: first as written, then unescaped and typed.

use std::borrow::Cow;

use super::scan::{KEYED, PLAIN, closing_quote, token_end};
use crate::proto::metric::FieldValue;

/// Tag keys and values of a line; see [`super::Line::tags`].
#[derive(Clone, Debug)]
pub struct Tags<'a>(RawTags<'a>);

/// Field keys and values of a line; see [`super::Line::fields`].
#[derive(Clone, Debug)]
pub struct Fields<'a>(RawFields<'a>);

impl<'a> Tags<'a> {
    pub(super) fn new(raw: RawTags<'a>) -> Self {
        Self(raw)
    }
}

impl<'a> Fields<'a> {
    pub(super) fn new(raw: RawFields<'a>) -> Self {
        Self(raw)
    }
}

impl<'a> Iterator for Tags<'a> {
    type Item = (Cow<'a, str>, Cow<'a, str>);

    fn next(&mut self) -> Option<Self::Item> {
        let (key, value) = self.0.next()?;
        Some((unescape_key(key), unescape_key(value)))
    }
}

impl<'a> Iterator for Fields<'a> {
    type Item = (Cow<'a, str>, FieldValue<'a>);

    fn next(&mut self) -> Option<Self::Item> {
        let (key, value) = self.0.next()?;
        Some((unescape_key(key), value.typed()))
    }
}

/// Tags as written.
#[derive(Clone, Debug)]
pub(in crate::proto) struct RawTags<'a> {
    /// What is left: `,key=value,key=value`.
    rest: &'a str,
}

impl<'a> RawTags<'a> {
    pub(super) fn new(rest: &'a str) -> Self {
        Self { rest }
    }
}

impl<'a> Iterator for RawTags<'a> {
    type Item = (&'a str, &'a str);

    fn next(&mut self) -> Option<Self::Item> {
        let rest = self.rest.strip_prefix(',')?;
        let key_end = token_end(rest.as_bytes(), 0, KEYED);
        let value_start = (key_end + 1).min(rest.len());
        let value_end = token_end(rest.as_bytes(), value_start, KEYED);
        self.rest = &rest[value_end..];
        Some((&rest[..key_end], &rest[value_start..value_end]))
    }
}

/// A field's value as written, without quotes and suffix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::proto) enum RawValue<'a> {
    Float(&'a str),
    Integer(&'a str),
    Unsigned(&'a str),
    Boolean(bool),
    String(&'a str),
}

impl<'a> RawValue<'a> {
    fn new(text: &'a str) -> Self {
        let (head, last) = text.split_at(text.len().saturating_sub(1));
        match (text.as_bytes().first(), last) {
            (Some(b'"'), _) => Self::String(head.get(1..).unwrap_or_default()),
            (Some(b't' | b'T'), _) => Self::Boolean(true),
            (Some(b'f' | b'F'), _) => Self::Boolean(false),
            (_, "i") => Self::Integer(head),
            (_, "u") => Self::Unsigned(head),
            _ => Self::Float(text),
        }
    }

    /// The numbers were validated when the line was scanned; what they default to here is never seen.
    fn typed(self) -> FieldValue<'a> {
        match self {
            Self::Float(text) => FieldValue::Float(text.parse().unwrap_or_default()),
            Self::Integer(text) => FieldValue::Integer(text.parse().unwrap_or_default()),
            Self::Unsigned(text) => FieldValue::Unsigned(text.parse().unwrap_or_default()),
            Self::Boolean(value) => FieldValue::Boolean(value),
            Self::String(text) => FieldValue::String(unescape_string(text)),
        }
    }
}

/// Fields as written.
#[derive(Clone, Debug)]
pub(in crate::proto) struct RawFields<'a> {
    /// What is left: `key=value,key=value`.
    rest: &'a str,
}

impl<'a> RawFields<'a> {
    pub(super) fn new(rest: &'a str) -> Self {
        Self { rest }
    }

    /// What has not been read yet.
    pub(super) fn rest(&self) -> &'a str {
        self.rest
    }
}

impl<'a> Iterator for RawFields<'a> {
    type Item = (&'a str, RawValue<'a>);

    fn next(&mut self) -> Option<Self::Item> {
        let bytes = self.rest.as_bytes();
        if bytes.is_empty() {
            return None;
        }
        let key_end = token_end(bytes, 0, KEYED);
        let value_start = (key_end + 1).min(bytes.len());
        let value_end = match bytes.get(value_start) {
            Some(b'"') => closing_quote(bytes, value_start)? + 1,
            _ => token_end(bytes, value_start, PLAIN),
        };
        let (key, value) = (&self.rest[..key_end], &self.rest[value_start..value_end]);
        self.rest = self.rest.get(value_end + 1..).unwrap_or_default();
        Some((key, RawValue::new(value)))
    }
}

/// A measurement without its escapes.
pub(in crate::proto) fn unescape_name(text: &str) -> Cow<'_, str> {
    unescape(text, b", ")
}

/// A tag's key or value, or a field's key, without its escapes.
pub(in crate::proto) fn unescape_key(text: &str) -> Cow<'_, str> {
    unescape(text, b",= ")
}

/// The text of a quoted field without its escapes.
pub(in crate::proto) fn unescape_string(text: &str) -> Cow<'_, str> {
    unescape(text, b"\"\\")
}

/// Drops each backslash that stands before one of `escaped`; every other backslash is itself.
fn unescape<'a>(text: &'a str, escaped: &[u8]) -> Cow<'a, str> {
    let bytes = text.as_bytes();
    let mut copied = 0;
    let mut at = 0;
    let mut plain = String::new();
    while let Some(offset) = memchr::memchr(b'\\', &bytes[at..]) {
        at += offset;
        match bytes.get(at + 1) {
            Some(next) if escaped.contains(next) => {
                plain.push_str(&text[copied..at]);
                // The escaped character is copied with what follows it.
                copied = at + 1;
                at += 2;
            }
            _ => at += 1,
        }
    }
    if copied == 0 {
        return Cow::Borrowed(text);
    }
    plain.push_str(&text[copied..]);
    Cow::Owned(plain)
}
