//! What clients and servers say to each other, byte for byte.
//!
//! [`subscription`] is what a session gets, also as the parameters of its first request; [`client`] reads clients'
//! messages; [`server`] writes the answers; [`close`] is the table of close codes, [`interval`] that of intervals. An error names what was wrong and what
//! would have been right.

pub mod client;
pub mod close;
pub mod interval;
pub mod server;
pub mod subscription;

pub use client::{ClientMessage, Id};
pub use close::{CloseCode, Reconnect};
pub use interval::interval_served;
pub use server::{
    Conflated, GapReason, GoodbyeReason, Incomplete, ServerMessage, SnapshotPart, kind, write_conflated_open,
    write_influx_conflated_head, write_influx_head, write_influx_incomplete, write_influx_snapshot_head,
    write_metrics_open, write_snapshot_open,
};
pub use subscription::{Format, From, Rules, Subscription, SubscriptionChange};

use crate::proto::printable::printable;

/// Version of the protocol, as `welcome` announces it.
pub const PROTOCOL_VERSION: u32 = 1;

/// What kind of mistake an error is about; stable, for programs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ErrorCode {
    /// A filter cannot be read.
    BadFilter,
    /// `from` is no offset, word or time span.
    BadFrom,
    /// `format` is unknown.
    BadFormat,
    /// `interval` is no number of milliseconds, or too short or too long.
    BadInterval,
    /// `snapshot` is neither true nor false, or goes with a `from` that says something else.
    BadSnapshot,
    /// A parameter of the request is unknown or given twice.
    BadParameter,
    /// The client, or the node, has as many distinct views as it may.
    TooManyViews,
    /// A message is no JSON object, or has an unknown type or member.
    BadMessage,
    /// A message is larger than the node reads.
    TooLarge,
    /// Messages come too fast.
    RateLimited,
    /// The token is missing, wrong or expired.
    Unauthorized,
    /// The log cannot be reached; the same request may succeed later.
    Unavailable,
}

impl ErrorCode {
    /// As messages carry it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::BadFilter => "bad_filter",
            Self::BadFrom => "bad_from",
            Self::BadFormat => "bad_format",
            Self::BadInterval => "bad_interval",
            Self::BadSnapshot => "bad_snapshot",
            Self::BadParameter => "bad_parameter",
            Self::TooManyViews => "too_many_views",
            Self::BadMessage => "bad_message",
            Self::TooLarge => "too_large",
            Self::RateLimited => "rate_limited",
            Self::Unauthorized => "unauthorized",
            Self::Unavailable => "unavailable",
        }
    }
}

/// Why a message or a request was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct MessageError {
    /// The refused message's id, if it could be read.
    pub id: Option<Id>,
    /// For programs.
    pub code: ErrorCode,
    /// What is wrong and what would be right, for people.
    pub message: String,
}

impl MessageError {
    /// An error that belongs to no message in particular.
    pub fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        Self { id: None, code, message: message.into() }
    }
}

fn listed(names: &[&str]) -> String {
    names.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ")
}

/// The name that is spelled most like `name`, if one is close.
fn nearest<'a>(name: &str, among: &[&'a str]) -> Option<&'a str> {
    // Below this similarity a guess confuses more than it helps (`filters` scores 0.97, `intreval` 0.95, `since` nothing).
    const SIMILARITY_MIN: f64 = 0.85;
    // What is longer is none of ours, and would take long to compare.
    const NAME_BYTES_MAX: usize = 64;
    let name = name.get(..name.len().min(NAME_BYTES_MAX))?.to_lowercase();
    let near = among.iter().map(|known| (strsim::jaro_winkler(&name, &known.to_lowercase()), *known));
    let near = near.filter(|(similarity, _)| *similarity >= SIMILARITY_MIN);
    near.max_by(|(left, _), (right, _)| left.total_cmp(right)).map(|(_, known)| known)
}

/// What a client wrote, repeated in an error: shortened, and without characters that steer a terminal.
fn quoted(text: &str) -> String {
    const SHOWN_CHARACTERS_MAX: usize = 40;
    let shown: String = text.chars().take(SHOWN_CHARACTERS_MAX).collect();
    let shown = printable(&shown);
    format!("`{shown}{}`", if text.chars().nth(SHOWN_CHARACTERS_MAX).is_some() { "…" } else { "" })
}

#[cfg(test)]
mod tests;
