//! Collector ids, channels, and their reversible spelling as NATS subject tokens.

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

use crate::proto::offset::Shard;

/// Longest collector id or measurement name accepted, in bytes. Escaping can triple it, and a NATS subject must stay
/// far below the server's control-line limit (4096 bytes): 2 × 3 × 255 + prefix < 2048.
pub const NAME_BYTES_MAX: usize = 255;

/// The collector of metrics whose origin nobody names.
pub const UNKNOWN_COLLECTOR: &str = "unknown";

/// Names one collector: the agent that pushes metrics. Cheap to clone.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct CollectorId(Arc<str>);

/// Why a text is no collector id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CollectorIdError {
    /// Nothing is left to name anybody by.
    #[error("a collector id is not empty")]
    Empty,
    /// Longer than [`NAME_BYTES_MAX`].
    #[error("a collector id has at most {NAME_BYTES_MAX} bytes, this one has {0}")]
    TooLong(usize),
    /// A control character, which no log line or terminal should have to show.
    #[error("a collector id holds no control characters")]
    Control,
}

impl CollectorId {
    /// Takes any printable text of 1 to [`NAME_BYTES_MAX`] bytes.
    pub fn new(text: &str) -> Result<Self, CollectorIdError> {
        if text.is_empty() {
            return Err(CollectorIdError::Empty);
        }
        if text.len() > NAME_BYTES_MAX {
            return Err(CollectorIdError::TooLong(text.len()));
        }
        if text.chars().any(char::is_control) {
            return Err(CollectorIdError::Control);
        }
        Ok(Self(Arc::from(text)))
    }

    /// [`UNKNOWN_COLLECTOR`].
    pub fn unknown() -> Self {
        Self(Arc::from(UNKNOWN_COLLECTOR))
    }

    /// The id as the collector gave it.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The shard this collector's envelopes always go to: a hash that is the same on every node and in every version.
    pub fn shard(&self, shards: u16) -> Shard {
        let hash = xxhash_rust::xxh3::xxh3_64(self.0.as_bytes());
        Shard((hash % u64::from(shards.max(1))) as u16)
    }
}

impl fmt::Display for CollectorId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for CollectorId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&*self.0, f)
    }
}

/// What clients filter on: one measurement of one collector, `<collector>.<measurement>`. Cheap to clone.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Channel {
    /// Who measured.
    pub collector: CollectorId,
    /// What was measured: the metric's name.
    pub measurement: Arc<str>,
}

impl Channel {
    /// Joins the two halves.
    pub fn new(collector: CollectorId, measurement: impl Into<Arc<str>>) -> Self {
        Self { collector, measurement: measurement.into() }
    }
}

/// Spells any text as one NATS subject token: everything outside letters, digits, `-` and `_` becomes `%XX`.
///
/// JetStream accepts a publish to the literal subjects `x.*` and `x.>`, so escaping is not optional.
pub fn escape_token(text: &str) -> Cow<'_, str> {
    if !text.is_empty() && text.bytes().all(is_plain) {
        return Cow::Borrowed(text);
    }
    if text.is_empty() {
        // A subject has no empty tokens; a lone `%` is no escape of anything else.
        return Cow::Borrowed("%");
    }
    let mut token = String::with_capacity(text.len() + 8);
    for byte in text.bytes() {
        if is_plain(byte) {
            token.push(char::from(byte));
        } else {
            const HEX: &[u8; 16] = b"0123456789ABCDEF";
            token.push('%');
            token.push(char::from(HEX[usize::from(byte >> 4)]));
            token.push(char::from(HEX[usize::from(byte & 15)]));
        }
    }
    Cow::Owned(token)
}

/// Reads a token back. Tokens written by others (Telegraf's `outputs.nats`) may hold anything: what is no escape of
/// ours stands for itself, and bytes that are no UTF-8 are replaced.
pub fn unescape_token(token: &str) -> Cow<'_, str> {
    if token == "%" {
        return Cow::Borrowed("");
    }
    if !token.contains('%') {
        return Cow::Borrowed(token);
    }
    let bytes = token.as_bytes();
    let mut text = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let escaped = (bytes[at] == b'%')
            .then(|| Some((hex_value(*bytes.get(at + 1)?)?, hex_value(*bytes.get(at + 2)?)?)))
            .flatten();
        match escaped {
            Some((high, low)) => {
                text.push(high << 4 | low);
                at += 3;
            }
            None => {
                text.push(bytes[at]);
                at += 1;
            }
        }
    }
    Cow::Owned(String::from_utf8(text).unwrap_or_else(|e| String::from_utf8_lossy(e.as_bytes()).into_owned()))
}

fn is_plain(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_'
}

fn hex_value(digit: u8) -> Option<u8> {
    char::from(digit).to_digit(16).map(|value| value as u8)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_token_holds_no_subject_syntax() {
        assert_eq!(escape_token("web-01"), "web-01");
        assert_eq!(escape_token("a.b"), "a%2Eb");
        assert_eq!(escape_token("*"), "%2A");
        assert_eq!(escape_token(">"), "%3E");
        assert_eq!(escape_token("100%"), "100%25");
        assert_eq!(escape_token(""), "%");
    }

    #[test]
    fn the_shard_of_a_collector_never_changes() {
        let id = CollectorId::new("web-01").unwrap();
        assert_eq!(id.shard(1), Shard(0));
        // Recorded once: a different value would move every collector's history to another stream.
        assert_eq!(id.shard(16), Shard((xxhash_rust::xxh3::xxh3_64(b"web-01") % 16) as u16));
    }

    #[test]
    fn a_collector_id_is_short_printable_text() {
        assert_eq!(CollectorId::new(""), Err(CollectorIdError::Empty));
        assert_eq!(CollectorId::new(&"x".repeat(256)), Err(CollectorIdError::TooLong(256)));
        assert_eq!(CollectorId::new("a\nb"), Err(CollectorIdError::Control));
        assert!(CollectorId::new("Zürich rack 7").is_ok());
    }

    proptest! {
        #[test]
        fn tokens_are_reversible(text in ".*") {
            let token = escape_token(&text).into_owned();
            prop_assert!(!token.is_empty());
            prop_assert!(token.bytes().all(|b| is_plain(b) || b == b'%'));
            prop_assert_eq!(unescape_token(&token), text);
        }

        #[test]
        fn foreign_tokens_never_panic(token in ".*") {
            let _ = unescape_token(&token);
        }
    }
}
