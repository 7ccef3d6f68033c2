//! What one session gets, and how clients spell it.

use std::str::FromStr;
use std::time::Duration;

use super::{ErrorCode, MessageError, listed, quoted};
use crate::proto::filter::{FilterSet, FilterSetError};
use crate::proto::offset::{Offset, OffsetError};

/// Shortest `interval`, in milliseconds: ten times a second is as fast as people read. Below it, every value is hardly more
/// than the newest one, and costs less to send.
pub const INTERVAL_MS_MIN: u32 = 100;
/// Longest `interval`, in milliseconds: one hour.
pub const INTERVAL_MS_MAX: u32 = 3_600_000;

/// Parameters of a session's first request; `token` is read by whoever checks it.
const PARAMETERS: &[&str] = &["filter", "from", "snapshot", "interval", "format", "token"];

/// Where in the log a session begins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum From {
    /// After everything an offset has seen.
    Offset(Offset),
    /// With what comes next.
    Latest,
    /// With the oldest envelope still kept.
    Earliest,
    /// With what the log stored so long ago.
    Ago(Duration),
}

/// How metrics are written to the client.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Format {
    /// JSON objects, times in milliseconds.
    #[default]
    Json,
    /// Line protocol, times in nanoseconds.
    Influx,
}

/// What one session gets. The default is everything, live, as JSON.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Subscription {
    /// Which lines.
    pub filters: FilterSet,
    /// Where to begin; the latest, if nothing is said.
    pub from: Option<From>,
    /// Whether the last value of every matching series comes first.
    pub snapshot: bool,
    /// At most one value per series in so many milliseconds: the newest. Every value, if nothing is said.
    pub interval_ms: Option<u32>,
    /// How they are written.
    pub format: Format,
}

/// The parts of a [`Subscription`] that a request names; what it leaves out stays as it is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SubscriptionChange {
    /// See [`Subscription::filters`].
    pub filters: Option<FilterSet>,
    /// See [`Subscription::from`].
    pub from: Option<From>,
    /// See [`Subscription::snapshot`].
    pub snapshot: Option<bool>,
    /// See [`Subscription::interval_ms`]; 0 is every value.
    pub interval_ms: Option<u32>,
    /// See [`Subscription::format`].
    pub format: Option<Format>,
}

impl Subscription {
    /// Reads the parameters of a session's first request. `filter` may be repeated; `token`, and what a transport has of its
    /// `own`, are left to others.
    pub fn from_query(parameters: &[(String, String)], own: &[&str]) -> Result<Self, MessageError> {
        let mut filters = Vec::new();
        let mut change = SubscriptionChange::default();
        for (at, (name, value)) in parameters.iter().enumerate() {
            if name != "filter" && parameters[..at].iter().any(|(earlier, _)| earlier == name) {
                let message = format!("the parameter {} is given twice; only `filter` may be", quoted(name));
                return Err(MessageError::new(ErrorCode::BadParameter, message));
            }
            match name.as_str() {
                "filter" => filters.push(value.as_str()),
                "from" => change.from = Some(value.parse()?),
                "snapshot" => change.snapshot = Some(snapshot_text(value)?),
                "interval" => change.interval_ms = Some(interval_text(value)?),
                "format" => change.format = Some(value.parse()?),
                "token" => {}
                name if own.contains(&name) => {}
                unknown => {
                    let message = format!(
                        "the parameter {} is unknown: there are {}",
                        quoted(unknown),
                        listed(&[PARAMETERS, own].concat())
                    );
                    return Err(MessageError::new(ErrorCode::BadParameter, message));
                }
            }
        }
        if !filters.is_empty() {
            change.filters = Some(FilterSet::parse(filters)?);
        }
        change.check()?;
        Ok(change.apply(&Self::default()))
    }
}

impl SubscriptionChange {
    /// What a session gets after the change. `from` is not kept from before: it said where that began.
    pub fn apply(self, current: &Subscription) -> Subscription {
        Subscription {
            filters: self.filters.unwrap_or_else(|| current.filters.clone()),
            from: self.from,
            snapshot: self.snapshot.unwrap_or(current.snapshot),
            interval_ms: self.interval_ms.or(current.interval_ms).filter(|interval| *interval > 0),
            format: self.format.unwrap_or(current.format),
        }
    }

    /// Refuses what is possible alone and impossible together.
    pub(super) fn check(&self) -> Result<(), MessageError> {
        check_snapshot(self.snapshot, self.from.as_ref())
    }
}

/// A snapshot is the state of now, or of where the log cannot be followed from an offset on: old places are read from the log.
pub(super) fn check_snapshot(snapshot: Option<bool>, from: Option<&From>) -> Result<(), MessageError> {
    let word = match from {
        Some(From::Earliest) if snapshot == Some(true) => "`earliest`",
        Some(From::Ago(_)) if snapshot == Some(true) => "a time span",
        _ => return Ok(()),
    };
    let message = format!(
        "`snapshot` is the state of now, and does not go with `from` = {word}: leave out one of them, or give an offset"
    );
    Err(MessageError::new(ErrorCode::BadSnapshot, message))
}

pub(super) const FROM_EXPECTED: &str =
    "an offset token as a message gave it, `latest`, `earliest`, or a time span like `-30s` (ms, s, m, h)";

impl FromStr for From {
    type Err = MessageError;

    fn from_str(text: &str) -> Result<Self, MessageError> {
        let bad = |message: String| MessageError::new(ErrorCode::BadFrom, message);
        match text {
            "latest" => return Ok(Self::Latest),
            "earliest" => return Ok(Self::Earliest),
            _ => {}
        }
        // Tokens begin with a base64 letter of their version, never with a minus.
        if let Some(span) = text.strip_prefix('-') {
            return time_span(span).map(Self::Ago).ok_or_else(|| {
                bad(format!("{} is no time span: `from` takes {FROM_EXPECTED}", quoted(text)))
            });
        }
        text.parse::<Offset>().map(Self::Offset).map_err(|error| match error {
            OffsetError::Malformed => {
                bad(format!("{} is no offset: `from` takes {FROM_EXPECTED}", quoted(text)))
            }
            OffsetError::Damaged | OffsetError::Version(_) => bad(format!("{}: {error}", quoted(text))),
        })
    }
}

impl FromStr for Format {
    type Err = MessageError;

    fn from_str(text: &str) -> Result<Self, MessageError> {
        match text {
            "json" => Ok(Self::Json),
            "influx" => Ok(Self::Influx),
            _ => {
                let message =
                    format!("the format {} is unknown: there are `json` and `influx`", quoted(text));
                Err(MessageError::new(ErrorCode::BadFormat, message))
            }
        }
    }
}

impl Format {
    /// As clients write it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Json => "json",
            Self::Influx => "influx",
        }
    }
}

impl std::convert::From<FilterSetError> for MessageError {
    fn from(error: FilterSetError) -> Self {
        Self::new(ErrorCode::BadFilter, error.to_string())
    }
}

/// `30s`, `500ms`, `5m`, `1h`.
fn time_span(text: &str) -> Option<Duration> {
    let digits = text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    let (number, unit) = text.split_at(digits);
    let unit_ms = match unit {
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        _ => return None,
    };
    number.parse::<u64>().ok()?.checked_mul(unit_ms).map(Duration::from_millis)
}

pub(super) fn snapshot_text(text: &str) -> Result<bool, MessageError> {
    match text {
        "true" => Ok(true),
        "false" => Ok(false),
        _ => {
            let message = format!("`snapshot` is true or false, not {}", quoted(text));
            Err(MessageError::new(ErrorCode::BadSnapshot, message))
        }
    }
}

pub(super) fn interval_text(text: &str) -> Result<u32, MessageError> {
    let interval = text.parse().ok().filter(|interval| match interval {
        0 => true,
        some => (INTERVAL_MS_MIN..=INTERVAL_MS_MAX).contains(some),
    });
    interval.ok_or_else(|| {
        let message = format!(
            "`interval` is a whole number of milliseconds from {INTERVAL_MS_MIN} to {INTERVAL_MS_MAX}, or 0 for every value, \
             not {}",
            quoted(text)
        );
        MessageError::new(ErrorCode::BadInterval, message)
    })
}
