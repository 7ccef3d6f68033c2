//! Telegraf JSON to metrics.

use std::borrow::Cow;
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::fmt;

use serde::de::{Deserialize, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};

use super::split::{self, Piece};
use crate::proto::line::{LineFault, Precision, repeated};
use crate::proto::metric::{FieldValue, Metric};

/// A metric that was not accepted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("metrics[{index}]: {kind}")]
pub struct JsonError {
    /// Which metric of the input, from 0.
    pub index: usize,
    /// What is wrong with it.
    pub kind: JsonErrorKind,
}

/// What is wrong with a metric in JSON. Keys are shortened to [`KEY_CHARACTERS_MAX`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum JsonErrorKind {
    /// The input is no JSON that could hold metrics.
    #[error("this is not Telegraf JSON: send an object, an array of objects, or {{\"metrics\":[…]}}")]
    NotJson,
    /// Bytes that are no UTF-8.
    #[error("this is not UTF-8 text")]
    InvalidUtf8,
    /// Something other than an object in an array of metrics.
    #[error("a metric is an object with name, fields, and optionally tags and timestamp")]
    NotAnObject,
    /// The input ends before the metric does; what follows is unknown.
    #[error("the input ends before this metric does")]
    Truncated,
    /// Text between metrics; what follows it is not read.
    #[error(
        "metrics are separated by a comma in an array, by white space outside: nothing after this was read"
    )]
    Garbage,
    /// The object itself is no JSON.
    #[error("this is not JSON: {0}")]
    Syntax(String),
    /// No `name`, or one that is no text or empty.
    #[error("`name` must be a text that is not empty")]
    Name,
    /// `tags` is no object.
    #[error("`tags` must be an object of texts")]
    Tags,
    /// A tag that comes twice.
    #[error("the tag `{0}` comes twice: leave out one of them")]
    RepeatedTag(String),
    /// A tag's value is no text.
    #[error("the tag `{0}` must be a text")]
    TagValue(String),
    /// `fields` is missing or no object, or holds nothing but null.
    #[error("`fields` must be an object with at least one number, text or boolean")]
    Fields,
    /// A field's value is an object or array.
    #[error("the field `{0}` must be a number, a text or a boolean")]
    FieldValue(String),
    /// `timestamp` is no number.
    #[error("`timestamp` must be a number")]
    Timestamp,
    /// The time does not fit in 64 bits of nanoseconds.
    #[error("this timestamp does not fit in 64 bits of nanoseconds: is the precision right?")]
    TimestampOutOfRange,
}

/// Longest key that an error repeats, in characters.
pub const KEY_CHARACTERS_MAX: usize = 64;

impl JsonErrorKind {
    /// The counter this belongs to.
    pub fn rejection(&self) -> LineFault {
        match self {
            Self::InvalidUtf8 => LineFault::Utf8,
            Self::TimestampOutOfRange => LineFault::Range,
            Self::NotJson
            | Self::NotAnObject
            | Self::Truncated
            | Self::Garbage
            | Self::Syntax(_)
            | Self::Name
            | Self::Tags
            | Self::RepeatedTag(_)
            | Self::TagValue(_)
            | Self::Fields
            | Self::FieldValue(_)
            | Self::Timestamp => LineFault::Syntax,
        }
    }
}

/// Reads what Telegraf's JSON serializer writes: `{"metrics":[…]}`, one metric, an array of metrics, and any of these one
/// after the other. A bad metric never costs its neighbours. The outer error: the input begins like no JSON at all.
///
/// Telegraf's timestamps are seconds unless it is configured otherwise. Null fields are skipped, keys that are not Telegraf's are
/// ignored. All numbers of fields are floats, as in Telegraf's own parser: Telegraf writes the float 2.0 as `2`, so an integer in
/// JSON says nothing about the type of its field. One that is written as an integer keeps all its digits.
pub fn decode(input: &[u8], precision: Precision) -> Result<Vec<Result<Metric<'_>, JsonError>>, JsonError> {
    let mut metrics = Vec::new();
    let readable = split::pieces(input, |piece| {
        let index = metrics.len();
        metrics.push(metric_of(piece, precision).map_err(|kind| JsonError { index, kind }));
    });
    if readable { Ok(metrics) } else { Err(JsonError { index: 0, kind: JsonErrorKind::NotJson }) }
}

fn metric_of(piece: Piece<'_>, precision: Precision) -> Result<Metric<'_>, JsonErrorKind> {
    let object = match piece {
        Piece::Object(object) => object,
        Piece::Other => return Err(JsonErrorKind::NotAnObject),
        Piece::Truncated => return Err(JsonErrorKind::Truncated),
        Piece::Garbage => return Err(JsonErrorKind::Garbage),
    };
    let text = std::str::from_utf8(object).map_err(|_| JsonErrorKind::InvalidUtf8)?;
    let value = serde_json::from_str(text).map_err(|error| JsonErrorKind::Syntax(error.to_string()))?;
    let Value::Object(entries) = value else { return Err(JsonErrorKind::NotAnObject) };

    let (mut name, mut tags, mut fields, mut timestamp) =
        (Value::Null, Value::Null, Value::Null, Value::Null);
    for (key, value) in entries {
        match &*key {
            "name" => name = value,
            "tags" => tags = value,
            "fields" => fields = value,
            "timestamp" => timestamp = value,
            _ => {}
        }
    }
    Ok(Metric {
        name: match name {
            Value::Text(name) if !name.is_empty() => name,
            _ => return Err(JsonErrorKind::Name),
        },
        tags: tags_of(tags)?,
        fields: fields_of(fields)?,
        timestamp_ns: time_of(&timestamp, precision)?,
    })
}

type Tags<'a> = Vec<(Cow<'a, str>, Cow<'a, str>)>;
type Fields<'a> = Vec<(Cow<'a, str>, FieldValue<'a>)>;

fn tags_of(tags: Value<'_>) -> Result<Tags<'_>, JsonErrorKind> {
    match tags {
        Value::Null => Ok(Vec::new()),
        Value::Object(entries) => {
            if let Some((_, key)) = repeated(entries.iter().map(|(key, _)| &**key)) {
                return Err(JsonErrorKind::RepeatedTag(shortened(key)));
            }
            let tags = entries.into_iter().map(|(key, value)| match value {
                Value::Text(text) => Ok((key, text)),
                _ => Err(JsonErrorKind::TagValue(shortened(&key))),
            });
            tags.collect()
        }
        _ => Err(JsonErrorKind::Tags),
    }
}

fn fields_of(fields: Value<'_>) -> Result<Fields<'_>, JsonErrorKind> {
    let Value::Object(entries) = fields else { return Err(JsonErrorKind::Fields) };
    let entries = last_of_each(entries);
    let mut fields = Vec::with_capacity(entries.len());
    for (key, value) in entries {
        let value = match value {
            Value::Null => continue,
            Value::Boolean(value) => FieldValue::Boolean(value),
            Value::Integer(value) => FieldValue::Whole(value.into()),
            Value::Unsigned(value) => FieldValue::Whole(value.into()),
            Value::Float(value) => FieldValue::Float(value),
            Value::Text(text) => FieldValue::String(text),
            Value::Object(_) | Value::Array => return Err(JsonErrorKind::FieldValue(shortened(&key))),
        };
        fields.push((key, value));
    }
    if fields.is_empty() { Err(JsonErrorKind::Fields) } else { Ok(fields) }
}

/// Of a member that comes twice the last counts, as in line protocol.
fn last_of_each<'a>(entries: Vec<(Cow<'a, str>, Value<'a>)>) -> Vec<(Cow<'a, str>, Value<'a>)> {
    if repeated(entries.iter().map(|(key, _)| &**key)).is_none() {
        return entries;
    }
    let mut places: HashMap<Cow<'a, str>, usize> = HashMap::new();
    let mut last = Vec::with_capacity(entries.len());
    for (key, value) in entries {
        match places.entry(key.clone()) {
            Entry::Occupied(place) => last[*place.get()] = (key, value),
            Entry::Vacant(place) => {
                place.insert(last.len());
                last.push((key, value));
            }
        }
    }
    last
}

fn time_of(timestamp: &Value<'_>, precision: Precision) -> Result<Option<i64>, JsonErrorKind> {
    let time_ns = match *timestamp {
        Value::Null => return Ok(None),
        Value::Integer(raw) => precision.to_nanoseconds(raw),
        Value::Unsigned(_) => None,
        Value::Float(raw) => float_nanoseconds(raw, precision),
        Value::Boolean(_) | Value::Text(_) | Value::Object(_) | Value::Array => {
            return Err(JsonErrorKind::Timestamp);
        }
    };
    time_ns.map(Some).ok_or(JsonErrorKind::TimestampOutOfRange)
}

/// Whole units and their fraction apart: together they have more digits than a float.
fn float_nanoseconds(raw: f64, precision: Precision) -> Option<i64> {
    // 2^63: the cast saturates from there on, which would pass for a real time.
    const LIMIT: f64 = 9_223_372_036_854_775_808.0;
    let whole = raw.floor();
    let fraction_ns = (raw - whole) * precision.unit_ns() as f64;
    let whole_ns = (-LIMIT..LIMIT).contains(&whole).then(|| precision.to_nanoseconds(whole as i64))??;
    whole_ns.checked_add(fraction_ns.round() as i64)
}

fn shortened(key: &str) -> String {
    key.chars().take(KEY_CHARACTERS_MAX).collect()
}

/// Any JSON: so that a value of the wrong kind is an answer, not the end of parsing.
enum Value<'a> {
    Null,
    Boolean(bool),
    Integer(i64),
    /// Above the largest `i64` only.
    Unsigned(u64),
    Float(f64),
    Text(Cow<'a, str>),
    Object(Vec<(Cow<'a, str>, Value<'a>)>),
    /// Nothing here is made of arrays.
    Array,
}

impl<'de> Deserialize<'de> for Value<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ValueVisitor)
    }
}

struct ValueVisitor;

impl<'de> Visitor<'de> for ValueVisitor {
    type Value = Value<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> Result<Value<'de>, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value<'de>, E> {
        Ok(Value::Boolean(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value<'de>, E> {
        Ok(Value::Integer(value))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value<'de>, E> {
        Ok(i64::try_from(value).map_or(Value::Unsigned(value), Value::Integer))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value<'de>, E> {
        Ok(Value::Float(value))
    }

    fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Value<'de>, E> {
        Ok(Value::Text(Cow::Borrowed(text)))
    }

    fn visit_str<E>(self, text: &str) -> Result<Value<'de>, E> {
        Ok(Value::Text(Cow::Owned(text.to_owned())))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut elements: A) -> Result<Value<'de>, A::Error> {
        while elements.next_element::<IgnoredAny>()?.is_some() {}
        Ok(Value::Array)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value<'de>, A::Error> {
        let mut entries = Vec::new();
        while let Some(key) = map.next_key::<Key<'de>>()? {
            entries.push((key.0, map.next_value()?));
        }
        Ok(Value::Object(entries))
    }
}

struct Key<'a>(Cow<'a, str>);

impl<'de> Deserialize<'de> for Key<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match deserializer.deserialize_str(ValueVisitor)? {
            Value::Text(key) => Ok(Self(key)),
            _ => Err(serde::de::Error::custom("a key is a text")),
        }
    }
}
