//! What a client asks for: channels, and lines by their tags.
//!
//! A filter is `<collector>.<measurement>`, optionally followed by tag predicates in braces:
//!
//! | filter | passes |
//! |---|---|
//! | `web-01.cpu` | one measurement of one collector |
//! | `*.cpu` | one measurement of every collector |
//! | `web-01.*` or `web-01.>` | everything of one collector |
//! | `*.*` or `>` | everything |
//! | `web.example.org.cpu` | `cpu` of the collector `web.example.org` |
//! | `*.disk%2Eio` | the measurement `disk.io` |
//! | `*.cpu{cpu=cpu-total,region=eu-*}` | lines of `cpu` whose tags match both predicates |
//!
//! **Parts.** The last dot divides: before it is the collector, after it the measurement. So host names need no
//! escapes, while a dot inside a measurement is written `%2E`, as on the bus. Any character may be written as `%XX`, and
//! these must be: dots of a measurement, spaces, control characters and `% * > { } , "`. A wildcard stands for a whole
//! part, as in NATS.
//!
//! **Predicates.** All must hold. `key=value` needs the tag; `key!=value` also passes lines without it. `*` in a value
//! stands for any run of characters, so `key=*` asks for the tag's presence and `key!=*` for its absence. Keys and values
//! with other characters go in double quotes, where `\"`, `\\` and `\*` stand for the characters themselves.
//!
//! Filters are canonical: two that were spelled differently but ask for the same parts and predicates are equal, which is
//! what lets sessions share a view.

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;

use crate::proto::channel::{Channel, CollectorIdError};

mod glob;
mod index;
mod parse;
mod set;
mod url;

use glob::Glob;
pub use index::{FilterIndex, Share, Ticket};
pub use set::{FILTERS_MAX, FilterSet, FilterSetError, Match};
pub use url::keep_escapes;

/// Longest filter accepted, in bytes: both names in full are 511, real filters below 100.
pub const FILTER_BYTES_MAX: usize = 1024;

/// Channels, and optionally only their lines with certain tags.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Filter {
    collector: Part,
    measurement: Part,
    /// Sorted, without duplicates.
    predicates: Box<[Predicate]>,
}

/// One half of a channel pattern.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Part {
    Any,
    Is(Box<str>),
}

/// A condition on one tag.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
struct Predicate {
    key: Box<str>,
    negated: bool,
    value: Glob,
}

impl Filter {
    /// Whether the channel's lines can pass; those of a filter with predicates then pass one by one.
    pub fn matches_channel(&self, channel: &Channel) -> bool {
        self.collector.matches(channel.collector.as_str()) && self.measurement.matches(&channel.measurement)
    }

    /// The collector and the measurement, where it names one.
    pub fn names(&self) -> (Option<&str>, Option<&str>) {
        (self.collector.name(), self.measurement.name())
    }

    /// Whether lines have to be looked at.
    pub fn has_predicates(&self) -> bool {
        !self.predicates.is_empty()
    }

    /// Whether a line of a matching channel passes, given a lookup of its tags' values.
    pub fn matches_tags<'a>(&self, tag: impl Fn(&str) -> Option<Cow<'a, str>>) -> bool {
        self.predicates.iter().all(|predicate| match tag(&predicate.key) {
            Some(value) => predicate.value.matches(&value) != predicate.negated,
            None => predicate.negated,
        })
    }

    /// Whether nothing at all is filtered out.
    pub fn is_everything(&self) -> bool {
        self.collector == Part::Any && self.measurement == Part::Any && !self.has_predicates()
    }

    fn everything() -> Self {
        Self { collector: Part::Any, measurement: Part::Any, predicates: Box::default() }
    }

    /// Whether everything that `other` passes passes here as well. Predicates are not compared with each other.
    fn covers(&self, other: &Self) -> bool {
        !self.has_predicates()
            && self.collector.covers(&other.collector)
            && self.measurement.covers(&other.measurement)
    }
}

impl Part {
    fn name(&self) -> Option<&str> {
        match self {
            Self::Any => None,
            Self::Is(name) => Some(name),
        }
    }

    fn matches(&self, name: &str) -> bool {
        match self {
            Self::Any => true,
            Self::Is(expected) => **expected == *name,
        }
    }

    fn covers(&self, other: &Self) -> bool {
        *self == Self::Any || self == other
    }
}

impl FromStr for Filter {
    type Err = FilterError;

    fn from_str(text: &str) -> Result<Self, FilterError> {
        parse::filter(text)
    }
}

impl fmt::Display for Filter {
    /// Only what must be escaped is, so the text is never longer than the one that was read.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.collector, &self.measurement) {
            (Part::Any, Part::Any) => f.write_str(">")?,
            (Part::Any, Part::Is(measurement)) => write!(f, "*.{}", escape_measurement(measurement))?,
            (Part::Is(collector), Part::Any) => write!(f, "{}.*", escape_collector(collector))?,
            (Part::Is(collector), Part::Is(measurement)) => {
                write!(f, "{}.{}", escape_collector(collector), escape_measurement(measurement))?;
            }
        }
        for (at, predicate) in self.predicates.iter().enumerate() {
            f.write_str(if at == 0 { "{" } else { "," })?;
            predicate.fmt(f)?;
        }
        f.write_str(if self.has_predicates() { "}" } else { "" })
    }
}

impl fmt::Display for Predicate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.key.chars().all(parse::is_bare) {
            f.write_str(&self.key)?;
        } else {
            write!(f, "\"{}\"", glob::escape_quoted(&self.key))?;
        }
        f.write_str(if self.negated { "!=" } else { "=" })?;
        self.value.fmt(f)
    }
}

/// Why a text is no filter, and where.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("column {column}: {kind}")]
pub struct FilterError {
    /// Which character, counted from 1.
    pub column: usize,
    /// What is wrong there.
    pub kind: FilterErrorKind,
}

/// What is wrong with a filter, said so that the right one can be written.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FilterErrorKind {
    /// Nothing there, or only spaces.
    #[error("the filter is empty: write `*.*` for everything, or leave it out")]
    Empty,
    /// Longer than [`FILTER_BYTES_MAX`].
    #[error("a filter has at most {FILTER_BYTES_MAX} bytes, this one has {0}: split it into several filters")]
    TooLong(usize),
    /// `*` alone.
    #[error(
        "`*` alone stands for one part of two: write `*.*` for everything, or `*.cpu` for one measurement"
    )]
    LoneStar,
    /// One name without a dot.
    #[error(
        "a filter is `<collector>.<measurement>`: write `*.{0}` for the measurement `{0}`, or `{0}.*` for the collector"
    )]
    OnePart(String),
    /// Two dots in a row, or one at an end.
    #[error("a part is missing here: write `*` where any name will do, `%2E` for a dot inside a measurement")]
    EmptyPart,
    /// `>` before the end.
    #[error("`>` stands for all the rest, so it comes last: write `*` for any collector")]
    RestNotLast,
    /// `web-*` in a channel.
    #[error(
        "a wildcard stands for a whole part, `*` or `>`: select by tags instead, as in `*.cpu{{host=web-*}}`, or write `%2A` or `%3E` for the character itself (`%252A` or `%253E` in a URL)"
    )]
    PartialWildcard,
    /// `*.example.org.cpu`, `*.disk.io`.
    #[error(
        "a filter has two parts, collector and measurement, and `*` stands for a whole one: write `*.<measurement>`, with `%2E` for a dot inside the measurement"
    )]
    TooManyParts,
    /// A character that has a meaning, or would be easily mistyped.
    #[error("{0:?} is written `{escape}` in a name (`{url}` in a URL){hint}", escape = percent(*.0), url = percent(*.0).replace('%', "%25"), hint = if *.0 == ',' { "; several filters are passed one by one" } else { "" })]
    Reserved(char),
    /// `%` without two hexadecimal digits.
    #[error("`%` begins an escape of two hexadecimal digits: write `%25` for the character itself")]
    BadEscape,
    /// Escapes that are no UTF-8.
    #[error("the `%XX` escapes of this name are not UTF-8")]
    NotUtf8,
    /// No such collector can exist.
    #[error("{0}")]
    Collector(CollectorIdError),
    /// `{}`.
    #[error("the braces are empty: write `{{tag=value}}`, or leave them out")]
    NoPredicates,
    /// No tag key where one belongs.
    #[error("a tag key belongs here, as in `{{cpu=cpu-total}}`")]
    KeyExpected,
    /// Neither `=` nor `!=` after the key.
    #[error("`=` or `!=` belongs here, as in `{{cpu=cpu-total}}` or `{{cpu!=cpu-total}}`")]
    OperatorExpected,
    /// No value after the operator.
    #[error(
        "a value belongs here: write `*` for any value (`tag=*` asks for the tag, `tag!=*` for its absence)"
    )]
    ValueExpected,
    /// `{ho*=a}`.
    #[error("a tag key is written in full; only values may hold `*`")]
    WildcardInKey,
    /// Something else than `,` or `}` after a predicate.
    #[error(
        "`,` or `}}` belongs here; a value with other characters goes in double quotes, as in `{{path=\"/my disk\"}}`"
    )]
    SeparatorExpected,
    /// A quote that never ends.
    #[error("this quote is not closed")]
    OpenQuote,
    /// An unknown escape in quotes.
    #[error("in quotes, `\\` goes before `\"`, `\\` or `*` only")]
    BadQuotedEscape,
    /// Text after the closing brace.
    #[error("nothing may follow the closing brace; several filters are passed one by one")]
    AfterBrace,
}

fn escape_measurement(name: &str) -> String {
    if name.is_empty() {
        return "%".to_owned();
    }
    name.chars().map(|c| if c == '.' || parse::is_reserved(c) { percent(c) } else { c.to_string() }).collect()
}

/// Dots stay as they are, except those that would leave a part empty.
fn escape_collector(name: &str) -> String {
    let mut escaped = String::with_capacity(name.len());
    for (at, character) in name.char_indices() {
        let empty_part = escaped.is_empty() || escaped.ends_with('.') || at + 1 == name.len();
        if parse::is_reserved(character) || character == '.' && empty_part {
            escaped.push_str(&percent(character));
        } else {
            escaped.push(character);
        }
    }
    escaped
}

fn percent(character: char) -> String {
    let mut buffer = [0; 4];
    character.encode_utf8(&mut buffer).bytes().map(|byte| format!("%{byte:02X}")).collect()
}

#[cfg(test)]
mod tests;
