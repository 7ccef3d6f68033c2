//! Reads clients' messages.

use std::fmt;

use serde_json::{Map, Value};

use super::subscription::{
    FROM_EXPECTED, Format, From, SubscriptionChange, check_snapshot, interval_text, snapshot_text,
};
use super::{ErrorCode, MessageError, listed, nearest, quoted};
use crate::proto::filter::{FilterSet, FilterSetError};
use crate::proto::printable::printable_json;

/// Longest textual [`Id`], in bytes: it is kept and sent back.
pub const ID_BYTES_MAX: usize = 64;

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
        /// See [`SubscriptionChange::snapshot`].
        snapshot: Option<bool>,
    },
    /// Asks for a `pong`.
    Ping {
        /// See [`Id`].
        id: Option<Id>,
    },
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
                Ok(Self::Subscribe { id, change: change_of(members)? })
            }
            "replay" => {
                refuse_unknown(members, known, &["id", "from", "snapshot"])?;
                let from = member(members, "from").map(from_of).transpose()?;
                let from = from.ok_or_else(|| {
                    MessageError::new(ErrorCode::BadFrom, format!("`replay` needs `from`: {FROM_EXPECTED}"))
                })?;
                let snapshot = member(members, "snapshot").map(snapshot_of).transpose()?;
                check_snapshot(snapshot, Some(&from))?;
                Ok(Self::Replay { id, from, snapshot })
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

const EXAMPLE: &str = r#"{"type":"subscribe","filter":"*.cpu"}, for example"#;
impl fmt::Display for Id {
    /// As JSON.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Number(number) => number.fmt(f),
            Self::Text(text) => f.write_str(&printable_json(&Value::from(text.as_str()).to_string())),
        }
    }
}

/// A member that is there and not null: JavaScript writes null for what it leaves out.
fn member<'a>(members: &'a Map<String, Value>, name: &str) -> Option<&'a Value> {
    members.get(name).filter(|value| !value.is_null())
}

fn refuse_unknown(members: &Map<String, Value>, of: &str, known: &[&str]) -> Result<(), MessageError> {
    match members.keys().find(|name| *name != "type" && !known.contains(&name.as_str())) {
        None => Ok(()),
        Some(name) => {
            let meant =
                nearest(name, known).map(|meant| format!(" (did you mean `{meant}`?)")).unwrap_or_default();
            let message =
                format!("`{of}` has no member {}{meant}: it has `type`, {}", quoted(name), listed(known));
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

fn change_of(members: &Map<String, Value>) -> Result<SubscriptionChange, MessageError> {
    let change = SubscriptionChange {
        filters: member(members, "filter").map(filters_of).transpose()?,
        from: member(members, "from").map(from_of).transpose()?,
        snapshot: member(members, "snapshot").map(snapshot_of).transpose()?,
        interval_ms: member(members, "interval").map(interval_of).transpose()?,
        format: member(members, "format").map(format_of).transpose()?,
    };
    change.check()?;
    Ok(change)
}

fn filters_of(value: &Value) -> Result<FilterSet, MessageError> {
    let wrong = |value: &Value| {
        let message = format!("`filter` is a string or an array of strings, not {}", kind(value));
        MessageError::new(ErrorCode::BadFilter, message)
    };
    match value {
        Value::String(text) => Ok(FilterSet::parse([text.as_str()])?),
        // Everything is asked for by leaving the member out: a list that came to be empty would cost a page more than it can take.
        Value::Array(values) if values.is_empty() => Err(FilterSetError::Empty.into()),
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

fn interval_of(value: &Value) -> Result<u32, MessageError> {
    match value {
        Value::Number(number) => interval_text(&number.to_string()),
        Value::String(text) => interval_text(text),
        other => interval_text(kind(other)),
    }
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
