//! What clients ask for.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde_json::{Map, Value};

use super::ErrorCode;
use crate::proto::filter::{FilterSet, FilterSetError};
use crate::proto::offset::{Offset, OffsetError};

/// Longest textual [`Id`], in bytes: it is kept and sent back.
pub const ID_BYTES_MAX: usize = 64;

/// Longest `interval`, in milliseconds: one hour.
pub const INTERVAL_MS_MAX: u32 = 3_600_000;

/// Parameters of a session's first request; `token` is read by whoever checks it.
const PARAMETERS: &[&str] = &["filter", "from", "snapshot", "interval", "format", "token"];

/// A client's own name for a message, sent back with the answer.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Id {
    /// A whole number.
    Number(i64),
    /// Any text of up to [`ID_BYTES_MAX`] bytes.
    Text(String),
}

/// One message of a client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ClientMessage {
    /// Asks for something else from now on, or from another place.
    Subscribe {
        /// See [`Id`].
        id: Option<Id>,
        /// What is to change.
        change: SubscriptionChange,
    },
    /// Asks for the same again, from another place.
    Replay {
        /// See [`Id`].
        id: Option<Id>,
        /// Where to begin.
        from: From,
    },
    /// Asks for a `pong`.
    Ping {
        /// See [`Id`].
        id: Option<Id>,
    },
}

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
    /// At most one value per series in so many milliseconds.
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

impl ClientMessage {
    /// Reads one message: a JSON object with a `type`. The caller bounds its size.
    pub fn parse(bytes: &[u8]) -> Result<Self, MessageError> {
        let bad = |message: String| MessageError::new(ErrorCode::BadMessage, message);
        let value: Value = serde_json::from_slice(bytes)
            .map_err(|error| bad(format!("this message is not JSON: {error}; send {EXAMPLE}")))?;
        let Value::Object(members) = value else {
            return Err(bad(format!("a message is a JSON object, this is {}; send {EXAMPLE}", kind(&value))));
        };
        let id = members.get("id").filter(|id| !id.is_null()).map(id_of).transpose()?;
        Self::of_members(id.clone(), &members).map_err(|error| MessageError { id, ..error })
    }

    fn of_members(id: Option<Id>, members: &Map<String, Value>) -> Result<Self, MessageError> {
        let bad = |message: String| MessageError::new(ErrorCode::BadMessage, message);
        let known = match members.get("type") {
            Some(Value::String(kind)) => kind.as_str(),
            Some(other) => return Err(bad(format!("`type` is a string, this is {}", kind(other)))),
            None => return Err(bad(format!("the member `type` is missing: send {EXAMPLE}"))),
        };
        match known {
            "subscribe" => {
                refuse_unknown(members, known, &["id", "filter", "from", "snapshot", "interval", "format"])?;
                Ok(Self::Subscribe { id, change: SubscriptionChange::of_members(members)? })
            }
            "replay" => {
                refuse_unknown(members, known, &["id", "from"])?;
                let from = member(members, "from").map(from_of).transpose()?;
                let from = from.ok_or_else(|| {
                    MessageError::new(ErrorCode::BadFrom, format!("`replay` needs `from`: {FROM_EXPECTED}"))
                })?;
                Ok(Self::Replay { id, from })
            }
            "ping" => {
                refuse_unknown(members, known, &["id"])?;
                Ok(Self::Ping { id })
            }
            other => Err(bad(format!(
                "the type {} is unknown: a client sends `subscribe`, `replay` or `ping`",
                quoted(other)
            ))),
        }
    }
}

impl Subscription {
    /// Reads the parameters of a session's first request. `filter` may be repeated; `token` is left to others.
    pub fn from_query(parameters: &[(String, String)]) -> Result<Self, MessageError> {
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
                unknown => {
                    let message = format!(
                        "the parameter {} is unknown: there are {}",
                        quoted(unknown),
                        listed(PARAMETERS)
                    );
                    return Err(MessageError::new(ErrorCode::BadParameter, message));
                }
            }
        }
        if !filters.is_empty() {
            change.filters = Some(FilterSet::parse(filters)?);
        }
        change.refuse_unserved()?;
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

    fn of_members(members: &Map<String, Value>) -> Result<Self, MessageError> {
        let change = Self {
            filters: member(members, "filter").map(filters_of).transpose()?,
            from: member(members, "from").map(from_of).transpose()?,
            snapshot: member(members, "snapshot").map(snapshot_of).transpose()?,
            interval_ms: member(members, "interval").map(interval_of).transpose()?,
            format: member(members, "format").map(format_of).transpose()?,
        };
        change.refuse_unserved()?;
        Ok(change)
    }

    /// The one place that says what the protocol has and this server does not.
    fn refuse_unserved(&self) -> Result<(), MessageError> {
        let unserved = |what: &str| {
            let message = format!("this server does not serve {what}: leave it out");
            Err(MessageError::new(ErrorCode::Unsupported, message))
        };
        if self.snapshot == Some(true) {
            return unserved("`snapshot`");
        }
        if self.interval_ms.is_some_and(|interval| interval > 0) {
            return unserved("`interval`");
        }
        Ok(())
    }
}

const EXAMPLE: &str = r#"{"type":"subscribe","filter":"*.cpu"}, for example"#;
const FROM_EXPECTED: &str =
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
            OffsetError::Version(_) => bad(error.to_string()),
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

impl fmt::Display for Id {
    /// As JSON.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Number(number) => number.fmt(f),
            Self::Text(text) => Value::from(text.as_str()).fmt(f),
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

/// A member that is there and not null: JavaScript writes null for what it leaves out.
fn member<'a>(members: &'a Map<String, Value>, name: &str) -> Option<&'a Value> {
    members.get(name).filter(|value| !value.is_null())
}

fn refuse_unknown(members: &Map<String, Value>, of: &str, known: &[&str]) -> Result<(), MessageError> {
    match members.keys().find(|name| *name != "type" && !known.contains(&name.as_str())) {
        None => Ok(()),
        Some(name) => {
            let message = format!("`{of}` has no member {}: it has `type`, {}", quoted(name), listed(known));
            Err(MessageError::new(ErrorCode::BadMessage, message))
        }
    }
}

fn id_of(value: &Value) -> Result<Id, MessageError> {
    let id = match value {
        Value::Number(number) => number.as_i64().map(Id::Number),
        Value::String(text) if text.len() <= ID_BYTES_MAX => Some(Id::Text(text.clone())),
        _ => None,
    };
    id.ok_or_else(|| {
        let message = format!("`id` is a whole number or a string of at most {ID_BYTES_MAX} bytes");
        MessageError::new(ErrorCode::BadMessage, message)
    })
}

fn filters_of(value: &Value) -> Result<FilterSet, MessageError> {
    let wrong = |value: &Value| {
        let message = format!("`filter` is a string or an array of strings, not {}", kind(value));
        MessageError::new(ErrorCode::BadFilter, message)
    };
    match value {
        Value::String(text) => Ok(FilterSet::parse([text.as_str()])?),
        Value::Array(values) => {
            let texts: Vec<&str> = values
                .iter()
                .map(|value| value.as_str().ok_or_else(|| wrong(value)))
                .collect::<Result<_, _>>()?;
            Ok(FilterSet::parse(texts)?)
        }
        other => Err(wrong(other)),
    }
}

fn from_of(value: &Value) -> Result<From, MessageError> {
    match value {
        Value::String(text) => text.parse(),
        other => {
            let message = format!("`from` is a string, not {}: {FROM_EXPECTED}", kind(other));
            Err(MessageError::new(ErrorCode::BadFrom, message))
        }
    }
}

fn snapshot_of(value: &Value) -> Result<bool, MessageError> {
    match value {
        Value::Bool(snapshot) => Ok(*snapshot),
        Value::String(text) => snapshot_text(text),
        _ => snapshot_text(kind(value)),
    }
}

fn snapshot_text(text: &str) -> Result<bool, MessageError> {
    match text {
        "true" => Ok(true),
        "false" => Ok(false),
        _ => {
            let message = format!("`snapshot` is true or false, not {}", quoted(text));
            Err(MessageError::new(ErrorCode::BadSnapshot, message))
        }
    }
}

fn interval_of(value: &Value) -> Result<u32, MessageError> {
    match value {
        Value::Number(number) => interval_text(&number.to_string()),
        Value::String(text) => interval_text(text),
        other => interval_text(kind(other)),
    }
}

fn interval_text(text: &str) -> Result<u32, MessageError> {
    text.parse().ok().filter(|interval| *interval <= INTERVAL_MS_MAX).ok_or_else(|| {
        let message = format!(
            "`interval` is a whole number of milliseconds up to {INTERVAL_MS_MAX}, not {}",
            quoted(text)
        );
        MessageError::new(ErrorCode::BadInterval, message)
    })
}

fn format_of(value: &Value) -> Result<Format, MessageError> {
    match value {
        Value::String(text) => text.parse(),
        other => kind(other).parse(),
    }
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "an array",
        Value::Object(_) => "an object",
    }
}

fn listed(names: &[&str]) -> String {
    names.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ")
}

/// What a client wrote, repeated in an error: shortened, and without control characters.
fn quoted(text: &str) -> String {
    const SHOWN_CHARACTERS_MAX: usize = 40;
    let shown: String = text.chars().take(SHOWN_CHARACTERS_MAX).flat_map(char::escape_debug).collect();
    format!("`{shown}{}`", if text.chars().nth(SHOWN_CHARACTERS_MAX).is_some() { "…" } else { "" })
}
