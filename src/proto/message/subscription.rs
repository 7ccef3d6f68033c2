//! What one session gets, and how clients spell it.

use std::str::FromStr;
use std::time::Duration;

use super::{ErrorCode, MessageError, listed, nearest, quoted};
use crate::proto::filter::{FilterSet, FilterSetError};
use crate::proto::offset::{Offset, OffsetError};

/// Shortest `interval`, in milliseconds: ten times a second is as fast as people read. Below it, every value is hardly more
/// than the newest one, and costs less to send.
pub const INTERVAL_MS_MIN: u32 = 100;
/// Longest `interval`, in milliseconds: one hour.
pub const INTERVAL_MS_MAX: u32 = 3_600_000;

/// Parameters of a session's first request; `token` is read by whoever checks it.
const SESSION: &[&str] = &["filter", "from", "lastEventId", "snapshot", "interval", "format", "token"];
/// Of these, those that an answer with the state of now has a use for.
const STATE: &[&str] = &["filter", "format", "token"];

/// Which parameters a request may have, and what they mean there.
#[derive(Clone, Copy, Debug, Default)]
pub struct Rules<'a> {
    /// The answer is the state of now: it begins nowhere and ends at once.
    pub state: bool,
    /// It is text that clients read line by line, so `format=influx` is the escaped form.
    pub lines: bool,
    /// What the transport has of its own, and reads itself.
    pub own: &'a [&'a str],
}

impl Rules<'_> {
    fn names(&self) -> Vec<&str> {
        [if self.state { STATE } else { SESSION }, self.own].concat()
    }

    fn unknown(&self, name: &str) -> MessageError {
        let (names, shown) = (self.names(), quoted(name));
        let known = listed(&names);
        let message = match nearest(bare(name), &names) {
            _ if self.state && SESSION.contains(&name) => format!(
                "the parameter {shown} means nothing to this answer, which is the state of now: there are {known}"
            ),
            Some(meant) => {
                format!("the parameter {shown} is unknown (did you mean `{meant}`?): there are {known}")
            }
            None => format!("the parameter {shown} is unknown: there are {known}"),
        };
        MessageError::new(ErrorCode::BadParameter, message)
    }
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
    /// Line protocol as it was written, times in nanoseconds: a line may span several physical ones.
    Influx,
    /// Line protocol of which each line is one physical line: see [`crate::proto::line::write_physical`].
    InfluxEscaped,
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
    /// own, are left to others. What event sources and caches add is understood: see [`extra`].
    pub fn from_query(parameters: &[(String, String)], rules: Rules<'_>) -> Result<Self, MessageError> {
        let (mut filters, mut last_event, mut from) = (Vec::new(), None, None);
        let mut change = SubscriptionChange::default();
        let names = rules.names();
        for (at, (name, value)) in parameters.iter().enumerate() {
            let is_known = names.contains(&name.as_str());
            match extra(name) {
                // An event source adds the newest id behind the parameters that it began with, or with the earlier one.
                Some(Extra::LastEventId) if !rules.state => {
                    last_event = Some(value.as_str()).filter(|id| !id.is_empty()).or(last_event);
                    continue;
                }
                // `_filter` is no cache buster, but a filter that would be lost.
                Some(Extra::Ignored)
                    if !nearest(bare(name), &names).is_some_and(|_| name.starts_with('_')) =>
                {
                    continue;
                }
                _ => {}
            }
            if !is_known {
                return Err(rules.unknown(name));
            }
            if name != "filter" && parameters[..at].iter().any(|(earlier, _)| earlier == name) {
                let message = format!("the parameter {} is given twice; only `filter` may be", quoted(name));
                return Err(MessageError::new(ErrorCode::BadParameter, message));
            }
            match name.as_str() {
                "filter" => filters.push(value.as_str()),
                "from" => from = Some(value.as_str()),
                "snapshot" => change.snapshot = Some(snapshot_text(value)?),
                "interval" => change.interval_ms = Some(interval_text(value)?),
                "format" => change.format = Some(Format::read(value, rules.lines)?),
                _ => {}
            }
        }
        change.from = last_event.or(from).map(str::parse).transpose()?;
        if !filters.is_empty() {
            change.filters = Some(FilterSet::parse(filters)?);
        }
        change.check()?;
        Ok(change.apply(&Self::default()))
    }
}

/// What others than the client's author add to a URL.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Extra {
    /// The id of the last event, from an event source that cannot send it as the header `Last-Event-ID`: browsers ask for
    /// permission before they send it to another origin.
    LastEventId,
    /// Something that makes each URL another one for caches, or that asks for what is there anyway.
    Ignored,
}

/// Names of cache busters, in lower case and without `-` and `_`. Besides them, whatever begins with an underscore is one (jQuery's
/// `_`), and what begins with `evs_` is a wish of eventsource-polyfill.
const CACHE_BUSTERS: &[&str] = &[
    "bust",
    "buster",
    "cache",
    "cachebreaker",
    "cachebust",
    "cachebuster",
    "cachebusting",
    "cb",
    "dc",
    "nc",
    "nocache",
    "nonce",
    "padding",
    "r",
    "rand",
    "random",
    "rnd",
    "t",
    "timestamp",
    "ts",
    "v",
    "zx",
];

/// What a parameter is that is none of ours, if it is known.
///
/// `lastEventId` has many spellings: `lastEventId` (event-source-polyfill, reconnecting-eventsource), `lastEventID` and
/// `Last-Event-ID` (Mercure), `evs_last_event_id` (eventsource-polyfill).
pub fn extra(name: &str) -> Option<Extra> {
    let plain: String =
        name.chars().filter(|c| !matches!(c, '-' | '_')).flat_map(char::to_lowercase).collect();
    match plain.as_str() {
        "lasteventid" | "evslasteventid" => Some(Extra::LastEventId),
        plain if CACHE_BUSTERS.contains(&plain) => Some(Extra::Ignored),
        _ if name.starts_with('_') || name.starts_with("evs_") => Some(Extra::Ignored),
        _ => None,
    }
}

fn bare(name: &str) -> &str {
    name.trim_start_matches('_')
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
            "influx" | "influx-raw" => Ok(Self::Influx),
            "influx-escaped" => Ok(Self::InfluxEscaped),
            _ => {
                let message =
                    format!("the format {} is unknown: there are {}", quoted(text), listed(&Self::NAMES));
                Err(MessageError::new(ErrorCode::BadFormat, message))
            }
        }
    }
}

impl Format {
    /// As clients write them. `influx` is the raw form where messages are frames of their own, and the escaped one where an answer
    /// is read line by line: see [`Rules::lines`].
    pub const NAMES: [&str; 4] = ["json", "influx", "influx-escaped", "influx-raw"];

    /// As a request spells it, whose answer may be read line by line.
    fn read(text: &str, lines: bool) -> Result<Self, MessageError> {
        if lines && text == "influx" { Ok(Self::InfluxEscaped) } else { text.parse() }
    }

    /// How many there are: `self as usize` is below it.
    pub const COUNT: usize = 3;

    /// Whether metrics come as line protocol.
    pub fn is_lines(self) -> bool {
        self != Self::Json
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
