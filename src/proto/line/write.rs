//! Writing a metric as one canonical line.

use super::keys::repeated;
use super::series::tag_keys;
use crate::proto::metric::{FieldValue, Metric};

/// Why a metric has no line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
pub enum Unwritable {
    /// Nothing is left of the name, or it begins with `#`, which would make the line a comment.
    #[error(
        "line protocol cannot hold this name: a name is not empty, does not begin with # and is more than backslashes"
    )]
    Name,
    /// Two tags have one key, as far as line protocol can hold their keys.
    #[error("a tag's key comes twice: leave out one of them")]
    Tags,
    /// No field has a key and a finite value.
    #[error("line protocol needs at least one field with a key and a finite value")]
    Fields,
}

/// Appends `metric` as one line of line protocol, without a newline; appends nothing if it has none.
///
/// What the format cannot hold is treated as Telegraf treats it: control characters in names become `\n`, `\r`, `\t` and
/// `\f` (two characters), byte order marks at the beginning of the measurement and backslashes at the end of a name are dropped, and so are tags and fields of which nothing is
/// left and fields that are NaN or infinite. Two tags with one key are refused, as readers refuse them.
pub fn write_metric(out: &mut Vec<u8>, metric: &Metric<'_>) -> Result<(), Unwritable> {
    let name = metric.name.trim_start_matches('\u{feff}').trim_end_matches('\\');
    if name.is_empty() || name.starts_with('#') {
        return Err(Unwritable::Name);
    }
    let start = out.len();
    write_escaped(out, name, b", ");
    for (key, value) in &metric.tags {
        let (key, value) = (key.trim_end_matches('\\'), value.trim_end_matches('\\'));
        if !key.is_empty() && !value.is_empty() {
            out.push(b',');
            write_escaped(out, key, b",= ");
            out.push(b'=');
            write_escaped(out, value, b",= ");
        }
    }
    let written = std::str::from_utf8(&out[start..]).unwrap_or_default();
    if repeated(tag_keys(written)).is_some() {
        out.truncate(start);
        return Err(Unwritable::Tags);
    }
    let mut separator = b' ';
    for (key, value) in &metric.fields {
        let key = key.trim_end_matches('\\');
        if !key.is_empty() && !matches!(value, FieldValue::Float(float) if !float.is_finite()) {
            out.push(separator);
            separator = b',';
            write_escaped(out, key, b",= ");
            out.push(b'=');
            write_value(out, value);
        }
    }
    if separator == b' ' {
        out.truncate(start);
        return Err(Unwritable::Fields);
    }
    if let Some(timestamp_ns) = metric.timestamp_ns {
        out.push(b' ');
        out.extend_from_slice(itoa::Buffer::new().format(timestamp_ns).as_bytes());
    }
    Ok(())
}

fn write_value(out: &mut Vec<u8>, value: &FieldValue<'_>) {
    match value {
        FieldValue::Float(value) => out.extend_from_slice(zmij::Buffer::new().format(*value).as_bytes()),
        FieldValue::Whole(value) => out.extend_from_slice(itoa::Buffer::new().format(*value).as_bytes()),
        FieldValue::Integer(value) => {
            out.extend_from_slice(itoa::Buffer::new().format(*value).as_bytes());
            out.push(b'i');
        }
        FieldValue::Unsigned(value) => {
            out.extend_from_slice(itoa::Buffer::new().format(*value).as_bytes());
            out.push(b'u');
        }
        FieldValue::Boolean(value) => out.extend_from_slice(if *value { b"true" } else { b"false" }),
        FieldValue::String(text) => {
            out.push(b'"');
            for byte in text.bytes() {
                if matches!(byte, b'"' | b'\\') {
                    out.push(b'\\');
                }
                out.push(byte);
            }
            out.push(b'"');
        }
    }
}

fn write_escaped(out: &mut Vec<u8>, text: &str, delimiters: &[u8]) {
    for byte in text.bytes() {
        match byte {
            b'\n' => out.extend_from_slice(b"\\n"),
            b'\r' => out.extend_from_slice(b"\\r"),
            b'\t' => out.extend_from_slice(b"\\t"),
            b'\x0c' => out.extend_from_slice(b"\\f"),
            _ => {
                if delimiters.contains(&byte) {
                    out.push(b'\\');
                }
                out.push(byte);
            }
        }
    }
}
