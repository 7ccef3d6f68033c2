//! What clients and servers say to each other, byte for byte.
//!
//! [`client`] reads what clients ask for, in messages and in the parameters of the first request; [`server`] writes the
//! answers; [`close`] is the table of close codes. An error names what was wrong and what would have been right.

pub mod client;
pub mod close;
pub mod server;

pub use client::{ClientMessage, Format, From, Id, MessageError, Subscription, SubscriptionChange};
pub use close::{CloseCode, Reconnect};
pub use server::{GapReason, GoodbyeReason, ServerMessage, write_influx_head, write_metrics_open};

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
    /// `interval` is no number of milliseconds.
    BadInterval,
    /// `snapshot` is neither true nor false.
    BadSnapshot,
    /// A parameter of the request is unknown or given twice.
    BadParameter,
    /// A message is no JSON object, or has an unknown type or member.
    BadMessage,
    /// Understood, but not served by this node.
    Unsupported,
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
            Self::BadMessage => "bad_message",
            Self::Unsupported => "unsupported",
            Self::TooLarge => "too_large",
            Self::RateLimited => "rate_limited",
            Self::Unauthorized => "unauthorized",
            Self::Unavailable => "unavailable",
        }
    }
}
